"""Portfolios: against published frontiers, closed forms, another library, and their own optimality conditions."""

from __future__ import annotations

import itertools
import math
import warnings
from datetime import date, timedelta

import numpy as np
import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hfthot_platform.core.errors import BadRequestError, DataError, InfeasibleError, NotConvergedError
from hfthot_platform.domain.models.portfolio import (
    Constraints,
    Group,
    MeanVariance,
    align_returns,
    cara,
    estimate_moments,
    risk_parity,
    sparse,
)


def random_moments(n, seed=0, factors=3):
    """Return daily-like moments of a factor model: volatilities of a few percent, means far smaller."""
    rng = np.random.default_rng(seed)
    loadings = rng.normal(0.01, 0.005, (n, factors))
    cov = loadings @ loadings.T + np.diag(rng.uniform(0.005, 0.02, n) ** 2)
    return rng.normal(4e-4, 4e-4, n), cov


@pytest.fixture(scope="module")
def stocks():
    """Daily returns of the 20 stocks that ship with skfolio, 2,000 days."""
    from skfolio.datasets import load_sp500_dataset

    return load_sp500_dataset().pct_change().dropna().iloc[-2000:]


@pytest.fixture(scope="module")
def many_stocks(recordings):
    """Moments of 471 stocks."""
    frame = pl.read_parquet(recordings / "equities/sp500_stocks_2015_2020/sp500_stocks_adjclose_471.parquet")
    prices = frame.drop("Date").to_numpy()
    returns = prices[1:] / prices[:-1] - 1
    return returns.mean(axis=0), estimate_moments(returns, mean="zero").covariance


def orlib(shared_data, number):
    """Return mu, covariance and the published frontier (2000, 2) of return and variance."""
    folder = shared_data / "reference/orlib_portfolio"
    words = (folder / f"port{number}.txt").read_text().split()
    n = int(words[0])
    mean, std = np.array(words[1 : 1 + 2 * n], dtype=float).reshape(n, 2).T
    entries = np.array(words[1 + 2 * n :], dtype=float).reshape(-1, 3)
    i, j = entries[:, :2].astype(int).T - 1
    correlation = np.empty((n, n))
    correlation[i, j] = correlation[j, i] = entries[:, 2]
    return mean, correlation * np.outer(std, std), np.loadtxt(folder / f"portef{number}.txt")


def frontier_error(mean, cov, points):
    problem = MeanVariance(cov)
    found = [problem.minimum_variance(mean, target) for target, _ in points]
    assert max(allocation.kkt_residual for allocation in found) <= 1e-8
    return max(
        abs(allocation.volatility**2 / variance - 1) for allocation, (_, variance) in zip(found, points, strict=True)
    )


class TestFrontiers:
    @pytest.mark.parametrize("number", [1, 2])
    def test_the_published_frontier_is_met(self, shared_data, number):
        mean, cov, points = orlib(shared_data, number)
        assert frontier_error(mean, cov, points[::200]) <= 1e-5

    @pytest.mark.soak
    @pytest.mark.parametrize("number", [1, 2])
    def test_every_published_point_is_met(self, shared_data, number):
        assert frontier_error(*orlib(shared_data, number)) <= 1e-5

    @pytest.mark.parametrize("gamma", [2.0, 20.0, 200.0])
    def test_a_cara_portfolio_lies_on_the_frontier(self, gamma):
        mu, cov = random_moments(12)
        chosen = cara(mu, cov, gamma)
        cheapest = MeanVariance(cov).minimum_variance(mu, chosen.expected_return)
        assert chosen.volatility == pytest.approx(cheapest.volatility, rel=1e-7)


class TestCara:
    def test_without_bounds_it_is_the_closed_form(self):
        mu, cov = random_moments(10)
        free = Constraints(lower=-math.inf, upper=math.inf)
        found = cara(mu, cov, 5.0, constraints=free)
        inverse = np.linalg.inv(cov)
        shift = (inverse.sum(axis=0) @ mu - 5.0) / inverse.sum()
        assert found.weights == pytest.approx(inverse @ (mu - shift) / 5.0, abs=1e-6)

    @pytest.mark.parametrize("gamma", [2.0, 10.0, 50.0])
    def test_agrees_with_skfolio(self, stocks, gamma):
        mean, covariance = skfolios_moments(stocks)
        theirs = skfolio_mean_risk(stocks, utility=True, risk_aversion=gamma / 2)
        ours = cara(mean, covariance, gamma)
        assert ours.weights == pytest.approx(theirs, abs=1e-4)

    def test_the_minimum_of_variance_agrees_with_skfolio(self, stocks):
        mean, covariance = skfolios_moments(stocks)
        ours = MeanVariance(covariance).minimum_variance(mean)
        assert ours.weights == pytest.approx(skfolio_mean_risk(stocks, utility=False), abs=1e-4)

    def test_describes_itself(self):
        mu, cov = random_moments(4)
        held = np.full(4, 0.25)
        found = MeanVariance(cov, cost=0.001, symbols=list("ABCD")).cara(mu, 2.0, previous=held)
        w = found.weights
        assert found.symbols == ("A", "B", "C", "D")
        assert found.expected_return == pytest.approx(mu @ w)
        assert found.volatility == pytest.approx(math.sqrt(w @ cov @ w))
        assert found.risk_contributions.sum() == pytest.approx(1.0)
        assert found.turnover == pytest.approx(np.abs(w - 0.25).sum())
        assert found.cost == pytest.approx(0.001 * found.turnover)
        assert found.status == "optimal"

    def test_a_resolve_equals_a_fresh_solve(self):
        mu, cov = random_moments(15)
        other = random_moments(15, seed=1)[0]
        problem = MeanVariance(cov)
        problem.cara(mu, 3.0)
        assert problem.cara(other, 3.0).weights == pytest.approx(cara(other, cov, 3.0).weights, abs=1e-9)

    def test_a_higher_cost_trades_less(self):
        mu, cov = random_moments(12)
        held = np.full(12, 1 / 12)
        traded = [cara(mu, cov, 2.0, previous=held, cost=cost).turnover for cost in (0.0, 1e-4, 3e-4, 1e-2)]
        assert traded == sorted(traded, reverse=True)
        assert traded[-1] <= 1e-6

    @given(
        seed=st.integers(0, 10_000),
        gamma=st.floats(1, 100),
        cap=st.floats(0.3, 1.0),
        leverage=st.none() | st.floats(1.0, 2.0),
        turnover=st.none() | st.floats(0.2, 2.0),
        cost=st.just(0.0) | st.floats(1e-5, 1e-3),
        group=st.none() | st.floats(0.4, 0.9),  # equal weights, held before, satisfy every constraint
    )
    @settings(max_examples=25, deadline=None)
    def test_constraints_hold_and_so_do_the_optimality_conditions(
        self, seed, gamma, cap, leverage, turnover, cost, group
    ):
        mu, cov = random_moments(8, seed)
        held = np.full(8, 1 / 8)
        groups = () if group is None else (Group(members=(0, 1, 2), lower=0.1, upper=group),)
        rules = Constraints(-0.3, cap, leverage=leverage, turnover=turnover, groups=groups)
        found = cara(mu, cov, gamma, constraints=rules, previous=held, cost=cost)
        w = found.weights
        assert found.kkt_residual <= 1e-7
        assert w.sum() == pytest.approx(1.0, abs=1e-8)
        assert w.min() >= -0.3
        assert w.max() <= cap
        assert leverage is None or np.abs(w).sum() <= leverage + 1e-8
        assert turnover is None or found.turnover <= turnover + 1e-8
        assert group is None or 0.1 - 1e-8 <= w[:3].sum() <= group + 1e-8

    def test_no_feasible_neighbour_is_better(self):
        """Optimality without any multiplier: random feasible moves do not raise the utility."""
        mu, cov = random_moments(8)
        held = np.full(8, 1 / 8)
        rules = Constraints(-0.2, 0.4, leverage=1.4, turnover=0.8, groups=(Group((0, 1), 0.1, 0.5),))
        w = cara(mu, cov, 4.0, constraints=rules, previous=held, cost=2e-4).weights

        def utility(x):
            return mu @ x - 2.0 * x @ cov @ x - 2e-4 * np.abs(x - held).sum()

        rng = np.random.default_rng(0)
        best, tried = -math.inf, 0
        for size in 10.0 ** rng.uniform(-5, -1, 20_000):
            step = rng.normal(size=8) * size
            other = w + step - step.mean()
            allowed = other.min() >= -0.2 and other.max() <= 0.4 and np.abs(other).sum() <= 1.4
            allowed = allowed and np.abs(other - held).sum() <= 0.8 and 0.1 <= other[:2].sum() <= 0.5
            if allowed:
                tried += 1
                best = max(best, utility(other))
        assert tried > 100
        assert best <= utility(w) + 1e-10


def skfolios_moments(returns):
    """Return the moments that skfolio uses below: sample means, covariances shrunk to a multiple of the identity."""
    from sklearn.covariance import ledoit_wolf

    return returns.to_numpy().mean(axis=0), ledoit_wolf(returns.to_numpy())[0]


def skfolio_mean_risk(returns, *, utility, **arguments):
    from skfolio import RiskMeasure
    from skfolio.moments import LedoitWolf
    from skfolio.optimization import MeanRisk, ObjectiveFunction
    from skfolio.prior import EmpiricalPrior

    goal = ObjectiveFunction.MAXIMIZE_UTILITY if utility else ObjectiveFunction.MINIMIZE_RISK
    model = MeanRisk(
        objective_function=goal,
        risk_measure=RiskMeasure.VARIANCE,
        prior_estimator=EmpiricalPrior(covariance_estimator=LedoitWolf()),
        # Its default tolerances leave 2e-4 in the minimum-variance weights.
        solver_params={"tol_gap_abs": 1e-13, "tol_gap_rel": 1e-13, "tol_feas": 1e-12},
        **arguments,
    )
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return model.fit(returns).weights_


class TestInfeasible:
    @pytest.mark.parametrize(
        ("rules", "match"),
        [
            (Constraints(upper=0.1), "budget"),
            (Constraints(lower=0.3), "budget"),
            (Constraints(lower=0.5, upper=0.2), "upper"),
            (Constraints(leverage=0.5), "leverage"),
            (Constraints(groups=(Group((0, 1), lower=1.5),)), "no weights"),
            (Constraints(turnover=0.1), "no weights"),
        ],
    )
    def test_contradictions_say_which(self, rules, match):
        mu, cov = random_moments(5)
        with pytest.raises(InfeasibleError, match=match):
            cara(mu, cov, constraints=rules)

    def test_a_return_out_of_reach_is_infeasible(self):
        mu, cov = random_moments(5)
        with pytest.raises(InfeasibleError, match="target"):
            MeanVariance(cov).minimum_variance(mu, 2 * mu.max())

    def test_a_riskless_free_lunch_is_unbounded(self):
        cov = np.array([[1.0, 1.0], [1.0, 1.0]]) * 1e-4
        with pytest.raises(InfeasibleError, match="unbounded"):
            cara([1e-3, 2e-3], cov, constraints=Constraints(-math.inf, math.inf))


class TestRiskParity:
    @given(n=st.integers(1, 40), seed=st.integers(0, 10_000))
    @settings(max_examples=40, deadline=None)
    def test_contributions_are_equal(self, n, seed):
        found = risk_parity(random_moments(n, seed)[1])
        assert np.abs(found.risk_contributions - 1 / n).max() <= 1e-8
        assert found.weights.min() > 0
        assert found.weights.sum() == pytest.approx(1.0)

    @pytest.mark.soak
    def test_contributions_are_equal_for_471_stocks(self, many_stocks):
        found = risk_parity(many_stocks[1])
        assert np.abs(found.risk_contributions - 1 / 471).max() <= 1e-8
        assert found.status == "optimal"

    @pytest.mark.parametrize("seed", range(5))
    @pytest.mark.parametrize("n", [30, 120, 300, 471])
    def test_contributions_are_equal_where_signs_are_mixed(self, n, seed):
        """Factors without a common sign, as in a book of long and short positions: coordinate descent alone fails."""
        rng = np.random.default_rng(seed)
        factors = rng.standard_normal((n, 12)) * 0.01
        found = risk_parity(factors @ factors.T + np.diag(rng.uniform(1e-4, 6e-4, n)))
        assert np.abs(found.risk_contributions - 1 / n).max() <= 1e-10

    @pytest.mark.soak
    @pytest.mark.parametrize("n", [300, 400, 471])
    def test_contributions_are_equal_for_stocks_held_long_and_short(self, many_stocks, n):
        sides = np.where(np.random.default_rng(n).random(n) < 0.5, 1.0, -1.0)
        found = risk_parity(many_stocks[1][:n, :n] * np.outer(sides, sides))
        assert np.abs(found.risk_contributions - 1 / n).max() <= 1e-10

    @pytest.mark.parametrize("digits", range(2, 16))
    def test_an_ill_conditioned_covariance_is_solved(self, digits):
        """Eigenvalues from 1 to 10^-digits in random directions; from eleven digits on rounding decides how well."""
        rng = np.random.default_rng(digits)
        directions = np.linalg.qr(rng.standard_normal((40, 40)))[0]
        cov = (directions * np.logspace(0, -digits, 40)) @ directions.T
        found = risk_parity((cov + cov.T) / 2)
        assert np.abs(found.risk_contributions - 1 / 40).max() <= (1e-10 if digits <= 10 else 1e-7)
        assert found.status == "optimal"

    def test_a_hedge_of_hardly_any_risk_is_told_to_be_beyond_double_precision(self):
        rng = np.random.default_rng(0)
        directions = np.linalg.qr(np.column_stack([rng.uniform(0.5, 2, 40), rng.standard_normal((40, 39))]))[0]
        cov = (directions * np.r_[1e-12, np.ones(39)]) @ directions.T
        with pytest.raises(NotConvergedError, match="rounding alone"):
            risk_parity((cov + cov.T) / 2)
        loose = risk_parity((cov + cov.T) / 2, tolerance=1e-3)
        assert np.abs(loose.risk_contributions - 1 / 40).max() <= 2e-3
        assert loose.status == "approximate"

    def test_the_weights_are_those_of_higher_precision(self):
        """Newton's method in fifty digits on the same problem."""
        import mpmath as mp

        rng = np.random.default_rng(4)
        n = 12
        factors = rng.standard_normal((n, 4))
        cov = factors @ factors.T + 1e-4 * np.eye(n)
        with mp.workdps(50):
            S = mp.matrix(cov.tolist())
            y = mp.matrix((risk_parity(cov).weights / math.sqrt(1e-4)).tolist())
            for _ in range(80):
                gradient = S * y - mp.matrix([mp.mpf(1) / n / weight for weight in y])
                hessian = S + mp.diag([mp.mpf(1) / n / weight**2 for weight in y])
                step = mp.lu_solve(hessian, gradient)
                decrement = mp.sqrt((gradient.T * step)[0] * n)
                y -= step / (1 + decrement) if decrement > 0.2 else step
            total = sum(y)
            exact = np.array([float(weight / total) for weight in y])
        assert risk_parity(cov).weights == pytest.approx(exact, rel=1e-7)

    def test_budgets_of_very_different_size_are_met(self):
        budgets = np.random.default_rng(3).dirichlet(np.full(60, 0.05)) + 1e-12
        budgets /= budgets.sum()
        found = risk_parity(random_moments(60, factors=8)[1] * np.outer(*[np.resize([1.0, -1.0], 60)] * 2), budgets)
        assert np.abs(found.risk_contributions - budgets).max() <= 1e-10

    @pytest.mark.soak
    def test_contributions_are_equal_for_3000_assets(self):
        rng = np.random.default_rng(1)
        factors = rng.standard_normal((3000, 12)) * 0.01
        found = risk_parity(factors @ factors.T + np.diag(rng.uniform(1e-4, 6e-4, 3000)))
        assert np.abs(found.risk_contributions - 1 / 3000).max() <= 1e-10

    @given(n=st.integers(2, 30), seed=st.integers(0, 10_000), spread=st.floats(0, 4), noise=st.floats(-6, 0))
    @settings(max_examples=60, deadline=None)
    def test_any_positive_definite_covariance_is_solved(self, n, seed, spread, noise):
        rng = np.random.default_rng(seed)
        scale = 10 ** rng.uniform(-spread, spread, n)
        factors = rng.standard_normal((n, max(1, n // 3)))
        cov = (factors @ factors.T + 10**noise * np.eye(n)) * np.outer(scale, scale)
        assert np.abs(risk_parity(cov).risk_contributions - 1 / n).max() <= 1e-8

    def test_a_diagonal_covariance_gives_inverse_volatility(self):
        std = np.array([0.01, 0.02, 0.05, 0.3])
        assert risk_parity(np.diag(std**2)).weights == pytest.approx(1 / std / (1 / std).sum(), rel=4e-16, abs=0)

    @given(correlation=st.floats(-0.95, 0.95))
    @settings(max_examples=20, deadline=None)
    def test_two_assets_are_inverse_volatility_at_any_correlation(self, correlation):
        cov = np.array([[0.04, 0.02 * correlation], [0.02 * correlation, 0.01]])
        assert risk_parity(cov).weights == pytest.approx([1 / 3, 2 / 3], abs=1e-9)

    def test_contributions_follow_the_budgets(self):
        budgets = np.array([1.0, 2.0, 3.0, 4.0])
        found = risk_parity(random_moments(4)[1], budgets)
        assert found.risk_contributions == pytest.approx(budgets / 10, abs=1e-9)

    def test_the_unit_of_returns_does_not_matter(self):
        cov = random_moments(10)[1]
        assert risk_parity(cov * 1e4).weights == pytest.approx(risk_parity(cov).weights, abs=1e-12)

    def test_agrees_with_skfolio(self, stocks):
        from skfolio import RiskMeasure
        from skfolio.moments import LedoitWolf
        from skfolio.optimization import RiskBudgeting
        from skfolio.prior import EmpiricalPrior

        prior = EmpiricalPrior(covariance_estimator=LedoitWolf())
        theirs = RiskBudgeting(risk_measure=RiskMeasure.VARIANCE, prior_estimator=prior).fit(stocks).weights_
        ours = risk_parity(skfolios_moments(stocks)[1])
        assert ours.weights == pytest.approx(theirs, abs=1e-4)

    def test_a_budget_of_zero_is_refused(self):
        with pytest.raises(BadRequestError, match="budget"):
            risk_parity(np.eye(2), [0.0, 1.0])

    def test_a_perfect_hedge_has_no_solution_and_says_so(self):
        cov = np.array([[1.0, -1.0], [-1.0, 1.0]])
        with pytest.raises(NotConvergedError, match="conditioned"):
            risk_parity(cov)


class TestSparse:
    @pytest.mark.soak
    @given(n=st.integers(2, 40), seed=st.integers(0, 10_000), rho=st.floats(0, 0.95))
    @settings(max_examples=40, deadline=None)
    def test_the_subgradient_conditions_hold(self, n, seed, rho):
        mu, cov = random_moments(n, seed)
        found = sparse(mu, cov, rho)
        assert found.kkt_residual <= 1e-7
        assert np.abs(found.weights).sum() == pytest.approx(1.0)
        # The scaled weights solve the problem up to their scale k > 0: k S w - mu = -rho max|mu| sign(w) where w != 0.
        held = found.weights != 0
        penalty = rho * np.abs(mu).max()
        force = mu[held] - penalty * np.sign(found.weights[held])
        marginal = cov @ found.weights
        k = (force @ marginal[held]) / (marginal[held] @ marginal[held])
        assert np.abs(k * marginal[held] - force).max() <= 1e-7 * np.abs(mu).max()
        assert np.abs(k * marginal[~held] - mu[~held]).max(initial=0.0) <= penalty + 1e-7 * np.abs(mu).max()

    def test_a_diagonal_covariance_is_soft_thresholding(self):
        mu, std = np.array([4e-4, -3e-4, 1e-4, 0.0]), np.array([0.01, 0.02, 0.01, 0.03])
        expected = np.array([2e-4, -1e-4, 0.0, 0.0]) / std**2
        found = sparse(mu, np.diag(std**2), rho=0.5)
        assert found.weights == pytest.approx(expected / np.abs(expected).sum(), abs=1e-14)
        assert (found.weights != 0).tolist() == [True, True, False, False]

    def test_supports_are_nested_in_rho_for_uncorrelated_assets(self):
        mu, cov = random_moments(40)
        rhos = np.arange(0, 1, 0.05)
        supports = [set(np.flatnonzero(sparse(mu, np.diag(np.diag(cov)), rho).weights)) for rho in rhos]
        assert all(after <= before for before, after in itertools.pairwise(supports))

    @pytest.mark.soak
    def test_the_support_shrinks_with_rho_on_471_stocks(self, many_stocks):
        mu, cov = many_stocks
        sizes = [int((sparse(mu, cov, rho).weights != 0).sum()) for rho in np.arange(0.1, 1.0, 0.1)]
        assert sizes == sorted(sizes, reverse=True)
        assert sizes[0] > 50
        assert sizes[-1] == 1

    @pytest.mark.parametrize("rho", [0.05, 0.2, 0.5])
    def test_agrees_with_skfolio(self, stocks, rho):
        mean, covariance = skfolios_moments(stocks)
        penalty = rho * np.abs(mean).max()
        theirs = skfolio_mean_risk(
            stocks, utility=True, risk_aversion=0.5, budget=None, min_weights=None, max_weights=None, l1_coef=penalty
        )
        ours = sparse(mean, covariance, rho)
        assert ours.weights == pytest.approx(theirs / np.abs(theirs).sum(), abs=1e-4)

    def test_the_length_of_the_period_does_not_matter(self):
        mu, cov = random_moments(10)
        assert sparse(mu * 252, cov * 252, 0.2).weights == pytest.approx(sparse(mu, cov, 0.2).weights, abs=1e-12)

    def test_within_loose_constraints_it_is_the_free_solution(self):
        mu, cov = random_moments(12)
        loose = sparse(mu, cov, 0.3, constraints=Constraints(-100.0, 100.0, budget=None))
        free = sparse(mu, cov, 0.3)
        assert loose.weights / np.abs(loose.weights).sum() == pytest.approx(free.weights, abs=1e-7)
        assert ((loose.weights != 0) == (free.weights != 0)).all()

    def test_constraints_hold(self):
        mu, cov = random_moments(12)
        rules = Constraints(-0.3, 0.4, budget=None, leverage=1.2, turnover=1.0, groups=(Group((0, 1, 2), -0.1, 0.1),))
        found = sparse(mu, cov, 0.1, constraints=rules)
        assert found.kkt_residual <= 1e-7
        assert found.weights.min() >= -0.3
        assert np.abs(found.weights).sum() <= 1.0 + 1e-8
        assert abs(found.weights[:3].sum()) <= 0.1 + 1e-8

    def test_a_void_penalty_is_refused(self):
        """Weights >= 0 that sum to one all have the L1 norm 1."""
        mu, cov = random_moments(4)
        with pytest.raises(BadRequestError, match="penalty does nothing"):
            sparse(mu, cov, constraints=Constraints())

    def test_a_penalty_that_empties_the_portfolio_is_refused(self):
        with pytest.raises(BadRequestError, match="rho"):
            sparse([1e-3], [[1e-4]], rho=1.0)

    def test_a_riskless_combination_is_refused(self):
        hedged = np.array([[1.0, -1.0, 0.0], [-1.0, 1.0, 0.0], [0.0, 0.0, 1.0]])
        with pytest.raises(NotConvergedError, match="no risk"):
            sparse([1.0, 1.0, 0.5], hedged)

    def test_means_of_zero_are_refused(self):
        with pytest.raises(DataError, match="zero"):
            sparse([0.0, 0.0], np.eye(2))


class TestInputs:
    @pytest.mark.parametrize(
        ("cov", "match"),
        [
            ([[1.0, 2.0]], "square"),
            ([[1.0, math.nan], [math.nan, 1.0]], "finite"),
            ([[1.0, 0.5], [0.1, 1.0]], "symmetric"),
            ([[1.0, 0.0], [0.0, 0.0]], "variance"),
            ([[1.0, 2.0], [2.0, 1.0]], "eigenvalue"),
        ],
    )
    def test_what_is_no_covariance_is_named(self, cov, match):
        for method in (risk_parity, MeanVariance):
            with pytest.raises(DataError, match=match):
                method(np.array(cov))

    def test_shapes_must_fit(self):
        with pytest.raises(DataError, match="mu"):
            cara([1.0], np.eye(2))
        with pytest.raises(BadRequestError, match="symbols"):
            risk_parity(np.eye(2), symbols=["A"])
        with pytest.raises(BadRequestError, match="bounds"):
            cara([1.0, 2.0], np.eye(2), constraints=Constraints(lower=[0.0] * 3))
        with pytest.raises(BadRequestError, match="group"):
            cara([1.0, 2.0], np.eye(2), constraints=Constraints(groups=(Group((5,), 0, 1),)))

    def test_a_symbol_stands_once(self):
        with pytest.raises(BadRequestError, match="twice"):
            cara([1.0, 2.0], np.eye(2), symbols=["BTC-USDT", "BTC-USDT"])

    @pytest.mark.parametrize("bound", ["lower", "upper", "budget", "leverage", "turnover"])
    @pytest.mark.parametrize("value", [math.nan, "much", [0.1, math.nan]])
    def test_a_limit_that_is_no_number_is_refused_where_it_is_made(self, bound, value):
        with pytest.raises(BadRequestError, match=bound):
            Constraints(**{bound: value})

    @pytest.mark.parametrize("bound", ["lower", "upper"])
    def test_a_groups_limit_that_failed_to_load_is_refused(self, bound):
        with pytest.raises(BadRequestError, match="crypto"):
            Group([0], name="crypto", **{bound: math.nan})

    @pytest.mark.parametrize("members", [[], [0, 0], [0.5], [True, False], 3, [-1], ["A", 1], None])
    def test_a_group_is_made_of_positions_or_of_names(self, members):
        with pytest.raises(BadRequestError):
            Group(members)

    @pytest.mark.parametrize(
        "rule", [{"leverage": -1.0}, {"turnover": -0.1}, {"lower": math.inf}, {"upper": -math.inf}]
    )
    def test_a_limit_that_nothing_meets_is_refused(self, rule):
        with pytest.raises(BadRequestError):
            Constraints(**rule)

    def test_an_infinite_limit_is_none(self):
        mu, cov = random_moments(4)
        free = cara(mu, cov, constraints=Constraints(leverage=math.inf, turnover=math.inf))
        assert free.weights == pytest.approx(cara(mu, cov).weights, abs=1e-9)

    def test_a_group_may_name_its_members(self):
        mu, cov = random_moments(4)
        names = ["BTC-USDT", "ETH-USDT", "SPY", "AGG"]
        named = Constraints(groups=(Group(["BTC-USDT", "ETH-USDT"], upper=0.2, name="crypto"),))
        counted = Constraints(groups=(Group([0, 1], upper=0.2),))
        assert cara(mu, cov, constraints=named, symbols=names).weights == pytest.approx(
            cara(mu, cov, constraints=counted).weights, abs=1e-12
        )
        with pytest.raises(BadRequestError, match="symbols="):
            cara(mu, cov, constraints=named)
        with pytest.raises(BadRequestError, match="Did you mean 'BTC-USDT'"):
            cara(mu, cov, constraints=Constraints(groups=(Group(["BTC-USDC"]),)), symbols=names)

    def test_a_groups_reversed_bounds_are_infeasible(self):
        mu, cov = random_moments(4)
        with pytest.raises(InfeasibleError, match="crypto"):
            cara(mu, cov, constraints=Constraints(groups=(Group([0], 0.5, 0.2, "crypto"),)))

    def test_the_constraints_do_not_change_with_the_callers_array(self):
        upper = np.full(4, 0.3)
        rules = Constraints(upper=upper)
        upper[:] = 1.0
        assert cara(*random_moments(4), constraints=rules).weights.max() <= 0.3

    @pytest.mark.parametrize(
        ("name", "call"),
        [
            ("cost", lambda cov, value: risk_parity(cov, cost=value)),
            ("tolerance", lambda cov, value: risk_parity(cov, tolerance=value)),
            ("gamma", lambda cov, value: cara([1e-3] * 3, cov, value)),
            ("cost", lambda cov, value: MeanVariance(cov, cost=value)),
            ("target_return", lambda cov, value: MeanVariance(cov).minimum_variance([1e-3] * 3, value)),
            ("rho", lambda cov, value: sparse([1e-3, 0, 0], cov, value)),
        ],
    )
    @pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf, "1", [1.0, 2.0], True, 1j])
    def test_a_number_must_be_one(self, name, call, value):
        with pytest.raises(BadRequestError, match=name):
            call(np.eye(3) * 1e-4, value)

    def test_a_covariance_in_single_precision_is_one(self):
        cov = random_moments(6)[1]
        single = cov.astype(np.float32)
        single[0, 1] = np.nextafter(single[0, 1], np.float32(1))
        assert risk_parity(single).weights == pytest.approx(risk_parity(cov).weights, abs=1e-5)

    def test_gamma_must_be_positive(self):
        with pytest.raises(BadRequestError, match="gamma"):
            cara([1.0], [[1.0]], gamma=0.0)


class TestMoments:
    @pytest.mark.parametrize("method", ["ledoit_wolf", "sample", "ewma"])
    def test_volatilities_may_lie_far_apart(self, method):
        x = np.random.default_rng(3).standard_normal((60, 3))
        unit = np.array([1e-8, 1.0, 1e8])
        found = estimate_moments(x * unit, covariance=method)
        assert found.covariance == pytest.approx(
            estimate_moments(x, covariance=method).covariance * np.outer(unit, unit)
        )
        assert found.condition_number > 1e20
        weights = risk_parity(found.covariance).weights
        assert weights[0] / weights[1] == pytest.approx(1e8, rel=1.0)

    def test_the_default_covariance_is_scikit_learns_ledoit_wolf_of_the_standardised_returns(self, stocks):
        from sklearn.covariance import ledoit_wolf

        x = stocks.to_numpy()
        correlation, shrinkage = ledoit_wolf((x - x.mean(axis=0)) / x.std(axis=0))
        found = estimate_moments(x)
        assert found.covariance == pytest.approx(correlation * np.outer(x.std(axis=0), x.std(axis=0)))
        assert found.covariance_shrinkage == pytest.approx(shrinkage)

    @pytest.mark.parametrize("method", ["ledoit_wolf", "sample", "ewma"])
    def test_the_covariance_follows_the_unit_of_each_asset(self, stocks, method):
        x = stocks.to_numpy()
        unit = 10.0 ** np.linspace(-5, 2, 20)
        base = estimate_moments(x, covariance=method).covariance
        assert estimate_moments(x * unit, covariance=method).covariance == pytest.approx(
            base * np.outer(unit, unit), rel=1e-9
        )

    def test_an_asset_of_half_the_volatility_gets_twice_the_weight(self, stocks):
        x = stocks.to_numpy()
        calmer = x * np.where(np.arange(20) == 3, 0.5, 1.0)
        before, after = (risk_parity(estimate_moments(returns).covariance).weights for returns in (x, calmer))
        assert after[3] / after[0] == pytest.approx(2 * before[3] / before[0], rel=1e-7)

    def test_a_stablecoin_among_stocks_keeps_its_variance_in_a_repaired_covariance(self):
        x = np.random.default_rng(0).normal(0, 0.02, (30, 50))
        x[:, 7] *= 1e-5
        found = estimate_moments(x, covariance="sample")
        assert found.repaired
        assert found.covariance[7, 7] == pytest.approx(x[:, 7].var(ddof=1))

    def test_the_sample_moments_are_numpys(self, stocks):
        x = stocks.to_numpy()
        found = estimate_moments(x, covariance="sample", mean="sample")
        assert found.covariance == pytest.approx(np.cov(x.T))
        assert found.mean == pytest.approx(x.mean(axis=0))
        assert not found.repaired

    def test_exponential_weights_halve_at_the_half_life(self):
        x = np.random.default_rng(0).normal(0, 0.01, (300, 2))
        weights = 0.5 ** (np.arange(299, -1, -1) / 30)
        found = estimate_moments(x, covariance="ewma", mean="sample", halflife=30)
        assert found.covariance == pytest.approx(np.cov(x.T, aweights=weights, ddof=1), rel=1e-9)
        assert found.mean == pytest.approx(np.average(x, axis=0, weights=weights))

    def test_a_short_history_is_repaired_and_says_so(self):
        x = np.random.default_rng(0).normal(0, 0.01, (30, 50))
        found = estimate_moments(x, covariance="sample", mean="sample")
        assert found.repaired
        assert np.diag(found.covariance) == pytest.approx(x.var(axis=0, ddof=1))
        assert np.linalg.eigvalsh(found.covariance)[0] > 0

    def test_a_short_history_needs_no_repair_under_shrinkage(self):
        x = np.random.default_rng(0).normal(0, 0.01, (30, 50))
        found = estimate_moments(x)
        assert not found.repaired
        assert found.condition_number < 1e3

    def test_means_are_shrunk_to_that_of_the_minimum_variance_portfolio(self, stocks):
        x = stocks.to_numpy()
        found = estimate_moments(x)
        safest = MeanVariance(found.covariance, Constraints(-math.inf, math.inf)).minimum_variance(x.mean(axis=0))
        pull = found.mean_shrinkage
        assert 0 < pull < 1
        expected = (1 - pull) * x.mean(axis=0) + pull * safest.expected_return
        assert found.mean == pytest.approx(expected, abs=1e-9)

    @pytest.mark.parametrize(
        ("change", "match"),
        [
            (lambda x: x[:10], "shape"),
            (lambda x: np.where(np.arange(x.shape[1]) == 1, math.nan, x), "finite"),
            (lambda x: np.where(np.arange(x.shape[1]) == 2, 0.0, x), "column 2 is constant"),
        ],
    )
    def test_unsuitable_returns_are_refused(self, change, match):
        x = np.random.default_rng(0).normal(0, 0.01, (50, 4))
        with pytest.raises(DataError, match=match):
            estimate_moments(change(x))


def closes(prices, start=date(2024, 1, 1)):
    rows = [
        {"date": start + timedelta(days=k), "symbol": name, "close": price}
        for name, series in prices.items()
        for k, price in enumerate(series)
        if price is not None
    ]
    return pl.DataFrame(rows)


class TestAlignment:
    def test_returns_are_simple_and_in_the_order_of_the_symbols(self):
        found = align_returns(closes({"B": [10.0, 11.0, 9.9], "A": [1.0, 2.0, 1.0]}))
        assert found.symbols == ("A", "B")
        assert found.returns == pytest.approx(np.array([[1.0, 0.1], [-0.5, -0.1]]))
        assert found.dates == (date(2024, 1, 2), date(2024, 1, 3))

    def test_a_symbol_with_gaps_is_dropped_with_the_reason(self):
        found = align_returns(closes({"A": [1.0, 2.0, 3.0, 4.0], "B": [1.0, None, None, 2.0]}), min_coverage=0.9)
        assert found.symbols == ("A",)
        assert "50.0%" in found.dropped["B"]

    def test_a_day_that_is_missing_somewhere_is_left_out_not_filled(self):
        found = align_returns(closes({"A": [1.0, 2.0, 3.0], "B": [1.0, None, 2.0]}), min_coverage=0.5)
        assert found.returns == pytest.approx(np.array([[2.0, 1.0]]))

    @pytest.mark.parametrize(
        ("frame", "error", "match"),
        [
            (closes({"A": [1.0, 2.0]}).drop("close"), BadRequestError, "columns"),
            (pl.concat([closes({"A": [1.0, 2.0]})] * 2), BadRequestError, "two closes"),
            (closes({"A": [1.0, -2.0]}), DataError, "positive"),
            (closes({"A": [1.0]}), DataError, "common days"),
        ],
    )
    def test_unsuitable_closes_are_refused(self, frame, error, match):
        with pytest.raises(error, match=match):
            align_returns(frame)
