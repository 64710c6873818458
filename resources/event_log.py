"""Dagster's event log, kept from growing: events of old runs leave it, the state of assets stays.

Dagster has no retention for it.  `DagsterInstance.delete_run` is no remedy: with a run's events it deletes its
materialisations, and the partitions that they stand for count as missing then.  What does not belong here: ticks, which
`retention` in dagster.yaml removes, and logs of runs (`compute_logs`).
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Final

import dagster as dg
import sqlalchemy as sa

# What Dagster exports of its storages: neither their class nor their tables.
from dagster._core.storage.event_log import SqlEventLogStorage, SqlEventLogStorageTable, SqliteEventLogStorage

from hfthot_platform.core.errors import BadRequestError

__all__ = ["Purged", "purge_events"]

#: What the state of assets is made of: materialisations, plans of them, observations, checks, freshness.
_KEPT: Final = ("ASSET_", "FRESHNESS_")
_ENDED: Final = frozenset({dg.DagsterRunStatus.SUCCESS, dg.DagsterRunStatus.FAILURE, dg.DagsterRunStatus.CANCELED})
_UNFINISHED: Final = [status for status in dg.DagsterRunStatus if status not in _ENDED]
#: Rows of one transaction: it holds locks for moments only.
_BATCH: Final = 1_000


@dataclass(frozen=True)
class Purged:
    """What left the event log.

    Attributes:
        events: rows that were deleted from the log that all runs share.
        runs: files of single runs that were deleted (SQLite keeps one for each).
    """

    events: int
    runs: int


def purge_events(instance: dg.DagsterInstance, before: datetime, *, most_events: int = 5_000_000) -> Purged:
    """Delete the events of ended runs that are older than a time, but for those that the state of assets is made of.

    Rows are deleted in small transactions, so that runs go on beside it; called again it goes on where it ended.

    Args:
        instance: whose log; on SQLite or PostgreSQL.
        before: events from then on stay.
        most_events: rows that one call deletes at most.

    Raises:
        BadRequestError: the log is kept in another way.
    """
    storage = instance.event_log_storage
    if not isinstance(storage, SqlEventLogStorage):
        raise BadRequestError(
            f"the event log is a {type(storage).__name__}",
            where="purge_events",
            hint="Keep it on SQLite or PostgreSQL.",
        )
    running = {run.run_id for run in instance.get_runs(dg.RunsFilter(statuses=_UNFINISHED))}
    events = 0
    while events < most_events and (deleted := _delete_batch(storage, before, running)):
        events += deleted
    runs = _delete_files(storage, before, running) if isinstance(storage, SqliteEventLogStorage) else 0
    return Purged(events, runs)


def _delete_batch(storage: SqlEventLogStorage, before: datetime, running: set[str]) -> int:
    """Delete some rows of the log that all runs share."""
    log = SqlEventLogStorageTable.c
    kind = log.dagster_event_type
    old = sa.select(log.id).where(
        log.timestamp < before.astimezone(UTC).replace(tzinfo=None),
        sa.or_(kind.is_(None), sa.not_(sa.or_(*(kind.startswith(name, autoescape=True) for name in _KEPT)))),
        log.run_id.not_in(running),
    )
    with storage.index_connection() as connection:
        found = [row[0] for row in connection.execute(old.order_by(log.id).limit(_BATCH))]
        if found:
            connection.execute(SqlEventLogStorageTable.delete().where(log.id.in_(found)))
    return len(found)


def _delete_files(storage: SqliteEventLogStorage, before: datetime, running: set[str]) -> int:
    """Delete the files of single runs on SQLite: what the state of assets is made of is in the shared one as well."""
    deleted = 0
    for run_id in storage.get_all_run_ids():
        file = Path(storage.path_for_shard(run_id))
        if run_id not in running and file.stat().st_mtime < before.timestamp():
            for path in (file, Path(f"{file}-wal"), Path(f"{file}-shm")):
                path.unlink(missing_ok=True)
            deleted += 1
    return deleted
