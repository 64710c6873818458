"""How each exchange is asked for trades and bars over REST, and how its answers read.

One `Venue` per exchange: which endpoint, how its pages follow each other, what its fields mean.  Requests
go through ccxt's own endpoint methods (`publicGetAggTrades`, ...), so ccxt signs, throttles and knows the
hosts; its unified parsers are bypassed where an exchange is known here, because they cut times to
milliseconds, drop quote volume and trade counts, and let one malformed row fail a whole page.  Any other
exchange is read through the unified methods (`Unified`).

A venue yields pages in order of time; what is repeated, out of order or outside the span is sorted out by
`ccxt_exchange`, which also retries.  Times are microseconds since 1970 throughout.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from datetime import datetime
from decimal import Decimal, InvalidOperation
from functools import partial
from typing import Any, ClassVar, Final, NamedTuple

from hfthot_platform.core.errors import HistoryUnavailableError
from hfthot_platform.core.intervals import interval as interval_of
from hfthot_platform.core.time import DAY, HOUR, MILLISECOND, MINUTE, SECOND, microseconds, moment
from hfthot_platform.domain.market.symbols import from_pair

__all__ = [
    "INTERVALS",
    "VENUES",
    "BadRowError",
    "BarRow",
    "CallEndpoint",
    "Page",
    "StalledError",
    "TimeRange",
    "TradeRow",
    "UnexpectedAnswerError",
    "Venue",
    "canonical_symbol",
]

#: The intervals that every venue is asked for.
INTERVALS: Final = ("1m", "5m", "15m", "1h", "1d")
# How often a page that brings nothing new is asked for before it is believed: caches and load balancers
# do serve empty and stale pages in the middle of a walk.
_PATIENCE: Final = 3
# A span that is walked backwards is cut into pieces of about this many rows, which bounds memory.
_PIECE_ROWS: Final = 20_000

Market = dict[str, Any]
#: Calls an endpoint by its ccxt method name with parameters and picks the rows out of the answer.
CallEndpoint = Callable[[str, dict[str, Any], Callable[[Any], list[Any]]], list[Any]]


class TradeRow(NamedTuple):
    """One trade: amount in base currency, side of the taker."""

    ts: int
    trade_id: str | None
    price: float
    amount: float
    side: str | None


class BarRow(NamedTuple):
    """One bar: volumes in base and quote currency; `closed` is the venue's own word, where it has one."""

    ts: int
    open: float
    high: float
    low: float
    close: float
    volume: float
    quote_volume: float | None = None
    trades: int | None = None
    buy_volume: float | None = None
    closed: bool | None = None


class BadRow(NamedTuple):
    """A row that does not read: the raw row, a machine-readable reason, the same in words."""

    raw: Any
    reason: str
    detail: str


class Page(NamedTuple):
    """Rows of one answer, and the time up to which (exclusively) everything has now been yielded."""

    rows: list[Any]
    bad: list[BadRow]
    complete_to: int


@dataclass(frozen=True)
class TimeRange:
    """What is wanted: start <= time < stop, in microseconds, and the time at which it is asked."""

    start: int
    stop: int
    now: int


class BadRowError(ValueError):
    """A row does not read; `reason` is machine-readable."""

    def __init__(self, reason: str, detail: str) -> None:
        self.reason = reason
        super().__init__(detail)


class UnexpectedAnswerError(ValueError):
    """An answer is not of the documented shape (cut off, an error page, a proxy's words)."""


class StalledError(RuntimeError):
    """The venue answers, but the same page again and again."""


def canonical_symbol(market: Market) -> str | None:
    """Return a ccxt market's canonical symbol, or None for what has none here (options, indices)."""
    base, quote = market.get("base"), market.get("quote")
    if not base or not quote:
        return None
    if market.get("spot"):
        return from_pair(base, quote)
    if market.get("swap"):
        return from_pair(base, quote, "PERP")
    if market.get("future") and market.get("expiry"):
        return from_pair(base, quote, f"{moment(int(market['expiry']) * 1000):%y%m%d}")
    return None


# --- reading one field ---------------------------------------------------------------------------------


def _number(value: Any, field: str) -> float:
    if isinstance(value, str | int | float) and not isinstance(value, bool):
        try:
            return float(value)
        except ValueError:
            pass
    raise BadRowError("bad_number", f"{field} is not a number: {value!r}")


def _prices(raw: Any, *fields: int | str) -> tuple[float, float, float, float]:
    """Return open, high, low and close from their fields."""
    names = zip(fields, ("open", "high", "low", "close"), strict=True)
    first, highest, lowest, last = (_number(raw[field], name) for field, name in names)
    return first, highest, lowest, last


def _optional(value: Any, field: str) -> float | None:
    return None if value is None or value == "" else _number(value, field)


def _count(value: Any, field: str) -> int:
    number = _number(value, field)
    if not number.is_integer():
        raise BadRowError("bad_number", f"{field} is not a whole number: {value!r}")
    return int(number)


def _epoch(value: Any, per_second: int) -> int:
    """Return microseconds of a number of 1/per_second seconds, exactly, cutting off what is finer."""
    try:
        us = int(Decimal(str(value)) * (SECOND // per_second))
    except (InvalidOperation, OverflowError, ValueError):
        raise BadRowError("bad_time", f"not a time: {value!r}") from None
    if not 0 <= us < 4_102_444_800_000_000:  # the year 2100, as in the contracts
        raise BadRowError("bad_time", f"not between 1970 and 2100: {value!r}")
    return us


def _iso(value: Any) -> int:
    try:
        time = datetime.fromisoformat(value)
    except (TypeError, ValueError):
        raise BadRowError("bad_time", f"not an ISO 8601 time: {value!r}") from None
    if time.tzinfo is None:
        raise BadRowError("bad_time", f"a time without a zone: {value!r}")
    return microseconds(time)


def _trade_id(value: Any) -> str | None:
    """Return a venue's trade id as text, or None where the venue gives none."""
    if value is None or value == "":
        return None
    if isinstance(value, bool | float | list | dict) or str(value).startswith("-"):
        raise BadRowError("bad_trade_id", f"not a trade id: {value!r}")
    return str(value)


def _numeric_id(value: Any) -> str:
    """Return a trade id of a venue that numbers its trades."""
    if not str(value).isdecimal():
        raise BadRowError("bad_trade_id", f"not a number: {value!r}")
    return str(value)


def _side(value: Any, buy: str, sell: str) -> str:
    if value == buy:
        return "buy"
    if value == sell:
        return "sell"
    raise BadRowError("bad_side", f"expected {buy} or {sell}, found {value!r}")


def _rows(answer: Any) -> list[Any]:
    if isinstance(answer, list):
        return answer
    raise UnexpectedAnswerError(f"expected a list, found {type(answer).__name__}")


def _field(answer: Any, *path: str) -> Any:
    for name in path:
        if not isinstance(answer, dict) or name not in answer:
            raise UnexpectedAnswerError(f"the answer has no {'.'.join(path)}")
        answer = answer[name]
    return answer


def _ms(us: int) -> int:
    return us // 1000


def _ms_up(us: int) -> int:
    return -(-us // 1000)


# --- venues --------------------------------------------------------------------------------------------


class Venue:
    """One exchange's paging and fields.  Subclasses say which endpoint and what its answer means."""

    #: Rows per page that the exchange gives at most.
    trades_per_page: ClassVar[int] = 1000
    bars_per_page: ClassVar[int] = 1000
    #: ccxt options that keep the market list to what can be fetched here.
    options: ClassVar[dict[str, Any]] = {}

    def __init__(self, ask: CallEndpoint, page_rows: int | None = None) -> None:
        self._ask = ask
        self._trades_limit = min(page_rows or self.trades_per_page, self.trades_per_page)
        self._bars_limit = min(page_rows or self.bars_per_page, self.bars_per_page)

    def trades(self, market: Market, span: TimeRange) -> Iterator[Page]:
        """Yield the span's trades."""
        raise NotImplementedError

    def bars(self, market: Market, interval: str, span: TimeRange) -> Iterator[Page]:
        """Yield the span's bars, by open time."""
        raise NotImplementedError

    def newest_trades(self, market: Market) -> Page:
        """Return the newest trades, in one request."""
        raise NotImplementedError

    def newest_bars(self, market: Market, interval: str, now: int) -> Page:
        """Return the newest bars, the unfinished one included, in one request."""
        raise NotImplementedError

    def read_trade(self, raw: Any, market: Market) -> TradeRow:
        """Read one trade.

        Raises:
            BadRowError: with a reason; KeyError, IndexError and TypeError count as a missing field.
        """
        raise NotImplementedError

    def read_bar(self, raw: Any, market: Market) -> BarRow:
        """Read one bar; errors as in `read_trade`."""
        raise NotImplementedError

    def _read_trades(self, raws: Iterable[Any], market: Market) -> Page:
        return _read(raws, lambda raw: self.read_trade(raw, market))

    def _read_bars(self, raws: Iterable[Any], market: Market) -> Page:
        return _read(raws, lambda raw: self.read_bar(raw, market))

    @staticmethod
    def _page_of(read: Callable[[Iterable[Any], Market], Page], ask: Callable[[], list[Any]], market: Market) -> Page:
        return read(ask(), market)

    def _bar_windows(
        self, span: TimeRange, interval: str, market: Market, ask: Callable[[int, int], list[Any]]
    ) -> Iterator[Page]:
        """Walk forward in windows of a page's bars; `ask` gets the first and the last open time wanted."""
        length = interval_of(interval).microseconds
        at, stop = _aligned_up(max(span.start, _listed(market)), length), _aligned_up(span.stop, length)
        while at < stop:
            after = min(at + self._bars_limit * length, stop)
            window = partial(ask, at, after - length)
            useful = partial(_has_rows_between, at, after)
            page = _until(useful, partial(self._page_of, self._read_bars, window, market))
            yield page._replace(complete_to=after)
            at = after

    def _backwards(
        self,
        span: TimeRange,
        market: Market,
        newest: Callable[[int, int], list[Any]],
        older: Callable[[int, list[TradeRow]], list[Any]],
    ) -> Iterator[Page]:
        """Walk a venue that pages from new to old, in pieces short enough to be held and turned round.

        Args:
            span: what is wanted.
            market: of which market.
            newest: asks for the newest page of low <= time < high.
            older: asks for the page before the given rows (never empty), not before low.
        """
        low, length = max(span.start, _listed(market)), HOUR
        while low < span.stop:
            high = min(low + length, span.stop)
            known: dict[TradeRow, None] = {}
            bad: list[BadRow] = []
            while True:
                rows = list(known)
                window = partial(older, low, rows) if rows else partial(newest, low, high)
                follows = partial(_follows, known=set(known))
                page = _until(follows, partial(self._page_of, self._read_trades, window, market))
                bad += page.bad
                before = len(known)
                known |= dict.fromkeys(page.rows)
                if page.bad and not page.rows:
                    raise StalledError("a page has no readable row, so the next page is unknown")
                if len(known) == before or min(row.ts for row in known) < low:
                    break
            rows = [row for row in known if low <= row.ts < high]
            yield Page(rows, bad, high)
            low = high
            if len(rows) > _PIECE_ROWS:
                length = max(length // 2, MINUTE)
            elif len(rows) < _PIECE_ROWS // 4:
                length = min(length * 2, 7 * DAY)


def _follows(older: Page, known: set[TradeRow]) -> bool:
    """Return whether an older page leaves no gap to the rows known: venues number trades consecutively.

    A page that was skipped or repeated on the way is asked for again; a gap that stays is the venue's own.
    """
    wanted = min((int(row.trade_id or 0) for row in known), default=None)
    if wanted is None:
        return _has_rows(older)
    return any(int(row.trade_id or 0) == wanted - 1 for row in older.rows)


def _read(raws: Iterable[Any], read: Callable[[Any], Any]) -> Page:
    rows, bad = [], []
    for raw in raws:
        try:
            rows.append(read(raw))
        except BadRowError as error:
            bad.append(BadRow(raw, error.reason, str(error)))
        except KeyError as error:
            bad.append(BadRow(raw, "missing_field", f"no field {error}"))
        except (IndexError, TypeError, AttributeError):
            bad.append(BadRow(raw, "malformed_row", f"a {type(raw).__name__} without the expected fields"))
    return Page(rows, bad, 0)


def _until(useful: Callable[[Page], bool], ask: Callable[[], Page]) -> Page:
    """Ask until an answer is useful, at most `_PATIENCE` times; return the last answer.

    The others are dropped: rows of elsewhere would move a cursor past what lies between, and come again.
    """
    page = ask()
    for _ in range(_PATIENCE - 1):
        if useful(page):
            break
        page = ask()
    return page


def _has_rows(page: Page) -> bool:
    return bool(page.rows or page.bad)


def _has_rows_between(low: int, high: int, page: Page) -> bool:
    """Return whether a page has a row of low <= time < high: an older answer may come once more."""
    return bool(page.bad) or any(low <= row.ts < high for row in page.rows)


def _aligned_up(us: int, length: int) -> int:
    return -(-us // length) * length


def _listed(market: Market) -> int:
    """Return when the market was created, where known: nothing needs to be asked before."""
    created = market.get("created")
    return int(created) * 1000 if isinstance(created, int | float) and created > 0 else 0


def _base_amount(market: Market, amount: float, price: float) -> float:
    """Turn contracts into base currency."""
    size = market.get("contractSize")
    if not market.get("contract") or not size:
        return amount
    return amount * float(size) / price if market.get("inverse") and price else amount * float(size)


class Binance(Venue):
    """Binance spot, USD-M and COIN-M.

    Trades are aggregate trades (what one taker order did at one price) under their aggregate ids, as in the
    archive's aggTrades files: the only ones with history without an API key.  A first page is found by time
    (windows of at most an hour), the following ones by id, which are without gaps.
    """

    options: ClassVar[dict[str, Any]] = {"fetchMarkets": {"types": ["spot", "linear", "inverse"]}}

    def trades(self, market: Market, span: TimeRange) -> Iterator[Page]:
        last = _ms(span.stop - 1)
        at = _ms(max(span.start, _listed(market)))
        next_id: int | None = None
        sought_first = False
        while at <= last:
            if next_id is None:
                until = min(at + HOUR // MILLISECOND - 1, last)
                page = self._window(market, at, until)
                if not _ids(page):
                    if not sought_first:  # before the market's first trade there is nothing to step through
                        first = self._agg_trades(market, fromId=0).rows
                        until = max(until, _ms(first[0].ts) - 1) if first else last
                        sought_first = True
                    yield page._replace(complete_to=min((until + 1) * 1000, span.stop))
                    at = until + 1
                    continue
                sought_first = True
            else:
                page = self._from_id(market, next_id)
                if max(_ids(page), default=-1) < next_id:
                    if page.rows:
                        raise StalledError(
                            f"asked for trades from id {next_id} on, but got older ones {_PATIENCE} times"
                        )
                    if max(_ids(self._agg_trades(market)), default=-1) < next_id:
                        yield page._replace(complete_to=span.stop)
                        return
                    # Nothing by id, yet there are newer trades: their ids jump, so they are sought by time.
                    next_id, at = None, at + 1
                    yield page._replace(complete_to=min(at * 1000, span.stop))
                    continue
            at = max(at, *(_ms(row.ts) for row in page.rows)) if page.rows else at
            next_id = max(_ids(page)) + 1
            yield page._replace(complete_to=min(at * 1000, span.stop))

    def _window(self, market: Market, first_ms: int, last_ms: int) -> Page:
        """Return a window's first trades.

        Where a window holds more than a page, ccxt's notes say that its last trades are given, the exchange
        gives its first: so what lies before a full page is looked at, back to the begin of the window.
        """
        page = self._agg_trades(market, startTime=first_ms, endTime=last_ms)
        while len(page.rows) >= self._trades_limit:
            oldest = min(_ids(page))
            before = self._agg_trades(market, fromId=max(oldest - self._trades_limit, 0))
            missed = [row for row in before.rows if int(row.trade_id or 0) < oldest and _ms(row.ts) >= first_ms]
            if not missed:
                break
            page = Page([*missed, *page.rows], page.bad, 0)
        return page

    def _from_id(self, market: Market, next_id: int) -> Page:
        query = {"symbol": market["id"], "limit": self._trades_limit, "fromId": next_id}
        method = f"{_binance_api(market)}GetAggTrades"
        return _until(
            lambda page: next_id in _ids(page), lambda: self._read_trades(self._ask(method, query, _rows), market)
        )

    def _agg_trades(self, market: Market, **params: int) -> Page:
        query = {"symbol": market["id"], "limit": self._trades_limit, **params}
        method = f"{_binance_api(market)}GetAggTrades"
        return _until(_has_rows, lambda: self._read_trades(self._ask(method, query, _rows), market))

    def newest_trades(self, market: Market) -> Page:
        return self._agg_trades(market)

    def bars(self, market: Market, interval: str, span: TimeRange) -> Iterator[Page]:
        method = f"{_binance_api(market)}GetKlines"
        query = {"symbol": market["id"], "interval": interval, "limit": self._bars_limit}
        return self._bar_windows(
            span,
            interval,
            market,
            lambda low, high: self._ask(method, {**query, "startTime": _ms(low), "endTime": _ms(high)}, _rows),
        )

    def newest_bars(self, market: Market, interval: str, now: int) -> Page:  # noqa: ARG002
        query = {"symbol": market["id"], "interval": interval, "limit": self._bars_limit}
        return self._read_bars(self._ask(f"{_binance_api(market)}GetKlines", query, _rows), market)

    def read_trade(self, raw: Any, market: Market) -> TradeRow:
        price = _number(raw["p"], "p")
        maker_bought = raw["m"]
        if not isinstance(maker_bought, bool):
            raise BadRowError("bad_side", f"m is not a boolean: {maker_bought!r}")
        number = _numeric_id(raw["a"])
        amount = _base_amount(market, _number(raw["q"], "q"), price)
        return TradeRow(_epoch(raw["T"], 1000), number, price, amount, "sell" if maker_bought else "buy")

    def read_bar(self, raw: Any, market: Market) -> BarRow:
        prices = _prices(raw, 1, 2, 3, 4)
        volume, other, bought, bought_other = (_number(raw[n], f"field {n}") for n in (5, 7, 9, 10))
        if market.get("inverse"):  # counted in contracts, with the base amount beside it
            contract_size = float(market["contractSize"])
            volume, other, bought = other, volume * contract_size, bought_other
        return BarRow(_epoch(raw[0], 1000), *prices, volume, other, _count(raw[8], "trades"), bought)


def _ids(page: Page) -> set[int]:
    """Return the ids of a page's trades, of the unreadable ones too as far as they have one."""
    unread = (row.raw.get("a") for row in page.bad if isinstance(row.raw, dict))
    return {*(int(row.trade_id) for row in page.rows), *(number for number in unread if isinstance(number, int))}


def _binance_api(market: Market) -> str:
    if market.get("linear"):
        return "fapiPublic"
    return "dapiPublic" if market.get("inverse") else "public"


class Kraken(Venue):
    """Kraken spot.  Trades follow a cursor in nanoseconds; of bars only the newest 720 exist."""

    bars_per_page = 720

    def trades(self, market: Market, span: TimeRange) -> Iterator[Page]:
        # `since` is exclusive: one nanosecond earlier, or a trade at the same time as a page's last would
        # be lost at the page's edge; only a page of nothing but one time has to be left behind exclusively.
        last, next_id, overlap = span.start * 1000 - 1, None, 0
        while last < span.stop * 1000:
            page, reached = self._after(market, last - overlap, last, next_id)
            yield page._replace(complete_to=max(span.start, min(reached // 1000, span.stop)))
            next_id = max((int(row.trade_id) + 1 for row in page.rows if row.trade_id), default=next_id)
            if reached > last:
                last, overlap = reached, 1
            elif overlap and len(page.rows) + len(page.bad) >= self._trades_limit:
                overlap = 0
            else:
                return

    def _after(
        self, market: Market, since: int | None, reached: int = -1, next_id: int | None = None
    ) -> tuple[Page, int]:
        """Return the page behind `since`, and the time of its last trade in nanoseconds.

        Asked again while it brings nothing beyond `reached` or leaves out `next_id`: ids are consecutive.
        """
        query = {"pair": market["id"], "count": self._trades_limit}
        if since is not None:
            query["since"] = str(since)
        last = -1

        def pick(answer: Any) -> list[Any]:
            nonlocal last
            result = _field(answer, "result")
            try:
                last = int(_field(result, "last"))
            except (TypeError, ValueError):
                raise UnexpectedAnswerError("the cursor `last` is not a number") from None
            return _kraken_rows(result)

        page = _until(
            lambda page: (
                _has_rows(page)
                and last > reached
                and (next_id is None or any(row.trade_id == str(next_id) for row in page.rows))
            ),
            lambda: self._read_trades(self._ask("publicGetTrades", query, pick), market),
        )
        return page, last

    def newest_trades(self, market: Market) -> Page:
        return self._after(market, None)[0]

    def bars(self, market: Market, interval: str, span: TimeRange) -> Iterator[Page]:
        length = interval_of(interval).microseconds
        page = self._ohlc(market, interval, since=(span.start - length) // SECOND)
        first = min((row.ts for row in page.rows), default=span.start)
        wanted = _aligned_up(span.start, length)
        if len(page.rows) + len(page.bad) >= self.bars_per_page and first > wanted:
            raise _too_old("Kraken keeps only the newest 720 bars", first, "Fetch market.trades and derive the bars.")
        yield page._replace(complete_to=span.stop)

    def newest_bars(self, market: Market, interval: str, now: int) -> Page:  # noqa: ARG002
        return self._ohlc(market, interval)

    def _ohlc(self, market: Market, interval: str, **params: int) -> Page:
        query = {"pair": market["id"], "interval": interval_of(interval).microseconds // MINUTE, **params}

        def pick(answer: Any) -> list[Any]:
            return _kraken_rows(_field(answer, "result"))

        return _until(_has_rows, lambda: self._read_bars(self._ask("publicGetOHLC", query, pick), market))

    def read_trade(self, raw: Any, market: Market) -> TradeRow:  # noqa: ARG002
        # Before 2021 the arrays have six fields and no trade id.
        if not isinstance(raw, list):
            raise BadRowError("malformed_row", f"expected an array, found {type(raw).__name__}")
        trade_id = _trade_id(raw[6]) if len(raw) > 6 else None
        price, amount = _number(raw[0], "price"), _number(raw[1], "volume")
        return TradeRow(_epoch(raw[2], 1), trade_id, price, amount, _side(raw[3], "b", "s"))

    def read_bar(self, raw: Any, market: Market) -> BarRow:  # noqa: ARG002
        prices = _prices(raw, 1, 2, 3, 4)
        return BarRow(_epoch(raw[0], 1), *prices, _number(raw[6], "volume"), None, _count(raw[7], "count"))


def _kraken_rows(result: Any) -> list[Any]:
    """Return the rows, whose field is named after the pair in one of Kraken's several spellings."""
    if not isinstance(result, dict):
        raise UnexpectedAnswerError("the result is not an object")
    return _rows(next((rows for name, rows in result.items() if name != "last"), None))


class Okx(Venue):
    """OKX.  Trades are paged backwards and kept for three months; days are asked for as UTC days."""

    trades_per_page = 100
    bars_per_page = 100
    options: ClassVar[dict[str, Any]] = {"fetchMarkets": {"types": ["spot", "swap", "future"]}}
    _BARS: ClassVar[dict[str, str]] = {"1m": "1m", "5m": "5m", "15m": "15m", "1h": "1H", "1d": "1Dutc"}
    _KEPT_US: ClassVar[int] = 90 * DAY

    def trades(self, market: Market, span: TimeRange) -> Iterator[Page]:
        kept_from = span.now - self._KEPT_US
        if max(span.start, _listed(market)) < kept_from:
            hint = "Earlier trades are in OKX's download archive."
            raise _too_old("OKX keeps trades for only three months", kept_from, hint)
        query = {"instId": market["id"], "limit": self._trades_limit}
        method = "publicGetMarketHistoryTrades"
        return self._backwards(
            span,
            market,
            # type 2 pages by time, type 1 by trade id; `after` asks for what is older, exclusively
            lambda _, high: self._ask(method, {**query, "type": "2", "after": str(_ms_up(high))}, _okx_data),
            lambda _, rows: self._ask(
                method,
                {**query, "type": "1", "after": str(min(int(row.trade_id or 0) for row in rows))},
                _okx_data,
            ),
        )

    def newest_trades(self, market: Market) -> Page:
        return self._read_trades(self._ask("publicGetMarketTrades", {"instId": market["id"]}, _okx_data), market)

    def bars(self, market: Market, interval: str, span: TimeRange) -> Iterator[Page]:
        length = interval_of(interval).microseconds

        def window(low: int, high: int) -> list[Any]:
            recent = low >= span.now - 1439 * length
            query = {
                "instId": market["id"],
                "bar": self._BARS[interval],
                "limit": self._bars_limit,
                "before": str(_ms(low) - 1),
                "after": str(_ms(high) + 1),
            }
            method = "publicGetMarketCandles" if recent else "publicGetMarketHistoryCandles"
            return self._ask(method, query, _okx_data)

        return self._bar_windows(span, interval, market, window)

    def newest_bars(self, market: Market, interval: str, now: int) -> Page:  # noqa: ARG002
        query = {"instId": market["id"], "bar": self._BARS[interval], "limit": self._bars_limit}
        return self._read_bars(self._ask("publicGetMarketCandles", query, _okx_data), market)

    def read_trade(self, raw: Any, market: Market) -> TradeRow:
        price = _number(raw["px"], "px")
        amount = _base_amount(market, _number(raw["sz"], "sz"), price)
        number = _numeric_id(raw["tradeId"])
        return TradeRow(_epoch(raw["ts"], 1000), number, price, amount, _side(raw["side"], "buy", "sell"))

    def read_bar(self, raw: Any, market: Market) -> BarRow:
        prices = _prices(raw, 1, 2, 3, 4)
        # field 5 counts contracts for derivatives; 6 is base currency for them and quote currency for spot
        volume = _number(raw[6 if market.get("contract") else 5], "volume")
        closed = {"0": False, "1": True}.get(str(raw[8]))
        return BarRow(_epoch(raw[0], 1000), *prices, volume, _optional(raw[7], "volCcyQuote"), closed=closed)


def _okx_data(answer: Any) -> list[Any]:
    return _rows(_field(answer, "data"))


class Coinbase(Venue):
    """Coinbase Advanced Trade.  Trades are paged backwards by whole seconds.

    Its `side` is the maker's: in a recording of 2026-08-09, of 79 trades beside a known best bid and ask, 50
    of 51 above the middle were SELL and 27 of 28 below it BUY.  It is turned round here.
    """

    bars_per_page = 300
    options: ClassVar[dict[str, Any]] = {"fetchMarkets": "fetchMarketsV3"}
    _BARS: ClassVar[dict[str, str]] = {
        "1m": "ONE_MINUTE",
        "5m": "FIVE_MINUTE",
        "15m": "FIFTEEN_MINUTE",
        "1h": "ONE_HOUR",
        "1d": "ONE_DAY",
    }

    def trades(self, market: Market, span: TimeRange) -> Iterator[Page]:
        def page(low: int, high_s: int) -> list[Any]:
            return self._ticker(market, start=str(low // SECOND), end=str(high_s))

        def older(low: int, rows: list[TradeRow]) -> list[Any]:
            oldest = min(row.ts for row in rows) // SECOND
            if sum(row.ts // SECOND == oldest for row in rows) >= self._trades_limit:
                second = moment(oldest * SECOND)
                raise StalledError(f"there are {self._trades_limit} or more trades in the second {second:%H:%M:%S}")
            return page(low, oldest + 1)

        return self._backwards(span, market, lambda low, high: page(low, -(-high // SECOND)), older)

    def newest_trades(self, market: Market) -> Page:
        return self._read_trades(self._ticker(market), market)

    def _ticker(self, market: Market, **params: str) -> list[Any]:
        query = {"product_id": market["id"], "limit": self._trades_limit, **params}
        method = "v3PublicGetBrokerageMarketProductsProductIdTicker"
        return self._ask(method, query, lambda answer: _rows(_field(answer, "trades")))

    def bars(self, market: Market, interval: str, span: TimeRange) -> Iterator[Page]:
        return self._bar_windows(span, interval, market, lambda low, high: self._candles(market, interval, low, high))

    def newest_bars(self, market: Market, interval: str, now: int) -> Page:
        length = interval_of(interval).microseconds
        newest = now // length * length
        low = newest - (self._bars_limit - 1) * length
        return self._read_bars(self._candles(market, interval, low, newest), market)

    def _candles(self, market: Market, interval: str, low: int, high: int) -> list[Any]:
        query = {
            "product_id": market["id"],
            "granularity": self._BARS[interval],
            "start": str(low // SECOND),
            "end": str(high // SECOND),
        }
        method = "v3PublicGetBrokerageMarketProductsProductIdCandles"
        return self._ask(method, query, lambda answer: _rows(_field(answer, "candles")))

    def read_trade(self, raw: Any, market: Market) -> TradeRow:
        price = _number(raw["price"], "price")
        amount = _base_amount(market, _number(raw["size"], "size"), price)
        side = None if raw.get("side") in ("", "UNKNOWN_ORDER_SIDE") else _side(raw["side"], "SELL", "BUY")
        return TradeRow(_iso(raw["time"]), _numeric_id(raw["trade_id"]), price, amount, side)

    def read_bar(self, raw: Any, market: Market) -> BarRow:
        prices = _prices(raw, "open", "high", "low", "close")
        volume = _base_amount(market, _number(raw["volume"], "volume"), prices[3])
        return BarRow(_epoch(raw["start"], 1), *prices, volume)


class Hyperliquid(Venue):
    """Hyperliquid.  REST has no trade history, only the last few trades; of bars the newest 5000 exist."""

    bars_per_page = 5000
    options: ClassVar[dict[str, Any]] = {"fetchMarkets": {"types": ["spot", "swap"]}}
    _KEPT_BARS: ClassVar[int] = 5000

    def trades(self, market: Market, span: TimeRange) -> Iterator[Page]:
        page = self.newest_trades(market)
        oldest = min((row.ts for row in page.rows), default=span.now)
        # Trades of the oldest time itself may be cut off.
        if oldest >= span.start:
            hint = "Collect the newest trades regularly, or fetch bars."
            raise _too_old("Hyperliquid returns only the latest trades over REST", oldest + 1, hint)
        yield page._replace(complete_to=span.stop)

    def newest_trades(self, market: Market) -> Page:
        return self._read_trades(
            self._ask("publicPostInfo", {"type": "recentTrades", "coin": _coin(market)}, _rows), market
        )

    def bars(self, market: Market, interval: str, span: TimeRange) -> Iterator[Page]:
        length = interval_of(interval).microseconds
        kept_from = _aligned_up(span.now - self._KEPT_BARS * length, length)
        wanted = max(_aligned_up(span.start, length), _listed(market))
        if wanted < kept_from:
            raise _too_old("Hyperliquid keeps only the newest 5000 bars", kept_from, "Fetch a coarser interval.")
        at, stop = wanted, _aligned_up(span.stop, length)
        while at < stop:
            # An answer may hold fewer than was asked for (500): go on behind what came.
            page = self._candles(market, interval, at, stop - length)
            at = max(at + length, *(row.ts + length for row in page.rows)) if page.rows else stop
            yield page._replace(complete_to=min(at, span.stop))

    def newest_bars(self, market: Market, interval: str, now: int) -> Page:
        length = interval_of(interval).microseconds
        newest = now // length * length
        return self._candles(market, interval, newest - (min(self._bars_limit, 500) - 1) * length, newest)

    def _candles(self, market: Market, interval: str, low: int, high: int) -> Page:
        wanted = {"coin": _coin(market), "interval": interval, "startTime": _ms(low), "endTime": _ms(high)}
        query = {"type": "candleSnapshot", "req": wanted}
        return _until(
            lambda page: any(row.ts >= low for row in page.rows),
            lambda: self._read_bars(self._ask("publicPostInfo", query, _rows), market),
        )

    def read_trade(self, raw: Any, market: Market) -> TradeRow:
        if raw["coin"] != _coin(market):
            raise BadRowError("wrong_symbol", f"expected {_coin(market)}, found {raw['coin']!r}")
        price, amount = _number(raw["px"], "px"), _number(raw["sz"], "sz")
        return TradeRow(_epoch(raw["time"], 1000), _trade_id(raw["tid"]), price, amount, _side(raw["side"], "B", "A"))

    def read_bar(self, raw: Any, market: Market) -> BarRow:  # noqa: ARG002
        prices = _prices(raw, "o", "h", "l", "c")
        return BarRow(_epoch(raw["t"], 1000), *prices, _number(raw["v"], "v"), None, _count(raw["n"], "n"))


def _coin(market: Market) -> str:
    return str(market["baseName"] if market.get("swap") else market["id"])


class Unified(Venue):
    """Any other exchange, through ccxt's unified methods, paged by time.

    Times are cut to milliseconds and bars have no quote volume or trade count, as ccxt gives them.  An
    exchange that ignores `since` and returns its newest rows instead is recognised and reported.
    """

    def __init__(self, ask: CallEndpoint, page_rows: int | None = None) -> None:
        super().__init__(ask, page_rows)
        self._limit = page_rows  # None: ccxt's default, for what is allowed differs

    def trades(self, market: Market, span: TimeRange) -> Iterator[Page]:
        return self._forward(span, partial(self._trades_since, market), 1000)

    def bars(self, market: Market, interval: str, span: TimeRange) -> Iterator[Page]:
        return self._forward(span, partial(self._bars_since, market, interval), interval_of(interval).microseconds)

    def newest_trades(self, market: Market) -> Page:
        return self._trades_since(market, None)

    def newest_bars(self, market: Market, interval: str, now: int) -> Page:  # noqa: ARG002
        return self._bars_since(market, interval, None)

    def _trades_since(self, market: Market, since: int | None) -> Page:
        query = {"symbol": market["symbol"], "since": since, "limit": self._limit}
        return self._read_trades(self._ask("fetch_trades", query, _rows), market)

    def _bars_since(self, market: Market, interval: str, since: int | None) -> Page:
        query = {"symbol": market["symbol"], "timeframe": interval, "since": since, "limit": self._limit}
        return self._read_bars(self._ask("fetch_ohlcv", query, _rows), market)

    def _forward(self, span: TimeRange, ask: Callable[[int | None], Page], step: int) -> Iterator[Page]:
        since, last = _ms(span.start), _ms(span.stop - 1)
        # A page begins with the time that the one before ended with, or it is a stale one of elsewhere, unless
        # the exchange takes `since` as exclusive.
        first_page, overlaps, inclusive = True, False, True
        while since <= last:
            page = _until(partial(_continues, since, overlaps=overlaps), partial(ask, since))
            inclusive &= not overlaps or any(_ms(row.ts) == since for row in page.rows)
            if not page.rows:
                yield page._replace(complete_to=span.stop)
                return
            oldest, newest = min(row.ts for row in page.rows), max(row.ts for row in page.rows)
            if first_page and oldest >= span.start + step:
                # Nothing for a while, or `since` ignored?  Then the newest page begins at the same row.  Asked
                # more than once, for a stale answer would look the same.
                newest_pages = (ask(None).rows for _ in range(_PATIENCE))
                if all(span.start < min((row.ts for row in rows), default=0) <= oldest for rows in newest_pages):
                    what = "the exchange returns only its newest rows, whatever time is requested"
                    raise _too_old(what, oldest, "Fetch a span that starts there, or collect the data regularly.")
            first_page = False
            if _ms(newest) < since:
                raise StalledError(
                    f"asked for rows from {moment(since * 1000)} on, but got older ones {_PATIENCE} times"
                )
            # The next page begins with the newest time again, whose rows may continue, unless this one
            # holds nothing else.
            overlaps = inclusive and _ms(newest) > since
            since = _ms(newest) if _ms(newest) > since else since + _ms(step)
            yield page._replace(complete_to=min(since * 1000, span.stop))

    def read_trade(self, raw: Any, market: Market) -> TradeRow:
        price = _number(raw["price"], "price")
        amount = _base_amount(market, _number(raw["amount"], "amount"), price)
        side = None if raw.get("side") is None else _side(raw["side"], "buy", "sell")
        return TradeRow(_epoch(raw["timestamp"], 1000), _trade_id(raw["id"]), price, amount, side)

    def read_bar(self, raw: Any, market: Market) -> BarRow:
        prices = _prices(raw, 1, 2, 3, 4)
        return BarRow(_epoch(raw[0], 1000), *prices, _base_amount(market, _number(raw[5], "volume"), prices[3]))


def _continues(since: int, page: Page, *, overlaps: bool) -> bool:
    """Return whether a page reaches beyond a time, and holds that time itself where it should."""
    times = {_ms(row.ts) for row in page.rows}
    return any(time > since for time in times) and (not overlaps or since in times)


def _too_old(what: str, available_from: int, hint: str) -> HistoryUnavailableError:
    first = moment(available_from)
    return HistoryUnavailableError(f"{what}, from {first:%Y-%m-%dT%H:%M:%SZ} on", hint=hint, available_from=first)


#: Known exchanges by ccxt id; anything else is read by `Unified`.
VENUES: Final[dict[str, type[Venue]]] = {
    "binance": Binance,
    "binanceusdm": Binance,
    "binancecoinm": Binance,
    "kraken": Kraken,
    "okx": Okx,
    "coinbase": Coinbase,
    "hyperliquid": Hyperliquid,
}
