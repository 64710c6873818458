"""What is past its period goes by itself, physically, and the rest of the audit log still proves itself."""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path

import polars as pl
import pytest
import sqlalchemy as sa

from hfthot_platform.core.errors import InvalidTokenError, KeySourceError, PrivacyError
from hfthot_platform.services.privacy import retention as module
from hfthot_platform.services.privacy.erasure import run_erasure
from hfthot_platform.services.privacy.erasure_requests import pending_erasures, request_erasure
from hfthot_platform.services.privacy.export import export_user_data
from hfthot_platform.services.privacy.retention import apply_retention
from hfthot_platform.services.privacy.rotation import rotate_keys
from hfthot_platform.services.publication.chain import verify_chain
from hfthot_platform.services.publication.publisher import flush
from hfthot_platform.storage.lakehouse import maintain
from hfthot_platform.storage.operational import schema
from tests.privacy.people import YAN, ZOE, expire, register


@pytest.fixture
def user(accounts, lake):
    made = register(accounts, ZOE)
    flush(accounts.store, lake)
    return made


def act(accounts, lake, user, clock, days):
    """Let the person change something on each of the coming days."""
    for _ in range(days):
        clock.forward(days=1)
        accounts.update_query_count(user.user_id, "finnhub")
        flush(accounts.store, lake)


def partitions(settings):
    return sorted(
        folder.name for folder in Path(settings.lake_root, "audit_log").glob("date=*") if list(folder.iterdir())
    )


def test_old_days_of_the_audit_log_are_physically_gone(accounts, lake, user, clock, settings):
    act(accounts, lake, user, clock, 3)
    assert partitions(settings)[0] == "date=2024-03-10"
    clock.forward(days=89)

    report = expire(accounts, lake)

    assert report.audit_rows == 7
    assert partitions(settings)[:2] == ["date=2024-03-12", "date=2024-03-13"]
    chain = verify_chain(lake, accounts.store)
    assert chain.problems == ()
    assert chain.anchor_seq == report.audit_anchor == 7


def test_the_nightly_maintenance_leaves_the_audit_log_to_retention(accounts, lake, user, clock):
    clock.forward(days=200)

    maintain(lake, "audit_log")

    assert verify_chain(lake, accounts.store).intact


def test_a_second_round_changes_nothing(accounts, lake, user, clock):
    clock.forward(days=100)
    first = expire(accounts, lake)

    second = expire(accounts, lake)

    assert first.audit_rows > 0
    assert second.audit_rows == 0
    assert second.audit_anchor == first.audit_anchor


@pytest.mark.parametrize("step", ["drop_days", "clear"])
def test_a_round_that_was_interrupted_is_finished(accounts, lake, user, clock, settings, monkeypatch, step):
    clock.forward(days=100)
    real = getattr(module, step)

    def interrupted(*args):
        if args[1] is not module.SESSIONS:
            raise KeyboardInterrupt
        return real(*args)

    monkeypatch.setattr(module, step, interrupted)
    with pytest.raises(KeyboardInterrupt):
        expire(accounts, lake)
    assert verify_chain(lake, accounts.store).intact
    monkeypatch.undo()

    expire(accounts, lake)

    assert "date=2024-03-10" not in partitions(settings)
    assert verify_chain(lake, accounts.store).intact


def test_entries_after_a_clock_was_set_back_belong_to_the_later_day(accounts, lake, user, clock, settings):
    clock.forward(days=2)
    accounts.update_query_count(user.user_id, "finnhub")
    clock.forward(days=-2)
    accounts.update_query_count(user.user_id, "finnhub")
    flush(accounts.store, lake)

    clock.forward(days=91)
    assert expire(accounts, lake).audit_rows == 6
    clock.forward(days=2)
    assert expire(accounts, lake).audit_rows == 2
    assert verify_chain(lake, accounts.store).intact


def test_a_broken_chain_is_not_cut(accounts, lake, user, clock):
    import deltalake

    table = lake.table("audit_log")
    rows = table.scan().collect().with_columns(outcome=pl.lit("refused"))
    deltalake.write_deltalake(table.uri, rows.rechunk(), mode="overwrite")
    clock.forward(days=100)

    with pytest.raises(PrivacyError, match="chain is broken"):
        expire(accounts, lake)

    assert lake.table("audit_log").scan().collect().height == rows.height


def test_old_sessions_leave_store_and_lake(accounts, lake, user, clock):
    clock.forward(days=182)

    report = expire(accounts, lake)

    assert (report.sessions, report.session_rows) == (1, 1)
    assert lake.table("sessions").scan().collect().is_empty()


def test_an_export_is_deleted_when_its_time_is_over(accounts, lake, user, clock, settings):
    path = export_user_data(accounts, lake, user.user_id)
    clock.forward(days=6)
    assert expire(accounts, lake).exports == 0
    clock.forward(days=2)

    assert expire(accounts, lake).exports == 1
    assert not path.parent.exists()


def test_a_soft_deletion_becomes_an_erasure_by_itself(accounts, lake, user, clock):
    accounts.delete_user_soft(user.user_id)
    clock.forward(days=29)
    assert expire(accounts, lake).erasures == ()
    clock.forward(days=2)

    (request_id,) = expire(accounts, lake).erasures

    assert pending_erasures(accounts) == [request_id]
    assert expire(accounts, lake).erasures == ()
    assert run_erasure(accounts, lake, request_id).request_id == request_id


def test_counters_and_event_ids_leave_with_their_periods(accounts, lake, user, clock):
    with accounts.store.transaction() as tx:
        tx.execute(schema.login_attempts.insert().values(lookup=b"x", failures=1, window_start=tx.now))
        tx.execute(schema.user_events.insert().values(event_hash=b"x", ts=tx.now))
    assert expire(accounts, lake).login_attempts == 0
    clock.forward(days=2)
    first = expire(accounts, lake)
    clock.forward(days=400)
    second = expire(accounts, lake)

    assert (first.login_attempts, first.user_events) == (1, 0)
    assert second.user_events == 1


def test_quarantined_rows_leave_with_their_period(accounts, lake, user, clock):
    table = lake.table("market.closes")
    bad = pl.DataFrame(
        {
            "date": [clock.now.date()],
            "venue": ["v"],
            "symbol": ["not a symbol!"],
            "close": [-1.0],
            "adjusted": [True],
            "source": ["replay"],
            "source_ref": ["t"],
        }
    )
    table.quarantine(table.audit(bad))
    assert expire(accounts, lake).quarantined_rows == 0
    clock.forward(days=366)

    assert expire(accounts, lake).quarantined_rows == 1


# -- key rotation ---------------------------------------------------------------------------------------------


def kek_ids(accounts):
    with accounts.store.reading() as rx:
        return set(rx.execute(sa.select(schema.subject_keys.c.kek_id)).scalars()) | set(
            rx.execute(sa.select(schema.keys.c.kek_id)).scalars()
        )


def test_a_rotation_wraps_every_key_anew_and_leaves_the_lake_alone(accounts, lake, user):
    before, version = kek_ids(accounts), lake.table("users").version()

    report = rotate_keys(accounts)

    assert kek_ids(accounts) == {report.kek_id}
    assert report.subject_keys == 4
    assert report.dropped == tuple(before)
    assert accounts.vault.ring.ids == (report.kek_id,)
    assert lake.table("users").version() == version
    assert accounts.get_user(user.user_id).email == ZOE.email


def test_an_interrupted_rotation_is_finished_with_the_same_key(accounts, lake, user, monkeypatch):
    import hfthot_platform.services.privacy.rotation as rotation

    monkeypatch.setattr(rotation, "rewrap_subjects", lambda *_: (_ for _ in ()).throw(KeyboardInterrupt))
    with pytest.raises(KeyboardInterrupt):
        rotate_keys(accounts)
    monkeypatch.undo()
    current = accounts.vault.ring.current_id
    assert accounts.get_user(user.user_id).email == ZOE.email

    assert rotate_keys(accounts).kek_id == current
    assert accounts.get_user(user.user_id).email == ZOE.email


def test_old_keys_can_be_kept_for_backups(accounts, user):
    old = accounts.vault.ring.current_id

    report = rotate_keys(accounts, drop=False)

    assert report.dropped == ()
    assert accounts.vault.ring.ids == (report.kek_id, old)


def test_a_rotation_of_keys_from_the_environment_says_what_to_do(tmp_path, settings):
    import base64

    from hfthot_platform.services.accounts.accounts import Accounts

    first, second = ("k1", bytes(32)), ("k2", bytes(range(32)))

    def spelled(*pairs):
        return ",".join(f"{name}:{base64.b64encode(key).decode()}" for name, key in pairs)

    def opened(*pairs):
        return Accounts.open(
            settings.model_copy(update={"key_source": "environment", "keys": _secret(spelled(*pairs))})
        )

    with opened(first) as accounts:
        made = register(accounts, YAN)
        with pytest.raises(KeySourceError, match="no new key"):
            rotate_keys(accounts)
    with opened(second, first) as accounts:
        assert rotate_keys(accounts).kek_id == "k2"
    with opened(second) as accounts:
        assert accounts.get_user(made.user_id).email == YAN.email
        with pytest.raises(InvalidTokenError):
            accounts.verify_token("x")


def _secret(text):
    from pydantic import SecretStr

    return SecretStr(text)


@pytest.mark.parametrize("active", [False, True], ids=["at rest", "and somebody signed in meanwhile"])
def test_a_clock_a_year_ahead_removes_nothing(accounts, lake, user, clock, settings, active):
    flush(accounts.store, lake)
    clock.forward(days=365)
    if active:
        accounts.update_query_count(user.user_id, "finnhub")
        flush(accounts.store, lake)
    before = lake.table("audit_log").scan().collect().height

    for _ in range(2):
        report = apply_retention(accounts, lake)
        assert "365 days" in report.refused
        assert "hfthot accounts clock --right" in report.refused
        assert (report.audit_rows, report.session_rows, report.sessions, report.erasures) == (0, 0, 0, ())

    assert lake.table("audit_log").scan().collect().height == before
    assert "clock" in lake.table("ops.incidents").scan().collect()["kind"].to_list()

    clock.forward(days=-365)
    mended = apply_retention(accounts, lake)
    assert (mended.refused, mended.audit_rows) == ("", 0), "put right, it is trusted again"


def test_a_store_that_never_saw_the_time_trusts_no_clock_that_the_lake_contradicts(accounts, lake, user, clock):
    flush(accounts.store, lake)
    with accounts.store.transaction() as tx:
        tx.execute(sa.update(schema.change_head).values(seen_at=0, leapt_from=None))
    clock.forward(days=(datetime.now(UTC) - clock()).days + 365)  # the commits have the machine's time

    report = apply_retention(accounts, lake)

    assert "nothing was written" in report.refused
    assert accounts.store.clock_head().seen_at == 0, "and it does not take this time for seen"


def test_a_dry_run_says_what_would_leave_and_changes_nothing(accounts, lake, user, clock, settings):
    accounts.delete_user_soft(user.user_id)
    export_user_data(accounts, lake, accounts.register(YAN.username, YAN.email, YAN.password).user_id)
    flush(accounts.store, lake)
    clock.forward(days=365)
    before = lake.table("audit_log").version(), sorted(Path(settings.exports).rglob("*"))

    foreseen = apply_retention(accounts, lake, dry_run=True)

    assert "365 days" in foreseen.refused
    assert (lake.table("audit_log").version(), sorted(Path(settings.exports).rglob("*"))) == before
    assert pending_erasures(accounts) == []
    accounts.store.accept_clock()
    done = apply_retention(accounts, lake)
    names = ("session_rows", "sessions", "exports", "quarantined_rows", "login_attempts", "user_events")
    assert [getattr(foreseen, name) for name in names] == [getattr(done, name) for name in names]
    assert foreseen.audit_rows == done.audit_rows > 0
    assert (foreseen.exports, foreseen.erasures) == (1, (user.user_id,))


def test_an_erasure_under_a_clock_that_leapt_ahead_is_proven_and_takes_nobodys_history(accounts, lake, user, clock):
    accounts.update_user(user.user_id, preferences={"a": 1})
    other = accounts.register(YAN.username, YAN.email, YAN.password)
    flush(accounts.store, lake)
    versions = len(lake.table("users").readable_versions())
    clock.forward(days=(datetime.now(UTC) - clock()).days + 365)

    request_id = request_erasure(accounts, user.user_id)
    assert run_erasure(accounts, lake, request_id).verification
    assert len(lake.table("users").readable_versions()) >= versions
    assert accounts.get_user(other.user_id).email == YAN.email


def test_a_clock_that_somebody_looked_at_is_trusted(accounts, lake, user, clock):
    clock.forward(days=365)
    accounts.store.accept_clock()
    assert apply_retention(accounts, lake).audit_rows > 0
    clock.forward(days=13)
    apply_retention(accounts, lake)
    clock.forward(days=13)
    apply_retention(accounts, lake)
