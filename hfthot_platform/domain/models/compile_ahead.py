"""Compile the models' loops into numba's cache: `python -m hfthot_platform.domain.models.compile_ahead`.

A first run anywhere spends half a minute on compiling.  A process of its own does that on another core while the first
one still reads data; what is compiled already costs it nothing.  What goes here: the smallest call of each model.
"""

from __future__ import annotations

import numpy as np

from hfthot_platform.core.time import DAY
from hfthot_platform.domain.market.panel import Bars
from hfthot_platform.domain.models.backtest import backtest
from hfthot_platform.domain.models.chiarella import ChiarellaParams, calibrate, forecast, simulate
from hfthot_platform.domain.models.mean_field_game import TradeCrowding, solve
from hfthot_platform.domain.models.portfolio import risk_parity, sparse
from hfthot_platform.domain.models.regime import fit_regimes
from hfthot_platform.domain.models.strategy import MeanReversion, TrendFollowing

__all__ = ["main"]


def main() -> None:
    """Call each model once, in the order in which the demonstration needs them."""
    noise = np.random.default_rng(0).standard_normal(700) * 0.01
    for observation in ("ar1", "multivariate"):
        fit_regimes(noise, observation=observation, n_restarts=1, max_iterations=5, n_bootstrap=20).filter(noise)
    market = ChiarellaParams()
    calibrate(simulate(market, 1, 200, seed=0).prices[0], max_generations=1)
    forecast(market, 5)
    solve(TradeCrowding(0.4, 0.1, 0.2, 2.5, 5.0, 10.0), 21, 21)
    covariance = np.diag([1.0, 2.0, 3.0])
    risk_parity(covariance)
    sparse(np.ones(3), covariance)
    close = np.exp(np.cumsum(noise))[:, None]
    bars = Bars(DAY * np.arange(noise.size), ("A",), close, close, close, close, np.ones_like(close))
    for strategy in (TrendFollowing(), MeanReversion()):
        backtest(strategy, bars)


if __name__ == "__main__":
    main()
