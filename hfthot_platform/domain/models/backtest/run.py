"""Running a backtest: from a strategy and bars to a result."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Final

import numpy as np
import polars as pl

from hfthot_platform.core.arguments import whole
from hfthot_platform.core.arrays import FloatArray, FloatLike
from hfthot_platform.core.errors import BadRequestError, DataError
from hfthot_platform.domain.market.events import MarketEvent
from hfthot_platform.domain.market.panel import Bars
from hfthot_platform.domain.models.backtest.causality import judge, judge_events
from hfthot_platform.domain.models.backtest.event_driven import run_events
from hfthot_platform.domain.models.backtest.fees import DEFAULT_COSTS, Costs, refuse_leverage
from hfthot_platform.domain.models.backtest.ledger import follow
from hfthot_platform.domain.models.backtest.result import BacktestResult, result_of
from hfthot_platform.domain.models.backtest.targets import Strategy, bars_of, name_of, targets_of
from hfthot_platform.domain.trading.port import EventStrategy

__all__ = ["backtest", "held_weights"]

_WHERE: Final = "models.backtest"


def backtest(
    strategy: Strategy | EventStrategy,
    data: Bars | pl.DataFrame,
    costs: Costs = DEFAULT_COSTS,
    *,
    regimes: Sequence[str] | None = None,
    causality_cuts: int = 8,
    events: Iterable[MarketEvent] | None = None,
) -> BacktestResult:
    """Run a strategy over bars and account for it; see the module for execution and costs.

    Args:
        strategy: a function of bars (see `Strategy`), or one that is told event by event (see `trading.port`).
        data: bars, or rows of `market.bars` (see `Bars.from_frame`).
        costs: fee and slippage.
        regimes: name of the regime as known at each close, (T,).  The return from one close to the next is counted
            to the regime known at the first, a round trip to that known at the close before its entry.  The table
            has, per regime: bars, share of bars, compounded return, return and volatility per year, Sharpe ratio,
            turnover per year, costs, round trips closed, share of them won, and their average length.
        causality_cuts: how often the strategy is run again, on the first bars with other futures and on other prices,
            to see whether it looks ahead (two runs at least); 0 trusts it, as is right for weights that were recorded
            when they were decided, and the result says so.  All but one of the runs are short.  An event-driven
            strategy is given no future, so it is run on other prices only, and not at all if there are `events`.
        events: trades and books that an event-driven strategy is told of between the bars, in the order of time.

    Raises:
        LookAheadError: a decision changes with data from after it, or does not depend on the bars.
        StrategyError: the strategy raised an error of its own.
        DataError: targets of the wrong shape or infinite, fewer than two bars, or bars that `Bars` refuses.
        BadRequestError: costs so high for the leverage asked for that no trade is possible, or an argument out of
            its domain.
    """
    where = f"{_WHERE}.backtest"
    bars = bars_of(strategy, data, where)
    if len(bars) < 2:
        raise DataError("one bar", where=where, hint="Give two or more: orders fill at the next open.")
    whole(causality_cuts, "causality_cuts", where, least=0, most=1_000_000)
    if not isinstance(costs, Costs):
        raise BadRequestError(f"costs = {costs!r}", where=where, hint="Give Costs(fee, slippage).")
    labels = None if regimes is None else _labels(regimes, len(bars))
    if isinstance(strategy, EventStrategy):
        targets, ledger = run_events(strategy, bars, costs, events or ())
        start = _first_decision(targets)
        causality = judge_events(strategy, bars, costs, targets, start, causality_cuts, tape=events is not None)
    elif events is not None:
        raise BadRequestError("a function of bars does not receive events", where=where, hint="Give an EventStrategy.")
    else:
        targets = targets_of(strategy, bars)
        start = _first_decision(targets)
        causality = judge(strategy, bars, targets, start, causality_cuts)
        refuse_leverage(costs, float(np.nansum(np.abs(targets[start:]), axis=1).max(initial=0.0)))
        ledger = follow(bars, targets, costs)
    return result_of(name_of(strategy), bars, costs, start, ledger, labels, causality)


def _first_decision(targets: FloatArray) -> int:
    """Return the first bar with a target, T if there is none."""
    decided = np.flatnonzero(~np.isnan(targets).all(axis=1))
    return int(decided[0]) if decided.size else len(targets)


def _labels(regimes: Sequence[str], size: int) -> pl.Series:
    try:
        labels = pl.Series("regime", list(regimes), dtype=pl.String)
    except (TypeError, pl.exceptions.PolarsError) as error:
        raise DataError(f"regimes are not names ({error})", where=f"{_WHERE}.backtest") from error
    if labels.len() != size or labels.null_count():
        raise DataError(
            f"{labels.len()} regimes, {labels.null_count()} of them null",
            where=f"{_WHERE}.backtest",
            hint=f"Give one name for each of the {size} bars, `unknown` where there is none.",
        )
    return labels


def held_weights(bars: Bars, orders: FloatLike, costs: Costs = DEFAULT_COSTS) -> FloatArray:
    """Return the weights (N,) that an account holds at the last close after following orders: drifted with the prices.

    Args:
        bars: (T, N). orders: targets, (T, N), NaN for none; those of the last bar are not yet executed.
        costs: fee and slippage.

    Raises:
        DataError: orders of another shape, or infinite.
    """
    targets = targets_of(lambda _: orders, bars)
    weights: FloatArray = follow(bars, targets, costs).weights[-1]
    return weights
