"""May this caller do this?  `authorise` is asked before any work, by every interface and by every service.

Every operation that somebody can ask for is an `Action`, whose name is also its name in the audit log, and says of
itself to whom it is open: an action without a rule cannot be written.  What does not belong here: how a caller proves
who it is, what it has left of its plan's quotas, and whether the target exists.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from enum import Enum, StrEnum
from typing import Final, Self

from hfthot_platform.core.errors import BadRequestError, PermissionDeniedError, TierForbiddenError
from hfthot_platform.domain.access.plans import ROLES, Limit, Role, TierName, tier
from hfthot_platform.domain.access.visibility import Relations, Visibility

__all__ = ["SYSTEM", "AccountTarget", "Action", "OpenTo", "Principal", "TableTarget", "Target", "authorise"]

#: Name of the platform's own trusted code, as the audit log has it.
SYSTEM: Final = "system"
#: Namespace of the user tables, whose own rows everybody reads.
_USER_TABLES: Final = "accounts"


@dataclass(frozen=True)
class Principal:
    """Who asks: an account, or a service of the platform itself."""

    #: Random user id of the account, or the service's name; never a username or an address.
    id: str
    role: Role
    plan: TierName
    #: Whether it is code of the platform rather than an account.
    service: bool = False
    #: Whether the account may act at all: it is neither closed nor deleted.
    active: bool = True
    #: What it sees, where that is something else than its role and plan open.
    sees: Visibility | None = None

    def __post_init__(self) -> None:
        """Check that role and plan exist.

        Raises:
            BadRequestError: one does not, or there is no id.
        """
        tier(self.plan)
        if self.role not in ROLES:
            raise BadRequestError(
                f"unknown role {str(self.role)[:40]!r}", where="role", hint=f"Choose one of {', '.join(ROLES)}."
            )
        if not self.id:
            raise BadRequestError(
                "the principal has no id", where="principal", hint="Give a user id, or the name of a service."
            )

    @classmethod
    def system(cls, name: str = SYSTEM) -> Self:
        """Return trusted code of the platform, to which everything is open."""
        return cls(name, "admin", "enterprise", service=True)

    @property
    def user_id(self) -> str | None:
        """Return the account's id, None for a service."""
        return None if self.service else self.id

    @property
    def trusted(self) -> bool:
        """Return whether it acts on every account and reads every table: an administrator, or the platform itself."""
        return self.active and self.role == "admin"

    @property
    def visibility(self) -> Visibility:
        """Return which tables and columns it sees, and how far back."""
        return self.sees if self.sees is not None else Visibility.of(self.plan, self.role)

    @property
    def sql_queries(self) -> Limit | None:
        """Return how many SQL statements it may run in which time, None for any number."""
        return None if self.trusted else tier(self.plan).sql_queries

    def owns(self, account: AccountTarget | None) -> bool:
        """Return whether an account is its own."""
        return account is not None and not self.service and account.user_id == self.id


@dataclass(frozen=True)
class AccountTarget:
    """The account that an action is about."""

    user_id: str


@dataclass(frozen=True)
class TableTarget:
    """The table or view that an action is about, among those of its lake."""

    name: str
    relations: Relations


Target = AccountTarget | TableTarget | None


class OpenTo(Enum):
    """Whom an action is open to.  Trusted code of the platform is an administrator, and acts in an owner's name."""

    #: Everybody, since what is passed with the call proves what has to be proven.
    EVERYBODY = "everybody"
    #: The owner of the target, and administrators; without a target administrators alone.
    OWNER_AND_ADMINISTRATORS = "the owner and administrators"
    #: The owner of the target, and nobody else.
    OWNER = "the owner"
    ADMINISTRATORS = "administrators"
    #: Those who see the target, a table; of the user tables everybody reads the own rows.
    READERS = "readers of the table"
    #: Readers whose plan has SQL; which tables a statement may name is `Visibility.readable`.
    SQL = "readers whose plan has SQL"


class Action(StrEnum):
    """Everything that somebody can ask for, by its name in the audit log."""

    open_to: OpenTo

    def __new__(cls, name: str, open_to: OpenTo) -> Self:
        """Make an action that knows to whom it is open."""
        action = str.__new__(cls, name)
        action._value_ = name
        action.open_to = open_to
        return action

    SESSION_LOGIN = "session.login", OpenTo.EVERYBODY
    SESSION_LOGOUT = "session.logout", OpenTo.OWNER_AND_ADMINISTRATORS
    SESSION_VERIFY = "session.verify", OpenTo.OWNER_AND_ADMINISTRATORS

    USER_REGISTER = "user.register", OpenTo.ADMINISTRATORS
    USER_READ = "user.read", OpenTo.OWNER_AND_ADMINISTRATORS
    USER_LIST = "user.list", OpenTo.ADMINISTRATORS
    USER_UPDATE = "user.update", OpenTo.OWNER_AND_ADMINISTRATORS
    USER_CHANGE_PASSWORD = "user.change_password", OpenTo.OWNER
    USER_APPROVE = "user.approve", OpenTo.ADMINISTRATORS
    USER_REJECT = "user.reject", OpenTo.ADMINISTRATORS
    USER_DEACTIVATE = "user.deactivate", OpenTo.ADMINISTRATORS
    USER_SET_ROLE = "user.set_role", OpenTo.ADMINISTRATORS
    USER_UPGRADE_TIER = "user.upgrade_tier", OpenTo.ADMINISTRATORS
    USER_DELETE = "user.delete", OpenTo.OWNER_AND_ADMINISTRATORS
    USER_RESTORE = "user.restore", OpenTo.ADMINISTRATORS

    API_KEY_GENERATE = "api_key.generate", OpenTo.OWNER_AND_ADMINISTRATORS
    API_KEY_ROTATE = "api_key.rotate", OpenTo.OWNER_AND_ADMINISTRATORS
    API_KEY_REVOKE = "api_key.revoke", OpenTo.OWNER_AND_ADMINISTRATORS
    API_KEY_LIST = "api_key.list", OpenTo.OWNER_AND_ADMINISTRATORS
    API_KEY_VERIFY = "api_key.verify", OpenTo.OWNER_AND_ADMINISTRATORS
    #: Keys of data providers, in clear.
    API_KEYS_READ = "api_keys.read", OpenTo.OWNER_AND_ADMINISTRATORS
    API_KEYS_SAVE = "api_keys.save", OpenTo.OWNER_AND_ADMINISTRATORS

    USAGE_COUNT = "usage.count", OpenTo.OWNER_AND_ADMINISTRATORS
    USAGE_READ = "usage.read", OpenTo.OWNER_AND_ADMINISTRATORS
    #: Without an account: everybody's.
    AUDIT_READ = "audit.read", OpenTo.OWNER_AND_ADMINISTRATORS

    TABLE_READ = "table.read", OpenTo.READERS
    TABLE_VERSIONS = "table.versions", OpenTo.READERS
    SQL_QUERY = "sql.query", OpenTo.SQL

    PRIVACY_EXPORT = "privacy.export", OpenTo.OWNER_AND_ADMINISTRATORS
    PRIVACY_ERASURE_REQUEST = "privacy.erasure_request", OpenTo.OWNER_AND_ADMINISTRATORS
    #: Removes old versions that everybody reads.
    PRIVACY_ERASE_HISTORY = "privacy.erase_history", OpenTo.ADMINISTRATORS
    PRIVACY_ERASURE_RESUME = "privacy.erasure_resume", OpenTo.ADMINISTRATORS
    PRIVACY_ERASURE_HITS = "privacy.erasure_hits", OpenTo.ADMINISTRATORS
    PRIVACY_ERASURE_ACCEPT = "privacy.erasure_accept", OpenTo.ADMINISTRATORS
    PRIVACY_HOLD_PLACE = "privacy.hold_place", OpenTo.ADMINISTRATORS
    PRIVACY_HOLD_RELEASE = "privacy.hold_release", OpenTo.ADMINISTRATORS
    PRIVACY_VERIFY_CERTIFICATE = "privacy.verify_certificate", OpenTo.EVERYBODY


def authorise(principal: Principal, action: Action, target: Target = None) -> None:
    """Return if a principal may do something, and raise if not.

    Ask it before any work, and before looking whether the target exists.

    Args:
        principal: who asks, as it is now: roles, plans and accounts change between two calls.
        action: what it asks for.
        target: the account or the table that it is about, None where the action has none.

    Raises:
        PermissionDeniedError: it may not, whatever its plan.
        TierForbiddenError: its plan does not include it (a kind of PermissionDeniedError).
        TypeError: the action is about another kind of target, or is not an `Action`: a mistake in the code that asks.

    Example:
        >>> authorise(Principal("ada", "registered", "free"), Action.USER_READ, AccountTarget("ada"))
        >>> authorise(Principal("ada", "registered", "free"), Action.USER_READ, AccountTarget("grace"))
        Traceback (most recent call last):
        hfthot_platform.core.errors.PermissionDeniedError: user.read: it belongs to another account. ...
    """
    if not isinstance(action, Action):
        raise TypeError(f"{action!r} is not an Action")
    _require_target_of(action, target)
    if action.open_to is OpenTo.EVERYBODY:
        return
    if not principal.active:
        raise _denied(action, "the account is not active", "Ask an administrator.")
    match action.open_to:
        case OpenTo.ADMINISTRATORS:
            if not principal.trusted:
                raise _denied(
                    action,
                    f"only an administrator may do this, not the role {principal.role!r}",
                    "Ask an administrator.",
                )
        case OpenTo.OWNER | OpenTo.OWNER_AND_ADMINISTRATORS:
            _require_account(principal, action, target)
        case OpenTo.READERS:
            assert isinstance(target, TableTarget)  # checked above
            _require_table(principal, action, target)
        case OpenTo.SQL:
            _require_sql(principal, action)


def _require_target_of(action: Action, target: Target) -> None:
    of_table = action.open_to is OpenTo.READERS
    if of_table != isinstance(target, TableTarget):
        kind = "a table" if of_table else "an account or no target"
        raise TypeError(f"the target of {action.value} is {kind}, not {type(target).__name__}")


def _require_account(principal: Principal, action: Action, target: Target) -> None:
    account = target if isinstance(target, AccountTarget) else None
    alone = action.open_to is OpenTo.OWNER
    # The platform acts in an owner's name; an administrator, who is a person, does not.
    in_place_of_owner = principal.trusted and (principal.service or not alone)
    if in_place_of_owner or principal.owns(account):
        return
    if alone:
        raise _denied(action, "only the owner of the account may do this", "Sign in as the owner.")
    what = "it concerns every account" if account is None else "it belongs to another account"
    raise _denied(action, what, "Name your own account, or ask an administrator.")


def _require_table(principal: Principal, action: Action, target: TableTarget) -> None:
    contract = target.relations.contracts.get(target.name)
    if principal.trusted or (contract is not None and contract.namespace == _USER_TABLES):
        return
    sees = principal.visibility
    if sees.readable_columns(target.name, target.relations):
        return
    if not sees.tables:
        raise _denied(action, f"the role {principal.role!r} does not read data", "Ask an administrator.", target.name)
    if replace(sees, denied=frozenset(), history=None).readable_columns(target.name, target.relations):
        raise _not_in_plan(principal, "this table", target.name)
    raise _denied(action, f"the role {principal.role!r} may not read this table", "Ask an administrator.", target.name)


def _require_sql(principal: Principal, action: Action) -> None:
    if not principal.visibility.tables:
        raise _denied(action, f"the role {principal.role!r} does not read data", "Ask an administrator.")
    queries = principal.sql_queries
    if queries is not None and queries.count == 0:
        raise _not_in_plan(principal, "SQL", action.value)


def _denied(action: Action, what: str, hint: str, where: str | None = None) -> PermissionDeniedError:
    return PermissionDeniedError(what, where=where or action.value, hint=hint)


def _not_in_plan(principal: Principal, what: str, where: str) -> TierForbiddenError:
    return TierForbiddenError(
        f"the plan {principal.plan!r} does not include {what}", where=where, hint="Choose a larger plan."
    )
