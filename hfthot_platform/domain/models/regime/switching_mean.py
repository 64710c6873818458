"""Hamilton's switching-mean autoregression: growth around a mean that changes with the regime (Hamilton 1989).

What belongs here: this one model, from a series to a frozen result.  What does not: regimes of returns, where the
autoregression itself switches (`regime`).

The regime s is a Markov chain with transition matrix A, and the deviations from its mean are an autoregression,

    y_t - mu(s_t) = phi_1 (y_(t-1) - mu(s_(t-1))) + ... + phi_p (y_(t-p) - mu(s_(t-p))) + e_t,   e ~ N(0, sigma^2),

so the density of y_t depends on the last p + 1 regimes: the filter runs over all K^(p+1) sequences of them, exactly.
The likelihood is that of y after its first p values, the chain starts from its long-run distribution, and it is
maximised by BFGS from several starts, over parameters that keep A a transition matrix and the process stationary.
On US GNP, 1951 to 1984, this gives Hamilton's estimates and the log-likelihood of -181.26339.
"""

from __future__ import annotations

import itertools
import math
from dataclasses import dataclass
from functools import cached_property
from typing import Final

import numpy as np

from hfthot_platform.core.arguments import array, number, whole
from hfthot_platform.core.arrays import FloatArray, FloatLike, IntArray
from hfthot_platform.core.errors import BadRequestError, DataError, NotConvergedError
from hfthot_platform.domain.models.regime import loops
from hfthot_platform.domain.models.regime.model import long_run

__all__ = ["SwitchingMean", "fit_switching_mean"]

_WHERE: Final = "fit_switching_mean"
#: Sequences of regimes over which the filter runs, at most.
_MOST_SEQUENCES: Final = 1024


@dataclass(frozen=True, eq=False)
class SwitchingMean:
    """A fitted switching-mean autoregression; regimes from the lowest mean to the highest.

    Attributes:
        mean: of each regime, (K,), in units of the series.
        phi: autoregression of the deviations from the mean, (p,).
        sigma: standard deviation of the innovations.
        transition: probability of the regime (column) after the regime (row), (K, K).
        log_likelihood: of the series after its first p values.
        n_observations: that it counts.
        starts_agreeing: how many of the starts ended within 1e-3 of the best likelihood, and how many there were.
        gradient: largest slope of the likelihood at the result, per unit of the free parameters.
        converged: whether that slope is below the tolerance.
    """

    mean: FloatArray
    phi: FloatArray
    sigma: float
    transition: FloatArray
    log_likelihood: float
    n_observations: int
    starts_agreeing: tuple[int, int]
    gradient: float
    converged: bool

    @property
    def expected_durations(self) -> FloatArray:
        """Return the expected length of each regime, (K,), in steps of the series."""
        return np.asarray(1.0 / (1.0 - np.diag(self.transition)))

    def filter(self, series: FloatLike) -> FloatArray:
        """Return p(regime at t | values up to t), (T, K); NaN for the first p values.

        Raises:
            DataError: no more than p values, or some that are not finite numbers.
        """
        return self._regimes(series, smooth=False)

    def smooth(self, series: FloatLike) -> FloatArray:
        """Return p(regime at t | all values), (T, K); NaN for the first p values.

        Raises:
            DataError: as for `filter`.
        """
        return self._regimes(series, smooth=True)

    def log_likelihood_of(self, series: FloatLike) -> float:
        """Return the log-likelihood of a series after its first p values.

        Raises:
            DataError: as for `filter`.
        """
        y = _series(series, self.phi.size, "SwitchingMean")
        return self._sequences.run(y, self.mean, self.phi, self.sigma, self.transition)[1]

    @cached_property
    def _sequences(self) -> _Sequences:
        return _Sequences(self.mean.size, self.phi.size)

    def _regimes(self, series: FloatLike, *, smooth: bool) -> FloatArray:
        y = _series(series, self.phi.size, "SwitchingMean")
        sequences = self._sequences
        f, _ = sequences.run(y, self.mean, self.phi, self.sigma, self.transition)
        if smooth:
            g = np.empty_like(f)
            loops.backward(f, sequences.chain(self.transition), g)
            f = g
        out = np.full((y.size, self.mean.size), np.nan)
        for k in range(self.mean.size):
            out[self.phi.size :, k] = f[:, sequences.states[:, 0] == k].sum(axis=1)
        return out


class _Sequences:
    """All sequences of p + 1 regimes, the present one first: a chain of their own."""

    def __init__(self, n_states: int, order: int) -> None:
        self.states: IntArray = np.array(list(itertools.product(range(n_states), repeat=order + 1)), dtype=np.int64)
        # A sequence is followed by those whose past is its own, moved on by one.
        self.follows = (self.states[:, None, :-1] == self.states[None, :, 1:]).all(axis=2)

    def chain(self, A: FloatArray) -> FloatArray:
        """Return the transition matrix of the sequences, (S, S)."""
        return np.where(self.follows, A[self.states[:, 0][:, None], self.states[:, 0][None, :]], 0.0)

    def run(
        self, y: FloatArray, mean: FloatArray, phi: FloatArray, sigma: float, A: FloatArray
    ) -> tuple[FloatArray, float]:
        """Return the filtered distributions of the sequences, (T - p, S), and the log-likelihood."""
        order = phi.size
        past = np.stack([y[order - lag : y.size - lag] for lag in range(order + 1)], axis=1)
        levels = mean[self.states]
        weights = np.append(1.0, -phi)
        residual = (past @ weights)[:, None] - levels @ weights
        rows = -0.5 * (residual / sigma) ** 2 - math.log(sigma) - 0.5 * math.log(2.0 * math.pi)
        start = long_run(A)[self.states[:, -1]]
        for lag in range(order, 0, -1):
            start = start * A[self.states[:, lag], self.states[:, lag - 1]]
        f, out = np.empty_like(rows), np.empty(len(rows))
        loops.forward(np.ascontiguousarray(rows), self.chain(A), start, f, out)
        return f, float(out.sum())


def fit_switching_mean(
    series: FloatLike,
    *,
    order: int = 4,
    n_states: int = 2,
    n_starts: int = 8,
    seed: int = 0,
    tolerance: float = 1e-3,
    max_iterations: int = 500,
) -> SwitchingMean:
    """Fit a switching-mean autoregression by maximum likelihood.

    Args:
        series: (T,), oldest first, such as quarterly growth in percent.
        order: p, of the autoregression, from 0.
        n_states: K, 2 or 3; the filter runs over K^(p+1) sequences.
        n_starts: of the search; the best is kept.
        seed: of the starts.
        tolerance: slope of the likelihood, in nats per unit of the free parameters, below which it has converged.
        max_iterations: of each start.

    Returns:
        The model; `converged` is false where the tolerance was not met.

    Raises:
        BadRequestError: an argument is out of its domain.
        DataError: too few values, some that are not finite numbers, or a constant series.
        NotConvergedError: no start has a finite likelihood.
    """
    from scipy.optimize import minimize

    whole(order, "order", _WHERE, least=0, most=9)
    whole(n_states, "n_states", _WHERE, least=2, most=3)
    whole(n_starts, "n_starts", _WHERE, least=1, most=10_000)
    whole(seed, "seed", _WHERE, least=0)
    whole(max_iterations, "max_iterations", _WHERE, least=1, most=1_000_000)
    number(tolerance, "tolerance", _WHERE, above=0.0)
    if n_states ** (order + 1) > _MOST_SEQUENCES:
        raise BadRequestError(
            f"{n_states} regimes and order {order}: {n_states ** (order + 1)} sequences",
            where=_WHERE,
            hint=f"At most {_MOST_SEQUENCES}: lower the order.",
        )
    y = _series(series, order, _WHERE)
    least = order + 10 * (n_states * (n_states + 1) + order)
    if y.size < least:
        raise DataError(f"{y.size} values", where=_WHERE, hint=f"Give {least} or more.")
    shift, unit = float(y.mean()), float(y.std())
    if not unit > 1e-12 * float(np.abs(y).max()):
        raise DataError(f"the series is constant ({float(y[0])!r})", where=_WHERE, hint="Check the series.")
    z = (y - shift) / unit
    sequences = _Sequences(n_states, order)

    def objective(free: FloatArray) -> float:
        with np.errstate(all="ignore"):
            value = sequences.run(z, *_parameters(free, n_states, order))[1]
        return -value if math.isfinite(value) else 1e10

    def slope(free: FloatArray) -> FloatArray:
        steps = 1e-5 * np.eye(free.size)
        return np.array([(objective(free + step) - objective(free - step)) / 2e-5 for step in steps])

    generator = np.random.default_rng(seed)
    ends = []
    for _ in range(n_starts):
        start = np.concatenate(
            [
                np.sort(generator.normal(0.0, 1.0, n_states)),
                generator.normal(0.0, 0.2, order),
                [math.log(generator.uniform(0.4, 0.9))],
                _logits(generator.uniform(0.7, 0.97), n_states),
            ]
        )
        ends.append(minimize(objective, start, jac=slope, method="BFGS", options={"maxiter": max_iterations}))
    best = min(ends, key=lambda end: float(end.fun))
    if not best.fun < 1e9:
        raise NotConvergedError("no start has a finite likelihood", where=_WHERE, hint="Look for absurd outliers.")
    mean, phi, sigma, A = _parameters(best.x, n_states, order)
    rank = np.argsort(mean)
    gradient = float(np.abs(slope(best.x)).max())
    count = y.size - order
    return SwitchingMean(
        mean=mean[rank] * unit + shift,
        phi=phi,
        sigma=sigma * unit,
        transition=np.ascontiguousarray(A[np.ix_(rank, rank)]),
        log_likelihood=-float(best.fun) - count * math.log(unit),
        n_observations=count,
        starts_agreeing=(sum(end.fun < best.fun + 1e-3 for end in ends), n_starts),
        gradient=gradient,
        converged=gradient < tolerance,
    )


def _series(series: FloatLike, order: int, where: str) -> FloatArray:
    y = np.ascontiguousarray(array(series, "series", where, shape=(None,)))
    if y.size <= order:
        raise DataError(f"{y.size} values", where=where, hint=f"More than {order} are needed.")
    return y


def _logits(stay: float, n_states: int) -> FloatArray:
    """Return the free parameters of a chain that stays with a probability: log odds against staying, (K (K - 1),)."""
    return np.full(n_states * (n_states - 1), math.log((1.0 - stay) / (n_states - 1) / stay))


def _parameters(free: FloatArray, n_states: int, order: int) -> tuple[FloatArray, FloatArray, float, FloatArray]:
    """Return mean (K,), phi (p,), sigma and transition (K, K) of free parameters."""
    mean = np.ascontiguousarray(free[:n_states])
    # Partial autocorrelations within (-1, 1) give a stationary autoregression (Barndorff-Nielsen and Schou 1973).
    phi = np.empty(0)
    for partial in np.tanh(free[n_states : n_states + order]):
        phi = np.append(phi - partial * phi[::-1], partial)
    sigma = math.exp(min(max(free[n_states + order], -50.0), 50.0))
    odds = np.exp(np.clip(free[n_states + order + 1 :], -500.0, 500.0)).reshape(n_states, n_states - 1)
    A = np.empty((n_states, n_states))
    for j in range(n_states):
        row = np.insert(odds[j], j, 1.0)
        A[j] = row / row.sum()
    return mean, phi, sigma, A
