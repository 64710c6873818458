"""The data files of a table, written and read one by one, for commits that name exactly the files they change.

Every way of writing ends here, so that a data file has one form: sorted, in the contract's columns and types, texts as
Arrow `string` (`Utf8`), which is what readers built on DataFusion want.  The Delta library's own writers store them as
`string_view`, and its merge and delete write what they look for into the log (the predicate, and the span of keys that
it derives to prune files), and hold everything that they merge in memory.  Here the files are written first and the log
then gains nothing but their names.
"""

from __future__ import annotations

import base64
import json
import time
import uuid
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from datetime import UTC, date, datetime
from functools import cached_property
from typing import Any, Final
from urllib.parse import unquote

import polars as pl
import pyarrow as pa
from deltalake import DeltaTable
from deltalake.exceptions import CommitFailedError
from deltalake.transaction import AddAction, RemoveAction

from hfthot_platform.domain.contracts import TableContract
from hfthot_platform.storage.lakehouse.backends import Backend
from hfthot_platform.storage.lakehouse.commits import active_files
from hfthot_platform.storage.lakehouse.storage import translated

__all__ = ["ROW_GROUP_ROWS", "DataFile", "DataFiles"]

#: Rows of a row group where nothing asks for smaller ones.
ROW_GROUP_ROWS: Final = 131_072
#: Rows of a file: 31 bytes a trade make about 128 MB of them.
_MOST_ROWS: Final = 4_000_000
#: So often a commit is moved behind others that concern it not at all.
_MOST_MOVES: Final = 100

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
        row_group_rows: int = ROW_GROUP_ROWS,
        times_in_log: bool = True,
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

    def write_all(self, rows: pl.DataFrame) -> list[DataFile]:
        """Write rows of any partitions, as they are ordered, in files of bounded size."""
        by = self.contract.partition_by
        if not rows.height:
            return []
        parts: dict[Any, pl.DataFrame] = {None: rows}
        if by:
            parts = {key[0]: part for key, part in rows.partition_by(by, as_dict=True, maintain_order=True).items()}
        return [
            self.write(partition, piece) for partition, part in parts.items() for piece in part.iter_slices(_MOST_ROWS)
        ]

    @cached_property
    def _arrow_schema(self) -> str:
        """Return the Arrow schema that a file carries; without it readers take texts for what the writer had."""
        fields = [field.remove_metadata() for field in self.contract.arrow_schema]
        stored = pa.schema([field for field in fields if field.name != self.contract.partition_by])
        return base64.b64encode(stored.serialize().to_pybytes()).decode()

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
                metadata={"ARROW:schema": self._arrow_schema},
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

    def commit(
        self,
        added: Iterable[DataFile],
        removed: Iterable[DataFile],
        properties: Any,
        hooks: Any,
        *,
        concerns: Callable[[int], bool] | None = None,
    ) -> None:
        """Publish files that were written in the place of stored ones.

        Args:
            added: the new files.
            removed: stored ones.
            properties: what the commit says of itself.
            hooks: what the Delta library does after it.
            concerns: of a commit that fails where another version came since the handle was read: whether a version
                concerns what this commit was computed from; where none does, it comes after them.

        Raises:
            CommitFailedError: another version came between; nothing is published.
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
        for moves in range(_MOST_MOVES):
            read = self._handle.version()
            try:
                self._handle.create_write_transaction(
                    [*adds, *removes],
                    "append",
                    self._handle.schema(),
                    [by] if by else [],
                    commit_properties=properties,
                    post_commithook_properties=hooks,
                )
            except CommitFailedError:
                if concerns is None or moves == _MOST_MOVES - 1:
                    raise
                self._handle.update_incremental()
                came = range(read + 1, self._handle.version() + 1)
                if not came or any(map(concerns, came)):
                    raise
            else:
                return

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
