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

__all__ = ["from_concatenated", "from_pair", "from_vendor", "to_binance"]

# Longest first: FDUSD before USD.  The order decides how a concatenated pair is split.
_QUOTES: Final = (
    *("FDUSD", "USDT", "USDC", "BUSD", "TUSD", "USDP", "USD1", "BIDR", "DAI", "USD", "EUR", "GBP", "TRY", "BRL"),
    *("JPY", "AUD", "PLN", "RUB", "UAH", "ZAR", "BTC", "ETH", "BNB", "XRP", "TRX", "DOGE"),
)
#: Quotes that only Binance's spot and USD-M markets have: elsewhere DOTUSD is DOT in USD, not DO in TUSD.
_BINANCE_QUOTES: Final = frozenset({"TUSD", "BUSD"})
_DATED: Final = re.compile(r"\d{6}")
_CANONICAL: Final = re.compile(r"[A-Z0-9.]+-[A-Z0-9.]+(-PERP|-\d{6})?")
#: Other names of the same asset.
_ALIASES: Final = {"XBT": "BTC", "XDG": "DOGE"}


def from_pair(base: str, quote: str, suffix: str = "") -> str:
    """Return the canonical symbol of a base, a quote and an optional suffix (`PERP` or `YYMMDD`)."""
    parts = [base.upper(), quote.upper(), *([suffix.upper()] if suffix else [])]
    return "-".join(parts)


def from_concatenated(name: str, *, perpetual: bool = False, venue: str = "binance") -> str:
    """Split a concatenated pair: `BTCUSDT` is `BTC-USDT`, `BTCUSD_PERP` is `BTC-USD-PERP`.

    Args:
        name: the vendor's spelling, with an optional `_PERP` or `_YYMMDD` tail.
        perpetual: whether a name without a tail is a perpetual (USD-M futures).
        venue: whose spelling it is; decides whether `BNBUSD` may be quoted in BUSD.

    Raises:
        BadRequestError: no known quote currency ends the name.
    """
    pair, _, tail = name.upper().partition("_")
    if tail and tail != "PERP" and not _DATED.fullmatch(tail):
        raise BadRequestError(
            f"unknown contract suffix {tail!r}", where=f"symbol {name!r}", hint="Expected PERP or YYMMDD."
        )
    # Contracts with a tail are quoted in USD or USDT.
    impossible = _BINANCE_QUOTES if tail or venue not in ("binance", "binance_usdm") else frozenset()
    for quote in _QUOTES:
        if quote not in impossible and pair.endswith(quote) and len(pair) > len(quote):
            return from_pair(pair[: -len(quote)], quote, tail or ("PERP" if perpetual else ""))
    raise BadRequestError(
        f"no known quote currency ends {name!r}", where="symbol", hint="Declare the symbol in the mapping of the file."
    )


def from_vendor(name: str, *, perpetual: bool = False, venue: str = "") -> str:
    """Return the canonical symbol of a pair in any spelling that vendors use for one.

    `BTC-USDT` and `BTC/USDT` (also `BTC/USDT:USDT`, a perpetual, and `BTC/USD:BTC-240927`), `XRP_ETH` and
    `XRP_USDT_USDT` (freqtrade, the latter a perpetual), `tBTCUSD` (Bitfinex), `BTCUSD_PERP`, `XBTUSD`.

    Args:
        name: the vendor's spelling.
        perpetual: whether a pair without a mark of its own is a perpetual.
        venue: whose spelling it is, where known.

    Raises:
        BadRequestError: it is none of these, or no known quote currency ends it.
    """
    text = name.strip()
    if re.fullmatch("t[A-Z0-9]{6,}", text):
        text = text[1:]
    text = text.upper()
    default = "PERP" if perpetual else ""
    if _CANONICAL.fullmatch(text):
        base, quote, *suffix = text.split("-")
        return _named(base, quote, suffix[0] if suffix else default)
    if "/" in text:
        pair, _, settle = text.partition(":")
        base, _, quote = pair.partition("/")
        if base and quote:
            date = settle.partition("-")[2]
            return _named(base, quote, date or ("PERP" if settle else default))
    parts = text.split("_")
    if all(parts) and len(parts) in (2, 3) and parts[1] != "PERP" and not _DATED.fullmatch(parts[1]):
        return _named(parts[0], parts[1], "PERP" if len(parts) == 3 else default)
    canonical = from_concatenated(text, perpetual=perpetual, venue=venue)
    base, quote, *suffix = canonical.split("-")
    return _named(base, quote, suffix[0] if suffix else "")


def to_binance(symbol: str) -> str:
    """Return Binance's spelling of a canonical symbol: `BTC-USD-PERP` is `BTCUSD_PERP`, `BTC-USDT-PERP` `BTCUSDT`.

    Raises:
        BadRequestError: the symbol is not canonical.
    """
    if not _CANONICAL.fullmatch(symbol):
        raise BadRequestError(f"{symbol!r} is not canonical", where="symbol", hint="Expected BTC-USDT or the like.")
    base, quote, *suffix = symbol.split("-")
    # Only dated contracts and those settled in the base asset carry a tail.
    tail = suffix[0] if suffix and (suffix[0] != "PERP" or quote == "USD") else ""
    return f"{base}{quote}_{tail}" if tail else f"{base}{quote}"


def _named(base: str, quote: str, suffix: str) -> str:
    return from_pair(_ALIASES.get(base, base), _ALIASES.get(quote, quote), suffix)
