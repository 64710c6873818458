"""The lake as the platform knows it: the tables of its contracts, and those of the SQL models."""

from __future__ import annotations

from collections.abc import Callable
from datetime import datetime
from pathlib import Path
from typing import Final

from hfthot_platform.contracts import CONTRACTS
from hfthot_platform.contracts.views import VIEWS
from hfthot_platform.lakehouse import Lakehouse
from hfthot_platform.lakehouse.lake import utc_now
from hfthot_platform.settings import Settings
from hfthot_platform.sql.models.loader import read_models
from hfthot_platform.sql.models.model import Models

__all__ = ["models_folder", "models_of", "open_lake"]

_REPOSITORY: Final = Path(__file__).resolve().parents[3]


def models_folder(settings: Settings) -> Path:
    """Return the folder of models; a relative one is looked for in the working folder, then in the repository."""
    folder = settings.sql_models
    return folder if folder.is_absolute() or folder.is_dir() else _REPOSITORY / folder


def models_of(settings: Settings) -> Models:
    """Read the models that the settings name; mistakes are in the result, not raised."""
    return read_models(models_folder(settings))


def open_lake(
    settings: Settings, clock: Callable[[], datetime] = utc_now, *, models: Models | None = None
) -> Lakehouse:
    """Open the lake with the platform's tables and views, and those of the SQL models.

    A model whose file has a mistake is left out, so that one broken file keeps nobody from the other tables;
    `Models.require_sound` is for those who run the models.

    Args:
        settings: where the lake and the models are.
        clock: tells the time.
        models: the models, where they were read already.
    """
    models = models_of(settings) if models is None else models
    return Lakehouse.open(
        settings.lake_root,
        settings.plain_storage_options(),
        clock=clock,
        contracts={**CONTRACTS, **models.contracts},
        views={**VIEWS, **models.views},
    )
