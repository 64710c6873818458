"""The simulated exchange: reproducible, seamless, and statistically what it claims to be."""

from __future__ import annotations

import itertools
from datetime import UTC, date, datetime, timedelta

import numpy as np
import polars as pl
import pytest
from polars.testing import assert_frame_equal

from hfthot_platform.adapters import simulated
from hfthot_platform.adapters.ports import Feed
from hfthot_platform.adapters.simulated import REGIMES, SimulatedExchange
from hfthot_platform.core.errors import BadRequestError
from hfthot_platform.domain.contracts import contract
from hfthot_platform.domain.market.bars import bars_from_trades

DAY = date(2024, 3, 1)
SYMBOL = "ALPHA-USDT"


def at(day: int, hour: int = 0) -> datetime:
    return datetime(2024, 3, 1, hour, tzinfo=UTC) + timedelta(days=day)


@pytest.fixture(scope="module")
def month() -> pl.DataFrame:
    """Minute bars of 30 days of three symbols, with the return, its predecessor and the true regime."""
    exchange = SimulatedExchange()
    trades = pl.concat([batch.rows for batch in exchange.fetch("market.trades", at(0), at(30))])
    truth = pl.concat([batch.rows for batch in exchange.fetch("market.simulated_regimes", at(0), at(30))])
    return (
        bars_from_trades(trades)
        .join(truth.select("symbol", "ts", "regime"), on=["symbol", "ts"])
        .with_columns(
            r=pl.col("close").log().diff().over("symbol"),
            flow=2 * pl.col("buy_volume") - pl.col("volume"),
            spell=pl.col("regime").rle_id().over("symbol"),
        )
        .with_columns(before=pl.col("r").shift(1).over("symbol", "spell"))
    )


def test_the_same_seed_gives_the_same_bits_in_any_order() -> None:
    forward, backward = SimulatedExchange(seed=3), SimulatedExchange(seed=3)
    days = [DAY, DAY + timedelta(days=1)]
    first = [forward.trades(SYMBOL, day) for day in days]
    second = [backward.trades(SYMBOL, day) for day in reversed(days)][::-1]
    for one, other in zip(first, second, strict=True):
        assert_frame_equal(one, other, check_exact=True)


def test_other_seeds_symbols_and_days_differ() -> None:
    exchange = SimulatedExchange()
    prices = [
        exchange.trades(SYMBOL, DAY)["price"],
        SimulatedExchange(seed=8).trades(SYMBOL, DAY)["price"],
        exchange.trades("BRAVO-USDT", DAY)["price"],
        exchange.trades(SYMBOL, DAY + timedelta(days=1))["price"],
    ]
    assert len({tuple(series.head(5)) for series in prices}) == 4


def test_other_symbols_beside_it_change_nothing() -> None:
    alone = SimulatedExchange(symbols=[SYMBOL])
    assert_frame_equal(alone.trades(SYMBOL, DAY), SimulatedExchange().trades(SYMBOL, DAY))


@pytest.mark.parametrize("table", SimulatedExchange.tables)
def test_rows_are_those_of_the_contract_and_break_no_rule(table: str) -> None:
    feed: Feed = SimulatedExchange()
    rows = pl.concat([batch.rows for batch in feed.fetch(table, at(0), at(2))])
    declared = contract(table)
    for name, dtype in rows.schema.items():
        assert declared.column(name).polars == dtype
    absent = set(declared.column_names) - set(rows.columns) - {declared.partition_by, "schema_version"}
    assert all(declared.column(name).nullable for name in absent)
    assert rows.select(declared.primary_key).is_unique().all()
    assert rows["source"].unique().to_list() == ["synthetic"]
    complete = rows.with_columns(
        *(pl.lit(None, declared.column(name).polars).alias(name) for name in absent), schema_version=pl.lit(1)
    )
    for rule in declared.rules:
        assert complete.filter(rule.violated()).is_empty(), rule.says


def test_trades_are_ordered_and_their_ids_grow_with_time() -> None:
    rows = pl.concat([batch.rows for batch in SimulatedExchange(symbols=[SYMBOL]).fetch("market.trades", at(0), at(3))])
    assert rows["ts"].is_sorted()
    assert (rows["trade_id"].diff().drop_nulls() > 0).all()


def test_a_span_is_left_closed_and_right_open_and_parts_make_the_whole() -> None:
    exchange = SimulatedExchange()
    whole = pl.concat([batch.rows for batch in exchange.fetch("market.trades", at(0), at(2))])
    cuts = [at(0), at(0, 7), at(1), at(1, 23), at(2)]
    parts = pl.concat(
        [batch.rows for start, end in itertools.pairwise(cuts) for batch in exchange.fetch("market.trades", start, end)]
    )
    key = ["symbol", "trade_id"]
    assert_frame_equal(parts.sort(key), whole.sort(key), check_exact=True)
    assert list(exchange.fetch("market.trades", at(1), at(1))) == []


def test_batches_are_bounded_and_progress_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(simulated, "BATCH_ROWS", 50_000)
    seen: list[tuple[int, int | None, str]] = []
    feed = SimulatedExchange().fetch("market.trades", at(0), at(2), progress=lambda *step: seen.append(step))
    heights = [batch.rows.height for batch in feed]
    assert len(heights) >= 2
    assert max(heights) < 50_000 + 60_000
    assert seen[-1] == (6, 6, "symbol-days")


def test_prices_are_on_the_tick_and_amounts_on_the_lot() -> None:
    exchange = SimulatedExchange()
    (batch,) = exchange.fetch("market.instruments", at(0), at(1))
    for symbol, tick, lot in batch.rows.select("symbol", "tick_size", "lot_size").rows():
        rows = exchange.trades(symbol, DAY)
        for name, step in (("price", tick), ("amount", lot)):
            steps = rows[name].to_numpy() / step
            assert np.abs(steps - np.round(steps)).max() < 1e-4
            # Written in decimals, a price is short: no 0.30000000000000004.
            assert rows[name].cast(pl.String).str.len_chars().max() <= 12


def test_a_day_has_about_the_asked_number_of_trades() -> None:
    exchange = SimulatedExchange(trades_per_day=2_000)
    counts = [exchange.trades(SYMBOL, DAY + timedelta(days=day)).height for day in range(30)]
    assert np.mean(counts) == pytest.approx(2_000, rel=0.15)


@pytest.mark.soak
def test_no_seam_at_midnight(month: pl.DataFrame) -> None:
    over_midnight = month.filter(pl.col("ts").dt.time() == pl.time(0, 0))["r"].drop_nulls().abs()
    assert len(over_midnight) == 87
    assert over_midnight.max() < 4 * max(regime.sigma for regime in REGIMES)
    exchange = SimulatedExchange()
    today, tomorrow = (exchange.minutes_of_day(SYMBOL, DAY + timedelta(days=day)) for day in range(2))
    assert today.log_price[-1] == tomorrow.log_price[0]


@pytest.mark.soak
def test_a_regime_continues_over_midnight_as_often_as_within_the_day() -> None:
    exchange = SimulatedExchange(symbols=[SYMBOL])
    (batch,) = exchange.fetch("market.simulated_regimes", at(0), at(200))
    changed = batch.rows["regime"] != batch.rows["regime"].shift(1)
    at_midnight = changed.gather_every(1440).fill_null(value=False)
    assert changed.mean() == pytest.approx(1 / 120, rel=0.1)
    assert at_midnight.sum() <= 8  # about 1.7 are expected in 200 nights


@pytest.mark.soak
def test_regimes_last_as_long_as_declared() -> None:
    exchange = SimulatedExchange(symbols=[SYMBOL])
    (batch,) = exchange.fetch("market.simulated_regimes", at(0), at(300))
    spells = batch.rows["regime"].rle().struct.unnest()
    lengths = dict(spells.group_by("value").agg(pl.col("len").mean()).rows())
    for regime in REGIMES:
        assert lengths[regime.name] == pytest.approx(regime.minutes, rel=0.15)


@pytest.mark.soak
@pytest.mark.parametrize(
    ("regime", "low", "high"), [("trending", 0.25, 0.45), ("mean_reverting", -0.5, -0.25), ("volatile", -0.1, 0.1)]
)
def test_minute_returns_have_the_autocorrelation_of_their_regime(
    month: pl.DataFrame, regime: str, low: float, high: float
) -> None:
    found = month.filter(pl.col("regime") == regime).select(pl.corr("r", "before")).item()
    assert low < found < high


@pytest.mark.soak
def test_variance_ratios_tell_trends_from_reversion(month: pl.DataFrame) -> None:
    pairs = (
        month.with_columns(two=(pl.col("r") + pl.col("before")))
        .drop_nulls("two")
        .group_by("regime")
        .agg(ratio=pl.col("two").var() / (2 * pl.col("r").var()), sigma=pl.col("r").std())
    )
    ratio = dict(pairs.select("regime", "ratio").rows())
    sigma = dict(pairs.select("regime", "sigma").rows())
    assert ratio["trending"] > 1.2
    assert ratio["mean_reverting"] < 0.8
    assert ratio["volatile"] == pytest.approx(1.0, abs=0.1)
    assert sigma["volatile"] > 2 * max(sigma["trending"], sigma["mean_reverting"])


def test_flow_moves_with_the_price(month: pl.DataFrame) -> None:
    for (regime,), rows in month.group_by("regime"):
        assert rows.select(pl.corr("r", "flow")).item() > 0.2, regime


def test_arrivals_are_clustered_and_follow_the_time_of_day(month: pl.DataFrame) -> None:
    calm = month.filter(pl.col("regime") == "mean_reverting")
    by_hour = calm.group_by(pl.col("ts").dt.hour().alias("hour")).agg(
        mean=pl.col("trades").mean(), var=pl.col("trades").var()
    )
    assert (by_hour["var"] > 1.2 * by_hour["mean"]).all()  # a Poisson count would have them equal
    busy, quiet = (by_hour.filter(pl.col("hour") == hour)["mean"].item() for hour in (15, 4))
    assert busy > 1.5 * quiet


def test_daily_moves_have_the_size_that_the_regimes_imply() -> None:
    exchange = SimulatedExchange()
    levels = np.array([exchange.level_of_day(SYMBOL, 19_000 + day) for day in range(1_000)])
    assert np.diff(levels).std() == pytest.approx(exchange.sigma_of_day, rel=0.1)


def test_wrong_requests_are_refused() -> None:
    with pytest.raises(BadRequestError, match=r"Did you mean 'market\.trades'"):
        list(SimulatedExchange().fetch("market.trade", at(0), at(1)))
    with pytest.raises(BadRequestError, match="has no time zone"):
        list(SimulatedExchange().fetch("market.trades", datetime(2024, 1, 1), at(1)))
    with pytest.raises(BadRequestError, match="BASE-QUOTE"):
        SimulatedExchange(symbols=["ALPHA"])
    with pytest.raises(BadRequestError, match="trades_per_day"):
        SimulatedExchange(trades_per_day=0)


def test_a_day_of_more_trades_than_a_batch_may_have_is_several_batches(monkeypatch: pytest.MonkeyPatch) -> None:
    feed = SimulatedExchange(symbols=("ALPHA-USDT", "BRAVO-USDT"), trades_per_day=2_000)
    span = datetime(2024, 1, 1, tzinfo=UTC), datetime(2024, 1, 3, tzinfo=UTC)
    (whole,) = feed.fetch("market.trades", *span)
    monkeypatch.setattr(simulated, "BATCH_ROWS", 700)
    batches = list(feed.fetch("market.trades", *span))
    assert max(batch.rows.height for batch in batches) == 700
    assert pl.concat([batch.rows for batch in batches]).equals(whole.rows)
