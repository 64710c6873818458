"""Erasure: unreadable at once, gone from every place, proven, and nobody else loses anything."""

from __future__ import annotations

import json
import os
import sqlite3
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path

import polars as pl
import pytest
import sqlalchemy as sa
from deltalake import DeltaTable

from hfthot_platform.core.errors import (
    ErasedSubjectError,
    ErasureUnverifiedError,
    InactiveAccountError,
    InvalidCredentialsError,
    LegalHoldError,
    PermissionDeniedError,
    PrivacyError,
    UnknownUserError,
)
from hfthot_platform.core.settings import Settings
from hfthot_platform.domain.contracts.accounts import USER_TABLES
from hfthot_platform.services.accounts.accounts import Accounts
from hfthot_platform.services.accounts.records import Request
from hfthot_platform.services.privacy import erasure as module
from hfthot_platform.services.privacy.certificate import ErasureCertificate, verify
from hfthot_platform.services.privacy.erasure import delete_user_permanent, public_key, run_erasure
from hfthot_platform.services.privacy.erasure_requests import list_erasures, pending_erasures, request_erasure
from hfthot_platform.services.privacy.export import export_user_data
from hfthot_platform.services.privacy.holds import list_holds, place_hold, release_hold
from hfthot_platform.services.privacy.proof import sqlite_reader
from hfthot_platform.services.privacy.proof.scan import Folder, Needle, scan
from hfthot_platform.services.privacy.searched_places import places_of
from hfthot_platform.services.publication.chain import verify_chain
from hfthot_platform.services.publication.publisher import flush
from hfthot_platform.storage.lakehouse import Lakehouse
from hfthot_platform.storage.operational import schema
from tests.privacy.conftest import NOW, Clock, settings_in
from tests.privacy.people import YAN, ZOE, register


@pytest.fixture
def zoe(accounts, lake):
    return with_history(accounts, lake)


@pytest.fixture
def registered(accounts):
    """Register Zoé and Yan, without any history in the lake."""
    register(accounts, YAN)
    return register(accounts, ZOE)


def with_history(accounts, lake):
    """Register Zoé and Yan with some history in the lake; Zoé changed her address, and both have an export."""
    user = register(accounts, ZOE)
    other = register(accounts, YAN)
    flush(accounts.store, lake)
    accounts.update_user(user.user_id, email="zoe.new@elsewhere.example.org", request=ZOE.request)
    flush(accounts.store, lake)
    export_user_data(accounts, lake, user.user_id)
    export_user_data(accounts, lake, other.user_id)
    flush(accounts.store, lake)
    return user


@dataclass(frozen=True)
class Erased:
    """An installation in which Zoé was erased, with history kept."""

    accounts: Accounts
    lake: Lakehouse
    settings: Settings
    user_id: str
    subject_id: str
    #: Versions per table before the erasure.
    versions: dict[str, int]
    certificate: ErasureCertificate
    #: How often the erasure opened the log of a table.
    opens: int


@pytest.fixture(scope="module")
def erased(tmp_path_factory):
    folder, clock = tmp_path_factory.mktemp("erased"), Clock()
    settings = settings_in(folder / "work")
    lake = Lakehouse.open(settings.lake_root, clock=clock)
    with Accounts.open(settings, clock) as accounts:
        user = with_history(accounts, lake)
        subject = accounts.subject_of(user.user_id)
        versions = {table.name: len(lake.table(table.name).readable_versions()) for table in USER_TABLES}
        opened, original = [], DeltaTable.__init__

        def opening(*args, **kwargs):
            opened.append(True)
            original(*args, **kwargs)

        with pytest.MonkeyPatch.context() as patched:
            patched.setattr(DeltaTable, "__init__", opening)
            certificate = delete_user_permanent(accounts, lake, user.user_id)
        yield Erased(accounts, lake, settings, user.user_id, subject, versions, certificate, len(opened))


def subject_of(accounts, user):
    return accounts.subject_of(user.user_id)


def yan(accounts):
    return accounts.find_user(username=YAN.username)


def everything(accounts, lake, folder: Path):
    return [*places_of(accounts, lake), Folder("all", folder)]


def needles(person):
    return [Needle("value", value, whole_word=len(value) < 20) for value in person.values]


def test_nothing_is_left_of_the_person_and_everything_of_the_others(erased):
    accounts, lake = erased.accounts, erased.lake
    with pytest.raises(ErasedSubjectError):
        accounts.get_user(erased.user_id)
    with pytest.raises(InvalidCredentialsError):
        accounts.login(ZOE.username, ZOE.password)
    assert accounts.login(YAN.username, YAN.password).token is not None
    for table in USER_TABLES:
        assert len(lake.table(table.name).readable_versions()) > erased.versions[table.name]
    everywhere = [*places_of(accounts, lake), Folder("all", erased.settings.accounts.parent)]
    assert [str(finding) for finding in scan(needles(ZOE), everywhere).findings] == []


def test_the_certificate_is_returned_filed_and_genuine(erased):
    certificate = erased.certificate

    assert verify(certificate.text, public_key(erased.accounts)) == certificate
    assert verify(erased.settings.certificates / f"{certificate.request_id}.json").text == certificate.text


def test_the_other_persons_export_stays(erased):
    (kept,) = erased.settings.exports.glob("*/export.json")
    assert YAN.email in kept.read_text()


def test_live_rows_are_gone_and_audit_rows_are_redacted(erased):
    mine = pl.col("subject_id") == erased.subject_id
    for name in ("users", "sessions", "api_keys", "usage"):
        assert erased.lake.table(name).scan().filter(mine).collect().is_empty()
    audit = erased.lake.table("audit_log").scan().filter(mine).collect()
    before = audit.filter(pl.col("action") != "subject.destroy")
    assert before.height > 5
    assert before.select(pl.col("ip", "user_agent", "personal_detail").is_null().all()).row(0) == (True, True, True)


def test_the_audit_chain_holds_across_the_erasure(erased):
    report = verify_chain(erased.lake, erased.accounts.store)

    assert report.problems == ()
    assert report.redacted > 5


def test_old_versions_read_for_the_others_and_show_nothing_of_the_person(erased):
    other = subject_of(erased.accounts, yan(erased.accounts))
    cipher = erased.accounts.ciphers([erased.subject_id, other], "identity")
    assert set(cipher) == {other}
    old = erased.lake.table("users").scan(version=1).collect()
    row = old.filter(pl.col("subject_id") == other).row(0, named=True)
    assert cipher[other].decrypt("users", "email", row["email"]) == YAN.email


def test_an_erasure_opens_the_logs_of_the_five_user_tables_a_few_times_each(erased):
    assert 0 < erased.opens <= 30


def test_with_history_kept_the_certificate_says_until_when_ciphertext_stays(erased):
    assert erased.certificate.keep_history
    assert erased.certificate.ciphertext_until == NOW + timedelta(days=31)


@pytest.mark.soak
def test_without_history_no_ciphertext_is_left_on_the_disk(accounts, lake, zoe, settings, tmp_path):
    subject = subject_of(accounts, zoe)
    envelopes = set()
    for version in range(lake.table("users").version() + 1):
        rows = lake.table("users").scan(version).filter(pl.col("subject_id") == subject).collect()
        envelopes |= {envelope for name in ("username", "email", "first_name") for envelope in rows[name].drop_nulls()}
    audit = lake.table("audit_log").scan().filter(pl.col("subject_id") == subject).collect()
    envelopes |= set(audit["ip"].drop_nulls())
    assert len(envelopes) > 6

    certificate = delete_user_permanent(accounts, lake, zoe.user_id, keep_history=False)

    assert certificate.ciphertext_until is None
    report = scan([Needle("envelope", envelope) for envelope in envelopes], everything(accounts, lake, tmp_path))
    assert report.findings == ()
    live = [Path(settings.lake_root, name) for name in ("users", "sessions", "api_keys", "usage")]
    found = scan([Needle("subject", subject)], [Folder(folder.name, folder) for folder in live])
    assert found.findings == ()
    for table in USER_TABLES:
        assert len(lake.table(table.name).readable_versions()) == 1
        assert lake.table(table.name).problems(deep=True) == []

    # The log is published on, and the name and address are free again.
    again = register(accounts, ZOE)
    flush(accounts.store, lake)
    assert again.user_id != zoe.user_id
    assert verify_chain(lake, accounts.store).intact
    assert lake.table("users").scan().collect().height == 2


def test_the_certificate_names_nobody(erased):
    for value in (*ZOE.values, erased.user_id, erased.subject_id, "zoe.new@elsewhere"):
        assert value not in erased.certificate.text


def test_the_certificate_says_what_was_searched(erased):
    found = erased.certificate.verification
    assert found["scanned_bytes"] > 100_000
    assert found["canaries_found"] == found["canaries_planted"] > 50
    assert found["searched_values"]["email"] == 2
    assert set(found["places"]) >= {"lake", "store", "exports", "landing", "scratch", "temporary"}
    assert found["versions_read"] > 10
    assert found["envelopes_decrypted"] > 5
    assert erased.certificate.counts["store.subject_keys"] == 4
    assert erased.certificate.counts["exports"] == 1


def test_a_trace_left_in_any_place_stops_the_certificate(accounts, lake, zoe, settings, tmp_path, monkeypatch):
    home = tmp_path / "dagster_home"
    monkeypatch.setenv("DAGSTER_HOME", str(home))
    roots = {
        "lake": Path(settings.lake_root),
        "exports": settings.exports,
        "landing": settings.landing,
        "scratch": settings.scratch,
        "reports": settings.scratch.parent / "reports",
        "certificates": settings.certificates,
        "store": settings.accounts,
        "dagster": home,
    }
    for root in roots.values():
        root.mkdir(parents=True, exist_ok=True)
        (root / "notes.txt").write_text(json.dumps({"from": ZOE.email}))
    request_id = request_erasure(accounts, zoe.user_id)

    with pytest.raises(ErasureUnverifiedError) as caught:
        run_erasure(accounts, lake, request_id)

    assert f"{len(roots)} places still have data of the person" in str(caught.value)
    assert "email in certificates: notes.txt at 10 (text, bytes)" in str(caught.value)
    assert all(value not in str(caught.value) for value in ZOE.values)
    assert not list(settings.certificates.glob("*.json"))
    with pytest.raises(ErasedSubjectError):
        accounts.get_user(zoe.user_id)
    assert pending_erasures(accounts) == []

    for root in roots.values():
        (root / "notes.txt").unlink()
    assert run_erasure(accounts, lake, request_id).request_id == request_id


@pytest.mark.soak
def test_a_place_that_cannot_be_searched_stops_the_certificate(accounts, lake, zoe, settings, monkeypatch):
    settings.landing.mkdir(parents=True)
    (settings.landing / "locked.txt").write_text("x")
    real = sqlite_reader.opened

    def refused(path, flags):
        if Path(path).name == "locked.txt":
            raise PermissionError(13, "Permission denied")
        return real(path, flags)

    monkeypatch.setattr(sqlite_reader, "opened", refused)

    with pytest.raises(ErasureUnverifiedError, match="could not be searched"):
        delete_user_permanent(accounts, lake, zoe.user_id)


def test_a_damaged_old_version_stops_the_certificate(accounts, lake, zoe, settings):
    version = lake.table("users").readable_versions()[1].version
    path = Path(lake.table("users").snapshot(version).paths[0])
    raw = bytearray(path.read_bytes())
    raw[len(raw) // 3 : len(raw) // 3 + 64] = os.urandom(64)
    path.write_bytes(bytes(raw))

    with pytest.raises(ErasureUnverifiedError):
        delete_user_permanent(accounts, lake, zoe.user_id)


@pytest.mark.soak
def test_the_lost_key_of_another_person_stops_the_certificate(accounts, lake, zoe):
    other = subject_of(accounts, yan(accounts))
    with accounts.store.transaction() as tx:
        tx.execute(sa.delete(schema.subject_keys).where(schema.subject_keys.c.subject_id == other))

    with pytest.raises(ErasureUnverifiedError, match="lost their keys"):
        delete_user_permanent(accounts, lake, zoe.user_id)


@pytest.mark.soak
def test_what_is_searched_for_is_unreadable_meanwhile_and_destroyed_afterwards(
    accounts, lake, zoe, settings, monkeypatch
):
    monkeypatch.setattr(module, "prove", lambda *_: (_ for _ in ()).throw(KeyboardInterrupt))
    request_id = request_erasure(accounts, zoe.user_id)
    with pytest.raises(KeyboardInterrupt):
        run_erasure(accounts, lake, request_id)
    report = scan(needles(ZOE), [Folder("store", settings.accounts)])
    assert report.findings == ()
    base = sqlite3.connect(settings.accounts / "accounts.db")
    assert base.execute("SELECT length(sealed) FROM erasure_requests").fetchone()[0] > 500
    base.close()
    monkeypatch.undo()

    run_erasure(accounts, lake, request_id)

    base = sqlite3.connect(settings.accounts / "accounts.db")
    assert base.execute("SELECT sealed FROM erasure_requests").fetchone() == (None,)
    assert base.execute("SELECT count(*) FROM keys WHERE name LIKE 'erasure:%'").fetchone() == (0,)
    base.close()


@pytest.mark.soak
def test_an_erasure_that_is_interrupted_everywhere_is_finished(accounts, lake, zoe, settings, monkeypatch):
    request_id = request_erasure(accounts, zoe.user_id)
    for step in ("destroy", "purge", "prove", "certify", "file_certificate"):
        real = getattr(module, step)
        for after in (False, True):

            def interrupted(*args, real=real, after=after):
                if after:
                    real(*args)
                raise KeyboardInterrupt

            monkeypatch.setattr(module, step, interrupted)
            with pytest.raises(KeyboardInterrupt):
                run_erasure(accounts, lake, request_id)
            # The certificate is there only when everything before it was done.
            assert list(settings.certificates.glob("*.json")) == [] or (step, after) == ("file_certificate", True)
        monkeypatch.setattr(module, step, real)

    certificate = run_erasure(accounts, lake, request_id)

    assert certificate.request_id == request_id
    assert [path.name for path in settings.certificates.glob("*.json")] == [f"{request_id}.json"]
    assert run_erasure(accounts, lake, request_id) == certificate
    assert verify_chain(lake, accounts.store).intact


@pytest.mark.soak
def test_asking_again_while_it_is_open_is_the_same_request(accounts, lake, zoe):
    first = request_erasure(accounts, zoe.user_id)

    assert request_erasure(accounts, zoe.user_id, keep_history=False) == first
    assert not run_erasure(accounts, lake, first).keep_history


def test_an_erased_person_cannot_be_erased_again(erased):
    with pytest.raises(ErasedSubjectError):
        delete_user_permanent(erased.accounts, erased.lake, erased.user_id)


def test_from_the_request_on_the_account_can_do_nothing(accounts, registered):
    request_erasure(accounts, registered.user_id)

    with pytest.raises((InvalidCredentialsError, InactiveAccountError)):
        accounts.login(ZOE.username, ZOE.password)


def test_others_may_not_erase_the_person(accounts, lake, registered):
    with pytest.raises(PermissionDeniedError):
        delete_user_permanent(accounts, lake, registered.user_id, request=Request(actor_id=yan(accounts).user_id))

    assert accounts.get_user(registered.user_id).deleted_at is None


def test_the_person_may(accounts, registered):
    request_id = request_erasure(accounts, registered.user_id, request=Request(actor_id=registered.user_id))

    assert pending_erasures(accounts) == [request_id]


@pytest.fixture(scope="module")
def living(tmp_path_factory):
    """Return accounts and a lake with Zoé and Yan in them, for what must not change them."""
    clock = Clock()
    settings = settings_in(tmp_path_factory.mktemp("living") / "work")
    lake = Lakehouse.open(settings.lake_root, clock=clock)
    with Accounts.open(settings, clock) as accounts:
        with_history(accounts, lake)
        yield accounts, lake


@pytest.mark.parametrize("user_id", ["", "' OR 1=1 --", "../../etc/passwd", "0" * 32])
def test_an_unknown_id_erases_nobody(living, user_id):
    accounts, lake = living
    before = [user.user_id for user in accounts.list_users(deleted=None)]
    assert len(before) == 2

    with pytest.raises(UnknownUserError):
        delete_user_permanent(accounts, lake, user_id)

    assert [user.user_id for user in accounts.list_users()] == before
    assert list_erasures(accounts) == []


@pytest.mark.parametrize("request_id", ["", "x' OR 1=1", "0" * 32])
def test_an_unknown_request_is_an_error(accounts, lake, request_id):
    with pytest.raises(PrivacyError):
        run_erasure(accounts, lake, request_id)


# -- legal holds ----------------------------------------------------------------------------------------------


def test_a_hold_on_everything_erases_nothing(accounts, lake, zoe):
    place_hold(accounts, zoe.user_id, ("identity", "sessions", "credentials", "audit"), "court order 7")

    with pytest.raises(LegalHoldError, match="nothing was erased"):
        delete_user_permanent(accounts, lake, zoe.user_id)

    assert accounts.get_user(zoe.user_id).username == ZOE.username


@pytest.mark.soak
def test_the_rest_is_erased_and_the_request_completes_with_the_release(accounts, lake, zoe, settings):
    subject = subject_of(accounts, zoe)
    hold = place_hold(accounts, zoe.user_id, ["audit"], "case 12/2024")
    request_id = request_erasure(accounts, zoe.user_id)

    with pytest.raises(LegalHoldError, match="keeps audit"):
        run_erasure(accounts, lake, request_id)

    with pytest.raises(ErasedSubjectError):
        accounts.get_user(zoe.user_id)
    kept = lake.table("audit_log").scan().filter(pl.col("subject_id") == subject, pl.col("ip").is_not_null()).collect()
    cipher = accounts.ciphers([subject], "audit")[subject]
    assert cipher.decrypt("audit_log", "ip", kept["ip"][0]) == ZOE.ip
    assert accounts.ciphers([subject], "identity") == {}
    assert pending_erasures(accounts) == []
    with pytest.raises(LegalHoldError):
        run_erasure(accounts, lake, request_id)
    assert not list(settings.certificates.glob("*.json"))

    release_hold(accounts, hold.hold_id, "case closed")
    assert pending_erasures(accounts) == [request_id]
    certificate = run_erasure(accounts, lake, request_id)

    assert accounts.ciphers([subject], "audit") == {}
    assert certificate.counts["store.subject_keys"] == 4
    assert certificate.verification["searched_values"]["email"] == 2
    assert verify_chain(lake, accounts.store).intact


def test_a_hold_is_audited_with_its_reason_encrypted(accounts, lake, zoe):
    subject = subject_of(accounts, zoe)

    hold = place_hold(accounts, zoe.user_id, ["sessions"], "tax audit of Zoé")
    release_hold(accounts, hold.hold_id, "over")

    flush(accounts.store, lake)
    rows = lake.table("audit_log").scan().filter(pl.col("resource") == hold.hold_id).sort("seq").collect()
    cipher = accounts.ciphers([subject], "audit")[subject]
    reasons = [
        json.loads(cipher.decrypt("audit_log", "personal_detail", envelope)) for envelope in rows["personal_detail"]
    ]
    assert rows["action"].to_list() == ["privacy.hold_place", "privacy.hold_release"]
    assert reasons == [{"reason": "tax audit of Zoé"}, {"reason": "over"}]


@pytest.mark.soak
def test_a_hold_that_names_the_person_leaves_no_trace_of_that(accounts, lake, zoe):
    hold = place_hold(accounts, zoe.user_id, ["sessions"], f"against {ZOE.first_name} {ZOE.last_name}")
    release_hold(accounts, hold.hold_id, "over")

    assert delete_user_permanent(accounts, lake, zoe.user_id).request_id


@pytest.mark.soak
def test_a_hold_that_names_somebody_else_tells_nobody_and_keeps_nobody_from_being_erased(accounts, lake, zoe, settings):
    other = accounts.find_user(username=YAN.username)
    reason = f"complaint by {ZOE.first_name} {ZOE.last_name}"
    hold = place_hold(accounts, other.user_id, ["audit"], reason)
    release_hold(accounts, hold.hold_id, f"{ZOE.last_name} took it back")

    assert [hold.reason for hold in list_holds(accounts, active=False)] == [reason]
    stored = b"".join(path.read_bytes() for path in settings.accounts.iterdir() if path.is_file())
    assert ZOE.last_name.encode() not in stored
    assert delete_user_permanent(accounts, lake, zoe.user_id).request_id


@pytest.mark.soak
@pytest.mark.parametrize("kept", [["sessions"], ["audit", "identity"]])
def test_a_hold_can_be_read_for_as_long_as_it_is_active_and_not_after_the_erasure(accounts, lake, zoe, kept):
    hold = place_hold(accounts, zoe.user_id, kept, "claim of 2024")
    request_id = request_erasure(accounts, zoe.user_id)
    with pytest.raises(LegalHoldError):
        run_erasure(accounts, lake, request_id)

    active = [hold.reason for hold in list_holds(accounts)]
    release_hold(accounts, hold.hold_id, "settled")
    run_erasure(accounts, lake, request_id)

    assert active == ["claim of 2024"]
    assert [hold.reason for hold in list_holds(accounts, active=False)] == [None]


def test_holds_are_for_administrators(accounts, zoe):
    with pytest.raises(PermissionDeniedError):
        place_hold(accounts, zoe.user_id, ["audit"], "no", request=Request(actor_id=zoe.user_id))
