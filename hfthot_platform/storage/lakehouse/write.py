"""Writing a table: each change is planned on one version, audited, and published as one commit, or not at all.

Writes go optimistically under the shared writers' lock; a logical conflict runs the whole read-compute-write again on a
fresh handle, and after a few losses under the exclusive lock, so that progress on one host is certain.  A write
acknowledges (returns its `Commit`) only when its files are durable.
"""

from __future__ import annotations

import os
import random
import time
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
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
from hfthot_platform.storage.lakehouse.commits import Commit, Stamp, new_commit_id, properties
from hfthot_platform.storage.lakehouse.compaction import sorted_ranges
from hfthot_platform.storage.lakehouse.datafiles import DataFile, DataFiles
from hfthot_platform.storage.lakehouse.days import (
    Span,
    chunks,
    in_partitions,
    may_be_within,
    others_in_partition,
    within,
)
from hfthot_platform.storage.lakehouse.log import DeltaLog
from hfthot_platform.storage.lakehouse.publication import OnChange, Publication, WithdrawnRows
from hfthot_platform.storage.lakehouse.read import Reader
from hfthot_platform.storage.lakehouse.rewrite import Rewrite
from hfthot_platform.storage.lakehouse.snapshot import Snapshot
from hfthot_platform.storage.lakehouse.storage import Storage, damaged, translated
from hfthot_platform.storage.lakehouse.streamed import SourceFailedError, StreamedWrite
from hfthot_platform.storage.lakehouse.units import MOST_ROWS, Unit, require_cover, require_held

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

    def counted(self) -> tuple[int, int, int]:
        """Return how many rows were published, were duplicates, and went to quarantine."""
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

        def plan(handle: DeltaTable) -> Plan:
            data = DataFiles(self._contract, handle, self._backend)
            streamed = self._streamed(pieces, None)
            with _undone(data):
                added = streamed.write(data)

            def write(target: DeltaTable, commit_id: str) -> None:
                inputs = properties(stamp, commit_id, rows=streamed.published)
                self._commit_files(data, lambda: data.commit(added, (), *inputs), target, commit_id)

            return _of(streamed, write)

        return self._commit(plan, stamp)

    def replace(self, span: Span | None, rows: Rows | Callable[[pl.LazyFrame], pl.DataFrame], stamp: Stamp) -> Commit:
        """Make rows the only ones of some days; see `Table.replace`."""
        return self._commit(lambda handle: self._replace_plan(handle, span, rows, stamp), stamp)

    def _replace_plan(
        self,
        handle: DeltaTable,
        span: Span | None,
        rows: Rows | Callable[[pl.LazyFrame], pl.DataFrame | Audited],
        stamp: Stamp,
    ) -> Plan:
        contract = self._contract
        data = DataFiles(contract, handle, self._backend)
        stored = self._snapshot(handle).scan()
        current = stored if span is None else stored.filter(within(contract, span))
        removed, others = self._replaced_files(data, span)
        given = rows(current) if callable(rows) else rows
        if isinstance(given, pl.LazyFrame):
            pieces = self._pieces(given)
            if len(pieces) > 1:
                streamed = self._streamed(pieces, span)
                if others is not None:
                    streamed.kept = sorted_ranges(data, removed, where=others)
                with _undone(data):
                    added = streamed.write(data)
                return _of(streamed, self._overwriting(data, added, removed, stamp, streamed.published))
            given = pieces[0].collect()
        audited = self.audited(given)
        self._require_within(audited.rows, span)
        before = current.collect()
        rejected = audited.rejected
        if before.height == audited.rows.height and before.sort(contract.sort_by).equals(audited.rows):
            return Plan(None, before.height, audited.duplicates, replayed=before.height, rejected=rejected)
        with _undone(data):
            if others is None:
                added = data.write_all(audited.rows)
            elif sum(file.rows or 0 for file in removed) <= MOST_ROWS:
                # Written again with the other days of its partition, a day's rows stay in one sorted file with
                # theirs, however often one of them is replaced.
                beside = stored.filter(others).collect()
                added = data.write_all(pl.concat([beside, audited.rows]).sort(contract.sort_by))
            else:
                added = data.write_all(audited.rows)
                for kept in sorted_ranges(data, removed, where=others):
                    added += data.write_all(kept)
        published = audited.rows.height
        write = self._overwriting(data, added, removed, stamp, published)
        return Plan(write, published, audited.duplicates, rejected=rejected)

    def _replaced_files(self, data: DataFiles, span: Span | None) -> tuple[list[DataFile], pl.Expr | None]:
        """Return the files that hold rows of a span, and the filter for other rows in them; None if there are none."""
        contract = self._contract
        files = [file for file in data.stored() if in_partitions(contract, span, file.partition)]
        if span is None or contract.partition_by == "date":
            return files, None
        if sum(file.rows or 0 for file in files) > MOST_ROWS:
            # Of a large partition only the files with rows of the span are written again.
            files = [file for file in files if may_be_within(contract, span, file.lows, file.highs)]
        return files, others_in_partition(contract, span)

    def replace_units(
        self, units: Sequence[Unit], rows: Callable[[Unit, pl.LazyFrame], pl.DataFrame | Audited], stamp: Stamp
    ) -> Commit:
        """Make rows, unit by unit, the only ones of some days; see `Table.replace_units`."""
        contract = self._contract
        if len(units) == 1:
            (whole,) = units
            return self._commit(
                lambda handle: self._replace_plan(handle, whole.days, lambda current: rows(whole, current), stamp),
                stamp,
            )
        span = require_cover(units, contract)

        def plan(handle: DeltaTable) -> Plan:
            data = DataFiles(contract, handle, self._backend)
            stored = self._snapshot(handle).scan()
            removed, others = self._replaced_files(data, span)
            published = duplicate = 0
            changed = False
            added: list[DataFile] = []
            rejected: list[pl.DataFrame] = []
            with _undone(data):
                for unit in units:
                    current = stored.filter(unit.within(contract))
                    audited = self.audited(rows(unit, current))
                    self._require_within(audited.rows, span)
                    require_held(unit, audited.rows, contract)
                    changed = changed or not current.sort(contract.sort_by).collect().equals(audited.rows)
                    added += data.write_all(audited.rows)
                    published += audited.rows.height
                    duplicate += audited.duplicates
                    rejected.append(audited.rejected)
                if changed and others is not None:
                    for kept in sorted_ranges(data, removed, where=others):
                        added += data.write_all(kept)
            bad = pl.concat(rejected)
            if not changed:
                data.discard()
                return Plan(None, published, duplicate, replayed=published, rejected=bad)
            return Plan(self._overwriting(data, added, removed, stamp, published), published, duplicate, rejected=bad)

        return self._commit(plan, stamp)

    def _overwriting(
        self, data: DataFiles, added: Sequence[DataFile], removed: Sequence[DataFile], stamp: Stamp, published: int
    ) -> Callable[[DeltaTable, str], None]:
        """Return the commit of files in the place of all others of their partitions."""
        partitions = {file.partition for file in (*added, *removed)}

        def write(target: DeltaTable, commit_id: str) -> None:
            inputs = properties(stamp, commit_id, alone=True, operation="OVERWRITE", rows=published)
            concerns = self._concerning(partitions, commit_id)
            self._commit_files(data, lambda: data.commit(added, removed, *inputs, concerns=concerns), target, commit_id)

        return write

    def merge(self, rows: Rows, on_change: OnChange, stamp: Stamp) -> Commit:
        """Add rows by primary key; see `Table.merge`."""
        audited = self.audited(rows.collect() if isinstance(rows, pl.LazyFrame) else rows)
        return self._commit(lambda handle: self._merge_plan(handle, audited, on_change, stamp), stamp)

    def _merge_plan(self, handle: DeltaTable, audited: Audited, on_change: OnChange, stamp: Stamp) -> Plan:
        contract = self._contract
        if not audited.rows.height:
            return Plan(None, 0, audited.duplicates, rejected=audited.rejected)
        data = DataFiles(contract, handle, self._backend)
        publication = Publication(data, self._snapshot(handle).scan())
        with _undone(data):
            found = publication.add(audited.rows, on_change, one_source=False)
            publication.finish()
        replayed, written = found.replayed.height, found.source.height
        by = contract.partition_by
        partitions = set(audited.rows[by].unique()) if by else {None}

        def write(target: DeltaTable, commit_id: str) -> None:
            inputs = properties(stamp, commit_id, alone=True, operation="MERGE", rows=written)
            concerns = self._concerning(partitions, commit_id)
            self._commit_files(data, lambda: publication.commit(*inputs, concerns=concerns), target, commit_id)

        return Plan(
            write if publication.changes else None,
            written + replayed,
            audited.duplicates + found.duplicates,
            updated=found.updated,
            replayed=replayed,
            rejected=audited.rejected if found.conflicts is None else pl.concat([audited.rejected, found.conflicts]),
        )

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
            data = DataFiles(contract, handle, self._backend)
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
                self._commit_files(data, lambda: publication.commit(*inputs), target, commit_id)

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
                self._commit_files(rewrite, lambda: rewrite.commit(*inputs), target, commit_id)

            return Plan(write, rows.height, 0, updated=rewrite.replaced, forgotten=rewrite.forgotten)

        return self._commit(plan, stamp)

    def _commit_files(
        self, files: DataFiles | Rewrite, commit: Callable[[], None], target: DeltaTable, commit_id: str
    ) -> None:
        """Publish data files; where another commit came between they are deleted."""
        before = target.version()
        try:
            with translated(self._contract.name):
                commit()
        except CommitFailedError:
            if not self._is_published(commit_id, before):
                files.discard()
            raise

    def _concerning(self, partitions: Collection[object], commit_id: str) -> Callable[[int], bool]:
        """Return whether a version concerns a commit that was computed from the rows of some partitions.

        Versions that only touch other partitions do not, as for the Delta library's own conflict detection.
        """
        by = self._contract.partition_by
        mine = {None if value is None else str(value) for value in partitions}

        def concerns(version: int) -> bool:
            actions = self._log.actions(version)
            if actions is None:
                return True
            for action in actions:
                if "metaData" in action or "protocol" in action:
                    return True
                if action.get("commitInfo", {}).get("hfthot.commit_id") == commit_id:
                    return True
                file = action.get("add") or action.get("remove")
                if file is not None and (by is None or (file.get("partitionValues") or {}).get(by) in {None, *mine}):
                    return True
            return False

        return concerns

    def restore(self, version: int, stamp: Stamp) -> Commit:
        """Make an older version current again; see `Table.restore`."""
        log = self._log
        started = time.perf_counter()
        commit_id = new_commit_id()
        with self._backend.writers_lock(exclusive=True):
            aside = False
            try:
                log.open()
            except DamagedTableError:
                log.set_aside(version, commit_id)
                aside = True
            with log.writing() as handle:
                if handle is None:
                    raise log.unavailable(f"version {version}")
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
            with self._backend.writers_lock(exclusive=True), self._writing() as newest, translated(contract.name):
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

    def _streamed(self, pieces: list[pl.LazyFrame] | list[Audited], span: Span | None) -> StreamedWrite:
        return StreamedWrite(
            self._contract,
            pieces,
            require_within=lambda rows: self._require_within(rows, span),
            require_publishable=self._require_publishable,
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
            with self._backend.writers_lock(exclusive=attempt > self._backend.optimistic), self._writing() as handle:
                # What is read for the plan and what is written go through this one handle: delta-rs detects a
                # conflict only between the version of the handle and the table's newest.
                before = handle.version()
                try:
                    with self._diagnosed(handle):
                        todo = plan(handle)
                except SourceFailedError as failed:
                    raise failed.error from None
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
        except CommitFailedError:
            return self._is_published(commit_id, before)
        except LakehouseError:
            # What delta-rs does after the commit (a checkpoint) can fail too; the rows are public then.
            if not self._is_published(commit_id, before):
                raise
        return True

    @contextmanager
    def _writing(self) -> Iterator[DeltaTable]:
        """Lend a handle at the newest version of a table that is there."""
        with self._log.writing() as handle:
            if handle is None:
                raise damaged(self._contract.name, "_delta_log", "is missing or empty")
            yield handle

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


@contextmanager
def _undone(data: DataFiles) -> Iterator[None]:
    """Delete what was written, after a failure."""
    try:
        yield
    except BaseException:
        data.discard()
        raise


def _of(streamed: StreamedWrite, write: Callable[[DeltaTable, str], None]) -> Plan:
    """Return the plan of a streamed write."""
    return Plan(write, streamed.published, streamed.duplicate, rejected=pl.concat(streamed.rejected))


def _pause(attempt: int) -> None:
    time.sleep(random.uniform(0.0, 0.02 * 2 ** min(attempt, 5)))  # noqa: S311 - jitter, not a secret
