"""The causal filter, one bar at a time, and the state from which it goes on after a restart.

What belongs here: a fitted model on returns as they come.  What does not: filtering a whole series
(`model.RegimeModel.filter`), fitting.
"""

from __future__ import annotations

import json
import math
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np

from hfthot_platform.core.arguments import require_type, whole
from hfthot_platform.core.arrays import FloatArray
from hfthot_platform.core.errors import BadRequestError, DataError, ModelError
from hfthot_platform.domain.models.regime import loops
from hfthot_platform.domain.models.regime.model import STRATEGIES, RegimeModel

__all__ = ["FilterState", "RegimeFilter", "RegimeUpdate"]


class RegimeUpdate(NamedTuple):
    """The regime after one bar."""

    #: Of the model's `names`: calm and normal where it cannot tell trending from mean-reverting.
    regime: str
    #: Probability of that regime.
    confidence: float
    #: Of each state, in the order of the model's labels.
    probabilities: tuple[float, ...]
    #: momentum, stat_arb, risk_off or neutral: what suits the regime.
    strategy: str
    #: False if the model cannot tell trending from mean-reverting beyond noise: do not bet on the difference.
    identified: bool


@dataclass(frozen=True)
class FilterState:
    """All that a `RegimeFilter` remembers.  JSON keeps it bit by bit."""

    model_version: str
    values: tuple[float, ...]

    def to_json(self) -> str:
        """Return the state as JSON."""
        return json.dumps({"model_version": self.model_version, "values": [float(v).hex() for v in self.values]})

    @classmethod
    def from_json(cls, text: str) -> FilterState:
        """Return the state that `to_json` wrote.

        Raises:
            ModelError: the text is not such a state.
        """
        try:
            values = json.loads(text)
            return cls(values["model_version"], tuple(float.fromhex(value) for value in values["values"]))
        except (KeyError, TypeError, ValueError, AttributeError, OverflowError) as error:
            raise ModelError(
                f"not a filter state ({error})", where="FilterState.from_json", hint="Pass what to_json returned."
            ) from error


class RegimeFilter:
    """The causal filter, one bar at a time: bit by bit what `RegimeModel.filter` gives for the whole series.

    A filter is not for use from several threads at once.
    """

    def __init__(self, model: RegimeModel, state: FilterState | None = None) -> None:
        """Start before the first bar, from the long-run distribution of the regimes, or where a saved state left off.

        Raises:
            BadRequestError: the state belongs to another model.
        """
        require_type(model, RegimeModel, "model", "RegimeFilter")
        require_type(state, FilterState | None, "state", "RegimeFilter")
        self.model = model
        part = model.multivariate
        self._arguments: tuple[FloatArray, ...]
        if part:
            self._step: Any = loops.online_multivariate
            self._unit = part.scale
            self._arguments = (part.decay, part.law, model.mu / part.scale, model.phi, model.sigma / part.scale)
            self._memory = np.zeros(13)
            self._memory[-1] = np.nan
        else:
            self._step = loops.online_autoregressive
            self._unit = 1.0
            self._arguments = (model.mu, model.phi, model.sigma)
            self._memory = np.zeros(3)
        # Nothing is known before the first bar; `initial` is about the first bar of the fitted data.
        self._arguments = (*self._arguments, model.transition, model.long_run)
        self._probabilities = model.long_run[None, :].copy()
        self._names = tuple((name, STRATEGIES.get(name, "neutral")) for name in model.names)
        if state is None:
            return
        if state.model_version != model.version or len(state.values) != model.n_states + self._memory.size:
            raise BadRequestError(
                f"the state belongs to model {state.model_version}, not {model.version}",
                where="RegimeFilter",
                hint="Load the model with which the state was saved, or filter the recent returns again.",
            )
        values = np.array(state.values)
        probabilities = values[: model.n_states]
        # Only the last return may be unknown, where its bar was missing.
        known = values[:-1] if part else values
        if not (np.isfinite(known).all() and probabilities.min() >= 0 and abs(probabilities.sum() - 1.0) < 1e-6):
            raise BadRequestError(
                "the state's probabilities do not add up to one, or its memory holds values that are not numbers",
                where="RegimeFilter",
                hint="Filter the returns again.",
            )
        self._probabilities[0] = probabilities
        self._memory[:] = values[model.n_states :]

    @property
    def state(self) -> FilterState:
        """Return a copy of what the filter remembers."""
        return FilterState(self.model.version, (*self._probabilities[0].tolist(), *self._memory.tolist()))

    @property
    def bars(self) -> int:
        """Return how many bars the filter has seen, missing ones included."""
        return int(self._memory[0])

    def update(self, r: float) -> RegimeUpdate:
        """Take one new return; NaN, infinity and an absurd size (see `RegimeModel.filter`) are a missing bar.

        Raises:
            DataError: the return is not a number; the filter is as it was.
        """
        try:
            value = float(r)
        except (TypeError, ValueError, OverflowError) as error:
            raise DataError(
                f"the return is {r!r}", where="RegimeFilter.update", hint="Give a number, NaN for a bar without one."
            ) from error
        return self._update(value / self._unit if abs(value) <= self.model.absurd else math.nan)

    def skip(self, bars: int = 1) -> RegimeUpdate:
        """Let bars pass without a return: the regime drifts by the transition matrix.

        Raises:
            BadRequestError: no whole number of bars, fewer than one, or more than a million.
        """
        whole(bars, "bars", "RegimeFilter.skip", least=1, most=1_000_000)
        for _ in range(bars - 1):
            self._step(self._probabilities, self._memory, math.nan, *self._arguments)
        return self._update(math.nan)

    def _update(self, r: float) -> RegimeUpdate:
        best = self._step(self._probabilities, self._memory, r, *self._arguments)
        probabilities = tuple(self._probabilities[0].tolist())
        regime, strategy = self._names[best]
        return RegimeUpdate(regime, probabilities[best], probabilities, strategy, self.model.identified)
