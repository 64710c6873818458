"""What the modules of this package share: rows of a contract, names of series, days on which a market trades."""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Mapping, Sequence
from datetime import date
from typing import Any

import polars as pl

from hfthot_platform.core.errors import BadRequestError
from hfthot_platform.core.intervals import interval
from hfthot_platform.core.time import Days
from hfthot_platform.domain.contracts.model import TableContract
from hfthot_platform.domain.market.calendar import calendar_of, days_of_calendar

__all__ = ["as_text", "interval_microseconds", "needs", "rows_of", "series_name", "trading_days"]


def rows_of(contract: TableContract, rows: Sequence[Mapping[str, Any]]) -> pl.DataFrame:
    """Return rows in the contract's columns, without the partition column and the version that the lake fills in.

    A partition that is a column of its own right (the time column itself) stays.
    """
    derived = contract.partition_by if contract.partition_by != contract.time_column else None
    apart = {derived, "schema_version"}
    schema = {name: dtype for name, dtype in contract.polars_schema.items() if name not in apart}
    return pl.DataFrame(rows, schema=schema, orient="row")


def as_text(value: Any) -> str:
    """Return a value as JSON with sorted keys; numbers that are not finite, which JSON lacks, are null."""
    return json.dumps(_finite(value), sort_keys=True, allow_nan=False)


def _finite(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {str(key): _finite(inner) for key, inner in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(inner) for inner in value]
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    return value


def series_name(symbol: str, venue: str) -> str:
    """Return how a series is called in accounts of failures."""
    return f"{symbol}@{venue}"


def needs(frame: pl.DataFrame, columns: Iterable[str], where: str) -> None:
    """Refuse a frame that lacks a column.

    Raises:
        BadRequestError: names the first missing column.
    """
    wanted = list(columns)
    missing = [name for name in wanted if name not in frame.columns]
    if missing:
        raise BadRequestError(f"no column {missing[0]!r}", where=where, hint=f"Needed: {', '.join(wanted)}.")


def interval_microseconds(name: str, where: str) -> int:
    """Return the length of a named interval.

    Raises:
        BadRequestError: no interval has this name, or it is one of calendar months.
    """
    found = interval(name)
    if found.months:
        raise BadRequestError(f"{name!r} has no fixed length", where=where, hint="Use bars of at most weeks.")
    return found.microseconds


def trading_days(venues: Iterable[str], days: Days, where: str) -> list[date]:
    """Return the days, from a first to before a second, on which the venues trade.

    Raises:
        BadRequestError: the venues trade on different days, or the days are not in order.
    """
    if days[1] <= days[0]:
        raise BadRequestError(f"days from {days[0]} to before {days[1]}", where=where, hint="The second is later.")
    named = sorted(set(venues))
    calendars = {calendar_of(venue) for venue in named}
    if len(calendars) > 1:
        raise BadRequestError(
            f"venues {', '.join(named)} trade on different days",
            where=where,
            hint="Give markets that trade daily, from Monday to Friday, or by the US calendar, not several of them.",
        )
    calendar = calendars.pop() if calendars else "always"
    return list(days_of_calendar(calendar, *days).astype("datetime64[D]").tolist())
