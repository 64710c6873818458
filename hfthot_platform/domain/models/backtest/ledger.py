"""The ledger of an account: cash, positions and round trips, bar by bar, from an equity of 1.

What belongs here: what an account holds, and how fills and prices change it.  What does not: which orders fill at what
equity (`fills`), what they cost (`fees`), and figures of the whole (`result`).

The loops are compiled, one purpose each: `fill_open` books the orders of an open, `mark_close` what the close makes of
it.  `follow` runs both over all bars for targets that are known in advance; an event-driven run calls them bar by bar.
"""

from __future__ import annotations

from typing import Final, NamedTuple

import numpy as np

from hfthot_platform.core.arrays import BoolArray, FloatArray, IntArray
from hfthot_platform.core.compiled import compiled_in_place, inlined
from hfthot_platform.domain.market.panel import Bars
from hfthot_platform.domain.models.backtest.fees import Costs, cost_rate
from hfthot_platform.domain.models.backtest.fills import equity_after_orders, find_due, take_targets

__all__ = ["Ledger", "close_ledger", "fill_open", "follow", "mark_close", "open_ledger"]

#: Places in `Ledger.counts`: round trips written down so far, and bar of ruin, -1 for none.
_TRIPS: Final = 0
_RUINED: Final = 1


class Ledger(NamedTuple):
    """What an account remembers from bar to bar, and what it has written down; the loops change the arrays in place.

    Attributes:
        cash: (1,).
        counts: see `_TRIPS` and `_RUINED`, (2,).
        units: held of each symbol, (N,).
        last: the newest price of each symbol, NaN before the first, (N,).
        waiting: targets that have not been executed, NaN for none, (N,).
        flow: cash that the open round trip of each symbol has moved, (N,).
        entered: bar at which that trip began, (N,).
        value: room for one open: what was held of each symbol before the orders, (N,).
        due: room for one open: whether the waiting target trades, (N,).
        equity: at the closes, (T,).
        weights: shares of equity held at the closes, (T, N).
        turnover: traded value over equity before the trade, (T,).
        paid: costs at the opens, in units of the initial equity, (T,).
        trip_index: column, entry bar, exit bar (T while open) and side of each round trip, (M, 4).
        trip_profit: of each round trip after costs, in units of the initial equity; marked while open, (M,).
    """

    cash: FloatArray
    counts: IntArray
    units: FloatArray
    last: FloatArray
    waiting: FloatArray
    flow: FloatArray
    entered: IntArray
    value: FloatArray
    due: BoolArray
    equity: FloatArray
    weights: FloatArray
    turnover: FloatArray
    paid: FloatArray
    trip_index: IntArray
    trip_profit: FloatArray

    @property
    def trips(self) -> int:
        """Return the number of round trips written down so far."""
        return int(self.counts[_TRIPS])

    @property
    def ruined_at(self) -> int | None:
        """Return the bar at which equity fell to zero or below, or None."""
        bar = int(self.counts[_RUINED])
        return None if bar < 0 else bar


def open_ledger(T: int, N: int, most_trips: int) -> Ledger:
    """Return the ledger of an account that holds 1 in cash, with room for T bars and so many round trips."""
    return Ledger(
        cash=np.ones(1),
        counts=np.array([0, -1]),
        units=np.zeros(N),
        last=np.full(N, np.nan),
        waiting=np.full(N, np.nan),
        flow=np.zeros(N),
        entered=np.zeros(N, dtype=np.int64),
        value=np.zeros(N),
        due=np.zeros(N, dtype=np.bool_),
        equity=np.empty(T),
        weights=np.empty((T, N)),
        turnover=np.empty(T),
        paid=np.empty(T),
        trip_index=np.empty((most_trips, 4), dtype=np.int64),
        trip_profit=np.empty(most_trips),
    )


@inlined
def _book_trip(ledger: Ledger, i: int, t: int, held: float, profit: float) -> None:
    """Write down a round trip of symbol i that ends at bar t."""
    k = ledger.counts[_TRIPS]
    ledger.trip_index[k, 0], ledger.trip_index[k, 1], ledger.trip_index[k, 2] = i, ledger.entered[i], t
    ledger.trip_index[k, 3] = 1 if held > 0.0 else -1
    ledger.trip_profit[k] = profit
    ledger.counts[_TRIPS] = k + 1


@inlined
def _mark_trips(ledger: Ledger, t: int) -> None:
    """Write down the open round trips at the newest prices, without costs, as if they ended at bar t."""
    for i in range(ledger.units.size):
        if ledger.units[i] != 0.0:
            _book_trip(ledger, i, t, ledger.units[i], ledger.flow[i] + ledger.units[i] * ledger.last[i])


@inlined
def _equity_at_open(ledger: Ledger, opens: FloatArray, t: int) -> float:
    """Take the opens as newest prices and note the value held of each symbol; return the equity."""
    equity = ledger.cash[0]
    for i in range(ledger.units.size):
        if not np.isnan(opens[t, i]):
            ledger.last[i] = opens[t, i]
        ledger.value[i] = ledger.units[i] * ledger.last[i] if ledger.units[i] != 0.0 else 0.0
        equity += ledger.value[i]
    return float(equity)


@inlined
def _book_fill(ledger: Ledger, price: float, i: int, t: int, wanted: float, rate: float) -> None:
    """Book that symbol i is now held for a value of `wanted`, bought or sold at a price: cash, units, round trip."""
    held, value = ledger.units[i], ledger.value[i]
    trade = wanted - value
    ledger.cash[0] -= trade * (1.0 + rate)
    units = wanted / price
    ledger.units[i] = units
    if held != 0.0 and held * units <= 0.0:
        # The part of the order that closes the position belongs to the trip that ends.
        _book_trip(ledger, i, t, held, ledger.flow[i] + value * (1.0 + rate))
        ledger.flow[i] = -wanted * (1.0 + rate)
        ledger.entered[i] = t
    else:
        if held == 0.0:
            ledger.flow[i] = 0.0
            ledger.entered[i] = t
        ledger.flow[i] -= trade * (1.0 + rate)
    ledger.waiting[i] = np.nan


@inlined
def _fill_open(ledger: Ledger, opens: FloatArray, t: int, buy: float, sell: float) -> bool:
    ledger.turnover[t] = 0.0
    ledger.paid[t] = 0.0
    filled = False
    if ledger.counts[_RUINED] < 0 and find_due(ledger.waiting, opens, t, ledger.due):
        before = _equity_at_open(ledger, opens, t)
        after = equity_after_orders(before, ledger.waiting, ledger.due, ledger.value, buy, sell)
        if before <= 0.0 or after <= 0.0:
            ledger.counts[_RUINED] = t
            ledger.cash[0] = before
        else:
            filled = True
            for i in range(ledger.units.size):
                if ledger.due[i]:
                    wanted = ledger.waiting[i] * after
                    trade = wanted - ledger.value[i]
                    rate = cost_rate(trade, buy, sell)
                    ledger.turnover[t] += abs(trade) / before
                    ledger.paid[t] += trade * rate
                    _book_fill(ledger, opens[t, i], i, t, wanted, rate)
    return filled


@inlined
def _mark_close(ledger: Ledger, closes: FloatArray, t: int) -> None:
    total = ledger.cash[0]
    if ledger.counts[_RUINED] != t:
        for i in range(ledger.units.size):
            if not np.isnan(closes[t, i]):
                ledger.last[i] = closes[t, i]
            if ledger.units[i] != 0.0:
                total += ledger.units[i] * ledger.last[i]
        if ledger.counts[_RUINED] < 0 and total <= 0.0:
            ledger.counts[_RUINED] = t
            ledger.cash[0] = total
    ledger.equity[t] = total
    if ledger.counts[_RUINED] == t:
        _mark_trips(ledger, t)
        ledger.units[:] = 0.0
    for i in range(ledger.units.size):
        ledger.weights[t, i] = ledger.units[i] * ledger.last[i] / total if ledger.units[i] != 0.0 else 0.0


@compiled_in_place
def fill_open(ledger: Ledger, opens: FloatArray, t: int, buy: float, sell: float) -> bool:
    """Execute the waiting targets that find a price at the opens (T, N) of bar t; return whether any did."""
    return _fill_open(ledger, opens, t, buy, sell)


@compiled_in_place
def mark_close(ledger: Ledger, closes: FloatArray, t: int) -> None:
    """Mark the account at the closes (T, N) of bar t; at an equity of zero or below everything is closed there."""
    _mark_close(ledger, closes, t)


@compiled_in_place
def close_ledger(ledger: Ledger) -> None:
    """Write down the round trips that are still open after the last bar."""
    _mark_trips(ledger, ledger.equity.size)


@compiled_in_place
def _follow(
    ledger: Ledger, opens: FloatArray, closes: FloatArray, targets: FloatArray, buy: float, sell: float
) -> None:
    for t in range(opens.shape[0]):
        if t > 0:
            take_targets(ledger.waiting, targets, t - 1)
        _fill_open(ledger, opens, t, buy, sell)
        _mark_close(ledger, closes, t)
    _mark_trips(ledger, opens.shape[0])


def follow(bars: Bars, targets: FloatArray, costs: Costs) -> Ledger:
    """Run the account over bars by targets (T, N): those of bar t are executed at the open of the next."""
    T, N = targets.shape
    ledger = open_ledger(T, N, int(np.count_nonzero(~np.isnan(targets))) + N)
    _follow(ledger, bars.open, bars.close, targets, costs.buy, costs.sell)
    return ledger
