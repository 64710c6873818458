"""What jobs share: selecting tables with their gates, and schedules, all in UTC."""

from datetime import timedelta
from typing import Final

import dagster as dg

from assets.common import RULES, asset_key

__all__ = ["TODAY", "YESTERDAY", "daily_schedule", "tables_with_gates", "whole_schedule"]

#: Which day a scheduled run is for, as days before the tick.
TODAY: Final = 0
YESTERDAY: Final = 1


def tables_with_gates(*names: str) -> dg.AssetSelection:
    """Select tables with the blocking checks that belong to them, and none of the stand-alone checks.

    Those (Great Expectations and the like: the import alone takes seconds) have a weekly job.
    """
    keys = [asset_key(name) for name in names]
    gates = dg.AssetSelection.checks(*(dg.AssetCheckKey(key, RULES) for key in keys))
    return dg.AssetSelection.assets(*keys).without_checks() | gates


def whole_schedule(name: str, job: str, cron: str, *, running: bool = True) -> dg.ScheduleDefinition:
    """Run a job that knows no partitions.

    Args:
        name: of the schedule.
        job: name of the job.
        cron: when, in UTC.
        running: as for `daily_schedule`.
    """
    return dg.ScheduleDefinition(
        name=name,
        job_name=job,
        cron_schedule=cron,
        execution_timezone="UTC",
        default_status=_status(running=running),
        description=_described(job, "", running=running),
    )


def daily_schedule(name: str, job: str, cron: str, *, day: int, running: bool = True) -> dg.ScheduleDefinition:
    """Run a job for the partition of the tick's day or of the day before.

    Args:
        name: of the schedule.
        job: name of an asset job of daily partitions.
        cron: when, in UTC.
        day: TODAY or YESTERDAY.
        running: whether it runs from the first start on; what needs a live feed waits to be switched on.
    """

    @dg.schedule(
        name=name,
        job_name=job,
        cron_schedule=cron,
        execution_timezone="UTC",
        default_status=_status(running=running),
        description=_described(job, " for its own day" if day == TODAY else " for the day before", running=running),
    )
    def scheduled(context: dg.ScheduleEvaluationContext) -> dg.RunRequest:
        at = context.scheduled_execution_time
        return dg.RunRequest(run_key=f"{name}:{at.isoformat()}", partition_key=f"{at.date() - timedelta(days=day)}")

    return scheduled


def _described(job: str, which: str, *, running: bool) -> str:
    """Return what the UI says of a schedule, beside its times."""
    off = "" if running else " Off until it is switched on here."
    return f"Runs the job `{job}`{which}, in UTC.{off}"


def _status(*, running: bool) -> dg.DefaultScheduleStatus:
    return dg.DefaultScheduleStatus.RUNNING if running else dg.DefaultScheduleStatus.STOPPED
