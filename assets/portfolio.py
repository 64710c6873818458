"""Portfolios: target weights by method, the adaptive pipeline, and backtests."""

from collections.abc import Iterator
from datetime import date, timedelta
from typing import Final

import dagster as dg
import polars as pl

from assets.common import YESTERDAY, asset_key, publish_days, table_asset
from hfthot_platform.core.time import ONE_DAY, Days
from hfthot_platform.storage.lakehouse import Lakehouse
from hfthot_platform.storage.lakehouse.days import within
from resources.platform import Platform, days_of

__all__ = ["ASSETS", "EQUITY"]

_Result = Iterator[dg.AssetCheckResult | dg.MaterializeResult[None]]

#: The venue whose symbols the portfolios are made of, and the series whose regime stands for the whole market.
_VENUE: Final = "us_equity"
_MARKET: Final = "SPX"
#: Days of closes that weights and backtests look back on.
_REACH: Final = timedelta(days=4 * 366)
#: Days within which the weights held before are looked for.
_HELD: Final = timedelta(days=31)


def _closes(lake: Lakehouse, days: Days) -> pl.DataFrame:
    table = lake.table("market.closes")
    span = days[0] - _REACH, days[1]
    return table.scan().filter(within(table.contract, span), pl.col("venue") == _VENUE).collect()


def _regimes(lake: Lakehouse, days: Days) -> pl.DataFrame:
    table = lake.table("signals.regimes")
    span = days[0] - _REACH, days[1]
    daily = table.scan().filter(within(table.contract, span), pl.col("interval") == "1d")
    return daily.filter(pl.col("venue").is_in([_VENUE, "us_index"])).collect()


def _market_series(regimes: pl.DataFrame) -> str | None:
    return _MARKET if regimes.height and (regimes["symbol"] == _MARKET).any() else None


def _before(lake: Lakehouse, name: str, first: date) -> pl.DataFrame:
    table = lake.table(name)
    return table.scan().filter(within(table.contract, (first - _HELD, first))).collect()


@table_asset(
    "portfolio.weights",
    deps=(
        # Weights for a day use closes before it.
        dg.AssetDep(asset_key("market.closes"), partition_mapping=YESTERDAY),
        dg.AssetDep(asset_key("portfolio.weights"), partition_mapping=YESTERDAY),
    ),
    lineage={"weight": [("market.closes", "close")]},
    follows=False,
)
def weights(context: dg.AssetExecutionContext, platform: dg.ResourceParam[Platform]) -> _Result:
    """Compute CARA, risk-parity and sparse weights for each day, from the closes before it."""
    from hfthot_platform.domain.signals.portfolios import weight_rows

    days = days_of(context)
    lake = platform.lake
    found = weight_rows(_closes(lake, days), days, previous=_before(lake, "portfolio.weights", days[0]))
    yield from publish_days(context, platform, "portfolio.weights", days, found.rows, found.failed, ("market.closes",))


@table_asset(
    "portfolio.adaptive_weights",
    deps=(
        dg.AssetDep(asset_key("market.closes"), partition_mapping=YESTERDAY),
        dg.AssetDep(asset_key("signals.regimes"), partition_mapping=YESTERDAY),
        dg.AssetDep(asset_key("portfolio.adaptive_weights"), partition_mapping=YESTERDAY),
    ),
    lineage={"weight": [("market.closes", "close"), ("signals.regimes", "regime")]},
    follows=False,
)
def adaptive_weights(context: dg.AssetExecutionContext, platform: dg.ResourceParam[Platform]) -> _Result:
    """Decide on each day's weights: regime, strategy, simulated move, costs, sizing, with the reasons."""
    from hfthot_platform.domain.signals.portfolios import adaptive_rows

    days = days_of(context)
    lake = platform.lake
    regimes = _regimes(lake, days)
    found = adaptive_rows(
        _closes(lake, days),
        regimes,
        days,
        previous=_before(lake, "portfolio.adaptive_weights", days[0]),
        market_series=_market_series(regimes),
    )
    inputs = ("market.closes", "signals.regimes")
    yield from publish_days(context, platform, "portfolio.adaptive_weights", days, found.rows, found.failed, inputs)


#: The thinned curves of the backtests: a table of its own, published by the same asset as the figures.
EQUITY = dg.AssetSpec(
    asset_key("portfolio.backtest_equity"),
    deps=[asset_key("portfolio.backtests")],
    group_name="portfolio",
    description="Equity curves of the latest backtests, thinned; published together with `portfolio/backtests`.",
    kinds={"deltalake"},
    metadata={"dagster/table_name": "portfolio.backtest_equity"},
)


@table_asset(
    "portfolio.backtests",
    deps=(
        dg.AssetDep(asset_key("market.closes"), partition_mapping=YESTERDAY),
        dg.AssetDep(asset_key("portfolio.weights"), partition_mapping=YESTERDAY),
        dg.AssetDep(asset_key("portfolio.adaptive_weights"), partition_mapping=YESTERDAY),
    ),
    follows=False,
)
def backtests(context: dg.AssetExecutionContext, platform: dg.ResourceParam[Platform]) -> _Result:
    """Run the rules and the recorded weights over the closes before the last of the days."""
    from hfthot_platform.domain.signals.backtests import backtest_rows

    days = days_of(context)
    lake = platform.lake
    last = days[1] - ONE_DAY
    regimes = _regimes(lake, days)
    found = backtest_rows(
        _closes(lake, days),
        run_on=last,
        regimes=regimes if regimes.height else None,
        weights=lake.table("portfolio.weights").scan().collect(),
        adaptive=lake.table("portfolio.adaptive_weights").scan().collect(),
        market_series=_market_series(regimes),
    )
    # The curves first: figures without their curve would be a riddle, curves without figures are only early.
    curves = lake.table("portfolio.backtest_equity")
    curves.replace((last, days[1]), found.equity, stamp=platform.stamp(context, "market.closes"))
    context.log_event(dg.AssetMaterialization(EQUITY.key, metadata={"rows": found.equity.height}))
    inputs = ("market.closes", "portfolio.weights", "portfolio.adaptive_weights")
    yield from publish_days(context, platform, "portfolio.backtests", (last, days[1]), found.rows, found.failed, inputs)


#: All portfolio assets.
ASSETS = [weights, adaptive_weights, backtests]
