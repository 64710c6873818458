"""The only reader of a table's Delta log: its newest version, its entries, its history, and what is wrong with it.

What belongs here: whatever is read from `_delta_log`, by the Delta library or without it.  What does not: which version
a reader wants (`read`), what a version consists of (`snapshot`), and where the files are (`backends`).
"""

from __future__ import annotations

import json
import re
import threading
from bisect import bisect_left, bisect_right
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Final, NamedTuple
from urllib.parse import unquote

from deltalake import DeltaTable
from deltalake.exceptions import TableNotFoundError

from hfthot_platform.core.errors import (
    DamagedTableError,
    StorageReadOnlyError,
    StorageUnavailableError,
    UnsupportedTableError,
    VersionUnavailableError,
)
from hfthot_platform.core.time import MILLISECOND, moment
from hfthot_platform.storage.lakehouse.backends import (
    FAR_BEHIND,
    Backend,
    EntryState,
    checkpoint_version,
    entry_version,
)
from hfthot_platform.storage.lakehouse.commits import VersionInfo, version_info
from hfthot_platform.storage.lakehouse.storage import damaged, translated

__all__ = ["Added", "Changes", "DeltaLog", "LogTip"]

#: A file of the log that is about one version, or about the versions up to a second one.
_OF_A_VERSION: Final = re.compile(r"(\d{20})\.(?:(\d{20})\.)?(?:json|crc|compacted\.json|checkpoint\..*)")
#: Tips of which it is kept that nothing came after them: the reader's, the history's, and one of another version each.
_QUIET_TIPS: Final = 3
#: Handles for writing that are kept of a table on an object store.
_SPARE_HANDLES: Final = 2
_FEATURES_REFUSED: Final = {"deletionVectors", "columnMapping"}


class LogTip(NamedTuple):
    """The newest entry of a log, as it was when it was read."""

    version: int
    state: EntryState


class Added(NamedTuple):
    """A data file that a version added."""

    name: str
    size: int
    #: Values of the partition's columns, as the log has them.
    partition: Mapping[str, str | None]
    #: Least and greatest value by column, as the log has them; empty where it has none.
    lows: Mapping[str, Any]
    highs: Mapping[str, Any]
    #: False for a file whose rows were in others before: the version only rearranged them.
    new_rows: bool


class Removed(NamedTuple):
    """A data file that a version took away."""

    name: str
    new_rows: bool


@dataclass(frozen=True)
class Changes:
    """What a version did to the table's data files."""

    added: tuple[Added, ...]
    removed: tuple[Removed, ...]


class _History:
    """Versions and their times, oldest first; grows with the log, and is read once."""

    def __init__(self) -> None:
        self.versions: list[int] = []
        self.infos: list[VersionInfo] = []
        #: When each commit was made by its own record, in milliseconds.
        self.recorded: list[int] = []
        #: Oldest version that the vacuums so far left readable.
        self.floor = 0
        #: Oldest version that the log's files still make up.
        self.first_complete = 0
        self._latest = -1

    def add(self, version: int, record: Mapping[str, Any]) -> None:
        recorded = int(record.get("timestamp") or 0)
        latest = max(recorded, self._latest)
        info = version_info(record, version, latest)
        self.versions.append(version)
        self.infos.append(info)
        self.recorded.append(recorded)
        self._latest = latest
        self.floor = max(self.floor, info.oldest_readable or 0)

    def first_readable(self) -> int:
        """Return the position of the oldest version that can still be read."""
        return bisect_left(self.versions, max(self.floor, self.first_complete))

    def drop_before(self, version: int) -> bool:
        """Forget the versions before one, if there are any; lists that were handed out stay as they are."""
        gone = bisect_left(self.versions, version)
        if gone:
            self.versions, self.infos, self.recorded = self.versions[gone:], self.infos[gone:], self.recorded[gone:]
        return gone > 0


class DeltaLog:
    """The log of one table."""

    def __init__(self, backend: Backend) -> None:
        self.backend = backend
        self.table = backend.table
        self._lock = threading.RLock()
        self._history = _History()
        #: Rises whenever another log is found in the place of the one before, or entries are gone from it.
        self.generation = 0
        #: Handles for writing that nobody uses, each with the log's tip when it was given back.
        self._spare: list[tuple[DeltaTable, LogTip]] = []
        #: For a tip after which nothing had come, and another version: what the log's folder was then, and whether the
        #: other one was there.
        self._quiet: dict[tuple[LogTip, int], tuple[tuple[int, ...], bool]] = {}
        #: The entry up to which the history was read.
        self._read_to: LogTip | None = None

    # -- opening --------------------------------------------------------------------------------------------

    def handle(self, version: int | None = None) -> DeltaTable:
        """Open the table by the Delta library, for reading; its errors are passed on as they are."""
        return self.backend.open(version)

    def open(self, version: int | None = None) -> DeltaTable | None:
        """Open a version, or the current one, for reading; None if the table was never written.

        Raises:
            VersionUnavailableError: the version cannot be read (any more); the message names the readable range.
            DamagedTableError: a file of the log is at fault; the message names it and the way back.
            UnsupportedTableError: some route would read it wrongly.
        """
        try:
            with translated(self.table):
                handle = self.handle(version)
        except TableNotFoundError:
            if version is not None and self.log_names():
                raise self.unavailable(f"version {version}") from None
            if not self.backend.has_data():
                return None
            try:
                # Another writer may have made it between the two looks.
                with translated(self.table):
                    handle = self.handle(version)
            except TableNotFoundError:
                raise damaged(self.table, "_delta_log", "is missing or empty") from None
        except (StorageReadOnlyError, StorageUnavailableError):
            raise
        except Exception as error:  # noqa: BLE001 - an absent version has many wordings; the log tells which it is
            if version is not None and self.log_names():
                raise self.unavailable(f"version {version}") from None
            raise self.damage() or error from None
        if version is None and self.backend.locks and self._has_empty_entry() and (fault := self.damage()):
            raise fault
        self.require_supported(handle)
        return handle

    def opened(self) -> DeltaTable:
        """Open the current version of a table that was written, for reading.

        Raises:
            DamagedTableError: there is no log, or a file of it is at fault; the message names it and the way back.
            UnsupportedTableError: some route would read it wrongly.
        """
        handle = self.open()
        if handle is None:
            raise damaged(self.table, "_delta_log", "is missing or empty")
        return handle

    @contextmanager
    def writing(self) -> Iterator[DeltaTable]:
        """Lend a handle that is at the newest version, to write through.

        On an object store opening costs two requests for every commit since the last checkpoint, so a handle is kept
        and brought up to date; it is lent to one borrower at a time, and dropped where the borrower failed.

        Raises:
            DamagedTableError: there is no log, or a file of it is at fault; the message names it and the way back.
            UnsupportedTableError: some route would read it wrongly.
        """
        if self.backend.locks:
            # Opened anew, so that nothing is ever built on a log that nobody could open again.
            yield self.opened()
            return
        handle = self._kept_handle()
        if handle is None:
            try:
                with translated(self.table):
                    handle = DeltaTable(self.backend.location, storage_options=self.backend.options)
            except TableNotFoundError:
                raise damaged(self.table, "_delta_log", "is missing or empty") from None
            self.require_supported(handle)
        yield handle
        version = handle.version()
        state = self.backend.fetched_state(version)
        if state is not None:
            with self._lock:
                self._spare = [*self._spare, (handle, LogTip(version, state))][-_SPARE_HANDLES:]

    def _kept_handle(self) -> DeltaTable | None:
        """Return a kept handle, brought to the newest version; None if there is none, or another log took its place."""
        with self._lock:
            if not self._spare:
                return None
            handle, tip = self._spare.pop()
        came = self.follow(tip)
        if came is None:
            return None
        if came:
            with translated(self.table):
                handle.update_incremental()
            self.require_supported(handle)
            if handle.version() < came[-1].version:
                return None
        return handle

    def loads(self, version: int) -> bool:
        """Return whether the Delta library can open a version."""
        try:
            self.handle(version)
        except Exception:  # noqa: BLE001 - any failure to load means that this version cannot be read
            return False
        return True

    def _has_empty_entry(self) -> bool:
        """Whether an entry since the newest checkpoint has no bytes: the Delta library takes it for an empty commit.

        It is what a power failure can leave of a commit that was never acknowledged; an object is whole or not there.
        """
        names = self.log_names()
        start = max((at for at in map(checkpoint_version, names) if at is not None), default=-1)
        entries = [at for at in map(entry_version, names) if at is not None and at > start]
        return any(state is not None and not state.size for state in self.backend.entry_states(*entries))

    def require_supported(self, handle: DeltaTable) -> None:
        """Check that every route reads the table rightly.

        Raises:
            UnsupportedTableError: the table has a feature that some reader ignores.
        """
        protocol = handle.protocol()
        features = set(protocol.reader_features or []) & _FEATURES_REFUSED
        mapped = handle.metadata().configuration.get("delta.columnMapping.mode", "none") != "none"
        if features or mapped:
            raise UnsupportedTableError(
                f"the table uses an unsupported Delta feature: {', '.join(sorted(features)) or 'column mapping'}",
                where=self.table,
                hint="Rewrite the table without it, because some readers would return wrong rows.",
            )

    # -- its tip --------------------------------------------------------------------------------------------

    def tip_at(self, version: int) -> LogTip | None:
        """Return the entry of a version as the newest one, None if it is not there."""
        with translated(self.table):
            (state,) = self.backend.entry_states(version)
        return None if state is None else LogTip(version, state)

    def follow(self, tip: LogTip) -> list[LogTip] | None:
        """Return the entries that came after a known tip, oldest first; None where it is not there as it was any more.

        Where nothing came, that is one look, whatever the length of the log.  So many that opening the log anew is
        nearer count as a tip that is gone.
        """
        return self._look(tip, tip.version)[0]

    def _look(self, tip: LogTip, other: int) -> tuple[list[LogTip] | None, bool]:
        """Return the same, and whether the entry of another version is there: one look at both."""
        with translated(self.table):
            # Before the look: what comes between the two changes it.
            stamp = self.backend.quiet_stamp()
            if stamp is not None and (known := self._quiet.get((tip, other))) is not None and known[0] == stamp:
                return [], known[1]
            looked = self.backend.entry_states(*dict.fromkeys((tip.version, other)))
            is_there = looked[-1] is not None
            if looked[0] != tip.state:
                self.backend.forget()
                return None, is_there
            states = self.backend.entries_after(tip.version, FAR_BEHIND)
        if len(states) == FAR_BEHIND:
            return None, is_there
        if stamp is not None and not states:
            kept = list(self._quiet.items())[-_QUIET_TIPS:]
            self._quiet = dict(kept) | {(tip, other): (stamp, is_there)}
        return [LogTip(version, state) for version, state in enumerate(states, tip.version + 1)], is_there

    def newest_known(self) -> int | None:
        """Return the newest version up to which the history was read, else by the names; None if there is no entry."""
        if self._read_to is not None:
            return self._read_to.version
        return max((at for at in map(entry_version, self.log_names()) if at is not None), default=None)

    def log_names(self) -> list[str]:
        """Return the names of the log's files."""
        with translated(self.table):
            return self.backend.log_names()

    # -- its entries ----------------------------------------------------------------------------------------

    def actions(self, version: int) -> list[dict[str, Any]] | None:
        """Return the actions of a version, None where its entry is gone."""
        with translated(self.table):
            text = self.backend.read_entry(version)
        if text is None:
            return None
        try:
            return [json.loads(line) for line in text.splitlines() if line.strip()]
        except ValueError:
            raise self.damage() or damaged(
                self.table, f"_delta_log/{version:020d}.json", "is not readable JSON"
            ) from None

    def changes(self, version: int) -> Changes | None:
        """Return the data files that a version added and removed, None where its entry is gone."""
        actions = self.actions(version)
        if actions is None:
            return None
        return Changes(
            tuple(_added(action["add"]) for action in actions if "add" in action),
            tuple(
                Removed(unquote(action["remove"]["path"]), bool(action["remove"].get("dataChange", True)))
                for action in actions
                if "remove" in action
            ),
        )

    def version_of(self, commit_id: str, after: int) -> int | None:
        """Return the version after `after` that a commit of this id made, None if there is none.

        The newest version may be another writer's: ours is the one that carries our id.
        """
        version = after + 1
        while (actions := self.actions(version)) is not None:
            if any(action.get("commitInfo", {}).get("hfthot.commit_id") == commit_id for action in actions):
                return version
            version += 1
        return None

    # -- its history ----------------------------------------------------------------------------------------

    def history(self) -> list[VersionInfo]:
        """Return the versions whose entries are there, oldest first, with times made non-decreasing."""
        with self._lock:
            return list(self._current().infos)

    def recorded_times(self) -> list[datetime]:
        """Return when each commit was made by its own record, as it is."""
        with self._lock:
            history = self._current()
            return [moment(recorded * MILLISECOND) for recorded in history.recorded if recorded]

    def readable(self) -> list[VersionInfo]:
        """Return the part of the history that can still be read, oldest first."""
        with self._lock:
            history = self._current()
            return history.infos[history.first_readable() :]

    def version_as_of(self, time: datetime) -> int | None:
        """Return the readable version that was current at a time, None if there is none."""
        with self._lock:
            history = self._current()
            first = history.first_readable()
            found = bisect_right(history.infos, time, lo=first, key=lambda info: info.timestamp)
            return None if found == first else history.versions[found - 1]

    def info(self, version: int) -> VersionInfo | None:
        """Return the record of a version, None where its entry is gone."""
        with self._lock:
            history = self._current()
            at = bisect_left(history.versions, version)
            return history.infos[at] if at < len(history.versions) and history.versions[at] == version else None

    def may_be_readable(self, version: int) -> bool:
        """Return whether there was such a version, and no vacuum removed files that it needs; one look."""
        with self._lock:
            history = self._current()
            newest = -1 if self._read_to is None else self._read_to.version
            return history.floor <= version <= newest

    def unavailable(self, what: str) -> VersionUnavailableError:
        """Return the error for a version that cannot be read, with those that can."""
        readable = self.readable()
        hint = "The table has no version yet."
        if readable:
            first, last = readable[0], readable[-1]
            hint = (
                f"Readable: version {first.version} ({first.timestamp.isoformat()}) "
                f"to {last.version} ({last.timestamp.isoformat()})."
            )
        return VersionUnavailableError(f"{what} is not readable", where=self.table, hint=hint)

    def _current(self) -> _History:
        """Return the history up to the log's newest entry: what was read once is not read again.

        Where nothing came and nothing went, that is one look, whatever the length of the log.
        """
        history, tip = self._history, self._read_to
        came, is_whole = (None, False) if tip is None else self._look(tip, next(iter(history.versions), tip.version))
        if came is not None:
            self._read(history, came)
            if is_whole:
                return history
        names = self.log_names()
        self.backend.forget(names)
        entries = sorted(at for at in map(entry_version, names) if at is not None)
        if tip is None or came is None:
            history = self._history = _History()
            self._read_to = None
            self.generation += 1
        unread = entries[bisect_left(entries, history.versions[-1] + 1 if history.versions else 0) :]
        if unread:
            with translated(self.table):
                self.backend.fetch_entries(unread)
                # Looked at before it is read: whoever puts another in its place meanwhile is noticed the next time.
                states = map(self.backend.fetched_state, unread)
                found = [LogTip(at, state) for at, state in zip(unread, states, strict=True) if state is not None]
            self._read(history, found)
        # A clean-up of the log removes its oldest entries.
        if history.drop_before(entries[0] if entries else 0):
            self.generation += 1
        history.first_complete = _first_complete(history.versions, names)
        return history

    def _read(self, history: _History, entries: list[LogTip]) -> None:
        """Add the records of entries to the history."""
        for entry in entries:
            if (record := self._record(entry.version)) is not None:
                history.add(entry.version, record)
            self._read_to = entry

    def _record(self, version: int) -> Mapping[str, Any] | None:
        """Return what a commit says of itself, None where its entry is gone."""
        with translated(self.table):
            text = self.backend.read_entry(version)
        if text is None:
            return None
        try:
            # Statistics of files make entries long; what a commit says of itself is one line of it.
            found: dict[str, Any] = next(
                (json.loads(line) for line in text.splitlines() if b'"commitInfo"' in line[:20]), {}
            )
        except ValueError:
            raise self.damage() or damaged(
                self.table, f"_delta_log/{version:020d}.json", "is not readable JSON"
            ) from None
        return dict(found.get("commitInfo", {}))

    # -- its end --------------------------------------------------------------------------------------------

    def forget_older(self) -> None:
        """Remove every entry and checkpoint before the newest version: they hold names and statistics of what is gone.

        Raises:
            LockTimeoutError: writers held the table's lock all the time.
        """
        with self.backend.writers_lock(exclusive=True), self.writing() as handle:
            # Everything that the older entries say of the present is in it, and in the newest entry.
            with translated(self.table):
                self.backend.write_checkpoint(handle)
            newest = handle.version()
            older = [
                (int(match.group(2) or match.group(1)), match.group(0))
                for match in map(_OF_A_VERSION.fullmatch, self.log_names())
                if match and int(match.group(2) or match.group(1)) < newest
            ]
            # The oldest first: what a vacuum took is told by an entry that goes after all that it concerns, so that
            # whenever this is interrupted the log says no version readable that is not.
            for _, name in sorted(older):
                with translated(self.table):
                    self.backend.remove_from_log(name)

    # -- its damages ----------------------------------------------------------------------------------------

    def damage(self) -> DamagedTableError | None:
        """Return which file of the log is at fault, and the newest version that loads without it; None if none is."""
        fault = self.backend.log_fault()
        if fault is None:
            return None
        if fault.intact < 0:
            return DamagedTableError(
                f"file at fault: {fault.name} {fault.meaning}",
                where=self.table,
                hint="No older version can be read without it. Restore the file or the whole table from a backup.",
            )
        return damaged(self.table, fault.name, fault.meaning, fault.intact)

    def set_aside(self, version: int, label: str) -> None:
        """Take the damaged end of the log away, so that `version` is the newest one.

        Raises:
            DamagedTableError: that version needs what is damaged.
        """
        fault = self.backend.log_fault()
        if fault is None:
            raise damaged(self.table, "_delta_log", "is damaged")
        if version > fault.intact or (version < fault.intact and not self.loads(version)):
            raise self.damage() or damaged(self.table, fault.name, fault.meaning)
        self.backend.set_log_aside(version, label)


def _first_complete(entries: list[int], names: list[str]) -> int:
    """Return the oldest version of a log that can be made up: by a checkpoint, or by all entries from the first on."""
    if not entries or entries[0] == 0:
        return 0
    checkpoints = (at for at in map(checkpoint_version, names) if at is not None)
    return min((max(at, entries[0]) for at in checkpoints if at >= entries[0] - 1), default=entries[-1] + 1)


def _added(add: Mapping[str, Any]) -> Added:
    statistics = json.loads(add.get("stats") or "{}")
    return Added(
        unquote(add["path"]),
        int(add["size"]),
        add.get("partitionValues") or {},
        statistics.get("minValues") or {},
        statistics.get("maxValues") or {},
        bool(add.get("dataChange", True)),
    )
