"""The mean field game: against its closed form, an independent boundary-value problem, and its own invariants."""

from __future__ import annotations

import math
from datetime import UTC, datetime, timedelta

import numpy as np
import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hfthot_platform.core.errors import BadRequestError, DataError
from hfthot_platform.domain.models.mean_field_game import (
    InventoryDensity,
    TradeCrowding,
    calibrate_crowding,
    closed_form,
    predict_price,
    solve,
)
from tests.recordings import PERP, XRP

REFERENCE = TradeCrowding(
    impact=0.4, running_penalty=0.1, temporary_cost=0.2, terminal_penalty=2.5, horizon=5.0, initial_inventory=10.0
)

#: (impact, running_penalty, temporary_cost, terminal_penalty, horizon), initial inventory, inventory noise
LINEAR_QUADRATIC = {
    "the reference example": ((0.4, 0.1, 0.2, 2.5, 5.0), 10.0, 0.0),
    "weak impact and penalty": ((0.1, 0.01, 0.2, 2.5, 5.0), 10.0, 0.0),
    "no interaction": ((0.0, 0.1, 0.2, 2.5, 5.0), 10.0, 0.0),
    "no running penalty": ((0.4, 0.0, 0.2, 2.5, 5.0), 10.0, 0.0),
    "strong impact": ((1.0, 0.1, 0.2, 2.5, 5.0), 10.0, 0.0),
    "very strong impact": ((2.0, 0.1, 0.2, 2.5, 5.0), 10.0, 0.0),
    "urgent": ((0.4, 1.0, 0.2, 2.5, 5.0), 10.0, 0.0),
    "expensive trading": ((0.4, 0.1, 2.0, 2.5, 5.0), 10.0, 0.0),
    "soft end": ((0.4, 0.1, 0.2, 0.1, 5.0), 10.0, 0.0),
    "free end": ((0.4, 0.1, 0.2, 0.0, 5.0), 10.0, 0.0),
    "buyers": ((0.4, 0.1, 0.2, 2.5, 5.0), -10.0, 0.0),
    "wide density": ((0.4, 0.1, 0.2, 2.5, 5.0), InventoryDensity.gaussian(10.0, 4.0), 0.0),
    "both buyers and sellers": ((0.4, 0.1, 0.2, 2.5, 5.0), InventoryDensity.gaussian(2.0, 4.0), 0.0),
    "noisy inventories": ((0.4, 0.1, 0.2, 2.5, 5.0), 10.0, 1.0),
    "other units": ((4e-6, 1e-6, 2e-6, 2.5e-5, 5.0), 1e6, 0.0),
    "one day": ((0.1, 0.01, 0.2, 2.5, 1.0), 1.0, 0.0),
}


def game_of(name):
    parameters, start, noise = LINEAR_QUADRATIC[name]
    return TradeCrowding(*parameters, initial_inventory=start, inventory_noise=noise)


def error_of(solution):
    game = solution.game
    exact = closed_form(game, solution.times).mean_inventory
    return np.abs(solution.mean_inventory - exact).max() / abs(game.mean_initial_inventory)


def random_game(seed):
    """Return a linear-quadratic game of any regime: a term may be absent, a scale span two decades or more."""
    rng = np.random.default_rng(seed)
    size, side = 10 ** rng.uniform(-2, 2), rng.choice([-1.0, 1.0])
    humps = np.array([0.1, 0.3, 0.5, 1.2, 1.5, 1.7]) * size
    start = (
        side * size,
        InventoryDensity.gaussian(side * size, size * 10 ** rng.uniform(-2, 0.7)),
        InventoryDensity(np.sort(side * humps), np.array([0.0, 1.0, 0.0, 0.0, 2.0, 0.0])),
    )[rng.integers(3)]
    return TradeCrowding(
        impact=rng.choice([0, 1]) * 10 ** rng.uniform(-2, 0.7),
        running_penalty=rng.choice([0, 1]) * 10 ** rng.uniform(-2, 1.5),
        temporary_cost=10 ** rng.uniform(-1, 0.7),
        terminal_penalty=rng.choice([0, 1, 1, 1]) * 10 ** rng.uniform(-2, 3),
        horizon=10 ** rng.uniform(-1, 2),
        initial_inventory=start,
    )


@pytest.fixture(scope="module")
def design():
    return solve(REFERENCE, 201, 201)


class TestClosedForm:
    def test_gives_the_published_values(self):
        assert closed_form(REFERENCE, [1.0, 3.0, 5.0]).mean_inventory == pytest.approx(
            [2.54941, 0.16157, 0.00146], abs=5e-6
        )

    @given(
        alpha=st.just(0.0) | st.floats(1e-3, 3),
        phi=st.just(0.0) | st.floats(1e-3, 3),
        kappa=st.floats(0.05, 3),
        terminal=st.just(0.0) | st.floats(1e-3, 30),
        horizon=st.floats(0.2, 10),
    )
    @settings(max_examples=60, deadline=None)
    def test_satisfies_its_equation_and_both_ends(self, alpha, phi, kappa, terminal, horizon):
        game = TradeCrowding(alpha, phi, kappa, terminal, horizon, 7.0)
        path = closed_form(game, np.linspace(0, horizon, 9))
        inner = np.linspace(0, horizon, 9)[1:-1]
        eps = 1e-5 * horizon
        before, after = closed_form(game, inner - eps), closed_form(game, inner + eps)
        bend = (after.mean_trading_rate - before.mean_trading_rate) / (2 * eps)
        terms = np.stack(
            [
                2 * kappa * bend,
                alpha * path.mean_trading_rate[1:-1],
                -2 * phi * path.mean_inventory[1:-1],
            ]
        )
        assert np.abs(terms.sum(axis=0)).max() <= 1e-5 * max(np.abs(terms).max(), 1e-9)
        assert path.mean_inventory[0] == pytest.approx(7.0)
        end = kappa * path.mean_trading_rate[-1] + terminal * path.mean_inventory[-1]
        assert abs(end) <= 1e-9 * max(1.0, terminal * 7.0)

    def test_without_interaction_is_almgren_chriss(self):
        phi, kappa, horizon = 0.1, 0.2, 5.0
        game = TradeCrowding(0.0, phi, kappa, 1e9, horizon, 10.0)  # everything must be sold by T
        t = np.linspace(0, horizon, 51)
        theta = math.sqrt(phi / kappa)
        expected = 10.0 * np.sinh(theta * (horizon - t)) / math.sinh(theta * horizon)
        assert closed_form(game, t).mean_inventory == pytest.approx(expected, abs=1e-7)

    @pytest.mark.parametrize(
        "terms",
        [
            (0.4, 0.1, 0.2, 2.5, 5.0),
            (0.4, 0.0, 0.2, 2.5, 5.0),
            (0.0, 1e-24, 0.2, 2.5, 5.0),
            (1e-12, 1e-26, 0.2, 2.5, 5.0),
            (0.0, 0.0, 3.0, 2.5, 5.0),
            (50.0, 1e-9, 0.2, 1e-9, 5.0),
            (0.4, 0.1, 0.2, 1e9, 1000.0),
            (3.0, 2.0, 0.1, 0.0, 1e-6),
        ],
    )
    def test_agrees_with_higher_precision(self, terms):
        """The boundary-value problem of the module's docstring, solved in high precision."""
        import mpmath as mp

        alpha, phi, kappa, terminal, horizon = terms
        t = np.linspace(0, horizon, 7)
        found = closed_form(TradeCrowding(*terms, 10.0), t)
        with mp.workdps(1500):
            alpha, phi, kappa, terminal, horizon = (mp.mpf(term) + mp.mpf(10) ** -60 for term in terms)
            gap = mp.sqrt(phi / kappa + (alpha / (4 * kappa)) ** 2)
            up, down = -alpha / (4 * kappa) + gap, -alpha / (4 * kappa) - gap
            # c1 + c2 = 10, and kappa E' + A E = 0 at T.
            ends = mp.matrix(
                [[1, 1], [(kappa * r + terminal) * mp.exp(r * horizon) for r in (up, down)]],
            )
            c1, c2 = mp.lu_solve(ends, mp.matrix([10, 0]))
            mean = [float(c1 * mp.exp(up * s) + c2 * mp.exp(down * s)) for s in map(mp.mpf, t)]
            rate = [float(c1 * up * mp.exp(up * s) + c2 * down * mp.exp(down * s)) for s in map(mp.mpf, t)]
        assert found.mean_inventory == pytest.approx(mean, rel=1e-9, abs=1e-13)
        assert found.mean_trading_rate == pytest.approx(rate, rel=1e-9, abs=1e-13 / float(horizon))

    def test_without_any_penalty_nobody_trades(self):
        path = closed_form(TradeCrowding(0.0, 0.0, 1.0, 0.0, 1.0, 3.0))
        assert np.all(path.mean_inventory == 3.0)
        assert np.all(path.mean_trading_rate == 0.0)

    def test_refuses_other_costs(self):
        with pytest.raises(BadRequestError, match="use solve"):
            closed_form(TradeCrowding(0.4, 0.1, 0.2, 2.5, 5.0, 10.0, cost_power=1.5))

    def test_refuses_times_outside_the_horizon(self):
        with pytest.raises(BadRequestError, match="Stay in"):
            closed_form(REFERENCE, [6.0])


class TestLinearQuadraticGames:
    @pytest.mark.soak
    @pytest.mark.parametrize("name", LINEAR_QUADRATIC)
    def test_the_mean_inventory_is_the_closed_form_to_a_thousandth(self, name):
        solution = solve(game_of(name), 201, 201)
        assert solution.converged
        assert error_of(solution) <= 1e-3

    def test_the_error_falls_at_second_order_and_without_extrapolation_at_first(self):
        game = game_of("wide density")  # far from any effect of the grid's ends
        sizes = (51, 101, 201)
        fine = [error_of(solve(game, n, n)) for n in sizes]
        raw = [error_of(solve(game, n, n, extrapolate=False)) for n in sizes]
        orders = np.log2(np.array([fine, raw])[:, :-1] / np.array([fine, raw])[:, 1:])
        assert orders[0] == pytest.approx([2.0, 2.0], abs=0.1)
        assert orders[1] == pytest.approx([1.0, 1.0], abs=0.1)

    @pytest.mark.parametrize("name", ["the reference example", "urgent", "very strong impact"])
    def test_the_grid_error_bounds_the_error(self, name):
        solution = solve(game_of(name), 101, 101)
        assert error_of(solution) <= solution.grid_error <= 0.2

    @pytest.mark.parametrize("terminal", [0.0, 25.0, 100.0, 1e3, 1e5])
    @pytest.mark.parametrize("n", [101, 201])
    def test_a_stiff_end_is_met_or_told(self, terminal, n):
        solution = solve(TradeCrowding(0.4, 0.1, 0.2, terminal, 5.0, 10.0), n, n)
        assert error_of(solution) <= solution.grid_error
        assert error_of(solution) <= 1e-3 or not solution.converged
        assert solution.converged or n == 101

    @pytest.mark.soak
    @pytest.mark.parametrize(
        "change",
        [
            {"impact": 4.0},
            {"impact": 20.0},
            {"impact": 200.0},
            {"horizon": 1e-6},
            {"horizon": 100.0},
            {"horizon": 1e3},
            {"running_penalty": 1e3},
            {"running_penalty": 0.0, "terminal_penalty": 0.0},
        ],
    )
    def test_an_extreme_game_is_met_or_told(self, change):
        usual = {"impact": 0.4, "running_penalty": 0.1, "terminal_penalty": 2.5, "horizon": 5.0}
        solution = solve(TradeCrowding(temporary_cost=0.2, initial_inventory=10.0, **(usual | change)), 101, 101)
        assert error_of(solution) <= solution.grid_error
        assert error_of(solution) <= 1e-3 or not solution.converged

    @pytest.mark.parametrize("start", [(1e-8, 1.0), (-3.0, 0.01), (-1e-3, 2.0), (1e4, 1e4)])
    def test_the_accuracy_does_not_depend_on_how_inventories_are_spread(self, start):
        solution = solve(TradeCrowding(0.4, 0.1, 0.2, 2.5, 5.0, InventoryDensity.gaussian(*start)))
        assert solution.converged
        assert error_of(solution) <= solution.grid_error <= 1e-3
        assert solution.iterations <= 4

    def test_as_many_buyers_as_sellers_move_nothing(self):
        solution = solve(TradeCrowding(0.4, 0.1, 0.2, 2.5, 5.0, InventoryDensity.gaussian(0.0, 1.0)))
        assert solution.converged
        assert np.abs(solution.mean_inventory).max() <= 1e-10
        assert solution.iterations <= 2

    def random_games_keep_their_word(self, numbers):
        for number in numbers:
            game = random_game(number)
            for n in (101, 201):
                solution = solve(game, n, n)
                assert error_of(solution) <= solution.grid_error, (number, n)
                assert error_of(solution) <= 1e-3 or not solution.converged, (number, n)

    @pytest.mark.soak
    def test_the_grid_error_bounds_the_error_of_random_games(self):
        self.random_games_keep_their_word(range(12))

    @pytest.mark.soak
    def test_the_grid_error_bounds_the_error_of_200_random_games(self):
        self.random_games_keep_their_word(range(200))

    def test_steps_longer_than_the_crowds_own_time_tell_nothing(self):
        # Every grid that is too coarse for a crowd that unwinds at once is wrong in the same way.
        crowd = TradeCrowding(9.0, 0.0, 0.004, 0.15, 0.4, 1.0)
        found = solve(crowd, 51, 51)
        assert np.abs(found.mean_inventory - closed_form(crowd, found.times).mean_inventory).max() > 0.5
        assert found.grid_error == math.inf
        assert not found.converged

    def test_a_grid_that_allows_one_comparison_only_is_judged_more_strictly(self):
        two, one = (solve(game_of("wide density"), 101, n).grid_error for n in (101, 103))
        assert one > 3 * two

    def test_the_trading_rate_is_the_closed_forms(self, design):
        exact = closed_form(REFERENCE, design.times).mean_trading_rate
        assert design.mean_trading_rate == pytest.approx(exact, abs=1e-3 * np.abs(exact).max())

    def test_without_interaction_it_is_almgren_chriss_after_one_response(self):
        solution = solve(game_of("no interaction"), 101, 101, extrapolate=False)
        assert solution.iterations <= 2
        assert np.all(solution.price_path == 0.0)

    def test_with_noise_the_inventories_spread_as_the_riccati_equation_says(self):
        phi, kappa, terminal, nu = 0.1, 0.2, 0.15, 1.5
        start = InventoryDensity.gaussian(1.0, 1.0)
        solution = solve(TradeCrowding(0.1, phi, kappa, terminal, 5.0, start, inventory_noise=nu), 201, 201)
        weights = solution.density * (solution.inventories[1] - solution.inventories[0])
        variance = weights @ solution.inventories**2 - (weights @ solution.inventories) ** 2
        # v = (h1 - h2 q) / (2 kappa), h2' = h2^2 / (2 kappa) - 2 phi, h2(T) = 2 A;  s' = nu^2 - h2 s / kappa
        n = 20_001
        dt = 5.0 / (n - 1)
        pull, spread = np.empty(n), np.empty(n)
        pull[-1], spread[0] = 2 * terminal, 1.0
        for k in range(n - 1, 0, -1):
            pull[k - 1] = pull[k] - dt * (pull[k] ** 2 / (2 * kappa) - 2 * phi)
        for k in range(n - 1):
            spread[k + 1] = spread[k] + dt * (nu**2 - pull[k] * spread[k] / kappa)
        exact = np.interp(solution.times, np.linspace(0, 5, n), spread)
        assert variance == pytest.approx(exact, rel=0.02)


class TestScheme:
    def test_mass_is_conserved_without_normalisation(self, design):
        h = design.inventories[1] - design.inventories[0]
        assert design.mass_error <= 1e-12
        assert design.density.sum(axis=1) * h == pytest.approx(np.ones(201), abs=1e-12)

    def test_the_density_is_never_negative(self, design):
        assert design.density.min() >= 0.0

    def test_both_discrete_equations_hold(self, design):
        assert design.hjb_residual <= 1e-8
        assert design.fokker_planck_residual <= 1e-8

    def test_nothing_reaches_the_ends_of_the_grid(self, design):
        assert design.boundary_mass <= 1e-9

    def test_the_price_moves_by_impact_times_what_was_traded(self, design):
        traded = design.mean_inventory - 10.0
        assert design.price_path == pytest.approx(0.4 * traded)

    def test_the_band_widens_with_the_root_of_time(self):
        game = TradeCrowding(0.4, 0.1, 0.2, 2.5, 4.0, 10.0, volatility=0.5)
        band = solve(game, 51, 51).price_band
        width = band[:, 1] - band[:, 0]
        assert width[0] == 0.0
        assert width[-1] == pytest.approx(2 * 1.959964 * 0.5 * 2.0)

    def test_where_nobody_trades_nothing_changes(self):
        solution = solve(TradeCrowding(1.0, 0.0, 1.0, 0.0, 1.0, 3.0), 31, 31)
        assert solution.converged
        assert solution.mean_inventory == pytest.approx(np.full(31, 3.0))
        assert max(solution.hjb_residual, solution.fokker_planck_residual) <= 1e-8

    def test_units_do_not_matter(self):
        """Prices in cents and inventories in thousands give the same path."""
        scaled = TradeCrowding(0.4 * 1e5, 0.1 * 1e5, 0.2 * 1e5, 2.5 * 1e5, 5.0, 0.01)
        path = solve(scaled, 51, 51).mean_inventory
        assert path * 1000 == pytest.approx(solve(REFERENCE, 51, 51).mean_inventory, abs=1e-6)

    @given(
        alpha=st.floats(0, 1),
        phi=st.floats(0, 2),
        kappa=st.floats(0.1, 2),
        terminal=st.floats(0, 5),
        mean=st.floats(-20, 20),
        std=st.floats(0.1, 10),
        noise=st.floats(0, 2),
        cost=st.floats(1.4, 3),
        penalty=st.floats(1, 3),
    )
    @settings(max_examples=25, deadline=None)
    def test_any_game_keeps_its_mass_and_its_sign(self, alpha, phi, kappa, terminal, mean, std, noise, cost, penalty):
        start = InventoryDensity.gaussian(mean, std)
        game = TradeCrowding(alpha, phi, kappa, terminal, 2.0, start, 0.0, noise, cost, penalty)
        solution = solve(game, 31, 31, max_iterations=8, extrapolate=False)
        assert solution.mass_error <= 1e-12
        assert solution.density.min() >= 0.0


class TestEquilibrium:
    def test_exploitability_falls_to_zero(self, design):
        gains = design.exploitability
        assert np.all(np.diff(gains[:3]) < 0)
        assert gains[0] > 1e-6
        assert abs(gains[-1]) <= 1e-9 * gains[0] + 1e-11 * np.abs(design.value).max()

    def test_no_deviation_gains_before_equilibrium_either_by_less_than_nothing(self, design):
        """The gain of a best response is non-negative up to rounding at every iteration."""
        assert design.exploitability.min() >= -1e-12 * np.abs(design.value).max()

    def test_fictitious_play_learns_the_same_equilibrium(self):
        played = solve(REFERENCE, 51, 51, method="fictitious_play", max_iterations=400, extrapolate=False)
        newton = solve(REFERENCE, 51, 51, extrapolate=False)
        assert played.mean_inventory == pytest.approx(newton.mean_inventory, abs=1e-2)
        assert played.exploitability[-1] < 0.01 * played.exploitability[0]

    def test_an_iteration_cut_short_says_so(self):
        solution = solve(REFERENCE, 51, 51, max_iterations=1, extrapolate=False)
        assert not solution.converged
        assert solution.residuals[-1] > 1e-3

    def test_crowding_makes_agents_sell_sooner_than_alone(self):
        alone, crowd = (solve(game_of(name), 51, 51) for name in ("no interaction", "strong impact"))
        assert crowd.mean_inventory[10] < alone.mean_inventory[10]


def representative_agent(game, times):
    """One inventory and no noise: a boundary-value problem, q' = v(p), p' = -alpha q' + phi c |q|^(c-1)."""
    from scipy.integrate import solve_bvp

    b, c, start = game.cost_power, game.penalty_power, game.mean_initial_inventory

    def speed(p):
        return np.sign(p) * (np.abs(p) / (game.temporary_cost * b)) ** (1 / (b - 1))

    def pull(q):
        return c * np.abs(q) ** (c - 1) * np.sign(q)

    def equations(_, y):
        v = speed(y[1])
        return np.vstack([v, -game.impact * v + game.running_penalty * pull(y[0])])

    def ends(left, right):
        return np.array([left[0] - start, right[1] + game.terminal_penalty * pull(right[0])])

    grid = np.linspace(0, game.horizon, 201)
    guess = np.vstack([start * (1 - 0.9 * grid / game.horizon), np.full(201, -game.temporary_cost * start)])
    found = solve_bvp(equations, ends, grid, guess, tol=1e-8, max_nodes=100_000)
    assert found.success, found.message
    return found.sol(times)[0]


class TestOtherCosts:
    @pytest.mark.soak
    @pytest.mark.parametrize("impact", [0.0, 0.2])
    @pytest.mark.parametrize(("cost", "penalty"), [(1.5, 2.0), (3.0, 2.0), (2.0, 3.0), (2.0, 1.5), (1.6, 2.5)])
    def test_approach_the_boundary_value_problem_of_one_agent(self, impact, cost, penalty):
        start = InventoryDensity.gaussian(2.0, 0.01)
        game = TradeCrowding(impact, 0.1, 0.2, 0.5, 3.0, start, cost_power=cost, penalty_power=penalty)
        errors = []
        for n in (51, 201):
            solution = solve(game, n, n)
            assert solution.residuals[-1] <= 1e-10
            exact = representative_agent(game, solution.times)
            errors.append(np.abs(solution.mean_inventory - exact).max() / 2.0)
            assert errors[-1] <= solution.grid_error
            assert not solution.converged  # a percent of error is not a thousandth
        assert errors[1] < 0.8 * errors[0]
        assert errors[1] < 0.05

    def test_any_initial_density_is_allowed(self):
        start = InventoryDensity(np.array([-1.0, 0.0, 4.0, 5.0, 9.0]), np.array([0.0, 1.0, 0.0, 2.0, 0.0]))
        solution = solve(TradeCrowding(0.4, 0.1, 0.2, 2.5, 5.0, start), 201, 201)
        assert solution.mean_inventory[0] == pytest.approx(start.mean, abs=1e-12)
        assert error_of(solution) <= 1e-3


class TestArguments:
    @pytest.mark.parametrize(
        "change",
        [
            {"impact": -0.1},
            {"running_penalty": math.nan},
            {"temporary_cost": 0.0},
            {"terminal_penalty": math.inf},
            {"horizon": -1.0},
            {"volatility": -1.0},
            {"cost_power": 1.0},
            {"penalty_power": 0.5},
            {"initial_inventory": 0.0},
        ],
    )
    def test_a_parameter_outside_its_domain_is_named(self, change):
        values = {
            "impact": 0.4,
            "running_penalty": 0.1,
            "temporary_cost": 0.2,
            "terminal_penalty": 2.5,
            "horizon": 5.0,
            "initial_inventory": 10.0,
        }
        with pytest.raises(BadRequestError, match=next(iter(change))):
            TradeCrowding(**(values | change))

    @pytest.mark.parametrize("nodes", [(100, 101), (101, 9)])
    def test_an_unsuitable_grid_is_refused(self, nodes):
        with pytest.raises(BadRequestError, match=r"odd number|n_time = 9"):
            solve(REFERENCE, *nodes)

    @pytest.mark.parametrize("limits", [(20.0, -10.0), (9.0, 11.0), (0.0, math.nan), (-1.0,), 5.0, (-math.inf, 20.0)])
    def test_a_range_that_is_none_or_leaves_out_zero_is_refused(self, limits):
        with pytest.raises(BadRequestError, match="inventory_range"):
            solve(REFERENCE, 51, 51, inventory_range=limits)

    @pytest.mark.parametrize(
        "change",
        [
            {"max_iterations": -3},
            {"max_iterations": 0},
            {"max_iterations": 2.5},
            {"method": "picard"},
            {"tolerance": math.nan},
            {"tolerance": 0.0},
            {"n_time": 100_001},
            {"n_inventory": 101.0},
        ],
    )
    def test_a_setting_out_of_its_domain_is_named(self, change):
        with pytest.raises(BadRequestError, match=r"max_iterations|picard|tolerance|nodes|n_inventory"):
            solve(REFERENCE, **change)

    def test_a_range_without_the_agents_is_refused(self):
        with pytest.raises(BadRequestError, match="Widen"):
            solve(REFERENCE, 51, 51, inventory_range=(0.0, 5.0))

    def test_a_density_must_be_one(self):
        with pytest.raises(BadRequestError, match="increasing"):
            InventoryDensity(np.array([0.0, 1.0]), np.array([1.0, -1.0]))
        with pytest.raises(DataError, match=r"density\[1\]"):
            InventoryDensity(np.array([0.0, 1.0]), np.array([1.0, math.nan]))


START = datetime(2024, 1, 2, tzinfo=UTC)


def simulated_trades(*, n=6000, lam=0.002, half_spread=0.01, persistence=0.6, seed=1):
    """Trades once a second whose signs persist, that move the mid by lam per unit and print half a spread off it."""
    rng = np.random.default_rng(seed)
    keep = rng.random(n) < persistence
    sign = np.where(rng.random(n) < 0.5, 1.0, -1.0)
    for i in range(1, n):
        sign[i] = sign[i - 1] if keep[i] else sign[i]
    amount = rng.exponential(1.0, n)
    mid = 100 + np.cumsum(lam * sign * amount + 0.002 * rng.standard_normal(n))
    return pl.DataFrame(
        {
            "ts": [START + timedelta(seconds=i) for i in range(n)],
            "symbol": "AAA-BBB",
            "price": mid + half_spread * sign,
            "amount": amount,
            "side": np.where(sign > 0, "buy", "sell"),
        },
        schema_overrides={"ts": pl.Datetime("us", "UTC")},
    )


def bars_of(trades, *, every="1m"):
    signed = pl.col("amount").filter(pl.col("side") == "buy").sum()
    return trades.group_by_dynamic("ts", every=every).agg(
        pl.col("price").last().alias("close"),
        pl.col("price").max().alias("high"),
        pl.col("price").min().alias("low"),
        pl.col("amount").sum().alias("volume"),
        signed.alias("buy_volume"),
    )


class TestCalibration:
    def test_finds_the_impact_and_spread_that_made_the_trades(self):
        found = calibrate_crowding(simulated_trades())
        assert found.kyle_lambda == pytest.approx(0.002, rel=0.15)
        assert found.half_spread == pytest.approx(0.01, rel=0.15)
        assert found.volume_per_minute == pytest.approx(60, rel=0.1)
        assert found.signed_by == "taker_side"

    def test_the_tick_rule_stands_in_for_missing_sides(self):
        found = calibrate_crowding(simulated_trades().drop("side"))
        assert found.signed_by == "tick_rule"
        assert found.kyle_lambda == pytest.approx(0.002, rel=0.4)

    def test_bars_with_taker_volume_give_the_same_impact(self):
        found = calibrate_crowding(bars_of(simulated_trades()))
        assert found.signed_by == "buy_volume"
        assert found.kyle_lambda == pytest.approx(0.002, rel=0.2)

    def test_bars_without_taker_volume_say_that_signs_come_from_prices(self):
        assert calibrate_crowding(bars_of(simulated_trades()).drop("buy_volume")).signed_by == "bulk"

    def test_an_absent_minute_is_not_a_zero_return(self):
        bars = bars_of(simulated_trades())
        holed = bars.filter(~pl.col("ts").is_in(bars["ts"][40:45].implode()))
        assert calibrate_crowding(holed).bins == bars.height - 1 - 5 - 1

    @pytest.mark.parametrize(
        ("frame", "error", "match"),
        [
            (simulated_trades().drop("amount"), BadRequestError, "columns"),
            (simulated_trades().head(100), DataError, "intervals"),
            (simulated_trades().head(20), DataError, "rows"),
            (simulated_trades().with_columns(amount=pl.lit(0.0)), DataError, "amount"),
            (simulated_trades().reverse(), BadRequestError, "order"),
            (bars_of(simulated_trades(), every="10m"), DataError, "rows"),
            (
                pl.concat([simulated_trades(), simulated_trades().with_columns(symbol=pl.lit("B"))]),
                BadRequestError,
                "2",
            ),
            (simulated_trades().with_columns(price=pl.lit(math.nan)), DataError, "price"),
        ],
    )
    def test_unsuitable_data_are_refused(self, frame, error, match):
        with pytest.raises(error, match=match):
            calibrate_crowding(frame)


@pytest.fixture(scope="module")
def forecast():
    return predict_price(simulated_trades(), horizon_minutes=5, n_agents=500, seed=3)


class TestPriceForecast:
    def test_starts_at_the_last_price_and_lies_in_its_band(self, forecast):
        assert forecast.expected[0] == forecast.calibration.last_price
        assert forecast.minutes[-1] == 5.0
        assert np.all(forecast.lower[1:] < forecast.expected[1:])
        assert np.all(forecast.expected[1:] < forecast.upper[1:])

    def test_the_same_seed_gives_the_same_bits(self, forecast):
        again = predict_price(simulated_trades(), horizon_minutes=5, n_agents=500, seed=3)
        assert np.array_equal(again.lower, forecast.lower)

    def test_the_expected_flow_is_what_the_regression_predicts(self, forecast):
        found = forecast.calibration
        trust = found.flow_t**2 / (1 + found.flow_t**2)
        start = forecast.game.mean_initial_inventory * 500
        assert start == pytest.approx(-trust * found.flow_persistence * found.last_flow, rel=1e-6)

    def test_the_path_is_the_closed_form_of_its_game(self, forecast):
        exact = closed_form(forecast.game, forecast.minutes)
        assert np.array_equal(forecast.expected, forecast.calibration.last_price + exact.price_path)
        assert np.array_equal(forecast.mean_inventory, exact.mean_inventory)

    def test_the_sampling_error_is_that_of_agents_moved_by_the_grids_strategy(self, forecast):
        solution, game = forecast.solution, forecast.game
        paths = np.repeat(np.random.default_rng(0).normal(game.density.mean, game.density.std, 4000)[None], 401, axis=0)
        for k, step in enumerate(np.diff(solution.times)):
            slow, fast = (np.interp(paths[k], solution.inventories, solution.trading_rate[k + i]) for i in (0, 1))
            paths[k + 1] = paths[k] + step * (slow + fast) / 2
        simulated = game.impact * (paths[-1] - paths[0]).std() / math.sqrt(500)
        assert forecast.agents_std[-1] == pytest.approx(simulated, rel=0.1)

    @pytest.mark.parametrize("seed", range(4))
    def test_where_flow_balances_no_move_is_forecast(self, seed):
        """Every buy is followed by a sale of the same size: the last horizon's flow is nothing, or one trade."""
        trades = simulated_trades(seed=seed, persistence=0.0)
        amount = np.repeat(trades["amount"].to_numpy()[::2], 2)
        side = np.resize(["buy", "sell"], trades.height)
        quiet = predict_price(trades.with_columns(amount=pl.Series(amount), side=pl.Series(side)))
        assert np.abs(quiet.expected / quiet.expected[0] - 1).max() <= 1e-5
        assert np.all(quiet.lower[1:] < quiet.expected[1:])

    def test_where_the_price_stands_still_it_is_forecast_to(self):
        still = predict_price(simulated_trades().with_columns(price=pl.lit(100.0)))
        assert np.all(still.expected == 100.0)
        assert still.calibration.spread_from == "none"
        assert still.calibration.kyle_lambda == 0.0

    def test_the_equilibrium_behind_it_is_sound(self, forecast):
        assert forecast.solution.converged
        assert forecast.solution.hjb_residual <= 1e-8
        assert forecast.solution.mass_error <= 1e-12
        assert forecast.closed_form_error <= 1e-3

    def test_the_sampling_error_is_that_of_the_flow_however_many_agents_share_it(self):
        few, many = (predict_price(simulated_trades(), n_agents=n, n_time=51) for n in (100, 10_000))
        assert few.agents_std[-1] == pytest.approx(many.agents_std[-1], rel=0.2)

    @pytest.mark.soak
    def test_bars_of_liquid_markets_give_resolved_forecasts(self, recordings):
        bars = pl.read_parquet(recordings / f"{PERP}/perp_1m.parquet").rename({"date": "ts"})
        for symbol in ("BTCUSDT", "SUIUSDT", "XMRUSDT"):
            forecast = predict_price(bars.filter(pl.col("symbol") == symbol).tail(1440))
            assert forecast.closed_form_error <= forecast.solution.grid_error

    def test_every_window_of_recorded_bars_is_forecast(self, recordings):
        bars = pl.read_parquet(recordings / f"{PERP}/perp_1m.parquet").rename({"date": "ts"})
        rng = np.random.default_rng(0)
        for symbol in sorted(bars["symbol"].unique()):
            series = bars.filter(pl.col("symbol") == symbol)
            for begin in rng.integers(0, series.height - 120, 25).tolist():
                forecast = predict_price(series.slice(begin, 120))
                assert np.isfinite(forecast.expected).all()

    def test_recorded_trades_give_a_forecast_within_sense(self, recordings):
        trades = pl.read_parquet(recordings / f"{XRP}/XRP_ETH-trades.parquet").with_columns(
            pl.from_epoch("timestamp", "ms").cast(pl.Datetime("us")).dt.replace_time_zone("UTC").alias("ts")
        )
        forecast = predict_price(trades, horizon_minutes=5)
        assert forecast.calibration.kyle_t > 3  # buying moves the price up
        assert 0 < forecast.calibration.half_spread / forecast.calibration.last_price < 1e-3
        move = np.abs(forecast.expected / forecast.calibration.last_price - 1).max()
        assert move < 0.01


@pytest.mark.soak
class TestLongStudies:
    @pytest.mark.parametrize("name", LINEAR_QUADRATIC)
    def test_refinement_goes_on_to_401_nodes(self, name):
        errors = [error_of(solve(game_of(name), n, n)) for n in (101, 201, 401)]
        assert errors[2] < errors[1] < max(errors[0], 1e-3)
        assert errors[2] <= 5e-4
