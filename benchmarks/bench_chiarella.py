"""Speed and accuracy of the Chiarella market, beside NumPy's own normals.

Run with `python benchmarks/bench_chiarella.py`.
"""

from __future__ import annotations

import time

import numpy as np

from hfthot_platform.domain.models.chiarella import (
    ChiarellaParams,
    autocovariance,
    calibrate,
    forecast,
    order_impact,
    simulate,
    stability,
)

STILL = ChiarellaParams(impact=2.0, alpha_fundamental=0.05, alpha_chartist=0.2, sigma_noise=0.004, volatility=0.006)
MOVING = ChiarellaParams(
    impact=2.0,
    alpha_fundamental=0.05,
    alpha_chartist=0.2,
    sigma_noise=0.004,
    volatility=0.006,
    fundamental_volatility=0.004,
)


def best(work, repeats):
    """Return the least wall time and the least processor time of several runs, in milliseconds."""
    work()
    wall, used = [], []
    for _ in range(repeats):
        started, cpu = time.perf_counter(), time.process_time()
        work()
        wall.append(time.perf_counter() - started)
        used.append(time.process_time() - cpu)
    return 1e3 * min(wall), 1e3 * min(used)


def speed():
    print(f"{'':62}{'ms':>9}{'CPU ms':>9}")
    for name, params in (("constant fundamental value", STILL), ("moving fundamental value", MOVING)):
        wall, cpu = best(lambda params=params: simulate(params, 1000, 300, seed=0), 50)
        print(f"{'1,000 x 300, ' + name + ' (limit 10)':62}{wall:9.2f}{cpu:9.2f}")
    normals, normals_cpu = best(lambda: np.random.default_rng(0).standard_normal((100_000, 300)), 5)
    print(f"{'100,000 x 300 normals by NumPy':62}{normals:9.0f}{normals_cpu:9.0f}")
    for name, params in (("constant fundamental value", STILL), ("moving (twice the normals)", MOVING)):
        for workers in (1, 2):
            wall, cpu = best(
                lambda params=params, workers=workers: simulate(params, 100_000, 300, seed=0, workers=workers), 4
            )
            title = f"100,000 x 300, {name}, {workers} thread{'s' * (workers > 1)}"
            ratio = f"  {wall / normals:.2f} x NumPy (processor time {cpu / normals_cpu:.2f}; limit 4)"
            print(f"{title:62}{wall:9.0f}{cpu:9.0f}{ratio}")
    same = {simulate(MOVING, 5000, 50, seed=1, workers=w).prices.tobytes() for w in (1, 2, 3, 8)}
    print(f"same bits for 1, 2, 3 and 8 threads: {len(same) == 1}")


def accuracy():
    print("\nStationary autocovariances, simulated (100,000 paths) against exact; distance in standard errors")
    for name, params in (("constant fundamental value", STILL), ("moving fundamental value", MOVING)):
        found = simulate(params, 100_000, 150, seed=3)
        deviation = found.prices - found.fundamental
        exact = autocovariance(params, 3)
        for lag in range(4):
            products = deviation[:, -1] * deviation[:, -1 - lag]
            error = products.std() / np.sqrt(products.size)
            print(
                f"  {name:28} lag {lag}: {products.mean():.6e} {exact[lag]:.6e} "
                f"{(products.mean() - exact[lag]) / error:+.2f}"
            )
    found, exact = simulate(MOVING, 100_000, 300, seed=4), forecast(MOVING, 300)
    ratio = found.prices[:, -1].std() / exact.deviation[-1]
    print(f"  standard deviation of the price after 300 steps, simulated over exact: {ratio:.4f}")
    judged = stability(STILL)
    print(f"  {judged.kind}, roots {judged.roots[0]:.3f} {judged.roots[1]:.3f}, half-life {judged.half_life:.2f} steps")
    impact = order_impact(STILL, 0.05, seed=1)
    print(f"  order of 5 % of a day's volume: peak {impact.peak:.5f}, slippage {impact.slippage:.5f}, ", end="")
    print(f"standard error {impact.standard_error.max():.1e}")


def calibration():
    print("\nCalibration, 20 recorded markets of 3,000 steps: share of 95 % intervals with the truth, mean estimate")
    truth = {"pull": 0.1, "chase": 0.4, "noise": 0.01, "fundamental_volatility": 0.004}
    hits, values = {name: [] for name in truth}, {name: [] for name in truth}
    started = time.perf_counter()
    for seed in range(20):
        prices = simulate(MOVING, 1, 3000, seed=seed).prices[0]
        found = calibrate(prices, seed=seed)
        for name, value in truth.items():
            estimate = found.estimates[name]
            hits[name].append(estimate.low <= value <= estimate.high)
            values[name].append(estimate.value)
    taken = (time.perf_counter() - started) / 20
    for name, value in truth.items():
        print(f"  {name:24} truth {value:.4f}  mean {np.mean(values[name]):.4f}  within {np.mean(hits[name]):.2f}")
    print(f"  {taken:.2f} s each")


if __name__ == "__main__":
    speed()
    accuracy()
    calibration()
