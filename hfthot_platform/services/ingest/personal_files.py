"""Files with personal data, wherever they were dropped: how they are told, and where they are kept.

What belongs here: what files of market data and files of user events share.  What does not: reading either
(`files`, `users`).
"""

from __future__ import annotations

import io
import os
import re
import time
from collections.abc import Iterable
from pathlib import Path
from typing import Final

import polars as pl

from hfthot_platform.adapters.files.adapter import FileProbe, probe_members
from hfthot_platform.core.files import tighten

__all__ = ["REJECTED", "holds_personal_data", "keep_for_some_days", "put_into_rejected"]

#: The folder, within that of user events, of files that could not be taken in.
REJECTED: Final = "rejected"
#: Parquet within an archive is unpacked for its names of columns, up to this many packed bytes.
_LARGEST_IN_MEMORY: Final = 16 * 1024 * 1024
#: Names of fields that market data never has.
_PERSONAL_FIELDS: Final = frozenset(
    ("event_id", "username", "user_name", "email", "e_mail", "first_name", "last_name", "password", "phone")
)


def holds_personal_data(path: Path) -> bool:
    """Return whether a file has fields of persons, by the names of its fields alone.

    Market data has none: such a file is one of user events, or of accounts, that was dropped in the wrong place.
    """
    found = (name.strip().strip('"').lower() for probe in probe_members(path) for name in _field_names(probe))
    return not _PERSONAL_FIELDS.isdisjoint(found)


def _field_names(probe: FileProbe) -> Iterable[str]:
    if probe.container == "parquet":
        if probe.route and probe.size > _LARGEST_IN_MEMORY:
            return ()  # its columns must be those of a market table, or it is refused anyway
        try:
            with probe.open() as payload:
                return pl.read_parquet_schema(io.BytesIO(payload.read()) if probe.route else probe.path)
        except (pl.exceptions.PolarsError, OSError):
            return ()
    first = next((line for line in probe.lines if line.strip()), "")
    if first.lstrip().startswith(("{", "[")):
        # The names of an object's fields, however the rest of it reads.
        return re.findall(r'"(\w+)"\s*:', probe.head.decode("utf-8", "replace"))
    return re.split(r"[,;\t|]", first)


def put_into_rejected(path: Path, folder: Path, name: str) -> None:
    """Move a file with personal data to `rejected/` of the folder of user events, where it stays for a week."""
    folder.mkdir(mode=0o700, exist_ok=True)
    keep_for_some_days(path, folder / REJECTED, name)


def keep_for_some_days(path: Path, folder: Path, name: str) -> None:
    """Move a file to a folder that nobody else may read; how long it stays there counts from now on."""
    folder.mkdir(mode=0o700, exist_ok=True)
    tighten(folder)
    target = folder / name
    os.replace(path, target)  # noqa: PTH105 - atomic, and says so
    if not target.is_symlink():
        # It is kept for some days from now on.
        os.utime(target, (time.time(), time.time()))
