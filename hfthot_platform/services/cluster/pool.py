"""Processes of this host, each with a pipe of its own: one that dies costs the items that it had, and no others."""

from __future__ import annotations

import multiprocessing
import pickle
import signal
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from multiprocessing.connection import Connection, wait
from typing import Any, TypeVar

from hfthot_platform.core.errors import WorkerLostError
from hfthot_platform.services.cluster.cluster import TRIES, Cluster, in_batches, work_on

__all__ = ["Pool"]

_Item = TypeVar("_Item")
_Result = TypeVar("_Result")


@dataclass
class _Task:
    """Items on their way, as they travel."""

    number: int
    content: bytes
    tries: int = 0


class _Worker:
    """A process and the pipe to it."""

    def __init__(self) -> None:
        # A forked process would have the threads' locks of its parent, without the threads.
        context = multiprocessing.get_context("spawn")
        self.pipe, theirs = context.Pipe()
        self.process = context.Process(target=_serve, args=(theirs,), name="hfthot-worker", daemon=True)
        self.process.start()
        theirs.close()
        self.task: _Task | None = None

    def give(self, task: _Task) -> None:
        """Send a task; that a process died meanwhile is seen when its answer is looked for."""
        self.task = task
        task.tries += 1
        try:
            self.pipe.send_bytes(task.content)
        except OSError:
            self.process.kill()

    def answer(self) -> tuple[bool, Any] | None:
        """Return whether the work was done and its results or error; None where the process died over it."""
        try:
            found: tuple[bool, Any] = pickle.loads(self.pipe.recv_bytes())  # noqa: S301 - of our own process
        except (EOFError, OSError):
            return None
        return found

    def end(self) -> None:
        """End the process; what it is doing is done again elsewhere, or wanted by nobody."""
        self.process.kill()
        self.process.join()
        self.pipe.close()


class Pool(Cluster):
    """Processes of this host; they start with the first items and stay for the next ones until `close`."""

    def __init__(self, workers: int) -> None:
        super().__init__(workers)
        self._idle: list[_Worker] = []

    @property
    def processes(self) -> list[int]:
        """Return the numbers of the processes that wait for items."""
        return [worker.process.pid for worker in self._idle if worker.process.pid is not None]

    def close(self) -> None:
        idle, self._idle = self._idle, []
        for worker in idle:
            worker.end()

    def _map(self, work: Callable[[_Item], _Result], items: Sequence[_Item]) -> Iterator[list[_Result]]:
        tasks = (
            _Task(number, pickle.dumps((work, batch))) for number, batch in enumerate(in_batches(items, self.workers))
        )
        repeated: deque[_Task] = deque()
        finished: dict[int, list[_Result]] = {}
        busy: list[_Worker] = []
        taken = 0
        ahead: _Task | None = next(tasks, None)
        try:
            while ahead is not None or repeated or busy or finished:
                # Results wait for the one before them: no more of them than two for each worker.
                while len(busy) < self.workers and (
                    repeated or (ahead is not None and ahead.number < taken + 2 * self.workers)
                ):
                    if repeated:
                        task = repeated.popleft()
                    else:
                        assert ahead is not None
                        task, ahead = ahead, next(tasks, None)
                    worker = self._idle.pop() if self._idle else _Worker()
                    worker.give(task)
                    busy.append(worker)
                if taken not in finished:
                    self._collect(busy, finished, repeated)
                while taken in finished:
                    yield finished.pop(taken)
                    taken += 1
        finally:
            # An error, or nobody who wants the rest: what is being done is not needed.
            for worker in busy:
                worker.end()

    def _collect(self, busy: list[_Worker], finished: dict[int, list[_Result]], repeated: deque[_Task]) -> None:
        """Wait for the next workers that are done or dead, and take what they have."""
        ready = set(wait([worker.pipe for worker in busy]))
        for worker in [worker for worker in busy if worker.pipe in ready]:
            task = worker.task
            assert task is not None
            found = worker.answer()
            busy.remove(worker)
            if found is None:
                worker.end()
                if task.tries >= TRIES:
                    raise WorkerLostError(
                        f"{task.tries} worker processes died over the same items, the last with exit code "
                        f"{worker.process.exitcode}",
                        where="compute",
                        hint="-9 is usually the system out of memory: set HFTHOT_COMPUTE_WORKERS lower.",
                    )
                repeated.append(task)
                continue
            self._idle.append(worker)
            done, content = found
            if not done:
                raise content
            finished[task.number] = content


def _serve(pipe: Connection) -> None:
    """Work on what comes through the pipe until it is closed; this is a worker's whole life."""
    # Ctrl-C goes to the whole group: the parent decides what becomes of its workers.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    while True:
        try:
            content = pipe.recv_bytes()
        except EOFError:
            return
        pipe.send_bytes(_answer(content))


def _answer(content: bytes) -> bytes:
    try:
        work, items = pickle.loads(content)  # noqa: S301 - of our own parent
        return pickle.dumps((True, work_on(work, items)))
    except Exception as error:  # noqa: BLE001 - whatever it is, it is the parent's to raise
        try:
            return pickle.dumps((False, error))
        except Exception:  # noqa: BLE001 - an error of a library that cannot travel
            return pickle.dumps((False, RuntimeError(f"{type(error).__name__}: {error}")))
