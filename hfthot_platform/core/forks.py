"""What a forked child must not touch: locks, connections and processes of its parent.

A lock that another thread of the parent held stays locked in the child for ever, and ending a connection whose threads
are the parent's can end the child.  What belongs here: telling long-lived objects that they are in a child.  What does
not: what each of them then makes anew.
"""

from __future__ import annotations

import os
import weakref
from typing import Final, Protocol

__all__ = ["ForkAware", "keep_for_parent", "tell_in_child"]


class ForkAware(Protocol):
    """An object that is told when its process is a forked child."""

    def after_fork_in_child(self) -> None:
        """Make locks anew, and let go of what is the parent's (`keep_for_parent`); no other thread runs."""


_TOLD: Final[weakref.WeakSet[ForkAware]] = weakref.WeakSet()
#: What is the parent's: never used here, and never ended, which is why something refers to it.
_OF_PARENT: Final[list[object]] = []


def tell_in_child(owner: ForkAware) -> None:
    """Tell an object from now on in every forked child, as long as it lives."""
    _TOLD.add(owner)


def keep_for_parent(*things: object) -> None:
    """Keep the parent's things as they are until the child ends."""
    _OF_PARENT.extend(things)


def _tell_all() -> None:
    for owner in list(_TOLD):
        owner.after_fork_in_child()


os.register_at_fork(after_in_child=_tell_all)
