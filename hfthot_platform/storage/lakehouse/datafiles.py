"""The data files of a table, written and read one by one, for commits that name exactly the files they change.

The Delta library's own merge and delete write what they look for into the log (the predicate, and the span of
keys that it derives to prune files), and hold everything that they merge in memory.  Here the files are written
first and the log then gains nothing but their names.
"""

from __future__ import annotations

import json
import time
import uuid
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from datetime import UTC, date, datetime
from typing import Any, Final
from urllib.parse import unquote

import polars as pl
from deltalake import DeltaTable
from deltalake.transaction import AddAction, RemoveAction

from hfthot_platform.domain.contracts import TableContract
from hfthot_platform.storage.lakehouse.backends import Backend
from hfthot_platform.storage.lakehouse.commits import active_files
from hfthot_platform.storage.lakehouse.storage import translated

__all__ = ["DataFile", "DataFiles"]

_WORDS_AND_NUMBERS: Final[frozenset[pl.DataType]] = frozenset({pl.String(), pl.Int64(), pl.Int32()})
_TIMES: Final[frozenset[pl.DataType]] = frozenset({pl.Datetime("us", "UTC"), pl.Date()})


@dataclass(frozen=True)
class DataFile:
    """An entry of the log."""

    path: str
    size: int
    rows: int | None
    partition: date | int | None
    lows: Mapping[str, Any]
    highs: Mapping[str, Any]
    nulls: Mapping[str, int] = field(default_factory=dict)


class DataFiles:
    """The files of one version of a table, and those that are written to be part of the next.

    Args:
        contract: the table's contract.
        handle: the version; what is committed goes through it, and fails if another version came since.
        backend: where the files are.
        row_group_rows: rows of a row group of new files.
        times_in_log: whether the log is told the bounds of times too.
    """

    def __init__(
        self,
        contract: TableContract,
        handle: DeltaTable,
        backend: Backend,
        *,
        row_group_rows: int,
        times_in_log: bool,
    ) -> None:
        self.contract = contract
        self._handle = handle
        self._backend = backend
        self._row_group_rows = row_group_rows
        self._in_log = _WORDS_AND_NUMBERS | _TIMES if times_in_log else _WORDS_AND_NUMBERS
        self._written: list[str] = []

    def stored(self) -> Iterator[DataFile]:
        """Yield the files of the version."""
        contract = self.contract
        for entry in active_files(self._handle).to_pylist():
            yield DataFile(
                path=entry["path"],
                size=entry["size_bytes"],
                rows=entry["num_records"],
                partition=entry[f"partition.{contract.partition_by}"] if contract.partition_by else None,
                lows={name: entry.get(f"min.{name}") for name in contract.stats_columns},
                highs={name: entry.get(f"max.{name}") for name in contract.stats_columns},
            )

    def scan(self, file: DataFile) -> pl.LazyFrame:
        """Return a file's rows in the contract's columns and types."""
        contract = self.contract
        frame = pl.scan_parquet(
            self._backend.path_of(unquote(file.path)),
            hive_partitioning=False,
            storage_options=self._backend.options or None,
        )
        there = frame.collect_schema()
        return frame.select(
            (
                pl.lit(file.partition, dtype=column.polars)
                if column.name == contract.partition_by
                else pl.col(column.name).cast(column.polars)
                if column.name in there
                else pl.lit(None, dtype=column.polars)
            ).alias(column.name)
            for column in contract.columns
        )

    def write(self, partition: date | int | None, rows: pl.DataFrame) -> DataFile:
        """Write one file of the partition's rows, sorted as they are given."""
        by = self.contract.partition_by
        name = f"part-{uuid.uuid4()}.snappy.parquet"
        path = f"{by}={partition}/{name}" if by else name
        stored = rows.drop(by) if by else rows
        self._backend.make_room(path)
        self._written.append(path)
        with translated(self.contract.name):
            stored.write_parquet(
                self._backend.path_of(path),
                compression="snappy",
                row_group_size=self._row_group_rows,
                storage_options=self._backend.options or None,
            )
        names = [
            name
            for name in self.contract.stats_columns
            if name in stored.columns and stored.schema[name] in self._in_log
        ]
        return DataFile(
            path,
            self._backend.size_of(path),
            rows.height,
            partition,
            lows={name: value for name in names if (value := stored[name].min()) is not None},
            highs={name: value for name in names if (value := stored[name].max()) is not None},
            nulls={name: stored[name].null_count() for name in names},
        )

    def commit(self, added: Iterable[DataFile], removed: Iterable[DataFile], properties: Any, hooks: Any) -> None:
        """Publish files that were written in the place of stored ones.

        Raises:
            CommitFailedError: another version came since the handle was read; nothing is published.
        """
        now = int(time.time() * 1000)
        by = self.contract.partition_by
        adds = [
            AddAction(file.path, file.size, self._values(file), now, data_change=True, stats=_statistics(file))
            for file in added
        ]
        removes = [
            RemoveAction(
                file.path,
                data_change=True,
                deletion_timestamp=now,
                size=file.size,
                partition_values=self._values(file),
            )
            for file in removed
        ]
        self._handle.create_write_transaction(
            [*adds, *removes],
            "append",
            self._handle.schema(),
            [by] if by else [],
            commit_properties=properties,
            post_commithook_properties=hooks,
        )

    def discard(self) -> None:
        """Delete the new files of a commit that came to nothing; on an object store a vacuum does."""
        self._backend.discard(self._written)

    def _values(self, file: DataFile) -> dict[str, str | None]:
        by = self.contract.partition_by
        return {by: None if file.partition is None else str(file.partition)} if by else {}


def _statistics(file: DataFile) -> str:
    """Return a file's statistics as the log wants them."""
    lows, highs = ({name: _as_json(value) for name, value in side.items()} for side in (file.lows, file.highs))
    return json.dumps({"numRecords": file.rows, "minValues": lows, "maxValues": highs, "nullCount": dict(file.nulls)})


def _as_json(value: Any) -> Any:
    if isinstance(value, datetime):
        # As the Delta library writes them: readers know that the log's times are cut to milliseconds.
        return value.astimezone(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")
    return value.isoformat() if isinstance(value, date) else value
