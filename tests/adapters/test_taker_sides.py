"""Trades as the venues' own REST answers and stream messages have them: whose side it is, and of what the amount is.

The shapes are those of the venues' documentation.  `side` of a trade is the taker's, in every table.
"""

from __future__ import annotations

import json

import pytest

from hfthot_platform.adapters.files.mapping import CsvMapping
from hfthot_platform.adapters.recognise import recognise
from hfthot_platform.core.errors import RejectedFileError

S, MS, NS = 1_704_189_600, 1_704_189_600_000, 1_704_189_600_000_000_000
ISO = "2024-01-02T10:00:00.123456Z"


def _pair(one: object, first: str, second: str) -> list[object]:
    """Return two records that differ by the word of their side, and a digit of their ids."""
    text = json.dumps(one)
    return [
        json.loads(text.replace("SIDE", first).replace("#", "1")),
        json.loads(text.replace("SIDE", second).replace("#", "2")),
    ]


def _lines(messages: list[object]) -> str:
    return "".join(json.dumps(message) + "\n" for message in messages)


def _match(**more: object) -> dict[str, object]:
    return {"trade_id": "#", "price": "40000", "size": "0.5", "side": "SIDE", "time": ISO} | more


#: Venue and name of a file, what is in it, and the takers' sides.
SHAPES = {
    "coinbase/BTC-USD.json": json.dumps(_pair(_match(), "sell", "buy")),
    "coinbase/matches.jsonl": _lines(
        _pair(_match(type="match", product_id="BTC-USD", maker_order_id="m", taker_order_id="t"), "sell", "buy")
    ),
    "coinbase/advanced.json": json.dumps(
        {"trades": _pair(_match(product_id="BTC-USD"), "SELL", "BUY"), "best_bid": "1", "best_ask": "2"}
    ),
    "coinbase/market_trades.jsonl": _lines(
        [{"channel": "subscriptions", "events": [{"subscriptions": {"market_trades": ["BTC-USD"]}}]}]
        + [
            {"channel": "market_trades", "timestamp": ISO, "events": [{"type": "update", "trades": [trade]}]}
            for trade in _pair(_match(product_id="BTC-USD"), "SELL", "BUY")
        ]
    ),
    "coinbase/BTC-USD.csv": "time,trade_id,price,size,side\n" + f"{ISO},1,40000,0.5,sell\n{ISO},2,40000,0.5,buy\n",
    # Tardis names the taker's.
    "coinbase/tardis.csv": "exchange,symbol,timestamp,local_timestamp,id,side,price,amount\n"
    + "".join(f"coinbase,BTC-USD,{S}000000,{S}000001,{n},{side},40000,0.5\n" for n, side in ((1, "buy"), (2, "sell"))),
    "kraken/v2.jsonl": _lines(
        [
            {"channel": "trade", "type": "update", "data": [trade]}
            for trade in _pair(
                {"symbol": "BTC/USD", "side": "SIDE", "price": 40000, "qty": 0.5, "trade_id": "#", "timestamp": ISO},
                "buy",
                "sell",
            )
        ]
    ),
    "kraken/XBTUSD.json": json.dumps(
        {
            "error": [],
            "result": {
                "XXBTZUSD": _pair(["40000", "0.5", S + 0.1, "SIDE", "m", "", "#"], "b", "s"),
                "last": "1",
            },
        }
    ),
    "bitfinex/BTCUSD.json": json.dumps([[1, MS, 0.5, 40000], [2, MS, -0.5, 40000]]),
    "bitstamp/BTCUSD.json": json.dumps(
        _pair({"date": str(S), "tid": "#", "amount": "0.5", "type": "SIDE", "price": "40000"}, "0", "1")
    ),
    "bitstamp/BTCUSD.jsonl": _lines(
        [
            {"channel": "live_trades_btcusd", "event": "trade", "data": trade}
            for trade in _pair(
                {"id": "#", "timestamp": str(S), "amount": 0.5, "price": 40000, "type": "SIDE", "buy_order_id": 1},
                "0",
                "1",
            )
        ]
    ),
    "gemini/BTCUSD.json": json.dumps(
        _pair({"timestampms": MS, "tid": "#", "price": "40000", "amount": "0.5", "type": "SIDE"}, "buy", "sell")
    ),
    "gemini/BTCUSD.jsonl": _lines(
        _pair(
            {"type": "trade", "tid": "#", "price": "40000", "amount": "0.5", "makerSide": "SIDE", "timestampms": MS},
            "ask",
            "bid",
        )
    ),
    "bybit/rest.json": json.dumps(
        {
            "result": {
                "category": "spot",
                "list": _pair(
                    {
                        "execId": "#",
                        "symbol": "BTCUSDT",
                        "price": "40000",
                        "size": "0.5",
                        "side": "SIDE",
                        "time": str(MS),
                    },
                    "Buy",
                    "Sell",
                ),
            }
        }
    ),
    "bybit/stream.jsonl": _lines(
        [
            {"topic": "publicTrade.BTCUSDT", "type": "snapshot", "ts": MS, "data": [trade]}
            for trade in _pair(
                {"T": MS, "s": "BTCUSDT", "S": "SIDE", "v": "0.5", "p": "40000", "i": "#"}, "Buy", "Sell"
            )
        ]
    ),
    "okx/stream.jsonl": _lines(
        [
            {"arg": {"channel": "trades", "instId": "BTC-USDT"}, "data": [trade]}
            for trade in _pair(
                {"instId": "BTC-USDT", "tradeId": "#", "px": "40000", "sz": "0.5", "side": "SIDE", "ts": str(MS)},
                "buy",
                "sell",
            )
        ]
    ),
    # One of these trades was a liquidation.
    "deribit/trades.json": json.dumps(
        {
            "result": {
                "trades": [
                    trade | ({"liquidation": "T"} if trade["trade_id"] == "2" else {})
                    for trade in _pair(
                        {"trade_id": "#", "timestamp": MS, "price": 40000, "mark_price": 40001, "amount": 20000}
                        | {"instrument_name": "BTC-PERPETUAL", "index_price": 40002, "direction": "SIDE"},
                        "buy",
                        "sell",
                    )
                ]
            }
        }
    ),
    "bitmex/trade.json": json.dumps(
        _pair(
            {"timestamp": ISO, "symbol": "XBTUSD", "side": "SIDE", "size": 20000, "price": 40000, "trdMatchID": "#"}
            | {"homeNotional": 0.5, "foreignNotional": 20000},
            "Buy",
            "Sell",
        )
    ),
    "htx/BTCUSDT.jsonl": _lines(
        [
            {"ch": "market.btcusdt.trade.detail", "ts": MS, "tick": {"id": 1, "ts": MS, "data": [trade]}}
            for trade in _pair(
                {"ts": MS, "tradeId": "#", "amount": 0.5, "price": 40000, "direction": "SIDE"}, "buy", "sell"
            )
        ]
    ),
    "kucoin/BTC-USDT.json": json.dumps(
        {"data": _pair({"sequence": "#", "price": "40000", "size": "0.5", "side": "SIDE", "time": NS}, "buy", "sell")}
    ),
    "kucoin/match.jsonl": _lines(
        [
            {"topic": "/market/match:BTC-USDT", "type": "message", "data": trade}
            for trade in _pair(
                {"makerOrderId": "m", "takerOrderId": "t", "price": "40000", "size": "0.5", "side": "SIDE"}
                | {"symbol": "BTC-USDT", "time": str(NS), "tradeId": "#", "type": "match"},
                "buy",
                "sell",
            )
        ]
    ),
    "gateio/spot.json": json.dumps(
        _pair(
            {"id": "#", "create_time": str(S), "create_time_ms": f"{MS}.6", "side": "SIDE", "amount": "0.5"}
            | {"price": "40000", "fee": "", "order_id": "", "currency_pair": "BTC_USDT"},
            "buy",
            "sell",
        )
    ),
    # What they call the amount is in the quote asset.
    "poloniex/BTC_USDT.json": json.dumps(
        _pair(
            {"id": "#", "price": "40000", "quantity": "0.5", "amount": "20000", "takerSide": "SIDE", "ts": MS},
            "BUY",
            "SELL",
        )
    ),
    "hyperliquid/trades.jsonl": _lines(
        [
            {"channel": "trades", "data": [trade]}
            for trade in _pair(
                {"coin": "BTC", "side": "SIDE", "px": "40000", "sz": "0.5", "time": MS, "tid": "#"}, "B", "A"
            )
        ]
    ),
    "upbit/trades.json": json.dumps(
        _pair(
            {"market": "KRW-BTC", "timestamp": MS, "trade_price": 40000.0, "trade_volume": 0.5, "ask_bid": "SIDE"},
            "BID",
            "ASK",
        )
    ),
}


@pytest.mark.soak
@pytest.mark.parametrize("name", SHAPES)
def test_side_and_amount_are_those_of_the_taker_in_the_base_asset(tmp_path, name) -> None:
    path = tmp_path / name
    path.parent.mkdir()
    path.write_text(SHAPES[name])
    probe, claim = recognise(path)
    assert claim.table == "market.trades"
    (batch,) = claim.adapter.read(probe, claim, source_ref="test")
    rows = batch.rows
    assert rows["side"].to_list() == ["buy", "sell"]
    assert rows["amount"].to_list() == [0.5, 0.5]
    assert rows["ts"].dt.strftime("%Y-%m-%d %H:%M:%S").unique().to_list() == ["2024-01-02 10:00:00"]
    assert set(rows["symbol"]) <= {"BTC-USD", "BTC-USDT", "BTC-KRW", "BTC-USD-PERP", "BTC-USDC-PERP"}
    assert batch.gaps == (name == "coinbase/market_trades.jsonl"), "a message without trades"


def test_what_the_words_of_a_side_mean_can_be_declared(tmp_path) -> None:
    path = tmp_path / "BTC-USD.json"
    path.write_text(SHAPES["coinbase/BTC-USD.json"])
    probe, claim = recognise(path, CsvMapping(venue="coinbase", sides={"buy": "buy", "sell": "sell"}))
    (batch,) = claim.adapter.read(probe, claim, source_ref="test")
    assert batch.rows["side"].to_list() == ["sell", "buy"]


def test_a_column_of_contracts_holds_no_spot_trades(tmp_path) -> None:
    path = tmp_path / "gateio" / "futures.json"
    path.parent.mkdir()
    trades = [
        {"id": n, "create_time_ms": S + 0.1, "contract": "BTC_USDT", "size": n, "price": "1"} for n in (5000, -5000)
    ]
    path.write_text(json.dumps(trades))
    probe, claim = recognise(path)
    (batch,) = claim.adapter.read(probe, claim, source_ref="test")
    # A contract is a ten-thousandth of a bitcoin.
    expected = [("BTC-USDT-PERP", "buy", 0.5), ("BTC-USDT-PERP", "sell", 0.5)]
    assert batch.rows.select("symbol", "side", "amount").rows() == expected


def test_messages_of_several_channels_need_a_symbol(tmp_path) -> None:
    path = tmp_path / "bitstamp" / "BTCUSD.jsonl"
    path.parent.mkdir()
    text = SHAPES["bitstamp/BTCUSD.jsonl"]
    path.write_text(text + text.replace("btcusd", "ethusd"))
    probe, claim = recognise(path)
    with pytest.raises(RejectedFileError) as caught:
        list(claim.adapter.read(probe, claim, source_ref="test"))
    assert caught.value.reason == "several_channels"


def test_records_with_prices_under_unusual_names_are_refused_with_their_names(tmp_path) -> None:
    path = tmp_path / "BTC-USD.json"
    path.write_text(json.dumps([{"moment": S, "price": 1, "lots": 2}]))
    with pytest.raises(RejectedFileError) as caught:
        recognise(path, CsvMapping(venue="kraken"))
    assert caught.value.reason == "wrong_schema"
    assert "'moment', 'price', 'lots'" in str(caught.value)
