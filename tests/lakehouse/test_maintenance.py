"""Maintenance makes tables smaller and faster and loses nothing; its report adds up."""

from __future__ import annotations

from datetime import UTC, date, datetime, timedelta

import polars as pl
import pytest

from hfthot_platform.storage.lakehouse import Lakehouse, Stamp, accept_clock, maintain

DAY = date(2024, 1, 1)


def on_disk(table):
    files = [path for path in table.folder.rglob("*") if path.is_file()]
    return sum(path.stat().st_size for path in files), len(files)


@pytest.fixture
def small_files(table, trades):
    """Return a table of two days with five small files each."""
    for i in range(5):
        table.append(pl.concat([trades(10, 20 * i), trades(10, 20 * i + 10, DAY + timedelta(days=1))]))
    return table


def test_small_files_of_a_day_become_one_and_the_rows_stay(lake, small_files):
    rows = small_files.scan().sort("trade_id").collect()

    report = maintain(lake, "market.trades", stamp=Stamp(run_id="night"))

    assert report.files_compacted == 10
    assert small_files.bytes_and_files()[1] == 2
    assert small_files.scan().sort("trade_id").collect().equals(rows)
    assert small_files.versions()[-1].operation == "OPTIMIZE"
    assert small_files.versions()[-1].run_id == "night"


def test_the_report_counts_bytes_and_files_as_they_are_on_disk(lake, small_files):
    before = on_disk(small_files)

    report = maintain(lake, "market.trades", history_days=0)

    assert (report.bytes_before, report.files_before) == before
    assert (report.bytes_after, report.files_after) == on_disk(small_files)
    assert report.files_vacuumed == 10
    assert report.bytes_after < report.bytes_before


def test_a_second_round_finds_nothing_to_do(lake, small_files):
    maintain(lake, "market.trades", history_days=0)
    version = small_files.version()

    report = maintain(lake, "market.trades", history_days=0)

    assert (report.files_compacted, report.files_vacuumed, report.rows_expired, report.leftovers_removed) == (
        0,
        0,
        0,
        0,
    )
    assert small_files.version() == version


def test_history_within_the_retention_stays_readable(lake, small_files):
    report = maintain(lake, "market.trades")

    assert report.files_vacuumed == 0
    assert report.oldest_readable == 0
    assert small_files.scan(version=3).collect().height == 60


def test_a_checkpoint_is_written(lake, small_files):
    maintain(lake, "market.trades")

    assert (small_files.folder / "_delta_log" / "_last_checkpoint").exists()
    assert list((small_files.folder / "_delta_log").glob("*.checkpoint*.parquet"))
    assert small_files.scan().collect().height == 100


def test_files_of_crashed_writers_are_removed_and_live_ones_are_not(lake, small_files):
    folder = small_files.folder
    dead = [
        folder / "date=2024-01-01" / "part-00000-dead-c000.snappy.parquet#1",
        folder / "date=2024-01-01" / "part-00000-orphan-c000.snappy.parquet",
        folder / "_delta_log" / "00000000000000000009.checkpoint.parquet#3",
        folder / "_delta_log" / f"{9:020d}.json#2",
        folder / "_delta_log" / "_last_checkpoint#1",
        folder / "_delta_log" / "_commit_dead.json.tmp",
    ]
    for path in dead:
        path.write_bytes(b"half")

    report = maintain(lake, "market.trades", history_days=0)

    assert not any(path.exists() for path in dead)
    assert report.leftovers_removed == 5
    assert small_files.scan().collect().height == 100
    assert small_files.problems(deep=True) == []


def test_quarantined_rows_past_their_retention_are_dropped(tmp_path, trades):
    clock = [datetime(2024, 1, 1, tzinfo=UTC)]
    lake = Lakehouse.open(tmp_path / "lake", clock=lambda: clock[0])
    bad = trades(price=pl.when(pl.col("trade_id") == 3).then(-1.0).otherwise(1.0))
    lake.table("market.trades").merge(bad)
    clock[0] += timedelta(days=200)
    lake.table("market.trades").merge(bad.with_columns(source_ref=pl.lit("later")))
    clock[0] += timedelta(days=200)

    report = maintain(lake, "quarantine.trades", most_expired=0.5)

    assert report.rows_expired == 1
    assert lake.table("quarantine.trades").scan().collect()["source_ref"].to_list() == ["later"]


def test_a_table_for_ever_expires_nothing(lake, small_files):
    lake.clock = lambda: datetime(2124, 1, 1, tzinfo=UTC)
    accept_clock(lake)

    assert maintain(lake, "market.trades").rows_expired == 0


def test_a_table_that_nobody_wrote_is_left_alone(tmp_path):
    lake = Lakehouse.open(tmp_path / "lake", new=True)

    report = maintain(lake, "market.closes")

    assert (report.bytes_before, report.files_after, report.oldest_readable) == (0, 0, None)
    assert list(tmp_path.iterdir()) == []


def test_every_table_can_be_maintained(lake, bars, closes):
    lake.table("market.bars").append(bars([DAY]))
    lake.table("market.bars").append(bars([DAY + timedelta(days=1)]))
    lake.table("market.closes").append(closes([DAY]))
    lake.table("market.closes").append(closes([DAY + timedelta(days=1)]))

    assert maintain(lake, "market.bars").files_compacted == 2
    assert maintain(lake, "market.closes").files_compacted == 2
    assert lake.table("market.closes").scan().collect().height == 2


def test_compacted_files_keep_statistics_of_the_declared_columns_only(lake, small_files):
    maintain(lake, "market.trades")

    entry = small_files.folder / "_delta_log" / f"{small_files.version():020d}.json"
    assert "maxValues" in entry.read_text()
    assert "source_ref" not in entry.read_text()


def test_a_snapshot_still_tells_its_time_after_a_log_clean_up(lake, small_files):
    import os

    long_ago = datetime.now(UTC).timestamp() - 90 * 86_400
    for path in (small_files.folder / "_delta_log").glob("*"):
        os.utime(path, (long_ago, long_ago))
    expected = {version.version: version.timestamp for version in small_files.versions()}

    maintain(lake, "market.trades")
    maintain(lake, "market.trades")

    for version in small_files.readable_versions():
        assert small_files.snapshot(version=version.version).committed_at == expected.get(
            version.version, version.timestamp
        )


def test_a_compacted_day_is_sorted_again(lake, small_files):
    maintain(lake, "market.trades")

    for path in small_files.snapshot().paths:
        rows = pl.read_parquet(path)
        assert rows.equals(rows.sort("symbol", "venue", "ts", "trade_id"))


def test_a_replaced_day_leaves_its_month_one_sorted_file(lake):
    table = lake.table("market.closes")
    days = [date(2024, 1, 2), date(2024, 1, 3), date(2024, 1, 4)]
    rows = pl.DataFrame(
        {
            "date": [day for day in days for _ in range(3)],
            "venue": ["us_equity"] * 9,
            "symbol": ["CCC", "AAA", "BBB"] * 3,
            "close": [10.0 + i / 10 for i in range(9)],
            "adjusted": [True] * 9,
            "source": ["vendor_history"] * 9,
            "source_ref": ["test"] * 9,
        }
    )
    table.merge(rows)

    table.replace(days[1], rows.filter(pl.col("date") == days[1]).with_columns(pl.col("close") + 0.01))

    (path,) = table.snapshot().paths
    stored = pl.read_parquet(path)
    assert stored.equals(stored.sort("symbol", "venue", "date"))
    assert stored.height == 9


def test_after_a_vacuum_with_a_clock_that_is_behind_every_version_said_readable_reads(tmp_path, trades):
    """The commits' times are the machine's; a lake's clock may be another one."""
    lake = Lakehouse.open(tmp_path / "lake", clock=lambda: datetime(2020, 1, 1, tzinfo=UTC))
    table = lake.table("market.trades")
    table.append(trades(5))
    table.replace(None, trades(6))
    table.replace(None, trades(7))

    maintain(lake, "market.trades", history_days=0)

    heights = [table.scan(version.version).collect().height for version in table.readable_versions()]
    assert heights == [7] * len(heights)
