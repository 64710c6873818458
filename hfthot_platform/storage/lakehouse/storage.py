"""Where the lake is, a local folder or an object store, and what the failures of its storage mean.

What can be done with the files of a table in either place is in `backends`.
"""

from __future__ import annotations

import errno
import os
import re
from collections.abc import Collection, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from urllib.parse import unquote, urlparse

import polars as pl
from deltalake.exceptions import CommitFailedError, DeltaError, TableNotFoundError

from hfthot_platform.core.errors import (
    ConfigError,
    DamagedTableError,
    HfthotError,
    LakehouseError,
    StorageFullError,
    StorageReadOnlyError,
    StorageUnavailableError,
    StorageUnsafeError,
    UnsupportedTableError,
    nearest,
)
from hfthot_platform.domain.contracts import TableContract
from hfthot_platform.storage.objects import creates_only_once, keeps_versions, open_store, store_errors, store_time

__all__ = ["Storage", "damaged", "translated"]

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
    (re.compile(r"contiguous|no table metadata", re.IGNORECASE), "is missing from the log or precedes a gap"),
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
    #: Root of the user tables, where it is another one.
    users_root: str | None = None

    @classmethod
    def parse(
        cls,
        root: str | Path,
        options: Mapping[str, str] | None = None,
        users_root: str | Path | None = None,
    ) -> Storage:
        """Return the storage of a path, a `file://` URL or an object-store URL.

        Args:
            root: of the lake.
            options: of the object store.
            users_root: of the user tables, if it is another one; both are folders, or both on the object store.

        Raises:
            ConfigError: a root names no place, or the two are not apart.
        """
        if users_root is not None:
            lake, users = cls.parse(root, options), cls.parse(users_root, options)
            if (lake.local is None) != (users.local is None):
                raise ConfigError(
                    "one of lake and user tables is on this host, the other one on an object store",
                    where="setting 'users_root'",
                    hint="Put both on the object store, or both on this host.",
                )
            if lake.root == users.root or f"{users.root}/".startswith(f"{lake.root}/"):
                raise ConfigError(
                    "the root of the user tables is inside the lake",
                    where="setting 'users_root'",
                    hint="Choose a folder or prefix beside lake_root.",
                )
            return cls(lake.root, lake.options, users.root)
        text = str(root)
        url = urlparse(text)
        if url.scheme == "file":
            text = unquote(url.path)
        elif len(url.scheme) > 1:  # one letter would be a Windows drive
            if not url.netloc:
                raise ConfigError(
                    f"the URL {text!r} does not name a bucket", where="lake root", hint="Write s3://bucket/path."
                )
            if url.scheme not in _SCHEMES:
                raise ConfigError(
                    f"object stores of the kind {url.scheme!r} are not supported",
                    where="lake root",
                    hint=nearest(url.scheme, _SCHEMES)
                    or f"Write a folder, or a URL that begins with one of {', '.join(sorted(_SCHEMES))}.",
                )
            return cls(text.rstrip("/"), dict(options or {}))
        path = os.path.abspath(os.path.realpath(os.path.expanduser(text)))  # noqa: PTH100, PTH111 - these never raise
        if odd := _MISREAD.search(path):
            raise ConfigError(
                f"the folder {path!r} has {odd.group(0)!r} in its name, which Delta readers misinterpret",
                where="lake root",
                hint="Choose a folder whose name has none of % # ? * [ ] =.",
            )
        return cls(path, dict(options or {}))

    @property
    def local(self) -> Path | None:
        """Return the root as a path, or None on an object store."""
        return None if "://" in self.root else Path(self.root)

    @property
    def opens_by_path(self) -> bool:
        """Return whether any engine opens data files by their paths; on an object store only those with its options."""
        return self.local is not None

    def root_of(self, parts: tuple[str, ...]) -> str:
        """Return the root below which a table of this name is: user tables alone have a name of one part."""
        return self.root if self.users_root is None or len(parts) > 1 else self.users_root

    @property
    def users(self) -> Storage:
        """Return the storage of the user tables as if it were a lake of its own."""
        return self if self.users_root is None else Storage(self.users_root, self.options)

    def uri(self, contract: TableContract) -> str:
        """Return where a table is."""
        return "/".join((self.root_of(contract.parts), *contract.parts))

    def location(self, contract: TableContract) -> str:
        """Return the same as a URL for the Delta library, which takes a bare path apart at `%`, `#` and `?`."""
        uri = self.uri(contract)
        return uri if self.local is None else Path(uri).as_uri()

    def local_table(self, contract: TableContract) -> Path | None:
        """Return a table's folder, or None on an object store."""
        return Path(self.root_of(contract.parts)).joinpath(*contract.parts) if self.local else None

    def lock_file(self, contract: TableContract) -> Path | None:
        """Return the writers' lock file of a table, or None on an object store."""
        root = Path(self.root_of(contract.parts))
        return root / "_locks" / f"{contract.name}.lock" if self.local else None

    def require_safe(self) -> None:
        """Check that an object store lets only one writer create an object; three requests, and none on a disk.

        Raises:
            StorageUnsafeError: it overwrites what is there.
            StorageUnavailableError: it did not answer.
        """
        if self.local is not None:
            return
        with translated("lake"):
            safe = creates_only_once(open_store(self.root, self.options), "_probe")
        if not safe:
            raise StorageUnsafeError(
                "the object store overwrote an object that it was asked only to create (If-None-Match)",
                where=self.root,
                hint="Commits of two writers would be lost without a trace. Use a store with conditional put, or "
                "switch it on.",
            )

    def server_time(self) -> datetime | None:
        """Return what the object store's clock says, to the second; None for a folder of this host.

        Raises:
            StorageUnavailableError: it did not answer.
        """
        if self.local is not None:
            return None
        with translated("lake"):
            return store_time(open_store(self.root, self.options), "_probe")

    def keeps_versions(self) -> bool:
        """Return whether the object store keeps versions of objects that are deleted; two requests, none on a disk.

        Raises:
            StorageUnavailableError: it did not answer.
        """
        if self.local is not None:
            return False
        with translated("lake"):
            return keeps_versions(open_store(self.root, self.options), "_probe")

    def folders_of_tables(self, parents: Collection[tuple[str, ...]]) -> set[tuple[str, ...]]:
        """Return which folders there are below some folders, each as its parts below the root."""
        if self.local is not None:
            return {
                (*parent, path.name)
                for parent in parents
                if (folder := Path(self.root_of((*parent, "")), *parent)).is_dir()
                for path in folder.iterdir()
            }
        import obstore

        roots = {root: open_store(root, self.options) for root in {self.root, self.users.root}}
        with translated("lake"), store_errors():
            listed = {
                parent: obstore.list_with_delimiter(
                    roots[self.root_of((*parent, ""))], "".join(f"{part}/" for part in parent)
                )
                for parent in parents
            }
        return {
            (*parent, prefix.rpartition("/")[2])
            for parent, found in listed.items()
            for prefix in found["common_prefixes"]
        }


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
    except pl.exceptions.PolarsError as error:
        # Of a data file that could not be written; what cannot be read is looked into by whoever reads.
        if known := _meaning(table, error):
            raise known from None
        raise
    except BaseException as error:
        # The Delta library ends with an error that no `except Exception` catches.
        if type(error).__name__ != "PanicException" or not str(error).startswith("Forked process"):
            raise
        raise StorageUnavailableError(
            "the process was forked after tables were opened, and the Delta library works in the parent alone",
            where=table,
            hint="Start workers with `spawn` or `forkserver`, or fork before the first table is opened.",
        ) from None


def _meaning(table: str, error: Exception) -> LakehouseError | None:
    """Return the typed error that a message of the Delta library stands for, None if it is not known."""
    text = str(error)
    number = error.errno if isinstance(error, OSError) else None
    if number in {errno.ENOSPC, errno.EDQUOT, errno.EFBIG} or _FULL.search(text):
        return StorageFullError(
            "the device is full; nothing was published and the previous version is unchanged",
            where=table,
            hint="Free space or run `hfthot maintain`, then run the same step again.",
        )
    if _REMOTE.search(text) and not _NO_OBJECT.search(text):
        said = _REMOTE_CODE.search(text)
        detail = f" ({said.group(1) or 'status ' + said.group(2)})" if said else ""
        return StorageUnavailableError(
            f"the object store did not answer or refused the request{detail}; published versions are unchanged",
            where=table,
            hint="Check the endpoint, bucket, region and credentials in HFTHOT_STORAGE_OPTIONS, then run the "
            "same step again.",
        )
    if number in {errno.EROFS, errno.EACCES, errno.EPERM} or _READ_ONLY.search(text):
        return StorageReadOnlyError(
            "the table's folder cannot be read or written; nothing was published and the previous version is unchanged",
            where=table,
            hint="Check the owner, mode and mount of the lake's folder, then run the same step again.",
        )
    if isinstance(error, CommitFailedError):
        return None
    if _UNSUPPORTED.search(text):
        return UnsupportedTableError(
            "the table uses a Delta feature that cannot be read here (column mapping or another reader feature)",
            where=table,
            hint="Rewrite the table without that feature.",
        )
    for pattern, meaning in _DAMAGES:
        if pattern.search(text):
            found = _FILE.search(text)
            return damaged(table, found.group(0) if found else "a file of the table", meaning)
    return None


def damaged(table: str, name: str, meaning: str, intact: int | None = None) -> DamagedTableError:
    """Return the error for a file at fault; `intact` is the newest version that does not need it."""
    if intact is None:
        way = (
            f"run `hfthot doctor` to find the newest intact version and `hfthot restore {table} VERSION` to "
            "go back to it"
        )
    else:
        way = f"run `hfthot restore {table} {intact}` to go back to the newest intact version"
    return DamagedTableError(
        f"file at fault: {name} {meaning}", where=table, hint=f"Restore the file from a backup, or {way}."
    )


def _refused(table: str, error: Exception) -> LakehouseError:
    kind = _KIND.match(str(error))
    said = f"{type(error).__name__}: {kind.group(0)}" if kind else type(error).__name__
    return LakehouseError(
        f"the Delta library refused the operation ({said}); nothing was published",
        where=table,
        hint="Its message is withheld because it can quote rows. Run `hfthot doctor`, then run the same step again.",
    )
