"""Backtests: what a strategy would have earned, with costs, executed at the next open, seen walking forward only.

What belongs here: bars as arrays, costs, execution, the account, its figures, and the proof that a strategy does not
look ahead.  What does not: strategies (`strategy`), tables, pictures.

**Time.**  A strategy is a function of `Bars` that returns target weights, one row per bar: row t may use bars up to
and including t.  It is executed at the open of bar t + 1, the first price after the decision.  A missing bar has no
open: the order waits for the next one.

**Targets.**  A number is an order: trade to this share of equity.  NaN is not an order: the holding drifts.
Weights of the same number on every bar therefore trade on every bar; `on_change` keeps the changes only.

**The account**, with open price o, fee rate f and slippage rate s.  Buying one unit costs o (1 + s)(1 + f), selling
one earns o (1 - s)(1 - f).  At an order, the equity E before it, worth p_i in asset i, becomes the E' that solves

    E' = E - sum_i c_i |w_i E' - p_i|,   c = (1 + s)(1 + f) - 1 to buy, 1 - (1 - s)(1 - f) to sell,

so that right after the trade each asset has exactly its weight and a long-only account never borrows.  Equity is
marked at the close; a missing bar keeps the last price.  Cash earns nothing and short positions pay no interest.  If
equity falls to zero, every position is closed at that price and nothing follows (`ruined_at`).

**Walking forward.**  A strategy is a function of the past exactly if the past alone gives the same decisions, so
`backtest` runs it again with another future and refuses it with a `LookAheadError` if anything that it decided before
was different.  The futures begin where a leak shows: right after a bar on which an order changes, and right after a
missing bar.  One more run is on other prices altogether: a strategy that decides the same there does not read its bars
(signals computed once, on everything), and one whose targets there still predict these bars has another source;
both are refused.  `assert_causal` does the same at more bars, for tests.

**What no such run can see**: a leak in the data themselves (survivors only, figures restated later), a parameter chosen
with these bars in sight, and a leak too small to move a target at the bars that are tried.
"""

from hfthot_platform.domain.models.backtest.causality import assert_causal
from hfthot_platform.domain.models.backtest.fees import Costs
from hfthot_platform.domain.models.backtest.result import BacktestResult, Causality
from hfthot_platform.domain.models.backtest.run import backtest, held_weights
from hfthot_platform.domain.models.backtest.targets import Strategy, on_change
from hfthot_platform.domain.models.backtest.vectorised import Vectorised

__all__ = [
    "BacktestResult",
    "Causality",
    "Costs",
    "Strategy",
    "Vectorised",
    "assert_causal",
    "backtest",
    "held_weights",
    "on_change",
]
