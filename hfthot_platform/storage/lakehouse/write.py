"""Writing a table: each change is planned on one version, audited, and published as one commit, or not at all.

Writes go optimistically under the shared writers' lock; a logical conflict runs the whole read-compute-write again on a
fresh handle, and after a few losses under the exclusive lock, so that progress on one host is certain.  A write
acknowledges (returns its `Commit`) only when its files are durable.
"""

from __future__ import annotations

import itertools
import os
import random
import time
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from datetime import date, datetime
from typing import Final, Protocol

import polars as pl
from deltalake import DeltaTable
from deltalake.exceptions import CommitFailedError, DeltaError

from hfthot_platform.core.errors import (
    AuditFailedError,
    BadRequestError,
    CommitConflictError,
    DamagedTableError,
    LakehouseError,
)
from hfthot_platform.domain.contracts import TableContract
from hfthot_platform.domain.contracts.accounts import USER_TABLES
from hfthot_platform.domain.contracts.model import ROW_NUMBER
from hfthot_platform.storage.lakehouse import schema
from hfthot_platform.storage.lakehouse.audit import Audited, audit, conform, quarantine_rows
from hfthot_platform.storage.lakehouse.commits import Commit, CommitInputs, Stamp, new_commit_id, properties
from hfthot_platform.storage.lakehouse.datafiles import DataFiles
from hfthot_platform.storage.lakehouse.days import (
    Span,
    chunks,
    literal,
    others_in_partition,
    sql_partitions,
    sql_within,
    within,
)
from hfthot_platform.storage.lakehouse.log import DeltaLog
from hfthot_platform.storage.lakehouse.publication import ROW_GROUP_ROWS, OnChange, Publication, WithdrawnRows, compared
from hfthot_platform.storage.lakehouse.read import Reader
from hfthot_platform.storage.lakehouse.rewrite import Rewrite
from hfthot_platform.storage.lakehouse.snapshot import Snapshot
from hfthot_platform.storage.lakehouse.storage import Storage, damaged, translated
from hfthot_platform.storage.lakehouse.streamed import SourceFailedError, StreamedWrite, write_rows

__all__ = ["OwningLake", "Plan", "Rows", "Writer"]

#: Rows to write: a frame, a lazy frame (written in bounded memory), or what an audit already returned.
Rows = pl.DataFrame | pl.LazyFrame | Audited

_OPTIMISTIC: Final = 4
_ATTEMPTS: Final = 12


class Quarantine(Protocol):
    """What a table needs of the one that takes its rejected rows."""

    def audit(self, rows: pl.DataFrame) -> Audited:
        """Check rows against its contract."""

    def merge(self, rows: pl.DataFrame, *, on_change: OnChange, stamp: Stamp) -> Commit:
        """Add rows by primary key."""

    def publish(
        self, batches: Callable[[], Iterable[Audited]], *, source_ref: str, on_change: OnChange, stamp: Stamp
    ) -> Commit:
        """Add many batches as one commit."""


class OwningLake(Protocol):
    """What a table needs of the lake that it is in."""

    storage: Storage
    contracts: Mapping[str, TableContract]
    clock: Callable[[], datetime]

    def table(self, name: str) -> Quarantine:
        """Return another table."""

    def require(self) -> None:
        """Raise if there is no lake."""


@dataclass(frozen=True)
class Plan:
    """What an attempt decided after reading: how to write, and the account of rows."""

    #: Writes through the handle that was read, as the commit of the given id; None where there is nothing to write.
    write: Callable[[DeltaTable, str], None] | None = None
    published: int = 0
    duplicate: int = 0
    updated: int = 0
    replayed: int = 0
    forgotten: int = 0
    withdrawn: int = 0
    restored: int = 0
    days: frozenset[date] = frozenset()
    #: Rejected rows that go to quarantine before anything is public.
    rejected: pl.DataFrame | None = None
    #: Rejected rows that are in quarantine already.
    quarantined: int = 0
    #: A streamed write; its account takes the place of the one above when it is through.
    streamed: StreamedWrite | None = None

    def counted(self) -> tuple[int, int, int]:
        """Return how many rows were published, were duplicates, and went to quarantine."""
        if self.streamed is not None:
            done = self.streamed
            return done.published, done.duplicate, done.read - done.published - done.duplicate
        rejected = self.quarantined if self.rejected is None else self.rejected.height
        return self.published, self.duplicate, rejected


class Writer:
    """The ways to change one table."""

    def __init__(self, contract: TableContract, log: DeltaLog, reader: Reader, lake: OwningLake) -> None:
        self._contract = contract
        self._log = log
        self._backend = log.backend
        self._reader = reader
        self._lake = lake
        self._evolved = False

    # -- the ways to write ----------------------------------------------------------------------------------

    def append(self, rows: Rows, stamp: Stamp) -> Commit:
        """Add rows; see `Table.append`."""
        pieces = [self.audited(rows)] if isinstance(rows, Audited) else self._pieces(rows.lazy())

        def plan(_handle: DeltaTable) -> Plan:
            streamed = self._streamed(pieces, None, stamp)
            return Plan(
                lambda target, commit_id: streamed.write(
                    target, properties(stamp, commit_id), mode="append", predicate=None
                ),
                streamed=streamed,
            )

        return self._commit(plan, stamp)

    def replace(self, span: Span | None, rows: Rows | Callable[[pl.LazyFrame], pl.DataFrame], stamp: Stamp) -> Commit:
        """Make rows the only ones of some days; see `Table.replace`."""
        return self._commit(lambda handle: self._replace_plan(handle, span, rows, stamp), stamp)

    def _replace_plan(
        self,
        handle: DeltaTable,
        span: Span | None,
        rows: Rows | Callable[[pl.LazyFrame], pl.DataFrame],
        stamp: Stamp,
    ) -> Plan:
        contract = self._contract
        stored = self._snapshot(handle).scan()
        current = stored if span is None else stored.filter(within(contract, span))
        predicate = None if span is None else sql_within(contract, span)
        given = rows(current) if callable(rows) else rows
        if isinstance(given, pl.LazyFrame):
            pieces = self._pieces(given)
            if len(pieces) > 1:
                streamed = self._streamed(pieces, span, stamp)
                return Plan(
                    lambda target, commit_id: streamed.write(
                        target, properties(stamp, commit_id), mode="overwrite", predicate=predicate
                    ),
                    streamed=streamed,
                )
            given = pieces[0].collect()
        audited = self.audited(given)
        self._require_within(audited.rows, span)
        before = current.collect()
        rejected = audited.rejected
        if before.height == audited.rows.height and before.sort(contract.sort_by).equals(audited.rows):
            return Plan(None, before.height, audited.duplicates, replayed=before.height, rejected=rejected)
        whole, published = audited.rows, audited.rows.height
        if span is not None and contract.partition_by in {"month", "year"}:
            # delta-rs would copy the other days of the partition in any order, file by file.  Written again with
            # them the partition stays one sorted file, however often one of its days is replaced.
            others = stored.filter(others_in_partition(contract, span)).collect()
            whole = pl.concat([others, whole]).sort(contract.sort_by) if others.height else whole
            predicate = sql_partitions(contract, span)

        def write(target: DeltaTable, commit_id: str) -> None:
            inputs = properties(stamp, commit_id, rows=published)
            write_rows(contract, target, whole, inputs, mode="overwrite", predicate=predicate)

        return Plan(write, published, audited.duplicates, rejected=rejected)

    def merge(self, rows: Rows, on_change: OnChange, stamp: Stamp) -> Commit:
        """Add rows by primary key; see `Table.merge`."""
        audited = self.audited(rows.collect() if isinstance(rows, pl.LazyFrame) else rows)
        attempts = itertools.count(1)

        def plan(handle: DeltaTable) -> Plan:
            # Under the exclusive lock nobody comes between; on an object store, where there is none, a crowd of
            # writers of other days must not keep this one from ever committing.
            alone = self._backend.locks or next(attempts) <= _OPTIMISTIC
            return self._merge_plan(handle, audited, on_change, stamp, alone=alone)

        return self._commit(plan, stamp)

    def _merge_plan(
        self, handle: DeltaTable, audited: Audited, on_change: OnChange, stamp: Stamp, *, alone: bool
    ) -> Plan:
        """Plan a merge; `alone` asks for a commit that fails if any other came since the handle was read."""
        contract = self._contract
        rows = audited.rows
        if not rows.height:
            return Plan(None, 0, audited.duplicates, rejected=audited.rejected)
        partition = contract.partition_by
        current = self._snapshot(handle).scan()
        values: list[object] = []
        if partition:
            values = rows[partition].unique().sort().to_list()
            current = current.filter(pl.col(partition).is_in(values))
        found = compared(contract, rows, current, on_change)
        source, updated, replayed = found.source, found.updated, found.replayed.height
        duplicate = audited.duplicates + found.duplicates
        rejected = audited.rejected if found.conflicts is None else pl.concat([audited.rejected, found.conflicts])
        if not source.height:
            return Plan(None, replayed, duplicate, replayed=replayed, rejected=rejected)

        def write(target: DeltaTable, commit_id: str) -> None:
            only_new = alone and not updated
            inputs = properties(stamp, commit_id, alone=only_new, operation="MERGE", rows=source.height)
            if only_new:
                # None of the keys is there in the version that was read, and no other version can come between:
                # adding the rows is the merge, at a fraction of its cost.
                write_rows(contract, target, source, inputs, mode="append")
            else:
                _merge_rows(contract, target, source, values, inputs, update=bool(updated))

        return Plan(write, source.height + replayed, duplicate, updated=updated, replayed=replayed, rejected=rejected)

    def publish(
        self,
        batches: Callable[[], Iterable[Audited]],
        source_ref: str,
        in_place_of: WithdrawnRows | None,
        on_change: OnChange,
        stamp: Stamp,
    ) -> Commit:
        """Add all batches of a source as one commit; see `Table.publish`."""
        contract = self._contract
        one_source = bool(source_ref) and on_change != "keep"

        def plan(handle: DeltaTable) -> Plan:
            data = DataFiles(contract, handle, self._backend, row_group_rows=ROW_GROUP_ROWS, times_in_log=True)
            publication = Publication(data, self._snapshot(handle).scan())
            published = duplicate = quarantined = replayed = 0
            try:
                if in_place_of is not None:
                    publication.take_out(in_place_of, [self._rows_of(version) for version in in_place_of.before])
                for audited in batches():
                    found = publication.add(audited.rows, on_change, one_source=one_source)
                    bad = [part for part in (audited.rejected, found.conflicts) if part is not None and part.height]
                    if bad:
                        self.quarantine(pl.concat(bad), stamp)
                    quarantined += sum(part.height for part in bad)
                    published += found.source.height + found.replayed.height
                    replayed += found.replayed.height
                    duplicate += audited.duplicates + found.duplicates
                publication.finish()
            except BaseException:
                publication.discard()
                raise

            def write(target: DeltaTable, commit_id: str) -> None:
                about: dict[str, int | str] = {
                    "rows": published - replayed,
                    "source_ref": source_ref,
                    "updated": publication.updated,
                }
                inputs = properties(stamp, commit_id, alone=True, app=None, operation="PUBLISH", **about)
                self._commit_files(publication, target, commit_id, inputs)

            return Plan(
                write if publication.changes else None,
                published,
                duplicate,
                updated=publication.updated,
                replayed=replayed,
                withdrawn=publication.withdrawn,
                restored=publication.restored,
                days=frozenset(publication.days),
                quarantined=quarantined,
            )

        return self._commit(plan, stamp)

    def apply(
        self,
        upserts: pl.DataFrame | Audited | None,
        forget: Collection[str],
        redact: Collection[str],
        app: tuple[str, int],
        since: int | None,
        stamp: Stamp,
    ) -> Commit:
        """Publish a stretch of a log of changes exactly once; see `Table.apply`."""
        contract = self._contract
        lacks = (forget or redact) and contract.subject is None
        if lacks or (redact and contract.redaction is None):
            raise BadRequestError(
                "rows of this table cannot be forgotten or redacted by subject",
                where=contract.name,
                hint="Omit the subjects.",
            )
        if not isinstance(upserts, Audited):
            upserts = self.audit_all(contract.empty() if upserts is None else upserts)
        rows = self.audited(upserts).rows
        name, last = app

        def plan(handle: DeltaTable) -> Plan:
            reached = handle.transaction_version(name) or 0
            if reached >= last:
                return Plan()
            if since is not None and reached != since:
                raise CommitConflictError(
                    f"the table has entries of the log {name!r} up to {reached}, not {since}; nothing was written",
                    where=contract.name,
                    hint="Another publisher is working on the same log; run this one again.",
                )
            rewrite = Rewrite(contract, handle, self._backend, rows=rows, forget=forget, redact=redact)
            if not rewrite.changes:
                return Plan()

            def write(target: DeltaTable, commit_id: str) -> None:
                inputs = properties(stamp, commit_id, alone=True, app=app, operation="APPLY", rows=rows.height)
                self._commit_files(rewrite, target, commit_id, inputs)

            return Plan(write, rows.height, 0, updated=rewrite.replaced, forgotten=rewrite.forgotten)

        return self._commit(plan, stamp)

    def _commit_files(
        self, files: Publication | Rewrite, target: DeltaTable, commit_id: str, inputs: CommitInputs
    ) -> None:
        """Publish data files that are written already; where another commit came between they are deleted."""
        before = target.version()
        try:
            with translated(self._contract.name):
                files.commit(*inputs)
        except CommitFailedError:
            if not self._is_published(commit_id, before):
                files.discard()
            raise

    def restore(self, version: int, stamp: Stamp) -> Commit:
        """Make an older version current again; see `Table.restore`."""
        log = self._log
        started = time.perf_counter()
        commit_id = new_commit_id()
        with self._backend.writers_lock(exclusive=True):
            aside = False
            try:
                if log.open() is None:
                    raise log.unavailable(f"version {version}")
            except DamagedTableError:
                log.set_aside(version, commit_id)
                aside = True
            with log.writing() as handle:
                return self._restored(handle, version, stamp, commit_id, started, aside=aside)

    def _restored(
        self, handle: DeltaTable, version: int, stamp: Stamp, commit_id: str, started: float, *, aside: bool
    ) -> Commit:
        contract = self._contract
        whole = aside or next(self._snapshot(handle).faults(), None) is None
        if contract in USER_TABLES and not aside and whole:
            raise BadRequestError(
                "a user table is a copy of the operational store, so restoring an older version has no lasting effect",
                where=contract.name,
                hint="Restore a backup of the store, then run `hfthot accounts restore`; `--rewrite` "
                "rewrites every row of the user tables from the store. Older versions stay readable.",
            )
        target = self._reader.at(version, None)
        if target is not None:
            target.require()
        before = handle.version()
        if version == before:
            return replace(self._unchanged(version, Plan(), started, 1), changed=aside)
        commit, hooks = properties(stamp, commit_id, operation="RESTORE")
        try:
            with translated(contract.name):
                handle.restore(version, commit_properties=commit, post_commithook_properties=hooks)
        except CommitFailedError:
            raise CommitConflictError(
                "another writer committed in the meantime; nothing was restored",
                where=contract.name,
                hint="Check the table's history, and restore again if you still want to.",
            ) from None
        return self.acknowledge(commit_id, before, Plan(), started, 1)

    # -- before the write -----------------------------------------------------------------------------------

    def ensure(self) -> None:
        """Make the table if it is not there, or bring it to the contract's newer schema."""
        contract, log = self._contract, self._log
        newest = self._reader.newest()
        if newest is None:
            self._lake.storage.require_safe()
            with translated(contract.name):
                schema.create(contract, log)
        elif not self._evolved:
            self._evolve(newest.delta)
        self._evolved = True

    def _evolve(self, handle: DeltaTable) -> None:
        contract, log = self._contract, self._log
        for attempt in range(1, _ATTEMPTS + 1):
            if not schema.is_outdated(contract, handle):
                return
            with self._backend.writers_lock(exclusive=True), self._log.writing() as newest, translated(contract.name):
                try:
                    schema.evolve(contract, newest)
                except CommitFailedError:
                    _pause(attempt)
            handle = log.handle()
        raise self._conflict()

    def audited(self, rows: pl.DataFrame | Audited) -> Audited:
        """Return rows audited for this table, of which enough are good."""
        audited = rows if isinstance(rows, Audited) else audit(self._contract, rows)
        if audited.contract.name != self._contract.name:
            raise BadRequestError(f"the rows were audited for {audited.contract.name}", where=self._contract.name)
        self._require_publishable(audited.rejected, audited.read)
        return audited

    def audit_all(self, rows: pl.DataFrame) -> Audited:
        """Check rows none of which may be bad; see `Table.audit_all`."""
        sequence = self._contract.sequence
        if sequence in rows.columns and rows.schema[sequence].is_integer():
            rows = rows.with_columns(pl.col(sequence).cast(pl.Int64).alias(ROW_NUMBER))
        audited = audit(self._contract, rows)
        if audited.rejected.height:
            first = audited.rejected.sort("row_number").row(0, named=True)
            raise AuditFailedError(
                f"entry {first['row_number']} breaks the rule {first['reason']} ({first['detail']}), "
                f"and so do {audited.rejected.height - 1} more rows",
                where=self._contract.name,
                hint="Nothing was published. The change log contains the entry; correct the code that wrote it.",
            )
        return audited

    def quarantine(self, rejected: pl.DataFrame | None, stamp: Stamp) -> None:
        """Keep rejected rows in the table's quarantine."""
        if rejected is None or not rejected.height:
            return
        name = self._contract.quarantine
        if name not in self._lake.contracts:
            raise AuditFailedError(
                f"{rejected.height} rows break a rule: {rejected['detail'][0]}",
                where=self._contract.name,
                hint="This table has no quarantine; nothing was published.",
            )
        rows = quarantine_rows(rejected, self._lake.clock(), stamp.run_id)
        self._lake.table(name).merge(rows, on_change="keep", stamp=stamp)

    def quarantine_all(
        self, batches: Callable[[], Iterable[pl.DataFrame]], source_ref: str, stamp: Stamp
    ) -> Commit | None:
        """Keep the rejected rows of many batches as one commit; see `Table.quarantine_all`."""
        if not any(batch.height for batch in batches()):
            return None
        name = self._contract.quarantine
        if name not in self._lake.contracts:
            raise AuditFailedError("the table has no quarantine", where=self._contract.name)
        kept = self._lake.table(name)

        def audited() -> Iterator[Audited]:
            for batch in batches():
                if batch.height:
                    yield kept.audit(quarantine_rows(batch, self._lake.clock(), stamp.run_id))

        return kept.publish(audited, source_ref=source_ref, on_change="keep", stamp=stamp)

    def _pieces(self, rows: pl.LazyFrame) -> list[pl.LazyFrame]:
        """Return rows in memory-bounded pieces; their columns and types are checked before anything is read."""
        there = rows.collect_schema()
        conform(self._contract, pl.DataFrame(schema=there))
        time_column = self._contract.time_column
        if time_column is not None and isinstance(there[time_column], pl.Datetime):
            # In another time zone the days would be others.
            rows = rows.with_columns(pl.col(time_column).dt.convert_time_zone("UTC"))
        return chunks(self._contract, rows)

    def _streamed(self, pieces: list[pl.LazyFrame] | list[Audited], span: Span | None, stamp: Stamp) -> StreamedWrite:
        return StreamedWrite(
            self._contract,
            pieces,
            require_within=lambda rows: self._require_within(rows, span),
            require_publishable=self._require_publishable,
            quarantine=lambda rejected: self.quarantine(rejected, stamp),
        )

    def _require_publishable(self, rejected: pl.DataFrame, read: int) -> None:
        if self._contract.tolerates(rejected.height, read):
            return
        worst, count = rejected.group_by("reason").len().sort("len", "reason", descending=True).row(0)
        raise AuditFailedError(
            f"{rejected.height} of {read} rows break a rule, most often {worst} ({count}); the limit is "
            f"{self._contract.max_rejected_share:.0%}",
            where=self._contract.name,
            hint="Nothing was published. Correct the source or the computation, then run it again.",
        )

    def _require_within(self, rows: pl.DataFrame, span: Span | None) -> None:
        if span is None or not rows.height:
            return
        outside = rows.filter(within(self._contract, span).not_())
        if outside.height:
            raise BadRequestError(
                f"{outside.height} of {rows.height} rows are outside {span}",
                where=self._contract.name,
                hint="Replace the days that the rows are from.",
            )

    def _rows_of(self, version: int) -> pl.LazyFrame:
        found = self._reader.at(version, None)
        return self._contract.empty().lazy() if found is None else found.scan()

    # -- the commit -----------------------------------------------------------------------------------------

    def _commit(self, plan: Callable[[DeltaTable], Plan], stamp: Stamp) -> Commit:
        started = time.perf_counter()
        self.ensure()
        for attempt in range(1, _ATTEMPTS + 1):
            alone = attempt > self._backend.optimistic
            with self._backend.writers_lock(exclusive=alone), self._log.writing() as handle:
                # What is read for the plan and what is written go through this one handle: delta-rs detects a
                # conflict only between the version of the handle and the table's newest.
                before = handle.version()
                with self._diagnosed(handle):
                    todo = plan(handle)
                # Rejected rows are safe before the good ones are public: a crash between the two loses none.
                self.quarantine(todo.rejected, stamp)
                if todo.write is None:
                    return self._unchanged(before, todo, started, attempt)
                commit_id = new_commit_id()
                if self._wrote(todo.write, handle, commit_id, before):
                    return self.acknowledge(commit_id, before, todo, started, attempt)
            self._backend.met_another_writer()
            _pause(attempt)
        raise self._conflict()

    def _wrote(self, write: Callable[[DeltaTable, str], None], handle: DeltaTable, commit_id: str, before: int) -> bool:
        """Write; return False if another commit came between and everything has to be planned again."""
        try:
            with self._diagnosed(handle):
                write(handle, commit_id)
        except SourceFailedError as failed:
            raise failed.error from None
        except CommitFailedError:
            return self._is_published(commit_id, before)
        except LakehouseError:
            # What delta-rs does after the commit (a checkpoint) can fail too; the rows are public then.
            if not self._is_published(commit_id, before):
                raise
        return True

    def _snapshot(self, handle: DeltaTable) -> Snapshot:
        return Snapshot(self._contract, self._log, handle)

    @contextmanager
    def _diagnosed(self, handle: DeltaTable) -> Iterator[None]:
        """Find the file at fault when reading or rewriting the table's own files fails."""
        try:
            yield
        except (DamagedTableError, pl.exceptions.PolarsError, OSError):
            snapshot = self._snapshot(handle)
            if fault := next(snapshot.faults(read="all"), None):
                raise snapshot.damage(fault) from None
            raise

    def _is_published(self, commit_id: str, before: int) -> bool:
        """Whether the commit of this id is among the versions after `before`."""
        try:
            return self._log.version_of(commit_id, before) is not None
        except (OSError, DeltaError, LakehouseError):
            return False

    def _conflict(self) -> CommitConflictError:
        return CommitConflictError(
            f"other writers committed first {_ATTEMPTS} times in a row; nothing was written",
            where=self._contract.name,
            hint="Run the same step again, or give its asset the table's pool so that writers take turns.",
        )

    # -- after the commit -----------------------------------------------------------------------------------

    def _unchanged(self, version: int, todo: Plan, started: float, attempt: int) -> Commit:
        published, duplicate, rejected = todo.counted()
        return Commit(
            table=self._contract.name,
            version=version,
            changed=False,
            rows_read=published + duplicate + rejected,
            rows_published=published,
            rows_duplicate=duplicate,
            rows_quarantined=rejected,
            rows_replayed=todo.replayed,
            days=todo.days,
            seconds=time.perf_counter() - started,
            attempts=attempt,
        )

    def acknowledge(self, commit_id: str, before: int, todo: Plan, started: float, attempt: int) -> Commit:
        """Find the version by the commit's own id, make it durable, and return its record."""
        version = self._log.version_of(commit_id, before)
        if version is None:
            raise damaged(self._contract.name, f"_delta_log/{before + 1:020d}.json", "with this commit is missing")
        changes = self._log.changes(version)
        added = () if changes is None else changes.added
        try:
            self._backend.make_durable((file.name for file in added), version)
        except OSError as error:
            raise LakehouseError(
                f"version {version} is published but could not be made durable ({os.strerror(error.errno or 0)})",
                where=self._contract.name,
                hint="Check the disk. It is safe to run the same merge or replace again.",
            ) from None
        self._backend.committed(version)
        published, duplicate, rejected = todo.counted()
        return Commit(
            table=self._contract.name,
            version=version,
            changed=True,
            rows_read=published + duplicate + rejected,
            rows_published=published,
            rows_duplicate=duplicate,
            rows_quarantined=rejected,
            rows_updated=todo.updated,
            rows_replayed=todo.replayed,
            rows_forgotten=todo.forgotten,
            rows_withdrawn=todo.withdrawn,
            rows_restored=todo.restored,
            days=todo.days,
            files_added=len(added),
            bytes_added=sum(file.size for file in added),
            seconds=time.perf_counter() - started,
            attempts=attempt,
            commit_id=commit_id,
        )


def _merge_rows(
    contract: TableContract,
    target: DeltaTable,
    source: pl.DataFrame,
    partitions: list[object],
    inputs: CommitInputs,
    *,
    update: bool,
) -> None:
    """Merge rows by primary key, by the Delta library."""
    condition = " AND ".join(f"target.{name} = source.{name}" for name in contract.primary_key)
    if contract.partition_by:
        # As literals they prune partitions: 0.05 s against 0.73 s.
        literals = " OR ".join(f"target.{contract.partition_by} = {literal(value)}" for value in partitions)
        condition = f"({literals}) AND {condition}"
    commit, hooks = inputs
    merger = target.merge(
        source,
        predicate=condition,
        source_alias="source",
        target_alias="target",
        commit_properties=commit,
        post_commithook_properties=hooks,
    ).when_not_matched_insert_all()
    if update:
        merger = merger.when_matched_update_all()
    with translated(contract.name):
        merger.execute()


def _pause(attempt: int) -> None:
    time.sleep(random.uniform(0.0, 0.02 * 2 ** min(attempt, 5)))  # noqa: S311 - jitter, not a secret
