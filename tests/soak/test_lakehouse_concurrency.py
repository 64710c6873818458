"""Eight processes appending, merging, replacing and compacting at once for 30 s."""

from __future__ import annotations

import subprocess
import sys
from collections import Counter
from pathlib import Path

import pytest

from hfthot_platform.storage.lakehouse import Lakehouse

WRITER = Path(__file__).parent.parent / "lakehouse" / "writer.py"
BATCH = 5

pytestmark = pytest.mark.soak


def test_eight_processes_for_thirty_seconds_lose_and_double_no_row(tmp_path):
    lake = Lakehouse.open(tmp_path / "lake", new=True)
    kinds = ["append", "append", "merge", "merge", "replace", "replace", "any", "any"]
    processes = [
        subprocess.Popen(
            [sys.executable, str(WRITER), lake.storage.root, kind, str(i), "30", str(tmp_path / f"{i}.side")],
            stdout=subprocess.DEVNULL,
        )
        for i, kind in enumerate(kinds)
    ]
    assert [process.wait(300) for process in processes] == [0] * 8

    table = lake.table("market.trades")
    expected, versions, conflicts = [], [], 0
    done: Counter[str] = Counter()
    for writer in range(8):
        own = []
        for line in (tmp_path / f"{writer}.side").read_text().splitlines():
            if line.endswith(" compact"):
                continue
            word, kind, number, *version = line.split()
            conflicts += word == "conflict"
            if word == "ok":
                done[kind] += 1
                first = writer * 1_000_000 + int(number) * BATCH
                expected += range(first, first + BATCH)
                own.append(int(version[0]))
        assert own == sorted(set(own)), "a writer's versions rise"
        versions += own
    stored = table.scan().select("trade_id").collect().to_series().to_list()
    assert min(done.values()) > 0
    assert max(Counter(stored).values()) == 1
    assert sorted(stored) == sorted(expected)
    assert len(set(versions)) == len(versions)
    assert table.problems(deep=True) == []
    print(f"\n{len(versions)} commits {dict(done)}, {conflicts} given up after all retries, {len(stored)} rows")
