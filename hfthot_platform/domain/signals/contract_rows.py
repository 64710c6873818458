"""Between frames and contracts: the columns that a computation needs, and its results as rows of a contract.

What goes here: how rows, results as JSON text and names of series are written, alike in every `signals.*` and
`portfolio.*` table.  What stays out: what the rows say, which each module of this package computes.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import polars as pl

from hfthot_platform.core.errors import BadRequestError
from hfthot_platform.domain.contracts.model import TableContract

__all__ = ["as_text", "needs", "rows_of", "series_name"]


def rows_of(contract: TableContract, rows: Sequence[Mapping[str, Any]]) -> pl.DataFrame:
    """Return rows in the contract's columns, without the partition column and the version that the lake fills in.

    A partition that is a column of its own right (the time column itself) stays.
    """
    derived = contract.partition_by if contract.partition_by != contract.time_column else None
    apart = {derived, "schema_version"}
    schema = {name: dtype for name, dtype in contract.polars_schema.items() if name not in apart}
    return pl.DataFrame(rows, schema=schema, orient="row")


def as_text(value: Any) -> str:
    """Return a value as JSON with sorted keys; numbers that are not finite, which JSON lacks, are null."""
    return json.dumps(_finite(value), sort_keys=True, allow_nan=False)


def _finite(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {str(key): _finite(inner) for key, inner in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(inner) for inner in value]
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    return value


def series_name(symbol: str, venue: str) -> str:
    """Return how a series is called in accounts of failures."""
    return f"{symbol}@{venue}"


def needs(frame: pl.DataFrame, columns: Iterable[str], where: str) -> None:
    """Refuse a frame that lacks a column.

    Raises:
        BadRequestError: names the first missing column.
    """
    wanted = list(columns)
    missing = [name for name in wanted if name not in frame.columns]
    if missing:
        raise BadRequestError(f"no column {missing[0]!r}", where=where, hint=f"Needed: {', '.join(wanted)}.")
