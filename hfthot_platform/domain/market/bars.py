"""Bars: from trades or from finer bars to any interval.

What goes here: the arithmetic of bars.  What stays out: where rows are read from and written to, and what
"now" is (`until` is passed in).

Conventions, the same for every function:

- An interval is left-closed and right-open; where it starts is said by `hfthot_platform.core.intervals`.
- Trades count in the order (ts, trade_id); rows that already come in that order are not sorted again.
- An interval without rows has no bar.  Nothing is filled.
- A bar depends on the rows of its own interval only, and sums are added in row order on one thread, so the same
  rows give the same bits whatever else is in the frame.  (A parallel group-by adds in varying order and does
  not: its volumes differ in the last bits from run to run.)
"""

from __future__ import annotations

from datetime import datetime
from typing import TYPE_CHECKING, Final

import numpy as np
import polars as pl

from hfthot_platform.core.errors import BadRequestError
from hfthot_platform.core.intervals import coarsest_base
from hfthot_platform.core.intervals import interval as interval_of
from hfthot_platform.domain.contracts.market import BARS, BARS_1M, SOURCES

if TYPE_CHECKING:
    from collections.abc import Callable

    from numpy.typing import NDArray

__all__ = ["bars_at", "bars_from_bars", "bars_from_trades", "interval_start"]

_TIME: Final = pl.Datetime("us", "UTC")
_PROVENANCE: Final = ("source", "source_ref")
_OPTIONAL_SUMS: Final = ("volume", "quote_volume", "trades", "buy_volume")
# Distinct references that a bar names in full; more are abbreviated to the first, the last and their number.
_NAMED_REFS: Final = 3


def interval_start(ts: str, interval: str) -> pl.Expr:
    """Return the open time of the interval that each time of column `ts` falls into.

    Raises:
        BadRequestError: there is no such interval.
    """
    return interval_of(interval).open_time(pl.col(ts))


def bars_from_trades(
    trades: pl.DataFrame | pl.LazyFrame, *, interval: str = "1m", until: datetime | None = None
) -> pl.DataFrame:
    """Compute bars from trades.

    Args:
        trades: rows of `market.trades`, any order, any number of venues and symbols.  Needs venue, symbol, ts,
            trade_id, price (quote per base), amount (base), source and source_ref; `side` is optional.
        interval: 1m or any longer one.
        until: the time up to which the trades are complete; a bar that closes after it is not final.  None
            says that every interval is complete.

    Returns:
        Rows of `market.bars_1m` (for 1m) or `market.bars`, without partition column and `schema_version`,
        sorted by symbol, venue, ts; `origin` is trades.  `buy_volume` is null where the side of any trade in
        the bar is unknown.  `source` is the least trustworthy of the trades' sources (in the order
        vendor_history, live_recon, replay, synthetic) and `source_ref` names theirs.

    Raises:
        BadRequestError: an unknown interval, or `until` without a time zone.
    """
    names = trades.collect_schema().names()
    side = pl.col("side") if "side" in names else pl.lit(None, pl.String).alias("side")
    wanted = ("venue", "symbol", "ts", "trade_id", "price", "amount", side, "source", "source_ref")
    rows = trades.lazy().select(wanted).collect()
    runs = _runs(rows, interval, ("ts", "trade_id"))
    rows, starts = runs.rows, runs.starts
    price = rows["price"].to_numpy()
    amount = rows["amount"].to_numpy()
    values = {
        "open": price[starts],
        "high": _reduce(np.maximum, price, starts),
        "low": _reduce(np.minimum, price, starts),
        "close": price[runs.ends],
        "volume": _reduce(np.add, amount, starts),
        "quote_volume": _reduce(np.add, price * amount, starts),
        "trades": runs.ends - starts + 1,
    }
    bars = runs.keys.with_columns(**{name: pl.Series(value) for name, value in values.items()})
    bars = bars.with_columns(_buy_volume(rows["side"], amount, starts))
    return _finish(bars, runs, interval, until, origin="trades", final=None)


def bars_from_bars(
    bars: pl.DataFrame | pl.LazyFrame, interval: str, *, base: str = "1m", until: datetime | None = None
) -> pl.DataFrame:
    """Compute coarser bars from finer ones.

    Args:
        bars: rows of `market.bars_1m` or of one interval of `market.bars`; volume, quote_volume, trades and
            buy_volume may be absent.
        interval: what to compute, made of whole bars of the base.
        base: interval of the given bars.
        until: the time up to which the given bars are complete; a bar that closes after it is not final, nor is
            one with a finer bar that is not.

    Returns:
        Rows of `market.bars` without partition column and `schema_version`, sorted by symbol, venue, ts; `origin` is
        bars_1m, or bars for any other base.  A sum over a bar that does not know its part is null.  `source` and
        `source_ref` as in `bars_from_trades`.

    Raises:
        BadRequestError: an interval that is not made of whole bars of the base, or `until` without a time zone.
    """
    whole, part = interval_of(interval), interval_of(base)
    if whole == part or not whole.holds_whole(part):
        raise BadRequestError(
            f"bars of {interval} are not made of whole bars of {base}", where="interval", hint="Use a finer base."
        )
    names = bars.collect_schema().names()
    optional = [
        pl.col(name) if name in names else pl.lit(None, BARS_1M.column(name).polars).alias(name)
        for name in _OPTIONAL_SUMS
    ]
    wanted = ("venue", "symbol", "ts", "open", "high", "low", "close", "final", "source", "source_ref")
    rows = bars.lazy().select(*wanted, *optional).collect()
    runs = _runs(rows, interval, ("ts",))
    rows, starts = runs.rows, runs.starts
    values = {
        "open": rows["open"].to_numpy()[starts],
        "high": _reduce(np.maximum, rows["high"].to_numpy(), starts),
        "low": _reduce(np.minimum, rows["low"].to_numpy(), starts),
        "close": rows["close"].to_numpy()[runs.ends],
    }
    made = runs.keys.with_columns(**{name: pl.Series(value) for name, value in values.items()})
    made = made.with_columns(_sum_if_known(rows[name], starts) for name in _OPTIONAL_SUMS)
    final = _reduce(np.logical_and, rows["final"].to_numpy(), starts)
    origin = "bars_1m" if part.name == "1m" else "bars"
    return _finish(made, runs, interval, until, origin=origin, final=final)


def bars_at(interval: str, bars: pl.LazyFrame, minutes: pl.LazyFrame | None = None) -> pl.LazyFrame:
    """Return the bars of an interval; where a series has none of them, they are computed from its finer bars.

    Args:
        interval: the wanted one.
        bars: rows of `market.bars`, of any intervals.
        minutes: rows of `market.bars_1m`, for series of which `bars` has nothing finer.

    Returns:
        Rows of `market.bars` without partition column and `schema_version`.  Computed ones are of the coarsest finer
        interval; a first bar within which the finer ones begin is left out, a last one within which they end is not
        final.

    Raises:
        BadRequestError: there is no such interval.
    """
    wanted = interval_of(interval)
    columns = [name for name in BARS.column_names if name not in {"month", "schema_version"}]
    texts = [pl.col(name).cast(pl.String) for name in ("venue", "symbol", "interval")]
    stored = bars.with_columns(texts).select(columns)
    parts = [stored.filter(pl.col("interval") == wanted.name)]
    there = stored.select("venue", "symbol", "interval").unique().collect()
    if minutes is not None and wanted.name != "1m":
        only = minutes.with_columns(pl.col("venue", "symbol").cast(pl.String), interval=pl.lit("1m")).select(columns)
        there = pl.concat([there, only.select("venue", "symbol", "interval").unique().collect()])
        stored = pl.concat([stored, only])
    for (venue, symbol), series in there.sort("venue", "symbol").partition_by("venue", "symbol", as_dict=True).items():
        names = series["interval"].to_list()
        base = coarsest_base(wanted.name, names)
        if wanted.name in names or base is None:
            continue
        of_series = (pl.col("venue") == venue, pl.col("symbol") == symbol, pl.col("interval") == base)
        finer = stored.filter(*of_series).collect()
        begins, ends = finer["ts"].min(), finer["ts_close"].max()
        assert isinstance(ends, datetime), "there are rows"
        made = bars_from_bars(finer, wanted.name, base=base, until=ends)
        parts.append(made.lazy().filter(pl.col("ts") >= begins).select(columns))
    return pl.concat(parts, how="vertical_relaxed")


class _Runs:
    """Rows in which each bar is one uninterrupted run, and where the runs start and end (inclusive).

    `keys` has venue, symbol and open time per run; `mixed` tells which text columns vary within any run.
    """

    def __init__(self, rows: pl.DataFrame, bar: pl.Series, starts: NDArray[np.int64], mixed: frozenset[str]) -> None:
        self.rows = rows
        self.starts = starts
        self.ends: NDArray[np.int64] = np.append(starts[1:], rows.height) - 1 if len(starts) else starts
        self.mixed = mixed
        firsts = {name: rows[name].gather(starts).cast(pl.String) for name in ("venue", "symbol")}
        self.keys = pl.DataFrame({**firsts, "ts": bar.gather(starts)})
        # Stored rows of one day are sorted, so the sort and the search for doubles are rarely needed.
        self.sorted = bool(self.keys.select(_increasing("symbol", "venue", "ts")).item())


def _increasing(*names: str) -> pl.Expr:
    """Return whether each row is after the one before, in the order of the columns."""
    after = pl.lit(value=False)
    for name in reversed(names):
        before = pl.col(name).shift(1)
        after = (pl.col(name) > before) | ((pl.col(name) == before) & after)
    return after.fill_null(value=True).all()


def _runs(rows: pl.DataFrame, interval: str, order: tuple[str, ...]) -> _Runs:
    found = _find_runs(rows, interval, order)
    if found is None:
        # Any order of the symbols will do, and codes sort faster than texts.
        codes = [pl.col(name).cast(pl.Categorical).to_physical() for name in ("symbol", "venue")]
        rows = rows.sort(*codes, *order, maintain_order=True)
        found = _find_runs(rows, interval, order)
        assert found is not None, "sorted rows are in order"
    return found


def _find_runs(rows: pl.DataFrame, interval: str, order: tuple[str, ...]) -> _Runs | None:
    """Find the runs of equal (venue, symbol, interval), or return None if the rows have to be sorted first.

    Stored rows come sorted within each file, and files follow each other by day: each bar is then one run,
    although symbols repeat.  That is checked, not assumed: order within each run, and no bar in two runs.
    """
    if rows.is_empty():
        return _Runs(rows, rows["ts"].cast(_TIME), np.empty(0, np.int64), frozenset())
    bar = rows.select(interval_start("ts", interval)).to_series()
    same = pl.all_horizontal(pl.col(key) == pl.col(key).shift(1) for key in ("symbol", "venue", "_bar"))
    same = same.fill_null(value=False)
    earlier = pl.lit(value=False)
    for name in reversed(order):
        before = pl.col(name).shift(1)
        earlier = (pl.col(name) < before) | ((pl.col(name) == before) & earlier)
    marks = (
        rows.lazy()
        .select("symbol", "venue", *order, *_PROVENANCE, bar.alias("_bar"))
        .select(
            same.not_().alias("start"),
            (same & earlier).any().alias("disordered"),
            *((same & (pl.col(name) != pl.col(name).shift(1))).any().alias(name) for name in _PROVENANCE),
        )
        .collect()
    )
    if marks["disordered"][0]:
        return None
    mixed = frozenset(name for name in _PROVENANCE if marks[name][0])
    runs = _Runs(rows, bar, np.flatnonzero(marks["start"].to_numpy()), mixed)
    return runs if runs.sorted or runs.keys.is_unique().all() else None


def _reduce(ufunc: np.ufunc, values: NDArray[np.generic], starts: NDArray[np.int64]) -> NDArray[np.generic]:
    result: NDArray[np.generic] = ufunc.reduceat(values, starts) if len(starts) else values[:0]
    return result


def _buy_volume(side: pl.Series, amount: NDArray[np.generic], starts: NDArray[np.int64]) -> pl.Series:
    if side.null_count() == len(side):
        return pl.Series("buy_volume", [None] * len(starts), pl.Float64)
    bought = (side.cast(pl.String) == "buy") if side.dtype == pl.String else (side == "buy")
    total = pl.Series("buy_volume", _reduce(np.add, amount * bought.fill_null(value=False).to_numpy(), starts))
    return _null_where_any(side.is_null(), total, starts)


def _sum_if_known(values: pl.Series, starts: NDArray[np.int64]) -> pl.Series:
    total = pl.Series(values.name, _reduce(np.add, values.fill_null(0).to_numpy(), starts), values.dtype)
    return _null_where_any(values.is_null(), total, starts)


def _null_where_any(unknown: pl.Series, total: pl.Series, starts: NDArray[np.int64]) -> pl.Series:
    if not unknown.any():
        return total
    incomplete = pl.Series(_reduce(np.logical_or, unknown.to_numpy(), starts))
    return total.to_frame().select(pl.when(incomplete.not_()).then(pl.col(total.name))).to_series()


def _finish(
    bars: pl.DataFrame,
    runs: _Runs,
    interval: str,
    until: datetime | None,
    *,
    origin: str,
    final: NDArray[np.generic] | None,
) -> pl.DataFrame:
    if until is not None and until.tzinfo is None:
        raise BadRequestError(f"{until} has no time zone", where="until", hint="Pass an aware time, such as UTC.")
    closed = pl.lit(value=True) if until is None else pl.col("ts_close") <= pl.lit(until).cast(_TIME)
    if final is not None:
        closed &= pl.Series(final)
    length = interval_of(interval)
    table = BARS_1M if length.name == "1m" else BARS
    derived = {"date", "month", "schema_version"}
    finished = (
        bars.lazy()
        .with_columns(
            ts_close=length.close_time(pl.col("ts")),
            interval=pl.lit(length.name),
            origin=pl.lit(origin),
            source=_of_each_run(runs, "source", lambda names: max(names, key=_distrust)),
            source_ref=_of_each_run(runs, "source_ref", _joined),
        )
        .with_columns(final=closed)
        .select(column for column in table.column_names if column not in derived)
        .cast({"trades": pl.Int64})
        .collect()
    )
    return finished if runs.sorted else finished.sort("symbol", "venue", "ts")


def _of_each_run(runs: _Runs, name: str, combine: Callable[[list[str]], str]) -> pl.Series:
    """Return one text per run: the common one, or what `combine` makes of the distinct ones."""
    texts = runs.rows[name]
    result = texts.gather(runs.starts).cast(pl.String).alias(name)
    if name not in runs.mixed:
        return result
    # Equal neighbours share a number, so a run is uniform where its first and last row have the same.
    stretch = texts.rle_id().to_numpy()
    mixed = np.flatnonzero(stretch[runs.starts] != stretch[runs.ends])
    lengths = runs.ends[mixed] - runs.starts[mixed] + 1
    run = np.repeat(mixed, lengths)
    row = np.arange(len(run)) + np.repeat(runs.starts[mixed] - np.cumsum(lengths) + lengths, lengths)
    several = (
        pl.DataFrame({"run": run, name: texts.gather(row).cast(pl.String)})
        .group_by("run", maintain_order=True)
        .agg(pl.col(name).unique())
    )
    combined = [combine(names) for names in several[name].to_list()]
    return result.scatter(several["run"], combined)


def _distrust(source: str) -> int:
    return SOURCES.index(source) if source in SOURCES else len(SOURCES)


def _joined(refs: list[str]) -> str:
    # Bars that already name several trades' files are taken apart first, so each is named once.
    distinct = sorted({part for ref in refs for part in ref.split(" + ")})
    if len(distinct) <= _NAMED_REFS:
        return " + ".join(distinct)
    return f"{distinct[0]} .. {distinct[-1]} ({len(distinct)} references)"
