"""Regimes as they would have been known at the time, and how well they agree with hindsight.

What belongs here: refits along a series, and what was said judged by what came later.  What does not: one fit
(`fitting`), stated probabilities in general (`reliability`).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

import numpy as np

from hfthot_platform.core.arguments import whole
from hfthot_platform.core.arrays import FloatArray, FloatLike, IntArray
from hfthot_platform.core.errors import BadRequestError, DataError, ModelError, nearest
from hfthot_platform.domain.models.regime.fitting import FIT_OPTIONS, fit_regimes
from hfthot_platform.domain.models.regime.model import Observation, RegimeModel, checked_returns

__all__ = ["Agreement", "WalkForward", "agreement", "walk_forward"]


@dataclass(frozen=True, eq=False)
class WalkForward:
    """Regimes as they would have been known: the parameters used at t were fitted on returns before t.

    Attributes:
        labels: names of the columns.
        probabilities: filtered, (T, K); NaN before `start`.
        regime: index of the most probable label, (T,); -1 before `start`.
        model: index of the model used, (T,); -1 before `start`.
        models: the fits, oldest first.
        fitted_until: for each model, the number of returns it was fitted on (it never saw that index or later).
    """

    labels: tuple[str, ...]
    probabilities: FloatArray
    regime: IntArray
    model: IntArray
    models: tuple[RegimeModel, ...]
    fitted_until: tuple[int, ...]

    def judged(self, returns: FloatLike, *, ahead: int = 60) -> tuple[FloatArray, FloatArray]:
        """Return what was said of each bar's regime, and what the same model says once later returns are known.

        Nobody knows the regimes of a real series, but a probability must hold up against what comes after: if it is
        one, the later probability of the regime called equals the one said, on average over all bars that were called
        with it.  Both are of the model that was in use, so the later one uses new returns and never a new definition
        of the regimes; `reliability.reliability` compares the two.

        Args:
            returns: those walked forward over, (T,). ahead: returns beyond a model's last bar that may be used.

        Returns:
            From the first filtered bar on: the probability of the most probable regime, and its later probability.

        Raises:
            DataError: not as many returns as were walked over.
        """
        where = "WalkForward.judged"
        whole(ahead, "ahead", where, least=0)
        y = checked_returns(returns, allow_missing=True)
        if y.size != self.model.size:
            raise DataError(f"{y.size} returns", where=where, hint=f"Give the {self.model.size} walked forward over.")
        said, later = [], []
        for k, model in enumerate(self.models):
            bars = np.flatnonzero(self.model == k)
            called = self.regime[bars]
            smoothed = model.smooth(y[: bars[-1] + 1 + ahead], allow_missing=True)
            said.append(self.probabilities[bars, called])
            later.append(smoothed[bars, called])
        return np.concatenate(said), np.concatenate(later)


def walk_forward(
    returns: FloatLike,
    *,
    start: int,
    refit_every: int = 21,
    window: int | None = None,
    allow_missing: bool = False,
    observation: Observation | Literal["auto"] = "auto",
    n_restarts: int = 10,
    seed: int = 0,
    **options: Any,
) -> WalkForward:
    """Fit on the returns before t, filter at t, refit every so many bars.

    Refits start from the model before them, besides random starts, and keep its names unless the data
    identify others.  With `auto`, the observation model is chosen at the first fit.

    Args:
        returns: (T,), oldest first.
        start: first bar to filter; the first fit sees the bars before it.
        refit_every: bars between fits.
        window: bars that a fit sees; None for all of the past.
        allow_missing: as for `fit_regimes`. observation: as there. n_restarts: of the first fit; refits use 2.
        seed: as there. options: as there.

    Raises:
        BadRequestError: `start` or `refit_every` is out of range.
        DataError: as for `fit_regimes`.
        NotConvergedError: as for `fit_regimes`.
    """
    where = "walk_forward"
    y = checked_returns(returns, allow_missing=allow_missing)
    whole(start, "start", where, least=1, most=y.size - 1)
    whole(refit_every, "refit_every", where, least=1)
    whole(n_restarts, "n_restarts", where, least=1)
    if window is not None:
        whole(window, "window", where, least=1)
    unknown = [name for name in options if name not in FIT_OPTIONS - {"previous"}]
    if unknown:
        raise BadRequestError(
            f"unknown option {unknown[0]!r}",
            where=where,
            hint=nearest(unknown[0], FIT_OPTIONS) or f"Options: {', '.join(sorted(FIT_OPTIONS))}.",
        )
    models: list[RegimeModel] = []
    fitted_until = list(range(start, y.size, refit_every))
    probabilities = np.full((y.size, 0), np.nan)
    used = np.full(y.size, -1, dtype=np.int64)
    for k, now in enumerate(fitted_until):
        since = max(0, now - window) if window else 0
        previous = models[-1] if models else None
        models.append(
            fit_regimes(
                y[since:now],
                observation=previous.observation if previous else observation,
                n_restarts=min(2, n_restarts) if previous else n_restarts,
                seed=seed,
                allow_missing=True,
                previous=previous,
                **options,
            )
        )
        if previous is None:
            probabilities = np.full((y.size, models[0].n_states), np.nan)
        elif models[-1].labels != models[0].labels:
            # Two states only: the quiet one may turn from trending to mean-reverting; columns keep their meaning.
            raise ModelError(
                f"the states changed from {models[0].labels} to {models[-1].labels}",
                where=f"walk_forward, fit on {now} returns",
                hint="Use n_states=3.",
            )
        end = min(now + refit_every, y.size)
        filtered = models[-1].filter(y[since:end], allow_missing=True)
        probabilities[now:end] = filtered[now - since :]
        used[now:end] = k
    regime = np.full(y.size, -1, dtype=np.int64)
    regime[start:] = probabilities[start:].argmax(axis=1)
    return WalkForward(models[0].labels, probabilities, regime, used, tuple(models), tuple(fitted_until))


@dataclass(frozen=True, eq=False)
class Agreement:
    """How often two sequences of regimes agree.

    Attributes:
        rate: share of bars on which they agree.
        confusion: bars by causal regime (row) and hindsight regime (column), (K, K).
        occupancy: share of bars of each regime, causal first, (2, K).
    """

    rate: float
    confusion: IntArray
    occupancy: FloatArray


def agreement(causal: IntArray, hindsight: IntArray, *, n_states: int = 3) -> Agreement:
    """Compare what was said at the time with what is said in hindsight.

    Args:
        causal: regimes by index, (T,). hindsight: the same bars' regimes, (T,).
        n_states: number of states.

    Raises:
        DataError: the lengths differ or there is no bar.
    """
    whole(n_states, "n_states", "agreement", least=1, most=1_000)
    causal, hindsight = (_state_indices(regimes, n_states) for regimes in (causal, hindsight))
    if causal.shape != hindsight.shape or causal.size == 0:
        raise DataError(f"shapes {causal.shape} and {hindsight.shape}", where="agreement", hint="Pass the same bars.")
    confusion = np.zeros((n_states, n_states), dtype=np.int64)
    np.add.at(confusion, (causal, hindsight), 1)
    occupancy = np.stack([confusion.sum(axis=1), confusion.sum(axis=0)]) / causal.size
    return Agreement(float(np.trace(confusion) / causal.size), confusion, occupancy)


def _state_indices(values: Any, n_states: int) -> IntArray:
    found = np.asarray(values)
    if found.dtype.kind not in "iu" or found.ndim != 1:
        raise DataError(
            f"regimes of type {found.dtype} and shape {found.shape}", where="agreement", hint="Pass indices, (T,)."
        )
    if found.size and not (found.min() >= 0 and found.max() < n_states):
        raise DataError(
            f"a regime with index {found.min() if found.min() < 0 else found.max()}",
            where="agreement",
            hint=f"Indices lie from 0 to {n_states - 1}; leave out the bars before the first fit.",
        )
    return found.astype(np.int64)
