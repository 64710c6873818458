"""Dagster's own event log: old events leave it each night."""

from datetime import timedelta

import dagster as dg

from jobs.common import whole_schedule
from resources.event_log import purge_events
from resources.platform import Platform

__all__ = ["SCHEDULES", "event_log"]


@dg.op(description="Delete the events of ended runs that are older than `event_log_days`; the state of assets stays.")
def purge_event_log(context: dg.OpExecutionContext, platform: dg.ResourceParam[Platform]) -> None:
    """Purge the event log of this instance."""
    before = platform.clock() - timedelta(days=platform.settings.event_log_days)
    purged = purge_events(context.instance, before)
    context.add_output_metadata(
        {"events": purged.events, "runs": purged.runs, "before": f"{before:%Y-%m-%d %H:%M} UTC"}
    )


@dg.job(description="Keep Dagster's event log from growing.")
def event_log() -> None:
    """Purge the event log."""
    purge_event_log()


SCHEDULES = [whole_schedule("event_log_nightly", "event_log", "30 3 * * *")]
