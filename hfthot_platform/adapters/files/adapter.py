"""How a file is read: what can be known of it beforehand, and what an adapter of a family of formats offers.

The containers around a payload are in `containers`, what its user declares of it in `mapping`.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from datetime import datetime
from itertools import islice
from pathlib import Path
from typing import Protocol

from hfthot_platform.adapters.files.containers import (
    CONTAINER_ERRORS,
    HEAD_BYTES,
    Payload,
    Route,
    inner_name,
    routes,
    text_form,
    to_plain,
)
from hfthot_platform.adapters.files.mapping import CsvMapping
from hfthot_platform.adapters.ports import BATCH_ROWS, Batch, Progress, no_progress
from hfthot_platform.core.errors import RejectedFileError

__all__ = ["FileAdapter", "FileProbe", "Recognised", "content_hash", "in_encoding", "probe_file", "probe_members"]
__all__ += ["truncated"]


@dataclass(frozen=True)
class FileProbe:
    """What can be known of one payload of a file before reading it whole."""

    path: Path
    name: str
    size: int
    #: parquet, arrow, text, or unread (a member in a format that is not read)
    container: str
    #: First bytes of the payload, decompressed, as UTF-8 with line feeds; empty for parquet and arrow.
    head: bytes
    #: Name of the zip member or of the file without its compression suffix.  A renamed zip still knows it.
    inner_name: str
    #: What its user declared of the file; wins over what is recognised.
    declared: CsvMapping = field(default_factory=CsvMapping)
    #: The way through containers to the payload; empty for a plain file.
    route: Route = ()
    encoding: str = "utf-8"
    line_end: str = "lf"
    #: The time of reading: nothing can have happened after it.  None where nobody says.
    now: datetime | None = None

    @property
    def is_text(self) -> bool:
        """Return whether the payload is text."""
        return self.container == "text"

    @property
    def checks_its_end(self) -> bool:
        """Return whether the container proves that the payload is complete."""
        return bool(self.route)

    @property
    def member(self) -> str:
        """Return the name within the zip, or within the zip in the zip; empty without one."""
        return "/".join(member for kind, member in self.route if kind == "zip")

    @property
    def lines(self) -> list[str]:
        """Return the complete text lines of the head."""
        text = self.head.decode("utf-8-sig", errors="replace")
        lines = text.splitlines()
        complete = len(self.head) < HEAD_BYTES or text.endswith("\n")
        return lines if complete else lines[:-1]

    def open(self) -> Payload:
        """Open the payload for streaming, decompressed, as it is.

        A cut-off or corrupt container raises one of `CONTAINER_ERRORS` while it is read; adapters translate
        these into `RejectedFileError("truncated")`.
        """
        return Payload(self.path, self.route)


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
    """Look at the container and the first bytes of a file with one payload.

    Raises:
        RejectedFileError: as `probe_members`, or `several_members`.
    """
    probes = list(islice(probe_members(path), 2))
    if len(probes) > 1:
        raise RejectedFileError(
            "several_members", "the zip contains several files", where=path.name, hint="Ingest them one by one."
        )
    return probes[0]


def probe_members(path: Path) -> Iterator[FileProbe]:
    """Look at each payload of a file: the file itself, or what its archive holds, in order of name.

    Raises:
        RejectedFileError: `empty` (the file itself), `truncated` (container cut off or corrupt),
            `unsupported_container`, or `decompression_bomb`.
    """
    size = path.stat().st_size
    if size == 0:
        raise RejectedFileError("empty", "the file is empty", where=path.name, hint="Copy it again.")
    try:
        for route, kind, head in routes(path):
            yield _probe(path, size, route, kind, head)
    except CONTAINER_ERRORS as error:
        raise truncated(path.name, error) from error


def _probe(path: Path, size: int, route: Route, kind: str, head: bytes) -> FileProbe:
    inner = inner_name(path.name, route)
    if kind != "text":
        if not route:
            mark = b"PAR1" if kind == "parquet" else b"ARROW1"
            with path.open("rb") as stream:
                stream.seek(-len(mark), 2)
                if stream.read() != mark:
                    raise EOFError(f"the {kind} footer is missing")
        return FileProbe(path, path.name, size, kind, head if kind == "unread" else b"", inner, route=route)
    encoding, line_end = text_form(head)
    plain = b"".join(to_plain(iter([head]), encoding, line_end))
    return FileProbe(path, path.name, size, kind, plain, inner, route=route, encoding=encoding, line_end=line_end)


def in_encoding(probe: FileProbe, encoding: str) -> FileProbe:
    """Return the probe of a text whose encoding its user declares."""
    with probe.open() as stream:
        head = stream.read(HEAD_BYTES)
    plain = b"".join(to_plain(iter([head]), encoding, probe.line_end))
    return replace(probe, head=plain, encoding=encoding)


def truncated(name: str, error: Exception) -> RejectedFileError:
    """Return the refusal of a file whose container does not read to its end."""
    return RejectedFileError(
        "truncated", f"the file is truncated or corrupt ({error})", where=name, hint="Copy or download it again."
    )
