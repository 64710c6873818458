"""Publishers killed at random steps and at random times while the log grows: nothing lost, nothing twice."""

from __future__ import annotations

import contextlib
import itertools
import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from hfthot_platform.core.time import moment
from hfthot_platform.services.publication.publisher import APPLICATION, Publisher
from hfthot_platform.storage.lakehouse import Lakehouse, maintain
from hfthot_platform.storage.operational.store import Store
from tests import postgres
from tests.accounts import ledger

KILLS = int(os.environ.get("HFTHOT_SOAK_KILLS", "50"))

pytestmark = pytest.mark.soak


@pytest.fixture(params=["sqlite", "postgresql"])
def url(request, tmp_path):
    return f"sqlite:///{tmp_path}/accounts" if request.param == "sqlite" else postgres.server().database()


@pytest.fixture
def spawner():
    process = subprocess.Popen(
        [sys.executable, str(Path(ledger.__file__))], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    assert process.stdout.readline() == "ready\n"
    yield process
    process.communicate(timeout=60)


def test_no_kill_at_any_moment_loses_or_doubles_an_entry(url, spawner, tmp_path):
    # The rows' own time: maintenance must not take them for expired.
    lake = Lakehouse.open(tmp_path / "lake", clock=lambda: moment(ledger.NOW), new=True)
    dice = random.Random(2024)
    operations = ledger.operations(7)
    entries = []
    kills = completed = 0
    with Store.open(url) as store:
        while kills < KILLS:
            entries += ledger.log(store, list(itertools.islice(operations, dice.randrange(1, 25))))
            at_a_step = dice.random() < 0.7
            step = dice.randrange(1, 150) if at_a_step else 0
            spawner.stdin.write(f"{url} {lake.storage.root} {dice.choice((3, 9, 40))} {step}\n")
            spawner.stdin.flush()
            pid = int(spawner.stdout.readline())
            if not at_a_step:
                time.sleep(dice.uniform(0.02, 0.5))
                with contextlib.suppress(ProcessLookupError):  # it may have come to its end first
                    os.kill(pid, signal.SIGKILL)
            killed = spawner.stdout.readline() == "gone -9\n"
            kills += killed
            completed += not killed
            ledger.Model(entries).check(lake)
            if dice.random() < 0.1:
                maintain(lake, dice.choice(ledger.TABLES), history_days=0)

        Publisher(store, lake).publish()

        model = ledger.Model(entries)
        model.check(lake)
        assert lake.table("audit_log").applied(APPLICATION) == len(entries)
        assert store.entries(0, 1) == []
    for name in ledger.TABLES:
        maintain(lake, name, history_days=0)
        table = lake.table(name)
        left = {path for path in table.folder.rglob("*.parquet") if "_delta_log" not in path.parts}
        assert left == {Path(path) for path in table.snapshot().paths}, "files of dead publishers are gone"
    model.check(lake)
    print(f"\n{kills} kills, {completed} publishers that ended, {len(entries)} entries")
