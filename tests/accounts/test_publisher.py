"""The change log reaches the user tables in order and exactly once, whoever publishes and whatever dies."""

from __future__ import annotations

import itertools
import random
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from hfthot_platform.accounts import publisher as module
from hfthot_platform.accounts.changes import AuditEvent, RowChange
from hfthot_platform.accounts.publisher import APPLICATION, Publisher, flush
from hfthot_platform.errors import AuditFailedError, LockTimeoutError, StoreError
from hfthot_platform.lakehouse import Lakehouse, Stamp
from tests.accounts import ledger

CLEAR = "ada@example.org"
#: For what does not depend on the database.
ON_SQLITE = pytest.mark.parametrize("settings", ["sqlite"], indirect=True)


@pytest.fixture
def store_url(settings):
    if settings.accounts_url is not None:
        return settings.accounts_url.get_secret_value()
    return f"sqlite:///{settings.accounts}"


@pytest.fixture
def lake(tmp_path):
    return Lakehouse.open(tmp_path / "lake")


@pytest.fixture
def publisher(store, lake):
    return Publisher(store, lake)


def some(n, seed=1):
    return list(itertools.islice(ledger.operations(seed), n))


def tiers(lake):
    rows = lake.table("users").scan().collect().sort("subject_id")
    return {int(whose, 16): tier for whose, tier in rows.select("subject_id", "tier").rows()}


# -- order ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("batch", [7, 1000])
def test_the_tables_hold_what_the_log_says_whatever_the_batches(store, publisher, lake, monkeypatch, batch):
    monkeypatch.setattr(module, "_BATCH", batch)
    monkeypatch.setattr(module, "_PAGE", 5)
    entries = ledger.log(store, some(60))

    done = publisher.publish()

    assert (done.first_seq, done.last_seq) == (1, len(entries))
    assert publisher.behind() == 0
    assert lake.table("audit_log").applied(APPLICATION) == len(entries)
    ledger.Model(entries).check(lake)


@ON_SQLITE
def test_of_several_changes_of_a_row_the_last_one_counts(store, publisher, lake):
    ledger.log(store, [([ledger.user(1, tier)], AuditEvent(action="user.update")) for tier in ("hobbyist", "free")])
    publisher.publish()
    assert tiers(lake) == {1: "free"}


@ON_SQLITE
def test_a_row_before_its_subjects_deletion_goes_and_one_after_it_stays(store, publisher, lake):
    erase = (ledger.forget(1), AuditEvent(action="user.erase"))
    put = ([ledger.user(1)], AuditEvent(action="user.register", subject_id=ledger.subject(1), ip=ledger.SEALED))
    ledger.log(store, [put, erase])
    publisher.publish()
    assert tiers(lake) == {}

    ledger.log(store, [erase, put])
    publisher.publish()
    assert tiers(lake) == {1: "free"}
    log = lake.table("audit_log").scan().collect().sort("seq")
    assert log["redacted"].to_list() == [True, False, False, False]
    assert log["ip"].is_null().to_list() == [True, True, True, False]


def test_a_limit_is_kept_and_the_rest_follows(store, publisher, lake):
    entries = ledger.log(store, some(10))
    assert publisher.publish(limit=4).last_seq == 4
    assert publisher.behind() == 6
    assert publisher.publish(limit=4).first_seq == 5
    assert publisher.publish().entries == 2
    ledger.Model(entries).check(lake)


def test_entries_leave_the_log_when_all_tables_have_them(store, publisher):
    ledger.log(store, some(10))
    publisher.publish(limit=4)
    assert [entry.seq for entry in store.entries(0, 100)] == [5, 6, 7, 8, 9, 10]


@ON_SQLITE
def test_publishing_without_news_makes_no_version(store, publisher, lake):
    ledger.log(store, some(10))
    publisher.publish()
    before = {name: lake.table(name).version() for name in ledger.TABLES}

    done = publisher.publish()

    assert (done.entries, done.commits) == (0, ())
    assert {name: lake.table(name).version() for name in ledger.TABLES} == before


def test_a_flush_lets_a_writer_read_what_it_wrote(store, lake):
    assert flush(store, lake) is None
    ledger.log(store, [([ledger.user(5)], AuditEvent(action="user.register"))])
    assert flush(store, lake).entries == 1
    assert tiers(lake) == {5: "free"}


@ON_SQLITE
def test_commits_say_who_published(store, publisher, lake):
    ledger.log(store, some(5))
    publisher.publish(stamp=Stamp(run_id="run-7"))
    assert {each.run_id for each in lake.table("audit_log").versions()[1:]} == {"run-7"}


# -- what stops it ----------------------------------------------------------------------------------------------


def bad(**columns):
    row = dict(ledger.user(3).row) | columns
    return [([RowChange("users", "put", row)], AuditEvent(action="user.register"))]


@ON_SQLITE
@pytest.mark.parametrize(
    ("columns", "said"),
    [
        ({"email": CLEAR}, "entry 2 breaks the rule malformed_text"),
        ({"role": CLEAR}, "entry 2 breaks the rule unknown_value"),
        ({"subject_id": None}, "entry 2 breaks the rule missing_value"),
        ({"created_at": CLEAR}, "value of a wrong type in 'created_at'"),
        ({"active": CLEAR}, "value of a wrong type in 'active'"),
        ({"password": CLEAR}, "entry 2 has a column that the table has not"),
    ],
    ids=["clear-text", "unknown-role", "no-subject", "text-as-time", "text-as-flag", "unknown-column"],
)
def test_a_bad_entry_stops_everything_and_its_values_are_not_told(store, publisher, lake, columns, said):
    ledger.log(store, [([ledger.user(1)], AuditEvent(action="user.register")), *bad(**columns)])

    with pytest.raises(AuditFailedError) as caught:
        publisher.publish()

    assert said in str(caught.value)
    assert CLEAR not in str(caught.value)
    assert [lake.table(name).version() for name in ledger.TABLES] == [None] * 5
    assert publisher.behind() == 2
    found = [path for path in lake.storage.local.rglob("*") if path.is_file() and CLEAR.encode() in path.read_bytes()]
    assert found == []


@ON_SQLITE
def test_a_change_of_any_other_table_is_refused(store, publisher):
    ledger.log(store, [([RowChange("market.trades", "put", {})], AuditEvent(action="user.register"))])
    with pytest.raises(AuditFailedError, match=r"entry 1 changes 'market\.trades'"):
        publisher.publish()


@ON_SQLITE
def test_an_audit_row_cannot_be_put_by_hand(store, publisher):
    ledger.log(store, [([RowChange("audit_log", "put", {"seq": 1})], AuditEvent(action="user.register"))])
    with pytest.raises(AuditFailedError, match="entry 1 changes 'audit_log'"):
        publisher.publish()


@ON_SQLITE
def test_a_lake_older_than_the_log_is_noticed(store, publisher, tmp_path):
    ledger.log(store, some(4))
    publisher.publish(limit=2)
    with pytest.raises(StoreError, match="end at entry 0, and entries after it were published and are gone"):
        Publisher(store, Lakehouse.open(tmp_path / "another")).publish()


@ON_SQLITE
def test_a_lake_newer_than_the_log_is_noticed(store, publisher, lake):
    ledger.log(store, some(2))
    publisher.publish()
    lake.table("audit_log").apply(ledger_rows(lake), app=(APPLICATION, 9))
    with pytest.raises(StoreError, match="the store ends at entry 2, the user tables at 9, and the chains do not meet"):
        publisher.publish()


def ledger_rows(lake):
    return lake.table("audit_log").scan().collect().drop("date").head(1)


# -- several, and crashes ---------------------------------------------------------------------------------------


def test_a_second_publisher_waits_for_the_first(store, lake, publisher, monkeypatch):
    monkeypatch.setattr(module, "_PATIENCE", 0.1)
    ledger.log(store, some(2))
    with publisher.alone(), ThreadPoolExecutor(1) as pool, pytest.raises(LockTimeoutError):
        pool.submit(Publisher(store, lake).publish).result()
    assert publisher.publish().entries == 2


def test_publishers_at_once_publish_everything_once(store, lake, monkeypatch):
    monkeypatch.setattr(module, "_BATCH", 3)
    chosen = some(60)
    ledger.log(store, chosen[:20])
    with ThreadPoolExecutor(4) as pool:
        entries = pool.submit(ledger.log, store, chosen[20:])
        done = [pool.submit(Publisher(store, lake).publish) for _ in range(9)]
        spans = [(each.result().first_seq, each.result().last_seq) for each in done]
        entries.result()
    last = Publisher(store, lake).publish()
    published = sorted(seq for first, end in [*spans, (last.first_seq, last.last_seq)] for seq in range(first, end + 1))
    assert published == list(range(1, 61))
    assert lake.table("audit_log").scan().collect()["seq"].sort().to_list() == published


def test_a_publisher_that_lost_its_lock_cannot_publish_twice(store, lake):
    """A lock of the database ends with its connection; the tables themselves refuse the second publisher."""
    entries = ledger.log(store, some(6))
    late = Publisher(store, lake)
    genuine, raced = late._apply, []

    def overtaken(batch, stamp):
        if not raced:
            raced.append(True)
            genuine(batch, stamp)
        return genuine(batch, stamp)

    late._apply = overtaken
    late.publish()
    ledger.Model(entries).check(lake)
    assert lake.table("audit_log").scan().collect().height == 6


@pytest.fixture
def spawner():
    process = subprocess.Popen(
        [sys.executable, str(Path(ledger.__file__))], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    assert process.stdout.readline() == "ready\n"
    yield process
    process.communicate(timeout=60)


def run(spawner, *words):
    """Run a publisher in a process of its own and return how it ended."""
    spawner.stdin.write(" ".join(map(str, words)) + "\n")
    spawner.stdin.flush()
    spawner.stdout.readline()
    return int(spawner.stdout.readline().split()[1])


def test_a_publisher_killed_at_any_step_is_continued_by_the_next(store, store_url, lake, spawner):
    dice = random.Random(4)
    entries = ledger.log(store, some(40, seed=9))
    model = ledger.Model(entries)
    ends = []
    for _ in range(8):
        ends.append(run(spawner, store_url, lake.storage.root, 9, dice.randrange(1, 40)))
        model.check(lake)
    assert ends.count(-9) >= 4

    Publisher(store, lake).publish()

    model.check(lake)
    assert lake.table("audit_log").applied(APPLICATION) == 40
    assert store.entries(0, 1) == []
