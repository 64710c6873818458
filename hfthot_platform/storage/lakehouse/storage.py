"""Where tables are: a local folder or an object store, and what its failures mean.

Nothing above this module knows whether the lake is on a disk or on S3; what only a local disk can do (fsync,
file locks, listing of leftovers) is asked for through `local`.
"""

from __future__ import annotations

import errno
import json
import os
import re
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from urllib.parse import unquote, urlparse

from deltalake.exceptions import CommitFailedError, DeltaError, TableNotFoundError

from hfthot_platform.core.errors import (
    ConfigError,
    DamagedTableError,
    HfthotError,
    LakehouseError,
    StorageFullError,
    StorageReadOnlyError,
    StorageUnavailableError,
    UnsupportedTableError,
    nearest,
)
from hfthot_platform.domain.contracts import TableContract

__all__ = [
    "Storage",
    "damaged",
    "fsync_files",
    "has_data",
    "log_fault",
    "log_is_hollow",
    "set_log_aside",
    "translated",
]

_FULL = re.compile(r"no space left|disk quota exceeded|file too large|os error (?:27|28|122)\b", re.IGNORECASE)
_READ_ONLY = re.compile(r"read-only file system|permission denied|os error (?:1|13|30)\b", re.IGNORECASE)
_REMOTE = re.compile(
    r"error sending request|connection refused|dns error|operation timed out|generic (?:s3|gcs|microsoftazure) error"
    r"|<code>\w+</code>|(?:client|server) error|http error|metadata endpoint",
    re.IGNORECASE,
)
_NO_OBJECT = re.compile(r"nosuchkey|object at location", re.IGNORECASE)
_REMOTE_CODE = re.compile(r"<Code>(\w+)</Code>|status:? (\d{3})")
_UNSUPPORTED = re.compile(r"column mapping|(?:reader|table) features?", re.IGNORECASE)
_DAMAGES = (
    (re.compile(r"not found|no such file|no data in file", re.IGNORECASE), "is missing"),
    (re.compile(r"json error|expected value|truncated record", re.IGNORECASE), "is not readable JSON"),
    (re.compile(r"contiguous|no table metadata", re.IGNORECASE), "is missing from the log or stands before a gap"),
    (re.compile(r"parquet|thrift|snappy|arrow error|unexpected eof|corrupt", re.IGNORECASE), "is not readable"),
)
#: Characters that some route takes for an escape, a part of a URL, a pattern, or a partition; or that nobody sees.
_MISREAD = re.compile(r"[%#?*\[\]=\x00-\x1f\x7f]")
#: The object stores that the Delta library knows.
_SCHEMES = frozenset({"s3", "s3a", "gs", "az", "azure", "adl", "abfs", "abfss"})
_FILE = re.compile(r"(?:[\w.=%-]+/)?[\w.=%-]+\.(?:parquet|json)\b")
#: The leading words of a message of the Delta library; what follows them may quote data.
_KIND = re.compile(r"[A-Z][A-Za-z ]{2,40}(?=:)")


@dataclass(frozen=True)
class Storage:
    """Root of the lake and the options of its object store (credentials stay out of `repr`)."""

    root: str
    options: Mapping[str, str] = field(default_factory=dict, repr=False)

    @classmethod
    def parse(cls, root: str | Path, options: Mapping[str, str] | None = None) -> Storage:
        """Return the storage of a path, a `file://` URL or an object-store URL."""
        text = str(root)
        url = urlparse(text)
        if url.scheme == "file":
            text = unquote(url.path)
        elif len(url.scheme) > 1:  # one letter would be a Windows drive
            if not url.netloc:
                raise ConfigError(
                    f"the URL {text!r} names no bucket", where="lake root", hint="Write s3://bucket/path."
                )
            if url.scheme not in _SCHEMES:
                raise ConfigError(
                    f"there is no object store of the kind {url.scheme!r}",
                    where="lake root",
                    hint=nearest(url.scheme, _SCHEMES)
                    or f"Write a folder, or a URL that begins with one of {', '.join(sorted(_SCHEMES))}.",
                )
            return cls(text.rstrip("/"), dict(options or {}))
        path = os.path.abspath(os.path.realpath(os.path.expanduser(text)))  # noqa: PTH100, PTH111 - these never raise
        if odd := _MISREAD.search(path):
            raise ConfigError(
                f"the folder {path!r} has {odd.group(0)!r} in its name, which Delta readers take for something else",
                where="lake root",
                hint="Choose a folder without any of % # ? * [ ] =.",
            )
        return cls(path, dict(options or {}))

    @property
    def local(self) -> Path | None:
        """Return the root as a path, or None on an object store."""
        return None if "://" in self.root else Path(self.root)

    def uri(self, contract: TableContract) -> str:
        """Return where a table is."""
        return "/".join((self.root, *contract.parts))

    def location(self, contract: TableContract) -> str:
        """Return the same as a URL for the Delta library, which takes a bare path apart at `%`, `#` and `?`."""
        uri = self.uri(contract)
        return uri if self.local is None else Path(uri).as_uri()

    def local_table(self, contract: TableContract) -> Path | None:
        """Return a table's folder, or None on an object store."""
        return self.local.joinpath(*contract.parts) if self.local else None

    def lock_file(self, contract: TableContract) -> Path | None:
        """Return the writers' lock file of a table, or None on an object store."""
        return self.local / "_locks" / f"{contract.name}.lock" if self.local else None


def fsync_files(table: Path, added: Iterable[str], log_entry: Path) -> None:
    """Make a commit durable: data files, the log entry, and the directories that name them.

    delta-rs never calls fsync; a commit is acknowledged to our callers only after this.
    """
    files = [table / unquote(path) for path in added]
    directories = {file.parent for file in files}
    # New partition folders are themselves entries of the table's folder.
    directories |= {table, log_entry.parent, table.parent, table.parent.parent}
    for path in (*files, log_entry, *sorted(directories)):
        try:
            handle = os.open(path, os.O_RDONLY)
        except FileNotFoundError:
            # Compaction or another replace may have tombstoned it and maintenance removed it meanwhile.
            continue
        try:
            os.fsync(handle)
        finally:
            os.close(handle)


@contextmanager
def translated(table: str) -> Iterator[None]:
    """Turn failures of the Delta library into typed errors that say what still stands and what to do.

    Its messages can preview rows and quote credentials: none is passed on.  Conflicts and "there is no table"
    pass through; our own errors do too.
    """
    try:
        yield
    except HfthotError:
        raise
    except TableNotFoundError as error:
        # "Does not exist or you don't have access": the second is not an empty table.
        if _READ_ONLY.search(str(error)):
            raise _meaning(table, error) or _refused(table, error) from None
        raise
    except (OSError, DeltaError, ValueError) as error:
        known = _meaning(table, error)
        if known is None and isinstance(error, CommitFailedError):
            raise
        raise known or _refused(table, error) from None


def _meaning(table: str, error: Exception) -> LakehouseError | None:
    """Return the typed error that a message of the Delta library stands for, None if it is not known."""
    text = str(error)
    number = error.errno if isinstance(error, OSError) else None
    if number in {errno.ENOSPC, errno.EDQUOT, errno.EFBIG} or _FULL.search(text):
        return StorageFullError(
            "no room left on the device; nothing was published and the previous version still stands",
            where=table,
            hint="Free space or run `hfthot maintain`, then run the same step again.",
        )
    if _REMOTE.search(text) and not _NO_OBJECT.search(text):
        said = _REMOTE_CODE.search(text)
        detail = f" ({said.group(1) or 'status ' + said.group(2)})" if said else ""
        return StorageUnavailableError(
            f"the object store did not answer or refused{detail}; what was published before still stands",
            where=table,
            hint="Check endpoint, bucket, region and credentials in HFTHOT_STORAGE_OPTIONS, then run the step again.",
        )
    if number in {errno.EROFS, errno.EACCES, errno.EPERM} or _READ_ONLY.search(text):
        return StorageReadOnlyError(
            "the table's folder cannot be written or read; nothing was published and the previous version still stands",
            where=table,
            hint="Check owner, mode and mount of the lake's folder, then run the same step again.",
        )
    if isinstance(error, CommitFailedError):
        return None
    if _UNSUPPORTED.search(text):
        return UnsupportedTableError(
            "the table uses a Delta feature that cannot be read here (column mapping or another reader feature)",
            where=table,
            hint="Rewrite it without that feature.",
        )
    for pattern, meaning in _DAMAGES:
        if pattern.search(text):
            found = _FILE.search(text)
            return damaged(table, found.group(0) if found else "a file of the table", meaning)
    return None


def damaged(table: str, name: str, meaning: str, intact: int | None = None) -> DamagedTableError:
    """Return the error for a file at fault; `intact` is the newest version that does not need it."""
    if intact is None:
        way = f"`hfthot doctor` lists what is intact, `hfthot restore {table} VERSION` goes back to it"
    else:
        way = f"`hfthot restore {table} {intact}` goes back to the newest intact version"
    return DamagedTableError(
        f"file at fault: {name} {meaning}", where=table, hint=f"Copy the file back from a backup, or {way}."
    )


def _refused(table: str, error: Exception) -> LakehouseError:
    kind = _KIND.match(str(error))
    said = f"{type(error).__name__}: {kind.group(0)}" if kind else type(error).__name__
    return LakehouseError(
        f"the Delta library refused the operation ({said}); nothing was published",
        where=table,
        hint="Its message is withheld because it can quote rows. Run `hfthot doctor`, then the same step again.",
    )


def log_fault(folder: Path) -> tuple[str, str, int] | None:
    """Return the first unusable file of a local table's log that its newest version needs, or None.

    Returns:
        Name of the file, what is wrong with it, and the newest version that the rest of the log makes up (-1 if
        none).
    """
    entries, checkpoints = _log(folder / "_delta_log")
    broken = {
        version: next(p for p in parts if not _opens(p))
        for version, parts in checkpoints.items()
        if not all(map(_opens, parts))
    }
    start = max((version for version in checkpoints if version not in broken), default=-1)
    newest = max((*entries, start))
    found = None
    for version in range(start + 1, newest + 1):
        if meaning := _entry_fault(entries.get(version)):
            found = (f"_delta_log/{version:020d}.json", meaning, version - 1)
            break
    for version, path in sorted(broken.items()):
        if version > start and (found is None or version > found[2]):
            # Without the checkpoint the entries before it would do, had they all been kept.
            return f"_delta_log/{path.name}", "is not readable Parquet", newest if found is None else found[2]
    return found


def _entry_fault(path: Path | None) -> str | None:
    if path is None:
        return "is missing"
    try:
        lines = [line for line in path.read_bytes().splitlines() if line.strip()]
        return None if lines and all(isinstance(json.loads(line), dict) for line in lines) else "holds no commit"
    except ValueError:
        return "is not readable JSON"


def log_is_hollow(folder: Path) -> bool:
    """Whether an entry of the log has no bytes: the Delta library takes such a one for an empty commit.

    It is what a power failure can leave of a commit that was never acknowledged.
    """
    entries, checkpoints = _log(folder / "_delta_log")
    start = max(checkpoints, default=-1)
    return any(path.stat().st_size == 0 for version, path in entries.items() if version > start)


def has_data(folder: Path) -> bool:
    """Whether a table's folder holds anything that only a table with a log can have."""
    log = folder / "_delta_log"
    return any(log.glob("0*")) or any(folder.rglob("*.parquet"))


def set_log_aside(folder: Path, after: int, to: Path) -> None:
    """Move log entries and checkpoints past a version, and unreadable checkpoints, out of a table's log.

    Nothing is deleted: what is in `to` can be examined or put back.
    """
    log = folder / "_delta_log"
    entries, checkpoints = _log(log)
    doomed = [path for version, path in entries.items() if version > after]
    for version, parts in checkpoints.items():
        if version > after or not all(_opens(each) for each in parts):
            doomed += parts
    if doomed or (log / "_last_checkpoint").exists():
        to.mkdir(parents=True, exist_ok=True)
    # The newest go first: until the last one is gone the log stays as broken as it was, never newly wrong.
    for path in sorted(doomed, reverse=True):
        path.rename(to / path.name)
    hint = log / "_last_checkpoint"
    if hint.exists():
        hint.rename(to / hint.name)  # only a hint; without it the log is listed


def _log(log: Path) -> tuple[dict[int, Path], dict[int, list[Path]]]:
    """Return the commit entries and the checkpoints of a log by version."""
    entries: dict[int, Path] = {}
    checkpoints: dict[int, list[Path]] = {}
    for path in log.iterdir() if log.is_dir() else ():
        if path.name.endswith(".json") and path.stem.isdigit():
            entries[int(path.stem)] = path
        elif path.name.endswith(".parquet") and ".checkpoint" in path.name and path.name[:20].isdigit():
            checkpoints.setdefault(int(path.name[:20]), []).append(path)
    return entries, checkpoints


def _opens(path: Path) -> bool:
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        pq.read_table(path)
    except (OSError, pa.ArrowException):
        return False
    return True
