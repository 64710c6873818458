"""Forecasts of every series of a market table: the mean field game's path, Chiarella's fan.

What goes here: which stretch of the data each model sees, and its result as rows of `signals.mfg_prices` and
`signals.chiarella_forecasts`.  What stays out: the models.

Only what was known at `made_at` is used: trades before it, bars that had closed by then.  A series that cannot carry
the model becomes a failure with the reason, never a missing row without a word.  All series use the same seed, so a
series' rows depend neither on which others are there nor on the number of threads.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import asdict, replace
from datetime import datetime, timedelta
from functools import partial
from typing import Any, Final, NamedTuple

import numpy as np
import polars as pl

from hfthot_platform.core.arrays import FloatArray, IntArray
from hfthot_platform.core.errors import BadRequestError, DataError, HfthotError
from hfthot_platform.core.parallel import Mapped, in_threads
from hfthot_platform.core.time import MINUTE
from hfthot_platform.domain.contracts.signals import CHIARELLA_FORECASTS, MFG_PRICES
from hfthot_platform.domain.models import chiarella
from hfthot_platform.domain.models.mean_field_game import PriceForecast, predict_price
from hfthot_platform.domain.signals.contract_rows import as_text, needs, rows_of, series_name
from hfthot_platform.domain.signals.regimes import Failed

__all__ = ["Forecasts", "chiarella_rows", "mfg_forecast", "mfg_price_rows"]

#: The order whose impact is told, in shares of the average daily volume, and the minutes that it takes.
_ORDER: Final = 0.01
_EXECUTION_MINUTES: Final = 10
#: Prices without which Chiarella's market is not fitted; the model's own bound.
_LEAST_MINUTES: Final = 100


class Forecasts(NamedTuple):
    """Rows of a contract without partition column and version, and the series without rows (`symbol@venue`, why)."""

    rows: pl.DataFrame
    failed: Failed


# --- mean field game --------------------------------------------------------------------------------------------


def mfg_price_rows(
    market: pl.DataFrame,
    *,
    made_at: datetime,
    horizon_minutes: float = 5.0,
    window_minutes: float = 120.0,
    n_agents: int = 1000,
    points: int = 11,
    seed: int = 0,
    workers: int = 2,
    mapped: Mapped | None = None,
) -> Forecasts:
    """Forecast the price path of each series with the mean field game of its recent order flow.

    Args:
        market: rows of `market.trades`, or of `market.bars_1m` (or one interval of `market.bars`), in any order;
            those at or after `made_at`, and bars not closed by then, are not looked at.
        made_at: when the forecast is made, with a time zone.
        horizon_minutes: how far it reaches.
        window_minutes: how far back the order flow is measured.
        n_agents: see `predict_price`.
        points: of the path that become rows, the first at `made_at` and the last at the horizon.
        seed: of the drawn agents.
        workers: threads; the rows do not depend on it.
        mapped: where the series are worked on instead; nor on this.

    Returns:
        Rows of `signals.mfg_prices`, and the series that could not be forecast: too few or no recent data, or no
        equilibrium.

    Raises:
        BadRequestError: columns are missing, bars of several intervals, a time without a zone, or fewer than two
            points.
    """
    where = "signals.mfg_price_rows"
    if points < 2:
        raise BadRequestError(f"points={points}", where=where, hint="Give 2 or more.")
    one = partial(
        _mfg_rows,
        made_at=made_at,
        horizon_minutes=horizon_minutes,
        window_minutes=window_minutes,
        n_agents=n_agents,
        points=points,
        seed=seed,
    )
    series = _rows_by_series(_known_at(market, made_at, window_minutes, where))
    mapped = mapped or in_threads(workers)
    return _forecasts(market, made_at, series, one, mapped, partial(rows_of, MFG_PRICES))


def mfg_forecast(
    market: pl.DataFrame,
    *,
    made_at: datetime,
    horizon_minutes: float = 5.0,
    window_minutes: float = 120.0,
    n_agents: int = 1000,
    seed: int = 0,
) -> PriceForecast:
    """Return the whole forecast of one series, as `mfg_price_rows` makes it: for pictures of its density.

    Raises:
        BadRequestError: as there, or several series.
        DataError: too few data, or none within the last horizon.
        NotConvergedError: no equilibrium was found.
    """
    known = _known_at(market, made_at, window_minutes, "signals.mfg_forecast")
    return _predict_recent_price(known, made_at, horizon_minutes, window_minutes, n_agents, seed)


def _predict_recent_price(
    known: pl.DataFrame, made_at: datetime, horizon: float, window: float, n_agents: int, seed: int
) -> PriceForecast:
    _require_recent(known, made_at, horizon, window)
    return predict_price(known, horizon_minutes=horizon, n_agents=n_agents, seed=seed)


def _mfg_rows(
    known: pl.DataFrame,
    *,
    made_at: datetime,
    horizon_minutes: float,
    window_minutes: float,
    n_agents: int,
    points: int,
    seed: int,
) -> list[dict[str, Any]]:
    found = _predict_recent_price(known, made_at, horizon_minutes, window_minutes, n_agents, seed)
    # The path is exact; the grid's solution is its check, and what the pictures of the density are drawn from.
    solution, game = found.solution, found.game
    parameters = {
        "game": {
            "impact": game.impact,
            "running_penalty": game.running_penalty,
            "temporary_cost": game.temporary_cost,
            "terminal_penalty": game.terminal_penalty,
            "horizon": game.horizon,
            "volatility": game.volatility,
            "initial_inventory_mean": game.density.mean,
            "initial_inventory_std": game.density.std,
        },
        "calibration": asdict(found.calibration),
        "n_agents": n_agents,
        "agents_std_at_horizon": float(found.agents_std[-1]),
        "confidence": found.confidence,
        "seed": seed,
        "window_minutes": window_minutes,
        "rows_used": known.height,
        "nodes": {"time": solution.times.size, "inventory": solution.inventories.size},
        "grid_error": solution.grid_error,
        "closed_form_error": found.closed_form_error,
        "boundary_mass": solution.boundary_mass,
    }
    common = {
        "venue": known["venue"][0],
        "symbol": known["symbol"][0],
        "made_at": made_at,
        "data_until": _known_until(known),
        "kyle_lambda": found.calibration.kyle_lambda,
        "kyle_t": found.calibration.kyle_t,
        "parameters": as_text(parameters),
        "iterations": solution.iterations,
        "residual": float(solution.residuals[-1]) if solution.residuals.size else 0.0,
        "hjb_residual": solution.hjb_residual,
        "fokker_planck_residual": solution.fokker_planck_residual,
        "mass_error": solution.mass_error,
        "converged": solution.converged,
    }
    at = np.unique(np.rint(np.linspace(0, found.minutes.size - 1, points)).astype(np.int64))
    return [
        {
            **common,
            "ts": made_at + timedelta(minutes=float(found.minutes[k])),
            "expected": float(found.expected[k]),
            "lower": float(found.lower[k]),
            "upper": float(found.upper[k]),
            "mean_inventory": float(found.mean_inventory[k]),
        }
        for k in at.tolist()
    ]


# --- Chiarella --------------------------------------------------------------------------------------------------


def chiarella_rows(
    bars_1m: pl.DataFrame,
    *,
    made_at: datetime,
    horizon_minutes: int = 60,
    window_minutes: int = 1440,
    n_paths: int = 4000,
    points: int = 13,
    seed: int = 0,
    workers: int = 2,
    mapped: Mapped | None = None,
) -> Forecasts:
    """Forecast the price fan of each series with Chiarella's market, fitted to the log-closes of its minutes.

    **Gaps.**  The model's steps are equal, and a minute that is not there is not a price that stood still.  The
    market is therefore fitted to the longest gap-free stretch of the window (the later one of two equal ones).  From
    its end to the last bar the fundamental value is filtered on minute by minute: a move counts where its two
    predecessors are there, and elsewhere only time passes and the uncertainty grows.  The fan starts from the last
    close; where that is some minutes before `made_at`, the price has already spread by then.

    Orders are judged where the takers' volume is known: lambda is the slope of the price on net taker volume in
    shares of the average daily volume.  Its standard error is carried into the impact's.

    Args:
        bars_1m: rows of `market.bars_1m`, in any order; bars not closed by `made_at` are not looked at.
        made_at: when the forecast is made, with a time zone.
        horizon_minutes: how far the fan reaches.
        window_minutes: how far back bars are used.
        n_paths: simulated paths.
        points: of the fan that become rows, the first at `made_at` and the last at the horizon.
        seed: of the optimiser and the simulation.
        workers: threads; the rows do not depend on it.
        mapped: where the series are worked on instead; nor on this.

    Returns:
        Rows of `signals.chiarella_forecasts`, and the series that could not be forecast.

    Raises:
        BadRequestError: columns are missing, bars of another length than a minute, a time without a zone, or a count
            out of range.
    """
    where = "signals.chiarella_rows"
    if horizon_minutes < 1 or points < 2 or n_paths < 100:
        raise BadRequestError(
            f"horizon_minutes={horizon_minutes}, points={points}, n_paths={n_paths}",
            where=where,
            hint="At least 1, 2 and 100.",
        )
    needs(bars_1m, ("venue", "symbol", "ts", "ts_close", "close", "volume"), where)
    known = _known_at(bars_1m, made_at, window_minutes, where)
    if (known["ts_close"].to_physical() - known["ts"].to_physical() != MINUTE).any():
        raise BadRequestError("bars that are not of one minute", where=where, hint="Give rows of market.bars_1m.")
    one = partial(
        _chiarella_rows,
        made_at=made_at,
        horizon=horizon_minutes,
        window=window_minutes,
        n_paths=n_paths,
        points=points,
        seed=seed,
    )
    mapped = mapped or in_threads(workers)
    return _forecasts(bars_1m, made_at, _rows_by_series(known), one, mapped, partial(rows_of, CHIARELLA_FORECASTS))


def _chiarella_rows(
    bars: pl.DataFrame, *, made_at: datetime, horizon: int, window: int, n_paths: int, points: int, seed: int
) -> list[dict[str, Any]]:
    _require_recent(bars, made_at, horizon, window)
    minute = bars["ts"].to_physical().to_numpy() // MINUTE
    price = np.log(bars["close"].cast(pl.Float64).to_numpy())
    if not (np.diff(minute) > 0).all():
        raise DataError("two bars of one minute", where="signals.chiarella_rows", hint="Give each bar once.")
    first, end = _longest_stretch(minute)
    if end - first < _LEAST_MINUTES:
        raise DataError(
            f"the longest stretch without a gap has {end - first} of {minute.size} minutes",
            where="signals.chiarella_rows",
            hint=f"{_LEAST_MINUTES} are needed: widen the window or repair the bars.",
        )
    flow = _order_flow(bars, first, end)
    found = chiarella.calibrate(price[first:end], flow, seed=seed)
    params = market_now(found, minute, price, end)
    # Minutes that have passed since the last bar closed.
    lag = int((made_at - _known_until(bars)) / timedelta(minutes=1))
    at = lag + np.unique(np.rint(np.linspace(0, horizon, points)).astype(np.int64))
    simulated = chiarella.simulate(params, n_paths, lag + horizon, seed=seed)
    with np.errstate(over="ignore"):
        prices = np.exp(simulated.prices[:, at])
    if simulated.diverged or not np.isfinite(prices).all():
        raise DataError(
            f"the fitted market, {found.stability.kind}, leaves the range of numbers within {lag + horizon} minutes",
            where="signals.chiarella_rows",
            hint="Look for absurd prices, or shorten the horizon.",
        )
    expected = prices.mean(axis=0)
    lower, upper = np.quantile(prices, (0.05, 0.95), axis=0)
    impact, impact_error = (None, None) if flow is None else _peak_impact(found, params, horizon, seed)
    warnings = list(found.warnings)
    absent = int(minute[-1] - minute[0]) + 1 - minute.size
    stretch = [bars["ts"][first], bars["ts_close"][end - 1]]
    if absent:
        warnings.append(
            f"{absent} minutes are missing: fitted to the longest stretch without a gap, "
            f"{end - first} minutes from {stretch[0]:%Y-%m-%d %H:%M}"
        )
    if lag:
        warnings.append(f"the last bar closed {lag} minutes before")
    stability = found.stability
    parameters = {
        "market": asdict(params),
        "estimates": {name: estimate._asdict() for name, estimate in found.estimates.items()},
        "fundamental_deviation": found.fundamental_deviation,
        "modulus": stability.modulus,
        "period": stability.period,
        "amplification": stability.amplification,
        "log_likelihood": found.log_likelihood,
        "n_observations": found.n_observations,
        "fitted_from": stretch[0].isoformat(),
        "fitted_until": stretch[1].isoformat(),
        "order_flow": flow is not None,
        "order": _ORDER,
        "n_paths": n_paths,
        "seed": seed,
        "window_minutes": window,
    }
    common = {
        "venue": bars["venue"][0],
        "symbol": bars["symbol"][0],
        "made_at": made_at,
        "data_until": _known_until(bars),
        "market": stability.kind,
        "bubble_prone": stability.bubble_prone,
        "half_life": stability.half_life if math.isfinite(stability.half_life) else None,
        "order_impact": impact,
        "order_impact_error": impact_error,
        "parameters": as_text(parameters),
        "warnings": "; ".join(warnings) or None,
        "converged": found.converged,
    }
    return [
        {
            **common,
            "ts": made_at + timedelta(minutes=int(step) - lag),
            "expected": float(expected[k]),
            "lower": float(lower[k]),
            "upper": float(upper[k]),
        }
        for k, step in enumerate(at.tolist())
    ]


def _longest_stretch(minute: IntArray) -> tuple[int, int]:
    """Return first and end of the longest run of consecutive minutes, the last of equal ones."""
    edges = np.concatenate([[0], np.flatnonzero(np.diff(minute) != 1) + 1, [minute.size]])
    lengths = np.diff(edges)
    k = lengths.size - 1 - int(lengths[::-1].argmax())
    return int(edges[k]), int(edges[k + 1])


def _order_flow(bars: pl.DataFrame, first: int, end: int) -> FloatArray | None:
    """Return takers' net volume from each close of the stretch to the next, in shares of the average daily volume."""
    if "buy_volume" not in bars.columns:
        return None
    volume = bars["volume"].cast(pl.Float64).to_numpy()
    span = (_known_until(bars) - bars["ts"][0]) / timedelta(days=1)
    daily = float(volume.sum()) / span
    bought = bars["buy_volume"].cast(pl.Float64).fill_null(math.nan).to_numpy()[first + 1 : end]
    if not (np.isfinite(bought).all() and daily > 0):
        return None
    flow = (2.0 * bought - volume[first + 1 : end]) / daily
    return flow if np.ptp(flow) > 0 else None


def market_now(
    found: chiarella.Calibration, minute: IntArray, price: FloatArray, end: int
) -> chiarella.ChiarellaParams:
    """Return the fitted market at the last bar, its fundamental value filtered on over the minutes since the fit.

    The filter is the calibration's: p_(t+1) - p_t = a (F_t - p_t) + c (p_t - p_(t-1)) + e, F a random walk.
    """
    params = found.params
    a, c, deviation = params.coefficients()
    _, _, value = params.start
    spread = found.fundamental_deviation**2
    known = dict(zip(minute.tolist(), price.tolist(), strict=True))
    last = int(minute[-1])
    for t in range(int(minute[end - 1]), last):
        # From minute t to t + 1.
        if t + 1 in known and t in known and t - 1 in known:
            scale = a * a * spread + deviation**2
            gain = a * spread / scale if scale > 0 else 0.0
            surprise = known[t + 1] - known[t] - c * (known[t] - known[t - 1]) - a * (value - known[t])
            value += gain * surprise
            spread *= 1.0 - gain * a
        value += params.fundamental_drift
        spread += params.fundamental_volatility**2
    return replace(params, price=known[last], previous_price=known.get(last - 1), fundamental=value)


def _peak_impact(
    found: chiarella.Calibration, params: chiarella.ChiarellaParams, horizon: int, seed: int
) -> tuple[float, float]:
    """Return the peak move by the order, as a fraction of the price, and its standard error."""
    steps = max(horizon, _EXECUTION_MINUTES)
    result = chiarella.order_impact(
        params, _ORDER, execution_steps=_EXECUTION_MINUTES, n_paths=64, n_steps=steps, seed=seed
    )
    estimate = found.estimates["impact"]
    slope_error = (estimate.high - estimate.low) / (2 * 1.959963984540054)
    # The move is proportional to lambda but for its part in the traders' own feedback.
    relative = result.peak / params.impact if params.impact > 0 else _ORDER
    own = float(result.standard_error[int(result.path.argmax())])
    return math.expm1(result.peak), math.hypot(relative * slope_error, own)


# --- what both share --------------------------------------------------------------------------------------------


def _known_at(market: pl.DataFrame, made_at: datetime, window: float, where: str) -> pl.DataFrame:
    """Return what was known at a time: trades before it, or bars closed by it, not older than the window."""
    if made_at.tzinfo is None:
        raise BadRequestError(f"{made_at} has no time zone", where=where, hint="Pass an aware time, such as UTC.")
    if not (math.isfinite(window) and window > 0):
        raise BadRequestError(f"window_minutes={window}", where=where, hint="Give a positive number.")
    trades = "price" in market.columns
    wanted = ("price", "amount") if trades else ("ts_close", "close", "volume")
    needs(market, ("venue", "symbol", "ts", *wanted), where)
    if "interval" in market.columns and market["interval"].n_unique() > 1:
        raise BadRequestError("bars of several intervals", where=where, hint="Filter them to one.")
    known = market.filter(pl.col("ts") >= made_at - timedelta(minutes=window))
    known = known.filter(pl.col("ts") < made_at if trades else pl.col("ts_close") <= made_at)
    if "final" in known.columns:
        known = known.filter("final")
    known = known.with_columns(pl.col("venue", "symbol").cast(pl.String))
    # Trades of one microsecond keep the venue's order.
    return known.sort(["ts", *(["trade_id"] if "trade_id" in known.columns else [])], maintain_order=True)


def _rows_by_series(known: pl.DataFrame) -> dict[tuple[str, str], pl.DataFrame]:
    """Return the rows of each series by symbol and venue, in the order of their names."""
    groups = {(str(s), str(v)): frame for (s, v), frame in known.group_by("symbol", "venue", maintain_order=True)}
    return dict(sorted(groups.items()))


def _known_until(known: pl.DataFrame) -> datetime:
    """Return when the last row was known."""
    value: datetime = known["ts_close" if "ts_close" in known.columns else "ts"][-1]
    return value


def _require_recent(known: pl.DataFrame, made_at: datetime, horizon: float, window: float) -> None:
    """Refuse data that end more than a horizon ago: what happened since is not known."""
    where = "signals.forecasts"
    if known.is_empty():
        raise DataError(f"nothing within {window:g} minutes before {made_at}", where=where, hint="Check the feed.")
    silent = (made_at - _known_until(known)) / timedelta(minutes=1)
    if silent > horizon:
        raise DataError(
            f"nothing since {silent:.0f} minutes before {made_at}, more than the horizon of {horizon:g}",
            where=where,
            hint="Check the feed, or forecast at the end of the data.",
        )


def _forecasts(
    market: pl.DataFrame,
    made_at: datetime,
    series: dict[tuple[str, str], pl.DataFrame],
    one: Callable[[pl.DataFrame], list[dict[str, Any]]],
    mapped: Mapped,
    frame_of: Callable[[list[dict[str, Any]]], pl.DataFrame],
) -> Forecasts:
    """Forecast all series; rows in the order of the series' names.

    A series of the market of which nothing was known fails as well.
    """
    before = market.filter(pl.col("ts") < made_at)
    pairs = before.select(pl.col("symbol", "venue").cast(pl.String)).unique().sort("symbol", "venue").rows()
    results = mapped(partial(_forecast_series, one=one), [series.get((symbol, venue)) for symbol, venue in pairs])
    rows = [row for result in results if not isinstance(result, str) for row in result]
    failed = tuple(
        (series_name(*key), result) for key, result in zip(pairs, results, strict=True) if isinstance(result, str)
    )
    return Forecasts(frame_of(rows), failed)


def _forecast_series(
    known: pl.DataFrame | None, one: Callable[[pl.DataFrame], list[dict[str, Any]]]
) -> list[dict[str, Any]] | str:
    """Forecast one series; its data must not take the others with it, whatever the model objects to."""
    try:
        if known is None:
            raise DataError("nothing within the window", where="signals.forecasts", hint="Check the feed.")
        return one(known)
    except HfthotError as error:
        return str(error)
