"""What is missing, late or in contradiction: completeness, staleness, agreement between sources.

Nothing here fills anything.  All functions are pure: the span and the present time are passed in.

The grid of expected rows: crypto trades around the clock, so every bar of the interval; for daily rows of
US venues (`us_...`), the trading days of the New York Stock Exchange from 1972 on (earlier rows are off the
grid), and of other shares and of currencies, Monday to Friday.  For their intraday rows no grid is claimed, because
sessions differ by source: what depends on it is null.  Bars of several days open where most of a series' bars do,
for vendors begin to count them on different days.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import date, datetime
from functools import lru_cache
from typing import TYPE_CHECKING, Final, Literal

import numpy as np
import polars as pl

from hfthot_platform.core.errors import BadRequestError
from hfthot_platform.core.intervals import interval as interval_of
from hfthot_platform.core.time import DAY, microseconds
from hfthot_platform.domain.market.calendar import FIRST_US_YEAR, Calendar, calendar_of, days_of_calendar

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from numpy.typing import NDArray

__all__ = ["agreement", "completeness", "missing_runs", "presence", "staleness"]

_TIME: Final = pl.Datetime("us", "UTC")
_KEY: Final = ("venue", "symbol")
# The calendars' span; rows cannot be outside it (see the contracts).
_FIRST_DAY: Final = date(1900, 1, 1)
_LAST_DAY: Final = date(2100, 1, 1)
_NO_RUNS: Final = pl.DataFrame(
    schema={"venue": pl.String, "symbol": pl.String, "start": _TIME, "end": _TIME, "missing": pl.Int64}
)
_NO_PRESENCE: Final = pl.DataFrame(
    schema={
        **dict.fromkeys(("venue", "symbol"), pl.String),
        "ts": _TIME,
        **dict.fromkeys(("expected", "present"), pl.Int64),
        "share": pl.Float64,
    }
)
_COMPLETENESS: Final = {
    **dict.fromkeys(("venue", "symbol"), pl.String),
    **dict.fromkeys(("first", "last"), pl.Int64),
    **dict.fromkeys(("expected", "present", "missing", "off_grid", "runs", "longest"), pl.Int64),
}


@dataclass(frozen=True)
class _ExpectedTimes:
    """The open times at which rows are expected (microseconds): `phase` and multiples of `step`, or those listed."""

    step: int
    phase: int = 0
    #: Open times that do not lie at equal distances, sorted.
    listed: NDArray[np.int64] | None = None

    def place(self, ticks: NDArray[np.int64]) -> NDArray[np.int64]:
        """Return the positions of those times that are on the grid; sorted and distinct, as the times are."""
        if self.listed is None:
            shifted = ticks - self.phase
            on_grid: NDArray[np.int64] = shifted[shifted % self.step == 0] // self.step
            return on_grid
        found = np.searchsorted(self.listed, ticks)
        on_list: NDArray[np.int64] = found[self.listed[np.minimum(found, len(self.listed) - 1)] == ticks]
        return on_list

    def at_or_after(self, tick: int) -> int:
        """Return the position of the first grid point at or after a time."""
        if self.listed is None:
            return -(-(tick - self.phase) // self.step)
        return int(np.searchsorted(self.listed, tick))

    def times(self, positions: NDArray[np.int64]) -> NDArray[np.int64]:
        """Return the open times at positions."""
        return positions * self.step + self.phase if self.listed is None else self.listed[positions]

    def closes(self, positions: NDArray[np.int64]) -> NDArray[np.int64]:
        """Return the close times of the intervals at positions; a day ends after a day, a month at the next."""
        if self.listed is None or self.step == DAY:
            return self.times(positions) + self.step
        return self.listed[positions + 1]


@dataclass(frozen=True)
class _SeriesOnGrid:
    """The rows of one venue and symbol on their grid; `low` and `high` bound the expected positions."""

    venue: str
    symbol: str
    #: Sorted and distinct, in microseconds.
    ticks: NDArray[np.int64]
    grid: _ExpectedTimes | None
    positions: NDArray[np.int64]
    low: int
    high: int

    def runs(self) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """Return the first position and the length of each stretch of missing ones."""
        edges = np.concatenate([[self.low - 1], self.positions, [self.high]])
        missing = np.diff(edges) - 1
        gaps = np.flatnonzero(missing > 0)
        return edges[gaps] + 1, missing[gaps]


def missing_runs(
    rows: pl.DataFrame | pl.LazyFrame,
    interval: str,
    *,
    start: datetime | None = None,
    end: datetime | None = None,
    members: pl.DataFrame | None = None,
) -> pl.DataFrame:
    """List the stretches of the grid that have no row.

    Args:
        rows: bars (`ts`) or closes (`date`) with venue and symbol, any order; a column `interval` is filtered.
        interval: any, such as 1m, 4h, 1d or 1w.
        start: first expected time; None is each symbol's own first row.
        end: end of the expected times, exclusive; None is each symbol's own last row, inclusive.
        members: venues and symbols that are expected to have rows; one without any is one long run if start
            and end are given, and nothing is expected of it otherwise.

    Returns:
        venue, symbol, start (first missing open time), end (exclusive: the close time of the last missing
        interval), missing (number of intervals), sorted by symbol, venue, start.

    Raises:
        BadRequestError: an unknown interval, a naive time, or end before start.
    """
    parts = [_NO_RUNS]
    for series in _series(rows, interval, start, end, members):
        if series.grid is None:
            continue
        first, missing = series.runs()
        parts.append(
            pl.DataFrame(
                {
                    "venue": pl.repeat(series.venue, len(first), eager=True),
                    "symbol": pl.repeat(series.symbol, len(first), eager=True),
                    "start": pl.Series(series.grid.times(first)).cast(_TIME),
                    "end": pl.Series(series.grid.closes(first + missing - 1)).cast(_TIME),
                    "missing": pl.Series(missing, dtype=pl.Int64),
                }
            )
        )
    return pl.concat(parts).sort("symbol", "venue", "start")


def completeness(
    rows: pl.DataFrame | pl.LazyFrame,
    interval: str,
    *,
    start: datetime | None = None,
    end: datetime | None = None,
    members: pl.DataFrame | None = None,
) -> pl.DataFrame:
    """Count expected, present and missing intervals per venue and symbol.

    Args and errors are those of `missing_runs`.

    Returns:
        One row per venue and symbol, sorted by symbol and venue: first, last (open times of the first and last
        row, null without rows), expected, present (of the expected ones), missing (expected - present),
        off_grid (distinct times that are not on the grid, such as a session on a holiday), runs (stretches of
        missing intervals), longest (intervals in the longest one).
    """
    counted: list[tuple[str | int | None, ...]] = []
    for series in _series(rows, interval, start, end, members):
        first, last = (int(series.ticks[0]), int(series.ticks[-1])) if len(series.ticks) else (None, None)
        head = (series.venue, series.symbol, first, last)
        if series.grid is None:
            counted.append((*head, None, len(series.ticks), None, None, None, None))
            continue
        missing = series.runs()[1]
        present = len(series.positions)
        total = int(missing.sum())
        off_grid = len(series.ticks) - present
        counted.append((*head, present + total, present, total, off_grid, len(missing), int(missing.max(initial=0))))
    frame = pl.DataFrame(counted, schema=_COMPLETENESS, orient="row")
    return frame.with_columns(pl.col("first", "last").cast(_TIME)).sort("symbol", "venue")


def presence(
    rows: pl.DataFrame | pl.LazyFrame,
    interval: str,
    *,
    start: datetime | None = None,
    end: datetime | None = None,
    members: pl.DataFrame | None = None,
    by: Literal["day", "hour"] = "day",
) -> pl.DataFrame:
    """Return the share of expected intervals that have a row, per day or per hour (for heat maps).

    Args and errors are those of `missing_runs`, and

        by: the length of what is counted together; hours make sense for intervals below an hour.

    Returns:
        venue, symbol, ts (start of the day or hour, UTC), expected, present, share (0 to 1), sorted by symbol,
        venue, ts.  Days on which nothing is expected, such as weekends of equities, are absent, and so are
        series without a known grid.
    """
    length = interval_of("1d" if by == "day" else "1h").microseconds
    parts = [_NO_PRESENCE]
    for series in _series(rows, interval, start, end, members):
        if series.grid is None or series.high <= series.low:
            continue
        buckets, expected = _tally(series.grid.times(np.arange(series.low, series.high)) // length)
        found, present = _tally(series.grid.times(series.positions) // length)
        counts = np.zeros(len(buckets), np.int64)
        counts[np.searchsorted(buckets, found)] = present
        parts.append(
            pl.DataFrame(
                {
                    "venue": pl.repeat(series.venue, len(buckets), eager=True),
                    "symbol": pl.repeat(series.symbol, len(buckets), eager=True),
                    "ts": pl.Series(buckets * length).cast(_TIME),
                    "expected": pl.Series(expected, dtype=pl.Int64),
                    "present": counts,
                    "share": counts / expected,
                }
            )
        )
    return pl.concat(parts).sort("symbol", "venue", "ts")


def staleness(rows: pl.DataFrame | pl.LazyFrame, interval: str, now: datetime, *, allowed: int = 1) -> pl.DataFrame:
    """Say how far each series is behind the present time, in intervals of its own grid.

    A weekend does not make a daily equity series stale, because no trading day has closed.

    Args:
        rows: bars or closes, as in `missing_runs`.
        interval: any, such as 1m, 4h, 1d or 1w.
        now: the present time.
        allowed: how many closed intervals may be missing at the end.

    Returns:
        venue, symbol, last (open time of the last row), age (duration since that interval closed), behind
        (closed intervals after it; null where no grid is known), stale (behind > allowed; where no grid is
        known, age > allowed intervals).
    """
    _require_zone(now, "now")
    step = interval_of(interval).microseconds
    last = _with_time(rows, interval).group_by(_KEY).agg(last=pl.col("ts").max()).sort("symbol", "venue").collect()
    now_ticks = microseconds(now)
    behind: list[int | None] = []
    for venue, ticks in last.select("venue", pl.col("last").to_physical()).rows():
        grid = _grid(venue, interval, np.array([ticks], np.int64))
        if grid is None:
            behind.append(None)
        else:
            # Grid points after the last row whose interval has closed by now.
            behind.append(max(0, grid.at_or_after(now_ticks - step + 1) - grid.at_or_after(ticks + 1)))
    age = (now_ticks - step - pl.col("last").to_physical()).clip(lower_bound=0)
    intervals = pl.coalesce(pl.col("behind"), age // step)
    return last.with_columns(age=age.cast(pl.Duration("us")), behind=pl.Series(behind, dtype=pl.Int64)).with_columns(
        stale=intervals > allowed
    )


def agreement(
    a: pl.DataFrame | pl.LazyFrame,
    b: pl.DataFrame | pl.LazyFrame,
    tolerance: float = 1e-9,
    *,
    columns: Sequence[str] = ("open", "high", "low", "close", "volume"),
) -> pl.DataFrame:
    """Summarise how well two sets of bars agree, per venue and symbol.

    Args:
        a: bars (or closes, with `columns=("close",)`).
        b: bars of another source; give it the same venue name to compare across venues.
        tolerance: largest accepted |a - b| / max(|a|, |b|).
        columns: what to compare; a value that is null on one side is unknown, not different.

    Returns:
        venue, symbol, compared (rows with the same key), differing (those with a value beyond the tolerance),
        worst (largest relative difference); keys of only one side are not compared (see `completeness`).
    """
    both = _matched(a, b, columns)
    worst = pl.max_horizontal(_difference(name) for name in columns)
    return (
        both.select(*_KEY, worst.alias("worst"))
        .group_by(_KEY)
        .agg(
            compared=pl.len().cast(pl.Int64),
            differing=(pl.col("worst") > tolerance).sum().cast(pl.Int64),
            worst=pl.col("worst").max().fill_null(0.0),
        )
        .select(*_KEY, "compared", "differing", "worst")
        .sort("symbol", "venue")
        .collect()
    )


def _require_zone(time: datetime, where: str) -> None:
    if time.tzinfo is None:
        raise BadRequestError(f"{time} has no time zone", where=where, hint="Pass an aware time, such as UTC.")


def _with_time(rows: pl.DataFrame | pl.LazyFrame, interval: str) -> pl.LazyFrame:
    """Return venue, symbol (as text) and ts of the rows of one interval."""
    names = rows.collect_schema().names()
    lazy = rows.lazy()
    if "interval" in names:
        lazy = lazy.filter(pl.col("interval").cast(pl.String) == interval)
    time = pl.col("ts" if "ts" in names else "date").cast(_TIME).alias("ts")
    return lazy.select(*(pl.col(name).cast(pl.String) for name in _KEY), time)


def _series(
    rows: pl.DataFrame | pl.LazyFrame,
    interval: str,
    start: datetime | None,
    end: datetime | None,
    members: pl.DataFrame | None,
) -> Iterator[_SeriesOnGrid]:
    interval_of(interval)
    for name, time in (("start", start), ("end", end)):
        if time is not None:
            _require_zone(time, name)
    if start is not None and end is not None and end < start:
        raise BadRequestError(f"end {end} is before start {start}", where="span", hint="Swap them.")
    inside = [pl.lit(value=True)]
    if start is not None:
        inside.append(pl.col("ts") >= pl.lit(start).cast(_TIME))
    if end is not None:
        inside.append(pl.col("ts") < pl.lit(end).cast(_TIME))
    frame = _with_time(rows, interval).filter(inside).collect()
    ticks_of = {
        (str(venue), str(symbol)): _distinct(part["ts"].to_physical().to_numpy())
        for (venue, symbol), part in frame.partition_by(_KEY, as_dict=True).items()
    }
    for venue, symbol in members.select(pl.col(*_KEY).cast(pl.String)).rows() if members is not None else ():
        ticks_of.setdefault((venue, symbol), np.empty(0, np.int64))
    for (venue, symbol), ticks in ticks_of.items():
        grid = _grid(venue, interval, ticks)
        positions = np.empty(0, np.int64) if grid is None else grid.place(ticks)
        low = high = 0
        if grid is not None:
            if start is not None:
                low = grid.at_or_after(microseconds(start))
            elif len(positions):
                low = int(positions[0])
            if end is not None:
                high = grid.at_or_after(microseconds(end))
            elif len(positions):
                high = int(positions[-1]) + 1
            if not len(positions) and (start is None or end is None):
                low = high
        yield _SeriesOnGrid(venue, symbol, ticks, grid, positions, low, high)


def _grid(venue: str, interval: str, ticks: NDArray[np.int64]) -> _ExpectedTimes | None:
    """Return the grid of a series; of bars of several days the given open times decide where they begin."""
    length = interval_of(interval)
    if length.months:
        return _months(length.months)
    calendar = calendar_of(venue)
    if calendar != "always" and length.microseconds <= DAY:
        return _days(calendar) if length.microseconds == DAY else None
    phase = length.origin % length.microseconds
    if length.microseconds > DAY and len(ticks):
        phases, counts = np.unique(ticks % length.microseconds, return_counts=True)
        phase = int(phases[np.argmax(counts)])
    return _ExpectedTimes(length.microseconds, phase)


@lru_cache(maxsize=2)
def _days(calendar: Calendar) -> _ExpectedTimes:
    first = date(FIRST_US_YEAR, 1, 1) if calendar == "us" else _FIRST_DAY
    days = days_of_calendar(calendar, first, _LAST_DAY)
    return _ExpectedTimes(DAY, listed=days.astype("datetime64[us]").astype(np.int64))


@lru_cache(maxsize=12)
def _months(count: int) -> _ExpectedTimes:
    # From 1970-01 in both directions, as months of several are counted.
    months = np.arange(-70 * 12 // count * count, 130 * 12 + count, count)
    starts = months.astype("datetime64[M]").astype("datetime64[us]").astype(np.int64)
    return _ExpectedTimes(interval_of(f"{count}mo").microseconds, listed=starts)


def _distinct(values: NDArray[np.int64]) -> NDArray[np.int64]:
    """Return the sorted distinct values; what is so already, as stored rows are, is returned as it is."""
    if (values[1:] > values[:-1]).all():
        return values
    return _tally(np.sort(values))[0]


def _tally(values: NDArray[np.int64]) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Return the distinct values of a sorted array and how often each occurs.

    numpy.unique does the same by hashing, at forty times the cost for sorted input.
    """
    starts = np.flatnonzero(np.concatenate([[True], values[1:] != values[:-1]])) if len(values) else values
    return values[starts], np.diff(np.append(starts, len(values)))


def _matched(a: pl.DataFrame | pl.LazyFrame, b: pl.DataFrame | pl.LazyFrame, columns: Sequence[str]) -> pl.LazyFrame:
    """Return the rows of both sides that have the same key, those of `b` with the suffix `_b`."""
    names = a.collect_schema().names()
    others = b.collect_schema().names()
    time = "ts" if "ts" in names else "date"
    key = [*_KEY, *(["interval"] if "interval" in names and "interval" in others else []), time]
    for side, present in (("a", names), ("b", others)):
        absent = [name for name in (*key, *columns) if name not in present]
        if absent:
            raise BadRequestError(f"no column {absent[0]!r}", where=f"side {side}", hint="Pass `columns`.")
    texts = [pl.col(name).cast(pl.String) for name in key[:-1]]
    left = a.lazy().select(*texts, time, *columns)
    right = b.lazy().select(*texts, time, *(pl.col(name).alias(f"{name}_b") for name in columns))
    return left.join(right, on=key, how="inner")


def _difference(name: str) -> pl.Expr:
    """Return |a - b| / max(|a|, |b|); 0 for equal values, infinite where one side is not a number."""
    a, b = pl.col(name).cast(pl.Float64), pl.col(f"{name}_b").cast(pl.Float64)
    odd = a.is_nan() != b.is_nan()
    relative = (a - b).abs() / pl.max_horizontal(a.abs(), b.abs())
    same = (a == b) | (a.is_nan() & b.is_nan())
    return pl.when(same).then(0.0).when(odd).then(float("inf")).otherwise(relative)
