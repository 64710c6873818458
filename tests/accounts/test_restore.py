"""After a backup was put back: nothing acknowledged since is lost, and nobody who was erased comes back."""

from __future__ import annotations

import shutil
from pathlib import Path

import deltalake
import polars as pl
import pytest
import sqlalchemy as sa

from hfthot_platform.core.errors import (
    BadRequestError,
    CertificateError,
    DamagedTableError,
    ErasedSubjectError,
    StoreError,
)
from hfthot_platform.domain.contracts.accounts import USER_TABLES
from hfthot_platform.services.accounts.accounts import Accounts
from hfthot_platform.services.accounts.records import Request
from hfthot_platform.services.privacy.erasure import delete_user_permanent, run_erasure
from hfthot_platform.services.privacy.erasure_requests import request_erasure
from hfthot_platform.services.privacy.holds import place_hold
from hfthot_platform.services.privacy.restore import forgotten_destructions, restore
from hfthot_platform.services.publication.chain import verify_chain
from hfthot_platform.services.publication.publisher import Publisher, flush
from hfthot_platform.storage.lakehouse import Lakehouse
from hfthot_platform.storage.operational import schema

from .conftest import PASSWORD

#: Erasures take a second each; what is particular to a database is tested without them.
SQLITE = pytest.mark.parametrize("settings", ["sqlite"], indirect=True)


@pytest.fixture
def lake(settings, clock):
    return Lakehouse.open(settings.lake_root, clock=clock)


def backup(store):
    """Return all rows of a store."""
    with store.reading() as rx:
        return {table: [tuple(row) for row in rx.execute(sa.select(table))] for table in schema.metadata.sorted_tables}


def put_back(store, rows):
    """Make a store what it was, as the restore of a database dump does."""
    with sa.create_engine(store.url, poolclass=sa.pool.NullPool).connect() as connection:
        raw = connection.connection.driver_connection
        raw.execute("BEGIN")
        for table in reversed(schema.metadata.sorted_tables):
            connection.execute(sa.delete(table))
        for table in schema.metadata.sorted_tables:
            for row in rows[table]:
                connection.execute(sa.insert(table).values(dict(zip(table.c.keys(), row, strict=True))))
        raw.execute("COMMIT")


def in_lake(accounts, lake, user_id, column="email"):
    """Return a field of an account as the newest version of `users` has it."""
    subject = accounts.subject_of(user_id)
    rows = lake.table("users").scan().filter(pl.col("subject_id") == subject).collect()
    cipher = accounts.ciphers([subject], "identity")[subject]
    return [cipher.decrypt("users", column, ciphertext) for ciphertext in rows[column]]


@pytest.fixture
def restored(accounts, lake, alice, bob):
    """A store that was put back to before three changes of bob's account and the registration of a third person."""
    flush(accounts.store, lake)
    rows = backup(accounts.store)
    for number in range(3):
        accounts.update_user(bob.user_id, first_name=f"Bob{number}")
    accounts.register("carol", "carol@example.org", PASSWORD)
    flush(accounts.store, lake)
    put_back(accounts.store, rows)
    return accounts


def test_what_is_written_after_a_restore_reaches_the_lake(restored, lake, bob):
    restored.update_user(bob.user_id, email="bob.new@example.org")

    published = Publisher(restored.store, lake).publish()

    assert published.reconciled.state == "store_behind"
    assert in_lake(restored, lake, bob.user_id) == ["bob.new@example.org"]
    assert verify_chain(lake, restored.store).problems == ()


def test_the_lake_shows_people_as_the_restored_store_has_them(restored, lake, alice, bob):
    Publisher(restored.store, lake).publish()

    assert lake.table("users").scan().filter(pl.col("first_name").is_not_null()).collect().height == 1
    assert lake.table("users").scan().collect().height == 2
    assert in_lake(restored, lake, alice.user_id) == ["alice@example.org"]


def test_entries_of_the_lake_stay_and_new_ones_follow_them(restored, lake, bob):
    before = lake.table("audit_log").scan().sort("seq").collect()
    restored.update_user(bob.user_id, email="bob.new@example.org")
    Publisher(restored.store, lake).publish()

    after = lake.table("audit_log").scan().sort("seq").collect()

    assert after.head(before.height).equals(before)
    assert after["seq"].to_list() == list(range(1, after.height + 1))
    assert after["action"].to_list()[before.height :] == ["user.update", "store.restored", "store.rows_written"]


def test_a_store_whose_numbers_caught_up_is_noticed_too(restored, lake, bob):
    reached = Publisher(restored.store, lake).reached()
    while restored.store.head()[0] <= reached + 2:
        restored.update_user(bob.user_id, last_name=f"n{restored.store.head()[0]}")
    last = restored.store.head()[0] - 1

    assert Publisher(restored.store, lake).publish().reconciled.moved > 0

    assert in_lake(restored, lake, bob.user_id, "last_name") == [f"n{last}"]
    assert verify_chain(lake, restored.store).problems == ()


def test_a_second_publication_finds_nothing_to_reconcile(restored, lake, bob):
    Publisher(restored.store, lake).publish()
    restored.update_user(bob.user_id, email="bob.new@example.org")

    assert Publisher(restored.store, lake).publish().reconciled is None


def test_a_publisher_that_was_killed_before_it_trimmed_is_no_restore(accounts, lake, bob, monkeypatch):
    monkeypatch.setattr(Publisher, "trim_log", lambda *_: None)
    Publisher(accounts.store, lake).publish()
    accounts.update_user(bob.user_id, email="bob.new@example.org")
    monkeypatch.undo()

    assert Publisher(accounts.store, lake).publish().reconciled is None
    assert in_lake(accounts, lake, bob.user_id) == ["bob.new@example.org"]


@SQLITE
def test_a_store_of_another_installation_is_refused(accounts, lake, bob, make_settings, tmp_path, clock):
    flush(accounts.store, lake)
    other = make_settings(accounts=tmp_path / "other", key_file=tmp_path / "other.json")
    with Accounts.open(other, clock) as others:
        for number in range(9):
            others.register(f"person{number}", f"p{number}@example.org", PASSWORD)
        with pytest.raises(StoreError, match="their chains have no common entry"):
            Publisher(others.store, lake).publish()
        with pytest.raises(StoreError, match="different installations"):
            restore(others, lake)
    assert verify_chain(lake, accounts.store).intact


@pytest.mark.soak
def test_whom_the_backup_brings_back_is_erased_again(accounts, lake, alice, bob):
    flush(accounts.store, lake)
    rows = backup(accounts.store)
    delete_user_permanent(accounts, lake, alice.user_id)
    put_back(accounts.store, rows)
    assert accounts.get_user(alice.user_id).email == "alice@example.org"

    done = restore(accounts, lake)

    assert list(done.erased.values()) == ["done"]
    assert done.log.intact
    with pytest.raises(ErasedSubjectError):
        accounts.get_user(alice.user_id)
    assert in_lake(accounts, lake, bob.user_id) == ["bob@example.org"]
    assert forgotten_destructions(accounts, lake) == {}
    again = restore(accounts, lake)
    assert (again.reconciled, again.erased, again.parts) == (None, {}, 0)


@pytest.mark.soak
@SQLITE
def test_whom_the_backups_of_store_and_lake_bring_back_is_erased_again(accounts, lake, alice, settings, tmp_path):
    flush(accounts.store, lake)
    rows = backup(accounts.store)
    shutil.copytree(settings.lake_folder(), tmp_path / "lake")
    delete_user_permanent(accounts, lake, alice.user_id)
    put_back(accounts.store, rows)
    shutil.rmtree(settings.lake_folder())
    shutil.copytree(tmp_path / "lake", settings.lake_folder())

    done = restore(accounts, Lakehouse.open(settings.lake_root, clock=accounts.clock))

    assert done.reconciled is None
    assert list(done.erased.values()) == ["done"]
    with pytest.raises(ErasedSubjectError):
        accounts.get_user(alice.user_id)


@SQLITE
def test_of_whom_a_hold_kept_a_part_only_the_rest_is_erased_again(accounts, lake, alice):
    subject = accounts.subject_of(alice.user_id)
    accounts.login("Alice", PASSWORD, request=Request(ip="192.0.2.7"))
    flush(accounts.store, lake)
    rows = backup(accounts.store)
    place_hold(accounts, alice.user_id, ["audit"], "claim")
    with pytest.raises(Exception, match="hold"):
        run_erasure(accounts, lake, request_erasure(accounts, alice.user_id))
    put_back(accounts.store, rows)

    done = restore(accounts, lake)

    assert (done.erased, done.parts) == ({}, 1)
    assert accounts.ciphers([subject], "identity") == {}
    assert accounts.ciphers([subject], "audit") != {}


@pytest.mark.soak
@SQLITE
def test_an_erasure_can_be_asked_for_again_without_the_command(accounts, lake, alice):
    flush(accounts.store, lake)
    rows = backup(accounts.store)
    delete_user_permanent(accounts, lake, alice.user_id)
    put_back(accounts.store, rows)

    assert delete_user_permanent(accounts, lake, alice.user_id).request_id


@SQLITE
def test_a_list_of_erasures_that_somebody_wrote_to_erases_nobody(accounts, lake, alice, settings):
    delete_user_permanent(accounts, lake, alice.user_id)
    path = settings.certificates / "erasures.jsonl"
    path.write_text(path.read_text().replace('"identity"', '"identitx"'))

    with pytest.raises(CertificateError, match="line 1: the file was altered"):
        restore(accounts, lake)


@pytest.mark.soak
@SQLITE
def test_a_line_that_a_crash_cut_off_is_written_anew(accounts, lake, alice, bob, settings):
    delete_user_permanent(accounts, lake, alice.user_id)
    path = settings.certificates / "erasures.jsonl"
    whole = path.read_bytes()
    path.write_bytes(whole + whole[: len(whole) // 2])

    delete_user_permanent(accounts, lake, bob.user_id)

    assert path.read_bytes().startswith(whole)
    assert len(path.read_bytes().splitlines()) == 2
    assert restore(accounts, lake).erased == {}


@pytest.fixture
def older_lake(accounts, lake, bob, settings, tmp_path, clock):
    """A lake that was put back to before bob changed his address."""
    flush(accounts.store, lake)
    shutil.copytree(settings.lake_folder(), tmp_path / "lake")
    accounts.update_user(bob.user_id, email="bob.new@example.org")
    flush(accounts.store, lake)
    shutil.rmtree(settings.lake_folder())
    shutil.copytree(tmp_path / "lake", settings.lake_folder())
    return Lakehouse.open(settings.lake_root, clock=clock)


def test_a_lake_that_lost_entries_is_not_gone_on_with_silently(accounts, older_lake, bob):
    accounts.update_user(bob.user_id, first_name="Bob")

    with pytest.raises(StoreError, match="hfthot accounts restore"):
        Publisher(accounts.store, older_lake).publish()
    with pytest.raises(StoreError, match="accept-loss"):
        restore(accounts, older_lake)


def test_a_lake_that_lost_entries_is_written_anew_and_the_loss_stays_on_record(accounts, older_lake, bob):
    done = restore(accounts, older_lake, accept_loss=True)
    accounts.update_user(bob.user_id, first_name="Bob")
    Publisher(accounts.store, older_lake).publish()

    assert done.reconciled.state == "lake_behind"
    assert in_lake(accounts, older_lake, bob.user_id) == ["bob.new@example.org"]
    report = verify_chain(older_lake, accounts.store)
    assert report.problems == ()
    assert report.lost == 1


def test_an_empty_lake_is_filled_from_the_store(accounts, lake, bob, alice, settings, clock):
    flush(accounts.store, lake)
    shutil.rmtree(settings.lake_folder())
    empty = Lakehouse.open(settings.lake_root, clock=clock)

    restore(accounts, empty, accept_loss=True)

    assert empty.table("users").scan().collect().height == 2
    assert verify_chain(empty, accounts.store).problems == ()


def test_a_user_table_that_somebody_altered_can_be_written_anew(accounts, lake, bob):
    accounts.login("bob", PASSWORD)
    accounts.generate_hfthot_api_key(bob.user_id)
    accounts.save_api_keys(bob.user_id, {"finnhub": "a key"}, data_sharing_consent=True)
    accounts.update_query_count(bob.user_id, "finnhub", 3)
    flush(accounts.store, lake)
    tables = [contract.name for contract in USER_TABLES if contract.name != "audit_log"]
    before = {name: lake.table(name).scan().drop("seq").sort("subject_id").collect() for name in tables}
    for name in tables:
        table = lake.table(name)
        deltalake.write_deltalake(table.uri, table.scan().collect().clear().to_arrow(), mode="overwrite")

    restore(accounts, lake, rewrite=True)

    for name in tables:
        after = lake.table(name).scan().drop("seq").sort("subject_id").collect()
        assert after.drop("updated_at", strict=False).equals(before[name].drop("updated_at", strict=False)), name


@SQLITE
@pytest.mark.parametrize("name", ["users", "audit_log"])
def test_a_user_table_that_is_whole_does_not_go_back_by_itself(accounts, lake, bob, name):
    flush(accounts.store, lake)
    with pytest.raises(BadRequestError, match="hfthot accounts restore"):
        lake.table(name).restore(0)


@SQLITE
def test_a_damaged_user_table_goes_back_and_is_written_anew_from_the_store(accounts, lake, alice, bob):
    flush(accounts.store, lake)
    version = lake.table("users").version()
    accounts.update_user(bob.user_id, email="bob.new@example.org")
    flush(accounts.store, lake)
    for path in lake.table("users").snapshot().paths:
        Path(path).unlink(missing_ok=True)
    opened = Lakehouse.open(lake.storage.root, clock=lake.clock)
    with pytest.raises(DamagedTableError):
        opened.table("users").scan()
    opened.table("users").restore(0)
    assert version > 0

    restore(accounts, opened, rewrite=True)

    assert in_lake(accounts, opened, bob.user_id) == ["bob.new@example.org"]
    assert in_lake(accounts, opened, alice.user_id) == [alice.email]
