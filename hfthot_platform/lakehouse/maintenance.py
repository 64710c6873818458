"""Keeping tables small and fast: compaction, checkpoint, vacuum, log clean-up, leftovers.

On a local lake everything runs under the exclusive writers' lock, so files of a commit in flight are never
taken for rubbish (a full vacuum beside writers deletes them).  On an object store there is no lock: there
only those files are deleted that the log itself has retired, which is safe beside writers, and leftovers of
crashed writers stay.
"""

from __future__ import annotations

import json
import os
import time
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from urllib.parse import unquote

import polars as pl
from deltalake import DeltaTable, write_deltalake
from deltalake.exceptions import CommitFailedError

from hfthot_platform.contracts import TableContract
from hfthot_platform.errors import CommitConflictError
from hfthot_platform.lakehouse.commits import Stamp, active_files, history_of, properties
from hfthot_platform.lakehouse.lake import Lakehouse
from hfthot_platform.lakehouse.locks import writers_lock
from hfthot_platform.lakehouse.spans import literal
from hfthot_platform.lakehouse.storage import translated
from hfthot_platform.lakehouse.table import Table

__all__ = ["MaintenanceReport", "maintain"]

#: A partition is compacted when it has at least this many files smaller than the target size.
_SMALL_FILES = 2
_TARGET_BYTES = 128 * 1024 * 1024
#: Compressed size up to which a partition is sorted in memory; rows take about five times that.
_SORTABLE_BYTES = 512 * 1024 * 1024


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
    files_compacted: int
    files_vacuumed: int
    log_entries_removed: int
    leftovers_removed: int
    #: Oldest version that stays readable, None for a table nobody wrote yet.
    oldest_readable: int | None
    seconds: float


def maintain(
    lake: Lakehouse, name: str, *, history_days: float | None = None, stamp: Stamp | None = None
) -> MaintenanceReport:
    """Run one round of maintenance on a table.

    Rows past the contract's retention are dropped (by whole partitions where the table has them), small files
    are compacted, a checkpoint is written, files and log entries that no retained version needs are removed, and
    so is what crashed writers left behind.

    Args:
        lake: the lake.
        name: the table.
        history_days: for how long old versions stay readable; by default what the contract says.
        stamp: who and why.

    Raises:
        LockTimeoutError: writers held the table's lock all the time.
        CommitConflictError: a writer of another host committed in between.
    """
    table = lake.table(name)
    contract = table.contract
    started = time.perf_counter()
    folder = lake.storage.local_table(contract)
    before = _inventory(table, folder)
    if table.version() is None:
        return MaintenanceReport(name, *before, *before, 0, 0, 0, 0, 0, None, 0.0)
    days = contract.history_days if history_days is None else history_days
    stamp = stamp or Stamp()
    try:
        with writers_lock(lake.storage.lock_file(contract), exclusive=True), translated(name):
            handle = DeltaTable(lake.storage.location(contract), storage_options=dict(lake.storage.options))
            expired = _expire(lake, contract, handle, stamp)
            compacted = _compact(table, handle, stamp)
            _sync(folder)
            vacuumed = _vacuum(lake, handle, days, stamp, folder)
            handle.create_checkpoint()
            _sync(folder)
            entries = _log_entries(folder)
            handle.cleanup_metadata()
            removed = entries - _log_entries(folder)
            leftovers = _leftovers(folder)
    except CommitFailedError:
        raise CommitConflictError(
            "other writers committed meanwhile; steps that were done stay done",
            where=name,
            hint="Run the maintenance again when the table is quieter.",
        ) from None
    bytes_after, files_after = _inventory(table, folder)
    readable = table.readable_versions()
    return MaintenanceReport(
        table=name,
        bytes_before=before[0],
        bytes_after=bytes_after,
        files_before=before[1],
        files_after=files_after,
        rows_expired=expired,
        files_compacted=compacted,
        files_vacuumed=vacuumed,
        log_entries_removed=removed,
        leftovers_removed=leftovers,
        oldest_readable=readable[0].version if readable else None,
        seconds=time.perf_counter() - started,
    )


def _inventory(table: Table, folder: Path | None) -> tuple[int, int]:
    if folder is None:
        return table.bytes_and_files()
    sizes = [path.stat().st_size for path in folder.rglob("*") if path.is_file()]
    return sum(sizes), len(sizes)


def _sync(folder: Path | None) -> None:
    """Make durable what was just written, before anything is deleted that it stands for."""
    if folder is None:
        return
    for place, _, names in os.walk(folder):
        for name in (*names, "."):
            handle = os.open(Path(place, name), os.O_RDONLY)
            try:
                os.fsync(handle)
            finally:
                os.close(handle)


def _expire(lake: Lakehouse, contract: TableContract, handle: DeltaTable, stamp: Stamp) -> int:
    """Drop rows past the retention, by whole partitions where there are; a later vacuum takes their files."""
    if contract.retention_days is None or contract.time_column is None:
        return 0
    limit = lake.clock().date() - timedelta(days=contract.retention_days)
    if contract.partition_by in {"date", "month"}:
        first = limit if contract.partition_by == "date" else limit.replace(day=1)
        predicate = f"{contract.partition_by} < {literal(first)}"
    else:
        predicate = f"{contract.time_column} < {literal(limit)}"
    commit, hooks = properties(stamp, operation="EXPIRE")
    metrics = handle.delete(predicate, commit_properties=commit, post_commithook_properties=hooks)
    return int(metrics.get("num_deleted_rows") or 0)


def _compact(table: Table, handle: DeltaTable, stamp: Stamp) -> int:
    """Write each partition with several small files again as one sorted file.

    delta-rs only appends file to file, which loses the order that makes row groups prunable; it is left to do so
    where a partition is too large to sort in memory.
    """
    contract = table.contract
    actions = active_files(handle)
    column = f"partition.{contract.partition_by}"
    where = actions.column(column).to_pylist() if contract.partition_by else [None] * actions.num_rows
    files: dict[object, list[int]] = {}
    for value, size in zip(where, actions.column("size_bytes").to_pylist(), strict=True):
        files.setdefault(value, []).append(size)
    compacted = 0
    for value, sizes in files.items():
        if sum(size < _TARGET_BYTES for size in sizes) < _SMALL_FILES:
            continue
        if sum(sizes) > _SORTABLE_BYTES:
            commit, hooks = properties(stamp)
            metrics = handle.optimize.compact(
                [(contract.partition_by, "=", str(value))] if contract.partition_by else None,
                target_size=_TARGET_BYTES,
                commit_properties=commit,
                post_commithook_properties=hooks,
            )
            compacted += int(metrics["numFilesRemoved"])
            continue
        handle.update_incremental()
        rows = table.scan(handle.version())
        if contract.partition_by:
            rows = rows.filter(pl.col(contract.partition_by) == pl.lit(value))
        commit, hooks = properties(stamp, operation="OPTIMIZE", rows=0)
        write_deltalake(
            handle,
            rows.sort(contract.sort_by).collect().rechunk(),
            mode="overwrite",
            predicate=f"{contract.partition_by} = {literal(value)}" if contract.partition_by else None,
            commit_properties=commit,
            post_commithook_properties=hooks,
        )
        compacted += len(sizes)
    return compacted


def _vacuum(lake: Lakehouse, handle: DeltaTable, days: float, stamp: Stamp, folder: Path | None) -> int:
    """Remove data files that no version of the last `days` days needs, and record the oldest readable version."""
    handle.update_incremental()
    hours = round(days * 24)
    doomed = handle.vacuum(hours, dry_run=True, enforce_retention_duration=False, full=folder is not None)
    if folder is not None:
        # Files that an earlier vacuum removed are listed as long as the log remembers them.
        doomed = [path for path in doomed if (folder / unquote(path)).exists()]
    if not doomed:
        return 0
    # A file goes when it was retired before the cutoff, so the version that was current then stays readable.
    cutoff = lake.clock() - timedelta(hours=hours)
    history = history_of(handle)
    floor = next((each.version for each in reversed(history) if each.timestamp <= cutoff), history[0].version)
    gone = {Path(path).name for path in doomed}
    # An early version may need no file at all; the ones after it count as well.
    floor = max(floor, _last_retired(folder, handle.version(), floor, gone))
    while floor < handle.version() and gone & _names(handle, floor, dict(lake.storage.options)):
        floor += 1
    commit, hooks = properties(stamp, oldest_readable=floor)
    handle.vacuum(
        hours,
        dry_run=False,
        enforce_retention_duration=False,
        full=folder is not None,
        commit_properties=commit,
        post_commithook_properties=hooks,
    )
    return len(doomed)


def _last_retired(folder: Path | None, newest: int, floor: int, gone: set[str]) -> int:
    """Return the last version after `floor` that retired one of the files: the ones before it needed it."""
    if folder is None:
        return floor
    for version in range(newest, floor, -1):
        entry = folder / "_delta_log" / f"{version:020d}.json"
        if entry.exists():
            actions = (json.loads(line) for line in entry.read_bytes().splitlines() if b'"remove"' in line)
            if any(Path(unquote(each["remove"]["path"])).name in gone for each in actions if "remove" in each):
                return version
    return floor


def _names(handle: DeltaTable, version: int, options: dict[str, str]) -> set[str]:
    snapshot = DeltaTable(handle.table_uri, version=version, storage_options=options)
    return {Path(path).name for path in snapshot.file_uris()}


def _log_entries(folder: Path | None) -> int:
    return len(list((folder / "_delta_log").glob("*.json"))) if folder else 0


def _leftovers(folder: Path | None) -> int:
    """Remove staging files of writers that died: only under the exclusive lock, when none can be alive."""
    if folder is None:
        return 0
    dead = [*folder.rglob("*.parquet#*"), *folder.rglob("*.json#*"), *(folder / "_delta_log").glob("*.tmp")]
    for path in dead:
        path.unlink(missing_ok=True)
    return len(dead)
