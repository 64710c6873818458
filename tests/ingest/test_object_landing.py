"""A landing folder on an object store: files are taken in once, whatever the number of hosts, and moved."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta
from pathlib import Path

import polars as pl
import pytest

from hfthot_platform.core.settings import load_settings
from hfthot_platform.services.accounts.accounts import Accounts
from hfthot_platform.services.ingest import ingest_waiting, places_not_read, waiting
from hfthot_platform.services.ingest.object_landing import claimed, waiting_objects
from hfthot_platform.services.ingest.users import ingest_user_landing, sweep_user_files, waiting_user_files
from hfthot_platform.storage.folders import landing_folder
from hfthot_platform.storage.lakehouse import Lakehouse
from tests.object_store import serving

MAPPING = {"venue": "x", "symbol": "ALPHA-USDT"}
NOW_THERE = datetime.now(UTC) + timedelta(hours=1)


@pytest.fixture(scope="module")
def store_server():
    with serving() as server:
        yield server


@pytest.fixture
def settings(tmp_path, store_server, request):
    return load_settings(
        lake_root=str(tmp_path / "lake"),
        landing=f"s3://lake/{request.node.name[:60]}/landing",
        storage_options=store_server.options,
        accounts=tmp_path / "accounts",
        key_file=tmp_path / "keys" / "kek.json",
        scratch=tmp_path / "scratch",
        argon2_memory_kib=8,
        argon2_passes=1,
        argon2_lanes=1,
        feeds=[],
    )


@pytest.fixture
def landing(settings):
    return landing_folder(settings)


@pytest.fixture
def lake(settings):
    return Lakehouse.open(settings.lake_root, clock=lambda: NOW_THERE)


@pytest.fixture
def drop(landing, csv_of):
    def write(name, first=0, count=10, content=None):
        landing.put(name, csv_of(first, count).encode() if content is None else content)
        landing.put(f"{name}.mapping.yaml", json.dumps(MAPPING).encode())

    return write


def run(lake, settings, **more):
    return ingest_waiting(lake, settings, now=NOW_THERE, **more)


def names(landing):
    """Return what lies in the folder, but for the claims of files that wait."""
    return [file.name for file in landing.files() if not file.name.startswith("_claims/")]


def trades(lake):
    return lake.table("market.trades").scan().select(pl.len()).collect().item()


def test_a_file_is_published_and_moved_with_its_mapping(lake, settings, landing, drop):
    drop("trades.csv")

    (outcome,) = run(lake, settings)

    assert (outcome.name, outcome.status, outcome.rows_published) == ("trades.csv", "published", 10)
    assert [file.name for file in landing.files()] == ["done/trades.csv", "done/trades.csv.mapping.yaml"]
    assert trades(lake) == 10
    assert list(settings.scratch.glob("landing-*")) == []


def test_a_refused_file_has_its_reason_beside_it(lake, settings, landing):
    landing.put("poem.txt", b"shall I compare thee")

    (outcome,) = run(lake, settings)

    assert outcome.reason == "unrecognised"
    assert names(landing) == ["rejected/poem.txt", "rejected/poem.txt.reason.json"]
    assert json.loads(landing.read("rejected/poem.txt.reason.json"))["reason"] == "unrecognised"


@pytest.mark.soak
def test_a_name_that_no_disk_takes_is_refused_without_being_fetched(lake, settings, landing):
    landing.put(f"{'x' * 300}.csv", b"a,b\n1,2\n")

    (outcome,) = run(lake, settings)

    assert outcome.reason == "name_too_long"
    assert [name.partition("/")[0] for name in names(landing)] == ["rejected", "rejected"]


def test_a_file_that_has_not_settled_waits(lake, settings, landing, drop):
    drop("trades.csv")
    (file,) = waiting_objects(landing, now=NOW_THERE, settle_seconds=10)

    assert waiting(settings, file.modified + timedelta(seconds=9)) == []
    assert waiting(settings, file.modified + timedelta(seconds=10)) == [file]


def test_content_that_comes_again_under_its_name_is_only_moved(lake, settings, landing, drop):
    drop("trades.csv")
    run(lake, settings)
    drop("trades.csv")

    (outcome,) = run(lake, settings)

    assert outcome.status == "repeated"
    assert names(landing) == ["done/trades.csv", "done/trades.csv.mapping.yaml"]
    assert trades(lake) == 10


@pytest.mark.soak
def test_content_that_comes_again_under_another_name_is_refused(lake, settings, landing, drop):
    drop("trades.csv")
    run(lake, settings)
    drop("again.csv")

    (outcome,) = run(lake, settings)

    assert (outcome.status, outcome.reason) == ("repeated", "already_ingested")
    assert "rejected/again.csv.reason.json" in names(landing)


@pytest.mark.soak
def test_another_content_under_the_name_of_one_before_is_kept_beside_it(lake, settings, landing, drop):
    drop("trades.csv")
    run(lake, settings)
    drop("trades.csv", first=10)

    run(lake, settings)

    done = [name for name in names(landing) if name.endswith(".csv")]
    assert len(done) == 2
    assert "done/trades.csv" in done
    assert trades(lake) == 20


class PowerCutError(BaseException):
    """What ends a run at once."""


def test_a_run_that_died_before_it_moved_a_file_is_finished_by_the_next(lake, settings, landing, drop):
    def die(_outcome):
        raise PowerCutError

    drop("trades.csv")
    with pytest.raises(PowerCutError):
        run(lake, settings, on_outcome=die)

    (outcome,) = run(lake, settings)

    assert outcome.status == "repeated"
    assert names(landing) == ["done/trades.csv", "done/trades.csv.mapping.yaml"]
    assert trades(lake) == 10


@pytest.mark.soak
def test_a_file_that_is_overwritten_while_it_is_taken_in_stays_and_is_taken_in_too(lake, settings, landing, drop):
    drop("trades.csv")

    run(lake, settings, on_outcome=lambda _outcome: drop("trades.csv", first=10))
    assert "trades.csv" in names(landing)
    run(lake, settings)

    assert "trades.csv" not in names(landing)
    assert trades(lake) == 20


def test_a_file_that_another_host_has_claimed_is_left_to_it(lake, settings, landing, drop):
    drop("trades.csv")
    (file,) = waiting(settings, NOW_THERE)

    with claimed(landing, file) as mine:
        assert mine
        assert run(lake, settings) == []
    assert [outcome.status for outcome in run(lake, settings)] == ["published"]


def test_hosts_side_by_side_take_each_file_in_once(settings, landing, drop):
    for number in range(6):
        drop(f"part-{number}.csv", first=number * 10)

    def host(number):
        mine = settings.model_copy(update={"scratch": settings.scratch / str(number)})
        return run(Lakehouse.open(settings.lake_root, clock=lambda: NOW_THERE), mine)

    with ThreadPoolExecutor(3) as hosts:
        outcomes = [outcome for part in hosts.map(host, range(3)) for outcome in part]

    assert sorted(outcome.name for outcome in outcomes) == [f"part-{number}.csv" for number in range(6)]
    assert {outcome.status for outcome in outcomes} == {"published"}
    assert trades(Lakehouse.open(settings.lake_root)) == 60
    assert {name.partition("/")[0] for name in (file.name for file in landing.files())} == {"done"}


#: A host that claims the first file that waits, and says so.
HOST = """
import sys, time
from datetime import UTC, datetime, timedelta
from hfthot_platform.core.settings import load_settings
from hfthot_platform.services.ingest.object_landing import claimed, waiting_objects
from hfthot_platform.storage.folders import landing_folder
landing = landing_folder(load_settings())
(file,) = waiting_objects(landing, now=datetime.now(UTC) + timedelta(hours=1), settle_seconds=0)
with claimed(landing, file, lease=2.0) as mine:
    print(mine, flush=True)
    time.sleep(600)
"""


@pytest.mark.soak
def test_a_claim_of_a_host_that_was_killed_is_passed_over(lake, settings, landing, drop, monkeypatch):
    drop("trades.csv")
    monkeypatch.setenv("HFTHOT_LANDING", landing.url)
    monkeypatch.setenv("HFTHOT_STORAGE_OPTIONS", json.dumps(settings.plain_storage_options()))
    with subprocess.Popen([sys.executable, "-c", HOST], stdout=subprocess.PIPE, text=True) as host:
        assert host.stdout.readline() == "True\n"
        (file,) = waiting(settings, NOW_THERE)
        with claimed(landing, file, lease=2.0) as mine:
            assert not mine
        host.kill()

    until = time.monotonic() + 60
    while time.monotonic() < until:
        with claimed(landing, file, lease=2.0) as mine:
            if mine:
                break
        time.sleep(0.2)

    assert mine


def test_folders_that_are_not_read_are_told(settings, landing):
    landing.put("2024/trades.csv", b"x")

    assert places_not_read(settings) == {f"{settings.landing}/2024": 1}


def test_a_market_file_with_personal_data_goes_to_the_private_folder_under_no_name(lake, settings, landing):
    landing.put("of ada@example.org.csv", b"email,first_name\nada@example.org,Ada\n")

    (outcome,) = run(lake, settings)

    assert outcome.reason == "personal_data"
    assert names(landing) == [f"users/rejected/{outcome.name}"]


# -- user events ----------------------------------------------------------------------------------------------------


@pytest.fixture
def accounts(settings):
    with Accounts.open(settings, lambda: NOW_THERE, create=True) as opened:
        yield opened


def event(number, kind="registration"):
    person = {"username": "ada", "email": "ada@analytical.example"}
    return json.dumps({"event_id": f"e-{number}", "type": kind, "at": "2024-03-01T00:00:00Z", **person}).encode()


def test_a_file_of_user_events_is_deleted_once_it_was_taken_in(accounts, lake, settings, landing):
    landing.put("users/ada@analytical.example.jsonl", event(1))

    (outcome,) = ingest_user_landing(accounts, lake)

    assert (outcome.status, outcome.report.applied) == ("published", 1)
    assert accounts.find_user(username="ada").email == "ada@analytical.example"
    assert names(landing) == []
    assert list(settings.scratch.glob("landing-*")) == []


@pytest.mark.soak
def test_events_of_an_unknown_account_wait_for_its_registration(accounts, lake, settings, landing):
    landing.put("users/later.jsonl", event(2, "api_call"))

    assert [outcome.status for outcome in ingest_user_landing(accounts, lake)] == ["waiting"]
    landing.put("users/sooner.jsonl", event(1))
    ingest_user_landing(accounts, lake)
    ingest_user_landing(accounts, lake)

    assert names(landing) == []


def test_a_file_that_cannot_be_read_is_kept_a_week_under_no_name(accounts, lake, settings, landing):
    landing.put("users/ada@analytical.example.jsonl", b"\x00\x01 no events")

    (outcome,) = ingest_user_landing(accounts, lake)

    assert outcome.status == "rejected"
    assert names(landing) == [f"users/rejected/{outcome.name}"]
    kept = landing.find(f"users/rejected/{outcome.name}").modified
    assert sweep_user_files(settings, lake, accounts, kept + timedelta(days=6)) == 0
    assert sweep_user_files(settings, lake, accounts, kept + timedelta(days=7)) == 1
    assert names(landing) == []


def test_what_waits_is_told_without_its_name(settings, landing):
    landing.put("users/ada@analytical.example.jsonl", event(1))

    (told,) = waiting_user_files(settings, NOW_THERE)

    assert "ada" not in told


def test_what_a_killed_process_left_of_a_fetched_file_is_removed(lake, settings):
    left = settings.scratch / "landing-left"
    left.mkdir(parents=True)
    (left / "events.jsonl").write_bytes(event(1))
    hours_ago = time.time() - 2 * 3600
    os.utime(left, (hours_ago, hours_ago))
    fresh = Path(settings.scratch, "landing-at-work")
    fresh.mkdir()

    run(lake, settings)

    assert (left.exists(), fresh.exists()) == (False, True)
