"""Whether the clock can be trusted with removing what is past its time, by what the lake itself recorded.

Every commit says when it was made.  Where the time that the clock tells cannot be reached from the commits before it
without a rest longer than `LONGEST_REST`, it may have leapt ahead, and everything would look past its time: then
nothing is removed by age until somebody says that the clock is right.  Commits made since the leap prove nothing, since
they have the same clock; only after `LONG_ENOUGH` of them it is taken for right.

What this cannot notice: a clock that was wrong from the lake's first commit on, or one that goes wrong by less than
`LONGEST_REST` at a time.
"""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Final

import polars as pl

from hfthot_platform.core.errors import ClockError, LakehouseError
from hfthot_platform.domain.contracts.ops import INCIDENTS
from hfthot_platform.storage.lakehouse.commits import Stamp
from hfthot_platform.storage.lakehouse.lake import Lakehouse

__all__ = ["LONGEST_REST", "LONG_ENOUGH", "accept_clock", "check_clock"]

#: A lake that rests longer, or a clock that leaps further, is asked about before anything expires.
LONGEST_REST: Final = timedelta(days=14)
#: So long without such a gap, and the clock is taken for right.  Logs keep their entries for longer.
LONG_ENOUGH: Final = timedelta(days=28)
#: For how long a good answer is good.
_VALID: Final = timedelta(hours=1)
#: What an acceptance is among the incidents, and how far its time may be from the commit that carries it.
_KIND: Final = "clock"
_STEP: Final = "accepted"
_MARGIN: Final = timedelta(days=1)


def check_clock(lake: Lakehouse) -> None:
    """Check, before anything is removed for its age, that the clock did not leap ahead of all that was committed.

    Raises:
        ClockError: it did, or the lake rested for longer than `LONGEST_REST`; from here the two look the same.
    """
    now = lake.clock().astimezone(UTC)
    if lake.clock_checked is not None and timedelta(0) <= now - lake.clock_checked < _VALID:
        return
    accepted = _accepted(lake)
    times = sorted({time for time in (*commit_times(lake), *accepted) if time <= now}, reverse=True)
    edge = now
    for time in times:
        if now - edge >= LONG_ENOUGH:
            break
        if edge - time > LONGEST_REST:
            if any(moment >= edge - _MARGIN for moment in accepted):
                break
            raise ClockError(
                f"the clock says {now:%Y-%m-%d}, but between {time:%Y-%m-%d} and {edge:%Y-%m-%d} nothing was written, "
                "so nothing was removed",
                where="clock",
                hint="Correct the clock. If it is right and the lake was idle, run `hfthot maintain "
                "--clock-right`. `--dry-run` shows what would be removed.",
            )
        edge = time
    lake.clock_checked = now


def accept_clock(lake: Lakehouse, *, stamp: Stamp | None = None) -> None:
    """Take the clock for right: somebody looked at it.  `ops.incidents` keeps when."""
    now = lake.clock().astimezone(UTC)
    row = {
        "incident_id": f"{_KIND}-{_STEP}-{now.isoformat()}",
        "ts": now,
        "severity": "warning",
        "kind": _KIND,
        "step": _STEP,
        "message": "An operator confirmed that the clock is right.",
    }
    table = lake.table(INCIDENTS.name)
    schema = {name: table.contract.polars_schema[name] for name in row}
    table.merge(pl.DataFrame([row], schema=schema), on_change="keep", stamp=stamp or Stamp())


def commit_times(lake: Lakehouse) -> list[datetime]:
    """Return when the commits of all tables were made: by the store's clock if it has one, else by their own record.

    On an object store that is one request for a thousand commits of a table; reading them is one for each.
    """
    found: list[datetime] = []
    for table in lake.written_tables():
        try:
            # As they are: made non-decreasing, a commit under a clock that was wrong would carry all later ones along.
            known = table.backend.commit_times()
            found += table.log.recorded_times() if known is None else known
        except LakehouseError:
            # A damaged table proves nothing; the others do, and whoever works on it says what is wrong with it.
            continue
    return found


def _accepted(lake: Lakehouse) -> list[datetime]:
    table = lake.table(INCIDENTS.name)
    if table.version() is None:
        return []
    rows = table.scan().filter(pl.col("kind") == _KIND, pl.col("step") == _STEP).select("ts").collect()
    return rows["ts"].to_list()
