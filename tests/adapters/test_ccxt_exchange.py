"""The ccxt feed against a real HTTP server that speaks each exchange's format and misbehaves on request."""

from __future__ import annotations

import itertools
import json
import logging
import random
import time
import traceback
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from typing import Any

import polars as pl
import pytest
from polars.testing import assert_frame_equal

from hfthot_platform.adapters.ccxt.exchange import CcxtFeed, CcxtOptions, Credentials
from hfthot_platform.adapters.ports import Batch
from hfthot_platform.core.errors import (
    BadRequestError,
    HistoryUnavailableError,
    SourceRefusedError,
    SourceUnavailableError,
)
from hfthot_platform.domain.contracts import contract
from tests.adapters import replay_server as server
from tests.recordings import ANSWERS, PLAYBACK, Recordings

START = datetime(2024, 1, 1, tzinfo=UTC)
END = START + timedelta(minutes=16)
NOW = START + timedelta(days=1)
US = int(START.timestamp()) * 1_000_000
MINUTE = 60_000_000


def make_trades(count: int = 1200, seed: int = 1) -> list[Any]:
    """Trades from a minute before START on, with runs at one and the same millisecond."""
    rng = random.Random(seed)
    us, trades = US - MINUTE, []
    for number in range(count):
        us += rng.choice([0, 0, 1000, 500_000, 2_000_000, 3_000_000])
        price, amount = f"{40000 + rng.randint(-500, 500) / 10:.1f}", f"{rng.randint(1, 900) / 1000:.3f}"
        trades.append(server.Trade(5000 + number, us, price, amount, rng.choice(["buy", "sell"])))
    return trades


def make_bars(count: int = 1600, first: int = US, length: int = MINUTE) -> list[Any]:
    return [
        server.Bar(first + n * length, f"{100 + n % 7}.0", "120.0", "90.0", f"{100 + n % 5}.5", f"{1 + n % 11}.25")
        for n in range(count)
    ]


TRADES = make_trades()
BARS = make_bars()

Serve = Callable[..., tuple[Any, CcxtFeed]]


@pytest.fixture
def serve() -> Iterator[Serve]:
    """Return a function that starts a server for an exchange and a feed that talks to it."""
    opened: list[tuple[Any, CcxtFeed]] = []

    def start(exchange_id: str, exchange: Any, *symbols: str, **kwargs: Any) -> tuple[Any, CcxtFeed]:
        running = server.ReplayServer(exchange, kwargs.get("monotonic", time.monotonic))
        settings = {"rate_limit_ms": 0.0, "first_wait": 0.005, "timeout": 5.0, **kwargs.pop("options", {})}
        options = CcxtOptions(base_url=running.url, **settings)
        feed = CcxtFeed(exchange_id, symbols, clock=kwargs.pop("clock", lambda: NOW), options=options, **kwargs)
        opened.append((running, feed))
        return running, feed

    yield start
    for running, feed in opened:
        feed.close()
        running.close()


# Each exchange: its id, its server, a symbol, and the path that trades are read from.
CASES: dict[str, tuple[str, Callable[..., Any], str, str, str]] = {
    "binance": ("binance", server.Binance, "BTC-USDT", "/aggTrades", "/klines"),
    "binance_usdm": ("binanceusdm", server.Binance, "BTC-USDT-PERP", "/aggTrades", "/klines"),
    "kraken": ("kraken", server.Kraken, "BTC-USD", "/Trades", "/OHLC"),
    "okx": ("okx", server.Okx, "BTC-USDT", "/history-trades", "-candles"),
    "coinbase": ("coinbase", server.Coinbase, "BTC-USD", "/ticker", "/candles"),
    "bitfinex": ("bitfinex", server.Bitfinex, "BTC-USD", "/hist", "/hist"),
}
# Hyperliquid has no history of trades: it is in the tests of bars only.
BAR_CASES = {**CASES, "hyperliquid": ("hyperliquid", server.Hyperliquid, "BTC-USDC-PERP", "/info", "/info")}
every_venue = pytest.mark.parametrize("venue", CASES)


def gather(batches: Iterator[Batch]) -> pl.DataFrame:
    """Return all rows, checking what every batch promises."""
    frames = []
    for batch in batches:
        declared = contract(batch.table).polars_schema
        assert {name: declared[name] for name in batch.rows.columns} == dict(batch.rows.schema)
        assert batch.rows_read == batch.rows.height + batch.rejected.height
        frames.append(batch.rows)
    return pl.concat(frames)


def expected(trades: list[Any], venue: str, start: datetime = START, end: datetime = END) -> pl.DataFrame:
    """Return the trades as rows, from what the exchange holds, without the feed's code."""
    step = 1 if venue in {"kraken", "coinbase"} else 1000  # the others give milliseconds
    frame = pl.DataFrame(
        {
            "ts": [trade.us // step * step for trade in trades],
            "trade_id": [trade.id for trade in trades],
            "price": [float(trade.price) for trade in trades],
            "amount": [float(trade.amount) for trade in trades],
            "side": [trade.side for trade in trades],
        }
    ).with_columns(pl.col("ts").cast(pl.Datetime("us", "UTC")))
    return frame.filter((pl.col("ts") >= start) & (pl.col("ts") < end)).sort("ts", "trade_id")


def core(rows: pl.DataFrame) -> pl.DataFrame:
    return rows.select("ts", "trade_id", "price", "amount", "side")


# --- history of trades ---


@every_venue
def test_history_is_complete_ordered_and_half_open(serve: Serve, venue: str) -> None:
    exchange_id, exchange, symbol, *_ = CASES[venue]
    _, feed = serve(exchange_id, exchange(TRADES), symbol)
    rows = gather(feed.fetch("market.trades", START, END))
    assert_frame_equal(core(rows), expected(TRADES, venue))


@every_venue
def test_rows_say_venue_symbol_and_source(serve: Serve, venue: str) -> None:
    exchange_id, exchange, symbol, *_ = CASES[venue]
    _, feed = serve(exchange_id, exchange(TRADES), symbol)
    rows = gather(feed.fetch("market.trades", START, END))
    assert rows.select("venue", "symbol", "source", "source_ref").unique().rows() == [
        (
            venue,
            symbol,
            "vendor_history",
            f"ccxt/{exchange_id} market.trades {symbol} 2024-01-01T00:00:00Z/2024-01-01T00:16:00Z",
        )
    ]
    assert rows["ts_received"].null_count() == rows.height


def test_a_span_without_trades_is_empty(serve: Serve) -> None:
    _, feed = serve("binance", server.Binance(TRADES), "BTC-USDT")
    before = START - timedelta(days=30)
    assert list(feed.fetch("market.trades", before, before + timedelta(hours=5))) == []


def test_years_before_the_first_trade_are_skipped_not_stepped_through(serve: Serve) -> None:
    running, feed = serve("binance", server.Binance(TRADES), "BTC-USDT")
    rows = gather(feed.fetch("market.trades", START - timedelta(days=2000), END))
    assert rows.height == expected(TRADES, "binance", START - timedelta(days=2000)).height
    assert len(running.asked("/aggTrades")) < 20


def test_a_pause_of_hours_is_crossed(serve: Serve) -> None:
    later = [trade._replace(id=trade.id + 1200, us=trade.us + 9 * 3600 * 1_000_000) for trade in TRADES]
    for venue, (exchange_id, exchange, symbol, *_) in CASES.items():
        _, feed = serve(exchange_id, exchange([*TRADES, *later]), symbol)
        rows = gather(feed.fetch("market.trades", START, START + timedelta(hours=12)))
        assert_frame_equal(core(rows), expected([*TRADES, *later], venue, end=START + timedelta(hours=12)))


def test_a_market_that_ended_long_ago_is_not_stepped_through(serve: Serve) -> None:
    clock = lambda: START + timedelta(days=700)  # noqa: E731
    running, feed = serve("binance", server.Binance(TRADES), "BTC-USDT", clock=clock)
    assert gather(feed.fetch("market.trades", START, clock())).height == expected(TRADES, "binance", end=clock()).height
    assert len(running.asked("/aggTrades")) < 10


def test_ids_that_jump_are_followed_by_time(serve: Serve) -> None:
    class Jumping(server.Binance):
        """Knows nothing by id beyond the first thousand: the ids after them are of another range."""

        def agg_trades(self, api: str, query: dict[str, str]) -> Any:
            if "fromId" in query and 5600 <= int(query["fromId"]) < 10**6:
                return []
            return super().agg_trades(api, query)

    jumped = [trade if trade.id < 5600 else trade._replace(id=trade.id + 10**6) for trade in TRADES]
    _, feed = serve("binance", Jumping(jumped), "BTC-USDT", options={"page_rows": 300})
    assert_frame_equal(core(gather(feed.fetch("market.trades", START, END))), expected(jumped, "binance"))


def test_binance_giving_the_last_trades_of_a_full_window_loses_nothing(serve: Serve) -> None:
    _, feed = serve("binance", server.Binance(TRADES, newest_of_window=True), "BTC-USDT")
    assert_frame_equal(core(gather(feed.fetch("market.trades", START, END))), expected(TRADES, "binance"))


def test_kraken_trades_of_one_time_across_a_page_edge_are_kept(serve: Serve) -> None:
    same = [server.Trade(n, US + n // 150 * 1_000_000, "1.0", "2.0", "buy") for n in range(1, 700)]
    _, feed = serve("kraken", server.Kraken(same), "BTC-USD", options={"page_rows": 200})
    assert gather(feed.fetch("market.trades", START, END))["trade_id"].to_list() == list(range(1, 700))


def test_trades_without_ids_get_negative_ones_in_order_and_twins_stay_two(serve: Serve) -> None:
    trades = [server.Trade(0, US + n // 3 * 1_000_000, "1.0", "2.0", "sell") for n in range(600)]
    _, feed = serve("kraken", server.Kraken(trades, with_ids=False), "BTC-USD", options={"page_rows": 100})
    rows = gather(feed.fetch("market.trades", START, END))
    assert rows.height == 600
    assert rows["trade_id"].n_unique() == 600
    assert rows["trade_id"].max() < 0
    assert rows["trade_id"].is_sorted()


def test_coinbase_more_trades_in_a_second_than_a_page_is_an_error_not_a_loss(serve: Serve) -> None:
    crowd = [server.Trade(n, US + n, "1.0", "2.0", "buy") for n in range(1, 2500)]
    _, feed = serve("coinbase", server.Coinbase(crowd), "BTC-USD")
    with pytest.raises(SourceUnavailableError, match="there are 1000 or more trades in the second 00:00:00"):
        list(feed.fetch("market.trades", START, END))


@pytest.mark.parametrize("venue", ["hyperliquid", "okx", "bitfinex"])
def test_history_that_is_not_kept_is_an_error_that_says_from_when(serve: Serve, venue: str) -> None:
    kinds = {
        "hyperliquid": ("hyperliquid", server.Hyperliquid(TRADES), "BTC-USDC-PERP", START),
        "okx": ("okx", server.Okx(TRADES), "BTC-USDT", START - timedelta(days=100)),
        "bitfinex": ("bitfinex", server.Bitfinex(TRADES, ignores_start=True), "BTC-USD", START),
    }
    exchange_id, exchange, symbol, start = kinds[venue]
    _, feed = serve(exchange_id, exchange, symbol)
    with pytest.raises(HistoryUnavailableError) as caught:
        list(feed.fetch("market.trades", start, END))
    assert caught.value.available_from is not None
    assert start < caught.value.available_from < NOW


def test_hyperliquid_gives_a_span_that_its_last_trades_cover(serve: Serve) -> None:
    _, feed = serve("hyperliquid", server.Hyperliquid(TRADES, kept_trades=1200), "BTC-USDC-PERP")
    assert_frame_equal(core(gather(feed.fetch("market.trades", START, END))), expected(TRADES, "hyperliquid"))


# --- contracts become base currency ---


def test_linear_contracts_are_counted_in_base_currency(serve: Serve) -> None:
    _, feed = serve("okx", server.Okx(TRADES), "BTC-USDT-PERP")
    rows = gather(feed.fetch("market.trades", START, END))
    wanted = expected(TRADES, "okx").with_columns(pl.col("amount") * 0.01)
    assert_frame_equal(core(rows), wanted)


@pytest.mark.parametrize(
    ("exchange_id", "exchange", "venue"),
    [("binancecoinm", server.Binance, "binance_coinm"), ("okx", server.Okx, "okx")],
)
def test_inverse_contracts_are_worth_their_size_over_the_price(
    serve: Serve, exchange_id: str, exchange: Any, venue: str
) -> None:
    _, feed = serve(exchange_id, exchange(TRADES), "BTC-USD-PERP")
    rows = gather(feed.fetch("market.trades", START, END))
    wanted = expected(TRADES, venue).with_columns(pl.col("amount") * 100 / pl.col("price"))
    assert_frame_equal(core(rows), wanted)
    assert rows["venue"].unique().to_list() == [venue]


# --- bars ---


@pytest.mark.parametrize("venue", BAR_CASES)
def test_bars_are_complete_ordered_and_half_open(serve: Serve, venue: str) -> None:
    exchange_id, exchange, symbol, *_ = BAR_CASES[venue]
    _, feed = serve(exchange_id, exchange(bars=BARS), symbol)
    last = 1440
    # Kraken keeps 720 bars only
    start = START + timedelta(minutes=900 if venue == "kraken" else 3, seconds=1)
    rows = gather(feed.fetch("market.bars_1m", start, NOW))
    wanted = [bar for bar in BARS[:last] if bar.us > int(start.timestamp()) * 1_000_000]
    assert rows["ts"].dt.epoch("us").to_list() == [bar.us for bar in wanted]
    for name in ("open", "high", "low", "close", "volume"):
        assert rows[name].to_list() == [float(getattr(bar, name)) for bar in wanted]
    assert (rows["ts_close"] - rows["ts"]).unique().to_list() == [timedelta(minutes=1)]
    assert rows["final"].all()


@pytest.mark.parametrize("venue", BAR_CASES)
def test_a_bar_whose_interval_is_still_open_is_not_final(serve: Serve, venue: str) -> None:
    exchange_id, exchange, symbol, *_ = BAR_CASES[venue]
    clock = lambda: START + timedelta(minutes=99, seconds=30)  # noqa: E731
    _, feed = serve(exchange_id, exchange(bars=BARS[:100]), symbol, clock=clock)
    rows = gather(feed.fetch("market.bars_1m", START, NOW))
    assert rows.height == 100
    assert rows["final"].to_list() == [*[True] * 99, False]


def test_the_venues_own_word_that_a_bar_is_unfinished_counts(serve: Serve) -> None:
    _, feed = serve("okx", server.Okx(bars=BARS[:10]), "BTC-USDT")
    rows = gather(feed.fetch("market.bars_1m", START, START + timedelta(minutes=10)))
    assert rows["final"].to_list() == [*[True] * 9, False]  # `confirm` is 0 although the minute is over


def test_an_interval_without_trades_is_left_out(serve: Serve) -> None:
    bars = [bar._replace(volume="0.0", trades=0) if n % 2 else bar for n, bar in enumerate(BARS[:10])]
    _, feed = serve("binance", server.Binance(bars=bars), "BTC-USDT")
    assert gather(feed.fetch("market.bars_1m", START, END)).height == 5


def test_binance_bars_carry_value_count_and_taker_volume(serve: Serve) -> None:
    _, feed = serve("binance", server.Binance(bars=BARS), "BTC-USDT")
    row = gather(feed.fetch("market.bars_1m", START, END)).row(0, named=True)
    assert (row["quote_volume"], row["trades"], row["buy_volume"], row["origin"]) == (123.5, 5, 1.5, "vendor")


def test_coin_margined_bars_are_in_coins_not_contracts(serve: Serve) -> None:
    _, feed = serve("binancecoinm", server.Binance(bars=BARS), "BTC-USD-PERP")
    row = gather(feed.fetch("market.bars_1m", START, END)).row(0, named=True)
    assert (row["volume"], row["quote_volume"], row["buy_volume"]) == (123.5, 1.25 * 100, 61.75)


@pytest.mark.soak
@pytest.mark.parametrize("venue", BAR_CASES)
@pytest.mark.parametrize("interval", ["5m", "1d"])
def test_longer_bars_carry_their_interval(serve: Serve, venue: str, interval: str) -> None:
    exchange_id, exchange, symbol, *_ = BAR_CASES[venue]
    length = {"5m": 5 * MINUTE, "1d": 1440 * MINUTE}[interval]
    bars = make_bars(20, length=length)
    clock = lambda: START + timedelta(days=21)  # noqa: E731
    _, feed = serve(exchange_id, exchange(bars=bars), symbol, options={"intervals": (interval,)}, clock=clock)
    if venue == "hyperliquid" and interval == "5m":
        with pytest.raises(HistoryUnavailableError, match="newest 5000 bars"):
            list(feed.fetch("market.bars", START, START + timedelta(days=20)))
        return
    rows = gather(feed.fetch("market.bars", START, START + timedelta(days=20)))
    assert rows.height == 20
    assert rows["interval"].unique().to_list() == [interval]
    assert (rows["ts_close"] - rows["ts"]).unique().to_list() == [timedelta(microseconds=length)]


def test_kraken_bars_older_than_its_720_are_an_error_that_says_what_to_do(serve: Serve) -> None:
    _, feed = serve("kraken", server.Kraken(bars=BARS), "BTC-USD")
    with pytest.raises(HistoryUnavailableError, match=r"newest 720 bars.*Fetch market.trades") as caught:
        list(feed.fetch("market.bars_1m", START, END))
    assert caught.value.available_from == START + timedelta(minutes=1600 - 720)


# --- newest ---


@pytest.mark.parametrize("venue", BAR_CASES)
def test_latest_trades_are_live_rows_with_the_time_they_reached_us(serve: Serve, venue: str) -> None:
    exchange_id, exchange, symbol, *_ = BAR_CASES[venue]
    _, feed = serve(exchange_id, exchange(TRADES), symbol)
    rows = gather(feed.latest("market.trades"))
    assert rows["trade_id"].to_list() == [trade.id for trade in TRADES[-rows.height :]]
    assert rows.height >= 10
    assert rows.select("source", "ts_received").unique().rows() == [("live_recon", NOW)]


@pytest.mark.parametrize("venue", BAR_CASES)
def test_latest_bars_include_the_unfinished_one(serve: Serve, venue: str) -> None:
    exchange_id, exchange, symbol, *_ = BAR_CASES[venue]
    clock = lambda: START + timedelta(minutes=99, seconds=30)  # noqa: E731
    _, feed = serve(exchange_id, exchange(bars=BARS[:100]), symbol, clock=clock)
    rows = gather(feed.latest("market.bars_1m"))
    assert rows["ts"].max() == START + timedelta(minutes=99)
    assert rows["final"].sum() == rows.height - 1
    assert rows["source"].unique().to_list() == ["live_recon"]


# --- instruments and symbols ---


def test_instruments_are_described(serve: Serve) -> None:
    _, feed = serve("binance", server.Binance())
    (batch,) = feed.fetch("market.instruments", START, END)
    rows = {(row["venue"], row["symbol"]): row for row in batch.rows.iter_rows(named=True)}
    assert set(rows) == {
        ("binance", "BTC-USDT"),
        ("binance_usdm", "BTC-USDT-PERP"),
        ("binance_usdm", "BTC-USDT-240927"),
        ("binance_coinm", "BTC-USD-PERP"),
    }
    spot, swap = rows["binance", "BTC-USDT"], rows["binance_usdm", "BTC-USDT-PERP"]
    assert (spot["kind"], spot["tick_size"], spot["lot_size"], spot["contract_size"]) == ("spot", 0.01, 0.00001, None)
    assert (swap["kind"], swap["tick_size"], swap["lot_size"]) == ("perpetual", 0.1, 0.001)
    assert rows["binance_usdm", "BTC-USDT-240927"]["kind"] == "future"
    inverse = rows["binance_coinm", "BTC-USD-PERP"]
    assert (inverse["contract_size"], inverse["lot_size"]) == (100.0, None)


@pytest.mark.parametrize(
    ("exchange_id", "spelling", "venue", "symbol"),
    [
        ("binance", "BTC/USDT", "binance", "BTC-USDT"),
        ("binance", "BTC/USDT:USDT", "binance_usdm", "BTC-USDT-PERP"),
        ("binance", "BTC-USDT-PERP", "binance_usdm", "BTC-USDT-PERP"),
        ("binanceusdm", "BTC-USDT-240927", "binance_usdm", "BTC-USDT-240927"),
        ("binancecoinm", "BTC/USD:BTC", "binance_coinm", "BTC-USD-PERP"),
    ],
)
def test_symbols_are_understood_in_both_spellings(
    serve: Serve, exchange_id: str, spelling: str, venue: str, symbol: str
) -> None:
    _, feed = serve(exchange_id, server.Binance(), spelling)
    (batch,) = feed.latest("market.instruments")
    assert batch.rows.select("venue", "symbol").rows() == [(venue, symbol)]


def test_an_unknown_symbol_is_refused_with_a_suggestion(serve: Serve) -> None:
    _, feed = serve("kraken", server.Kraken(), "BTC-USB")
    with pytest.raises(SourceRefusedError, match="Did you mean 'BTC-USD'"):
        list(feed.fetch("market.trades", START, END))


def test_a_symbol_that_means_two_markets_must_be_spelt_out(serve: Serve) -> None:
    _, source = serve("okx", server.Okx(), "BTC-USD-PERP")
    inverse = next(market for market in source.markets if market["symbol"] == "BTC/USD:BTC")
    other = {**inverse, "id": "BTC-USD_UM-SWAP", "symbol": "BTC/USD:USDC", "settle": "USDC"}
    _, feed = serve("okx", server.Okx(), "BTC-USD-PERP", markets=[*source.markets, other])
    with pytest.raises(BadRequestError, match=r"'BTC/USD:BTC' or 'BTC/USD:USDC'.*ccxt's spelling"):
        list(feed.fetch("market.trades", START, END))


def test_markets_are_loaded_once_and_can_be_handed_on(serve: Serve) -> None:
    running, feed = serve("binance", server.Binance(TRADES), "BTC-USDT")
    list(feed.fetch("market.trades", START, END))
    list(feed.latest("market.trades"))
    assert len(running.asked("/exchangeInfo")) == 3  # spot, USD-M, COIN-M
    other, second = serve("binance", server.Binance(TRADES), "BTC-USDT", markets=feed.markets)
    assert gather(second.fetch("market.trades", START, END)).height == expected(TRADES, "binance").height
    assert other.asked("/exchangeInfo") == []


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda feed: feed.fetch("market.closes", START, END), "does not fill 'market.closes'"),
        (lambda feed: feed.fetch("market.trades", START.replace(tzinfo=None), END), "has no time zone"),
        (lambda feed: feed.fetch("market.trades", END, START), "is before"),
        (lambda feed: feed.latest("market.trade"), "Did you mean 'market.trades'"),
    ],
)
def test_an_impossible_request_is_told_at_once(call: Any, message: str) -> None:
    with pytest.raises(BadRequestError, match=message):
        call(CcxtFeed("binance", ["BTC-USDT"], clock=lambda: NOW))


def test_an_unknown_exchange_is_told_with_a_suggestion() -> None:
    with pytest.raises(BadRequestError, match="Did you mean 'binance'"):
        list(CcxtFeed("binanze", ["BTC-USDT"], clock=lambda: NOW).fetch("market.trades", START, END))


# --- a server that misbehaves ---


@pytest.fixture(scope="module")
def undisturbed() -> dict[str, int]:
    """Return how many requests each exchange's span takes when nothing goes wrong."""
    counts = {}
    for venue, (exchange_id, exchange, symbol, *_) in CASES.items():
        running = server.ReplayServer(exchange(TRADES))
        options = CcxtOptions(base_url=running.url, rate_limit_ms=0.0, page_rows=300)
        feed = CcxtFeed(exchange_id, [symbol], clock=lambda: NOW, options=options)
        list(feed.fetch("market.trades", START, END))
        feed.close()
        running.close()
        counts[venue] = len(running.seen)
    return counts


PASSING = {
    "429": server.Status(429),
    "429_retry_after": server.Status(429, {"Retry-After": "0"}),
    "418": server.Status(418),
    "500": server.Status(500),
    "502_html": server.Status(502, {"Content-Type": "text/html"}, "<html>Bad Gateway</html>"),
    "503": server.Status(503),
    "truncated": server.Truncated(),
    "cut_off": server.Truncated(announced=True),
    "reset": server.Reset(),
    "not_json": server.Status(200, {"Content-Type": "text/html"}, "<html>maintenance</html>"),
    "empty_body": server.Status(200, {}, ""),
}


#: Each fault at one venue, and at every venue those of which its own code sees something; `make soak` has the rest.
FAULTS = [
    pytest.param(venue, fault, marks=() if venue == "binance" or fault in {"429", "truncated"} else pytest.mark.soak)
    for venue, fault in itertools.product(CASES, PASSING)
]


@pytest.mark.soak
@pytest.mark.parametrize(("venue", "fault"), FAULTS)
def test_a_fault_that_passes_costs_one_more_request_and_no_row(
    serve: Serve, undisturbed: dict[str, int], venue: str, fault: str
) -> None:
    exchange_id, exchange, symbol, path, _ = CASES[venue]
    running, feed = serve(exchange_id, exchange(TRADES), symbol, options={"page_rows": 300})
    running.script(path, [None, PASSING[fault], None, PASSING[fault]])
    rows = gather(feed.fetch("market.trades", START, END))
    assert_frame_equal(core(rows), expected(TRADES, venue))
    assert len(running.seen) == undisturbed[venue] + 2


def test_a_timeout_is_tried_again(serve: Serve) -> None:
    running, feed = serve("binance", server.Binance(TRADES), "BTC-USDT", options={"timeout": 0.2})
    running.script("/aggTrades", [None, server.Slow(0.6)])
    assert_frame_equal(core(gather(feed.fetch("market.trades", START, END))), expected(TRADES, "binance"))


def test_a_fault_while_loading_markets_is_tried_again(serve: Serve) -> None:
    running, feed = serve("binance", server.Binance(TRADES), "BTC-USDT")
    running.script("/exchangeInfo", [server.Truncated(), None, server.Status(503)])
    assert_frame_equal(core(gather(feed.fetch("market.trades", START, END))), expected(TRADES, "binance"))


@pytest.mark.parametrize("header", ["7", (NOW + timedelta(seconds=7)).strftime("%a, %d %b %Y %H:%M:%S GMT")])
def test_retry_after_is_honoured_in_seconds_and_as_a_date(serve: Serve, header: str) -> None:
    slept: list[float] = []
    running, feed = serve("binance", server.Binance(TRADES), "BTC-USDT", sleep=slept.append)
    running.script("/aggTrades", [server.Status(429, {"Retry-After": header})])
    list(feed.fetch("market.trades", START, END))
    assert len(slept) == 1
    assert 7 <= slept[0] < 8


def test_a_retry_after_beyond_patience_gives_up_at_once_and_says_so(serve: Serve) -> None:
    running, feed = serve("binance", server.Binance(TRADES), "BTC-USDT")
    running.always("/aggTrades", server.Status(418, {"Retry-After": "86400"}))
    with pytest.raises(SourceUnavailableError, match="asked to wait 86400 s"):
        list(feed.fetch("market.trades", START, END))
    assert len(running.asked("/aggTrades")) == 1


def test_pauses_grow_with_jitter_up_to_the_bound(serve: Serve) -> None:
    slept: list[float] = []
    options = {"first_wait": 1.0, "longest_wait": 5.0, "attempts": 7}
    running, feed = serve("kraken", server.Kraken(TRADES), "BTC-USD", sleep=slept.append, options=options)
    running.always("/Trades", server.Status(503))
    with pytest.raises(SourceUnavailableError):
        list(feed.fetch("market.trades", START, END))
    assert len(slept) == 6
    for pause, base in zip(slept, [1, 2, 4, 5, 5, 5], strict=True):
        assert min(base, 5) <= pause <= min(base + 1, 5)
    assert len({round(pause - base, 6) for pause, base in zip(slept[:3], [1, 2, 4], strict=True)}) == 3


@every_venue
def test_a_server_that_stays_broken_ends_in_an_error_that_says_where_to_resume(serve: Serve, venue: str) -> None:
    exchange_id, exchange, symbol, path, _ = CASES[venue]
    running, feed = serve(exchange_id, exchange(TRADES), symbol, options={"attempts": 3, "page_rows": 60})
    running.script(path, [None] * 4)
    running.always(path, server.Status(503))
    delivered: list[Batch] = []
    batches = feed.fetch("market.trades", START, END)
    with pytest.raises(SourceUnavailableError) as caught:
        delivered.extend(iter(lambda: next(batches), None))
    message = str(caught.value)
    assert f"ccxt/{exchange_id} market.trades {symbol}" in message
    assert "failed on 3 attempts; the last: HTTP 503" in message
    assert "fetch again from 2024-01-01T" in message
    resume = caught.value.resume_from
    assert resume is not None
    running.always(path, None)
    rest = gather(feed.fetch("market.trades", resume, END))
    rows = pl.concat([*(core(batch.rows) for batch in delivered), core(rest)])
    assert_frame_equal(rows, expected(TRADES, venue))


def test_a_broken_server_names_the_symbols_not_begun_and_resumes_for_all(serve: Serve) -> None:
    running, feed = serve("okx", server.Okx(TRADES), "BTC-USDT", "BTC-USDT-PERP", options={"attempts": 2})
    running.always("/history-trades", server.Reset())
    with pytest.raises(SourceUnavailableError, match=r"not begun: BTC-USDT-PERP") as caught:
        list(feed.fetch("market.trades", START, END))
    assert caught.value.resume_from == START


@every_venue
def test_pages_that_come_twice_add_nothing(serve: Serve, venue: str) -> None:
    exchange_id, exchange, symbol, path, _ = CASES[venue]
    running, feed = serve(exchange_id, exchange(TRADES), symbol, options={"page_rows": 60})
    running.script(path, [None, server.Repeat(), None, server.Repeat(), server.Repeat()])
    assert_frame_equal(core(gather(feed.fetch("market.trades", START, END))), expected(TRADES, venue))


def _rows_of(answer: Any) -> list[Any]:
    """Return the list of rows inside an answer, whatever the exchange."""
    if isinstance(answer, list):
        return answer
    if "result" in answer:
        return next(rows for name, rows in answer["result"].items() if name != "last")
    return next(answer[name] for name in ("data", "trades", "candles") if name in answer)


def _shuffled(answer: Any) -> Any:
    random.Random(3).shuffle(_rows_of(answer))
    return answer


def _emptied(answer: Any) -> Any:
    _rows_of(answer).clear()
    if isinstance(answer, dict) and "result" in answer:
        answer["result"]["last"] = "0"
    return answer


@every_venue
def test_rows_out_of_order_within_pages_are_sorted(serve: Serve, venue: str) -> None:
    exchange_id, exchange, symbol, path, _ = CASES[venue]
    running, feed = serve(exchange_id, exchange(TRADES), symbol)
    running.always(path, server.Edit(_shuffled))
    assert_frame_equal(core(gather(feed.fetch("market.trades", START, END))), expected(TRADES, venue))


@every_venue
def test_empty_pages_in_the_middle_do_not_end_the_walk(serve: Serve, venue: str) -> None:
    exchange_id, exchange, symbol, path, _ = CASES[venue]
    running, feed = serve(exchange_id, exchange(TRADES), symbol, options={"page_rows": 60})
    running.script(path, [None, server.Edit(_emptied), None, server.Edit(_emptied), server.Edit(_emptied)])
    assert_frame_equal(core(gather(feed.fetch("market.trades", START, END))), expected(TRADES, venue))


def _ahead(query: dict[str, str]) -> dict[str, str]:
    """Ask for a page some pages further on than the one that was asked for."""
    if "fromId" in query:
        return {**query, "fromId": str(int(query["fromId"]) + 200)}
    if "since" in query:
        index = next(n for n, trade in enumerate(TRADES) if trade.us * 1000 > int(query["since"]))
        return {**query, "since": str(TRADES[index + 200].us * 1000)}
    if "end" in query:
        return {**query, "end": str(int(query["end"]) - 200)}
    if "start" in query:
        index = next(n for n, trade in enumerate(TRADES) if trade.us // 1000 >= int(query["start"]))
        return {**query, "start": str(TRADES[index + 200].us // 1000)}
    return {**query, "after": str(int(query["after"]) - 200)}


@every_venue
def test_a_later_page_instead_of_the_next_leaves_no_gap(serve: Serve, venue: str) -> None:
    exchange_id, exchange, symbol, path, _ = CASES[venue]
    running, feed = serve(exchange_id, exchange(TRADES), symbol, options={"page_rows": 60})
    running.script(path, [None, None, None, server.Instead(_ahead), None, server.Instead(_ahead)])
    assert_frame_equal(core(gather(feed.fetch("market.trades", START, END))), expected(TRADES, venue))


def test_a_page_that_never_moves_on_ends_in_an_error_not_in_a_loop(serve: Serve) -> None:
    running, feed = serve("binance", server.Binance(TRADES), "BTC-USDT", options={"page_rows": 60})
    running.script("/aggTrades", [None, None])
    running.always("/aggTrades", server.Repeat())
    with pytest.raises(SourceUnavailableError, match="got older ones") as caught:
        list(feed.fetch("market.trades", START, END))
    assert caught.value.resume_from is not None
    assert START < caught.value.resume_from < END


MALFORMED = {
    "binance": ({"a": 7, "p": "abc", "q": "1", "T": 1704067500000, "m": True}, "bad_number"),
    "binance_usdm": ({"a": 7, "p": "1", "q": "1", "T": "soon", "m": True}, "bad_time"),
    "kraken": (["1.0", "1.0", 1704067500.5, "x", "l", "", 7], "bad_side"),
    "okx": ({"instId": "BTC-USDT", "side": "buy", "sz": "1", "tradeId": "7", "ts": "1704067500000"}, "missing_field"),
    "coinbase": ("nonsense", "malformed_row"),
}


@pytest.mark.parametrize("venue", MALFORMED)
def test_a_malformed_row_is_rejected_with_a_reason_and_harms_no_other(serve: Serve, venue: str) -> None:
    exchange_id, exchange, symbol, path, _ = CASES[venue]
    raw, reason = MALFORMED[venue]

    def insert(answer: Any) -> Any:
        _rows_of(answer).insert(17, raw)
        return answer

    running, feed = serve(exchange_id, exchange(TRADES), symbol, options={"page_rows": 60})
    running.script(path, [server.Edit(insert), server.Edit(insert), None, server.Edit(insert)])
    batches = list(feed.fetch("market.trades", START, END))
    rejected = pl.concat([batch.rejected for batch in batches])
    assert rejected["reason"].to_list() == [reason]
    assert rejected["row"].to_list() == [raw if isinstance(raw, str) else json.dumps(raw)]
    assert sum(batch.rows_read for batch in batches) == expected(TRADES, venue).height + 1
    assert_frame_equal(core(pl.concat([batch.rows for batch in batches])), expected(TRADES, venue))


def test_a_malformed_bar_is_rejected_too(serve: Serve) -> None:
    running, feed = serve("binance", server.Binance(bars=BARS), "BTC-USDT")
    running.script("/klines", [server.Edit(lambda rows: [*rows[:5], rows[5][:4], *rows[6:]])])
    (batch,) = feed.fetch("market.bars_1m", START, END)
    assert (batch.rows.height, batch.rejected["reason"].to_list()) == (15, ["malformed_row"])


#: One mixture in every run; `make soak` has the others.
SEEDS = [pytest.param(seed, marks=pytest.mark.soak if seed else ()) for seed in range(4)]


@pytest.mark.soak
@every_venue
@pytest.mark.parametrize("seed", SEEDS)
def test_any_mixture_of_passing_faults_gives_the_same_rows(serve: Serve, venue: str, seed: int) -> None:
    exchange_id, exchange, symbol, path, _ = CASES[venue]
    rng = random.Random(seed)
    kinds = [*PASSING.values(), server.Repeat(), server.Edit(_shuffled), server.Edit(_emptied)]
    running, feed = serve(exchange_id, exchange(TRADES), symbol, options={"page_rows": 60})
    # Never two faults in a row: what lasts longer than the patience is another test's matter.
    running.script(path, itertools.chain.from_iterable((rng.choice(kinds), None) for _ in range(15)))
    assert_frame_equal(core(gather(feed.fetch("market.trades", START, END))), expected(TRADES, venue))


@pytest.mark.parametrize("venue", BAR_CASES)
@pytest.mark.parametrize("seed", SEEDS[:2])
def test_any_mixture_of_passing_faults_gives_the_same_bars(serve: Serve, venue: str, seed: int) -> None:
    exchange_id, exchange, symbol, _, path = BAR_CASES[venue]
    rng = random.Random(seed)
    kinds = [*PASSING.values(), server.Repeat(), server.Edit(_shuffled), server.Edit(_emptied)]
    options = {"page_rows": 120}
    running, feed = serve(exchange_id, exchange(bars=BARS[:700]), symbol, options=options)
    assert feed.markets  # loaded before the faults begin: a stale answer would be the list of markets
    running.script(path, itertools.chain.from_iterable((rng.choice(kinds), None) for _ in range(15)))
    rows = gather(feed.fetch("market.bars_1m", START, START + timedelta(minutes=650)))
    assert rows["ts"].dt.epoch("us").to_list() == [bar.us for bar in BARS[:650]]
    assert rows["close"].to_list() == [float(bar.close) for bar in BARS[:650]]


# --- refusals ---


@pytest.mark.parametrize(
    ("status", "body", "hint"),
    [
        (401, '{"code": -2015, "msg": "Invalid API-key, IP, or permissions for action."}', "Check the API key"),
        (403, "<html>Forbidden</html>", "does not serve this location"),
        (451, '{"code": 0, "msg": "Service unavailable from a restricted location"}', "does not serve this location"),
        (400, '{"code": -1121, "msg": "Invalid symbol."}', "Check the spelling"),
        (404, "<html>Not found</html>", "does not help"),
    ],
)
def test_a_refusal_for_good_is_not_tried_again(serve: Serve, status: int, body: str, hint: str) -> None:
    running, feed = serve("binance", server.Binance(TRADES), "BTC-USDT")
    running.always("/aggTrades", server.Status(status, {}, body))
    with pytest.raises(SourceRefusedError, match=hint):
        list(feed.fetch("market.trades", START, END))
    assert len(running.asked("/aggTrades")) == 1


def test_kraken_refusing_inside_a_good_status_is_a_refusal(serve: Serve) -> None:
    running, feed = serve("kraken", server.Kraken(TRADES), "BTC-USD")
    running.always("/Trades", server.Status(200, {}, '{"error": ["EQuery:Unknown asset pair"]}'))
    with pytest.raises(SourceRefusedError, match="Unknown asset pair"):
        list(feed.fetch("market.trades", START, END))
    assert len(running.asked("/Trades")) == 1


def test_kraken_throttling_inside_a_good_status_is_tried_again(serve: Serve) -> None:
    running, feed = serve("kraken", server.Kraken(TRADES), "BTC-USD")
    running.script("/Trades", [server.Status(200, {}, '{"error": ["EAPI:Rate limit exceeded"]}')])
    assert_frame_equal(core(gather(feed.fetch("market.trades", START, END))), expected(TRADES, "kraken"))


# --- pace, memory, secrets ---


class Pace:
    """A clock that only waiting moves, so that nothing but the feed decides the distance of its requests."""

    def __init__(self) -> None:
        self.seconds = 0.0

    def now(self) -> float:
        return self.seconds

    def sleep(self, seconds: float) -> None:
        self.seconds += seconds


def test_requests_keep_the_distance_that_the_rate_limit_asks_for(serve: Serve) -> None:
    options, pace = {"rate_limit_ms": 60.0, "page_rows": 120}, Pace()
    running, feed = serve(
        "kraken", server.Kraken(TRADES), "BTC-USD", options=options, sleep=pace.sleep, monotonic=pace.now
    )
    list(feed.fetch("market.trades", START, END))
    times = [request.at for request in running.seen]
    assert len(times) > 8
    assert min(later - earlier for earlier, later in itertools.pairwise(times)) >= 0.06


def test_the_exchanges_own_rate_limit_is_the_default(serve: Serve) -> None:
    options, pace = {"rate_limit_ms": None, "page_rows": 900}, Pace()
    running, feed = serve(
        "okx", server.Okx(TRADES[:300]), "BTC-USDT", options=options, sleep=pace.sleep, monotonic=pace.now
    )
    list(feed.fetch("market.trades", START, START + timedelta(minutes=3)))
    times = [request.at for request in running.asked("/history-trades")]
    assert len(times) >= 2
    # 10 requests/s, plus ccxt's tolerance; this endpoint counts twice
    assert min(later - earlier for earlier, later in itertools.pairwise(times)) >= 0.22 - 1e-9


def test_batches_are_bounded_in_order_and_disjoint(serve: Serve) -> None:
    progress: list[tuple[int, int | None, str]] = []
    for venue in ("binance", "kraken", "bitfinex"):
        exchange_id, exchange, symbol, *_ = CASES[venue]
        options = {"batch_rows": 200, "page_rows": 60}
        _, feed = serve(exchange_id, exchange(TRADES), symbol, options=options)
        batches = list(feed.fetch("market.trades", START, END, progress=lambda *report: progress.append(report)))
        assert len(batches) >= 5
        assert max(batch.rows.height for batch in batches) <= 320
        for earlier, later in itertools.pairwise(batches):
            assert earlier.rows["ts"].max() < later.rows["ts"].min()
        assert_frame_equal(core(pl.concat([batch.rows for batch in batches])), expected(TRADES, venue))
        assert progress[-1] == (expected(TRADES, venue).height, None, "rows")


class Hidden:
    """A secret as `pydantic.SecretStr` is one."""

    def __init__(self, value: str) -> None:
        self._value = value

    def get_secret_value(self) -> str:
        return self._value

    def __repr__(self) -> str:
        return "Hidden('***')"


def _everything_in(error: BaseException) -> str:
    """Return all that a report of an error could show: texts, chained errors, locals of the library's frames."""
    assert error.__traceback__ is not None
    inside = error.with_traceback(error.__traceback__.tb_next)  # without the frame of the test, which knows the keys
    report = traceback.TracebackException.from_exception(inside, capture_locals=True)
    return "".join([str(error), repr(error), repr(vars(error)), *report.format(chain=True)])


@pytest.mark.parametrize("path", ["/aggTrades", "/exchangeInfo"])
@pytest.mark.parametrize("status", [400, 503])
def test_no_secret_is_shown_by_repr_log_or_error(
    serve: Serve, caplog: pytest.LogCaptureFixture, path: str, status: int
) -> None:
    keys = ("CANARY-key-31415", "CANARY-secret-92653", "CANARY-password-58979")
    credentials = Credentials(*(Hidden(key) for key in keys))
    options = {"attempts": 2}
    running, feed = serve("binance", server.Binance(TRADES), "BTC-USDT", credentials=credentials, options=options)
    echo = json.dumps({"msg": f"sent {keys}"})
    running.always(path, server.Status(status, {}, echo))
    with (
        caplog.at_level(logging.DEBUG),
        pytest.raises((SourceRefusedError, SourceUnavailableError)) as caught,
    ):
        list(feed.fetch("market.trades", START, END))
    logged = [record.getMessage() for record in caplog.records]
    shown = "".join([repr(feed), str(feed), repr(credentials), _everything_in(caught.value), *logged])
    assert "sent ('***', '***', '***')" in shown
    assert "CANARY" not in shown
    assert caught.value.__cause__ is None
    assert caught.value.__context__ is None


def test_a_proxy_with_its_password_is_not_shown() -> None:
    options = CcxtOptions(proxy="http://user:CANARY@proxy:3128")
    assert "CANARY" not in repr(options)
    assert "CANARY" not in repr(CcxtFeed("binance", ["BTC-USDT"], clock=lambda: NOW, options=options))


def test_keys_are_not_used_before_the_markets_are_loaded_nor_for_public_data(serve: Serve) -> None:
    credentials = Credentials(Hidden("CANARY-key"), Hidden("CANARY-secret"))
    running, feed = serve("binance", server.Binance(TRADES), "BTC-USDT", credentials=credentials)
    list(feed.fetch("market.trades", START, END))
    sent = "".join(f"{request.path}{request.query}{request.headers}" for request in running.seen)
    assert "CANARY" not in sent


# --- recorded answers ---


def test_recorded_kraken_trades(serve: Serve, recordings: Recordings) -> None:
    answer = recordings.json(f"{ANSWERS}/nautilus/kraken/http_trades.json")
    raw = answer["result"]["XBTUSDT"]
    pairs = recordings.json(f"{ANSWERS}/nautilus/kraken/http_asset_pairs.json")

    def trades(query: dict[str, str], _body: Any) -> Any:
        since = int(query["since"]) / 1e9
        return (
            answer
            if since < raw[0][2]
            else {**answer, "result": {"XBTUSDT": raw[-1:], "last": answer["result"]["last"]}}
        )

    exchange = server.Recorded({"/AssetPairs": pairs, "/Trades": trades})
    start = datetime(2025, 11, 10, tzinfo=UTC)
    clock = lambda: datetime(2025, 11, 12, tzinfo=UTC)  # noqa: E731
    _, feed = serve("kraken", exchange, "BTC-USDT", clock=clock)
    rows = gather(feed.fetch("market.trades", start, clock()))
    assert rows.height == len(raw) == 1000
    assert rows["trade_id"].to_list() == [row[6] for row in raw]
    assert rows["price"].to_list() == [float(row[0]) for row in raw]
    assert rows["side"].to_list() == [{"b": "buy", "s": "sell"}[row[3]] for row in raw]
    # The venue gives fractions of a second; the tables have microseconds.
    assert rows["ts"].dt.epoch("us").to_list() == [int(Decimal(str(row[2])) * 1_000_000) for row in raw]


def test_recorded_kraken_trades_of_2013_without_ids(serve: Serve, recordings: Recordings) -> None:
    answer = recordings.json(f"{ANSWERS}/xchange/xchange-kraken/example-trades-data.json")
    raw = answer["result"]["XXBTZUSD"]
    exchange = server.Recorded({"/AssetPairs": server.Kraken().answer("/AssetPairs", {}, None), "/Trades": answer})
    _, feed = serve("kraken", exchange, "BTC-USD")
    rows = gather(feed.fetch("market.trades", datetime(2013, 11, 27, tzinfo=UTC), datetime(2013, 11, 28, tzinfo=UTC)))
    assert rows["price"].to_list() == [float(row[0]) for row in raw]
    assert rows["trade_id"].n_unique() == len(raw)
    assert rows["trade_id"].max() < 0


def test_recorded_kraken_bars(serve: Serve, recordings: Recordings) -> None:
    answer = recordings.json(f"{ANSWERS}/nautilus/kraken/http_ohlc.json")
    raw = answer["result"]["XBTUSDT"]
    pairs = recordings.json(f"{ANSWERS}/nautilus/kraken/http_asset_pairs.json")
    clock = lambda: datetime.fromtimestamp(raw[-1][0] + 30, UTC)  # noqa: E731
    _, feed = serve("kraken", server.Recorded({"/AssetPairs": pairs, "/OHLC": answer}), "BTC-USDT", clock=clock)
    rows = gather(feed.latest("market.bars_1m"))
    traded = [row for row in raw if row[7] > 0]
    assert len(traded) < len(raw)
    assert rows["ts"].dt.epoch("s").to_list() == [row[0] for row in traded]
    assert rows["volume"].to_list() == [float(row[6]) for row in traded]
    assert rows["trades"].to_list() == [row[7] for row in traded]


def test_recorded_okx_trades(serve: Serve, recordings: Recordings) -> None:
    exchange = server.Okx()
    newest_first = recordings.json(f"{ANSWERS}/nautilus/okx/http_get_trades.json")["data"]
    exchange.newest_trades = lambda _: newest_first
    _, feed = serve("okx", exchange, "BTC-USDT")
    rows = gather(feed.latest("market.trades"))
    assert rows.select("trade_id", "price", "amount", "side").rows() == [
        (int(row["tradeId"]), float(row["px"]), float(row["sz"]), row["side"]) for row in reversed(newest_first)
    ]


def test_recorded_okx_bars_of_a_swap_are_in_base_currency(serve: Serve, recordings: Recordings) -> None:
    exchange = server.Okx()
    newest_first = recordings.json(f"{ANSWERS}/nautilus/okx/http_get_candlesticks_full.json")["data"]
    exchange.candles = lambda _: newest_first
    clock = lambda: datetime(2025, 5, 14, tzinfo=UTC)  # noqa: E731
    _, feed = serve("okx", exchange, "BTC-USDT-PERP", clock=clock)
    rows = gather(feed.latest("market.bars_1m"))
    # Contracts come before both.
    assert rows.select("volume", "quote_volume", "final").rows() == [
        (float(row[6]), float(row[7]), True) for row in reversed(newest_first)
    ]


def test_recorded_coinbase_trades_have_the_takers_side(serve: Serve, recordings: Recordings) -> None:
    answer = recordings.json(f"{ANSWERS}/nautilus/coinbase/http_ticker.json")
    exchange = server.Coinbase()
    exchange.ticker = lambda _: answer
    _, feed = serve("coinbase", exchange, "BTC-USD")
    rows = gather(feed.latest("market.trades"))
    # Who bought met the best ask: the venue states the maker's side.
    newest = answer["trades"][0]
    taker = "buy" if newest["price"] == answer["best_ask"] else "sell"
    assert newest["side"] == {"buy": "SELL", "sell": "BUY"}[taker]
    assert rows.select("trade_id", "side").rows()[-1] == (int(newest["trade_id"]), taker)
    assert rows["ts"][-1] == datetime.fromisoformat(newest["time"])


def test_recorded_coinbase_bars(serve: Serve, recordings: Recordings) -> None:
    answer = recordings.json(f"{ANSWERS}/nautilus/coinbase/http_candles.json")
    products = recordings.json(f"{ANSWERS}/nautilus/coinbase/http_products.json")
    exchange = server.Recorded({"/candles": answer, "/products": products})
    _, feed = serve(
        "coinbase",
        exchange,
        "BTC-USD",
        options={"intervals": ("1h",)},
        clock=lambda: datetime(2024, 4, 4, 2, tzinfo=UTC),
    )
    rows = gather(feed.fetch("market.bars", datetime(2024, 4, 4, tzinfo=UTC), datetime(2024, 4, 5, tzinfo=UTC)))
    names = ("open", "high", "low", "close", "volume")
    assert rows.select(*names, "final").rows() == [
        (*(float(bar[name]) for name in names), True) for bar in reversed(answer["candles"])
    ]


def test_recorded_hyperliquid_trades(serve: Serve, recordings: Recordings) -> None:
    raw = recordings.json(f"{ANSWERS}/nautilus/hyperliquid/http_recent_trades_btc.json")
    base = server.Hyperliquid()
    exchange = server.Recorded(
        {"/info": lambda query, body: raw if body["type"] == "recentTrades" else base.answer("/info", query, body)}
    )
    _, feed = serve("hyperliquid", exchange, "BTC-USDC-PERP")
    rows = gather(feed.latest("market.trades"))
    assert rows.select("trade_id", "price", "side").rows() == [
        (row["tid"], float(row["px"]), {"A": "sell", "B": "buy"}[row["side"]]) for row in reversed(raw)
    ]


@pytest.mark.parametrize(
    ("exchange_id", "recording", "venue", "paths"),
    [
        ("binance", "BINANCE", "binance", ("/api/v3/exchangeInfo", "/api/v3/aggTrades")),
        ("binanceusdm", "BINANCE_FUTURES", "binance_usdm", ("/fapi/v1/exchangeInfo", "/fapi/v1/aggTrades")),
    ],
)
def test_recorded_binance_trades_are_as_many_as_another_parser_counts(
    serve: Serve, recordings: Recordings, exchange_id: str, recording: str, venue: str, paths: tuple[str, str]
) -> None:
    counts = recordings.json(f"{PLAYBACK}/expected_counts.json")
    markets: Any = None
    trades: dict[str, list[Any]] = {}
    for message in recordings.messages(recording):
        if message["t"] == "http" and message["url"].endswith("/exchangeInfo"):
            markets = json.loads(message["data"])
        elif message["t"] == "recv" and '\\"aggTrade\\"' in json.dumps(message["data"]):
            trade = json.loads(message["data"])["data"]
            trades.setdefault(trade["s"], []).append({name: trade[name] for name in trade if name not in "eEs"})
    # The real list of markets, reduced to those recorded: 1,600 take ccxt a second to read.
    markets["symbols"] = [symbol for symbol in markets["symbols"] if symbol["symbol"] in trades]
    empty = {"symbols": []}

    def agg_trades(query: dict[str, str], _body: Any) -> Any:
        rows = trades[query["symbol"]]
        low = int(query.get("fromId", 0))
        first, last = int(query.get("startTime", 0)), int(query.get("endTime", 2**60))
        return [row for row in rows if row["a"] >= low and first <= row["T"] <= last]

    exchange = server.Recorded({paths[0]: markets, paths[1]: agg_trades, "/exchangeInfo": empty})
    _, finder = serve(exchange_id, exchange)
    (instruments,) = finder.latest("market.instruments")
    symbols = instruments.rows["symbol"].to_list()
    clock = lambda: datetime(2022, 1, 1, tzinfo=UTC)  # noqa: E731
    _, feed = serve(exchange_id, exchange, *symbols, markets=finder.markets, clock=clock)
    newest = max(row["T"] for rows in trades.values() for row in rows)
    middle = datetime.fromtimestamp(newest / 1000, UTC)
    rows = gather(feed.fetch("market.trades", middle - timedelta(minutes=30), middle + timedelta(minutes=30)))
    assert rows.height == counts[recording]["trades"]
    assert rows["venue"].unique().to_list() == [venue]
    assert set(rows["symbol"]) == set(symbols)


def test_recorded_coinbase_stream_trades_are_as_many_as_counted_elsewhere(serve: Serve, recordings: Recordings) -> None:
    counts = recordings.json(f"{PLAYBACK}/expected_counts.json")
    trades: list[Any] = []
    for message in recordings.messages("COINBASE"):
        if message["t"] == "recv" and "market_trades" in message["data"]:
            for event in json.loads(message["data"]).get("events", []):
                trades += event.get("trades", []) if event.get("type") == "update" else []
    exchange = server.Recorded({"/products": server.Coinbase().answer("/products", {}, None)})

    def ticker(query: dict[str, str], _body: Any) -> Any:
        newest_first = sorted(trades, key=lambda trade: trade["time"], reverse=True)
        return {"trades": [trade for trade in newest_first if trade["product_id"] == "BTC-USD"]}

    exchange.answers["/products/BTC-USD/ticker"] = ticker
    _, feed = serve("coinbase", exchange, "BTC-USD")
    rows = gather(feed.latest("market.trades"))
    own = [trade for trade in trades if trade["product_id"] == "BTC-USD"]
    assert len(trades) == counts["COINBASE"]["trades"]
    assert rows.height == len({trade["trade_id"] for trade in own})
