"""What a fitted regime model is, and what can be asked of it without fitting: filter, smooth, decode, densities.

What belongs here: the frozen result and its parts.  What does not: how it is fitted (`estimation`), online use
and time (`regime`, where the equations are).
"""

from __future__ import annotations

import hashlib
import json
import math
from dataclasses import asdict, dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any, Final, Literal, get_args

import numpy as np

from hfthot_platform.core.arguments import number, whole
from hfthot_platform.core.arrays import FloatArray, FloatLike, IntArray
from hfthot_platform.core.display import Displayed
from hfthot_platform.core.errors import BadRequestError, DataError, ModelError
from hfthot_platform.domain.models.regime import loops

if TYPE_CHECKING:
    import polars as pl

__all__ = [
    "ABSURD",
    "LABELS",
    "QUIET",
    "STRATEGIES",
    "Evidence",
    "Memory",
    "Multivariate",
    "Observation",
    "RegimeModel",
    "Selection",
    "checked_returns",
    "features_of",
    "long_run",
]

Observation = Literal["ar1", "gaussian", "multivariate"]

#: What to do in each regime.
STRATEGIES: Final[dict[str, str]] = {
    "trending": "momentum",
    "mean_reverting": "stat_arb",
    "volatile": "risk_off",
}
LABELS: Final = tuple(STRATEGIES)
#: What the two quieter states are called, from the smaller to the larger volatility, where the data do not tell
#: trending from mean-reverting; nothing is bet on the difference.
QUIET: Final = ("calm", "normal")
#: A return so many times larger than a series' usual ones is a mistake in the prices, not a move.
ABSURD: Final = 1e10


@dataclass(frozen=True)
class Memory:
    """Half-lives of the features of the multivariate model, in bars.

    The defaults are one of several similar choices on the daily S&P 500; `docs/models/regime.md` has the others.  A
    short memory of volatility predicts the next return best; trend and autocorrelation need more bars to be told
    from noise.
    """

    volatility: float = 3.0
    trend: float = 5.0
    autocorrelation: float = 10.0

    def __post_init__(self) -> None:
        """Refuse half-lives that are not positive numbers."""
        for name, value in asdict(self).items():
            number(value, name, "Memory, in bars", above=0.0)

    @property
    def decay(self) -> FloatArray:
        """Return the factors per bar, (3,)."""
        return np.array([0.5 ** (1.0 / half_life) for half_life in (self.volatility, self.trend, self.autocorrelation)])


@dataclass(frozen=True)
class Evidence:
    """What the names of the states rest on; tuples in the order of the labels.

    `score` is the variance ratio over ten bars about zero, with survival of the regime:

        1 + 2 sum_(k<10) (1 - k/10) A_ss^k (phi_s^k v_s^2 + m_s^2) / (v_s^2 + m_s^2),

    m and v the mean and standard deviation of the return.  A random walk has 1; persistence of moves (phi),
    drift over noise (m / v) and staying power (A_ss) raise it, reversal lowers it.  The state with the
    largest volatility v is volatile; of the others the one with the larger score is trending.

    Two bootstraps of blocks of bars say how sure this is.  One weights bars with the smoothed state and gives
    the interval of the score.  The other weights each bar with the state predicted from the bars before it, so
    that states which merely collect similar bars after the fact prove nothing; it gives the confidences.
    """

    score: tuple[float, ...]
    volatility: tuple[float, ...]
    occupancy: tuple[float, ...]
    #: 5 % and 95 % points of the score over the draws with smoothed states.
    score_low: tuple[float, ...]
    score_high: tuple[float, ...]
    #: Share of draws with predicted states in which the state gets the same name.
    label_confidence: tuple[float, ...]


@dataclass(frozen=True)
class Selection:
    """Why this observation model: mean log p(r_t | past) per held-out bar, in nats, of each candidate.

    A candidate that could not be fitted is absent.
    """

    chosen: Observation
    mean_log_density: dict[str, float]
    #: Standard error of the difference between the two means; NaN if only one could be fitted.
    standard_error: float
    held_out: int


@dataclass(frozen=True)
class Multivariate:
    """The part of a multivariate model that `RegimeModel` does not share."""

    memory: Memory
    #: Unit of returns inside the features.
    scale: float
    #: Means and covariances of the features by which the states were found, (K, 4) and (K, 4, 4).
    mean: FloatArray
    covariance: FloatArray
    #: Law of the next return: c, phi, a, b per state, (K, 4).
    law: FloatArray

    @cached_property
    def whiten(self) -> FloatArray:
        """Return the inverse Cholesky factors, (K, 4, 4)."""
        return np.ascontiguousarray([np.linalg.inv(np.linalg.cholesky(covariance)) for covariance in self.covariance])

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
        return features_of(y, self.scale, self.memory)


@dataclass(frozen=True, eq=False, repr=False)
class RegimeModel(Displayed):
    """A fitted regime model.  Arrays are in the order of `labels`.

    Attributes:
        observation: which observation model.
        labels: names of the states.
        mu: constant of the return's AR(1) in each state, (K,), in units of the returns.
        phi: its slope, (K,).
        sigma: its standard deviation, (K,), in units of the returns.
        transition: probability of the state (column) after the state (row), (K, K).
        initial: distribution of the state at the first bar of the fitted data, (K,).
        log_likelihood: of the fitted returns, as far as it is maximised (see `conditional_log_likelihood`).
        bic: Bayesian information criterion; comparable between models of the same observation only.
        n_observations: returns that the likelihood counts.
        iterations: of the best start.
        converged: whether the tolerance was reached.
        trace: the objective at each iteration, never falling.
        identified: whether trending and mean-reverting are told apart beyond noise.
        reason: why not; empty if identified.
        evidence: the figures behind the labels.
        selection: the choice between the observation models, where one was asked for.
        multivariate: what only the multivariate model has.
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
    multivariate: Multivariate | None = None

    def __str__(self) -> str:
        believed = "trending and mean-reverting are told apart" if self.identified else f"NOT identified: {self.reason}"
        lines = [
            f"Regime model {self.observation}, {self.n_observations:,} returns, "
            f"log-likelihood {self.log_likelihood:,.1f}"
            + ("" if self.converged else f"; NOT CONVERGED in {self.iterations} iterations"),
            f"  {believed}",
        ]
        lines += [
            f"  {row['regime']:<15} {row['long_run']:6.1%} of bars, {row['expected_bars']:7.1f} bars at a time, "
            f"phi {row['phi']:+.3f}, sigma {row['sigma']:.4g}"
            for row in self._states()
        ]
        return "\n".join(lines)

    def to_frame(self) -> pl.DataFrame:
        """Return one row per state: its names, parameters, how long it lasts, and the evidence for its label."""
        import polars as pl

        return pl.DataFrame(self._states())

    def _states(self) -> list[dict[str, Any]]:
        """Return the rows of `to_frame`; what the evidence does not hold is None."""
        evidence = {name: values or (None,) * self.n_states for name, values in asdict(self.evidence).items()}
        stays = np.diagonal(self.transition)
        return [
            {
                "regime": self.names[j],
                "label": self.labels[j],
                "mu": float(self.mu[j]),
                "phi": float(self.phi[j]),
                "sigma": float(self.sigma[j]),
                "stay": float(stays[j]),
                "expected_bars": 1 / (1 - float(stays[j])) if stays[j] < 1 else math.inf,
                "long_run": float(self.long_run[j]),
                **{name: values[j] for name, values in evidence.items()},
            }
            for j in range(self.n_states)
        ]

    @property
    def n_states(self) -> int:
        """Return the number of states."""
        return self.mu.size

    @property
    def memory(self) -> Memory | None:
        """Return the memory of the features, None unless the model is multivariate."""
        return self.multivariate.memory if self.multivariate else None

    @cached_property
    def names(self) -> tuple[str, ...]:
        """Return what to call the states: the labels if they are identified, else calm, normal and volatile."""
        if self.identified:
            return self.labels
        volatility = self.evidence.volatility
        quiet = sorted((j for j, label in enumerate(self.labels) if label != "volatile"), key=lambda j: volatility[j])
        named = dict(zip(quiet, QUIET, strict=False))
        return tuple(named.get(j, label) for j, label in enumerate(self.labels))

    @cached_property
    def long_run(self) -> FloatArray:
        """Return the stationary distribution of the states, (K,): what is known before any bar is seen."""
        return long_run(self.transition)

    @cached_property
    def absurd(self) -> float:
        """Return the size from which on a return counts as a mistake in the prices: no market moves so far."""
        unit = self.multivariate.scale if self.multivariate else float(np.sqrt(self.sigma**2 / (1 - self.phi**2)).max())
        return ABSURD * unit

    @cached_property
    def version(self) -> str:
        """Return a fingerprint of everything that decides the model's output."""
        digest = hashlib.sha256(repr((self.observation, self.labels)).encode())
        for parameter in (self.mu, self.phi, self.sigma, self.transition, self.initial):
            digest.update(parameter.tobytes())
        if part := self.multivariate:
            digest.update(repr((part.memory, part.scale)).encode())
            for parameter in (part.mean, part.covariance, part.law):
                digest.update(parameter.tobytes())
        return digest.hexdigest()[:16]

    def filter(self, returns: FloatLike, *, allow_missing: bool = False) -> FloatArray:
        """Return p(state at t | returns up to t), (T, K), columns in the order of `labels`.

        It starts from the long-run distribution, as `RegimeFilter` does: nothing is known before the first return.

        Raises:
            DataError: the returns are not a one-dimensional array of numbers, or hold NaN, infinity or an absurd size
                (ten orders of magnitude beyond the model), which are missing bars if these are allowed.
        """
        y = self._checked(returns, allow_missing=allow_missing)
        return self.filtered(y, densities=False, start=self.long_run)[0]

    def smooth(self, returns: FloatLike, *, allow_missing: bool = False) -> FloatArray:
        """Return p(state at t | all returns), (T, K): hindsight, for study, never for trading.

        Raises:
            DataError: as for `filter`.
        """
        f, _ = self.filtered(self._checked(returns, allow_missing=allow_missing), densities=False)
        g = np.empty_like(f)
        loops.backward(f, self.transition, g)
        return g

    def decode(self, returns: FloatLike, *, allow_missing: bool = False) -> IntArray:
        """Return the most probable sequence of states (Viterbi), (T,), as indices into `labels`.

        Raises:
            DataError: as for `filter`.
        """
        y = self._checked(returns, allow_missing=allow_missing)
        path = np.empty(y.size, dtype=np.int64)
        loops.viterbi(self._log_density(y), self.transition, self.initial, path)
        return path

    def predictive_log_density(self, returns: FloatLike, *, allow_missing: bool = False) -> FloatArray:
        """Return log p(r_t | returns before t), (T,), in nats per unit of the returns; NaN for missing bars.

        Comparable between all observation models.

        Raises:
            DataError: as for `filter`.
        """
        y = self._checked(returns, allow_missing=allow_missing)
        _, out = self.filtered(y)
        if self.multivariate:
            out -= math.log(self.multivariate.scale)
        out[np.isnan(y)] = np.nan
        return out

    def predictive_probability(self, returns: FloatLike, at: FloatLike, *, allow_missing: bool = False) -> FloatArray:
        """Return p(r_t <= at | returns before t), (T,); NaN for missing bars.

        With `at` the returns themselves it is the probability integral transform, uniform if the model is right: what
        happened next is seen by everybody, so this is how a model is judged where nobody knows the regimes.

        Args:
            returns: (T,). at: a number, or one for each bar, (T,), in units of the returns.
            allow_missing: as for `filter`.

        Raises:
            DataError: as for `filter`, or `at` is neither a number nor (T,) numbers.
        """
        from scipy.special import ndtr

        y = self._checked(returns, allow_missing=allow_missing)
        try:
            found = np.asarray(at)
            if found.dtype.kind not in "fiu":
                raise TypeError(f"type {found.dtype}")
            point = np.broadcast_to(found.astype(np.float64), y.shape)
        except (TypeError, ValueError) as error:
            raise DataError(
                f"at is neither a number nor {y.size} of them ({error})", where="RegimeModel.predictive_probability"
            ) from error
        f, _ = self.filtered(y, densities=False)
        prediction = np.vstack([self.initial, f[:-1] @ self.transition])
        mean, deviation = self._next_return(y)
        out = (prediction * ndtr((point[:, None] - mean) / deviation)).sum(axis=1)
        out[np.isnan(y) | np.isnan(point)] = np.nan
        return np.asarray(out)

    def _next_return(self, y: FloatArray) -> tuple[FloatArray, FloatArray]:
        """Return mean and standard deviation of each return given those before it, in each state, (T, K) twice.

        The laws of the compiled densities (`ar_density`, `law_density`); a test holds the two together.
        """
        last, gap = np.empty(y.size), np.empty(y.size, dtype=np.int64)
        loops.gaps(y, gap, last)
        fade = np.where(gap[:, None] > 0, self.phi ** np.maximum(gap, 1)[:, None], 0.0)
        level = self.mu / (1.0 - self.phi)
        mean = level + fade * (last[:, None] - level)
        deviation = self.sigma * np.sqrt((1.0 - fade**2) / (1.0 - self.phi**2))
        if part := self.multivariate:
            features, known = part.features(y)
            now = np.flatnonzero((gap[1:] == 1) & (known[:-1] == 2)) + 1
            c, phi, a, b = part.law.T
            mean[now] = part.scale * (c + phi * features[now - 1, :1])
            log_deviation = np.maximum(a + b * features[now - 1, 3:], math.log(0.05))
            with np.errstate(over="ignore"):  # of a state that no bar is in
                deviation[now] = part.scale * np.exp(log_deviation)
        return mean, deviation

    def conditional_log_likelihood(self, returns: FloatLike, *, allow_missing: bool = False) -> float:
        """Return the likelihood that the fit maximises: returns without a direct predecessor are given.

        For `multivariate`, returns whose bar before lacks features are given, too.

        Raises:
            DataError: as for `filter`.
        """
        y = self._checked(returns, allow_missing=allow_missing)
        rows, f, out = np.empty((y.size, self.n_states)), np.empty((y.size, self.n_states)), np.empty(y.size)
        if part := self.multivariate:
            rows = self._law(part, y, conditional=True)
            loops.forward(rows, self.transition, self.initial, f, out)
            return float(out.sum()) - math.log(part.scale) * int(np.any(rows != 0, axis=1).sum())
        loops.filter_autoregressive(y, self.mu, self.phi, self.sigma, self.transition, self.initial, True, rows, f, out)
        return float(out.sum())

    def simulate(self, n_bars: int, *, seed: int) -> tuple[FloatArray, IntArray]:
        """Return simulated returns (n_bars,) and their true states (n_bars,); AR(1) models only.

        Raises:
            BadRequestError: the model is multivariate, or an argument is out of its domain.
        """
        whole(n_bars, "n_bars", "RegimeModel.simulate", least=1, most=1_000_000_000)
        whole(seed, "seed", "RegimeModel.simulate", least=0)
        if self.multivariate:
            raise BadRequestError("a multivariate model cannot be simulated", where="RegimeModel.simulate")
        generator = np.random.default_rng(seed)
        y, path = np.empty(n_bars), np.empty(n_bars, dtype=np.int64)
        uniform, normal = generator.random(n_bars), generator.standard_normal(n_bars)
        loops.simulate(uniform, normal, self.mu, self.phi, self.sigma, self.transition, self.initial, y, path)
        return y, path

    def to_json(self) -> str:
        """Return the model as JSON; floats survive exactly."""
        return json.dumps(asdict(self), default=_as_json_value)

    @classmethod
    def from_json(cls, text: str) -> RegimeModel:
        """Return the model that `to_json` wrote.

        Raises:
            ModelError: the text is not such a model.
        """
        try:
            values: dict[str, Any] = json.loads(text)
            part = values["multivariate"]
            for name in ("mu", "phi", "sigma", "transition", "initial"):
                values[name] = np.array(values[name], dtype=np.float64)
            values["labels"], values["trace"] = tuple(values["labels"]), tuple(values["trace"])
            values["evidence"] = Evidence(**{name: tuple(figures) for name, figures in values["evidence"].items()})
            if values["selection"]:
                values["selection"] = Selection(**values["selection"])
            if part:
                arrays = {name: np.array(part[name], dtype=np.float64) for name in ("mean", "covariance", "law")}
                if "share" in part:
                    raise ValueError(
                        "it was fitted by an earlier version, whose probabilities were too sure: fit again"
                    )
                values["multivariate"] = Multivariate(Memory(**part["memory"]), part["scale"], **arrays)
            model = cls(**values)
            _check_consistent(model)
        except (KeyError, TypeError, ValueError, BadRequestError) as error:
            raise ModelError(
                f"not a regime model ({error})", where="RegimeModel.from_json", hint="Pass what to_json returned."
            ) from error
        return model

    def _checked(self, returns: FloatLike, *, allow_missing: bool) -> FloatArray:
        return checked_returns(returns, allow_missing=allow_missing, absurd=self.absurd)

    def _law(self, part: Multivariate, y: FloatArray, *, conditional: bool) -> FloatArray:
        """Return the log-densities of the returns under the multivariate model, in units of its scale, (T, K)."""
        out = np.empty((y.size, self.n_states))
        unit = part.scale
        loops.multivariate_law(
            *(y, unit, part.decay, part.law, self.mu / unit, self.phi, self.sigma / unit, conditional, out)
        )
        return out

    def _log_density(self, y: FloatArray) -> FloatArray:
        if self.multivariate:
            return self._law(self.multivariate, y, conditional=False)
        x, gap, out = np.empty(y.size), np.empty(y.size, dtype=np.int64), np.empty((y.size, self.n_states))
        loops.gaps(y, gap, x)
        loops.autoregressive_density(y, x, gap, self.mu, self.phi, self.sigma, False, out)
        return out

    def filtered(
        self, y: FloatArray, *, densities: bool = True, start: FloatArray | None = None
    ) -> tuple[FloatArray, FloatArray]:
        """Return the filtered distributions (T, K) and, if asked, each bar's log-density (T,); y is not checked.

        They start from `initial`, which belongs to the fitted data, or from another distribution (K,).
        """
        pi = self.initial if start is None else start
        f, out = np.empty((y.size, self.n_states)), np.empty(y.size if densities else 0)
        if self.multivariate:
            loops.forward(self._law(self.multivariate, y, conditional=False), self.transition, pi, f, out)
        else:
            rows = np.empty_like(f)
            loops.filter_autoregressive(y, self.mu, self.phi, self.sigma, self.transition, pi, False, rows, f, out)
        return f, out


def _check_consistent(model: RegimeModel) -> None:
    """Raise ValueError where a stored model's parts are not those of one model: it was damaged or written by hand."""
    K = len(model.labels)
    if K not in {2, 3} or not set(model.labels) <= set(LABELS) or len(set(model.labels)) < K:
        raise ValueError(f"labels {model.labels}")
    if model.observation not in get_args(Observation) or (model.observation == "multivariate") != bool(
        model.multivariate
    ):
        raise ValueError(f"observation {model.observation!r}")
    shapes = {"mu": (K,), "phi": (K,), "sigma": (K,), "transition": (K, K), "initial": (K,)}
    arrays = [(name, getattr(model, name), shape) for name, shape in shapes.items()]
    if part := model.multivariate:
        number(part.scale, "scale", "multivariate", above=0.0)
        arrays += [("mean", part.mean, (K, 4)), ("covariance", part.covariance, (K, 4, 4)), ("law", part.law, (K, 4))]
    for name, values, shape in arrays:
        if values.shape != shape or not np.isfinite(values).all():
            raise ValueError(f"{name} of shape {values.shape}, or not finite")
    if not ((model.sigma > 0).all() and (np.abs(model.phi) < 1).all()):
        raise ValueError("sigma is not positive or phi not below 1")
    for name in ("transition", "initial"):
        values = getattr(model, name)
        if not ((values >= 0).all() and np.allclose(values.sum(axis=-1), 1.0, atol=1e-6)):
            raise ValueError(f"{name} is not a probability")
    if len(model.evidence.volatility) not in {0, K}:
        raise ValueError("evidence of other states")


def _as_json_value(value: object) -> object:
    if isinstance(value, np.ndarray):
        return value.tolist()
    if isinstance(value, np.generic):
        return value.item()
    raise TypeError(f"cannot write {type(value).__name__} as JSON")


def checked_returns(returns: FloatLike, *, allow_missing: bool, absurd: float | None = None) -> FloatArray:
    """Return the returns as a contiguous array of doubles, checked; what is missing is NaN.

    Args:
        returns: (T,). allow_missing: whether NaN, infinity and absurd sizes are missing bars, or mistakes.
        absurd: size from which on a return is absurd; by default ten orders of magnitude beyond the usual ones.
    """
    try:
        found = np.asarray(returns)
        if found.dtype.kind not in "fiu" and found.dtype != object:
            raise TypeError(f"type {found.dtype}")
        y = np.ascontiguousarray(found, dtype=np.float64)
    except (TypeError, ValueError, OverflowError) as error:
        raise DataError(f"not an array of numbers ({error})", where="returns") from error
    if y.ndim != 1 or y.size == 0:
        raise DataError(f"shape {y.shape}, expected (T,) with T >= 1", where="returns")
    if not isinstance(allow_missing, bool | np.bool_):
        raise BadRequestError(f"allow_missing = {allow_missing!r}", where="returns", hint="Give True or False.")
    # Passes without temporaries: the usual case is that nothing is wrong.
    low, high = float(y.min()), float(y.max())
    limit = absurd
    if limit is None and not max(-low, high) < 1e3:
        usual = np.abs(y[np.isfinite(y) & (y != 0)])
        limit = ABSURD * float(np.median(usual)) if usual.size else math.inf
    if not (math.isfinite(low) and math.isfinite(high)) or (limit is not None and max(-low, high) > limit):
        with np.errstate(invalid="ignore"):
            wrong = ~(np.abs(y) <= (math.inf if limit is None else limit)) | np.isinf(y)
        if not allow_missing:
            first = int(wrong.argmax())
            name = "NaN" if math.isnan(y[first]) else "infinity" if math.isinf(y[first]) else f"{y[first]:g}"
            raise DataError(
                f"{name} at index {first} ({int(wrong.sum())} of {y.size})",
                where="returns",
                hint="If NaN marks missing bars, pass allow_missing=True; otherwise a price was zero, absent or wrong.",
            )
        if wrong.all():
            raise DataError("every bar is missing", where="returns", hint="Check the time range.")
        y = np.where(wrong, np.nan, y)
    return y


def features_of(y: FloatArray, scale: float, memory: Memory) -> tuple[FloatArray, IntArray]:
    """Return each bar's four causal features, (T, 4), of returns in units of `scale`, and which of them are known."""
    out, known = np.empty((y.size, 4)), np.empty(y.size, dtype=np.int64)
    loops.trailing_features(y / scale, memory.decay, out, known)
    return out, known


def long_run(A: FloatArray) -> FloatArray:
    """Return the stationary distribution of a chain, (K,); of the reachable part if it is not unique."""
    long_run = np.full(len(A), 1.0 / len(A)) @ np.linalg.matrix_power(A, 1 << 20)
    return np.asarray(long_run / long_run.sum())
