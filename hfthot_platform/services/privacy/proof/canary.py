"""The canary: a made-up value that is put everywhere a person's value could be, in every form.

A scan that does not find each of them where it was put proves nothing.  Here belongs what a canary is and whose turn it
is to remove one; putting it into a place is the place's own work.
"""

from __future__ import annotations

import base64
import gzip
import io
import json
import os
import re
import sqlite3
import tarfile
import tempfile
import time
import zipfile
from collections.abc import Iterator, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Final
from urllib.parse import quote

from hfthot_platform.core.locks import take
from hfthot_platform.services.privacy.proof.search import ENCODINGS, Needle

__all__ = ["CANARY_KIND", "CANARY_PREFIX", "Canary", "is_leftover", "removable"]

#: What the names of files, folders and tables with canaries begin with, and the kind of value that a canary is.
CANARY_PREFIX: Final = ".hfthot-canary-"
CANARY_KIND: Final = "canary"
#: Seconds after which a canary that no lock protects is taken for a leftover.
_LONGEST_SCAN: Final = 7 * 24 * 3600


@dataclass(frozen=True)
class Canary:
    """A made-up value that is put everywhere a person's value could be."""

    #: When it was made (seconds as hexadecimal), and something random.
    token: str
    _held: list[int] = field(default_factory=list, repr=False)

    @property
    def value(self) -> str:
        return f"Canary.{self.token}@é/{self.token[-6:]}.invalid"

    @property
    def needle(self) -> Needle:
        return Needle(CANARY_KIND, self.value)

    def hold(self, folder: Path) -> bool:
        """Keep other scans from removing a folder; return False if one was about to, and did."""
        try:
            handle = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
            self._held.append(handle)
            take(handle)
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
            nested = pa.array([{"inner": [text]} for text in column.to_pylist()])
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


@contextmanager
def removable(folder: Path, *, ours: bool) -> Iterator[bool]:
    """Yield whether a canary's folder may be removed: not if a living scan or another user has it."""
    try:
        handle = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC | os.O_NOFOLLOW)
    except OSError:
        yield False
        return
    try:
        yield ours or take(handle, timeout=0)
    finally:
        os.close(handle)


def is_leftover(name: str, token: str | None) -> bool:
    """Whether a name is that of the canary, or (without a token) of one that no living scan can have made."""
    if token is not None:
        return f"{CANARY_PREFIX}{token}" in name
    found = re.search(re.escape(CANARY_PREFIX) + r"([0-9a-f]{8})", name)
    return found is not None and time.time() - int(found.group(1), 16) > _LONGEST_SCAN
