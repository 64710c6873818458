"""A lake in a temporary folder and rows to put into it."""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, date, datetime, timedelta
from pathlib import Path

import polars as pl
import pytest

from hfthot_platform.storage.lakehouse import Lakehouse, Table

DAY = date(2024, 1, 1)


@pytest.fixture
def lake(tmp_path: Path) -> Lakehouse:
    return Lakehouse.open(tmp_path / "lake", new=True)


@pytest.fixture
def table(lake: Lakehouse) -> Table:
    return lake.table("market.trades")


@pytest.fixture(scope="session")
def trades() -> Callable[..., pl.DataFrame]:
    """Return a maker of good trades: `trades(n, first_id=0, day=DAY, **columns)`, one second apart."""

    def make(n: int = 10, first_id: int = 0, day: date = DAY, **columns: object) -> pl.DataFrame:
        midnight = datetime.combine(day, datetime.min.time(), UTC)
        frame = pl.DataFrame(
            {
                "venue": ["kraken"] * n,
                "symbol": ["BTC-USDT"] * n,
                "ts": [midnight + timedelta(seconds=i) for i in range(n)],
                "trade_id": range(first_id, first_id + n),
                "price": [100.0 + i % 7 for i in range(n)],
                "amount": [1.0] * n,
                "side": ["buy"] * n,
                "source": ["replay"] * n,
                "source_ref": ["test:1"] * n,
            },
            schema_overrides={"ts": pl.Datetime("us", "UTC"), "trade_id": pl.Int64},
        )
        values = {
            name: value if isinstance(value, pl.Expr | pl.Series) else pl.lit(value) for name, value in columns.items()
        }
        return frame.with_columns(**values)

    return make


@pytest.fixture(scope="session")
def bars() -> Callable[..., pl.DataFrame]:
    """Return a maker of good hourly bars: `bars(days, close=...)`, one at midnight of each day."""

    def make(days: list[date], close: float = 10.0) -> pl.DataFrame:
        opens = [datetime.combine(day, datetime.min.time(), UTC) for day in days]
        frame = pl.DataFrame({"ts": opens}, schema={"ts": pl.Datetime("us", "UTC")})
        return frame.with_columns(
            ts_close=pl.col("ts") + pl.duration(hours=1),
            venue=pl.lit("kraken"),
            symbol=pl.lit("BTC-USDT"),
            interval=pl.lit("1h"),
            open=pl.lit(close),
            high=pl.lit(close),
            low=pl.lit(close),
            close=pl.lit(close),
            volume=pl.lit(1.0),
            final=pl.lit(value=True),
            origin=pl.lit("vendor"),
            source=pl.lit("replay"),
            source_ref=pl.lit("test:bars"),
        )

    return make


@pytest.fixture(scope="session")
def closes() -> Callable[..., pl.DataFrame]:
    """Return a maker of good daily closes: `closes(days, close=...)`."""

    def make(days: list[date], close: float = 10.0) -> pl.DataFrame:
        return pl.DataFrame({"date": days}, schema={"date": pl.Date}).with_columns(
            venue=pl.lit("us_equity"),
            symbol=pl.lit("AAPL"),
            close=pl.lit(close),
            adjusted=pl.lit(value=True),
            source=pl.lit("vendor_history"),
            source_ref=pl.lit("test:closes"),
        )

    return make
