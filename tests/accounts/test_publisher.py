"""The change log reaches the user tables in order and exactly once, whoever publishes and whatever dies."""

from __future__ import annotations

import itertools
import random
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from hfthot_platform.core.errors import AuditFailedError, LockTimeoutError, RowRefusedError, StoreError
from hfthot_platform.services.publication import publisher as module
from hfthot_platform.services.publication.chain import verify_chain
from hfthot_platform.services.publication.publisher import APPLICATION, Publisher, flush
from hfthot_platform.storage.lakehouse import Lakehouse, Stamp
from hfthot_platform.storage.operational import connection as connection_module
from hfthot_platform.storage.operational.changes import GENESIS, AuditEvent, RowChange
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


@pytest.mark.soak
@pytest.mark.parametrize("batch", [7, 1000])
def test_the_tables_hold_what_the_log_says_whatever_the_batches(store, publisher, lake, monkeypatch, batch):
    monkeypatch.setattr(module, "BATCH", batch)
    monkeypatch.setattr(module, "PAGE", 5)
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
    assert {version.run_id for version in lake.table("audit_log").versions()[1:]} == {"run-7"}


# -- what is set aside ------------------------------------------------------------------------------------------


@pytest.fixture
def unchecked(monkeypatch):
    """Let the store take rows and events that it refuses, as an older version did."""
    monkeypatch.setattr(connection_module, "require_rows", lambda rows: None)
    monkeypatch.setattr(connection_module, "require_event", lambda audit: None)


def bad(number=3, **columns):
    row = dict(ledger.user(number).row) | columns
    return ([RowChange("users", "put", row)], AuditEvent(action="user.register", subject_id=ledger.subject(number)))


def good(number, tier="free", **event):
    return [ledger.user(number, tier)], AuditEvent(action="user.update", subject_id=ledger.subject(number), **event)


def waiting(store):
    return [(aside.entry.seq, aside.audited) for aside in store.waiting_aside()]


BAD = pytest.mark.parametrize(
    ("columns", "said"),
    [
        ({"email": CLEAR}, "breaks the rule malformed_text"),
        ({"role": CLEAR}, "breaks the rule unknown_value"),
        ({"subject_id": None}, "has a malformed row"),
        ({"created_at": CLEAR}, "value of a wrong type in 'created_at'"),
        ({"active": CLEAR}, "value of a wrong type in 'active'"),
        ({"password": CLEAR}, "has a column that the table does not have"),
        ({"updated_at": 0}, "inconsistent_bar"),
        ({"created_at": 2**63}, "value of a wrong type in 'created_at'"),
    ],
    ids=[
        "clear",
        "role",
        "no-subject",
        "text-as-time",
        "text-as-flag",
        "unknown-column",
        "before-it-began",
        "too-large",
    ],
)


@pytest.mark.soak
@ON_SQLITE
@BAD
def test_a_bad_entry_is_set_aside_and_everybody_else_goes_on(store, publisher, lake, unchecked, columns, said):
    ledger.log(store, [good(1), bad(**columns), good(2), good(4)])

    done = publisher.publish()

    assert done.set_aside == (2,)
    assert tiers(lake) == {1: "free", 2: "free", 4: "free"}
    (aside,) = store.waiting_aside()
    assert said in aside.reason
    assert publisher.behind() == 0
    assert verify_chain(lake, store).intact
    (incident,) = lake.table("ops.incidents").scan().collect().rows(named=True)
    assert incident["kind"] == "set_aside"
    assert said.split()[-1] in incident["message"]
    told = f"{aside.reason} {incident['message']}"
    assert CLEAR not in told
    found = [path for path in lake.storage.local.rglob("*") if path.is_file() and CLEAR.encode() in path.read_bytes()]
    assert found == []


@ON_SQLITE
@BAD
def test_the_store_refuses_such_a_row_and_enters_nothing(store, columns, said):
    with pytest.raises(RowRefusedError) as caught:
        ledger.log(store, [bad(**columns)])
    assert CLEAR not in str(caught.value)
    assert store.head() == (0, GENESIS)


@pytest.mark.soak
@ON_SQLITE
@pytest.mark.parametrize("seed", range(2))
def test_of_random_entries_only_the_bad_ones_wait(store, lake, publisher, unchecked, monkeypatch, seed):
    monkeypatch.setattr(module, "BATCH", 16)
    dice = random.Random(seed)
    chosen = [bad(100 + n, role=CLEAR) if dice.random() < 0.2 else good(n) for n in range(40)]
    ledger.log(store, chosen)
    wrong = [n + 1 for n, (rows, _) in enumerate(chosen) if rows[0].row["role"] == CLEAR]

    assert publisher.publish().set_aside == tuple(wrong)

    assert waiting(store) == [(seq, True) for seq in wrong]
    assert len(tiers(lake)) == 40 - len(wrong)
    report = verify_chain(lake, store)
    assert (report.intact, report.entries) == (True, store.head()[0])


@ON_SQLITE
def test_later_entries_of_the_same_subject_wait_behind_it(store, publisher, lake, unchecked):
    ledger.log(store, [bad(3, email=CLEAR), good(1)])
    assert publisher.publish().set_aside == (1,)

    ledger.log(store, [([ledger.session(7, 3)], AuditEvent(action="session.login")), good(2)])
    later = publisher.publish()

    assert len(later.set_aside) == 1
    assert lake.table("sessions").version() is None
    assert tiers(lake) == {1: "free", 2: "free"}
    assert verify_chain(lake, store).intact


@ON_SQLITE
def test_a_later_row_of_the_same_key_heals_it_and_nothing_waits_any_more(store, publisher, lake, unchecked):
    ledger.log(store, [bad(3, role=CLEAR), good(1)])
    publisher.publish()
    ledger.log(store, [good(3, "hobbyist")])

    assert publisher.publish().set_aside == ()

    assert waiting(store) == []
    assert tiers(lake) == {1: "free", 3: "hobbyist"}
    assert publisher.behind() == 0


@ON_SQLITE
def test_what_was_set_aside_is_retried_in_its_order(store, publisher, lake, unchecked, monkeypatch):
    strict = module.Fold.frame
    monkeypatch.setattr(module.Fold, "frame", refusing(strict, ledger.subject(3)))
    session = [ledger.session(7, 3)], AuditEvent(action="session.login", subject_id=ledger.subject(3))
    ledger.log(store, [good(3), good(1), good(3, "professional"), session])
    assert publisher.publish().set_aside == (1, 3, 4)
    assert publisher.retry() == ()

    monkeypatch.setattr(module.Fold, "frame", strict)
    assert publisher.retry() == (1, 3, 4)

    assert tiers(lake) == {1: "free", 3: "professional"}
    assert lake.table("sessions").scan().collect().height == 1
    assert waiting(store) == []
    publisher.publish()
    assert verify_chain(lake, store).intact


def refusing(frame, subject):
    """Return a fold's frame that refuses a subject's rows, as a stricter contract would."""

    def strict(fold):
        whose = fold.subject_at
        if fold.contract.name in {"users", "sessions"} and any(row[whose] == subject for row in fold.rows.values()):
            raise AuditFailedError("a row breaks a rule", where=fold.contract.name)
        return frame(fold)

    return strict


@ON_SQLITE
@pytest.mark.parametrize("kill_before", ["apply_entries", "put_aside", "trim_log"])
def test_a_publisher_that_died_while_setting_aside_is_continued(
    store, lake, publisher, unchecked, monkeypatch, kill_before
):
    ledger.log(
        store, [good(1), bad(3, role=CLEAR), good(2), ([ledger.session(1, 3)], AuditEvent(action="session.login"))]
    )
    calls = itertools.count()
    genuine = getattr(Publisher, kill_before)

    def dying(self, *arguments):
        if next(calls) == 1:
            raise KeyboardInterrupt
        return genuine(self, *arguments)

    monkeypatch.setattr(Publisher, kill_before, dying)
    with pytest.raises(KeyboardInterrupt):
        publisher.publish()
    monkeypatch.setattr(Publisher, kill_before, genuine)

    publisher.publish()

    assert waiting(store) == [(2, True), (4, True)]
    assert tiers(lake) == {1: "free", 2: "free"}
    assert lake.table("sessions").version() is None
    assert verify_chain(lake, store).intact


@ON_SQLITE
def test_an_event_that_the_audit_log_does_not_take_keeps_its_place_in_the_chain(store, publisher, lake, unchecked):
    odd = AuditEvent(action="NOT AN ACTION", subject_id=ledger.subject(1), ip=ledger.SEALED)
    ledger.log(store, [good(1), ([ledger.user(1, "hobbyist")], odd), good(2)])

    assert publisher.publish().set_aside == (2,)

    assert waiting(store) == [(2, False)]
    assert tiers(lake) == {1: "hobbyist", 2: "free"}
    assert 2 not in lake.table("audit_log").scan().collect()["seq"]
    assert verify_chain(lake, store).intact


def test_an_erasure_takes_what_waits_of_the_person(accounts, alice, lake, unchecked):
    publisher = Publisher(accounts.store, lake)
    publisher.publish()
    subject = accounts.subject_of(alice.user_id)
    with accounts.store.transaction() as tx:
        row = RowChange("users", "put", {**ledger.user(1).row, "subject_id": subject, "role": "king"})
        tx.log([row], AuditEvent(action="BAD", subject_id=subject, ip=ledger.SEALED))
    publisher.publish()
    assert len(accounts.store.waiting_aside()) == 1

    with accounts.store.transaction() as tx:
        accounts.destroy(tx, subject)
    publisher.publish()

    (left,) = accounts.store.waiting_aside()
    assert (left.entry.rows, left.entry.audit.ip) == ((), None)
    assert tiers(lake) == {}
    assert verify_chain(lake, accounts.store).intact


@ON_SQLITE
@pytest.mark.parametrize("change", [RowChange("market.trades", "put", {}), RowChange("audit_log", "put", {"seq": 1})])
def test_a_change_of_any_other_table_is_refused_by_the_store_and_set_aside_from_its_log(
    store, publisher, monkeypatch, change
):
    with pytest.raises(RowRefusedError):
        ledger.log(store, [([change], AuditEvent(action="user.register"))])
    monkeypatch.setattr(connection_module, "require_rows", lambda rows: None)
    ledger.log(store, [([change], AuditEvent(action="user.register"))])
    assert publisher.publish().set_aside == (1,)


# -- what stops it ----------------------------------------------------------------------------------------------


@ON_SQLITE
def test_a_lake_older_than_the_log_is_noticed(store, publisher, tmp_path):
    ledger.log(store, some(4))
    publisher.publish(limit=2)
    with pytest.raises(StoreError, match="end at entry 0, but later entries were published and are lost"):
        Publisher(store, Lakehouse.open(tmp_path / "another")).publish()


@ON_SQLITE
def test_a_lake_newer_than_the_log_is_noticed(store, publisher, lake):
    ledger.log(store, some(2))
    publisher.publish()
    lake.table("audit_log").apply(ledger_rows(lake), app=(APPLICATION, 9))
    with pytest.raises(StoreError, match="the store ends at entry 2 and the user tables end at 9, but"):
        publisher.publish()


def ledger_rows(lake):
    return lake.table("audit_log").scan().collect().drop("date").head(1)


# -- several, and crashes ---------------------------------------------------------------------------------------


def test_a_second_publisher_waits_for_the_first(store, lake, publisher, monkeypatch):
    monkeypatch.setattr(module, "PATIENCE", 0.1)
    ledger.log(store, some(2))
    with publisher.alone(), ThreadPoolExecutor(1) as pool, pytest.raises(LockTimeoutError):
        pool.submit(Publisher(store, lake).publish).result()
    assert publisher.publish().entries == 2


@pytest.mark.soak
def test_publishers_at_once_publish_everything_once(store, lake, monkeypatch):
    monkeypatch.setattr(module, "BATCH", 3)
    chosen = some(60)
    ledger.log(store, chosen[:20])
    with ThreadPoolExecutor(4) as pool:
        entries = pool.submit(ledger.log, store, chosen[20:])
        done = [pool.submit(Publisher(store, lake).publish) for _ in range(9)]
        spans = [(publication.result().first_seq, publication.result().last_seq) for publication in done]
        entries.result()
    last = Publisher(store, lake).publish()
    published = sorted(seq for first, end in [*spans, (last.first_seq, last.last_seq)] for seq in range(first, end + 1))
    assert published == list(range(1, 61))
    assert lake.table("audit_log").scan().collect()["seq"].sort().to_list() == published


def test_a_publisher_that_lost_its_lock_cannot_publish_twice(store, lake):
    """A lock of the database ends with its connection; the tables themselves refuse the second publisher."""
    entries = ledger.log(store, some(6))
    late = Publisher(store, lake)
    genuine, raced = late.apply_entries, []

    def overtaken(*arguments):
        if not raced:
            raced.append(True)
            genuine(*arguments)
        return genuine(*arguments)

    late.apply_entries = overtaken
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


@pytest.mark.soak
def test_a_publisher_killed_at_any_step_is_continued_by_the_next(store, store_url, lake, spawner):
    dice = random.Random(4)
    entries = ledger.log(store, some(40, seed=9))
    model = ledger.Model(entries)
    lake.expect_new()  # the first publisher may be killed before it made any table
    ends = []
    for _ in range(4):
        ends.append(run(spawner, store_url, lake.storage.root, 9, dice.randrange(1, 40)))
        model.check(lake)
    assert ends.count(-9) >= 2

    Publisher(store, lake).publish()

    model.check(lake)
    assert lake.table("audit_log").applied(APPLICATION) == 40
    assert store.entries(0, 1) == []
