"""What leaves by itself when its time is over: audit entries, sessions, exports, quarantined rows, counters.

The audit log is cut by whole days.  Before the rows go, the last one of them becomes the anchor that the rest of the
chain is proven from; then their files are removed from the disk at once, and with them the older versions of
`audit_log`.  The log only ever grows, so what it said at a time is its rows up to that time.

Softly deleted accounts whose time is over become erasure requests, which `erasure` carries out.
"""

from __future__ import annotations

import shutil
import time
from dataclasses import dataclass
from datetime import date, datetime, timedelta
from functools import partial
from typing import Final

import polars as pl
import sqlalchemy as sa

from hfthot_platform.core.errors import ClockError, PrivacyError
from hfthot_platform.core.time import DAY, microseconds
from hfthot_platform.domain.contracts import TableContract
from hfthot_platform.domain.contracts.accounts import AUDIT_LOG, SESSIONS
from hfthot_platform.services.accounts.accounts import Accounts
from hfthot_platform.services.privacy.erasure import expire_sealed
from hfthot_platform.services.privacy.erasure_requests import request_erasure
from hfthot_platform.services.privacy.export import delete_exports, export_locations
from hfthot_platform.services.privacy.files_of_subject import retained
from hfthot_platform.services.privacy.old_versions import clean_log
from hfthot_platform.services.publication.chain import verify_chain
from hfthot_platform.services.publication.publisher import Publisher, flush
from hfthot_platform.storage.folders import LocalFolder, exports_folder
from hfthot_platform.storage.incidents import Incident, record
from hfthot_platform.storage.lakehouse import Lakehouse, Stamp, check_clock
from hfthot_platform.storage.operational import schema
from hfthot_platform.storage.operational.changes import AuditEvent, to_json
from hfthot_platform.storage.operational.places import forget_places

__all__ = ["RetentionReport", "apply_retention", "cut_audit_log"]

#: Failed sign-ins matter for hours.
_ATTEMPT_DAYS: Final = 1
#: For as long as a file of events may come a second time.
_EVENT_DAYS: Final = 400
#: How long an unfinished export of a process that died may lie.
_UNFINISHED_HOURS: Final = 24
#: The deletion of a day is one commit; a first run over years goes on with the next one.
_MOST_DAYS: Final = 400


@dataclass(frozen=True)
class RetentionReport:
    """What one round removed."""

    #: Rows of `audit_log`, and the last entry that was ever removed (0 if none was).
    audit_rows: int
    audit_anchor: int
    #: Rows of `sessions` in the lake, and in the operational store.
    session_rows: int
    sessions: int
    exports: int
    quarantined_rows: int
    login_attempts: int
    user_events: int
    #: Requests whose proof failed or waited for too long, so that what it sought was destroyed.
    proofs_ended: int
    #: Requests made for softly deleted accounts whose time is over; in a dry run those accounts.
    erasures: tuple[str, ...]
    seconds: float
    #: What kept everything else from being removed, with what to do about it; empty when nothing did.
    refused: str = ""


def apply_retention(
    accounts: Accounts, lake: Lakehouse, *, dry_run: bool = False, stamp: Stamp | None = None
) -> RetentionReport:
    """Remove everything whose time is over, by the settings' periods and the accounts' clock.

    With `dry_run` only say what that would be, also under a clock that leapt ahead; `refused` says then that it did.

    When the clock leapt ahead, what it says is over may not be: then nothing is removed but what is sealed for a proof,
    whose end is promised whatever the clock did.  The report says so in `refused`, and so does an incident.

    Raises:
        PrivacyError: the audit log's chain is broken, so its oldest part, which is evidence of that, stays.
        LockTimeoutError: writers held a table's lock all the time.
    """
    started = time.perf_counter()
    stamp = stamp or Stamp(asset="privacy.retention")
    settings = accounts.settings
    now = accounts.clock()
    moment = microseconds(now)
    if dry_run:
        return _foreseen(accounts, lake, now, started)
    with accounts.store.exclusively("retention", 600.0):
        # First of all, since it is promised whatever else fails.
        proofs_ended = expire_sealed(accounts, lake)
        if refused := _clock_problem(accounts, lake):
            return _nothing(proofs_ended, refused, time.perf_counter() - started)
        flush(accounts.store, lake, stamp=stamp)
        erasures = _due(accounts, moment)
        exports = _old_exports(accounts, moment)
        counts = _old_rows(accounts, moment)
        # A row leaves by its first day, and a session lives for a while after it.
        longest = timedelta(days=settings.session_retention_days, hours=settings.session_hours)
        session_rows = drop_days(lake, SESSIONS, (now - longest).date(), stamp)
        quarantined = _old_quarantine(accounts, lake, now, stamp)
        audit_rows, anchor = cut_audit_log(accounts, lake, stamp=stamp)
        if counts["sessions"] or exports:
            accounts.store.purge()
    return RetentionReport(
        audit_rows=audit_rows,
        audit_anchor=anchor,
        session_rows=session_rows,
        sessions=counts["sessions"],
        exports=exports,
        quarantined_rows=quarantined,
        login_attempts=counts["login_attempts"],
        user_events=counts["user_events"],
        proofs_ended=proofs_ended,
        erasures=tuple(erasures),
        seconds=time.perf_counter() - started,
    )


def _clock_problem(accounts: Accounts, lake: Lakehouse) -> str:
    """Return why the clock is not to be trusted with removing anything, empty if it is; an incident says so too."""
    try:
        # The lake first: the store takes a look at the clock for a proof of it.
        check_clock(lake)
        accounts.store.require_clock()
    except ClockError as error:
        now = accounts.clock()
        record(lake, Incident(f"clock-{now:%Y-%m-%d}", now, "error", "clock", step="retention", message=str(error)))
        return str(error)
    return ""


def _foreseen(accounts: Accounts, lake: Lakehouse, now: datetime, started: float) -> RetentionReport:
    """Return what a round would remove; changes nothing.  What it publishes first is not counted in."""
    settings, moment = accounts.settings, microseconds(now)
    refused = ""
    try:
        check_clock(lake)
        accounts.store.check_clock()
    except ClockError as error:
        refused = str(error)
    longest = timedelta(days=settings.session_retention_days, hours=settings.session_hours)
    audit_limit = now.date() - timedelta(days=settings.audit_retention_days)
    quarantine_limit = (now - timedelta(days=settings.quarantine_retention_days)).date()
    old_sessions, old_attempts, old_events = _past(accounts, moment)
    exports = schema.exports.c
    with accounts.store.reading() as rx:
        anchor = rx.execute(sa.select(sa.func.max(schema.retention_anchors.c.seq))).scalar() or 0
        late = sa.and_(exports.state == "ready", exports.expires_at <= moment)
        counts = [
            int(rx.execute(sa.select(sa.func.count()).select_from(table).where(where)).scalar_one())
            for table, where in (
                (schema.sessions, old_sessions),
                (schema.login_attempts, old_attempts),
                (schema.user_events, old_events),
                (schema.exports, late),
            )
        ]
        due = list(rx.execute(_overdue(moment)).scalars())
    return RetentionReport(
        audit_rows=_rows_before(lake, AUDIT_LOG.name, "date", audit_limit),
        audit_anchor=anchor,
        session_rows=_rows_before(lake, SESSIONS.name, "date", (now - longest).date()),
        sessions=counts[0],
        exports=counts[3],
        quarantined_rows=sum(
            _rows_before(lake, table.contract.name, "quarantined_on", quarantine_limit)
            for table in lake.tables()
            if table.contract.namespace == "quarantine"
        ),
        login_attempts=counts[1],
        user_events=counts[2],
        proofs_ended=0,
        erasures=tuple(due),
        seconds=time.perf_counter() - started,
        refused=refused,
    )


def _rows_before(lake: Lakehouse, name: str, column: str, limit: date) -> int:
    table = lake.table(name)
    if table.version() is None:
        return 0
    return int(table.scan().filter(pl.col(column) < limit).select(pl.len()).collect().item())


def _nothing(proofs_ended: int, refused: str, seconds: float) -> RetentionReport:
    return RetentionReport(
        audit_rows=0,
        audit_anchor=0,
        session_rows=0,
        sessions=0,
        exports=0,
        quarantined_rows=0,
        login_attempts=0,
        user_events=0,
        proofs_ended=proofs_ended,
        erasures=(),
        seconds=seconds,
        refused=refused,
    )


def cut_audit_log(accounts: Accounts, lake: Lakehouse, *, stamp: Stamp) -> tuple[int, int]:
    """Remove the days of the audit log that are past its retention; return rows removed, and the anchor's `seq`.

    Raises:
        PrivacyError: the chain is broken.
    """
    limit = accounts.clock().date() - timedelta(days=accounts.settings.audit_retention_days)
    anchors = schema.retention_anchors
    with accounts.store.reading() as rx:
        known = rx.execute(sa.select(sa.func.max(anchors.c.seq))).scalar() or 0
    # A publisher gives up when somebody else commits to its tables meanwhile: take turns.
    with Publisher(accounts.store, lake).alone():
        table = lake.table(AUDIT_LOG.name)
        if table.version() is None:
            return 0, known
        days = (
            table.scan()
            .group_by("date")
            .agg(pl.col("seq").min().alias("first"), pl.col("seq").max().alias("last"), pl.len().alias("rows"))
            .sort("date")
            .collect()
        )
        end = _prefix(days, limit)
        if end is None:
            clear(lake, limit, stamp)
            return 0, known
        last = int(days.filter(pl.col("date") <= end)["last"].max())  # type: ignore[arg-type]
        if last > known:
            broken = verify_chain(lake, accounts.store).problems
            if broken:
                raise PrivacyError(
                    f"the audit log's chain is broken ({broken[0]}); nothing was removed",
                    where=AUDIT_LOG.name,
                    hint="`hfthot privacy chain` lists the problems. Restore the table first.",
                )
            cut = table.scan().filter(pl.col("seq") == last).select("hash").collect().item()
            with accounts.store.transaction() as tx:
                tx.execute(sa.insert(anchors).values(seq=last, hash=cut, cut_at=tx.now))
                detail = {"up_to": last, "days": accounts.settings.audit_retention_days}
                tx.log([], AuditEvent(action="audit.retention", detail=to_json(detail)))
            known = last
        # From here on a repetition does the same: the anchor says what has to go.
        rows = drop_days(lake, AUDIT_LOG, end + timedelta(days=1), stamp)
        clear(lake, limit, stamp)
    return rows, known


def clear(lake: Lakehouse, limit: date, stamp: Stamp) -> None:
    """Remove the files of days that were cut, also where an earlier round was killed before it did."""
    found = retained(lake, AUDIT_LOG)
    late = (
        file.partition.get("date") or ""
        for file in (found.files if found else ())
        if found and file.name not in found.current
    )
    if any(day < limit.isoformat() for day in late):
        clean_log(lake, AUDIT_LOG, stamp=stamp, keep_history=False)


def _prefix(days: pl.DataFrame, limit: date) -> date | None:
    """Return the last day before `limit` up to which the days hold the beginning of the log, and nothing after it.

    A clock that was set back leaves entries of two days mixed; then both stay until both are past.
    """
    end: date | None = None
    highest = 0
    ordered = list(days.select("date", "first", "last").iter_rows())
    following = [first for _, first, _ in ordered[1:]] + [None]
    for at, (day, _, last) in enumerate(ordered):
        highest = max(highest, last)
        rest = [first for first in following[at:] if first is not None]
        if day < limit and (not rest or min(rest) > highest):
            end = day
    return end


def drop_days(lake: Lakehouse, contract: TableContract, limit: date, stamp: Stamp) -> int:
    """Remove the days before `limit` from a table, a commit each; return the rows."""
    table = lake.table(contract.name)
    if table.version() is None or contract.partition_by is None:
        return 0
    old = table.scan().filter(pl.col("date") < limit).group_by("date").len().sort("date").head(_MOST_DAYS).collect()
    for day in old["date"]:
        table.replace(day, contract.empty(), stamp=stamp)
    return int(old["len"].sum())


def _old_quarantine(accounts: Accounts, lake: Lakehouse, now: datetime, stamp: Stamp) -> int:
    limit = (now - timedelta(days=accounts.settings.quarantine_retention_days)).date()
    removed = 0
    for table in lake.tables():
        contract = table.contract
        if contract.namespace != "quarantine" or table.version() is None:
            continue
        old = table.scan().filter(pl.col("quarantined_on") < limit).select(pl.len()).collect().item()
        if old:
            table.replace(None, partial(_since, limit), stamp=stamp)
            removed += int(old)
    return removed


def _since(limit: date, rows: pl.LazyFrame) -> pl.DataFrame:
    return rows.filter(pl.col("quarantined_on") >= limit).collect()


def _due(accounts: Accounts, now: int) -> list[str]:
    """Ask for the erasure of softly deleted accounts whose time is over."""
    with accounts.store.reading() as rx:
        due = list(rx.execute(_overdue(now)).scalars())
    return [request_erasure(accounts, user_id) for user_id in due]


def _overdue(now: int) -> sa.Select[tuple[str]]:
    """Return the accounts that were deleted softly, whose time is over, and whose erasure nobody asked for yet."""
    users, requests = schema.users.c, schema.erasure_requests.c
    asked = sa.select(requests.subject_id).where(requests.state != "done")
    return sa.select(users.user_id).where(users.erase_after <= now, users.subject_id.not_in(asked))


def _old_exports(accounts: Accounts, now: int) -> int:
    exports = schema.exports
    with accounts.store.reading() as rx:
        locations = export_locations(rx, exports.c.state == "ready", exports.c.expires_at <= now)
    gone = delete_exports(accounts, locations, made=locations)
    # What lies on another host is that host's to delete.
    old = sorted(set(locations) - set(gone.missing))
    with accounts.store.transaction() as tx:
        for start in range(0, len(old), 500):
            part = exports.c.request_id.in_(old[start : start + 500])
            tx.execute(sa.update(exports).where(part).values(state="deleted"))
        if old:
            tx.log([], AuditEvent(action="privacy.exports_expired", detail=to_json({"exports": len(old)})))
    folder = exports_folder(accounts.settings)
    if not isinstance(folder, LocalFolder) or not folder.path.is_dir():
        return len(old)
    for unfinished in folder.path.glob(".*"):
        # The file system's clock, since that is whose time the folder has.
        if time.time() - unfinished.stat().st_mtime > _UNFINISHED_HOURS * 3600:
            shutil.rmtree(unfinished, ignore_errors=True)
    return len(old)


def _old_rows(accounts: Accounts, now: int) -> dict[str, int]:
    """Remove rows of the operational store; the lake has its own of the sessions."""
    sessions, attempts, events = schema.sessions, schema.login_attempts, schema.user_events
    old_sessions, old_attempts, old_events = _past(accounts, now)
    with accounts.store.transaction() as tx:
        counts = {
            "sessions": tx.execute(sa.delete(sessions).where(old_sessions)).rowcount,
            "login_attempts": tx.execute(sa.delete(attempts).where(old_attempts)).rowcount,
            "places": forget_places(tx),
            "user_events": tx.execute(sa.delete(events).where(old_events)).rowcount,
        }
        if any(counts.values()):
            tx.log([], AuditEvent(action="privacy.retention", detail=to_json(counts)))
    return counts


def _past(accounts: Accounts, now: int) -> tuple[sa.ColumnElement[bool], ...]:
    """Return what tells sessions, failed sign-ins and user events that are past their time."""
    sessions, attempts, events = schema.sessions.c, schema.login_attempts.c, schema.user_events.c
    return (
        sessions.expires_at <= now - accounts.settings.session_retention_days * DAY,
        sa.and_(
            attempts.window_start <= now - _ATTEMPT_DAYS * DAY,
            sa.or_(attempts.blocked_until.is_(None), attempts.blocked_until <= now),
        ),
        events.ts <= now - _EVENT_DAYS * DAY,
    )
