"""Which principal may do what to which target: every action, every role, every kind of target."""

from __future__ import annotations

from dataclasses import replace
from datetime import timedelta
from itertools import product

import pytest

from hfthot_platform.core.errors import BadRequestError, PermissionDeniedError, TierForbiddenError
from hfthot_platform.domain.access.authorisation import (
    AccountTarget,
    Action,
    Principal,
    TableTarget,
    authorise,
)
from hfthot_platform.domain.access.plans import ROLES, TIERS
from hfthot_platform.domain.access.visibility import Relations, Visibility
from hfthot_platform.domain.contracts import CONTRACTS
from hfthot_platform.domain.contracts.views import VIEWS

#: On its own account everybody, on another one administrators.
OWN = {
    "session.logout", "session.verify", "user.read", "user.update", "user.delete", "api_key.generate", "api_key.rotate",
    "api_key.revoke", "api_key.list", "api_key.verify", "api_keys.read", "api_keys.save", "usage.count", "usage.read",
    "audit.read", "privacy.export", "privacy.erasure_request",
}  # fmt: skip
#: On its own account everybody, on another one nobody.
ALONE = {"user.change_password"}
ADMIN = {
    "user.register", "user.list", "user.approve", "user.reject", "user.deactivate", "user.set_role",
    "user.upgrade_tier", "user.restore", "privacy.erase_history", "privacy.erasure_resume", "privacy.erasure_hits",
    "privacy.erasure_accept", "privacy.hold_place", "privacy.hold_release",
}  # fmt: skip
EVERYBODY = {"session.login", "privacy.verify_certificate"}
TABLES = {"table.read", "table.versions"}
SQL = {"sql.query"}

MINE, OTHERS = AccountTarget("a" * 32), AccountTarget("b" * 32)
RELATIONS = Relations(CONTRACTS, VIEWS, lambda _: ())


def table(name: str) -> TableTarget:
    return TableTarget(name, RELATIONS)


#: One of each kind: open to readers, in larger plans, for administrators, a person's own rows, a view, none at all.
NAMES = ("market.bars_1m", "signals.mfg_prices", "quarantine.closes", "users", "market.ohlcv", "market.nothing")


def account(role="registered", plan="enterprise", **more) -> Principal:
    return Principal(MINE.user_id, role, plan, **more)


def may(principal, action, target) -> bool:
    try:
        authorise(principal, Action(action), target)
    except PermissionDeniedError:
        return False
    return True


def test_every_action_has_its_place_in_the_matrix():
    listed = [OWN, ALONE, ADMIN, EVERYBODY, TABLES, SQL]
    assert {action.value for action in Action} == set().union(*listed)
    assert len(Action) == sum(map(len, listed)), "an action stands in two places"


def expected(action, role, target) -> bool:
    """Return what the matrix says for an active account of the largest plan."""
    if action in EVERYBODY or role == "admin":
        return action not in ALONE or target == MINE
    if action in OWN | ALONE:
        return target == MINE
    if action in TABLES:
        return target.name == "users" or (
            role in {"registered", "trader"} and target.name not in {"quarantine.closes", "market.nothing"}
        )
    return action in SQL and role in {"registered", "trader"}


@pytest.mark.parametrize("action", sorted(action.value for action in Action))
def test_the_matrix(action):
    targets = [table(name) for name in NAMES] if action in TABLES else [MINE, OTHERS, None]

    found = {(role, target): may(account(role), action, target) for role, target in cells(ROLES, targets)}

    assert found == {(role, target): expected(action, role, target) for role, target in cells(ROLES, targets)}


def cells(roles, targets):
    return list(product(roles, targets))


@pytest.mark.parametrize("action", sorted(action.value for action in Action))
def test_the_platform_itself_may_do_everything(action):
    for target in [table(name) for name in NAMES] if action in TABLES else [MINE, OTHERS, None]:
        assert may(Principal.system(), action, target)


@pytest.mark.parametrize("role", ROLES)
def test_an_account_that_is_not_active_may_do_only_what_proves_itself(role):
    closed = account(role, active=False)

    allowed = {action.value for action in Action if may(closed, action, table("users") if action in TABLES else MINE)}

    assert allowed == EVERYBODY


@pytest.mark.parametrize("plan", TIERS)
def test_what_a_larger_plan_has_is_another_refusal_than_what_nobody_may(plan):
    reader = account(plan=plan)

    def refusal(action, target) -> type | None:
        try:
            authorise(reader, action, target)
        except PermissionDeniedError as error:
            return type(error)
        return None

    small = plan in {"free", "hobbyist"}
    assert refusal(Action.TABLE_READ, table("signals.mfg_prices")) is (TierForbiddenError if small else None)
    assert refusal(Action.SQL_QUERY, None) is (TierForbiddenError if plan == "free" else None)
    assert refusal(Action.TABLE_READ, table("quarantine.closes")) is PermissionDeniedError
    assert refusal(Action.USER_LIST, None) is PermissionDeniedError


def test_a_role_without_data_is_told_so_whatever_its_plan():
    for plan in TIERS:
        with pytest.raises(PermissionDeniedError, match="the role 'guest' does not read data") as caught:
            authorise(account("guest", plan), Action.SQL_QUERY)
        assert type(caught.value) is PermissionDeniedError


def test_a_principal_may_see_less_than_its_role_and_plan_open():
    narrow = account(sees=Visibility({"market.bars_1m": frozenset({"symbol", "close"})}))

    assert may(narrow, "table.read", table("market.bars_1m"))
    assert not may(narrow, "table.read", table("market.trades"))
    assert may(narrow, "sql.query", None)
    assert not may(replace(narrow, sees=Visibility({})), "sql.query", None)


def test_the_refusal_names_no_account():
    with pytest.raises(PermissionDeniedError) as caught:
        authorise(account(), Action.USER_READ, OTHERS)
    assert OTHERS.user_id not in str(caught.value)
    assert MINE.user_id not in str(caught.value)
    assert caught.value.where == "user.read"


def test_a_service_with_a_role_of_its_own_owns_no_account():
    service = Principal(MINE.user_id, "trader", "enterprise", service=True)

    assert not may(service, "user.read", MINE)
    assert not may(service, "user.change_password", MINE)
    assert service.user_id is None


def test_code_that_asks_for_the_wrong_thing_is_told_so_even_for_administrators():
    for action, target in [
        (Action.TABLE_READ, None),
        (Action.TABLE_READ, MINE),
        (Action.USER_READ, table("users")),
        ("user.read", MINE),
    ]:
        with pytest.raises(TypeError):
            authorise(Principal.system(), action, target)


@pytest.mark.parametrize(("name", "value"), [("role", "root"), ("plan", "platinum"), ("id", "")])
def test_a_principal_has_a_role_and_a_plan_that_exist(name, value):
    with pytest.raises(BadRequestError):
        replace(account(), **{name: value})


def test_an_administrator_has_no_quota_and_sees_all_history_whatever_the_plan():
    root = account("admin", "free")

    assert root.sql_queries is None
    assert root.visibility.history is None
    assert account("admin", "free", active=False).sql_queries is not None


def test_history_goes_back_as_far_as_the_plan():
    assert [account(plan=plan).visibility.history for plan in ("free", "enterprise")] == [timedelta(days=30), None]
