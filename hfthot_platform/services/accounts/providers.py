"""Data providers whose keys people leave with us: their names and limits.  Imports nothing heavy.

What becomes of a key is in `credentials`, what counts its use in `quotas`.
"""

from __future__ import annotations

import re
from datetime import timedelta
from typing import Final

from hfthot_platform.domain.access.plans import Limit

__all__ = ["OWN", "PROVIDERS", "PROVIDER_NAME"]

PROVIDER_NAME: Final = re.compile(r"[a-z][a-z0-9_]{0,39}")
#: What stands before the keyed hash of the name that a person gave a provider outside of the list.
OWN: Final = "own_"

_MINUTE, _HOUR, _WHOLE_DAY = timedelta(minutes=1), timedelta(hours=1), timedelta(days=1)

#: Data providers and what their free plans allow, as they publish it; a key of a larger plan brings its own limit
#: (`queries_limit` in `save_api_keys`).
PROVIDERS: Final[dict[str, Limit]] = {
    "alpha_vantage": Limit(25, _WHOLE_DAY),
    "binance": Limit(6000, _MINUTE),  # request weight per address
    "bitfinex": Limit(30, _MINUTE),  # the strictest of its public endpoints' 10 to 90
    "coinbase": Limit(600, _MINUTE),  # 10 per second
    "coingecko": Limit(30, _MINUTE),
    "eodhd": Limit(20, _WHOLE_DAY),
    "financial_modeling_prep": Limit(250, _WHOLE_DAY),
    "finnhub": Limit(60, _MINUTE),
    "fred": Limit(120, _MINUTE),
    "kraken": Limit(60, _MINUTE),  # 1 per second
    "nasdaq_data_link": Limit(50_000, _WHOLE_DAY),
    "polygon": Limit(5, _MINUTE),
    "tiingo": Limit(50, _HOUR),
    "twelve_data": Limit(800, _WHOLE_DAY),
}
