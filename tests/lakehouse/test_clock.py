"""A clock that leapt ahead removes nothing: what is past its time is decided by what the lake itself recorded."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pytest

from hfthot_platform.core.errors import ClockError
from hfthot_platform.storage.lakehouse import Lakehouse, accept_clock, check_clock, maintain
from hfthot_platform.storage.lakehouse import clock as clocks


@pytest.fixture
def clock(lake):
    """Return the lake's clock as a list of one time; the commits have the machine's own."""
    now = [datetime.now(UTC)]
    lake.clock = lambda: now[0]
    return now


def leap(clock, **span):
    clock[0] += timedelta(**span)


def test_a_clock_a_year_ahead_removes_no_version_no_row_and_no_log_entry(lake, trades, clock):
    table = lake.table("market.trades")
    for first in range(0, 30, 10):
        table.merge(trades(first_id=first))
    versions = [version.version for version in table.readable_versions()]
    leap(clock, days=365)

    with pytest.raises(ClockError, match=r"nothing was removed.*--clock-right"):
        maintain(lake, "market.trades")
    assert maintain(lake, "market.trades", dry_run=True).rows_expired == 0
    assert [version.version for version in table.readable_versions()] == versions

    leap(clock, days=-365)
    assert maintain(lake, "market.trades").table == "market.trades", "put right, everything goes on"


def test_commits_made_since_the_leap_do_not_make_it_right(lake, trades, clock, monkeypatch):
    lake.table("market.trades").merge(trades())
    real = clocks.commit_times(lake)
    leap(clock, days=365)
    monkeypatch.setattr(clocks, "commit_times", lambda _: [*real, clock[0], clock[0] - timedelta(hours=1)])

    with pytest.raises(ClockError):
        check_clock(lake)


@pytest.mark.parametrize(
    ("days_ago", "doubted"),
    [
        ([], False),
        ([0], False),
        ([13, 0], False),
        ([15], True),
        ([400, 0], True),
        ([400, 20, 7], True),
        ([400, 29, 20, 7], False),
        ([-3, 1], False),
    ],
    ids=["no commit", "the first", "a rest", "a long rest", "a leap", "lately", "for weeks", "set back"],
)
def test_the_time_is_doubted_by_the_gaps_between_commits(lake, clock, monkeypatch, days_ago, doubted):
    monkeypatch.setattr(clocks, "commit_times", lambda _: [clock[0] - timedelta(days=days) for days in days_ago])
    if doubted:
        with pytest.raises(ClockError):
            check_clock(lake)
    else:
        check_clock(lake)


def test_a_clock_that_somebody_looked_at_is_trusted_until_it_leaps_again(lake, trades, clock):
    lake.table("market.trades").merge(trades())
    leap(clock, days=100)
    accept_clock(lake)
    check_clock(lake)
    leap(clock, days=13)
    check_clock(lake)
    leap(clock, days=15)
    with pytest.raises(ClockError):
        check_clock(lake)


def test_a_good_answer_is_no_answer_for_a_clock_that_leaps_meanwhile(lake, trades, clock):
    lake.table("market.trades").merge(trades())
    check_clock(lake)
    leap(clock, days=365)
    with pytest.raises(ClockError):
        check_clock(lake)


def test_a_damaged_table_keeps_nobody_from_looking_at_the_clock(lake, trades, bars, clock):
    lake.table("market.trades").merge(trades())
    lake.table("market.bars").merge(bars([clock[0].date()]))
    for entry in (lake.table("market.bars").folder / "_delta_log").glob("*.json"):
        entry.write_text("{")
    opened = Lakehouse.open(lake.storage.root, clock=lake.clock)
    check_clock(opened)
    leap(clock, days=365)
    with pytest.raises(ClockError):
        check_clock(opened)
