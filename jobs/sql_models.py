"""Jobs and schedules of the SQL models.

Those that a header asks for, the nightly tests of the views, and all models at once for whoever wants them now.
"""

from typing import Any

import dagster as dg

from assets.common import asset_key
from hfthot_platform.services.sql.models import Models, SqlModel
from jobs.common import YESTERDAY, daily_schedule, whole_schedule

__all__ = ["model_jobs", "model_schedules"]

_VIEW_TESTS = "sql_view_tests"
#: All models by hand: those with days for some days, and those that are made as a whole.
_BY_DAY, _WHOLE = "sql_models_by_day", "sql_models_whole"


def model_jobs(models: Models) -> list[Any]:
    """Return a job per model with a schedule of its own, one for the tests of the views, and two for all models."""
    jobs: list[Any] = [
        dg.define_asset_job(
            _job_name(model),
            selection=dg.AssetSelection.assets(asset_key(model.name)),
            description=f"Materialise {model.name}: {model.description}",
        )
        for model in models
        if model.header.schedule is not None
    ]
    for name, incremental in ((_BY_DAY, True), (_WHOLE, False)):
        stored = [model for model in models if model.contract and (model.materialized == "incremental") == incremental]
        if stored:
            jobs.append(
                dg.define_asset_job(
                    name,
                    selection=dg.AssetSelection.assets(*(asset_key(model.name) for model in stored)),
                    description=f"Materialise every SQL model that {'has days' if incremental else 'has no days'}.",
                )
            )
    keys = _view_tests(models)
    if keys:
        jobs.append(
            dg.define_asset_job(
                _VIEW_TESTS,
                selection=dg.AssetSelection.checks(*keys),
                description="Run every test of every SQL view; no other job runs them.",
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
            schedules.append(whole_schedule(name, _job_name(model), cron))
    if _view_tests(models):
        schedules.append(whole_schedule(f"{_VIEW_TESTS}_nightly", _VIEW_TESTS, "30 3 * * *"))
    return schedules


def _job_name(model: SqlModel) -> str:
    return model.name.replace(".", "_")


def _view_tests(models: Models) -> list[dg.AssetCheckKey]:
    return [
        dg.AssetCheckKey(asset_key(model.name), test.name)
        for model in models
        if model.materialized == "view"
        for test in model.tests
    ]
