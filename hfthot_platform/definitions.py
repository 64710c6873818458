"""The only place where everything is assembled: settings in, Dagster definitions out."""

from __future__ import annotations

import dagster as dg

from assets import accounts, market, ops, portfolio, privacy, quality, signals, sql_models
from hfthot_platform.core.settings import Settings, load_settings
from jobs import accounts as account_jobs
from jobs import event_log, maintenance, research
from jobs import market as market_jobs
from jobs import privacy as privacy_jobs
from jobs import sql_models as model_jobs
from resources.platform import Platform, duckdb_resource
from sensors import accounts as account_sensors
from sensors import changes, failures, landing
from sensors import privacy as privacy_sensors
from sensors import sql_models as model_sensors

__all__ = ["build_definitions", "defs"]

#: Carries out the automation conditions of all assets.
AUTOMATION = dg.AutomationConditionSensorDefinition(
    "automation",
    target=dg.AssetSelection.all(),
    description="Materialises what follows its checked inputs, within a minute of their publication.",
    default_status=dg.DefaultSensorStatus.RUNNING,
    minimum_interval_seconds=30,
)


def build_definitions(settings: Settings, platform: Platform | None = None) -> dg.Definitions:
    """Return all definitions for the given settings.

    Args:
        settings: where things are and what is configured.
        platform: the assets' resource; tests pass one with a clock of their own.

    An SQL model whose file has a mistake, and what reads it, is there as a disabled asset and keeps nothing else away.
    """
    platform = platform or Platform(settings)
    models = platform.models
    tables = [*market.ASSETS, *signals.ASSETS, *portfolio.ASSETS, *ops.ASSETS, *accounts.ASSETS]
    daily = {key for table in tables if table.partitions_def is not None for key in table.keys}
    return dg.Definitions(
        assets=[*tables, portfolio.EQUITY, *sql_models.model_assets(models, platform.lake, daily)],
        asset_checks=[*quality.CHECKS, *accounts.CHECKS, privacy.CHAIN, *sql_models.model_checks(models)],
        jobs=[
            *market_jobs.JOBS,
            *research.JOBS,
            *account_jobs.JOBS,
            *privacy_jobs.JOBS,
            *(maintenance.maintenance, maintenance.deep_quality, event_log.event_log),
            *model_jobs.model_jobs(models),
        ],
        schedules=[
            *market_jobs.SCHEDULES,
            *research.SCHEDULES,
            *maintenance.SCHEDULES,
            *event_log.SCHEDULES,
            *account_jobs.SCHEDULES,
            *privacy_jobs.SCHEDULES,
            *model_jobs.model_schedules(models),
        ],
        sensors=[
            *account_sensors.SENSORS,
            *privacy_sensors.SENSORS,
            *landing.SENSORS,
            *changes.SENSORS,
            *failures.SENSORS,
            *model_sensors.SENSORS,
            AUTOMATION,
        ],
        resources={"platform": platform, "duckdb": duckdb_resource(settings)},
        # A spawned step costs seconds before it starts; a run of ours is one process.
        executor=dg.in_process_executor,
    )


defs = build_definitions(load_settings())
