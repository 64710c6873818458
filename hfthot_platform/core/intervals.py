"""What a bar's interval is: its name, its length, and the grid on which bars open.  The only definition of it.

Names are a count and a unit: `5m`, `4h`, `3d`, `1w`, `1mo`.  Every whole number of minutes, hours, days, weeks or
months is an interval; each has one canonical name (60m is `1h`, 7d is `1w`).

Bars open at multiples of their length since 1970-01-01 UTC, so a daily bar is a UTC day, with these exceptions:
weeks begin on Monday, three-day bars at the days on which Binance begins them (1970-01-02 and every third day), and
months at the first of the calendar month.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from functools import lru_cache
from typing import TYPE_CHECKING, Final

import polars as pl

from hfthot_platform.core.errors import BadRequestError
from hfthot_platform.core.time import DAY, HOUR, MINUTE, WEEK

if TYPE_CHECKING:
    from collections.abc import Iterable

__all__ = [
    "DERIVED",
    "NAME_PATTERN",
    "Interval",
    "canonical_name",
    "close_times",
    "coarsest_base",
    "interval",
    "interval_microseconds",
    "of_distances",
    "of_length",
    "open_times",
]

_TIME: Final = pl.Datetime("us", "UTC")
#: Microseconds of a mean Gregorian month, for what needs a length at all.
_MONTH: Final = 2_629_746_000_000
_LONGEST_DAYS: Final = 366
_ON_GRID: Final = 0.9

#: Those that are computed from 1m bars and kept; any other is computed when it is asked for, or stated by a vendor.
DERIVED: Final = ("5m", "15m", "30m", "1h", "4h", "1d")
#: Canonical names of intervals longer than a minute, as a regular expression.
NAME_PATTERN: Final = r"(?:[2-9]|[1-9][0-9]{1,3})m|[1-9][0-9]?h|[1-9][0-9]{0,2}d|[1-9][0-9]?w|[1-9][0-9]?mo"

_UNITS: Final = {
    **dict.fromkeys(("s", "sec", "secs", "second", "seconds"), "s"),
    **dict.fromkeys(("m", "min", "mins", "minute", "minutes", "t"), "m"),
    **dict.fromkeys(("h", "hr", "hrs", "hour", "hours", "hourly"), "h"),
    **dict.fromkeys(("d", "day", "days", "daily", "b"), "d"),
    **dict.fromkeys(("w", "wk", "week", "weeks", "weekly"), "w"),
    **dict.fromkeys(("mo", "mon", "mth", "month", "months", "monthly", "mn"), "mo"),
    **dict.fromkeys(("y", "yr", "year", "years", "yearly"), "y"),
}
_COUNT_FIRST: Final = re.compile(r"(\d{1,6})[ _-]?([a-z]*)")
_UNIT_FIRST: Final = re.compile(r"([a-z]+?)[ _-]?(\d{0,4})")


@dataclass(frozen=True)
class Interval:
    """A length of bars: either a fixed number of microseconds, or calendar months (`months` is not 0)."""

    name: str
    #: Length, for months that of as many mean months.
    microseconds: int
    months: int = 0
    #: When one of the bars opens, microseconds since 1970-01-01 UTC.
    origin: int = 0

    def open_time(self, ts: pl.Expr) -> pl.Expr:
        """Return the open time of the bar that each time falls into."""
        if self.months:
            return ts.cast(_TIME).dt.truncate(f"{self.months}mo")
        # Integer arithmetic rather than dt.truncate: the same result at a third of the time, also before 1970.
        ticks = ts.cast(_TIME).to_physical()
        return (ticks - (ticks - self.origin) % self.microseconds).cast(_TIME)

    def close_time(self, open_time: pl.Expr) -> pl.Expr:
        """Return the exclusive end of the bars that open at the given times."""
        if self.months:
            return open_time.cast(_TIME).dt.offset_by(f"{self.months}mo")
        return (open_time.cast(_TIME).to_physical() + self.microseconds).cast(_TIME)

    def open_of(self, close_time: pl.Expr) -> pl.Expr:
        """Return the open times of the bars that close at the given times."""
        if self.months:
            return close_time.cast(_TIME).dt.offset_by(f"-{self.months}mo")
        return (close_time.cast(_TIME).to_physical() - self.microseconds).cast(_TIME)

    def holds_whole(self, finer: Interval) -> bool:
        """Return whether bars of this interval are made of whole bars of a finer one."""
        if self.months:
            return bool(finer.months and self.months % finer.months == 0) or (
                not finer.months and DAY % finer.microseconds == 0 and finer.origin == 0
            )
        return (
            not finer.months
            and self.microseconds % finer.microseconds == 0
            and (self.origin - finer.origin) % finer.microseconds == 0
        )

    def __str__(self) -> str:
        return self.name


@lru_cache(maxsize=4096)
def interval(name: str) -> Interval:
    """Return the interval of a name, in any usual spelling.

    Raises:
        BadRequestError: it is not a whole number of minutes, or is longer than a year.
    """
    canonical = canonical_name(name)
    if canonical is None:
        raise BadRequestError(
            f"unknown interval {name!r}",
            where="interval",
            hint="Expected a count and a unit, such as 5m, 4h, 1d, 1w or 1mo.",
        )
    count, unit = re.fullmatch(r"(\d+)(\w+)", canonical).groups()  # type: ignore[union-attr]
    number = int(count)
    if unit == "mo":
        return Interval(canonical, number * _MONTH, months=number)
    length = number * {"m": MINUTE, "h": HOUR, "d": DAY, "w": WEEK}[unit]
    # 1970-01-05 was a Monday.
    origin = 4 * DAY if unit == "w" else DAY if canonical == "3d" else 0
    return Interval(canonical, length, origin=origin)


def canonical_name(word: str | int) -> str | None:
    """Return the one name of an interval in any usual spelling, or None if it is not an interval.

    `60`, `H1`, `1hour` and `60min` are `1h`; `D` and `daily` are `1d`; `1M`, `MN1` and `monthly` are `1mo`.  A number
    alone counts minutes.
    """
    text = str(word).strip()
    if found := re.fullmatch(r"(\d{1,2})M", text):
        return canonical_name(f"{found[1]}mo")
    lower = text.lower()
    if found := _COUNT_FIRST.fullmatch(lower):
        count, unit = int(found[1]), _UNITS.get(found[2] or "m")
    elif found := _UNIT_FIRST.fullmatch(lower):
        count, unit = int(found[2] or 1), _UNITS.get(found[1])
    else:
        return None
    if unit is None or not count:
        return None
    if unit == "y":
        count, unit = 12 * count, "mo"
    for small, many, large in (("s", 60, "m"), ("m", 60, "h"), ("h", 24, "d"), ("d", 7, "w")):
        if unit == small and count % many == 0:
            count, unit = count // many, large
    days = {"s": 0, "m": 0, "h": count / 24, "d": count, "w": 7 * count, "mo": 30 * count}[unit]
    too_fine = unit == "s" or (unit == "m" and count > 9999) or (unit == "h" and count > 99)
    return None if too_fine or days > _LONGEST_DAYS else f"{count}{unit}"


def close_times(ts: pl.Expr, names: pl.Expr, known: Iterable[str]) -> pl.Expr:
    """Return the exclusive ends of bars of several intervals; null where the name is not a known one."""
    ends = (pl.when(names == name).then(interval(name).close_time(ts)) for name in known)
    return pl.coalesce(pl.lit(None, _TIME), *ends)


def open_times(close: pl.Expr, names: pl.Expr, known: Iterable[str]) -> pl.Expr:
    """Return the open times of bars of several intervals by their ends; null as in `close_times`."""
    opens = (pl.when(names == name).then(interval(name).open_of(close)) for name in known)
    return pl.coalesce(pl.lit(None, _TIME), *opens)


def interval_microseconds(name: str, where: str) -> int:
    """Return the length of a named interval.

    Raises:
        BadRequestError: no interval has this name, or it is one of calendar months.
    """
    found = interval(name)
    if found.months:
        raise BadRequestError(f"{name!r} has no fixed length", where=where, hint="Use bars of at most weeks.")
    return found.microseconds


def of_length(microseconds: int) -> Interval | None:
    """Return the interval of a fixed length, or None if there is none; 28 to 31 days are a calendar month."""
    if 28 * DAY < microseconds <= 31 * DAY:
        return interval("1mo")
    minutes, rest = divmod(microseconds, MINUTE)
    name = canonical_name(minutes) if minutes > 0 and not rest else None
    return interval(name) if name else None


def of_distances(distances: pl.Series) -> Interval | None:
    """Return the interval of bars whose open times are so many microseconds apart, or None if they are on no grid.

    The most frequent distance is the length, if nine of ten are whole multiples of it: the others are gaps.
    """
    positive = distances.drop_nulls().filter(distances.drop_nulls() > 0)
    if positive.is_empty():
        return None
    counts = positive.value_counts(sort=True)
    usual = int(counts.filter(pl.col("count") == counts["count"].max())[positive.name].min())  # type: ignore[arg-type]
    month = positive.is_between(28 * DAY, 31 * DAY).mean()
    if positive.min() != 28 * DAY and isinstance(month, float) and month >= _ON_GRID and positive.n_unique() > 1:
        return interval("1mo")
    on_grid = (positive % usual == 0).mean()
    return of_length(usual) if isinstance(on_grid, float) and on_grid >= _ON_GRID else None


def coarsest_base(wanted: str, available: Iterable[str]) -> str | None:
    """Return the longest of the available intervals that bars of the wanted one are made of, or None."""
    whole = interval(wanted)
    bases = [base for base in map(interval, available) if base.name != whole.name and whole.holds_whole(base)]
    return max(bases, key=lambda base: base.microseconds).name if bases else None
