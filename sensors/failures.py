"""Failed runs become incidents."""

import re
from typing import Final

import dagster as dg
from dagster_shared.error import SerializableErrorInfo

from assets.common import asset_key
from hfthot_platform.core import errors
from hfthot_platform.storage.incidents import Incident, notify, record
from resources.platform import Platform

__all__ = ["SENSORS"]

#: Errors whose messages are written here, in full, and quote nothing: by their own name, or within Dagster's Failure.
_OURS: Final = re.compile(rf"\b({'|'.join(name for name in errors.__all__ if name.endswith('Error'))})\b")


@dg.run_failure_sensor(
    default_status=dg.DefaultSensorStatus.RUNNING,
    minimum_interval_seconds=15,
    description="Records an incident for every failed run, and notifies whoever `notify` names.",
)
def run_failure(context: dg.RunFailureSensorContext, platform: dg.ResourceParam[Platform]) -> None:
    """Write a row of `ops.incidents` and tell whoever is to look."""
    steps = context.get_step_failure_events()
    error = steps[0].step_failure_data.error if steps else _error_outside_steps(context)
    # The outermost error is Dagster's own wrapper; what went wrong is its cause.
    cause = error.cause or error if error else None
    # Dagster puts the error's class before its message; it has a column of its own.
    message = cause.message.split(": ", 1)[-1] if cause else context.failure_event.message
    if cause is not None and not _OURS.search(cause.message):
        # What a library says after the first line may quote rows.
        message = (message or "").strip().partition("\n")[0]
    if disabled := _disabled_models(context, platform):
        # The run was asked for before the file was broken: what Dagster says of its checks helps nobody.
        message = disabled
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


def _error_outside_steps(context: dg.RunFailureSensorContext) -> SerializableErrorInfo | None:
    """Return what kept a run from reaching its first step; its failure itself says only that it failed."""
    events = context.instance.all_logs(context.dagster_run.run_id, of_type=dg.DagsterEventType.ENGINE_EVENT)
    errors = [entry.dagster_event.engine_event_data.error for entry in events if entry.dagster_event is not None]
    return next((error for error in reversed(errors) if error is not None), None)


def _disabled_models(context: dg.RunFailureSensorContext, platform: Platform) -> str:
    """Return why SQL models that the run was to make are disabled."""
    asked = context.dagster_run.asset_selection or frozenset()
    if not asked:
        return ""
    models = platform.read_models().disabled
    return " ".join(f"{model.name} is disabled. {model.why}" for model in models if asset_key(model.name) in asked)


SENSORS = [run_failure]
