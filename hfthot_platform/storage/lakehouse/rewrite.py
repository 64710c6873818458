"""Changing single rows of a table by rewriting exactly the data files that hold them, as one commit.

The Delta library's own merge and delete write what they look for into the log (the predicate, and the span of
keys that it derives to prune files), where it stays for as long as the log does.  Here the files are chosen by
their statistics, read, and written again without a predicate; the log gains nothing but files, and a row's old
value is gone from the new version.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator
from datetime import date
from typing import Any, Final

import polars as pl
from deltalake import DeltaTable

from hfthot_platform.domain.contracts import TableContract
from hfthot_platform.storage.lakehouse.backends import Backend
from hfthot_platform.storage.lakehouse.datafiles import DataFile, DataFiles

__all__ = ["Rewrite"]

#: Rows of a file.  One person's rows are erased by writing one file again, so files are kept small.
FILE_ROWS: Final = 65_536
_ROW_GROUP_ROWS: Final = 16_384
#: A file with fewer rows is merged with others when it is written again, or when there are too many of them.
SMALL_ROWS: Final = FILE_ROWS // 8
_MOST_SMALL_FILES: Final = 12


class Rewrite:
    """The change of some rows of one version of a table: which files it touches, and the new ones.

    Args:
        contract: the table's contract.
        handle: the version to change; the change is committed through it, and fails if another came since.
        backend: where the files are.
        rows: audited rows that take the place of those with the same key.  A row's partition and subject must
            never differ from those of an earlier row of its key: files are pruned by them.
        forget: subjects whose rows are deleted; rows of theirs among `rows` are later ones and stay.
        redact: subjects whose rows lose their personal columns.
    """

    def __init__(
        self,
        contract: TableContract,
        handle: DeltaTable,
        backend: Backend,
        *,
        rows: pl.DataFrame,
        forget: Collection[str],
        redact: Collection[str],
    ) -> None:
        self._contract = contract
        self._data = DataFiles(contract, handle, backend, row_group_rows=_ROW_GROUP_ROWS, times_in_log=False)
        self._rows = rows
        #: The columns that say whom a row is about, and whether its personal columns were erased; none has neither.
        self._subject, self._redacted = contract.subject or "", contract.redaction or ""
        self._forget = pl.Series(self._subject, sorted(set(forget)), dtype=pl.String)
        self._redact = pl.Series(self._subject, sorted(set(redact)), dtype=pl.String)
        self._partitions: dict[date | int | None, pl.DataFrame] = {None: rows}
        if contract.partition_by:
            self._partitions = {
                key[0]: part for key, part in rows.partition_by(contract.partition_by, as_dict=True).items()
            }
        prunable = [
            name
            for name in dict.fromkeys((*contract.primary_key, self._subject))
            if name in contract.stats_columns
            and name in contract.column_names
            and name != contract.partition_by
            and not contract.column(name).nullable
        ]
        self._wanted = {
            partition: {name: mine[name].unique().sort() for name in prunable}
            for partition, mine in self._partitions.items()
        }
        #: Stored rows that the incoming ones replace, and stored rows deleted or redacted.
        self.replaced = 0
        self.forgotten = 0
        self._files = list(self._data.stored())
        self._touched = [file for file in self._files if self._touches(file)]

    @property
    def changes(self) -> bool:
        """Return whether there is anything to commit."""
        return bool(self._rows.height or self._touched)

    def commit(self, properties: Any, hooks: Any) -> None:
        """Write the new files and publish them in the place of the touched ones.

        Raises:
            CommitFailedError: another version came since the handle was read; nothing is published.
        """
        added = [self._data.write(partition, rows) for partition, rows in self._new_files()]
        self._data.commit(added, self._touched, properties, hooks)

    def discard(self) -> None:
        """Delete the new files of a commit that came to nothing; on an object store a vacuum does."""
        self._data.discard()

    # -- which files ----------------------------------------------------------------------------------------

    def _touches(self, file: DataFile) -> bool:
        """Whether a file holds a row that changes; counts those rows."""
        contract = self._contract
        key = list(contract.primary_key)
        mine = self._partitions.get(file.partition)
        if mine is not None and not all(
            _may_hold(file, name, values) for name, values in self._wanted[file.partition].items()
        ):
            mine = None
        subjects = (self._forget, self._redact)
        erased = [ids for ids in subjects if ids.len() and _may_hold(file, self._subject, ids)]
        if (mine is None or not mine.height) and not erased:
            return False
        names = list(dict.fromkeys((*key, *((self._subject, self._redacted) if erased else ()))))
        stored = self._read(file, [name for name in names if name in contract.column_names])
        replaced = forgotten = 0
        if mine is not None and mine.height:
            replaced = stored.join(mine.select(key), on=key, how="semi").height
        if erased:
            gone = pl.col(self._subject).is_in(self._forget.implode())
            if self._redact.len():
                gone |= pl.col(self._subject).is_in(self._redact.implode()) & pl.col(self._redacted).not_()
            forgotten = stored.filter(gone).height
        self.replaced += replaced
        self.forgotten += forgotten
        return bool(replaced or forgotten)

    # -- new files ------------------------------------------------------------------------------------------

    def _new_files(self) -> Iterator[tuple[date | int | None, pl.DataFrame]]:
        """Yield partition and rows of each new file; one touched file is in memory at a time.

        A large file is written again by itself, with the new rows that fall into its span.  Small ones are
        merged with what is left; so are the untouched small ones where they have become many.
        """
        first = self._contract.sort_by[0]
        waiting = dict(self._partitions)
        pools: dict[date | int | None, list[pl.DataFrame]] = {}
        for file in self._touched:
            kept = self._kept(file)
            low, high = file.lows.get(first), file.highs.get(first)
            mine = waiting.get(file.partition)
            if _is_small(file) or low is None or high is None:
                pools.setdefault(file.partition, []).append(kept)
                continue
            if mine is not None:
                inside = pl.col(first).is_between(pl.lit(low), pl.lit(high))
                kept = pl.concat([kept, mine.filter(inside)])
                waiting[file.partition] = mine.filter(inside.not_() | pl.col(first).is_null())
            yield from self._sliced(file.partition, kept)
        for partition, mine in waiting.items():
            if mine.height:
                pools.setdefault(partition, []).append(mine)
                touched = {stored.path for stored in self._touched}
                small = [
                    stored
                    for stored in self._files
                    if stored.partition == partition and _is_small(stored) and stored.path not in touched
                ]
                if len(small) >= _MOST_SMALL_FILES:
                    pools[partition] += [self._read(stored) for stored in small]
                    self._touched += small
        for partition, parts in pools.items():
            yield from self._sliced(partition, pl.concat(parts))

    def _kept(self, file: DataFile) -> pl.DataFrame:
        """Return the rows of a file that stay, redacted where that is asked for."""
        rows = self._read(file)
        mine = self._partitions.get(file.partition)
        if mine is not None:
            rows = rows.join(mine, on=self._contract.primary_key, how="anti", maintain_order="left")
        if self._forget.len():
            rows = rows.join(self._forget.to_frame(), on=self._subject, how="anti", maintain_order="left")
        if self._redact.len():
            erased = pl.col(self._subject).is_in(self._redact.implode()).fill_null(value=False)
            personal = [column.name for column in self._contract.columns if column.personal]
            rows = rows.with_columns(
                *(pl.when(erased.not_()).then(pl.col(name)).alias(name) for name in personal),
                (pl.col(self._redacted) | erased).alias(self._redacted),
            )
        return rows

    def _sliced(
        self, partition: date | int | None, rows: pl.DataFrame
    ) -> Iterator[tuple[date | int | None, pl.DataFrame]]:
        rows = rows.sort(self._contract.sort_by)
        count = -(-rows.height // FILE_ROWS)
        if count:
            yield from ((partition, part) for part in rows.iter_slices(-(-rows.height // count)))

    def _read(self, file: DataFile, columns: list[str] | None = None) -> pl.DataFrame:
        """Return a file's rows in the contract's columns and types."""
        rows = self._data.scan(file)
        return (rows if columns is None else rows.select(columns)).collect()


def _is_small(file: DataFile) -> bool:
    """Whether the file is worth merging with others."""
    return file.rows is not None and file.rows < SMALL_ROWS


def _may_hold(file: DataFile, column: str, values: pl.Series) -> bool:
    """Whether any of the values (sorted, none null) can be in the file, by its statistics."""
    low, high = file.lows.get(column), file.highs.get(column)
    if low is None or high is None:
        return values.len() > 0
    return bool(values.search_sorted(high, side="right") > values.search_sorted(low, side="left"))
