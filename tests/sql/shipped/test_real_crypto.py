"""Prices and risk of coins: daily bars of Binance, 2020 to 2023, with a crash and a wrapped coin."""

from __future__ import annotations

from datetime import date, datetime, timedelta

import numpy as np
import polars as pl
import pytest

from tests.recordings import SPOT

SYMBOLS = ("BTCUSDT", "ETHUSDT", "LTCUSDT", "WBTCUSDT")


@pytest.fixture(scope="module")
def coins(shipped, recordings):
    raw = pl.read_parquet(recordings / f"{SPOT}/spot_1d.parquet")
    at = pl.col("open_time").cast(pl.Datetime("us")).dt.replace_time_zone("UTC")
    bars = raw.filter(
        pl.col("symbol").is_in(SYMBOLS),
        at.is_between(
            pl.lit(datetime(2020, 1, 1)).dt.replace_time_zone("UTC"),
            pl.lit(datetime(2024, 1, 1)).dt.replace_time_zone("UTC"),
            closed="left",
        ),
    ).select(
        pl.lit("binance").alias("venue"),
        pl.col("symbol").str.replace("USDT$", "-USDT"),
        at.alias("ts"),
        *("open", "high", "low", "close", "volume"),
        pl.col("quote_asset_volume").alias("quote_volume"),
        "trades",
        pl.col("taker_buy_base").alias("buy_volume"),
    )
    lake = shipped({"market.bars": bars})
    lake.run("+correlation_matrix", "+realised_volatility", "+liquidity")
    return lake


@pytest.mark.soak
def test_every_day_of_a_venue_that_never_closes_follows_the_one_before(coins, recordings):
    found = coins.read("marts.daily_ohlcv")

    btc = found.filter(pl.col("symbol") == "BTC-USDT")
    assert btc.height == 4 * 365 + 1
    assert btc.filter(~pl.col("is_daily"))["date"].to_list() == [date(2020, 1, 1)]
    # The average price is one that was paid.
    assert found.filter((pl.col("vwap") < pl.col("low")) | (pl.col("vwap") > pl.col("high"))).height == 0
    # The crash is the worst day of the four years.
    day, change = recordings.facts.worst_day
    worst = btc.drop_nulls("simple_return").sort("simple_return").row(0, named=True)
    assert worst["date"] == day
    assert worst["simple_return"] == pytest.approx(change, abs=0.005)


def test_volatility_agrees_between_estimators_and_with_common_knowledge(coins, recordings):
    found = coins.read("marts.realised_volatility").filter(pl.col("symbol") == "BTC-USDT").drop_nulls()

    rms = {
        name: float(np.sqrt((found[name] ** 2).mean()))
        for name in ("close_to_close", "parkinson", "garman_klass", "yang_zhang")
    }
    assert set(found["days_per_year"]) == {365}
    low, high = recordings.facts.volatility
    assert low < rms["close_to_close"] < high
    # On a venue that never closes all four see everything.
    assert all(value == pytest.approx(rms["close_to_close"], rel=0.12) for value in rms.values())


def test_a_wrapped_coin_moves_with_its_coin(coins):
    found = coins.read("marts.correlation_matrix")

    last = found.filter(pl.col("window_end") == found["window_end"].max())
    by_pair = {(row["symbol_a"], row["symbol_b"]): row["correlation"] for row in last.rows(named=True)}
    assert by_pair["BTC-USDT", "WBTC-USDT"] > 0.99
    assert 0.5 < by_pair["BTC-USDT", "ETH-USDT"] < 0.95


def test_illiquidity_is_that_of_numpy_and_ranks_the_coins(coins):
    found = coins.read("marts.liquidity")
    days = coins.read("marts.daily_ohlcv", "date")

    for row in found.filter(pl.col("date") == date(2022, 6, 30)).rows(named=True):
        inside = days.filter(
            pl.col("symbol") == row["symbol"],
            pl.col("date").is_between(row["date"] - timedelta(days=30), row["date"]),
        )
        closes, value = inside["close"].to_numpy(), inside["quote_volume"].to_numpy()
        expected = np.mean(np.abs(closes[1:] / closes[:-1] - 1) / value[1:]) * 1e6
        assert row["amihud"] == pytest.approx(expected, rel=1e-12)
    means = dict(found.group_by("symbol").agg(pl.col("amihud").mean()).rows())
    assert means["BTC-USDT"] < means["ETH-USDT"] < means["LTC-USDT"] < means["WBTC-USDT"]
