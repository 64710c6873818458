"""Running an event-driven strategy over bars: the same ledger as for targets known in advance, bar by bar.

What belongs here: the order in which events are told, and the account that the strategy sees.  What does not: the
ledger itself, and whether the strategy knows too much (`causality`).

For each bar: what was traded since the last one closed; the open, at which waiting targets fill; what was traded
within the bar; the close, then the bar of each symbol that has one, and the end of the interval.  A decision counts to
the bar after whose open it was made, and is executed at the next open, like that of a function of bars.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Iterable, Iterator
from typing import Any, Final

import numpy as np

from hfthot_platform.core.arguments import number
from hfthot_platform.core.arrays import FloatArray
from hfthot_platform.core.errors import BadRequestError, DataError, HfthotError, StrategyError, nearest
from hfthot_platform.domain.market.events import Bar, Book, MarketEvent, Trade
from hfthot_platform.domain.market.panel import PRICES, Bars, time_text
from hfthot_platform.domain.models.backtest.fees import Costs, refuse_leverage
from hfthot_platform.domain.models.backtest.ledger import Ledger, close_ledger, fill_open, mark_close, open_ledger
from hfthot_platform.domain.trading.port import Context, EventStrategy, Fill

__all__ = ["run_events"]

_WHERE: Final = "models.backtest"


class _Account(Context):
    """The context of a backtest: a ledger, and the time of the newest event."""

    def __init__(self, symbols: tuple[str, ...], ledger: Ledger) -> None:
        self._symbols = symbols
        self._columns = {symbol: column for column, symbol in enumerate(symbols)}
        self._ledger = ledger
        self.at = 0
        #: Targets decided since the last open, (N,), NaN for none.
        self.decided = np.full(len(symbols), np.nan)

    @property
    def now(self) -> int:
        return self.at

    @property
    def symbols(self) -> tuple[str, ...]:
        return self._symbols

    @property
    def equity(self) -> float:
        held = self._ledger.units != 0.0
        return float(self._ledger.cash[0] + self._ledger.units[held] @ self._ledger.last[held])

    def weight(self, symbol: str) -> float:
        column = self._column(symbol)
        units = float(self._ledger.units[column])
        return units * float(self._ledger.last[column]) / self.equity if units else 0.0

    def waiting(self, symbol: str) -> float | None:
        weight = float(self._ledger.waiting[self._column(symbol)])
        return None if math.isnan(weight) else weight

    def target(self, symbol: str, weight: float) -> None:
        column = self._column(symbol)
        self.decided[column] = self._ledger.waiting[column] = number(weight, "weight", f"target of {symbol}")

    def cancel(self, symbol: str) -> None:
        column = self._column(symbol)
        self.decided[column] = self._ledger.waiting[column] = math.nan

    def _column(self, symbol: str) -> int:
        column = self._columns.get(symbol)
        if column is None:
            raise BadRequestError(
                f"no symbol {symbol!r}", where="Context", hint=nearest(str(symbol), self._symbols) or "See `symbols`."
            )
        return column


def run_events(
    strategy: EventStrategy, bars: Bars, costs: Costs, events: Iterable[MarketEvent] = ()
) -> tuple[FloatArray, Ledger]:
    """Run a copy of a strategy over bars, and over what happened between them.

    Args:
        strategy: that is run.
        bars: two or more.
        costs: fee and slippage.
        events: trades and books, in the order of time, none before the first bar.

    Returns:
        The targets (T, N) as decided between the opens, NaN for none, and the ledger after the last bar.

    Raises:
        StrategyError: the strategy raised an error of its own, or cannot be copied.
        BadRequestError: it asked for what is not there, or for so much that costs leave no trade possible.
        DataError: the events are out of order.
    """
    T, N = len(bars), len(bars.symbols)
    ledger = open_ledger(T, N, T * N + N)
    account = _Account(bars.symbols, ledger)
    targets = np.full((T, N), np.nan)
    run = _StrategyRun(strategy, account)
    queue = _EventQueue(events, int(bars.times[0]))
    length = int(np.diff(bars.times).min())
    for t, start in enumerate(bars.times.tolist()):
        run.market(queue.before(start))
        if t:
            _take_decisions(account, targets, t - 1, costs)
        account.at = start
        held = ledger.units.copy()
        if fill_open(ledger, bars.open, t, costs.buy, costs.sell):
            run.fills(_fills(bars, ledger, held, t, costs))
        run.market(queue.before(start + length))
        mark_close(ledger, bars.close, t)
        account.at = start + length
        run.bars(_closed(bars, t))
        run.interval_end(start)
    run.market(queue.before(None))
    _take_decisions(account, targets, T - 1, costs)
    close_ledger(ledger)
    return targets, ledger


class _StrategyRun:
    """A copy of a strategy, and what it is told; its errors say when."""

    def __init__(self, strategy: EventStrategy, account: _Account) -> None:
        self._account = account
        self._name = strategy.name
        try:
            self._strategy = copy.deepcopy(strategy)
        except Exception as error:
            raise StrategyError(
                f"it cannot be copied ({type(error).__name__}: {error})",
                where=f"strategy {self._name}",
                hint="A run works on a copy: keep files, locks and connections out of the strategy.",
            ) from error

    def market(self, events: Iterator[MarketEvent]) -> None:
        for event in events:
            self._account.at = event.ts
            if isinstance(event, Trade):
                self._call(self._strategy.on_trade, event)
            else:
                self._call(self._strategy.on_book, event)

    def fills(self, fills: Iterator[Fill]) -> None:
        for fill in fills:
            self._call(self._strategy.on_fill, fill)

    def bars(self, bars: Iterator[Bar]) -> None:
        for bar in bars:
            self._call(self._strategy.on_bar, bar)

    def interval_end(self, ts: int) -> None:
        self._call(self._strategy.on_interval_end, ts)

    def _call(self, method: Callable[[Any, Context], None], event: Any) -> None:
        try:
            method(event, self._account)
        except HfthotError:
            raise
        except Exception as error:
            raise StrategyError(
                f"{method.__name__} raised {type(error).__name__} at {time_text(self._account.at)}: {error}",
                where=f"strategy {self._name}",
                hint="See the error that caused it.",
            ) from error


class _EventQueue:
    """Events that have not been told, in the order of time."""

    def __init__(self, events: Iterable[MarketEvent], first: int) -> None:
        self._events = iter(events)
        self._last = first
        self._next = next(self._events, None)

    def before(self, end: int | None) -> Iterator[MarketEvent]:
        """Yield the events before a time, or all that are left."""
        while (event := self._next) is not None:
            if not isinstance(event, Trade | Book):
                raise DataError(f"an event of type {type(event).__name__}", where="events", hint="Give Trade or Book.")
            if event.ts < self._last:
                raise DataError(
                    f"an event at {time_text(event.ts)} after {time_text(self._last)}",
                    where="events",
                    hint="Sort them by time, and leave out what was before the first bar.",
                )
            if end is not None and event.ts >= end:
                return
            self._last = event.ts
            self._next = next(self._events, None)
            yield event


def _take_decisions(account: _Account, targets: FloatArray, t: int, costs: Costs) -> None:
    """Write down what was decided since the open of bar t, as the targets of that bar."""
    targets[t] = account.decided
    refuse_leverage(costs, float(np.nansum(np.abs(account.decided))))
    account.decided[:] = np.nan


def _fills(bars: Bars, ledger: Ledger, held: FloatArray, t: int, costs: Costs) -> Iterator[Fill]:
    for column in np.flatnonzero(ledger.due).tolist():
        quantity = float(ledger.units[column] - held[column])
        if quantity:
            price = float(bars.open[t, column]) * (1 + math.copysign(costs.slippage, quantity))
            yield Fill(bars.symbols[column], int(bars.times[t]), quantity, price, abs(quantity) * price * costs.fee)


def _closed(bars: Bars, t: int) -> Iterator[Bar]:
    """Yield the bars of time t."""
    ts = int(bars.times[t])
    opens, highs, lows, closes, volumes = (getattr(bars, name)[t].tolist() for name in (*PRICES, "volume"))
    bought = None if bars.buy_volume is None else bars.buy_volume[t].tolist()
    for i, symbol in enumerate(bars.symbols):
        if not math.isnan(closes[i]):
            buy_volume = None if bought is None else bought[i]
            yield Bar(symbol, ts, opens[i], highs[i], lows[i], closes[i], volumes[i], buy_volume)
