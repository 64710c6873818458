"""DuckDB's answers as Polars frames, for the trusted engine and the gateway alike.

What either thinks of an answer before that (whether it may be believed, where it came from) is theirs.
"""

from __future__ import annotations

import numpy as np
import polars as pl
import pyarrow as pa

from hfthot_platform.core.errors import SqlError
from hfthot_platform.core.time import DAY

__all__ = ["as_frame", "narrowed", "require_own_names"]


def as_frame(table: pa.Table) -> pl.DataFrame:
    """Return an Arrow table as Polars: intervals as durations, times labelled as UTC, which the sessions run in.

    Raises:
        SqlError: an interval has months, which have no fixed length, or two columns have one name.
    """
    require_own_names(table)
    for position, field in enumerate(table.schema):
        if field.type == pa.month_day_nano_interval():
            table = table.set_column(position, field.name, _durations(table.column(position)))
    frame = pl.from_arrow(table)
    if not isinstance(frame, pl.DataFrame):
        raise TypeError(type(frame))
    return frame.with_columns(
        pl.col(name).dt.replace_time_zone("UTC") if kind.time_zone is None else pl.col(name).dt.convert_time_zone("UTC")
        for name, kind in frame.schema.items()
        if isinstance(kind, pl.Datetime)
    )


def require_own_names(table: pa.Table) -> None:
    """Refuse columns of one name: where columns are known by their names, one of them would be lost.

    Raises:
        SqlError: two columns have one name.
    """
    names = table.column_names
    if len(set(names)) < len(names):
        twice = next(repeated for place, repeated in enumerate(names) if repeated in names[:place])
        raise SqlError(
            f"two columns of the result are named {twice!r}",
            where="SQL",
            hint="Give each column its own name (SELECT a.x, b.x AS other_x), or exclude one (SELECT * EXCLUDE (x)).",
        )


def narrowed(frame: pl.DataFrame) -> pl.DataFrame:
    """Return a whole answer with whole numbers from sums as Int64 wherever all of a column fit."""
    for name in [name for name, kind in frame.schema.items() if kind == pl.Decimal(38, 0)]:
        narrow = frame[name].cast(pl.Int64, strict=False)
        if narrow.null_count() == frame[name].null_count():
            frame = frame.with_columns(narrow)
    return frame


def _durations(column: pa.ChunkedArray) -> pa.ChunkedArray:
    parts = np.dtype([("months", "<i4"), ("days", "<i4"), ("nanoseconds", "<i8")])
    chunks = []
    for chunk in column.chunks:
        values = np.frombuffer(chunk.buffers()[1], dtype=parts)[chunk.offset : chunk.offset + len(chunk)]
        present = chunk.is_valid().to_numpy(zero_copy_only=False)
        if values["months"][present].any():
            raise SqlError(
                "an interval of months has no fixed length", where="SQL", hint="Cast it to text, or use days."
            )
        microseconds = values["days"].astype(np.int64) * DAY + values["nanoseconds"] // 1000
        chunks.append(pa.array(microseconds, pa.duration("us"), mask=~present))
    return pa.chunked_array(chunks, pa.duration("us"))
