"""The processes and the queue: one each, shared fairly, stopped at once, never left behind."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
import threading
import time
from dataclasses import replace
from pathlib import Path

import psutil
import pytest

from hfthot_platform.core.errors import (
    HfthotError,
    SqlBusyError,
    SqlCancelledError,
    SqlDeadlineError,
    SqlError,
    SqlWorkerError,
)
from hfthot_platform.domain.access.authorisation import Principal
from hfthot_platform.services.sql.gateway import GatewayPool, QueryLimits, SqlGateway, sandbox
from hfthot_platform.services.sql.gateway import pool as module
from hfthot_platform.services.sql.gateway.pool import Ticket

LONG = "SELECT sum(range) FROM range(1000000000000)"


def of(lake, pool, caller: str, limits: QueryLimits) -> SqlGateway:
    return SqlGateway(lake, Principal(caller, "registered", "enterprise"), pool, limits=limits)


def wait_until(true, seconds: float = 120.0) -> None:
    deadline = time.monotonic() + seconds
    while not true():
        assert time.monotonic() < deadline, "it never came true"
        time.sleep(0.01)


def at_work(handle) -> bool:
    """Return whether a submitted statement runs in its process already."""
    process = handle.process
    return process is not None and psutil.Process(process).cpu_times().user >= 0.1


def answers(gateway: SqlGateway) -> bool:
    try:
        return gateway.query("SELECT 1").rows == 1
    except SqlWorkerError:
        return False


# -- the queue ------------------------------------------------------------------------------------------------------


@pytest.fixture
def queue() -> GatewayPool:
    """One place; nothing is ever started."""
    return GatewayPool(workers=1, queue=6, queue_per_caller=4)


def lined_up(queue: GatewayPool, callers: str) -> tuple[list[str], Ticket]:
    """Let one statement run and others wait, in this order; return the order in which turns come, as they come."""
    running = Ticket("first")
    queue.admit(running, 1)
    turns: list[str] = []

    def wait(ticket: Ticket) -> None:
        queue.admit(ticket, 10)
        turns.append(ticket.caller)
        queue.leave(ticket)

    for number, caller in enumerate(callers, 1):
        threading.Thread(target=wait, args=(Ticket(caller),), daemon=True).start()
        wait_until(lambda number=number: sum(queue.facts().waiting.values()) == number)
    return turns, running


def test_callers_take_turns_however_many_statements_each_has(queue):
    turns, running = lined_up(queue, "aaaabc")

    queue.leave(running)
    wait_until(lambda: len(turns) == 6)

    assert turns == ["a", "b", "c", "a", "a", "a"]


def test_a_full_queue_says_so_at_once(queue):
    _, running = lined_up(queue, "aabbcc")

    with pytest.raises(SqlBusyError, match="too many"):
        queue.admit(Ticket("d"), 10)
    queue.leave(running)


def test_one_caller_cannot_fill_the_queue(queue):
    _, running = lined_up(queue, "aaaa")

    with pytest.raises(SqlBusyError, match="too many"):
        queue.admit(Ticket("a"), 10)
    turns, _ = [], queue.leave(running)
    assert turns == []


def test_waiting_ends_in_time(queue):
    queue.admit(Ticket("a"), 1)

    with pytest.raises(SqlBusyError, match=r"0\.1 seconds"):
        queue.admit(Ticket("b"), 0.1)

    assert not queue.facts().waiting


def test_what_waits_can_be_cancelled(queue):
    queue.admit(Ticket("a"), 1)
    ticket = Ticket("b")
    threading.Timer(0.05, ticket.end, ["cancelled"]).start()

    with pytest.raises(SqlCancelledError):
        queue.admit(ticket, 10)
    assert not queue.facts().waiting


# -- statements -----------------------------------------------------------------------------------------------------


def test_a_running_statement_is_cancelled_at_once(lake, pool, limits):
    gateway = of(lake, pool, "a", limits)
    handle = gateway.submit(LONG)
    wait_until(lambda: at_work(handle))
    assert not handle.done()

    handle.cancel()
    with pytest.raises(SqlCancelledError):
        handle.result(120)

    assert gateway.query("SELECT 1 AS a").rows == 1


def test_a_submitted_statement_gives_its_result(lake, pool, limits):
    handles = [of(lake, pool, "a", limits).submit("SELECT $x AS x", {"x": number}) for number in range(6)]

    assert [handle.result(30).data.to_pylist()[0]["x"] for handle in handles] == list(range(6))
    assert all(handle.done() for handle in handles)


def test_a_result_that_is_not_there_yet_can_be_waited_for(lake, pool, limits):
    handle = of(lake, pool, "a", limits).submit(LONG)

    with pytest.raises(TimeoutError):
        handle.result(0.05)
    handle.cancel()
    with pytest.raises(SqlCancelledError):
        handle.result(120)


def test_closing_a_gateway_cancels_its_statements_alone(lake, pool, limits):
    with of(lake, pool, "a", limits) as gateway:
        handle = gateway.submit(LONG)
        wait_until(lambda: handle.process is not None)
    with pytest.raises(SqlCancelledError):
        handle.result(120)
    with pytest.raises(SqlWorkerError, match="closed"):
        gateway.query("SELECT 1")

    assert of(lake, pool, "b", limits).query("SELECT 1").rows == 1


@pytest.mark.soak
def test_time_in_the_queue_does_not_count_against_the_deadline(lake, pool, limits):
    short = replace(limits, seconds=0.5)
    handles = [of(lake, pool, "a", short).submit(LONG) for _ in range(4)]
    results = []
    for handle in handles:
        with pytest.raises(SqlDeadlineError) as caught:
            handle.result(30)
        results.append(caught.value)

    assert len(results) == 4
    assert of(lake, pool, "a", short).query("SELECT 1").rows == 1


def test_many_callers_at_once_all_get_their_own_answers(lake, pool, limits):
    faults: list[BaseException] = []

    def ask(caller: int) -> None:
        try:
            gateway = of(lake, pool, str(caller), limits)
            for number in range(5):
                value = caller * 100 + number
                assert gateway.query(f"SELECT {value} AS x").data.to_pylist() == [{"x": value}]
        except BaseException as error:
            faults.append(error)

    threads = [threading.Thread(target=ask, args=(caller,)) for caller in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()

    assert faults == []


# -- processes ------------------------------------------------------------------------------------------------------


def test_every_statement_has_a_process_of_its_own(lake, pool, limits):
    gateway = of(lake, pool, "a", limits)
    numbers = set()
    for _ in range(3):
        with gateway.stream("SELECT 1") as stream:
            numbers.add(stream.process)

    assert len(numbers) == 3
    assert os.getpid() not in numbers
    assert not [number for number in numbers if psutil.pid_exists(number)]


@pytest.mark.soak
def test_a_killed_starter_is_started_again(lake, limits):
    with GatewayPool(workers=1) as pool:
        gateway = of(lake, pool, "a", limits)
        assert gateway.query("SELECT 1").rows == 1
        first = pool.facts().spawner
        os.kill(first, signal.SIGKILL)
        psutil.wait_procs([psutil.Process(first)] if psutil.pid_exists(first) else [], timeout=120)
        wait_until(lambda: answers(gateway))
        assert [gateway.query("SELECT 1").rows for _ in range(5)] == [1] * 5
        assert pool.facts().spawner != first


def test_a_killed_worker_is_an_error_of_its_statement_alone(lake, pool, limits):
    gateway = of(lake, pool, "a", limits)
    handle = gateway.submit(LONG)
    wait_until(lambda: at_work(handle))
    os.kill(handle.process, signal.SIGSEGV)

    with pytest.raises(SqlError, match="memory limit, or is nested"):
        handle.result(120)
    assert gateway.query("SELECT 1").rows == 1


@pytest.mark.soak
def test_nothing_outlives_a_closed_pool(lake, limits):
    pool = GatewayPool(workers=2)
    gateway = of(lake, pool, "a", limits)
    handle = gateway.submit(LONG)
    wait_until(lambda: handle.process is not None)
    starter = psutil.Process(pool.facts().spawner)
    family = [starter, *starter.children(recursive=True)]

    pool.close()

    assert psutil.wait_procs(family, timeout=120)[1] == []
    with pytest.raises(SqlError):
        handle.result(120)
    with pytest.raises(SqlWorkerError, match="closed"):
        gateway.query("SELECT 1")


@pytest.mark.soak
def test_nothing_outlives_a_killed_server(tmp_path):
    program = (
        "import os, sys; from hfthot_platform.services.sql.gateway import GatewayPool\n"
        "pool = GatewayPool(workers=2); pool.warm(); print(pool.facts().spawner, flush=True); sys.stdin.read()"
    )
    with subprocess.Popen(
        [sys.executable, "-c", program], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as server:
        starter = psutil.Process(int(server.stdout.readline()))
        family = [starter, *starter.children(recursive=True)]
        assert len(family) == 3
        server.kill()

    assert psutil.wait_procs(family, timeout=120)[1] == []


def test_the_starter_has_one_thread_and_an_empty_past(pool):
    pool.warm()
    facts = pool.facts()
    starter = psutil.Process(facts.spawner)

    assert set(facts.ready) <= {process.pid for process in starter.children()}
    assert facts.threads == starter.num_threads() == 1
    worker = starter.children()[0]
    assert worker.cwd() == "/"
    assert worker.num_fds() <= 5
    with Path(f"/proc/{worker.pid}/limits").open() as file:
        limited = {line[:26].strip(): line[26:].split()[0] for line in file}
    assert {limited[name] for name in ("Max core file size", "Max file size", "Max processes")} == {"0"}


# -- the sandbox -------------------------------------------------------------------------------------------------------

SANDBOXED = """
import ctypes, json, os, resource, socket, subprocess, sys, threading
from hfthot_platform.services.sql.gateway import sandbox
open_file, closed_file, folder = sys.argv[1:]
out = os.dup(1)
libc = ctypes.CDLL(None, use_errno=True)
def check(result):
    if result < 0:
        raise OSError(ctypes.get_errno(), "refused") if ctypes.get_errno() == 1 else SystemExit
def attempt(what):
    try:
        what()
        return "done"
    except (OSError, RuntimeError, ValueError, MemoryError) as error:
        return type(error).__name__
sandbox.drop_privileges()
sandbox.confine(2**26, 10)
walls = sandbox.confine_files([open_file])
said = {
    "read": attempt(lambda: open(open_file).read()),
    "read another": attempt(lambda: open(closed_file).read()),
    "read the system": attempt(lambda: open("/etc/hostname").read()),
    "list": attempt(lambda: os.listdir("/")),
    "write": attempt(lambda: open(open_file, "a")),
    "create": attempt(lambda: open(folder + "/new", "w")),
    "remove": attempt(lambda: os.unlink(open_file)),
    "rename": attempt(lambda: os.rename(open_file, closed_file)),
    "mkdir": attempt(lambda: os.mkdir(folder + "/new")),
    "connect": attempt(lambda: socket.create_connection(("127.0.0.1", 9), 1)),
    "socket": attempt(lambda: socket.socket(socket.AF_UNIX)),
    "fork": attempt(os.fork),
    "thread": attempt(lambda: threading.Thread(target=print).start()),
    "execute": attempt(lambda: os.execv("/bin/true", ["true"])),
    "signal": attempt(lambda: os.kill(os.getppid(), 0)),
    "raise limits": attempt(lambda: resource.setrlimit(resource.RLIMIT_NOFILE, (600, 600))),
    "memory": attempt(lambda: bytearray(2**28)),
    # What nobody thought of, and what kernels of the future bring.
    "pipe": attempt(os.pipe),
    "sync": attempt(lambda: check(libc.syscall(162 if os.uname().machine == "x86_64" else 81))),
    "another system call": attempt(lambda: check(libc.syscall(460, 0, 0, 0))),
    "own signal": attempt(lambda: os.kill(os.getpid(), 0)),
}
os.write(out, json.dumps(said).encode())
os._exit(0)
"""


def test_the_kernel_holds_what_gets_out_of_the_engine(tmp_path):
    walls = sandbox.report()
    if not all(walls.values()):
        pytest.skip(f"this kernel lacks some of the walls: {walls}")
    for name in ("open", "closed"):
        (tmp_path / name).write_text(name)

    done = subprocess.run(
        [sys.executable, "-c", SANDBOXED, str(tmp_path / "open"), str(tmp_path / "closed"), str(tmp_path)],
        capture_output=True,
        check=True,
    )

    said = json.loads(done.stdout)
    assert {name for name, outcome in said.items() if outcome == "done"} == {"read", "own signal"}
    assert {entry.name for entry in tmp_path.iterdir()} == {"open", "closed"}


# -- fair shares ------------------------------------------------------------------------------------------------------

SLOW = "SELECT count(*) FROM range(10000000000) a WHERE hash(a.range) % 7 = 3"


@pytest.mark.soak
def test_slow_statements_of_some_callers_do_not_keep_another_one_waiting_beyond_one_of_them(lake):
    stop = threading.Event()
    limits = QueryLimits(seconds=3.0, queue_seconds=30.0, memory=256 * 2**20)
    with GatewayPool(workers=2, limits=limits) as pool:
        pool.warm()

        def attack(number):
            gateway = SqlGateway(lake, Principal(f"attacker{number}", "registered", "professional"), pool, quota=int)
            while not stop.is_set():
                with contextlib.suppress(SqlError):
                    gateway.query(SLOW)

        threads = [threading.Thread(target=attack, args=(number,)) for number in (0, 1) for _ in range(8)]
        for thread in threads:
            thread.start()
        try:
            while len(pool.facts().running) < 2:
                pass
            victim = SqlGateway(lake, Principal("victim", "registered", "hobbyist"), pool, quota=int)
            waited = [victim.query("SELECT 1").queued_seconds for _ in range(2)]
        finally:
            stop.set()
            pool.close()
            for thread in threads:
                thread.join()

    # The deadline, and what a crowded machine needs to kill and to fork.
    assert max(waited) < 2 * limits.seconds


def test_one_caller_never_has_all_places(lake):
    with GatewayPool(workers=2) as pool:
        first, second, other = Ticket("one"), Ticket("one"), Ticket("other")
        pool.admit(first, 1.0)
        with pytest.raises(SqlBusyError):
            pool.admit(second, 0.05)
        pool.admit(other, 1.0)
        pool.leave(first)
        pool.leave(other)
        assert pool.facts().running == {}


def test_who_had_least_of_the_workers_comes_first():
    with GatewayPool(workers=1) as pool:
        busy = Ticket("heavy")
        pool.admit(busy, 1.0)
        order = []

        def wait(caller):
            ticket = Ticket(caller)
            pool.admit(ticket, 10.0)
            order.append(caller)
            pool.leave(ticket)

        threads = []
        for caller in ("heavy", "light"):
            threads.append(threading.Thread(target=wait, args=(caller,)))
            threads[-1].start()
            while caller not in pool.facts().waiting:
                pass
        busy.since -= 5.0
        pool.leave(busy)
        for thread in threads:
            thread.join()

    assert order == ["light", "heavy"]


def test_callers_that_come_and_go_are_forgotten(monkeypatch):
    monkeypatch.setattr(module, "MOST_ACCOUNTS", 10)
    with GatewayPool(workers=1) as pool:
        for number in range(50):
            ticket = Ticket(f"caller{number}")
            pool.admit(ticket, 1.0)
            pool.leave(ticket)

        assert pool.facts().remembered <= 10


@pytest.mark.parametrize("sql", ["SELEC", "SELECT * FROM nothing", "SELECT read_text('/etc/passwd')", "DELETE FROM x"])
def test_a_refused_statement_costs_nothing(lake, pool, sql):
    counted = []
    gateway = SqlGateway(lake, Principal("x", "registered", "hobbyist"), pool, quota=lambda: counted.append(1))

    with pytest.raises(HfthotError):
        gateway.query(sql)
    gateway.query("SELECT 1")

    assert counted == [1]
