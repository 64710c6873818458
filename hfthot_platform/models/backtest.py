"""Backtests: what a strategy would have earned, with costs, executed at the next open, seen walking forward only.

What belongs here: bars as arrays, costs, execution, the account, its figures, and the proof that a strategy does not
look ahead.  What does not: strategies (`strategy`), tables, pictures.

**Time.**  A strategy is a function of `Bars` that returns target weights, one row per bar: row t may use bars up to
and including t.  It is executed at the open of bar t + 1, the first price after the decision.  A missing bar has no
open: the order waits for the next one.

**Targets.**  A number is an order: trade to this share of equity.  NaN is none: hold what is held and let it drift.
Weights of the same number on every bar therefore trade on every bar; `on_change` keeps the changes only.

**The account**, with open price o, fee rate f and slippage rate s.  Buying one unit costs o (1 + s)(1 + f), selling
one earns o (1 - s)(1 - f).  At an order, the equity E before it, worth p_i in asset i, becomes the E' that solves

    E' = E - sum_i c_i |w_i E' - p_i|,   c = (1 + s)(1 + f) - 1 to buy, 1 - (1 - s)(1 - f) to sell,

so that right after the trade each asset has exactly its weight and a long-only account never borrows.  Equity is
marked at the close; a missing bar keeps the last price.  Cash earns nothing and short positions pay no interest.  If
equity falls to zero, every position is closed at that price and nothing follows (`ruined_at`).

**Walking forward.**  `backtest` runs the strategy again on the first k bars, for several k, and refuses it with a
`LookAheadError` if anything that it decided before k was different: a strategy is a function of the past exactly if
the past alone gives the same decisions.  `assert_causal` does so at more bars and with other futures, for tests.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Any, Final, TypeAlias

import numpy as np
import polars as pl

from hfthot_platform.errors import BadRequestError, DataError, LookAheadError, ModelError
from hfthot_platform.models._compiled import compiled
from hfthot_platform.models.arrays import FloatArray, FloatLike, IntArray

__all__ = [
    "BacktestResult",
    "Bars",
    "Costs",
    "Strategy",
    "assert_causal",
    "backtest",
    "on_change",
]

_WHERE: Final = "models.backtest"
_YEAR: Final = 365.25 * 86_400e6
_TIME: Final = pl.Datetime("us", "UTC")
_PRICES: Final = ("open", "high", "low", "close")
#: Bars after the first decision within which most of the cuts of the causality check lie: short runs are cheap.
_EARLY: Final = 2_000


# --- data -------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, eq=False)
class Bars:
    """Bars of one or several symbols at common times; arrays are read-only.

    Attributes:
        times: open times, (T,), microseconds since 1970 UTC, increasing.
        symbols: (N,).
        open: (T, N), NaN where a symbol has no bar. high: the same. low: the same. close: the same.
        volume: in units of the base, (T, N).
        buy_volume: bought by takers, (T, N), NaN where unknown; None if unknown everywhere.
    """

    times: IntArray
    symbols: tuple[str, ...]
    open: FloatArray
    high: FloatArray
    low: FloatArray
    close: FloatArray
    volume: FloatArray
    buy_volume: FloatArray | None = None

    def __post_init__(self) -> None:
        """Check shapes, times and prices.

        Raises:
            DataError: shapes differ, times do not increase, a price is not positive, or a bar has only some prices.
        """
        times = np.ascontiguousarray(self.times, dtype=np.int64)
        if times.ndim != 1 or times.size == 0 or (np.diff(times) <= 0).any():
            raise DataError(f"times of shape {times.shape}", where="Bars", hint="Give increasing times, one or more.")
        shape = (times.size, len(self.symbols))
        arrays: dict[str, Any] = {"times": times}
        for name in (*_PRICES, "volume", *(["buy_volume"] if self.buy_volume is not None else [])):
            values = np.ascontiguousarray(getattr(self, name), dtype=np.float64)
            if values.shape != shape:
                raise DataError(f"{name} has shape {values.shape}", where="Bars", hint=f"Expected {shape}.")
            arrays[name] = values
        close = arrays["close"]
        absent = np.isnan(close)
        some = bool(absent.any())
        for name in _PRICES:
            wrong = ~(arrays[name] > 0) & ~absent if some else ~(arrays[name] > 0)
            wrong |= np.isinf(arrays[name])
            if some and name != "close":
                wrong |= absent & ~np.isnan(arrays[name])
            if wrong.any():
                t, i = np.argwhere(wrong)[0]
                raise DataError(
                    f"{name} of {self.symbols[i]} is {arrays[name][t, i]:g} beside a close of {close[t, i]:g}",
                    where=f"Bars at {_moment(times[t])}",
                    hint="Prices are positive; a missing bar has NaN in all four.",
                )
        for name, values in arrays.items():
            view = values.view()
            view.flags.writeable = False
            object.__setattr__(self, name, view)

    def __len__(self) -> int:
        return int(self.times.size)

    def __repr__(self) -> str:
        names = ", ".join(self.symbols[:4]) + (", ..." if len(self.symbols) > 4 else "")
        return f"Bars({names}; {len(self):,} from {_moment(self.times[0])} to {_moment(self.times[-1])})"

    @classmethod
    def from_frame(cls, bars: pl.DataFrame) -> Bars:
        """Return bars from rows of `market.bars` or `market.bars_1m`, in any order.

        Bars that were not final when they were written are left out.  Times at which only some symbols have a bar
        get NaN for the others.

        Args:
            bars: `symbol`, `ts`, `open`, `high`, `low`, `close`, `volume`, and `buy_volume` and `final` if there.

        Raises:
            BadRequestError: a column is missing, or a symbol has two bars at one time.
            DataError: no final bars, or prices that `Bars` refuses.
        """
        return cls._from_rows(bars, "ts", ("symbol", "ts", *_PRICES, "volume"))

    @classmethod
    def from_closes(cls, closes: pl.DataFrame) -> Bars:
        """Return bars from rows of `market.closes`: the close is the day's only price.

        An order is therefore executed at the close after the one that it was decided on.

        Args:
            closes: `symbol`, `date` and `close`.

        Raises:
            BadRequestError: a column is missing, or a symbol has two closes on one day.
            DataError: no closes, or one that is not positive.
        """
        if "close" in closes.columns:
            close = pl.col("close")
            closes = closes.with_columns(open=close, high=close, low=close, volume=pl.lit(0.0))
        return cls._from_rows(closes, "date", ("symbol", "date", "close"))

    @classmethod
    def _from_rows(cls, rows: pl.DataFrame, time: str, needed: tuple[str, ...]) -> Bars:
        missing = [name for name in needed if name not in rows.columns]
        if missing:
            raise BadRequestError(f"no column {missing[0]!r}", where="Bars", hint=f"Needed: {', '.join(needed)}.")
        if "final" in rows.columns:
            rows = rows.filter(pl.col("final"))
        rows = rows.with_columns(pl.col("symbol").cast(pl.String), pl.col(time).cast(_TIME).alias("ts"))
        rows = rows.drop_nulls("close").sort("ts", "symbol")
        if rows.is_empty():
            raise DataError("no bars", where="Bars", hint="Check the span and the symbols.")
        if rows.select("ts", "symbol").is_duplicated().any():
            raise BadRequestError(
                "a symbol has two bars at one time", where="Bars", hint="Give one venue and one interval."
            )
        symbols = tuple(rows["symbol"].unique().sort().to_list())
        times = rows["ts"].unique().sort()
        ticks = times.to_physical().to_numpy()
        at = np.searchsorted(ticks, rows["ts"].to_physical().to_numpy())
        column = np.searchsorted(np.array(symbols), rows["symbol"].to_numpy())

        def wide(name: str) -> FloatArray:
            out = np.full((len(ticks), len(symbols)), np.nan)
            out[at, column] = rows[name].cast(pl.Float64).to_numpy()
            return out

        bought = wide("buy_volume") if "buy_volume" in rows.columns else None
        if bought is not None and np.isnan(bought).all():
            bought = None
        wanted = {name: wide(name) for name in (*_PRICES, "volume")}
        return cls(times=ticks, symbols=symbols, buy_volume=bought, **wanted)

    def head(self, n: int) -> Bars:
        """Return the first n bars, without a copy."""
        return self._with(lambda values: values[:n])

    def tail(self, n: int) -> Bars:
        """Return the last n bars, without a copy."""
        return self._with(lambda values: values[-n:])

    def column(self, symbol: str) -> int:
        """Return the column of a symbol.

        Raises:
            BadRequestError: there is none.
        """
        if symbol not in self.symbols:
            raise BadRequestError(f"no symbol {symbol!r}", where="Bars", hint=f"There are {', '.join(self.symbols)}.")
        return self.symbols.index(symbol)

    @property
    def bars_per_year(self) -> float:
        """Return the number of bars in a year at the data's own pace: about 252 for trading days; 0 for one bar."""
        span = int(self.times[-1] - self.times[0])
        return (len(self) - 1) * _YEAR / span if span else 0.0

    def _with(self, change: Callable[[Any], Any]) -> Bars:
        """Return bars with changed arrays, not checked again: they come from checked ones."""
        out = object.__new__(Bars)
        values = {name: getattr(self, name) for name in ("times", *_PRICES, "volume", "buy_volume")}
        changed = {name: None if each is None else change(each) for name, each in values.items()}
        out.__dict__.update(changed, symbols=self.symbols)
        return out


def _moment(ticks: int | np.integer[Any]) -> str:
    return f"{datetime.fromtimestamp(int(ticks) / 1e6, UTC):%Y-%m-%d %H:%M}"


#: Target weights (T, N), or (T,) for one symbol, of bars; pure: the same bars give the same weights.
Strategy: TypeAlias = Callable[[Bars], FloatLike]


@dataclass(frozen=True)
class Costs:
    """What trading costs, as shares of the traded value.

    Attributes:
        fee: of the venue, each way.  The default, 10 basis points, is what a spot exchange takes from a beginner.
        slippage: by how much the price is worse than the open, each way: half the spread and a little impact.
    """

    fee: float = 0.001
    slippage: float = 0.0005

    def __post_init__(self) -> None:
        """Refuse rates outside [0, 0.2]."""
        for name in ("fee", "slippage"):
            if not 0 <= getattr(self, name) <= 0.2:
                raise BadRequestError(
                    f"{name}={getattr(self, name)!r}",
                    where="Costs",
                    hint="A share of the value: 0.001 is 0.1 %.",
                )

    @property
    def buy(self) -> float:
        """Return the cost of buying, per unit of value at the open."""
        return (1 + self.slippage) * (1 + self.fee) - 1

    @property
    def sell(self) -> float:
        """Return the cost of selling, per unit of value at the open."""
        return 1 - (1 - self.slippage) * (1 - self.fee)


_DEFAULT_COSTS: Final = Costs()


def on_change(weights: FloatLike) -> FloatArray:
    """Return the weights (T, N) or (T,) with NaN where a weight repeats the last number before it in its column."""
    values = np.array(weights, dtype=np.float64)
    _keep_changes(values.reshape(len(values), -1))
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


# --- the account ------------------------------------------------------------------------------------------------


@compiled
def _account(
    opens: FloatArray,
    closes: FloatArray,
    target: FloatArray,
    buy: float,
    sell: float,
    equity: FloatArray,
    weights: FloatArray,
    turnover: FloatArray,
    paid: FloatArray,
    trip_index: IntArray,
    trip_profit: FloatArray,
) -> tuple[int, int]:
    """Run the account from an equity of 1; return the number of round trips and the bar of ruin (-1 for none).

    Args:
        opens: (T, N). closes: (T, N). target: (T, N). buy: cost per unit of value. sell: the same.
        equity: at the closes, filled, (T,). weights: at the closes, filled, (T, N).
        turnover: traded value over equity before the trade, filled, (T,). paid: costs, filled, (T,).
        trip_index: column, entry bar, exit bar (T if still open) and side of each round trip, filled, (M, 4).
        trip_profit: of each round trip after costs, in units of the initial equity, filled, (M,).
    """
    T, N = opens.shape
    units, last, pending = np.zeros(N), np.full(N, np.nan), np.full(N, np.nan)
    value, order = np.zeros(N), np.zeros(N, dtype=np.bool_)
    entered, flow = np.zeros(N, dtype=np.int64), np.zeros(N)
    cash, trips, ruined = 1.0, 0, -1
    for t in range(T):
        turnover[t] = 0.0
        paid[t] = 0.0
        trading = False
        if ruined < 0:
            for i in range(N):
                if t > 0 and not np.isnan(target[t - 1, i]):
                    pending[i] = target[t - 1, i]
                order[i] = not np.isnan(pending[i]) and not np.isnan(opens[t, i])
                trading |= order[i]
        if trading:
            before = cash
            for i in range(N):
                if not np.isnan(opens[t, i]):
                    last[i] = opens[t, i]
                value[i] = units[i] * last[i] if units[i] != 0.0 else 0.0
                before += value[i]
            after = before
            for _ in range(200):
                # A contraction: costs are a small share of what is traded.
                costs = 0.0
                for i in range(N):
                    if order[i]:
                        trade = pending[i] * after - value[i]
                        costs += buy * trade if trade > 0.0 else -sell * trade
                following = before - costs
                settled = abs(following - after) <= 1e-16 * abs(before)
                after = following
                if settled:
                    break
            if before <= 0.0 or after <= 0.0:
                ruined = t
                cash = before
            else:
                for i in range(N):
                    if not order[i]:
                        continue
                    wanted = pending[i] * after
                    trade = wanted - value[i]
                    rate = buy if trade > 0.0 else -sell
                    cash -= trade * (1.0 + rate)
                    turnover[t] += abs(trade) / before
                    paid[t] += trade * rate
                    held, units[i] = units[i], wanted / opens[t, i]
                    if held != 0.0 and held * units[i] <= 0.0:
                        # The part of the order that closes the position belongs to the trip that ends.
                        trip_index[trips, 0], trip_index[trips, 1], trip_index[trips, 2] = i, entered[i], t
                        trip_index[trips, 3] = 1 if held > 0.0 else -1
                        trip_profit[trips] = flow[i] + value[i] * (1.0 + rate)
                        trips += 1
                        flow[i] = -wanted * (1.0 + rate)
                        entered[i] = t
                    else:
                        if held == 0.0:
                            flow[i] = 0.0
                            entered[i] = t
                        flow[i] -= trade * (1.0 + rate)
                    pending[i] = np.nan
        total = cash
        if ruined != t:
            for i in range(N):
                if not np.isnan(closes[t, i]):
                    last[i] = closes[t, i]
                if units[i] != 0.0:
                    total += units[i] * last[i]
            if ruined < 0 and total <= 0.0:
                ruined = t
                cash = total
        equity[t] = total
        if ruined == t:
            for i in range(N):
                if units[i] != 0.0:
                    trip_index[trips, 0], trip_index[trips, 1], trip_index[trips, 2] = i, entered[i], t
                    trip_index[trips, 3] = 1 if units[i] > 0.0 else -1
                    trip_profit[trips] = flow[i] + units[i] * last[i]
                    trips += 1
                    units[i] = 0.0
        for i in range(N):
            weights[t, i] = units[i] * last[i] / total if units[i] != 0.0 else 0.0
    for i in range(N):
        if units[i] != 0.0:
            trip_index[trips, 0], trip_index[trips, 1], trip_index[trips, 2] = i, entered[i], T
            trip_index[trips, 3] = 1 if units[i] > 0.0 else -1
            trip_profit[trips] = flow[i] + units[i] * last[i]
            trips += 1
    return trips, ruined


# --- the result -------------------------------------------------------------------------------------------------


@dataclass(frozen=True, eq=False)
class BacktestResult:
    """What came of a strategy.  Equity starts at 1; figures cover the bars after the first decision (`start`).

    Attributes:
        strategy: its name. symbols: (N,). costs: that were charged.
        times: open times of the bars, (T,), microseconds since 1970 UTC.
        equity: at each close, (T,).
        drawdown: equity over its maximum so far, less 1, (T,).
        weights: shares of equity held at each close, (T, N).
        turnover: value traded at each open over the equity before, (T,).
        paid: fees and slippage at each open, in units of the initial equity, (T,).
        trips: round trips: symbol, side, entered, exited (null while open), bars, profit (after costs, in units of the
            initial equity; marked at the last close while open), entry_regime.
        by_regime: one row per regime: see `backtest`; empty without regimes.
        start: bar of the first decision; T if there was none.
        bars_per_year: the annualisation: bars over the time that they span.
        total_return: equity at the end, less 1.
        annual_return: total return per year, compounded.
        volatility: of the bars' returns, per year.
        sharpe: mean over standard deviation of the bars' simple returns, times sqrt(bars_per_year); no interest is
            deducted; NaN if the returns do not vary.
        sharpe_error: its standard error for independent returns (Lo 2002).
        max_drawdown: the lowest drawdown, negative.
        win_rate: share of closed round trips with a profit after costs; NaN if there are none.
        average_hold_bars: of closed round trips, in bars; NaN if there are none.
        average_hold: the same as time; None if there are none.
        annual_turnover: value traded per year over equity.
        total_cost: fees and slippage, in units of the initial equity.
        ruined_at: bar at which equity fell to zero or below, or None.
    """

    strategy: str
    symbols: tuple[str, ...]
    costs: Costs
    times: IntArray = field(repr=False)
    equity: FloatArray = field(repr=False)
    drawdown: FloatArray = field(repr=False)
    weights: FloatArray = field(repr=False)
    turnover: FloatArray = field(repr=False)
    paid: FloatArray = field(repr=False)
    trips: pl.DataFrame = field(repr=False)
    by_regime: pl.DataFrame = field(repr=False)
    start: int
    bars_per_year: float
    total_return: float
    annual_return: float
    volatility: float
    sharpe: float
    sharpe_error: float
    max_drawdown: float
    win_rate: float
    average_hold_bars: float
    average_hold: timedelta | None
    annual_turnover: float
    total_cost: float
    ruined_at: int | None

    def frame(self) -> pl.DataFrame:
        """Return ts, equity, drawdown, turnover and paid, one row per bar."""
        return pl.DataFrame(
            {
                "ts": pl.Series(self.times).cast(_TIME),
                "equity": self.equity,
                "drawdown": self.drawdown,
                "turnover": self.turnover,
                "paid": self.paid,
            }
        )

    def metrics(self) -> dict[str, float | None]:
        """Return the figures by name, for tables and metadata; None where a figure is undefined."""
        names = (
            *("total_return", "annual_return", "volatility", "sharpe", "sharpe_error", "max_drawdown", "win_rate"),
            *("average_hold_bars", "annual_turnover", "total_cost", "bars_per_year"),
        )
        values = {name: float(getattr(self, name)) for name in names}
        return {name: value if math.isfinite(value) else None for name, value in values.items()}

    def __str__(self) -> str:
        closed = self.trips["exited"].count() if self.trips.height else 0
        hold = (
            ""
            if self.average_hold is None
            else f", {self.win_rate:.0%} won, held {_duration(self.average_hold)} on average"
        )
        names = ", ".join(self.symbols[:4]) + (", ..." if len(self.symbols) > 4 else "")
        text = (
            f"{self.strategy} on {names}\n"
            f"  {len(self.times):,} bars, {_moment(self.times[0])} to {_moment(self.times[-1])}, "
            f"{self.bars_per_year:,.0f} a year; fee {self.costs.fee:.2%}, slippage {self.costs.slippage:.2%}\n"
            f"  return {self.total_return:+.1%} ({self.annual_return:+.1%} a year), "
            f"Sharpe {self.sharpe:.2f} ± {self.sharpe_error:.2f}, largest drawdown {self.max_drawdown:.1%}\n"
            f"  {closed:,} round trips{hold}; "
            f"turnover {self.annual_turnover:.1f} a year, costs {self.total_cost:.1%} of the initial equity"
        )
        if self.ruined_at is not None:
            text += f"\n  RUINED at {_moment(self.times[self.ruined_at])}: equity fell to {self.equity[-1]:.3f}"
        for row in self.by_regime.iter_rows(named=True):
            sharpe = math.nan if row["sharpe"] is None else row["sharpe"]
            text += (
                f"\n  {row['regime']:<15} {row['share']:6.1%} of bars, return {row['total_return']:+8.1%}, "
                f"Sharpe {sharpe:6.2f}, {row['trips']:,} round trips"
            )
        return text


def _duration(time: timedelta) -> str:
    hours = time.total_seconds() / 3600
    return f"{hours / 24:.1f} days" if hours >= 48 else (f"{hours:.1f} h" if hours >= 1 else f"{60 * hours:.0f} min")


_BY_REGIME: Final = {
    "regime": pl.String,
    "bars": pl.Int64,
    **dict.fromkeys(("share", "total_return", "annual_return", "volatility", "sharpe"), pl.Float64),
    **dict.fromkeys(("annual_turnover", "paid"), pl.Float64),
    "trips": pl.Int64,
    **dict.fromkeys(("win_rate", "average_hold_bars"), pl.Float64),
}


def backtest(
    strategy: Strategy,
    data: Bars | pl.DataFrame,
    costs: Costs = _DEFAULT_COSTS,
    *,
    regimes: Sequence[str] | None = None,
    causality_cuts: int = 8,
) -> BacktestResult:
    """Run a strategy over bars and account for it; see the module for execution and costs.

    Args:
        strategy: see `Strategy`.
        data: bars, or rows of `market.bars` (see `Bars.from_frame`).
        costs: fee and slippage.
        regimes: name of the regime as known at each close, (T,).  The return from one close to the next is counted
            to the regime known at the first, a round trip to that known at the close before its entry.  The table
            has, per regime: bars, share of bars, compounded return, return and volatility per year, Sharpe ratio,
            turnover per year, costs, round trips closed, share of them won, and their average length.
        causality_cuts: how often the strategy is run again on the first bars alone to see whether it looks ahead;
            0 trusts it.  All but one of the runs are short.

    Raises:
        LookAheadError: a decision changes with data from after it.
        DataError: targets of the wrong shape or infinite, fewer than two bars, or bars that `Bars` refuses.
        BadRequestError: costs so high for the leverage asked for that no trade is possible, or an argument out of
            its domain.
    """
    bars = data if isinstance(data, Bars) else Bars.from_frame(data)
    if len(bars) < 2:
        raise DataError("one bar", where=f"{_WHERE}.backtest", hint="Give two or more: orders fill at the next open.")
    if causality_cuts < 0:
        raise BadRequestError(f"causality_cuts={causality_cuts}", where=f"{_WHERE}.backtest", hint="0 or more.")
    labels = None if regimes is None else _labels(regimes, len(bars))
    target = _targets(strategy, bars)
    decided = np.flatnonzero(~np.isnan(target).all(axis=1))
    start = int(decided[0]) if decided.size else len(bars)
    for cut in _cuts(start, len(bars), causality_cuts):
        _compare(strategy, bars.head(cut), target, cut, "is not in the data")
    leverage = float(np.nansum(np.abs(target[decided]), axis=1).max(initial=0.0))
    if max(costs.buy, costs.sell) * leverage >= 0.5:
        raise BadRequestError(
            f"costs of {costs.buy:.1%} at a leverage of {leverage:.1f}",
            where=f"{_WHERE}.backtest",
            hint="Half of the equity would go with one trade: lower the weights or the costs.",
        )
    T, N = target.shape
    equity, turnover, paid, weights = np.empty(T), np.empty(T), np.empty(T), np.empty((T, N))
    most = int(np.count_nonzero(~np.isnan(target))) + N
    trip_index, trip_profit = np.empty((most, 4), dtype=np.int64), np.empty(most)
    n_trips, ruined = _account(
        bars.open,
        bars.close,
        target,
        costs.buy,
        costs.sell,
        equity,
        weights,
        turnover,
        paid,
        trip_index,
        trip_profit,
    )
    trips = _trips(bars, trip_index[:n_trips], trip_profit[:n_trips], labels)
    return _result(_name(strategy), bars, costs, start, equity, weights, turnover, paid, trips, labels, ruined)


def _name(strategy: Strategy) -> str:
    return str(getattr(strategy, "name", None) or getattr(strategy, "__name__", None) or type(strategy).__name__)


def _labels(regimes: Sequence[str], size: int) -> pl.Series:
    labels = pl.Series("regime", regimes, dtype=pl.String)
    if labels.len() != size or labels.null_count():
        raise DataError(
            f"{labels.len()} regimes, {labels.null_count()} of them null",
            where=f"{_WHERE}.backtest",
            hint=f"Give one name for each of the {size} bars, `unknown` where there is none.",
        )
    return labels


def _targets(strategy: Strategy, bars: Bars) -> FloatArray:
    """Return the strategy's targets as (T, N)."""
    target = np.asarray(strategy(bars), dtype=np.float64)
    shape = (len(bars), len(bars.symbols))
    if target.shape == shape[:1] and shape[1] == 1:
        target = target[:, None]
    if target.shape != shape or np.isinf(target).any():
        raise DataError(
            f"targets of shape {target.shape}, infinite: {bool(np.isinf(target).any())}",
            where=f"strategy {_name(strategy)}",
            hint=f"Return weights of shape {shape}, NaN for no order.",
        )
    return np.ascontiguousarray(target)


def _cuts(start: int, size: int, count: int) -> list[int]:
    """Return where the data are cut off to see what the strategy says then; all but one soon after `start`."""
    if count == 0 or size - start < 2:
        return []
    generator = np.random.default_rng(0)
    early = generator.integers(start + 1, min(start + _EARLY, size), size=max(count - 1, 0), endpoint=False)
    late = generator.integers(start + 1, size)
    return sorted({int(cut) for cut in (*early, late)})


def _compare(strategy: Strategy, other: Bars, target: FloatArray, cut: int, what: str) -> None:
    """Refuse the strategy if its first `cut` targets are not those that it gives on other data with the same past."""
    try:
        again = _targets(strategy, other)[:cut]
    except ModelError as error:
        raise LookAheadError(
            f"what it decided before {_moment(other.times[cut - 1])} it cannot decide when what comes later {what}",
            where=f"strategy {_name(strategy)}",
            hint=f"It says: {error}",
        ) from error
    before = target[:cut]
    if np.array_equal(again, before, equal_nan=True):
        return
    same = np.isclose(again, before, rtol=1e-9, atol=1e-12, equal_nan=True)
    if not same.all():
        t, i = np.argwhere(~same)[0]
        raise LookAheadError(
            f"its target of {other.symbols[i]} at {_moment(other.times[t])} is {before[t, i]:.6g}, "
            f"and {again[t, i]:.6g} when what comes after {_moment(other.times[cut - 1])} {what}",
            where=f"strategy {_name(strategy)}",
            hint="Row t may use bars up to t: look for statistics of the whole sample, shift(-1), centred windows.",
        )


def assert_causal(strategy: Strategy, data: Bars | pl.DataFrame, *, n_cuts: int = 20, seed: int = 0) -> None:
    """Raise unless a strategy's decisions stay the same when the future is cut off, disturbed, or shifted by one bar.

    Args:
        strategy: see `Strategy`.
        data: bars on which it decides something.
        n_cuts: bars at which past and future are divided, spread at random.
        seed: of the bars and the disturbance.

    Raises:
        LookAheadError: a decision changed; the message names the bar and the symbol.
        DataError: it decides nothing on these data.
    """
    bars = data if isinstance(data, Bars) else Bars.from_frame(data)
    target = _targets(strategy, bars)
    decided = np.flatnonzero(~np.isnan(target).all(axis=1))
    if not decided.size or decided[0] + 1 >= len(bars):
        raise DataError(
            "it decides nothing before the last bar", where=f"strategy {_name(strategy)}", hint="Give longer data."
        )
    generator = np.random.default_rng(seed)
    for cut in sorted(set(generator.integers(decided[0] + 1, len(bars), size=n_cuts).tolist())):
        for what, other in _futures(bars, cut, generator):
            _compare(strategy, other, target, cut, what)


def _futures(bars: Bars, cut: int, generator: np.random.Generator) -> Iterator[tuple[str, Bars]]:
    """Yield bars with the same first `cut` bars and another future."""
    yield "is not in the data", bars.head(cut)
    factor = np.exp(0.1 * generator.standard_normal((len(bars) - cut, len(bars.symbols))))

    def disturbed(values: Any) -> Any:
        return values if values.ndim == 1 else np.concatenate([values[:cut], values[cut:] * factor])

    def shifted(values: Any) -> Any:
        return values if values.ndim == 1 else np.concatenate([values[:cut], values[cut + 1 :], values[-1:]])

    yield "is disturbed", bars._with(disturbed)  # noqa: SLF001 - of this module
    yield "is shifted by one bar", bars._with(shifted)  # noqa: SLF001 - of this module


# --- figures ----------------------------------------------------------------------------------------------------


def _trips(bars: Bars, index: IntArray, profit: FloatArray, labels: pl.Series | None) -> pl.DataFrame:
    column, entry, leave, side = index.T
    is_open = leave == len(bars)
    times = pl.Series(bars.times).cast(_TIME)
    frame = pl.DataFrame(
        {
            "symbol": pl.Series(bars.symbols, dtype=pl.String).gather(column),
            "side": pl.Series(["short", "long"]).gather((side + 1) // 2),
            "entered": times.gather(entry),
            "exited": times.gather(np.where(is_open, 0, leave)),
            "bars": leave - entry,
            "profit": profit,
            # An entry at the open of a bar was decided at the close before.
            "entry_regime": pl.Series(None, [None] * len(entry), pl.String)
            if labels is None
            else labels.gather(entry - 1),
        }
    )
    closed = pl.lit(pl.Series(~is_open))
    return frame.with_columns(exited=pl.when(closed).then("exited")).sort("entered", "symbol", maintain_order=True)


def _sharpe(returns: FloatArray, per_year: float) -> tuple[float, float]:
    """Return the annualised Sharpe ratio and its standard error, NaN if the returns do not vary."""
    spread = float(returns.std(ddof=1)) if returns.size > 1 else 0.0
    if not spread > 1e-15:
        return math.nan, math.nan
    ratio = float(returns.mean()) / spread
    error = math.sqrt((1 + 0.5 * ratio**2) / returns.size)
    return ratio * math.sqrt(per_year), error * math.sqrt(per_year)


def _trip_figures(trips: pl.DataFrame) -> tuple[int, float, float, float]:
    """Return number, share won, average bars and average microseconds of the closed round trips."""
    closed = trips.filter(pl.col("exited").is_not_null())
    if closed.is_empty():
        return 0, math.nan, math.nan, math.nan
    time = (closed["exited"].to_physical() - closed["entered"].to_physical()).to_numpy()
    won = float((closed["profit"].to_numpy() > 0).mean())
    return closed.height, won, float(closed["bars"].to_numpy().mean()), float(time.mean())


def _result(
    name: str,
    bars: Bars,
    costs: Costs,
    start: int,
    equity: FloatArray,
    weights: FloatArray,
    turnover: FloatArray,
    paid: FloatArray,
    trips: pl.DataFrame,
    labels: pl.Series | None,
    ruined: int,
) -> BacktestResult:
    per_year = bars.bars_per_year
    before = equity[:-1]
    # Nothing moves once equity is at or below zero.
    returns = np.divide(np.diff(equity), before, out=np.zeros(before.size), where=before > 0)
    counted = returns[start:]
    drawdown = equity / np.maximum(np.maximum.accumulate(equity), 1.0) - 1
    sharpe, error = _sharpe(counted, per_year)
    years = counted.size / per_year
    growth = float(equity[-1])
    _, won, hold_bars, hold_time = _trip_figures(trips)
    return BacktestResult(
        strategy=name,
        symbols=bars.symbols,
        costs=costs,
        times=bars.times,
        equity=equity,
        drawdown=drawdown,
        weights=weights,
        turnover=turnover,
        paid=paid,
        trips=trips,
        by_regime=_by_regime(returns, start, per_year, turnover, paid, trips, labels),
        start=start,
        bars_per_year=per_year,
        total_return=growth - 1,
        annual_return=math.nan if years == 0 else (-1.0 if growth <= 0 else _compounded(growth, years)),
        volatility=float(counted.std(ddof=1)) * math.sqrt(per_year) if counted.size > 1 else math.nan,
        sharpe=sharpe,
        sharpe_error=error,
        max_drawdown=float(drawdown.min()),
        win_rate=won,
        average_hold_bars=hold_bars,
        average_hold=None if math.isnan(hold_time) else timedelta(microseconds=round(hold_time)),
        annual_turnover=float(turnover.sum()) / years if years else math.nan,
        total_cost=float(paid.sum()),
        ruined_at=None if ruined < 0 else ruined,
    )


def _compounded(growth: float, years: float) -> float:
    """Return growth per year less 1; infinite where a short span would overflow."""
    exponent = math.log(growth) / years
    return math.expm1(exponent) if exponent < 700 else math.inf


def _by_regime(
    returns: FloatArray,
    start: int,
    per_year: float,
    turnover: FloatArray,
    paid: FloatArray,
    trips: pl.DataFrame,
    labels: pl.Series | None,
) -> pl.DataFrame:
    if labels is None or start >= returns.size:
        return pl.DataFrame(schema=_BY_REGIME)
    # What happens in bar t + 1 was decided in the regime known at t.
    known = labels.to_numpy()[:-1][start:]
    rows = []
    for regime in sorted(set(known.tolist())):
        here = np.flatnonzero(known == regime) + start
        part = returns[here]
        years = part.size / per_year
        growth = float(np.prod(1 + part))
        sharpe, _ = _sharpe(part, per_year)
        closed, won, hold, _ = _trip_figures(trips.filter(pl.col("entry_regime") == regime))
        spread = float(part.std(ddof=1)) * math.sqrt(per_year) if part.size > 1 else math.nan
        figures = (
            *(part.size / known.size, growth - 1, -1.0 if growth <= 0 else _compounded(growth, years), spread, sharpe),
            *(float(turnover[here + 1].sum()) / years, float(paid[here + 1].sum())),
        )
        rows.append((regime, part.size, *figures, closed, won, hold))
    return pl.DataFrame(rows, schema=_BY_REGIME, orient="row").with_columns(pl.selectors.float().fill_nan(None))
