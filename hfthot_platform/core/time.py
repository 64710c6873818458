"""Points in time, days and partitions by time: units, conversions, ranges.  The only place for that arithmetic.

Times are UTC; integers are microseconds since 1970-01-01.  What belongs here: arithmetic of time that knows no table
and no market.  What does not: lengths and grids of bars (`intervals`), and reading times that people wrote.
"""

from __future__ import annotations

from datetime import UTC, date, datetime, time, timedelta
from typing import Final, Literal, TypeAlias, overload

from hfthot_platform.core.errors import BadRequestError

__all__ = [
    "DAY",
    "HOUR",
    "MILLISECOND",
    "MINUTE",
    "ONE_DAY",
    "SECOND",
    "WEEK",
    "Days",
    "Grain",
    "PartitionValue",
    "Span",
    "bounds",
    "day_at_or_after",
    "day_number",
    "day_of",
    "each_day",
    "microseconds",
    "midnight",
    "moment",
    "partition_days",
    "partition_range",
    "partition_value",
    "utc_from_iso",
    "utc_now",
]

#: Lengths in microseconds.
MILLISECOND: Final = 1_000
SECOND: Final = 1_000 * MILLISECOND
MINUTE: Final = 60 * SECOND
HOUR: Final = 60 * MINUTE
DAY: Final = 24 * HOUR
WEEK: Final = 7 * DAY

ONE_DAY: Final = timedelta(days=1)

#: The days from a first to before a second one.
Days: TypeAlias = tuple[date, date]
#: A day, or the days from a first to before a second one.
Span: TypeAlias = date | Days
#: What a partition by time holds: a day, a calendar month, a calendar year.
Grain: TypeAlias = Literal["date", "month", "year"]
#: How a partition is written: its (first) day, or the number of its year.
PartitionValue: TypeAlias = date | int

_EPOCH: Final = datetime(1970, 1, 1, tzinfo=UTC)
_EPOCH_DAY: Final = _EPOCH.date()
_MICROSECOND: Final = timedelta(microseconds=1)


def utc_now() -> datetime:
    """Return the present time; whoever reads the clock takes it as an argument, and this as its default."""
    return datetime.now(UTC)


def microseconds(at: datetime) -> int:
    """Return an aware time in microseconds since 1970, exactly.

    Raises:
        BadRequestError: it has no time zone.
    """
    try:
        return (at - _EPOCH) // _MICROSECOND
    except TypeError:
        raise BadRequestError(f"a time without a zone: {at}", where="time", hint="Use datetime.now(UTC).") from None


def moment(at: int) -> datetime:
    """Return a time in microseconds as a datetime in UTC, exactly.

    Raises:
        OverflowError: it is beyond the years 1 to 9999.
    """
    return _EPOCH + timedelta(microseconds=at)


def utc_from_iso(text: str) -> datetime:
    """Return an ISO 8601 text as a time in UTC; one without a zone is taken to be in UTC.

    Raises:
        ValueError: it is not such a text, or beyond the years 1 to 9999 in UTC.
    """
    at = datetime.fromisoformat(text)
    try:
        return at.astimezone(UTC) if at.tzinfo else at.replace(tzinfo=UTC)
    except OverflowError:
        raise ValueError(f"{text} is out of range") from None


def day_of(at: int) -> date:
    """Return the UTC day that a time in microseconds falls into."""
    return _EPOCH_DAY + timedelta(days=at // DAY)


def day_number(day: date) -> int:
    """Return the number of a day, counted from 1970-01-01."""
    return (day - _EPOCH_DAY).days


def midnight(day: date) -> datetime:
    """Return the instant at which a UTC day begins."""
    return datetime.combine(day, time(), UTC)


def day_at_or_after(at: datetime) -> date:
    """Return the first UTC day that begins at a time or later: the first one that is wholly after it."""
    utc = at.astimezone(UTC)
    return utc.date() if utc.time() == time() else utc.date() + ONE_DAY


@overload
def bounds(span: Span) -> Days: ...
@overload
def bounds(span: None) -> None: ...
def bounds(span: Span | None) -> Days | None:
    """Return a day, or a range of days, as its first day and the day after its last; None stays None.

    Raises:
        BadRequestError: the range is empty, or it is the last day of the calendar, which no day is after.
    """
    if span is None:
        return None
    if span == date.max:
        raise BadRequestError(f"no day is after {span}", where="partition", hint="Give an earlier day.")
    first, end = span if isinstance(span, tuple) else (span, span + ONE_DAY)
    if end <= first:
        raise BadRequestError(f"the span {first} to {end} is empty", where="partition", hint="End is exclusive.")
    return first, end


def each_day(days: Days) -> list[date]:
    """Return the days from a first to before a second one, in order; none if the second is not later."""
    first, end = days
    return [first + timedelta(days=number) for number in range((end - first).days)]


def partition_value(grain: Grain, day: date) -> PartitionValue:
    """Return the value of the partition that holds a day: the day, the first day of its month, or its year."""
    if grain == "year":
        return day.year
    return day if grain == "date" else day.replace(day=1)


def partition_range(grain: Grain, span: Span) -> tuple[PartitionValue, PartitionValue]:
    """Return the values of the first and the last partition that a span of days touches.

    Raises:
        BadRequestError: the span is empty.
    """
    first, end = bounds(span)
    return partition_value(grain, first), partition_value(grain, end - ONE_DAY)


def partition_days(grain: Grain, value: PartitionValue | str) -> Days:
    """Return the days of a partition: its first, and the first of the next one.

    Args:
        grain: what a partition holds.
        value: the partition, as `partition_value` gives it or as its text (in a folder's name).

    Raises:
        ValueError: the text is not such a value.
        OverflowError: there is no next partition: it holds the last day of the calendar.
    """
    if grain == "year":
        year = value.year if isinstance(value, date) else int(value)
        return date(year, 1, 1), _first_of(year + 1, 1)
    day = value if isinstance(value, date) else date.fromisoformat(str(value))
    if grain == "date":
        return day, day + ONE_DAY
    return day.replace(day=1), _first_of(day.year + day.month // 12, day.month % 12 + 1)


def _first_of(year: int, month: int) -> date:
    if year > date.max.year:
        raise OverflowError(f"the calendar ends with the year {date.max.year}")
    return date(year, month, 1)
