"""What every place of a table's files can do.  Names of files are paths below the table's root, never quoted."""

from __future__ import annotations

import re
from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar, Final, NamedTuple

if TYPE_CHECKING:
    from deltalake import DeltaTable

__all__ = [
    "FAR_BEHIND",
    "LOG",
    "Backend",
    "EntryState",
    "LogFault",
    "checkpoint_version",
    "entry_name",
    "entry_version",
]

#: Entries after which a log is opened again rather than followed: a checkpoint is nearer than so many.
FAR_BEHIND: Final = 200
#: The folder of a table's log.
LOG: Final = "_delta_log"
_ENTRY: Final = re.compile(r"(\d{20})\.json")
_CHECKPOINT: Final = re.compile(r"(\d{20})\.checkpoint\..*")


class EntryState(NamedTuple):
    """What tells a log entry from one that was put in its place."""

    size: int
    modified: int
    #: The inode, or the store's tag of the object.
    identity: int | str


class LogFault(NamedTuple):
    """The first file of a log that its newest version needs and cannot be used."""

    name: str
    meaning: str
    #: The newest version that the rest of the log makes up, -1 if none.
    intact: int


def entry_name(version: int) -> str:
    """Return the name of a version's entry in the log's folder."""
    return f"{version:020d}.json"


def entry_version(name: str) -> int | None:
    """Return the version of which a file of the log is the entry, None for any other file."""
    found = _ENTRY.fullmatch(name)
    return int(found.group(1)) if found else None


def checkpoint_version(name: str) -> int | None:
    """Return the version of which a file of the log is a checkpoint or a part of one, None for any other file."""
    found = _CHECKPOINT.fullmatch(name)
    return int(found.group(1)) if found else None


class Backend(ABC):
    """A table's files in one place."""

    #: Whether an exclusive lock keeps all other writers out; else conflicts are found by the log alone.
    locks: ClassVar[bool]
    #: Attempts at a commit beside other writers, before it is made under the exclusive lock.
    optimistic: ClassVar[int]
    #: Commits after which the Delta library makes a checkpoint by itself.
    checkpoint_interval: ClassVar[int]
    #: Whether data files can be looked at and read in passing, without a request for each.
    looks_at_files: ClassVar[bool]

    def __init__(self, table: str, location: str, options: Mapping[str, str], folder: Path | None) -> None:
        #: Name of the table, for messages.
        self.table = table
        #: The table as a URL for the Delta library.
        self.location = location
        #: Options of the object store, with its credentials; empty for a local folder.
        self.options = dict(options)
        #: The table's folder, None on an object store: for tools that work on files by themselves.
        self.folder = folder

    # -- the log's files ------------------------------------------------------------------------------------

    @abstractmethod
    def entry_states(self, *versions: int) -> list[EntryState | None]:
        """Return the state of log entries, None for each that is not there; the cheapest look at a table."""

    @abstractmethod
    def quiet_stamp(self) -> tuple[int, ...] | None:
        """Return what changes as soon as an entry comes or goes, by one `stat`; None where there is no such thing.

        Also None as long as one more change might leave it as it is.
        """

    @abstractmethod
    def entries_after(self, version: int, most: int) -> list[EntryState]:
        """Return the states of the entries after one, as long as there is a next one, up to a number."""

    @abstractmethod
    def fetch_entries(self, versions: Sequence[int]) -> None:
        """Get entries here that are about to be read, where each would be a request: side by side."""

    @abstractmethod
    def fetched_state(self, version: int) -> EntryState | None:
        """Return the state of an entry as it was when it was last read, without another look where one was kept."""

    @abstractmethod
    def open(self, version: int | None) -> DeltaTable:
        """Open a version, or the newest one, for reading; the Delta library's errors are passed on as they are."""

    @abstractmethod
    def forget(self, names: Iterable[str] = ()) -> None:
        """Drop what is kept of the log, but for the named files: another one stands in its place, or it was cut."""

    @abstractmethod
    def read_entry(self, version: int) -> bytes | None:
        """Return the content of a log entry, None if it is not there."""

    @abstractmethod
    def log_names(self) -> list[str]:
        """Return the names of all files in the log's folder."""

    @abstractmethod
    def write_checkpoint(self, handle: DeltaTable) -> None:
        """Write a checkpoint of the version that a handle is at."""

    @abstractmethod
    def remove_from_log(self, name: str) -> None:
        """Remove a file of the log for good."""

    @abstractmethod
    def log_fault(self) -> LogFault | None:
        """Return the first unusable file of the log that the newest version needs; None also where nobody can look."""

    @abstractmethod
    def set_log_aside(self, after: int, label: str) -> None:
        """Move log entries and checkpoints past a version, and unreadable checkpoints, out of the log.

        Nothing is deleted: what is in the lake's `_damaged` folder, under the label, can be examined or put back.
        """

    @abstractmethod
    def has_data(self) -> bool:
        """Return whether there is anything that only a table with a log can have."""

    # -- data files -----------------------------------------------------------------------------------------

    @abstractmethod
    def path_of(self, name: str) -> str:
        """Return a file as readers of Parquet want it: a path or a URL."""

    @abstractmethod
    def size_of(self, name: str) -> int:
        """Return the size of a file that was just written."""

    @abstractmethod
    def make_room(self, name: str) -> None:
        """Make the folder that a new file is to lie in."""

    @abstractmethod
    def discard(self, names: Iterable[str]) -> None:
        """Delete new files of a commit that came to nothing; on an object store a vacuum does."""

    @abstractmethod
    def faults(self, files: Iterable[tuple[str, int]]) -> Iterator[tuple[str, str]]:
        """Yield name and fault of each file (given with its size) that is not there as the log says.

        On an object store nobody looks: each look is a request, and an object is whole or not there.
        """

    @abstractmethod
    def present(self, names: Iterable[str]) -> list[str]:
        """Return those of the files that are there, as far as that can be told without a request for each."""

    # -- durability -----------------------------------------------------------------------------------------

    @abstractmethod
    def create(self) -> None:
        """Make the place for a new table."""

    @abstractmethod
    def committed(self, version: int) -> None:
        """Do what is due after a version was committed here, as long as it may fail without harm."""

    @abstractmethod
    def make_durable(self, added: Iterable[str], version: int) -> None:
        """Return when a commit is on the disk: its data files, its log entry, and the folders that name them.

        Raises:
            OSError: the disk failed.
        """

    @abstractmethod
    def make_all_durable(self) -> None:
        """Return when all files of the table are on the disk."""

    # -- upkeep ---------------------------------------------------------------------------------------------

    @abstractmethod
    def inventory(self) -> tuple[int, int] | None:
        """Return bytes and number of all files of the table, log included; None where only the log can tell."""

    @abstractmethod
    def unfinished(self) -> list[str]:
        """Return the staging files of writers, those at work and those that died.

        The object store of the Delta library writes a local file as `<name>#<number>` and renames it.
        """

    @abstractmethod
    def remove(self, name: str) -> None:
        """Remove a file, if it is there."""

    @abstractmethod
    def writers_lock(self, *, exclusive: bool) -> AbstractContextManager[None]:
        """Hold the table's writers' lock: shared for writers, exclusive for maintenance and for who lost too often.

        On an object store an exclusive lock is a turn, which others respect as long as they met writers lately.

        Raises:
            LockTimeoutError: others held it for too long.
            StorageReadOnlyError, StorageFullError: the lock's file cannot be made.
        """

    @abstractmethod
    def met_another_writer(self) -> None:
        """Note that another writer's commit came between."""
