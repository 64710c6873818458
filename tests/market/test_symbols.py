"""Vendors' spellings of symbols."""

from __future__ import annotations

import json
from datetime import date

import polars as pl
import pytest

from hfthot_platform.core.errors import BadRequestError
from hfthot_platform.domain.market.symbols import contract_of, find_in_name, find_with_minutes, from_vendor, to_binance
from tests.recordings import ANSWERS

# What each venue writes, and what it is; restated from the venues' own lists of instruments.
SPELLINGS = {
    "binance": {
        "BTCUSDT": "BTC-USDT",
        "BNBBUSD": "BNB-BUSD",
        "BTCTUSD": "BTC-TUSD",
        "1000SATSFDUSD": "1000SATS-FDUSD",
        "XRP_ETH": "XRP-ETH",
        "ETH/BTC": "ETH-BTC",
        "BTC_USDT_USDT-240927": "BTC-USDT-240927",
    },
    "binance_us": {"BTCUSD": "BTC-USD", "CRVUSDT": "CRV-USDT", "OMGBUSD": "OMG-BUSD"},
    "binance_usdm": {
        "BTCUSDT": "BTC-USDT-PERP",
        "XRP_USDT_USDT": "XRP-USDT-PERP",
        "BTCUSDT_240329": "BTC-USDT-240329",
    },
    "binance_coinm": {"BNBUSD_PERP": "BNB-USD-PERP", "DOTUSD_240329": "DOT-USD-240329"},
    "kraken": {
        "XXBTZUSD": "BTC-USD",
        "XBTEUR": "BTC-EUR",
        "XBT/USDT": "BTC-USDT",
        "XETHXXBT": "ETH-BTC",
        "ETHXBT": "ETH-BTC",
        "XXDGXXBT": "DOGE-BTC",
        "XDG/USD": "DOGE-USD",
        "USDTZUSD": "USDT-USD",
        "XTZUSD": "XTZ-USD",
        "ZEURZUSD": "EUR-USD",
        "DOTUSD": "DOT-USD",
        "SHIBUSD": "SHIB-USD",
    },
    "kraken_futures": {"PF_XBTUSD": "BTC-USD-PERP", "FF_ETHUSD_240927": "ETH-USD-240927"},
    "kraken_inverse": {"PI_XBTUSD": "BTC-USD-PERP", "FI_XBTUSD_240927": "BTC-USD-240927"},
    "deribit": {
        "BTC-PERPETUAL": "BTC-USD-PERP",
        "ETH-27DEC24": "ETH-USD-241227",
        "SOL-3JUN22": "SOL-USD-220603",
        "XRP_USDC-PERPETUAL": "XRP-USDC-PERP",
        "BTC_USDC": "BTC-USDC",
        "BTC/USD:BTC-240927": "BTC-USD-240927",
    },
    "okx": {
        "BTC-USDT": "BTC-USDT",
        "BTC-USDT-SWAP": "BTC-USDT-PERP",
        "ETH-USD-240927": "ETH-USD-240927",
        "ETH/USDT:USDT": "ETH-USDT-PERP",
    },
    "bybit": {
        "BTCUSDT": "BTC-USDT",
        "BTCPERP": "BTC-USDC-PERP",
        "BTCUSDZ24": "BTC-USD-241227",
        "ETHUSDH25": "ETH-USD-250328",
        "BTCUSDT-25SEP26": "BTC-USDT-260925",
        "BTC-27DEC24": "BTC-USDC-241227",
    },
    "bybit_inverse": {"BTCUSD": "BTC-USD-PERP"},
    "bitmex": {
        "XBTUSD": "BTC-USD-PERP",
        "XBTM26": "BTC-USD-260626",
        "XBTUSDT": "BTC-USDT-PERP",
        "ETHUSDTM26": "ETH-USDT-260626",
        "XBT_USDT": "BTC-USDT",
    },
    "htx": {"btcusdt": "BTC-USDT", "BTC240927": "BTC-USD-240927", "BTC-USDT-240927": "BTC-USDT-240927"},
    "huobi_dm_swap": {"BTC-USD": "BTC-USD-PERP"},
    "gateio": {
        "BTC_USDT": "BTC-USDT",
        "BTC_USDT_240927": "BTC-USDT-240927",
        "BTC_USDT_20241227": "BTC-USDT-241227",
    },
    "bittrex": {"BTC-ETH": "ETH-BTC", "USD-BTC": "BTC-USD", "USDT-XRP": "XRP-USDT", "ETH-BTC": "ETH-BTC"},
    "poloniex": {"USDT_BTC": "BTC-USDT", "BTC_XMR": "XMR-BTC", "BTC_STR": "XLM-BTC", "BTC_USDT": "BTC-USDT"},
    "upbit": {"KRW-BTC": "BTC-KRW", "BTC-ETH": "ETH-BTC"},
    "bitfinex": {
        "tBTCUSD": "BTC-USD",
        "tAVAX:USD": "AVAX-USD",
        "tBTCF0:USTF0": "BTC-USDT-PERP",
        "tIOTUST": "IOTA-USDT",
    },
    "coinbase": {"BTC-USD": "BTC-USD", "BTC-PERP-INTX": "BTC-USDC-PERP"},
    "bitstamp": {"btcusd": "BTC-USD", "XLM/GBP": "XLM-GBP", "usdtusd": "USDT-USD"},
    "gemini": {"btcgusd": "BTC-GUSD", "aaverlusd": "AAVE-RLUSD", "xrpgusdperp": "XRP-GUSD-PERP"},
    "hyperliquid": {"BTC": "BTC-USDC-PERP", "kPEPE": "KPEPE-USDC-PERP", "PURR/USDC": "PURR-USDC"},
    "kucoin": {"BTC-USDT": "BTC-USDT", "XBTUSDTM": "BTC-USDT-PERP", "XBTMZ24": "BTC-USD-241227"},
    "bitget": {"BTCUSDT_UMCBL": "BTC-USDT-PERP", "BTCUSD_DMCBL": "BTC-USD-PERP", "ETHUSDT_SPBL": "ETH-USDT"},
    "ftx": {"BTC-PERP": "BTC-USD-PERP", "BTC/USD": "BTC-USD", "ETH-20210625": "ETH-USD-210625"},
    "us_equity": {
        "AAPL": "AAPL",
        "GBTC": "GBTC",
        "BRK.B": "BRK.B",
        "BRK-B": "BRK.B",
        "BRK/B": "BRK.B",
        "BAC-PB": "BAC.PRB",
        "aapl.us": "AAPL",
        "MSFT US Equity": "MSFT",
        "NASDAQ:NVDA": "NVDA",
        "^GSPC": "SPX",
    },
    "us_index": {"SPX": "SPX", "^GSPC": "SPX", "^VIX": "VIX", "$NDX": "NDX"},
    "lse": {"VOD.L": "VOD.L"},
    "tse": {"7203": "7203"},
    "fx": {"EURUSD": "EUR-USD", "EUR/USD": "EUR-USD", "usdjpy": "USD-JPY", "XAU_USD": "XAU-USD"},
    "yahoo": {
        "EURUSD=X": "EUR-USD",
        "JPY=X": "USD-JPY",
        "^GSPC": "SPX",
        "BRK-B": "BRK.B",
        "BTC-USD": "BTC-USD",
        "GBTC": "GBTC",
    },
    "stooq": {"aapl.us": "AAPL", "eurusd": "EUR-USD"},
    "": {
        "BTCUSDT": "BTC-USDT",
        "BTCUSDT_240927": "BTC-USDT-240927",
        "BTC/USDT:USDT": "BTC-USDT-PERP",
        "FOO-BAR": "FOO-BAR",
    },
}


@pytest.mark.parametrize(
    ("venue", "name", "canonical"),
    [(venue, *spelling) for venue, names in SPELLINGS.items() for spelling in names.items()],
)
def test_every_spelling_has_one_canonical_name(venue, name, canonical) -> None:
    assert from_vendor(name, venue=venue) == canonical
    assert from_vendor(canonical, venue=venue) == canonical


@pytest.mark.parametrize(
    ("venue", "name", "why"),
    [
        ("deribit", "BTC-27DEC24-100000-C", "an option"),
        ("okx", "BTC-USD-241217-92000-P", "an option"),
        ("bybit", "ETH-26JUN26-16000-P", "an option"),
        ("", "BTC/USD:BTC-240927-40000-C", "an option"),
        ("deribit", "BTC-FS-19MAY26_PERP", "combination"),
        ("bitmex", "XBTM26-XBTU26", "spread"),
        ("bitmex", "ETHM26", "does not name its quote asset"),
        ("bitmex", ".BXBT", "an index"),
        ("htx", "BTC_CW", "each week"),
        ("okx", "BTC-USD_UM-SWAP", "neither PERP nor the date"),
        ("gateio", "BTC_USDT_241399", "neither PERP nor the date"),
        ("kraken", "XETHXXBT.d", "dark pool"),
        ("kraken_futures", "PI_XBTUSD", "kraken_inverse"),
        ("bybit", "BTCUSD", "bybit_inverse"),
        ("coinbase", "BIT-24APR26-CDE", "product code"),
        ("poloniex", "USDC_USDT", "cannot be told apart"),
        ("bitfinex", "fUSD", "funding"),
        ("bitfinex", "tTESTBTC:TESTUSD", "paper trading"),
        ("hyperliquid", "@142", "number of the venue"),
        ("ftx", "BTC-0924", "without the year"),
        ("us_equity", "BTC-USD", "not the ticker"),
        ("us_equity", "1234", "not the ticker"),
        ("yahoo", "ES=F", "each month"),
        ("fx", "EURUSDm", "does not end in a known quote"),
        ("", "BTC-PERPETUAL", "does not name its quote asset"),
        ("", "BTC-27DEC24", "does not name its quote asset"),
        ("", "BTC-XVG", "quote first"),
        ("", "ABCTUSD", "ABC-TUSD or ABCT-USD"),
        ("", "GBTC", "venue of shares"),
        ("", "AAPL", "venue of shares"),
        ("", "what", "does not end in a known quote"),
        ("", "BTC_", "separator"),
        ("", "BTCUSD_SOON_X_Y", "neither PERP nor the date"),
        ("", "", "empty"),
        ("", "Б-USD", "ASCII"),
    ],
)
def test_what_a_name_does_not_say_for_certain_is_refused_with_a_hint(venue, name, why) -> None:
    with pytest.raises(BadRequestError, match=why) as refused:
        from_vendor(name, venue=venue)
    assert refused.value.hint


def test_a_plain_pair_of_a_perpetual_market_is_a_perpetual() -> None:
    assert from_vendor("BTCUSDT", perpetual=True, venue="bybit") == "BTC-USDT-PERP"
    assert from_vendor("BTCUSDT_240329", perpetual=True) == "BTC-USDT-240329"


def test_two_kinds_of_the_same_contract_never_share_a_name_on_one_venue() -> None:
    assert from_vendor("PF_XBTUSD", venue="kraken_futures") == from_vendor("PI_XBTUSD", venue="kraken_inverse")
    with pytest.raises(BadRequestError, match="inverse"):
        from_vendor("PI_XBTUSD", venue="kraken_futures")


@pytest.mark.parametrize(
    ("name", "venue", "found"),
    [
        ("XRP_ETH-trades.feather", "binance", "XRP_ETH"),
        ("BTCUSDT_1h_2024-01-01.csv", "binance", "BTCUSDT"),
        ("ETHUSDT_240101.csv", "binance", "ETHUSDT"),
        ("BTCUSDT_240927-trades.csv", "binance_usdm", "BTCUSDT_240927"),
        ("BTC-USDT-SWAP-trades-2024-01-01.csv", "okx", "BTC-USDT-SWAP"),
        ("BTC-PERPETUAL_trades.csv", "deribit", "BTC-PERPETUAL"),
        ("BINANCE_SPOT_BTC_USDT.csv", "", "BTC_USDT"),
        ("ETHXBT.csv", "kraken", "ETHXBT"),
        ("tBTCUSD.csv", "bitfinex", "tBTCUSD"),
        ("AAPL_1d.csv", "us_equity", "AAPL"),
        ("BRK.B.csv", "us_equity", "BRK.B"),
        ("panel.csv", "us_equity", None),
        ("ETHUSD-BTCUSD.csv", "", None),
    ],
)
def test_a_file_name_spells_one_instrument_or_none(name, venue, found) -> None:
    assert find_in_name(name, venue) == found


@pytest.mark.parametrize(
    ("venue", "name", "amount", "base_amount"),
    [
        ("bitmex", "XBTUSD", 1000.0, 1000.0 / 42_000),
        ("deribit", "BTC-PERPETUAL", 500.0, 500.0 / 42_000),
        ("bybit_inverse", "BTCUSD", 300.0, 300.0 / 42_000),
        ("binance_coinm", "BTCUSD_PERP", 3.0, 300.0 / 42_000),
        ("binance_coinm", "ETHUSD_PERP", 3.0, 30.0 / 42_000),
        ("okx", "BTC-USD-SWAP", 2.0, 200.0 / 42_000),
        ("okx", "BTC-USDT-SWAP", 2.0, 0.02),
        ("huobi_dm_swap", "BTC-USD", 1.0, 100.0 / 42_000),
        ("deribit", "SOL_USDC-PERPETUAL", 7.0, 7.0),
        ("binance_usdm", "BTCUSDT", 7.0, 7.0),
        ("kraken", "XXBTZUSD", 7.0, 7.0),
    ],
)
def test_amounts_in_a_contracts_unit_become_amounts_of_the_base(venue, name, amount, base_amount) -> None:
    contract = contract_of(venue, name)
    frame = pl.DataFrame({"amount": [amount], "price": [42_000.0]})
    assert frame.select(contract.base_amount(pl.col("amount"), pl.col("price"))).item() == pytest.approx(base_amount)


@pytest.mark.parametrize(("venue", "name"), [("bitmex", "ETHUSD"), ("", "BTC-USD-PERP"), ("okx", "XRP-USDT-SWAP")])
def test_an_amount_of_unknown_unit_is_refused(venue, name) -> None:
    with pytest.raises(BadRequestError, match="not known"):
        contract_of(venue, name).base_amount(pl.col("amount"), pl.col("price"))


def test_a_contract_says_what_it_is() -> None:
    future = contract_of("deribit", "BTC-27DEC24")
    assert (future.symbol, future.kind, future.expiry, future.inverse) == (
        "BTC-USD-241227", "future", date(2024, 12, 27), True,
    )  # fmt: skip
    assert contract_of("us_equity", "GBTC").kind == "equity"
    assert contract_of("us_index", "^GSPC").kind == "index"
    assert contract_of("fx", "EURUSD").kind == "currency"


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


# Each venue's own list of instruments, as it was recorded, with the base and the quote that the venue states.


@pytest.fixture(scope="module")
def answers(recordings):
    def read(venue: str, url: str) -> list:
        heard = recordings.messages(venue)
        return [json.loads(message["data"]) for message in heard if message["t"] == "http" and url in message["url"]]

    return read


def wrong(venue: str, expected: dict[str, str]) -> dict[str, str]:
    assert expected
    found = {name: from_vendor(name, venue=venue) for name in expected}
    assert all(from_vendor(symbol, venue=venue) == symbol for symbol in found.values())
    return {name: symbol for name, symbol in found.items() if symbol != expected[name]}


@pytest.mark.parametrize(("recording", "venue"), [("BINANCE", "binance"), ("BINANCE_US", "binance_us")])
def test_the_list_of_binance(answers, recording, venue) -> None:
    symbols = answers(recording, "exchangeInfo")[0]["symbols"]
    assert not wrong(venue, {symbol["symbol"]: f"{symbol['baseAsset']}-{symbol['quoteAsset']}" for symbol in symbols})


def test_the_list_of_binance_futures(answers) -> None:
    symbols = answers("BINANCE_FUTURES", "exchangeInfo")[0]["symbols"]
    expected = {
        symbol["symbol"]: f"{symbol['baseAsset']}-{symbol['quoteAsset']}-{symbol['symbol'].partition('_')[2] or 'PERP'}"
        for symbol in symbols
    }
    assert not wrong("binance_usdm", expected)


def test_the_list_of_bybit(answers) -> None:
    linear, spot = (answer["result"]["list"] for answer in answers("BYBIT", "instruments-info"))
    # BTCUSD is on the lists of spot and of inverse contracts: the venue has to be told.
    pairs = {instrument["symbol"]: f"{instrument['baseCoin']}-{instrument['quoteCoin']}" for instrument in spot}
    assert not wrong("bybit_spot", pairs)
    assert not wrong("bybit", {name: pair for name, pair in pairs.items() if not pair.endswith("-USD")})
    perpetual = [instrument for instrument in linear if instrument["contractType"] == "LinearPerpetual"]
    expected = {
        instrument["symbol"]: f"{instrument['baseCoin']}-{instrument['quoteCoin']}-PERP" for instrument in perpetual
    }
    assert not wrong("bybit_linear", expected)


def test_the_list_of_deribit(answers) -> None:
    listed = [instrument for answer in answers("DERIBIT", "get_instruments") for instrument in answer["result"]]
    perpetuals = {
        instrument["instrument_name"]: f"{instrument['base_currency']}-{instrument['quote_currency']}-PERP"
        for instrument in listed
        if instrument["settlement_period"] == "perpetual"
    }
    assert not wrong("deribit", perpetuals)
    for option in (instrument["instrument_name"] for instrument in listed if instrument["kind"] == "option"):
        with pytest.raises(BadRequestError, match="an option"):
            from_vendor(option, venue="deribit")


def test_the_list_of_bitstamp(answers) -> None:
    pairs = answers("BITSTAMP", "trading-pairs-info")[0]
    assert not wrong("bitstamp", {pair["url_symbol"]: pair["name"].replace("/", "-") for pair in pairs})


def test_the_list_of_gemini(answers) -> None:
    details = answers("GEMINI", "/details/")
    expected = {
        detail["symbol"].lower(): f"{detail['base_currency']}-{detail['quote_currency']}"
        + ("-PERP" if detail["symbol"].endswith("PERP") else "")
        for detail in details
    }
    assert not wrong("gemini", expected)


def test_the_list_of_coinbase(answers) -> None:
    products = answers("COINBASE", "/products")[0]["products"]
    spot = [product for product in products if product["product_type"] == "SPOT"]
    expected = {
        product["product_id"]: f"{product['base_currency_id']}-{product['quote_currency_id']}" for product in spot
    }
    assert not wrong("coinbase", expected)


def test_the_list_of_bitfinex(answers) -> None:
    (names,) = answers("BITFINEX", "list:pair:exchange")[0]
    plain = [name for name in names if ":" in name and not name.startswith("TEST")]
    ours = {"UST": "USDT", "XCH": "XCHF", "IOT": "IOTA", "BCHN": "BCH"}
    pairs = (name.split(":") for name in plain)
    expected = ["-".join(ours.get(code, code) for code in pair) for pair in pairs]
    assert not wrong("bitfinex", dict(zip((f"t{name}" for name in plain), expected, strict=True)))


def test_the_list_of_kraken(recordings) -> None:
    pairs = recordings.json(f"{ANSWERS}/xchange/xchange-kraken/example-assetpairs-data.json")["result"]
    names = {"XBT": "BTC", "XDG": "DOGE"}
    expected = {}
    for code, pair in pairs.items():
        if pair.get("wsname"):
            base, quote = (names.get(code, code) for code in pair["wsname"].split("/"))
            expected |= dict.fromkeys((code, pair["altname"], pair["wsname"]), f"{base}-{quote}")
    assert not wrong("kraken", expected)


@pytest.mark.parametrize(
    ("name", "venue", "found"),
    [
        ("EURUSD60.csv", "fx", ("EURUSD", 60)),
        ("XAUUSD10080.csv", "fx", ("XAUUSD", 10_080)),
        ("BTCUSD1440.csv", "bitstamp", ("BTCUSD", 1440)),
        ("XBTUSD_1.csv", "kraken", ("XBTUSD", 1)),
        ("1INCHEUR_60.csv", "kraken", ("1INCHEUR", 60)),
        ("GER30.csv", "fx", None),  # an index
        ("US3060.csv", "fx", None),  # US30 by the hour, or anything else
        ("BTCUSD_1.csv", "bitstamp", None),  # a part of a download
        ("EURUSD7.csv", "fx", None),
        ("AAPL60.csv", "us_equity", None),
    ],
)
def test_minutes_at_the_end_of_a_name_are_those_of_its_bars_where_nothing_else_is_possible(name, venue, found):
    assert find_with_minutes(name, venue) == found
