"""What a proof found, for the officer: shown by place and form, and accepted with a reason where it is a coincidence.

A name may stand in another person's file.  What is accepted, and why, is in the certificate.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import datetime
from typing import Final

from hfthot_platform.core.errors import BadRequestError, PrivacyError
from hfthot_platform.core.time import moment
from hfthot_platform.domain.access.authorisation import Action
from hfthot_platform.services.accounts.accounts import Accounts
from hfthot_platform.services.accounts.records import Request
from hfthot_platform.services.privacy.erasure_requests import load_request
from hfthot_platform.services.privacy.proof.search import Searcher
from hfthot_platform.services.privacy.search_values import WEAK, AcceptedTrace

__all__ = ["ErasureHit", "accept_erasure_hit", "erasure_hits"]

_LONGEST_REASON: Final = 500


@dataclass(frozen=True)
class ErasureHit:
    """Something that a proof found: by place and form, and, for the officer's eyes, as it is there."""

    hit: str
    place: str
    file: str
    #: What kind of value it is, or `unreadable`.
    kind: str
    encoding: str
    inside: str
    offset: int
    count: int
    #: How often it was there before the destruction; None if that is not known.
    before: int | None
    modified: datetime | None
    #: Why it was accepted; None if it was not.
    accepted: str | None = field(repr=False)
    #: The file's true name and what is around the value; None unless they were asked for.
    path: str | None = field(default=None, repr=False)
    context: str | None = field(default=None, repr=False)


def erasure_hits(
    accounts: Accounts,
    request_id: str,
    *,
    reveal: bool = False,
    request: Request = Request(),  # noqa: B008 - frozen
) -> list[ErasureHit]:
    """Return what the last proof of a request found and what of it was accepted; for administrators.

    Args:
        accounts: the accounts.
        request_id: the request.
        reveal: also the files' true names and what is around the values, which may be personal data; it is audited.
        request: who asks.

    Raises:
        PrivacyError: there is no such request.
        PermissionDeniedError: the caller is not an administrator.
    """
    erasure = load_request(accounts, request_id)
    with accounts.operation(Action.PRIVACY_ERASURE_HITS, request, resource=request_id) as tx:
        actor = accounts.actor(tx, request, Action.PRIVACY_ERASURE_HITS, None)
        event = accounts.event(
            tx, Action.PRIVACY_ERASURE_HITS, None, actor, request, resource=request_id, detail={"revealed": reveal}
        )
        tx.log([], event)
    if erasure.sealed is None:
        # What is left of an unproven request: no name, no value.
        return [
            ErasureHit(**{**named, "modified": _modified_at(named["modified"])}, accepted=None)
            for named in erasure.report.get("hits", ())
        ]
    found = erasure.unsealed(accounts)
    reasons = {
        remain.hit: accepted.reason
        for remain in found.remains
        for accepted in reversed(found.accepted)
        if accepted.covers(remain)
    }
    return [
        ErasureHit(
            **{**remain.shown(), "modified": _modified_at(remain.modified)},
            accepted=reasons.get(remain.hit),
            path=remain.path if reveal else None,
            context=remain.context if reveal else None,
        )
        for remain in found.remains
    ]


def _modified_at(modified: float | None) -> datetime | None:
    return None if modified is None else moment(round(modified * 1e6))


def accept_erasure_hit(
    accounts: Accounts,
    request_id: str,
    hit: str,
    reason: str,
    *,
    everywhere: bool = False,
    request: Request = Request(),  # noqa: B008 - frozen
) -> None:
    """Accept that a hit is nothing of the person's, with a reason that the certificate carries; for administrators.

    Args:
        accounts: the accounts.
        request_id: the failed request.
        hit: the hit's name, from `erasure_hits`.
        reason: why; at most 500 characters, and none of the person's values in it.
        everywhere: accept the value wherever it is: for a name that is an ordinary word, found in many places.
        request: who accepts.

    Raises:
        BadRequestError: there is no such hit, the reason is empty, long or names the person, or a value that tells the
            person by itself is to be accepted everywhere.
        PrivacyError: there is no such request, or nothing of it is sealed any more.
        PermissionDeniedError: the caller is not an administrator.
    """
    text = reason.strip()
    if not 1 <= len(text) <= _LONGEST_REASON or not text.isprintable():
        raise BadRequestError(
            f"the reason is not one line of 1 to {_LONGEST_REASON} characters",
            where="reason",
            hint="Say why the hit is not a trace of the person.",
        )
    with accounts.store.exclusively("erasure", 3600.0):
        erasure = load_request(accounts, request_id)
        if erasure.state != "failed":
            raise PrivacyError(
                f"the request is {erasure.state}, so no hit can be accepted",
                where=f"erasure {request_id}",
                hint="Only hits of a failed proof can be accepted.",
            )
        found = erasure.unsealed(accounts)
        chosen = next((remain for remain in found.remains if remain.hit == hit), None)
        if chosen is None:
            raise BadRequestError(
                "the last proof has no hit with this id",
                where="hit",
                hint=f"`hfthot privacy hits {request_id}` lists them.",
            )
        if everywhere and chosen.kind not in WEAK:
            raise BadRequestError(
                f"a value of the kind {chosen.kind!r} identifies the person",
                where="everywhere",
                hint="Accept its hits one by one.",
            )
        if any(Searcher(found.searched()).search(text.encode())):
            raise BadRequestError(
                "the reason contains personal data, and it would appear in the certificate",
                where="reason",
                hint="Give a reason without the value.",
            )
        with accounts.operation(Action.PRIVACY_ERASURE_ACCEPT, request, resource=request_id) as tx:
            actor = accounts.actor(tx, request, Action.PRIVACY_ERASURE_ACCEPT, None)
            found.accepted.append(AcceptedTrace(hit, text, tx.now, everywhere, chosen.value, chosen.shown()))
            erasure.note_hits(found)
            detail = {"hit": hit, "everywhere": everywhere}
            event = accounts.event(
                tx, Action.PRIVACY_ERASURE_ACCEPT, None, actor, request, resource=request_id, detail=detail
            )
            tx.log([], event)
            erasure.save(tx, "failed", sealed=erasure.reseal(accounts, tx, found))
