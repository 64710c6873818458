"""The proof scan: looks for values in everything that the platform keeps, in every encoding, and proves itself.

Files are read as bytes from end to end.  What bytes alone do not show is decoded as well: Parquet, Arrow and ORC
(dictionaries and data, whatever the compression), members of archives within each other, and SQLite rows that are
spread over several pages.  A PostgreSQL database is read through SQL, and its files where the server lets us.  What is
damaged is searched as far as it decodes.  Before a scan a made-up value, the canary, is put into every place in every
encoding and container; unless the scan finds every one of them, its result does not count.

Here belongs looking for values and saying where they are, never which, and saying what was not looked at.  What a
finding means is not decided here.
"""

from __future__ import annotations

import base64
import errno
import fcntl
import gzip
import io
import json
import os
import re
import secrets
import sqlite3
import stat
import tarfile
import tempfile
import threading
import time
import zipfile
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing, contextmanager, suppress
from dataclasses import dataclass, field
from functools import cached_property, partial
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any, BinaryIO, Final, cast
from urllib.parse import quote

from hfthot_platform.core.errors import ErasureUnverifiedError
from hfthot_platform.services.privacy.proof.containers import (
    HEAD,
    Salvaged,
    container,
    local_members,
    looks_packed,
    salvaged,
    salvaged_member,
)
from hfthot_platform.services.privacy.proof.search import ENCODINGS, OVERLAP, Hit, Needle, Searcher
from hfthot_platform.services.privacy.proof.sqlite_reader import SQLITE, Outside

if TYPE_CHECKING:
    import pyarrow as pa
    import pyarrow.fs as pafs
    import sqlalchemy as sa

__all__ = [
    "Database",
    "Finding",
    "Folder",
    "Needle",
    "ObjectStore",
    "Place",
    "PlaceReport",
    "ScanReport",
    "scan",
    "sweep_canaries",
]

_BLOCK = 8 * 1024 * 1024
#: A file on a disk that is larger is read in parts of this size, so that one large file keeps every worker busy.
_SECTION = 64 * 1024 * 1024
#: What one file is unpacked to at most, with all that is packed inside it; a bomb must not stop an erasure.
_LARGEST_EXPANDED = 64 * 1024**3
#: An archive inside an archive is opened when it fits into memory.
_LARGEST_NESTED = 64 * 1024 * 1024
_DEEPEST = 6
_CANARY_PREFIX: Final = ".hfthot-canary-"
#: Seconds after which a canary that no lock protects is taken for a leftover.
_LONGEST_SCAN: Final = 7 * 24 * 3600
_CANARY_KIND: Final = "canary"
#: Findings of one value in one form and file that are kept, and findings in all.
_MOST_ALIKE = 20
_MOST_FINDINGS = 200_000
#: Characters that are kept around a finding, for the eyes of whoever has to tell what it is.
_CONTEXT = 40
#: Folders in which a kernel shows itself.
_KERNEL: Final = (Path("/proc"), Path("/sys"), Path("/dev"))
#: Rows of SQLite that are searched together.
_ROWS = 500

#: Told of the bytes read so far.
Progress = Callable[[int, int | None, str], None]


@dataclass(frozen=True)
class Finding:
    """A value that was found, without the value."""

    place: str
    #: Path below the place, or table and column; a name that itself holds a value is withheld.
    file: str
    offset: int
    #: What kind of value it is.
    kind: str
    encoding: str
    #: `bytes`, `name`, or how the value was got at: `parquet`, `gzip`, `zip:<n>`, `sqlite`, `sql`, ...
    inside: str
    #: For whoever has to judge it, and for nobody else: the value, the file's true name, what is around it.
    needle: Needle = field(repr=False, compare=False, default=Needle("", ""))
    path: str = field(repr=False, compare=False, default="")
    context: str = field(repr=False, compare=False, default="")
    #: When the file was last changed (seconds since 1970), where that is known.
    modified: float | None = field(compare=False, default=None)

    def __str__(self) -> str:
        return f"{self.kind} in {self.place}: {self.file} at {self.offset} ({self.encoding}, {self.inside})"


@dataclass(frozen=True)
class PlaceReport:
    """What was read of one place."""

    name: str
    files: int
    bytes: int
    #: Bytes that were decoded from Parquet pages, archives and rows, on top of `bytes`.
    bytes_decoded: int
    #: Files that are or claim to be packed and could not be decoded to their end; their bytes were searched.
    opaque: tuple[str, ...]
    #: Files and folders that could not be read at all.
    unreadable: tuple[str, ...]
    #: The same as `opaque`, with the reason.
    undecoded: tuple[str, ...] = ()
    #: What was left alone on purpose, and why: devices, links around in a circle or to nowhere, folders of others.
    skipped: tuple[str, ...] = ()
    #: Whether the self-test covered it.
    tested: bool = True


@dataclass(frozen=True)
class ScanReport:
    """The outcome of a scan.  It counts only because `canaries` were all found; a scan that missed one raises."""

    places: tuple[PlaceReport, ...]
    findings: tuple[Finding, ...]
    #: How many values of each kind were looked for.
    needles: dict[str, int]
    #: (kind, reason) of what could not be looked for.
    left_out: tuple[tuple[str, str], ...]
    #: Number of planted canaries, every one of them found.
    canaries: int
    seconds: float
    #: There were more findings than are listed, so that files may be missing from them.
    truncated: bool = False
    #: Findings by (place, file, kind, encoding, inside), those beyond the listed ones included.
    counts: dict[tuple[str, str, Needle, str, str], int] = field(default_factory=dict, repr=False)

    @property
    def files(self) -> int:
        """Return the number of files and tables."""
        return sum(each.files for each in self.places)

    @property
    def bytes(self) -> int:
        """Return the bytes read."""
        return sum(each.bytes for each in self.places)

    @property
    def bytes_decoded(self) -> int:
        """Return the bytes decoded from compressed or paged forms, on top of the bytes read."""
        return sum(each.bytes_decoded for each in self.places)

    @property
    def unreadable(self) -> tuple[str, ...]:
        """Return the files that could not be read, with their places."""
        return tuple(f"{place.name}: {name}" for place in self.places for name in place.unreadable)

    @property
    def clean(self) -> bool:
        """Whether nothing was found, and nothing kept the scan from looking."""
        return not self.findings and not self.unreadable


# -- places ---------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class _Entry:
    """A file to read."""

    name: str
    size: int
    open: Callable[[Outside], BinaryIO] = field(repr=False)
    #: Where the file is if it is on a disk: SQLite is opened by its path.
    path: Path | None = None
    #: When it was last changed, in seconds since 1970.
    modified: float | None = None
    #: Device and number of a file on a disk: what tells two names of one file.
    identity: tuple[int, int] | None = None


class _Noted:
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
        shared: whether others have files here that are not ours to read; they are listed, and no obstacle.
    """

    name: str
    root: Path
    only: tuple[str, ...] = ()
    leave: tuple[Path, ...] = ()
    shared: bool = False

    def walk(self, noted: _Noted) -> Iterator[tuple[str, _Entry | None]]:
        """Yield the relative path of everything below and where links point to, then what can be read under it."""
        root = self.root
        try:
            found = root.stat()
        except FileNotFoundError:
            if root.is_symlink():
                noted.skipped.append(". (a link to nowhere)")
            return
        except OSError as error:
            self._refused(noted, ".", error)
            return
        if not stat.S_ISDIR(found.st_mode):
            yield root.name, None
            yield from self._one(root, root.name, found, noted)
            return
        left = {each.absolute() for each in self.leave}
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
                names = [each for each in names if any(Path(each).match(only) for only in self.only)]
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
                        noted.skipped.append(f"{shown} (a link to nowhere)")
                    continue
                except OSError as error:
                    if error.errno == errno.ELOOP:
                        noted.skipped.append(f"{shown} (a link in a circle)")
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

    def _one(self, path: Path, shown: str, found: os.stat_result, noted: _Noted) -> Iterator[tuple[str, _Entry | None]]:
        if not stat.S_ISREG(found.st_mode):
            noted.skipped.append(f"{shown} (no file to read: a device, pipe or socket)")
            return
        # `Outside`, because the store and Dagster have databases open in this process.
        identity = found.st_dev, found.st_ino
        yield shown, _Entry(shown, found.st_size, lambda outside: outside.open(path), path, found.st_mtime, identity)

    def _refused(self, noted: _Noted, shown: str, error: OSError) -> None:
        what = noted.skipped if self.shared else noted.unreadable
        what.append(f"{shown} ({error.strerror or type(error).__name__})")

    def _around(self, link: Path) -> str | None:
        """Return why a linked folder is not entered: it would lead to everything, or into the kernel."""
        target, root = link.resolve(), self.root.resolve()
        if root.is_relative_to(target) or target == Path("/"):
            return "a link to a folder around it"
        if any(target.is_relative_to(each) for each in _KERNEL):
            return "a link into the kernel's files"
        return None

    def plant(self, canary: _Canary) -> list[tuple[str, str, str]]:
        """Put the canary's files here; return what must be found: (file, inside, encoding)."""
        if not self.root.is_dir() or (self.only and not self._stem):
            return []
        folder = self.root / f"{self._stem}{_CANARY_PREFIX}{canary.token}"
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
        for folder in self.root.glob(f"{self._stem}{_CANARY_PREFIX}{token or '*'}"):
            with _left(folder, ours=token is not None) as left:
                for path in folder.iterdir() if left else ():
                    path.unlink(missing_ok=True)
                if left:
                    folder.rmdir()

    @property
    def _stem(self) -> str:
        """How names begin that a folder of others takes for ours."""
        return self.only[0].replace("*", "") if self.only else ""


@dataclass(frozen=True)
class ObjectStore:
    """A prefix of an object store, through a `pyarrow` file system."""

    name: str
    filesystem: pafs.FileSystem = field(repr=False)
    root: str = ""

    def walk(self, noted: _Noted) -> Iterator[tuple[str, _Entry | None]]:
        """Yield the key of every object, with what can be read of it."""
        del noted
        for info in self._infos():
            path = info.path

            def opened(_: Outside, path: str = path) -> BinaryIO:
                return cast("BinaryIO", io.BufferedReader(self.filesystem.open_input_file(path), _BLOCK))

            modified = None if info.mtime is None else info.mtime.timestamp()
            yield path, _Entry(path, info.size or 0, opened, modified=modified)

    def _infos(self) -> list[Any]:
        from pyarrow.fs import FileSelector, FileType

        chosen = FileSelector(self.root, recursive=True, allow_not_found=True)
        return [each for each in self.filesystem.get_file_info(chosen) if each.type == FileType.File]

    def plant(self, canary: _Canary) -> list[tuple[str, str, str]]:
        """Put the canary's objects here; return what must be found: (file, inside, encoding)."""
        expected = []
        for name, content, found in canary.files:
            path = "/".join(part for part in (self.root, f"{_CANARY_PREFIX}{canary.token}", name) if part)
            # Otherwise pyarrow compresses by the name, and what is in the archive is another archive.
            with self.filesystem.open_output_stream(path, compression=None) as out:
                out.write(content)
            expected += [(path, inside, encoding) for inside, encoding in found if inside != "sqlite"]
        return expected

    def sweep(self, token: str | None = None) -> None:
        """Remove the canary of this token, or whatever canaries killed scans left."""
        for info in self._infos():
            if _to_sweep(info.path, token):
                self.filesystem.delete_file(info.path)


@dataclass(frozen=True)
class Database:
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

    def streams(self, noted: _Noted) -> Iterator[tuple[str, str, Iterator[bytes]]]:
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
                name = ".".join('"' + each.replace('"', '""') + '"' for each in (schema, table))
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

    def plant(self, canary: _Canary) -> list[tuple[str, str, str]]:
        """Make a table with the canary; return what must be found."""
        import sqlalchemy as sa

        table = f"{_CANARY_PREFIX}{canary.token}"
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
                if _to_sweep(table, token):
                    connection.execute(sa.text(f'DROP TABLE "{table}"'))


Place = Folder | ObjectStore | Database


# -- the canary -----------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class _Canary:
    """A made-up value that is put everywhere a person's value could be."""

    #: When it was made (seconds as hexadecimal), and something random.
    token: str
    _held: list[int] = field(default_factory=list, repr=False)

    @property
    def value(self) -> str:
        return f"Canary.{self.token}@é/{self.token[-6:]}.invalid"

    @property
    def needle(self) -> Needle:
        return Needle(_CANARY_KIND, self.value)

    def hold(self, folder: Path) -> bool:
        """Keep other scans from removing a folder; return False if one was about to, and did."""
        try:
            handle = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
            self._held.append(handle)
            fcntl.flock(handle, fcntl.LOCK_EX)
            return folder.stat().st_ino == os.fstat(handle).st_ino
        except FileNotFoundError:
            return False

    def release(self) -> None:
        while self._held:
            os.close(self._held.pop())

    def lines(self, encodings: Sequence[str] = ENCODINGS) -> list[tuple[str, bytes]]:
        """Return the value in every encoding, as (encoding, bytes)."""
        value, raw = self.value, self.value.encode()
        lines = [
            ("text", raw),
            ("text", value.upper().encode()),
            ("text", quote(value, safe="").encode()),
            ("text", json.dumps(value).encode()),
            ("text", json.dumps(json.dumps({"x": value})).encode()),
            ("hex", raw.hex().encode()),
            *(("base64", base64.b64encode(b"~" * shift + raw + b"~")) for shift in range(3)),
            ("base64", base64.encodebytes(b"~" * 30 + raw + b"~")),
            ("base64", base64.urlsafe_b64encode(raw)),
            ("utf-16-le", value.encode("utf-16-le")),
            ("utf-16-be", value.encode("utf-16-be")),
        ]
        return [line for line in lines if line[0] in encodings]

    @cached_property
    def files(self) -> list[tuple[str, bytes, list[tuple[str, str]]]]:
        """Name, content and what must be found in it as (inside, encoding)."""
        return list(self._files())

    def _files(self) -> Iterator[tuple[str, bytes, list[tuple[str, str]]]]:
        import pyarrow as pa
        import pyarrow.parquet as pq

        for number, (encoding, line) in enumerate(self.lines()):
            yield f"{number:02d}.txt", b"\0\n" + line + b"\n\0", [("bytes", encoding)]
        everything = b"".join(line + b"\n\0" for _, line in self.lines())
        found = sorted({encoding for encoding, _ in self.lines()})
        yield "all.gz", gzip.compress(everything), [("gzip", encoding) for encoding in found]
        packed = io.BytesIO()
        with zipfile.ZipFile(packed, "w", zipfile.ZIP_DEFLATED) as zipped:
            zipped.writestr("all.bin", everything)
        yield "all.zip", packed.getvalue(), [("zip", encoding) for encoding in found]
        column = pa.array([self.value] * 3 + [f"row {number}" for number in range(50)])
        for name, options in (
            ("dictionary.parquet", {"compression": "zstd", "use_dictionary": True, "write_statistics": False}),
            ("plain.parquet", {"compression": "snappy", "use_dictionary": False, "write_statistics": False}),
            ("statistics.parquet", {"compression": "gzip", "use_dictionary": True, "write_statistics": True}),
        ):
            out = io.BytesIO()
            nested = pa.array([{"inner": [each]} for each in column.to_pylist()])
            pq.write_table(pa.table({"value": column, "nested": nested}), out, **options)
            inside = [("parquet", "text")]
            yield name, out.getvalue(), [*inside, ("bytes", "text")] if options["write_statistics"] else inside
        for compression in ("lz4", "zstd"):
            out = io.BytesIO()
            table = pa.table({"value": column})
            # As Feather and Polars write it.
            with pa.ipc.new_file(out, table.schema, options=pa.ipc.IpcWriteOptions(compression=compression)) as file:
                file.write_table(table)
            yield f"{compression}.feather", out.getvalue(), [("arrow", "text")]
        packed = io.BytesIO()
        with tarfile.open(fileobj=packed, mode="w") as archive:
            inner = gzip.compress(everything)
            member = tarfile.TarInfo("all.gz")
            member.size = len(inner)
            archive.addfile(member, io.BytesIO(inner))
        yield "nested.tar", packed.getvalue(), [("tar", encoding) for encoding in found]
        yield "cut.gz", gzip.compress(everything)[:-8], [("gzip", encoding) for encoding in found]
        with tempfile.TemporaryDirectory(prefix="hfthot-canary-") as folder:
            path = Path(folder, "canary.db")
            with closing(sqlite3.connect(path)) as base:
                base.execute("PRAGMA page_size = 512")
                base.execute("CREATE TABLE t (value TEXT)")
                # At some of these lengths the value lies across a page's border.
                rows = [("-" * length + self.value + "-" * 900,) for length in range(0, 1024, 16)]
                base.executemany("INSERT INTO t VALUES (?)", rows)
                base.commit()
            yield "canary.db", path.read_bytes(), [("sqlite", "text"), ("bytes", "text")]


def sweep_canaries(places: Iterable[Place]) -> None:
    """Remove what a scan that was killed left behind."""
    for place in places:
        place.sweep()


@contextmanager
def _left(folder: Path, *, ours: bool) -> Iterator[bool]:
    """Yield whether a canary's folder may be removed: not if a living scan or another user has it."""
    try:
        handle = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC | os.O_NOFOLLOW)
    except OSError:
        yield False
        return
    try:
        if not ours:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        yield False
    else:
        yield True
    finally:
        os.close(handle)


def _to_sweep(name: str, token: str | None) -> bool:
    """Whether a name is that of the canary, or (without a token) of one that no living scan can have made."""
    if token is not None:
        return f"{_CANARY_PREFIX}{token}" in name
    found = re.search(re.escape(_CANARY_PREFIX) + r"([0-9a-f]{8})", name)
    return found is not None and time.time() - int(found.group(1), 16) > _LONGEST_SCAN


# -- the scan -------------------------------------------------------------------------------------------------


def scan(
    needles: Iterable[Needle],
    places: Sequence[Place],
    *,
    workers: int = 2,
    progress: Progress | None = None,
    tested: bool = True,
) -> ScanReport:
    """Look for values in places.

    Args:
        needles: the values.
        places: where to look.  A folder inside another one's is read once, as part of the first that is listed.
        workers: files read at the same time.
        progress: called with bytes done, bytes in all (None while unknown) and "bytes".
        tested: whether the scan proves itself with canaries; one that does not proves nothing by finding nothing.

    A place that canaries cannot be put into (it is read-only, or full) says so in its report.

    Memory is bounded by about 64 MB per worker, whatever the sizes of the files.

    Raises:
        ErasureUnverifiedError: a canary was not found where it had been put: the result would prove nothing.
    """
    started = time.perf_counter()
    needles = tuple(dict.fromkeys(needles))
    canary = _Canary(f"{int(time.time()):08x}{secrets.token_hex(8)}")
    searcher = Searcher((*needles, canary.needle))
    expected: set[tuple[str, str, str, str]] = set()
    untested: dict[str, str] = {}
    try:
        for place in places if tested else ():
            try:
                place.sweep()
                expected |= {(place.name, *each) for each in place.plant(canary)}
            except OSError as error:
                untested[place.name] = error.strerror or type(error).__name__
        if tested and untested and not expected:
            raise ErasureUnverifiedError(
                "the values that test the search could be written nowhere",
                where="scan",
                hint="Make the platform's folders writable for it, and some room on their disks.",
            )
        with Outside() as outside:
            run = _Run(searcher, progress, outside, untested)
            run.all(places, workers)
    finally:
        for place in places if tested else ():
            # What cannot be removed is left for the next scan, which removes it first.
            with suppress(OSError):
                place.sweep(canary.token)
        canary.release()
    if missed := sorted(expected - run.canaries):
        where, file, inside, encoding = missed[0]
        raise ErasureUnverifiedError(
            f"the scan missed {len(missed)} of {len(expected)} values that were planted to test it, the first one in "
            f"{where}: {file} ({inside}, {encoding})",
            where="scan",
            hint="Its result does not count. Report this with the version of the platform.",
        )
    return ScanReport(
        places=tuple(run.reports),
        findings=tuple(sorted(run.findings, key=lambda each: (each.place, each.file, each.offset))),
        needles=dict(sorted(Counter(each.kind for each in searcher.searched if each != canary.needle).items())),
        left_out=tuple(dict.fromkeys(each for each in searcher.left_out if each[0] != _CANARY_KIND)),
        canaries=len(expected),
        seconds=time.perf_counter() - started,
        truncated=run.truncated,
        counts=run.counts,
    )


class _Run:
    """The state of one scan."""

    def __init__(
        self, searcher: Searcher, progress: Progress | None, outside: Outside, untested: Mapping[str, str]
    ) -> None:
        self.searcher = searcher
        self.untested = untested
        self.counts: dict[tuple[str, str, Needle, str, str], int] = {}
        self.progress = progress
        self.outside = outside
        self.reports: list[PlaceReport] = []
        self.findings: set[Finding] = set()
        self.canaries: set[tuple[str, str, str, str]] = set()
        self.truncated = False
        self.done = 0
        self.total = 0
        self._lock = threading.Lock()

    def all(self, places: Sequence[Place], workers: int) -> None:
        seen: set[tuple[int, int]] = set()
        with ThreadPoolExecutor(workers, thread_name_prefix="scan") as pool:
            for place in places:
                if isinstance(place, Database):
                    self.reports.append(self._database(place))
                    continue
                reader = _Reader(self, place.name, shared=isinstance(place, Folder) and place.shared)
                todo: list[_Entry] = []
                for name, entry in place.walk(reader.noted):
                    if entry is None or entry.path is None:
                        reader.name(name)
                    if entry is None or entry.identity in seen:
                        continue
                    if entry.identity is not None:
                        seen.add(entry.identity)
                    todo.append(entry)
                own = [each for each in todo if _CANARY_PREFIX in each.name]
                reader.canaries = frozenset(each.name for each in own)
                reader.modified = {each.name: each.modified for each in todo if each.modified is not None}
                self.total += sum(each.size for each in todo)
                # The largest first, so that no worker ends with a long file alone.
                todo.sort(key=lambda each: -each.size)
                parts = (part for entry in todo for part in reader.parts(entry))
                for _ in pool.map(lambda part: part(), parts):
                    pass
                self.reports.append(reader.report(len(todo) - len(own)))

    def _database(self, place: Database) -> PlaceReport:
        reader = _Reader(self, place.name)
        tables = 0
        for table, how, blocks in place.streams(reader.noted):
            if _CANARY_PREFIX in table:
                reader.canaries |= {table}
            elif how == "sql":
                tables += 1
            reader.stream(table, how, _Joined(blocks), decoded=False)
        return reader.report(tables)

    def count(self, number: int) -> None:
        with self._lock:
            self.done += number
            if self.progress is not None:
                self.progress(self.done, self.total or None, "bytes")

    def found(
        self,
        place: str,
        file: str,
        inside: str,
        hit: Hit,
        offset: int,
        context: str = "",
        modified: float | None = None,
    ) -> None:
        with self._lock:
            if hit.kind == _CANARY_KIND:
                self.canaries.add((place, file, re.split("[:/]", inside)[0], hit.encoding))
                return
            form = place, file, hit.needle, hit.encoding, inside
            alike = self.counts.get(form, 0)
            if alike or len(self.counts) < _MOST_FINDINGS:
                self.counts[form] = alike + 1
            if alike < _MOST_ALIKE and len(self.findings) < _MOST_FINDINGS:
                shown = self.shown(file)
                self.findings.add(
                    Finding(place, shown, offset, hit.kind, hit.encoding, inside, hit.needle, file, context, modified)
                )
            elif not alike:
                self.truncated = True

    def shown(self, file: str) -> str:
        """Return a file's name for reports: parts of it that hold a value are withheld."""
        parts = file.split("/")
        found = self.searcher.search
        return "/".join("(withheld)" if any(found(os.fsencode(part))) else _printed(part) for part in parts)


def _printed(name: str) -> str:
    """Return a name as text that can be printed and encoded."""
    return os.fsencode(name).decode(errors="backslashreplace")


class _TooLargeError(ValueError):
    """What is packed in a file unpacks to more than is looked at."""


class _Reader:
    """Reads the files of one place."""

    def __init__(self, run: _Run, place: str, *, shared: bool = False) -> None:
        self.run = run
        self.place = place
        self.shared = shared
        self.bytes = 0
        self.decoded = 0
        self.undecoded: dict[str, str] = {}
        self.noted = _Noted()
        #: Files of ours, which do not count.
        self.canaries: frozenset[str] = frozenset()
        self.modified: dict[str, float] = {}
        self._expanded: Counter[str] = Counter()
        self._lock = threading.Lock()

    def report(self, files: int) -> PlaceReport:
        shown = self.run.shown
        undecoded = {shown(name): why for name, why in self.undecoded.items() if name not in self.canaries}
        return PlaceReport(
            name=self.place,
            files=files,
            bytes=self.bytes,
            bytes_decoded=self.decoded,
            opaque=tuple(sorted(undecoded)),
            unreadable=tuple(sorted(map(shown, self.noted.unreadable))),
            undecoded=tuple(f"{name} ({why})" for name, why in sorted(undecoded.items())),
            skipped=tuple(sorted(map(shown, self.noted.skipped))),
            tested=self.place not in self.run.untested,
        )

    def name(self, name: str) -> None:
        raw = os.fsencode(name)
        for hit in self.run.searcher.search(raw):
            self.found(name, "name", hit, hit.offset, raw)

    def found(self, file: str, inside: str, hit: Hit, offset: int, data: bytes | bytearray | memoryview) -> None:
        """Report a hit in `data`, at `offset` of whatever `data` is a part of."""
        around = bytes(data[max(0, hit.offset - _CONTEXT) : hit.end + _CONTEXT])
        context = around.decode(errors="replace")
        self.run.found(self.place, file, inside, hit, offset, context, self.modified.get(file))

    def parts(self, entry: _Entry) -> Iterator[Callable[[], None]]:
        """Yield the work of reading a file in every way: its bytes, in sections if it is large, and its content."""
        if entry.path is None or entry.size <= _SECTION:
            yield lambda: self._guarded(entry, self._file)
            return
        yield lambda: self._guarded(entry, self._content)
        for begin, end in _extents(entry.path, entry.size):
            yield partial(self._guarded, entry, partial(self._section, begin=begin, end=end))

    def _file(self, entry: _Entry) -> None:
        self._section(entry, 0, None)
        self._content(entry)

    def _section(self, entry: _Entry, begin: int, end: int | None) -> None:
        """Search the bytes of a file for values that begin from `begin` on and before `end`."""
        with entry.open(self.run.outside) as handle:
            touching = entry.name.endswith(("-wal", "-journal")) or handle.read(len(SQLITE)) == SQLITE
            handle.seek(max(0, begin - OVERLAP))
            self.stream(entry.name, "bytes", handle, decoded=False, begin=begin, end=end, touching=touching)

    def _content(self, entry: _Entry) -> None:
        """Search what a file holds in packed or paged form."""
        with entry.open(self.run.outside) as handle:
            head = handle.read(HEAD)
            handle.seek(0)
            if head.startswith(SQLITE) and entry.path is not None:
                self.sqlite(entry.name, lambda: _rows(cast("Path", entry.path)))
            else:
                self.contained(entry.name, head, handle, "", 0)

    def _guarded(self, entry: _Entry, work: Callable[[_Entry], None]) -> None:
        """Do some of the work on a file; one that has gone meanwhile holds nothing."""
        try:
            work(entry)
        except FileNotFoundError:
            return
        except OSError as error:
            said = f"{entry.name} ({error.strerror or type(error).__name__})"
            with self._lock:
                noted = self.noted.skipped if self.shared else self.noted.unreadable
                if said not in noted:
                    noted.append(said)

    def tally(self, file: str, number: int, *, decoded: bool) -> None:
        with self._lock:
            if file not in self.canaries:
                if decoded:
                    self.decoded += number
                else:
                    self.bytes += number
            if decoded:
                self._expanded[file] += number
                if self._expanded[file] > _LARGEST_EXPANDED:
                    raise _TooLargeError
        if not decoded:
            self.run.count(number)

    def stream(
        self,
        file: str,
        inside: str,
        handle: IO[bytes] | _Joined | Salvaged,
        *,
        decoded: bool = True,
        begin: int = 0,
        end: int | None = None,
        touching: bool = False,
    ) -> None:
        """Search a stream of bytes in blocks that overlap, for values that begin from `begin` on and before `end`.

        The stream stands up to `OVERLAP` bytes before `begin`: what comes before a value tells whether it is a word.
        """
        searcher = self.run.searcher
        buffer = bytearray(_BLOCK + 2 * OVERLAP)
        kept = 0  # bytes at the front that are from the block before
        base = max(0, begin - OVERLAP)  # offset in the stream of the buffer's first byte
        looked = begin  # offset in the stream before which every beginning was looked at
        counted = begin
        while True:
            filled = kept + _read_into(handle, memoryview(buffer)[kept:])
            there = base + filled if end is None else min(base + filled, end)
            last = filled < len(buffer)
            stop = filled if last else filled - OVERLAP
            if end is not None and base + stop >= end:
                last, stop = True, end - base
            context = max(0, looked - base - 16)
            view = memoryview(buffer)[context:filled]
            for hit in searcher.search(view, stop - context, touching=touching):
                offset = base + context + hit.offset
                if offset >= looked:
                    self.found(file, inside, hit, offset, view)
            self.tally(file, max(0, there - counted), decoded=decoded)
            counted = max(counted, there)
            if last:
                return
            looked = base + stop
            keep = 2 * OVERLAP
            buffer[:keep] = buffer[filled - keep : filled]
            base += filled - keep
            kept = keep

    def undecodable(self, file: str, why: str) -> None:
        """Note that a file, or a part of it, was not decoded."""
        with self._lock:
            self.undecoded.setdefault(file, why)

    def contained(self, file: str, head: bytes, handle: BinaryIO, prefix: str, depth: int) -> None:
        """Decode what a file contains, by what it begins with."""
        known = container(head)
        if known is None and depth == 0:
            # An archive may have a program before it, and what is packed need not say so.
            if zipfile.is_zipfile(handle):
                known = "format", "zip"
            elif looks_packed(handle):
                self.undecodable(file, "unknown, looks packed or encrypted")
            handle.seek(0)
        if known is None:
            return
        kind, name = known
        inside = prefix + name
        try:
            if kind == "unknown":
                self.undecodable(file, name)
            elif kind == "stream":
                self.packed(file, inside, name, handle, depth)
            elif name == "parquet":
                self.parquet(file, handle, inside)
            elif name == "arrow":
                self.arrow(file, handle, inside)
            elif name == "arrow stream":
                self.arrow_stream(file, handle, prefix + "arrow")
            elif name == "orc":
                self.orc(file, handle, inside)
            elif name == "zip":
                self.zip(file, handle, inside, depth)
            elif name == "tar":
                self.tar(file, handle, inside, depth)
            elif name == "sqlite":
                self.sqlite(file, lambda: _rows(handle.read()))
        except _TooLargeError:
            self.undecodable(file, "unpacks to more than 64 GiB")
        except Exception as error:  # whatever a damaged or hostile file makes a decoder raise
            if isinstance(error, OSError) and error.errno and depth == 0:
                raise
            # Cut off, encrypted, or something else that only begins alike: its bytes were searched.
            self.undecodable(file, f"{name}, {type(error).__name__}")

    def packed(self, file: str, inside: str, name: str, handle: BinaryIO, depth: int) -> None:
        found = salvaged(name, handle)
        self.stream(file, inside, found)
        if found.error is not None and not (name == "zlib" and not self._begins(name, handle)):
            self.undecodable(file, f"{name}, damaged")
        self.nested(file, inside, lambda: salvaged(name, handle), depth)

    @staticmethod
    def _begins(name: str, handle: BinaryIO) -> bool:
        """Whether anything at all decodes."""
        return bool(salvaged(name, handle).read(1))

    def zip(self, file: str, handle: BinaryIO, inside: str, depth: int) -> None:
        try:
            archive = zipfile.ZipFile(handle)
        except (zipfile.BadZipFile, ValueError, NotImplementedError):
            self.undecodable(file, "zip, damaged")
            for number, begin in enumerate(local_members(handle)):
                self._salvage(file, handle, begin, f"{inside}:{number}", depth)
            return
        with archive:
            for number, member in enumerate(archive.infolist()):
                label = f"{inside}:{number}"
                name = member.filename.encode("utf-8", "surrogateescape")
                for hit in self.run.searcher.search(name):
                    self.found(file, label, hit, 0, name)
                if member.is_dir():
                    continue
                try:
                    with archive.open(member) as unpacked:
                        self.stream(file, label, unpacked)
                    self.nested(file, label, lambda member=member: archive.open(member), depth)  # type: ignore[misc]
                except _TooLargeError:
                    raise
                except Exception as error:  # noqa: BLE001 - the other members are searched all the same
                    encrypted = bool(member.flag_bits & 1)
                    self.undecodable(file, f"zip, {'encrypted' if encrypted else type(error).__name__}")
                    if not encrypted:
                        self._salvage(file, handle, member.header_offset, label, depth)

    def _salvage(self, file: str, handle: BinaryIO, begin: int, label: str, depth: int) -> None:
        """Search a zip archive's damaged member as far as it unpacks."""
        found = salvaged_member(handle, begin)
        if found is None:
            return
        name, content = found
        for hit in self.run.searcher.search(name):
            self.found(file, label, hit, 0, name)
        self.stream(file, label, content)
        self.nested(file, label, lambda: cast("Any", salvaged_member(handle, begin))[1], depth)

    def tar(self, file: str, handle: BinaryIO, inside: str, depth: int) -> None:
        """Search members that are packed in turn; the bytes of the others were searched with the archive's."""
        with tarfile.open(fileobj=handle, mode="r:") as archive:
            for number, member in enumerate(archive):
                if member.isfile():
                    opened = partial(archive.extractfile, member)
                    self.nested(file, f"{inside}:{number}", cast("Any", opened), depth)

    def nested(self, file: str, inside: str, open_: Callable[[], Any], depth: int) -> None:
        """Decode what is inside what was unpacked, if that is a container in turn."""
        unpacked = open_()
        head = bytes(unpacked.read(HEAD))
        if container(head) is None:
            return
        content = bytearray(head)
        # In pieces: a reader makes room for as much as it is asked for.
        while len(content) <= _LARGEST_NESTED and (piece := unpacked.read(1 << 20)):
            content += piece
        if depth >= _DEEPEST or len(content) > _LARGEST_NESTED:
            self.undecodable(file, "packed too deep" if depth >= _DEEPEST else "a large archive inside an archive")
            return
        self.contained(file, head, io.BytesIO(content), f"{inside}/", depth + 1)

    def arrow(self, file: str, handle: BinaryIO, inside: str) -> None:
        """Search the text and binary columns of an Arrow or Feather file; one without its end is read as a stream."""
        import pyarrow as pa

        try:
            opened = pa.ipc.open_file(pa.PythonFile(handle, "r"))
        except pa.ArrowException:
            self.undecodable(file, "arrow, damaged")
            handle.seek(8)
            self.arrow_stream(file, handle, inside)
            return
        offset = 0
        for at in range(opened.num_record_batches):
            try:
                offset += self.columns(file, inside, opened.get_batch(at).columns, offset)
            except pa.ArrowException as error:
                self.undecodable(file, f"arrow, {type(error).__name__}")

    def arrow_stream(self, file: str, handle: BinaryIO, inside: str) -> None:
        import pyarrow as pa

        offset = 0
        try:
            with pa.ipc.open_stream(pa.PythonFile(handle, "r")) as opened:
                for batch in opened:
                    offset += self.columns(file, inside, batch.columns, offset)
        except (pa.ArrowException, EOFError, OSError) as error:
            self.undecodable(file, f"arrow, {type(error).__name__}")

    def orc(self, file: str, handle: BinaryIO, inside: str) -> None:
        import pyarrow as pa
        from pyarrow import orc

        opened = orc.ORCFile(pa.PythonFile(handle, "r"))
        offset = 0
        for at in range(opened.nstripes):
            offset += self.columns(file, inside, opened.read_stripe(at).columns, offset)

    def columns(self, file: str, inside: str, columns: Iterable[pa.Array], offset: int) -> int:
        """Search the text and binary values of columns; return their bytes."""
        done = 0
        for column in columns:
            for leaf in _leaves(column):
                done += self.values(file, inside, leaf, offset + done)
        return done

    def parquet(self, file: str, handle: BinaryIO, inside: str) -> None:
        """Search the text and binary columns' decoded values; numbers hold no text beyond their own bytes."""
        import pyarrow as pa
        import pyarrow.parquet as pq

        try:
            opened = pq.ParquetFile(handle, pre_buffer=False, buffer_size=1 << 20)
            leaves = [opened.schema.column(at) for at in range(len(opened.schema))]
            wanted = [each.path for each in leaves if each.physical_type in {"BYTE_ARRAY", "FIXED_LEN_BYTE_ARRAY"}]
            if not wanted:
                return
            # Dictionaries are kept as they are stored, where that is what the file has, so that a value which no
            # row uses any more is seen too.
            coded = _coded_columns(opened.metadata, set(wanted))
            if coded:
                handle.seek(0)
                opened = pq.ParquetFile(handle, pre_buffer=False, buffer_size=1 << 20, read_dictionary=coded)
            offset = 0
            for batch in opened.iter_batches(batch_size=65_536, columns=wanted, use_threads=False):
                offset += self.columns(file, inside, batch.columns, offset)
        except pa.ArrowException as error:
            raise ValueError(str(type(error))) from None

    def values(self, file: str, inside: str, leaf: pa.Array, base: int) -> int:
        """Search an array of text or binary values; each value's ends are ends of words."""
        import numpy as np

        bounds, data = _text_buffers(leaf)
        if data is None or bounds[-1] == bounds[0]:
            return 0
        view = memoryview(data)[int(bounds[0]) : int(bounds[-1])]
        self.tally(file, len(view), decoded=True)
        searcher = self.run.searcher
        for position in sorted({hit.offset for hit in searcher.search(view, words=False)}):
            at = int(np.searchsorted(bounds, position + int(bounds[0]), side="right")) - 1
            begin, end = int(bounds[at] - bounds[0]), int(bounds[at + 1] - bounds[0])
            for hit in searcher.search(view[begin:end]):
                if hit.offset == position - begin:
                    self.found(file, inside, hit, base + position, view[begin:end])
        return len(view)

    def sqlite(self, file: str, rows: Callable[[], Iterator[bytes]]) -> None:
        """Search the rows through SQL: a page shows neither where a value ends nor what is spread over several."""
        try:
            for row in rows():
                self.tally(file, len(row), decoded=True)
                for hit in self.run.searcher.search(row):
                    self.found(file, "sqlite", hit, hit.offset, row)
        except sqlite3.Error as error:
            self.undecodable(file, f"sqlite, {type(error).__name__}")


# -- reading --------------------------------------------------------------------------------------------------


class _Joined:
    """Blocks of any size as a stream."""

    def __init__(self, blocks: Iterator[bytes]) -> None:
        self._blocks = blocks
        self._rest = b""

    def readinto(self, target: memoryview) -> int:
        while not self._rest:
            block = next(self._blocks, None)
            if block is None:
                return 0
            self._rest = block
        size = min(len(target), len(self._rest))
        target[:size] = self._rest[:size]
        self._rest = self._rest[size:]
        return size


def _read_into(handle: IO[bytes] | _Joined | Salvaged, target: memoryview) -> int:
    """Fill the target as far as the stream goes; return the number of bytes."""
    done = 0
    while done < len(target):
        read = cast("Any", handle).readinto(target[done:])
        if not read:
            break
        done += read
    return done


def _extents(path: Path, size: int) -> Iterator[tuple[int, int | None]]:
    """Yield the sections of a large file, as (begin, end); holes, where nothing was ever written, are left out."""
    ends = 0
    with suppress(OSError):
        handle = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
        try:
            while ends < size:
                try:
                    begin = os.lseek(handle, ends, os.SEEK_DATA)
                except OSError as error:
                    if error.errno == errno.ENXIO:
                        # A hole up to the end; what is appended meanwhile lies after it.
                        yield size, None
                        return
                    raise
                hole = os.lseek(handle, begin, os.SEEK_HOLE)
                for each in range(begin, hole, _SECTION):
                    end = min(each + _SECTION, hole)
                    # The last section goes to the end, wherever that is by then.
                    yield each, None if end >= size else end
                ends = hole
        finally:
            os.close(handle)
        return
    yield ends, None


def _coded_columns(metadata: Any, wanted: set[str]) -> list[str]:
    """Return the flat columns that are dictionary-coded throughout."""
    coded = dict.fromkeys(sorted(each for each in wanted if "." not in each), True)
    for group in range(metadata.num_row_groups):
        row_group = metadata.row_group(group)
        for at in range(row_group.num_columns):
            column = row_group.column(at)
            if column.path_in_schema in coded:
                # A chunk whose dictionary grew too large goes on with plain pages, and is large itself.
                small = column.total_uncompressed_size < 8 * max(column.num_values, 1) + 65_536
                coded[column.path_in_schema] &= column.has_dictionary_page and small
    return [name for name, whole in coded.items() if whole]


def _leaves(column: pa.Array) -> Iterator[pa.Array]:
    """Yield the text and binary arrays that a column is made of."""
    import pyarrow as pa

    kind = column.type
    if pa.types.is_dictionary(kind):
        yield from _leaves(column.dictionary)
    elif pa.types.is_struct(kind):
        for at in range(kind.num_fields):
            yield from _leaves(column.field(at))
    elif pa.types.is_map(kind):
        yield from _leaves(column.keys)
        yield from _leaves(column.items)
    elif pa.types.is_list(kind) or pa.types.is_large_list(kind) or pa.types.is_fixed_size_list(kind):
        yield from _leaves(column.values)
    elif isinstance(column, pa.ExtensionArray):
        yield from _leaves(column.storage)
    elif pa.types.is_fixed_size_binary(kind):
        yield column.cast(pa.binary())
    elif (
        pa.types.is_string(kind)
        or pa.types.is_binary(kind)
        or pa.types.is_large_string(kind)
        or pa.types.is_large_binary(kind)
    ):
        yield column
    elif pa.types.is_string_view(kind) or pa.types.is_binary_view(kind):
        yield column.cast(pa.large_binary())


def _text_buffers(leaf: pa.Array) -> tuple[Any, pa.Buffer | None]:
    """Return the bounds of the values, and the bytes that they are bounds in."""
    import numpy as np
    import pyarrow as pa

    large = pa.types.is_large_string(leaf.type) or pa.types.is_large_binary(leaf.type)
    _, bounds, data = leaf.buffers()
    if not len(leaf) or bounds is None:
        return np.zeros(1, dtype=np.int64), None
    known = np.frombuffer(bounds, dtype=np.int64 if large else np.int32)
    return known[leaf.offset : leaf.offset + len(leaf) + 1], data


def _opened_database(source: Path | bytes) -> sqlite3.Connection:
    """Open a SQLite database to read, from a path or from its bytes."""
    if isinstance(source, bytes):
        base = sqlite3.connect(":memory:")
        # In memory there is no write-ahead log; bytes 18 and 19 say that the file wants one.
        base.deserialize(source[:18] + b"\x01\x01" + source[20:])
        return base
    path = source
    quoted = quote(str(path.absolute()))
    # Within this process: connections of one library know of each other's locks.
    base = sqlite3.connect(f"file:{quoted}?mode=ro", uri=True, timeout=10)
    try:
        base.execute("SELECT 1 FROM sqlite_master").fetchone()
    except sqlite3.OperationalError as error:
        base.close()
        # A copy of a database in WAL mode, in a folder where no lock file can be made.  One that is merely locked is
        # somebody's: this reads without locks.
        if error.sqlite_errorcode & 0xFF not in {sqlite3.SQLITE_CANTOPEN, sqlite3.SQLITE_READONLY}:
            raise
        base = sqlite3.connect(f"file:{quoted}?immutable=1", uri=True)
    return base


def _rows(source: Path | bytes) -> Iterator[bytes]:
    """Yield the texts and binary values of a SQLite database's rows, many at a time with zeros between them."""
    with closing(_opened_database(source)) as base:
        base.text_factory = bytes
        named = base.execute("SELECT name FROM sqlite_master WHERE type = 'table' AND sql NOT LIKE 'CREATE VIRTUAL%'")
        for (name,) in named.fetchall():
            table = '"' + name.decode().replace('"', '""') + '"'
            rows = base.execute(f"SELECT * FROM {table}")  # noqa: S608 - a name from the schema
            while some := rows.fetchmany(_ROWS):
                yield b"\0".join(each for row in some for each in row if isinstance(each, bytes))
