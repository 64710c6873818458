"""Runs whose process is gone: how they are recognised and ended.

Dagster's own launcher starts a run as a process of the code server and relies on that server to notice its end.  After
a `kill -9` of everything, or a power failure, nobody is left to notice: the run stays "Started" and holds its pools.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import dagster as dg
import psutil

# The two classes of Dagster's launchers' interface that it does not export.
from dagster._core.launcher import CheckRunHealthResult, WorkerStatus

from hfthot_platform.app.findings import Finding

__all__ = ["DeadRun", "Launcher", "dead_runs", "diagnose_runs", "end_dead_runs"]

#: Tag of Dagster: the code server that runs it.
_SERVER_TAG: Final = ".dagster/grpc_info"
_HERE: Final = frozenset({"localhost", "127.0.0.1", "::1"})
#: A process that is younger than the run's event by more than this has only inherited the number.
_SLACK_SECONDS: Final = 60.0
_ACTIVE: Final = (dg.DagsterRunStatus.STARTED, dg.DagsterRunStatus.STARTING, dg.DagsterRunStatus.CANCELING)


@dataclass(frozen=True)
class DeadRun:
    """A run that counts as running although its process is gone."""

    run: dg.DagsterRun
    process: int

    def __str__(self) -> str:
        return f"process {self.process} of the run died"


class Launcher(dg.DefaultRunLauncher):
    """Dagster's launcher, which can also tell whether a run's process is still there (named in dagster.yaml)."""

    @property
    def supports_check_run_worker_health(self) -> bool:
        """Let the monitoring daemon ask."""
        return True

    def check_run_worker_health(self, run: dg.DagsterRun) -> CheckRunHealthResult:
        """Say that a run has failed whose process is gone; of processes elsewhere nothing is known."""
        dead = _as_dead_run(self._instance, run)
        if dead is None:
            return CheckRunHealthResult(WorkerStatus.RUNNING)
        return CheckRunHealthResult(WorkerStatus.FAILED, str(dead), transient=True)


def dead_runs(instance: dg.DagsterInstance) -> Iterator[DeadRun]:
    """Yield the runs that count as running although their process on this machine is gone."""
    for run in instance.get_runs(dg.RunsFilter(statuses=list(_ACTIVE))):
        if (dead := _as_dead_run(instance, run)) is not None:
            yield dead


def end_dead_runs(instance: dg.DagsterInstance) -> int:
    """End such runs and free their pools, for processes without a daemon; return how many there were."""
    found = list(dead_runs(instance))
    for dead in found:
        instance.report_run_failed(dead.run, str(dead))
        instance.event_log_storage.free_concurrency_slots_for_run(dead.run.run_id)
    return len(found)


def diagnose_runs(home: Path | None) -> Iterator[Finding]:
    """Tell what is wrong with the runs of the Dagster instance in a folder; nothing is made there.

    Args:
        home: folder of the instance, None if none is set.
    """
    if home is None or not (home / "history").is_dir():
        return
    with dg.DagsterInstance.from_config(str(home)) as instance:
        for dead in dead_runs(instance):
            yield Finding(
                "error",
                "runs",
                f"run {dead.run.run_id} of {dead.run.job_name} counts as running, but its process {dead.process} died; "
                "it holds its pools",
                "`make dev` (or a daemon) ends it and frees its pools within two minutes of its start.",
            )


def _as_dead_run(instance: dg.DagsterInstance, run: dg.DagsterRun) -> DeadRun | None:
    server = json.loads(run.tags.get(_SERVER_TAG, "{}"))
    if server.get("host", "localhost") not in _HERE:
        return None
    for entry in instance.all_logs(run.run_id, of_type=dg.DagsterEventType.ENGINE_EVENT):
        event = entry.dagster_event
        named = event.engine_event_data.metadata.get("pid") if event is not None else None
        if named is not None:
            # The first that names a process is the run's own; those of steps follow.
            process = int(str(named.value))
            return None if _is_alive(process, entry.timestamp) else DeadRun(run, process)
    return None


def _is_alive(process: int, seen: float) -> bool:
    """Return whether the process that was seen at a time is still there."""
    try:
        found = psutil.Process(process)
        return bool(found.status() != psutil.STATUS_ZOMBIE and found.create_time() <= seen + _SLACK_SECONDS)
    except psutil.NoSuchProcess:
        return False
    except psutil.AccessDenied:
        return True
