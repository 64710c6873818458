"""At least 100 random kill -9 over registering, signing in, changing, counting, publishing and rotating keys.

After each round everything opens; whatever was acknowledged is there, nothing occurs twice, and what was under way
is there as a whole or not at all.  In the end the lake has what the store has, and the audit chain leads from its first
entry to its last.
"""

from __future__ import annotations

import importlib.util
import os
import random
import signal
import subprocess
import sys
import time
from collections import Counter, defaultdict
from datetime import UTC, datetime
from pathlib import Path

import polars as pl
import pytest
import sqlalchemy as sa

from hfthot_platform.services.publication.chain import verify_chain
from hfthot_platform.storage.operational import schema

WORKER = Path(__file__).parent.parent / "client" / "crash_worker.py"
KILLS = int(os.environ.get("HFTHOT_SOAK_ACCOUNT_KILLS", "120"))
WORKERS = 4

pytestmark = pytest.mark.soak

# Forked from a warm parent that has not run Polars or Delta: a fresh interpreter would spend its life importing.
SPAWNER = """
import os, sys, traceback
sys.path.insert(0, {folder!r})
import crash_worker
import hfthot_platform.app.lake, hfthot_platform.services.accounts.accounts
import hfthot_platform.services.publication.publisher, hfthot_platform.storage.lakehouse.backends.local
for line in sys.stdin:
    pid = os.fork()
    if pid == 0:
        sys.argv = ["crash_worker.py", *line.split()]
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
        try:
            crash_worker.main()
        except BaseException:
            traceback.print_exc()
        os._exit(1)
    print(pid, flush=True)
    print("gone", os.waitpid(pid, 0)[1], flush=True)
"""


@pytest.fixture(scope="module")
def worker():
    spec = importlib.util.spec_from_file_location("crash_worker", WORKER)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def told(sides: list[Path]) -> list[list[str]]:
    return [line.split() for side in sides if side.exists() for line in side.read_text().splitlines()]


def acknowledged(sides: list[Path]) -> Counter[str]:
    return Counter(line[1] for line in told(sides) if line[0] == "ok")


def test_no_kill_loses_or_doubles_what_was_acknowledged(tmp_path, worker):
    sides = [tmp_path / f"{number}.side" for number in range(WORKERS)]
    dice = random.Random(2024)
    spawners = [
        subprocess.Popen(
            [sys.executable, "-c", SPAWNER.format(folder=str(WORKER.parent))],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        for _ in sides
    ]
    begun = datetime.now(UTC).date()
    worker.client_of(tmp_path).flush()
    kills = 0
    under_way: Counter[str] = Counter()
    # On a busy machine the longest operation needs more rounds until one of it is acknowledged.
    while kills < KILLS or (kills < 3 * KILLS and acknowledged(sides).keys() != set(worker.KINDS)):
        pids = []
        for number, (spawner, side) in enumerate(zip(spawners, sides, strict=True)):
            spawner.stdin.write(f"{tmp_path} {number} {side} {dice.randrange(2**32)}\n")
            spawner.stdin.flush()
            pids.append(int(spawner.stdout.readline()))
        time.sleep(dice.choice([0.2, 0.5, 1.0, 2.5]) * (1 + kills // KILLS))
        for pid in dice.sample(pids, len(pids)):
            os.kill(pid, signal.SIGKILL)
            kills += 1
            time.sleep(dice.uniform(0, 0.05))
        for spawner in spawners:
            gone = spawner.stdout.readline().split()
            assert gone == ["gone", str(int(signal.SIGKILL))], "a worker failed by itself"
        for side in sides:
            last = told([side])[-1:]
            under_way.update(line[1] for line in last if line[0] == "?")
        newest(tmp_path, worker, sides)
    for spawner in spawners:
        spawner.communicate(timeout=30)

    everything(tmp_path, worker, sides, same_day=datetime.now(UTC).date() == begun)
    done = acknowledged(sides)
    assert set(done) == set(worker.KINDS)
    assert sum(under_way.values()) > KILLS / 3, "most kills came between operations"
    print(f"\n{kills} kills; under way when killed: {dict(under_way)}; acknowledged: {dict(done)}")


def newest(folder: Path, worker, sides: list[Path]) -> None:
    """Check what each worker was told last."""
    with worker.client_of(folder) as client:
        client.flush()  # what a killed publisher left, so that the next ones get through
        assert verify_chain(client.installation.lake, client.installation.accounts.store).problems == ()
        for side in sides:
            lines = [line for line in told([side]) if line[0] == "ok"]
            for line in lines[-5:]:
                if line[1] == "register":
                    assert client.get_user(line[4]).username == line[3]
                elif line[1] == "login":
                    assert client.verify_token(line[4])


def everything(folder: Path, worker, sides: list[Path], *, same_day: bool) -> None:
    lines = told(sides)
    asked = [line for line in lines if line[0] == "?"]
    acknowledged = [line for line in lines if line[0] == "ok"]
    users = {line[3]: line[4] for line in acknowledged if line[1] == "register"}
    with worker.client_of(folder) as client:
        client.flush()
        store = client.installation.accounts.store
        with store.reading() as rx:
            there = Counter(rx.execute(sa.select(schema.users.c.subject_id)).scalars())
            counters = dict(
                rx.execute(
                    sa.select(schema.users.c.user_id, schema.usage.c.used_today)
                    .join(schema.usage, schema.usage.c.subject_id == schema.users.c.subject_id)
                    .where(schema.usage.c.resource == "optimisations")
                ).all()
            )
            opened = rx.execute(sa.select(sa.func.count()).select_from(schema.sessions)).scalar()
            pending = rx.execute(sa.select(sa.func.count()).select_from(schema.change_log)).scalar()
        # Registrations: every acknowledged one, each once, and of the others no more than were asked for.
        assert max(there.values()) == 1
        assert len(users) <= len(there) <= sum(line[1] == "register" for line in asked)
        done = {(line[1], line[2], line[3]) for line in acknowledged}
        last: dict[str, list[int]] = defaultdict(list)
        for line in asked:
            if line[1] == "update":
                last[line[3]].append(int(line[2]))
        for name, user_id in users.items():
            user = client.get_user(user_id)
            assert user.username == name
            # The newest acknowledged change, or a later one that was under way.
            tried = sorted(last[name], reverse=True)
            possible = []
            for attempt in tried:
                possible.append(f"Name {attempt}")
                if ("update", str(attempt), name) in done:
                    break
            else:
                possible.append(None)
            assert user.last_name in possible
        # Counters: at least what was acknowledged, at most what was asked for.
        low = Counter(line[3] for line in acknowledged if line[1] == "count")
        high = Counter(line[3] for line in asked if line[1] == "count")
        for name, user_id in users.items():
            if same_day:  # they count from zero at midnight
                assert low[name] <= counters.get(user_id, 0) <= high[name]
        tokens = [line[4] for line in acknowledged if line[1] == "login"]
        assert len(set(tokens)) == len(tokens)
        assert all(client.verify_token(token) for token in tokens)
        assert len(tokens) <= opened <= sum(line[1] == "login" for line in asked)
        # The lake has what the store has, once.
        assert pending == 0
        lake = client.installation.lake
        people = lake.table("users").scan().collect()
        assert Counter(people["subject_id"]) == there
        assert lake.table("sessions").scan().select(pl.len()).collect().item() == opened
        used = lake.table("usage").scan().filter(pl.col("resource") == "optimisations").collect()
        assert used["used_today"].sum() == sum(counters.values())
        # No entry is missing or there twice.
        client.flush()
        report = verify_chain(lake, store)
        assert report.problems == ()
        assert report.entries + report.pending == store.head()[0]
        sequence = lake.table("audit_log").scan().select("seq").collect()["seq"].sort()
        assert sequence.equals(pl.Series("seq", range(1, len(sequence) + 1)))
        # Every envelope still decrypts after all the rotations.
        readable = client.read_version("users", client.list_versions("users")[-1]["version"]).collect()
        assert readable["username"].null_count() == 0
