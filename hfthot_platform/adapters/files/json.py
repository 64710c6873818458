"""JSON as exchanges and tools write it: arrays, records, lines, and documents with a table somewhere inside.

- arrays: `[[ms, open, high, low, close, volume], ...]` in whatever order the values show (Bitfinex: open, close,
  high, low; Coinbase: low, high, open, close) or `columns` declares, klines of Binance, Bybit and Kraken,
  freqtrade's trades `[ms, id, type, side, price, amount, cost]`, Bitfinex's `[id, ms, amount, price]`;
- records: `[{...}, ...]`, and ccxt's trades, whose `info` has the exchange's own time;
- lines: one record or array on each, or one message of a stream with records inside;
- documents: a table under any key (`{"result": [...]}`), columns (`{"t": [...], "o": [...]}`), rows by time
  (Alpha Vantage), pandas' `split`, `columns` and `index`, Yahoo's chart.
"""

from __future__ import annotations

import codecs
import json
import re
from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import Any, Final

import polars as pl

from hfthot_platform.adapters.files.adapter import FileProbe, Recognised
from hfthot_platform.adapters.files.canonical import canonical_batches
from hfthot_platform.adapters.files.columns import (
    PRICES,
    match_columns,
    normalised,
    refuse_by_name,
    refuse_other_tables,
)
from hfthot_platform.adapters.files.csv import complete, is_in_order, type_of
from hfthot_platform.adapters.files.delimited import Layout, Sieve, file_blocks, read_sieves, read_values
from hfthot_platform.adapters.files.mapping import CsvMapping
from hfthot_platform.adapters.ports import BATCH_ROWS, Batch, Progress, no_progress
from hfthot_platform.core.errors import RejectedFileError
from hfthot_platform.domain.contracts.model import REJECTED_SCHEMA, ROW_NUMBER

__all__ = ["Json"]

_INT: Final = pl.Int64()
_FLOAT: Final = pl.Float64()
_TEXT: Final = pl.String()
_CCXT_SCHEMA: Final = {"ts": _INT, "trade_id": _TEXT, "symbol": _TEXT, "side": _TEXT, "price": _FLOAT, "amount": _FLOAT}
#: Elements of a JSON list decoded at once, and the most that one may be long.
_ELEMENTS: Final = 50_000
_LONGEST_ELEMENT: Final = 1 << 20
#: A document is needed whole, in memory.
_LARGEST_DOCUMENT: Final = 1 << 27
_SAMPLE: Final = 500
_BINANCE_INFO: Final = frozenset("apqT")
_MS: Final = (10**12, 10**14)
#: Orders of four prices: usual, Bitfinex (open, close, high, low), Coinbase (low, high, open, close).
_ORDERS: Final = (("open", "high", "low", "close"), ("open", "close", "high", "low"), ("low", "high", "open", "close"))
_BINANCE_KLINE: Final = (
    *("ts", "open", "high", "low", "close", "volume", None, "quote_volume", "trades", "buy_volume", None, None),
)
_PRICE_NAMES: Final = frozenset({"price", "px", "p", "open", "close", "c", "trade_price"})
#: Keys of a stream's message that name its channel, which may be that of one instrument.
_CHANNELS: Final = ("channel", "topic", "ch", "stream", "table")
_QUOTED: Final = re.compile(rb'"((?:[^"\\]|\\.)*)"')


class Json:
    """Reads JSON of every shape."""

    name = "json"

    def recognise(self, probe: FileProbe) -> Recognised | None:
        if not probe.is_text:
            return None
        head = probe.head.decode("utf-8-sig", errors="replace").lstrip()
        if head.startswith("{"):
            return self._records(probe, "lines") if _is_lines(probe) else self._document(probe)
        if re.match(r"\[\s*\{", head):
            return self._ccxt(probe) or self._records(probe, "records")
        if re.match(r"\[\s*\[?\s*[-\"\dn]", head):
            return self._arrays(probe)
        return None

    def read(
        self,
        probe: FileProbe,
        claim: Recognised,
        *,
        source_ref: str,
        batch_rows: int = BATCH_ROWS,
        progress: Progress = no_progress,
    ) -> Iterator[Batch]:
        mapping, layout, shape = (claim.details[name] for name in ("mapping", "layout", "shape"))
        assert isinstance(mapping, CsvMapping)
        if shape == "ccxt":
            sieves = _chunks(_elements(probe), _ccxt_sieve, progress)
        else:
            assert isinstance(layout, Layout)
            if shape == "flat":
                # A complete array ends with brackets, so a row without one is cut off whatever the container.
                sieves = read_sieves(_array_lines(file_blocks(probe)), layout, end="cut", progress=progress)
            else:
                keys = claim.details["keys"]
                assert isinstance(keys, dict)
                elements = claim.details.get("elements") or _elements(probe)
                if shape == "messages":
                    elements = _unwrapped(_elements(probe), probe.name, keys)
                sieves = _chunks(iter(elements), _RecordReader(layout, keys), progress)  # type: ignore[call-overload]
        yield from canonical_batches(sieves, mapping, probe, claim, source_ref, batch_rows)

    def _arrays(self, probe: FileProbe) -> Recognised | None:
        rows = [element for element in _head_elements(probe) if isinstance(element, list)]
        if not rows:
            return None
        names = _array_names(rows, probe)
        if any(set(word) & set(b" ,[]\\") for word in _QUOTED.findall(probe.head)) or any(
            isinstance(cell, (list, dict)) for cell in rows[0]
        ):
            return self._claim(probe, names, rows, "arrays", shape="elements")
        return self._claim(probe, names, rows, _preset(names), shape="flat")

    def _records(self, probe: FileProbe, preset: str) -> Recognised | None:
        elements = _head_elements(probe)
        messages = [element for element in elements if isinstance(element, dict) and not _is_record(element)]
        if len(messages) > 0.5 * len(elements) and not match_columns(list(_flat(messages[0]))):
            rows = [row for message in messages for row in _inside(message)]
            if match_columns(list(dict.fromkeys(key for row in rows for key in row))) or probe.declared.columns:
                return self._table(probe, rows, "messages", shape="messages")
        return self._table(probe, elements, preset)

    def _table(
        self,
        probe: FileProbe,
        elements: Sequence[Any],
        preset: str,
        *,
        whole: Sequence[Any] | None = None,
        shape: str = "elements",
    ) -> Recognised | None:
        """Return the claim on rows that are records, or arrays within a document."""
        arrays = [element for element in elements if isinstance(element, list)]
        if len(arrays) > 0.5 * len(elements):
            names = _array_names(arrays, probe)
            return self._claim(probe, names, arrays, preset, shape="elements", elements=whole)
        records = [_flat(element) for element in elements if isinstance(element, dict)]
        if not records:
            return None
        keys = list(dict.fromkeys(key for record in records[:_SAMPLE] for key in record))
        rows = [[_text(record.get(key)) or "" for key in keys] for record in records[:_SAMPLE]]
        declared = probe.declared.columns
        if isinstance(declared, tuple):
            raise RejectedFileError(
                "wrong_schema",
                "the records have names, but `columns` is a list of positions",
                where=probe.name,
                hint="Declare `columns` as target: key.",
            )
        matched = declared or {target: keys[place] for target, place in match_columns(keys, rows).items()}
        if absent := [key for key in matched.values() if key not in keys]:
            raise RejectedFileError(
                "wrong_schema",
                f"the records do not have {', '.join(map(repr, absent))}; they have {', '.join(map(repr, keys))}",
                where=probe.name,
                hint="Correct `columns` in the mapping.",
            )
        refuse_by_name(probe)
        refuse_other_tables(keys, rows, probe, bars="open" in matched)
        if not matched:
            if _PRICE_NAMES & {normalised(key) for key in keys}:
                raise RejectedFileError(
                    "wrong_schema",
                    f"records with {', '.join(map(repr, keys))} are neither bars nor trades",
                    where=probe.name,
                    hint=f"Declare `columns` in {probe.name}.mapping.yaml (target: key).",
                )
            return None
        return self._claim(probe, list(matched), records, preset, shape=shape, keys=dict(matched), elements=whole)

    def _claim(
        self,
        probe: FileProbe,
        names: Sequence[str | None],
        sample: Sequence[Any],
        preset: str,
        *,
        shape: str,
        keys: dict[str, str] | None = None,
        elements: Sequence[Any] | None = None,
    ) -> Recognised:
        places = [name or f"_{place}" for place, name in enumerate(names)]
        keep = tuple(name for name in places if not name.startswith("_"))
        flexible = ("open", "high", "low", "close", "volume", "price", "amount")
        required = tuple(name for name in keep if name in ("ts", "date", "time", "symbol", *flexible))
        layout = Layout({name: type_of(name) for name in places}, required, keep)
        reader = _RecordReader(layout, keys or {name: place for place, name in enumerate(places) if name in keep})
        head = reader(list(sample[:_SAMPLE]), 1).rows
        mapping, table = complete(probe.declared, probe, keep, head, keys)
        details: dict[str, object] = {"mapping": mapping, "layout": layout, "shape": shape, "keys": reader.keys}
        if elements is not None:
            details["elements"] = elements
        return Recognised(self, preset, table, mapping.venue, mapping.symbol, details)

    def _ccxt(self, probe: FileProbe) -> Recognised | None:
        first = next(iter(_head_elements(probe)), None)
        if not isinstance(first, dict) or probe.declared.columns is not None:
            return None
        stamp = first.get("timestamp")
        if (
            not {"timestamp", "price", "amount"} <= first.keys()
            or not isinstance(stamp, int)
            or not _MS[0] < stamp < _MS[1]
        ):
            return None
        refuse_other_tables(list(first), [[_text(value) or "" for value in first.values()]], probe)
        info = first.get("info")
        preset = CsvMapping(table="market.trades", time="us")
        if isinstance(info, list) and len(info) in (6, 7):
            preset = preset.model_copy(update={"venue": "kraken"})
        elif isinstance(info, dict) and info.keys() >= _BINANCE_INFO:
            preset = preset.model_copy(update={"venue": "binance"})
        targets = (
            tuple(_CCXT_SCHEMA) if first.get("symbol") else tuple(name for name in _CCXT_SCHEMA if name != "symbol")
        )
        mapping, table = complete(probe.declared.over(preset), probe, targets, pl.DataFrame())
        details: dict[str, object] = {
            "mapping": mapping.model_copy(update={"time": "us"}),
            "layout": None,
            "shape": "ccxt",
        }
        return Recognised(self, "ccxt_trades", table, mapping.venue, mapping.symbol, details)

    def _document(self, probe: FileProbe) -> Recognised | None:
        data = b""
        for block in file_blocks(probe):
            data += block
            if len(data) > _LARGEST_DOCUMENT:
                raise RejectedFileError(
                    "too_large",
                    f"the file is one JSON document of more than {_LARGEST_DOCUMENT:,} bytes",
                    where=probe.name,
                    hint="Write JSON lines, CSV or Parquet.",
                )
        try:
            document = json.loads(data)
        except (ValueError, RecursionError):
            return None
        found = _find_table(document, probe)
        if found is None:
            return None
        rows, symbol = found
        if b'"category":"linear"' in data.replace(b" ", b"") and probe.declared.perpetual is None:
            # Bybit's answers name the market beside the pair.
            probe = replace(probe, declared=CsvMapping(perpetual=True).over(probe.declared))
        if symbol is not None and probe.declared.symbol is None:
            probe = replace(probe, declared=CsvMapping(symbol=symbol).over(probe.declared))
        return self._table(probe, rows[:_SAMPLE], "document", whole=rows)


def _preset(names: Sequence[str | None]) -> str:
    return "ohlcv_json" if "open" in names else "trades_json"


def _is_lines(probe: FileProbe) -> bool:
    """Return whether a text that begins with { has one record on each line."""
    lines = [line for line in probe.lines if line.strip()]
    try:
        return isinstance(json.loads(lines[0]), dict) and (
            lines[1].lstrip().startswith("{") if len(lines) > 1 else _is_record(json.loads(lines[0]))
        )
    except ValueError:
        return False


def _is_record(element: dict[str, Any]) -> bool:
    return not any(isinstance(value, (dict, list)) for value in element.values())


class _NoRows:
    """Stands for a message without records: a heartbeat, an acknowledgement."""


def _inside(message: Any, depth: int = 0) -> list[dict[str, Any]]:
    """Return the records within a message: those of its lists, or else of a record that is nested in it."""
    if depth > 5:
        return []
    if isinstance(message, list):
        records = [element for element in message if isinstance(element, dict)]
        return [row for record in records for row in _inside(record, depth + 1) or [record]]
    if not isinstance(message, dict):
        return []
    lists = [value for value in message.values() if isinstance(value, list)]
    nested = [value for value in message.values() if isinstance(value, dict)]
    rows = [row for part in lists for row in _inside(part, depth + 1)]
    rows = rows or [row for part in nested for row in _inside(part, depth + 1)]
    return rows or [record for record in nested if len(record) >= 3 and _is_record(record)]


def _unwrapped(messages: Iterator[Any], where: str, keys: dict[str, str]) -> Iterator[Any]:
    """Yield the records within messages that have some of the keys, and `_NoRows` for a message without any.

    Raises:
        RejectedFileError: `several_channels`, whose records do not name their instrument.
    """
    channels: set[str] = set()
    known = set(keys.values())
    for message in messages:
        if isinstance(message, _TruncatedTail):
            yield message
            continue
        rows = [record for record in _inside(message) if not known.isdisjoint(record)]
        if rows and "symbol" not in keys:
            channels |= {str(message[key]) for key in _CHANNELS if isinstance(message.get(key), str)}
            if len(channels) > 1:
                raise RejectedFileError(
                    "several_channels",
                    f"records of {' and '.join(sorted(channels))} do not name their instrument",
                    where=where,
                    hint="Write each channel to its own file.",
                )
        if rows:
            yield from rows
        else:
            yield _NoRows()


def _array_names(rows: Sequence[list[Any]], probe: FileProbe) -> list[str | None]:
    """Return the target of each position, as declared or as the values show.

    Raises:
        RejectedFileError: `wrong_schema`, no known order fits.
    """
    declared = probe.declared.columns
    width = len(rows[0])
    if isinstance(declared, tuple):
        if width != len(declared):
            raise _other_width(probe, f"arrays of {width} values, `columns` has {len(declared)}")
        return list(declared)
    if declared is not None:
        raise _other_width(probe, "arrays have no names")
    sample = [row for row in rows[:_SAMPLE] if len(row) == width]
    first = sample[0]
    if width in (6, 7) and str(first[3]).lower() in ("buy", "sell") and width == 7:
        return ["ts", "trade_id", None, "side", "price", "amount", None]
    if width in (6, 7) and str(first[3]).lower() in ("b", "s"):
        return ["price", "amount", "ts", "side", None, None, "trade_id"][:width]
    if width == 4 and _number(first[1]) > _MS[0]:
        return ["trade_id", "ts", "amount", "price"]
    tail = _tail(sample, width)
    if tail is None:
        what = f"JSON arrays of {width} values in no known order; bars have 5 to 9 or 12, trades 4, 6 or 7"
        raise _other_width(probe, what)
    return ["ts", *_price_order(sample, probe), *tail]


def _tail(rows: Sequence[list[Any]], width: int) -> tuple[str | None, ...] | None:
    """Return what follows the prices of bars, as their number and the first rows tell; None if nothing known does."""
    if width in (7, 8) and all(0 < _number(row[0]) <= _number(row[6]) <= 1.02 * _number(row[0]) for row in rows):
        # The time of the close, within a year of that of the opening: MEXC, and whoever cuts Binance's klines.
        return ("volume", None, "quote_volume")[: width - 5]
    if width == 8:
        # Kraken: the mean price, the volume, the number of trades.
        within = [min(map(_number, row[1:5])) <= _number(row[5]) <= max(map(_number, row[1:5])) for row in rows]
        counts = [_number(row[7]).is_integer() for row in rows]
        fits = [(a or _number(row[7]) == 0) and b for row, a, b in zip(rows, within, counts, strict=True)]
        return (None, "volume", "trades") if all(fits) else None
    tails: dict[int, tuple[str | None, ...]] = {
        5: (),
        6: ("volume",),
        7: ("volume", "quote_volume"),
        9: ("volume", None, "quote_volume", None),
        12: _BINANCE_KLINE[5:],
    }
    return tails.get(width)


def _price_order(rows: Sequence[list[Any]], probe: FileProbe) -> tuple[str, ...]:
    """Return the order of four prices that the values of the first rows allow."""
    prices = [[_number(cell) for cell in row[1:5]] for row in rows]
    known = [row for row in prices if not any(value != value for value in row)]  # noqa: PLR0124 - NaN
    usual = {"bitfinex": _ORDERS[1], "coinbase": _ORDERS[2]}.get(probe.declared.venue or "", _ORDERS[0])
    if all(len(set(row)) == 1 for row in known):
        return usual  # flat bars fit every order
    fits = [order for order in (usual, *_ORDERS) if is_in_order(known, [order.index(price) for price in PRICES])]
    if not fits:
        raise _other_width(probe, "the prices of the arrays are in no known order")
    return fits[0]


def _number(value: Any) -> float:
    try:
        return float(value)
    except (TypeError, ValueError):
        return float("nan")


def _other_width(probe: FileProbe, what: str) -> RejectedFileError:
    return RejectedFileError(
        "wrong_schema",
        what,
        where=probe.name,
        hint=f"Declare `columns` in {probe.name}.mapping.yaml as the list of what each position is (null skips one).",
    )


def _flat(record: dict[str, Any]) -> dict[str, Any]:
    """Return a record with the entries of nested records beside its own, as `outer.inner`."""
    if not any(isinstance(value, dict) for value in record.values()):
        return record
    flat: dict[str, Any] = {}
    for key, value in record.items():
        flat.update(
            {f"{key}.{inner}": content for inner, content in value.items()} if isinstance(value, dict) else {key: value}
        )
    return flat


def _text(value: Any) -> str | None:
    if value is None or isinstance(value, str):
        return value
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, (list, dict)):
        return json.dumps(value) if value else None
    return repr(value)


class _RecordReader:
    """Turns elements into a sieve of a layout's columns."""

    def __init__(self, layout: Layout, keys: dict[str, Any]) -> None:
        self._layout = layout
        #: Target -> key of a record, or position in an array.
        self.keys = keys

    def __call__(self, elements: list[Any], first: int) -> Sieve:
        cells: dict[str, list[str | None]] = {name: [] for name in self._layout.keep}
        places = [place for place, element in enumerate(elements) if not isinstance(element, _NoRows)]
        for element in (elements[place] for place in places):
            record = _flat(element) if isinstance(element, dict) else element
            for name, column in cells.items():
                column.append(_cell(record, self.keys[name]))
        rows = pl.DataFrame(
            {
                **{name: pl.Series(column, dtype=_TEXT) for name, column in cells.items()},
                ROW_NUMBER: pl.Series(places, dtype=_INT) + first,
            }
        )
        sieve = Sieve(rows, lambda failing: _as_json(elements, failing[ROW_NUMBER] - first))
        sieve.gaps += len(elements) - len(places)
        read_values(sieve, self._layout)
        return sieve


def _cell(record: Any, key: Any) -> str | None:
    if isinstance(record, dict):
        value = _text(record.get(key))
    elif isinstance(record, list) and isinstance(key, int) and key < len(record):
        value = _text(record[key])
    else:
        return None
    return None if value is None or not value.strip() else value.strip()


def _as_json(elements: list[Any], places: pl.Series) -> pl.Series:
    return pl.Series([json.dumps(elements[place]) for place in places], dtype=_TEXT)


def _array_lines(blocks: Iterator[bytes] | list[bytes]) -> Iterator[bytes]:
    """Turn a JSON list of flat lists into lines of separated values; a list without its end stays without one."""
    rest = b""
    for block in blocks:
        text = rest + block
        end = text.rfind(b"]") + 1
        rest = text[end:]
        if end:
            yield _as_lines(text[:end])
    if rest.strip():
        yield _as_lines(rest)


def _as_lines(text: bytes) -> bytes:
    # Values are numbers, ids and single words: no bracket, comma, quote or blank is ever part of one.
    flat = text.translate(None, b'[" \t\r\n').replace(b"null", b"").replace(b"None", b"")
    return flat.replace(b"]", b"\n").replace(b"\n,", b"\n").removeprefix(b",")


def _chunks(elements: Iterator[Any], to_sieve: Any, progress: Progress) -> Iterator[Sieve]:
    """Decode elements in portions; what follows the last complete one of a file that is cut off is set aside."""
    done = 0
    portion: list[Any] = []
    for element in elements:
        if isinstance(element, _TruncatedTail):
            rejected = pl.DataFrame(
                [(done + len(portion) + 1, "truncated_row", "the file ends within this element", element.text)],
                schema=REJECTED_SCHEMA,
                orient="row",
            )
            sieve = to_sieve(portion, done + 1)
            sieve.add_rejected(rejected)
            yield sieve
            return
        portion.append(element)
        if len(portion) == _ELEMENTS:
            yield to_sieve(portion, done + 1)
            done += len(portion)
            portion = []
            progress(done, None, "rows")
    if portion:
        yield to_sieve(portion, done + 1)
        progress(done + len(portion), None, "rows")


def _ccxt_sieve(elements: list[Any], first: int) -> Sieve:
    trades = [element if isinstance(element, dict) else {} for element in elements]
    rows = pl.DataFrame(
        {
            "ts": pl.Series([_event_us(trade) for trade in trades], dtype=_INT),
            "trade_id": _series(trades, "id", _TEXT),
            "symbol": _series(trades, "symbol", _TEXT),
            "side": _series(trades, "side", _TEXT),
            "price": _series(trades, "price", _FLOAT),
            "amount": _series(trades, "amount", _FLOAT),
            ROW_NUMBER: pl.int_range(first, first + len(elements), dtype=pl.Int64, eager=True),
        }
    )
    if rows["symbol"].null_count() == rows.height:
        rows = rows.drop("symbol")
    return Sieve(rows, lambda failing: _as_json(elements, failing[ROW_NUMBER] - first))


def _series(trades: list[dict[str, Any]], key: str, dtype: pl.DataType) -> pl.Series:
    # Some exports quote their numbers.
    text = pl.Series([_text(trade.get(key)) for trade in trades], dtype=_TEXT)
    return text if dtype == _TEXT else text.cast(dtype, strict=False)


def _event_us(trade: dict[str, Any]) -> int | None:
    """Return the event time in microseconds, from Kraken's own array where that is finer than ccxt's milliseconds."""
    stamp, info = trade.get("timestamp"), trade.get("info")
    if not isinstance(stamp, (int, float)):
        return None
    if isinstance(info, list) and len(info) > 2 and isinstance(info[2], (int, float)):
        us = round(info[2] * 1e6)
        if abs(us - stamp * 1000) < 1000:
            return us
    return round(stamp * 1000)


class _TruncatedTail:
    """The text after the last complete element of a file that ends too early."""

    def __init__(self, text: str) -> None:
        self.text = text


def _head_elements(probe: FileProbe) -> list[Any]:
    """Return the complete elements of the head."""
    elements = _decoded(iter([probe.head.decode("utf-8-sig", errors="replace")]), probe)
    found = [element for element in elements if not isinstance(element, _TruncatedTail)]
    return found[:_SAMPLE]


def _elements(probe: FileProbe) -> Iterator[Any]:
    """Yield the elements of a JSON list, or of JSON lines, one after the other, without holding the list."""
    decode = codecs.getincrementaldecoder("utf-8-sig")(errors="replace").decode
    yield from _decoded((decode(block) for block in file_blocks(probe, size=1 << 20)), probe)


def _decoded(texts: Iterator[str], probe: FileProbe) -> Iterator[Any]:
    decoder = json.JSONDecoder()
    buffer = ""
    started = False
    for text in texts:
        buffer += text
        if not started:
            buffer = buffer.lstrip()
            # The bracket of the list, unless each line is an element.
            buffer = buffer[1:] if re.match(r"\[\s*[\[{\]]", buffer) else buffer
            started = True
        position = 0
        while True:
            start = _skip(buffer, position)
            try:
                element, position = decoder.raw_decode(buffer, start)
            except (json.JSONDecodeError, RecursionError):
                break
            if position == len(buffer) and not isinstance(element, (dict, list)):
                position = start  # a number may go on in the next block
                break
            yield element
        buffer = buffer[position:]
        if len(buffer) > 2 * _LONGEST_ELEMENT:
            raise RejectedFileError(
                "malformed_json",
                f"no JSON value can be read at {buffer[:60]!r}",
                where=probe.name,
                hint="Export the file again.",
            )
    rest = buffer[_skip(buffer, 0) :].strip()
    if rest and rest != "]":
        yield _TruncatedTail(rest)


def _skip(text: str, position: int) -> int:
    while position < len(text) and text[position] in ", \t\r\n":
        position += 1
    return position


# --- tables within documents --------------------------------------------------------------------------------------


def _find_table(document: Any, probe: FileProbe) -> tuple[list[Any], str | None] | None:
    """Return the rows of the one table of a document, and the symbol that stands beside it.

    Raises:
        RejectedFileError: `several_tables`, there are two or more of like size.
    """
    tables = sorted(_tables(document, None, 0), key=lambda table: -len(table[0]))
    if not tables:
        return None
    if len(tables) > 1 and len(tables[1][0]) > 0.5 * len(tables[0][0]) and len(tables[1][0]) > 1:
        raise RejectedFileError(
            "several_tables",
            f"the document contains {len(tables)} tables",
            where=probe.name,
            hint="Write each to its own file.",
        )
    return tables[0]


def _tables(value: Any, symbol: str | None, depth: int) -> Iterator[tuple[list[Any], str | None]]:
    if isinstance(value, list):
        if value and all(isinstance(element, (dict, list)) for element in value[:_SAMPLE]):
            inner = value[0]
            if len(value) <= 2 and isinstance(inner, dict) and not _is_record(inner) and depth < 6:
                yield from _tables(inner, symbol, depth + 1)  # a list around one document
            else:
                yield value, symbol
        return
    if not isinstance(value, dict) or depth > 6:
        return
    symbol = next((value[key] for key in ("symbol", "ticker", "pair") if isinstance(value.get(key), str)), symbol)
    if isinstance(meta := value.get("meta"), dict) and isinstance(meta.get("symbol"), str):
        symbol = meta["symbol"]
    if (rows := _as_rows(value)) is not None:
        yield rows, symbol
        return
    for inner in value.values():
        yield from _tables(inner, symbol, depth + 1)


def _as_rows(value: dict[str, Any]) -> list[Any] | None:
    """Return the rows of a table that is written as an object, or None."""
    if isinstance(value.get("columns"), list) and isinstance(value.get("data"), list):
        index = value.get("index") or [None] * len(value["data"])
        names = [str(column) for column in value["columns"]]
        return [
            {**({} if key is None else {"index": key}), **dict(zip(names, row, strict=False))}
            for key, row in zip(index, value["data"], strict=False)
            if isinstance(row, list)
        ]
    indicators = value.get("indicators")
    if isinstance(value.get("timestamp"), list) and isinstance(indicators, dict):
        quotes = indicators.get("quote") or [{}]
        return _as_rows({"timestamp": value["timestamp"], **quotes[0]}) if isinstance(quotes[0], dict) else None
    lists = {key: cells for key, cells in value.items() if isinstance(cells, list)}
    lengths = {len(cells) for cells in lists.values()}
    scalars = all(not isinstance(cell, (dict, list)) for cells in lists.values() for cell in cells[:3])
    if len(lists) >= 3 and len(lengths) == 1 and lengths != {0} and scalars:
        return [dict(zip(lists, row, strict=True)) for row in zip(*lists.values(), strict=True)]
    inner = list(value.values())
    if len(inner) < 2 or not all(isinstance(record, dict) and _is_record(record) for record in inner):
        return None
    if match_columns(list(inner[0])) or match_columns(["timestamp", *inner[0]]):
        return [{"index": key, **record} for key, record in value.items()]  # rows by their time or number
    if match_columns(list(value)) or match_columns(["timestamp", *value]):
        keys = list(dict.fromkeys(key for record in inner for key in record))
        return [{"index": key, **{name: cells.get(key) for name, cells in value.items()}} for key in keys]
    return None
