"""Backtests of rules and of recorded weights as rows: figures per run, strategy and symbol, and thinned curves.

What goes here: which bars, regimes and recorded weights an account sees, and its figures as rows of
`portfolio.backtests` and `portfolio.backtest_equity`.  What stays out: strategies, execution, costs (`models`).

Two kinds of strategies are run.  Rules (`TrendFollowing`, `MeanReversion`, any function of bars) run on each symbol,
and all symbols together in one account.  Recorded weights (rows of `portfolio.weights` by method, rows of
`portfolio.adaptive_weights`) run as they were decided: the weights for a day are the orders given at the last bar
before it, so they fill at the first open of that day.  A backtest of what was recorded cannot look ahead unless the
record did.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass, is_dataclass
from datetime import date, timedelta
from functools import partial
from typing import Any, Final, NamedTuple

import numpy as np
import polars as pl

from hfthot_platform.core.arrays import FloatArray
from hfthot_platform.core.errors import BadRequestError, DataError, HfthotError
from hfthot_platform.core.intervals import interval_microseconds
from hfthot_platform.core.parallel import Mapped, in_threads
from hfthot_platform.core.time import MINUTE, midnight
from hfthot_platform.domain.contracts.portfolio import ALL_SYMBOLS, BACKTEST_EQUITY, BACKTESTS
from hfthot_platform.domain.market.panel import Bars
from hfthot_platform.domain.models.backtest import BacktestResult, Costs, Strategy, backtest
from hfthot_platform.domain.models.regime import QUIET
from hfthot_platform.domain.models.strategy import UNIDENTIFIED, UNKNOWN, MeanReversion, TrendFollowing
from hfthot_platform.domain.signals.contract_rows import as_text, needs, rows_of, series_name
from hfthot_platform.domain.signals.regimes import Failed

__all__ = ["ADAPTIVE", "Backtests", "backtest_rows"]

#: The strategy's name of recorded adaptive weights.
ADAPTIVE: Final = "adaptive"
_WHERE: Final = "signals.backtest_rows"
#: A regime older than this says nothing about a bar.
_STALE: Final = timedelta(days=10)


class Backtests(NamedTuple):
    """Rows of `portfolio.backtests` and of `portfolio.backtest_equity`, and what could not be run, and why."""

    rows: pl.DataFrame
    equity: pl.DataFrame
    failed: Failed


@dataclass(frozen=True)
class _BacktestCase:
    """One account: a strategy on bars."""

    name: str
    strategy: Strategy
    parameters: dict[str, Any]
    venue: str
    symbol: str
    bars: Bars
    #: Length of a bar, microseconds.
    length: int
    interval: str
    regimes: tuple[str, ...] | None
    cuts: int


@dataclass(frozen=True, eq=False)
class _Recorded:
    """A strategy that follows recorded targets, (T, N)."""

    targets: FloatArray

    def __call__(self, _: Bars) -> FloatArray:
        return self.targets


def backtest_rows(
    market: pl.DataFrame,
    *,
    run_on: date,
    regimes: pl.DataFrame | None = None,
    rules: Sequence[Strategy] = (TrendFollowing(), MeanReversion()),
    weights: pl.DataFrame | None = None,
    adaptive: pl.DataFrame | None = None,
    market_series: str | None = None,
    costs: Costs | None = None,
    curve_points: int = 500,
    workers: int = 2,
    mapped: Mapped | None = None,
) -> Backtests:
    """Run every strategy over the bars before a day.

    Args:
        market: rows of one interval of `market.bars` or `market.bars_1m`, or of `market.closes` (orders then fill at
            the next close); what was not closed when `run_on` began is not looked at.
        run_on: day of the run.
        regimes: rows of `signals.regimes` of one interval, for the figures per regime: a bar counts to the regime
            known at its close, of its own symbol, or else of `market_series`.
        rules: run on each symbol and, with two and more, on all of one venue in one account.
        weights: rows of `portfolio.weights`, run by method in one account from the first day with weights on.
        adaptive: rows of `portfolio.adaptive_weights`, run likewise.
        market_series: symbol whose regimes count for accounts of several symbols, and for symbols without their own.
        costs: fees and slippage.
        curve_points: of each equity curve that become rows, at most.
        workers: threads; the rows do not depend on it.
        mapped: where the accounts are worked on instead; nor on this. Other forms than threads need rules that can be
            pickled.

    Returns:
        Rows of `portfolio.backtests` and `portfolio.backtest_equity`; and `strategy symbol@venue` that failed: a
        strategy that looks ahead, too few bars.

    Raises:
        BadRequestError: a missing column, bars or regimes of several intervals, or two rules of one name.
    """
    closes = "date" in market.columns and "ts" not in market.columns
    needs(market, ("venue", "symbol", *(("date", "close") if closes else ("ts", "ts_close", "close"))), _WHERE)
    for frame, what in ((market, "bars"), (regimes, "regimes")):
        if frame is not None and "interval" in frame.columns and frame["interval"].n_unique() > 1:
            raise BadRequestError(f"{what} of several intervals", where=_WHERE, hint="Filter them to one.")
    names = [_rule_name(rule) for rule in rules]
    if len(set(names)) < len(names) or curve_points < 2:
        raise BadRequestError(
            f"rules {', '.join(names)}; curve_points={curve_points}",
            where=_WHERE,
            hint="Give each rule once (or a `name` of its own), and 2 points or more.",
        )
    end = midnight(run_on)
    known = pl.col("date").cast(pl.Datetime("us", "UTC")) + pl.duration(days=1) if closes else pl.col("ts_close")
    rows = market.with_columns(pl.col("venue", "symbol").cast(pl.String)).drop_nulls("close").filter(known <= end)
    if "final" in rows.columns:
        rows = rows.filter("final")
    if rows.is_empty():
        return Backtests(rows_of(BACKTESTS, []), rows_of(BACKTEST_EQUITY, []), (("all", f"no bars before {run_on}"),))
    interval, length = _interval(rows, closes=closes)
    states = None if regimes is None else _known_regimes(regimes)
    cases: list[_BacktestCase] = []
    failed: list[tuple[str, str]] = []
    for (venue,), frame in rows.sort("venue", "symbol").group_by("venue", maintain_order=True):
        accounts = [(str(symbol), part) for (symbol,), part in frame.group_by("symbol", maintain_order=True)]
        if len(accounts) > 1:
            accounts.append((ALL_SYMBOLS, frame))
        for symbol, part in accounts:
            try:
                bars = Bars.from_closes(part) if closes else Bars.from_frame(part)
            except HfthotError as error:
                failed.append((series_name(symbol, str(venue)), str(error)))
                continue
            labels = None if states is None else _labels(states, bars, symbol, str(venue), market_series, length)
            cases += [
                _BacktestCase(
                    *(name, rule, _parameters(rule), str(venue), symbol),
                    *(bars, length, interval, labels, 8),
                )
                for name, rule in zip(names, rules, strict=True)
            ]
    for name, recorded in _recorded(weights, adaptive, run_on):
        try:
            cases.append(_of_weights(name, recorded, rows, states, market_series, interval, length, closes=closes))
        except HfthotError as error:
            failed.append((name, str(error)))

    results = (mapped or in_threads(workers))(partial(_run, costs=costs or Costs()), cases)
    figures: list[dict[str, Any]] = []
    curves: list[pl.DataFrame] = [rows_of(BACKTEST_EQUITY, [])]
    for case, result in zip(cases, results, strict=True):
        if isinstance(result, str):
            failed.append((f"{case.name} {series_name(case.symbol, case.venue)}", result))
            continue
        figures.append(_figures(case, result, run_on))
        curves.append(_curve(case, result, run_on, curve_points))
    return Backtests(rows_of(BACKTESTS, figures), pl.concat(curves), tuple(failed))


def _run(case: _BacktestCase, costs: Costs) -> BacktestResult | str:
    try:
        return backtest(case.strategy, case.bars, costs, regimes=case.regimes, causality_cuts=case.cuts)
    except HfthotError as error:
        return str(error)


# --- strategies -------------------------------------------------------------------------------------------------


def _rule_name(rule: Any) -> str:
    """Return the rule's kind: its parameters have a column of their own."""
    return type(rule).__name__ if is_dataclass(rule) else str(getattr(rule, "__name__", type(rule).__name__))


def _parameters(rule: Any) -> dict[str, Any]:
    kind = {"kind": "rule", "name": str(getattr(rule, "name", _rule_name(rule)))}
    return kind | asdict(rule) if is_dataclass(rule) and not isinstance(rule, type) else kind


def _recorded(
    weights: pl.DataFrame | None, adaptive: pl.DataFrame | None, run_on: date
) -> list[tuple[str, pl.DataFrame]]:
    """Return the recorded weights for days before the run, by name."""
    out: list[tuple[str, pl.DataFrame]] = []
    if weights is not None:
        needs(weights, ("date", "method", "venue", "symbol", "weight"), _WHERE)
        parts = weights.with_columns(pl.col("method").cast(pl.String)).sort("method")
        out += [(str(method), part) for (method,), part in parts.group_by("method", maintain_order=True)]
    if adaptive is not None:
        needs(adaptive, ("date", "venue", "symbol", "weight"), _WHERE)
        out.append((ADAPTIVE, adaptive))
    named = [(name, part.with_columns(pl.col("venue", "symbol").cast(pl.String))) for name, part in out]
    return [(name, part.filter(pl.col("date") < run_on)) for name, part in named]


def _of_weights(
    name: str,
    recorded: pl.DataFrame,
    rows: pl.DataFrame,
    states: pl.DataFrame | None,
    market_series: str | None,
    interval: str,
    length: int,
    *,
    closes: bool,
) -> _BacktestCase:
    """Return the account that follows recorded weights, from the last bar before their first day on."""
    if recorded.is_empty():
        raise DataError("no recorded weights before the run", where=_WHERE, hint="Materialise them first.")
    members = recorded.select("symbol", "venue").unique()
    held = rows.join(members, on=["symbol", "venue"], how="semi")
    first = midnight(recorded["date"].min())  # type: ignore[arg-type]  # of a date column that is not empty
    time = pl.col("date").cast(pl.Datetime("us", "UTC")) if closes else pl.col("ts")
    # One bar before the first day gives the first order.
    earlier = held.filter(time < first).select(time.max()).item()
    held = held.filter(time >= (earlier or first))
    bars = Bars.from_closes(held) if closes else Bars.from_frame(held)
    targets = _targets(bars, recorded)
    venues = sorted(set(members["venue"]))
    venue = venues[0] if len(venues) == 1 else ",".join(venues)
    labels = None if states is None else _labels(states, bars, ALL_SYMBOLS, venue, market_series, length)
    parameters = {"kind": "recorded", "table": "adaptive_weights" if name == ADAPTIVE else "weights"}
    return _BacktestCase(name, _Recorded(targets), parameters, venue, ALL_SYMBOLS, bars, length, interval, labels, 0)


def _targets(bars: Bars, recorded: pl.DataFrame) -> FloatArray:
    """Return the orders (T, N): a day's weights at the last bar before it; a symbol without one is sold.

    A weight that a decision did not change is not an order.
    """
    if "previous_weight" in recorded.columns:
        left = (pl.col("weight") == pl.col("previous_weight")) & (pl.col("weight") != 0)
        recorded = recorded.with_columns(weight=pl.when(left).then(float("nan")).otherwise("weight"))
    table = recorded.pivot("symbol", index="date", values="weight").sort("date")
    starts = table["date"].cast(pl.Datetime("us", "UTC")).to_physical().to_numpy()
    at = np.searchsorted(bars.times, starts) - 1
    out = np.full((len(bars), len(bars.symbols)), np.nan)
    values = np.zeros((table.height, len(bars.symbols)))
    for i, symbol in enumerate(bars.symbols):
        # NaN: left as it was; no row: sold.
        values[:, i] = table[symbol].cast(pl.Float64).fill_null(0.0).to_numpy()
    usable = at >= 0
    # Later days overwrite earlier ones that have the same last bar before them.
    out[at[usable]] = values[usable]
    return out


# --- regimes ----------------------------------------------------------------------------------------------------


def _interval(rows: pl.DataFrame, *, closes: bool) -> tuple[str, int]:
    if closes:
        return "close", interval_microseconds("1d", _WHERE)
    lengths = (rows["ts_close"].to_physical() - rows["ts"].to_physical()).unique()
    if "interval" in rows.columns:
        name = str(rows["interval"][0])
        return name, interval_microseconds(name, _WHERE)
    if lengths.len() > 1:
        raise BadRequestError("bars of several lengths", where=_WHERE, hint="Filter them to one interval.")
    minutes = int(lengths[0]) // MINUTE
    return f"{minutes}m", int(lengths[0])


def _known_regimes(regimes: pl.DataFrame) -> pl.DataFrame:
    """Return the name of each regime and when it was known."""
    needs(regimes, ("venue", "symbol", "interval", "ts", "regime", "identified"), _WHERE)
    length = interval_microseconds(str(regimes["interval"][0]), _WHERE) if regimes.height else 0
    # What a model calls trending that cannot tell it from mean-reverting is neither.
    told = pl.col("identified") | pl.col("regime").cast(pl.String).is_in([*QUIET, "volatile"])
    return regimes.select(
        pl.col("symbol", "venue").cast(pl.String),
        at=pl.col("ts") + pl.duration(microseconds=length),
        label=pl.when(told).then(pl.col("regime").cast(pl.String)).otherwise(pl.lit(UNIDENTIFIED)),
    ).sort("at")


def _labels(
    states: pl.DataFrame, bars: Bars, symbol: str, venue: str, market_series: str | None, length: int
) -> tuple[str, ...] | None:
    """Return the regime known at each bar's close; None for an account that has no series of regimes."""
    own = states.filter(pl.col("symbol") == symbol, pl.col("venue") == venue)
    if own.is_empty() and market_series is not None:
        own = states.filter(pl.col("symbol") == market_series)
        if own["venue"].n_unique() > 1:
            raise BadRequestError(
                f"regimes of {market_series} on {own['venue'].n_unique()} venues", where=_WHERE, hint="Filter to one."
            )
    if own.is_empty():
        return None
    closed = pl.DataFrame({"at": pl.Series(bars.times + length).cast(pl.Datetime("us", "UTC"))})
    found = closed.join_asof(own.select("at", "label"), on="at", strategy="backward", tolerance=_STALE)
    return tuple(found["label"].fill_null(UNKNOWN).to_list())


# --- rows -------------------------------------------------------------------------------------------------------


def _key(case: _BacktestCase, run_on: date) -> dict[str, Any]:
    return {
        "run_on": run_on,
        "strategy": case.name,
        "venue": case.venue,
        "symbol": case.symbol,
        "interval": case.interval,
    }


def _figures(case: _BacktestCase, result: BacktestResult, run_on: date) -> dict[str, Any]:
    times = pl.Series(result.times[[0, -1]]).cast(pl.Datetime("us", "UTC"))
    hold = result.average_hold
    by_regime = as_text(result.by_regime.to_dicts()) if case.regimes is not None else None
    return {
        **_key(case, run_on),
        **result.metrics(),
        "parameters": as_text({**case.parameters, "look_ahead": result.causality}),
        "symbols": len(result.symbols),
        "data_from": times[0],
        "data_until": times[1],
        "bars": len(result.times),
        "fee": result.costs.fee,
        "slippage": result.costs.slippage,
        "trips": int(result.trips["exited"].count()),
        "average_hold_hours": None if hold is None else hold / timedelta(hours=1),
        "ruined": result.ruined_at is not None,
        "by_regime": by_regime,
    }


def _curve(case: _BacktestCase, result: BacktestResult, run_on: date, points: int) -> pl.DataFrame:
    """Return the equity curve in at most so many stretches of equal length."""
    frame = result.frame().with_row_index("bar")
    bars_per_stretch = -(-frame.height // points)
    # Stretches end with the last bar, so that the curve does.
    first = (frame.height - 1) % bars_per_stretch
    stretch = (pl.col("bar").cast(pl.Int64) + bars_per_stretch - 1 - first) // bars_per_stretch
    thin = frame.group_by(stretch.alias("stretch"), maintain_order=True).agg(
        pl.col("ts", "equity").last(), pl.col("drawdown").min(), pl.col("turnover").sum()
    )
    key = [pl.lit(value).alias(name) for name, value in _key(case, run_on).items()]
    schema = rows_of(BACKTEST_EQUITY, []).schema
    return thin.select(*key, "ts", "equity", "drawdown", "turnover").select(schema.names()).cast(schema)
