"""The Chiarella market against exact AR(2) results, its characteristic roots and parameters known beforehand."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hfthot_platform.core.errors import BadRequestError, DataError, ModelError
from hfthot_platform.domain.models.chiarella import (
    ChiarellaParams,
    autocovariance,
    calibrate,
    forecast,
    order_impact,
    simulate,
    stability,
)

# In coefficients: a = 0.1, c = 0.4, standard deviation of the noise 0.01.
MARKET = ChiarellaParams(impact=2.0, alpha_fundamental=0.05, alpha_chartist=0.2, sigma_noise=0.004, volatility=0.006)
CYCLE = ChiarellaParams(alpha_fundamental=0.3, alpha_chartist=0.8, sigma_noise=0.01)
MOVING = ChiarellaParams(
    impact=2.0,
    alpha_fundamental=0.05,
    alpha_chartist=0.2,
    sigma_noise=0.004,
    volatility=0.006,
    fundamental_volatility=0.004,
)
QUIET = {"sigma_noise": 0.0, "volatility": 0.0}


def ar2(a: float, c: float, variance: float, lags: int) -> np.ndarray:
    """Return the textbook autocovariances of x_t = (1 - a + c) x_(t-1) - c x_(t-2) + e (Box and Jenkins)."""
    first, second = 1.0 - a + c, -c
    out = [variance * (1 - second) / ((1 + second) * ((1 - second) ** 2 - first**2))]
    out.append(out[0] * first / (1 - second))
    while len(out) <= lags:
        out.append(first * out[-1] + second * out[-2])
    return np.array(out)


def market_of(a: float, c: float, noise: float = 0.01, **others) -> ChiarellaParams:
    return ChiarellaParams(alpha_fundamental=a, alpha_chartist=c, sigma_noise=noise, **others)


class TestExactResults:
    @pytest.mark.parametrize(("a", "c"), [(0.1, 0.4), (0.3, 0.8), (0.5, -0.3), (1.5, 0.2), (0.02, 0.0)])
    def test_autocovariance_is_that_of_the_ar2_process(self, a, c):
        assert autocovariance(market_of(a, c), 12) == pytest.approx(ar2(a, c, 1e-4, 12), rel=1e-9)

    @pytest.mark.parametrize("params", [MARKET, CYCLE])
    def test_simulation_has_the_exact_stationary_moments(self, params):
        a, c, noise = params.coefficients()
        deviation = simulate(params, 20_000, 150, seed=7).prices
        expected = ar2(a, c, noise**2, 3)
        for lag in range(4):
            products = deviation[:, -1] * deviation[:, -1 - lag]
            error = products.std() / math.sqrt(products.size)
            assert abs(products.mean() - expected[lag]) < 4 * error

    def test_a_moving_fundamental_value_adds_its_own_moves(self):
        found = simulate(MOVING, 20_000, 150, seed=8)
        deviation = found.prices - found.fundamental
        expected = autocovariance(MOVING, 2)
        for lag in range(3):
            products = deviation[:, -1] * deviation[:, -1 - lag]
            assert abs(products.mean() - expected[lag]) < 4 * products.std() / math.sqrt(products.size)

    def test_a_fundamental_value_that_returns(self):
        params = market_of(
            0.1, 0.4, fundamental_volatility=0.01, fundamental_reversion=0.05, fundamental_level=1.0, price=1.0
        )
        found = simulate(params, 20_000, 200, seed=9)
        deviation = (found.prices - found.fundamental)[:, -1]
        error = (deviation**2).std() / math.sqrt(deviation.size)
        assert abs((deviation**2).mean() - autocovariance(params, 0)[0]) < 4 * error
        assert found.fundamental[:, -1].mean() == pytest.approx(1.0, abs=0.002)

    @pytest.mark.parametrize("params", [MOVING, CYCLE])
    def test_forecast_is_what_simulation_converges_to(self, params):
        from dataclasses import replace

        params = replace(params, price=1.0, previous_price=0.99, fundamental=1.1, fundamental_drift=1e-3)
        found, exact = simulate(params, 20_000, 60, seed=3), forecast(params, 60)
        mean, error = found.mean()
        assert (np.abs(mean[1:] - exact.mean[1:]) < 5 * error[1:]).all()
        assert found.prices.std(axis=0)[1:] == pytest.approx(exact.deviation[1:], rel=0.03)
        fan = found.fan((0.05, 0.5, 0.95))
        assert fan[2, -1] - fan[0, -1] == pytest.approx(2 * 1.6449 * exact.deviation[-1], rel=0.04)

    def test_refuses_moments_that_do_not_exist(self):
        with pytest.raises(ModelError, match="largest root 1"):
            autocovariance(market_of(0.1, 1.05))


class TestDeterministicLimit:
    @pytest.mark.parametrize(("a", "c"), [(0.1, 0.4), (0.3, 0.8), (0.05, 1.02), (1.9, 0.1)])
    def test_follows_the_roots(self, a, c):
        start = {"price": 1.0, "previous_price": 0.7, "fundamental": 0.0}
        path = simulate(market_of(a, c, 0.0, **start), 1, 40, seed=0).prices[0]
        r1, r2 = stability(market_of(a, c)).roots
        # x_t = A r1^t + B r2^t through the two starting values.
        A, B = np.linalg.solve([[1, 1], [1 / r1, 1 / r2]], [1.0, 0.7])
        expected = [(A * r1**t + B * r2**t).real for t in range(41)]
        assert path == pytest.approx(expected, rel=1e-9, abs=1e-9)

    def test_a_market_at_its_fundamental_value_rests(self):
        path = simulate(market_of(0.2, 0.5, 0.0, price=3.0), 2, 10, seed=0).prices
        assert path == pytest.approx(np.full((2, 11), 3.0), abs=1e-14)

    def test_a_smaller_step_approaches_the_same_path(self):
        params = market_of(0.1, 0.0, 0.0, price=1.0, fundamental=0.0)
        errors = [
            abs(simulate(params, 1, round(10 / dt), dt, seed=0).prices[0, -1] - math.exp(-1))
            for dt in (0.5, 0.25, 0.125)
        ]
        assert errors[0] / errors[1] == pytest.approx(2, rel=0.05)
        assert errors[1] / errors[2] == pytest.approx(2, rel=0.05)


class TestStability:
    @pytest.mark.parametrize(
        ("a", "c", "kind"),
        [
            (0.1, 0.4, "stable"),
            (0.3, 0.8, "oscillating"),
            (1.5, 0.1, "oscillating"),
            (0.1, 1.0, "explosive"),
            (0.1, 1.2, "explosive"),
            (2.9, 0.4, "explosive"),
            (0.0, 0.4, "explosive"),
        ],
    )
    def test_kind(self, a, c, kind):
        assert stability(market_of(a, c)).kind == kind

    @settings(max_examples=200, deadline=None)
    @given(a=st.floats(0.001, 4), c=st.floats(0, 1.5))
    def test_border_is_the_triangle_of_the_ar2_process(self, a, c):
        margin = min(abs(c - 1), abs(a - 2 * (1 + c)))
        if margin > 1e-6:
            assert (stability(market_of(a, c)).kind != "explosive") == (c < 1 and a < 2 * (1 + c))

    def test_half_life_and_period_of_a_cycle(self):
        found = stability(CYCLE)
        root = found.roots[0]
        assert found.modulus == pytest.approx(math.sqrt(0.8))
        assert found.half_life == pytest.approx(math.log(0.5) / math.log(math.sqrt(0.8)))
        assert found.period == pytest.approx(2 * math.pi / abs(np.angle(root)))

    @pytest.mark.parametrize(
        ("a", "c", "prone"), [(0.4, 0.1, False), (0.1, 0.4, True), (0.1, 1.1, True), (0.3, 0.3, False)]
    )
    def test_is_bubble_prone_where_chartists_outweigh_fundamentalists(self, a, c, prone):
        found = stability(market_of(a, c))
        assert found.bubble_prone == prone
        assert (found.amplification > 1 + 1e-9) == prone


class TestRandomNumbers:
    def test_same_seed_same_bits_for_any_number_of_threads(self):
        one, two, five = (simulate(MOVING, 1500, 40, seed=4, workers=w) for w in (1, 2, 5))
        assert one.prices.tobytes() == two.prices.tobytes() == five.prices.tobytes()
        assert one.fundamental.tobytes() == two.fundamental.tobytes() == five.fundamental.tobytes()

    def test_the_first_paths_do_not_depend_on_how_many_follow(self):
        few, many = simulate(MARKET, 300, 40, seed=4), simulate(MARKET, 1500, 40, seed=4)
        assert np.array_equal(few.prices, many.prices[:300])

    def test_another_seed_gives_other_paths(self):
        assert not np.array_equal(simulate(MARKET, 10, 5, seed=1).prices, simulate(MARKET, 10, 5, seed=2).prices)

    def test_paths_are_independent_across_blocks(self):
        last = simulate(market_of(0.5, 0.0), 512, 400, seed=1).prices[:, 1:]
        steps = np.diff(last, axis=1)
        correlation = np.corrcoef(steps[0], steps[256])[0, 1]
        assert abs(correlation) < 4 / math.sqrt(steps.shape[1])


class TestOrderImpact:
    def test_is_the_sum_of_impulse_responses(self):
        found = order_impact(MARKET, 0.05, execution_steps=4, n_paths=64, n_steps=30, seed=1)
        a, c, _ = MARKET.coefficients()
        response = [1.0, 1 - a + c]
        while len(response) < 30:
            response.append((1 - a + c) * response[-1] - c * response[-2])
        share = 2.0 * 0.05 / 4
        expected = [share * sum(response[t - k] for k in range(1, 5) if t >= k) for t in range(31)]
        assert found.path == pytest.approx(expected, abs=1e-12)
        assert found.slippage == pytest.approx(np.mean(expected[1:5]))

    def test_common_random_numbers_leave_rounding_only(self):
        found = order_impact(MARKET, 0.05, n_paths=200, n_steps=50, seed=1)
        assert found.standard_error.max() < 1e-15
        independent = simulate(MARKET, 200, 50, seed=2).mean()[1][-1]
        assert independent > 1e-3

    def test_selling_mirrors_buying_and_dies_out(self):
        buy, sell = (order_impact(MARKET, size, n_paths=10, seed=1) for size in (0.05, -0.05))
        assert sell.path == pytest.approx(-buy.path, abs=1e-12)
        assert sell.peak == pytest.approx(-buy.peak)
        assert abs(buy.permanent) < 1e-6 < buy.peak

    @pytest.mark.parametrize(("size", "material"), [(0.005, False), (0.01, False), (0.011, True), (-0.2, True)])
    def test_says_whether_the_order_is_material(self, size, material):
        assert order_impact(MARKET, size, n_paths=2, seed=1).material == material


def recorded(params: ChiarellaParams, n: int, seed: int, dt: float = 1.0):
    """Return prices (n + 1,) and flows (n,) of a market, written out step by step."""
    generator = np.random.default_rng(seed)
    price, value, flow = np.zeros(n + 1), np.zeros(n + 1), np.zeros(n)
    for t in range(n):
        flow[t] = (
            params.weight_fundamental * params.alpha_fundamental * (value[t] - price[t]) * dt
            + params.weight_chartist * params.alpha_chartist * (price[t] - price[max(t - 1, 0)])
            + params.weight_noise * params.sigma_noise * dt * generator.standard_normal()
        )
        news = params.volatility * math.sqrt(dt) * generator.standard_normal()
        price[t + 1] = price[t] + params.impact * flow[t] + news
        value[t + 1] = value[t] + params.fundamental_volatility * math.sqrt(dt) * generator.standard_normal()
    return price, flow, value


@pytest.fixture(scope="module")
def from_prices():
    price, _, value = recorded(MOVING, 4000, seed=5)
    return calibrate(price), value


@pytest.fixture(scope="module")
def from_flow():
    price, flow, value = recorded(MOVING, 3000, seed=6, dt=0.5)
    return calibrate(price, flow, dt=0.5), value


class TestCalibration:
    @pytest.mark.parametrize(
        ("name", "truth", "width"),
        [("pull", 0.1, 0.06), ("chase", 0.4, 0.07), ("noise", 0.01, 0.001), ("fundamental_volatility", 0.004, 0.004)],
    )
    def test_recovers_the_coefficients_from_prices(self, from_prices, name, truth, width):
        found = from_prices[0].estimates[name]
        assert abs(found.value - truth) < found.high - found.low  # four standard errors
        assert found.high - found.low < width
        assert found.identified

    @pytest.mark.parametrize(
        ("name", "truth"),
        [("pull", 0.05), ("chase", 0.2), ("noise", 0.004), ("fundamental_volatility", 0.004), ("impact", 2.0)],
    )
    def test_recovers_the_market_from_prices_and_flow(self, from_flow, name, truth):
        found = from_flow[0].estimates[name]
        assert abs(found.value - truth) < found.high - found.low
        assert found.value == pytest.approx(truth, rel=0.25)

    def test_fitted_parameters_are_those_of_the_market(self, from_flow):
        params = from_flow[0].params
        assert params.coefficients(0.5) == pytest.approx(MOVING.coefficients(0.5), rel=0.2)
        assert params.volatility == pytest.approx(0.006, rel=0.05)
        assert from_flow[0].warnings == ()

    def test_follows_the_hidden_fundamental_value(self, from_flow):
        found, value = from_flow
        error = np.abs(found.fundamental - value[1:-1])[300:]
        assert error.mean() < 2 * found.fundamental_deviation
        assert found.params.fundamental == pytest.approx(value[-1], abs=4 * found.fundamental_deviation)

    def test_says_that_prices_alone_do_not_give_the_impact(self, from_prices):
        assert any("impact is not identified" in warning for warning in from_prices[0].warnings)

    def test_says_that_a_random_walk_has_no_fundamental_value(self):
        walk = np.cumsum(np.random.default_rng(3).standard_normal(1500)) * 0.01
        found = calibrate(walk)
        assert not found.estimates["pull"].identified
        assert found.estimates["pull"].low == 0.0
        assert any("random walk" in warning for warning in found.warnings)
        assert abs(found.estimates["chase"].value) < 0.15

    def test_does_not_see_a_constant_fundamental_value_move(self):
        price, _, _ = recorded(MARKET, 2000, seed=8)
        found = calibrate(price).estimates["fundamental_volatility"]
        assert found.low == 0.0
        assert found.high < 0.002
        assert not found.identified

    def test_likelihood_is_that_of_the_joint_gaussian(self):
        from hfthot_platform.domain.models.chiarella import kalman_likelihood

        generator = np.random.default_rng(0)
        price, move, y = generator.standard_normal((3, 6))
        a, c, variance, drift, wander, spread = 0.3, 0.2, 0.5, 0.1, 0.4, 2.0
        value, _ = kalman_likelihood(y, price, move, a, c, variance, drift, wander, spread, np.empty(6))
        steps = np.arange(6)
        mean = a * (price[0] + drift * steps - price) + c * move
        covariance = a * a * (spread + wander * np.minimum.outer(steps, steps)) + variance * np.eye(6)
        from scipy.stats import multivariate_normal

        assert value == pytest.approx(multivariate_normal(mean, covariance).logpdf(y), abs=1e-10)

    @pytest.mark.soak
    def test_intervals_hold_the_truth_as_often_as_they_say(self):
        truth = {"pull": 0.1, "chase": 0.4, "noise": 0.01, "fundamental_volatility": 0.004}
        hits = []
        for seed in range(40):
            price, _, _ = recorded(MOVING, 3000, seed=100 + seed)
            found = calibrate(price, seed=seed).estimates
            hits += [found[name].low <= value <= found[name].high for name, value in truth.items()]
        assert 0.88 <= np.mean(hits) <= 0.995


class TestRefusals:
    @pytest.mark.parametrize(
        ("prices", "message"),
        [
            (np.zeros(200), "constant"),
            (np.arange(50.0), "shape"),
            (np.r_[np.arange(200.0), np.nan], r"prices\[200\] is"),
            (["x"], "not an array of numbers"),
        ],
    )
    def test_data(self, prices, message):
        with pytest.raises(DataError, match=message):
            calibrate(prices)

    def test_flow_of_another_length(self):
        with pytest.raises(DataError, match="150 flows for 200 prices"):
            calibrate(np.random.default_rng(0).standard_normal(200), np.random.default_rng(1).standard_normal(150))

    @pytest.mark.parametrize("change", [{"impact": -1.0}, {"volatility": math.nan}, {"weight_noise": -0.1}])
    def test_parameters(self, change):
        with pytest.raises(BadRequestError, match=next(iter(change))):
            ChiarellaParams(**change)

    @pytest.mark.parametrize("change", [{"n_paths": 0}, {"n_steps": 0}, {"dt": 0.0}, {"seed": -1}, {"order": [1.0]}])
    def test_simulations(self, change):
        with pytest.raises(BadRequestError):
            simulate(MARKET, **{"n_paths": 2, "n_steps": 3, "seed": 0, **change})

    def test_execution_that_outlasts_the_simulation(self):
        with pytest.raises(BadRequestError, match="execution_steps=400"):
            order_impact(MARKET, 0.1, execution_steps=400, seed=0)


def test_paths_that_explode_are_counted():
    found = simulate(market_of(0.1, 9.0), 5, 2000, seed=0)
    assert found.diverged == 5
    assert found.stability.kind == "explosive"
