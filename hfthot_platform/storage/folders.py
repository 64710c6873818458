"""Folders of whole files that are not tables: on a disk of this host, or on an object store that all hosts reach.

What belongs here: exports, certificates, reports and the landing folder need the same few things of either place.  What
does not: what the files are, tables (`lakehouse`), and the API of object stores itself (`objects`).
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO, Final, cast
from urllib.parse import quote, urlsplit

from hfthot_platform.core.errors import BadRequestError, StorageUnavailableError
from hfthot_platform.core.files import made_folder, sync_folder, tighten, write_whole
from hfthot_platform.core.settings import Location, Settings
from hfthot_platform.storage.objects import create_object, open_store, read_object, store_errors

if TYPE_CHECKING:
    from obstore.store import ObjectStore

__all__ = [
    "LocalFolder",
    "ObjectFolder",
    "StoredFile",
    "StoredFolder",
    "certificates_folder",
    "exports_folder",
    "folder_at",
]
__all__ += ["folder_on_this_host", "landing_folder", "reports_folder"]

#: Objects up to this size are put by one request; larger ones in parts.
_PART_BYTES: Final = 32 * 1024 * 1024
#: What S3 copies at once.
_COPIED_BYTES: Final = 5_000_000_000
_TYPES: Final = {".html": "text/html; charset=utf-8", ".png": "image/png", ".svg": "image/svg+xml"}


@dataclass(frozen=True, order=True)
class StoredFile:
    """A file of a folder, as a listing shows it."""

    #: Below the folder, its parts joined by `/`.
    name: str
    size: int
    #: By the clock of the disk or of the object store.
    modified: datetime
    #: Changes with the content.
    etag: str


class LocalFolder:
    """A folder on a disk of this host.

    Args:
        path: where it is; made by the first file.
        setting: name of the setting that names it, for messages.
        private: whether it and its files are their owner's alone.
    """

    def __init__(self, path: Path, setting: str, *, private: bool) -> None:
        self.path = path.absolute()
        self.location = str(self.path)
        self._setting = setting
        self._private = private

    def put(self, name: str, content: bytes | BinaryIO) -> None:
        """Write a file, in the place of what is there."""
        path = self._made(name)
        write_whole(path, _bytes_of(content), private=self._private)

    def create(self, name: str, content: bytes) -> bool:
        """Write a file if there is none of its name; return whether this call wrote it."""
        path = self._made(name)
        if path.exists():
            return False
        part = path.with_name(f".{path.name}.{os.getpid()}.part")
        write_whole(part, content, private=self._private)
        try:
            os.link(part, path)
        except FileExistsError:
            return False
        finally:
            part.unlink()
        sync_folder(path.parent)
        return True

    def read(self, name: str) -> bytes | None:
        """Return a file's content, None if there is none."""
        try:
            return self._path(name).read_bytes()
        except FileNotFoundError:
            return None

    def has(self, name: str) -> bool:
        """Return whether there is a file of this name."""
        return self._path(name).is_file()

    def files(self, below: str = "") -> list[StoredFile]:
        """Return the files below a folder of it, in order of name; none that begins with a dot."""
        found = []
        top = self._path(below) if below else self.path
        for place, folders, names in os.walk(top):
            folders[:] = [folder for folder in folders if not folder.startswith(".")]
            for name in names:
                path = Path(place, name)
                with suppress(FileNotFoundError):  # taken away since
                    facts = path.stat()
                    if not name.startswith("."):
                        shown = path.relative_to(self.path).as_posix()
                        modified = datetime.fromtimestamp(facts.st_mtime, UTC)
                        etag = f"{facts.st_ino}-{facts.st_size}-{facts.st_mtime_ns}"
                        found.append(StoredFile(shown, facts.st_size, modified, etag))
        return sorted(found)

    def remove(self, names: Iterable[str]) -> None:
        """Remove files; one that is not there is none to remove."""
        parents = set()
        for name in names:
            path = self._path(name)
            path.unlink(missing_ok=True)
            parents.add(path.parent)
        for parent in parents:
            if parent.is_dir():
                sync_folder(parent)

    def link(self, name: str) -> str:
        """Return where a person finds a file."""
        return str(self._path(name).resolve())

    def _path(self, name: str) -> Path:
        return self.path.joinpath(*_parts(name))

    def _made(self, name: str) -> Path:
        made_folder(self.path, self._setting, private=self._private)
        path = self._path(name)
        path.parent.mkdir(mode=0o700 if self._private else 0o777, parents=True, exist_ok=True)
        if self._private and path.parent != self.path:
            tighten(path.parent)
        return path


class ObjectFolder:
    """What is below a URL of an object store.

    Args:
        url: such as `s3://bucket/exports`.
        options: of the object store, by the names that the Delta library takes.
        setting: name of the setting that names it, for messages.
        shown: the address below which a browser reads it, None where only programs do.
    """

    def __init__(self, url: str, options: Mapping[str, str], setting: str, shown: str | None = None) -> None:
        self.url = url.rstrip("/")
        parts = urlsplit(self.url)
        #: The URL without credentials.
        self.location = parts._replace(netloc=parts.netloc.rpartition("@")[2], query="", fragment="").geturl()
        self._options = options
        self._setting = setting
        self._shown = shown
        self._opened: ObjectStore | None = None

    @property
    def store(self) -> ObjectStore:
        """Return the objects below the URL, for what only an object store can do."""
        if self._opened is None:
            self._opened = open_store(self.url, self._options)
        return self._opened

    def put(self, name: str, content: bytes | BinaryIO) -> None:
        """Write an object, in the place of what is there; readers see the old one or the new one."""
        import obstore

        kind = _TYPES.get(Path(name).suffix)
        attributes: Any = {"Content-Type": kind} if kind else None
        with self._answering():
            obstore.put(
                self.store, "/".join(_parts(name)), cast("Any", content), attributes=attributes, chunk_size=_PART_BYTES
            )

    def create(self, name: str, content: bytes) -> bool:
        """Write an object if there is none of its name; return whether this call wrote it."""
        with self._answering():
            return create_object(self.store, "/".join(_parts(name)), content)

    def read(self, name: str) -> bytes | None:
        """Return an object's content, None if there is none."""
        with self._answering():
            return read_object(self.store, "/".join(_parts(name)))

    def has(self, name: str) -> bool:
        """Return whether there is an object of this name."""
        return self.find(name) is not None

    def below(self, name: str) -> ObjectFolder:
        """Return a folder in it."""
        return ObjectFolder(f"{self.url}/{'/'.join(_parts(name))}", self._options, self._setting, self._shown)

    def files(self, below: str = "") -> list[StoredFile]:
        """Return the objects below a folder of it, in order of name."""
        import obstore

        prefix = "/".join(_parts(below)) + "/" if below else None
        with self._answering():
            found = [meta for page in obstore.list(self.store, prefix) for meta in page]
        return sorted(
            StoredFile(meta["path"], meta["size"], meta["last_modified"], meta["e_tag"] or "") for meta in found
        )

    def at_the_top(self) -> tuple[list[StoredFile], list[str]]:
        """Return the objects directly in it, and the names of the folders directly in it."""
        import obstore

        with self._answering():
            found = obstore.list_with_delimiter(self.store)
        files = sorted(
            StoredFile(meta["path"], meta["size"], meta["last_modified"], meta["e_tag"] or "")
            for meta in found["objects"]
        )
        return files, sorted(found["common_prefixes"])

    def find(self, name: str) -> StoredFile | None:
        """Return an object as a listing shows it, None if there is none."""
        import obstore

        try:
            with self._answering():
                meta = obstore.head(self.store, "/".join(_parts(name)))
        except FileNotFoundError:
            return None
        return StoredFile(name, meta["size"], meta["last_modified"], meta["e_tag"] or "")

    def copy(self, file: StoredFile, name: str, content: Path) -> None:
        """Copy an object to another name, in the place of what is there.

        Args:
            file: the object.
            name: the other name.
            content: the same content on this host: a store copies objects up to some size alone.
        """
        import obstore

        if file.size > _COPIED_BYTES:
            with content.open("rb") as opened:
                self.put(name, opened)
            return
        with self._answering():
            obstore.copy(self.store, file.name, "/".join(_parts(name)))

    def remove(self, names: Iterable[str]) -> None:
        """Remove objects; one that is not there is none to remove."""
        import obstore

        gone = ["/".join(_parts(name)) for name in names]
        if gone:
            with self._answering(), suppress(FileNotFoundError):
                obstore.delete(self.store, gone)

    def link(self, name: str) -> str:
        """Return where a person finds an object: below the address for browsers, where there is one."""
        if self._shown is None:
            return f"{self.location}/{name}"
        return f"{self._shown.rstrip('/')}/{quote(name)}"

    def download(self, name: str, path: Path) -> None:
        """Write an object's content to a new file, with mode 0600.

        Raises:
            FileNotFoundError: there is no such object.
        """
        import obstore

        handle = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
        with os.fdopen(handle, "wb") as file, self._answering():
            for block in obstore.get(self.store, "/".join(_parts(name))).stream(min_chunk_size=1 << 20):
                file.write(block)

    @contextmanager
    def _answering(self) -> Iterator[None]:
        try:
            with store_errors():
                yield
        except FileNotFoundError:
            raise
        except OSError as error:
            if error.errno is not None:  # of this host's disk
                raise
            raise StorageUnavailableError(
                "the object store did not answer, or refused the request",
                where=f"setting {self._setting!r}: {self.location}",
                hint="Check the endpoint, bucket, region and credentials in HFTHOT_STORAGE_OPTIONS, then try again.",
            ) from None


StoredFolder = LocalFolder | ObjectFolder


def folder_at(
    location: Location,
    options: Mapping[str, str],
    setting: str,
    *,
    private: bool = False,
    shown: str | None = None,
) -> StoredFolder:
    """Return the folder at a path or an object-store URL; nothing is made or contacted yet.

    Args:
        location: a path of this host, or a URL.
        options: of the object store.
        setting: name of the setting that names it.
        private: whether a local one is its owner's alone.
        shown: the address below which a browser reads what is on the object store.
    """
    if isinstance(location, str) and "://" in location:
        return ObjectFolder(location, options, setting, shown)
    return LocalFolder(Path(location), setting, private=private)


def exports_folder(settings: Settings) -> StoredFolder:
    """Return where exported personal data is."""
    return folder_at(settings.exports, settings.plain_storage_options(), "exports", private=True)


def certificates_folder(settings: Settings) -> StoredFolder:
    """Return where erasure certificates are, and what is kept beside them."""
    return folder_at(settings.certificates, settings.plain_storage_options(), "certificates", private=True)


def landing_folder(settings: Settings) -> StoredFolder:
    """Return where files to ingest are dropped."""
    return folder_at(settings.landing, settings.plain_storage_options(), "landing")


def reports_folder(settings: Settings) -> StoredFolder:
    """Return where result pages and pictures are: `put` one, and show its `link`.

    Example:
        >>> reports = reports_folder(settings)
        >>> reports.put("2026-12-01/regimes.png", picture)
        >>> reports.link("2026-12-01/regimes.png")
        's3://bucket/reports/2026-12-01/regimes.png'
    """
    place = settings.scratch.parent / "reports" if settings.reports is None else settings.reports
    return folder_at(place, settings.plain_storage_options(), "reports", shown=settings.reports_url)


def folder_on_this_host(location: Location, setting: str) -> Path:
    """Return a location as a path.

    Raises:
        BadRequestError: it is on an object store.
    """
    if isinstance(location, str) and "://" in location:
        raise BadRequestError(
            f"{location} is on an object store",
            where=f"setting {setting!r}",
            hint="This is done on folders of this host alone.",
        )
    return Path(location)


def _parts(name: str) -> tuple[str, ...]:
    """Return the parts of a name that stays below its folder."""
    parts = tuple(name.split("/"))
    if any(part in {"", ".", ".."} for part in parts):
        raise BadRequestError(f"the file name {name!r} leads out of its folder", where="file name")
    return parts


def _bytes_of(content: bytes | BinaryIO) -> bytes:
    return content if isinstance(content, bytes) else content.read()
