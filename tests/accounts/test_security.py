"""Attacks on the accounts: timing, injection, leaking texts and files."""

from __future__ import annotations

import io
import logging
import pickle
import statistics
import time
import traceback

import pytest
import sqlalchemy as sa

from hfthot_platform.core.errors import (
    AccountError,
    AuthenticationError,
    BadRequestError,
    HfthotError,
    InactiveAccountError,
    InvalidCredentialsError,
    PrivacyError,
    StoreError,
)
from hfthot_platform.services.accounts.accounts import Accounts
from hfthot_platform.services.accounts.records import Request
from hfthot_platform.storage.operational import schema
from tests.accounts.conftest import PASSWORD

HOSTILE = (
    "x' OR '1'='1",
    "'; DROP TABLE users; --",
    '" OR ""="',
    "%",
    "_",
    "\\",
    "?1",
    ":by",
    "%(by)s",
    "$1",
    "{subject_id}",
    "NULL",
    "\x00",
    "a\x00b",
    "😀" * 20,
    "../../../etc/passwd",
)


def snapshot(accounts):
    """All rows of all tables but those that any attempt may add to."""
    free = {"change_log", "change_head", "login_attempts"}
    with accounts.store.reading() as rx:
        return {
            table.name: sorted(map(repr, rx.execute(sa.select(table)).all()))
            for table in schema.metadata.sorted_tables
            if table.name not in free
        }


@pytest.mark.soak
@pytest.mark.parametrize("text", HOSTILE, ids=range(len(HOSTILE)))
def test_a_hostile_text_in_any_argument_is_only_a_text(accounts, alice, bob, text):
    accounts.login("bob", PASSWORD)
    accounts.generate_hfthot_api_key(bob.user_id)
    accounts.save_api_keys(bob.user_id, {"finnhub": "key"}, True)
    before = snapshot(accounts)
    hostile = Request(actor_id=text)
    calls = [
        lambda: accounts.login(text, PASSWORD),
        lambda: accounts.login("alice", text),
        lambda: accounts.logout(text),
        lambda: accounts.verify_token(text),
        lambda: accounts.verify_api_key(text),
        lambda: accounts.get_user(text),
        lambda: accounts.find_user(username=text),
        lambda: accounts.find_user(email=text),
        lambda: accounts.list_users(role=text),
        lambda: accounts.list_users(tier=text),
        lambda: accounts.set_role(alice.user_id, text),
        lambda: accounts.upgrade_tier(alice.user_id, text),
        lambda: accounts.update_user(text, first_name="x"),
        lambda: accounts.update_query_count(alice.user_id, text),
        lambda: accounts.get_query_stats(text, "finnhub"),
        lambda: accounts.get_query_stats(alice.user_id, text),
        lambda: accounts.save_api_keys(alice.user_id, {text: "key"}),
        lambda: accounts.revoke_api_key(bob.user_id, text),
        lambda: accounts.rotate_api_key(bob.user_id, text),
        lambda: accounts.delete_user_soft(text),
        lambda: accounts.change_password(text, PASSWORD, "another password"),
        lambda: accounts.get_user(alice.user_id, request=hostile),
        lambda: accounts.subject_of(text),
        lambda: accounts.list_users(after=text),
        lambda: accounts.count_use(alice.user_id, text),
    ]
    for number, call in enumerate(calls):
        with pytest.raises((AccountError, PrivacyError, BadRequestError)) as caught:
            call()
        assert not isinstance(caught.value, StoreError), f"call {number} let the database refuse it"
    assert accounts.ciphers([text], "identity") == {}
    assert snapshot(accounts) == before
    assert accounts.get_user(alice.user_id) == alice


def test_a_hostile_text_is_kept_where_any_text_may_be(accounts, alice):
    for text in HOSTILE:
        if "\x00" in text:
            continue
        changed = accounts.update_user(alice.user_id, username=text, first_name=text, preferences={text: text})
        assert (changed.username, changed.first_name, changed.preferences) == (text, text, {text: text})
        assert accounts.login(text, PASSWORD, request=Request(ip=text, user_agent=text)).user_id == alice.user_id


@pytest.mark.soak
def test_signing_in_takes_the_same_time_whatever_is_wrong(make_settings):
    """Medians of interleaved attempts, in time of this thread's own: others on the machine do not count.

    Without the dummy hash the ratio is above ten.
    """
    settings = make_settings(argon2_memory_kib=4096, argon2_passes=2, login_failures=1000)
    with Accounts.open(settings) as accounts:
        accounts.register("alice", "alice@example.org", PASSWORD)
        closed = accounts.register("closed", "closed@example.org", PASSWORD)
        accounts.deactivate(closed.user_id)
        kinds = {
            "known": ("alice", "wrong password"),
            "unknown": ("nobody", "wrong password"),
            "impossible name": ("no\x00body", "wrong password"),
            "impossible password": ("alice", "short"),
            "closed": ("closed", "wrong password"),
            "closed, right password": ("closed", PASSWORD),
        }
        times = {kind: [] for kind in kinds}
        for _ in range(15):
            for kind, (name, password) in kinds.items():
                start = time.thread_time()
                with pytest.raises((InvalidCredentialsError, InactiveAccountError)):
                    accounts.login(name, password)
                times[kind].append(time.thread_time() - start)
    medians = {kind: statistics.median(found) for kind, found in times.items()}
    assert max(medians.values()) < 2.5 * min(medians.values()), medians


def test_no_error_log_or_traceback_shows_a_secret(accounts, alice, caplog):
    """Canaries through every way in; what comes out names none of them."""
    caplog.set_level(logging.DEBUG)
    canary = "canary" * 8
    session = accounts.login("alice", PASSWORD)
    key = accounts.generate_hfthot_api_key(alice.user_id)
    token = session.token.get_secret_value()
    accounts.logout(session.token)
    accounts.revoke_api_key(alice.user_id, key.key_id)
    calls = [
        lambda: accounts.register(canary, f"{canary}@{canary}", canary),
        lambda: accounts.register("x\x00" + canary, "a@b.org", PASSWORD),
        lambda: accounts.register("new", "new@example.org", "\ud800" + canary),
        lambda: accounts.register("new", "new@example.org", PASSWORD, first_name=canary * 10),
        lambda: accounts.register("new", "new@example.org", PASSWORD, tier=canary[:3]),
        lambda: accounts.login(canary, canary),
        lambda: accounts.login("alice", canary),
        lambda: accounts.login("alice", "\ud800" + canary),
        lambda: accounts.verify_token(canary[:43]),
        lambda: accounts.verify_token(token),
        lambda: accounts.verify_api_key(key.key),
        lambda: accounts.verify_api_key("hft_free_" + canary[:43]),
        lambda: accounts.change_password(alice.user_id, canary, canary + "2"),
        lambda: accounts.save_api_keys(alice.user_id, {"finnhub": canary + "\n"}),
        lambda: accounts.update_user(alice.user_id, email=canary),
        lambda: accounts.update_user(alice.user_id, preferences={canary: object()}),
    ]
    texts = []
    for call in calls:
        try:
            call()
        except HfthotError as error:
            texts += [str(error), repr(error), "".join(traceback.format_exception(error))]
    out = "\n".join(texts) + caplog.text
    for secret in (canary, canary[:43], token, key.key.get_secret_value(), PASSWORD, "alice@example.org"):
        assert secret not in out


def test_no_record_shows_or_pickles_a_secret(accounts, alice, settings):
    session = accounts.login("alice", PASSWORD, request=Request(ip="192.0.2.7", user_agent="Mozilla"))
    key = accounts.generate_hfthot_api_key(alice.user_id)
    secrets = [
        session.token.get_secret_value(),
        key.key.get_secret_value(),
        "alice@example.org",
        "Liddell",
        "192.0.2.7",
    ]
    shown = io.StringIO()
    for record in (alice, session, key, accounts, accounts.vault, accounts.store, settings, Request(ip="192.0.2.7")):
        print(repr(record), [record], file=shown)
        if record is not key:  # printing a key that was just made is how its owner gets it
            print(record, file=shown)
        try:
            raise AuthenticationError("x")
        except AuthenticationError as error:
            found = traceback.TracebackException.from_exception(error, capture_locals=True)
            found.stack[:] = [frame for frame in found.stack if frame.name.startswith("test_no_record")]
            record_only = {name: text for name, text in found.stack[0].locals.items() if name == "record"}
            print(record_only, file=shown)
    for secret in secrets:
        assert secret not in shown.getvalue()
    for record in (session, key):
        with pytest.raises(TypeError):
            pickle.dumps(record)


def test_a_stolen_store_without_its_key_names_nobody(make_settings):
    with Accounts.open(make_settings()) as accounts:
        alice = accounts.register("Wonderland", "wonder@example.org", PASSWORD, "Alicia", "Liddelton")
        accounts.update_user(alice.user_id, preferences={"colour": "vermilion"})
        request = Request(ip="192.0.2.77", user_agent="Netscape")
        with pytest.raises(InvalidCredentialsError):
            accounts.login("strangerous", PASSWORD, request=request)
        session = accounts.login("wonderland", PASSWORD, request=request)
        accounts.save_api_keys(alice.user_id, {"finnhub": "finnhub-secret"}, True)
        key = accounts.generate_hfthot_api_key(alice.user_id)
        stolen = b"".join(path.read_bytes() for path in accounts.store.files())
    assert stolen.startswith(b"SQLite format 3")
    secrets = [session.token.get_secret_value(), key.key.get_secret_value()[len(key.prefix) :], PASSWORD]
    personal = ["wonderland", "wonder@example", "Alicia", "Liddelton", "vermilion", "192.0.2.77", "Netscape"]
    for text in [*personal, *secrets, "strangerous", "finnhub-secret"]:
        for spelled in (text, text.casefold(), text.upper()):
            for encoding in ("utf-8", "utf-16-le"):
                assert spelled.encode(encoding) not in stolen, text
