"""Every public function and constructor of the models, given nonsense: a typed error or a valid result.

The walk finds what is public by itself: a new function without an entry here fails the first test.
"""

from __future__ import annotations

import dataclasses
import importlib
import inspect
import math
import pkgutil
from datetime import UTC, datetime, timedelta
from functools import cache

import numpy as np
import polars as pl
import pytest

import hfthot_platform.domain.models
from hfthot_platform import research
from hfthot_platform.core.errors import HfthotError
from hfthot_platform.domain.market.panel import Bars
from hfthot_platform.domain.models import backtest as bt
from hfthot_platform.domain.models import chiarella, mean_field_game, portfolio

COVARIANCE = np.array([[4.0, 1.0, 0.5], [1.0, 3.0, -0.5], [0.5, -0.5, 2.0]]) * 1e-4
MEAN = np.array([3e-4, 1e-4, 2e-4])
NAMES = ["A", "B", "C"]
RETURNS = np.random.default_rng(0).normal(0, 0.01, (60, 3))
GAME = {
    "impact": 0.4,
    "running_penalty": 0.1,
    "temporary_cost": 0.2,
    "terminal_penalty": 2.5,
    "horizon": 5.0,
    "initial_inventory": 10.0,
}
MARKET = chiarella.ChiarellaParams()
CLOSE = np.exp(np.cumsum(np.random.default_rng(1).normal(0, 0.01, (60, 2)), axis=0))


def bars(**change):
    data = {"times": 86_400_000_000 * np.arange(60), "symbols": ("A", "B"), "volume": np.ones((60, 2))}
    return data | dict.fromkeys(("open", "high", "low", "close"), CLOSE) | change


def trades():
    rng = np.random.default_rng(2)
    side = rng.choice(["buy", "sell"], 900)
    times = [datetime(2024, 1, 2, tzinfo=UTC) + timedelta(seconds=10 * i) for i in range(900)]
    price = 100 + np.cumsum(np.where(side == "buy", 0.01, -0.01) + 0.005 * rng.standard_normal(900))
    return pl.DataFrame({"ts": times, "price": price, "amount": rng.exponential(1, 900), "side": side})


def closes():
    days = [datetime(2024, 1, 1, tzinfo=UTC).date() + timedelta(days=k) for k in range(60)]
    return pl.concat(pl.DataFrame({"date": days, "symbol": name, "close": CLOSE[:, i]}) for i, name in enumerate("AB"))


def lazy(data):
    return np.ones((len(data), 2))


#: What a caller calls, with arguments that are good.
CALLS = {
    "portfolio.align_returns": lambda: {"closes": closes(), "min_coverage": 0.9},
    "portfolio.estimate_moments": lambda: {
        "returns": RETURNS,
        "covariance": "ewma",
        "mean": "sample",
        "halflife": 20.0,
    },
    "portfolio.risk_parity": lambda: {
        "cov": COVARIANCE,
        "budgets": [1.0, 2.0, 3.0],
        "previous": MEAN,
        "cost": 1e-3,
        "symbols": NAMES,
        "tolerance": 1e-10,
        "max_sweeps": 100,
    },
    "portfolio.cara": lambda: {
        "mu": MEAN,
        "cov": COVARIANCE,
        "gamma": 2.0,
        "previous": MEAN,
        "cost": 1e-3,
        "symbols": NAMES,
        "constraints": portfolio.Constraints(),
    },
    "portfolio.sparse": lambda: {
        "mu": MEAN,
        "cov": COVARIANCE,
        "rho": 0.1,
        "previous": MEAN,
        "cost": 1e-3,
        "symbols": NAMES,
        "tolerance": 1e-9,
        "max_sweeps": 100,
    },
    "portfolio.Constraints": lambda: {
        "lower": 0.0,
        "upper": [1.0, 1.0, 1.0],
        "budget": 1.0,
        "leverage": 1.5,
        "turnover": 2.0,
        "groups": (portfolio.Group([0]),),
    },
    "portfolio.Group": lambda: {"members": [0, 1], "lower": 0.1, "upper": 0.5},
    "portfolio.MeanVariance": lambda: {"cov": COVARIANCE, "cost": 1e-3, "symbols": NAMES},
    "mean_field_game.TradeCrowding": lambda: {
        **GAME,
        "volatility": 0.1,
        "inventory_noise": 0.1,
        "cost_power": 2.0,
        "penalty_power": 2.0,
    },
    "mean_field_game.InventoryDensity": lambda: {"inventory": [0.0, 1.0, 2.0], "density": [0.0, 1.0, 0.0]},
    "mean_field_game.closed_form": lambda: {"game": mean_field_game.TradeCrowding(**GAME), "times": [0.0, 1.0, 5.0]},
    "mean_field_game.solve": lambda: {
        "game": mean_field_game.TradeCrowding(**GAME),
        "n_inventory": 21,
        "n_time": 21,
        "tolerance": 1e-8,
        "max_iterations": 5,
        "method": "newton",
        "inventory_range": (-10.0, 20.0),
    },
    "mean_field_game.calibrate_crowding": lambda: {"market": trades(), "horizon_minutes": 5.0},
    "mean_field_game.predict_price": lambda: {
        "market": trades(),
        "horizon_minutes": 5.0,
        "n_agents": 50,
        "seed": 0,
        "urgency": 2.0,
        "confidence": 0.9,
        "n_inventory": 21,
        "n_time": 21,
    },
    "chiarella.ChiarellaParams": lambda: dataclasses.asdict(MARKET) | {"previous_price": 0.0, "fundamental": 0.0},
    "chiarella.simulate": lambda: {
        "params": MARKET,
        "n_paths": 5,
        "n_steps": 7,
        "dt": 1.0,
        "seed": 0,
        "order": np.zeros(7),
        "workers": 1,
    },
    "chiarella.stability": lambda: {"params": MARKET, "dt": 1.0},
    "chiarella.forecast": lambda: {"params": MARKET, "n_steps": 5, "dt": 1.0},
    "chiarella.autocovariance": lambda: {"params": MARKET, "n_lags": 5, "dt": 1.0},
    "chiarella.order_impact": lambda: {
        "params": MARKET,
        "size": 0.1,
        "execution_steps": 2,
        "n_paths": 5,
        "n_steps": 7,
        "dt": 1.0,
        "seed": 0,
        "workers": 1,
    },
    "chiarella.calibrate": lambda: {
        "prices": np.log(100 + np.cumsum(np.random.default_rng(3).standard_normal(150) * 0.1)),
        "dt": 1.0,
        "weights": (1.0, 1.0, 1.0),
        "seed": 0,
        "max_generations": 1,
    },
    "panel.Bars": bars,
    "backtest.Costs": lambda: {"fee": 1e-3, "slippage": 1e-3},
    "backtest.backtest": lambda: {
        "strategy": lazy,
        "data": Bars(**bars()),
        "costs": bt.Costs(),
        "causality_cuts": 1,
    },
    "backtest.assert_causal": lambda: {"strategy": lazy, "data": Bars(**bars()), "n_cuts": 2, "seed": 0},
    "backtest.on_change": lambda: {"weights": np.ones((5, 2))},
    "backtest.held_weights": lambda: {
        "bars": Bars(**bars()),
        "orders": np.full((60, 2), 0.3),
        "costs": bt.Costs(),
    },
    "switching_mean.fit_switching_mean": lambda: {
        "series": np.random.default_rng(5).normal(0, 1, 80),
        "order": 1,
        "n_states": 2,
        "n_starts": 1,
        "seed": 0,
        "tolerance": 1e-2,
        "max_iterations": 5,
    },
    "regime.Memory": lambda: {"volatility": 3.0, "trend": 5.0, "autocorrelation": 10.0},
    "regime.fit_regimes": lambda: {
        "returns": np.random.default_rng(4).normal(0, 0.01, 150),
        "n_states": 3,
        "observation": "ar1",
        "n_restarts": 1,
        "seed": 0,
        "stickiness": 0.0,
        "tolerance": 1e-3,
        "max_iterations": 5,
        "n_bootstrap": 20,
    },
    "regime.walk_forward": lambda: {
        "returns": np.random.default_rng(4).normal(0, 0.01, 180),
        "start": 150,
        "refit_every": 30,
        "window": 150,
        "observation": "ar1",
        "n_restarts": 1,
        "seed": 0,
    },
    "regime.fit_many": lambda: {
        "returns": {"A": np.random.default_rng(4).normal(0, 0.01, 150)},
        "workers": 1,
        "seed": 0,
    },
    "regime.agreement": lambda: {"causal": [0, 1, 2], "hindsight": [0, 1, 1], "n_states": 3},
    "regime.bar_returns": lambda: {"times": [0, 1, 2], "closes": [1.0, 1.1, 1.2], "step": 1},
    "reliability.reliability": lambda: {
        "said": [0.2, 0.4, 0.6, 0.8],
        "right": [0.0, 1.0, 0.0, 1.0],
        "least": 0.0,
        "bins": 10,
        "block": 2,
        "draws": 20,
        "seed": 0,
    },
    "strategy.TrendFollowing": lambda: {"lookback": 20, "entry": 1.0, "exit": 0.0, "size": 1.0},
    "strategy.MeanReversion": lambda: {"lookback": 20, "entry": 1.0, "exit": 0.0, "size": 1.0},
    "strategy.AdaptiveRules": lambda: {
        "window": 250,
        "horizon": 5,
        "every": 5,
        "refit_every": 125,
        "warm_up": 500,
        "min_confidence": 0.6,
        "high_cost_share": 0.5,
        "gamma": 2.0,
        "rho": 0.05,
        "min_trade": 0.2,
        "volatility_target": 0.1,
        "volatility_half_life": 20.0,
    },
}
#: What the functions return, and what is made by them or tested as a whole where it lives.
RESULTS = {
    *("portfolio.AlignedReturns", "portfolio.Allocation", "portfolio.Moments"),
    *("mean_field_game.ClosedForm", "mean_field_game.CrowdingCalibration", "mean_field_game.MeanFieldSolution"),
    "mean_field_game.PriceForecast",
    *(f"chiarella.{name}" for name in ("Calibration", "Estimate", "Impact", "PriceMoments", "Simulation", "Stability")),
    # Events and what is done about them: tests/models/test_event_driven.py.
    *("panel.time_text", "events.Bar", "events.Book", "events.Trade", "events.trades_from", "backtest.Vectorised"),
    *("port.Context", "port.EventStrategy", "port.Fill"),
    *("backtest.BacktestResult", "switching_mean.SwitchingMean", "reliability.Reliability"),
    *(f"regime.{name}" for name in ("Agreement", "Evidence", "FilterState", "RegimeFilter", "RegimeModel")),
    *(f"regime.{name}" for name in ("RegimeUpdate", "Selection", "WalkForward")),
    *(f"strategy.{name}" for name in ("Adaptive", "AdaptiveRun", "Decision", "FittedMarket", "SymbolRegime")),
    # Whole pipelines over fitted models: their arguments are those of the above.
    *(f"strategy.{name}" for name in ("adaptive", "decide", "fit_markets", "regime_labels")),
}
#: Other modules whose public names are those of the models' users too.
BESIDE = tuple(
    f"hfthot_platform.domain.{name}"
    for name in (
        *("market.panel", "market.events", "trading.port"),
        *("models.regime.reliability", "models.regime.switching_mean"),
    )
)

NUMBERS = [math.nan, math.inf, -math.inf, -1, 0, 1e308, -1e308, 1e-308, 10**30, "many", [1.0, 2.0], 1j, object()]
ARRAYS = {
    "empty": lambda a: np.asarray(a)[:0],
    "NaN": lambda a: np.where(np.arange(np.size(a)).reshape(np.shape(a)) == 1, math.nan, np.asarray(a, dtype=float)),
    "infinite": lambda a: np.full(np.shape(a), math.inf),
    "huge": lambda a: np.full(np.shape(a), 1e308),
    "zero": lambda a: np.zeros(np.shape(a)),
    "negative": lambda a: -np.abs(np.asarray(a, dtype=float)) - 1,
    "reversed": lambda a: np.asarray(a)[::-1],
    "one too long": lambda a: np.concatenate([np.asarray(a), np.asarray(a)[-1:]]),
    "of another dimension": lambda a: np.asarray(a)[None],
    "text": lambda a: np.full(np.shape(a), "x"),
    "complex": lambda a: np.asarray(a, dtype=complex) * 1j,
    "a scalar": lambda _: 1.0,
    "none": lambda _: object(),
}
NAMED = [("A", "A", "B"), ("A", "A"), (), ("A",), (1, 2, 3), "ABC", 5, ("A", None, "B"), ("", "A", "B")]


@cache
def public():
    found = {}
    modules = [module.name for module in pkgutil.iter_modules(hfthot_platform.domain.models.__path__)]
    models = [f"hfthot_platform.domain.models.{name}" for name in modules if name != "compile_ahead"]  # takes nothing
    for path in (*models, *BESIDE):
        loaded = importlib.import_module(path)
        for name in loaded.__all__:
            member = getattr(loaded, name)
            if inspect.isfunction(member) or inspect.isclass(member):
                found[f"{path.rsplit('.', 1)[-1]}.{name}"] = member
    return found


def nonsense(arguments):
    """Yield a parameter, a label and a bad value for each argument that is a number, an array, names or a word."""
    for parameter, good in arguments.items():
        if isinstance(good, bool | pl.DataFrame | Bars | bt.Costs) or callable(good):
            continue
        if isinstance(good, str):
            bad = {repr(word): word for word in ("Sample", "", 3, None)}
        elif isinstance(good, int | float):
            bad = {str(value)[:12]: value for value in NUMBERS}
        elif isinstance(good, list | tuple | np.ndarray) and np.asarray(good).dtype.kind in "fi":
            bad = {label: change(good) for label, change in ARRAYS.items()}
        elif isinstance(good, list | tuple) and all(isinstance(name, str) for name in good):
            bad = {repr(value): value for value in NAMED}
        else:
            bad = {"another type": 7}
        for label, value in bad.items():
            yield parameter, label, value


def numbers_of(result):
    """Yield every double that a result holds."""
    if isinstance(result, float | np.floating):
        yield float(result)
    elif isinstance(result, np.ndarray) and result.dtype.kind == "f":
        yield from result.ravel().tolist()
    elif dataclasses.is_dataclass(result):
        for field in dataclasses.fields(result):
            yield from numbers_of(getattr(result, field.name))
    elif isinstance(result, tuple | list):
        for member in result:
            yield from numbers_of(member)
    elif isinstance(result, dict):
        yield from numbers_of(list(result.values()))


def test_every_public_name_is_in_the_walk():
    listed = set(CALLS) | RESULTS
    assert {name for name in public() if name not in listed} == set()
    assert {name for name in listed if name not in public()} == set()
    for name in research.__all__:
        offered = getattr(research, name)
        if inspect.isclass(offered) or inspect.isfunction(offered):
            assert offered in public().values() or offered.__module__ == research.__name__


def test_every_number_and_array_of_a_function_is_in_the_walk():
    for name, arguments in CALLS.items():
        given = arguments()
        for parameter in inspect.signature(public()[name]).parameters.values():
            annotation = str(parameter.annotation)
            if parameter.default is inspect.Parameter.empty and parameter.kind is not parameter.VAR_KEYWORD:
                assert parameter.name in given, name
            elif annotation.split(" |", maxsplit=1)[0] in {"int", "float"}:
                assert parameter.name in given, (name, parameter.name)


@pytest.mark.parametrize("name", CALLS)
def test_good_arguments_are_good(name):
    public()[name](**CALLS[name]())


@pytest.mark.soak
@pytest.mark.filterwarnings("ignore::RuntimeWarning")
@pytest.mark.parametrize("name", CALLS)
def test_nonsense_is_refused_or_harmless(name):
    # One test for each function: two thousand tests of a millisecond cost more to run than what they test.
    wrong = {}
    tried = 0
    for parameter, label, value in nonsense(CALLS[name]()):
        tried += 1
        try:
            result = public()[name](**(CALLS[name]() | {parameter: value}))
        except HfthotError:
            continue
        except Exception as error:  # what must not come is what is looked for
            wrong[f"{parameter}={label}"] = f"{type(error).__name__}: {error}"
            continue
        # Orders and fills may be absent, which NaN stands for.
        if name.split(".")[0] in {"portfolio", "mean_field_game", "chiarella"} and any(
            math.isnan(number) for number in numbers_of(result)
        ):
            wrong[f"{parameter}={label}"] = f"NaN in {result!r}"
    assert wrong == {}
    assert tried >= 4 or name == "backtest.backtest"
