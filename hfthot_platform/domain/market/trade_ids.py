"""Trade ids: one signed 64-bit integer for whatever a venue calls a trade.

`market.trades` is keyed by (symbol, venue, trade_id).  Three disjoint ranges keep ids of different origin
from ever meeting:

    0 ... 2^62 - 1        the venue's own number, kept as it is
    2^62 ... 2^63 - 1     2^62 plus 62 bits of a hash of the venue's text id (UUIDs and the like)
    below 0               synthetic: the venue gives no id; the number orders trades by time and arrival

All three are functions of the source alone, so reading the same source again gives the same ids and a
repeated trade is recognised.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from typing import Final

import polars as pl

__all__ = ["SLOTS_PER_MICROSECOND", "arrival_rank", "synthetic_trade_id", "venue_trade_id"]

#: How many trades of one symbol can share a microsecond and still get distinct synthetic ids.
SLOTS_PER_MICROSECOND: Final = 1000

_HASHED: Final = 1 << 62
# Up to 19 digits, which may still be 2^62 or more; a leading zero would make two texts one number.
_DIGITS: Final = r"^(0|[1-9][0-9]{0,18})$"
_FIRST: Final = -(2**63) + 1
# From here on the formula would leave the negative range (the year 2262).
_LAST_US: Final = (2**63 - 1) // SLOTS_PER_MICROSECOND


def venue_trade_id(ids: pl.Expr) -> pl.Expr:
    """Return the venue's ids as non-negative Int64: numbers as they are, any other text hashed.

    Args:
        ids: integers, or text.  Text that spells a number below 2^62 without leading zeros is that
            number, so a venue that changes from numbers to quoted numbers keeps its ids; larger numbers
            are hashed like any other text.

    Returns:
        Int64; null where the id is null, blank or a negative integer, so that the audit finds it missing.
        The hash is BLAKE2b, which no library upgrade changes: 10^8 trades of one symbol collide with a
        probability of 0.1 %.
    """
    text = ids.cast(pl.String).str.strip_chars()
    # Beyond 64 bits the number is null, and so is the comparison.
    number = pl.when(text.str.contains(_DIGITS)).then(text).str.to_integer(strict=False)
    number = pl.when(number < _HASHED).then(number)
    word = pl.when(number.is_null() & (text != "") & ~text.str.contains(r"^-[0-9]+$")).then(text)
    return pl.coalesce(number, word.map_batches(_hash, return_dtype=pl.Int64, is_elementwise=True))


def arrival_rank(ts: str = "ts", by: Sequence[str] = ("venue", "symbol")) -> pl.Expr:
    """Return each row's position, from 0, among the rows of the same time and group, in order of arrival.

    Args:
        ts: the time column.
        by: the columns whose trades share one sequence of ids.  A source that is read in several frames
            must not cut through a time, or must continue the count itself.
    """
    return pl.int_range(pl.len(), dtype=pl.Int64).over([*by, ts])


def synthetic_trade_id(ts: pl.Expr, k: pl.Expr, *, resolution_us: int = 1) -> pl.Expr:
    """Return -(2^63) + 1 + ts_us * 1000 + k: a negative Int64 that orders trades by time and arrival.

    Args:
        ts: event times (Datetime), 1970 or later.
        k: position among the trades of the same time, from 0 (see `arrival_rank`).
        resolution_us: the source's time step in microseconds; a source in whole seconds (1,000,000) leaves
            room for 10^9 trades per step.

    Returns:
        Int64; null where `k` has no room left in its time step or `ts` is before 1970, so that the audit
        quarantines the row instead of one trade silently replacing another.
    """
    us = ts.dt.epoch("us")
    place = k.cast(pl.Int64)
    room = (us >= 0) & (us < _LAST_US) & (place >= 0) & (place < SLOTS_PER_MICROSECOND * resolution_us)
    return pl.when(room).then(pl.lit(_FIRST, dtype=pl.Int64) + us * SLOTS_PER_MICROSECOND + place)


def _hash(texts: pl.Series) -> pl.Series:
    return pl.Series(
        texts.name,
        [None if text is None else _hash_one(text) for text in texts],
        dtype=pl.Int64,
    )


def _hash_one(text: str) -> int:
    digest = hashlib.blake2b(text.encode(), digest_size=8, usedforsecurity=False).digest()
    return _HASHED | (int.from_bytes(digest, "big") >> 2)
