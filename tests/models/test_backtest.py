"""Backtests: hand-computed accounts, identity with a slow reference, and look-ahead that is caught."""

from __future__ import annotations

import hashlib
import math
from datetime import UTC, datetime, timedelta

import numpy as np
import pandas as pd
import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hfthot_platform.core.errors import BadRequestError, DataError, LookAheadError, StrategyError
from hfthot_platform.domain.market.panel import Bars
from hfthot_platform.domain.models.backtest import Costs, assert_causal, backtest, on_change
from hfthot_platform.domain.models.backtest.causality import futures
from hfthot_platform.domain.models.strategy import MeanReversion, TrendFollowing
from tests.recordings import HOURS

HOUR = 3_600_000_000
FREE = Costs(0.0, 0.0)
NONE = math.nan


def bars_of(opens, closes, symbols=None, step=HOUR) -> Bars:
    opens, closes = (np.asarray(prices, dtype=float).reshape(len(prices), -1) for prices in (opens, closes))
    names = symbols or tuple(f"S{i}" for i in range(opens.shape[1]))
    high, low = np.maximum(opens, closes), np.minimum(opens, closes)
    return Bars(step * np.arange(len(opens)), names, opens, high, low, closes, np.ones_like(opens))


def random_walk(size=2_000, n=1, seed=0) -> Bars:
    rng = np.random.default_rng(seed)
    closes = 100 * np.exp(np.cumsum(0.01 * rng.standard_normal((size, n)), axis=0))
    opens = np.vstack([closes[:1], closes[:-1]]) * np.exp(0.002 * rng.standard_normal((size, n)))
    return bars_of(opens, closes)


def fixed(*targets):
    """Return a strategy that gives these targets whatever the data, as far as the data go."""
    values = np.array(targets, dtype=float)
    return lambda bars: values[: len(bars)]


def replay(targets, bars, costs=FREE, **options):
    """Run weights that were decided elsewhere: there is nothing to check."""
    return backtest(targets, bars, costs, causality_cuts=0, **options)


# --- by hand ----------------------------------------------------------------------------------------------------


def test_a_decision_is_executed_at_the_next_open_and_not_before():
    bars = bars_of([10, 20, 20, 20], [10, 40, 40, 80])

    result = replay(fixed(1, NONE, NONE, NONE), bars, FREE)

    # Bought at 20, the open of the second bar; its close of 40 doubles the equity.
    np.testing.assert_allclose(result.equity, [1, 2, 2, 4])


def test_fees_and_slippage_of_a_round_trip_by_hand():
    bars = bars_of([100, 100, 110, 121], [100, 105, 115, 121])

    result = replay(fixed(1, 0, NONE, NONE), bars, Costs(fee=0.01, slippage=0.02))

    # All of the equity buys q units at 100 * 1.02 * 1.01; they are sold at 110 * 0.98 * 0.99.
    q = 1 / (100 * 1.02 * 1.01)
    end = q * 110 * 0.98 * 0.99
    np.testing.assert_allclose(result.equity, [1, q * 105, end, end], rtol=1e-14)
    assert result.total_cost == pytest.approx(q * 100 * (1.02 * 1.01 - 1) + q * 110 * (1 - 0.98 * 0.99))
    assert result.trips["profit"].to_list() == pytest.approx([end - 1])


def test_turnover_is_traded_value_over_equity_before_the_trade():
    bars = bars_of([100, 100, 200, 200], [100, 200, 200, 200])

    result = replay(fixed(0.5, -0.5, NONE, NONE), bars, FREE)

    # 0.5 bought; it doubles: equity 1.5, held 1.0, wanted -0.75: 1.75 traded.
    np.testing.assert_allclose(result.turnover, [0, 0.5, 1.75 / 1.5, 0])


def test_turnover_with_costs_is_still_over_equity_before_the_trade():
    result = replay(fixed(1, NONE, NONE), bars_of([100] * 3, [100] * 3), Costs(fee=0.25 / 2, slippage=0.0))

    # After the fee the equity is 1 / 1.125, all of it in the asset.
    np.testing.assert_allclose(result.turnover, [0, 1 / 1.125, 0])


def test_a_short_position_gains_when_the_price_falls():
    result = replay(fixed(-1, NONE, NONE), bars_of([10, 10, 8], [10, 8, 5]), FREE)

    np.testing.assert_allclose(result.equity, [1, 1.2, 1.5])


def test_held_positions_drift_without_orders():
    result = replay(fixed(0.5, NONE, NONE), bars_of([10, 10, 30], [10, 30, 30]), FREE)

    # 0.05 units are kept: 0.5 in cash and 1.5 in the asset.
    assert result.weights[-1, 0] == pytest.approx(0.75)
    assert result.turnover[2] == 0


def test_the_same_number_again_is_an_order_to_rebalance():
    result = replay(fixed(0.5, 0.5, NONE), bars_of([10, 10, 30], [10, 30, 30]), FREE)

    assert result.weights[-1, 0] == pytest.approx(0.5)


def test_round_trips_of_a_flip_by_hand():
    bars = bars_of([10, 10, 20, 10, 10], [10, 20, 20, 10, 10])

    result = replay(fixed(1, -1, NONE, 0, NONE), bars, FREE)

    # 1 becomes 2 long; 0.1 units short from 20 down to 10 add 1 more.
    assert result.trips.select("side", "bars").rows() == [("long", 1), ("short", 2)]
    np.testing.assert_allclose(result.trips["profit"].to_list(), [1, 1])
    assert result.win_rate == 1
    assert result.average_hold_bars == 1.5
    assert result.average_hold == timedelta(hours=1.5)


def test_an_open_round_trip_is_marked_and_not_counted_as_closed():
    result = replay(fixed(1, NONE, NONE), bars_of([10, 10, 10], [10, 10, 15]), FREE)

    assert result.trips["exited"].to_list() == [None]
    assert result.trips["profit"].to_list() == pytest.approx([0.5])
    assert math.isnan(result.win_rate)
    assert result.average_hold is None


def test_sharpe_is_annualised_from_the_spacing_of_the_bars():
    rng = np.random.default_rng(3)
    closes = 100 * np.exp(np.cumsum(0.01 * rng.standard_normal(500)))
    opens = np.concatenate([[100], closes[:-1]])
    hourly, daily = (
        backtest(lambda b: np.ones(len(b)), bars_of(opens, closes, step=s), FREE) for s in (HOUR, 24 * HOUR)
    )

    r = np.diff(closes) / closes[:-1]
    assert hourly.bars_per_year == pytest.approx(365.25 * 24)
    # The first bar's return is from its open, which is the close before.
    assert hourly.sharpe == pytest.approx(r.mean() / r.std(ddof=1) * math.sqrt(365.25 * 24), rel=1e-9)
    assert hourly.sharpe / daily.sharpe == pytest.approx(math.sqrt(24))


@pytest.mark.parametrize("hole", [3 * 24, 30 * 24, 4 * 8_766])
def test_a_hole_in_the_data_changes_no_figure(hole):
    closes = 100 * np.exp(np.cumsum(0.01 * np.random.default_rng(7).standard_normal(900)))
    whole = bars_of(closes, closes)
    times = whole.times + np.where(np.arange(900) >= 450, hole * HOUR, 0)
    holed = Bars(times, whole.symbols, whole.open, whole.high, whole.low, whole.close, whole.volume)

    one, other = (backtest(lambda b: on_change(np.ones(len(b))), bars) for bars in (whole, holed))

    assert other.metrics() == one.metrics()


def test_bars_that_no_symbol_has_change_no_figure():
    closes = 100 * np.exp(np.cumsum(0.01 * np.random.default_rng(8).standard_normal(900)))
    padded = np.concatenate([closes[:450], np.full(300, np.nan), closes[450:]])

    one, other = (
        backtest(lambda b: on_change(np.ones(len(b))), bars_of(prices, prices)) for prices in (closes, padded)
    )

    assert other.bars_per_year == pytest.approx(one.bars_per_year)
    assert other.sharpe == pytest.approx(one.sharpe, rel=1e-12)


def test_drawdown_is_measured_from_the_highest_close_and_the_initial_equity():
    result = replay(fixed(1, NONE, NONE, NONE), bars_of([10, 10, 8, 12], [10, 8, 12, 6]), FREE)

    np.testing.assert_allclose(result.drawdown, [0, -0.2, 0, -0.5])
    assert result.max_drawdown == pytest.approx(-0.5)


def test_the_warm_up_does_not_dilute_the_figures():
    walk = random_walk(300, seed=5)
    weights = np.ones(300)
    weights[:100] = NONE

    late = replay(lambda b: weights[: len(b)], walk, FREE)

    r = np.diff(late.equity)[100:] / late.equity[100:-1]
    assert late.start == 100
    assert late.volatility == pytest.approx(r.std(ddof=1) * math.sqrt(late.bars_per_year))


def test_returns_are_counted_to_the_regime_known_before_them():
    bars = bars_of([10, 10, 20, 20], [10, 20, 20, 10])

    result = replay(fixed(1, NONE, NONE, NONE), bars, FREE, regimes=["calm", "calm", "wild", "calm"])

    table = {row["regime"]: row for row in result.by_regime.iter_rows(named=True)}
    assert table["calm"]["bars"] == 2
    assert table["calm"]["total_return"] == pytest.approx(1.0)
    assert table["wild"]["total_return"] == pytest.approx(-0.5)


def test_a_round_trip_is_counted_to_the_regime_known_at_the_close_before_its_entry():
    bars = bars_of([10, 10, 20, 30], [10, 20, 30, 30])

    result = replay(fixed(NONE, 1, 0, NONE), bars, FREE, regimes=["a", "b", "c", "d"])

    assert result.trips["entry_regime"].to_list() == ["b"]


def test_regime_returns_compound_to_the_total():
    walk = random_walk(400, seed=9)
    labels = np.random.default_rng(1).choice(["a", "b", "c"], 400).tolist()

    result = backtest(TrendFollowing(20), walk, regimes=labels)

    assert math.prod(1 + r for r in result.by_regime["total_return"]) - 1 == pytest.approx(result.total_return)
    assert result.by_regime["paid"].sum() == pytest.approx(result.total_cost)
    assert result.by_regime["trips"].sum() == result.trips["exited"].count()


def test_a_short_that_loses_everything_ends_the_account():
    result = replay(fixed(-1, NONE, 1, NONE), bars_of([10, 10, 30, 30], [10, 15, 30, 60]), FREE)

    assert result.ruined_at == 2
    np.testing.assert_allclose(result.equity, [1, 0.5, -1, -1])
    assert result.annual_return == -1


def test_an_order_waits_for_the_next_bar_that_trades():
    nan = math.nan
    bars = bars_of([[10, 5], [10, nan], [10, 4], [10, 4]], [[10, 5], [10, nan], [10, 8], [10, 8]])

    result = replay(fixed([0, 1], [NONE, NONE], [NONE, NONE], [NONE, NONE]), bars, FREE)

    np.testing.assert_allclose(result.equity, [1, 1, 2, 2])


def test_a_missing_bar_keeps_the_last_price():
    nan = math.nan
    bars = bars_of([[10, 5], [10, 5], [10, nan], [10, 20]], [[10, 5], [10, 10], [10, nan], [10, 20]])

    result = replay(fixed([0, 1], *[[NONE, NONE]] * 3), bars, FREE)

    np.testing.assert_allclose(result.equity, [1, 2, 2, 4])


def test_a_strategy_without_decisions_earns_nothing():
    result = backtest(lambda b: np.full(len(b), NONE), random_walk(50))

    assert result.total_return == 0
    assert math.isnan(result.sharpe)
    assert result.trips.height == 0
    assert result.metrics()["sharpe"] is None


def test_a_result_reads_as_text():
    text = str(backtest(MeanReversion(20), random_walk(500), regimes=["a"] * 500))

    assert "MeanReversion(lookback=20" in text
    assert "Sharpe" in text
    assert "a year" in text


# --- against a slow reference -----------------------------------------------------------------------------------


def reference(opens, closes, target, fee, slippage):
    """Run the account one unit and one bar at a time, by other formulas: cash flows and bisection."""
    size, n = opens.shape
    cash, units, last, waiting = 1.0, [0.0] * n, [None] * n, [None] * n
    equity = []
    for t in range(size):
        if t:
            for i in range(n):
                if not math.isnan(target[t - 1, i]):
                    waiting[i] = target[t - 1, i]
        for i in range(n):
            if not math.isnan(opens[t, i]):
                last[i] = opens[t, i]
        due = [i for i in range(n) if waiting[i] is not None and not math.isnan(opens[t, i])]
        if due:

            def cash_after(total, due=due, t=t, cash=cash, units=units):
                left = cash
                for i in due:
                    d = waiting[i] * total / opens[t, i] - units[i]
                    price = opens[t, i] * (1 + slippage if d > 0 else 1 - slippage)
                    left -= d * price + fee * abs(d) * price
                return left

            def excess(total, due=due, units=units):
                held = sum(
                    (waiting[i] * total if i in due else units[i] * last[i]) for i in range(n) if last[i] is not None
                )
                return cash_after(total) + held - total

            low, high = 0.0, 2.0 * (cash + sum(u * (p or 0) for u, p in zip(units, last, strict=True)))
            for _ in range(200):
                middle = (low + high) / 2
                low, high = (middle, high) if excess(middle) > 0 else (low, middle)
            total = (low + high) / 2
            cash, new = cash_after(total), list(units)
            for i in due:
                new[i] = waiting[i] * total / opens[t, i]
                waiting[i] = None
            units = new
        for i in range(n):
            if not math.isnan(closes[t, i]):
                last[i] = closes[t, i]
        equity.append(cash + sum(u * (p or 0) for u, p in zip(units, last, strict=True)))
    return np.array(equity)


@settings(max_examples=120, deadline=None)
@given(
    seed=st.integers(0, 2**32 - 1),
    size=st.integers(2, 40),
    n=st.integers(1, 3),
    fee=st.sampled_from([0.0, 0.001, 0.02]),
    slippage=st.sampled_from([0.0, 0.0005, 0.03]),
    holes=st.sampled_from([0.0, 0.2]),
    short=st.booleans(),
)
def test_the_account_equals_a_slow_reference(seed, size, n, fee, slippage, holes, short):
    rng = np.random.default_rng(seed)
    closes = 100 * np.exp(np.cumsum(0.05 * rng.standard_normal((size, n)), axis=0))
    opens = closes * np.exp(0.02 * rng.standard_normal((size, n)))
    absent = rng.random((size, n)) < holes
    opens[absent] = closes[absent] = np.nan
    target = rng.choice([0.0, 0.3, 0.7, *([-0.4] if short else []), NONE], size=(size, n)) / n

    result = replay(lambda b: target[: len(b)], bars_of(opens, closes), Costs(fee, slippage))

    np.testing.assert_allclose(result.equity, reference(opens, closes, target, fee, slippage), rtol=1e-11)


def digits(count, base, seed):
    """Return whole numbers below `base` that are the same everywhere and for ever."""
    state, found = seed, []
    for _ in range(count):
        state = (1_103_515_245 * state + 12_345) % 2**31
        found.append(state // 2**16 % base)
    return np.array(found, dtype=float)


def exact_market(size, n, seed, step, holes):
    """Return opens, closes and orders, (size, n), made without rounding; `holes` percent of the bars are missing."""
    moves = digits(size * n, 2 * step + 1, seed).reshape(size, n) - step
    closes = np.maximum(4096 + np.cumsum(moves, axis=0), 64) / 32
    opens = closes + (digits(size * n, 9, seed + 1).reshape(size, n) - 4) / 64
    gone = digits(size * n, 100, seed + 2).reshape(size, n) < holes
    opens[gone] = closes[gone] = np.nan
    choices = np.array([0.0, 0.25, 0.75, -0.5, 1.5, NONE, NONE, NONE])
    return opens, closes, choices[digits(size * n, 8, seed + 3).astype(int)].reshape(size, n) / n


@pytest.mark.soak
@pytest.mark.parametrize(
    ("market", "costs", "end", "trips", "ruined_at", "bits"),
    [
        ((400, 1, 1, 40, 0), (0.001, 0.0005), "0x1.54f8e2cd78b83p-1", 98, None, "c665b5806e71c6afef51b89774f7e86a"),
        ((400, 3, 2, 40, 10), (0.02, 0.01), "0x1.c155371bf717ep-8", 262, None, "d331dfb759f33dadbffcf56d9f3b587b"),
        ((400, 1, 3, 700, 0), (0, 0), "0x1.23c37f1f71f5bp+11", 98, None, "e9609e1eec31b9dad518b2faf15a3427"),
        (
            (1000, 8, 4, 90, 30),
            (0.0005, 0.0002),
            "0x1.25d4d63a50924p-1",
            1569,
            None,
            "fd87bca761314c00965bf5bd48ad50b4",
        ),
        ((300, 2, 1, 700, 10), (0.001, 0.001), "-0x1.bdd0c1ba68f9cp+0", 27, 49, "cef5ef6160bf23ce634b047c4aec1f08"),
    ],
    ids=["one symbol", "three with gaps", "free of costs", "eight with many gaps", "ruin"],
)
def test_accounts_are_those_recorded_before_to_the_last_bit(market, costs, end, trips, ruined_at, bits):
    opens, closes, target = exact_market(*market)
    if ruined_at is not None:
        target[target == 0.75] = -1.0

    result = replay(lambda b: target[: len(b)], bars_of(opens, closes), Costs(*costs))

    entered = result.trips["entered"].to_physical().to_numpy()
    figures = (
        *(result.equity, result.weights, result.turnover, result.paid),
        *(result.trips["profit"].to_numpy(), entered, result.trips["bars"].to_numpy()),
    )
    digest = hashlib.sha256(b"".join(np.ascontiguousarray(values).tobytes() for values in figures))
    assert float(result.equity[-1]).hex() == end
    assert (result.trips.height, result.ruined_at) == (trips, ruined_at)
    assert digest.hexdigest().startswith(bits)


@settings(max_examples=60, deadline=None)
@given(seed=st.integers(0, 2**32 - 1), n=st.integers(1, 4))
def test_profits_of_round_trips_add_up_to_the_profit(seed, n):
    rng = np.random.default_rng(seed)
    walk = random_walk(60, n, seed)
    target = rng.choice([0.0, 0.5, -0.5, NONE], size=(60, n)) / n

    result = replay(lambda b: target[: len(b)], walk, Costs(0.002, 0.001))

    assert result.trips["profit"].sum() == pytest.approx(result.total_return, abs=1e-12)


@settings(max_examples=40, deadline=None)
@given(seed=st.integers(0, 2**32 - 1))
def test_a_long_only_account_has_its_target_weights_and_never_borrows(seed):
    rng = np.random.default_rng(seed)
    prices = 100 * np.exp(np.cumsum(0.03 * rng.standard_normal((30, 3)), axis=0))
    target = rng.dirichlet(np.ones(3), size=30)

    # Open and close are the same price, so the weights at the close are those right after the trade.
    result = replay(lambda b: target[: len(b)], bars_of(prices, prices), Costs(0.01, 0.01))

    np.testing.assert_allclose(result.weights[1:], target[:-1], rtol=1e-12)
    assert (result.weights.sum(axis=1) <= 1 + 1e-12).all()


def test_costs_never_help():
    walk = random_walk(800, 2, seed=4)

    equities = [backtest(MeanReversion(20), walk, Costs(fee, 0)).equity[-1] for fee in (0, 0.001, 0.01)]

    assert equities == sorted(equities, reverse=True)


def test_equity_at_a_bar_does_not_depend_on_later_bars():
    walk = random_walk(500, 2, seed=6)
    whole = backtest(TrendFollowing(30), walk).equity

    for cut in (100, 250, 499):
        np.testing.assert_array_equal(backtest(TrendFollowing(30), walk.head(cut)).equity, whole[:cut])


# --- look-ahead -------------------------------------------------------------------------------------------------


def tomorrow(bars):
    """Buy what is going to rise: the planted look-ahead."""
    return np.sign(np.diff(bars.close[:, 0], append=bars.close[-1:, 0]))


def whole_sample(bars):
    """Compare with the mean of the whole sample: the look-ahead that looks innocent."""
    x = np.log(bars.close[:, 0])
    return -np.sign(x - x.mean())


def centred(bars):
    """Smooth with a window that reaches two bars ahead."""
    x = np.convolve(np.log(bars.close[:, 0]), np.ones(5) / 5, mode="same")
    return np.sign(np.diff(x, prepend=x[0]))


def rolled(bars):
    """Shift the wrong way."""
    return np.roll(np.sign(np.diff(bars.close[:, 0], prepend=bars.close[0, 0])), -1)


CHEATS = [tomorrow, whole_sample, centred, rolled]


@pytest.mark.parametrize("cheat", CHEATS)
def test_a_planted_look_ahead_is_refused(cheat):
    with pytest.raises(LookAheadError, match=cheat.__name__):
        backtest(cheat, random_walk())


@pytest.mark.parametrize("cheat", CHEATS)
def test_a_planted_look_ahead_fails_the_assertion(cheat):
    with pytest.raises(LookAheadError, match="at 1970-"):
        assert_causal(cheat, random_walk())


def test_the_assertion_tries_a_cut_a_disturbed_and_a_shifted_future():
    walk = random_walk(30, 2)

    others = futures(walk, 10, np.ones((30, 2)), 0, np.random.default_rng(0))
    cut, disturbed, shifted = (other for _, other in others)

    assert len(cut) == 10
    for other in (disturbed, shifted):
        np.testing.assert_array_equal(other.close[:10], walk.close[:10])
        np.testing.assert_array_equal(other.times, walk.times)
        assert (other.high >= other.low).all()
    assert (disturbed.close[10:] != walk.close[10:]).all()
    np.testing.assert_array_equal(shifted.close[10:29], walk.close[11:])


def test_what_a_look_ahead_would_have_earned():
    walk = random_walk()

    cheated = backtest(tomorrow, walk, FREE, causality_cuts=0)

    # Executed at the next open, tomorrow's close is still known a bar in advance.
    assert cheated.sharpe > 50


def test_a_look_ahead_far_from_the_start_is_found_by_the_assertion():
    def late(bars):
        out = np.zeros(len(bars))
        out[1500:] = tomorrow(bars)[1500:]
        return out

    with pytest.raises(LookAheadError):
        assert_causal(late, random_walk(), n_cuts=40)


def test_a_strategy_that_needs_the_future_to_say_anything_is_refused():
    def needy(bars):
        if len(bars) < 1_900:
            raise DataError("too few bars")
        return np.ones(len(bars))

    with pytest.raises(LookAheadError, match="cannot repeat its decisions"):
        backtest(needy, random_walk())


@pytest.mark.parametrize("strategy", [TrendFollowing(), MeanReversion(), lambda b: on_change(np.ones(len(b)))])
def test_honest_strategies_are_causal(strategy):
    assert_causal(strategy, random_walk())


def test_a_strategy_that_changes_its_data_is_stopped():
    def careless(bars):
        bars.close[:] = 1.0
        return np.ones(len(bars))

    with pytest.raises(StrategyError, match="read-only"):
        backtest(careless, random_walk(100))


def test_the_assertion_says_when_there_is_nothing_to_judge():
    with pytest.raises(DataError, match="decides nothing"):
        assert_causal(TrendFollowing(500), random_walk(400))


def with_gaps(seed, size=3_000, share=0.02) -> Bars:
    """Return a random walk without some of its bars."""
    walk = random_walk(size, seed=seed)
    gone = np.random.default_rng([seed, 1]).random(size) < share
    values = {name: getattr(walk, name).copy() for name in ("open", "high", "low", "close", "volume")}
    for column in values.values():
        column[gone] = np.nan
    return Bars(walk.times, walk.symbols, **values)


def filled_backwards(bars):
    return np.sign(pd.Series(bars.close[:, 0]).bfill().diff(8)).to_numpy()


def interpolated(bars):
    return np.sign(pd.Series(bars.close[:, 0]).interpolate().diff(8)).to_numpy()


def smoothed_around(bars):
    smooth = pd.Series(bars.close[:, 0]).ffill().rolling(5, center=True, min_periods=1).mean()
    return np.sign(smooth.diff(8)).to_numpy()


@pytest.mark.parametrize("cheat", [filled_backwards, interpolated, smoothed_around])
@pytest.mark.parametrize("form", [on_change, np.asarray], ids=["orders on changes", "orders on every bar"])
def test_gaps_that_are_filled_from_the_future_are_refused_on_every_data_set(cheat, form):
    runs = []

    def strategy(bars):
        runs.append(len(bars))
        return form(cheat(bars))

    for seed in range(20):
        runs.clear()
        with pytest.raises(LookAheadError):
            backtest(strategy, with_gaps(seed))
        assert len(runs) <= 1 + 8


def carried_forward(bars):
    return on_change(np.sign(pd.Series(bars.close[:, 0]).ffill().diff(8)).to_numpy())


def test_gaps_that_are_filled_from_the_past_are_no_look_ahead():
    for seed in range(10):
        assert backtest(carried_forward, with_gaps(seed)).causality == "checked"


def told_in_advance(bars):
    """Return strategies that know tomorrow's direction from elsewhere, whatever the bars they are given say."""
    known = tomorrow(bars)
    by_time = dict(zip(bars.times.tolist(), known.tolist(), strict=True))

    def sized_by_volatility(b):
        spread = pd.Series(b.close[:, 0]).pct_change().rolling(20).std().to_numpy()
        return known[: len(b)] * 0.01 / np.nan_to_num(spread, nan=1.0)

    def half_honest(b):
        return 0.5 * known[: len(b)] + 0.5 * np.sign(np.diff(b.close[:, 0], prepend=b.close[0, 0]))

    return {
        "as it is": lambda b: known[: len(b)],
        "long or flat": lambda b: (known[: len(b)] > 0).astype(float),
        "looked up by time": lambda b: np.array([by_time[time] for time in b.times.tolist()]),
        "sized by volatility": sized_by_volatility,
        "mixed with a rule": half_honest,
    }


@pytest.mark.parametrize("form", told_in_advance(random_walk(10)))
@pytest.mark.parametrize("check", [backtest, assert_causal])
def test_signals_that_were_computed_once_on_everything_are_refused(form, check):
    walk = random_walk(3_000, seed=31)

    with pytest.raises(LookAheadError, match=r"other prices|prices in another order"):
        check(told_in_advance(walk)[form], walk)


def test_a_rule_of_the_calendar_cannot_be_checked_and_the_result_says_so():
    walk = random_walk(2_000)

    def mornings(bars):
        return (bars.times // HOUR % 24 < 12).astype(float)

    with pytest.raises(LookAheadError, match=r"does not read its bars.*causality_cuts=0"):
        backtest(mornings, walk)
    trusted = backtest(mornings, walk, causality_cuts=0)
    assert trusted.causality == "unchecked"
    assert "NOT CHECKED" in str(trusted)


def test_weights_that_never_change_foresee_nothing():
    result = backtest(lambda b: on_change(np.ones(len(b))), random_walk())

    assert result.causality == "constant"


def test_a_result_names_what_its_check_cannot_see():
    result = backtest(TrendFollowing(20), random_walk())

    assert result.causality == "checked"
    assert "leaks in the data themselves cannot be seen" in str(result)


# --- refusals and data ------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "target", [np.ones(7), np.full((10, 2), 1.0), np.full(10, math.inf)], ids=["short", "columns", "infinite"]
)
def test_targets_that_do_not_fit_are_refused(target):
    with pytest.raises(DataError, match="targets of shape"):
        backtest(lambda _: target, random_walk(10))


def test_an_error_of_the_strategy_itself_is_typed_and_kept():
    def broken(bars):
        raise KeyError("momentum")

    with pytest.raises(StrategyError, match="KeyError on 50 bars") as caught:
        backtest(broken, random_walk(50))
    assert isinstance(caught.value.__cause__, KeyError)


def test_a_strategy_that_raises_on_a_short_past_is_told_to_return_nan():
    def impatient(bars):
        if len(bars) < 250:
            raise ValueError("need 250 bars")
        return np.sign(np.diff(bars.close[:, 0], prepend=0.0))

    with pytest.raises(LookAheadError, match=r"need 250 bars.*return NaN"):
        backtest(impatient, random_walk(400))


@pytest.mark.parametrize(
    "call",
    [
        lambda walk: backtest(TrendFollowing, walk),
        lambda walk: backtest("trend", walk),
        lambda walk: backtest(TrendFollowing(20), walk.close),
        lambda walk: backtest(TrendFollowing(20), walk, costs=0.001),
        lambda walk: backtest(TrendFollowing(20), walk, causality_cuts=2.5),
        lambda walk: assert_causal(TrendFollowing(20), walk, n_cuts=0),
        lambda walk: assert_causal(TrendFollowing(20), walk, seed=-1),
        lambda _: Costs(fee=math.nan),
        lambda _: Costs(slippage="much"),
    ],
)
def test_arguments_out_of_their_domain_are_refused(call):
    with pytest.raises(BadRequestError):
        call(random_walk(100))


def test_costs_that_no_trade_can_carry_are_refused():
    with pytest.raises(BadRequestError, match="leverage"):
        backtest(lambda b: np.full(len(b), 8.0), random_walk(50), Costs(0.1, 0.0))


@pytest.mark.parametrize("values", [{"fee": -0.1}, {"slippage": 0.5}, {"fee": math.nan}])
def test_costs_out_of_range_are_refused(values):
    with pytest.raises(BadRequestError):
        Costs(**values)


def test_regimes_must_cover_every_bar():
    with pytest.raises(DataError, match="9 regimes"):
        backtest(lambda b: np.ones(len(b)), random_walk(10), regimes=["a"] * 9)


def test_closes_alone_are_executed_at_the_next_close():
    day = datetime(2024, 1, 1, tzinfo=UTC).date()
    frame = pl.DataFrame(
        {"symbol": ["A"] * 3, "date": [day + timedelta(days=i) for i in range(3)], "close": [10.0, 20.0, 40.0]}
    )

    result = replay(fixed(1, NONE, NONE), Bars.from_closes(frame), FREE)

    np.testing.assert_allclose(result.equity, [1, 1, 2])


def test_on_change_keeps_the_changes_only():
    given_weights = [NONE, 1, 1, NONE, 1, 0, 0, 1]

    np.testing.assert_array_equal(on_change(given_weights), [NONE, 1, NONE, NONE, NONE, 0, NONE, 1])


@pytest.mark.soak
def test_buying_and_holding_bitcoin_earns_what_its_price_did(recordings):
    path = recordings / f"{HOURS}/perp_1h_22sym.parquet"
    frame = pl.read_parquet(path).filter(pl.col("symbol") == "BTCUSDT").rename({"open_time": "ts"})

    result = backtest(lambda b: on_change(np.ones(len(b))), frame, FREE)

    prices = frame.sort("ts")
    assert result.total_return == pytest.approx(prices["close"][-1] / prices["open"][1] - 1)
    assert result.bars_per_year == pytest.approx(365.25 * 24)
