"""Market regimes: which of trending, mean-reverting or volatile a series of returns is in, and how sure that is.

What belongs here: fitting, filtering, smoothing, decoding, labelling and choosing regime models.  What does
not: prices, tables, schedules.  The loops are in `_regime_loops`.

**Markov-switching AR(1)** (`ar1`; Hamilton 1989).  The regime s is a Markov chain with transition matrix A, and

    r_t | s_t ~ N(mu_s + phi_s r_(t-1), sigma_s^2),

so trending is phi > 0 and mean-reverting phi < 0, which a Gaussian hidden Markov model cannot see.  It is
fitted by expectation-maximisation (Hamilton 1990) with the exact M-step; the likelihood is that of the returns
given their direct predecessors.  `gaussian` is the same with phi = 0: the baseline.

**Multivariate** (`multivariate`).  A Gaussian hidden Markov model with full covariances on four causal features of
each bar: the return, the efficiency ratio, the lag-1 autocorrelation and the log realised volatility, with
exponentially decaying memory (`Memory`).  It is the model of hmmlearn's `GaussianHMM`, the reference in the tests,
fitted here because that is several times faster and because a gap can then move the regime.  The memories of
neighbouring bars overlap, so the likelihood of the features is not that of the returns.  To compare the two
models, each state also has a law of the next return,

    r_t | s_t, past ~ N(c_s + phi_s r_(t-1), (exp(a_s) v_(t-1)^b_s)^2),   v the realised volatility,

where the state has the distribution (1 - e) p(s_t | bars before t) + e pi, pi the long-run distribution: the
share e, estimated with c, phi, a, b, corrects the overconfidence that overlap brings.
`RegimeModel.predictive_log_density` is thus log p(r_t | r before t) under either model, of the same returns, and
these are what is compared.

**Gaps.**  NaN means that the bar is missing, and is accepted only with `allow_missing=True`.  A missing bar
moves the regime by A and says nothing else; the first return after a gap of k bars is judged by the AR(1) law
over k bars, or by the stationary law where nothing came before.  It is never a return of zero.
"""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass, field, replace
from functools import cached_property
from typing import Any, Final, Literal, NamedTuple, get_args

import numpy as np

from hfthot_platform.errors import BadRequestError, DataError, ModelError, NotConvergedError
from hfthot_platform.models import _regime_loops as loops
from hfthot_platform.models.arrays import BoolArray, FloatArray, FloatLike, IntArray

__all__ = [
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

Observation = Literal["ar1", "gaussian", "multivariate"]

#: What to do in each regime.
STRATEGIES: Final[dict[str, str]] = {
    "trending": "momentum",
    "mean_reverting": "stat_arb",
    "volatile": "risk_off",
}
_ORDER: Final = tuple(STRATEGIES)

#: Bars over which the score compares a regime's moves with a random walk's.
_HORIZON: Final = 10
#: A label or a separation is beyond noise if this share of bootstrap draws agrees.
_CONFIDENCE: Final = 0.95
#: Names swap between refits only if this share of bootstrap draws wants it.
_RELABEL: Final = 0.9
#: Share of the bars, from the end, that the choice between models is made on.
_HOLDOUT: Final = 0.3
#: Least standard deviation of a state, in standard deviations of the series.
_SIGMA_FLOOR: Final = 0.05
_SCREENING_ITERATIONS: Final = 30
_POLISHED: Final = 3


@dataclass(frozen=True)
class Memory:
    """Half-lives of the features of the multivariate model, in bars.

    The defaults come from the daily S&P 500 before 2018: a short memory of volatility predicts the next return
    best, and trend and autocorrelation need more bars to be told from noise.
    """

    volatility: float = 3.0
    trend: float = 5.0
    autocorrelation: float = 10.0

    def __post_init__(self) -> None:
        """Refuse half-lives that are not positive numbers."""
        for name, value in asdict(self).items():
            if not (math.isfinite(value) and value > 0):
                raise BadRequestError(f"{name}={value!r} is not a positive number of bars", where="Memory")

    @property
    def decay(self) -> FloatArray:
        """Return the factors per bar, (3,)."""
        return np.array([0.5 ** (1.0 / each) for each in (self.volatility, self.trend, self.autocorrelation)])


@dataclass(frozen=True)
class Evidence:
    """What the names of the states rest on; tuples in the order of the labels.

    `score` is the variance ratio over ten bars about zero, with survival of the regime:

        1 + 2 sum_(k<10) (1 - k/10) A_ss^k (phi_s^k v_s^2 + m_s^2) / (v_s^2 + m_s^2),

    m and v the mean and standard deviation of the return.  A random walk has 1; persistence of moves (phi),
    drift over noise (m / v) and staying power (A_ss) raise it, reversal lowers it.  The state with the
    largest volatility v is volatile; of the others the one with the larger score is trending.

    The bootstrap resamples blocks of bars, each weighted with the state predicted from the bars before it, so
    that states which merely collect similar bars after the fact prove nothing.
    """

    score: tuple[float, ...]
    volatility: tuple[float, ...]
    occupancy: tuple[float, ...]
    #: 5 % and 95 % points of the score over the bootstrap draws.
    score_low: tuple[float, ...]
    score_high: tuple[float, ...]
    #: Share of bootstrap draws in which the state gets the same name.
    label_confidence: tuple[float, ...]


@dataclass(frozen=True)
class Selection:
    """Why this observation model: mean log p(r_t | past) per held-out bar, in nats, of each candidate."""

    chosen: Observation
    mean_log_density: dict[str, float]
    #: Standard error of the difference between the two means.
    standard_error: float
    held_out: int


@dataclass(frozen=True)
class _Multivariate:
    """The part of a multivariate model that `RegimeModel` does not share."""

    memory: Memory
    #: Unit of returns inside the features.
    scale: float
    #: Means and covariances of the features, (K, 4) and (K, 4, 4).
    mean: FloatArray
    covariance: FloatArray
    #: Law of the next return: c, phi, a, b per state, (K, 4), and the share e of the long run.
    law: FloatArray
    share: float

    @cached_property
    def whiten(self) -> FloatArray:
        """Return the inverse Cholesky factors, (K, 4, 4)."""
        return np.ascontiguousarray([np.linalg.inv(np.linalg.cholesky(each)) for each in self.covariance])

    @cached_property
    def constant(self) -> FloatArray:
        """Return the log-densities at the mean of the return and of all features, (K, 2)."""
        log_scale = np.log(np.diagonal(self.whiten, axis1=1, axis2=2))
        half = 0.5 * math.log(2.0 * math.pi)
        return np.stack([log_scale[:, 0] - half, log_scale.sum(axis=1) - 4.0 * half], axis=1)

    @cached_property
    def decay(self) -> FloatArray:
        """Return the factors per bar of the memory, (3,)."""
        return self.memory.decay

    def features(self, y: FloatArray) -> tuple[FloatArray, IntArray]:
        """Return the features (T, 4) of returns y (T,) and how much of them is known (T,)."""
        return _features(y, self.scale, self.memory)

    def log_density(self, features: FloatArray, known: IntArray) -> FloatArray:
        """Return the log-density of the features in each state, (T, K)."""
        out = np.empty((known.size, len(self.mean)))
        loops.multivariate_density(features, known, self.mean, self.whiten, self.constant, out)
        return out


@dataclass(frozen=True, eq=False)
class RegimeModel:
    """A fitted regime model.  Arrays are in the order of `labels`.

    Attributes:
        observation: which observation model.
        labels: names of the states.
        mu: constant of the return's AR(1) in each state, (K,), in units of the returns.
        phi: its slope, (K,).
        sigma: its standard deviation, (K,), in units of the returns.
        transition: probability of the state (column) after the state (row), (K, K).
        initial: distribution of the state at the first bar, (K,).
        log_likelihood: of the fitted data; of the features for `multivariate`.
        bic: Bayesian information criterion; comparable between models of the same observation only.
        n_observations: returns that the likelihood counts.
        iterations: of the best start.
        converged: whether the tolerance was reached.
        trace: the objective at each iteration, never falling.
        identified: whether trending and mean-reverting are told apart beyond noise.
        reason: why not; empty if identified.
        evidence: the figures behind the labels.
        selection: the choice between the observation models, where one was asked for.
    """

    observation: Observation
    labels: tuple[str, ...]
    mu: FloatArray
    phi: FloatArray
    sigma: FloatArray
    transition: FloatArray
    initial: FloatArray
    log_likelihood: float
    bic: float
    n_observations: int
    iterations: int
    converged: bool
    trace: tuple[float, ...]
    identified: bool
    reason: str
    evidence: Evidence
    selection: Selection | None = None
    _multivariate: _Multivariate | None = field(default=None, repr=False)

    @property
    def n_states(self) -> int:
        """Return the number of states."""
        return self.mu.size

    @property
    def memory(self) -> Memory | None:
        """Return the memory of the features, None unless the model is multivariate."""
        return self._multivariate.memory if self._multivariate else None

    @cached_property
    def version(self) -> str:
        """Return a fingerprint of everything that decides the model's output."""
        digest = hashlib.sha256(repr((self.observation, self.labels)).encode())
        for each in (self.mu, self.phi, self.sigma, self.transition, self.initial):
            digest.update(each.tobytes())
        if part := self._multivariate:
            digest.update(repr((part.memory, part.scale, part.share)).encode())
            for each in (part.mean, part.covariance, part.law):
                digest.update(each.tobytes())
        return digest.hexdigest()[:16]

    def filter(self, returns: FloatLike, *, allow_missing: bool = False) -> FloatArray:
        """Return p(state at t | returns up to t), (T, K), columns in the order of `labels`.

        Raises:
            DataError: the returns are not a one-dimensional array of numbers, or hold infinity, or NaN that is
                not allowed.
        """
        return self._forward(_returns(returns, allow_missing=allow_missing))[0]

    def smooth(self, returns: FloatLike, *, allow_missing: bool = False) -> FloatArray:
        """Return p(state at t | all returns), (T, K): hindsight, for study, never for trading.

        Raises:
            DataError: as for `filter`.
        """
        f, _ = self._forward(_returns(returns, allow_missing=allow_missing))
        g = np.empty_like(f)
        loops.backward(f, self.transition, g)
        return g

    def decode(self, returns: FloatLike, *, allow_missing: bool = False) -> IntArray:
        """Return the most probable sequence of states (Viterbi), (T,), as indices into `labels`.

        Raises:
            DataError: as for `filter`.
        """
        y = _returns(returns, allow_missing=allow_missing)
        path = np.empty(y.size, dtype=np.int64)
        loops.viterbi(self._log_density(y), self.transition, self.initial, path)
        return path

    def predictive_log_density(self, returns: FloatLike, *, allow_missing: bool = False) -> FloatArray:
        """Return log p(r_t | returns before t), (T,), in nats per unit of the returns; NaN for missing bars.

        Comparable between all observation models.

        Raises:
            DataError: as for `filter`.
        """
        y = _returns(returns, allow_missing=allow_missing)
        f, out = self._forward(y)
        if part := self._multivariate:
            rows = _law_density(*part.features(y), part)
            long_run = _long_run(self.transition)
            loops.predictive_density(rows, f, self.transition, self.initial, part.share, long_run, out)
            out -= math.log(part.scale)
        out[np.isnan(y)] = np.nan
        return out

    def conditional_log_likelihood(self, returns: FloatLike, *, allow_missing: bool = False) -> float:
        """Return the likelihood that the fit maximises: returns without a direct predecessor are given.

        For `multivariate` it is that of the features.

        Raises:
            DataError: as for `filter`.
        """
        y = _returns(returns, allow_missing=allow_missing)
        rows, f, out = np.empty((y.size, self.n_states)), np.empty((y.size, self.n_states)), np.empty(y.size)
        if self._multivariate:
            features, known = self._multivariate.features(y)
            rows = self._multivariate.log_density(features, np.where(known == 2, 2, 0))
            loops.forward(rows, self.transition, self.initial, f, out)
        else:
            loops.filter_autoregressive(
                y, self.mu, self.phi, self.sigma, self.transition, self.initial, True, rows, f, out
            )
        return float(out.sum())

    def simulate(self, n_bars: int, *, seed: int) -> tuple[FloatArray, IntArray]:
        """Return simulated returns (n_bars,) and their true states (n_bars,); AR(1) models only.

        Raises:
            BadRequestError: the model is multivariate (its features do not determine returns).
        """
        if self._multivariate:
            raise BadRequestError("a multivariate model has no law to simulate from", where="RegimeModel.simulate")
        generator = np.random.default_rng(seed)
        y, path = np.empty(n_bars), np.empty(n_bars, dtype=np.int64)
        uniform, normal = generator.random(n_bars), generator.standard_normal(n_bars)
        loops.simulate(uniform, normal, self.mu, self.phi, self.sigma, self.transition, self.initial, y, path)
        return y, path

    def to_json(self) -> str:
        """Return the model as JSON; floats survive exactly."""
        values = {name: getattr(self, name) for name in self.__dataclass_fields__ if name != "_multivariate"}
        values["evidence"] = asdict(self.evidence)
        values["selection"] = asdict(self.selection) if self.selection else None
        if part := self._multivariate:
            values["multivariate"] = {**asdict(part), "memory": asdict(part.memory)}
        return json.dumps(values, default=_plain)

    @classmethod
    def from_json(cls, text: str) -> RegimeModel:
        """Return the model that `to_json` wrote.

        Raises:
            ModelError: the text is not such a model.
        """
        try:
            values: dict[str, Any] = json.loads(text)
            part = values.pop("multivariate", None)
            for name in ("mu", "phi", "sigma", "transition", "initial"):
                values[name] = np.array(values[name], dtype=np.float64)
            values["labels"], values["trace"] = tuple(values["labels"]), tuple(values["trace"])
            values["evidence"] = Evidence(**{name: tuple(each) for name, each in values["evidence"].items()})
            if values["selection"]:
                values["selection"] = Selection(**values["selection"])
            if part:
                arrays = {name: np.array(part[name], dtype=np.float64) for name in ("mean", "covariance", "law")}
                values["_multivariate"] = _Multivariate(
                    Memory(**part["memory"]), part["scale"], share=part["share"], **arrays
                )
            return cls(**values)
        except (KeyError, TypeError, ValueError) as error:
            raise ModelError(
                f"not a regime model ({error})", where="RegimeModel.from_json", hint="Pass what to_json returned."
            ) from error

    def _log_density(self, y: FloatArray) -> FloatArray:
        if self._multivariate:
            return self._multivariate.log_density(*self._multivariate.features(y))
        x, gap, out = np.empty(y.size), np.empty(y.size, dtype=np.int64), np.empty((y.size, self.n_states))
        loops.gaps(y, gap, x)
        loops.autoregressive_density(y, x, gap, self.mu, self.phi, self.sigma, False, out)
        return out

    def _forward(self, y: FloatArray) -> tuple[FloatArray, FloatArray]:
        f, out, rows = np.empty((y.size, self.mu.size)), np.empty(y.size), np.empty((y.size, self.mu.size))
        if part := self._multivariate:
            loops.filter_multivariate(
                *(y / part.scale, part.decay, part.mean, part.whiten, part.constant),
                *(self.transition, self.initial, rows, f, out),
            )
        else:
            loops.filter_autoregressive(
                *(y, self.mu, self.phi, self.sigma, self.transition, self.initial, False, rows, f, out)
            )
        return f, out


def _plain(value: object) -> object:
    if isinstance(value, np.ndarray):
        return value.tolist()
    if isinstance(value, np.generic):
        return value.item()
    raise TypeError(f"cannot write {type(value).__name__} as JSON")


# ---------------------------------------------------------------------------------------------------- online


class RegimeUpdate(NamedTuple):
    """The regime after one bar."""

    regime: str
    #: Probability of that regime.
    confidence: float
    #: Of each state, in the order of the model's labels.
    probabilities: tuple[float, ...]
    #: momentum, stat_arb or risk_off: what suits the regime.
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
        except (KeyError, TypeError, ValueError) as error:
            raise ModelError(
                f"not a filter state ({error})", where="FilterState.from_json", hint="Pass what to_json returned."
            ) from error


class RegimeFilter:
    """The causal filter, one bar at a time: bit by bit what `RegimeModel.filter` gives for the whole series.

    A filter is not for use from several threads at once.
    """

    def __init__(self, model: RegimeModel, state: FilterState | None = None) -> None:
        """Start before the first bar, or where a saved state left off.

        Raises:
            BadRequestError: the state belongs to another model.
        """
        self.model = model
        part = model._multivariate  # noqa: SLF001 (one module)
        self._arguments: tuple[FloatArray, ...]
        if part:
            self._step: Any = loops.online_multivariate
            self._unit = part.scale
            self._arguments = (part.decay, part.mean, part.whiten, part.constant)
            self._values = np.zeros(model.n_states + 11)
            self._values[-1] = np.nan
        else:
            self._step = loops.online_autoregressive
            self._unit = 1.0
            self._arguments = (model.mu, model.phi, model.sigma)
            self._values = np.zeros(model.n_states + 3)
        self._arguments = (*self._arguments, model.transition, model.initial)
        self._states = model.n_states
        self._names = tuple((label, STRATEGIES[label]) for label in model.labels)
        if state is None:
            self._values[: self._states] = model.initial
            return
        if state.model_version != model.version or len(state.values) != self._values.size:
            raise BadRequestError(
                f"the state belongs to model {state.model_version}, not {model.version}",
                where="RegimeFilter",
                hint="Load the model with which the state was saved, or filter the recent returns again.",
            )
        self._values[:] = state.values

    @property
    def state(self) -> FilterState:
        """Return a copy of what the filter remembers."""
        return FilterState(self.model.version, tuple(self._values.tolist()))

    @property
    def bars(self) -> int:
        """Return how many bars the filter has seen, missing ones included."""
        return int(self._values[self._states])

    def update(self, r: float) -> RegimeUpdate:
        """Take one new return.

        Raises:
            DataError: the return is not a finite number; the filter is as it was.
        """
        if not math.isfinite(r):
            raise DataError(
                f"the return is {r!r}", where="RegimeFilter.update", hint="Call skip() for a bar without a return."
            )
        return self._update(r / self._unit)

    def skip(self, bars: int = 1) -> RegimeUpdate:
        """Let bars pass without a return: the regime drifts by the transition matrix.

        Raises:
            BadRequestError: fewer than one bar.
        """
        if bars < 1:
            raise BadRequestError(f"bars={bars}", where="RegimeFilter.skip", hint="Pass 1 or more.")
        for _ in range(bars - 1):
            self._step(self._values, math.nan, *self._arguments)
        return self._update(math.nan)

    def _update(self, r: float) -> RegimeUpdate:
        best = self._step(self._values, r, *self._arguments)
        probabilities = tuple(self._values[: self._states].tolist())
        regime, strategy = self._names[best]
        return RegimeUpdate(regime, probabilities[best], probabilities, strategy, self.model.identified)


# ------------------------------------------------------------------------------------------------------- fit


def fit_regimes(
    returns: FloatLike,
    *,
    n_states: int = 3,
    observation: Observation | Literal["auto"] = "ar1",
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
        observation: `ar1`, `gaussian`, `multivariate`, or `auto`: the one of `ar1` and `multivariate` that
            predicts the last 30 % of the returns better after a fit to the first 70 %.
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
        previous: the model of an earlier fit to the same series: an additional start, and names are kept where
            the data do not contradict them.

    Returns:
        The model; `converged` is false if the bound was met first.

    Raises:
        BadRequestError: an argument is out of its domain.
        DataError: too few returns, a constant series, infinity, or NaN that is not allowed.
        NotConvergedError: no start gave a finite likelihood.
    """
    _check_arguments(n_states, observation, n_restarts, stickiness, tolerance, max_iterations, n_bootstrap)
    y = _returns(returns, allow_missing=allow_missing)
    where = "fit_regimes"
    present = int(np.isfinite(y).sum())
    if present < 50 * n_states:
        raise DataError(
            f"{present} returns cannot carry {n_states} states",
            where=where,
            hint=f"Pass {50 * n_states} or more; 1000 and more give stable regimes.",
        )
    spread = float(np.nanstd(y))
    if not spread > 1e-12 * float(np.nanmax(np.abs(y))):
        raise DataError(
            f"the returns are constant ({y[np.isfinite(y)][0]!r})", where=where, hint="Check the price series."
        )
    if previous is not None and previous.n_states != n_states:
        raise BadRequestError(f"previous has {previous.n_states} states", where=where, hint=f"n_states={n_states}.")
    fit = _Fit(n_states, n_restarts, seed, stickiness, tolerance, max_iterations, n_bootstrap, memory or Memory())
    if observation != "auto":
        return fit.run(y, observation, previous)
    selection = _select(fit, y)
    return replace(fit.run(y, selection.chosen, previous), selection=selection)


def _check_arguments(
    n_states: int,
    observation: str,
    n_restarts: int,
    stickiness: float,
    tolerance: float,
    max_iterations: int,
    n_bootstrap: int,
) -> None:
    known = (*get_args(Observation), "auto")
    problems = {
        f"n_states={n_states}": n_states not in {2, 3},
        f"observation={observation!r}": observation not in known,
        f"n_restarts={n_restarts}": n_restarts < 1,
        f"stickiness={stickiness}": not (math.isfinite(stickiness) and stickiness >= 0),
        f"tolerance={tolerance}": not tolerance > 0,
        f"max_iterations={max_iterations}": max_iterations < 1,
        f"n_bootstrap={n_bootstrap}": n_bootstrap < 20,
    }
    wrong = [name for name, is_wrong in problems.items() if is_wrong]
    if wrong:
        raise BadRequestError(
            f"out of domain: {', '.join(wrong)}",
            where="fit_regimes",
            hint=f"n_states is 2 or 3; observation one of {', '.join(known)}; the others positive, n_bootstrap >= 20.",
        )


@dataclass
class _Chain:
    """Parameters of one fit, states in any order; of the returns in their own unit."""

    mu: FloatArray
    phi: FloatArray
    sigma: FloatArray
    A: FloatArray
    pi: FloatArray

    def arrays(self) -> tuple[FloatArray, FloatArray, FloatArray, FloatArray, FloatArray]:
        return self.mu, self.phi, self.sigma, self.A, self.pi


class _Climb(NamedTuple):
    """The end of one start's iterations, in standardised units."""

    objective: float
    likelihood: float
    converged: bool
    trace: FloatArray


@dataclass(frozen=True)
class _Fit:
    """The settings of a fit, and its steps."""

    n_states: int
    n_restarts: int
    seed: int
    stickiness: float
    tolerance: float
    max_iterations: int
    n_bootstrap: int
    memory: Memory

    def run(self, y: FloatArray, observation: Observation, previous: RegimeModel | None) -> RegimeModel:
        if observation == "multivariate":
            return self._multivariate(y, previous)
        return self._autoregressive(y, observation, previous)

    def _autoregressive(self, y: FloatArray, observation: Observation, previous: RegimeModel | None) -> RegimeModel:
        autoregressive = observation == "ar1"
        shift, unit = float(np.nanmean(y)), float(np.nanstd(y))
        z = (y - shift) / unit
        x, gap = np.empty_like(z), np.empty(z.size, dtype=np.int64)
        loops.gaps(z, gap, x)
        use = (gap == 1 if autoregressive else gap >= 0).astype(np.int64)
        z[gap < 0] = 0.0  # never read where `use` is 0, but NaN times 0 is NaN

        def climb(chain: _Chain, bound: int) -> _Climb:
            trace = np.empty(bound)
            iterations, likelihood, converged = loops.expectation_maximisation(
                *(z, x, use, autoregressive, self.stickiness, _SIGMA_FLOOR**2, self.tolerance, bound),
                *(*chain.arrays(), trace),
            )
            trace = trace[:iterations]
            # Theory says it cannot fall; if it does, the arithmetic has failed and the result is worthless.
            worst = float(np.diff(trace).min(initial=0.0))
            if worst < -1e-9 * max(1.0, abs(likelihood)):
                raise NotConvergedError(
                    f"the likelihood fell by {-worst:.3g} in one iteration",
                    where="fit_regimes",
                    hint="Report it with the data: expectation-maximisation must not do this.",
                )
            return _Climb(float(trace[-1]), likelihood, converged, trace)

        starts = self._starts(autoregressive=autoregressive)
        if previous is not None and previous.observation == observation:
            starts.append(_rescaled(_chain_of(previous), shift, unit))
        screened = sorted(
            (
                (climb(chain, min(_SCREENING_ITERATIONS, self.max_iterations)).objective, k)
                for k, chain in enumerate(starts)
            ),
            reverse=True,
        )
        best: tuple[_Climb, _Chain] | None = None
        for objective, k in screened[:_POLISHED]:
            if not math.isfinite(objective):
                continue
            result = climb(starts[k], self.max_iterations)
            if best is None or result.objective > best[0].objective:
                best = result, starts[k]
        if best is None:
            raise NotConvergedError(
                "no start has a finite likelihood", where="fit_regimes", hint="Look for absurd outliers in the returns."
            )
        (_, likelihood, converged, trace), chain = best
        jacobian = int(use.sum()) * math.log(unit)
        chain = _in_units(chain, shift, unit, self.n_states)
        parameters = self.n_states * (3 if autoregressive else 2) + self.n_states**2 - 1
        draft = _draft(
            observation,
            chain,
            likelihood=likelihood - jacobian,
            parameters=parameters,
            n=int(use.sum()),
            trace=(trace - jacobian).tolist(),
        )
        return self._labelled(replace(draft, converged=converged), y, previous)

    def _starts(self, *, autoregressive: bool) -> list[_Chain]:
        """Return random starting points in standardised units, padded to the three states of the loops."""
        generator = np.random.default_rng([self.seed, 1])
        starts = []
        for _ in range(self.n_restarts):
            mu = generator.normal(0.0, 0.1, 3)
            phi = generator.uniform(-0.5, 0.5, 3) if autoregressive else np.zeros(3)
            sigma = np.exp(generator.uniform(math.log(0.4), math.log(2.0), 3))
            stay = generator.uniform(0.8, 0.99)
            A = np.full((3, 3), (1.0 - stay) / (self.n_states - 1))
            np.fill_diagonal(A, stay)
            starts.append(_padded(_Chain(mu, phi, sigma, A, np.full(3, 1.0 / self.n_states)), self.n_states))
        return starts

    def _multivariate(self, y: FloatArray, previous: RegimeModel | None) -> RegimeModel:
        scale = float(np.nanstd(y))
        features, known = _features(y, scale, self.memory)
        full = known == 2
        if full.sum() < 50 * self.n_states:
            raise DataError(
                f"only {int(full.sum())} bars have all features",
                where="fit_regimes(observation='multivariate')",
                hint="Pass a longer series with fewer gaps, or observation='ar1'.",
            )
        best: _Mixture | None = None
        starts = [_mixture_start(features, full, k, self) for k in range(min(4, self.n_restarts))]
        part = previous._multivariate if previous else None  # noqa: SLF001 (one module)
        if part and previous and part.memory == self.memory:
            mean, covariance = _rescaled_features(part, scale)
            starts.append(_Mixture(_rescaled(_chain_of(previous), 0.0, 1.0), mean, covariance))
        screened = [_climb_mixture(start, features, known, self, _SCREENING_ITERATIONS) for start in starts]
        screened.sort(key=lambda each: -each.trace[-1])
        for start in screened[:2]:
            result = _climb_mixture(start, features, known, self, self.max_iterations)
            if best is None or result.trace[-1] > best.trace[-1]:
                best = result
        if best is None or not math.isfinite(best.trace[-1]):
            raise NotConvergedError(
                "no start of the multivariate model has a finite likelihood",
                where="fit_regimes(observation='multivariate')",
                hint="Look for absurd outliers in the returns, or pass observation='ar1'.",
            )
        chain, mean, covariance = best.chain, best.mean, best.covariance
        likelihood, trace, converged = best.trace[-1], best.trace, best.converged
        part = _Multivariate(self.memory, scale, mean, covariance, np.zeros((self.n_states, 4)), 0.0)
        f, out = np.empty((y.size, self.n_states)), np.empty(y.size)
        loops.forward(part.log_density(features, known), chain.A, chain.pi, f, out)
        g = np.empty_like(f)
        loops.backward(f, chain.A, g)
        law, share = _fit_law(features, known, _predictions(f, chain), _long_run(chain.A), part)
        part = replace(part, law=law, share=share)
        regression = _regression(_moments(y, g))
        sigma = np.sqrt(regression.variance * (1.0 - regression.phi**2))
        chain = _Chain(regression.mean * (1.0 - regression.phi), regression.phi, sigma, chain.A, chain.pi)
        parameters = self.n_states * 14 + self.n_states**2 - 1
        draft = _draft(
            "multivariate", chain, likelihood=likelihood, parameters=parameters, n=int(full.sum()), trace=trace
        )
        return self._labelled(replace(draft, converged=converged, _multivariate=part), y, previous)

    def _labelled(self, draft: RegimeModel, y: FloatArray, previous: RegimeModel | None) -> RegimeModel:
        """Name the states, put them in the order of the names, and say how sure the names are."""
        f, _ = draft._forward(y)  # noqa: SLF001
        g = np.empty_like(f)
        loops.backward(f, draft.transition, g)
        stay = np.diag(draft.transition)
        variance = draft.sigma**2 / (1.0 - draft.phi**2)
        score = _score(draft.mu / (1.0 - draft.phi), variance, draft.phi, stay)
        draws = _bootstrap(y, _predictions(f, _chain_of(draft)), self.n_bootstrap, self.seed)
        drawn_score = _score(draws.mean, draws.variance, draws.phi, stay)
        drawn_names = [_names(v, s) for v, s in zip(draws.variance, drawn_score, strict=True)]

        names = _names(variance, score)
        if previous is not None:
            kept = _continued(names, np.sqrt(variance), previous)
            wanted = float(np.mean([each == names for each in drawn_names]))
            names = names if wanted >= _RELABEL else kept
        order = sorted(range(self.n_states), key=lambda j: _ORDER.index(names[j]))
        labels = tuple(names[j] for j in order)
        evidence = Evidence(
            score=_tuple(score[order]),
            volatility=_tuple(np.sqrt(variance)[order]),
            occupancy=_tuple(g.mean(axis=0)[order]),
            score_low=_tuple(np.quantile(drawn_score, 0.05, axis=0)[order]),
            score_high=_tuple(np.quantile(drawn_score, 0.95, axis=0)[order]),
            label_confidence=tuple(float(np.mean([each[j] == names[j] for each in drawn_names])) for j in order),
        )
        floor = _SIGMA_FLOOR * float(np.nanstd(y)) * (1.0 + 1e-9)
        stuck = [labels[k] for k, j in enumerate(order) if draft.sigma[j] <= floor]
        reason = _why_not(draft, labels, evidence, drawn_score[:, order], np.sqrt(draws.variance)[:, order], stuck)
        part = draft._multivariate  # noqa: SLF001
        if part:
            part = replace(part, mean=part.mean[order], covariance=part.covariance[order], law=part.law[order])
        return replace(
            draft,
            labels=labels,
            mu=draft.mu[order],
            phi=draft.phi[order],
            sigma=draft.sigma[order],
            transition=np.ascontiguousarray(draft.transition[np.ix_(order, order)]),
            initial=draft.initial[order],
            evidence=evidence,
            identified=not reason,
            reason=reason,
            _multivariate=part,
        )


def _draft(
    observation: Observation, chain: _Chain, *, likelihood: float, parameters: int, n: int, trace: list[float]
) -> RegimeModel:
    """Return a model whose states have no names yet."""
    return RegimeModel(
        observation=observation,
        labels=(),
        mu=np.ascontiguousarray(chain.mu),
        phi=np.ascontiguousarray(chain.phi),
        sigma=np.ascontiguousarray(chain.sigma),
        transition=np.ascontiguousarray(chain.A),
        initial=np.ascontiguousarray(chain.pi),
        log_likelihood=likelihood,
        bic=parameters * math.log(n) - 2.0 * likelihood,
        n_observations=n,
        iterations=len(trace),
        converged=False,
        trace=tuple(trace),
        identified=False,
        reason="",
        evidence=Evidence((), (), (), (), (), ()),
    )


def _tuple(values: FloatArray) -> tuple[float, ...]:
    return tuple(values.tolist())


def _chain_of(model: RegimeModel) -> _Chain:
    return _Chain(model.mu, model.phi, model.sigma, model.transition, model.initial)


def _padded(chain: _Chain, n_states: int) -> _Chain:
    """Return the chain with a third state that cannot be reached, if it has two."""
    if n_states == 3:
        return chain
    A = np.eye(3)
    A[:2, :2] = chain.A[:2, :2]
    return _Chain(
        np.append(chain.mu[:2], 0.0),
        np.append(chain.phi[:2], 0.0),
        np.append(chain.sigma[:2], 1e3),
        A,
        np.append(chain.pi[:2], 0.0),
    )


def _rescaled(chain: _Chain, shift: float, unit: float) -> _Chain:
    """Return the chain for standardised returns (r - shift) / unit, padded, free to be changed in place."""
    mu = (chain.mu - shift * (1.0 - chain.phi)) / unit
    # A transition or a start that an earlier fit put at exactly zero could never come back.
    A = chain.A * 0.999 + 0.001 / chain.mu.size
    pi = chain.pi * 0.999 + 0.001 / chain.mu.size
    return _padded(_Chain(mu, chain.phi.copy(), chain.sigma / unit, A, pi), chain.mu.size)


def _in_units(chain: _Chain, shift: float, unit: float, n_states: int) -> _Chain:
    """Return the chain of standardised returns for returns in their own unit, without padding."""
    keep = slice(n_states)
    phi = chain.phi[keep]
    mu = chain.mu[keep] * unit + shift * (1.0 - phi)
    return _Chain(mu, phi, chain.sigma[keep] * unit, chain.A[keep, keep], chain.pi[keep])


def _returns(returns: FloatLike, *, allow_missing: bool) -> FloatArray:
    """Return the returns as a contiguous array of doubles, checked."""
    try:
        y = np.ascontiguousarray(returns, dtype=np.float64)
    except (TypeError, ValueError) as error:
        raise DataError(f"not an array of numbers ({error})", where="returns") from error
    if y.ndim != 1 or y.size == 0:
        raise DataError(f"shape {y.shape}, expected (T,) with T >= 1", where="returns")
    # One pass and no temporary: the sum is finite unless something is not.
    if not math.isfinite(float(np.add.reduce(y))):
        missing = np.isnan(y)
        if np.isinf(y).any():
            raise DataError(
                f"infinity at index {int(np.isinf(y).argmax())}", where="returns", hint="A price was zero or absent."
            )
        if missing.any() and not allow_missing:
            raise DataError(
                f"NaN at index {int(missing.argmax())} ({int(missing.sum())} of {y.size})",
                where="returns",
                hint="If NaN marks missing bars, pass allow_missing=True.",
            )
        if missing.all():
            raise DataError("every bar is missing", where="returns", hint="Check the time range.")
    return y


# ---------------------------------------------------------------------------------------- multivariate model


def _features(y: FloatArray, scale: float, memory: Memory) -> tuple[FloatArray, IntArray]:
    out, known = np.empty((y.size, 4)), np.empty(y.size, dtype=np.int64)
    loops.trailing_features(y / scale, memory.decay, out, known)
    return out, known


@dataclass
class _Mixture:
    """A Gaussian hidden Markov model of the features: means (K, 4), covariances (K, 4, 4)."""

    chain: _Chain
    mean: FloatArray
    covariance: FloatArray
    trace: list[float] = field(default_factory=lambda: [-math.inf])
    converged: bool = False


def _mixture_start(features: FloatArray, full: BoolArray, start: int, fit: _Fit) -> _Mixture:
    """Return a starting point: the first from thirds of the volatility, the others from random bars."""
    rows = features[full]
    spread = rows.std(axis=0)
    generator = np.random.default_rng([fit.seed, 3, start])
    if start == 0:
        rank = rows[:, 3].argsort().argsort()
        group = rank * fit.n_states // rank.size
    else:
        centres = rows[generator.choice(len(rows), fit.n_states, replace=False)]
        group = (((rows[:, None, 1:] - centres[:, 1:]) / spread[1:]) ** 2).sum(axis=2).argmin(axis=1)
    mean, covariance = np.empty((fit.n_states, 4)), np.empty((fit.n_states, 4, 4))
    for j in range(fit.n_states):
        own = rows[group == j]
        own = own if len(own) > 20 else rows
        mean[j], covariance[j] = own.mean(axis=0), np.cov(own.T) + np.diag(1e-3 * spread**2)
    A = np.full((fit.n_states, fit.n_states), 0.05 / (fit.n_states - 1))
    np.fill_diagonal(A, 0.95)
    nothing = np.zeros(fit.n_states)
    return _Mixture(_Chain(nothing, nothing, nothing, A, np.full(fit.n_states, 1.0 / fit.n_states)), mean, covariance)


def _climb_mixture(start: _Mixture, features: FloatArray, known: IntArray, fit: _Fit, bound: int) -> _Mixture:
    """Iterate expectation-maximisation; bars without all features only move the regime."""
    known = np.where(known == 2, 2, 0)
    full = known == 2
    rows = features[full]
    floor = np.diag(1e-6 * rows.var(axis=0))
    states = fit.n_states
    f, g = np.empty((known.size, states)), np.empty((known.size, states))
    jumps, log_density = np.empty((states, states)), np.empty((known.size, states))
    mean, covariance = start.mean.copy(), start.covariance.copy()
    keep = slice(states)
    A, pi = np.ascontiguousarray(start.chain.A[keep, keep]), np.ascontiguousarray(start.chain.pi[keep])
    trace: list[float] = []
    converged = False
    for iteration in range(bound):
        part = _Multivariate(fit.memory, 1.0, mean, covariance, np.empty((states, 4)), 0.0)
        loops.multivariate_density(features, known, mean, part.whiten, part.constant, log_density)
        trace.append(loops.smooth_and_count(log_density, A, pi, f, g, jumps))
        if len(trace) > 1:
            gain = trace[-1] - trace[-2]
            # The floor added to the covariances is worth less than this.
            if gain < -1e-3 * max(1.0, 1e-3 * abs(trace[-1])) or not math.isfinite(trace[-1]):
                raise NotConvergedError(
                    f"the likelihood of the features fell by {-gain:.3g} in one iteration",
                    where="fit_regimes(observation='multivariate')",
                    hint="Look for absurd outliers in the returns, or pass observation='ar1'.",
                )
            if gain < max(fit.tolerance, 1e-3):
                converged = True
                break
        if iteration + 1 == bound:
            break
        weight = g[full]
        total = weight.sum(axis=0)
        for j in np.flatnonzero(total > 10.0):
            mean[j] = weight[:, j] @ rows / total[j]
            centred = rows - mean[j]
            covariance[j] = (weight[:, [j]] * centred).T @ centred / total[j] + floor
        count = jumps.sum(axis=1, keepdims=True)
        A = np.where(count > 1e-12, jumps / np.maximum(count, 1e-12), A)
        pi = g[0].copy()
    chain = replace(start.chain, A=A, pi=pi)
    return _Mixture(chain, mean, covariance, trace, converged)


def _rescaled_features(part: _Multivariate, scale: float) -> tuple[FloatArray, FloatArray]:
    """Return means and covariances of the features for another unit of returns."""
    factor = part.scale / scale
    unit = np.array([factor, 1.0, 1.0, 1.0])
    shift = np.array([0.0, 0.0, 0.0, math.log(factor)])
    return part.mean * unit + shift, part.covariance * np.outer(unit, unit)


def _law_density(features: FloatArray, known: IntArray, part: _Multivariate) -> FloatArray:
    """Return the log-density of each return (in units of the scale) in each state, (T, K).

    A return whose last bar lacks features falls back on the state's own distribution of returns.
    """
    rows = part.log_density(features, np.minimum(known, 1))
    # The features of the bar before, and this bar's return.
    now = np.flatnonzero((known[1:] > 0) & (known[:-1] == 2)) + 1
    z, x, v = features[now, 0], features[now - 1, 0], features[now - 1, 3]
    c, phi, a, b = part.law.T
    log_sigma = a + b * v[:, None]
    residual = (z[:, None] - c - phi * x[:, None]) * np.exp(-log_sigma)
    rows[now] = -0.5 * residual**2 - log_sigma - 0.5 * math.log(2.0 * math.pi)
    return rows


def _fit_law(
    features: FloatArray, known: IntArray, prediction: FloatArray, long_run: FloatArray, part: _Multivariate
) -> tuple[FloatArray, float]:
    """Return c, phi, a, b per state, (K, 4), in units of the scale, and the share e of the long run.

    By expectation-maximisation: a weighted regression for (c, phi), Fisher scoring for (a, b), the log-linear
    standard deviation, and the mean posterior for e.

    Args:
        features: (T, 4). known: (T,). prediction: of the state from the bars before, (T, K).
        long_run: (K,). part: the model without its law.
    """
    now = np.flatnonzero((known[1:] > 0) & (known[:-1] == 2)) + 1
    predicted = prediction[now]
    z, x, v = features[now, 0], features[now - 1, 0], features[now - 1, 3]
    states = predicted.shape[1]
    law = np.column_stack(
        [np.zeros((states, 2)), 0.5 * np.log(part.covariance[:, 0, 0]) - part.mean[:, 3], np.ones(states)]
    )
    share = 0.1
    design, scale_design = np.column_stack([np.ones_like(x), x]), np.column_stack([np.ones_like(v), v])
    previous = -math.inf
    for _ in range(200):
        log_sigma = scale_design @ law[:, 2:].T
        density = np.exp(-0.5 * ((z[:, None] - design @ law[:, :2].T) * np.exp(-log_sigma)) ** 2 - log_sigma)
        weight = ((1.0 - share) * predicted + share * long_run) * density
        total = weight.sum(axis=1) + 1e-300
        objective = float(np.log(total).sum())
        if objective - previous < 1e-2:
            break
        previous = objective
        share = float(np.mean(share * (density @ long_run) / total))
        weight /= total[:, None]
        for j in range(states):
            inverse = weight[:, j] * np.exp(-2.0 * log_sigma[:, j])
            gram = design.T @ (inverse[:, None] * design) + 1e-9 * np.eye(2)
            law[j, :2] = np.linalg.solve(gram, design.T @ (inverse * z))
            squared = ((z - design @ law[j, :2]) * np.exp(-log_sigma[:, j])) ** 2
            information = 2.0 * scale_design.T @ (weight[:, [j]] * scale_design) + 1e-6 * np.eye(2)
            step = np.linalg.solve(information, scale_design.T @ (weight[:, j] * (squared - 1.0)))
            law[j, 2:] += np.clip(step, -0.5, 0.5)
    return law, share


def _long_run(A: FloatArray) -> FloatArray:
    """Return the stationary distribution of a chain, (K,); of the reachable part if it is not unique."""
    long_run = np.full(len(A), 1.0 / len(A)) @ np.linalg.matrix_power(A, 1 << 20)
    return np.asarray(long_run / long_run.sum())


def _select(fit: _Fit, y: FloatArray) -> Selection:
    """Compare log p(r_t | past) over the last part of the returns, after fits to the first part."""
    split = int(y.size * (1.0 - _HOLDOUT))
    if np.isfinite(y[:split]).sum() < 100 * fit.n_states:
        raise DataError(
            f"{int(np.isfinite(y).sum())} returns are too few to hold some out",
            where="fit_regimes(observation='auto')",
            hint=f"Pass {math.ceil(100 * fit.n_states / (1 - _HOLDOUT))} or more, or choose the observation model.",
        )
    density: dict[str, FloatArray] = {}
    candidates: tuple[Observation, ...] = ("ar1", "multivariate")
    for observation in candidates:
        model = fit.run(y[:split], observation, None)
        density[observation] = model.predictive_log_density(y, allow_missing=True)[split:]
    present = np.isfinite(y[split:])
    means = {name: float(each[present].mean()) for name, each in density.items()}
    difference = (density["ar1"] - density["multivariate"])[present]
    chosen: Observation = "multivariate" if means["multivariate"] > means["ar1"] else "ar1"
    return Selection(chosen, means, float(difference.std() / math.sqrt(difference.size)), int(present.sum()))


# ---------------------------------------------------------------------------------------------------- labels


class _Regression(NamedTuple):
    """Mean, variance and lag-1 slope of the return in each state, (..., K)."""

    mean: FloatArray
    variance: FloatArray
    phi: FloatArray


def _moments(y: FloatArray, weight: FloatArray, block: int | None = None) -> FloatArray:
    """Return weighted sums of 1, x, y, x^2, x y, y^2 over returns with a direct predecessor x.

    Args:
        y: (T,), NaN where missing. weight: (T, K). block: bars per block.

    Returns:
        (K, 6), or (blocks, K, 6).
    """
    x, now = y[:-1], y[1:]
    there = np.isfinite(x) & np.isfinite(now)
    x, now = np.where(there, x, 0.0), np.where(there, now, 0.0)
    terms = np.stack([there.astype(np.float64), x, now, x * x, x * now, now * now], axis=1)
    weighted = weight[1:, :, None] * terms[:, None, :]
    if block is None:
        return np.asarray(weighted.sum(axis=0))
    return np.asarray(np.add.reduceat(weighted, np.arange(0, weighted.shape[0], block), axis=0))


def _regression(moments: FloatArray) -> _Regression:
    n, sx, sy, sxx, sxy, syy = np.moveaxis(moments, -1, 0)
    n = np.maximum(n, 1e-9)
    tiny = 1e-300
    cxx = np.maximum(sxx - sx * sx / n, tiny)
    phi = np.clip((sxy - sx * sy / n) / cxx, -0.99, 0.99)
    return _Regression(sy / n, np.maximum(syy / n - (sy / n) ** 2, tiny), phi)


def _bootstrap(y: FloatArray, prediction: FloatArray, draws: int, seed: int) -> _Regression:
    """Return the moments of each state over resampled blocks of bars, (draws, K)."""
    block = max(20, round(math.sqrt(y.size)))
    blocks = _moments(y, prediction, block)
    count = np.random.default_rng([seed, 2]).multinomial(len(blocks), np.full(len(blocks), 1.0 / len(blocks)), draws)
    return _regression(np.tensordot(count.astype(np.float64), blocks, axes=(1, 0)))


def _score(mean: FloatArray, variance: FloatArray, phi: FloatArray, stay: FloatArray) -> FloatArray:
    """Return the variance ratio about zero over the horizon; see `Evidence`."""
    square = mean**2
    lags = np.arange(1, _HORIZON).reshape(-1, *([1] * mean.ndim))
    terms = (1.0 - lags / _HORIZON) * stay**lags * (phi**lags * variance + square) / (variance + square)
    return np.asarray(1.0 + 2.0 * terms.sum(axis=0))


def _names(variance: FloatArray, score: FloatArray) -> tuple[str, ...]:
    """Return the name of each state."""
    loudest = int(np.argmax(variance))
    others = sorted((j for j in range(variance.size) if j != loudest), key=lambda j: -score[j])
    names = [""] * variance.size
    names[loudest] = "volatile"
    if len(others) == 1:
        names[others[0]] = "trending" if score[others[0]] >= 1.0 else "mean_reverting"
    else:
        names[others[0]], names[others[1]] = "trending", "mean_reverting"
    return tuple(names)


def _continued(names: tuple[str, ...], volatility: FloatArray, previous: RegimeModel) -> tuple[str, ...]:
    """Return the names under which the two quieter states are nearest to those of the previous model."""
    if len(names) < 3 or set(previous.labels) != set(_ORDER):
        return names
    before = dict(zip(previous.labels, previous.evidence.volatility, strict=True))
    swap = {"trending": "mean_reverting", "mean_reverting": "trending", "volatile": "volatile"}
    swapped = tuple(swap[each] for each in names)

    def distance(candidate: tuple[str, ...]) -> float:
        return sum(abs(math.log(v / before[name])) for name, v in zip(candidate, volatility.tolist(), strict=True))

    return min(names, swapped, key=distance)


def _why_not(
    draft: RegimeModel,
    labels: tuple[str, ...],
    evidence: Evidence,
    score: FloatArray,
    volatility: FloatArray,
    stuck: list[str],
) -> str:
    """Return why trending and mean-reverting are not told apart beyond noise, or an empty string.

    Args:
        draft: the fit. labels: (K,). evidence: the figures. score: of the bootstrap draws, (draws, K).
        volatility: of the bootstrap draws, (draws, K). stuck: names of states at the variance floor.
    """
    reasons = []
    if not draft.converged:
        reasons.append(f"not converged after {draft.iterations} iterations: raise max_iterations")
    reasons += [
        f"the {label} state sits on the variance floor: the series has runs of equal returns" for label in stuck
    ]
    for label, share in zip(labels, evidence.occupancy, strict=True):
        if share < 0.01:
            reasons.append(f"the {label} state holds {share:.1%} of the bars")
    for name, above in (("trending", True), ("mean_reverting", False)):
        if name not in labels:
            continue
        k = labels.index(name)
        agreed = float(np.mean((score[:, k] > 1.0) == above))
        if agreed < _CONFIDENCE:
            reasons.append(
                f"{name} does not differ from a random walk beyond noise: variance ratio {evidence.score[k]:.2f}, "
                f"90 % interval {evidence.score_low[k]:.2f} to {evidence.score_high[k]:.2f} from predicted states"
            )
    k = labels.index("volatile")
    agreed = float(np.mean(volatility.argmax(axis=1) == k))
    if agreed < _CONFIDENCE:
        reasons.append(f"the volatile state is the most volatile in only {agreed:.0%} of bootstrap draws")
    return "; ".join(reasons)


def _predictions(f: FloatArray, chain: _Chain) -> FloatArray:
    """Return p(state at t | bars before t), (T, K), from the filtered distributions."""
    return np.vstack([chain.pi, f[:-1] @ chain.A])


# ------------------------------------------------------------------------------------- many series, and time


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
    if workers < 1:
        raise BadRequestError(f"workers={workers}", where="fit_many", hint="Pass 1 or more.")
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


def walk_forward(
    returns: FloatLike,
    *,
    start: int,
    refit_every: int = 21,
    window: int | None = None,
    allow_missing: bool = False,
    observation: Observation | Literal["auto"] = "ar1",
    n_restarts: int = 10,
    seed: int = 0,
    **options: Any,
) -> WalkForward:
    """Fit on the returns before t, filter at t, refit every so many bars.

    Refits start from the model before them, besides random starts, and keep its names unless the data
    contradict them.  With `auto`, the observation model is chosen at the first fit.

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
    y = _returns(returns, allow_missing=allow_missing)
    if not 0 < start < y.size or refit_every < 1:
        raise BadRequestError(
            f"start={start}, refit_every={refit_every} for {y.size} returns",
            where="walk_forward",
            hint="start lies inside the series, refit_every is 1 or more.",
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
    if causal.shape != hindsight.shape or causal.size == 0:
        raise DataError(f"shapes {causal.shape} and {hindsight.shape}", where="agreement", hint="Pass the same bars.")
    confusion = np.zeros((n_states, n_states), dtype=np.int64)
    np.add.at(confusion, (causal, hindsight), 1)
    occupancy = np.stack([confusion.sum(axis=1), confusion.sum(axis=0)]) / causal.size
    return Agreement(float(np.trace(confusion) / causal.size), confusion, occupancy)


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
    at, price = np.asarray(times, dtype=np.int64), np.asarray(closes, dtype=np.float64)
    if at.ndim != 1 or at.shape != price.shape or at.size < 2:
        raise DataError(f"shapes {at.shape} and {price.shape}, expected (N,) twice, N >= 2", where="bar_returns")
    place, rest = np.divmod(at - at[0], step)
    if rest.any() or (np.diff(place) <= 0).any():
        bad = int(at[np.flatnonzero(rest)[0]] if rest.any() else at[1:][np.diff(place) <= 0][0])
        raise DataError(f"time {bad} is off the grid or out of order", where="bar_returns", hint=f"step={step}.")
    if not (price > 0).all():
        raise DataError("a close is not a positive number", where="bar_returns", hint="Drop the bar.")
    grid = np.full(int(place[-1]) + 1, np.nan)
    grid[place] = np.log(price)
    return at[0] + step * np.arange(1, grid.size, dtype=np.int64), np.diff(grid)
