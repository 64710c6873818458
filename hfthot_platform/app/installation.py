"""The installation: settings and clock in; lake, store, accounts, SQL models and feeds out.

The only composition root: Dagster's resource, the command line, the client and every server use it, so that two
installations in one process share nothing, and a part is put together in one place.  Each part is made when it is
first asked for.  What does not belong here: what the parts do.
"""

from __future__ import annotations

from collections.abc import Callable
from datetime import datetime
from functools import cached_property
from pathlib import Path

from hfthot_platform.adapters.ports import Feed
from hfthot_platform.app.feeds import build_feeds
from hfthot_platform.app.lake import models_of, open_lake
from hfthot_platform.core.settings import Settings
from hfthot_platform.core.time import utc_now
from hfthot_platform.services.accounts.accounts import Accounts
from hfthot_platform.services.sql import Limits
from hfthot_platform.services.sql.models import Models
from hfthot_platform.storage.lakehouse import Lakehouse
from hfthot_platform.storage.operational.store import Store

__all__ = ["Installation"]


class Installation:
    """The parts of one installation.

    Args:
        settings: where things are and what is configured.
        clock: tells the time; tests and replays pass their own.
    """

    def __init__(self, settings: Settings, clock: Callable[[], datetime] = utc_now) -> None:
        self.settings = settings
        self.clock = clock

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self.settings.lake_root!r})"

    @cached_property
    def models(self) -> Models:
        """Return the SQL models; what is wrong with their files is in it."""
        return models_of(self.settings)

    @cached_property
    def lake(self) -> Lakehouse:
        """Return the lake, with the tables and views of the SQL models; who first writes makes it."""
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
            StoreMissingError: there are none; nothing makes them in passing.
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
