"""Checks of time series: completeness, staleness, agreement with what a series can be recomputed from.

A series is the rows of one venue and symbol (and interval).  Nothing here fills or changes anything.  Memory is
bounded: symbols are taken in groups, trades in pieces of whole days.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from datetime import date, datetime, timedelta
from typing import Final

import polars as pl

from hfthot_platform.core.intervals import interval as interval_of
from hfthot_platform.core.time import ONE_DAY, Span, bounds, midnight
from hfthot_platform.domain.contracts import TableContract, contract
from hfthot_platform.domain.market import gaps
from hfthot_platform.domain.market.bars import bars_from_bars, bars_from_trades
from hfthot_platform.services.quality.outcomes import Json
from hfthot_platform.storage.lakehouse.days import chunks, within

__all__ = [
    "FINER",
    "Observed",
    "disagreement_with_finer",
    "intervals_of",
    "is_series",
    "missing_intervals",
    "stale_series",
    "unknown_symbols",
]

#: What the bars of a table can be computed from.
FINER: Final = {"market.bars_1m": "market.trades", "market.bars": "market.bars_1m"}

ROWS_AT_ONCE: Final = 4_000_000
#: Series that are named in a result; the rest is counted.
_NAMED: Final = 20
_KEY: Final = ("venue", "symbol")
#: A series without rows for this long has ended; it is not late any more.
_ENDED_AFTER: Final = timedelta(days=30)


@dataclass(frozen=True)
class Observed:
    """What a check found: whether it passes, the sentence, the figures."""

    passed: bool
    says: str
    figures: dict[str, Json]


def is_series(declared: TableContract) -> bool:
    """Whether the table holds one row per venue, symbol and interval of time: such rows have a grid."""
    key = declared.primary_key
    return {*_KEY} < {*key} and key[-1] == declared.time_column and key[0] != declared.time_column


def intervals_of(declared: TableContract, rows: pl.LazyFrame) -> tuple[str, ...]:
    """Return the intervals of a series table's rows, the shortest first; daily for dates, else the 1m base."""
    if "interval" in declared.column_names:
        names = rows.select(pl.col("interval").cast(pl.String).unique()).collect(engine="streaming")["interval"]
        return tuple(sorted(names, key=lambda name: interval_of(name).microseconds))
    return ("1d",) if declared.column(declared.time_column or "").polars == pl.Date() else ("1m",)


def missing_intervals(declared: TableContract, rows: pl.LazyFrame, span: Span | None) -> Observed:
    """Count the intervals without a row, between the first and the last row of each series.

    A series that has rows shortly before (after) the span is expected from its start (up to its end).

    Args:
        declared: a series table's contract.
        rows: all rows of the table, lazily.
        span: the days to look at; None is all there is.
    """
    parts = []
    for interval in intervals_of(declared, rows):
        of_interval = rows.filter(pl.col("interval") == interval) if "interval" in declared.column_names else rows
        parts += [
            part.with_columns(interval=pl.lit(interval))
            for part in _completeness_of(declared, of_interval, interval, span)
        ]
    if not parts:
        return Observed(True, "There are no rows.", {"series": 0, "expected": 0, "present": 0, "missing": 0})
    found = pl.concat(parts)
    expected, present, missing, off = found.select(
        pl.col("expected", "present", "missing", "off_grid").sum().fill_null(0)
    ).row(0)
    worst = found.filter(pl.col("missing") > 0).sort(
        "missing", "symbol", "venue", "interval", descending=[True, False, False, False]
    )
    series: list[Json] = [
        {name: row[name] for name in ("venue", "symbol", "interval", "expected", "missing", "runs", "longest")}
        for row in worst.head(_NAMED).iter_rows(named=True)
    ]
    figures: dict[str, Json] = {
        "series": found.height,
        "incomplete_series": worst.height,
        "expected": expected,
        "present": present,
        "missing": missing,
        "off_grid": off,
        "worst": series,
    }
    if missing:
        says = f"{missing:,} of {expected:,} intervals have no row, in {worst.height} of {found.height} series."
    else:
        says = f"All {expected:,} intervals of {found.height} series have a row."
    return Observed(missing == 0, says, figures)


def stale_series(
    declared: TableContract, rows: pl.LazyFrame, instruments: pl.LazyFrame, now: datetime, allowed: timedelta
) -> Observed:
    """Say which series that had rows in the last 30 days are further behind than allowed.

    Delisted instruments and series that ended earlier are not late.  If no series is left, the table is.

    Args:
        declared: the contract of a table with a time column.
        rows: all rows of the table, lazily.
        instruments: rows of `market.instruments`.
        now: the present time.
        allowed: how far behind a series may be; at least one interval is.
    """
    time = declared.time_column or ""
    newest = rows.select(pl.col(time).max()).collect(engine="streaming").item()
    if newest is None:
        return Observed(True, "There are no rows.", {"newest": None, "series": 0, "stale_series": 0})
    last = newest if isinstance(newest, datetime) else midnight(newest)
    figures: dict[str, Json] = {"newest": last.isoformat(), "allowed_hours": allowed / timedelta(hours=1)}
    recent = rows.filter(within(declared, ((now - _ENDED_AFTER).date(), now.date() + ONE_DAY)))
    if declared.primary_key[0] != time and {*_KEY} <= {*declared.primary_key}:
        late = _live_series(declared, recent, instruments, now, allowed)
        if late.height:
            return _staleness(late, figures)
    behind = now - last - (ONE_DAY if time in declared.primary_key and isinstance(newest, date) else timedelta(0))
    figures |= {"series": 0, "stale_series": 0, "hours_behind": round(behind / timedelta(hours=1), 1)}
    says = f"The newest row is of {last:%Y-%m-%d %H:%M} UTC."
    return Observed(behind <= allowed, says, figures)


def disagreement_with_finer(
    declared: TableContract, rows: pl.LazyFrame, finer: pl.LazyFrame, span: Span | None, tolerance: float = 1e-9
) -> Observed:
    """Compare a vendor's bars with bars recomputed from the trades or 1m bars of the same span.

    The first and the last recomputed bar of each series are left out: what they are made of may be cut off.

    Args:
        declared: contract of `market.bars_1m` or `market.bars`.
        rows: all bars, lazily.
        finer: all rows of the table named in `FINER`, lazily.
        span: the days to look at; None is all there is.
        tolerance: largest accepted relative difference of a value.
    """
    inputs = contract(FINER[declared.name])
    vendor = rows.filter(pl.col("origin") == "vendor", pl.col("final"))
    if span is not None:
        vendor = vendor.filter(within(declared, span))
        finer = finer.filter(within(inputs, span))
    compared = differing = 0
    worst = 0.0
    series: dict[tuple[str, str, str], int] = {}
    names = vendor.select(_KEY).unique().collect(engine="streaming")
    # A null in the key never equals; keys are never null.
    finer = finer.join(names.lazy(), on=_KEY, how="semi")
    edges = finer.group_by(_KEY).agg(first=pl.col("ts").min(), last=pl.col("ts").max()).collect(engine="streaming")
    if names.is_empty() or edges.is_empty():
        return Observed(
            True,
            "There is nothing to compare: no vendor bar has the finer rows to recompute it from.",
            _nothing_compared(),
        )
    # Bars of more than a day do not lie within the days that are looked at one after the other.
    day = interval_of("1d")
    intervals = [name for name in intervals_of(declared, vendor) if day.holds_whole(interval_of(name))]
    for days in chunks(inputs, finer):
        piece = days.lazy().collect()
        for interval in intervals:
            made = bars_from_trades(piece) if interval == "1m" else bars_from_bars(piece, interval)
            made = _without_edges(made, edges)
            if made.is_empty():
                continue
            low, high = made.select(pl.col("ts").min(), pl.col("ts").max().alias("high")).row(0)
            given = vendor.filter(within(declared, (low.date(), high.date() + ONE_DAY)))
            if "interval" in declared.column_names:
                given = given.filter(pl.col("interval") == interval)
            found = gaps.agreement(given, made, tolerance)
            compared += int(found["compared"].sum())
            differing += int(found["differing"].sum())
            worst = max(worst, *found["worst"].to_list(), 0.0)
            for row in found.filter(pl.col("differing") > 0).iter_rows(named=True):
                key = (row["venue"], row["symbol"], interval)
                series[key] = series.get(key, 0) + row["differing"]
    figures = _nothing_compared()
    ranked = sorted(series.items(), key=lambda item: (-item[1], item[0]))
    figures |= {
        "compared": compared,
        "differing": differing,
        "worst_relative_difference": worst,
        "series": [
            {"venue": venue, "symbol": symbol, "interval": interval, "differing": count}
            for (venue, symbol, interval), count in ranked[:_NAMED]
        ],
    }
    says = f"{differing:,} of {compared:,} bars of a vendor differ from those recomputed from {inputs.name}."
    return Observed(differing == 0, says, figures)


def unknown_symbols(rows: pl.LazyFrame, instruments: pl.LazyFrame) -> Observed:
    """List venues and symbols that `market.instruments` does not know."""
    present = rows.select(_KEY).unique().collect(engine="streaming")
    unknown = present.join(instruments.select(_KEY).collect(), on=_KEY, how="anti").sort("symbol", "venue")
    figures: dict[str, Json] = {
        "symbols": present.height,
        "unknown": unknown.height,
        "names": [f"{venue}:{symbol}" for venue, symbol in unknown.head(_NAMED).rows()],
    }
    says = f"{unknown.height} of {present.height} symbols are not in market.instruments."
    return Observed(unknown.height == 0, says, figures)


def _nothing_compared() -> dict[str, Json]:
    return {"compared": 0, "differing": 0, "worst_relative_difference": 0.0, "series": []}


def _without_edges(made: pl.DataFrame, edges: pl.DataFrame) -> pl.DataFrame:
    """Drop the bars that hold the first or the last row of their series."""
    return (
        made.join(edges, on=_KEY, how="left", maintain_order="left")
        .filter(pl.col("ts") > pl.col("first"), pl.col("ts_close") <= pl.col("last"))
        .drop("first", "last")
    )


def _completeness_of(
    declared: TableContract, rows: pl.LazyFrame, interval: str, span: Span | None
) -> Iterator[pl.DataFrame]:
    """Yield the counts of `gaps.completeness`, for a group of symbols at a time."""
    time = declared.time_column or ""
    keys = rows.select(*_KEY, time, *({declared.partition_by} - {None, time}))
    if span is None:
        for part in _by_symbols(keys):
            yield gaps.completeness(part.select(*_KEY, time), interval)
        return
    first, end = bounds(span)
    # A weekend and a holiday do not end a daily series.
    reach = max(ONE_DAY, 7 * timedelta(microseconds=interval_of(interval).microseconds))
    nearby = keys.filter(within(declared, (first - reach, end + reach)))
    low, high = (pl.lit(bound).cast(declared.column(time).polars) for bound in (midnight(first), midnight(end)))
    value = pl.col(time)
    for part in _by_symbols(nearby):
        around = part.group_by(_KEY).agg(
            before=(value < low).any(), inside=((value >= low) & (value < high)).any(), after=(value >= high).any()
        )
        lives = around.filter(pl.col("inside") | (pl.col("before") & pl.col("after"))).collect()
        inside = part.filter(value >= low, value < high).select(*_KEY, time)
        for (before, after), members in lives.partition_by("before", "after", as_dict=True).items():
            yield gaps.completeness(
                inside.join(members.lazy(), on=_KEY, how="semi"),
                interval,
                start=midnight(first) if before else None,
                end=midnight(end) if after else None,
                members=members.select(_KEY),
            )


def _by_symbols(keys: pl.LazyFrame) -> Iterator[pl.LazyFrame]:
    """Yield the rows in memory, for as many symbols at a time as memory allows."""
    sizes = keys.group_by("symbol").len().sort("symbol").collect(engine="streaming")
    if int(sizes["len"].sum()) <= ROWS_AT_ONCE:
        if sizes.height:
            yield keys.collect(engine="streaming").lazy()
        return
    taken: list[str] = []
    rows = 0
    for symbol, size in sizes.iter_rows():
        if taken and rows + size > ROWS_AT_ONCE:
            yield keys.filter(pl.col("symbol").is_in(taken)).collect(engine="streaming").lazy()
            taken, rows = [], 0
        taken.append(symbol)
        rows += size
    yield keys.filter(pl.col("symbol").is_in(taken)).collect(engine="streaming").lazy()


def _live_series(
    declared: TableContract, recent: pl.LazyFrame, instruments: pl.LazyFrame, now: datetime, allowed: timedelta
) -> pl.DataFrame:
    """Return venue, symbol, interval, last, behind (hours) and stale of the live series."""
    time = declared.time_column or ""
    gone = instruments.filter(pl.col("delisted_on") < now.date()).select(_KEY)
    # The last row of each series is all that counts.
    by = [*_KEY, *(["interval"] if "interval" in declared.column_names else [])]
    last = recent.group_by(by).agg(pl.col(time).max()).join(gone, on=_KEY, how="anti").collect(engine="streaming")
    # Trades have no grid: they are late by the minute.
    intervals = intervals_of(declared, last.lazy()) if is_series(declared) else ("1m",)
    parts = []
    for interval in intervals:
        step = timedelta(microseconds=interval_of(interval).microseconds)
        late = gaps.staleness(last, interval, now, allowed=max(1, allowed // step))
        parts.append(late.with_columns(interval=pl.lit(interval)))
    return pl.concat(parts)


def _staleness(late: pl.DataFrame, figures: dict[str, Json]) -> Observed:
    stale = late.filter("stale").sort("age", "symbol", "venue", "interval", descending=[True, False, False, False])
    named: list[Json] = [
        {
            "venue": row["venue"],
            "symbol": row["symbol"],
            "interval": row["interval"],
            "last": row["last"].isoformat(),
            "hours_behind": round(row["age"] / timedelta(hours=1), 1),
        }
        for row in stale.head(_NAMED).iter_rows(named=True)
    ]
    figures |= {"series": late.height, "stale_series": stale.height, "worst": named}
    says = f"{stale.height} of {late.height} series are later than allowed."
    return Observed(stale.is_empty(), says, figures)
