"""Folders for statements that need more than memory: one each, gone afterwards, also after a killed process."""

from __future__ import annotations

import shutil
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from hfthot_platform.core.files import made_folder
from hfthot_platform.core.locks import file_lock, is_locked

__all__ = ["spill_folder"]

_PREFIX = "sql-"
_LOCK = "owner.lock"
#: A folder without a lock file may be one that is just being made.
_YOUNG_SECONDS = 60.0


@contextmanager
def spill_folder(root: Path) -> Iterator[Path]:
    """Make a folder under `root` for the duration of the block, and remove those whose process is gone.

    Two databases must not share one: DuckDB names its files by their number alone.

    Raises:
        ConfigError: there can be no folder at `root`.
    """
    made_folder(root, "scratch")
    _sweep(root)
    folder = Path(tempfile.mkdtemp(prefix=_PREFIX, dir=root))
    try:
        # The system lets go of it however the process ends, so a lock that is free is a process that is gone.
        with file_lock(folder / _LOCK):
            yield folder / "duckdb"
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _sweep(root: Path) -> None:
    for folder in root.glob(f"{_PREFIX}*"):
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
