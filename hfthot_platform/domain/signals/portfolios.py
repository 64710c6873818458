"""Target weights day by day: three portfolios from closes, and the adaptive pipeline's decisions.

What goes here: the history that each day may see, and results as rows of `portfolio.weights` and
`portfolio.adaptive_weights`.  What stays out: the models and the rules of the decision.

A day's weights come from closes and bars of earlier days alone, so a later row changes nothing and a day can be
computed again at any time.  Only turnover, and the adaptive pipeline's habit of leaving small changes alone, look at
the weights of the day before: pass these for the first day.  The pipeline sees them as the account holds them by now,
moved by the prices since.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import date, datetime, timedelta
from typing import Any, Final, NamedTuple

import polars as pl

from hfthot_platform.core.errors import BadRequestError, DataError, ModelError, nearest
from hfthot_platform.core.intervals import interval_microseconds
from hfthot_platform.core.time import Days, midnight, moment
from hfthot_platform.domain.contracts.portfolio import ADAPTIVE_WEIGHTS, METHODS, WEIGHTS
from hfthot_platform.domain.market.calendar import trading_days
from hfthot_platform.domain.market.panel import Bars
from hfthot_platform.domain.models.backtest import Costs
from hfthot_platform.domain.models.portfolio import (
    Allocation,
    MeanVariance,
    Moments,
    align_returns,
    estimate_moments,
    risk_parity,
    sparse,
)
from hfthot_platform.domain.models.strategy import (
    UNKNOWN,
    AdaptiveRules,
    FittedMarket,
    SymbolRegime,
    decide,
    fit_markets,
)
from hfthot_platform.domain.signals.contract_rows import needs, rows_of, series_name
from hfthot_platform.domain.signals.regimes import Failed

__all__ = ["Weights", "adaptive_rows", "weight_rows"]

#: A series without a close for so many days is no longer held; exchanges were shut for six at most.
_SILENT_DAYS: Final = 10


class Weights(NamedTuple):
    """Rows of a contract without partition column and version, and what has no weight (a series, a method), why."""

    rows: pl.DataFrame
    failed: Failed


class _Failures:
    """What failed on which days, told once per subject rather than once per day."""

    def __init__(self) -> None:
        self._days: dict[str, list[date]] = {}
        self._last: dict[str, str] = {}

    def add(self, day: date, subject: str, reason: str) -> None:
        self._days.setdefault(subject, []).append(day)
        self._last[subject] = reason

    def told(self) -> Failed:
        out = []
        for subject, days in sorted(self._days.items()):
            when = f"{days[0]}" if len(days) == 1 else f"{len(days)} days, {days[0]} to {days[-1]}"
            out.append((subject, f"{when}: {self._last[subject]}"))
        return tuple(out)


# --- three portfolios -------------------------------------------------------------------------------------------


def weight_rows(
    closes: pl.DataFrame,
    days: Days,
    *,
    previous: pl.DataFrame | None = None,
    methods: Sequence[str] = METHODS,
    window_days: int = 504,
    least_days: int = 60,
    gamma: float = 2.0,
    rho: float = 0.05,
) -> Weights:
    """Compute the portfolios of each day on which the market trades.

    Moments of daily simple returns over the window before the day: Ledoit-Wolf covariance, Bayes-Stein means.
    `cara`: long-only, fully invested, risk aversion gamma; `risk_parity`: equal contributions, long-only; `sparse`:
    long-short with sum |w| = 1 and penalty rho.  A symbol has a weight if it has the last close before the day, and
    95 % of the window's.

    Args:
        closes: rows of `market.closes` of one kind of calendar; those on the day or later are not looked at.
        days: from a first to before a second.
        previous: rows of `portfolio.weights` before the first day, for its turnover; nothing was held by default.
        methods: of cara, risk_parity, sparse.
        window_days: returns that the moments come from, at most.
        least_days: returns without which there are no weights.
        gamma: risk aversion. rho: penalty.

    Returns:
        Rows of `portfolio.weights`; and the symbols left out, and the methods or days that failed, with the reason.

    Raises:
        BadRequestError: an unknown method, a missing column, a window too short, markets of different calendars, or a
            symbol on two venues.
    """
    where = "signals.weight_rows"
    needs(closes, ("date", "venue", "symbol", "close"), where)
    unknown = [name for name in methods if name not in METHODS]
    if unknown or not methods:
        hint = nearest(unknown[0], METHODS) if unknown else ""
        raise BadRequestError(f"methods {tuple(methods)}", where=where, hint=hint or f"Methods: {', '.join(METHODS)}.")
    if not 20 <= least_days <= window_days:
        raise BadRequestError(
            f"least_days={least_days}, window_days={window_days}", where=where, hint="20 <= least_days <= window_days."
        )
    rows = _with_names_as_text(closes).filter(pl.col("date") < days[1]).drop_nulls("close").sort("date", "symbol")
    venues = _venues(rows, where)
    if not venues:
        return Weights(rows_of(WEIGHTS, []), (("all", f"no closes before {days[1]}"),))
    calendar = rows["date"].unique().sort()
    failures = _Failures()
    held = _last_weights(previous, days[0], "method")
    out: list[dict[str, Any]] = []
    for day in trading_days(venues.values(), days, where):
        known = calendar.search_sorted(day)
        if not known or (day - calendar[known - 1]).days > _SILENT_DAYS:
            failures.add(day, "all", f"no close within {_SILENT_DAYS} days before")
            continue
        last = calendar[known - 1]
        window = rows.filter(pl.col("date") >= calendar[max(0, known - window_days - 1)], pl.col("date") <= last)
        present = window.filter(pl.col("date") == last)["symbol"]
        for symbol in window["symbol"].unique().sort():
            if symbol not in present:
                failures.add(day, series_name(symbol, venues[symbol]), f"no close on {last}")
        try:
            aligned = align_returns(window.filter(pl.col("symbol").is_in(present.implode())))
            if len(aligned.dates) < least_days:
                raise DataError(
                    f"{len(aligned.dates)} common returns of {len(aligned.symbols)} symbols",
                    where=where,
                    hint=f"{least_days} are needed: lower least_days, or drop young symbols.",
                )
            moments = estimate_moments(aligned.returns)
        except ModelError as error:
            failures.add(day, "all", str(error))
            continue
        for symbol, reason in aligned.dropped.items():
            failures.add(day, series_name(symbol, venues[symbol]), reason)
        for method in methods:
            try:
                found = _allocate(method, moments, gamma, rho)
            except ModelError as error:
                failures.add(day, method, str(error))
                continue
            weights = dict(zip(aligned.symbols, found.weights.tolist(), strict=True))
            out += _weight_rows(day, last, method, weights, found, moments, held.get(method, {}), venues)
            held[method] = weights
    return Weights(rows_of(WEIGHTS, out), failures.told())


def _allocate(method: str, moments: Moments, gamma: float, rho: float) -> Allocation:
    if method == "cara":
        return MeanVariance(moments.covariance).cara(moments.mean, gamma)
    if method == "risk_parity":
        return risk_parity(moments.covariance)
    return sparse(moments.mean, moments.covariance, rho)


def _weight_rows(
    day: date,
    last: date,
    method: str,
    weights: Mapping[str, float],
    found: Allocation,
    moments: Moments,
    held: Mapping[str, float],
    venues: Mapping[str, str],
) -> list[dict[str, Any]]:
    common = {
        "date": day,
        "method": method,
        "expected_return": float(moments.mean @ found.weights),
        "volatility": found.volatility,
        # What was held of a symbol that has no weight any more is sold.
        "turnover": sum(abs(weights.get(name, 0.0) - held.get(name, 0.0)) for name in sorted({*weights, *held})),
        "kkt_residual": found.kkt_residual,
        "status": found.status,
        "observations": round(moments.observations),
        "shrinkage": moments.covariance_shrinkage,
        "data_until": last,
    }
    return [
        {**common, "venue": venues[symbol], "symbol": symbol, "weight": weight, "risk_contribution": share}
        for (symbol, weight), share in zip(weights.items(), found.risk_contributions.tolist(), strict=True)
    ]


# --- the adaptive pipeline --------------------------------------------------------------------------------------


def adaptive_rows(
    market: pl.DataFrame,
    regimes: pl.DataFrame,
    days: Days,
    *,
    previous: pl.DataFrame | None = None,
    market_series: str | None = None,
    rules: AdaptiveRules | None = None,
    costs: Costs | None = None,
    capital: float | None = None,
    seed: int = 0,
    workers: int = 2,
) -> Weights:
    """Decide on the weights of each day on which the market trades; see `models.strategy` for how.

    The regime of a symbol on a day is its own last one that was known before the day, else that of `market_series`.
    Chiarella's markets are fitted to the bars before the day's quarter and filtered on from there, so that a day gives
    the same rows whether it is computed alone or with others.

    Args:
        market: rows of `market.closes`, or of one interval of `market.bars` (whose takers' volume gives the impact);
            what was not closed when the day began is not looked at.
        regimes: rows of `signals.regimes` of one interval.
        days: from a first to before a second.
        previous: rows of `portfolio.adaptive_weights` before the first day; nothing was held by default.  What they say
            is moved by the prices since, as the account's holdings were.
        market_series: symbol of the series whose regime counts for symbols without one of their own.
        rules: how to decide; times in bars.
        costs: fees and slippage.
        capital: in units of the quote, for impact; without it impact is unknown and not charged.
        seed: of calibrations and simulations.
        workers: threads of the calibrations; the rows do not depend on it.

    Returns:
        Rows of `portfolio.adaptive_weights`; and the days and held symbols without a decision, with the reason.

    Raises:
        BadRequestError: a missing column, regimes or bars of several intervals, markets of different calendars, a
            symbol on two venues, or an argument that `decide` refuses.
    """
    where = "signals.adaptive_rows"
    rules = rules or AdaptiveRules()
    closes = "date" in market.columns and "ts" not in market.columns
    needs(market, ("venue", "symbol", *(("date", "close") if closes else ("ts", "ts_close", "close"))), where)
    needs(regimes, ("venue", "symbol", "interval", "ts", "regime", "confidence", "identified"), where)
    for frame, name in ((market, "bars"), (regimes, "regimes")):
        if "interval" in frame.columns and frame["interval"].n_unique() > 1:
            raise BadRequestError(f"{name} of several intervals", where=where, hint="Filter them to one.")
    rows = _with_names_as_text(market).drop_nulls("close")
    # A close is known when its day is over.
    known = pl.col("date").cast(pl.Datetime("us", "UTC")) + pl.duration(days=1) if closes else pl.col("ts_close")
    rows = rows.with_columns(_known=known).filter(pl.col("_known") <= midnight(days[1]))
    if "final" in rows.columns:
        rows = rows.filter("final")
    venues = _venues(rows, where)
    if not venues:
        return Weights(rows_of(ADAPTIVE_WEIGHTS, []), (("all", f"no bars closed before {days[1]}"),))
    times = rows["_known"].unique().sort()
    states = _States.of(regimes, market_series, where)
    last = _last_decision(previous, days[0])
    failures = _Failures()
    markets: dict[datetime, Mapping[str, FittedMarket | ModelError]] = {}
    out: list[dict[str, Any]] = []
    for day in trading_days(venues.values(), days, where):
        now = midnight(day)
        end = times.search_sorted(now, side="right")
        quarter = midnight(day.replace(month=day.month - (day.month - 1) % 3, day=1))
        before_quarter = times.search_sorted(quarter, side="right")
        begin = max(0, min(before_quarter, end) - rules.window - 1)
        if not end:
            failures.add(day, "all", "no bars before")
            continue
        here = rows.filter(pl.col("_known") >= times[begin], pl.col("_known") <= now)
        held = {} if last is None else _held_now(last, rows, now)
        lately = here.group_by("symbol").agg(pl.col("_known").max())
        alive = lately.filter(pl.col("_known") > now - timedelta(days=_SILENT_DAYS))["symbol"]
        for symbol in sorted(name for name, weight in held.items() if weight and name not in alive):
            failures.add(day, symbol, f"no price within {_SILENT_DAYS} days: its weight is dropped")
        here = here.filter(pl.col("symbol").is_in(alive.implode()))
        try:
            if quarter not in markets:
                markets[quarter] = _fit(rows, quarter, times, before_quarter, rules, seed, workers, closes=closes)
            data = _as_bars(here, closes=closes)
            found = {name: states.at(name, venues[name], now) for name in data.symbols}
            decision = decide(
                data,
                {name: state.regime for name, state in found.items()},
                markets[quarter],
                costs=costs,
                rules=rules,
                previous=held,
                capital=capital,
                seed=seed,
            )
        except ModelError as error:
            failures.add(day, "all", str(error))
            continue
        last = _Last(
            day,
            dict(zip(decision.symbols, decision.weights.tolist(), strict=True)),
            {name: held.get(name, 0.0) for name in {*decision.symbols, *held}},
        )
        for row in decision.rows.iter_rows(named=True):
            name = row["symbol"]
            fitted = markets[quarter].get(name)
            until = moment(fitted.fitted_at) if isinstance(fitted, FittedMarket) else None
            row["data_until"] = row.pop("ts")
            row.pop("day")
            out.append(
                {
                    **row,
                    "date": day,
                    "venue": venues[name],
                    "regime_of": found[name].series,
                    "regime_ts": found[name].ts,
                    "horizon_bars": rules.horizon,
                    "market_fitted_until": until,
                }
            )
    return Weights(rows_of(ADAPTIVE_WEIGHTS, out), failures.told())


class _Last(NamedTuple):
    """The last decision: its day, its weights, and those held before it, by symbol."""

    day: date
    weights: Mapping[str, float]
    before: Mapping[str, float]


def _last_decision(previous: pl.DataFrame | None, first: date) -> _Last | None:
    """Return the last decision before a day, from rows of `portfolio.adaptive_weights`."""
    if previous is None:
        return None
    earlier = previous.filter(pl.col("date") < first)
    if earlier.is_empty():
        return None
    day = earlier["date"].max()
    columns = ("symbol", "weight", "previous_weight" if "previous_weight" in earlier.columns else "weight")
    rows = (
        _named_symbols(earlier.filter(pl.col("date") == day))
        .select(
            pl.col(columns[0]), *(pl.col(name).cast(pl.Float64).alias(f"w{k}") for k, name in enumerate(columns[1:]))
        )
        .rows()
    )
    return _Last(day, {name: new for name, new, _ in rows}, {name: old for name, _, old in rows})  # type: ignore[arg-type]


def _named_symbols(frame: pl.DataFrame) -> pl.DataFrame:
    return frame.with_columns(pl.col("symbol").cast(pl.String))


def _held_now(last: _Last, rows: pl.DataFrame, now: datetime) -> dict[str, float]:
    """Return what the account holds at a time, by symbol, after the last decision and the moves of prices since.

    What was ordered was traded at the first price of the decision's day (its close, where only closes are known) in
    shares of the equity then; what was left alone has moved since the decision.

    Args:
        last: the decision. rows: symbol, close, `_known`, and ts and open where the market has them. now: see above.
    """
    decided = midnight(last.day)
    bars = "open" in rows.columns
    at = pl.col("ts") if bars else pl.col("_known") - pl.duration(days=1)
    own = rows.filter(pl.col("symbol").is_in([*last.weights, *last.before]), pl.col("_known") <= now).sort("_known")
    frames = own.group_by("symbol").agg(
        then=pl.col("close").filter(pl.col("_known") <= decided).last(),
        fill=pl.col("open" if bars else "close").filter(at >= decided).first(),
        close=pl.col("close").last(),
    )
    prices = {name: (then, fill, close) for name, then, fill, close in frames.rows()}
    equity, value, spent = 1.0, {}, 0.0
    for name, before in last.before.items():
        then, fill, _ = prices.get(name, (None, None, None))
        equity += before * (fill / then - 1.0) if before and then and fill else 0.0
    for name in {*last.weights, *last.before}:
        weight, before = last.weights.get(name, 0.0), last.before.get(name, 0.0)
        then, fill, close = prices.get(name, (None, None, None))
        start, base = (weight, then) if weight == before else (weight * equity, fill)
        spent += start * (fill / then) if weight == before and fill and then else start
        value[name] = start * (close / base) if base and close else start
    total = equity - spent + sum(value[name] for name in sorted(value))
    return {name: weight / total for name, weight in value.items()} if total > 0 else {}


class _State(NamedTuple):
    """A regime, the series that it is of, and the open time of its bar."""

    regime: SymbolRegime
    series: str
    ts: datetime | None


class _States:
    """Regimes of all series, to be asked what was known at a time."""

    def __init__(self, rows: dict[tuple[str, str], pl.DataFrame], fallback: tuple[str, str] | None) -> None:
        self._rows = rows
        self._fallback = fallback

    @classmethod
    def of(cls, regimes: pl.DataFrame, market_series: str | None, where: str) -> _States:
        named = _with_names_as_text(regimes)
        length = interval_microseconds(str(named["interval"][0]), where) if named.height else 0
        named = named.with_columns(_known=pl.col("ts") + pl.duration(microseconds=length)).sort("_known")
        columns = ("_known", "ts", "regime", "confidence", "identified")
        parts = {
            (str(symbol), str(venue)): frame.select(columns)
            for (symbol, venue), frame in named.group_by("symbol", "venue", maintain_order=True)
        }
        if market_series is None:
            return cls(parts, None)
        found = sorted(key for key in parts if key[0] == market_series)
        if len(found) != 1:
            names = sorted(symbol for symbol, _ in parts)
            raise BadRequestError(
                f"{len(found)} series of regimes are named {market_series!r}",
                where=where,
                hint=nearest(market_series, names) or "Name one that is in `regimes`, or none.",
            )
        return cls(parts, found[0])

    def at(self, symbol: str, venue: str, now: datetime) -> _State:
        """Return the last regime known by a time, unless it is old."""
        for key in ((symbol, venue), self._fallback):
            if key is None or key not in self._rows:
                continue
            rows = self._rows[key]
            k = rows["_known"].search_sorted(now, side="right") - 1
            if k < 0 or now - rows["_known"][k] > timedelta(days=_SILENT_DAYS):
                continue
            row = rows.row(k, named=True)
            regime = SymbolRegime(row["regime"], row["confidence"], row["identified"])
            return _State(regime, series_name(*key), row["ts"])
        return _State(SymbolRegime(UNKNOWN, 0.0, identified=False), series_name(symbol, venue), None)


def _fit(
    rows: pl.DataFrame,
    quarter: datetime,
    times: pl.Series,
    before: int,
    rules: AdaptiveRules,
    seed: int,
    workers: int,
    *,
    closes: bool,
) -> Mapping[str, FittedMarket | ModelError]:
    """Return the markets fitted to the last bars before a quarter; none without bars."""
    if not before:
        return {}
    begin = times[max(0, before - rules.window - 1)]
    past = rows.filter(pl.col("_known") >= begin, pl.col("_known") <= quarter)
    return fit_markets(_as_bars(past, closes=closes), window=rules.window, seed=seed, workers=workers)


def _as_bars(rows: pl.DataFrame, *, closes: bool) -> Bars:
    return Bars.from_closes(rows) if closes else Bars.from_frame(rows)


# --- what both share --------------------------------------------------------------------------------------------


def _with_names_as_text(frame: pl.DataFrame) -> pl.DataFrame:
    return frame.with_columns(pl.col("venue", "symbol").cast(pl.String))


def _venues(rows: pl.DataFrame, where: str) -> dict[str, str]:
    """Return the venue of each symbol."""
    pairs = rows.select("symbol", "venue").unique().sort("symbol", "venue")
    twice = pairs.filter(pl.col("symbol").is_duplicated())
    if twice.height:
        raise BadRequestError(
            f"{twice['symbol'][0]} is on {', '.join(twice.filter(pl.col('symbol') == twice['symbol'][0])['venue'])}",
            where=where,
            hint="Give one venue per symbol.",
        )
    return dict(pairs.rows())


def _last_weights(previous: pl.DataFrame | None, first: date, by: str | None) -> dict[str, dict[str, float]]:
    """Return the weights of the last day before the first one, by symbol, per value of a column ("" without one)."""
    if previous is None:
        return {}
    earlier = previous.filter(pl.col("date") < first).with_columns(pl.col("symbol").cast(pl.String))
    groups = [("", earlier)] if by is None else [(str(key[0]), part) for key, part in earlier.group_by(by)]
    return {
        name: dict(part.filter(pl.col("date") == part["date"].max()).select("symbol", "weight").rows())
        for name, part in groups
        if part.height
    }
