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
from contextlib import contextmanager
from pathlib import Path

from hfthot_platform.errors import LockTimeoutError
from hfthot_platform.lakehouse.storage import translated

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
    with translated(path.stem):
        path.parent.mkdir(parents=True, exist_ok=True)
        handle = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
    try:
        mode = fcntl.LOCK_EX if exclusive else fcntl.LOCK_SH
        deadline = time.monotonic() + timeout
        pause = 0.001
        while True:
            try:
                fcntl.flock(handle, mode | fcntl.LOCK_NB)
                break
            except OSError as error:
                if error.errno not in {errno.EWOULDBLOCK, errno.EACCES}:
                    raise
                if time.monotonic() >= deadline:
                    raise LockTimeoutError(
                        f"the writers' lock was held by others for {timeout:g} s",
                        where=path.stem,
                        hint="Wait for the running writers or maintenance to end, then run the same step again.",
                    ) from None
                time.sleep(pause)
                pause = min(pause * 2, 0.05)
        yield
    finally:
        os.close(handle)
