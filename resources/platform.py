"""The one resource of the assets: the lake, the feeds, the clock and the settings.

It is a plain object rather than a configurable resource on purpose: resource configuration is shown in the
UI and stored with every run, and this one may hold credentials.
"""

from __future__ import annotations

from collections.abc import Callable
from datetime import date, datetime
from functools import cached_property
from pathlib import Path

import dagster as dg
from dagster_duckdb import DuckDBResource

from hfthot_platform import __version__
from hfthot_platform.accounts.service import Accounts
from hfthot_platform.accounts.store import Store
from hfthot_platform.ingest import build_feeds
from hfthot_platform.lakehouse import Lakehouse, Stamp
from hfthot_platform.lakehouse.lake import utc_now
from hfthot_platform.market.sources.base import Feed
from hfthot_platform.settings import Settings
from hfthot_platform.sql import Limits
from hfthot_platform.sql.models import Models, models_of, open_lake

__all__ = ["Platform", "duckdb_resource"]


class Platform:
    """Everything that an asset body needs from the outside.

    Args:
        settings: where things are and what is configured.
        clock: tells the time; tests and replays pass their own.
    """

    def __init__(self, settings: Settings, clock: Callable[[], datetime] = utc_now) -> None:
        self.settings = settings
        self.clock = clock

    def __repr__(self) -> str:
        return f"Platform({self.settings.lake_root!r})"

    @cached_property
    def models(self) -> Models:
        """Return the SQL models; what is wrong with their files is in it."""
        return models_of(self.settings)

    @cached_property
    def lake(self) -> Lakehouse:
        """Return the lake, with the tables and views of the SQL models."""
        return open_lake(self.settings, self.clock, models=self.models)

    @property
    def has_accounts(self) -> bool:
        """Return whether anybody ever used the accounts: looking makes no store where there is none."""
        return self.settings.accounts_url is not None or (self.settings.accounts / "accounts.db").exists()

    @cached_property
    def store(self) -> Store:
        """Return the operational store alone, for what needs no keys."""
        return Store.open(self.settings, self.clock)

    @cached_property
    def accounts(self) -> Accounts:
        """Return the accounts: the store with the keys, which are made or read now."""
        return Accounts.open(self.settings, self.clock)

    @property
    def limits(self) -> Limits:
        """Return what an SQL statement may use; beyond its memory it spills to the scratch folder."""
        return Limits(self.settings.duckdb_memory, self.settings.duckdb_threads, self.settings.scratch)

    @cached_property
    def feeds(self) -> tuple[Feed, ...]:
        """Return the configured feeds."""
        return build_feeds(self.settings, self.clock)

    @property
    def reports(self) -> Path:
        """Return the folder for result pages, beside the lake's scratch space."""
        return self.settings.scratch.parent / "reports"

    def stamp(self, context: dg.AssetExecutionContext, *inputs: str) -> Stamp:
        """Return the stamp of this run for its commits, with the current versions of the input tables."""
        versions = {name: version for name in inputs if (version := self.lake.table(name).version()) is not None}
        return Stamp(
            run_id=context.run.run_id,
            asset=context.asset_key.to_user_string() if context.has_assets_def else "",
            partition=_partition(context),
            code_version=__version__,
            inputs=versions,
        )


def _partition(context: dg.AssetExecutionContext) -> str:
    if not (context.has_partition_key or context.has_partition_key_range):
        return ""
    keys = context.partition_key_range
    return keys.start if keys.start == keys.end else f"{keys.start}..{keys.end}"


def days_of(context: dg.AssetExecutionContext) -> tuple[date, date]:
    """Return the days that a partitioned run is for, from the first to before the second."""
    window = context.partition_time_window
    return window.start.date(), window.end.date()


def duckdb_resource(settings: Settings) -> DuckDBResource:
    """Return DuckDB connections with the settings' limits, for SQL over the lake inside the graph."""
    return DuckDBResource(
        database=":memory:",
        connection_config={"memory_limit": settings.duckdb_memory, "threads": settings.duckdb_threads},
    )
