"""How a function is applied to many items at once: the port, and its form in threads of this process.

What belongs here: the port that pure code is given, so that it need not know whether its items are computed in
threads, in processes or on a cluster.  What does not: those other forms, which are in `services.cluster`.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Protocol, TypeVar

__all__ = ["Mapped", "in_threads"]

_Item = TypeVar("_Item")
_Result = TypeVar("_Result")


class Mapped(Protocol):
    """Applies a function to items, and returns the results in the order of the items.

    Other forms than threads need a function of a module (or a `partial` of one) and items that can be pickled.
    """

    def __call__(self, work: Callable[[_Item], _Result], items: Sequence[_Item], /) -> list[_Result]:
        """Return `[work(item) for item in items]`."""


def in_threads(workers: int) -> Mapped:
    """Return the form in threads, for functions that release the interpreter's lock in their loops."""

    def mapped(work: Callable[[_Item], _Result], items: Sequence[_Item], /) -> list[_Result]:
        with ThreadPoolExecutor(max(1, workers)) as pool:
            return list(pool.map(work, items))

    return mapped
