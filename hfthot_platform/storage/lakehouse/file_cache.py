"""Data files of an object store on this host's disk, for those who cannot reach it: bounded, shared by processes.

A data file never changes and its name is never used again, so a file that is here in the size that the log says is the
file.  What belongs here: fetching, keeping, making room.  What does not: which files a reader needs.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import time
import uuid
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING, Final, NamedTuple

from hfthot_platform.core.errors import StorageFullError
from hfthot_platform.core.files import made_folder
from hfthot_platform.core.locks import file_lock
from hfthot_platform.storage.lakehouse.storage import damaged, translated
from hfthot_platform.storage.objects import open_store, store_errors

if TYPE_CHECKING:
    from obstore.store import ObjectStore

    from hfthot_platform.storage.lakehouse.backends import Backend

__all__ = ["FileCache"]

#: A file that was asked for so lately may be about to be opened.
_IN_USE_SECONDS: Final = 900.0
#: What a download left that no process goes on with.
_ABANDONED_SECONDS: Final = 3600.0
_AT_ONCE: Final = 8
_CHUNK: Final = 8 * 2**20
_PARTIAL: Final = ".partial"


class _Missing(NamedTuple):
    """A file that is to be fetched: where to, its name in the store, and its size by the log."""

    path: Path
    name: str
    size: int
    #: The file that it is fetched into, which has its size from the start, so that others count it.
    partial: Path


class FileCache:
    """A folder of data files.

    Args:
        folder: where they are kept; made where it is not there.
        limit: bytes of all of them together.
    """

    def __init__(self, folder: Path, limit: int) -> None:
        self.folder = folder
        self.limit = limit

    def fetch(self, backend: Backend, files: Sequence[tuple[str, int]]) -> list[str]:
        """Return the paths of data files of a table, fetched where they are not here, in the given order.

        Args:
            backend: the table's files.
            files: their names below the table's root, and their sizes by the log.

        Raises:
            StorageFullError: they need more than the cache may take, or than others leave of it just now.
            DamagedTableError: a file is missing, or has another size.
            StorageUnavailableError: the store did not answer.
        """
        root = self.folder / hashlib.sha256(backend.location.encode()).hexdigest()[:24]
        paths = [root / name for name, _ in files]
        needed = sum(size for _, size in files)
        if needed > self.limit:
            raise StorageFullError(
                f"the files take {needed / 2**30:.1f} GiB, and the cache for files of the object store "
                f"{self.limit / 2**30:.1f} GiB",
                where=backend.table,
                hint="Read fewer days or symbols, or raise the setting `file_cache_gib`.",
            )
        missing = [
            _Missing(path, name, size, path.with_name(f"{path.name}.{uuid.uuid4().hex}{_PARTIAL}"))
            for path, (name, size) in dict(zip(paths, files, strict=True)).items()
            if not _is_here(path, size)
        ]
        if missing:
            with translated(backend.table):
                store = open_store(backend.location, backend.options)
                try:
                    self._reserve(missing, backend.table)
                    with ThreadPoolExecutor(min(_AT_ONCE, len(missing))) as pool:
                        for _ in pool.map(lambda file: _download(store, backend.table, file), missing):
                            pass
                finally:
                    for file in missing:
                        file.partial.unlink(missing_ok=True)
        return [str(path) for path in paths]

    def _reserve(self, missing: Sequence[_Missing], table: str) -> None:
        """Take the room of files: those that were not asked for lately go, the oldest first, until there is enough."""
        needed = sum(file.size for file in missing)
        made_folder(self.folder, "scratch", private=True)
        with file_lock(self.folder / "cache.lock"):
            now = time.time()
            kept = 0
            idle: list[tuple[float, int, Path]] = []
            for path, found in self._files():
                age = now - found.st_mtime
                if path.name.endswith(_PARTIAL) and age > _ABANDONED_SECONDS:
                    path.unlink(missing_ok=True)
                    continue
                kept += found.st_size
                if age > _IN_USE_SECONDS:
                    idle.append((found.st_mtime, found.st_size, path))
            for _, size, path in sorted(idle):
                if kept + needed <= self.limit:
                    break
                path.unlink(missing_ok=True)
                kept -= size
            if kept + needed > self.limit:
                raise StorageFullError(
                    "other statements use the cache for files of the object store",
                    where=table,
                    hint="Try again in a few minutes, or raise the setting `file_cache_gib`.",
                )
            for file in missing:
                file.path.parent.mkdir(parents=True, exist_ok=True)
                with file.partial.open("wb") as reserved:
                    reserved.truncate(file.size)

    def _files(self) -> Iterator[tuple[Path, os.stat_result]]:
        for path in self.folder.rglob("*.parquet*"):
            with contextlib.suppress(FileNotFoundError):
                yield path, path.stat()


def _is_here(path: Path, size: int) -> bool:
    """Whether a file is here; it counts as used from now."""
    try:
        if path.stat().st_size != size:
            return False
        os.utime(path)
    except FileNotFoundError:
        return False
    return True


def _download(store: ObjectStore, table: str, missing: _Missing) -> None:
    import obstore

    written = 0
    try:
        with store_errors(), missing.partial.open("r+b") as file:
            for chunk in obstore.get(store, missing.name).stream(min_chunk_size=_CHUNK):
                written += file.write(chunk)
    except FileNotFoundError:
        raise damaged(table, missing.name, "is missing") from None
    if written != missing.size:
        raise damaged(table, missing.name, f"has {written} bytes, but the log says {missing.size}")
    missing.partial.replace(missing.path)
