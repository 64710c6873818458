"""On which days a market trades.

Crypto trades always; US equities and their indices on the days of the New York Stock Exchange; currencies, and
shares of other countries (whose holidays are not known here), from Monday to Friday.  The rules below reproduce every
trading day of the S&P 500 from 1972 on; before that (Saturday sessions, election days, the paper crisis) no calendar
is claimed.
"""

from __future__ import annotations

from datetime import date, timedelta
from functools import lru_cache
from typing import TYPE_CHECKING, Final, Literal

import numpy as np

from hfthot_platform.core.errors import BadRequestError
from hfthot_platform.core.time import Days
from hfthot_platform.domain.market.symbol_facts import US_EXCHANGES
from hfthot_platform.domain.market.symbols import market_kind

if TYPE_CHECKING:
    from collections.abc import Iterable

    from numpy.typing import NDArray

__all__ = [
    "FIRST_US_YEAR",
    "Calendar",
    "calendar_of",
    "days_of_calendar",
    "trades_daily",
    "trading_days",
    "us_trading_days",
]

Calendar = Literal["always", "weekdays", "us"]

#: First year for which the rules of the US calendar hold.
FIRST_US_YEAR: Final = 1972

_MONDAY, _THURSDAY, _SATURDAY, _SUNDAY = 0, 3, 5, 6
# Days on which the exchange stayed shut for an event: no rule can know them.
_CLOSED_ONCE: Final = frozenset(
    date.fromisoformat(day)
    for day in (
        *("1972-11-07", "1976-11-02", "1980-11-04"),  # presidential elections
        *("1972-12-28", "1973-01-25"),  # funerals of Truman and Johnson
        "1977-07-14",  # New York blackout
        "1985-09-27",  # hurricane Gloria
        "1994-04-27",  # funeral of Nixon
        *("2001-09-11", "2001-09-12", "2001-09-13", "2001-09-14"),  # attacks of 11 September
        "2004-06-11",  # funeral of Reagan
        "2007-01-02",  # funeral of Ford
        *("2012-10-29", "2012-10-30"),  # hurricane Sandy
        "2018-12-05",  # funeral of George H. W. Bush
        "2025-01-09",  # funeral of Carter
    )
)


@lru_cache(maxsize=1024)
def calendar_of(venue: str) -> Calendar:
    """Return the days on which a venue trades: every day, Monday to Friday, or those of the NYSE."""
    if venue.startswith("us_") or venue in US_EXCHANGES:
        return "us"
    return "always" if market_kind(venue) == "coin" else "weekdays"


def trades_daily(venue: str) -> bool:
    """Return whether a venue trades every day of the year, as crypto does."""
    return calendar_of(venue) == "always"


def days_of_calendar(calendar: Calendar, start: date, end: date) -> NDArray[np.datetime64]:
    """Return the days of a calendar from start to before end.

    Raises:
        BadRequestError: the US calendar before 1972, where its rules do not hold.
    """
    if calendar == "us":
        return us_trading_days(start, end)
    days = np.arange(np.datetime64(start, "D"), np.datetime64(end, "D"))
    return days[np.is_busday(days)] if calendar == "weekdays" else days


def us_trading_days(start: date, end: date) -> NDArray[np.datetime64]:
    """Return the days from start to before end on which the NYSE traded (or will, as far as rules tell).

    Raises:
        BadRequestError: the span begins before 1972, where the rules do not hold.
    """
    if start.year < FIRST_US_YEAR:
        raise BadRequestError(
            f"no calendar before {FIRST_US_YEAR}: {start}", where="US trading days", hint="Ask for a later start."
        )
    closed = [day for year in range(start.year, end.year + 1) for day in _holidays(year)]
    days = np.arange(np.datetime64(start, "D"), np.datetime64(end, "D"))
    return days[np.is_busday(days, holidays=np.array(sorted(closed), "datetime64[D]"))]


@lru_cache
def _holidays(year: int) -> frozenset[date]:
    """Return the days of a year, weekends apart, on which the exchange is closed.

    Source: NYSE rule 7.2 and its history.  A holiday on a Saturday is kept on the Friday before, unless that
    ends a year (so not New Year's Day); one on a Sunday on the Monday after.
    """
    new_year = date(year, 1, 1)
    days = {
        new_year + timedelta(days=1) if new_year.weekday() == _SUNDAY else new_year,
        _nth(year, 2, _MONDAY, 3),  # Washington's birthday
        _easter(year) - timedelta(days=2),  # Good Friday
        _nth(year, 6, _MONDAY, 1) - timedelta(weeks=1),  # Memorial Day: the last Monday of May
        _observed(date(year, 7, 4)),
        _nth(year, 9, _MONDAY, 1),  # Labor Day
        _nth(year, 11, _THURSDAY, 4),  # Thanksgiving
        _observed(date(year, 12, 25)),
    }
    if year >= 1998:
        days.add(_nth(year, 1, _MONDAY, 3))  # Martin Luther King's day
    if year >= 2022:
        days.add(_observed(date(year, 6, 19)))  # Juneteenth
    return frozenset(days | {day for day in _CLOSED_ONCE if day.year == year})


def _observed(day: date) -> date:
    shift = {_SATURDAY: -1, _SUNDAY: 1}.get(day.weekday(), 0)
    return day + timedelta(days=shift)


def _nth(year: int, month: int, weekday: int, n: int) -> date:
    first = date(year, month, 1)
    return first + timedelta(days=(weekday - first.weekday()) % 7 + 7 * (n - 1))


def _easter(year: int) -> date:
    """Return Easter Sunday (Gauss's rule as completed by Butcher, Gregorian calendar)."""
    century, in_century = divmod(year, 100)
    golden = year % 19
    leap_centuries, rest = divmod(century, 4)
    moon = (century - (century + 8) // 25 + 1) // 3
    epact = (19 * golden + century - leap_centuries - moon + 15) % 30
    to_sunday = (32 + 2 * rest + 2 * (in_century // 4) - epact - in_century % 4) % 7
    correction = (golden + 11 * epact + 22 * to_sunday) // 451
    month, day = divmod(epact + to_sunday - 7 * correction + 114, 31)
    return date(year, month, day + 1)


def trading_days(venues: Iterable[str], days: Days, where: str) -> list[date]:
    """Return the days, from a first to before a second, on which the venues trade.

    Raises:
        BadRequestError: the venues trade on different days, or the days are not in order.
    """
    if days[1] <= days[0]:
        raise BadRequestError(
            f"days from {days[0]} to before {days[1]}", where=where, hint="Give a second day after the first."
        )
    named = sorted(set(venues))
    calendars = {calendar_of(venue) for venue in named}
    if len(calendars) > 1:
        raise BadRequestError(
            f"venues {', '.join(named)} trade on different days",
            where=where,
            hint="Give markets that trade daily, from Monday to Friday, or by the US calendar, not several of them.",
        )
    calendar = calendars.pop() if calendars else "always"
    return list(days_of_calendar(calendar, *days).astype("datetime64[D]").tolist())
