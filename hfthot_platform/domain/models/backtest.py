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

**Walking forward.**  A strategy is a function of the past exactly if the past alone gives the same decisions, so
`backtest` runs it again with another future and refuses it with a `LookAheadError` if anything that it decided before
was different.  The futures begin where a leak shows: right after a bar on which an order changes, and right after a
missing bar.  One more run is on other prices altogether: a strategy that decides the same there does not read its bars
(signals computed once, on everything), and one whose targets there still foretell these bars knows them from elsewhere;
both are refused.  `assert_causal` does the same at more bars, for tests.

**What no such run can see**: a leak in the data themselves (survivors only, figures restated later), a parameter chosen
with these bars in sight, and a leak too small to move a target at the bars that are tried.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from datetime import timedelta
from functools import cached_property
from typing import Any, Final, Literal, NamedTuple, TypeAlias

import numpy as np
import polars as pl

from hfthot_platform.core.compiled import compiled
from hfthot_platform.core.errors import BadRequestError, DataError, HfthotError, LookAheadError, StrategyError
from hfthot_platform.core.time import DAY, moment
from hfthot_platform.domain.models.arguments import number, symbol_names, whole
from hfthot_platform.domain.models.arrays import BoolArray, FloatArray, FloatLike, IntArray
from hfthot_platform.domain.models.display import Displayed, as_html

__all__ = [
    "BacktestResult",
    "Bars",
    "Causality",
    "Costs",
    "Strategy",
    "assert_causal",
    "backtest",
    "held_weights",
    "on_change",
]

_WHERE: Final = "models.backtest"
_YEAR: Final = 365.25 * DAY
_TIME: Final = pl.Datetime("us", "UTC")
_PRICES: Final = ("open", "high", "low", "close")
#: Rows of bars that a notebook shows.
_SHOWN_ROWS: Final = 5
#: Bars after the first decision within which most of the cuts of the causality check lie: short runs are cheap.
_EARLY: Final = 5_000
#: Bars of another future that a run of the causality check sees.
_AHEAD: Final = 60
#: Standard errors beyond which targets that were decided on other prices foretell these ones.
_FORETOLD: Final = 7.0


# --- data -------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, eq=False, repr=False)
class Bars(Displayed):
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
        """Check shapes, names, times and prices.

        Raises:
            BadRequestError: a symbol without a name, or twice.
            DataError: shapes differ, times are no integers or do not increase, a price is not positive or outside its
                bar's low and high, a bar has only some prices, or a volume is negative or infinite.
        """
        times = _ticks(self.times)
        symbols = symbol_names(self.symbols, None, "Bars") or ()
        if not symbols:
            raise BadRequestError("no symbols", where="Bars", hint="Name one for each column.")
        object.__setattr__(self, "symbols", symbols)
        shape = (times.size, len(symbols))
        arrays: dict[str, Any] = {"times": times}
        for name in (*_PRICES, "volume", *(["buy_volume"] if self.buy_volume is not None else [])):
            values = _doubles(getattr(self, name), name)
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
                    f"{name} of {symbols[i]} is {arrays[name][t, i]:g} beside a close of {close[t, i]:g}",
                    where=f"Bars at {_moment(times[t])}",
                    hint="Prices are positive; a missing bar has NaN in all four.",
                )
        # A vendor's rounding of adjusted prices is no mistake of the bar.
        top, floor = arrays["high"] * (1 + 1e-6), arrays["low"] * (1 - 1e-6)
        for name in ("low", "open", "close"):
            wrong = (arrays[name] > top) | (arrays[name] < floor)
            if wrong.any():
                t, i = np.argwhere(wrong)[0]
                raise DataError(
                    f"{name} of {symbols[i]} is {arrays[name][t, i]:g}, "
                    f"its low {arrays['low'][t, i]:g} and its high {arrays['high'][t, i]:g}",
                    where=f"Bars at {_moment(times[t])}",
                    hint="Every price lies between low and high: look for exchanged columns.",
                )
        for name in ("volume", "buy_volume"):
            if name in arrays and ((arrays[name] < 0).any() or np.isinf(arrays[name]).any()):
                t, i = np.argwhere((arrays[name] < 0) | np.isinf(arrays[name]))[0]
                raise DataError(
                    f"{name} of {symbols[i]} is {arrays[name][t, i]:g}",
                    where=f"Bars at {_moment(times[t])}",
                    hint="Volumes are 0 or more, NaN where unknown.",
                )
        for name, values in arrays.items():
            view = values.view()
            view.flags.writeable = False
            object.__setattr__(self, name, view)

    def __len__(self) -> int:
        return int(self.times.size)

    def __str__(self) -> str:
        names = ", ".join(self.symbols[:4]) + (", ..." if len(self.symbols) > 4 else "")
        return f"Bars({names}; {len(self):,} from {_moment(self.times[0])} to {_moment(self.times[-1])})"

    def _repr_html_(self) -> str:
        return as_html(f"{self!r}\n{self.to_frame().head(_SHOWN_ROWS)}")

    def to_frame(self) -> pl.DataFrame:
        """Return one row per time and symbol that has a bar: ts, open, high, low, close, volume, symbol."""
        length, width = self.close.shape
        return (
            pl.DataFrame(
                {
                    "ts": pl.Series(np.repeat(self.times, width)).cast(_TIME),
                    **{name: getattr(self, name).ravel() for name in (*_PRICES, "volume")},
                    "symbol": list(self.symbols) * length,
                }
            )
            .fill_nan(None)
            .drop_nulls("close")
        )

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
        if not isinstance(rows, pl.DataFrame):
            raise BadRequestError(
                f"{type(rows).__name__} instead of a Polars frame", where="Bars", hint=f"Needed: {', '.join(needed)}."
            )
        missing = [name for name in needed if name not in rows.columns]
        if missing:
            raise BadRequestError(f"no column {missing[0]!r}", where="Bars", hint=f"Needed: {', '.join(needed)}.")
        try:
            if "final" in rows.columns:
                rows = rows.filter(pl.col("final"))
            rows = rows.with_columns(
                pl.col("symbol").cast(pl.String),
                pl.col(time).cast(_TIME).alias("ts"),
                pl.col(*(name for name in needed if name not in ("symbol", time))).cast(pl.Float64),
            )
        except pl.exceptions.PolarsError as error:
            raise DataError(
                f"columns of the wrong type ({error})", where="Bars", hint=f"Times in {time}, numbers in the others."
            ) from error
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
        """Return the first n bars, or all if there are fewer, without a copy.

        Raises:
            BadRequestError: n is not a whole number of 1 or more.
        """
        whole(n, "n", "Bars.head", least=1)
        return self._with(lambda values: values[:n])

    def tail(self, n: int) -> Bars:
        """Return the last n bars, or all if there are fewer, without a copy.

        Raises:
            BadRequestError: n is not a whole number of 1 or more.
        """
        whole(n, "n", "Bars.tail", least=1)
        return self._with(lambda values: values[-n:])

    def column(self, symbol: str) -> int:
        """Return the column of a symbol.

        Raises:
            BadRequestError: there is none.
        """
        if symbol not in self.symbols:
            raise BadRequestError(f"no symbol {symbol!r}", where="Bars", hint=f"There are {', '.join(self.symbols)}.")
        return self.symbols.index(symbol)

    @cached_property
    def present(self) -> BoolArray:
        """Return whether any symbol has the bar, (T,)."""
        here = ~np.isnan(self.close)
        return np.asarray(here[:, 0] if here.shape[1] == 1 else here.any(axis=1))

    @cached_property
    def bars_per_year(self) -> float:
        """Return the number of bars in a year at the data's own pace: about 252 for trading days; 0 for one bar.

        Nights, weekends and holidays belong to that pace; a hole in the data does not, and counts as long as an
        ordinary step.  A hole is a step of more than a day where bars come on all seven days of the week, of more
        than eight days elsewhere (exchanges were shut for six at most), and of more than three usual steps.
        """
        times = self.times[self.present]
        steps = np.diff(times)
        if not steps.size:
            return 0.0
        days = times // DAY
        # Days since 1970 began on a Thursday: 2 and 3 are Saturday and Sunday.
        weekend = float(np.isin(days[np.append(True, np.diff(days) > 0)] % 7, (2, 3)).mean())
        longest = max(DAY if weekend > 0.2 else 8 * DAY, 3 * int(np.median(steps)))
        usual = steps[steps <= longest]
        return float(_YEAR / usual.mean())

    def _with(self, change: Callable[[Any], Any]) -> Bars:
        """Return bars with changed arrays, not checked again: they come from checked ones."""
        out = object.__new__(Bars)
        values = {name: getattr(self, name) for name in ("times", *_PRICES, "volume", "buy_volume")}
        changed = {name: None if each is None else change(each) for name, each in values.items()}
        out.__dict__.update(changed, symbols=self.symbols)
        return out


def _moment(ticks: int | np.integer[Any]) -> str:
    try:
        return f"{moment(int(ticks)):%Y-%m-%d %H:%M}"
    except OverflowError:
        return f"{int(ticks)} microseconds since 1970"


def _ticks(values: Any) -> IntArray:
    """Return times as microseconds since 1970."""
    try:
        found = np.asarray(values)
        if found.dtype.kind == "M":
            if np.isnat(found).any():
                raise TypeError("a time is missing")
            found = found.astype("datetime64[us]")
        elif found.dtype.kind not in "iu":
            raise TypeError(f"type {found.dtype}")
        times = np.ascontiguousarray(found.astype(np.int64))
    except (TypeError, ValueError, OverflowError) as error:
        raise DataError(
            f"times are no integers ({error})", where="Bars", hint="Give microseconds since 1970, or datetime64."
        ) from error
    if times.ndim != 1 or times.size == 0 or (np.diff(times) <= 0).any():
        raise DataError(f"times of shape {times.shape}", where="Bars", hint="Give increasing times, one or more.")
    return times


def _doubles(values: Any, name: str) -> FloatArray:
    try:
        found = np.asarray(values)
        if found.dtype.kind not in "fiu" and found.dtype != object:
            raise TypeError(f"type {found.dtype}")
        return np.ascontiguousarray(found, dtype=np.float64)
    except (TypeError, ValueError, OverflowError) as error:
        raise DataError(f"{name} is not an array of numbers ({error})", where="Bars") from error


#: Target weights (T, N), or (T,) for one symbol, of bars; pure: the same bars give the same weights.
Strategy: TypeAlias = Callable[[Bars], FloatLike]
#: How far a strategy was judged: its futures and its past were changed (checked); it gives the same number on all
#: bars, so there is nothing to foresee (constant); nobody looked (unchecked).
Causality = Literal["checked", "constant", "unchecked"]


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
            number(getattr(self, name), name, "Costs (shares of the value: 0.001 is 0.1 %)", least=0.0, most=0.2)

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


def held_weights(bars: Bars, orders: FloatLike, costs: Costs = _DEFAULT_COSTS) -> FloatArray:
    """Return the weights (N,) that an account holds at the last close after following orders: drifted with the prices.

    Args:
        bars: (T, N). orders: targets, (T, N), NaN for none; those of the last bar are not yet executed.
        costs: fee and slippage.

    Raises:
        DataError: orders of another shape, or infinite.
    """
    target = _targets(lambda _: orders, bars)
    weights: FloatArray = _run(bars, target, costs).weights[-1]
    return weights


class _Account(NamedTuple):
    """What `_account` fills, and the bar of ruin (-1 for none)."""

    equity: FloatArray
    weights: FloatArray
    turnover: FloatArray
    paid: FloatArray
    trip_index: IntArray
    trip_profit: FloatArray
    ruined: int


def _run(bars: Bars, target: FloatArray, costs: Costs) -> _Account:
    """Run the account over bars."""
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
    return _Account(equity, weights, turnover, paid, trip_index[:n_trips], trip_profit[:n_trips], ruined)


# --- the result -------------------------------------------------------------------------------------------------


@dataclass(frozen=True, eq=False, repr=False)
class BacktestResult(Displayed):
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
        causality: how far the strategy was judged for look-ahead: checked, constant or unchecked.
    """

    strategy: str
    symbols: tuple[str, ...]
    costs: Costs
    times: IntArray
    equity: FloatArray
    drawdown: FloatArray
    weights: FloatArray
    turnover: FloatArray
    paid: FloatArray
    trips: pl.DataFrame
    by_regime: pl.DataFrame
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
    causality: Causality = "unchecked"

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

    def to_frame(self) -> pl.DataFrame:
        """Return the same as `frame`."""
        return self.frame()

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
        text += f"\n  look-ahead: {_JUDGED[self.causality]}"
        if self.ruined_at is not None:
            text += f"\n  RUINED at {_moment(self.times[self.ruined_at])}: equity fell to {self.equity[-1]:.3f}"
        for row in self.by_regime.iter_rows(named=True):
            sharpe = math.nan if row["sharpe"] is None else row["sharpe"]
            text += (
                f"\n  {row['regime']:<15} {row['share']:6.1%} of bars, return {row['total_return']:+8.1%}, "
                f"Sharpe {sharpe:6.2f}, {row['trips']:,} round trips"
            )
        return text


_JUDGED: Final = {
    "checked": "none found with other futures and other prices; leaks in the data themselves cannot be seen",
    "constant": "nothing to foresee, the weights never change; leaks in the data themselves cannot be seen",
    "unchecked": "NOT CHECKED",
}


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
        causality_cuts: how often the strategy is run again, on the first bars with other futures and on other prices,
            to see whether it looks ahead (two runs at least); 0 trusts it, as is right for weights that were recorded
            when they were decided, and the result says so.  All but one of the runs are short.

    Raises:
        LookAheadError: a decision changes with data from after it, or does not depend on the bars.
        StrategyError: the strategy raised an error of its own.
        DataError: targets of the wrong shape or infinite, fewer than two bars, or bars that `Bars` refuses.
        BadRequestError: costs so high for the leverage asked for that no trade is possible, or an argument out of
            its domain.
    """
    where = f"{_WHERE}.backtest"
    bars = _bars_of(strategy, data, where)
    if len(bars) < 2:
        raise DataError("one bar", where=where, hint="Give two or more: orders fill at the next open.")
    whole(causality_cuts, "causality_cuts", where, least=0, most=1_000_000)
    if not isinstance(costs, Costs):
        raise BadRequestError(f"costs = {costs!r}", where=where, hint="Give Costs(fee, slippage).")
    labels = None if regimes is None else _labels(regimes, len(bars))
    target = _targets(strategy, bars)
    decided = np.flatnonzero(~np.isnan(target).all(axis=1))
    start = int(decided[0]) if decided.size else len(bars)
    causality = _judged(strategy, bars, target, start, causality_cuts)
    leverage = float(np.nansum(np.abs(target[decided]), axis=1).max(initial=0.0))
    if max(costs.buy, costs.sell) * leverage >= 0.5:
        raise BadRequestError(
            f"costs of {costs.buy:.1%} at a leverage of {leverage:.1f}",
            where=f"{_WHERE}.backtest",
            hint="Half of the equity would go with one trade: lower the weights or the costs.",
        )
    equity, weights, turnover, paid, trip_index, trip_profit, ruined = _run(bars, target, costs)
    trips = _trips(bars, trip_index, trip_profit, labels)
    result = _result(_name(strategy), bars, costs, start, equity, weights, turnover, paid, trips, labels, ruined)
    return replace(result, causality=causality)


def _bars_of(strategy: Any, data: Any, where: str) -> Bars:
    if isinstance(strategy, type) or not callable(strategy):
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


def _name(strategy: Strategy) -> str:
    return str(getattr(strategy, "name", None) or getattr(strategy, "__name__", None) or type(strategy).__name__)


def _labels(regimes: Sequence[str], size: int) -> pl.Series:
    try:
        labels = pl.Series("regime", list(regimes), dtype=pl.String)
    except (TypeError, pl.exceptions.PolarsError) as error:
        raise DataError(f"regimes are no names ({error})", where=f"{_WHERE}.backtest") from error
    if labels.len() != size or labels.null_count():
        raise DataError(
            f"{labels.len()} regimes, {labels.null_count()} of them null",
            where=f"{_WHERE}.backtest",
            hint=f"Give one name for each of the {size} bars, `unknown` where there is none.",
        )
    return labels


def _targets(strategy: Strategy, bars: Bars) -> FloatArray:
    """Return the strategy's targets as (T, N)."""
    where, shape = f"strategy {_name(strategy)}", (len(bars), len(bars.symbols))
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


# --- causality --------------------------------------------------------------------------------------------------


@compiled
def _events(target: FloatArray, close: FloatArray, out: IntArray) -> int:
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


def _judged(strategy: Strategy, bars: Bars, target: FloatArray, start: int, count: int) -> Causality:
    """Refuse a strategy that looks ahead, with so many runs at most; say how far it was judged."""
    size = len(bars)
    if count == 0 or size - start < 2:
        return "unchecked"
    events = np.empty(size, dtype=np.int64)
    changes = _events(target, bars.close, events)
    generator = np.random.default_rng(0)
    cuts = _cuts(events, start, max(count - 1, 1), _EARLY, generator)
    for k, cut in enumerate(cuts):
        # The last one may be long: a head of the bars is no copy, a disturbed future is.
        if k % 2 or k + 1 == len(cuts) > 1:
            _compare(strategy, bars.head(cut), "is not in the data", target, cut)
        else:
            end = min(cut + _AHEAD, size)
            other = _disturbed(bars.head(end), cut, target, against=k % 4 == 0, generator=generator)
            _compare(strategy, other, "is disturbed", target, cut)
    if not changes:
        return "constant"
    _read(strategy, bars, target, start, events, generator)
    return "checked"


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
    return bars._with(  # noqa: SLF001 - of this module
        lambda values: values if values.ndim == 1 else np.concatenate([values[:cut], values[cut:] * factor])
    )


def _compare(strategy: Strategy, other: Bars, what: str, target: FloatArray, cut: int) -> None:
    """Refuse the strategy if its first `cut` targets are not those that it gives on other data with the same past."""
    try:
        again = _targets(strategy, other)[:cut]
    except HfthotError as error:
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
            hint="Row t may use bars up to t: look for statistics of the whole sample, shift(-1), centred windows, "
            "back-filled or interpolated gaps.",
        )


def _read(
    strategy: Strategy, bars: Bars, target: FloatArray, start: int, events: IntArray, generator: np.random.Generator
) -> None:
    """Refuse a strategy that decides the same on other prices, or that foretells these bars from other ones."""
    changed = np.flatnonzero(events % 2)
    size = min(max(start + _EARLY, int(changed[:20][-1]) + 1), len(bars))
    past, given = bars.head(size), target[:size]
    for holes in (0.0, 0.05):
        try:
            other = _targets(strategy, _reshuffled(past, holes, generator))
        except HfthotError:
            # Whatever it says of these prices, it has looked at them.
            return
        score = _foretold(other, past.close)
        if abs(score) > _FORETOLD:
            raise LookAheadError(
                f"on prices in another order its targets still foretell the moves of these bars, by {abs(score):.0f} "
                "standard errors: it knows them from elsewhere",
                where=f"strategy {_name(strategy)}",
                hint="Signals computed once on the whole sample look ahead: compute them inside the strategy.",
            )
        if not _same_decisions(given, other):
            return
    raise LookAheadError(
        "it decides the same on other prices: it does not read its bars, so what it knows of the future cannot be told",
        where=f"strategy {_name(strategy)}",
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
    columns: dict[str, list[FloatArray]] = {name: [] for name in (*_PRICES, "volume", "buy_volume")}
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
    out = bars._with(lambda values: values)  # noqa: SLF001 - of this module
    out.__dict__.update(made_of)
    return out


@compiled
def _forward_filled(values: FloatArray) -> None:
    for i in range(values.shape[1]):
        for t in range(1, values.shape[0]):
            if np.isnan(values[t, i]):
                values[t, i] = values[t - 1, i]


def _foretold(target: FloatArray, close: FloatArray) -> float:
    """Return by how many standard errors targets (T, N) foretell the next moves of closes (T, N); 0 if too few."""
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


def assert_causal(strategy: Strategy, data: Bars | pl.DataFrame, *, n_cuts: int = 20, seed: int = 0) -> None:
    """Raise unless a strategy decides the same when the future is cut off, disturbed, or shifted by one bar.

    It is also run on other prices, as `backtest` does: a strategy that does not read its bars is refused.

    Args:
        strategy: see `Strategy`.
        data: bars on which it decides something.
        n_cuts: bars at which past and future are divided: after orders, missing bars, and at random.
        seed: of the bars and the disturbance.

    Raises:
        LookAheadError: a decision changed, the message names the bar and the symbol; or the bars are not read.
        StrategyError: the strategy raised an error of its own.
        DataError: it decides nothing on these data.
        BadRequestError: an argument out of its domain.
    """
    where = f"{_WHERE}.assert_causal"
    bars = _bars_of(strategy, data, where)
    whole(n_cuts, "n_cuts", where, least=1, most=1_000_000)
    whole(seed, "seed", where, least=0)
    target = _targets(strategy, bars)
    decided = np.flatnonzero(~np.isnan(target).all(axis=1))
    if not decided.size or decided[0] + 1 >= len(bars):
        raise DataError(
            "it decides nothing before the last bar", where=f"strategy {_name(strategy)}", hint="Give longer data."
        )
    generator = np.random.default_rng(seed)
    events = np.empty(len(bars), dtype=np.int64)
    changes = _events(target, bars.close, events)
    start = int(decided[0])
    for k, cut in enumerate(_cuts(events, start, n_cuts, len(bars), generator)):
        for what, other in _futures(bars, cut, target, k, generator):
            _compare(strategy, other, what, target, cut)
    if changes:
        _read(strategy, bars, target, start, events, generator)


def _futures(
    bars: Bars, cut: int, target: FloatArray, k: int, generator: np.random.Generator
) -> Iterator[tuple[str, Bars]]:
    """Yield bars with the same first `cut` bars and another future."""
    yield "is not in the data", bars.head(cut)
    yield "is disturbed", _disturbed(bars, cut, target, against=k // 2 % 2 == 0, generator=generator)

    def shifted(values: Any) -> Any:
        return values if values.ndim == 1 else np.concatenate([values[:cut], values[cut + 1 :], values[-1:]])

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
    # Where no symbol has a bar nothing was earned or lost: no return, rather than one of zero.
    there = bars.present[1:]
    counted = returns[start:][there[start:]]
    drawdown = equity / np.maximum(np.maximum.accumulate(equity), 1.0) - 1
    sharpe, error = _sharpe(counted, per_year)
    years = counted.size / per_year if per_year else 0.0
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
        by_regime=_by_regime(returns, there, start, per_year, turnover, paid, trips, labels),
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
    there: BoolArray,
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
        part = returns[here[there[here]]]
        if not part.size:
            continue
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
