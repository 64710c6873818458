"""Speed and accuracy of the regime models, beside hmmlearn's.

Run with `python benchmarks/bench_regime.py`.  Times are the least and the median of repeats in one run, the peer's
interleaved with ours, so that whatever else the machine does touches both.
"""

from __future__ import annotations

import itertools
import logging
import time

import numpy as np
from hmmlearn.hmm import GaussianHMM

from hfthot_platform.domain.models.regime import (
    LABELS,
    Evidence,
    Memory,
    RegimeFilter,
    RegimeModel,
    agreement,
    fit_many,
    fit_regimes,
    loops,
    walk_forward,
)


def known(phi, sigma, stay, mu=(0.0, 0.0, 0.0)):
    """Return a model with these parameters, as if fitted."""
    A = np.full((3, 3), (1.0 - stay) / 2)
    np.fill_diagonal(A, stay)
    arrays = (np.array(mu), np.array(phi), np.array(sigma), A, np.full(3, 1 / 3))
    return RegimeModel("ar1", LABELS, *arrays, 0.0, 0.0, 0, 0, True, (), True, "", Evidence((), (), (), (), (), ()))


def repeat(works, repeats):
    """Return (least, median) seconds of each piece of work, taking turns."""
    for work in works:
        work()
    taken = [[] for _ in works]
    for _ in range(repeats):
        for k, work in enumerate(works):
            started = time.perf_counter()
            work()
            taken[k].append(time.perf_counter() - started)
    return [(min(seconds), float(np.median(seconds))) for seconds in taken]


def speed_of_iterations():
    truth = known((0.45, -0.45, 0.0), (1.0, 0.8, 2.5), 0.985)
    y, _ = truth.simulate(10_000, seed=0)
    x, gap = np.empty(y.size), np.empty(y.size, dtype=np.int64)
    loops.gaps(y, gap, x)
    use = (gap == 1).astype(np.int64)

    def ours():
        parameters = [
            parameter.copy() for parameter in (truth.mu, truth.phi, truth.sigma, truth.transition, truth.initial)
        ]
        loops.expectation_maximisation(y, x, use, True, 0.0, 1e-4, -np.inf, 10, *parameters, np.empty(10))

    def peer():
        hmm = GaussianHMM(
            3, "diag", covars_prior=1e-10, n_iter=10, tol=-np.inf, init_params="", implementation="scaling"
        )
        hmm.startprob_, hmm.transmat_ = truth.initial, truth.transition
        hmm.means_, hmm.covars_ = truth.mu[:, None], (truth.sigma**2)[:, None]
        hmm.fit(y[:, None])

    (least, median), (peer_least, peer_median) = repeat([ours, peer], 30)
    print("One EM iteration on 10,000 observations, 3 states [ms]      least   median")
    print(f"  this, Markov-switching AR(1)                          {100 * least:9.3f}{100 * median:9.3f}")
    print(f"  hmmlearn GaussianHMM(implementation='scaling')        {100 * peer_least:9.3f}{100 * peer_median:9.3f}")
    print(
        f"  ratio (limit 0.6)                                     {least / peer_least:9.2f}{median / peer_median:9.2f}"
    )

    model = fit_regimes(y, observation="ar1")
    features = fit_regimes(y[:3000], observation="multivariate")
    gaussian = fit_regimes(y, observation="gaussian")
    hmm = GaussianHMM(3, "diag")
    hmm.startprob_, hmm.transmat_ = gaussian.initial, gaussian.transition
    hmm.means_, hmm.covars_, hmm.n_features = gaussian.mu[:, None], (gaussian.sigma**2)[:, None], 1
    window = y[:200].copy()
    works = [
        lambda: model.filter(window),
        lambda: features.filter(window),
        lambda: hmm.predict_proba(window[:, None]),
        lambda: model.decode(y),
        lambda: hmm.predict(y[:, None]),
    ]
    names = ("filter 200 bars, ar1 (limit 20)", "filter 200 bars, multivariate", "  hmmlearn predict_proba")
    names += ("Viterbi 10,000 bars, ar1", "  hmmlearn predict")
    print("\nMicroseconds; `in turn` is with caches cold from the others     least   median  in turn")
    in_turn = repeat(works, 300)
    for name, work, (_, cold) in zip(names, works, in_turn, strict=True):
        [(least, median)] = repeat([work], 300)
        print(f"  {name:52}{1e6 * least:11.1f}{1e6 * median:9.1f}{1e6 * cold:9.1f}")
    for name, fitted in (("ar1", model), ("multivariate", features)):
        online = RegimeFilter(fitted)
        online.update(0.0)
        taken = []
        for r in y.tolist():
            started = time.perf_counter_ns()
            online.update(r)
            taken.append(time.perf_counter_ns() - started)
        title = f"one online update, {name} (limit 5)"
        print(f"  {title:52}{min(taken) / 1e3:11.2f}{np.median(taken) / 1e3:9.2f}")


def speed_of_many():
    truth = known((0.4, -0.4, 0.0), (1.0, 0.8, 2.5), 0.98)
    data = {f"S{k:03}": truth.simulate(2000, seed=k)[0] for k in range(500)}
    print("\n500 symbols x 2,000 bars, ar1, 10 restarts, labels and bootstrap, one call")
    base = None
    for workers in (1, 2):
        started, used = time.perf_counter(), time.process_time()
        found = fit_many(data, workers=workers, observation="ar1")
        taken, used = time.perf_counter() - started, time.process_time() - used
        base = base or taken
        good = sum(isinstance(outcome, RegimeModel) and outcome.converged for outcome in found.values())
        print(
            f"  {workers} thread{'s' * (workers > 1)}: {taken:6.1f} s ({used:.1f} s of processor time), "
            f"{taken / 500 * 1e3:.0f} ms per symbol, {base / taken:.2f} times one thread, {good} converged"
        )


def accuracy():
    grids = {
        "phi +-0.3, +-0.5; stay 0.985, 0.995; 20,000 bars": (
            20_000,
            itertools.product((0.3, 0.5), (-0.3, -0.5), (1.0, 0.7), (2.0, 3.5), (0.985, 0.995)),
        ),
        "phi +-0.2, stay 0.97, hardly told apart; 10,000 bars": (
            10_000,
            itertools.product((0.2,), (-0.2,), (1.0, 0.8), (2.0, 3.0), (0.97,)),
        ),
    }
    print("\nShare of right states on new bars, simulated truth")
    for title, (bars, grid) in grids.items():
        rows = []
        for k, (up, down, quiet, loud, stay) in enumerate(grid):
            truth = known((up, down, 0.0), (1.0, quiet, loud), stay)
            y, path = truth.simulate(2 * bars, seed=k)
            gaussian = fit_regimes(y[:bars], observation="gaussian", n_restarts=6)
            fitted = fit_regimes(y[:bars], n_restarts=6, seed=k, observation="ar1")
            right = [(m.filter(y)[bars:].argmax(axis=1) == path[bars:]).mean() for m in (truth, fitted, gaussian)]
            rows.append([*right, fitted.identified])
        own, fit, plain, identified = np.array(rows).T
        print(f"  {title}: {len(rows)} truths")
        print(f"    true parameters {own.min():.3f} to {own.max():.3f}, fitted {fit.min():.3f} to {fit.max():.3f}")
        print(f"    fitted behind true: median {np.median(own - fit):.4f}, worst {np.max(own - fit):.4f}")
        strong = own >= 0.86
        if strong.any():
            print(f"    where the true one reaches 0.86 ({strong.sum()}): fitted at least {fit[strong].min():.3f}")
        print(f"    Gaussian model {plain.min():.3f} to {plain.max():.3f}; identified in {int(identified.sum())}")


def noise():
    def switching(generator, n, phi):
        truth = known((phi, phi, phi), (0.6, 1.1, 2.6), 0.98)
        return truth.simulate(n, seed=int(generator.integers(1 << 31)))[0]

    def garch(generator, n):
        y, variance = np.empty(n), 1.0
        for t, z in enumerate(generator.standard_normal(n)):
            y[t] = z * np.sqrt(variance)
            variance = 0.02 + 0.08 * y[t] ** 2 + 0.9 * variance
        return y

    kinds = {
        "Gaussian noise": lambda g, n: g.standard_normal(n),
        "Student noise": lambda g, n: g.standard_t(4, n),
        "switching volatility": lambda g, n: switching(g, n, 0.0),
        "switching volatility, phi 0.2 throughout": lambda g, n: switching(g, n, 0.2),
        "GARCH": garch,
    }
    print("\nCalled identified by ar1 although trending and mean-reverting do not exist, of 40 series")
    for name, make in kinds.items():
        wrong = [
            sum(
                fit_regimes(
                    make(np.random.default_rng([k, n]), n), n_restarts=5, n_bootstrap=200, observation="ar1"
                ).identified
                for k in range(20)
            )
            for n in (1000, 3000)
        ]
        print(f"  {name:45}{sum(wrong):4}")


def sp500():
    """Return days and daily returns in percent, 1990 to 2022, as shipped with skfolio."""
    from skfolio.datasets import load_sp500_index

    prices = load_sp500_index()
    days = prices.index.to_numpy().astype("datetime64[D]")[1:]
    return days, np.diff(np.log(prices.iloc[:, 0].to_numpy())) * 100


def followed(returns, start, refit_every, observation, **options):
    """Return the walk-forward, the hindsight fit, their agreement and the log-density of the days' returns."""
    walk = walk_forward(returns, start=start, refit_every=refit_every, observation=observation, **options)
    hindsight = fit_regimes(returns, observation=observation, previous=walk.models[-1], **options)
    found = agreement(walk.regime[start:], hindsight.smooth(returns).argmax(axis=1)[start:])
    density = 0.0
    for k, model in enumerate(walk.models):
        bars = np.flatnonzero(walk.model == k)
        density += model.predictive_log_density(returns[: bars[-1] + 1])[bars].sum()
    return walk, hindsight, found, density


def sensitivity():
    days, returns = sp500()
    print("\nThe same with yearly refits, by memory (half-lives of volatility, trend, autocorrelation) and by period")
    print(f"  {'':32}{'agreement':>10}{'least share':>12}{'log-density':>12}")
    spans = [("2018", "2023", memory) for memory in ((3, 5, 10), (2, 5, 10), (4, 5, 10), (5, 5, 10), (3, 3, 3))]
    spans += [("2018", "2023", memory) for memory in ((3, 10, 20), (5, 10, 20), (10, 10, 10))]
    spans += [(*years, (3, 5, 10)) for years in (("2000", "2006"), ("2006", "2012"), ("2012", "2018"))]
    spans += [(*years, None) for years in (("2000", "2006"), ("2006", "2012"), ("2012", "2018"), ("2018", "2023"))]
    for first, last, memory in spans:
        start, end = (int(np.searchsorted(days, np.datetime64(year))) for year in (first, last))
        options = {"observation": "multivariate", "memory": Memory(*memory)} if memory else {"observation": "ar1"}
        _, _, found, density = followed(returns[:end], start, 252, **options)
        title = f"{first} to {int(last) - 1}, {memory or 'ar1'}"
        print(f"  {title:32}{found.rate:10.4f}{found.occupancy.min():12.3f}{density:12.1f}")


def index():
    days, returns = sp500()
    start = int(np.searchsorted(days, np.datetime64("2018-01-01")))
    print(f"\nS&P 500, walk-forward {days[start]} to {days[-1]} ({returns.size - start} days), refit every 21 days")
    choice = fit_regimes(returns[:start], observation="auto").selection
    print(
        f"  chosen before {days[start]}: {choice.chosen}, mean log-density per held-out day {choice.mean_log_density},"
    )
    print(f"  standard error of the difference {choice.standard_error:.4f}, {choice.held_out} days")
    for observation in ("multivariate", "ar1", "gaussian"):
        started = time.perf_counter()
        walk, hindsight, found, density = followed(returns, start, 21, observation)
        taken = time.perf_counter() - started
        print(f"\n  {observation}: agreement of the causal filter with the hindsight smoother {found.rate:.4f}")
        print(f"    {len(walk.models)} fits in {taken:.1f} s; log-density of the days' returns {density:.1f}")
        print(f"    identified: {hindsight.identified}  {hindsight.reason}")
        print(f"    {'causal, hindsight ->':>22}" + "".join(f"{label:>16}" for label in walk.labels) + f"{'share':>9}")
        for label, row, share in zip(walk.labels, found.confusion, found.occupancy[0], strict=True):
            print(f"    {label:>22}" + "".join(f"{n:16}" for n in row) + f"{share:9.3f}")
        print(f"    {'share':>22}" + "".join(f"{share:16.3f}" for share in found.occupancy[1]))


if __name__ == "__main__":
    logging.getLogger("hmmlearn.base").setLevel(logging.ERROR)
    speed_of_iterations()
    speed_of_many()
    accuracy()
    noise()
    index()
    sensitivity()
