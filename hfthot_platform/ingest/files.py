"""Files: recognised by content, ingested once, filed away with the reason where they were refused.

For one file the order is publish, record in `ops.ingest_files`, move.  Each step can be repeated after a
crash: rows that are already there count as published by this very file (their `source_ref` holds its content
hash), the record is merged by content hash, and a file that is recorded but not moved is only moved.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterable
from dataclasses import asdict, dataclass, field, replace
from datetime import UTC, date, datetime
from pathlib import Path
from typing import Final, Literal

import polars as pl

from hfthot_platform.errors import RejectedFileError, SchemaMismatchError
from hfthot_platform.ingest.feeds import CONFLICTS
from hfthot_platform.lakehouse import Commit, Lakehouse, Stamp, Table
from hfthot_platform.lakehouse.locks import writers_lock
from hfthot_platform.market.sources.base import Batch, FileProbe, Progress, Recognised, content_hash, no_progress
from hfthot_platform.market.sources.mapping import SIDECAR_SUFFIX, sidecar_of

__all__ = ["FileOutcome", "ingest_files", "ingest_landing", "waiting_files"]

_DONE: Final = "done"
_REJECTED: Final = "rejected"
_UNFINISHED: Final = (".part", ".tmp", ".crdownload", ".filepart")
_FILES: Final = "ops.ingest_files"


@dataclass(frozen=True)
class FileOutcome:
    """What became of one file.  `rows_read = rows_published + rows_duplicate + rows_quarantined`."""

    name: str
    content_hash: str
    bytes: int
    status: Literal["published", "rejected", "repeated"]
    reason: str | None = None
    detail: str | None = None
    adapter: str | None = None
    table: str | None = None
    rows_read: int = 0
    rows_published: int = 0
    rows_duplicate: int = 0
    rows_quarantined: int = 0
    first_ts: datetime | None = None
    last_ts: datetime | None = None
    #: Days whose rows changed, for whoever computes from them.
    days: frozenset[date] = field(default_factory=frozenset)


def waiting_files(landing: Path, *, now: datetime, settle_seconds: float) -> list[Path]:
    """Return the files in the landing folder that are complete as far as one can tell, oldest first.

    A file that changed within the settling time, is hidden, or bears the suffix of an unfinished transfer is
    left for later.
    """
    if not landing.is_dir():
        return []
    ready = []
    for path in landing.iterdir():
        hidden = path.name.startswith(".") or path.name.endswith((*_UNFINISHED, SIDECAR_SUFFIX))
        if hidden or not path.is_file():
            continue
        changed = path.stat().st_mtime
        if now.timestamp() - changed >= settle_seconds:
            ready.append((changed, path.name, path))
    return [path for _, _, path in sorted(ready)]


def ingest_landing(
    lake: Lakehouse,
    landing: Path,
    *,
    now: datetime,
    settle_seconds: float = 10.0,
    stamp: Stamp | None = None,
    progress: Progress = no_progress,
) -> list[FileOutcome]:
    """Ingest every complete file of the landing folder and move it to `done/` or `rejected/`.

    Beside a rejected file lies `<name>.reason.json`.  One process at a time works on a landing folder.
    """
    landing.mkdir(parents=True, exist_ok=True)
    outcomes = []
    with writers_lock(landing / ".landing.lock", exclusive=True):
        for path in waiting_files(landing, now=now, settle_seconds=settle_seconds):
            outcome = _ingest(lake, path, stamp or Stamp(), progress)
            finished = outcome.status == "repeated" and not (landing / _DONE / path.name).exists()
            if outcome.status == "published" or (finished and _recorded_name(lake, outcome) == path.name):
                # The second case: published and recorded by a run that died before it could move the file.
                _file_away(path, landing / _DONE)
            else:
                _file_away(path, landing / _REJECTED, outcome)
            outcomes.append(outcome)
    return outcomes


def ingest_files(
    lake: Lakehouse,
    paths: Iterable[Path],
    *,
    stamp: Stamp | None = None,
    progress: Progress = no_progress,
    on_outcome: Callable[[FileOutcome], None] | None = None,
) -> list[FileOutcome]:
    """Ingest files where they are (folders are walked); nothing is moved."""
    outcomes = []
    for path in paths:
        files = sorted(each for each in path.rglob("*") if each.is_file()) if path.is_dir() else [path]
        for each in files:
            if each.name.startswith(".") or each.name.endswith((*_UNFINISHED, SIDECAR_SUFFIX)):
                continue
            outcome = _ingest(lake, each, stamp or Stamp(), progress)
            outcomes.append(outcome)
            if on_outcome:
                on_outcome(outcome)
    return outcomes


def _ingest(lake: Lakehouse, path: Path, stamp: Stamp, progress: Progress) -> FileOutcome:
    digest = content_hash(path)
    empty = FileOutcome(path.name, digest, path.stat().st_size, "rejected")
    known = lake.table(_FILES).scan().filter(pl.col("content_hash") == digest, pl.col("status") == "published")
    if (before := known.select("name", "target").collect()).height:
        return replace(
            empty,
            status="repeated",
            reason="already_ingested",
            detail=f"the same content was ingested as {before['name'][0]}",
            table=before["target"][0],
        )
    from hfthot_platform.market.sources.recognise import recognise

    try:
        probe, claim = recognise(path)
    except RejectedFileError as error:
        outcome = replace(empty, reason=error.reason, detail=str(error))
    else:
        outcome = _publish(lake, probe, claim, empty, stamp, progress)
    _record(lake, outcome, stamp)
    return outcome


def _publish(
    lake: Lakehouse, probe: FileProbe, claim: Recognised, empty: FileOutcome, stamp: Stamp, progress: Progress
) -> FileOutcome:
    """Audit and publish batch by batch; a file that breaks off keeps what was good before the break."""
    table = lake.table(claim.table)
    reference = f"{claim.adapter.name}:{empty.content_hash[:16]}"
    account = _Account()
    reason = detail = None
    try:
        for batch in claim.adapter.read(probe, claim, source_ref=reference, progress=progress):
            account.add(batch, _merge(table, batch, stamp))
    except RejectedFileError as error:
        reason, detail = error.reason, str(error)
    except SchemaMismatchError as error:
        reason, detail = "wrong_schema", str(error)
    if reason is None and account.read == 0:
        reason, detail = "empty", "the file holds no rows"
    if reason is None and account.published == 0 and account.duplicate == 0:
        reason, detail = "no_good_rows", f"all {account.read} rows were quarantined"
    return replace(
        empty,
        status="published" if reason is None else "rejected",
        reason=reason,
        detail=detail,
        adapter=claim.label,
        table=claim.table,
        rows_read=account.read,
        rows_published=account.published,
        rows_duplicate=account.duplicate,
        rows_quarantined=account.quarantined,
        first_ts=account.first,
        last_ts=account.last,
        days=frozenset(account.days),
    )


@dataclass
class _Account:
    read: int = 0
    published: int = 0
    duplicate: int = 0
    quarantined: int = 0
    first: datetime | None = None
    last: datetime | None = None
    days: set[date] = field(default_factory=set)

    def add(self, batch: Batch, done: tuple[pl.DataFrame, list[Commit]]) -> None:
        rows, commits = done
        self.read += batch.rows_read
        self.published += sum(each.rows_published for each in commits)
        self.duplicate += sum(each.rows_duplicate for each in commits)
        self.quarantined += sum(each.rows_quarantined for each in commits)
        if not rows.height:
            return
        time = pl.col("date") if "ts" not in rows.columns else pl.col("ts")
        span = rows.select(
            time.min().cast(pl.Datetime("us", "UTC")).alias("first"),
            time.max().cast(pl.Datetime("us", "UTC")).alias("last"),
        ).row(0)
        self.first = span[0] if self.first is None else min(self.first, span[0])
        self.last = span[1] if self.last is None else max(self.last, span[1])
        if any(each.changed for each in commits):
            self.days |= set(rows.select(time.cast(pl.Date)).to_series().unique().to_list())


def _merge(table: Table, batch: Batch, stamp: Stamp) -> tuple[pl.DataFrame, list[Commit]]:
    """Publish a batch.  An unfinished bar may fill a gap or follow another, but never replace a final one."""
    rejected = batch.rejected.with_columns(pl.lit(batch.source_ref).alias("source_ref"))
    audited = table.audit(batch.rows, rejected)
    rows = audited.rows
    if "final" not in rows.columns or rows["final"].all():
        on_change = CONFLICTS.get(table.contract.name, "update")
        return rows, [table.merge(audited, on_change=on_change, stamp=stamp)]
    final = replace(audited, rows=rows.filter(pl.col("final")))
    open_rows = replace(audited, rows=rows.filter(~pl.col("final")), rejected=audited.rejected.clear(), duplicates=0)
    return rows, [
        table.merge(final, on_change="update", stamp=stamp),
        table.merge(open_rows, on_change="keep", stamp=stamp),
    ]


def _record(lake: Lakehouse, outcome: FileOutcome, stamp: Stamp) -> None:
    values = asdict(outcome)
    values.pop("days")
    values["target"] = values.pop("table")
    row = {**values, "ingested_at": lake.clock().astimezone(UTC), "run_id": stamp.run_id}
    table = lake.table(_FILES)
    schema = {name: dtype for name, dtype in table.contract.polars_schema.items() if name in row}
    table.merge(pl.DataFrame([row], schema=schema), stamp=stamp)


def _recorded_name(lake: Lakehouse, outcome: FileOutcome) -> str | None:
    known = lake.table(_FILES).scan().filter(pl.col("content_hash") == outcome.content_hash).select("name").collect()
    return str(known["name"][0]) if known.height else None


def _file_away(path: Path, folder: Path, outcome: FileOutcome | None = None) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    target = folder / path.name
    if target.exists():
        # Never over another file: a second one of this name keeps both, told apart by time of change.
        target = folder / f"{path.stem}.{path.stat().st_mtime_ns:x}{path.suffix}"
    if outcome is not None:
        facts = {key: value for key, value in asdict(outcome).items() if key != "days"}
        text = json.dumps(facts, indent=2, default=str)
        (folder / f"{target.name}.reason.json").write_text(text + "\n", encoding="utf-8")
    mapping = sidecar_of(path)
    if mapping.exists():
        os.replace(mapping, folder / (target.name + SIDECAR_SUFFIX))  # noqa: PTH105 - atomic, and says so
    os.replace(path, target)  # noqa: PTH105
