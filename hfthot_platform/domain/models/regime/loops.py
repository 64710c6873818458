"""Compiled loops of the regime models: expectation-maximisation, forward, backward, Viterbi, one online step.

What belongs here: arithmetic over bars that has to be compiled.  What does not: checks of inputs, labels,
choices.  All functions release the GIL and are cached on disk.  Notation: T bars, K states; f is the
filtered, g the smoothed distribution of the state, A the transition matrix (rows: from), pi the initial
distribution.
"""

from __future__ import annotations

import math

import numpy as np

from hfthot_platform.core.arrays import FloatArray, IntArray
from hfthot_platform.core.compiled import compiled

__all__ = [
    "advance",
    "ar_density",
    "autoregressive_density",
    "backward",
    "expectation_maximisation",
    "filter_autoregressive",
    "forward",
    "gaps",
    "law_density",
    "law_deviation",
    "multivariate_density",
    "multivariate_law",
    "online_autoregressive",
    "online_multivariate",
    "propagate",
    "simulate",
    "smooth_and_count",
    "trailing_features",
    "viterbi",
]

_HALF_LOG_2PI = 0.5 * math.log(2.0 * math.pi)
_PHI_LIMIT = 0.99
#: Least log of a state's standard deviation in units of the series', as for the AR(1).
_LOG_FLOOR = math.log(0.05)
#: Least probability that is divided by.
_LEAST = 1e-300


@compiled
def gaps(y: FloatArray, gap: IntArray, x: FloatArray) -> None:
    """Find each bar's last known return.

    Args:
        y: returns, (T,); NaN where the bar is missing.
        gap: filled, (T,): how many bars ago the last known return was; 0 where there is none, -1 where the
            bar itself is missing.
        x: filled, (T,): the last known return, 0 where there is none.
    """
    last, ago = 0.0, 0
    for t in range(y.size):
        x[t] = last
        if math.isnan(y[t]):
            gap[t] = -1
            if ago > 0:
                ago += 1
        else:
            gap[t] = ago
            last, ago = y[t], 1


@compiled
def ar_density(y: float, x: float, gap: int, mu: float, phi: float, sigma: float, log_sigma: float) -> float:
    """Return the log-density of a return whose predecessor x was seen `gap` bars ago, in an unbroken regime.

    After k bars of an AR(1) the mean is m + phi^k (x - m), with m = mu / (1 - phi), and the variance is
    sigma^2 (1 - phi^(2 k)) / (1 - phi^2); k -> infinity gives the stationary law, used where nothing came before.
    """
    if gap == 1:
        z = (y - mu - phi * x) / sigma
        return -0.5 * z * z - log_sigma - _HALF_LOG_2PI
    level = mu / (1.0 - phi)
    fade = 0.0 if gap == 0 else phi**gap
    deviation = sigma * math.sqrt((1.0 - fade * fade) / (1.0 - phi * phi))
    z = (y - level - fade * (x - level)) / deviation
    return -0.5 * z * z - math.log(deviation) - _HALF_LOG_2PI


@compiled
def autoregressive_density(
    y: FloatArray,
    x: FloatArray,
    gap: IntArray,
    mu: FloatArray,
    phi: FloatArray,
    sigma: FloatArray,
    conditional: bool,  # noqa: FBT001 (numba takes positional arguments only)
    out: FloatArray,
) -> None:
    """Fill `out` (T, K) with log-densities; 0 for missing bars.

    With `conditional`, a return without its direct predecessor is conditioned upon, not explained (0), unless
    no state has a phi: this is the likelihood that the fit maximises.
    """
    needs_predecessor = False
    log_sigma = np.log(sigma)
    for j in range(mu.size):
        if phi[j] != 0.0:
            needs_predecessor = True
    for t in range(y.size):
        skip = gap[t] == -1 or (conditional and needs_predecessor and gap[t] != 1)
        for j in range(mu.size):
            out[t, j] = 0.0 if skip else ar_density(y[t], x[t], gap[t], mu[j], phi[j], sigma[j], log_sigma[j])


@compiled
def advance(log_density: FloatArray, t: int, prediction: FloatArray, f: FloatArray) -> tuple[float, float]:
    """Fill f[t] (K,) with the prediction (K,) weighted by the densities of log_density[t] (K,).

    A path whose probability underflows is carried in logarithms, so no outlier can make the result NaN.  Rows are
    passed as array and index: a slice would cost more than the arithmetic.

    Returns:
        top and total; the log of the bar's density is top + log(total).
    """
    states = f.shape[1]
    top: float = log_density[t, 0]
    for j in range(1, states):
        top = max(top, log_density[t, j])
    total: float = 0.0
    for j in range(states):
        f[t, j] = prediction[j] * math.exp(log_density[t, j] - top)
        total += f[t, j]
    if total < 1e-280:
        top = -math.inf
        for j in range(states):
            f[t, j] = math.log(prediction[j]) + log_density[t, j] if prediction[j] > 0.0 else -math.inf
            top = max(top, f[t, j])
        total = 0.0
        for j in range(states):
            f[t, j] = math.exp(f[t, j] - top)
            total += f[t, j]
    scale = 1.0 / total
    for j in range(states):
        f[t, j] *= scale
    return top, total


@compiled
def propagate(f: FloatArray, t: int, A: FloatArray, out: FloatArray) -> None:
    """Fill `out` (K,) with the distribution one bar after f[t] (K,): f A."""
    for j in range(out.size):
        total = 0.0
        for i in range(out.size):
            total += f[t, i] * A[i, j]
        out[j] = total


@compiled
def forward(log_density: FloatArray, A: FloatArray, pi: FloatArray, f: FloatArray, out: FloatArray) -> None:
    """Fill f (T, K) with the filtered distributions and out (T,) with log p(bar t | bars before it).

    With out of size 0 the densities are not computed.
    """
    prediction = pi.copy()
    for t in range(log_density.shape[0]):
        if t > 0:
            propagate(f, t - 1, A, prediction)
        top, total = advance(log_density, t, prediction, f)
        if out.size > 0:
            out[t] = top + math.log(total)


@compiled
def filter_autoregressive(
    y: FloatArray,
    mu: FloatArray,
    phi: FloatArray,
    sigma: FloatArray,
    A: FloatArray,
    pi: FloatArray,
    conditional: bool,  # noqa: FBT001
    log_density: FloatArray,
    f: FloatArray,
    out: FloatArray,
) -> None:
    """Fill log_density (T, K), f (T, K) and out (T,) from returns y (T,) in one call."""
    x, gap = np.empty(y.size), np.empty(y.size, dtype=np.int64)
    gaps(y, gap, x)
    autoregressive_density(y, x, gap, mu, phi, sigma, conditional, log_density)
    forward(log_density, A, pi, f, out)


@compiled
def backward(f: FloatArray, A: FloatArray, g: FloatArray) -> None:
    """Fill g (T, K) with the smoothed distributions, from the filtered ones (Kim 1994)."""
    bars, states = f.shape
    ratio = np.empty(states)
    prediction = np.empty(states)
    g[bars - 1] = f[bars - 1]
    for t in range(bars - 2, -1, -1):
        propagate(f, t, A, prediction)
        for j in range(states):
            ratio[j] = g[t + 1, j] / prediction[j] if prediction[j] > _LEAST else 0.0
        for i in range(states):
            total = 0.0
            for j in range(states):
                total += A[i, j] * ratio[j]
            g[t, i] = f[t, i] * total


@compiled
def smooth_and_count(
    log_density: FloatArray, A: FloatArray, pi: FloatArray, f: FloatArray, g: FloatArray, jumps: FloatArray
) -> float:
    """Fill f and g (T, K) and the expected numbers of transitions (K, K); return the log-likelihood."""
    bars, states = log_density.shape
    out, prediction = np.empty(bars), np.empty(states)
    forward(log_density, A, pi, f, out)
    backward(f, A, g)
    jumps[:] = 0.0
    for t in range(bars - 1):
        propagate(f, t, A, prediction)
        for j in range(states):
            ratio = g[t + 1, j] / prediction[j] if prediction[j] > _LEAST else 0.0
            for i in range(states):
                jumps[i, j] += f[t, i] * ratio
    jumps *= A
    return float(out.sum())


@compiled
def viterbi(log_density: FloatArray, A: FloatArray, pi: FloatArray, path: IntArray) -> float:
    """Fill path (T,) with the most probable sequence of states; return its joint log-density."""
    bars, states = log_density.shape
    log_A = np.full((states, states), -np.inf)
    score = np.full(states, -np.inf)
    for i in range(states):
        if pi[i] > 0.0:
            score[i] = math.log(pi[i]) + log_density[0, i]
        for j in range(states):
            if A[i, j] > 0.0:
                log_A[i, j] = math.log(A[i, j])
    origin = np.zeros((bars, states), dtype=np.int8)
    following = np.empty(states)
    for t in range(1, bars):
        for j in range(states):
            best, source = score[0] + log_A[0, j], 0
            for i in range(1, states):
                value = score[i] + log_A[i, j]
                if value > best:
                    best, source = value, i
            following[j] = best + log_density[t, j]
            origin[t, j] = source
        score[:] = following
    state = int(np.argmax(score))
    best = float(score[state])
    for t in range(bars - 1, -1, -1):
        path[t] = state
        state = origin[t, state]
    return best


@compiled
def _expectation(
    y: FloatArray,
    x: FloatArray,
    use: IntArray,
    mu: FloatArray,
    phi: FloatArray,
    sigma: FloatArray,
    A: FloatArray,
    pi: FloatArray,
    f: FloatArray,
    inverse: FloatArray,
    moments: FloatArray,
    jumps: FloatArray,
    start: FloatArray,
) -> float:
    """One pass forward and one back over three states; return the log-likelihood.

    Written out for three states, because values kept in registers make it three times as fast as loops over
    K; two states run with a third one that cannot be reached.  The forward pass divides by the sum of each
    bar and by its largest density; the backward pass is Kim's, on g / prediction, and needs no densities.

    Args:
        y: returns, (T,). x: their predecessors, (T,). use: 1 where the density of the bar counts, (T,).
        mu: (3,). phi: (3,). sigma: (3,). A: (3, 3). pi: (3,).
        f: work space, (T, 3). inverse: work space, (T, 3); one over the predictions.
        moments: filled, (3, 6): sums of g times 1, x, y, x^2, x y, y^2.
        jumps: filled, (3, 3): expected numbers of transitions.
        start: filled, (3,): the smoothed distribution of the first bar.
    """
    bars = y.size
    m0, m1, m2 = mu[0], mu[1], mu[2]
    h0, h1, h2 = phi[0], phi[1], phi[2]
    s0, s1, s2 = 1.0 / sigma[0], 1.0 / sigma[1], 1.0 / sigma[2]
    l0, l1, l2 = math.log(s0), math.log(s1), math.log(s2)
    a00, a01, a02 = A[0, 0], A[0, 1], A[0, 2]
    a10, a11, a12 = A[1, 0], A[1, 1], A[1, 2]
    a20, a21, a22 = A[2, 0], A[2, 1], A[2, 2]
    p0, p1, p2 = pi[0], pi[1], pi[2]
    total, product = 0.0, 1.0
    counted = 0
    for t in range(bars):
        # Below the limit the inverse would overflow; such a state has no weight in either pass.
        inverse[t, 0] = 1.0 / p0 if p0 > _LEAST else 0.0
        inverse[t, 1] = 1.0 / p1 if p1 > _LEAST else 0.0
        inverse[t, 2] = 1.0 / p2 if p2 > _LEAST else 0.0
        if use[t] == 0:
            f0, f1, f2 = p0, p1, p2
        else:
            z0 = (y[t] - m0 - h0 * x[t]) * s0
            z1 = (y[t] - m1 - h1 * x[t]) * s1
            z2 = (y[t] - m2 - h2 * x[t]) * s2
            v0, v1, v2 = l0 - 0.5 * z0 * z0, l1 - 0.5 * z1 * z1, l2 - 0.5 * z2 * z2
            # One of the three exponentials is exp(0): not computing it saves a tenth of the time.
            if v0 >= v1 and v0 >= v2:
                top, f0, f1, f2 = v0, p0, p1 * math.exp(v1 - v0), p2 * math.exp(v2 - v0)
            elif v1 >= v2:
                top, f0, f1, f2 = v1, p0 * math.exp(v0 - v1), p1, p2 * math.exp(v2 - v1)
            else:
                top, f0, f1, f2 = v2, p0 * math.exp(v0 - v2), p1 * math.exp(v1 - v2), p2
            c = f0 + f1 + f2
            if c > 1e-140:
                product *= c
            else:  # an outlier that only improbable states explain: in logarithms
                v0 = v0 + math.log(p0) if p0 > 0.0 else -math.inf
                v1 = v1 + math.log(p1) if p1 > 0.0 else -math.inf
                v2 = v2 + math.log(p2) if p2 > 0.0 else -math.inf
                top = max(v0, max(v1, v2))  # noqa: PLW3301 (numba compiles the nested form to two instructions)
                f0, f1, f2 = math.exp(v0 - top), math.exp(v1 - top), math.exp(v2 - top)
                c = f0 + f1 + f2
                product *= c
            total += top
            counted += 1
            if product < 1e-140:  # one logarithm for many bars
                total += math.log(product)
                product = 1.0
            c = 1.0 / c
            f0, f1, f2 = f0 * c, f1 * c, f2 * c
        f[t, 0], f[t, 1], f[t, 2] = f0, f1, f2
        p0 = f0 * a00 + f1 * a10 + f2 * a20
        p1 = f0 * a01 + f1 * a11 + f2 * a21
        p2 = f0 * a02 + f1 * a12 + f2 * a22
    total += math.log(product) - counted * _HALF_LOG_2PI

    moments[:] = 0.0
    jumps[:] = 0.0
    g0, g1, g2 = f[bars - 1, 0], f[bars - 1, 1], f[bars - 1, 2]
    for t in range(bars - 1, -1, -1):
        if t < bars - 1:
            r0, r1, r2 = g0 * inverse[t + 1, 0], g1 * inverse[t + 1, 1], g2 * inverse[t + 1, 2]
            f0, f1, f2 = f[t, 0], f[t, 1], f[t, 2]
            jumps[0, 0] += f0 * r0
            jumps[0, 1] += f0 * r1
            jumps[0, 2] += f0 * r2
            jumps[1, 0] += f1 * r0
            jumps[1, 1] += f1 * r1
            jumps[1, 2] += f1 * r2
            jumps[2, 0] += f2 * r0
            jumps[2, 1] += f2 * r1
            jumps[2, 2] += f2 * r2
            g0 = f0 * (a00 * r0 + a01 * r1 + a02 * r2)
            g1 = f1 * (a10 * r0 + a11 * r1 + a12 * r2)
            g2 = f2 * (a20 * r0 + a21 * r1 + a22 * r2)
        if use[t] != 0:
            yt, xt = y[t], x[t]
            xx, xy, yy = xt * xt, xt * yt, yt * yt
            moments[0, 0] += g0
            moments[0, 1] += g0 * xt
            moments[0, 2] += g0 * yt
            moments[0, 3] += g0 * xx
            moments[0, 4] += g0 * xy
            moments[0, 5] += g0 * yy
            moments[1, 0] += g1
            moments[1, 1] += g1 * xt
            moments[1, 2] += g1 * yt
            moments[1, 3] += g1 * xx
            moments[1, 4] += g1 * xy
            moments[1, 5] += g1 * yy
            moments[2, 0] += g2
            moments[2, 1] += g2 * xt
            moments[2, 2] += g2 * yt
            moments[2, 3] += g2 * xx
            moments[2, 4] += g2 * xy
            moments[2, 5] += g2 * yy
    start[0], start[1], start[2] = g0, g1, g2
    for i in range(3):
        for j in range(3):
            jumps[i, j] *= A[i, j]
    return total


@compiled
def _maximisation(
    moments: FloatArray,
    jumps: FloatArray,
    start: FloatArray,
    autoregressive: bool,  # noqa: FBT001
    stickiness: float,
    floor: float,
    mu: FloatArray,
    phi: FloatArray,
    sigma: FloatArray,
    A: FloatArray,
    pi: FloatArray,
) -> None:
    """Replace the parameters by the exact maximisers of the expected log-density, in place.

    Per state this is a weighted regression of y on (1, x).  Its objective, profiled over mu, is concave in
    phi, so the maximiser under |phi| <= 0.99 is the clipped one with mu solved again; and as the best mean
    does not depend on the variance, clipping the variance at its floor is exact too.
    """
    for j in range(3):
        n, sx, sy, sxx, sxy, syy = moments[j]
        if n > 1e-6:
            cxx, cxy, cyy = sxx - sx * sx / n, sxy - sx * sy / n, syy - sy * sy / n
            slope = 0.0
            if autoregressive and cxx > 1e-12 * n:
                slope = min(_PHI_LIMIT, max(-_PHI_LIMIT, cxy / cxx))
            phi[j] = slope
            mu[j] = (sy - slope * sx) / n
            sigma[j] = math.sqrt(max(floor, (cyy - 2.0 * slope * cxy + slope * slope * cxx) / n))
        pi[j] = start[j]
        row = stickiness
        for i in range(3):
            row += jumps[j, i]
        if row - stickiness > 1e-12:
            for i in range(3):
                A[j, i] = (jumps[j, i] + (stickiness if i == j else 0.0)) / row


@compiled
def expectation_maximisation(
    y: FloatArray,
    x: FloatArray,
    use: IntArray,
    autoregressive: bool,  # noqa: FBT001
    stickiness: float,
    floor: float,
    tolerance: float,
    max_iterations: int,
    mu: FloatArray,
    phi: FloatArray,
    sigma: FloatArray,
    A: FloatArray,
    pi: FloatArray,
    trace: FloatArray,
) -> tuple[int, float, bool]:
    """Iterate in place until the objective gains less than `tolerance`.

    The objective is the log-likelihood, plus stickiness * sum log A_jj where a sticky prior is asked for.

    Args:
        y: (T,), standardised. x: (T,). use: (T,).
        autoregressive: whether phi is estimated; otherwise it is 0.
        stickiness: pseudo-count of staying, per state. floor: least variance.
        tolerance: in nats. max_iterations: at most this many passes over the data.
        mu: (3,). phi: (3,). sigma: (3,). A: (3, 3). pi: (3,); the starting point and the result.
        trace: filled, (max_iterations,): the objective at the parameters of each iteration.

    Returns:
        Iterations, log-likelihood of the parameters left in place, whether the tolerance was reached.
    """
    bars = y.size
    f, inverse = np.empty((bars, 3)), np.empty((bars, 3))
    moments, jumps, start = np.empty((3, 6)), np.empty((3, 3)), np.empty(3)
    previous = -math.inf
    likelihood = -math.inf
    for iteration in range(max_iterations):
        likelihood = _expectation(y, x, use, mu, phi, sigma, A, pi, f, inverse, moments, jumps, start)
        objective = likelihood
        if stickiness > 0.0:
            for j in range(3):
                objective += stickiness * math.log(A[j, j])
        trace[iteration] = objective
        if objective - previous < tolerance:
            return iteration + 1, likelihood, True
        previous = objective
        if iteration + 1 < max_iterations:
            _maximisation(moments, jumps, start, autoregressive, stickiness, floor, mu, phi, sigma, A, pi)
    return max_iterations, likelihood, False


@compiled
def _settled(memory: FloatArray, decay: FloatArray) -> bool:
    """Return whether the last bar is there and the sums behind its features are near their full weight."""
    v, d, c = decay[0], decay[1], decay[2]
    return not (
        math.isnan(memory[9])
        or memory[0] * (1.0 - v) < 0.75
        or memory[2] * (1.0 - d) < 0.75
        or memory[5] * (1.0 - c) < 0.75
        or memory[7] * (1.0 - c) < 0.5
    )


@compiled
def _remember(memory: FloatArray, r: float, decay: FloatArray, out: FloatArray, t: int) -> int:
    """Take one return into the exponentially weighted sums; fill out[t] (4,) with the features of the bar.

    The features, of returns in units of the model's scale: the return; the efficiency ratio |sum r| / sum |r|,
    times the square root of the weight so that a random walk has the same value whatever the memory; the lag-1
    autocorrelation; the log of the root mean square.  A missing bar only ages the sums, and a pair counts only
    if both its bars are there.  A thousandth of the scale is added where a motionless series divides by zero.

    Args:
        memory: sums, (10,): weight and r^2 for volatility; weight, r and |r| for the trend; weight, r^2, pairs'
            weight and products for the autocorrelation; the last return or NaN.
        r: the return in units of the scale, NaN if the bar is missing.
        decay: factor per bar of volatility, trend and autocorrelation, (3,).
        out: row t is filled, (T, 4). t: the bar.

    Returns:
        0 if the bar is missing; 1 if only its return is known, as long as one of the weights is below three
        quarters of its limit; 2 if all four features are known.
    """
    v, d, c = decay[0], decay[1], decay[2]
    memory[0] *= v
    memory[1] *= v
    memory[2] *= d
    memory[3] *= d
    memory[4] *= d
    memory[5] *= c
    memory[6] *= c
    memory[7] *= c
    memory[8] *= c
    last = memory[9]
    memory[9] = r
    out[t, 0] = r
    out[t, 1] = out[t, 2] = out[t, 3] = 0.0
    if math.isnan(r):
        return 0
    memory[0] += 1.0
    memory[1] += r * r
    memory[2] += 1.0
    memory[3] += r
    memory[4] += abs(r)
    memory[5] += 1.0
    memory[6] += r * r
    if not math.isnan(last):
        memory[7] += 1.0
        memory[8] += r * last
    if not _settled(memory, decay):
        return 1
    out[t, 1] = abs(memory[3]) / (memory[4] + 1e-3) * math.sqrt(memory[2])
    out[t, 2] = memory[8] * memory[5] / (memory[7] * (memory[6] + 1e-6 * memory[5]))
    out[t, 3] = 0.5 * math.log(memory[1] / memory[0] + 1e-6)
    return 2


@compiled
def trailing_features(y: FloatArray, decay: FloatArray, out: FloatArray, known: IntArray) -> None:
    """Fill out (T, 4) with the features of each bar, from it and the bars before, and known (T,)."""
    memory = np.zeros(10)
    memory[9] = np.nan
    for t in range(y.size):
        known[t] = _remember(memory, y[t], decay, out, t)


@compiled
def multivariate_density(
    x: FloatArray, known: IntArray, mean: FloatArray, whiten: FloatArray, constant: FloatArray, out: FloatArray
) -> None:
    """Fill out (T, K) with log-densities of the features, or of their first one alone; 0 for missing bars.

    Args:
        x: features, (T, 4). known: as `_remember` returns it, (T,). mean: (K, 4).
        whiten: (K, 4, 4), inverse of the Cholesky factor L of the covariance; as L is lower triangular, its first
            element is one over the standard deviation of the first feature.
        constant: log-densities at the mean, of the first feature and of all four, (K, 2).
        out: filled, (T, K).
    """
    for t in range(x.shape[0]):
        for j in range(mean.shape[0]):
            if known[t] == 0:
                out[t, j] = 0.0
                continue
            d0 = x[t, 0] - mean[j, 0]
            z0 = whiten[j, 0, 0] * d0
            total = z0 * z0
            if known[t] == 2:  # written out: a loop over a triangle is not unrolled
                d1, d2, d3 = x[t, 1] - mean[j, 1], x[t, 2] - mean[j, 2], x[t, 3] - mean[j, 3]
                z1 = whiten[j, 1, 0] * d0 + whiten[j, 1, 1] * d1
                z2 = whiten[j, 2, 0] * d0 + whiten[j, 2, 1] * d1 + whiten[j, 2, 2] * d2
                z3 = whiten[j, 3, 0] * d0 + whiten[j, 3, 1] * d1 + whiten[j, 3, 2] * d2 + whiten[j, 3, 3] * d3
                total += z1 * z1 + z2 * z2 + z3 * z3
            out[t, j] = constant[j, known[t] - 1] - 0.5 * total


@compiled
def law_deviation(a: float, b: float, v: float) -> float:
    """Return the log of a state's standard deviation after log volatility v, not below the floor."""
    return max(a + b * v, _LOG_FLOOR)


@compiled
def _law_density_of(r: float, before: float, v: float, c: float, phi: float, a: float, b: float) -> float:
    """Return the log-density of a return after the return `before` and log volatility v, in one state."""
    deviation = law_deviation(a, b, v)
    z = (r - c - phi * before) * math.exp(-deviation)
    return -0.5 * z * z - deviation - _HALF_LOG_2PI


@compiled
def law_density(
    x: FloatArray,
    known: IntArray,
    gap: IntArray,
    last: FloatArray,
    law: FloatArray,
    mu: FloatArray,
    phi: FloatArray,
    sigma: FloatArray,
    conditional: bool,  # noqa: FBT001
    out: FloatArray,
) -> None:
    """Fill out (T, K) with log-densities of each return given the bars before it; 0 for missing bars.

    Where the bar before has all features, this is the law of the next return, else that of an AR(1) over the gap (0
    with `conditional`, the likelihood that the fit maximises).  Each return counts once, so these densities multiply
    to the likelihood of the returns, which overlapping features do not.

    Args:
        x: features, (T, 4). known: as `_remember` returns it, (T,). gap: as `gaps` fills it, (T,). last: the same.
        law: c, phi, a, b, (K, 4). mu: (K,). phi: (K,). sigma: (K,); of the AR(1), all in units of the scale.
        conditional: see above. out: filled, (T, K).
    """
    log_sigma = np.log(sigma)
    for t in range(x.shape[0]):
        for j in range(law.shape[0]):
            if gap[t] < 0:
                out[t, j] = 0.0
            elif gap[t] == 1 and known[t - 1] == 2:
                out[t, j] = _law_density_of(
                    x[t, 0], x[t - 1, 0], x[t - 1, 3], law[j, 0], law[j, 1], law[j, 2], law[j, 3]
                )
            elif conditional:
                out[t, j] = 0.0
            else:
                out[t, j] = ar_density(x[t, 0], last[t], gap[t], mu[j], phi[j], sigma[j], log_sigma[j])


@compiled
def multivariate_law(
    y: FloatArray,
    scale: float,
    decay: FloatArray,
    law: FloatArray,
    mu: FloatArray,
    phi: FloatArray,
    sigma: FloatArray,
    conditional: bool,  # noqa: FBT001
    out: FloatArray,
) -> None:
    """Fill out (T, K) with `law_density` of returns y (T,); mu, phi and sigma are in units of the scale."""
    z, last = y / scale, np.empty(y.size)
    x, known, gap = np.empty((y.size, 4)), np.empty(y.size, dtype=np.int64), np.empty(y.size, dtype=np.int64)
    trailing_features(z, decay, x, known)
    gaps(z, gap, last)
    law_density(x, known, gap, last, law, mu, phi, sigma, conditional, out)


@compiled
def _predict(f: FloatArray, memory: FloatArray, A: FloatArray, pi: FloatArray, prediction: FloatArray) -> None:
    """Fill prediction (K,) with the distribution one bar after f[0], or with pi at the first bar; count the bar."""
    if memory[0] == 0.0:
        prediction[:] = pi
    else:
        propagate(f, 0, A, prediction)
    memory[0] += 1.0


@compiled
def online_autoregressive(
    f: FloatArray,
    memory: FloatArray,
    r: float,
    mu: FloatArray,
    phi: FloatArray,
    sigma: FloatArray,
    A: FloatArray,
    pi: FloatArray,
) -> int:
    """Take one bar, NaN if it is missing; return the most probable state.

    Args:
        f: probabilities, (1, K). memory: bars seen, last known return, how many bars ago, (3,); both updated.
        r: the return. mu: (K,). phi: (K,). sigma: (K,). A: (K, K). pi: (K,).
    """
    states = pi.size
    prediction, row = np.empty(states), np.zeros((1, states))
    _predict(f, memory, A, pi, prediction)
    if math.isnan(r):
        if memory[2] > 0.0:
            memory[2] += 1.0
    else:
        gap, log_sigma = int(memory[2]), np.log(sigma)
        for j in range(states):
            row[0, j] = ar_density(r, memory[1], gap, mu[j], phi[j], sigma[j], log_sigma[j])
        memory[1], memory[2] = r, 1.0
    advance(row, 0, prediction, f)
    return int(np.argmax(f[0]))


@compiled
def online_multivariate(
    f: FloatArray,
    memory: FloatArray,
    r: float,
    decay: FloatArray,
    law: FloatArray,
    mu: FloatArray,
    phi: FloatArray,
    sigma: FloatArray,
    A: FloatArray,
    pi: FloatArray,
) -> int:
    """Take one bar, NaN if it is missing; return the most probable state.

    Args:
        f: probabilities, (1, K). memory: bars seen, the last known return, how many bars ago, then the sums of
            `_remember`, (13,); both updated.
        r: the return in units of the scale. decay: (3,).
        law: (K, 4). mu: (K,). phi: (K,). sigma: (K,). A: (K, K). pi: (K,).
    """
    states = pi.size
    prediction, row, features = np.empty(states), np.zeros((1, states)), np.empty((1, 4))
    _predict(f, memory, A, pi, prediction)
    sums = memory[3:]
    # The bar before, as far as the law asks for it.
    settled = _settled(sums, decay)
    before = sums[9]
    v = 0.5 * math.log(sums[1] / sums[0] + 1e-6) if settled else 0.0
    _remember(sums, r, decay, features, 0)
    if math.isnan(r):
        if memory[2] > 0.0:
            memory[2] += 1.0
    else:
        gap = int(memory[2])
        for j in range(states):
            if gap == 1 and settled:
                row[0, j] = _law_density_of(r, before, v, law[j, 0], law[j, 1], law[j, 2], law[j, 3])
            else:
                row[0, j] = ar_density(r, memory[1], gap, mu[j], phi[j], sigma[j], math.log(sigma[j]))
        memory[1], memory[2] = r, 1.0
    advance(row, 0, prediction, f)
    return int(np.argmax(f[0]))


@compiled
def simulate(
    uniform: FloatArray,
    normal: FloatArray,
    mu: FloatArray,
    phi: FloatArray,
    sigma: FloatArray,
    A: FloatArray,
    pi: FloatArray,
    y: FloatArray,
    path: IntArray,
) -> None:
    """Fill y (T,) and path (T,) with a simulated series, from T uniforms and T normals."""
    for t in range(y.size):
        target, state = uniform[t], 0
        row = pi if t == 0 else A[path[t - 1]]
        while state < pi.size - 1 and target >= row[state]:
            target -= row[state]
            state += 1
        path[t] = state
        if t == 0:
            y[0] = mu[state] / (1.0 - phi[state]) + normal[0] * sigma[state] / math.sqrt(1.0 - phi[state] ** 2)
        else:
            y[t] = mu[state] + phi[state] * y[t - 1] + sigma[state] * normal[t]
