"""Entries of the change log: what an operation changed, and its audit event, chained to the one before.

Here belongs what an entry is and how it is written and hashed: the store appends entries, the publisher applies
them to the user tables, the check of the chain recomputes the hashes from the rows of `audit_log`.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from hashlib import sha256
from typing import Any, Final, Literal

from hfthot_platform.core.errors import StoreError
from hfthot_platform.core.time import DAY, day_of

__all__ = ["GENESIS", "AuditEvent", "Entry", "Outcome", "RowChange", "chain_hash", "chained", "decode", "encode"]
__all__ += ["personal_digest", "to_json", "utc_day"]

#: What the first entry of all is chained to.
GENESIS: Final = "0" * 64
# Canonical: fixed separators, ASCII, no NaN.  Objects are sorted where the text itself is compared or hashed.
_JSON: Final = json.JSONEncoder(separators=(",", ":"), ensure_ascii=True, allow_nan=False)
_SORTED: Final = json.JSONEncoder(separators=(",", ":"), ensure_ascii=True, allow_nan=False, sort_keys=True)

Outcome = Literal["success", "failure", "refused"]


@dataclass(frozen=True, slots=True)
class RowChange:
    """A change of one row of a user table of the lake.

    `put`: `row` is the whole row, without `date`, `schema_version` and `seq`, times in microseconds since 1970.
    `forget`: `row` is `{"subject_id": ...}`, and all rows of that subject in the table go; those of `audit_log` stay
    and lose `ip`, `user_agent` and `personal_detail` (`redacted` becomes true).
    """

    table: str
    op: Literal["put", "forget"]
    row: Mapping[str, Any]


@dataclass(frozen=True, slots=True, kw_only=True)
class AuditEvent:
    """Who did what to whom, and how it ended.

    `detail` is JSON without personal data; `ip`, `user_agent` and `personal_detail` are envelopes under the
    subject's audit key, or None.
    """

    action: str
    outcome: Outcome = "success"
    subject_id: str | None = None
    actor_id: str = "system"
    resource: str | None = None
    detail: str | None = None
    ip: str | None = None
    user_agent: str | None = None
    personal_detail: str | None = None


@dataclass(frozen=True, slots=True)
class Entry:
    """One operation in the ordered change log."""

    seq: int
    #: Microseconds since 1970 UTC.
    ts: int
    rows: tuple[RowChange, ...]
    audit: AuditEvent
    previous_hash: str
    hash: str
    personal_digest: str


def to_json(value: object) -> str:
    """Return canonical JSON: one text per value."""
    return _SORTED.encode(value)


@lru_cache(maxsize=64)
def _iso_day(number: int) -> str:
    return day_of(number * DAY).isoformat()


def utc_day(ts: int) -> str:
    """Return the UTC day of a time in microseconds, as `YYYY-MM-DD`."""
    return _iso_day(ts // DAY)


def personal_digest(ip: str | None, user_agent: str | None, personal_detail: str | None) -> str:
    """Return the SHA-256 of the three envelopes: it holds their place in the chain once they are erased.

    Envelopes carry 96 random bits and a tag under a key that dies with the subject, so the digest says nothing
    about what was in them.
    """
    return sha256(_JSON.encode((ip, user_agent, personal_detail)).encode()).hexdigest()


def chain_hash(
    previous_hash: str,
    *,
    seq: int,
    ts: int,
    subject_id: str | None,
    actor_id: str,
    action: str,
    outcome: str,
    resource: str | None,
    detail: str | None,
    personal_digest: str,
) -> str:
    """Return the hash of an audit entry: SHA-256 over the previous hash and its columns, as a JSON array.

    Everything that goes in is a column of `audit_log` that erasure leaves alone; `ts` in microseconds.
    """
    fields = (
        previous_hash,
        utc_day(ts),
        seq,
        ts,
        subject_id,
        actor_id,
        action,
        outcome,
        resource,
        detail,
        personal_digest,
    )
    return sha256(_JSON.encode(fields).encode()).hexdigest()


def chained(seq: int, ts: int, rows: Sequence[RowChange], audit: AuditEvent, previous_hash: str) -> Entry:
    """Return the entry that follows the one with `previous_hash`."""
    digest = personal_digest(audit.ip, audit.user_agent, audit.personal_detail)
    own = chain_hash(
        previous_hash,
        seq=seq,
        ts=ts,
        subject_id=audit.subject_id,
        actor_id=audit.actor_id,
        action=audit.action,
        outcome=audit.outcome,
        resource=audit.resource,
        detail=audit.detail,
        personal_digest=digest,
    )
    return Entry(seq, ts, tuple(rows), audit, previous_hash, own, digest)


def encode(entry: Entry) -> bytes:
    """Return the payload of an entry: everything but `seq` and `ts`, which have columns of their own."""
    audit = entry.audit
    fields = (
        [(change.table, change.op, change.row) for change in entry.rows],
        (
            audit.action,
            audit.outcome,
            audit.subject_id,
            audit.actor_id,
            audit.resource,
            audit.detail,
            audit.ip,
            audit.user_agent,
            audit.personal_detail,
        ),
        entry.previous_hash,
        entry.hash,
        entry.personal_digest,
    )
    return b"1" + _JSON.encode(fields).encode()


def decode(seq: int, ts: int, payload: bytes) -> Entry:
    """Return the entry of a payload.

    Raises:
        StoreError: the payload was written by a newer version, or damaged.
    """
    if payload[:1] != b"1":
        raise StoreError(
            f"entry {seq} has an unknown format", where="change_log", hint="Upgrade hfthot-platform on this machine."
        )
    try:
        rows, audit, previous_hash, own, digest = json.loads(payload[1:])
        action, outcome, subject_id, actor_id, resource, detail, ip, user_agent, personal_detail = audit
        changes = tuple(RowChange(table, op, row) for table, op, row in rows)
    except (ValueError, TypeError) as error:
        raise StoreError(
            f"entry {seq} is damaged ({type(error).__name__})",
            where="change_log",
            hint="Restore the store from a backup.",
        ) from None
    event = AuditEvent(
        action=action,
        outcome=outcome,
        subject_id=subject_id,
        actor_id=actor_id,
        resource=resource,
        detail=detail,
        ip=ip,
        user_agent=user_agent,
        personal_detail=personal_detail,
    )
    return Entry(seq, ts, changes, event, previous_hash, own, digest)
