"""Keeping tables small and fast: compaction, checkpoint, vacuum, log clean-up, leftovers.

On a local lake everything runs under the exclusive writers' lock, so files of a commit in flight are never
taken for rubbish (a full vacuum beside writers deletes them).  On an object store there is no lock: there
only those files are deleted that the log itself has retired, which is safe beside writers, and leftovers of
crashed writers stay.
"""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any, Final
from urllib.parse import unquote

import polars as pl
import pyarrow as pa
from deltalake import DeltaTable, write_deltalake
from deltalake.exceptions import CommitFailedError

from hfthot_platform.core.errors import ClockError, CommitConflictError
from hfthot_platform.domain.contracts import TableContract
from hfthot_platform.storage.lakehouse.clock import check_clock
from hfthot_platform.storage.lakehouse.commits import Stamp, active_files, properties
from hfthot_platform.storage.lakehouse.days import literal
from hfthot_platform.storage.lakehouse.lake import Lakehouse
from hfthot_platform.storage.lakehouse.storage import translated
from hfthot_platform.storage.lakehouse.table import Table

__all__ = ["MOST_EXPIRED", "MaintenanceReport", "maintain", "overdue_share"]

#: Largest share of a table's rows that maintenance drops as past their retention without being told to.
MOST_EXPIRED: Final = 0.25

#: A partition is compacted when it has at least this many files smaller than the target size.
_SMALL_FILES = 2
_TARGET_BYTES = 128 * 1024 * 1024
#: Compressed size up to which a partition is sorted in memory; rows take about five times that.
SORTABLE_BYTES = 512 * 1024 * 1024


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
    stamp: Stamp | None = None,
) -> MaintenanceReport:
    """Run one round of maintenance on a table.

    Rows that were written longer ago than the contract's retention are dropped, small files are compacted in one
    commit, a checkpoint is written, files and log entries that no retained version needs are removed, and so is what
    crashed writers left behind.

    Args:
        lake: the lake.
        name: the table.
        history_days: for how long old versions stay readable; by default what the contract says.
        most_expired: largest share of the table's rows that may be dropped as past their retention; if there are more,
            none is (`rows_withheld`), since a clock or a contract may be wrong.
        dry_run: only say what would be done; the log's clean-up is not foreseen, and the clock is not doubted.
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
        with table.backend.writers_lock(exclusive=True), table.log.writing() as handle, translated(name):
            overdue = _overdue(table, handle, lake.clock())
            withheld = overdue.rows if overdue.share > most_expired else 0
            if dry_run:
                return _foreseen(table, handle, overdue.rows - withheld, withheld, days, before, started)
            keeps = withheld or doubted or overdue.predicate is None
            expired = 0 if keeps else _expire(handle, overdue, stamp)
            compacted = _compact(table, handle, stamp)
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
        found = _overdue(table, table.log.opened(), lake.clock())
    return found.rows, found.share


def _foreseen(
    table: Table,
    handle: DeltaTable,
    expired: int,
    withheld: int,
    days: float,
    before: tuple[int, int],
    started: float,
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
        files_compacted=sum(map(len, _to_compact(table.contract, handle).values())),
        files_vacuumed=len(_unneeded_files(table, handle, round(days * 24))),
        log_entries_removed=0,
        leftovers_removed=len(table.backend.unfinished()),
        oldest_readable=readable[0].version if readable else None,
        seconds=time.perf_counter() - started,
    )


def _inventory(table: Table) -> tuple[int, int]:
    """Return bytes and number of the table's files; where only the log can tell, of the current data files."""
    return table.backend.inventory() or table.bytes_and_files()


@dataclass(frozen=True)
class _Overdue:
    """Rows whose retention is over, by when they were written."""

    predicate: str | None
    rows: int
    total: int

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
        return _Overdue(None, 0, total)
    limit = now - timedelta(days=contract.retention_days)
    if contract.written_column is not None:
        old = table.scan(handle.version()).filter(pl.col(contract.written_column) < limit.date())
        rows = int(old.select(pl.len()).collect().item())
        return _Overdue(f"{contract.written_column} < {literal(limit.date())}" if rows else None, rows, total)
    column = contract.partition_by
    where = actions.column(f"partition.{column}").to_pylist() if column else [None] * len(counts)
    newest: dict[Any, int] = {}
    for value, written in zip(where, actions.column("modification_time").to_pylist(), strict=True):
        newest[value] = max(newest.get(value, written), written)
    old_ones = {value for value, written in newest.items() if written < limit.timestamp() * 1000}
    rows = sum(count or 0 for value, count in zip(where, counts, strict=True) if value in old_ones)
    if not old_ones:
        return _Overdue(None, 0, total)
    return _Overdue(_among(str(column), old_ones), rows, total)


def _among(column: str, values: Iterable[Any]) -> str:
    return f"{column} IN ({', '.join(literal(value) for value in sorted(values))})"


def _expire(handle: DeltaTable, overdue: _Overdue, stamp: Stamp) -> int:
    """Drop rows past the retention; a later vacuum takes their files."""
    commit, hooks = properties(stamp, operation="EXPIRE")
    metrics = handle.delete(overdue.predicate, commit_properties=commit, post_commithook_properties=hooks)
    return int(metrics.get("num_deleted_rows") or 0)


def _to_compact(contract: TableContract, handle: DeltaTable) -> dict[Any, list[int]]:
    """Return the sizes of the files of each partition that has several small ones."""
    actions = active_files(handle)
    column = f"partition.{contract.partition_by}"
    where = actions.column(column).to_pylist() if contract.partition_by else [None] * actions.num_rows
    files: dict[Any, list[int]] = {}
    for value, size in zip(where, actions.column("size_bytes").to_pylist(), strict=True):
        files.setdefault(value, []).append(size)
    return {
        value: sizes for value, sizes in files.items() if sum(size < _TARGET_BYTES for size in sizes) >= _SMALL_FILES
    }


def _compact(table: Table, handle: DeltaTable, stamp: Stamp) -> int:
    """Write every partition with several small files again as one sorted file: all of them in one commit.

    Partition after partition is read, sorted and handed to the writer, so that one is in memory at a time.  delta-rs'
    own compaction only appends file to file, which loses the order that makes row groups prunable; a partition that is
    too large to sort in memory is written just so.
    """
    contract = table.contract
    handle.update_incremental()
    files = _to_compact(contract, handle)
    if not files:
        return 0
    rows = table.scan(handle.version())
    failure: list[Exception] = []

    def batches() -> Iterator[pa.RecordBatch]:
        try:
            for value, sizes in files.items():
                part = rows
                if contract.partition_by:
                    part = part.filter(pl.col(contract.partition_by) == pl.lit(value))
                if sum(sizes) > SORTABLE_BYTES:
                    for piece in part.collect_batches(maintain_order=True):
                        yield from piece.to_arrow().to_batches()
                else:
                    # One batch: the writer spreads batches over threads, and the rows would lose their order.
                    yield from part.sort(contract.sort_by).collect().rechunk().to_arrow().to_batches()
        except Exception as error:
            # Inside the Arrow stream it would surface as text.
            failure.append(error)
            raise

    commit, hooks = properties(stamp, operation="OPTIMIZE", rows=0)
    schema = pl.DataFrame(schema=rows.collect_schema()).to_arrow().schema
    try:
        write_deltalake(
            handle,
            pa.RecordBatchReader.from_batches(schema, batches()),
            mode="overwrite",
            predicate=_among(contract.partition_by, files) if contract.partition_by else None,
            commit_properties=commit,
            post_commithook_properties=hooks,
        )
    except Exception:
        if failure:
            raise failure[0] from None
        raise
    return sum(map(len, files.values()))


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
