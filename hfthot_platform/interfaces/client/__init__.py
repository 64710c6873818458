"""`LakehouseClient`: the one object that an application needs.

`lakehouse_client` is what applications call.  Beside it: `arguments` checks what they pass, `market` reads one symbol,
`versions` finds the versions that touched one, `personal` decrypts rows of the user tables.  What an account is and
may do is decided in `accounts`, what a table is in `lakehouse`; here the two meet.
"""

from hfthot_platform.interfaces.client.lakehouse_client import LakehouseClient, settings_of_folder
from hfthot_platform.interfaces.client.market import Market, MarketQuery
from hfthot_platform.interfaces.client.versions import SymbolVersion, Version

__all__ = ["LakehouseClient", "Market", "MarketQuery", "SymbolVersion", "Version", "settings_of_folder"]
