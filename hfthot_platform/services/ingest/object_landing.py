"""A landing folder on an object store: files are claimed, fetched, taken in, and moved to `done/` or `rejected/`.

Hosts work on it side by side.  Who takes a file in has a turn for it (`storage.lakehouse.leases`), so that two do not.
A host that died is passed over when its turn was not renewed; one that was only slow publishes what is there already,
which changes nothing.  An object is there whole or not at all, and its etag says whether it is still the one that was
fetched: what was overwritten meanwhile stays, and is taken in as the new file that it is.

What belongs here: claiming, fetching and moving, for files of market data (`ingest_landing_objects`) and of user events
(`users`).  What does not: what becomes of a file's rows (`files`).
"""

from __future__ import annotations

import hashlib
import os
import shutil
import tempfile
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from datetime import datetime
from pathlib import Path
from typing import Final

from hfthot_platform.adapters.files.mapping import FOLDER_MAPPING, SIDECAR_SUFFIX, sidecar_of
from hfthot_platform.adapters.ports import Progress, no_progress
from hfthot_platform.core.errors import (
    LakehouseError,
    LockTimeoutError,
    StorageFullError,
    StorageReadOnlyError,
    StorageUnavailableError,
)
from hfthot_platform.core.files import made_folder
from hfthot_platform.services.ingest import records
from hfthot_platform.services.ingest.files import (
    LONGEST_NAME,
    REASON_SUFFIX,
    OneFile,
    OnOutcome,
    OnUnexpected,
    is_no_candidate,
    other_name,
    reason_of_rejection,
    take_back_unfinished,
    tell_nobody,
)
from hfthot_platform.services.ingest.records import FileOutcome
from hfthot_platform.storage.folders import ObjectFolder, StoredFile
from hfthot_platform.storage.lakehouse import Lakehouse, Stamp
from hfthot_platform.storage.lakehouse.leases import LEASE_SECONDS, Turns

__all__ = ["claimed", "fetched", "ingest_landing_objects", "prefixes_not_read", "remove_unless_overwritten"]
__all__ += ["sweep_fetched", "waiting_objects"]

_CLAIMS: Final = "_claims"
_DONE: Final = "done"
_REJECTED: Final = "rejected"
_USERS: Final = "users"
_FETCHED: Final = "landing-"
#: What a killed process left of fetched files is removed after so long.
_ABANDONED_SECONDS: Final = 3600.0
#: Failures that every other file would meet too.
_LAKE_IS_DOWN: Final = (StorageFullError, StorageReadOnlyError, StorageUnavailableError)


def waiting_objects(landing: ObjectFolder, *, now: datetime, settle_seconds: float) -> list[StoredFile]:
    """Return the objects directly in the landing folder that are candidates and old enough, oldest first.

    Raises:
        StorageUnavailableError: the object store did not answer.
    """
    files, _ = landing.at_the_top()
    ready = [
        file
        for file in files
        if not is_no_candidate(file.name) and (now - file.modified).total_seconds() >= settle_seconds
    ]
    return sorted(ready, key=lambda file: (file.modified, file.name))


def prefixes_not_read(landing: ObjectFolder) -> dict[str, int]:
    """Return the folders within the landing folder that nothing will read, with the number of their objects."""
    _, folders = landing.at_the_top()
    others = (folder for folder in folders if folder not in {_CLAIMS, _DONE, _REJECTED, _USERS} and folder[0] != ".")
    return {folder: len(landing.files(folder)) for folder in others}


@contextmanager
def claimed(landing: ObjectFolder, file: StoredFile, *, lease: float = LEASE_SECONDS) -> Iterator[bool]:
    """Claim a file for the block; yield whether this process has it: no other host does, and it is still the same.

    Args:
        landing: the folder that it lies in.
        file: the file, as it was listed.
        lease: seconds after which a host that does not renew its claim counts as dead.
    """
    # The name may be a person's: claims are named by its hash.
    claim = f"{_CLAIMS}/{hashlib.sha256(f'{file.name} {file.etag}'.encode()).hexdigest()[:32]}"
    with ExitStack() as held:
        try:
            held.enter_context(Turns(landing.store, claim, "landing", lease=lease).turn(timeout=0.0))
        except LockTimeoutError:
            yield False
            return
        found = landing.find(file.name)
        same = found is not None and found.etag == file.etag
        yield same
    if landing.find(file.name) is None:
        # Nobody will ask for it any more.
        landing.remove([left.name for left in landing.files(claim)])


@contextmanager
def fetched(landing: ObjectFolder, file: StoredFile, scratch: Path, name: str | None = None) -> Iterator[Path]:
    """Fetch a file into a private folder of its own for the block, under its name or another.

    Raises:
        FileNotFoundError: it was taken away meanwhile.
    """
    made_folder(scratch, "scratch")
    with tempfile.TemporaryDirectory(prefix=_FETCHED, dir=scratch) as folder:
        path = Path(folder, name or file.name)
        landing.download(file.name, path)
        # Its age is that of the object.
        os.utime(path, (file.modified.timestamp(), file.modified.timestamp()))
        yield path


def sweep_fetched(scratch: Path) -> None:
    """Remove what killed processes left of fetched files: user events are in them in plain text."""
    for folder in scratch.glob(f"{_FETCHED}*") if scratch.is_dir() else ():
        try:
            # The file system's clock, since that is whose time the folder has.
            if time.time() - folder.stat().st_mtime > _ABANDONED_SECONDS:
                shutil.rmtree(folder, ignore_errors=True)
        except FileNotFoundError:
            continue


def ingest_landing_objects(
    lake: Lakehouse,
    landing: ObjectFolder,
    *,
    now: datetime,
    scratch: Path,
    settle_seconds: float = 10.0,
    stamp: Stamp | None = None,
    progress: Progress = no_progress,
    on_outcome: OnOutcome,
    on_unexpected: OnUnexpected,
    lease: float = LEASE_SECONDS,
) -> list[FileOutcome]:
    """Ingest every complete file of a landing folder on an object store, as `files.ingest_landing` does on a disk.

    Files that another host is at work on are left to it.  The same content under the same name, dropped again, is
    removed, since it lies in `done/`.

    Args:
        lake: the lake.
        landing: the folder.
        now: the present time.
        scratch: folder of this host for fetched files, and for what does not fit into memory.
        settle_seconds: for how long an object must have been there.
        stamp: who and why.
        progress: told how far the reading of a file is.
        on_outcome: called with each outcome before its file is moved.
        on_unexpected: called with each error that nobody foresaw; its file is rejected.
        lease: seconds after which a host that does not renew its claim of a file counts as dead.

    Raises:
        StorageUnavailableError: the object store did not answer.
        LakehouseError: a table cannot be written; its files wait, and all others were ingested unless the whole
            lake is at fault.
    """
    lake.expect_new()
    sweep_fetched(scratch)
    take_back_unfinished(lake, stamp or Stamp())
    outcomes: list[FileOutcome] = []
    fault: LakehouseError | None = None
    files, _ = landing.at_the_top()
    mappings = {file.name: file for file in files if file.name.endswith(SIDECAR_SUFFIX) or file.name == FOLDER_MAPPING}
    for file in waiting_objects(landing, now=now, settle_seconds=settle_seconds):
        with claimed(landing, file, lease=lease) as mine:
            if not mine:
                continue
            if len(os.fsencode(file.name)) > LONGEST_NAME:
                outcomes.append(_refuse_name(lake, landing, file, stamp or Stamp(), on_outcome))
                continue
            try:
                with fetched(landing, file, scratch) as path:
                    for name in (f"{file.name}{SIDECAR_SUFFIX}", FOLDER_MAPPING):
                        if name in mappings:
                            landing.download(name, path.with_name(name))
                    one = OneFile(lake, path, stamp or Stamp(), scratch, progress, on_unexpected, follow=False)
                    found = one.ingest()
                    done = found[0].status == "repeated" and _is_recorded_as(lake, found[0], path.name)
                    if done:
                        days = {known.content_hash: known.days for known in records.known_of(lake, found[0].digest)}
                        found = [replace(outcome, days=days[outcome.content_hash]) for outcome in found]
                    outcomes += found
                    for outcome in found:
                        on_outcome(outcome)
                    one.keep_mapping()
                    _file_away(landing, file, path, found, done=done or found[0].status == "published")
            except FileNotFoundError:
                continue  # taken away in the meantime
            except _LAKE_IS_DOWN:
                raise
            except LakehouseError as error:
                error.add_note(f"while ingesting {file.name!r}, which stays in the landing folder")
                fault = fault or error
    if fault is not None:
        raise fault
    return outcomes


def _refuse_name(
    lake: Lakehouse, landing: ObjectFolder, file: StoredFile, stamp: Stamp, on_outcome: OnOutcome
) -> FileOutcome:
    """Reject a file whose name no disk takes; it is not fetched."""
    one = OneFile(lake, Path(file.name), stamp, None, no_progress, tell_nobody, follow=False)
    outcome = replace(
        one.rejected("name_too_long", f"more than {LONGEST_NAME} bytes; rename the file"), bytes=file.size
    )
    records.record(lake, [outcome], stamp)
    on_outcome(outcome)
    target = f"{_REJECTED}/{other_name(file.name, outcome.digest)}"
    landing.put(f"{target}{REASON_SUFFIX}", reason_of_rejection([outcome]).encode())
    landing.copy(file, target, Path(file.name))
    remove_unless_overwritten(landing, file)
    return outcome


def _is_recorded_as(lake: Lakehouse, outcome: FileOutcome, name: str) -> bool:
    """Whether a file of this name and content was taken in before: only its move is left to be done."""
    return {known.name for known in records.known_of(lake, outcome.digest)} == {name}


def _file_away(landing: ObjectFolder, file: StoredFile, path: Path, outcomes: list[FileOutcome], *, done: bool) -> None:
    """Move an object, its mapping beside it, unless it was overwritten meanwhile; never over another content."""
    own = f"{file.name}{SIDECAR_SUFFIX}"
    if outcomes[0].reason == "personal_data":
        landing.copy(file, f"{_USERS}/{_REJECTED}/{outcomes[0].name}", path)
        remove_unless_overwritten(landing, file, own)
        return
    folder = _DONE if done else _REJECTED
    target = f"{folder}/{file.name}"
    there = landing.find(target)
    if there is not None and there.etag != file.etag:
        # A name with the content's hash: what is there under it is the same.
        target = f"{folder}/{other_name(file.name, outcomes[0].digest)}"
        there = landing.find(target)
    if not done:
        landing.put(f"{target}{REASON_SUFFIX}", reason_of_rejection(outcomes).encode())
    if sidecar_of(path).is_file():
        landing.put(f"{target}{SIDECAR_SUFFIX}", sidecar_of(path).read_bytes())
    if there is None or there.etag != file.etag:
        landing.copy(file, target, path)
    remove_unless_overwritten(landing, file, own)


def remove_unless_overwritten(landing: ObjectFolder, file: StoredFile, *beside: str) -> None:
    """Remove a file, and what lies beside it, if it is still the one that was listed."""
    found = landing.find(file.name)
    if found is not None and found.etag == file.etag:
        landing.remove([file.name, *beside])
