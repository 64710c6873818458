"""Print the data dictionary of the platform's own tables and of the SQL models: `make dictionary`."""

from __future__ import annotations

import sys

from hfthot_platform.app.lake import models_folder
from hfthot_platform.core.settings import Settings
from hfthot_platform.domain.contracts import CONTRACTS
from hfthot_platform.domain.contracts.dictionary import dictionary
from hfthot_platform.domain.contracts.views import VIEWS
from hfthot_platform.services.sql.models import load_models

__all__ = ["whole_dictionary"]


def whole_dictionary() -> str:
    """Return the page, with the models of the repository.

    Raises:
        SqlModelsError: a model file has a mistake.
    """
    # What the repository holds, whatever this machine's settings say.
    models = load_models(models_folder(Settings.model_construct()))
    return dictionary({**CONTRACTS, **models.contracts}, {**VIEWS, **models.views})


if __name__ == "__main__":
    sys.stdout.write(whole_dictionary())
