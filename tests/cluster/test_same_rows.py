"""Regimes, forecasts and backtests have the same bits wherever they are computed."""

from __future__ import annotations

from datetime import UTC, date, datetime

import polars as pl
import pytest
from polars.testing import assert_frame_equal

from hfthot_platform.adapters.sample import SampleFeed
from hfthot_platform.adapters.simulated import SimulatedExchange
from hfthot_platform.domain.contracts.signals import REGIME_MODELS
from hfthot_platform.domain.signals.backtests import backtest_rows
from hfthot_platform.domain.signals.declared import RegimeSettings
from hfthot_platform.domain.signals.forecasts import mfg_price_rows
from hfthot_platform.domain.signals.regimes import model_rows, regime_rows
from hfthot_platform.services.cluster import InProcess, Pool

WEEK = date(2022, 12, 12), date(2022, 12, 17)
FITS = RegimeSettings(refit_days=30, history_bars=900, n_restarts=1)


@pytest.fixture(scope="module", params=["pool", pytest.param("ray", marks=pytest.mark.soak)])
def cluster(request):
    if request.param == "ray":
        yield request.getfixturevalue("ray_cluster")
        return
    with Pool(2) as made:
        yield made


@pytest.fixture(scope="module")
def closes() -> pl.DataFrame:
    span = datetime(2019, 1, 1, tzinfo=UTC), datetime(2022, 12, 29, tzinfo=UTC)
    rows = pl.concat(batch.rows for batch in SampleFeed().fetch("market.closes", *span))
    return rows.filter(pl.col("symbol").is_in(["JPM", "XOM"]))


@pytest.mark.soak
def test_regimes_are_the_same(cluster, closes):
    bars = closes.select("venue", "symbol", pl.col("date").cast(pl.Datetime("us", "UTC")).alias("ts"), "close")
    none = REGIME_MODELS.empty()

    def found(mapped):
        models, failed = model_rows(bars, none, WEEK, interval="1d", settings=FITS, mapped=mapped)
        return models, regime_rows(bars, models, WEEK, interval="1d", settings=FITS, mapped=mapped)[0], failed

    here, there = found(InProcess(2).mapped()), found(cluster.mapped())

    assert here[0].height == 2
    assert_frame_equal(here[0], there[0], check_exact=True)
    assert_frame_equal(here[1], there[1], check_exact=True)
    assert here[2] == there[2]


def test_backtests_are_the_same(cluster, closes):
    weights = closes.filter(pl.col("date") >= date(2022, 6, 1)).select(
        "date", "venue", "symbol", pl.lit("equal").alias("method"), pl.lit(0.5).alias("weight")
    )

    here = backtest_rows(closes, run_on=WEEK[0], weights=weights)
    there = backtest_rows(closes, run_on=WEEK[0], weights=weights, mapped=cluster.mapped())

    assert here.rows.height > 3
    assert_frame_equal(here.rows, there.rows, check_exact=True)
    assert_frame_equal(here.equity, there.equity, check_exact=True)


def test_forecasts_are_the_same_and_so_are_the_reasons_of_those_that_failed(cluster):
    made_at = datetime(2024, 3, 4, 12, tzinfo=UTC)
    feed = SimulatedExchange(symbols=("ALPHA-USDT", "BRAVO-USDT"))
    span = datetime(2024, 3, 4, tzinfo=UTC), datetime(2024, 3, 5, tzinfo=UTC)
    trades = pl.concat(batch.rows for batch in feed.fetch("market.trades", *span))
    silent = trades.head(5).with_columns(symbol=pl.lit("SILENT-USDT"))
    market = pl.concat([trades, silent])

    here = mfg_price_rows(market, made_at=made_at)
    there = mfg_price_rows(market, made_at=made_at, mapped=cluster.mapped())

    assert here.failed
    assert here.rows.height > 0
    assert_frame_equal(here.rows, there.rows, check_exact=True)
    assert here.failed == there.failed
