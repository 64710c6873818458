"""Portfolios: target weights by method, the adaptive pipeline, and backtests."""

from collections.abc import Iterator
from datetime import date

import dagster as dg
import polars as pl

from assets.common import YESTERDAY, asset_key, publish_days, table_asset
from hfthot_platform.core.time import ONE_DAY, Days
from hfthot_platform.domain.signals.declared import PORTFOLIOS, DeclaredPortfolio
from hfthot_platform.storage.lakehouse import Lakehouse
from hfthot_platform.storage.lakehouse.days import within
from resources.platform import Platform, days_of

__all__ = ["ASSETS", "EQUITY"]

_Result = Iterator[dg.AssetCheckResult | dg.MaterializeResult[None]]


def _read_closes(lake: Lakehouse, portfolio: DeclaredPortfolio, days: Days) -> pl.DataFrame:
    table = lake.table("market.closes")
    span = days[0] - portfolio.reach, days[1]
    return table.scan().filter(within(table.contract, span), pl.col("venue") == portfolio.venue).collect()


def _read_regimes(lake: Lakehouse, portfolio: DeclaredPortfolio, days: Days) -> pl.DataFrame:
    table = lake.table("signals.regimes")
    span = days[0] - portfolio.reach, days[1]
    daily = table.scan().filter(within(table.contract, span), pl.col("interval") == "1d")
    return daily.filter(pl.col("venue").is_in([portfolio.venue, portfolio.market_venue])).collect()


def _market_series(portfolio: DeclaredPortfolio, regimes: pl.DataFrame) -> str | None:
    return portfolio.market_series if (regimes["symbol"] == portfolio.market_series).any() else None


def _decisions_before(lake: Lakehouse, name: str, portfolio: DeclaredPortfolio, first: date) -> pl.DataFrame:
    table = lake.table(name)
    span = first - portfolio.held_within, first
    return table.scan().filter(within(table.contract, span), pl.col("venue") == portfolio.venue).collect()


def _read_all(lake: Lakehouse, name: str, portfolio: DeclaredPortfolio) -> pl.DataFrame:
    return lake.table(name).scan().filter(pl.col("venue") == portfolio.venue).collect()


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
    found = [
        weight_rows(
            _read_closes(lake, portfolio, days),
            days,
            previous=_decisions_before(lake, "portfolio.weights", portfolio, days[0]),
        )
        for portfolio in PORTFOLIOS
    ]
    rows, failed = pl.concat(part.rows for part in found), [reason for part in found for reason in part.failed]
    yield from publish_days(context, platform, "portfolio.weights", days, rows, failed, ("market.closes",))


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
    found = []
    for portfolio in PORTFOLIOS:
        regimes = _read_regimes(lake, portfolio, days)
        found.append(
            adaptive_rows(
                _read_closes(lake, portfolio, days),
                regimes,
                days,
                previous=_decisions_before(lake, "portfolio.adaptive_weights", portfolio, days[0]),
                market_series=_market_series(portfolio, regimes),
            )
        )
    rows, failed = pl.concat(part.rows for part in found), [reason for part in found for reason in part.failed]
    inputs = ("market.closes", "signals.regimes")
    yield from publish_days(context, platform, "portfolio.adaptive_weights", days, rows, failed, inputs)


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
    found = []
    for portfolio in PORTFOLIOS:
        regimes = _read_regimes(lake, portfolio, days)
        found.append(
            backtest_rows(
                _read_closes(lake, portfolio, days),
                run_on=last,
                regimes=regimes if regimes.height else None,
                weights=_read_all(lake, "portfolio.weights", portfolio),
                adaptive=_read_all(lake, "portfolio.adaptive_weights", portfolio),
                market_series=_market_series(portfolio, regimes),
                mapped=platform.mapped(context, "backtests"),
            )
        )
    rows, curves = pl.concat(part.rows for part in found), pl.concat(part.equity for part in found)
    failed = [reason for part in found for reason in part.failed]
    # The curves first: figures without their curve would be a riddle, curves without figures are only early.
    equity = lake.table("portfolio.backtest_equity")
    equity.replace((last, days[1]), curves, stamp=platform.stamp(context, "market.closes"))
    context.log_event(dg.AssetMaterialization(EQUITY.key, metadata={"rows": curves.height}))
    inputs = ("market.closes", "portfolio.weights", "portfolio.adaptive_weights")
    yield from publish_days(context, platform, "portfolio.backtests", (last, days[1]), rows, failed, inputs)


#: All portfolio assets.
ASSETS = [weights, adaptive_weights, backtests]
