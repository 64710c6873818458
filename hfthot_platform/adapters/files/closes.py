"""Daily closes in text: one symbol per row (long) or one column per symbol (wide).

A file is of closes if its user says so (`table: market.closes`), or if it cannot be anything else: a column of days
beside columns that are all named by symbols of the declared venue.  Where a file states the close and the one adjusted
for splits and dividends (Yahoo's `Close` and `Adj Close`), the adjusted one is the close, the other its `raw_close`.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final

import polars as pl

from hfthot_platform.adapters.files.adapter import FileProbe, Recognised
from hfthot_platform.adapters.files.canonical import canonical_symbols
from hfthot_platform.adapters.files.delimited import Sieve
from hfthot_platform.adapters.files.mapping import CsvMapping
from hfthot_platform.adapters.files.tables_of_days import (
    normal_name,
    opening,
    pieces,
    text_table,
    usual_columns,
    venue_and_symbol,
)
from hfthot_platform.adapters.files.times import Times
from hfthot_platform.adapters.ports import BATCH_ROWS, Batch, Progress, no_progress
from hfthot_platform.core.errors import BadRequestError, RejectedFileError
from hfthot_platform.domain.contracts.market import CLOSES
from hfthot_platform.domain.contracts.model import ROW_NUMBER
from hfthot_platform.domain.market.symbols import from_vendor, market_kind

__all__ = ["ClosesText"]

_DAYS: Final = ("date", "day", "datetime", "timestamp", "time", "")
_CLOSES: Final = ("close", "price", "last", "value", "px_last", "settle")
_ADJUSTED: Final = ("adj_close", "adjclose", "adjusted_close", "close_adj", "adj._close")
_SYMBOLS: Final = ("symbol", "ticker", "name", "instrument")


class ClosesText:
    """Reads closes from separated values."""

    name = "closes"

    def recognise(self, probe: FileProbe) -> Recognised | None:
        """Return a claim on declared closes, and on a table of days by symbols.

        Raises:
            RejectedFileError: `wrong_schema`, `unknown_venue` or `unknown_symbol`, of a file declared to be of closes.
        """
        mapping = probe.declared
        declared = mapping.table == CLOSES.name
        begins = opening(probe, CLOSES.name)
        if begins is None or begins.lines < 2:
            return None
        header = begins.header
        found = _long(header, mapping) or _wide(header, mapping, declared=declared)
        if not declared and (found is None or found["shape"] != "wide"):
            return None
        if found is None:
            raise RejectedFileError(
                "wrong_schema",
                "there is no column of days with a column of closes or columns named by symbols; the header is "
                f"{header[:6]}",
                where=probe.name,
                hint="Declare `columns: {ts: ..., close: ...}` in the mapping.",
            )
        with_symbol = found["shape"] != "long" or "symbol" in found["columns"]  # type: ignore[operator]
        venue, symbol = venue_and_symbol(probe, with_symbol=with_symbol)
        found |= {"separator": begins.separator}
        return Recognised(self, str(found["shape"]), CLOSES.name, venue, symbol, found)

    def read(
        self,
        probe: FileProbe,
        claim: Recognised,
        *,
        source_ref: str,
        batch_rows: int = BATCH_ROWS,
        progress: Progress = no_progress,
    ) -> Iterator[Batch]:
        """Yield the closes; an empty cell is not a row.

        Raises:
            RejectedFileError: `too_large`, `wrong_schema`, or what the times raise.
        """
        table = text_table(probe, str(claim.details["separator"]), progress)
        rows = _of_long(table, claim) if claim.preset == "long" else _of_wide(table, claim)
        for piece, times in pieces(rows, probe, batch_rows):
            yield _batch(piece, times, probe.declared, claim, source_ref)


def _long(header: list[str], mapping: CsvMapping) -> dict[str, object] | None:
    """Return which columns are the day, the close, the adjusted close and the symbol."""
    if isinstance(mapping.columns, dict):
        columns = dict(mapping.columns)
    else:
        columns = usual_columns(header, {"ts": _DAYS, "close": _CLOSES, "adj_close": _ADJUSTED, "symbol": _SYMBOLS})
    if "close" not in columns and "adj_close" in columns:
        columns["close"] = columns.pop("adj_close")
        columns["only_adjusted"] = ""
    known = {"ts", "close"} <= set(columns) and all(not column or column in header for column in columns.values())
    return {"shape": "long", "columns": columns} if known else None


def _wide(header: list[str], mapping: CsvMapping, *, declared: bool) -> dict[str, object] | None:
    """Return the columns of a table of days by symbols; undeclared, two at least and on a venue of no coins."""
    venue = mapping.venue or ""
    if normal_name(header[0]) not in _DAYS or len(header) < (2 if declared else 3):
        return None
    if not declared and (not venue or market_kind(venue) == "coin" or mapping.symbol or mapping.interval):
        return None
    symbols: dict[str, str] = {}
    for name in header[1:]:
        try:
            symbols[name] = from_vendor(name, venue=venue)
        except BadRequestError:
            if not declared:
                return None
            symbols[name] = ""
    looks = declared or all(name == name.upper() for name in symbols)
    unique = len(set(symbols.values())) == len(header) - 1 or declared
    return (
        {"shape": "wide", "columns": symbols, "day": header[0]} if looks and unique and any(symbols.values()) else None
    )


def _of_long(table: pl.DataFrame, claim: Recognised) -> pl.DataFrame:
    columns = claim.details["columns"]
    assert isinstance(columns, dict)
    close, adjusted = pl.col(columns["close"]), pl.col(columns["adj_close"]) if "adj_close" in columns else None
    name = pl.col(columns["symbol"]) if "symbol" in columns else pl.lit(claim.symbol)
    return table.select(
        ROW_NUMBER,
        pl.col(columns["ts"]).alias("ts"),
        name.alias("symbol"),
        (close if adjusted is None else adjusted).alias("close"),
        (pl.lit(None, pl.String) if adjusted is None else close).alias("raw_close"),
    )


def _of_wide(table: pl.DataFrame, claim: Recognised) -> pl.DataFrame:
    day = str(claim.details["day"])
    return (
        table.rename({day: "ts"})
        .unpivot(index=[ROW_NUMBER, "ts"], variable_name="symbol", value_name="close")
        .drop_nulls("close")
        .with_columns(raw_close=pl.lit(None, pl.String))
        .sort(ROW_NUMBER, maintain_order=True)
    )


def _batch(rows: pl.DataFrame, times: Times, mapping: CsvMapping, claim: Recognised, source_ref: str) -> Batch:
    texts = rows.with_columns(_day=pl.col("ts"))
    sieve = Sieve(
        texts, lambda failing: pl.format("{},{},{}", "_day", "symbol", "close").pipe(failing.select).to_series()
    )
    sieve.skip(pl.col("close").is_null() & pl.col("raw_close").is_null())
    venue = mapping.venue or ""
    canonical_symbols(sieve, venue)
    decimal = pl.col("close", "raw_close").str.replace(",", ".", literal=True) if mapping.decimal == "," else None
    if decimal is not None:
        sieve.rows = sieve.rows.with_columns(decimal)
    for name in ("close", "raw_close"):
        number = pl.col(name).str.strip_chars().cast(pl.Float64, strict=False)
        sieve.reject(pl.col(name).is_not_null() & number.is_null(), "unparsable_value", f"{name} is not a number")
        sieve.rows = sieve.rows.with_columns(pl.col(name).str.strip_chars().cast(pl.Float64, strict=False))
    times.read(sieve)
    columns = claim.details["columns"]
    both = claim.preset == "long" and isinstance(columns, dict) and {"adj_close", "only_adjusted"} & set(columns)
    adjusted = mapping.adjusted if mapping.adjusted is not None else bool(both)
    day = pl.col("ts").dt.convert_time_zone(mapping.zone or "UTC").dt.date()
    if mapping.as_of is not None:
        sieve.reject(day > mapping.as_of.date(), "time_ahead", "after the file was created")
    canonical = sieve.rows.select(
        day.alias("date"),
        pl.lit(venue).alias("venue"),
        "symbol",
        "close",
        pl.lit(adjusted).alias("adjusted"),
        pl.when(pl.lit(adjusted)).then("raw_close").otherwise("close").alias("raw_close"),
        pl.lit(mapping.source).alias("source"),
        pl.lit(source_ref).alias("source_ref"),
        ROW_NUMBER,
    )
    return Batch(CLOSES.name, canonical, source_ref, sieve.rejected, gaps=sieve.gaps)
