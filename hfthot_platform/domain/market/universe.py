"""The day's most traded symbols, chosen without looking ahead and without fluttering.

Score.  The mean daily traded value, in US dollars or a dollar-like coin, of the trailing window; the day itself
is not in it.  A day on which a symbol did not trade counts as zero, a day on which nothing traded at all (an
outage of the data) does not count.  The traded value of a bar is its `quote_volume` or, where that is unknown,
volume times the mean of high, low and close.

What is comparable.  Only symbols quoted in a dollar-like currency (`BTC-USDT`, `ETH-USDC-PERP`) and US equities
are ranked.  Others (`XRP-ETH`, `BTC-EUR`) are left out rather than converted, because a conversion would need
rates of the same day; an index has no traded value of its own.

Anti-whiplash.  A member stays while it trades.  It loses its place only to a candidate whose score is at least
`1 + advantage` times its own; places of members without data for a week are filled with the best candidates.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import date, timedelta
from typing import TYPE_CHECKING, Final

import numpy as np
import polars as pl

from hfthot_platform.core.errors import BadRequestError
from hfthot_platform.core.time import each_day
from hfthot_platform.domain.contracts.market import UNIVERSE

if TYPE_CHECKING:
    from numpy.typing import NDArray

__all__ = ["DOLLARS", "SILENCE_DAYS", "traded_values", "universe_over"]

#: Quote currencies that count as one US dollar.
DOLLARS: Final = ("USD", "USDT", "USDC", "FDUSD", "BUSD", "TUSD", "USDP", "USD1", "DAI")
#: A symbol without a bar for this long, while others have some, has ended.
SILENCE_DAYS: Final = 7

_COLUMNS: Final = tuple(name for name in UNIVERSE.column_names if name not in {"month", "schema_version"})


def universe_over(
    daily_bars: pl.DataFrame | pl.LazyFrame,
    previous: pl.DataFrame | None,
    start: date,
    end: date,
    *,
    size: int,
    window_days: int = 30,
    advantage: float = 0.10,
) -> pl.DataFrame:
    """Choose the universe of each day from start to before end, each from the one before.

    Args:
        daily_bars: rows of `market.bars` (those with interval 1d count) or other daily bars; rows of later
            days may be present and change nothing.
        previous: rows of `market.universe`; the latest day before start counts.  None or empty starts a new list.
        start: first day.
        end: day after the last.
        size: largest number of members.
        window_days: length of the trailing window, at least 1.
        advantage: by how much a candidate must beat a member, as a fraction.

    Returns:
        Rows of `market.universe` without partition column and `schema_version`, by date and rank: score in
        dollars per day; reason is seeded (there was no universe before), kept, entered (a place was free), or
        replaced:<symbol>.  Days without any traded value in their window have no rows.

    Raises:
        BadRequestError: size, window or advantage out of their domain.
    """
    if size < 1 or window_days < 1 or not 0 <= advantage < np.inf:
        raise BadRequestError(
            f"size={size}, window_days={window_days}, advantage={advantage}",
            where="universe",
            hint="size and window_days are at least 1, advantage is at least 0.",
        )
    scores = _scores(daily_bars, start, end, window_days)
    members = _members_before(previous, start)
    rows: list[tuple[date, int, str, str, float, date, str]] = []
    for offset, day in enumerate(each_day((start, end))):
        eligible = scores.of(offset)
        if not eligible:
            # Without data nothing is chosen, and nobody loses the membership for it.
            continue
        members = _choose(eligible, members, day, size, 1.0 + advantage)
        ranked = sorted(members, key=lambda key: (-eligible[key], key))
        rows += [
            (day, rank, key[0], key[1], eligible[key], members[key].since, members[key].reason)
            for rank, key in enumerate(ranked, start=1)
        ]
    schema = {name: UNIVERSE.column(name).polars for name in _COLUMNS}
    return pl.DataFrame(rows, schema=schema, orient="row")


def traded_values(daily_bars: pl.DataFrame | pl.LazyFrame) -> pl.LazyFrame:
    """Return date, venue, symbol and traded value (dollars) of the daily bars that can be compared."""
    names = daily_bars.collect_schema().names()
    bars = daily_bars.lazy()
    if "interval" in names:
        bars = bars.filter(pl.col("interval").cast(pl.String) == "1d")
    known = pl.col("quote_volume") if "quote_volume" in names else pl.lit(None, pl.Float64)
    typical = pl.mean_horizontal("high", "low", "close")
    venue, symbol = pl.col("venue").cast(pl.String), pl.col("symbol").cast(pl.String)
    quote = symbol.str.split("-").list.get(1, null_on_oob=True)
    comparable = quote.is_in(DOLLARS).fill_null(value=False) | (quote.is_null() & (venue == "us_equity"))
    value = pl.coalesce(known, pl.col("volume") * typical)
    return (
        bars.filter(comparable)
        .select(pl.col("ts").dt.date().alias("date"), venue, symbol, value.alias("value"))
        .filter(pl.col("value").is_finite() & (pl.col("value") >= 0))
    )


_Key = tuple[str, str]  # venue, symbol


@dataclass(frozen=True)
class _Membership:
    since: date
    reason: str


@dataclass(frozen=True)
class _Scores:
    """Score and eligibility of each series on each day of the span: arrays of shape (days, series)."""

    keys: list[_Key]
    score: NDArray[np.float64]
    eligible: NDArray[np.bool_]

    def of(self, offset: int) -> dict[_Key, float]:
        """Return the eligible series of a day with their scores."""
        return {
            self.keys[position]: float(self.score[offset, position])
            for position in np.flatnonzero(self.eligible[offset])
        }


def _scores(bars: pl.DataFrame | pl.LazyFrame, start: date, end: date, window: int) -> _Scores:
    first = start - timedelta(days=window)
    days = max((end - start).days, 0)
    lazy = bars.lazy().filter(
        pl.col("ts") >= pl.lit(first).cast(pl.Datetime("us", "UTC")),
        pl.col("ts") < pl.lit(end).cast(pl.Datetime("us", "UTC")),
    )
    values = traded_values(lazy).group_by("date", "venue", "symbol").agg(pl.col("value").max()).collect()
    series = values.select("venue", "symbol").unique().sort("symbol", "venue").with_row_index("series")
    values = values.join(series, on=["venue", "symbol"])
    row = (values["date"] - first).dt.total_days().to_numpy()
    column = values["series"].to_numpy()
    value = np.zeros((window + days, series.height))
    traded = np.zeros((window + days, series.height), bool)
    value[row, column] = values["value"].to_numpy()
    traded[row, column] = True
    # Row i of the result is the day start + i; its window is rows i to i + window - 1, never row i + window.
    # Each sum is added in the same order whatever the span, so a day computed alone gives the same bits.
    total = np.zeros((days, series.height))
    for lag in range(window):
        total += value[lag : lag + days]
    any_traded = np.concatenate([[0], np.cumsum(traded.any(axis=1))])
    counted = any_traded[window : window + days] - any_traded[:days]
    return _Scores(
        keys=series.select("venue", "symbol").rows(),
        score=total / np.maximum(counted, 1)[:, None],
        eligible=(total > 0) & _alive(traded, window, days),
    )


def _alive(traded: NDArray[np.bool_], window: int, days: int) -> NDArray[np.bool_]:
    """Return whether a series traded within a week of the last day before that has any data."""
    rows = np.arange(len(traded))
    last = np.maximum.accumulate(np.where(traded, rows[:, None], -SILENCE_DAYS - window), axis=0)
    newest = last.max(axis=1, initial=-1)
    before = slice(window - 1, window - 1 + days)
    alive: NDArray[np.bool_] = last[before] > newest[before, None] - SILENCE_DAYS
    return alive


def _members_before(previous: pl.DataFrame | None, start: date) -> dict[_Key, _Membership]:
    if previous is None or previous.is_empty():
        return {}
    rows = previous.filter(pl.col("date") < start)
    rows = rows.filter(pl.col("date") == pl.col("date").max())
    return {
        (venue, symbol): _Membership(since, "kept")
        for venue, symbol, since in rows.select(pl.col("venue", "symbol").cast(pl.String), "member_since").rows()
    }


def _choose(
    eligible: dict[_Key, float], previous: dict[_Key, _Membership], day: date, size: int, factor: float
) -> dict[_Key, _Membership]:
    """Return the members of a day, given those of the day before."""

    def by_score(key: _Key) -> tuple[float, _Key]:
        return -eligible[key], key

    staying = sorted((key for key in previous if key in eligible), key=by_score)[:size]
    candidates = sorted((key for key in eligible if key not in previous), key=by_score)
    chosen = {key: _Membership(previous[key].since, "kept") for key in staying}
    free = size - len(chosen)
    reason = "entered" if previous else "seeded"
    chosen |= {key: _Membership(day, reason) for key in candidates[:free]}
    # The best candidate left challenges the weakest member, the next best the next weakest, and so on.
    for challenger, weakest in zip(candidates[free:], reversed(staying), strict=False):
        if eligible[challenger] < factor * eligible[weakest]:
            break
        del chosen[weakest]
        chosen[challenger] = _Membership(day, f"replaced:{weakest[1]}")
    return chosen
