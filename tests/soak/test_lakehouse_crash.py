"""At least 200 random kill -9 during append, merge, replace and compaction.

After each: the table is readable, no batch is there in part, every acknowledged batch is there in full, no row is
doubled.  What was under way is then run again by its idempotent way, and again changes nothing.
"""

from __future__ import annotations

import hashlib
import os
import random
import signal
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path

import pytest

from hfthot_platform.storage.lakehouse import Lakehouse, Stamp, maintain

WRITER = Path(__file__).parent.parent / "lakehouse" / "writer.py"
KILLS = int(os.environ.get("HFTHOT_SOAK_KILLS", "200"))
WRITERS = 4
BATCH = 5

pytestmark = pytest.mark.soak


def lines(path):
    """Return the lines of a side file; each was one write, so a kill cuts none."""
    return path.read_text().splitlines() if path.exists() else []


def content_hash(table):
    rows = table.scan().collect().sort("trade_id")
    return hashlib.sha256(rows.write_csv().encode()).hexdigest()


def parquet_bytes(table):
    return {path: hashlib.sha256(Path(path).read_bytes()).hexdigest() for path in table.snapshot().paths}


@pytest.fixture(scope="module")
def batch():
    import importlib.util

    spec = importlib.util.spec_from_file_location("lakehouse_writer", WRITER)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module.batch


# The writer is forked from a warm parent: a fresh interpreter would spend its life importing.  The parent has
# not run Polars or Delta before the fork, so the child starts with clean thread pools.
SPAWNER = """
import os, sys, traceback
sys.argv = ["writer.py"]
sys.path.insert(0, os.path.dirname({writer!r}))
import writer
for line in sys.stdin:
    pid = os.fork()
    if pid == 0:
        sys.argv = ["writer.py", *line.split()]
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
        try:
            writer.main()
        except BaseException:
            traceback.print_exc()
        os._exit(1)
    print(pid, flush=True)
    os.waitpid(pid, 0)
    print("gone", flush=True)
"""


def test_no_kill_at_any_moment_breaks_the_table(tmp_path, batch):
    lake = Lakehouse.open(tmp_path / "lake", new=True)
    dice = random.Random(2024)
    sides = [tmp_path / f"{writer}.side" for writer in range(WRITERS)]
    spawners = [
        subprocess.Popen(
            [sys.executable, "-c", SPAWNER.format(writer=str(WRITER))],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        for _ in sides
    ]
    kinds = ["append", "merge", "replace", "compact"]
    under_way: Counter[str] = Counter()
    kills = reruns = 0
    table = lake.table("market.trades")
    # The first batch exists before the first kill, so that replace has something to read.
    first = 999 * 1_000_000
    table.merge(batch(999, 0))

    while kills < KILLS:
        pids = []
        for number, (spawner, side) in enumerate(zip(spawners, sides, strict=True)):
            spawner.stdin.write(f"{lake.storage.root} {kinds[number]} {number} 60 {side}\n")
            spawner.stdin.flush()
            pids.append(int(spawner.stdout.readline()))
        time.sleep(dice.uniform(0.05, 0.8))
        for pid in dice.sample(pids, len(pids)):
            os.kill(pid, signal.SIGKILL)
            kills += 1
            time.sleep(dice.uniform(0, 0.05))
        for spawner in spawners:
            assert spawner.stdout.readline() == "gone\n"

        stored = Counter(table.scan().select("trade_id").collect().to_series().to_list())
        assert table.problems() == []
        assert max(stored.values()) == 1, "a row is doubled"
        assert first in stored
        for number, side in enumerate(sides):
            told = [line.split() for line in lines(side)]
            acknowledged = {int(line[2]) for line in told if line[0] == "ok"}
            asked = {int(line[2]): line[1] for line in told if line[0] == "?"}
            for place in asked:
                start = number * 1_000_000 + place * BATCH
                there = sum(start + i in stored for i in range(BATCH))
                assert there in {0, BATCH}, f"batch {place} of writer {number} is there in part"
                assert there == BATCH or place not in acknowledged, f"acknowledged batch {place} is gone"
            # What was under way is run again: as a merge, which is idempotent whatever it was.
            with side.open("a") as out:
                for place in sorted(set(asked) - acknowledged):
                    under_way[asked[place]] += 1
                    table.merge(batch(number, place), stamp=Stamp(run_id="again"))
                    reruns += 1
                    out.write(f"ok {asked[place]} {place} 0\n")
        before, files, version = content_hash(table), parquet_bytes(table), table.version()
        for number, side in enumerate(sides):
            told = [line.split() for line in lines(side) if line.startswith("ok")]
            for line in told[-2:]:
                assert not table.merge(batch(number, int(line[2]))).changed
        assert (content_hash(table), parquet_bytes(table), table.version()) == (before, files, version)

    for spawner in spawners:
        spawner.communicate(timeout=30)
    rounds = Counter(line for line in lines(sides[-1]) if line.endswith(" compact"))
    under_way["compact"] = rounds["begin compact"] - rounds["end compact"]
    assert min(under_way[kind] for kind in kinds) > 0, "a kind of write was never killed"
    expected = {first + i for i in range(BATCH)}
    for number, side in enumerate(sides):
        for line in lines(side):
            if line.startswith("ok"):
                start = number * 1_000_000 + int(line.split()[2]) * BATCH
                expected |= set(range(start, start + BATCH))
    assert set(table.scan().collect()["trade_id"]) == expected
    assert table.problems(deep=True) == []
    maintain(lake, "market.trades", history_days=0)
    rows = content_hash(table)
    assert not [path for path in table.folder.rglob("*") if "#" in path.name or path.suffix == ".tmp"]
    assert content_hash(table) == rows
    print(
        f"\n{kills} kills, under way when killed: {dict(under_way)}, {reruns} batches run again, {len(expected)} rows"
    )
