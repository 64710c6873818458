"""Liquidity, against NumPy, and against processes whose spread is known."""

from __future__ import annotations

from datetime import UTC, date, datetime, timedelta

import numpy as np
import polars as pl
import pytest

NAME = "marts.liquidity"
START = datetime(2024, 3, 1, tzinfo=UTC)


def daily(closes: np.ndarray, **columns: object) -> pl.DataFrame:
    ts = [START + timedelta(days=day) for day in range(len(closes))]
    prices = dict.fromkeys(("open", "high", "low", "close"), closes)
    return pl.DataFrame({"venue": "binance", "symbol": "X", "ts": ts, **prices, **columns})


def bounces(n: int, half: float, noise: float, seed: int, *, impact: float = 0.0) -> pl.DataFrame:
    """Return trades of one day at half a spread beside a random walk that each trade moves by `impact`."""
    rng = np.random.default_rng(seed)
    signs = rng.choice([-1, 1], n)
    mid = np.cumsum(rng.normal(0, noise, n)) + impact * np.concatenate([[0], np.cumsum(signs)[:-1]])
    return pl.DataFrame(
        {
            "venue": "binance",
            "symbol": "X",
            "ts": [START + timedelta(seconds=int(second)) for second in np.sort(rng.integers(0, 86_400, n))],
            "trade_id": np.arange(n),
            "price": 100 * np.exp(mid + half * signs),
            "side": np.where(signs > 0, "buy", "sell"),
        }
    )


def last_row(lake) -> dict[str, object]:
    return lake.make(NAME, "date").row(-1, named=True)


def test_amihud_is_the_mean_of_absolute_returns_over_traded_value(shipped):
    rng = np.random.default_rng(1)
    closes, value = 100 * np.exp(np.cumsum(rng.normal(0, 0.03, 60))), rng.lognormal(12, 1, 60)

    row = last_row(shipped({"market.bars": daily(closes, quote_volume=value)}))

    expected = np.mean(np.abs(np.diff(closes) / closes[:-1])[-30:] / value[-30:]) * 1e6
    assert row["amihud"] == pytest.approx(expected, rel=1e-12)
    assert row["traded_days"] == 30


def test_days_without_volume_do_not_count_for_amihud(shipped):
    closes = 100 * 1.01 ** np.arange(40)
    value = np.where(np.arange(40) % 3 == 0, 0.0, 1e6)

    row = last_row(shipped({"market.bars": daily(closes, quote_volume=value)}))

    assert row["traded_days"] == 20
    assert row["amihud"] == pytest.approx(0.01, rel=1e-9)


@pytest.mark.soak
def test_without_a_stated_value_volume_times_close_is_taken_but_not_of_an_index(shipped):
    closes = 100 * 1.01 ** np.arange(40)
    bars = daily(closes, volume=10.0)

    row = last_row(shipped({"market.bars": bars}))
    index = last_row(shipped({"market.bars": bars.with_columns(venue=pl.lit("us_index"))}))

    assert row["amihud"] == pytest.approx(np.mean(0.01 / (10 * closes[-30:])) * 1e6, rel=1e-9)
    assert index["amihud"] is None


def test_roll_is_twice_the_root_of_the_negative_serial_covariance(real):
    found = real.make(NAME, "symbol", "date")
    returns = real.read("marts.daily_ohlcv", "symbol", "date")
    checked = {True: 0, False: 0}
    for symbol in ("SPX", "AAPL", "KO"):
        mine = found.filter(pl.col("symbol") == symbol)
        series = returns.filter(pl.col("symbol") == symbol)
        for row in mine.rows(named=True)[60::50]:
            known = series.filter(pl.col("date") <= row["date"])
            inside = known.filter(pl.col("date") > row["date"] - timedelta(days=30)).height
            r = known["log_return"].to_numpy()[-inside - 1 :]
            covariance = np.cov(r[1:], r[:-1])[0, 1]
            assert row["return_pairs"] == inside
            expected = 2 * np.sqrt(-covariance) if covariance < 0 else None
            # The covariance is a difference of two variances: nine digits of it are left where it is near zero.
            assert row["roll_spread"] == (expected and pytest.approx(expected, rel=1e-8)), (symbol, row["date"])
            checked[covariance < 0] += 1
    assert min(checked.values()) > 5


def test_roll_finds_the_spread_in_its_own_model(shipped):
    """Trades at bid or ask, 8 bp apart, by the toss of a coin."""
    trades = bounces(20_000, 0.0004, 0.0003, seed=8)

    row = last_row(shipped({"market.bars": daily(np.array([100.0])), "market.trades": trades}))

    # Its standard error here is 1.2 %.
    assert row["roll_spread_trades"] == pytest.approx(0.0008, rel=0.04)


def test_trends_have_no_roll_spread(shipped):
    closes = 100 * np.exp(np.cumsum(np.repeat([0.01, 0.03, -0.02, -0.01], 10)))

    row = last_row(shipped({"market.bars": daily(closes)}))

    assert row["return_pairs"] == 30
    assert row["roll_spread"] is None


def test_spreads_of_trades_are_those_of_a_least_squares_fit(shipped):
    trades = bounces(5000, 0.0004, 0.0003, seed=2, impact=0.0001)

    row = last_row(shipped({"market.bars": daily(np.array([100.0])), "market.trades": trades}))

    logs = np.log(trades.sort("ts", "trade_id")["price"].to_numpy())
    signs = np.where(trades.sort("ts", "trade_id")["side"].to_numpy() == "buy", 1.0, -1.0)
    change = np.diff(logs)
    design = np.column_stack([np.ones(len(change)), np.diff(signs), signs[:-1]])
    fitted = np.linalg.lstsq(design, change)[0]
    assert row["price_changes"] == 4999
    assert row["traded_spread"] == pytest.approx(2 * fitted[1], rel=1e-10)
    assert row["roll_spread_trades"] == pytest.approx(2 * np.sqrt(-np.cov(change[1:], change[:-1])[0, 1]), rel=1e-10)


def test_the_traded_spread_is_found_beside_the_impact_of_trades_where_rolls_is_not(shipped):
    """Huang and Stoll's own model: half a spread of 4 bp, of which a quarter stays in the price."""
    trades = bounces(20_000, 0.0004, 0.0003, seed=3, impact=0.0001)

    row = last_row(shipped({"market.bars": daily(np.array([100.0])), "market.trades": trades}))

    # Its standard error here is 0.6 %.
    assert row["traded_spread"] == pytest.approx(0.0008, rel=0.02)
    # Roll's model has no impact: 2 sqrt(half (half - impact)) is what it sees.
    assert row["roll_spread_trades"] == pytest.approx(2 * np.sqrt(0.0004 * 0.0003), rel=0.04)


def test_trades_without_a_side_leave_the_traded_spread_out(shipped):
    trades = bounces(500, 0.0004, 0.0003, seed=3).with_columns(side=pl.lit(None, pl.String))

    row = last_row(shipped({"market.bars": daily(np.array([100.0])), "market.trades": trades}))

    assert row["traded_spread"] is None
    assert row["roll_spread_trades"] is not None


def test_trades_of_one_side_alone_have_no_traded_spread(shipped):
    trades = bounces(500, 0.0004, 0.0003, seed=3).with_columns(side=pl.lit("buy"))

    assert (
        last_row(shipped({"market.bars": daily(np.array([100.0])), "market.trades": trades}))["traded_spread"] is None
    )


def test_a_handful_of_trades_gives_no_spread(shipped):
    lake = shipped({"market.bars": daily(np.array([100.0])), "market.trades": bounces(100, 0.0004, 0.0, seed=3)})

    row = last_row(lake)

    assert row["price_changes"] == 99
    assert (row["roll_spread_trades"], row["traded_spread"]) == (None, None)


def test_constant_prices_cost_nothing_to_amihud_and_have_no_roll_spread(shipped):
    row = last_row(shipped({"market.bars": daily(np.full(40, 5.0), quote_volume=1e6)}))

    assert (row["amihud"], row["roll_spread"]) == (0.0, None)


def test_the_simulated_exchange_is_traded_at_about_its_spread(shipped):
    """Its makers quote 0.8 bp; takers buy when the price rises within the minute, which the model counts as spread."""
    from hfthot_platform.adapters.simulated import SimulatedExchange

    exchange = SimulatedExchange(seed=7, trades_per_day=20_000)
    day = datetime(2024, 3, 1, tzinfo=UTC)
    trades = pl.concat(
        [batch.rows for batch in exchange.fetch("market.trades", day, day + timedelta(days=1))], how="diagonal"
    )
    one = trades.filter(pl.col("symbol") == trades["symbol"].min())
    bars = daily(np.array([100.0])).with_columns(venue=pl.lit(one["venue"][0]), symbol=pl.lit(one["symbol"][0]))

    row = last_row(shipped({"market.bars": bars, "market.trades": one}))

    assert 0.00008 < row["traded_spread"] < 0.00016


def test_the_effective_spread_waits_for_quotes(real, models):
    assert real.make(NAME)["effective_spread"].null_count() == real.read(NAME).height
    assert "no table of quotes" in models[NAME].description


def test_liquidity_has_a_row_for_each_day_of_prices(real):
    keys = ["venue", "symbol", "date"]
    assert real.make(NAME, *keys).select(keys).equals(real.read("marts.daily_ohlcv", *keys).select(keys))
    assert real.read(NAME)["date"].max() == date(2009, 12, 31)
