"""Registering, approving, reading, changing, deleting and restoring accounts."""

from __future__ import annotations

from datetime import timedelta

import pytest

from hfthot_platform.core.errors import (
    BadRequestError,
    DuplicateAccountError,
    ErasedSubjectError,
    InactiveAccountError,
    InvalidCredentialsError,
    PermissionDeniedError,
    RevokedTokenError,
    UnknownUserError,
)
from hfthot_platform.services.accounts.accounts import Accounts
from hfthot_platform.services.accounts.records import Request
from tests.accounts.conftest import NOW, PASSWORD


def test_a_registered_account_is_what_was_given(accounts):
    user = accounts.register(" Ünal ", "Unal@Example.org", PASSWORD, "Ünal", None, tier="hobbyist")
    assert (user.username, user.email, user.first_name, user.last_name) == ("Ünal", "Unal@example.org", "Ünal", None)
    assert (user.role, user.tier, user.active, user.preferences) == ("registered", "hobbyist", True, {})
    assert user.created_at == user.updated_at == NOW
    assert accounts.get_user(user.user_id) == user


def test_an_account_registers_nobody_and_learns_of_no_name_that_is_taken(accounts, alice):
    hers = Request(actor_id=alice.user_id)

    for username in ("alice", "new"):
        with pytest.raises(PermissionDeniedError):
            accounts.register(username, f"{username}@example.org", PASSWORD, request=hers)

    accounts.set_role(alice.user_id, "admin")
    assert accounts.register("new", "new@example.org", PASSWORD, request=hers).username == "new"


@pytest.mark.parametrize(
    ("username", "email", "field"),
    [
        ("ALICE", "new@example.org", "username"),
        ("new", "ALICE@example.org", "email"),
        ("alice", "alice@example.org", "username"),
    ],
)
def test_a_taken_name_or_address_is_refused_and_audited_without_a_trace_of_either(
    accounts, alice, entries, username, email, field
):
    entries()
    with pytest.raises(DuplicateAccountError) as caught:
        accounts.register(username, email, PASSWORD)
    assert caught.value.field == field
    assert "alice" not in str(caught.value).lower()
    (entry,) = entries()
    assert (entry.audit.action, entry.audit.outcome, entry.audit.subject_id, entry.rows) == (
        "user.register",
        "refused",
        None,
        (),
    )


@pytest.mark.parametrize(
    "given",
    [{"username": ""}, {"email": "nobody"}, {"password": "short"}, {"tier": "gold"}, {"first_name": "x" * 101}],
    ids=lambda given: next(iter(given)),
)
def test_an_argument_out_of_its_domain_registers_nobody(accounts, given):
    with pytest.raises(BadRequestError):
        accounts.register(**{"username": "carol", "email": "carol@example.org", "password": PASSWORD} | given)
    assert accounts.list_users() == []


def test_a_registration_that_needs_approval_waits_for_it(make_settings, clock):
    with Accounts.open(make_settings(approve_registrations=True), clock) as accounts:
        user = accounts.register("carol", "carol@example.org", PASSWORD)
        assert (user.role, user.active) == ("pending", False)
        with pytest.raises(InactiveAccountError, match="waiting for approval"):
            accounts.login("carol", PASSWORD)
        with pytest.raises(InvalidCredentialsError):  # its state is nobody else's business
            accounts.login("carol", "something else")

        approved = accounts.approve_user(user.user_id)

        assert (approved.role, approved.active) == ("registered", True)
        assert accounts.login("carol", PASSWORD).user_id == user.user_id


def test_a_rejected_registration_cannot_sign_in(make_settings, clock):
    with Accounts.open(make_settings(approve_registrations=True), clock) as accounts:
        user = accounts.register("carol", "carol@example.org", PASSWORD)
        assert accounts.reject_user(user.user_id).role == "guest"
        with pytest.raises(InactiveAccountError, match="rejected"):
            accounts.login("carol", PASSWORD)
        with pytest.raises(BadRequestError, match="guest"):
            accounts.reject_user(user.user_id)


@pytest.mark.parametrize("user_id", ["", "f" * 32, "x' OR '1'='1", "../../etc/passwd", None, 7, "\ud800"], ids=ascii)
def test_an_id_that_no_account_has_is_unknown(accounts, alice, user_id):
    with pytest.raises(UnknownUserError):
        accounts.get_user(user_id)


def test_changes_are_seen_and_signed_in_with(accounts, alice, clock):
    clock.forward(minutes=1)
    changed = accounts.update_user(
        alice.user_id, username="wonder", email="w@example.org", last_name=None, preferences={"theme": "dark"}
    )
    assert (changed.username, changed.email, changed.first_name, changed.last_name) == (
        "wonder",
        "w@example.org",
        "Alice",
        None,
    )
    assert changed.preferences == {"theme": "dark"}
    assert changed.updated_at == NOW + timedelta(minutes=1)
    assert accounts.login("wonder", PASSWORD).user_id == alice.user_id
    with pytest.raises(InvalidCredentialsError):
        accounts.login("alice", PASSWORD)
    accounts.register("alice", "alice@example.org", PASSWORD)  # both are free again


def test_a_change_to_ones_own_spelling_is_no_duplicate(accounts, alice, bob):
    assert accounts.update_user(alice.user_id, username="ALICE").username == "ALICE"
    with pytest.raises(DuplicateAccountError):
        accounts.update_user(alice.user_id, email="BOB@example.org")
    assert accounts.get_user(alice.user_id).email == "alice@example.org"


def test_accounts_are_listed_in_pages_and_filtered(accounts, alice, bob, admin):
    accounts.upgrade_tier(bob.user_id, "professional")
    accounts.delete_user_soft(alice.user_id)
    everybody = sorted([alice.user_id, bob.user_id, admin.user_id])

    def ids(**filters):
        return [user.user_id for user in accounts.list_users(**filters)]

    assert ids(deleted=None) == everybody
    assert ids(deleted=None, limit=2) == everybody[:2]
    assert ids(deleted=None, after=everybody[1]) == everybody[2:]
    assert ids(deleted=True) == [alice.user_id]
    assert ids(role="admin") == [admin.user_id]
    assert ids(tier="professional") == [bob.user_id]
    assert ids(active=False) == []
    assert [user.username for user in accounts.list_users(tier="professional")] == ["bob"]
    with pytest.raises(BadRequestError):
        accounts.list_users(limit=1001)


def test_an_account_is_found_by_name_or_address(accounts, alice):
    assert accounts.find_user(username="ALICE").user_id == alice.user_id
    assert accounts.find_user(email="Alice@example.org").user_id == alice.user_id
    with pytest.raises(UnknownUserError):
        accounts.find_user(username="x' OR '1'='1")


def test_a_role_and_a_tier_are_one_of_those_there_are(accounts, alice):
    assert accounts.set_role(alice.user_id, "trader").role == "trader"
    with pytest.raises(BadRequestError, match="Did you mean 'trader'"):
        accounts.set_role(alice.user_id, "traider")
    with pytest.raises(BadRequestError, match="Did you mean 'enterprise'"):
        accounts.upgrade_tier(alice.user_id, "enterprize")


# -- who may do what ----------------------------------------------------------------------------------------

OWN = {
    "get_user": (),
    "update_user": (),
    "get_api_keys": (),
    "list_api_keys": (),
    "save_api_keys": ({"finnhub": "k"}, True),
    "generate_hfthot_api_key": (),
    "update_query_count": ("finnhub",),
    "count_use": ("optimisations",),
    "get_query_stats": ("finnhub",),
    "usage": (),
    "delete_user_soft": (),
}
ADMINS = {
    "approve_user": (),
    "deactivate": (),
    "set_role": ("admin",),
    "upgrade_tier": ("enterprise",),
    "restore_user": (),
}


@pytest.mark.parametrize("name", OWN)
def test_a_caller_acts_on_itself_and_an_administrator_on_everybody(accounts, alice, bob, admin, name):
    call = getattr(accounts, name)
    with pytest.raises(PermissionDeniedError):
        call(alice.user_id, *OWN[name], request=Request(actor_id=bob.user_id))
    call(alice.user_id, *OWN[name], request=Request(actor_id=admin.user_id))
    call(bob.user_id, *OWN[name], request=Request(actor_id=bob.user_id))


@pytest.mark.parametrize("name", ADMINS)
def test_only_an_administrator_manages_accounts_not_even_its_own(accounts, alice, admin, name):
    call = getattr(accounts, name)
    with pytest.raises(PermissionDeniedError):
        call(alice.user_id, *ADMINS[name], request=Request(actor_id=alice.user_id))
    call(alice.user_id, *ADMINS[name], request=Request(actor_id=admin.user_id))


@pytest.mark.parametrize("actor", ["nobody", "f" * 32, ""])
def test_an_unknown_caller_may_nothing(accounts, alice, actor):
    with pytest.raises(PermissionDeniedError):
        accounts.get_user(alice.user_id, request=Request(actor_id=actor))


def test_a_closed_or_deleted_caller_may_nothing(accounts, alice, bob, admin):
    accounts.deactivate(bob.user_id)
    with pytest.raises(PermissionDeniedError):
        accounts.get_user(bob.user_id, request=Request(actor_id=bob.user_id))
    accounts.delete_user_soft(admin.user_id)
    with pytest.raises(PermissionDeniedError):
        accounts.list_users(request=Request(actor_id=admin.user_id))


def test_a_refused_call_is_audited_with_who_and_whom(accounts, alice, bob, entries):
    entries()
    with pytest.raises(PermissionDeniedError):
        accounts.upgrade_tier(alice.user_id, "enterprise", request=Request(actor_id=bob.user_id))
    (entry,) = entries()
    assert (entry.audit.action, entry.audit.outcome) == ("user.upgrade_tier", "refused")
    assert entry.audit.subject_id == accounts.subject_of(alice.user_id)
    assert entry.audit.actor_id == accounts.subject_of(bob.user_id)
    assert entry.rows == ()


def test_a_refusal_repeated_without_end_is_counted_instead_of_filling_the_log(accounts, alice, bob, entries):
    entries()
    for _ in range(50):
        with pytest.raises(PermissionDeniedError):
            accounts.get_user(alice.user_id, request=Request(actor_id=bob.user_id))
    accounts.flush()
    found = entries()
    assert len(found) == 6
    assert '"count":45' in found[-1].audit.detail


# -- audit --------------------------------------------------------------------------------------------------


def test_the_address_of_a_caller_is_kept_encrypted_in_its_own_records_alone(accounts, alice, admin, entries):
    entries()
    accounts.get_user(alice.user_id, request=Request(ip="192.0.2.7", user_agent="curl", actor_id=alice.user_id))
    accounts.get_user(alice.user_id, request=Request(ip="192.0.2.8", user_agent="curl", actor_id=admin.user_id))
    own, others = entries()
    subject = accounts.subject_of(alice.user_id)
    cipher = accounts.ciphers([subject], "audit")[subject]
    assert cipher.decrypt("audit_log", "ip", own.audit.ip) == "192.0.2.7"
    assert cipher.decrypt("audit_log", "user_agent", own.audit.user_agent) == "curl"
    assert (others.audit.ip, others.audit.user_agent) == (None, None)


def test_a_recorded_read_is_an_entry_with_its_personal_part_encrypted(accounts, alice, entries):
    entries()
    seq = accounts.record(
        "table.read", user_id=alice.user_id, resource="users", detail={"rows": 3}, personal={"filter": "alice"}
    )
    (entry,) = entries()
    subject = accounts.subject_of(alice.user_id)
    assert (entry.seq, entry.audit.resource, entry.audit.detail) == (seq, "users", '{"rows":3}')
    text = accounts.ciphers([subject], "audit")[subject].decrypt(
        "audit_log", "personal_detail", entry.audit.personal_detail
    )
    assert text == '{"filter":"alice"}'


def test_no_entry_of_the_log_has_an_identity_in_clear(accounts, alice, entries):
    accounts.update_user(alice.user_id, preferences={"colour": "vermilion"})
    accounts.login("alice", PASSWORD, request=Request(ip="192.0.2.7", user_agent="Mozilla"))
    accounts.save_api_keys(alice.user_id, {"finnhub": "finnhub-secret"}, True)
    text = repr(entries())
    for clear in (
        "lice",
        "example.org",
        "Liddell",
        "vermilion",
        "192.0.2.7",
        "Mozilla",
        "finnhub-secret",
        alice.user_id,
    ):
        assert clear not in text, clear


# -- deleting and restoring ---------------------------------------------------------------------------------


def test_a_deleted_account_is_refused_everywhere_until_it_is_restored(accounts, alice, clock):
    session = accounts.login("alice", PASSWORD)
    key = accounts.generate_hfthot_api_key(alice.user_id)

    deleted = accounts.delete_user_soft(alice.user_id)

    assert deleted.deleted_at == NOW
    assert deleted.erase_after == NOW + timedelta(days=30)
    with pytest.raises(InactiveAccountError, match="deleted"):
        accounts.login("alice", PASSWORD)
    with pytest.raises(RevokedTokenError):
        accounts.verify_token(session.token)
    with pytest.raises(InactiveAccountError):
        accounts.verify_api_key(key.key)
    with pytest.raises(InactiveAccountError):
        accounts.update_query_count(alice.user_id, "finnhub")
    with pytest.raises(DuplicateAccountError):  # the name stays taken meanwhile
        accounts.register("alice", "other@example.org", PASSWORD)

    clock.forward(days=29)
    restored = accounts.restore_user(alice.user_id)

    assert (restored.deleted_at, restored.erase_after) == (None, None)
    assert accounts.verify_api_key(key.key).user_id == alice.user_id
    with pytest.raises(RevokedTokenError):
        accounts.verify_token(session.token)
    accounts.login("alice", PASSWORD)


def test_deleting_again_does_not_prolong_the_period(accounts, alice, clock):
    first = accounts.delete_user_soft(alice.user_id)
    clock.forward(days=3)
    assert accounts.delete_user_soft(alice.user_id) == first


def test_after_the_period_nothing_is_restored(accounts, alice, clock):
    accounts.delete_user_soft(alice.user_id)
    clock.forward(days=30)
    with pytest.raises(ErasedSubjectError, match="it could be restored until 2024-04-09"):
        accounts.restore_user(alice.user_id)


def test_a_closed_account_ends_its_sessions_and_refuses_its_keys_until_approved(accounts, alice):
    session = accounts.login("alice", PASSWORD)
    key = accounts.generate_hfthot_api_key(alice.user_id)
    accounts.deactivate(alice.user_id)
    with pytest.raises(RevokedTokenError):
        accounts.verify_token(session.token)
    with pytest.raises(InactiveAccountError):
        accounts.verify_api_key(key.key)
    with pytest.raises(InactiveAccountError, match="deactivated"):
        accounts.login("alice", PASSWORD)
    accounts.approve_user(alice.user_id)
    assert accounts.verify_api_key(key.key)
