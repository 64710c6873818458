"""What a file is wrapped in: zip (also nested), gzip, bzip2, xz, zstd; and the text's encoding and line ends.

A route says how to come from the file on disk to one payload, step by step: `("zip", "a/b.csv.gz")`,
`("gzip", "")`.  What a Mac or Windows adds to a zip is not data.  Whatever comes out is bounded: a payload that
unpacks to more than `MAX_RATIO` times the bytes on disk (and more than `FREE_BYTES`) is refused as a bomb.
"""

from __future__ import annotations

import bz2
import codecs
import gzip
import io
import lzma
import re
import tempfile
import zipfile
import zlib
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from contextvars import ContextVar
from pathlib import Path
from typing import IO, Any, Final, cast

from hfthot_platform.core.errors import RejectedFileError

__all__ = [
    "CONTAINER_ERRORS",
    "HEAD_BYTES",
    "Payload",
    "Route",
    "archives_kept_open",
    "data_members",
    "inner_name",
    "kind_of",
    "routes",
    "text_form",
    "to_plain",
]

Route = tuple[tuple[str, str], ...]

MAX_RATIO: Final = 300
FREE_BYTES: Final = 1 << 28
_MAX_DEPTH: Final = 4
_MAX_MEMBERS: Final = 20_000
#: A zip within a zip is needed whole; beyond this it goes to a temporary file.
_SPOOL_BYTES: Final = 1 << 26

#: What reading a cut-off or corrupt container raises (pyarrow's errors are OSErrors).
CONTAINER_ERRORS: Final = (EOFError, zlib.error, zipfile.BadZipFile, lzma.LZMAError, OSError)
_MAGIC: Final = (
    (b"PK\x03\x04", "zip"),
    (b"PK\x05\x06", "zip"),
    (b"\x1f\x8b\x08", "gzip"),
    (b"BZh", "bzip2"),
    (b"\xfd7zXZ\x00", "xz"),
    (b"\x28\xb5\x2f\xfd", "zstd"),
    (b"PAR1", "parquet"),
    (b"ARROW1", "arrow"),
)
#: What is known and not read, with the way out.
_UNREAD: Final = (
    (b"7z\xbc\xaf\x27\x1c", "a 7-Zip archive", "Unpack it, or pack it as zip."),
    (b"Rar!\x1a\x07", "a RAR archive", "Unpack it, or pack it as zip."),
    (b"PK\x07\x08", "a part of a split zip", "Join the parts first: zip -s 0 split.zip --out whole.zip."),
    (b"\x04\x22\x4d\x18", "compressed with LZ4", "Decompress it, or use zstd, gzip or zip."),
    (b"\x1f\x9d", "compressed with compress (.Z)", "Decompress it, or use gzip."),
    (b"\xd0\xcf\x11\xe0", "an old Excel workbook", "Save it as CSV."),
    (b"SQLite format 3\x00", "an SQLite database", "Export the table as CSV or Parquet."),
    (b"\x89HDF\r\n", "an HDF5 file", "Export the table as Parquet."),
    (b"\x93NUMPY", "a NumPy array", "Export it as Parquet, with column names."),
    (b"FEA1", "Feather version 1", "Write it again with a current version of pandas or pyarrow."),
    (b"ORC", "an ORC file", "Write it as Parquet."),
    (b"Obj\x01", "an Avro file", "Write it as Parquet."),
    (b"%PDF", "a PDF", "Export the data as CSV."),
)
_NO_DATA: Final = re.compile(
    r"(^|/)(__MACOSX/|\._|\.DS_Store$|Thumbs\.db$|desktop\.ini$|\.[^/]*$)"
    r"|(^|/)(README|LICEN[CS]E|CHANGELOG|SOURCE)[^/]*$"
    r"|\.(md|pdf|html?|CHECKSUM|sha256|md5|mapping\.ya?ml)$",
    re.IGNORECASE,
)


def kind_of(magic: bytes, name: str) -> str:
    """Return what a file begins as: zip, gzip, bzip2, xz, zstd, parquet, arrow or text.

    Raises:
        RejectedFileError: `unsupported_container`, a format that is known and not read.
    """
    for start, what, hint in _UNREAD:
        if magic.startswith(start) and not (start == b"ORC" and magic[3:4].isalnum()):
            raise RejectedFileError("unsupported_container", f"the file is {what}", where=name, hint=hint)
    if len(magic) >= 262 and magic[257:262] == b"ustar":
        raise RejectedFileError(
            "unsupported_container", "the file is a tar archive", where=name, hint="Unpack it, or pack it as zip."
        )
    if magic.startswith(b"\x80") and magic[1:2] in b"\x02\x03\x04\x05" and b"\x00" in magic[:64]:
        raise RejectedFileError(
            "unsupported_container", "the file is a Python pickle", where=name, hint="Write it as Parquet."
        )
    return next((kind for start, kind in _MAGIC if magic.startswith(start)), "text")


class _Archive:
    """An open zip: at which place of which file, and what closes it."""

    def __init__(self, path: Path, before: Route, file: zipfile.ZipFile, closing: ExitStack) -> None:
        self._path = path
        self._before = before
        self.file = file
        self.closing = closing

    def is_of(self, path: Path, route: Route) -> bool:
        """Return whether the zip is the one on the way to a payload, at its own depth."""
        return path == self._path and route[: len(self._before)] == self._before


_KEPT: ContextVar[dict[int, _Archive] | None] = ContextVar("archives", default=None)


@contextmanager
def archives_kept_open() -> Iterator[None]:
    """Within this, read the directory of an archive once for all of its members, and not for each.

    A vendor's zip may hold ten thousand files, each of which is opened three times.
    """
    kept: dict[int, _Archive] = {}
    token = _KEPT.set(kept)
    try:
        yield
    finally:
        _KEPT.reset(token)
        for archive in kept.values():
            archive.closing.close()


class Payload(io.RawIOBase):
    """The decompressed bytes at the end of a route; a context manager that closes everything on the way.

    Raises:
        RejectedFileError: `decompression_bomb`.
        EOFError, zlib.error, lzma.LZMAError, zipfile.BadZipFile, OSError: cut off or corrupt.
    """

    def __init__(self, path: Path, route: Route) -> None:
        super().__init__()
        self._where = path.name
        self._limit = max(FREE_BYTES, MAX_RATIO * path.stat().st_size)
        self._done = 0
        self._packed = bool(route)
        self._stack = ExitStack()
        kept = _KEPT.get()
        try:
            self._stream = self._opened(path, route, {} if kept is None else kept)
        except BaseException:
            self._stack.close()
            raise

    def _opened(self, path: Path, route: Route, kept: dict[int, _Archive]) -> IO[bytes]:
        """Go along the route, from the last archive on it that is open."""
        stream: IO[bytes] | None = None
        known = [n for n, (kind, _) in enumerate(route) if kind == "zip" and n in kept and kept[n].is_of(path, route)]
        for position in range(known[-1] if known else 0, len(route)):
            kind, member = route[position]
            if kind != "zip":
                stream = self._unpacked(stream or self._stack.enter_context(path.open("rb")), kind)
                continue
            archive = kept.get(position)
            if archive is None or not archive.is_of(path, route):
                archive = self._archive(path, route[:position], stream, kept)
            stream = self._member(archive.file, member)
        return stream or self._stack.enter_context(path.open("rb"))

    def _archive(self, path: Path, before: Route, stream: IO[bytes] | None, kept: dict[int, _Archive]) -> _Archive:
        """Open an archive: for this payload, or for all of its members where archives are kept open."""
        with ExitStack() as opening:
            if before:
                assert stream is not None
                source: IO[bytes] = self._spooled(stream, opening)
            else:
                source = opening.enter_context(path.open("rb"))
            file = opening.enter_context(zipfile.ZipFile(source))
            archive = _Archive(path, before, file, opening.pop_all())
        if _KEPT.get() is None:
            self._stack.push(archive.closing)
            return archive
        # One at each depth: the members of an archive are asked for one after the other.
        for depth in [level for level in kept if level >= len(before)]:
            kept.pop(depth).closing.close()
        kept[len(before)] = archive
        return archive

    def readable(self) -> bool:
        return True

    def read(self, size: int = -1) -> bytes:
        """Return up to `size` bytes; fewer only at the end."""
        pieces = []
        wanted = size
        while wanted != 0:
            piece = self._stream.read(min(wanted, 1 << 24) if wanted > 0 else 1 << 24)
            if not piece:
                break
            pieces.append(piece)
            self._count(len(piece))
            wanted = wanted - len(piece) if wanted > 0 else wanted
        return pieces[0] if len(pieces) == 1 else b"".join(pieces)

    def members(self) -> list[str]:
        """Return the data files of the payload, which is a zip."""
        stream = self._spooled(self._stream, self._stack) if self._packed else self._stream
        with zipfile.ZipFile(stream) as archive:
            return data_members(archive, self._where)

    def close(self) -> None:
        self._stack.close()
        super().close()

    def _count(self, size: int) -> None:
        self._done += size
        if self._packed and self._done > self._limit:
            raise RejectedFileError(
                "decompression_bomb",
                f"the file unpacks to more than {self._limit:,} bytes",
                where=self._where,
                hint="If this size is expected, unpack it and ingest the plain file.",
            )

    def _spooled(self, stream: IO[bytes], closing: ExitStack) -> IO[bytes]:
        """Return a seekable copy of a nested archive, bounded like everything else."""
        copy = tempfile.SpooledTemporaryFile(max_size=_SPOOL_BYTES)  # noqa: SIM115 - closed with the rest
        closing.enter_context(copy)
        while block := stream.read(1 << 20):
            self._count(len(block))
            copy.write(block)
        copy.seek(0)
        return cast("IO[bytes]", copy)

    def _member(self, archive: zipfile.ZipFile, member: str) -> IO[bytes]:
        try:
            return self._stack.enter_context(archive.open(member))
        except (RuntimeError, NotImplementedError) as error:  # encrypted, or an unknown method
            raise RejectedFileError(
                "unsupported_container", f"{member}: {error}", where=self._where, hint="Unpack it yourself."
            ) from error

    def _unpacked(self, stream: IO[bytes], kind: str) -> IO[bytes]:
        opened: Any
        if kind == "gzip":
            opened = gzip.GzipFile(fileobj=stream, mode="rb")
        elif kind == "bzip2":
            opened = bz2.BZ2File(stream)
        elif kind == "xz":
            opened = lzma.LZMAFile(stream)  # noqa: SIM115 - closed with the rest
        else:
            import pyarrow as pa

            opened = pa.CompressedInputStream(pa.PythonFile(stream, mode="r"), "zstd")
        return cast("IO[bytes]", self._stack.enter_context(opened))


def data_members(archive: zipfile.ZipFile, where: str) -> list[str]:
    """Return the names of the files in a zip that may hold data, in order of name.

    Raises:
        RejectedFileError: `empty`, or `unsupported_container` (a workbook, encrypted, or too many files).
    """
    infos = [info for info in archive.infolist() if not info.is_dir()]
    names = {info.filename for info in infos}
    hint = "Save it as CSV."
    if "[Content_Types].xml" in names or "mimetype" in names:
        raise RejectedFileError("unsupported_container", "the file is a workbook or document", where=where, hint=hint)
    data = [info for info in infos if not _NO_DATA.search(info.filename)]
    if not data:
        raise RejectedFileError("empty", "the zip contains no file", where=where, hint="Copy it again.")
    if any(info.flag_bits & 1 for info in data):
        raise RejectedFileError(
            "unsupported_container", "the zip is encrypted", where=where, hint="Unpack it with its password."
        )
    if len(data) > _MAX_MEMBERS:
        raise RejectedFileError(
            "unsupported_container", f"the zip contains {len(data):,} files", where=where, hint="Split it."
        )
    if len({info.filename for info in data}) != len(data):
        raise RejectedFileError(
            "unsupported_container", "two files in the zip have the same name", where=where, hint="Pack it again."
        )
    return sorted(info.filename for info in data)


def routes(path: Path) -> Iterator[tuple[Route, str, bytes]]:
    """Yield, for each payload in a file, its route, its kind (parquet, arrow, text, or unread) and its first bytes.

    Raises:
        RejectedFileError: `unsupported_container`, `empty`, `decompression_bomb`.
        EOFError, zlib.error, lzma.LZMAError, zipfile.BadZipFile, OSError: cut off or corrupt.
    """
    yield from _routes(path, ())


def _routes(path: Path, route: Route) -> Iterator[tuple[Route, str, bytes]]:
    with Payload(path, route) as payload:
        head = payload.read(HEAD_BYTES)
    try:
        kind = kind_of(head, inner_name(path.name, route))
    except RejectedFileError:
        if not any(step == "zip" for step, _ in route):
            raise
        kind = "unread"  # one of several files; asked again by whoever recognises it
    if kind in ("parquet", "arrow", "text", "unread"):
        yield route, kind, head
        return
    if len(route) >= _MAX_DEPTH:
        raise RejectedFileError(
            "unsupported_container",
            f"the file is compressed more than {_MAX_DEPTH} times",
            where=path.name,
            hint="Unpack it yourself.",
        )
    if kind == "zip":
        with Payload(path, route) as payload:
            members = payload.members()
        for member in members:
            yield from _routes(path, (*route, ("zip", member)))
    else:
        yield from _routes(path, (*route, (kind, "")))


HEAD_BYTES: Final = 65_536


def inner_name(name: str, route: Route) -> str:
    """Return the name of the payload without folders and suffixes of compression."""
    for kind, member in route:
        name = member.rsplit("/", 1)[-1] if kind == "zip" else re.sub(r"\.(gz|gzip|bz2|xz|zst|zstd)$", "", name)
    return name


def text_form(head: bytes) -> tuple[str, str]:
    """Return the encoding (utf-8, utf-16-le, utf-16-be) and the line end (lf, cr) of a text by its first bytes.

    A text without a mark is UTF-16 where every other of its first bytes is zero.
    """
    encoding = "utf-8"
    start = head[:512]
    if start.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)):
        encoding = "utf-16-le" if start.startswith(codecs.BOM_UTF16_LE) else "utf-16-be"
    elif len(start) >= 8 and len(start) % 2 == 0:
        even, odd = start[0::2].count(0), start[1::2].count(0)
        half = len(start) // 2
        if odd > 0.9 * half and not even:
            encoding = "utf-16-le"
        elif even > 0.9 * half and not odd:
            encoding = "utf-16-be"
    plain = head.decode(encoding, errors="replace").encode() if encoding != "utf-8" else head
    # The very last byte may be half of a line end.
    carriage = plain[:-1].count(b"\r")
    return encoding, "cr" if carriage and not plain.count(b"\n") else "lf"


def to_plain(blocks: Iterator[bytes], encoding: str, line_end: str) -> Iterator[bytes]:
    """Turn blocks of text into UTF-8 with line feeds, without a byte-order mark."""
    if encoding == "utf-8" and line_end == "lf":
        yield from blocks
        return
    decoder = codecs.getincrementaldecoder(encoding)(errors="replace")
    first = True
    for block in blocks:
        text = decoder.decode(block)
        if first:
            text = text.removeprefix("\ufeff")
            first = False
        if line_end == "cr":
            text = text.replace("\r", "\n")
        yield text.encode()
    rest = decoder.decode(b"", final=True)
    if rest:
        yield rest.encode()
