"""A folder for model files, and the two models that most tests start from."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

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
