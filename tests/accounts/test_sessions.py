"""Signing in and out, tokens, passwords, and how often a sign-in may fail."""

from __future__ import annotations

import dataclasses
import threading
from datetime import timedelta

import pytest
import sqlalchemy as sa

from hfthot_platform.core.errors import (
    BadRequestError,
    ExpiredTokenError,
    InvalidCredentialsError,
    InvalidTokenError,
    PermissionDeniedError,
    RevokedTokenError,
    TooManyAttemptsError,
)
from hfthot_platform.services.accounts.accounts import Accounts
from hfthot_platform.services.accounts.records import Request, Secret
from hfthot_platform.storage.operational import schema
from tests.accounts.conftest import NOW, PASSWORD

NEW = "a new long password"


@pytest.mark.parametrize("name", ["alice", "ALICE", " alice ", "alice@example.org", "Alice@EXAMPLE.org"])
def test_one_signs_in_with_name_or_address(accounts, alice, name):
    session = accounts.login(name, PASSWORD)
    assert session.user_id == alice.user_id
    assert session.expires_at == NOW + timedelta(hours=24)
    assert accounts.verify_token(session.token) == dataclasses.replace(session, token=None)
    assert accounts.verify_token(session.token.get_secret_value()).session_id == session.session_id


@pytest.mark.parametrize(
    ("name", "password"),
    [
        *((name, PASSWORD) for name in ("nobody", "", "x' OR '1'='1", "no@body", "\x00", "\ud800", None)),
        *(("nobody", password) for password in ("", "\ud800" * 10, None)),
        *(("alice", password) for password in ("", "\ud800" * 10, "x' OR '1'='1")),
    ],
    ids=ascii,
)
def test_whatever_is_wrong_is_told_what_a_wrong_password_is_told(accounts, alice, name, password):
    with pytest.raises(InvalidCredentialsError) as caught:
        accounts.login(name, password)
    with pytest.raises(InvalidCredentialsError) as wrong:
        accounts.login("alice", "wrong password")
    assert str(caught.value) == str(wrong.value)


def test_huge_arguments_are_wrong_like_others(accounts, alice):
    for name, password in (("a" * 1_000_000, PASSWORD), ("alice", "x" * 1_000_000)):
        with pytest.raises(InvalidCredentialsError):
            accounts.login(name, password)


def test_sessions_of_one_second_differ(accounts, alice):
    sessions = [accounts.login("alice", PASSWORD) for _ in range(20)]
    assert len({session.token.get_secret_value() for session in sessions}) == 20
    assert len({session.session_id for session in sessions}) == 20


def test_logging_out_ends_one_session_and_no_other(accounts, alice, bob):
    first, second, other = (
        accounts.login("alice", PASSWORD),
        accounts.login("alice", PASSWORD),
        accounts.login("bob", PASSWORD),
    )
    accounts.logout(first.token)
    with pytest.raises(RevokedTokenError):
        accounts.verify_token(first.token)
    assert accounts.verify_token(second.token)
    assert accounts.verify_token(other.token)
    with pytest.raises(RevokedTokenError):
        accounts.logout(first.token)


def test_a_session_ends_by_itself(accounts, alice, clock):
    session = accounts.login("alice", PASSWORD)
    clock.forward(hours=24, microseconds=-1)
    assert accounts.verify_token(session.token)
    clock.forward(microseconds=1)
    with pytest.raises(ExpiredTokenError):
        accounts.verify_token(session.token)
    with pytest.raises(ExpiredTokenError):
        accounts.logout(session.token)


@pytest.mark.parametrize(
    "token", ["", "x", "A" * 43, "A" * 44, "x' OR '1'='1", "é" * 43, "A" * 42 + "\n", None, b"x"], ids=ascii
)
def test_a_forged_token_is_invalid(accounts, alice, token):
    with pytest.raises(InvalidTokenError):
        accounts.verify_token(token)
    with pytest.raises(InvalidTokenError):
        accounts.logout(token)


def test_a_token_with_any_character_changed_is_invalid(accounts, alice):
    token = accounts.login("alice", PASSWORD).token.get_secret_value()
    for position in range(43):
        changed = "A" if token[position] != "A" else "B"
        with pytest.raises(InvalidTokenError):
            accounts.verify_token(token[:position] + changed + token[position + 1 :])


def test_what_the_store_keeps_of_a_token_is_no_token(accounts, alice):
    accounts.login("alice", PASSWORD)
    with accounts.store.reading() as rx:
        kept = rx.execute(sa.select(schema.sessions.c.token_hash, schema.sessions.c.session_id)).one()
    for forged in (kept.token_hash.hex(), kept.session_id, kept.token_hash.decode("latin1")):
        with pytest.raises(InvalidTokenError):
            accounts.verify_token(forged)


def test_verifications_are_audited_together(accounts, alice, entries):
    session = accounts.login("alice", PASSWORD)
    entries()
    for _ in range(10):
        accounts.verify_token(session.token)
    accounts.flush()
    (entry,) = entries()
    assert (entry.audit.action, entry.audit.resource) == ("session.verify", session.session_id)
    assert '"count":10' in entry.audit.detail


# -- passwords ----------------------------------------------------------------------------------------------


def test_a_changed_password_is_the_only_one_and_ends_all_other_sessions(accounts, alice, bob):
    here, there, other = (
        accounts.login("alice", PASSWORD),
        accounts.login("alice", PASSWORD),
        accounts.login("bob", PASSWORD),
    )

    accounts.change_password(alice.user_id, PASSWORD, NEW, token=here.token)

    assert accounts.verify_token(here.token)
    assert accounts.verify_token(other.token)
    with pytest.raises(RevokedTokenError):
        accounts.verify_token(there.token)
    with pytest.raises(InvalidCredentialsError):
        accounts.login("alice", PASSWORD)
    assert accounts.login("alice", NEW)


def test_without_a_token_every_session_ends(accounts, alice):
    session = accounts.login("alice", PASSWORD)
    accounts.change_password(alice.user_id, PASSWORD, NEW)
    with pytest.raises(RevokedTokenError):
        accounts.verify_token(session.token)


def test_a_password_is_not_changed_without_the_old_one(accounts, alice):
    for _ in range(5):
        with pytest.raises(InvalidCredentialsError):
            accounts.change_password(alice.user_id, "wrong password", NEW)
    with pytest.raises(TooManyAttemptsError):
        accounts.change_password(alice.user_id, PASSWORD, NEW)


def test_a_new_password_is_another_one_and_long_enough(accounts, alice):
    for new in (PASSWORD, "short"):
        with pytest.raises(BadRequestError):
            accounts.change_password(alice.user_id, PASSWORD, new)
    assert accounts.login("alice", PASSWORD)


def test_not_even_an_administrator_changes_anothers_password(accounts, alice, admin):
    with pytest.raises(PermissionDeniedError):
        accounts.change_password(alice.user_id, PASSWORD, NEW, request=Request(actor_id=admin.user_id))
    assert accounts.login("alice", PASSWORD)


def test_a_hash_under_older_parameters_is_renewed_at_sign_in(settings, clock):
    def stored(accounts):
        with accounts.store.reading() as rx:
            return rx.execute(sa.select(schema.users.c.password_hash)).scalar()

    with Accounts.open(settings, clock) as accounts:
        accounts.register("alice", "alice@example.org", PASSWORD)
        assert "$argon2id$v=19$m=8,t=1,p=1$" in stored(accounts)
    with Accounts.open(settings.model_copy(update={"argon2_passes": 2, "argon2_memory_kib": 16}), clock) as accounts:
        with pytest.raises(InvalidCredentialsError):
            accounts.login("alice", "wrong password")
        assert "m=8,t=1" in stored(accounts)
        accounts.login("alice", PASSWORD)
        assert "m=16,t=2,p=1" in stored(accounts)
        accounts.login("alice", PASSWORD)


# -- how often it may fail ----------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["alice", "nobody"])
def test_after_five_failures_a_name_is_refused_until_the_window_ends(accounts, alice, bob, clock, name):
    for _ in range(5):
        with pytest.raises(InvalidCredentialsError):
            accounts.login(name, "wrong password")
        clock.forward(minutes=1)
    with pytest.raises(TooManyAttemptsError) as caught:
        accounts.login(name, PASSWORD)
    assert caught.value.retry_after == 10 * 60
    assert accounts.login("bob", PASSWORD)

    clock.forward(minutes=10)

    with pytest.raises(InvalidCredentialsError):
        accounts.login(name, "wrong password")


def test_a_right_password_clears_the_count(accounts, alice):
    for _ in range(3):
        for _ in range(4):
            with pytest.raises(InvalidCredentialsError):
                accounts.login("alice", "wrong password")
        assert accounts.login("alice", PASSWORD)


def test_an_address_that_tries_many_names_is_refused_for_all(accounts, alice):
    request = Request(ip="2001:db8::1")
    for number in range(5):
        with pytest.raises(InvalidCredentialsError):
            accounts.login(f"nobody{number}", PASSWORD, request=request)
    with pytest.raises(TooManyAttemptsError):
        accounts.login("alice", PASSWORD, request=Request(ip="2001:db8::2"))  # the same customer's network
    assert accounts.login("alice", PASSWORD, request=Request(ip="2001:db8:0:1::1"))


def test_guesses_made_at_once_do_not_get_past_the_bound(accounts, alice):
    outcomes = []
    barrier = threading.Barrier(16)

    def guess():
        barrier.wait()
        try:
            accounts.login("alice", "wrong password")
        except (InvalidCredentialsError, TooManyAttemptsError) as error:
            outcomes.append(type(error))

    threads = [threading.Thread(target=guess) for _ in range(16)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert outcomes.count(InvalidCredentialsError) == 5
    assert outcomes.count(TooManyAttemptsError) == 11


def test_failures_are_audited_and_of_strangers_nothing_personal(accounts, alice, entries):
    entries()
    request = Request(ip="192.0.2.7", user_agent="curl")
    with pytest.raises(InvalidCredentialsError):
        accounts.login("mallory", PASSWORD, request=request)
    with pytest.raises(InvalidCredentialsError):
        accounts.login("alice", "wrong password", request=request)
    stranger, known = (entry.audit for entry in entries())
    assert (stranger.outcome, stranger.subject_id, stranger.ip, stranger.user_agent) == ("failure", None, None, None)
    assert "mallory" not in repr(stranger)
    assert (known.outcome, known.subject_id) == ("failure", accounts.subject_of(alice.user_id))
    assert known.ip.startswith("e1.")


def test_counters_of_failures_are_forgotten_after_a_day(accounts, clock):
    def counters():
        with accounts.store.reading() as rx:
            return rx.execute(sa.select(sa.func.count()).select_from(schema.login_attempts)).scalar()

    for number in range(4):
        with pytest.raises(InvalidCredentialsError):
            accounts.login(f"nobody{number}", PASSWORD)
    assert counters() == 8  # by name, and by name and address
    clock.forward(days=1, seconds=1)
    with pytest.raises(InvalidCredentialsError):
        accounts.login("nobody", PASSWORD)
    assert counters() == 2


def test_secrets_compare_without_showing():
    assert Secret("x") == Secret("x") != Secret("y")
    assert f"{Secret('canary')} {Secret('canary')!r}".count("canary") == 0


# -- who guesses is slowed, who owns gets in ------------------------------------------------------------------


def guess(accounts, ip, name="alice", times=1):
    """Try wrong passwords from an address; return how many were looked at."""
    looked_at = 0
    for _ in range(times):
        try:
            accounts.login(name, "wrong password", request=Request(ip=ip))
        except InvalidCredentialsError:
            looked_at += 1
        except TooManyAttemptsError:
            continue
    return looked_at


def test_an_attacker_from_one_address_does_not_lock_the_owner_out(accounts, alice):
    assert guess(accounts, "192.0.2.66", times=50) == 5
    assert accounts.login("alice", PASSWORD, request=Request(ip="198.51.100.7"))
    with pytest.raises(TooManyAttemptsError):
        accounts.login("alice", PASSWORD, request=Request(ip="192.0.2.66"))


def test_each_wait_of_the_same_guesser_is_longer_than_the_one_before(accounts, alice, clock):
    guess(accounts, "192.0.2.66", times=5)
    waits = []
    for _ in range(10):
        with pytest.raises(TooManyAttemptsError) as caught:
            accounts.login("alice", "wrong password", request=Request(ip="192.0.2.66"))
        waits.append(caught.value.retry_after)
        clock.forward(seconds=caught.value.retry_after)
        assert guess(accounts, "192.0.2.66") == 1
    assert waits[:4] == [900, 1800, 3600, 7200]
    assert max(waits) == 86_400


def test_guesses_from_many_addresses_are_slowed_and_known_addresses_are_not(accounts, alice, clock):
    home = Request(ip="198.51.100.7")
    accounts.login("alice", PASSWORD, request=home)
    looked_at = sum(guess(accounts, f"192.0.{n // 250}.{n % 250}") for n in range(300))
    assert looked_at == 20
    assert accounts.login("alice", PASSWORD, request=home)

    clock.forward(seconds=40)
    assert accounts.login("alice", PASSWORD, request=Request(ip="203.0.113.9")), "a new address has its turn"

    within_a_minute = 0
    for n in range(60):
        clock.forward(seconds=1)
        within_a_minute += guess(accounts, f"192.1.{n}.1")
    assert within_a_minute <= 7


def test_an_attack_that_ended_is_forgotten(accounts, alice, clock):
    for n in range(40):
        guess(accounts, f"192.0.2.{n}")
    clock.forward(days=1, minutes=16)
    assert guess(accounts, "192.0.2.200", times=4) == 4
    assert accounts.login("alice", PASSWORD, request=Request(ip="192.0.2.200"))


@pytest.mark.parametrize("name", ["alice", "nobody"])
def test_what_is_told_of_a_name_that_is_attacked_is_the_same_with_and_without_an_account(accounts, alice, name):
    told = []
    for n in range(25):
        try:
            accounts.login(name, "wrong password", request=Request(ip=f"192.0.2.{n}"))
        except (InvalidCredentialsError, TooManyAttemptsError) as error:
            told.append(str(error))
    assert [message.count("too many") for message in told] == [0] * 20 + [1] * 5


def test_the_addresses_that_an_account_knows_are_bounded_and_are_no_addresses(accounts, alice):
    for n in range(25):
        accounts.login("alice", PASSWORD, request=Request(ip=f"198.51.100.{n}"))
    with accounts.store.reading() as rx:
        known = rx.execute(sa.select(schema.known_addresses.c.address)).scalars().all()
    assert len(known) == 20
    assert not any(b"198.51.100" in bytes(address) for address in known)


# -- changing a password tells nothing ------------------------------------------------------------------------


def answer(work):
    try:
        work()
    except Exception as error:
        return type(error).__name__, str(error)
    return "done", ""


@pytest.mark.parametrize("password", [PASSWORD, "wrong password", "", "x"])
@pytest.mark.parametrize("new", [PASSWORD, NEW, "short"])
def test_nobody_else_learns_from_changing_a_password(accounts, alice, bob, entries, password, new):
    request = Request(actor_id=bob.user_id)
    known = answer(lambda: accounts.change_password(alice.user_id, password, new, request=request))
    unknown = answer(lambda: accounts.change_password("f" * 32, password, new, request=request))
    assert known == unknown
    assert known[0] == "PermissionDeniedError"
    assert [entry.audit.outcome for entry in entries() if entry.audit.action == "user.change_password"] == [
        "refused"
    ] * 2
    assert accounts.login("alice", PASSWORD)


def test_no_hash_is_computed_for_somebody_who_may_not(accounts, alice, bob, monkeypatch):
    monkeypatch.setattr(accounts.passwords, "verify", None)
    monkeypatch.setattr(accounts.passwords, "hash", None)
    with pytest.raises(PermissionDeniedError):
        accounts.change_password(alice.user_id, PASSWORD, NEW, request=Request(actor_id=bob.user_id))


def test_the_owner_who_gives_the_same_password_twice_is_not_told_whether_it_is_right(accounts, alice):
    right = answer(lambda: accounts.change_password(alice.user_id, PASSWORD, PASSWORD))
    wrong = answer(lambda: accounts.change_password(alice.user_id, NEW, NEW))
    assert right == wrong
    assert right[0] == "BadRequestError"


def test_a_thief_of_a_key_has_as_many_guesses_as_a_sign_in(accounts, alice):
    request = Request(actor_id=alice.user_id)
    guesses = [
        answer(lambda n=n: accounts.change_password(alice.user_id, f"guess {n:05}", NEW, request=request))[0]
        for n in range(20)
    ]
    assert guesses == ["InvalidCredentialsError"] * 5 + ["TooManyAttemptsError"] * 15
    assert (
        answer(lambda: accounts.change_password(alice.user_id, PASSWORD, NEW, request=request))[0]
        == "TooManyAttemptsError"
    )


# -- clocks ---------------------------------------------------------------------------------------------------


def test_a_session_that_a_wrong_clock_opened_does_not_live_until_that_clock(accounts, alice, clock):
    clock.forward(days=400)
    session = accounts.login("alice", PASSWORD)
    clock.forward(days=-400)
    with pytest.raises(ExpiredTokenError):
        accounts.verify_token(session.token)


def test_a_sign_in_after_the_clock_was_put_right_lives_as_long_as_any(accounts, alice, clock):
    clock.forward(days=400)
    accounts.login("alice", PASSWORD)
    clock.forward(days=-400)
    session = accounts.login("alice", PASSWORD)
    assert accounts.verify_token(session.token)
    clock.forward(hours=24)
    with pytest.raises(ExpiredTokenError):
        accounts.verify_token(session.token)
