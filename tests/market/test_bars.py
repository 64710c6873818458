"""Bars from trades and from 1m bars."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pandas as pd
import polars as pl
import pytest
from polars.testing import assert_frame_equal

from hfthot_platform.core.errors import BadRequestError
from hfthot_platform.core.intervals import DERIVED
from hfthot_platform.domain.contracts import contract
from hfthot_platform.domain.market.bars import bars_at, bars_from_bars, bars_from_trades
from tests.recordings import PERP, XRP, Recordings

MIDNIGHT = datetime(2024, 3, 1, tzinfo=UTC)
VALUES = ["open", "high", "low", "close", "volume"]


def trades(*rows: tuple[float, float, float], **columns: object) -> pl.DataFrame:
    """Trades of one symbol given as (seconds after midnight, price, amount); ids count up."""
    seconds, prices, amounts = zip(*rows, strict=True)
    frame = pl.DataFrame(
        {
            "venue": "binance",
            "symbol": "BTC-USDT",
            "ts": [MIDNIGHT + timedelta(seconds=second) for second in seconds],
            "trade_id": list(range(1, len(rows) + 1)),
            "price": [float(price) for price in prices],
            "amount": [float(amount) for amount in amounts],
            "side": "buy",
            "source": "vendor_history",
            "source_ref": "file:1",
        }
    ).with_columns(pl.col("ts").cast(pl.Datetime("us", "UTC")))
    return frame.with_columns(
        **{name: pl.Series(value) if isinstance(value, list) else pl.lit(value) for name, value in columns.items()}
    )


def random_trades(n: int, seed: int = 0) -> pl.DataFrame:
    ids = pl.int_range(n, eager=True)
    return pl.DataFrame(
        {
            "venue": (ids.hash(seed + 1) % 2).replace_strict({0: "binance", 1: "kraken"}),
            "symbol": (ids.hash(seed + 2) % 3).replace_strict({0: "BTC-USDT", 1: "ETH-USDT", 2: "XRP-ETH"}),
            # A coarse clock: many trades share their microsecond, so the id decides.
            "ts": pl.Series((ids.hash(seed + 3) % 30_000).cast(pl.Int64) * 1_000_000 + 1_709_251_200_000_000).cast(
                pl.Datetime("us", "UTC")
            ),
            "trade_id": ids,
            "price": 100 + (ids.hash(seed + 4) % 1000) / 100,
            "amount": 1 + (ids.hash(seed + 5) % 1000) / 1000,
            "side": (ids.hash(seed + 6) % 2).replace_strict({0: "buy", 1: "sell"}),
            "source": (ids.hash(seed + 7) % 50 == 0).replace_strict({True: "replay", False: "vendor_history"}),
            "source_ref": (ids.hash(seed + 8) % 50 == 0).replace_strict({True: "b", False: "a"}),
        }
    )


def slow_bars(rows: pl.DataFrame, every: str) -> pl.DataFrame:
    """The same bars by another route: one sort and Polars' own dynamic windows."""
    return (
        rows.sort("ts", "trade_id")
        .group_by_dynamic("ts", every=every, group_by=["venue", "symbol"], closed="left", label="left")
        .agg(
            open=pl.col("price").first(),
            high=pl.col("price").max(),
            low=pl.col("price").min(),
            close=pl.col("price").last(),
            volume=pl.col("amount").sum(),
            quote_volume=(pl.col("price") * pl.col("amount")).sum(),
            trades=pl.len().cast(pl.Int64),
            buy_volume=pl.col("amount").filter(pl.col("side") == "buy").sum(),
        )
        .sort("symbol", "venue", "ts")
    )


def test_an_interval_holds_its_first_instant_and_not_its_last() -> None:
    bars = bars_from_trades(trades((0, 10, 1), (59.999999, 12, 1), (60, 9, 1)))
    assert bars["ts"].to_list() == [MIDNIGHT, MIDNIGHT + timedelta(minutes=1)]
    assert bars["ts_close"].to_list() == [MIDNIGHT + timedelta(minutes=1), MIDNIGHT + timedelta(minutes=2)]
    assert bars["close"].to_list() == [12, 9]


def test_trades_of_one_instant_count_in_the_order_of_their_ids() -> None:
    bar = bars_from_trades(trades((1, 10, 1), (1, 11, 1), (1, 12, 1), trade_id=[3, 1, 2]))
    assert bar.select("open", "close").row(0) == (11, 10)


def test_a_bar_carries_value_count_and_taker_buys() -> None:
    bar = bars_from_trades(trades((1, 10, 2), (2, 20, 3), side=["buy", "sell"]))
    assert bar.select("volume", "quote_volume", "trades", "buy_volume").row(0) == (5, 80, 2, 2)


@pytest.mark.parametrize("sides", [[None, "buy"], [None, None]])
def test_taker_buys_are_unknown_where_any_side_is(sides: list[str | None]) -> None:
    rows = trades((1, 10, 2), (2, 20, 3), (61, 20, 3)).with_columns(side=pl.Series([*sides, sides[1]], dtype=pl.String))
    assert bars_from_trades(rows)["buy_volume"].to_list() == [None, 3 if sides[1] else None]


def test_trades_without_a_side_column_are_accepted() -> None:
    assert bars_from_trades(trades((1, 10, 2)).drop("side"))["buy_volume"].to_list() == [None]


def test_a_minute_without_trades_is_absent() -> None:
    assert bars_from_trades(trades((0, 10, 1), (600, 10, 1))).height == 2


def test_a_bar_that_closes_after_the_end_of_the_data_is_not_final() -> None:
    rows = trades((0, 10, 1), (60, 10, 1))
    assert bars_from_trades(rows, until=MIDNIGHT + timedelta(seconds=90))["final"].to_list() == [True, False]
    assert bars_from_trades(rows, until=MIDNIGHT + timedelta(seconds=120))["final"].to_list() == [True, True]


def test_a_bar_of_mixed_trades_names_the_least_trustworthy_source_and_all_references() -> None:
    rows = trades(
        (1, 10, 1), (2, 10, 1), (61, 10, 1),
        source=["synthetic", "vendor_history", "vendor_history"], source_ref=["b", "a", "a"],
    )  # fmt: skip
    assert bars_from_trades(rows).select("source", "source_ref").rows() == [
        ("synthetic", "a + b"),
        ("vendor_history", "a"),
    ]


def test_many_references_are_abbreviated() -> None:
    rows = trades(*((second, 10, 1) for second in range(9)), source_ref=[f"f{number}" for number in range(9)])
    assert bars_from_trades(rows)["source_ref"].item() == "f0 .. f8 (9 references)"


@pytest.mark.parametrize("interval", ["1m", "5m", "15m", "1h", "1d"])
def test_bars_equal_an_independent_computation(interval: str) -> None:
    rows = random_trades(20_000)
    bars = bars_from_trades(rows, interval=interval)
    expected = slow_bars(rows, interval)
    assert_frame_equal(bars.select(expected.columns), expected, rel_tol=1e-12)


def test_the_order_of_the_input_changes_no_bit() -> None:
    rows = random_trades(5_000)
    stored = rows.sort("symbol", "venue", "ts", "trade_id")
    assert_frame_equal(bars_from_trades(rows), bars_from_trades(stored), check_exact=True)


def test_files_that_follow_each_other_by_day_need_no_sort_to_be_right() -> None:
    rows = random_trades(5_000).sort("symbol", "venue", "ts", "trade_id")
    noon = MIDNIGHT + timedelta(hours=4)
    by_file = pl.concat([rows.filter(pl.col("ts") < noon), rows.filter(pl.col("ts") >= noon)])
    assert_frame_equal(bars_from_trades(by_file), bars_from_trades(rows), check_exact=True)


def test_rows_of_one_minute_in_two_files_are_one_bar() -> None:
    rows = trades((1, 10, 1), (5, 11, 1), (65, 12, 1), (3, 9, 1))
    assert bars_from_trades(rows)["trades"].to_list() == [3, 1]


def test_codes_instead_of_text_change_nothing() -> None:
    rows = random_trades(3_000)
    coded = rows.with_columns(pl.col("venue", "symbol", "side", "source", "source_ref").cast(pl.Categorical))
    coded = coded.with_columns(pl.col("venue").cast(pl.Enum(["kraken", "binance"])))
    assert_frame_equal(bars_from_trades(coded), bars_from_trades(rows), check_exact=True)


def test_lazy_and_empty_frames_are_accepted() -> None:
    rows = random_trades(100)
    assert_frame_equal(bars_from_trades(rows.lazy()), bars_from_trades(rows))
    empty = bars_from_trades(rows.clear(), until=MIDNIGHT)
    assert empty.is_empty()
    assert empty.schema == bars_from_trades(rows).schema
    assert bars_from_bars(empty, "1h").is_empty()


@pytest.mark.parametrize(("table", "interval"), [("market.bars_1m", "1m"), ("market.bars", "1h")])
def test_columns_are_those_of_the_contract(table: str, interval: str) -> None:
    schema = {
        name: dtype
        for name, dtype in contract(table).polars_schema.items()
        if name not in {"date", "month", "schema_version"}
    }
    assert dict(bars_from_trades(random_trades(100), interval=interval).schema) == schema


def test_every_bar_meets_the_rules_of_its_contract() -> None:
    bars = bars_from_trades(random_trades(5_000)).with_columns(schema_version=1)
    for rule in contract("market.bars_1m").rules:
        assert bars.filter(rule.violated()).is_empty(), rule.says


@pytest.mark.parametrize("interval", [*DERIVED, "3m", "8h", "12h", "3d", "1w", "1mo"])
def test_coarser_bars_equal_those_straight_from_the_trades(interval: str) -> None:
    rows = random_trades(20_000, seed=5)
    coarse = bars_from_bars(bars_from_trades(rows), interval)
    assert set(coarse["origin"]) == {"bars_1m"}
    assert_frame_equal(coarse.drop("origin"), bars_from_trades(rows, interval=interval).drop("origin"), rel_tol=1e-12)


def test_a_coarse_bar_is_open_while_its_interval_or_any_of_its_minutes_is() -> None:
    minutes = bars_from_trades(trades((0, 10, 1), (240, 10, 1), (300, 10, 1)), until=MIDNIGHT + timedelta(minutes=4))
    assert bars_from_bars(minutes, "5m")["final"].to_list() == [False, False]
    minutes = minutes.with_columns(final=True)
    assert bars_from_bars(minutes, "5m", until=MIDNIGHT + timedelta(minutes=6))["final"].to_list() == [True, False]


def test_a_coarse_sum_over_an_unknown_part_is_unknown() -> None:
    minutes = bars_from_trades(trades((0, 10, 1), (60, 10, 1), (300, 10, 1), side=["buy", None, "buy"]))
    assert bars_from_bars(minutes, "5m")["buy_volume"].to_list() == [None, 1]
    bare = bars_from_bars(minutes.drop("trades", "quote_volume"), "5m")
    assert bare["trades"].to_list() == [None, None]
    assert bare["volume"].to_list() == [2, 1]


def test_an_unknown_interval_is_refused_with_a_suggestion() -> None:
    with pytest.raises(BadRequestError, match="Expected a count and a unit"):
        bars_from_trades(random_trades(1), interval="often")
    with pytest.raises(BadRequestError, match="not made of whole bars of 1m"):
        bars_from_bars(bars_from_trades(random_trades(1)), "1m")
    with pytest.raises(BadRequestError, match="not made of whole bars of 1w"):
        bars_from_bars(bars_from_trades(random_trades(1)), "1mo", base="1w")


def test_bars_of_a_source_without_volumes_have_none() -> None:
    minutes = bars_from_trades(trades((0, 10, 1), (60, 11, 1)))
    assert bars_from_bars(minutes.drop("volume"), "5m")["volume"].to_list() == [None]
    assert bars_from_bars(minutes.with_columns(volume=pl.Series([1.0, None])), "5m")["volume"].to_list() == [None]


def test_an_interval_that_is_not_stored_is_computed_from_the_coarsest_that_is() -> None:
    minutes = bars_from_trades(random_trades(20_000, seed=7))
    hours, halves = bars_from_bars(minutes, "1h"), bars_from_bars(minutes, "30m")
    found = bars_at("2h", pl.concat([hours, halves]).lazy(), minutes.lazy()).sort("symbol", "venue", "ts").collect()

    whole = bars_from_bars(hours, "2h", base="1h")
    begins = hours.group_by("symbol", "venue").agg(begins=pl.col("ts").min(), ends=pl.col("ts_close").max())
    expected = (
        whole.join(begins, on=["symbol", "venue"])
        .filter(pl.col("ts") >= pl.col("begins"))
        .with_columns(final=pl.col("ts_close") <= pl.col("ends"))
    )
    assert set(found["origin"]) == {"bars"}
    assert_frame_equal(found, expected.select(found.columns), check_row_order=False)


def test_stored_bars_of_the_interval_are_taken_as_they_are() -> None:
    minutes = bars_from_trades(random_trades(5_000, seed=8))
    hours = bars_from_bars(minutes, "1h").with_columns(origin=pl.lit("vendor"))
    assert set(bars_at("1h", hours.lazy(), minutes.lazy()).collect()["origin"]) == {"vendor"}
    assert set(bars_at("1h", hours.clear().lazy(), minutes.lazy()).collect()["origin"]) == {"bars_1m"}
    assert bars_at("1m", hours.lazy()).collect().is_empty()


def test_a_naive_end_is_refused() -> None:
    with pytest.raises(BadRequestError, match="has no time zone"):
        bars_from_trades(random_trades(1), until=datetime(2024, 3, 1))


# Recordings


@pytest.mark.parametrize("interval", ["1m", "5m"])
def test_binance_trades_give_the_recorded_bars_exactly(recordings: Recordings, interval: str) -> None:
    recorded = pl.read_ipc(recordings / f"{XRP}/XRP_ETH-{interval}.feather")
    raw = pl.read_parquet(recordings / f"{XRP}/XRP_ETH-trades.parquet").select(
        pl.lit("binance").alias("venue"),
        pl.lit("XRP-ETH").alias("symbol"),
        (pl.col("timestamp") * 1000).cast(pl.Datetime("us", "UTC")).alias("ts"),
        pl.col("id").cast(pl.Int64).alias("trade_id"),
        *("price", "amount", "side"),
        pl.lit("vendor_history").alias("source"),
        pl.lit("recorded").alias("source_ref"),
    )
    direct = bars_from_trades(raw, interval=interval)
    assert direct.height == recordings.facts.xrp_bars[interval]
    expected = recorded.select(pl.col("date").cast(pl.Datetime("us", "UTC")).alias("ts"), *VALUES)
    assert_frame_equal(direct.select("ts", *VALUES), expected, check_exact=True)
    if interval == "5m":
        assert_frame_equal(
            bars_from_bars(bars_from_trades(raw), interval).select("ts", *VALUES), expected, rel_tol=1e-12
        )


@pytest.fixture(scope="module")
def perpetual_minutes(recordings: Recordings) -> pl.DataFrame:
    return pl.read_parquet(recordings / f"{PERP}/perp_1m.parquet").select(
        pl.lit("binance_usdm").alias("venue"),
        "symbol",
        pl.col("date").dt.cast_time_unit("us").alias("ts"),
        *VALUES,
        pl.lit(value=True).alias("final"),
        pl.lit("vendor_history").alias("source"),
        pl.lit("recorded").alias("source_ref"),
    )


@pytest.mark.parametrize("interval", [*DERIVED, "3m", "2h", "6h", "8h", "12h", "1w", "1mo"])
def test_recorded_minutes_resample_like_an_independent_computation(
    perpetual_minutes: pl.DataFrame, interval: str
) -> None:
    every = {"d": "1D", "w": "W-MON", "o": "MS"}.get(interval[-1], interval.replace("m", "min"))
    grouper = pd.Grouper(key="ts", freq=every, closed="left", label="left")
    by_bar = perpetual_minutes.to_pandas().groupby(["symbol", grouper])
    pandas_bars = by_bar.agg(
        {"open": "first", "high": "max", "low": "min", "close": "last", "volume": "sum"}
    ).reset_index()
    bars = bars_from_bars(perpetual_minutes, interval)
    expected = pl.from_pandas(pandas_bars).with_columns(pl.col("ts").dt.cast_time_unit("us"))
    assert_frame_equal(bars.select("symbol", "ts", *VALUES), expected, rel_tol=1e-12)


def test_recorded_hours_and_days_equal_those_made_of_recorded_five_minutes(recordings: Recordings) -> None:
    recorded = pl.read_parquet(recordings / f"{PERP}/perp_5m_1h_1d.parquet").select(
        pl.lit("binance_usdm").alias("venue"),
        "symbol",
        pl.col("date").dt.cast_time_unit("us").alias("ts"),
        *VALUES,
        "tf",
        pl.lit(value=True).alias("final"),
        pl.lit("vendor_history").alias("source"),
        pl.lit("recorded").alias("source_ref"),
    )
    five = recorded.filter(pl.col("tf") == "5m")
    for interval, parts in (("1h", 12), ("1d", 288)):
        full = five.group_by("symbol", pl.col("ts").dt.truncate(interval)).len().filter(pl.col("len") == parts)
        made = bars_from_bars(five, interval).join(full, on=["symbol", "ts"], how="semi")
        both = made.join(recorded.filter(pl.col("tf") == interval), on=["symbol", "ts"], suffix="_recorded")
        assert both.height >= recordings.facts.coarse_compared[interval]
        assert_frame_equal(
            both.select(VALUES), both.select(pl.col(f"{name}_recorded").alias(name) for name in VALUES), rel_tol=1e-12
        )
