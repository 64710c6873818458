"""Statements of untrusted callers over a lake on an S3-compatible store: the files they need are fetched, no more."""

from __future__ import annotations

import os
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from datetime import UTC, date, datetime, timedelta
from pathlib import Path

import polars as pl
import pytest

from hfthot_platform.core.errors import (
    ConfigError,
    DamagedTableError,
    QuotaExceededError,
    SqlRefusedError,
    StorageFullError,
)
from hfthot_platform.domain.access.authorisation import Principal
from hfthot_platform.domain.access.visibility import Visibility
from hfthot_platform.services.sql import query
from hfthot_platform.services.sql.gateway import SqlGateway
from hfthot_platform.storage.lakehouse import Lakehouse
from hfthot_platform.storage.lakehouse.file_cache import FileCache
from hfthot_platform.storage.lakehouse.storage import Storage
from tests.object_store import serving

DAYS = 12
FIRST = date(2024, 3, 1)
ENTERPRISE = Principal("a", "registered", "enterprise")
ONE_DAY = (
    "SELECT symbol, count(*) AS n, sum(amount) AS amount FROM market.trades WHERE date = $day GROUP BY ALL ORDER BY 1"
)


@pytest.fixture(scope="module")
def store():
    with serving() as server:
        yield server


@pytest.fixture(scope="module")
def written(store):
    """Trades of twelve days, a file each."""
    table = Lakehouse.open("s3://lake/x", store.options, new=True).table("market.trades")
    for day in range(DAYS):
        table.append(trades(day))
    return Storage.parse("s3://lake/x", store.options)


def trades(day: int, n: int = 300) -> pl.DataFrame:
    midnight = datetime.combine(FIRST + timedelta(days=day), datetime.min.time(), UTC)
    return pl.DataFrame(
        {
            "venue": "kraken",
            "symbol": [f"{'ABC'[i % 3]}-USD" for i in range(n)],
            "ts": [midnight + timedelta(minutes=i) for i in range(n)],
            "trade_id": range(day * n, (day + 1) * n),
            "price": 100.0,
            "amount": [1.0 + i % 5 for i in range(n)],
            "side": "buy",
            "source": "replay",
            "source_ref": "test:1",
        },
        schema_overrides={"ts": pl.Datetime("us", "UTC"), "trade_id": pl.Int64},
    )


@pytest.fixture
def lake(written, tmp_path):
    now = datetime.combine(FIRST + timedelta(days=DAYS), datetime.min.time(), UTC)
    return Lakehouse(written, lambda: now, file_cache=FileCache(tmp_path / "files", 2**30))


def gateway(lake, pool, principal=ENTERPRISE):
    return SqlGateway(lake, principal, pool, quota=lambda: None)


def fetched(store):
    """Return the data files that were asked of the store since the last look."""
    return sorted({found.path for found in store.requests() if found.path.endswith(".parquet")})


def test_only_the_day_that_a_statement_needs_is_fetched_and_only_once(store, lake, pool):
    lake.table("market.trades").version()
    fetched(store)
    day = FIRST + timedelta(days=3)

    rows = gateway(lake, pool).query(ONE_DAY, {"day": day}, format="polars").data

    (file,) = fetched(store)
    assert f"date={day}" in file
    assert rows.equals(query(lake, ONE_DAY, params={"day": day}).frame)
    fetched(store)
    assert gateway(lake, pool).query(ONE_DAY, {"day": day}, format="polars").data.equals(rows)
    assert fetched(store) == []


@pytest.mark.soak
@pytest.mark.parametrize(
    ("sql", "files"),
    [
        ("SELECT count(*) FROM market.trades", DAYS),
        ("SELECT count(*) FROM market.trades WHERE date BETWEEN '2024-03-02' AND '2024-03-04'", 3),
        ("SELECT count(*) FROM market.trades WHERE ts >= TIMESTAMPTZ '2024-03-11 00:00:00+00'", 2),
        ("SELECT count(*) FROM market.trades WHERE symbol = 'nothing'", 0),
        ("SELECT count(*) FROM market.trades WHERE hour(ts) = 3", DAYS),
        ("SELECT count(*) FROM market.trades a JOIN market.trades b USING (date) WHERE a.date = '2024-03-02'", DAYS),
        ("SELECT count(*) FROM market.trades VERSION AS OF 2", 2),
    ],
)
def test_what_is_fetched_is_what_the_conditions_leave_and_the_rows_are_right(store, lake, pool, sql, files):
    fetched(store)

    rows = gateway(lake, pool).query(sql, format="polars").data

    assert len(fetched(store)) <= files
    assert rows.equals(query(lake, sql).frame)


def test_files_before_the_callers_history_are_not_fetched_whatever_is_asked(store, lake, pool):
    sees = replace(Visibility.of("enterprise", "registered"), history=timedelta(days=2))
    limited = gateway(lake, pool, Principal("b", "registered", "enterprise", sees=sees))
    fetched(store)

    rows = limited.query("SELECT min(date) AS first, count(*) AS n FROM market.trades", format="polars").data

    assert rows.row(0) == (FIRST + timedelta(days=DAYS - 2), 600)
    assert len(fetched(store)) == 2


def test_more_than_the_host_may_keep_is_refused_before_anything_is_fetched(store, written, pool, tmp_path):
    lake = Lakehouse(written, file_cache=FileCache(tmp_path / "files", 1_000))
    fetched(store)

    with pytest.raises(SqlRefusedError, match=r"cache for files of the object store.*file_cache_gib"):
        gateway(lake, pool).query("SELECT count(*) FROM market.trades")
    assert fetched(store) == []


def test_a_caller_whose_quota_is_used_up_has_nothing_fetched(store, lake, pool):
    def refuse():
        raise QuotaExceededError("used up", retry_after=1.0, where="SQL")

    fetched(store)

    with pytest.raises(QuotaExceededError):
        SqlGateway(lake, ENTERPRISE, pool, quota=refuse).query("SELECT count(*) FROM market.trades")
    assert fetched(store) == []


def test_a_lake_without_a_folder_for_files_says_so(written, pool):
    with pytest.raises(ConfigError, match="no folder for files of the object store"):
        gateway(Lakehouse(written), pool).query("SELECT count(*) FROM market.trades")


# -- the cache itself ---------------------------------------------------------------------------------------------


@pytest.fixture
def files(lake):
    """The table's backend, and its files with their sizes, by day."""
    table = lake.table("market.trades")
    snapshot = table.opened()
    return table.backend, sorted(zip(snapshot.names, snapshot.values("size_bytes"), strict=True))


def age(path, seconds):
    """Let a file have been used so long ago."""
    then = Path(path).stat().st_mtime - seconds
    os.utime(path, (then, then))


def test_files_that_nobody_used_lately_make_room_the_oldest_first(files, tmp_path):
    backend, (first, second, third, *_) = files
    cache = FileCache(tmp_path / "small", first[1] + second[1] + third[1] // 2)
    old, older = cache.fetch(backend, [first])[0], cache.fetch(backend, [second])[0]
    age(old, 2_000)
    age(older, 3_000)

    (new,) = cache.fetch(backend, [third])

    assert [Path(path).exists() for path in (old, older, new)] == [True, False, True]


def test_a_file_that_may_be_about_to_be_opened_is_never_removed(files, tmp_path):
    backend, (first, second, *_) = files
    cache = FileCache(tmp_path / "small", first[1] + second[1] // 2)
    (path,) = cache.fetch(backend, [first])

    with pytest.raises(StorageFullError, match="other statements use the cache"):
        cache.fetch(backend, [second])
    assert Path(path).exists()


def test_statements_side_by_side_do_not_take_more_room_than_there_is(files, tmp_path):
    backend, found = files
    chosen = found[:8]
    limit = sum(size for _, size in chosen[:3])
    cache = FileCache(tmp_path / "small", limit)

    def fetch(file):
        try:
            return cache.fetch(backend, [file])
        except StorageFullError:
            return []

    with ThreadPoolExecutor(8) as callers:
        got = [path for paths in callers.map(fetch, chosen) for path in paths]

    there = [path for path in cache.folder.rglob("*.parquet*") if path.is_file()]
    assert sorted(map(str, there)) == sorted(got)
    assert 1 <= len(got) <= 3
    assert sum(path.stat().st_size for path in there) <= limit


def test_a_file_that_is_not_as_long_as_the_log_says_is_fetched_again(files, tmp_path):
    backend, (first, *_) = files
    cache = FileCache(tmp_path / "cache", 2**30)
    (path,) = cache.fetch(backend, [first])
    Path(path).write_bytes(b"half")

    cache.fetch(backend, [first])

    assert Path(path).stat().st_size == first[1]


def test_a_download_that_was_cut_off_counts_for_nothing_and_is_removed(files, tmp_path):
    backend, (first, second, *_) = files
    cache = FileCache(tmp_path / "cache", 2**30)
    (path,) = cache.fetch(backend, [first])
    rest = f"{path}.1234.partial"
    Path(rest).write_bytes(b"PAR1")
    age(rest, 4_000)

    cache.fetch(backend, [second])

    assert not Path(rest).exists()


def test_a_missing_object_is_damage_and_says_which_file(files, tmp_path):
    backend, _ = files

    with pytest.raises(DamagedTableError, match=r"date=2024-03-01/gone\.parquet is missing"):
        FileCache(tmp_path / "cache", 2**30).fetch(backend, [("date=2024-03-01/gone.parquet", 10)])
