"""Which data files the retained versions of a table consist of, told by its log.

Opening thousands of versions one by one takes minutes; following the log from the oldest readable version to the
newest takes as long as reading its entries.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from datetime import date
from pathlib import Path
from typing import Any
from urllib.parse import unquote

import polars as pl
from deltalake import DeltaTable

from hfthot_platform.domain.contracts import TableContract
from hfthot_platform.storage.lakehouse import Lakehouse
from hfthot_platform.storage.lakehouse.commits import active_files
from hfthot_platform.storage.lakehouse.storage import translated

__all__ = ["Retained", "RetainedFile", "read_file", "retained"]


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
class Retained:
    """The retained versions of a table, and every data file that one of them needs."""

    versions: tuple[int, ...]
    files: tuple[RetainedFile, ...]
    #: Names of the newest version's files.
    current: frozenset[str]


def retained(lake: Lakehouse, contract: TableContract) -> Retained | None:
    """Return what the readable versions of a table consist of, or None for a table that nobody wrote yet.

    Raises:
        LakehouseError: the log cannot be read.
    """
    table = lake.table(contract.name)
    readable = [entry.version for entry in table.readable_versions()]
    if not readable:
        return None
    options = dict(lake.storage.options)
    location = lake.storage.location(contract)
    folder = lake.storage.local_table(contract)
    with translated(contract.name):
        active = dict(_active(DeltaTable(location, version=readable[0], storage_options=options)))
        every = dict(active)
        for version in readable[1:]:
            entry = None if folder is None else folder / "_delta_log" / f"{version:020d}.json"
            if entry is None or not entry.exists():
                active = dict(_active(DeltaTable(location, version=version, storage_options=options)))
            else:
                for action in _actions(entry):
                    if "add" in action:
                        file = _added(action["add"])
                        active[file.name] = file
                    elif "remove" in action:
                        active.pop(unquote(action["remove"]["path"]), None)
            every |= active
    return Retained(tuple(readable), tuple(every.values()), frozenset(active))


def read_file(lake: Lakehouse, contract: TableContract, file: RetainedFile, columns: list[str]) -> pl.DataFrame:
    """Return columns of a data file; a partition column comes from its path."""
    root = lake.storage.local_table(contract)
    source = f"{lake.storage.uri(contract)}/{file.name}" if root is None else root / file.name
    options = dict(lake.storage.options) or None
    rows = pl.scan_parquet(source, hive_partitioning=False, storage_options=options)
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


def _actions(entry: Path) -> Iterator[dict[str, Any]]:
    for line in entry.read_bytes().splitlines():
        if line.strip():
            yield json.loads(line)


def _added(add: Mapping[str, Any]) -> RetainedFile:
    statistics = json.loads(add.get("stats") or "{}")
    low = statistics.get("minValues", {}).get("subject_id")
    high = statistics.get("maxValues", {}).get("subject_id")
    known = None if low is None or high is None else (str(low), str(high))
    return RetainedFile(unquote(add["path"]), int(add["size"]), add.get("partitionValues") or {}, known)


def _active(handle: DeltaTable) -> Iterator[tuple[str, RetainedFile]]:
    actions = active_files(handle)
    columns = {name: actions.column(name).to_pylist() for name in actions.column_names}
    partitions = [name.removeprefix("partition.") for name in columns if name.startswith("partition.")]
    none = [None] * actions.num_rows
    low, high = columns.get("min.subject_id", none), columns.get("max.subject_id", none)
    for at, path in enumerate(columns["path"]):
        values = {
            name: None if columns[f"partition.{name}"][at] is None else str(columns[f"partition.{name}"][at])
            for name in partitions
        }
        known = None if low[at] is None or high[at] is None else (str(low[at]), str(high[at]))
        yield unquote(path), RetainedFile(unquote(path), columns["size_bytes"][at], values, known)
