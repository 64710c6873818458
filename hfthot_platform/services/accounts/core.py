"""What all operations of the accounts share: finding the account, permission, ciphers, audit events.

Every operation has the same shape: prepare outside (hashing, parsing), then one transaction that reads, decides,
writes and logs, through `_operation`, which also audits what is refused.
"""

from __future__ import annotations

import contextlib
import hmac
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from datetime import timedelta
from typing import Any, Final, Self

import sqlalchemy as sa

from hfthot_platform.core.errors import (
    AccountError,
    ErasedSubjectError,
    InactiveAccountError,
    PermissionDeniedError,
    PrivacyError,
    UnknownUserError,
)
from hfthot_platform.core.settings import Settings
from hfthot_platform.core.time import microseconds, moment
from hfthot_platform.domain.contracts.accounts import CATEGORY, Category
from hfthot_platform.services.accounts.identities import network_text
from hfthot_platform.services.accounts.journal import Journal, Tally
from hfthot_platform.services.accounts.passwords import Passwords
from hfthot_platform.services.accounts.records import Request
from hfthot_platform.storage.operational import schema
from hfthot_platform.storage.operational.changes import AuditEvent, Outcome, RowChange, to_json
from hfthot_platform.storage.operational.store import Prepared, Store, Transaction, _Connected
from hfthot_platform.storage.vault import SubjectCipher, Vault, Wrapped

__all__ = ["RANDOM_ID", "SYSTEM", "AccountRow", "Core", "inserting"]

SYSTEM: Final = "system"
RANDOM_ID: Final = re.compile(r"[0-9a-f]{32}")
_COLUMNS: Final = tuple(schema.users.c.keys())
_CHUNK: Final = 500

#: A row of `users` by column.
AccountRow = dict[str, Any]


def inserting(table: sa.Table) -> Prepared:
    """Return the statement that inserts a whole row."""
    return Prepared(sa.insert(table).values({name: sa.bindparam(name) for name in table.c.keys()}))  # noqa: SIM118


_USER: Final = Prepared(sa.select(schema.users).where(schema.users.c.user_id == sa.bindparam("by")))
_USER_BY_SUBJECT: Final = Prepared(sa.select(schema.users).where(schema.users.c.subject_id == sa.bindparam("by")))
_ERASED: Final = Prepared(
    sa.select(sa.literal_column("1")).where(schema.erased_users.c.user_lookup == sa.bindparam("by"))
)
_SUBJECT_KEY: Final = Prepared(
    sa.select(schema.subject_keys.c.kek_id, schema.subject_keys.c.wrapped).where(
        schema.subject_keys.c.subject_id == sa.bindparam("subject"),
        schema.subject_keys.c.category == sa.bindparam("kind"),
    )
)
_SUBJECT: Final = Prepared(
    sa.select(schema.subjects.c.erased_at).where(schema.subjects.c.subject_id == sa.bindparam("by"))
)
_ADD_SUBJECT_KEY: Final = inserting(schema.subject_keys)
_INSTALLATION_KEY: Final = Prepared(
    sa.select(schema.keys.c.kek_id, schema.keys.c.wrapped).where(schema.keys.c.name == sa.bindparam("by"))
)
_ADD_INSTALLATION_KEY: Final = inserting(schema.keys)


class Core:
    """The store, the vault, the settings, and what every operation does with them."""

    def __init__(self, settings: Settings, store: Store, vault: Vault) -> None:
        self.settings = settings
        self.store = store
        self.vault = vault
        self.clock = store.clock
        self._passwords = Passwords(settings)
        self._journal = Journal()
        self._lookup_key = self.installation_key("lookup")
        # With the store, so that every backup has it: what is signed later must fit a store that was put back.
        self.installation_key("signing")

    # -- keys ---------------------------------------------------------------------------------------------

    def installation_key(self, name: str) -> bytes:
        """Return one of the installation's own keys of 32 bytes (`lookup`, `signing`), made on first use."""
        with self.store.reading() as rx:
            found = rx.run(_INSTALLATION_KEY, {"by": name})
        if not found:
            with self.store.transaction() as tx:
                found = tx.run(_INSTALLATION_KEY, {"by": name})
                if not found:
                    made = self.vault.new_key(self.current_kek(tx))
                    row = {"name": name, "kek_id": made.kek_id, "wrapped": made.blob, "created_at": tx.now}
                    tx.run(_ADD_INSTALLATION_KEY, row)
                    return self.vault.unwrap(made)
        return self.vault.unwrap(Wrapped(found[0][0], bytes(found[0][1])))

    def current_kek(self, connected: _Connected) -> str:
        """Return what new keys are wrapped with: whatever wraps the look-up key.

        The store says it, not this process's key ring: once a rotation has moved the look-up key, no process can
        wrap with the old key-encryption key any more.
        """
        found = connected.run(_INSTALLATION_KEY, {"by": "lookup"})
        return str(found[0][0]) if found else self.vault.ring.current_id

    def look_up(self, kind: str, text: str) -> bytes:
        """Return the keyed hash that a username, an address or the like is found by."""
        # A lone surrogate cannot be encoded; it stands for nothing that anybody registered.
        return hmac.digest(self._lookup_key, f"{kind}\0{text}".encode(errors="replace"), "sha256")

    def cipher(self, tx: Transaction, subject_id: str, category: Category) -> SubjectCipher:
        """Return a subject's cipher, making its data key in this transaction if it has none yet.

        Raises:
            ErasedSubjectError: the subject was erased.
        """
        found = tx.run(_SUBJECT_KEY, {"subject": subject_id, "kind": category})
        if found:
            return self.vault.cipher(subject_id, Wrapped(found[0][0], bytes(found[0][1])))
        subject = tx.run(_SUBJECT, {"by": subject_id})
        if not subject or subject[0][0] is not None:
            raise _erased()
        made = self.vault.new_key(self.current_kek(tx))
        row = {"subject_id": subject_id, "category": category, "kek_id": made.kek_id, "wrapped": made.blob}
        tx.run(_ADD_SUBJECT_KEY, row)
        return self.vault.cipher(subject_id, made)

    def ciphers(self, subject_ids: Iterable[str], category: Category) -> dict[str, SubjectCipher]:
        """Return the ciphers of subjects for one category; those without a key (erased, or never used) are left out.

        The wrapped keys are read at each call, so that what was erased a moment ago cannot be read.
        """
        wanted = sorted({each for each in subject_ids if RANDOM_ID.fullmatch(each)})
        keys = schema.subject_keys.c
        found: dict[str, SubjectCipher] = {}
        with self.store.reading() as rx:
            for start in range(0, len(wanted), _CHUNK):
                statement = sa.select(keys.subject_id, keys.kek_id, keys.wrapped).where(
                    keys.category == category, keys.subject_id.in_(wanted[start : start + _CHUNK])
                )
                for subject_id, kek_id, wrapped in rx.execute(statement).all():
                    found[subject_id] = self.vault.cipher(subject_id, Wrapped(kek_id, wrapped))
        return found

    # -- accounts -----------------------------------------------------------------------------------------

    def subject_of(self, user_id: str) -> str:
        """Return the pseudonym of an account in the lake.

        Raises:
            UnknownUserError: no account has this id.
            ErasedSubjectError: the account was erased.
        """
        with self.store.reading() as rx:
            return str(self.account(rx, user_id)["subject_id"])

    def account(self, connected: _Connected, user_id: str) -> AccountRow:
        """Return the row of an account, deleted softly or not."""
        if RANDOM_ID.fullmatch(str(user_id)):
            found = connected.run(_USER, {"by": user_id})
            if found:
                return _named(found[0])
            if connected.run(_ERASED, {"by": self.look_up("user", user_id)}):
                raise _erased()
        raise UnknownUserError("no account has this user id", where="user_id", hint="Ids are those of `register`.")

    def account_of(self, connected: _Connected, subject_id: str) -> AccountRow | None:
        found = connected.run(_USER_BY_SUBJECT, {"by": subject_id})
        return _named(found[0]) if found else None

    def _living(self, connected: _Connected, user_id: str) -> AccountRow:
        """Return the row of an account that is not deleted.

        Raises:
            InactiveAccountError: it is deleted, restorable for a while.
        """
        row = self.account(connected, user_id)
        if row["deleted_at"] is not None:
            raise InactiveAccountError(
                "the account is deleted", where=f"user {user_id}", hint="`restore_user` brings it back for a while."
            )
        return row

    def actor(self, connected: _Connected, request: Request, target: str | None, *, admin: bool = False) -> str:
        """Return who the audit log names, once they may act on the account `target` (a user id).

        A caller acts on itself unless the operation is for administrators alone, and an administrator on everybody.

        Raises:
            PermissionDeniedError: the caller may not.
        """
        if request.actor_id is None:
            return SYSTEM
        try:
            caller = self.account(connected, request.actor_id)
        except (UnknownUserError, PrivacyError):
            caller = None
        if caller is not None and caller["active"] and caller["deleted_at"] is None:
            own = target is not None and caller["user_id"] == target and not admin
            if own or caller["role"] == "admin":
                return str(caller["subject_id"])
        raise PermissionDeniedError(
            "the caller may not do this",
            where="request.actor_id",
            hint="An account acts on itself; the rest needs the role admin.",
        )

    # -- audit --------------------------------------------------------------------------------------------

    def event(
        self,
        tx: Transaction,
        action: str,
        subject_id: str | None,
        actor_id: str,
        request: Request,
        *,
        outcome: Outcome = "success",
        resource: str | None = None,
        detail: Mapping[str, Any] | None = None,
        personal: Mapping[str, Any] | None = None,
    ) -> AuditEvent:
        """Return an audit event, its personal parts encrypted under the subject's audit key."""
        own = subject_id is not None and actor_id in {SYSTEM, subject_id}
        ip = network_text(request.ip) if own else None
        user_agent = network_text(request.user_agent) if own else None
        sealed: dict[str, str] = {}
        if subject_id is not None and (ip or user_agent or personal):
            texts = {"ip": ip, "user_agent": user_agent, "personal_detail": to_json(personal) if personal else None}
            cipher = self.cipher(tx, subject_id, CATEGORY["audit_log"])
            sealed = {name: cipher.encrypt("audit_log", name, text) for name, text in texts.items() if text}
        return AuditEvent(
            action=action,
            outcome=outcome,
            subject_id=subject_id,
            actor_id=actor_id,
            resource=resource,
            detail=to_json(detail) if detail else None,
            **sealed,
        )

    @contextlib.contextmanager
    def operation(
        self, action: str, request: Request, user_id: str | None = None, resource: str | None = None
    ) -> Iterator[Transaction]:
        """Run one operation in one transaction; what is refused is audited, and nothing of it done."""
        try:
            with self.store.transaction() as tx:
                yield tx
        except (AccountError, ErasedSubjectError) as error:
            self._refused(action, error, request, user_id, resource)
            raise

    def _refused(
        self,
        action: str,
        error: AccountError | ErasedSubjectError,
        request: Request,
        user_id: str | None,
        resource: str | None = None,
    ) -> None:
        """Audit a refused attempt; where a caller repeats it without end, further ones are counted together."""
        with self.store.reading() as rx:
            subject_id = self._known(rx, user_id)
            actor_id = SYSTEM if request.actor_id is None else self._known(rx, request.actor_id) or SYSTEM
        tally = Tally(action, "refused", subject_id, actor_id, resource)
        if not self._journal.admits(tally, self.now()):
            return
        with self.store.transaction() as tx:
            # The account may have been erased since.
            whom = subject_id if subject_id and self.account_of(tx, subject_id) else None
            detail = {"error": type(error).__name__}
            kept = Request() if whom is None else request
            tx.log(
                [], self.event(tx, action, whom, actor_id, kept, outcome="refused", resource=resource, detail=detail)
            )

    def _known(self, connected: _Connected, user_id: str | None) -> str | None:
        if user_id is None:
            return None
        try:
            return str(self.account(connected, user_id)["subject_id"])
        except (UnknownUserError, ErasedSubjectError):
            return None

    def record(
        self,
        action: str,
        *,
        outcome: Outcome = "success",
        user_id: str | None = None,
        resource: str | None = None,
        detail: Mapping[str, Any] | None = None,
        personal: Mapping[str, Any] | None = None,
        request: Request = Request(),  # noqa: B008 - frozen
    ) -> int:
        """Audit what changes no account: a read, an export, a refused attempt.  Returns the entry's `seq`.

        Args:
            action: dotted lower-case words, such as `table.read`.
            outcome: `success`, `failure` or `refused`.
            user_id: the account that it concerns, if any.
            resource: a random id, a table, a provider; no personal data.
            detail: further facts without personal data.
            personal: further facts about the person, which are encrypted.
            request: who asked, from where.

        Raises:
            UnknownUserError: no account has this id.
            ErasedSubjectError: the account was erased.
        """
        with self.store.transaction() as tx:
            subject_id = None if user_id is None else str(self.account(tx, user_id)["subject_id"])
            actor_id = SYSTEM if request.actor_id is None else self._known(tx, request.actor_id) or SYSTEM
            event = self.event(
                tx,
                action,
                subject_id,
                actor_id,
                request,
                outcome=outcome,
                resource=resource,
                detail=detail,
                personal=personal,
            )
            return tx.log([], event)

    # -- time and life ------------------------------------------------------------------------------------

    def now(self) -> int:
        """Return the present time in microseconds."""
        return microseconds(self.clock())

    def _after(self, now: int, **spans: float) -> int:
        return now + round(timedelta(**spans) / timedelta(microseconds=1))

    def flush(self) -> None:
        """Write the counts that are kept in memory (verifications, repeated refusals) to the audit log."""
        self._write_tallies(self._journal.take())

    def _write_tallies(self, tallies: Sequence[tuple[Tally, int, int, int]]) -> None:
        for start in range(0, len(tallies), _CHUNK):
            with self.store.transaction() as tx:
                for tally, count, first, last in tallies[start : start + _CHUNK]:
                    whom = tally.subject_id
                    if whom is not None and self.account_of(tx, whom) is None:
                        continue  # erased meanwhile: nothing more is written about them
                    detail = {"count": count, "first": _iso(first), "last": _iso(last)}
                    event = self.event(
                        tx,
                        tally.action,
                        whom,
                        tally.actor_id,
                        Request(),
                        outcome=tally.outcome,
                        resource=tally.resource,
                        detail=detail,
                    )
                    tx.log(self._counted(tx, tally, count, last), event)

    def _counted(self, tx: Transaction, tally: Tally, count: int, last: int) -> list[RowChange]:
        """Return what a tally changes besides the audit log."""
        del tx, tally, count, last
        return []

    def close(self) -> None:
        """Write what is counted in memory, and close the store."""
        try:
            self.flush()
        finally:
            self.store.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self.store!r})"


def _named(values: Sequence[Any]) -> AccountRow:
    row = dict(zip(_COLUMNS, values, strict=True))
    # SQLite's driver knows no booleans.
    row["active"], row["data_sharing_consent"] = bool(row["active"]), bool(row["data_sharing_consent"])
    return row


def _erased() -> ErasedSubjectError:
    return ErasedSubjectError("the account was erased", where="user_id", hint="Nothing of it is left to act on.")


def _iso(ts: int) -> str:
    return moment(ts).isoformat()
