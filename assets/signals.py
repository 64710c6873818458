"""What the models say: regimes, mean-field-game price paths, Chiarella forecasts."""

from collections.abc import Callable, Iterator
from datetime import datetime, timedelta
from typing import TYPE_CHECKING, Final

import dagster as dg
import polars as pl
from pydantic import Field

from assets import pictures
from assets.common import YESTERDAY, asset_key, publish_days, published, rule_results, table_asset
from hfthot_platform.core.time import ONE_DAY, Days, midnight
from hfthot_platform.domain.signals.declared import REGIME_SERIES, RegimeSeries
from hfthot_platform.storage.lakehouse import Lakehouse
from hfthot_platform.storage.lakehouse.days import within
from resources.platform import Platform, days_of

if TYPE_CHECKING:
    from hfthot_platform.domain.signals.forecasts import Forecasts

__all__ = ["ASSETS"]

_Result = Iterator[dg.AssetCheckResult | dg.MaterializeResult[None]]


class ForecastHours(dg.Config):
    """How many forecasts a day gets."""

    every_hours: int = Field(1, ge=1, le=24, description="Hours between two forecasts of a series")


#: Days within which the last certain regime is looked for.
_MEMORY: Final = timedelta(days=120)


def _read_closes(lake: Lakehouse, series: RegimeSeries, days: Days) -> pl.DataFrame:
    """Return venue, symbol, ts, close of a series' final bars, as far back as its models reach."""
    span = days[0] - series.reach, days[1]
    if series.interval == "1d":
        table = lake.table("market.closes")
        rows = table.scan().filter(within(table.contract, span))
        return rows.select(
            "venue", "symbol", pl.col("date").cast(pl.Datetime("us", "UTC")).alias("ts"), "close"
        ).collect()
    table = lake.table("market.bars")
    rows = table.scan().filter(within(table.contract, span), pl.col("interval") == series.interval, pl.col("final"))
    return rows.select("venue", "symbol", "ts", "close").collect()


@table_asset(
    "signals.regime_models",
    deps=(
        # The model of a day is fitted on bars before it.
        dg.AssetDep(asset_key("market.closes"), partition_mapping=YESTERDAY),
        dg.AssetDep(asset_key("market.bars"), partition_mapping=YESTERDAY),
    ),
    fresh_within=timedelta(hours=36),
)
def regime_models(context: dg.AssetExecutionContext, platform: dg.ResourceParam[Platform]) -> _Result:
    """Fit the regime models that are due, each on bars before the day from which it is used."""
    from hfthot_platform.domain.signals.regimes import model_rows

    days = days_of(context)
    known = platform.lake.table("signals.regime_models").scan().collect()
    parts: list[pl.DataFrame] = []
    failed: list[tuple[str, str]] = []
    for series in REGIME_SERIES:
        closes = _read_closes(platform.lake, series, days)
        rows, missed = model_rows(
            closes,
            known,
            days,
            interval=series.interval,
            settings=series.settings,
            mapped=platform.mapped(context, f"regime models of {series.interval}"),
        )
        parts.append(rows)
        failed += missed
    yield from publish_days(
        context, platform, "signals.regime_models", days, pl.concat(parts), failed, ("market.closes", "market.bars")
    )


@table_asset(
    "signals.regimes",
    deps=("market.closes", "market.bars", "signals.regime_models"),
    lineage={
        "regime": [("market.closes", "close"), ("market.bars", "close"), ("signals.regime_models", "parameters")],
        "model_id": [("signals.regime_models", "model_id")],
    },
    fresh_within=timedelta(hours=36),
)
def regimes(context: dg.AssetExecutionContext, platform: dg.ResourceParam[Platform]) -> _Result:
    """Filter the regime after each bar, with the model of its day."""
    from hfthot_platform.domain.signals.regimes import regime_rows

    days = days_of(context)
    models = platform.lake.table("signals.regime_models").scan().collect()
    parts: list[pl.DataFrame] = []
    failed: list[tuple[str, str]] = []
    for series in REGIME_SERIES:
        closes = _read_closes(platform.lake, series, days)
        rows, missed = regime_rows(
            closes,
            models,
            days,
            interval=series.interval,
            settings=series.settings,
            mapped=platform.mapped(context, f"regimes of {series.interval}"),
        )
        parts.append(rows)
        failed += missed
    inputs = ("market.closes", "market.bars", "signals.regime_models")
    yield from publish_days(context, platform, "signals.regimes", days, pl.concat(parts), failed, inputs)


@table_asset(
    "signals.regime_changes",
    deps=("signals.regimes",),
    lineage={name: [("signals.regimes", "regime")] for name in ("previous", "regime")},
)
def regime_changes(context: dg.AssetExecutionContext, platform: dg.ResourceParam[Platform]) -> _Result:
    """Find the bars after which another regime is certain."""
    from hfthot_platform.domain.signals.regimes import change_rows

    days = days_of(context)
    table = platform.lake.table("signals.regimes")
    rows = table.scan().filter(within(table.contract, (days[0] - _MEMORY, days[1]))).collect()
    yield from publish_days(
        context, platform, "signals.regime_changes", days, change_rows(rows, days), (), ("signals.regimes",)
    )


@table_asset("signals.mfg_prices", deps=("market.trades",), follows=False)
def mfg_prices(
    context: dg.AssetExecutionContext, platform: dg.ResourceParam[Platform], config: ForecastHours
) -> _Result:
    """Forecast price paths with the mean field game, at each hour of the day that has no forecast yet."""
    from hfthot_platform.domain.signals.forecasts import mfg_price_rows

    yield from _forecasts(context, platform, config, "signals.mfg_prices", "market.trades", mfg_price_rows)


@table_asset("signals.chiarella_forecasts", deps=("market.bars_1m",), follows=False)
def chiarella_forecasts(
    context: dg.AssetExecutionContext, platform: dg.ResourceParam[Platform], config: ForecastHours
) -> _Result:
    """Forecast price fans with Chiarella's market, at each hour of the day that has no forecast yet."""
    from hfthot_platform.domain.signals.forecasts import chiarella_rows

    yield from _forecasts(context, platform, config, "signals.chiarella_forecasts", "market.bars_1m", chiarella_rows)


def _forecasts(
    context: dg.AssetExecutionContext,
    platform: Platform,
    config: ForecastHours,
    name: str,
    source: str,
    forecast: "Callable[..., Forecasts]",
) -> _Result:
    days = days_of(context)
    table, market = platform.lake.table(name), platform.lake.table(source)
    present = table.scan().filter(within(table.contract, (days[0], days[1] + ONE_DAY)))
    done = set(present.select(pl.col("made_at").unique()).collect()["made_at"])
    parts: list[pl.DataFrame] = [table.contract.empty().drop(table.contract.partition_by or "", "schema_version")]
    failed: list[tuple[str, str]] = []
    for made_at in _full_hours(days, config.every_hours, platform.clock()):
        if made_at in done:
            continue
        window = (made_at - ONE_DAY).date(), (made_at + ONE_DAY).date()
        rows = market.scan().filter(within(market.contract, window), pl.col("ts") < made_at).collect()
        found = forecast(rows, made_at=made_at, mapped=platform.mapped(context, f"forecasts at {made_at:%H:%M}"))
        parts.append(found.rows)
        failed += [(series, f"{made_at:%Y-%m-%d %H:%M}: {reason}") for series, reason in found.failed]
    audited = table.audit(pl.concat(parts))
    yield from rule_results(audited)
    if not audited.publishable:
        table.quarantine(audited, stamp=platform.stamp(context))
        return
    commit = table.merge(audited, stamp=platform.stamp(context, source))
    shown = pictures.kept(platform, name, days, pictures.of_forecasts(table, market, days))
    yield published(context, table, [commit], shown, failed=failed)


def _full_hours(days: Days, every: int, now: datetime) -> list[datetime]:
    """Return the full hours that end within the days and are over, the day's last midnight included."""
    first, end = (midnight(day) for day in days)
    hours = int((end - first) / timedelta(hours=1))
    return [at for k in range(every, hours + 1, every) if (at := first + timedelta(hours=k)) <= now]


#: All signal assets.
ASSETS = [regime_models, regimes, regime_changes, mfg_prices, chiarella_forecasts]
