"""Completeness, staleness and agreement of bars."""

from __future__ import annotations

from datetime import UTC, date, datetime, timedelta
from pathlib import Path

import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hfthot_platform.core.errors import BadRequestError
from hfthot_platform.domain.market.calendar import us_trading_days
from hfthot_platform.domain.market.gaps import agreement, completeness, missing_runs, presence, staleness
from tests.recordings import HOURS, PERP, Recordings

START = datetime(2024, 3, 1, tzinfo=UTC)
MINUTE = timedelta(minutes=1)


def bars(
    minutes: list[int], venue: str = "binance", symbol: str = "BTC-USDT", step: timedelta = MINUTE
) -> pl.DataFrame:
    return pl.DataFrame(
        {
            "venue": [venue] * len(minutes),
            "symbol": [symbol] * len(minutes),
            "ts": [START + minute * step for minute in minutes],
        },
        schema={"venue": pl.String, "symbol": pl.String, "ts": pl.Datetime("us", "UTC")},
    )


def test_missing_minutes_between_the_first_and_the_last_row_are_counted_and_located() -> None:
    rows = bars([0, 1, 4, 5, 9])
    counted = completeness(rows, "1m").row(0, named=True)
    assert counted == {
        "venue": "binance", "symbol": "BTC-USDT", "first": START, "last": START + 9 * MINUTE,
        "expected": 10, "present": 5, "missing": 5, "off_grid": 0, "runs": 2, "longest": 3,
    }  # fmt: skip
    assert missing_runs(rows, "1m").select("start", "end", "missing").rows() == [
        (START + 2 * MINUTE, START + 4 * MINUTE, 2),
        (START + 6 * MINUTE, START + 9 * MINUTE, 3),
    ]


def test_a_given_span_adds_what_is_missing_at_its_edges_and_ignores_what_is_outside() -> None:
    span = {"start": START + 2 * MINUTE, "end": START + 10 * MINUTE}
    assert completeness(bars([0, 4, 5, 12]), "1m", **span)["missing"].item() == 6
    assert missing_runs(bars([0, 4, 5, 12]), "1m", **span)["missing"].to_list() == [2, 4]


def test_a_span_that_does_not_start_on_the_grid_expects_whole_intervals_only() -> None:
    half = timedelta(seconds=30)
    counted = completeness(bars([1, 2]), "1m", start=START + half, end=START + 3 * MINUTE + half)
    assert counted.select("expected", "missing").row(0) == (3, 1)


def test_a_complete_series_has_no_runs() -> None:
    assert completeness(bars(list(range(100))), "1m").select("missing", "runs", "longest").row(0) == (0, 0, 0)
    assert missing_runs(bars(list(range(100))), "1m").is_empty()


def test_series_are_counted_one_by_one() -> None:
    rows = pl.concat([bars([0, 2]), bars([0, 3], symbol="ETH-USDT"), bars([0, 1], venue="kraken")])
    assert completeness(rows, "1m").select("symbol", "venue", "missing").rows() == [
        ("BTC-USDT", "binance", 1),
        ("BTC-USDT", "kraken", 0),
        ("ETH-USDT", "binance", 2),
    ]


def test_an_expected_member_without_any_row_is_all_gap() -> None:
    members = pl.DataFrame({"venue": ["binance", "binance"], "symbol": ["BTC-USDT", "NEW-USDT"]})
    rows = bars([0, 1])
    counted = completeness(rows, "1m", start=START, end=START + 2 * MINUTE, members=members)
    assert counted.select("symbol", "missing", "first").rows() == [("BTC-USDT", 0, START), ("NEW-USDT", 2, None)]
    assert completeness(rows, "1m", members=members)["missing"].to_list() == [0, 0]


def test_a_time_between_two_grid_points_and_a_repeated_one_do_not_count() -> None:
    rows = pl.concat([bars([0, 0, 2]), bars([2], step=timedelta(seconds=20))])
    assert completeness(rows, "1m").select("present", "missing", "off_grid").row(0) == (2, 1, 1)


def test_only_rows_of_the_asked_interval_count() -> None:
    rows = bars([0, 2]).with_columns(interval=pl.Series(["1h", "5m"]))
    assert completeness(rows, "1h")["present"].to_list() == [1]


def test_no_rows_give_no_result() -> None:
    assert completeness(bars([]), "1m").is_empty()
    assert missing_runs(bars([]), "1m", start=START, end=START + MINUTE).is_empty()


@settings(max_examples=50, deadline=None)
@given(st.sets(st.integers(0, 200), min_size=1), st.integers(0, 200), st.integers(0, 200))
def test_runs_are_exactly_the_absent_minutes(present: set[int], low: int, length: int) -> None:
    span = {"start": START + low * MINUTE, "end": START + (low + length) * MINUTE}
    runs = missing_runs(bars(sorted(present)), "1m", **span)
    absent = {
        round((start - START) / MINUTE) + minute
        for start, missing in runs.select("start", "missing").rows()
        for minute in range(missing)
    }
    expected = set(range(low, low + length))
    inside = present & expected
    # A symbol without any row in the span is only known of when it is a member.
    assert absent == (expected - inside if inside else set())


def test_weekends_and_holidays_are_no_gaps_in_daily_equities() -> None:
    days = [date(2024, 3, 27), date(2024, 3, 28), date(2024, 4, 1), date(2024, 4, 3)]  # Good Friday, Easter
    closes = pl.DataFrame({"venue": "us_equity", "symbol": "AAPL", "date": days})
    assert missing_runs(closes, "1d").select("start", "end", "missing").rows() == [
        (datetime(2024, 4, 2, tzinfo=UTC), datetime(2024, 4, 3, tzinfo=UTC), 1)
    ]
    # The same days would be gaps on a venue that trades always.
    assert completeness(closes.with_columns(venue=pl.lit("binance")), "1d")["missing"].item() == 4


def test_a_session_on_a_holiday_is_off_the_grid() -> None:
    days = [date(2024, 7, 3), date(2024, 7, 4), date(2024, 7, 5)]
    closes = pl.DataFrame({"venue": "us_equity", "symbol": "AAPL", "date": days})
    assert completeness(closes, "1d").select("present", "missing", "off_grid").row(0) == (2, 0, 1)


def test_no_grid_is_claimed_for_intraday_equities() -> None:
    counted = completeness(bars([0, 5], venue="us_equity"), "1m")
    assert counted.select("present", "expected", "missing").row(0) == (2, None, None)
    assert missing_runs(bars([0, 5], venue="us_equity"), "1m").is_empty()


def test_a_calendar_before_its_rules_hold_is_refused() -> None:
    with pytest.raises(BadRequestError, match="no calendar before 1972"):
        us_trading_days(date(1950, 1, 1), date(2000, 1, 1))


def test_a_series_is_stale_by_the_closed_intervals_it_lacks() -> None:
    rows = bars([0, 1])  # the minute that opened at 00:01 closed at 00:02
    for now, behind, stale in ((2, 0, False), (2.9, 0, False), (3, 1, False), (4, 2, True)):
        found = staleness(rows, "1m", START + now * MINUTE)
        assert found.select("behind", "stale").row(0) == (behind, stale)
    assert staleness(rows, "1m", START + 4 * MINUTE)["age"].item() == 2 * MINUTE


def test_a_weekend_does_not_make_daily_equities_stale() -> None:
    friday = pl.DataFrame({"venue": ["us_equity"], "symbol": ["AAPL"], "date": [date(2024, 3, 22)]})
    monday_morning = datetime(2024, 3, 25, 8, tzinfo=UTC)
    assert staleness(friday, "1d", monday_morning)["behind"].item() == 0
    assert staleness(friday, "1d", monday_morning + timedelta(days=2))["behind"].item() == 2


def test_presence_is_the_share_of_the_day_days_without_rows_included() -> None:
    rows = bars([*range(720), *range(2 * 1440, 3 * 1440)])
    assert presence(rows, "1m").select("ts", "share").rows() == [
        (START, 0.5),
        (START + timedelta(days=1), 0.0),
        (START + timedelta(days=2), 1.0),
    ]


def test_presence_by_hour() -> None:
    found = presence(bars([0, 1, 2, 60]), "1m", by="hour", start=START, end=START + timedelta(hours=2))
    assert found.select("expected", "present").rows() == [(60, 3), (60, 1)]


def test_presence_knows_no_weekends_of_equities() -> None:
    days = [date(2024, 3, 22), date(2024, 3, 26)]  # a Friday and a Tuesday
    found = presence(pl.DataFrame({"venue": "us_equity", "symbol": "AAPL", "date": days}), "1d")
    assert found.select("share").to_series().to_list() == [1.0, 0.0, 1.0]
    assert presence(bars([]), "1m").is_empty()


def prices(closes: list[float | None], **columns: str) -> pl.DataFrame:
    values = pl.Series(closes, dtype=pl.Float64)
    return bars(list(range(len(closes)))).with_columns(
        close=values, volume=values, **{k: pl.lit(v) for k, v in columns.items()}
    )


def test_sources_that_differ_are_counted_with_the_largest_difference() -> None:
    ours, theirs = prices([100, 200, 300, 400]), prices([100, 201, 330, None])
    key = ("binance", "BTC-USDT")
    assert agreement(ours, theirs, 0.001, columns=("close",)).row(0) == (*key, 4, 2, pytest.approx(30 / 330))
    assert agreement(ours, theirs, 0.01, columns=("close",)).row(0) == (*key, 4, 1, pytest.approx(30 / 330))
    assert agreement(ours[:2], theirs[:2], 0.01, columns=("close",)).row(0) == (*key, 2, 0, pytest.approx(1 / 201))


def test_bars_of_another_interval_are_not_compared() -> None:
    found = agreement(prices([1.0], interval="5m"), prices([2.0], interval="1h"), columns=("close",))
    assert found.is_empty()


def test_zero_equals_zero_and_a_non_number_equals_nothing() -> None:
    zeros = agreement(prices([0.0]), prices([0.0]), columns=("close",))
    assert zeros.select("differing", "worst").row(0) == (0, 0.0)
    odd = agreement(prices([1.0]), prices([float("nan")]), columns=("close",))
    assert odd.select("differing", "worst").row(0) == (1, float("inf"))


def test_bars_of_several_days_are_expected_where_the_series_has_them() -> None:
    three_days = timedelta(days=3)
    for shift in (0, 1, 2):
        rows = bars([0, 1, 3, 4], step=three_days).with_columns(pl.col("ts") + timedelta(days=shift))
        assert completeness(rows, "3d").select("expected", "missing", "off_grid").row(0) == (5, 1, 0)


def test_weeks_and_months_are_expected_of_every_market() -> None:
    months = [datetime(2024, month, 1, tzinfo=UTC) for month in (1, 2, 4, 5)]
    rows = bars([0] * 4, venue="us_equity", symbol="SPY").with_columns(
        ts=pl.Series(months).cast(pl.Datetime("us", "UTC"))
    )
    assert missing_runs(rows, "1mo").select("start", "end", "missing").rows() == [
        (datetime(2024, 3, 1, tzinfo=UTC), datetime(2024, 4, 1, tzinfo=UTC), 1)
    ]
    weeks = bars([0, 1, 3], venue="us_equity", symbol="SPY", step=timedelta(weeks=1))
    assert missing_runs(weeks, "1w")["missing"].to_list() == [1]


def test_currencies_are_expected_from_monday_to_friday() -> None:
    # 2024-03-01 is a Friday.
    daily = bars([0, 3, 5, 6], venue="fx", symbol="EUR-USD", step=timedelta(days=1))
    assert completeness(daily, "1d").select("expected", "missing").row(0) == (5, 1)
    assert completeness(daily, "1h")["missing"].to_list() == [None]


def test_wrong_arguments_are_refused_with_the_reason() -> None:
    with pytest.raises(BadRequestError, match="unknown interval 'often'"):
        completeness(bars([0]), "often")
    with pytest.raises(BadRequestError, match="has no time zone"):
        completeness(bars([0]), "1m", start=datetime(2024, 1, 1))
    with pytest.raises(BadRequestError, match="is before start"):
        completeness(bars([0]), "1m", start=START + MINUTE, end=START)
    with pytest.raises(BadRequestError, match="no column 'open'"):
        agreement(prices([1.0]), prices([1.0]))


# Real data


def test_a_year_of_bitfinex_lacks_exactly_the_recorded_number_of_minutes(recordings: Recordings) -> None:
    facts = recordings.facts
    rows = pl.read_csv(recordings / "ohlcv/bitfinex_1m_2016/BTCUSD_2016_1m.csv.gz", has_header=False).select(
        pl.lit("bitfinex").alias("venue"),
        pl.lit("BTC-USD").alias("symbol"),
        (pl.col("column_0") * 1000).cast(pl.Datetime("us", "UTC")).alias("ts"),
    )
    counted = completeness(rows, "1m")
    assert counted.select("present", "missing", "off_grid").row(0) == (
        facts.bitfinex_minutes,
        facts.bitfinex_missing,
        0,
    )
    assert missing_runs(rows, "1m")["missing"].sum() == facts.bitfinex_missing
    # A count ends with the last bar, a year with its last minute.
    year = completeness(rows, "1m", start=datetime(2016, 1, 1, tzinfo=UTC), end=datetime(2017, 1, 1, tzinfo=UTC))
    assert year["missing"].item() == 366 * 1440 - facts.bitfinex_minutes


@pytest.mark.parametrize(
    ("file", "interval", "time", "series"),
    [
        (f"{PERP}/perp_1m.parquet", "1m", "date", "perp_symbols"),
        (f"{HOURS}/perp_1h_22sym.parquet", "1h", "open_time", "hour_symbols"),
    ],
)
def test_gapless_recordings_have_no_gap(
    recordings: Recordings, file: str, interval: str, time: str, series: str
) -> None:
    rows = pl.scan_parquet(recordings / file).select(
        pl.lit("binance_usdm").alias("venue"), "symbol", pl.col(time).dt.cast_time_unit("us").alias("ts")
    )
    counted = completeness(rows, interval)
    assert counted.height == getattr(recordings.facts, series)
    assert counted["missing"].sum() == 0


@pytest.mark.parametrize(
    ("file", "first", "last", "days"),
    [
        ("equities/sp500_index_1927_2019/sp500_close.csv", date(1972, 1, 1), date(2019, 12, 31), 12_106),
        ("equities/us50_2018_2025/prices_adj_close.csv", date(2018, 1, 2), date(2025, 12, 31), 2_011),
    ],
)
def test_the_us_calendar_equals_half_a_century_of_recorded_trading_days(
    shared_data: Path, file: str, first: date, last: date, days: int
) -> None:
    recorded = pl.read_csv(shared_data / file, columns=[0], try_parse_dates=True).to_series().cast(pl.Date)
    recorded = recorded.filter((recorded >= first) & (recorded <= last))
    assert len(recorded) == days
    assert us_trading_days(first, last + timedelta(days=1)).tolist() == recorded.to_list()
