"""A real HTTP server on loopback that speaks five exchanges' REST formats, and misbehaves on request.

An exchange is an object with `answer(path, query, body)`, which returns what the exchange would send, from
the trades and bars it was given.  `ReplayServer` serves it, keeps a record of every request with its time,
and plays the faults that a test scripts, one per request to a path.
"""

from __future__ import annotations

import json
import socket
import struct
import threading
import time
from collections import defaultdict, deque
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, NamedTuple
from urllib.parse import parse_qsl, urlsplit

Query = dict[str, str]
EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


class Trade(NamedTuple):
    """A trade as the exchange has it: id, microseconds, price and amount as text, taker's side."""

    id: int
    us: int
    price: str
    amount: str
    side: str


class Bar(NamedTuple):
    """A bar as the exchange has it, open time in microseconds."""

    us: int
    open: str
    high: str
    low: str
    close: str
    volume: str
    trades: int = 5


@dataclass(frozen=True)
class RefusalError(Exception):
    """An answer with an error status."""

    status: int
    body: Any


# --- faults: what a server can do to one request ---


@dataclass(frozen=True)
class Status:
    """Answer with a status and no useful body."""

    status: int
    headers: dict[str, str] = field(default_factory=dict)
    body: str = '{"msg": "no"}'


@dataclass(frozen=True)
class Truncated:
    """Answer with half of the JSON; `announced`: with the length of all of it, then hang up."""

    announced: bool = False


@dataclass(frozen=True)
class Reset:
    """Reset the connection without an answer."""


@dataclass(frozen=True)
class Repeat:
    """Answer with the previous answer for this path once more."""


@dataclass(frozen=True)
class Slow:
    """Answer after some seconds."""

    seconds: float


@dataclass(frozen=True)
class Edit:
    """Change the answer before it is sent."""

    change: Callable[[Any], Any]


@dataclass(frozen=True)
class Instead:
    """Answer another question than the one asked."""

    change: Callable[[Query], Query]


class Seen(NamedTuple):
    """A request that arrived."""

    at: float
    path: str
    query: Query
    body: Any
    headers: dict[str, str]


class ReplayServer:
    """Serves one exchange on loopback until closed; `clock` stamps the requests."""

    def __init__(self, exchange: Any, clock: Callable[[], float] = time.monotonic) -> None:
        self.exchange = exchange
        self.clock = clock
        self.seen: list[Seen] = []
        self._faults: dict[str, deque[Any]] = defaultdict(deque)
        self._always: dict[str, Any] = {}
        self._previous: dict[str, Any] = {}
        self._lock = threading.Lock()
        replay = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                replay.serve(self, None)

            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
                replay.serve(self, json.loads(body))

            def log_message(self, *args: Any) -> None:
                """Stay silent."""

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._server.daemon_threads = True
        self._thread = threading.Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True)
        self._thread.start()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self._server.server_address[1]}"

    def close(self) -> None:
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()

    def script(self, path: str, faults: Iterable[Any]) -> None:
        """Play one fault per request whose path ends so; None is a good answer."""
        self._faults[path].extend(faults)

    def always(self, path: str, fault: Any) -> None:
        """Play a fault on every request whose path ends so, once the script is through."""
        self._always[path] = fault

    def heal(self) -> None:
        """Play no faults from now on."""
        self._faults.clear()
        self._always.clear()

    def asked(self, path: str) -> list[Seen]:
        """Return the requests whose path ends so."""
        return [request for request in self.seen if request.path.endswith(path)]

    def _fault(self, path: str) -> Any:
        for end, faults in self._faults.items():
            if path.endswith(end) and faults:
                return faults.popleft()
        return next((fault for end, fault in self._always.items() if path.endswith(end)), None)

    def serve(self, handler: BaseHTTPRequestHandler, body: Any) -> None:
        parts = urlsplit(handler.path)
        query = dict(parse_qsl(parts.query))
        with self._lock:
            self.seen.append(Seen(self.clock(), parts.path, query, body, dict(handler.headers)))
            fault = self._fault(parts.path)
            answer = self._previous.get(parts.path) if isinstance(fault, Repeat) else None
        if isinstance(fault, Reset):
            handler.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            handler.connection.close()
            handler.close_connection = True
            return
        if isinstance(fault, Status):
            self._send(handler, fault.status, fault.body.encode(), fault.headers)
            return
        if isinstance(fault, Slow):
            time.sleep(fault.seconds)
        if answer is None:
            try:
                asked = fault.change(query) if isinstance(fault, Instead) else query
                answer = self.exchange.answer(parts.path, asked, body)
            except RefusalError as refusal:
                self._send(handler, refusal.status, json.dumps(refusal.body).encode(), {})
                return
            if isinstance(fault, Edit):
                answer = fault.change(json.loads(json.dumps(answer)))
        self._previous[parts.path] = answer
        data = json.dumps(answer).encode()
        if isinstance(fault, Truncated):
            half = data[: len(data) // 2]
            self._send(handler, 200, half, {"Content-Length": str(len(data))} if fault.announced else {})
            return
        self._send(handler, 200, data, {})

    @staticmethod
    def _send(handler: BaseHTTPRequestHandler, status: int, data: bytes, headers: dict[str, str]) -> None:
        handler.send_response(status)
        for name, value in {"Content-Type": "application/json", "Content-Length": str(len(data)), **headers}.items():
            handler.send_header(name, value)
        handler.end_headers()
        handler.wfile.write(data)


# --- exchanges ---


class Binance:
    """Spot (/api/v3), USD-M (/fapi/v1) and COIN-M (/dapi/v1); one symbol each."""

    page = 1000

    def __init__(self, trades: list[Trade] = (), bars: list[Bar] = (), *, newest_of_window: bool = False) -> None:
        self.trades = list(trades)
        self.bars = list(bars)
        self.newest_of_window = newest_of_window

    def answer(self, path: str, query: Query, body: Any) -> Any:
        api, endpoint = path.split("/")[1], path.rsplit("/", 1)[1]
        if endpoint == "exchangeInfo":
            return self.markets(api)
        if query["symbol"] not in {"BTCUSDT", "BTCUSD_PERP"}:
            raise RefusalError(400, {"code": -1121, "msg": "Invalid symbol."})
        return self.agg_trades(api, query) if endpoint == "aggTrades" else self.klines(api, query)

    def agg_trades(self, api: str, query: Query) -> list[Any]:
        limit = min(int(query.get("limit", 500)), self.page)
        rows = self.trades
        if "fromId" in query:
            if "startTime" in query:
                raise RefusalError(400, {"code": -1128, "msg": "Combination of optional parameters invalid."})
            rows = [row for row in rows if row.id >= int(query["fromId"])][:limit]
        elif "startTime" in query:
            low, high = int(query["startTime"]), int(query["endTime"])
            if high - low > 3_600_000:
                raise RefusalError(400, {"code": -1127, "msg": "More than 1 hours between startTime and endTime."})
            rows = [row for row in rows if low <= row.us // 1000 <= high]
            rows = rows[-limit:] if self.newest_of_window else rows[:limit]
        else:
            rows = rows[-limit:]
        return [
            {"a": row.id, "p": row.price, "q": row.amount, "f": row.id * 2, "l": row.id * 2 + 1, "T": row.us // 1000}
            | {"m": row.side == "sell"}
            | ({"M": True} if api == "api" else {})
            for row in rows
        ]

    def klines(self, api: str, query: Query) -> list[Any]:
        limit = min(int(query.get("limit", 500)), self.page)
        length = {"1m": 60, "5m": 300, "15m": 900, "1h": 3600, "1d": 86400}[query["interval"]] * 1000
        rows = self.bars
        if "startTime" in query:
            rows = [row for row in rows if int(query["startTime"]) <= row.us // 1000 <= int(query["endTime"])][:limit]
        else:
            rows = rows[-limit:]
        return [
            [
                row.us // 1000,
                row.open,
                row.high,
                row.low,
                row.close,
                row.volume,
                row.us // 1000 + length - 1,
                "123.5",
                row.trades,
                "1.5",
                "61.75",
                "0",
            ]
            for row in rows
        ]

    @staticmethod
    def markets(api: str) -> Any:
        spot = {
            "symbol": "BTCUSDT",
            "status": "TRADING",
            "baseAsset": "BTC",
            "baseAssetPrecision": 8,
            "quoteAsset": "USDT",
            "quotePrecision": 8,
            "quoteAssetPrecision": 8,
            "orderTypes": ["LIMIT", "MARKET"],
            "isSpotTradingAllowed": True,
            "isMarginTradingAllowed": True,
            "filters": [
                {
                    "filterType": "PRICE_FILTER",
                    "minPrice": "0.01000000",
                    "maxPrice": "1000000.0",
                    "tickSize": "0.01000000",
                },
                {"filterType": "LOT_SIZE", "minQty": "0.00001000", "maxQty": "9000.0", "stepSize": "0.00001000"},
            ],
            "permissions": ["SPOT"],
        }
        contract = {
            "status": "TRADING",
            "contractStatus": "TRADING",
            "contractType": "PERPETUAL",
            "deliveryDate": 4133404800000,
            "onboardDate": 1569398400000,
            "baseAsset": "BTC",
            "pricePrecision": 2,
            "quantityPrecision": 3,
            "baseAssetPrecision": 8,
            "quotePrecision": 8,
            "orderTypes": ["LIMIT", "MARKET"],
        }
        price = {"filterType": "PRICE_FILTER", "minPrice": "0.10", "maxPrice": "4529764", "tickSize": "0.10"}
        lot = {"filterType": "LOT_SIZE", "minQty": "0.001", "maxQty": "1000", "stepSize": "0.001"}
        linear = {
            **contract,
            "symbol": "BTCUSDT",
            "pair": "BTCUSDT",
            "quoteAsset": "USDT",
            "marginAsset": "USDT",
            "filters": [price, lot],
        }
        dated = {
            **linear,
            "symbol": "BTCUSDT_240927",
            "contractType": "CURRENT_QUARTER",
            "deliveryDate": 1727424000000,
        }
        inverse = {
            **contract,
            "symbol": "BTCUSD_PERP",
            "pair": "BTCUSD",
            "quoteAsset": "USD",
            "marginAsset": "BTC",
            "contractSize": 100,
            "filters": [price, {**lot, "stepSize": "1"}],
        }
        symbols = {"api": [spot], "fapi": [linear, dated], "dapi": [inverse]}[api]
        return {"timezone": "UTC", "serverTime": 1704067200000, "rateLimits": [], "symbols": symbols}


class Kraken:
    """Spot; trades behind a cursor in nanoseconds, the newest 720 bars."""

    page = 1000

    def __init__(self, trades: list[Trade] = (), bars: list[Bar] = (), *, with_ids: bool = True) -> None:
        self.trades = list(trades)
        self.bars = list(bars)
        self.with_ids = with_ids

    def answer(self, path: str, query: Query, body: Any) -> Any:
        endpoint = path.rsplit("/", 1)[1]
        if endpoint == "AssetPairs":
            return {"error": [], "result": {"XXBTZUSD": self.market()}}
        if query["pair"] != "XXBTZUSD":
            return {"error": ["EQuery:Unknown asset pair"]}
        if endpoint == "OHLC":
            since = int(query.get("since", 0))
            rows = [row for row in self.bars[-720:] if row.us // 1_000_000 > since]
            bars = [
                [row.us // 1_000_000, row.open, row.high, row.low, row.close, row.close, row.volume, row.trades]
                for row in rows
            ]
            return {"error": [], "result": {"XXBTZUSD": bars, "last": rows[-1].us // 1_000_000 if rows else since}}
        count = min(int(query.get("count", 1000)), self.page)
        if "since" in query:
            since = int(query["since"])
            rows = [row for row in self.trades if row.us * 1000 > since][:count]
        else:
            since = 0
            rows = self.trades[-count:]
        trades = [
            [row.price, row.amount, row.us / 1_000_000, row.side[0], "l", "", *([row.id] if self.with_ids else [])]
            for row in rows
        ]
        return {"error": [], "result": {"XXBTZUSD": trades, "last": str(rows[-1].us * 1000 if rows else since)}}

    @staticmethod
    def market() -> Any:
        return {
            "altname": "XBTUSD",
            "wsname": "XBT/USD",
            "aclass_base": "currency",
            "base": "XXBT",
            "aclass_quote": "currency",
            "quote": "ZUSD",
            "lot": "unit",
            "cost_decimals": 5,
            "pair_decimals": 1,
            "lot_decimals": 8,
            "lot_multiplier": 1,
            "leverage_buy": [2, 3],
            "leverage_sell": [2, 3],
            "fees": [[0, 0.4]],
            "fees_maker": [[0, 0.25]],
            "fee_volume_currency": "ZUSD",
            "ordermin": "0.00005",
            "costmin": "0.5",
            "tick_size": "0.1",
            "status": "online",
        }


class Okx:
    """Spot and swaps; trades and candles newest first, paged by `after` and `before`."""

    page = 100

    def __init__(self, trades: list[Trade] = (), bars: list[Bar] = ()) -> None:
        self.trades = list(trades)
        self.bars = list(bars)

    def answer(self, path: str, query: Query, body: Any) -> Any:
        endpoint = path.rsplit("/", 1)[1]
        data = {
            "instruments": self.instruments,
            "trades": self.newest_trades,
            "history-trades": self.history_trades,
            "candles": self.candles,
            "history-candles": self.candles,
        }[endpoint](query)
        return {"code": "0", "msg": "", "data": data}

    def instruments(self, query: Query) -> list[Any]:
        common = {"listTime": "1611907686000", "expTime": "", "state": "live", "alias": "", "lever": "10", "stk": ""}
        spot = {"instType": "SPOT", "instId": "BTC-USDT", "baseCcy": "BTC", "quoteCcy": "USDT", "uly": "", "ctVal": ""}
        spot |= {"tickSz": "0.1", "lotSz": "0.00000001", "minSz": "0.00001", "settleCcy": "", "instFamily": ""}
        linear = {"instType": "SWAP", "instId": "BTC-USDT-SWAP", "uly": "BTC-USDT", "instFamily": "BTC-USDT"}
        linear |= {"settleCcy": "USDT", "ctVal": "0.01", "ctMult": "1", "ctValCcy": "BTC", "ctType": "linear"}
        linear |= {"tickSz": "0.1", "lotSz": "0.01", "minSz": "0.01", "baseCcy": "", "quoteCcy": ""}
        inverse = {**linear, "instId": "BTC-USD-SWAP", "uly": "BTC-USD", "instFamily": "BTC-USD", "settleCcy": "BTC"}
        inverse |= {"ctVal": "100", "ctValCcy": "USD", "ctType": "inverse", "lotSz": "1", "minSz": "1"}
        listed = {"SPOT": [spot], "SWAP": [linear, inverse], "FUTURES": []}[query["instType"]]
        return [common | instrument for instrument in listed]

    def history_trades(self, query: Query) -> list[Any]:
        after = int(query["after"])
        by_time = query.get("type", "1") == "2"
        rows = [row for row in self.trades if (row.us // 1000 if by_time else row.id) < after]
        return self._trades(rows[-min(int(query.get("limit", 100)), self.page) :])

    def newest_trades(self, query: Query) -> list[Any]:
        return self._trades(self.trades[-min(int(query.get("limit", 100)), 500) :])

    @staticmethod
    def _trades(rows: list[Trade]) -> list[Any]:
        return [
            {"instId": "BTC-USDT", "side": row.side, "sz": row.amount, "px": row.price}
            | {"tradeId": str(row.id), "ts": str(row.us // 1000)}
            for row in reversed(rows)
        ]

    def candles(self, query: Query) -> list[Any]:
        rows = self.bars
        if "after" in query:
            rows = [row for row in rows if row.us // 1000 < int(query["after"])]
        if "before" in query:
            rows = [row for row in rows if row.us // 1000 > int(query["before"])]
        newest = self.bars[-1].us if self.bars else 0
        return [
            [
                str(row.us // 1000),
                row.open,
                row.high,
                row.low,
                row.close,
                row.volume,
                "7.25",
                "800.5",
                "0" if row.us == newest else "1",
            ]
            for row in reversed(rows[-min(int(query.get("limit", 100)), self.page) :])
        ]


class Coinbase:
    """Advanced Trade; trades newest first between whole seconds, with the maker's side."""

    page = 1000

    def __init__(self, trades: list[Trade] = (), bars: list[Bar] = ()) -> None:
        self.trades = list(trades)
        self.bars = list(bars)

    def answer(self, path: str, query: Query, body: Any) -> Any:
        endpoint = path.rsplit("/", 1)[1]
        if endpoint == "products":
            products = [] if query.get("product_type") == "FUTURE" else [self.market()]
            return {"products": products, "num_products": len(products), "pagination": None}
        if "/products/BTC-USD/" not in path:
            raise RefusalError(404, {"error": "NOT_FOUND", "message": "valid product_id is required"})
        if endpoint == "ticker":
            return self.ticker(query)
        low, high = int(query["start"]), int(query["end"])
        rows = [row for row in self.bars if low <= row.us // 1_000_000 <= high]
        length = {"ONE_MINUTE": 60, "FIVE_MINUTE": 300, "FIFTEEN_MINUTE": 900, "ONE_HOUR": 3600, "ONE_DAY": 86400}
        if (high - low) // length[query["granularity"]] > 350:
            raise RefusalError(
                400, {"error": "INVALID_ARGUMENT", "message": "number of candles requested should be < 350"}
            )
        return {
            "candles": [
                {"start": str(row.us // 1_000_000), "low": row.low, "high": row.high, "open": row.open}
                | {"close": row.close, "volume": row.volume}
                for row in reversed(rows)
            ]
        }

    def ticker(self, query: Query) -> Any:
        rows = self.trades
        if "start" in query:
            low, high = int(query["start"]) * 1_000_000, int(query["end"]) * 1_000_000
            rows = [row for row in rows if low <= row.us <= high]
        trades = [
            {"trade_id": str(row.id), "product_id": "BTC-USD", "price": row.price, "size": row.amount}
            | {"time": (EPOCH + timedelta(microseconds=row.us)).strftime("%Y-%m-%dT%H:%M:%S.%fZ")}
            | {"side": "SELL" if row.side == "buy" else "BUY", "bid": "", "ask": "", "exchange": "coinbase"}
            for row in reversed(rows[-min(int(query.get("limit", 100)), self.page) :])
        ]
        return {"trades": trades, "best_bid": "68923.66", "best_ask": "68923.67"}

    @staticmethod
    def market() -> Any:
        return {
            "product_id": "BTC-USD",
            "price": "68925.98",
            "base_increment": "0.00000001",
            "quote_increment": "0.01",
            "price_increment": "0.01",
            "quote_min_size": "1",
            "quote_max_size": "150000000",
            "base_min_size": "0.00000001",
            "base_max_size": "3400",
            "base_name": "Bitcoin",
            "quote_name": "US Dollar",
            "status": "online",
            "trading_disabled": False,
            "product_type": "SPOT",
            "quote_currency_id": "USD",
            "base_currency_id": "BTC",
            "base_display_symbol": "BTC",
            "quote_display_symbol": "USD",
            "product_venue": "CBE",
        }


class Hyperliquid:
    """One perpetual; the last trades, the newest 5000 bars, at most 500 per answer."""

    page = 500

    def __init__(self, trades: list[Trade] = (), bars: list[Bar] = (), *, kept_trades: int = 10) -> None:
        self.trades = list(trades)
        self.bars = list(bars)
        self.kept_trades = kept_trades

    def answer(self, path: str, query: Query, body: Any) -> Any:
        kind = body["type"]
        if kind == "metaAndAssetCtxs":
            universe = [{"szDecimals": 5, "name": "BTC", "maxLeverage": 40}]
            context = {"funding": "0.0000125", "openInterest": "3.1", "prevDayPx": "104000.0", "dayNtlVlm": "1.0"}
            context |= {"premium": "0.0", "oraclePx": "104301.0", "markPx": "104300.0", "midPx": "104300.5"}
            return [{"universe": universe}, [context]]
        if kind == "spotMetaAndAssetCtxs":
            return [{"universe": [], "tokens": []}, []]
        if kind == "recentTrades":
            return [
                {"coin": body["coin"], "side": "B" if row.side == "buy" else "A", "px": row.price, "sz": row.amount}
                | {"time": row.us // 1000, "hash": "0x0", "tid": row.id, "users": ["0xa", "0xb"]}
                for row in reversed(self.trades[-self.kept_trades :])
            ]
        wanted = body["req"]
        rows = [row for row in self.bars[-5000:] if wanted["startTime"] <= row.us // 1000 <= wanted["endTime"]]
        length = {"1m": 60_000, "5m": 300_000, "15m": 900_000, "1h": 3_600_000, "1d": 86_400_000}[wanted["interval"]]
        return [
            {"t": row.us // 1000, "T": row.us // 1000 + length - 1, "s": wanted["coin"], "i": wanted["interval"]}
            | {"o": row.open, "c": row.close, "h": row.high, "l": row.low, "v": row.volume, "n": row.trades}
            for row in rows[: self.page]
        ]


class Bitfinex:
    """An exchange that the feed knows only through ccxt; `ignores_start` makes it give its newest rows."""

    page = 120

    def __init__(self, trades: list[Trade] = (), bars: list[Bar] = (), *, ignores_start: bool = False) -> None:
        self.trades = list(trades)
        self.bars = list(bars)
        self.ignores_start = ignores_start

    def answer(self, path: str, query: Query, body: Any) -> Any:
        if "/conf/" in path:
            pair = ["BTCUSD", [None, None, None, "0.00004", "2000.0", None, None, None, 0.2, 0.1]]
            return [[pair], [], [], ["BTCUSD"]]
        is_trades = "/trades/" in path
        rows: list[Any] = self.trades if is_trades else self.bars
        limit = min(int(query.get("limit", self.page)), self.page)
        if "start" in query and not self.ignores_start:
            rows = [row for row in rows if row.us // 1000 >= int(query["start"])][:limit]
        else:
            rows = rows[-limit:][::-1]
        if is_trades:
            signed = {"buy": 1, "sell": -1}
            return [[row.id, row.us // 1000, signed[row.side] * float(row.amount), float(row.price)] for row in rows]
        return [[row.us // 1000, *(float(row[n]) for n in (1, 4, 2, 3, 5))] for row in rows]


class Recorded:
    """An exchange that gives recorded answers, by the end of the path."""

    def __init__(self, answers: dict[str, Any]) -> None:
        self.answers = answers

    def answer(self, path: str, query: Query, body: Any) -> Any:
        for end, answer in self.answers.items():
            if path.endswith(end):
                return answer(query, body) if callable(answer) else answer
        raise RefusalError(404, {"msg": f"nothing recorded for {path}"})
