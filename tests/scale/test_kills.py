"""Whatever is killed, and whenever: runs end or are resumed, each day is committed once, what was acknowledged stays.

`HFTHOT_SCALE_KILLS` (60) kills are put in order by the generator of `HFTHOT_SCALE_SEED` (1).  Before and after a commit
are exact: the store keeps the request that makes the commit from its client, carried out or not, until the victim is
dead.
"""

from __future__ import annotations

import os
import random
import time
from datetime import UTC, datetime, timedelta

import polars as pl
import pytest
from polars.testing import assert_frame_equal

from hfthot_platform.adapters.simulated import SimulatedExchange
from hfthot_platform.storage.lakehouse import Lakehouse
from tests.scale.hosts import wait_until

pytestmark = pytest.mark.scale

KILLS = int(os.environ.get("HFTHOT_SCALE_KILLS", "60"))
SEED = int(os.environ.get("HFTHOT_SCALE_SEED", "1"))
#: A run is over this long after the kill.
WITHIN = 120
FEEDS = [{"kind": "simulated", "symbols": ["ALPHA-USDT"], "trades_per_day": 300}]
#: The commits of a run: one for each of its tables.
TABLES = ("market/trades",)
KEY = ["venue", "symbol", "trade_id", "ts"]
VICTIMS = ("second host", "run", "daemon", "PostgreSQL")


def drawn():
    """Return the kills: each victim before and after a commit equally often, in an order of the seed's."""
    kills = [(VICTIMS[number % len(VICTIMS)], bool(number // len(VICTIMS) % 2), TABLES[0]) for number in range(KILLS)]
    random.Random(SEED).shuffle(kills)
    return kills


@pytest.fixture(scope="module")
def hosts(cluster):
    with cluster(FEEDS) as started:
        # The first run makes the tables.
        assert started.wait(started.launch("ingest", ("2022-01-01", "2022-01-01"))) == "SUCCESS", started.log("daemon")
        yield started


def kill(hosts, victim, run_id):
    if victim == "second host":
        assert hosts.kill_second() > 0
    elif victim == "run":
        numbers = hosts.run_processes(run_id)
        assert numbers, "the run is on the second host"
        for number in numbers:
            os.kill(number, 9)
    elif victim == "daemon":
        hosts.kill_daemon()
    else:
        hosts.postgres.kill_at_once()


def trades_of(midnight):
    """Return the keys of what the feed has for a day."""
    feed = SimulatedExchange(symbols=("ALPHA-USDT",), trades_per_day=300)
    rows = pl.concat(batch.rows for batch in feed.fetch("market.trades", midnight, midnight + timedelta(days=1)))
    return rows.select(KEY)


def start_again(hosts, victim):
    if victim == "second host":
        hosts.start_second()
    elif victim == "daemon":
        hosts.start_daemon()
    elif victim == "PostgreSQL":
        hosts.postgres.start()


@pytest.mark.parametrize(("number", "kill_of"), list(enumerate(drawn())))
def test_a_run_survives(hosts, number, kill_of, record_property):
    victim, committed, table = kill_of
    lake = Lakehouse.open("s3://lake/data", storage_options=hosts.store.options)
    trades = lake.table("market.trades")
    version, acknowledged = trades.version(), trades.scan().select(KEY).collect()
    midnight = datetime(2022, 2, 1, tzinfo=UTC) + timedelta(days=number)
    day = str(midnight.date())

    hosts.store.hold(f"{table}/_delta_log/0", done=committed)
    run_id = hosts.launch("ingest", (day, day))
    wait_until(hosts.store.held, 240, f"the run's commit; {hosts.log('daemon')}")
    kill(hosts, victim, run_id)
    hosts.store.drop()
    killed = time.monotonic()
    start_again(hosts, victim)
    status = hosts.wait(run_id, WITHIN)
    record_property("seconds", time.monotonic() - killed)

    assert status == "SUCCESS", f"{victim} killed {'after' if committed else 'before'} the commit"
    commits = [entry for entry in trades.versions() if entry.version > version]
    assert len(commits) == 1, commits
    expected = pl.concat([acknowledged, trades_of(midnight)]).sort(KEY)
    assert_frame_equal(trades.scan().select(KEY).collect().sort(KEY), expected)
