"""Rows of a period: the filter on a table's time column, and the partitions that it leaves."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import polars as pl

from hfthot_platform.core.time import PartitionValue, day_at_or_after, partition_value
from hfthot_platform.domain.contracts.model import TableContract

__all__ = ["between", "partition_bounds"]


def between(contract: TableContract, start: datetime | None, end: datetime | None) -> pl.Expr:
    """Return the filter for the rows of a table from a time to before another; it prunes partitions.

    A table without a time column is kept whole.  A date counts as its midnight UTC.
    """
    condition = pl.lit(value=True)
    if contract.time_column is None:
        return condition
    dates = contract.column(contract.time_column).polars == pl.Date()
    time = pl.col(contract.time_column)
    first, last = partition_bounds(contract, start, end)
    if start is not None:
        condition &= time >= (day_at_or_after(start) if dates else start)
    if end is not None:
        condition &= time < (day_at_or_after(end) if dates else end)
    if contract.partition_by is not None:
        if first is not None:
            condition &= pl.col(contract.partition_by) >= first
        if last is not None:
            condition &= pl.col(contract.partition_by) <= last
    return condition


def partition_bounds(
    contract: TableContract, start: datetime | None, end: datetime | None
) -> tuple[PartitionValue | None, PartitionValue | None]:
    """Return the first and the last partition value of a span, None for none."""
    last = None if end is None else end - timedelta(microseconds=1)
    return _partition_of(contract, start), _partition_of(contract, last)


def _partition_of(contract: TableContract, at: datetime | None) -> PartitionValue | None:
    if at is None:
        return None
    return partition_value(contract.partition_by or "date", at.astimezone(UTC).date())
