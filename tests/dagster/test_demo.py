"""The demonstration after one that was killed."""

from __future__ import annotations

import os
import subprocess
import sys

import dagster as dg

from hfthot_platform.demo import _PROCESS_TAG, _end_dead_runs


def _started(instance: dg.DagsterInstance, process: int) -> dg.DagsterRun:
    @dg.job
    def anything() -> None:
        pass

    run = instance.create_run_for_job(anything, tags={_PROCESS_TAG: str(process)})
    instance.report_dagster_event(
        dg.DagsterEvent(event_type_value="PIPELINE_START", job_name="anything"), run_id=run.run_id
    )
    return run


def test_runs_of_a_dead_process_are_ended_and_those_of_a_living_one_are_not(instance):
    gone = subprocess.Popen([sys.executable, "-c", ""])
    gone.wait()
    dead, living = _started(instance, gone.pid), _started(instance, os.getpid())

    _end_dead_runs(instance)

    assert instance.get_run_by_id(dead.run_id).status == dg.DagsterRunStatus.FAILURE
    assert instance.get_run_by_id(living.run_id).status == dg.DagsterRunStatus.STARTED
