"""Several processes at once; eight of them with a thousand names are in the soak."""

from __future__ import annotations

import pytest

from hfthot_platform.services.accounts.accounts import Accounts
from tests.accounts import crowd


@pytest.fixture
def accounts(settings):
    with Accounts.open(settings) as opened:  # with the real clock, like the other processes
        yield opened


@pytest.mark.soak
def test_each_name_is_registered_once(accounts, settings):
    reports = crowd.run(settings, "register", 3, names=40)
    crowd.check_registrations(accounts, reports, 40)


@pytest.mark.soak
def test_no_count_is_lost_and_none_is_granted_beyond_the_quota(accounts, settings):
    user = accounts.register("alice", "alice@example.org", crowd.PASSWORD)
    accounts.save_api_keys(
        user.user_id, {"kraken": {"api_key": "k", "queries_limit": 250, "window_seconds": 31_622_400}}
    )
    reports = crowd.run(settings, "count", 3, user_id=user.user_id, provider="kraken", times=100)
    assert sum(report["done"] for report in reports) == 250
    assert sum(report["refused"] for report in reports) == 50
    assert accounts.get_query_stats(user.user_id, "kraken").queries_done == 250
    crowd.check_log(accounts)


@pytest.mark.soak
def test_no_session_ends_with_anothers_logout(accounts, settings):
    accounts.register("alice", "alice@example.org", crowd.PASSWORD)
    crowd.check_sessions(accounts, crowd.run(settings, "sessions", 3, rounds=10))
