"""Staging: audited rows that wait for publication, in bounded memory.

Whoever must know the outcome of the audit of everything before anything is published (an orchestrated step
with blocking checks, a feed that yields batch after batch) adds batches here, looks at the account, and then
publishes or walks away.  Batches beyond a memory budget are spooled to a temporary folder.
"""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Iterator
from dataclasses import replace
from datetime import datetime, timedelta
from pathlib import Path
from types import TracebackType
from typing import Literal, Self

import polars as pl

from hfthot_platform.errors import AuditFailedError
from hfthot_platform.lakehouse.audit import Audited, RuleResult
from hfthot_platform.lakehouse.commits import Commit, Stamp
from hfthot_platform.lakehouse.table import Table

__all__ = ["OnChange", "Staging", "finished_first", "sweep_scratch"]

#: What a merge does to a row that is there with other values.
OnChange = Literal["update", "keep", "reject"]

_ROWS_IN_MEMORY = 2_000_000
_PREFIX = "staging-"


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
        for result in audited.results:
            key = (result.name, result.says)
            self._violations[key] = self._violations.get(key, 0) + result.violations
        self._batches.append(self._spooled(audited))
        return audited

    def _spooled(self, audited: Audited) -> Audited | tuple[Path, Audited]:
        if self._in_memory + audited.rows.height <= _ROWS_IN_MEMORY:
            self._in_memory += audited.rows.height
            return audited
        if self._folder is None:
            if self._scratch is not None:
                self._scratch.mkdir(parents=True, exist_ok=True)
            self._folder = tempfile.TemporaryDirectory(prefix=_PREFIX, dir=self._scratch)
        path = Path(self._folder.name) / f"{len(self._batches):06d}.parquet"
        audited.rows.write_parquet(path)
        return path, replace(audited, rows=audited.rows.clear())

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
        for batch in self._batches:
            if isinstance(batch, Audited):
                yield batch
            else:
                path, audited = batch
                yield replace(audited, rows=pl.read_parquet(path))

    def quarantine(self, *, stamp: Stamp | None = None) -> None:
        """Keep the rejected rows although nothing is published, for whoever looks into it."""
        for batch in self.batches():
            self.table.quarantine(batch, stamp=stamp)

    def merge(self, *, on_change: OnChange = "update", stamp: Stamp | None = None) -> list[Commit]:
        """Publish every batch by merge on the key; running it again publishes nothing twice.

        Raises:
            AuditFailedError: more rows of all batches were rejected than the contract allows; nothing was
                published.
        """
        self.require_publishable()
        commits = []
        for batch in self.batches():
            # The share is judged over all batches, so the one batch that has more of them passes too.
            self.table.quarantine(batch, stamp=stamp)
            rejected = batch.rejected.height
            for part, how in finished_first(batch, on_change):
                commits.append(self.table.merge(part, on_change=how, stamp=stamp).with_rejected(rejected))
                rejected = 0
        return commits

    def require_publishable(self) -> None:
        """Raise AuditFailedError if the contract does not allow publishing the good rows."""
        if self.publishable:
            return
        raise AuditFailedError(
            f"{self.rejected} of {self.read} rows are rejected; "
            f"at most {self.table.contract.max_rejected_share:.0%} may be",
            where=self.table.contract.name,
            hint="Nothing was published. Correct the source or the computation and run it again.",
        )


def finished_first(audited: Audited, on_change: OnChange) -> Iterator[tuple[Audited, OnChange]]:
    """Yield what to merge of an audit's good rows, and how: an unfinished bar never replaces another row.

    It may fill a gap.  The rejected rows are not in it: they are quarantined as a whole, before anything is public.
    """
    rows, none = audited.rows, audited.rejected.clear()
    if "final" not in rows.columns or rows["final"].all():
        yield replace(audited, rejected=none), on_change
        return
    yield replace(audited, rows=rows.filter(pl.col("final")), rejected=none), on_change
    yield replace(audited, rows=rows.filter(~pl.col("final")), rejected=none, duplicates=0), "keep"


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
