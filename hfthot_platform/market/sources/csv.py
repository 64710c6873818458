"""Any vendor's text or columnar file: by a declared mapping, by a preset, or by the usual column names.

Presets, recognised by content:

- `kraken_trades`: no header; unix seconds, price, volume; the symbol is the file's name;
- `bitfinex_candles`: no header; milliseconds, open, CLOSE, HIGH, LOW, volume;
- `cryptodatadownload`: a banner line, then date, symbol, open, high, low, close and two volumes, newest first;
- `header`: a header with the usual names (also freqtrade's dumps as CSV).

The venue comes from the mapping, the preset, or a folder or file name that is a venue's (`kraken/...`,
`Coinbase_BTCUSD_1h.csv`); a file of unknown venue or symbol is rejected with the way to declare it.
"""

from __future__ import annotations

import csv
import re
from collections.abc import Iterator, Sequence
from typing import Final

import polars as pl

from hfthot_platform.contracts.market import BARS, BARS_1M, TRADES
from hfthot_platform.errors import BadRequestError, RejectedFileError
from hfthot_platform.market.sources.base import (
    BATCH_ROWS,
    ROW_NUMBER,
    Batch,
    FileProbe,
    Progress,
    Recognised,
    no_progress,
)
from hfthot_platform.market.sources.canonical import REQUIRED, TIME, Canonical, Times, bar_interval, last_bar_open
from hfthot_platform.market.sources.delimited import Layout, Sieve, file_blocks, gather, read_sieves
from hfthot_platform.market.sources.mapping import CsvMapping
from hfthot_platform.market.symbols import find_in_name, from_vendor

__all__ = ["Csv", "CsvMapping", "complete", "head_times", "match_names", "venue_in_path"]

#: Usual names of each target, best first.  Compared in lower case with blanks as underscores.
_NAMES: Final[dict[str, tuple[str, ...]]] = {
    "ts": ("open_time", "opentime", "timestamp", "ts", "time", "datetime", "date", "unix", "transact_time"),
    "symbol": ("symbol", "pair", "ticker"),
    "interval": ("interval", "tf", "timeframe"),
    "open": ("open", "o"),
    "high": ("high", "h"),
    "low": ("low", "l"),
    "close": ("close", "c"),
    "volume": ("volume", "vol", "v", "volumefrom", "base_volume"),
    "quote_volume": ("quote_volume", "quote_asset_volume", "volumeto"),
    "trades": ("trades", "count", "number_of_trades", "num_trades", "tradecount"),
    "buy_volume": ("buy_volume", "taker_buy_volume", "taker_buy_base", "taker_buy_base_asset_volume"),
    "trade_id": ("trade_id", "tradeid", "id", "agg_trade_id"),
    "price": ("price", "p"),
    "amount": ("amount", "qty", "quantity", "size"),
    "side": ("side", "taker_side"),
    "maker_buys": ("is_buyer_maker",),
    "ts_received": ("ts_received",),
}
_FLOATS: Final = frozenset({"open", "high", "low", "close", "volume", "quote_volume", "buy_volume", "price", "amount"})
_VENUES: Final = frozenset(
    {
        *("binance", "binance_usdm", "binance_coinm", "bitfinex", "bitget", "bitmex", "bitstamp", "bybit", "coinbase"),
        *("deribit", "gateio", "gemini", "htx", "hyperliquid", "kraken", "kucoin", "okx", "poloniex"),
    }
)
_NUMBER: Final = re.compile(r"[-+]?(\d+\.?\d*|\.\d+)([eE][-+]?\d+)?|nan|inf", re.IGNORECASE)
_TRADE_COLUMNS: Final = ("ts", "price", "amount")
_KRAKEN: Final = CsvMapping(table="market.trades", venue="kraken", columns=_TRADE_COLUMNS)
_BITFINEX: Final = CsvMapping(venue="bitfinex", columns=("ts", "open", "close", "high", "low", "volume"))


class Csv:
    """Reads text of separated values."""

    name = "csv"

    def recognise(self, probe: FileProbe) -> Recognised | None:
        if probe.container not in ("zip", "gzip", "text"):
            return None
        found = _declared(probe) if probe.declared.columns is not None else _preset(probe)
        if found is None:
            return None
        preset, mapping, layout, skip_lines = found
        head = _head(probe, layout, skip_lines)
        mapping, table = complete(mapping, probe, layout.keep, head)
        return Recognised(
            self,
            preset,
            table,
            mapping.venue,
            mapping.symbol,
            {"mapping": mapping, "layout": layout, "skip_lines": skip_lines},
        )

    def read(
        self,
        probe: FileProbe,
        claim: Recognised,
        *,
        source_ref: str,
        batch_rows: int = BATCH_ROWS,
        progress: Progress = no_progress,
    ) -> Iterator[Batch]:
        mapping, layout, skip_lines = (claim.details[name] for name in ("mapping", "layout", "skip_lines"))
        assert isinstance(mapping, CsvMapping)
        assert isinstance(layout, Layout)
        assert isinstance(skip_lines, int)
        canonical = Canonical(mapping, claim.table, source_ref=source_ref, where=probe.name)
        sieves = read_sieves(
            file_blocks(probe),
            layout,
            skip_lines=skip_lines,
            trust_end=probe.container != "text",
            progress=progress,
        )
        batches = gather((canonical.apply(each) for each in sieves), claim.table, source_ref, batch_rows)
        yield from last_bar_open(batches) if claim.table != TRADES.name and mapping.as_of is None else batches


def complete(
    mapping: CsvMapping, probe: FileProbe, targets: Sequence[str], head: pl.DataFrame
) -> tuple[CsvMapping, str]:
    """Fill in what a mapping leaves open, and return it with the target table.

    Args:
        mapping: what is declared or preset.
        probe: the file; names of folders and files may tell venue and symbol.
        targets: target columns that the file has.
        head: its first rows as target columns, for the interval.

    Raises:
        RejectedFileError: `wrong_schema`, `unknown_venue`, `unknown_symbol`, or an interval's trouble.
    """
    update: dict[str, object] = {}
    is_bars = mapping.table in (BARS.name, BARS_1M.name) or (mapping.table is None and "open" in targets)
    if mapping.venue is None:
        venue = venue_in_path(probe)
        if venue is None:
            raise RejectedFileError(
                "unknown_venue",
                "nothing tells which venue the file is from",
                where=probe.name,
                hint=f"Declare `venue` in {probe.name}.mapping.yaml, or put the file into a folder named by the venue.",
            )
        update["venue"] = venue
    symbol = mapping.symbol
    mapping = mapping.model_copy(update=update)
    if symbol is None and "symbol" not in targets:
        symbol = find_in_name(probe.inner_name, mapping.venue or "")
    if symbol is not None:
        try:
            update["symbol"] = from_vendor(symbol, perpetual=mapping.is_perpetual, venue=mapping.venue or "")
        except BadRequestError as error:
            raise RejectedFileError("unknown_symbol", error.what, where=probe.name, hint=error.hint) from error
    elif "symbol" not in targets:
        raise RejectedFileError(
            "unknown_symbol",
            "neither a column nor the file's name tells the symbol",
            where=probe.name,
            hint=f"Declare `symbol` in {probe.name}.mapping.yaml.",
        )
    table = mapping.table or (BARS.name if is_bars else TRADES.name)
    if is_bars and "interval" not in targets:
        interval = mapping.interval or ("1m" if table == BARS_1M.name else None)
        if interval is None:
            interval = bar_interval(head_times(head, mapping, probe.name), probe.inner_name, where=probe.name)
        update["interval"] = interval
        table = BARS_1M.name if interval == "1m" else BARS.name
    missing = [each for each in REQUIRED[table] if each not in targets]
    if missing:
        raise RejectedFileError(
            "wrong_schema",
            f"no column for {', '.join(missing)} of {table}",
            where=probe.name,
            hint="Declare `columns` in the mapping.",
        )
    return mapping.model_copy(update=update), table


def match_names(names: Sequence[str]) -> dict[str, str]:
    """Return target -> column for a header with usual names; empty if they are not those of bars or trades."""
    by_norm = {re.sub(r"[\s-]+", "_", name.strip().strip('"').lower()): name for name in reversed(names)}
    found = {
        target: by_norm[usual]
        for target, usuals in _NAMES.items()
        if (usual := next((each for each in usuals if each in by_norm), None)) is not None
    }
    if "amount" not in found and "price" in found and "open" not in found and "volume" in found:
        found["amount"] = found.pop("volume")
    is_bars = all(each in found for each in REQUIRED[BARS.name])
    is_trades = all(each in found for each in REQUIRED[TRADES.name])
    if is_bars:
        return {target: name for target, name in found.items() if target in _BAR_TARGETS}
    return {target: name for target, name in found.items() if target in _TRADE_TARGETS} if is_trades else {}


_BAR_TARGETS: Final = frozenset({*BARS.column_names, "interval"})
_TRADE_TARGETS: Final = frozenset({*TRADES.column_names, "maker_buys"})


def venue_in_path(probe: FileProbe) -> str | None:
    """Return the venue that one of the nearest folders, or a part of the file's name, is called after."""
    folders = [each.name.lower() for each in list(probe.path.parents)[:3]]
    words = re.split(r"[-_. ]", probe.inner_name.lower())
    venue = next((each for each in [*folders, *words] if each in _VENUES), None)
    futures = re.search(r"-futures\b", probe.inner_name) or "futures" in folders
    return "binance_usdm" if venue == "binance" and futures else venue


def _declared(probe: FileProbe) -> tuple[str, CsvMapping, Layout, int]:
    mapping = probe.declared
    columns = mapping.columns
    assert columns is not None
    lines = probe.lines[mapping.skip_lines :]
    if not isinstance(columns, dict):
        names = [each or f"_{n}" for n, each in enumerate(columns)]
        return "mapping", mapping, _layout(names, mapping), mapping.skip_lines
    header = _split(lines[0], mapping.separator) if lines else []
    absent = [name for name in columns.values() if name not in header]
    if absent:
        raise RejectedFileError(
            "wrong_schema",
            f"the header has no column {', '.join(map(repr, absent))}; it has {', '.join(map(repr, header))}",
            where=probe.name,
            hint="Correct the mapping or the file.",
        )
    return "mapping", mapping, _layout(_targets(header, columns), mapping), mapping.skip_lines + 1


def _preset(probe: FileProbe) -> tuple[str, CsvMapping, Layout, int] | None:
    lines = probe.lines
    # The header, if any, is within the first lines; CryptoDataDownload puts a banner above it.
    for index, line in enumerate(lines[:3]):
        separator = max(",;\t|", key=line.count)
        header = _split(line, separator)
        matched, preset = _cryptodatadownload(header), "cryptodatadownload"
        if not matched:
            matched, preset = match_names(header), "header"
        if matched:
            mapping = probe.declared.over(CsvMapping(separator=separator))
            return preset, mapping, _layout(_targets(header, matched), mapping), index + 1
    fields = [_split(line, ",") for line in lines[:200]]
    rows = [row for row in fields if row and all(_NUMBER.fullmatch(each) for each in row)]
    if not rows or len(rows) < 0.5 * len(lines[:200]):
        return None
    for preset, mapping, fits in (
        ("kraken_trades", _KRAKEN, _is_kraken(rows)),
        ("bitfinex_candles", _BITFINEX, _is_bitfinex(rows)),
    ):
        if fits:
            assert isinstance(mapping.columns, tuple)
            full = probe.declared.over(mapping)
            return preset, full, _layout([each or "" for each in mapping.columns], full), 0
    return None


def _cryptodatadownload(header: list[str]) -> dict[str, str]:
    """Return target -> column of a CryptoDataDownload header; its first volume is of the base asset."""
    names = [each.strip() for each in header]
    volumes = [each for each in names if each.lower().startswith("volume")]
    by_lower = {each.lower(): each for each in names}
    wanted = {"ts": "date", **{each: each for each in ("symbol", "open", "high", "low", "close")}}
    if len(volumes) < 2 or not all(each in by_lower for each in wanted.values()):
        return {}
    return {target: by_lower[name] for target, name in wanted.items()} | {
        "volume": volumes[0],
        "quote_volume": volumes[1],
    }


def _is_kraken(rows: list[list[str]]) -> bool:
    width = [row for row in rows if len(row) == 3]
    return len(width) > 0.5 * len(rows) and re.fullmatch(r"\d{9,10}(\.\d+)?", width[0][0]) is not None


def _is_bitfinex(rows: list[list[str]]) -> bool:
    candles = [[float(each) for each in row] for row in rows if len(row) == 6 and re.fullmatch(r"\d{12,13}", row[0])]
    ordered = [c for c in candles if c[3] >= max(c[1], c[2], c[4]) and c[4] <= min(c[1], c[2])]
    if len(candles) <= 0.5 * len(rows) or len(ordered) < 0.9 * len(candles):
        return False
    # Flat bars fit every order; some bar must contradict open, high, low, close.
    return any(c[2] < max(c[1], c[3], c[4]) or c[3] > min(c[1], c[4]) for c in candles)


def _split(line: str, separator: str) -> list[str]:
    return [each.strip() for each in next(csv.reader([line], delimiter=separator), [])]


def _targets(header: Sequence[str], columns: dict[str, str]) -> list[str]:
    target_of = {name.strip(): target for target, name in columns.items()}
    return [target_of.get(name, f"_{n}") for n, name in enumerate(header)]


def _layout(names: Sequence[str], mapping: CsvMapping) -> Layout:
    """Return the layout of target columns; names that begin with an underscore are not kept."""
    keep = tuple(name for name in names if not name.startswith("_"))
    types: dict[str, pl.DataType] = {
        name: pl.Float64() if name in _FLOATS else pl.Boolean() if name == "maker_buys" else pl.String()
        for name in names
    }
    if "trades" in types:
        types["trades"] = pl.Float64()  # some vendors write counts as 12.0; cast to integers later
    required = tuple(name for name in keep if name in (*REQUIRED[BARS.name], *_TRADE_COLUMNS, "symbol", "interval"))
    return Layout(types, required, keep, mapping.separator, decimal_comma=mapping.decimal == ",")


def _head(probe: FileProbe, layout: Layout, skip_lines: int) -> pl.DataFrame:
    """Return the first rows that parse.

    Raises:
        RejectedFileError: `empty`, there is a header and nothing else.
    """
    text = probe.head[: probe.head.rfind(b"\n") + 1] or probe.head
    first = next(read_sieves([text], layout, skip_lines=skip_lines), None)
    if first is None and len(probe.lines) <= skip_lines:
        raise RejectedFileError("empty", "a header without rows", where=probe.name, hint="Export it again.")
    return first.rows if first is not None else pl.DataFrame()


def head_times(head: pl.DataFrame, mapping: CsvMapping, where: str) -> pl.DataFrame:
    """Return `ts` in UTC, and `symbol` if present, of the first rows."""
    columns = [name for name in ("symbol", "ts") if name in head.columns]
    if "ts" not in columns or head.height == 0:
        return pl.DataFrame(schema={"ts": TIME})
    rows = head.select(columns).with_row_index(ROW_NUMBER)
    sieve = Sieve(rows, lambda failing: failing["ts"].cast(pl.String))
    Times(mapping.time, mapping.zone, where=where).read(sieve)
    return sieve.rows.select(columns)
