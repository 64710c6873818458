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

This module takes the steps.  The requests are in `erasure_requests` (asking, where each stands, what it keeps), what
to search for in `sought`, where in `searched_places`, the proof in `verification`, what it found in `hits`.
"""

from __future__ import annotations

from datetime import datetime, timedelta
from typing import Final

import sqlalchemy as sa
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey

from hfthot_platform.core.errors import ErasureUnverifiedError, HfthotError, LegalHoldError
from hfthot_platform.core.time import moment
from hfthot_platform.core.version import __version__
from hfthot_platform.domain.contracts.accounts import USER_TABLES
from hfthot_platform.services.accounts.accounts import CATEGORIES, Accounts
from hfthot_platform.services.accounts.records import Request
from hfthot_platform.services.privacy.certificate import ErasureCertificate, commitment, issue, verify
from hfthot_platform.services.privacy.erasure_requests import ErasureRequest, load_request, request_erasure
from hfthot_platform.services.privacy.evidence import record_destruction
from hfthot_platform.services.privacy.export import delete_exports, export_locations
from hfthot_platform.services.privacy.holds import forget_reasons, held_categories
from hfthot_platform.services.privacy.old_versions import clean_log
from hfthot_platform.services.privacy.proof.scan import Progress, scan
from hfthot_platform.services.privacy.search_values import SearchValues, collected
from hfthot_platform.services.privacy.searched_places import searched_places
from hfthot_platform.services.privacy.verification import verified
from hfthot_platform.services.publication.publisher import Publisher, flush
from hfthot_platform.storage.folders import certificates_folder
from hfthot_platform.storage.lakehouse import Lakehouse, Stamp
from hfthot_platform.storage.operational import schema
from hfthot_platform.storage.operational.changes import AuditEvent, to_json

__all__ = [
    "LIMITS",
    "certify",
    "delete_user_permanent",
    "destroy",
    "expire_sealed",
    "file_certificate",
    "prove",
    "public_key",
    "purge",
    "run_erasure",
]

#: States in which what to search for may lie sealed.
_SEALED: Final = ("destroyed", "purged", "held", "failed")
#: Files and values that are noted before a destruction; with more there is no comparison.
_MOST_BEFORE: Final = 20_000

#: What no certificate of ours covers.
LIMITS: Final[tuple[str, ...]] = (
    "Blocks that a disk or file system remapped, or keeps as snapshots, are not visible to the platform.",
    (
        "Backups are not searched. In a backup of the lake alone, the person's data cannot be decrypted. In "
        "a backup of the operational store from before the erasure, it can be decrypted with the "
        "key-encryption key of that time, until a rotation drops that key."
    ),
    "A PostgreSQL server's write-ahead log and its archives are outside the platform.",
    (
        "Names and addresses are searched as they were written, and full names with and without a space. "
        "Other spellings, inflections and translations are not searched. The encodings searched are UTF-8, "
        "UTF-16 and Latin-1; others (UTF-32, EBCDIC, Base32, Base85, uuencode) are not."
    ),
    (
        "Short values, words of the platform's own texts or market tables, and values that other people also "
        "have are not searched for on their own; `not_searched` lists their kinds."
    ),
    "Former names and addresses are searched only if a retained version of the user tables still had them.",
    (
        "Other text that the person or others entered (preferences, programs, names of providers) is stored "
        "only in encrypted form, and is not searched for."
    ),
    "Compressed files are recognised by their first bytes. Images, and text inside them, are not read.",
    "Only what the searching machine can access was searched, not the local folders of other machines.",
    "Data that was handed out before (exports, query results, copies made by their readers) is out of reach.",
)
_LIMITS_WITHOUT_POSTGRES: Final = tuple(limit for limit in LIMITS if not limit.startswith("A PostgreSQL"))


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
        erasure = load_request(accounts, request_id)
        if erasure.state in {"requested", "held"}:
            _look_first(accounts, lake, erasure)
            destroy(accounts, lake, erasure)
        if erasure.state in {"destroyed", "failed"} or erasure.report.get("unpurged"):
            purge(accounts, lake, erasure)
        if erasure.state == "held":
            raise _held_error(erasure)
        if erasure.state == "unproven":
            raise _unproven_error(erasure)
        if erasure.state == "purged":
            prove(accounts, lake, erasure, progress)
        if erasure.state == "verified":
            certify(accounts, erasure)
        assert erasure.certificate is not None
        return file_certificate(accounts, erasure, verify(erasure.certificate, public_key(accounts)))


def _look_first(accounts: Accounts, lake: Lakehouse, erasure: ErasureRequest) -> None:
    """Note how often what is going to be sought is where before the destruction: what the proof compares with.

    The lake is left out: its files never change, so that theirs is the time of their writing.  A search that fails
    here fails nothing; the proof is then without it.
    """
    with accounts.store.reading() as rx:
        kept = held_categories(rx, erasure.subject_id)
    wanted = [category for category in CATEGORIES if category not in erasure.destroyed | kept]
    if not wanted:
        return
    try:
        flush(accounts.store, lake)
        found = collected(accounts, lake, erasure.subject_id, wanted)
        places = [place for place in searched_places(accounts, lake)[0] if place.name != "lake"]
        report = scan(found.searched(), places, tested=False)
    except (HfthotError, OSError):
        return
    numbers = {(needle.kind, needle.value): number for number, needle in enumerate(found.searched())}
    counts: dict[tuple[str, str, int], int] = {}
    for (place, path, needle, _, _), count in report.counts.items():
        form = place, path, numbers[needle.kind, needle.value]
        counts[form] = counts.get(form, 0) + count
        if len(counts) > _MOST_BEFORE:
            return
    found.before = counts
    erasure.before = found


def destroy(accounts: Accounts, lake: Lakehouse, erasure: ErasureRequest) -> None:
    """Destroy what no hold keeps; what to search for later is sealed in the same transaction."""
    with accounts.store.reading() as rx:
        kept = held_categories(rx, erasure.subject_id)
    wanted = [category for category in CATEGORIES if category not in erasure.destroyed | kept]
    found = SearchValues()
    if wanted:
        _close_account(accounts, erasure.subject_id)
        # Nothing can happen to the account any more, so what is read here is all that will be destroyed.
        flush(accounts.store, lake)
        found = collected(accounts, lake, erasure.subject_id, wanted)
        if erasure.before is not None:
            found = erasure.before.followed_by(found)
    with accounts.store.transaction() as tx:
        held = held_categories(tx, erasure.subject_id)
        todo = [category for category in wanted if category not in held]
        if todo:
            # Before the commit: what is on the list and was not committed is done by the next run.
            record_destruction(accounts, erasure.request_id, erasure.subject_id, [*todo])
            exports = schema.exports
            mine = exports.c.subject_id == erasure.subject_id
            locations = export_locations(tx, mine)
            made = tx.execute(sa.select(exports.c.request_id).where(mine, exports.c.state == "ready")).scalars()
            erasure.report["exports_made"] = sorted({*erasure.report.get("exports_made", ()), *made})
            erasure.report["exports"] = _exports_of(erasure) | locations
            tx.execute(sa.delete(exports).where(mine))
            if "identity" in todo and (row := accounts.account_of(tx, erasure.subject_id)) is not None:
                erasure.report["commitment"] = commitment(erasure.request_id, row["user_id"])
            counts = accounts.destroy(tx, erasure.subject_id, todo, request_id=erasure.request_id)
            forget_reasons(tx, erasure.subject_id, todo)
            sealed = erasure.seal(accounts, tx, found)
            erasure.report.setdefault("sealed_at", tx.now)
            erasure.report["categories"] = sorted(erasure.destroyed | set(todo))
            erasure.report["destroyed_at"] = tx.now
            erasure.report["unpurged"] = True
            erasure.count({f"store.{name}": count for name, count in counts.items()})
            state = "destroyed" if erasure.destroyed == set(CATEGORIES) else "held"
            erasure.save(tx, state, sealed=sealed)
        elif erasure.state != "held":
            event = AuditEvent(
                action="privacy.erasure_held",
                outcome="refused",
                subject_id=erasure.subject_id,
                resource=erasure.request_id,
                detail=to_json({"held": sorted(held)}),
            )
            tx.log([], event)
            erasure.save(tx, "held")


def _close_account(accounts: Accounts, subject_id: str) -> None:
    """Delete the account softly, where whoever asked was killed before that or it was restored since."""
    with accounts.store.reading() as rx:
        row = accounts.account_of(rx, subject_id)
    if row is not None and row["deleted_at"] is None:
        accounts.delete_user_soft(row["user_id"])


def _held_error(erasure: ErasureRequest) -> LegalHoldError:
    kept = [category for category in CATEGORIES if category not in erasure.destroyed]
    done = f"; {', '.join(sorted(erasure.destroyed))} erased" if erasure.destroyed else "; nothing was erased"
    return LegalHoldError(
        f"a legal hold keeps {', '.join(kept)}{done}",
        where=f"erasure {erasure.request_id}",
        hint="Run the request again after the hold is released (the erasure sensor does this automatically).",
    )


def _unproven_error(erasure: ErasureRequest) -> ErasureUnverifiedError:
    what = erasure.report.get("failure", {}).get("what", "the proof did not finish")
    return ErasureUnverifiedError(
        f"the erasure is done but can no longer be proven: {what}",
        where=f"erasure {erasure.request_id}",
        hint="The values to search for were destroyed at the deadline. `hfthot privacy hits` lists what is not proven.",
    )


def purge(accounts: Accounts, lake: Lakehouse, erasure: ErasureRequest) -> None:
    """Remove from every disk what the destruction made unreadable."""
    counts: dict[str, int] = {}
    if exports := _exports_of(erasure):
        gone = delete_exports(accounts, exports, made=erasure.report.get("exports_made", ()))
        counts["exports"] = gone.deleted
        # Those that another run has deleted are not there any more.
        deleted = set(exports) - set(gone.missing)
        erasure.report["exports_missing"] = list(gone.missing)
        erasure.report["exports_made"] = sorted(set(erasure.report.get("exports_made", ())) - deleted)
    stamp = Stamp(run_id=f"erasure-{erasure.request_id}", asset="privacy.erasure")
    if erasure.destroyed:
        for commit in Publisher(accounts.store, lake).publish(stamp=stamp).commits:
            counts[f"lake.{commit.table}"] = commit.rows_forgotten
        accounts.store.purge()
        for contract in USER_TABLES:
            vacuumed = clean_log(lake, contract, stamp=stamp, keep_history=erasure.keep_history)
            if vacuumed:
                counts[f"files.{contract.name}"] = vacuumed
    with accounts.store.transaction() as tx:
        erasure.count(counts)
        erasure.report["purged_at"] = tx.now
        erasure.report.pop("unpurged", None)
        erasure.save(tx, erasure.state if erasure.state in {"held", "unproven"} else "purged")


def _exports_of(erasure: ErasureRequest) -> dict[str, str | None]:
    """Return where the person's exports are; an older version noted their ids alone."""
    noted = erasure.report.get("exports", {})
    return dict(noted) if isinstance(noted, dict) else dict.fromkeys(noted)


def prove(accounts: Accounts, lake: Lakehouse, erasure: ErasureRequest, progress: Progress | None) -> None:
    """Search everything, read every version; raise, and say so in the request, unless nothing is left."""
    found = erasure.unsealed(accounts)
    try:
        verification = verified(accounts, lake, erasure, found, progress)
    except ErasureUnverifiedError as error:
        with accounts.store.transaction() as tx:
            erasure.report["failure"] = {"at": tx.now, "what": error.what, "where": error.where}
            erasure.note_hits(found)
            event = AuditEvent(
                action="privacy.erasure_unverified",
                outcome="failure",
                subject_id=erasure.subject_id,
                resource=erasure.request_id,
            )
            tx.log([], event)
            sealed = erasure.reseal(accounts, tx, found)
            erasure.save(tx, "failed", sealed=sealed)
        raise
    with accounts.store.transaction() as tx:
        for name in ("failure", "hits", "open_hits"):
            erasure.report.pop(name, None)
        erasure.report["verification"] = verification
        erasure.report["verified_at"] = tx.now
        erasure.forget_sealed(tx)
        erasure.save(tx, "verified", sealed=None)


def expire_sealed(accounts: Accounts, lake: Lakehouse) -> int:
    """Destroy what failed or waiting proofs look for once its time is over, whatever happens; return how many were.

    A request that is not proven by then ends as `unproven`, and says what was in the way.  One that a hold keeps goes
    on to wait; what it had erased before is then not searched for any more, and its certificate says so.
    """
    requests = schema.erasure_requests
    now = accounts.clock()
    with accounts.store.reading() as rx:
        rows = rx.execute(sa.select(requests).where(requests.c.state.in_((*_SEALED, "unproven")))).mappings()
        sealed = [ErasureRequest.of(row) for row in rows]
    late = [erasure.request_id for erasure in sealed if _time_is_over(accounts, erasure, now)]
    ended = 0
    for request_id in late:
        with accounts.store.transaction() as tx:
            row = tx.execute(sa.select(requests).where(requests.c.request_id == request_id)).mappings().one()
            erasure = ErasureRequest.of(row)
            if erasure.sealed is None or erasure.state not in _SEALED:
                continue
            erasure.forget_sealed(tx)
            erasure.report.pop("sealed_at", None)
            erasure.report["expired_at"] = tx.now
            if erasure.state != "held":
                waited = {"what": f"the proof was not completed within {accounts.settings.erasure_proof_days} days"}
                erasure.report.setdefault("failure", waited)
            event = AuditEvent(
                action="privacy.erasure_expired", subject_id=erasure.subject_id, resource=erasure.request_id
            )
            tx.log([], event)
            if erasure.state == "held":
                erasure.save(tx, "held", sealed=None)
            else:
                if erasure.state == "destroyed":
                    erasure.report["unpurged"] = True
                erasure.save(tx, "unproven", sealed=None, finished_at=tx.now)
            ended += 1
    if ended:
        accounts.store.purge()
    for erasure in sealed:
        # What the destruction made unreadable leaves the disk all the same.
        current = load_request(accounts, erasure.request_id)
        if current.state == "unproven" and current.report.get("unpurged"):
            purge(accounts, lake, current)
    return ended


def _time_is_over(accounts: Accounts, erasure: ErasureRequest, now: datetime) -> bool:
    """Whether the time of what a request looks for is over."""
    deadline = erasure.deadline(accounts)
    return deadline is not None and deadline <= now


def certify(accounts: Accounts, erasure: ErasureRequest) -> None:
    """Overwrite what the proof needed, then sign."""
    accounts.store.purge()
    key = Ed25519PrivateKey.from_private_bytes(accounts.installation_key("signing"))
    report = erasure.report
    history = max(contract.history_days for contract in USER_TABLES)
    # Files are retired when the rows go, and taken by the first nightly maintenance after the time travel.
    until = moment(report["purged_at"]) + timedelta(days=history + 1) if erasure.keep_history else None
    now = accounts.clock()
    limits = [
        *(LIMITS if not accounts.store.files() else _LIMITS_WITHOUT_POSTGRES),
        *report["verification"].get("limits", ()),
    ]
    if "expired_at" in report:
        limits.append(
            f"What this request had erased before {moment(report['expired_at']):%Y-%m-%d} was not searched for, "
            "because a legal hold delayed the proof beyond its deadline."
        )
    verification = {name: value for name, value in report["verification"].items() if name not in {"limits", "accepted"}}
    certificate = issue(
        key,
        {
            "request_id": erasure.request_id,
            "requested_at": moment(erasure.requested_at),
            "destroyed_at": moment(report["destroyed_at"]),
            "verified_at": moment(report["verified_at"]),
            "issued_at": now,
            "keep_history": erasure.keep_history,
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
        event = AuditEvent(action="privacy.erasure_done", subject_id=erasure.subject_id, resource=erasure.request_id)
        tx.log([], event)
        erasure.certificate = certificate.text
        # The counts are in the certificate.
        erasure.report = {"categories": sorted(erasure.destroyed)}
        erasure.save(tx, "signed", certificate=certificate.text)


def file_certificate(
    accounts: Accounts, erasure: ErasureRequest, certificate: ErasureCertificate
) -> ErasureCertificate:
    """Make sure that the certificate is in its folder, and durable there; only then is the request done."""
    certificates_folder(accounts.settings).create(f"{certificate.request_id}.json", certificate.text.encode("ascii"))
    if erasure.state == "signed":
        with accounts.store.transaction() as tx:
            erasure.save(tx, "done", finished_at=tx.now)
    return certificate


def public_key(accounts: Accounts) -> Ed25519PublicKey:
    """Return the key that the installation's certificates are checked with."""
    return Ed25519PrivateKey.from_private_bytes(accounts.installation_key("signing")).public_key()
