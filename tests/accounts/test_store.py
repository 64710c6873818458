"""The operational store: opening, transactions, the log, forgetting."""

from __future__ import annotations

import contextlib
import itertools
import multiprocessing
import os
import signal
import sqlite3
import stat
import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
import sqlalchemy as sa
from alembic.autogenerate import compare_metadata
from alembic.migration import MigrationContext

from hfthot_platform.core.errors import LockTimeoutError, StoreError
from hfthot_platform.storage.operational import databases, schema
from hfthot_platform.storage.operational import store as module
from hfthot_platform.storage.operational.changes import GENESIS, AuditEvent
from hfthot_platform.storage.operational.store import Store
from tests import postgres
from tests.accounts import ledger

EVENT = AuditEvent(action="test.done")


def subject(tx, number):
    tx.execute(sa.insert(schema.subjects).values(subject_id=f"{number:032x}", created_at=tx.now))


def subjects(store):
    with store.reading() as rx:
        return {int(row[0], 16) for row in rx.execute(sa.select(schema.subjects.c.subject_id)).all()}


# -- opening ------------------------------------------------------------------------------------------------


def test_a_new_store_has_exactly_the_declared_schema(new_settings):
    with (
        Store.open(new_settings) as store,
        sa.create_engine(store.url, poolclass=sa.pool.NullPool).connect() as connection,
    ):
        context = MigrationContext.configure(connection, opts={"compare_type": True})
        assert compare_metadata(context, schema.metadata) == []


def test_the_newest_migration_is_the_one_that_opening_looks_for():
    from alembic.config import Config
    from alembic.script import ScriptDirectory

    config = Config()
    config.set_main_option("script_location", str(databases.MIGRATIONS))
    config.set_main_option("path_separator", "os")
    assert ScriptDirectory.from_config(config).get_heads() == [databases.REVISION]


def test_the_reasons_that_an_older_version_wrote_in_clear_are_gone_after_the_upgrade(tmp_path, monkeypatch):
    from alembic import command

    real = command.upgrade
    with monkeypatch.context() as patched:
        patched.setattr(databases, "REVISION", "0001")
        patched.setattr(command, "upgrade", lambda config, _: real(config, "0001"))
        Store.open(f"sqlite:///{tmp_path}").close()
    with contextlib.closing(sqlite3.connect(tmp_path / "accounts.db")) as old, old:
        old.execute("INSERT INTO legal_holds VALUES ('h', 's', 'audit', 'against Jane Roe', 1, NULL)")

    with Store.open(f"sqlite:///{tmp_path}") as store, store.reading() as rx:
        assert rx.execute(sa.select(schema.legal_holds)).all() == [("h", "s", "audit", None, 1, None)]


def test_opening_an_existing_store_does_not_even_import_alembic(settings):
    Store.open(settings).close()
    code = (
        "import sys\n"
        "from hfthot_platform.storage.operational.store import Store\n"
        "Store.open(sys.argv[1]).close()\n"
        "assert not [name for name in sys.modules if name.startswith(('alembic', 'polars', 'deltalake', 'pandas'))]\n"
    )
    url = settings.accounts_url.get_secret_value() if settings.accounts_url else f"sqlite:///{settings.accounts}"
    subprocess.run([sys.executable, "-c", code, url], check=True, cwd=Path.cwd())


def test_many_that_open_a_new_store_at_once_make_one(new_settings):
    stores = []
    threads = [threading.Thread(target=lambda: stores.append(Store.open(new_settings))) for _ in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(stores) == 6
    for store in stores:
        assert store.head() == (0, GENESIS)
        store.close()


def test_a_store_of_a_newer_version_is_refused_untouched(new_settings):
    with Store.open(new_settings) as store, store.transaction() as tx:
        tx.execute(sa.text("UPDATE alembic_version SET version_num = '9999'"))
    with pytest.raises(StoreError, match=r"9999.*newer"):
        Store.open(new_settings)


def test_a_store_inside_the_lake_is_refused(make_settings, tmp_path):
    for folder in (tmp_path, tmp_path / "lake" / "accounts"):
        with pytest.raises(StoreError, match="inside the lake"):
            Store.open(make_settings(lake_root=str(tmp_path), accounts=folder))
    assert not (tmp_path / "accounts.db").exists()


def test_sqlite_writes_ahead_waits_for_the_disk_and_overwrites_what_it_deletes(make_settings):
    with Store.open(make_settings()) as store, store.transaction() as tx:
        found = {
            name: tx.execute(sa.text(f"PRAGMA {name}")).scalar()
            for name in ("journal_mode", "synchronous", "secure_delete", "foreign_keys")
        }
    assert found == {"journal_mode": "wal", "synchronous": 2, "secure_delete": 1, "foreign_keys": 1}


def test_sqlite_files_are_their_owners_alone(make_settings):
    old = os.umask(0)
    try:
        with Store.open(make_settings()) as store:
            with store.transaction() as tx:
                subject(tx, 1)
            folder = store.files()[0].parent
            assert {path.name for path in store.files()} >= {"accounts.db", "accounts.db-wal", "accounts.db-shm"}
            for path in folder.iterdir():
                assert stat.S_IMODE(path.stat().st_mode) == 0o600, path
            assert stat.S_IMODE(folder.stat().st_mode) == 0o700
    finally:
        os.umask(old)


def test_sqlite_files_that_an_older_version_left_open_to_others_are_closed_to_them(make_settings):
    settings = make_settings()
    with Store.open(settings) as first:
        with first.exclusively("erasure"), first.transaction() as tx:
            subject(tx, 1)
        folder = first.files()[0].parent
        for path in folder.iterdir():
            path.chmod(0o644)
        with Store.open(settings) as store, store.exclusively("erasure"), store.transaction() as tx:
            subject(tx, 2)
        assert len(list(folder.iterdir())) > 4
        for path in folder.iterdir():
            assert stat.S_IMODE(path.stat().st_mode) == 0o600, path


def test_postgresql_is_told_to_wait_for_the_disk():
    with Store.open(postgres.server().database()) as store, store.transaction() as tx:
        assert tx.execute(sa.text("SHOW synchronous_commit")).scalar() == "on"


@pytest.mark.parametrize("url", ["mysql://me:hunter2@host/db", "postgresql+psycopg://me:hunter2@127.0.0.1:1/db"])
def test_a_database_that_cannot_be_used_is_named_without_its_password(url):
    with pytest.raises(StoreError) as caught:
        Store.open(url)
    assert "hunter2" not in str(caught.value)


# -- transactions -------------------------------------------------------------------------------------------


def test_rows_and_entry_are_there_together(store):
    with store.transaction() as tx:
        subject(tx, 1)
        seq = tx.log([ledger.user(1)], EVENT)
    assert seq == 1
    assert subjects(store) == {1}
    (entry,) = store.entries(0, 10)
    assert (entry.rows[0].row, entry.audit, entry.previous_hash) == (ledger.user(1).row, EVENT, GENESIS)
    assert store.head() == (1, entry.hash)


def test_an_exception_undoes_rows_and_entry(store):
    def operation():
        with store.transaction() as tx:
            subject(tx, 1)
            tx.log([], EVENT)
            raise LookupError

    with pytest.raises(LookupError):
        operation()
    assert subjects(store) == set()
    assert store.head() == (0, GENESIS)


def test_a_refused_statement_undoes_the_operation_and_shows_no_values(store):
    with pytest.raises(StoreError) as caught, store.transaction() as tx:
        tx.execute(sa.insert(schema.users).values(user_id="canary-value"))
    assert "canary" not in str(caught.value)
    assert caught.value.__cause__ is None
    with store.transaction() as tx:  # and the store goes on
        subject(tx, 2)
    assert subjects(store) == {2}


def test_a_transaction_inside_another_one_is_refused_instead_of_waiting_for_itself(store):
    with pytest.raises(StoreError, match="inside another"), store.transaction(), store.transaction():
        pass
    with store.transaction() as tx:
        subject(tx, 1)
    assert subjects(store) == {1}


def test_threads_share_commits_and_those_that_fail_take_nobody_with_them(store):
    barrier = threading.Barrier(8)
    failed = []

    def work(worker):
        barrier.wait()
        for number in range(25):
            try:
                with store.transaction() as tx:
                    subject(tx, 1000 * worker + number)
                    tx.log([], EVENT)
                    if number % 5 == 0:
                        raise LookupError
            except LookupError:
                failed.append(number)

    threads = [threading.Thread(target=work, args=(worker,)) for worker in range(1, 9)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()

    assert len(failed) == 8 * 5
    assert subjects(store) == {1000 * w + n for w in range(1, 9) for n in range(25) if n % 5}
    entries = store.entries(0, 1000)
    assert [entry.seq for entry in entries] == list(range(1, 8 * 20 + 1))
    assert all(after.previous_hash == before.hash for before, after in itertools.pairwise(entries))


def test_a_shared_commit_that_fails_fails_for_everybody_in_it(settings, clock, monkeypatch):
    """The disk is full at the commit: nobody is told that it worked."""
    monkeypatch.setattr(module, "SHARED_SECONDS", 60)
    store = Store.open(settings, clock)
    outcomes = []
    inside, go = threading.Event(), threading.Event()

    def first():
        with store.transaction() as tx:
            inside.set()
            go.wait()
            subject(tx, 1)
            # An entry that cannot be written makes the commit fail after everybody's part is done.
            tx.entries.append((type("Broken", (), {"seq": None, "ts": None})(), None))

    def second():
        with store.transaction() as tx:
            subject(tx, 2)

    def run(work):
        try:
            work()
            outcomes.append("done")
        except StoreError:
            outcomes.append("failed")

    threads = [threading.Thread(target=run, args=(first,))]
    threads[0].start()
    inside.wait()
    threads.append(threading.Thread(target=run, args=(second,)))
    threads[1].start()
    while store.waiting == 0:
        time.sleep(0.001)
    go.set()
    for thread in threads:
        thread.join()

    assert outcomes == ["failed", "failed"]
    assert subjects(store) == set()
    with store.transaction() as tx:
        subject(tx, 3)
    assert subjects(store) == {3}
    store.close()


def test_readers_do_not_write(store):
    with pytest.raises(StoreError), store.reading() as rx:
        rx.execute(sa.insert(schema.subjects).values(subject_id="x", created_at=1))


def test_stores_that_threads_make_at_the_same_time_have_a_whole_schema_each(make_settings, tmp_path):
    count = 6
    start = threading.Barrier(count)

    def made(number: int) -> tuple[set[int], str]:
        start.wait()
        with Store.open(make_settings(accounts=tmp_path / str(number)), create=True) as store:
            with store.transaction() as tx:
                subject(tx, number)
            return subjects(store), sqlite_schema(tmp_path / str(number) / "accounts.db")

    with ThreadPoolExecutor(count) as threads:
        found = list(threads.map(made, range(count)))

    assert [rows for rows, _ in found] == [{number} for number in range(count)]
    assert len({schema for _, schema in found}) == 1


def sqlite_schema(path: Path) -> str:
    with contextlib.closing(sqlite3.connect(path)) as database:
        return str(sorted(database.execute("SELECT name, sql FROM sqlite_master").fetchall()))


def test_a_closed_store_says_so(settings):
    store = Store.open(settings)
    store.close()
    with pytest.raises(StoreError, match="closed"):
        store.transaction().__enter__()
    with pytest.raises(StoreError, match="closed"):
        store.reading().__enter__()


def test_a_forked_child_and_its_parent_do_not_disturb_each_other(store):
    with store.transaction() as tx:
        subject(tx, 1)
    with store.reading() as rx:
        rx.execute(sa.select(schema.subjects)).all()

    def child():
        for number in range(100, 120):
            with store.transaction() as tx:
                subject(tx, number)
                tx.log([], EVENT)
        os._exit(0 if len(subjects(store)) >= 21 else 1)

    process = multiprocessing.get_context("fork").Process(target=child)
    process.start()
    for number in range(200, 220):
        with store.transaction() as tx:
            subject(tx, number)
            tx.log([], EVENT)
    process.join(60)

    assert process.exitcode == 0
    assert subjects(store) == {1, *range(100, 120), *range(200, 220)}
    assert store.head()[0] == 40


def test_a_child_forked_inside_a_transaction_is_told_to_open_its_own_store(store):
    with store.transaction() as tx:
        subject(tx, 1)
        child = os.fork()
        if child == 0:
            try:
                store.head()
            except StoreError as error:
                os._exit(0 if "forked" in str(error) else 2)
            os._exit(1)
        assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
    assert subjects(store) == {1}


def test_a_fork_waits_for_other_threads_and_the_child_outlives_the_parents_store(settings):
    """What the child writes after the parent closed is there: it holds locks of its own."""
    store = Store.open(settings)
    inside = threading.Event()

    def writing():
        with store.transaction() as tx:
            subject(tx, 1)
            inside.set()
            time.sleep(0.2)

    thread = threading.Thread(target=writing)
    thread.start()
    inside.wait()
    ready, closed = os.pipe(), os.pipe()
    child = os.fork()
    if child == 0:
        try:
            assert subjects(store) == {1}
            os.write(ready[1], b"x")
            os.read(closed[0], 1)
            with store.transaction() as tx:
                subject(tx, 2)
            store.close()
            os._exit(0)
        except BaseException:
            os._exit(1)
    thread.join()
    os.read(ready[0], 1)
    store.close()
    os.write(closed[1], b"x")
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
    with Store.open(settings) as again:
        assert subjects(again) == {1, 2}


def test_a_server_that_was_restarted_costs_one_failed_read_and_no_write():
    server = postgres.Server()
    try:
        with Store.open(server.database()) as store:
            with store.transaction() as tx:
                subject(tx, 1)
            assert store.head() == (0, GENESIS)
            server.kill()
            server.start()
            with pytest.raises(StoreError):
                store.head()
            assert store.head() == (0, GENESIS)
            with store.transaction() as tx:
                subject(tx, 2)
            assert subjects(store) == {1, 2}
    finally:
        server.close()


WRITER = """
import sys
import sqlalchemy as sa
from hfthot_platform.storage.operational import schema
from hfthot_platform.storage.operational.changes import AuditEvent
from hfthot_platform.storage.operational.store import Store

store = Store.open(sys.argv[1])
number = int(sys.argv[2])
while True:
    number += 1
    with store.transaction() as tx:
        tx.execute(sa.insert(schema.subjects).values(subject_id=f"{number:032x}", created_at=tx.now))
        tx.log([], AuditEvent(action="test.done", resource=str(number)))
    print(number, flush=True)
"""


@pytest.mark.soak
def test_a_killed_writer_leaves_all_or_nothing_of_each_operation(settings):
    url = settings.accounts_url.get_secret_value() if settings.accounts_url else f"sqlite:///{settings.accounts}"
    Store.open(settings).close()
    acknowledged = []
    for attempt in range(2):
        base = 1_000_000 * (attempt + 1)
        process = subprocess.Popen([sys.executable, "-c", WRITER, url, str(base)], stdout=subprocess.PIPE, text=True)
        for _ in range(20 + 7 * attempt):
            acknowledged.append(int(process.stdout.readline()))
        process.send_signal(signal.SIGKILL)
        acknowledged += [int(line) for line in process.communicate()[0].split() if len(line) == 7]

    with Store.open(settings) as store:
        entries = store.entries(0, 100_000)
        assert {int(entry.audit.resource) for entry in entries} == subjects(store) >= set(acknowledged)
        assert [entry.seq for entry in entries] == list(range(1, len(entries) + 1))
        assert store.head() == (entries[-1].seq, entries[-1].hash)


def test_losing_sqlites_locks_to_a_reader_of_its_files_loses_no_operation(make_settings):
    """A process that opens and closes the files loses its locks; the next to close the store clears the log away."""
    settings = make_settings()
    code = "import sys; from hfthot_platform.storage.operational.store import Store; Store.open(sys.argv[1]).close()"
    with Store.open(settings) as store:
        with store.transaction() as tx:
            subject(tx, 1)
        assert subjects(store) == {1}
        for path in store.files():
            path.open("rb").close()
        subprocess.run([sys.executable, "-c", code, f"sqlite:///{settings.accounts}"], check=True)
        assert len(store.files()) == 1  # as feared
        assert subjects(store) == {1}
        with store.transaction() as tx:
            subject(tx, 2)
        with Store.open(settings) as other:
            assert subjects(other) == subjects(store) == {1, 2}
    with Store.open(settings) as again:
        assert subjects(again) == {1, 2}


# -- the log ------------------------------------------------------------------------------------------------


def test_entries_come_in_pages_and_leave_when_trimmed(store):
    for _ in range(5):
        with store.transaction() as tx:
            tx.log([], EVENT)
    assert [entry.seq for entry in store.entries(2, 2)] == [3, 4]
    assert store.trim(3) == 3
    assert [entry.seq for entry in store.entries(0, 10)] == [4, 5]
    assert store.head()[0] == 5


def test_times_of_entries_are_the_clocks_to_the_microsecond(store, clock):
    clock.forward(microseconds=123_457)
    with store.transaction() as tx:
        tx.log([], EVENT)
    assert store.entries(0, 1)[0].ts == 1_710_072_000_123_457


def test_a_named_lock_has_one_holder_and_lets_transactions_pass(settings):
    with Store.open(settings) as one, Store.open(settings) as other:
        with one.exclusively("publisher"):
            with one.transaction() as tx:
                subject(tx, 1)
            with pytest.raises(LockTimeoutError, match="publisher"), other.exclusively("publisher", timeout=0.1):
                pass
            with other.exclusively("rotation", timeout=0.1):
                pass
        with other.exclusively("publisher", timeout=0.1):
            pass


# -- forgetting ---------------------------------------------------------------------------------------------


def test_what_is_deleted_is_not_in_the_files_after_purging(make_settings):
    """Long and short values, in rows and indexes, among many that stay."""
    with Store.open(make_settings()) as store:
        for start in range(0, 600, 100):
            with store.transaction() as tx:
                for number in range(start, start + 100):
                    subject(tx, number)
                    row = {
                        "lookup": b"gone-%06d-" % number + os.urandom(20) if number % 3 else b"kept-%06d" % number,
                        "failures": 1,
                        "window_start": number,
                    }
                    tx.execute(sa.insert(schema.login_attempts).values(row))
                    payload = (b"gone" if number % 3 else b"kept") * (50 + 20 * (number % 100))
                    log = {"seq": 10_000 + number, "ts": 1, "payload": payload}
                    tx.execute(sa.insert(schema.change_log).values(log))
        before = b"".join(path.read_bytes() for path in store.files())
        with store.transaction() as tx:
            numbers = [number for number in range(600) if number % 3]
            attempts, log = schema.login_attempts, schema.change_log
            tx.execute(sa.delete(attempts).where(attempts.c.window_start.in_(numbers)))
            tx.execute(sa.delete(log).where(log.c.seq.in_([10_000 + number for number in numbers])))
        store.purge()
        after = b"".join(path.read_bytes() for path in store.files())
    assert b"gone" in before
    assert b"gone" not in after
    assert after.count(b"kept-") >= 200
    assert len(after) < len(before)


def test_purging_says_so_when_a_reader_holds_the_old_state(make_settings, monkeypatch):
    monkeypatch.setattr(databases, "LOCK_SECONDS", 0.2)
    with Store.open(make_settings()) as store:
        with store.transaction() as tx:
            subject(tx, 1)
        with sa.create_engine(store.url, poolclass=sa.pool.NullPool).connect() as reader:
            reader.exec_driver_sql("BEGIN")
            reader.exec_driver_sql("SELECT * FROM subjects").fetchall()
            with store.transaction() as tx:
                subject(tx, 2)
            with pytest.raises(StoreError, match="reader"):
                store.purge()
        store.purge()
        wal = next(path for path in store.files() if path.name.endswith("-wal"))
        assert wal.stat().st_size == 0


def test_purging_works_on_both_databases(store):
    with store.transaction() as tx:
        subject(tx, 1)
        tx.log([], EVENT)
    store.trim(1)
    store.purge()
    assert subjects(store) == {1}
