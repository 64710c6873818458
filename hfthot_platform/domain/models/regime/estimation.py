"""How regime models are fitted, labelled and chosen.

What belongs here: expectation-maximisation around the compiled loops, the names of the states and the evidence
for them, the choice between observation models.  The equations are in `regime`.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field, replace
from typing import Final, NamedTuple

import numpy as np

from hfthot_platform.core.arrays import BoolArray, FloatArray, IntArray
from hfthot_platform.core.errors import DataError, ModelError, NotConvergedError
from hfthot_platform.domain.models.regime import loops
from hfthot_platform.domain.models.regime.model import (
    LABELS,
    Evidence,
    Memory,
    Multivariate,
    Observation,
    RegimeModel,
    Selection,
    features_of,
)

__all__ = ["Fit", "chosen", "select"]

#: Bars over which the score compares a regime's moves with a random walk's.
_HORIZON: Final = 10
#: A label or a separation is beyond noise if this share of bootstrap draws agrees.
_CONFIDENCE: Final = 0.95
#: A state with a smaller share of the bars is a handful of outliers.
_LEAST_OCCUPANCY: Final = 0.01
#: Share of the bars, from the end, that the choice between models is made on.
_HOLDOUT: Final = 0.3
#: Least standard deviation of a state, in standard deviations of the series.
_SIGMA_FLOOR: Final = 0.05
_PHI_LIMIT: Final = 0.99
#: Largest exponent of past volatility in a state's standard deviation.
_MOST_EXPONENT: Final = 2.0
#: Transitions of each kind that the law of the next return counts beforehand: Jeffreys' prior.  Without it a regime
#: that was seen to begin once and never to end is believed to last for ever, and every filter is too sure.
_TRANSITIONS_BEFORE: Final = 0.5
_SCREENING_ITERATIONS: Final = 30
_POLISHED: Final = 3


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


class _StartResult(NamedTuple):
    """The end of one start's iterations, in standardised units."""

    objective: float
    likelihood: float
    converged: bool
    trace: FloatArray


@dataclass(frozen=True)
class Fit:
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
        """Return the labelled fit to returns y (T,), checked by the caller.

        Raises:
            NotConvergedError: the linear algebra or the arithmetic failed on these data.
        """
        spread = float(np.nanstd(y))
        if not spread > 1e-12 * float(np.nanmax(np.abs(y))):
            raise DataError(
                f"the returns are constant ({float(y[np.isfinite(y)][0])!r})",
                where="fit_regimes",
                hint="Check the price series.",
            )
        try:
            if observation == "multivariate":
                return self._multivariate(y, previous)
            return self._autoregressive(y, observation, previous)
        except (np.linalg.LinAlgError, ArithmeticError) as error:
            raise NotConvergedError(
                f"the fit failed on these data ({error})",
                where=f"fit_regimes(observation={observation!r})",
                hint="Look for a series that is flat but for a few jumps, and for absurd outliers.",
            ) from error

    def _autoregressive(self, y: FloatArray, observation: Observation, previous: RegimeModel | None) -> RegimeModel:
        autoregressive = observation == "ar1"
        shift, unit = float(np.nanmean(y)), float(np.nanstd(y))
        z = (y - shift) / unit
        x, gap = np.empty_like(z), np.empty(z.size, dtype=np.int64)
        loops.gaps(z, gap, x)
        use = (gap == 1 if autoregressive else gap >= 0).astype(np.int64)
        if use.sum() < 25 * self.n_states:
            raise DataError(
                f"only {int(use.sum())} returns have a direct predecessor",
                where="fit_regimes",
                hint="Pass a series with fewer gaps, or longer bars.",
            )
        z[gap < 0] = 0.0  # never read where `use` is 0, but NaN times 0 is NaN

        def climb(chain: _Chain, bound: int) -> _StartResult:
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
            return _StartResult(float(trace[-1]), likelihood, converged, trace)

        starts = self._starts(autoregressive=autoregressive)
        if previous is not None and previous.observation == observation:
            starts.append(_rescaled(_chain_of(previous), shift, unit))
        short = min(_SCREENING_ITERATIONS, self.max_iterations)
        screened = sorted(((climb(chain, short), chain) for chain in starts), key=lambda attempt: -attempt[0].objective)
        best: tuple[_StartResult, _Chain] | None = None
        for first, chain in screened[:_POLISHED]:
            if not math.isfinite(first.objective):
                continue
            result = first
            if not first.converged and short < self.max_iterations:
                result = climb(chain, self.max_iterations - short)
                # The chain was left at the last parameters tried, so the second trace goes on from the first.
                result = result._replace(trace=np.concatenate([first.trace[:-1], result.trace]))
            if best is None or result.objective > best[0].objective:
                best = result, chain
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
        features, known = features_of(y, scale, self.memory)
        full = known == 2
        if full.sum() < 50 * self.n_states:
            raise DataError(
                f"only {int(full.sum())} bars have all features",
                where="fit_regimes(observation='multivariate')",
                hint="Pass a longer series with fewer gaps, or observation='ar1'.",
            )
        moving = int(np.count_nonzero(features[full, 0]))
        if moving < 20 * self.n_states:
            raise DataError(
                f"only {moving} returns are not zero: the series is flat but for a few jumps",
                where="fit_regimes(observation='multivariate')",
                hint="Features of a flat series cannot distinguish regimes: pass observation='ar1' or 'auto'.",
            )
        best: _Mixture | None = None
        starts = [mixture_start(features, full, k, self) for k in range(min(4, self.n_restarts))]
        part = previous.multivariate if previous else None
        if part and previous and part.memory == self.memory:
            mean, covariance = _rescaled_features(part, scale)
            starts.append(_Mixture(_rescaled(_chain_of(previous), 0.0, 1.0), mean, covariance))
        screened = [_tried(start, features, known, self, _SCREENING_ITERATIONS) for start in starts]
        hopeful = sorted((mixture for mixture in screened if mixture), key=lambda mixture: -mixture.trace[-1])
        for start in hopeful[:2]:
            result = _tried(start, features, known, self, self.max_iterations)
            if result and (best is None or result.trace[-1] > best.trace[-1]):
                best = result
        if best is None or not math.isfinite(best.trace[-1]):
            raise NotConvergedError(
                "no start of the multivariate model has a finite likelihood",
                where="fit_regimes(observation='multivariate')",
                hint="The series may be flat but for a few jumps: pass observation='ar1' or 'auto'.",
            )
        climbed = _climb_law(features, known, best, self)
        part = Multivariate(self.memory, scale, best.mean, best.covariance, climbed.law)
        g, A = climbed.smoothed, climbed.A
        regression = _regression(_moments(y, g))
        sigma = np.maximum(np.sqrt(regression.variance * (1.0 - regression.phi**2)), _SIGMA_FLOOR * scale)
        chain = _Chain(regression.mean * (1.0 - regression.phi), regression.phi, sigma, A, climbed.pi)
        jacobian = climbed.counted * math.log(scale)
        draft = _draft(
            "multivariate",
            chain,
            likelihood=climbed.likelihood - jacobian,
            parameters=self.n_states * 4 + self.n_states**2 - 1,
            n=climbed.counted,
            trace=[likelihood - jacobian for likelihood in climbed.trace],
        )
        draft = replace(draft, converged=best.converged and climbed.converged, multivariate=part)
        return self._labelled(draft, y, previous)

    def _labelled(self, draft: RegimeModel, y: FloatArray, previous: RegimeModel | None) -> RegimeModel:
        """Name the states, put them in the order of the names, and say how sure the names are."""
        f, _ = draft.filtered(y)
        g = np.empty_like(f)
        loops.backward(f, draft.transition, g)
        stay = np.diag(draft.transition)
        variance = draft.sigma**2 / (1.0 - draft.phi**2)
        score = score_matrix(draft.mu / (1.0 - draft.phi), variance, draft.phi, stay)
        smoothed = _bootstrap(y, g, self.n_bootstrap, self.seed)
        drawn_score = score_matrix(smoothed.mean, smoothed.variance, smoothed.phi, stay)
        predicted = _bootstrap(y, _predictions(f, _chain_of(draft)), self.n_bootstrap, self.seed)
        predicted_score = score_matrix(predicted.mean, predicted.variance, predicted.phi, stay)
        drawn_codes = _codes(predicted.variance, predicted_score)

        floor = _SIGMA_FLOOR * float(np.nanstd(y)) * (1.0 + 1e-9)

        def judge(codes: IntArray) -> tuple[list[int], tuple[str, ...], Evidence, str]:
            """Return the order of the states under these names, the labels, the evidence and why it falls short."""
            order = np.argsort(codes).tolist()
            labels = tuple(LABELS[codes[j]] for j in order)
            evidence = Evidence(
                score=_tuple(score[order]),
                volatility=_tuple(np.sqrt(variance)[order]),
                occupancy=_tuple(g.mean(axis=0)[order]),
                score_low=_tuple(np.quantile(drawn_score, 0.05, axis=0)[order]),
                score_high=_tuple(np.quantile(drawn_score, 0.95, axis=0)[order]),
                label_confidence=_tuple((drawn_codes == codes).mean(axis=0)[order]),
            )
            stuck = [LABELS[codes[j]] for j in order if draft.sigma[j] <= floor]
            return order, labels, evidence, _why_not(draft, labels, evidence, drawn_score[:, order], stuck)

        codes = _codes(variance, score)
        order, labels, evidence, reason = judge(codes)
        if previous is not None and reason:
            # Names that the data do not insist on stay with their states, or regimes would change by renaming.
            order, labels, evidence, reason = judge(_continued(codes, np.sqrt(variance), previous))
        part = draft.multivariate
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
            multivariate=part,
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


@dataclass
class _Mixture:
    """A Gaussian hidden Markov model of the features: means (K, 4), covariances (K, 4, 4)."""

    chain: _Chain
    mean: FloatArray
    covariance: FloatArray
    #: Log-likelihood less the prior's penalty, per iteration.
    trace: list[float] = field(default_factory=lambda: [-math.inf])
    likelihood: float = -math.inf
    converged: bool = False


def mixture_start(features: FloatArray, full: BoolArray, start: int, fit: Fit) -> _Mixture:
    """Return a starting point: the first from thirds of the volatility, the others from random bars."""
    rows = features[full]
    spread = np.maximum(rows.std(axis=0), 1e-12)  # a flat series has features that do not move
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


def _tried(start: _Mixture, features: FloatArray, known: IntArray, fit: Fit, bound: int) -> _Mixture | None:
    """Return the end of a climb, None if a covariance became singular or the arithmetic failed on the way."""
    try:
        return climb_mixture(start, features, known, fit, bound)
    except (np.linalg.LinAlgError, NotConvergedError):
        return None


def climb_mixture(start: _Mixture, features: FloatArray, known: IntArray, fit: Fit, bound: int) -> _Mixture:
    """Iterate expectation-maximisation; bars without all features only move the regime.

    A weak prior keeps covariances regular: each state is given a thousandth of the features' variance as if by
    one more observation, which costs the objective tr(prior covariance^-1) / 2 and keeps the M-step exact.
    """
    known = np.where(known == 2, 2, 0)
    full = known == 2
    rows = features[full]
    prior = np.diag(1e-3 * rows.var(axis=0) + 1e-12)
    states = fit.n_states
    f, g = np.empty((known.size, states)), np.empty((known.size, states))
    jumps, log_density = np.empty((states, states)), np.empty((known.size, states))
    mean, covariance = start.mean.copy(), start.covariance.copy()
    keep = slice(states)
    A, pi = np.ascontiguousarray(start.chain.A[keep, keep]), np.ascontiguousarray(start.chain.pi[keep])
    trace: list[float] = []
    likelihood = -math.inf
    converged = False
    for iteration in range(bound):
        part = Multivariate(fit.memory, 1.0, mean, covariance, np.empty((states, 4)))
        loops.multivariate_density(features, known, mean, part.whiten, part.constant, log_density)
        likelihood = loops.smooth_and_count(log_density, A, pi, f, g, jumps)
        trace.append(likelihood - 0.5 * float((part.whiten**2 @ np.diag(prior)).sum()))
        if len(trace) > 1:
            gain = trace[-1] - trace[-2]
            if gain < -1e-6 * max(1.0, abs(trace[-1])) or not math.isfinite(trace[-1]):
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
        for j in np.flatnonzero(total > 1e-6):
            mean[j] = weight[:, j] @ rows / total[j]
            centred = rows - mean[j]
            covariance[j] = ((weight[:, [j]] * centred).T @ centred + prior) / total[j]
        count = jumps.sum(axis=1, keepdims=True)
        A = np.where(count > 1e-12, jumps / np.maximum(count, 1e-12), A)
        pi = g[0].copy()
    chain = replace(start.chain, A=A, pi=pi)
    return _Mixture(chain, mean, covariance, trace, likelihood, converged)


def _rescaled_features(part: Multivariate, scale: float) -> tuple[FloatArray, FloatArray]:
    """Return means and covariances of the features for another unit of returns."""
    factor = part.scale / scale
    unit = np.array([factor, 1.0, 1.0, 1.0])
    shift = np.array([0.0, 0.0, 0.0, math.log(factor)])
    return part.mean * unit + shift, part.covariance * np.outer(unit, unit)


def _ridged(gram: FloatArray) -> FloatArray:
    """Return a matrix that can be solved even if the data of a state are degenerate."""
    return gram + (1e-9 * float(np.trace(gram)) + 1e-100) * np.eye(len(gram))


class _Law(NamedTuple):
    """The end of the second climb: the law of the next return, the chain, and the smoothed states (T, K)."""

    law: FloatArray
    A: FloatArray
    pi: FloatArray
    smoothed: FloatArray
    #: Log-likelihood of the returns, and per iteration the same with the log of the prior.
    likelihood: float
    trace: list[float]
    counted: int
    converged: bool


def _climb_law(features: FloatArray, known: IntArray, found: _Mixture, fit: Fit) -> _Law:
    """Fit the law of the next return in each state, and the chain, by expectation-maximisation from states found.

    The states that the features tell apart are where this starts.  What it climbs is the likelihood of the returns, in
    which each counts once: the likelihood of features that overlap from bar to bar is overconfident, and so were its
    probabilities.  The M-step is exact for c and phi, and Newton's with halving for a and b.  Transitions have a
    Dirichlet prior, whose M-step is exact, too: few are seen, and their most likely rates would be too sure.

    Args:
        features: (T, 4). known: (T,). found: the mixture that the features gave. fit: the settings.
    """
    states = fit.n_states
    z, gap = np.ascontiguousarray(features[:, 0]), np.empty(known.size, dtype=np.int64)
    last = np.empty(known.size)
    loops.gaps(z, gap, last)
    now = np.flatnonzero((gap[1:] == 1) & (known[:-1] == 2)) + 1
    target, x, v = z[now], features[now - 1, 0], features[now - 1, 3]
    # A transition that the features put at exactly zero could not come back.
    A, pi = found.chain.A * 0.999 + 0.001 / states, found.chain.pi.copy()
    # The law before any climb: what the features' states say of the return after them.
    f, g = np.empty((known.size, states)), np.empty((known.size, states))
    jumps, rows, out = np.empty((states, states)), np.empty((known.size, states)), np.empty(known.size)
    start = Multivariate(fit.memory, 1.0, found.mean, found.covariance, np.empty((states, 4)))
    loops.multivariate_density(features, known, start.mean, start.whiten, start.constant, rows)
    loops.forward(rows, A, pi, f, out)
    law = np.column_stack(
        [np.zeros((states, 2)), 0.5 * np.log(found.covariance[:, 0, 0]) - found.mean[:, 3], np.ones(states)]
    )
    law = improved_law(law, f[now], target, x, v)
    nothing, one = np.zeros(states), np.ones(states)
    trace: list[float] = []
    likelihood, converged = -math.inf, False
    for _ in range(fit.max_iterations):
        loops.law_density(features, known, gap, last, law, nothing, nothing, one, True, rows)
        likelihood = loops.smooth_and_count(rows, A, pi, f, g, jumps)
        trace.append(likelihood + _TRANSITIONS_BEFORE * float(np.log(A).sum()))
        gain = trace[-1] - trace[-2] if len(trace) > 1 else math.inf
        if gain < -1e-6 * max(1.0, abs(trace[-1])) or not math.isfinite(trace[-1]):
            raise NotConvergedError(
                f"the likelihood of the returns fell by {-gain:.3g} in one iteration",
                where="fit_regimes(observation='multivariate')",
                hint="Look for absurd outliers in the returns, or pass observation='ar1'.",
            )
        if gain < max(fit.tolerance, 1e-2):
            converged = True
            break
        if len(trace) == fit.max_iterations:
            break
        jumps += _TRANSITIONS_BEFORE
        A = jumps / jumps.sum(axis=1, keepdims=True)
        pi = g[0].copy()
        law = improved_law(law, g[now], target, x, v)
    return _Law(law, A, pi, g, likelihood, trace, now.size, converged)


def improved_law(law: FloatArray, weight: FloatArray, z: FloatArray, x: FloatArray, v: FloatArray) -> FloatArray:
    """Return c, phi, a, b per state, (K, 4), that raise the expected log-density of returns z (n,).

    Args:
        law: before. weight: of the states, (n, K). z: returns, (n,). x: returns before. v: log volatility before.
    """
    out = law.copy()
    design, scale_design = np.column_stack([np.ones_like(x), x]), np.column_stack([np.ones_like(v), v])
    floor = math.log(_SIGMA_FLOOR)

    for j in np.flatnonzero(weight.sum(axis=0) > 1e-6).tolist():
        own = weight[:, j]
        raw = scale_design @ out[j, 2:]
        inverse = own * np.exp(-2.0 * np.maximum(raw, floor))
        gram = _ridged(design.T @ (inverse[:, None] * design))
        c, phi = np.linalg.solve(gram, design.T @ (inverse * z))
        if abs(phi) > _PHI_LIMIT:
            phi = math.copysign(_PHI_LIMIT, phi)
            c = float(inverse @ (z - phi * x)) / float(inverse.sum())
        out[j, :2] = c, phi
        squared = (z - c - phi * x) ** 2
        deviation = np.maximum(raw, floor)
        ratio = squared * np.exp(-2.0 * deviation)
        value = -float(own @ (deviation + 0.5 * ratio))
        for _ in range(3):
            free = own * (raw > floor)
            information = _ridged(2.0 * scale_design.T @ (free[:, None] * scale_design))
            step = np.linalg.solve(information, scale_design.T @ (free * (ratio - 1.0)))
            size = 1.0
            while size > 1e-3:
                a, b = out[j, 2] + size * step[0], min(max(out[j, 3] + size * step[1], -_MOST_EXPONENT), _MOST_EXPONENT)
                tried = scale_design @ np.array([a, b])
                deviation = np.maximum(tried, floor)
                tried_ratio = squared * np.exp(-2.0 * deviation)
                better = -float(own @ (deviation + 0.5 * tried_ratio))
                if better >= value:
                    break
                size *= 0.5
            else:
                break
            gained, value = better - value, better
            raw, ratio = tried, tried_ratio
            out[j, 2:] = a, b
            if gained < 1e-6 * abs(value):
                break
    return out


def select(fit: Fit, y: FloatArray) -> Selection:
    """Compare log p(r_t | past) over the last part of the returns, after fits to the first part."""
    split = int(y.size * (1.0 - _HOLDOUT))
    if np.isfinite(y[:split]).sum() < 100 * fit.n_states:
        return Selection("ar1", {}, math.nan, 0)
    density: dict[str, FloatArray] = {}
    chosen: Observation
    candidates: tuple[Observation, ...] = ("ar1", "multivariate")
    failed: list[ModelError] = []
    for observation in candidates:
        try:
            # The names of its states are not asked for.
            model = replace(fit, n_bootstrap=20).run(y[:split], observation, None)
        except ModelError as error:
            failed.append(error)
            continue
        density[observation] = model.predictive_log_density(y, allow_missing=True)[split:]
    if not density:  # a first part that is flat, for example, has nothing to say about the rest
        return Selection("ar1", {}, math.nan, 0)
    present = np.isfinite(y[split:])
    means = {name: float(log_density[present].mean()) for name, log_density in density.items()}
    if failed:  # the model that can be fitted is the one to take
        chosen = candidates[0] if candidates[0] in means else candidates[1]
        return Selection(chosen, means, math.nan, int(present.sum()))
    difference = (density["ar1"] - density["multivariate"])[present]
    deviation = float(difference.std() / math.sqrt(difference.size))
    # The simpler model, unless the other one is better beyond one standard error.
    chosen = "multivariate" if means["multivariate"] > means["ar1"] + deviation else "ar1"
    return Selection(chosen, means, deviation, int(present.sum()))


def chosen(fit: Fit, y: FloatArray, selection: Selection, previous: RegimeModel | None) -> RegimeModel:
    """Return the fit of the chosen observation model to all returns, or of the other one if that fails on them."""
    try:
        return replace(fit.run(y, selection.chosen, previous), selection=selection)
    except ModelError:
        other: Observation = "ar1" if selection.chosen == "multivariate" else "multivariate"
        return replace(fit.run(y, other, previous), selection=replace(selection, chosen=other))


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


def score_matrix(mean: FloatArray, variance: FloatArray, phi: FloatArray, stay: FloatArray) -> FloatArray:
    """Return the variance ratio about zero over the horizon; see `Evidence`."""
    square = mean**2
    lags = np.arange(1, _HORIZON).reshape(-1, *([1] * mean.ndim))
    terms = (1.0 - lags / _HORIZON) * stay**lags * (phi**lags * variance + square) / (variance + square)
    return np.asarray(1.0 + 2.0 * terms.sum(axis=0))


def _codes(variance: FloatArray, score: FloatArray) -> IntArray:
    """Return the name of each state as an index into LABELS, (..., K), from its variance and score."""
    states = variance.shape[-1]
    loudest = variance.argmax(axis=-1)[..., None] == np.arange(states)
    if states == 2:
        return np.where(loudest, 2, np.where(score >= 1.0, 0, 1))
    best = np.where(loudest, -np.inf, score).argmax(axis=-1)[..., None] == np.arange(states)
    return np.where(loudest, 2, np.where(best, 0, 1))


def _continued(codes: IntArray, volatility: FloatArray, previous: RegimeModel) -> IntArray:
    """Return the names under which the two quieter states are nearest to those of the previous model."""
    if codes.size < 3:
        return codes
    before = np.log(previous.evidence.volatility)
    candidates = (codes, np.array([1, 0, 2])[codes])  # as they are, or trending and mean-reverting exchanged
    return min(candidates, key=lambda candidate: float(np.abs(np.log(volatility) - before[candidate]).sum()))


def _why_not(
    draft: RegimeModel, labels: tuple[str, ...], evidence: Evidence, score: FloatArray, stuck: list[str]
) -> str:
    """Return why trending and mean-reverting are not told apart beyond noise, or an empty string.

    Args:
        draft: the fit. labels: (K,). evidence: the figures.
        score: of the draws with smoothed states, (draws, K). stuck: names of states at the variance floor.
    """
    reasons = []
    if not draft.converged:
        reasons.append(f"not converged after {draft.iterations} iterations: raise max_iterations")
    reasons += [
        f"the {label} state sits on the variance floor: the series has runs of equal returns" for label in stuck
    ]
    for label, share in zip(labels, evidence.occupancy, strict=True):
        if share < _LEAST_OCCUPANCY:
            reasons.append(f"the {label} state holds only {share:.1%} of the bars")
    for k, label in enumerate(labels):
        if label != "volatile":
            agreed = float(np.mean((score[:, k] > 1.0) == (label == "trending")))
            if agreed < _CONFIDENCE:
                reasons.append(
                    f"{label} does not differ from a random walk beyond noise: variance ratio {evidence.score[k]:.2f}, "
                    f"90 % interval {evidence.score_low[k]:.2f} to {evidence.score_high[k]:.2f}"
                )
        if evidence.label_confidence[k] < _CONFIDENCE:
            reasons.append(
                f"the state predicted to be {label} behaves so in only {evidence.label_confidence[k]:.0%} of "
                "bootstrap draws"
            )
    return "; ".join(reasons)


def _predictions(f: FloatArray, chain: _Chain) -> FloatArray:
    """Return p(state at t | bars before t), (T, K), from the filtered distributions."""
    return np.vstack([chain.pi, f[:-1] @ chain.A])
