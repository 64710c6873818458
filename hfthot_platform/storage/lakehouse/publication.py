"""One commit for all batches of a source, and for what it takes the place of.

`compared` says what becomes of incoming rows beside those that are there; `Publication` writes the data files
of a whole source, batch by batch in bounded memory, and publishes them in one entry of the log: a reader sees
all of it or nothing, and so does whoever comes after a crash.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Sequence
from dataclasses import dataclass, field
from datetime import date, datetime
from typing import Any, Final, Literal

import polars as pl

from hfthot_platform.core.errors import BadRequestError
from hfthot_platform.domain.contracts import TableContract
from hfthot_platform.storage.lakehouse.audit import rejected_for_conflict
from hfthot_platform.storage.lakehouse.datafiles import DataFile, DataFiles

__all__ = ["OnChange", "Publication", "RowComparison", "WithdrawnRows", "compared"]

#: What a merge does to a row that is there with other values.
OnChange = Literal["update", "keep", "reject"]

#: Whether a row that incoming ones are compared with was published before, and not just now by an earlier batch.
_STORED: Final = "_stored"


@dataclass(frozen=True)
class WithdrawnRows:
    """The rows of a source that are taken out of a table, and what may come back for them."""

    #: Part of the provenance of its rows, such as the hash of a file's content.
    reference: str
    #: A provenance that has the part too and is not meant.
    but: str = ""
    #: Versions from before the source was published, in the order in which they are looked at: a row that gave
    #: way to one of the source comes back from the first that has one of a source that still stands.
    before: Sequence[int] = ()
    #: Of some provenances, those that still stand.
    standing: Callable[[Collection[str]], Collection[str]] = set
    #: Times between which the source's rows lie, where that is known.
    first: datetime | None = None
    last: datetime | None = None

    def rows(self, provenance: str) -> pl.Expr:
        """Return the filter for its rows, by the column of their provenance."""
        reference = pl.col(provenance)
        return (reference.str.contains(self.reference, literal=True) & (reference != self.but)).fill_null(value=False)


@dataclass(frozen=True)
class RowComparison:
    """Incoming rows next to those that are there."""

    #: What is to be written: rows of new keys, and those that take the place of another.
    source: pl.DataFrame
    #: How many of these take the place of another.
    updated: int
    #: Rows that add nothing.
    duplicates: int
    #: Rows that an interrupted earlier run of the same source had already published.
    replayed: pl.DataFrame
    #: Rows that contradict one that stands, in the quarantine's form; None if there are none.
    conflicts: pl.DataFrame | None


def compared(
    contract: TableContract, rows: pl.DataFrame, current: pl.LazyFrame, on_change: OnChange, *, one_source: bool = False
) -> RowComparison:
    """Compare rows, unique on the key, with a table's rows of the same partitions.

    A row that is not final fills a gap, and never takes the place of another row.

    Args:
        contract: the table's contract.
        rows: the incoming rows.
        current: the rows that are there; `_stored` false marks those of an earlier batch of the same source.
        on_change: what a row does to one of the same key with other values.
        one_source: whether rows of one provenance come from one reading of one file: then a second, different
            row for a key contradicts the first, whatever `on_change` says.
    """
    key = list(contract.primary_key)
    # The key's columns are pruned by file statistics to the span of the incoming rows.
    for name in key:
        if name in contract.stats_columns and name != contract.partition_by:
            current = current.filter(pl.col(name).is_between(pl.lit(rows[name].min()), pl.lit(rows[name].max())))
    provenance = contract.provenance
    tracked = list(dict.fromkeys((*contract.value_columns, *((provenance,) if provenance else ()))))
    if _STORED not in current.collect_schema():
        current = current.with_columns(pl.lit(value=True).alias(_STORED))
    there = current.select(*key, *tracked, _STORED).join(rows.lazy().select(key), on=key, how="semi").collect()
    if not there.height:
        return RowComparison(rows, 0, 0, rows.clear(), None)
    joined = rows.join(there, on=key, how="left", suffix="_now", maintain_order="left")
    differs = pl.any_horizontal(
        [pl.col(name).ne_missing(pl.col(f"{name}_now")) for name in contract.value_columns] or [pl.lit(value=False)]
    )
    mine = (
        (pl.col(provenance) == pl.col(f"{provenance}_now")).fill_null(value=False)
        if provenance
        else pl.lit(value=False)
    )
    final = pl.col(contract.finality) if contract.finality else pl.lit(value=True)
    told = joined.select(
        known=pl.col(_STORED).is_not_null(), before=pl.col(_STORED), differs=differs, mine=mine, final=final
    ).with_columns(changed=pl.col("known") & pl.col("differs"))
    refused = pl.col("changed") & (pl.col("mine") if one_source else pl.lit(value=False))
    if on_change == "reject":
        refused = pl.col("changed")
    updates = pl.col("changed") & refused.not_() & pl.col("final") if on_change == "update" else pl.lit(value=False)
    again = pl.col("known") & pl.col("changed").not_() & pl.col("mine") & pl.col("before")
    told = told.with_columns(refused=refused, updates=updates, again=again)
    conflicts = rows.filter(told["refused"])
    source = rows.filter(~told["known"] | told["updates"])
    replayed = rows.filter(told["again"])
    return RowComparison(
        source=source,
        updated=int(told["updates"].sum()),
        duplicates=rows.height - source.height - replayed.height - conflicts.height,
        replayed=replayed,
        conflicts=rejected_for_conflict(contract, conflicts) if conflicts.height else None,
    )


@dataclass
class Publication:
    """The files of one commit.  Nothing of it can be seen before `commit`; `discard` leaves nothing."""

    data: DataFiles
    #: The rows of the version that is changed.
    rows: pl.LazyFrame
    withdrawn: int = 0
    restored: int = 0
    updated: int = 0
    #: UTC days of rows that were added, replaced, taken out or brought back.
    days: set[date] = field(default_factory=set)
    _former: WithdrawnRows | None = None
    #: Written files: of the incoming rows, and of rows that came back.
    _incoming: list[DataFile] = field(default_factory=list)
    _back: list[DataFile] = field(default_factory=list)
    #: Files that the commit adds, and stored ones that it removes.
    _new: list[DataFile] = field(default_factory=list)
    _removed: list[DataFile] = field(default_factory=list)
    #: Stored files with rows that are taken out, and partitions in which rows are replaced.
    _touched: set[str] = field(default_factory=set)
    _stale: set[object] = field(default_factory=set)

    def __post_init__(self) -> None:
        """Read the names of the files that are there."""
        self._contract = self.data.contract
        self._stored = list(self.data.stored())

    def take_out(self, former: WithdrawnRows, before: Sequence[pl.LazyFrame]) -> None:
        """Take the rows of a source out, and bring back those that had given way to them.

        Args:
            former: the source.
            before: the rows of its versions `before`.
        """
        contract = self._contract
        if contract.provenance is None:
            raise BadRequestError(
                "the table does not record the source of its rows, so no source can be withdrawn", where=contract.name
            )
        self._former = former
        times = filter(None, (contract.partition_by, contract.time_column))
        kept = list(dict.fromkeys((*contract.primary_key, *times)))
        for file in self._stored:
            if not _within_times(contract, file, former.first, former.last):
                continue
            gone = self.data.scan(file).filter(former.rows(contract.provenance)).select(kept).collect()
            if not gone.height:
                continue
            self._touched.add(file.path)
            self.withdrawn += gone.height
            self._note_days(gone)
            back = self._what_gave_way(file, gone, before)
            if back.height:
                self.restored += back.height
                self._back.append(self.data.write(file.partition, back))

    def _what_gave_way(self, file: DataFile, gone: pl.DataFrame, before: Sequence[pl.LazyFrame]) -> pl.DataFrame:
        contract, key = self._contract, list(self._contract.primary_key)
        found = [contract.empty()]
        missing = gone.select(key)
        for rows in before:
            if not missing.height:
                break
            if contract.partition_by:
                rows = rows.filter(pl.col(contract.partition_by) == pl.lit(file.partition))  # noqa: PLW2901
            there = rows.filter(self._taken_out().not_()).join(missing.lazy(), on=key, how="semi").collect()
            if self._former is not None and contract.provenance is not None:
                stand = self._former.standing(there[contract.provenance].unique().to_list())
                there = there.filter(pl.col(contract.provenance).is_in(sorted(stand)))
            found.append(there)
            missing = missing.join(there, on=key, how="anti")
        return pl.concat(found).sort(contract.sort_by)

    def _taken_out(self) -> pl.Expr:
        provenance = self._contract.provenance
        if self._former is None or provenance is None:
            return pl.lit(value=False)
        return self._former.rows(provenance)

    def add(self, rows: pl.DataFrame, on_change: OnChange, *, one_source: bool) -> RowComparison:
        """Write what a batch of audited rows adds to what is there and to the batches before it."""
        if not rows.height:
            return RowComparison(rows, 0, 0, rows, None)
        by = self._contract.partition_by
        found = compared(self._contract, rows, self._what_stands(rows), on_change, one_source=one_source)
        for partition, part in _parts(found.source, by):
            self._incoming.append(self.data.write(partition, part))
            if found.updated:
                self._stale.add(partition)
        self.updated += found.updated
        self._note_days(found.source)
        self._note_days(found.replayed)
        return found

    def finish(self) -> None:
        """Write again, without the rows that went, the stored files that held any."""
        incoming = list(self._incoming)
        for file in self._stored:
            newer = self._newer(file, incoming)
            if newer or file.path in self._touched:
                rest = self._rest(file, newer)
                if rest.height == file.rows:
                    continue
                self._removed.append(file)
                if rest.height:
                    self._new.append(self.data.write(file.partition, rest))
        # What comes back may give way to what is added, and that to a later batch.
        for file, later in [
            *((file, incoming) for file in self._back),
            *((file, incoming[number:]) for number, file in enumerate(incoming, 1)),
        ]:
            newer = self._newer(file, later)
            if not newer or (rest := self._rest(file, newer)).height == file.rows:
                self._new.append(file)
            elif rest.height:
                self._new.append(self.data.write(file.partition, rest))

    @property
    def changes(self) -> bool:
        """Return whether there is anything to commit."""
        return bool(self._new or self._removed)

    def commit(self, properties: Any, hooks: Any, *, concerns: Callable[[int], bool] | None = None) -> None:
        """Publish; see `DataFiles.commit`.

        Raises:
            CommitFailedError: another version came since the one that is changed; nothing is published.
        """
        self.data.commit(self._new, self._removed, properties, hooks, concerns=concerns)

    def discard(self) -> None:
        """Delete what was written, after a failure."""
        self.data.discard()

    def _what_stands(self, rows: pl.DataFrame) -> pl.LazyFrame:
        """Return what incoming rows are compared with: what is there, what comes back, and the batches before."""
        by = self._contract.partition_by
        there = self.rows
        partitions: set[object] = {None}
        if by:
            values = rows[by].unique().sort()
            partitions = set(values.to_list())
            there = there.filter(pl.col(by).is_in(values.implode()))
        if self._touched:
            there = there.filter(self._taken_out().not_())
        bounds = DataFile("", 0, rows.height, None, *_bounds(self._contract, rows))
        frames = [there.with_columns(pl.lit(value=True).alias(_STORED))]
        for files, stored in ((self._back, True), (self._incoming, False)):
            frames += [
                self.data.scan(file).with_columns(pl.lit(value=stored).alias(_STORED))
                for file in files
                if file.partition in partitions and _overlap(self._contract, file, bounds)
            ]
        return pl.concat(frames)

    def _newer(self, file: DataFile, later: Sequence[DataFile]) -> list[DataFile]:
        """Return the files of added rows to which rows of a file may have given way."""
        if file.partition not in self._stale:
            return []
        return [other for other in later if other.partition == file.partition and _overlap(self._contract, file, other)]

    def _rest(self, file: DataFile, newer: Sequence[DataFile]) -> pl.DataFrame:
        """Return the rows of a file that stay."""
        key = self._contract.primary_key
        stored = self.data.scan(file)
        if file.path in self._touched:
            stored = stored.filter(self._taken_out().not_())
        rest = stored.collect()
        for other in newer:
            added = self.data.scan(other).select(key).collect()
            rest = rest.join(added, on=key, how="anti", maintain_order="left")
        return rest

    def _note_days(self, rows: pl.DataFrame) -> None:
        time = self._contract.time_column
        if time is not None and rows.height:
            self.days |= set(rows.select(pl.col(time).cast(pl.Date)).to_series().unique().to_list())


def _parts(rows: pl.DataFrame, by: str | None) -> Iterator[tuple[Any, pl.DataFrame]]:
    if not rows.height:
        return
    if by is None:
        yield None, rows
        return
    for key, part in rows.partition_by(by, as_dict=True, maintain_order=True).items():
        yield key[0], part


def _bounds(contract: TableContract, rows: pl.DataFrame) -> tuple[dict[str, Any], dict[str, Any]]:
    names = [name for name in contract.primary_key if name in contract.stats_columns]
    return {name: rows[name].min() for name in names}, {name: rows[name].max() for name in names}


def _overlap(contract: TableContract, one: DataFile, other: DataFile) -> bool:
    """Whether two files of a partition can hold the same key, by their statistics."""
    for name in contract.primary_key:
        lows, highs = (one.lows.get(name), other.lows.get(name)), (one.highs.get(name), other.highs.get(name))
        if None in lows or None in highs:
            continue
        if max(map(_floor, lows)) > min(map(_floor, highs)):
            return False
    return True


def _floor(value: Any) -> Any:
    """Return a bound as the log has it: times cut to milliseconds, texts to a length."""
    if isinstance(value, datetime):
        return value.replace(microsecond=value.microsecond // 1000 * 1000)
    return value


def _within_times(contract: TableContract, file: DataFile, first: datetime | None, last: datetime | None) -> bool:
    """Whether a file may hold rows between two times, by its statistics."""
    name = contract.time_column or ""
    low, high = file.lows.get(name), file.highs.get(name)
    if low is None or high is None or first is None or last is None:
        return True
    if not isinstance(low, datetime):
        return bool(low <= last.date() and high >= first.date())
    return bool(_floor(low) <= last and _floor(high) >= _floor(first))
