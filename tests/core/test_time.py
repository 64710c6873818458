"""Arithmetic of time: conversions are exact, days begin at midnight UTC, partitions tile the calendar."""

from datetime import UTC, date, datetime, timedelta, timezone

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hfthot_platform.core.errors import BadRequestError
from hfthot_platform.core.time import (
    DAY,
    ONE_DAY,
    bounds,
    day_at_or_after,
    day_of,
    each_day,
    microseconds,
    midnight,
    moment,
    partition_days,
    partition_range,
    partition_value,
)

GRAINS = st.sampled_from(["date", "month", "year"])
DAYS = st.dates(date(1, 1, 1), date(9998, 12, 31))
TIMES = st.datetimes(timezones=st.just(UTC))


@settings(deadline=None)
@given(TIMES)
def test_a_time_survives_the_way_to_microseconds_and_back(at):
    assert moment(microseconds(at)) == at


@settings(deadline=None)
@given(TIMES)
def test_the_day_of_a_time_is_that_of_its_calendar(at):
    assert day_of(microseconds(at)) == at.date()


def test_microseconds_are_exact_where_a_float_of_seconds_is_not():
    assert microseconds(datetime(2100, 1, 1, 0, 0, 0, 1, UTC)) == 4_102_444_800_000_001


def test_another_zone_is_the_same_instant():
    there = datetime(2024, 1, 1, 1, tzinfo=timezone(timedelta(hours=1)))
    assert microseconds(there) == microseconds(midnight(date(2024, 1, 1)))


def test_a_time_without_zone_is_refused():
    with pytest.raises(BadRequestError, match="a time without a zone: 2024-01-01 00:00:00"):
        microseconds(datetime(2024, 1, 1))


def test_times_before_1970_belong_to_the_day_that_they_lie_in():
    assert day_of(-1) == date(1969, 12, 31)
    assert day_of(-DAY) == date(1969, 12, 31)


def test_the_first_whole_day_after_a_time_is_its_own_only_at_midnight():
    assert day_at_or_after(midnight(date(2024, 2, 29))) == date(2024, 2, 29)
    assert day_at_or_after(datetime(2024, 2, 29, 0, 0, 0, 1, UTC)) == date(2024, 3, 1)
    assert day_at_or_after(datetime(2024, 3, 1, 0, tzinfo=timezone(timedelta(hours=1)))) == date(2024, 3, 1)


def test_the_bounds_of_a_day_are_it_and_the_next():
    assert bounds(date(2024, 2, 29)) == (date(2024, 2, 29), date(2024, 3, 1))


def test_the_bounds_of_no_span_are_none():
    assert bounds(None) is None


def test_an_empty_span_is_refused():
    with pytest.raises(BadRequestError, match="the span 2024-01-02 to 2024-01-02 is empty"):
        bounds((date(2024, 1, 2), date(2024, 1, 2)))


def test_the_last_day_of_the_calendar_is_refused():
    with pytest.raises(BadRequestError, match="no day is after 9999-12-31"):
        bounds(date.max)


def test_each_day_of_a_range_stands_once_and_in_order():
    days = each_day((date(2024, 2, 28), date(2024, 3, 1)))
    assert days == [date(2024, 2, 28), date(2024, 2, 29)]


@settings(deadline=None)
@given(GRAINS, DAYS)
def test_a_day_lies_in_its_partition_and_the_next_partition_begins_where_it_ends(grain, day):
    value = partition_value(grain, day)
    first, end = partition_days(grain, value)
    assert first <= day < end
    assert partition_value(grain, first) == partition_value(grain, end - ONE_DAY) == value
    assert partition_days(grain, partition_value(grain, end))[0] == end


@settings(deadline=None)
@given(GRAINS, DAYS)
def test_a_partition_is_found_by_the_text_of_its_value(grain, day):
    value = partition_value(grain, day)
    assert partition_days(grain, str(value)) == partition_days(grain, value)


@settings(deadline=None)
@given(GRAINS, DAYS, st.integers(1, 800))
def test_a_span_touches_the_partitions_of_its_first_and_its_last_day(grain, first, length):
    last = min(first + timedelta(days=length - 1), date(9998, 12, 31))
    assert partition_range(grain, (first, last + ONE_DAY)) == (
        partition_value(grain, first),
        partition_value(grain, last),
    )


def test_the_last_partition_of_the_calendar_has_no_next_one():
    with pytest.raises(OverflowError):
        partition_days("month", date(9999, 12, 1))
    with pytest.raises(OverflowError):
        partition_days("year", 9999)
