"""A table on an object store: every look is a request, an object is whole or not there, and there is no lock.

Between writers Delta's own conflict detection decides, and those that meet take turns; what a writer that died left
behind is removed by a vacuum.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from functools import cached_property
from typing import TYPE_CHECKING, ClassVar, Final

from deltalake import DeltaTable

from hfthot_platform.core.errors import LakehouseError
from hfthot_platform.storage.lakehouse.backends.base import LOG, Backend, EntryState, LogFault, entry_name
from hfthot_platform.storage.lakehouse.backends.log_copy import LogCopy, state_of
from hfthot_platform.storage.lakehouse.leases import Turns
from hfthot_platform.storage.lakehouse.storage import damaged, translated
from hfthot_platform.storage.objects import open_store, store_errors

if TYPE_CHECKING:
    from obstore.store import ObjectStore

__all__ = ["ObjectBackend"]

_LOG: Final = logging.getLogger(__name__)
#: Commits between checkpoints: whoever opens the table anew reads so many entries at most.
_CHECKPOINT_EVERY: Final = 25


class ObjectBackend(Backend):
    """The objects below a table's URL."""

    locks: ClassVar[bool] = False
    optimistic: ClassVar[int] = 1
    #: Never: it would read every entry since the last one twice, and here they are in the copy.
    checkpoint_interval: ClassVar[int] = 1_000_000_000
    looks_at_files: ClassVar[bool] = False

    def __init__(self, table: str, root: str, url: str, options: Mapping[str, str]) -> None:
        super().__init__(table, url, options, None)
        self._root = root
        self._url = url.rstrip("/")

    @cached_property
    def _store(self) -> ObjectStore:
        return open_store(self.location, self.options)

    @cached_property
    def _copy(self) -> LogCopy:
        return LogCopy(self._store)

    # -- the log's files ------------------------------------------------------------------------------------

    def entry_states(self, *versions: int) -> list[EntryState | None]:
        with translated(self.table):
            return [self._state_of(f"{LOG}/{entry_name(version)}") for version in versions]

    def _state_of(self, name: str) -> EntryState | None:
        import obstore

        try:
            with store_errors():
                return state_of(obstore.head(self._store, name))
        except FileNotFoundError:
            return None

    def quiet_stamp(self) -> None:
        return None

    def entries_after(self, version: int, most: int) -> list[EntryState]:
        with translated(self.table):
            return self._copy.entries_after(version, most)

    def fetch_entries(self, versions: Sequence[int]) -> None:
        with translated(self.table):
            self._copy.fetch_entries(versions)

    def fetched_state(self, version: int) -> EntryState | None:
        known = self._copy.state(version)
        return self.entry_states(version)[0] if known is None else known

    def open(self, version: int | None) -> DeltaTable:
        self._copy.bring(version)
        return DeltaTable(self._copy.folder.as_uri(), version=version)

    def forget(self, names: Iterable[str] = ()) -> None:
        self._copy.keep(names)

    def read_entry(self, version: int) -> bytes | None:
        with translated(self.table):
            return self._copy.entry(version)

    def log_names(self) -> list[str]:
        import obstore

        with translated(self.table), store_errors():
            found = obstore.list_with_delimiter(self._store, f"{LOG}/")
        return [meta["path"].rpartition("/")[2] for meta in found["objects"]]

    def write_checkpoint(self, handle: DeltaTable) -> None:
        """Make it from the log's copy: the Delta library would fetch every entry since the last one, twice."""
        with translated(self.table):
            self._copy.write_checkpoint(handle.version())

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
            found = self._state_of(name)
        if found is None:
            raise damaged(self.table, name, "is missing")
        return found.size

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

    def committed(self, version: int) -> None:
        if version % _CHECKPOINT_EVERY:
            return
        try:
            with translated(self.table):
                self._copy.write_checkpoint(version)
        except (LakehouseError, OSError) as error:
            # The commit stands; the log is only longer to read until the next one.
            _LOG.warning("%s: no checkpoint of version %s was written: %s", self.table, version, error)

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
        import obstore

        with translated(self.table), store_errors():
            obstore.delete(self._store, name)

    @cached_property
    def _turns(self) -> Turns:
        return Turns(open_store(self._root, self.options), f"_leases/{self.table}", self.table)

    @contextmanager
    def writers_lock(self, *, exclusive: bool) -> Iterator[None]:
        with ExitStack() as held:
            if exclusive or self._turns.crowded:
                with translated(self.table):
                    held.enter_context(self._turns.turn(timeout=120.0))
            yield

    def met_another_writer(self) -> None:
        self._turns.met()
