"""The lake: where it is, and its tables by name."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from pathlib import Path

from hfthot_platform.contracts import CONTRACTS, TableContract, contract
from hfthot_platform.contracts.views import VIEWS, SqlView, View
from hfthot_platform.errors import UnknownTableError
from hfthot_platform.lakehouse.storage import Storage
from hfthot_platform.lakehouse.table import Table

__all__ = ["Lakehouse", "utc_now"]


def utc_now() -> datetime:
    """Return the present time: the default clock, which tests and replays replace."""
    return datetime.now(UTC)


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
    ) -> None:
        self.storage = storage
        #: The contracts of this lake's tables: those of the platform, and those that SQL models declare.
        self.contracts = contracts
        #: The views that SQL over this lake may name.
        self.views = views
        #: Tells the time; injected so that tests and backfills are deterministic.
        self.clock = clock
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
    ) -> Lakehouse:
        """Open the lake at a path or URL; nothing is created before the first write.

        Args:
            root: a folder, a `file://` URL, or an object-store URL such as `s3://bucket/lake`.
            storage_options: options of the object store (endpoint, credentials); never logged.
            clock: tells the time for quarantine and records.
            contracts: the tables of the lake, by name.
            views: the views of the lake, by name.
        """
        return cls(Storage.parse(root, storage_options), clock, contracts=contracts, views=views)

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
