"""Strategies as functions: bars in, target weights out.

What belongs here: what such a strategy is, and the checks of what it is given and of what it answers.  What does not:
strategies themselves (`models.strategy`), and whether one looks ahead (`causality`).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeAlias

import numpy as np
import polars as pl

from hfthot_platform.core.arrays import FloatArray, FloatLike
from hfthot_platform.core.compiled import compiled
from hfthot_platform.core.errors import BadRequestError, DataError, HfthotError, StrategyError
from hfthot_platform.domain.market.panel import Bars
from hfthot_platform.domain.trading.port import EventStrategy

__all__ = ["Strategy", "bars_of", "name_of", "on_change", "targets_of"]

#: Target weights (T, N), or (T,) for one symbol, of bars; pure: the same bars give the same weights.
Strategy: TypeAlias = Callable[[Bars], FloatLike]


def on_change(weights: FloatLike) -> FloatArray:
    """Return the weights (T, N) or (T,) with NaN where a weight repeats the last number before it in its column.

    Raises:
        DataError: no array of numbers of one or two dimensions.
    """
    try:
        values = np.array(weights, dtype=np.float64)
    except (TypeError, ValueError, OverflowError) as error:
        raise DataError(f"weights are not an array of numbers ({error})", where="on_change") from error
    if values.ndim not in {1, 2}:
        raise DataError(f"weights of shape {values.shape}", where="on_change", hint="Give (T,) or (T, N).")
    _keep_changes(values[:, None] if values.ndim == 1 else values)
    return values


@compiled
def _keep_changes(values: FloatArray) -> None:
    for i in range(values.shape[1]):
        last = np.nan
        for t in range(values.shape[0]):
            if values[t, i] == last:
                values[t, i] = np.nan
            elif not np.isnan(values[t, i]):
                last = values[t, i]


def bars_of(strategy: Any, data: Any, where: str) -> Bars:
    """Return bars from what a caller gave.

    Raises:
        BadRequestError: no strategy, or no bars.
        DataError: rows that `Bars` refuses.
    """
    if isinstance(strategy, type) or not (callable(strategy) or isinstance(strategy, EventStrategy)):
        raise BadRequestError(
            f"strategy = {strategy!r}",
            where=where,
            hint="Give a function of bars, or an object such as TrendFollowing() (with its brackets).",
        )
    if not isinstance(data, Bars | pl.DataFrame):
        raise BadRequestError(
            f"data of type {type(data).__name__}", where=where, hint="Give Bars, or rows of `market.bars`."
        )
    return data if isinstance(data, Bars) else Bars.from_frame(data)


def name_of(strategy: object) -> str:
    """Return the name of a strategy: its `name`, that of the function, or that of its class."""
    return str(getattr(strategy, "name", None) or getattr(strategy, "__name__", None) or type(strategy).__name__)


def targets_of(strategy: Strategy, bars: Bars) -> FloatArray:
    """Return the strategy's targets as (T, N)."""
    where, shape = f"strategy {name_of(strategy)}", (len(bars), len(bars.symbols))
    try:
        given = strategy(bars)
    except HfthotError:
        raise
    except Exception as error:
        raise StrategyError(
            f"it raised {type(error).__name__} on {len(bars)} bars: {error}",
            where=where,
            hint="Where the past is too short to decide, return NaN for the row.",
        ) from error
    try:
        target = np.asarray(given, dtype=np.float64)
    except (TypeError, ValueError) as error:
        raise DataError(
            f"targets are not an array of numbers ({error})", where=where, hint=f"Return weights of shape {shape}."
        ) from error
    if target.shape == shape[:1] and shape[1] == 1:
        target = target[:, None]
    if target.shape != shape or np.isinf(target).any():
        raise DataError(
            f"targets of shape {target.shape}, infinite: {bool(np.isinf(target).any())}",
            where=where,
            hint=f"Return weights of shape {shape}, NaN for no order.",
        )
    return np.ascontiguousarray(target)
