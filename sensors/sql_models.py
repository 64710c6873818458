"""Mistakes in files of SQL models are told as soon as the files have them, not when somebody loads the graph again."""

import hashlib
import json

import dagster as dg

from assets.common import asset_key
from assets.sql_models import SOUND
from hfthot_platform.services.sql.models import Models
from hfthot_platform.storage.incidents import Incident, notify, record
from resources.platform import Platform

__all__ = ["SENSORS"]


@dg.sensor(
    minimum_interval_seconds=60,
    default_status=dg.DefaultSensorStatus.RUNNING,
    description="Reports SQL models that a mistake in a file disables: a failed check for each, an incident per file.",
)
def sql_model_files(context: dg.SensorEvaluationContext, platform: dg.ResourceParam[Platform]) -> dg.SensorResult:
    """Compare the files as they are now with what was told of them; nothing is started."""
    models = platform.read_models()
    before = json.loads(context.cursor) if context.cursor else {}
    told: dict[str, str] = before.get("files", {})
    disabled: dict[str, str] = before.get("models", {})
    for file, what in models.faults.items():
        if told.get(file) != _digest(what):
            _record_incident(platform, file, what)
    now = {model.name: model.why for model in models.disabled}
    for name, why in now.items():
        if disabled.get(name) != _digest(why):
            _report_check(context.instance, name, why, passed=False)
    for name in disabled.keys() - now.keys():
        _report_check(context.instance, name, "Its file, and what it reads, are sound again.", passed=True)
    state = {
        "files": {file: _digest(what) for file, what in models.faults.items()},
        "models": {name: _digest(why) for name, why in now.items()},
    }
    return dg.SensorResult(skip_reason=_in_words(models), cursor=json.dumps(state))


def _in_words(models: Models) -> str:
    if not models.mistakes:
        return f"all {len(models)} SQL models are sound"
    return f"{len(models.disabled)} SQL models are disabled. " + " ".join(models.faults.values())


def _record_incident(platform: Platform, file: str, what: str) -> None:
    ts = platform.clock()
    incident = Incident(
        incident_id=_digest(f"{file} {what} {ts:%Y-%m-%dT%H:%M}"),
        ts=ts,
        severity="error",
        kind="sql_model_disabled",
        step=file,
        error_class="SqlModelsError",
        message=what,
    )
    record(platform.lake, incident)
    notify(platform.settings, incident)


def _report_check(instance: dg.DagsterInstance, name: str, why: str, *, passed: bool) -> None:
    instance.report_runless_asset_event(
        dg.AssetCheckEvaluation(
            asset_key=asset_key(name),
            check_name=SOUND,
            passed=passed,
            severity=dg.AssetCheckSeverity.ERROR,
            description=why,
            metadata={},
        )
    )


def _digest(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()[:32]


SENSORS = [sql_model_files]
