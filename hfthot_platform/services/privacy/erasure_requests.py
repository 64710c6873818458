"""Requests of erasures: asking, where each stands, and what it keeps until its proof.

What to search for is known only before the destruction.  It is kept until the proof, encrypted under a key of the
request alone, which is destroyed with it.  Carrying a request out is the business of `erasure`.
"""

from __future__ import annotations

import json
import secrets
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Any, Final

import sqlalchemy as sa

from hfthot_platform.core.errors import PrivacyError
from hfthot_platform.core.time import moment
from hfthot_platform.domain.access.authorisation import Action
from hfthot_platform.services.accounts.accounts import CATEGORIES, Accounts
from hfthot_platform.services.accounts.records import Request
from hfthot_platform.services.privacy.holds import held_categories
from hfthot_platform.services.privacy.search_values import SearchValues
from hfthot_platform.storage.incidents import Incident
from hfthot_platform.storage.operational import schema
from hfthot_platform.storage.operational.changes import to_json
from hfthot_platform.storage.operational.connection import Connection, Transaction
from hfthot_platform.storage.vault import SubjectCipher, WrappedKey

__all__ = [
    "ErasureRequest",
    "ErasureState",
    "incident_of",
    "list_erasures",
    "load_request",
    "pending_erasures",
    "request_erasure",
]

#: States in which there is something to do; a held one waits for the release of its hold.
_OPEN: Final = ("requested", "destroyed", "purged", "verified", "signed", "held", "failed")
#: Hits that a request names; of more it says how many there are.
_MOST_NAMED: Final = 200
#: How long before its end an unproven erasure is reported once more.
_ENDING: Final = timedelta(days=7)


@dataclass
class ErasureRequest:
    """A request as the store has it, and what it keeps until its proof."""

    request_id: str
    subject_id: str
    keep_history: bool
    state: str
    requested_at: int
    sealed: str | None
    certificate: str | None
    #: What was done so far: times, counts, categories, ids of deleted exports.
    report: dict[str, Any] = field(default_factory=dict)
    #: What was where before the destruction; while this process runs the request.
    before: SearchValues | None = None

    @classmethod
    def of(cls, row: Mapping[Any, Any]) -> ErasureRequest:
        """Return the request of a row."""
        sealed = row["sealed"]
        return cls(
            request_id=row["request_id"],
            subject_id=row["subject_id"],
            keep_history=bool(row["keep_history"]),
            state=row["state"],
            requested_at=row["requested_at"],
            sealed=None if sealed is None else bytes(sealed).decode("ascii"),
            certificate=row["certificate"],
            report=json.loads(row["report"] or "{}"),
        )

    @property
    def destroyed(self) -> set[str]:
        """Return the categories that are gone."""
        return set(self.report.get("categories", ()))

    def deadline(self, accounts: Accounts) -> datetime | None:
        """Return when what the request looks for is destroyed; None where nothing is kept."""
        # Requests of earlier versions know when they were destroyed.
        sealed_at = self.report.get("sealed_at") or self.report.get("destroyed_at")
        if self.sealed is None or sealed_at is None:
            return None
        return moment(sealed_at) + timedelta(days=accounts.settings.erasure_proof_days)

    def count(self, counts: Mapping[str, int]) -> None:
        """Add to the numbers of what was removed, per step and table."""
        known = self.report.setdefault("counts", {})
        for name, count in counts.items():
            known[name] = known.get(name, 0) + count

    def note_hits(self, found: SearchValues) -> None:
        """Name what a proof found and nobody accepted: the first of them, and how many there are."""
        open_hits = found.open_hits
        self.report["open_hits"] = len(open_hits)
        self.report["hits"] = [hit.shown() for hit in open_hits[:_MOST_NAMED]]

    def save(self, tx: Transaction, state: str, **values: Any) -> None:
        """Write the state, the report and further columns."""
        self.state = state
        requests = schema.erasure_requests
        tx.execute(
            sa.update(requests)
            .where(requests.c.request_id == self.request_id)
            .values(state=state, report=to_json(self.report), **values)
        )

    # -- what is sought, sealed under a key of the request alone ------------------------------------------------

    def seal(self, accounts: Accounts, tx: Transaction, found: SearchValues) -> bytes:
        """Return the values, encrypted; earlier ones of the request are among them."""
        cipher = self._cipher(accounts, tx) or self._new_cipher(accounts, tx)
        if self.sealed is not None:
            found = SearchValues.of(cipher.decrypt("erasure_requests", "sealed", self.sealed)).followed_by(found)
        self.sealed = cipher.encrypt("erasure_requests", "sealed", found.to_json())
        return self.sealed.encode("ascii")

    def reseal(self, accounts: Accounts, tx: Transaction, found: SearchValues) -> bytes | None:
        """Return the values with what was found of them, encrypted; None if their time ended meanwhile."""
        cipher = self._cipher(accounts, tx)
        if cipher is None:
            return None
        self.sealed = cipher.encrypt("erasure_requests", "sealed", found.to_json())
        return self.sealed.encode("ascii")

    def unsealed(self, accounts: Accounts) -> SearchValues:
        """Return the values.

        Raises:
            PrivacyError: nothing is sealed, or its key was destroyed.
        """
        with accounts.store.reading() as rx:
            cipher = self._cipher(accounts, rx)
        if self.sealed is None or cipher is None:
            raise PrivacyError(
                "the request does not have the values to search for",
                where=f"erasure {self.request_id}",
                hint="The store was restored to a time during the request; restore a backup from before the request.",
            )
        return SearchValues.of(cipher.decrypt("erasure_requests", "sealed", self.sealed))

    def forget_sealed(self, tx: Transaction) -> None:
        """Destroy what was searched for: its key goes, and then its ciphertext."""
        tx.execute(sa.delete(schema.keys).where(schema.keys.c.name == self._key_name))
        self.sealed = None

    @property
    def _key_name(self) -> str:
        return f"erasure:{self.request_id}"

    def _cipher(self, accounts: Accounts, connection: Connection) -> SubjectCipher | None:
        """Return the cipher of the request; None if its key was destroyed, or never made."""
        keys = schema.keys
        row = connection.execute(sa.select(keys.c.kek_id, keys.c.wrapped).where(keys.c.name == self._key_name)).first()
        return None if row is None else accounts.vault.cipher(self.request_id, WrappedKey(row[0], bytes(row[1])))

    def _new_cipher(self, accounts: Accounts, tx: Transaction) -> SubjectCipher:
        wrapped = accounts.vault.new_key(accounts.current_kek(tx))
        row = {"name": self._key_name, "kek_id": wrapped.kek_id, "wrapped": wrapped.blob, "created_at": tx.now}
        tx.execute(sa.insert(schema.keys).values(row))
        return accounts.vault.cipher(self.request_id, wrapped)


def request_erasure(
    accounts: Accounts,
    user_id: str,
    *,
    keep_history: bool = True,
    request: Request = Request(),  # noqa: B008 - frozen
) -> str:
    """Ask for an erasure and return the request's random id, which is all that `run_erasure` needs.

    The account is deleted softly with it: from now on it can neither sign in nor change.  A person has one open
    request; asking again returns it, and a wish for no history is added to it.

    Raises:
        UnknownUserError, ErasedSubjectError: there is no such account any more.
        PermissionDeniedError: the caller is neither the person nor an administrator; without history, no administrator.
    """
    with accounts.operation(Action.PRIVACY_ERASURE_REQUEST, request, user_id) as tx:
        # What everybody has of the past is an administrator's to remove.
        needed = Action.PRIVACY_ERASURE_REQUEST if keep_history else Action.PRIVACY_ERASE_HISTORY
        actor = accounts.actor(tx, request, needed, user_id)
        subject_id = accounts.account(tx, user_id)["subject_id"]
        requests = schema.erasure_requests
        known = _open_request(tx, subject_id)
        if known is not None:
            if known.keep_history and not keep_history:
                tx.execute(
                    sa.update(requests).where(requests.c.request_id == known.request_id).values(keep_history=False)
                )
            return known.request_id
        request_id = secrets.token_hex(16)
        tx.execute(
            sa.insert(requests).values(
                request_id=request_id,
                subject_id=subject_id,
                keep_history=keep_history,
                state="requested",
                requested_at=tx.now,
            )
        )
        event = accounts.event(
            tx,
            Action.PRIVACY_ERASURE_REQUEST,
            subject_id,
            actor,
            request,
            resource=request_id,
            detail={"keep_history": keep_history},
        )
        tx.log([], event)
    # After the request, so that the person, who can do nothing any more from here on, may have made it.
    accounts.delete_user_soft(user_id)
    return request_id


def pending_erasures(accounts: Accounts) -> list[str]:
    """Return the ids of requests that can be run now, the oldest first: new, interrupted, or no longer held.

    Failed ones are not among them: somebody has to look first.
    """
    requests = schema.erasure_requests
    with accounts.store.reading() as rx:
        chosen = sa.select(requests).where(requests.c.state.in_(_OPEN)).order_by(requests.c.requested_at)
        found = [ErasureRequest.of(row) for row in rx.execute(chosen).mappings()]
        return [
            erasure.request_id
            for erasure in found
            if erasure.state != "failed"
            and not (
                erasure.state == "held"
                and set(CATEGORIES) - erasure.destroyed <= held_categories(rx, erasure.subject_id)
            )
        ]


@dataclass(frozen=True)
class ErasureState:
    """Where a request stands."""

    request_id: str
    #: `requested`, `destroyed`, `purged`, `verified`, `signed`, `done`, `held`, `failed` or `unproven`.
    state: str
    requested_at: datetime
    keep_history: bool
    #: What the last proof found, where it failed; no values.
    problem: str | None
    #: When what is sought is destroyed, and a failed request can be proven no more; None where nothing is kept.
    deadline: datetime | None = None
    #: Hits of the last proof that nobody accepted.
    hits: int = 0


def list_erasures(accounts: Accounts) -> list[ErasureState]:
    """Return every request, the newest first."""
    requests = schema.erasure_requests
    with accounts.store.reading() as rx:
        rows = rx.execute(sa.select(requests).order_by(requests.c.requested_at.desc())).mappings()
        found = [ErasureRequest.of(row) for row in rows]
    return [
        ErasureState(
            erasure.request_id,
            erasure.state,
            moment(erasure.requested_at),
            erasure.keep_history,
            erasure.report.get("failure", {}).get("what"),
            erasure.deadline(accounts),
            int(erasure.report.get("open_hits", 0)) if erasure.state in {"failed", "unproven"} else 0,
        )
        for erasure in found
    ]


def incident_of(erasure: ErasureState, now: datetime) -> Incident | None:
    """Return the incident that an erasure without a proof is, and another one when its time is nearly over."""
    if erasure.state not in {"failed", "unproven"}:
        return None
    stage = erasure.state
    ends = ""
    if erasure.deadline is not None:
        ends = f"; it can be proven until {erasure.deadline:%Y-%m-%d %H:%M} UTC"
        if erasure.deadline - now <= _ENDING:
            stage = "ending"
    return Incident(
        incident_id=f"erasure-{erasure.request_id}-{stage}",
        ts=now,
        severity="error",
        kind="check_failure",
        job="rgpd_erasure",
        error_class="ErasureUnverifiedError",
        message=f"erasure {erasure.request_id} is {erasure.state}{ends}: {erasure.problem or 'no proof'}",
    )


def _open_request(connection: Connection, subject_id: str) -> ErasureRequest | None:
    """Return the request of a subject that is not done, if there is one."""
    requests = schema.erasure_requests
    chosen = sa.select(requests).where(requests.c.subject_id == subject_id, requests.c.state.in_(_OPEN))
    row = connection.execute(chosen).mappings().first()
    return None if row is None else ErasureRequest.of(row)


def load_request(accounts: Accounts, request_id: str) -> ErasureRequest:
    """Return a request.

    Raises:
        PrivacyError: no request has this id.
    """
    with accounts.store.reading() as rx:
        chosen = sa.select(schema.erasure_requests).where(schema.erasure_requests.c.request_id == request_id)
        row = rx.execute(chosen).mappings().first()
    if row is None:
        raise PrivacyError(
            "no erasure has this id", where="request_id", hint="`hfthot privacy erase --list` lists them."
        )
    return ErasureRequest.of(row)
