"""Failed runs become incidents."""

import re
from typing import Final

import dagster as dg

from hfthot_platform import errors
from hfthot_platform.incidents import Incident, notify, record
from resources.platform import Platform

__all__ = ["SENSORS"]

#: Errors whose messages are written here, in full, and quote nothing: by their own name, or within Dagster's Failure.
_OURS: Final = re.compile(rf"\b({'|'.join(name for name in errors.__all__ if name.endswith('Error'))})\b")


@dg.run_failure_sensor(
    default_status=dg.DefaultSensorStatus.RUNNING,
    minimum_interval_seconds=15,
    description="Makes an incident of every failed run, and tells whoever `notify` names.",
)
def run_failure(context: dg.RunFailureSensorContext, platform: dg.ResourceParam[Platform]) -> None:
    """Write a row of `ops.incidents` and tell whoever is to look."""
    steps = context.get_step_failure_events()
    error = steps[0].step_failure_data.error if steps else None
    # The outermost error is Dagster's own wrapper; what went wrong is its cause.
    cause = error.cause or error if error else None
    # Dagster puts the error's class before its message; it has a column of its own.
    message = cause.message.split(": ", 1)[-1] if cause else context.failure_event.message
    if cause is not None and not _OURS.search(cause.message):
        # What a library says after the first line may quote rows.
        message = (message or "").strip().partition("\n")[0]
    incident = Incident(
        incident_id=context.dagster_run.run_id,
        ts=platform.clock(),
        severity="error",
        kind="run_failure",
        job=context.dagster_run.job_name,
        run_id=context.dagster_run.run_id,
        step=steps[0].step_key if steps else None,
        error_class=cause.cls_name if cause else None,
        message=message,
    )
    record(platform.lake, incident)
    notify(platform.settings, incident)


SENSORS = [run_failure]
