"""Entries in the change log of the accounts start a publication."""

import dagster as dg

from hfthot_platform.accounts.publisher import Publisher
from resources.platform import Platform

__all__ = ["SENSORS"]

_JOB = "accounts_publish"
_UNDER_WAY = [
    dg.DagsterRunStatus.QUEUED,
    dg.DagsterRunStatus.NOT_STARTED,
    dg.DagsterRunStatus.STARTING,
    dg.DagsterRunStatus.STARTED,
]


@dg.sensor(job_name=_JOB, minimum_interval_seconds=30, default_status=dg.DefaultSensorStatus.RUNNING)
def accounts_changes(
    context: dg.SensorEvaluationContext, platform: dg.ResourceParam[Platform]
) -> dg.SensorResult | dg.SkipReason:
    """Ask for a publication when the log is ahead of the user tables."""
    if not platform.has_accounts:
        return dg.SkipReason("there are no accounts yet")
    if not Publisher(platform.store, platform.lake).behind():
        return dg.SkipReason("the user tables have every entry")
    if context.instance.get_run_records(dg.RunsFilter(job_name=_JOB, statuses=_UNDER_WAY), limit=1):
        return dg.SkipReason("a publication is under way")
    head = platform.store.head()[0]
    # A state that could not be published is tried again every hour, and whenever there is something new.
    key = f"accounts:{head}:{platform.clock():%Y%m%dT%H}"
    return dg.SensorResult(run_requests=[dg.RunRequest(run_key=key)], cursor=str(head))


SENSORS = [accounts_changes]
