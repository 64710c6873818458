"""Files: recognised by content, ingested once, filed away with the reason where they were refused.

For one file the order is publish, record in `ops.ingest_files`, move.  Each step can be repeated after a
crash: rows that are already there count as published by this very file (their `source_ref` holds its content
hash), the record is merged by content hash, and a file that is recorded but not moved is only moved.

What is no candidate in a landing folder and stays where it is: folders, hidden files, files with the suffix of
an unfinished transfer, mappings (they travel with the file that they describe) and the reasons of earlier
rejections.  A symbolic link is never followed: what it points to may lie anywhere and change later.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import stat
from collections.abc import Callable, Iterable
from dataclasses import asdict, dataclass, field, replace
from datetime import UTC, date, datetime
from itertools import count
from pathlib import Path
from typing import Final, Literal

import polars as pl

from hfthot_platform.errors import BadRequestError, HfthotError, RejectedFileError, SchemaMismatchError
from hfthot_platform.ingest.feeds import CONFLICTS
from hfthot_platform.lakehouse import Audited, Lakehouse, Stamp, Table
from hfthot_platform.lakehouse.audit import rejected_for_conflict
from hfthot_platform.lakehouse.locks import writers_lock
from hfthot_platform.lakehouse.staging import finished_first
from hfthot_platform.market.sources.base import Batch, FileProbe, Progress, Recognised, content_hash, no_progress
from hfthot_platform.market.sources.mapping import SIDECAR_SUFFIX, sidecar_of

__all__ = ["FileOutcome", "ingest_files", "ingest_landing", "waiting_files"]

_DONE: Final = "done"
_REJECTED: Final = "rejected"
_REASON_SUFFIX: Final = ".reason.json"
_UNFINISHED: Final = (".part", ".tmp", ".crdownload", ".filepart")
_FILES: Final = "ops.ingest_files"
#: File systems take 255 bytes, and a mapping or a reason beside the file needs its suffix.
_LONGEST_NAME: Final = 240
_CHANGED: Final = "changed_while_read"


@dataclass(frozen=True)
class FileOutcome:
    """What became of one file.  `rows_read = rows_published + rows_duplicate + rows_quarantined`."""

    name: str
    #: SHA-256 of the content; of reason and name for a file whose content was not looked at.
    content_hash: str
    bytes: int
    status: Literal["published", "rejected", "repeated"]
    reason: str | None = None
    detail: str | None = None
    adapter: str | None = None
    table: str | None = None
    rows_read: int = 0
    rows_published: int = 0
    rows_duplicate: int = 0
    rows_quarantined: int = 0
    first_ts: datetime | None = None
    last_ts: datetime | None = None
    #: Days whose rows changed, for whoever computes from them.
    days: frozenset[date] = field(default_factory=frozenset)


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
    return name.startswith(".") or name.lower().endswith(suffixes)


def ingest_landing(
    lake: Lakehouse,
    landing: Path,
    *,
    now: datetime,
    settle_seconds: float = 10.0,
    stamp: Stamp | None = None,
    progress: Progress = no_progress,
) -> list[FileOutcome]:
    """Ingest every complete file of the landing folder and move it to `done/` or `rejected/`.

    Beside a rejected file lies `<name>.reason.json`.  A name that is taken there already gets the content hash
    before its suffix.  A file that changed while it was read is accounted for as far as it went, and stays for
    the next time.  One process at a time works on a landing folder.

    Raises:
        BadRequestError: `done` or `rejected` is a file.
        LockTimeoutError: another process works on this folder for longer than two minutes.
        LakehouseError: the lake cannot be written; the remaining files wait.
        Exception: an unforeseen failure of one file, raised after all the others were ingested.
    """
    landing.mkdir(parents=True, exist_ok=True)
    lake.expect_new()
    outcomes = []
    unforeseen: Exception | None = None
    with writers_lock(landing / ".landing.lock", exclusive=True):
        done, rejected = _folder(landing, _DONE), _folder(landing, _REJECTED)
        _finish_filing(landing, done, rejected)
        for path in waiting_files(landing, now=now, settle_seconds=settle_seconds):
            try:
                outcome = _ingest(lake, path, stamp or Stamp(), progress, follow=False)
            except FileNotFoundError:
                continue  # taken away in the meantime
            except HfthotError:
                raise
            except Exception as error:  # noqa: BLE001 - one file must not keep all others waiting
                error.add_note(f"while ingesting {path.name!r}, which stays in the landing folder")
                unforeseen = unforeseen or error
                continue
            outcomes.append(outcome)
            if outcome.reason == _CHANGED:
                continue
            if outcome.status == "published" or _only_to_be_moved(lake, outcome, path, done):
                _file_away(path, done, outcome)
            else:
                _file_away(path, rejected, outcome, with_reason=True)
    if unforeseen is not None:
        raise unforeseen
    return outcomes


def ingest_files(
    lake: Lakehouse,
    paths: Iterable[Path],
    *,
    stamp: Stamp | None = None,
    progress: Progress = no_progress,
    on_outcome: Callable[[FileOutcome], None] | None = None,
) -> list[FileOutcome]:
    """Ingest files where they are (folders are walked, links followed); nothing is moved.

    Raises:
        BadRequestError: there is no such file or folder.
        LakehouseError: the lake cannot be written.
    """
    lake.expect_new()
    outcomes = []
    for path in paths:
        if not path.exists():
            raise BadRequestError("there is no such file or folder", where=str(path), hint="Check the path.")
        files = sorted(each for each in path.rglob("*") if each.is_file()) if path.is_dir() else [path]
        for each in files:
            if _is_no_candidate(each.name):
                continue
            outcome = _ingest(lake, each, stamp or Stamp(), progress, follow=True)
            outcomes.append(outcome)
            if on_outcome:
                on_outcome(outcome)
    return outcomes


def _ingest(lake: Lakehouse, path: Path, stamp: Stamp, progress: Progress, *, follow: bool) -> FileOutcome:
    if path.is_symlink() and not follow:
        return _unseen(lake, path, stamp, "symbolic_link", "links are not followed; drop the file itself")
    if len(os.fsencode(path.name)) > _LONGEST_NAME:
        return _unseen(lake, path, stamp, "name_too_long", f"more than {_LONGEST_NAME} bytes; rename the file")
    before = _mark(path)
    if before is None:
        raise FileNotFoundError(path)
    try:
        digest = content_hash(path)
    except PermissionError:
        return _unseen(lake, path, stamp, "unreadable", "the file's permissions do not allow reading it")
    empty = FileOutcome(_printable(path.name), digest, before[0], "rejected")
    known = lake.table(_FILES).scan().filter(pl.col("content_hash") == digest, pl.col("status") == "published")
    if (found := known.select("name", "target").collect()).height:
        return replace(
            empty,
            status="repeated",
            reason="already_ingested",
            detail=f"the same content was ingested as {found['name'][0]}",
            table=found["target"][0],
        )
    from hfthot_platform.market.sources.recognise import recognise

    try:
        probe, claim = recognise(path)
    except RejectedFileError as error:
        outcome = replace(empty, reason=error.reason, detail=str(error))
    else:
        outcome = _publish(lake, probe, claim, empty, stamp, progress)
    if _mark(path) != before:
        # What was read is accounted for under the hash of the moment; the whole file is another content.
        detail = "the file changed while it was read; the rest is ingested when it has settled"
        outcome = replace(outcome, status="rejected", reason=_CHANGED, detail=detail)
    outcome = replace(outcome, detail=None if outcome.detail is None else _printable(outcome.detail))
    _record(lake, outcome, stamp)
    return outcome


def _unseen(lake: Lakehouse, path: Path, stamp: Stamp, reason: str, detail: str) -> FileOutcome:
    """Reject a file without looking at its content."""
    digest = hashlib.sha256(f"{reason}:".encode() + os.fsencode(path.name)).hexdigest()
    outcome = FileOutcome(_printable(path.name), digest, path.lstat().st_size, "rejected", reason, detail)
    _record(lake, outcome, stamp)
    return outcome


def _mark(path: Path) -> tuple[int, int] | None:
    """Return what changes when a file is written to; None if it is gone."""
    try:
        facts = path.stat()
    except FileNotFoundError:
        return None
    return facts.st_size, facts.st_mtime_ns


def _printable(text: str) -> str:
    """Return text without the bytes of a file name that are no UTF-8."""
    return text.encode("utf-8", "replace").decode()


def _publish(
    lake: Lakehouse, probe: FileProbe, claim: Recognised, empty: FileOutcome, stamp: Stamp, progress: Progress
) -> FileOutcome:
    """Audit and publish batch by batch; a file that breaks off keeps what was good before the break."""
    table = lake.table(claim.table)
    reference = f"{claim.adapter.name}:{empty.content_hash[:16]}"
    account = _Account(table, reference, stamp)
    reason = detail = None
    try:
        for batch in claim.adapter.read(probe, claim, source_ref=reference, progress=progress):
            account.publish(batch)
    except RejectedFileError as error:
        reason, detail = error.reason, str(error)
    account.settle()
    if account.read == 0:
        reason, detail = reason or "empty", detail or "the file holds no rows"
    elif account.published == 0 and account.duplicate == 0 and reason in (None, _TOO_MANY):
        reason, detail = "no_good_rows", f"all {account.read} rows were quarantined"
    return replace(
        empty,
        status="published" if reason is None else "rejected",
        reason=reason,
        detail=detail,
        adapter=claim.label,
        table=claim.table,
        rows_read=account.read,
        rows_published=account.published,
        rows_duplicate=account.duplicate,
        rows_quarantined=account.quarantined,
        first_ts=account.first if account.published else None,
        last_ts=account.last if account.published else None,
        days=frozenset(account.days),
    )


_TOO_MANY: Final = "too_many_bad_rows"


class _Account:
    """Publishes the batches of one file and counts what becomes of every row."""

    def __init__(self, table: Table, reference: str, stamp: Stamp) -> None:
        self._table = table
        self._reference = reference
        self._stamp = stamp
        self._on_change = CONFLICTS.get(table.contract.name, "update")
        self._batches = 0
        self.read = self.published = self.duplicate = self.quarantined = 0
        self.first: datetime | None = None
        self.last: datetime | None = None
        self.days: set[date] = set()

    def publish(self, batch: Batch) -> None:
        """Quarantine the bad rows of a batch, then publish the good ones.

        Raises:
            RejectedFileError: `too_many_bad_rows`, `wrong_schema`.
        """
        audited = self._audited(batch)
        self._batches += 1
        self.read += audited.read
        self.quarantined += audited.rejected.height
        # Bad rows are safe before good ones are public: a crash between the two loses none.
        self._table.quarantine(audited, stamp=self._stamp)
        if not audited.publishable:
            self._withhold(audited)
        # The share of bad rows is judged; what is left is published whatever the share within a part of it.
        commits = [
            self._table.merge(part, on_change=how, stamp=self._stamp)
            for part, how in finished_first(audited, self._on_change)
        ]
        self.published += sum(each.rows_published for each in commits)
        self.duplicate += sum(each.rows_duplicate for each in commits)
        self.quarantined += sum(each.rows_quarantined for each in commits)
        self._note_times(audited.rows, changed=any(each.changed for each in commits))

    def settle(self) -> None:
        """Count a file of several batches once more by what the table holds of it.

        A row that a later batch repeats looks like one that an interrupted run had published already.
        """
        if self._batches < 2 or self.first is None:
            return
        mine = self._mine().select(pl.len()).collect().item()
        self.published, self.duplicate = mine, self.read - self.quarantined - mine

    def _audited(self, batch: Batch) -> Audited:
        rejected = batch.rejected.with_columns(pl.lit(batch.source_ref).alias("source_ref"))
        try:
            audited = self._table.audit(batch.rows, rejected)
        except SchemaMismatchError as error:
            raise RejectedFileError("wrong_schema", error.what, where=error.where, hint=error.hint) from error
        if self._batches == 0 or self._on_change == "reject" or not audited.rows.height:
            return audited
        # The first row of a key stays, as it does within a batch.
        contract = self._table.contract
        key, values = list(contract.primary_key), list(contract.value_columns)
        earlier = self._mine(audited.rows).select(*key, *values).collect()
        compared = audited.rows.join(earlier, on=key, how="inner", suffix="_earlier")
        differs = pl.any_horizontal(pl.col(name).ne_missing(pl.col(f"{name}_earlier")) for name in values)
        again = compared.filter(differs).select(contract.column_names)
        return replace(
            audited,
            rows=audited.rows.join(again, on=key, how="anti", maintain_order="left"),
            rejected=pl.concat([audited.rejected, rejected_for_conflict(contract, again)]),
        )

    def _mine(self, rows: pl.DataFrame | None = None) -> pl.LazyFrame:
        """Return what the table holds of this file, in the time of the given rows or of all so far."""
        time = pl.col(self._table.contract.time_column or "ts")
        first, last = (self.first, self.last) if rows is None else rows.select(time.min(), time.max().alias("_")).row(0)
        return self._table.scan().filter(time.is_between(first, last), pl.col("source_ref") == self._reference)

    def _withhold(self, audited: Audited) -> None:
        """Quarantine the good rows of a batch that has too many bad ones, and stop."""
        contract = self._table.contract
        bad, share = audited.rejected.height, contract.max_rejected_share
        detail = f"{bad} of {audited.read} rows break a rule; at most {share:.0%} may"
        withheld = rejected_for_conflict(contract, audited.rows).with_columns(
            pl.lit("withheld").alias("reason"), pl.lit(detail).alias("detail")
        )
        self._table.quarantine(replace(audited, rejected=withheld), stamp=self._stamp)
        self.quarantined += withheld.height
        self.duplicate += audited.duplicates
        raise RejectedFileError(
            _TOO_MANY, detail, where=contract.name, hint="Correct the file or its mapping, and drop it again."
        )

    def _note_times(self, rows: pl.DataFrame, *, changed: bool) -> None:
        if not rows.height:
            return
        time = pl.col(self._table.contract.time_column or "ts").cast(pl.Datetime("us", "UTC"))
        first, last = rows.select(time.min().alias("first"), time.max().alias("last")).row(0)
        self.first = first if self.first is None else min(self.first, first)
        self.last = last if self.last is None else max(self.last, last)
        if changed:
            self.days |= set(rows.select(time.dt.date()).to_series().unique().to_list())


def _record(lake: Lakehouse, outcome: FileOutcome, stamp: Stamp) -> None:
    values = asdict(outcome)
    values.pop("days")
    values["target"] = values.pop("table")
    row = {**values, "ingested_at": lake.clock().astimezone(UTC), "run_id": stamp.run_id}
    table = lake.table(_FILES)
    schema = {name: dtype for name, dtype in table.contract.polars_schema.items() if name in row}
    table.merge(pl.DataFrame([row], schema=schema), stamp=stamp)


def _only_to_be_moved(lake: Lakehouse, outcome: FileOutcome, path: Path, done: Path) -> bool:
    """Whether a run that published and recorded this very file died before it could move it."""
    if outcome.status != "repeated":
        return False
    known = lake.table(_FILES).scan().filter(pl.col("content_hash") == outcome.content_hash).select("name").collect()
    if known["name"].to_list() != [outcome.name]:
        return False
    there = (done / name for name in (path.name, _other_name(path.name, outcome.content_hash)))
    return not any(each.is_file() and content_hash(each) == outcome.content_hash for each in there)


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
        facts = {key: value for key, value in asdict(outcome).items() if key != "days"}
        text = json.dumps(facts, indent=2, default=str)
        target.with_name(target.name + _REASON_SUFFIX).write_text(text + "\n", encoding="utf-8")
    if has_mapping:
        _link(mapping, sidecar_of(target))
    os.replace(path, target)  # noqa: PTH105 - atomic, and says so
    if has_mapping:
        mapping.unlink()


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
