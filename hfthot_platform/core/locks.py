"""Locks between the processes and threads of one host: `flock` on a file.  The only place that calls it.

The kernel lets go of such a lock when its process ends, however it ends, so no stale lock can remain.  What belongs
here: taking and letting go.  What does not: what a lock protects, and leases between hosts.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
import random
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Final

from hfthot_platform.core.errors import LockTimeoutError
from hfthot_platform.core.files import open_private

__all__ = ["acquire_in_turn", "file_lock", "is_locked", "release_lock", "take"]

_FIRST_PAUSE: Final = 0.001
_LONGEST_PAUSE: Final = 0.02


@contextlib.contextmanager
def file_lock(
    path: Path, *, shared: bool = False, timeout: float | None = None, fair: bool = False, where: str = ""
) -> Iterator[None]:
    """Hold the lock of a file for the duration of the block; the file is made where there is none, with mode 0600.

    Args:
        path: the lock's file; its folder must be there.
        shared: whether others may hold it at the same time, if they take it shared too.
        timeout: seconds to wait at most; None waits without end, 0 tries once.
        fair: everybody comes in through a gate (a second file, `.gate`), one at a time, so that a stream of shared
            holders cannot keep an exclusive one out.
        where: what the lock is of, for the message; the file's name by default.

    Raises:
        LockTimeoutError: others held it for longer than `timeout`.
        OSError: the lock's file cannot be made or opened.
    """
    with contextlib.ExitStack() as opened:
        lock = _opened(path, opened)
        with contextlib.ExitStack() as entering:
            if fair:
                gate = _opened(path.with_suffix(".gate"), entering)
                taken = acquire_in_turn(gate, lock, shared=shared, timeout=timeout)
            else:
                taken = take(lock, shared=shared, timeout=timeout)
        if not taken:
            raise LockTimeoutError(
                f"another process held the lock for {timeout:g} s",
                where=where or path.stem,
                hint="Wait for the process that holds it to end, then run the same step again.",
            )
        owner = os.getpid()
        try:
            yield
        finally:
            # Said explicitly, since a child that was forked meanwhile has the handle too, and would keep the lock;
            # such a child itself must leave it alone.
            if os.getpid() == owner:
                release_lock(lock)


def take(handle: int, *, shared: bool = False, timeout: float | None = None) -> bool:
    """Take the lock of an open file, unless this handle has it; return False if others kept it for `timeout` seconds.

    Threads and processes that opened the file for themselves exclude each other; copies of one handle do not.
    """
    mode = fcntl.LOCK_SH if shared else fcntl.LOCK_EX
    if timeout is None:
        fcntl.flock(handle, mode)
        return True
    deadline = time.monotonic() + timeout
    pause = _FIRST_PAUSE
    while not _took(handle, mode):
        left = deadline - time.monotonic()
        if left <= 0:
            return False
        # With jitter: those who wait do not all come back at once.
        time.sleep(min(left, pause * random.uniform(0.5, 1.5)))  # noqa: S311 - not a secret
        pause = min(pause * 2, _LONGEST_PAUSE)
    return True


def acquire_in_turn(gate: int, lock: int, *, shared: bool = False, timeout: float | None = None) -> bool:
    """Take a lock through a gate that only one may stand in: whoever waits in it is next.  As `take` otherwise."""
    began = time.monotonic()
    if not take(gate, timeout=timeout):
        return False
    try:
        left = None if timeout is None else max(0.0, timeout - (time.monotonic() - began))
        return take(lock, shared=shared, timeout=left)
    finally:
        release_lock(gate)


def release_lock(handle: int) -> None:
    """Let go of the lock of an open file, if this handle has it."""
    fcntl.flock(handle, fcntl.LOCK_UN)


def is_locked(path: Path) -> bool:
    """Return whether anybody holds the lock of a file right now.

    Raises:
        OSError: there is no such file, or it cannot be opened.
    """
    handle = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        return not take(handle, timeout=0)
    finally:
        os.close(handle)


def _opened(path: Path, closing: contextlib.ExitStack) -> int:
    handle = open_private(path)
    closing.callback(os.close, handle)
    return handle


def _took(handle: int, mode: int) -> bool:
    try:
        fcntl.flock(handle, mode | fcntl.LOCK_NB)
    except OSError as error:
        # On NFS, where flock is a lock of a range, it is EACCES.
        if error.errno in {errno.EWOULDBLOCK, errno.EACCES}:
            return False
        raise
    return True
