"""Who has an account, and whether whoever asks may do something to one.

Here belongs finding accounts and asking the one question of `domain.access`; what is done with an account is in the
themes' modules.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Final, TypedDict, cast

import sqlalchemy as sa

from hfthot_platform.core.errors import ErasedSubjectError, InactiveAccountError, PrivacyError, UnknownUserError
from hfthot_platform.domain.access.authorisation import SYSTEM, AccountTarget, Action, Principal, authorise
from hfthot_platform.domain.access.plans import Role, TierName
from hfthot_platform.services.accounts.records import RANDOM_ID, Request
from hfthot_platform.services.accounts.subject_keys import SubjectKeys, erased_error
from hfthot_platform.storage.operational import schema
from hfthot_platform.storage.operational.connection import Connection, Prepared, Transaction
from hfthot_platform.storage.operational.store import Store

__all__ = ["AccountRow", "Directory"]


class AccountRow(TypedDict):
    """A row of `users`; personal columns are envelopes, times microseconds since 1970 UTC."""

    user_id: str
    subject_id: str
    username_lookup: bytes
    email_lookup: bytes
    username: str
    email: str
    first_name: str | None
    last_name: str | None
    preferences: str | None
    password_hash: str
    role: Role
    tier: TierName
    active: bool
    data_sharing_consent: bool
    created_at: int
    updated_at: int
    deleted_at: int | None
    erase_after: int | None
    username_skeleton: bytes | None


_SYSTEM: Final = Principal.system()
_COLUMNS: Final = tuple(schema.users.c.keys())
_USER: Final = Prepared(sa.select(schema.users).where(schema.users.c.user_id == sa.bindparam("by")))
_USER_BY_SUBJECT: Final = Prepared(sa.select(schema.users).where(schema.users.c.subject_id == sa.bindparam("by")))
_ERASED: Final = Prepared(
    sa.select(sa.literal_column("1")).where(schema.erased_users.c.user_lookup == sa.bindparam("by"))
)


class Directory:
    """The accounts by user id and by subject, and what a caller may do to them."""

    def __init__(self, store: Store, keys: SubjectKeys) -> None:
        self._store = store
        self._keys = keys

    def account(self, connection: Connection, user_id: str) -> AccountRow:
        """Return the row of an account, deleted softly or not.

        Raises:
            UnknownUserError: no account has this id.
            ErasedSubjectError: the account was erased.
        """
        if RANDOM_ID.fullmatch(str(user_id)):
            found = connection.run(_USER, {"by": user_id})
            if found:
                return _named(found[0])
            if connection.run(_ERASED, {"by": self._keys.look_up("user", user_id)}):
                raise erased_error()
        raise UnknownUserError(
            "no account has this user id", where="user_id", hint="Use the id that `register` returned."
        )

    def account_of(self, connection: Connection, subject_id: str) -> AccountRow | None:
        """Return the row of a subject's account; None once it is erased."""
        found = connection.run(_USER_BY_SUBJECT, {"by": subject_id})
        return _named(found[0]) if found else None

    def subject_of(self, user_id: str) -> str:
        """Return the pseudonym of an account in the lake.

        Raises:
            UnknownUserError: no account has this id.
            ErasedSubjectError: the account was erased.
        """
        with self._store.reading() as rx:
            return self.account(rx, user_id)["subject_id"]

    def known_subject(self, connection: Connection, user_id: str | None) -> str | None:
        """Return the pseudonym of an account; None where there is none (any more)."""
        if user_id is None:
            return None
        try:
            return self.account(connection, user_id)["subject_id"]
        except (UnknownUserError, ErasedSubjectError):
            return None

    def living(self, connection: Connection, user_id: str) -> AccountRow:
        """Return the row of an account that is not deleted.

        Raises:
            UnknownUserError, ErasedSubjectError: there is no such account.
            InactiveAccountError: it is deleted, restorable for a while.
        """
        row = self.account(connection, user_id)
        if row["deleted_at"] is not None:
            raise InactiveAccountError(
                "the account is deleted",
                where=f"user {user_id}",
                hint="`restore_user` can restore it for a limited time.",
            )
        return row

    def open_account(self, connection: Connection, user_id: str) -> AccountRow:
        """Return the row of an account that is neither deleted nor closed.

        Raises:
            UnknownUserError, ErasedSubjectError: there is no such account.
            InactiveAccountError: it is deleted, or waits, or was closed.
        """
        row = self.living(connection, user_id)
        if not row["active"]:
            raise InactiveAccountError(
                "the account is not active", where=f"user {user_id}", hint="`approve_user` activates it."
            )
        return row

    def actor(self, connection: Connection, request: Request, action: Action, target: str | None) -> str:
        """Return who the audit log names (a subject, or `system`), once they may do this to an account (its user id).

        Raises:
            PermissionDeniedError: the caller may not.
        """
        about = None if target is None else AccountTarget(target)
        if request.actor_id is None:
            authorise(_SYSTEM, action, about)
            return SYSTEM
        try:
            caller = self.account(connection, request.actor_id)
        except (UnknownUserError, PrivacyError):
            # Whoever was erased, or never was, may do as little as whoever is closed, and hears the same.
            authorise(Principal(request.actor_id or "nobody", "guest", "free", active=False), action, about)
            return SYSTEM
        active = caller["active"] and caller["deleted_at"] is None
        authorise(Principal(caller["user_id"], caller["role"], caller["tier"], active=active), action, about)
        return caller["subject_id"]

    def change(self, tx: Transaction, row: AccountRow, values: Mapping[str, Any]) -> None:
        """Write columns of an account, in the store and in `row`, and when they changed."""
        # Now, or when the account began where a clock that ran ahead says that it is younger.
        changed = {**values, "updated_at": max(tx.now, row["created_at"])}
        row.update(cast("AccountRow", changed))
        tx.execute(sa.update(schema.users).where(schema.users.c.user_id == row["user_id"]).values(changed))


def _named(values: Sequence[Any]) -> AccountRow:
    """Return a row by its columns' names."""
    row = dict(zip(_COLUMNS, values, strict=True))
    # SQLite's driver knows no booleans.
    row["active"], row["data_sharing_consent"] = bool(row["active"]), bool(row["data_sharing_consent"])
    return cast("AccountRow", row)
