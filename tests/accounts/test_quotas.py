"""Counting uses against quotas."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hfthot_platform.core.errors import (
    BadRequestError,
    InactiveAccountError,
    QuotaExceededError,
    TierForbiddenError,
    UnknownUserError,
)
from hfthot_platform.services.accounts.providers import PROVIDERS
from hfthot_platform.services.accounts.quotas import Counter
from tests.accounts.conftest import NOW

MINUTE = 60_000_000
DAY = 86_400_000_000


def test_queries_are_counted_until_none_is_left(accounts, alice):
    for done in range(1, 26):
        stats = accounts.update_query_count(alice.user_id, "alpha_vantage")
        assert (stats.queries_done, stats.queries_remaining, stats.queries_limit) == (done, 25 - done, 25)
    with pytest.raises(QuotaExceededError) as caught:
        accounts.update_query_count(alice.user_id, "alpha_vantage")
    assert caught.value.resets_at == datetime(2024, 3, 11, tzinfo=UTC)
    assert accounts.get_query_stats(alice.user_id, "alpha_vantage") == stats


def test_more_than_is_left_counts_nothing_and_is_audited(accounts, alice, entries):
    accounts.update_query_count(alice.user_id, "finnhub", 50)
    entries()
    with pytest.raises(QuotaExceededError, match="11 uses were requested, but only 10 of 60 are left"):
        accounts.update_query_count(alice.user_id, "finnhub", 11)
    (entry,) = entries()
    assert (entry.audit.action, entry.audit.outcome, entry.audit.resource) == (
        "usage.count",
        "refused",
        "provider:finnhub",
    )
    assert entry.rows == ()
    assert accounts.update_query_count(alice.user_id, "finnhub", 10).queries_remaining == 0


def test_a_window_begins_anew_when_it_is_over(accounts, alice, clock):
    accounts.update_query_count(alice.user_id, "finnhub", 60)
    clock.forward(seconds=59, milliseconds=999)
    with pytest.raises(QuotaExceededError):
        accounts.update_query_count(alice.user_id, "finnhub")
    clock.forward(milliseconds=1)
    assert accounts.get_query_stats(alice.user_id, "finnhub").queries_done == 0
    stats = accounts.update_query_count(alice.user_id, "finnhub")
    assert (stats.queries_done, stats.queries_today) == (1, 61)
    assert stats.resets_at == NOW + timedelta(minutes=2)


@pytest.mark.parametrize("increment", [0, -1, True, 10**10])
def test_an_increment_is_a_positive_number(accounts, alice, increment):
    with pytest.raises(BadRequestError):
        accounts.update_query_count(alice.user_id, "finnhub", increment)


@pytest.mark.parametrize("provider", ["", "finhub", "x' OR '1'='1", "finnhub'; DROP TABLE usage;--"])
def test_an_unknown_provider_counts_nothing(accounts, alice, provider):
    with pytest.raises(BadRequestError):
        accounts.update_query_count(alice.user_id, provider)
    with pytest.raises(BadRequestError):
        accounts.get_query_stats(alice.user_id, provider)


def test_nobody_and_closed_accounts_count_nothing(accounts, alice):
    with pytest.raises(UnknownUserError):
        accounts.update_query_count("f" * 32, "finnhub")
    accounts.deactivate(alice.user_id)
    with pytest.raises(InactiveAccountError):
        accounts.update_query_count(alice.user_id, "finnhub")


def test_each_count_is_one_entry_with_the_row_of_the_lake(accounts, alice, entries):
    entries()
    accounts.update_query_count(alice.user_id, "finnhub", 3)
    (entry,) = entries()
    assert entry.audit.detail == '{"increment":3}'
    (change,) = entry.rows
    start = 1_710_072_000_000_000
    assert change.row == {
        "subject_id": accounts.subject_of(alice.user_id),
        "resource": "provider:finnhub",
        "used": 3,
        "used_today": 3,
        "quota": 60,
        "remaining": 57,
        "resets_at": start + MINUTE,
        "updated_at": start,
    }


def test_a_smaller_limit_leaves_nothing_but_never_less(accounts, alice):
    accounts.update_query_count(alice.user_id, "finnhub", 50)
    accounts.save_api_keys(alice.user_id, {"finnhub": {"api_key": "k", "queries_limit": 40}})
    stats = accounts.get_query_stats(alice.user_id, "finnhub")
    assert (stats.queries_done, stats.queries_remaining, stats.queries_limit) == (50, 0, 40)


def test_an_unlimited_plan_is_never_used_up(accounts, alice):
    accounts.save_api_keys(alice.user_id, {"finnhub": {"api_key": "k", "queries_limit": None}})
    stats = accounts.update_query_count(alice.user_id, "finnhub", 10**9)
    assert (stats.queries_done, stats.queries_remaining, stats.queries_limit) == (10**9, None, None)


def test_the_tier_limits_the_platforms_own_resources(accounts, alice):
    with pytest.raises(TierForbiddenError):
        accounts.count_use(alice.user_id, "sql_queries")
    assert accounts.count_use(alice.user_id, "optimisations", 5).queries_remaining == 0
    with pytest.raises(QuotaExceededError):
        accounts.count_use(alice.user_id, "optimisations")
    accounts.upgrade_tier(alice.user_id, "hobbyist")
    assert accounts.count_use(alice.user_id, "optimisations").queries_remaining == 44
    assert accounts.count_use(alice.user_id, "sql_queries", 10).queries_remaining == 0
    with pytest.raises(BadRequestError):
        accounts.count_use(alice.user_id, "coffee")


def test_usage_says_what_was_used_and_what_may_be(accounts, alice, clock):
    accounts.upgrade_tier(alice.user_id, "hobbyist")
    accounts.count_use(alice.user_id, "requests", 12)
    accounts.count_use(alice.user_id, "sql_queries", 3)
    usage = accounts.usage(alice.user_id)
    assert (usage.tier, usage.requests_today, usage.sql_queries_today, usage.optimisations_today) == (
        "hobbyist",
        12,
        3,
        0,
    )
    assert (usage.requests.count, usage.websocket_streams) == (300, 3)
    assert usage.cycle_end == datetime(2024, 3, 11, tzinfo=UTC)
    clock.forward(days=1)
    assert accounts.usage(alice.user_id).requests_today == 0


def test_every_known_provider_has_a_positive_limit():
    for limit in PROVIDERS.values():
        assert limit.count > 0
        assert 1 <= limit.per.total_seconds() <= 86_400


@given(
    quota=st.integers(0, 50),
    seconds=st.sampled_from([1, 60, 3600, 86_400]),
    # All steps back together stay below a day: what lies further ahead was made by a clock that was wrong then.
    steps=st.lists(st.tuples(st.integers(-DAY // 31, 3 * DAY), st.integers(1, 20)), max_size=30),
)
def test_a_counter_never_grants_more_than_its_quota_whatever_the_clock_does(quota, seconds, steps):
    now = 19_000 * DAY
    counter = Counter.new(quota, seconds, now)
    granted = {}
    for move, amount in steps:
        now += move
        counter = counter.at(now)
        if counter.used + amount <= quota:
            counter = counter.plus(amount)
            granted[counter.window_start] = granted.get(counter.window_start, 0) + amount
        assert 0 <= counter.used <= quota
        assert 0 <= counter.remaining <= quota
        assert counter.used_today >= 0
        assert counter.window_start % (seconds * 1_000_000) == 0
        assert counter.resets_at > now
    assert all(total <= quota for total in granted.values())
