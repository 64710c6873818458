"""Strategies: rules that follow trends or fade moves, and the adaptive pipeline that chooses between them.

What belongs here: from bars to target weights, with reasons.  What does not: the account (`backtest`), the models
that are asked (`regime`, `chiarella`, `portfolio`), tables.

**Rules** are `backtest.Strategy` functions of a score that compares a move with its own noise.  A position is opened
where the score exceeds `entry` and closed where it falls below `exit`; orders are given on changes only.

- `TrendFollowing` (time-series momentum; Moskowitz, Ooi and Pedersen 2012): sum of the last L log-returns over the
  root of the sum of their squares; N(0, 1) for a random walk.
- `MeanReversion`: minus the distance of the log-close from its mean over L bars, in standard deviations.

**The adaptive pipeline** (`decide`, `adaptive`), for each symbol at one bar:

1. Regime -> strategy: trending: momentum; mean_reverting: stat_arb; volatile: risk_off.  Where the regime model
   cannot tell trending from mean-reverting (calm, normal; or `identified` is false), or is not sure
   (`min_confidence`), the difference is not bet on: `neutral`.  A volatile regime needs no such distinction.
2. View: momentum takes the sign of the trend's score, stat_arb that of the reversion's score, if it reaches the rule's
   `entry` (`exit`, where the position is already held).  Chiarella's market,
   calibrated to the symbol's closes and order flow and started from the present price, gives the expected move over
   the horizon (the median, so that volatility alone is not a reason to buy; the exact law of what `chiarella.simulate`
   draws) and the impact of an order of 1/N of the capital.  Where the simulated market expects the opposite of the
   signal, there is no view.
3. Costs of a view: both ways, with impact.  Only a position that is already held may stay for less; sparse weights
   start from the moves net of costs, and CARA charges them on changes of weight.
4. Sizing, per strategy; each symbol with a view brings 1/N of the capital to its strategy's budget:
   momentum: sparse weights if the median costs exceed `high_cost_share` of the expected move, else risk parity over
   the signed returns; stat_arb: CARA (gamma 2) with leverage up to the budget; neutral: long-only risk parity;
   risk_off: nothing.
5. Volatility: if the volatility that all weights together would have had lately (exponentially weighted, half-life
   `volatility_half_life`) is above `volatility_target` a year, all weights are scaled down to it; never up, so that
   nothing is borrowed (Moreira and Muir 2017; Harvey et al. 2018).
6. Turnover: a change by less than a share `min_trade` of the position is not traded: with proportional costs it is
   best to leave a weight alone within a band (Davis and Norman 1990).  What is held is what the account holds after
   prices have moved, not the last target.

Every step leaves its figures and its reason in the decision's row, so a weight is explained by its row alone.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any, Final, Literal, NamedTuple

import numpy as np
import polars as pl

from hfthot_platform.core.arguments import choice, number, require_type, whole
from hfthot_platform.core.arrays import FloatArray
from hfthot_platform.core.compiled import compiled
from hfthot_platform.core.display import Displayed
from hfthot_platform.core.errors import BadRequestError, DataError, ModelError, NotConvergedError
from hfthot_platform.core.parallel import Mapped, in_threads
from hfthot_platform.core.time import DAY
from hfthot_platform.domain.market.panel import Bars
from hfthot_platform.domain.models import chiarella
from hfthot_platform.domain.models.backtest import Costs, held_weights
from hfthot_platform.domain.models.chiarella import ChiarellaParams
from hfthot_platform.domain.models.portfolio import Constraints, cara, estimate_moments, risk_parity, sparse
from hfthot_platform.domain.models.regime import QUIET, STRATEGIES, WalkForward, walk_forward

__all__ = [
    "DECISION_SCHEMA",
    "UNIDENTIFIED",
    "UNKNOWN",
    "Adaptive",
    "AdaptiveRules",
    "AdaptiveRun",
    "Decision",
    "FittedMarket",
    "MeanReversion",
    "SymbolRegime",
    "TrendFollowing",
    "adaptive",
    "decide",
    "fit_markets",
    "regime_labels",
]

_WHERE: Final = "models.strategy"
#: Rows that a result prints.
_SHOWN: Final = 10
#: The regime of a bar for which there is no model yet.
UNKNOWN: Final = "unknown"
#: The regime of a bar called trending or mean-reverting by a model that cannot tell the two apart.
UNIDENTIFIED: Final = "unidentified"


# --- rules ------------------------------------------------------------------------------------------------------


@compiled
def _trend_score(x: FloatArray, window: int, out: FloatArray) -> None:
    """Fill sum over root of the sum of squares of the last `window` differences of x (T,); NaN where too few."""
    total = 0.0
    for t in range(x.size):
        out[t] = np.nan
        if t >= window:
            if t % window == 0:
                # Summed afresh once per window, so that rounding does not pile up.
                total = 0.0
                for k in range(t - window + 1, t + 1):
                    total += (x[k] - x[k - 1]) ** 2
            else:
                total += (x[t] - x[t - 1]) ** 2 - (x[t - window] - x[t - window - 1]) ** 2
            out[t] = (x[t] - x[t - window]) / math.sqrt(total) if total > 1e-20 else 0.0


@compiled
def _distance(x: FloatArray, window: int, out: FloatArray) -> None:
    """Fill (x - mean) / standard deviation over the last `window` values of x (T,); NaN where too few."""
    first = second = origin = 0.0
    for t in range(x.size):
        out[t] = np.nan
        if t >= window - 1:
            if (t - window + 1) % window == 0:
                # Afresh once per window, about a nearby origin: sums of squares would lose their digits.
                origin = x[t]
                first = second = 0.0
                for k in range(t - window + 1, t + 1):
                    first += x[k] - origin
                    second += (x[k] - origin) ** 2
            else:
                new, old = x[t] - origin, x[t - window] - origin
                first += new - old
                second += new * new - old * old
            mean = first / window
            variance = (second - first * mean) / (window - 1)
            out[t] = (x[t] - origin - mean) / math.sqrt(variance) if variance > 1e-20 else 0.0


@compiled
def _positions(score: FloatArray, entry: float, leave: float, size: float, long_only: bool, out: FloatArray) -> None:  # noqa: FBT001
    """Fill orders (T,) from a score (T,): long at `entry`, short at -entry, flat once within `leave`; NaN elsewhere."""
    held, last = 0.0, np.nan
    for t in range(score.size):
        out[t] = np.nan
        s = score[t]
        if np.isnan(s):
            continue
        if held * s < leave * abs(held):
            held = 0.0
        if held == 0.0:
            if s >= entry:
                held = 1.0
            elif s <= -entry and not long_only:
                held = -1.0
        if held != last:
            out[t] = last = held
            out[t] = held * size


@dataclass(frozen=True)
class _ThresholdRule:
    """Trade a score with hysteresis.

    Attributes:
        lookback: L, bars.
        entry: score at which a position is opened.
        exit: score below which it is closed, below `entry`.
        size: gross exposure if every symbol has a position; each gets its equal part.
        long_only: take no short positions.
    """

    lookback: int
    entry: float
    exit: float = 0.0
    size: float = 1.0
    long_only: bool = False

    def __post_init__(self) -> None:
        """Refuse parameters out of their domain."""
        where = type(self).__name__
        whole(self.lookback, "lookback", where, least=2, most=1_000_000_000)
        number(self.entry, "entry", where, above=0.0)
        number(self.exit, "exit", where, least=0.0, below=self.entry)
        number(self.size, "size", where, above=0.0)
        if not isinstance(self.long_only, bool | np.bool_):
            raise BadRequestError(f"long_only = {self.long_only!r}", where=where, hint="Give True or False.")

    @property
    def name(self) -> str:
        """Return the rule with its parameters."""
        side = ", long only" if self.long_only else ""
        return f"{type(self).__name__}(lookback={self.lookback}, entry={self.entry:g}, exit={self.exit:g}{side})"

    def score(self, data: Bars) -> FloatArray:
        """Return the score, (T, N): positive speaks for a long position; NaN where there is none.

        A missing bar has none, and the window counts a symbol's own bars.

        Raises:
            BadRequestError: the data are not `Bars`.
        """
        _are_bars(data, self.name)
        out = np.full(data.close.shape, np.nan)
        for i in range(len(data.symbols)):
            present = ~np.isnan(data.close[:, i])
            x = np.log(data.close[present, i])
            column = np.empty(x.size)
            self._fill(x, column)
            out[present, i] = column
        return out

    def _fill(self, x: FloatArray, out: FloatArray) -> None:
        raise NotImplementedError

    def __call__(self, data: Bars) -> FloatArray:
        """Return the orders, (T, N)."""
        score = self.score(data)
        out = np.empty_like(score)
        size = self.size / score.shape[1]
        for i in range(score.shape[1]):
            column = np.empty(len(score))
            _positions(np.ascontiguousarray(score[:, i]), self.entry, self.exit, size, self.long_only, column)
            out[:, i] = column
        return out


@dataclass(frozen=True)
class TrendFollowing(_ThresholdRule):
    """Buy what rose and sell what fell by more than its noise; see the module for the score.

    Attributes:
        lookback: bars over which the move is taken.
        entry: score at which a position is opened; 1 is one standard deviation of a random walk's move.
        exit: score below which it is closed.
        size: gross exposure if every symbol has a position.
        long_only: take no short positions.
    """

    lookback: int = 100
    entry: float = 1.0

    def _fill(self, x: FloatArray, out: FloatArray) -> None:
        _trend_score(x, self.lookback, out)


@dataclass(frozen=True)
class MeanReversion(_ThresholdRule):
    """Buy what fell and sell what rose far from its own mean, until it is back; see the module for the score.

    Attributes:
        lookback: bars of the mean.
        entry: distance, in standard deviations, at which a position is opened.
        exit: distance below which it is closed.
        size: gross exposure if every symbol has a position.
        long_only: take no short positions.
    """

    lookback: int = 48
    entry: float = 2.0

    def _fill(self, x: FloatArray, out: FloatArray) -> None:
        _distance(x, self.lookback, out)
        np.negative(out, out=out)


def _are_bars(data: object, where: str) -> None:
    if not isinstance(data, Bars):
        raise BadRequestError(
            f"data of type {type(data).__name__}", where=where, hint="Give Bars, for example from Bars.from_frame."
        )


# --- regimes of bars --------------------------------------------------------------------------------------------


class SymbolRegime(NamedTuple):
    """What the pipeline wants to know of a regime; a `regime.RegimeUpdate` will do as well."""

    regime: str
    confidence: float
    identified: bool


def _log_returns(close: FloatArray) -> FloatArray:
    """Return log-returns (T,) of closes (T,), from bar to bar; NaN for the first and around missing bars."""
    return np.concatenate([[np.nan], np.diff(np.log(close))])


def regime_labels(
    data: Bars, *, start: int | None = None, refit_every: int | None = None, window: int = 5_000, seed: int = 0
) -> tuple[str, ...]:
    """Return the regime as known at each bar's close, walking forward: for `backtest(..., regimes=...)`.

    The returns are the mean over the symbols.  Bars before the first fit, and all of a series too short for one,
    are `unknown`; where a model cannot tell trending from mean-reverting beyond noise, quiet bars are `calm` or
    `normal`.

    Args:
        data: bars.
        start: bar of the first fit; a quarter of the data, between 300 and 2,000 bars, by default.
        refit_every: bars between fits; a tenth of the data, at least 250, by default.
        window: bars that a fit sees.
        seed: of the fits.

    Raises:
        BadRequestError: an argument out of its domain.
        DataError: a series cannot carry a regime model (constant prices, say).
        NotConvergedError: a fit failed.
    """
    where = f"{_WHERE}.regime_labels"
    _are_bars(data, where)
    for name, value in (("start", start), ("refit_every", refit_every), ("window", window)):
        if value is not None:
            whole(value, name, where, least=1)
    whole(seed, "seed", where, least=0)
    size = len(data)
    first = min(max(300, size // 4), 2_000) if start is None else start
    if first >= size:
        return (UNKNOWN,) * size
    moves = np.concatenate([np.full((1, len(data.symbols)), np.nan), np.diff(np.log(data.close), axis=0)])
    present = ~np.isnan(moves)
    mean = np.divide(
        np.where(present, moves, 0.0).sum(axis=1),
        present.sum(axis=1),
        out=np.full(size, np.nan),
        where=present.any(axis=1),
    )
    every = max(250, size // 10) if refit_every is None else refit_every
    found = walk_forward(
        mean, start=first, refit_every=every, window=window, allow_missing=True, seed=seed, n_restarts=4
    )
    pairs = zip(found.regime.tolist(), found.model.tolist(), strict=True)
    return tuple(found.models[m].names[k] if k >= 0 else UNKNOWN for k, m in pairs)


# --- the simulated market ---------------------------------------------------------------------------------------


@dataclass(frozen=True)
class FittedMarket:
    """Chiarella's market of one symbol, fitted to the bars up to one time.

    Attributes:
        params: at that time, in log-prices and bars.
        fitted_at: open time of the last bar seen, microseconds since 1970 UTC.
        uncertainty: variance of the fundamental value.
        impact_known: whether the order flow identified the impact.
        warnings: what the data could not tell.
    """

    params: ChiarellaParams
    fitted_at: int
    uncertainty: float
    impact_known: bool
    warnings: tuple[str, ...]


def fit_markets(
    data: Bars, *, window: int = 250, seed: int = 0, workers: int = 1
) -> dict[str, FittedMarket | ModelError]:
    """Calibrate one market per symbol to its last closes, and to its order flow where takers' volume is known.

    Args:
        data: bars.
        window: closes, at least 100.
        seed: of the optimiser.
        workers: threads.

    Returns:
        By symbol, the market, or the error that says why there is none.

    Raises:
        BadRequestError: an argument out of its domain.
    """
    where = f"{_WHERE}.fit_markets"
    _are_bars(data, where)
    whole(window, "window", where, least=100)
    whole(seed, "seed", where, least=0)
    whole(workers, "workers", where, least=1, most=1_000)

    def one(i: int) -> FittedMarket | ModelError:
        here = np.flatnonzero(~np.isnan(data.close[:, i]))[-window:]
        flow = _order_flow(data, i, here)
        try:
            if here.size < 100:
                raise DataError(
                    f"{here.size} closes of {data.symbols[i]}", where=f"{_WHERE}.fit_markets", hint="100 are needed."
                )
            found = chiarella.calibrate(np.log(data.close[here, i]), flow, seed=seed)
        except ModelError as error:
            return error
        impact = found.estimates.get("impact")
        known = impact is not None and impact.identified
        end = int(data.times[here[-1]])
        return FittedMarket(found.params, end, found.fundamental_deviation**2, known, found.warnings)

    with ThreadPoolExecutor(workers) as pool:
        return dict(zip(data.symbols, pool.map(one, range(len(data.symbols))), strict=True))


def _order_flow(data: Bars, i: int, here: Any) -> FloatArray | None:
    """Return takers' net volume from each close to the next, in shares of the average daily volume, or None."""
    if data.buy_volume is None:
        return None
    bought, volume = data.buy_volume[here, i], data.volume[here, i]
    average = _daily_volume(data, i, here)
    if not np.isfinite(bought).all() or not average > 0:
        return None
    flow = (2.0 * bought - volume)[1:] / average
    return flow if np.ptp(flow) > 0 else None


def _daily_volume(data: Bars, i: int, here: Any) -> float:
    days = np.unique(data.times[here] // DAY).size
    return float(data.volume[here, i].sum()) / days if days else 0.0


def market_now(market: FittedMarket, data: Bars, i: int) -> ChiarellaParams:
    """Return the market at the last bar: its fundamental value filtered on with the closes since it was fitted.

    The filter is that of the calibration: p_(t+1) - p_t = a (F_t - p_t) + c (p_t - p_(t-1)) + e, F a random walk.
    """
    params = market.params
    a, c, deviation = params.coefficients()
    price, before, value = params.start
    spread = market.uncertainty
    since = np.flatnonzero((data.times > market.fitted_at) & ~np.isnan(data.close[:, i]))
    for new in np.log(data.close[since, i]).tolist():
        scale = a * a * spread + deviation**2
        gain = a * spread / scale if scale > 0 else 0.0
        surprise = new - price - c * (price - before) - a * (value - price)
        value += gain * surprise + params.fundamental_drift
        spread = spread * (1.0 - gain * a) + params.fundamental_volatility**2
        before, price = price, new
    return replace(params, price=price, previous_price=before, fundamental=value)


# --- one decision -----------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class AdaptiveRules:
    """How the pipeline decides; times in bars.

    Attributes:
        window: history of covariances and calibrations.
        horizon: over which a view is held against its costs.
        every: between decisions.
        refit_every: between fits of regime models and markets.
        warm_up: before the first decision.
        observation: model of the regimes, see `regime.fit_regimes`.
        min_confidence: of the regime, below which no bet is made on it.
        high_cost_share: costs over expected move above which costs are high.
        gamma: risk aversion of CARA. rho: penalty of the sparse weights.
        min_trade: least change of weight that is traded, as a share of the position.
        volatility_target: of all weights together, a year, above which they are scaled down; None for none.
        volatility_half_life: memory of that volatility, in bars.
        trend: score, entry and exit of momentum. reversion: those of stat_arb.
    """

    window: int = 250
    horizon: int = 5
    every: int = 5
    refit_every: int = 125
    warm_up: int = 500
    observation: Literal["ar1", "gaussian", "multivariate", "auto"] = "auto"
    min_confidence: float = 0.6
    high_cost_share: float = 0.5
    gamma: float = 2.0
    rho: float = 0.05
    min_trade: float = 0.2
    volatility_target: float | None = 0.1
    volatility_half_life: float = 20.0
    trend: TrendFollowing = field(default_factory=lambda: TrendFollowing(lookback=60))
    reversion: MeanReversion = field(default_factory=lambda: MeanReversion(lookback=20))

    def __post_init__(self) -> None:
        """Refuse lengths that cannot work together and shares out of range."""
        where = "AdaptiveRules"
        whole(self.window, "window", where, least=100, most=10_000_000)
        whole(self.warm_up, "warm_up", where, least=max(self.window, 200), most=1_000_000_000)
        for name in ("horizon", "every", "refit_every"):
            whole(getattr(self, name), name, where, least=1, most=1_000_000_000)
        choice(self.observation, "observation", where, ("ar1", "gaussian", "multivariate", "auto"))
        number(self.min_confidence, "min_confidence", where, least=0.0, most=1.0)
        number(self.high_cost_share, "high_cost_share", where, above=0.0)
        number(self.gamma, "gamma", where, above=0.0)
        number(self.rho, "rho", where, least=0.0, below=1.0)
        number(self.min_trade, "min_trade", where, least=0.0, below=1.0)
        number(self.volatility_half_life, "volatility_half_life", where, above=0.0)
        if self.volatility_target is not None:
            number(self.volatility_target, "volatility_target", where, above=0.0)
        require_type(self.trend, TrendFollowing, "trend", where)
        require_type(self.reversion, MeanReversion, "reversion", where)
        if max(self.trend.lookback, self.reversion.lookback) >= self.window:
            raise BadRequestError(
                f"window = {self.window}",
                where=where,
                hint=f"It must be above the lookbacks, {self.trend.lookback} and {self.reversion.lookback}.",
            )


#: Columns of the rows that explain a decision.
DECISION_SCHEMA: Final[dict[str, Any]] = {
    "day": pl.Date,
    "ts": pl.Datetime("us", "UTC"),
    "symbol": pl.String,
    "regime": pl.String,
    "confidence": pl.Float64,
    "identified": pl.Boolean,
    "strategy": pl.String,
    "signal": pl.Float64,
    "expected_return": pl.Float64,
    "expected_deviation": pl.Float64,
    "cost": pl.Float64,
    "impact": pl.Float64,
    "method": pl.String,
    "budget": pl.Float64,
    "weight": pl.Float64,
    "previous_weight": pl.Float64,
    "reason": pl.String,
}


@dataclass(frozen=True, eq=False, repr=False)
class Decision(Displayed):
    """Target weights at one bar and why.

    Attributes:
        symbols: (N,). weights: (N,), shares of the capital, short ones negative; the rest is cash.
        orders: (N,), the same with NaN where the weight is left as it is.
        rows: one per symbol, columns `DECISION_SCHEMA`: `day` and `ts` of the last bar seen; `signal`, the score of
            the strategy's rule; `expected_return` and `expected_deviation`, of the simulated market over the horizon,
            null without a market; `cost`, of opening and closing, impact included; `impact`, of this order on the
            price, null where unknown; `budget`, of the strategy as a share of the capital.
    """

    symbols: tuple[str, ...]
    weights: FloatArray
    orders: FloatArray
    rows: pl.DataFrame

    def __str__(self) -> str:
        gross = float(np.abs(self.weights).sum())
        lines = [f"Decision for {len(self.symbols):,} symbols, {gross:.1%} of the capital held"]
        if self.rows.height:
            lines[0] += f", after the bar of {self.rows['ts'][0]:%Y-%m-%d %H:%M}"
        for row, order in zip(self.rows.head(_SHOWN).iter_rows(named=True), self.orders, strict=False):
            action = "left" if math.isnan(order) else "ordered"
            sure = "" if row["confidence"] is None else f" ({row['confidence']:.0%})"
            lines.append(
                f"  {row['symbol']:<15} {row['weight']:+8.2%} {action:<8} {row['regime']}{sure}, "
                f"{row['strategy']}: {row['reason']}"
            )
        if self.rows.height > _SHOWN:
            lines.append(f"  and {self.rows.height - _SHOWN:,} more")
        return "\n".join(lines)

    def to_frame(self) -> pl.DataFrame:
        """Return `rows`, one per symbol."""
        return self.rows


@dataclass
class _DecisionCase:
    """What is known of one symbol while its decision is made."""

    regime: SymbolRegime
    strategy: str
    why: list[str]
    signal: float = math.nan
    move: float = math.nan
    deviation: float = math.nan
    net: float = 0.0
    cost: float = math.nan
    unit_impact: float = math.nan
    share: float = math.nan
    in_book: bool = False
    method: str = "none"
    budget: float = 0.0


def decide(
    data: Bars,
    regimes: Mapping[str, SymbolRegime],
    markets: Mapping[str, FittedMarket | ModelError],
    *,
    costs: Costs | None = None,
    rules: AdaptiveRules | None = None,
    previous: Mapping[str, float] | None = None,
    capital: float | None = None,
    seed: int = 0,
) -> Decision:
    """Decide on weights at the last bar of the data; see the module for the steps.

    Args:
        data: bars up to the decision and no further.
        regimes: by symbol, as known at the last close; a symbol without one gets no weight.
        markets: by symbol, from `fit_markets` at the last bar or earlier.
        costs: fees and slippage.
        rules: how to decide.
        previous: weights held now, after prices have moved (see `backtest.held_weights`), by symbol; nothing by
            default.
        capital: in units of the quote, for impact; without it impact is unknown and not charged.
        seed: of the simulation of impact.

    Raises:
        BadRequestError: an argument out of its domain, such as a weight held that is not a number.
        DataError: fewer bars than the window.
        NotConvergedError: a portfolio could not be solved.
    """
    rules, costs, held = _checked_settings(rules, costs, previous, capital, seed, f"{_WHERE}.decide")
    _are_bars(data, f"{_WHERE}.decide")
    parts: tuple[tuple[str, Any, Any], ...] = (
        ("regimes", regimes, SymbolRegime | None),
        ("markets", markets, FittedMarket | ModelError | None),
    )
    for name, given, kind in parts:
        require_type(given, Mapping, name, f"{_WHERE}.decide")
        for symbol, value in given.items():
            require_type(value, kind, f"{name}[{symbol!r}]", f"{_WHERE}.decide")
    if len(data) < rules.window + 1:
        raise DataError(f"{len(data)} bars", where=f"{_WHERE}.decide", hint=f"Give {rules.window + 1} or more.")
    recent = data.tail(rules.window + 1)
    scores = {"momentum": rules.trend.score(recent)[-1], "stat_arb": rules.reversion.score(recent)[-1]}
    returns, enough = _history(data, rules.window)
    cases = []
    for i, symbol in enumerate(data.symbols):
        case = _strategy_of(regimes.get(symbol), rules)
        if case.strategy != "none" and not enough[i]:
            case.strategy = "none"
            case.why.append(f"fewer than 95 % of the last {rules.window} bars are present: no weight")
        if case.strategy in scores:
            case.signal = float(scores[case.strategy][i])
        if case.strategy != "none":
            _simulate(case, data, i, markets.get(symbol), rules, capital, seed)
            _form_view(case, costs, held.get(symbol, 0.0), rules)
        cases.append(case)
    weights = _to_target(_sized_weights(cases, returns, enough, held, data.symbols, rules), cases, data, rules)
    before = np.array([held.get(symbol, 0.0) for symbol in data.symbols])
    band = rules.min_trade * np.maximum(np.abs(weights), np.abs(before))
    small = (np.abs(weights - before) < band) & (before != 0) & (weights != 0)
    small &= np.sign(weights) == np.sign(before)
    for k in np.flatnonzero(small).tolist():
        cases[k].why.append(f"the weight asked for, {weights[k]:+.2%}, is too near the one held: left as it is")
    weights = np.where(small, before, weights)
    orders = np.where(small | ((weights == 0) & (before == 0)), np.nan, weights)
    return Decision(data.symbols, weights, orders, _decision_rows(data, cases, weights, before, capital))


def _checked_settings(
    rules: AdaptiveRules | None,
    costs: Costs | None,
    previous: Mapping[str, float] | None,
    capital: float | None,
    seed: int,
    where: str,
) -> tuple[AdaptiveRules, Costs, Mapping[str, float]]:
    """Return the settings of a decision, checked, with their defaults."""
    require_type(rules, AdaptiveRules | None, "rules", where)
    require_type(costs, Costs | None, "costs", where)
    require_type(previous, Mapping | None, "previous", where)
    for symbol, weight in (previous or {}).items():
        number(weight, f"previous weight of {symbol}", where)
    if capital is not None:
        number(capital, "capital", where, above=0.0)
    whole(seed, "seed", where, least=0)
    return rules or AdaptiveRules(), costs or Costs(), previous or {}


def _to_target(weights: FloatArray, cases: list[_DecisionCase], data: Bars, rules: AdaptiveRules) -> FloatArray:
    """Return the weights (N,), scaled down if together they are more volatile than the target."""
    held = np.flatnonzero(weights)
    if rules.volatility_target is None or not held.size:
        return weights
    moves = np.diff(np.log(data.close[-rules.window - 1 :, held]), axis=0)
    moves = moves[~np.isnan(moves).any(axis=1)] @ weights[held]
    weight = 0.5 ** (np.arange(moves.size - 1, -1, -1) / rules.volatility_half_life)
    variance = float(weight @ moves**2) / float(weight.sum())
    volatility = math.sqrt(variance * data.bars_per_year)
    if volatility <= rules.volatility_target:
        return weights
    scale = rules.volatility_target / volatility
    for i in held.tolist():
        cases[i].why.append(
            f"volatility of all weights {volatility:.0%} a year, scaled to {rules.volatility_target:.0%}: x {scale:.2f}"
        )
    return weights * scale


def _history(data: Bars, window: int) -> tuple[FloatArray, Any]:
    """Return log-returns of the last `window` bars, without the bars that any kept symbol lacks, and who is kept.

    (T, N) with NaN columns for symbols that are not kept, and (N,).
    """
    close = data.close[-window - 1 :]
    moves = np.diff(np.log(close), axis=0)
    enough = (np.isnan(moves).mean(axis=0) <= 0.05) & ~np.isnan(close[-1])
    enough &= np.where(np.isnan(moves), 0.0, np.abs(moves)).sum(axis=0) > 0
    return moves[~np.isnan(moves[:, enough]).any(axis=1)], enough


def _strategy_of(found: SymbolRegime | None, rules: AdaptiveRules) -> _DecisionCase:
    """Name the strategy of a regime."""
    unknown = SymbolRegime(UNKNOWN, 0.0, identified=False)
    if found is None or found.regime not in {*STRATEGIES, *QUIET, UNIDENTIFIED}:
        return _DecisionCase(unknown, "none", ["no regime is known yet: no weight"])
    try:
        confidence = float(found.confidence)
    except (TypeError, ValueError):
        confidence = math.nan
    if not 0.0 <= confidence <= 1.0 + 1e-9:
        # Comparisons with NaN are false: it must not slip past the gate below.
        return _DecisionCase(unknown, "none", [f"the regime's confidence is {found.confidence!r}: no weight"])
    told = bool(found.identified) and found.regime in STRATEGIES
    name = found.regime if told or found.regime in {*QUIET, "volatile"} else UNIDENTIFIED
    regime = SymbolRegime(name, confidence, bool(found.identified))
    said = f"{regime.regime} with confidence {regime.confidence:.0%}"
    if regime.confidence < rules.min_confidence:
        return _DecisionCase(regime, "neutral", [f"{said}, below {rules.min_confidence:.0%}: no bet on the regime"])
    if regime.regime != "volatile" and not told:
        return _DecisionCase(
            regime, "neutral", [f"{said}; trending and mean-reverting are not told apart: no bet on it"]
        )
    return _DecisionCase(regime, STRATEGIES[regime.regime], [said])


def _simulate(
    case: _DecisionCase,
    data: Bars,
    i: int,
    market: FittedMarket | ModelError | None,
    rules: AdaptiveRules,
    capital: float | None,
    seed: int,
) -> None:
    """Ask the simulated market for the expected move and for the impact of an order of 1/N of the capital."""
    if not isinstance(market, FittedMarket):
        case.why.append(f"no simulated market ({market.what if market else 'not fitted'})")
        return
    params = market_now(market, data, i)
    law = chiarella.forecast(params, rules.horizon)
    case.move = math.expm1(float(law.mean[-1]) - params.price)
    case.deviation = float(law.deviation[-1])
    if capital is None or not market.impact_known:
        return
    here = np.flatnonzero(~np.isnan(data.close[:, i]))[-rules.window :]
    daily = _daily_volume(data, i, here) * float(data.close[here[-1], i])
    case.share = capital / len(data.symbols) / daily if daily > 0 else math.nan
    if math.isfinite(case.share):
        # The model is linear, so two paths on the same random numbers give the impact exactly.
        impact = chiarella.order_impact(
            params, case.share, execution_steps=1, n_paths=2, n_steps=rules.horizon, seed=seed
        )
        case.unit_impact = abs(impact.slippage)


def _form_view(case: _DecisionCase, costs: Costs, held: float, rules: AdaptiveRules) -> None:
    """Form the view: direction from the signal, confirmed by the simulated market, net of costs."""
    impact = 0.0 if math.isnan(case.unit_impact) else case.unit_impact
    case.cost = costs.buy + costs.sell + 2.0 * impact
    if case.strategy == "risk_off":
        case.why.append("volatile: out of the market")
        return
    if case.strategy == "neutral":
        case.in_book = True
        return
    if not math.isfinite(case.signal) or case.signal == 0:
        case.why.append("no signal: no view")
        return
    side = math.copysign(1.0, case.signal)
    keeping = held * side > 0
    rule: _ThresholdRule = rules.trend if case.strategy == "momentum" else rules.reversion
    least = rule.exit if keeping else rule.entry
    if abs(case.signal) < least:
        case.why.append(f"signal {case.signal:+.2f} within {least:g}: no view")
        return
    case.why.append(f"signal {case.signal:+.2f}")
    if math.isnan(case.move):
        case.why.append("no view without an expected price")
        return
    expected = f"simulated market expects {case.move:+.2%} (± {case.deviation:.2%}) in {rules.horizon} bars"
    if case.move * side <= 0:
        case.why.append(f"{expected}, against the signal: no view")
        return
    case.why.append(expected)
    case.net = case.move if keeping else side * max(abs(case.move) - case.cost, 0.0)
    share = case.cost / abs(case.move)
    case.why.append(f"costs {case.cost:.2%} are {share:.0%} of it" + (", position already held" if keeping else ""))
    if case.net == 0:
        case.why.append("nothing left after costs: no view")
        return
    case.in_book = True


def _sized_weights(
    cases: list[_DecisionCase],
    returns: FloatArray,
    enough: Any,
    held: Mapping[str, float],
    symbols: tuple[str, ...],
    rules: AdaptiveRules,
) -> FloatArray:
    """Return the weights (N,), strategy by strategy."""
    n = len(cases)
    weights = np.zeros(n)
    if not any(case.in_book for case in cases):
        return weights
    # Columns of the kept symbols only, over the horizon: returns of bars add up.
    covariance = np.full((n, n), np.nan)
    kept = np.flatnonzero(enough)
    covariance[np.ix_(kept, kept)] = estimate_moments(returns[:, kept], mean="zero").covariance * rules.horizon
    for strategy in ("momentum", "stat_arb", "neutral"):
        book = [i for i, case in enumerate(cases) if case.in_book and case.strategy == strategy]
        if not book:
            continue
        budget = len(book) / n
        S = covariance[np.ix_(book, book)]
        mu = np.array([cases[i].net for i in book])
        before = np.array([held.get(symbols[i], 0.0) for i in book])
        if strategy == "neutral":
            method, why = "risk_parity", "no view: risk parity, long only"
            found = budget * risk_parity(S).weights
        elif strategy == "stat_arb":
            method, why = "cara", f"mean reversion: CARA, gamma {rules.gamma:g}"
            limits = Constraints(-budget, budget, budget=None, leverage=budget)
            # CARA charges costs itself, on changes of weight: it gets the whole move.
            whole = np.array([cases[i].move for i in book])
            cost = float(np.median([cases[i].cost for i in book]))
            found = cara(whole, S, rules.gamma, constraints=limits, previous=before, cost=cost).weights
            found = np.where(np.abs(found) < 1e-6, 0.0, found)
        else:
            share = float(np.median([cases[i].cost / abs(cases[i].move) for i in book]))
            sides = np.sign(mu)
            if share > rules.high_cost_share:
                method, why = "sparse", f"high costs ({share:.0%} of the expected move): sparse, rho {rules.rho:g}"
                found = budget * sparse(mu, S, rules.rho).weights
            else:
                method, why = "risk_parity", f"low costs ({share:.0%} of the expected move): risk parity"
                found = budget * sides * risk_parity(S * np.outer(sides, sides)).weights
        for i, weight in zip(book, found, strict=True):
            weights[i] = weight
            cases[i].method, cases[i].budget = method, budget
            cases[i].why.append(f"{why} over {len(book)} of {n} symbols with {budget:.0%} of the capital")
    return weights


def _decision_rows(
    data: Bars, cases: list[_DecisionCase], weights: FloatArray, before: FloatArray, capital: float | None
) -> pl.DataFrame:
    ts = int(data.times[-1])
    n = len(cases)
    rows = []
    for symbol, case, weight, was in zip(data.symbols, cases, weights.tolist(), before.tolist(), strict=True):
        # Impact is proportional to the order; it was simulated for 1/N of the capital.
        order = (weight - was) * n
        impact = case.unit_impact * order
        if math.isfinite(case.share) and order != 0:
            case.why.append(f"the order is {abs(order) * case.share:.2%} of the daily volume")
        elif capital is not None and case.in_book:
            case.why.append("impact unknown: no usable order flow")
        rows.append(
            (
                *(ts // DAY, ts, symbol, case.regime.regime, case.regime.confidence, case.regime.identified),
                *(case.strategy, case.signal, case.move, case.deviation, case.cost, impact, case.method, case.budget),
                *(weight, was, "; ".join(case.why)),
            )
        )
    frame = pl.DataFrame(rows, schema=list(DECISION_SCHEMA), orient="row")
    return frame.cast(pl.Schema(DECISION_SCHEMA)).with_columns(pl.selectors.float().fill_nan(None))


# --- walking forward --------------------------------------------------------------------------------------------


@dataclass(frozen=True, eq=False, repr=False)
class AdaptiveRun(Displayed):
    """The pipeline's decisions over a history.

    Attributes:
        targets: orders, (T, N), NaN where there is none.
        decisions: rows of all decisions, columns `DECISION_SCHEMA`.
    """

    targets: FloatArray
    decisions: pl.DataFrame

    def __str__(self) -> str:
        bars, width = self.targets.shape
        orders = int((~np.isnan(self.targets)).sum())
        return f"Adaptive run over {bars:,} bars of {width:,} symbols: {orders:,} orders\n{self.decisions.head(_SHOWN)}"

    def to_frame(self) -> pl.DataFrame:
        """Return `decisions`, one row per decision and symbol."""
        return self.decisions


def adaptive(
    data: Bars,
    *,
    costs: Costs | None = None,
    rules: AdaptiveRules | None = None,
    capital: float | None = None,
    seed: int = 0,
    workers: int = 1,
    mapped: Mapped | None = None,
) -> AdaptiveRun:
    """Walk the pipeline forward: at each bar it knows that bar and the ones before, and nothing else.

    Args:
        data: bars. costs: fees and slippage. rules: how to decide. capital: see `decide`. seed: of everything.
        workers: threads for regime models and calibrations; the result does not depend on it.
        mapped: where the regime models are walked forward instead; nor on this.

    Raises:
        BadRequestError: an argument out of its domain.
        DataError: no more bars than the warm-up.
        NotConvergedError: a portfolio could not be solved.
    """
    where = f"{_WHERE}.adaptive"
    _are_bars(data, where)
    rules, costs, _ = _checked_settings(rules, costs, None, capital, seed, where)
    whole(workers, "workers", where, least=1, most=1_000)
    T, n = data.close.shape
    if rules.warm_up >= T:
        raise DataError(f"{T} bars", where=f"{_WHERE}.adaptive", hint=f"More than warm_up={rules.warm_up} are needed.")
    walk = partial(_walk_forward_regimes, rules=rules, seed=seed)
    regimes = (mapped or in_threads(workers))(walk, [data.close[:, i] for i in range(n)])
    targets = np.full((T, n), np.nan)
    markets: dict[str, FittedMarket | ModelError] = {}
    fitted = -rules.refit_every
    rows = []
    for t in range(rules.warm_up, T, rules.every):
        past = data.head(t + 1)
        if t - fitted >= rules.refit_every:
            markets, fitted = fit_markets(past, window=rules.window, seed=seed, workers=workers), t
        now = {
            symbol: found for symbol, walk in zip(data.symbols, regimes, strict=True) if (found := _regime_at(walk, t))
        }
        # What the account holds now: what was ordered, executed and moved by the prices since.
        held = dict(zip(data.symbols, held_weights(past, targets[: t + 1], costs).tolist(), strict=True))
        decision = decide(past, now, markets, costs=costs, rules=rules, previous=held, capital=capital, seed=seed)
        targets[t] = decision.orders
        if t == rules.warm_up:
            # The first decision is one even where it is to hold nothing.
            targets[t] = decision.weights
        rows.append(decision.rows)
    return AdaptiveRun(targets, pl.concat(rows))


def _walk_forward_regimes(close: FloatArray, rules: AdaptiveRules, seed: int) -> tuple[int, WalkForward] | None:
    """Return the walk-forward regimes of a symbol and the bar that they start at, or None without a model."""
    y = _log_returns(close)
    present = ~np.isnan(y)
    first = int(present.argmax())
    if not present.any() or len(y) - first < rules.warm_up:
        return None
    # The first fit sees as many returns as the warm-up of a symbol that was there from the start.
    try:
        found = walk_forward(
            y[first:],
            start=rules.warm_up - 1,
            refit_every=rules.refit_every,
            allow_missing=True,
            observation=rules.observation,
            n_restarts=4,
            seed=seed,
        )
    except (DataError, NotConvergedError):
        return None
    return first, found


def _regime_at(walk: tuple[int, WalkForward] | None, t: int) -> SymbolRegime | None:
    if walk is None or t < walk[0] or walk[1].regime[t - walk[0]] < 0:
        return None
    first, found = walk
    k = int(found.regime[t - first])
    model = found.models[int(found.model[t - first])]
    return SymbolRegime(model.names[k], float(found.probabilities[t - first, k]), model.identified)


@dataclass(frozen=True)
class Adaptive:
    """The pipeline as a `backtest.Strategy`; arguments as for `adaptive`.

    It takes seconds to minutes, so give `backtest` few `causality_cuts`, or none where its test has run.
    """

    rules: AdaptiveRules = field(default_factory=AdaptiveRules)
    costs: Costs = field(default_factory=Costs)
    capital: float | None = None
    seed: int = 0
    workers: int = 1
    name: str = "Adaptive"

    def __call__(self, data: Bars) -> FloatArray:
        """Return the orders, (T, N)."""
        run = adaptive(
            data, costs=self.costs, rules=self.rules, capital=self.capital, seed=self.seed, workers=self.workers
        )
        return run.targets
