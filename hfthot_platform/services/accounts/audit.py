"""The audit of the accounts' operations: one event for each, of what was done and of what was refused.

Every operation has the same shape: prepare outside (hashing, parsing), then one transaction that reads, decides,
writes and logs, through `Audit.operation`, which also audits what is refused.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping
from typing import Any

from hfthot_platform.core.errors import AccountError, ErasedSubjectError
from hfthot_platform.core.time import microseconds
from hfthot_platform.domain.access.authorisation import SYSTEM
from hfthot_platform.domain.contracts.accounts import CATEGORY
from hfthot_platform.services.accounts.directory import Directory
from hfthot_platform.services.accounts.identities import network_text
from hfthot_platform.services.accounts.journal import Journal, Tally
from hfthot_platform.services.accounts.records import Request
from hfthot_platform.services.accounts.subject_keys import SubjectKeys
from hfthot_platform.storage.operational.changes import AuditEvent, Outcome, to_json
from hfthot_platform.storage.operational.connection import Transaction
from hfthot_platform.storage.operational.store import Store

__all__ = ["Audit"]


class Audit:
    """Makes audit events, and transactions that are audited also where they are refused."""

    def __init__(self, store: Store, keys: SubjectKeys, directory: Directory, journal: Journal) -> None:
        self._store = store
        self._keys = keys
        self._directory = directory
        self._journal = journal

    def now(self) -> int:
        """Return the present time in microseconds."""
        return microseconds(self._store.clock())

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
            cipher = self._keys.cipher(tx, subject_id, CATEGORY["audit_log"])
            sealed = {name: cipher.encrypt("audit_log", name, text) for name, text in texts.items() if text}
        return AuditEvent(
            action=str(action),
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
            with self._store.transaction() as tx:
                yield tx
        except (AccountError, ErasedSubjectError) as error:
            self.refused(action, error, request, user_id, resource)
            raise

    def refused(
        self,
        action: str,
        error: AccountError | ErasedSubjectError,
        request: Request,
        user_id: str | None,
        resource: str | None = None,
    ) -> None:
        """Audit a refused attempt; where a caller repeats it without end, further ones are counted together."""
        with self._store.reading() as rx:
            subject_id = self._directory.known_subject(rx, user_id)
            actor_id = self._directory.known_subject(rx, request.actor_id) or SYSTEM
        tally = Tally(str(action), "refused", subject_id, actor_id, resource)
        if not self._journal.admits(tally, self.now()):
            return
        with self._store.transaction() as tx:
            # The account may have been erased since.
            whom = subject_id if subject_id and self._directory.account_of(tx, subject_id) else None
            detail = {"error": type(error).__name__}
            kept = Request() if whom is None else request
            tx.log(
                [], self.event(tx, action, whom, actor_id, kept, outcome="refused", resource=resource, detail=detail)
            )

    def rejected(self, action: str, subject_id: str | None, resource: str | None) -> None:
        """Audit a token or key that was not accepted; beyond a few per minute they are counted together.

        Whoever presents a bad token need not be the person: no address is kept.
        """
        if not self._journal.admits(Tally(str(action), "failure", subject_id, SYSTEM, resource), self.now()):
            return
        with self._store.transaction() as tx:
            whom = subject_id if subject_id and self._directory.account_of(tx, subject_id) else None
            tx.log([], self.event(tx, action, whom, SYSTEM, Request(), outcome="failure", resource=resource))

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
        with self._store.transaction() as tx:
            subject_id = None if user_id is None else self._directory.account(tx, user_id)["subject_id"]
            event = self.event(
                tx,
                action,
                subject_id,
                self._directory.known_subject(tx, request.actor_id) or SYSTEM,
                request,
                outcome=outcome,
                resource=resource,
                detail=detail,
                personal=personal,
            )
            return tx.log([], event)
