"""Whose statement of the same fact counts, where two sources make one.

A vendor's bar or close stands above one that we computed: the vendor saw every trade, while our trades may
be a recording that starts or stops in the middle.  How well the two agree is a quality check, not a matter
of precedence.
"""

from __future__ import annotations

from typing import Final

import polars as pl

from hfthot_platform.domain.contracts.market import CLOSES

__all__ = ["COMPUTED_CLOSE", "closes_from_bars", "is_computed", "vendor_first"]

#: `source_ref` of closes that were taken from daily bars.
COMPUTED_CLOSE: Final = "market.bars"


def vendor_first(vendor: pl.DataFrame, computed: pl.DataFrame, key: tuple[str, ...]) -> pl.DataFrame:
    """Return the vendor's rows and those computed rows whose key no vendor's row has."""
    shared = [name for name in computed.columns if name in vendor.columns]
    fill = computed.join(vendor.select(key), on=list(key), how="anti")
    return pl.concat([vendor.select(shared), fill.select(shared)])


def is_computed(columns: list[str]) -> pl.Expr:
    """Return which rows of a table were computed here, from its `origin` or, for closes, its `source_ref`."""
    if "origin" in columns:
        return pl.col("origin") != "vendor"
    return pl.col("source_ref") == COMPUTED_CLOSE


def closes_from_bars(bars: pl.DataFrame) -> pl.DataFrame:
    """Return the closes of final daily bars as rows of `market.closes`, without partition column and version."""
    return (
        bars.filter((pl.col("interval") == "1d") & pl.col("final"))
        .select(
            pl.col("ts").dt.date().alias("date"),
            "venue",
            "symbol",
            "close",
            pl.lit(value=False).alias("adjusted"),
            "source",
            pl.lit(COMPUTED_CLOSE).alias("source_ref"),
            pl.col("close").alias("raw_close"),
        )
        .select(name for name in CLOSES.column_names if name not in {"year", "schema_version"})
    )
