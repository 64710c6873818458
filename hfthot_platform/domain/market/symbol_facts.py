"""Facts about venues and assets that the symbol parser reads: quote assets, other names of an asset, contract sizes.

What goes here: tables.  What stays out: how a name is taken apart, which is in `symbols`.  Sources: the venues'
own lists of instruments and their documentation, ISO 4217 for currencies.
"""

# ruff: noqa: SIM905 - lists of hundreds of names read better as words than in quotation marks

from __future__ import annotations

from typing import Final

__all__ = [
    "ALIASES",
    "ALIASES_OF",
    "CONTRACT_SIZES",
    "CURRENCIES",
    "DERIVATIVES_ONLY",
    "DERIVATIVES_SUFFIXES",
    "DOLLARS",
    "EQUITY_VENUES",
    "FAMILIES",
    "FX_VENUES",
    "INDICES",
    "KNOWN_BASES",
    "KRAKEN_LEGACY",
    "METALS",
    "MINOR_QUOTES",
    "MIXED_VENUES",
    "MONEY_RANK",
    "QUOTES",
    "QUOTES_OF",
    "US_EXCHANGES",
]

#: Currencies of ISO 4217 that market data is quoted in.
CURRENCIES: Final = frozenset(
    (
        "USD EUR GBP JPY CHF CAD AUD NZD CNY CNH HKD SGD KRW TWD INR IDR THB MYR PHP VND TRY BRL ARS MXN CLP COP PEN "
        "RUB UAH KZT PLN CZK HUF RON SEK NOK DKK ISK ZAR NGN KES EGP ILS AED SAR QAR KWD BHD GEL BGN HRK"
    ).split()
)
#: Metals, which are quoted like currencies.
METALS: Final = frozenset({"XAU", "XAG", "XPT", "XPD"})

#: Tokens worth one US dollar, and the dollar itself.
DOLLARS: Final = (
    *("USD", "USDT", "USDC", "FDUSD", "BUSD", "TUSD", "USDP", "USD1", "DAI"),
    *("USDE", "RLUSD", "GUSD", "PYUSD", "USDD", "USDS", "PAX", "HUSD"),
)
#: Quotes of pairs written without a separator, on any venue.
QUOTES: Final = (
    *("FDUSD", "RLUSD", "USDT", "USDC", "BUSD", "TUSD", "USDP", "GUSD", "USDE", "USD1", "DAI"),
    *("USD", "EUR", "GBP", "JPY", "TRY", "BRL", "AUD", "CAD", "CHF", "KRW"),
    *("BTC", "XBT", "ETH", "BNB"),
)
#: Quotes that count on an unknown venue only beside a base that is well known: they end many other words.
MINOR_QUOTES: Final = (
    *(sorted(CURRENCIES - {"USD", "EUR", "GBP", "JPY", "TRY", "BRL", "AUD", "CAD", "CHF", "KRW"})),
    *("XRP", "TRX", "DOGE", "SOL", "DOT", "BIDR", "IDRT", "BKRW", "BVND", "UST", "PAX", "VAI", "EURT", "EURC", "EURI"),
    *("KCS", "NEO", "HT", "OKB", "BGB", "MNT", "LTC", "BCH", "XMR", "USDJ", "USDD", "USDH", "CNHT", "XCHF", "EOS"),
)
#: Quotes of the venues that write pairs without a separator, where they are known; longest first decides.
QUOTES_OF: Final[dict[str, tuple[str, ...]]] = {
    # No plain USD here: BNBUSD is nothing, BNBBUSD is BNB in BUSD.
    "binance": (
        *("FDUSD", "USDT", "USDC", "BUSD", "TUSD", "USDP", "USDS", "USD1", "IDRT", "BIDR", "BKRW", "BVND", "GYEN"),
        *("EURI", "DOGE", "PAX", "DAI", "VAI", "EUR", "GBP", "TRY", "BRL", "JPY", "AUD", "PLN", "RUB", "UAH", "ZAR"),
        *("NGN", "ARS", "MXN", "RON", "CZK", "COP", "UST", "BTC", "ETH", "BNB", "XRP", "TRX", "SOL", "DOT"),
    ),
    "binance_us": ("USDT", "USDC", "BUSD", "USD", "BTC", "ETH", "DAI", "USD4", "BNB"),
    "binance_derivatives": ("USDT", "USDC", "BUSD", "USD1", "USD", "BTC", "ETH", "BNB"),
    "bitstamp": ("USDT", "USDC", "RLUSD", "EURC", "EURT", "PYUSD", "USD", "EUR", "GBP", "PAX", "BTC", "ETH"),
    "bybit": (
        *("RLUSD", "USDT", "USDC", "USDE", "USD1", "XUSD", "USD", "EUR", "BRL", "PLN", "TRY", "AED", "GBP", "KZT"),
        *("BTC", "ETH", "SOL", "MNT", "DAI", "BRZ", "USDQ", "USDR", "EURC"),
    ),
    "bitget": ("USDT", "USDC", "USDE", "USD1", "USD", "EUR", "BRL", "TRY", "GBP", "BTC", "ETH", "BGB"),
    "bitmex": ("USDT", "USDC", "USD", "XBT", "ETH", "EUR"),
    "gemini": (
        *("RLUSD", "GUSD", "USDC", "USDT", "USD", "EUR", "GBP", "SGD", "AUD", "CAD", "HKD", "DAI", "BTC", "ETH"),
        *("BCH", "LTC", "FIL", "SOL"),
    ),
    "htx": ("USDT", "USDC", "USDD", "HUSD", "TUSD", "EUR", "UAH", "BRL", "TRY", "BTC", "ETH", "HT", "TRX", "USD"),
    "kraken": (
        *("USDT", "USDC", "USDQ", "USDR", "USDG", "USDS", "PYUSD", "RLUSD", "EURQ", "EURR", "EURT", "EURC", "DAI"),
        *("USD", "EUR", "GBP", "JPY", "CAD", "AUD", "CHF", "AED", "XBT", "BTC", "ETH", "DOT", "SOL", "BNB"),
    ),
    "kucoin": ("USDT", "USDC", "USD", "BTC", "XBT", "ETH", "EUR"),
    "mexc": ("USDT", "USDC", "USDE", "USD1", "TUSD", "BTC", "ETH", "EUR", "BRL"),
    "phemex": ("USDT", "USDC", "USD", "BTC", "ETH", "BRZ", "EUR", "TRY"),
}

#: The kind of names that a venue uses, by its own or another spelling of it.
FAMILIES: Final[dict[str, str]] = {
    **dict.fromkeys(("binance", "binance_spot"), "binance"),
    **dict.fromkeys(("binance_us", "binanceus"), "binance_us"),
    **dict.fromkeys(
        (
            *("binance_usdm", "binance_coinm", "binance_futures", "binance_delivery", "binance_perp"),
            *("binance_dapi", "binance_fapi", "binanceusdm", "binancecoinm"),
        ),
        "binance_derivatives",
    ),
    **dict.fromkeys(("kraken_futures", "krakenfutures", "kraken_inverse", "cryptofacilities"), "kraken_futures"),
    **dict.fromkeys(("coinbasepro", "coinbase_pro", "coinbaseexchange", "gdax", "coinbase_international"), "coinbase"),
    **dict.fromkeys(("huobi", "htx"), "htx"),
    **dict.fromkeys(("okex", "okx", "okcoin"), "okx"),
    **dict.fromkeys(("gate", "gateio"), "gateio"),
    **dict.fromkeys(("kucoin_futures", "kucoinfutures", "kucoin"), "kucoin"),
    **dict.fromkeys(("bittrex", "poloniex", "upbit"), "quote_first"),
    **{
        name: name
        for name in (
            *("bitfinex", "bitget", "bitmex", "bitstamp", "bybit", "coinbase", "deribit", "dydx", "ftx", "gemini"),
            *("hyperliquid", "kraken", "mexc", "phemex"),
        )
    },
}
#: Venues where a plain pair is a perpetual contract, by name or by the end of the name.
DERIVATIVES_ONLY: Final = frozenset(
    (
        "bitmex deribit dydx hyperliquid cryptofacilities krakenfutures kucoinfutures binanceusdm binancecoinm "
        "binance_fapi binance_dapi binance_delivery coinbase_international"
    ).split()
)
DERIVATIVES_SUFFIXES: Final = (
    *("_usdm", "_coinm", "_perp", "_perpetual", "_futures", "_swap", "_linear", "_inverse", "_dm", "_derivatives"),
)

#: Other names of the same asset, everywhere.
ALIASES: Final = {"XBT": "BTC", "XDG": "DOGE"}
#: Other names on one kind of venue.
ALIASES_OF: Final[dict[str, dict[str, str]]] = {
    "bitfinex": {
        alias.partition(":")[0]: alias.partition(":")[2]
        for alias in (
            "UST:USDT UDC:USDC TSD:TUSD EUT:EURT EUS:EURS XCH:XCHF ALG:ALGO AMP:AMPL ATO:ATOM DAT:DATA DOG:MDOGE "
            "DSH:DASH IOT:IOTA IQX:IQ MNA:MANA QSH:QASH QTM:QTUM RBT:RBTC SNG:SNGLS STJ:STORJ VSY:VSYS YYW:YOYOW "
            "BCHN:BCH WAX:WAXP"
        ).split()
    },
    "poloniex": {"STR": "XLM"},
}
#: Kraken's four-letter codes: X before a coin, Z before a currency.
KRAKEN_LEGACY: Final = {
    **{f"X{coin}": coin for coin in "ETC ETH ICN LTC MLN NMC REP XBT XDG XLM XMR XRP XVN ZEC DAO".split()},
    **{f"Z{currency}": currency for currency in "AUD CAD EUR GBP JPY KRW USD".split()},
}

#: Which asset prices are expressed in, where a venue has written both orders: the first of two.
MONEY_RANK: Final = (
    *("KRW", "USD", "EUR", "GBP", "THB", "IDR", "SGD"),
    *("USDT", "USDC", "TUSD", "USDJ", "USDD", "DAI", "BUSD", "PAX"),
    *("BTC", "ETH", "XMR", "TRX", "BNB"),
)

#: Assets so well known that they decide how a name without a separator is split.
KNOWN_BASES: Final = frozenset(
    (
        "BTC XBT ETH BNB XRP ADA SOL DOGE XDG DOT TRX LTC BCH AVAX LINK MATIC POL SHIB UNI ATOM XLM ETC FIL NEAR APT "
        "ARB OP SUI ICP HBAR VET ALGO AAVE EOS XTZ XMR ZEC DASH NEO IOTA QTUM EGLD FTM SAND MANA AXS THETA GRT MKR "
        "SNX COMP CRV YFI SUSHI BAT ZRX OMG KSM WAVES CHZ ENJ LRC KNC REN STORJ ANT BAL INJ IMX LDO RUNE KAVA CAKE "
        "DYDX GALA APE PEPE BONK WIF FLOKI TON TIA SEI ORDI STX FET RNDR GMT BLUR WLD JTO JUP PYTH STRK ENA TRUMP "
        "HYPE KAS TAO USDT USDC USDE DAI PAXG XAUT WBTC STETH LUNA LUNC BSV BTG XEM ONT ZIL ICX LSK HOT DGB SC REP "
        "GNO MLN SCRT ROSE FLOW MINA CELO ONE AR ZEN BAND KDA XEC ETHW OKB LEO CRO HT KCS FTT BTT JST SUN WIN GUSD "
        "USDG PYUSD RLUSD FDUSD TUSD BUSD EURC"
    ).split()
) | {f"1000{meme}" for meme in ("SHIB", "PEPE", "BONK", "FLOKI", "LUNC", "XEC", "SATS", "RATS")}

#: Venues of shares, besides those named `us_...`, `..._equity` or `..._stocks`.
EQUITY_VENUES: Final = frozenset(
    (
        "nyse nasdaq amex arca nyse_arca bats iex cboe lse xetra euronext tsx tse hkex asx six bme borsa_italiana nse "
        "bse sse szse xnys xnas xase arcx bats xlon xetr xpar xams xtse xtks xhkg xasx equities equity "
        "stock stocks etf etfs"
    ).split()
)
#: Exchanges of the United States, as prefixes (`NASDAQ:AAPL`) and as venues.
US_EXCHANGES: Final = frozenset("nyse nasdaq amex arca nyse_arca bats iex cboe xnys xnas xase arcx us".split())
FX_VENUES: Final = frozenset(
    (
        "fx forex dukascopy oanda fxcm histdata truefx metatrader metatrader4 metatrader5 mt4 mt5 icmarkets pepperstone"
    ).split()
)
#: Vendors that carry shares, indices, currencies and coins side by side.
MIXED_VENUES: Final = frozenset(
    "yahoo yfinance stooq tiingo polygon alphavantage alpha_vantage eodhd tradingview quandl investing google".split()
)
#: Vendors' names of indices, and ours.
INDICES: Final = {
    "GSPC": "SPX",
    "INX": "SPX",
    **{name: name for name in "SPX DJI IXIC NDX RUT VIX FTSE GDAXI N225 HSI STOXX50E".split()},
}

#: What one contract is worth: (kind of venue, inverse or linear, base or None for every other base) -> size, in the
#: quote for inverse contracts and in the base for linear ones.
CONTRACT_SIZES: Final[dict[tuple[str, str, str | None], float]] = {
    ("binance_derivatives", "inverse", "BTC"): 100.0,
    ("binance_derivatives", "inverse", None): 10.0,
    ("bitmex", "inverse", "BTC"): 1.0,
    ("bybit", "inverse", None): 1.0,
    ("deribit", "inverse", None): 1.0,  # amounts are reported in USD, whatever the contract
    ("gateio", "inverse", "BTC"): 1.0,
    ("gateio", "linear", "BTC"): 0.0001,
    ("htx", "inverse", "BTC"): 100.0,
    ("htx", "inverse", None): 10.0,
    ("htx", "linear", "BTC"): 0.001,
    ("kraken_futures", "inverse", None): 1.0,
    ("kucoin", "inverse", "BTC"): 1.0,
    ("kucoin", "linear", "BTC"): 0.001,
    ("okx", "inverse", "BTC"): 100.0,
    ("okx", "inverse", None): 10.0,
    ("okx", "linear", "BTC"): 0.01,
    ("okx", "linear", "ETH"): 0.1,
    ("phemex", "inverse", "BTC"): 1.0,
}
