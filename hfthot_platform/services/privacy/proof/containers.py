"""Unpacking compressed streams and archives as far as they go, however damaged they are.

What decodes before a damage is searched like everything else, to the last byte; where it ends is told by `error`.
Here belongs turning packed bytes into plain ones; looking for values in them is `scan`'s.
"""

from __future__ import annotations

import bz2
import io
import lzma
import re
import struct
import zipfile
import zlib
from collections.abc import Callable, Iterator
from typing import Any, BinaryIO, Final, cast

__all__ = [
    "HEAD",
    "RecoveringStream",
    "container",
    "local_members",
    "looks_packed",
    "recover_member",
    "recovering_stream",
]

#: Bytes from the beginning of a file that tell what it is: a tar's mark is the last.
HEAD: Final = 512
_CHUNK: Final = 64 * 1024
_LOCAL: Final = b"PK\x03\x04"
_LOCAL_HEADER: Final = struct.Struct("<4sHHHHHIIIHH")
_MOST_MEMBERS: Final = 100_000

#: What a stream begins with, and how it is packed.
_STREAMS: Final = (
    (b"\x1f\x8b", "gzip"),
    (b"BZh", "bzip2"),
    (b"\xfd7zXZ\x00", "xz"),
    (b"\x5d\x00\x00", "lzma"),
    (b"\x28\xb5\x2f\xfd", "zstd"),
    (b"\x04\x22\x4d\x18", "lz4"),
)
#: What is decoded otherwise.
_FORMATS: Final = (
    (b"PAR1", "parquet"),
    (b"ARROW1", "arrow"),
    (b"\xff\xff\xff\xff", "arrow stream"),
    (b"ORC", "orc"),
    (_LOCAL, "zip"),
    (b"SQLite format 3\x00", "sqlite"),
)
#: What may hold packed text and is not decoded.
_UNKNOWN: Final = (
    (b"7z\xbc\xaf\x27\x1c", "7z"),
    (b"Rar!\x1a\x07", "rar"),
    (b"MSCF", "cab"),
    (b"LZIP", "lzip"),
    (b"LRZI", "lrzip"),
    (b"\x1f\x9d", "compress"),
    (b"\xff\x06\x00\x00sNaPpY", "snappy"),
    (b"Obj\x01", "avro"),
    (b"\x89HDF\r\n\x1a\n", "hdf5"),
    (b"%PDF", "pdf"),
    (b"Salted__", "openssl"),
    (b"age-encryption.org", "age"),
    (b"-----BEGIN PGP MESSAGE", "pgp"),
    (b"LUKS\xba\xbe", "luks"),
)


#: What is packed and holds no text: pictures and fonts.
_PICTURES: Final = (b"\x89PNG", b"\xff\xd8\xff", b"GIF8", b"RIFF", b"wOF2", b"wOFF")
#: Of so many bytes it is told whether a file looks packed; of fewer than the second it is not.
_SAMPLE: Final = 64 * 1024
_TELLING: Final = 512
#: Packed or encrypted bytes do not become smaller by packing them again; text and tables do.
_PACKED: Final = 0.97


def looks_packed(handle: BinaryIO) -> bool:
    """Return whether a file of no known format has packed or encrypted bytes at its beginning or end."""
    handle.seek(0)
    begin = handle.read(_SAMPLE)
    size = handle.seek(0, io.SEEK_END)
    handle.seek(max(0, size - _SAMPLE))
    end = handle.read(_SAMPLE)
    handle.seek(0)
    return not begin.startswith(_PICTURES) and any(
        len(part) >= _TELLING and len(zlib.compress(part, 1)) > _PACKED * len(part) for part in (begin, end)
    )


def container(head: bytes) -> tuple[str, str] | None:
    """Return what a file is that begins like this, as (`stream`, `format` or `unknown`, name); None if it is plain."""
    for kind, table in (("stream", _STREAMS), ("format", _FORMATS), ("unknown", _UNKNOWN)):
        for magic, name in table:
            if head.startswith(magic):
                return kind, name
    if head[257:262] == b"ustar":
        return "format", "tar"
    if head[8:12] == b"DUCK":
        return "unknown", "duckdb"
    # The two bytes of zlib are no sure sign; what does not decode is taken for plain.
    if len(head) > 2 and head[0] == 0x78 and head[1] in {0x01, 0x5E, 0x9C, 0xDA}:
        return "stream", "zlib"
    return None


class _Inflated:
    """A packed stream read in pieces of a given size, through one of the libraries' decompressors.

    Args:
        handle: the packed bytes, from where they begin.
        make: makes a decompressor.
        fine: number of packed bytes after which they are handed over one by one.
    """

    def __init__(self, handle: BinaryIO, make: Callable[[], Any], fine: int | None) -> None:
        self._handle = handle
        self._make = make
        self._unpack = make()
        self._waiting = b""
        self._fine = fine
        self._taken = 0
        #: Packed bytes before the piece that was handed over last.
        self.before = 0

    def read(self, size: int) -> bytes:
        while True:
            if self._unpack.eof:
                if not self._follows():
                    return b""
                self._unpack = self._make()
            given = self._waiting
            hungry = getattr(self._unpack, "needs_input", True)
            if not given and hungry:
                given = self._piece()
            data = cast("bytes", self._unpack.decompress(given, size))
            self._waiting = getattr(self._unpack, "unconsumed_tail", b"")
            if data:
                return data
            if not given and hungry and not self._unpack.eof:
                raise EOFError("it is cut off")

    def _follows(self) -> bool:
        """Whether another stream follows the one that ended; zeros pad."""
        rest = (self._unpack.unused_data or self._waiting).lstrip(b"\0")
        while not rest and (piece := self._piece()):
            rest = piece.lstrip(b"\0")
        self._waiting = rest
        return bool(rest)

    def _piece(self) -> bytes:
        left = _CHUNK if self._fine is None else min(_CHUNK, self._fine - self._taken)
        data = self._handle.read(max(1, left))
        self.before = self._taken
        self._taken += len(data)
        return data


class _Arrow:
    """A packed stream through Arrow's decompressors."""

    def __init__(self, handle: BinaryIO, name: str) -> None:
        import pyarrow as pa

        self._stream = pa.CompressedInputStream(pa.PythonFile(handle, "r"), name)

    def read(self, size: int) -> bytes:
        return bytes(self._stream.read(size))


_MAKERS: Final[dict[str, Callable[[], Any]]] = {
    "gzip": lambda: zlib.decompressobj(31),
    "zlib": lambda: zlib.decompressobj(15),
    "deflate": lambda: zlib.decompressobj(-15),
    "bzip2": bz2.BZ2Decompressor,
    "xz": lzma.LZMADecompressor,
    "lzma": lzma.LZMADecompressor,
}


class RecoveringStream:
    """A packed stream as a readable one that ends where decoding ends.

    A decompressor that fails keeps what it had made in that step.  Then the stream is unpacked once more up to there,
    and from there on byte by byte, so that what decodes before the damage is not lost.

    Args:
        open_: opens the stream from its beginning; from so many packed bytes on, if given, in single steps.
    """

    def __init__(self, open_: Callable[[int | None], Any]) -> None:
        self._open = open_
        self._source = open_(None)
        self._single = False
        self._rest = b""
        self._at = 0
        #: The class of what stopped it, if something did.
        self.error: str | None = None

    def readinto(self, target: memoryview) -> int:
        if not self._rest:
            self._rest = self._next()
        size = min(len(target), len(self._rest))
        target[:size] = self._rest[:size]
        self._rest = self._rest[size:]
        return size

    def read(self, size: int) -> bytes:
        """Return up to `size` bytes, fewer only at the end."""
        found = bytearray()
        while len(found) < size:
            piece = bytearray(size - len(found))
            done = self.readinto(memoryview(piece))
            if not done:
                break
            found += piece[:done]
        return bytes(found)

    def _next(self) -> bytes:
        if self.error is not None:
            return b""
        try:
            data = cast("bytes", self._source.read(1 if self._single else _CHUNK))
        except Exception as error:  # noqa: BLE001 - whatever a damaged stream makes a decoder raise
            if self._single:
                self.error = type(error).__name__
                return b""
            return self._again(getattr(self._source, "before", 0))
        self._at += len(data)
        return data

    def _again(self, before: int) -> bytes:
        """Unpack up to the same place once more, and go on in single steps."""
        self._source = self._open(before)
        left = self._at
        while left:
            left -= len(self._source.read(min(left, _CHUNK)))
        self._single = True
        return self._next()


def recovering_stream(name: str, handle: BinaryIO) -> RecoveringStream:
    """Return what a packed stream (its way of packing by name) holds."""

    def open_(fine: int | None) -> Any:
        handle.seek(0)
        return _Arrow(handle, name) if name in {"zstd", "lz4"} else _Inflated(handle, _MAKERS[name], fine)

    return RecoveringStream(open_)


def local_members(handle: BinaryIO) -> Iterator[int]:
    """Yield where members of a zip archive begin whose directory is missing or wrong."""
    handle.seek(0)
    base, kept, count = 0, b"", 0
    while block := handle.read(1 << 20):
        data = kept + block
        for match in re.finditer(re.escape(_LOCAL), data):
            yield base + match.start()
            count += 1
            if count >= _MOST_MEMBERS:
                return
        kept = data[-len(_LOCAL) + 1 :]
        base += len(data) - len(kept)


def recover_member(handle: BinaryIO, begin: int) -> tuple[bytes, RecoveringStream] | None:
    """Return name and content of a zip archive's member by its local header; None if it is packed in another way."""
    handle.seek(begin)
    header = handle.read(_LOCAL_HEADER.size)
    if len(header) < _LOCAL_HEADER.size:
        return None
    _, _, flags, method, _, _, _, packed, _, name_size, extra_size = _LOCAL_HEADER.unpack(header)
    name = handle.read(name_size)
    ways = {zipfile.ZIP_DEFLATED: "deflate", zipfile.ZIP_BZIP2: "bzip2"}
    start = begin + _LOCAL_HEADER.size + name_size + extra_size
    if flags & 1:
        return None
    if method == zipfile.ZIP_STORED:
        handle.seek(start)
        content = handle.read(min(packed, 1 << 26))
        return name, RecoveringStream(lambda _: io.BytesIO(content))
    if method not in ways:
        return None

    def one(fine: int | None) -> Any:
        handle.seek(start)
        return _SingleStream(handle, _MAKERS[ways[method]], fine)

    return name, RecoveringStream(one)


class _SingleStream(_Inflated):
    """One stream alone: what follows it is something else."""

    def read(self, size: int) -> bytes:
        return b"" if self._unpack.eof else super().read(size)
