"""The one resource of the assets: the lake, the feeds, the clock and the settings.

It is a plain object rather than a configurable resource on purpose: resource configuration is shown in the
UI and stored with every run, and this one may hold credentials.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import date, datetime
from functools import cached_property
from pathlib import Path
from typing import Final

import dagster as dg
import duckdb
from dagster_duckdb import DuckDBResource

from hfthot_platform import __version__
from hfthot_platform.accounts.service import Accounts
from hfthot_platform.accounts.store import Store
from hfthot_platform.errors import BadRequestError
from hfthot_platform.ingest import build_feeds
from hfthot_platform.lakehouse import Lakehouse, Stamp
from hfthot_platform.lakehouse.lake import utc_now
from hfthot_platform.market.sources.base import Feed
from hfthot_platform.settings import Settings
from hfthot_platform.sql import Limits
from hfthot_platform.sql.models import Models, models_of, open_lake
from hfthot_platform.sql.spill import spill_folder

__all__ = ["NO_ACCOUNTS", "LakeDuckDB", "Platform", "duckdb_resource"]


#: What sensors, schedules and runs about accounts say where nobody made any.
NO_ACCOUNTS: Final = "there are no accounts yet; `hfthot init` makes them"


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
        """Return the lake, with the tables and views of the SQL models; the first asset that writes makes it."""
        return open_lake(self.settings, self.clock, models=self.models, new=True)

    @property
    def has_accounts(self) -> bool:
        """Return whether there are accounts: looking makes no store where there is none."""
        return Store.exists(self.settings)

    @cached_property
    def store(self) -> Store:
        """Return the operational store alone, for what needs no keys."""
        return Store.open(self.settings, self.clock, create=False)

    @cached_property
    def accounts(self) -> Accounts:
        """Return the accounts: the store with the keys, which are read now.

        Raises:
            StoreMissingError: there are none; no run makes them in passing.
        """
        return Accounts.open(self.settings, self.clock, create=False)

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
    """Return the days that a partitioned run is for, from the first to before the second.

    Raises:
        BadRequestError: the run is for no days.
    """
    if not (context.has_partition_key or context.has_partition_key_range):
        raise BadRequestError(
            "the run is for no days",
            where=context.asset_key.to_user_string(),
            hint="Choose days where it is started: `Materialize` asks for them, and so does a job's launch page.",
        )
    window = context.partition_time_window
    return window.start.date(), window.end.date()


class LakeDuckDB(DuckDBResource):
    """In-memory DuckDB connections that spill to a folder of their own each, which is gone when they close.

    Pass `get_connection` to `hfthot_platform.sql.opened` or `query` as `connect`.
    """

    spill: str

    @contextmanager
    def get_connection(self) -> Iterator[duckdb.DuckDBPyConnection]:
        """Open a database of its own; it is closed, and what it spilled removed, when the block ends."""
        with spill_folder(Path(self.spill)) as folder, super().get_connection() as connection:
            try:
                connection.execute("SET temp_directory = $folder", {"folder": str(folder)})
                yield connection
            finally:
                connection.close()


def duckdb_resource(settings: Settings) -> LakeDuckDB:
    """Return DuckDB connections with the settings' limits, for SQL over the lake inside the graph."""
    return LakeDuckDB(
        database=":memory:",
        connection_config={"memory_limit": settings.duckdb_memory, "threads": settings.duckdb_threads},
        spill=str(settings.scratch),
    )
