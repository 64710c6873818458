"""Folders that live as long as the process that made them: gone afterwards, also where it was killed.

What belongs here: making and sweeping them.  What does not: what lies in them.
"""

from __future__ import annotations

import shutil
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final

from hfthot_platform.core.locks import file_lock, is_locked

__all__ = ["own_folder"]

_LOCK: Final = "owner.lock"
#: A folder without a lock file may be one that is just being made.
_YOUNG_SECONDS: Final = 60.0


@contextmanager
def own_folder(root: Path, prefix: str) -> Iterator[Path]:
    """Make a folder under `root` for the duration of the block, and remove those whose process is gone.

    Args:
        root: a folder that is there.
        prefix: what the names of all folders of this kind begin with, and no others do.
    """
    _sweep(root, prefix)
    folder = Path(tempfile.mkdtemp(prefix=prefix, dir=root))
    try:
        # The system lets go of it however the process ends, so a lock that is free is a process that is gone.
        with file_lock(folder / _LOCK):
            yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _sweep(root: Path, prefix: str) -> None:
    for folder in root.glob(f"{prefix}*"):
        try:
            abandoned = not is_locked(folder / _LOCK)
        except FileNotFoundError:
            abandoned = _age(folder) > _YOUNG_SECONDS
        except OSError:
            continue  # another user's
        if abandoned:
            shutil.rmtree(folder, ignore_errors=True)


def _age(folder: Path) -> float:
    try:
        return time.time() - folder.stat().st_mtime
    except FileNotFoundError:
        return 0.0
