"""The writers' lock of a table: shared for writers, exclusive for maintenance; waited for fairly, and not for ever.

It serialises writers of one host; between hosts (and on object stores, where there is no lock) Delta's own conflict
detection decides, and maintenance keeps to what is safe beside writers.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

from hfthot_platform.core.errors import LockTimeoutError
from hfthot_platform.core.locks import file_lock
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
    with ExitStack() as held:
        try:
            with translated(path.stem):
                path.parent.mkdir(parents=True, exist_ok=True)
                held.enter_context(file_lock(path, shared=not exclusive, timeout=timeout, fair=True))
        except LockTimeoutError:
            raise LockTimeoutError(
                f"other processes held the writers' lock for {timeout:g} s",
                where=path.stem,
                hint="Wait for the running writers or maintenance to end, then run the same step again.",
            ) from None
        yield
