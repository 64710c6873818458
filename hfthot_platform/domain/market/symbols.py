"""Canonical names of instruments, and the one reader of every venue's spelling of them.

A symbol is `BASE-QUOTE` for spot, `BASE-QUOTE-PERP` for a perpetual, `BASE-QUOTE-YYMMDD` for a dated future, and the
ticker (`AAPL`, `BRK.B`, `SPX`) for a share or an index.  A venue is one order book system: Binance's spot, USD-M and
COIN-M markets are three (`binance`, `binance_usdm`, `binance_coinm`).  Vendors' spellings are translated here and
nowhere else; what a spelling does not say for certain is refused with a hint, never guessed.

The facts that this needs (quote assets, aliases, contract sizes) are in `symbol_facts`.
"""

from __future__ import annotations

import calendar
import re
from dataclasses import dataclass
from datetime import UTC, date, datetime, timedelta
from itertools import pairwise
from typing import TYPE_CHECKING, Final, Literal, NamedTuple, NoReturn

from hfthot_platform.core.errors import BadRequestError
from hfthot_platform.domain.market import symbol_facts as facts

if TYPE_CHECKING:
    from collections.abc import Callable

    import polars as pl

__all__ = [
    "Contract",
    "contract_of",
    "find_in_name",
    "find_with_minutes",
    "from_concatenated",
    "from_pair",
    "from_vendor",
    "is_derivatives_venue",
    "market_kind",
    "to_binance",
]

Kind = Literal["spot", "perpetual", "future", "equity", "index", "currency"]

_CANONICAL: Final = re.compile(r"[A-Z0-9.]+-[A-Z0-9.]+(-PERP|-\d{6})?")
_ASSET: Final = re.compile(r"[A-Z0-9][A-Z0-9.]{0,19}")
_QUOTE: Final = re.compile(r"[A-Z][A-Z0-9]{1,9}|1INCH")
_PERPETUAL: Final = frozenset({"PERP", "PERPETUAL", "SWAP"})
_MONTHS: Final = {name.upper(): number for number, name in enumerate(calendar.month_abbr) if name}
#: The futures month codes of the exchanges: F is January, Z December.
_MONTH_CODES: Final = {code: number for number, code in enumerate("FGHJKMNQUVXZ", start=1)}
_DAY_MONTH_YEAR: Final = re.compile(r"(\d{1,2})([A-Z]{3})(\d{2})")
_OPTION: Final = re.compile(r".*-\d+(?:[.D]\d+)?-[CP](?:-[A-Z]+)?")
_COMBINATION: Final = re.compile(r"[A-Z]+-(?:COMBO|FS|STRG|STRD|CS|PS|RR|CCOND|PCOND|CBUT|PBUT|BOX|REV)-.*")
#: Aliases of a contract that is another one each week.
_ROLLING: Final = re.compile(r"[A-Z0-9]+[-_](?:CW|NW|CQ|NQ|BQ|BI_QUARTER|QUARTER|THIS_WEEK|NEXT_WEEK|NEXT_QUARTER)")
#: Whatever prices are expressed in.
_MONEY: Final = frozenset(
    {*facts.DOLLARS, *facts.CURRENCIES, *facts.QUOTES, *facts.MINOR_QUOTES, *facts.MONEY_RANK}.union(
        *facts.QUOTES_OF.values()
    )
)
_TICKER: Final = re.compile(r"([A-Z]{1,5})(?:[ ./_-]([A-Z]|P[A-Z]|PR[A-Z]|PR|WS|WT|WI|UN|RT|\d))?")
_FOREIGN_TICKER: Final = re.compile(r"[A-Z0-9]{1,8}(?:[.-][A-Z0-9]{1,4})?")
_INDEX: Final = re.compile(r"[A-Z0-9]{1,10}")


class _Parts(NamedTuple):
    base: str
    quote: str
    #: PERP, YYMMDD or nothing.
    suffix: str = ""


@dataclass(frozen=True)
class Contract:
    """What a name stands for on its venue, and in which unit the venue reports amounts of it."""

    symbol: str
    kind: Kind
    base: str | None = None
    quote: str | None = None
    expiry: date | None = None
    #: Whether the contract is settled in its base; None where the venue is not known well enough to say.
    inverse: bool | None = False
    #: What one unit of an amount is: base asset, quote asset, a contract, or None where that is not known.
    amount_unit: Literal["base", "quote", "contract"] | None = "base"
    #: Value of one contract: in the quote for inverse contracts, in the base for linear ones; None if not known.
    contract_size: float | None = None

    def base_amount(self, amount: pl.Expr, price: pl.Expr) -> pl.Expr:
        """Return amounts of the venue's unit in the base asset.

        Raises:
            BadRequestError: the unit of the venue's amounts, or the contract's size, is not known.
        """
        if self.amount_unit == "base":
            return amount
        if self.amount_unit == "quote":
            return amount / price
        if self.amount_unit is None or self.contract_size is None:
            raise BadRequestError(
                f"the unit of the amounts of {self.symbol} is not known",
                where="symbol",
                hint="Declare in the mapping what an amount is: base, quote, or contracts of a size.",
            )
        value = amount * self.contract_size
        return value / price if self.inverse else value


def from_pair(base: str, quote: str, suffix: str = "") -> str:
    """Return the canonical symbol of a base, a quote and an optional suffix (`PERP` or `YYMMDD`)."""
    parts = [base.upper(), quote.upper(), *([suffix.upper()] if suffix else [])]
    return "-".join(parts)


def market_kind(venue: str) -> Literal["equity", "index", "currency", "mixed", "coin"]:
    """Return what is traded on a venue, by its name; what is not known otherwise trades coins."""
    words = venue.split("_")
    if venue in facts.MIXED_VENUES or words[0] in facts.MIXED_VENUES:
        return "mixed"
    if words[-1] in ("index", "indices"):
        return "index"
    if venue in facts.FX_VENUES or words[-1] in ("fx", "forex"):
        return "currency"
    if (
        venue in facts.EQUITY_VENUES
        or words[0] == "us"
        or words[-1] in ("equity", "equities", "stock", "stocks", "etf")
    ):
        return "equity"
    return "coin"


def is_derivatives_venue(venue: str) -> bool:
    """Return whether a plain pair of a venue is a perpetual contract, as on `binance_usdm` or `bitmex`."""
    return venue in facts.DERIVATIVES_ONLY or venue.endswith(facts.DERIVATIVES_SUFFIXES)


def _family(venue: str) -> str:
    """Return the kind of names that a venue uses (`binance_derivatives`), or nothing if it is not known."""
    return facts.FAMILIES.get(venue) or facts.FAMILIES.get(venue.partition("_")[0], "")


def from_vendor(name: str, *, perpetual: bool = False, venue: str = "") -> str:
    """Return the canonical symbol of an instrument in a vendor's spelling.

    Understood are each venue's own grammar (see the module's tests for a table), ccxt's unified symbols
    (`BTC/USDT`, `BTC/USDT:USDT`, `BTC/USD:BTC-240927`), freqtrade's (`XRP_USDT_USDT`), tickers on venues of shares,
    and canonical names themselves.

    Args:
        name: the vendor's spelling.
        perpetual: whether a pair without a mark of its own is a perpetual; venues of derivatives imply it.
        venue: whose spelling it is, where known.

    Raises:
        BadRequestError: the name is not understood, is ambiguous, or names an option or another instrument that
            the platform does not hold.
    """
    text = name.strip()
    if not text:
        raise BadRequestError("the name is empty", where="symbol", hint="Declare `symbol` in the mapping.")
    if not text.isascii():
        _refuse(text, "not written in ASCII", "Rename the instrument, or leave it out.")
    kind = market_kind(venue)
    if kind == "equity":
        return _ticker(text, american=venue in facts.US_EXCHANGES or venue.startswith("us_"))
    if kind == "index":
        return _index(text)
    if kind == "mixed":
        return _of_all_kinds(text)
    family = _family(venue)
    default = "PERP" if perpetual or is_derivatives_venue(venue) else ""
    if re.fullmatch(r"t[A-Z0-9]{6,}", text) and family != "bitfinex":
        text = text[1:]  # Bitfinex's mark, unmistakable beside capitals
    upper = text.upper()
    _require_held(text, upper)
    grammar = _GRAMMARS.get(family)
    parts = grammar(text, venue) if grammar else None
    if parts is None:
        parts = _common(upper, family, default)
    aliases = facts.ALIASES | facts.ALIASES_OF.get(venue, facts.ALIASES_OF.get(family, {}))
    base, quote = aliases.get(parts.base, parts.base), aliases.get(parts.quote, parts.quote)
    if not _ASSET.fullmatch(base) or not _QUOTE.fullmatch(quote) or base == quote:
        _refuse(text, "not a pair of two assets")
    return from_pair(base, quote, parts.suffix)


def from_concatenated(name: str, *, perpetual: bool = False, venue: str = "binance") -> str:
    """Split a concatenated pair: `BTCUSDT` is `BTC-USDT`, `BTCUSD_PERP` is `BTC-USD-PERP`.

    Args and errors are those of `from_vendor`; the venue decides which quotes may end a name.
    """
    return from_vendor(name, perpetual=perpetual, venue=venue)


def find_in_name(name: str, venue: str = "") -> str | None:
    """Return the instrument that a file's name spells, in the vendor's spelling, or None if it spells none or several.

    `XRP_ETH-trades.feather`, `BCHEUR.csv`, `BTC-USDT-SWAP-trades-2024-01.csv`, and on a venue of shares `AAPL_1d.csv`.
    Only capitals count, and a date beside a pair is an expiry only on venues that have nothing but derivatives.
    """
    words = [(found.start(), found.end(), found[0]) for found in re.finditer("[A-Za-z0-9]+", name)]
    kind = market_kind(venue)
    if kind in ("equity", "index", "mixed"):
        tickers = [found[0] for found in re.finditer(r"(?<![\w.-])\^?[A-Z]{1,6}(?:[.-][A-Z])?(?=[._ -]|$)", name)]
        return tickers[0] if len(set(tickers)) == 1 else None
    found = {}
    place = 0
    while place < len(words):
        for count in (4, 3, 2, 1):
            part = words[place : place + count]
            if len(part) < count or any(name[a[1] : b[0]] not in ("-", "_") for a, b in pairwise(part)):
                continue
            text = name[part[0][0] : part[-1][1]]
            if symbol := _in_name(text, venue, whole=place == 0):
                found[symbol] = text
                place += count - 1
                break
        place += 1
    return next(iter(found.values())) if len(found) == 1 else None


def find_with_minutes(name: str, venue: str = "") -> tuple[str, int] | None:
    """Return the pair and the minutes of its bars that a file's name spells, as `EURUSD60.csv` and `XBTUSD_1440.csv`.

    So MetaTrader 4 names its exports, and Kraken its bars.  The pair is in the vendor's spelling.  None where anything
    else is possible: a name that is not a pair of two (`GER30.csv` is an index), digits that end the pair, or a number
    after an underscore, which counts parts of a download, except on Kraken.
    """
    found = re.match(r"(?:.*[-. _])?([A-Z0-9]*[A-Z])(_?)(1|5|15|30|60|240|720|1440|10080|43200)\.[A-Za-z]", name)
    if found is None or (found[2] and venue != "kraken"):
        return None
    try:
        symbol = from_vendor(found[1], venue=venue)
    except BadRequestError:
        return None
    is_pair = "-" in symbol and symbol.split("-")[1] in _MONEY and symbol.count("-") == 1
    return (found[1], int(found[3])) if is_pair else None


def _in_name(text: str, venue: str, *, whole: bool) -> str | None:
    """Return the symbol that a part of a file's name spells beyond doubt."""
    body = text[1:] if re.match("t[A-Z]", text) else text
    if body != body.upper() or not re.search("[A-Z]", body) or len(text) < 5:
        return None
    try:
        symbol = from_vendor(text, venue=venue)
    except BadRequestError:
        return None
    base, quote, *suffix = symbol.split("-")
    dated = bool(suffix and suffix[0] != "PERP")
    if dated and not is_derivatives_venue(venue) and not re.search("[A-Z]$|[A-Z]{3}\\d{2}$", text):
        return None  # the day of the recording, perhaps
    return symbol if quote in _MONEY and (whole or base in facts.KNOWN_BASES or not re.search("[-_]", text)) else None


def contract_of(venue: str, name: str, *, perpetual: bool = False) -> Contract:
    """Return what a vendor's (or a canonical) name stands for on its venue.

    Args:
        venue: the venue.
        name: the vendor's spelling or the canonical symbol.
        perpetual: as for `from_vendor`.

    Raises:
        BadRequestError: as `from_vendor`.
    """
    symbol = from_vendor(name, perpetual=perpetual, venue=venue)
    base, quote, suffix = (*symbol.split("-"), None, None)[:3]
    if quote is None:
        index = market_kind(venue) == "index" or name.strip().startswith("^") or symbol in facts.INDICES.values()
        return Contract(symbol, "index" if index else "equity")
    assert base is not None
    if suffix is None:
        coins = not {base, quote} <= facts.CURRENCIES | facts.METALS
        return Contract(symbol, "spot" if coins else "currency", base, quote)
    kind: Kind = "perpetual" if suffix == "PERP" else "future"
    expiry = None if suffix == "PERP" else datetime.strptime(suffix, "%y%m%d").replace(tzinfo=UTC).date()
    inverse, unit, size = _settlement(venue, name, base, quote)
    return Contract(symbol, kind, base, quote, expiry, inverse, unit, size)


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


def _refuse(name: str, why: str, hint: str = "Declare `symbol` in the mapping of the file, as BTC-USDT.") -> NoReturn:
    raise BadRequestError(f"{name!r}: {why}", where="symbol", hint=hint)


def _require_held(text: str, upper: str) -> None:
    """Refuse names of instruments that the platform does not hold."""
    if _OPTION.fullmatch(upper):
        _refuse(text, "an option", "Options are not supported; remove their rows from the file.")
    if _COMBINATION.fullmatch(upper) or upper.count("-") + upper.count("_") > 4:
        _refuse(text, "a combination of contracts", "Combinations are not supported; remove their rows from the file.")
    if _ROLLING.fullmatch(upper):
        _refuse(text, "another contract each week or quarter", "Name the contract by its expiry, as BTC-USD-240927.")
    if upper[0] in "@.^":
        _refuse(text, "an index or a number of the venue, not an instrument's name", "Declare `symbol` in the mapping.")


def _common(upper: str, family: str, default: str) -> _Parts:
    """Read what is spelled alike on many venues: ccxt's and freqtrade's forms, separated and concatenated pairs."""
    if "/" in upper:
        return _unified(upper, default)
    words = re.split("[-_]", upper)
    if not all(words):
        _refuse(upper, "a separator without an asset beside it")
    match words:
        case [pair]:
            return _split(pair, family)._replace(suffix=default)
        case [pair, mark] if suffix := _suffix(mark):
            if pair in facts.KNOWN_BASES or pair in facts.QUOTES:
                _refuse(
                    upper, "a contract that does not name its quote asset", "Name it as BTC-USD-PERP or BTC-USD-240927."
                )
            return _split(pair, family)._replace(suffix=suffix)
        case [base, quote]:
            return _separated(base, quote)._replace(suffix=default)
        case [base, quote, mark] if suffix := _suffix(mark):
            return _separated(base, quote)._replace(suffix=suffix)
        case [base, quote, settle] if settle in (base, quote):
            return _separated(base, quote)._replace(suffix="PERP")
        case [base, quote, "SPOT"]:
            return _separated(base, quote)
        case [base, quote, settle, mark] if settle in (base, quote) and (suffix := _suffix(mark)):
            return _separated(base, quote)._replace(suffix=suffix)
    return _refuse(upper, f"{words[-1]!r} is neither PERP nor the date of an expiry")


def _unified(upper: str, default: str) -> _Parts:
    """Read ccxt's `BASE/QUOTE`, `BASE/QUOTE:SETTLE` and `BASE/QUOTE:SETTLE-YYMMDD`."""
    found = re.fullmatch(r"([^/:]+)/([^/:-]+)(?::([A-Z0-9]+)(?:-(\w+))?)?", upper)
    if found is None:
        _refuse(upper, "not of the form BASE/QUOTE, BASE/QUOTE:SETTLE or BASE/QUOTE:SETTLE-YYMMDD")
    base, quote, settle, mark = found.groups()
    if mark is not None and not (suffix := _suffix(mark)):
        _refuse(upper, f"{mark!r} is not an expiry date")
    return _Parts(base, quote, suffix if mark else "PERP" if settle else default)


def _separated(base: str, quote: str) -> _Parts:
    """Return a pair whose assets are told apart by a separator, base first.

    Where only the first of the two is an asset that prices are expressed in, the venue may write it first.
    """
    first_is_money = base in facts.DOLLARS or base in facts.QUOTES or base in facts.CURRENCIES
    if first_is_money and quote not in _MONEY and not _suffix(quote):
        _refuse(
            f"{base}-{quote}",
            f"{base} is before {quote}: the venue seems to write the quote first",
            f"Declare `symbol: {quote}-{base}`, or a venue that is known for this order (bittrex, poloniex, upbit).",
        )
    if not _QUOTE.fullmatch(quote) or _suffix(quote) or (len(quote) > 5 and quote not in _MONEY):
        _refuse(f"{base}-{quote}", f"{quote!r} is not an asset in which prices are quoted")
    return _Parts(base, quote)


def _split(pair: str, family: str) -> _Parts:
    """Split a pair without a separator by the quotes of its venue.

    Of several ways, the one whose base is well known counts; on a venue whose quotes are known, the longest quote
    decides otherwise, elsewhere nothing does.
    """
    quotes = facts.QUOTES_OF.get(family)
    ways = [_Parts(pair[: -len(q)], q) for q in quotes or facts.QUOTES if pair.endswith(q) and len(pair) > len(q)]
    if quotes is None:
        minor = [_Parts(pair[: -len(q)], q) for q in facts.MINOR_QUOTES if pair.endswith(q)]
        known_too = facts.KNOWN_BASES | facts.CURRENCIES | facts.METALS
        ways += [way for way in minor if way.base in known_too]
    known = [way for way in ways if way.base in facts.KNOWN_BASES]
    # WBTC, GBTC, TETH: rather an asset or a share than a pair of a one-letter coin.
    sure = known or [way for way in ways if len(way.base) > 1 or (quotes is not None and len(way.quote) > 3)]
    if not sure:
        _refuse(
            pair,
            "it does not end in a known quote currency",
            "Declare `symbol` in the mapping as BTC-USDT; a share needs a venue of shares, such as us_equity.",
        )
    if len(sure) > 1 and quotes is None:
        spelled = " or ".join(from_pair(*way) for way in sure)
        _refuse(pair, f"it may be {spelled}", "Declare `symbol` in the mapping, or the venue.")
    return max(sure, key=lambda way: len(way.quote))


def _suffix(mark: str) -> str:
    """Return PERP for a perpetual's mark, YYMMDD for a date in any usual spelling, and nothing for anything else."""
    if mark in _PERPETUAL:
        return "PERP"
    try:
        if re.fullmatch(r"\d{6}", mark):
            day = datetime.strptime(mark, "%y%m%d").replace(tzinfo=UTC).date()
        elif re.fullmatch(r"20\d{6}", mark):
            day = datetime.strptime(mark, "%Y%m%d").replace(tzinfo=UTC).date()
        elif (found := _DAY_MONTH_YEAR.fullmatch(mark)) and found[2] in _MONTHS:
            day = date(2000 + int(found[3]), _MONTHS[found[2]], int(found[1]))
        else:
            return ""
    except ValueError:
        return ""
    return f"{day:%y%m%d}"


def _last_friday(month_code: str, year: str) -> str:
    """Return the expiry YYMMDD of a quarterly contract that is named by a month code and two digits of a year."""
    month, full = _MONTH_CODES[month_code], 2000 + int(year)
    last = date(full, month, calendar.monthrange(full, month)[1])
    return f"{last - timedelta(days=(last.weekday() - calendar.FRIDAY) % 7):%y%m%d}"


def _plain_pair(name: str) -> _Parts | None:
    """Return a pair with a separator and without a mark: spot, where contracts are written otherwise."""
    found = re.fullmatch(r"([A-Z0-9.]+)[-_/]([A-Z0-9.]+)", name)
    return _separated(found[1], found[2]) if found and not _suffix(found[2]) else None


# Each venue's own grammar.  It returns None for what is spelled as on other venues.


def _kraken(text: str, venue: str) -> _Parts | None:
    if future := _kraken_futures(text, venue):
        return future
    if text.upper().endswith(".D"):
        _refuse(text, "a dark pool", "Dark pools are not supported; remove their rows from the file.")
    pair = text.upper().replace("/", "") if re.fullmatch(r"[^/]+/[^/:]+", text) else text.upper()
    if "-" in pair or "_" in pair or ":" in pair:
        return None
    if "/" in text:
        base, quote = text.upper().split("/")
        return _Parts(_legacy(base), _legacy(quote))
    # XXBTZUSD: two codes of four letters.
    if pair[:4] in facts.KRAKEN_LEGACY and pair[4:] in facts.KRAKEN_LEGACY:
        return _Parts(facts.KRAKEN_LEGACY[pair[:4]], facts.KRAKEN_LEGACY[pair[4:]])
    # USDTZUSD: a newer coin beside the code of a currency; XTZUSD is XTZ in USD.
    if pair[-4:] in facts.KRAKEN_LEGACY and pair[:-4] in facts.KNOWN_BASES and f"{pair[:-3]}" not in facts.KNOWN_BASES:
        return _Parts(pair[:-4], facts.KRAKEN_LEGACY[pair[-4:]])
    parts = _split(pair, "kraken")
    return _Parts(_legacy(parts.base), parts.quote)


def _legacy(code: str) -> str:
    return facts.KRAKEN_LEGACY.get(code, code)


def _kraken_futures(text: str, venue: str) -> _Parts | None:
    found = re.fullmatch(r"(PI|PF|FI|FF)_([A-Z0-9]+?)(USD|EUR|XBT|USDT|USDC)(?:_(\d{6}))?", text.upper())
    if found is None:
        return None
    kind, base, quote, day = found.groups()
    # Inverse and multi-collateral contracts of the same pair are two instruments, so they are two venues' here.
    if kind[1] == "I" and venue not in ("kraken_inverse", "cryptofacilities"):
        _refuse(text, "an inverse contract", "Declare `venue: kraken_inverse`; PF_ and FF_ are of kraken_futures.")
    if kind[1] == "F" and venue == "kraken_inverse":
        _refuse(text, "not an inverse contract", "Declare `venue: kraken_futures`.")
    suffix = _suffix(day) if day else "PERP" if kind[0] == "P" else ""
    return _Parts(base, quote, suffix) if suffix else _refuse(text, "a future without the date of its expiry")


def _bitfinex(text: str, venue: str) -> _Parts | None:
    del venue
    name = (text[1:] if re.fullmatch(r"t[A-Z0-9:]{6,}", text) else text).upper()
    if re.fullmatch(r"f[A-Z]{3,4}", text):
        _refuse(text, "a funding market", "Funding is not supported; remove its rows from the file.")
    if "/" in name or "-" in name or "_" in name:
        return None
    base, colon, quote = name.partition(":")
    if not colon:
        if len(name) != 6:
            return None
        base, quote = name[:3], name[3:]
    if base.startswith("TEST") and quote.startswith("TEST"):
        _refuse(text, "a pair of paper trading", "Paper trading is not supported; remove its rows from the file.")
    perpetual = base.endswith("F0") and quote.endswith("F0")
    return _Parts(base[:-2], quote[:-2], "PERP") if perpetual else _Parts(base, quote)


def _bitmex(text: str, venue: str) -> _Parts | None:
    del venue
    name = text.upper()
    if re.fullmatch(r"[A-Z0-9]+[FGHJKMNQUVXZ]\d{2}-[A-Z0-9]+", name):
        _refuse(text, "a spread of two contracts", "Spreads are not supported; remove their rows from the file.")
    if spot := _plain_pair(name):
        return spot
    found = re.fullmatch(r"(XBT|[A-Z0-9]{2,10}?USDT?)([FGHJKMNQUVXZ])(\d{2})", name)
    if found:
        root, month, year = found.groups()
        base, quote = ("XBT", "USD") if root == "XBT" else _split(root, "bitmex")[:2]
        return _Parts(base, quote, _last_friday(month, year))
    if re.fullmatch(r"[A-Z0-9]+[FGHJKMNQUVXZ]\d{2}", name):
        _refuse(text, "a dated contract that does not name its quote asset", "Name it as ETH-BTC-240927.")
    return None


def _deribit(text: str, venue: str) -> _Parts | None:
    del venue
    if spot := _plain_pair(text.upper()):
        return spot
    found = re.fullmatch(r"([A-Z0-9]+)(?:_([A-Z0-9]+))?-([A-Z0-9]+)", text.upper())
    suffix = _suffix(found[3]) if found else ""
    return _Parts(found[1], found[2] or "USD", suffix) if found and suffix else None


def _bybit(text: str, venue: str) -> _Parts | None:
    name = text.upper()
    if found := re.fullmatch(r"([A-Z0-9]+)PERP", name):
        return _Parts(found[1], "USDC", "PERP")
    if found := re.fullmatch(r"([A-Z0-9]+USD)([HMUZ])(\d{2})", name):
        return _split(found[1], "bybit")._replace(suffix=_last_friday(found[2], found[3]))
    if (found := re.fullmatch(r"([A-Z0-9]+)-(\w+)", name)) and (suffix := _suffix(found[2])):
        if found[1] in facts.KNOWN_BASES:
            return _Parts(found[1], "USDC", suffix)  # BTC-27DEC24 is settled in USDC
        return _split(found[1], "bybit")._replace(suffix=suffix)
    if venue == "bybit" and re.fullmatch(r"[A-Z0-9]+USD", name) and _split(name, "bybit").quote == "USD":
        _refuse(
            text,
            "the inverse perpetual or the spot pair of the same name",
            "Declare `venue: bybit_inverse` or `venue: bybit_spot`, or `symbol: BTC-USD-PERP`.",
        )
    return None


def _coinbase(text: str, venue: str) -> _Parts | None:
    del venue
    name = text.upper()
    if found := re.fullmatch(r"([A-Z0-9]+)-PERP(?:-INTX)?", name):
        return _Parts(found[1], "USDC", "PERP")
    if re.fullmatch(r"[A-Z0-9]+-\d{1,2}[A-Z]{3}\d{2}-[A-Z]+", name):
        _refuse(text, "a future that is named by a product code", "Declare `symbol` in the mapping, as BTC-USD-260424.")
    return None


def _gemini(text: str, venue: str) -> _Parts | None:
    del venue
    found = re.fullmatch(r"([A-Z0-9]+)PERP", text.upper())
    return _split(found[1], "gemini")._replace(suffix="PERP") if found else None


def _htx(text: str, venue: str) -> _Parts | None:
    found = re.fullmatch(r"([A-Z]{2,10}?)(\d{6})", text.upper())
    if found and (suffix := _suffix(found[2])):
        return _Parts(found[1], "USD", suffix)
    if venue.endswith("_dm") and re.fullmatch(r"[A-Z]+", text.upper()):
        _refuse(text, "a future without the date of its expiry", "Name it as BTC-USD-240927.")
    return None


def _kucoin(text: str, venue: str) -> _Parts | None:
    name = text.upper()
    if found := re.fullmatch(r"([A-Z0-9]+(?:USDT|USDC|USD))M", name):
        return _split(found[1], "kucoin")._replace(suffix="PERP")
    if found := re.fullmatch(r"(XBT|ETH)M([HMUZ])(\d{2})", name):
        return _Parts(found[1], "USD", _last_friday(found[2], found[3]))
    if "futures" in venue and "-" not in name and "/" not in name and "_" not in name:
        _refuse(text, "not a contract of the venue", "Expected a name such as XBTUSDTM.")
    return None


def _bitget(text: str, venue: str) -> _Parts | None:
    del venue
    found = re.fullmatch(r"([A-Z0-9]+)_(SPBL|UMCBL|DMCBL|CMCBL)", text.upper())
    if found is None:
        return None
    if found[2] == "CMCBL":
        return _Parts(found[1].removesuffix("PERP"), "USDC", "PERP")
    return _split(found[1], "bitget")._replace(suffix="" if found[2] == "SPBL" else "PERP")


def _ftx(text: str, venue: str) -> _Parts | None:
    del venue
    words = text.upper().split("-")
    if len(words) != 2:
        return None
    if suffix := _suffix(words[1]):
        return _Parts(words[0], "USD", suffix)
    if re.fullmatch(r"\d{4}", words[1]):
        _refuse(text, "a future without the year of its expiry", "Name it as BTC-USD-240927.")
    return None


def _hyperliquid(text: str, venue: str) -> _Parts | None:
    del venue
    if ":" in text and "/" not in text:
        _refuse(text, "a market of another deployer", "Declare `symbol` in the mapping.")
    if re.fullmatch(r"[A-Za-z0-9]+", text):
        return _Parts(text.upper(), "USDC", "PERP")
    return _plain_pair(text.upper())


def _phemex(text: str, venue: str) -> _Parts | None:
    del venue
    if found := re.fullmatch(r"s([A-Z0-9]+)", text):
        return _split(found[1], "phemex")
    return None


def _quote_first(text: str, venue: str) -> _Parts | None:
    """Read pairs of venues that wrote the quote first once, or do: the more money-like of two assets is the quote."""
    words = re.split("[-_]", text.upper())
    if len(words) != 2 or not all(words) or any(_suffix(word) for word in words):
        return None
    rank = {asset: place for place, asset in enumerate(facts.MONEY_RANK)}
    first, second = (rank.get(word, len(rank)) for word in words)
    both_dollars = venue == "poloniex" and {*words} <= {*facts.DOLLARS, "USDJ"}
    if first == second or both_dollars:
        _refuse(
            text, "base and quote cannot be told apart", f"Declare `symbol` as {words[0]}-{words[1]} or the reverse."
        )
    return _Parts(words[1], words[0]) if first < second else _Parts(words[0], words[1])


_GRAMMARS: Final[dict[str, Callable[[str, str], _Parts | None]]] = {
    "bitfinex": _bitfinex,
    "bitget": _bitget,
    "bitmex": _bitmex,
    "bybit": _bybit,
    "coinbase": _coinbase,
    "deribit": _deribit,
    "ftx": _ftx,
    "gemini": _gemini,
    "htx": _htx,
    "hyperliquid": _hyperliquid,
    "kraken": _kraken,
    "kraken_futures": _kraken_futures,
    "kucoin": _kucoin,
    "phemex": _phemex,
    "quote_first": _quote_first,
}


def _ticker(text: str, *, american: bool) -> str:
    """Return a share's ticker; a class of shares follows a dot (`BRK.B`)."""
    name = text.upper()
    if ":" in name:  # NASDAQ:AAPL
        exchange, _, name = name.partition(":")
        if exchange.lower() not in facts.EQUITY_VENUES:
            _refuse(text, f"{exchange!r} is not a stock exchange", "Give the ticker alone, as AAPL.")
    if name.startswith(("^", "$")):
        return _index(text)
    name = re.sub(r"( U[SNQWPRA])?( EQUITY)?$", "", name)
    name = name.removesuffix(".US") if american else name
    found = _TICKER.fullmatch(name)
    if found:
        share, kind = found[1], found[2]
        if kind and len(kind) == 2 and kind[0] == "P" and kind != "PR":
            kind = f"PR{kind[1]}"  # Yahoo's -PB is the exchange's PRB
        return f"{share}.{kind}" if kind else share
    if not american and _FOREIGN_TICKER.fullmatch(name):
        return name.replace("-", ".")
    return _refuse(
        text, "not the ticker of a share", "Expected AAPL or BRK.B; a pair needs a venue where it is traded."
    )


def _index(text: str) -> str:
    name = re.sub(r"^(\^|\$|I:|\.)", "", text.upper())
    if not _INDEX.fullmatch(name):
        _refuse(text, "not the name of an index", "Expected SPX, ^GSPC or the like.")
    return facts.INDICES.get(name, name)


def _of_all_kinds(text: str) -> str:
    """Read the names of vendors that carry shares, indices, currencies and coins side by side."""
    name = text.upper()
    if name.startswith(("^", "I:")):
        return _index(name)
    if found := re.fullmatch(r"(?:C:)?([A-Z]{3,6})=X", name):
        pair = found[1] if len(found[1]) == 6 else f"USD{found[1]}"
        return from_pair(pair[:3], pair[3:])
    if re.fullmatch(r"[A-Z0-9]+=F", name):
        _refuse(text, "a future that is another contract each month", "Name the contract by its expiry.")
    money = facts.CURRENCIES | facts.METALS
    bare = name.removeprefix("C:").removeprefix("X:").replace("/", "")
    if re.fullmatch(r"[A-Z]{6}", bare) and bare[3:] in money and bare[:3] in money | facts.KNOWN_BASES:
        return from_pair(bare[:3], bare[3:])
    if found := re.fullmatch(r"([A-Z0-9]{2,10})[-/]([A-Z0-9]{3,5})", name):
        base, quote = found.groups()
        if quote in money or quote in facts.QUOTES:
            return from_pair(facts.ALIASES.get(base, base), facts.ALIASES.get(quote, quote))
    return _ticker(text.removesuffix(".us").removesuffix(".US"), american=False)


def _settlement(
    venue: str, name: str, base: str, quote: str
) -> tuple[bool | None, Literal["base", "quote", "contract"] | None, float | None]:
    """Return whether a contract is settled in its base, the unit of amounts, and the size of one contract."""
    family = _family(venue)
    settle = re.fullmatch(r"[^/:]+/[^/:]+:([A-Z0-9]+).*", name.strip().upper())
    linear_only = family in ("bitfinex", "hyperliquid", "dydx", "ftx", "coinbase", "gemini")
    if settle and settle[1] in (base, quote):
        inverse: bool | None = settle[1] == base
    elif quote != "USD":
        # Prices in a dollar token, in BTC or ETH: settled in what they are quoted in, except BitMEX's altcoins.
        inverse = False
    elif linear_only or (family == "kraken_futures" and venue not in ("kraken_inverse", "cryptofacilities")):
        inverse = False
    elif family == "bitmex":
        inverse = True if base == "BTC" else None  # ETHUSD is a quanto contract
    elif family in ("binance_derivatives", "bybit", "deribit", "gateio", "htx", "kraken_futures", "kucoin", "okx"):
        inverse = True
    elif family == "phemex":
        inverse = True if base == "BTC" else None
    else:
        inverse = None
    if inverse is None:
        return None, None, None
    size = facts.CONTRACT_SIZES.get((family, "inverse" if inverse else "linear", base))
    if size is None:
        size = facts.CONTRACT_SIZES.get((family, "inverse" if inverse else "linear", None))
    if inverse:
        if size is None:
            return True, None, None
        return True, ("quote" if size == 1.0 else "contract"), size
    if family in ("okx", "gateio", "htx", "kucoin", "bitmex"):
        return False, "contract", size
    return False, ("base" if family else None), None
