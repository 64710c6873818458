"""Writers of several processes and threads at once: no row lost, none doubled, each commit knows its version."""

from __future__ import annotations

import errno
import subprocess
import sys
import threading
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from datetime import date
from pathlib import Path

import polars as pl
import pytest
from deltalake.exceptions import CommitFailedError

from hfthot_platform.core.errors import CommitConflictError, LockTimeoutError
from hfthot_platform.storage.lakehouse import Stamp, maintain, write
from hfthot_platform.storage.lakehouse.datafiles import DataFiles
from hfthot_platform.storage.lakehouse.locks import writers_lock

WRITER = Path(__file__).parent / "writer.py"
BATCH = 5
DAY = date(2024, 1, 1)


def acknowledged(folder):
    """Return the trade ids and versions that the writers' side files acknowledge."""
    ids, versions = [], []
    for path in sorted(folder.glob("*.side")):
        writer = int(path.stem)
        own = []
        for line in path.read_text().splitlines():
            if line.startswith("ok "):
                _, _, number, version = line.split()
                first = writer * 1_000_000 + int(number) * BATCH
                ids += range(first, first + BATCH)
                own.append(int(version))
        assert own == sorted(set(own)), "a writer's versions rise"
        versions += own
    return ids, versions


@pytest.mark.soak
def test_processes_that_append_merge_replace_and_compact_at_once_lose_and_double_no_row(lake, table, trades, tmp_path):
    table.append(trades(1, 999_999_999))
    kinds = ["append", "merge", "replace", "any"]
    processes = [
        subprocess.Popen(
            [sys.executable, str(WRITER), lake.storage.root, kind, str(i), "3", str(tmp_path / f"{i}.side")],
            stdout=subprocess.DEVNULL,
        )
        for i, kind in enumerate(kinds)
    ]
    assert [process.wait(120) for process in processes] == [0, 0, 0, 0]

    ids, versions = acknowledged(tmp_path)

    stored = table.scan().select("trade_id").collect().to_series().to_list()
    assert len(ids) > 4 * BATCH
    assert max(Counter(stored).values()) == 1
    assert sorted(stored) == sorted([*ids, 999_999_999])
    assert len(set(versions)) == len(versions), "no two writers were told the same version"
    assert table.problems(deep=True) == []


def test_threads_of_one_process_are_safe(lake, table, trades):
    table.append(trades(1))

    def work(number):
        rows = trades(4, 1000 * (number + 1))
        commit = table.merge(rows, stamp=Stamp(run_id=str(number))) if number % 2 else table.append(rows)
        return commit.version, table.scan().collect().height

    with ThreadPoolExecutor(8) as pool:
        results = list(pool.map(work, range(16)))

    assert table.scan().collect().height == 1 + 16 * 4
    assert len({version for version, _ in results}) == 16
    assert all(height % 4 == 1 for _, height in results), "no reader saw half a batch"


def test_a_commit_names_its_own_version_when_others_commit_after_it(lake, table, trades, monkeypatch):
    table.append(trades(1))
    original = table.log.version_of

    def late(*args):
        lake.table("market.trades").__class__(lake, table.contract).append(trades(1, 500))
        return original(*args)

    monkeypatch.setattr(table.log, "version_of", late)

    commit = table.append(trades(1, 50), stamp=Stamp(run_id="mine"))

    assert (commit.version, table.version()) == (2, 3)
    assert table.versions()[2].run_id == "mine"


def test_a_lost_race_runs_read_compute_write_again(lake, table, trades):
    table.append(trades(5))
    seen = []

    def plus_one(now):
        rows = now.collect()
        seen.append(rows.height)
        if len(seen) == 1:
            other = type(table)(lake, table.contract)
            other.merge(trades(1, 100))
        return rows.with_columns(amount=pl.col("amount") + 1)

    commit = table.replace(DAY, plus_one)

    assert commit.attempts == 2
    assert seen == [5, 6]
    assert sorted(table.scan().collect()["amount"].to_list()) == [2.0] * 6


def test_a_writer_that_always_loses_gives_up_with_a_typed_error_and_wrote_nothing(table, trades, monkeypatch):
    table.append(trades(5))
    monkeypatch.setattr(write.time, "sleep", lambda _seconds: None)
    tries = []

    def lose(*_args, **_kwargs):
        tries.append(1)
        raise CommitFailedError("a concurrent transaction")

    monkeypatch.setattr(DataFiles, "commit", lose)

    with pytest.raises(
        CommitConflictError, match="other writers committed first 12 times in a row; nothing was written"
    ):
        table.append(trades(1, 50))

    assert len(tries) == 12
    assert table.version() == 1
    assert len(list(table.folder.rglob("*.parquet"))) == 1, "what was written for the attempts is gone"


def test_what_failed_after_the_commit_counts_as_published(table, trades, monkeypatch):
    table.append(trades(5))
    original = DataFiles.commit

    def then_fail(*args, **kwargs):
        original(*args, **kwargs)
        raise OSError(errno.ENOSPC, "no room for the checkpoint")

    monkeypatch.setattr(DataFiles, "commit", then_fail)

    commit = table.append(trades(5, 50))

    assert commit.version == 2
    assert table.scan().collect().height == 10


def test_the_lock_times_out_with_a_typed_error(tmp_path):
    path = tmp_path / "market.trades.lock"

    with (
        writers_lock(path, exclusive=True),
        pytest.raises(LockTimeoutError, match=r"market\.trades: other processes held the writers' lock for 0\.05 s"),
        writers_lock(path, exclusive=False, timeout=0.05),
    ):
        pass


def test_writers_share_the_lock_and_maintenance_waits_for_them(tmp_path):
    path = tmp_path / "t.lock"

    with (
        writers_lock(path, exclusive=False),
        writers_lock(path, exclusive=False, timeout=0.05),
        pytest.raises(LockTimeoutError),
        writers_lock(path, exclusive=True, timeout=0.05),
    ):
        pass


def test_a_waiting_maintenance_is_not_starved_by_a_stream_of_writers(tmp_path):
    path = tmp_path / "t.lock"
    stop = threading.Event()

    def writer():
        while not stop.is_set():
            with writers_lock(path, exclusive=False):
                stop.wait(0.01)

    threads = [threading.Thread(target=writer) for _ in range(6)]
    for thread in threads:
        thread.start()
    try:
        with writers_lock(path, exclusive=True):
            pass
    finally:
        stop.set()
        for thread in threads:
            thread.join()


def test_the_lock_of_a_dead_process_is_free(tmp_path):
    path = tmp_path / "t.lock"
    code = (
        "import sys, time\nfrom pathlib import Path\nfrom hfthot_platform.storage.lakehouse.locks import writers_lock\n"
        "with writers_lock(Path(sys.argv[1]), exclusive=True):\n    print('held', flush=True)\n    time.sleep(60)\n"
    )
    process = subprocess.Popen([sys.executable, "-c", code, str(path)], stdout=subprocess.PIPE)
    assert process.stdout.readline() == b"held\n"
    with pytest.raises(LockTimeoutError), writers_lock(path, exclusive=True, timeout=0.05):
        pass

    process.kill()
    process.communicate()

    with writers_lock(path, exclusive=True):
        pass


def test_maintenance_beside_writers_waits_for_their_lock(lake, table, trades):
    table.append(trades())
    with writers_lock(lake.storage.lock_file(table.contract), exclusive=False):
        waiting = ThreadPoolExecutor(1)
        report = waiting.submit(maintain, lake, "market.trades", history_days=0)
        orphan = table.folder / "date=2024-01-01" / "part-in-flight.parquet"
        orphan.write_bytes(b"a file of a commit in flight")
        threading.Event().wait(0.3)
        assert not report.done()
        assert orphan.exists()
    assert report.result(30).files_vacuumed == 1
    assert not orphan.exists()
    waiting.shutdown()
