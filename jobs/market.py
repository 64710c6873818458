"""Ingest and derive: the daily path from feeds to the universe and the regimes."""

from __future__ import annotations

import dagster as dg

from assets.common import RULES, asset_key

__all__ = ["JOBS", "SCHEDULES"]


def _tables(*names: str) -> dg.AssetSelection:
    """Select tables with the blocking checks that belong to them, and none of the stand-alone checks.

    Those (Great Expectations and the like: the import alone takes seconds) have a weekly job.
    """
    keys = [asset_key(name) for name in names]
    gates = dg.AssetSelection.checks(*(dg.AssetCheckKey(key, RULES) for key in keys))
    return dg.AssetSelection.assets(*keys).without_checks() | gates


ingest = dg.define_asset_job(
    "ingest",
    selection=_tables("market.trades", "market.simulated_regimes"),
    description="Fetch a day's trades from the configured feeds; the derived tables follow by themselves.",
)
derive = dg.define_asset_job(
    "derive",
    selection=_tables("market.bars_1m", "market.bars", "market.closes", "market.universe"),
    description="Compute a day's bars, closes and universe.  A day that is up to date makes no new version.",
)
regimes = dg.define_asset_job(
    "regimes",
    selection=_tables("signals.regime_models", "signals.regimes", "signals.regime_changes"),
    description="Fit the regime models that are due and find each bar's regime and the changes.",
)
describe = dg.define_asset_job(
    "describe_instruments",
    selection=_tables("market.instruments"),
    description="Refresh what is known of the instruments.",
)
landing = dg.define_asset_job(
    "landing",
    selection=dg.AssetSelection.assets(asset_key("ops.ingest_files")),
    description="Ingest the files that wait in the landing folder.",
)

JOBS = [ingest, derive, regimes, describe, landing]

# Half an hour after midnight UTC, so that archives and late trades of the day are in.
SCHEDULES = [
    dg.build_schedule_from_partitioned_job(
        ingest, name="ingest_daily", hour_of_day=0, minute_of_hour=30, default_status=dg.DefaultScheduleStatus.RUNNING
    ),
    # The sensor of automation conditions derives within a minute of each ingest; this catches what it missed.
    dg.build_schedule_from_partitioned_job(
        derive, name="derive_daily", hour_of_day=2, minute_of_hour=0, default_status=dg.DefaultScheduleStatus.RUNNING
    ),
    dg.ScheduleDefinition(
        name="describe_instruments_daily",
        job=describe,
        cron_schedule="15 0 * * *",
        execution_timezone="UTC",
        default_status=dg.DefaultScheduleStatus.RUNNING,
    ),
]
