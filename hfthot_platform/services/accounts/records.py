"""What the accounts' operations take and return: plain frozen records.

Nothing secret or personal shows in their `repr`, so they may be logged; tokens and keys are `Secret`.
"""

from __future__ import annotations

import hmac
import re
from dataclasses import dataclass, field, fields
from datetime import datetime
from typing import Any, Final, NoReturn, TypedDict

from hfthot_platform.domain.access.plans import Limit, Role, TierName

__all__ = ["ApiKey", "ApiKeys", "ProviderKey", "QueryStats", "Request", "Secret", "Session", "Usage", "User"]
__all__ += ["RANDOM_ID", "UNCHANGED", "Unchanged"]

#: Ids of accounts, subjects, sessions and keys: 128 random bits.
RANDOM_ID: Final = re.compile(r"[0-9a-f]{32}")


class Unchanged:
    """Says that an argument was not given, where None means something."""

    def __repr__(self) -> str:
        return "UNCHANGED"


UNCHANGED: Final = Unchanged()


class Secret:
    """A token or key that never shows: not in `repr`, `str`, logs or pickles."""

    __slots__ = ("_value",)

    def __init__(self, value: str) -> None:
        self._value = value

    def get_secret_value(self) -> str:
        """Return it in clear, to hand it to its owner."""
        return self._value

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Secret):
            return NotImplemented
        return hmac.compare_digest(self._value.encode(), other._value.encode())

    def __hash__(self) -> int:
        return hash(self._value)

    def __repr__(self) -> str:
        return "Secret('**********')"

    def __reduce_ex__(self, protocol: Any) -> NoReturn:
        raise TypeError("a Secret cannot be pickled; pass get_secret_value() explicitly")


class ByName:
    """Fields by name as well: `stats["queries_remaining"]`, `stats.get(...)`, `dict(stats)`."""

    __slots__ = ()

    def keys(self) -> tuple[str, ...]:
        """Return the names of the fields."""
        return tuple(known.name for known in fields(self))  # type: ignore[arg-type]

    def __getitem__(self, name: str) -> Any:
        if name not in self.keys():
            raise KeyError(name)
        return getattr(self, name)

    def get(self, name: str, default: Any = None) -> Any:
        """Return a field, or a default where there is none of this name."""
        return self[name] if name in self.keys() else default


@dataclass(frozen=True, slots=True)
class Request:
    """Where a call comes from.

    `actor_id` is the user id of the caller, who may act on itself, or on everybody as an admin; None is trusted code
    of the platform (the audit log says `system`).  Address and program are those of the person concerned; they are
    kept, encrypted, only where the caller acts on itself or nobody is signed in: they are the caller's personal data
    and would otherwise be left in another person's records.
    """

    ip: str | None = field(default=None, repr=False)
    user_agent: str | None = field(default=None, repr=False)
    actor_id: str | None = None


@dataclass(frozen=True, slots=True)
class User(ByName):
    """An account, decrypted."""

    user_id: str
    username: str = field(repr=False)
    email: str = field(repr=False)
    first_name: str | None = field(repr=False)
    last_name: str | None = field(repr=False)
    preferences: dict[str, Any] = field(repr=False)
    role: Role
    tier: TierName
    active: bool
    data_sharing_consent: bool
    created_at: datetime
    updated_at: datetime
    #: Set once the account is deleted softly; `erase_after` is when it is erased for good.
    deleted_at: datetime | None
    erase_after: datetime | None


@dataclass(frozen=True, slots=True)
class Session(ByName):
    """A sign-in.  `token` is there once, in what `login` returns."""

    session_id: str
    user_id: str
    role: Role
    tier: TierName
    created_at: datetime
    expires_at: datetime
    token: Secret | None = None


@dataclass(frozen=True, slots=True)
class ApiKey(ByName):
    """A key issued here.  `key` is there once, in what generating or rotating returns.

    `tier` is the account's tier now; `prefix` shows what the key begins with, and so the tier it was made for.
    """

    key_id: str
    user_id: str
    role: Role
    tier: TierName
    prefix: str
    created_at: datetime
    revoked_at: datetime | None = None
    replaced_by: str | None = None
    key: Secret | None = None

    def __str__(self) -> str:
        """Return the key in clear where it was just made, to be shown to its owner; what it begins with otherwise.

        `repr`, and so every log, error and traceback, never shows it.
        """
        return f"{self.prefix}..." if self.key is None else self.key.get_secret_value()


class ProviderKey(TypedDict):
    """A key of a data provider with its quota; None is unlimited."""

    api_key: str
    queries_done: int
    queries_remaining: int | None
    queries_limit: int | None


class ApiKeys(TypedDict):
    """All keys of an account.

    `hfthot_api_key` is the display prefix of the newest valid key, or None: the key itself is kept nowhere.
    """

    hfthot_api_key: str | None
    provider_keys: dict[str, ProviderKey]
    data_sharing_consent: bool


@dataclass(frozen=True, slots=True)
class QueryStats(ByName):
    """A quota's state; `queries_limit` and `queries_remaining` None are unlimited."""

    provider: str
    queries_done: int
    queries_remaining: int | None
    queries_limit: int | None
    queries_today: int
    #: When the window ends and `queries_done` is zero again.
    resets_at: datetime


@dataclass(frozen=True, slots=True)
class Usage(ByName):
    """What an account used and may use; None is unlimited.

    The cycle is the UTC day that the counters of today belong to.
    """

    user_id: str
    tier: TierName
    requests_today: int
    requests: Limit | None
    sql_queries_today: int
    sql_queries: Limit | None
    optimisations_today: int
    optimisations: Limit | None
    websocket_streams: int | None
    cycle_end: datetime
