"""Tiers and roles: the one place that says what an account may use.

Every limit of the product is a field here and nowhere else; the client, the SQL gateway and the services
read it.  `None` means unlimited.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import timedelta
from typing import Final, Literal, get_args

from hfthot_platform.core.errors import BadRequestError, nearest

__all__ = ["ROLES", "TIERS", "Limit", "Role", "Tier", "TierName", "tier"]

TierName = Literal["free", "hobbyist", "professional", "enterprise"]
#: `guest` may look around, `pending` waits for approval, `registered` uses the platform, `trader` may also place
#: orders, `admin` manages accounts and reads the user tables.
Role = Literal["guest", "pending", "registered", "trader", "admin"]

ROLES: Final[tuple[Role, ...]] = get_args(Role)


@dataclass(frozen=True)
class Limit:
    """At most `count` uses in each window of `per`."""

    count: int
    per: timedelta


@dataclass(frozen=True)
class Tier:
    """What a subscription allows."""

    name: TierName
    #: Short name in the API keys of this tier: `hft_<code>_...`.
    code: str
    requests: Limit | None
    websocket_streams: int | None
    sql_queries: Limit | None
    optimisations: Limit | None
    #: How far back market data may be read.
    history: timedelta | None
    #: Whether mean-field-game results are included.
    mean_field_game: bool

    @property
    def key_prefix(self) -> str:
        """Return what the tier's API keys begin with."""
        return f"hft_{self.code}_"


_MINUTE, _HOUR, _DAY = timedelta(minutes=1), timedelta(hours=1), timedelta(days=1)
_YEAR = timedelta(days=365.25)

#: All tiers by name, smallest first.
TIERS: Final[dict[TierName, Tier]] = {
    bought.name: bought
    for bought in (
        Tier(
            name="free",
            code="free",
            requests=Limit(60, _MINUTE),
            websocket_streams=1,
            sql_queries=Limit(0, _HOUR),
            optimisations=Limit(5, _DAY),
            history=30 * _DAY,
            mean_field_game=False,
        ),
        Tier(
            name="hobbyist",
            code="hob",
            requests=Limit(300, _MINUTE),
            websocket_streams=3,
            sql_queries=Limit(10, _HOUR),
            optimisations=Limit(50, _DAY),
            history=_YEAR,
            mean_field_game=False,
        ),
        Tier(
            name="professional",
            code="pro",
            requests=Limit(2000, _MINUTE),
            websocket_streams=10,
            sql_queries=Limit(100, _HOUR),
            optimisations=None,
            history=5 * _YEAR,
            mean_field_game=True,
        ),
        Tier(
            name="enterprise",
            code="ent",
            requests=None,
            websocket_streams=None,
            sql_queries=None,
            optimisations=None,
            history=None,
            mean_field_game=True,
        ),
    )
}


def tier(name: str) -> Tier:
    """Return a tier by name.

    Raises:
        BadRequestError: there is no such tier.
    """
    for known, found in TIERS.items():
        if known == name:
            return found
    raise BadRequestError(
        f"unknown tier {name[:40]!r}", where="tier", hint=nearest(name, TIERS) or f"Tiers: {', '.join(TIERS)}."
    )
