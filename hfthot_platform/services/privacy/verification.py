"""The proof of an erasure: everything is searched, every retained version is read, and what is left is told.

Here belongs what a proof demands and what it says to the certificate.  How places are searched is `proof`'s, what a
finding means `remains`'s, what old versions must still say `old_versions`'s.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from hfthot_platform.core.errors import ErasureUnverifiedError
from hfthot_platform.core.time import moment
from hfthot_platform.services.accounts.accounts import Accounts
from hfthot_platform.services.privacy.erasure_requests import ErasureRequest
from hfthot_platform.services.privacy.old_versions import check_history
from hfthot_platform.services.privacy.proof.scan import Progress, scan
from hfthot_platform.services.privacy.remains import judged
from hfthot_platform.services.privacy.search_values import RemainingTrace, SearchValues
from hfthot_platform.services.privacy.searched_places import searched_places
from hfthot_platform.storage.lakehouse import Lakehouse
from hfthot_platform.storage.operational.places import record_places

__all__ = ["verified"]


def verified(
    accounts: Accounts, lake: Lakehouse, erasure: ErasureRequest, found: SearchValues, progress: Progress | None
) -> dict[str, Any]:
    """Return what was searched and read; `found` has afterwards what is left.

    Raises:
        ErasureUnverifiedError: something of the person is left and not accepted, or a place could not be searched.
    """
    record_places(accounts.store, accounts.settings)
    places, limits = searched_places(accounts, lake)
    report = scan(found.searched(), places, progress=progress)
    where = f"erasure {erasure.request_id}"
    outcome = judged(accounts, lake, found, report, subject_id=erasure.subject_id, keep_history=erasure.keep_history)
    found.remains = [*outcome.remains, *_missing_exports(erasure, found)]
    if report.truncated:
        raise ErasureUnverifiedError(
            "there are too many hits to list",
            where=where,
            hint="Accept the value that occurs everywhere (`hfthot privacy accept ... --everywhere`), then run "
            "the request again.",
        )
    left = found.open_hits
    if left:
        unreadable = sum(remain.kind == "unreadable" for remain in left)
        having = "1 place still has" if len(left) == 1 else f"{len(left)} places still have"
        what = f"{having} data of the person; the first one is {left[0]}"
        if unreadable == len(left):
            what = f"{unreadable} files could not be searched; the first one is {left[0]}"
        raise ErasureUnverifiedError(
            what,
            where=where,
            hint=f"List them with `hfthot privacy hits {erasure.request_id}`. Remove what belongs to the "
            "person, accept the rest with a reason, then run the request again. The account itself is "
            "already unreadable.",
        )
    history = check_history(accounts, lake, erasure.subject_id, keep_history=erasure.keep_history, where=where)
    left_out = sorted(found.left_out | set(report.left_out) | set(outcome.left_out))
    accepted = [
        {
            **judgement.shown,
            "reason": judgement.reason,
            "accepted_at": moment(judgement.at).isoformat(),
            "everywhere": judgement.everywhere,
        }
        for judgement in found.accepted
        if any(judgement.covers(remain) for remain in found.remains)
    ]
    return {
        "searched_values": report.needles,
        "not_searched": [list(kind_and_reason) for kind_and_reason in left_out],
        "found_before": None if found.before is None else _by_kind(found),
        "coincidences": outcome.coincidences,
        "places": {place.name: {"files": place.files, "bytes": place.bytes} for place in report.places},
        "scanned_files": report.files,
        "scanned_bytes": report.bytes,
        "decoded_bytes": report.bytes_decoded,
        "scan_seconds": round(report.seconds, 3),
        "opaque_files": sum(len(place.opaque) for place in report.places),
        "canaries_planted": report.canaries,
        "canaries_found": report.canaries,
        "limits": [*limits, *outcome.limits],
        "accepted": accepted,
        **history,
    }


def _missing_exports(erasure: ErasureRequest, found: SearchValues) -> Iterator[RemainingTrace]:
    """Yield exports of the person that were made and that nobody deleted: they lie on a disk of another host."""
    exports = erasure.report.get("exports", {})
    for request_id in erasure.report.get("exports_missing", ()):
        where = exports.get(request_id) or "a folder that was not noted"
        named = f"{request_id} (made in {where}; this host does not have it)"
        yield RemainingTrace(
            hit=found.name_of("exports", "unreadable", request_id),
            place="exports",
            file=named,
            kind="unreadable",
            encoding="",
            inside="",
            offset=0,
            count=1,
            before=None,
            modified=None,
            value=None,
            path=named,
            context="",
        )


def _by_kind(found: SearchValues) -> dict[str, int]:
    """Return how often each kind of value was found before the destruction, outside the lake."""
    kinds = [kind for kind, _ in found.needles]
    counts: dict[str, int] = {}
    for (_, _, value), count in (found.before or {}).items():
        counts[kinds[value]] = counts.get(kinds[value], 0) + count
    return dict(sorted(counts.items()))
