"""Eight processes that register the same thousand names, count on the same quota, and sign the same user in."""

from __future__ import annotations

import pytest

from hfthot_platform.core.settings import load_settings
from hfthot_platform.services.accounts.accounts import Accounts
from tests import postgres
from tests.accounts import crowd

PROCESSES = 8

pytestmark = pytest.mark.soak


@pytest.fixture(params=["sqlite", "postgresql"])
def settings(request, tmp_path):
    url = postgres.server().database() if request.param == "postgresql" else None
    return load_settings(
        lake_root=str(tmp_path / "lake"),
        accounts=tmp_path / "accounts",
        key_file=tmp_path / "keys" / "kek.json",
        accounts_url=url,
        argon2_memory_kib=8,
        argon2_passes=1,
        argon2_lanes=1,
    )


@pytest.fixture
def accounts(settings):
    with Accounts.open(settings) as opened:
        yield opened


def test_a_thousand_names_are_registered_once_each(accounts, settings):
    reports = crowd.run(settings, "register", PROCESSES, names=1000)
    crowd.check_registrations(accounts, reports, 1000)


def test_no_count_is_lost(accounts, settings):
    user = accounts.register("alice", "alice@example.org", crowd.PASSWORD)
    own = {"api_key": "k", "queries_limit": 15_000, "window_seconds": 31_622_400}
    accounts.save_api_keys(user.user_id, {"kraken": own})
    reports = crowd.run(settings, "count", PROCESSES, user_id=user.user_id, provider="kraken", times=2000)
    assert sum(report["done"] for report in reports) == 15_000
    assert sum(report["refused"] for report in reports) == 1000
    assert accounts.get_query_stats(user.user_id, "kraken").queries_done == 15_000
    crowd.check_log(accounts)


def test_no_session_ends_with_anothers_logout(accounts, settings):
    accounts.register("alice", "alice@example.org", crowd.PASSWORD)
    crowd.check_sessions(accounts, crowd.run(settings, "sessions", PROCESSES, rounds=100))
    crowd.check_log(accounts)
