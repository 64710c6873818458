"""What every source has in common: the batch it yields, the way it reports progress, the file probe.

A source turns the oddities of a vendor into canonical rows and lets nothing of them through.  It yields
`Batch`es of bounded size.  Rows that cannot even be parsed travel in the batch as `rejected`, so that

    rows_read = len(rows) + len(rejected)

holds for each batch; rows that parse but break a rule of the contract are found later, at the audit.
"""

from __future__ import annotations

import gzip
import hashlib
import zipfile
import zlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from typing import IO, Final, Protocol, cast

import polars as pl

from hfthot_platform.contracts.model import REJECTED_SCHEMA, ROW_NUMBER
from hfthot_platform.errors import RejectedFileError
from hfthot_platform.market.sources.mapping import CsvMapping

__all__ = [
    "BATCH_ROWS",
    "REJECTED_SCHEMA",
    "ROW_NUMBER",
    "Batch",
    "Feed",
    "FileAdapter",
    "FileProbe",
    "Progress",
    "Recognised",
    "content_hash",
    "no_progress",
    "probe_file",
    "rejected_rows",
]

#: Rows per batch: large enough to amortise a commit, small enough to bound memory.
BATCH_ROWS: Final = 1_000_000
#: Called with (done, total or None, unit) as work proceeds.
Progress = Callable[[int, int | None, str], None]


def no_progress(done: int, total: int | None, unit: str) -> None:
    """Report progress to nobody."""


def rejected_rows() -> pl.DataFrame:
    """Return an empty frame of rejected rows."""
    return pl.DataFrame(schema=REJECTED_SCHEMA)


@dataclass(frozen=True)
class Batch:
    """Canonical rows of one table, and what could not be parsed on the way.

    `rows` has the columns of the table's contract except the partition column and `schema_version` (the
    lakehouse fills them); nullable columns may be absent.  `rejected` has `REJECTED_SCHEMA`, with the raw
    row as JSON or text.
    """

    table: str
    rows: pl.DataFrame
    source_ref: str
    rejected: pl.DataFrame = field(default_factory=rejected_rows)

    @property
    def rows_read(self) -> int:
        """Return how many source rows this batch accounts for."""
        return self.rows.height + self.rejected.height


@dataclass(frozen=True)
class FileProbe:
    """What can be known of a file before reading it whole."""

    path: Path
    name: str
    size: int
    #: zip, gzip, parquet, arrow or text (of the outer file)
    container: str
    #: First bytes of the payload, decompressed (of the first member of a zip); empty for parquet and arrow.
    head: bytes
    #: Name of the zip member or of the file without its compression suffix.  A renamed zip still knows it.
    inner_name: str
    #: What its user declared of the file; wins over what is recognised.
    declared: CsvMapping = field(default_factory=CsvMapping)

    @property
    def lines(self) -> list[str]:
        """Return the complete text lines of the head."""
        text = self.head.decode("utf-8-sig", errors="replace")
        lines = text.splitlines()
        complete = len(self.head) < _HEAD_BYTES or text.endswith("\n")
        return lines if complete else lines[:-1]

    def open(self) -> IO[bytes]:
        """Open the payload for streaming, decompressed.

        A cut-off gzip or zip raises EOFError, zlib.error or zipfile.BadZipFile while it is read; adapters
        translate these into `RejectedFileError("truncated")`.
        """
        if self.container == "zip":
            archive = zipfile.ZipFile(self.path)
            return archive.open(next(each for each in archive.namelist() if not each.endswith("/")))
        if self.container == "gzip":
            return cast("IO[bytes]", gzip.open(self.path, "rb"))
        return self.path.open("rb")


@dataclass(frozen=True)
class Recognised:
    """An adapter's claim on a file: what it is, and the target table."""

    adapter: FileAdapter
    preset: str
    table: str
    venue: str | None = None
    symbol: str | None = None
    #: Anything the adapter found while sniffing and needs again while reading.
    details: dict[str, object] = field(default_factory=dict)

    @property
    def label(self) -> str:
        """Return `adapter/preset` for the record of files."""
        return f"{self.adapter.name}/{self.preset}"


class FileAdapter(Protocol):
    """Reads one family of file formats."""

    @property
    def name(self) -> str:
        """Return the adapter's name."""
        ...

    def recognise(self, probe: FileProbe) -> Recognised | None:
        """Return a claim on the file if its content is of this family, judged by content, not by name.

        Raises:
            RejectedFileError: it is of this family but cannot be ingested (for example `unknown_symbol`).
        """
        ...

    def read(
        self,
        probe: FileProbe,
        claim: Recognised,
        *,
        source_ref: str,
        batch_rows: int = BATCH_ROWS,
        progress: Progress = no_progress,
    ) -> Iterator[Batch]:
        """Yield the file's rows in bounded memory.

        Raises:
            RejectedFileError: the file is truncated, empty or of another schema than its head promised.
        """
        ...


class Feed(Protocol):
    """Fetches rows for a span of time: a remote exchange, an archive, a packaged sample, a simulation."""

    @property
    def name(self) -> str:
        """Return the feed's name, as in settings and provenance."""
        ...

    @property
    def tables(self) -> tuple[str, ...]:
        """Return the tables that this feed can fill."""
        ...

    def fetch(self, table: str, start: datetime, end: datetime, *, progress: Progress = no_progress) -> Iterator[Batch]:
        """Yield the rows of `table` with start <= time < end, in bounded memory, ordered by time per symbol.

        Raises:
            SourceUnavailableError: the source did not answer usefully within its retry bound.
        """
        ...


_HEAD_BYTES: Final = 65_536


def content_hash(path: Path, *, progress: Progress = no_progress) -> str:
    """Return the SHA-256 of a file's bytes as 64 hexadecimal digits."""
    digest = hashlib.sha256()
    size = path.stat().st_size
    done = 0
    with path.open("rb") as stream:
        while block := stream.read(1 << 20):
            digest.update(block)
            done += len(block)
            progress(done, size, "bytes")
    return digest.hexdigest()


def probe_file(path: Path) -> FileProbe:
    """Look at a file's container and first bytes.

    Raises:
        RejectedFileError: `empty`, `truncated` (container cut off or corrupt), or `several_members`.
    """
    size = path.stat().st_size
    if size == 0:
        raise RejectedFileError("empty", "the file has no bytes", where=path.name, hint="Copy it again.")
    with path.open("rb") as stream:
        magic = stream.read(8)
    inner = path.name
    try:
        if magic.startswith((b"PK\x03\x04", b"PK\x05\x06")):
            with zipfile.ZipFile(path) as archive:
                members = [each for each in archive.namelist() if not each.endswith("/")]
                if not members:
                    raise RejectedFileError("empty", "the zip holds no file", where=path.name, hint="Copy it again.")
                if len(members) != 1:
                    raise RejectedFileError(
                        "several_members",
                        f"the zip holds {len(members)} files, expected 1",
                        where=path.name,
                        hint="Drop the files one by one.",
                    )
                inner = members[0].rsplit("/", 1)[-1]
                with archive.open(members[0]) as member:
                    return _checked(FileProbe(path, path.name, size, "zip", member.read(_HEAD_BYTES), inner))
        if magic.startswith(b"\x1f\x8b\x08"):
            with gzip.open(path, "rb") as member:
                inner = path.name.removesuffix(".gz")
                return _checked(FileProbe(path, path.name, size, "gzip", member.read(_HEAD_BYTES), inner))
        if magic.startswith(b"PAR1"):
            with path.open("rb") as stream:
                stream.seek(-4, 2)
                if stream.read(4) != b"PAR1":
                    raise EOFError("the Parquet footer is missing")
            return FileProbe(path, path.name, size, "parquet", b"", inner)
        if magic.startswith(b"ARROW1"):
            with path.open("rb") as stream:
                stream.seek(-6, 2)
                if stream.read(6) != b"ARROW1":
                    raise EOFError("the Arrow footer is missing")
            return FileProbe(path, path.name, size, "arrow", b"", inner)
    except (zipfile.BadZipFile, EOFError, zlib.error, gzip.BadGzipFile, OSError) as error:
        raise RejectedFileError(
            "truncated", f"the file is cut off or corrupt ({error})", where=path.name, hint="Copy or download it again."
        ) from error
    with path.open("rb") as stream:
        return _checked(FileProbe(path, path.name, size, "text", stream.read(_HEAD_BYTES), inner))


def _checked(probe: FileProbe) -> FileProbe:
    if not probe.head.strip():
        raise RejectedFileError("empty", "the file has no content", where=probe.name, hint="Copy it again.")
    return probe
