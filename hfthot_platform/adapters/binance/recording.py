"""Recorded websocket messages of Binance: one line each, a local clock and the JSON.

    1723161255088176367 {"stream":"btcusdt@trade","data":{"e":"trade","E":...,"T":...,"s":"BTCUSDT",...}}

Only trade events are rows; depth and book tickers are passed over.  The market is told by the event: spot
trades have the field `M`, futures trades `X`; COIN-M symbols have a tail and are quoted in USD, and their
quantities are contracts.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from typing import Final

import polars as pl

from hfthot_platform.adapters.binance.archive import contract_size
from hfthot_platform.adapters.files.adapter import FileProbe, Recognised
from hfthot_platform.adapters.files.delimited import Sieve, file_blocks, gather
from hfthot_platform.adapters.files.times import TIME
from hfthot_platform.adapters.ports import BATCH_ROWS, Batch, Progress, no_progress
from hfthot_platform.core.errors import BadRequestError
from hfthot_platform.domain.contracts.market import TRADES
from hfthot_platform.domain.contracts.model import ROW_NUMBER
from hfthot_platform.domain.market.symbols import from_vendor

__all__ = ["BinanceStream"]

#: Clocks of recordings are in nanoseconds, of older ones in microseconds or milliseconds, or seconds with a point.
_LINE: Final = re.compile(r'(\d{13}|\d{16}|\d{19}|\d{10}\.\d+)[ \t]\{"stream":"[a-z0-9_!]+@')
_TRADE: Final = '"e":"trade"'
#: The trade event.  Prices and quantities are text, as Binance sends them.
_FIELDS: Final = {
    "T": pl.Int64(),
    "s": pl.String(),
    "t": pl.Int64(),
    "p": pl.String(),
    "q": pl.String(),
    "m": pl.Boolean(),
    "M": pl.Boolean(),
    "X": pl.String(),
}
_MESSAGE: Final = pl.Struct({"data": pl.Struct(_FIELDS)})


class BinanceStream:
    """Reads the trades of a recorded stream of any number of symbols."""

    name = "binance_stream"

    def recognise(self, probe: FileProbe) -> Recognised | None:
        if not probe.is_text:
            return None
        # A recording may begin with an order-book snapshot, which names no stream.
        if not any(_LINE.match(line) for line in probe.lines[:20]):
            return None
        return Recognised(self, "combined_stream", TRADES.name)

    def read(
        self,
        probe: FileProbe,
        claim: Recognised,
        *,
        source_ref: str,
        batch_rows: int = BATCH_ROWS,
        progress: Progress = no_progress,
    ) -> Iterator[Batch]:
        sieves = (_canonical(event, source_ref) for event in _events(probe, progress))
        yield from gather(sieves, claim.table, source_ref, batch_rows)


def _events(probe: FileProbe, progress: Progress) -> Iterator[Sieve]:
    """Yield the trade events, as `_FIELDS` and `clock`, numbered by their order among the trade events."""
    rest = b""
    done = 0
    lines_done = 0
    for block in file_blocks(probe):
        text = rest + block
        end = text.rfind(b"\n") + 1
        lines_done += text.count(b"\n", 0, end)
        sieve = _decode(text[:end], first=done + 1)
        rest = text[end:]
        done += sieve.rows.height + sieve.rejected.height
        yield sieve
        progress(lines_done, None, "lines")
    if rest.strip():
        yield _decode(rest, first=done + 1, cut=not probe.checks_its_end)


def _decode(text: bytes, *, first: int, cut: bool = False) -> Sieve:
    lines = pl.Series("line", text.decode("utf-8", errors="replace").split("\n"), dtype=pl.String)
    lines = lines.filter(lines.str.contains(_TRADE, literal=True))
    frame = lines.to_frame().with_columns(
        pl.int_range(first, first + lines.len(), dtype=pl.Int64).alias(ROW_NUMBER),
        _clock(pl.col("line").str.extract(r"^([0-9.]+)[ \t]")).alias("clock"),
    )
    sieve = Sieve(frame, lambda rows: lines.gather(rows[ROW_NUMBER] - first))
    if cut and lines.len() and not _is_message(_message(lines).item(0)):
        sieve.reject(pl.lit(value=True), "truncated_row", "the file ends within this line")
    sieve.reject(pl.col("clock").is_null(), "unparsable_value", "the line does not start with a time")
    messages = _message(sieve.rows["line"])
    try:
        decoded = messages.str.json_decode(_MESSAGE)
    except pl.exceptions.PolarsError:
        valid = pl.Series([_is_message(message) for message in messages], dtype=pl.Boolean)
        sieve.reject(~pl.lit(valid), "malformed_json", "the message is not the JSON of a trade event")
        decoded = messages.filter(valid).str.json_decode(_MESSAGE)
    event = decoded.struct.field("data").struct.unnest()
    sieve.rows = sieve.rows.select("clock", ROW_NUMBER).hstack(event.get_columns())
    return sieve


def _message(lines: pl.Series) -> pl.Series:
    return lines.str.replace(r"^[0-9.]+[ \t]", "")


def _clock(text: pl.Expr) -> pl.Expr:
    """Return the local clock in microseconds: whole numbers by their digits, seconds with a point."""
    number = text.cast(pl.Int64, strict=False)
    digits = text.str.len_chars()
    seconds = pl.when(text.str.contains(".", literal=True)).then((text.cast(pl.Float64, strict=False) * 1e6).round())
    return (
        pl.when(digits == 19)
        .then(number // 1000)
        .when(digits == 16)
        .then(number)
        .when(digits == 13)
        .then(number * 1000)
        .otherwise(seconds.cast(pl.Int64))
    )


def _is_message(text: str) -> bool:
    """Return whether one message decodes as a trade event (only asked where a whole block does not)."""
    try:
        json.loads(text)
        pl.Series([text]).str.json_decode(_MESSAGE)
    except (ValueError, pl.exceptions.PolarsError):
        return False
    return True


def _canonical(sieve: Sieve, source_ref: str) -> Sieve:
    for name in ("T", "s", "t", "p", "q", "m"):
        sieve.reject(pl.col(name).is_null(), "missing_value", f"{name} is absent")
    for name in ("p", "q"):
        number = pl.col(name).cast(pl.Float64, strict=False)
        sieve.reject(number.is_null(), "unparsable_value", pl.format(f"{name} is {{}}", pl.col(name)))
        sieve.rows = sieve.rows.with_columns(number.alias(name))
    is_spot = pl.col("M").is_not_null()
    is_coin = ~is_spot & pl.col("s").str.contains(r"USD_(PERP|\d{6})$")
    venue = (
        pl.when(is_spot)
        .then(pl.lit("binance"))
        .when(is_coin)
        .then(pl.lit("binance_coinm"))
        .otherwise(pl.lit("binance_usdm"))
    )
    sieve.rows = sieve.rows.with_columns(venue.alias("venue"))
    pairs = sieve.rows.select("s", "venue").unique()
    names = {(pair, place): _symbol(pair, place) for pair, place in pairs.iter_rows()}
    table = pl.DataFrame(
        [(pair, place, symbol, contract_size(pair)) for (pair, place), symbol in names.items()],
        schema={"s": pl.String, "venue": pl.String, "symbol": pl.String, "size": pl.Float64},
        orient="row",
    )
    sieve.rows = sieve.rows.join(table, on=["s", "venue"], how="left", maintain_order="left")
    sieve.reject(pl.col("symbol").is_null(), "unknown_symbol", pl.format("symbol is {}", pl.col("s")))
    contracts = pl.col("q") * pl.col("size") / pl.col("p")
    sieve.rows = sieve.rows.select(
        "venue",
        "symbol",
        (pl.col("T") * 1000).cast(TIME).alias("ts"),
        pl.col("t").alias("trade_id"),
        pl.col("p").alias("price"),
        pl.when(pl.col("venue") == "binance_coinm").then(contracts).otherwise(pl.col("q")).alias("amount"),
        pl.when("m").then(pl.lit("sell")).otherwise(pl.lit("buy")).alias("side"),
        pl.col("clock").cast(TIME).alias("ts_received"),
        pl.lit("replay").alias("source"),
        pl.lit(source_ref).alias("source_ref"),
        ROW_NUMBER,
    )
    return sieve


def _symbol(pair: str, venue: str) -> str | None:
    try:
        return from_vendor(pair, perpetual=venue != "binance", venue=venue)
    except BadRequestError:
        return None
