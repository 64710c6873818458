"""What happens in a market, one event at a time: a bar that has closed, a trade, a book.

What belongs here: the events that strategies are told of, as plain values.  What does not: the wire formats of venues
(`adapters`), and panels of many bars (`panel`).  Times are microseconds since 1970 UTC.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final, NamedTuple, TypeAlias

import polars as pl

from hfthot_platform.core.errors import BadRequestError

__all__ = ["Bar", "Book", "MarketEvent", "Trade", "trades_from"]

_NEEDED: Final = ("symbol", "ts", "price", "amount")


class Bar(NamedTuple):
    """A bar that has closed."""

    symbol: str
    #: Open time.
    ts: int
    open: float
    high: float
    low: float
    close: float
    #: In units of the base, NaN where unknown.
    volume: float
    #: Bought by takers, NaN where unknown; None where no bar of the source has it.
    buy_volume: float | None = None


class Trade(NamedTuple):
    """A trade of others."""

    symbol: str
    ts: int
    price: float
    #: In units of the base.
    amount: float
    #: The taker's side, `buy` or `sell`, None where unknown.
    side: str | None = None


class Book(NamedTuple):
    """The visible orders of a symbol at one time; levels are (price, amount), the best first."""

    symbol: str
    ts: int
    bids: tuple[tuple[float, float], ...]
    asks: tuple[tuple[float, float], ...]


#: What comes between bars.
MarketEvent: TypeAlias = Trade | Book


def trades_from(rows: pl.DataFrame) -> Iterator[Trade]:
    """Yield trades from rows of `market.trades`, in the order of time and trade id.

    Raises:
        BadRequestError: a column is missing.
    """
    if missing := [name for name in _NEEDED if name not in rows.columns]:
        raise BadRequestError(f"no column {missing[0]!r}", where="trades", hint=f"Needed: {', '.join(_NEEDED)}.")
    ordered = rows.sort([name for name in ("ts", "trade_id") if name in rows.columns], maintain_order=True)
    side = pl.col("side").cast(pl.String) if "side" in rows.columns else pl.lit(None, pl.String)
    columns = ordered.select(
        pl.col("symbol").cast(pl.String),
        pl.col("ts").cast(pl.Datetime("us", "UTC")).to_physical(),
        pl.col("price", "amount").cast(pl.Float64),
        side.alias("side"),
    )
    yield from (Trade(*row) for row in columns.iter_rows())
