"""Folders for statements that need more than memory: one each, gone afterwards, also after a killed process."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from hfthot_platform.core.files import made_folder
from hfthot_platform.core.scratch import own_folder

__all__ = ["spill_folder"]


@contextmanager
def spill_folder(root: Path) -> Iterator[Path]:
    """Make a folder under `root` for the duration of the block, and remove those whose process is gone.

    Two databases must not share one: DuckDB names its files by their number alone.

    Raises:
        ConfigError: there can be no folder at `root`.
    """
    made_folder(root, "scratch")
    with own_folder(root, "sql-") as folder:
        yield folder / "duckdb"
