"""A copy of a remote log on this host's disk: what a commit wrote never changes, so each file is fetched once.

The Delta library opens any version from the copy without a request.  What belongs here: which files of the log have to
be fetched, and keeping them.  What does not: whether the remote log is still the same one (`log`).
"""

from __future__ import annotations

import atexit
import json
import os
import shutil
import tempfile
import threading
import weakref
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Final

import obstore
from deltalake import DeltaTable

from hfthot_platform.core.forks import keep_for_parent, tell_in_child
from hfthot_platform.core.scratch import own_folder
from hfthot_platform.storage.lakehouse.backends.base import (
    FAR_BEHIND,
    LOG,
    EntryState,
    checkpoint_version,
    entry_name,
    entry_version,
)
from hfthot_platform.storage.objects import read_object, store_errors

if TYPE_CHECKING:
    from obstore import ObjectMeta
    from obstore.store import ObjectStore

__all__ = ["LogCopy", "state_of"]

#: Files fetched at a time.
_AT_ONCE: Final = 16


def state_of(meta: ObjectMeta) -> EntryState:
    """Return what tells an object from one that was put in its place."""
    return EntryState(meta["size"], int(meta["last_modified"].timestamp() * 1_000_000_000), meta["e_tag"] or "")


class LogCopy:
    """The files of one table's log that were needed so far, for any number of threads.

    Args:
        store: the table's objects.
    """

    def __init__(self, store: ObjectStore) -> None:
        self._store = store
        #: Goes with the process, or with the copy.
        self.folder = Path(tempfile.mkdtemp(dir=_PROCESS_FOLDER.path()))
        self._log = self.folder / LOG
        weakref.finalize(self, _remove, self.folder, os.getpid())
        self._lock = threading.RLock()
        self._entries: dict[int, EntryState] = {}
        self._checkpoints: dict[int, set[str]] = {}

    def state(self, version: int) -> EntryState | None:
        """Return the state of an entry as it was when it was fetched, None if it was not."""
        return self._entries.get(version)

    def entry(self, version: int) -> bytes | None:
        """Return the content of an entry, None if it is not there."""
        with self._lock:
            if version not in self._entries and self._fetch_entry(version) is None:
                return None
            return (self._log / entry_name(version)).read_bytes()

    def entries_after(self, version: int, most: int) -> list[EntryState]:
        """Return the states of the entries after one, as long as there is a next one; each is fetched."""
        found: list[EntryState] = []
        with self._lock:
            while len(found) < most and (state := self._known_or_fetched(version + 1 + len(found))) is not None:
                found.append(state)
        return found

    def fetch_entries(self, versions: Sequence[int]) -> None:
        """Fetch the entries of some versions; one that is not there is left out."""
        with self._lock:
            self._fetch([entry_name(version) for version in versions if version not in self._entries])

    def bring(self, version: int | None) -> None:
        """Fetch what the Delta library needs to open a version, or the newest one; what is not there stays away."""
        with self._lock:
            if version is not None and self._makes_up(version):
                return
            listed = list(self._list(after_hint=version is None))
            if version is not None and not any(entry_version(name) == version for name, _ in listed):
                return
            entries = {at: state for name, state in listed if (at := entry_version(name)) is not None}
            if any(self._entries.get(at, state) != state for at, state in entries.items()):
                # Another log stands in the place of the one before.
                self.clear()
            target = max(entries, default=-1) if version is None else version
            parts: dict[int, list[str]] = {}
            for name, _ in listed:
                if (at := checkpoint_version(name)) is not None and at <= target:
                    parts.setdefault(at, []).append(name)
            start = max(parts, default=-1)
            wanted = [entry_name(at) for at in sorted(entries) if start <= at <= target and at not in self._entries]
            if start not in self._checkpoints and start >= 0:
                wanted += parts[start]
            self._fetch(wanted)
            if start >= 0:
                self._checkpoints[start] = set(parts[start])

    def write_checkpoint(self, version: int) -> None:
        """Make a checkpoint of a version here, and store it beside the log's entries; a hint to it goes last."""
        with self._lock:
            self.bring(version)
            DeltaTable(self.folder.as_uri(), version=version).create_checkpoint()
            made = [path for path in self._log.iterdir() if checkpoint_version(path.name) == version]
            hint = self._log / "_last_checkpoint"
            with store_errors():
                for path in (*made, hint):
                    obstore.put(self._store, f"{LOG}/{path.name}", path.read_bytes())
            hint.unlink()  # the copy is listed: entries come to it that are newer than any hint
            self._checkpoints[version] = {path.name for path in made}

    def keep(self, names: Iterable[str]) -> None:
        """Drop what the log has no more."""
        there = set(names)
        with self._lock:
            for version in [at for at in self._entries if entry_name(at) not in there]:
                self._drop(entry_name(version))
                del self._entries[version]
            for version in [at for at, parts in self._checkpoints.items() if not parts <= there]:
                for name in self._checkpoints.pop(version):
                    self._drop(name)

    def clear(self) -> None:
        """Drop everything: the log is not the one that it was."""
        self.keep(())

    # -- fetching -------------------------------------------------------------------------------------------

    def _makes_up(self, version: int) -> bool:
        """Whether the files here make up a version, without a long way from the checkpoint before it."""
        start = max((at for at in self._checkpoints if at <= version), default=-1)
        since = range(start + 1, version + 1)
        return len(since) <= FAR_BEHIND and all(at in self._entries for at in since)

    def _known_or_fetched(self, version: int) -> EntryState | None:
        return self._entries.get(version) or self._fetch_entry(version)

    def _fetch_entry(self, version: int) -> EntryState | None:
        try:
            self._fetch_file(entry_name(version))
        except FileNotFoundError:
            return None
        return self._entries[version]

    def _fetch(self, names: list[str]) -> None:
        """Fetch files side by side; one that went meanwhile is left out."""

        def one(name: str) -> None:
            try:
                self._fetch_file(name)
            except FileNotFoundError:
                return

        if len(names) < 2:
            for name in names:
                one(name)
            return
        with ThreadPoolExecutor(min(_AT_ONCE, len(names))) as pool:
            for _ in pool.map(one, names):
                pass

    def _fetch_file(self, name: str) -> None:
        with store_errors():
            found = obstore.get(self._store, f"{LOG}/{name}")
            content = bytes(found.bytes())
        self._log.mkdir(parents=True, exist_ok=True)
        # The copy is not durable, and need not be: it dies with the process.
        partial = self._log / f"{name}.partial"
        partial.write_bytes(content)
        partial.replace(self._log / name)
        if (version := entry_version(name)) is not None:
            self._entries[version] = state_of(found.meta)

    def _drop(self, name: str) -> None:
        (self._log / name).unlink(missing_ok=True)

    def _list(self, *, after_hint: bool) -> Iterator[tuple[str, EntryState]]:
        """Yield names and states of the log's files, from the last checkpoint on or of all."""
        offset = None
        if after_hint and (hint := self._last_checkpoint()) is not None:
            offset = f"{LOG}/{hint:020d}"
        with store_errors():
            for batch in obstore.list(self._store, f"{LOG}/", offset=offset, chunk_size=1000):
                for meta in batch:
                    yield meta["path"].rpartition("/")[2], state_of(meta)

    def _last_checkpoint(self) -> int | None:
        text = read_object(self._store, f"{LOG}/_last_checkpoint")
        if text is None:
            return None
        try:
            return int(json.loads(text)["version"])
        except (ValueError, KeyError, TypeError):
            return None  # only a hint; without it the log is listed


class _ProcessFolder:
    """The folder of all copies of a process, made with the first; those of killed processes go then."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._held = ExitStack()
        self._made: Path | None = None
        tell_in_child(self)

    def path(self) -> Path:
        with self._lock:
            if self._made is None:
                self._made = self._held.enter_context(own_folder(Path(tempfile.gettempdir()), "hfthot-logs-"))
                atexit.register(self._held.close)
            return self._made

    def after_fork_in_child(self) -> None:
        keep_for_parent(self._held)
        if self._made is not None:
            atexit.unregister(self._held.close)
        self._lock, self._held, self._made = threading.Lock(), ExitStack(), None


_PROCESS_FOLDER: Final = _ProcessFolder()


def _remove(folder: Path, owner: int) -> None:
    if os.getpid() == owner:  # a forked process goes on without it, and leaves it to the one that made it
        shutil.rmtree(folder, ignore_errors=True)
