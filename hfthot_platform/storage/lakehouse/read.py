"""Which version a reader gets: the newest, one by number, or the one current at a time; each made up once.

The newest version is known by one look at the log's tip; where that moved on, only what came since is read.  What does
not belong here: what a version consists of (`snapshot`), and reading the log (`log`).
"""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Callable
from datetime import datetime
from typing import Final

from deltalake import DeltaTable

from hfthot_platform.core.errors import BadRequestError
from hfthot_platform.domain.contracts import TableContract
from hfthot_platform.storage.lakehouse.log import DeltaLog, LogTip
from hfthot_platform.storage.lakehouse.snapshot import Snapshot

__all__ = ["Reader"]

#: Versions of a table that are kept besides the newest.
_KEPT: Final = 4


class Reader:
    """The versions of one table, for any number of threads.

    Args:
        contract: the table's contract.
        log: its log.
        require: raises where there is no lake at all.
    """

    def __init__(self, contract: TableContract, log: DeltaLog, require: Callable[[], None]) -> None:
        self._contract = contract
        self._log = log
        self._require = require
        self._lock = threading.RLock()
        #: The newest version that was read, the handle that is at it, and the log's tip then.
        self._newest: Snapshot | None = None
        self._handle: DeltaTable | None = None
        self._tip: LogTip | None = None
        self._older: OrderedDict[int, Snapshot] = OrderedDict()
        #: Of the log, when the older versions were read.
        self._generation = log.generation

    def newest(self) -> Snapshot | None:
        """Return the newest version, None if the table was never written.

        Raises:
            DamagedTableError: a file of the log is at fault.
        """
        with self._lock:
            came = None if self._tip is None else self._log.follow(self._tip)
            if came is None or (came and not self._moved_on(came)):
                # Never read, or another table stands in its place, or it moved on in a way that cannot be followed.
                if self._tip is not None:
                    self._older.clear()
                self._newest = self._handle = self._tip = None
                self._open()
            return self._newest

    def applied(self, name: str) -> int:
        """Return how far an application has come in the newest version, 0 if it has not begun."""
        with self._lock:
            self.newest()
            return 0 if self._handle is None else self._handle.transaction_version(name) or 0

    def at(self, version: int | None, as_of: datetime | None) -> Snapshot | None:
        """Return a version, the one of a time, or the newest one; None if nothing was written and none was named.

        Raises:
            LakeMissingError: there is no lake at this place at all.
            BadRequestError: both are given, or the time has no zone.
            VersionUnavailableError: not readable (any more); the message names the readable range.
        """
        if version is not None and as_of is not None:
            raise BadRequestError("give version or as_of, not both", where=self._contract.name)
        if as_of is not None:
            version = self.version_at(as_of)
        found = self.newest() if version is None else self._numbered(version)
        if found is None:
            self._require()
            if version is not None:
                raise self._log.unavailable(f"version {version}")
        return found

    def version_at(self, as_of: datetime) -> int:
        """Return the version that was current at a time, by the commits' own times, never by file times.

        Raises:
            LakeMissingError: there is no lake at this place at all.
            BadRequestError: the time has no zone.
            VersionUnavailableError: the time lies before the oldest readable version.
        """
        if as_of.tzinfo is None:
            raise BadRequestError(
                f"the time {as_of.isoformat()} has no time zone",
                where=self._contract.name,
                hint="Write it with an offset, such as +00:00.",
            )
        version = self._log.version_as_of(as_of)
        if version is None:
            self._require()
            raise self._log.unavailable(f"the time {as_of.isoformat()}")
        return version

    def _numbered(self, version: int) -> Snapshot | None:
        """Return a version by its number, None if there is no table."""
        with self._lock:
            # Whoever reads an old version need not open the newest one for that.
            newest = self._log.newest_known() if self._tip is None else self._tip.version
            if newest is None or version >= newest:
                found = self.newest()
                if found is None or version == found.version:
                    return found
            if not self._log.may_be_readable(version):
                raise self._log.unavailable(f"version {version}")
            if self._generation != self._log.generation:
                self._older.clear()
                self._generation = self._log.generation
            if version in self._older:
                self._older.move_to_end(version)
                return self._older[version]
            handle = self._log.open(version)
            if handle is None:
                return None
            return self._keep(Snapshot(self._contract, self._log, handle))

    def _keep(self, snapshot: Snapshot) -> Snapshot:
        self._older[snapshot.version] = snapshot
        self._older.move_to_end(snapshot.version)
        while len(self._older) > _KEPT:
            self._older.popitem(last=False)
        return snapshot

    def _open(self) -> None:
        """Open the newest version again."""
        handle = self._log.open()
        if handle is None:
            return
        snapshot = Snapshot(self._contract, self._log, handle)
        tip = self._log.tip_at(snapshot.version)
        self._newest, self._handle, self._tip = snapshot, handle, tip

    def _moved_on(self, came: list[LogTip]) -> bool:
        """Read what came since the newest version; False where the log has to be opened again."""
        handle, before = self._handle, self._newest
        if handle is None or before is None:
            return False
        try:
            handle.update_incremental()
        except Exception:  # noqa: BLE001 - opening anew finds what is wrong, and says it
            return False
        version = handle.version()
        if version > came[-1].version:
            came += self._log.follow(came[-1]) or []
        newest = next((entry for entry in came if entry.version == version), None)
        # An entry without bytes is no commit.
        if newest is None or not all(entry.state.size for entry in came):
            return False
        self._log.require_supported(handle)
        self._keep(before)
        self._newest, self._tip = Snapshot(self._contract, self._log, handle), newest
        return True
