"""What is known of every file: one row of `ops.ingest_files` per content and table, and whether its rows still stand.

A file is known by its content; a reading of it, by the content and the mapping that was declared for it.  Of a
content one reading at most is published: another takes its place.  An archive may fill several tables: each has a row
and a commit of its own, and before the first of these commits all rows say `publishing`, so that what a killed run
leaves half done is seen and taken back.  Whether a reading stands is for its table to
say: rows that a restore took away are not there, whatever the record says.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Collection, Iterable
from dataclasses import dataclass, field
from datetime import UTC, date, datetime
from itertools import pairwise
from typing import Any, Final, Literal

import polars as pl

from hfthot_platform.core.time import ONE_DAY
from hfthot_platform.storage.lakehouse import Lakehouse, Stamp
from hfthot_platform.storage.lakehouse.publication import WithdrawnRows
from hfthot_platform.storage.lakehouse.staging import Rejection

__all__ = [
    "FILES",
    "FileOutcome",
    "FileRecord",
    "days_in_words",
    "former_of",
    "known",
    "known_of",
    "record",
    "row_key",
    "stands",
]

FILES: Final = "ops.ingest_files"
#: The `source_ref` of a file's rows: adapter, content, and mapping where one is declared.
_OF_A_FILE: Final = re.compile(r"[a-z_]+:[0-9a-f]{16}(\.[0-9a-f]{8})?")
#: How many versions from before a file are looked at for rows that come back.
_MOST_VERSIONS: Final = 20

Status = Literal["publishing", "published", "rejected", "repeated", "withdrawn", "failed"]


@dataclass(frozen=True)
class FileOutcome:
    """What became of one file, or of what it holds for one of several tables.

    `rows_read = rows_published + rows_duplicate + rows_quarantined + rows_gaps`.
    """

    name: str
    #: SHA-256 of the content; of reason and name for a file whose content was not looked at.  Of the second and
    #: further tables that one file fills, as `row_key` makes it.
    content_hash: str
    bytes: int
    #: `repeated`: its rows are there already.  `failed`: the lake, not the file, is at fault, and the file waits.
    status: Status
    reason: str | None = None
    detail: str | None = None
    adapter: str | None = None
    table: str | None = None
    rows_read: int = 0
    rows_published: int = 0
    rows_duplicate: int = 0
    rows_quarantined: int = 0
    #: Rows that say that nothing was traded.
    rows_gaps: int = 0
    #: Rows of this content that were taken out of the table: by a withdrawal, or because another reading of it
    #: took their place; and rows of other sources that came back for them.
    rows_withdrawn: int = 0
    rows_restored: int = 0
    #: Published rows that took the place of another source's.
    rows_updated: int = 0
    first_ts: datetime | None = None
    last_ts: datetime | None = None
    #: SHA-256 of the mapping that was declared; None without one.
    mapping_hash: str | None = None
    source_ref: str | None = None
    #: The commit that published the rows.
    version: int | None = None
    commit_id: str | None = None
    #: Days whose rows changed, for whoever computes from them.
    days: frozenset[date] = field(default_factory=frozenset)
    #: What was kept out, by reason, with the first rows of each.
    rejections: tuple[Rejection, ...] = ()
    #: SHA-256 of the file where `content_hash` is not.
    file_hash: str | None = None

    @property
    def digest(self) -> str:
        """Return the SHA-256 of the file's bytes."""
        return self.file_hash or self.content_hash

    @property
    def query(self) -> str | None:
        """Return the SQL that shows the file's quarantined rows; None if there are none."""
        if not self.rows_quarantined or not self.table or not self.source_ref:
            return None
        kept = f"quarantine.{self.table.rpartition('.')[2]}"
        # Text for a person to run; both values are our own words.
        return f"SELECT reason, detail, row_number, row FROM {kept} WHERE source_ref = '{self.source_ref}'"  # noqa: S608

    @property
    def adds_up(self) -> bool:
        """Return whether every row that was read is accounted for."""
        kept = self.rows_published + self.rows_duplicate + self.rows_quarantined + self.rows_gaps
        return self.rows_read == kept


@dataclass(frozen=True)
class FileRecord:
    """A row of `ops.ingest_files`."""

    content_hash: str
    name: str
    bytes: int
    status: str
    target: str | None
    adapter: str | None
    mapping_hash: str | None
    source_ref: str | None
    rows_published: int
    rows_updated: int
    version: int | None
    commit_id: str | None
    first_ts: datetime | None
    last_ts: datetime | None
    ingested_at: datetime
    run_id: str
    days: frozenset[date]
    file_hash: str | None

    @property
    def digest(self) -> str:
        """Return the SHA-256 of the file's bytes."""
        return self.file_hash or self.content_hash


_COLUMNS: Final = tuple(FileRecord.__dataclass_fields__)


def known(lake: Lakehouse, *conditions: pl.Expr) -> list[FileRecord]:
    """Return the records of files that meet the conditions, newest last."""
    rows = lake.table(FILES).scan().filter(*conditions).select(_COLUMNS).sort("ingested_at", "content_hash")
    return [_known(row) for row in rows.collect().iter_rows(named=True)]


def known_of(lake: Lakehouse, digest: str) -> list[FileRecord]:
    """Return the records of a file by the SHA-256 of its bytes: one for each table that it fills."""
    found = known(lake, (pl.col("content_hash") == digest) | (pl.col("file_hash") == digest))
    return sorted(found, key=lambda file: file.target or "")


def row_key(digest: str, table: str, place: int) -> str:
    """Return the key of a file's row for a table: the file's own hash for its first table."""
    return digest if place == 0 else hashlib.sha256(f"{digest}:{table}".encode()).hexdigest()


def _known(row: dict[str, Any]) -> FileRecord:
    reference = row["source_ref"]
    if reference is None and row["adapter"] is not None:
        # Recorded before the reference was: it was made of these two.
        reference = f"{row['adapter'].partition('/')[0]}:{row['content_hash'][:16]}"
    return FileRecord(
        **{
            **row,
            "source_ref": reference,
            "rows_updated": row["rows_updated"] or 0,
            "days": frozenset(_days_of_words(row["days"] or "")),
        }
    )


def record(lake: Lakehouse, outcomes: Iterable[FileOutcome], stamp: Stamp) -> None:
    """Record what became of a file, for all its tables at once; rows of the same keys are replaced."""
    table = lake.table(FILES)
    names = {name: name for name in table.contract.column_names} | {"target": "table"}
    names = {column: name for column, name in names.items() if name in FileOutcome.__dataclass_fields__}
    rows = [
        {
            **{column: getattr(outcome, name) for column, name in names.items()},
            "days": days_in_words(outcome.days) or None,
            "ingested_at": lake.clock().astimezone(UTC),
            "run_id": stamp.run_id,
        }
        for outcome in outcomes
    ]
    schema = {name: dtype for name, dtype in table.contract.polars_schema.items() if name in rows[0]}
    table.merge(pl.DataFrame(rows, schema=schema), stamp=stamp)


def stands(lake: Lakehouse, file: FileRecord) -> bool:
    """Return whether what was published of a file is part of its table's current version.

    So it is if one of its rows is there.  Where none is, each has given way to another source's, or none was new;
    or a restore went back to before it, and then it does not stand.
    """
    if file.status != "published":
        return False
    if file.target is None or file.target == "users":
        return True  # events are applied to accounts, which no restore of a table undoes
    table = lake.table(file.target)
    if table.version() is None:
        return False
    if file.rows_published and file.source_ref:
        mine = pl.col("source_ref") == file.source_ref
        time = table.contract.time_column
        if time is not None and file.first_ts is not None and file.last_ts is not None:
            dtype = table.contract.column(time).polars
            mine &= pl.col(time).is_between(pl.lit(file.first_ts).cast(dtype), pl.lit(file.last_ts).cast(dtype))
        if table.scan().filter(mine).head(1).collect().height:
            return True
    if file.version is None:
        return not file.rows_published
    return table.descends_from(file.version, file.commit_id or "")


def former_of(lake: Lakehouse, file: FileRecord, *, but: str = "") -> tuple[WithdrawnRows, str | None]:
    """Return what to take out for the published reading of a file, and why rows cannot come back, if so.

    Args:
        lake: the lake.
        file: its record.
        but: the `source_ref` of a reading of the same content that stays.
    """
    reference = file.digest[:16]
    if file.target is None or not file.rows_updated or file.version is None:
        return WithdrawnRows(reference, but, first=file.first_ts, last=file.last_ts), None
    table = lake.table(file.target)
    readable = {version.version for version in table.readable_versions()}
    line = {commit.version for commit in table.lineage()}
    gone = known(
        lake, pl.col("target") == file.target, pl.col("status") == "withdrawn", pl.col("version") < file.version
    )
    # A row of a file that is withdrawn itself does not come back; what it had taken the place of does.
    versions = [file.version, *sorted((other.version for other in gone if other.version is not None), reverse=True)]
    before = [version - 1 for version in versions[:_MOST_VERSIONS] if version - 1 in readable & line]
    why = None
    if file.version - 1 not in before:
        why = (
            f"{file.rows_updated:,} rows that it replaced cannot be restored: version "
            f"{file.version - 1} of {file.target} is no longer readable"
        )

    def standing(references: Collection[str]) -> set[str]:
        files = [reference for reference in references if _OF_A_FILE.fullmatch(reference)]
        recorded = known(lake, pl.col("status") == "published", pl.col("target") == file.target) if files else []
        published = {other.source_ref for other in recorded}
        return {reference for reference in references if reference not in files or reference in published}

    return WithdrawnRows(reference, but, before, standing, file.first_ts, file.last_ts), why


def days_in_words(days: Iterable[date]) -> str:
    """Return days as `2024-01-01..2024-01-31 2024-03-05`."""
    ordered = sorted(days)
    breaks = [number for number, (one, other) in enumerate(pairwise(ordered), 1) if other - one > ONE_DAY]
    spans = [ordered[first:end] for first, end in zip([0, *breaks], [*breaks, len(ordered)], strict=True)]
    return " ".join(f"{span[0]}" if len(span) == 1 else f"{span[0]}..{span[-1]}" for span in spans if span)


def _days_of_words(text: str) -> Iterable[date]:
    for span in text.split():
        first, _, last = span.partition("..")
        day, end = date.fromisoformat(first), date.fromisoformat(last or first)
        while day <= end:
            yield day
            day += ONE_DAY
