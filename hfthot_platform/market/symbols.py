"""Canonical names of venues and symbols.

A symbol is `BASE-QUOTE` for spot, `BASE-QUOTE-PERP` for a perpetual, `BASE-QUOTE-YYMMDD` for a dated future,
and the ticker for an equity.  A venue is one order book system: Binance's spot, USD-M and COIN-M markets
are three (`binance`, `binance_usdm`, `binance_coinm`).  Vendors' spellings are translated here and nowhere
else.
"""

from __future__ import annotations

import re
from typing import Final

from hfthot_platform.errors import BadRequestError

__all__ = ["from_concatenated", "from_pair"]

# Longest first: FDUSD before USD.  The order decides how a concatenated pair is split.
_QUOTES: Final = (
    *("FDUSD", "USDT", "USDC", "BUSD", "TUSD", "USDP", "USD1", "BIDR", "DAI", "USD", "EUR", "GBP", "TRY", "BRL"),
    *("JPY", "AUD", "PLN", "RUB", "UAH", "ZAR", "BTC", "ETH", "BNB", "XRP", "TRX", "DOGE"),
)
_DATED: Final = re.compile(r"\d{6}")


def from_pair(base: str, quote: str, suffix: str = "") -> str:
    """Return the canonical symbol of a base, a quote and an optional suffix (`PERP` or `YYMMDD`)."""
    parts = [base.upper(), quote.upper(), *([suffix.upper()] if suffix else [])]
    return "-".join(parts)


def from_concatenated(name: str, *, perpetual: bool = False) -> str:
    """Split a concatenated pair: `BTCUSDT` is `BTC-USDT`, `BTCUSD_PERP` is `BTC-USD-PERP`.

    Args:
        name: the vendor's spelling, with an optional `_PERP` or `_YYMMDD` tail.
        perpetual: whether a name without a tail is a perpetual (USD-M futures).

    Raises:
        BadRequestError: no known quote currency ends the name.
    """
    pair, _, tail = name.upper().partition("_")
    if tail and tail != "PERP" and not _DATED.fullmatch(tail):
        raise BadRequestError(
            f"unknown contract suffix {tail!r}", where=f"symbol {name!r}", hint="Expected PERP or YYMMDD."
        )
    for quote in _QUOTES:
        if pair.endswith(quote) and len(pair) > len(quote):
            return from_pair(pair[: -len(quote)], quote, tail or ("PERP" if perpetual else ""))
    raise BadRequestError(
        f"no known quote currency ends {name!r}", where="symbol", hint="Declare the symbol in the mapping of the file."
    )
