"""Requests of export and erasure start their jobs."""

import json
from collections.abc import Iterator
from datetime import timedelta

import dagster as dg

from hfthot_platform.services.privacy.erasure_requests import incident_of, list_erasures, pending_erasures
from hfthot_platform.services.privacy.export import pending_exports
from hfthot_platform.storage.incidents import notify, record
from resources.platform import NO_ACCOUNTS, Platform

__all__ = ["SENSORS"]


@dg.sensor(
    job_name="rgpd_erasure",
    minimum_interval_seconds=60,
    default_status=dg.DefaultSensorStatus.RUNNING,
    description="Starts each requested erasure, once.",
)
def erasure_requests(
    context: dg.SensorEvaluationContext, platform: dg.ResourceParam[Platform]
) -> Iterator[dg.RunRequest | dg.SkipReason]:
    """Start each erasure once: the run's key is the request's random id.  One without a proof becomes an incident."""
    pending: list[str] = []
    if platform.has_accounts:
        pending = pending_erasures(platform.accounts)
        context.update_cursor(_report_unproven(platform, context.cursor))
    for request_id in pending:
        yield dg.RunRequest(
            run_key=request_id,
            run_config={"ops": {"erase_person": {"config": {"request_id": request_id}}}},
        )
    if not pending:
        yield dg.SkipReason("no erasure is waiting" if platform.has_accounts else NO_ACCOUNTS)


def _report_unproven(platform: Platform, cursor: str | None) -> str:
    """Report each erasure that failed, or ends soon or ended without a proof, once; return a cursor of what was."""
    known = set(json.loads(cursor)) if cursor else set()
    reported = []
    for erasure in list_erasures(platform.accounts):
        incident = incident_of(erasure, platform.clock())
        if incident is None:
            continue
        if incident.incident_id not in known:
            record(platform.lake, incident)
            notify(platform.settings, incident)
        reported.append(incident.incident_id)
    return json.dumps(sorted(reported))


@dg.sensor(
    job_name="rgpd_export",
    minimum_interval_seconds=60,
    default_status=dg.DefaultSensorStatus.RUNNING,
    description="Starts each requested export that nobody waits for, once.",
)
def export_requests(
    context: dg.SensorEvaluationContext, platform: dg.ResourceParam[Platform]
) -> Iterator[dg.RunRequest | dg.SkipReason]:
    """Start each export once: the run's key is the request's random id."""
    del context
    waiting: list[str] = []
    if platform.has_accounts:
        # Those that a caller waits for are done within moments; what is older was left to us.
        waiting = pending_exports(platform.accounts, older_than=timedelta(minutes=1))
    for request_id in waiting:
        yield dg.RunRequest(
            run_key=request_id,
            run_config={"ops": {"export_person": {"config": {"request_id": request_id}}}},
        )
    if not waiting:
        yield dg.SkipReason("no export is waiting" if platform.has_accounts else NO_ACCOUNTS)


SENSORS = [erasure_requests, export_requests]
