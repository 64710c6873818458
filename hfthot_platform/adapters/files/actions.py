"""Corporate actions in text: splits and cash dividends.

A file is of actions if its user says so (`table: market.corporate_actions`), or if its header says so: a day and a kind
with a ratio or an amount, or a day beside nothing but dividends or splits (Yahoo's `Date,Dividends`).  Without a column
of kinds, a value in the column of amounts is a dividend and one in the column of ratios a split; zero is none.
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
from hfthot_platform.core.errors import RejectedFileError
from hfthot_platform.domain.contracts.market import CORPORATE_ACTIONS
from hfthot_platform.domain.contracts.model import ROW_NUMBER

__all__ = ["ActionsText"]

_WORDS: Final = {
    "ts": ("ex_date", "exdate", "ex_dividend_date", "date", "day", "datetime", "timestamp", ""),
    "symbol": ("symbol", "ticker", "name", "instrument"),
    "kind": ("kind", "type", "action", "event"),
    "ratio": ("ratio", "split_ratio", "stock_splits", "stock_split", "splits", "split", "value"),
    "amount": ("amount", "cash_amount", "dividends", "dividend", "cash", "value"),
    "currency": ("currency",),
}
#: Vendors' words for the kinds; a stock dividend is neither, as its ratio is written in several ways.
_KINDS: Final = {
    **dict.fromkeys(("split", "splits", "stock split", "stock_split", "reverse split"), "split"),
    **dict.fromkeys(("dividend", "dividends", "cash dividend", "cash_dividend", "div"), "dividend"),
}
#: 4, 4:1, 4/1, 4-for-1: new shares for old ones.
_RATIO: Final = r"^([0-9.]+)\s*(?::|/|-?\s*for\s*-?)\s*([0-9.]+)$"
#: A day that is written as its midnight stays that day, in whatever zone.
_MIDNIGHT: Final = r"^(\d{4}-\d{2}-\d{2})[ T]00:00(?::00(?:\.0+)?)?\s*(?:Z|[+-]\d{2}:?\d{2})?$"


class ActionsText:
    """Reads splits and dividends from separated values."""

    name = "actions"

    def recognise(self, probe: FileProbe) -> Recognised | None:
        """Return a claim on declared actions, and on a header that can be of nothing else.

        Raises:
            RejectedFileError: `wrong_schema`, `unknown_venue` or `unknown_symbol`, of a file of actions.
        """
        mapping = probe.declared
        declared = mapping.table == CORPORATE_ACTIONS.name
        begins = opening(probe, CORPORATE_ACTIONS.name)
        if begins is None:
            return None
        header = begins.header
        columns = _columns(header, mapping)
        if not declared and (columns is None or mapping.columns is not None or not _of_nothing_else(header, columns)):
            return None
        if columns is None:
            raise RejectedFileError(
                "wrong_schema",
                f"there is no column of days with a column of ratios or amounts; the header is {header[:6]}",
                where=probe.name,
                hint="Declare `columns: {date: ..., kind: ..., ratio: ..., amount: ...}` in the mapping.",
            )
        venue, symbol = venue_and_symbol(probe, with_symbol="symbol" in columns)
        details: dict[str, object] = {"columns": columns, "separator": begins.separator}
        preset = "kinds" if "kind" in columns else "columns"
        return Recognised(self, preset, CORPORATE_ACTIONS.name, venue, symbol, details)

    def read(
        self,
        probe: FileProbe,
        claim: Recognised,
        *,
        source_ref: str,
        batch_rows: int = BATCH_ROWS,
        progress: Progress = no_progress,
    ) -> Iterator[Batch]:
        """Yield the actions; a cell that is empty or zero is none where its column alone tells the kind.

        Raises:
            RejectedFileError: `too_large`, `wrong_schema`, or what the times raise.
        """
        rows = _actions(text_table(probe, str(claim.details["separator"]), progress), claim)
        for piece, times in pieces(rows, probe, batch_rows):
            yield _batch(piece, times, probe.declared, claim, source_ref)


def _columns(header: list[str], mapping: CsvMapping) -> dict[str, str] | None:
    """Return the header's name of each target, or None where days or values are missing."""
    if isinstance(mapping.columns, dict):
        columns = {"ts" if target == "date" else target: name for target, name in mapping.columns.items()}
    else:
        columns = usual_columns(header, _WORDS)
        # One column of values has both, if another one tells the kinds.
        if columns.get("ratio") == columns.get("amount") and "kind" not in columns:
            columns.pop("ratio", None)
            columns.pop("amount", None)
    known = "ts" in columns and bool({"ratio", "amount"} & set(columns)) and set(columns.values()) <= set(header)
    return columns if known else None


def _of_nothing_else(header: list[str], columns: dict[str, str]) -> bool:
    names = {normal_name(name) for name in header}
    if "kind" in columns:
        return bool(names & {"ex_date", "exdate", "ex_dividend_date"}) or {"kind", "ratio", "amount"} <= names
    return set(columns.values()) == set(header) and bool(names & {"dividends", "stock_splits"})


def _actions(table: pl.DataFrame, claim: Recognised) -> pl.DataFrame:
    """Return ROW_NUMBER, ts, symbol, kind, value and currency, all as text, one row for each possible action."""
    columns = claim.details["columns"]
    assert isinstance(columns, dict)

    def column(target: str) -> pl.Expr:
        return pl.col(columns[target]) if target in columns else pl.lit(None, pl.String)

    symbol = column("symbol") if "symbol" in columns else pl.lit(claim.symbol)
    plain = table.select(
        ROW_NUMBER,
        column("ts").str.strip_chars().str.replace(_MIDNIGHT, "$1").alias("ts"),
        symbol.alias("symbol"),
        column("kind").alias("kind"),
        column("ratio").alias("split"),
        column("amount").alias("dividend"),
        column("currency").str.strip_chars().alias("currency"),
    )
    if "kind" in columns:
        word = pl.col("kind").str.strip_chars().str.to_lowercase()
        kind = word.replace_strict(_KINDS, default=None, return_dtype=pl.String)
        # What is no known kind stays for the sieve, which sets it aside.
        value = pl.when(kind == "split").then("split").when(kind == "dividend").then("dividend")
        return plain.with_columns(kind.alias("_kind"), value.alias("value")).drop("split", "dividend")
    both = [kind for kind, target in (("split", "ratio"), ("dividend", "amount")) if target in columns]
    rows = plain.drop("kind").unpivot(
        both, index=[ROW_NUMBER, "ts", "symbol", "currency"], variable_name="kind", value_name="value"
    )
    return rows.with_columns(_kind=pl.col("kind")).sort(ROW_NUMBER, maintain_order=True)


def _batch(rows: pl.DataFrame, times: Times, mapping: CsvMapping, claim: Recognised, source_ref: str) -> Batch:
    texts = rows.with_columns(_day=pl.col("ts"), _text=pl.col("value"))
    sieve = Sieve(
        texts,
        lambda failing: failing.select(
            pl.concat_str("_day", "symbol", "kind", "_text", separator=",", ignore_nulls=True)
        ).to_series(),
    )
    sieve.reject(pl.col("_kind").is_null(), "unknown_value", "the kind is neither split nor dividend")
    number = pl.col("value").str.strip_chars()
    if mapping.decimal == ",":
        number = number.str.replace(",", ".", literal=True)
    parts = [number.str.to_lowercase().str.extract(_RATIO, k).cast(pl.Float64, strict=False) for k in (1, 2)]
    ratio = pl.when(pl.col("_kind") == "split").then(parts[0] / parts[1])
    sieve.rows = sieve.rows.with_columns(value=pl.coalesce(number.cast(pl.Float64, strict=False), ratio))
    sieve.reject(
        pl.col("value").is_null() & pl.col("_text").is_not_null(), "unparsable_value", "the value is not a number"
    )
    if claim.preset == "columns":
        sieve.skip(pl.col("value").is_null() | (pl.col("value") == 0))
    canonical_symbols(sieve, mapping.venue or "")
    times.read(sieve)
    split = pl.col("_kind") == "split"
    canonical = sieve.rows.select(
        pl.col("ts").dt.convert_time_zone(mapping.zone or "UTC").dt.date().alias("date"),
        pl.lit(mapping.venue).alias("venue"),
        "symbol",
        pl.col("_kind").alias("kind"),
        pl.when(split).then("value").alias("ratio"),
        pl.when(~split).then("value").alias("amount"),
        pl.when(~split).then("currency").alias("currency"),
        pl.lit(mapping.source).alias("source"),
        pl.lit(source_ref).alias("source_ref"),
        ROW_NUMBER,
    )
    return Batch(CORPORATE_ACTIONS.name, canonical, source_ref, sieve.rejected, gaps=sieve.gaps)
