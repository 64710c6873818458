"""What a commit says of itself: the stamp that goes in, the record that comes out, the table's history."""

from __future__ import annotations

import json
import uuid
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import date, datetime
from typing import Any, Final

import polars as pl
import pyarrow as pa
import pyarrow.compute as pc
from deltalake import CommitProperties, DeltaTable, PostCommitHookProperties, Transaction

from hfthot_platform.core.time import MILLISECOND, moment

__all__ = [
    "LONGEST_BOUND",
    "Commit",
    "CommitInputs",
    "Files",
    "Stamp",
    "VersionInfo",
    "active_files",
    "may_hold_text",
    "new_commit_id",
    "properties",
    "version_info",
]

#: What the Delta library is told of a commit, and what it does after it.
CommitInputs = tuple[CommitProperties, PostCommitHookProperties]

#: Delta cuts longer texts in its statistics: such an upper bound is only the beginning of one.
LONGEST_BOUND: Final = 32

_PREFIX = "hfthot."
#: Version collisions are retried inside delta-rs; logical conflicts are retried as a whole by the table.
_COLLISION_RETRIES = 100


@dataclass(frozen=True)
class Stamp:
    """Who writes and why; it travels in the commit itself.  It must not hold personal data."""

    run_id: str = "manual"
    asset: str = ""
    partition: str = ""
    code_version: str = ""
    #: Versions of the tables that the rows were computed from.
    inputs: Mapping[str, int] = field(default_factory=dict)


@dataclass(frozen=True)
class Commit:
    """The outcome of a write.  `rows_read = rows_published + rows_duplicate + rows_quarantined`."""

    table: str
    #: The version that this write made, or the current one if there was nothing to write (`changed` is False).
    version: int
    changed: bool
    rows_read: int
    rows_published: int
    rows_duplicate: int
    rows_quarantined: int
    #: Of the published rows, those that replaced an earlier value of the same key.
    rows_updated: int = 0
    #: Of the published rows, those that an interrupted earlier run of the same source had already published.
    rows_replayed: int = 0
    #: Rows of forgotten subjects that were deleted or lost their personal columns.
    rows_forgotten: int = 0
    #: Rows of a source that were taken out, and rows that came back because they had given way to those.
    rows_withdrawn: int = 0
    rows_restored: int = 0
    #: UTC days of rows that were added, replaced, taken out or brought back; `Table.publish` tells them.
    days: frozenset[date] = frozenset()
    files_added: int = 0
    bytes_added: int = 0
    seconds: float = 0.0
    attempts: int = 1
    #: Id of the commit that made the version; empty for one that was made by other software.
    commit_id: str = ""

    def with_rejected(self, rows: int) -> Commit:
        """Return the outcome with rows counted in that were quarantined beforehand."""
        return replace(self, rows_read=self.rows_read + rows, rows_quarantined=self.rows_quarantined + rows)


@dataclass(frozen=True)
class VersionInfo:
    """One entry of a table's history."""

    version: int
    #: Time of the commit by its own record, made non-decreasing over versions (Delta protocol, commit time).
    timestamp: datetime
    operation: str
    run_id: str
    rows: int | None
    asset: str = ""
    partition: str = ""
    #: Oldest version that a vacuum left readable; only set on vacuum commits.
    oldest_readable: int | None = None
    commit_id: str = ""
    #: What the rows of a `Table.publish` came from.
    source_ref: str = ""
    #: How many of them took the place of another's.
    updated: int = 0
    #: The version that a restore made current again; None for any other operation.
    restored: int | None = None


@dataclass(frozen=True, eq=False)
class Files:
    """The data files of one version, for readers that open them themselves; told by the log alone.

    Nothing is known of whether they are there: ask `Table.require` of those that are going to be read.
    """

    version: int
    #: Paths or URLs.
    paths: tuple[str, ...]
    #: The log's entries in the same order: `size_bytes`, `num_records`, and the files' statistics `min.<column>`,
    #: `max.<column>` and `partition.<column>` where there are any.  Bounds of times are cut to milliseconds, bounds
    #: of floating-point numbers leave out NaN, and bounds of long texts are shortened.
    entries: pa.Table

    @property
    def bytes(self) -> int:
        """Return the size of all files together."""
        return int(pc.sum(self.entries.column("size_bytes")).as_py() or 0)

    def only(self, positions: Sequence[int]) -> Files:
        """Return some of the files, by their position."""
        # Positions from Polars, because `pyarrow.array` imports pandas too.
        chosen = self.entries.take(pl.Series(positions, dtype=pl.Int64()).to_arrow())
        return Files(self.version, tuple(self.paths[at] for at in positions), chosen)


def may_hold_text(value: str, least: str | None, most: str | None) -> bool:
    """Return whether a file with these bounds of a text column may have rows of a value."""
    if least is None or most is None:
        return True
    return least <= value and (value <= most or len(most) >= LONGEST_BOUND)


def new_commit_id() -> str:
    """Return an id by which a commit is found again in the log."""
    return uuid.uuid4().hex


def properties(
    stamp: Stamp,
    commit_id: str | None = None,
    *,
    alone: bool = False,
    app: tuple[str, int] | None = None,
    **extra: int | str,
) -> CommitInputs:
    """Return the properties that carry the commit id and the stamp into the log.

    With `alone` the commit fails if there is any version since the one that was read, not only a conflicting one.
    `app` is an application's name and how far it has come with this commit.
    """
    values: dict[str, str] = {
        "commit_id": commit_id or new_commit_id(),
        "run_id": stamp.run_id,
        "asset": stamp.asset,
        "partition": stamp.partition,
        "code_version": stamp.code_version,
        "inputs": json.dumps(dict(stamp.inputs), sort_keys=True) if stamp.inputs else "",
    }
    values |= {name: str(value) for name, value in extra.items()}
    custom = {_PREFIX + name: value for name, value in values.items() if value}
    # Log clean-up is a maintenance step under the lock, never a side effect of a write.
    hooks = PostCommitHookProperties(create_checkpoint=True, cleanup_expired_logs=False)
    retries = 0 if alone else _COLLISION_RETRIES
    applications = [Transaction(*app)] if app else None
    return CommitProperties(custom_metadata=custom, max_commit_retries=retries, app_transactions=applications), hooks


def active_files(table: DeltaTable) -> pa.Table:
    """Return the log's entries of a version's data files, one row each, statistics as columns `min.<column>` etc.

    Through a stream, because `pyarrow.table` imports pandas (a second) to see whether it was given a frame.
    """
    return pa.RecordBatchReader.from_stream(table.get_add_actions(flatten=True)).read_all()


def version_info(entry: Mapping[str, Any], version: int, milliseconds: int) -> VersionInfo:
    """Return what a commit's own record says of a version.

    Args:
        entry: the record (`commitInfo`), empty where other software left none.
        version: the version that the commit made.
        milliseconds: when, since 1970.
    """
    rows: int | None = None
    if (stamped := entry.get(_PREFIX + "rows")) is not None:
        rows = int(stamped)
    elif (written := entry.get("operationMetrics", {}).get("num_added_rows")) is not None:
        rows = int(written)
    operation = str(entry.get("operation", "?"))
    if operation == "WRITE":
        operation = str(entry.get("operationParameters", {}).get("mode", "Append")).upper()
    oldest = entry.get(_PREFIX + "oldest_readable")
    return VersionInfo(
        version=version,
        timestamp=moment(milliseconds * MILLISECOND),
        operation=str(entry.get(_PREFIX + "operation", operation)),
        run_id=str(entry.get(_PREFIX + "run_id", "")),
        rows=rows,
        asset=str(entry.get(_PREFIX + "asset", "")),
        partition=str(entry.get(_PREFIX + "partition", "")),
        oldest_readable=int(oldest) if oldest is not None else None,
        commit_id=str(entry.get(_PREFIX + "commit_id", "")),
        source_ref=str(entry.get(_PREFIX + "source_ref", "")),
        updated=int(entry.get(_PREFIX + "updated", 0)),
        restored=int(entry["operationParameters"]["version"]) if operation == "RESTORE" else None,
    )
