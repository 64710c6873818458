"""Event-driven strategies: what they are told and when, and the same account as for functions of bars."""

from __future__ import annotations

import math
import threading
from datetime import UTC, datetime

import numpy as np
import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hfthot_platform.core.errors import BadRequestError, DataError, LookAheadError, StrategyError
from hfthot_platform.domain.market.events import Book, Trade, trades_from
from hfthot_platform.domain.market.panel import Bars
from hfthot_platform.domain.models.backtest import Costs, Vectorised, assert_causal, backtest
from hfthot_platform.domain.models.strategy import MeanReversion, TrendFollowing
from hfthot_platform.domain.trading.port import EventStrategy

HOUR = 3_600_000_000
NONE = math.nan


def bars_of(opens, closes, symbols=None) -> Bars:
    opens, closes = (np.asarray(prices, dtype=float).reshape(len(prices), -1) for prices in (opens, closes))
    names = symbols or tuple(f"S{column}" for column in range(opens.shape[1]))
    volume = np.where(np.isnan(closes), np.nan, 1.0)
    return Bars(
        HOUR * np.arange(len(opens)), names, opens, np.fmax(opens, closes), np.fmin(opens, closes), closes, volume
    )


def random_walk(size=800, n=1, seed=0, holes=0.0) -> Bars:
    rng = np.random.default_rng(seed)
    closes = 100 * np.exp(np.cumsum(0.01 * rng.standard_normal((size, n)), axis=0))
    opens = np.vstack([closes[:1], closes[:-1]]) * np.exp(0.002 * rng.standard_normal((size, n)))
    gone = rng.random((size, n)) < holes
    opens[gone] = closes[gone] = np.nan
    return bars_of(opens, closes)


class Follower(EventStrategy):
    """Long after a rise, flat after a fall: one symbol, one bar of memory."""

    def __init__(self) -> None:
        self.before = math.nan

    def on_bar(self, bar, context):
        if bar.close != self.before and not math.isnan(self.before):
            context.target(bar.symbol, 1.0 if bar.close > self.before else 0.0)
        self.before = bar.close


class Recorder(EventStrategy):
    """Writes down what it is told, in a list that runs share, and does at given times what it was asked to."""

    def __init__(self, log, orders=None) -> None:
        self.log, self.orders = log, orders or {}

    def __deepcopy__(self, memo):
        return self

    def _note(self, kind, event, context):
        self.log.append((kind, event, context.now))
        for order in self.orders.pop((kind, context.now), ()):
            order(context)

    def on_bar(self, bar, context):
        self._note("bar", bar, context)

    def on_interval_end(self, ts, context):
        self._note("end", ts, context)

    def on_trade(self, trade, context):
        self._note("trade", trade, context)

    def on_book(self, book, context):
        self._note("book", book, context)

    def on_fill(self, fill, context):
        self._note("fill", fill, context)


# --- the same as functions of bars ------------------------------------------------------------------------------


class Causal:
    """A function that decides by exact arithmetic on a random window of the past, with NaN and numbers."""

    def __init__(self, lookback, choices, salt):
        self.lookback, self.choices, self.salt = lookback, np.asarray(choices), salt

    def __call__(self, bars):
        x = bars.close
        target = np.full(x.shape, NONE)
        for t in range(self.lookback, len(bars)):
            window = x[t - self.lookback : t + 1]
            score = np.where(np.isnan(window), 0.0, window).sum(axis=0) * 1024 + self.salt + t
            target[t] = self.choices[score.astype(np.int64) % self.choices.size]
        return target / x.shape[1]


@settings(max_examples=60, deadline=None)
@given(
    seed=st.integers(0, 2**32 - 1),
    size=st.integers(2, 40),
    n=st.integers(1, 3),
    lookback=st.integers(0, 5),
    fee=st.sampled_from([0.0, 0.001, 0.02]),
    slippage=st.sampled_from([0.0, 0.0005, 0.03]),
    holes=st.sampled_from([0.0, 0.3]),
    choices=st.lists(st.sampled_from([0.0, 0.3, 0.7, -0.4, 1.0, -1.0, NONE]), min_size=1, max_size=6),
)
def test_a_function_told_event_by_event_has_the_same_result_to_the_last_bit(
    seed, size, n, lookback, fee, slippage, holes, choices
):
    walk = random_walk(size, n, seed, holes)
    function = Causal(lookback, choices, seed % 1000)
    costs = Costs(fee, slippage)

    at_once = backtest(function, walk, costs, causality_cuts=0)
    by_events = backtest(Vectorised(function), walk, costs, causality_cuts=0)

    for name in ("equity", "weights", "turnover", "paid", "drawdown"):
        np.testing.assert_array_equal(getattr(by_events, name), getattr(at_once, name), err_msg=name)
    assert by_events.trips.equals(at_once.trips)
    assert by_events.metrics() == at_once.metrics()
    assert (by_events.start, by_events.ruined_at, by_events.strategy) == (
        at_once.start,
        at_once.ruined_at,
        at_once.strategy,
    )


@pytest.mark.parametrize("rule", [TrendFollowing(20), MeanReversion(20)])
def test_the_rules_of_the_platform_decide_the_same_from_a_bounded_history(rule):
    walk = random_walk(300, 2, seed=3, holes=0.02)

    at_once = backtest(rule, walk, causality_cuts=0)
    by_events = backtest(Vectorised(rule), walk, causality_cuts=0)

    np.testing.assert_array_equal(by_events.equity, at_once.equity)


def test_a_bounded_history_holds_the_newest_bars_only():
    seen = []

    def watching(bars):
        seen.append((len(bars), int(bars.times[-1])))
        return np.full(bars.close.shape, NONE)

    backtest(Vectorised(watching, history=10), random_walk(700), causality_cuts=0)

    assert [length for length, _ in seen] == [min(t + 1, 10) for t in range(700)]
    assert [last for _, last in seen] == [HOUR * t for t in range(700)]


def test_a_hand_written_strategy_is_the_same_as_its_function():
    walk = random_walk(400, seed=5)

    def function(bars):
        moves = np.diff(bars.close[:, 0], prepend=NONE)
        return np.where(moves > 0, 1.0, np.where(moves < 0, 0.0, NONE))

    np.testing.assert_array_equal(backtest(Follower(), walk).equity, backtest(function, walk).equity)


# --- what is told, and when -------------------------------------------------------------------------------------


def test_everything_is_told_in_the_order_in_which_it_happened():
    log = []
    walk = bars_of([[10, 5], [11, NONE], [12, 6]], [[10, 5], [11, NONE], [12, 6]], ("A", "B"))
    tape = [Trade("A", HOUR // 2, 10, 1.0), Book("A", HOUR, ((9, 1.0),), ((11, 1.0),)), Trade("B", 3 * HOUR, 6, 1.0)]

    backtest(Recorder(log, {("end", HOUR): [lambda context: context.target("A", 0.5)]}), walk, events=tape)

    told = [(kind, getattr(event, "symbol", event), now) for kind, event, now in log]
    assert told == [
        ("trade", "A", HOUR // 2),
        ("bar", "A", HOUR),
        ("bar", "B", HOUR),
        ("end", 0, HOUR),
        ("fill", "A", HOUR),
        ("book", "A", HOUR),
        ("bar", "A", 2 * HOUR),
        ("end", HOUR, 2 * HOUR),
        ("bar", "A", 3 * HOUR),
        ("bar", "B", 3 * HOUR),
        ("end", 2 * HOUR, 3 * HOUR),
        ("trade", "B", 3 * HOUR),
    ]


def test_a_fill_says_quantity_price_with_slippage_and_fee():
    log = []
    orders = {("end", HOUR): [lambda context: context.target("S0", 0.5)]}

    backtest(Recorder(log, orders), bars_of([10, 20, 20], [10, 20, 20]), Costs(fee=0.01, slippage=0.02))

    (fill,) = [event for kind, event, _ in log if kind == "fill"]
    assert fill.price == pytest.approx(20 * 1.02)
    # Half of what is left after costs, in units at the open.
    assert fill.quantity * 20 == pytest.approx(0.5 / (1 + 0.5 * (1.02 * 1.01 - 1)))
    assert fill.fee == pytest.approx(fill.quantity * fill.price * 0.01)
    assert fill.ts == HOUR


@pytest.mark.soak
def test_an_answer_to_a_fill_is_executed_at_the_next_open():
    log = []
    orders = {
        ("end", HOUR): [lambda context: context.target("S0", 1.0)],
        ("fill", HOUR): [lambda context: context.target("S0", 0.0)],
    }

    result = backtest(Recorder(log, orders), bars_of([10, 10, 30, 99], [10, 20, 40, 99]), Costs(0, 0))

    np.testing.assert_allclose(result.equity, [1, 2, 3, 3])


def test_a_decision_on_a_trade_is_executed_at_the_next_open():
    orders = {("trade", HOUR + 5): [lambda context: context.target("S0", 1.0)]}

    result = backtest(
        Recorder([], orders),
        bars_of([10, 10, 20, 20], [10, 10, 40, 40]),
        Costs(0, 0),
        events=[Trade("S0", HOUR + 5, 10, 1)],
    )

    np.testing.assert_allclose(result.equity, [1, 1, 2, 2])
    assert result.start == 1


def test_an_order_waits_for_a_price_and_can_be_withdrawn():
    waiting = []
    orders = {
        ("end", HOUR): [lambda context: context.target("B", 1.0)],
        ("end", 2 * HOUR): [lambda context: waiting.append(context.waiting("B")), lambda context: context.cancel("B")],
    }
    walk = bars_of([[10, 5], [10, NONE], [10, 4], [10, 4]], [[10, 5], [10, NONE], [10, 8], [10, 8]], ("A", "B"))

    result = backtest(Recorder([], orders), walk, Costs(0, 0))

    assert waiting == [1.0]
    np.testing.assert_allclose(result.equity, [1, 1, 1, 1])


def test_a_strategy_sees_its_account():
    seen = []
    orders = {
        ("end", HOUR): [lambda context: context.target("S0", 0.5)],
        ("end", 2 * HOUR): [lambda context: seen.append((context.equity, context.weight("S0"), context.waiting("S0")))],
    }

    backtest(Recorder([], orders), bars_of([10, 10, 10], [10, 30, 30]), Costs(0, 0))

    assert seen == [(pytest.approx(2.0), pytest.approx(0.75), None)]


def test_a_run_begins_with_what_the_strategy_was_given_and_leaves_it_as_it_was():
    strategy = Follower()

    first, second = (backtest(strategy, random_walk(100)) for _ in range(2))

    assert math.isnan(strategy.before)
    np.testing.assert_array_equal(first.equity, second.equity)


def test_by_default_nothing_is_done():
    result = backtest(EventStrategy(), random_walk(50), events=[Trade("S0", 5, 1.0, 1.0), Book("S0", 6, (), ())])

    assert result.total_return == 0
    assert result.strategy == "EventStrategy"


def test_rows_of_trades_become_trades_in_the_order_of_time():
    at = datetime(1970, 1, 1, 1, tzinfo=UTC)
    rows = pl.DataFrame(
        {"symbol": "A", "ts": [at, at], "trade_id": [2, 1], "price": [2, 1], "amount": 1.0, "side": ["buy", None]}
    )

    assert list(trades_from(rows)) == [Trade("A", HOUR, 1.0, 1.0, None), Trade("A", HOUR, 2.0, 1.0, "buy")]


# --- look-ahead -------------------------------------------------------------------------------------------------


def test_a_strategy_that_is_told_event_by_event_was_given_no_future():
    result = backtest(Follower(), random_walk())

    assert result.causality == "by_construction"
    assert "it was never shown the future" in str(result)
    assert_causal(Follower(), random_walk())


class Brought(EventStrategy):
    """Brings along what it was told in advance."""

    def __init__(self, bars):
        self.moves = np.sign(np.diff(bars.close[:, 0], append=bars.close[-1:, 0])).tolist()

    def on_bar(self, bar, context):
        context.target(bar.symbol, self.moves[bar.ts // HOUR])


def test_what_a_strategy_brought_along_is_refused():
    walk = random_walk(3_000, seed=31)

    with pytest.raises(LookAheadError, match="has them from another source"):
        backtest(Brought(walk), walk)
    assert backtest(Brought(walk), walk, causality_cuts=0).causality == "unchecked"


# --- refusals ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("order", "says"),
    [
        (lambda context: context.target("S1", 1.0), "no symbol 'S1'"),
        (lambda context: context.target("S0", NONE), "weight = nan"),
        (lambda context: context.target("S0", "much"), "weight = 'much'"),
        (lambda context: context.weight("X"), "no symbol 'X'"),
    ],
)
def test_what_is_not_there_cannot_be_asked_for(order, says):
    with pytest.raises(BadRequestError, match=says):
        backtest(Recorder([], {("end", HOUR): [order]}), random_walk(10))


def test_costs_that_no_trade_can_carry_are_refused():
    orders = {("end", HOUR): [lambda context: context.target("S0", 8.0)]}

    with pytest.raises(BadRequestError, match="leverage of 8"):
        backtest(Recorder([], orders), random_walk(10), Costs(0.1, 0.0))


def test_an_error_of_the_strategy_says_where_and_when():
    def broken(context):
        raise KeyError("momentum")

    with pytest.raises(StrategyError, match=r"on_interval_end raised KeyError at 1970-01-01 02:00") as caught:
        backtest(Recorder([], {("end", 2 * HOUR): [broken]}), random_walk(10))
    assert isinstance(caught.value.__cause__, KeyError)


def test_a_strategy_that_cannot_be_copied_is_refused():
    strategy = Follower()
    strategy.lock = threading.Lock()

    with pytest.raises(StrategyError, match="cannot be copied"):
        backtest(strategy, random_walk(10))


@pytest.mark.parametrize(
    "events",
    [
        [Trade("S0", 9, 1.0, 1.0), Trade("S0", 8, 1.0, 1.0)],
        [Trade("S0", -1, 1.0, 1.0)],
        [("S0", 5)],
    ],
    ids=["out of order", "before the first bar", "another type"],
)
def test_a_tape_that_makes_no_sense_is_refused(events):
    with pytest.raises(DataError, match="an event"):
        backtest(EventStrategy(), random_walk(10), events=events)


def test_a_function_of_bars_is_told_of_no_trades():
    with pytest.raises(BadRequestError, match="does not receive events"):
        backtest(TrendFollowing(), random_walk(10), events=[])


@pytest.mark.parametrize("history", [0, 2.5])
def test_a_history_has_a_length(history):
    with pytest.raises(BadRequestError, match="history"):
        Vectorised(TrendFollowing(), history=history)


def test_only_functions_can_be_wrapped():
    with pytest.raises(BadRequestError, match="strategy"):
        Vectorised(TrendFollowing)
