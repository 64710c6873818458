"""Runs whose process is gone are recognised and ended; those of a living process or another machine are not."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from pathlib import Path

import dagster as dg
import pytest
import yaml
from dagster._core.events import EngineEventData  # neither is exported
from dagster._core.launcher import WorkerStatus

from resources.runs import Launcher, dead_runs, diagnose_runs, end_dead_runs
from tests.conftest import REPOSITORY


@dg.job
def anything() -> None:
    """Do nothing."""


@pytest.fixture
def gone() -> int:
    """Return the number of a process that has ended."""
    process = subprocess.Popen([sys.executable, "-c", ""])
    process.wait()
    return process.pid


def started(instance: dg.DagsterInstance, process: int | None, **tags: str) -> dg.DagsterRun:
    """Return a run that counts as started, in a process if one is named."""
    run = instance.create_run_for_job(anything, tags=tags)
    event = dg.DagsterEvent(event_type_value="PIPELINE_START", job_name="anything")
    instance.report_dagster_event(event, run_id=run.run_id)
    if process is not None:
        data = EngineEventData(metadata={"pid": dg.MetadataValue.text(str(process))})
        instance.report_engine_event("Started process for run", run, data)
    return instance.get_run_by_id(run.run_id)


def test_runs_of_a_dead_process_are_ended_and_those_of_a_living_one_are_not(instance, gone):
    dead, living = started(instance, gone), started(instance, os.getpid())

    assert [run.run.run_id for run in dead_runs(instance)] == [dead.run_id]
    assert end_dead_runs(instance) == 1

    assert instance.get_run_by_id(dead.run_id).status == dg.DagsterRunStatus.FAILURE
    assert instance.get_run_by_id(living.run_id).status == dg.DagsterRunStatus.STARTED


def test_a_process_that_only_has_inherited_the_number_is_not_the_runs(instance, monkeypatch):
    run = started(instance, os.getpid())
    monkeypatch.setattr("psutil.Process.create_time", lambda _process: time.time() + 3600)

    assert [run.run.run_id for run in dead_runs(instance)] == [run.run_id]


def test_a_process_that_nobody_reaped_is_dead(instance):
    process = subprocess.Popen([sys.executable, "-c", ""])
    run = started(instance, process.pid)
    deadline = time.monotonic() + 60
    while Path(f"/proc/{process.pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z":
        assert time.monotonic() < deadline

    assert [run.run.run_id for run in dead_runs(instance)] == [run.run_id]
    process.wait()


@pytest.mark.parametrize("server", [{"host": "10.1.2.3", "port": 4000}, {"host": "code-server", "port": 4000}])
def test_of_processes_on_other_machines_nothing_is_claimed(instance, gone, server):
    started(instance, gone, **{".dagster/grpc_info": json.dumps(server)})

    assert list(dead_runs(instance)) == []


def test_a_run_without_a_known_process_is_left_to_its_time_limit(instance):
    started(instance, None)

    assert list(dead_runs(instance)) == []


def test_the_launcher_of_the_instance_tells_the_monitoring_daemon(instance, gone):
    launcher = Launcher()
    launcher.register_instance(instance)

    assert launcher.supports_check_run_worker_health
    assert launcher.check_run_worker_health(started(instance, gone)).status == WorkerStatus.FAILED
    assert launcher.check_run_worker_health(started(instance, os.getpid())).status == WorkerStatus.RUNNING


def test_the_shipped_instance_ends_dead_runs_well_within_two_minutes():
    settings = yaml.safe_load((REPOSITORY / "dagster_home" / "dagster.yaml").read_text())
    monitoring = settings["run_monitoring"]

    assert settings["run_launcher"] == {"module": "resources.runs", "class": "Launcher"}
    assert monitoring["enabled"]
    assert 3 * monitoring["poll_interval_seconds"] + monitoring["free_slots_after_run_end_seconds"] <= 90
    assert monitoring["start_timeout_seconds"] <= 90
    assert monitoring["cancel_timeout_seconds"] <= 90


def test_the_doctor_names_the_run_and_its_process_and_makes_no_instance(tmp_path, gone):
    assert list(diagnose_runs(None)) == []
    assert list(diagnose_runs(tmp_path)) == []
    assert list(tmp_path.iterdir()) == []

    with dg.DagsterInstance.local_temp(str(tmp_path)) as local:
        dead = started(local, gone)

    (found,) = diagnose_runs(tmp_path)
    assert found.level == "error"
    assert f"run {dead.run_id} of anything" in found.message
    assert str(gone) in found.message
    assert "two minutes" in found.next_step
