"""The places that a scan looks through: folders, object stores, databases.

Here belongs what is there to read and under which name, how a canary is put there and how it is taken away again.
What is in a file is the business of `readers`.
"""

from __future__ import annotations

import errno
import io
import os
import stat
import threading
from collections import OrderedDict
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO, Final, cast

from hfthot_platform.services.privacy.proof.canary import CANARY_PREFIX, Canary, is_leftover, removable
from hfthot_platform.services.privacy.proof.sqlite_reader import FileOpener
from hfthot_platform.storage.objects import read_object, store_errors

if TYPE_CHECKING:
    import sqlalchemy as sa
    from obstore.store import ObjectStore as Objects

__all__ = ["FileEntry", "Folder", "ObjectStore", "Place", "SqlDatabase", "WalkNotes"]

#: Bytes that are read at once.
_BLOCK: Final = 8 * 1024 * 1024
#: Objects up to this size are fetched whole, and so many of them are kept: what is read twice is fetched once.
_FETCHED_WHOLE: Final = 8 * 1024 * 1024
_KEPT_OBJECTS: Final = 4
#: Folders in which a kernel shows itself.
_KERNEL: Final = (Path("/proc"), Path("/sys"), Path("/dev"))


@dataclass(frozen=True)
class FileEntry:
    """A file to read."""

    name: str
    size: int
    open: Callable[[FileOpener], BinaryIO] = field(repr=False)
    #: Where the file is if it is on a disk: SQLite is opened by its path.
    path: Path | None = None
    #: When it was last changed, in seconds since 1970.
    modified: float | None = None
    #: Device and number of a file on a disk: what tells two names of one file.
    identity: tuple[int, int] | None = None


class WalkNotes:
    """What a walk could not, or did not, look at."""

    def __init__(self) -> None:
        self.unreadable: list[str] = []
        self.skipped: list[str] = []


@dataclass(frozen=True)
class Folder:
    """A folder with everything below it.  Links are followed, each folder is entered once.

    Args:
        name: what reports call it.
        root: where it is; one that does not exist is empty.
        only: patterns of the names directly in it that belong to it, for a folder that others use too.
        leave: folders and files below it that are not looked at.
        shared: whether others have files here that this process may not read; they are listed only.
    """

    name: str
    root: Path
    only: tuple[str, ...] = ()
    leave: tuple[Path, ...] = ()
    shared: bool = False

    def walk(self, noted: WalkNotes) -> Iterator[tuple[str, FileEntry | None]]:
        """Yield the relative path of everything below and where links point to, then what can be read under it."""
        root = self.root
        try:
            found = root.stat()
        except FileNotFoundError:
            if root.is_symlink():
                noted.skipped.append(". (a broken link)")
            return
        except OSError as error:
            self._refused(noted, ".", error)
            return
        if not stat.S_ISDIR(found.st_mode):
            yield root.name, None
            yield from self._one(root, root.name, found, noted)
            return
        left = {path.absolute() for path in self.leave}
        entered = {(found.st_dev, found.st_ino)}
        waiting = [root]
        while waiting:
            folder = waiting.pop()
            try:
                names = sorted(os.listdir(folder))  # noqa: PTH208 - names, not paths
            except FileNotFoundError:
                continue
            except OSError as error:
                self._refused(noted, str(folder.relative_to(root)), error)
                continue
            if folder == root and self.only:
                names = [name for name in names if any(Path(name).match(only) for only in self.only)]
            below = []
            for name in names:
                path = folder / name
                if path.absolute() in left:
                    continue
                shown = str(path.relative_to(root))
                yield shown, None
                try:
                    if path.is_symlink():
                        yield os.fsdecode(path.readlink()), None
                    found = path.stat()
                except FileNotFoundError:
                    if path.is_symlink():
                        noted.skipped.append(f"{shown} (a broken link)")
                    continue
                except OSError as error:
                    if error.errno == errno.ELOOP:
                        noted.skipped.append(f"{shown} (a circular link)")
                    else:
                        self._refused(noted, shown, error)
                    continue
                if not stat.S_ISDIR(found.st_mode):
                    yield from self._one(path, shown, found, noted)
                elif path.is_symlink() and (why := self._around(path)):
                    noted.skipped.append(f"{shown} ({why})")
                elif (found.st_dev, found.st_ino) not in entered:
                    entered.add((found.st_dev, found.st_ino))
                    below.append(path)
            waiting += reversed(below)

    def _one(
        self, path: Path, shown: str, found: os.stat_result, noted: WalkNotes
    ) -> Iterator[tuple[str, FileEntry | None]]:
        if not stat.S_ISREG(found.st_mode):
            noted.skipped.append(f"{shown} (not a regular file: a device, pipe or socket)")
            return
        # `FileOpener`, because the store and Dagster have databases open in this process.
        identity = found.st_dev, found.st_ino
        yield shown, FileEntry(shown, found.st_size, lambda opener: opener.open(path), path, found.st_mtime, identity)

    def _refused(self, noted: WalkNotes, shown: str, error: OSError) -> None:
        what = noted.skipped if self.shared else noted.unreadable
        what.append(f"{shown} ({error.strerror or type(error).__name__})")

    def _around(self, link: Path) -> str | None:
        """Return why a linked folder is not entered: it would lead to everything, or into the kernel."""
        target, root = link.resolve(), self.root.resolve()
        if root.is_relative_to(target) or target == Path("/"):
            return "a link to a parent folder"
        if any(target.is_relative_to(folder) for folder in _KERNEL):
            return "a link into the kernel's files"
        return None

    def plant(self, canary: Canary) -> list[tuple[str, str, str]]:
        """Put the canary's files here; return what must be found: (file, inside, encoding)."""
        if not self.root.is_dir() or (self.only and not self._stem):
            return []
        folder = self.root / f"{self._stem}{CANARY_PREFIX}{canary.token}"
        while True:
            folder.mkdir(mode=0o700, exist_ok=True)
            # As long as this process lives, no other scan takes it for a leftover.
            if canary.hold(folder):
                break
        expected = []
        for name, content, found in canary.files:
            (folder / name).write_bytes(content)
            expected += [(f"{folder.name}/{name}", inside, encoding) for inside, encoding in found]
        return expected

    def sweep(self, token: str | None = None) -> None:
        """Remove the canary of this token, or whatever canaries killed scans left."""
        for folder in self.root.glob(f"{self._stem}{CANARY_PREFIX}{token or '*'}"):
            with removable(folder, ours=token is not None) as left:
                for path in folder.iterdir() if left else ():
                    path.unlink(missing_ok=True)
                if left:
                    folder.rmdir()

    @property
    def _stem(self) -> str:
        """Prefixes of the names in a shared folder that belong to the platform."""
        return self.only[0].replace("*", "") if self.only else ""


@dataclass(frozen=True)
class ObjectStore:
    """What is below a URL of an object store; each object is fetched once.

    Args:
        name: what reports call it.
        store: the objects.
        leave: folders below it that are not looked at, since they are places of their own.
    """

    name: str
    store: Objects = field(repr=False)
    leave: tuple[str, ...] = ()

    def walk(self, noted: WalkNotes) -> Iterator[tuple[str, FileEntry | None]]:
        """Yield the key of every object, with what can be read of it."""
        import obstore

        fetched = _Fetched(self.store)
        waiting: list[str | None] = [None]
        try:
            with store_errors():
                while waiting:
                    folder = waiting.pop()
                    if any((folder or "") in _above(left) for left in self.leave):
                        # Level by level: what is left alone is not even listed, however much that is.
                        found = obstore.list_with_delimiter(self.store, folder)
                        waiting += [below for below in found["common_prefixes"] if below not in self.leave]
                        pages: Iterable[Any] = [found["objects"]]
                    else:
                        pages = obstore.list(self.store, folder)
                    for meta in (meta for page in pages for meta in page):
                        path, size = str(meta["path"]), int(meta["size"])

                        def opened(_: FileOpener, path: str = path, size: int = size) -> BinaryIO:
                            return fetched.open(path, size)

                        yield path, FileEntry(path, size, opened, modified=meta["last_modified"].timestamp())
        except OSError as error:
            noted.unreadable.append(f". ({error.strerror or 'the object store did not answer, or refused'})")

    def plant(self, canary: Canary) -> list[tuple[str, str, str]]:
        """Put the canary's objects here; return what must be found: (file, inside, encoding)."""
        import obstore

        expected = []
        for name, content, found in canary.files:
            path = f"{CANARY_PREFIX}{canary.token}/{name}"
            with store_errors():
                obstore.put(self.store, path, content)
            expected += [(path, inside, encoding) for inside, encoding in found if inside != "sqlite"]
        return expected

    def sweep(self, token: str | None = None) -> None:
        """Remove the canary of this token, or whatever canaries killed scans left."""
        import obstore

        with store_errors():
            # Canaries are at the top: one request, whatever there is below.
            for folder in obstore.list_with_delimiter(self.store)["common_prefixes"]:
                if is_leftover(folder, token):
                    left = [meta["path"] for page in obstore.list(self.store, folder) for meta in page]
                    obstore.delete(self.store, left)


def _above(folder: str) -> set[str]:
    """Return every folder that a folder is in."""
    parts = folder.split("/")
    return {"/".join(parts[:depth]) for depth in range(len(parts))}


class _Fetched:
    """Objects as files.  A small one is fetched by one request, and kept while it is read a second time."""

    def __init__(self, store: Objects) -> None:
        self._store = store
        self._recent: OrderedDict[str, bytes] = OrderedDict()
        self._lock = threading.Lock()

    def open(self, path: str, size: int) -> BinaryIO:
        """Open an object for reading."""
        if size > _FETCHED_WHOLE:
            return cast("BinaryIO", io.BufferedReader(_ObjectFile(self._store, path, size), _BLOCK))
        with self._lock:
            content = self._recent.get(path)
        if content is None:
            content = self._whole(path)
            with self._lock:
                self._recent[path] = content
                while len(self._recent) > _KEPT_OBJECTS:
                    self._recent.popitem(last=False)
        return io.BytesIO(content)

    def _whole(self, path: str) -> bytes:
        content = read_object(self._store, path)
        if content is None:
            raise FileNotFoundError(errno.ENOENT, "it was removed", path)
        return content


class _ObjectFile(io.RawIOBase):
    """An object that is fetched in ranges."""

    def __init__(self, store: Objects, path: str, size: int) -> None:
        self._store = store
        self._path = path
        self._size = size
        self._at = 0

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        self._at = max(0, offset + {io.SEEK_SET: 0, io.SEEK_CUR: self._at, io.SEEK_END: self._size}[whence])
        return self._at

    def tell(self) -> int:
        return self._at

    def readinto(self, buffer: Any) -> int:
        import obstore

        length = min(len(buffer), self._size - self._at)
        if length <= 0:
            return 0
        with store_errors():
            found = obstore.get_range(self._store, self._path, start=self._at, length=length)
        buffer[: len(found)] = memoryview(found)
        self._at += len(found)
        return len(found)


@dataclass(frozen=True)
class SqlDatabase:
    """A PostgreSQL database: the rows of every table of every schema through SQL, and the planner's samples of them.

    Where the server lets the role read files (`pg_read_server_files`), the files of every table and index are read as
    well: dead rows and freed pages.  The write-ahead log is not visible through SQL.
    """

    name: str
    engine: sa.Engine = field(repr=False)

    _TABLES = (
        "SELECT n.nspname, c.relname, has_table_privilege(c.oid, 'SELECT'), n.nspname = current_schema() "
        "FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace WHERE c.relkind IN ('r', 'm') "
        "AND n.nspname NOT IN ('pg_catalog', 'information_schema') AND n.nspname NOT LIKE 'pg\\_toast%' "
        "AND n.nspname NOT LIKE 'pg\\_temp%' ORDER BY 4 DESC, 1, 2"
    )
    _HEAPS = (
        "SELECT c.oid::regclass::text, pg_relation_filepath(c.oid), pg_relation_size(c.oid) "
        "FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace "
        "WHERE c.relkind IN ('r', 't', 'm', 'i') AND pg_relation_filepath(c.oid) IS NOT NULL "
        "AND (n.nspname NOT IN ('pg_catalog', 'information_schema') OR c.relname = 'pg_statistic') "
        "AND c.relpersistence <> 't' ORDER BY 1"
    )
    _MAY_READ_FILES = (
        "SELECT has_function_privilege('pg_read_binary_file(text,bigint,bigint,boolean)', 'EXECUTE') "
        "AND (SELECT rolsuper FROM pg_roles WHERE rolname = current_user)"
    )
    _SEGMENT = 1 << 30

    def streams(self, noted: WalkNotes) -> Iterator[tuple[str, str, Iterator[bytes]]]:
        """Yield per table its name, how it is read (`sql` or `heap`), and its rows or pages in blocks."""
        with self.engine.connect().execution_options(isolation_level="AUTOCOMMIT") as connection:
            raw = connection.connection.driver_connection
            assert raw is not None
            cursor = raw.cursor()
            for schema, table, readable, here in cursor.execute(self._TABLES).fetchall():
                shown = table if here else f"{schema}.{table}"
                if not readable:
                    noted.skipped.append(f"{shown} (the store's role may not read it)")
                    continue
                name = ".".join('"' + part.replace('"', '""') + '"' for part in (schema, table))
                yield shown, "sql", self._copied(cursor, f"COPY (SELECT * FROM {name}) TO STDOUT")  # noqa: S608 - quoted
            samples = (
                "COPY (SELECT tablename, attname, most_common_vals::text, histogram_bounds::text FROM pg_stats "
                "WHERE schemaname NOT IN ('pg_catalog', 'information_schema')) TO STDOUT"
            )
            yield "pg_stats", "sql", self._copied(cursor, samples)
            if not cursor.execute(self._MAY_READ_FILES).fetchone()[0]:
                noted.skipped.append("dead rows (the store's role may not read the server's files)")
                return
            # Pages come to their files with a checkpoint.
            cursor.execute("CHECKPOINT")
            for name, path, size in cursor.execute(self._HEAPS).fetchall():
                yield name, "heap", self._pages(cursor, path, size)

    @staticmethod
    def _copied(cursor: Any, statement: str) -> Iterator[bytes]:
        with cursor.copy(statement) as copy:
            for block in copy:
                yield bytes(block)

    def _pages(self, cursor: Any, path: str, size: int) -> Iterator[bytes]:
        for begin in range(0, size, _BLOCK):
            segment, offset = divmod(begin, self._SEGMENT)
            name = f"{path}.{segment}" if segment else path
            read = "SELECT pg_read_binary_file(%s, %s, %s, true)"
            (data,) = cursor.execute(read, (name, offset, _BLOCK), binary=True).fetchone()
            if not data:
                return  # it was rewritten meanwhile, into another file
            yield bytes(data)

    def plant(self, canary: Canary) -> list[tuple[str, str, str]]:
        """Make a table with the canary; return what must be found."""
        import sqlalchemy as sa

        table = f"{CANARY_PREFIX}{canary.token}"
        lines = canary.lines(("text", "base64", "hex"))
        with self.engine.begin() as connection:
            connection.execute(sa.text(f'CREATE TABLE "{table}" (value text)'))
            connection.execute(
                sa.text(f'INSERT INTO "{table}" VALUES (:value)'),  # noqa: S608 - the name is ours
                [{"value": line.decode()} for _, line in lines],
            )
            heaps = bool(connection.exec_driver_sql(self._MAY_READ_FILES).scalar())
        found = [(table, "sql", encoding) for encoding in sorted({encoding for encoding, _ in lines})]
        return [*found, (f'"{table}"', "heap", "text")] if heaps else found

    def sweep(self, token: str | None = None) -> None:
        """Drop the canary of this token, or whatever canaries killed scans left."""
        import sqlalchemy as sa

        mine = "SELECT tablename FROM pg_tables WHERE schemaname = current_schema()"
        with self.engine.begin() as connection:
            tables = connection.execute(sa.text(mine)).scalars().all()
            for table in tables:
                if is_leftover(table, token):
                    connection.execute(sa.text(f'DROP TABLE "{table}"'))


Place = Folder | ObjectStore | SqlDatabase
