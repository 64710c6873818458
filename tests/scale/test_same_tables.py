"""The demonstration's jobs as runs on another host, their units on both, leave the tables of one machine.

The input is reduced: two simulated days of two symbols with 3,000 trades each, and seven years of the packaged daily
history.
"""

from __future__ import annotations

import os
import subprocess
import sys

import pytest
from polars.testing import assert_frame_equal

from hfthot_platform.storage.lakehouse import Lakehouse
from tests.conftest import REPOSITORY
from tests.scale.conftest import settings_of
from tests.scale.demo import FEEDS, JOBS
from tests.scale.hosts import ADDRESSES, processes_of

pytestmark = pytest.mark.scale


def demo(what, environment):
    done = subprocess.run(
        [sys.executable, "-m", "tests.scale.demo", what],
        env=environment,
        cwd=REPOSITORY,
        check=False,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr[-4000:]


@pytest.fixture(scope="module")
def one(tmp_path_factory):
    """The lake of one machine, in a folder."""
    folder = tmp_path_factory.mktemp("one")
    own = {name: value for name, value in os.environ.items() if not name.startswith("HFTHOT_")}
    demo("run", own | settings_of(str(folder / "lake"), folder / "scratch", FEEDS, landing=str(folder / "landing")))
    return Lakehouse.open(str(folder / "lake"))


@pytest.fixture(scope="module")
def two(cluster):
    """The lake of two hosts, on the object store."""
    with cluster(FEEDS, compute="ray", compute_workers=3) as hosts:
        demo("history", hosts.environment)
        for job, days, config in JOBS:
            run_id = hosts.launch(job, days, config)
            status = hosts.wait(run_id)
            assert status == "SUCCESS", f"{job} on {ADDRESSES[1]} ended with {status}: {hosts.log('daemon')}"
            assert processes_of(hosts.second), "the second host lives"
        yield Lakehouse.open("s3://lake/data", storage_options=hosts.store.options)


def test_every_table_is_equal_row_for_row(one, two):
    compared = 0
    for table in one.tables():
        if table.version() is None:
            continue
        here, there = table.scan().collect(), two.table(table.contract.name).scan().collect()
        keys = list(table.contract.key)
        assert_frame_equal(here.sort(keys), there.sort(keys), check_exact=True)
        compared += here.height > 0

    assert compared >= 15, "tables with rows"
    assert {table.contract.name for table in two.tables() if table.version() is not None} >= {
        table.contract.name for table in one.tables() if table.version() is not None
    }
