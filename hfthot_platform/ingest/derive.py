"""Tables that are partly stated by vendors and partly computed from other tables: bars and closes.

The vendor's statement stands (see `hfthot_platform.market.precedence`).  Everything of a span is computed and
audited before anything of it is published, piece by piece so that memory stays bounded, and at publication
each piece is put together again with what vendors have stated meanwhile, inside the commit's own retry: rows
that arrive in between are never overwritten.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from datetime import date, timedelta
from types import TracebackType
from typing import Self

import polars as pl

from hfthot_platform.ingest.feeds import stage_feeds
from hfthot_platform.lakehouse import Audited, Commit, Lakehouse, Staging, Stamp
from hfthot_platform.market.precedence import is_computed, vendor_first
from hfthot_platform.market.sources.base import Feed
from hfthot_platform.settings import Settings

__all__ = ["Days", "Derivation", "derive"]

#: The days from a first to before a second one.
Days = tuple[date, date]

_FIRST_PIECE = timedelta(days=31)
_SMALL_PIECE_ROWS = 200_000


class Derivation:
    """The audited rows of a span, not yet published.  A context manager."""

    def __init__(self, staging: Staging, pieces: list[Days]) -> None:
        self.staging = staging
        self._pieces = pieces

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.staging.__exit__(kind, error, trace)

    def publish(self, stamp: Stamp | None = None) -> list[Commit]:
        """Replace the span's computed rows, piece by piece; a piece that is there already makes no version."""
        table = self.staging.table
        commits = []
        for days, batch in zip(self._pieces, self.staging.batches(), strict=True):
            commits.append(table.replace(days, _put_together(batch), stamp=stamp))
        return commits


def _put_together(batch: Audited) -> Callable[[pl.LazyFrame], pl.DataFrame]:
    contract = batch.contract
    stated = batch.rows.filter(~is_computed(batch.rows.columns))
    computed = batch.rows.filter(is_computed(batch.rows.columns))

    def rows(current: pl.LazyFrame) -> pl.DataFrame:
        there = current.filter(~is_computed(list(contract.column_names))).collect()
        vendor = vendor_first(stated, there, contract.primary_key)
        return vendor_first(vendor, computed, contract.primary_key)

    return rows


def derive(
    lake: Lakehouse,
    table: str,
    days: Days,
    compute: Callable[[Days], pl.DataFrame],
    *,
    feeds: Iterable[Feed] = (),
    settings: Settings,
) -> Derivation:
    """Compute and audit a table's rows for a span; nothing is published yet.

    Args:
        lake: the lake.
        table: the table.
        days: the span.
        compute: returns the computed rows of a part of the span.
        feeds: those that can fill the table state rows of their own, which take precedence.
        settings: for the scratch folder.
    """
    feeds = [feed for feed in feeds if table in feed.tables]
    staging = Staging(lake.table(table), settings.scratch)
    pieces = []
    for piece, rows in _computed(days, compute):
        stated = _stated(lake, feeds, table, piece, settings)
        staging.add(vendor_first(stated, rows, lake.table(table).contract.primary_key) if stated.height else rows)
        pieces.append(piece)
    return Derivation(staging, pieces)


def _computed(days: Days, compute: Callable[[Days], pl.DataFrame]) -> Iterator[tuple[Days, pl.DataFrame]]:
    """Yield the span in pieces that grow while they are sparse: decades of daily rows take a dozen pieces."""
    first, end = days
    length = _FIRST_PIECE
    while first < end:
        piece = first, min(first + length, end)
        rows = compute(piece)
        yield piece, rows
        first = piece[1]
        length = length * 2 if rows.height < _SMALL_PIECE_ROWS else _FIRST_PIECE


def _stated(lake: Lakehouse, feeds: list[Feed], table: str, days: Days, settings: Settings) -> pl.DataFrame:
    contract = lake.table(table).contract
    if not feeds:
        return contract.empty()
    with stage_feeds(lake, feeds, table, days, settings=settings) as staging:
        return pl.concat([contract.empty(), *(batch.rows for batch in staging.batches())])
