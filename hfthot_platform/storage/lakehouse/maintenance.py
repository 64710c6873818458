"""Keeping tables small and fast: compaction, checkpoint, vacuum, log clean-up, leftovers.

On a local lake everything runs under the exclusive writers' lock, so files of a commit in flight are never
taken for rubbish (a full vacuum beside writers deletes them).  On an object store there is no lock: there
only those files are deleted that the log itself has retired, which is safe beside writers, and what crashed writers
left once it is older than any commit under way can be (`ORPHANED`), by the store's own clock.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import date, datetime, timedelta
from typing import Any, Final
from urllib.parse import unquote

import polars as pl
from deltalake import DeltaTable
from deltalake.exceptions import CommitFailedError

from hfthot_platform.core.errors import ClockError, CommitConflictError
from hfthot_platform.storage.lakehouse.clock import check_clock
from hfthot_platform.storage.lakehouse.commits import Stamp, active_files, properties
from hfthot_platform.storage.lakehouse.compaction import TARGET_BYTES, compact, to_compact
from hfthot_platform.storage.lakehouse.datafiles import DataFile, DataFiles
from hfthot_platform.storage.lakehouse.lake import Lakehouse
from hfthot_platform.storage.lakehouse.storage import damaged, translated
from hfthot_platform.storage.lakehouse.table import Table

__all__ = ["MOST_EXPIRED", "ORPHANED", "MaintenanceReport", "maintain", "overdue_share"]

#: A file on an object store that no version names is of a writer that died if it is older.
ORPHANED: Final = timedelta(days=7)
#: Largest share of a table's rows that maintenance drops as past their retention without being told to.
MOST_EXPIRED: Final = 0.25


@dataclass(frozen=True)
class MaintenanceReport:
    """What one round of maintenance did to a table.

    Sizes count everything in its folder, log included; on an object store only the current data files.
    """

    table: str
    bytes_before: int
    bytes_after: int
    files_before: int
    files_after: int
    rows_expired: int
    #: Rows past their retention that stayed, because they are a larger share of the table than may go unasked.
    rows_withheld: int
    files_compacted: int
    files_vacuumed: int
    log_entries_removed: int
    leftovers_removed: int
    #: Oldest version that stays readable, None for a table nobody wrote yet.
    oldest_readable: int | None
    seconds: float


def maintain(
    lake: Lakehouse,
    name: str,
    *,
    history_days: float | None = None,
    most_expired: float = MOST_EXPIRED,
    dry_run: bool = False,
    file_bytes: int = TARGET_BYTES,
    orphaned: timedelta = ORPHANED,
    stamp: Stamp | None = None,
) -> MaintenanceReport:
    """Run one round of maintenance on a table.

    Rows that were written longer ago than the contract's retention are dropped, small files are compacted in one
    commit (range by range of the sort column, so that memory stays bounded), a checkpoint is written, files and log
    entries that no retained version needs are removed, and so is what crashed writers left behind.

    Args:
        lake: the lake.
        name: the table.
        history_days: for how long old versions stay readable; by default what the contract says.
        most_expired: largest share of the table's rows that may be dropped as past their retention; if there are more,
            none is (`rows_withheld`), since a clock or a contract may be wrong.
        dry_run: only say what would be done; the log's clean-up is not foreseen, and the clock is not doubted.
        file_bytes: size of a compacted file: a larger partition becomes several, sorted and without overlap.
        orphaned: age of a file on an object store that no version names, from which on it is of a writer that died.
        stamp: who and why.

    Raises:
        LakeMissingError: there is no lake.
        ClockError: the clock leapt ahead of all that was committed, so nothing is removed for its age.  Without
            history (`history_days` 0) files go whatever their age, and only rows and log entries stay.
        LockTimeoutError: writers held the table's lock all the time.
        CommitConflictError: a writer of another host committed in between.
    """
    table = lake.table(name)
    contract = table.contract
    started = time.perf_counter()
    before = _inventory(table)
    if table.version() is None:
        return MaintenanceReport(name, *before, *before, 0, 0, 0, 0, 0, 0, None, 0.0)
    days = contract.history_days if history_days is None else history_days
    stamp = stamp or Stamp()
    doubted = not dry_run and _clock_is_doubted(lake, days)
    try:
        with table.backend.writers_lock(exclusive=True), _writing(table) as handle, translated(name):
            overdue = _overdue(table, handle, lake.clock())
            withheld = overdue.rows if overdue.share > most_expired else 0
            if dry_run:
                return _foreseen(table, handle, overdue.rows - withheld, withheld, days, before, started, orphaned)
            keeps = withheld or doubted or not overdue.rows
            expired = 0 if keeps else _expire(table, handle, overdue, stamp)
            handle.update_incremental()
            compacted = compact(contract, handle, table.backend, stamp, target=file_bytes)
            # Durable before anything is deleted that it stands for.
            table.backend.make_all_durable()
            vacuumed = _vacuum(lake, table, handle, days, stamp)
            handle.update_incremental()
            table.backend.write_checkpoint(handle)
            table.backend.make_all_durable()
            entries = _log_entries(table)
            if not doubted:
                handle.cleanup_metadata()
            removed = entries - _log_entries(table)
            leftovers = _remove_leftovers(table)
            if days <= contract.history_days:
                # The log forgets what it retired after the contract's days; a longer history may still need it.
                leftovers += _sweep(table, handle, orphaned)
    except CommitFailedError:
        raise CommitConflictError(
            "other writers committed in the meantime; completed steps remain in effect",
            where=name,
            hint="Run the maintenance again when there are fewer writers.",
        ) from None
    bytes_after, files_after = _inventory(table)
    readable = table.readable_versions()
    return MaintenanceReport(
        table=name,
        bytes_before=before[0],
        bytes_after=bytes_after,
        files_before=before[1],
        files_after=files_after,
        rows_expired=expired,
        rows_withheld=withheld,
        files_compacted=compacted,
        files_vacuumed=vacuumed,
        log_entries_removed=removed,
        leftovers_removed=leftovers,
        oldest_readable=readable[0].version if readable else None,
        seconds=time.perf_counter() - started,
    )


def _clock_is_doubted(lake: Lakehouse, days: float) -> bool:
    """Whether the clock may have leapt ahead; an error where files are to go by their age."""
    try:
        check_clock(lake)
    except ClockError:
        if days > 0:
            raise
        return True
    return False


def overdue_share(lake: Lakehouse, name: str) -> tuple[int, float]:
    """Return how many rows of a table are past their retention, and which share of it they are; changes nothing."""
    table = lake.table(name)
    if table.version() is None:
        return 0, 0.0
    with translated(name):
        handle = table.log.open()
        if handle is None:
            raise damaged(name, "_delta_log", "is missing or empty")
        found = _overdue(table, handle, lake.clock())
    return found.rows, found.share


def _foreseen(
    table: Table,
    handle: DeltaTable,
    expired: int,
    withheld: int,
    days: float,
    before: tuple[int, int],
    started: float,
    orphaned: timedelta,
) -> MaintenanceReport:
    """Return what a round would do; files that it would write and retire itself are not counted in."""
    readable = table.readable_versions()
    return MaintenanceReport(
        table=table.contract.name,
        bytes_before=before[0],
        bytes_after=before[0],
        files_before=before[1],
        files_after=before[1],
        rows_expired=expired,
        rows_withheld=withheld,
        files_compacted=sum(
            map(len, to_compact(DataFiles(table.contract, handle, table.backend).stored(), table.contract).values())
        ),
        files_vacuumed=len(_unneeded_files(table, handle, round(days * 24))),
        log_entries_removed=0,
        leftovers_removed=len(table.backend.unfinished()) + len(_orphans(table, handle, orphaned)),
        oldest_readable=readable[0].version if readable else None,
        seconds=time.perf_counter() - started,
    )


def _inventory(table: Table) -> tuple[int, int]:
    """Return bytes and number of the table's files; where only the log can tell, of the current data files."""
    return table.backend.inventory() or table.bytes_and_files()


@contextmanager
def _writing(table: Table) -> Iterator[DeltaTable]:
    with table.log.writing() as handle:
        if handle is None:
            raise damaged(table.contract.name, "_delta_log", "is missing or empty")
        yield handle


@dataclass(frozen=True)
class _Overdue:
    """Rows whose retention is over, by when they were written."""

    rows: int
    total: int
    #: The partitions of which all rows are.
    partitions: frozenset[Any] = frozenset()
    #: The day before which rows were written, where a column says when.
    before: date | None = None

    @property
    def share(self) -> float:
        return self.rows / self.total if self.total else 0.0


def _overdue(table: Table, handle: DeltaTable, now: datetime) -> _Overdue:
    """Find what is past the retention, counted from when it was written, never from what the rows are about.

    A contract may have a column that says when a row was written.  In any other table a file's entry in the log does:
    a partition is past its retention when all of its files are.  Compaction rewrites files, so rows may stay
    longer, as long as their partition is still written to; they never leave early.
    """
    contract = table.contract
    actions = active_files(handle)
    counts = actions.column("num_records").to_pylist()
    total = sum(count or 0 for count in counts)
    if contract.retention_days is None or not counts:
        return _Overdue(0, total)
    limit = now - timedelta(days=contract.retention_days)
    if contract.written_column is not None:
        old = table.scan(handle.version()).filter(pl.col(contract.written_column) < limit.date())
        rows = int(old.select(pl.len()).collect().item())
        return _Overdue(rows, total, before=limit.date())
    column = contract.partition_by
    where = actions.column(f"partition.{column}").to_pylist() if column else [None] * len(counts)
    newest: dict[Any, int] = {}
    for value, written in zip(where, actions.column("modification_time").to_pylist(), strict=True):
        newest[value] = max(newest.get(value, written), written)
    old_ones = {value for value, written in newest.items() if written < limit.timestamp() * 1000}
    rows = sum(count or 0 for value, count in zip(where, counts, strict=True) if value in old_ones)
    return _Overdue(rows, total, partitions=frozenset(old_ones))


def _expire(table: Table, handle: DeltaTable, overdue: _Overdue, stamp: Stamp) -> int:
    """Drop rows past the retention; a later vacuum takes their files."""
    contract = table.contract
    data = DataFiles(contract, handle, table.backend)
    column = contract.written_column
    added: list[DataFile] = []
    removed: list[DataFile] = []
    for file in data.stored():
        if column is None:
            if file.partition in overdue.partitions:
                removed.append(file)
            continue
        rows = data.scan(file).collect()
        stay = rows.filter((pl.col(column) >= overdue.before) | pl.col(column).is_null())
        if stay.height < rows.height:
            removed.append(file)
            added += data.write_all(stay)
    commit, hooks = properties(stamp, alone=True, operation="EXPIRE", rows=0)
    data.commit(added, removed, commit, hooks)
    return overdue.rows


def _vacuum(lake: Lakehouse, table: Table, handle: DeltaTable, days: float, stamp: Stamp) -> int:
    """Remove data files that no version of the last `days` days needs, and record the oldest readable version."""
    handle.update_incremental()
    hours = round(days * 24)
    unneeded = _unneeded_files(table, handle, hours)
    if not unneeded:
        return 0
    # A file goes when it was retired before the cutoff, so the version that was current then stays readable.
    cutoff = lake.clock() - timedelta(hours=hours)
    history = table.log.history()
    before = (info.version for info in reversed(history) if info.timestamp <= cutoff)
    floor = next(before, history[0].version)
    gone = set(unneeded)
    # An early version may need no file at all; the ones after it count as well.
    floor = max(floor, _last_retired(table, handle.version(), floor, gone))
    while floor < handle.version() and gone & _names(table, floor):
        floor += 1
    commit, hooks = properties(stamp, oldest_readable=floor)
    handle.vacuum(
        hours,
        dry_run=False,
        enforce_retention_duration=False,
        full=table.backend.locks,
        commit_properties=commit,
        post_commithook_properties=hooks,
    )
    return len(unneeded)


def _unneeded_files(table: Table, handle: DeltaTable, hours: int) -> list[str]:
    """Return the names of the data files that no version of the last hours needs.

    Beside writers (where no lock keeps them out) only those go that the log itself retired.
    """
    full = table.backend.locks
    # What the log retired is told by a handle for reading, which costs no requests.
    looking = handle if full else table.log.handle(handle.version())
    unneeded = looking.vacuum(hours, dry_run=True, enforce_retention_duration=False, full=full)
    # Files that an earlier vacuum removed are listed as long as the log remembers them.
    return table.backend.present(unquote(name) for name in unneeded)


def _last_retired(table: Table, newest: int, floor: int, gone: set[str]) -> int:
    """Return the last version after `floor` that retired one of the files: the ones before it needed it."""
    for version in range(newest, floor, -1):
        changes = table.log.changes(version)
        if changes is not None and any(file.name in gone for file in changes.removed):
            return version
    return floor


def _names(table: Table, version: int) -> set[str]:
    """Return the names of a version's data files."""
    return {unquote(name) for name in active_files(table.log.handle(version)).column("path").to_pylist()}


def _log_entries(table: Table) -> int:
    return sum(name.endswith(".json") for name in table.log.log_names())


def _remove_leftovers(table: Table) -> int:
    """Remove staging files of writers that died: only under the exclusive lock, when none can be alive."""
    dead = table.backend.unfinished()
    for name in dead:
        table.backend.remove(name)
    return len(dead)


def _orphans(table: Table, handle: DeltaTable, age: timedelta) -> list[str]:
    """Return the files of writers that died on an object store; a request for a thousand objects."""
    if table.backend.locks:
        return []
    looking = table.log.handle(handle.version())
    # All that the log ever retired and still remembers: old versions that can be read need some of it.
    retired = looking.vacuum(0, dry_run=True, enforce_retention_duration=False, full=False)
    active = active_files(looking).column("path").to_pylist()
    return table.backend.orphans({unquote(name) for name in (*retired, *active)}, age)


def _sweep(table: Table, handle: DeltaTable, age: timedelta) -> int:
    """Remove the files of writers that died."""
    dead = _orphans(table, handle, age)
    table.backend.remove_all(dead)
    return len(dead)
