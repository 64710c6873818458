"""What an erasure destroys in the store, and rotation of the key-encryption keys."""

from __future__ import annotations

import base64
import os

import pytest
import sqlalchemy as sa

from hfthot_platform.core.errors import (
    BadRequestError,
    ErasedSubjectError,
    InvalidCredentialsError,
    InvalidTokenError,
    KeySourceError,
    UnknownUserError,
)
from hfthot_platform.services.accounts.accounts import CATEGORIES, Accounts
from hfthot_platform.services.accounts.records import Request
from hfthot_platform.services.privacy import rotation
from hfthot_platform.services.privacy.rotation import rotate_keys
from hfthot_platform.storage.operational import schema
from tests.accounts.conftest import PASSWORD

REQUEST = Request(ip="192.0.2.7", user_agent="curl")


@pytest.fixture
def used(accounts, alice):
    """Everything that can be held about alice; returns her subject, a token and a key."""
    with pytest.raises(InvalidCredentialsError):
        accounts.login("alice", "wrong password", request=REQUEST)
    with pytest.raises(InvalidCredentialsError):
        accounts.login("alice@example.org", "wrong password")
    session = accounts.login("alice", PASSWORD, request=REQUEST)
    key = accounts.generate_hfthot_api_key(alice.user_id)
    accounts.save_api_keys(alice.user_id, {"finnhub": "secret"}, True)
    accounts.update_query_count(alice.user_id, "finnhub")
    subject = accounts.subject_of(alice.user_id)
    with accounts.store.transaction() as tx:
        tx.execute(sa.insert(schema.user_events).values(event_hash=b"e", ts=1, subject_id=subject))
    return subject, session.token, key.key


def rows_of(accounts, subject):
    """Rows by table that name the subject, besides the log and the pseudonym itself."""
    found = {}
    with accounts.store.reading() as rx:
        for table in schema.metadata.sorted_tables:
            if "subject_id" in table.c and table.name not in {"subjects", "change_log"}:
                count = sa.select(sa.func.count()).select_from(table).where(table.c.subject_id == subject)
                if number := rx.execute(count).scalar():
                    found[table.name] = number
    return found


def destroy(accounts, subject, *categories):
    with accounts.store.transaction() as tx:
        return accounts.destroy(tx, subject, categories or CATEGORIES, request_id="f" * 32)


def test_nothing_but_the_pseudonym_is_left(accounts, alice, bob, used, entries):
    subject, token, key = used
    before = rows_of(accounts, accounts.subject_of(bob.user_id))
    entries()

    gone = destroy(accounts, subject)

    assert gone == {
        "subject_keys": 4,
        "users": 1,
        "sessions": 1,
        "api_keys": 1,
        "provider_keys": 1,
        "usage": 1,
        "login_attempts": 3,  # the right password had cleared one
        "known_addresses": 1,
        "user_events": 1,
        "subjects": 1,
    }
    assert rows_of(accounts, subject) == {}
    (entry,) = entries()
    assert {change.table for change in entry.rows} == {"users", "sessions", "api_keys", "usage", "audit_log"}
    assert all((change.op, change.row) == ("forget", {"subject_id": subject}) for change in entry.rows)
    assert entry.audit.resource == "f" * 32
    assert accounts.ciphers([subject], "identity") == {}
    for call in (
        accounts.get_user,
        accounts.restore_user,
        accounts.delete_user_soft,
        accounts.usage,
        accounts.subject_of,
    ):
        with pytest.raises(ErasedSubjectError):
            call(alice.user_id)
    with pytest.raises(ErasedSubjectError):
        accounts.update_query_count(alice.user_id, "finnhub")
    with pytest.raises(InvalidTokenError):
        accounts.verify_token(token)
    with pytest.raises(InvalidTokenError):
        accounts.verify_api_key(key)
    with pytest.raises(InvalidCredentialsError):
        accounts.login("alice", PASSWORD)
    assert rows_of(accounts, accounts.subject_of(bob.user_id)) == before
    assert accounts.get_user(bob.user_id).username == "bob"


def test_doing_it_again_changes_nothing(accounts, alice, used):
    destroy(accounts, used[0])
    head = accounts.store.head()
    assert destroy(accounts, used[0]) == {}
    assert accounts.store.head() == head


def test_the_name_is_free_again_for_a_new_pseudonym(accounts, alice, used):
    destroy(accounts, used[0])
    again = accounts.register("alice", "alice@example.org", PASSWORD)
    assert again.user_id != alice.user_id
    assert accounts.subject_of(again.user_id) != used[0]


def test_a_held_category_is_kept_and_the_rest_goes(accounts, alice, used):
    subject = used[0]
    destroy(accounts, subject, "identity", "sessions", "credentials")
    assert rows_of(accounts, subject) == {"subject_keys": 1}
    assert set(accounts.ciphers([subject], "audit")) == {subject}
    assert destroy(accounts, subject, "audit") == {"subject_keys": 1}


def test_counts_in_memory_of_an_erased_subject_are_never_written(accounts, alice, used, entries):
    subject, token, key = used
    accounts.flush()
    accounts.verify_api_key(key)
    accounts.verify_token(token)
    destroy(accounts, subject)
    entries()
    accounts.flush()
    assert entries() == []
    assert rows_of(accounts, subject) == {}


def test_an_exception_after_it_leaves_everything(accounts, alice, used):
    subject = used[0]
    before = rows_of(accounts, subject)

    def interrupted():
        with accounts.store.transaction() as tx:
            accounts.destroy(tx, subject)
            raise LookupError

    with pytest.raises(LookupError):
        interrupted()
    assert rows_of(accounts, subject) == before
    assert accounts.get_user(alice.user_id).username == "Alice"


def test_what_cannot_be_destroyed_is_named(accounts, alice, used):
    with pytest.raises(BadRequestError, match="everything"):
        destroy(accounts, used[0], "everything")
    with pytest.raises(UnknownUserError):
        destroy(accounts, "f" * 32)


# -- rotation of keys ---------------------------------------------------------------------------------------


def wrapped_with(accounts):
    with accounts.store.reading() as rx:
        return {row[0] for row in rx.execute(sa.select(schema.subject_keys.c.kek_id)).all()} | {
            row[0] for row in rx.execute(sa.select(schema.keys.c.kek_id)).all()
        }


def test_rotation_rewraps_everything_and_drops_the_old_key(accounts, alice, used, settings):
    old = accounts.vault.ring.current_id

    report = rotate_keys(accounts)

    assert (report.dropped, report.installation_keys, report.subject_keys) == ((old,), 2, 4)
    assert wrapped_with(accounts) == {report.kek_id} == set(accounts.vault.ring.ids)
    assert old not in settings.key_file.read_text()
    assert accounts.get_user(alice.user_id).email == "alice@example.org"
    assert accounts.login("alice", PASSWORD)


def test_other_processes_go_on_through_a_rotation(accounts, alice, settings, clock):
    with Accounts.open(settings, clock) as other:
        rotate_keys(accounts)
        assert other.get_user(alice.user_id).username == "Alice"
        made = other.register("carol", "carol@example.org", PASSWORD)
    assert wrapped_with(accounts) == {accounts.vault.ring.current_id}
    assert accounts.get_user(made.user_id).username == "carol"


def test_a_rotation_takes_many_batches(accounts, monkeypatch):
    monkeypatch.setattr(rotation, "BATCH", 3)
    users = [accounts.register(f"u{number}", f"u{number}@example.org", PASSWORD) for number in range(10)]
    assert rotate_keys(accounts).subject_keys == 10
    assert [accounts.get_user(user.user_id).username for user in users] == [user.username for user in users]


@pytest.mark.parametrize("step", ["rewrap_installation", "rewrap_subjects", "drop"])
def test_an_interrupted_rotation_is_finished_by_the_next(accounts, alice, used, monkeypatch, step):
    """As if the process had been killed before, between and after the rewrapping; registrations go on in between."""

    def killed(*_):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(*((type(accounts.vault.ring), "drop") if step == "drop" else (rotation, step)), killed)
        with pytest.raises(KeyboardInterrupt):
            rotate_keys(accounts)
    carol = accounts.register("carol", "carol@example.org", PASSWORD)

    report = rotate_keys(accounts)

    assert wrapped_with(accounts) == {report.kek_id} == set(accounts.vault.ring.ids)
    for user in (alice, carol):
        assert accounts.get_user(user.user_id) == user or user is alice


def test_rotation_with_keys_from_the_environment_tells_the_operator_each_step(settings, clock):
    def pair(kek_id):
        return f"{kek_id}:{base64.b64encode(os.urandom(32)).decode()}"

    def opened(*pairs):
        return Accounts.open(
            settings.model_copy(update={"key_source": "environment", "keys": _secret(",".join(pairs))}), clock
        )

    old, new = pair("old"), pair("new")
    with opened(old) as accounts:
        user = accounts.register("alice", "alice@example.org", PASSWORD)
        with pytest.raises(KeySourceError, match="before the others, restart"):
            rotate_keys(accounts)
    with opened(new, old) as accounts:
        assert rotate_keys(accounts).kek_id == "new"
    with opened(new) as accounts:
        assert accounts.get_user(user.user_id).username == "alice"
    with pytest.raises(KeySourceError):
        opened(old)


def _secret(text):
    from pydantic import SecretStr

    return SecretStr(text)
