"""The port of event-driven strategies: what they are told, one event at a time, and what they may ask for.

What belongs here: the methods that an engine calls and the context that it hands over.  What does not: engines (the
backtest in `models.backtest`, later one that trades), and strategies.

**An engine keeps these promises**, so that a strategy runs unchanged wherever it is run:

- Events come in the order of time, each once, from one thread.  Nothing is told before it has happened: a bar when it
  has closed, a fill when it has been executed.
- Bars of one interval come one after the other, then `on_interval_end` says that no more will: a symbol without a bar
  by then was not traded.  What is decided for several symbols at once is decided there.
- The only clock is `Context.now`, the time of the newest event.  A strategy that reads another one cannot be replayed.
- A target is an order to trade to that share of equity, at the first price after the decision.  It waits while there
  is none, and a newer one replaces it.
- The engine runs a copy: what a strategy remembers begins with what it was given, in each run.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import NamedTuple

from hfthot_platform.domain.market.events import Bar, Book, Trade

__all__ = ["Context", "EventStrategy", "Fill"]


class Fill(NamedTuple):
    """An order of the strategy that was executed."""

    symbol: str
    #: Microseconds since 1970 UTC.
    ts: int
    #: Bought (positive) or sold (negative), in units of the base; a backtest's account begins with 1 of the quote.
    quantity: float
    #: With slippage.
    price: float
    #: In the quote, not in the price.
    fee: float


class Context(ABC):
    """What a strategy may know of its account, and what it may ask for."""

    @property
    @abstractmethod
    def now(self) -> int:
        """Return the time of the newest event, microseconds since 1970 UTC: of a bar, when it closed."""

    @property
    @abstractmethod
    def symbols(self) -> tuple[str, ...]:
        """Return the symbols that can be traded."""

    @property
    @abstractmethod
    def equity(self) -> float:
        """Return cash and positions at the newest prices of the account; a backtest begins with 1."""

    @abstractmethod
    def weight(self, symbol: str) -> float:
        """Return the share of equity that is held of a symbol; negative for a short position.

        Raises:
            BadRequestError: the symbol cannot be traded.
        """

    @abstractmethod
    def waiting(self, symbol: str) -> float | None:
        """Return the target of a symbol that has not been executed, or None.

        Raises:
            BadRequestError: the symbol cannot be traded.
        """

    @abstractmethod
    def target(self, symbol: str, weight: float) -> None:
        """Order to trade to a share of equity at the first price after now; a waiting target is replaced.

        Raises:
            BadRequestError: the symbol cannot be traded, or the weight is not a finite number.
        """

    @abstractmethod
    def cancel(self, symbol: str) -> None:
        """Withdraw the target that waits, if any; what is held stays.

        Raises:
            BadRequestError: the symbol cannot be traded.
        """


class EventStrategy:
    """A strategy that is told what happens; by default it does nothing about it."""

    @property
    def name(self) -> str:
        """Return the name that results and messages have."""
        return type(self).__name__

    def on_bar(self, bar: Bar, context: Context) -> None:
        """Take note that a bar has closed."""

    def on_interval_end(self, ts: int, context: Context) -> None:
        """Take note that all bars that began at `ts` (microseconds since 1970 UTC) have come."""

    def on_trade(self, trade: Trade, context: Context) -> None:
        """Take note of a trade of others."""

    def on_book(self, book: Book, context: Context) -> None:
        """Take note of the visible orders."""

    def on_fill(self, fill: Fill, context: Context) -> None:
        """Take note that an order of this strategy was executed."""
