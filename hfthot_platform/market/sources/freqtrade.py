"""Dumps of the freqtrade and ccxt world, and other columnar files with the usual column names.

- JSON arrays: `[[ms, open, high, low, close, volume], ...]` or `[[ms, id, type, side, price, amount, cost], ...]`;
- JSON of ccxt trades: `[{"timestamp": ..., "id": ..., "price": ..., "info": <as the exchange sent it>}, ...]`;
- Feather and Parquet: freqtrade's, or any whose columns have the usual or declared names.

The symbol is in the file's name (`XRP_ETH-trades`, `SOL_USDT_USDT-1m-futures`), in a column, or declared.
"""

from __future__ import annotations

import codecs
import json
import re
from collections.abc import Iterator
from typing import Any, Final

import polars as pl
import pyarrow as pa

from hfthot_platform.contracts.market import TRADES
from hfthot_platform.errors import RejectedFileError
from hfthot_platform.market.sources.base import (
    BATCH_ROWS,
    REJECTED_SCHEMA,
    ROW_NUMBER,
    Batch,
    FileProbe,
    Progress,
    Recognised,
    no_progress,
)
from hfthot_platform.market.sources.canonical import REQUIRED, Canonical, last_bar_open
from hfthot_platform.market.sources.csv import complete, match_names
from hfthot_platform.market.sources.delimited import Layout, Sieve, file_blocks, gather, read_sieves
from hfthot_platform.market.sources.mapping import CsvMapping

__all__ = ["Columnar", "FreqtradeJson"]

_INT: Final = pl.Int64()
_FLOAT: Final = pl.Float64()
_TEXT: Final = pl.String()
_BARS: Final = Layout(
    {"ts": _TEXT, "open": _FLOAT, "high": _FLOAT, "low": _FLOAT, "close": _FLOAT, "volume": _FLOAT},
    required=("ts",),
    keep=("ts", "open", "high", "low", "close", "volume"),
)
_TRADES: Final = Layout(
    {"ts": _TEXT, "trade_id": _TEXT, "_type": _TEXT, "side": _TEXT, "price": _FLOAT, "amount": _FLOAT, "_cost": _TEXT},
    required=("ts",),
    keep=("ts", "trade_id", "side", "price", "amount"),
)
_CCXT_SCHEMA: Final = {"ts": _INT, "trade_id": _TEXT, "symbol": _TEXT, "side": _TEXT, "price": _FLOAT, "amount": _FLOAT}
#: Elements of a JSON list decoded at once, and the most that one may be long.
_ELEMENTS: Final = 50_000
_LONGEST_ELEMENT: Final = 1 << 20
#: Candles that freqtrade keeps beside those of trades, in the same columns.
_NOT_TRADED: Final = re.compile(r"-(mark|index|premiumIndex|funding_rate)(?=[.-]|$)")
_BINANCE_INFO: Final = frozenset("apqT")


class FreqtradeJson:
    """Reads JSON arrays of bars or trades, and ccxt's dictionaries of trades."""

    name = "freqtrade"

    def recognise(self, probe: FileProbe) -> Recognised | None:
        if probe.container not in ("zip", "gzip", "text"):
            return None
        head = probe.head.decode("utf-8-sig", errors="replace").lstrip()
        if re.match(r"\[\s*\{", head):
            return self._ccxt(probe, head)
        row = re.match(r"\[\s*\[([^\[\]]*)\]", head)
        if row is None:
            return None
        width = row[1].count(",") + 1
        if width not in (6, 7):
            raise RejectedFileError(
                "wrong_schema",
                f"JSON arrays of {width} values; bars have 6, trades 7",
                where=probe.name,
                hint="Export it again from freqtrade.",
            )
        layout = _BARS if width == 6 else _TRADES
        _refuse_untraded(probe)
        first = next((each.rows for each in read_sieves(_array_lines([probe.head]), layout, trust_end=False)), None)
        head_rows = pl.DataFrame() if first is None else first
        mapping, table = complete(probe.declared, probe, layout.keep, head_rows)
        preset = "ohlcv_json" if width == 6 else "trades_json"
        return Recognised(self, preset, table, mapping.venue, mapping.symbol, {"mapping": mapping, "layout": layout})

    def read(
        self,
        probe: FileProbe,
        claim: Recognised,
        *,
        source_ref: str,
        batch_rows: int = BATCH_ROWS,
        progress: Progress = no_progress,
    ) -> Iterator[Batch]:
        mapping, layout = claim.details["mapping"], claim.details["layout"]
        assert isinstance(mapping, CsvMapping)
        canonical = Canonical(mapping, claim.table, source_ref=source_ref, where=probe.name)
        if isinstance(layout, Layout):
            # A complete array ends with brackets, so a row without one is cut off whatever the container.
            sieves = read_sieves(_array_lines(file_blocks(probe)), layout, trust_end=False, progress=progress)
        else:
            sieves = _ccxt_sieves(probe, progress)
        batches = gather((canonical.apply(each) for each in sieves), claim.table, source_ref, batch_rows)
        yield from last_bar_open(batches) if claim.table != TRADES.name and mapping.as_of is None else batches

    def _ccxt(self, probe: FileProbe, head: str) -> Recognised | None:
        try:
            first, _ = json.JSONDecoder().raw_decode(head[head.index("{") :])
        except ValueError:
            return None
        if not {"timestamp", "price", "amount"} <= first.keys():
            return None
        info = first.get("info")
        preset = CsvMapping(table="market.trades", time="us")
        if isinstance(info, list) and len(info) in (6, 7):
            preset = preset.model_copy(update={"venue": "kraken"})
        elif isinstance(info, dict) and info.keys() >= _BINANCE_INFO:
            preset = preset.model_copy(update={"venue": "binance"})
        targets = (
            tuple(_CCXT_SCHEMA) if first.get("symbol") else tuple(each for each in _CCXT_SCHEMA if each != "symbol")
        )
        mapping, table = complete(probe.declared.over(preset), probe, targets, pl.DataFrame())
        return Recognised(
            self, "ccxt_trades", table, mapping.venue, mapping.symbol, {"mapping": mapping, "layout": None}
        )


class Columnar:
    """Reads Parquet and Feather files by the names of their columns."""

    name = "columnar"

    def recognise(self, probe: FileProbe) -> Recognised | None:
        if probe.container not in ("parquet", "arrow"):
            return None
        _refuse_untraded(probe)
        names = _schema(probe).names
        declared = probe.declared.columns
        matched = declared if isinstance(declared, dict) else match_names(names)
        absent = [name for name in matched.values() if name not in names]
        if not matched or absent:
            raise RejectedFileError(
                "wrong_schema",
                f"no column {', '.join(absent)}"
                if absent
                else f"columns {', '.join(names)} are neither bars nor trades",
                where=probe.name,
                hint=f"Declare `columns` in {probe.name}.mapping.yaml (target: column).",
            )
        head = next(_frames(probe, matched), pl.DataFrame()).head(20_000)
        mapping, table = complete(probe.declared, probe, tuple(matched), head)
        return Recognised(
            self,
            f"{probe.container}_{'trades' if table == TRADES.name else 'bars'}",
            table,
            mapping.venue,
            mapping.symbol,
            {"mapping": mapping, "columns": matched},
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
        mapping, columns = claim.details["mapping"], claim.details["columns"]
        assert isinstance(mapping, CsvMapping)
        assert isinstance(columns, dict)
        canonical = Canonical(mapping, claim.table, source_ref=source_ref, where=probe.name)
        sieves = _columnar_sieves(probe, columns, claim.table, progress)
        batches = gather((canonical.apply(each) for each in sieves), claim.table, source_ref, batch_rows)
        yield from last_bar_open(batches) if claim.table != TRADES.name and mapping.as_of is None else batches


def _refuse_untraded(probe: FileProbe) -> None:
    if found := _NOT_TRADED.search(probe.inner_name):
        raise RejectedFileError(
            "unsupported_content",
            f"{found[1]} candles are not made of trades",
            where=probe.name,
            hint="There is no table for them.",
        )


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


def _ccxt_sieves(probe: FileProbe, progress: Progress) -> Iterator[Sieve]:
    done = 0
    elements: list[Any] = []
    for element in _elements(probe):
        if isinstance(element, _Cut):
            rejected = pl.DataFrame(
                [(done + len(elements) + 1, "truncated_row", "the file ends within this element", element.text)],
                schema=REJECTED_SCHEMA,
                orient="row",
            )
            sieve = _ccxt_sieve(elements, first=done + 1)
            sieve.add_rejected(rejected)
            yield sieve
            return
        elements.append(element)
        if len(elements) == _ELEMENTS:
            yield _ccxt_sieve(elements, first=done + 1)
            done += len(elements)
            elements = []
            progress(done, None, "rows")
    if elements:
        yield _ccxt_sieve(elements, first=done + 1)
        progress(done + len(elements), None, "rows")


def _ccxt_sieve(elements: list[Any], *, first: int) -> Sieve:
    trades = [each if isinstance(each, dict) else {} for each in elements]
    rows = pl.DataFrame(
        {
            "ts": pl.Series([_event_us(each) for each in trades], dtype=_INT),
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
    return Sieve(
        rows, lambda failing: pl.Series([json.dumps(elements[n - first]) for n in failing[ROW_NUMBER]], dtype=_TEXT)
    )


def _series(trades: list[dict[str, Any]], key: str, dtype: pl.DataType) -> pl.Series:
    values = [each.get(key) for each in trades]
    if dtype == _TEXT:
        return pl.Series([None if each is None else str(each) for each in values], dtype=_TEXT)
    # Some exports quote their numbers.
    return pl.Series([None if each is None else str(each) for each in values], dtype=_TEXT).cast(dtype, strict=False)


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


class _Cut:
    """The text after the last complete element of a file that ends too early."""

    def __init__(self, text: str) -> None:
        self.text = text


def _elements(probe: FileProbe) -> Iterator[Any]:
    """Yield the elements of a JSON list one after the other, without holding the list."""
    decode = codecs.getincrementaldecoder("utf-8-sig")(errors="replace").decode
    decoder = json.JSONDecoder()
    buffer = ""
    started = False
    for block in file_blocks(probe, size=1 << 20):
        buffer += decode(block)
        if not started:
            buffer = buffer.lstrip()[1:]
            started = True
        position = 0
        while True:
            start = _skip(buffer, position)
            try:
                element, position = decoder.raw_decode(buffer, start)
            except json.JSONDecodeError:
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
        yield _Cut(rest)


def _skip(text: str, position: int) -> int:
    while position < len(text) and text[position] in ", \t\r\n":
        position += 1
    return position


def _schema(probe: FileProbe) -> pa.Schema:
    try:
        if probe.container == "parquet":
            import pyarrow.parquet as pq

            return pq.read_schema(probe.path)
        with pa.ipc.open_file(pa.memory_map(str(probe.path))) as reader:
            return reader.schema
    except (pa.ArrowInvalid, OSError) as error:
        raise _corrupt(probe, error) from error


def _frames(probe: FileProbe, columns: dict[str, str]) -> Iterator[pl.DataFrame]:
    """Yield the file's columns under their target names, in pieces."""
    try:
        if probe.container == "parquet":
            import pyarrow.parquet as pq

            with pq.ParquetFile(probe.path) as file:
                for piece in file.iter_batches(batch_size=250_000, columns=sorted(set(columns.values()))):
                    yield _renamed(piece, columns)
        else:
            with pa.ipc.open_file(pa.memory_map(str(probe.path))) as reader:
                for index in range(reader.num_record_batches):
                    yield _renamed(reader.get_batch(index), columns)
    except (pa.ArrowInvalid, OSError) as error:
        raise _corrupt(probe, error) from error


def _renamed(piece: pa.RecordBatch, columns: dict[str, str]) -> pl.DataFrame:
    frame = pl.from_arrow(pa.Table.from_batches([piece]))
    assert isinstance(frame, pl.DataFrame)
    return frame.select(pl.col(name).alias(target) for target, name in columns.items())


def _columnar_sieves(probe: FileProbe, columns: dict[str, str], table: str, progress: Progress) -> Iterator[Sieve]:
    done = 0
    for frame in _frames(probe, columns):
        source, first = frame, done + 1

        def raw(failing: pl.DataFrame, source: pl.DataFrame = source, first: int = first) -> pl.Series:
            rows = source[failing[ROW_NUMBER] - first]
            return rows.select(pl.struct(pl.all()).struct.json_encode()).to_series()

        sieve = Sieve(
            frame.with_columns(pl.int_range(first, first + frame.height, dtype=pl.Int64).alias(ROW_NUMBER)), raw
        )
        for name in REQUIRED[table][1:]:
            value = pl.col(name)
            number = value.cast(pl.Float64, strict=False)
            sieve.reject(
                value.is_not_null() & number.is_null(),
                "unparsable_value",
                pl.format(f"{name} is {{}}", value.cast(pl.String)),
            )
            sieve.rows = sieve.rows.with_columns(number)
        sieve.reject(pl.col("ts").is_null(), "missing_value", "ts is empty")
        done += frame.height
        yield sieve
        progress(done, None, "rows")


def _corrupt(probe: FileProbe, error: Exception) -> RejectedFileError:
    return RejectedFileError(
        "truncated", f"the file is cut off or corrupt ({error})", where=probe.name, hint="Copy or download it again."
    )
