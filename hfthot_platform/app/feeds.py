"""The feeds that the settings declare.  Nothing is contacted when they are built."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import datetime

from hfthot_platform.adapters.ports import Batch, Feed, Progress, check_request, no_progress
from hfthot_platform.core.errors import ConfigError
from hfthot_platform.core.settings import (
    ArchiveFeedSettings,
    CcxtFeedSettings,
    FeedSettings,
    SampleFeedSettings,
    Settings,
    SimulatedFeedSettings,
)
from hfthot_platform.core.time import utc_now

__all__ = ["build_feed", "build_feeds"]


@dataclass(frozen=True)
class _Restricted:
    """A feed that fills only the tables which the settings name."""

    feed: Feed
    tables: tuple[str, ...]

    @property
    def name(self) -> str:
        return self.feed.name

    def fetch(self, table: str, start: datetime, end: datetime, *, progress: Progress = no_progress) -> Iterator[Batch]:
        check_request(self.name, self.tables, table, start, end)
        return self.feed.fetch(table, start, end, progress=progress)


def build_feeds(
    settings: Settings,
    clock: Callable[[], datetime] = utc_now,
    *,
    sleep: Callable[[float], None] = time.sleep,
    monotonic: Callable[[], float] = time.monotonic,
) -> tuple[Feed, ...]:
    """Return the feeds that the settings declare; nothing is contacted yet.

    Args:
        settings: what declares them.
        clock: the present time.
        sleep: waits, between tries and for a rate limit.
        monotonic: the seconds that a rate limit goes by.

    Raises:
        ConfigError: a feed is to fill a table that it cannot fill.
        BadRequestError: a feed's symbols, venue or exchange are unknown.
    """
    return tuple(build_feed(feed, settings, clock, sleep, monotonic) for feed in settings.feeds)


def build_feed(
    feed: FeedSettings,
    settings: Settings,
    clock: Callable[[], datetime] = utc_now,
    sleep: Callable[[float], None] = time.sleep,
    monotonic: Callable[[], float] = time.monotonic,
) -> Feed:
    """Return one feed; arguments and errors as of `build_feeds`."""
    match feed:
        case SampleFeedSettings():
            from hfthot_platform.adapters.sample import SampleFeed

            return SampleFeed()
        case SimulatedFeedSettings():
            from hfthot_platform.adapters.simulated import SimulatedExchange

            return SimulatedExchange(seed=feed.seed, symbols=feed.symbols, trades_per_day=feed.trades_per_day)
        case ArchiveFeedSettings():
            from hfthot_platform.adapters.binance.archive import ArchiveFeed

            archive = ArchiveFeed(
                feed.location,
                venue=feed.venue,
                symbols=feed.symbols,
                cache=settings.scratch / "binance_archive",
                interval=feed.interval,
                trades=feed.trades,
                sleep=sleep,
            )
            return _restricted(archive, feed.tables)
        case CcxtFeedSettings():
            from hfthot_platform.adapters.ccxt.exchange import CcxtFeed, CcxtOptions, Credentials

            credentials = None
            if feed.api_key is not None and feed.api_secret is not None:
                credentials = Credentials(feed.api_key, feed.api_secret)
            exchange = CcxtFeed(
                feed.exchange,
                feed.symbols,
                clock=clock,
                credentials=credentials,
                options=CcxtOptions(base_url=feed.base_url),
                sleep=sleep,
                monotonic=monotonic,
            )
            return _restricted(exchange, feed.tables)


def _restricted(feed: Feed, tables: tuple[str, ...]) -> _Restricted:
    for table in tables:
        if table not in feed.tables:
            raise ConfigError(
                f"the feed {feed.name!r} has no {table!r}", where="feeds", hint=f"It has: {', '.join(feed.tables)}."
            )
    return _Restricted(feed, tables)
