"""The lake as the platform knows it: the tables of its contracts, and those of the SQL models."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from datetime import datetime
from functools import lru_cache
from pathlib import Path
from typing import Final

from hfthot_platform.core.settings import Settings
from hfthot_platform.domain.contracts import CONTRACTS
from hfthot_platform.domain.contracts.views import VIEWS
from hfthot_platform.services.sql.models.loader import model_files, read_models
from hfthot_platform.services.sql.models.model import Models
from hfthot_platform.storage.lakehouse import Lakehouse
from hfthot_platform.storage.lakehouse.file_cache import FileCache
from hfthot_platform.storage.lakehouse.storage import Storage

__all__ = ["models_folder", "models_of", "open_lake"]

_REPOSITORY: Final = Path(__file__).resolve().parents[2]


def models_folder(settings: Settings) -> Path:
    """Return the folder of models; a relative one is looked for in the working folder, then in the repository."""
    folder = settings.sql_models
    return folder if folder.is_absolute() or folder.is_dir() else _REPOSITORY / folder


def models_of(settings: Settings) -> Models:
    """Read the models that the settings name; mistakes are in the result, not raised.

    Files whose content this process has read before are not analysed again.
    """
    folder = models_folder(settings)
    return _read(folder, tuple((path, _digest(path)) for path in model_files(folder)))


def _digest(path: Path) -> bytes | int | None:
    """Return what tells a file's content from others; of what cannot be read (a mistake to be told) the reason."""
    try:
        return hashlib.sha256(path.read_bytes()).digest()
    except OSError as error:
        return error.errno


@lru_cache(maxsize=4)
def _read(folder: Path, files: tuple[tuple[Path, bytes | int | None], ...]) -> Models:
    del files  # they tell this state of the folder from others
    return read_models(folder)


def open_lake(
    storage: Storage,
    clock: Callable[[], datetime],
    models: Models,
    *,
    new: bool = False,
    file_cache: FileCache | None = None,
) -> Lakehouse:
    """Open the lake with the platform's tables and views, and those of the SQL models.

    A model whose file has a mistake is left out, so that one broken file keeps nobody from the other tables;
    `Models.require_sound` is for those who run the models.

    Args:
        storage: where the lake is.
        clock: tells the time.
        models: the SQL models.
        new: whether a lake that is not there yet reads as an empty one.
        file_cache: where data files of an object store are kept for the SQL gateway.
    """
    return Lakehouse(
        storage,
        clock,
        contracts={**CONTRACTS, **models.contracts},
        views={**VIEWS, **models.views},
        new=new,
        file_cache=file_cache,
    )
