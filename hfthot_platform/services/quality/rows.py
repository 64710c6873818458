"""Checks that need one pass over the rows: the contract's rules, unique keys, order within files.

Memory is bounded by pieces of whole days (`lakehouse.spans.chunks`), whatever the span.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

import polars as pl

from hfthot_platform.domain.contracts import TableContract
from hfthot_platform.domain.contracts.rules import Spike
from hfthot_platform.storage.lakehouse.days import chunks

__all__ = ["RowsSeen", "look_at_rows", "unsorted_files"]

#: Most keys that are held in memory at once when a key has to be searched for over the whole span.
KEYS_AT_ONCE = 5_000_000


@dataclass(frozen=True)
class RowsSeen:
    """What one pass over the rows found."""

    rows: int
    #: Rows that break each rule, by the rule's name; rules that hold are there with 0.
    violations: dict[str, int]
    #: Rows beyond the first one of their key.
    repeated: int


def look_at_rows(contract: TableContract, rows: pl.LazyFrame) -> RowsSeen:
    """Evaluate the contract's rules on published rows and count repeated keys.

    Args:
        contract: the table's contract.
        rows: published rows in the contract's columns, any order.
    """
    needed = {*contract.primary_key, *contract.sort_by, contract.time_column, contract.partition_by}
    for rule in contract.rules:
        needed |= set(rule.violated().meta.root_names())
    frame = rows.select(name for name in contract.column_names if name in needed)
    total = repeated = 0
    violations = dict.fromkeys((rule.name for rule in contract.rules), 0)
    ranges: list[pl.DataFrame] = []
    for days in chunks(contract, frame):
        piece = days.lazy().collect()
        total += piece.height
        part = _in_series_order(contract, piece)
        counts = part.select(rule.violated().sum().alias(rule.name) for rule in contract.rules).rows(named=True)
        for name, count in (counts[0] if counts else {}).items():
            violations[name] += int(count)
        repeated += _repeated(contract, part)
        ranges.append(_key_range(contract, part))
    if len(ranges) > 1 and contract.time_column not in contract.primary_key and _overlap(contract, ranges):
        repeated = _repeated_anywhere(contract, frame, total)
    return RowsSeen(total, violations, repeated)


def unsorted_files(contract: TableContract, paths: Iterable[str], options: Mapping[str, str]) -> list[str]:
    """Return those data files whose rows are not in the contract's order.

    Such a file is read correctly but slowly: its statistics prune nothing.
    """
    by = [name for name in contract.sort_by if name != contract.partition_by]
    out = []
    for path in paths:
        rows = pl.scan_parquet(path, glob=False, hive_partitioning=False, storage_options=dict(options) or None)
        earlier = pl.lit(value=False)
        for name in reversed(by):
            before = pl.col(name).shift(1)
            # Nulls come first, as the lakehouse sorts them.
            less = (pl.col(name) < before) | (pl.col(name).is_null() & before.is_not_null())
            earlier = less.fill_null(value=False) | (pl.col(name).eq_missing(before) & earlier)
        if rows.select(by).select(earlier.slice(1).any()).collect().item():
            out.append(path)
    return out


def _in_series_order(contract: TableContract, rows: pl.DataFrame) -> pl.DataFrame:
    """Bring the rows of each series together, by time, where a rule looks at neighbours."""
    if not any(isinstance(rule, Spike) for rule in contract.rules):
        return rows
    return rows.sort(_sort_codes(contract, contract.sort_by))


def _sort_codes(contract: TableContract, names: Iterable[str]) -> list[pl.Expr]:
    """Return columns for sorting and comparing, where any order of the texts will do: codes are faster."""
    return [
        pl.col(name).cast(pl.Categorical).to_physical() if contract.column(name).few else pl.col(name) for name in names
    ]


def _repeated(contract: TableContract, rows: pl.DataFrame) -> int:
    keys = rows.select(_sort_codes(contract, contract.primary_key))
    *group, last = contract.primary_key
    if group and rows.height:
        # Rows of a group that stand together, with a last key column that rises strictly, need no hashing.
        same = pl.all_horizontal(pl.col(name) == pl.col(name).shift(1) for name in group).fill_null(value=False)
        falls = (pl.col(last) <= pl.col(last).shift(1)).fill_null(value=True)
        starts, disordered = keys.select(same.not_().sum(), (same & falls).any().alias("disordered")).row(0)
        if not disordered and starts == keys.select(group).unique().height:
            return 0
    return rows.height - keys.unique().height


def _key_range(contract: TableContract, rows: pl.DataFrame) -> pl.DataFrame:
    *group, last = contract.primary_key
    bounds = (pl.col(last).min().alias("low"), pl.col(last).max().alias("high"))
    return rows.group_by(group).agg(bounds) if group else rows.select(bounds)


def _overlap(contract: TableContract, ranges: list[pl.DataFrame]) -> bool:
    """Whether a key of one piece could also be in another."""
    group = list(contract.primary_key[:-1])
    pieces = pl.concat(ranges).drop_nulls().sort(*group, "low")
    same = pl.all_horizontal([pl.col(name) == pl.col(name).shift(1) for name in group] or [pl.lit(value=True)])
    # Sorted by their low ends, disjoint ranges are disjoint from their neighbours.
    return bool(pieces.select((same & (pl.col("low") <= pl.col("high").shift(1))).any()).item())


def _repeated_anywhere(contract: TableContract, rows: pl.LazyFrame, total: int) -> int:
    """Count repeated keys over all pieces, a share of the keys at a time."""
    shares = -(-total // KEYS_AT_ONCE)
    keys = rows.select(contract.primary_key)
    last = pl.col(contract.primary_key[-1])
    distinct = 0
    for share in range(shares):
        part = keys if shares == 1 else keys.filter(last.hash() % shares == share)
        distinct += part.unique().select(pl.len()).collect(engine="streaming").item()
    return total - distinct
