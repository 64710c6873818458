"""Functions of bars as event-driven strategies: the adapter through which an engine runs them.

What belongs here: the history that such a function sees.  What does not: running it on all bars at once, which is what
`backtest` does with a function, with the same result and much faster.
"""

from __future__ import annotations

import math
from typing import Any, Final

import numpy as np

from hfthot_platform.core.arguments import whole
from hfthot_platform.core.arrays import FloatArray, IntArray
from hfthot_platform.core.errors import BadRequestError
from hfthot_platform.domain.market.events import Bar
from hfthot_platform.domain.market.panel import PRICES, Bars
from hfthot_platform.domain.models.backtest.targets import Strategy, name_of, targets_of
from hfthot_platform.domain.trading.port import Context, EventStrategy

__all__ = ["Vectorised"]

_WHERE: Final = "models.backtest.Vectorised"
_COLUMNS: Final = (*PRICES, "volume", "buy_volume")
#: Rows that a history has room for at first.
_ROOM: Final = 256


class Vectorised(EventStrategy):
    """A function of bars, asked at the end of each interval for the last row of its targets.

    The function sees the bars so far and decides what it would decide at its last row; if it does not look ahead, that
    is what it decides with all bars at once.  A symbol without a bar has NaN in all columns.
    """

    def __init__(self, strategy: Strategy, *, history: int | None = None) -> None:
        """Wrap a function.

        Args:
            strategy: from bars to target weights.
            history: bars that it is given at most, the newest ones; None for all.  A function that looks back on less
                decides the same, in bounded time and memory.

        Raises:
            BadRequestError: it is not a function, or the history is not a whole number of 1 or more.
        """
        given: object = strategy
        if isinstance(given, type) or not callable(given):
            raise BadRequestError(
                f"strategy = {given!r}", where=_WHERE, hint="Give a function of bars, or an object such as Trend()."
            )
        self._strategy = strategy
        self._most = None if history is None else whole(history, "history", _WHERE, least=1)
        self._bars: dict[str, Bar] = {}
        self._times: IntArray = np.empty(0, dtype=np.int64)
        self._columns: dict[str, FloatArray] = {}
        self._size = 0
        self._has_buy_volume = False

    @property
    def name(self) -> str:
        """Return the name of the function."""
        return name_of(self._strategy)

    def on_bar(self, bar: Bar, context: Context) -> None:
        """Keep the bar until its interval ends."""
        del context
        self._bars[bar.symbol] = bar

    def on_interval_end(self, ts: int, context: Context) -> None:
        """Add the interval to the history, and order what the function decides at it."""
        symbols = context.symbols
        self._append(ts, symbols)
        decided = targets_of(self._strategy, self._history(symbols))[-1].tolist()
        for symbol, weight in zip(symbols, decided, strict=True):
            if not math.isnan(weight):
                context.target(symbol, weight)

    def _append(self, ts: int, symbols: tuple[str, ...]) -> None:
        if self._size == self._times.size:
            self._make_room(len(symbols))
        row = self._size
        self._times[row] = ts
        for column, symbol in enumerate(symbols):
            bar = self._bars.get(symbol)
            for name in _COLUMNS:
                value = None if bar is None else getattr(bar, name)
                self._columns[name][row, column] = math.nan if value is None else value
            self._has_buy_volume |= bar is not None and bar.buy_volume is not None
        self._bars.clear()
        self._size += 1

    def _make_room(self, width: int) -> None:
        """Copy the newest rows that are still needed to arrays of twice their size."""
        kept = self._size if self._most is None else min(self._size, self._most)
        room = max(2 * kept, _ROOM)
        times = np.empty(room, dtype=np.int64)
        times[:kept] = self._times[self._size - kept : self._size]
        for name in _COLUMNS:
            values = np.empty((room, width))
            if kept:
                values[:kept] = self._columns[name][self._size - kept : self._size]
            self._columns[name] = values
        self._times, self._size = times, kept

    def _history(self, symbols: tuple[str, ...]) -> Bars:
        first = 0 if self._most is None else max(self._size - self._most, 0)

        def part(values: Any) -> Any:
            view = values[first : self._size]
            view.flags.writeable = False
            return view

        columns = {name: part(self._columns[name]) for name in (*PRICES, "volume")}
        bought = part(self._columns["buy_volume"]) if self._has_buy_volume else None
        return Bars.unchecked(times=part(self._times), symbols=symbols, buy_volume=bought, **columns)
