"""Regimes of series of closes: walk-forward models, filtered regimes, and changes of regime.

A model that is used on a day was fitted on bars before that day, and a regime of a bar uses bars up to it: so
recomputing history with more data at its end gives the same rows.  Missing bars are missing: crypto's grid has
every interval, US equities' the trading days of the exchange.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import date
from functools import partial
from typing import Any, Final, NamedTuple

import numpy as np
import polars as pl
from numpy.typing import NDArray

from hfthot_platform.core.arrays import FloatArray
from hfthot_platform.core.errors import DataError, ModelError, NotConvergedError
from hfthot_platform.core.intervals import interval_microseconds
from hfthot_platform.core.parallel import Mapped, in_threads
from hfthot_platform.core.time import DAY, ONE_DAY, Days, day_number, day_of, each_day, midnight, moment
from hfthot_platform.domain.contracts.signals import (
    QUIET_LABELS,
    REGIME_CHANGES,
    REGIME_LABELS,
    REGIME_MODELS,
    REGIMES,
)
from hfthot_platform.domain.market.calendar import FIRST_US_YEAR, calendar_of, days_of_calendar
from hfthot_platform.domain.models.regime import STRATEGIES, RegimeModel, bar_returns, fit_regimes
from hfthot_platform.domain.signals.declared import RegimeSettings

__all__ = ["CERTAIN", "Failed", "change_rows", "model_rows", "regime_rows"]

#: Series without a result, as `symbol@venue`, and why.
Failed = tuple[tuple[str, str], ...]
#: A regime with a higher probability than this is certain enough to count as a change.
CERTAIN: Final = 0.75

_KEY = tuple[str, str]  # venue, symbol


@dataclass(frozen=True, eq=False)
class _ReturnSeries:
    """Log-returns of one series on its grid, NaN where missing.  `day` is the day of each bar since 1970."""

    venue: str
    symbol: str
    ts: NDArray[np.int64]
    returns: FloatArray
    day: NDArray[np.int64]


class _Closes(NamedTuple):
    """Closes of one series, in the order of time (microseconds)."""

    venue: str
    symbol: str
    ticks: NDArray[np.int64]
    close: FloatArray


#: What came of one series, and its failures.
_Found = tuple[list[Any], list[tuple[str, str]]]


def model_rows(
    closes: pl.DataFrame,
    known: pl.DataFrame,
    days: Days,
    *,
    interval: str,
    settings: RegimeSettings | None = None,
    mapped: Mapped | None = None,
) -> tuple[pl.DataFrame, Failed]:
    """Fit the models that become due on the given days, each on bars before its day.

    Args:
        closes: venue, symbol, ts, close of final bars of one interval; later rows may be there and change nothing.
        known: rows of `signals.regime_models`; a series' model is due `refit_days` after its latest one.
        days: when the models are used first.
        interval: of the bars: 5m, 15m, 1h or 1d.
        settings: how.
        mapped: where the series are worked on, by default in threads; the rows do not depend on it.

    Returns:
        New rows of `signals.regime_models`, without partition column and version, and what failed.

    Raises:
        BadRequestError: an unknown interval.
    """
    chosen = settings or RegimeSettings()
    latest = _latest_models(known.filter(pl.col("interval") == interval), days[0])
    results = _for_every_series(
        [
            (series, latest.get((series.venue, series.symbol)))
            for series in _closes_by_series(closes, interval, days[1])
        ],
        partial(_fit_series, days=days, interval=interval, settings=chosen),
        interval,
        mapped or in_threads(chosen.workers),
    )
    rows = [row for found, _ in results for row in found]
    failed = tuple(failure for _, failures in results for failure in failures)
    return pl.DataFrame(rows, schema=_schema(REGIME_MODELS, "year")), failed


def regime_rows(
    closes: pl.DataFrame,
    models: pl.DataFrame,
    days: Days,
    *,
    interval: str,
    settings: RegimeSettings | None = None,
    mapped: Mapped | None = None,
) -> tuple[pl.DataFrame, Failed]:
    """Filter the regimes of the bars of the given days.

    Args:
        closes: as for `model_rows`.
        models: rows of `signals.regime_models`; each bar is judged by the latest model of its day or before.
        days: days of the bars.
        interval: of the bars.
        settings: `history_bars` before each model's first bar warm the filter up.
        mapped: as for `model_rows`.

    Returns:
        Rows of `signals.regimes` for every bar that is there, and the series without a model, or with one that
        cannot be read.

    Raises:
        BadRequestError: an unknown interval.
    """
    chosen = settings or RegimeSettings()
    own = models.filter(pl.col("interval") == interval).sort("fitted_on")
    by_series = dict(own.group_by("venue", "symbol", maintain_order=True))
    results = _for_every_series(
        [
            (series, by_series.get((series.venue, series.symbol)))
            for series in _closes_by_series(closes, interval, days[1])
        ],
        partial(_filter_series, days=days, interval=interval, history=chosen.history_bars),
        interval,
        mapped or in_threads(chosen.workers),
    )
    parts = [frame for frames, _ in results for frame in frames]
    failed = tuple(failure for _, failures in results for failure in failures)
    empty = pl.DataFrame(schema=_schema(REGIMES, "month"))
    return pl.concat([empty, *parts]).sort("symbol", "venue", "ts"), failed


def change_rows(regimes: pl.DataFrame, days: Days, *, certain: float = CERTAIN) -> pl.DataFrame:
    """Find the bars after which another regime than the last certain one is certain.

    Args:
        regimes: rows of `signals.regimes`, of the given days and of enough days before for the last certain
            regime to be among them.
        days: days of the changes.
        certain: probability above which a regime counts.

    Returns:
        Rows of `signals.regime_changes`.
    """
    key = ["symbol", "venue", "interval"]
    first, end = (midnight(day) for day in days)
    return (
        regimes.filter(pl.col("confidence") > certain)
        .sort(*key, "ts")
        .with_columns(previous=pl.col("regime").shift(1).over(key))
        .filter(pl.col("previous").is_not_null(), pl.col("previous") != pl.col("regime"))
        # Between the names of two models nothing changed in the market.
        .filter(
            ~(_is_directional("previous") & _is_quiet("regime")), ~(_is_quiet("previous") & _is_directional("regime"))
        )
        .filter(pl.col("ts") >= first, pl.col("ts") < end)
        .select(*_schema(REGIME_CHANGES, "month"))
    )


def _is_directional(column: str) -> pl.Expr:
    return pl.col(column).cast(pl.String).is_in(["trending", "mean_reverting"])


def _is_quiet(column: str) -> pl.Expr:
    return pl.col(column).cast(pl.String).is_in(QUIET_LABELS)


# -- internals ------------------------------------------------------------------------------------------------


def _schema(contract: Any, partition: str) -> dict[str, pl.DataType]:
    apart = {partition, "schema_version"}
    return {name: dtype for name, dtype in contract.polars_schema.items() if name not in apart}


def _for_every_series(
    items: Sequence[tuple[_Closes, Any]], work: Callable[[_ReturnSeries, Any], _Found], interval: str, mapped: Mapped
) -> list[_Found]:
    """Work on all series, each with what is known of it; results in the order of the series."""
    return mapped(partial(_work_on_series, work=work, interval=interval), items)


def _work_on_series(item: tuple[_Closes, Any], work: Callable[[_ReturnSeries, Any], _Found], interval: str) -> _Found:
    """Work on one series.  Closes that cannot be put on a grid are a failure of its own and cost the others nothing."""
    closes, known = item
    name = f"{closes.symbol}@{closes.venue}"
    try:
        made = _on_grid(closes.venue, closes.ticks, closes.close, interval)
        if made is None:
            return [], [(name, "fewer than two bars")]
        ts, returns = made
        return work(_ReturnSeries(closes.venue, closes.symbol, ts, returns, ts // DAY), known)
    except ModelError as error:
        return [], [(name, str(error))]


def _latest_models(known: pl.DataFrame, first: date) -> Mapping[_KEY, tuple[date, str]]:
    before = known.filter(pl.col("fitted_on") < first).sort("fitted_on")
    rows = before.group_by("venue", "symbol").last().select("venue", "symbol", "fitted_on", "parameters").rows()
    return {(venue, symbol): (day, text) for venue, symbol, day, text in rows}


def _read_model(latest: tuple[date, str] | None) -> tuple[date, RegimeModel] | None:
    """Return a stored model; none if it cannot be read any more: another is due at once then."""
    if latest is None:
        return None
    try:
        return latest[0], RegimeModel.from_json(latest[1])
    except ModelError:
        return None


def _closes_by_series(closes: pl.DataFrame, interval: str, end: date) -> list[_Closes]:
    """Return each series' closes up to before `end`; a close that is not a positive number counts as missing."""
    interval_microseconds(interval, "regimes")
    limit = midnight(end)
    rows = closes.filter(pl.col("ts") < limit, pl.col("close") > 0, pl.col("close").is_finite())
    return [
        _Closes(str(venue), str(symbol), frame["ts"].to_physical().to_numpy(), frame["close"].to_numpy())
        for (venue, symbol), frame in rows.sort("symbol", "venue", "ts").group_by(
            "venue", "symbol", maintain_order=True
        )
    ]


def _on_grid(
    venue: str, ticks: NDArray[np.int64], close: FloatArray, interval: str
) -> tuple[NDArray[np.int64], FloatArray] | None:
    """Return grid times (microseconds) and log-returns, None for a series of fewer than two bars."""
    step = interval_microseconds(interval, "regimes")
    calendar = calendar_of(venue)
    if interval == "1d" and calendar != "always":
        first = day_of(int(ticks[0]))
        first = max(first, date(FIRST_US_YEAR, 1, 1)) if calendar == "us" else first
        last = day_of(int(ticks[-1]))
        if last <= first:
            return None
        days = days_of_calendar(calendar, first, last + ONE_DAY)
        grid = days.astype("datetime64[D]").astype(np.int64) * step
        place = np.searchsorted(grid, ticks)
        # A session outside the calendar has no place among the days; its move is in the next day's return.
        inside = (place < grid.size) & (grid[np.minimum(place, grid.size - 1)] == ticks)
        place, close = place[inside], close[inside]
    else:
        grid = None
        place = ticks // step
    if place.size < 2:
        return None
    index, returns = bar_returns(place, close, 1)
    return (grid[index] if grid is not None else index * step), returns


def _fit_series(
    series: _ReturnSeries, stored: tuple[date, str] | None, days: Days, interval: str, settings: RegimeSettings
) -> tuple[list[dict[str, Any]], list[tuple[str, str]]]:
    latest = _read_model(stored)
    name = f"{series.symbol}@{series.venue}"
    rows: list[dict[str, Any]] = []
    failures: list[tuple[str, str]] = []
    for day in each_day(days):
        if latest is not None and (day - latest[0]).days < settings.refit_days:
            continue
        end = int(np.searchsorted(series.day, day_number(day)))
        begin = max(0, end - settings.history_bars)
        returns = series.returns[begin:end]
        present = int(np.isfinite(returns).sum())
        if present < settings.least_bars:
            # Said once per span: a young series has too few bars on every day of it.
            if not failures:
                failures.append((name, f"{present} returns before {day}, {settings.least_bars} are needed"))
            continue
        previous = latest[1] if latest else None
        try:
            model = _fitted(returns, previous, settings)
        except ModelError as error:
            failures.append((name, str(error)))
            continue
        if set(model.labels) != set(REGIME_LABELS):
            failures.append((name, f"states {model.labels} are not {REGIME_LABELS}"))
            continue
        latest = day, model
        rows.append(_model_row(series, model, day, interval, int(series.ts[begin]), int(series.ts[end - 1])))
    return rows, failures


def _fitted(returns: FloatArray, previous: RegimeModel | None, settings: RegimeSettings) -> RegimeModel:
    """Fit as before, or as chosen; a later fit that fails in the model chosen before is chosen for again."""
    options: dict[str, Any] = {"seed": settings.seed, "allow_missing": True}
    if previous is not None:
        try:
            return fit_regimes(returns, observation=previous.observation, n_restarts=2, previous=previous, **options)
        except NotConvergedError:
            pass  # the choice below says what else there is
    return fit_regimes(returns, observation="auto", n_restarts=settings.n_restarts, previous=previous, **options)


def _model_row(
    series: _ReturnSeries, model: RegimeModel, day: date, interval: str, trained_from: int, trained_until: int
) -> dict[str, Any]:
    scores = model.selection.mean_log_density if model.selection else {}
    return {
        "fitted_on": day,
        "venue": series.venue,
        "symbol": series.symbol,
        "interval": interval,
        "model_id": model.version,
        "observation": model.observation,
        "parameters": model.to_json(),
        "trained_from": moment(trained_from),
        "trained_until": moment(trained_until),
        "n_observations": model.n_observations,
        "log_likelihood": model.log_likelihood,
        "bic": model.bic,
        "iterations": model.iterations,
        "converged": model.converged,
        "score_ar1": scores.get("ar1"),
        "score_multivariate": scores.get("multivariate"),
        "identified": model.identified,
        "reason": model.reason or None,
    }


def _filter_series(
    series: _ReturnSeries, models: pl.DataFrame | None, days: Days, interval: str, history: int
) -> tuple[list[pl.DataFrame], list[tuple[str, str]]]:
    low, high = np.searchsorted(series.day, [day_number(day) for day in days])
    if low == high:
        return [], []
    name = f"{series.symbol}@{series.venue}"
    if models is None:
        return [], [(name, "no model yet")]
    # Each model judges the bars from its first day to the next model's.
    starts = np.searchsorted(series.day, [day_number(day) for day in models["fitted_on"]])
    ends = np.append(starts[1:], series.returns.size)
    parts: list[pl.DataFrame] = []
    failures = []
    for text, start, end in zip(models["parameters"], starts, ends, strict=True):
        first, last = max(int(start), int(low)), min(int(end), int(high))
        if first >= last:
            continue
        try:
            parts.append(_regime_rows(series, RegimeModel.from_json(text), first, last, interval, history))
        except ModelError as error:
            failures.append((name, str(error)))
    if not parts and not failures:
        failures = [(name, f"no model before {days[1]}")]
    return parts, failures


def _regime_rows(
    series: _ReturnSeries, model: RegimeModel, first: int, last: int, interval: str, history: int
) -> pl.DataFrame:
    """Return the rows of the bars from `first` to before `last` that are there."""
    begin = max(0, first - history)
    try:
        filtered = model.filter(series.returns[begin:last], allow_missing=True)[first - begin :]
    except DataError:
        # Only missing bars so far: nothing to say about them.
        return pl.DataFrame(schema=_schema(REGIMES, "month"))
    names = REGIME_LABELS if model.identified else (*QUIET_LABELS, "volatile")
    probabilities = filtered[:, [model.names.index(name) for name in names]]
    best = probabilities.argmax(axis=1)
    there = np.isfinite(series.returns[first:last])
    regime = np.array(names)[best]
    columns = {f"p_{name}": probabilities[:, k] for k, name in enumerate(names)}
    if not model.identified:
        # Nothing is known of which it is: the quiet regimes' probability in halves.
        half = probabilities[:, :2].sum(axis=1) / 2
        columns |= {"p_trending": half, "p_mean_reverting": half}
    frame = pl.DataFrame(
        {
            "venue": pl.repeat(series.venue, last - first, eager=True),
            "symbol": pl.repeat(series.symbol, last - first, eager=True),
            "interval": pl.repeat(interval, last - first, eager=True),
            "ts": pl.Series(series.ts[first:last]).cast(pl.Datetime("us", "UTC")),
            "regime": regime,
            "confidence": probabilities[np.arange(best.size), best],
            **columns,
            "strategy": [STRATEGIES.get(label, "neutral") for label in regime.tolist()],
            "identified": pl.repeat(model.identified, last - first, eager=True),
            "model_id": pl.repeat(model.version, last - first, eager=True),
        }
    )
    unknown = [pl.lit(None, pl.Float64).alias(name) for name in ("p_calm", "p_normal") if name not in frame.columns]
    return frame.filter(pl.Series(there)).with_columns(unknown).select(*_schema(REGIMES, "month"))
