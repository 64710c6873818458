"""The universe: the most traded symbols, without look-ahead and without flutter."""

from __future__ import annotations

from datetime import UTC, date, datetime, timedelta

import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from polars.testing import assert_frame_equal

from hfthot_platform.core.errors import BadRequestError
from hfthot_platform.domain.contracts import contract
from hfthot_platform.domain.market.symbols import from_concatenated
from hfthot_platform.domain.market.universe import universe_over
from tests.recordings import SPOT, Recordings

FIRST = date(2024, 1, 1)


def bars(values: dict[str, list[float | None]], venue: str = "binance") -> pl.DataFrame:
    """Daily bars from FIRST on with the given traded values; None is a day without a bar."""
    return pl.DataFrame(
        [
            (
                venue,
                symbol,
                datetime.combine(FIRST, datetime.min.time(), UTC) + timedelta(days=day),
                1.0,
                1.0,
                1.0,
                value,
                value,
            )
            for symbol, series in values.items()
            for day, value in enumerate(series)
            if value is not None
        ],
        schema={
            **dict.fromkeys(("venue", "symbol"), pl.String),
            "ts": pl.Datetime("us", "UTC"),
            **dict.fromkeys(("high", "low", "close", "volume", "quote_volume"), pl.Float64),
        },
        orient="row",
    )


def day(n: int) -> date:
    return FIRST + timedelta(days=n)


def select_universe(
    daily: pl.DataFrame | pl.LazyFrame, previous: pl.DataFrame | None, on: date, *, size: int, **options: float
) -> pl.DataFrame:
    """Return the universe of one day."""
    return universe_over(daily, previous, on, on + timedelta(days=1), size=size, **options)


def symbols(universe: pl.DataFrame) -> list[str]:
    return universe.sort("date", "rank")["symbol"].to_list()


def test_the_most_traded_symbols_are_ranked_by_their_mean_of_the_window() -> None:
    daily = bars({"A-USDT": [1, 3], "B-USDT": [5, 5], "C-USDT": [4, 2]})
    chosen = select_universe(daily, None, day(2), size=2, window_days=2)
    assert chosen.select("date", "rank", "symbol", "score", "member_since", "reason").rows() == [
        (day(2), 1, "B-USDT", 5.0, day(2), "seeded"),
        (day(2), 2, "C-USDT", 3.0, day(2), "seeded"),
    ]


def test_the_day_itself_is_not_in_its_own_score() -> None:
    daily = bars({"A-USDT": [5, 5, 1], "B-USDT": [1, 1, 100]})
    assert symbols(select_universe(daily, None, day(2), size=1)) == ["A-USDT"]


def test_days_before_the_window_are_forgotten() -> None:
    daily = bars({"A-USDT": [100, 1, 1], "B-USDT": [2, 2, 2]})
    assert symbols(select_universe(daily, None, day(3), size=1, window_days=2)) == ["B-USDT"]


def test_a_new_listing_counts_its_missing_days_as_zero_but_an_outage_counts_for_nobody() -> None:
    daily = bars({"OLD-USDT": [6, 6, None, 6], "NEW-USDT": [None, None, None, 12]})
    chosen = select_universe(daily, None, day(4), size=2, window_days=4)
    assert chosen.select("symbol", "score").rows() == [("OLD-USDT", 6.0), ("NEW-USDT", 4.0)]


@pytest.mark.parametrize(("challenger", "stays"), [(10.9, True), (11.0, False), (20.0, False)])
def test_a_member_is_replaced_only_by_a_score_ten_percent_better(challenger: float, stays: bool) -> None:
    before = select_universe(bars({"A-USDT": [10]}), None, day(1), size=1)
    daily = bars({"A-USDT": [10, 10], "B-USDT": [challenger, challenger]})
    chosen = select_universe(daily, before, day(2), size=1)
    assert chosen.select("symbol", "reason", "member_since").row(0) == (
        ("A-USDT", "kept", day(1)) if stays else ("B-USDT", "replaced:A-USDT", day(2))
    )


def test_the_best_candidate_replaces_the_weakest_member() -> None:
    before = select_universe(bars({"A-USDT": [30], "B-USDT": [10], "C-USDT": [20]}), None, day(1), size=3)
    daily = bars({"A-USDT": [30], "B-USDT": [10], "C-USDT": [20], "D-USDT": [40], "E-USDT": [21]})
    chosen = select_universe(daily, before, day(2), size=3)
    assert chosen.select("symbol", "reason").rows() == [
        ("D-USDT", "replaced:B-USDT"),
        ("A-USDT", "kept"),
        ("C-USDT", "kept"),  # E is better, but not by ten percent
    ]


def test_a_member_whose_data_ended_leaves_after_a_week() -> None:
    daily = bars({"A-USDT": [10.0, *[None] * 20], "B-USDT": [1.0] * 21})
    over = universe_over(daily, None, day(1), day(12), size=1)
    assert over.filter(pl.col("symbol") == "A-USDT")["date"].max() == day(7)
    assert over.filter(pl.col("date") == day(8)).select("symbol", "reason").row(0) == ("B-USDT", "entered")


def test_an_outage_of_all_data_removes_nobody() -> None:
    daily = bars({"A-USDT": [10.0], "B-USDT": [9.0]})
    over = universe_over(daily, None, day(1), day(25), size=2)
    assert over.group_by("date").len()["len"].unique().to_list() == [2]
    assert over["member_since"].unique().to_list() == [day(1)]


def test_only_dollar_quotes_and_us_equities_are_compared() -> None:
    daily = pl.concat(
        [
            bars({"BTC-USDT": [1], "ETH-USDC-PERP": [2], "XRP-ETH": [99], "BTC-EUR": [99], "BTC-USD-240927": [3]}),
            bars({"AAPL": [4]}, venue="us_equity"),
            bars({"SPX": [99]}, venue="us_index"),
        ]
    )
    assert symbols(select_universe(daily, None, day(1), size=9)) == [
        "AAPL",
        "BTC-USD-240927",
        "ETH-USDC-PERP",
        "BTC-USDT",
    ]


def test_without_a_quote_volume_the_typical_price_values_the_volume() -> None:
    daily = (
        bars({"A-USDT": [10]}).with_columns(high=pl.lit(6.0), low=pl.lit(2.0), close=pl.lit(4.0)).drop("quote_volume")
    )
    assert select_universe(daily, None, day(1), size=1)["score"].item() == 40


def test_bars_of_other_intervals_do_not_count() -> None:
    daily = pl.concat(
        [
            bars({"A-USDT": [1]}).with_columns(interval=pl.lit("1d")),
            bars({"B-USDT": [9]}).with_columns(interval=pl.lit("1h")),
        ]
    )
    assert symbols(select_universe(daily.lazy(), None, day(1), size=2)) == ["A-USDT"]


def test_no_data_is_no_universe() -> None:
    chosen = select_universe(bars({}), None, day(1), size=3)
    assert chosen.is_empty()
    schema = contract("market.universe").polars_schema
    assert dict(chosen.schema) == {name: schema[name] for name in schema if name not in {"month", "schema_version"}}


def test_senseless_arguments_are_refused() -> None:
    for wrong in ({"size": 0}, {"size": 1, "window_days": 0}, {"size": 1, "advantage": -0.1}):
        with pytest.raises(BadRequestError, match="universe"):
            select_universe(bars({}), None, day(1), **wrong)


# Properties, on random histories


@st.composite
def histories(draw: st.DrawFn) -> pl.DataFrame:
    value = st.one_of(st.none(), st.floats(0, 100, allow_nan=False, width=32))
    names = [f"{letter}-USDT" for letter in "ABCDEF"]
    return bars({name: draw(st.lists(value, min_size=15, max_size=15)) for name in names})


SPAN = (day(3), day(17))


@settings(max_examples=40, deadline=None)
@given(histories(), st.integers(1, 4))
def test_a_swap_needs_the_advantage_and_the_list_never_outgrows_its_size(daily: pl.DataFrame, size: int) -> None:
    over = universe_over(daily, None, *SPAN, size=size, window_days=3)
    everyone = universe_over(daily, None, *SPAN, size=100, window_days=3)
    score = {(row["date"], row["symbol"]): row["score"] for row in everyone.iter_rows(named=True)}
    listed = set(over.select("date", "symbol").rows())
    assert over.group_by("date").len().filter(pl.col("len") > size).is_empty()
    for row in over.filter(pl.col("reason").str.starts_with("replaced:")).iter_rows(named=True):
        gone = row["reason"].removeprefix("replaced:")
        assert (row["date"] - timedelta(days=1), gone) in listed
        assert (row["date"], gone) not in listed
        assert row["score"] >= 1.1 * score[row["date"], gone]


@pytest.mark.soak
@settings(max_examples=30, deadline=None)
@given(histories())
def test_days_one_by_one_equal_the_days_in_one_go(daily: pl.DataFrame) -> None:
    previous, parts = None, []
    for offset in range((SPAN[1] - SPAN[0]).days):
        one = select_universe(daily, previous, SPAN[0] + timedelta(days=offset), size=2, window_days=3)
        previous = one if not one.is_empty() else previous
        parts.append(one)
    assert_frame_equal(pl.concat(parts), universe_over(daily, None, *SPAN, size=2, window_days=3), check_exact=True)


@settings(max_examples=30, deadline=None)
@given(histories(), st.integers(4, 14), st.floats(0, 1e6))
def test_the_future_changes_nothing(daily: pl.DataFrame, today: int, other: float) -> None:
    known = pl.col("ts").dt.date() < day(today)
    changed = daily.with_columns(quote_volume=pl.when(known).then("quote_volume").otherwise(other))
    arguments = (None, SPAN[0], day(today + 1))
    expected = universe_over(daily.filter(known), *arguments, size=2, window_days=3)
    assert_frame_equal(universe_over(changed, *arguments, size=2, window_days=3), expected, check_exact=True)


@settings(max_examples=20, deadline=None)
@given(histories(), st.integers(0, 10))
def test_the_order_of_the_rows_changes_nothing(daily: pl.DataFrame, seed: int) -> None:
    shuffled = daily.sample(fraction=1.0, shuffle=True, seed=seed)
    expected = universe_over(daily, None, *SPAN, size=3)
    assert_frame_equal(universe_over(shuffled, None, *SPAN, size=3), expected, check_exact=True)


# Real data


def test_five_years_of_binance_flutter_less_than_a_plain_ranking(recordings: Recordings) -> None:
    raw = pl.read_parquet(recordings / f"{SPOT}/spot_1d.parquet")
    daily = raw.select(
        pl.lit("binance").alias("venue"),
        pl.col("symbol").map_elements(from_concatenated, return_dtype=pl.String),
        pl.col("open_time").dt.cast_time_unit("us").alias("ts"),
        *("high", "low", "close", "volume"),
        pl.col("quote_asset_volume").alias("quote_volume"),
    )
    span = (date(2019, 1, 1), date(2024, 1, 1))
    calm = universe_over(daily, None, *span, size=10)
    plain = universe_over(daily, None, *span, size=10, advantage=0.0)
    assert calm.group_by("date").len()["len"].max() == 10
    assert {"BTC-USDT", "ETH-USDT"} <= set(calm.filter(pl.col("date") == date(2023, 12, 31))["symbol"])
    swaps = [frame["reason"].str.starts_with("replaced").sum() for frame in (calm, plain)]
    assert 0 < swaps[0] < 0.8 * swaps[1]
    for rule in contract("market.universe").rules:
        assert calm.with_columns(schema_version=1).filter(rule.violated()).is_empty(), rule.says
