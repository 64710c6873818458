"""One table: reading any version, and the three ways to write, each as write, audit, publish.

Writes go optimistically under the shared writers' lock; a logical conflict runs the whole read-compute-write
again on a fresh handle, and after a few losses under the exclusive lock, so that progress on one host is
certain.  A write acknowledges (returns its `Commit`) only when its files are durable.
"""

from __future__ import annotations

import itertools
import json
import os
import random
import time
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from datetime import date, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, NamedTuple
from urllib.parse import unquote

import polars as pl
import pyarrow as pa
from deltalake import CommitProperties, DeltaTable, PostCommitHookProperties, write_deltalake
from deltalake.exceptions import CommitFailedError, DeltaError, TableNotFoundError
from deltalake.schema import Field, Schema

from hfthot_platform.core.errors import (
    AuditFailedError,
    BadRequestError,
    CommitConflictError,
    DamagedTableError,
    LakehouseError,
    SchemaMismatchError,
    StorageReadOnlyError,
    StorageUnavailableError,
    UnsupportedTableError,
    VersionUnavailableError,
)
from hfthot_platform.domain.contracts import TableContract
from hfthot_platform.domain.contracts.accounts import USER_TABLES
from hfthot_platform.domain.contracts.model import ROW_NUMBER
from hfthot_platform.storage.lakehouse.audit import Audited, audit, conform, quarantine_id
from hfthot_platform.storage.lakehouse.commits import (
    Commit,
    Files,
    Snapshot,
    Stamp,
    VersionInfo,
    active_files,
    history_of,
    new_commit_id,
    properties,
)
from hfthot_platform.storage.lakehouse.datafiles import DataFiles
from hfthot_platform.storage.lakehouse.days import Span, beside, chunks, literal, sql_partitions, sql_within, within
from hfthot_platform.storage.lakehouse.locks import writers_lock
from hfthot_platform.storage.lakehouse.publication import ROW_GROUP_ROWS, Former, OnChange, Publication, compared
from hfthot_platform.storage.lakehouse.rewrite import REDACTED, SUBJECT, Rewrite
from hfthot_platform.storage.lakehouse.storage import (
    damaged,
    fsync_files,
    has_data,
    log_fault,
    log_is_hollow,
    set_log_aside,
    translated,
)

if TYPE_CHECKING:
    from hfthot_platform.storage.lakehouse.lake import Lakehouse

__all__ = ["Rows", "Span", "Table"]

#: Rows to write: a frame, a lazy frame (written in bounded memory), or what an audit already returned.
Rows = pl.DataFrame | pl.LazyFrame | Audited

_OPTIMISTIC = 4
_ATTEMPTS = 12
# delta-rs counts up to the version that it is asked for (37 ns each), so those that cannot be are never asked for.
_FAR = 100_000
#: Versions of a table whose lists of files are kept.
_KEPT = 4
_VERSION_PROPERTY = "hfthot.schema_version"
_Made = tuple[CommitProperties, PostCommitHookProperties]
_FEATURES_REFUSED = {"deletionVectors", "columnMapping"}


class _Plan(NamedTuple):
    """What an attempt decided after reading: how to write, and the account of rows."""

    #: Writes through the handle that was read, as the commit of the given id.
    write: Callable[[DeltaTable, str], None] | None
    published: int
    duplicate: int
    updated: int = 0
    replayed: int = 0
    forgotten: int = 0
    withdrawn: int = 0
    restored: int = 0
    days: frozenset[date] = frozenset()
    rejected: pl.DataFrame | None = None
    #: Rejected rows that are in quarantine already.
    quarantined: int = 0
    #: Counts of a streamed write, complete once it is through; they take the place of the ones above.
    account: dict[str, int] | None = None


class _QuarantineFirst(Exception):  # noqa: N818 - a signal between two functions of this module
    """A stream met rejected rows."""


class _SourceFailed(Exception):  # noqa: N818 - carries an error of the caller's rows past the storage's translation
    def __init__(self, error: Exception) -> None:
        self.error = error


class _Handle(DeltaTable):
    """A Delta table whose local files are named by their paths, as Polars wants them, not by parts of URLs."""

    def file_uris(self, *args: Any, **kwargs: Any) -> list[str]:
        uris = super().file_uris(*args, **kwargs)
        return uris if "://" in next(iter(uris), "") else [unquote(uri) for uri in uris]


class _Kept:
    """Files of recent versions, good until the log's newest entry (`mark`) is another one."""

    def __init__(self, mark: tuple[int, ...] | None) -> None:
        self.mark = mark
        self.files: dict[int | None, Files] = {}

    def put(self, version: int | None, files: Files) -> None:
        if self.mark is not None:
            if len(self.files) >= _KEPT:
                self.files.pop(next(iter(self.files)), None)
            self.files[version] = files


class Table:
    """A versioned table.  Made by `Lakehouse.table`, cheap to make, safe to use from several processes."""

    def __init__(self, lake: Lakehouse, contract: TableContract) -> None:
        self._lake = lake
        self.contract = contract
        self._storage = lake.storage
        self.uri = lake.storage.uri(contract)
        self._lock_file = lake.storage.lock_file(contract)
        self._folder = lake.storage.local_table(contract)
        self._location = lake.storage.location(contract)
        self._evolved = False
        self._kept = _Kept(None)

    def __repr__(self) -> str:
        return f"Table({self.contract.name!r})"

    @property
    def folder(self) -> Path | None:
        """Return the table's folder, or None on an object store."""
        return self._folder

    # -- reading ------------------------------------------------------------------------------------------

    def scan(self, version: int | None = None, as_of: datetime | None = None) -> pl.LazyFrame:
        """Return the rows of the current version, of a version, or of the version current at a time.

        A table that nobody wrote yet reads as empty.

        Raises:
            LakeMissingError: there is no lake at this place at all.
            BadRequestError: both `version` and `as_of` are given, or `as_of` has no time zone.
            VersionUnavailableError: not readable (any more); the message names the readable range.
            DamagedTableError: a file of that version is missing.
        """
        handle = self._chosen(version, as_of)
        return self.contract.empty().lazy() if handle is None else self._frame(handle)

    def exists(self) -> bool:
        """Return whether the table was ever written."""
        return self._open() is not None

    def create(self) -> None:
        """Make the table, empty, if it is not there."""
        self._ensure()

    def version(self) -> int | None:
        """Return the current version, or None if nothing was written yet."""
        handle = self._chosen(None, None)
        return None if handle is None else handle.version()

    def versions(self) -> list[VersionInfo]:
        """Return the table's history, oldest first."""
        handle = self._chosen(None, None)
        if handle is None:
            return []
        return self._history(handle)

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
        handle = self._chosen(None, None)
        if handle is None:
            return 0, 0
        sizes = active_files(handle).column("size_bytes").to_pylist()
        return sum(sizes), len(sizes)

    def snapshot(self, version: int | None = None, as_of: datetime | None = None) -> Snapshot | None:
        """Return the files, sizes and time span of a version, or None if nothing was written yet.

        Raises:
            BadRequestError: both `version` and `as_of` are given, or `as_of` has no time zone.
            VersionUnavailableError: not readable (any more); the message names the readable range.
            DamagedTableError: a file of that version is missing.
        """
        handle = self._chosen(version, as_of)
        if handle is None:
            return None
        if fault := next(self._faults(handle), None):
            raise self._damage(fault)
        with translated(self.contract.name):
            actions = active_files(handle)
            committed = {each.version: each.timestamp for each in history_of(self._current())}
        rows = actions.column("num_records").to_pylist()
        first = _known(actions, f"min.{self.contract.time_column}")
        last = _known(actions, f"max.{self.contract.time_column}")
        return Snapshot(
            version=handle.version(),
            committed_at=committed[handle.version()],
            paths=tuple(handle.file_uris()),
            rows=None if None in rows else sum(rows),
            bytes=sum(actions.column("size_bytes").to_pylist()),
            first_event=min(first, default=None),
            last_event=max(last, default=None),
        )

    def files(self, version: int | None = None, as_of: datetime | None = None) -> Files | None:
        """Return the data files of a version with their statistics, or None if nothing was written yet.

        The lists of a few versions are kept for as long as nobody commits; a commit is seen at once.

        Raises:
            BadRequestError: both `version` and `as_of` are given, or `as_of` has no time zone.
            VersionUnavailableError: not readable (any more); the message names the readable range.
            SchemaMismatchError: a column is stored with another type than the contract's.
        """
        if version is not None and as_of is not None:
            raise BadRequestError("give either version or as_of", where=self.contract.name)
        kept, mark = self._kept, self._mark()
        if kept.mark is None or kept.mark != mark:
            kept = self._kept = _Kept(mark)
        if as_of is not None:
            version = self.version_at(as_of)
        if (found := kept.files.get(version)) is not None:
            return found
        handle = self._chosen(version, None)
        if handle is None:
            return None
        self._require_types(handle)
        with translated(self.contract.name):
            files = Files(handle.version(), tuple(handle.file_uris()), active_files(handle))
        # A commit may have come since the mark was taken: then the next call takes a new one.
        if version is not None or mark is None or files.version == mark[0]:
            kept.put(version, files)
        return files

    def require(self, files: Files, chosen: Sequence[int]) -> None:
        """Check that the chosen ones of a version's files, by their position, are there in the size that the log says.

        Only a local lake is looked at.

        Raises:
            DamagedTableError: a file is missing or has another size.
        """
        if self._folder is None:
            return
        sizes = files.entries.column("size_bytes").to_pylist()
        for position in chosen:
            path = files.paths[position]
            try:
                found = os.stat(path).st_size  # noqa: PTH116 - a hundred times per query
            except FileNotFoundError:
                raise self._damage((str(Path(path).relative_to(self._folder)), "is missing")) from None
            except OSError as error:
                raise self._damage((str(Path(path).relative_to(self._folder)), f"({error.strerror})")) from None
            if found != sizes[position]:
                name = str(Path(path).relative_to(self._folder))
                raise self._damage((name, f"has {found} bytes, the log says {sizes[position]}"))

    def problems(self, *, deep: bool = False) -> list[str]:
        """Return what is wrong with the current version's files, one line each; empty when it is intact.

        Presence, size and row counts are checked; `deep` reads every value as well.
        """
        try:
            handle = self._open()
        except LakehouseError as error:
            return [str(error)]
        if handle is None:
            return []
        return [f"file {name} {what}" for name, what in self._faults(handle, read="all" if deep else "footers")]

    # -- writing ------------------------------------------------------------------------------------------

    def audit(self, rows: pl.DataFrame, rejected: pl.DataFrame | None = None) -> Audited:
        """Check rows against the contract without writing anything; the result can be given to any write."""
        return audit(self.contract, rows, rejected)

    def audit_all(self, rows: pl.DataFrame) -> Audited:
        """Check rows none of which may be missing, and which must not be kept elsewhere either.

        A bad row may hold in clear, in the wrong column, what must not leave the place that it came from.

        Raises:
            SchemaMismatchError: the rows do not fit the contract.
            AuditFailedError: a row breaks a rule; the message names its `seq` and the rule, never a value.
        """
        if "seq" in rows.columns and rows.schema["seq"].is_integer():
            rows = rows.with_columns(pl.col("seq").cast(pl.Int64).alias(ROW_NUMBER))
        audited = audit(self.contract, rows)
        if audited.rejected.height:
            first = audited.rejected.sort("row_number").row(0, named=True)
            raise AuditFailedError(
                f"entry {first['row_number']} breaks the rule {first['reason']} ({first['detail']}), "
                f"with {audited.rejected.height - 1} more rows",
                where=self.contract.name,
                hint="Nothing was published. The change log has the entry; correct what wrote it.",
            )
        return audited

    def quarantine(self, audited: Audited, *, stamp: Stamp | None = None) -> None:
        """Keep the rejected rows of an audit whose good rows are not going to be published."""
        self._quarantine(audited.rejected, stamp or Stamp())

    def quarantine_all(
        self, batches: Callable[[], Iterable[pl.DataFrame]], *, source_ref: str = "", stamp: Stamp | None = None
    ) -> Commit | None:
        """Keep the rejected rows of many batches, as one commit of this table's quarantine; None if there are none.

        Raises:
            AuditFailedError: the table has no quarantine.
        """
        stamp = stamp or Stamp()
        if not any(each.height for each in batches()):
            return None
        name = self.contract.quarantine
        if name not in self._lake.contracts:
            raise AuditFailedError("the table has no quarantine", where=self.contract.name)
        kept = self._lake.table(name)

        def audited() -> Iterator[Audited]:
            yield from (kept.audit(self._as_quarantine_rows(each, stamp)) for each in batches() if each.height)

        return kept.publish(audited, source_ref=source_ref, on_change="keep", stamp=stamp)

    def append(self, rows: Rows, *, stamp: Stamp | None = None) -> Commit:
        """Add rows that are known to be new; a lazy frame is written in bounded memory, as one commit.

        Only repeats within `rows` are found.  For rows that may already be there, and to run a write again of
        which it is not known whether it was published, use `merge` or `replace`: they are idempotent.

        Raises:
            SchemaMismatchError: the rows do not fit the contract.
            AuditFailedError: more rows were rejected than the contract allows; nothing was published.
        """
        stamp = stamp or Stamp()

        pieces: list[pl.LazyFrame] | Audited
        pieces = self._audited(rows) if isinstance(rows, Audited) else self._pieces(rows.lazy())

        def plan(_handle: DeltaTable) -> _Plan:
            return self._streamed(pieces, stamp, mode="append", predicate=None)

        return self._commit(plan, stamp)

    def replace(
        self,
        partition: Span | None,
        rows: Rows | Callable[[pl.LazyFrame], pl.DataFrame],
        *,
        stamp: Stamp | None = None,
    ) -> Commit:
        """Make `rows` the only rows of the given days (None: of the whole table), as one commit.

        Writing what is already there is no commit at all, so a re-run changes nothing; only a lazy frame of more
        than a million rows is not compared and makes a version each time.  `rows` may be a function of the rows
        that are there now; it runs again on every attempt.

        Raises:
            SchemaMismatchError: the rows do not fit the contract.
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
                pieces = self._pieces(given)
                if len(pieces) > 1:
                    return self._streamed(pieces, stamp, mode="overwrite", predicate=predicate, span=partition)
                given = pieces[0].collect()
            audited = self._audited(given)
            self._require_within(audited.rows, partition)
            before = current.collect()
            if before.height == audited.rows.height and before.sort(contract.sort_by).equals(audited.rows):
                return _Plan(None, before.height, audited.duplicates, replayed=before.height, rejected=audited.rejected)
            published = audited.rows.height
            whole = audited.rows
            if partition is not None and contract.partition_by in {"month", "year"}:
                # delta-rs would copy the other days of the partition in any order, file by file.  Written again with
                # them the partition stays one sorted file, however often one of its days is replaced.
                others = self._frame(handle).filter(beside(contract, partition)).collect()
                whole = pl.concat([others, whole]).sort(contract.sort_by) if others.height else whole
                predicate = sql_partitions(contract, partition)

            def write(target: DeltaTable, commit_id: str) -> None:
                made = properties(stamp, commit_id, rows=published)
                self._write(target, whole, made, mode="overwrite", predicate=predicate)

            return _Plan(write, published, audited.duplicates, rejected=audited.rejected)

        return self._commit(plan, stamp)

    def merge(
        self,
        rows: Rows,
        *,
        on_change: OnChange = "update",
        stamp: Stamp | None = None,
    ) -> Commit:
        """Add rows by primary key; rows that are already there change nothing.

        A bar that is not final (see the column `final`) fills a gap, and never takes the place of another row.

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

        attempts = itertools.count(1)

        def plan(handle: DeltaTable) -> _Plan:
            # Under the exclusive lock nobody comes between; on an object store, where there is none, a crowd of
            # writers of other days must not keep this one from ever committing.
            alone = self._lock_file is not None or next(attempts) <= _OPTIMISTIC
            return self._merge_plan(handle, audited, on_change, stamp, alone=alone)

        return self._commit(plan, stamp)

    def publish(
        self,
        batches: Callable[[], Iterable[Audited]],
        *,
        source_ref: str = "",
        in_place_of: Former | None = None,
        on_change: OnChange = "update",
        stamp: Stamp | None = None,
    ) -> Commit:
        """Add all batches of a source by primary key, and take out the rows of another, as one commit.

        A reader sees all of it or nothing, and a run that was killed leaves nothing; one after it adds what is
        missing.  Memory holds one batch at a time, and one data file that is written again.  As in `merge`, rows
        that are there change nothing, and a bar that is not final only fills a gap.  Rejected rows are in
        quarantine before anything is public.

        Args:
            batches: yields the audited batches, from the start each time it is called.  A row of a later batch
                that repeats one of an earlier batch is a duplicate; one that contradicts it is rejected.
            source_ref: what the rows came from; the commit says so, and its rows are known by it.
            in_place_of: a source whose rows are taken out.
            on_change: what happens when the key is there with other values; see `merge`.
            stamp: who writes and why.

        Raises:
            CommitConflictError: other writers won every attempt.
            VersionUnavailableError: the version from which rows were to come back is not readable any more.
        """
        stamp = stamp or Stamp()
        contract = self.contract
        one_source = bool(source_ref) and on_change != "keep"

        def plan(handle: DeltaTable) -> _Plan:
            data = DataFiles(
                contract, handle, self._folder, self._options, row_group_rows=ROW_GROUP_ROWS, times_in_log=True
            )
            publication = Publication(data, self._frame(handle))
            published = duplicate = quarantined = replayed = 0
            try:
                if in_place_of is not None:
                    publication.take_out(in_place_of, [self.scan(version) for version in in_place_of.before])
                for audited in batches():
                    found = publication.add(audited.rows, on_change, one_source=one_source)
                    bad = [each for each in (audited.rejected, found.conflicts) if each is not None and each.height]
                    if bad:
                        self._quarantine(pl.concat(bad), stamp)
                    quarantined += sum(each.height for each in bad)
                    published += found.source.height + found.replayed.height
                    replayed += found.replayed.height
                    duplicate += audited.duplicates + found.duplicates
                publication.finish()
            except BaseException:
                publication.discard()
                raise

            def write(target: DeltaTable, commit_id: str) -> None:
                rows = published - replayed
                about: dict[str, int | str] = {"rows": rows, "source_ref": source_ref, "updated": publication.updated}
                made = properties(stamp, commit_id, alone=True, app=None, operation="PUBLISH", **about)
                before = target.version()
                try:
                    with translated(contract.name):
                        publication.commit(*made)
                except CommitFailedError:
                    if not self._published(commit_id, before):
                        publication.discard()
                    raise

            return _Plan(
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

    def lineage(self) -> list[VersionInfo]:
        """Return the versions that the current one descends from, newest first: those that no restore undid."""
        history = {each.version: each for each in self.versions()}
        out = []
        version = max(history, default=-1)
        while (found := history.get(version)) is not None:
            out.append(found)
            version = version - 1 if found.restored is None else found.restored
        return out

    def descends_from(self, version: int, commit_id: str) -> bool:
        """Return whether what a commit published is part of the current version's history: no restore undid it.

        Args:
            version: the version that the commit made.
            commit_id: its id; a number alone may have been given anew after the log's end was damaged and set aside.
        """
        line = self.lineage()
        if not line or version > line[0].version:
            return False
        for each in line:
            if each.version == version:
                return each.commit_id == commit_id
            if each.version < version:
                return False  # a restore went back to before it
        # Older than the log remembers, and so than what any restore could go back to.
        return True

    def apply(
        self,
        upserts: pl.DataFrame | Audited | None,
        *,
        forget: Collection[str] = (),
        redact: Collection[str] = (),
        app: tuple[str, int],
        since: int | None = None,
        stamp: Stamp | None = None,
    ) -> Commit:
        """Publish a stretch of an ordered log of changes exactly once: deletions and redactions, then new rows.

        Nothing of the rows reaches the table's log but what the contract keeps statistics of, and only the data
        files that hold a changed row are written again.

        Args:
            upserts: rows (or what `audit_all` returned for them), one per key, that are added or take the place of
                the stored row of their key.  A row's partition and subject are those of every earlier row of its key.
            forget: subjects whose stored rows are deleted.
            redact: subjects whose stored rows lose their personal columns and are marked as redacted.
            app: name of the log, and the number of the last entry of the stretch.  A stretch that the table has
                already is not applied again; one that changes nothing is no commit.
            since: the entry up to which the table must have the log, None for any.
            stamp: who writes and why.

        Returns:
            The commit; `rows_updated` of its rows replaced a stored one, `rows_forgotten` were deleted or redacted.

        Raises:
            SchemaMismatchError: the rows do not fit the contract.
            AuditFailedError: a row breaks a rule; the message names its position in the log, never its values.
                Nothing was published.
            CommitConflictError: the table has the log up to another entry than `since`, or other writers won every
                attempt.
        """
        stamp = stamp or Stamp()
        contract = self.contract
        needed = {SUBJECT if forget else "", *((SUBJECT, REDACTED) if redact else ())} - {""}
        if not needed <= {*contract.column_names}:
            raise BadRequestError(
                "the table has no rows to forget or redact by subject", where=contract.name, hint="Leave them out."
            )
        if not isinstance(upserts, Audited):
            upserts = self.audit_all(contract.empty() if upserts is None else upserts)
        rows = self._audited(upserts).rows
        name, last = app

        def plan(handle: DeltaTable) -> _Plan:
            reached = handle.transaction_version(name) or 0
            if reached >= last:
                return _Plan(None, 0, 0)
            if since is not None and reached != since:
                raise CommitConflictError(
                    f"the table has the log {name!r} up to entry {reached}, not {since}; nothing was written",
                    where=contract.name,
                    hint="Another publisher works on the same log; run this one again.",
                )
            rewrite = Rewrite(contract, handle, self._folder, self._options, rows=rows, forget=forget, redact=redact)
            if not rewrite.changes:
                return _Plan(None, 0, 0)

            def write(target: DeltaTable, commit_id: str) -> None:
                commit, hooks = properties(stamp, commit_id, alone=True, app=app, operation="APPLY", rows=rows.height)
                before = target.version()
                try:
                    with translated(contract.name):
                        rewrite.commit(commit, hooks)
                except CommitFailedError:
                    if not self._published(commit_id, before):
                        rewrite.discard()
                    raise

            return _Plan(write, rows.height, 0, updated=rewrite.replaced, forgotten=rewrite.forgotten)

        return self._commit(plan, stamp)

    def applied(self, name: str) -> int:
        """Return the number of the last entry of a log that `apply` published here, 0 if there is none."""
        handle = self._open()
        return 0 if handle is None else handle.transaction_version(name) or 0

    def restore(self, version: int, *, stamp: Stamp | None = None) -> Commit:
        """Make an older version current again, as a new version; nothing in between is lost.

        Where the log itself is damaged, its entries past `version` are set aside in the lake's `_damaged` folder:
        what they published is no longer part of the table.

        The user tables follow the operational store: what it published stays published, so an older version of them
        would stand beside newer entries, row by row until each is written again.  They go back only where the present
        version is damaged, and then `hfthot accounts restore --rewrite` has to follow.

        Raises:
            BadRequestError: it is a user table, and whole.
            VersionUnavailableError: that version cannot be read any more.
            DamagedTableError: that version is damaged too.
        """
        stamp = stamp or Stamp()
        started = time.perf_counter()
        commit_id = new_commit_id()
        with writers_lock(self._lock_file, exclusive=True):
            aside = False
            try:
                handle = self._open()
            except DamagedTableError:
                handle = self._set_log_aside(version, commit_id)
                aside = True
            if handle is None:
                raise self._unavailable(f"version {version}", [])
            if self.contract in USER_TABLES and not aside and next(self._faults(handle), None) is None:
                raise BadRequestError(
                    "a user table follows the operational store, so going back to an older version has no lasting "
                    "effect",
                    where=self.contract.name,
                    hint="Restore a backup of the store, then run `hfthot accounts restore`; `--rewrite` writes every "
                    "row of the user tables anew from the store. Older versions stay readable as they are.",
                )
            target = self._open(version)
            if target is not None and (fault := next(self._faults(target), None)):
                raise self._damage(fault)
            before = handle.version()
            if version == before:
                return replace(self._unchanged(version, _Plan(None, 0, 0), started, 1), changed=aside)
            commit, hooks = properties(stamp, commit_id, operation="RESTORE")
            try:
                with translated(self.contract.name):
                    handle.restore(version, commit_properties=commit, post_commithook_properties=hooks)
            except CommitFailedError:
                raise CommitConflictError(
                    "another writer committed meanwhile; nothing was restored",
                    where=self.contract.name,
                    hint="Look at the table's history and restore again if it is still wanted.",
                ) from None
            return self._acknowledge(commit_id, before, _Plan(None, 0, 0), started, 1)

    def _set_log_aside(self, version: int, commit_id: str) -> DeltaTable | None:
        """Take the damaged end of a local log away, so that `version` is the newest one."""
        fault = None if self._folder is None else log_fault(self._folder)
        if fault is None or self._folder is None or self._storage.local is None:
            raise damaged(self.contract.name, "_delta_log", "is damaged")
        if version > fault[2] or (version < fault[2] and not self._loads(version)):
            raise self._log_damage() or damaged(self.contract.name, *fault[:2])
        set_log_aside(self._folder, version, self._storage.local / "_damaged" / self.contract.name / commit_id)
        return self._open()

    # -- internals: reading ---------------------------------------------------------------------------------

    def _chosen(self, version: int | None, as_of: datetime | None) -> DeltaTable | None:
        """Open a version, the one of a time, or the current one; None if nothing was written and none was named."""
        if version is not None and as_of is not None:
            raise BadRequestError("give either version or as_of", where=self.contract.name)
        if as_of is not None:
            version = self.version_at(as_of)
        handle = self._open(version)
        if handle is None:
            self._lake.require()
        if handle is None and version is not None:
            raise self._unavailable(f"version {version}", [])
        return handle

    def _open(self, version: int | None = None) -> DeltaTable | None:
        if version is not None and version > _FAR:
            newest = self._open()
            if newest is not None and version > newest.version():
                raise self._unavailable(f"version {version}", self.readable_versions())
        try:
            with translated(self.contract.name):
                handle = _Handle(self._location, version=version, storage_options=self._options)
        except TableNotFoundError:
            if version is not None and self._open() is not None:
                raise self._unavailable(f"version {version}", self.readable_versions()) from None
            if self._folder is None or not has_data(self._folder):
                return None
            try:
                # Another writer may have made it between the two looks.
                with translated(self.contract.name):
                    handle = _Handle(self._location, version=version, storage_options=self._options)
            except TableNotFoundError:
                raise damaged(self.contract.name, "_delta_log", "is missing or empty") from None
        except (StorageReadOnlyError, StorageUnavailableError):
            raise
        except Exception as error:  # noqa: BLE001 - an absent version has many wordings; the log tells which it is
            if version is not None and self._open() is not None:
                raise self._unavailable(f"version {version}", self.readable_versions()) from None
            raise self._log_damage() or error from None
        if version is None:
            hollow = self._folder is not None and log_is_hollow(self._folder)
            if hollow and (damage := self._log_damage()):
                raise damage
        elif version < max((each.oldest_readable or 0 for each in self._history(self._current())), default=0):
            raise self._unavailable(f"version {version}", self.readable_versions())
        self._refuse_features(handle)
        return handle

    def _log_damage(self) -> DamagedTableError | None:
        """Return which entry of a local log is at fault, and the newest version that loads without it."""
        fault = None if self._folder is None else log_fault(self._folder)
        if fault is None:
            return None
        name, meaning, last = fault
        if last < 0:
            return DamagedTableError(
                f"file at fault: {name} {meaning}",
                where=self.contract.name,
                hint="No older version can be read without it. Copy the file, or the whole table, back from a backup.",
            )
        return damaged(self.contract.name, name, meaning, last)

    @property
    def _options(self) -> dict[str, str]:
        return dict(self._storage.options)

    def _current(self) -> DeltaTable:
        return _Handle(self._location, storage_options=self._options)

    def _history(self, handle: DeltaTable, limit: int | None = None) -> list[VersionInfo]:
        with translated(self.contract.name):
            return history_of(handle, limit)

    def _loads(self, version: int) -> bool:
        try:
            _Handle(self._location, version=version, storage_options=self._options)
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
        if fault := next(self._faults(handle), None):
            raise self._damage(fault)
        stored = self._require_types(handle)
        frame = pl.scan_delta(handle, storage_options=self._options or None)
        absent = [column for column in self.contract.columns if column.name not in stored]
        if absent:
            frame = frame.with_columns(pl.lit(None, dtype=column.polars).alias(column.name) for column in absent)
        return frame.select(self.contract.column_names)

    def _require_types(self, handle: DeltaTable) -> set[str]:
        """Return the names of the stored columns; those that the contract has too must have its types."""
        stored = {field.name: field.type for field in handle.schema().fields}
        for field in Schema.from_arrow(self.contract.arrow_schema).fields:
            if field.name in stored and stored[field.name] != field.type:
                raise self._wrong_type(field, stored[field.name])
        return set(stored)

    def _mark(self) -> tuple[int, ...] | None:
        """Return what tells a local log's newest entry from any other: its version, inode, size and time."""
        if self._folder is None:
            return None
        log = self._folder / "_delta_log"
        version = -1 if self._kept.mark is None else self._kept.mark[0]
        try:
            if version < 0 or not (log / f"{version:020d}.json").exists():
                entries = (path.stem for path in log.iterdir() if path.suffix == ".json" and path.stem.isdigit())
                version = max(map(int, entries), default=-1)
            while (log / f"{version + 1:020d}.json").exists():
                version += 1
            state = (log / f"{version:020d}.json").stat()
        except OSError:
            return None
        return version, state.st_ino, state.st_size, state.st_mtime_ns

    def _faults(
        self, handle: DeltaTable, read: Literal["nothing", "footers", "all"] = "nothing"
    ) -> Iterator[tuple[str, str]]:
        """Yield name and fault of each data file that is not as the log says; only a local lake is looked at."""
        if self._folder is None:
            return
        actions = active_files(handle)
        columns = (actions.column(name).to_pylist() for name in ("path", "size_bytes", "num_records"))
        for encoded, size, rows in zip(*columns, strict=True):
            name = unquote(encoded)
            path = self._folder / name
            try:
                found = path.stat().st_size
                if found != size:
                    yield name, f"has {found} bytes, the log says {size}"
                elif read != "nothing":
                    frame = pl.scan_parquet(path, hive_partitioning=False)
                    length = frame.collect().height if read == "all" else frame.select(pl.len()).collect().item()
                    if rows is not None and length != rows:
                        yield name, f"has {length} rows, the log says {rows}"
            except FileNotFoundError:
                yield name, "is missing"
            except (pl.exceptions.PolarsError, OSError):
                yield name, "is not readable Parquet"

    def _damage(self, fault: tuple[str, str]) -> DamagedTableError:
        """Return the error for a data file at fault, with the newest version that is intact."""
        name, meaning = fault
        for each in reversed(self.readable_versions()[:-1]):
            try:
                handle = _Handle(self._location, version=each.version, storage_options=self._options)
            except Exception:  # noqa: BLE001, S112 - an unreadable version is simply not the one to offer
                continue
            if next(self._faults(handle), None) is None:
                return damaged(self.contract.name, name, meaning, each.version)
        return DamagedTableError(
            f"file at fault: {name} {meaning}",
            where=self.contract.name,
            hint="No older version is intact. Copy the file back from a backup, or replace its partition.",
        )

    @contextmanager
    def _diagnosed(self, handle: DeltaTable) -> Iterator[None]:
        """Find the file at fault when reading or rewriting the table's own files fails."""
        try:
            yield
        except (DamagedTableError, pl.exceptions.PolarsError, OSError):
            if fault := next(self._faults(handle, read="all"), None):
                raise self._damage(fault) from None
            raise

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

    def _pieces(self, rows: pl.LazyFrame) -> list[pl.LazyFrame]:
        """Return rows in memory-bounded pieces; their columns and types are checked before anything is read."""
        schema = rows.collect_schema()
        conform(self.contract, pl.DataFrame(schema=schema))
        time_column = self.contract.time_column
        if time_column is not None and isinstance(schema[time_column], pl.Datetime):
            # In another time zone the days would be others.
            rows = rows.with_columns(pl.col(time_column).dt.convert_time_zone("UTC"))
        return chunks(self.contract, rows)

    def _audited(self, rows: pl.DataFrame | Audited) -> Audited:
        audited = rows if isinstance(rows, Audited) else audit(self.contract, rows)
        if audited.contract.name != self.contract.name:
            raise BadRequestError(f"the rows were audited for {audited.contract.name}", where=self.contract.name)
        self._require_publishable(audited.rejected, audited.read)
        return audited

    def _require_publishable(self, rejected: pl.DataFrame, read: int) -> None:
        if self.contract.tolerates(rejected.height, read):
            return
        worst, count = rejected.group_by("reason").len().sort("len", "reason", descending=True).row(0)
        raise AuditFailedError(
            f"{rejected.height} of {read} rows break a rule, most often {worst} ({count}); "
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
        """Return a handle to write with; create the table, or bring it to the contract's newer schema."""
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
            handle = DeltaTable.create(
                self._location,
                contract.arrow_schema,
                partition_by=[contract.partition_by] if contract.partition_by else None,
                name=contract.name,
                description=contract.description,
                configuration=configuration,
                storage_options=self._options,
                raise_if_key_not_exists=False,
            )
        except Exception:
            # Another writer may have created it in the same instant; anything else is raised again.
            created = self._open()
            if created is None:
                raise
            return created
        if self._folder is not None:
            fsync_files(self._folder, (), self._folder / "_delta_log" / f"{0:020d}.json")
        return handle

    def _evolve(self, handle: DeltaTable) -> DeltaTable:
        contract = self.contract
        if not self._outdated(handle):
            return handle
        for attempt in range(1, _ATTEMPTS + 1):
            with writers_lock(self._lock_file, exclusive=True):
                try:
                    with translated(contract.name):
                        handle = self._current()
                        if added := self._lacks(handle):
                            handle.alter.add_columns(added)
                        for name in self._loosened(handle):
                            handle.alter.drop_column_not_null(name)
                        handle.alter.set_table_properties(
                            {_VERSION_PROPERTY: str(contract.schema_version)}, raise_if_not_exists=False
                        )
                        return self._current()
                except CommitFailedError:
                    _pause(attempt)
        raise self._conflict()

    def _outdated(self, handle: DeltaTable) -> bool:
        """Whether the stored table lacks columns or says an older schema version.

        Raises:
            SchemaMismatchError: the stored table differs in a way that needs a migration.
        """
        contract = self.contract
        partition = [contract.partition_by] if contract.partition_by else []
        metadata = handle.metadata()
        if metadata.partition_columns != partition:
            raise self._needs_migration(
                f"stored with the partition columns {metadata.partition_columns}, the contract says {partition}"
            )
        stored = int(metadata.configuration.get(_VERSION_PROPERTY, 0))
        if stored > contract.schema_version:
            raise self._needs_migration(f"stored as schema {stored}, this code knows {contract.schema_version}")
        lacks = self._lacks(handle)
        loosened = self._loosened(handle)
        if loosened and stored == contract.schema_version:
            raise self._needs_migration(f"column {loosened[0]!r} is stored as not nullable, the contract says nullable")
        if lacks and stored == contract.schema_version:
            # Readers fill a missing column with nulls only where the contract says that it came later.
            raise SchemaMismatchError(
                f"column {lacks[0].name!r} is new, but the contract still says schema version {stored}",
                where=contract.name,
                hint="Raise schema_version in the contract.",
            )
        return stored < contract.schema_version

    def _lacks(self, handle: DeltaTable) -> list[Field]:
        """Return the contract's columns that the stored table does not have yet."""
        stored = {field.name: field for field in handle.schema().fields}
        lacks: list[Field] = []
        for field in Schema.from_arrow(self.contract.arrow_schema).fields:
            there = stored.pop(field.name, None)
            if there is None:
                if not field.nullable:
                    raise self._needs_migration(f"column {field.name!r} is new and not nullable")
                lacks.append(field)
            elif there.type != field.type:
                raise self._wrong_type(field, there.type)
            elif there.nullable and not field.nullable:
                raise self._needs_migration(
                    f"column {field.name!r} is stored as nullable, the contract says not nullable"
                )
        if stored:
            raise self._needs_migration(f"column {min(stored)!r} is stored but not in the contract")
        return lacks

    def _loosened(self, handle: DeltaTable) -> list[str]:
        """Return the columns that are stored as not nullable and may be null by the contract."""
        stored = {field.name for field in handle.schema().fields if not field.nullable}
        return [column.name for column in self.contract.columns if column.nullable and column.name in stored]

    def _wrong_type(self, field: Field, stored: object) -> SchemaMismatchError:
        return self._needs_migration(f"column {field.name!r} is stored as {stored}, the contract says {field.type}")

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
                with self._diagnosed(handle):
                    todo = plan(handle)
                # Rejected rows are safe before the good ones are public: a crash between the two loses none.
                self._quarantine(todo.rejected, stamp)
                if todo.write is None:
                    return self._unchanged(before, todo, started, attempt)
                commit_id = new_commit_id()
                won = True
                try:
                    with self._diagnosed(handle):
                        todo.write(handle, commit_id)
                except _SourceFailed as failed:
                    raise failed.error from None
                except CommitFailedError:
                    won = self._published(commit_id, before)
                except LakehouseError:
                    # What delta-rs does after the commit (a checkpoint) can fail too; the rows are public then.
                    if not self._published(commit_id, before):
                        raise
                if won:
                    return self._acknowledge(commit_id, before, todo, started, attempt)
            _pause(attempt)
        raise self._conflict()

    def _conflict(self) -> CommitConflictError:
        return CommitConflictError(
            f"other writers won {_ATTEMPTS} times in a row; nothing was written",
            where=self.contract.name,
            hint="Run the same step again, or give its asset the table's pool so that writers take turns.",
        )

    def _published(self, commit_id: str, before: int) -> bool:
        """Whether the commit of this id is among the versions after `before`."""
        try:
            handle = self._current()
            return any(each.commit_id == commit_id for each in history_of(handle, handle.version() - before))
        except (OSError, DeltaError):
            return False

    def _quarantine(self, rejected: pl.DataFrame | None, stamp: Stamp) -> None:
        if rejected is None or not rejected.height:
            return
        name = self.contract.quarantine
        if name not in self._lake.contracts:
            raise AuditFailedError(
                f"{rejected.height} rows break a rule: {rejected['detail'][0]}",
                where=self.contract.name,
                hint="This table has no quarantine; nothing was published.",
            )
        self._lake.table(name).merge(self._as_quarantine_rows(rejected, stamp), on_change="keep", stamp=stamp)

    def _as_quarantine_rows(self, rejected: pl.DataFrame, stamp: Stamp) -> pl.DataFrame:
        now = self._lake.clock()
        return rejected.with_columns(
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

    def _streamed(
        self,
        pieces: list[pl.LazyFrame] | Audited,
        stamp: Stamp,
        *,
        mode: Literal["append", "overwrite"],
        predicate: str | None,
        span: Span | None = None,
    ) -> _Plan:
        """Plan to audit and write piece by piece; the account of rows is complete when the write is.

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
                for piece in [pieces] if isinstance(pieces, Audited) else pieces:
                    audited = piece if isinstance(piece, Audited) else audit(self.contract, piece.collect())
                    self._require_within(audited.rows, span)
                    account["read"] += audited.read
                    account["published"] += audited.rows.height
                    account["duplicate"] += audited.duplicates
                    rejected.append(audited.rejected)
                    # One batch: the writer spreads batches over threads, and days would lose their order.
                    yield from audited.rows.rechunk().to_arrow().to_batches()
                bad = pl.concat(rejected)
                self._require_publishable(bad, account["read"])
                if bad.height and not safe:
                    raise _QuarantineFirst
            except Exception as error:
                failure.append(error)
                raise

        def stream(target: DeltaTable, commit_id: str) -> None:
            failure.clear()
            reader = pa.RecordBatchReader.from_batches(self.contract.empty().to_arrow().schema, batches())
            made = properties(stamp, commit_id)
            try:
                self._write(target, reader, made, mode=mode, predicate=predicate)
            except Exception:
                if failure:
                    raise _SourceFailed(failure[0]) from None
                raise

        def write(target: DeltaTable, commit_id: str) -> None:
            nonlocal safe
            try:
                stream(target, commit_id)
            except _SourceFailed as failed:
                if not isinstance(failed.error, _QuarantineFirst):
                    raise
                self._quarantine(pl.concat(rejected), stamp)
                safe = True
                stream(target, commit_id)

        return _Plan(write, -1, 0, account=account)

    def _merge_plan(
        self,
        handle: DeltaTable,
        audited: Audited,
        on_change: OnChange,
        stamp: Stamp,
        *,
        alone: bool,
    ) -> _Plan:
        """Plan a merge; `alone` asks for a commit that fails if any other came since the handle was read."""
        contract = self.contract
        rows = audited.rows
        if not rows.height:
            return _Plan(None, 0, audited.duplicates, rejected=audited.rejected)
        partition = contract.partition_by
        current = self._frame(handle)
        values: list[object] = []
        if partition:
            values = rows[partition].unique().sort().to_list()
            current = current.filter(pl.col(partition).is_in(values))
        found = compared(contract, rows, current, on_change)
        source, updated, replayed = found.source, found.updated, found.replayed.height
        duplicate = audited.duplicates + found.duplicates
        rejected = audited.rejected if found.conflicts is None else pl.concat([audited.rejected, found.conflicts])
        if not source.height:
            return _Plan(None, replayed, duplicate, replayed=replayed, rejected=rejected)

        def write(target: DeltaTable, commit_id: str) -> None:
            made = properties(stamp, commit_id, alone=alone and not updated, operation="MERGE", rows=source.height)
            if alone and not updated:
                # None of the keys is there in the version that was read, and no other version can come between:
                # adding the rows is the merge, at a fraction of its cost.
                self._write(target, source, made, mode="append", predicate=None)
            else:
                self._merge(target, source, values, made, update=bool(updated))

        return _Plan(write, source.height + replayed, duplicate, updated=updated, replayed=replayed, rejected=rejected)

    def _merge(
        self, target: DeltaTable, source: pl.DataFrame, values: list[object], made: _Made, *, update: bool
    ) -> None:
        contract = self.contract
        condition = " AND ".join(f"target.{name} = source.{name}" for name in contract.primary_key)
        if contract.partition_by:
            # As literals they prune partitions: 0.05 s against 0.73 s.
            literals = " OR ".join(f"target.{contract.partition_by} = {literal(value)}" for value in values)
            condition = f"({literals}) AND {condition}"
        commit, hooks = made
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

    def _write(
        self,
        target: DeltaTable,
        data: pl.DataFrame | pa.RecordBatchReader,
        made: _Made,
        *,
        mode: Literal["append", "overwrite"],
        predicate: str | None,
    ) -> None:
        commit, hooks = made
        if isinstance(data, pl.DataFrame):
            data = data.rechunk()  # as in a stream, so that the rows keep their order
        with translated(self.contract.name):
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

    def _unchanged(self, version: int, todo: _Plan, started: float, attempt: int) -> Commit:
        rejected = todo.quarantined if todo.rejected is None else todo.rejected.height
        return Commit(
            table=self.contract.name,
            version=version,
            changed=False,
            rows_read=todo.published + todo.duplicate + rejected,
            rows_published=todo.published,
            rows_duplicate=todo.duplicate,
            rows_quarantined=rejected,
            rows_replayed=todo.replayed,
            days=todo.days,
            seconds=time.perf_counter() - started,
            attempts=attempt,
        )

    def _entry(self, folder: Path, commit_id: str, before: int) -> tuple[int, Path, str]:
        """Return version, path and text of the log entry of our commit, which is after version `before`."""
        version = before + 1
        while (entry := folder / "_delta_log" / f"{version:020d}.json").exists():
            # The newest version may be another writer's: ours is the one that carries our id.
            if commit_id in (text := entry.read_text()):
                return version, entry, text
            version += 1
        raise damaged(self.contract.name, f"_delta_log/{version:020d}.json", "with our commit is missing")

    def _acknowledge(self, commit_id: str, before: int, todo: _Plan, started: float, attempt: int) -> Commit:
        """Find the version by the commit's own id, make it durable, and return its record."""
        files: list[str] = []
        size = 0
        if self._folder is None:
            handle = self._current()
            # The newest version may be another writer's: ours is the one that carries our id.
            history = self._history(handle, handle.version() - before)
            version = next(each.version for each in reversed(history) if each.commit_id == commit_id)
        else:
            version, entry, text = self._entry(self._folder, commit_id, before)
            for line in text.splitlines():
                if "add" in (action := json.loads(line)):
                    files.append(action["add"]["path"])
                    size += int(action["add"]["size"])
            try:
                fsync_files(self._folder, files, entry)
            except OSError as error:
                raise LakehouseError(
                    f"version {version} is published but could not be made durable ({os.strerror(error.errno or 0)})",
                    where=self.contract.name,
                    hint="Check the disk; a merge or replace of the same rows is safe to run again.",
                ) from None
        account = todo.account
        published = todo.published if account is None else account["published"]
        duplicate = todo.duplicate if account is None else account["duplicate"]
        rejected = todo.quarantined if todo.rejected is None else todo.rejected.height
        if account is not None:
            rejected = account["read"] - published - duplicate
        return Commit(
            table=self.contract.name,
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
            files_added=len(files),
            bytes_added=size,
            seconds=time.perf_counter() - started,
            attempts=attempt,
            commit_id=commit_id,
        )


def _known(actions: pa.Table, column: str) -> list[date]:
    """Return the values of a statistic, without the files that have none (a `datetime` is a `date`)."""
    if column not in actions.column_names:
        return []
    return [value for value in actions.column(column).to_pylist() if value is not None]


def _pause(attempt: int) -> None:
    time.sleep(random.uniform(0.0, 0.02 * 2 ** min(attempt, 5)))  # noqa: S311 - jitter, not a secret
