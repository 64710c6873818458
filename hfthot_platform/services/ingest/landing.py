"""The landing folder of the settings, wherever it is: what waits in it, what is not read, and taking it in.

What belongs here: the choice between a folder of this host (`files`) and one on an object store (`object_landing`).
"""

from __future__ import annotations

from datetime import UTC, datetime

from hfthot_platform.adapters.ports import Progress, no_progress
from hfthot_platform.core.settings import Settings
from hfthot_platform.services.ingest.files import (
    OnOutcome,
    OnUnexpected,
    folders_not_read,
    ingest_landing,
    tell_nobody,
    waiting_files,
)
from hfthot_platform.services.ingest.object_landing import ingest_landing_objects, prefixes_not_read, waiting_objects
from hfthot_platform.services.ingest.records import FileOutcome
from hfthot_platform.storage.folders import LocalFolder, StoredFile, landing_folder
from hfthot_platform.storage.lakehouse import Lakehouse, Stamp

__all__ = ["ingest_waiting", "places_not_read", "waiting"]


def waiting(settings: Settings, now: datetime) -> list[StoredFile]:
    """Return the files that wait to be ingested, oldest first.

    Raises:
        StorageUnavailableError: the object store did not answer.
    """
    folder, settle = landing_folder(settings), settings.landing_settle_seconds
    if not isinstance(folder, LocalFolder):
        return waiting_objects(folder, now=now, settle_seconds=settle)
    found = []
    for path in waiting_files(folder.path, now=now, settle_seconds=settle):
        facts = path.lstat()
        modified = datetime.fromtimestamp(facts.st_mtime, UTC)
        found.append(StoredFile(path.name, facts.st_size, modified, str(facts.st_mtime_ns)))
    return found


def places_not_read(settings: Settings) -> dict[str, int]:
    """Return the folders within the landing folder that nothing will read, with the number of their files.

    Raises:
        StorageUnavailableError: the object store did not answer.
    """
    folder = landing_folder(settings)
    if isinstance(folder, LocalFolder):
        return {str(path): files for path, files in folders_not_read(folder.path).items()}
    return {folder.link(name): files for name, files in prefixes_not_read(folder).items()}


def ingest_waiting(
    lake: Lakehouse,
    settings: Settings,
    *,
    now: datetime,
    stamp: Stamp | None = None,
    progress: Progress = no_progress,
    on_outcome: OnOutcome = tell_nobody,
    on_unexpected: OnUnexpected = tell_nobody,
) -> list[FileOutcome]:
    """Ingest every complete file of the landing folder and move it to `done/` or `rejected/`.

    Raises:
        What `ingest_landing` and `ingest_landing_objects` raise.
    """
    folder, settle, scratch = landing_folder(settings), settings.landing_settle_seconds, settings.scratch
    if isinstance(folder, LocalFolder):
        return ingest_landing(
            lake,
            folder.path,
            now=now,
            settle_seconds=settle,
            scratch=scratch,
            stamp=stamp,
            progress=progress,
            on_outcome=on_outcome,
            on_unexpected=on_unexpected,
        )
    return ingest_landing_objects(
        lake,
        folder,
        now=now,
        settle_seconds=settle,
        scratch=scratch,
        stamp=stamp,
        progress=progress,
        on_outcome=on_outcome,
        on_unexpected=on_unexpected,
    )
