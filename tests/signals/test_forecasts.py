"""Forecast rows: what they use, what they say, and what becomes of series that cannot be forecast."""

from __future__ import annotations

import json
from datetime import UTC, datetime, timedelta

import numpy as np
import polars as pl
import pytest
from polars.testing import assert_frame_equal

from hfthot_platform.core.errors import BadRequestError
from hfthot_platform.domain.contracts.model import TableContract
from hfthot_platform.domain.contracts.signals import CHIARELLA_FORECASTS, MFG_PRICES
from hfthot_platform.domain.market.panel import Bars
from hfthot_platform.domain.models import strategy
from hfthot_platform.domain.models.chiarella import ChiarellaParams, calibrate, forecast
from hfthot_platform.domain.models.strategy import FittedMarket
from hfthot_platform.domain.signals.forecasts import chiarella_rows, market_now, mfg_forecast, mfg_price_rows
from hfthot_platform.storage.lakehouse.audit import audit
from tests.recordings import XRP, Recordings

MADE_AT = datetime(2024, 3, 1, 12, tzinfo=UTC)
MINUTE = timedelta(minutes=1)


def minutes(
    symbol: str, n: int = 300, *, seed: int = 0, flow: bool = True, after: int = 0, half_spread: float = 0.02
) -> pl.DataFrame:
    """Return minutes up to `MADE_AT` (and some after) whose middle price follows takers' net volume, 1e-3 per unit."""
    rng = np.random.default_rng(seed)
    volume = rng.lognormal(3, 0.3, n)
    bought = volume * rng.beta(4, 4, n)
    middle = 100 + np.cumsum(1e-3 * (2 * bought - volume) + 2e-3 * rng.standard_normal(n))
    close = middle + half_spread * rng.choice([-1, 1], n)
    frame = pl.DataFrame(
        {
            "venue": ["binance"] * n,
            "symbol": [symbol] * n,
            "ts": pl.Series([MADE_AT + (k - n + after) * MINUTE for k in range(n)], dtype=pl.Datetime("us", "UTC")),
            "close": close,
            "high": middle + half_spread,
            "low": middle - half_spread,
            "volume": volume,
        }
    ).with_columns(ts_close=pl.col("ts") + MINUTE)
    return frame.with_columns(buy_volume=pl.Series(bought)) if flow else frame


def with_another_future(market: pl.DataFrame) -> pl.DataFrame:
    """Return the market with other values at and after `MADE_AT`, and a series that begins there."""
    later = pl.col("ts") >= MADE_AT
    price = "close" if "close" in market.columns else "price"
    new = market.filter(later).with_columns(symbol=pl.lit("NEW-USDT"))
    return pl.concat([market.with_columns(pl.when(later).then(1e4).otherwise(price).alias(price)), new])


def assert_publishable(contract: TableContract, rows: pl.DataFrame) -> None:
    audited = audit(contract, rows)
    assert audited.rejected.is_empty()
    assert audited.rows.height == rows.height > 0


TWO = pl.concat([minutes("BTC-USDT"), minutes("ETH-USDT", seed=1)])


# mean field game


def test_a_path_starts_at_the_last_price_and_ends_at_the_horizon() -> None:
    rows, failed = mfg_price_rows(TWO, made_at=MADE_AT, points=6)
    assert failed == ()
    assert_publishable(MFG_PRICES, rows)
    path = rows.filter(pl.col("symbol") == "BTC-USDT")
    assert path["ts"].to_list() == [MADE_AT + k * MINUTE for k in range(6)]
    last = TWO.filter(pl.col("symbol") == "BTC-USDT")["close"][-1]
    assert path.select("expected", "lower", "upper").row(0) == pytest.approx((last, last, last))
    assert (path["upper"] - path["lower"]).diff().drop_nulls().min() > 0
    assert path["data_until"].unique().to_list() == [MADE_AT]


def test_the_parameters_say_what_the_path_rests_on() -> None:
    rows, _ = mfg_price_rows(TWO, made_at=MADE_AT, n_agents=500, seed=3)
    told = json.loads(rows["parameters"][0])
    assert told["calibration"]["signed_by"] == "buy_volume"
    assert (told["n_agents"], told["seed"], told["rows_used"]) == (500, 3, 120)
    assert told["game"]["impact"] == pytest.approx(500 * rows["kyle_lambda"][0])


def test_a_wider_window_uses_more_minutes() -> None:
    rows, _ = mfg_price_rows(TWO, made_at=MADE_AT, window_minutes=300)
    assert json.loads(rows["parameters"][0])["rows_used"] == 300


def test_mfg_rows_do_not_depend_on_what_comes_later() -> None:
    market = pl.concat([minutes(name, 320, seed=seed, after=20) for seed, name in enumerate(("A-USDT", "B-USDT"))])
    seen = mfg_price_rows(market, made_at=MADE_AT)
    other = mfg_price_rows(with_another_future(market), made_at=MADE_AT)
    assert_frame_equal(seen.rows, other.rows, check_exact=True)
    assert seen.failed == other.failed == ()


def test_a_bar_that_is_open_when_the_forecast_is_made_is_not_used() -> None:
    at = MADE_AT - timedelta(seconds=30)
    rows, _ = mfg_price_rows(TWO, made_at=at)
    assert rows["data_until"].unique().to_list() == [MADE_AT - MINUTE]


def test_mfg_rows_do_not_depend_on_threads_order_or_other_series() -> None:
    two = mfg_price_rows(TWO, made_at=MADE_AT, workers=1).rows
    assert_frame_equal(two, mfg_price_rows(TWO.reverse(), made_at=MADE_AT, workers=3).rows, check_exact=True)
    alone = mfg_price_rows(TWO.filter(pl.col("symbol") == "ETH-USDT"), made_at=MADE_AT).rows
    assert_frame_equal(two.filter(pl.col("symbol") == "ETH-USDT"), alone, check_exact=True)


def test_series_that_cannot_be_forecast_are_told_with_the_reason() -> None:
    few = minutes("FEW-USDT", 30)
    flat = minutes("FLAT-USDT").with_columns(close=pl.lit(1.0), high=pl.lit(1.0), low=pl.lit(1.0))
    stale = minutes("STALE-USDT").filter(pl.col("ts") < MADE_AT - 20 * MINUTE)
    gone = minutes("GONE-USDT").filter(pl.col("ts") < MADE_AT - 200 * MINUTE)
    rows, failed = mfg_price_rows(pl.concat([TWO, few, flat, stale, gone]), made_at=MADE_AT)
    # A price that stood still is a forecast of no move, not a failure.
    assert rows["symbol"].unique().sort().to_list() == ["BTC-USDT", "ETH-USDT", "FLAT-USDT"]
    assert rows.filter(pl.col("symbol") == "FLAT-USDT")["expected"].unique().to_list() == [1.0]
    reasons = dict(failed)
    assert list(reasons) == [f"{name}-USDT@binance" for name in ("FEW", "GONE", "STALE")]
    assert "30 rows" in reasons["FEW-USDT@binance"]
    assert "nothing since 20 minutes before" in reasons["STALE-USDT@binance"]
    assert "nothing within the window" in reasons["GONE-USDT@binance"]


def test_the_whole_forecast_of_one_series_is_the_one_of_its_rows() -> None:
    one = TWO.filter(pl.col("symbol") == "BTC-USDT")
    whole = mfg_forecast(one, made_at=MADE_AT)
    rows, _ = mfg_price_rows(one, made_at=MADE_AT)
    assert rows["expected"].to_list() == whole.expected[::40].tolist()
    assert whole.solution.density.shape == (401, 101)


def test_recorded_trades_are_forecast_by_the_takers_side(recordings: Recordings) -> None:
    raw = pl.read_parquet(recordings / f"{XRP}/XRP_ETH-trades.parquet")
    trades = raw.select(
        pl.lit("binance").alias("venue"),
        pl.lit("XRP-ETH").alias("symbol"),
        pl.from_epoch("timestamp", "ms").cast(pl.Datetime("us")).dt.replace_time_zone("UTC").alias("ts"),
        pl.col("price", "amount"),
        pl.col("side"),
    ).sort("ts")
    at = trades["ts"][-1]
    rows, failed = mfg_price_rows(trades, made_at=at, window_minutes=2880)
    assert failed == ()
    assert_publishable(MFG_PRICES, rows)
    # The trade at the very time is not yet known.
    assert rows["data_until"][0] < at
    assert json.loads(rows["parameters"][0])["calibration"]["signed_by"] == "taker_side"
    assert rows["kyle_t"][0] > 2


# Chiarella


@pytest.fixture(scope="module")
def fans() -> pl.DataFrame:
    rows, failed = chiarella_rows(TWO, made_at=MADE_AT, points=7)
    assert failed == ()
    return rows


def test_a_fan_opens_from_the_last_close(fans: pl.DataFrame) -> None:
    assert_publishable(CHIARELLA_FORECASTS, fans)
    fan = fans.filter(pl.col("symbol") == "BTC-USDT")
    assert fan["ts"].to_list() == [MADE_AT + 10 * k * MINUTE for k in range(7)]
    last = TWO.filter(pl.col("symbol") == "BTC-USDT")["close"][-1]
    assert fan.select("expected", "lower", "upper").row(0) == pytest.approx((last, last, last))
    assert (fan["lower"][1:] < fan["expected"][1:]).all()
    assert (fan["expected"][1:] < fan["upper"][1:]).all()


def test_a_fan_is_the_exact_law_of_its_market_up_to_sampling(fans: pl.DataFrame) -> None:
    fan = fans.filter(pl.col("symbol") == "ETH-USDT")
    market = ChiarellaParams(**json.loads(fan["parameters"][0])["market"])
    law = forecast(market, 60)
    mean, deviation = law.mean[-1], law.deviation[-1]
    # 4,000 paths: a quantile at 5 % has a standard error of 3.3 % of the deviation.
    tolerance = 4 * 0.033 * deviation
    assert np.log(fan["lower"][-1]) == pytest.approx(mean - 1.645 * deviation, abs=tolerance)
    assert np.log(fan["upper"][-1]) == pytest.approx(mean + 1.645 * deviation, abs=tolerance)
    assert np.log(fan["expected"][-1]) == pytest.approx(mean + deviation**2 / 2, abs=tolerance)


def test_the_impact_of_an_order_carries_the_error_of_lambda() -> None:
    rows, _ = chiarella_rows(minutes("BTC-USDT", half_spread=0.0), made_at=MADE_AT)
    fan = rows.row(0, named=True)
    told = json.loads(fan["parameters"])
    lam = told["estimates"]["impact"]
    assert told["order_flow"]
    assert lam["identified"]
    # 1 % of a day's volume in ten minutes moves the price by about lambda times that, less what it reverts meanwhile.
    assert 0.3 * 0.01 * lam["value"] < fan["order_impact"] < 2 * 0.01 * lam["value"]
    relative = (lam["high"] - lam["low"]) / (2 * 1.96) / lam["value"]
    assert fan["order_impact_error"] == pytest.approx(fan["order_impact"] * relative, rel=0.01)


def test_without_takers_volume_the_impact_is_not_known() -> None:
    rows, _ = chiarella_rows(minutes("BTC-USDT", 150, flow=False), made_at=MADE_AT)
    assert_publishable(CHIARELLA_FORECASTS, rows)
    assert rows["order_impact"].null_count() == rows.height
    assert "impact is not identified" in rows["warnings"][0]


@pytest.mark.soak
def test_fans_do_not_depend_on_what_comes_later_nor_on_threads() -> None:
    market = pl.concat([minutes(name, 170, seed=seed, after=20) for seed, name in enumerate(("A-USDT", "B-USDT"))])
    seen = chiarella_rows(market, made_at=MADE_AT, workers=1)
    other = chiarella_rows(with_another_future(market), made_at=MADE_AT, workers=3)
    assert_frame_equal(seen.rows, other.rows, check_exact=True)
    assert seen.failed == other.failed == ()


def test_a_market_is_fitted_to_the_longest_stretch_without_a_gap_and_starts_from_the_last_close() -> None:
    whole = minutes("GAP-USDT", 200)
    # 130 minutes, a gap of 20, 50 minutes.
    gap = whole.filter(~pl.col("ts").is_between(MADE_AT - 70 * MINUTE, MADE_AT - 51 * MINUTE))
    rows, failed = chiarella_rows(gap, made_at=MADE_AT)
    assert failed == ()
    told = json.loads(rows["parameters"][0])
    assert told["fitted_until"] == (MADE_AT - 70 * MINUTE).isoformat()
    assert told["n_observations"] == 128
    assert "20 minutes are missing: fitted to the longest stretch without a gap, 130 minutes" in rows["warnings"][0]
    assert rows["expected"][0] == pytest.approx(whole["close"][-1])


def test_the_fundamental_value_is_filtered_on_from_the_fit_to_the_last_close() -> None:
    closes = minutes("BTC-USDT", 180, flow=False)
    price, at = np.log(closes["close"].to_numpy()), np.arange(180)
    found = calibrate(price[:130])
    on = market_now(found, at, price, 130)
    # The adaptive pipeline's own filter, over bars, must say the same.
    bars = Bars.from_frame(closes.with_columns(open=pl.col("low")))
    fitted = FittedMarket(found.params, int(bars.times[129]), found.fundamental_deviation**2, False, ())
    assert on.start == pytest.approx(strategy.market_now(fitted, bars, 0).start)
    assert on.fundamental != found.params.fundamental


def test_moves_across_a_gap_say_nothing_of_the_fundamental_value() -> None:
    price = np.log(minutes("BTC-USDT", 132, flow=False)["close"].to_numpy())
    found = calibrate(price[:130])
    # Two lone minutes after a gap: time passes, and nothing else is known.
    on = market_now(found, np.array([*range(130), 140, 145]), price, 130)
    assert on.fundamental == pytest.approx(found.params.fundamental + 16 * found.params.fundamental_drift)
    assert (on.price, on.previous_price) == (price[-1], None)


def test_a_fan_made_some_minutes_after_the_last_bar_is_open_from_the_start() -> None:
    rows, _ = chiarella_rows(minutes("LATE-USDT", 150), made_at=MADE_AT + 7 * MINUTE, horizon_minutes=10, points=3)
    assert rows["ts"].to_list() == [MADE_AT + k * MINUTE for k in (7, 12, 17)]
    assert rows["upper"][0] > rows["lower"][0]
    assert "the last bar closed 7 minutes before" in rows["warnings"][0]


def test_a_series_full_of_gaps_is_told() -> None:
    holes = minutes("HOLES-USDT").filter(pl.col("ts").dt.minute() % 20 != 0)
    rows, failed = chiarella_rows(holes, made_at=MADE_AT)
    assert rows.is_empty()
    assert failed[0][0] == "HOLES-USDT@binance"
    assert "the longest stretch without a gap has 19 of" in failed[0][1]


def test_a_market_without_rows_gives_none() -> None:
    assert mfg_price_rows(TWO.clear(), made_at=MADE_AT).rows.is_empty()
    rows, failed = chiarella_rows(TWO.clear(), made_at=MADE_AT)
    assert (rows.height, failed) == (0, ())
    assert audit(CHIARELLA_FORECASTS, rows).rejected.is_empty()


# what both refuse


def test_what_is_no_market_table_is_refused() -> None:
    with pytest.raises(BadRequestError, match="no column 'volume'"):
        mfg_price_rows(TWO.drop("volume"), made_at=MADE_AT)
    with pytest.raises(BadRequestError, match="has no time zone"):
        mfg_price_rows(TWO, made_at=datetime(2024, 3, 1))
    with pytest.raises(BadRequestError, match="several intervals"):
        mfg_price_rows(TWO.with_columns(interval=pl.Series(["5m", "1h"] * 300)), made_at=MADE_AT)
    with pytest.raises(BadRequestError, match="not of one minute"):
        chiarella_rows(TWO.with_columns(ts_close=pl.col("ts_close") + MINUTE), made_at=MADE_AT + MINUTE)
    with pytest.raises(BadRequestError, match="points=1"):
        chiarella_rows(TWO, made_at=MADE_AT, points=1)
