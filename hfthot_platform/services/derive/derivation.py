"""Tables that are partly stated by vendors and partly computed from other tables: bars and closes.

The vendor's statement stands (see `hfthot_platform.domain.market.precedence`).  Everything of a span is computed and
audited before anything of it is published, piece by piece so that memory stays bounded, and at publication
each piece is put together again with what vendors have stated meanwhile, inside the commit's own retry: rows
that arrive in between are not lost: one of the same key gives way only to another statement of a vendor that
differs and is at least as final.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack
from datetime import timedelta
from types import TracebackType
from typing import Self

import polars as pl

from hfthot_platform.core.settings import Settings
from hfthot_platform.core.time import Days
from hfthot_platform.domain.contracts import TableContract
from hfthot_platform.domain.market.precedence import is_computed, vendor_first
from hfthot_platform.storage.lakehouse import Audited, Commit, Lakehouse, Staging, Stamp

__all__ = ["Derivation", "derive"]

_FIRST_PIECE = timedelta(days=31)
SMALL_PIECE_ROWS = 200_000


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
        """Replace the span's computed rows, piece by piece; a piece that is there already makes no version.

        Raises:
            AuditFailedError: more rows were rejected than the contract allows; nothing was published.
        """
        self.staging.require_publishable()
        table = self.staging.table
        commits = []
        for days, batch in zip(self._pieces, self.staging.batches(), strict=True):
            table.quarantine(batch, stamp=stamp)
            commit = table.replace(days, _put_together(batch), stamp=stamp)
            commits.append(commit.with_rejected(batch.rejected.height))
        return commits


def _put_together(batch: Audited) -> Callable[[pl.LazyFrame], pl.DataFrame]:
    contract = batch.contract
    key = contract.primary_key
    computed = is_computed(batch.rows.columns)

    def rows(current: pl.LazyFrame) -> pl.DataFrame:
        there = current.filter(~computed).collect()
        stated = _statements_that_tell_more(batch.rows.filter(~computed), there, contract)
        vendor = vendor_first(stated, there, key)
        return vendor_first(vendor, batch.rows.filter(computed), key)

    return rows


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
    compute: Callable[[Days], pl.DataFrame],
    *,
    stated: Callable[[Days], tuple[pl.DataFrame, pl.DataFrame | None]] | None = None,
    settings: Settings,
) -> Derivation:
    """Compute and audit a table's rows for a span; nothing is published yet.

    Args:
        lake: the lake.
        table: the table.
        days: the span.
        compute: returns the computed rows of a part of the span.
        stated: returns what vendors state of a part of the span, which takes precedence, and what of it was rejected.
        settings: for the scratch folder.
    """
    pieces = []
    with ExitStack() as on_failure:
        staging = on_failure.enter_context(Staging(lake.table(table), settings.scratch))
        for piece, rows in _computed_in_pieces(days, compute):
            vendor, rejected = stated(piece) if stated else (rows.clear(), None)
            together = vendor_first(vendor, rows, staging.table.contract.primary_key) if vendor.height else rows
            staging.add(together, rejected)
            pieces.append(piece)
        on_failure.pop_all()
    return Derivation(staging, pieces)


def _computed_in_pieces(days: Days, compute: Callable[[Days], pl.DataFrame]) -> Iterator[tuple[Days, pl.DataFrame]]:
    """Yield the span in pieces that grow while they are sparse: decades of daily rows take a dozen pieces."""
    first, end = days
    length = _FIRST_PIECE
    while first < end:
        piece = first, min(first + length, end)
        rows = compute(piece)
        yield piece, rows
        first = piece[1]
        length = length * 2 if rows.height < SMALL_PIECE_ROWS else _FIRST_PIECE
