"""Speed of the portfolio methods beside skfolio and, where it is installed, Riskfolio-Lib.

Run with `python benchmarks/bench_portfolio.py [closes.parquet]`: a wide file with a `Date` column and one column of
adjusted closes per symbol.  Without one, returns of 471 stocks are simulated from a three-factor model.

skfolio and Riskfolio-Lib estimate moments and build their problem at each fit.  The time of the moments alone is
measured and taken off skfolio's; ours is a re-solve with a new mu on a problem set up once, and a first solve.
"""

from __future__ import annotations

import importlib.util
import sys
import time
import warnings

import numpy as np
import pandas as pd
import polars as pl
from skfolio import RiskMeasure
from skfolio.moments import LedoitWolf
from skfolio.optimization import MeanRisk, ObjectiveFunction, RiskBudgeting
from skfolio.prior import EmpiricalPrior
from sklearn.covariance import ledoit_wolf

from hfthot_platform.domain.models.portfolio import Constraints, MeanVariance, risk_parity, sparse


def best_ms(work, repeats=5):
    """Return the shortest wall time and the shortest CPU time of several runs; on a busy machine they differ."""
    work()
    wall, cpu = [], []
    for _ in range(repeats):
        started, used = time.perf_counter(), time.process_time()
        work()
        wall.append(time.perf_counter() - started)
        cpu.append(time.process_time() - used)
    return np.array([1e3 * min(wall), 1e3 * min(cpu)])


def returns_of(path):
    if path:
        frame = pl.read_parquet(path)
        prices = frame.drop("Date").to_numpy()
        return prices[1:] / prices[:-1] - 1
    rng = np.random.default_rng(0)
    loadings = rng.normal(0.01, 0.004, (471, 3))
    noise = rng.normal(0, 0.012, (1439, 471))
    return 4e-4 + rng.normal(size=(1439, 3)) @ loadings.T + noise


def line(name, ours, theirs, remark=""):
    beside = f"{theirs[0]:>9.1f} {theirs[1]:>8.1f} {theirs[1] / ours[1]:>7.1f} x" if theirs is not None else f"{'':>28}"
    print(f"{name:<44} {ours[0]:>9.1f} {ours[1]:>8.1f} {beside}  {remark}")


def main():
    warnings.simplefilter("ignore")
    returns = returns_of(sys.argv[1] if len(sys.argv) > 1 else None)
    t, n = returns.shape
    frame = pd.DataFrame(returns, columns=[f"S{k}" for k in range(n)])
    # The moments of both sides: `estimate_moments` shrinks correlations, skfolio's shrinks to the identity.
    mu, cov = returns.mean(axis=0), ledoit_wolf(returns)[0]
    rng = np.random.default_rng(1)
    prior = EmpiricalPrior(covariance_estimator=LedoitWolf())
    prior_ms = best_ms(lambda: prior.fit(frame), 3)

    def skfolio(model):
        return best_ms(lambda: model.fit(frame), 3) - prior_ms

    print(f"{n} assets, {t} days; wall and CPU ms, best of several; the ratio is of CPU times")
    print(f"skfolio without its {prior_ms[0]:.0f} ms of moments")
    print(f"{'':<44} {'ours':>9} {'CPU':>8} {'skfolio':>9} {'CPU':>8}")

    ours = risk_parity(cov)
    theirs = RiskBudgeting(risk_measure=RiskMeasure.VARIANCE, prior_estimator=prior)
    off = np.abs(theirs.fit(frame).weights_ - ours.weights).max()
    line(
        "risk parity, to 1e-10",
        best_ms(lambda: risk_parity(cov), 20),
        skfolio(theirs),
        f"contributions off {np.abs(ours.risk_contributions - 1 / n).max():.0e}, weights differ {off:.0e}",
    )

    problem = MeanVariance(cov)
    first = best_ms(lambda: MeanVariance(cov).cara(mu, 2.0), 3)
    theirs = MeanRisk(
        objective_function=ObjectiveFunction.MAXIMIZE_UTILITY,
        risk_measure=RiskMeasure.VARIANCE,
        risk_aversion=1.0,
        prior_estimator=prior,
    )
    sk = skfolio(theirs)
    found = problem.cara(mu, 2.0)
    off = np.abs(theirs.fit(frame).weights_ - found.weights).max()
    line("CARA, gamma 2, long-only: first solve", first, sk, f"weights differ {off:.0e}")
    again = best_ms(lambda: problem.cara(mu + rng.normal(0, 1e-4, n), 2.0))
    line("CARA: re-solve with a new mu", again, sk, f"KKT {found.kkt_residual:.0e}")

    rules = Constraints(-0.05, 0.05, leverage=1.6, turnover=1.2)
    full = MeanVariance(cov, rules, cost=1e-4)
    held = np.full(n, 1 / n)
    found = full.cara(mu, 5.0, previous=held)
    again = best_ms(lambda: full.cara(mu + rng.normal(0, 1e-4, n), 5.0, previous=held))
    line("CARA: re-solve, leverage, turnover and costs", again, None, f"KKT {found.kkt_residual:.0e}")

    for rho in (0.5, 0.2, 0.05):
        found = sparse(mu, cov, rho)
        theirs = MeanRisk(
            objective_function=ObjectiveFunction.MAXIMIZE_UTILITY,
            risk_measure=RiskMeasure.VARIANCE,
            risk_aversion=0.5,
            prior_estimator=prior,
            budget=None,
            min_weights=None,
            max_weights=None,
            l1_coef=rho * np.abs(mu).max(),
        )
        size = int((found.weights != 0).sum())
        line(
            f"sparse, rho {rho:g}: solve with a new mu",
            best_ms(lambda rho=rho: sparse(mu + rng.normal(0, 1e-4, n), cov, rho)),
            skfolio(theirs),
            f"{size} assets, subgradient {found.kkt_residual:.0e}",
        )

    if importlib.util.find_spec("riskfolio"):
        import riskfolio

        portfolio = riskfolio.Portfolio(returns=frame)
        portfolio.assets_stats(method_mu="hist", method_cov="ledoit")
        ms = best_ms(lambda: portfolio.rp_optimization(model="Classic", rm="MV"), 3)
        print(f"{'risk parity, Riskfolio-Lib':<44} {'':>18} {ms[0]:>9.1f} {ms[1]:>8.1f}")
    else:
        print("Riskfolio-Lib is not installed: not compared.")


if __name__ == "__main__":
    main()
