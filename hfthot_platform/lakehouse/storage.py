"""Where tables are: a local folder or an object store, and what its failures mean.

Nothing above this module knows whether the lake is on a disk or on S3; what only a local disk can do (fsync,
file locks, listing of leftovers) is asked for through `local`.
"""

from __future__ import annotations

import errno
import os
import re
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from urllib.parse import unquote, urlparse

from deltalake.exceptions import CommitFailedError, DeltaError, TableNotFoundError

from hfthot_platform.contracts import TableContract
from hfthot_platform.errors import (
    ConfigError,
    DamagedTableError,
    LakehouseError,
    StorageFullError,
    StorageReadOnlyError,
)

__all__ = ["Storage", "fsync_files", "translated"]

_FULL = re.compile(r"no space left|disk quota exceeded|file too large|os error (?:27|28|122)\b", re.IGNORECASE)
_READ_ONLY = re.compile(r"read-only file system|permission denied|os error (?:1|13|30)\b", re.IGNORECASE)
_MISSING = re.compile(r"(?:[^\s'\":]*/)?[^\s'\":/]+\.(?:parquet|json)")


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
            return cls(text.rstrip("/"), dict(options or {}))
        return cls(str(Path(text).expanduser().resolve()), dict(options or {}))

    @property
    def local(self) -> Path | None:
        """Return the root as a path, or None on an object store."""
        return None if "://" in self.root else Path(self.root)

    def uri(self, contract: TableContract) -> str:
        """Return where a table is."""
        return f"{self.root}/{contract.namespace}/{contract.table}"

    def local_table(self, contract: TableContract) -> Path | None:
        """Return a table's folder, or None on an object store."""
        return self.local / contract.namespace / contract.table if self.local else None

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
    directories |= {table, log_entry.parent, table.parent}
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
    """Turn storage failures into typed errors that say what still stands and what to do.

    Messages of the Delta writer can preview rejected rows, so they are never passed on whole.
    """
    try:
        yield
    except (CommitFailedError, TableNotFoundError):
        raise
    except LakehouseError:
        raise
    except OSError as error:
        if error.errno in {errno.ENOSPC, errno.EDQUOT, errno.EFBIG}:
            raise _full(table) from None
        if error.errno in {errno.EROFS, errno.EACCES, errno.EPERM}:
            raise _read_only(table) from None
        text = str(error)
        if _FULL.search(text):
            raise _full(table) from None
        if _READ_ONLY.search(text):
            raise _read_only(table) from None
        raise _damaged(table, text) from None
    except (DeltaError, ValueError) as error:
        text = str(error)
        if _FULL.search(text):
            raise _full(table) from None
        if _READ_ONLY.search(text):
            raise _read_only(table) from None
        raise _damaged(table, text) from None


def _full(table: str) -> StorageFullError:
    return StorageFullError(
        "no room left on the device; nothing was published and the previous version still stands",
        where=table,
        hint="Free space or run `hfthot maintain`, then run the same step again.",
    )


def _read_only(table: str) -> StorageReadOnlyError:
    return StorageReadOnlyError(
        "the table's folder cannot be written; nothing was published and the previous version still stands",
        where=table,
        hint="Check owner, mode and mount of the lake's folder, then run the same step again.",
    )


def _damaged(table: str, text: str) -> DamagedTableError:
    first = text.strip().splitlines()[0][:300] if text.strip() else "unreadable"
    found = _MISSING.search(text)
    at = f"file at fault: {found.group(0)}; " if found else ""
    return DamagedTableError(
        f"{at}{first}",
        where=table,
        hint=f"`hfthot doctor` lists what is intact; `hfthot restore {table} VERSION` goes back to an intact version.",
    )
