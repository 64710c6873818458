"""Daily bars and returns, against Polars and by hand."""

from __future__ import annotations

from datetime import UTC, date, datetime, timedelta

import polars as pl
import pytest

NAME = "marts.daily_ohlcv"


def bar(
    day: str, close: float = 100.0, symbol: str = "X", venue: str = "binance", **values: object
) -> dict[str, object]:
    ts = datetime.fromisoformat(day).replace(tzinfo=UTC)
    prices = {"open": close, "high": close * 1.01, "low": close * 0.99, "close": close}
    return {"venue": venue, "symbol": symbol, "ts": ts, **prices, **values}


def close(day: str, price: float, symbol: str = "X", venue: str = "us_equity", **values: object) -> dict[str, object]:
    return {"venue": venue, "symbol": symbol, "date": date.fromisoformat(day), "close": price, **values}


def test_returns_are_those_of_successive_closes(real):
    found = real.make(NAME, "symbol", "date")

    expected = (
        real.read("market.closes", "symbol", "date")
        .join(
            real.read("market.bars").select(
                "symbol", pl.col("ts").dt.date().alias("date"), pl.col("close").alias("bar")
            ),
            on=["symbol", "date"],
            how="left",
        )
        .with_columns(pl.coalesce("bar", "close").pct_change().over("symbol").alias("r"))
    )
    assert found.height == expected.height == 21 * 756
    joined = found.join(expected, on=["symbol", "date"])
    # One rounding of a division.
    assert joined.select((pl.col("simple_return") - pl.col("r")).abs().max()).item() < 1e-15
    assert joined.select((pl.col("log_return") - pl.col("r").log1p()).abs().max()).item() < 1e-15
    assert found.filter(~pl.col("is_daily")).height == 21


def test_the_index_has_its_bars_and_the_stocks_their_adjusted_closes(real):
    found = real.make(NAME)

    index, stocks = found.filter(pl.col("symbol") == "SPX"), found.filter(pl.col("symbol") != "SPX")
    assert index.select(pl.col("open", "high", "low", "close", "volume").null_count().sum()).row(0) == (0,) * 5
    assert set(index["return_basis"]) == {"close", None}
    assert stocks["close"].null_count() == stocks.height
    assert stocks["adjusted_close"].null_count() == 0
    assert set(stocks["return_basis"]) == {"adjusted_close", None}


def test_a_return_over_a_missing_day_is_said_to_be_none_of_a_day(shipped):
    rows = [bar("2024-03-01", 100), bar("2024-03-02", 110), bar("2024-03-05", 121), bar("2024-03-06", 121)]

    found = shipped({"market.bars": pl.DataFrame(rows)}).make(NAME, "date")

    assert found["simple_return"].to_list() == [None, pytest.approx(0.1), pytest.approx(0.1), 0.0]
    assert found["is_daily"].to_list() == [False, True, False, True]
    assert found["gap_days"].to_list() == [None, 1, 3, 1]
    assert found["missing_days"].to_list() == [None, 0, 2, 0]


def test_beyond_ten_days_there_is_no_return_at_all(shipped):
    rows = [bar("2024-03-01", 100), bar("2024-03-11", 110), bar("2024-03-22", 121)]

    found = shipped({"market.bars": pl.DataFrame(rows)}).make(NAME, "date")

    assert found["simple_return"].to_list() == [None, pytest.approx(0.1), None]
    assert found["previous_date"].to_list() == [None, date(2024, 3, 1), None]


def test_a_weekend_is_no_gap_of_a_us_stock_but_a_missing_session_is(shipped):
    # Friday, Monday, Tuesday, Wednesday; the other stock traded on Tuesday.
    rows = [close(f"2024-03-{day:02}", price) for day, price in ((1, 100), (4, 101), (6, 102))]
    rows += [close(f"2024-03-{day:02}", 50.0, "OTHER") for day in (1, 4, 5, 6)]

    found = shipped({"market.closes": pl.DataFrame(rows)}).make(NAME, "symbol", "date")

    assert found.filter(pl.col("symbol") == "OTHER")["is_daily"].to_list() == [False, True, True, True]
    assert found.filter(pl.col("symbol") == "X")["is_daily"].to_list() == [False, True, False]
    assert found.filter(pl.col("symbol") == "X")["missing_days"].to_list() == [None, 0, 1]


def test_a_lonely_us_series_is_silent_for_a_week_at_most(shipped):
    # The exchange was shut from 11 to 16 September 2001; from 3 to 14 January 2002 it was not.
    rows = [close(day, 100.0) for day in ("2001-09-10", "2001-09-17", "2001-09-25")]

    found = shipped({"market.closes": pl.DataFrame(rows)}).make(NAME, "date")

    assert found["is_daily"].to_list() == [False, True, False]


def test_a_split_is_no_loss_where_closes_are_adjusted(shipped):
    bars = [bar("2024-03-04", 200.0, venue="us_equity"), bar("2024-03-05", 101.0, venue="us_equity")]
    adjusted = [close("2024-03-04", 100.0, adjusted=True), close("2024-03-05", 101.0, adjusted=True)]

    lake = shipped({"market.bars": pl.DataFrame(bars), "market.closes": pl.DataFrame(adjusted)})
    found = lake.make(NAME, "date")

    assert found.select("close", "adjusted_close").rows() == [(200.0, 100.0), (101.0, 101.0)]
    assert found["simple_return"][1] == pytest.approx(0.01)
    assert found["return_basis"][1] == "adjusted_close"


def test_one_source_after_the_other_gives_one_row_a_day(shipped):
    """The same day as a daily bar, as minutes, and as a close: the bar counts."""
    start = datetime(2024, 3, 1, tzinfo=UTC)
    minutes = pl.DataFrame([bar("2024-03-01", 7.0) | {"ts": start + timedelta(minutes=minute)} for minute in range(3)])
    lake = shipped(
        {
            "market.bars": pl.DataFrame([bar("2024-03-01", 100.0)]),
            "market.bars_1m": minutes,
            "market.closes": pl.DataFrame([close("2024-03-01", 99.0, venue="binance")]),
        }
    )

    found = lake.make(NAME)

    assert found.select("close", "origin", "volume").rows() == [(100.0, "vendor", 10.0)]


def test_a_day_without_a_daily_bar_is_put_together_from_its_minutes(shipped):
    start = datetime(2024, 3, 1, 23, 58, tzinfo=UTC)
    values = [(10, 12, 9, 11, 1), (11, 15, 10, 14, 2), (14, 14, 8, 9, 3), (9, 9, 9, 9, 0)]
    minutes = [
        {"venue": "binance", "symbol": "X", "ts": start + timedelta(minutes=number)}
        | dict(zip(("open", "high", "low", "close", "volume"), map(float, figures), strict=True))
        for number, figures in enumerate(values)
    ]

    found = shipped({"market.bars_1m": pl.DataFrame(minutes)}).make(NAME, "date")

    columns = ("date", "open", "high", "low", "close", "volume", "quote_volume", "origin")
    assert found.select(columns).rows() == [
        (date(2024, 3, 1), 10.0, 15.0, 9.0, 14.0, 3.0, None, "bars_1m"),
        (date(2024, 3, 2), 14.0, 14.0, 8.0, 9.0, 3.0, None, "bars_1m"),
    ]


def test_bars_that_are_not_final_do_not_count(shipped):
    start = datetime(2024, 3, 2, tzinfo=UTC)
    minutes = [
        bar("2024-03-02") | {"ts": start, "final": True},
        bar("2024-03-02") | {"ts": start + timedelta(minutes=1)},
    ]
    minutes[1]["final"] = False
    lake = shipped(
        {
            "market.bars": pl.DataFrame([bar("2024-03-01", final=True), bar("2024-03-02", final=False)]),
            "market.bars_1m": pl.DataFrame(minutes),
        }
    )

    assert lake.make(NAME)["date"].to_list() == [date(2024, 3, 1)]


def test_the_average_price_needs_volume_and_traded_value(shipped):
    rows = [
        bar("2024-03-01", volume=4.0, quote_volume=402.0),
        bar("2024-03-02", volume=0.0, quote_volume=0.0),
        bar("2024-03-03", volume=4.0, quote_volume=None),
    ]

    found = shipped({"market.bars": pl.DataFrame(rows)}).make(NAME, "date")

    assert found["vwap"].to_list() == [100.5, None, None]


def test_venues_are_series_of_their_own(shipped):
    rows = [bar("2024-03-01", 100), bar("2024-03-02", 50, venue="kraken"), bar("2024-03-03", 200)]

    found = shipped({"market.bars": pl.DataFrame(rows)}).make(NAME, "venue", "date")

    assert found.select("venue", "simple_return").rows() == [("binance", None), ("binance", 1.0), ("kraken", None)]


def test_returns_of_the_index_compound_to_its_growth(real):
    """Returns compound to the growth from the first to the last close."""
    found = real.make(NAME, "date").filter(pl.col("symbol") == "SPX")

    growth = found["log_return"].sum()
    assert growth == pytest.approx(pl.Series([found["close"][-1] / found["close"][0]]).log().item(), abs=1e-12)
    # The worst day of 2008, 15 October: -9.03 % by every published list of the index's largest daily losses.
    worst = found.drop_nulls("simple_return").sort("simple_return").row(0, named=True)
    assert worst["date"] == date(2008, 10, 15)
    assert worst["simple_return"] == pytest.approx(-0.0903, abs=5e-5)
