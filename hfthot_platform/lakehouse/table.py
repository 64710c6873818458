"""One table: reading any version, and the three ways to write, each as write, audit, publish.

Writes go optimistically under the shared writers' lock; a logical conflict runs the whole read-compute-write
again on a fresh handle, and after a few losses under the exclusive lock, so that progress on one host is
certain.  A write acknowledges (returns its `Commit`) only when its files are durable.
"""

from __future__ import annotations

import json
import random
import time
from collections.abc import Callable, Iterator
from datetime import date, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Literal, NamedTuple
from urllib.parse import unquote

import polars as pl
import pyarrow as pa
from deltalake import CommitProperties, DeltaTable, PostCommitHookProperties, write_deltalake
from deltalake.exceptions import CommitFailedError, TableNotFoundError

from hfthot_platform.contracts import CONTRACTS, TableContract
from hfthot_platform.errors import (
    AuditFailedError,
    BadRequestError,
    CommitConflictError,
    DamagedTableError,
    LakehouseError,
    SchemaMismatchError,
    UnsupportedTableError,
    VersionUnavailableError,
)
from hfthot_platform.lakehouse.audit import Audited, audit, quarantine_id, rejected_for_conflict
from hfthot_platform.lakehouse.commits import Commit, Snapshot, Stamp, VersionInfo, history_of, properties
from hfthot_platform.lakehouse.locks import writers_lock
from hfthot_platform.lakehouse.spans import Span, chunks, literal, sql_within, within
from hfthot_platform.lakehouse.storage import fsync_files, translated

if TYPE_CHECKING:
    from hfthot_platform.lakehouse.lake import Lakehouse

__all__ = ["Rows", "Span", "Table"]

#: Rows to write: a frame, a lazy frame (written in bounded memory), or what an audit already returned.
Rows = pl.DataFrame | pl.LazyFrame | Audited

_OPTIMISTIC = 4
_ATTEMPTS = 12
_VERSION_PROPERTY = "hfthot.schema_version"
_FEATURES_REFUSED = {"deletionVectors", "columnMapping"}


class _Plan(NamedTuple):
    """What an attempt decided after reading: how to write, and the account of rows."""

    write: Callable[[DeltaTable], str] | None
    published: int
    duplicate: int
    updated: int = 0
    replayed: int = 0
    rejected: pl.DataFrame | None = None
    #: Counts of a streamed write, complete once it is through; they take the place of the ones above.
    account: dict[str, int] | None = None


class _QuarantineFirst(Exception):  # noqa: N818 - a signal between two functions of this module
    """A stream met rejected rows."""


class Table:
    """A versioned table.  Made by `Lakehouse.table`, cheap to make, safe to use from several processes."""

    def __init__(self, lake: Lakehouse, contract: TableContract) -> None:
        self._lake = lake
        self.contract = contract
        self._storage = lake.storage
        self.uri = lake.storage.uri(contract)
        self._lock_file = lake.storage.lock_file(contract)
        self._folder = lake.storage.local_table(contract)
        self._evolved = False

    def __repr__(self) -> str:
        return f"Table({self.contract.name!r})"

    # -- reading ------------------------------------------------------------------------------------------

    def scan(self, version: int | None = None, as_of: datetime | None = None) -> pl.LazyFrame:
        """Return the rows of the current version, of a version, or of the version current at a time.

        A table that nobody wrote yet reads as empty.

        Raises:
            BadRequestError: both `version` and `as_of` are given, or `as_of` has no time zone.
            VersionUnavailableError: not readable (any more); the message names the readable range.
            DamagedTableError: a file of that version is missing.
        """
        if version is not None and as_of is not None:
            raise BadRequestError("give either version or as_of", where=self.contract.name)
        if as_of is not None:
            version = self.version_at(as_of)
        handle = self._open(version)
        if handle is None:
            if version is not None:
                raise self._unavailable(f"version {version}", [])
            return self.contract.empty().lazy()
        return self._frame(handle)

    def version(self) -> int | None:
        """Return the current version, or None if nothing was written yet."""
        handle = self._open()
        return None if handle is None else handle.version()

    def versions(self) -> list[VersionInfo]:
        """Return the table's history, oldest first."""
        handle = self._open()
        if handle is None:
            return []
        with translated(self.contract.name):
            return history_of(handle)

    def readable_versions(self) -> list[VersionInfo]:
        """Return the part of the history that can still be read, oldest first."""
        history = self.versions()
        floor = max((each.oldest_readable for each in history if each.oldest_readable is not None), default=0)
        kept = [each for each in history if each.version >= floor]
        # After a log clean-up the first entries may lie before the oldest checkpoint.
        while kept and not self._loads(kept[0].version):
            kept.pop(0)
        return kept

    def version_at(self, as_of: datetime) -> int:
        """Return the version that was current at a time, by the commits' own times, never by file times.

        Raises:
            BadRequestError: the time has no zone.
            VersionUnavailableError: the time lies before the oldest readable version.
        """
        if as_of.tzinfo is None:
            raise BadRequestError(
                f"the time {as_of.isoformat()} has no zone", where=self.contract.name, hint="Write it with +00:00."
            )
        readable = self.readable_versions()
        found = [each for each in readable if each.timestamp <= as_of]
        if not found:
            raise self._unavailable(f"the time {as_of.isoformat()}", readable)
        return found[-1].version

    def bytes_and_files(self) -> tuple[int, int]:
        """Return size in bytes and number of data files of the current version."""
        handle = self._open()
        if handle is None:
            return 0, 0
        actions = pa.table(handle.get_add_actions(flatten=True))
        return int(sum(actions.column("size_bytes").to_pylist())), actions.num_rows

    def snapshot(self, version: int | None = None, as_of: datetime | None = None) -> Snapshot | None:
        """Return the files, sizes and time span of a version, or None if nothing was written yet.

        Raises:
            BadRequestError: both `version` and `as_of` are given, or `as_of` has no time zone.
            VersionUnavailableError: not readable (any more); the message names the readable range.
            DamagedTableError: a file of that version is missing.
        """
        if version is not None and as_of is not None:
            raise BadRequestError("give either version or as_of", where=self.contract.name)
        if as_of is not None:
            version = self.version_at(as_of)
        handle = self._open(version)
        if handle is None:
            if version is not None:
                raise self._unavailable(f"version {version}", [])
            return None
        if missing := self._missing(handle):
            raise self._damage(missing[0])
        with translated(self.contract.name):
            actions = pa.table(handle.get_add_actions(flatten=True))
            commit = history_of(handle, 1)[-1]
        rows = actions.column("num_records").to_pylist()
        first = _known(actions, f"min.{self.contract.time_column}")
        last = _known(actions, f"max.{self.contract.time_column}")
        return Snapshot(
            version=handle.version(),
            committed_at=commit.timestamp,
            paths=tuple(handle.file_uris()),
            rows=None if None in rows else sum(rows),
            bytes=sum(actions.column("size_bytes").to_pylist()),
            first_event=min(first, default=None),
            last_event=max(last, default=None),
        )

    def problems(self) -> list[str]:
        """Return what is wrong with the current version's files, one line each; empty when it is intact."""
        try:
            handle = self._open()
        except LakehouseError as error:
            return [str(error)]
        if handle is None:
            return []
        out = [f"missing file {path}" for path in self._missing(handle)]
        if not out:
            try:
                for path, rows in self._files_and_rows(handle):
                    found = pl.scan_parquet(path).select(pl.len()).collect().item()
                    if rows is not None and found != rows:
                        out.append(f"file {path} has {found} rows, the log says {rows}")
            except (pl.exceptions.PolarsError, OSError) as error:
                out.append(f"unreadable file: {str(error).splitlines()[0][:300]}")
        return out

    # -- writing ------------------------------------------------------------------------------------------

    def audit(self, rows: pl.DataFrame, rejected: pl.DataFrame | None = None) -> Audited:
        """Check rows against the contract without writing anything; the result can be given to any write."""
        return audit(self.contract, rows, rejected)

    def append(self, rows: Rows, *, stamp: Stamp | None = None) -> Commit:
        """Add rows that are known to be new; a lazy frame is written in bounded memory, as one commit.

        Only repeats within `rows` are found.  For rows that may already be there use `merge`.

        Raises:
            AuditFailedError: more rows were rejected than the contract allows; nothing was published.
        """
        stamp = stamp or Stamp()

        def plan(_handle: DeltaTable) -> _Plan:
            return self._streamed(rows, stamp, mode="append", predicate=None)

        return self._commit(plan, stamp)

    def replace(
        self,
        partition: Span | None,
        rows: Rows | Callable[[pl.LazyFrame], pl.DataFrame],
        *,
        stamp: Stamp | None = None,
    ) -> Commit:
        """Make `rows` the only rows of the given days (None: of the whole table), as one commit.

        Writing what is already there is no commit at all, so a re-run changes nothing.  `rows` may be a
        function of the rows that are there now; it runs again on every attempt.

        Raises:
            BadRequestError: rows lie outside the given days.
            AuditFailedError: more rows were rejected than the contract allows; nothing was published.
        """
        stamp = stamp or Stamp()
        contract = self.contract

        def plan(handle: DeltaTable) -> _Plan:
            current = self._frame(handle)
            if partition is not None:
                current = current.filter(within(contract, partition))
            given = rows(current) if callable(rows) else rows
            predicate = None if partition is None else sql_within(contract, partition)
            if isinstance(given, pl.LazyFrame):
                return self._streamed(given, stamp, mode="overwrite", predicate=predicate, span=partition)
            audited = self._audited(given)
            self._require_within(audited.rows, partition)
            before = current.collect()
            if before.height == audited.rows.height and before.sort(contract.sort_by).equals(audited.rows):
                return _Plan(None, before.height, audited.duplicates, replayed=before.height, rejected=audited.rejected)
            published = audited.rows.height

            def write(target: DeltaTable) -> str:
                made = properties(stamp, rows=published)
                return _write(target, audited.rows, made, mode="overwrite", predicate=predicate)

            return _Plan(write, published, audited.duplicates, rejected=audited.rejected)

        return self._commit(plan, stamp)

    def merge(
        self,
        rows: Rows,
        *,
        on_change: Literal["update", "keep", "reject"] = "update",
        stamp: Stamp | None = None,
    ) -> Commit:
        """Add rows by primary key; rows that are already there change nothing.

        Args:
            rows: incoming rows (collected in memory: give batches).
            on_change: what happens when the key is there with other values: the row is updated, the old one
                kept (the new one counts as duplicate), or the new one rejected as `conflicting_key`.
            stamp: who writes and why.

        Raises:
            AuditFailedError: more rows were rejected than the contract allows; nothing was published.
        """
        stamp = stamp or Stamp()
        audited = self._audited(rows.collect() if isinstance(rows, pl.LazyFrame) else rows)

        def plan(handle: DeltaTable) -> _Plan:
            return self._merge_plan(handle, audited, on_change, stamp)

        return self._commit(plan, stamp)

    def restore(self, version: int, *, stamp: Stamp | None = None) -> Commit:
        """Make an older version current again, as a new version; nothing in between is lost.

        Raises:
            VersionUnavailableError: that version cannot be read any more.
        """
        stamp = stamp or Stamp()
        with writers_lock(self._lock_file, exclusive=True), translated(self.contract.name):
            handle = self._open()
            if handle is None:
                raise self._unavailable(f"version {version}", [])
            target = self._open(version)
            if target is not None and (missing := self._missing(target)):
                raise self._damage(missing[0])
            before = handle.version()
            commit_id, commit, _ = properties(stamp, operation="RESTORE")
            handle.restore(version, commit_properties=commit)
            return self._acknowledge(commit_id, before, _Plan(None, 0, 0), time.perf_counter(), 1)

    # -- internals: reading ---------------------------------------------------------------------------------

    def _open(self, version: int | None = None) -> DeltaTable | None:
        options = dict(self._storage.options)
        with translated(self.contract.name):
            try:
                handle = DeltaTable(self.uri, version=version, storage_options=options)
            except TableNotFoundError:
                return None
            except Exception:
                if version is None or self._open() is None:
                    raise
                raise self._unavailable(f"version {version}", self.readable_versions()) from None
        self._refuse_features(handle)
        if version is not None:
            floor = max((each.oldest_readable or 0 for each in history_of(self._current())), default=0)
            if version < floor:
                raise self._unavailable(f"version {version}", self.readable_versions())
        return handle

    def _current(self) -> DeltaTable:
        return DeltaTable(self.uri, storage_options=dict(self._storage.options))

    def _loads(self, version: int) -> bool:
        try:
            DeltaTable(self.uri, version=version, storage_options=dict(self._storage.options))
        except Exception:  # noqa: BLE001 - any failure to load means that this version cannot be read
            return False
        return True

    def _refuse_features(self, handle: DeltaTable) -> None:
        protocol = handle.protocol()
        features = set(protocol.reader_features or []) & _FEATURES_REFUSED
        mapped = handle.metadata().configuration.get("delta.columnMapping.mode", "none") != "none"
        if features or mapped:
            raise UnsupportedTableError(
                f"the table uses {', '.join(sorted(features)) or 'column mapping'}",
                where=self.contract.name,
                hint="Rewrite it without; some readers would return wrong rows for it.",
            )

    def _frame(self, handle: DeltaTable) -> pl.LazyFrame:
        if missing := self._missing(handle):
            raise self._damage(missing[0])
        frame = pl.scan_delta(handle, storage_options=dict(self._storage.options) or None)
        present = {field.name for field in handle.schema().fields}
        absent = [column for column in self.contract.columns if column.name not in present]
        if absent:
            frame = frame.with_columns(pl.lit(None, dtype=column.polars).alias(column.name) for column in absent)
        return frame.select(self.contract.column_names)

    def _missing(self, handle: DeltaTable) -> list[str]:
        if self._folder is None:
            return []
        return [path for path in handle.file_uris() if not Path(path).exists()]

    def _files_and_rows(self, handle: DeltaTable) -> Iterator[tuple[str, int | None]]:
        actions = pa.table(handle.get_add_actions(flatten=True))
        prefix = f"{self.uri}/"
        for path, rows in zip(
            actions.column("path").to_pylist(), actions.column("num_records").to_pylist(), strict=True
        ):
            yield prefix + unquote(path), rows

    def _damage(self, path: str) -> DamagedTableError:
        name = path.removeprefix(f"{self.uri}/")
        intact = None
        for each in reversed(self.versions()[:-1]):
            try:
                handle = DeltaTable(self.uri, version=each.version, storage_options=dict(self._storage.options))
            except Exception:  # noqa: BLE001, S112 - an unreadable version is simply not the one to offer
                continue
            if not self._missing(handle):
                intact = each.version
                break
        way = (
            f"`hfthot restore {self.contract.name} {intact}` goes back to the newest intact version"
            if intact is not None
            else "no older version is intact"
        )
        return DamagedTableError(
            f"file at fault: {name} is missing",
            where=self.contract.name,
            hint=f"Copy the file back from a backup, or {way}, or materialise its partition again.",
        )

    def _unavailable(self, what: str, readable: list[VersionInfo]) -> VersionUnavailableError:
        if readable:
            first, last = readable[0], readable[-1]
            hint = (
                f"Readable: version {first.version} ({first.timestamp.isoformat()}) "
                f"to {last.version} ({last.timestamp.isoformat()})."
            )
        else:
            hint = "The table has no version yet."
        return VersionUnavailableError(f"{what} is not readable", where=self.contract.name, hint=hint)

    # -- internals: writing ---------------------------------------------------------------------------------

    def _audited(self, rows: pl.DataFrame | Audited) -> Audited:
        if isinstance(rows, Audited):
            if rows.contract.name != self.contract.name:
                raise BadRequestError(f"the rows were audited for {rows.contract.name}", where=self.contract.name)
            return rows
        audited = audit(self.contract, rows)
        self._require_publishable(audited)
        return audited

    def _require_publishable(self, audited: Audited) -> None:
        if audited.publishable:
            return
        worst = max(audited.results, key=lambda result: result.violations)
        raise AuditFailedError(
            f"{audited.rejected.height} of {audited.read} rows break a rule, most often {worst.says!r}; "
            f"at most {self.contract.max_rejected_share:.0%} may",
            where=self.contract.name,
            hint="Nothing was published. Correct the source or the computation and run it again.",
        )

    def _require_within(self, rows: pl.DataFrame, span: Span | None) -> None:
        if span is None or not rows.height:
            return
        outside = rows.filter(within(self.contract, span).not_())
        if outside.height:
            raise BadRequestError(
                f"{outside.height} of {rows.height} rows lie outside {span}",
                where=self.contract.name,
                hint="Replace the days that the rows belong to.",
            )

    def _ensure(self) -> DeltaTable:
        """Return a handle to write with; create the table, or add the contract's new nullable columns."""
        handle = self._open()
        if handle is None:
            with translated(self.contract.name):
                handle = self._create()
        if not self._evolved:
            handle = self._evolve(handle)
            self._evolved = True
        return handle

    def _create(self) -> DeltaTable:
        contract = self.contract
        days = contract.history_days
        configuration: dict[str, str | None] = {
            _VERSION_PROPERTY: str(contract.schema_version),
            "delta.dataSkippingStatsColumns": ",".join(contract.stats_columns),
            "delta.checkpointInterval": "50",
            "delta.deletedFileRetentionDuration": f"interval {days} days",
            "delta.logRetentionDuration": f"interval {days} days",
        }
        if self._folder is not None:
            self._folder.mkdir(parents=True, exist_ok=True)
        try:
            return DeltaTable.create(
                self.uri,
                contract.arrow_schema,
                partition_by=[contract.partition_by] if contract.partition_by else None,
                name=contract.name,
                description=contract.description,
                configuration=configuration,
                storage_options=dict(self._storage.options),
                raise_if_key_not_exists=False,
            )
        except Exception:
            # Another writer may have created it in the same instant; anything else is raised again.
            handle = self._open()
            if handle is None:
                raise
            return handle

    def _evolve(self, handle: DeltaTable) -> DeltaTable:
        from deltalake.schema import Field, Schema

        contract = self.contract
        stored = {field.name: field for field in handle.schema().fields}
        wanted = Schema.from_arrow(contract.arrow_schema)
        added: list[Field] = []
        for field in wanted.fields:
            if field.name not in stored:
                if not field.nullable:
                    raise self._needs_migration(f"column {field.name!r} is new and not nullable")
                added.append(field)
            elif stored[field.name].type != field.type:
                raise self._needs_migration(
                    f"column {field.name!r} is stored as {stored[field.name].type}, the contract says {field.type}"
                )
        if removed := set(stored) - set(contract.column_names):
            raise self._needs_migration(f"column {min(removed)!r} is stored but not in the contract")
        version = int(handle.metadata().configuration.get(_VERSION_PROPERTY, 0))
        if version > contract.schema_version:
            raise self._needs_migration(f"stored as schema {version}, this code knows {contract.schema_version}")
        if added or version < contract.schema_version:
            with writers_lock(self._lock_file, exclusive=True), translated(contract.name):
                handle = self._current()
                present = {field.name for field in handle.schema().fields}
                if fields := [field for field in added if field.name not in present]:
                    handle.alter.add_columns(fields)
                handle.alter.set_table_properties(
                    {_VERSION_PROPERTY: str(contract.schema_version)}, raise_if_not_exists=False
                )
                handle = self._current()
        return handle

    def _needs_migration(self, what: str) -> SchemaMismatchError:
        return SchemaMismatchError(
            what,
            where=self.contract.name,
            hint="Only new nullable columns are added by themselves; for anything else declare a new table, copy the "
            "rows into it with a one-off asset, and retire this one (docs/operations.md, Schema changes).",
        )

    def _commit(self, plan: Callable[[DeltaTable], _Plan], stamp: Stamp) -> Commit:
        started = time.perf_counter()
        self._ensure()
        for attempt in range(1, _ATTEMPTS + 1):
            with writers_lock(self._lock_file, exclusive=attempt > _OPTIMISTIC):
                # What is read for the plan and what is written go through this one handle: delta-rs detects a
                # conflict only between the version of the handle and the table's newest.
                with translated(self.contract.name):
                    handle = self._current()
                before = handle.version()
                todo = plan(handle)
                # Rejected rows are safe before the good ones are public: a crash between the two loses none.
                self._quarantine(todo.rejected, stamp)
                if todo.write is None:
                    return self._unchanged(before, todo, started, attempt)
                try:
                    with translated(self.contract.name):
                        commit_id = todo.write(handle)
                except CommitFailedError:
                    pass
                else:
                    return self._acknowledge(commit_id, before, todo, started, attempt)
            time.sleep(random.uniform(0.0, 0.02 * 2 ** min(attempt, 5)))  # noqa: S311 - jitter, not a secret
        raise CommitConflictError(
            f"other writers won {_ATTEMPTS} times in a row; nothing was written",
            where=self.contract.name,
            hint="Run the same step again, or give its asset the table's pool so that writers take turns.",
        )

    def _quarantine(self, rejected: pl.DataFrame | None, stamp: Stamp) -> None:
        if rejected is None or not rejected.height:
            return
        name = self.contract.quarantine
        if name not in CONTRACTS:
            raise AuditFailedError(
                f"{rejected.height} rows break a rule: {rejected['detail'][0]}",
                where=self.contract.name,
                hint="This table has no quarantine; nothing was published.",
            )
        now = self._lake.clock()
        rows = rejected.with_columns(
            pl.struct("reason", "source_ref", "row_number", "row")
            .map_elements(
                lambda row: quarantine_id(row["reason"], row["source_ref"], row["row_number"], row["row"]),
                return_dtype=pl.String,
            )
            .alias("quarantine_id"),
            pl.lit(now).cast(pl.Datetime("us", "UTC")).alias("quarantined_at"),
            pl.lit(now.date()).alias("quarantined_on"),
            pl.lit(stamp.run_id).alias("run_id"),
        )
        self._lake.table(name).merge(rows, on_change="keep", stamp=stamp)

    def _streamed(
        self,
        rows: Rows,
        stamp: Stamp,
        *,
        mode: Literal["append", "overwrite"],
        predicate: str | None,
        span: Span | None = None,
    ) -> _Plan:
        """Plan to audit and write chunk by chunk; the account of rows is complete when the write is.

        Rejected rows must be in quarantine before the good ones are public, and the writer commits as soon as
        its stream ends.  So a stream that met rejected rows breaks off instead of ending, the rows are
        quarantined, and it runs again: bulk loads of clean rows pass once, the others twice.
        """
        account: dict[str, int] = {}
        rejected: list[pl.DataFrame] = []
        failure: list[Exception] = []
        safe = False

        def batches() -> Iterator[pa.RecordBatch]:
            account.update(read=0, published=0, duplicate=0)
            rejected.clear()
            # An exception inside the Arrow stream would surface as text; it is kept and raised again as itself.
            try:
                given = [rows] if isinstance(rows, Audited) else chunks(self.contract, rows.lazy())
                for each in given:
                    chunk = each if isinstance(each, Audited) else audit(self.contract, each)
                    self._require_within(chunk.rows, span)
                    account["read"] += chunk.read
                    account["published"] += chunk.rows.height
                    account["duplicate"] += chunk.duplicates
                    rejected.append(chunk.rejected)
                    yield from chunk.rows.to_arrow().to_batches()
                bad = sum(each.height for each in rejected)
                if account["read"] and bad / account["read"] > self.contract.max_rejected_share:
                    raise AuditFailedError(
                        f"{bad} of {account['read']} rows break a rule; "
                        f"at most {self.contract.max_rejected_share:.0%} may",
                        where=self.contract.name,
                        hint="Nothing was published. Correct the source or the computation and run it again.",
                    )
                if bad and not safe:
                    raise _QuarantineFirst
            except Exception as error:
                failure.append(error)
                raise

        def stream(target: DeltaTable) -> str:
            failure.clear()
            reader = pa.RecordBatchReader.from_batches(self.contract.empty().to_arrow().schema, batches())
            try:
                return _write(target, reader, properties(stamp), mode=mode, predicate=predicate)
            except CommitFailedError:
                raise
            except Exception:
                if failure:
                    raise failure[0] from None
                raise

        def write(target: DeltaTable) -> str:
            nonlocal safe
            try:
                return stream(target)
            except _QuarantineFirst:
                self._quarantine(pl.concat(rejected), stamp)
                safe = True
                return stream(target)

        return _Plan(write, -1, 0, account=account)

    def _merge_plan(
        self, handle: DeltaTable, audited: Audited, on_change: Literal["update", "keep", "reject"], stamp: Stamp
    ) -> _Plan:
        contract = self.contract
        rows = audited.rows
        if not rows.height:
            return _Plan(None, 0, audited.duplicates, rejected=audited.rejected)
        key = list(contract.primary_key)
        partition = contract.partition_by
        current = self._frame(handle)
        values: list[object] = []
        if partition:
            values = rows[partition].unique().sort().to_list()
            current = current.filter(pl.col(partition).is_in(values))
        tracked = list(contract.value_columns)
        if "source_ref" in contract.column_names and "source_ref" not in tracked:
            tracked.append("source_ref")
        # The key's columns are pruned by file statistics to the span of the incoming rows.
        for name in key:
            if name in contract.stats_columns and name != partition:
                current = current.filter(pl.col(name).is_between(pl.lit(rows[name].min()), pl.lit(rows[name].max())))
        there = (
            current.select(*key, *tracked)
            .join(rows.lazy().select(key), on=key, how="semi")
            .with_columns(pl.lit(value=True).alias("_there"))
            .collect()
        )
        if there.height:
            joined = rows.join(there, on=key, how="left", suffix="_now", maintain_order="left")
            known = joined["_there"].fill_null(value=False)
            differs = pl.any_horizontal(
                [pl.col(name).ne_missing(pl.col(f"{name}_now")) for name in contract.value_columns]
                or [pl.lit(value=False)]
            )
            changed = known & joined.select(differs.alias("d")).to_series()
            same = known & ~changed
            replayed = 0
            if "source_ref" in contract.column_names:
                replayed = int((same & joined["source_ref"].eq_missing(joined["source_ref_now"])).sum())
        else:
            known = changed = same = pl.repeat(value=False, n=rows.height, eager=True)
            replayed = 0
        source = rows.filter(~known | changed) if on_change == "update" else rows.filter(~known)
        updated = int(changed.sum()) if on_change == "update" else 0
        rejected = audited.rejected
        duplicate = audited.duplicates + int(same.sum()) - replayed
        if on_change == "keep":
            duplicate += int(changed.sum())
        if on_change == "reject" and changed.any():
            rejected = pl.concat([rejected, rejected_for_conflict(contract, rows.filter(changed))])
        if not source.height:
            return _Plan(None, replayed, duplicate, replayed=replayed, rejected=rejected)

        def write(target: DeltaTable) -> str:
            if partition and not there.height and self._partitions_empty(target, values):
                # Guarded by the predicate like a merge (a concurrent row there is a conflict), at a third of its cost.
                predicate = " OR ".join(f"{partition} = {literal(value)}" for value in values)
                made = properties(stamp, rows=source.height)
                return _write(target, source, made, mode="overwrite", predicate=predicate)
            return self._merge(target, source, values, stamp, update=bool(updated))

        return _Plan(write, source.height + replayed, duplicate, updated=updated, replayed=replayed, rejected=rejected)

    def _merge(
        self, target: DeltaTable, source: pl.DataFrame, values: list[object], stamp: Stamp, *, update: bool
    ) -> str:
        contract = self.contract
        condition = " AND ".join(f"target.{name} = source.{name}" for name in contract.primary_key)
        if contract.partition_by:
            # As literals they prune partitions: 0.05 s against 0.73 s.
            literals = " OR ".join(f"target.{contract.partition_by} = {literal(value)}" for value in values)
            condition = f"({literals}) AND {condition}"
        commit_id, commit, hooks = properties(stamp, rows=source.height)
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
        merger.execute()
        return commit_id

    def _partitions_empty(self, handle: DeltaTable, values: list[object]) -> bool:
        actions = pa.table(handle.get_add_actions(flatten=True))
        if not actions.num_rows:
            return True
        present = set(actions.column(f"partition.{self.contract.partition_by}").to_pylist())
        return present.isdisjoint(values)

    def _unchanged(self, version: int, todo: _Plan, started: float, attempt: int) -> Commit:
        rejected = 0 if todo.rejected is None else todo.rejected.height
        return Commit(
            table=self.contract.name,
            version=version,
            changed=False,
            rows_read=todo.published + todo.duplicate + rejected,
            rows_published=todo.published,
            rows_duplicate=todo.duplicate,
            rows_quarantined=rejected,
            rows_replayed=todo.replayed,
            seconds=time.perf_counter() - started,
            attempts=attempt,
        )

    def _acknowledge(self, commit_id: str, before: int, todo: _Plan, started: float, attempt: int) -> Commit:
        """Find the version by the commit's own id, make it durable, and return its record."""
        handle = self._current()
        # The newest version may be another writer's: ours is the one that carries our id.
        own = next(
            each for each in reversed(history_of(handle, handle.version() - before)) if each.commit_id == commit_id
        )
        files: list[str] = []
        size = 0
        if self._folder is not None:
            entry = self._folder / "_delta_log" / f"{own.version:020d}.json"
            for line in entry.read_text().splitlines():
                if "add" in (action := json.loads(line)):
                    files.append(action["add"]["path"])
                    size += int(action["add"]["size"])
            fsync_files(self._folder, files, entry)
        account = todo.account
        published = todo.published if account is None else account["published"]
        duplicate = todo.duplicate if account is None else account["duplicate"]
        rejected = 0 if todo.rejected is None else todo.rejected.height
        if account is not None:
            rejected = account["read"] - published - duplicate
        return Commit(
            table=self.contract.name,
            version=own.version,
            changed=True,
            rows_read=published + duplicate + rejected,
            rows_published=published,
            rows_duplicate=duplicate,
            rows_quarantined=rejected,
            rows_updated=todo.updated,
            rows_replayed=todo.replayed,
            files_added=len(files),
            bytes_added=size,
            seconds=time.perf_counter() - started,
            attempts=attempt,
        )


def _known(actions: pa.Table, column: str) -> list[date]:
    """Return the values of a statistic, without the files that have none (a `datetime` is a `date`)."""
    if column not in actions.column_names:
        return []
    return [value for value in actions.column(column).to_pylist() if value is not None]


def _write(
    target: DeltaTable,
    data: pl.DataFrame | pa.RecordBatchReader,
    made: tuple[str, CommitProperties, PostCommitHookProperties],
    *,
    mode: Literal["append", "overwrite"],
    predicate: str | None,
) -> str:
    commit_id, commit, hooks = made
    if mode == "append":
        write_deltalake(target, data, mode="append", commit_properties=commit, post_commithook_properties=hooks)
    else:
        write_deltalake(
            target,
            data,
            mode="overwrite",
            predicate=predicate,
            commit_properties=commit,
            post_commithook_properties=hooks,
        )
    return commit_id
