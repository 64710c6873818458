"""The real `dagster dev`, as `make dev` starts it, with a lake of its own in a temporary folder."""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import httpx
import psutil
import pytest

from hfthot_platform.storage.lakehouse import Lakehouse
from tests.conftest import REPOSITORY

FEEDS = '[{"kind":"simulated","symbols":["ALPHA-USDT"],"trades_per_day":300}]'
T = TypeVar("T")
#: Bounds, not expectations: a machine shared with other work may be ten times slower than a quiet one.
START_SECONDS = 180
WORK_SECONDS = 180
STOP_SECONDS = 90

_LOCATION = """{ workspaceOrError { __typename ... on PythonError { message } ... on Workspace {
  locationEntries { name loadStatus locationOrLoadError { __typename ... on PythonError { message } } } } } }"""
_LAUNCH = """mutation($params: ExecutionParams!) { launchRun(executionParams: $params) { __typename
  ... on LaunchRunSuccess { run { runId } } ... on PythonError { message }
  ... on RunConfigValidationInvalid { errors { message } } } }"""
_RUNS = """query($filter: RunsFilter!) { runsOrError(filter: $filter) { __typename
  ... on Runs { results { runId status jobName tags { key value } } } } }"""


@dataclass(frozen=True)
class DagsterDev:
    """A running `dagster dev`: its GraphQL interface and the folders that it works in."""

    url: str
    root: Path
    process: subprocess.Popen[bytes]

    @property
    def log(self) -> str:
        return (self.root / "dagster.log").read_text(errors="replace")

    @property
    def landing(self) -> Path:
        return self.root / "landing"

    @property
    def lake(self) -> Lakehouse:
        return Lakehouse.open(str(self.root / "lake"))

    def query(self, document: str, **variables: Any) -> dict[str, Any]:
        answer = httpx.post(
            f"{self.url}/graphql", json={"query": document, "variables": variables}, timeout=60, trust_env=False
        ).json()
        assert "errors" not in answer, answer["errors"]
        return answer["data"]

    def launch(self, job: str, **tags: str) -> str:
        """Launch a job and return its run's id."""
        where = {"repositoryLocationName": "hfthot", "repositoryName": "__repository__", "jobName": job}
        params = {
            "selector": where,
            "mode": "default",
            "runConfigData": {},
            "executionMetadata": {"tags": [{"key": key, "value": value} for key, value in tags.items()]},
        }
        launched = self.query(_LAUNCH, params=params)["launchRun"]
        assert launched["__typename"] == "LaunchRunSuccess", launched
        return launched["run"]["runId"]

    def runs(self, **filters: Any) -> list[dict[str, Any]]:
        return self.query(_RUNS, filter=filters)["runsOrError"]["results"]

    def finished(self, run_id: str) -> str:
        """Wait until a run has ended, and return its status."""

        def status() -> str | None:
            now = self.runs(runIds=[run_id])[0]["status"]
            return now if now in {"SUCCESS", "FAILURE", "CANCELED"} else None

        return self.wait_for(f"run {run_id} to end", status)

    def wait_for(self, what: str, look: Callable[[], T | None], seconds: float = WORK_SECONDS) -> T:
        """Return the first true answer of `look`; where there is none in time, fail and show the server's log."""
        deadline = time.monotonic() + seconds
        while not (found := look()):
            ended = self.process.poll()
            if ended is not None or time.monotonic() > deadline:
                why = f"dagster dev ended with {ended}" if ended is not None else f"not within {seconds} s"
                pytest.fail(f"waited for {what}: {why}\n--- log of dagster dev\n{self.log[-20_000:]}")
            time.sleep(0.3)
        return found


def is_loaded(dev: DagsterDev) -> bool:
    try:
        entries = dev.query(_LOCATION)["workspaceOrError"]["locationEntries"]
    except (httpx.HTTPError, ValueError):
        return False  # not listening yet
    return bool(entries) and all(entry["loadStatus"] == "LOADED" for entry in entries)


def _environment(root: Path) -> dict[str, str]:
    """Return everything that the server is told; nothing of it comes from whoever runs the tests."""
    (root / "empty.toml").touch()
    return {
        "PATH": os.environ["PATH"],
        "HOME": os.environ.get("HOME", str(root)),
        "LANG": "C.UTF-8",
        "DAGSTER_HOME": str(root / "home"),
        "HFTHOT_CONFIG": str(root / "empty.toml"),
        "HFTHOT_LAKE_ROOT": str(root / "lake"),
        "HFTHOT_LANDING": str(root / "landing"),
        "HFTHOT_LANDING_SETTLE_SECONDS": "1",
        "HFTHOT_SCRATCH": str(root / "data" / "scratch"),
        "HFTHOT_FEEDS": FEEDS,
    }


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


@contextlib.contextmanager
def _interruptible() -> Iterator[None]:
    """Let a child that is started here obey Ctrl-C even where the tests run in the background, which ignores it."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)


def start_dagster_dev(root: Path) -> DagsterDev:
    port = _free_port()
    command = [sys.executable, "-m", "dagster", "dev", "--workspace", "workspace.yaml", "--host", "127.0.0.1"]
    with (root / "dagster.log").open("wb") as log, _interruptible():
        process = subprocess.Popen(
            [*command, "--port", str(port)],
            cwd=REPOSITORY,
            env=_environment(root),
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
    return DagsterDev(f"http://127.0.0.1:{port}", root, process)


def stop_dagster_dev(dev: DagsterDev) -> list[str]:
    """Press Ctrl-C; return what is still there afterwards, which is then killed."""
    family = [*psutil.Process(dev.process.pid).children(recursive=True)] if dev.process.poll() is None else []
    with contextlib.suppress(ProcessLookupError):
        os.killpg(dev.process.pid, signal.SIGINT)
    left = []
    try:
        dev.process.wait(STOP_SECONDS)
    except subprocess.TimeoutExpired:
        left.append("dagster dev")
        dev.process.kill()
        dev.process.wait()
    _, alive = psutil.wait_procs(family, timeout=STOP_SECONDS)
    for process in alive:
        with contextlib.suppress(psutil.NoSuchProcess):
            left.append(" ".join(process.cmdline()[:6]))
            process.kill()
    return left


@pytest.fixture(scope="module")
def dagster_dev(tmp_path_factory: pytest.TempPathFactory) -> Iterator[DagsterDev]:
    """A running `dagster dev` whose code location is loaded; Ctrl-C must end all of it."""
    root = tmp_path_factory.mktemp("dagster_dev")
    (root / "home").mkdir()
    (root / "landing").mkdir()
    shutil.copy(REPOSITORY / "dagster_home" / "dagster.yaml", root / "home")
    dev = start_dagster_dev(root)
    try:
        dev.wait_for("the code location", lambda: is_loaded(dev), START_SECONDS)
        yield dev
    finally:
        left = stop_dagster_dev(dev)
    assert left == [], f"still running {STOP_SECONDS} s after Ctrl-C: {left}\n{dev.log[-5000:]}"
