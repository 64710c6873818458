"""Who calls: by session token as by key, with the requests of the plan, and with nothing to learn about others."""

from __future__ import annotations

import multiprocessing
from datetime import UTC, datetime, timedelta

import pytest

from hfthot_platform import LakehouseClient
from hfthot_platform.core.errors import (
    BadRequestError,
    InvalidTokenError,
    PermissionDeniedError,
    QuotaExceededError,
    RevokedTokenError,
)
from hfthot_platform.interfaces.client import settings_of_folder

from .conftest import PASSWORD


class Clock:
    """The middle of a minute, which ends when the test says so."""

    def __init__(self):
        self.now = datetime.now(UTC).replace(second=5, microsecond=0)

    def __call__(self):
        return self.now


def test_a_session_token_is_a_caller_like_a_key(client, folder, register):
    user, other = register("ada"), register("grace")
    token = client.login("ada", PASSWORD).token
    with LakehouseClient(folder, session_token=token) as here:
        assert here.get_user(user.user_id).username == "ada"
        with pytest.raises(PermissionDeniedError):
            here.get_user(other.user_id)
        assert token.get_secret_value() not in repr(here)
        client.logout(token)
        with pytest.raises(RevokedTokenError):
            here.get_user(user.user_id)
    with pytest.raises(InvalidTokenError):
        LakehouseClient(folder, session_token="A" * 43)


def test_a_web_application_serves_each_request_as_whoever_signed_in(client, register):
    ada, grace = register("ada"), register("grace")
    tokens = {user.user_id: client.login(user.username, PASSWORD).token for user in (ada, grace)}
    for mine, others in ((ada, grace), (grace, ada)):
        here = client.for_request(ip="192.0.2.7", session_token=tokens[mine.user_id])
        assert here.get_user(mine.user_id).user_id == mine.user_id
        with pytest.raises(PermissionDeniedError):
            here.get_user(others.user_id)
    assert len(client.list_users()) == 2, "the application's own client is what it was"


def test_a_caller_is_one_account(client, folder, register):
    user = register()
    key, token = client.generate_hfthot_api_key(user.user_id).key, client.login("ada", PASSWORD).token
    with pytest.raises(BadRequestError):
        LakehouseClient(folder, api_key=key, session_token=token)


def test_another_ones_token_or_key_is_told_like_one_that_nobody_issued(client, signed_in, register):
    mallory, victim = signed_in("mallory"), register("ada")
    token, key = client.login("ada", PASSWORD).token, client.generate_hfthot_api_key(victim.user_id).key
    for ask in (mallory.verify_token, mallory.logout):
        with pytest.raises(InvalidTokenError):
            ask(token)
    with pytest.raises(InvalidTokenError):
        mallory.verify_api_key(key)
    assert client.verify_token(token).user_id == victim.user_id


def test_history_that_everybody_reads_is_an_administrators_to_remove(client, signed_in):
    here = signed_in("ada")
    versions = len(client.list_versions("users"))
    with pytest.raises(PermissionDeniedError):
        here.delete_user_permanent(here.user_id, keep_history=False)
    assert client.get_user(here.user_id).deleted_at is None
    assert len(client.list_versions("users")) >= versions


# -- requests per minute ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(("tier", "most"), [("free", 60), ("hobbyist", 300)])
def test_a_plans_requests_per_minute_are_exact(folder, client, register, tier, most):
    clock, user = Clock(), register("ada", tier=tier)
    key = client.generate_hfthot_api_key(user.user_id).key
    with LakehouseClient.from_settings(settings_of_folder(folder), key, clock=clock) as here:
        for _ in range(most):
            here.verify_api_key(key)
        with pytest.raises(QuotaExceededError) as caught:
            here.verify_api_key(key)
        assert caught.value.retry_after == 55
        clock.now += timedelta(seconds=55)
        assert here.verify_api_key(key)


def test_another_key_or_a_session_has_no_requests_of_its_own(folder, client, register):
    clock, user = Clock(), register("ada")
    keys = [client.generate_hfthot_api_key(user.user_id).key for _ in range(3)]
    settings = settings_of_folder(folder)
    served = 0
    for key in keys:
        with LakehouseClient.from_settings(settings, key, clock=clock) as here:
            for _ in range(40):
                try:
                    here.list_api_keys(user.user_id)
                    served += 1
                except QuotaExceededError:
                    break
    assert served == 60


def test_administrators_and_trusted_code_are_not_limited(signed_in):
    admin = signed_in("root", role="admin")
    for _ in range(70):
        admin.list_api_keys(admin.user_id)


def _ask(folder, key, now, served):
    with LakehouseClient.from_settings(settings_of_folder(folder), key, clock=lambda: now) as here:
        for _ in range(40):
            try:
                here.verify_api_key(key)
            except QuotaExceededError:
                continue
            served.put(1)
    served.close()
    served.join_thread()


@pytest.mark.soak
def test_four_processes_together_get_what_one_would(folder, client, register):
    user, now = register("ada"), Clock().now
    key = client.generate_hfthot_api_key(user.user_id).key.get_secret_value()
    context = multiprocessing.get_context("spawn")
    served = context.Queue()
    processes = [context.Process(target=_ask, args=(folder, key, now, served)) for _ in range(4)]
    for process in processes:
        process.start()
    for process in processes:
        process.join(120)
    assert [process.exitcode for process in processes] == [0] * 4
    count = 0
    while not served.empty():
        count += served.get()
    assert count == 60
