"""The one interface of all forms, and its form in threads."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Final, Self, TypeVar

from hfthot_platform.core.parallel import Mapped

__all__ = ["TRIES", "Cluster", "InProcess", "Progress", "in_batches", "work_on"]

_Item = TypeVar("_Item")
_Result = TypeVar("_Result")

#: Is told the name of what is done, how many of its items are, and of how many.
Progress = Callable[[str, int, int], None]
#: Times that items are given to a worker which dies over them.
TRIES: Final = 3
#: Items that travel together at most: a task costs 2 ms, a fit 57 ms.
_LARGEST_BATCH: Final = 20


class Cluster(ABC):
    """Applies a function to many items on several workers.  A context manager.

    Args:
        workers: items that are worked on at once, at most.
    """

    def __init__(self, workers: int) -> None:
        self.workers = max(1, workers)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    @abstractmethod
    def close(self) -> None:
        """End the workers; they start again when they are needed."""

    def map(
        self,
        work: Callable[[_Item], _Result],
        items: Sequence[_Item],
        *,
        name: str = "",
        progress: Progress | None = None,
    ) -> Iterator[_Result]:
        """Yield `work(item)` of each item, in their order; results that are not taken hold further items back.

        Args:
            work: a function of a module, or a `partial` of one with plain values.
            items: plain values.
            name: of what is done, for `progress`.
            progress: is told when more is done.

        Raises:
            WorkerLostError: workers died over the same items again and again.
            Exception: what `work` raised for an item; items that are not begun then are left.
        """
        done = 0
        for results in self._map(work, items):
            done += len(results)
            if progress is not None:
                progress(name, done, len(items))
            yield from results

    def mapped(self, name: str = "", progress: Progress | None = None) -> Mapped:
        """Return `map` as pure code takes it."""

        def mapped(work: Callable[[_Item], _Result], items: Sequence[_Item], /) -> list[_Result]:
            return list(self.map(work, items, name=name, progress=progress))

        return mapped

    @abstractmethod
    def _map(self, work: Callable[[_Item], _Result], items: Sequence[_Item]) -> Iterator[list[_Result]]:
        """Yield the results in lists, in the order of the items."""


class InProcess(Cluster):
    """Threads of this process, for functions whose loops release the interpreter's lock; they end with each `map`."""

    def close(self) -> None:
        pass

    def _map(self, work: Callable[[_Item], _Result], items: Sequence[_Item]) -> Iterator[list[_Result]]:
        with ThreadPoolExecutor(self.workers) as pool:
            for result in pool.map(work, items):
                yield [result]


def in_batches(items: Sequence[_Item], workers: int) -> list[Sequence[_Item]]:
    """Return the items in batches: few enough to be cheap to send, so many that workers end together."""
    size = max(1, min(_LARGEST_BATCH, len(items) // (4 * workers)))
    return [items[start : start + size] for start in range(0, len(items), size)]


def work_on(work: Callable[[_Item], _Result], items: Sequence[_Item]) -> list[_Result]:
    """Do a batch, where the worker is."""
    return [work(item) for item in items]
