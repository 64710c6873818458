"""Turns between the writers of a table on an object store, over all hosts: a queue of numbered objects.

A lease gives turns, and no safety: whether a commit stands is decided by Delta's conflict detection alone.  So a lease
may run out while its holder is slow, or be passed over, and nothing is lost but an attempt.

Whoever wants a turn makes the object with the next number, which the store lets only one do, and has its turn when
everybody before is done or dead.  A holder that is done empties its object, and the next one removes it: the newest
object stays, so numbers only rise.  A holder that died is passed over when its object was not renewed for
`LEASE_SECONDS` by the store's own clock.
"""

from __future__ import annotations

import logging
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

_LOG: Final = logging.getLogger(__name__)
#: After so long without a renewal a holder counts as dead.
LEASE_SECONDS: Final = 60.0
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
        lease: seconds without a renewal after which a holder counts as dead.
    """

    def __init__(self, store: ObjectStore, folder: str, table: str, *, lease: float = LEASE_SECONDS) -> None:
        self._store = store
        self._lease = lease
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
        started = time.monotonic()
        number, queued = self._take_number()
        stop = threading.Event()
        # Renewed from here on: whoever waits is alive too, for those behind.
        renewing = threading.Thread(target=self._renew, args=(number, stop), name="lease", daemon=True)
        renewing.start()
        try:
            self._wait(number, queued, started, timeout)
            yield
        finally:
            stop.set()
            renewing.join()
            self._leave(number)

    # -- the queue ------------------------------------------------------------------------------------------

    def _take_number(self) -> tuple[int, list[_QueuedWriter]]:
        """Take a number; return it with those who were there before."""
        queued = self._queued()
        number = max((writer.number for writer in queued), default=0) + 1
        while not create_object(self._store, self._name(number), _HELD):
            # Somebody took it meanwhile, and comes first.
            number += 1
            queued = self._queued()
        return number, queued

    def _wait(self, number: int, queued: list[_QueuedWriter], started: float, timeout: float) -> None:
        """Wait until everybody before a number is done or dead."""
        pause = _FIRST_PAUSE
        # Whoever has a smaller number took it before this one was made, so that the list has them all.
        while self._somebody_is_before(queued, number):
            self.met()
            if time.monotonic() - started > timeout:
                raise LockTimeoutError(
                    f"other writers had their turns for {timeout:g} s",
                    where=self._table,
                    hint="Wait for the running writers or maintenance to end, then run the same step again.",
                )
            time.sleep(random.uniform(pause / 2, pause))  # noqa: S311 - jitter, not a secret
            pause = min(_LONGEST_PAUSE, pause * 1.5)
            queued = self._queued()
        self._clean(queued, number)

    def _somebody_is_before(self, queued: list[_QueuedWriter], number: int) -> bool:
        """Whether somebody alive is before a number.

        By the store's clock, which is at least as late as the newest time that it stamped on any of the objects: this
        process renews its own, so that the newest is never old.
        """
        newest = max((writer.renewed_at for writer in queued), default=None)
        if newest is None:
            return False
        oldest_alive = newest - timedelta(seconds=self._lease)
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

    def _leave(self, number: int) -> None:
        try:
            self._put(number, _DONE)
        except OSError as error:
            # What was done in the turn stands; the next one's comes when this one runs out.
            _LOG.warning("%s: the end of a writer's turn could not be noted: %s", self._table, error)

    def _renew(self, number: int, stop: threading.Event) -> None:
        while not stop.wait(self._lease / 4):
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
