"""One table of the lake: what can be asked of it and done to it.

This is the face of `read` (which version a reader gets), `write` (how a change becomes a commit) and `maintenance`.  A
table is cheap to make, and safe to use from several threads and processes.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Sequence
from datetime import datetime
from pathlib import Path

import polars as pl

from hfthot_platform.core.errors import LakehouseError
from hfthot_platform.core.time import Span
from hfthot_platform.domain.contracts import TableContract
from hfthot_platform.storage.lakehouse.audit import Audited, audit
from hfthot_platform.storage.lakehouse.backends import backend_of
from hfthot_platform.storage.lakehouse.commits import Commit, Files, Stamp, VersionInfo
from hfthot_platform.storage.lakehouse.log import DeltaLog
from hfthot_platform.storage.lakehouse.publication import OnChange, WithdrawnRows
from hfthot_platform.storage.lakehouse.read import Reader
from hfthot_platform.storage.lakehouse.snapshot import Snapshot
from hfthot_platform.storage.lakehouse.units import Unit
from hfthot_platform.storage.lakehouse.write import OwningLake, Rows, Writer

__all__ = ["Rows", "Span", "Table"]


class Table:
    """A versioned table.  Made by `Lakehouse.table`."""

    def __init__(self, lake: OwningLake, contract: TableContract) -> None:
        self.contract = contract
        self.uri = lake.storage.uri(contract)
        #: Where its files are.
        self.backend = backend_of(lake.storage, contract)
        #: Its Delta log.
        self.log = DeltaLog(self.backend)
        self._reader = Reader(contract, self.log, lake.require)
        self._writer = Writer(contract, self.log, self._reader, lake)

    def __repr__(self) -> str:
        return f"Table({self.contract.name!r})"

    @property
    def folder(self) -> Path | None:
        """Return the table's folder, or None on an object store."""
        return self.backend.folder

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
        found = self._reader.at(version, as_of)
        return self.contract.empty().lazy() if found is None else found.scan()

    def exists(self) -> bool:
        """Return whether the table was ever written."""
        return self._reader.newest() is not None

    def create(self) -> None:
        """Make the table, empty, if it is not there."""
        self._writer.ensure()

    def version(self) -> int | None:
        """Return the current version, or None if nothing was written yet."""
        found = self._reader.at(None, None)
        return None if found is None else found.version

    def versions(self) -> list[VersionInfo]:
        """Return the table's history, oldest first."""
        return [] if self._reader.at(None, None) is None else self.log.history()

    def readable_versions(self) -> list[VersionInfo]:
        """Return the part of the history that can still be read, oldest first."""
        return [] if self._reader.at(None, None) is None else self.log.readable()

    def version_at(self, as_of: datetime) -> int:
        """Return the version that was current at a time, by the commits' own times, never by file times.

        Raises:
            BadRequestError: the time has no zone.
            VersionUnavailableError: the time lies before the oldest readable version.
        """
        return self._reader.version_at(as_of)

    def bytes_and_files(self) -> tuple[int, int]:
        """Return size in bytes and number of data files of the current version."""
        found = self._reader.at(None, None)
        return (0, 0) if found is None else (found.bytes, len(found.names))

    def snapshot(self, version: int | None = None, as_of: datetime | None = None) -> Snapshot | None:
        """Return the files, sizes and time span of a version, or None if nothing was written yet.

        Raises:
            BadRequestError: both `version` and `as_of` are given, or `as_of` has no time zone.
            VersionUnavailableError: not readable (any more); the message names the readable range.
            DamagedTableError: a file of that version is missing.
        """
        found = self._reader.at(version, as_of)
        if found is not None:
            found.require()
        return found

    def opened(self, version: int | None = None, as_of: datetime | None = None) -> Snapshot | None:
        """Return a version for whoever asks several things of it; its data files are not looked at.

        Raises:
            LakeMissingError: there is no lake at this place at all.
            BadRequestError: both `version` and `as_of` are given, or `as_of` has no time zone.
            VersionUnavailableError: not readable (any more); the message names the readable range.
        """
        return self._reader.at(version, as_of)

    def files(self, version: int | None = None, as_of: datetime | None = None) -> Files | None:
        """Return the data files of a version with their statistics, or None if nothing was written yet.

        Those of a few versions are kept in memory; a commit is seen at once.

        Raises:
            BadRequestError: both `version` and `as_of` are given, or `as_of` has no time zone.
            VersionUnavailableError: not readable (any more); the message names the readable range.
            SchemaMismatchError: a column is stored with another type than the contract's.
        """
        found = self._reader.at(version, as_of)
        if found is None:
            return None
        found.require_types()
        return found.files

    def require(self, files: Files, chosen: Sequence[int]) -> None:
        """Check that the chosen ones of a version's files, by their position, are there in the size that the log says.

        Only a local lake is looked at.

        Raises:
            DamagedTableError: a file is missing or has another size.
        """
        found = self._reader.at(files.version, None)
        if found is not None:
            found.require(chosen)

    def problems(self, *, deep: bool = False) -> list[str]:
        """Return what is wrong with the current version's files, one line each; empty when it is intact.

        Presence, size and row counts are checked; `deep` reads every value as well.
        """
        try:
            found = self._reader.newest()
        except LakehouseError as error:
            return [str(error)]
        if found is None:
            return []
        return [f"file {name} {what}" for name, what in found.faults(read="all" if deep else "footers")]

    # -- writing ------------------------------------------------------------------------------------------

    def audit(self, rows: pl.DataFrame, rejected: pl.DataFrame | None = None) -> Audited:
        """Check rows against the contract without writing anything; the result can be given to any write."""
        return audit(self.contract, rows, rejected)

    def audit_all(self, rows: pl.DataFrame) -> Audited:
        """Check rows none of which may be missing, and which must not be kept elsewhere either.

        A bad row may hold in clear, in the wrong column, what must not leave the place that it came from.

        Raises:
            SchemaMismatchError: the rows do not fit the contract.
            AuditFailedError: a row breaks a rule; the message names its number in the log and the rule, never a value.
        """
        return self._writer.audit_all(rows)

    def quarantine(self, audited: Audited, *, stamp: Stamp | None = None) -> None:
        """Keep the rejected rows of an audit whose good rows are not going to be published."""
        self._writer.quarantine(audited.rejected, stamp or Stamp())

    def quarantine_all(
        self, batches: Callable[[], Iterable[pl.DataFrame]], *, source_ref: str = "", stamp: Stamp | None = None
    ) -> Commit | None:
        """Keep the rejected rows of many batches, as one commit of this table's quarantine; None if there are none.

        Raises:
            AuditFailedError: the table has no quarantine.
        """
        return self._writer.quarantine_all(batches, source_ref, stamp or Stamp())

    def append(self, rows: Rows, *, stamp: Stamp | None = None) -> Commit:
        """Add rows that are known to be new; a lazy frame is written in bounded memory, as one commit.

        Only repeats within `rows` are found.  For rows that may already be there, and to run a write again of
        which it is not known whether it was published, use `merge` or `replace`: they are idempotent.

        Raises:
            SchemaMismatchError: the rows do not fit the contract.
            AuditFailedError: more rows were rejected than the contract allows; nothing was published.
        """
        return self._writer.append(rows, stamp or Stamp())

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
        return self._writer.replace(partition, rows, stamp or Stamp())

    def replace_units(
        self,
        units: Sequence[Unit],
        rows: Callable[[Unit, pl.LazyFrame], pl.DataFrame | Audited],
        *,
        stamp: Stamp | None = None,
    ) -> Commit:
        """Make rows the only ones of the units' days, as one commit; one unit is in memory at a time.

        The table is the same as after `replace` with all rows at once, and as there what is there already is no
        commit.

        Args:
            units: all units of some days, in order; `units_of` returns them.
            rows: returns a unit's rows, given those that are there now; it runs again on every attempt.
            stamp: who writes and why.

        Raises:
            SchemaMismatchError: the rows do not fit the contract.
            BadRequestError: the units do not divide all rows of one span, or rows lie outside their unit.
            AuditFailedError: more rows of a unit were rejected than the contract allows; nothing was published.
        """
        return self._writer.replace_units(units, rows, stamp or Stamp())

    def merge(
        self,
        rows: Rows,
        *,
        on_change: OnChange = "update",
        stamp: Stamp | None = None,
    ) -> Commit:
        """Add rows by primary key; rows that are already there change nothing.

        A row that is not final (by the contract's column of finality) fills a gap, and never takes another's place.

        Args:
            rows: incoming rows (collected in memory: give batches).
            on_change: what happens when the key is there with other values: the row is updated, the old one
                kept (the new one counts as duplicate), or the new one rejected as `conflicting_key`.
            stamp: who writes and why.

        Raises:
            AuditFailedError: more rows were rejected than the contract allows; nothing was published.
        """
        return self._writer.merge(rows, on_change, stamp or Stamp())

    def publish(
        self,
        batches: Callable[[], Iterable[Audited]],
        *,
        source_ref: str = "",
        in_place_of: WithdrawnRows | None = None,
        on_change: OnChange = "update",
        stamp: Stamp | None = None,
    ) -> Commit:
        """Add all batches of a source by primary key, and take out the rows of another, as one commit.

        A reader sees all of it or nothing, and a run that was killed leaves nothing; one after it adds what is
        missing.  Memory holds one batch at a time, and one data file that is written again.  As in `merge`, rows
        that are there change nothing, and a row that is not final only fills a gap.  Rejected rows are in
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
        return self._writer.publish(batches, source_ref, in_place_of, on_change, stamp or Stamp())

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
                already is not applied again; one that changes nothing makes no commit.
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
        return self._writer.apply(upserts, forget, redact, app, since, stamp or Stamp())

    def applied(self, name: str) -> int:
        """Return the number of the last entry of a log that `apply` published here, 0 if there is none."""
        return self._reader.applied(name)

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
        return self._writer.restore(version, stamp or Stamp())

    # -- history ------------------------------------------------------------------------------------------

    def lineage(self) -> list[VersionInfo]:
        """Return the versions that the current one descends from, newest first: those that no restore undid."""
        history = {info.version: info for info in self.versions()}
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
            commit_id: its id; a number alone may have been given again after the log's end was damaged and set aside.
        """
        line = self.lineage()
        if not line or version > line[0].version:
            return False
        for info in line:
            if info.version == version:
                return info.commit_id == commit_id
            if info.version < version:
                return False  # a restore went back to before it
        # Older than the log remembers, and so than what any restore could go back to.
        return True
