"""The configured feeds, and staging what they yield for a span of days."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from datetime import UTC, date, datetime
from typing import Final, Literal

import polars as pl

from hfthot_platform.errors import BadRequestError, ConfigError, nearest
from hfthot_platform.lakehouse import Commit, Lakehouse, Staging, Stamp
from hfthot_platform.lakehouse.lake import utc_now
from hfthot_platform.market.sources.base import Batch, Feed, Progress, no_progress
from hfthot_platform.settings import (
    ArchiveFeedSettings,
    CcxtFeedSettings,
    FeedSettings,
    SampleFeedSettings,
    Settings,
    SimulatedFeedSettings,
)

__all__ = ["CONFLICTS", "build_feeds", "ingest_feed", "stage_feeds"]

#: What a source may do to a key that is published with other values: a trade is a fact and a second version of
#: it is rejected; anything else is a statement that the source may correct.
CONFLICTS: Final[dict[str, Literal["update", "keep", "reject"]]] = {"market.trades": "reject"}


@dataclass(frozen=True)
class _Restricted:
    """A feed that fills only the tables which the settings name."""

    feed: Feed
    tables: tuple[str, ...]

    @property
    def name(self) -> str:
        return self.feed.name

    def fetch(self, table: str, start: datetime, end: datetime, *, progress: Progress = no_progress) -> Iterator[Batch]:
        return self.feed.fetch(table, start, end, progress=progress)


def build_feeds(settings: Settings, clock: Callable[[], datetime] = utc_now) -> tuple[Feed, ...]:
    """Return the feeds that the settings declare; nothing is contacted yet.

    Raises:
        ConfigError: a feed is to fill a table that it cannot fill.
        BadRequestError: a feed's symbols, venue or exchange are unknown.
    """
    return tuple(_build(each, settings, clock) for each in settings.feeds)


def _build(feed: FeedSettings, settings: Settings, clock: Callable[[], datetime]) -> Feed:
    match feed:
        case SampleFeedSettings():
            from hfthot_platform.market.sources.sample import SampleFeed

            return SampleFeed()
        case SimulatedFeedSettings():
            from hfthot_platform.market.sources.simulated import SimulatedExchange

            return SimulatedExchange(seed=feed.seed, symbols=feed.symbols, trades_per_day=feed.trades_per_day)
        case ArchiveFeedSettings():
            from hfthot_platform.market.sources.binance_archive import ArchiveFeed

            archive = ArchiveFeed(
                feed.location,
                venue=feed.venue,
                symbols=feed.symbols,
                cache=settings.scratch / "binance_archive",
                interval=feed.interval,
                trades=feed.trades,
            )
            return _restricted(archive, feed.tables)
        case CcxtFeedSettings():
            from hfthot_platform.market.sources.ccxt_exchange import CcxtFeed, CcxtOptions, Credentials

            credentials = None
            if feed.api_key is not None and feed.api_secret is not None:
                credentials = Credentials(feed.api_key, feed.api_secret)
            exchange = CcxtFeed(
                feed.exchange,
                feed.symbols,
                clock=clock,
                credentials=credentials,
                options=CcxtOptions(base_url=feed.base_url),
            )
            return _restricted(exchange, feed.tables)


def _restricted(feed: Feed, tables: tuple[str, ...]) -> _Restricted:
    for table in tables:
        if table not in feed.tables:
            raise ConfigError(
                f"the feed {feed.name!r} has no {table!r}", where="feeds", hint=f"It has: {', '.join(feed.tables)}."
            )
    return _Restricted(feed, tables)


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
    settings: Settings,
    name: str,
    table: str,
    days: tuple[date, date],
    *,
    stamp: Stamp | None = None,
    progress: Progress = no_progress,
) -> list[Commit]:
    """Fetch, audit and publish what one feed has for a span of days.

    Raises:
        BadRequestError: no such feed is configured, or it cannot fill that table.
        AuditFailedError: more rows were rejected than the contract allows; they are quarantined, and nothing
            was published.
    """
    configured = build_feeds(settings)
    # Several feeds may share a name: one archive or exchange for different symbols and tables.
    feeds = [each for each in configured if each.name == name]
    if not feeds:
        names = sorted({each.name for each in configured})
        raise BadRequestError(
            f"no feed {name!r} is configured", where="feeds", hint=nearest(name, names) or f"Configured: {names}."
        )
    tables = list(dict.fromkeys(each for feed in feeds for each in feed.tables))
    if table not in tables:
        raise BadRequestError(
            f"the feed {name!r} has no {table!r}", where="feeds", hint=f"It has: {', '.join(tables)}."
        )
    lake.expect_new()
    with stage_feeds(lake, feeds, table, days, settings=settings, progress=progress) as staging:
        if not staging.publishable:
            staging.quarantine(stamp=stamp)
        return [staging.merge(on_change=CONFLICTS.get(table, "update"), stamp=stamp)]
