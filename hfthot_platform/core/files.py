"""Files that are whole or not there, that survive a power cut, and that are their owner's alone.

What belongs here: writing, syncing and protecting files and folders of any content.  What does not: locks (`locks`),
and what is in the files.
"""

from __future__ import annotations

import contextlib
import os
import secrets
import stat
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO

from hfthot_platform.core.errors import ConfigError

__all__ = [
    "create_private",
    "made_folder",
    "open_private",
    "replacing",
    "sync_file",
    "sync_folder",
    "tighten",
    "write_whole",
]


def write_whole(path: Path, data: bytes | str, *, private: bool = False, alone: bool = False) -> None:
    """Replace a file as a whole: a reader, also one after a power cut, finds the old content or the new one.

    Args:
        path: the file; its folder must be there.
        data: the new content; a text is written as UTF-8.
        private: whether it is its owner's alone (mode 0600).
        alone: as for `replacing`.

    Raises:
        OSError: it cannot be written; what was there before still is.
    """
    with replacing(path, private=private, alone=alone) as file:
        file.write(data.encode() if isinstance(data, str) else data)


@contextlib.contextmanager
def replacing(path: Path, *, private: bool = False, alone: bool = False) -> Iterator[BinaryIO]:
    """Yield a file to write to that takes the place of `path` when the block ends, and is on the disk then.

    It is next to `path`, under a name that begins with a dot and ends with `.part`.  If the block raises, it is
    removed, and `path` is as before.

    Args:
        path: the file; its folder must be there.
        private: whether it is its owner's alone (mode 0600).
        alone: whether a lock of the caller's keeps all other writers of this file out; then what a writer that was
            killed left behind is removed.

    Raises:
        OSError: it cannot be written; what was there before still is.
    """
    part = path.with_name(f".{path.name if alone else secrets.token_hex(8)}.part")
    if alone:
        part.unlink(missing_ok=True)
    handle = os.open(part, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600 if private else 0o666)
    try:
        with os.fdopen(handle, "wb") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        part.replace(path)
    except BaseException:
        part.unlink(missing_ok=True)
        raise
    sync_folder(path.parent)


def sync_file(what: Path | int) -> None:
    """Return when the content of a file, or of what is open as a handle, is on the disk.

    Raises:
        OSError: it is not there, or the disk failed.
    """
    if isinstance(what, int):
        os.fsync(what)
    else:
        _sync(what, os.O_RDONLY)


def sync_folder(folder: Path) -> None:
    """Return when a folder's entries are on the disk: what was created, renamed or removed in it.

    Raises:
        OSError: it is not there, or is not a folder, or the disk failed.
    """
    _sync(folder, os.O_RDONLY | os.O_DIRECTORY)


def made_folder(folder: Path, setting: str, *, private: bool = False) -> Path:
    """Make the folder that a setting names if it is not there, and return it.

    Args:
        folder: the folder; those above it are made too.
        setting: name of the setting, for the message.
        private: whether a new one is its owner's alone (mode 0700).

    Raises:
        ConfigError: a file is in its place or above it, or it cannot be made.
    """
    try:
        folder.mkdir(mode=0o700 if private else 0o777, parents=True, exist_ok=True)
    except (FileExistsError, NotADirectoryError):
        raise ConfigError(
            f"the {setting} folder {folder} is not a folder",
            where=f"setting {setting!r}",
            hint=f"Move the file away, or set HFTHOT_{setting.upper()} to a folder.",
        ) from None
    except OSError as error:
        raise ConfigError(
            f"the {setting} folder {folder} cannot be created ({error.strerror})",
            where=f"setting {setting!r}",
            hint=f"Check its permissions and the free disk space, or set HFTHOT_{setting.upper()} to another folder.",
        ) from None
    return folder


def create_private(path: Path) -> int:
    """Return a handle to a new file for reading and writing, with mode 0600.

    Raises:
        FileExistsError: there is something at this place, be it a link to nowhere.
        OSError: it cannot be made.
    """
    return os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)


def open_private(path: Path) -> int:
    """Return a handle to a file for reading and writing, which is made where there is none, with mode 0600.

    Raises:
        OSError: it cannot be made or opened.
    """
    handle = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    # Whoever may open a lock may hold it: one that is left open to others is closed to them.
    tighten(handle)
    return handle


def tighten(what: Path | int) -> None:
    """Take everybody else's rights on a file or folder away, where it is ours; of another's `doctor` tells."""
    facts = os.stat(what)  # noqa: PTH116 - a handle too
    wanted = stat.S_IMODE(facts.st_mode) & 0o700
    if stat.S_IMODE(facts.st_mode) != wanted and facts.st_uid == os.geteuid():
        os.chmod(what, wanted)  # noqa: PTH101 - a handle too


def _sync(path: Path, flags: int) -> None:
    handle = os.open(path, flags | os.O_CLOEXEC)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
