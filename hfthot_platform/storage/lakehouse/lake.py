"""The lake: where it is, and its tables by name."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from datetime import datetime
from pathlib import Path

from hfthot_platform.core.errors import ConfigError, LakeMissingError, UnknownTableError
from hfthot_platform.core.time import utc_now
from hfthot_platform.domain.contracts import CONTRACTS, TableContract, contract
from hfthot_platform.domain.contracts.ops import INCIDENTS
from hfthot_platform.domain.contracts.views import VIEWS, SqlView, View
from hfthot_platform.storage.lakehouse.commits import Files
from hfthot_platform.storage.lakehouse.file_cache import FileCache
from hfthot_platform.storage.lakehouse.storage import Storage
from hfthot_platform.storage.lakehouse.table import Table

__all__ = ["Lakehouse"]


class Lakehouse:
    """All tables under one root.

    Example:
        >>> lake = Lakehouse.open("data/lake")
        >>> lake.table("market.closes").scan().filter(pl.col("symbol") == "AAPL").collect()
    """

    def __init__(
        self,
        storage: Storage,
        clock: Callable[[], datetime] = utc_now,
        *,
        contracts: Mapping[str, TableContract] = CONTRACTS,
        views: Mapping[str, View | SqlView] = VIEWS,
        new: bool = False,
        file_cache: FileCache | None = None,
    ) -> None:
        self.storage = storage
        #: The contracts of this lake's tables: those of the platform, and those that SQL models declare.
        self.contracts = contracts
        #: The views that SQL over this lake may name.
        self.views = views
        #: Tells the time; injected so that tests and backfills are deterministic.
        self.clock = clock
        #: Where data files of an object store are kept for those who cannot reach it.
        self.file_cache = file_cache
        #: Whether a lake that is not there yet reads as an empty one, for those who are about to write it.
        self.new = new
        #: When the clock was last found to agree with the commits (`lakehouse.clock`).
        self.clock_checked: datetime | None = None
        self._found = False
        self._tables: dict[str, Table] = {}

    @classmethod
    def open(
        cls,
        root: str | Path,
        storage_options: Mapping[str, str] | None = None,
        *,
        clock: Callable[[], datetime] = utc_now,
        contracts: Mapping[str, TableContract] = CONTRACTS,
        views: Mapping[str, View | SqlView] = VIEWS,
        new: bool = False,
    ) -> Lakehouse:
        """Open the lake at a path or URL; nothing is created before the first write.

        Reading where there is no lake is an error (`LakeMissingError`): a wrong folder must not look like an empty
        lake.  Writing makes the lake.

        Args:
            root: a folder, a `file://` URL, or an object-store URL such as `s3://bucket/lake`.
            storage_options: options of the object store (endpoint, credentials); never logged.
            clock: tells the time for quarantine and records.
            contracts: the tables of the lake, by name.
            views: the views of the lake, by name.
            new: whether a lake that is not there yet reads as an empty one.
        """
        return cls(Storage.parse(root, storage_options), clock, contracts=contracts, views=views, new=new)

    def exists(self) -> bool:
        """Return whether there is a lake: at least one table, of whatever name."""
        if not self._found:
            local = self.storage.local
            if local is None:
                # There is no listing on an object store; asked for only where a table was not found.
                self._found = any(Table(self, known).exists() for known in (INCIDENTS, *self.contracts.values()))
            else:
                patterns = ("*/_delta_log", "*/*/_delta_log")
                self._found = any(log.is_dir() for pattern in patterns for log in local.glob(pattern))
        return self._found

    def create(self) -> None:
        """Make the lake if there is none: the table of incidents, empty.

        Raises:
            ConfigError: a part of the lake's path is a file.
            StorageUnsafeError: the object store overwrites what it was asked only to create.
        """
        if not self.exists():
            local = self.storage.local
            file = next((path for path in (local, *local.parents) if path.is_file()), None) if local else None
            if file is not None:
                raise ConfigError(
                    f"no lake can be created at {str(local)!r}: {str(file)!r} is a file",
                    where="lake root",
                    hint="Move the file away, or choose another folder.",
                )
            Table(self, INCIDENTS).create()
            self._found = True

    def expect_new(self) -> None:
        """Let a lake that is not there read as an empty one from now on: the caller is about to write it."""
        self.new = True

    def require(self) -> None:
        """Check that there is a lake to read.

        Raises:
            LakeMissingError: there is none, and none is about to be written.
        """
        if not self.new and not self.exists():
            raise LakeMissingError(
                f"there is no lake at {self.storage.root}",
                where="lake root",
                hint="Change to the folder that contains `data/lake`, or set HFTHOT_LAKE_ROOT (or `hfthot "
                "--lake PATH`). `hfthot init` creates a new lake.",
            )

    def __repr__(self) -> str:
        return f"Lakehouse({self.storage.root!r})"

    def table(self, name: str) -> Table:
        """Return a table by its contract's name.

        Raises:
            UnknownTableError: no contract has this name; the message suggests the nearest one.
        """
        if name not in self._tables:
            self._tables[name] = Table(self, contract(name, self.contracts))
        return self._tables[name]

    def __getitem__(self, name: str) -> Table:
        return self.table(name)

    def __contains__(self, name: object) -> bool:
        try:
            return isinstance(name, str) and contract(name, self.contracts) is not None
        except UnknownTableError:
            return False

    def tables(self) -> tuple[Table, ...]:
        """Return all tables that have a contract, written or not."""
        return tuple(self.table(name) for name in self.contracts)

    def written_tables(self) -> tuple[Table, ...]:
        """Return the tables that were written, as far as their places tell: a look at each folder of tables."""
        there = self.storage.folders_of_tables({contract.parts[:-1] for contract in self.contracts.values()})
        return tuple(self.table(name) for name, contract in self.contracts.items() if contract.parts in there)

    def fetched(self, name: str, files: Files, positions: Sequence[int]) -> list[str]:
        """Return the paths on this host of data files of a table, by their position; fetched where they are not here.

        Raises:
            ConfigError: this lake has no cache for files.
            StorageFullError: they need more than the cache may take.
            DamagedTableError: a file is missing, or has another size than the log says.
            StorageUnavailableError: the store did not answer.
        """
        if self.file_cache is None:
            raise ConfigError(
                "this lake has no folder for files of the object store",
                where=name,
                hint="Open it by `Installation.open()`, or give `Lakehouse` a `file_cache`.",
            )
        backend = self.table(name).backend
        sizes = files.entries.column("size_bytes")
        start = len(backend.path_of(""))
        return self.file_cache.fetch(
            backend, [(files.paths[position][start:], sizes[position].as_py()) for position in positions]
        )
