"""Whether a strategy looks ahead: it is run again with other futures, and on other prices.

What belongs here: where the future is changed, how, and what may not change with it.  What does not: running the
account; see the package for what no such run can see.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any, Final

import numpy as np
import polars as pl

from hfthot_platform.core.arguments import whole
from hfthot_platform.core.arrays import FloatArray, IntArray
from hfthot_platform.core.compiled import compiled
from hfthot_platform.core.errors import DataError, HfthotError, LookAheadError
from hfthot_platform.domain.market.panel import PRICES, Bars, time_text
from hfthot_platform.domain.models.backtest.event_driven import run_events
from hfthot_platform.domain.models.backtest.fees import DEFAULT_COSTS, Costs
from hfthot_platform.domain.models.backtest.result import Causality
from hfthot_platform.domain.models.backtest.targets import Strategy, bars_of, name_of, on_change, targets_of
from hfthot_platform.domain.trading.port import EventStrategy

__all__ = ["assert_causal", "futures", "judge", "judge_events"]

#: Bars after the first decision within which most of the cuts of the causality check lie: short runs are cheap.
_EARLY: Final = 5_000
#: Bars of another future that a run of the causality check sees.
_AHEAD: Final = 60
#: Standard errors beyond which targets that were decided on other prices predict these ones.
_PREDICTED: Final = 7.0


@compiled
def _find_events(target: FloatArray, close: FloatArray, out: IntArray) -> int:
    """Fill out (T,): 3 where an order changes on a missing bar, else 1 where one changes, else 2 where a bar lacks.

    Returns:
        How often an order changed to another number than the one before, over all columns.
    """
    last = np.full(target.shape[1], np.nan)
    changes = 0
    for t in range(target.shape[0]):
        out[t] = 0
        for i in range(target.shape[1]):
            absent, new = np.isnan(close[t, i]), target[t, i]
            if not np.isnan(new) and new != last[i]:
                if not np.isnan(last[i]):
                    changes += 1
                last[i] = new
                if absent:
                    out[t] = 3
                elif out[t] != 3:
                    out[t] = 1
            elif absent and out[t] == 0:
                out[t] = 2
    return changes


def judge(strategy: Strategy, bars: Bars, target: FloatArray, start: int, count: int) -> Causality:
    """Refuse a strategy that looks ahead, with so many runs at most; say how far it was judged."""
    size = len(bars)
    if count == 0 or size - start < 2:
        return "unchecked"
    events = np.empty(size, dtype=np.int64)
    changes = _find_events(target, bars.close, events)
    generator = np.random.default_rng(0)
    cuts = _cuts(events, start, max(count - 1, 1), _EARLY, generator)
    for k, cut in enumerate(cuts):
        # The last one may be long: a head of the bars is no copy, a disturbed future is.
        if k % 2 or k + 1 == len(cuts) > 1:
            _refuse_other_decisions(strategy, bars.head(cut), "is not in the data", target, cut)
        else:
            end = min(cut + _AHEAD, size)
            other = _disturbed(bars.head(end), cut, target, against=k % 4 == 0, generator=generator)
            _refuse_other_decisions(strategy, other, "is disturbed", target, cut)
    if not changes:
        return "constant"
    _refuse_unread(strategy, bars, target, start, events, generator)
    return "checked"


class _AsFunction:
    """An event-driven strategy as a function of bars: the targets that it decides when it is told of them."""

    def __init__(self, strategy: EventStrategy, costs: Costs) -> None:
        self._strategy, self._costs = strategy, costs
        self.name = strategy.name

    def __call__(self, bars: Bars) -> FloatArray:
        return run_events(self._strategy, bars, self._costs)[0]


def judge_events(
    strategy: EventStrategy,
    bars: Bars,
    costs: Costs,
    targets: FloatArray,
    start: int,
    count: int,
    *,
    tape: bool,
) -> Causality:
    """Refuse an event-driven strategy that knows these bars from elsewhere; say how far it was judged.

    It is given no future, so no other future is tried: only what it brought along can look ahead.  With a tape of
    trades and books there are no other prices that fit them.
    """
    if count == 0 or len(bars) - start < 2:
        return "unchecked"
    events = np.empty(len(bars), dtype=np.int64)
    if not _find_events(targets, bars.close, events):
        return "constant"
    if not tape:
        _refuse_unread(_AsFunction(strategy, costs), bars, targets, start, events, np.random.default_rng(0))
    return "by_construction"


def _cuts(events: IntArray, start: int, count: int, early: int, generator: np.random.Generator) -> list[int]:
    """Return numbers of bars after which the future is changed: where a leak would show; all but one of them early.

    A leak shows where something is decided on what is filled in, interpolated or smoothed: on a missing bar, or right
    before the bar that turned the decision.  Of every two cuts one follows an order, one a missing bar, best of all one
    with an order; where there are none, any bar has to do.
    """
    last = events.size - 1
    near = min(start + early, last)
    found: list[int] = []

    def take(first: int, end: int, *kinds: int) -> None:
        for kind in kinds:
            candidates = np.flatnonzero(events[first:end] == kind) + first + 1
            for known in found:
                candidates = candidates[candidates != known]
            if candidates.size:
                found.append(int(generator.choice(candidates)))
                return

    for k in range(count):
        kinds = ((3, 2, 1, 0), (1, 3, 2, 0), (3, 1, 2, 0), (2, 3, 1, 0))[k // 2 % 4]
        # The last of several may lie anywhere.
        take(start, last if k + 1 == count > 1 else near, *kinds)
    return found


def _disturbed(bars: Bars, cut: int, target: FloatArray, *, against: bool, generator: np.random.Generator) -> Bars:
    """Return bars with the same first `cut` bars; after them prices jump against what is held, or with it."""
    held = target[: cut + 1].copy()
    _forward_filled(held)
    side = np.where(held[cut - 1] > 0, -0.5, 0.5) * (1.0 if against else -1.0)
    factor = np.exp(side + 0.1 * generator.standard_normal((len(bars) - cut, len(bars.symbols))))
    return bars.changed(
        lambda _, values: values if values.ndim == 1 else np.concatenate([values[:cut], values[cut:] * factor])
    )


def _refuse_other_decisions(strategy: Strategy, other: Bars, what: str, target: FloatArray, cut: int) -> None:
    """Refuse the strategy if its first `cut` targets are not those that it gives on other data with the same past."""
    try:
        again = targets_of(strategy, other)[:cut]
    except HfthotError as error:
        raise LookAheadError(
            f"it cannot repeat its decisions before {time_text(other.times[cut - 1])} when the later data {what}",
            where=f"strategy {name_of(strategy)}",
            hint=f"It says: {error}",
        ) from error
    before = target[:cut]
    if np.array_equal(again, before, equal_nan=True):
        return
    same = np.isclose(again, before, rtol=1e-9, atol=1e-12, equal_nan=True)
    if not same.all():
        t, i = np.argwhere(~same)[0]
        raise LookAheadError(
            f"its target of {other.symbols[i]} at {time_text(other.times[t])} is {before[t, i]:.6g}, "
            f"but {again[t, i]:.6g} when the data after {time_text(other.times[cut - 1])} {what}",
            where=f"strategy {name_of(strategy)}",
            hint="Row t may use bars up to t: look for statistics of the whole sample, shift(-1), centred windows, "
            "back-filled or interpolated gaps.",
        )


def _refuse_unread(
    strategy: Strategy, bars: Bars, target: FloatArray, start: int, events: IntArray, generator: np.random.Generator
) -> None:
    """Refuse a strategy that decides the same on other prices, or that predicts these bars from other ones."""
    changed = np.flatnonzero(events % 2)
    size = min(max(start + _EARLY, int(changed[:20][-1]) + 1), len(bars))
    past, given = bars.head(size), target[:size]
    for holes in (0.0, 0.05):
        try:
            other = targets_of(strategy, _reshuffled(past, holes, generator))
        except HfthotError:
            # Whatever it says of these prices, it has looked at them.
            return
        score = _predicted_moves(other, past.close)
        if abs(score) > _PREDICTED:
            raise LookAheadError(
                f"on prices in another order its targets still predict the moves of these bars, by {abs(score):.0f} "
                "standard errors: it has them from another source",
                where=f"strategy {name_of(strategy)}",
                hint="Signals computed once on the whole sample look ahead: compute them inside the strategy.",
            )
        if not _same_decisions(given, other):
            return
    raise LookAheadError(
        "it decides the same on other prices: it does not read its bars, so look-ahead cannot be tested",
        where=f"strategy {name_of(strategy)}",
        hint="Compute signals inside the strategy, from the bars it is given.  Weights that were recorded when they "
        "were decided, and rules of the calendar, run with causality_cuts=0; the result then says that it was not "
        "checked.",
    )


def _same_decisions(one: FloatArray, other: FloatArray) -> bool:
    """Return whether targets are the same, or at least their sides where these change."""
    if np.allclose(one, other, rtol=1e-9, atol=1e-12, equal_nan=True):
        return True
    sides = on_change(np.sign(one))
    changes = np.count_nonzero(~np.isnan(sides)) - np.count_nonzero((~np.isnan(sides)).any(axis=0))
    return bool(changes > 1 and np.array_equal(np.sign(one), np.sign(other), equal_nan=True))


def _reshuffled(bars: Bars, holes: float, generator: np.random.Generator) -> Bars:
    """Return bars at the same times whose moves come in another order, without a share of them: another history."""
    N = len(bars.symbols)
    columns: dict[str, list[FloatArray]] = {name: [] for name in (*PRICES, "volume", "buy_volume")}
    for i in range(N):
        close = bars.close[:, i]
        here = np.flatnonzero(~np.isnan(close))
        order = generator.permutation(here.size - 1) + 1 if here.size > 1 else np.arange(0)
        # From bar to bar the same moves, in another order and with another sign for half of them.
        moves = np.diff(np.log(close[here])) * generator.choice([-1.0, 1.0], max(here.size - 1, 0))
        path = np.full(close.size, np.nan)
        source = here[np.append(0, order)] if here.size else here
        if here.size:
            path[here] = close[here[0]] * np.exp(np.append(0.0, np.cumsum(moves[order - 1])))
        gone = here[generator.random(here.size) < holes]
        for name, parts in columns.items():
            values = getattr(bars, name)
            if values is None:
                continue
            made = np.full(close.size, np.nan)
            own = values[source, i]
            made[here] = own if name in {"volume", "buy_volume"} else path[here] * (own / close[source])
            made[gone] = np.nan
            parts.append(made)
    made_of = {name: np.stack(parts, axis=1) for name, parts in columns.items() if parts}
    return bars.changed(lambda name, values: values if name == "times" else made_of[name])


@compiled
def _forward_filled(values: FloatArray) -> None:
    for i in range(values.shape[1]):
        for t in range(1, values.shape[0]):
            if np.isnan(values[t, i]):
                values[t, i] = values[t - 1, i]


def _predicted_moves(target: FloatArray, close: FloatArray) -> float:
    """Return by how many standard errors targets (T, N) predict the next moves of closes (T, N); 0 if too few."""
    held = target.copy()
    _forward_filled(held)
    held, moves = held[:-1], np.diff(np.log(close), axis=0)
    there = np.isfinite(held) & np.isfinite(moves)
    number_of = there.sum(axis=0)
    mean = np.divide(
        np.where(there, held, 0.0).sum(axis=0), number_of, out=np.zeros(number_of.size), where=number_of > 0
    )
    gain = np.where(there, (held - mean) * moves, 0.0).sum(axis=1)
    if np.count_nonzero(gain) < 100:
        return 0.0
    return float(gain.sum() / math.sqrt(float(gain @ gain)))


def assert_causal(
    strategy: Strategy | EventStrategy, data: Bars | pl.DataFrame, *, n_cuts: int = 20, seed: int = 0
) -> None:
    """Raise unless a strategy decides the same when the future is cut off, disturbed, or shifted by one bar.

    It is also run on other prices, as `backtest` does: a strategy that does not read its bars is refused.

    Args:
        strategy: see `Strategy`; an event-driven one is charged the default costs.
        data: bars on which it decides something.
        n_cuts: bars at which past and future are divided: after orders, missing bars, and at random.
        seed: of the bars and the disturbance.

    Raises:
        LookAheadError: a decision changed, the message names the bar and the symbol; or the bars are not read.
        StrategyError: the strategy raised an error of its own.
        DataError: it decides nothing on these data.
        BadRequestError: an argument out of its domain.
    """
    where = "models.backtest.assert_causal"
    bars = bars_of(strategy, data, where)
    whole(n_cuts, "n_cuts", where, least=1, most=1_000_000)
    whole(seed, "seed", where, least=0)
    function = _AsFunction(strategy, DEFAULT_COSTS) if isinstance(strategy, EventStrategy) else strategy
    target = targets_of(function, bars)
    decided = np.flatnonzero(~np.isnan(target).all(axis=1))
    if not decided.size or decided[0] + 1 >= len(bars):
        raise DataError(
            "it decides nothing before the last bar", where=f"strategy {name_of(strategy)}", hint="Give longer data."
        )
    generator = np.random.default_rng(seed)
    events = np.empty(len(bars), dtype=np.int64)
    changes = _find_events(target, bars.close, events)
    start = int(decided[0])
    for k, cut in enumerate(_cuts(events, start, n_cuts, len(bars), generator)):
        for what, other in futures(bars, cut, target, k, generator):
            _refuse_other_decisions(function, other, what, target, cut)
    if changes:
        _refuse_unread(function, bars, target, start, events, generator)


def futures(
    bars: Bars, cut: int, target: FloatArray, k: int, generator: np.random.Generator
) -> Iterator[tuple[str, Bars]]:
    """Yield bars with the same first `cut` bars and another future."""
    yield "is not in the data", bars.head(cut)
    yield "is disturbed", _disturbed(bars, cut, target, against=k // 2 % 2 == 0, generator=generator)

    def shifted(_: str, values: Any) -> Any:
        return values if values.ndim == 1 else np.concatenate([values[:cut], values[cut + 1 :], values[-1:]])

    yield "is shifted by one bar", bars.changed(shifted)
