"""Whether a confidence is a probability: reliability of the regime models, on simulated truth and on the S&P 500.

Run with `python benchmarks/bench_calibration.py [PICTURE]`; some minutes.  It prints the tables of
`docs/models/regime.md` and draws their picture, by default `docs/images/reliability.png`.

On simulated truth the states are known: a call is right or wrong, on bars after the ones fitted.  On the S&P 500
nobody knows them, so what everybody can see later is the judge: the probability of the regime that was called, by the
model of the day, once the returns of the following months are known; and whether the next day's move was a large one.
Models are refitted every quarter on the past alone.  Beside each error stands the one of a perfect forecaster.
"""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
from bench_regime import known, sp500

from hfthot_platform.domain.models.regime import LABELS, fit_regimes, walk_forward
from hfthot_platform.domain.models.regime.reliability import reliability

OBSERVATIONS = ("ar1", "multivariate")
TRUTHS = {
    "fitted on 5,000 bars": (known((0.4, -0.45, 0.0), (0.6, 0.6, 2.0), 0.985), 5000),
    "fitted on 1,000 bars": (known((0.4, -0.45, 0.0), (0.6, 0.6, 2.0), 0.985), 1000),
    "hardly told apart, 5,000": (known((0.2, -0.2, 0.0), (1.0, 0.8, 2.0), 0.97), 5000),
}
SERIES, NEW = 12, 3000
#: Bars of a quarter: a daily series is refitted more often still by the assets.
REFIT = 63
TARGET = 0.03


def show(title, found):
    said, right = (found.share @ np.nan_to_num(rates) for rates in (found.said, found.right))
    verdict = "within" if found.error <= TARGET else "ABOVE"
    print(f"\n{title}: said {said:.3f}, right {right:.3f}, {verdict} {TARGET}")
    print(found)
    return found


def simulated(observation, truth, bars):
    """Return the reliability of the calls on bars after the fitted ones, of SERIES series of NEW bars each."""
    said, right, identified = [], [], 0
    for seed in range(SERIES):
        y, path = truth.simulate(bars + NEW, seed=seed)
        model = fit_regimes(y[:bars], observation=observation, seed=seed)
        found = model.filter(y)[bars:]
        identified += model.identified
        names = np.array([LABELS.index(label) for label in model.labels])
        said.append(found.max(axis=1))
        right.append(names[found.argmax(axis=1)] == path[bars:])
    alone = [reliability(*pair, least=1 / 3, draws=100) for pair in zip(said, right, strict=True)]
    errors, chance = ([getattr(one, name) for one in alone] for name in ("error", "chance_95"))
    print(f"\n  {identified} of {SERIES} identified", end="")
    print(f"\n  of one series alone: median {np.median(errors):.3f}, worst {max(errors):.3f}; ", end="")
    print(f"a perfect forecaster: 95 % below {np.median(chance):.3f}", end="")
    return reliability(np.concatenate(said), np.concatenate(right), least=1 / 3)


def followed(observation, first):
    """Return the S&P 500's returns and the walk over it."""
    days, returns = sp500()
    start = int(np.searchsorted(days, np.datetime64(first)))
    return returns, walk_forward(returns, start=start, refit_every=REFIT, observation=observation)


def large_moves(returns, walk):
    """Return the reliability of the probability that the next day's move is larger than the past's median one."""
    said, right = [], []
    for k, model in enumerate(walk.models):
        bars = np.flatnonzero(walk.model == k)
        past = returns[: bars[-1] + 1]
        usual = float(np.median(np.abs(past[: walk.fitted_until[k]])))
        inside = model.predictive_probability(past, usual) - model.predictive_probability(past, -usual)
        said.append(1.0 - inside[bars])
        right.append(np.abs(past[bars]) > usual)
    return reliability(np.concatenate(said), np.concatenate(right))


def stocks():
    """Return the reliability of the multivariate model on twenty US stocks together, refitted every three years."""
    from skfolio.datasets import load_sp500_dataset

    prices = load_sp500_dataset()
    start = int(np.searchsorted(prices.index.to_numpy().astype("datetime64[D]")[1:], np.datetime64("2000")))
    said, later = [], []
    for name in prices.columns:
        returns = np.diff(np.log(prices[name].to_numpy()))
        options = {"n_restarts": 3, "n_bootstrap": 20, "observation": "multivariate"}
        pair = walk_forward(returns, start=start, refit_every=756, **options).judged(returns)
        alone = reliability(*pair, least=1 / 3, draws=100)
        print(f"\n  {name}: error {alone.error:.3f}, a perfect forecaster 95 % below {alone.chance_95:.3f}", end="")
        said.append(pair[0])
        later.append(pair[1])
    return reliability(np.concatenate(said), np.concatenate(later), least=1 / 3)


def draw(panels, path):
    import matplotlib as mpl

    mpl.use("Agg")
    from matplotlib import pyplot as plt

    columns = (len(panels) + 1) // 2
    figure, axes = plt.subplots(2, columns, figsize=(3.4 * columns, 7.0), sharey=True, layout="constrained")
    for axis in axes.flat[len(panels) :]:
        axis.axis("off")
    for axis, (title, found) in zip(axes.flat, panels.items(), strict=False):
        axis.plot([0, 1], [0, 1], color="0.6", linewidth=1)
        for name, curve in found.items():
            shown = curve.share >= 0.005
            label = f"{name}: {curve.error:.3f} (chance {curve.chance_95:.3f})"
            axis.plot(curve.said[shown], curve.right[shown], marker="o", markersize=4, linewidth=1.2, label=label)
        low = min(curve.edges[0] for curve in found.values())
        axis.set(title=title, xlabel="said", xlim=(low - 0.01, 1.01), ylim=(0, 1.01))
        axis.title.set_fontsize(9)
        axis.legend(fontsize=7, loc="lower right", frameon=False)
    for axis in axes[:, 0]:
        axis.set_ylabel("right")
    figure.savefig(path, dpi=90, metadata={"Software": None})


def main(path):
    panels = {}
    for title, (truth, bars) in TRUTHS.items():
        panels[f"Simulated, {title}"] = {
            observation: show(f"Simulated truth, {title}, {observation}", simulated(observation, truth, bars))
            for observation in OBSERVATIONS
        }
    for first in ("2000", "2018"):
        title = f"S&P 500, {first} to 2022"
        walks = {observation: followed(observation, first) for observation in OBSERVATIONS}
        panels[f"{title}: the regime"] = {
            observation: show(
                f"{title}, regime called, against later returns, {observation}",
                reliability(*walk.judged(y), least=1 / 3),
            )
            for observation, (y, walk) in walks.items()
        }
        panels[f"{title}: a large move"] = {
            observation: show(f"{title}, a large move tomorrow, {observation}", large_moves(y, walk))
            for observation, (y, walk) in walks.items()
        }
    show("Twenty US stocks, 2000 to 2022, regime called, against later returns, multivariate", stocks())
    draw(panels, path)
    print(f"\nPicture: {path}")


if __name__ == "__main__":
    default = Path(__file__).parents[1] / "docs" / "images" / "reliability.png"
    main(Path(sys.argv[1]) if len(sys.argv) > 1 else default)
