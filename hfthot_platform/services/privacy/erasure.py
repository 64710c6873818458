"""Erasing a person for good, and proving it (GDPR, article 17).

An erasure is a request in the operational store that goes through states; each step may be done again, so a process
that dies at any point is continued by whoever runs the request next.

    requested -> destroyed    one transaction: keys, identity, look-ups, sessions, counters go, the log says so.
                              From its commit on nobody can read anything of the person, wherever copies are.
    destroyed -> purged       exports deleted, live rows of the lake deleted or redacted, the store's journal and
                              freed pages overwritten, old data files vacuumed
    purged    -> verified     everything is searched for every value of the person; every retained version of every
                              user table still reads, with exactly the other persons' rows decryptable
    verified  -> signed       the certificate is signed; only now
    signed    -> done         and lies in its folder
    held, failed              a legal hold keeps a part; something was found.  Both are run again later.
    unproven                  what a failed proof would need was destroyed, since its time was over: the end

What to search for is known only before the destruction.  It is kept until the proof, encrypted under a key of the
request alone, which is destroyed with it, and at the latest after the setting `erasure_proof_days`, whatever happens.

What a proof finds is shown to the officer by place and form.  What is a coincidence (a name in another person's file)
can be accepted with a reason, which the certificate carries.
"""

from __future__ import annotations

import json
import os
import secrets
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Any, Final

import sqlalchemy as sa
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey

from hfthot_platform.core.errors import (
    BadRequestError,
    ErasureUnverifiedError,
    HfthotError,
    LegalHoldError,
    PrivacyError,
)
from hfthot_platform.core.time import moment
from hfthot_platform.core.version import __version__
from hfthot_platform.domain.contracts.accounts import USER_TABLES
from hfthot_platform.services.accounts.accounts import CATEGORIES, Accounts
from hfthot_platform.services.accounts.records import Request
from hfthot_platform.services.privacy.certificate import ErasureCertificate, commitment, issue, verify
from hfthot_platform.services.privacy.evidence import record_destruction
from hfthot_platform.services.privacy.export import delete_exports
from hfthot_platform.services.privacy.holds import forget_reasons, held_categories
from hfthot_platform.services.privacy.old_versions import check_history, clean_log
from hfthot_platform.services.privacy.proof.scan import Progress, scan
from hfthot_platform.services.privacy.proof.search import Searcher
from hfthot_platform.services.privacy.remains import judged
from hfthot_platform.services.privacy.sought import WEAK, Accepted, Remain, Sought, collected
from hfthot_platform.services.privacy.where import places_of, searched_places
from hfthot_platform.services.publication.publisher import Publisher, flush
from hfthot_platform.storage.incidents import Incident
from hfthot_platform.storage.lakehouse import Lakehouse, Stamp
from hfthot_platform.storage.operational import schema
from hfthot_platform.storage.operational.changes import AuditEvent, to_json
from hfthot_platform.storage.operational.places import record_places
from hfthot_platform.storage.vault import SubjectCipher, Wrapped

__all__ = [
    "LIMITS",
    "ErasureHit",
    "ErasureState",
    "accept_erasure_hit",
    "delete_user_permanent",
    "erasure_hits",
    "expire_sealed",
    "incident_of",
    "list_erasures",
    "pending_erasures",
    "places_of",
    "public_key",
    "request_erasure",
    "run_erasure",
]

_REQUEST_KEY: Final = "erasure:"
_DAY: Final = 86_400_000_000
#: States in which there is something to do; a held one waits for the release of its hold.
_OPEN: Final = ("requested", "destroyed", "purged", "verified", "signed", "held", "failed")
#: States in which what to search for may lie sealed.
_SEALED: Final = ("destroyed", "purged", "held", "failed")
#: Hits and other facts that a request or a certificate names; of more it says how many there are.
_MOST_NAMED: Final = 200
_LONGEST_REASON: Final = 500
#: How long before its end an unproven erasure is reported once more.
_ENDING: Final = timedelta(days=7)
#: Files and values that are noted before a destruction; with more there is no comparison.
_MOST_BEFORE: Final = 20_000

#: What no certificate of ours covers.
LIMITS: Final[tuple[str, ...]] = (
    "Blocks that a disk or file system remapped, or keeps as snapshots, are not visible to the platform.",
    (
        "Backups are not searched. One of the lake alone cannot be read for the person. One of the operational store "
        "from before the erasure can, together with the key-encryption key of that time, until a rotation drops it."
    ),
    "A PostgreSQL server's write-ahead log and its archives are outside the platform.",
    (
        "Names and addresses are searched as they were written, full names with and without a blank: not other "
        "spellings, inflections or translations, and in UTF-8, UTF-16 and Latin-1, not in other encodings (UTF-32, "
        "EBCDIC, Base32, Base85, uuencode)."
    ),
    (
        "Short values, words of the platform's own texts or of its market tables, and values that others have too are "
        "not searched for by themselves; `not_searched` says which kinds."
    ),
    "Former names and addresses are those that a retained version of the user tables still had.",
    (
        "What the person or others typed beside that (preferences, programs, names of providers) is kept encrypted "
        "only, and is not searched for."
    ),
    "Packed files are known by what they begin with; pictures, and text inside them, are not read.",
    "Only what the machine that searched can see was searched: local folders of other machines are not.",
    "What was handed out before (exports, query results, copies made by their readers) is not within reach.",
)
_LIMITS_WITHOUT_POSTGRES: Final = tuple(each for each in LIMITS if not each.startswith("A PostgreSQL"))


# -- asking ---------------------------------------------------------------------------------------------------


def delete_user_permanent(
    accounts: Accounts,
    lake: Lakehouse,
    user_id: str,
    keep_history: bool = True,  # noqa: FBT001, FBT002 - the product's signature
    *,
    request: Request = Request(),  # noqa: B008 - frozen
    progress: Progress | None = None,
) -> ErasureCertificate:
    """Erase a person for good and return the certificate that says so.

    Args:
        accounts: the accounts.
        lake: the lake.
        user_id: whom.
        keep_history: True leaves the old versions of the user tables readable for everybody else; the person's
            ciphertext, unreadable at once, leaves the disk when the tables' time travel has passed.  False removes
            it at once, and with it the old versions of the user tables.
        request: who asks, from where.
        progress: called while the proof reads.

    Raises:
        UnknownUserError, ErasedSubjectError: there is no such account any more.
        PermissionDeniedError: the caller is neither the person nor an administrator.
        LegalHoldError: a hold keeps all or part; the rest is erased, and the request completes after the release.
        ErasureUnverifiedError: something of the person was found; the message says where.  Nothing of the account
            can be read any more, but there is no certificate: remove what was found, or accept what is a coincidence
            (`accept_erasure_hit`), and run the request again.
    """
    request_id = request_erasure(accounts, user_id, keep_history=keep_history, request=request)
    return run_erasure(accounts, lake, request_id, progress=progress)


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
    with accounts.operation("privacy.erasure_request", request, user_id) as tx:
        # What everybody has of the past is an administrator's to remove.
        actor = accounts.actor(tx, request, user_id, admin=not keep_history)
        subject_id = str(accounts.account(tx, user_id)["subject_id"])
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
            "privacy.erasure_request",
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
        found = [_Case.of(row) for row in rx.execute(chosen).mappings()]
        return [
            each.request_id
            for each in found
            if each.state != "failed"
            and not (each.state == "held" and set(CATEGORIES) - each.destroyed <= held_categories(rx, each.subject_id))
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
        cases = [_Case.of(row) for row in rows]
    return [
        ErasureState(
            each.request_id,
            each.state,
            moment(each.requested_at),
            each.keep_history,
            each.report.get("failure", {}).get("what"),
            _deadline(accounts, each),
            int(each.report.get("open_hits", 0)) if each.state in {"failed", "unproven"} else 0,
        )
        for each in cases
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


def _deadline(accounts: Accounts, case: _Case) -> datetime | None:
    """Return when what a request looks for is destroyed."""
    # Requests of earlier versions know when they were destroyed.
    sealed_at = case.report.get("sealed_at") or case.report.get("destroyed_at")
    if case.sealed is None or sealed_at is None:
        return None
    return moment(sealed_at) + timedelta(days=accounts.settings.erasure_proof_days)


# -- the request ----------------------------------------------------------------------------------------------


@dataclass
class _Case:
    """A request as the store has it."""

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
    before: Sought | None = None

    @classmethod
    def of(cls, row: Mapping[Any, Any]) -> _Case:
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


def _open_request(connected: Any, subject_id: str) -> _Case | None:
    requests = schema.erasure_requests
    chosen = sa.select(requests).where(requests.c.subject_id == subject_id, requests.c.state.in_(_OPEN))
    row = connected.execute(chosen).mappings().first()
    return None if row is None else _Case.of(row)


def _load(accounts: Accounts, request_id: str) -> _Case:
    with accounts.store.reading() as rx:
        chosen = sa.select(schema.erasure_requests).where(schema.erasure_requests.c.request_id == request_id)
        row = rx.execute(chosen).mappings().first()
    if row is None:
        raise PrivacyError(
            "no erasure has this id", where="request_id", hint="`hfthot privacy erase --list` lists them."
        )
    return _Case.of(row)


def _save(tx: Any, case: _Case, state: str, **values: Any) -> None:
    case.state = state
    requests = schema.erasure_requests
    tx.execute(
        sa.update(requests)
        .where(requests.c.request_id == case.request_id)
        .values(state=state, report=to_json(case.report), **values)
    )


# -- doing ----------------------------------------------------------------------------------------------------


def run_erasure(
    accounts: Accounts, lake: Lakehouse, request_id: str, *, progress: Progress | None = None
) -> ErasureCertificate:
    """Carry a request out, from wherever it stands, and return its certificate.  One runs at a time.

    Raises:
        PrivacyError: there is no such request.
        LegalHoldError: a hold keeps all or part; the request completes when it is run after the release.
        ErasureUnverifiedError: something was found, or a place could not be searched; the message says where.
        LockTimeoutError: another erasure, or a writer of a user table, worked for too long.
    """
    with accounts.store.exclusively("erasure", 3600.0):
        case = _load(accounts, request_id)
        if case.state in {"requested", "held"}:
            _look_first(accounts, lake, case)
            _destroy(accounts, lake, case)
        if case.state in {"destroyed", "failed"} or case.report.get("unpurged"):
            _purge(accounts, lake, case)
        if case.state == "held":
            raise _held(case)
        if case.state == "unproven":
            raise _unproven(case)
        if case.state == "purged":
            _prove(accounts, lake, case, progress)
        if case.state == "verified":
            _certify(accounts, case)
        assert case.certificate is not None
        return _filed(accounts, case, verify(case.certificate, public_key(accounts)))


def _look_first(accounts: Accounts, lake: Lakehouse, case: _Case) -> None:
    """Note how often what is going to be sought is where before the destruction: what the proof compares with.

    The lake is left out: its files never change, so that theirs is the time of their writing.  A search that fails
    here fails nothing; the proof is then without it.
    """
    with accounts.store.reading() as rx:
        wanted = [each for each in CATEGORIES if each not in case.destroyed | held_categories(rx, case.subject_id)]
    if not wanted:
        return
    try:
        flush(accounts.store, lake)
        found = collected(accounts, lake, case.subject_id, wanted)
        places = [each for each in searched_places(accounts, lake)[0] if each.name != "lake"]
        report = scan(found.searched(), places, tested=False)
    except (HfthotError, OSError):
        return
    numbers = {(each.kind, each.value): number for number, each in enumerate(found.searched())}
    counts: dict[tuple[str, str, int], int] = {}
    for (place, path, needle, _, _), count in report.counts.items():
        form = place, path, numbers[needle.kind, needle.value]
        counts[form] = counts.get(form, 0) + count
        if len(counts) > _MOST_BEFORE:
            return
    found.before = counts
    case.before = found


def _destroy(accounts: Accounts, lake: Lakehouse, case: _Case) -> None:
    """Destroy what no hold keeps; what to search for later is sealed in the same transaction."""
    with accounts.store.reading() as rx:
        wanted = [each for each in CATEGORIES if each not in case.destroyed | held_categories(rx, case.subject_id)]
    found = Sought()
    if wanted:
        _disable(accounts, case.subject_id)
        # Nothing can happen to the account any more, so what is read here is all that will be destroyed.
        flush(accounts.store, lake)
        found = collected(accounts, lake, case.subject_id, wanted)
        if case.before is not None:
            found = case.before.followed_by(found)
    with accounts.store.transaction() as tx:
        held = held_categories(tx, case.subject_id)
        todo = [each for each in wanted if each not in held]
        if todo:
            # Before the commit: what is on the list and was not committed is done by the next run.
            record_destruction(accounts, case.request_id, case.subject_id, [*todo])
            exports = schema.exports
            mine = exports.c.subject_id == case.subject_id
            ids = list(tx.execute(sa.select(exports.c.request_id).where(mine)).scalars())
            tx.execute(sa.delete(exports).where(mine))
            if "identity" in todo and (row := accounts.account_of(tx, case.subject_id)) is not None:
                case.report["commitment"] = commitment(case.request_id, row["user_id"])
            counts = accounts.destroy(tx, case.subject_id, todo, request_id=case.request_id)
            forget_reasons(tx, case.subject_id, todo)
            sealed = _seal(accounts, tx, case, found)
            case.report.setdefault("sealed_at", tx.now)
            case.report["categories"] = sorted(case.destroyed | set(todo))
            case.report["exports"] = sorted({*case.report.get("exports", ()), *ids})
            case.report["destroyed_at"] = tx.now
            case.report["unpurged"] = True
            _count(case, {f"store.{name}": count for name, count in counts.items()})
            state = "destroyed" if case.destroyed == set(CATEGORIES) else "held"
            _save(tx, case, state, sealed=sealed)
        elif case.state != "held":
            event = AuditEvent(
                action="privacy.erasure_held",
                outcome="refused",
                subject_id=case.subject_id,
                resource=case.request_id,
                detail=to_json({"held": sorted(held)}),
            )
            tx.log([], event)
            _save(tx, case, "held")


def _disable(accounts: Accounts, subject_id: str) -> None:
    """Delete the account softly, where whoever asked was killed before that or it was restored since."""
    with accounts.store.reading() as rx:
        row = accounts.account_of(rx, subject_id)
    if row is not None and row["deleted_at"] is None:
        accounts.delete_user_soft(row["user_id"])


def _held(case: _Case) -> LegalHoldError:
    kept = [each for each in CATEGORIES if each not in case.destroyed]
    done = f"; {', '.join(sorted(case.destroyed))} erased" if case.destroyed else "; nothing was erased"
    return LegalHoldError(
        f"a legal hold keeps {', '.join(kept)}{done}",
        where=f"erasure {case.request_id}",
        hint="The request completes when it is run after the hold was released (the erasure sensor does so by itself).",
    )


def _unproven(case: _Case) -> ErasureUnverifiedError:
    what = case.report.get("failure", {}).get("what", "the proof did not come to an end")
    return ErasureUnverifiedError(
        f"the erasure is done and can be proven no more: {what}",
        where=f"erasure {case.request_id}",
        hint="What a proof would look for was destroyed when its time was over; `hfthot privacy hits` says what is "
        "not proven.",
    )


def _purge(accounts: Accounts, lake: Lakehouse, case: _Case) -> None:
    """Remove from every disk what the destruction made unreadable."""
    counts: dict[str, int] = {}
    if case.report.get("exports"):
        counts["exports"] = delete_exports(accounts, case.report["exports"])
    stamp = Stamp(run_id=f"erasure-{case.request_id}", asset="privacy.erasure")
    if case.destroyed:
        for commit in Publisher(accounts.store, lake).publish(stamp=stamp).commits:
            counts[f"lake.{commit.table}"] = commit.rows_forgotten
        accounts.store.purge()
        for contract in USER_TABLES:
            vacuumed = clean_log(lake, contract, stamp=stamp, keep_history=case.keep_history)
            if vacuumed:
                counts[f"files.{contract.name}"] = vacuumed
    with accounts.store.transaction() as tx:
        _count(case, counts)
        case.report["purged_at"] = tx.now
        case.report.pop("unpurged", None)
        _save(tx, case, case.state if case.state in {"held", "unproven"} else "purged")


def _count(case: _Case, counts: Mapping[str, int]) -> None:
    known = case.report.setdefault("counts", {})
    for name, count in counts.items():
        known[name] = known.get(name, 0) + count


def _prove(accounts: Accounts, lake: Lakehouse, case: _Case, progress: Progress | None) -> None:
    """Search everything, read every version; raise, and say so in the request, unless nothing is left."""
    if case.sealed is None:
        raise _missing(case)
    found = _unsealed(accounts, case)
    try:
        verification = _verified(accounts, lake, case, found, progress)
    except ErasureUnverifiedError as error:
        with accounts.store.transaction() as tx:
            case.report["failure"] = {"at": tx.now, "what": error.what, "where": error.where}
            case.report["open_hits"] = len(_open_hits(found))
            case.report["hits"] = [each.shown() for each in _open_hits(found)[:_MOST_NAMED]]
            event = AuditEvent(
                action="privacy.erasure_unverified",
                outcome="failure",
                subject_id=case.subject_id,
                resource=case.request_id,
            )
            tx.log([], event)
            sealed = _resealed(accounts, tx, case, found)
            _save(tx, case, "failed", sealed=sealed)
        raise
    with accounts.store.transaction() as tx:
        for name in ("failure", "hits", "open_hits"):
            case.report.pop(name, None)
        case.report["verification"] = verification
        case.report["verified_at"] = tx.now
        _forget_sealed(tx, case)
        _save(tx, case, "verified", sealed=None)


def _open_hits(found: Sought) -> list[Remain]:
    return [each for each in found.remains if not any(accepted.covers(each) for accepted in found.accepted)]


def _forget_sealed(tx: Any, case: _Case) -> None:
    """Destroy what was searched for: its key goes, and then its ciphertext."""
    name = _REQUEST_KEY + case.request_id
    tx.execute(sa.delete(schema.keys).where(schema.keys.c.name == name))
    case.sealed = None


def expire_sealed(accounts: Accounts, lake: Lakehouse) -> int:
    """Destroy what failed or waiting proofs look for once its time is over, whatever happens; return how many were.

    A request that is not proven by then ends as `unproven`, and says what was in the way.  One that a hold keeps goes
    on to wait; what it had erased before is then not searched for any more, and its certificate says so.
    """
    requests = schema.erasure_requests
    now = accounts.clock()
    with accounts.store.reading() as rx:
        rows = rx.execute(sa.select(requests).where(requests.c.state.in_((*_SEALED, "unproven")))).mappings()
        cases = [_Case.of(row) for row in rows]
    late = [each.request_id for each in cases if _due(accounts, each, now)]
    ended = 0
    for request_id in late:
        with accounts.store.transaction() as tx:
            row = tx.execute(sa.select(requests).where(requests.c.request_id == request_id)).mappings().one()
            case = _Case.of(row)
            if case.sealed is None or case.state not in _SEALED:
                continue
            _forget_sealed(tx, case)
            case.report.pop("sealed_at", None)
            case.report["expired_at"] = tx.now
            if case.state != "held":
                waited = {"what": f"the proof was not made within {accounts.settings.erasure_proof_days} days"}
                case.report.setdefault("failure", waited)
            event = AuditEvent(action="privacy.erasure_expired", subject_id=case.subject_id, resource=case.request_id)
            tx.log([], event)
            if case.state == "held":
                _save(tx, case, "held", sealed=None)
            else:
                if case.state == "destroyed":
                    case.report["unpurged"] = True
                _save(tx, case, "unproven", sealed=None, finished_at=tx.now)
            ended += 1
    if ended:
        accounts.store.purge()
    for case in cases:
        # What the destruction made unreadable leaves the disk all the same.
        current = _load(accounts, case.request_id)
        if current.state == "unproven" and current.report.get("unpurged"):
            _purge(accounts, lake, current)
    return ended


def _due(accounts: Accounts, case: _Case, now: datetime) -> bool:
    """Whether the time of what a request looks for is over."""
    deadline = _deadline(accounts, case)
    return deadline is not None and deadline <= now


def _certify(accounts: Accounts, case: _Case) -> None:
    """Overwrite what the proof needed, then sign."""
    accounts.store.purge()
    key = Ed25519PrivateKey.from_private_bytes(accounts.installation_key("signing"))
    report = case.report
    history = max(contract.history_days for contract in USER_TABLES)
    # Files are retired when the rows go, and taken by the first nightly maintenance after the time travel.
    until = moment(report["purged_at"]) + timedelta(days=history + 1) if case.keep_history else None
    now = accounts.clock()
    limits = [
        *(LIMITS if not accounts.store.files() else _LIMITS_WITHOUT_POSTGRES),
        *report["verification"].get("limits", ()),
    ]
    if "expired_at" in report:
        limits.append(
            f"What this request had erased before {moment(report['expired_at']):%Y-%m-%d} was kept from its proof by a "
            "legal hold for too long, and was not searched for."
        )
    verification = {name: value for name, value in report["verification"].items() if name not in {"limits", "accepted"}}
    certificate = issue(
        key,
        {
            "request_id": case.request_id,
            "requested_at": moment(case.requested_at),
            "destroyed_at": moment(report["destroyed_at"]),
            "verified_at": moment(report["verified_at"]),
            "issued_at": now,
            "keep_history": case.keep_history,
            "ciphertext_until": until,
            "counts": report["counts"],
            "verification": verification,
            "accepted": report["verification"].get("accepted", ()),
            "commitment": report.get("commitment"),
            "limits": limits,
            "platform_version": __version__,
        },
    )
    with accounts.store.transaction() as tx:
        event = AuditEvent(action="privacy.erasure_done", subject_id=case.subject_id, resource=case.request_id)
        tx.log([], event)
        case.certificate = certificate.text
        # The counts are in the certificate.
        case.report = {"categories": sorted(case.destroyed)}
        _save(tx, case, "signed", certificate=certificate.text)


def _filed(accounts: Accounts, case: _Case, certificate: ErasureCertificate) -> ErasureCertificate:
    """Make sure that the certificate is in its folder, and on its disk; only then is the request done."""
    folder = accounts.settings.certificates
    path = folder / f"{certificate.request_id}.json"
    if not path.exists():
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        temporary = folder / f".{certificate.request_id}.json"
        with temporary.open("w", encoding="ascii") as out:
            out.write(certificate.text)
            out.flush()
            os.fsync(out.fileno())
        temporary.replace(path)
        handle = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)
    if case.state == "signed":
        with accounts.store.transaction() as tx:
            _save(tx, case, "done", finished_at=tx.now)
    return certificate


def public_key(accounts: Accounts) -> Ed25519PublicKey:
    """Return the key that the installation's certificates are checked with."""
    return Ed25519PrivateKey.from_private_bytes(accounts.installation_key("signing")).public_key()


# -- what is sought ------------------------------------------------------------------------------------------


def _seal(accounts: Accounts, tx: Any, case: _Case, found: Sought) -> bytes:
    """Return the values, encrypted under a key of the request alone; earlier ones of the request are among them."""
    cipher = _request_cipher(accounts, tx, case, make=True)
    if case.sealed is not None:
        found = Sought.of(cipher.decrypt("erasure_requests", "sealed", case.sealed)).followed_by(found)
    case.sealed = cipher.encrypt("erasure_requests", "sealed", found.to_json())
    return case.sealed.encode("ascii")


def _resealed(accounts: Accounts, tx: Any, case: _Case, found: Sought) -> bytes | None:
    """Return the values with what was found of them, encrypted; None if their time ended meanwhile."""
    try:
        cipher = _request_cipher(accounts, tx, case)
    except PrivacyError:
        return None
    case.sealed = cipher.encrypt("erasure_requests", "sealed", found.to_json())
    return case.sealed.encode("ascii")


def _request_cipher(accounts: Accounts, connected: Any, case: _Case, *, make: bool = False) -> SubjectCipher:
    """Return the cipher of a request, under a key of its own.

    Raises:
        PrivacyError: the key was destroyed, or never made.
    """
    name = _REQUEST_KEY + case.request_id
    keys = schema.keys
    row = connected.execute(sa.select(keys.c.kek_id, keys.c.wrapped).where(keys.c.name == name)).first()
    if row is not None:
        return accounts.vault.cipher(case.request_id, Wrapped(row[0], bytes(row[1])))
    if not make:
        raise _missing(case)
    wrapped = accounts.vault.new_key(accounts.current_kek(connected))
    row = {"name": name, "kek_id": wrapped.kek_id, "wrapped": wrapped.blob, "created_at": connected.now}
    connected.execute(sa.insert(keys).values(row))
    return accounts.vault.cipher(case.request_id, wrapped)


def _missing(case: _Case) -> PrivacyError:
    return PrivacyError(
        "what to search for is missing from the request",
        where=f"erasure {case.request_id}",
        hint="The store was restored from a time in between; restore it from before the request.",
    )


def _unsealed(accounts: Accounts, case: _Case) -> Sought:
    if case.sealed is None:
        return Sought()
    with accounts.store.reading() as rx:
        cipher = _request_cipher(accounts, rx, case)
    return Sought.of(cipher.decrypt("erasure_requests", "sealed", case.sealed))


# -- proving --------------------------------------------------------------------------------------------------


def _verified(
    accounts: Accounts, lake: Lakehouse, case: _Case, found: Sought, progress: Progress | None
) -> dict[str, Any]:
    """Return what was searched and read; `found` has afterwards what is left.

    Raises:
        ErasureUnverifiedError: something of the person is left and not accepted, or a place could not be searched.
    """
    record_places(accounts.store, accounts.settings)
    places, limits = searched_places(accounts, lake)
    report = scan(found.searched(), places, progress=progress)
    where = f"erasure {case.request_id}"
    outcome = judged(accounts, lake, found, report, subject_id=case.subject_id, keep_history=case.keep_history)
    found.remains = outcome.remains
    if report.truncated:
        raise ErasureUnverifiedError(
            "there are more hits than can be told apart",
            where=where,
            hint="Accept the value that is everywhere (`hfthot privacy accept ... --everywhere`), then run it again.",
        )
    left = _open_hits(found)
    if left:
        unreadable = sum(each.kind == "unreadable" for each in left)
        what = f"{len(left)} places still hold something of the person, the first one is {left[0]}"
        if unreadable == len(left):
            what = f"{unreadable} files could not be searched, the first one is {left[0]}"
        raise ErasureUnverifiedError(
            what,
            where=where,
            hint=f"Look with `hfthot privacy hits {case.request_id}`; remove what is the person's, accept what is not "
            "with a reason, then run the request again. The account itself is unreadable already.",
        )
    history = check_history(accounts, lake, case.subject_id, keep_history=case.keep_history, where=where)
    left_out = sorted(found.left_out | set(report.left_out) | set(outcome.left_out))
    accepted = [
        {**each.shown, "reason": each.reason, "accepted_at": moment(each.at).isoformat(), "everywhere": each.everywhere}
        for each in found.accepted
        if any(each.covers(remain) for remain in found.remains)
    ]
    return {
        "searched_values": report.needles,
        "not_searched": [list(each) for each in left_out],
        "found_before": None if found.before is None else _by_kind(found),
        "coincidences": outcome.coincidences,
        "places": {each.name: {"files": each.files, "bytes": each.bytes} for each in report.places},
        "scanned_files": report.files,
        "scanned_bytes": report.bytes,
        "decoded_bytes": report.bytes_decoded,
        "scan_seconds": round(report.seconds, 3),
        "opaque_files": sum(len(each.opaque) for each in report.places),
        "canaries_planted": report.canaries,
        "canaries_found": report.canaries,
        "limits": [*limits, *outcome.limits],
        "accepted": accepted,
        **history,
    }


def _by_kind(found: Sought) -> dict[str, int]:
    """Return how often each kind of value was found before the destruction, outside the lake."""
    kinds = [kind for kind, _ in found.needles]
    counts: dict[str, int] = {}
    for (_, _, value), count in (found.before or {}).items():
        counts[kinds[value]] = counts.get(kinds[value], 0) + count
    return dict(sorted(counts.items()))


# -- what is left, and what of it is accepted -----------------------------------------------------------------


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
        PermissionDeniedError: the caller is no administrator.
    """
    case = _load(accounts, request_id)
    with accounts.operation("privacy.erasure_hits", request, resource=request_id) as tx:
        actor = accounts.actor(tx, request, None, admin=True)
        event = accounts.event(
            tx, "privacy.erasure_hits", None, actor, request, resource=request_id, detail={"revealed": reveal}
        )
        tx.log([], event)
    if case.sealed is None:
        # What is left of an unproven request: no name, no value.
        return [
            ErasureHit(**{**each, "modified": _when(each["modified"])}, accepted=None)
            for each in case.report.get("hits", ())
        ]
    found = _unsealed(accounts, case)
    reasons = {
        remain.hit: accepted.reason
        for remain in found.remains
        for accepted in reversed(found.accepted)
        if accepted.covers(remain)
    }
    return [
        ErasureHit(
            **{**each.shown(), "modified": _when(each.modified)},
            accepted=reasons.get(each.hit),
            path=each.path if reveal else None,
            context=each.context if reveal else None,
        )
        for each in found.remains
    ]


def _when(modified: float | None) -> datetime | None:
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
        PermissionDeniedError: the caller is no administrator.
    """
    text = reason.strip()
    if not 1 <= len(text) <= _LONGEST_REASON or not text.isprintable():
        raise BadRequestError(
            f"a reason has 1 to {_LONGEST_REASON} characters on one line",
            where="reason",
            hint="Say why it is no trace.",
        )
    with accounts.store.exclusively("erasure", 3600.0):
        case = _load(accounts, request_id)
        if case.state != "failed":
            raise PrivacyError(
                f"the request is {case.state}: nothing of it can be accepted",
                where=f"erasure {request_id}",
                hint="Hits are those of a failed proof.",
            )
        found = _unsealed(accounts, case)
        chosen = next((each for each in found.remains if each.hit == hit), None)
        if chosen is None:
            raise BadRequestError(
                "the last proof had no such hit", where="hit", hint=f"`hfthot privacy hits {request_id}` lists them."
            )
        if everywhere and chosen.kind not in WEAK:
            raise BadRequestError(
                f"a value of the kind {chosen.kind!r} tells the person by itself",
                where="everywhere",
                hint="Accept its hits one by one.",
            )
        if any(Searcher(found.searched()).search(text.encode())):
            raise BadRequestError(
                "the reason names the person, and the certificate must not",
                where="reason",
                hint="Say why it is no trace without the value.",
            )
        with accounts.operation("privacy.erasure_accept", request, resource=request_id) as tx:
            actor = accounts.actor(tx, request, None, admin=True)
            found.accepted.append(Accepted(hit, text, tx.now, everywhere, chosen.value, chosen.shown()))
            case.report["open_hits"] = len(_open_hits(found))
            case.report["hits"] = [each.shown() for each in _open_hits(found)[:_MOST_NAMED]]
            detail = {"hit": hit, "everywhere": everywhere}
            event = accounts.event(
                tx, "privacy.erasure_accept", None, actor, request, resource=request_id, detail=detail
            )
            tx.log([], event)
            _save(tx, case, "failed", sealed=_resealed(accounts, tx, case, found))
