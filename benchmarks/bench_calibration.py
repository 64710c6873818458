"""Whether a confidence is a probability: reliability of the regime models, on simulated truth and on the S&P 500.

Run with `python benchmarks/bench_calibration.py [PICTURE]`; some minutes.  It prints the tables of
`docs/models/regime.md` and draws their picture, by default `docs/images/reliability.png`.

On simulated truth the states are known: a call is right or wrong, on bars after the ones fitted.  On the S&P 500
nobody knows them; there the causal filter is compared with the smoother of a model fitted to everything.
"""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
from bench_regime import followed, known, sp500

from hfthot_platform.models.regime import LABELS, fit_regimes

OBSERVATIONS = ("ar1", "multivariate")
EDGES = np.linspace(1 / 3, 1, 11)
TRUTHS = {
    "fitted on 5,000 bars": (known((0.4, -0.45, 0.0), (0.6, 0.6, 2.0), 0.985), 5000),
    "fitted on 1,000 bars": (known((0.4, -0.45, 0.0), (0.6, 0.6, 2.0), 0.985), 1000),
    "hardly told apart, 5,000": (known((0.2, -0.2, 0.0), (1.0, 0.8, 2.0), 0.97), 5000),
}
SERIES, NEW = 12, 3000
TARGET = 0.03


def bins(said, right):
    """Return (share, mean said, share right) of each of ten bins of confidence, as rows; NaN where a bin is empty."""
    place = np.clip(np.digitize(said, EDGES) - 1, 0, 9)
    rows = [(place == k, (place == k).mean()) for k in range(10)]
    return np.array([(share, said[b].mean(), right[b].mean()) if share else (0, np.nan, np.nan) for b, share in rows])


def expected_error(table):
    """Return the mean over the bars of the distance between said and right of their bin."""
    return float(np.nansum(table[:, 0] * np.abs(table[:, 1] - table[:, 2])))


def show(title, said, right):
    table = bins(said, right)
    error = expected_error(table)
    print(
        f"\n{title}: said {said.mean():.3f}, right {right.mean():.3f}, expected calibration error {error:.4f} "
        f"({'within' if error <= TARGET else 'ABOVE'} {TARGET}), {said.size:,} bars"
    )
    print(f"  {'confidence':>14}{'bars':>8}{'said':>8}{'right':>8}")
    for low, high, (share, mean, good) in zip(EDGES[:-1], EDGES[1:], table, strict=True):
        print(f"  {low:6.2f} to {high:4.2f}{share:8.1%}{mean:8.3f}{good:8.3f}")
    return table


def simulated(observation, truth, bars):
    """Return what was said and whether it was right, (SERIES * NEW,), on bars after the fitted ones."""
    said, right = [], []
    for seed in range(SERIES):
        y, path = truth.simulate(bars + NEW, seed=seed)
        model = fit_regimes(y[:bars], observation=observation, seed=seed)
        found = model.filter(y)[bars:]
        names = np.array([LABELS.index(each) for each in model.labels])
        said.append(found.max(axis=1))
        right.append(names[found.argmax(axis=1)] == path[bars:])
    each = [expected_error(bins(*pair)) for pair in zip(said, right, strict=True)]
    print(f"\n  of one series alone: median {np.median(each):.3f}, worst {max(each):.3f}", end="")
    return np.concatenate(said), np.concatenate(right)


def confirmed(observation, first):
    """Return what the causal filter said and whether hindsight confirms it, yearly refits."""
    days, returns = sp500()
    start = int(np.searchsorted(days, np.datetime64(first)))
    walk, hindsight, _, _ = followed(returns, start, 252, observation)
    said = walk.probabilities[start:].max(axis=1)
    return said, walk.regime[start:] == hindsight.smooth(returns).argmax(axis=1)[start:]


def draw(panels, path):
    import matplotlib as mpl

    mpl.use("Agg")
    from matplotlib import pyplot as plt

    figure, axes = plt.subplots(1, len(panels), figsize=(3.4 * len(panels), 3.5), sharey=True, layout="constrained")
    for axis, (title, tables) in zip(axes, panels.items(), strict=True):
        axis.plot([1 / 3, 1], [1 / 3, 1], color="0.6", linewidth=1)
        for name, table in tables.items():
            shown = table[table[:, 0] >= 0.005]
            label = f"{name}, error {expected_error(table):.3f}"
            axis.plot(shown[:, 1], shown[:, 2], marker="o", markersize=4, linewidth=1.2, label=label)
        axis.set(title=title, xlabel="said", xlim=(0.32, 1.01), ylim=(0, 1.01))
        axis.title.set_fontsize(9)
        axis.legend(fontsize=7, loc="lower right", frameon=False)
    axes[0].set_ylabel("right (S&P 500: confirmed in hindsight)")
    figure.savefig(path, dpi=90, metadata={"Software": None})


def main(path):
    panels = {}
    for title, (truth, bars) in TRUTHS.items():
        panels[f"Simulated, {title}"] = {
            each: show(f"Simulated truth, {title}, {each}", *simulated(each, truth, bars)) for each in OBSERVATIONS
        }
    for first in ("2018", "2000"):
        title = f"S&P 500, {first} to 2022"
        panels[title] = {
            each: show(f"{title}, causal filter against hindsight, {each}", *confirmed(each, first))
            for each in OBSERVATIONS
        }
    draw(panels, path)
    print(f"\nPicture: {path}")


if __name__ == "__main__":
    default = Path(__file__).parents[1] / "docs" / "images" / "reliability.png"
    main(Path(sys.argv[1]) if len(sys.argv) > 1 else default)
