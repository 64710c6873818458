"""The configured feeds: built from settings, staged in bounded memory, published as a whole or not at all."""

from __future__ import annotations

import io
import logging
import zipfile
from collections.abc import Iterator
from dataclasses import dataclass, field
from datetime import UTC, date, datetime, timedelta

import polars as pl
import pytest

from hfthot_platform.adapters.ports import Batch, Feed
from hfthot_platform.adapters.simulated import SimulatedExchange
from hfthot_platform.app.feeds import build_feeds
from hfthot_platform.core.errors import AuditFailedError, BadRequestError, ConfigError, SourceUnavailableError
from hfthot_platform.core.settings import load_settings
from hfthot_platform.services.ingest import ingest_feed, stage_feeds
from hfthot_platform.storage.lakehouse import Lakehouse, staging

DAY = date(2024, 1, 1)
ONE_DAY = (DAY, date(2024, 1, 2))


@pytest.fixture
def settings(tmp_path):
    def make(*feeds):
        return load_settings(lake_root=str(tmp_path / "lake"), scratch=tmp_path / "scratch", feeds=list(feeds))

    return make


@pytest.fixture
def lake(tmp_path):
    return Lakehouse.open(tmp_path / "lake", new=True)


def trades(first: int, count: int, price: float = 100.0) -> pl.DataFrame:
    start = datetime(2024, 1, 1, tzinfo=UTC)
    return pl.DataFrame(
        {
            "venue": "kraken",
            "symbol": "BTC-EUR",
            "ts": [start + timedelta(seconds=n) for n in range(first, first + count)],
            "trade_id": range(first, first + count),
            "price": price,
            "amount": 1.0,
            "source": "vendor_history",
            "source_ref": "fake:1",
        },
        schema_overrides={"ts": pl.Datetime("us", "UTC")},
    )


@dataclass
class FakeFeed:
    """Yields given batches, and fails at the end if told to."""

    batches: list[pl.DataFrame]
    fails: bool = False
    name: str = "fake"
    tables: tuple[str, ...] = ("market.trades",)
    asked: list[tuple[str, datetime, datetime]] = field(default_factory=list)

    def fetch(self, table, start, end, *, progress=None) -> Iterator[Batch]:
        self.asked.append((table, start, end))
        for rows in self.batches:
            yield Batch(table, rows, "fake:1")
        if self.fails:
            raise SourceUnavailableError("no answer", where="fake")


# --- building ------------------------------------------------------------------------------------------------------


def test_every_kind_of_feed_is_built_from_settings(settings):
    made = settings(
        {"kind": "sample"},
        {"kind": "simulated", "seed": 3, "symbols": ["ALPHA-USDT"], "trades_per_day": 50},
        {"kind": "binance_archive", "symbols": ["BTC-USDT"], "tables": ["market.bars_1m", "market.trades"]},
        {"kind": "ccxt", "exchange": "kraken", "symbols": ["BTC-EUR"], "tables": ["market.trades"]},
    )
    feeds = build_feeds(made)
    assert [feed.name for feed in feeds] == ["sample", "simulated", "binance_archive", "ccxt/kraken"]
    assert all(isinstance(feed.tables, tuple) and callable(feed.fetch) for feed in feeds)
    feed: Feed = feeds[0]
    assert "market.closes" in feed.tables


def test_building_contacts_nobody_and_writes_nothing(settings, tmp_path):
    build_feeds(
        settings(
            {"kind": "binance_archive", "symbols": ["BTC-USDT"], "location": "http://127.0.0.1:9"},
            {"kind": "ccxt", "exchange": "kraken", "symbols": ["BTC-EUR"], "base_url": "http://127.0.0.1:9"},
        )
    )
    assert list(tmp_path.iterdir()) == []


def test_a_feed_fills_only_the_tables_that_the_settings_name(settings):
    archive, exchange = build_feeds(
        settings(
            {"kind": "binance_archive", "symbols": ["BTC-USDT"], "tables": ["market.trades"]},
            {"kind": "ccxt", "exchange": "kraken", "symbols": ["BTC-EUR"], "tables": ["market.bars_1m"]},
        )
    )
    assert (archive.tables, exchange.tables) == (("market.trades",), ("market.bars_1m",))


def test_a_table_that_the_feed_cannot_fill_is_a_mistake_in_the_settings(settings):
    feed = {"kind": "binance_archive", "symbols": ["BTC-USDT"], "tables": ["market.instruments"]}
    with pytest.raises(ConfigError, match=r"'binance_archive' has no 'market\.instruments'\. It has: market\.trades"):
        build_feeds(settings(feed))


def test_secrets_are_never_shown(settings, lake, caplog):
    caplog.set_level(logging.DEBUG)
    key, secret = "key-5a1f0c", "secret-93be7d"
    made = settings(
        {
            "kind": "ccxt",
            "exchange": "kraken",
            "symbols": ["BTC-EUR"],
            "tables": ["market.instruments"],
            "base_url": "http://127.0.0.1:9",
            "api_key": key,
            "api_secret": secret,
        }
    )
    (feed,) = build_feeds(made)
    shown = [repr(made), str(made), repr(feed), str(feed), repr(vars(feed))]
    with pytest.raises(BadRequestError) as caught:
        ingest_feed(lake, build_feeds(made), "ccxt/kraken", "market.trades", ONE_DAY, settings=made)
    shown += [str(caught.value), repr(caught.value), caplog.text]
    for text in shown:
        assert key not in text
        assert secret not in text


# --- asking --------------------------------------------------------------------------------------------------------


def test_an_unknown_feed_suggests_the_nearest(settings, lake):
    made = settings({"kind": "sample"}, {"kind": "simulated"})
    with pytest.raises(BadRequestError, match=r"no feed 'simulatd' is configured\. .*simulated"):
        ingest_feed(lake, build_feeds(made), "simulatd", "market.trades", ONE_DAY, settings=made)
    with pytest.raises(BadRequestError, match=r"Configured: \['sample', 'simulated'\]"):
        ingest_feed(lake, build_feeds(made), "xyz", "market.trades", ONE_DAY, settings=made)


def test_a_table_that_the_feed_does_not_fill_is_refused_with_those_it_does(settings, lake):
    with pytest.raises(BadRequestError, match=r"'simulated' has no 'market\.closes'\. It has: .*market\.trades"):
        ingest_feed(lake, [SimulatedExchange()], "simulated", "market.closes", ONE_DAY, settings=settings())


def test_the_sample_is_published_and_again_changes_nothing(settings, lake):
    made = settings({"kind": "sample"})
    days = (date(2015, 1, 1), date(2015, 2, 1))
    commits = ingest_feed(lake, build_feeds(made), "sample", "market.closes", days, settings=made)
    rows = lake.table("market.closes").scan().collect()
    assert sum(commit.rows_published for commit in commits) == rows.height > 0
    assert rows["date"].is_between(date(2015, 1, 1), date(2015, 1, 31)).all()
    version = lake.table("market.closes").version()
    again = ingest_feed(lake, build_feeds(made), "sample", "market.closes", days, settings=made)
    assert not any(commit.changed for commit in again)
    assert lake.table("market.closes").version() == version


def test_the_simulated_exchange_is_published_day_by_day(settings, lake):
    made = settings({"kind": "simulated", "symbols": ["ALPHA-USDT", "BRAVO-USDT"], "trades_per_day": 200})
    ingest_feed(lake, build_feeds(made), "simulated", "market.trades", (DAY, date(2024, 1, 3)), settings=made)
    rows = lake.table("market.trades").scan().collect()
    assert rows["date"].unique().sort().to_list() == [DAY, date(2024, 1, 2)]
    assert rows["source"].unique().to_list() == ["synthetic"]


def _archive_day(root, symbol: str) -> None:
    start = int(datetime(2024, 1, 1, tzinfo=UTC).timestamp() * 1000)
    lines = "".join(
        f"{start + n * 60_000},10,11,9,10.5,2,{start + n * 60_000 + 59_999},20,3,1,10,0\n" for n in range(5)
    )
    stem = f"{symbol}-1m-2024-01-01"
    path = root / f"data/spot/daily/klines/{symbol}/1m/{stem}.zip"
    path.parent.mkdir(parents=True)
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        archive.writestr(f"{stem}.csv", lines)
    path.write_bytes(buffer.getvalue())


def test_feeds_of_one_name_are_asked_together(settings, lake, tmp_path):
    for symbol in ("BTCUSDT", "ETHUSDT"):
        _archive_day(tmp_path / "mirror", symbol)
    archive = {"kind": "binance_archive", "location": str(tmp_path / "mirror")}
    made = settings(
        archive | {"symbols": ["XRP-USDT"], "tables": ["market.trades"]},
        archive | {"symbols": ["BTC-USDT"], "tables": ["market.bars_1m"]},
        archive | {"symbols": ["ETH-USDT"], "tables": ["market.bars_1m"]},
    )
    ingest_feed(lake, build_feeds(made), "binance_archive", "market.bars_1m", ONE_DAY, settings=made)
    assert sorted(lake.table("market.bars_1m").scan().collect()["symbol"].unique()) == ["BTC-USDT", "ETH-USDT"]


# --- staging -------------------------------------------------------------------------------------------------------


def test_days_become_a_span_of_utc_midnights(settings, lake):
    feed = FakeFeed([trades(0, 3)])
    with stage_feeds(
        lake, [feed, FakeFeed([], tables=("market.bars",))], "market.trades", ONE_DAY, settings=settings()
    ):
        pass
    assert feed.asked == [("market.trades", datetime(2024, 1, 1, tzinfo=UTC), datetime(2024, 1, 2, tzinfo=UTC))]


def test_nothing_is_published_before_the_staging_is(settings, lake):
    with stage_feeds(lake, [FakeFeed([trades(0, 3)])], "market.trades", ONE_DAY, settings=settings()) as staged:
        assert staged.publishable
        assert lake.table("market.trades").version() is None
        commit = staged.merge()
    assert commit.rows_published == 3


def test_large_batches_are_spooled_to_the_scratch_folder_and_removed(settings, lake, tmp_path, monkeypatch):
    monkeypatch.setattr(staging, "ROWS_IN_MEMORY", 25)
    made = settings()
    feed = FakeFeed([trades(n * 10, 10) for n in range(6)])
    with stage_feeds(lake, [feed], "market.trades", ONE_DAY, settings=made) as staged:
        spooled = list((tmp_path / "scratch").glob("staging-*/*/rows.parquet"))
        assert len(spooled) == 4
        assert staged.merge(on_change="reject").rows_published == 60
    assert list((tmp_path / "scratch").iterdir()) == []
    assert lake.table("market.trades").scan().collect()["trade_id"].sort().to_list() == list(range(60))


def test_a_feed_that_fails_leaves_nothing_behind(settings, lake, tmp_path, monkeypatch):
    monkeypatch.setattr(staging, "ROWS_IN_MEMORY", 5)
    feed = FakeFeed([trades(0, 10), trades(10, 10)], fails=True)
    with pytest.raises(SourceUnavailableError):
        stage_feeds(lake, [feed], "market.trades", ONE_DAY, settings=settings())
    assert list((tmp_path / "scratch").iterdir()) == []
    assert lake.table("market.trades").version() is None


def _bad(rows: pl.DataFrame, count: int) -> pl.DataFrame:
    return rows.with_columns(price=pl.when(pl.int_range(pl.len()) < count).then(-1.0).otherwise("price"))


def test_the_share_of_bad_rows_is_judged_over_all_batches(settings, lake):
    feed = FakeFeed([trades(0, 10), _bad(trades(10, 10), 9), trades(20, 10)])
    with stage_feeds(lake, [feed], "market.trades", ONE_DAY, settings=settings()) as staged:
        commit = staged.merge(on_change="reject")
    assert (commit.rows_read, commit.rows_published, commit.rows_quarantined) == (30, 21, 9)
    assert lake.table("market.trades").scan().collect().height == 21
    assert lake.table("quarantine.trades").scan().collect().height == 9


def test_too_many_bad_rows_publish_nothing_of_any_batch(settings, lake):
    feed = FakeFeed([trades(0, 10), _bad(trades(10, 30), 25)])
    with stage_feeds(lake, [feed], "market.trades", ONE_DAY, settings=settings()) as staged:
        assert not staged.publishable
        with pytest.raises(AuditFailedError, match="25 of 40 rows were rejected; the limit is 50%"):
            staged.merge()
        staged.quarantine()
    assert lake.table("market.trades").scan().collect().height == 0
    rejected = lake.table("quarantine.trades").scan().collect()
    assert (rejected.height, rejected["source_ref"].unique().to_list()) == (25, ["fake:1"])


def test_a_feed_of_bad_rows_is_quarantined_and_refused(settings, lake):
    feed = FakeFeed([trades(0, 10), _bad(trades(10, 30), 25)])
    with pytest.raises(AuditFailedError, match="Nothing was published"):
        ingest_feed(lake, [feed], "fake", "market.trades", ONE_DAY, settings=settings())
    assert lake.table("market.trades").scan().collect().height == 0
    assert lake.table("quarantine.trades").scan().collect().height == 25


def test_a_published_trade_is_not_changed_by_a_feed(settings, lake):
    for price in (100.0, 101.0):
        feed = FakeFeed([trades(0, 5, price)])
        (commit,) = ingest_feed(lake, [feed], "fake", "market.trades", ONE_DAY, settings=settings())
    assert (commit.rows_published, commit.rows_quarantined) == (0, 5)
    assert lake.table("market.trades").scan().collect()["price"].unique().to_list() == [100.0]
