"""Bars of which the file does not say whether they were finished: what the clock and the table prove."""

from __future__ import annotations

from datetime import datetime

import polars as pl

from hfthot_platform.adapters.ports import Batch
from hfthot_platform.storage.lakehouse import Table

__all__ = ["with_proven_bars"]

_TIME = pl.Datetime("us", "UTC")


def with_proven_bars(table: Table, batch: Batch, now: datetime) -> pl.DataFrame:
    """Return a batch's rows; the last bars of a file are final if their interval had passed when it was read.

    One exception: where the table has a finished bar of another source already, an unproven one stays unfinished, so
    that it does not take the other's place.  One of the same source is this one: a run that died had published it.

    Args:
        table: where the rows are going to.
        batch: rows of a file, see `Batch.unproven`.
        now: when the file is read.
    """
    rows = batch.rows
    if not batch.unproven or "final" not in rows.columns:
        return rows
    passed = rows.filter(~pl.col("final"), pl.col("ts_close") <= pl.lit(now).cast(_TIME))
    if passed.is_empty():
        return rows
    key = [name for name in table.contract.primary_key if name in rows.columns]
    texts = [pl.col(name).cast(pl.String) for name in key if name != "ts"]
    passed = passed.select(*texts, "ts")
    first, last = passed.select(pl.col("ts").min(), pl.col("ts").max().alias("last")).row(0)
    own = rows["source_ref"].unique().to_list() if "source_ref" in rows.columns else []
    there = (
        table.scan()
        .filter(pl.col("ts").is_between(first, last), pl.col("final"), ~pl.col("source_ref").is_in(own))
        .select(*texts, "ts")
        .join(passed.lazy(), on=key, how="semi")
        .collect()
    )
    proven = passed.join(there, on=key, how="anti").with_columns(_proven=pl.lit(value=True))
    found = rows.select(*texts, "ts").join(proven, on=key, how="left", maintain_order="left")["_proven"]
    return rows.with_columns(final=pl.col("final") | found.fill_null(value=False))
