"""Reads SQLite files in a process of its own.

POSIX locks are a process's, per file: whoever closes a file lets go of every lock that its process has on it, those of
open connections too (https://www.sqlite.org/howtocorrupt.html, 2.2).  A database that this process may have open, as
it has the store and Dagster's, is therefore read by a child, which answers requests for ranges of bytes.  The child
(`sqlite_child`) knows nothing of what is looked for.
"""

from __future__ import annotations

import errno
import io
import os
import subprocess
import sys
from pathlib import Path
from types import TracebackType
from typing import Any, BinaryIO, Final, Self

from hfthot_platform.services.privacy.proof import sqlite_child
from hfthot_platform.services.privacy.proof.sqlite_child import ANSWER, REQUEST, opened

__all__ = ["SQLITE", "FileOpener"]

#: What a SQLite database begins with.
SQLITE: Final = b"SQLite format 3\x00"
#: The files beside a database; the `-shm` has locks of its own.
_SQLITE_SIDECARS: Final = ("-wal", "-shm", "-journal")
_BUFFER: Final = 1 << 20


class FileOpener:
    """Opens files to read, SQLite's through child processes; they end with the block.  Safe to use from threads."""

    def __init__(self) -> None:
        self._idle: list[subprocess.Popen[bytes]] = []

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        while self._idle:
            _end(self._idle.pop())

    def open(self, path: Path) -> BinaryIO:
        """Open a file.

        Raises:
            OSError: it cannot be read, or no child can be started.
        """
        # An empty file becomes a database with its first table.
        if path.name.endswith(_SQLITE_SIDECARS) or self.read(path, 0, len(SQLITE)) in {b"", SQLITE}:
            return io.BufferedReader(_Remote(self, path), _BUFFER)
        # What became a pipe since it was looked at is not waited for.
        return open(path, "rb", opener=opened)

    def read(self, path: Path, offset: int, size: int) -> bytes:
        """Return up to `size` bytes of a file from `offset` on, read by a child; none at its end."""
        try:
            child = self._idle.pop()
        except IndexError:
            child = _started()
        try:
            failed, data = _asked(child, os.fsencode(path), offset, size)
        except BaseException:
            # What it says next would be the answer to another question.
            _end(child)
            raise
        self._idle.append(child)
        if failed:
            raise OSError(failed, os.strerror(failed), str(path))
        return data


class _Remote(io.RawIOBase):
    """A file that a child reads."""

    def __init__(self, opener: FileOpener, path: Path) -> None:
        self._opener = opener
        self._path = path
        self._at = 0

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def tell(self) -> int:
        return self._at

    def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
        begin = {os.SEEK_SET: 0, os.SEEK_CUR: self._at}
        self._at = offset + (self._path.stat().st_size if whence == os.SEEK_END else begin[whence])
        return self._at

    def readinto(self, target: Any) -> int:
        data = self._opener.read(self._path, self._at, min(len(target), _BUFFER))
        target[: len(data)] = data
        self._at += len(data)
        return len(data)


def _started() -> subprocess.Popen[bytes]:
    # Without the platform's folders and packages, and in a group of its own: an interrupt is the parent's to handle.
    command = [sys.executable, "-I", "-S", sqlite_child.__file__]
    return subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, process_group=0)  # noqa: S603


def _end(child: subprocess.Popen[bytes]) -> None:
    child.kill()
    with child:
        pass


def _asked(child: subprocess.Popen[bytes], path: bytes, offset: int, size: int) -> tuple[int, bytes]:
    """Return `errno`, or 0, and the bytes."""
    requests, answers = child.stdin, child.stdout
    assert requests is not None and answers is not None  # noqa: PT018 - one fact
    requests.write(REQUEST.pack(offset, size, len(path)) + path)
    requests.flush()
    head = answers.read(ANSWER.size)
    if len(head) == ANSWER.size:
        failed, length = ANSWER.unpack(head)
        data = answers.read(length)
        if len(data) == length:
            return failed, data
    raise OSError(errno.EPIPE, "the process that reads SQLite files ended", os.fsdecode(path))
