"""A folder for model files, and the two models that most tests start from."""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path

import polars as pl
import pytest

from hfthot_platform.app.lake import open_lake
from hfthot_platform.services.sql.models import Models, load_models
from hfthot_platform.storage.lakehouse import Lakehouse
from hfthot_platform.storage.lakehouse.storage import Storage

BARS = """\
/*
description: Final one-minute bars.
owner: research
materialized: view
columns:
  close: {tests: [not_null, {range: {min: 0}}]}
tests:
  - expression: high >= low
*/
SELECT ts, venue, symbol, open, high, low, close, volume
FROM market.bars_1m
WHERE final
"""

RETURNS = """\
/*
description: Daily close and return of every symbol.
owner: research
materialized: incremental
unique_key: [venue, symbol, date]
partitioned_by: date
tags: [returns]
columns:
  close: {description: Last close of the day, tests: [not_null, {range: {min: 0}}]}
  bars: {description: Minutes with a bar, tests: [{range: {min: 1}}]}
  change: {description: Close over the close before}
settings: {lookback_days: 7}
*/
WITH days AS (
  SELECT venue, symbol, CAST(ts AS DATE) AS date, arg_max(close, ts) AS close, count(*) AS bars
  FROM staging.minutes
  WHERE ts >= $partition_start - to_days($lookback_days) AND ts < $partition_end
  GROUP BY ALL
)
SELECT venue, symbol, date, close, bars,
  close / lag(close) OVER (PARTITION BY venue, symbol ORDER BY date) - 1 AS change
FROM days
QUALIFY date >= $partition_start
"""

Write = Callable[..., Path]


@pytest.fixture
def write(tmp_path: Path) -> Write:
    """Write model files given as `name=text`, where the name is `layer__model`; return the models' folder."""
    folder = tmp_path / "dbt_like_sql"
    folder.mkdir()

    def made(**files: str) -> Path:
        for name, text in files.items():
            layer, _, model = name.partition("__")
            (folder / layer).mkdir(exist_ok=True)
            (folder / layer / f"{model}.sql").write_text(text)
        return folder

    return made


def minutes(symbol: str, day: str, closes: list[float]) -> pl.DataFrame:
    """Return one bar per close, a minute apart from noon of a day on."""
    first = datetime.fromisoformat(f"{day}T12:00:00+00:00")
    times = [first + timedelta(minutes=minute) for minute in range(len(closes))]
    return pl.DataFrame(
        {
            "venue": "binance",
            "symbol": symbol,
            "ts": pl.Series(times, dtype=pl.Datetime("us", "UTC")),
            "ts_close": pl.Series([time + timedelta(minutes=1) for time in times], dtype=pl.Datetime("us", "UTC")),
            "open": closes,
            "high": closes,
            "low": closes,
            "close": closes,
            "volume": 1.0,
            "final": True,
            "origin": "vendor",
            "source": "vendor_history",
            "source_ref": "test",
        }
    )


DAYS = ("2024-03-01", "2024-03-02", "2024-03-03")


def fill(lake: Lakehouse) -> None:
    """Write bars of two symbols over three days."""
    parts = [
        minutes(symbol, day, [start + 2 * number, start + 2 * number + 1])
        for symbol, start in (("BTC-USDT", 100.0), ("ETH-USDT", 10.0))
        for number, day in enumerate(DAYS)
    ]
    lake.table("market.bars_1m").append(pl.concat(parts))


NOW = datetime(2024, 3, 4, 6, tzinfo=UTC)
Opened = Callable[..., tuple[Lakehouse, Models]]


@pytest.fixture
def opened(tmp_path: Path, write: Write) -> Opened:
    """Open a lake with three days of bars and the models given as files."""

    def made(**files: str) -> tuple[Lakehouse, Models]:
        models = load_models(write(**files))
        lake = open_lake(Storage.parse(str(tmp_path / "lake")), lambda: NOW, models, new=True)
        if lake.table("market.bars_1m").version() is None:
            fill(lake)
        return lake, models

    return made
