"""Speed and accuracy of the mean field game solver.

Run with `python benchmarks/bench_mean_field_game.py`.
"""

from __future__ import annotations

import time

import numpy as np

from hfthot_platform.domain.models.mean_field_game import InventoryDensity, TradeCrowding, closed_form, solve

GAMES = {
    "reference": TradeCrowding(0.4, 0.1, 0.2, 2.5, 5.0, 10.0),
    "weak impact": TradeCrowding(0.1, 0.01, 0.2, 2.5, 5.0, 10.0),
    "no interaction": TradeCrowding(0.0, 0.1, 0.2, 2.5, 5.0, 10.0),
    "no running penalty": TradeCrowding(0.4, 0.0, 0.2, 2.5, 5.0, 10.0),
    "strong impact": TradeCrowding(1.0, 0.1, 0.2, 2.5, 5.0, 10.0),
    "very strong impact": TradeCrowding(2.0, 0.1, 0.2, 2.5, 5.0, 10.0),
    "urgent": TradeCrowding(0.4, 1.0, 0.2, 2.5, 5.0, 10.0),
    "expensive trading": TradeCrowding(0.4, 0.1, 2.0, 2.5, 5.0, 10.0),
    "soft end": TradeCrowding(0.4, 0.1, 0.2, 0.1, 5.0, 10.0),
    "free end": TradeCrowding(0.4, 0.1, 0.2, 0.0, 5.0, 10.0),
    "stiff end": TradeCrowding(0.4, 0.02, 0.5, 25.0, 3.0, 10.0),
    "wide density": TradeCrowding(0.4, 0.1, 0.2, 2.5, 5.0, InventoryDensity.gaussian(10.0, 4.0)),
    "buyers and sellers": TradeCrowding(0.4, 0.1, 0.2, 2.5, 5.0, InventoryDensity.gaussian(2.0, 4.0)),
    "noisy inventories": TradeCrowding(0.4, 0.1, 0.2, 2.5, 5.0, 10.0, inventory_noise=1.0),
}


def best_ms(work, repeats):
    """Return the shortest wall time and the shortest CPU time of several runs; on a busy machine they differ."""
    work()
    wall, cpu = [], []
    for _ in range(repeats):
        started, used = time.perf_counter(), time.thread_time()
        work()
        wall.append(time.perf_counter() - started)
        cpu.append(time.thread_time() - used)
    return 1e3 * min(wall), 1e3 * min(cpu)


def relative_error(solution):
    game = solution.game
    exact = closed_form(game, solution.times).mean_inventory
    return np.abs(solution.mean_inventory - exact).max() / abs(game.mean_initial_inventory)


def main():
    reference = GAMES["reference"]

    print("Speed, reference game, extrapolated (so each figure includes the coarse solution)")
    heads = ("ms", "CPU ms", "us/point", "residual", "HJB", "FP", "mass", "iter")
    print(f"{'grid':>11}", *(f"{head:>9}" for head in heads))
    for n in (51, 101, 201, 401, 801):
        solution = solve(reference, n, n, tolerance=1e-8)
        ms, cpu = best_ms(lambda n=n: solve(reference, n, n, tolerance=1e-8), 30 if n <= 201 else 5)
        times = f"{ms:>9.1f} {cpu:>9.1f} {1e3 * cpu / n**2:>9.3f}"
        errors = (solution.residuals[-1], solution.hjb_residual, solution.fokker_planck_residual, solution.mass_error)
        print(f"{n:>5} x {n:<4}", times, *(f"{error:>9.1e}" for error in errors), f"{solution.iterations:>9}")

    print("\nAccuracy: largest error of the mean inventory over |E0|, against the closed form")
    print(f"{'game':<20} {'101':>9} {'201':>9} {'401':>9} {'order':>6} {'first order 201':>16} {'ms at 101':>10}")
    for name, game in GAMES.items():
        errors = [relative_error(solve(game, n, n)) for n in (101, 201, 401)]
        raw = relative_error(solve(game, 201, 201, extrapolate=False))
        ms, _ = best_ms(lambda game=game: solve(game, tolerance=1e-8), 10)
        order = np.log2(errors[1] / errors[2])
        print(
            f"{name:<20} {errors[0]:>9.1e} {errors[1]:>9.1e} {errors[2]:>9.1e} {order:>6.2f} {raw:>16.1e} {ms:>10.1f}"
        )

    print("\nExploitability by iteration (gain of one deviating agent), 101 x 101")
    start = InventoryDensity.gaussian(10.0, 0.2)
    cold = solve(TradeCrowding(0.4, 0.1, 0.2, 2.5, 5.0, start), extrapolate=False)
    print("  Newton          ", " ".join(f"{gain:.1e}" for gain in cold.exploitability))
    play = solve(reference, method="fictitious_play", max_iterations=256, extrapolate=False)
    picks = [2**k - 1 for k in range(9)]
    print("  fictitious play ", " ".join(f"{gain:.1e}" for gain in play.exploitability[picks]), "(1, 2, 4, ... 256)")


if __name__ == "__main__":
    main()
