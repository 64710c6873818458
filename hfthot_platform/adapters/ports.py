"""What the outside world offers to the platform: feeds, and the batches that every source yields.

A source turns the oddities of a vendor into canonical rows and lets nothing of them through.  It yields
`Batch`es of bounded size.  Rows that cannot even be parsed travel in the batch as `rejected`, so that

    rows_read = len(rows) + len(rejected) + gaps

holds for each batch; rows that parse but break a rule of the contract are found later, at the audit.  What reads
files is in `files.adapter`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Final, Protocol

import polars as pl

from hfthot_platform.core.errors import BadRequestError, nearest
from hfthot_platform.domain.contracts.model import REJECTED_SCHEMA

__all__ = ["BATCH_ROWS", "Batch", "Feed", "Progress", "check_request", "no_progress", "rejected_rows"]

#: Rows per batch: large enough to amortise a commit, small enough to bound memory.
BATCH_ROWS: Final = 1_000_000
#: Called with (done, total or None, unit) as work proceeds.
Progress = Callable[[int, int | None, str], None]


def no_progress(done: int, total: int | None, unit: str) -> None:
    """Report progress to nobody."""


def check_request(feed: str, tables: Sequence[str], table: str, start: datetime, end: datetime) -> None:
    """Refuse a request that no feed can answer; a span that ends where it begins is empty, and allowed.

    Args:
        feed: the feed's name.
        tables: what it fills.
        table: what is asked for.
        start: the begin of the span.
        end: its end.

    Raises:
        BadRequestError: the feed does not fill the table, a time has no zone, or the end is before the start.
    """
    if table not in tables:
        hint = nearest(table, tables) or f"It fills {', '.join(tables)}."
        raise BadRequestError(f"the feed {feed!r} does not fill {table!r}", where="table", hint=hint)
    for name, time in (("start", start), ("end", end)):
        if time.tzinfo is None:
            raise BadRequestError(f"{time} has no time zone", where=name, hint="Pass an aware time, such as UTC.")
    if end < start:
        raise BadRequestError(f"{end} is before {start}", where="end", hint="Pass the earlier time first.")


def rejected_rows() -> pl.DataFrame:
    """Return an empty frame of rejected rows."""
    return pl.DataFrame(schema=REJECTED_SCHEMA)


@dataclass(frozen=True)
class Batch:
    """Canonical rows of one table, and what could not be parsed on the way.

    `rows` has the columns of the table's contract except the partition column and `schema_version` (the
    lakehouse fills them); nullable columns may be absent.  `rejected` has `REJECTED_SCHEMA`, with the raw
    row as JSON or text.
    """

    table: str
    rows: pl.DataFrame
    source_ref: str
    rejected: pl.DataFrame = field(default_factory=rejected_rows)
    #: Rows that say "nothing was traded": bars without any price.  They are read, and neither good nor bad.
    gaps: int = 0
    #: Whether bars that are not final may have been finished nevertheless: the source does not say when it was made.
    unproven: bool = False

    @property
    def rows_read(self) -> int:
        """Return how many source rows this batch accounts for."""
        return self.rows.height + self.rejected.height + self.gaps


class Feed(Protocol):
    """Fetches rows for a span of time: a remote exchange, an archive, a packaged sample, a simulation."""

    @property
    def name(self) -> str:
        """Return the feed's name, as in settings and provenance."""
        ...

    @property
    def tables(self) -> tuple[str, ...]:
        """Return the tables that this feed can fill."""
        ...

    def fetch(self, table: str, start: datetime, end: datetime, *, progress: Progress = no_progress) -> Iterator[Batch]:
        """Yield the rows of `table` with start <= time < end, in bounded memory, ordered by time per symbol.

        What exactly is promised is in `docs/adapters.md`.

        Raises:
            BadRequestError: as `check_request`.
            SourceUnavailableError: the source did not answer usefully within its retry bound.
        """
        ...
