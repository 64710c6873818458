"""Intervals: names, lengths, grids."""

from __future__ import annotations

import re
from datetime import UTC, datetime

import polars as pl
import pytest

from hfthot_platform.core.errors import BadRequestError
from hfthot_platform.core.intervals import (
    NAME_PATTERN,
    canonical_name,
    close_times,
    coarsest_base,
    interval,
    of_distances,
)

DAY = 86_400_000_000


@pytest.mark.parametrize(
    ("spelled", "name"),
    [
        *(("60", "1h"), ("H1", "1h"), ("1hour", "1h"), ("60min", "1h"), ("3600s", "1h"), ("H4", "4h"), ("4H", "4h")),
        *(("D", "1d"), ("daily", "1d"), ("24h", "1d"), ("1440", "1d"), ("W1", "1w"), ("7d", "1w"), ("weekly", "1w")),
        *(("1M", "1mo"), ("MN1", "1mo"), ("monthly", "1mo"), ("1month", "1mo"), ("3M", "3mo"), ("1y", "12mo")),
        *(("M5", "5m"), ("5T", "5m"), ("30 min", "30m"), ("90", "90m"), ("3d", "3d"), ("1m", "1m")),
    ],
)
def test_every_spelling_has_one_name(spelled, name) -> None:
    assert canonical_name(spelled) == name
    assert canonical_name(name) == name
    assert name == "1m" or re.fullmatch(NAME_PATTERN, name)


@pytest.mark.parametrize("word", ["", "often", "30s", "0m", "5x", "2y", "400d", "-5m", "1.5h"])
def test_what_is_no_whole_number_of_minutes_up_to_a_year_is_refused(word) -> None:
    assert canonical_name(word) is None
    with pytest.raises(BadRequestError, match="unknown interval"):
        interval(word)


@pytest.mark.parametrize(
    ("name", "time", "opens", "closes"),
    [
        ("30m", "2024-02-29T23:59:59", "2024-02-29T23:30", "2024-03-01T00:00"),
        ("4h", "2024-02-29T05:00", "2024-02-29T04:00", "2024-02-29T08:00"),
        ("1d", "1969-12-31T23:00", "1969-12-31T00:00", "1970-01-01T00:00"),
        # Weeks begin on Monday, also before 1970.
        ("1w", "2024-03-03T23:00", "2024-02-26T00:00", "2024-03-04T00:00"),
        ("1w", "1969-12-28T23:00", "1969-12-22T00:00", "1969-12-29T00:00"),
        # Binance's first three-day bars of BTCUSDT opened on 2017-08-17; one opened on 2026-07-01.
        ("3d", "2017-08-19T12:00", "2017-08-17T00:00", "2017-08-20T00:00"),
        ("3d", "2026-07-01T00:00", "2026-07-01T00:00", "2026-07-04T00:00"),
        ("1mo", "2024-02-29T23:00", "2024-02-01T00:00", "2024-03-01T00:00"),
        ("3mo", "2023-12-31T23:00", "2023-10-01T00:00", "2024-01-01T00:00"),
    ],
)
def test_a_time_falls_into_the_bar_that_opens_at_or_before_it(name, time, opens, closes) -> None:
    frame = pl.DataFrame({"ts": [datetime.fromisoformat(time).replace(tzinfo=UTC)]})
    found = frame.select(interval(name).open_time(pl.col("ts")).alias("opens")).with_columns(
        closes=interval(name).close_time(pl.col("opens"))
    )
    assert found.row(0) == tuple(datetime.fromisoformat(bound).replace(tzinfo=UTC) for bound in (opens, closes))


def test_bars_of_several_intervals_close_each_at_its_own_time() -> None:
    ts = datetime(2024, 2, 1, tzinfo=UTC)
    rows = pl.DataFrame({"ts": [ts] * 3, "interval": ["1d", "1mo", "2d"]})
    found = rows.select(close_times(pl.col("ts"), pl.col("interval"), ["1d", "1mo"])).to_series().to_list()
    assert found == [datetime(2024, 2, 2, tzinfo=UTC), datetime(2024, 3, 1, tzinfo=UTC), None]


@pytest.mark.parametrize(
    ("wanted", "available", "base"),
    [
        ("4h", ["1m", "1h", "3h"], "1h"),
        ("1w", ["1d", "3d", "4h"], "1d"),
        ("1mo", ["1w", "1d"], "1d"),
        ("3mo", ["1mo", "1d"], "1mo"),
        ("1mo", ["1w"], None),
        ("5m", ["1h"], None),
        ("1d", ["7m", "1d"], None),
    ],
)
def test_bars_are_made_of_the_longest_bars_that_fit_whole(wanted, available, base) -> None:
    assert coarsest_base(wanted, available) == base


@pytest.mark.parametrize(
    ("distances", "name"),
    [
        ([DAY // 48] * 20 + [DAY], "30m"),
        ([DAY // 6], "4h"),
        ([7 * DAY] * 3, "1w"),
        ([31 * DAY, 29 * DAY, 31 * DAY, 30 * DAY], "1mo"),
        ([28 * DAY] * 4, "4w"),
        ([90_000_000], None),
        ([DAY // 24, DAY // 24, 1], None),
        ([], None),
    ],
)
def test_the_distances_of_bars_tell_their_length(distances, name) -> None:
    found = of_distances(pl.Series(distances, dtype=pl.Int64))
    assert (found.name if found else None) == name
