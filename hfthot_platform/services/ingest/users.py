"""Files of user events: taken in from a folder of their own, recorded under a name that says nothing, not kept.

Such files hold personal data in clear, and so may their names.  They belong in `<landing>/users`; a file is recorded
in `ops.ingest_files` by its content, as `user_events-<hash>`, and deleted as soon as it was taken in, or after
`user_file_days`.  A file that cannot be read is moved to `rejected/`, under the same kind of name, and deleted after
that many days or a week, whichever is longer.  What a deletion leaves on the disk's blocks is the file system's.

A file with events of accounts that are not known stays, and is looked at again, until it is `user_event_wait_hours`
old; then they are rejected.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterable
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Final, Literal

import polars as pl

from hfthot_platform.core.errors import BadRequestError, ClockError, RejectedFileError
from hfthot_platform.core.settings import Settings
from hfthot_platform.core.time import DAY, SECOND
from hfthot_platform.services.accounts.accounts import Accounts
from hfthot_platform.services.ingest.files import waiting_files
from hfthot_platform.services.ingest.object_landing import (
    claimed,
    fetched,
    remove_unless_overwritten,
    sweep_fetched,
    waiting_objects,
)
from hfthot_platform.services.ingest.personal_files import REJECTED, keep_for_some_days
from hfthot_platform.services.ingest.user_events import EventsReport, ingest_user_events
from hfthot_platform.storage.folders import LocalFolder, ObjectFolder, landing_folder
from hfthot_platform.storage.lakehouse import Lakehouse, Stamp, check_clock
from hfthot_platform.storage.lakehouse.locks import writers_lock

__all__ = ["UserFile", "ingest_user_files", "ingest_user_landing", "sweep_user_files", "waiting_user_files"]

_FILES: Final = "ops.ingest_files"
_DONE: Final = "done"
#: Days for which a file that could not be read stays at least, for whoever looks into it.
_REJECTED_DAYS: Final = 7


@dataclass(frozen=True)
class UserFile:
    """What became of a file; nothing here says whose events they were."""

    name: str
    status: Literal["published", "waiting", "rejected"]
    reason: str | None = None
    report: EventsReport | None = None


def waiting_user_files(settings: Settings, now: datetime) -> list[str]:
    """Return the files in `<landing>/users` that are complete as far as one can tell, oldest first.

    They are told by size and content (etag, inode, time of change), not by their names, which may be a person's.

    Raises:
        StorageUnavailableError: the object store did not answer.
    """
    users, settle = _users(settings), settings.landing_settle_seconds
    if isinstance(users, ObjectFolder):
        return [f"{file.size} {file.etag}" for file in waiting_objects(users, now=now, settle_seconds=settle)]
    facts = (path.lstat() for path in waiting_files(users, now=now, settle_seconds=settle))
    return [f"{status.st_size} {status.st_ino} {status.st_mtime_ns}" for status in facts]


def ingest_user_files(
    paths: Iterable[Path], accounts: Accounts, lake: Lakehouse, *, stamp: Stamp | None = None
) -> list[UserFile]:
    """Take files in where they are; nothing is moved or deleted, and nothing waits.

    Raises:
        BadRequestError: the file does not exist.
        StoreError, LakehouseError: the store or the lake failed; doing it again goes on where it ended.
    """
    lake.expect_new()
    outcomes = []
    for path in paths:
        if not path.is_file():
            raise BadRequestError("there is no such file", where="user events", hint="Check the path.")
        outcomes.append(_ingest_file(path, accounts, lake, stamp or Stamp(), wait=False))
    return outcomes


def ingest_user_landing(accounts: Accounts, lake: Lakehouse, *, stamp: Stamp | None = None) -> list[UserFile]:
    """Take in every complete file of the folder, and delete what has been kept long enough.

    Under a clock that leapt ahead nothing is deleted for its age, and a file whose accounts are not known goes on
    waiting.

    Raises:
        LockTimeoutError: another process works on this folder for longer than two minutes.
        StoreError, LakehouseError: the store or the lake failed; the remaining files wait.
    """
    settings, now = accounts.settings, accounts.clock()
    users = _users(settings)
    if isinstance(users, ObjectFolder):
        return _ingest_user_objects(users, accounts, lake, stamp or Stamp())
    folder = users
    if not folder.is_dir():
        return []
    lake.expect_new()
    outcomes = []
    with writers_lock(folder / ".users.lock", exclusive=True):
        trusted = False
        with suppress(ClockError):
            # The daily retention tells of it.
            _require_clock(lake, accounts)
            _sweep_kept(settings, now)
            trusted = True
        for path in waiting_files(folder, now=now, settle_seconds=settings.landing_settle_seconds):
            try:
                age = now.timestamp() - path.lstat().st_ctime
            except FileNotFoundError:
                continue  # taken away since
            wait = not trusted or age < timedelta(hours=settings.user_event_wait_hours).total_seconds()
            outcome = _ingest_file(path, accounts, lake, stamp or Stamp(), wait=wait, follow=False)
            outcomes.append(outcome)
            if outcome.status == "rejected":
                keep_for_some_days(path, folder / REJECTED, outcome.name)
            elif outcome.status == "published" and settings.user_file_days:
                keep_for_some_days(path, folder / _DONE, outcome.name)
            elif outcome.status == "published":
                path.unlink(missing_ok=True)
    return outcomes


def sweep_user_files(settings: Settings, lake: Lakehouse, accounts: Accounts | None, now: datetime) -> int:
    """Delete files of user events that have been kept long enough, whether or not new ones come; return how many.

    Market files with personal data are put there too, also where there are no accounts.

    Raises:
        ClockError: the clock leapt ahead, so nothing was deleted.
        LockTimeoutError: another process works on this folder for longer than two minutes.
    """
    users = _users(settings)
    if isinstance(users, ObjectFolder):
        sweep_fetched(settings.scratch)
        _require_clock(lake, accounts)
        return _sweep_kept(settings, now)
    folder = users
    if not folder.is_dir():
        return 0
    _require_clock(lake, accounts)
    with writers_lock(folder / ".users.lock", exclusive=True):
        return _sweep_kept(settings, now)


def _ingest_user_objects(users: ObjectFolder, accounts: Accounts, lake: Lakehouse, stamp: Stamp) -> list[UserFile]:
    """Take in every complete file of a folder on an object store; hosts do it side by side, each file once."""
    settings, now = accounts.settings, accounts.clock()
    lake.expect_new()
    sweep_fetched(settings.scratch)
    trusted = False
    with suppress(ClockError):
        # The daily retention tells of it.
        _require_clock(lake, accounts)
        _sweep_kept(settings, now)
        trusted = True
    outcomes = []
    for file in waiting_objects(users, now=now, settle_seconds=settings.landing_settle_seconds):
        wait = not trusted or now - file.modified < timedelta(hours=settings.user_event_wait_hours)
        # Its name may be a person's, and is not written to this host's disk.
        unnamed = f"events{suffix if (suffix := Path(file.name).suffix)[1:].isalnum() and len(suffix) < 10 else ''}"
        with claimed(users, file) as mine, suppress(FileNotFoundError):
            if not mine:
                continue
            with fetched(users, file, settings.scratch, unnamed) as path:
                outcome = _ingest_file(path, accounts, lake, stamp, wait=wait, follow=False)
                outcomes.append(outcome)
                if outcome.status == "rejected":
                    users.copy(file, f"{REJECTED}/{outcome.name}", path)
                elif outcome.status == "published" and settings.user_file_days:
                    users.copy(file, f"{_DONE}/{outcome.name}", path)
                if outcome.status != "waiting":
                    remove_unless_overwritten(users, file)
    return outcomes


def _users(settings: Settings) -> Path | ObjectFolder:
    """Return the folder of files of user events."""
    landing = landing_folder(settings)
    return landing.path / "users" if isinstance(landing, LocalFolder) else landing.below("users")


def _require_clock(lake: Lakehouse, accounts: Accounts | None) -> None:
    check_clock(lake)
    if accounts is not None:
        accounts.store.check_clock()


def _sweep_kept(settings: Settings, now: datetime) -> int:
    users = _users(settings)
    gone = 0
    for kept, days in ((_DONE, settings.user_file_days), (REJECTED, max(settings.user_file_days, _REJECTED_DAYS))):
        if isinstance(users, ObjectFolder):
            old = [file.name for file in users.files(kept) if now - file.modified >= timedelta(days=days)]
            users.remove(old)
            gone += len(old)
        else:
            gone += _delete_older(users / kept, now, days)
    return gone


def _ingest_file(
    path: Path, accounts: Accounts, lake: Lakehouse, stamp: Stamp, *, wait: bool, follow: bool = True
) -> UserFile:
    try:
        if path.is_symlink() and not follow:
            raise RejectedFileError("symbolic_link", "symbolic links are not followed; drop the file itself")
        report = ingest_user_events(path, accounts, lake, wait=wait, stamp=stamp)
    except RejectedFileError as error:
        return _record_rejected(path, lake, stamp, error.reason, error.what)
    except OSError as error:
        # The system's message names the file, and its name may be a person's.
        return _record_rejected(path, lake, stamp, "unreadable", os.strerror(error.errno or 0))
    name = _name_by_content(report.content_hash)
    if report.waiting:
        return UserFile(name, "waiting", "unknown_account", report)
    outcome = UserFile(name, "published", None, report)
    _record_file(lake, outcome, report.content_hash, report.bytes, stamp)
    return outcome


def _record_rejected(path: Path, lake: Lakehouse, stamp: Stamp, reason: str, detail: str) -> UserFile:
    facts = path.lstat()
    try:
        with path.open("rb") as file:
            digest = hashlib.file_digest(file, "sha256").hexdigest()
    except OSError:
        # What cannot be read is known by where it is on the disk.
        digest = hashlib.sha256(f"{facts.st_dev} {facts.st_ino} {facts.st_mtime_ns}".encode()).hexdigest()
    outcome = UserFile(_name_by_content(digest), "rejected", reason)
    _record_file(lake, outcome, digest, facts.st_size, stamp, detail=detail)
    return outcome


def _name_by_content(digest: str) -> str:
    return f"user_events-{digest[:16]}"


def _record_file(
    lake: Lakehouse, outcome: UserFile, digest: str, size: int, stamp: Stamp, *, detail: str | None = None
) -> None:
    """Record a file in `ops.ingest_files`; a file that comes again adds what was applied this time."""
    table = lake.table(_FILES)
    report = outcome.report
    known = table.scan().filter(pl.col("content_hash") == digest).collect()
    before = int(known["rows_published"].sum())
    read, rejected = (report.read, report.rejected) if report else (0, 0)
    published = min(before + report.applied, read - rejected) if report else 0
    row = {
        "content_hash": digest,
        "name": outcome.name,
        "bytes": size,
        "adapter": f"user_events:{report.format}" if report else None,
        "status": outcome.status,
        "reason": outcome.reason,
        "detail": detail,
        "target": "users" if report else None,
        "rows_read": read,
        "rows_published": published,
        "rows_duplicate": read - published - rejected,
        "rows_quarantined": rejected,
        "first_ts": report.first_at if report else None,
        "last_ts": report.last_at if report else None,
        "ingested_at": lake.clock().astimezone(UTC),
        "run_id": stamp.run_id,
    }
    schema = {name: dtype for name, dtype in table.contract.polars_schema.items() if name in row}
    table.merge(pl.DataFrame([row], schema=schema), stamp=stamp)


def _delete_older(folder: Path, now: datetime, days: int) -> int:
    """Delete what has been in a folder for so many days; return how much that was."""
    if not folder.is_dir():
        return 0
    old = [path for path in folder.iterdir() if now.timestamp() - path.lstat().st_mtime >= days * DAY / SECOND]
    for path in old:
        path.unlink(missing_ok=True)
    return len(old)
