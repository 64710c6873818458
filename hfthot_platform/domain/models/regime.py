"""Market regimes: which of trending, mean-reverting or volatile a series of returns is in, and how sure that is.

What belongs here: fitting, filtering, smoothing, decoding, labelling and choosing regime models.  What does
not: prices, tables, schedules.  The fitted model itself is in `_regime_model`, fitting in `_regime_fit`, the compiled
loops in `_regime_loops`; this module is the one to import.

**Markov-switching AR(1)** (`ar1`; Hamilton 1989).  The regime s is a Markov chain with transition matrix A, and

    r_t | s_t ~ N(mu_s + phi_s r_(t-1), sigma_s^2),

so trending is phi > 0 and mean-reverting phi < 0, which a Gaussian hidden Markov model cannot see.  It is
fitted by expectation-maximisation (Hamilton 1990) with the exact M-step; the likelihood is that of the returns
given their direct predecessors.  `gaussian` is the same with phi = 0: the baseline.

**Multivariate** (`multivariate`).  The states are found by a Gaussian hidden Markov model with full covariances on
four causal features of each bar: the return, the efficiency ratio, the lag-1 autocorrelation and the log realised
volatility, with exponentially decaying memory (`Memory`).  It is the model of hmmlearn's `GaussianHMM`, the reference
in the tests, fitted here because that is several times faster and because a gap can then move the regime.  The
memories of neighbouring bars overlap, so the likelihood of the features counts each return many times and is far too
sure.  From the states found, a second expectation-maximisation therefore climbs the likelihood of the returns,

    r_t | s_t, past ~ N(c_s + phi_s r_(t-1), (exp(a_s) v_(t-1)^b_s)^2),   v the realised volatility,

in which each counts once; filter, smoother and densities are those of this law.  So its probabilities are
probabilities, and `RegimeModel.predictive_log_density` is log p(r_t | r before t) under either model: what `auto`
compares.

**Gaps.**  NaN means that the bar is missing, and is accepted only with `allow_missing=True`; infinity and returns ten
orders of magnitude beyond the usual ones are mistakes in the prices and count as missing, too.  A missing bar
moves the regime by A and says nothing else; the first return after a gap of k bars is judged by the AR(1) law
over k bars, or by the stationary law where nothing came before.  It is never a return of zero.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from inspect import signature
from typing import Any, Final, Literal, NamedTuple, get_args

import numpy as np

from hfthot_platform.core.arguments import choice, number, whole
from hfthot_platform.core.arrays import FloatArray, FloatLike, IntArray
from hfthot_platform.core.errors import BadRequestError, DataError, ModelError, nearest
from hfthot_platform.domain.models import _regime_loops as loops
from hfthot_platform.domain.models._regime_fit import Fit, chosen, select
from hfthot_platform.domain.models._regime_model import (
    LABELS,
    QUIET,
    STRATEGIES,
    Evidence,
    Memory,
    Observation,
    RegimeModel,
    Selection,
    checked_returns,
)

__all__ = [
    "LABELS",
    "QUIET",
    "STRATEGIES",
    "Agreement",
    "Evidence",
    "FilterState",
    "Memory",
    "Observation",
    "RegimeFilter",
    "RegimeModel",
    "RegimeUpdate",
    "Selection",
    "WalkForward",
    "agreement",
    "bar_returns",
    "fit_many",
    "fit_regimes",
    "walk_forward",
]


#: Points of the longest grid of bars: half a century of seconds.
_LONGEST_GRID: Final = 1_600_000_000


class RegimeUpdate(NamedTuple):
    """The regime after one bar."""

    #: Of the model's `names`: calm and normal where it cannot tell trending from mean-reverting.
    regime: str
    #: Probability of that regime.
    confidence: float
    #: Of each state, in the order of the model's labels.
    probabilities: tuple[float, ...]
    #: momentum, stat_arb, risk_off or neutral: what suits the regime.
    strategy: str
    #: False if the model cannot tell trending from mean-reverting beyond noise: do not bet on the difference.
    identified: bool


@dataclass(frozen=True)
class FilterState:
    """All that a `RegimeFilter` remembers.  JSON keeps it bit by bit."""

    model_version: str
    values: tuple[float, ...]

    def to_json(self) -> str:
        """Return the state as JSON."""
        return json.dumps({"model_version": self.model_version, "values": [float(v).hex() for v in self.values]})

    @classmethod
    def from_json(cls, text: str) -> FilterState:
        """Return the state that `to_json` wrote.

        Raises:
            ModelError: the text is not such a state.
        """
        try:
            values = json.loads(text)
            return cls(values["model_version"], tuple(float.fromhex(each) for each in values["values"]))
        except (KeyError, TypeError, ValueError, AttributeError, OverflowError) as error:
            raise ModelError(
                f"not a filter state ({error})", where="FilterState.from_json", hint="Pass what to_json returned."
            ) from error


class RegimeFilter:
    """The causal filter, one bar at a time: bit by bit what `RegimeModel.filter` gives for the whole series.

    A filter is not for use from several threads at once.
    """

    def __init__(self, model: RegimeModel, state: FilterState | None = None) -> None:
        """Start before the first bar, from the long-run distribution of the regimes, or where a saved state left off.

        Raises:
            BadRequestError: the state belongs to another model.
        """
        _is_a(model, RegimeModel, "model", "RegimeFilter")
        _is_a(state, FilterState | None, "state", "RegimeFilter")
        self.model = model
        part = model.multivariate
        self._arguments: tuple[FloatArray, ...]
        if part:
            self._step: Any = loops.online_multivariate
            self._unit = part.scale
            self._arguments = (part.decay, part.law, model.mu / part.scale, model.phi, model.sigma / part.scale)
            self._memory = np.zeros(13)
            self._memory[-1] = np.nan
        else:
            self._step = loops.online_autoregressive
            self._unit = 1.0
            self._arguments = (model.mu, model.phi, model.sigma)
            self._memory = np.zeros(3)
        # Nothing is known before the first bar; `initial` is about the first bar of the fitted data.
        self._arguments = (*self._arguments, model.transition, model.long_run)
        self._probabilities = model.long_run[None, :].copy()
        self._names = tuple((name, STRATEGIES.get(name, "neutral")) for name in model.names)
        if state is None:
            return
        if state.model_version != model.version or len(state.values) != model.n_states + self._memory.size:
            raise BadRequestError(
                f"the state belongs to model {state.model_version}, not {model.version}",
                where="RegimeFilter",
                hint="Load the model with which the state was saved, or filter the recent returns again.",
            )
        values = np.array(state.values)
        probabilities = values[: model.n_states]
        # Only the last return may be unknown, where its bar was missing.
        known = values[:-1] if part else values
        if not (np.isfinite(known).all() and probabilities.min() >= 0 and abs(probabilities.sum() - 1.0) < 1e-6):
            raise BadRequestError(
                "the state's probabilities do not add up to one, or its memory holds what is no number",
                where="RegimeFilter",
                hint="Filter the returns again.",
            )
        self._probabilities[0] = probabilities
        self._memory[:] = values[model.n_states :]

    @property
    def state(self) -> FilterState:
        """Return a copy of what the filter remembers."""
        return FilterState(self.model.version, (*self._probabilities[0].tolist(), *self._memory.tolist()))

    @property
    def bars(self) -> int:
        """Return how many bars the filter has seen, missing ones included."""
        return int(self._memory[0])

    def update(self, r: float) -> RegimeUpdate:
        """Take one new return; NaN, infinity and an absurd size (see `RegimeModel.filter`) are a missing bar.

        Raises:
            DataError: the return is not a number; the filter is as it was.
        """
        try:
            value = float(r)
        except (TypeError, ValueError, OverflowError) as error:
            raise DataError(
                f"the return is {r!r}", where="RegimeFilter.update", hint="Give a number, NaN for a bar without one."
            ) from error
        return self._update(value / self._unit if abs(value) <= self.model.absurd else math.nan)

    def skip(self, bars: int = 1) -> RegimeUpdate:
        """Let bars pass without a return: the regime drifts by the transition matrix.

        Raises:
            BadRequestError: no whole number of bars, fewer than one, or more than a million.
        """
        whole(bars, "bars", "RegimeFilter.skip", least=1, most=1_000_000)
        for _ in range(bars - 1):
            self._step(self._probabilities, self._memory, math.nan, *self._arguments)
        return self._update(math.nan)

    def _update(self, r: float) -> RegimeUpdate:
        best = self._step(self._probabilities, self._memory, r, *self._arguments)
        probabilities = tuple(self._probabilities[0].tolist())
        regime, strategy = self._names[best]
        return RegimeUpdate(regime, probabilities[best], probabilities, strategy, self.model.identified)


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
    _is_a(memory, Memory | None, "memory", where)
    _is_a(previous, RegimeModel | None, "previous", where)


def _is_a(value: object, kind: Any, name: str, where: str) -> None:
    if not isinstance(value, kind):
        wanted = getattr(kind, "__name__", str(kind))
        raise BadRequestError(f"{name} of type {type(value).__name__}", where=where, hint=f"Give a {wanted}.")


#: Names of the options of a fit, for the functions that pass them on.
_OPTIONS: Final = frozenset(signature(fit_regimes).parameters) - {"returns", "seed"}


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
    unknown = [name for name in options if name not in _OPTIONS]
    if unknown:
        raise BadRequestError(
            f"unknown option {unknown[0]!r}",
            where=where,
            hint=nearest(unknown[0], _OPTIONS) or f"Of {', '.join(sorted(_OPTIONS))}.",
        )
    previous: Mapping[str, RegimeModel] = options.pop("previous", None) or {}

    def one(symbol: str) -> RegimeModel | ModelError:
        try:
            return fit_regimes(returns[symbol], seed=seed, previous=previous.get(symbol), **options)
        except ModelError as error:
            return error

    with ThreadPoolExecutor(workers) as pool:
        return dict(zip(returns, pool.map(one, returns), strict=True))


@dataclass(frozen=True, eq=False)
class WalkForward:
    """Regimes as they would have been known: the parameters used at t were fitted on returns before t.

    Attributes:
        labels: names of the columns.
        probabilities: filtered, (T, K); NaN before `start`.
        regime: index of the most probable label, (T,); -1 before `start`.
        model: index of the model used, (T,); -1 before `start`.
        models: the fits, oldest first.
        fitted_until: for each model, the number of returns it was fitted on (it never saw that index or later).
    """

    labels: tuple[str, ...]
    probabilities: FloatArray
    regime: IntArray
    model: IntArray
    models: tuple[RegimeModel, ...]
    fitted_until: tuple[int, ...]

    def judged(self, returns: FloatLike, *, ahead: int = 60) -> tuple[FloatArray, FloatArray]:
        """Return what was said of each bar's regime, and what the same model says once later returns are known.

        Nobody knows the regimes of a real series, but a probability must hold up against what comes after: if it is
        one, the later probability of the regime called equals the one said, on average over all bars that were called
        with it.  Both are of the model that was in use, so the later one uses new returns and never a new definition
        of the regimes; `reliability.reliability` compares the two.

        Args:
            returns: those walked forward over, (T,). ahead: returns beyond a model's last bar that may be used.

        Returns:
            From the first filtered bar on: the probability of the most probable regime, and its later probability.

        Raises:
            DataError: not as many returns as were walked over.
        """
        where = "WalkForward.judged"
        whole(ahead, "ahead", where, least=0)
        y = checked_returns(returns, allow_missing=True)
        if y.size != self.model.size:
            raise DataError(f"{y.size} returns", where=where, hint=f"Give the {self.model.size} walked forward over.")
        said, later = [], []
        for k, model in enumerate(self.models):
            bars = np.flatnonzero(self.model == k)
            called = self.regime[bars]
            smoothed = model.smooth(y[: bars[-1] + 1 + ahead], allow_missing=True)
            said.append(self.probabilities[bars, called])
            later.append(smoothed[bars, called])
        return np.concatenate(said), np.concatenate(later)


def walk_forward(
    returns: FloatLike,
    *,
    start: int,
    refit_every: int = 21,
    window: int | None = None,
    allow_missing: bool = False,
    observation: Observation | Literal["auto"] = "auto",
    n_restarts: int = 10,
    seed: int = 0,
    **options: Any,
) -> WalkForward:
    """Fit on the returns before t, filter at t, refit every so many bars.

    Refits start from the model before them, besides random starts, and keep its names unless the data
    identify others.  With `auto`, the observation model is chosen at the first fit.

    Args:
        returns: (T,), oldest first.
        start: first bar to filter; the first fit sees the bars before it.
        refit_every: bars between fits.
        window: bars that a fit sees; None for all of the past.
        allow_missing: as for `fit_regimes`. observation: as there. n_restarts: of the first fit; refits use 2.
        seed: as there. options: as there.

    Raises:
        BadRequestError: `start` or `refit_every` is out of range.
        DataError: as for `fit_regimes`.
        NotConvergedError: as for `fit_regimes`.
    """
    where = "walk_forward"
    y = checked_returns(returns, allow_missing=allow_missing)
    whole(start, "start", where, least=1, most=y.size - 1)
    whole(refit_every, "refit_every", where, least=1)
    whole(n_restarts, "n_restarts", where, least=1)
    if window is not None:
        whole(window, "window", where, least=1)
    unknown = [name for name in options if name not in _OPTIONS - {"previous"}]
    if unknown:
        raise BadRequestError(
            f"unknown option {unknown[0]!r}",
            where=where,
            hint=nearest(unknown[0], _OPTIONS) or f"Of {', '.join(sorted(_OPTIONS))}.",
        )
    models: list[RegimeModel] = []
    fitted_until = list(range(start, y.size, refit_every))
    probabilities = np.full((y.size, 0), np.nan)
    used = np.full(y.size, -1, dtype=np.int64)
    for k, now in enumerate(fitted_until):
        since = max(0, now - window) if window else 0
        previous = models[-1] if models else None
        models.append(
            fit_regimes(
                y[since:now],
                observation=previous.observation if previous else observation,
                n_restarts=min(2, n_restarts) if previous else n_restarts,
                seed=seed,
                allow_missing=True,
                previous=previous,
                **options,
            )
        )
        if previous is None:
            probabilities = np.full((y.size, models[0].n_states), np.nan)
        elif models[-1].labels != models[0].labels:
            # Two states only: the quiet one may turn from trending to mean-reverting; columns keep their meaning.
            raise ModelError(
                f"the states changed from {models[0].labels} to {models[-1].labels}",
                where=f"walk_forward, fit on {now} returns",
                hint="Use n_states=3.",
            )
        end = min(now + refit_every, y.size)
        filtered = models[-1].filter(y[since:end], allow_missing=True)
        probabilities[now:end] = filtered[now - since :]
        used[now:end] = k
    regime = np.full(y.size, -1, dtype=np.int64)
    regime[start:] = probabilities[start:].argmax(axis=1)
    return WalkForward(models[0].labels, probabilities, regime, used, tuple(models), tuple(fitted_until))


@dataclass(frozen=True, eq=False)
class Agreement:
    """How often two sequences of regimes agree.

    Attributes:
        rate: share of bars on which they agree.
        confusion: bars by causal regime (row) and hindsight regime (column), (K, K).
        occupancy: share of bars of each regime, causal first, (2, K).
    """

    rate: float
    confusion: IntArray
    occupancy: FloatArray


def agreement(causal: IntArray, hindsight: IntArray, *, n_states: int = 3) -> Agreement:
    """Compare what was said at the time with what is said in hindsight.

    Args:
        causal: regimes by index, (T,). hindsight: the same bars' regimes, (T,).
        n_states: number of states.

    Raises:
        DataError: the lengths differ or there is no bar.
    """
    whole(n_states, "n_states", "agreement", least=1, most=1_000)
    causal, hindsight = (_states(each, n_states) for each in (causal, hindsight))
    if causal.shape != hindsight.shape or causal.size == 0:
        raise DataError(f"shapes {causal.shape} and {hindsight.shape}", where="agreement", hint="Pass the same bars.")
    confusion = np.zeros((n_states, n_states), dtype=np.int64)
    np.add.at(confusion, (causal, hindsight), 1)
    occupancy = np.stack([confusion.sum(axis=1), confusion.sum(axis=0)]) / causal.size
    return Agreement(float(np.trace(confusion) / causal.size), confusion, occupancy)


def _states(values: Any, n_states: int) -> IntArray:
    found = np.asarray(values)
    if found.dtype.kind not in "iu" or found.ndim != 1:
        raise DataError(
            f"regimes of type {found.dtype} and shape {found.shape}", where="agreement", hint="Pass indices, (T,)."
        )
    if found.size and not (found.min() >= 0 and found.max() < n_states):
        raise DataError(
            f"a regime with index {found.min() if found.min() < 0 else found.max()}",
            where="agreement",
            hint=f"Indices lie from 0 to {n_states - 1}; leave out the bars before the first fit.",
        )
    return found.astype(np.int64)


def bar_returns(times: Sequence[int] | IntArray, closes: FloatLike, step: int) -> tuple[IntArray, FloatArray]:
    """Put closes on a regular grid and return the log-returns of single bars.

    A bar is missing if no close is on its grid point.  The return of a bar whose predecessor is missing spans
    several bars and is therefore missing too.

    Args:
        times: of the bars, (N,), increasing integers (for example microseconds). closes: prices, (N,).
        step: distance of the grid points, in the same unit.

    Returns:
        Grid times (T,), T the number of grid points from the second close's first possible place to the last,
        and log-returns (T,), NaN where missing.

    Raises:
        DataError: fewer than two closes, times not increasing or off the grid, or a close that is not positive.
    """
    where = "bar_returns"
    whole(step, "step", where, least=1)
    try:
        given = np.asarray(times)
        if given.dtype.kind not in "iu":
            raise TypeError(f"times of type {given.dtype}")
        at, price = given.astype(np.int64), np.asarray(closes, dtype=np.float64)
    except (TypeError, ValueError, OverflowError) as error:
        raise DataError(f"not numbers ({error})", where=where, hint="Integer times and prices.") from error
    if at.ndim != 1 or at.shape != price.shape or at.size < 2:
        raise DataError(f"shapes {at.shape} and {price.shape}, expected (N,) twice, N >= 2", where=where)
    place, rest = np.divmod(at - at[0], step)
    if rest.any() or (np.diff(place) <= 0).any():
        bad = int(at[np.flatnonzero(rest)[0]] if rest.any() else at[1:][np.diff(place) <= 0][0])
        raise DataError(f"time {bad} is off the grid or out of order", where=where, hint=f"step={step}.")
    if place[-1] > _LONGEST_GRID:
        raise DataError(f"a grid of {int(place[-1]):,} points", where=where, hint=f"step={step} is too short for it.")
    if not ((price > 0) & np.isfinite(price)).all():
        raise DataError("a close is not a positive number", where=where, hint="Drop the bar.")
    grid = np.full(int(place[-1]) + 1, np.nan)
    grid[place] = np.log(price)
    return at[0] + step * np.arange(1, grid.size, dtype=np.int64), np.diff(grid)
