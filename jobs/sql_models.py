"""Jobs and schedules of the SQL models: those that a header asks for, and the nightly tests of the views."""

from typing import Any

import dagster as dg

from assets.common import asset_key
from hfthot_platform.sql.models import Models, SqlModel
from jobs.common import YESTERDAY, daily_schedule

__all__ = ["model_jobs", "model_schedules"]

_VIEW_TESTS = "sql_view_tests"


def model_jobs(models: Models) -> list[Any]:
    """Return a job per model with a schedule of its own, and one for the tests of the views."""
    jobs: list[Any] = [
        dg.define_asset_job(
            _job_name(model),
            selection=dg.AssetSelection.assets(asset_key(model.name)),
            description=f"Make {model.name}: {model.description}",
        )
        for model in models
        if model.header.schedule is not None
    ]
    keys = _view_tests(models)
    if keys:
        jobs.append(
            dg.define_asset_job(
                _VIEW_TESTS,
                selection=dg.AssetSelection.checks(*keys),
                description="Every test of every SQL view: nothing else would run them.",
            )
        )
    return jobs


def model_schedules(models: Models) -> list[dg.ScheduleDefinition]:
    """Return the schedules that go with the jobs."""
    schedules = []
    for model in models:
        cron = model.header.schedule
        if cron is None:
            continue
        name = f"{_job_name(model)}_schedule"
        if model.materialized == "incremental":
            schedules.append(daily_schedule(name, _job_name(model), cron, day=YESTERDAY))
        else:
            schedules.append(_schedule(name, _job_name(model), cron))
    if _view_tests(models):
        schedules.append(_schedule(f"{_VIEW_TESTS}_nightly", _VIEW_TESTS, "30 3 * * *"))
    return schedules


def _schedule(name: str, job: str, cron: str) -> dg.ScheduleDefinition:
    return dg.ScheduleDefinition(
        name=name,
        job_name=job,
        cron_schedule=cron,
        execution_timezone="UTC",
        default_status=dg.DefaultScheduleStatus.RUNNING,
    )


def _job_name(model: SqlModel) -> str:
    return model.name.replace(".", "_")


def _view_tests(models: Models) -> list[dg.AssetCheckKey]:
    return [
        dg.AssetCheckKey(asset_key(model.name), test.name)
        for model in models
        if model.materialized == "view"
        for test in model.tests
    ]
