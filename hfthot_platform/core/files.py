"""Files and folders that are their owner's alone, also where an older version left them open to others."""

from __future__ import annotations

import os
import stat
from pathlib import Path

__all__ = ["open_private", "tighten"]


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
