"""The proof that the audit log is whole: no entry altered, dropped, inserted or put elsewhere.

Each entry's hash covers the entry before it, and the operational store knows the newest hash.  So the rows of
`audit_log`, then the entries that wait to be published, must lead from an anchor (the beginning, or the last entry
that retention removed) to the head of the store.  Erasure takes the personal columns away and leaves their digest,
which the hash covers; where a row says that it was redacted, its subject must have been erased.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Any, Final

import polars as pl
import sqlalchemy as sa

from hfthot_platform.core.time import DAY
from hfthot_platform.domain.contracts.accounts import AUDIT_LOG
from hfthot_platform.storage.lakehouse import Lakehouse
from hfthot_platform.storage.operational.changes import GENESIS, Entry, chain_hash, personal_digest
from hfthot_platform.storage.operational.schema import chain_gaps, retention_anchors, subjects
from hfthot_platform.storage.operational.store import Store

__all__ = ["ChainReport", "Problem", "chain_gaps_of", "verify_chain"]

_ROWS: Final = 50_000
_PAGE: Final = 5_000
_MOST_PROBLEMS: Final = 100
_COLUMNS: Final = tuple(name for name in AUDIT_LOG.column_names if name != "schema_version")


@dataclass(frozen=True)
class Problem:
    """Where the chain is broken, and how."""

    seq: int
    what: str

    def __str__(self) -> str:
        return f"entry {self.seq} {self.what}"


@dataclass(frozen=True)
class ChainReport:
    """What a check of the audit log found."""

    #: Entries checked in the lake, and in the change log behind it.
    entries: int
    pending: int
    #: The last entry that retention removed; 0 if none was.
    anchor_seq: int
    #: The newest entry, by the store.
    head_seq: int
    #: Entries whose personal columns were erased.
    redacted: int
    problems: tuple[Problem, ...]
    seconds: float
    #: Entries that were lost when the lake was restored from before them, as the store has it on record.
    lost: int = 0
    #: Heads exported earlier that it was compared with.
    exported_heads: int = 0

    @property
    def intact(self) -> bool:
        """Whether every entry is there and as it was written."""
        return not self.problems


@dataclass
class _AuditChain:
    """The chain as far as it was followed."""

    seq: int
    hash: str
    #: Hashes by `seq` that the store knows.
    known: dict[int, str]
    #: Gaps on record, by the last entry before each: its hash, the last lost entry, and that one's hash.
    gaps: dict[int, tuple[str, int, str]] = field(default_factory=dict)
    lost: int = 0
    problems: list[Problem] = field(default_factory=list)
    #: Subjects of redacted rows; each must have been erased.
    redacted: dict[str | None, int] = field(default_factory=dict)
    redacted_rows: int = 0

    def add(self, row: dict[str, Any]) -> None:
        seq, own = row["seq"], row["hash"]
        if seq <= self.seq:
            self.broken(seq, "occurs twice")
            return
        if seq > self.seq + 1:
            self.pass_gap()
        if seq > self.seq + 1:
            missing = f"{self.seq + 1}" if seq == self.seq + 2 else f"{self.seq + 1} to {seq - 1}"
            self.broken(self.seq + 1, f"is missing ({missing})")
        elif row["previous_hash"] != self.hash:
            self.broken(seq, "does not follow from the previous entry")
        digest = row["personal_digest"]
        recomputed = chain_hash(
            row["previous_hash"],
            seq=seq,
            ts=row["ts"],
            subject_id=row["subject_id"],
            actor_id=row["actor_id"],
            action=row["action"],
            outcome=row["outcome"],
            resource=row["resource"],
            detail=row["detail"],
            personal_digest=digest,
        )
        if recomputed != own or row["day"] != row["ts"] // DAY:
            self.broken(seq, "was altered")
        personal = (row["ip"], row["user_agent"], row["personal_detail"])
        if row["redacted"]:
            self.redacted_rows += 1
            self.redacted.setdefault(row["subject_id"], seq)
            if any(value is not None for value in personal):
                self.broken(seq, "is marked as redacted, but has personal data")
        elif personal_digest(*personal) != digest:
            self.broken(seq, "has altered personal columns")
        if self.known.get(seq, own) != own:
            self.broken(seq, "is not the entry that was written")
        self.seq, self.hash = seq, own

    def pass_gap(self) -> None:
        """Go on after entries that are known to be lost, if they are missing here."""
        before, to_seq, to_hash = self.gaps.get(self.seq, ("", 0, ""))
        if before == self.hash:
            self.lost += to_seq - self.seq
            self.seq, self.hash = to_seq, to_hash

    def broken(self, seq: int, what: str) -> None:
        if len(self.problems) < _MOST_PROBLEMS:
            self.problems.append(Problem(seq, what))


def verify_chain(lake: Lakehouse, store: Store, exported: Mapping[int, str] = MappingProxyType({})) -> ChainReport:
    """Check the audit log from its anchor to the store's head, in bounded memory.

    Args:
        lake: the lake.
        store: the operational store.
        exported: hashes by `seq` that are known from outside both; whoever alters rows, anchors and head together
            cannot alter these.

    What is published while this runs is part of the check or not; both are right.

    Raises:
        DamagedTableError: files of the table are missing.
        StoreError: the store cannot be read.
    """
    started = time.perf_counter()
    with store.reading() as rx:
        newest = sa.select(retention_anchors.c.seq, retention_anchors.c.hash).order_by(retention_anchors.c.seq.desc())
        anchor = rx.execute(newest.limit(1)).first()
    anchor_seq, anchor_hash = (0, GENESIS) if anchor is None else (anchor.seq, anchor.hash)
    # The head is read first: everything up to it is in the lake or in the log when those are read.
    head_seq, head_hash = store.head()
    chain = _AuditChain(anchor_seq, anchor_hash, {head_seq: head_hash} | dict(exported), chain_gaps_of(store))
    aside = {waiting.entry.seq: waiting.entry for waiting in store.waiting_aside() if not waiting.audited}
    in_lake = pending = 0
    version = -1
    while True:
        # One version of the table at a time.  If a publisher went on between reading it and reading the log, what
        # is missing from the log is in a newer version.
        current = lake.table(AUDIT_LOG.name).version()
        if current is not None and current > version:
            version = current
            for row in _rows(lake, version, chain.seq):
                _fill(chain, aside, row["seq"])
                chain.add(row)
                in_lake += 1
        waiting = store.entries(chain.seq, _PAGE)
        _fill(chain, aside, waiting[0].seq if waiting else head_seq + 1)
        first = waiting[0].seq if waiting else head_seq + 1
        if first > chain.seq + 1 and (lake.table(AUDIT_LOG.name).version() or -1) > version:
            continue
        if first > head_seq:
            break
        for entry in waiting:
            chain.add(_as_row(entry))
        pending += len(waiting)
    chain.pass_gap()
    if chain.seq < head_seq:
        chain.broken(chain.seq + 1, f"is missing ({chain.seq + 1} to {head_seq}, the newest entry that was written)")
    latest_seq, latest_hash = store.head()
    if chain.seq > latest_seq or (chain.seq == latest_seq and chain.hash != latest_hash):
        chain.broken(chain.seq, "was never written")
    _redacted_without_erasure(store, chain)
    return ChainReport(
        entries=in_lake,
        pending=pending,
        anchor_seq=anchor_seq,
        head_seq=head_seq,
        redacted=chain.redacted_rows,
        problems=tuple(chain.problems),
        seconds=time.perf_counter() - started,
        lost=chain.lost,
    )


def chain_gaps_of(store: Store) -> dict[int, tuple[str, int, str]]:
    """Return the gaps on record: by the last entry before each its hash, and the last lost entry with its hash."""
    with store.reading() as rx:
        rows = rx.execute(sa.select(chain_gaps)).all()
    return {row.after_seq: (row.after_hash, row.to_seq, row.to_hash) for row in rows}


def _fill(chain: _AuditChain, aside: dict[int, Entry], before: int) -> None:
    """Follow the chain through entries that the lake does not take, which the store keeps, up to an entry."""
    while chain.seq + 1 < before and (entry := aside.get(chain.seq + 1)) is not None:
        chain.add(_as_row(entry))


def _as_row(entry: Entry) -> dict[str, Any]:
    """Return an entry as the row of `audit_log` that it becomes."""
    audit = entry.audit
    return {
        "seq": entry.seq,
        "ts": entry.ts,
        "day": entry.ts // DAY,
        "subject_id": audit.subject_id,
        "actor_id": audit.actor_id,
        "action": audit.action,
        "outcome": audit.outcome,
        "resource": audit.resource,
        "detail": audit.detail,
        "ip": audit.ip,
        "user_agent": audit.user_agent,
        "personal_detail": audit.personal_detail,
        "personal_digest": entry.personal_digest,
        # Of an entry that waits aside, erasure takes the personal columns as it does in the lake.
        "redacted": entry.personal_digest != personal_digest(audit.ip, audit.user_agent, audit.personal_detail)
        and not (audit.ip or audit.user_agent or audit.personal_detail),
        "previous_hash": entry.previous_hash,
        "hash": entry.hash,
    }


def _rows(lake: Lakehouse, version: int, after: int) -> Iterator[dict[str, Any]]:
    """Yield the rows of a version of `audit_log` after an entry, in their order."""
    rows = (
        lake.table(AUDIT_LOG.name)
        .scan(version)
        .filter(pl.col("seq") > after)
        .select(
            *(pl.col(name) for name in _COLUMNS if name not in {"date", "ts"}),
            pl.col("ts").dt.epoch("us"),
            pl.col("date").dt.epoch("d").alias("day"),
        )
    )
    first, last = rows.select(pl.col("seq").min().alias("first"), pl.col("seq").max().alias("last")).collect().row(0)
    if first is None:
        return
    for start in range(first, last + 1, _ROWS):
        # Pruned by the files' statistics of `seq`.
        part = rows.filter(pl.col("seq").is_between(start, start + _ROWS - 1)).sort("seq").collect()
        yield from part.iter_rows(named=True)


def _redacted_without_erasure(store: Store, chain: _AuditChain) -> None:
    """Find rows whose personal columns were taken away although their subject was never erased."""
    suspects = sorted(subject for subject in chain.redacted if subject is not None)
    erased: set[str] = set()
    with store.reading() as rx:
        for start in range(0, len(suspects), 500):
            chosen = sa.select(subjects.c.subject_id).where(
                subjects.c.subject_id.in_(suspects[start : start + 500]), subjects.c.erased_at.is_not(None)
            )
            erased |= set(rx.execute(chosen).scalars())
    for subject, seq in chain.redacted.items():
        if subject not in erased:
            chain.broken(seq, "was redacted, although its subject was not erased")
