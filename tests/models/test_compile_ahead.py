"""Loops that are compiled ahead need no compiling later."""

from __future__ import annotations

import numpy as np

from hfthot_platform.domain.market.panel import Bars
from hfthot_platform.domain.models import chiarella, compile_ahead, portfolio
from hfthot_platform.domain.models.backtest import backtest, causality, ledger, targets
from hfthot_platform.domain.models.regime import fit_regimes
from hfthot_platform.domain.models.regime import loops as regime_loops
from hfthot_platform.domain.models.strategy import TrendFollowing


def compiled() -> dict[str, int]:
    modules = (regime_loops, ledger, targets, causality, chiarella, portfolio)
    loops = {f"{module.__name__}.{name}": member for module in modules for name, member in vars(module).items()}
    return {name: len(loop.signatures) for name, loop in loops.items() if hasattr(loop, "signatures")}


def test_nothing_that_the_models_run_is_compiled_again():
    compile_ahead.main()
    ready = compiled()
    noise = np.random.default_rng(1).standard_normal(900)
    close = np.exp(np.cumsum(0.01 * noise)).reshape(-1, 3)

    fit_regimes(noise, observation="auto", n_restarts=2, n_bootstrap=20, max_iterations=20)
    portfolio.risk_parity(np.cov(noise.reshape(3, -1)))
    backtest(
        TrendFollowing(), Bars(86_400_000_000 * np.arange(300), ("A", "B", "C"), *[close] * 4, np.ones_like(close))
    )

    assert sum(ready.values()) > 10
    assert compiled() == ready
