"""Hostile statements: refused, or stopped in time, and silent about what is not the caller's."""

from __future__ import annotations

import os
import sys
import tempfile
import threading
import time
from dataclasses import replace
from pathlib import Path

import psutil
import pytest

import hfthot_platform
from hfthot_platform.core.errors import SqlError, UnknownTableError, VersionUnavailableError
from hfthot_platform.domain.access.authorisation import Principal
from hfthot_platform.services.sql.gateway import SqlGateway
from tests.sql.gateway.attacks import BOMBS, HARMLESS, REFUSED
from tests.sql.gateway.conftest import CANARIES, ENVIRONMENT_CANARY

TYPED = (SqlError, UnknownTableError, VersionUnavailableError)
#: Of what every error may hold nothing: the inside of the server, and where things are on its disk.
PLACES = (sys.prefix, str(Path(hfthot_platform.__file__).parent), f"{tempfile.gettempdir()}/", f"{Path.home()}/")
INSIDE = ("Traceback", "site-packages", ".parquet", "read_parquet(", "allowed_paths", *PLACES)
SECONDS = 0.6
#: What this process may grow by while hostile statements run.
GROWTH = 200 * 2**20


@pytest.fixture(scope="module", autouse=True)
def environment():
    """Something in the server's environment that nobody may learn."""
    before = os.environ.get("HFTHOT_CANARY")
    os.environ["HFTHOT_CANARY"] = ENVIRONMENT_CANARY
    yield
    if before is None:
        del os.environ["HFTHOT_CANARY"]


def attempt(gateway: SqlGateway, sql: str) -> tuple[Exception | None, str]:
    """Run a statement; return its error, if any, and all that it tells beyond its own words."""
    try:
        result = gateway.query(sql, format="json")
    except TYPED as error:
        text = str(error)
        for piece in sorted({sql, *sql.replace("(", " ").replace(")", " ").split()}, key=len, reverse=True):
            text = text.replace(piece.strip("'\""), "") if len(piece) > 3 else text
        return error, text
    return None, str(result.data)


def test_the_suite_is_as_large_as_promised():
    statements = [statement for group in (*REFUSED.values(), *BOMBS.values()) for statement in group]

    assert len(set(statements)) == len(statements) >= 500


@pytest.mark.parametrize("every", [4, pytest.param(1, marks=pytest.mark.soak)])
@pytest.mark.parametrize("category", REFUSED)
def test_what_is_hostile_is_refused_and_told_nothing(lake, gateway, category, every):
    failures = []
    for template in REFUSED[category][::every]:
        sql = template.replace("{root}", lake.storage.root)
        error, told = attempt(gateway, sql)
        if error is None:
            failures.append(f"not refused: {sql[:100]!r}")
        if leaks := [canary for canary in (*CANARIES, *INSIDE) if canary in told and canary not in sql]:
            failures.append(f"tells {leaks}: {sql[:100]!r}: {told[:200]!r}")

    assert failures == []


@pytest.mark.parametrize("sql", HARMLESS)
def test_what_is_allowed_tells_nothing_else(gateway, sql):
    error, told = attempt(gateway, sql)

    assert error is None
    assert [canary for canary in CANARIES[:2] + CANARIES[3:] if canary in told] == []


#: One bomb of each kind.
SOME = [group[0] for group in BOMBS.values()]


def test_bombs_are_stopped_while_others_go_on(lake, pool, limits):
    run_bombs(lake, pool, limits, SOME)


@pytest.mark.soak
def test_all_bombs_are_stopped_while_others_go_on(lake, pool, limits):
    run_bombs(lake, pool, limits, [sql for group in BOMBS.values() for sql in group])


def run_bombs(lake, pool, limits, bombs):
    """Run bombs one after the other, and another caller's questions at the same time.

    No clock is read: a bomb that nothing stops, and that is not through within its limits, would never come back.
    """
    short = replace(limits, seconds=SECONDS)
    attacker = SqlGateway(lake, Principal("attacker", "registered", "enterprise"), pool, limits=short)
    bystander = SqlGateway(lake, Principal("bystander", "registered", "enterprise"), pool, limits=limits)
    asked = 0
    stop, answered = threading.Event(), threading.Event()
    faults: list[BaseException] = []

    def ask() -> None:
        nonlocal asked
        while not stop.is_set():
            try:
                assert bystander.query("SELECT count(*) AS n FROM market.bars_1m").data.to_pylist() == [{"n": 60}]
            except BaseException as error:
                faults.append(error)
            asked += 1
            answered.set()
            stop.wait(0.05)

    process = psutil.Process()
    before = process.memory_info().rss
    peak = before
    thread = threading.Thread(target=ask)
    thread.start()
    failures = []
    try:
        for sql in bombs:
            _, told = attempt(attacker, sql)
            peak = max(peak, process.memory_info().rss)
            if leaks := [canary for canary in CANARIES if canary in told]:
                failures.append(f"tells {leaks}: {sql[:100]!r}")
        # Whoever waits is answered, however many bombs there were.
        answered.clear()
        assert answered.wait(600)
    finally:
        stop.set()
        thread.join()

    assert failures == []
    assert faults == []
    assert peak - before < GROWTH
    assert asked > 1


def test_a_question_is_answered_while_the_bombs_of_others_run(lake, pool, limits):
    patient = replace(limits, seconds=3600.0, queue_seconds=3600.0)
    attacker = SqlGateway(lake, Principal("attacker", "registered", "enterprise"), pool, limits=patient)
    bystander = SqlGateway(lake, Principal("bystander", "registered", "enterprise"), pool, limits=patient)
    endless = "SELECT sum(a.range * b.range) FROM range(3000000) a, range(3000000) b"
    bombs = [attacker.submit(endless) for _ in range(2 * pool.workers)]
    try:
        for _ in range(3):
            assert bystander.query("SELECT 1 AS one").data.to_pylist() == [{"one": 1}]
        assert not any(bomb.done() for bomb in bombs)
    finally:
        for bomb in bombs:
            bomb.cancel()


def test_nothing_is_left_behind(lake, pool, gateway):
    hasty = SqlGateway(lake, gateway.principal, pool, limits=replace(gateway.limits, seconds=0.3))
    for sql in ("SELECT 1", "SELECT sum(range) FROM range(10000000000)", "SELECT * FROM users"):
        attempt(hasty, sql)

    starter = psutil.Process(pool.facts().spawner)
    deadline = time.monotonic() + 120
    while len(starter.children()) > pool.workers and time.monotonic() < deadline:
        time.sleep(0.05)

    assert len(starter.children()) <= pool.workers
    assert [process for process in starter.children() if process.status() == psutil.STATUS_ZOMBIE] == []
    assert starter.num_threads() == 1
