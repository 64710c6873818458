"""The process that reads SQLite files for `sqlite_reader`: it answers requests for ranges of bytes.

It runs as a program of its own, without the package and with as few modules as there can be: a scan waits for it to
start.  Nothing that needs another import belongs here.
"""

from __future__ import annotations

import errno
import os
import stat
import struct
import sys

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import IO, Final

__all__ = ["ANSWER", "REQUEST", "opened"]

#: Offset, bytes wanted, length of the path that follows.
REQUEST: Final = struct.Struct("<QQQ")
#: `errno` or 0, length of the bytes that follow.
ANSWER: Final = struct.Struct("<qQ")


def opened(path: str, flags: int) -> int:
    """Open a regular file, and nothing else."""
    handle = os.open(path, flags | os.O_CLOEXEC | os.O_NONBLOCK)
    if not stat.S_ISREG(os.fstat(handle).st_mode):
        os.close(handle)
        raise OSError(errno.EINVAL, "it is not a regular file", path)
    return handle


def _serve(requests: IO[bytes], answers: IO[bytes]) -> None:
    """Answer requests until there are no more: the child's part."""
    while head := requests.read(REQUEST.size):
        offset, size, length = REQUEST.unpack(head)
        data, failed = b"", 0
        try:
            handle = opened(os.fsdecode(requests.read(length)), os.O_RDONLY)
            try:
                data = os.pread(handle, size, offset)
            finally:
                os.close(handle)
        except OSError as error:
            failed = error.errno or errno.EIO
        answers.write(ANSWER.pack(failed, len(data)))
        answers.write(data)
        answers.flush()


if __name__ == "__main__":
    _serve(sys.stdin.buffer, sys.stdout.buffer)
