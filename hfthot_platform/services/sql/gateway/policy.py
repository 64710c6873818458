"""Who may read what: a caller's tables, columns, depth of history, and the limits of one statement."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, fields, replace
from datetime import timedelta
from fnmatch import fnmatchcase
from typing import Final

from hfthot_platform.core.errors import BadRequestError
from hfthot_platform.domain.access.plans import Limit, Role, TierName, tier
from hfthot_platform.domain.contracts import Column, TableContract
from hfthot_platform.domain.contracts.accounts import USER_TABLES

__all__ = ["Policy", "QueryLimits", "never_shown"]

#: Namespaces that everybody with SQL reads; whatever is not listed is for admins.
_OPEN: Final = ("market", "signals", "portfolio", "staging", "marts")
#: Of these, the layers of SQL models: a table there is readable by who may read all that it is computed from.
_MODELS: Final = frozenset({"staging", "marts"})
#: Mean-field-game results, wherever they are.
_MEAN_FIELD_GAME: Final = "*.mfg_*"
_SECRET: Final = ("*_hash", "*_hashes", "*_ciphertext", "*_encrypted", "*_secret", "*_digest")
#: The audit log's own chain is there to be verified.
_CHAIN: Final = frozenset({"hash", "previous_hash", "personal_digest"})
#: Rejected rows of user tables hold whole rows as text, ciphertext and all.
_REJECTED: Final = frozenset(each.quarantine for each in USER_TABLES)
_NO_SQL: Final = Limit(0, timedelta(hours=1))


@dataclass(frozen=True)
class QueryLimits:
    """What one statement may use and return.  Of several limits the smallest holds."""

    #: Rows and bytes of the result; more are cut off, and the result says so.
    rows: int = 1_000_000
    bytes: int = 256 * 2**20
    #: From when the statement leaves the queue until its last row is delivered, pauses of the reader included.
    seconds: float = 30.0
    #: Seconds that it may wait in the queue before that.
    queue_seconds: float = 30.0
    #: Memory of the process that runs it.
    memory: int = 2**30

    def __post_init__(self) -> None:
        """Check that every limit allows something."""
        for each in fields(self):
            if not getattr(self, each.name) > 0:
                raise BadRequestError(
                    f"a limit of {getattr(self, each.name)!r}", where=f"limits.{each.name}", hint="Give more than 0."
                )

    def within(self, other: QueryLimits) -> QueryLimits:
        """Return the smaller of each limit."""
        return QueryLimits(
            **{each.name: min(getattr(self, each.name), getattr(other, each.name)) for each in fields(self)}
        )


@dataclass(frozen=True)
class Policy:
    """What one caller may read.

    Columns with personal data, and such that hold hashes of secrets or ciphertext, are never readable: no policy
    can permit them.
    """

    #: Who asks, as the queue shares places by; a random id, never a name.
    caller: str
    #: Tables and views by name, or all of a namespace as `market.*` (`accounts.*` are the user tables); each with
    #: its columns, or None for all that may be shown at all.
    tables: Mapping[str, frozenset[str] | None] = field(hash=False)
    #: Names and patterns that are not readable, whatever `tables` says.
    denied: frozenset[str] = frozenset()
    #: How far back rows go by the contract's time column, None for all.
    history: timedelta | None = None
    #: Statements per time, None for any number.
    queries: Limit | None = None
    limits: QueryLimits = QueryLimits()

    @classmethod
    def of(cls, tier_name: TierName, role: Role, caller: str, limits: QueryLimits | None = None) -> Policy:
        """Return the policy of a tier and a role.

        `guest` and `pending` read nothing.  An admin reads every table, whatever the tier, without a quota.

        Raises:
            BadRequestError: there is no such tier.
        """
        plan = tier(tier_name)
        limits = limits or QueryLimits()
        if role == "admin":
            return cls(caller, {"*": None}, limits=limits)
        if role not in {"registered", "trader"}:
            return cls(caller, {}, queries=_NO_SQL, limits=limits)
        return cls(
            caller,
            {f"{namespace}.*": None for namespace in _OPEN},
            denied=frozenset() if plan.mean_field_game else frozenset({_MEAN_FIELD_GAME}),
            history=plan.history,
            queries=plan.sql_queries,
            limits=limits,
        )

    def with_limits(self, limits: QueryLimits) -> Policy:
        """Return the policy with other limits of a statement."""
        return replace(self, limits=limits)

    def named(self, name: str) -> bool:
        """Whether a table or view is permitted by its own name, and not as one of many."""
        return name in self.tables

    @staticmethod
    def of_model(contract: TableContract) -> bool:
        """Whether a table is an SQL model's, or stands where only those should."""
        return contract.made_from is not None or contract.namespace in _MODELS

    def columns(self, name: str, declared: tuple[Column, ...], contract: TableContract | None) -> tuple[str, ...]:
        """Return the columns of a table or view that the caller may read, none if it is not the caller's at all.

        Args:
            name: of the table or view.
            declared: its columns.
            contract: of the table, None for a view.
        """
        whole = name if contract is None else f"{contract.namespace}.{contract.table}"
        if any(fnmatchcase(each, pattern) for pattern in self.denied for each in (name, whole)):
            return ()
        permitted: set[str] = set()
        for pattern, columns in self.tables.items():
            if fnmatchcase(name, pattern) or fnmatchcase(whole, pattern):
                permitted |= {each.name for each in declared} if columns is None else columns
        return tuple(each.name for each in declared if each.name in permitted and not never_shown(each, contract))


def never_shown(column: Column, contract: TableContract | None) -> bool:
    """Whether a column is closed to everybody: personal data, hashes of secrets, ciphertext."""
    if column.personal or (contract is not None and contract.name in _REJECTED and column.name in {"row", "detail"}):
        return True
    if contract is not None and contract.name == "audit_log" and column.name in _CHAIN:
        return False
    return any(fnmatchcase(column.name, pattern) for pattern in _SECRET)
