"""Good arguments for every public call of the client, so that no test can forget a new one."""

from __future__ import annotations

import inspect
import itertools
from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any

from hfthot_platform import LakehouseClient
from hfthot_platform.interfaces.client import Market, MarketQuery

from .conftest import PASSWORD

_numbers = itertools.count()


class Scene:
    """An account with a session and keys, fresh for each call that uses it up."""

    def __init__(self, trusted: LakehouseClient) -> None:
        self.trusted = trusted
        number = next(_numbers)
        self.username = f"victim{number}"
        self.user = trusted.register(self.username, f"{self.username}@example.org", PASSWORD)
        self.user_id = self.user.user_id

    @property
    def token(self) -> Any:
        return self.trusted.login(self.username, PASSWORD).token

    @property
    def key(self) -> Any:
        return self.trusted.generate_hfthot_api_key(self.user_id)


def _new(scene: Scene) -> dict[str, Any]:
    name = f"new{next(_numbers)}"
    return {
        "username": name,
        "email": f"{name}@example.org",
        "password": PASSWORD,
        "first_name": "First",
        "last_name": "Last",
        "tier": "free",
    }


def _whose(**more: Any) -> Callable[[Scene], dict[str, Any]]:
    return lambda scene: {"user_id": scene.user_id, **more}


#: Good arguments of each call.
ARGUMENTS: dict[str, Callable[[Scene], dict[str, Any]]] = {
    "for_request": lambda scene: {"ip": "192.0.2.1", "user_agent": "curl/8", "api_key": None, "session_token": None},
    "register": _new,
    "login": lambda scene: {"username": scene.username, "password": PASSWORD},
    "logout": lambda scene: {"token": scene.token},
    "verify_token": lambda scene: {"token": scene.token},
    "change_password": lambda scene: {
        "user_id": scene.user_id,
        "old_password": PASSWORD,
        "new_password": "another good password",
        "token": scene.token,
    },
    "approve_user": _whose(),
    "reject_user": _whose(),
    "deactivate_user": _whose(),
    "get_user": _whose(),
    "list_users": lambda scene: {
        "role": "registered",
        "tier": "free",
        "active": True,
        "deleted": False,
        "limit": 10,
        "after": "0" * 32,
    },
    "update_user": _whose(
        username="renamed", email="renamed@example.org", first_name="F", last_name="L", preferences={"theme": "dark"}
    ),
    "set_role": _whose(role="trader"),
    "upgrade_tier": _whose(tier="hobbyist"),
    "get_api_keys": _whose(),
    "save_api_keys": _whose(provider_keys={"finnhub": "theirs"}, data_sharing_consent=True),
    "generate_hfthot_api_key": _whose(),
    "rotate_api_key": lambda scene: {"user_id": scene.user_id, "key_id": scene.key.key_id},
    "revoke_api_key": lambda scene: {"user_id": scene.user_id, "key_id": scene.key.key_id},
    "list_api_keys": _whose(),
    "verify_api_key": lambda scene: {"key": scene.key.key},
    "update_query_count": _whose(provider="finnhub", increment=1),
    "get_query_stats": _whose(provider="finnhub"),
    "usage": _whose(),
    "list_versions": lambda scene: {"table": "market.bars"},
    "read_version": lambda scene: {"table": "market.bars", "version": 1},
    "read_at_timestamp": lambda scene: {"table": "market.bars", "ts": datetime.now(UTC)},
    "market": lambda scene: {"symbol": "ALPHA-USDT", "venue": "simulated"},
    "sql": lambda scene: {
        "query": "SELECT $text AS text",
        "params": {"text": "x"},
        "format": "json",
        "limits": None,
        "versions": {},
        "as_of": None,
    },
    "export_user_data": _whose(format="json"),
    "delete_user_soft": _whose(),
    "restore_user": _whose(),
    "delete_user_permanent": _whose(keep_history=True),
    "resume_erasure": lambda scene: {"request_id": "0" * 32},
    "erasure_hits": lambda scene: {"request_id": "0" * 32, "reveal": True},
    "accept_erasure_hit": lambda scene: {
        "request_id": "0" * 32,
        "hit": "0" * 12,
        "reason": "a word of the language",
        "everywhere": False,
    },
    "verify_certificate": lambda scene: {"certificate": None, "path": "nowhere"},
    "get_audit_log": _whose(
        start_date=datetime(2024, 1, 1, tzinfo=UTC), end_date=datetime(2124, 1, 1, tzinfo=UTC), action_type="user"
    ),
    "flush": lambda scene: {},
    "close": lambda scene: {},
    "Market.ohlcv": lambda scene: {"interval": "1h", "start": None, "end": None, "version": 1, "as_of": None},
    "Market.trades": lambda scene: {"start": None, "end": None, "version": 1, "as_of": None},
    "Market.closes": lambda scene: {"start": None, "end": None, "version": 1, "as_of": None},
    "MarketQuery.head": lambda scene: {"n": 5},
    "MarketQuery.tail": lambda scene: {"n": 5},
    "MarketQuery.collect": lambda scene: {},
    "MarketQuery.lazy": lambda scene: {},
}
#: Calls that take Polars expressions: what a name in them means is Polars' business.
OF_POLARS = {"MarketQuery.filter", "MarketQuery.select"}
#: Made before there is a client.
MAKING = {"create", "from_settings", "of"}


def public() -> set[str]:
    """Return the names of every public call: of the client, and of what its calls hand out."""
    found = set()
    for kind, prefix in ((LakehouseClient, ""), (Market, "Market."), (MarketQuery, "MarketQuery.")):
        for name in dir(kind):
            if not name.startswith("_") and callable(getattr(kind, name)):
                found.add(prefix + name)
    return found


def call(client: LakehouseClient, name: str, arguments: dict[str, Any]) -> Any:
    """Make a call by its name; what is lazy is carried out."""
    kind, _, method = name.rpartition(".")
    if kind == "Market":
        return getattr(client.market("ALPHA-USDT"), method)(**arguments).collect()
    if kind == "MarketQuery":
        made = getattr(client.market("ALPHA-USDT").ohlcv("1h"), method)(**arguments)
        return made.collect() if hasattr(made, "collect") else made
    made = getattr(client, method)(**arguments)
    return made.ohlcv().collect() if name == "market" else made


def parameters(name: str) -> list[str]:
    """Return the names of a call's parameters."""
    kind, _, method = name.rpartition(".")
    owner = {"": LakehouseClient, "Market": Market, "MarketQuery": MarketQuery}[kind]
    signature = inspect.signature(inspect.unwrap(getattr(owner, method)))
    return [
        parameter.name
        for parameter in signature.parameters.values()
        if parameter.name not in {"self", "cls"} and parameter.kind is not inspect.Parameter.VAR_KEYWORD
    ]
