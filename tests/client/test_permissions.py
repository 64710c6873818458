"""Which caller may make which call, on itself and on somebody else."""

from __future__ import annotations

import pytest

from hfthot_platform import LakehouseClient
from hfthot_platform.core.errors import BadRequestError, InvalidTokenError, PermissionDeniedError, PrivacyError

from .calls import ARGUMENTS, MAKING, OF_POLARS, Scene, call, public
from .conftest import PASSWORD

#: On itself and on others; on itself alone; for administrators; proven by what is passed; of no account.
OWN = {
    "get_user", "update_user", "get_api_keys", "save_api_keys", "generate_hfthot_api_key", "rotate_api_key",
    "revoke_api_key", "list_api_keys", "update_query_count", "get_query_stats", "usage", "export_user_data",
    "delete_user_soft", "delete_user_permanent", "get_audit_log",
}  # fmt: skip
ITSELF = {"change_password"}
ADMIN = {
    "register", "approve_user", "reject_user", "deactivate_user", "list_users", "set_role", "upgrade_tier",
    "restore_user", "resume_erasure", "erasure_hits", "accept_erasure_hit",
}  # fmt: skip
PROVEN = {"login"}
#: Of its own tokens and keys; for another one's it is told what it is told of one that nobody issued.
OWN_PROOF = {"logout", "verify_token", "verify_api_key"}
DATA = {
    "list_versions", "read_version", "read_at_timestamp", "market", "Market.ohlcv", "Market.trades", "Market.closes",
    "MarketQuery.head", "MarketQuery.tail", "MarketQuery.collect", "MarketQuery.lazy",
}  # fmt: skip
ANYBODY = {"for_request", "flush", "close", "verify_certificate"}
TIERED = {"sql"}
ROLES = ("guest", "pending", "registered", "trader", "admin")


def test_every_call_has_its_place_in_the_matrix():
    assert public() == set(ARGUMENTS) | OF_POLARS | MAKING
    assert set(ARGUMENTS) == OWN | ITSELF | ADMIN | PROVEN | OWN_PROOF | DATA | ANYBODY | TIERED


@pytest.fixture(scope="module")
def stage(tmp_path_factory, filled):
    """Return trusted code and a client with a key for each role, over one data folder."""
    import shutil

    root = tmp_path_factory.mktemp("roles") / "data"
    shutil.copytree(filled, root / "lake")
    with pytest.MonkeyPatch.context() as patch:
        for name in ("MEMORY_KIB=8", "PASSES=1", "LANES=1"):
            patch.setenv(*f"HFTHOT_ARGON2_{name}".split("="))
        trusted = LakehouseClient(root, create=True)
        clients = {}
        for role in ROLES:
            user = trusted.register(f"the {role}".replace(" ", "."), f"{role}@example.org", PASSWORD, tier="hobbyist")
            trusted.set_role(user.user_id, role)
            clients[role] = LakehouseClient(root, api_key=trusted.generate_hfthot_api_key(user.user_id).key)
            clients[role].user_id = user.user_id
        yield trusted, clients
        for client in (*clients.values(), trusted):
            client.close()


def allowed(client, name, arguments) -> bool:
    """Return whether a call went through; what is wrong with its arguments comes after the permission."""
    try:
        call(client, name, arguments)
    except PermissionDeniedError:
        return False
    except PrivacyError as error:
        return "no erasure has this id" in str(error)
    except BadRequestError:
        return (
            name == "reject_user"
        )  # the account does not wait for approval: a matter of the account, not of the caller
    return True


@pytest.mark.parametrize("name", sorted(OWN | ITSELF | ADMIN))
def test_on_somebody_else_only_administrators_may(stage, name):
    trusted, clients = stage
    scene = Scene(trusted)
    # What an administrator's erasure does is tested elsewhere: it takes a second.
    roles = ROLES[:-1] if name == "delete_user_permanent" else ROLES

    may = [role for role in roles if allowed(clients[role], name, ARGUMENTS[name](scene))]

    assert may == ([] if name in ITSELF else [role for role in roles if role == "admin"])


@pytest.mark.parametrize("name", sorted(OWN - {"delete_user_permanent", "delete_user_soft", "update_user"}))
@pytest.mark.parametrize("role", ["guest", "registered"])
def test_everybody_may_on_itself(stage, name, role):
    trusted, clients = stage
    own = Scene.__new__(Scene)
    own.trusted, own.user_id = trusted, clients[role].user_id

    assert allowed(clients[role], name, ARGUMENTS[name](own))


@pytest.mark.parametrize("name", sorted(DATA))
def test_data_are_for_approved_accounts(stage, name):
    _trusted, clients = stage

    assert [role for role in ROLES if allowed(clients[role], name, ARGUMENTS[name](None))] == [
        "registered", "trader", "admin",
    ]  # fmt: skip


@pytest.mark.parametrize("name", sorted(PROVEN))
def test_what_proves_itself_is_open_to_everybody(stage, name):
    trusted, clients = stage

    for role in ROLES:
        assert allowed(clients[role], name, ARGUMENTS[name](Scene(trusted)))


@pytest.mark.parametrize("name", sorted(OWN_PROOF))
def test_tokens_and_keys_are_looked_at_for_their_owner_and_for_administrators(stage, name):
    trusted, clients = stage

    for role in ("registered", "trader"):
        with pytest.raises(InvalidTokenError):
            call(clients[role], name, ARGUMENTS[name](Scene(trusted)))
    assert allowed(clients["admin"], name, ARGUMENTS[name](Scene(trusted)))
