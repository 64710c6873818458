"""Real daily data that comes with two Python packages, so that a first look needs no network.

- `arch` (NCSA licence): the S&P 500 with open, high, low, close and volume, 1999 to 2018.
- `skfolio` (BSD-3 licence): the S&P 500's closes and the adjusted closes of 20 US stocks, 1990 to 2022.

The packages are located, never imported: importing skfolio takes seconds.
"""

from __future__ import annotations

import gzip
import hashlib
import importlib.util
import io
from collections.abc import Iterator
from datetime import datetime
from functools import lru_cache
from pathlib import Path
from typing import Final

import polars as pl

from hfthot_platform.adapters.ports import Batch, Progress, check_request, no_progress
from hfthot_platform.core.errors import SourceUnavailableError
from hfthot_platform.domain.contracts.market import BARS, CLOSES, INSTRUMENTS

__all__ = ["INDEX", "INDEX_VENUE", "STOCK_VENUE", "SampleFeed"]

INDEX: Final = "SPX"
INDEX_VENUE: Final = "us_index"
STOCK_VENUE: Final = "us_equity"

INDEX_BARS: Final = ("arch", "data/sp500/sp500.csv.gz")
_INDEX_CLOSES: Final = ("skfolio", "datasets/data/sp500_index.csv.gz")
_STOCK_CLOSES: Final = ("skfolio", "datasets/data/sp500_dataset.csv.gz")
_TIME: Final = pl.Datetime("us", "UTC")


class SampleFeed:
    """Daily bars of the S&P 500, closes of the index and of 20 US stocks, and what these instruments are.

    A daily bar opens at the trading day's midnight UTC and closes at the next one; its volume is in shares, as
    the package reports it.  Instruments do not depend on the span asked for.
    """

    name = "sample"
    tables = (INSTRUMENTS.name, BARS.name, CLOSES.name)

    def fetch(self, table: str, start: datetime, end: datetime, *, progress: Progress = no_progress) -> Iterator[Batch]:
        """Yield the rows of `table` with start <= time < end, one batch per packaged file.

        Raises:
            BadRequestError: as `check_request`.
            SourceUnavailableError: a package lacks its data file.
        """
        check_request(self.name, self.tables, table, start, end)
        if table == BARS.name:
            parts = [_index_bars()]
        elif table == CLOSES.name:
            parts = [_index_closes(), _stock_closes()]
        else:
            parts = [_instruments(_index_bars()), _instruments(_stock_closes())]
        if table != INSTRUMENTS.name:
            at = pl.col("ts" if table == BARS.name else "date").cast(_TIME)
            parts = [rows.filter(at >= pl.lit(start).cast(_TIME), at < pl.lit(end).cast(_TIME)) for rows in parts]
        batches = [Batch(table, rows, rows["source_ref"][0]) for rows in parts if rows.height]
        total = sum(batch.rows.height for batch in batches)
        done = 0
        for batch in batches:
            yield batch
            done += batch.rows.height
            progress(done, total, "rows")


def _index_bars() -> pl.DataFrame:
    raw, ref = _packaged(*INDEX_BARS)
    opens = pl.col("Date").str.to_date("%m/%d/%Y").cast(_TIME)
    return raw.select(
        pl.lit(INDEX_VENUE).alias("venue"),
        pl.lit(INDEX).alias("symbol"),
        pl.lit("1d").alias("interval"),
        opens.alias("ts"),
        (opens + pl.duration(days=1)).alias("ts_close"),
        *(pl.col(name.title()).cast(pl.Float64).alias(name) for name in ("open", "high", "low", "close", "volume")),
        pl.lit(value=True).alias("final"),
        pl.lit("vendor").alias("origin"),
        *_provenance(ref),
    ).sort("ts")


def _index_closes() -> pl.DataFrame:
    raw, ref = _packaged(*_INDEX_CLOSES)
    return _closes(raw.rename({"SP500": INDEX}), INDEX_VENUE, ref, adjusted=False)


def _stock_closes() -> pl.DataFrame:
    raw, ref = _packaged(*_STOCK_CLOSES)
    return _closes(raw, STOCK_VENUE, ref, adjusted=True)


def _closes(wide: pl.DataFrame, venue: str, ref: str, *, adjusted: bool) -> pl.DataFrame:
    """Turn one column per symbol into one row per symbol and day; an empty cell is a day without a close."""
    return (
        wide.with_columns(pl.col("Date").str.to_date("%Y-%m-%d"))
        .unpivot(index="Date", variable_name="symbol", value_name="close")
        .drop_nulls("close")
        .select(
            pl.col("Date").alias("date"),
            pl.lit(venue).alias("venue"),
            "symbol",
            pl.col("close").cast(pl.Float64),
            pl.lit(adjusted).alias("adjusted"),
            *_provenance(ref),
        )
        .sort("symbol", "date")
    )


def _instruments(rows: pl.DataFrame) -> pl.DataFrame:
    """Return one instrument per symbol; the first day of its data is the first day known."""
    day = pl.col("date") if "date" in rows.columns else pl.col("ts").dt.date()
    kind = "index" if rows["venue"][0] == INDEX_VENUE else "equity"
    return (
        rows.group_by("venue", "symbol", "source", "source_ref")
        .agg(listed_on=day.min())
        .with_columns(kind=pl.lit(kind), base=pl.col("symbol"), quote=pl.lit("USD"))
        .select("venue", "symbol", "kind", "base", "quote", "listed_on", "source", "source_ref")
        .sort("symbol")
    )


def _provenance(ref: str) -> tuple[pl.Expr, pl.Expr]:
    return pl.lit("vendor_history").alias("source"), pl.lit(ref).alias("source_ref")


@lru_cache(maxsize=4)
def _packaged(package: str, file: str) -> tuple[pl.DataFrame, str]:
    """Return a packaged CSV and its reference: package, file and the hash of its content."""
    spec = importlib.util.find_spec(package)
    folders = (spec.submodule_search_locations if spec else None) or []
    path = next((path for folder in folders if (path := Path(folder) / file).is_file()), None)
    if path is None:
        raise SourceUnavailableError(
            f"the file {file!r} is missing", where=f"package {package}", hint=f"Install the package {package} again."
        )
    content = path.read_bytes()
    digest = hashlib.sha256(content).hexdigest()[:16]
    return pl.read_csv(io.BytesIO(gzip.decompress(content))), f"sample:{package}/{file}@{digest}"
