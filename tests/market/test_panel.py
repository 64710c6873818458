"""Bars as a panel: what they refuse, how rows of tables become one, and the pace that they have."""

from __future__ import annotations

import math
from datetime import UTC, date, datetime, timedelta

import numpy as np
import polars as pl
import pytest

from hfthot_platform.core.errors import BadRequestError, DataError
from hfthot_platform.domain.market.panel import Bars

HOUR = 3_600_000_000


def flat(size: int) -> Bars:
    return Bars(HOUR * np.arange(size), ("A",), *[np.ones((size, 1))] * 5)


def test_a_week_of_five_days_has_261_bars_a_year():
    days = [datetime(2020, 1, 1, tzinfo=UTC) + timedelta(days=i) for i in range(1461)]
    times = np.array([int(d.timestamp() * 1e6) for d in days if d.weekday() < 5])
    ones = np.ones((times.size, 1))

    assert Bars(times, ("X",), ones, ones, ones, ones, ones).bars_per_year == pytest.approx(261, abs=1)


def test_nights_weekends_and_holidays_belong_to_the_pace_of_an_exchange():
    from hfthot_platform.domain.market.calendar import us_trading_days

    days = us_trading_days(date(2000, 1, 1), date(2010, 1, 1)).astype("datetime64[us]").astype(np.int64)
    opens = (days[:, None] + HOUR * (14 + np.arange(7))).ravel()
    for times, expected in ((days, 252), (opens, 7 * 252)):
        ones = np.ones((times.size, 1))
        assert Bars(times, ("X",), *[ones] * 5).bars_per_year == pytest.approx(expected, rel=0.003)


@pytest.mark.parametrize(
    ("changes", "error", "message"),
    [
        ({"high": [4.0, 1.0, 4.0]}, DataError, "high 1"),
        ({"close": [2.0, 9.0, 2.0]}, DataError, "close of A is 9, its low 1 and its high 4"),
        ({"volume": [1.0, -1.0, 1.0]}, DataError, "volume of A is -1"),
        ({"volume": [1.0, math.inf, 1.0]}, DataError, "volume of A is inf"),
        ({"symbols": ("A", "A")}, BadRequestError, "'A' occurs twice"),
        ({"symbols": ()}, BadRequestError, "no symbols"),
        ({"symbols": ("",)}, BadRequestError, "symbol ''"),
        ({"times": [0.0, 1.0, 2.0]}, DataError, "times are not integers"),
        ({"times": [0, 2, 1]}, DataError, "times of shape"),
        ({"open": ["a", "b", "c"]}, DataError, "open is not an array of numbers"),
    ],
)
def test_bars_refuse_what_no_market_has(changes, error, message):
    values = {
        "times": [0, 1, 2],
        "symbols": ("A",),
        "open": [2.0] * 3,
        "high": [4.0] * 3,
        "low": [1.0] * 3,
        "close": [2.0] * 3,
        "volume": [1.0] * 3,
        **changes,
    }
    for name in ("open", "high", "low", "close", "volume"):
        values[name] = np.array(values[name])[:, None]
    with pytest.raises(error, match=message):
        Bars(**values)


def test_times_may_be_those_of_numpy():
    ones = np.ones((3, 1))

    bars = Bars(np.arange("2024-01-01", "2024-01-04", dtype="datetime64[D]"), ("A",), *[ones] * 5)

    assert bars.times[1] - bars.times[0] == 24 * HOUR


@pytest.mark.parametrize("n", [0, -1, 2.5, "2", math.nan])
def test_parts_of_bars_have_a_length(n):
    with pytest.raises(BadRequestError, match="n = "):
        flat(10).head(n)


def test_bars_refuse_prices_that_are_not():
    good = np.full((3, 1), 10.0)
    bad = good.copy()
    bad[1] = 0.0
    with pytest.raises(DataError, match="low of X is"):
        Bars(np.arange(3), ("X",), good, good, bad, good, good)


def test_bars_refuse_times_out_of_order():
    ones = np.ones((2, 1))
    with pytest.raises(DataError, match="increasing"):
        Bars(np.array([2, 1]), ("X",), ones, ones, ones, ones, ones)


def rows(symbol, hours, price, *, final=True):
    start = datetime(2024, 1, 1, tzinfo=UTC)
    return [
        {
            "symbol": symbol,
            "ts": start + timedelta(hours=h),
            **dict.fromkeys(("open", "high", "low", "close"), price),
            "volume": 1.0,
            "buy_volume": None,
            "final": final,
        }
        for h in hours
    ]


def test_rows_of_several_symbols_become_a_panel_with_holes():
    frame = pl.DataFrame([*rows("B", [0, 2], 5.0), *rows("A", [0, 1], 7.0)])

    bars = Bars.from_frame(frame.sample(fraction=1.0, shuffle=True, seed=1))

    assert bars.symbols == ("A", "B")
    np.testing.assert_array_equal(bars.close, [[7, 5], [7, np.nan], [np.nan, 5]])
    assert bars.buy_volume is None
    assert bars.column("B") == 1


def test_unfinished_bars_are_left_out():
    frame = pl.DataFrame([*rows("A", [0, 1], 7.0), *rows("A", [2], 9.0, final=False)])

    assert len(Bars.from_frame(frame)) == 2


def test_two_venues_at_once_are_refused():
    frame = pl.DataFrame([*rows("A", [0], 7.0), *rows("A", [0], 7.1)])

    with pytest.raises(BadRequestError, match="two bars"):
        Bars.from_frame(frame)


def test_bars_with_changed_arrays_keep_the_others_and_their_symbols():
    bars = flat(5)

    changed = bars.changed(lambda name, values: values * 2 if name == "close" else values)

    assert changed.symbols == bars.symbols
    np.testing.assert_array_equal(changed.close, 2 * bars.close)
    assert changed.open is bars.open
    assert changed.buy_volume is None
