"""Points in time and days: units, conversions, spans.  Times are UTC; integers are microseconds since 1970.

What belongs here: arithmetic of time that knows no table and no market.  Lengths and grids of bars are in `intervals`.
"""

from __future__ import annotations

from datetime import UTC, date, datetime, timedelta
from typing import Final

__all__ = ["DAY", "HOUR", "MINUTE", "SECOND", "Days", "microseconds", "moment", "utc_now"]

#: Lengths in microseconds.
SECOND: Final = 1_000_000
MINUTE: Final = 60 * SECOND
HOUR: Final = 60 * MINUTE
DAY: Final = 24 * HOUR

#: The days from a first to before a second one.
Days = tuple[date, date]

_EPOCH: Final = datetime(1970, 1, 1, tzinfo=UTC)
_MICROSECOND: Final = timedelta(microseconds=1)


def utc_now() -> datetime:
    """Return the present time; whoever reads the clock takes it as an argument, and this as its default."""
    return datetime.now(UTC)


def microseconds(at: datetime) -> int:
    """Return an aware time in microseconds since 1970, exactly."""
    return (at - _EPOCH) // _MICROSECOND


def moment(at: int) -> datetime:
    """Return a time in microseconds as a datetime in UTC, exactly."""
    return _EPOCH + timedelta(microseconds=at)
