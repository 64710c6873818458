"""Strategies: rules against plain references, each branch of the pipeline, rows that explain, nothing ahead of time."""

from __future__ import annotations

import math
from dataclasses import replace
from datetime import UTC, datetime

import numpy as np
import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hfthot_platform.adapters.sample import SampleFeed
from hfthot_platform.core.errors import BadRequestError, DataError
from hfthot_platform.domain.market.panel import Bars
from hfthot_platform.domain.models.backtest import Costs, assert_causal, backtest
from hfthot_platform.domain.models.chiarella import ChiarellaParams
from hfthot_platform.domain.models.portfolio import Constraints, cara, estimate_moments, risk_parity, sparse
from hfthot_platform.domain.models.strategy import (
    DECISION_SCHEMA,
    UNKNOWN,
    Adaptive,
    AdaptiveRules,
    FittedMarket,
    MeanReversion,
    SymbolRegime,
    TrendFollowing,
    adaptive,
    decide,
    fit_markets,
    market_now,
    regime_labels,
)

DAY = 86_400_000_000
FREE = Costs(0.0, 0.0)
TRENDING = SymbolRegime("trending", 0.9, identified=True)
REVERTING = SymbolRegime("mean_reverting", 0.9, identified=True)
VOLATILE = SymbolRegime("volatile", 0.9, identified=False)


def panel(closes, *, buy_share=None) -> Bars:
    closes = np.asarray(closes, dtype=float).reshape(len(closes), -1)
    before = np.vstack([closes[:1], closes[:-1]])
    opens = np.where(np.isnan(before) | np.isnan(closes), closes, before)
    volume = np.full_like(closes, 1_000.0)
    bought = None if buy_share is None else volume * buy_share
    names = tuple(f"S{i}" for i in range(closes.shape[1]))
    high, low = np.fmax(opens, closes), np.fmin(opens, closes)
    return Bars(DAY * np.arange(len(closes)), names, opens, high, low, closes, volume, bought)


def walk(size=400, n=1, seed=0, drift=0.0):
    rng = np.random.default_rng(seed)
    scale = 0.005 * (1 + np.arange(n))
    return panel(100 * np.exp(np.cumsum(drift + scale * rng.standard_normal((size, n)), axis=0)))


# --- rules ------------------------------------------------------------------------------------------------------


@settings(max_examples=60, deadline=None)
@given(seed=st.integers(0, 2**32 - 1), size=st.integers(1, 300), lookback=st.integers(2, 60))
def test_scores_equal_their_definition(seed, size, lookback):
    data = walk(size, seed=seed)
    x = np.log(data.close[:, 0])

    trend = TrendFollowing(lookback).score(data)[:, 0]
    reversion = MeanReversion(lookback).score(data)[:, 0]

    for t in range(size):
        if t < lookback:
            assert math.isnan(trend[t])
        else:
            r = np.diff(x[t - lookback : t + 1])
            assert trend[t] == pytest.approx(r.sum() / math.sqrt((r**2).sum()), rel=1e-8, abs=1e-8)
        if t < lookback - 1:
            assert math.isnan(reversion[t])
        else:
            part = x[t - lookback + 1 : t + 1]
            assert reversion[t] == pytest.approx(-(x[t] - part.mean()) / part.std(ddof=1), rel=1e-8, abs=1e-8)


def test_scores_keep_their_digits_over_a_million_bars():
    data = walk(1_000_000, seed=2)
    x = np.log(data.close[-50:, 0])

    assert MeanReversion(50).score(data)[-1, 0] == pytest.approx(-(x[-1] - x.mean()) / x.std(ddof=1), rel=1e-8)


def test_positions_open_at_entry_and_close_at_exit():
    class Given(TrendFollowing):
        def _fill(self, x, out):
            out[:] = [math.nan, 0.5, 1.0, 0.6, 0.1, -0.1, -1.2, -0.4, 0.0, 2.0, -2.0]

    orders = Given(lookback=2, entry=1.0, exit=0.0)(walk(11))[:, 0]

    nan = math.nan
    np.testing.assert_array_equal(orders, [nan, 0, 1, nan, nan, 0, -1, nan, nan, 1, -1])


def test_long_only_rules_never_sell_short():
    orders = MeanReversion(20, long_only=True)(walk(2_000))

    assert np.nanmin(orders) == 0
    assert np.nanmax(orders) == 1


def test_each_symbol_gets_its_part_of_the_size():
    orders = TrendFollowing(20, size=2.0)(walk(500, n=4))

    assert set(np.unique(orders[~np.isnan(orders)])) == {-0.5, 0.0, 0.5}


def test_missing_bars_have_no_score_and_leave_the_others_as_they_are():
    data = walk(200, seed=3)
    full = TrendFollowing(20).score(data)[:, 0]
    holes = np.insert(data.close[:, 0], 100, np.nan)

    score = TrendFollowing(20).score(panel(holes))[:, 0]

    assert math.isnan(score[100])
    np.testing.assert_allclose(np.delete(score, 100), full, equal_nan=True)


def test_constant_prices_say_nothing():
    data = panel(np.full(50, 7.0))

    assert not TrendFollowing(10).score(data)[10:].any()
    assert not MeanReversion(10).score(data)[9:].any()


def test_each_rule_earns_where_its_kind_of_market_rules():
    rng = np.random.default_rng(8)
    trend, back = np.zeros(6_000), np.zeros(6_000)
    for t in range(1, 6_000):
        trend[t] = 0.5 * trend[t - 1] + 0.01 * rng.standard_normal()
        back[t] = 0.8 * back[t - 1] + 0.01 * rng.standard_normal()
    trending, reverting = panel(100 * np.exp(np.cumsum(trend))), panel(100 * np.exp(back))
    trend_rule, reversion_rule = TrendFollowing(5), MeanReversion(20)

    assert backtest(trend_rule, trending, FREE).sharpe > 1 > backtest(reversion_rule, trending, FREE).sharpe
    assert backtest(reversion_rule, reverting, FREE).sharpe > 1 > backtest(trend_rule, reverting, FREE).sharpe


@pytest.mark.parametrize("values", [{"lookback": 1}, {"entry": 0.0}, {"exit": 3.0}, {"size": 0.0}, {"entry": math.nan}])
def test_rules_refuse_parameters_out_of_their_domain(values):
    with pytest.raises(BadRequestError):
        MeanReversion(**values)


# --- the simulated market ---------------------------------------------------------------------------------------


def expecting(data, moves, *, impact_known=False, impact=1.0):
    """Return a market per symbol that expects about such a log-move within five bars."""
    made = {}
    for i, symbol in enumerate(data.symbols):
        price, before = np.log(data.close[-1, i]), np.log(data.close[-2, i])
        pull = 0.2
        params = ChiarellaParams(
            impact=impact,
            alpha_fundamental=pull / impact,
            alpha_chartist=0.0,
            volatility=0.01,
            sigma_noise=0.0,
            price=price,
            previous_price=before,
            fundamental=price + moves[i] / (1 - (1 - pull) ** 5),
        )
        made[symbol] = FittedMarket(params, int(data.times[-1]), 0.0, impact_known, ())
    return made


def test_a_market_fitted_earlier_is_brought_to_the_present_by_conditioning_on_the_closes_since():
    data = walk(8, seed=1)
    p = np.log(data.close[:, 0])
    a, c, drift, wander, deviation, spread = 0.3, 0.2, 0.001, 0.02, 0.01, 0.04
    params = ChiarellaParams(
        alpha_fundamental=a, alpha_chartist=c, volatility=deviation, sigma_noise=0.0, price=p[2], previous_price=p[1],
        fundamental=p[2] + 0.05, fundamental_drift=drift, fundamental_volatility=wander,
    )  # fmt: skip
    market = FittedMarket(params, int(data.times[2]), spread, False, ())

    now = market_now(market, data, 0)

    # Each close since then observes a F_t + e; the values F_t are jointly normal.
    k = np.arange(6)
    mean = params.fundamental + drift * k
    cov = spread + wander**2 * np.minimum.outer(k, k)
    seen = p[3:] - p[2:-1] - c * (p[2:-1] - p[1:-2]) + a * p[2:-1]
    gain = a * cov[5, :5] @ np.linalg.inv(a**2 * cov[:5, :5] + deviation**2 * np.eye(5))
    assert now.fundamental == pytest.approx(mean[5] + gain @ (seen - a * mean[:5]), rel=1e-12)
    assert (now.price, now.previous_price) == (p[7], p[6])


def test_order_flow_identifies_the_impact():
    rng = np.random.default_rng(4)
    flow = rng.standard_normal(300).clip(-3, 3)
    closes = 100 * np.exp(np.cumsum(0.01 * flow + 0.002 * rng.standard_normal(300)))
    data = panel(closes, buy_share=(0.5 + 0.1 * flow)[:, None])

    market = fit_markets(data)["S0"]

    # A bar is a day: a flow of 0.2 x volume moves the price by 0.01.
    assert market.impact_known
    assert market.params.impact == pytest.approx(0.01 / 0.2, rel=0.03)


def test_a_symbol_without_enough_closes_gets_the_error_that_says_so():
    found = fit_markets(walk(60))["S0"]

    assert isinstance(found, DataError)
    assert "60 closes of S0" in str(found)


# --- one decision -----------------------------------------------------------------------------------------------

#: Any signal is a view, so that each test is about one step.
BOLD = AdaptiveRules(
    volatility_target=None, trend=TrendFollowing(60, entry=1e-6), reversion=MeanReversion(20, entry=1e-6)
)
UP = np.array([0.03, 0.02, 0.025])


def rising(n=3):
    """Return bars that rise steadily enough for a positive trend score, and a fall at the end for reversion."""
    return walk(400, n, seed=12, drift=0.002)


def row(decision, symbol="S0"):
    return decision.rows.row(by_predicate=pl.col("symbol") == symbol, named=True)


def scores(data, rules=None):
    rules = rules or AdaptiveRules()
    return rules.trend.score(data)[-1], rules.reversion.score(data)[-1]


def with_trend(data):
    """Return expected moves in the direction of each symbol's trend."""
    return np.sign(scores(data)[0]) * UP[: len(data.symbols)]


def test_cheap_momentum_is_sized_by_risk_parity_in_the_direction_of_the_trend():
    data = rising()
    # The second symbol falls as the others rise.
    data = panel(data.close * [1, 0, 1] + 1e4 / data.close * [0, 1, 0])
    side = np.sign(scores(data)[0])
    assert set(side) == {-1, 1}

    decision = decide(
        data,
        dict.fromkeys(data.symbols, TRENDING),
        expecting(data, with_trend(data)),
        rules=BOLD,
        costs=Costs(0.0001, 0.0),
    )

    moves = np.diff(np.log(data.close[-251:]), axis=0)
    S = estimate_moments(moves, mean="zero").covariance
    np.testing.assert_allclose(decision.weights, side * risk_parity(S * np.outer(side, side)).weights, rtol=1e-9)
    assert set(decision.rows["method"]) == {"risk_parity"}
    assert set(decision.rows["strategy"]) == {"momentum"}


def test_dear_momentum_is_sized_sparsely_on_returns_net_of_costs():
    data = rising()
    moves = with_trend(data)
    costs = Costs(0.008, 0.0)

    decision = decide(data, dict.fromkeys(data.symbols, TRENDING), expecting(data, moves), rules=BOLD, costs=costs)

    returns = np.diff(np.log(data.close[-251:]), axis=0)
    S = 5 * estimate_moments(returns, mean="zero").covariance
    net = np.sign(moves) * (np.abs(np.expm1(moves)) - costs.buy - costs.sell)
    np.testing.assert_allclose(decision.weights, sparse(net, S, 0.05).weights, rtol=1e-6)
    assert set(decision.rows["method"]) == {"sparse"}
    assert "high costs" in row(decision)["reason"]


def test_mean_reversion_is_sized_by_cara_within_its_budget():
    data = rising()
    side = np.sign(scores(data)[1])
    regimes = {"S0": REVERTING, "S1": REVERTING, "S2": VOLATILE}

    decision = decide(data, regimes, expecting(data, side * UP), rules=BOLD, costs=Costs(0.0001, 0.0))

    assert row(decision)["method"] == "cara"
    assert row(decision)["budget"] == pytest.approx(2 / 3)
    assert np.abs(decision.weights[:2]).sum() == pytest.approx(2 / 3, abs=1e-6)
    assert (decision.weights[:2] * side[:2] >= 0).all()
    assert decision.weights[2] == 0


@pytest.mark.parametrize("previous", [[0, 0, 0], [0.1, 0.5, 0]])
def test_mean_reversion_asks_cara_with_moments_of_the_horizon_and_the_cost_of_trading(previous):
    data = rising()
    moves = 0.001 * np.sign(scores(data)[1]) * [1, 2, 3]
    rules = replace(BOLD, gamma=20.0, min_trade=0.0)
    costs = Costs(0.0001, 0.0)

    before = np.array(previous) * np.sign(moves)
    held = dict(zip(data.symbols, before.tolist(), strict=True))

    decision = decide(
        data, dict.fromkeys(data.symbols, REVERTING), expecting(data, moves), costs=costs, rules=rules, previous=held
    )

    S = 5 * estimate_moments(np.diff(np.log(data.close[-251:]), axis=0), mean="zero").covariance
    limits, round_trip = Constraints(-1, 1, budget=None, leverage=1), costs.buy + costs.sell
    expected = cara(np.expm1(moves), S, 20.0, constraints=limits, cost=round_trip, previous=before).weights
    assert np.abs(expected).sum() < 0.99
    np.testing.assert_allclose(decision.weights, expected, atol=2e-6)


def test_volatile_symbols_are_sold_and_their_share_stays_in_cash():
    data = rising()
    regimes = {"S0": VOLATILE, "S1": TRENDING, "S2": TRENDING}

    decision = decide(data, regimes, expecting(data, with_trend(data)), rules=BOLD, costs=FREE, previous={"S0": 0.4})

    assert row(decision)["strategy"] == "risk_off"
    assert row(decision)["previous_weight"] == 0.4
    assert decision.orders[0] == 0
    assert np.abs(decision.weights).sum() == pytest.approx(2 / 3)


@pytest.mark.parametrize("regime", ["trending", "mean_reverting"])
def test_no_bet_on_a_difference_that_is_not_identified(regime):
    data = rising()
    found = SymbolRegime(regime, 0.99, identified=False)

    decision = decide(data, dict.fromkeys(data.symbols, found), expecting(data, UP), rules=BOLD, costs=FREE)

    assert set(decision.rows["strategy"]) == {"neutral"}
    assert not any(decision.rows["identified"])
    assert (decision.weights > 0).all()
    assert "not told apart" in row(decision)["reason"]


def test_an_unsure_regime_is_not_bet_on():
    data = rising()
    found = SymbolRegime("trending", 0.55, identified=True)

    decision = decide(data, dict.fromkeys(data.symbols, found), expecting(data, UP), rules=BOLD, costs=FREE)

    assert row(decision)["strategy"] == "neutral"
    assert "below 60%" in row(decision)["reason"]


def test_no_view_where_the_simulated_market_expects_the_opposite():
    data = rising()
    moves = with_trend(data) * [-1, 1, 1]

    decision = decide(data, dict.fromkeys(data.symbols, TRENDING), expecting(data, moves), rules=BOLD, costs=FREE)

    assert decision.weights[0] == 0
    assert "against the signal" in row(decision)["reason"]
    assert (decision.weights[1:] != 0).all()


def test_no_new_position_where_costs_exceed_the_expected_move_but_a_held_one_is_kept():
    data = rising()
    regimes, markets = dict.fromkeys(data.symbols, TRENDING), expecting(data, with_trend(data))
    costs = Costs(0.05, 0.0)
    side = float(np.sign(scores(data)[0][0]))

    fresh = decide(data, regimes, markets, rules=BOLD, costs=costs)
    kept = decide(data, regimes, markets, rules=BOLD, costs=costs, previous={"S0": side / 3})

    assert not fresh.weights.any()
    assert "nothing left after costs" in row(fresh)["reason"]
    assert kept.weights[0] * side > 0
    assert "already held" in row(kept)["reason"]


@pytest.mark.parametrize("confidence", [math.nan, -0.1, 1.5, math.inf, "sure", None])
def test_a_confidence_that_is_no_probability_never_bets(confidence):
    data = rising()
    odd = SymbolRegime("trending", confidence, identified=True)

    decision = decide(data, {"S0": odd, "S1": TRENDING}, expecting(data, with_trend(data)), rules=BOLD, costs=FREE)

    assert decision.weights[0] == 0
    assert row(decision)["strategy"] == "none"
    assert decision.weights[1] != 0


@pytest.mark.parametrize("name", ["calm", "normal"])
def test_quiet_regimes_that_are_not_told_apart_are_held_without_a_bet(name):
    data = rising()
    found = SymbolRegime(name, 0.9, identified=False)

    decision = decide(data, dict.fromkeys(data.symbols, found), expecting(data, UP), rules=BOLD, costs=FREE)

    assert set(decision.rows["regime"]) == {name}
    assert set(decision.rows["strategy"]) == {"neutral"}
    assert (decision.weights > 0).all()


def test_weights_together_are_no_more_volatile_than_the_target():
    data = rising()
    regimes = dict.fromkeys(data.symbols, SymbolRegime("calm", 0.9, identified=False))
    free = decide(data, regimes, {}, rules=replace(BOLD, volatility_target=None), costs=FREE).weights
    moves = np.diff(np.log(data.close[-251:]), axis=0) @ free
    weight = 0.5 ** (np.arange(249, -1, -1) / 20)
    volatility = math.sqrt(float(weight @ moves**2) / weight.sum() * data.bars_per_year)

    low, high = (
        decide(data, regimes, {}, rules=replace(BOLD, volatility_target=target), costs=FREE)
        for target in (volatility / 2, volatility * 2)
    )

    np.testing.assert_allclose(low.weights, free / 2, rtol=1e-9)
    assert "x 0.50" in row(low)["reason"]
    np.testing.assert_array_equal(high.weights, free)


def test_the_band_around_a_position_is_a_share_of_it():
    data = rising()
    regimes = dict.fromkeys(data.symbols, SymbolRegime("calm", 0.9, identified=False))
    rules = replace(BOLD, min_trade=0.2)
    wanted = decide(data, regimes, {}, rules=rules, costs=FREE).weights
    held = dict(zip(data.symbols, (wanted * [0.75, 0.85, 1.3]).tolist(), strict=True))

    decision = decide(data, regimes, {}, rules=rules, costs=FREE, previous=held)

    assert np.isnan(decision.orders).tolist() == [False, True, False]


@pytest.mark.parametrize(
    "call",
    [
        lambda data: decide(data, {}, {}, previous={"S0": math.nan}),
        lambda data: decide(data, {}, {}, capital=math.inf),
        lambda data: decide(data, {}, {}, rules="bold"),
        lambda data: decide(data, {}, {}, costs=0.001),
        lambda data: decide(data, [], {}),
        lambda data: decide(data.close, {}, {}),
        lambda data: decide(data, {}, {}, seed=-1),
        lambda data: adaptive(data, workers=0),
        lambda data: adaptive(data.close),
        lambda data: fit_markets(data, window=50),
        lambda data: fit_markets(data, workers=1.5),
        lambda data: regime_labels(data, start=0),
        lambda data: regime_labels(data, refit_every=-3),
        lambda data: TrendFollowing()(data.close),
        lambda _: TrendFollowing(lookback=2.5),
        lambda _: TrendFollowing(entry=math.nan),
        lambda _: MeanReversion(exit=3.0),
        lambda _: MeanReversion(size=math.inf),
        lambda _: MeanReversion(long_only="yes"),
        lambda _: AdaptiveRules(min_confidence=math.nan),
        lambda _: AdaptiveRules(observation="hmm"),
        lambda _: AdaptiveRules(volatility_target=0.0),
        lambda _: AdaptiveRules(volatility_half_life=math.inf),
        lambda _: AdaptiveRules(trend=MeanReversion()),
        lambda _: AdaptiveRules(every=2.5),
    ],
)
def test_arguments_out_of_their_domain_are_refused(call):
    with pytest.raises(BadRequestError):
        call(walk(400))


def test_small_changes_are_not_traded():
    data = rising()
    regimes, markets = dict.fromkeys(data.symbols, TRENDING), expecting(data, with_trend(data))
    first = decide(data, regimes, markets, rules=BOLD, costs=FREE)
    held = dict(zip(data.symbols, (first.weights + 0.01).tolist(), strict=True))

    second = decide(data, regimes, markets, rules=BOLD, costs=FREE, previous=held)

    assert np.isnan(second.orders).all()
    assert second.weights.tolist() == list(held.values())
    assert "left as it is" in row(second)["reason"]


def test_impact_is_charged_and_proportional_to_the_order():
    data = rising()
    regimes = dict.fromkeys(data.symbols, TRENDING)
    markets = expecting(data, with_trend(data), impact_known=True, impact=0.05)
    daily = 1_000 * data.close[-1]

    decision = decide(data, regimes, markets, rules=BOLD, costs=FREE, capital=30_000.0)

    # An order of w C in shares of the daily volume moves the price by impact times that.
    np.testing.assert_allclose(decision.rows["impact"], 0.05 * decision.weights * 30_000 / daily, rtol=1e-6)
    assert row(decision)["cost"] == pytest.approx(2 * 0.05 * 10_000 / daily[0], rel=1e-6)
    assert "of the daily volume" in row(decision)["reason"]


def test_impact_is_null_where_the_order_flow_does_not_tell():
    data = rising()

    decision = decide(
        data,
        dict.fromkeys(data.symbols, TRENDING),
        expecting(data, with_trend(data)),
        rules=BOLD,
        costs=FREE,
        capital=1e6,
    )

    assert decision.rows["impact"].null_count() == 3
    assert "impact unknown" in row(decision)["reason"]


def test_a_symbol_without_a_market_has_no_view_and_says_why():
    data = rising()
    markets = {**expecting(data, with_trend(data)), "S0": DataError("99 closes of S0")}

    decision = decide(data, dict.fromkeys(data.symbols, TRENDING), markets, rules=BOLD, costs=FREE)

    assert decision.weights[0] == 0
    assert "99 closes of S0" in row(decision)["reason"]


def test_a_symbol_without_a_regime_or_with_gaps_gets_no_weight():
    data = rising()
    closes = data.close.copy()
    closes[-100:-60, 1] = np.nan
    holes = panel(closes)
    regimes = {"S1": TRENDING, "S2": TRENDING}

    decision = decide(holes, regimes, expecting(data, with_trend(data)), rules=BOLD, costs=FREE)

    assert decision.weights[:2].tolist() == [0, 0]
    assert row(decision, "S0")["regime"] == UNKNOWN
    assert "95 %" in row(decision, "S1")["reason"]
    assert abs(decision.weights[2]) == pytest.approx(1 / 3)


@settings(max_examples=25, deadline=None)
@given(seed=st.integers(0, 2**32 - 1))
def test_every_row_explains_its_weight(seed):
    rng = np.random.default_rng(seed)
    data = walk(400, 5, seed=seed)
    names = ["trending", "mean_reverting", "volatile"]
    regimes = {
        s: SymbolRegime(str(rng.choice(names)), float(rng.uniform(0.4, 1)), identified=bool(rng.random() < 0.7))
        for s in data.symbols
    }
    held = dict(zip(data.symbols, rng.choice([0.0, 0.1, -0.1], 5).tolist(), strict=True))

    decision = decide(data, regimes, expecting(data, 0.02 * rng.standard_normal(5)), previous=held, rules=BOLD)

    assert decision.rows.schema == pl.Schema(DECISION_SCHEMA)
    assert np.abs(decision.weights).sum() <= 1 + 0.2 + 1e-6
    for row, weight in zip(decision.rows.iter_rows(named=True), decision.weights, strict=True):
        assert row["weight"] == weight
        assert row["reason"]
        left = "left as it is" in row["reason"]
        assert (weight != 0) <= (row["method"] != "none" or left)
        if row["strategy"] == "risk_off":
            assert weight == 0
        if row["strategy"] in {"momentum", "stat_arb"} and weight != 0 and not left:
            # A bet needs an identified regime, a signal, and a simulated market that agrees.
            assert row["identified"]
            assert row["confidence"] >= 0.6
            assert row["expected_return"] * row["signal"] > 0
        if row["strategy"] == "neutral":
            assert weight >= 0 or left


def test_a_weak_signal_is_no_view_unless_the_position_is_held():
    data = rising()
    signal = scores(data)[0][0]
    above, below = abs(signal) * 1.1, abs(signal) * 0.5
    rules = AdaptiveRules(trend=TrendFollowing(60, entry=above, exit=below))
    regimes, markets = dict.fromkeys(data.symbols, TRENDING), expecting(data, with_trend(data))

    fresh = decide(data, regimes, markets, costs=FREE, rules=rules)
    kept = decide(data, regimes, markets, costs=FREE, rules=rules, previous={"S0": 0.2 * float(np.sign(signal))})

    assert fresh.weights[0] == 0
    assert "within" in row(fresh)["reason"]
    assert kept.weights[0] * signal > 0


def test_decisions_refuse_bad_input():
    data = walk(400)
    with pytest.raises(BadRequestError, match="capital"):
        decide(data, {}, {}, capital=0.0)
    with pytest.raises(DataError, match="100 bars"):
        decide(data.head(100), {}, {})
    with pytest.raises(BadRequestError):
        AdaptiveRules(window=50)
    with pytest.raises(BadRequestError):
        AdaptiveRules(window=100, trend=TrendFollowing(lookback=100))


# --- walking forward --------------------------------------------------------------------------------------------

QUICK = AdaptiveRules(window=100, warm_up=200, every=25, refit_every=50)


@pytest.mark.soak
def test_the_pipeline_walks_forward():
    data = walk(280, 2, seed=21)

    run = adaptive(data, rules=QUICK)

    days = run.decisions["ts"].to_physical().unique().sort().to_numpy()
    np.testing.assert_array_equal(days, data.times[200::25])
    assert run.decisions.height == 2 * days.size
    assert UNKNOWN not in run.decisions["regime"].to_list()
    assert np.isnan(run.targets[:200]).all()
    assert not np.isnan(run.targets[200]).any()
    last = run.decisions.filter(pl.col("ts").to_physical() == days[-1]).sort("symbol")
    ordered = ~np.isnan(run.targets[275])
    np.testing.assert_array_equal(run.targets[275][ordered], last["weight"].to_numpy()[ordered])


@pytest.mark.soak
def test_what_was_held_is_what_the_account_holds():
    data = walk(330, 2, seed=29, drift=0.001)
    costs = Costs(0.001, 0.0)

    run = adaptive(data, rules=QUICK, costs=costs)

    result = backtest(lambda _: run.targets, data, costs, causality_cuts=0)
    for t in range(200, 330, 25):
        rows = run.decisions.filter(pl.col("ts").to_physical() == data.times[t])
        held = dict(rows.select("symbol", "previous_weight").rows())
        assert [held[name] for name in data.symbols] == pytest.approx(result.weights[t].tolist(), abs=1e-12)


def test_the_pipeline_is_causal_and_repeatable():
    assert_causal(Adaptive(rules=QUICK), walk(230, seed=22), n_cuts=1)


@pytest.mark.soak
def test_threads_do_not_change_the_result():
    data = walk(230, 2, seed=23)

    one, two = (adaptive(data, rules=QUICK, workers=w) for w in (1, 2))

    assert one.decisions.equals(two.decisions)


@pytest.mark.soak
def test_a_symbol_that_is_listed_late_waits_for_its_warm_up():
    data = walk(300, 2, seed=24)
    closes = data.close.copy()
    closes[:60, 1] = np.nan

    decisions = adaptive(panel(closes), rules=QUICK).decisions.filter(pl.col("symbol") == "S1")

    known = decisions.filter(pl.col("regime") != UNKNOWN)["ts"].to_physical()
    assert decisions["regime"][0] == UNKNOWN
    assert known.min() >= data.times[60 + 200]


def test_the_pipeline_needs_more_bars_than_its_warm_up():
    with pytest.raises(DataError, match="200 bars"):
        adaptive(walk(200), rules=QUICK)


def test_regimes_of_bars_are_causal():
    data = walk(900, 2, seed=25)

    whole = regime_labels(data, start=400, refit_every=200)

    assert whole[:400] == (UNKNOWN,) * 400
    assert regime_labels(data.head(700), start=400, refit_every=200) == whole[:700]


def test_a_random_walk_has_no_identified_regimes():
    labels = regime_labels(walk(900, seed=26), start=400, refit_every=200)

    assert set(labels[400:]) <= {"calm", "normal", "volatile"}


def test_a_series_too_short_for_regimes_is_unknown():
    assert regime_labels(walk(250)) == (UNKNOWN,) * 250


@pytest.mark.soak
def test_the_pipeline_on_stocks_explains_itself():
    span = datetime(2020, 8, 13, tzinfo=UTC), datetime(2023, 1, 1, tzinfo=UTC)
    closes = pl.concat([batch.rows for batch in SampleFeed().fetch("market.closes", *span)])
    data = Bars.from_closes(closes.filter(pl.col("symbol").is_in(["AAPL", "JPM", "XOM"])))

    run = adaptive(data, rules=AdaptiveRules(refit_every=500, every=20))
    result = backtest(lambda bars: run.targets[: len(bars)], data, causality_cuts=0)

    assert run.decisions["reason"].str.len_chars().min() > 20
    assert result.start == 500
    assert result.max_drawdown > -0.5


@pytest.mark.parametrize("regimes", [{"S0": ("trending", 0.9, True)}, {"S0": "trending"}])
def test_regimes_of_another_type_are_refused(regimes):
    with pytest.raises(BadRequestError, match=r"regimes\['S0'\]"):
        decide(walk(300), regimes, {})
