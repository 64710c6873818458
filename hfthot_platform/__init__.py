"""hfthot_platform: a Dagster-orchestrated lakehouse for a quant research lab.

The public entry points are `LakehouseClient` (accounts, market data, time travel, SQL: all that an application
needs), `Lakehouse` (the versioned, audited tables beneath), `Installation` (everything that an installation is put
together from), `errors`, `hfthot_platform.research`, and the `hfthot` command line.
Importing this package is cheap: nothing heavy is loaded before it is used.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from hfthot_platform.core.version import __version__

if TYPE_CHECKING:
    from hfthot_platform.app.installation import Installation
    from hfthot_platform.core import errors
    from hfthot_platform.interfaces.client import LakehouseClient
    from hfthot_platform.storage.lakehouse import Lakehouse

__all__ = ["Installation", "Lakehouse", "LakehouseClient", "__version__", "errors"]

_PUBLIC = {
    "Installation": "app.installation",
    "Lakehouse": "storage.lakehouse",
    "LakehouseClient": "interfaces.client",
    "errors": "core.errors",
}


def __getattr__(name: str) -> object:
    """Load the public classes on first use, so that `import hfthot_platform` stays in the milliseconds."""
    if place := _PUBLIC.get(name):
        from importlib import import_module

        module = import_module(f"{__name__}.{place}")
        return module if name == "errors" else getattr(module, name)
    message = f"module {__name__!r} has no attribute {name!r}"
    raise AttributeError(message)
