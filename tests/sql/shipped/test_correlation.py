"""The correlation matrix, against NumPy."""

from __future__ import annotations

from datetime import date, timedelta

import numpy as np
import polars as pl
import pytest

NAME = "marts.correlation_matrix"
KEYS = ("window_end", "symbol_a", "symbol_b")


def closes(returns: dict[tuple[str, str], np.ndarray], start: date = date(2024, 1, 1)) -> pl.DataFrame:
    """Return daily closes of series by venue and symbol; a NaN is a day without a close."""
    parts = []
    for (venue, symbol), r in returns.items():
        days = [start + timedelta(days=day) for day in range(len(r))]
        frame = pl.DataFrame({"venue": venue, "symbol": symbol, "date": days, "r": r})
        parts.append(
            frame.with_columns(close=100 * pl.col("r").fill_nan(0).cum_sum().exp()).filter(pl.col("r").is_not_nan())
        )
    return pl.concat(parts).drop("r")


def test_correlations_of_stocks_are_those_of_numpy(real):
    found = real.make(NAME, *KEYS)
    wide = real.read("marts.daily_ohlcv", "date").pivot("symbol", index="date", values="log_return")

    ends = found["window_end"].unique().sort()
    for end in (ends[0], ends[len(ends) // 2], ends[-1]):
        window = wide.filter(pl.col("date") <= end, pl.col("date") > end - timedelta(days=91)).drop_nulls()
        symbols = window.columns[1:]
        expected = np.corrcoef(window.drop("date").to_numpy(), rowvar=False)
        rows = found.filter(pl.col("window_end") == end)
        assert rows.height == 21 * 20 // 2
        assert set(rows["observations"]) == {window.height}
        for row in rows.rows(named=True):
            a, b = symbols.index(row["symbol_a"]), symbols.index(row["symbol_b"])
            assert row["correlation"] == pytest.approx(expected[a, b], abs=1e-12)


def test_each_week_of_the_stocks_has_each_pair_once(real):
    found = real.make(NAME, *KEYS)

    counts = found.group_by("window_end").len()
    assert set(counts["len"]) == {210}
    assert set(found["window_end"].dt.weekday()) == {7}
    # The first window with 40 returns, and the last Sunday of the data.
    assert found["window_end"].min() == date(2007, 3, 4)
    assert found["window_end"].max() == date(2009, 12, 27)
    assert found["window_end"].n_unique() == 148


def test_stocks_move_together_and_more_so_in_a_crisis(real):
    found = real.make(NAME)

    stocks = found.filter(pl.col("symbol_a") != "SPX", pl.col("symbol_b") != "SPX")
    by_end = stocks.group_by("window_end").agg(pl.col("correlation").mean()).sort("window_end")
    assert (stocks["correlation"] > 0).mean() > 0.95
    crisis = by_end.filter(pl.col("window_end").is_between(date(2008, 11, 1), date(2008, 12, 31)))["correlation"].mean()
    calm = by_end.filter(pl.col("window_end") < date(2007, 6, 1))["correlation"].mean()
    assert crisis > 1.5 * calm


def test_a_pair_needs_forty_common_returns(shipped):
    rng = np.random.default_rng(1)
    a, b = rng.normal(0, 0.01, 84), rng.normal(0, 0.01, 84)
    b[:44] = np.nan

    frame = closes({("binance", "A"): a, ("binance", "B"): b})
    short = shipped({"market.closes": frame}).make(NAME)
    b[43] = 0.01
    enough = shipped({"market.closes": closes({("binance", "A"): a, ("binance", "B"): b})}).make(NAME)

    # 84 days end on Sunday 24 March.
    assert short.height == 0
    assert enough.select("window_end", "observations").rows() == [(date(2024, 3, 24), 40)]


def test_returns_over_gaps_are_not_paired(shipped):
    rng = np.random.default_rng(2)
    a, b = rng.normal(0, 0.01, (2, 84))
    holed = a.copy()
    holed[[60, 70, 71]] = np.nan

    row = (
        shipped({"market.closes": closes({("binance", "A"): holed, ("binance", "B"): b})})
        .make(NAME)
        .row(-1, named=True)
    )

    gone = {0, 60, 61, 70, 71, 72}
    keep = [day for day in range(84) if day not in gone]
    assert row["observations"] == 78
    assert row["correlation"] == pytest.approx(np.corrcoef(a[keep], b[keep])[0, 1], abs=1e-12)


def test_a_monday_of_a_stock_is_not_paired_with_a_monday_of_a_coin(shipped):
    rng = np.random.default_rng(3)
    coin, stock = rng.normal(0, 0.01, (2, 91))
    stock[[day for day in range(91) if (date(2024, 1, 1) + timedelta(days=day)).weekday() >= 5]] = np.nan

    lake = shipped({"market.closes": closes({("binance", "COIN"): coin, ("us_equity", "STOCK"): stock})})
    row = lake.make(NAME).row(-1, named=True)

    tuesday_to_friday = [day for day in range(91) if 1 <= (date(2024, 1, 1) + timedelta(days=day)).weekday() <= 4]
    assert row["observations"] == len(tuesday_to_friday) == 52
    expected = np.corrcoef(coin[tuesday_to_friday], stock[tuesday_to_friday])[0, 1]
    assert row["correlation"] == pytest.approx(expected, abs=1e-12)


def test_what_never_moves_correlates_with_nothing(shipped):
    rng = np.random.default_rng(4)
    moving, growing = rng.normal(0, 0.01, 84), np.full(84, 0.01)

    frame = closes({("binance", "A"): moving, ("binance", "B"): np.zeros(84), ("binance", "C"): growing})

    assert shipped({"market.closes": frame}).make(NAME).height == 0


def test_the_same_series_on_two_venues_correlates_fully(shipped):
    r = np.random.default_rng(5).normal(0, 0.01, 84)

    frame = closes({("kraken", "A"): r, ("binance", "A"): r, ("binance", "B"): -r})
    found = shipped({"market.closes": frame}).make(NAME, "venue_a", "symbol_a", "venue_b", "symbol_b")

    last = found.filter(pl.col("window_end") == date(2024, 3, 24))
    columns = ("venue_a", "symbol_a", "venue_b", "symbol_b")
    assert last.select(columns).rows() == [
        ("binance", "A", "binance", "B"),
        ("binance", "A", "kraken", "A"),
        ("binance", "B", "kraken", "A"),
    ]
    assert last["correlation"].to_list() == pytest.approx([-1, 1, -1], abs=1e-12)
    assert last["correlation"].abs().max() <= 1


def test_a_pair_ends_with_its_last_common_week(shipped):
    rng = np.random.default_rng(6)
    a, b = rng.normal(0, 0.01, (2, 84))
    b[70:] = np.nan

    found = shipped({"market.closes": closes({("binance", "A"): a, ("binance", "B"): b})}).make(NAME)

    # B's last day is Sunday 10 March.
    assert found["window_end"].max() == date(2024, 3, 10)
