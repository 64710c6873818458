"""Compiled sweeps of the mean field game solver; the scheme is described in `mean_field_game`.

A step is B V(n) = V(n+1) + dt * reward, with B = I - dt G and G the generator of the agents' Markov chain:

    B[i, i-1] = -dt down[i],    B[i, i+1] = -dt up[i],    B[i, i] = 1 - (the two others),

an M-matrix.  B = L U with unit lower L (subdiagonal `low` <= 0) and upper U (diagonal `diag` > 0, superdiagonal
-dt up), so that solving with B or its transpose only adds numbers of one sign.
"""

from __future__ import annotations

import numpy as np

from hfthot_platform.models._compiled import compiled
from hfthot_platform.models.arrays import FloatArray

__all__ = ["fokker_planck", "hjb", "tangent"]


@compiled
def _up(v: float, i: int, n: int, h: float, viscosity: float, noise: float) -> float:
    """Return the jump rate from node i to i + 1."""
    if i == n - 1:
        return 0.0
    return v / h + noise / (h * h) if i == 0 else (viscosity / h + 0.5 * v) / h


@compiled
def _down(v: float, i: int, n: int, h: float, viscosity: float, noise: float) -> float:
    """Return the jump rate from node i to i - 1."""
    if i == 0:
        return 0.0
    return -v / h + noise / (h * h) if i == n - 1 else (viscosity / h - 0.5 * v) / h


@compiled
def hjb(
    rate: FloatArray,
    viscosity: FloatArray,
    noise: float,
    q: FloatArray,
    h: float,
    dt: float,
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
    diag, low = np.empty((steps, n)), np.zeros((steps, n))
    w, y = np.empty(n), np.empty(n)
    value[steps] = terminal
    quadratic = power == 2.0
    exponent = 1.0 / (power - 1.0)
    unit = 1.0 / (kappa * power)
    size = np.abs(terminal).max()
    for k in range(steps - 1, -1, -1):
        later = value[k + 1]
        w[:] = later
        v, a, b, d, lo = speed[k], up[k], down[k], diag[k], low[k]
        cap = 2.0 * viscosity[k] / h
        change = np.inf
        for _ in range(60):
            # Howard: the best controls for w, then the value of these controls.  Convergence is quadratic, so at the
            # break they are optimal to rounding, and value, controls and factors belong to each other exactly.
            if change <= 1e-12 * size:
                break
            for i in range(n):
                if i == 0:
                    p = max(0.0, (w[1] - w[0]) / h)
                elif i == n - 1:
                    p = min(0.0, (w[n - 1] - w[n - 2]) / h)
                else:
                    p = 0.5 * (w[i + 1] - w[i - 1]) / h
                pace = abs(p) * unit if quadratic else (abs(p) * unit) ** exponent
                pace = min(pace, cap)
                v[i] = pace if p > 0 else -pace
                a[i] = _up(v[i], i, n, h, viscosity[k], noise)
                b[i] = _down(v[i], i, n, h, viscosity[k], noise)
                cost = pace * pace if quadratic else pace**power
                right = later[i] + dt * (running[i] + impact * q[i] * rate[k] - kappa * cost)
                if i == 0:
                    d[0] = 1.0 + dt * a[0]
                    y[0] = right
                else:
                    before = d[i - 1]
                    lo[i] = -dt * b[i] / before
                    # 1 + dt (a + b) + lo dt a[i-1], written without a subtraction of nearly equal numbers.
                    d[i] = 1.0 + dt * a[i] + dt * b[i] * ((before - dt * a[i - 1]) / before)
                    y[i] = right - lo[i] * y[i - 1]
            change = 0.0
            for i in range(n - 1, -1, -1):
                x = y[i] / d[i] if i == n - 1 else (y[i] + dt * a[i] * y[i + 1]) / d[i]
                y[i] = x
                change = max(change, abs(x - w[i]))
                w[i] = x
                size = max(size, abs(x))
        value[k] = w
        if not np.isfinite(w.sum()) or change > 1e-6 * size:
            return value, speed, up, down, diag, low, np.nan
    return value, speed, up, down, diag, low, size


@compiled
def fokker_planck(initial: FloatArray, dt: float, up: FloatArray, diag: FloatArray, low: FloatArray) -> FloatArray:
    """Sweep the Fokker-Planck equation forward: B' m(n+1) = m(n), with the factors of the HJB sweep."""
    steps, n = up.shape
    mass = np.empty((steps + 1, n))
    mass[0] = initial
    for k in range(steps):
        _solve_transposed(dt, up[k], diag[k], low[k], mass[k], mass[k + 1])
    return mass


@compiled
def _solve_transposed(
    dt: float, up: FloatArray, diag: FloatArray, low: FloatArray, right: FloatArray, out: FloatArray
) -> None:
    n = right.size
    out[0] = right[0] / diag[0]
    for i in range(1, n):
        out[i] = (right[i] + dt * up[i - 1] * out[i - 1]) / diag[i]
    for i in range(n - 2, -1, -1):
        out[i] -= low[i + 1] * out[i + 1]


@compiled
def tangent(
    step: FloatArray,
    q: FloatArray,
    h: float,
    dt: float,
    impact: float,
    speed: FloatArray,
    slope: FloatArray,
    up: FloatArray,
    diag: FloatArray,
    low: FloatArray,
    mass: FloatArray,
) -> FloatArray:
    """Return F'(mu) step: the two sweeps, linearised around an iterate (the controls' optimality drops them)."""
    steps, n = up.shape
    dspeed = np.zeros((steps, n))
    dv, y = np.zeros(n), np.empty(n)
    for k in range(steps - 1, -1, -1):
        for i in range(n):
            right = dv[i] + dt * impact * q[i] * step[k]
            y[i] = right if i == 0 else right - low[k, i] * y[i - 1]
        dv[n - 1] = y[n - 1] / diag[k, n - 1]
        for i in range(n - 2, -1, -1):
            dv[i] = (y[i] + dt * up[k, i] * dv[i + 1]) / diag[k, i]
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
            moved = dt / h * dspeed[k, i] * after[i]
            if i == 0:
                right_side[0] -= moved
                right_side[1] += moved
            elif i == n - 1:
                right_side[n - 1] += moved
                right_side[n - 2] -= moved
            else:
                right_side[i + 1] += 0.5 * moved
                right_side[i - 1] -= 0.5 * moved
        _solve_transposed(dt, up[k], diag[k], low[k], right_side, dm)
        total = 0.0
        for i in range(n):
            total += dm[i] * speed[k, i] + after[i] * dspeed[k, i]
        out[k] = total
    return out
