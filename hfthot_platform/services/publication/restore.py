"""Bringing the operational store and the lake together again after one of them was restored from another time.

Both know the chain of the change log: the store its newest entry and those that wait, the lake the rows of
`audit_log`.  Where the chains meet tells which of the two is behind, and whether they belong together at all.

* The store is behind: the lake has entries that the restored store never heard of.  What the store did since goes
  behind them under new numbers, and whoever those entries were about is written to the lake as the store has it.
* The lake is behind: published entries are in neither any more.  That cannot be undone, only recorded: the chain gets
  a gap that every later check reports, and the lake is rewritten from the store.

The publisher does the first by itself, loudly; the second is an administrator's decision.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Final, Literal

import polars as pl
import sqlalchemy as sa

from hfthot_platform.core.errors import StoreError
from hfthot_platform.domain.contracts.accounts import AUDIT_LOG, USER_TABLES
from hfthot_platform.services.publication.chain import chain_gaps_of
from hfthot_platform.storage.lakehouse import Lakehouse
from hfthot_platform.storage.operational import schema
from hfthot_platform.storage.operational.changes import GENESIS, AuditEvent, RowChange, to_json
from hfthot_platform.storage.operational.connection import Connection
from hfthot_platform.storage.operational.published import issued_row, provider_row, sessions_row, usage_row, users_row
from hfthot_platform.storage.operational.store import Store

__all__ = [
    "ChainComparison",
    "Reconciliation",
    "compare_chains",
    "follow_the_lake",
    "rewrite_lake",
    "unrelated_error",
    "write_rows",
]

State = Literal["together", "store_behind", "lake_behind", "unrelated"]
#: Subjects whose rows become one entry of the log.
_SUBJECTS: Final = 500
_ROWS: Final = (
    (schema.sessions, sessions_row),
    (schema.api_keys, issued_row),
    (schema.provider_keys, provider_row),
    (schema.usage, usage_row),
)


@dataclass(frozen=True)
class ChainComparison:
    """How the store's chain and the lake's fit."""

    state: State
    #: The last entry that both have: `seq` and `hash`.
    common: tuple[int, str]
    #: The newest entry of each.
    store: tuple[int, str]
    lake: tuple[int, str]


@dataclass(frozen=True)
class Reconciliation:
    """What was done to bring store and lake together."""

    state: State
    #: Entries that the lake has and the restored store did not (`store_behind`), or that are lost (`lake_behind`).
    first: int
    last: int
    #: Entries of the store that got new numbers.
    moved: int
    #: Subjects whose rows were written to the lake as the store has them, and those that the store does not know.
    written: int
    forgotten: int


def compare_chains(lake: Lakehouse, store: Store, reached: int) -> ChainComparison:
    """Compare the two chains; `reached` is the last entry that all user tables have.

    Costs one read of the store where nothing waits that should not, and one pruned read of the lake.
    """
    head = store.head()
    waiting = store.entries(0, 1)
    # What the store says was published last: the entry before the first that waits.
    base = (waiting[0].seq - 1, waiting[0].previous_hash) if waiting else head
    # Retention may have taken the newest row itself; its anchor has the hash then.
    theirs = (_hash_at(lake, reached) or _known(store, reached)) if reached else GENESIS
    newest = (reached, theirs or "")
    if base == newest or chain_gaps_of(store).get(reached) == (newest[1], *base):
        return ChainComparison("together", newest, head, newest)
    if theirs is None:
        return ChainComparison("unrelated", (0, GENESIS), head, newest)
    if base[0] > reached:
        fits = _known(store, reached) in {None, theirs}
        return ChainComparison("lake_behind" if fits else "unrelated", newest, head, newest)
    if base[0] < reached and (found := store.entries(reached - 1, 1)) and (found[0].seq, found[0].hash) == newest:
        # A publisher was killed before it trimmed what it had published.
        return ChainComparison("together", newest, head, newest)
    common = base if base[0] and base[0] < reached and _hash_at(lake, base[0]) == base[1] else (0, GENESIS)
    if base[0] == common[0]:
        # What was published and not trimmed before the backup was made is common too.
        for entry in store.entries(base[0], reached - base[0]):
            if _hash_at(lake, entry.seq) != entry.hash:
                break
            common = entry.seq, entry.hash
    if common[0]:
        return ChainComparison("store_behind", common, head, newest)
    return ChainComparison("unrelated", (0, GENESIS), head, newest)


def follow_the_lake(lake: Lakehouse, store: Store, comparison: ChainComparison) -> Reconciliation:
    """Let a store that was restored from before the lake's newest entries go on after them.

    The lake's rows of everybody whom those entries were about are written as the store has them; those of subjects
    that the restored store does not know, whose keys are lost with it, are deleted.  No publisher may run meanwhile.

    Raises:
        StoreError: the two do not belong together.
    """
    if comparison.state != "store_behind":
        raise unrelated_error(comparison)
    since = comparison.common[0]
    rows = lake.table(AUDIT_LOG.name).scan().filter(pl.col("seq") > since, pl.col("subject_id").is_not_null())
    touched = rows.select(pl.col("subject_id").unique().sort()).collect().to_series().to_list()
    _anchor(lake, store)
    moved = store.continue_after(since, comparison.lake)
    span = {"first": since + 1, "last": comparison.lake[0], "moved": moved}
    _note(store, "store.restored", span)
    written, forgotten = _write(store, touched)
    return Reconciliation("store_behind", since + 1, comparison.lake[0], moved, written, forgotten)


def rewrite_lake(lake: Lakehouse, store: Store, comparison: ChainComparison) -> Reconciliation:
    """Let a lake that was restored from before the store's published entries go on, with a gap that is on record.

    The user tables become what the store has; entries of the audit log that were published and lie in no backup are
    lost, and every check of the chain says which.  No publisher may run meanwhile.

    Raises:
        StoreError: the two do not belong together.
    """
    if comparison.state != "lake_behind":
        raise unrelated_error(comparison)
    waiting = store.entries(0, 1)
    to_seq, to_hash = (waiting[0].seq - 1, waiting[0].previous_hash) if waiting else comparison.store
    after_seq, after_hash = comparison.lake
    with store.transaction() as tx:
        gaps = schema.chain_gaps
        values = {"after_hash": after_hash, "to_seq": to_seq, "to_hash": to_hash, "noted_at": tx.now}
        tx.execute(sa.delete(gaps).where(gaps.c.after_seq == after_seq))
        tx.execute(sa.insert(gaps).values(after_seq=after_seq, **values))
    _note(store, "lake.restored", {"first": after_seq + 1, "last": to_seq})
    written, forgotten = write_rows(lake, store)
    return Reconciliation("lake_behind", after_seq + 1, to_seq, 0, written, forgotten)


def write_rows(lake: Lakehouse, store: Store) -> tuple[int, int]:
    """Log every row of the user tables as the store has it; return how many subjects were written, and forgotten."""
    with store.reading() as rx:
        living = list(rx.execute(sa.select(schema.users.c.subject_id)).scalars())
    return _write(store, sorted({*living, *_subjects(lake)}))


def unrelated_error(comparison: ChainComparison) -> StoreError:
    """Return the error for a store and a lake whose chains do not fit."""
    return StoreError(
        f"the store ends at entry {comparison.store[0]} and the user tables end at {comparison.lake[0]}, but their "
        "chains have no common entry",
        where="change_log",
        hint="The store and the lake belong to different installations, or both changed after a restore. "
        "Restore both to the same time, then run `hfthot accounts restore`.",
    )


def _hash_at(lake: Lakehouse, seq: int) -> str | None:
    """Return the hash of an entry in the lake, None where it is not there (any more)."""
    rows = lake.table(AUDIT_LOG.name).scan().filter(pl.col("seq") == seq).select("hash").collect()
    return None if rows.is_empty() else str(rows.item(0, 0))


def _known(store: Store, seq: int) -> str | None:
    """Return the hash of an entry as an anchor of the store has it."""
    anchors = schema.retention_anchors
    with store.reading() as rx:
        return rx.execute(sa.select(anchors.c.hash).where(anchors.c.seq == seq)).scalar()


def _anchor(lake: Lakehouse, store: Store) -> None:
    """Take over the anchor that retention left in the lake after the backup was made."""
    rows = lake.table(AUDIT_LOG.name).scan()
    first = rows.filter(pl.col("seq") == pl.col("seq").min()).select("seq", "previous_hash").collect()
    seq, previous = int(first["seq"][0]) - 1, str(first["previous_hash"][0])
    anchors = schema.retention_anchors
    with store.transaction() as tx:
        newest = tx.execute(sa.select(sa.func.max(anchors.c.seq))).scalar() or 0
        if newest < seq:
            tx.execute(sa.insert(anchors).values(seq=seq, hash=previous, cut_at=tx.now))


def _subjects(lake: Lakehouse) -> Iterator[str]:
    for declared in USER_TABLES:
        if declared is not AUDIT_LOG and lake.table(declared.name).version() is not None:
            rows = lake.table(declared.name).scan().select(pl.col("subject_id").unique()).collect()
            yield from rows.to_series().to_list()


def _note(store: Store, action: str, span: Mapping[str, int]) -> None:
    with store.transaction() as tx:
        tx.log([], AuditEvent(action=action, detail=to_json(span)))


def _write(store: Store, subject_ids: Iterable[str]) -> tuple[int, int]:
    """Log the rows of subjects as the store has them; return how many were written, and how many it does not know."""
    wanted = list(subject_ids)
    written = forgotten = 0
    for start in range(0, len(wanted), _SUBJECTS):
        chosen = wanted[start : start + _SUBJECTS]
        with store.transaction() as tx:
            rows = _rows(tx, chosen)
            changes: list[RowChange] = []
            for subject_id in chosen:
                # What the lake has goes first: rows that the store never had must not outlive it.
                changes += [
                    RowChange(contract.name, "forget", {"subject_id": subject_id})
                    for contract in USER_TABLES
                    if contract is not AUDIT_LOG
                ]
                changes += rows.get(subject_id, [])
            known = sum(1 for subject_id in chosen if subject_id in rows)
            written, forgotten = written + known, forgotten + len(chosen) - known
            tx.log(changes, AuditEvent(action="store.rows_written", detail=to_json({"subjects": len(chosen)})))
    return written, forgotten


def _rows(connection: Connection, subject_ids: list[str]) -> dict[str, list[RowChange]]:
    """Return the lake's rows of subjects by subject; those without an account are left out."""

    def of(table: sa.Table) -> Iterator[sa.RowMapping]:
        yield from connection.execute(sa.select(table).where(table.c.subject_id.in_(subject_ids))).mappings()

    found = {row["subject_id"]: [users_row(row)] for row in of(schema.users)}
    for table, as_change in _ROWS:
        for row in of(table):
            if row["subject_id"] in found:
                found[row["subject_id"]].append(as_change(row))
    return found
