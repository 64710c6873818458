"""Fitting a regime model to one series of returns, or one to each of many.

What belongs here: the arguments of a fit and their checks.  What does not: how the likelihood is climbed
(`estimation`), what a fitted model can be asked (`model`), fits that walk forward (`walking_forward`).
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from inspect import signature
from typing import Any, Final, Literal, get_args

import numpy as np

from hfthot_platform.core.arguments import choice, number, require_type, whole
from hfthot_platform.core.arrays import FloatLike
from hfthot_platform.core.errors import BadRequestError, DataError, ModelError, nearest
from hfthot_platform.domain.models.regime.estimation import Fit, chosen, select
from hfthot_platform.domain.models.regime.model import Memory, Observation, RegimeModel, checked_returns

__all__ = ["FIT_OPTIONS", "fit_many", "fit_regimes"]


def fit_regimes(
    returns: FloatLike,
    *,
    n_states: int = 3,
    observation: Observation | Literal["auto"] = "auto",
    n_restarts: int = 10,
    seed: int = 0,
    allow_missing: bool = False,
    stickiness: float = 0.0,
    tolerance: float = 1e-6,
    max_iterations: int = 2000,
    n_bootstrap: int = 400,
    memory: Memory | None = None,
    previous: RegimeModel | None = None,
) -> RegimeModel:
    """Fit a regime model.

    Args:
        returns: (T,), oldest first, on a regular grid of bars (see `bar_returns`); any unit.
        n_states: 2 or 3.
        observation: `ar1`, `gaussian`, `multivariate`, or `auto`: `multivariate` if it predicts the last 30 % of the
            returns better than `ar1` after a fit to the first 70 %, by more than a standard error; else `ar1`, also
            where the returns are too few to hold some out.
        n_restarts: random starts; the best few after a short run are iterated to convergence.  The
            multivariate model takes four at most.
        seed: of the starts and the bootstrap.
        allow_missing: accept NaN as missing bars.
        stickiness: pseudo-count of bars on which each state stays itself (a Dirichlet prior); 0 for none.
            For `ar1` and `gaussian`.
        tolerance: gain of the objective, in nats, below which the iteration ends.
        max_iterations: bound of one start's iterations.
        n_bootstrap: draws behind the label confidence.
        memory: of the multivariate features.
        previous: the model of an earlier fit to the same series: an additional start, and names are kept unless
            the data identify others.

    Returns:
        The model; `converged` is false if the bound was met first.

    Raises:
        BadRequestError: an argument is out of its domain.
        DataError: too few returns, a constant series, infinity, or NaN that is not allowed.
        NotConvergedError: no start gave a finite likelihood.
    """
    _check_arguments(
        *(n_states, observation, n_restarts, seed, stickiness, tolerance, max_iterations, n_bootstrap, memory, previous)
    )
    y = checked_returns(returns, allow_missing=allow_missing)
    where = "fit_regimes"
    present = int(np.isfinite(y).sum())
    if present < 50 * n_states:
        raise DataError(
            f"{present} returns cannot carry {n_states} states",
            where=where,
            hint=f"Pass {50 * n_states} or more; 1000 and more give stable regimes.",
        )
    with np.errstate(over="ignore"):
        spread = float(np.nanstd(y))
    if not math.isfinite(spread):
        raise DataError(
            f"returns up to {np.nanmax(np.abs(y)):g} have no variance in double precision",
            where=where,
            hint="Look for absurd prices, or pass the returns in another unit.",
        )
    if previous is not None and previous.n_states != n_states:
        raise BadRequestError(f"previous has {previous.n_states} states", where=where, hint=f"n_states={n_states}.")
    fit = Fit(
        *(n_states, n_restarts, seed, float(stickiness), float(tolerance), max_iterations, n_bootstrap),
        memory or Memory(),
    )
    if observation != "auto":
        return fit.run(y, observation, previous)
    return chosen(fit, y, select(fit, y), previous)


def _check_arguments(
    n_states: int,
    observation: str,
    n_restarts: int,
    seed: int,
    stickiness: float,
    tolerance: float,
    max_iterations: int,
    n_bootstrap: int,
    memory: object,
    previous: object,
) -> None:
    where = "fit_regimes"
    whole(n_states, "n_states", where, least=2, most=3)
    choice(observation, "observation", where, (*get_args(Observation), "auto"))
    whole(n_restarts, "n_restarts", where, least=1, most=10_000)
    whole(seed, "seed", where, least=0)
    number(stickiness, "stickiness", where, least=0.0)
    number(tolerance, "tolerance", where, above=0.0)
    whole(max_iterations, "max_iterations", where, least=1, most=1_000_000)
    whole(n_bootstrap, "n_bootstrap", where, least=20, most=1_000_000)
    require_type(memory, Memory | None, "memory", where)
    require_type(previous, RegimeModel | None, "previous", where)


#: Names of the options of a fit, for the functions that pass them on.
FIT_OPTIONS: Final = frozenset(signature(fit_regimes).parameters) - {"returns", "seed"}


def fit_many(
    returns: Mapping[str, FloatLike], *, workers: int = 2, seed: int = 0, **options: Any
) -> dict[str, RegimeModel | ModelError]:
    """Fit one model per series, in parallel threads (the loops release the GIL).

    Args:
        returns: series by symbol, each (T,), of any lengths.
        workers: threads; the result does not depend on it.
        seed: the same for every series, so that a result does not depend on the others.
        options: as for `fit_regimes`; `previous` may map symbols to models.

    Returns:
        By symbol, the model, or the `DataError` or `NotConvergedError` that says why there is none.

    Raises:
        BadRequestError: an option is out of its domain.
    """
    where = "fit_many"
    whole(workers, "workers", where, least=1, most=1_000)
    for name, value in (("returns", returns), ("previous", options.get("previous") or {})):
        if not isinstance(value, Mapping):
            raise BadRequestError(f"{name} of type {type(value).__name__}", where=where, hint="Map symbols to values.")
    unknown = [name for name in options if name not in FIT_OPTIONS]
    if unknown:
        raise BadRequestError(
            f"unknown option {unknown[0]!r}",
            where=where,
            hint=nearest(unknown[0], FIT_OPTIONS) or f"Options: {', '.join(sorted(FIT_OPTIONS))}.",
        )
    previous: Mapping[str, RegimeModel] = options.pop("previous", None) or {}

    def one(symbol: str) -> RegimeModel | ModelError:
        try:
            return fit_regimes(returns[symbol], seed=seed, previous=previous.get(symbol), **options)
        except ModelError as error:
            return error

    with ThreadPoolExecutor(workers) as pool:
        return dict(zip(returns, pool.map(one, returns), strict=True))
