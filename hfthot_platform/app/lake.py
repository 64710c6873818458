"""The lake as the platform knows it: the tables of its contracts, and those of the SQL models."""

from __future__ import annotations

from collections.abc import Callable
from datetime import datetime
from functools import lru_cache
from pathlib import Path
from typing import Final

from hfthot_platform.core.settings import Settings
from hfthot_platform.core.time import utc_now
from hfthot_platform.domain.contracts import CONTRACTS
from hfthot_platform.domain.contracts.views import VIEWS
from hfthot_platform.services.sql.models.loader import model_files, read_models
from hfthot_platform.services.sql.models.model import Models
from hfthot_platform.storage.lakehouse import Lakehouse

__all__ = ["models_folder", "models_of", "open_lake"]

_REPOSITORY: Final = Path(__file__).resolve().parents[2]


def models_folder(settings: Settings) -> Path:
    """Return the folder of models; a relative one is looked for in the working folder, then in the repository."""
    folder = settings.sql_models
    return folder if folder.is_absolute() or folder.is_dir() else _REPOSITORY / folder


def models_of(settings: Settings) -> Models:
    """Read the models that the settings name; mistakes are in the result, not raised.

    Files that are as they were when this process last read them are not read again.
    """
    folder = models_folder(settings)
    # Of links their own state: a dangling one is a mistake to be told, as any other.
    stats = ((path, path.lstat(), path.exists() and path.stat()) for path in model_files(folder))
    return _read(
        folder,
        tuple((path, own.st_mtime_ns, (to.st_mtime_ns, to.st_size) if to else None) for path, own, to in stats),
    )


@lru_cache(maxsize=4)
def _read(folder: Path, files: tuple[tuple[Path, int, tuple[int, int] | None], ...]) -> Models:
    del files  # they tell this state of the folder from others
    return read_models(folder)


def open_lake(
    settings: Settings, clock: Callable[[], datetime] = utc_now, *, models: Models | None = None, new: bool = False
) -> Lakehouse:
    """Open the lake with the platform's tables and views, and those of the SQL models.

    A model whose file has a mistake is left out, so that one broken file keeps nobody from the other tables;
    `Models.require_sound` is for those who run the models.

    Args:
        settings: where the lake and the models are.
        clock: tells the time.
        models: the models, where they were read already.
        new: whether a lake that is not there yet reads as an empty one.
    """
    models = models_of(settings) if models is None else models
    return Lakehouse.open(
        settings.lake_root,
        settings.plain_storage_options(),
        clock=clock,
        contracts={**CONTRACTS, **models.contracts},
        views={**VIEWS, **models.views},
        new=new,
    )
