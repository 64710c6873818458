"""Units of work smaller than a day: the rows of some days in a range of the column by which a table is sorted first.

For a table of trades that is (days, symbol range).  The log's bounds of that column say where its files can be told
apart; only of files that overlap, or hold more than a unit may, is that one column read.  What is computed unit by unit
and put together in order has the same rows in the same order as what is computed at once, as long as no result needs
rows of two symbols.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Final, NamedTuple, Protocol

import polars as pl

from hfthot_platform.core.errors import BadRequestError
from hfthot_platform.core.time import Span
from hfthot_platform.domain.contracts import TableContract
from hfthot_platform.storage.lakehouse.commits import LONGEST_BOUND
from hfthot_platform.storage.lakehouse.days import in_partitions, within
from hfthot_platform.storage.lakehouse.snapshot import Snapshot

__all__ = [
    "MOST_BYTES",
    "MOST_ROWS",
    "Divisible",
    "Extent",
    "Unit",
    "counted",
    "cuts",
    "overlapping",
    "require_cover",
    "require_held",
    "rows_within",
    "units_between",
    "units_of",
]

#: Rows of a unit: bars of so many trades take about 1.4 GB while they are computed.
MOST_ROWS: Final = 4_000_000
#: Bytes of a unit's rows as they are stored.
MOST_BYTES: Final = 128 * 1024 * 1024
#: Behind every text that begins as a bound does.
_LAST: Final = "\U0010ffff"


class Divisible(Protocol):
    """What is needed of a table to divide its rows."""

    @property
    def contract(self) -> TableContract:
        """Return its contract."""

    def opened(self, version: int | None = None) -> Snapshot | None:
        """Return a version of it, None if nobody wrote it yet."""


@dataclass(frozen=True)
class Unit:
    """Rows of some days (None: of any time) from one value of a column on, to before another (None: no bound).

    The unit without a least value also has the rows without any.
    """

    days: Span | None
    column: str = ""
    least: Any = None
    below: Any = None

    @property
    def holds(self) -> pl.Expr:
        """Return the filter by the column; file statistics and row groups are pruned by it."""
        column = pl.col(self.column)
        if self.least is None and self.below is None:
            return pl.lit(value=True)
        if self.least is None:
            return (column < pl.lit(self.below)) | column.is_null()
        if self.below is None:
            return column >= pl.lit(self.least)
        return (column >= pl.lit(self.least)) & (column < pl.lit(self.below))

    def within(self, contract: TableContract) -> pl.Expr:
        """Return the filter for a table's rows of the unit; a table without its column has one unit only."""
        return self.holds if self.days is None else within(contract, self.days) & self.holds

    def may_be_in(self, low: Any, high: Any) -> bool:
        """Return whether a file with these bounds of the column may have rows of the unit."""
        if low is None or high is None:
            return True
        return (self.below is None or low < self.below) and (self.least is None or _top(high) >= self.least)


class Extent(NamedTuple):
    """What is known of a file without opening it."""

    low: Any
    high: Any
    rows: int
    bytes: int


class _Block(NamedTuple):
    """Rows that are not taken apart, next to others that lie before or behind them altogether."""

    low: Any
    rows: int
    bytes: int


def units_of(
    table: Divisible,
    days: Span,
    *,
    version: int | None = None,
    most_rows: int = MOST_ROWS,
    most_bytes: int = MOST_BYTES,
) -> list[Unit]:
    """Return the units of some days of a table, in order; together they cover every row that is or could be there.

    Args:
        table: the table.
        days: the days.
        version: a version of the table, by default the current one.
        most_rows: rows that a unit may have; one value of the sort column is never divided, so it may have more.
        most_bytes: bytes that they may take as they are stored.

    Raises:
        VersionUnavailableError: the version is not readable (any more).
        DamagedTableError: a data file that has to be looked into is missing.
    """
    contract = table.contract
    column = contract.sort_by[0]
    found = table.opened(version)
    if found is None or column not in contract.stats_columns:
        return [Unit(days)]
    by = contract.partition_by
    partitions = found.values(f"partition.{by}") if by else [None] * len(found.names)
    chosen = [at for at, value in enumerate(partitions) if in_partitions(contract, days, value)]
    lows, highs = found.values(f"min.{column}"), found.values(f"max.{column}")
    rows, sizes = found.values("num_records"), found.values("size_bytes")
    extents = [
        Extent(lows[at] if lows else None, highs[at] if highs else None, rows[at] or 0, sizes[at]) for at in chosen
    ]

    def count(positions: Sequence[int]) -> pl.DataFrame:
        files = [chosen[position] for position in positions]
        found.require(files)
        return counted(found.scan(files).filter(within(contract, days)), column)

    return units_between(days, column, cuts(extents, count, most_rows=most_rows, most_bytes=most_bytes))


def rows_within(table: Divisible, days: Span) -> int:
    """Return how many rows the partitions of some days have, by the log alone."""
    found = table.opened()
    if found is None:
        return 0
    by = table.contract.partition_by
    partitions = found.values(f"partition.{by}") if by else [None] * len(found.names)
    rows = found.values("num_records")
    return sum(
        count or 0 for value, count in zip(partitions, rows, strict=True) if in_partitions(table.contract, days, value)
    )


def units_between(days: Span | None, column: str, values: Sequence[Any]) -> list[Unit]:
    """Return the units that some values, in order, divide all rows of some days into."""
    edges = [None, *values, None]
    return [Unit(days, column, least, below) for least, below in itertools.pairwise(edges)]


def require_cover(units: Sequence[Unit], contract: TableContract) -> Span | None:
    """Return the days of units that have all rows of them, each in one unit, in the order of the table.

    Raises:
        BadRequestError: they have not.
    """
    edges = [unit.least for unit in units[1:]]
    fits = (
        len({unit.days for unit in units}) == 1
        and {unit.column for unit in units} <= {contract.sort_by[0]}
        and units[0].least is None
        and units[-1].below is None
        and all(edge is not None for edge in edges)
        and edges == [unit.below for unit in units[:-1]]
        and edges == sorted(set(edges))
    )
    if not fits:
        raise BadRequestError(
            f"{len(units)} units do not divide the rows of one span by {contract.sort_by[0]!r}",
            where=contract.name,
            hint="Take all units that `units_of` returned, in their order.",
        )
    return units[0].days


def require_held(unit: Unit, rows: pl.DataFrame, contract: TableContract) -> None:
    """Check that rows are of their unit.

    Raises:
        BadRequestError: some are not.
    """
    outside = rows.filter(unit.holds.not_()).height
    if outside:
        raise BadRequestError(
            f"{outside} of {rows.height} rows are outside the unit of {unit.column} from {unit.least!r} to before "
            f"{unit.below!r}",
            where=contract.name,
            hint="Compute each unit from the rows of that unit only.",
        )


def counted(rows: pl.LazyFrame, column: str) -> pl.DataFrame:
    """Return the values of a column and how many rows have each; nothing but that column is read."""
    return rows.select(pl.col(column)).group_by(column).len().collect(engine="streaming")


def cuts(
    extents: Sequence[Extent],
    count: Callable[[Sequence[int]], pl.DataFrame],
    *,
    most_rows: int,
    most_bytes: int,
) -> list[Any]:
    """Return the values at which files are divided into units, in order; none where one unit has them all.

    Args:
        extents: of the files.
        count: returns, of files by their position, the values of the column and how many rows have each.
        most_rows: rows that a unit may have.
        most_bytes: bytes that a unit may have.
    """
    if sum(file.rows for file in extents) <= most_rows and sum(file.bytes for file in extents) <= most_bytes:
        return []
    found: list[Any] = []
    rows = size = 0
    for block in _blocks(extents, count, most_rows, most_bytes):
        if rows and (rows + block.rows > most_rows or size + block.bytes > most_bytes):
            found.append(block.low)
            rows = size = 0
        rows += block.rows
        size += block.bytes
    return found


def _blocks(
    extents: Sequence[Extent],
    count: Callable[[Sequence[int]], pl.DataFrame],
    most_rows: int,
    most_bytes: int,
) -> list[_Block]:
    blocks: list[_Block] = []
    for group in overlapping(extents):
        rows = sum(extents[at].rows for at in group)
        size = sum(extents[at].bytes for at in group)
        if rows <= most_rows and size <= most_bytes and extents[group[0]].low is not None:
            blocks.append(_Block(extents[group[0]].low, rows, size))
            continue
        # Rows without a value are with the least.
        values = count(group).sort("len").drop_nulls()
        values = values.sort(values.columns[0])
        total = int(values["len"].sum()) or 1
        blocks += [_Block(value, length, size * length // total) for value, length in values.iter_rows()]
    return blocks


def overlapping(extents: Sequence[Extent]) -> list[list[int]]:
    """Return positions of files in groups that do not overlap, in order; files without bounds overlap with all."""
    if any(file.low is None or file.high is None for file in extents):
        return [list(range(len(extents)))]
    groups: list[list[int]] = []
    top: Any = None
    for at in sorted(range(len(extents)), key=lambda at: extents[at].low):
        high = _top(extents[at].high)
        if groups and extents[at].low <= top:
            groups[-1].append(at)
            top = max(top, high)
        else:
            groups.append([at])
            top = high
    return groups


def _top(high: Any) -> Any:
    """Return an upper bound as it is meant: that of a long text may be its beginning only, that of a time is cut."""
    if isinstance(high, str) and len(high) >= LONGEST_BOUND:
        return high + _LAST
    return high
