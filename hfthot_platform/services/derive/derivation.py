"""Tables that are partly stated by vendors and partly computed from other tables: bars and closes.

The vendor's statement stands (see `hfthot_platform.domain.market.precedence`).  Everything of a span is computed and
audited before anything of it is published, piece by piece so that memory stays bounded, and at publication
each piece is put together again with what vendors have stated meanwhile, inside the commit's own retry: rows
that arrive in between are not lost: one of the same key gives way only to another statement of a vendor that
differs and is at least as final.

A piece is some days, or where the table below has more rows of a day than memory holds, a unit of a day
(`hfthot_platform.storage.lakehouse.units`); all units of a day are one commit.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack
from datetime import date, timedelta
from itertools import groupby
from types import TracebackType
from typing import Self

import polars as pl

from hfthot_platform.core.settings import Settings
from hfthot_platform.core.time import ONE_DAY, Days
from hfthot_platform.domain.contracts import TableContract
from hfthot_platform.domain.market.precedence import is_computed, vendor_first
from hfthot_platform.storage.lakehouse import Audited, Commit, Lakehouse, Staging, Stamp, Table, Unit, units_of
from hfthot_platform.storage.lakehouse.units import MOST_ROWS, rows_within

__all__ = ["Derivation", "derive"]

_FIRST_PIECE = timedelta(days=31)
SMALL_PIECE_ROWS = 200_000


class Derivation:
    """The audited rows of a span, not yet published.  A context manager."""

    def __init__(self, staging: Staging, pieces: list[Unit]) -> None:
        self.staging = staging
        self._pieces = pieces

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.staging.__exit__(kind, error, trace)

    def publish(self, stamp: Stamp | None = None) -> list[Commit]:
        """Replace the span's computed rows, piece by piece; a piece that is there already makes no version.

        Raises:
            AuditFailedError: more rows were rejected than the contract allows; nothing was published.
        """
        self.staging.require_publishable()
        commits = []
        for _, group in groupby(enumerate(self._pieces), key=lambda piece: piece[1].days):
            numbers = {unit: number for number, unit in group}
            commits.append(self._publish_days(numbers, stamp))
        return commits

    def _publish_days(self, numbers: dict[Unit, int], stamp: Stamp | None) -> Commit:
        """Publish the batches of all units of some days as one commit."""
        table = self.staging.table
        rejected = 0
        for number in numbers.values():
            batch = self.staging.batch(number)
            table.quarantine(batch, stamp=stamp)
            rejected += batch.rejected.height

        def rows(unit: Unit, current: pl.LazyFrame) -> pl.DataFrame:
            return _put_together(self.staging.batch(numbers[unit]), current)

        return table.replace_units(list(numbers), rows, stamp=stamp).with_rejected(rejected)


def _put_together(batch: Audited, current: pl.LazyFrame) -> pl.DataFrame:
    contract = batch.contract
    key = contract.primary_key
    computed = is_computed(batch.rows.columns)
    there = current.filter(~computed).collect()
    stated = _statements_that_tell_more(batch.rows.filter(~computed), there, contract)
    vendor = vendor_first(stated, there, key)
    return vendor_first(vendor, batch.rows.filter(computed), key)


def _statements_that_tell_more(stated: pl.DataFrame, there: pl.DataFrame, contract: TableContract) -> pl.DataFrame:
    """Return those statements that tell more than what is there.

    What repeats a row leaves it as it is, with its provenance, as a merge would; what states an unfinished bar
    tells less than a finished one.
    """
    key = list(contract.primary_key)
    compared = stated.join(there, on=key, how="inner", suffix="_there")
    repeats = pl.all_horizontal(pl.col(name).eq_missing(pl.col(f"{name}_there")) for name in contract.value_columns)
    older = pl.col("final_there") & ~pl.col("final") if "final" in stated.columns else pl.lit(value=False)
    return stated.join(compared.filter(repeats | older), on=key, how="anti", maintain_order="left")


def derive(
    lake: Lakehouse,
    table: str,
    days: Days,
    compute: Callable[[Unit], pl.DataFrame],
    *,
    source: str | None = None,
    stated: Callable[[Days], tuple[pl.DataFrame, pl.DataFrame | None]] | None = None,
    settings: Settings,
    most_rows: int = MOST_ROWS,
) -> Derivation:
    """Compute and audit a table's rows for a span; nothing is published yet.

    Args:
        lake: the lake.
        table: the table.
        days: the span.
        compute: returns the computed rows of a part of the span; they have the part's values of the column that
            bounds it.
        source: the table that they are computed from, partitioned by day and sorted by the same column first: no part
            has more rows of it than memory holds.
        stated: returns what vendors state of a part of the span, which takes precedence, and what of it was rejected.
        settings: for the scratch folder.
        most_rows: rows of the source that a part may have.
    """
    pieces = []
    below = None if source is None else lake.table(source)
    with ExitStack() as on_failure:
        staging = on_failure.enter_context(Staging(lake.table(table), settings.scratch))
        statements: tuple[Days, pl.DataFrame, pl.DataFrame | None] | None = None
        for unit, rows in _computed_in_pieces(days, compute, below, most_rows):
            if stated is None:
                vendor, rejected = rows.clear(), None
            else:
                # The feeds are asked once for all units of a day.
                if statements is None or statements[0] != unit.days:
                    statements = (_days_of(unit), *stated(_days_of(unit)))
                    rejected = statements[2]
                else:
                    rejected = None
                vendor = statements[1].filter(unit.holds)
            together = vendor_first(vendor, rows, staging.table.contract.primary_key) if vendor.height else rows
            staging.add(together, rejected)
            pieces.append(unit)
        on_failure.pop_all()
    return Derivation(staging, pieces)


def _computed_in_pieces(
    days: Days, compute: Callable[[Unit], pl.DataFrame], source: Table | None, most_rows: int
) -> Iterator[tuple[Unit, pl.DataFrame]]:
    """Yield the span in pieces that grow while they are sparse: decades of daily rows take a dozen pieces."""
    first, end = days
    length = _FIRST_PIECE
    while first < end:
        piece = first, min(first + length, end)
        if source is not None and rows_within(source, piece) > most_rows:
            day = first
            while day < piece[1]:
                for unit in units_of(source, (day, day + ONE_DAY), most_rows=most_rows):
                    yield unit, compute(unit)
                day += ONE_DAY
            length = _FIRST_PIECE
        else:
            rows = compute(Unit(piece))
            yield Unit(piece), rows
            length = length * 2 if rows.height < SMALL_PIECE_ROWS else _FIRST_PIECE
        first = piece[1]


def _days_of(unit: Unit) -> Days:
    if unit.days is None or isinstance(unit.days, date):
        raise TypeError(f"{unit} is of no days")
    return unit.days
