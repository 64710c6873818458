"""Vendors' spellings of symbols."""

from __future__ import annotations

import pytest

from hfthot_platform.errors import BadRequestError
from hfthot_platform.market.symbols import from_vendor, to_binance


@pytest.mark.parametrize(
    ("name", "venue", "canonical"),
    [
        ("BTCUSDT", "binance", "BTC-USDT"),
        ("BNBBUSD", "binance", "BNB-BUSD"),
        ("BTCTUSD", "binance", "BTC-TUSD"),
        ("BNBUSD_PERP", "binance_coinm", "BNB-USD-PERP"),
        ("DOTUSD_240329", "binance_coinm", "DOT-USD-240329"),
        ("BTCUSDT_240329", "binance_usdm", "BTC-USDT-240329"),
        ("DOTUSD", "kraken", "DOT-USD"),
        ("SHIBUSD", "kraken", "SHIB-USD"),
        ("XBTEUR", "kraken", "BTC-EUR"),
        ("XDG/USD", "kraken", "DOGE-USD"),
        ("tBTCUSD", "bitfinex", "BTC-USD"),
        ("BTC-USD", "coinbase", "BTC-USD"),
        ("ETH/USDT:USDT", "okx", "ETH-USDT-PERP"),
        ("BTC/USD:BTC-240927", "deribit", "BTC-USD-240927"),
        ("XRP_ETH", "binance", "XRP-ETH"),
        ("XRP_USDT_USDT", "binance_usdm", "XRP-USDT-PERP"),
    ],
)
def test_every_spelling_has_one_canonical_name(name, venue, canonical) -> None:
    assert from_vendor(name, venue=venue) == canonical
    assert from_vendor(canonical, venue=venue) == canonical


def test_a_plain_pair_of_a_perpetual_market_is_a_perpetual() -> None:
    assert from_vendor("BTCUSDT", perpetual=True, venue="binance_usdm") == "BTC-USDT-PERP"
    assert from_vendor("BTCUSDT_240329", perpetual=True) == "BTC-USDT-240329"


@pytest.mark.parametrize("name", ["", "what", "BTC_", "BTCUSD_SOON_X_Y"])
def test_what_is_no_pair_is_refused(name) -> None:
    with pytest.raises(BadRequestError):
        from_vendor(name)


@pytest.mark.parametrize(
    ("symbol", "name"),
    [
        ("BTC-USDT", "BTCUSDT"),
        ("BTC-USDT-PERP", "BTCUSDT"),
        ("BTC-USD-PERP", "BTCUSD_PERP"),
        ("BTC-USDT-240329", "BTCUSDT_240329"),
    ],
)
def test_binances_spelling(symbol, name) -> None:
    assert to_binance(symbol) == name


def test_only_canonical_symbols_have_a_binance_spelling() -> None:
    with pytest.raises(BadRequestError, match="canonical"):
        to_binance("BTCUSDT")
