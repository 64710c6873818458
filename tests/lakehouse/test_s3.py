"""The same lake on an S3-compatible store: a real HTTP server on loopback, in a process of its own."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, date, datetime, timedelta
from pathlib import Path

import obstore
import polars as pl
import pytest

from hfthot_platform.core.errors import (
    LockTimeoutError,
    StorageUnavailableError,
    StorageUnsafeError,
    VersionUnavailableError,
)
from hfthot_platform.services.sql import query
from hfthot_platform.storage.lakehouse import Lakehouse, check_clock, maintain
from hfthot_platform.storage.lakehouse.leases import Turns
from hfthot_platform.storage.objects import create_object, open_store
from tests.object_store import serving

WRITER = Path(__file__).parent / "writer.py"
DAY = date(2024, 1, 1)


@pytest.fixture(scope="module")
def store():
    with serving() as server:
        yield server


@pytest.fixture
def options(store):
    return store.options


@pytest.fixture
def lake(options, request):
    return Lakehouse.open(f"s3://lake/{request.node.name}", options, new=True)


def test_writes_reads_versions_and_maintenance_work_as_on_a_disk(lake, trades):
    table = lake.table("market.trades")
    assert table.scan().collect().height == 0

    assert table.append(trades()).version == 1
    assert table.merge(trades(15)).rows_published == 15
    assert not table.merge(trades(15)).changed
    table.append(trades(5, 100).lazy())
    assert table.scan().collect().height == 20
    table.replace(DAY, trades(3))
    bad = trades(4, 200, price=pl.when(pl.col("trade_id") == 200).then(-1.0).otherwise(1.0))
    assert table.merge(bad).rows_quarantined == 1

    assert table.scan(version=3).collect().height == 20
    assert table.scan(as_of=table.versions()[1].timestamp).collect().height == 10
    assert [version.operation for version in table.versions()][:3] == ["CREATE TABLE", "APPEND", "MERGE"]
    assert lake.table("quarantine.trades").scan().collect().height == 1
    report = maintain(lake, "market.trades", history_days=0)
    assert report.files_vacuumed > 0
    assert report.files_after >= 1
    assert table.scan().collect().height == 6
    with pytest.raises(VersionUnavailableError, match="Readable: version"):
        table.scan(version=1)


def test_others_are_followed_and_what_they_wrote_is_fetched_once(store, lake, options, trades):
    table = lake.table("market.trades")
    table.append(trades())
    assert table.version() == 1
    store.count()

    assert table.version() == 1
    assert store.count().total() == 2, "the tip is what it was, and nothing is after it"

    Lakehouse.open(lake.storage.root, options).table("market.trades").append(trades(5, 100))
    store.count()
    assert table.version() == 2
    assert store.count().total() == 3, "the new entry is read, and nothing is after that one"


#: Requests that an operation may take, however long ago the newest checkpoint was.
MOST_REQUESTS = {"version": 3, "merge": 15, "merge again": 15, "replace": 20, "sql": 20}


@pytest.fixture(scope="module")
def much_written(store):
    """A lake whose table of trades had 45 commits, on 20 days, of three symbols."""
    lake = Lakehouse.open("s3://lake/much-written", store.options, new=True)
    table = lake.table("market.trades")
    for commit in range(45):
        table.append(some_trades(30, 100 * commit, DAY + timedelta(days=commit % 20)))
    return lake


def some_trades(n, first_id, day):
    midnight = datetime.combine(day, datetime.min.time(), UTC)
    return pl.DataFrame(
        {
            "venue": "kraken",
            "symbol": [f"{'ABC'[i % 3]}-USD" for i in range(n)],
            "ts": [midnight + timedelta(seconds=i) for i in range(n)],
            "trade_id": range(first_id, first_id + n),
            "price": 100.0,
            "amount": 1.0,
            "side": "buy",
            "source": "replay",
            "source_ref": "test:1",
        },
        schema_overrides={"ts": pl.Datetime("us", "UTC"), "trade_id": pl.Int64},
    )


def test_requests_do_not_grow_with_the_commits_since_the_checkpoint(store, much_written):
    lake, table = much_written, much_written.table("market.trades")
    late = some_trades(20, 1_000_000, DAY)
    statement = "SELECT count(*) AS n FROM market.trades WHERE date = DATE '2024-01-01' AND symbol = 'A-USD'"
    operations = {
        "version": table.version,
        "merge": lambda: table.merge(late),
        "merge again": lambda: table.merge(late),
        "sql": lambda: query(lake, statement),
        "replace": lambda: table.replace(DAY, late),
    }
    table.version()
    store.count()
    taken = {}
    for name, operation in operations.items():
        operation()
        taken[name] = store.count().total()

    assert {name: n for name, n in taken.items() if n > MOST_REQUESTS[name]} == {}


@pytest.mark.soak
def test_a_time_among_a_hundred_versions_is_found_with_few_requests(store, options, trades, request):
    lake = Lakehouse.open(f"s3://lake/{request.node.name}", options, new=True)
    table = lake.table("market.trades")
    for commit in range(100):
        table.merge(trades(1, commit))
    asked = table.versions()[20]
    store.count()

    rows = table.scan(as_of=asked.timestamp).collect()

    assert rows["trade_id"].sort().to_list() == list(range(20))
    # Each of the 20 files is one of the version's, and takes a request by itself.
    assert store.count().total() <= 10 + 20


@pytest.mark.soak
def test_maintenance_takes_few_requests_beyond_those_of_the_files_that_it_compacts(store, options):
    lake = Lakehouse.open("s3://lake/compacted", options, new=True)
    table = lake.table("market.trades")
    for commit in range(45):
        table.append(some_trades(30, 100 * commit, DAY + timedelta(days=commit % 20)))
    store.count()

    report = maintain(lake, "market.trades", history_days=0)

    assert report.files_compacted == 45
    assert store.count().total() <= 20 + 12 * 20


@pytest.mark.soak
def test_a_log_that_another_one_took_the_place_of_is_not_read_from_the_copy(store, options, trades, request):
    root = f"s3://lake/{request.node.name}"
    table = Lakehouse.open(root, options, new=True).table("market.trades")
    for number in range(3):
        table.append(trades(1, number))
    assert table.scan(version=2).collect().height == 2
    objects = open_store(root, options)
    obstore.delete(objects, [meta["path"] for batch in obstore.list(objects) for meta in batch])

    other = Lakehouse.open(root, options, new=True).table("market.trades")
    for number in range(4):
        other.append(trades(1, 100 + number))

    assert sorted(table.scan().collect()["trade_id"]) == [100, 101, 102, 103]
    assert sorted(table.scan(version=2).collect()["trade_id"]) == [100, 101]
    assert table.merge(trades(1, 200)).version == 5


# -- upkeep -----------------------------------------------------------------------------------------------------------


def test_what_a_dead_writer_left_is_removed_when_it_is_old_and_nothing_else_is(lake, options, trades, store):
    table = lake.table("market.trades")
    for number in range(4):
        table.append(trades(5, 10 * number))
    table.replace(DAY, trades(7))
    objects = open_store(f"{lake.storage.root}/market/trades", options)
    left = [f"date=2024-01-01/part-dead-{number}.snappy.parquet" for number in range(3)]
    for name in left:
        obstore.put(objects, name, b"half")
    named = {name for name in all_names(objects) if name not in left}

    assert maintain(lake, "market.trades").leftovers_removed == 0
    assert set(left) <= all_names(objects), "they may be of a commit under way"
    store.count()
    maintain(lake, "market.trades")
    without = store.count().total()
    foreseen = maintain(lake, "market.trades", dry_run=True, orphaned=timedelta(seconds=-1))
    store.count()
    report = maintain(lake, "market.trades", orphaned=timedelta(seconds=-1))

    assert store.count().total() <= without + 2
    assert (foreseen.leftovers_removed, report.leftovers_removed) == (3, 3)
    assert not set(left) & all_names(objects)
    assert {name for name in named if name.endswith("snappy.parquet")} <= all_names(objects)
    assert table.scan(version=4).collect().height == 20, "files of readable versions stay"
    assert table.scan().collect().height == 7


def all_names(objects):
    return {meta["path"] for batch in obstore.list(objects) for meta in batch}


def test_the_clock_is_checked_without_reading_what_every_commit_says(store, much_written, options):
    lake = Lakehouse.open(much_written.storage.root, options)
    lake.table("market.trades").version()
    store.count()

    check_clock(lake)

    requests = store.requests()
    entries = [request for request in requests if request.path.endswith(".json")]
    assert len(entries) <= 25, "those since the newest checkpoint, to see whether there is a lake"
    assert len(requests) - len(entries) <= 25


# -- turns ------------------------------------------------------------------------------------------------------------


@pytest.fixture
def turns(options, request):
    """Return a maker of the turns that one writer takes in the test's queue."""
    objects = open_store("s3://lake/turns", options)
    return lambda **lease: Turns(objects, request.node.name, "market.trades", **lease)


def test_one_writer_at_a_time_has_a_turn_and_each_gets_one(turns):
    inside, most, done = [], [], []

    def write(writer):
        for _ in range(3):
            with turns().turn(timeout=60):
                inside.append(writer)
                most.append(len(inside))
                inside.remove(writer)
                done.append(writer)

    with ThreadPoolExecutor(4) as pool:
        list(pool.map(write, range(4)))

    assert max(most) == 1
    assert Counter(done) == dict.fromkeys(range(4), 3)


def test_a_writer_without_company_waits_for_nobody_and_leaves_one_object(turns, options, request):
    turn = turns()
    for _ in range(3):
        with turn.turn(timeout=0):
            assert not turn.crowded

    left = obstore.list_with_delimiter(open_store("s3://lake/turns", options), f"{request.node.name}/")["objects"]
    assert [(meta["path"].rpartition("/")[2], meta["size"]) for meta in left] == [("000000000003", 0)]


def test_a_turn_that_does_not_come_in_time_is_an_error_and_the_place_in_the_queue_is_given_up(turns):
    with turns().turn(timeout=0):
        waiting = turns()
        with pytest.raises(LockTimeoutError, match="other writers had their turns"), waiting.turn(timeout=0):
            pytest.fail("somebody else has the turn")
        assert waiting.crowded
    with turns().turn(timeout=0):
        pass


@pytest.mark.soak
def test_a_holder_that_died_is_passed_over_and_one_that_is_slow_is_not(turns, options, request):
    objects = open_store("s3://lake/turns", options)
    assert create_object(objects, f"{request.node.name}/000000000001", b"1")
    started = time.monotonic()
    with turns(lease=3).turn(timeout=30):
        assert 2 <= time.monotonic() - started < 30
        with pytest.raises(LockTimeoutError), turns(lease=3).turn(timeout=6):
            pytest.fail("the holder renews its turn")


MERGING = """
import json, sys
from datetime import date
from hfthot_platform.storage.lakehouse import Lakehouse
from tests.lakehouse.test_s3 import DAY, some_trades
root, writer, merges, options = sys.argv[1], int(sys.argv[2]), int(sys.argv[3]), json.loads(sys.argv[4])
table = Lakehouse.open(root, options).table("market.trades")
commits = [table.merge(some_trades(1, writer * 1_000 + i, DAY)) for i in range(merges)]
print(sum(commit.attempts for commit in commits), sum(commit.changed for commit in commits))
"""


@pytest.mark.soak
def test_four_processes_that_merge_into_one_day_queue_and_none_gives_up(lake, options):
    table = lake.table("market.trades")
    table.create()
    merges = 50
    writers = [
        subprocess.Popen(
            [sys.executable, "-c", MERGING, lake.storage.root, str(writer), str(merges), json.dumps(options)],
            stdout=subprocess.PIPE,
            text=True,
        )
        for writer in range(4)
    ]
    said = [writer.communicate(timeout=600)[0].split() for writer in writers]
    assert [writer.returncode for writer in writers] == [0] * 4

    rows = table.scan().collect()["trade_id"]
    assert (rows.len(), rows.n_unique(), table.version()) == (200, 200, 200)
    assert sum(int(changed) for _, changed in said) == 200
    assert sum(int(attempts) for attempts, _ in said) <= 1.3 * 200


@pytest.mark.soak
def test_two_processes_that_collide_lose_and_double_no_row(lake, options, trades, tmp_path):
    table = lake.table("market.trades")
    table.append(trades(1, 999_999_999))
    processes = [
        subprocess.Popen(
            [
                sys.executable,
                str(WRITER),
                lake.storage.root,
                kind,
                str(i),
                "4",
                str(tmp_path / f"{i}.side"),
                json.dumps(options),
            ],
            stdout=subprocess.DEVNULL,
        )
        for i, kind in enumerate(["merge", "replace"])
    ]
    assert [process.wait(120) for process in processes] == [0, 0]

    ids = [999_999_999]
    for path in tmp_path.glob("*.side"):
        for line in path.read_text().splitlines():
            if line.startswith("ok "):
                first = int(path.stem) * 1_000_000 + int(line.split()[2]) * 5
                ids += range(first, first + 5)
    stored = table.scan().collect()["trade_id"].to_list()
    assert len(ids) > 10
    assert max(Counter(stored).values()) == 1
    assert sorted(stored) == sorted(ids)


def test_a_store_without_the_bucket_is_unavailable_and_no_credential_is_quoted(options, trades):
    table = Lakehouse.open("s3://no-such-bucket/lake", options).table("market.trades")

    for use in (table.scan, lambda: table.append(trades()), table.versions):
        with pytest.raises(StorageUnavailableError, match="NoSuchBucket") as caught:
            use()
        assert "HUSH" not in str(caught.value)
        assert "topsecret" not in str(caught.value)


def test_a_store_that_does_not_answer_is_unavailable(options, trades):
    dead = {**options, "AWS_ENDPOINT_URL": "http://127.0.0.1:1", "max_retries": "1", "retry_timeout": "1s"}

    with pytest.raises(StorageUnavailableError, match="did not answer or refused"):
        Lakehouse.open("s3://lake/x", dead).table("market.trades").append(trades())


def test_a_store_that_overwrites_what_it_is_asked_to_create_is_refused_before_the_first_table(trades):
    with serving(conditional_put=False) as unsafe:
        lake = Lakehouse.open("s3://lake/x", unsafe.options, new=True)
        with pytest.raises(StorageUnsafeError, match="If-None-Match"):
            lake.table("market.trades").append(trades())
        assert not lake.exists()


def test_an_ordered_log_is_applied_exactly_once(lake):
    table = lake.table("audit_log")

    def entries(*subjects, seq, day=1):
        n = len(subjects)
        return pl.DataFrame(
            {
                "seq": range(seq, seq + n),
                "ts": [datetime(2024, 1, day, tzinfo=UTC)] * n,
                "subject_id": [f"{subject:032x}" for subject in subjects],
                "actor_id": ["system"] * n,
                "action": ["user.register"] * n,
                "outcome": ["success"] * n,
                "ip": ["e1." + "i" * 40] * n,
                "personal_digest": ["0" * 64] * n,
                "redacted": [False] * n,
                "previous_hash": ["1" * 64] * n,
                "hash": ["2" * 64] * n,
            },
            schema_overrides={"seq": pl.Int64},
        )

    table.apply(pl.concat([entries(1, 2, seq=1), entries(1, seq=3, day=2)]), app=("log", 3))
    assert not table.apply(entries(1, 2, seq=1), app=("log", 3)).changed

    commit = table.apply(entries(3, seq=4, day=2), redact=[f"{1:032x}"], app=("log", 4))

    assert commit.rows_forgotten == 2
    rows = table.scan().collect().sort("seq")
    assert rows["seq"].to_list() == [1, 2, 3, 4]
    assert rows["ip"].is_null().to_list() == [True, False, True, False]
    assert table.applied("log") == 4
