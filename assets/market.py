"""Market data: instruments, trades, bars, closes, corporate actions and the universe, day by day."""

from collections.abc import Callable, Iterator, Mapping
from datetime import timedelta

import dagster as dg
import polars as pl

from assets import pictures
from assets.common import YESTERDAY, asset_key, publish_days, published, rule_results, table_asset
from hfthot_platform.core.time import ONE_DAY, Days
from hfthot_platform.domain.market.universe import universe_over
from hfthot_platform.services.derive.derivation import derive
from hfthot_platform.services.derive.tables import DENSE_SOURCES, rows_of_unit
from hfthot_platform.services.ingest import stage_feeds, stated_by
from hfthot_platform.services.ingest.feeds import CONFLICTS
from hfthot_platform.storage.lakehouse import Table, Unit
from hfthot_platform.storage.lakehouse.days import within
from resources.platform import Platform, days_of

__all__ = ["ASSETS"]

_Result = Iterator[dg.AssetCheckResult | dg.MaterializeResult[None]]
_Pictures = Callable[[Table, Days], Mapping[str, bytes]]


@table_asset("market.instruments", retries=True, partitioned=False)
def instruments(context: dg.AssetExecutionContext, platform: dg.ResourceParam[Platform]) -> _Result:
    """What can be traded, as the feeds describe it today."""
    today = platform.clock().date()
    yield from _from_feeds(context, platform, "market.instruments", (today, today + ONE_DAY))


@table_asset("market.trades", retries=True, fresh_within=timedelta(hours=36))
def trades(context: dg.AssetExecutionContext, platform: dg.ResourceParam[Platform]) -> _Result:
    """Trades of the configured feeds; files from the landing folder arrive in the same table."""
    yield from _from_feeds(context, platform, "market.trades", days_of(context), pictures.of_trades)


@table_asset("market.simulated_regimes", retries=True)
def simulated_regimes(context: dg.AssetExecutionContext, platform: dg.ResourceParam[Platform]) -> _Result:
    """The true regimes behind the simulated exchange's trades."""
    yield from _from_feeds(context, platform, "market.simulated_regimes", days_of(context))


_BAR_LINEAGE = {
    "ts": "ts", "open": "price", "high": "price", "low": "price", "close": "price",
    "volume": "amount", "quote_volume": "amount", "trades": "trade_id", "buy_volume": "side",
    "venue": "venue", "symbol": "symbol", "source": "source", "source_ref": "source_ref",
}  # fmt: skip


@table_asset(
    "market.bars_1m",
    deps=("market.trades",),
    lineage={name: [("market.trades", source)] for name, source in _BAR_LINEAGE.items()},
    retries=True,
    fresh_within=timedelta(hours=36),
)
def bars_1m(context: dg.AssetExecutionContext, platform: dg.ResourceParam[Platform]) -> _Result:
    """One-minute bars: the vendors', and our own from trades where a vendor has none."""
    yield from _derive_table(context, platform, "market.bars_1m", ("market.trades",), pictures.of_minutes)


@table_asset(
    "market.bars",
    deps=("market.bars_1m",),
    lineage={name: [("market.bars_1m", name)] for name in _BAR_LINEAGE},
    retries=True,
    fresh_within=timedelta(hours=36),
)
def bars(context: dg.AssetExecutionContext, platform: dg.ResourceParam[Platform]) -> _Result:
    """Bars of 5m to 1d: the vendors', and our own from 1m bars where a vendor has none."""
    yield from _derive_table(context, platform, "market.bars", ("market.bars_1m",), pictures.of_bars)


@table_asset(
    "market.closes",
    deps=("market.bars",),
    lineage={"date": [("market.bars", "ts")], "close": [("market.bars", "close")]}
    | {name: [("market.bars", name)] for name in ("venue", "symbol", "source")},
    retries=True,
    fresh_within=timedelta(hours=36),
)
def closes(context: dg.AssetExecutionContext, platform: dg.ResourceParam[Platform]) -> _Result:
    """Daily closes: adjusted ones from the feeds, and those of final daily bars for everything else."""
    yield from _derive_table(context, platform, "market.closes", ("market.bars",), pictures.of_closes)


@table_asset("market.corporate_actions", retries=True)
def corporate_actions(context: dg.AssetExecutionContext, platform: dg.ResourceParam[Platform]) -> _Result:
    """Splits and dividends: those of the feeds; files from the landing folder arrive in the same table."""
    yield from _from_feeds(context, platform, "market.corporate_actions", days_of(context))


@table_asset(
    "market.universe",
    deps=(
        # A day's scores use the days before it only.
        dg.AssetDep(asset_key("market.bars"), partition_mapping=YESTERDAY),
        dg.AssetDep(asset_key("market.universe"), partition_mapping=YESTERDAY),
    ),
    lineage={
        "score": [("market.bars", "quote_volume"), ("market.bars", "volume"), ("market.bars", "close")],
        "symbol": [("market.bars", "symbol")],
        "member_since": [("market.universe", "member_since")],
    },
    fresh_within=timedelta(hours=36),
)
def universe(context: dg.AssetExecutionContext, platform: dg.ResourceParam[Platform]) -> _Result:
    """The most traded symbols of each day, chosen from the days before it and from yesterday's list."""
    first, end = days = days_of(context)
    settings = platform.settings
    source = platform.lake.table("market.bars")
    table = platform.lake.table("market.universe")
    # A week more than the window, so that a member that fell silent is told from one that has no data yet.
    window = first - timedelta(days=settings.universe_window_days + 7), end
    daily = source.scan().filter(within(source.contract, window), pl.col("interval") == "1d")
    month = first - timedelta(days=31), first
    before = table.scan().filter(within(table.contract, month)).collect()
    rows = universe_over(
        daily, before, first, end, size=settings.universe_size, window_days=settings.universe_window_days
    )
    inputs = ("market.bars", "market.universe")
    yield from publish_days(context, platform, "market.universe", days, rows, (), inputs, pictures.of_universe)


def _from_feeds(
    context: dg.AssetExecutionContext, platform: Platform, name: str, days: Days, pictures_of: _Pictures | None = None
) -> _Result:
    table = platform.lake.table(name)
    with stage_feeds(platform.lake, platform.feeds, name, days, settings=platform.settings) as staging:
        yield from rule_results(staging)
        if not staging.publishable:
            staging.quarantine(stamp=platform.stamp(context))
            return
        commit = staging.merge(on_change=CONFLICTS.get(name, "update"), stamp=platform.stamp(context))
    found = pictures_of(table, days) if pictures_of else {}
    yield published(context, table, [commit], pictures.kept(platform, name, days, found))


def _derive_table(
    context: dg.AssetExecutionContext,
    platform: Platform,
    name: str,
    inputs: tuple[str, ...],
    pictures_of: _Pictures,
) -> _Result:
    table = platform.lake.table(name)
    days = days_of(context)
    stamp = platform.stamp(context, *inputs)
    now = platform.clock()

    def compute(unit: Unit) -> pl.DataFrame:
        return rows_of_unit(platform.lake, name, unit, now=now)

    stated = stated_by(platform.feeds, platform.lake, name, settings=platform.settings)
    source = DENSE_SOURCES.get(name)
    with derive(
        platform.lake, name, days, compute, source=source, stated=stated, settings=platform.settings
    ) as derivation:
        yield from rule_results(derivation.staging)
        if not derivation.staging.publishable:
            derivation.staging.quarantine(stamp=stamp)
            return
        commits = derivation.publish(stamp)
    yield published(context, table, commits, pictures.kept(platform, name, days, pictures_of(table, days)))


#: All market assets.
ASSETS = [instruments, trades, simulated_regimes, bars_1m, bars, closes, corporate_actions, universe]
