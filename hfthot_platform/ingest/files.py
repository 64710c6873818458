"""Files: recognised by content, judged whole, published whole, filed away with the reason where they were refused.

For one file the order is publish, record in `ops.ingest_files`, announce, move.  Publishing is one commit: a run
that is killed leaves all of a file's rows or none.  Each step can be repeated after a crash: rows that are already
there count as published by this very file (their `source_ref` holds its content hash), the record is merged by
content hash, and a file that is recorded but not moved is only announced and moved.

A file that fails, however it fails, never stops the others.

What is no candidate in a landing folder and stays where it is: folders, hidden files, files with the suffix of
an unfinished transfer, mappings (they travel with the file that they describe, or describe all of a folder) and
the reasons of earlier rejections.  In a landing folder a symbolic link is never followed: what it points to may
lie anywhere and change later.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import stat
import traceback
from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack
from dataclasses import asdict, replace
from datetime import UTC, datetime
from itertools import count
from pathlib import Path
from typing import TYPE_CHECKING, Final

import polars as pl
from polars.exceptions import PanicException

from hfthot_platform.errors import (
    BadRequestError,
    LakehouseError,
    RejectedFileError,
    SchemaMismatchError,
    StorageFullError,
    StorageReadOnlyError,
    StorageUnavailableError,
    nearest,
)
from hfthot_platform.incidents import Incident, redacted
from hfthot_platform.incidents import record as record_incident
from hfthot_platform.ingest import records
from hfthot_platform.ingest.feeds import CONFLICTS
from hfthot_platform.ingest.finality import with_proven_bars
from hfthot_platform.ingest.records import FileOutcome, Known
from hfthot_platform.lakehouse import Lakehouse, Staging, Stamp
from hfthot_platform.lakehouse.locks import writers_lock
from hfthot_platform.lakehouse.publication import Former
from hfthot_platform.market.sources.base import Batch, FileProbe, Progress, Recognised, content_hash, no_progress
from hfthot_platform.market.sources.mapping import (
    FOLDER_MAPPING,
    SIDECAR_SUFFIX,
    CsvMapping,
    declared_mapping,
    sidecar_of,
)

if TYPE_CHECKING:
    from hfthot_platform.market.sources.recognise import Member

__all__ = [
    "FileOutcome",
    "incident_of",
    "ingest_files",
    "ingest_landing",
    "waiting_files",
    "withdraw_file",
]

_DONE: Final = "done"
_REJECTED: Final = "rejected"
_REASON_SUFFIX: Final = ".reason.json"
_UNFINISHED: Final = (".part", ".tmp", ".crdownload", ".filepart")
#: File systems take 255 bytes, and a mapping or a reason beside the file needs its suffix.
_LONGEST_NAME: Final = 240
_CHANGED: Final = "changed_while_read"
_UNEXPECTED: Final = "unexpected_error"
_PERSONAL: Final = "personal_data"
_TOO_MANY: Final = "too_many_bad_rows"
#: Failures that every other file would meet too.
_LAKE_IS_DOWN: Final = (StorageFullError, StorageReadOnlyError, StorageUnavailableError)
#: What a file's reason holds of each rejected row at most.
_SHOWN_CHARACTERS: Final = 500
_SHORTEST_HASH: Final = 8
#: Why a member of an archive is left out where others are read.
_NO_MARKET_DATA: Final = ("unrecognised", "empty")

#: Called with a file's outcome as soon as its rows and its record are there.
OnOutcome = Callable[[FileOutcome], None]
#: Called with a file and the error that nobody foresaw.
OnUnexpected = Callable[[Path, BaseException], None]


def _tell_nobody(_told: object, _error: object = None) -> None:
    """Take what nobody asked for."""


def waiting_files(landing: Path, *, now: datetime, settle_seconds: float) -> list[Path]:
    """Return the files in the landing folder that are complete as far as one can tell, oldest first.

    A file that changed within the settling time is left for later; so is, for good, what the module's
    description calls no candidate.
    """
    if not landing.is_dir():
        return []
    ready = []
    for path in landing.iterdir():
        if _is_no_candidate(path.name):
            continue
        try:
            facts = path.lstat()
        except FileNotFoundError:
            continue  # taken away since the folder was listed
        if not (stat.S_ISREG(facts.st_mode) or stat.S_ISLNK(facts.st_mode)):
            continue
        # A copy may bear a time of change in the future; the kernel's own time of arrival never does.
        changed = min(facts.st_mtime, facts.st_ctime)
        if now.timestamp() - changed >= settle_seconds:
            ready.append((changed, path.name, path))
    return [path for _, _, path in sorted(ready)]


def _is_no_candidate(name: str) -> bool:
    suffixes = (*_UNFINISHED, SIDECAR_SUFFIX, _REASON_SUFFIX)
    return name.startswith(".") or name.lower().endswith(suffixes) or name == FOLDER_MAPPING


def ingest_landing(
    lake: Lakehouse,
    landing: Path,
    *,
    now: datetime,
    settle_seconds: float = 10.0,
    scratch: Path | None = None,
    stamp: Stamp | None = None,
    progress: Progress = no_progress,
    on_outcome: OnOutcome = _tell_nobody,
    on_unexpected: OnUnexpected = _tell_nobody,
) -> list[FileOutcome]:
    """Ingest every complete file of the landing folder and move it to `done/` or `rejected/`.

    Beside a rejected file lies `<name>.reason.json`.  A name that is taken there already gets the content hash
    before its suffix.  A file that changed while it was read stays for the next time, and nothing of it is
    published.  One process at a time works on a landing folder.

    Args:
        lake: the lake.
        landing: the folder.
        now: the present time.
        settle_seconds: for how long a file must not have changed.
        scratch: folder for what does not fit into memory.
        stamp: who and why.
        progress: told how far the reading of a file is.
        on_outcome: called with each outcome before its file is moved; it may be called again for a file, by a
            later run, where the first did not come to its end.
        on_unexpected: called with each error that nobody foresaw; its file is rejected.

    Raises:
        BadRequestError: `done` or `rejected` is a file.
        LockTimeoutError: another process works on this folder for longer than two minutes.
        LakehouseError: a table cannot be written; its files wait, and all others were ingested unless the whole
            lake is at fault.
    """
    landing.mkdir(parents=True, exist_ok=True)
    lake.expect_new()
    outcomes = []
    fault: LakehouseError | None = None
    with writers_lock(landing / ".landing.lock", exclusive=True):
        done, rejected = _folder(landing, _DONE), _folder(landing, _REJECTED)
        _finish_filing(landing, done, rejected)
        for path in waiting_files(landing, now=now, settle_seconds=settle_seconds):
            one = _OneFile(lake, path, stamp or Stamp(), scratch, progress, on_unexpected, follow=False)
            try:
                outcome = one.ingest()
            except FileNotFoundError:
                continue  # taken away in the meantime
            except _LAKE_IS_DOWN:
                raise
            except LakehouseError as error:
                error.add_note(f"while ingesting {path.name!r}, which stays in the landing folder")
                fault = fault or error
                continue
            done_before = outcome.status == "repeated" and _only_to_be_moved(lake, outcome, path, done)
            if done_before:
                (file,) = records.known(lake, pl.col("content_hash") == outcome.content_hash)
                outcome = replace(outcome, days=file.days)
            outcomes.append(outcome)
            on_outcome(outcome)
            if outcome.reason == _CHANGED:
                continue
            if outcome.reason == _PERSONAL:
                _put_away(path, landing, outcome)
            elif outcome.status == "published" or done_before:
                _file_away(path, done, outcome)
            else:
                _file_away(path, rejected, outcome, with_reason=True)
    if fault is not None:
        raise fault
    return outcomes


def ingest_files(
    lake: Lakehouse,
    paths: Iterable[Path],
    *,
    scratch: Path | None = None,
    stamp: Stamp | None = None,
    progress: Progress = no_progress,
    on_outcome: OnOutcome = _tell_nobody,
    on_unexpected: OnUnexpected = _tell_nobody,
) -> list[FileOutcome]:
    """Ingest files where they are (folders are walked, links to files followed); nothing is moved.

    Every file has an outcome, whatever happens to it; a file that is named twice has one.

    Raises:
        BadRequestError: there is no such file or folder; nothing was ingested.
        LakehouseError: the whole lake cannot be written.
    """
    paths = list(paths)
    for path in paths:
        if not os.path.lexists(path):
            raise BadRequestError("there is no such file or folder", where=str(path), hint="Check the path.")
    lake.expect_new()
    stamp = stamp or Stamp()
    outcomes = []
    for path in dict.fromkeys(each.absolute() for given in paths for each in _walked(given)):
        one = _OneFile(lake, path, stamp, scratch, progress, on_unexpected, follow=True)
        try:
            outcome = one.ingest()
        except FileNotFoundError:
            outcome = one.rejected("vanished", "the file was taken away before it was read")
        except _LAKE_IS_DOWN:
            raise
        except LakehouseError as error:
            outcome = replace(one.rejected(_snake(error), str(error)), status="failed")
        if outcome.reason == _UNEXPECTED:
            record_incident(lake, incident_of(outcome, lake.clock(), stamp))
        outcomes.append(outcome)
        on_outcome(outcome)
    return outcomes


def _walked(path: Path) -> Iterator[Path]:
    """Yield a file, or the candidates below a folder in order of name; links to folders are not followed."""
    if not path.is_dir():
        yield path
        return
    closed: list[OSError] = []
    for place, folders, names in os.walk(path, onerror=closed.append):
        folders.sort()
        yield from (Path(place, name) for name in sorted(names) if not _is_no_candidate(name))
    # A folder that cannot be listed is told of as if it were a file.
    yield from (Path(each.filename) for each in closed)


def _snake(error: Exception) -> str:
    name = type(error).__name__.removesuffix("Error")
    return "".join(f"_{sign.lower()}" if sign.isupper() else sign for sign in name).lstrip("_")


class _OneFile:
    """One file on its way: what it is, whether it is there already, and what becomes of its rows."""

    def __init__(
        self,
        lake: Lakehouse,
        path: Path,
        stamp: Stamp,
        scratch: Path | None,
        progress: Progress,
        on_unexpected: OnUnexpected,
        *,
        follow: bool,
    ) -> None:
        self._lake = lake
        self._path = path
        self._stamp = stamp
        self._scratch = scratch
        self._progress = progress
        self._on_unexpected = on_unexpected
        self._follow = follow
        self._digest: str | None = None
        self._size = 0
        self._mapping_hash: str | None = None
        self._known: Known | None = None

    def rejected(self, reason: str, detail: str | None = None) -> FileOutcome:
        """Return a refusal; nothing is recorded."""
        name, detail = _printable(self._path.name), None if detail is None else _printable(detail)
        digest = self._digest
        if digest is None:
            digest = hashlib.sha256(f"{reason}:".encode() + os.fsencode(self._path.name)).hexdigest()
        if reason == _PERSONAL:
            name = f"{_PERSONAL}-{digest[:16]}"
        elif reason == "unrecognised":
            # What is no market data may be anything: an address in its name is not kept, nor its first line.
            name, detail = redacted(name), "no adapter knows this content"
        return FileOutcome(name, digest, self._size, "rejected", reason, detail, mapping_hash=self._mapping_hash)

    def ingest(self) -> FileOutcome:
        """Take the file in, and record what became of it.

        Raises:
            FileNotFoundError: it was taken away.
            LakehouseError: a table cannot be read or written.
        """
        try:
            outcome = self._ingest()
        except RejectedFileError as error:
            outcome = self.rejected(error.reason, str(error))
        except (FileNotFoundError, LakehouseError):
            raise
        except (Exception, PanicException) as error:  # noqa: BLE001 - one file must not keep all others waiting
            self._on_unexpected(self._path, error)
            outcome = self.rejected(_UNEXPECTED, _where_it_failed(error))
        if outcome.status == "repeated" or outcome.reason == _CHANGED:
            return outcome
        if outcome.status == "rejected" and self._stands:
            # The record is that of the reading whose rows are in the table.
            detail = f"{outcome.detail or outcome.reason} The rows of the reading before it stay."
            return replace(outcome, detail=detail)
        _record(self._lake, outcome, self._stamp)
        return outcome

    def _ingest(self) -> FileOutcome:
        path = self._path
        facts = path.lstat()
        self._size = facts.st_size
        if stat.S_ISLNK(facts.st_mode) and not self._follow:
            raise RejectedFileError("symbolic_link", "links are not followed; drop the file itself")
        if len(os.fsencode(path.name)) > _LONGEST_NAME:
            raise RejectedFileError("name_too_long", f"more than {_LONGEST_NAME} bytes; rename the file")
        try:
            facts = path.stat()
        except OSError as error:
            if stat.S_ISLNK(facts.st_mode):
                raise RejectedFileError("dangling_link", "the link points to no file that can be reached") from error
            raise
        if not stat.S_ISREG(facts.st_mode):
            what = "a folder that cannot be listed" if stat.S_ISDIR(facts.st_mode) else "no regular file"
            raise RejectedFileError("not_a_file", f"it is {what}")
        self._size = facts.st_size
        before = _mark(path)
        try:
            digest = content_hash(path)
        except FileNotFoundError:
            raise
        except OSError as error:
            why = os.strerror(error.errno or 0)
            raise RejectedFileError("unreadable", f"the file cannot be read ({why})") from error
        self._digest = digest
        self._known = next(iter(records.known(self._lake, pl.col("content_hash") == digest)), None)
        self._stands = self._known is not None and records.stands(self._lake, self._known)
        declared = declared_mapping(path)
        self._mapping_hash = _hash_of(declared)
        if self._known and self._stands and self._known.mapping_hash == self._mapping_hash:
            return replace(
                self.rejected("already_ingested", f"the same content was ingested as {self._known.name}"),
                status="repeated",
                table=self._known.target,
            )
        from hfthot_platform.ingest.users import holds_personal_data
        from hfthot_platform.market.sources.recognise import recognise_members

        if holds_personal_data(path):
            raise RejectedFileError(
                _PERSONAL,
                "the file has fields of persons; files of user events belong in users/, within the landing folder",
            )
        members = list(recognise_members(path, declared, now=self._lake.clock()))
        return self._judged(members, before)

    _stands = False

    def _judged(self, members: list[Member], before: tuple[int, ...] | None) -> FileOutcome:
        """Read the file, all members of an archive, to its end, and then publish all of it or nothing."""
        readable, left_out = _readable(members)
        claims = [claim for _, claim in readable]
        digest = self._digest or ""
        reference = f"{claims[0].adapter.name}:{digest[:16]}"
        if self._mapping_hash is not None:
            reference += f".{self._mapping_hash[:8]}"
        table = self._lake.table(claims[0].table)
        refusal: RejectedFileError | None = None
        gaps = 0
        first = last = None
        with ExitStack() as open_until_the_end:
            staging = open_until_the_end.enter_context(Staging(table, self._scratch))
            try:
                for batch in self._batches(readable, reference):
                    rejected = batch.rejected.with_columns(pl.lit(batch.source_ref).alias("source_ref"))
                    gaps += batch.gaps
                    audited = _audited(staging, with_proven_bars(table, batch, self._lake.clock()), rejected)
                    first, last = _span(audited, table.contract.time_column, first, last)
            except RejectedFileError as error:
                refusal = error
            if _mark(self._path) != before:
                detail = "the file changed while it was read; it is ingested when it has settled"
                return self.rejected(_CHANGED, detail)
            outcome = replace(
                self.rejected("", None),
                reason=None,
                adapter=claims[0].label,
                table=claims[0].table,
                source_ref=reference,
                rows_read=staging.read + gaps,
                rows_gaps=gaps,
                rejections=tuple(staging.rejections.values()),
            )
            refusal = refusal or _refusal(staging, gaps)
            if refusal is not None:
                if staging.read:
                    self._clear_quarantine(standing=self._stands)
                    staging.withhold(refusal.what, source_ref=reference, stamp=self._stamp)
                return replace(
                    outcome,
                    reason=refusal.reason,
                    detail=_printable(str(refusal)),
                    rows_duplicate=staging.duplicates,
                    rows_quarantined=staging.read - staging.duplicates,
                )
            published = self._published(staging, outcome, first, last)
        if left_out and published.status == "published":
            detail = "; ".join(filter(None, (published.detail, f"left out of the archive: {', '.join(left_out)}")))
            return replace(published, detail=_printable(detail))
        return published

    def _batches(self, readable: list[tuple[FileProbe, Recognised]], reference: str) -> Iterator[Batch]:
        for probe, claim in readable:
            yield from claim.adapter.read(probe, claim, source_ref=reference, progress=self._progress)

    def _clear_quarantine(self, *, standing: bool = False) -> None:
        """Take out what an earlier reading of this content left in quarantine, unless that reading still stands."""
        if self._known is not None:
            but = self._known.source_ref if standing else None
            _take_out_of_quarantine(self._lake, self._known, but or "", self._stamp)

    def _published(
        self, staging: Staging, outcome: FileOutcome, first: datetime | None, last: datetime | None
    ) -> FileOutcome:
        known = self._known if self._stands else None
        reference = outcome.source_ref or ""
        former: Former | None = None
        note = None
        if known is not None:
            former, note = records.former_of(self._lake, known, but=reference)
        same_table = known is not None and known.target == outcome.table
        self._clear_quarantine()
        commit = staging.merge(
            on_change=CONFLICTS.get(outcome.table or "", "update"),
            source_ref=reference,
            in_place_of=former if same_table else None,
            stamp=self._stamp,
        )
        withdrawn, restored, days = commit.rows_withdrawn, commit.rows_restored, commit.days
        if known is not None and former is not None and not same_table:
            taken = _take_out(self._lake, known, former, self._stamp)
            withdrawn, restored, days = taken.rows_withdrawn, taken.rows_restored, days | taken.days
        published, duplicate = commit.rows_published, commit.rows_duplicate
        if commit.rows_replayed and not commit.changed:
            # An earlier run published the file and died.  A row that a later batch repeats looks like one of them.
            published = _stored(staging, reference)
            duplicate = commit.rows_read - commit.rows_quarantined - published
        version, commit_id, updated = commit.version, commit.commit_id, commit.rows_updated
        if commit.rows_replayed:
            own = next((each for each in staging.table.lineage() if each.source_ref == reference), None)
            if own is not None:
                version, commit_id, updated = own.version, own.commit_id, own.updated
        if known is not None:
            took = f"took the place of another reading of the same content: {withdrawn:,} rows withdrawn"
            note = "; ".join(filter(None, (f"{took}, {restored:,} brought back", note)))
        bad = published == 0 and duplicate == 0
        return replace(
            outcome,
            status="rejected" if bad else "published",
            reason="no_good_rows" if bad else None,
            detail=f"all {outcome.rows_read:,} rows were quarantined" if bad else note,
            rows_published=published,
            rows_duplicate=duplicate,
            rows_quarantined=commit.rows_quarantined,
            rows_withdrawn=withdrawn,
            rows_restored=restored,
            rows_updated=updated,
            first_ts=first if published else None,
            last_ts=last if published else None,
            version=version,
            commit_id=commit_id or None,
            days=days,
        )


def _readable(members: list[Member]) -> tuple[list[tuple[FileProbe, Recognised]], list[str]]:
    """Return what is to be read of a file, and the names of an archive's members that are no market data.

    Raises:
        RejectedFileError: a member cannot be read, there is nothing to read, or members belong in several tables.
    """
    readable = [(each.probe, each.claim) for each in members if each.claim is not None]
    refused = [each for each in members if each.error is not None]
    # Read-me files and empty ones come in archives; what is market data in a wrong form refuses the whole.
    fatal = [each for each in refused if not readable or (each.error and each.error.reason not in _NO_MARKET_DATA)]
    if fatal and (error := fatal[0].error) is not None:
        raise error
    tables = sorted({claim.table for _, claim in readable})
    if len(tables) > 1:
        raise RejectedFileError(
            "several_tables",
            f"the archive holds rows of {' and '.join(tables)}",
            hint="Drop its files one by one, or in one archive for each table.",
        )
    if not readable:
        raise RejectedFileError("empty", "the archive holds no file")
    return readable, [each.name for each in refused]


def _hash_of(declared: CsvMapping | None) -> str | None:
    """Return the SHA-256 of what a mapping says, however it is written; None if it says nothing."""
    said = {} if declared is None else declared.model_dump(mode="json", exclude_defaults=True)
    return hashlib.sha256(json.dumps(said, sort_keys=True).encode()).hexdigest() if said else None


def _audited(staging: Staging, rows: pl.DataFrame, rejected: pl.DataFrame) -> pl.DataFrame:
    try:
        return staging.add(rows, rejected).rows
    except SchemaMismatchError as error:
        raise RejectedFileError("wrong_schema", error.what, where=error.where, hint=error.hint) from error


def _span(
    rows: pl.DataFrame, column: str | None, first: datetime | None, last: datetime | None
) -> tuple[datetime | None, datetime | None]:
    """Return the first and last time of rows and of what came before them."""
    if column is None or not rows.height:
        return first, last
    times = rows[column].cast(pl.Datetime("us", "UTC"))
    low, high = times.min(), times.max()
    assert isinstance(low, datetime)
    assert isinstance(high, datetime)
    return (low if first is None else min(first, low)), (high if last is None else max(last, high))


def _refusal(staging: Staging, gaps: int) -> RejectedFileError | None:
    """Return why a file that was read to its end is not published, judged over all its rows."""
    contract = staging.table.contract
    if staging.read == 0:
        what = f"all {gaps:,} rows say that nothing was traded" if gaps else "the file holds no rows"
        return RejectedFileError("empty", what)
    if staging.publishable:
        return None
    if staging.rejected == staging.read:
        return RejectedFileError("no_good_rows", f"all {staging.read:,} rows were quarantined")
    return RejectedFileError(
        _TOO_MANY,
        f"{staging.rejected:,} of {staging.read:,} rows break a rule; at most {contract.max_rejected_share:.0%} may",
        where=contract.name,
        hint="Correct the file or its mapping, and drop it again.",
    )


def _stored(staging: Staging, reference: str) -> int:
    rows = staging.table.scan().filter(pl.col("source_ref") == reference)
    return int(rows.select(pl.len()).collect().item())


def _where_it_failed(error: BaseException) -> str:
    """Return the class of an error and the place in our code: its text may quote the file."""
    ours = [each for each in traceback.extract_tb(error.__traceback__) if "hfthot_platform" in each.filename]
    place = f" at {Path(ours[-1].filename).name}:{ours[-1].lineno}" if ours else ""
    return (
        f"the platform failed on this file: {type(error).__name__}{place}. "
        "Run `hfthot --debug ingest` with the file and report the traceback."
    )


def _mark(path: Path) -> tuple[int, ...] | None:
    """Return what changes when a file is written to or replaced; None if it is gone."""
    try:
        facts = path.stat()
    except FileNotFoundError:
        return None
    return facts.st_dev, facts.st_ino, facts.st_size, facts.st_mtime_ns


def _printable(text: str) -> str:
    """Return text without the bytes of a file name that are no UTF-8."""
    return text.encode("utf-8", "replace").decode()


_record = records.record


# -- withdrawing ----------------------------------------------------------------------------------------------------


def withdraw_file(lake: Lakehouse, which: str, *, stamp: Stamp | None = None) -> FileOutcome:
    """Take the rows of a file out of its table, and out of quarantine; the versions before keep them.

    Rows of other sources that had given way to the file's come back from the table's history, as far as that is
    readable.  The file can be ingested again afterwards.

    Args:
        lake: the lake.
        which: the file itself by its path, the name under which it was taken in, or the first eight or more
            digits of its content's SHA-256.
        stamp: who and why.

    Raises:
        BadRequestError: no such file was published, or several were; the message lists them.
        LakehouseError: the table cannot be written.
    """
    stamp = stamp or Stamp()
    file = _named(lake, which)
    if file.target == "users":
        raise BadRequestError(
            "events of users are changes of accounts, which cannot be withdrawn",
            where=file.name,
            hint="Correct the accounts themselves.",
        )
    former, note = records.former_of(lake, file)
    taken = _take_out(lake, file, former, stamp)
    _take_out_of_quarantine(lake, file, "", stamp)
    outcome = replace(
        taken,
        detail=note,
        adapter=file.adapter,
        mapping_hash=file.mapping_hash,
        source_ref=file.source_ref,
        version=file.version,
        commit_id=file.commit_id,
    )
    _record(lake, outcome, stamp)
    return outcome


def _named(lake: Lakehouse, which: str) -> Known:
    """Return the record of the one published file that is meant."""
    path = Path(which)
    found: list[Known] = []
    try:
        is_file = path.is_file()
    except (OSError, ValueError):
        is_file = False  # what cannot be a path may still be a name
    if is_file:
        found = records.known(lake, pl.col("content_hash") == content_hash(path))
    if not found:
        found = records.known(lake, pl.col("name") == _printable(path.name))
    digits = which.lower()
    if not found and len(digits) >= _SHORTEST_HASH and not set(digits) - set("0123456789abcdef"):
        found = records.known(lake, pl.col("content_hash").str.starts_with(digits))
    published = [each for each in found if each.status == "published"]
    if len(published) > 1:
        listed = "; ".join(
            f"{each.content_hash[:12]} {each.target} {each.ingested_at:%Y-%m-%d %H:%M}" for each in published
        )
        raise BadRequestError(
            f"{len(published)} files are meant: {listed}", where=which, hint="Give the first digits of one's hash."
        )
    if published:
        return published[0]
    if found:
        raise BadRequestError(
            f"the file was {found[-1].status}: none of its rows is in a table",
            where=which,
            hint="It can be ingested again.",
        )
    names = records.known(lake, pl.col("status") == "published")
    raise BadRequestError(
        "no file of this name, path or hash was ingested",
        where=which,
        hint=nearest(path.name, {each.name for each in names}) or "`SELECT name FROM ops.ingest_files` lists them.",
    )


def _take_out(lake: Lakehouse, file: Known, former: Former, stamp: Stamp) -> FileOutcome:
    """Take a file's rows out of the table that it went to, as one commit."""
    none = FileOutcome(file.name, file.content_hash, 0, "withdrawn", table=file.target)
    if file.target is None:
        return none
    commit = lake.table(file.target).publish(lambda: (), in_place_of=former, stamp=stamp)
    return replace(
        none,
        rows_withdrawn=commit.rows_withdrawn,
        rows_restored=commit.rows_restored,
        days=commit.days,
        first_ts=file.first_ts,
        last_ts=file.last_ts,
    )


def _take_out_of_quarantine(lake: Lakehouse, file: Known, but: str, stamp: Stamp) -> None:
    if file.target is None:
        return
    name = lake.table(file.target).contract.quarantine
    if name in lake.contracts and lake.table(name).version() is not None:
        former = Former(file.content_hash[:16], but)
        lake.table(name).publish(lambda: (), in_place_of=former, stamp=stamp)


def incident_of(outcome: FileOutcome, now: datetime, stamp: Stamp, *, job: str | None = None) -> Incident:
    """Return what somebody should look at where a file was rejected; the same rejection is the same incident."""
    what = f"{outcome.content_hash}:{outcome.mapping_hash}:{outcome.reason}"
    return Incident(
        incident_id=hashlib.sha256(what.encode()).hexdigest(),
        ts=now.astimezone(UTC),
        severity="error" if outcome.reason == _UNEXPECTED else "warning",
        kind="file_rejected",
        job=job,
        run_id=stamp.run_id,
        error_class=outcome.reason,
        message=f"{outcome.name}: {outcome.detail or outcome.reason}",
    )


# -- filing ---------------------------------------------------------------------------------------------------------


def _only_to_be_moved(lake: Lakehouse, outcome: FileOutcome, path: Path, done: Path) -> bool:
    """Whether a run that published and recorded this very file died before it could move it."""
    file = records.known(lake, pl.col("content_hash") == outcome.content_hash)
    if [each.name for each in file] != [outcome.name]:
        return False
    there = (done / name for name in (path.name, _other_name(path.name, outcome.content_hash)))
    return not any(each.is_file() and content_hash(each) == outcome.content_hash for each in there)


def _put_away(path: Path, landing: Path, outcome: FileOutcome) -> None:
    """Move a file with personal data, and its mapping, to where such files are kept for a week under no name."""
    from hfthot_platform.ingest.users import put_into_rejected

    put_into_rejected(path, landing / "users", outcome.name)
    sidecar_of(path).unlink(missing_ok=True)


def _folder(landing: Path, name: str) -> Path:
    folder = landing / name
    try:
        folder.mkdir(exist_ok=True)
    except FileExistsError:
        raise BadRequestError(
            f"{name!r} is a file, not a folder", where=str(landing), hint=f"Rename it: files are moved to {name}/."
        ) from None
    return folder


def _file_away(path: Path, folder: Path, outcome: FileOutcome, *, with_reason: bool = False) -> None:
    """Move a file, its mapping beside it; never over another file."""
    mapping = path.with_name(path.name + SIDECAR_SUFFIX)
    has_mapping = len(os.fsencode(path.name)) <= _LONGEST_NAME and mapping.is_file()
    names = (_other_name(path.name, outcome.content_hash, number) for number in count(0))
    if len(os.fsencode(path.name)) > _LONGEST_NAME:
        next(names)
    target = next(each for name in names if not _is_taken(each := folder / name, mapping if has_mapping else None))
    if with_reason:
        text = json.dumps(_reason(outcome), indent=2, default=str)
        target.with_name(target.name + _REASON_SUFFIX).write_text(text + "\n", encoding="utf-8")
    if has_mapping:
        _link(mapping, sidecar_of(target))
    os.replace(path, target)  # noqa: PTH105 - atomic, and says so
    if has_mapping:
        mapping.unlink()


def _reason(outcome: FileOutcome) -> dict[str, object]:
    """Return what is told beside a rejected file: its account, the rules with their first rows, and the query."""
    facts: dict[str, object] = {
        key: value for key, value in asdict(outcome).items() if key not in {"days", "rejections"}
    }
    facts["rejections"] = [
        {
            "reason": each.reason,
            "rule": each.detail,
            "rows": each.count,
            "first": [{"row_number": number, "row": row[:_SHOWN_CHARACTERS]} for number, row in each.first],
        }
        for each in sorted(outcome.rejections, key=lambda each: -each.count)
    ]
    facts["query"] = outcome.query
    return facts


def _other_name(name: str, digest: str, number: int = 1) -> str:
    """Return a name for a file: its own (0), with the content hash (1), and with a number as well (2, ...)."""
    if number == 0:
        return name
    # Cut so that any name fits, at whole characters.
    stem, suffix = os.path.splitext(name)  # noqa: PTH122 - of a name, not a path
    stem = os.fsencode(stem)[:180].decode("utf-8", "ignore")
    return f"{stem}.{digest[:12]}{f'.{number}' if number > 1 else ''}{suffix[:12]}"


def _is_taken(target: Path, mapping: Path | None) -> bool:
    if os.path.lexists(target):
        return True
    beside = sidecar_of(target)
    return mapping is not None and beside.exists() and not beside.samefile(mapping)


def _link(mapping: Path, target: Path) -> None:
    """Put a mapping at its target too, so that at no time its file is without it."""
    target.unlink(missing_ok=True)
    try:
        target.hardlink_to(mapping)
    except OSError:
        shutil.copy2(mapping, target)  # a file system without hard links


def _finish_filing(landing: Path, *folders: Path) -> None:
    """Remove mappings whose file a run moved that died before it could remove them."""
    for mapping in landing.glob(f"*{SIDECAR_SUFFIX}"):
        if mapping.with_name(mapping.name.removesuffix(SIDECAR_SUFFIX)).exists() or mapping.stat().st_nlink < 2:
            continue
        if any(each.samefile(mapping) for folder in folders for each in folder.glob(f"*{SIDECAR_SUFFIX}")):
            mapping.unlink()
