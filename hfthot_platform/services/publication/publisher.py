"""From the change log to the user tables: in order, in batches, each entry exactly once in each table.

How far a table has come is written in the very commit that takes it there (a Delta application transaction), so
a publisher that dies between two tables is continued by the next one: tables that have a stretch already skip
it.  `audit_log` has a row for every entry and is published last; where it ends, all tables are, and the log is
trimmed up to there.

An entry that a table's contract refuses is set aside in the store, with an incident, and the others go on: its audit
entry is published in its place, so that the chain stays whole, and only its rows wait, with those of later entries of
the same subject behind them.  `retry` publishes them once nothing speaks against them any more.
"""

from __future__ import annotations

import gc
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from itertools import count
from operator import attrgetter, itemgetter
from typing import TYPE_CHECKING, Any, Final

import polars as pl
import sqlalchemy as sa
from sqlalchemy.engine import CursorResult
from sqlalchemy.sql import Executable

from hfthot_platform.core.errors import AuditFailedError, LockTimeoutError, SchemaMismatchError, StoreError
from hfthot_platform.core.time import DAY, moment
from hfthot_platform.domain.contracts import TableContract
from hfthot_platform.domain.contracts.accounts import AUDIT_LOG, USER_TABLES
from hfthot_platform.domain.contracts.model import TIME
from hfthot_platform.services.publication.chain import chain_gaps_of
from hfthot_platform.storage.incidents import Incident, record
from hfthot_platform.storage.lakehouse import Commit, Lakehouse, Stamp
from hfthot_platform.storage.lakehouse.audit import Audited
from hfthot_platform.storage.lakehouse.locks import writers_lock
from hfthot_platform.storage.operational import schema
from hfthot_platform.storage.operational.changes import AuditEvent, Entry, RowChange, encode, to_json
from hfthot_platform.storage.operational.store import SetAsideEntry, Store

if TYPE_CHECKING:
    from hfthot_platform.services.publication.restore import Reconciliation

__all__ = ["APPLICATION", "Published", "Publisher", "flush"]

#: Name of the change log in the commits of the user tables.
APPLICATION: Final = "hfthot.accounts"
#: Entries that become one commit per table, and entries that are decoded at a time: memory is bounded by both.
BATCH: Final = 100_000
PAGE: Final = 5_000
#: Seconds to wait for another publisher.
PATIENCE: Final = 120.0
_ADVISORY: Final = 0x68667468_6F740002  # "hfthot", publisher
#: Name of what was set aside and published later, in the commits of the user tables.
_RETRIES: Final = "hfthot.accounts.retried"
_BEHIND: Final = "an earlier entry of the same subject is still waiting"
_CHUNK: Final = 500
_LONGEST: Final = 500
_SUBJECT: Final = 32


@dataclass(frozen=True)
class Published:
    """What one call published.  Without entries `first_seq` is one more than `last_seq`."""

    first_seq: int
    last_seq: int
    commits: tuple[Commit, ...] = ()
    #: Set where the store had been restored from before what the lake has: what was done about it.
    reconciled: Reconciliation | None = None
    #: Entries that were set aside.
    set_aside: tuple[int, ...] = ()

    @property
    def entries(self) -> int:
        """Return how many entries of the log were published."""
        return self.last_seq - self.first_seq + 1


class Publisher:
    """Applies the change log of a store to the user tables of a lake.  Several may be run; they take turns.

    Example:
        >>> Publisher(store, lake).publish()
        Published(first_seq=1, last_seq=42, commits=(...))
    """

    def __init__(self, store: Store, lake: Lakehouse) -> None:
        self._store = store
        self._lake = lake

    def behind(self) -> int:
        """Return how many entries of the log are not in all tables yet."""
        return max(0, self._store.head()[0] - self.reached())

    def publish(self, limit: int | None = None, *, stamp: Stamp | None = None) -> Published:
        """Publish what is in the log, or the next `limit` entries.

        An entry that breaks a table's contract is set aside (see the module), and the others go on.

        Raises:
            StoreError: the lake was restored from before what was published, or does not belong to this store.
            LockTimeoutError: another publisher worked for longer than two minutes.
            CommitConflictError: another publisher went on where this one had lost its lock.
        """
        with self.alone():
            reached, reconciled = self._reconcile()
            # A publisher that was killed after its last commit did not trim any more.
            self.trim_log(reached)
            aside = {waiting.entry.seq: waiting for waiting in self._store.waiting_aside()}
            known = set(aside)
            done = self._drained(Published(reached + 1, reached, reconciled=reconciled), aside, limit, stamp or Stamp())
            if set(aside) > known:
                # A row that a later one of the same key replaces does no harm any more.
                self._retried(stamp or Stamp())
                left = {waiting.entry.seq: waiting for waiting in self._store.waiting_aside()}
                self._report([left[seq] for seq in sorted(left.keys() - known)])
                done = self._drained(done, left, limit, stamp or Stamp())
                done = replace(done, set_aside=tuple(sorted(left.keys() - known)))
        return done

    def _drained(self, done: Published, aside: dict[int, SetAsideEntry], limit: int | None, stamp: Stamp) -> Published:
        """Publish what follows, and add to `aside` what is refused."""
        most = BATCH
        while limit is None or done.entries < limit:
            batch = _FoldedEntries({contract.name: self._applied(contract) for contract in USER_TABLES}, aside)
            room = most if limit is None else min(most, limit - done.entries)
            try:
                with _without_collector():
                    for entry in self._next(done.last_seq, room):
                        batch.add(entry)
                if batch.last is None:
                    break
                audited = batch.audited(self._lake)
            except (AuditFailedError, SchemaMismatchError) as error:
                # Which entry it is shows when it is judged alone.
                most = min(room, batch.entries) // 2
                if most < 1:
                    first = next(self._next(done.last_seq, 1))
                    aside |= self.put_aside([self._refused(first, aside.get(first.seq), _said(error))])
                    most = BATCH
                continue
            aside |= self.put_aside([(entry, True, _BEHIND) for entry in batch.behind])
            commits = self.apply_entries(batch, audited, stamp)
            self.trim_log(batch.last)
            most = BATCH
            done = replace(done, last_seq=batch.last, commits=(*done.commits, *commits))
        return done

    def retry(self, *, stamp: Stamp | None = None) -> tuple[int, ...]:
        """Publish what was set aside and is good now, in the order of each subject; return the entries.

        Raises:
            LockTimeoutError: another publisher worked for longer than two minutes.
        """
        with self.alone():
            return self._retried(stamp or Stamp())

    def _retried(self, stamp: Stamp) -> tuple[int, ...]:
        done: list[int] = []
        for waiting in _related(self._store.waiting_aside()):
            # Later entries of the subject wait too, so nothing newer of it is in the tables.
            batch = _FoldedEntries(dict.fromkeys((contract.name for contract in USER_TABLES), 0), {})
            try:
                for aside in waiting:
                    batch.add(aside.entry, log=not aside.audited)
                audited = batch.audited(self._lake)
            except (AuditFailedError, SchemaMismatchError):
                continue
            for name, rows in audited.items():
                table = self._lake.table(name)
                number = table.applied(_RETRIES) + 1
                table.apply(rows, app=(_RETRIES, number), stamp=replace(stamp, asset=name))
            done += [aside.entry.seq for aside in waiting]
        if done:
            with self._store.transaction() as tx:
                for start in range(0, len(done), _CHUNK):
                    chosen = schema.set_aside.c.seq.in_(done[start : start + _CHUNK])
                    tx.execute(sa.delete(schema.set_aside).where(chosen))
                tx.log([], AuditEvent(action="publisher.retry", detail=to_json({"entries": len(done)})))
        return tuple(sorted(done))

    def _refused(self, entry: Entry, known: SetAsideEntry | None, reason: str) -> tuple[Entry, bool, str]:
        """Return what has to wait of an entry that is refused: its rows, its audit event (`False`), or both."""
        rows, event = self._taken(entry, log=False), self._taken(replace(entry, rows=()))
        rows, event = rows and not (known and known.entry.rows), event and (known is None or known.audited)
        if rows and event:  # refused together, and neither alone
            rows = event = False
        return replace(entry, rows=()) if rows else entry, event, reason

    def _taken(self, entry: Entry, *, log: bool = True) -> bool:
        batch = _FoldedEntries(dict.fromkeys((contract.name for contract in USER_TABLES), 0), {})
        try:
            batch.add(entry, log=log)
            batch.audited(self._lake)
        except (AuditFailedError, SchemaMismatchError):
            return False
        return True

    def put_aside(self, refused: list[tuple[Entry, bool, str]]) -> dict[int, SetAsideEntry]:
        """Keep entries in the store until they are retried; `False` where `audit_log` does not take them either."""
        if not refused:
            return {}
        subjects = schema.subjects.c
        kept = {}
        with self._store.transaction() as tx:
            for entry, audited, reason in refused:
                subject = _whose(entry)
                aside = kept[entry.seq] = SetAsideEntry(entry, subject, reason, audited, tx.now)
                tx.execute(sa.delete(schema.set_aside).where(schema.set_aside.c.seq == entry.seq))
                erased = sa.select(subjects.erased_at).where(subjects.subject_id == subject)
                if audited and tx.execute(erased).scalar() is not None:
                    continue  # its rows would go with the next entries anyway
                values = {
                    "seq": entry.seq,
                    "ts": entry.ts,
                    "subject_id": subject,
                    "payload": encode(entry),
                    "reason": reason,
                    "audited": audited,
                    "set_aside_at": aside.set_aside_at,
                }
                tx.execute(sa.insert(schema.set_aside).values(values))
                detail = to_json({"entry": entry.seq, "reason": reason})
                tx.log([], AuditEvent(action="publisher.set_aside", detail=detail))
        return kept

    def _report(self, waiting: list[SetAsideEntry]) -> None:
        for aside in waiting:
            incident = Incident(
                incident_id=f"set-aside-{aside.entry.seq}",
                ts=moment(aside.set_aside_at),
                severity="error",
                kind="set_aside",
                step="publisher",
                message=f"entry {aside.entry.seq} was set aside: {aside.reason}",
            )
            record(self._lake, incident)

    @contextmanager
    def alone(self) -> Iterator[None]:
        """Keep all publishers of this log waiting for the duration of the block.

        Raises:
            LockTimeoutError: another publisher worked for longer than two minutes.
        """
        files = self._store.files()
        if files:
            with writers_lock(files[0].with_name("publisher.lock"), exclusive=True, timeout=PATIENCE):
                yield
        else:
            with self._store.reading() as session, _advisory_lock(session.execute):
                yield

    def _reconcile(self) -> tuple[int, Reconciliation | None]:
        """Return the last entry that all tables have, once it is sure that what waits follows from it.

        A store that was restored from an older backup goes on after the lake's entries.
        """
        from hfthot_platform.services.publication.restore import compare_chains, follow_the_lake, unrelated_error

        reached = self.reached()
        comparison = compare_chains(self._lake, self._store, reached)
        if comparison.state == "unrelated":
            raise unrelated_error(comparison)
        if comparison.state == "lake_behind":
            raise StoreError(
                f"the user tables end at entry {reached}, but later entries were published and are lost",
                where="change_log",
                hint="The lake was restored from an older backup than the store. `hfthot accounts restore` "
                "continues without these entries and records the loss.",
            )
        if comparison.state == "store_behind":
            return reached, follow_the_lake(self._lake, self._store, comparison)
        # Entries that are known to be lost are passed over.
        _, resumed, _ = chain_gaps_of(self._store).get(reached, ("", reached, ""))
        return max(reached, resumed), None

    def trim_log(self, last: int) -> None:
        """Remove entries that all tables have, in steps between which other writers of the store come in."""
        while (left := self._store.entries(0, 1)) and left[0].seq <= last:
            self._store.trim(min(last, left[0].seq + PAGE))

    def reached(self) -> int:
        """Return the last entry that all user tables have."""
        return self._applied(AUDIT_LOG)

    def _applied(self, declared: TableContract) -> int:
        return self._lake.table(declared.name).applied(APPLICATION)

    def _next(self, after: int, room: int) -> Iterator[Entry]:
        """Yield the entries that follow, without gaps."""
        while room > 0:
            page = self._store.entries(after, min(room, PAGE))
            for entry in page:
                if entry.seq != after + 1:
                    raise StoreError(
                        f"entry {after + 1} is missing; the next one is {entry.seq}",
                        where="change_log",
                        hint="The change log is damaged. Restore the newest backup of the store.",
                    )
                after = entry.seq
                yield entry
            room -= len(page)
            if len(page) < min(room + len(page), PAGE):
                return

    def apply_entries(self, batch: _FoldedEntries, audited: Mapping[str, Audited], stamp: Stamp) -> list[Commit]:
        commits = []
        for declared in USER_TABLES:
            fold = batch.tables[declared.name]
            forget = fold.forgotten()
            if not fold.rows and not forget:
                continue
            audit = declared is AUDIT_LOG
            commit = self._lake.table(declared.name).apply(
                audited.get(declared.name),
                forget=() if audit else forget,
                redact=forget if audit else (),
                app=(APPLICATION, batch.last or 0),
                since=fold.since,
                stamp=replace(stamp, asset=declared.name),
            )
            if commit.changed:
                commits.append(commit)
        return commits


@contextmanager
def _without_collector() -> Iterator[None]:
    """Keep the cycle collector away from the growing batch: without cycles, two fifths of the time."""
    was_enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was_enabled:
            gc.enable()


@contextmanager
def _advisory_lock(execute: Callable[[Executable], CursorResult[Any]]) -> Iterator[None]:
    """Hold PostgreSQL's lock of the publisher; it ends with the session if this process dies."""
    deadline = time.monotonic() + PATIENCE
    while not execute(sa.select(sa.func.pg_try_advisory_lock(_ADVISORY))).scalar():
        if time.monotonic() > deadline:
            raise LockTimeoutError(
                f"another publisher held the lock for {PATIENCE:g} s",
                where="change_log",
                hint="Wait for it to end, then run the same step again.",
            )
        time.sleep(0.02)
    try:
        yield
    finally:
        execute(sa.select(sa.func.pg_advisory_unlock(_ADVISORY)))


def flush(store: Store, lake: Lakehouse, *, stamp: Stamp | None = None) -> Published | None:
    """Publish what waits, so that whoever wrote to the store reads it from the lake; None if nothing waits."""
    return Publisher(store, lake).publish(stamp=stamp) if store.entries(0, 1) else None


class _FoldedEntries:
    """Entries folded to the last row of each key, per table."""

    def __init__(self, reached: Mapping[str, int], aside: Mapping[int, SetAsideEntry]) -> None:
        self.tables = {contract.name: Fold(contract, reached[contract.name]) for contract in USER_TABLES}
        self.last: int | None = None
        self.entries = 0
        #: Entries that have to wait because an earlier one of the same subject does.
        self.behind: list[Entry] = []
        self._aside = aside
        self._held = {subject for waiting in aside.values() for subject in _subjects(waiting.entry)}
        self._order = count(1)

    def audited(self, lake: Lakehouse) -> dict[str, Audited]:
        """Return the rows of each table, all of which its contract takes.

        Raises:
            AuditFailedError, SchemaMismatchError: it does not take one.
        """
        return {name: lake.table(name).audit_all(fold.frame()) for name, fold in self.tables.items() if fold.rows}

    def add(self, entry: Entry, *, log: bool = True) -> None:
        """Take an entry: its rows unless they wait, and its audit event (`log`) unless that waits."""
        self.entries += 1
        known = self._aside.get(entry.seq)
        rows: Iterable[RowChange] = entry.rows
        if known is not None and known.entry.rows:
            rows = ()
        elif self._held and any(change.op == "put" and _subject(change) in self._held for change in rows):
            self.behind.append(entry)
            rows = ()
        self._rows(entry, rows)
        trail = self.tables[AUDIT_LOG.name]
        if entry.seq > trail.since and log and (known is None or known.audited):
            values = (entry.ts, *_EVENT(entry.audit), entry.personal_digest, False, entry.previous_hash, entry.hash)
            trail.rows[entry.seq] = (next(self._order), entry.seq, *values)
        self.last = entry.seq

    def _rows(self, entry: Entry, changes: Iterable[RowChange]) -> None:
        for change in changes:
            fold = self.tables.get(change.table)
            if fold is None or (change.op == "put" and change.table == AUDIT_LOG.name):
                raise _unfit(entry, "changes a table that is not in the change log")
            if str(change.op) not in {"put", "forget"} or _subject(change) is None:
                raise _unfit(entry, "has a malformed row")
            if entry.seq <= fold.since:
                continue
            if change.op == "forget":
                fold.forget(change.row["subject_id"], next(self._order))
            else:
                fold.put(entry.seq, change.row, next(self._order))


def _subject(change: RowChange) -> str | None:
    """Return whose row a change is about, None where it says nothing that could be a subject."""
    row: Any = change.row  # read from the log: it can be anything
    subject = row.get("subject_id") if isinstance(row, Mapping) else None
    return subject if isinstance(subject, str) and len(subject) <= _SUBJECT else None


def _subjects(entry: Entry) -> set[str]:
    return {subject for subject in map(_subject, entry.rows) if subject is not None}


def _related(waiting: list[SetAsideEntry]) -> list[list[SetAsideEntry]]:
    """Group entries whose rows are of the same subjects, each group in order."""
    groups: list[tuple[set[str], list[SetAsideEntry]]] = []
    for aside in waiting:
        subjects, entries = _subjects(aside.entry), [aside]
        for group in [group for group in groups if group[0] & subjects]:
            groups.remove(group)
            subjects, entries = group[0] | subjects, group[1] + entries
        groups.append((subjects, entries))
    return [sorted(entries, key=lambda aside: aside.entry.seq) for _, entries in groups]


def _whose(entry: Entry) -> str | None:
    """Return the subject that an entry changes rows of, or that its event is about."""
    return next(filter(None, map(_subject, entry.rows)), entry.audit.subject_id)


def _unfit(entry: Entry, what: str) -> AuditFailedError:
    return AuditFailedError(f"entry {entry.seq} {what}", where="change_log", hint="Correct the code that wrote it.")


def _said(error: AuditFailedError | SchemaMismatchError) -> str:
    return f"{error.where}: {error.what}"[:_LONGEST]


#: The columns of `audit_log` that an entry's event holds, and the others, in the order in which they are kept.
_OF_EVENT: Final = (
    "subject_id",
    "actor_id",
    "action",
    "outcome",
    "resource",
    "detail",
    "ip",
    "user_agent",
    "personal_detail",
)
_OF_ENTRY: Final = ("ts", *_OF_EVENT, "personal_digest", "redacted", "previous_hash", "hash")
_EVENT: Final = attrgetter(*_OF_EVENT)


class Fold:
    """What a batch does to one table: the last row per key, and whom to forget.

    Rows are kept as tuples (position in the batch, entry, values), which become columns in one go.
    """

    def __init__(self, contract: TableContract, since: int) -> None:
        self.contract = contract
        #: The entry that the table has reached; entries up to it are not for it any more.
        self.since = since
        self.rows: dict[Any, tuple[Any, ...]] = {}
        self._forgotten: dict[str, int] = {}
        derived = {contract.partition_by, "seq", "schema_version"}
        names = [name for name in contract.column_names if name not in derived]
        self._columns = _OF_ENTRY if contract is AUDIT_LOG else tuple(names)
        self._pick = itemgetter(*self._columns)
        # The day of its time stands for the partition, where that is part of the key.
        self._key = itemgetter(*(name for name in contract.primary_key if name != contract.partition_by))
        self._dated = contract.partition_by in contract.primary_key
        self.subject_at = 2 + self._columns.index("subject_id")

    def put(self, seq: int, row: Mapping[str, Any], order: int) -> None:
        """Take a row; it replaces the one of its key."""
        try:
            values = self._pick(row)
            key = (row[self.contract.time_column or ""] // DAY, *self._key(row)) if self._dated else self._key(row)
        except (KeyError, TypeError):
            raise self._refused(seq, "lacks a column, or has an invalid time") from None
        if len(row) != len(self._columns):
            raise self._refused(seq, "has a column that the table does not have")
        self.rows[key] = (order, seq, *values)

    def forget(self, subject_id: str, order: int) -> None:
        """Take the deletion, or redaction, of what there is of a subject up to here."""
        self._forgotten[subject_id] = order

    def forgotten(self) -> list[str]:
        """Return the subjects whose stored rows are to be deleted or redacted."""
        return list(self._forgotten)

    def frame(self) -> pl.DataFrame:
        """Return the rows that outlive the batch, in the contract's columns and types."""
        rows: Iterable[tuple[Any, ...]] = self.rows.values()
        if self._forgotten:
            rows = self._outliving(rows)
        values = list(zip(*rows, strict=True)) or [()] * (2 + len(self._columns))
        columns = {"seq": pl.Series("seq", values[1], dtype=pl.Int64)}
        for name, given in zip(self._columns, values[2:], strict=True):
            column = self.contract.column(name)
            time = column.dtype == TIME
            try:
                series = pl.Series(name, given, dtype=pl.Int64() if time else column.polars, strict=True)
            except (TypeError, OverflowError, pl.exceptions.PolarsError):
                # The library's message quotes the value.
                what = f"or one of the {len(given)} up to {values[1][-1]} has a value of a wrong type in {name!r}"
                raise self._refused(values[1][0], what) from None
            columns[name] = series.cast(column.polars) if time else series
        return pl.DataFrame(columns)

    def _outliving(self, rows: Iterable[tuple[Any, ...]]) -> Iterator[tuple[Any, ...]]:
        blank = dict.fromkeys(2 + self._columns.index(c.name) for c in self.contract.columns if c.personal)
        for row in rows:
            if row[0] > self._forgotten.get(row[self.subject_at], 0):
                yield row
            elif self.contract is AUDIT_LOG:
                blank[2 + self._columns.index("redacted")] = True
                yield tuple(blank.get(i, value) for i, value in enumerate(row))

    def _refused(self, seq: int, what: str) -> AuditFailedError:
        return AuditFailedError(
            f"entry {seq} {what}",
            where=self.contract.name,
            hint="Nothing of its batch was published. Correct the code that wrote it.",
        )
