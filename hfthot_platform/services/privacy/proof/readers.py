"""Reads the files of a place in every way that may show a value: as bytes, decoded, unpacked, row by row.

Here belongs how a file is read and that every value in it is looked for; what a stream unpacks to is the business of
`containers`, what a table's values are of `values`, and what a finding means of nobody here.
"""

from __future__ import annotations

import errno
import io
import os
import sqlite3
import tarfile
import threading
import zipfile
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any, BinaryIO, Final, cast

import numpy as np

from hfthot_platform.services.privacy.proof.containers import (
    HEAD,
    RecoveringStream,
    container,
    local_members,
    looks_packed,
    recover_member,
    recovering_stream,
)
from hfthot_platform.services.privacy.proof.findings import PlaceReport, ScanRun
from hfthot_platform.services.privacy.proof.places import FileEntry, WalkNotes
from hfthot_platform.services.privacy.proof.search import OVERLAP, Hit
from hfthot_platform.services.privacy.proof.sqlite_reader import SQLITE
from hfthot_platform.services.privacy.proof.values import coded_columns, sqlite_rows, text_buffers, text_columns

if TYPE_CHECKING:
    import pyarrow as pa

__all__ = ["JoinedBlocks", "PlaceReader"]

#: Characters that are kept around a finding, for the eyes of whoever has to tell what it is.
_CONTEXT: Final = 40


class TooLargeError(ValueError):
    """What is packed in a file unpacks to more than is looked at."""


class PlaceReader:
    """Reads the files of one place."""

    def __init__(self, state: ScanRun, place: str, *, shared: bool = False) -> None:
        self.state = state
        self.place = place
        self.shared = shared
        self.bytes = 0
        self.decoded = 0
        self.undecoded: dict[str, str] = {}
        self.noted = WalkNotes()
        #: Files of ours, which do not count.
        self.canaries: frozenset[str] = frozenset()
        self.modified: dict[str, float] = {}
        self._expanded: Counter[str] = Counter()
        self._lock = threading.Lock()

    def report(self, files: int) -> PlaceReport:
        shown = self.state.shown
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
            tested=self.place not in self.state.untested,
        )

    def name(self, name: str) -> None:
        raw = os.fsencode(name)
        for hit in self.state.searcher.search(raw):
            self.found(name, "name", hit, hit.offset, raw)

    def found(self, file: str, inside: str, hit: Hit, offset: int, data: bytes | bytearray | memoryview) -> None:
        """Report a hit in `data`, at `offset` of whatever `data` is a part of."""
        around = bytes(data[max(0, hit.offset - _CONTEXT) : hit.end + _CONTEXT])
        context = around.decode(errors="replace")
        self.state.found(self.place, file, inside, hit, offset, context, self.modified.get(file))

    def parts(self, entry: FileEntry) -> Iterator[Callable[[], None]]:
        """Yield the work of reading a file in every way: its bytes, in sections if it is large, and its content."""
        if entry.path is None or entry.size <= self.state.limits.section:
            yield lambda: self._guarded(entry, self._file)
            return
        yield lambda: self._guarded(entry, self._content)
        for begin, end in _extents(entry.path, entry.size, self.state.limits.section):
            yield partial(self._guarded, entry, partial(self._section, begin=begin, end=end))

    def _file(self, entry: FileEntry) -> None:
        self._section(entry, 0, None)
        self._content(entry)

    def _section(self, entry: FileEntry, begin: int, end: int | None) -> None:
        """Search the bytes of a file for values that begin from `begin` on and before `end`."""
        with entry.open(self.state.opener) as handle:
            touching = entry.name.endswith(("-wal", "-journal")) or handle.read(len(SQLITE)) == SQLITE
            handle.seek(max(0, begin - OVERLAP))
            self.stream(entry.name, "bytes", handle, decoded=False, begin=begin, end=end, touching=touching)

    def _content(self, entry: FileEntry) -> None:
        """Search what a file holds in packed or paged form."""
        with entry.open(self.state.opener) as handle:
            head = handle.read(HEAD)
            handle.seek(0)
            if head.startswith(SQLITE) and entry.path is not None:
                self.sqlite(entry.name, lambda: sqlite_rows(cast("Path", entry.path)))
            else:
                self.contained(entry.name, head, handle, "", 0)

    def _guarded(self, entry: FileEntry, work: Callable[[FileEntry], None]) -> None:
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
                if self._expanded[file] > self.state.limits.unpacked:
                    raise TooLargeError
        if not decoded:
            self.state.count(number)

    def stream(
        self,
        file: str,
        inside: str,
        handle: IO[bytes] | JoinedBlocks | RecoveringStream,
        *,
        decoded: bool = True,
        begin: int = 0,
        end: int | None = None,
        touching: bool = False,
    ) -> None:
        """Search a stream of bytes in blocks that overlap, for values that begin from `begin` on and before `end`.

        The stream stands up to `OVERLAP` bytes before `begin`: what comes before a value tells whether it is a word.
        """
        searcher = self.state.searcher
        # Not zeroed: most files are far smaller than a block.
        buffer = np.empty(self.state.limits.block + 2 * OVERLAP, dtype=np.uint8).data
        kept = 0  # bytes at the front that are from the block before
        base = max(0, begin - OVERLAP)  # offset in the stream of the buffer's first byte
        looked = begin  # offset in the stream before which every beginning was looked at
        counted = begin
        while True:
            filled = kept + _read_into(handle, buffer[kept:])
            there = base + filled if end is None else min(base + filled, end)
            last = filled < len(buffer)
            stop = filled if last else filled - OVERLAP
            if end is not None and base + stop >= end:
                last, stop = True, end - base
            context = max(0, looked - base - 16)
            view = buffer[context:filled]
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
                self.undecodable(file, "unknown; it looks compressed or encrypted")
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
                self.sqlite(file, lambda: sqlite_rows(handle.read()))
        except TooLargeError:
            self.undecodable(file, "expands to more than 64 GiB")
        except Exception as error:  # whatever a damaged or hostile file makes a decoder raise
            if isinstance(error, OSError) and error.errno and depth == 0:
                raise
            # Cut off, encrypted, or something else that only begins alike: its bytes were searched.
            self.undecodable(file, f"{name}, {type(error).__name__}")

    def packed(self, file: str, inside: str, name: str, handle: BinaryIO, depth: int) -> None:
        found = recovering_stream(name, handle)
        self.stream(file, inside, found)
        if found.error is not None and not (name == "zlib" and not self._begins(name, handle)):
            self.undecodable(file, f"{name}, damaged")
        self.nested(file, inside, lambda: recovering_stream(name, handle), depth)

    @staticmethod
    def _begins(name: str, handle: BinaryIO) -> bool:
        """Whether anything at all decodes."""
        return bool(recovering_stream(name, handle).read(1))

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
                for hit in self.state.searcher.search(name):
                    self.found(file, label, hit, 0, name)
                if member.is_dir():
                    continue
                try:
                    with archive.open(member) as unpacked:
                        self.stream(file, label, unpacked)
                    self.nested(file, label, lambda member=member: archive.open(member), depth)  # type: ignore[misc]
                except TooLargeError:
                    raise
                except Exception as error:  # noqa: BLE001 - the other members are searched all the same
                    encrypted = bool(member.flag_bits & 1)
                    self.undecodable(file, f"zip, {'encrypted' if encrypted else type(error).__name__}")
                    if not encrypted:
                        self._salvage(file, handle, member.header_offset, label, depth)

    def _salvage(self, file: str, handle: BinaryIO, begin: int, label: str, depth: int) -> None:
        """Search a zip archive's damaged member as far as it unpacks."""
        found = recover_member(handle, begin)
        if found is None:
            return
        name, content = found
        for hit in self.state.searcher.search(name):
            self.found(file, label, hit, 0, name)
        self.stream(file, label, content)
        self.nested(file, label, lambda: cast("Any", recover_member(handle, begin))[1], depth)

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
        while len(content) <= self.state.limits.nested and (piece := unpacked.read(1 << 20)):
            content += piece
        if depth >= self.state.limits.depth or len(content) > self.state.limits.nested:
            self.undecodable(
                file, "nested too deeply" if depth >= self.state.limits.depth else "a large archive inside an archive"
            )
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
            for leaf in text_columns(column):
                done += self.values(file, inside, leaf, offset + done)
        return done

    def parquet(self, file: str, handle: BinaryIO, inside: str) -> None:
        """Search the text and binary columns' decoded values; numbers hold no text beyond their own bytes."""
        import pyarrow as pa
        import pyarrow.parquet as pq

        try:
            opened = pq.ParquetFile(handle, pre_buffer=False, buffer_size=1 << 20)
            leaves = [opened.schema.column(at) for at in range(len(opened.schema))]
            wanted = [leaf.path for leaf in leaves if leaf.physical_type in {"BYTE_ARRAY", "FIXED_LEN_BYTE_ARRAY"}]
            if not wanted:
                return
            # Dictionaries are kept as they are stored, where that is what the file has, so that a value which no
            # row uses any more is seen too.
            coded = coded_columns(opened.metadata, set(wanted))
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

        bounds, data = text_buffers(leaf)
        if data is None or bounds[-1] == bounds[0]:
            return 0
        view = memoryview(data)[int(bounds[0]) : int(bounds[-1])]
        self.tally(file, len(view), decoded=True)
        searcher = self.state.searcher
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
                for hit in self.state.searcher.search(row):
                    self.found(file, "sqlite", hit, hit.offset, row)
        except sqlite3.Error as error:
            self.undecodable(file, f"sqlite, {type(error).__name__}")


class JoinedBlocks:
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


def _read_into(handle: IO[bytes] | JoinedBlocks | RecoveringStream, target: memoryview) -> int:
    """Fill the target as far as the stream goes; return the number of bytes."""
    done = 0
    while done < len(target):
        read = cast("Any", handle).readinto(target[done:])
        if not read:
            break
        done += read
    return done


def _extents(path: Path, size: int, section: int) -> Iterator[tuple[int, int | None]]:
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
                for start in range(begin, hole, section):
                    end = min(start + section, hole)
                    # The last section goes to the end, wherever that is by then.
                    yield start, None if end >= size else end
                ends = hole
        finally:
            os.close(handle)
        return
    yield ends, None
