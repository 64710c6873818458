"""The installation: settings and clock in; lake, store, accounts, SQL models, SQL processes and feeds out.

The only composition root: Dagster's resource, the command line, the client, the doctor, the demonstration, research and
every server use it, so that a part is put together in one place, and two installations in one process share nothing.
Each part is made when it is first asked for, and loads its libraries then: making an installation is cheap.  What does
not belong here: what the parts do.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import replace
from datetime import datetime
from typing import TYPE_CHECKING, Any, Final, NoReturn, Self, TypeVar, cast

from hfthot_platform.app.hosts import require_shared
from hfthot_platform.core.forks import keep_for_parent, tell_in_child
from hfthot_platform.core.settings import Settings, load_settings
from hfthot_platform.core.time import utc_now

if TYPE_CHECKING:
    from hfthot_platform.adapters.ports import Feed
    from hfthot_platform.domain.access.visibility import Relations
    from hfthot_platform.services.accounts.accounts import Accounts
    from hfthot_platform.services.cluster import Cluster
    from hfthot_platform.services.sql import Databases, Limits
    from hfthot_platform.services.sql.gateway import GatewayPool, QueryLimits
    from hfthot_platform.services.sql.models import Models
    from hfthot_platform.storage.folders import StoredFolder
    from hfthot_platform.storage.lakehouse import Lakehouse
    from hfthot_platform.storage.lakehouse.storage import Storage
    from hfthot_platform.storage.operational.store import Store

__all__ = ["Installation"]

_T = TypeVar("_T")
#: The parts that hold processes, threads, connections or keys, in the order in which they are closed.
_CLOSED: Final = ("cluster", "gateway_pool", "databases", "accounts", "store")


class Installation:
    """The parts of one installation; safe to use from several threads.

    Close it, or use it in a `with` block: `close` ends its SQL processes and closes store and accounts.

    Args:
        settings: where things are and what is configured.
        clock: tells the time; tests and replays pass their own.
        new: whether a lake that is not there yet reads as an empty one, for those who are about to write it; otherwise
            reading it is a LakeMissingError.
        create: whether lake, accounts and keys are made where there are none; nothing else makes them.
        checked: whether settings that do not suit the number of hosts are refused; the doctor looks at them instead.

    Raises:
        NotSharedError: there is more than one host, and what they must share is on a disk of one of them.

    Example:
        >>> from hfthot_platform import Installation, LakehouseClient
        >>> with Installation.open() as installation:
        ...     closes = installation.lake.table("market.closes").scan()
        ...     client = LakehouseClient.of(installation, api_key=key)
    """

    def __init__(
        self,
        settings: Settings,
        clock: Callable[[], datetime] = utc_now,
        *,
        new: bool = False,
        create: bool = False,
        checked: bool = True,
    ) -> None:
        if checked:
            require_shared(settings)
        self.settings = settings
        self.clock = clock
        self._new = new or create
        self._create = create
        self._parts: dict[str, Any] = {}
        # Parts are made of others.
        self._lock = threading.RLock()
        tell_in_child(self)

    @classmethod
    def open(
        cls,
        settings: Settings | None = None,
        clock: Callable[[], datetime] = utc_now,
        *,
        new: bool = False,
        create: bool = False,
    ) -> Self:
        """Return the installation of the settings, by default of the configured ones.

        Raises:
            ConfigError: a setting is malformed, or does not suit the number of hosts.
        """
        return cls(load_settings() if settings is None else settings, clock, new=new, create=create)

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self.settings.lake_root!r})"

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def __reduce_ex__(self, protocol: object) -> NoReturn:
        raise TypeError(f"{type(self).__name__} holds keys, connections and processes; open one in the other process")

    def close(self) -> None:
        """End the SQL processes, write what is counted in memory, and close store and accounts.

        A part that is asked for afterwards is created again.
        """
        with self._lock:
            parts, self._parts = self._parts, {}
        with ExitStack() as closing:  # all are closed, whatever becomes of one
            for name in reversed(_CLOSED):
                if name in parts:
                    closing.callback(parts[name].close)

    # -- parts --------------------------------------------------------------------------------------------------------

    @property
    def models(self) -> Models:
        """Return the SQL models; what is wrong with their files is in it."""
        return self._part("models", self.read_models)

    def read_models(self) -> Models:
        """Return the SQL models as their files are now; `models` are those that the lake was opened with."""
        from hfthot_platform.app.lake import models_of

        return models_of(self.settings)

    @property
    def storage(self) -> Storage:
        """Return where the lake is.

        Raises:
            ConfigError: the setting names no place.
        """

        def make() -> Storage:
            from hfthot_platform.storage.lakehouse.storage import Storage

            settings = self.settings
            return Storage.parse(settings.lake_root, settings.plain_storage_options(), settings.users_root)

        return self._part("storage", make)

    @property
    def lake(self) -> Lakehouse:
        """Return the lake, with the tables and views of the SQL models that are sound."""

        def make() -> Lakehouse:
            from hfthot_platform.app.lake import open_lake
            from hfthot_platform.storage.lakehouse.file_cache import FileCache

            cache = FileCache(self.settings.scratch / "files", round(self.settings.file_cache_gib * 2**30))
            return open_lake(self.storage, self.clock, self.models, new=self._new, file_cache=cache)

        return self._part("lake", make)

    @property
    def relations(self) -> Relations:
        """Return the lake's tables and views for the question of who sees them."""

        def make() -> Relations:
            from hfthot_platform.services.sql.relations import relations_of

            return relations_of(self.lake)

        return self._part("relations", make)

    @property
    def has_accounts(self) -> bool:
        """Return whether there are accounts: looking makes no store where there is none."""
        from hfthot_platform.storage.operational.store import Store

        return Store.exists(self.settings)

    @property
    def store(self) -> Store:
        """Return the operational store alone, for what needs no keys.

        Raises:
            StoreMissingError: there is none.
        """

        def make() -> Store:
            from hfthot_platform.storage.operational.store import Store

            return Store.open(self.settings, self.clock, create=self._create)

        return self._part("store", make)

    @property
    def accounts(self) -> Accounts:
        """Return the accounts: the store with the keys, which are read now.

        Raises:
            StoreMissingError: there are none.
            KeySourceError: their keys cannot be had.
        """

        def make() -> Accounts:
            from hfthot_platform.services.accounts.accounts import Accounts

            return Accounts.open(self.settings, self.clock, create=self._create)

        return self._part("accounts", make)

    @property
    def limits(self) -> Limits:
        """Return what a trusted SQL statement may use; beyond its memory it spills to the scratch folder."""
        from hfthot_platform.services.sql import Limits

        return Limits(self.settings.duckdb_memory, self.settings.duckdb_threads, self.settings.scratch)

    @property
    def databases(self) -> Databases:
        """Return the databases of trusted SQL statements, for their `connect`."""

        def make() -> Databases:
            from hfthot_platform.services.sql import Databases

            return Databases(self.limits)

        return self._part("databases", make)

    @property
    def query_limits(self) -> QueryLimits:
        """Return what an untrusted statement may use and return, within these settings."""
        from hfthot_platform.services.sql.gateway import QueryLimits

        seconds = self.settings.sql_deadline_seconds
        return QueryLimits(seconds=seconds, queue_seconds=seconds, memory=self.settings.sql_memory_mb * 2**20)

    @property
    def gateway_pool(self) -> GatewayPool:
        """Return the processes in which untrusted statements run, within this installation's own settings."""

        def make() -> GatewayPool:
            from hfthot_platform.services.sql.gateway import GatewayPool

            ceiling = replace(self.query_limits, rows=2**62, bytes=2**50)
            return GatewayPool(workers=self.settings.sql_workers, limits=ceiling)

        return self._part("gateway_pool", make)

    @property
    def cluster(self) -> Cluster:
        """Return where units of work are computed.

        Raises:
            ConfigError: the setting names what is not installed.
        """

        def make() -> Cluster:
            from hfthot_platform.services.cluster import open_cluster

            return open_cluster(self.settings)

        return self._part("cluster", make)

    @property
    def feeds(self) -> tuple[Feed, ...]:
        """Return the configured feeds; nothing is contacted yet.

        Raises:
            ConfigError, BadRequestError: a feed is configured wrongly.
        """

        def make() -> tuple[Feed, ...]:
            from hfthot_platform.app.feeds import build_feeds

            return build_feeds(self.settings, self.clock)

        return self._part("feeds", make)

    @property
    def reports(self) -> StoredFolder:
        """Return the folder of result pages and pictures, of this host or on the object store."""
        from hfthot_platform.storage.folders import reports_folder

        return reports_folder(self.settings)

    # -- the installation as a whole ----------------------------------------------------------------------------------

    def exists(self) -> bool:
        """Return whether there is something at its place: a lake or accounts."""
        return self.has_accounts or self._bare_lake().exists()

    def require(self) -> None:
        """Check that there is an installation: a lake, or accounts, beside which a lake may begin.

        Raises:
            LakeMissingError: there is neither.
        """
        if not self.has_accounts:
            self._bare_lake().require()
        self._expect_new()

    def install(self) -> None:
        """Make what is not there: lake, store and keys."""
        self._create = True
        self._expect_new()
        self.lake.create()
        _ = self.accounts

    def _expect_new(self) -> None:
        with self._lock:
            self._new = True
            if "lake" in self._parts:
                self.lake.expect_new()

    def _bare_lake(self) -> Lakehouse:
        """Return the lake without its SQL models, to look whether it is there: reading their files takes a second."""
        from hfthot_platform.storage.lakehouse import Lakehouse

        return Lakehouse(self.storage, self.clock, new=self._new)

    def _part(self, name: str, make: Callable[[], _T]) -> _T:
        """Return a part, made once."""
        parts = self._parts
        if name not in parts:
            with self._lock:
                if name not in self._parts:
                    self._parts[name] = make()
                parts = self._parts
        return cast("_T", parts[name])

    def after_fork_in_child(self) -> None:
        """Begin with no parts; called by the interpreter.  The parent's connections and processes answer the parent."""
        keep_for_parent(self._parts)
        self._parts, self._lock = {}, threading.RLock()
