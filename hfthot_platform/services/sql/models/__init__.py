"""SQL models: plain files that become tested, documented tables and views of the lake.

`header` and `statement` take a file apart, `loader` binds all of them and derives their contracts, `checks` are
their tests, `runner` computes and publishes, `docs` writes pages.  `hfthot_platform.app.lake` opens the lake with them.
"""

from hfthot_platform.services.sql.models.checks import ModelTest, TestOutcome
from hfthot_platform.services.sql.models.header import Header, Mistake
from hfthot_platform.services.sql.models.loader import load_models, read_models
from hfthot_platform.services.sql.models.model import DisabledModel, Models, SqlModel

__all__ = [
    "DisabledModel",
    "Header",
    "Mistake",
    "ModelTest",
    "Models",
    "SqlModel",
    "TestOutcome",
    "load_models",
    "read_models",
]
