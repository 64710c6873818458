"""The one resource of the assets: the lake, the feeds, the clock and the settings.

It is a plain object rather than a configurable resource on purpose: resource configuration is shown in the
UI and stored with every run, and this one may hold credentials.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import date, datetime
from pathlib import Path
from typing import Final

import dagster as dg
import duckdb
from dagster_duckdb import DuckDBResource

from hfthot_platform.app.installation import Installation
from hfthot_platform.core.errors import BadRequestError
from hfthot_platform.core.parallel import Mapped
from hfthot_platform.core.settings import Settings
from hfthot_platform.core.time import utc_now
from hfthot_platform.core.version import __version__
from hfthot_platform.services.sql.spill import spill_folder
from hfthot_platform.storage.lakehouse import Stamp

__all__ = ["NO_ACCOUNTS", "LakeDuckDB", "Platform", "duckdb_resource"]


#: What sensors, schedules and runs about accounts say where nobody made any.
NO_ACCOUNTS: Final = "there are no accounts yet; `hfthot init` creates them"

#: Items of which the run's log tells how many are done.
_MANY_ITEMS: Final = 40


class Platform(Installation):
    """The installation as assets use it: who first writes makes the lake, and stamps say which run wrote."""

    def __init__(
        self, settings: Settings, clock: Callable[[], datetime] = utc_now, *, new: bool = True, create: bool = False
    ) -> None:
        super().__init__(settings, clock, new=new, create=create)

    def mapped(self, context: dg.AssetExecutionContext, name: str) -> Mapped:
        """Return what applies a function to many items where the settings say; the run's log tells how far it is."""
        told = 0

        def tell(name: str, done: int, total: int) -> None:
            nonlocal told
            # Each line is an event in Dagster's log: ten of them, and none for what is done in a moment.
            if total >= _MANY_ITEMS and done * 10 // total > told:
                told = done * 10 // total
                context.log.info("%s: %d of %d", name, done, total)

        return self.cluster.mapped(name, tell)

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
        BadRequestError: the run has no days.
    """
    if not (context.has_partition_key or context.has_partition_key_range):
        raise BadRequestError(
            "the run has no days",
            where=context.asset_key.to_user_string(),
            hint="Choose days where it is started: `Materialize` asks for them, and so does a job's launch page.",
        )
    window = context.partition_time_window
    return window.start.date(), window.end.date()


class LakeDuckDB(DuckDBResource):
    """In-memory DuckDB connections that spill to a folder of their own each, which is gone when they close.

    Pass `get_connection` to `hfthot_platform.services.sql.opened` or `query` as `connect`.
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
