"""Staging: audited batches wait, spool, and leave nothing behind."""

from __future__ import annotations

import os
from datetime import UTC, datetime

import polars as pl
import pytest

from hfthot_platform.storage.lakehouse import Staging, sweep_scratch
from hfthot_platform.storage.lakehouse import staging as module

NOW = datetime(2024, 3, 10, tzinfo=UTC)


@pytest.fixture
def closes() -> pl.DataFrame:
    days = pl.date_range(pl.date(2024, 1, 1), pl.date(2024, 1, 10), eager=True)
    return pl.DataFrame(
        {
            "date": days,
            "venue": ["us_equity"] * 10,
            "symbol": ["AAA"] * 10,
            "close": [10.0 + i for i in range(10)],
            "adjusted": [True] * 10,
            "source": ["vendor_history"] * 10,
            "source_ref": ["test"] * 10,
        }
    )


def test_batches_beyond_the_memory_budget_are_spooled_and_come_back_as_they_were(lake, closes, tmp_path, monkeypatch):
    monkeypatch.setattr(module, "ROWS_IN_MEMORY", 12)
    table = lake.table("market.closes")
    with Staging(table, tmp_path / "scratch") as staging:
        for offset in range(3):
            staging.add(closes.with_columns(symbol=pl.lit(f"S{offset}")))
        assert len(list((tmp_path / "scratch").rglob("rows.parquet"))) == 2
        assert [batch.rows.height for batch in staging.batches()] == [10, 10, 10]
        staging.merge()

    assert not list((tmp_path / "scratch").iterdir())
    assert table.scan().collect().height == 30


def test_an_abandoned_folder_is_swept_and_a_living_one_is_not(tmp_path):
    for name, age in (("staging-old", 90_000), ("staging-new", 60), ("other-old", 90_000)):
        folder = tmp_path / name
        folder.mkdir()
        (folder / "rows.parquet").write_bytes(b"x")
        os.utime(folder, (NOW.timestamp() - age,) * 2)

    assert sweep_scratch(tmp_path, NOW) == 1
    assert sorted(path.name for path in tmp_path.iterdir()) == ["other-old", "staging-new"]


def test_a_scratch_folder_that_is_not_there_has_nothing_to_sweep(tmp_path):
    assert sweep_scratch(tmp_path / "none", NOW) == 0


def test_an_unfinished_bar_fills_a_gap_but_never_replaces_a_finished_one(lake):
    table = lake.table("market.bars_1m")
    ts = [datetime(2024, 1, 1, 0, minute, tzinfo=UTC) for minute in (0, 1)]

    def bars(close: float, *, final: bool) -> pl.DataFrame:
        price = {name: [close] * 2 for name in ("open", "high", "low", "close")}
        return pl.DataFrame(
            {
                "venue": ["v"] * 2,
                "symbol": ["A-B"] * 2,
                "ts": ts,
                "ts_close": [time.replace(second=59) for time in ts],
                **price,
                "volume": [1.0] * 2,
                "final": [final] * 2,
                "origin": ["vendor"] * 2,
                "source": ["vendor_history"] * 2,
                "source_ref": [f"at {close}"] * 2,
            }
        ).with_columns(pl.col("ts", "ts_close").cast(pl.Datetime("us", "UTC")))

    with Staging(table) as finished:
        finished.add(bars(10.0, final=True).head(1))
        finished.merge()
    with Staging(table) as open_bars:
        open_bars.add(bars(11.0, final=False))
        commit = open_bars.merge()

    assert table.scan().sort("ts").collect().select("close", "final").rows() == [(10.0, True), (11.0, False)]
    assert commit.rows_published == 1
    assert commit.rows_read == 2
