"""A table in a folder of this host: durable by fsync, one writer at a time where asked for, damage told by name."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Iterable, Iterator, Sequence
from contextlib import AbstractContextManager
from pathlib import Path
from typing import ClassVar, Final

from deltalake import DeltaTable

from hfthot_platform.core.files import sync_file, sync_folder
from hfthot_platform.storage.lakehouse.backends.base import (
    LOG,
    Backend,
    EntryState,
    LogFault,
    checkpoint_version,
    entry_name,
    entry_version,
)
from hfthot_platform.storage.lakehouse.locks import writers_lock

__all__ = ["LocalBackend", "unfinished_files"]

#: Within so long two changes of a folder may have the same time: file systems count in steps of up to two seconds.
_TICK_NS: Final = 2_500_000_000


def unfinished_files(folder: Path) -> list[Path]:
    """Return the staging files in a table's folder: a file that is being written, or was when its writer died.

    The object store of delta-rs writes any file, also `_last_checkpoint`, as `<name>#<number>` and renames it.
    """
    return [path for path in folder.rglob("*#*") if path.name.rpartition("#")[2].isdecimal() and path.is_file()]


class LocalBackend(Backend):
    """A table's folder, the file of its lock, and where the end of a damaged log is set aside."""

    locks: ClassVar[bool] = True
    optimistic: ClassVar[int] = 4
    checkpoint_interval: ClassVar[int] = 50
    looks_at_files: ClassVar[bool] = True

    def __init__(self, table: str, folder: Path, lock_file: Path, aside: Path) -> None:
        super().__init__(table, folder.as_uri(), {}, folder)
        self._root = folder
        self._prefix = f"{folder}{os.sep}"
        self._log = folder / LOG
        self._lock_file = lock_file
        self._aside = aside

    # -- the log's files ------------------------------------------------------------------------------------

    def entry_states(self, *versions: int) -> list[EntryState | None]:
        return [self._entry_state(version) for version in versions]

    def _entry_state(self, version: int) -> EntryState | None:
        try:
            found = os.stat(f"{self._prefix}{LOG}/{entry_name(version)}")  # noqa: PTH116 - on the path of each read
        except (FileNotFoundError, NotADirectoryError):
            return None
        return EntryState(found.st_size, found.st_mtime_ns, found.st_ino)

    def quiet_stamp(self) -> tuple[int, ...] | None:
        try:
            found = os.stat(f"{self._prefix}{LOG}")  # noqa: PTH116 - on the path of each read
        except (FileNotFoundError, NotADirectoryError):
            return None
        if time.time_ns() - found.st_mtime_ns < _TICK_NS:
            return None
        return found.st_ino, found.st_mtime_ns, found.st_ctime_ns

    def entries_after(self, version: int, most: int) -> list[EntryState]:
        found: list[EntryState] = []
        while len(found) < most and (state := self._entry_state(version + 1 + len(found))) is not None:
            found.append(state)
        return found

    def fetch_entries(self, versions: Sequence[int]) -> None:
        """Do nothing: they are here."""

    def fetched_state(self, version: int) -> EntryState | None:
        return self._entry_state(version)

    def open(self, version: int | None) -> DeltaTable:
        return DeltaTable(self.location, version=version)

    def forget(self, names: Iterable[str] = ()) -> None:
        """Do nothing: the log itself is here."""

    def read_entry(self, version: int) -> bytes | None:
        try:
            return (self._log / entry_name(version)).read_bytes()
        except FileNotFoundError:
            return None

    def log_names(self) -> list[str]:
        try:
            return os.listdir(self._log)  # noqa: PTH208 - names are enough
        except (FileNotFoundError, NotADirectoryError):
            return []

    def write_checkpoint(self, handle: DeltaTable) -> None:
        handle.create_checkpoint()

    def remove_from_log(self, name: str) -> None:
        (self._log / name).unlink(missing_ok=True)
        sync_folder(self._log)

    def log_fault(self) -> LogFault | None:
        entries, checkpoints = self._log_files()
        broken = {
            version: next(part for part in parts if not _opens(part))
            for version, parts in checkpoints.items()
            if not all(map(_opens, parts))
        }
        start = max((version for version in checkpoints if version not in broken), default=-1)
        newest = max((*entries, start))
        found = None
        for version in range(start + 1, newest + 1):
            if meaning := _entry_fault(entries.get(version)):
                found = LogFault(f"{LOG}/{entry_name(version)}", meaning, version - 1)
                break
        for version, path in sorted(broken.items()):
            if version > start and (found is None or version > found.intact):
                # Without the checkpoint the entries before it would do, had they all been kept.
                intact = newest if found is None else found.intact
                return LogFault(f"{LOG}/{path.name}", "is not readable Parquet", intact)
        return found

    def set_log_aside(self, after: int, label: str) -> None:
        entries, checkpoints = self._log_files()
        damaged = [path for version, path in entries.items() if version > after]
        for version, parts in checkpoints.items():
            if version > after or not all(_opens(part) for part in parts):
                damaged += parts
        to = self._aside / label
        hint = self._log / "_last_checkpoint"
        if damaged or hint.exists():
            to.mkdir(parents=True, exist_ok=True)
        # The newest go first: until the last one is gone the log stays as broken as it was, never newly wrong.
        for path in sorted(damaged, reverse=True):
            path.rename(to / path.name)
        if hint.exists():
            hint.rename(to / hint.name)  # only a hint; without it the log is listed

    def _log_files(self) -> tuple[dict[int, Path], dict[int, list[Path]]]:
        """Return the commit entries and the checkpoints of the log by version."""
        entries: dict[int, Path] = {}
        checkpoints: dict[int, list[Path]] = {}
        for name in self.log_names():
            if (version := entry_version(name)) is not None:
                entries[version] = self._log / name
            elif (version := checkpoint_version(name)) is not None and name.endswith(".parquet"):
                checkpoints.setdefault(version, []).append(self._log / name)
        return entries, checkpoints

    def has_data(self) -> bool:
        return any(self._log.glob("0*")) or any(self._root.rglob("*.parquet"))

    # -- data files -----------------------------------------------------------------------------------------

    def path_of(self, name: str) -> str:
        return self._prefix + name

    def size_of(self, name: str) -> int:
        return (self._root / name).stat().st_size

    def make_room(self, name: str) -> None:
        (self._root / name).parent.mkdir(exist_ok=True)

    def discard(self, names: Iterable[str]) -> None:
        for name in names:
            self.remove(name)

    def faults(self, files: Iterable[tuple[str, int]]) -> Iterator[tuple[str, str]]:
        for name, size in files:
            try:
                found = os.stat(self._prefix + name).st_size  # noqa: PTH116 - a hundred times per query
            except FileNotFoundError:
                yield name, "is missing"
            except OSError as error:
                yield name, f"cannot be inspected ({error.strerror})"
            else:
                if found != size:
                    yield name, f"has {found} bytes, but the log says {size}"

    def present(self, names: Iterable[str]) -> list[str]:
        return [name for name in names if (self._root / name).exists()]

    # -- durability -----------------------------------------------------------------------------------------

    def create(self) -> None:
        self._root.mkdir(parents=True, exist_ok=True)

    def committed(self, version: int) -> None:
        """Do nothing: the Delta library makes checkpoints by itself."""

    def make_durable(self, added: Iterable[str], version: int) -> None:
        # delta-rs never calls fsync; a commit is acknowledged to our callers only after this.
        files = [self._root / name for name in added]
        entry = self._log / entry_name(version)
        # New partition folders are themselves entries of the table's folder.
        folders = {file.parent for file in files} | {self._root, entry.parent}
        folders |= {self._root.parent, self._root.parent.parent}
        for sync, paths in ((sync_file, [*files, entry]), (sync_folder, sorted(folders))):
            for path in paths:
                try:
                    sync(path)
                except FileNotFoundError:
                    # Compaction or another replace may have tombstoned it and maintenance removed it meanwhile.
                    continue

    def make_all_durable(self) -> None:
        for place, _, names in os.walk(self._root):
            for name in names:
                sync_file(Path(place, name))
            sync_folder(Path(place))

    # -- upkeep ---------------------------------------------------------------------------------------------

    def inventory(self) -> tuple[int, int] | None:
        sizes = [path.stat().st_size for path in self._root.rglob("*") if path.is_file()]
        return sum(sizes), len(sizes)

    def unfinished(self) -> list[str]:
        found = [*unfinished_files(self._root), *self._log.glob("*.tmp")]
        return [str(path.relative_to(self._root)) for path in found]

    def remove(self, name: str) -> None:
        (self._root / name).unlink(missing_ok=True)

    def writers_lock(self, *, exclusive: bool) -> AbstractContextManager[None]:
        return writers_lock(self._lock_file, exclusive=exclusive)

    def met_another_writer(self) -> None:
        """Do nothing: the lock's file is fair."""


def _entry_fault(path: Path | None) -> str | None:
    if path is None:
        return "is missing"
    try:
        lines = [line for line in path.read_bytes().splitlines() if line.strip()]
        return None if lines and all(isinstance(json.loads(line), dict) for line in lines) else "contains no commit"
    except ValueError:
        return "is not readable JSON"


def _opens(path: Path) -> bool:
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        pq.read_table(path)
    except (OSError, pa.ArrowException):
        return False
    return True
