"""Recordings of markets for the tests: small ones that are generated here, and recorded ones where there is a folder.

`Generated` writes files in the wire formats of venues, archives and tools, each from a seeded truth, so that the rows
that must come out are known exactly.  They lie under the same names as in the folder of recorded data that
`HFTHOT_SHARED_DATA` names, so one test runs on both, and `facts` says what is known of the files of either.

What belongs here: the formats, the truth behind them, and what is known of the recorded files.  What does not: calls of
the platform's own readers, which would make the expectation agree with whatever they do.
"""

from __future__ import annotations

import gzip
import hashlib
import io
import json
import zipfile
import zlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, date, datetime, timedelta
from decimal import Decimal
from fnmatch import fnmatch
from functools import cache
from pathlib import Path
from typing import Any, Literal, NamedTuple
from zoneinfo import ZoneInfo

import numpy as np
import polars as pl
import pyarrow as pa

XRP = "trades/binance_kraken_trades"
STREAMS = "l2/binance_ws_2024_08"
PLAYBACK = "l2/venue_playback"
PERP = "ohlcv/binance_perp_1m_2025"
HOURS = "ohlcv/binance_perp_1h_2020_2024"
SPOT = "ohlcv/binance_spot_1d_2018_2023"
FREQTRADE = "ohlcv/freqtrade_5m_1m"
CSV = "ohlcv/coinbase_bitfinex_csv"
EQUITY = "trades/lean_samples/Data/equity/usa"
ANSWERS = "reference/exchange_json"

_SECOND = 1_000_000
_MINUTE = 60 * _SECOND
CANDLE = ("open", "high", "low", "close", "volume")


class Trade(NamedTuple):
    """A trade: id, time in microseconds, price and amount as the venue writes them, the taker's side."""

    id: int
    us: int
    price: str
    amount: str
    side: str


@dataclass(frozen=True)
class Facts:
    """What is known of the files, without reading them by the code under test."""

    xrp_trades: int
    xrp_first_id: int
    xrp_first: datetime
    xrp_last: datetime
    xrp_bars: Mapping[str, int]
    kraken_trades: int
    kraken_first: datetime
    kraken_days: int
    bch_trades: int
    bch_first: tuple[datetime, float, float]
    orderflow: tuple[int, datetime, int]
    stream_trades: Mapping[str, int]
    stream_lag: tuple[timedelta, timedelta]
    bitfinex_minutes: int
    bitfinex_missing: int
    coinbase_hours: int
    coinbase_first: tuple[datetime, float, float]
    bitfinex_hours: int
    bitfinex_first_volume: float
    perp_symbols: int
    perp_minutes: int
    hour_symbols: int
    hours: int
    coarse_symbols: Mapping[str, int]
    coarse_compared: Mapping[str, int]
    freqtrade_pairs: int
    freqtrade_minutes: int
    #: Of BTC: its worst day with the return, and bounds of its volatility per year.
    worst_day: tuple[date, float]
    volatility: tuple[float, float]


RECORDED = Facts(
    xrp_trades=12_477,
    xrp_first_id=13_519_807,
    xrp_first=datetime(2019, 10, 11, 0, 0, 11, 620_000, tzinfo=UTC),
    xrp_last=datetime(2019, 10, 13, 11, 19, 28, 844_000, tzinfo=UTC),
    xrp_bars={"1m": 2_469, "5m": 706},
    kraken_trades=13_814,
    kraken_first=datetime(2020, 2, 19, 0, 0, 2, 981_100, tzinfo=UTC),
    kraken_days=4,
    bch_trades=148,
    bch_first=(datetime(2023, 1, 1, 0, 3, 56, tzinfo=UTC), 90.54, 1.1044842),
    orderflow=(1000, datetime(2023, 2, 2, 9, 20, 0, 138_000, tzinfo=UTC), 1_206_419_187),
    stream_trades={
        "usdm/btcusdt_20240808": 21_313,
        "spot/btcusdt_20240808": 9_757,
        "cm/btcusd_perp_20240808": 2_286,
        "all": 75_043,
    },
    # That recorder's clock was behind.
    stream_lag=(timedelta(seconds=-1.4), timedelta(seconds=-1.1)),
    bitfinex_minutes=293_230,
    bitfinex_missing=233_809,
    coinbase_hours=20_111,
    coinbase_first=(datetime(2019, 10, 17, 9, tzinfo=UTC), 61.25, 492_394.56),
    bitfinex_hours=17_583,
    bitfinex_first_volume=303.61,
    perp_symbols=16,
    perp_minutes=708_180,
    hour_symbols=22,
    hours=31_973,
    coarse_symbols={"1d": 15, "1h": 9, "5m": 14},
    coarse_compared={"1h": 6_000, "1d": 250},
    freqtrade_pairs=10,
    freqtrade_minutes=13_681,
    worst_day=(date(2020, 3, 12), -0.395),
    volatility=(0.6, 0.75),
)


class Recordings:
    """A folder of recordings, and what is known of them."""

    kind: Literal["generated", "recorded"]

    def __init__(self, folder: Path, facts: Facts) -> None:
        self.folder = folder
        self.facts = facts

    def __truediv__(self, file: str) -> Path:
        """Return the path of a recording."""
        return self.folder / file

    def names(self, pattern: str) -> list[str]:
        """Return the recordings whose name fits a pattern, in order of name."""
        return sorted(str(path.relative_to(self.folder)) for path in self.folder.glob(pattern))

    def json(self, file: str) -> Any:
        """Return the content of a recorded answer."""
        return json.loads((self / file).read_text(encoding="utf-8"))

    def messages(self, venue: str) -> list[dict[str, Any]]:
        """Return what was heard of a venue: requests' answers and stream messages, in order."""
        with pa.input_stream(str(self / f"{PLAYBACK}/{venue}.jsonl.zst"), compression="zstd") as stream:
            return [json.loads(line) for line in stream.read().splitlines()]


class Recorded(Recordings):
    """What others recorded, in a folder of this machine."""

    kind = "recorded"

    def __init__(self, folder: Path) -> None:
        super().__init__(folder, RECORDED)


class Generated(Recordings):
    """What is generated here; a file is written when it is asked for."""

    kind = "generated"

    def __init__(self, folder: Path) -> None:
        super().__init__(folder, generated_facts())

    def __truediv__(self, file: str) -> Path:
        """Return the path of a recording, written if nobody asked for it before."""
        path = self.folder / file
        if not path.exists():
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(_FILES[file]())
        return path

    def names(self, pattern: str) -> list[str]:
        return sorted(name for name in _FILES if fnmatch(name, pattern))


#: File -> the function that makes its content.
_FILES: dict[str, Callable[[], bytes]] = {}


def _file(*names: str) -> Callable[[Callable[..., bytes]], Callable[..., bytes]]:
    """Register what makes a file; of several names, the function is given the one that is asked for."""

    def register(make: Callable[..., bytes]) -> Callable[..., bytes]:
        for name in names:
            _FILES[name] = make if len(names) == 1 else lambda name=name: make(name)
        return make

    return register


# --- the truth -----------------------------------------------------------------------------------------------------


def _rng(name: str) -> np.random.Generator:
    return np.random.default_rng([20_240_808, zlib.crc32(name.encode())])


def _us(*parts: int) -> int:
    return int(datetime(*parts, tzinfo=UTC).timestamp()) * _SECOND


def _moment(us: int) -> datetime:
    return datetime(1970, 1, 1, tzinfo=UTC) + timedelta(microseconds=us)


@cache
def tape(
    name: str,
    count: int,
    start: int,
    first_id: int,
    *,
    gap: float,
    price: str,
    tick: str,
    lot: str,
    unit: int = 1000,
) -> tuple[Trade, ...]:
    """Return trades whose takers' sides persist and move the price.

    Args:
        name: the seed.
        count: how many.
        start: time in microseconds before the first one.
        first_id: its id; ids run on by one.
        gap: mean seconds between two; some share a time.
        price: of the beginning.
        tick: step of prices.
        lot: step of amounts.
        unit: microseconds that times are a multiple of.
    """
    rng = _rng(name)
    gaps = np.where(rng.random(count) < 0.1, 0, rng.exponential(gap * _SECOND, count))
    gaps[0] = max(gaps[0], unit)
    times = start + np.cumsum(gaps).astype(np.int64) // unit * unit
    stays = np.where(rng.random(count) < 0.7, 1, -1)
    signs = np.cumprod(stays) * (1 if rng.random() < 0.5 else -1)
    sizes = np.maximum(np.round(np.exp(rng.normal(3, 1, count))), 1).astype(int)
    mid = np.cumsum(np.round(signs * np.sqrt(sizes) * 0.8 + rng.normal(0, 1.5, count)))
    begin, step, least = Decimal(price), Decimal(tick), Decimal(lot)
    floor = int(begin / step) // 2
    levels = np.maximum(int(begin / step) + mid + signs, floor).astype(int)
    return tuple(
        Trade(
            first_id + k,
            int(times[k]),
            f"{int(levels[k]) * step:f}",
            f"{int(sizes[k]) * least:f}",
            "buy" if signs[k] > 0 else "sell",
        )
        for k in range(count)
    )


@cache
def candles(name: str, count: int, start: int, length: int, *, price: float, decimals: int) -> pl.DataFrame:
    """Return bars without a gap: ts (microseconds), open, high, low, close, volume; prices have so many decimals."""
    rng = _rng(name)
    inside = 12
    steps = rng.normal(0, 0.0006, (count, inside))
    paths = np.exp(np.cumsum(steps.ravel()).reshape(count, inside)) * price
    opens = np.concatenate([[price], paths[:-1, -1]])
    rounded = np.round(np.column_stack([opens, paths]), decimals)
    return pl.DataFrame(
        {
            "ts": start + np.arange(count, dtype=np.int64) * length,
            "open": rounded[:, 0],
            "high": rounded.max(axis=1),
            "low": rounded.min(axis=1),
            "close": rounded[:, -1],
            "volume": np.maximum(np.round(np.exp(rng.normal(4, 1, count)), 3), 0.001),
        }
    )


def bars_of(trades: Sequence[Trade], length: int) -> list[tuple[int, float, float, float, float, float]]:
    """Return the bars of trades, one by one: time, open, high, low, close, volume."""
    bars: dict[int, list[float]] = {}
    for trade in trades:
        price, amount = float(trade.price), float(trade.amount)
        bar = bars.setdefault(trade.us // length * length, [price, price, price, price, 0.0])
        bar[1], bar[2], bar[3], bar[4] = max(bar[1], price), min(bar[2], price), price, bar[4] + amount
    return [(us, *bar) for us, bar in bars.items()]  # type: ignore[misc]


def coarser(minutes: pl.DataFrame, length: int) -> pl.DataFrame:
    """Return bars of a longer interval of one symbol's bars, as `candles` returns them."""
    return (
        minutes.group_by(pl.col("ts") // length * length, maintain_order=True)
        .agg(
            pl.col("open").first(),
            pl.col("high").max(),
            pl.col("low").min(),
            pl.col("close").last(),
            pl.col("volume").sum(),
        )
        .select("ts", *CANDLE)
    )


# --- how files are written -----------------------------------------------------------------------------------------


def _json(content: object) -> bytes:
    return json.dumps(content, separators=(",", ":")).encode()


def _lines(lines: Sequence[str]) -> bytes:
    return ("\n".join(lines) + "\n").encode()


def _columnar(frame: pl.DataFrame, kind: str) -> bytes:
    target = io.BytesIO()
    if kind == "parquet":
        frame.write_parquet(target)
    else:
        frame.write_ipc(target)
    return target.getvalue()


def _dates(frame: pl.DataFrame, name: str, unit: Literal["ns", "us", "ms"] = "ns") -> pl.DataFrame:
    """Return bars as freqtrade's dumps have them: a column of times under another name."""
    at = pl.col("ts").cast(pl.Datetime("us", "UTC")).dt.cast_time_unit(unit)
    return frame.select(*(["symbol"] if "symbol" in frame.columns else []), at.alias(name), *CANDLE)


def _zip(name: str, content: bytes) -> bytes:
    target = io.BytesIO()
    with zipfile.ZipFile(target, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr(name, content)
    return target.getvalue()


# --- trades as Binance and freqtrade have them ---------------------------------------------------------------------


def xrp() -> tuple[Trade, ...]:
    return tape("xrp", 2_000, _us(2019, 10, 11), 13_519_807, gap=100.0, price="0.00141342", tick="0.00000001", lot="1")


def kraken() -> tuple[Trade, ...]:
    unit = 100
    return tape(
        "kraken",
        900,
        _us(2020, 2, 19),
        8_000,
        gap=300.0,
        price="0.027800",
        tick="0.000001",
        lot="0.00000001",
        unit=unit,
    )


def bch() -> tuple[Trade, ...]:
    return tape(
        "bch", 148, _us(2023, 1, 1), 1, gap=400.0, price="90.540000", tick="0.010000", lot="0.00010000", unit=_SECOND
    )


def orderflow() -> tuple[Trade, ...]:
    return tape("flow", 400, _us(2023, 2, 2, 9, 20), 1_206_419_187, gap=0.5, price="1666.80", tick="0.01", lot="0.001")


def _cost(trade: Trade) -> float:
    return float(Decimal(trade.price) * Decimal(trade.amount))


@_file(f"{XRP}/XRP_ETH-trades.json.gz")
def _freqtrade_trades_json() -> bytes:
    rows = [
        [t.us // 1000, str(t.id), None, t.side, float(t.price), float(t.amount), _cost(t)]  # the library's own order
        for t in xrp()
    ]
    return gzip.compress(_json(rows))


@_file(f"{XRP}/XRP_ETH-trades.parquet", f"{XRP}/XRP_ETH-trades.feather")
def _freqtrade_trades(name: str) -> bytes:
    trades = xrp()
    frame = pl.DataFrame(
        {
            "timestamp": [t.us // 1000 for t in trades],
            "id": [str(t.id) for t in trades],
            "type": ["None" if name.endswith("parquet") else None] * len(trades),
            "side": [t.side for t in trades],
            "price": [float(t.price) for t in trades],
            "amount": [float(t.amount) for t in trades],
            "cost": [_cost(t) for t in trades],
        }
    )
    return _columnar(frame, name.rpartition(".")[2])


def _ccxt(trade: Trade, info: object, symbol: str, number: str | None, kind: str | None) -> dict[str, Any]:
    at = _moment(trade.us // 1000 * 1000).isoformat(timespec="milliseconds").replace("+00:00", "Z")
    return {
        "id": number,
        "order": None,
        "info": info,
        "timestamp": trade.us // 1000,
        "datetime": at,
        "symbol": symbol,
        "type": kind,
        "side": trade.side,
        "takerOrMaker": None,
        "price": float(trade.price),
        "amount": float(trade.amount),
        "cost": _cost(trade),
        "fee": None,
    }


@_file(f"{XRP}/XRP_OLD-trades.json.gz")
def _ccxt_trades() -> bytes:
    rows = []
    for trade in xrp():
        info = {"a": trade.id, "p": trade.price, "q": trade.amount, "f": trade.id * 2, "l": trade.id * 2}
        info |= {"T": trade.us // 1000, "m": trade.side == "sell", "M": True}
        rows.append(_ccxt(trade, info, "XRP/ETH", str(trade.id), None))
    return gzip.compress(_json(rows))


@_file(f"{XRP}/XRP_ETH-1m.feather", f"{XRP}/XRP_ETH-5m.feather")
def _freqtrade_bars(name: str) -> bytes:
    length = (1 if "1m" in name else 5) * _MINUTE
    frame = pl.DataFrame(bars_of(xrp(), length), schema=["ts", *CANDLE], orient="row")
    return _columnar(_dates(frame, "date"), "feather")


@_file(f"{XRP}/kraken/ETH_BTC-trades.json.gz")
def _kraken_dump() -> bytes:
    """Arrays of six fields, and of seven from where Kraken began to number its trades."""
    rows = []
    for place, trade in enumerate(kraken()):
        numbered = place >= 600
        info = [trade.price, trade.amount, trade.us / _SECOND, trade.side[0], "l", ""]
        info += [trade.id] if numbered else []
        rows.append(_ccxt(trade, info, "ETH/BTC", str(trade.id) if numbered else None, "limit"))
    return gzip.compress(_json(rows))


@_file(f"{XRP}/kraken/trades_csv/BCHEUR.csv")
def _kraken_csv() -> bytes:
    return _lines([f"{trade.us // _SECOND},{trade.price},{trade.amount}" for trade in bch()])


@_file(f"{XRP}/orderflow/public_trades_list.csv")
def _orderflow_csv() -> bytes:
    lines = [",timestamp,id,type,side,price,amount,cost,date"]
    for place, trade in enumerate(orderflow()):
        at = _moment(trade.us).isoformat(sep=" ", timespec="microseconds")
        lines.append(
            f"{place},{trade.us // 1000},{trade.id},,{trade.side},{trade.price},{trade.amount},{_cost(trade)},{at}"
        )
    return _lines(lines)


# --- Binance's streams over midnight -------------------------------------------------------------------------------

_MIDNIGHT = _us(2024, 8, 9)
#: Market, name, first id, price, tick, lot, trades before and after midnight.
_STREAMS = {
    "spot/btcusdt": (3_735_683_259, "61837.63000000", "0.01000000", "0.00001000", 420, 180),
    "spot/ethusdt": (1_520_538_925, "2683.80000000", "0.01000000", "0.00010000", 260, 140),
    "usdm/btcusdt": (5_266_583_935, "61800.30", "0.10", "0.001", 700, 0),
    "usdm/ethusdt": (4_308_068_523, "2681.62", "0.01", "0.001", 300, 0),
    "cm/btcusd_perp": (849_714_402, "61804.8", "0.1", "1", 150, 70),
}
#: Microseconds that the recorder's clock was behind the venue's.
_BEHIND = 1_250_000


def stream(name: str, day: str) -> tuple[Trade, ...]:
    """Return the trades of a stream on one side of midnight; ids run on over it."""
    first_id, price, tick, lot, before, after = _STREAMS[name]
    # Six minutes before midnight and three after it, whatever the gaps add up to.
    all_of = tape(name, before + after, 0, first_id, gap=1.0, price=price, tick=tick, lot=lot)
    edge, last = all_of[before - 1].us, all_of[-1].us
    early = [
        t._replace(us=_MIDNIGHT - 1000 - (edge - t.us) * 340_000 // (edge // 1000 + 1) // 1000 * 1000)
        for t in all_of[:before]
    ]
    late = [
        t._replace(us=_MIDNIGHT + 5000 + (t.us - edge) * 170_000 // ((last - edge) // 1000 + 1) // 1000 * 1000)
        for t in all_of[before:]
    ]
    return tuple(early if day == "20240808" else late)


#: Stream and day; those of USD-M futures end before midnight.
_STREAM_FILES = [
    (name, day) for name in _STREAMS for day in ("20240808", "20240809") if day == "20240808" or _STREAMS[name][5]
]


@_file(*(f"{STREAMS}/{name}_{day}.gz" for name, day in _STREAM_FILES))
def _binance_stream(file: str) -> bytes:
    """Local clock and message per line: depth, best prices and trades of one symbol, as they came."""
    name, _, day = file.removeprefix(f"{STREAMS}/").removesuffix(".gz").rpartition("_")
    market, symbol = name.split("/")
    code, lines = symbol.upper(), []
    for place, trade in enumerate(stream(name, day)):
        clock = (trade.us - _BEHIND) * 1000 + 367
        sent = trade.us // 1000
        other = {"u": 10_000 + place, "s": code, "b": trade.price, "B": "1.0", "a": trade.price, "A": "2.0"}
        depth = {"e": "depthUpdate", "E": sent, "s": code, "U": 10 * place, "u": 10 * place + 9, "b": [], "a": []}
        event: dict[str, Any] = {"e": "trade", "E": sent + 1, "T": sent, "s": code, "t": trade.id, "p": trade.price}
        event |= {"q": trade.amount, "m": trade.side == "sell"}
        event |= {"M": True} if market == "spot" else {"X": "MARKET"}
        if place == 1 and market == "usdm":
            lines.append(
                f"{clock} " + _json({"lastUpdateId": 9, "E": sent, "T": sent, "bids": [], "asks": []}).decode()
            )
        for kind, data in (("depth@100ms", depth), ("bookTicker", other), ("trade", event)):
            lines.append(f"{clock} " + _json({"stream": f"{symbol}@{kind}", "data": data}).decode())
    return gzip.compress(_lines(lines))


@_file(f"{STREAMS}/hyperliquid/btcusd_20250126.gz")
def _hyperliquid_stream() -> bytes:
    lines = []
    for trade in tape("hl", 50, _us(2025, 1, 26), 1, gap=1.0, price="105056.0", tick="1.0", lot="0.00001"):
        clock, side = trade.us * 1000, {"buy": "B", "sell": "A"}[trade.side]
        book = {"coin": "BTC", "levels": [[{"n": 5, "px": trade.price, "sz": "3.0"}], []], "time": trade.us // 1000}
        deal = {"coin": "BTC", "px": trade.price, "side": side, "sz": trade.amount, "tid": trade.id}
        lines.append(f"{clock} " + _json({"channel": "l2Book", "data": book}).decode())
        lines.append(f"{clock} " + _json({"channel": "trades", "data": [deal]}).decode())
    return gzip.compress(_lines(lines))


# --- bars of several vendors ---------------------------------------------------------------------------------------

#: Minutes of the generated file of Bitfinex, between its first and its last one, of which about half are absent.
_BITFINEX_SPAN = 2_880


@cache
def bitfinex_minutes() -> pl.DataFrame:
    minutes = candles("bitfinex", _BITFINEX_SPAN, _us(2016, 1, 1), _MINUTE, price=429.17, decimals=2)
    kept = _rng("bitfinex gaps").random(_BITFINEX_SPAN) < 0.55
    kept[[0, -1]] = True
    return minutes.filter(pl.Series(kept))


@_file("ohlcv/bitfinex_1m_2016/BTCUSD_2016_1m.csv.gz")
def _bitfinex_csv() -> bytes:
    """Time in milliseconds, open, close, high, low, volume."""
    rows = bitfinex_minutes().iter_rows()
    return gzip.compress(_lines([f"{ts // 1000},{o},{c},{h},{low},{v}" for ts, o, h, low, c, v in rows]))


@cache
def hours_of_a_vendor(venue: str) -> pl.DataFrame:
    return candles(venue, 300, _us(2019, 10, 5), 60 * _MINUTE, price=8000.0, decimals=2)


@_file(f"{CSV}/Coinbase_BTCUSD_1h.csv.gz")
def _coinbase_csv() -> bytes:
    lines = ["Timestamps are UTC timezone,https://www.CryptoDataDownload.com"]
    lines.append("date,symbol,open,high,low,close,volume_btc,volume")
    for ts, o, h, low, c, v in reversed(list(hours_of_a_vendor("coinbase").iter_rows())):
        at = _moment(ts)
        lines.append(f"{at:%Y-%m-%d %I-%p},BTCUSD,{o},{h},{low},{c},{v},{round(v * c, 2)}")
    return gzip.compress(_lines(lines))


@_file(f"{CSV}/bitfinex-1h-btc-usd.csv.gz")
def _bitfinex_hours_csv() -> bytes:
    lines = ["Date,Symbol,Open,High,Low,Close,VolumeFrom,VolumeTo"]
    for ts, o, h, low, c, v in reversed(list(hours_of_a_vendor("bitfinex hours").iter_rows())):
        lines.append(f"{_moment(ts):%Y-%m-%d %H:%M},BTCUSD,{o},{h},{low},{c},{v},{round(v * c, 2)}")
    return gzip.compress(_lines(lines))


@_file(f"{CSV}/bitstamp_(BTC,ETH,LTC)USD_d.csv.gz")
def _wide_csv() -> bytes:
    coins = ("BTC", "ETH", "LTC")
    lines = ["," + ",".join(f"{coin}:{name}" for coin in coins for name in CANDLE)]
    for ts, *bar in candles("bitstamp", 40, _us(2014, 11, 28), 1440 * _MINUTE, price=363.59, decimals=2).iter_rows():
        lines.append(f"{_moment(ts):%Y-%m-%d}," + ",".join(map(str, bar)) + "," * 10)
    return gzip.compress(_lines(lines))


_HOURLY = {"BTCUSDT": 12889.35, "ETHUSDT": 410.2, "SOLUSDT": 2.05, "XMRUSDT": 130.4}
_HOURS = 480


@cache
def hourly() -> pl.DataFrame:
    """Return hours of four symbols over the end of summer time in Europe."""
    start = _us(2020, 10, 23, 8)
    made = [
        candles(f"hours {symbol}", _HOURS, start, 60 * _MINUTE, price=price, decimals=2).insert_column(
            0, pl.Series("symbol", [symbol] * _HOURS)
        )
        for symbol, price in _HOURLY.items()
    ]
    return pl.concat(made)


@_file(f"{HOURS}/perp_1h_22sym.parquet")
def _hours_parquet() -> bytes:
    return _columnar(_dates(hourly(), "open_time", "us"), "parquet")


@_file(f"{HOURS}/BTCUSDT_1h.raw.csv.gz")
def _hours_in_local_time() -> bytes:
    zone = ZoneInfo("Europe/Helsinki")
    lines = ["open_time,open,high,low,close,volume,close_time,returns"]
    for ts, o, h, low, c, v in hourly().filter(pl.col("symbol") == "BTCUSDT").drop("symbol").iter_rows():
        opened = _moment(ts).astimezone(zone)
        closed = (_moment(ts) + timedelta(minutes=59, seconds=59, milliseconds=999)).astimezone(zone)
        lines.append(f"{opened.isoformat(sep=' ')},{o},{h},{low},{c},{v},{closed.isoformat(sep=' ')},{c / o - 1}")
    return gzip.compress(_lines(lines))


_PERPETUALS = {"BTCUSDT": (96_000.0, 1), "SOLUSDT": (146.78, 2), "SUIUSDT": (3.31, 4), "XMRUSDT": (281.5, 2)}
_PERPETUAL_MINUTES = 2_900


@cache
def perpetual_minutes() -> pl.DataFrame:
    start = _us(2025, 5, 30, 18, 18)
    made = [
        candles(f"perp {symbol}", _PERPETUAL_MINUTES, start, _MINUTE, price=price, decimals=digits).insert_column(
            0, pl.Series("symbol", [symbol] * _PERPETUAL_MINUTES)
        )
        for symbol, (price, digits) in _PERPETUALS.items()
    ]
    return pl.concat(made)


@_file(f"{PERP}/perp_1m.parquet")
def _perpetual_parquet() -> bytes:
    return _columnar(_dates(perpetual_minutes(), "date"), "parquet")


@_file(f"{PERP}/SOL_USDT_USDT-1m-futures.raw.feather")
def _perpetual_feather() -> bytes:
    frame = perpetual_minutes().filter(pl.col("symbol") == "SOLUSDT").drop("symbol")
    return _columnar(_dates(frame, "date"), "feather")


@_file(f"{PERP}/perp_5m_1h_1d.parquet")
def _coarse_parquet() -> bytes:
    parts = []
    for symbol, (price, digits) in list(_PERPETUALS.items())[:3]:
        five = candles(f"coarse {symbol}", 8 * 288, _us(2025, 3, 6), 5 * _MINUTE, price=price, decimals=digits)
        for tf, length in (("5m", 5), ("1h", 60), ("1d", 1440)):
            bars = coarser(five, length * _MINUTE).with_columns(pl.lit(symbol).alias("symbol"))
            parts.append(_dates(bars, "date").with_columns(pl.lit(tf).alias("tf")))
    return _columnar(pl.concat(parts), "parquet")


@_file(f"{PERP}/funding_8h.parquet")
def _funding() -> bytes:
    at = pl.Series("date", [_us(2025, 3, 6, 16) + k * 480 * _MINUTE for k in range(30)]).cast(pl.Datetime("us", "UTC"))
    rates = np.round(_rng("funding").normal(0, 1e-4, 30), 8)
    frame = pl.DataFrame({"symbol": ["ADAUSDT"] * 30, "date": at.dt.cast_time_unit("ns"), "funding_rate": rates})
    return _columnar(frame, "parquet")


_PAIRS = ("ADA", "ETC", "ETH", "LTC", "XLM", "ZEC")


@cache
def freqtrade_pair(base: str) -> pl.DataFrame:
    """Return the five minutes of a pair; of the first four, some are absent."""
    bars = candles(f"freqtrade {base}", 600, _us(2018, 1, 10, 4, 55), 5 * _MINUTE, price=0.0533, decimals=7)
    if base not in _PAIRS[:4]:
        return bars
    kept = _rng(f"gaps {base}").random(600) < 0.97
    kept[[0, -1]] = True
    return bars.filter(pl.Series(kept))


@_file(*(f"{FREQTRADE}/{base}_BTC-5m.feather" for base in _PAIRS))
def _freqtrade_pair(name: str) -> bytes:
    return _columnar(_dates(freqtrade_pair(name.rpartition("/")[2].partition("_")[0]), "date"), "feather")


_UNITTEST_MINUTES = 900


@_file(f"{FREQTRADE}/UNITTEST_BTC-1m.json")
def _freqtrade_json() -> bytes:
    bars = candles("unittest", _UNITTEST_MINUTES, _us(2017, 11, 4, 23, 2), _MINUTE, price=0.00162, decimals=8)
    return _json([[ts // 1000, *bar] for ts, *bar in bars.iter_rows()])


@_file(
    f"{FREQTRADE}/XRP_USDT_USDT-1h-mark.feather",
    f"{FREQTRADE}/XRP_USDT_USDT-8h-funding_rate.feather",
    f"{FREQTRADE}/XRP_USDT_USDT-5m-futures.feather",
)
def _freqtrade_futures(name: str) -> bytes:
    length = {"1h": 60, "8h": 480, "5m": 5}[name.rpartition("/")[2].split("-")[1]]
    bars = candles(name, 100, _us(2021, 11, 15), length * _MINUTE, price=1.19, decimals=4)
    if "mark" in name:
        bars = bars.with_columns(pl.lit(None, pl.Float64).alias("volume"))
    elif "funding" in name:
        bars = bars.with_columns(pl.lit(0.0001).alias("open"), *(pl.lit(0.0).alias(column) for column in CANDLE[1:]))
    return _columnar(_dates(bars, "date"), "feather")


# --- years of days -------------------------------------------------------------------------------------------------

#: The generated coins' volatility per year, and BTC's crash.
_BTC_VOLATILITY = 0.65
_CRASH = (date(2020, 3, 12), -0.40)
_FIRST_DAY, _DAYS = date(2018, 1, 1), 2_191


@cache
def daily_coins() -> pl.DataFrame:
    """Return days of 24 coins with all fields of a kline; WBTC follows BTC, and liquid coins have steady volumes."""
    rng = _rng("coins")
    inside = 24
    scale = _BTC_VOLATILITY / np.sqrt(365 * inside)
    market = rng.normal(0, scale, (_DAYS, inside))
    crash = (_CRASH[0] - _FIRST_DAY).days
    market[crash] += (np.log1p(_CRASH[1]) - market[crash].sum()) / inside
    names = ["BTC", "ETH", "LTC", "WBTC", *(f"COIN{letter}" for letter in "ABCDEFGHIJKLMNOPQRST")]
    parts = []
    for place, name in enumerate(names):
        if name in ("BTC", "WBTC"):
            own, beta = (rng.normal(0, scale * 0.04, market.shape) if name == "WBTC" else 0.0), 1.0
        else:
            own, beta = rng.normal(0, scale, market.shape), 0.9
        steps = beta * market + own
        ends = np.cumsum(steps.ravel()).reshape(steps.shape)
        begins = ends - steps
        # The extremes of a Brownian path between two points that are known.
        up, down = (np.sqrt(steps**2 - 2 * steps.var() * np.log(rng.uniform(size=steps.shape))) for _ in range(2))
        first = 10_000 / (place + 1)
        opens, close = first * np.exp(begins[:, 0]), first * np.exp(ends[:, -1])
        high = first * np.exp((begins + ends + up).max(axis=1) / 2)
        low = first * np.exp((begins + ends - down).min(axis=1) / 2)
        # Dollars a day: BTC most, WBTC least of the first four; of the others neighbours change places often.
        level = {"BTC": 21.5, "ETH": 21.0, "LTC": 19.5, "WBTC": 15.0}.get(name, 19.0 - 0.02 * place)
        value = np.exp(level + 0.35 * rng.normal(size=_DAYS))
        # The average price is one that was paid.
        volume = value / np.sqrt(high * low)
        share = rng.uniform(0.4, 0.6, _DAYS)
        opened = np.array([_us(_FIRST_DAY.year, 1, 1) // 1000 + k * 86_400_000 for k in range(_DAYS)])
        parts.append(
            pl.DataFrame(
                {
                    "symbol": [f"{name}USDT"] * _DAYS,
                    "open_time": pl.Series(opened).cast(pl.Datetime("ms", "UTC")),
                    "open": opens,
                    "high": high,
                    "low": low,
                    "close": close,
                    "volume": volume,
                    "close_time": opened + 86_399_999,
                    "quote_asset_volume": value,
                    "trades": rng.integers(1_000, 100_000, _DAYS),
                    "taker_buy_base": volume * share,
                    "taker_buy_quote": value * share,
                }
            )
        )
    return pl.concat(parts)


@_file(f"{SPOT}/spot_1d.parquet")
def _spot_days() -> bytes:
    return _columnar(daily_coins(), "parquet")


@_file("equities/sp500_stocks_2015_2020/sp500_stocks_adjclose_471.parquet")
def _many_stocks() -> bytes:
    """471 stocks that share a market and one of eleven sectors."""
    rng, days, count = _rng("stocks"), 1_259, 471
    sectors = rng.normal(0, 0.007, (days, 11))[:, np.arange(count) % 11]
    own = rng.normal(0, 1, (days, count)) * rng.uniform(0.006, 0.02, count)
    returns = rng.normal(0.0004, 0.008, (days, 1)) * rng.uniform(0.5, 1.5, count) + sectors + own
    prices = np.exp(np.cumsum(returns, axis=0)) * rng.uniform(10, 300, count)
    dates = pl.Series("Date", [date(2015, 2, 9) + timedelta(days=k) for k in range(days)])
    return _columnar(pl.DataFrame([dates, *(pl.Series(f"S{k:03}", prices[:, k]) for k in range(count))]), "parquet")


#: Splits (shares for one) and dividends (dollars a share) of the generated stocks, by the number of their trading day.
_ACTIONS: dict[str, tuple[tuple[int, str, float], ...]] = {
    "aapl": (
        *((60, "dividend", 0.52), (130, "split", 7.0), (190, "dividend", 0.47), (255, "dividend", 0.47)),
        *((320, "dividend", 0.52), (400, "split", 4.0), (480, "dividend", 0.2)),
    ),
    "ibm": tuple((70 * k, "dividend", 0.95 + 0.05 * k) for k in range(1, 8)),
    "spy": (*((65 * k, "dividend", 1.1) for k in range(1, 6)), (350, "split", 0.5), (420, "dividend", 1.2)),
}


@cache
def stock(ticker: str) -> list[tuple[date, float]]:
    """Return trading days and traded closes: prices fall by a dividend and divide by a split."""
    rng = _rng(ticker)
    price, closes = 400.0, []
    actions = {day: (kind, value) for day, kind, value in _ACTIONS[ticker]}
    for place in range(520):
        kind, value = actions.get(place, ("", 0.0))
        price = price / value if kind == "split" else price - value if kind == "dividend" else price
        price *= float(np.exp(rng.normal(0, 0.01)))
        closes.append((date(2014, 1, 6) + timedelta(days=7 * (place // 5) + place % 5), round(price, 2)))
        price = closes[-1][1]
    return closes


@_file(*(f"{EQUITY}/daily/{ticker}.zip" for ticker in _ACTIONS))
def _stock_days(name: str) -> bytes:
    ticker = Path(name).stem
    lines = []
    for day, close in stock(ticker):
        price = round(close * 10_000)
        lines.append(f"{day:%Y%m%d} 00:00,{price},{price + 500},{price - 500},{price},100000")
    return _zip(f"{ticker}.csv", _lines(lines))


@_file(*(f"{EQUITY}/factor_files/{ticker}.csv" for ticker in _ACTIONS))
def _stock_factors(name: str) -> bytes:
    """A line holds for the days up to its own: factor of dividends, factor of splits, close of that day."""
    ticker = Path(name).stem
    closes = stock(ticker)
    price, split, lines = 1.0, 1.0, ["20501231,1,1,0"]
    for place, kind, value in reversed(_ACTIONS[ticker]):
        day, reference = closes[place - 1]
        price *= 1 - value / reference if kind == "dividend" else 1
        split /= value if kind == "split" else 1
        # An action is on the day after its line, weekends included.
        lines.append(f"{day:%Y%m%d},{price:.10f},{split:.10f},{reference}")
    lines.append(f"{closes[0][0]:%Y%m%d},{price:.10f},{split:.10f},{closes[0][1]}")
    return _lines(lines[::-1])


# --- answers of REST interfaces ------------------------------------------------------------------------------------

_KRAKEN_PAIR = {
    "altname": "XBTUSDT",
    "wsname": "XBT/USDT",
    "aclass_base": "currency",
    "base": "XXBT",
    "aclass_quote": "currency",
    "quote": "USDT",
    "lot": "unit",
    "cost_decimals": 5,
    "pair_decimals": 1,
    "lot_decimals": 8,
    "lot_multiplier": 1,
    "leverage_buy": [2, 3],
    "leverage_sell": [2, 3],
    "fees": [[0, 0.4], [10000, 0.35]],
    "fees_maker": [[0, 0.25], [10000, 0.2]],
    "fee_volume_currency": "ZUSD",
    "margin_call": 80,
    "margin_stop": 40,
    "ordermin": "0.00005",
    "costmin": "0.5",
    "tick_size": "0.1",
    "status": "online",
}


@_file(f"{ANSWERS}/nautilus/kraken/http_asset_pairs.json")
def _kraken_pairs_answer() -> bytes:
    return _json({"error": [], "result": {"XBTUSDT": _KRAKEN_PAIR}})


@_file(f"{ANSWERS}/nautilus/kraken/http_trades.json")
def _kraken_trades_answer() -> bytes:
    start = _us(2025, 11, 10, 17, 23)
    trades = tape(
        "kraken rest", 1000, start, 10_218_208, gap=20.0, price="105433.60000", tick="0.10000", lot="0.00000100", unit=1
    )
    rows = [[t.price, t.amount, t.us / _SECOND, t.side[0], "lm"[t.id % 2], "", t.id] for t in trades]
    return _json({"error": [], "result": {"XBTUSDT": rows, "last": str(trades[-1].us * 1000)}})


@_file(f"{ANSWERS}/xchange/xchange-kraken/example-trades-data.json")
def _kraken_trades_without_ids() -> bytes:
    trades = tape(
        "kraken 2013",
        300,
        _us(2013, 11, 27, 19),
        1,
        gap=10.0,
        price="1023.82219",
        tick="0.00100",
        lot="0.00100000",
        unit=100,
    )
    rows = [[t.price, t.amount, t.us / _SECOND, t.side[0], "l", ""] for t in trades]
    return _json({"error": [], "result": {"XXBTZUSD": rows, "last": str(trades[-1].us * 1000)}})


@_file(f"{ANSWERS}/nautilus/kraken/http_ohlc.json")
def _kraken_bars_answer() -> bytes:
    rng, rows = _rng("kraken ohlc"), []
    for ts, o, h, low, c, v in candles(
        "ohlc", 720, _us(2025, 11, 10, 12, 17), _MINUTE, price=106e3, decimals=1
    ).iter_rows():
        if rng.random() < 0.2:
            rows.append([ts // _SECOND, *[str(o)] * 4, "0.0", "0.00000000", 0])
        else:
            rows.append([ts // _SECOND, str(o), str(h), str(low), str(c), str(c), f"{v:.8f}", int(rng.integers(1, 9))])
    return _json({"error": [], "result": {"XBTUSDT": rows, "last": rows[-2][0]}})


@_file(f"{ANSWERS}/nautilus/okx/http_get_trades.json")
def _okx_trades_answer() -> bytes:
    trades = tape("okx", 60, _us(2025, 5, 12, 21), 734_864_332, gap=2.0, price="102537.9", tick="0.1", lot="0.0000005")
    rows = [
        {
            "instId": "BTC-USDT",
            "side": t.side,
            "sz": t.amount,
            "px": t.price,
            "tradeId": str(t.id),
            "ts": str(t.us // 1000),
        }
        for t in reversed(trades)
    ]
    return _json({"code": "0", "msg": "", "data": rows})


@_file(f"{ANSWERS}/nautilus/okx/http_get_candlesticks_full.json")
def _okx_bars_answer() -> bytes:
    """Contracts, then base currency, then quote currency."""
    rows = [
        [str(ts // 1000), *map(str, bar[:4]), f"{bar[4] * 100:.1f}", f"{bar[4]:.3f}", f"{bar[4] * bar[3]:.5f}", "1"]
        for ts, *bar in candles("okx bars", 40, _us(2025, 5, 13), _MINUTE, price=102806.0, decimals=1).iter_rows()
    ]
    return _json({"code": "0", "msg": "", "data": rows[::-1]})


@_file(f"{ANSWERS}/nautilus/coinbase/http_ticker.json")
def _coinbase_trades_answer() -> bytes:
    trades = tape(
        "coinbase", 50, _us(2026, 4, 7), 995_098_600, gap=1.0, price="68923.67", tick="0.01", lot="0.00000100", unit=1
    )
    # `side` is the maker's.
    rows = [
        {
            "trade_id": str(t.id),
            "product_id": "BTC-USD",
            "price": t.price,
            "size": t.amount,
            "time": _moment(t.us).isoformat(timespec="microseconds").replace("+00:00", "Z"),
            "side": "SELL" if t.side == "buy" else "BUY",
            "bid": "",
            "ask": "",
            "exchange": "coinbase",
        }
        for t in reversed(trades)
    ]
    newest = trades[-1]
    other = f"{Decimal(newest.price) + (Decimal('-0.01') if newest.side == 'buy' else Decimal('0.01')):f}"
    bid, ask = (other, newest.price) if newest.side == "buy" else (newest.price, other)
    return _json({"trades": rows, "best_bid": bid, "best_ask": ask})


@_file(f"{ANSWERS}/nautilus/coinbase/http_candles.json")
def _coinbase_bars_answer() -> bytes:
    rows = [
        {
            "start": str(ts // _SECOND),
            "low": str(low),
            "high": str(h),
            "open": str(o),
            "close": str(c),
            "volume": str(v),
        }
        for ts, o, h, low, c, v in candles(
            "coinbase bars", 2, _us(2024, 4, 4), 60 * _MINUTE, price=65984.18, decimals=2
        ).iter_rows()
    ]
    return _json({"candles": rows[::-1]})


def _coinbase_product(base: str, quote: str) -> dict[str, Any]:
    return {
        "product_id": f"{base}-{quote}",
        "price": "100.0",
        "base_increment": "0.00000001",
        "quote_increment": "0.01",
        "quote_min_size": "1",
        "quote_max_size": "150000000",
        "base_min_size": "0.00000001",
        "base_max_size": "3400",
        "base_name": base,
        "quote_name": quote,
        "is_disabled": False,
        "new": False,
        "status": "online",
        "cancel_only": False,
        "limit_only": False,
        "post_only": False,
        "trading_disabled": False,
        "auction_mode": False,
        "product_type": "SPOT",
        "quote_currency_id": quote,
        "base_currency_id": base,
        "fcm_trading_session_details": None,
        "alias": "",
        "alias_to": [],
        "base_display_symbol": base,
        "quote_display_symbol": quote,
        "view_only": False,
        "price_increment": "0.01",
    }


@_file(f"{ANSWERS}/nautilus/coinbase/http_products.json")
def _coinbase_products_answer() -> bytes:
    return _json({"products": [_coinbase_product("BTC", "USD"), _coinbase_product("ETH", "USD")]})


@_file(f"{ANSWERS}/nautilus/hyperliquid/http_recent_trades_btc.json")
def _hyperliquid_trades_answer() -> bytes:
    trades = tape("hl rest", 10, _us(2026, 2, 1, 3), 300_001, gap=1.0, price="104300.0", tick="0.5", lot="0.00010")
    rows = [
        {
            "coin": "BTC",
            "side": {"buy": "B", "sell": "A"}[t.side],
            "px": t.price,
            "sz": t.amount,
            "hash": f"0x{t.id:064}",
        }
        | {"time": t.us // 1000, "tid": t.id, "users": ["0xbuyer", "0xseller"]}
        for t in reversed(trades)
    ]
    return _json(rows)


# --- venues' lists of instruments, and what their streams said ------------------------------------------------------

_BASES = ("BTC", "ETH", "SOL", "XRP", "DOGE", "1INCH", "1000SHIB", "LINK", "BNB", "AAVE", "USDC", "T", "ARB")
#: What each venue quotes in; the last ones are for few bases only.
_QUOTED_IN = {
    "BINANCE": ("USDT", "USDC", "EUR", "BTC", "ETH", "BNB"),
    "BINANCE_US": ("USDT", "USDC", "BTC"),
    "BYBIT": ("USDT", "USDC", "EUR", "BTC"),
}


def _pairs(venue: str) -> list[tuple[str, str]]:
    """Return base and quote of a venue's spot markets: what is the lesser money is the base."""
    bases = {
        "USDT": _BASES,
        "BTC": ("ETH", "SOL", "XRP", "DOGE", "LINK", "BNB", "AAVE"),
        "ETH": ("LINK", "BNB", "AAVE", "XRP"),
        "BNB": ("SOL", "XRP", "LINK"),
    }
    usual = tuple(base for base in _BASES if base not in ("T", "USDC"))
    return [(base, quote) for quote in _QUOTED_IN[venue] for base in bases.get(quote, usual)]


def _binance_symbol(base: str, quote: str, tail: str = "") -> dict[str, Any]:
    price = {"filterType": "PRICE_FILTER", "minPrice": "0.01", "maxPrice": "1000000", "tickSize": "0.01"}
    lot = {"filterType": "LOT_SIZE", "minQty": "0.001", "maxQty": "9000", "stepSize": "0.001"}
    return {
        "symbol": f"{base}{quote}{tail}",
        "pair": f"{base}{quote}",
        "status": "TRADING",
        "contractStatus": "TRADING",
        "baseAsset": base,
        "quoteAsset": quote,
        "marginAsset": quote,
        "baseAssetPrecision": 8,
        "quotePrecision": 8,
        "quoteAssetPrecision": 8,
        "pricePrecision": 2,
        "quantityPrecision": 3,
        "orderTypes": ["LIMIT", "MARKET"],
        "isSpotTradingAllowed": True,
        "isMarginTradingAllowed": True,
        "permissions": ["SPOT"],
        "filters": [price, lot],
        "onboardDate": 1_569_398_400_000,
    }


def _binance_markets(venue: str) -> dict[str, Any]:
    if venue != "BINANCE_FUTURES":
        symbols = [_binance_symbol(base, quote) for base, quote in _pairs(venue)]
        for symbol in symbols:
            del symbol["marginAsset"], symbol["pair"], symbol["contractStatus"], symbol["onboardDate"]
    else:
        perpetual = {"contractType": "PERPETUAL", "deliveryDate": 4_133_404_800_000}
        dated = {"contractType": "CURRENT_QUARTER", "deliveryDate": 1_632_470_400_000}
        symbols = [_binance_symbol(base, "USDT") | perpetual for base in _BASES]
        symbols += [_binance_symbol(base, "USDT", "_210924") | dated for base in ("BTC", "ETH")]
    return {"timezone": "UTC", "serverTime": 1_633_998_511_098, "rateLimits": [], "symbols": symbols}


#: Trades that the generated stream of a venue says.
_STREAMED = {"BINANCE": 40, "BINANCE_FUTURES": 60, "COINBASE": 50}


def _streamed(venue: str) -> list[dict[str, Any]]:
    if venue == "COINBASE":
        trades = tape(
            "cb ws", _STREAMED[venue], _us(2026, 8, 9, 21), 1, gap=1.0, price="65083.67", tick="0.01", lot="0.001"
        )
        rows = [
            {
                "product_id": ("BTC-USD", "ETH-USD")[t.id % 2],
                "trade_id": str(t.id),
                "price": t.price,
                "size": t.amount,
                "time": _moment(t.us).isoformat(timespec="microseconds").replace("+00:00", "Z"),
                "side": t.side.upper(),
            }
            for t in trades
        ]
        events = [("snapshot", rows[:20]), *(("update", rows[k : k + 5]) for k in range(0, len(rows), 5))]
        return [{"channel": "market_trades", "events": [{"type": kind, "trades": said}]} for kind, said in events]
    trades = tape(venue, _STREAMED[venue], _us(2021, 10, 12), 499, gap=1.0, price="100.00", tick="0.01", lot="0.001")
    return [
        {
            "stream": f"{symbol.lower()}@aggTrade",
            "data": {"e": "aggTrade", "E": t.us // 1000 + 1, "s": symbol, "a": t.id, "p": t.price, "q": t.amount}
            | {"f": t.id, "l": t.id, "T": t.us // 1000, "m": t.side == "sell"}
            | ({"M": True} if venue == "BINANCE" else {}),
        }
        for t in trades
        for symbol in [("BTCUSDT", "ETHUSDT")[t.id % 2]]
    ]


def _listed(venue: str) -> list[tuple[str, object]]:
    """Return the addresses of a venue's lists of instruments, with the answers."""
    if venue.startswith("BINANCE"):
        api = "fapi.binance.com/fapi/v1" if venue == "BINANCE_FUTURES" else "api.binance.com/api/v3"
        return [(f"https://{api}/exchangeInfo", _binance_markets(venue))]
    if venue == "BYBIT":
        linear = [
            {"symbol": f"{base}USDT", "contractType": "LinearPerpetual", "baseCoin": base, "quoteCoin": "USDT"}
            for base in _BASES
        ]
        linear.append(
            {"symbol": "BTC-26DEC25", "contractType": "LinearFutures", "baseCoin": "BTC", "quoteCoin": "USDT"}
        )
        spot = [{"symbol": f"{base}{quote}", "baseCoin": base, "quoteCoin": quote} for base, quote in _pairs(venue)]
        spot.append({"symbol": "BTCUSD", "baseCoin": "BTC", "quoteCoin": "USD"})
        address = "https://api.bybit.com/v5/market/instruments-info?&category="
        return [
            (f"{address}{kind}", {"retCode": 0, "result": {"category": kind, "list": listed}})
            for kind, listed in (("linear", linear), ("spot", spot))
        ]
    if venue == "DERIBIT":
        coin = [("BTC", "USD", "BTC-PERPETUAL"), ("ETH", "USD", "ETH-PERPETUAL"), ("SOL", "USDC", "SOL_USDC-PERPETUAL")]
        answer = [
            {"instrument_name": name, "base_currency": base, "quote_currency": quote}
            | {"settlement_period": "perpetual", "kind": "future"}
            for base, quote, name in coin
        ]
        answer += [
            {"instrument_name": f"BTC-24SEP21-{strike}-{right}", "base_currency": "BTC", "quote_currency": "BTC"}
            | {"settlement_period": "month", "kind": "option"}
            for strike in (40_000, 52_000)
            for right in "PC"
        ]
        return [("https://www.deribit.com/api/v2/public/get_instruments?currency=BTC", {"result": answer})]
    if venue == "BITSTAMP":
        pairs = [("BTC", "USD"), ("XRP", "EUR"), ("USDT", "EUR"), ("GALA", "EUR"), ("BAT", "BTC"), ("SGB", "EUR")]
        listed = [{"url_symbol": f"{base}{quote}".lower(), "name": f"{base}/{quote}"} for base, quote in pairs]
        return [("https://www.bitstamp.net/api/v2/trading-pairs-info/", listed)]
    if venue == "GEMINI":
        pairs = [(base, quote) for base in ("BTC", "SOL", "DOGE", "AAVE") for quote in ("USD", "USDC", "GUSD", "RLUSD")]
        details = [
            {"symbol": f"{base}{quote}", "base_currency": base, "quote_currency": quote} for base, quote in pairs
        ]
        details.append({"symbol": "BTCUSDCPERP", "base_currency": "BTC", "quote_currency": "USDC"})
        address = "https://api.gemini.com/v1/symbols/details"
        return [(f"{address}/{detail['symbol'].lower()}", detail) for detail in details]
    if venue == "COINBASE":
        pairs = [(base, quote) for base in _BASES for quote in ("USD", "EUR", "USDC") if base != quote]
        products = {"products": [_coinbase_product(base, quote) for base, quote in pairs]}
        return [("https://api.coinbase.com/api/v3/brokerage/market/products", products)]
    names = ["AAABBB", "AAVE:USD", "AAVE:UST", "ADABTC", "AVAX:UST", "BCHN:USD", "LINK:USD", "TESTBTC:TESTUSD"]
    return [("https://api-pub.bitfinex.com/v2/conf/pub:list:pair:exchange", [names])]


_VENUES = ("BINANCE", "BINANCE_US", "BINANCE_FUTURES", "BYBIT", "DERIBIT", "BITSTAMP", "GEMINI", "COINBASE", "BITFINEX")


@_file(*(f"{PLAYBACK}/{venue}.jsonl.zst" for venue in _VENUES))
def _playback(name: str) -> bytes:
    """Requests' answers and stream messages, as text within JSON."""
    venue = Path(name).name.partition(".")[0]
    records: list[dict[str, Any]] = [{"t": "header", "format": 2, "exchange": venue}]
    records += [{"t": "http", "url": url, "data": json.dumps(answer)} for url, answer in _listed(venue)]
    if venue in _STREAMED:
        records.append({"t": "connect", "conn": f"{venue}.ws.1"})
        records += [{"t": "recv", "data": json.dumps(said, separators=(",", ":"))} for said in _streamed(venue)]
    sink = pa.BufferOutputStream()
    with pa.CompressedOutputStream(sink, "zstd") as compressed:
        compressed.write(_lines([json.dumps(record) for record in records]))
    return sink.getvalue().to_pybytes()


@_file(f"{PLAYBACK}/expected_counts.json")
def _playback_counts() -> bytes:
    return _json({venue: {"trades": count} for venue, count in _STREAMED.items()})


@_file(f"{ANSWERS}/xchange/xchange-kraken/example-assetpairs-data.json")
def _kraken_list() -> bytes:
    listed = [("XXBTZUSD", "XBTUSD", "XBT/USD"), ("XETHXXBT", "ETHXBT", "ETH/XBT"), ("ADACAD", "ADACAD", "ADA/CAD")]
    listed += [
        ("XXDGXXBT", "XDGXBT", "XDG/XBT"),
        ("USDTZUSD", "USDTUSD", "USDT/USD"),
        ("DASHEUR", "DASHEUR", "DASH/EUR"),
    ]
    result: dict[str, Any] = {code: {"altname": name, "wsname": ws} for code, name, ws in listed}
    result["XXBTZUSD.d"] = {"altname": "XBTUSD.d"}
    return _json({"error": [], "result": result})


# --- Binance's archive ---------------------------------------------------------------------------------------------


def write_archive(root: Path, symbols: Sequence[str], first: date, days: int) -> None:
    """Put daily files of aggTrades and of klines of 1m and 1h where Binance's archive has them, with checksums.

    Spot times are milliseconds before 2025, and microseconds from then on.
    """
    for symbol in symbols:
        minutes = candles(f"archive {symbol}", days * 1440, _us(*first.timetuple()[:3]), _MINUTE, price=4e4, decimals=2)
        trades = tape(
            f"archive {symbol}",
            days * 400,
            _us(*first.timetuple()[:3]),
            900,
            gap=200.0,
            price="40000.00",
            tick="0.01",
            lot="0.00001",
        )
        for day in (first + timedelta(days=number) for number in range(days)):
            begin = _us(*day.timetuple()[:3])
            unit = 1 if day.year >= 2025 else 1000
            inside = minutes.filter(pl.col("ts").is_between(begin, begin + 1440 * _MINUTE, closed="left"))
            for interval, length in (("1m", _MINUTE), ("1h", 60 * _MINUTE)):
                lines = [
                    f"{ts // unit},{o},{h},{low},{c},{v},{(ts + length) // unit - 1},{v * c},9,{v / 2},{v * c / 2},0"
                    for ts, o, h, low, c, v in coarser(inside, length).iter_rows()
                ]
                _publish(root, f"klines/{symbol}/{interval}/{symbol}-{interval}-{day}", lines)
            lines = [
                f"{t.id},{t.price},{t.amount},{t.id * 2},{t.id * 2 + 1},{t.us // unit},{t.side == 'sell'!s},True"
                for t in trades
                if begin <= t.us < begin + 1440 * _MINUTE
            ]
            _publish(root, f"aggTrades/{symbol}/{symbol}-aggTrades-{day}", lines)


def _publish(root: Path, name: str, lines: Sequence[str]) -> None:
    path = root / f"data/spot/daily/{name}.zip"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(_zip(f"{path.stem}.csv", _lines(lines)))
    digest = hashlib.sha256(path.read_bytes()).hexdigest()
    path.with_name(f"{path.name}.CHECKSUM").write_text(f"{digest}  {path.name}\n", encoding="ascii")


@cache
def generated_facts() -> Facts:
    """Return what is known of the generated files, from their truth."""
    trades, dump, coins, flow = xrp(), kraken(), bch(), orderflow()
    newest = hours_of_a_vendor("coinbase").row(-1, named=True)
    streams = {f"{name}_{day}": len(stream(name, day)) for name, day in _STREAM_FILES}
    return Facts(
        xrp_trades=len(trades),
        xrp_first_id=trades[0].id,
        xrp_first=_moment(trades[0].us),
        xrp_last=_moment(trades[-1].us),
        xrp_bars={"1m": len(bars_of(trades, _MINUTE)), "5m": len(bars_of(trades, 5 * _MINUTE))},
        kraken_trades=len(dump),
        kraken_first=_moment(dump[0].us),
        kraken_days=len({trade.us // (1440 * _MINUTE) for trade in dump}),
        bch_trades=len(coins),
        bch_first=(_moment(coins[0].us), float(coins[0].price), float(coins[0].amount)),
        orderflow=(len(flow), _moment(flow[0].us), flow[0].id),
        stream_trades=streams | {"all": sum(streams.values())},
        stream_lag=(timedelta(seconds=-1.4), timedelta(seconds=-1.1)),
        bitfinex_minutes=bitfinex_minutes().height,
        bitfinex_missing=_BITFINEX_SPAN - bitfinex_minutes().height,
        coinbase_hours=300,
        coinbase_first=(_moment(newest["ts"]), newest["volume"], round(newest["volume"] * newest["close"], 2)),
        bitfinex_hours=300,
        bitfinex_first_volume=hours_of_a_vendor("bitfinex hours")["volume"][-1],
        perp_symbols=len(_PERPETUALS),
        perp_minutes=len(_PERPETUALS) * _PERPETUAL_MINUTES,
        hour_symbols=len(_HOURLY),
        hours=_HOURS,
        coarse_symbols={"1d": 3, "1h": 3, "5m": 3},
        coarse_compared={"1h": 3 * 8 * 24, "1d": 3 * 8},
        freqtrade_pairs=len(_PAIRS),
        freqtrade_minutes=_UNITTEST_MINUTES,
        worst_day=_CRASH,
        volatility=(0.9 * _BTC_VOLATILITY, 1.15 * _BTC_VOLATILITY),
    )
