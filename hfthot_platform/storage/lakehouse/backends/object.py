"""A table on an object store: every look is a request, an object is whole or not there, and there is no lock.

Between writers Delta's own conflict detection decides; what a writer that died left behind is removed by a vacuum.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from contextlib import AbstractContextManager, nullcontext
from functools import cached_property
from typing import TYPE_CHECKING, ClassVar

from hfthot_platform.storage.lakehouse.backends.base import LOG, Backend, EntryState, LogFault, entry_name
from hfthot_platform.storage.lakehouse.storage import damaged, translated

if TYPE_CHECKING:
    from pyarrow.fs import PyFileSystem

__all__ = ["ObjectBackend"]


class ObjectBackend(Backend):
    """The objects below a table's URL."""

    locks: ClassVar[bool] = False
    looks_at_files: ClassVar[bool] = False

    def __init__(self, table: str, url: str, options: Mapping[str, str]) -> None:
        super().__init__(table, url, options, None)
        self._url = url.rstrip("/")

    @cached_property
    def _store(self) -> PyFileSystem:
        from deltalake.fs import DeltaStorageHandler
        from pyarrow.fs import PyFileSystem

        return PyFileSystem(DeltaStorageHandler(self.location, self.options))

    # -- the log's files ------------------------------------------------------------------------------------

    def entry_states(self, *versions: int) -> list[EntryState | None]:
        from pyarrow.fs import FileType

        with translated(self.table):
            found = self._store.get_file_info([f"{LOG}/{entry_name(version)}" for version in versions])
        return [EntryState(info.size, info.mtime_ns, 0) if info.type == FileType.File else None for info in found]

    def read_entry(self, version: int) -> bytes | None:
        try:
            with translated(self.table), self._store.open_input_stream(f"{LOG}/{entry_name(version)}") as entry:
                return bytes(entry.read())
        except FileNotFoundError:
            return None

    def log_names(self) -> list[str]:
        from pyarrow.fs import FileSelector

        with translated(self.table):
            found = self._store.get_file_info(FileSelector(LOG, allow_not_found=True, recursive=False))
        return [info.base_name for info in found]

    def remove_from_log(self, name: str) -> None:
        self.remove(f"{LOG}/{name}")

    def log_fault(self) -> LogFault | None:
        return None

    def set_log_aside(self, after: int, label: str) -> None:  # noqa: ARG002 - there is nothing to move
        raise damaged(self.table, LOG, "is damaged")

    def has_data(self) -> bool:
        return False

    # -- data files -----------------------------------------------------------------------------------------

    def path_of(self, name: str) -> str:
        return f"{self._url}/{name}"

    def size_of(self, name: str) -> int:
        with translated(self.table):
            (found,) = self._store.get_file_info([name])
        return int(found.size)

    def make_room(self, name: str) -> None:
        """Do nothing: an object's name needs no folder."""

    def discard(self, names: Iterable[str]) -> None:
        """Do nothing: no version names them, so a vacuum removes them."""

    def faults(self, files: Iterable[tuple[str, int]]) -> Iterator[tuple[str, str]]:  # noqa: ARG002 - nobody looks
        return iter(())

    def present(self, names: Iterable[str]) -> list[str]:
        return list(names)

    # -- durability -----------------------------------------------------------------------------------------

    def create(self) -> None:
        """Do nothing: a bucket has no folders."""

    def make_durable(self, added: Iterable[str], version: int) -> None:
        """Do nothing: what the store acknowledged is durable."""

    def make_all_durable(self) -> None:
        """Do nothing: what the store acknowledged is durable."""

    # -- upkeep ---------------------------------------------------------------------------------------------

    def inventory(self) -> tuple[int, int] | None:
        return None

    def unfinished(self) -> list[str]:
        return []

    def remove(self, name: str) -> None:
        with translated(self.table):
            self._store.delete_file(name)

    def writers_lock(self, *, exclusive: bool) -> AbstractContextManager[None]:  # noqa: ARG002 - there is none
        return nullcontext()
