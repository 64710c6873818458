"""Contracts of `market.*`: instruments, trades, bars, closes, corporate actions, the universe."""

from __future__ import annotations

from datetime import UTC, datetime

from hfthot_platform.core.intervals import DERIVED, NAME_PATTERN
from hfthot_platform.domain.contracts.model import DATE, FLAG, FLOAT, INT, SMALL, TEXT, TIME, Column, TableContract
from hfthot_platform.domain.contracts.rules import (
    AtLeast,
    Between,
    Finite,
    Matches,
    OneOf,
    PresentWhen,
    Spike,
    TimeBetween,
)

__all__ = [
    "ACTION_KINDS",
    "BARS",
    "BARS_1M",
    "CLOSES",
    "CORPORATE_ACTIONS",
    "INSTRUMENTS",
    "SIMULATED_REGIMES",
    "SOURCES",
    "TRADES",
    "UNIVERSE",
]

#: Where a row came from, in one word.
SOURCES = ("vendor_history", "live_recon", "replay", "synthetic")

#: What changes the price of a share without a trade.
ACTION_KINDS = ("split", "dividend")

# The first year of any data at hand is 1926; a century of room ahead catches ms read as us and the reverse.
_EARLIEST = datetime(1900, 1, 1, tzinfo=UTC)
_LATEST = datetime(2100, 1, 1, tzinfo=UTC)
_SYMBOL = "[A-Z0-9][A-Z0-9._]*(-[A-Z0-9._]+)*"
_MAX_PRICE = 1e9
_MAX_AMOUNT = 1e15

_VENUE = Column(
    "venue", TEXT, "Market the row is from: `binance` (spot), `binance_usdm`, `kraken`, `us_equity`, ...", few=True
)
_SYMBOL_COLUMN = Column(
    "symbol", TEXT, "Canonical symbol: `BTC-USDT`, `BTC-USDT-PERP`, `BTC-USD-240927`, or an equity ticker", few=True
)
_PROVENANCE = (
    Column("source", TEXT, f"Kind of source: {', '.join(SOURCES)}", few=True, provenance=True),
    Column(
        "source_ref",
        TEXT,
        "Exact source: adapter and content hash, or adapter and request",
        few=True,
        provenance=True,
        role="provenance",
    ),
    Column("schema_version", SMALL, "Version of this contract when the row was written", provenance=True),
)
_IDENTITY_RULES = (
    Matches("symbol", _SYMBOL),
    Matches("venue", "[a-z0-9_]+"),
    OneOf("source", SOURCES),
)

INSTRUMENTS = TableContract(
    name="market.instruments",
    description="What can be traded: one row per instrument and venue, latest definition.",
    columns=(
        _VENUE,
        _SYMBOL_COLUMN,
        Column("kind", TEXT, "spot, perpetual, future, equity or index", few=True),
        Column("base", TEXT, "What is bought or sold", nullable=True),
        Column("quote", TEXT, "What prices are expressed in", nullable=True),
        Column("tick_size", FLOAT, "Smallest price step", unit="quote", nullable=True),
        Column("lot_size", FLOAT, "Smallest amount step", unit="base", nullable=True),
        Column("contract_size", FLOAT, "Quote value of one inverse contract", unit="quote", nullable=True),
        Column("listed_on", DATE, "First day known", nullable=True),
        Column("delisted_on", DATE, "Last day known, once delisted", nullable=True),
        *_PROVENANCE,
    ),
    primary_key=("venue", "symbol"),
    sort_by=("symbol", "venue"),
    rules=(
        *_IDENTITY_RULES,
        OneOf("kind", ("spot", "perpetual", "future", "equity", "index")),
        Between("tick_size", 0, _MAX_PRICE, open_low=True),
        Between("lot_size", 0, _MAX_AMOUNT, open_low=True),
        Between("contract_size", 0, _MAX_PRICE, open_low=True),
    ),
    stats_columns=("symbol",),
)

TRADES = TableContract(
    name="market.trades",
    description="Executed trades, one row each, as reported by the venue.",
    columns=(
        Column("date", DATE, "UTC day of `ts`; partition"),
        _VENUE,
        _SYMBOL_COLUMN,
        Column("ts", TIME, "Event time at the venue", unit="UTC, microseconds"),
        Column(
            "trade_id",
            INT,
            "Venue's trade id; if the venue has none, a negative number that orders trades by time and arrival",
        ),
        Column("price", FLOAT, "Price", unit="quote per base"),
        Column("amount", FLOAT, "Quantity", unit="base"),
        Column("side", TEXT, "Taker's side, buy or sell, where known", nullable=True, few=True),
        Column(
            "ts_received",
            TIME,
            "When a live row was received",
            unit="UTC, microseconds",
            nullable=True,
            provenance=True,
        ),
        *_PROVENANCE,
    ),
    primary_key=("symbol", "venue", "trade_id"),
    sort_by=("symbol", "venue", "ts", "trade_id"),
    partition_by="date",
    time_column="ts",
    rules=(
        *_IDENTITY_RULES,
        TimeBetween("ts", _EARLIEST, _LATEST),
        Finite("price"),
        Finite("amount"),
        Between("price", 0, _MAX_PRICE, open_low=True),
        Between("amount", 0, _MAX_AMOUNT, open_low=True),
        OneOf("side", ("buy", "sell")),
        Spike("price", by=("symbol", "venue")),
    ),
    stats_columns=("date", "symbol", "ts", "trade_id"),
)

_BAR_VALUES = (
    Column("ts", TIME, "Open time, inclusive", unit="UTC, microseconds"),
    Column("ts_close", TIME, "Close time, exclusive", unit="UTC, microseconds"),
    Column("open", FLOAT, "First price", unit="quote per base"),
    Column("high", FLOAT, "Highest price", unit="quote per base"),
    Column("low", FLOAT, "Lowest price", unit="quote per base"),
    Column("close", FLOAT, "Last price", unit="quote per base"),
    Column("volume", FLOAT, "Traded quantity, where known (indices have none)", unit="base", nullable=True),
    Column("quote_volume", FLOAT, "Traded value, where known", unit="quote", nullable=True),
    Column("trades", INT, "Number of trades, where known", nullable=True),
    Column("buy_volume", FLOAT, "Quantity bought by takers, where known", unit="base", nullable=True),
    Column("final", FLAG, "False if the interval was still open when the row was created", role="finality"),
    Column("origin", TEXT, "vendor, or the table the row was computed from: trades, bars_1m, bars", few=True),
)
_BAR_RULES = (
    *_IDENTITY_RULES,
    TimeBetween("ts", _EARLIEST, _LATEST),
    *(Finite(column) for column in ("open", "high", "low", "close", "volume")),
    *(Between(column, 0, _MAX_PRICE, open_low=True) for column in ("open", "high", "low", "close")),
    Between("volume", 0, _MAX_AMOUNT),
    Between("quote_volume", 0, _MAX_AMOUNT),
    Between("trades", 0, _MAX_AMOUNT),
    Between("buy_volume", 0, _MAX_AMOUNT),
    AtLeast("high", ("open", "close", "low")),
    AtLeast("open", ("low",)),
    AtLeast("close", ("low",)),
    AtLeast("ts_close", ("ts",)),
    OneOf("origin", ("vendor", "trades", "bars_1m", "bars")),
)

BARS_1M = TableContract(
    name="market.bars_1m",
    description=(
        "One-minute bars, left-closed and right-open; a minute without trades is absent. "
        "A vendor's bar takes precedence over one computed from trades."
    ),
    columns=(Column("date", DATE, "UTC day of `ts`; partition"), _VENUE, _SYMBOL_COLUMN, *_BAR_VALUES, *_PROVENANCE),
    schema_version=2,
    primary_key=("symbol", "venue", "ts"),
    sort_by=("symbol", "venue", "ts"),
    partition_by="date",
    time_column="ts",
    rules=(*_BAR_RULES, Spike("close", by=("symbol", "venue"))),
    stats_columns=("date", "symbol", "ts"),
)

BARS = TableContract(
    name="market.bars",
    description=(
        f"Bars of more than a minute. {', '.join(DERIVED)} are computed from 1m bars where a vendor has none; any "
        "other length is a vendor's, or was derived on demand. An interval without trades is absent."
    ),
    columns=(
        Column("month", DATE, "First day of the UTC month of `ts`; partition"),
        _VENUE,
        _SYMBOL_COLUMN,
        Column("interval", TEXT, "Length of the bar: 5m, 30m, 4h, 1d, 1w, 1mo or any other whole number", few=True),
        *_BAR_VALUES,
        *_PROVENANCE,
    ),
    schema_version=2,
    primary_key=("symbol", "venue", "interval", "ts"),
    sort_by=("symbol", "venue", "interval", "ts"),
    partition_by="month",
    time_column="ts",
    rules=(
        *_BAR_RULES,
        Matches("interval", NAME_PATTERN),
        Spike("close", by=("symbol", "venue", "interval")),
    ),
    stats_columns=("month", "symbol", "interval", "ts"),
)

CLOSES = TableContract(
    name="market.closes",
    description="Daily closes, adjusted for splits and dividends where the source adjusts them.",
    columns=(
        Column("year", SMALL, "Year of `date`; partition"),
        Column("date", DATE, "Trading day (UTC day for crypto)"),
        _VENUE,
        _SYMBOL_COLUMN,
        Column("close", FLOAT, "Close", unit="quote per base"),
        Column("adjusted", FLAG, "Whether `close` is adjusted for splits and dividends"),
        *_PROVENANCE,
        Column("raw_close", FLOAT, "Close as it was traded, where known", unit="quote per base", nullable=True),
    ),
    schema_version=2,
    primary_key=("symbol", "venue", "date"),
    sort_by=("symbol", "venue", "date"),
    partition_by="year",
    time_column="date",
    rules=(
        *_IDENTITY_RULES,
        Finite("close"),
        Finite("raw_close"),
        Between("close", 0, _MAX_PRICE, open_low=True),
        Between("raw_close", 0, _MAX_PRICE, open_low=True),
        Spike("close", by=("symbol", "venue")),
    ),
    stats_columns=("year", "date", "symbol"),
)

CORPORATE_ACTIONS = TableContract(
    name="market.corporate_actions",
    description=(
        "Splits and cash dividends by ex-date, one row for each day and kind; announced ones are in the future. "
        "`hfthot_platform.domain.market.adjust.adjusted_closes` adjusts closes for them."
    ),
    columns=(
        Column("year", SMALL, "Year of `date`; partition"),
        Column("date", DATE, "Ex-date: the first day on which the price excludes it"),
        _VENUE,
        _SYMBOL_COLUMN,
        Column("kind", TEXT, f"{' or '.join(ACTION_KINDS)}", few=True),
        Column("ratio", FLOAT, "For a split: new shares per old share", unit="new per old", nullable=True),
        Column("amount", FLOAT, "For a dividend: cash per share as paid", unit="currency", nullable=True),
        Column("currency", TEXT, "For a dividend; if empty, the currency of the price", nullable=True, few=True),
        *_PROVENANCE,
    ),
    primary_key=("symbol", "venue", "date", "kind"),
    sort_by=("symbol", "venue", "date", "kind"),
    partition_by="year",
    time_column="date",
    rules=(
        *_IDENTITY_RULES,
        OneOf("kind", ACTION_KINDS),
        PresentWhen("ratio", "kind", "split"),
        PresentWhen("amount", "kind", "dividend"),
        Finite("ratio"),
        Finite("amount"),
        Between("ratio", 0, _MAX_PRICE, open_low=True),
        Between("amount", 0, _MAX_PRICE, open_low=True),
        Matches("currency", "[A-Z]{3,5}"),
    ),
    stats_columns=("year", "date", "symbol"),
)

UNIVERSE = TableContract(
    name="market.universe",
    description=(
        "The day's most traded symbols. A member is replaced only by a symbol whose score is at least "
        "10 % better, so that the list is stable."
    ),
    columns=(
        Column("month", DATE, "First day of the month of `date`; partition"),
        Column("date", DATE, "Day of the list; scores use only earlier days"),
        Column("rank", SMALL, "1 for the highest score"),
        _VENUE,
        _SYMBOL_COLUMN,
        Column("score", FLOAT, "Mean daily traded value of the trailing window", unit="quote per day"),
        Column("member_since", DATE, "First day of the current unbroken membership"),
        Column("reason", TEXT, "kept, entered, replaced:<symbol> or seeded", few=True),
        Column("schema_version", SMALL, "Version of this contract when the row was written", provenance=True),
    ),
    primary_key=("date", "symbol", "venue"),
    sort_by=("date", "rank"),
    partition_by="month",
    time_column="date",
    rules=(
        Matches("symbol", _SYMBOL),
        Finite("score"),
        Between("score", 0, 1e18),
        Between("rank", 1, 100_000),
        AtLeast("date", ("member_since",)),
    ),
    stats_columns=("month", "date", "symbol"),
    max_rejected_share=0.0,
)

SIMULATED_REGIMES = TableContract(
    name="market.simulated_regimes",
    description="The true regime of each minute of the simulated exchange; for evaluating models, never an input.",
    columns=(
        Column("date", DATE, "UTC day of `ts`; partition"),
        _VENUE,
        _SYMBOL_COLUMN,
        Column("ts", TIME, "Start of the minute", unit="UTC, microseconds"),
        Column("regime", TEXT, "trending, mean_reverting or volatile", few=True),
        *_PROVENANCE,
    ),
    primary_key=("symbol", "venue", "ts"),
    sort_by=("symbol", "venue", "ts"),
    partition_by="date",
    time_column="ts",
    rules=(
        *_IDENTITY_RULES,
        OneOf("regime", ("trending", "mean_reverting", "volatile")),
    ),
    stats_columns=("date", "symbol", "ts"),
)
