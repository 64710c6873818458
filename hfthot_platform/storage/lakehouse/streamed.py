"""A write of more rows than memory holds: audited and handed to the Delta library piece by piece, as one commit."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Literal

import polars as pl
import pyarrow as pa
from deltalake import DeltaTable, write_deltalake

from hfthot_platform.domain.contracts import TableContract
from hfthot_platform.storage.lakehouse.audit import Audited, audit
from hfthot_platform.storage.lakehouse.commits import CommitInputs
from hfthot_platform.storage.lakehouse.storage import translated

__all__ = ["SourceFailedError", "StreamedWrite", "write_rows"]


class SourceFailedError(Exception):
    """The rows themselves failed, not the storage: the caller's own error, which passes through untranslated."""

    def __init__(self, error: Exception) -> None:
        super().__init__(str(error))
        self.error = error


class _RejectedRows(Exception):  # noqa: N818 - ends a stream early, and is an error to nobody
    """A stream that came to its end met rejected rows."""


def write_rows(
    contract: TableContract,
    target: DeltaTable,
    rows: pl.DataFrame | pa.RecordBatchReader,
    inputs: CommitInputs,
    *,
    mode: Literal["append", "overwrite"],
    predicate: str | None = None,
) -> None:
    """Write rows by the Delta library: added to what is there, or in the place of what the predicate says."""
    commit, hooks = inputs
    if isinstance(rows, pl.DataFrame):
        rows = rows.rechunk()  # as in a stream, so that the rows keep their order
    with translated(contract.name):
        if mode == "append":
            write_deltalake(target, rows, mode="append", commit_properties=commit, post_commithook_properties=hooks)
        else:
            write_deltalake(
                target,
                rows,
                mode="overwrite",
                predicate=predicate,
                commit_properties=commit,
                post_commithook_properties=hooks,
            )


@dataclass
class StreamedWrite:
    """Pieces of rows on their way into a table, and the account of them.

    Rejected rows must be in quarantine before the good ones are public, and the Delta library commits as soon as its
    stream ends.  So a stream that met rejected rows breaks off instead of ending, the rows are quarantined, and it
    runs again: bulk loads of clean rows pass once, the others twice.
    """

    contract: TableContract
    pieces: Sequence[pl.LazyFrame | Audited]
    #: Checks a piece's good rows: do they belong where they are to be written?
    require_within: Callable[[pl.DataFrame], None]
    #: Checks the rejected rows and the number of all: may the others be published?
    require_publishable: Callable[[pl.DataFrame, int], None]
    #: Keeps rejected rows.
    quarantine: Callable[[pl.DataFrame], None]
    #: Of the pass that is running or was the last.
    read: int = 0
    published: int = 0
    duplicate: int = 0
    rejected: list[pl.DataFrame] = field(default_factory=list)
    _failures: list[Exception] = field(default_factory=list)
    _quarantined: bool = False

    def write(
        self,
        target: DeltaTable,
        inputs: CommitInputs,
        *,
        mode: Literal["append", "overwrite"],
        predicate: str | None,
    ) -> None:
        """Write all pieces as one commit; the account is complete afterwards.

        Raises:
            SourceFailedError: a piece failed, or does not fit; nothing was published.
        """
        self._quarantined = False
        if not self._pass(target, inputs, mode, predicate):
            self.quarantine(pl.concat(self.rejected))
            self._quarantined = True
            self._pass(target, inputs, mode, predicate)

    def _pass(
        self,
        target: DeltaTable,
        inputs: CommitInputs,
        mode: Literal["append", "overwrite"],
        predicate: str | None,
    ) -> bool:
        """Run the stream once; return False if it broke off because of rejected rows."""
        self.read = self.published = self.duplicate = 0
        self.rejected = []
        self._failures = []
        reader = pa.RecordBatchReader.from_batches(self.contract.empty().to_arrow().schema, self._noted_batches())
        try:
            write_rows(self.contract, target, reader, inputs, mode=mode, predicate=predicate)
        except Exception:
            if not self._failures:
                raise
            if isinstance(self._failures[0], _RejectedRows):
                return False
            raise SourceFailedError(self._failures[0]) from None
        return True

    def _noted_batches(self) -> Iterator[pa.RecordBatch]:
        """Yield the batches; an error inside an Arrow stream surfaces as text, so it is noted as itself."""
        try:
            yield from self._batches()
        except Exception as error:
            self._failures.append(error)
            raise

    def _batches(self) -> Iterator[pa.RecordBatch]:
        for piece in self.pieces:
            audited = piece if isinstance(piece, Audited) else audit(self.contract, piece.collect())
            self.require_within(audited.rows)
            self.read += audited.read
            self.published += audited.rows.height
            self.duplicate += audited.duplicates
            self.rejected.append(audited.rejected)
            # One batch: the writer spreads batches over threads, and days would lose their order.
            yield from audited.rows.rechunk().to_arrow().to_batches()
        rejected = pl.concat(self.rejected)
        self.require_publishable(rejected, self.read)
        if rejected.height and not self._quarantined:
            raise _RejectedRows
