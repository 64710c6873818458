"""The writers' lock of a table: shared for writers, exclusive for maintenance.

It is a `flock` on a small file beside the tables: the kernel releases it when a process dies, however it
dies, so no stale lock can remain.  It serialises writers of one host; between hosts (and on object stores,
where there is no lock) Delta's own conflict detection decides, and maintenance keeps to what is safe beside
writers.
"""

from __future__ import annotations

import errno
import fcntl
import os
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

from hfthot_platform.core.errors import LockTimeoutError
from hfthot_platform.core.files import open_private
from hfthot_platform.storage.lakehouse.storage import translated

__all__ = ["writers_lock"]


@contextmanager
def writers_lock(path: Path | None, *, exclusive: bool, timeout: float = 120.0) -> Iterator[None]:
    """Hold the lock for the duration of the block.  `path` None (an object store) locks nothing.

    Raises:
        LockTimeoutError: another process held it for longer than `timeout` seconds.
        StorageReadOnlyError, StorageFullError: the lock file cannot be made.
    """
    if path is None:
        yield
        return
    deadline = time.monotonic() + timeout
    with ExitStack() as held:
        # Everybody comes in through the gate, one at a time.  Whoever waits for the exclusive lock holds the gate
        # meanwhile, so a stream of writers cannot starve maintenance.
        with ExitStack() as entering:
            gate = _open(path.with_suffix(".gate"), path.stem, entering)
            lock = _open(path, path.stem, held)
            taken = _take(gate, fcntl.LOCK_EX, deadline) and _take(
                lock, fcntl.LOCK_EX if exclusive else fcntl.LOCK_SH, deadline
            )
        if not taken:
            raise LockTimeoutError(
                f"the writers' lock was held by others for {timeout:g} s",
                where=path.stem,
                hint="Wait for the running writers or maintenance to end, then run the same step again.",
            )
        yield


def _open(path: Path, table: str, closing: ExitStack) -> int:
    with translated(table):
        path.parent.mkdir(parents=True, exist_ok=True)
        handle = open_private(path)
    closing.callback(os.close, handle)
    return handle


def _take(handle: int, mode: int, deadline: float) -> bool:
    """Take a lock; return False if it was not to be had before the deadline."""
    pause = 0.001
    while True:
        try:
            fcntl.flock(handle, mode | fcntl.LOCK_NB)
        except OSError as error:
            if error.errno not in {errno.EWOULDBLOCK, errno.EACCES}:
                raise
        else:
            return True
        if time.monotonic() >= deadline:
            return False
        time.sleep(pause)
        pause = min(pause * 2, 0.02)
