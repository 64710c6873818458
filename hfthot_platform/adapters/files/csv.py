"""Any vendor's text of separated values: by a declared mapping, by a preset, or by the usual column names.

Presets, recognised by content:

- `kraken_trades`: no header; unix seconds, price, volume; the symbol is the file's name;
- `kraken_ohlcvt`: no header; unix seconds, open, high, low, close, volume, number of trades;
- `bitfinex_candles`: no header; milliseconds, open, CLOSE, HIGH, LOW, volume;
- `plain_bars`: no header; a time (or a day and a time of day), open, high, low, close, volume;
- `cryptodatadownload`: a banner line, then times, symbol, open, high, low, close and two volumes, newest first;
- `yfinance`: three lines of header (Price, Ticker, Date);
- `header`: a header with the usual names, among remarks and banners.

The venue comes from the mapping, the preset, a column, or a folder or file name that is a venue's (`kraken/...`,
`Coinbase_BTCUSD_1h.csv`); a file of unknown venue or symbol is rejected with the way to declare it.
"""

from __future__ import annotations

import csv
import re
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Final

import polars as pl

from hfthot_platform.adapters.files.adapter import FileProbe, Recognised
from hfthot_platform.adapters.files.canonical import (
    CRYPTO_BEGINS,
    CRYPTO_VENUES,
    REQUIRED,
    bar_interval,
    canonical_batches,
    is_crypto,
    needs_unit,
)
from hfthot_platform.adapters.files.columns import (
    match_columns,
    normalised,
    refuse_by_name,
    refuse_other_tables,
    words_of_side,
)
from hfthot_platform.adapters.files.containers import HEAD_BYTES
from hfthot_platform.adapters.files.delimited import Layout, Sieve, file_blocks, read_sieves
from hfthot_platform.adapters.files.mapping import CsvMapping
from hfthot_platform.adapters.files.times import TIME, Times, join_day_and_clock
from hfthot_platform.adapters.ports import BATCH_ROWS, Batch, Progress, no_progress
from hfthot_platform.core.errors import BadRequestError, RejectedFileError
from hfthot_platform.domain.contracts.market import BARS, BARS_1M, TRADES
from hfthot_platform.domain.contracts.model import ROW_NUMBER
from hfthot_platform.domain.market.symbols import find_in_name, find_with_minutes, from_vendor

__all__ = [
    "Csv",
    "CsvMapping",
    "complete",
    "head_times",
    "is_in_order",
    "type_of",
    "venue_in_path",
]

_FLOATS: Final = frozenset({"open", "high", "low", "close", "volume", "quote_volume", "buy_volume", "price", "amount"})
#: Names of exchanges in a column, where they are not the venue's.
_EXCHANGES: Final = {
    "binance-futures": "binance_usdm",
    "binance-delivery": "binance_coinm",
    "binance_futures": "binance_usdm",
    "binance_delivery": "binance_coinm",
    "okex": "okx",
    "okex-swap": "okx",
    "okex-futures": "okx",
    "coinbase-pro": "coinbase",
    "gdax": "coinbase",
    "huobi": "htx",
    "huobi-dm": "htx",
    "huobi-dm-swap": "htx",
    "cryptofacilities": "kraken_futures",
    "bybit-spot": "bybit",
    "gate-io": "gateio",
    "kraken-futures": "kraken_futures",
}
_NUMBER: Final = re.compile(r"[-+]?(\d+\.?\d*|\.\d+)([eE][-+]?\d+)?|nan|inf", re.IGNORECASE)
_TRADE_COLUMNS: Final = ("ts", "price", "amount")
_BAR_COLUMNS: Final = ("ts", "open", "high", "low", "close", "volume")
_KRAKEN: Final = CsvMapping(table="market.trades", venue="kraken", columns=_TRADE_COLUMNS)
_KRAKEN_BARS: Final = CsvMapping(venue="kraken", columns=(*_BAR_COLUMNS, "trades"))
_BITFINEX: Final = CsvMapping(venue="bitfinex", columns=("ts", "open", "close", "high", "low", "volume"))
#: A header is looked for in so many lines, and choices are made by so many rows.
_HEADER_LINES: Final = 25
_SAMPLE_ROWS: Final = 500


@dataclass(frozen=True)
class _ReadingPlan:
    """How a text is read."""

    preset: str
    mapping: CsvMapping
    names: list[str]
    #: Lines before the first row.
    skip_lines: int
    #: The header; empty where there is none.
    header: Sequence[str] = ()


class Csv:
    """Reads text of separated values."""

    name = "csv"

    def recognise(self, probe: FileProbe) -> Recognised | None:
        if not probe.is_text:
            return None
        plan = _declared(probe) if probe.declared.columns is not None else _preset(probe)
        if plan is None:
            return None
        mapping = _spelled(plan, probe)
        names = _fitted(plan, mapping, probe)
        layout = _layout(names, mapping)
        head = _head(probe, layout, plan.skip_lines)
        columns = dict(zip(plan.names, plan.header, strict=False))
        mapping, table = complete(mapping, probe, layout.keep, head, columns)
        return Recognised(
            self,
            plan.preset,
            table,
            mapping.venue,
            mapping.symbol,
            {"mapping": mapping, "layout": layout, "skip_lines": plan.skip_lines},
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
        sieves = read_sieves(
            file_blocks(probe),
            layout,
            skip_lines=skip_lines,
            end="sound" if probe.checks_its_end or mapping.complete else "judged",
            progress=progress,
        )
        yield from canonical_batches(sieves, mapping, probe, claim, source_ref, batch_rows)


def complete(
    mapping: CsvMapping,
    probe: FileProbe,
    targets: Sequence[str],
    head: pl.DataFrame,
    columns: Mapping[str, str] | None = None,
) -> tuple[CsvMapping, str]:
    """Fill in what a mapping leaves open, and return it with the target table.

    Args:
        mapping: what is declared or preset.
        probe: the file; names of folders and files may tell venue and symbol.
        targets: target columns that the file has.
        head: its first rows as target columns, for the interval.
        columns: the file's name of each target, where it has names.

    Raises:
        RejectedFileError: `wrong_schema`, `unknown_venue`, `unknown_symbol`, or an interval's trouble.
    """
    update: dict[str, object] = {}
    is_bars = mapping.table in (BARS.name, BARS_1M.name) or (mapping.table is None and "open" in targets)
    refuse_by_name(probe)
    if mapping.venue is None:
        venue = venue_in_path(probe)
        if venue is None:
            raise RejectedFileError(
                "unknown_venue",
                "nothing says which venue the file is from",
                where=probe.name,
                hint=f"Declare `venue` in {probe.name}.mapping.yaml, put it into the file's name (kraken_BTCEUR.csv), "
                "or `hfthot ingest` a folder with its name.",
            )
        update["venue"] = venue
    named = {target: normalised(name) for target, name in (columns or {}).items()}
    if mapping.perpetual is None and (
        named.get("symbol") == "contract" or _is_of_bybit_contracts(mapping, update, columns)
    ):
        update["perpetual"] = True
    symbol = mapping.symbol
    mapping = mapping.model_copy(update=update)
    if "side" in targets and not mapping.sides:
        update["sides"] = words_of_side(named, mapping.venue or "")
    size = named.get("volume" if is_bars else "amount")
    if mapping.venue == "bitmex" and size in ("homenotional", "home_notional"):
        if mapping.amount_unit is None:
            update["amount_unit"] = "base"
        if is_bars and "stamp" not in mapping.model_fields_set:
            update["stamp"] = "close"  # its buckets bear the time of their end
    with_minutes = find_with_minutes(probe.inner_name, mapping.venue or "") if is_bars else None
    if symbol is None and "symbol" not in targets:
        symbol = with_minutes[0] if with_minutes else find_in_name(probe.inner_name, mapping.venue or "")
    if symbol is not None:
        try:
            update["symbol"] = from_vendor(symbol, perpetual=mapping.is_perpetual, venue=mapping.venue or "")
        except BadRequestError as error:
            raise RejectedFileError("unknown_symbol", error.what, where=probe.name, hint=error.hint) from error
    elif "symbol" not in targets:
        raise RejectedFileError(
            "unknown_symbol",
            "neither a column nor the file's name gives the symbol",
            where=probe.name,
            hint=f"Declare `symbol` in {probe.name}.mapping.yaml.",
        )
    table = mapping.table or (BARS.name if is_bars else TRADES.name)
    has_time = "ts" in targets or "date" in targets or ("time" in targets and mapping.date is not None)
    missing = [name for name in REQUIRED[table] if name not in targets and not (name == "ts" and has_time)]
    if missing == ["volume"]:
        if mapping.volume != "none":
            raise RejectedFileError(
                "wrong_schema",
                f"no column for volume of {table}",
                where=probe.name,
                hint=f"If the file has none, declare `volume: none` in {probe.name}.mapping.yaml; otherwise "
                "name it in `columns`.",
            )
        missing = []
    if missing:
        raise RejectedFileError(
            "wrong_schema",
            f"no column for {', '.join(missing)} of {table}",
            where=probe.name,
            hint="Declare `columns` in the mapping.",
        )
    if is_bars and "interval" not in targets:
        wanted = mapping.interval or ("1m" if table == BARS_1M.name else None)
        times = head_times(head, mapping, probe.name)
        symbol = mapping.model_copy(update=update).symbol
        if symbol and times.height and is_crypto(symbol, str(update.get("venue") or mapping.venue)):
            early = times.filter(pl.col("ts") < CRYPTO_BEGINS)
            if early.height > 0.5 * times.height:
                raise RejectedFileError(
                    "time_too_early",
                    f"bars of {symbol} at {early['ts'][0]:%Y-%m-%d %H:%M}, before there was a market for crypto",
                    where=probe.name,
                    hint="Check whether digits of the times are missing, or declare `time` in the mapping.",
                )
        minutes = ("1mo" if with_minutes[1] == 43_200 else str(with_minutes[1])) if with_minutes else None
        interval = bar_interval(times, probe.inner_name, declared=wanted, minutes=minutes, where=probe.name)
        update["interval"] = interval
        table = BARS_1M.name if interval == "1m" else BARS.name
    mapping = mapping.model_copy(update=update)
    if mapping.symbol and (why := needs_unit(mapping.symbol, mapping, table)):
        raise RejectedFileError(
            "unknown_amount_unit",
            why,
            where=probe.name,
            hint=f"Declare `amount_unit` in {probe.name}.mapping.yaml: base, quote, or contracts with contract_size "
            "and contract_unit.",
        )
    return mapping, table


def _is_of_bybit_contracts(
    mapping: CsvMapping, update: Mapping[str, object], columns: Mapping[str, str] | None
) -> bool:
    """Return whether trades are those of Bybit's archive of contracts: that of its spot market has no `trdMatchID`."""
    venue = update.get("venue") or mapping.venue
    return venue == "bybit" and (columns or {}).get("trade_id", "").lower() == "trdmatchid"


def venue_in_path(probe: FileProbe) -> str | None:
    """Return the venue that one of the nearest folders, or a part of the file's name, is called after."""
    folders = [parent.name.lower() for parent in list(probe.path.parents)[:3]]
    words = re.split(r"[-_. ]", probe.inner_name.lower())
    venue = next((word for word in [*folders, *words] if word in CRYPTO_VENUES), None)
    futures = re.search(r"-futures\b", probe.inner_name) or "futures" in folders
    return "binance_usdm" if venue == "binance" and futures else venue


def _declared(probe: FileProbe) -> _ReadingPlan:
    mapping = probe.declared
    columns = mapping.columns
    assert columns is not None
    lines = probe.lines
    skip = mapping.skip_lines
    if not skip and lines and re.match(r"(?i)sep=.$", lines[0].strip().strip('"')):
        skip = 1
    if mapping.comment:
        # Remarks are taken out after the lines that are skipped.
        while not isinstance(columns, dict) and skip < len(lines) and lines[skip].lstrip().startswith(mapping.comment):
            skip += 1
    if not isinstance(columns, dict):
        names = [name or f"_{n}" for n, name in enumerate(columns)]
        return _ReadingPlan("mapping", mapping, names, skip)
    while skip < len(lines) - 1 and mapping.skip_lines == 0 and _is_remark(lines[skip], mapping):
        skip += 1
    separator = mapping.separator or (_separator(lines[skip]) if skip < len(lines) else ",")
    header = _split(lines[skip], separator) if skip < len(lines) else []
    absent = [name for name in columns.values() if name.strip() not in header]
    if absent:
        raise RejectedFileError(
            "wrong_schema",
            f"the header has no column {', '.join(map(repr, absent))}; it has {', '.join(map(repr, header))}",
            where=probe.name,
            hint="Correct `columns` in the mapping (`skip_lines` if the header comes later), or the file.",
        )
    rows = _rows(lines[skip + 1 :], separator)
    places: dict[str, int] = {}
    for target, name in columns.items():
        same = [place for place, column in enumerate(header) if column == name.strip()]
        filled = [place for place in same if any(place < len(row) and row[place].strip() for row in rows)]
        places[target] = (filled or same)[0]
    refuse_other_tables(header, rows, probe, bars="open" in columns or "close" in columns)
    return _ReadingPlan(
        "mapping", mapping.over(CsvMapping(separator=separator)), _targets(header, places), skip + 1, header
    )


def _preset(probe: FileProbe) -> _ReadingPlan | None:
    lines = probe.lines
    skip = probe.declared.skip_lines
    # The header, if any, is within the first lines; banners and remarks may stand above it.
    for index, line in enumerate(lines[skip : skip + _HEADER_LINES], start=skip):
        separator = probe.declared.separator or _separator(line)
        header = _split(line, separator)
        if len(header) < 3:
            continue
        rows = _rows(lines[index + 1 :], separator)
        if (several := _yfinance(header, lines[index : index + 3], separator)) is not None:
            names, symbol = several
            mapping = probe.declared.over(CsvMapping(separator=separator, symbol=symbol))
            return _ReadingPlan("yfinance", mapping, _targets(names, match_columns(names)), index + 3, names)
        matched = match_columns(header, rows)
        if not matched:
            if _is_header(header):
                refuse_by_name(probe)
                refuse_other_tables(header, rows, probe)
            continue
        is_bars = "open" in matched
        refuse_other_tables(header, rows, probe, bars=is_bars)
        preset = "cryptodatadownload" if _is_cryptodatadownload(header) else "header"
        defaults = CsvMapping(separator=separator)
        if (venue := _exchange(header, rows)) is not None:
            defaults = defaults.model_copy(update={"venue": venue})
        if (zone := _zone_in(header[matched.get("ts", matched.get("date", 0))])) is not None:
            defaults = CsvMapping(zone=zone).over(defaults)
        mapping = probe.declared.over(defaults)
        return _ReadingPlan(preset, mapping, _targets(header, matched), index + 1, header)
    return _headless(probe)


def _headless(probe: FileProbe) -> _ReadingPlan | None:
    """Recognise numbers without a header by their shape."""
    skip = probe.declared.skip_lines
    lines = probe.lines[skip:]
    separator = probe.declared.separator or (_separator(lines[0]) if lines else ",")
    fields = [row for row in _rows(lines, separator) if row]
    numeric = [row for row in fields if all(_NUMBER.fullmatch(cell) for cell in row)]
    if len(numeric) >= 0.5 * len(fields) and numeric:
        for preset, mapping, fits in (
            ("kraken_trades", _KRAKEN, _is_kraken(numeric)),
            ("kraken_ohlcvt", _KRAKEN_BARS, _is_kraken_bars(numeric)),
            ("bitfinex_candles", _BITFINEX, _is_bitfinex(numeric)),
        ):
            if fits:
                assert isinstance(mapping.columns, tuple)
                full = probe.declared.over(mapping.model_copy(update={"separator": separator}))
                return _ReadingPlan(preset, full, [column or "" for column in mapping.columns], skip)
    names = _plain_bars(fields)
    if names is None:
        return None
    return _ReadingPlan("plain_bars", probe.declared.over(CsvMapping(separator=separator)), names, skip)


def _plain_bars(rows: list[list[str]]) -> list[str] | None:
    """Return the targets of rows of a time, open, high, low, close and perhaps volume, if that fits all of them."""
    if len(rows) < 2:
        return None
    width = len(rows[0])
    begin = 2 if len(rows[0]) > 1 and _DAY_ALONE.fullmatch(rows[0][0]) and _CLOCK_ALONE.fullmatch(rows[0][1]) else 1
    if width - begin not in (4, 5, 6) or not _TIME_LIKE.match(rows[0][0]):
        return None
    try:
        values = [[float(cell) for cell in row[begin : begin + 4]] for row in rows if len(row) == width]
    except ValueError:
        return None
    if len(values) < 0.9 * len(rows) or not is_in_order(values, (0, 1, 2, 3)):
        return None
    names = ["ts"] if begin == 1 else ["date", "time"]
    return [*names, "open", "high", "low", "close", *["volume", "_rest"][: width - begin - 4]]


_TIME_LIKE: Final = re.compile(r"\d{10}|\d{13}|\d{4}[-./]\d|\d{1,2}[-./]\d{1,2}[-./]\d|(19|20)\d{6}")
_DAY_ALONE: Final = re.compile(r"(19|20)\d{6}|\d{4}[-./]\d{1,2}[-./]\d{1,2}|\d{1,2}[-./]\d{1,2}[-./]\d{2,4}")
_CLOCK_ALONE: Final = re.compile(r"\d{1,2}:\d{2}(:\d{2}(\.\d+)?)?|\d{4}|\d{6}")


def is_in_order(rows: Sequence[Sequence[float]], order: Sequence[int]) -> bool:
    """Return whether open, high, low, close stand at these places of (nearly) all rows."""
    fits = 0
    known = [row for row in rows if not any(value != value for value in row)]  # noqa: PLR0124 - NaN
    for row in known:
        opened, high, low, closed = (row[place] for place in order)
        fits += high >= max(opened, low, closed) and low <= min(opened, closed)
    return bool(known) and fits >= 0.98 * len(known)


def _yfinance(header: list[str], lines: list[str], separator: str) -> tuple[list[str], str | None] | None:
    """Return the names and the symbol of a three-line header (Price / Ticker / Date)."""
    if header[0] != "Price" or len(lines) < 3:
        return None
    second, third = _split(lines[1], separator), _split(lines[2], separator)
    if second[:1] != ["Ticker"] or third[:1] not in (["Date"], ["Datetime"]):
        return None
    tickers = set(second[1:])
    return (["Date", *header[1:]], tickers.pop()) if len(tickers) == 1 else None


def _is_header(header: list[str]) -> bool:
    return sum(bool(re.match(r"[<A-Za-z_]", name)) for name in header) > 0.5 * len(header)


def _is_cryptodatadownload(header: list[str]) -> bool:
    names = [name.lower() for name in header]
    return sum(name.startswith("volume") for name in names) >= 2 and {"date", "symbol", "open"} <= set(names)


def _exchange(header: list[str], rows: list[list[str]]) -> str | None:
    """Return the venue that a column named exchange has in all rows."""
    place = next((n for n, column in enumerate(header) if column.lower() in ("exchange", "venue")), None)
    names = set() if place is None else {row[place].strip().lower() for row in rows if place < len(row)}
    if len(names) != 1:
        return None
    name = names.pop()
    venue = _EXCHANGES.get(name, name.replace("-", "_"))
    return venue if venue in CRYPTO_VENUES else None


def _zone_in(name: str) -> str | None:
    """Return the zone that the name of a time column has in brackets: `Time (EET)`."""
    found = re.search(r"\((UTC|GMT|EET|CET|EST|MST|HST|WET|[A-Z][a-z]+/[A-Za-z_]+)\)", name)
    return found[1] if found else None


def _is_kraken(rows: list[list[str]]) -> bool:
    width = [row for row in rows if len(row) == 3]
    return len(width) > 0.5 * len(rows) and re.fullmatch(r"\d{9,10}(\.\d+)?", width[0][0]) is not None


def _is_kraken_bars(rows: list[list[str]]) -> bool:
    bars = [row for row in rows if len(row) == 7 and re.fullmatch(r"\d{10}", row[0]) and row[6].isdecimal()]
    return len(bars) > 0.9 * len(rows) and is_in_order(
        [[float(cell) for cell in row[1:5]] for row in bars], (0, 1, 2, 3)
    )


def _is_bitfinex(rows: list[list[str]]) -> bool:
    candles = [[float(cell) for cell in row] for row in rows if len(row) == 6 and re.fullmatch(r"\d{12,13}", row[0])]
    ordered = [c for c in candles if c[3] >= max(c[1], c[2], c[4]) and c[4] <= min(c[1], c[2])]
    if len(candles) <= 0.5 * len(rows) or len(ordered) < 0.9 * len(candles):
        return False
    # Flat bars fit every order; some bar must contradict open, high, low, close.
    return any(c[2] < max(c[1], c[3], c[4]) or c[3] > min(c[1], c[4]) for c in candles)


def _separator(line: str) -> str:
    """Return what separates the fields of a line: the most frequent of the usual characters."""
    return max(",;\t|", key=line.count)


def _split(line: str, separator: str) -> list[str]:
    return [cell.strip() for cell in next(csv.reader([line], delimiter=separator), [])]


def _rows(lines: Sequence[str], separator: str) -> list[list[str]]:
    return [row for line in lines[:_SAMPLE_ROWS] if line.strip() and (row := _split(line, separator))]


def _is_remark(line: str, mapping: CsvMapping) -> bool:
    text = line.strip()
    return (
        not text or text.startswith(mapping.comment or ("#", "//")) or re.match(r"(?i)\"?sep=.\"?$", text) is not None
    )


def _targets(header: Sequence[str], places: dict[str, int]) -> list[str]:
    target_at = {place: target for target, place in places.items()}
    return [target_at.get(place, f"_{place}") for place in range(len(header))]


def _spelled(plan: _ReadingPlan, probe: FileProbe) -> CsvMapping:
    """Fill in how numbers are written, by the first rows.

    Raises:
        RejectedFileError: `ambiguous_number`, a comma may be a decimal point or group thousands.
    """
    mapping = plan.mapping
    lines = probe.lines[plan.skip_lines :]
    separator = mapping.separator or _separator(next((line for line in lines if line.strip()), ","))
    mapping = CsvMapping(separator=separator).over(mapping) if mapping.separator is None else mapping
    if mapping.decimal is not None:
        return mapping
    rows = _rows(lines, separator)
    cells = [
        row[place].strip().lstrip("+-$€£¥₿")
        for row in rows
        for place, name in enumerate(plan.names)
        if name in _FLOATS and place < len(row) and "," in row[place]
    ]
    if not cells:
        return mapping
    commas = any(re.fullmatch(r"\d+,(\d{1,2}|\d{4,})|0,\d+|\d{1,3}(\.\d{3})+,\d+", cell) for cell in cells)
    groups = any(re.fullmatch(r"\d{1,3}(,\d{3})+\.\d*|\d{1,3}(,\d{3}){2,}", cell) for cell in cells)
    points = any(
        re.fullmatch(r"[+-]?\d+\.(\d{1,2}|\d{4,})", row[place].strip())
        for row in rows
        for place, name in enumerate(plan.names)
        if name in _FLOATS and place < len(row)
    )
    if commas and not groups and not points:
        return CsvMapping(decimal=",").over(mapping)
    if groups or points or mapping.thousands == ",":
        return mapping
    raise RejectedFileError(
        "ambiguous_number",
        f"{cells[0]!r} may be a decimal number, or may have a comma as thousands separator",
        where=probe.name,
        hint=f"Declare `decimal: ','` or `decimal: '.'` in {probe.name}.mapping.yaml.",
    )


def _fitted(plan: _ReadingPlan, mapping: CsvMapping, probe: FileProbe) -> list[str]:
    """Return the names of the columns as the rows have them: rows may have one more or fewer than the header.

    A separator may end each row, or the header; a row may begin with its number, which the header leaves out.
    """
    names = list(plan.names)
    if isinstance(mapping.columns, tuple) and plan.preset != "mapping":
        return names
    rows = _rows(
        [line for line in probe.lines[plan.skip_lines :] if not _is_remark(line, mapping)], mapping.separator or ","
    )
    widths = Counter(map(len, rows))
    if not widths:
        return names
    width = widths.most_common(1)[0][0]
    typical = [row for row in rows if len(row) == width]
    while width < len(names) and names[-1].startswith("_") and widths.get(len(names), 0) == 0:
        names.pop()
    if width == len(names) + 1:
        if all(not row[-1] for row in typical):
            names.append("_end")
        elif all(row[0].isdecimal() for row in typical) and not isinstance(plan.mapping.columns, tuple):
            names.insert(0, "_number")
    return names


def _layout(names: Sequence[str], mapping: CsvMapping) -> Layout:
    """Return the layout of target columns; names that begin with an underscore are not kept."""
    keep = tuple(name for name in names if not name.startswith("_"))
    types = {name: type_of(name) for name in names}
    return Layout(
        types,
        tuple(name for name in keep if name in _REQUIRED),
        keep,
        mapping.separator or ",",
        mapping.decimal or ".",
        mapping.thousands,
        mapping.comment,
    )


_REQUIRED: Final = frozenset({*REQUIRED[BARS.name], *_TRADE_COLUMNS, "date", "time", "symbol", "interval"})


def type_of(target: str) -> pl.DataType:
    """Return the type that a target's cells are parsed to."""
    # Some vendors write counts as 12.0; cast to integers later.
    if target in _FLOATS or target == "trades":
        return pl.Float64()
    return pl.Boolean() if target == "maker_buys" else pl.String()


def _head(probe: FileProbe, layout: Layout, skip_lines: int) -> pl.DataFrame:
    """Return the first rows that parse.

    Raises:
        RejectedFileError: `empty`, there is a header and nothing else.
    """
    text = probe.head[: probe.head.rfind(b"\n") + 1] if len(probe.head) >= HEAD_BYTES else probe.head
    first = next(read_sieves([text], layout, skip_lines=skip_lines), None)
    if first is None and len(probe.lines) <= skip_lines:
        raise RejectedFileError("empty", "the file has a header but no rows", where=probe.name, hint="Export it again.")
    return first.rows if first is not None else pl.DataFrame()


def head_times(head: pl.DataFrame, mapping: CsvMapping, where: str) -> pl.DataFrame:
    """Return `ts` in UTC, and `symbol` if present, of the first rows."""
    if head.height and {"date", "time"} & set(head.columns):
        head, _ = join_day_and_clock(head, mapping.date.isoformat() if mapping.date else None, short=None)
    columns = [name for name in ("symbol", "ts") if name in head.columns]
    if "ts" not in columns or head.height == 0:
        return pl.DataFrame(schema={"ts": TIME})
    if ROW_NUMBER not in head.columns:
        head = head.with_columns(pl.int_range(pl.len(), dtype=pl.Int64).alias(ROW_NUMBER))
    rows = head.select(*columns, ROW_NUMBER)
    sieve = Sieve(rows, lambda failing: failing["ts"].cast(pl.String))
    Times(mapping.time, mapping.zone, where=where, bars=True).read(sieve)
    return sieve.rows.select(columns)
