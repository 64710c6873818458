"""What one version of a table consists of: its files with their statistics, its schema, its rows.

A snapshot never changes, and is told by the log alone: no data file is opened to make one.  What does not belong here:
which version is the newest, and which are kept in memory (`read`).
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from datetime import date, datetime
from functools import cached_property
from typing import Any, Literal
from urllib.parse import unquote

import polars as pl
import pyarrow as pa
from deltalake import DeltaTable
from deltalake.schema import Field, Schema

from hfthot_platform.core.errors import DamagedTableError, SchemaMismatchError
from hfthot_platform.domain.contracts import TableContract
from hfthot_platform.storage.lakehouse.commits import Files
from hfthot_platform.storage.lakehouse.log import DeltaLog
from hfthot_platform.storage.lakehouse.storage import damaged

__all__ = ["Snapshot", "needs_migration", "wrong_type"]


class Snapshot:
    """One version of a table."""

    def __init__(self, contract: TableContract, log: DeltaLog, handle: DeltaTable) -> None:
        """Take down what the handle says now; it may move on afterwards."""
        self.contract = contract
        self.version: int = handle.version()
        self._log = log
        self._backend = log.backend
        self._fields: tuple[Field, ...] = tuple(handle.schema().fields)
        self._view = _PinnedTable(handle, self._backend.location, self._backend.options)
        entries = self._view.actions.flatten()
        #: Names of the data files below the table's root.
        self.names = tuple(unquote(name) for name in entries.column("path").to_pylist())
        self._sizes: list[int] = entries.column("size_bytes").to_pylist()
        self.files = Files(self.version, tuple(map(self._backend.path_of, self.names)), entries)
        self._values: dict[str, list[Any]] = {}
        self._view.uris = list(self.files.paths)
        self._view.sizes = dict(zip(self.names, self._sizes, strict=True))

    def __repr__(self) -> str:
        return f"Snapshot({self.contract.name!r}, {self.version})"

    # -- what it is -----------------------------------------------------------------------------------------

    @property
    def delta(self) -> DeltaTable:
        """Return the version for what asks a Delta table for its schema, metadata and files; it cannot be written."""
        return self._view

    @property
    def paths(self) -> tuple[str, ...]:
        """Return paths or URLs of the data files."""
        return self.files.paths

    @property
    def bytes(self) -> int:
        """Return the size of all data files together."""
        return sum(self._sizes)

    @cached_property
    def rows(self) -> int | None:
        """Return the number of rows, None where a file's entry has no row count."""
        rows = self.values("num_records")
        return None if None in rows else sum(rows)

    @cached_property
    def committed_at(self) -> datetime:
        """Return the time of the version's commit by its own record.

        Raises:
            DamagedTableError: the log has no entry of the version any more.
        """
        info = self._log.info(self.version)
        if info is None:
            raise damaged(self.contract.name, f"_delta_log/{self.version:020d}.json", "is missing")
        return info.timestamp

    @cached_property
    def first_event(self) -> datetime | date | None:
        """Return the least value of the contract's time column by the files' statistics, None where there is none."""
        return min(self._known(f"min.{self.contract.time_column}"), default=None)

    @cached_property
    def last_event(self) -> datetime | date | None:
        """Return the greatest value of the contract's time column by the statistics, None where there is none."""
        return max(self._known(f"max.{self.contract.time_column}"), default=None)

    def values(self, column: str) -> list[Any]:
        """Return a column of the files' entries, in their order; empty where the log has no such column."""
        if column not in self._values:
            entries = self.files.entries
            self._values[column] = entries.column(column).to_pylist() if column in entries.column_names else []
        return self._values[column]

    def _known(self, column: str) -> list[date]:
        """Return the values of a statistic, without the files that have none (a `datetime` is a `date`)."""
        return [value for value in self.values(column) if value is not None]

    # -- its rows -------------------------------------------------------------------------------------------

    def scan(self, positions: Sequence[int] | None = None) -> pl.LazyFrame:
        """Return the rows in the contract's columns and types, of some of the files or of all.

        Args:
            positions: positions of files, which are not looked at; those of all files are, by default.

        Raises:
            DamagedTableError: a file is missing or has another size than the log says.
            SchemaMismatchError: a column is stored with another type than the contract's.
        """
        if positions is None:
            self.require()
            return self._all_rows
        return self._rows_of(self._view.only(positions))

    @cached_property
    def _all_rows(self) -> pl.LazyFrame:
        return self._rows_of(self._view)

    def _rows_of(self, view: _PinnedTable) -> pl.LazyFrame:
        stored = self.require_types()
        frame = pl.scan_delta(view, storage_options=self._backend.options or None)
        absent = [column for column in self.contract.columns if column.name not in stored]
        if absent:
            frame = frame.with_columns(pl.lit(None, dtype=column.polars).alias(column.name) for column in absent)
        return frame.select(self.contract.column_names)

    def require_types(self) -> set[str]:
        """Return the names of the stored columns; those that the contract has too must have its types.

        Raises:
            SchemaMismatchError: they have not.
        """
        stored = {field.name: field.type for field in self._fields}
        for field in Schema.from_arrow(self.contract.arrow_schema).fields:
            if field.name in stored and stored[field.name] != field.type:
                raise wrong_type(self.contract, field, stored[field.name])
        return set(stored)

    # -- its files ------------------------------------------------------------------------------------------

    def require(self, positions: Sequence[int] | None = None) -> None:
        """Check that files, by their position, or all of them, are there in the size that the log says.

        Raises:
            DamagedTableError: one is not; the message names the newest version that is intact.
        """
        every = range(len(self.names)) if positions is None else positions
        chosen = ((self.names[at], self._sizes[at]) for at in every)
        if fault := next(self._backend.faults(chosen), None):
            raise self.damage(fault)

    def faults(self, read: Literal["nothing", "footers", "all"] = "nothing") -> Iterator[tuple[str, str]]:
        """Yield name and fault of each data file that is not as the log says; only a local lake is looked at.

        Args:
            read: what of each file is read, beyond its size.
        """
        rows = self.files.entries.column("num_records").to_pylist()
        if not self._backend.looks_at_files:
            return
        for name, size, count in zip(self.names, self._sizes, rows, strict=True):
            fault = next(self._backend.faults([(name, size)]), None)
            if fault is not None:
                yield fault
            elif read != "nothing":
                try:
                    frame = pl.scan_parquet(self._backend.path_of(name), hive_partitioning=False)
                    length = frame.collect().height if read == "all" else frame.select(pl.len()).collect().item()
                except (pl.exceptions.PolarsError, OSError):
                    yield name, "is not readable Parquet"
                else:
                    if count is not None and length != count:
                        yield name, f"has {length} rows, but the log says {count}"

    def damage(self, fault: tuple[str, str]) -> DamagedTableError:
        """Return the error for a data file at fault, with the newest version that is intact."""
        name, meaning = fault
        for info in reversed(self._log.readable()[:-1]):
            try:
                handle = self._log.handle(info.version)
            except Exception:  # noqa: BLE001, S112 - an unreadable version is simply not the one to offer
                continue
            if next(Snapshot(self.contract, self._log, handle).faults(), None) is None:
                return damaged(self.contract.name, name, meaning, info.version)
        return DamagedTableError(
            f"file at fault: {name} {meaning}",
            where=self.contract.name,
            hint="No older version is intact. Restore the file from a backup, or replace its partition.",
        )


class _Sizes:
    """Sizes of files by name, where Polars looks for them."""

    def __init__(self, view: _PinnedTable) -> None:
        self._view = view

    def get_add_file_sizes(self) -> dict[str, int]:
        return self._view.sizes


class _PinnedTable(DeltaTable):
    """A Delta table that stays as it was, as far as Polars asks: the handle that it is made from may move on.

    Local files are named by their paths, as Polars wants them, not by parts of URLs.
    """

    def __init__(self, handle: DeltaTable, uri: str, options: Mapping[str, str]) -> None:
        # Nothing is opened: every method that Polars calls is here.
        self._storage_options = dict(options)
        self._at = handle.version()
        self._uri = uri
        self._stored_schema = handle.schema()
        self._about = handle.metadata()
        self._rules = handle.protocol()
        # Through a stream, because `pyarrow.table` imports pandas (a second) to see whether it was given a frame.
        self.actions: pa.Table = pa.RecordBatchReader.from_stream(handle.get_add_actions()).read_all()
        self.uris: list[str] = []
        self.sizes: dict[str, int] = {}
        self._table: Any = _Sizes(self)

    def only(self, positions: Sequence[int]) -> _PinnedTable:
        """Return the same with some of the files, by their position."""
        other: _PinnedTable = object.__new__(_PinnedTable)
        other.__dict__.update(self.__dict__)
        # Positions from Polars, because `pyarrow.array` imports pandas too.
        other.actions = self.actions.take(pl.Series(positions, dtype=pl.Int64()).to_arrow())
        other.uris = [self.uris[at] for at in positions]
        return other

    @property
    def table_uri(self) -> str:
        return self._uri

    def version(self) -> int:
        return self._at

    def schema(self) -> Schema:
        return self._stored_schema

    def metadata(self) -> Any:
        return self._about

    def protocol(self) -> Any:
        return self._rules

    def file_uris(self, *_args: Any, **_kwargs: Any) -> list[str]:
        return self.uris

    def get_add_actions(self, flatten: bool = False) -> Any:  # noqa: FBT001, FBT002 - as the Delta library has it
        return self.actions.flatten() if flatten else self.actions


def wrong_type(contract: TableContract, field: Field, stored: object) -> SchemaMismatchError:
    """Return the error for a column that is stored with another type than the contract's."""
    return needs_migration(contract, f"column {field.name!r} is stored as {stored}, but the contract says {field.type}")


def needs_migration(contract: TableContract, what: str) -> SchemaMismatchError:
    """Return the error for a stored table that differs from the contract in a way that nothing bridges by itself."""
    return SchemaMismatchError(
        what,
        where=contract.name,
        hint="Only new nullable columns are added automatically. For any other change, declare a new table, copy the "
        "rows into it with a one-off asset, and retire this one (docs/operations.md, Schema changes).",
    )
