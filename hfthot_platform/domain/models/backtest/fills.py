"""Which orders fill at an open, and the equity that is left when they have filled.

What belongs here: which of the waiting targets find a price, and the equation of the equity after costs.  What does
not: what a trade costs (`fees`), and the booking of what was traded (`ledger`).
"""

from __future__ import annotations

from typing import Final

import numpy as np

from hfthot_platform.core.arrays import BoolArray, FloatArray
from hfthot_platform.core.compiled import inlined
from hfthot_platform.domain.models.backtest.fees import cost_rate

__all__ = ["equity_after_orders", "find_due", "take_targets"]

#: Steps of the contraction at most; at costs of a tenth of the equity it needs 16.
_STEPS: Final = 200


@inlined
def take_targets(waiting: FloatArray, targets: FloatArray, t: int) -> None:
    """Let the targets (T, N) of bar t replace the waiting ones (N,); NaN replaces nothing."""
    for i in range(waiting.size):
        if not np.isnan(targets[t, i]):
            waiting[i] = targets[t, i]


@inlined
def find_due(waiting: FloatArray, opens: FloatArray, t: int, due: BoolArray) -> bool:
    """Fill `due` (N,): whether a waiting target finds a price at the opens (T, N) of bar t; return whether any does."""
    trading = False
    for i in range(waiting.size):
        due[i] = not np.isnan(waiting[i]) and not np.isnan(opens[t, i])
        trading |= due[i]
    return trading


@inlined
def equity_after_orders(
    before: float, waiting: FloatArray, due: BoolArray, value: FloatArray, buy: float, sell: float
) -> float:
    """Return the equity E' = E - sum_i c_i |w_i E' - p_i| after the orders that are due.

    Args:
        before: E. waiting: w, (N,). due: which of them trade, (N,). value: p, held before, (N,).
        buy: cost per unit of value bought. sell: the same of value sold.
    """
    after = before
    for _ in range(_STEPS):
        # A contraction: costs are a small share of what is traded.
        costs = 0.0
        for i in range(waiting.size):
            if due[i]:
                trade = waiting[i] * after - value[i]
                costs += cost_rate(trade, buy, sell) * trade
        following = before - costs
        settled = abs(following - after) <= 1e-16 * abs(before)
        after = following
        if settled:
            break
    return after
