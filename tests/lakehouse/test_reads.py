"""What a read costs, and that it sees everything: one look at the log's tip, at most one opening of the log."""

from __future__ import annotations

import json
import os
import shutil
import threading
import time
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from datetime import date, datetime, timedelta

import polars as pl
import pytest
from deltalake import DeltaTable

from hfthot_platform.core.errors import UnsupportedTableError, VersionUnavailableError
from hfthot_platform.storage.lakehouse import Lakehouse, maintain
from hfthot_platform.storage.lakehouse.backends.local import LocalBackend

DAY = date(2024, 1, 1)
FEW, MANY = 5, 40


@pytest.fixture
def opens(monkeypatch):
    """Return how often the log was opened, followed, and looked at, and how many entries were read."""
    counts: Counter[str] = Counter()

    def counted(owner, method, name):
        original = getattr(owner, method)

        def counting(self, *args, **kwargs):
            counts[name] += 1
            return original(self, *args, **kwargs)

        monkeypatch.setattr(owner, method, counting)

    counted(DeltaTable, "__init__", "opened")
    counted(DeltaTable, "history", "history")
    counted(DeltaTable, "update_incremental", "followed")
    counted(LocalBackend, "entry_states", "looked")
    counted(LocalBackend, "quiet_stamp", "stats")
    counted(LocalBackend, "read_entry", "entries")
    counted(LocalBackend, "log_names", "listed")
    return counts


def cost(counts, read):
    """Return what one read costs."""
    counts.clear()
    read()
    return dict(counts)


def rested(table):
    """Return a table whose log was last changed a minute ago, and was read since."""
    os.utime(table.folder / "_delta_log", (time.time() - 60,) * 2)
    for _ in range(2):
        table.scan()
        table.versions()
    return table


def elsewhere(lake):
    """Return the table as another process has it."""
    return Lakehouse.open(lake.storage.root).table("market.trades")


def grown(lake, trades, versions):
    """Return a table with so many versions after its creation, each a day's rows in the place of the ones before."""
    table = lake.table("market.trades")
    for number in range(versions):
        table.replace(DAY, trades(3, number))
    return table


# -- what a read costs --------------------------------------------------------------------------------------


def test_the_first_read_opens_the_log_once_and_later_ones_cost_one_stat(lake, trades, opens):
    grown(lake, trades, FEW)
    table = elsewhere(lake)

    assert cost(opens, table.scan)["opened"] == 1
    rested(table)
    assert cost(opens, table.scan) == {"stats": 1}
    assert cost(opens, table.version) == {"stats": 1}
    assert cost(opens, table.files) == {"stats": 1}
    assert cost(opens, table.bytes_and_files) == {"stats": 1}


def test_a_log_that_has_just_changed_is_looked_at_entry_by_entry(lake, trades, opens):
    """Another entry may come at the same time by the clock of the file system, which counts in steps."""
    table = elsewhere(lake)
    other = lake.table("market.trades")
    for number in range(20):
        version = other.replace(DAY, trades(3, number)).version
        assert table.version() == version
        assert cost(opens, table.version)["looked"] == 1


def test_the_newest_version_by_its_number_costs_no_more_than_without(lake, trades, opens):
    grown(lake, trades, FEW)
    table = elsewhere(lake)

    assert cost(opens, lambda: table.scan(version=FEW))["opened"] == 1
    rested(table)
    assert cost(opens, lambda: table.scan(version=FEW)) == {"stats": 1}


def test_an_old_version_is_opened_once_and_kept(lake, trades, opens):
    grown(lake, trades, FEW)
    table = elsewhere(lake)

    assert cost(opens, lambda: table.scan(version=2))["opened"] == 1
    rested(table)
    assert cost(opens, lambda: table.scan(version=2)) == {"stats": 1}


def test_a_time_costs_at_most_two_openings_and_the_history_is_read_once(lake, trades, opens):
    table = grown(lake, trades, FEW)
    at = table.versions()[2].timestamp
    fresh = elsewhere(lake)

    first = cost(opens, lambda: fresh.scan(as_of=at))
    second = cost(opens, lambda: fresh.scan(as_of=at))

    assert first["opened"] <= 2
    assert first["entries"] == FEW + 1
    assert second.get("entries", 0) == 0
    assert second.get("opened", 0) <= 1
    assert second.get("history", 0) == first.get("history", 0) == 0


def test_what_another_process_commits_is_followed_and_not_opened_anew(lake, trades, opens):
    table = grown(lake, trades, FEW)
    table.versions()
    elsewhere(lake).append(trades(2, 100))

    news = cost(opens, table.scan)
    history = cost(opens, table.versions)

    assert news.get("opened", 0) == 0
    assert news["followed"] == 1
    assert history["entries"] == 1, "only the entry that came"


@pytest.fixture(scope="module")
def few_and_many(tmp_path_factory, trades):
    """A lake whose table has few versions, and one whose table has many."""
    lakes = [Lakehouse.open(tmp_path_factory.mktemp("grown"), new=True) for _ in (FEW, MANY)]
    for lake, versions in zip(lakes, (FEW, MANY), strict=True):
        grown(lake, trades, versions)
    return lakes


@pytest.mark.parametrize(
    "read",
    [
        lambda table: table.scan(),
        lambda table: table.version(),
        lambda table: table.scan(version=table.version()),
        lambda table: table.snapshot(),
        lambda table: table.files(),
    ],
)
def test_a_read_costs_the_same_after_few_and_after_many_commits(few_and_many, opens, read):
    costs = []
    for lake in few_and_many:
        table = rested(lake.table("market.trades"))
        read(table)
        costs.append(cost(opens, lambda table=table: read(table)))

    assert costs[0] == costs[1]


def test_kept_versions_are_bounded(lake, trades, opens):
    grown(lake, trades, 12)
    table = elsewhere(lake)
    for version in range(12):
        table.scan(version=version)

    assert cost(opens, lambda: table.scan(version=11)).get("opened", 0) == 0
    assert cost(opens, lambda: table.scan(version=1))["opened"] == 1


# -- and that it sees everything ----------------------------------------------------------------------------


def test_rows_of_another_process_are_there_at_once(lake, trades):
    table = grown(lake, trades, 1)
    assert table.scan().collect().height == 3

    elsewhere(lake).append(trades(2, 100))

    assert table.scan().collect().height == 5
    assert table.version() == 2


def test_a_scan_stays_at_its_version_while_the_table_moves_on(lake, trades):
    table = grown(lake, trades, 1)
    rows = table.scan()
    snapshot = table.snapshot()

    for number in range(3):
        table.append(trades(2, 100 + 10 * number))
        assert table.scan().collect().height == 5 + 2 * number

    assert rows.collect().height == 3
    assert (snapshot.version, snapshot.rows) == (1, 3)
    assert snapshot.scan().collect().height == 3


def test_a_restored_version_is_seen_by_others(lake, trades):
    table = grown(lake, trades, 2)
    table.append(trades(4, 100))
    assert table.scan().collect().height == 7

    elsewhere(lake).restore(2)

    assert table.scan().collect().height == 3


@pytest.mark.parametrize("versions", [1, 2, 4], ids=["shorter", "as long", "longer"])
def test_a_table_that_was_deleted_and_made_anew_is_seen(lake, trades, versions):
    table = grown(lake, trades, 2)
    assert table.scan().collect()["trade_id"].to_list() == [1, 2, 3]
    before = [info.timestamp for info in table.versions()]

    shutil.rmtree(table.folder)
    other = elsewhere(lake)
    for number in range(versions):
        other.replace(DAY, trades(1, 1000 + number))

    assert table.scan().collect()["trade_id"].to_list() == [999 + versions]
    assert table.version() == versions
    assert min(info.timestamp for info in table.versions()) > max(before)
    assert table.scan(version=1).collect()["trade_id"].to_list() == [1000]


def test_a_table_that_was_deleted_reads_as_empty(lake, trades):
    table = grown(lake, trades, 2)
    table.scan()

    shutil.rmtree(table.folder)

    assert table.scan().collect().height == 0
    assert table.version() is None
    assert not table.exists()


def test_a_version_that_is_in_memory_is_refused_once_a_vacuum_took_its_files(lake, trades):
    table = grown(lake, trades, 3)
    assert table.scan(version=1).collect().height == 3

    maintain(Lakehouse.open(lake.storage.root), "market.trades", history_days=0)

    with pytest.raises(VersionUnavailableError, match=r"version 1 is not readable\. Readable: version 3 "):
        table.scan(version=1)


def test_a_feature_that_came_meanwhile_is_refused(lake, trades):
    table = grown(lake, trades, 1)
    table.scan()
    log = table.folder / "_delta_log"
    metadata = next(
        action
        for line in (log / f"{0:020d}.json").read_text().splitlines()
        if "metaData" in (action := json.loads(line))
    )
    metadata["metaData"]["configuration"]["delta.columnMapping.mode"] = "name"
    (log / f"{2:020d}.json").write_text(json.dumps(metadata))

    with pytest.raises(UnsupportedTableError):
        table.scan()


def test_files_of_chosen_days_are_read_alone(lake, trades):
    table = lake.table("market.trades")
    for number in range(4):
        table.append(trades(3, 10 * number, DAY + timedelta(days=number)))
    snapshot = table.snapshot()
    chosen = [at for at, day in enumerate(snapshot.values("partition.date")) if day == DAY + timedelta(days=2)]
    for at, path in enumerate(snapshot.paths):
        if at not in chosen:
            shutil.move(path, f"{path}.away")

    snapshot.require(chosen)

    assert snapshot.scan(chosen).collect()["trade_id"].to_list() == [20, 21, 22]


def test_threads_read_whole_versions_while_others_write(lake, trades):
    table = grown(lake, trades, 1)
    done = threading.Event()

    def read():
        heights = []
        while not done.is_set():
            heights.append(table.scan().collect().height)
            table.scan(version=table.version()).collect()
        return heights

    with ThreadPoolExecutor(3) as pool:
        readers = [pool.submit(read) for _ in range(2)]
        for number in range(6):
            elsewhere(lake).append(trades(10, 100 + 10 * number))
        done.set()
        found = [reader.result(60) for reader in readers]

    for heights in found:
        assert heights == sorted(heights)
        assert all((height - 3) % 10 == 0 for height in heights)
    assert table.scan().collect().height == 63


def test_history_survives_a_clean_up_of_the_log_by_others(lake, trades):
    table = grown(lake, trades, FEW)
    before = table.versions()

    other = elsewhere(lake)
    other.log.forget_older()

    assert [info.version for info in before] == list(range(FEW + 1))
    assert [info.version for info in table.versions()] == [FEW]
    assert [info.version for info in table.readable_versions()] == [FEW]
    with pytest.raises(VersionUnavailableError):
        table.version_at(before[0].timestamp)


def test_a_version_that_a_clean_up_took_is_not_served_from_memory(lake, trades):
    table = grown(lake, trades, FEW)
    assert table.scan(version=2).collect().height == 3

    elsewhere(lake).log.forget_older()

    with pytest.raises(VersionUnavailableError, match="version 2 is not readable"):
        table.scan(version=2)
    assert table.scan(version=FEW).collect().height == 3


def test_rows_of_a_snapshot_are_those_of_a_plain_scan(lake, trades):
    table = grown(lake, trades, 3)
    ours = table.scan().sort("trade_id").collect()
    bare = pl.scan_delta(DeltaTable(table.uri)).select(table.contract.column_names).sort("trade_id").collect()

    assert ours.equals(bare)
    assert table.snapshot().committed_at > datetime(2024, 1, 1).astimezone()
