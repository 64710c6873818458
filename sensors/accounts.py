"""Entries in the change log of the accounts start a publication, files of user events their ingestion."""

import hashlib

import dagster as dg

from hfthot_platform.services.ingest.users import waiting_user_files
from hfthot_platform.services.publication.publisher import Publisher
from resources.platform import NO_ACCOUNTS, Platform

__all__ = ["SENSORS"]

_JOB = "accounts_publish"
_UNDER_WAY = [
    dg.DagsterRunStatus.QUEUED,
    dg.DagsterRunStatus.NOT_STARTED,
    dg.DagsterRunStatus.STARTING,
    dg.DagsterRunStatus.STARTED,
]


@dg.sensor(
    job_name=_JOB,
    minimum_interval_seconds=30,
    default_status=dg.DefaultSensorStatus.RUNNING,
    description="Publishes the user tables when the accounts' change log is ahead of them.",
)
def accounts_changes(
    context: dg.SensorEvaluationContext, platform: dg.ResourceParam[Platform]
) -> dg.SensorResult | dg.SkipReason:
    """Ask for a publication when the log is ahead of the user tables."""
    if not platform.has_accounts:
        return dg.SkipReason(NO_ACCOUNTS)
    if not Publisher(platform.store, platform.lake).behind():
        return dg.SkipReason("the user tables have every entry")
    if context.instance.get_run_records(dg.RunsFilter(job_name=_JOB, statuses=_UNDER_WAY), limit=1):
        return dg.SkipReason("a publication is under way")
    head = platform.store.head()[0]
    # A state that could not be published is tried again every hour, and whenever there is something new.
    key = f"accounts:{head}:{platform.clock():%Y%m%dT%H}"
    return dg.SensorResult(run_requests=[dg.RunRequest(run_key=key)], cursor=str(head))


@dg.sensor(
    job_name="user_files",
    minimum_interval_seconds=30,
    default_status=dg.DefaultSensorStatus.RUNNING,
    description="Ingests the files of user events that wait in <landing>/users.",
)
def user_events(
    context: dg.SensorEvaluationContext, platform: dg.ResourceParam[Platform]
) -> dg.RunRequest | dg.SkipReason:
    """Ask for one run per set of waiting files, and every hour for those that wait for a registration."""
    if not platform.has_accounts:
        return dg.SkipReason(NO_ACCOUNTS)
    now = platform.clock()
    files = waiting_user_files(platform.settings, now)
    if not files:
        return dg.SkipReason("no file of user events is waiting")
    context.log.info("%d files are waiting", len(files))
    digest = hashlib.sha256(str(sorted(files)).encode()).hexdigest()
    return dg.RunRequest(run_key=f"user_files:{digest}:{now:%Y%m%dT%H}")


SENSORS = [accounts_changes, user_events]
