"""What parent and worker say to each other: frames of one kind byte, a length and a body, over a local socket.

The parent's messages are its own, so they are pickled.  A worker's are taken for hostile: JSON within a bound, and
Arrow messages that `results` checks before it reads them.
"""

from __future__ import annotations

import socket
import struct
from typing import Final

__all__ = [
    "BATCH",
    "DONE",
    "ERROR",
    "JOB",
    "MAX_FRAME",
    "MAX_NOTE",
    "MAX_TREE",
    "REFERENCES",
    "SCHEMA",
    "SUPPLY",
    "TREE",
    "ClosedError",
    "receive",
    "send",
]

#: Parent to worker: the statement; the relations that it may read.
JOB, SUPPLY = b"J", b"P"
#: Worker to parent, in this order: what the statement names, its tree where it was asked for, then the result piece by
#: piece, or an error.
REFERENCES, TREE, SCHEMA, BATCH, DONE, ERROR = b"R", b"T", b"S", b"B", b"D", b"E"

#: What a worker says that is no row.
_NOTES: Final = REFERENCES + TREE + SCHEMA + DONE + ERROR
_HEAD: Final = struct.Struct("!cI")
#: Largest frame with rows; one row that is larger than this cannot be returned.
MAX_FRAME: Final = 16 * 2**20
#: Largest frame of any other kind from a worker.
MAX_NOTE: Final = 2**20
#: Largest tree of a statement: of a larger one the files are not chosen.
MAX_TREE: Final = 2**16


class ClosedError(Exception):
    """The other side is gone, or says what is not part of this protocol."""


def send(connection: socket.socket, kind: bytes, body: bytes | memoryview) -> None:
    """Send one frame.

    Raises:
        ClosedError: the other side is gone.
    """
    try:
        connection.sendall(_HEAD.pack(kind, len(body)))
        connection.sendall(body)
    except OSError as error:
        raise ClosedError(str(error)) from None


def receive(connection: socket.socket, largest: int, kinds: bytes) -> tuple[bytes, bytearray]:
    """Wait for one frame and return its kind and body.

    Raises:
        ClosedError: the other side is gone, or sends more than `largest` bytes or another kind.
    """
    kind, size = _HEAD.unpack(_exactly(connection, _HEAD.size))
    if kind not in kinds or size > (min(largest, MAX_NOTE) if kind in _NOTES else largest):
        raise ClosedError(f"a frame of kind {kind!r} with {size} bytes")
    return kind, _exactly(connection, size)


def _exactly(connection: socket.socket, size: int) -> bytearray:
    # Grown as the bytes come in: a length that is only claimed takes no memory.
    body = bytearray(min(size, MAX_NOTE))
    filled = 0
    while filled < size:
        if filled == len(body):
            body.extend(bytes(min(size - filled, len(body))))
        with memoryview(body) as view:
            try:
                got = connection.recv_into(view[filled:])
            except OSError as error:
                raise ClosedError(str(error)) from None
        if not got:
            raise ClosedError("the connection ended")
        filled += got
    return body
