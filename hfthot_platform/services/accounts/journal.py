"""Counts that are kept in memory before they are audited together.

A successful verification of a key or token happens thousands of times a second and changes nothing; a refused attempt
can be repeated without end by anybody.  Writing each to the audit log would make the log useless and the disk a
target, so verifications are always counted, and refusals once the same one was written a few times in a minute.
"""

from __future__ import annotations

import threading
import time
from typing import Final, NamedTuple

from hfthot_platform.core.forks import tell_in_child
from hfthot_platform.storage.operational.changes import Outcome

__all__ = ["Journal", "Tally"]

#: Seconds after which counts are written, and entries per minute of the same refusal, and of all kinds together.
INTERVAL: Final = 60.0
SAME: Final = 5
ALTOGETHER: Final = 300
#: Tallies that are kept at most before they are written.
MOST: Final = 10_000


class Tally(NamedTuple):
    """What is counted together."""

    action: str
    outcome: Outcome
    subject_id: str | None
    actor_id: str
    resource: str | None


class Journal:
    """Counts per tally.  Threads share it; a forked child begins with an empty one."""

    def __init__(self) -> None:
        self._clear()
        tell_in_child(self)

    def after_fork_in_child(self) -> None:
        """Begin with nothing: what was counted is the parent's to write; called by the interpreter."""
        self._clear()

    def _clear(self) -> None:
        # Another thread of the parent may have held the lock when it forked.
        self._lock = threading.Lock()
        self._counts: dict[Tally, list[int]] = {}
        self._minute = -1
        self._admitted: dict[Tally, int] = {}
        self._all = 0
        self._due = time.monotonic() + INTERVAL

    def count(self, tally: Tally, now: int) -> bool:
        """Count one (`now` in microseconds); return whether it is time to write the counts."""
        with self._lock:
            found = self._counts.get(tally)
            if found is None:
                self._counts[tally] = [1, now, now]
            else:
                found[0] += 1
                found[2] = now
            return time.monotonic() >= self._due or len(self._counts) >= MOST

    def admits(self, tally: Tally, now: int) -> bool:
        """Say whether an attempt may have an audit entry of its own; if not, it is counted."""
        with self._lock:
            minute = int(time.monotonic() // 60)
            if minute != self._minute:
                self._minute, self._admitted, self._all = minute, {}, 0
            same = self._admitted.get(tally, 0)
            if same < SAME and self._all < ALTOGETHER:
                self._admitted[tally] = same + 1
                self._all += 1
                return True
        self.count(tally, now)
        return False

    def take(self) -> list[tuple[Tally, int, int, int]]:
        """Return the counts, `(tally, count, first, last)`, and begin anew."""
        with self._lock:
            counts, self._counts = self._counts, {}
            self._due = time.monotonic() + INTERVAL
        return [(tally, count, first, last) for tally, (count, first, last) in counts.items()]
