"""The proof tells what is left of a person from coincidences, and an erasure comes to an end whatever it finds."""

from __future__ import annotations

import json
from datetime import UTC, datetime, timedelta

import polars as pl
import pytest
import sqlalchemy as sa

from hfthot_platform.core.errors import (
    BadRequestError,
    ErasureUnverifiedError,
    InvalidCredentialsError,
    PermissionDeniedError,
    PrivacyError,
)
from hfthot_platform.interfaces.doctor import diagnose
from hfthot_platform.services.accounts.accounts import Accounts
from hfthot_platform.services.accounts.records import Request
from hfthot_platform.services.privacy import erasure as module
from hfthot_platform.services.privacy.certificate import verify
from hfthot_platform.services.privacy.erasure import delete_user_permanent, expire_sealed, public_key, run_erasure
from hfthot_platform.services.privacy.erasure_requests import list_erasures, pending_erasures, request_erasure
from hfthot_platform.services.privacy.export import export_user_data
from hfthot_platform.services.privacy.hits import accept_erasure_hit, erasure_hits
from hfthot_platform.services.privacy.proof.scan import Folder, Needle, scan
from hfthot_platform.services.privacy.search_values import SearchValues
from hfthot_platform.services.privacy.searched_places import searched_places
from hfthot_platform.services.privacy.words import is_own_text
from hfthot_platform.services.publication.publisher import flush
from hfthot_platform.storage.operational import schema
from hfthot_platform.storage.operational.places import UsedPlace, used_places
from tests.privacy.conftest import NOW
from tests.privacy.people import YAN, ZOE, Person, register

#: Whose first name is a symbol, whose last name is a word of this platform, and whose initials are few.
CASHY = Person(
    "cashy_tables",
    "cashy@bücher.example.org",
    "Cashy",
    "Tables",
    "192.168.1.7",
    "PAR1",
    "ck_0123456789abcdef",
)
HASH = "$argon2id$v=19$m=8,t=1,p=1$bm9ib2R5$bm9ib2R5a25vd3M"


def bars(symbol):
    start = datetime(2024, 3, 1, tzinfo=UTC)
    ts = [start + timedelta(minutes=minutes) for minutes in range(50)]
    flat = pl.Series([100.0] * 50)
    return pl.DataFrame(
        {
            "ts": pl.Series(ts, dtype=pl.Datetime("us", "UTC")),
            "ts_close": pl.Series([time + timedelta(minutes=1) for time in ts], dtype=pl.Datetime("us", "UTC")),
            "venue": ["simulated"] * 50,
            "symbol": [symbol] * 50,
            **dict.fromkeys(("open", "high", "low", "close", "volume", "quote_volume"), flat),
            "trades": [1] * 50,
            "buy_volume": [0.5] * 50,
            "final": [True] * 50,
            "origin": ["vendor"] * 50,
            "source": ["synthetic"] * 50,
            "source_ref": ["made up"] * 50,
        }
    )


@pytest.mark.soak
def test_words_symbols_shared_hashes_strangers_and_other_people_do_not_keep_an_erasure_from_its_proof(
    accounts, lake, settings, tmp_path
):
    lake.table("market.bars_1m").append(bars("CASHY-USDT"))
    user = register(accounts, CASHY)
    accounts.update_user(user.user_id, preferences={"watchlist": ["CASHY-USDT"], "note": "ALPHA-USDT"})
    other = register(accounts, YAN)
    stranger = Request(ip="198.51.100.200", user_agent="PAR1")
    with pytest.raises(InvalidCredentialsError):
        accounts.login(CASHY.username, "a wild guess", request=stranger)
    with accounts.store.transaction() as tx:
        # As accounts had it that were imported together.
        tx.execute(sa.update(schema.users).values(password_hash=HASH))
        # What somebody else typed is another person's row.
        tx.execute(
            sa.update(schema.provider_keys)
            .where(schema.provider_keys.c.subject_id == accounts.subject_of(other.user_id))
            .values(provider="cashy_tables")
        )
    flush(accounts.store, lake)
    accounts.update_user(other.user_id, preferences={"friend": CASHY.email})
    export_user_data(accounts, lake, other.user_id)
    settings.scratch.mkdir(parents=True, exist_ok=True)
    (settings.scratch / "run.log").write_text("Tables: 7; case CASHY-USDT from 192.168.1.7 by 198.51.100.200 with PAR1")

    certificate = delete_user_permanent(accounts, lake, user.user_id)

    found = certificate.verification
    assert set(found["searched_values"]) == {
        "email", "envelope", "first_name", "full_name", "key_hash", "lookup", "secret", "token_hash", "user_id",
        "username", "wrapped_key",
    }  # fmt: skip
    assert found["searched_values"]["email"] == 2
    assert [tuple(skipped) for skipped in found["not_searched"] if "too short" not in skipped[1]] == [
        ("first_name", "a word of market.bars_1m"),
        ("ip", "an address that many machines share"),
        ("last_name", "a word of the platform's own texts"),
        ("password_hash", "several accounts share it"),
    ]
    assert {"email, another person's export", "username, another person's row"} <= set(found["coincidences"])
    assert found["found_before"]["user_id"] > 0
    assert certificate.concerns(user.user_id)
    assert not certificate.concerns(other.user_id)
    assert "No Dagster folder is configured" in " ".join(certificate.limits)


@pytest.fixture
def failed(accounts, lake, settings):
    """A request whose proof failed: the person's address is in a file of the landing folder."""
    user = register(accounts, ZOE)
    flush(accounts.store, lake)
    settings.landing.mkdir(parents=True)
    (settings.landing / f"of {ZOE.username}.txt").write_text(f"ask {ZOE.email} about it")
    request_id = request_erasure(accounts, user.user_id)
    with pytest.raises(ErasureUnverifiedError, match=f"hfthot privacy hits {request_id}"):
        run_erasure(accounts, lake, request_id)
    return request_id


@pytest.mark.soak
def test_what_is_left_is_shown_accepted_with_a_reason_and_certified(accounts, lake, failed, settings):
    (state,) = list_erasures(accounts)
    assert (state.state, state.hits, state.deadline) == ("failed", 2, NOW + timedelta(days=30))
    hits = erasure_hits(accounts, failed)
    assert {(hit.place, hit.kind, hit.inside, hit.before) for hit in hits} == {
        ("landing", "email", "bytes", 1),
        ("landing", "username", "name", 1),
    }
    assert all(value not in repr((hits, state)) for value in ZOE.values)
    revealed = erasure_hits(accounts, failed, reveal=True)
    assert any(ZOE.email in (hit.context or "") for hit in revealed)
    assert all(ZOE.username in (hit.path or "") for hit in revealed)

    name, address = sorted(hits, key=lambda hit: hit.inside, reverse=True)
    for reason in ("", " ", "two\nlines", "x" * 501, f"it is {ZOE.last_name}'s", f"mail of {ZOE.email.upper()}"):
        with pytest.raises(BadRequestError):
            accept_erasure_hit(accounts, failed, address.hit, reason)
    with pytest.raises(BadRequestError, match="no hit with this id"):
        accept_erasure_hit(accounts, failed, "0" * 12, "a reason")
    with pytest.raises(BadRequestError, match="identifies the person"):
        accept_erasure_hit(accounts, failed, address.hit, "a reason", everywhere=True)
    accept_erasure_hit(accounts, failed, name.hit, "a ship of this name")
    with pytest.raises(ErasureUnverifiedError, match="1 place still has data"):
        run_erasure(accounts, lake, failed)
    accept_erasure_hit(accounts, failed, address.hit, "kept by order of the court")
    certificate = run_erasure(accounts, lake, failed)

    assert [(acceptance["kind"], acceptance["reason"]) for acceptance in certificate.accepted] == [
        ("username", "a ship of this name"),
        ("email", "kept by order of the court"),
    ]
    assert all(value not in certificate.text for value in ZOE.values)
    assert verify(settings.certificates / f"{failed}.json", public_key(accounts)) == certificate
    with pytest.raises(PrivacyError, match="is done"):
        accept_erasure_hit(accounts, failed, address.hit, "again")


@pytest.mark.soak
def test_a_name_that_is_everywhere_is_accepted_once(accounts, lake, settings):
    user = register(accounts, ZOE)
    settings.scratch.mkdir(parents=True, exist_ok=True)
    for number in range(3):
        (settings.scratch / f"{number}.log").write_text(f"{ZOE.last_name} is a star")
    request_id = request_erasure(accounts, user.user_id)
    with pytest.raises(ErasureUnverifiedError):
        run_erasure(accounts, lake, request_id)

    accept_erasure_hit(accounts, request_id, erasure_hits(accounts, request_id)[0].hit, "a star", everywhere=True)
    (settings.scratch / "later.log").write_text(f"{ZOE.last_name} is a star")

    (accepted,) = run_erasure(accounts, lake, request_id).accepted
    assert accepted["everywhere"] is True


@pytest.mark.soak
def test_hits_are_for_administrators(accounts, failed):
    yan = Request(actor_id=register(accounts, YAN).user_id)

    with pytest.raises(PermissionDeniedError):
        erasure_hits(accounts, failed, reveal=True, request=yan)
    with pytest.raises(PermissionDeniedError):
        accept_erasure_hit(accounts, failed, erasure_hits(accounts, failed)[0].hit, "no", request=yan)


def test_what_is_sought_is_destroyed_when_its_time_is_over_and_the_request_says_what_is_unproven(
    accounts, lake, failed, clock, settings
):
    clock.forward(days=29)
    assert expire_sealed(accounts, lake) == 0
    clock.forward(days=1)

    assert expire_sealed(accounts, lake) == 1

    with accounts.store.reading() as rx:
        assert rx.execute(sa.select(schema.erasure_requests.c.sealed)).scalar_one() is None
        names = rx.execute(sa.select(schema.keys.c.name)).scalars()
        assert not [name for name in names if name.startswith("erasure:")]
    (state,) = list_erasures(accounts)
    assert (state.state, state.deadline, state.hits) == ("unproven", None, 2)
    assert "places still have data of the person" in (state.problem or "")
    assert {hit.place for hit in erasure_hits(accounts, failed, reveal=True)} == {"landing"}
    with pytest.raises(ErasureUnverifiedError, match="can no longer be proven"):
        run_erasure(accounts, lake, failed)
    assert pending_erasures(accounts) == []
    report = scan([Needle("value", value) for value in ZOE.values], [Folder("store", settings.accounts)])
    assert report.findings == ()
    assert expire_sealed(accounts, lake) == 0


def test_an_erasure_that_nobody_went_on_with_ends_too_and_is_purged(accounts, lake, clock, settings, monkeypatch):
    user = register(accounts, ZOE)
    flush(accounts.store, lake)
    export_user_data(accounts, lake, user.user_id)
    monkeypatch.setattr(module, "purge", lambda *_: (_ for _ in ()).throw(KeyboardInterrupt))
    with pytest.raises(KeyboardInterrupt):
        delete_user_permanent(accounts, lake, user.user_id)
    monkeypatch.undo()
    clock.forward(days=31)

    expire_sealed(accounts, lake)

    assert [erasure.state for erasure in list_erasures(accounts)] == ["unproven"]
    assert not list(settings.exports.glob("*/*"))
    assert lake.table("users").scan().collect().is_empty()


@pytest.mark.soak
def test_who_registers_again_does_not_keep_the_erasure_from_its_proof(accounts, lake, failed, settings):
    again = register(accounts, ZOE)
    flush(accounts.store, lake)
    export_user_data(accounts, lake, again.user_id)
    for path in settings.landing.iterdir():
        path.unlink()

    certificate = run_erasure(accounts, lake, failed)

    assert "lookup, another account's" in certificate.verification["coincidences"]
    assert accounts.get_user(again.user_id).email == again.email


def test_a_certificate_that_a_kill_kept_from_its_folder_is_filed_by_whoever_comes_next(
    accounts, lake, settings, monkeypatch
):
    request_id = request_erasure(accounts, register(accounts, ZOE).user_id)
    monkeypatch.setattr(module, "file_certificate", lambda *_: (_ for _ in ()).throw(KeyboardInterrupt))
    with pytest.raises(KeyboardInterrupt):
        run_erasure(accounts, lake, request_id)
    monkeypatch.undo()
    assert [erasure.state for erasure in list_erasures(accounts)] == ["signed"]
    assert pending_erasures(accounts) == [request_id]

    certificate = run_erasure(accounts, lake, request_id)

    assert (settings.certificates / f"{request_id}.json").read_text() == certificate.text
    assert pending_erasures(accounts) == []


def test_places_of_every_process_are_searched_and_those_that_are_gone_told(
    settings, clock, lake, tmp_path, monkeypatch
):
    home, disk, lost = tmp_path / "dagster", tmp_path / "disk", tmp_path / "lost"
    for folder in (home / "storage", disk, lost, tmp_path / "elsewhere"):
        folder.mkdir(parents=True)
    (home / "dagster.yaml").write_text(f"compute_logs:\n  config:\n    base_dir: {tmp_path / 'elsewhere'}\n")
    for changes in ({"dagster_home": home}, {"landing": disk}, {"landing": lost}):
        with Accounts.open(settings.model_copy(update=changes), clock):
            pass
    lost.rmdir()
    monkeypatch.delenv("DAGSTER_HOME", raising=False)
    with Accounts.open(settings, clock) as accounts:
        assert {UsedPlace("dagster", str(home)), UsedPlace("landing", str(disk))} <= set(used_places(accounts.store))
        places, limits = searched_places(accounts, lake)
        assert {disk, home, tmp_path / "elsewhere"} <= {place.root for place in places if isinstance(place, Folder)}
        assert limits == ["A folder that was used as landing no longer exists, and was not searched."]
        monkeypatch.setenv("DAGSTER_HOME", str(tmp_path / "never made"))
        assert "The configured Dagster folder does not exist" in " ".join(searched_places(accounts, lake)[1])
        (disk / "waiting.jsonl").write_text(json.dumps({"email": ZOE.email}))
        with pytest.raises(ErasureUnverifiedError, match="email in landing"):
            delete_user_permanent(accounts, lake, register(accounts, ZOE).user_id)


@pytest.mark.parametrize(
    ("kind", "value", "sought"),
    [
        ("ip", "203.0.113.77", True),
        ("ip", "2001:db8::7", True),
        ("ip", "127.0.0.1", False),
        ("ip", "10.1.2.3", False),
        ("ip", "100.64.3.2", False),
        ("ip", "fe80::1", False),
        ("ip", "fd00::1", False),
        ("ip", "PAR1", False),
        ("secret", "demo", False),
        ("secret", "ck_0123456789abcdef", True),
        ("first_name", "Case", False),
        ("first_name", "Will", False),
        ("first_name", "Zoephine", True),
        ("username", "price", False),
        ("full_name", "Zoephine Case", True),
        ("email", "case@example.org", True),
    ],
)
def test_only_what_identifies_is_sought(kind, value, sought):
    found = SearchValues()

    found.add(kind, value)

    assert bool(found.needles) == sought
    assert bool(found.left_out) != sought


def test_words_of_the_platforms_own_texts_are_known_in_any_case():
    assert all(is_own_text(text) for text in ("tables", "Case", "MATERIALIZE", "erasure", "Parquet"))
    assert not any(is_own_text(text) for text in ("Quintessabel", "zoe_quintessa", "Case Quintessabel"))


def test_what_is_sought_is_the_same_after_it_was_sealed():
    found = SearchValues(since=7, before={("landing", "a.txt", 0): 3})
    found.add("email", "zoe@example.org")
    found.add("token_hash", bytes(range(32)))
    found.add("first_name", "Case")

    assert SearchValues.of(found.to_json()) == found


@pytest.mark.soak
def test_the_doctor_tells_of_failed_requests_with_their_time_and_what_to_do(accounts, lake, failed, settings, clock):
    def told(now):
        return next(finding for finding in diagnose(settings, now) if finding.subject == "erasures")

    early, late = told(NOW), told(NOW + timedelta(days=24))

    assert (early.level, late.level) == ("warn", "error")
    assert f"it can be proven until {NOW + timedelta(days=30):%Y-%m-%d}" in early.message
    assert f"hfthot privacy hits {failed}" in early.next_step
    clock.forward(days=31)
    expire_sealed(accounts, lake)
    assert told(NOW).message == "1 request ended without a proof"
