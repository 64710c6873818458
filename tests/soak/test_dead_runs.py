"""A `kill -9` of `dagster dev` and everything below it: the run that was under way ends, and its pool is free again."""

from __future__ import annotations

import contextlib
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import dagster as dg
import psutil
import pytest

from tests.conftest import REPOSITORY
from tests.end_to_end.conftest import START_SECONDS, DagsterDev, is_loaded, start_dagster_dev, stop_dagster_dev

pytestmark = pytest.mark.soak

#: What is promised: seconds from the start of the new `dagster dev`'s daemon to a free pool.
PROMISED_SECONDS = 120

_SLOTS = """query($key: String!) { instance { concurrencyLimit(concurrencyKey: $key) { claimedSlots { runId } } } }"""


@pytest.fixture
def root(tmp_path: Path) -> Path:
    (tmp_path / "home").mkdir()
    (tmp_path / "landing").mkdir()
    shutil.copy(REPOSITORY / "dagster_home" / "dagster.yaml", tmp_path / "home")
    return tmp_path


@contextlib.contextmanager
def dagster_dev(root: Path) -> Iterator[DagsterDev]:
    dev = start_dagster_dev(root)
    try:
        dev.wait_for("the code location", lambda: is_loaded(dev), START_SECONDS)
        yield dev
    finally:
        stop_dagster_dev(dev)


def kill_everything(dev: DagsterDev) -> None:
    family = [psutil.Process(dev.process.pid), *psutil.Process(dev.process.pid).children(recursive=True)]
    for process in family:
        with contextlib.suppress(psutil.NoSuchProcess):
            process.send_signal(signal.SIGKILL)
    psutil.wait_procs(family, timeout=30)


def holders(dev: DagsterDev, pool: str) -> set[str]:
    """Return the runs that hold a place of a pool."""
    return {slot["runId"] for slot in dev.query(_SLOTS, key=pool)["instance"]["concurrencyLimit"]["claimedSlots"]}


def test_a_run_that_was_killed_with_everything_around_it_ends_and_frees_its_pool(root):
    pool = "market_trades"
    days = {
        f"dagster/asset_partition_range_{end}": day for end, day in (("start", "2024-01-01"), ("end", "2024-03-01"))
    }
    with dagster_dev(root) as dev:
        run = dev.launch("ingest", **days)
        dev.wait_for("the step to hold its pool", lambda: run in holders(dev, pool))
        kill_everything(dev)

    said = subprocess.run(
        [Path(sys.executable).with_name("hfthot"), "doctor"],
        cwd=root,
        env={
            "PATH": "/usr/bin:/bin",
            "HOME": str(root),
            "DAGSTER_HOME": str(root / "home"),
            "HFTHOT_LAKE_ROOT": str(root / "lake"),
        },
        capture_output=True,
        text=True,
        check=False,
    )
    assert f"run {run} of ingest" in said.stdout, said.stderr
    assert "died" in said.stdout

    with dagster_dev(root) as dev:
        began = time.monotonic()

        def over() -> bool:
            # Dagster may run it again by itself; that one may hold the pool.
            ended = dev.runs(runIds=[run])[0]["status"] == dg.DagsterRunStatus.FAILURE.value
            return ended and run not in holders(dev, pool)

        dev.wait_for("the run to end and its pool to be free", over, PROMISED_SECONDS)
        assert time.monotonic() - began < PROMISED_SECONDS
