"""The processes that statements run in, and the queue before them.

All callers of a server share one pool: a spawner, a few workers that are forked and ready, and a queue in which each
caller has its own line.  A free place goes to the caller that has had the least of the workers' time lately, and no
caller has more than its share of the places at once, so that slow statements of some never keep others waiting for
longer than one of them may run.  A worker runs one statement and is killed, whatever it says.
"""

from __future__ import annotations

import atexit
import contextlib
import json
import os
import pickle
import signal
import socket
import subprocess
import sys
import threading
import time
from collections import OrderedDict, deque
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final, Literal, Self

from hfthot_platform.core.errors import (
    HfthotError,
    SqlBusyError,
    SqlCancelledError,
    SqlDeadlineError,
    SqlMemoryError,
    SqlWorkerError,
)
from hfthot_platform.services.sql.gateway import protocol, spawner
from hfthot_platform.services.sql.gateway.limits import QueryLimits
from hfthot_platform.services.sql.gateway.worker import Job, Supply

__all__ = ["GatewayPool", "PoolFacts", "Ticket", "WorkerProcess"]

#: Seconds that the spawner may take for a word: it loads its libraries before the first one.
_SPAWNER_SECONDS: Final = 30.0
#: Seconds after which half of the workers' time that a caller had counts no more.
_HALF_LIFE: Final = 60.0
#: Callers whose time is remembered.
MOST_ACCOUNTS: Final = 10_000
_Ended = Literal["", "cancelled", "deadline"]


class Ticket:
    """One statement's place in the queue, and later its worker; what cancels it."""

    def __init__(self, caller: str) -> None:
        self.caller = caller
        self.lock = threading.Condition()
        self.worker: WorkerProcess | None = None
        self.ended: _Ended = ""
        self.turn = False
        #: When its turn came.
        self.since = 0.0

    def end(self, why: _Ended) -> None:
        """Stop the statement, wherever it is."""
        with self.lock:
            self.ended = self.ended or why
            if self.worker is not None:
                self.worker.kill()
            self.lock.notify_all()

    def check(self) -> None:
        """Raise what ended the statement, if something did.

        Raises:
            SqlCancelledError: its caller did.
            SqlDeadlineError: its time was over.
        """
        if self.ended == "cancelled":
            raise SqlCancelledError("the statement was cancelled", where="SQL")
        if self.ended == "deadline":
            raise SqlDeadlineError(
                "the statement exceeded its time limit and was stopped",
                where="SQL",
                hint="Filter by time and symbol, or aggregate earlier.",
            )


class WorkerProcess:
    """A process that waits for one statement; `pid` is its number."""

    def __init__(self, pool: GatewayPool, starter: _Spawner, pid: int, connection: socket.socket) -> None:
        self._pool = pool
        self._starter = starter
        self.pid = pid
        self.connection = connection
        self._lock = threading.Lock()
        self._killed = False
        self.status: int | None = None

    def kill(self) -> None:
        """End the process at once.

        Its number cannot mean another process: it is only collected in `close`, as long as its starter lives, and
        ends with it.
        """
        with self._lock:
            if not self._killed and self._starter.process.poll() is None:
                self._killed = True
                with contextlib.suppress(ProcessLookupError, PermissionError):
                    os.killpg(self.pid, signal.SIGKILL)
                with contextlib.suppress(ProcessLookupError):
                    os.kill(self.pid, signal.SIGKILL)

    def alive(self) -> bool:
        """Whether the process still waits at the other end."""
        try:
            return bool(self.connection.recv(1, socket.MSG_PEEK | socket.MSG_DONTWAIT))
        except BlockingIOError:
            return True
        except OSError:
            return False

    def start(self, job: Job) -> None:
        """Send the statement."""
        protocol.send(self.connection, protocol.JOB, pickle.dumps(job))

    def supply(self, supply: Supply) -> None:
        """Send what it may read."""
        protocol.send(self.connection, protocol.SUPPLY, pickle.dumps(supply))

    def close(self) -> None:
        """End and collect the process."""
        if self.status is None:
            # How it ended by itself is told by the status, if it did: a dying process closes its socket first.
            self.kill()
            self.connection.close()
            self.status = self._pool.collect(self.pid)

    def fault(self) -> HfthotError:
        """Return why a worker that closed its socket too early may have ended; `close` it first."""
        if self.status is not None and os.WIFSIGNALED(self.status):
            number = os.WTERMSIG(self.status)
            if number == signal.SIGXCPU:
                return SqlDeadlineError("the statement exceeded its limit of processor time", where="SQL")
            if number in {signal.SIGSEGV, signal.SIGABRT, signal.SIGBUS, signal.SIGFPE, signal.SIGILL, signal.SIGKILL}:
                return SqlMemoryError(
                    "the statement exceeded its memory limit, or is nested too deeply",
                    where="SQL",
                    hint="Filter or aggregate earlier, and split deeply nested expressions.",
                )
        return SqlWorkerError("the process that ran the statement died", where="SQL", hint="Try again.")


@dataclass(frozen=True)
class PoolFacts:
    """What a pool has at a moment."""

    #: Process id of the spawner, and its number of threads; None before the first statement.
    spawner: int | None
    threads: int | None
    #: The walls that this machine's kernel has, by name.
    sandbox: dict[str, bool]
    #: Process ids of the workers that wait for a statement.
    ready: tuple[int, ...]
    #: Statements that run, and that wait, by caller.
    running: dict[str, int]
    waiting: dict[str, int]
    #: Callers whose use of the workers is remembered.
    remembered: int


@dataclass
class _Spawner:
    process: subprocess.Popen[bytes]
    control: socket.socket
    facts: dict[str, Any] = field(default_factory=dict)


class GatewayPool:
    """WorkerProcess processes for all callers of this process.

    Args:
        workers: statements that run at once.
        queue: statements that may wait, of all callers together.
        queue_per_caller: the same of one caller.
        running_per_caller: statements of one caller that run at once; by default half of the workers, at least one.
        limits: what no statement may exceed, whatever its policy says.
        ready: workers that are kept waiting, forked.
    """

    def __init__(
        self,
        *,
        workers: int = 2,
        queue: int = 64,
        queue_per_caller: int = 16,
        running_per_caller: int | None = None,
        limits: QueryLimits | None = None,
        ready: int | None = None,
    ) -> None:
        self.limits = limits or QueryLimits(rows=2**62, bytes=2**50, seconds=3600.0, queue_seconds=3600.0, memory=2**34)
        self.workers = workers
        self._queue = queue
        self._queue_per_caller = queue_per_caller
        self._running_per_caller = max(1, workers // 2) if running_per_caller is None else running_per_caller
        self._ready = workers if ready is None else ready
        self._owner = os.getpid()
        self._spawner: _Spawner | None = None
        self._talk = threading.Lock()
        self._state = threading.Condition()
        self._closed = False
        #: Statements that wait, in a line for each caller; the lines in the order in which they began.
        self._lines: OrderedDict[str, deque[Ticket]] = OrderedDict()
        #: Statements whose turn it is, by caller.
        self._running: dict[str, set[Ticket]] = {}
        #: Seconds of the workers that callers had, halved every minute, and when that was reckoned.
        self._served: dict[str, tuple[float, float]] = {}
        self._idle: deque[WorkerProcess] = deque()
        self._deadlines: dict[Ticket, float] = {}
        self._uses: dict[str, deque[float]] = {}
        self._threads: list[threading.Thread] = []
        atexit.register(self.close)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def facts(self) -> PoolFacts:
        """Return what there is at this moment, for those who watch over a server; nothing is started for it."""
        with self._talk:
            spawner_process, said = (
                (None, {}) if self._spawner is None else (self._spawner.process.pid, self._spawner.facts)
            )
        with self._state:
            return PoolFacts(
                spawner=spawner_process,
                threads=said.get("threads"),
                sandbox=dict(said.get("sandbox", {})),
                ready=tuple(worker.pid for worker in self._idle),
                running={caller: len(tickets) for caller, tickets in self._running.items()},
                waiting={caller: len(line) for caller, line in self._lines.items()},
                remembered=len(self._served),
            )

    def warm(self) -> None:
        """Start everything now, instead of with the first statement."""
        self._refill()

    def close(self) -> None:
        """End all workers; statements that run or wait end with an error."""
        if self._owner != os.getpid():
            return
        with self._state:
            if self._closed:
                return
            self._closed = True
            tickets = [*self._deadlines, *(ticket for line in self._lines.values() for ticket in line)]
            self._state.notify_all()
        for ticket in tickets:
            ticket.end("cancelled")
        for thread in self._threads:
            if thread is not threading.current_thread():
                thread.join(_SPAWNER_SECONDS)
        with self._talk:
            for worker in self._idle:
                worker.kill()
                worker.connection.close()
            self._idle.clear()
            if self._spawner is not None:
                self._spawner.control.close()
                try:
                    self._spawner.process.wait(5)
                except subprocess.TimeoutExpired:
                    self._spawner.process.kill()
                    self._spawner.process.wait()
                self._spawner = None
        atexit.unregister(self.close)

    # -- the queue --------------------------------------------------------------------------------------------------

    def admit(self, ticket: Ticket, seconds: float) -> None:
        """Wait for the ticket's turn; `leave` gives the place back.

        Raises:
            SqlBusyError: the queue is full, or no turn came in time.
            SqlCancelledError: the statement was cancelled while it waited.
        """
        with self._state:
            self._require_open()
            line = self._lines.get(ticket.caller, ())
            if len(line) >= self._queue_per_caller or sum(map(len, self._lines.values())) >= self._queue:
                raise SqlBusyError("too many statements are waiting", where="SQL", hint="Try again in a few seconds.")
            self._lines.setdefault(ticket.caller, deque()).append(ticket)
            self._hand_out()
        with ticket.lock:
            ticket.lock.wait_for(lambda: ticket.turn or ticket.ended, seconds)
        with self._state:
            if ticket.turn and not ticket.ended:
                return
            self._forget(ticket)
        ticket.check()
        raise SqlBusyError(
            f"no worker became free within {seconds:g} seconds", where="SQL", hint="Try again in a few seconds."
        )

    def leave(self, ticket: Ticket) -> None:
        """Give the ticket's place to the next one."""
        with self._state:
            self._deadlines.pop(ticket, None)
            self._give_back(ticket)
            self._hand_out()

    def _forget(self, ticket: Ticket) -> None:
        line = self._lines.get(ticket.caller)
        if line is not None and ticket in line:
            line.remove(ticket)
            if not line:
                del self._lines[ticket.caller]
        self._give_back(ticket)
        self._hand_out()

    def _give_back(self, ticket: Ticket) -> None:
        """End a ticket's turn, and add the time that it took to its caller's account."""
        if not ticket.turn:
            return
        ticket.turn = False
        running = self._running[ticket.caller]
        running.discard(ticket)
        if not running:
            del self._running[ticket.caller]
        now = time.monotonic()
        self._served[ticket.caller] = self._had(ticket.caller, now) + now - ticket.since, now
        if len(self._served) > MOST_ACCOUNTS:
            # Who had least, or long ago, is as good as new.
            kept = sorted(self._served, key=lambda caller: self._had(caller, now))[MOST_ACCOUNTS // 2 :]
            self._served = {caller: self._served[caller] for caller in kept}

    def _had(self, caller: str, now: float) -> float:
        """Return the seconds of the workers that a caller had lately, those of running statements included."""
        seconds, then = self._served.get(caller, (0.0, now))
        running = sum(now - ticket.since for ticket in self._running.get(caller, ()))
        return float(seconds * 0.5 ** ((now - then) / _HALF_LIFE) + running)

    def _hand_out(self) -> None:
        """Give free places to the callers who had least, none more than its share of them."""
        while sum(map(len, self._running.values())) < self.workers:
            now = time.monotonic()
            waiting = [
                caller for caller in self._lines if len(self._running.get(caller, ())) < self._running_per_caller
            ]
            if not waiting:
                return
            caller = min(waiting, key=lambda candidate: self._had(candidate, now))  # of equals, who began to wait first
            line = self._lines[caller]
            ticket = line.popleft()
            if not line:
                del self._lines[caller]
            self._running.setdefault(caller, set()).add(ticket)
            with ticket.lock:
                ticket.turn, ticket.since = True, now
                ticket.lock.notify_all()

    def _require_open(self) -> None:
        if self._closed:
            raise SqlWorkerError("the gateway is closed", where="SQL")
        if self._owner != os.getpid():
            raise SqlWorkerError(
                "the gateway's pool was opened by the parent process",
                where="SQL",
                hint="Open another pool after the fork.",
            )

    def count_use(self, caller: str, count: int, seconds: float) -> float:
        """Count a use in memory if it is within `count` uses in `seconds`; else return the seconds to wait.

        Returns:
            0 where it was counted.
        """
        now = time.monotonic()
        with self._state:
            if len(self._uses) >= MOST_ACCOUNTS:
                # Whoever did not ask for a whole window has all of it again.
                self._uses = {
                    known: uses for known, uses in self._uses.items() if known == caller or uses[-1] > now - seconds
                }
            uses = self._uses.get(caller, deque())
            while uses and uses[0] <= now - seconds:
                uses.popleft()
            if len(uses) >= count:
                return uses[0] + seconds - now if uses else seconds
            uses.append(now)
            self._uses[caller] = uses
            return 0.0

    # -- workers ------------------------------------------------------------------------------------------------------

    def take(self, ticket: Ticket, seconds: float) -> WorkerProcess:
        """Return a worker for a ticket whose turn it is; it is killed after `seconds`.

        Raises:
            SqlWorkerError: no process can be started.
            SqlCancelledError: the statement was cancelled.
        """
        with self._state:
            self._require_open()
            self._deadlines[ticket] = time.monotonic() + seconds
            if not self._threads:
                for work in (self._watch, self._keep_ready):
                    thread = threading.Thread(target=work, name=f"sql-gateway-{work.__name__}", daemon=True)
                    self._threads.append(thread)
                    thread.start()
        while True:
            with self._state:
                worker = self._idle.popleft() if self._idle else None
                self._state.notify_all()
            if worker is None:
                worker = self._fork()
                break
            if worker.alive():
                break
            worker.close()  # its starter was killed, and it with it
        with ticket.lock:
            ticket.worker = worker
            if ticket.ended:
                worker.kill()
        return worker

    def collect(self, pid: int) -> int:
        """Wait for a killed worker's end and return its status."""
        with self._talk:
            if self._spawner is None:
                return 0
            try:
                return int(self._word({"do": "wait", "pid": pid})["status"])
            except SqlWorkerError:
                return 0

    def _watch(self) -> None:
        """Kill what runs past its deadline, and end when the pool is closed."""
        while True:
            with self._state:
                if self._closed:
                    return
                now = time.monotonic()
                late = [ticket for ticket, moment in self._deadlines.items() if moment <= now]
                for ticket in late:
                    del self._deadlines[ticket]
                if not late:
                    self._state.wait(min((moment - now for moment in self._deadlines.values()), default=None))
            for ticket in late:
                ticket.end("deadline")

    def _keep_ready(self) -> None:
        """Fork new workers in the place of those that were taken."""
        while True:
            with self._state:
                self._state.wait_for(lambda: self._closed or len(self._idle) < self._ready)
                if self._closed:
                    return
            try:
                self._refill()
            except SqlWorkerError:
                # Those who wait for a worker meet the same error; this thread tries again for the next ones.
                time.sleep(1.0)

    def _refill(self) -> None:
        while len(self._idle) < self._ready and not self._closed:
            worker = self._fork()
            with self._state:
                self._idle.append(worker)

    def _fork(self) -> WorkerProcess:
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_STREAM)
        try:
            with self._talk:
                starter = self._started()
                pid = int(self._word({"do": "fork"}, theirs)["pid"])
        except SqlWorkerError:
            ours.close()
            raise
        finally:
            theirs.close()
        return WorkerProcess(self, starter, pid, ours)

    def _word(self, word: dict[str, object], handed: socket.socket | None = None) -> dict[str, Any]:
        """Say one word to the spawner and return its answer; `_talk` is held."""
        try:
            known = self._started()
            descriptors = [handed.fileno()] if handed is not None else []
            socket.send_fds(known.control, [json.dumps(word).encode()], descriptors)
            answer = known.control.recv(4096)
            if answer:
                return dict(json.loads(answer))
        except (OSError, ValueError):
            pass  # it is gone: told below
        if self._spawner is not None:
            self._spawner.control.close()
            self._spawner.process.kill()
            self._spawner.process.wait()
            self._spawner = None
        raise SqlWorkerError(
            "the process that starts workers died", where="SQL gateway", hint="Try again: it will be restarted."
        )

    def _started(self) -> _Spawner:
        if self._spawner is None:
            if self._closed:
                raise SqlWorkerError("the gateway is closed", where="SQL")
            ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
            ours.settimeout(_SPAWNER_SECONDS)
            folder = str(Path(__file__).parents[3])
            process = subprocess.Popen(  # noqa: S603 - this Python, a program of our own
                [sys.executable, "-I", "-c", spawner.BOOT, str(theirs.fileno()), folder],
                env=spawner.ENVIRONMENT,
                pass_fds=[theirs.fileno()],
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                cwd="/",
                start_new_session=True,
            )
            theirs.close()
            try:
                facts = json.loads(ours.recv(4096))
            except (OSError, ValueError):
                process.kill()
                process.wait()
                ours.close()
                raise SqlWorkerError(
                    "the process that starts workers did not start",
                    where="SQL gateway",
                    hint="See its standard error.",
                ) from None
            self._spawner = _Spawner(process, ours, facts)
        return self._spawner
