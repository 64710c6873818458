"""The only place where everything is assembled: settings in, Dagster definitions out."""

from __future__ import annotations

import dagster as dg

from assets import market, ops, portfolio, quality, signals
from hfthot_platform.settings import Settings, load_settings
from jobs import maintenance, research
from jobs import market as market_jobs
from resources.platform import Platform, duckdb_resource
from sensors import changes, failures, landing

__all__ = ["build_definitions", "defs"]

#: Carries out the automation conditions of all assets.
AUTOMATION = dg.AutomationConditionSensorDefinition(
    "automation",
    target=dg.AssetSelection.all(),
    default_status=dg.DefaultSensorStatus.RUNNING,
    minimum_interval_seconds=30,
)


def build_definitions(settings: Settings, platform: Platform | None = None) -> dg.Definitions:
    """Return all definitions for the given settings.

    Args:
        settings: where things are and what is configured.
        platform: the assets' resource; tests pass one with a clock of their own.
    """
    return dg.Definitions(
        assets=[*market.ASSETS, *signals.ASSETS, *portfolio.ASSETS, portfolio.EQUITY, *ops.ASSETS],
        asset_checks=quality.CHECKS,
        jobs=[*market_jobs.JOBS, *research.JOBS, maintenance.maintenance, maintenance.deep_quality],
        schedules=[*market_jobs.SCHEDULES, *research.SCHEDULES, *maintenance.SCHEDULES],
        sensors=[*landing.SENSORS, *changes.SENSORS, *failures.SENSORS, AUTOMATION],
        resources={"platform": platform or Platform(settings), "duckdb": duckdb_resource(settings)},
        # A spawned step costs seconds before it starts; a run of ours is one process.
        executor=dg.in_process_executor,
    )


defs = build_definitions(load_settings())
