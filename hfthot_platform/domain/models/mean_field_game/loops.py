"""Compiled sweeps of the mean field game solver; the scheme is described in `mean_field_game`.

A step is B V(n) = V(n+1) + dt * reward, with B = I - dt G and G the generator of the agents' Markov chain:

    B[i, i-1] = -dt down[i],    B[i, i+1] = -dt up[i],    B[i, i] = 1 - (the two others),

an M-matrix.  B = L U with unit lower L (subdiagonal `low` <= 0) and upper U (diagonal 1 / `inverse` > 0,
superdiagonal -dt up), so that solving with B or its transpose only adds numbers of one sign.
"""

from __future__ import annotations

import numpy as np

from hfthot_platform.core.arrays import FloatArray
from hfthot_platform.core.compiled import compiled

__all__ = ["fokker_planck", "hjb", "tangent"]


@compiled
def hjb(
    rate: FloatArray,
    viscosity: FloatArray,
    noise: float,
    q: FloatArray,
    h: float,
    dt: FloatArray,
    running: FloatArray,
    terminal: FloatArray,
    impact: float,
    kappa: float,
    power: float,
) -> tuple[FloatArray, FloatArray, FloatArray, FloatArray, FloatArray, FloatArray, float]:
    """Sweep the HJB equation backward; return V, v, jump rates, the LU factors, and max |V| (NaN if it failed)."""
    steps, n = rate.size, q.size
    value = np.empty((steps + 1, n))
    speed = np.zeros((steps, n))
    up, down = np.zeros((steps, n)), np.zeros((steps, n))
    inverse, low = np.empty((steps, n)), np.zeros((steps, n))
    w, y = np.empty(n), np.empty(n)
    value[steps] = terminal
    quadratic = power == 2.0
    exponent = 1.0 / (power - 1.0)
    unit = 1.0 / (kappa * power)
    per_h = 1.0 / h
    size = np.abs(terminal).max()
    for k in range(steps - 1, -1, -1):
        later = value[k + 1]
        v, a, b, inv, lo = speed[k], up[k], down[k], inverse[k], low[k]
        step = dt[k]
        cap = 2.0 * viscosity[k] * per_h
        spread = viscosity[k] * per_h * per_h
        if k < steps - 1:
            for i in range(n):  # a straight line in time is the better first guess
                w[i] = later[i] + (later[i] - value[k + 2, i]) * dt[k] / dt[k + 1]
        else:
            w[:] = later
        change = np.inf
        for _ in range(60):
            # Howard: the best controls for w, then the value of these controls.  Convergence is quadratic, so at the
            # break they are optimal to rounding, and value, controls and factors belong to each other exactly.
            if change <= 1e-12 * size:
                break
            for i in range(n):
                if i == 0:
                    p = max(0.0, (w[1] - w[0]) * per_h)
                elif i == n - 1:
                    p = min(0.0, (w[n - 1] - w[n - 2]) * per_h)
                else:
                    p = 0.5 * (w[i + 1] - w[i - 1]) * per_h
                pace = abs(p) * unit if quadratic else (abs(p) * unit) ** exponent
                pace = min(pace, cap)
                v[i] = pace if p > 0 else -pace
                cost = pace * pace if quadratic else pace**power
                y[i] = later[i] + step * (running[i] + impact * q[i] * rate[k] - kappa * cost)
                a[i] = spread + 0.5 * v[i] * per_h
                b[i] = spread - 0.5 * v[i] * per_h
            # At an end the chain jumps inward only, and carries the agents' own noise but no numerical viscosity.
            a[0], b[0] = v[0] * per_h + noise * per_h * per_h, 0.0
            a[n - 1], b[n - 1] = 0.0, -v[n - 1] * per_h + noise * per_h * per_h
            rest = 1.0  # diag less dt a: 1 + dt b (1 + low a[i-1] / b), without a subtraction
            inv[0] = 1.0 / (rest + step * a[0])
            for i in range(1, n):
                lo[i] = -step * b[i] * inv[i - 1]
                rest = 1.0 - lo[i] * rest
                inv[i] = 1.0 / (rest + step * a[i])
                y[i] -= lo[i] * y[i - 1]
            change = 0.0
            x = 0.0
            for i in range(n - 1, -1, -1):
                x = y[i] * inv[i] + step * a[i] * inv[i] * x
                change = max(change, abs(x - w[i]))
                w[i] = x
                size = max(size, abs(x))
        value[k] = w
        if not np.isfinite(w.sum()) or change > 1e-6 * size:
            return value, speed, up, down, inverse, low, np.nan
    return value, speed, up, down, inverse, low, size


@compiled
def fokker_planck(
    initial: FloatArray, dt: FloatArray, up: FloatArray, inverse: FloatArray, low: FloatArray
) -> FloatArray:
    """Sweep the Fokker-Planck equation forward: B' m(n+1) = m(n), with the factors of the HJB sweep."""
    steps, n = up.shape
    mass = np.empty((steps + 1, n))
    mass[0] = initial
    for k in range(steps):
        _solve_transposed(dt[k], up[k], inverse[k], low[k], mass[k], mass[k + 1])
    return mass


@compiled
def _solve_transposed(
    dt: float, up: FloatArray, inverse: FloatArray, low: FloatArray, right: FloatArray, out: FloatArray
) -> None:
    n = right.size
    out[0] = right[0] * inverse[0]
    for i in range(1, n):
        out[i] = right[i] * inverse[i] + dt * up[i - 1] * inverse[i] * out[i - 1]
    for i in range(n - 2, -1, -1):
        out[i] -= low[i + 1] * out[i + 1]


@compiled
def tangent(
    step: FloatArray,
    q: FloatArray,
    h: float,
    dt: FloatArray,
    impact: float,
    speed: FloatArray,
    slope: FloatArray,
    up: FloatArray,
    inverse: FloatArray,
    low: FloatArray,
    mass: FloatArray,
) -> FloatArray:
    """Return F'(mu) step: the two sweeps, linearised around an iterate (the controls' optimality drops them)."""
    steps, n = up.shape
    dspeed = np.zeros((steps, n))
    dv, y = np.zeros(n), np.empty(n)
    for k in range(steps - 1, -1, -1):
        for i in range(n):
            right = dv[i] + dt[k] * impact * q[i] * step[k]
            y[i] = right if i == 0 else right - low[k, i] * y[i - 1]
        dv[n - 1] = y[n - 1] * inverse[k, n - 1]
        for i in range(n - 2, -1, -1):
            dv[i] = y[i] * inverse[k, i] + dt[k] * up[k, i] * inverse[k, i] * dv[i + 1]
        dspeed[k, 0] = slope[k, 0] * (dv[1] - dv[0]) / h
        dspeed[k, n - 1] = slope[k, n - 1] * (dv[n - 1] - dv[n - 2]) / h
        for i in range(1, n - 1):
            dspeed[k, i] = slope[k, i] * 0.5 * (dv[i + 1] - dv[i - 1]) / h
    out = np.empty(steps)
    dm, right_side = np.zeros(n), np.empty(n)
    for k in range(steps):
        after = mass[k + 1]
        right_side[:] = dm
        for i in range(n):
            # The probability that the change of speed moves: half up, half down inside, all of it at an end.
            moved = dt[k] / h * dspeed[k, i] * after[i]
            if i == 0:
                right_side[0] -= moved
                right_side[1] += moved
            elif i == n - 1:
                right_side[n - 1] += moved
                right_side[n - 2] -= moved
            else:
                right_side[i + 1] += 0.5 * moved
                right_side[i - 1] -= 0.5 * moved
        _solve_transposed(dt[k], up[k], inverse[k], low[k], right_side, dm)
        total = 0.0
        for i in range(n):
            total += dm[i] * speed[k, i] + after[i] * dspeed[k, i]
        out[k] = total
    return out
