"""Turns between the writers of a table on an object store, over all hosts: a queue of numbered objects.

A lease gives turns, and no safety: whether a commit stands is decided by Delta's conflict detection alone.  So a lease
may run out while its holder is slow, or be passed over, and nothing is lost but an attempt.

Whoever wants a turn makes the object with the next number, which the store lets only one do, and has its turn when
everybody before is done or dead.  A holder that is done empties its object, and the next one removes it: the newest
object stays, so numbers only rise.  A holder that died is passed over when its object was not renewed for
`LEASE_SECONDS` by the store's own clock.
"""

from __future__ import annotations

import random
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import TYPE_CHECKING, Final

from hfthot_platform.core.errors import LockTimeoutError
from hfthot_platform.storage.objects import create_object, store_errors

if TYPE_CHECKING:
    from obstore.store import ObjectStore

__all__ = ["LEASE_SECONDS", "Turns"]

#: After so long without a renewal a holder counts as dead.
LEASE_SECONDS: Final = 60.0
_RENEWED_EVERY: Final = LEASE_SECONDS / 4
#: For how long writers queue after they met: conflicts cost more than a turn.
_CROWDED_SECONDS: Final = 10.0
_FIRST_PAUSE: Final = 0.02
_LONGEST_PAUSE: Final = 0.25
_HELD: Final = b"1"
_DONE: Final = b""


@dataclass(frozen=True)
class _QueuedWriter:
    number: int
    done: bool
    renewed_at: datetime


class Turns:
    """The turns of one table's writers.

    Args:
        store: the objects of the lake.
        folder: name of the folder for the table's queue.
        table: name of the table, for messages.
    """

    def __init__(self, store: ObjectStore, folder: str, table: str) -> None:
        self._store = store
        self._folder = folder
        self._table = table
        self._crowded_until = 0.0

    @property
    def crowded(self) -> bool:
        """Return whether other writers were met so lately that a turn is cheaper than a conflict."""
        return time.monotonic() < self._crowded_until

    def met(self) -> None:
        """Note that another writer was met."""
        self._crowded_until = time.monotonic() + _CROWDED_SECONDS

    @contextmanager
    def turn(self, timeout: float) -> Iterator[None]:
        """Wait for a turn, and have it for the duration of the block.

        Raises:
            LockTimeoutError: it did not come within `timeout` seconds.
            OSError: the store did not answer.
        """
        number = self._queue(timeout)
        stop = threading.Event()
        renewing = threading.Thread(target=self._renew, args=(number, stop), name="lease", daemon=True)
        renewing.start()
        try:
            yield
        finally:
            stop.set()
            renewing.join()
            self._put(number, _DONE)

    # -- the queue ------------------------------------------------------------------------------------------

    def _queue(self, timeout: float) -> int:
        """Take a number and wait for its turn; return the number."""
        started = time.monotonic()
        queued = self._queued()
        number = max((writer.number for writer in queued), default=0) + 1
        while not create_object(self._store, self._name(number), _HELD):
            # Somebody took it meanwhile, and comes first.
            number += 1
            queued = self._queued()
        pause = _FIRST_PAUSE
        # Whoever has a smaller number took it before this one was made, so that the list has them all.
        while self._somebody_is_before(queued, number, started):
            self.met()
            if time.monotonic() - started > timeout:
                self._put(number, _DONE)
                raise LockTimeoutError(
                    f"other writers had their turns for {timeout:g} s",
                    where=self._table,
                    hint="Wait for the running writers or maintenance to end, then run the same step again.",
                )
            time.sleep(random.uniform(pause / 2, pause))  # noqa: S311 - jitter, not a secret
            pause = min(_LONGEST_PAUSE, pause * 1.5)
            queued = self._queued()
        self._clean(queued, number)
        return number

    def _somebody_is_before(self, queued: list[_QueuedWriter], number: int, started: float) -> bool:
        """Whether somebody alive is before a number.

        By the store's clock: it stamped this process' own object when it was made, or an older one before that.
        """
        own = next((writer.renewed_at for writer in queued if writer.number == number), None)
        newest = own or max((writer.renewed_at for writer in queued), default=None)
        if newest is None:
            return False
        oldest_alive = newest + timedelta(seconds=time.monotonic() - started - LEASE_SECONDS)
        return any(
            writer.number < number and not writer.done and writer.renewed_at >= oldest_alive for writer in queued
        )

    def _clean(self, queued: list[_QueuedWriter], number: int) -> None:
        """Remove the objects before a number whose turn has come."""
        import obstore

        passed = [self._name(writer.number) for writer in queued if writer.number < number]
        if passed:
            with store_errors():
                obstore.delete(self._store, passed)

    def _renew(self, number: int, stop: threading.Event) -> None:
        while not stop.wait(_RENEWED_EVERY):
            try:
                self._put(number, _HELD)
            except OSError:
                continue  # the next renewal may succeed, and where none does the turn runs out

    def _queued(self) -> list[_QueuedWriter]:
        import obstore

        with store_errors():
            found = obstore.list_with_delimiter(self._store, f"{self._folder}/")
        return [
            _QueuedWriter(int(name), meta["size"] == 0, meta["last_modified"])
            for meta in found["objects"]
            if (name := meta["path"].rpartition("/")[2]).isdecimal()
        ]

    def _put(self, number: int, content: bytes) -> None:
        import obstore

        with store_errors():
            obstore.put(self._store, self._name(number), content)

    def _name(self, number: int) -> str:
        return f"{self._folder}/{number:012d}"
