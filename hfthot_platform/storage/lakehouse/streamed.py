"""A write of more rows than memory holds: audited and written piece by piece, to be one commit."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field

import polars as pl

from hfthot_platform.domain.contracts import TableContract
from hfthot_platform.storage.lakehouse.audit import Audited, audit
from hfthot_platform.storage.lakehouse.datafiles import DataFile, DataFiles

__all__ = ["SourceFailedError", "StreamedWrite"]


class SourceFailedError(Exception):
    """The rows themselves failed, not the storage: the caller's own error, which passes through untranslated."""

    def __init__(self, error: Exception) -> None:
        super().__init__(str(error))
        self.error = error


@dataclass
class StreamedWrite:
    """Pieces of rows on their way into a table, and the account of them."""

    contract: TableContract
    pieces: Sequence[pl.LazyFrame | Audited]
    #: Checks a piece's good rows: do they belong where they are to be written?
    require_within: Callable[[pl.DataFrame], None]
    #: Checks the rejected rows and the number of all: may the others be published?
    require_publishable: Callable[[pl.DataFrame, int], None]
    #: Stored rows that are written again as they are, piece by piece.
    kept: Iterable[pl.DataFrame] = ()
    read: int = 0
    published: int = 0
    duplicate: int = 0
    #: What was rejected of all pieces; it must be in quarantine before the good rows are public.
    rejected: list[pl.DataFrame] = field(default_factory=list)

    def write(self, data: DataFiles) -> list[DataFile]:
        """Write the files of all pieces; the account is complete afterwards, and nothing is public yet.

        Raises:
            SourceFailedError: a piece failed, or does not fit.
        """
        added: list[DataFile] = []
        for piece in self.pieces:
            try:
                audited = piece if isinstance(piece, Audited) else audit(self.contract, piece.collect())
                self.require_within(audited.rows)
            except Exception as error:  # noqa: BLE001 - the caller's own, whatever it is
                raise SourceFailedError(error) from None
            self.read += audited.read
            self.published += audited.rows.height
            self.duplicate += audited.duplicates
            self.rejected.append(audited.rejected)
            added += data.write_all(audited.rows)
        try:
            self.require_publishable(pl.concat(self.rejected), self.read)
        except Exception as error:  # noqa: BLE001 - the caller's own, whatever it is
            raise SourceFailedError(error) from None
        for stored in self.kept:
            added += data.write_all(stored)
        return added
