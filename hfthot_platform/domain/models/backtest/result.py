"""What came of a strategy: the result of a backtest, and the figures in it.

What belongs here: returns, Sharpe ratios, drawdowns, round trips and their tables, from what the ledger wrote down.
What does not: the ledger.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from datetime import timedelta
from typing import Final, Literal

import numpy as np
import polars as pl

from hfthot_platform.core.arrays import BoolArray, FloatArray, IntArray
from hfthot_platform.core.display import Displayed
from hfthot_platform.domain.market.panel import Bars, time_text
from hfthot_platform.domain.models.backtest.fees import Costs
from hfthot_platform.domain.models.backtest.ledger import Ledger

__all__ = ["BacktestResult", "Causality", "result_of"]

_TIME: Final = pl.Datetime("us", "UTC")
#: How far a strategy was judged: its futures and its past were changed (checked); it was told event by event, so it was
#: given no future (by_construction); it gives the same number on all bars, so there is nothing to foresee (constant);
#: nobody looked (unchecked).
Causality = Literal["checked", "by_construction", "constant", "unchecked"]


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
        causality: how far the strategy was judged for look-ahead: checked, by_construction, constant or unchecked.
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
            f"  {len(self.times):,} bars, {time_text(self.times[0])} to {time_text(self.times[-1])}, "
            f"{self.bars_per_year:,.0f} a year; fee {self.costs.fee:.2%}, slippage {self.costs.slippage:.2%}\n"
            f"  return {self.total_return:+.1%} ({self.annual_return:+.1%} a year), "
            f"Sharpe {self.sharpe:.2f} ± {self.sharpe_error:.2f}, largest drawdown {self.max_drawdown:.1%}\n"
            f"  {closed:,} round trips{hold}; "
            f"turnover {self.annual_turnover:.1f} a year, costs {self.total_cost:.1%} of the initial equity"
        )
        text += f"\n  look-ahead: {_JUDGED[self.causality]}"
        if self.ruined_at is not None:
            text += f"\n  RUINED at {time_text(self.times[self.ruined_at])}: equity fell to {self.equity[-1]:.3f}"
        for row in self.by_regime.iter_rows(named=True):
            sharpe = math.nan if row["sharpe"] is None else row["sharpe"]
            text += (
                f"\n  {row['regime']:<15} {row['share']:6.1%} of bars, return {row['total_return']:+8.1%}, "
                f"Sharpe {sharpe:6.2f}, {row['trips']:,} round trips"
            )
        return text


_JUDGED: Final = {
    "checked": "none found with other futures and other prices; leaks in the data themselves cannot be seen",
    "by_construction": "run event by event, it was never shown the future; leaks in the data themselves cannot be seen",
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


def _trips(bars: Bars, ledger: Ledger, labels: pl.Series | None) -> pl.DataFrame:
    column, entry, leave, side = ledger.trip_index[: ledger.trips].T
    is_open = leave == len(bars)
    times = pl.Series(bars.times).cast(_TIME)
    frame = pl.DataFrame(
        {
            "symbol": pl.Series(bars.symbols, dtype=pl.String).gather(column),
            "side": pl.Series(["short", "long"]).gather((side + 1) // 2),
            "entered": times.gather(entry),
            "exited": times.gather(np.where(is_open, 0, leave)),
            "bars": leave - entry,
            "profit": ledger.trip_profit[: ledger.trips],
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


def result_of(
    name: str,
    bars: Bars,
    costs: Costs,
    start: int,
    ledger: Ledger,
    labels: pl.Series | None,
    causality: Causality,
) -> BacktestResult:
    """Return the result of an account that followed a strategy.

    Args:
        name: of the strategy. bars: that it ran on. costs: that were charged. start: bar of its first decision.
        ledger: of the account, after the last bar.
        labels: regime known at each close, (T,), or None.
        causality: how far the strategy was judged.
    """
    equity, turnover, paid = ledger.equity, ledger.turnover, ledger.paid
    trips = _trips(bars, ledger, labels)
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
        weights=ledger.weights,
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
        ruined_at=ledger.ruined_at,
        causality=causality,
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
