"""Signing in and out, verifying session tokens, changing passwords.

A token has 256 random bits and is kept only as its SHA-256.

How often a sign-in may fail is counted under keyed hashes, whether or not there is such an account:

- per name and address: after `login_failures` that address waits for that name, longer each time, up to a day;
- per address, whatever names it tries: the same;
- per name, whatever the address: after four times as many, addresses that the account never signed in from take turns,
  one attempt every few seconds.

So whoever guesses from one address is shut out, whoever guesses from many is slowed to a crawl, and neither keeps the
owner out, who has another address or one that the account knows.  The counts are forgotten a day after they matter.
"""

from __future__ import annotations

import re
import secrets
from collections.abc import Mapping
from hashlib import sha256
from typing import Any, Final, NamedTuple

import sqlalchemy as sa

from hfthot_platform.core.errors import (
    AuthenticationError,
    BadRequestError,
    ExpiredTokenError,
    InactiveAccountError,
    InvalidCredentialsError,
    InvalidTokenError,
    RevokedTokenError,
    TooManyAttemptsError,
)
from hfthot_platform.core.settings import Settings
from hfthot_platform.core.time import DAY, HOUR, MINUTE, SECOND, moment
from hfthot_platform.domain.access.authorisation import SYSTEM, Action
from hfthot_platform.services.accounts.audit import Audit
from hfthot_platform.services.accounts.directory import Directory
from hfthot_platform.services.accounts.identities import (
    address_group,
    email_look_up,
    network_text,
    password_form,
    username_look_up,
)
from hfthot_platform.services.accounts.journal import Tally
from hfthot_platform.services.accounts.passwords import Passwords
from hfthot_platform.services.accounts.records import Request, Secret, Session
from hfthot_platform.services.accounts.subject_keys import SubjectKeys
from hfthot_platform.services.accounts.tallies import Tallies
from hfthot_platform.storage.operational import schema
from hfthot_platform.storage.operational.changes import RowChange
from hfthot_platform.storage.operational.connection import Connection, Prepared, Transaction
from hfthot_platform.storage.operational.published import sessions_row, users_row
from hfthot_platform.storage.operational.store import Store

__all__ = ["Sessions", "account_attempts"]

_HERE: Final = Request()
_TOKEN: Final = re.compile(r"[A-Za-z0-9_-]{43}")
#: Each failure after a wait doubles the next one, up to a day.
_LONGEST_WAIT: Final = DAY
_DOUBLINGS: Final = 20
#: Times as many failures, from whatever addresses, after which unknown addresses take turns, and the longest turn.
_SPRAYED: Final = 4
_LONGEST_TURN: Final = 30 * SECOND
#: Addresses that an account is remembered to have signed in from.
_MOST_ADDRESSES: Final = 20
_ADD_SESSION: Final = Prepared.inserting(schema.sessions)
_VERIFY: Final = Prepared(
    sa.select(
        schema.sessions.c.session_id,
        schema.sessions.c.subject_id,
        schema.sessions.c.created_at,
        schema.sessions.c.expires_at,
        schema.sessions.c.ended_at,
        schema.users.c.user_id,
        schema.users.c.role,
        schema.users.c.tier,
        schema.users.c.active,
        schema.users.c.deleted_at,
    )
    .join(schema.users, schema.users.c.subject_id == schema.sessions.c.subject_id)
    .where(schema.sessions.c.token_hash == sa.bindparam("token"))
)
_ATTEMPTS: Final = Prepared(
    sa.select(
        schema.login_attempts.c.failures, schema.login_attempts.c.window_start, schema.login_attempts.c.blocked_until
    ).where(schema.login_attempts.c.lookup == sa.bindparam("by"))
)


_IS_KNOWN: Final = Prepared(
    sa.select(sa.literal_column("1")).where(
        schema.known_addresses.c.subject_id == sa.bindparam("whose"),
        schema.known_addresses.c.address == sa.bindparam("address"),
    )
)


def account_attempts(look_up: bytes) -> bytes:
    """Return what failed sign-ins are counted under for a username's or address's look-up hash.

    It follows from the hash alone, so that erasing an account finds its counters.
    """
    return sha256(b"sign-in\0" + look_up).digest()


class _AttemptKey(NamedTuple):
    """What an attempt is counted under."""

    #: The name, by keyed hash.
    account: bytes
    #: Where it came from, by keyed hash.
    address: bytes
    #: Both together.
    pair: bytes
    #: Whether an address was told, so that it can be held against it.
    told: bool


class Sessions:
    """The operations on sessions."""

    def __init__(
        self,
        settings: Settings,
        store: Store,
        keys: SubjectKeys,
        directory: Directory,
        audit: Audit,
        passwords: Passwords,
        tallies: Tallies,
    ) -> None:
        self._settings = settings
        self._store = store
        self._keys = keys
        self._directory = directory
        self._audit = audit
        self._passwords = passwords
        self._tallies = tallies

    def login(self, username: str, password: str, *, request: Request = _HERE) -> Session:
        """Sign in with a username or an e-mail address; the session's `token` is returned this once.

        Takes the same time whether or not there is such an account, and says nothing about an account's state to
        somebody who does not know its password.

        Raises:
            InvalidCredentialsError: the username or the password is wrong.
            TooManyAttemptsError: too many failed attempts for this name from this address, or from this address.
            InactiveAccountError: the password is right, but the account waits, was rejected, closed or deleted.
        """
        field, look_up = self._named_look_up(username)
        counted = self._counted_under(look_up, request)
        column = schema.users.c.username_lookup if field == "username" else schema.users.c.email_lookup
        statement = sa.select(schema.users).where(column == look_up)
        with self._store.reading() as rx:
            found = rx.execute(statement).mappings().first()
            blocked = self._blocked(rx, counted, found, self._audit.now())
        if blocked:
            self._tallies.count(Tally(Action.SESSION_LOGIN, "refused", None, SYSTEM, None))
            raise self._too_many(blocked)
        verdict = self._passwords.verify(found["password_hash"] if found else None, password)
        token, opened = "", None
        failure: AuthenticationError | None = None
        with self._store.transaction() as tx:
            # Others may have tried meanwhile: the bound holds for what was answered, not for what was begun.
            blocked = self._blocked(tx, counted, found, tx.clock)
            row = None if found is None else self._directory.account_of(tx, found["subject_id"])
            unchanged = row is not None and found is not None and row["password_hash"] == found["password_hash"]
            if blocked:
                failure = self._too_many(blocked)
            elif row is None or not verdict.right or not unchanged:
                failure = self._failed(tx, Action.SESSION_LOGIN, row, counted, request)
            elif not row["active"] or row["deleted_at"] is not None:
                failure = self._closed(tx, row, request)
            else:
                self._cleared(tx, row["subject_id"], counted)
                changes = []
                if verdict.rehashed:
                    values = {"password_hash": verdict.rehashed}
                    tx.execute(sa.update(schema.users).where(schema.users.c.user_id == row["user_id"]).values(values))
                token, opened = self._open(tx, row["subject_id"], request)
                changes.append(sessions_row(opened))
                event = self._audit.event(
                    tx,
                    Action.SESSION_LOGIN,
                    row["subject_id"],
                    row["subject_id"],
                    request,
                    resource=opened["session_id"],
                )
                tx.log(changes, event)
        if failure is not None or opened is None or row is None:
            raise failure or InvalidCredentialsError("the sign-in failed", where="login", hint="Sign in again.")
        return Session(
            session_id=opened["session_id"],
            user_id=row["user_id"],
            role=row["role"],
            tier=row["tier"],
            created_at=moment(opened["created_at"]),
            expires_at=moment(opened["expires_at"]),
            token=Secret(token),
        )

    def _named_look_up(self, username: str) -> tuple[str, bytes]:
        """Return which column to look in and for what; a name that cannot exist is looked for in vain."""
        text = str(username)
        field = "email" if "@" in text else "username"
        try:
            folded = email_look_up(text) if field == "email" else username_look_up(text)
        except BadRequestError:
            return field, self._keys.look_up("no account", text[:1000])
        return field, self._keys.look_up(field, folded)

    def _open(self, tx: Transaction, subject_id: str, request: Request) -> tuple[str, dict[str, Any]]:
        token = secrets.token_urlsafe(32)
        texts = {"ip": network_text(request.ip), "user_agent": network_text(request.user_agent)}
        sealed: dict[str, str | None] = dict.fromkeys(texts)
        if any(texts.values()):
            cipher = self._keys.cipher(tx, subject_id, "sessions")
            sealed = {name: text and cipher.encrypt("sessions", name, text) for name, text in texts.items()}
        row: dict[str, Any] = {
            "token_hash": sha256(token.encode()).digest(),
            "session_id": secrets.token_hex(16),
            "subject_id": subject_id,
            "created_at": tx.now,
            "expires_at": tx.clock + round(self._settings.session_hours * HOUR),
            "ended_at": None,
            "end_reason": None,
            **sealed,
        }
        tx.run(_ADD_SESSION, row)
        return token, row

    # -- failures -------------------------------------------------------------------------------------------

    def _counted_under(self, look_up: bytes, request: Request) -> _AttemptKey:
        if request.ip:
            where = self._keys.look_up("address", address_group(request.ip))
        else:
            # A caller with a key and no address is told by its key.
            where = self._keys.look_up("no address", request.actor_id or "")
        account = account_attempts(look_up)
        return _AttemptKey(account, where, sha256(account + where).digest(), bool(request.ip or request.actor_id))

    def _blocked(
        self, connection: Connection, counted: _AttemptKey, account: Mapping[str, Any] | sa.RowMapping | None, now: int
    ) -> int | None:
        """Return until when such an attempt is refused, in microseconds, or None."""
        until = [self._until(connection, by, now) for by in (counted.pair, *([counted.address] * counted.told))]
        found = max((time for time in until if time is not None), default=None)
        slowed = self._until(connection, counted.account, now)
        if self._is_known(connection, counted, account) or slowed is None:
            return found
        return max(slowed, found or 0)

    def _is_known(
        self, connection: Connection, counted: _AttemptKey, account: Mapping[str, Any] | sa.RowMapping | None
    ) -> bool:
        """Whether an account signed in from such an address before."""
        whose = account["subject_id"] if account else ""
        return bool(connection.run(_IS_KNOWN, {"whose": whose, "address": counted.address}))

    def _until(self, connection: Connection, by: bytes, now: int) -> int | None:
        found = connection.run(_ATTEMPTS, {"by": by})
        until = found[0][2] if found else None
        # No wait is longer than a day: what lies further ahead was written by a clock that was wrong.
        return int(until) if until is not None and now < until <= now + _LONGEST_WAIT + DAY else None

    def _too_many(self, until: int) -> TooManyAttemptsError:
        seconds = max(1.0, (until - self._audit.now()) / 1e6)
        return TooManyAttemptsError(
            "too many failed sign-ins",
            retry_after=seconds,
            where="login",
            hint=f"Try again in {seconds:.0f} seconds.",
        )

    def _failed(
        self, tx: Transaction, action: str, row: Mapping[str, Any] | None, counted: _AttemptKey, request: Request
    ) -> AuthenticationError:
        """Count and audit a wrong name or password, and return what to raise.

        Of somebody who has no account nothing is kept but the keyed hashes.
        """
        self._sweep(tx)
        blocking = self._count_failure(tx, counted.pair, counted.account, self._settings.login_failures)
        if counted.told:
            blocking |= self._count_failure(tx, counted.address, None, self._settings.login_failures)
        if not self._is_known(tx, counted, row):
            most = _SPRAYED * self._settings.login_failures
            self._count_failure(tx, counted.account, counted.account, most, slows=True)
        subject_id = None if row is None else row["subject_id"]
        detail = {"account": row is not None, "blocked": blocking}
        tx.log([], self._audit.event(tx, action, subject_id, SYSTEM, request, outcome="failure", detail=detail))
        return InvalidCredentialsError(
            "the username or the password is wrong", where="login", hint="Check both, or reset the password."
        )

    def _sweep(self, tx: Transaction) -> None:
        """Forget counts that do not matter any more: an attacker must not fill the store with them."""
        table = schema.login_attempts
        window = round(self._settings.login_window_minutes * MINUTE)
        over = sa.or_(table.c.blocked_until.is_(None), table.c.blocked_until < tx.clock - DAY)
        tx.execute(sa.delete(table).where(table.c.window_start < tx.clock - max(DAY, window), over))

    def _count_failure(
        self, tx: Transaction, by: bytes, account: bytes | None, most: int, *, slows: bool = False
    ) -> bool:
        """Count a failure; return whether further attempts are refused now.

        The first wait lasts until the window ends (or a second, where it only slows); each failure after a wait makes
        the next one twice as long.
        """
        window = round(self._settings.login_window_minutes * MINUTE)
        now, table = tx.clock, schema.login_attempts
        found = tx.run(_ATTEMPTS, {"by": by})
        failures, start, until = found[0] if found else (0, now, None)
        over = now >= start + window if failures < most else now >= (until or 0) + (window if slows else DAY)
        if over or start > now + DAY:
            failures, start = 0, now
        failures = min(failures + 1, most + _DOUBLINGS)
        until = None
        if failures >= most and slows:
            until = now + min(1_000_000 << (failures - most), _LONGEST_TURN)
        elif failures >= most:
            until = start + window if failures == most else now + min(window << (failures - most), _LONGEST_WAIT)
        values = {"failures": failures, "window_start": start, "blocked_until": until, "account": account}
        if found:
            tx.execute(sa.update(table).where(table.c.lookup == by).values(values))
        else:
            tx.execute(sa.insert(table).values(lookup=by, **values))
        return until is not None

    def _cleared(self, tx: Transaction, subject_id: str, counted: _AttemptKey) -> None:
        """Forget the failures of whoever gave the right password, and remember the address."""
        attempts, known = schema.login_attempts, schema.known_addresses
        tx.execute(sa.delete(attempts).where(attempts.c.lookup == counted.pair))
        mine = known.c.subject_id == subject_id
        tx.execute(sa.delete(known).where(mine, known.c.address == counted.address))
        tx.execute(sa.insert(known).values(subject_id=subject_id, address=counted.address, seen_at=tx.clock))
        newest = sa.select(known.c.address).where(mine).order_by(known.c.seen_at.desc()).limit(_MOST_ADDRESSES)
        tx.execute(sa.delete(known).where(mine, known.c.address.not_in(newest)))

    def _closed(self, tx: Transaction, row: Mapping[str, Any], request: Request) -> InactiveAccountError:
        state = "deleted" if row["deleted_at"] is not None else _INACTIVE.get(row["role"], "deactivated")
        detail = {"account": True, "state": state}
        event = self._audit.event(
            tx, Action.SESSION_LOGIN, row["subject_id"], SYSTEM, request, outcome="refused", detail=detail
        )
        tx.log([], event)
        return _inactive(state)

    # -- tokens ---------------------------------------------------------------------------------------------

    def verify_token(self, token: str | Secret, *, request: Request = _HERE) -> Session:
        """Return the session of a token: one indexed read.

        Raises:
            InvalidTokenError: it was never issued, or was altered.
            RevokedTokenError: the session was ended.
            ExpiredTokenError: its time is over.
            InactiveAccountError: the account is closed or deleted.
        """
        # Whoever presents it need not be the person: no address is kept.
        del request
        now = self._audit.now()
        row = self._session(_clear(token))
        if row is None:
            self._audit.rejected(Action.SESSION_VERIFY, None, None)
            raise InvalidTokenError("it is not a session token", where="session token", hint="Sign in.")
        session_id, subject_id, created_at, expires_at, ended_at, user_id, role, tier, active, deleted_at = row
        error: AuthenticationError
        if ended_at is not None:
            error = RevokedTokenError("the session was ended", where="session token", hint="Sign in again.")
        elif not now < expires_at < now + round(self._settings.session_hours * HOUR) + DAY:
            # Over; or opened by a clock that ran far ahead, and would live until that time comes.
            error = ExpiredTokenError(
                f"the session expired at {moment(expires_at).isoformat()}", where="session token", hint="Sign in again."
            )
        elif not active or deleted_at is not None:
            error = _inactive("deleted" if deleted_at is not None else _INACTIVE.get(role, "deactivated"))
        else:
            self._tallies.count(Tally(Action.SESSION_VERIFY, "success", subject_id, subject_id, session_id))
            return Session(session_id, user_id, role, tier, moment(created_at), moment(expires_at))
        self._audit.rejected(Action.SESSION_VERIFY, subject_id, session_id)
        raise error

    def _session(self, token: str) -> tuple[Any, ...] | None:
        if not _TOKEN.fullmatch(token):
            return None
        with self._store.reading() as rx:
            found = rx.run(_VERIFY, {"token": sha256(token.encode()).digest()})
        return found[0] if found else None

    def logout(self, token: str | Secret, *, request: Request = _HERE) -> None:
        """End the session of a token, and no other.

        Raises:
            InvalidTokenError, ExpiredTokenError, RevokedTokenError: there is no such session, or it is over.
        """
        clear = _clear(token)
        found = self._session(clear)
        if found is None:
            self._audit.rejected(Action.SESSION_LOGOUT, None, None)
            raise InvalidTokenError("it is not a session token", where="session token", hint="Nothing to end.")
        subject_id, hashed = found[1], sha256(clear.encode()).digest()
        with self._store.transaction() as tx:
            ended = self._end(tx, schema.sessions.c.token_hash == hashed, "logout")
            if ended:
                event = self._audit.event(
                    tx, Action.SESSION_LOGOUT, subject_id, subject_id, request, resource=ended[0].row["session_id"]
                )
                tx.log(ended, event)
        if not ended and found[4] is None and self._audit.now() >= found[3]:
            raise ExpiredTokenError("the session has expired", where="session token", hint="Nothing to end.")
        if not ended:
            raise RevokedTokenError("the session was already ended", where="session token", hint="Nothing to end.")

    def end_all(self, tx: Transaction, subject_id: str, reason: str) -> list[RowChange]:
        """End the open sessions of a subject, and return what that changes in the lake."""
        return self._end(tx, schema.sessions.c.subject_id == subject_id, reason)

    def _end(self, tx: Transaction, which: sa.ColumnElement[bool], reason: str) -> list[RowChange]:
        """End open sessions; those that are over by their time are left as they are."""
        open_ = sa.and_(which, schema.sessions.c.ended_at.is_(None), schema.sessions.c.expires_at > tx.clock)
        statement = sa.update(schema.sessions).where(open_).values(ended_at=tx.now, end_reason=reason)
        rows = tx.execute(statement.returning(schema.sessions)).mappings().all()
        return [sessions_row(row) for row in rows]

    # -- passwords ------------------------------------------------------------------------------------------

    def change_password(
        self,
        user_id: str,
        old_password: str,
        new_password: str,
        *,
        token: str | Secret | None = None,
        request: Request = _HERE,
    ) -> None:
        """Change a password and end every session but the one of `token`.

        Only the owner may, so whoever else asks learns nothing of the password.  Wrong old passwords count as failed
        sign-ins.

        Raises:
            BadRequestError: the new password is too short, too long, or the old one.
            InvalidCredentialsError, TooManyAttemptsError: the old password is wrong, or was wrong too often.
            UnknownUserError, ErasedSubjectError, InactiveAccountError, PermissionDeniedError: it cannot be changed.
        """
        with self._audit.operation(Action.USER_CHANGE_PASSWORD, request, user_id) as tx:
            # Before any work, and in the same words and time whatever the password and whoever the account.
            actor = self._directory.actor(tx, request, Action.USER_CHANGE_PASSWORD, user_id)
            before = self._directory.living(tx, user_id)
            counted = self._counted_under(before["username_lookup"], request)
            blocked = self._blocked(tx, counted, before, tx.clock)
        if blocked:
            self._tallies.count(Tally(Action.USER_CHANGE_PASSWORD, "refused", None, SYSTEM, None))
            raise self._too_many(blocked)
        if _same(old_password, new_password):
            # Whether or not it is the old one, so that asking does not tell.
            raise BadRequestError(
                "the new password is the same as the old one", where="password", hint="Choose a different password."
            )
        hashed = self._passwords.hash(new_password)
        verdict = self._passwords.verify(before["password_hash"], old_password)
        kept = None if token is None else sha256(_clear(token).encode()).digest()
        failure: AuthenticationError | None = None
        with self._audit.operation(Action.USER_CHANGE_PASSWORD, request, user_id) as tx:
            actor = self._directory.actor(tx, request, Action.USER_CHANGE_PASSWORD, user_id)
            row = self._directory.living(tx, user_id)
            blocked = self._blocked(tx, counted, row, tx.clock)
            if blocked:
                failure = self._too_many(blocked)
            elif not verdict.right or row["password_hash"] != before["password_hash"]:
                failure = self._failed(tx, Action.USER_CHANGE_PASSWORD, row, counted, request)
            else:
                self._directory.change(tx, row, {"password_hash": hashed})
                others = schema.sessions.c.subject_id == row["subject_id"]
                if kept is not None:
                    others = sa.and_(others, schema.sessions.c.token_hash != kept)
                ended = self._end(tx, others, "password_changed")
                attempts = schema.login_attempts
                tx.execute(sa.delete(attempts).where(attempts.c.lookup == counted.pair))
                event = self._audit.event(tx, Action.USER_CHANGE_PASSWORD, row["subject_id"], actor, request)
                tx.log([users_row(row), *ended], event)
        if failure is not None:
            raise failure


def _same(old: str, new: str) -> bool:
    try:
        return password_form(old) == password_form(new)
    except BadRequestError:
        return False


_INACTIVE: Final[dict[str, str]] = {"pending": "waiting for approval", "guest": "rejected"}


def _inactive(state: str) -> InactiveAccountError:
    return InactiveAccountError(f"the account is {state}", where="account", hint="Ask an administrator.")


def _clear(token: str | Secret) -> str:
    return token.get_secret_value() if isinstance(token, Secret) else str(token)
