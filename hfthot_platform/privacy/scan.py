"""The proof scan: looks for values in everything that the platform keeps, in every encoding, and proves itself.

Files are read as bytes from end to end.  What bytes alone do not show is decoded as well: the pages of Parquet
files (dictionaries and data, whatever the compression), members of archives, and SQLite rows that are spread over
several pages.  A PostgreSQL database is read through SQL.  Before a scan a made-up value, the canary, is put into
every place in every encoding and container; unless the scan finds every one of them, its result does not count.

Here belongs looking for values and saying where they are, never which.  What a finding means is not decided here.
"""

from __future__ import annotations

import base64
import bz2
import fcntl
import gzip
import io
import json
import lzma
import os
import re
import secrets
import sqlite3
import stat
import tempfile
import threading
import time
import zipfile
import zlib
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing, contextmanager
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any, BinaryIO, Final, cast
from urllib.parse import quote

from hfthot_platform.errors import ErasureUnverifiedError
from hfthot_platform.privacy._outside import SQLITE, Outside
from hfthot_platform.privacy._search import ENCODINGS, OVERLAP, Hit, Needle, Searcher

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
#: What one archive member, or one compressed file, is unpacked to at most; a bomb must not stop an erasure.
_LARGEST_EXPANDED = 64 * 1024**3
#: An archive inside an archive is opened when it fits into memory.
_LARGEST_NESTED = 64 * 1024 * 1024
_DEEPEST = 3
_CANARY_PREFIX: Final = ".hfthot-canary-"
#: Seconds after which a canary that no lock protects is taken for a leftover.
_LONGEST_SCAN: Final = 7 * 24 * 3600
_CANARY_KIND: Final = "canary"
_MOST_FINDINGS = 1000
#: Rows of SQLite from this share of a page on may be spread over pages; smaller ones never are.
_SPREAD_SHARE = 5

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
    #: Files that claim to be Parquet, an archive or SQLite and could not be decoded; their bytes were searched.
    opaque: tuple[str, ...]
    #: Files that could not be read at all.
    unreadable: tuple[str, ...]


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
    #: There were more findings than are listed.
    truncated: bool = False

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


@dataclass(frozen=True)
class Folder:
    """A folder with everything below it.  Symbolic links are looked at, never followed.

    Args:
        name: what reports call it.
        root: where it is; one that does not exist is empty.
        only: patterns of the names directly in it that belong to it, for a folder that others use too.
        leave: folders and files below it that are not looked at.
    """

    name: str
    root: Path
    only: tuple[str, ...] = ()
    leave: tuple[Path, ...] = ()

    def names(self) -> Iterator[str]:
        """Yield the relative path of every folder, file and link, and where links point to."""
        for path in self._walk():
            yield os.fsdecode(path.relative_to(self.root))
            if path.is_symlink():
                yield os.fsdecode(path.readlink())

    def entries(self) -> Iterator[_Entry]:
        """Yield every regular file."""
        for path in self._walk():
            try:
                found = path.lstat()
            except FileNotFoundError:
                continue
            if stat.S_ISREG(found.st_mode):
                # `Outside`, because the store and Dagster have databases open in this process.
                name = str(path.relative_to(self.root))
                yield _Entry(name, found.st_size, lambda outside, path=path: outside.open(path), path)  # type: ignore[misc]

    def _walk(self) -> Iterator[Path]:
        """Yield everything below; an unreadable folder raises."""
        left = {each.absolute() for each in self.leave}

        def fail(error: OSError) -> None:
            if not isinstance(error, FileNotFoundError):
                raise error

        for top, folders, files in os.walk(self.root, onerror=fail):
            here = Path(top)
            if here == self.root and self.only:
                folders[:] = [each for each in folders if any(Path(each).match(only) for only in self.only)]
                files = [each for each in files if any(Path(each).match(only) for only in self.only)]  # noqa: PLW2901
            folders[:] = sorted(each for each in folders if (here / each).absolute() not in left)
            for each in (*folders, *sorted(files)):
                if (here / each).absolute() not in left:
                    yield here / each

    def plant(self, canary: _Canary) -> list[tuple[str, str, str]]:
        """Put the canary's files here; return what must be found: (file, inside, encoding)."""
        if not self.root.is_dir():
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

    def names(self) -> Iterator[str]:
        """Yield the key of every object."""
        for info in self._infos():
            yield info.path

    def entries(self) -> Iterator[_Entry]:
        """Yield every object."""
        for info in self._infos():
            path = info.path

            def opened(_: Outside, path: str = path) -> BinaryIO:
                return cast("BinaryIO", io.BufferedReader(self.filesystem.open_input_file(path), _BLOCK))

            yield _Entry(path, info.size or 0, opened)

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
    """A PostgreSQL database through SQL: the rows of every table, and the planner's samples of them.

    What the server keeps besides (write-ahead log, dead rows before a vacuum) is not visible through SQL.
    """

    name: str
    engine: sa.Engine = field(repr=False)

    _TABLES = "SELECT tablename FROM pg_tables WHERE schemaname = current_schema() ORDER BY tablename"

    def streams(self) -> Iterator[tuple[str, Iterator[bytes]]]:
        """Yield per table its name and its rows as text, in blocks."""
        with self.engine.connect() as connection:
            raw = connection.connection.driver_connection
            assert raw is not None
            cursor = raw.cursor()
            tables = [row[0] for row in cursor.execute(self._TABLES).fetchall()]
            for table in tables:
                name = table.replace('"', '""')
                yield table, self._copied(cursor, f'COPY "{name}" TO STDOUT')
            samples = (
                "COPY (SELECT tablename, attname, most_common_vals::text, histogram_bounds::text FROM pg_stats "
                "WHERE schemaname = current_schema()) TO STDOUT"
            )
            yield "pg_stats", self._copied(cursor, samples)

    @staticmethod
    def _copied(cursor: Any, statement: str) -> Iterator[bytes]:
        with cursor.copy(statement) as copy:
            for block in copy:
                yield bytes(block)

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
        return [(table, "sql", encoding) for encoding in sorted({encoding for encoding, _ in lines})]

    def sweep(self, token: str | None = None) -> None:
        """Drop the canary of this token, or whatever canaries killed scans left."""
        import sqlalchemy as sa

        with self.engine.begin() as connection:
            tables = connection.execute(sa.text(self._TABLES)).scalars().all()
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
        with zipfile.ZipFile(packed, "w", zipfile.ZIP_DEFLATED) as archive:
            archive.writestr("all.bin", everything)
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
) -> ScanReport:
    """Look for values in places.

    Args:
        needles: the values.
        places: where to look.  A folder inside another one's is read once, as part of the first that is listed.
        workers: files read at the same time.
        progress: called with bytes done, bytes in all (None while unknown) and "bytes".

    Memory is bounded by about 64 MB per worker, whatever the sizes of the files.

    Raises:
        ErasureUnverifiedError: a canary was not found where it had been put: the result would prove nothing.
    """
    started = time.perf_counter()
    needles = tuple(dict.fromkeys(needles))
    sweep_canaries(places)
    canary = _Canary(f"{int(time.time()):08x}{secrets.token_hex(8)}")
    searcher = Searcher((*needles, canary.needle))
    try:
        expected = {(place.name, *each) for place in places for each in place.plant(canary)}
        with Outside() as outside:
            run = _Run(searcher, progress, outside)
            run.all(places, workers)
    finally:
        for place in places:
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
        needles=dict(sorted(Counter(each.kind for each in needles).items())),
        left_out=tuple(dict.fromkeys(each for each in searcher.left_out if each[0] != _CANARY_KIND)),
        canaries=len(expected),
        seconds=time.perf_counter() - started,
        truncated=run.truncated,
    )


class _Run:
    """The state of one scan."""

    def __init__(self, searcher: Searcher, progress: Progress | None, outside: Outside) -> None:
        self.searcher = searcher
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
        seen: set[Path] = set()
        with ThreadPoolExecutor(workers, thread_name_prefix="scan") as pool:
            for place in places:
                if isinstance(place, Database):
                    self.reports.append(self._database(place))
                    continue
                reader = _Reader(self, place.name)
                try:
                    for name in place.names():
                        reader.name(name)
                    todo = [each for each in place.entries() if each.path is None or each.path.resolve() not in seen]
                except OSError as error:
                    reader.unreadable.append(f"{os.path.basename(error.filename or '')} ({error.strerror})")  # noqa: PTH119
                    todo = []
                seen |= {each.path.resolve() for each in todo if each.path is not None}
                own = [each for each in todo if _CANARY_PREFIX in each.name]
                reader.canaries = frozenset(each.name for each in own)
                self.total += sum(each.size for each in todo)
                # The largest first, so that no worker ends with a long file alone.
                todo.sort(key=lambda each: -each.size)
                parts = [part for entry in todo for part in reader.parts(entry)]
                for _ in pool.map(lambda part: part(), parts):
                    pass
                self.reports.append(reader.report(len(todo) - len(own)))

    def _database(self, place: Database) -> PlaceReport:
        reader = _Reader(self, place.name)
        tables = 0
        for table, blocks in place.streams():
            if _CANARY_PREFIX in table:
                reader.canaries |= {table}
            else:
                tables += 1
            reader.stream(table, "sql", _Joined(blocks), decoded=False)
        return reader.report(tables)

    def count(self, number: int) -> None:
        with self._lock:
            self.done += number
            if self.progress is not None:
                self.progress(self.done, self.total or None, "bytes")

    def found(self, place: str, file: str, inside: str, hit: Hit, offset: int) -> None:
        with self._lock:
            if hit.kind == _CANARY_KIND:
                self.canaries.add((place, file, inside.split(":", maxsplit=1)[0], hit.encoding))
            elif len(self.findings) < _MOST_FINDINGS:
                self.findings.add(Finding(place, self.shown(file), offset, hit.kind, hit.encoding, inside))
            else:
                self.truncated = True

    def shown(self, file: str) -> str:
        """Return a file's name for reports: parts of it that hold a value are withheld."""
        parts = file.split("/")
        return "/".join("(withheld)" if any(self.searcher.search(part.encode())) else part for part in parts)


class _Reader:
    """Reads the files of one place."""

    def __init__(self, run: _Run, place: str) -> None:
        self.run = run
        self.place = place
        self.bytes = 0
        self.decoded = 0
        self.opaque: list[str] = []
        self.unreadable: list[str] = []
        #: Files of ours, which do not count.
        self.canaries: frozenset[str] = frozenset()
        self._lock = threading.Lock()

    def report(self, files: int) -> PlaceReport:
        shown = self.run.shown
        return PlaceReport(
            name=self.place,
            files=files,
            bytes=self.bytes,
            bytes_decoded=self.decoded,
            opaque=tuple(sorted(map(shown, self.opaque))),
            unreadable=tuple(sorted(map(shown, self.unreadable))),
        )

    def name(self, name: str) -> None:
        for hit in self.run.searcher.search(os.fsencode(name)):
            self.run.found(self.place, name, "name", hit, hit.offset)

    def parts(self, entry: _Entry) -> list[Callable[[], None]]:
        """Return the work of reading a file in every way: its bytes, in sections if it is large, and its content."""
        if entry.path is None or entry.size <= _SECTION:
            return [lambda: self._guarded(entry, self._file)]

        def bytes_from(begin: int, end: int | None) -> Callable[[], None]:
            return lambda: self._guarded(entry, lambda each: self._section(each, begin, end))

        begins = range(0, entry.size, _SECTION)
        # The last section goes to the end, wherever that is by then.
        ends = [*begins[1:], None]
        content = [lambda: self._guarded(entry, self._content)]
        return content + [bytes_from(begin, end) for begin, end in zip(begins, ends, strict=True)]

    def _file(self, entry: _Entry) -> None:
        self._section(entry, 0, None)
        self._content(entry)

    def _section(self, entry: _Entry, begin: int, end: int | None) -> None:
        """Search the bytes of a file for values that begin from `begin` on and before `end`."""
        with entry.open(self.run.outside) as handle:
            handle.seek(max(0, begin - OVERLAP))
            self.stream(entry.name, "bytes", handle, decoded=False, begin=begin, end=end)

    def _content(self, entry: _Entry) -> None:
        """Search what a file holds in packed or paged form."""
        with entry.open(self.run.outside) as handle:
            head = handle.read(16)
            handle.seek(0)
            self.contained(entry.name, head, handle, "", 0)
        if head == SQLITE:
            self.sqlite(entry)

    def _guarded(self, entry: _Entry, work: Callable[[_Entry], None]) -> None:
        """Do some of the work on a file; one that has gone meanwhile holds nothing."""
        try:
            work(entry)
        except FileNotFoundError:
            return
        except OSError as error:
            with self._lock:
                self.unreadable.append(f"{entry.name} ({error.strerror or type(error).__name__})")

    def tally(self, file: str, number: int, *, decoded: bool) -> None:
        if file not in self.canaries:
            with self._lock:
                if decoded:
                    self.decoded += number
                else:
                    self.bytes += number
        if not decoded:
            self.run.count(number)

    def stream(
        self,
        file: str,
        inside: str,
        handle: IO[bytes] | _Joined,
        *,
        decoded: bool = True,
        begin: int = 0,
        end: int | None = None,
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
            self.tally(file, max(0, there - counted), decoded=decoded)
            counted = max(counted, there)
            last = filled < len(buffer)
            stop = filled if last else filled - OVERLAP
            if end is not None and base + stop >= end:
                last, stop = True, end - base
            context = max(0, looked - base - 16)
            for hit in searcher.search(memoryview(buffer)[context:filled], stop - context):
                offset = base + context + hit.offset
                if offset >= looked:
                    self.run.found(self.place, file, inside, hit, offset)
            if last:
                return
            if decoded and base > _LARGEST_EXPANDED:
                self.mark_opaque(file)
                return
            looked = base + stop
            keep = 2 * OVERLAP
            buffer[:keep] = buffer[filled - keep : filled]
            base += filled - keep
            kept = keep

    def mark_opaque(self, file: str) -> None:
        with self._lock:
            if file not in self.opaque:
                self.opaque.append(file)

    def contained(self, file: str, head: bytes, handle: BinaryIO, prefix: str, depth: int) -> None:
        """Decode what a file contains, by what it begins with."""
        try:
            if head.startswith(b"PAR1"):
                self.parquet(file, handle, prefix + "parquet")
            elif head.startswith(b"PK\x03\x04"):
                self.zip(file, handle, prefix + "zip", depth)
            elif opener := _unpacked(head):
                name, open_ = opener
                self.packed(file, prefix + name, open_, handle, depth)
        except (OSError, EOFError, ValueError, zipfile.BadZipFile, zlib.error, lzma.LZMAError, RuntimeError):
            # Cut off, encrypted, or something else that only begins alike: its bytes were searched.
            self.mark_opaque(file)
        except NotImplementedError:
            self.mark_opaque(file)

    def packed(
        self, file: str, inside: str, open_: Callable[[BinaryIO], IO[bytes]], handle: BinaryIO, depth: int
    ) -> None:
        with open_(handle) as unpacked:
            self.stream(file, inside, unpacked)
        handle.seek(0)
        with open_(handle) as unpacked:
            self.nested(file, inside, unpacked, depth)

    def zip(self, file: str, handle: BinaryIO, inside: str, depth: int) -> None:
        with zipfile.ZipFile(handle) as archive:
            for number, member in enumerate(archive.infolist()):
                label = f"{inside}:{number}"
                for hit in self.run.searcher.search(member.filename.encode("utf-8", "surrogateescape")):
                    self.run.found(self.place, file, label, hit, 0)
                if member.is_dir():
                    continue
                with archive.open(member) as unpacked:
                    self.stream(file, label, unpacked)
                with archive.open(member) as unpacked:
                    self.nested(file, label, unpacked, depth)

    def nested(self, file: str, inside: str, unpacked: IO[bytes], depth: int) -> None:
        """Decode what is inside what was unpacked, if that is a container in turn."""
        head = unpacked.read(16)
        if not (head.startswith((b"PAR1", b"PK\x03\x04")) or _unpacked(head)):
            return
        content = head + unpacked.read(_LARGEST_NESTED + 1)
        if depth >= _DEEPEST or len(content) > _LARGEST_NESTED:
            self.mark_opaque(file)
            return
        self.contained(file, head, io.BytesIO(content), f"{inside}/", depth + 1)

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
                for column in batch.columns:
                    for leaf in _leaves(column):
                        offset += self.values(file, inside, leaf, offset)
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
                    self.run.found(self.place, file, inside, hit, base + position)
        return len(view)

    def sqlite(self, entry: _Entry) -> None:
        """Search through SQL the rows that are long enough to be spread over pages."""
        if entry.path is None:
            return
        try:
            for row in _long_rows(entry.path):
                self.tally(entry.name, len(row), decoded=True)
                for hit in self.run.searcher.search(row):
                    self.run.found(self.place, entry.name, "sqlite", hit, hit.offset)
        except sqlite3.Error:
            self.mark_opaque(entry.name)


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


def _read_into(handle: IO[bytes] | _Joined, target: memoryview) -> int:
    """Fill the target as far as the stream goes; return the number of bytes."""
    done = 0
    while done < len(target):
        read = cast("Any", handle).readinto(target[done:])
        if not read:
            break
        done += read
    return done


def _unpacked(head: bytes) -> tuple[str, Callable[[BinaryIO], IO[bytes]]] | None:
    """Return how to unpack a compressed stream that begins like this."""
    import pyarrow as pa

    if head.startswith(b"\x1f\x8b"):
        return "gzip", lambda handle: cast("IO[bytes]", gzip.GzipFile(fileobj=handle))
    if head.startswith(b"BZh"):
        return "bzip2", lambda handle: cast("IO[bytes]", bz2.BZ2File(handle))
    if head.startswith(b"\xfd7zXZ\x00"):
        return "xz", lambda handle: cast("IO[bytes]", lzma.LZMAFile(handle))
    if head.startswith(b"\x28\xb5\x2f\xfd"):
        return "zstd", lambda handle: cast("IO[bytes]", pa.CompressedInputStream(pa.PythonFile(handle, "r"), "zstd"))
    if head.startswith(b"\x04\x22\x4d\x18"):
        return "lz4", lambda handle: cast("IO[bytes]", pa.CompressedInputStream(pa.PythonFile(handle, "r"), "lz4"))
    return None


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


def _long_rows(path: Path) -> Iterator[bytes]:
    """Yield the rows of a SQLite database that are long enough to be spread over pages, as bytes."""
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
    with closing(base):
        base.text_factory = bytes
        (page,) = base.execute("PRAGMA page_size").fetchone()
        named = base.execute("SELECT name FROM sqlite_master WHERE type = 'table' AND sql NOT LIKE 'CREATE VIRTUAL%'")
        for (name,) in named.fetchall():
            table = '"' + name.decode().replace('"', '""') + '"'
            columns = [f'"{row[1].decode()}"' for row in base.execute(f"PRAGMA table_info({table})")]
            if not columns:
                continue
            length = " + ".join(f"coalesce(length(CAST({column} AS BLOB)), 0)" for column in columns)
            rows = base.execute(
                f"SELECT {', '.join(columns)} FROM {table} WHERE {length} > ?",  # noqa: S608 - names from the schema
                (page // _SPREAD_SHARE,),
            )
            for row in rows:
                yield b"\0".join(each if isinstance(each, bytes) else str(each).encode() for each in row)
