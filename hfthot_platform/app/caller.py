"""What one caller does with an installation: permission first, then the work, and an entry in the audit log.

Every interface that answers requests makes a `Caller` of each and goes through it, so that no interface has a rule of
its own about who reads what, how far back, and what of it is recorded.  What does not belong here: operations on
accounts, which ask and record for themselves (`services/accounts`, `services/privacy`), and how a caller's key or token
came in.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import TYPE_CHECKING, Final

import polars as pl

from hfthot_platform.app.personal import decrypted
from hfthot_platform.core.errors import HfthotError, PermissionDeniedError
from hfthot_platform.domain.access.authorisation import (
    AccountTarget,
    Action,
    Principal,
    TableTarget,
    Target,
    authorise,
)
from hfthot_platform.domain.contracts.periods import between
from hfthot_platform.services.accounts.records import Request

if TYPE_CHECKING:
    from hfthot_platform.app.installation import Installation
    from hfthot_platform.services.accounts.accounts import Accounts
    from hfthot_platform.services.accounts.records import ApiKey, Secret, Session
    from hfthot_platform.services.sql.gateway import QueryLimits, QueryResult
    from hfthot_platform.services.sql.gateway.gateway import Params
    from hfthot_platform.services.sql.gateway.results import Format
    from hfthot_platform.storage.lakehouse import Lakehouse, Table
    from hfthot_platform.storage.lakehouse.commits import VersionInfo
    from hfthot_platform.storage.operational.changes import Outcome

__all__ = ["Caller"]

_USER_TABLES: Final = "accounts"
#: Most characters of table names in the audit entry of a statement.
_LONGEST_RESOURCE: Final = 400


class Caller:
    """Who makes a request, verified at this moment, and what they may have of an installation.

    Args:
        installation: whose data.
        principal: who asks.
        ip: address that the request came from, which is kept encrypted.
        user_agent: program that it came from, the same.
    """

    def __init__(
        self, installation: Installation, principal: Principal, *, ip: str | None = None, user_agent: str | None = None
    ) -> None:
        self.installation = installation
        self.principal = principal
        #: The same for the operations on accounts.
        self.request = Request(ip=ip, user_agent=user_agent, actor_id=principal.user_id)

    def __repr__(self) -> str:
        return f"Caller({self.principal.id!r})"

    @classmethod
    def verified(
        cls,
        installation: Installation,
        *,
        api_key: Secret | None = None,
        session_token: Secret | None = None,
        ip: str | None = None,
        user_agent: str | None = None,
    ) -> Caller:
        """Return the account of a key or a session token, or without either trusted code of the platform.

        Raises:
            InvalidTokenError, ExpiredTokenError, RevokedTokenError, InactiveAccountError: they are not good (any more).
        """
        found: ApiKey | Session
        if session_token is not None:
            found = installation.accounts.verify_token(session_token.get_secret_value())
        elif api_key is not None:
            found = installation.accounts.verify_api_key(api_key.get_secret_value(), counted=False)
        else:
            return cls(installation, Principal.system(), ip=ip, user_agent=user_agent)
        principal = Principal(found.user_id, found.role, found.tier)
        return cls(installation, principal, ip=ip, user_agent=user_agent)

    def count_request(self) -> None:
        """Count a request against the account's plan; the platform's own and administrators' are not counted.

        Raises:
            QuotaExceededError: the requests of this minute are used up; `retry_after` has the seconds.
        """
        if self.principal.user_id is not None and not self.principal.trusted:
            self._accounts.count_request(self.principal.user_id, request=self.request)

    # -- permission ---------------------------------------------------------------------------------------------------

    def authorise(self, action: Action, target: Target = None, *, resource: str | None = None) -> None:
        """Ask whether the caller may do something; a refused attempt is recorded.

        Args:
            action: what.
            target: the account or table that it is about.
            resource: what the audit log names; no personal data.

        Raises:
            PermissionDeniedError, TierForbiddenError: it may not.
        """
        try:
            authorise(self.principal, action, target)
        except PermissionDeniedError as error:
            self._record_error(action, error, "refused", resource)
            raise

    def table(self, name: str, action: Action = Action.TABLE_READ) -> Table:
        """Return a table that the caller may read, if only its own rows of it.

        Raises:
            UnknownTableError: there is no such table; the message suggests the nearest.
            PermissionDeniedError, TierForbiddenError: it is not the caller's to read.
        """
        table = self._lake.table(name)
        self.authorise(action, TableTarget(name, self.installation.relations), resource=name)
        return table

    @property
    def earliest(self) -> datetime | None:
        """Return how far back the caller may read, None for all."""
        depth = self.principal.visibility.history
        return None if depth is None else self._lake.clock() - depth

    # -- reading ------------------------------------------------------------------------------------------------------

    def read(self, name: str, version: int | None = None, as_of: datetime | None = None) -> pl.LazyFrame:
        """Return the rows and columns of a table that the caller may see, as it was in a version or at a time.

        Rows of the user tables are read and decrypted now: all for administrators and the platform, the own ones for
        everybody else.  Of all other tables nothing is read before `collect`.

        Raises:
            VersionUnavailableError: it cannot be read (any more); the message names the readable range.
            DecryptionError: somebody altered the stored rows.
            UnknownTableError, PermissionDeniedError, TierForbiddenError: as `table`.
        """
        table, caller = self.table(name), self.principal
        contract = table.contract
        if contract.namespace == _USER_TABLES:
            self.publish_accounts()
            rows = table.scan(version, as_of)
            if not caller.trusted:
                rows = rows.filter(pl.col("subject_id") == self._accounts.subject_of(caller.id))
            found = decrypted(self._accounts, contract, rows.sort(contract.sort_by).collect()).lazy()
        else:
            found = table.scan(version, as_of)
            if not caller.trusted:
                found = found.select(caller.visibility.readable_columns(name, self.installation.relations))
                found = found.filter(between(contract, self.earliest, None))
        what = f"{name} at {as_of.isoformat()}" if as_of is not None else f"{name} version {version}"
        self.record_read(Action.TABLE_READ, what, always=contract.namespace == _USER_TABLES)
        return found

    def versions(self, name: str) -> Sequence[VersionInfo]:
        """Return the versions of a table that can be read, oldest first; errors as `table`."""
        table = self.table(name, Action.TABLE_VERSIONS)
        if table.contract.namespace == _USER_TABLES:
            self.publish_accounts()
        self.record_read(Action.TABLE_VERSIONS, name)
        return table.readable_versions()

    def query(
        self,
        sql: str,
        params: Params | None = None,
        *,
        format: Format = "arrow",  # noqa: A002 - the product's own word
        limits: QueryLimits | None = None,
        versions: Mapping[str, int] | None = None,
        as_of: datetime | None = None,
    ) -> QueryResult:
        """Answer one SELECT over what the caller may read, in a process of its own; counted durably against its plan.

        Raises:
            PermissionDeniedError, TierForbiddenError: the caller has no SQL, or its plan has none.
            QuotaExceededError: the plan's statements are used up.
            SqlError: see `SqlGateway.query`.
        """
        from hfthot_platform.services.sql.gateway import SqlGateway

        self.authorise(Action.SQL_QUERY)
        if self.principal.trusted:
            self.publish_accounts()  # what it wrote a moment ago is in the user tables then
        gateway = SqlGateway(
            self._lake,
            self.principal,
            self.installation.gateway_pool,
            limits=self.installation.query_limits,
            relations=self.installation.relations,
            quota=self._count_statement,
        )
        try:
            with gateway:
                result = gateway.query(sql, params, format=format, limits=limits, versions=versions, as_of=as_of)
        except HfthotError as error:
            self._record_error(Action.SQL_QUERY, error, "failure")
            raise
        self.record_read(Action.SQL_QUERY, ", ".join(sorted(result.tables))[:_LONGEST_RESOURCE] or None)
        return result

    def audit_log(
        self,
        user_id: str | None = None,
        *,
        actions: Sequence[str] | None = None,
        start: datetime | None = None,
        end: datetime | None = None,
    ) -> pl.DataFrame:
        """Return what happened to an account, oldest first, decrypted.

        Args:
            user_id: whose; None for all entries, which is for administrators.
            actions: actions such as `session.login`, or all of a kind such as `session`; None for all.
            start: first time, inclusive.
            end: last time, exclusive.

        Raises:
            PermissionDeniedError: it is another one's.
            UnknownUserError, ErasedSubjectError: there is no such account, or none any more.
        """
        self.authorise(Action.AUDIT_READ, None if user_id is None else AccountTarget(user_id))
        conditions = [pl.lit(value=True)]
        if user_id is not None:
            conditions.append(pl.col("subject_id") == self._accounts.subject_of(user_id))
        if actions is not None:
            action = pl.col("action")
            conditions.append(
                pl.any_horizontal((action == wanted) | action.str.starts_with(f"{wanted}.") for wanted in actions)
            )
        self.publish_accounts()
        table = self._lake.table("audit_log")
        rows = table.scan().filter(*conditions, between(table.contract, start, end)).sort("seq").collect()
        self._accounts.record(Action.AUDIT_READ.value, user_id=user_id, request=self.request)
        return decrypted(self._accounts, table.contract, rows)

    def publish_accounts(self) -> None:
        """Publish what was changed to the user tables of the lake, so that callers read their own writes."""
        from hfthot_platform.services.publication.publisher import flush

        self._accounts.flush()
        flush(self._accounts.store, self._lake)

    def record_read(self, action: Action, resource: str | None, *, always: bool = False) -> None:
        """Record what the caller read; of the platform's own code only what concerns persons (`always`)."""
        if always or self.principal.user_id is not None:
            self._accounts.record(action.value, user_id=self.principal.user_id, resource=resource, request=self.request)

    # -- internals ----------------------------------------------------------------------------------------------------

    @property
    def _lake(self) -> Lakehouse:
        return self.installation.lake

    @property
    def _accounts(self) -> Accounts:
        return self.installation.accounts

    def _count_statement(self) -> None:
        if self.principal.user_id is not None and not self.principal.trusted:
            self._accounts.count_use(self.principal.user_id, "sql_queries", request=self.request)

    def _record_error(self, action: Action, error: HfthotError, outcome: Outcome, resource: str | None = None) -> None:
        self._accounts.record(
            action.value,
            outcome=outcome,
            user_id=self.principal.user_id,
            resource=resource,
            detail={"error": type(error).__name__},
            request=self.request,
        )
