"""API keys issued here, and keys of data providers."""

from __future__ import annotations

import dataclasses
import re
from datetime import timedelta

import pytest
import sqlalchemy as sa

from hfthot_platform.core.errors import (
    BadRequestError,
    InactiveAccountError,
    InvalidTokenError,
    QuotaExceededError,
    RevokedTokenError,
)
from hfthot_platform.domain.access.plans import TIERS
from hfthot_platform.storage.operational import schema
from tests.accounts.conftest import NOW, PASSWORD


@pytest.mark.parametrize(("tier", "prefix"), [(tier.name, tier.key_prefix) for tier in TIERS.values()])
def test_a_key_begins_with_its_tier_and_is_shown_once(accounts, alice, tier, prefix):
    accounts.upgrade_tier(alice.user_id, tier)

    made = accounts.generate_hfthot_api_key(alice.user_id)

    clear = made.key.get_secret_value()
    assert re.fullmatch(f"{prefix}[A-Za-z0-9_-]{{43}}", clear)
    assert made.prefix == clear[: len(prefix) + 4]
    assert accounts.verify_api_key(made.key) == dataclasses.replace(made, key=None)
    assert accounts.list_api_keys(alice.user_id) == [dataclasses.replace(made, key=None)]
    assert clear not in repr(made)


def test_of_a_key_only_hash_and_prefix_are_kept(accounts, alice, entries):
    made = accounts.generate_hfthot_api_key(alice.user_id)
    secret = made.key.get_secret_value()[len(made.prefix) :]
    with accounts.store.reading() as rx:
        row = rx.execute(sa.select(schema.api_keys)).one()
    assert secret not in repr(row)
    assert secret not in repr(entries())
    with pytest.raises(InvalidTokenError):
        accounts.verify_api_key(row.key_hash.hex())


def test_rotation_replaces_a_key_at_once(accounts, alice, clock, entries):
    old = accounts.generate_hfthot_api_key(alice.user_id)
    clock.forward(days=1)
    entries()

    new = accounts.rotate_api_key(alice.user_id)

    with pytest.raises(RevokedTokenError, match=re.escape(old.prefix)):
        accounts.verify_api_key(old.key)
    assert accounts.verify_api_key(new.key).key_id == new.key_id
    newest, older = accounts.list_api_keys(alice.user_id)
    assert newest.key_id == new.key_id
    assert (older.revoked_at, older.replaced_by) == (NOW + timedelta(days=1), new.key_id)
    made, revoked = entries()[0].rows
    assert made.row["key_id"] == new.key_id
    assert (revoked.row["key_id"], revoked.row["replaced_by"]) == (old.key_id, new.key_id)


def test_a_named_key_is_rotated_or_revoked_and_the_others_stay(accounts, alice):
    first, second, third = (accounts.generate_hfthot_api_key(alice.user_id) for _ in range(3))
    accounts.rotate_api_key(alice.user_id, first.key_id)
    accounts.revoke_api_key(alice.user_id, second.key_id)
    for gone in (first, second):
        with pytest.raises(RevokedTokenError):
            accounts.verify_api_key(gone.key)
        with pytest.raises(RevokedTokenError):
            accounts.revoke_api_key(alice.user_id, gone.key_id)
    assert accounts.verify_api_key(third.key)


@pytest.mark.parametrize("key_id", ["f" * 32, "x' OR '1'='1", ""])
def test_a_key_of_somebody_else_cannot_be_named(accounts, alice, bob, key_id):
    others = accounts.generate_hfthot_api_key(bob.user_id)
    for name in (key_id, others.key_id):
        with pytest.raises(InvalidTokenError):
            accounts.revoke_api_key(alice.user_id, name)
        with pytest.raises(InvalidTokenError):
            accounts.rotate_api_key(alice.user_id, name)
    assert accounts.verify_api_key(others.key)


def test_a_key_grants_the_tier_that_the_account_has_now(accounts, alice):
    accounts.upgrade_tier(alice.user_id, "enterprise")
    made = accounts.generate_hfthot_api_key(alice.user_id)
    assert accounts.verify_api_key(made.key).tier == "enterprise"
    accounts.upgrade_tier(alice.user_id, "free")
    assert accounts.verify_api_key(made.key).tier == "free"


def test_an_account_has_at_most_twenty_valid_keys(accounts, alice):
    for _ in range(20):
        made = accounts.generate_hfthot_api_key(alice.user_id)
    with pytest.raises(BadRequestError, match="20"):
        accounts.generate_hfthot_api_key(alice.user_id)
    accounts.revoke_api_key(alice.user_id, made.key_id)
    accounts.generate_hfthot_api_key(alice.user_id)


def test_a_closed_account_gets_no_key(accounts, alice):
    accounts.deactivate(alice.user_id)
    with pytest.raises(InactiveAccountError):
        accounts.generate_hfthot_api_key(alice.user_id)


@pytest.mark.parametrize(
    "key",
    ["", "hft_free_", "hft_free_" + "A" * 43, "hft_gold_" + "A" * 43, "x' OR '1'='1", "hft_free_" + "é" * 43, None],
    ids=ascii,
)
def test_a_forged_key_is_invalid_and_audited_without_it(accounts, alice, entries, key):
    entries()
    with pytest.raises(InvalidTokenError):
        accounts.verify_api_key(key)
    (entry,) = entries()
    assert (entry.audit.action, entry.audit.outcome, entry.audit.subject_id) == ("api_key.verify", "failure", None)


def test_a_key_with_another_tiers_prefix_is_invalid(accounts, alice):
    clear = accounts.generate_hfthot_api_key(alice.user_id).key.get_secret_value()
    with pytest.raises(InvalidTokenError):
        accounts.verify_api_key(clear.replace("hft_free_", "hft_ent_"))


def test_verifications_count_as_requests_and_are_audited_together(accounts, alice, bob, entries):
    keys = [accounts.generate_hfthot_api_key(user.user_id) for user in (alice, alice, bob)]
    entries()
    for times, key in zip((3, 4, 5), keys, strict=True):
        for _ in range(times):
            accounts.verify_api_key(key.key)
    assert entries() == []
    assert accounts.usage(alice.user_id).requests_today == 7
    assert accounts.usage(bob.user_id).requests_today == 5
    counted = [entry for entry in entries() if entry.audit.action == "api_key.verify"]
    assert [entry.audit.resource for entry in counted] == [key.key_id for key in keys]
    assert [entry.rows[0].row["used_today"] for entry in counted] == [3, 7, 5]


# -- data providers -----------------------------------------------------------------------------------------


def test_provider_keys_come_back_with_their_quotas(accounts, alice):
    made = accounts.generate_hfthot_api_key(alice.user_id)
    own = {"api_key": "k-key", "queries_limit": 1000}
    accounts.save_api_keys(alice.user_id, {"finnhub": "f-key", "kraken": own}, data_sharing_consent=True)
    accounts.update_query_count(alice.user_id, "finnhub", 7)
    assert accounts.get_api_keys(alice.user_id) == {
        "hfthot_api_key": made.prefix,
        "provider_keys": {
            "finnhub": {"api_key": "f-key", "queries_done": 7, "queries_remaining": 53, "queries_limit": 60},
            "kraken": {"api_key": "k-key", "queries_done": 0, "queries_remaining": 1000, "queries_limit": 1000},
        },
        "data_sharing_consent": True,
    }


def test_an_account_without_keys_has_none(accounts, alice):
    assert accounts.get_api_keys(alice.user_id) == {
        "hfthot_api_key": None,
        "provider_keys": {},
        "data_sharing_consent": False,
    }


def test_keys_that_are_not_named_stay_and_none_removes_one(accounts, alice, entries):
    accounts.save_api_keys(alice.user_id, {"finnhub": "one", "kraken": "two"}, True)
    entries()
    left = accounts.save_api_keys(alice.user_id, {"finnhub": None, "binance": "three"})
    assert {name: key["api_key"] for name, key in left["provider_keys"].items()} == {
        "kraken": "two",
        "binance": "three",
    }
    assert left["data_sharing_consent"] is True
    rows = {row.row["provider"]: row.row for row in entries()[0].rows if row.table == "api_keys"}
    assert rows["finnhub"]["secret"] is None
    assert rows["finnhub"]["revoked_at"] is not None


def test_a_changed_key_replaces_the_old_one_in_the_lake_and_an_unchanged_one_nothing(accounts, alice, entries):
    accounts.save_api_keys(alice.user_id, {"finnhub": "one"})
    entries()
    accounts.save_api_keys(alice.user_id, {"finnhub": "two"})
    old, new = entries()[0].rows
    assert (old.row["secret"], old.row["replaced_by"]) == (None, new.row["key_id"])
    accounts.save_api_keys(alice.user_id, {"finnhub": "two"})
    assert entries()[0].rows == ()


def test_what_was_returned_can_be_given_back(accounts, alice):
    accounts.save_api_keys(alice.user_id, {"finnhub": {"api_key": "one", "queries_limit": 5}}, False)
    accounts.update_query_count(alice.user_id, "finnhub", 2)
    before = accounts.get_api_keys(alice.user_id)
    assert accounts.save_api_keys(alice.user_id, before["provider_keys"], before["data_sharing_consent"]) == before


@pytest.mark.parametrize(
    "given",
    [
        {"x' OR '1'='1": "canary"},
        {"Finnhub": "canary"},
        {"my_canary_broker": ""},
        {"my_canary_broker": {"api_key": "k", "limit": 5}},
        {"finnhub": ""},
        {"finnhub": "canary\n"},
        {"finnhub": 7},
        {"finnhub": "canary" * 1000},
        {"finnhub": {"api_key": "canary", "queries_limit": -1}},
        {"finnhub": {"api_key": "canary", "queries_limit": True}},
        {"finnhub": {"api_key": "canary", "queries_limit": "5"}},
        {"finnhub": {"api_key": "canary", "window_seconds": 0}},
        {"finnhub": {"api_key": "canary", "limit": 5}},
        {"finnhub": {"queries_limit": 5}},
    ],
    ids=range(14),
)
def test_a_malformed_key_is_refused_without_quoting_it_and_nothing_is_stored(accounts, alice, given):
    with pytest.raises(BadRequestError) as caught:
        accounts.save_api_keys(alice.user_id, {"kraken": "fine"} | given)
    assert "canary" not in str(caught.value)
    assert accounts.get_api_keys(alice.user_id)["provider_keys"] == {}


def test_a_provider_outside_of_the_list_is_known_to_its_owner_alone(accounts, alice, entries):
    entries()
    saved = accounts.save_api_keys(alice.user_id, {"my_broker": "a key of mine"})
    assert saved["provider_keys"]["my_broker"] == {
        "api_key": "a key of mine",
        "queries_done": 0,
        "queries_remaining": None,
        "queries_limit": None,
    }
    assert accounts.update_query_count(alice.user_id, "my_broker", 3).provider == "my_broker"
    assert accounts.get_query_stats(alice.user_id, "my_broker").queries_done == 3
    logged = entries()
    assert "my_broker" not in repr(logged)
    with accounts.store.reading() as rx:
        stored = [repr(rx.execute(sa.select(table)).all()) for table in schema.metadata.sorted_tables]
    assert not any("my_broker" in rows for rows in stored)


def test_two_accounts_name_a_provider_alike_and_nobody_else_can_tell(accounts, alice):
    bob = accounts.register("bob", "bob@example.com", PASSWORD)
    assert accounts.provider_id(alice.user_id, "my_broker") != accounts.provider_id(bob.user_id, "my_broker")
    accounts.save_api_keys(alice.user_id, {"my_broker": {"api_key": "k", "queries_limit": 5}})
    with pytest.raises(BadRequestError, match="not a known data provider"):
        accounts.get_query_stats(bob.user_id, "my_broker")
    with pytest.raises(QuotaExceededError):
        accounts.update_query_count(alice.user_id, "my_broker", 6)


def test_providers_outside_of_the_list_are_few_and_leave_nothing_behind(accounts, alice):
    accounts.save_api_keys(alice.user_id, {f"broker_{i}": "k" for i in range(20)})
    with pytest.raises(BadRequestError, match="20 providers"):
        accounts.save_api_keys(alice.user_id, {"broker_20": "k"})
    kept = accounts.save_api_keys(alice.user_id, {f"broker_{i}": None for i in range(20)} | {"broker_20": "k"})
    assert list(kept["provider_keys"]) == ["broker_20"]
    with accounts.store.reading() as rx:
        assert len(rx.execute(sa.select(schema.usage)).all()) == 1
