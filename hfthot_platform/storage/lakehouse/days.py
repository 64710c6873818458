"""Spans of days: the unit of replacement, as Polars filters and as memory-bounded pieces."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import UTC, date, datetime
from typing import Any

import polars as pl

from hfthot_platform.core.errors import BadRequestError
from hfthot_platform.core.time import ONE_DAY, PartitionValue, Span, bounds, midnight, partition_range
from hfthot_platform.domain.contracts import TableContract

__all__ = ["Span", "chunks", "in_partitions", "literal", "may_be_within", "others_in_partition", "within"]

CHUNK_ROWS = 1_000_000
# Days that a Python date can name with room on both sides; a time beyond is a mistake in its unit.
_EARLIEST = date(1, 1, 2)
_LATEST = date(9999, 12, 30)


def _time_values(contract: TableContract, span: Span) -> tuple[date | datetime, date | datetime]:
    first, end = bounds(span)
    if contract.time_column is None:
        raise BadRequestError(
            "the table has no time column", where=contract.name, hint="Replace the whole table with partition=None."
        )
    if contract.column(contract.time_column).polars == pl.Date():
        return first, end
    return midnight(first), midnight(end)


def _partitions(contract: TableContract, span: Span) -> tuple[PartitionValue, PartitionValue] | None:
    """Return the first and last partition value that a span touches, None for a table without partitions."""
    return None if contract.partition_by is None else partition_range(contract.partition_by, span)


def within(contract: TableContract, span: Span) -> pl.Expr:
    """Return the filter for the rows of a span; it prunes by partition and by file statistics."""
    low, high = _time_values(contract, span)
    time_column = pl.col(contract.time_column or "")
    condition = (time_column >= low) & (time_column < high)
    partitions = _partitions(contract, span)
    if partitions and contract.partition_by:
        condition &= pl.col(contract.partition_by).is_between(partitions[0], partitions[1])
    return condition


def in_partitions(contract: TableContract, span: Span | None, value: PartitionValue | None) -> bool:
    """Return whether a partition, by its value, may hold rows of a span (None: of any)."""
    partitions = None if span is None else _partitions(contract, span)
    return partitions is None or value is None or partitions[0] <= value <= partitions[1]  # type: ignore[operator]


def may_be_within(contract: TableContract, span: Span, lows: Mapping[str, Any], highs: Mapping[str, Any]) -> bool:
    """Return whether a file may have rows of a span, by its bounds; those of times are cut to milliseconds."""
    first, end = _time_values(contract, span)
    low, high = lows.get(contract.time_column or ""), highs.get(contract.time_column or "")
    return low is None or high is None or bool(low < end and high >= first)


def others_in_partition(contract: TableContract, span: Span) -> pl.Expr:
    """Return the filter for the rows that share a partition with a span but lie outside it."""
    partitions = _partitions(contract, span)
    if partitions is None or contract.partition_by is None:
        return within(contract, span).not_()
    if contract.partition_by == "date":
        return pl.lit(value=False)
    return pl.col(contract.partition_by).is_between(partitions[0], partitions[1]) & within(contract, span).not_()


def literal(value: object) -> str:
    """Return a partition or time value as an SQL literal; any other type is refused."""
    if isinstance(value, datetime):
        return f"'{value.astimezone(UTC):%Y-%m-%dT%H:%M:%SZ}'"
    if isinstance(value, date):
        return f"'{value:%Y-%m-%d}'"
    if isinstance(value, int):
        return str(value)
    raise BadRequestError(f"{value!r} is not a partition value", where="partition")


def chunks(contract: TableContract, rows: pl.LazyFrame) -> list[pl.LazyFrame]:
    """Return the rows as memory-bounded pieces of whole UTC days, so that each can be sorted on its own.

    `rows` must already have the contract's types.  Rows without a time, or with one outside the calendar, are
    a piece of their own.
    """
    column = contract.time_column
    if column is None or contract.partition_by is None:
        return [rows]
    time = pl.col(column)
    low, high = _time_values(contract, (_EARLIEST, _LATEST))
    known = (time >= low) & (time < high)
    day = time if contract.column(column).polars == pl.Date() else time.dt.date()
    counts = (
        rows.select(pl.when(known).then(day).alias("day"))
        .group_by("day")
        .len()
        .sort("day", nulls_last=True)
        .collect(engine="streaming")
    )
    if int(counts["len"].sum()) <= CHUNK_ROWS:
        return [rows]
    out: list[pl.LazyFrame] = []
    pending: list[date] = []
    size = 0
    for value, length in counts.iter_rows():
        if value is None:
            out.append(rows.filter(known.not_() | time.is_null()))
            continue
        if pending and size + length > CHUNK_ROWS:
            out.append(rows.filter(_days(contract, pending)))
            pending, size = [], 0
        pending.append(value)
        size += length
    if pending:
        out.append(rows.filter(_days(contract, pending)))
    return out


def _days(contract: TableContract, days: list[date]) -> pl.Expr:
    low, high = _time_values(contract, (days[0], days[-1] + ONE_DAY))
    column = pl.col(contract.time_column or "")
    return (column >= low) & (column < high)
