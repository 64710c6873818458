"""Results show themselves: what was found and whether to believe it, and as a table."""

from __future__ import annotations

import subprocess
import sys
from dataclasses import replace
from datetime import UTC, datetime, timedelta

import numpy as np
import polars as pl
import pytest

from hfthot_platform.core.display import Displayed
from hfthot_platform.domain.market.panel import Bars
from hfthot_platform.domain.models import chiarella
from hfthot_platform.domain.models.mean_field_game import TradeCrowding, closed_form, predict_price, solve
from hfthot_platform.domain.models.portfolio import risk_parity
from hfthot_platform.domain.models.regime import fit_regimes
from hfthot_platform.domain.models.strategy import AdaptiveRun, SymbolRegime, decide

GAME = TradeCrowding(
    impact=0.4, running_penalty=0.1, temporary_cost=0.2, terminal_penalty=2.5, horizon=5.0, initial_inventory=10.0
)
MARKET = chiarella.ChiarellaParams(
    impact=2.0, alpha_fundamental=0.05, alpha_chartist=0.2, sigma_noise=0.004, volatility=0.006
)


def trades() -> pl.DataFrame:
    rng = np.random.default_rng(1)
    start = datetime(2024, 1, 2, tzinfo=UTC)
    side = np.where(rng.random(2000) < 0.5, "buy", "sell")
    price = 100 + np.cumsum(0.002 * rng.standard_normal(2000))
    ts = [start + timedelta(seconds=5 * k) for k in range(2000)]
    return pl.DataFrame({"ts": ts, "price": price, "amount": rng.exponential(1.0, 2000), "side": side})


def bars() -> Bars:
    close = 100 * np.exp(np.cumsum(0.01 * np.random.default_rng(2).standard_normal((400, 2)), axis=0))
    times = np.arange(400, dtype=np.int64) * 86_400_000_000
    return Bars(times, ("A[1]", "B"), close, close, close, close, np.ones_like(close))


@pytest.fixture(scope="module")
def results() -> dict[str, Displayed]:
    rng = np.random.default_rng(0)
    data = bars()
    regimes = {symbol: SymbolRegime("calm", 0.9, identified=False) for symbol in data.symbols}
    decision = decide(data, regimes, {})
    return {
        "model": fit_regimes(rng.standard_normal(600), observation="ar1", n_restarts=2, n_bootstrap=20),
        "simulation": chiarella.simulate(MARKET, 20, 30, seed=0),
        "impact": chiarella.order_impact(MARKET, -0.03, seed=0, n_paths=5),
        "calibration": chiarella.calibrate(chiarella.simulate(MARKET, 1, 300, seed=0).prices[0], max_generations=20),
        "closed form": closed_form(GAME),
        "equilibrium": solve(GAME, 41, 51),
        "forecast": predict_price(trades(), horizon_minutes=5),
        "portfolio": risk_parity(np.diag([1.0, 4.0])),
        "decision": decision,
        "run": AdaptiveRun(np.full((400, 2), np.nan), decision.rows),
    }


NAMES = {
    "model": ("NOT identified", "regime", 3),
    "simulation": ("20 simulated paths of 30 steps", "time", 31),
    "impact": ("Sale of 3.00% of a day's volume", "time", 301),
    "calibration": ("fitted to", "parameter", 5),
    "closed form": ("mean inventory", "time", 101),
    "equilibrium": ("equilibrium on 51 x 41 nodes", "time", 51),
    "forecast": ("expected in 5 minutes", "minutes", None),
    "portfolio": ("risk_parity, optimal", "symbol", 2),
    "decision": ("2 symbols", "day", 2),
    "run": ("400 bars of 2 symbols: 0 orders", "day", 2),
}


@pytest.mark.parametrize("name", NAMES)
def test_a_result_says_what_was_found(results, name):
    text, first, rows = NAMES[name]
    found = results[name]
    assert text in repr(found)
    assert repr(found) == str(found)
    assert len(repr(found)) < 5000
    assert found._repr_html_().startswith("<pre>")
    frame = found.to_frame()
    assert frame.columns[0] == first
    assert rows is None or frame.height == rows


def test_rich_finds_no_markup_in_a_symbol(results):
    assert r"A\[1]" in results["decision"].__rich__()


def test_a_failed_search_is_shouted(results):
    assert "NOT CONVERGED" in repr(replace(results["model"], converged=False))
    assert "NOT CONVERGED" in repr(results["equilibrium"]), "41 nodes are too few"


def test_exploded_paths_are_counted_and_make_no_warning():
    params = replace(MARKET, alpha_chartist=500.0)
    found = chiarella.simulate(params, 5, 2000, seed=0)
    assert "5 paths DIVERGED" in repr(found)
    assert found.to_frame().height == 2001


def test_a_portfolio_is_a_table_of_weights_and_risk(results):
    frame = results["portfolio"].to_frame()
    assert frame["symbol"].to_list() == ["0", "1"]
    assert frame["weight"].to_list() == pytest.approx([2 / 3, 1 / 3], abs=1e-6)
    assert frame["risk_contribution"].to_list() == pytest.approx([0.5, 0.5], abs=1e-6)


def test_models_without_tables_do_not_load_polars():
    code = (
        "import sys; from hfthot_platform.domain.models import chiarella, regime;"
        "print('polars' in sys.modules, chiarella, regime)"
    )
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert found.stdout.startswith("False")
