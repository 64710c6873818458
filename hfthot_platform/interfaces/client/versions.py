"""Which versions of the market tables touched a symbol."""

from __future__ import annotations

from collections.abc import Iterable
from datetime import datetime
from typing import TYPE_CHECKING, Final, NamedTuple, TypedDict
from urllib.parse import unquote

import polars as pl

from hfthot_platform.core.errors import DamagedTableError
from hfthot_platform.storage.lakehouse.commits import Files, VersionInfo, may_hold_text

if TYPE_CHECKING:
    from hfthot_platform.storage.lakehouse import Lakehouse, Table

__all__ = ["SymbolVersion", "Version", "versions_of_symbol"]

_NAMESPACE: Final = "market"


class Version(TypedDict):
    """One version of a table that can be read."""

    version: int
    #: Time of its commit.
    ts: datetime
    #: APPEND, OVERWRITE, MERGE, APPLY, RESTORE, ...
    operation: str


class SymbolVersion(Version):
    """One version of a market table in which rows of a symbol came, went or changed."""

    table: str


class _File(NamedTuple):
    """A data file by its path in the table, with its bounds of `symbol` where the log has them."""

    path: str
    least: str | None
    most: str | None


class _Actions(NamedTuple):
    """What a version did to files; the rearranged ones hold rows that were there before."""

    added: list[_File]
    removed: list[str]
    rearranged: list[_File]


class _Change(NamedTuple):
    """The files that a version added and took away and that may have rows of the symbol."""

    version: VersionInfo
    added: list[str]
    removed: list[str]


def versions_of_symbol(lake: Lakehouse, symbol: str) -> list[SymbolVersion]:
    """Return the readable versions of all market tables that touched a symbol, oldest first.

    Told by the log: a version whose files, by their statistics, cannot have rows of the symbol is passed over
    unread, and so is one that only rearranged files.  Of the others the symbol's own rows are looked at, because
    whoever replaces one symbol's rows writes the file again that it shares with its neighbours.

    Raises:
        DamagedTableError: a file of a readable version is missing.
    """
    found: list[SymbolVersion] = []
    for contract in lake.contracts.values():
        if contract.namespace == _NAMESPACE and "symbol" in contract.stats_columns:
            table = lake.table(contract.name)
            found += [
                SymbolVersion(
                    version=commit.version, ts=commit.timestamp, operation=commit.operation, table=contract.name
                )
                for commit in _touching(table, symbol)
            ]
    return sorted(found, key=lambda version: (version["ts"], version["table"], version["version"]))


def _touching(table: Table, symbol: str) -> list[VersionInfo]:
    history = table.readable_versions()
    if not history or (base := table.files(history[0].version)) is None:
        return []
    files = _TableFiles(table)
    changes = _changes(files, history, base, symbol)
    uncertain = {path for change in changes for path in (*change.added, *change.removed)}
    holding = files.holding(uncertain, symbol)
    found = []
    for version, added, removed in changes:
        sides = [[path for path in side if path in holding] for side in (added, removed)]
        # Rows on both sides: the file was written again, perhaps because of a neighbour.
        if any(sides) and not (all(sides) and files.rows(sides[0], symbol).equals(files.rows(sides[1], symbol))):
            found.append(version)
    return found


def _changes(files: _TableFiles, history: list[VersionInfo], base: Files, symbol: str) -> list[_Change]:
    """Return what each version did to files that may hold the symbol, by the log alone."""
    bounds = {
        unquote(entry["path"]): _File(unquote(entry["path"]), entry.get("min.symbol"), entry.get("max.symbol"))
        for entry in base.entries.select(_known(base, ("path", "min.symbol", "max.symbol"))).to_pylist()
    }
    found: list[_Change] = []
    for commit in history:
        actions = files.actions(commit.version)
        if actions is None:
            # After a clean-up of the log the entry of the oldest version is gone: everything in it begins there.
            added, removed = list(bounds), []
        else:
            bounds |= {file.path: file for file in (*actions.added, *actions.rearranged)}
            added, removed = [file.path for file in actions.added], actions.removed
        if commit is history[0]:
            removed = []  # may be off the disk, and there is nothing before it to compare with
        sides = ([path for path in side if may_hold_text(symbol, *bounds[path][1:])] for side in (added, removed))
        change = _Change(commit, *sides)
        if change.added or change.removed:
            found.append(change)
    return found


class _TableFiles:
    """The log and the data files of a table, wherever they are."""

    def __init__(self, table: Table) -> None:
        self._table = table
        self._options = table.backend.options
        partition = table.contract.partition_by
        self._schema = {name: dtype for name, dtype in table.contract.polars_schema.items() if name != partition}

    def actions(self, version: int) -> _Actions | None:
        """Return the files that a version added and removed, None where the log's entry is gone."""
        changes = self._table.log.changes(version)
        if changes is None:
            return None
        found = _Actions([], [file.name for file in changes.removed if file.new_rows], [])
        for file in changes.added:
            bounds = (side.get("symbol") for side in (file.lows, file.highs))
            (found.added if file.new_rows else found.rearranged).append(_File(file.name, *bounds))
        return found

    def holding(self, paths: set[str], symbol: str) -> set[str]:
        """Return those of the files that have rows of the symbol."""
        if not paths:
            return set()
        where = {self._table.backend.path_of(path): path for path in sorted(paths)}
        rows = pl.scan_parquet(
            list(where),
            hive_partitioning=False,
            storage_options=self._options or None,
            schema=self._schema,
            missing_columns="insert",
            extra_columns="ignore",
            include_file_paths="_path",
        )
        found = self._collected(rows.filter(pl.col("symbol") == symbol).select(pl.col("_path").unique()))
        return {where[path] for path in found["_path"]}

    def rows(self, paths: list[str], symbol: str) -> pl.DataFrame:
        """Return the rows of the symbol in the files, without what says only where they came from, in order."""
        contract = self._table.contract
        columns = [name for name in (*contract.primary_key, *contract.value_columns) if name in self._schema]
        rows = pl.scan_parquet(
            [self._table.backend.path_of(path) for path in paths],
            hive_partitioning=False,
            storage_options=self._options or None,
            schema=self._schema,
            missing_columns="insert",
            extra_columns="ignore",
        )
        key = [name for name in contract.primary_key if name in self._schema]
        return self._collected(rows.filter(pl.col("symbol") == symbol).select(columns).sort(key))

    def _collected(self, rows: pl.LazyFrame) -> pl.DataFrame:
        try:
            return rows.collect()
        except (OSError, pl.exceptions.PolarsError) as error:
            raise DamagedTableError(
                f"a data file of an older version cannot be read ({type(error).__name__})",
                where=self._table.contract.name,
                hint="Run `hfthot doctor`; versions that were removed meanwhile are no longer listed the next time.",
            ) from None


def _known(files: Files, names: Iterable[str]) -> list[str]:
    return [name for name in names if name in files.entries.column_names]
