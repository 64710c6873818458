"""Staging and publishing what feeds yield for a span of days; `hfthot_platform.app.feeds` builds them."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from contextlib import ExitStack
from datetime import UTC, date, datetime
from typing import Final, Literal

import polars as pl

from hfthot_platform.adapters.ports import Feed, Progress, no_progress
from hfthot_platform.core.errors import BadRequestError, nearest
from hfthot_platform.core.settings import Settings
from hfthot_platform.storage.lakehouse import Commit, Lakehouse, Staging, Stamp

__all__ = ["CONFLICTS", "Statements", "ingest_feed", "stage_feeds", "stated_by"]

#: What is stated of a table for some days: the good rows, and what of them was rejected.
Statements = Callable[[tuple[date, date]], tuple[pl.DataFrame, pl.DataFrame | None]]

#: What a source may do to a key that is published with other values: a trade is a fact and a second version of
#: it is rejected; anything else is a statement that the source may correct.
CONFLICTS: Final[dict[str, Literal["update", "keep", "reject"]]] = {"market.trades": "reject"}


def stage_feeds(
    lake: Lakehouse,
    feeds: Iterable[Feed],
    table: str,
    days: tuple[date, date],
    *,
    settings: Settings,
    progress: Progress = no_progress,
) -> Staging:
    """Fetch and audit what the feeds have for a table and the days from the first to before the second.

    Returns:
        The staging, open: use it as a context manager.
    """
    start, end = (datetime(day.year, day.month, day.day, tzinfo=UTC) for day in days)
    with ExitStack() as on_failure:
        staging = on_failure.enter_context(Staging(lake.table(table), settings.scratch))
        for feed in feeds:
            if table not in feed.tables:
                continue
            for batch in feed.fetch(table, start, end, progress=progress):
                rejected = batch.rejected.with_columns(source_ref=pl.lit(batch.source_ref))
                staging.add(batch.rows, rejected)
        on_failure.pop_all()
    return staging


def ingest_feed(
    lake: Lakehouse,
    configured: Sequence[Feed],
    name: str,
    table: str,
    days: tuple[date, date],
    *,
    settings: Settings,
    stamp: Stamp | None = None,
    progress: Progress = no_progress,
) -> list[Commit]:
    """Fetch, audit and publish what one feed has for a span of days.

    Raises:
        BadRequestError: no such feed is configured, or it cannot fill that table.
        AuditFailedError: more rows were rejected than the contract allows; they are quarantined, and nothing
            was published.
    """
    # Several feeds may share a name: one archive or exchange for different symbols and tables.
    feeds = [feed for feed in configured if feed.name == name]
    if not feeds:
        names = sorted({feed.name for feed in configured})
        raise BadRequestError(
            f"no feed {name!r} is configured", where="feeds", hint=nearest(name, names) or f"Configured: {names}."
        )
    tables = list(dict.fromkeys(table for feed in feeds for table in feed.tables))
    if table not in tables:
        raise BadRequestError(
            f"the feed {name!r} has no {table!r}", where="feeds", hint=f"It has: {', '.join(tables)}."
        )
    lake.expect_new()
    with stage_feeds(lake, feeds, table, days, settings=settings, progress=progress) as staging:
        if not staging.publishable:
            staging.quarantine(stamp=stamp)
        return [staging.merge(on_change=CONFLICTS.get(table, "update"), stamp=stamp)]


def stated_by(feeds: Iterable[Feed], lake: Lakehouse, table: str, *, settings: Settings) -> Statements | None:
    """Return what the feeds that can fill a table state of it for some days; None if there is no such feed."""
    able = [feed for feed in feeds if table in feed.tables]

    def stated(days: tuple[date, date]) -> tuple[pl.DataFrame, pl.DataFrame | None]:
        with stage_feeds(lake, able, table, days, settings=settings) as staging:
            batches = list(staging.batches())
        rows = pl.concat([lake.table(table).contract.empty(), *(batch.rows for batch in batches)])
        return rows, pl.concat(batch.rejected for batch in batches) if batches else None

    return stated if able else None
