"""Staging: audited rows that wait for publication, in bounded memory.

Whoever must know the outcome of the audit of everything before anything is published (an orchestrated step
with blocking checks, a feed that yields batch after batch) adds batches here, looks at the account, and then
publishes or walks away.  Batches beyond a memory budget are spooled to a temporary folder.
"""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta
from pathlib import Path
from types import TracebackType
from typing import Final, Self

import polars as pl

from hfthot_platform.core.errors import AuditFailedError
from hfthot_platform.core.files import made_folder
from hfthot_platform.domain.contracts.model import ROW_NUMBER
from hfthot_platform.storage.lakehouse.audit import Audited, RuleResult, rejected_for_conflict
from hfthot_platform.storage.lakehouse.commits import Commit, Stamp
from hfthot_platform.storage.lakehouse.publication import OnChange, WithdrawnRows
from hfthot_platform.storage.lakehouse.table import Table

__all__ = ["WITHHELD", "Rejection", "Staging", "sweep_scratch"]

#: Why a good row is in quarantine: too many others of its source were bad, or the source broke off.
WITHHELD: Final = "withheld"

ROWS_IN_MEMORY = 2_000_000
_PREFIX = "staging-"
#: Of each reason for a rejection, so many rows are kept to be shown.
_SHOWN = 3


@dataclass
class Rejection:
    """Rows that were kept out for one reason: how many, and the first of them."""

    reason: str
    detail: str
    count: int = 0
    #: Position in the source, where known, and the row as it was read.
    first: list[tuple[int | None, str]] = field(default_factory=list)


class Staging:
    """Audited batches of one table.  A context manager: what was spooled is removed at the end."""

    def __init__(self, table: Table, scratch: Path | None = None) -> None:
        self.table = table
        self._scratch = scratch
        self._folder: tempfile.TemporaryDirectory[str] | None = None
        self._batches: list[Audited | tuple[Path, Audited]] = []
        self._in_memory = 0
        self._violations: dict[tuple[str, str], int] = {(rule.name, rule.says): 0 for rule in table.contract.rules}
        self.read = 0
        self.rejected = 0
        #: Rows that repeat another of their batch.
        self.duplicates = 0
        #: What was kept out, by reason.
        self.rejections: dict[str, Rejection] = {}

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._folder is not None:
            self._folder.cleanup()

    def add(self, rows: pl.DataFrame, rejected: pl.DataFrame | None = None) -> Audited:
        """Audit a batch and keep what came of it."""
        audited = self.table.audit(rows, rejected)
        self.read += audited.read
        self.rejected += audited.rejected.height
        self.duplicates += audited.duplicates
        for result in audited.results:
            key = (result.name, result.says)
            self._violations[key] = self._violations.get(key, 0) + result.violations
        self._note(audited.rejected)
        self._batches.append(self._spooled(audited))
        return audited

    def _note(self, rejected: pl.DataFrame) -> None:
        for (reason,), rows in rejected.group_by("reason", maintain_order=True):
            name = str(reason)
            known = self.rejections.setdefault(name, Rejection(name, rows["detail"][0] or ""))
            known.count += rows.height
            known.first += rows.head(_SHOWN - len(known.first)).select("row_number", "row").rows()

    def _spooled(self, audited: Audited) -> Audited | tuple[Path, Audited]:
        rows = audited.rows.height + audited.rejected.height
        if self._in_memory + rows <= ROWS_IN_MEMORY:
            self._in_memory += rows
            return audited
        if self._folder is None:
            if self._scratch is not None:
                made_folder(self._scratch, "scratch")
            self._folder = tempfile.TemporaryDirectory(prefix=_PREFIX, dir=self._scratch)
        path = Path(self._folder.name) / f"{len(self._batches):06d}"
        path.mkdir()
        audited.rows.write_parquet(path / "rows.parquet")
        audited.rejected.write_parquet(path / "rejected.parquet")
        if audited.row_numbers is not None:
            audited.row_numbers.to_frame().write_parquet(path / "row_numbers.parquet")
        nothing = audited.rows.clear(), audited.rejected.clear(), None
        return path, replace(audited, rows=nothing[0], rejected=nothing[1], row_numbers=nothing[2])

    @property
    def results(self) -> tuple[RuleResult, ...]:
        """Return the account per rule over all batches."""
        return tuple(RuleResult(name, says, count) for (name, says), count in self._violations.items())

    @property
    def publishable(self) -> bool:
        """Return whether the contract allows publishing the good rows."""
        return self.table.contract.tolerates(self.rejected, self.read)

    def batches(self) -> Iterator[Audited]:
        """Yield the audited batches, each loaded when it is asked for."""
        return map(self.batch, range(len(self._batches)))

    def batch(self, number: int) -> Audited:
        """Return one of the audited batches, loaded where it was spooled."""
        batch = self._batches[number]
        if isinstance(batch, Audited):
            return batch
        path, audited = batch
        numbers = path / "row_numbers.parquet"
        return replace(
            audited,
            rows=pl.read_parquet(path / "rows.parquet"),
            rejected=pl.read_parquet(path / "rejected.parquet"),
            row_numbers=pl.read_parquet(numbers).to_series() if numbers.exists() else None,
        )

    def quarantine(self, *, source_ref: str = "", stamp: Stamp | None = None) -> None:
        """Keep the rejected rows, as one commit."""
        self.table.quarantine_all(
            lambda: (batch.rejected for batch in self.batches()), source_ref=source_ref, stamp=stamp
        )

    def withhold(self, detail: str, *, source_ref: str = "", stamp: Stamp | None = None) -> None:
        """Keep all rows out, as one commit: the rejected ones for their reason, the good ones as `withheld`."""
        contract = self.table.contract

        def rows() -> Iterator[pl.DataFrame]:
            for batch in self.batches():
                good = batch.rows
                if batch.row_numbers is not None:
                    good = good.with_columns(batch.row_numbers.alias(ROW_NUMBER))
                withheld = rejected_for_conflict(contract, good).with_columns(
                    pl.lit(WITHHELD).alias("reason"), pl.lit(detail).alias("detail")
                )
                yield pl.concat([batch.rejected, withheld])

        self.table.quarantine_all(rows, source_ref=source_ref, stamp=stamp)

    def merge(
        self,
        *,
        on_change: OnChange = "update",
        source_ref: str = "",
        in_place_of: WithdrawnRows | None = None,
        stamp: Stamp | None = None,
    ) -> Commit:
        """Publish all batches by merge on the key, as one commit; running it again publishes nothing twice.

        Args:
            on_change: what a row does to one of the same key with other values.
            source_ref: what the rows came from, where it is one file.
            in_place_of: a source whose rows are taken out in the same commit.
            stamp: who writes and why.

        Raises:
            AuditFailedError: more rows of all batches were rejected than the contract allows; nothing was
                published.
        """
        self.require_publishable()
        # Bad rows are safe before good ones are public: a crash between the two loses none.
        self.quarantine(source_ref=source_ref, stamp=stamp)
        commit = self.table.publish(
            lambda: (replace(batch, rejected=batch.rejected.clear()) for batch in self.batches()),
            source_ref=source_ref,
            in_place_of=in_place_of,
            on_change=on_change,
            stamp=stamp,
        )
        return commit.with_rejected(self.rejected)

    def require_publishable(self) -> None:
        """Raise AuditFailedError if the contract does not allow publishing the good rows."""
        if self.publishable:
            return
        raise AuditFailedError(
            f"{self.rejected} of {self.read} rows were rejected; the limit is "
            f"{self.table.contract.max_rejected_share:.0%}",
            where=self.table.contract.name,
            hint="Nothing was published. Correct the source or the computation, then run it again.",
        )


def sweep_scratch(scratch: Path, now: datetime, older_than: timedelta = timedelta(days=1)) -> int:
    """Remove what killed processes left in the scratch folder; return how many folders that were.

    A staging lives for minutes; a folder that nobody changed for a day belongs to nobody.
    """
    dead = [
        path
        for path in scratch.glob(f"{_PREFIX}*")
        if path.is_dir() and now.timestamp() - path.stat().st_mtime > older_than.total_seconds()
    ]
    for path in dead:
        shutil.rmtree(path)
    return len(dead)
