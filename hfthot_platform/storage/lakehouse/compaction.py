"""Compaction: the small and overlapping files of a partition become sorted files that do not overlap, as one commit.

A partition is written again range by range of its sort column (trades: of symbols), so that one range is in memory at a
time, whatever the size of the day, and a reader of one symbol opens one file of it.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Iterator, Sequence
from typing import Any, Final

import polars as pl
from deltalake import DeltaTable

from hfthot_platform.domain.contracts import TableContract
from hfthot_platform.storage.lakehouse.backends import Backend
from hfthot_platform.storage.lakehouse.commits import Stamp, properties
from hfthot_platform.storage.lakehouse.datafiles import DataFile, DataFiles
from hfthot_platform.storage.lakehouse.units import Extent, counted, cuts, overlapping, units_between

__all__ = ["TARGET_BYTES", "compact", "sorted_ranges", "to_compact"]

#: Size of a file, and rows of it: a range that is sorted in memory takes about six times its size.
TARGET_BYTES: Final = 128 * 1024 * 1024
_TARGET_ROWS: Final = 8_000_000
#: A partition is compacted when it has at least this many files smaller than the target size.
_SMALL_FILES: Final = 2


def to_compact(
    files: Iterable[DataFile], contract: TableContract, target: int = TARGET_BYTES
) -> dict[Any, list[DataFile]]:
    """Return the files of each partition that would be fewer, or overlap less, after a compaction."""
    partitions: dict[Any, list[DataFile]] = {}
    for file in files:
        partitions.setdefault(file.partition, []).append(file)
    return {value: mine for value, mine in partitions.items() if _is_worth_it(mine, contract, target)}


def _is_worth_it(files: Sequence[DataFile], contract: TableContract, target: int) -> bool:
    small = sum(file.size < target for file in files)
    extents = _extents(files, contract)
    if any(extent.low is None or extent.high is None for extent in extents):
        return small >= _SMALL_FILES
    groups = overlapping(extents)
    if len(groups) < len(files):
        return small >= _SMALL_FILES or sum(file.size for file in files) > target
    # They are in order already.  Neighbours that fit into one file are worth it; others stay as they are.
    sizes = [files[at].size for (at,) in groups]
    return small >= _SMALL_FILES and any(one + other <= target for one, other in itertools.pairwise(sizes))


def _extents(files: Sequence[DataFile], contract: TableContract) -> list[Extent]:
    column = contract.sort_by[0]
    return [Extent(file.lows.get(column), file.highs.get(column), file.rows or 0, file.size) for file in files]


def compact(
    contract: TableContract, handle: DeltaTable, backend: Backend, stamp: Stamp, *, target: int = TARGET_BYTES
) -> int:
    """Compact every partition that is worth it, all of them in one commit; return how many files that took away.

    Whenever it is interrupted the table is as it was, and what was written is removed by a vacuum or a sweep.

    Args:
        contract: the table's contract.
        handle: the newest version.
        backend: where the files are.
        stamp: who and why.
        target: bytes of a new file.

    Raises:
        CommitFailedError: another writer committed since the handle was read; nothing is changed.
    """
    data = DataFiles(contract, handle, backend)
    partitions = to_compact(data.stored(), contract, target)
    if not partitions:
        return 0
    removed = [file for files in partitions.values() for file in files]
    try:
        added: list[DataFile] = []
        for value, files in partitions.items():
            # One file a range, so that no value is in two of them.
            added += [data.write(value, rows) for rows in sorted_ranges(data, files, target) if rows.height]
        commit, hooks = properties(stamp, alone=True, operation="OPTIMIZE", rows=0)
        data.commit(added, removed, commit, hooks)
    except BaseException:
        data.discard()
        raise
    return len(removed)


def sorted_ranges(
    data: DataFiles, files: Sequence[DataFile], target: int = TARGET_BYTES, *, where: pl.Expr | None = None
) -> Iterator[pl.DataFrame]:
    """Yield the rows of a partition's files, sorted, range by range of the column that they are sorted by first.

    Args:
        data: the version that the files are of.
        files: the files.
        target: bytes of a range as it is stored, and so of what is in memory (about six times as much).
        where: which rows; all by default.
    """
    contract = data.contract
    column = contract.sort_by[0]
    chosen = pl.lit(value=True) if where is None else where

    def count(positions: Sequence[int]) -> pl.DataFrame:
        return counted(pl.concat([data.scan(files[at]) for at in positions]), column)

    for unit in units_between(
        None, column, cuts(_extents(files, contract), count, most_rows=_TARGET_ROWS, most_bytes=target)
    ):
        mine = [file for file in files if unit.may_be_in(file.lows.get(column), file.highs.get(column))]
        if mine:
            rows = pl.concat([data.scan(file).filter(unit.holds, chosen) for file in mine])
            yield rows.sort(contract.sort_by).collect()
