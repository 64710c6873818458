"""Which column of a vendor's table is what: by its name, and by its first values where names leave a choice.

Epoch numbers win over local dates beside them; a day and a time of day are joined; of two columns of one name the
one with values counts.  Tables that hold something else than trades and bars (order books, orders, liquidations,
funding, quotes, option chains, an account's own fills) are refused here, by their columns, by their values, and by
the names of file and folder.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from typing import Final, Literal

from hfthot_platform.adapters.files.adapter import FileProbe
from hfthot_platform.adapters.files.canonical import CRYPTO_ASSETS
from hfthot_platform.core.errors import RejectedFileError

__all__ = ["PRICES", "match_columns", "normalised", "refuse_by_name", "refuse_other_tables", "words_of_side"]

PRICES: Final = ("open", "high", "low", "close")
#: Usual names of each target, best first.  Compared as `normalised` writes them.
_NAMES: Final[dict[str, tuple[str, ...]]] = {
    "ts": (
        *(
            "open_time",
            "opentime",
            "microtimestamp",
            "timestampms",
            "timestamp",
            "unix",
            "unix_timestamp",
            "unixtime",
            "unix_time",
            "epoch",
            "mts",
        ),
        *("ts", "ts_event", "datetime", "date_time", "time", "gmt_time", "utc_time", "date_utc", "time_utc"),
        *("timestamp_utc", "datetime_utc", "date", "local_time", "day", "transact_time", "trade_time", "exec_time"),
        *(
            "time_period_start",
            "time_exchange",
            "dates",
            "ticks",
            "create_time_ms",
            "create_time",
            "created_time",
            "created_at",
            "window_start",
            "sip_timestamp",
            "participant_timestamp",
            "start_time",
        ),
        *("start", "bucket", "candle_begin_time", "begin", "period", "time_est", "time_eet", "t", "index", "unnamed_0"),
    ),
    "symbol": (
        "symbol",
        "pair",
        "ticker",
        "instrument_name",
        "instrument",
        "inst_id",
        "instid",
        "product_id",
        "currency_pair",
        "contract",
        "coin",
        "market",
        "code",
        "s",
        "name",
    ),
    "interval": ("interval", "tf", "timeframe", "per"),
    "open": ("open", "o", "open_price", "price_open", "1_open", "px_open"),
    "high": ("high", "h", "high_price", "price_high", "2_high", "px_high", "max"),
    "low": ("low", "l", "low_price", "price_low", "3_low", "px_low", "min"),
    "close": ("close", "c", "close_price", "price_close", "4_close", "px_last", "close_last"),
    "volume": (
        *("volume", "vol", "v", "volumefrom", "base_volume", "5_volume", "volume_base", "tickvol", "tick_volume"),
        *("tickvolume", "volume_traded", "total_volume", "homenotional", "px_volume", "vol."),
    ),
    "quote_volume": (
        *("quote_volume", "quote_asset_volume", "volumeto", "volume_quote", "turnover", "quote_vol", "volume_currency"),
        *("volccyquote", "foreignnotional"),
    ),
    "trades": (
        "trades",
        "count",
        "number_of_trades",
        "num_trades",
        "tradecount",
        "transactions",
        "trade_count",
        "trades_count",
        "n",
    ),
    "buy_volume": (
        *("buy_volume", "taker_buy_volume", "taker_buy_base", "taker_buy_base_asset_volume", "taker_buy_base_volume"),
    ),
    "trade_id": ("trade_id", "tradeid", "id", "agg_trade_id", "trdmatchid", "tid", "exec_id", "sequence_number"),
    "price": ("price", "p", "trade_price", "px", "rate", "last_price"),
    "amount": (
        "homenotional",
        "amount",
        "qty",
        "quantity",
        "size",
        "base_amount",
        "trade_size",
        "sz",
        "base_qty",
        "trade_volume",
    ),
    "side": (
        *("taker_side", "side", "direction", "aggressor_side", "aggressor", "taker_or_maker_side", "maker_side"),
        *("ask_bid", "is_buy", "isbuy", "is_buyer_taker", "isbuyertaker", "taker_buys"),
    ),
    "maker_buys": ("is_buyer_maker", "isbuyermaker", "buyer_maker", "m", "taker_side_sell", "sell"),
    "ts_received": (
        "ts_received",
        "local_timestamp",
        "receipt_timestamp",
        "ts_recv",
        "received_at",
        "receive_ts",
        "time_coinapi",
    ),
}
_BAR_TARGETS: Final = frozenset(
    {"ts", "date", "time", "symbol", "interval", *PRICES, "volume", "quote_volume", "trades", "buy_volume"}
)
_TRADE_TARGETS: Final = frozenset(
    {"ts", "date", "time", "symbol", "trade_id", "price", "amount", "side", "maker_buys", "ts_received"}
)
_EPOCH: Final = re.compile(r"-?\d{10}(\.\d*)?|\d{13}(\.\d*)?|\d{16}(\.0*)?|\d{19}|\d\.\d{5,}[eE]\+?(09|12|15|18)")
_DAY: Final = re.compile(
    r"((19|20)\d{6}|\d{4}[-./]\d{1,2}[-./]\d{1,2}|\d{1,2}[-./ ](\d{1,2}|[A-Za-z]{3,9})[-./ ]\d{2,4}"
    r"|[A-Za-z]{3,9} \d{1,2},? \d{4})([ T]0?0:00(:00(\.0+)?)?)?"
)
#: A day with a time of day after it.
_STAMP: Final = re.compile(r"(\d{4}[-./]\d{1,2}[-./]\d{1,2}|\d{1,2}[-./]\d{1,2}[-./]\d{2,4})[ T]\d{1,2}:\d{2}.*")
_CLOCK: Final = re.compile(r"\d{1,2}:\d{2}(:\d{2}([.,:]\d+)?)?\s*([AaPp]\.?[Mm]\.?)?|\d{1,6}(\.0)?|\d{9}")
#: Names that are as often those of something else: a `market` may be spot.
_DOUBTFUL_SYMBOLS: Final = frozenset({"market", "code", "s", "instrument", "name", "contract", "coin"})
_SYMBOL: Final = re.compile(r"(?!(SPOT|LINEAR|INVERSE|FUTURES?|MARGIN|SWAP|OPTIONS?|STOCKS?)$)[A-Z0-9][A-Z0-9./_:-]*")
_QUOTE_NAMES: Final = frozenset(
    {"usd", "usdt", "usdc", "busd", "eur", "gbp", "jpy", "krw", "currency", "quote", "base", "tusd", "try", "aud"}
)
_NOTHING: Final = frozenset({"", "nan", "none", "null", "na", "n/a", "[]", "{}", "<na>"})


def normalised(name: str) -> str:
    """Return a column's name for comparison: `<TICKVOL>` is `tickvol`, `Date(UTC)` `date_utc`, `Vol.` `vol`."""
    text = re.sub(r"([a-z])([A-Z])(?=[a-z])", r"\1_\2", name.strip().strip("\"'").strip())
    plain = re.sub(r"[^0-9a-zA-Z一-鿿]+", "_", text).strip("_").lower()
    return re.sub(r"_[一-鿿].*$", "", plain)


def match_columns(names: Sequence[str], rows: Sequence[Sequence[str]] = ()) -> dict[str, int]:
    """Return target -> position for a header with usual names; empty if they are not those of bars or trades.

    Args:
        names: the header.
        rows: first rows as text, for the choices that names leave open.
    """
    places: dict[str, list[int]] = {}
    for place, name in enumerate(names):
        plain = normalised(name) or ("unnamed_0" if place == 0 else "")
        for spelled in {plain, plain.replace("_", "")}:
            places.setdefault(spelled, []).append(place)

    def values(place: int) -> list[str]:
        return [row[place].strip() for row in rows if place < len(row)]

    def has_values(place: int) -> bool:
        return any(value.lower() not in _NOTHING for value in values(place))

    def candidates(target: str) -> list[int]:
        found = [place for usual in _NAMES[target] for place in places.get(usual, [])]
        found = list(dict.fromkeys(found))
        return sorted(found, key=lambda place: not has_values(place)) if rows else found

    found = {target: all_of[0] for target in _NAMES if target != "ts" and (all_of := candidates(target))}
    if "symbol" in found and normalised(names[found["symbol"]]) in _DOUBTFUL_SYMBOLS:
        words = [value for value in values(found["symbol"]) if value.lower() not in _NOTHING]
        if not words or not all(_SYMBOL.fullmatch(word) for word in words):
            del found["symbol"]
    found.update(_volumes(names, candidates("volume"), values))
    if len(letters := places.get("s", [])) == 2 and "i" in places:
        # Bybit's messages: s is the symbol, S the side, i the trade.
        sides = [place for place in letters if {value.lower() for value in values(place)} <= {"buy", "sell"}]
        if len(sides) == 1 and rows:
            found["side"], found["trade_id"] = sides[0], places["i"][0]
            found["symbol"] = next(place for place in letters if place != sides[0])
    if "side" not in found and (types := places.get("type")):
        kinds = {value.lower() for value in values(types[0])} - _NOTHING
        # Bitstamp writes 0 and 1.
        if kinds and (kinds <= {"buy", "sell"} or (kinds <= {"0", "1"} and {"price", "amount"} <= set(found))):
            found["side"] = types[0]
    if "price" in found and "amount" in found:
        found["amount"] = _in_base(found["price"], candidates("amount"), values)
    if all(name in found for name in ("open", "high", "low")) and "close" not in found and "price" in found:
        found["close"] = found.pop("price")  # an index's "Price" beside open, high and low is the last one
    if "amount" not in found and "price" in found and "open" not in found and "volume" in found:
        found["amount"] = found.pop("volume")
    if "homenotional" in places and "volume" in found and "open" in found:
        found["volume"] = places["homenotional"][0]
        if "foreignnotional" in places:  # beside it, a turnover counts satoshis
            found["quote_volume"] = places["foreignnotional"][0]
    found.update(_time(names, candidates("ts"), values))
    if not {"ts", "date"} & set(found):
        return {}
    taken = _BAR_TARGETS if all(price in found for price in PRICES) else _TRADE_TARGETS
    if taken is _TRADE_TARGETS and not {"price", "amount"} <= set(found):
        return {}
    # One column is one thing only: `t` is not both a time and a trade's number.
    result: dict[str, int] = {}
    for target, place in found.items():
        if target in taken and place not in result.values():
            result[target] = place
    return result


def _volumes(names: Sequence[str], usual: list[int], values: object) -> dict[str, int]:
    """Return the columns of base and quote volume: `Volume BTC` and `Volume USD`, `Volume_(Currency)`."""
    assert callable(values)
    found: dict[str, int] = {}
    traded = [place for place in usual if any(_nonzero(value) for value in values(place))]
    if usual:
        found["volume"] = (traded or usual)[0]
    spelled = {place: normalised(name) for place, name in enumerate(names)}
    tailed = {place: word.split("_")[1] for place, word in spelled.items() if re.fullmatch(r"volume_[a-z0-9]+", word)}
    quotes = [place for place, tail in tailed.items() if tail in _QUOTE_NAMES and tail != "base"]
    bases = [place for place, tail in tailed.items() if place not in quotes and tail not in ("quote", "traded")]
    if len(tailed) >= 2 and not bases:  # both are currencies: the first is the base asset's
        bases, quotes = quotes[:1], quotes[1:]
    assets = [place for place in bases if tailed[place].upper() in CRYPTO_ASSETS]
    if "volume" in found and assets and not quotes and found["volume"] not in tailed:
        # `volume_btc` beside `volume`: the plain one counts the quote currency.
        quotes, found["volume"] = [found["volume"]], assets[0]
    if "volume" not in found and bases:
        found["volume"] = bases[0]
    if quotes and "volume" in found and quotes[0] != found["volume"]:
        found["quote_volume"] = quotes[0]
    return found


def _in_base(price: int, amounts: list[int], values: object) -> int:
    """Return the column of the amount; of two of which one is the price times the other, the other."""
    assert callable(values)

    def numbers(place: int) -> list[float]:
        try:
            return [float(value) for value in values(place)]
        except ValueError:
            return []

    prices = numbers(price)
    for place in amounts[1:]:
        pairs = list(zip(prices, numbers(place), numbers(amounts[0]), strict=False))
        # Where all prices are 1 it cannot be told, and does not matter.
        if pairs and all(math.isclose(cost * amount, money, rel_tol=1e-3) for cost, amount, money in pairs):
            return place
    return amounts[0]


def _nonzero(text: str) -> bool:
    return text.lower() not in _NOTHING and bool(re.search(r"[1-9]", text))


def _time(names: Sequence[str], usual: list[int], values: object) -> dict[str, int]:
    """Return the column of the time, or the two of day and time of day."""
    assert callable(values)
    if not usual:
        return {}

    def all_match(place: int, pattern: re.Pattern[str]) -> bool:
        known = [value for value in values(place) if value.lower() not in _NOTHING]
        return bool(known) and sum(pattern.fullmatch(value) is not None for value in known) > 0.5 * len(known)

    # The index of a frame, and other columns with a name that says little, have to look like times.
    vague = [place for place in usual if normalised(names[place]) in ("", "index", "unnamed_0", "period", "start")]
    stamps = (_EPOCH, _DAY, _STAMP)
    usual = [place for place in usual if place not in vague or any(all_match(place, stamp) for stamp in stamps)]
    if not usual:
        return {}
    if epochs := [place for place in usual if all_match(place, _EPOCH)]:
        return {"ts": epochs[0]}
    days = [place for place in usual if all_match(place, _DAY)]
    clocks = [
        place
        for place in usual
        if place not in days and normalised(names[place]).endswith("time") and all_match(place, _CLOCK)
    ]
    if days and clocks:
        return {"date": days[0], "time": clocks[0]}
    named = [place for place in usual if place not in vague] or usual
    # A column of midnights only is worth less than one with the time of day.
    whole = [place for place in named if place not in days]
    return {"ts": (whole or named)[0]} if days else {"ts": named[0]}


#: The names that Coinbase gives to what it says of a trade; Tardis, ccxt and cryptofeed have others.
_COINBASE: Final = {"ts": "time", "trade_id": "trade_id", "amount": "size", "side": "side"}
#: Columns that say whether the taker bought.
_FLAGS_OF_BUYERS: Final = frozenset({"is_buy", "isbuy", "is_buyer_taker", "isbuyertaker", "taker_buys"})
_OPPOSITE: Final[dict[str, Literal["buy", "sell"]]] = {
    **dict.fromkeys(("buy", "b", "bid", "bids"), "sell"),
    **dict.fromkeys(("sell", "s", "a", "ask", "asks"), "buy"),
}


def words_of_side(columns: Mapping[str, str], venue: str) -> dict[str, Literal["buy", "sell"]]:
    """Return what the words of a column of sides mean for the taker, where they do not say it themselves.

    Coinbase names the side of the maker, in REST answers and in messages (docs.cdp.coinbase.com, "Get product trades"
    and "Matches channel"), and so does a column `maker_side` (Gemini's messages).  Bitstamp writes 0 for buy, 1 for
    sell.

    Args:
        columns: the file's name of each target, normalised.
        venue: where the trades were made.
    """
    if columns.get("side") == "maker_side":
        return dict(_OPPOSITE)
    if venue.startswith("coinbase") and _COINBASE.items() <= columns.items():
        return dict(_OPPOSITE)
    if columns.get("side") in _FLAGS_OF_BUYERS:
        return {"true": "buy", "1": "buy", "1.0": "buy", "false": "sell", "0": "sell", "0.0": "sell"}
    return {"0": "buy", "1": "sell"} if columns.get("side") == "type" else {}


# --- what is not trades or bars -----------------------------------------------------------------------------------

#: Columns that only another kind of table has, when they hold values, in the words of `normalised`.
_CERTAIN: Final[tuple[tuple[str, str], ...]] = (
    (r"is_snapshot|update_type|(first|last|final|prev)_update_id|prev_final_update_id", "order-book updates"),
    (r"(bids?|asks?)_\d+_(price|amount|size|px|sz)|(bid|ask)_(price|size|px|sz)_\d+|bids|asks", "an order book"),
    (r"strike|strike_price|option_type|underlying_price|mark_iv|bid_iv", "an option chain"),
    (r"filled|filled_(qty|quantity|size|amount)|remaining|leaves_qty|cum_exec_qty|cumqty|leavesqty", "orders"),
    (r"order_status|ord_status|time_in_force|timeinforce", "orders"),
)
#: Columns that trades may have as well: taken in where `table: market.trades` is declared.
_LIKELY: Final[tuple[tuple[str, str], ...]] = (
    (r"bid|ask|best_bid|best_ask|(bid|ask)_(price|size|qty|volume|px|sz)|(bid|ask)volume", "quotes"),
    (r"fee|commission|fee_coin|fee_currency|realized_pnl|realizedpnl", "an account's own fills"),
    (r"liquidation|liquidated|is_liquidation|liq_price", "liquidations"),
    (r"level|depth|book_level|position_in_book", "levels of an order book"),
    (r"order_id|orderid|client_order_id", "orders"),
    (r"funding_rate|fundingrate|open_interest|openinterest", "funding or open interest"),
)
#: Words in the name of a file, or the whole name of a folder above it.
_WORDS: Final[tuple[tuple[str, str], ...]] = (
    (r"liquidations?|liquidation_?snapshot|force_?orders?", "liquidations"),
    (
        r"incremental_?book(_?l[23])?|book_?snapshots?(_?\d+)?|order_?books?(_?l[23])?|l2_?book|book_?depth",
        "an order book",
    ),
    (r"depth(_?snapshots?|_?updates?)?|mbo|mbp_?\d*|book_?(delta|update)s?", "an order book"),
    (r"book_?tickers?|quotes|bbo|nbbo|best_?bid_?ask", "quotes"),
    (r"open_?orders?|order_?history|orders", "orders"),
    (r"(my|own|user|account)_?(trades|fills)|fills", "an account's own fills"),
    (r"funding(_?rates?)?|derivative_?tickers?|open_?interest", "funding or open interest"),
    (r"options?_?chains?|greeks", "an option chain"),
)
#: Prices that were never traded; no declaration makes them so.
_UNTRADED: Final = re.compile(
    r"(?<![a-z])(mark_?price|index_?price|premium_?index)(_?klines?)?(?![a-z])"
    r"|(?<=-)(mark|index|premiumindex|funding_rate)(?=[.-]|$)",
    re.IGNORECASE,
)
#: Columns of sides that only trades have, so that bid and ask in them are no order book.
_OF_TRADES: Final = frozenset({"maker_side", "taker_side", "ask_bid", "aggressor_side", "aggressor"})
_LOBSTER: Final = re.compile(r"_\d{8,}_\d{8,}_(message|orderbook)_\d+", re.IGNORECASE)
_BOOK_ACTIONS: Final = frozenset({"insert", "update", "delete", "partial", "add", "modify", "cancel", "a", "c", "m"})
_BOOK_EVENTS: Final = frozenset({"open", "received", "done", "change", "snapshot", "l2update", "delta"})
_FOLDERS_ABOVE: Final = 6


def refuse_by_name(probe: FileProbe) -> None:
    """Refuse a file whose name, or a folder's above it, says that it holds no trades and no bars of trades.

    Raises:
        RejectedFileError: `unsupported_content`.
    """
    own = [probe.inner_name, probe.name, *probe.member.split("/")]
    folders = [parent.name for parent in list(probe.path.parents)[:_FOLDERS_ABOVE]]
    for name in [*own, *folders]:
        if found := _UNTRADED.search(name):
            raise _other(probe, f"{found[0]} candles are not made of trades", overridable=False)
        if _LOBSTER.search(name):
            raise _other(probe, "order events and order books in LOBSTER's format", overridable=False)
    if probe.declared.table is not None:
        return
    for pattern, what in _WORDS:
        if found_in := next(
            (name for name in own if re.search(rf"(?<![a-z])({pattern})(?![a-z])", name, re.IGNORECASE)), None
        ):
            raise _other(probe, f"the name {found_in!r} says that it holds {what}")
        if folder := next((folder for folder in folders if re.fullmatch(pattern, folder, re.IGNORECASE)), None):
            raise _other(probe, f"the folder {folder!r} says that it holds {what}")


def refuse_other_tables(
    names: Sequence[str], rows: Sequence[Sequence[str]], probe: FileProbe, *, bars: bool = False
) -> None:
    """Refuse a table whose columns and first values say that its rows are not trades.

    Args:
        names: the header.
        rows: first rows as text; a column without values says nothing.
        probe: the file; a declared `table` overrides what is not certain.
        bars: whether the columns are those of bars, which may have quotes or open interest beside them.

    Raises:
        RejectedFileError: `unsupported_content`.
    """
    words = [normalised(name) for name in names]
    _refuse_fixed_point(words, rows, probe)
    if bars:
        return

    def values(place: int) -> set[str]:
        return {row[place].strip().lower() for row in rows if place < len(row)} - _NOTHING

    used = {word: found for place, word in enumerate(words) if (found := values(place)) or not rows}
    if not used:
        used = {word: set() for word in words}
    for pattern, what in _CERTAIN:
        if column := next((name for name in used if re.fullmatch(pattern, name)), None):
            raise _other(probe, f"the column {column!r} belongs to {what}", overridable=False)
    for column, known in (("action", _BOOK_ACTIONS), ("type", _BOOK_EVENTS), ("event", _BOOK_EVENTS)):
        if used.get(column, set()) & known:
            raise _other(
                probe, f"{column} is {min(used[column] & known)!r}: events of an order book", overridable=False
            )
    if probe.declared.table is not None:
        return
    for pattern, what in _LIKELY:
        if what.startswith("funding") and {"price", "side"} <= set(used):
            continue
        if what == "liquidations" and "liquidation" in words:
            told = {row[place].strip().lower() for row in rows if (place := words.index("liquidation")) < len(row)}
            if told & {"", "none", "null", "false", "0", "no"}:
                continue  # a flag of some trades among others
        if column := next((name for name in used if re.fullmatch(pattern, name)), None):
            raise _other(probe, f"the column {column!r} belongs to {what}")
    sides = next((used[name] for name in _NAMES["side"] if name in used and name not in _OF_TRADES), set())
    if sides and sides <= {"bid", "ask", "bids", "asks"} and not probe.declared.sides:
        raise _other(probe, f"side is {' or '.join(sorted(sides))}, as in an order book")


def _refuse_fixed_point(words: list[str], rows: Sequence[Sequence[str]], probe: FileProbe) -> None:
    """Refuse Databento's prices in whole numbers of 1e-9, which read as prices a thousand million times too high."""
    if not {"rtype", "publisher_id"} <= set(words):
        return
    places = [place for place, word in enumerate(words) if word in ("price", *PRICES)]
    cells = [row[place] for row in rows for place in places if place < len(row)]
    if cells and all(re.fullmatch(r"-?\d{5,}", cell) for cell in cells):
        raise RejectedFileError(
            "wrong_schema",
            f"prices are whole numbers of 1e-9, such as {cells[0]}",
            where=probe.name,
            hint="Export the file again with decimal prices (`pretty_px`).",
        )


def _other(probe: FileProbe, what: str, *, overridable: bool = True) -> RejectedFileError:
    hint = (
        f"If its rows are executed trades, declare `table: market.trades` in {probe.name}.mapping.yaml "
        "(bars: `table: market.bars`)."
        if overridable
        else "The lake has no table for them."
    )
    return RejectedFileError("unsupported_content", what, where=probe.name, hint=hint)
