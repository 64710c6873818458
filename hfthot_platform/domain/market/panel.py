"""Bars as models and strategies see them: arrays of several symbols at common times, checked once.

What belongs here: the panel itself, its checks, and its making from rows of tables.  What does not: computing bars
from trades (`bars`), what is done with them (`models`).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Final

import numpy as np
import polars as pl

from hfthot_platform.core.arguments import symbol_names, whole
from hfthot_platform.core.arrays import BoolArray, FloatArray, IntArray
from hfthot_platform.core.display import Displayed, as_html
from hfthot_platform.core.errors import BadRequestError, DataError
from hfthot_platform.core.time import DAY, moment

__all__ = ["PRICES", "Bars", "time_text"]

#: The prices of a bar, in the order in which they come.
PRICES: Final = ("open", "high", "low", "close")
_YEAR: Final = 365.25 * DAY
_TIME: Final = pl.Datetime("us", "UTC")
#: Rows of bars that a notebook shows.
_SHOWN_ROWS: Final = 5


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
            DataError: shapes differ, times are not integers or do not increase, a price is not positive or outside its
                bar's low and high, a bar has only some prices, or a volume is negative or infinite.
        """
        times = _ticks(self.times)
        symbols = symbol_names(self.symbols, None, "Bars") or ()
        if not symbols:
            raise BadRequestError("no symbols", where="Bars", hint="Name one for each column.")
        object.__setattr__(self, "symbols", symbols)
        shape = (times.size, len(symbols))
        arrays: dict[str, Any] = {"times": times}
        for name in (*PRICES, "volume", *(["buy_volume"] if self.buy_volume is not None else [])):
            values = _doubles(getattr(self, name), name)
            if values.shape != shape:
                raise DataError(f"{name} has shape {values.shape}", where="Bars", hint=f"Expected {shape}.")
            arrays[name] = values
        close = arrays["close"]
        absent = np.isnan(close)
        some = bool(absent.any())
        for name in PRICES:
            wrong = ~(arrays[name] > 0) & ~absent if some else ~(arrays[name] > 0)
            wrong |= np.isinf(arrays[name])
            if some and name != "close":
                wrong |= absent & ~np.isnan(arrays[name])
            if wrong.any():
                t, i = np.argwhere(wrong)[0]
                raise DataError(
                    f"{name} of {symbols[i]} is {arrays[name][t, i]:g} with a close of {close[t, i]:g}",
                    where=f"Bars at {time_text(times[t])}",
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
                    where=f"Bars at {time_text(times[t])}",
                    hint="Every price lies between low and high: look for exchanged columns.",
                )
        for name in ("volume", "buy_volume"):
            if name in arrays and ((arrays[name] < 0).any() or np.isinf(arrays[name]).any()):
                t, i = np.argwhere((arrays[name] < 0) | np.isinf(arrays[name]))[0]
                raise DataError(
                    f"{name} of {symbols[i]} is {arrays[name][t, i]:g}",
                    where=f"Bars at {time_text(times[t])}",
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
        return f"Bars({names}; {len(self):,} from {time_text(self.times[0])} to {time_text(self.times[-1])})"

    def _repr_html_(self) -> str:
        return as_html(f"{self!r}\n{self.to_frame().head(_SHOWN_ROWS)}")

    def to_frame(self) -> pl.DataFrame:
        """Return one row per time and symbol that has a bar: ts, open, high, low, close, volume, symbol."""
        length, width = self.close.shape
        return (
            pl.DataFrame(
                {
                    "ts": pl.Series(np.repeat(self.times, width)).cast(_TIME),
                    **{name: getattr(self, name).ravel() for name in (*PRICES, "volume")},
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
        return cls._from_rows(bars, "ts", ("symbol", "ts", *PRICES, "volume"))

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

        def panel(name: str) -> FloatArray:
            values = np.full((len(ticks), len(symbols)), np.nan)
            values[at, column] = rows[name].cast(pl.Float64).to_numpy()
            return values

        bought = panel("buy_volume") if "buy_volume" in rows.columns else None
        if bought is not None and np.isnan(bought).all():
            bought = None
        wanted = {name: panel(name) for name in (*PRICES, "volume")}
        return cls(times=ticks, symbols=symbols, buy_volume=bought, **wanted)

    def head(self, n: int) -> Bars:
        """Return the first n bars, or all if there are fewer, without a copy.

        Raises:
            BadRequestError: n is not a whole number of 1 or more.
        """
        whole(n, "n", "Bars.head", least=1)
        return self.changed(lambda _, values: values[:n])

    def tail(self, n: int) -> Bars:
        """Return the last n bars, or all if there are fewer, without a copy.

        Raises:
            BadRequestError: n is not a whole number of 1 or more.
        """
        whole(n, "n", "Bars.tail", least=1)
        return self.changed(lambda _, values: values[-n:])

    def column(self, symbol: str) -> int:
        """Return the column of a symbol.

        Raises:
            BadRequestError: there is none.
        """
        if symbol not in self.symbols:
            raise BadRequestError(f"no symbol {symbol!r}", where="Bars", hint=f"Symbols: {', '.join(self.symbols)}.")
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

    def changed(self, change: Callable[[str, Any], Any]) -> Bars:
        """Return bars whose arrays a function has changed, without checking them again.

        Args:
            change: from an array's name (`times`, `open`, ...) and the array to the new one; arrays that are None
                stay so.
        """
        arrays = {name: getattr(self, name) for name in ("times", *PRICES, "volume", "buy_volume")}
        made: dict[str, Any] = {
            name: None if values is None else change(name, values) for name, values in arrays.items()
        }
        return Bars.unchecked(symbols=self.symbols, **made)

    @classmethod
    def unchecked(
        cls,
        *,
        times: IntArray,
        symbols: tuple[str, ...],
        open: FloatArray,  # noqa: A002 - the name of the column
        high: FloatArray,
        low: FloatArray,
        close: FloatArray,
        volume: FloatArray,
        buy_volume: FloatArray | None = None,
    ) -> Bars:
        """Return bars of arrays that need no check, since they come from checked ones; arguments as the attributes."""
        bars = object.__new__(cls)
        bars.__dict__.update(
            times=times,
            symbols=symbols,
            open=open,
            high=high,
            low=low,
            close=close,
            volume=volume,
            buy_volume=buy_volume,
        )
        return bars


def time_text(ticks: int | np.integer[Any]) -> str:
    """Return a time in microseconds since 1970 UTC as text, to the minute."""
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
            f"times are not integers ({error})", where="Bars", hint="Give microseconds since 1970, or datetime64."
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
