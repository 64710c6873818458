"""Registering, approving, reading and changing accounts."""

from __future__ import annotations

import json
import secrets
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

import sqlalchemy as sa

from hfthot_platform.core.errors import (
    BadRequestError,
    DuplicateAccountError,
    ErasedSubjectError,
    PermissionDeniedError,
    UnknownUserError,
    nearest,
)
from hfthot_platform.core.settings import Settings
from hfthot_platform.core.time import DAY, moment
from hfthot_platform.domain.access.authorisation import SYSTEM, Action
from hfthot_platform.domain.access.plans import ROLES, Role, TierName, tier
from hfthot_platform.services.accounts.audit import Audit
from hfthot_platform.services.accounts.directory import AccountRow, Directory
from hfthot_platform.services.accounts.identities import (
    email_form,
    email_look_up,
    name_form,
    new_username,
    preferences_form,
    username_look_up,
    username_skeleton,
)
from hfthot_platform.services.accounts.passwords import Passwords
from hfthot_platform.services.accounts.records import RANDOM_ID, UNCHANGED, Request, Unchanged, User
from hfthot_platform.services.accounts.sessions import Sessions
from hfthot_platform.services.accounts.subject_keys import SubjectKeys
from hfthot_platform.storage.operational import schema
from hfthot_platform.storage.operational.changes import RowChange
from hfthot_platform.storage.operational.connection import Connection, Prepared, Transaction
from hfthot_platform.storage.operational.published import PERSONAL, users_row
from hfthot_platform.storage.operational.store import Store
from hfthot_platform.storage.vault import SubjectCipher

__all__ = ["AccountNames", "People"]

_HERE: Final = Request()
_PAGE: Final = 1000
_ADD_SUBJECT: Final = Prepared.inserting(schema.subjects)
_ADD_USER: Final = Prepared.inserting(schema.users)
_TAKEN: Final = {
    "username": Prepared(
        sa.select(schema.users.c.user_id).where(schema.users.c.username_lookup == sa.bindparam("look_up"))
    ),
    "email": Prepared(sa.select(schema.users.c.user_id).where(schema.users.c.email_lookup == sa.bindparam("look_up"))),
    "skeleton": Prepared(
        sa.select(schema.users.c.user_id).where(schema.users.c.username_skeleton == sa.bindparam("look_up"))
    ),
}
_LOOKED_UP: Final = {"username": "username_lookup", "skeleton": "username_skeleton", "email": "email_lookup"}


@dataclass(frozen=True, repr=False)
class AccountNames:
    """How somebody is called, each in its one normal form; in clear."""

    username: str
    email: str
    first_name: str | None
    last_name: str | None


class People:
    """The operations on accounts."""

    def __init__(
        self,
        settings: Settings,
        store: Store,
        keys: SubjectKeys,
        directory: Directory,
        audit: Audit,
        passwords: Passwords,
        sessions: Sessions,
    ) -> None:
        self._settings = settings
        self._store = store
        self._keys = keys
        self._directory = directory
        self._audit = audit
        self._passwords = passwords
        self._sessions = sessions

    def register(
        self,
        username: str,
        email: str,
        password: str,
        first_name: str | None = None,
        last_name: str | None = None,
        tier: TierName = "free",
        *,
        request: Request = _HERE,
    ) -> User:
        """Make an account.  With the setting `approve_registrations` it waits for `approve_user`.

        Raises:
            BadRequestError: an argument is out of its domain.
            DuplicateAccountError: the username or the address is taken; `field` says which.
        """
        names = AccountNames(
            new_username(username),
            email_form(email),
            name_form(first_name, "first_name"),
            name_form(last_name, "last_name"),
        )
        level = _tier(tier)
        look_ups = self.name_look_ups(username) | {"email": self._keys.look_up("email", email_look_up(email))}
        try:
            with self._store.reading() as rx:
                # Before the expensive hash; the transaction asks again, when it is certain.
                self._directory.actor(rx, request, Action.USER_REGISTER, None)
                self.require_free(rx, look_ups)
        except (DuplicateAccountError, PermissionDeniedError) as error:
            self._audit.refused(Action.USER_REGISTER, error, request, None)
            raise
        hashed = self._passwords.hash(password)
        with self._audit.operation(Action.USER_REGISTER, request) as tx:
            self._directory.actor(tx, request, Action.USER_REGISTER, None)
            self.require_free(tx, look_ups)
            row, cipher = self.add_account(tx, names, look_ups, hashed, level)
            tx.log([users_row(row)], self._audit.event(tx, Action.USER_REGISTER, row["subject_id"], SYSTEM, request))
        return _user(row, cipher)

    def add_account(
        self,
        tx: Transaction,
        names: AccountNames,
        look_ups: Mapping[str, bytes],
        hashed: str,
        level: TierName,
        at: int | None = None,
    ) -> tuple[AccountRow, SubjectCipher]:
        """Add an account, registered now or `at` an earlier time, with its pseudonym and its key; nothing is logged."""
        waits = self._settings.approve_registrations
        user_id, subject_id = secrets.token_hex(16), secrets.token_hex(16)
        tx.run(_ADD_SUBJECT, {"subject_id": subject_id, "created_at": tx.now, "erased_at": None})
        cipher = self._keys.cipher(tx, subject_id, "identity")
        row: AccountRow = {
            "user_id": user_id,
            "subject_id": subject_id,
            "username_lookup": look_ups["username"],
            "username_skeleton": look_ups["skeleton"],
            "email_lookup": look_ups["email"],
            "username": cipher.encrypt("users", "username", names.username),
            "email": cipher.encrypt("users", "email", names.email),
            "first_name": names.first_name and cipher.encrypt("users", "first_name", names.first_name),
            "last_name": names.last_name and cipher.encrypt("users", "last_name", names.last_name),
            "preferences": None,
            "password_hash": hashed,
            "role": "pending" if waits else "registered",
            "tier": level,
            "active": not waits,
            "data_sharing_consent": False,
            "created_at": tx.now if at is None else at,
            "updated_at": tx.now,
            "deleted_at": None,
            "erase_after": None,
        }
        tx.run(_ADD_USER, row)
        return row, cipher

    def name_look_ups(self, username: str) -> dict[str, bytes]:
        """Return what a username is found by, and what names that look like it are found by."""
        self.fill_skeletons()
        return {
            "username": self._keys.look_up("username", username_look_up(username)),
            "skeleton": self.skeleton_look_up(username),
        }

    def skeleton_look_up(self, username: str) -> bytes:
        """Return what names that look like a username are found by."""
        return self._keys.look_up("looks like", username_skeleton(username))

    def fill_skeletons(self) -> None:
        """Work out for accounts of an older version what their names look like."""
        users = schema.users
        missing = sa.select(users.c.user_id, users.c.subject_id, users.c.username).where(
            users.c.username_skeleton.is_(None)
        )
        while True:
            with self._store.reading() as rx:
                rows = rx.execute(missing.limit(_PAGE)).all()
            if not rows:
                return
            ciphers = self._keys.ciphers((row.subject_id for row in rows), "identity")
            with self._store.transaction() as tx:
                for row in rows:
                    cipher = ciphers.get(row.subject_id)
                    # Of one that was erased meanwhile there is no row any more.
                    name = row.user_id if cipher is None else cipher.decrypt("users", "username", row.username)
                    value = self.skeleton_look_up(name)
                    tx.execute(sa.update(users).where(users.c.user_id == row.user_id).values(username_skeleton=value))

    def require_free(self, connection: Connection, look_ups: Mapping[str, bytes], own: str | None = None) -> None:
        for field, look_up in look_ups.items():
            found = connection.run(_TAKEN[field], {"look_up": look_up})
            if found and found[0][0] != own:
                taken = "username" if field == "skeleton" else field
                like = ", or looks like one that is taken" if taken == "username" else ""
                raise DuplicateAccountError(
                    f"this {taken} is taken{like}",
                    field=taken,
                    where="users",
                    hint=f"Choose another {taken}, or sign in.",
                )

    def get_user(self, user_id: str, *, request: Request = _HERE) -> User:
        """Return an account, also a softly deleted one.

        Raises:
            UnknownUserError, ErasedSubjectError, PermissionDeniedError: it cannot be had.
        """
        with self._audit.operation(Action.USER_READ, request, user_id) as tx:
            actor = self._directory.actor(tx, request, Action.USER_READ, user_id)
            row = self._directory.account(tx, user_id)
            tx.log([], self._audit.event(tx, Action.USER_READ, row["subject_id"], actor, request))
            return _user(row, self._keys.cipher(tx, row["subject_id"], "identity"))

    def find_user(self, *, username: str | None = None, email: str | None = None, request: Request = _HERE) -> User:
        """Return the account with a username or an e-mail address; for administrators and trusted code.

        Raises:
            UnknownUserError: there is none.
            PermissionDeniedError: the caller is not an administrator.
        """
        if (username is None) == (email is None):
            raise BadRequestError("exactly one of username and email is required", where="find_user", hint="Give one.")
        if username is not None:
            field, look_up = "username", self._keys.look_up("username", username_look_up(username))
        else:
            field, look_up = "email", self._keys.look_up("email", email_look_up(email or ""))
        with self._audit.operation(Action.USER_READ, request) as tx:
            actor = self._directory.actor(tx, request, Action.USER_READ, None)
            found = tx.run(_TAKEN[field], {"look_up": look_up})
            if not found:
                raise UnknownUserError(
                    f"no account has this {'username' if field == 'username' else 'e-mail address'}",
                    where=field,
                    hint="Check the spelling. Erased accounts cannot be found.",
                )
            row = self._directory.account(tx, found[0][0])
            tx.log([], self._audit.event(tx, Action.USER_READ, row["subject_id"], actor, request))
            return _user(row, self._keys.cipher(tx, row["subject_id"], "identity"))

    def list_users(
        self,
        *,
        role: Role | None = None,
        tier: TierName | None = None,
        active: bool | None = None,
        deleted: bool | None = False,
        limit: int = 100,
        after: str | None = None,
        request: Request = _HERE,
    ) -> list[User]:
        """Return accounts, decrypted, ordered by user id; for administrators and trusted code.

        Args:
            role: only accounts with this role.
            tier: only accounts of this tier.
            active: only those that may, or may not, sign in.
            deleted: False leaves the softly deleted out, True returns them alone, None both.
            limit: at most this many, up to 1000.
            after: the last user id of the page before.
            request: who asks.

        Raises:
            PermissionDeniedError: the caller is not an administrator.
        """
        if not 1 <= limit <= _PAGE:
            raise BadRequestError(f"limit {limit} is not between 1 and {_PAGE}", where="list_users", hint="Use pages.")
        if after is not None and not RANDOM_ID.fullmatch(str(after)):
            raise BadRequestError(
                "`after` is not a user id", where="list_users", hint="Pass the last user_id of the previous page."
            )
        users = schema.users.c
        where = [users.user_id > (after or "")]
        if role is not None:
            where.append(users.role == _role(role))
        if tier is not None:
            where.append(users.tier == _tier(tier))
        if active is not None:
            where.append(users.active.is_(active))
        if deleted is not None:
            where.append(users.deleted_at.is_not(None) if deleted else users.deleted_at.is_(None))
        with self._audit.operation(Action.USER_LIST, request) as tx:
            actor = self._directory.actor(tx, request, Action.USER_LIST, None)
            statement = sa.select(schema.users).where(*where).order_by(users.user_id).limit(limit)
            rows = [dict(row) for row in tx.execute(statement).mappings()]
            tx.log([], self._audit.event(tx, Action.USER_LIST, None, actor, request, detail={"accounts": len(rows)}))
        ciphers = self._keys.ciphers((row["subject_id"] for row in rows), "identity")
        # An account that was erased between the two reads is not there any more.
        return [_user(row, ciphers[row["subject_id"]]) for row in rows if row["subject_id"] in ciphers]

    def update_user(
        self,
        user_id: str,
        *,
        username: str | Unchanged = UNCHANGED,
        email: str | Unchanged = UNCHANGED,
        first_name: str | Unchanged | None = UNCHANGED,
        last_name: str | Unchanged | None = UNCHANGED,
        preferences: Mapping[str, Any] | Unchanged | None = UNCHANGED,
        request: Request = _HERE,
    ) -> User:
        """Change what is given; None removes a name or all preferences.

        Raises:
            BadRequestError, DuplicateAccountError: as in `register`.
            UnknownUserError, ErasedSubjectError, InactiveAccountError, PermissionDeniedError: it cannot be changed.
        """
        texts: dict[str, str | None] = {}
        look_ups: dict[str, bytes] = {}
        if not isinstance(username, Unchanged):
            texts["username"] = new_username(username)
            look_ups |= self.name_look_ups(username)
        if not isinstance(email, Unchanged):
            texts["email"] = email_form(email)
            look_ups["email"] = self._keys.look_up("email", email_look_up(email))
        if not isinstance(first_name, Unchanged):
            texts["first_name"] = name_form(first_name, "first_name")
        if not isinstance(last_name, Unchanged):
            texts["last_name"] = name_form(last_name, "last_name")
        if not isinstance(preferences, Unchanged):
            texts["preferences"] = preferences_form(preferences)
        with self._audit.operation(Action.USER_UPDATE, request, user_id) as tx:
            actor = self._directory.actor(tx, request, Action.USER_UPDATE, user_id)
            row = self._directory.living(tx, user_id)
            self.require_free(tx, look_ups, own=user_id)
            cipher = self._keys.cipher(tx, row["subject_id"], "identity")
            changed: dict[str, Any] = {
                **{name: None if text is None else cipher.encrypt("users", name, text) for name, text in texts.items()},
                **{_LOOKED_UP[field]: look_up for field, look_up in look_ups.items()},
            }
            self.change(tx, row, Action.USER_UPDATE, actor, request, changed, detail={"fields": sorted(texts)})
            return _user(row, cipher)

    def approve_user(self, user_id: str, *, request: Request = _HERE) -> User:
        """Let an account sign in: one that waits, was rejected, or was deactivated; for administrators.

        Raises:
            UnknownUserError, ErasedSubjectError, InactiveAccountError, PermissionDeniedError: it cannot be approved.
        """
        with self._audit.operation(Action.USER_APPROVE, request, user_id) as tx:
            actor = self._directory.actor(tx, request, Action.USER_APPROVE, user_id)
            row = self._directory.living(tx, user_id)
            role = "registered" if row["role"] in {"pending", "guest"} else row["role"]
            self.change(tx, row, Action.USER_APPROVE, actor, request, {"active": True, "role": role})
            return _user(row, self._keys.cipher(tx, row["subject_id"], "identity"))

    def reject_user(self, user_id: str, *, request: Request = _HERE) -> User:
        """Turn a waiting registration down: the account stays a guest that cannot sign in; for administrators.

        Delete it afterwards if the person is not to be kept: a rejected person has the same right to be forgotten.

        Raises:
            BadRequestError: the account does not wait for approval.
            UnknownUserError, ErasedSubjectError, InactiveAccountError, PermissionDeniedError: it cannot be rejected.
        """
        with self._audit.operation(Action.USER_REJECT, request, user_id) as tx:
            actor = self._directory.actor(tx, request, Action.USER_REJECT, user_id)
            row = self._directory.living(tx, user_id)
            if row["role"] != "pending":
                raise BadRequestError(
                    f"the account's role is {row['role']!r}, not 'pending'",
                    where=f"user {user_id}",
                    hint="`deactivate` closes an approved account.",
                )
            self.change(tx, row, Action.USER_REJECT, actor, request, {"active": False, "role": "guest"})
            return _user(row, self._keys.cipher(tx, row["subject_id"], "identity"))

    def deactivate(self, user_id: str, *, request: Request = _HERE) -> User:
        """Close an account until `approve_user`: its sessions end, its keys are refused; for administrators.

        Raises:
            UnknownUserError, ErasedSubjectError, InactiveAccountError, PermissionDeniedError: it cannot be closed.
        """
        with self._audit.operation(Action.USER_DEACTIVATE, request, user_id) as tx:
            actor = self._directory.actor(tx, request, Action.USER_DEACTIVATE, user_id)
            row = self._directory.living(tx, user_id)
            ended = self._sessions.end_all(tx, row["subject_id"], "deactivated")
            self.change(tx, row, Action.USER_DEACTIVATE, actor, request, {"active": False}, ended)
            return _user(row, self._keys.cipher(tx, row["subject_id"], "identity"))

    def set_role(self, user_id: str, role: Role, *, request: Request = _HERE) -> User:
        """Give an account another role; for administrators, and for trusted code to make the first one.

        Raises:
            BadRequestError: there is no such role.
            UnknownUserError, ErasedSubjectError, InactiveAccountError, PermissionDeniedError: it cannot be changed.
        """
        wanted = _role(role)
        with self._audit.operation(Action.USER_SET_ROLE, request, user_id) as tx:
            actor = self._directory.actor(tx, request, Action.USER_SET_ROLE, user_id)
            row = self._directory.living(tx, user_id)
            detail = {"from": row["role"], "to": wanted}
            self.change(tx, row, Action.USER_SET_ROLE, actor, request, {"role": wanted}, detail=detail)
            return _user(row, self._keys.cipher(tx, row["subject_id"], "identity"))

    def upgrade_tier(self, user_id: str, tier: TierName, *, request: Request = _HERE) -> User:
        """Move an account to another tier, up or down; for administrators and trusted code.

        Its API keys stay valid and grant the new tier from this moment on, since verifying a key returns the account's
        tier; only their prefix still shows the tier that they were made for.

        Raises:
            BadRequestError: there is no such tier.
            UnknownUserError, ErasedSubjectError, InactiveAccountError, PermissionDeniedError: it cannot be changed.
        """
        wanted = _tier(tier)
        with self._audit.operation(Action.USER_UPGRADE_TIER, request, user_id) as tx:
            actor = self._directory.actor(tx, request, Action.USER_UPGRADE_TIER, user_id)
            row = self._directory.living(tx, user_id)
            detail = {"from": row["tier"], "to": wanted}
            self.change(tx, row, Action.USER_UPGRADE_TIER, actor, request, {"tier": wanted}, detail=detail)
            return _user(row, self._keys.cipher(tx, row["subject_id"], "identity"))

    def delete_user_soft(self, user_id: str, *, request: Request = _HERE) -> User:
        """Delete an account so that it can be restored for `soft_delete_days`; then it is erased by itself.

        Sessions end; sign-in and API keys are refused meanwhile.  Doing it again changes nothing.

        Raises:
            UnknownUserError, ErasedSubjectError, PermissionDeniedError: it cannot be deleted.
        """
        with self._audit.operation(Action.USER_DELETE, request, user_id) as tx:
            actor = self._directory.actor(tx, request, Action.USER_DELETE, user_id)
            row = self._directory.account(tx, user_id)
            cipher = self._keys.cipher(tx, row["subject_id"], "identity")
            if row["deleted_at"] is None:
                ended = self._sessions.end_all(tx, row["subject_id"], "deleted")
                until = tx.clock + self._settings.soft_delete_days * DAY
                self.change(
                    tx, row, Action.USER_DELETE, actor, request, {"deleted_at": tx.now, "erase_after": until}, ended
                )
            return _user(row, cipher)

    def restore_user(self, user_id: str, *, request: Request = _HERE) -> User:
        """Take a soft deletion back; for administrators and trusted code, since the person cannot sign in.

        API keys work again, sessions stay ended.  An account that is not deleted is returned as it is.

        Raises:
            ErasedSubjectError: the time for it is over.
            UnknownUserError, PermissionDeniedError: it cannot be restored.
        """
        with self._audit.operation(Action.USER_RESTORE, request, user_id) as tx:
            actor = self._directory.actor(tx, request, Action.USER_RESTORE, user_id)
            row = self._directory.account(tx, user_id)
            if row["deleted_at"] is not None:
                if row["erase_after"] is not None and tx.clock >= row["erase_after"]:
                    raise ErasedSubjectError(
                        f"it could be restored until {moment(row['erase_after']).isoformat()}",
                        where=f"user {user_id}",
                        hint="It is being erased; the person can register again afterwards.",
                    )
                self.change(tx, row, Action.USER_RESTORE, actor, request, {"deleted_at": None, "erase_after": None})
            return _user(row, self._keys.cipher(tx, row["subject_id"], "identity"))

    def change(
        self,
        tx: Transaction,
        row: AccountRow,
        action: Action,
        actor: str,
        request: Request,
        changed: Mapping[str, Any],
        others: list[RowChange] | None = None,
        detail: Mapping[str, Any] | None = None,
    ) -> None:
        """Write columns of an account, here and in `row`, and the entry that says so."""
        self._directory.change(tx, row, changed)
        event = self._audit.event(tx, action, row["subject_id"], actor, request, detail=detail)
        tx.log([users_row(row), *(others or [])], event)


def _user(row: Mapping[str, Any], cipher: SubjectCipher) -> User:
    texts = {name: row[name] and cipher.decrypt("users", name, row[name]) for name in PERSONAL}
    return User(
        user_id=row["user_id"],
        username=texts["username"],
        email=texts["email"],
        first_name=texts["first_name"],
        last_name=texts["last_name"],
        preferences=json.loads(texts["preferences"]) if texts["preferences"] else {},
        role=row["role"],
        tier=row["tier"],
        active=bool(row["active"]),
        data_sharing_consent=bool(row["data_sharing_consent"]),
        created_at=moment(row["created_at"]),
        updated_at=moment(row["updated_at"]),
        deleted_at=None if row["deleted_at"] is None else moment(row["deleted_at"]),
        erase_after=None if row["erase_after"] is None else moment(row["erase_after"]),
    )


def _tier(name: str) -> TierName:
    return tier(name).name


def _role(name: str) -> Role:
    for known in ROLES:
        if known == name:
            return known
    raise BadRequestError(
        f"unknown role {str(name)[:40]!r}",
        where="role",
        hint=nearest(str(name), ROLES) or f"Roles: {', '.join(ROLES)}.",
    )
