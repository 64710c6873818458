"""The archive as a feed: from a folder, and by HTTP from a server that behaves and misbehaves like a real one."""

from __future__ import annotations

import hashlib
import zipfile
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path

import polars as pl
import pytest

from hfthot_platform.adapters.binance.archive import ArchiveFeed
from hfthot_platform.core.errors import (
    BadRequestError,
    ChecksumMismatchError,
    SourceRefusedError,
    SourceUnavailableError,
)
from tests.adapters.archive_server import ArchiveServer

MINUTE = 60_000


def _publish(root: Path, relative: str, first: datetime, minutes: int) -> Path:
    """Put one kline zip and its checksum where the archive has them."""
    start = int(first.timestamp() * 1000)
    lines = [
        f"{start + i * MINUTE},1.5,1.6,1.4,1.5,10,{start + (i + 1) * MINUTE - 1},15,3,5,7.5,0" for i in range(minutes)
    ]
    path = root / relative
    path.parent.mkdir(parents=True, exist_ok=True)
    with zipfile.ZipFile(path, "w", zipfile.ZIP_STORED) as archive:
        archive.writestr(path.with_suffix(".csv").name, "\n".join(lines) + "\n")
    digest = hashlib.sha256(path.read_bytes()).hexdigest()
    path.with_name(path.name + ".CHECKSUM").write_text(f"{digest}  {path.name}\n")
    return path


def _daily(day: str, symbol: str = "BTCUSDT") -> str:
    return f"data/spot/daily/klines/{symbol}/1m/{symbol}-1m-{day}.zip"


def _monthly(month: str, symbol: str = "BTCUSDT") -> str:
    return f"data/spot/monthly/klines/{symbol}/1m/{symbol}-1m-{month}.zip"


def _utc(*parts: int) -> datetime:
    return datetime(*parts, tzinfo=UTC)


def _rows(feed: ArchiveFeed, start: datetime, end: datetime) -> pl.DataFrame:
    return pl.concat([batch.rows for batch in feed.fetch("market.bars_1m", start, end)])


@pytest.fixture
def server(tmp_path: Path) -> Iterator[ArchiveServer]:
    started = ArchiveServer(tmp_path / "remote")
    yield started
    started.close()


@pytest.fixture
def feed(server: ArchiveServer, tmp_path: Path) -> ArchiveFeed:
    return ArchiveFeed(server.url, symbols=["BTC-USDT"], cache=tmp_path / "cache", wait=0.01, attempts=3)


def test_a_folder_gives_the_rows_of_the_span(tmp_path) -> None:
    for day in (1, 2, 3):
        _publish(tmp_path, _daily(f"2024-01-0{day}"), _utc(2024, 1, day), 1440)
    feed = ArchiveFeed(tmp_path, symbols=["BTC-USDT"])
    rows = _rows(feed, _utc(2024, 1, 1, 12), _utc(2024, 1, 3, 6))
    assert rows.height == 720 + 1440 + 360
    assert rows["ts"].is_sorted()
    assert rows["final"].all()
    assert feed.skipped == []


def test_a_mirror_of_months_serves_days(tmp_path) -> None:
    _publish(tmp_path, _monthly("2024-02"), _utc(2024, 2, 1), 29 * 1440)
    rows = _rows(ArchiveFeed(tmp_path, symbols=["BTC-USDT"]), _utc(2024, 2, 3), _utc(2024, 2, 5))
    assert rows.height == 2880
    assert rows["ts"].n_unique() == 2880


def test_whole_months_are_one_file(server, feed, tmp_path) -> None:
    _publish(tmp_path / "remote", _monthly("2024-02"), _utc(2024, 2, 1), 29 * 1440)
    _publish(tmp_path / "remote", _daily("2024-03-01"), _utc(2024, 3, 1), 1440)
    rows = _rows(feed, _utc(2024, 2, 1), _utc(2024, 3, 2))
    assert rows.height == 30 * 1440
    assert [name for name, _ in server.requests if not name.endswith("CHECKSUM")] == [
        "BTCUSDT-1m-2024-02.zip",
        "BTCUSDT-1m-2024-03-01.zip",
    ]


def test_days_that_the_archive_has_not_are_skipped_and_reported(feed, tmp_path) -> None:
    _publish(tmp_path / "remote", _daily("2024-01-02"), _utc(2024, 1, 2), 1440)
    assert _rows(feed, _utc(2024, 1, 1), _utc(2024, 1, 4)).height == 1440
    assert feed.skipped == [_daily("2024-01-01"), _daily("2024-01-03")]


def test_a_second_fetch_downloads_nothing(server, feed, tmp_path) -> None:
    _publish(tmp_path / "remote", _daily("2024-01-02"), _utc(2024, 1, 2), 10)
    span = (_utc(2024, 1, 2), _utc(2024, 1, 3))
    first = _rows(feed, *span)
    asked = len(server.requests)
    assert _rows(feed, *span).equals(first)
    assert len(server.requests) == asked


def test_a_connection_cut_in_the_middle_is_resumed_where_it_stopped(server, feed, tmp_path) -> None:
    file = _publish(tmp_path / "remote", _daily("2024-01-02"), _utc(2024, 1, 2), 1440)
    server.cut = [5000]
    assert _rows(feed, _utc(2024, 1, 2), _utc(2024, 1, 3)).height == 1440
    assert (file.name, "bytes=5000-") in server.requests


def test_a_download_interrupted_earlier_goes_on(server, feed, tmp_path) -> None:
    file = _publish(tmp_path / "remote", _daily("2024-01-02"), _utc(2024, 1, 2), 1440)
    part = tmp_path / "cache" / (_daily("2024-01-02") + ".part")
    part.parent.mkdir(parents=True)
    part.write_bytes(file.read_bytes()[:777])
    assert _rows(feed, _utc(2024, 1, 2), _utc(2024, 1, 3)).height == 1440
    assert server.requests[0] == (file.name, "bytes=777-")
    assert not part.exists()


def test_a_part_that_was_already_whole_is_taken(feed, tmp_path) -> None:
    file = _publish(tmp_path / "remote", _daily("2024-01-02"), _utc(2024, 1, 2), 10)
    part = tmp_path / "cache" / (_daily("2024-01-02") + ".part")
    part.parent.mkdir(parents=True)
    part.write_bytes(file.read_bytes())
    assert _rows(feed, _utc(2024, 1, 2), _utc(2024, 1, 3)).height == 10


@pytest.mark.parametrize("stale", [b"x" * 100, b"x" * 10_000_000], ids=["shorter", "longer"])
def test_a_part_of_something_else_is_thrown_away(feed, tmp_path, stale) -> None:
    _publish(tmp_path / "remote", _daily("2024-01-02"), _utc(2024, 1, 2), 10)
    part = tmp_path / "cache" / (_daily("2024-01-02") + ".part")
    part.parent.mkdir(parents=True)
    part.write_bytes(stale)
    assert _rows(feed, _utc(2024, 1, 2), _utc(2024, 1, 3)).height == 10


def test_a_wrong_checksum_is_refused_and_nothing_is_kept(feed, tmp_path) -> None:
    file = _publish(tmp_path / "remote", _daily("2024-01-02"), _utc(2024, 1, 2), 10)
    file.with_name(file.name + ".CHECKSUM").write_text("0" * 64 + "  x.zip\n")
    with pytest.raises(ChecksumMismatchError, match="published 000"):
        _rows(feed, _utc(2024, 1, 2), _utc(2024, 1, 3))
    assert list((tmp_path / "cache").rglob("*.zip*")) == [
        tmp_path / "cache" / (_daily("2024-01-02") + ".CHECKSUM.part")
    ]


def test_a_missing_checksum_is_refused(feed, tmp_path) -> None:
    file = _publish(tmp_path / "remote", _daily("2024-01-02"), _utc(2024, 1, 2), 10)
    file.with_name(file.name + ".CHECKSUM").unlink()
    with pytest.raises(ChecksumMismatchError, match="no checksum"):
        _rows(feed, _utc(2024, 1, 2), _utc(2024, 1, 3))


def test_a_damaged_file_of_a_folder_is_refused(tmp_path) -> None:
    file = _publish(tmp_path, _daily("2024-01-02"), _utc(2024, 1, 2), 10)
    file.write_bytes(file.read_bytes() + b"x")
    with pytest.raises(ChecksumMismatchError):
        _rows(ArchiveFeed(tmp_path, symbols=["BTC-USDT"]), _utc(2024, 1, 2), _utc(2024, 1, 3))


def test_a_busy_server_is_asked_again(server, feed, tmp_path) -> None:
    _publish(tmp_path / "remote", _daily("2024-01-02"), _utc(2024, 1, 2), 10)
    server.fail = [503, 429]
    assert _rows(feed, _utc(2024, 1, 2), _utc(2024, 1, 3)).height == 10


def test_a_server_that_stays_busy_is_given_up(server, feed) -> None:
    server.fail = [503] * 10
    with pytest.raises(SourceUnavailableError, match="after 3 attempts"):
        _rows(feed, _utc(2024, 1, 2), _utc(2024, 1, 3))


def test_a_refusal_is_not_asked_again(server, feed) -> None:
    server.fail = [451, 451]
    with pytest.raises(SourceRefusedError, match="451"):
        _rows(feed, _utc(2024, 1, 2), _utc(2024, 1, 3))
    assert len(server.requests) == 1


def test_an_unreachable_server_is_given_up(server, feed) -> None:
    server.close()
    server.close = lambda: None
    with pytest.raises(SourceUnavailableError):
        _rows(feed, _utc(2024, 1, 2), _utc(2024, 1, 3))


@pytest.mark.parametrize(
    ("venue", "symbol", "name"),
    [
        ("binance_usdm", "BTC-USDT-PERP", "um/daily/aggTrades/BTCUSDT/BTCUSDT-aggTrades-2024-01-01.zip"),
        (
            "binance_coinm",
            "BTC-USD-PERP",
            "cm/daily/aggTrades/BTCUSD_PERP/BTCUSD_PERP-aggTrades-2024-01-01.zip",
        ),
        (
            "binance_usdm",
            "BTC-USDT-240329",
            "um/daily/aggTrades/BTCUSDT_240329/BTCUSDT_240329-aggTrades-2024-01-01.zip",
        ),
    ],
)
def test_names_of_the_other_markets(tmp_path, venue, symbol, name) -> None:
    feed = ArchiveFeed(tmp_path, venue=venue, symbols=[symbol])
    assert list(feed.fetch("market.trades", _utc(2024, 1, 1), _utc(2024, 1, 2))) == []
    assert feed.skipped == [f"data/futures/{name}"]


def test_mistaken_arguments_are_named(tmp_path) -> None:
    with pytest.raises(BadRequestError, match="unknown venue"):
        ArchiveFeed(tmp_path, venue="kraken", symbols=[])
    with pytest.raises(BadRequestError, match="interval"):
        ArchiveFeed(tmp_path, symbols=[], interval="7m")
    with pytest.raises(BadRequestError, match="no cache folder"):
        ArchiveFeed(symbols=[])
    feed = ArchiveFeed(tmp_path, symbols=["BTC-USDT"])
    with pytest.raises(BadRequestError, match="does not fill"):
        next(feed.fetch("market.closes", _utc(2024, 1, 1), _utc(2024, 1, 2)))
    with pytest.raises(BadRequestError, match="zone"):
        next(feed.fetch("market.trades", datetime(2024, 1, 1), _utc(2024, 1, 2)))
