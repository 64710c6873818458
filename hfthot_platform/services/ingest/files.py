"""Files: recognised by content, judged whole, published whole, filed away with the reason where they were refused.

For one file the order is publish, record in `ops.ingest_files`, announce, move.  Publishing is one commit: a run
that is killed leaves all of a file's rows or none.  Each step can be repeated after a crash: rows that are already
there count as published by this very file (their `source_ref` holds its content hash), the record is merged by
content hash, and a file that is recorded but not moved is only announced and moved.

An archive that fills several tables is judged over all of them, and has an outcome and a commit for each.  Before the
first commit its records say `publishing`; what a killed run left so is taken back by the next run of anything here.

A file that fails, however it fails, never stops the others.

What is not a candidate in a landing folder and stays where it is: folders, hidden files, files with the suffix of
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
from dataclasses import asdict, dataclass, replace
from datetime import UTC, datetime, timedelta
from itertools import count
from pathlib import Path
from typing import TYPE_CHECKING, Final

import polars as pl
from polars.exceptions import PanicException

from hfthot_platform.adapters.files.adapter import FileProbe, Recognised, content_hash
from hfthot_platform.adapters.files.containers import archives_kept_open
from hfthot_platform.adapters.files.mapping import (
    FOLDER_MAPPING,
    SIDECAR_SUFFIX,
    CsvMapping,
    declared_mapping,
    sidecar_of,
    write_mapping,
)
from hfthot_platform.adapters.ports import Progress, no_progress
from hfthot_platform.core.errors import (
    BadRequestError,
    LakehouseError,
    LockTimeoutError,
    RejectedFileError,
    SchemaMismatchError,
    StorageFullError,
    StorageReadOnlyError,
    StorageUnavailableError,
    nearest,
)
from hfthot_platform.core.files import made_folder
from hfthot_platform.services.ingest import records
from hfthot_platform.services.ingest.feeds import CONFLICTS
from hfthot_platform.services.ingest.finality import with_proven_bars
from hfthot_platform.services.ingest.personal_files import holds_personal_data, put_into_rejected
from hfthot_platform.services.ingest.records import FileOutcome, FileRecord
from hfthot_platform.storage.incidents import Incident, redacted
from hfthot_platform.storage.incidents import record as record_incident
from hfthot_platform.storage.lakehouse import Lakehouse, Staging, Stamp
from hfthot_platform.storage.lakehouse.locks import writers_lock
from hfthot_platform.storage.lakehouse.publication import WithdrawnRows

if TYPE_CHECKING:
    from hfthot_platform.adapters.recognise import Member

__all__ = [
    "LONGEST_NAME",
    "REASON_SUFFIX",
    "FileOutcome",
    "OnOutcome",
    "OnUnexpected",
    "OneFile",
    "folders_not_read",
    "incident_of",
    "ingest_files",
    "ingest_landing",
    "is_no_candidate",
    "other_name",
    "reason_of_rejection",
    "take_back_unfinished",
    "tell_nobody",
    "waiting_files",
    "withdraw_file",
]

_DONE: Final = "done"
_REJECTED: Final = "rejected"
_USERS: Final = "users"
REASON_SUFFIX: Final = ".reason.json"
_UNFINISHED: Final = (".part", ".tmp", ".crdownload", ".filepart")
#: File systems take 255 bytes, and a mapping or a reason beside the file needs its suffix.
LONGEST_NAME: Final = 240
_CHANGED: Final = "changed_while_read"
_UNEXPECTED: Final = "unexpected_error"
_PERSONAL: Final = "personal_data"
_TOO_MANY: Final = "too_many_bad_rows"
#: Failures that every other file would meet too.
_LAKE_IS_DOWN: Final = (StorageFullError, StorageReadOnlyError, StorageUnavailableError)
#: What a file's reason holds of each rejected row at most.
_SHOWN_CHARACTERS: Final = 500
_SHORTEST_HASH: Final = 8
_UNKNOWN_CONTENT: Final = (
    "no adapter knows this content. If it is market data, describe it in a mapping file next to it: `columns`, "
    "`venue`, `symbol`, `separator`, `time`."
)
#: For so long a file may be under publication on another host.
_AT_WORK: Final = timedelta(days=1)
#: Why a member of an archive is left out where others are read.
_NO_MARKET_DATA: Final = ("unrecognised", "empty", "left_out")

#: Called with a file's outcome as soon as its rows and its record are there.
OnOutcome = Callable[[FileOutcome], None]
#: Called with a file and the error that nobody foresaw.
OnUnexpected = Callable[[Path, BaseException], None]


def tell_nobody(_told: object, _error: object = None) -> None:
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
        if is_no_candidate(path.name):
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


def folders_not_read(landing: Path) -> dict[Path, int]:
    """Return the folders within a landing folder in which files lie that nothing will read, with their number."""
    if not landing.is_dir():
        return {}
    own = {_DONE, _REJECTED, _USERS}
    folders = sorted(entry for entry in landing.iterdir() if entry.is_dir() and not entry.is_symlink())
    found = {
        folder: sum(1 for _ in _files_below(folder))
        for folder in folders
        if folder.name not in own and folder.name[0] != "."
    }
    return {folder: files for folder, files in found.items() if files}


def is_no_candidate(name: str) -> bool:
    """Whether a file of this name is left where it is, as the module's description says."""
    return name.startswith(".") or name.lower().endswith((*_UNFINISHED, REASON_SUFFIX)) or _is_mapping(name)


def _is_mapping(name: str) -> bool:
    return name.lower().endswith(SIDECAR_SUFFIX) or name == FOLDER_MAPPING


def ingest_landing(
    lake: Lakehouse,
    landing: Path,
    *,
    now: datetime,
    settle_seconds: float = 10.0,
    scratch: Path | None = None,
    stamp: Stamp | None = None,
    progress: Progress = no_progress,
    on_outcome: OnOutcome = tell_nobody,
    on_unexpected: OnUnexpected = tell_nobody,
) -> list[FileOutcome]:
    """Ingest every complete file of the landing folder and move it to `done/` or `rejected/`.

    A rejected file has `<name>.reason.json` next to it.  A name that is taken there already gets the content hash
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
        ConfigError: the landing folder is a file, or cannot be made.
        BadRequestError: `done` or `rejected` is a file.
        LockTimeoutError: another process works on this folder for longer than two minutes.
        LakehouseError: a table cannot be written; its files wait, and all others were ingested unless the whole
            lake is at fault.
    """
    made_folder(landing, "landing")
    lake.expect_new()
    outcomes: list[FileOutcome] = []
    fault: LakehouseError | None = None
    with writers_lock(landing / ".landing.lock", exclusive=True):
        take_back_unfinished(lake, stamp or Stamp())
        done, rejected = _folder(landing, _DONE), _folder(landing, _REJECTED)
        _finish_filing(landing, done, rejected)
        for path in waiting_files(landing, now=now, settle_seconds=settle_seconds):
            one = OneFile(lake, path, stamp or Stamp(), scratch, progress, on_unexpected, follow=False)
            try:
                found = one.ingest()
            except FileNotFoundError:
                continue  # taken away in the meantime
            except _LAKE_IS_DOWN:
                raise
            except LakehouseError as error:
                error.add_note(f"while ingesting {path.name!r}, which stays in the landing folder")
                fault = fault or error
                continue
            done_before = found[0].status == "repeated" and _only_to_be_moved(lake, found[0], path, done)
            if done_before:
                days = {file.content_hash: file.days for file in records.known_of(lake, found[0].digest)}
                found = [replace(outcome, days=days[outcome.content_hash]) for outcome in found]
            outcomes += found
            for outcome in found:
                on_outcome(outcome)
            if found[0].reason == _CHANGED:
                continue
            if found[0].reason == _PERSONAL:
                _put_away(path, landing, found[0])
                continue
            one.keep_mapping()
            if found[0].status == "published" or done_before:
                file_away(path, done, found)
            else:
                file_away(path, rejected, found, with_reason=True)
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
    on_outcome: OnOutcome = tell_nobody,
    on_unexpected: OnUnexpected = tell_nobody,
) -> list[FileOutcome]:
    """Ingest files where they are (folders are walked, links to files followed); nothing is moved.

    Every file has an outcome, whatever happens to it (one for each table that it fills); a file that is named twice
    is ingested once.  Mappings that stand among the files, as `*` names them, are read with what they describe.

    Raises:
        BadRequestError: there is no such file or folder, or only mappings are named; nothing was ingested.
        LakehouseError: the whole lake cannot be written.
    """
    paths = list(paths)
    for path in paths:
        if not os.path.lexists(path):
            raise BadRequestError("there is no such file or folder", where=str(path), hint="Check the path.")
    files = [path for path in paths if not _is_mapping(path.name)]
    if paths and not files:
        raise BadRequestError("a mapping holds no rows", where=str(paths[0]), hint="Name the file that it describes.")
    lake.expect_new()
    stamp = stamp or Stamp()
    take_back_unfinished(lake, stamp)
    outcomes: list[FileOutcome] = []
    for path in dict.fromkeys(path.absolute() for given in files for path in _files_below(given)):
        one = OneFile(lake, path, stamp, scratch, progress, on_unexpected, follow=True)
        try:
            found = one.ingest()
        except FileNotFoundError:
            found = [one.rejected("vanished", "the file was removed before it was read")]
        except _LAKE_IS_DOWN:
            raise
        except LakehouseError as error:
            found = [replace(one.rejected(_snake(error), str(error)), status="failed")]
        if found[0].reason == _UNEXPECTED:
            record_incident(lake, incident_of(found[0], lake.clock(), stamp))
        outcomes += found
        for outcome in found:
            on_outcome(outcome)
    return outcomes


def _files_below(path: Path) -> Iterator[Path]:
    """Yield a file, or the candidates below a folder in order of name; links to folders are not followed."""
    if not path.is_dir():
        yield path
        return
    closed: list[OSError] = []
    for place, folders, names in os.walk(path, onerror=closed.append):
        folders.sort()
        yield from (Path(place, name) for name in sorted(names) if not is_no_candidate(name))
    # A folder that cannot be listed is told of as if it were a file.
    yield from (Path(error.filename) for error in closed)


def _snake(error: Exception) -> str:
    name = type(error).__name__.removesuffix("Error")
    return "".join(f"_{sign.lower()}" if sign.isupper() else sign for sign in name).lstrip("_")


@dataclass
class _Part:
    """What a file holds for one table: its members, and the rows of them that were read."""

    staging: Staging
    members: list[tuple[FileProbe, Recognised]]
    reference: str
    gaps: int = 0
    first: datetime | None = None
    last: datetime | None = None

    @property
    def table(self) -> str:
        return self.staging.table.contract.name


class OneFile:
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
        self._declared: CsvMapping | None = None
        #: What is recorded of this content, for each table.
        self._known: list[FileRecord] = []
        self._stands = False
        #: What is to be recorded of tables into which the file was read before, and is not any more.
        self._gone: list[FileOutcome] = []
        self._until_recorded = ExitStack()

    def rejected(self, reason: str, detail: str | None = None) -> FileOutcome:
        """Return a refusal; nothing is recorded."""
        name, detail = _printable(self._path.name), None if detail is None else _printable(detail)
        digest = self._digest
        if digest is None:
            digest = hashlib.sha256(f"{reason}:".encode() + os.fsencode(self._path.name)).hexdigest()
        if reason == _PERSONAL:
            name = f"{_PERSONAL}-{digest[:16]}"
        elif reason == "unrecognised":
            # What is not market data may be anything: an address in its name is not kept, nor its first line.
            name, detail = redacted(name), _UNKNOWN_CONTENT
        return FileOutcome(name, digest, self._size, "rejected", reason, detail, mapping_hash=self._mapping_hash)

    def ingest(self) -> list[FileOutcome]:
        """Take the file in, and record what became of it: of each table that it fills.

        Raises:
            FileNotFoundError: it was taken away.
            LakehouseError: a table cannot be read or written.
        """
        with ExitStack() as self._until_recorded:
            return self._ingest_and_record()

    def _ingest_and_record(self) -> list[FileOutcome]:
        try:
            outcomes = self._ingest()
        except RejectedFileError as error:
            outcomes = [self.rejected(error.reason, str(error))]
        except (FileNotFoundError, LakehouseError):
            raise
        except (Exception, PanicException) as error:  # noqa: BLE001 - one file must not keep all others waiting
            self._on_unexpected(self._path, error)
            outcomes = [self.rejected(_UNEXPECTED, _where_it_failed(error))]
        if outcomes[0].status == "repeated" or outcomes[0].reason == _CHANGED:
            return outcomes
        if outcomes[0].status == "rejected" and self._stands:
            # The record is that of the reading whose rows are in the table.
            return [
                replace(outcome, detail=f"{outcome.detail or outcome.reason} The rows of the reading before it stay.")
                for outcome in outcomes
            ]
        record_outcomes(self._lake, [*outcomes, *self._gone], self._stamp)
        return outcomes

    def keep_mapping(self) -> None:
        """Write the mapping that the file was read with beside it, where a part of it is its folder's."""
        own = sidecar_of(self._path)
        if self._declared is None or not self._path.with_name(FOLDER_MAPPING).is_file():
            return
        write_mapping(own, self._declared)

    def _ingest(self) -> list[FileOutcome]:
        path = self._path
        facts = path.lstat()
        self._size = facts.st_size
        if stat.S_ISLNK(facts.st_mode) and not self._follow:
            raise RejectedFileError("symbolic_link", "links are not followed; drop the file itself")
        if len(os.fsencode(path.name)) > LONGEST_NAME:
            raise RejectedFileError("name_too_long", f"more than {LONGEST_NAME} bytes; rename the file")
        try:
            facts = path.stat()
        except OSError as error:
            if stat.S_ISLNK(facts.st_mode):
                raise RejectedFileError(
                    "dangling_link", "the link does not point to a file that can be read"
                ) from error
            raise
        if not stat.S_ISREG(facts.st_mode):
            what = "a folder that cannot be listed" if stat.S_ISDIR(facts.st_mode) else "no regular file"
            raise RejectedFileError("not_a_file", f"it is {what}")
        self._size = facts.st_size
        before = _file_state(path)
        try:
            digest = content_hash(path)
        except FileNotFoundError:
            raise
        except OSError as error:
            why = os.strerror(error.errno or 0)
            raise RejectedFileError("unreadable", f"the file cannot be read ({why})") from error
        self._digest = digest
        self._known = records.known_of(self._lake, digest)
        if any(file.status == "publishing" for file in self._known):
            take_back_unfinished(self._lake, self._stamp, of=digest)
            self._known = records.known_of(self._lake, digest)
        published = [file for file in self._known if file.status == "published"]
        self._stands = bool(published) and all(records.stands(self._lake, file) for file in published)
        self._declared = declared_mapping(path)
        self._mapping_hash = _hash_of(self._declared)
        if self._stands and published[0].mapping_hash == self._mapping_hash:
            again = replace(
                self.rejected("already_ingested", f"the same content was ingested as {published[0].name}"),
                status="repeated",
            )
            return [
                replace(again, table=file.target, content_hash=file.content_hash, file_hash=file.file_hash)
                for file in published
            ]
        from hfthot_platform.adapters.recognise import recognise_members

        with archives_kept_open():
            if holds_personal_data(path):
                raise RejectedFileError(
                    _PERSONAL,
                    "the file has fields with personal data; files of user events belong in <landing>/users",
                )
            members = list(recognise_members(path, self._declared, now=self._lake.clock()))
            return self._judged(members, before)

    def _judged(self, members: list[Member], before: tuple[int, ...] | None) -> list[FileOutcome]:
        """Read the file, all members of an archive, to its end, and then publish all of it or nothing."""
        readable, left_out = _readable(members)
        refusal: RejectedFileError | None = None
        with ExitStack() as open_until_the_end:
            parts = [
                self._part(table, [member for member in readable if member[1].table == table], open_until_the_end)
                for table in sorted({claim.table for _, claim in readable})
            ]
            try:
                for part in parts:
                    self._read(part)
            except RejectedFileError as error:
                refusal = error
            if _file_state(self._path) != before:
                detail = "the file changed while it was read; it is ingested when it has settled"
                return [self.rejected(_CHANGED, detail)]
            refusal = refusal or _why_not_published(parts)
            if refusal is not None:
                return self._withheld(parts, refusal)
            outcomes = self._published_all(parts)
        if left_out and outcomes[0].status == "published":
            detail = "; ".join(filter(None, (outcomes[0].detail, f"left out of the archive: {', '.join(left_out)}")))
            outcomes[0] = replace(outcomes[0], detail=_printable(detail))
        return outcomes

    def _part(self, table: str, members: list[tuple[FileProbe, Recognised]], end: ExitStack) -> _Part:
        reference = f"{members[0][1].adapter.name}:{(self._digest or '')[:16]}"
        if self._mapping_hash is not None:
            reference += f".{self._mapping_hash[:8]}"
        return _Part(end.enter_context(Staging(self._lake.table(table), self._scratch)), members, reference)

    def _read(self, part: _Part) -> None:
        table, now = part.staging.table, self._lake.clock()
        for probe, claim in part.members:
            for batch in claim.adapter.read(probe, claim, source_ref=part.reference, progress=self._progress):
                rejected = batch.rejected.with_columns(pl.lit(batch.source_ref).alias("source_ref"))
                part.gaps += batch.gaps
                audited = _audited(part.staging, with_proven_bars(table, batch, now), rejected)
                part.first, part.last = _time_span(audited, table.contract.time_column, part.first, part.last)

    def _outcome(self, part: _Part, place: int) -> FileOutcome:
        """Return what a part's outcome is to begin with."""
        digest = self._digest or ""
        key = records.row_key(digest, part.table, place)
        return replace(
            self.rejected("", None),
            reason=None,
            content_hash=key,
            file_hash=None if key == digest else digest,
            adapter=part.members[0][1].label,
            table=part.table,
            source_ref=part.reference,
            rows_read=part.staging.read + part.gaps,
            rows_gaps=part.gaps,
            rejections=tuple(part.staging.rejections.values()),
        )

    def _withheld(self, parts: list[_Part], refusal: RejectedFileError) -> list[FileOutcome]:
        """Keep all rows out of all tables, and return why."""
        read = [part for part in parts if part.staging.read] or parts[:1]
        self._clear_quarantine(standing=self._stands)
        for part in read:
            if part.staging.read:
                part.staging.withhold(refusal.what, source_ref=part.reference, stamp=self._stamp)
        return [
            replace(
                self._outcome(part, place),
                reason=refusal.reason,
                detail=_printable(str(refusal)),
                rows_duplicate=part.staging.duplicates,
                rows_quarantined=part.staging.read - part.staging.duplicates,
            )
            for place, part in enumerate(read)
        ]

    def _clear_quarantine(self, *, standing: bool = False) -> None:
        """Take out what an earlier reading of this content left in quarantine, unless that reading still stands."""
        for file in self._known:
            _take_out_of_quarantine(self._lake, file, (file.source_ref or "") if standing else "", self._stamp)

    def _published_all(self, parts: list[_Part]) -> list[FileOutcome]:
        """Publish all parts, one commit for each, and take out what another reading has published elsewhere."""
        standing = [file for file in self._known if self._stands and file.status == "published"]
        former = {file.target: file for file in standing}
        elsewhere = [file for file in standing if file.target not in {part.table for part in parts}]
        self._clear_quarantine()
        outcomes = [self._outcome(part, place) for place, part in enumerate(parts)]
        if len(parts) > 1:
            self._until_recorded.enter_context(writers_lock(publishing_lock(self._lake), exclusive=False))
            # A table keeps the row that it has; so a killed run leaves one for each table that may have changed.
            keys = {file.target: file.content_hash for file in standing}
            outcomes = [self._with_record_key(outcome, keys) for outcome in outcomes]
            begun = [_publishing_record(outcome, former.get(outcome.table)) for outcome in outcomes]
            record_outcomes(
                self._lake, [*begun, *(_publishing_record(_outcome_of(file), file) for file in elsewhere)], self._stamp
            )
        outcomes = [self._published(part, outcome, former) for part, outcome in zip(parts, outcomes, strict=True)]
        for known in elsewhere:
            outcomes[0] = self._took_out(known, outcomes[0])
        recorded = {outcome.content_hash for outcome in outcomes}
        self._gone = [
            replace(_outcome_of(file), detail="another reading of the same content replaced it")
            for file in elsewhere
            if file.content_hash not in recorded
        ]
        if any(outcome.status == "published" for outcome in outcomes):
            outcomes = [replace(outcome, status="published", reason=None) for outcome in outcomes]
        return [_with_note_of_the_reading_before(outcome) for outcome in outcomes] if standing else outcomes

    def _with_record_key(self, outcome: FileOutcome, keys: dict[str | None, str]) -> FileOutcome:
        """Return an outcome under the key of the record that its table has, or under a free one."""
        digest = self._digest or ""
        is_free = outcome.content_hash == digest and digest not in keys.values()
        key = keys.get(outcome.table) or (digest if is_free else records.row_key(digest, outcome.table or "", 1))
        return replace(outcome, content_hash=key, file_hash=None if key == digest else digest)

    def _took_out(self, known: FileRecord, outcome: FileOutcome) -> FileOutcome:
        """Take out what another reading has published in another table, and add that to an outcome."""
        former, note = records.former_of(self._lake, known)
        taken = _take_out(self._lake, known, former, self._stamp)
        return replace(
            outcome,
            detail="; ".join(filter(None, (outcome.detail, note))) or None,
            rows_withdrawn=outcome.rows_withdrawn + taken.rows_withdrawn,
            rows_restored=outcome.rows_restored + taken.rows_restored,
            days=outcome.days | taken.days,
        )

    def _published(self, part: _Part, outcome: FileOutcome, known_of: dict[str | None, FileRecord]) -> FileOutcome:
        """Publish a part, in place of what another reading of this content has published."""
        reference, staging = part.reference, part.staging
        former: WithdrawnRows | None = None
        note = None
        known = known_of.get(part.table)
        if known is not None:
            former, note = records.former_of(self._lake, known, but=reference)
        commit = staging.merge(
            on_change=CONFLICTS.get(part.table, "update"),
            source_ref=reference,
            in_place_of=former,
            stamp=self._stamp,
        )
        published, duplicate = commit.rows_published, commit.rows_duplicate
        if commit.rows_replayed and not commit.changed:
            # An earlier run published the file and died.  A row that a later batch repeats looks like one of them.
            published = _count_stored(staging, reference)
            duplicate = commit.rows_read - commit.rows_quarantined - published
        version, commit_id, updated = commit.version, commit.commit_id, commit.rows_updated
        if commit.rows_replayed:
            own = next((commit for commit in staging.table.lineage() if commit.source_ref == reference), None)
            if own is not None:
                version, commit_id, updated = own.version, own.commit_id, own.updated
        bad = published == 0 and duplicate == 0 and part.staging.read > 0
        return replace(
            outcome,
            status="rejected" if bad else "published",
            reason="no_good_rows" if bad else None,
            detail=f"all {outcome.rows_read:,} rows were quarantined" if bad else note,
            rows_published=published,
            rows_duplicate=duplicate,
            rows_quarantined=commit.rows_quarantined,
            rows_withdrawn=commit.rows_withdrawn,
            rows_restored=commit.rows_restored,
            rows_updated=updated,
            first_ts=part.first if published else None,
            last_ts=part.last if published else None,
            version=version,
            commit_id=commit_id or None,
            days=commit.days,
        )


def _publishing_record(outcome: FileOutcome, known: FileRecord | None) -> FileOutcome:
    """Return what is recorded of a table before its commit, with what is known of the reading that is there."""
    return replace(
        outcome,
        status="publishing",
        rows_read=0,
        rows_gaps=0,
        rows_updated=known.rows_updated if known else 0,
        version=known.version if known else None,
        commit_id=known.commit_id if known else None,
    )


def _outcome_of(file: FileRecord) -> FileOutcome:
    """Return what is recorded of a file, without its counts."""
    return FileOutcome(
        file.name,
        file.content_hash,
        file.bytes,
        "withdrawn",
        adapter=file.adapter,
        table=file.target,
        mapping_hash=file.mapping_hash,
        source_ref=file.source_ref,
        version=file.version,
        commit_id=file.commit_id,
        file_hash=file.file_hash,
    )


def _with_note_of_the_reading_before(outcome: FileOutcome) -> FileOutcome:
    if outcome.status != "published":
        return outcome
    took = f"replaced another reading of the same content: {outcome.rows_withdrawn:,} rows withdrawn"
    note = "; ".join(filter(None, (f"{took}, {outcome.rows_restored:,} restored", outcome.detail)))
    return replace(outcome, detail=note)


def _readable(members: list[Member]) -> tuple[list[tuple[FileProbe, Recognised]], list[str]]:
    """Return what is to be read of a file, and the names of an archive's members that are not market data.

    Raises:
        RejectedFileError: a member cannot be read, or there is nothing to read.
    """
    readable = [(member.probe, member.claim) for member in members if member.claim is not None]
    refused = [member for member in members if member.error is not None]
    # Read-me files and empty ones come in archives; what is market data in a wrong form refuses the whole.
    fatal = [
        member for member in refused if not readable or (member.error and member.error.reason not in _NO_MARKET_DATA)
    ]
    if fatal:
        raise _refused_for(fatal, len(members))
    if not readable:
        raise RejectedFileError("empty", "the archive holds no file")
    return readable, [member.name for member in refused]


def _refused_for(fatal: list[Member], count: int) -> RejectedFileError:
    """Return the refusal of a file for what is wrong with it, or with some files of an archive."""
    fatal.sort(key=lambda member: member.error is not None and member.error.reason == "left_out")
    member, error = fatal[0], fatal[0].error
    assert error is not None
    if count == 1:
        return error
    if error.reason == "left_out":
        what = f"`members` in the mapping leaves out all {count:,} files of the archive, as {member.name}"
        return RejectedFileError("left_out", what, where=member.probe.name, hint="Correct the patterns.")
    others = f" (and {len(fatal) - 1:,} more of its {count:,} files are refused)" if len(fatal) > 1 else ""
    way_out = f'Or leave the file out: `members: "!{member.name}"` in {sidecar_of(member.probe.path).name}.'
    return RejectedFileError(
        error.reason,
        f"{member.name}: {error.what}{others}",
        where=member.probe.name,
        hint=f"{error.hint or ''} {way_out}".strip(),
    )


def _hash_of(declared: CsvMapping | None) -> str | None:
    """Return the SHA-256 of what a mapping says, however it is written; None if it says nothing."""
    said = {} if declared is None else declared.model_dump(mode="json", exclude_defaults=True)
    return hashlib.sha256(json.dumps(said, sort_keys=True).encode()).hexdigest() if said else None


def _audited(staging: Staging, rows: pl.DataFrame, rejected: pl.DataFrame) -> pl.DataFrame:
    try:
        return staging.add(rows, rejected).rows
    except SchemaMismatchError as error:
        raise RejectedFileError("wrong_schema", error.what, where=error.where, hint=error.hint) from error


def _time_span(
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


def _why_not_published(parts: list[_Part]) -> RejectedFileError | None:
    """Return why a file that was read to its end is not published, judged over all its rows."""
    if not any(part.staging.read for part in parts):
        gaps = sum(part.gaps for part in parts)
        what = f"all {gaps:,} rows say that nothing was traded" if gaps else "the file holds no rows"
        return RejectedFileError("empty", what)
    for part in parts:
        staging, contract = part.staging, part.staging.table.contract
        if staging.publishable:
            continue
        if len(parts) == 1 and staging.rejected == staging.read:
            return RejectedFileError("no_good_rows", f"all {staging.read:,} rows were quarantined")
        share = f"at most {contract.max_rejected_share:.0%} may"
        return RejectedFileError(
            _TOO_MANY,
            f"{staging.rejected:,} of {staging.read:,} rows break a rule; {share}",
            where=contract.name,
            hint="Correct the file or its mapping, and drop it again.",
        )
    return None


def _count_stored(staging: Staging, reference: str) -> int:
    rows = staging.table.scan().filter(pl.col("source_ref") == reference)
    return int(rows.select(pl.len()).collect().item())


def _where_it_failed(error: BaseException) -> str:
    """Return the class of an error and the place in our code: its text may quote the file."""
    ours = [frame for frame in traceback.extract_tb(error.__traceback__) if "hfthot_platform" in frame.filename]
    place = f" at {Path(ours[-1].filename).name}:{ours[-1].lineno}" if ours else ""
    return (
        f"the platform failed on this file: {type(error).__name__}{place}. "
        "Run `hfthot --debug ingest` with the file and report the traceback."
    )


def _file_state(path: Path) -> tuple[int, ...] | None:
    """Return what changes when a file is written to or replaced; None if it is gone."""
    try:
        facts = path.stat()
    except FileNotFoundError:
        return None
    return facts.st_dev, facts.st_ino, facts.st_size, facts.st_mtime_ns


def _printable(text: str) -> str:
    """Return text without the bytes of a file name that are not UTF-8."""
    return text.encode("utf-8", "replace").decode()


record_outcomes = records.record


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
    take_back_unfinished(lake, stamp)
    files = _records_meant(lake, which)
    if files[0].target == "users":
        raise BadRequestError(
            "user events are changes of accounts, which cannot be withdrawn",
            where=files[0].name,
            hint="Correct the accounts themselves.",
        )
    outcomes = [_withdraw_from_table(lake, file, stamp) for file in files]
    record_outcomes(lake, outcomes, stamp)
    return replace(
        outcomes[0],
        content_hash=files[0].digest,
        table=", ".join(file.target or "" for file in files) or None,
        detail="; ".join(outcome.detail for outcome in outcomes if outcome.detail) or None,
        rows_withdrawn=sum(outcome.rows_withdrawn for outcome in outcomes),
        rows_restored=sum(outcome.rows_restored for outcome in outcomes),
        days=frozenset().union(*(outcome.days for outcome in outcomes)),
    )


def _withdraw_from_table(lake: Lakehouse, file: FileRecord, stamp: Stamp) -> FileOutcome:
    """Take a file's rows out of one table, and out of its quarantine."""
    former, note = records.former_of(lake, file)
    taken = _take_out(lake, file, former, stamp)
    _take_out_of_quarantine(lake, file, "", stamp)
    return replace(
        _outcome_of(file),
        detail=note,
        rows_withdrawn=taken.rows_withdrawn,
        rows_restored=taken.rows_restored,
        days=taken.days,
        first_ts=taken.first_ts,
        last_ts=taken.last_ts,
    )


def publishing_lock(lake: Lakehouse) -> Path | None:
    """Return the lock that is held while a file is published; None on an object store."""
    local = lake.storage.local
    return local / "_locks" / "ingest.publishing.lock" if local else None


def take_back_unfinished(lake: Lakehouse, stamp: Stamp, *, of: str | None = None) -> None:
    """Take out what killed runs have published of files with several tables, as if the files had never come.

    Files in a landing folder are ingested again afterwards, whole.  A run that is at work is left alone: on one host
    its lock tells; on an object store what was begun within a day counts as at work, unless that very file comes.

    Args:
        lake: the lake.
        stamp: who and why.
        of: the SHA-256 of a file that is about to be ingested; others are then left.

    Raises:
        LockTimeoutError: the file is being published by another process for longer than two minutes.
    """
    publishing = pl.col("status") == "publishing"
    if not records.known(lake, publishing):
        return
    lock = publishing_lock(lake)
    try:
        with writers_lock(lock, exclusive=True, timeout=0.0 if of is None else 120.0):
            for file in records.known(lake, publishing):
                age = lake.clock() - file.ingested_at
                if file.digest != of and (of is not None or (lock is None and age < _AT_WORK)):
                    continue
                record_outcomes(lake, [_taken_back(lake, file, stamp)], stamp)
    except LockTimeoutError:
        if of is not None:
            raise


def _taken_back(lake: Lakehouse, file: FileRecord, stamp: Stamp) -> FileOutcome:
    table = lake.table(file.target or "")
    own = None
    if table.version() is not None:
        own = next((commit for commit in table.lineage() if commit.source_ref == file.source_ref), None)
    if own is not None:
        file = replace(file, version=own.version, commit_id=own.commit_id, rows_updated=own.updated or 0)
    outcome = _outcome_of(file) if table.version() is None else _withdraw_from_table(lake, file, stamp)
    note = "a run ended before all tables of the file were published; its rows were removed again"
    return replace(outcome, reason="interrupted", detail=note)


def _records_meant(lake: Lakehouse, which: str) -> list[FileRecord]:
    """Return the records of the one published file that is meant, one for each of its tables."""
    path = Path(which)
    found: list[FileRecord] = []
    try:
        is_file = path.is_file()
    except (OSError, ValueError):
        is_file = False  # what cannot be a path may still be a name
    if is_file:
        found = records.known_of(lake, content_hash(path))
    if not found:
        found = records.known(lake, pl.col("name") == _printable(path.name))
    digits = which.lower()
    if not found and len(digits) >= _SHORTEST_HASH and not set(digits) - set("0123456789abcdef"):
        found = records.known(
            lake, pl.col("content_hash").str.starts_with(digits) | pl.col("file_hash").str.starts_with(digits)
        )
    published = [file for file in found if file.status == "published"]
    if len(meant := {file.digest for file in published}) > 1:
        listed = "; ".join(f"{file.digest[:12]} {file.target} {file.ingested_at:%Y-%m-%d %H:%M}" for file in published)
        raise BadRequestError(
            f"{len(meant)} files match: {listed}", where=which, hint="Give the first digits of one's hash."
        )
    if published:
        return [file for file in records.known_of(lake, published[0].digest) if file.status == "published"]
    if found:
        raise BadRequestError(
            f"the file was {found[-1].status}: none of its rows is in a table",
            where=which,
            hint="It can be ingested again.",
        )
    names = records.known(lake, pl.col("status") == "published")
    raise BadRequestError(
        "no file with this name, path or hash was ingested",
        where=which,
        hint=nearest(path.name, {file.name for file in names}) or "`SELECT name FROM ops.ingest_files` lists them.",
    )


def _take_out(lake: Lakehouse, file: FileRecord, former: WithdrawnRows, stamp: Stamp) -> FileOutcome:
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


def _take_out_of_quarantine(lake: Lakehouse, file: FileRecord, but: str, stamp: Stamp) -> None:
    if file.target is None:
        return
    name = lake.table(file.target).contract.quarantine
    if name in lake.contracts and lake.table(name).version() is not None:
        former = WithdrawnRows(file.digest[:16], but)
        lake.table(name).publish(lambda: (), in_place_of=former, stamp=stamp)


def incident_of(outcome: FileOutcome, now: datetime, stamp: Stamp, *, job: str | None = None) -> Incident:
    """Return what somebody should look at where a file was rejected; the same rejection is the same incident."""
    what = f"{outcome.digest}:{outcome.mapping_hash}:{outcome.reason}"
    detail = outcome.detail or outcome.reason or ""
    return Incident(
        incident_id=hashlib.sha256(what.encode()).hexdigest(),
        ts=now.astimezone(UTC),
        severity="error" if outcome.reason == _UNEXPECTED else "warning",
        kind="file_rejected",
        job=job,
        run_id=stamp.run_id,
        error_class=outcome.reason,
        message=detail if detail.startswith(outcome.name) else f"{outcome.name}: {detail}",
    )


# -- filing ---------------------------------------------------------------------------------------------------------


def _only_to_be_moved(lake: Lakehouse, outcome: FileOutcome, path: Path, done: Path) -> bool:
    """Whether a run that published and recorded this very file died before it could move it."""
    if {file.name for file in records.known_of(lake, outcome.digest)} != {outcome.name}:
        return False
    there = (done / name for name in (path.name, other_name(path.name, outcome.digest)))
    return not any(path.is_file() and content_hash(path) == outcome.digest for path in there)


def _put_away(path: Path, landing: Path, outcome: FileOutcome) -> None:
    """Move a file with personal data, and its mapping, to where such files are kept for a week under no name."""
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


def file_away(path: Path, folder: Path, outcomes: list[FileOutcome], *, with_reason: bool = False) -> None:
    """Move a file, its mapping beside it; never over another file."""
    mapping = path.with_name(path.name + SIDECAR_SUFFIX)
    has_mapping = len(os.fsencode(path.name)) <= LONGEST_NAME and mapping.is_file()
    names = (other_name(path.name, outcomes[0].digest, number) for number in count(0))
    if len(os.fsencode(path.name)) > LONGEST_NAME:
        next(names)
    target = next(place for name in names if not _is_taken(place := folder / name, mapping if has_mapping else None))
    if with_reason:
        target.with_name(target.name + REASON_SUFFIX).write_text(reason_of_rejection(outcomes), encoding="utf-8")
    if has_mapping:
        _link_mapping(mapping, sidecar_of(target))
    os.replace(path, target)  # noqa: PTH105 - atomic, and says so
    if has_mapping:
        mapping.unlink()


def reason_of_rejection(outcomes: list[FileOutcome]) -> str:
    """Return what is written beside a rejected file, as JSON."""
    facts = _reason(outcomes[0])
    if len(outcomes) > 1:
        facts["tables"] = [_reason(outcome) for outcome in outcomes]
    return json.dumps(facts, indent=2, default=str) + "\n"


def _reason(outcome: FileOutcome) -> dict[str, object]:
    """Return what is told beside a rejected file: its account, the rules with their first rows, and the query."""
    facts: dict[str, object] = {
        key: value for key, value in asdict(outcome).items() if key not in {"days", "rejections"}
    }
    facts["rejections"] = [
        {
            "reason": rejection.reason,
            "rule": rejection.detail,
            "rows": rejection.count,
            "first": [{"row_number": number, "row": row[:_SHOWN_CHARACTERS]} for number, row in rejection.first],
        }
        for rejection in sorted(outcome.rejections, key=lambda rejection: -rejection.count)
    ]
    facts["query"] = outcome.query
    return facts


def other_name(name: str, digest: str, number: int = 1) -> str:
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


def _link_mapping(mapping: Path, target: Path) -> None:
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
        if any(copy.samefile(mapping) for folder in folders for copy in folder.glob(f"*{SIDECAR_SUFFIX}")):
            mapping.unlink()
