"""Which data files the retained versions of a table consist of, told by its log.

Opening thousands of versions one by one takes minutes; following the log from the oldest readable version to the
newest takes as long as reading its entries.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import date

import polars as pl

from hfthot_platform.domain.contracts import TableContract
from hfthot_platform.storage.lakehouse import Lakehouse, Table
from hfthot_platform.storage.lakehouse.log import Added

__all__ = ["RetainedFile", "RetainedVersions", "read_file", "retained"]


@dataclass(frozen=True)
class RetainedFile:
    """A data file of at least one retained version."""

    #: Path below the table's folder.
    name: str
    size: int
    #: Partition values, as the log has them.
    partition: Mapping[str, str | None]
    #: Least and greatest subject in it; None where the log does not say.
    subjects: tuple[str, str] | None

    def may_hold(self, subject_id: str) -> bool:
        """Whether rows of a subject can be in it."""
        return self.subjects is None or self.subjects[0] <= subject_id <= self.subjects[1]


@dataclass(frozen=True)
class RetainedVersions:
    """The retained versions of a table, and every data file that one of them needs."""

    versions: tuple[int, ...]
    files: tuple[RetainedFile, ...]
    #: Names of the newest version's files.
    current: frozenset[str]


def retained(lake: Lakehouse, contract: TableContract) -> RetainedVersions | None:
    """Return what the readable versions of a table consist of, or None for a table that nobody wrote yet.

    Raises:
        LakehouseError: the log cannot be read.
    """
    table = lake.table(contract.name)
    readable = [info.version for info in table.readable_versions()]
    if not readable:
        return None
    active = _active(table, readable[0])
    every = dict(active)
    for version in readable[1:]:
        changes = table.log.changes(version)
        if changes is None:
            active = _active(table, version)
        else:
            active |= {file.name: _added(file, contract.subject) for file in changes.added}
            for removed in changes.removed:
                active.pop(removed.name, None)
        every |= active
    return RetainedVersions(tuple(readable), tuple(every.values()), frozenset(active))


def read_file(lake: Lakehouse, contract: TableContract, file: RetainedFile, columns: list[str]) -> pl.DataFrame:
    """Return columns of a data file; a partition column comes from its path."""
    backend = lake.table(contract.name).backend
    rows = pl.scan_parquet(backend.path_of(file.name), hive_partitioning=False, storage_options=backend.options or None)
    stored = rows.collect_schema().names()
    made = []
    for name in columns:
        column = contract.column(name)
        if name in stored:
            made.append(pl.col(name).cast(column.polars))
        else:
            # A column that came later, or the partition's day.
            day = file.partition.get(name)
            value = None if day is None else date.fromisoformat(day[:10])
            made.append(pl.lit(value, dtype=column.polars).alias(name))
    return rows.select(made).collect()


def _added(file: Added, subject: str | None) -> RetainedFile:
    low, high = (side.get(subject or "") for side in (file.lows, file.highs))
    known = None if low is None or high is None else (str(low), str(high))
    return RetainedFile(file.name, file.size, file.partition, known)


def _active(table: Table, version: int) -> dict[str, RetainedFile]:
    """Return the data files of a version by name, without looking at whether they are there."""
    snapshot = table.opened(version)
    if snapshot is None:
        return {}
    entries = snapshot.files.entries
    columns = {name: entries.column(name).to_pylist() for name in entries.column_names}
    partitions = [name.removeprefix("partition.") for name in columns if name.startswith("partition.")]
    none = [None] * entries.num_rows
    subject = table.contract.subject
    low, high = columns.get(f"min.{subject}", none), columns.get(f"max.{subject}", none)
    found = {}
    for at, name in enumerate(snapshot.names):
        values = {
            column: None if columns[f"partition.{column}"][at] is None else str(columns[f"partition.{column}"][at])
            for column in partitions
        }
        known = None if low[at] is None or high[at] is None else (str(low[at]), str(high[at]))
        found[name] = RetainedFile(name, columns["size_bytes"][at], values, known)
    return found
