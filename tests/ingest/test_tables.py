"""Derived tables without Dagster, and what is missing in them."""

from __future__ import annotations

from datetime import UTC, date, datetime, timedelta

import polars as pl
import pytest

from hfthot_platform.core.errors import BadRequestError, UnknownSymbolError
from hfthot_platform.core.settings import Settings
from hfthot_platform.services.derive.tables import derive_table, missing_in
from hfthot_platform.storage.lakehouse import Lakehouse

FIRST = datetime(1955, 3, 7, tzinfo=UTC)  # a Monday
DAY = timedelta(days=1)


@pytest.fixture
def lake(tmp_path):
    lake = Lakehouse.open(tmp_path / "lake")
    days = [FIRST + k * DAY for k in range(14) if k != 9]
    rows = pl.DataFrame(
        {
            "venue": "binance", "symbol": "OLD-USD", "interval": "1d", "ts": days,
            "ts_close": [day + DAY for day in days], "open": 1.0, "high": [2.0 + k for k in range(13)], "low": 0.5,
            "close": [1.0 + k / 10 for k in range(13)], "final": True, "origin": "vendor",
            "source": "vendor_history", "source_ref": "test:1",
        },
        schema_overrides={"ts": pl.Datetime("us", "UTC"), "ts_close": pl.Datetime("us", "UTC")},
    )  # fmt: skip
    lake.table("market.bars").merge(rows)
    return lake


@pytest.fixture
def settings(tmp_path):
    return Settings(lake_root=str(tmp_path / "lake"), scratch=tmp_path / "scratch")


def test_closes_of_days_before_dagsters_first_are_derived(lake, settings) -> None:
    days = date(1955, 3, 1), date(1955, 4, 1)
    for _ in range(2):
        derive_table(lake, "market.closes", days, settings=settings)
    closes = lake.table("market.closes").scan().sort("date").collect()
    assert closes.height == 13
    assert closes["date"][0] == FIRST.date()
    assert closes.select("adjusted", "raw_close").row(0) == (False, 1.0)


def test_weeks_are_derived_from_days(lake, settings) -> None:
    derive_table(lake, "market.bars", (date(1955, 3, 1), date(1955, 4, 1)), interval="1w", settings=settings)
    weeks = lake.table("market.bars").scan().filter(pl.col("interval") == "1w").sort("ts").collect()
    assert weeks.select("ts", "open", "high", "origin", "volume").rows() == [
        (FIRST, 1.0, 8.0, "bars", None),
        (FIRST + 7 * DAY, 1.0, 14.0, "bars", None),
    ]


def test_a_table_that_is_not_derived_is_refused(lake, settings) -> None:
    with pytest.raises(BadRequestError, match="not a derived series"):
        derive_table(lake, "market.trades", (date(2024, 1, 1), date(2024, 1, 2)), settings=settings)
    with pytest.raises(BadRequestError, match="TO is after FROM"):
        derive_table(lake, "market.closes", (date(2024, 1, 2), date(2024, 1, 2)), settings=settings)


def test_gaps_are_listed_with_their_series_interval_and_span(lake) -> None:
    assert missing_in(lake, "market.bars").rows() == [
        ("binance", "OLD-USD", "1d", FIRST + 9 * DAY, FIRST + 10 * DAY, 1)
    ]
    wider = missing_in(lake, "market.bars", interval="1d", first=FIRST - 2 * DAY, end=FIRST + 14 * DAY)
    assert wider["missing"].to_list() == [2, 1]


def test_gaps_of_a_series_that_is_not_there_are_no_answer(lake) -> None:
    with pytest.raises(UnknownSymbolError, match=r"no rows of the symbol 'oldusd'\. Did you mean 'OLD-USD'\?"):
        missing_in(lake, "market.bars", symbol="oldusd")
    with pytest.raises(BadRequestError, match=r"no rows of the venue 'kraken'\. Known: binance"):
        missing_in(lake, "market.bars", venue="kraken")
    with pytest.raises(BadRequestError, match=r"no rows of the interval '5m'\. Known: 1d"):
        missing_in(lake, "market.bars", interval="5m")
    with pytest.raises(BadRequestError, match="one interval only"):
        missing_in(lake, "market.closes", interval="1d")
