"""hfthot_platform: a Dagster-orchestrated lakehouse for a quant research lab.

The public entry points are `LakehouseClient` (accounts, market data, time travel, SQL: all that an application
needs), `Lakehouse` (the versioned, audited tables beneath) and the `hfthot` command line.
Importing this package is cheap: nothing heavy is loaded before it is used.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from hfthot_platform.client import LakehouseClient
    from hfthot_platform.lakehouse import Lakehouse

__all__ = ["Lakehouse", "LakehouseClient", "__version__"]
__version__ = "0.1.0"


def __getattr__(name: str) -> object:
    """Load the public classes on first use, so that `import hfthot_platform` stays in the milliseconds."""
    if name == "Lakehouse":
        from hfthot_platform.lakehouse import Lakehouse

        return Lakehouse
    if name == "LakehouseClient":
        from hfthot_platform.client import LakehouseClient

        return LakehouseClient
    message = f"module {__name__!r} has no attribute {name!r}"
    raise AttributeError(message)
