"""Derived market tables without Dagster: compute a span of days, and say what is missing."""

from __future__ import annotations

from datetime import date, datetime, timedelta
from typing import Final

import polars as pl

from hfthot_platform.core.errors import BadRequestError, UnknownSymbolError, nearest, nearest_symbol
from hfthot_platform.core.intervals import DERIVED
from hfthot_platform.core.intervals import interval as interval_of
from hfthot_platform.core.settings import Settings
from hfthot_platform.core.time import Days
from hfthot_platform.domain.market.bars import bars_at, bars_from_bars, bars_from_trades
from hfthot_platform.domain.market.gaps import missing_runs
from hfthot_platform.domain.market.precedence import closes_from_bars
from hfthot_platform.services.derive.derivation import derive
from hfthot_platform.storage.lakehouse import Commit, Lakehouse, Stamp, Unit
from hfthot_platform.storage.lakehouse.days import within
from hfthot_platform.storage.lakehouse.units import MOST_ROWS

__all__ = ["DENSE_SOURCES", "derive_table", "missing_in", "rows_of_unit"]

#: Of a derived table, the one below it that may have more rows of a day than memory holds.
DENSE_SOURCES: Final = {"market.bars_1m": "market.trades", "market.bars": "market.bars_1m"}
_SERIES: Final = ("market.bars_1m", "market.bars", "market.closes")


def rows_of_unit(lake: Lakehouse, table: str, unit: Unit, *, now: datetime) -> pl.DataFrame:
    """Compute a derived table's rows for a unit, some days or a range of symbols of them, from the table below it.

    Args:
        lake: the lake.
        table: market.bars_1m, market.bars or market.closes.
        unit: the unit.
        now: up to which the table below is complete.

    Raises:
        BadRequestError: the table is not derived.
    """
    _require_derived(table)
    if table == "market.bars_1m":
        trades = lake.table("market.trades")
        return bars_from_trades(trades.scan().filter(unit.within(trades.contract)), until=now)
    if table == "market.bars":
        source = lake.table("market.bars_1m")
        minutes = source.scan().filter(unit.within(source.contract)).collect()
        return pl.concat(bars_from_bars(minutes, interval, until=now) for interval in DERIVED)
    bars = lake.table("market.bars")
    daily = bars.scan().filter(unit.within(bars.contract), pl.col("interval") == "1d")
    return closes_from_bars(daily.collect())


def derive_table(
    lake: Lakehouse,
    table: str,
    days: Days,
    *,
    interval: str | None = None,
    settings: Settings,
    most_rows: int = MOST_ROWS,
    stamp: Stamp | None = None,
) -> list[Commit]:
    """Compute and publish a derived table's rows for some days; vendors' rows stay.

    Args:
        lake: the lake.
        table: as for `rows_of_unit`.
        days: the span; of an interval, the whole bars within it.
        interval: of `market.bars`, one that is not among the usual ones, computed from the finer bars there are.
        settings: for the scratch folder.
        most_rows: rows of the table below it that are in memory at a time; a larger day is computed by its units.
        stamp: who writes and why.

    Raises:
        BadRequestError: the table is not derived, or the days are not in order.
        AuditFailedError: more rows were rejected than the contract allows; nothing was published.
    """
    _require_derived(table)
    if days[1] <= days[0]:
        raise BadRequestError(f"days from {days[0]} to before {days[1]}", where="derive", hint="TO is after FROM.")
    if interval is not None and interval_of(interval).name not in DERIVED:
        if table != "market.bars":
            raise BadRequestError("--interval applies to market.bars only", where="derive", hint="Leave it out.")
        return [_longer_bars(lake, interval, days, stamp)]
    now = lake.clock()
    with derive(
        lake,
        table,
        days,
        lambda unit: rows_of_unit(lake, table, unit, now=now),
        source=DENSE_SOURCES.get(table),
        settings=settings,
        most_rows=most_rows,
    ) as made:
        return made.publish(stamp)


def _longer_bars(lake: Lakehouse, interval: str, days: Days, stamp: Stamp | None) -> Commit:
    """Publish the whole bars of an interval that lie within the days; bars that are there stay."""
    bars, minutes = lake.table("market.bars"), lake.table("market.bars_1m")
    found = bars_at(
        interval,
        bars.scan().filter(within(bars.contract, days)),
        minutes.scan().filter(within(minutes.contract, days)),
    ).collect()
    first, end = (pl.lit(day).cast(pl.Datetime("us", "UTC")) for day in days)
    whole = found.filter(pl.col("ts") >= first, pl.col("ts_close") <= end, pl.col("origin") != "vendor")
    return bars.merge(whole, on_change="update", stamp=stamp or Stamp())


def missing_in(
    lake: Lakehouse,
    table: str,
    *,
    symbol: str | None = None,
    venue: str | None = None,
    interval: str | None = None,
    first: datetime | None = None,
    end: datetime | None = None,
) -> pl.DataFrame:
    """Return the stretches without rows: venue, symbol, interval, start, end (exclusive), missing.

    Args and errors are those of `hfthot_platform.domain.market.gaps.missing_runs`; `interval` chooses among those of
    `market.bars`.

    Raises:
        UnknownSymbolError: no row of the table has the symbol; nothing missing of it would be no answer.
        BadRequestError: nor the venue, or the interval; or the table has one interval only.
    """
    _require_derived(table)
    declared = lake.table(table)
    rows = declared.scan()
    if interval is not None:
        interval = interval_of(interval).name
        if "interval" not in declared.contract.column_names:
            raise BadRequestError(f"{table} has one interval only", where="interval", hint="Leave it out.")
    for name, value in (("symbol", symbol), ("venue", venue), ("interval", interval)):
        if value is not None:
            chosen = rows.filter(pl.col(name).cast(pl.String) == value)
            if chosen.select(name).head(1).collect().is_empty():
                raise _unknown_value(table, name, value, rows)
            rows = chosen
    if first is not None or end is not None:
        low = first.date() if first else date.min
        high = end.date() if end else date.max - timedelta(days=32)
        rows = rows.filter(within(declared.contract, (low, high)))
    if "interval" in declared.contract.column_names:
        wanted = rows.select(pl.col("interval").cast(pl.String).unique()).collect()["interval"].to_list()
    else:
        wanted = ["1m" if table == "market.bars_1m" else "1d"]
    wanted.sort(key=lambda name: interval_of(name).microseconds)
    parts = [
        missing_runs(rows, name, start=first, end=end).select(
            "venue", "symbol", pl.lit(name).alias("interval"), "start", "end", "missing"
        )
        for name in wanted
    ]
    empty = missing_runs(rows.limit(0), "1d").select(
        "venue", "symbol", pl.lit("").alias("interval"), "start", "end", "missing"
    )
    return pl.concat([empty, *parts])


def _unknown_value(table: str, name: str, value: str, rows: pl.LazyFrame) -> BadRequestError:
    known = rows.select(pl.col(name).cast(pl.String).unique()).collect()[name].to_list()
    error = UnknownSymbolError if name == "symbol" else BadRequestError
    return error(f"{table} has no rows of the {name} {value!r}", where=name, hint=nearest_symbol(value, known))


def _require_derived(table: str) -> None:
    if table not in _SERIES:
        raise BadRequestError(
            f"{table!r} is not a derived series",
            where="table",
            hint=nearest(table, _SERIES) or f"One of {', '.join(_SERIES)}.",
        )
