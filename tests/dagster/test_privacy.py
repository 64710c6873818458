"""Export, erasure, retention and rotation as jobs: they carry a random id and counts, and nothing of anybody."""

from __future__ import annotations

import json
import os
import shutil
from datetime import timedelta

import dagster as dg
import pytest

from hfthot_platform.core.settings import load_settings
from hfthot_platform.definitions import build_definitions
from hfthot_platform.services.accounts.accounts import Accounts
from hfthot_platform.services.privacy.certificate import verify
from hfthot_platform.services.privacy.erasure import public_key
from hfthot_platform.services.privacy.erasure_requests import list_erasures, request_erasure
from hfthot_platform.services.privacy.export import request_export
from hfthot_platform.services.privacy.holds import place_hold, release_hold
from hfthot_platform.services.privacy.proof.scan import Folder, Needle, scan
from hfthot_platform.services.publication.publisher import flush
from jobs.privacy import erasures_resumed
from resources.platform import Platform
from sensors.privacy import erasure_requests, export_requests
from tests.dagster.conftest import NOW
from tests.privacy.conftest import Clock
from tests.privacy.people import YAN, ZOE, register


@pytest.fixture
def settings(tmp_path):
    work = tmp_path / "work"
    return load_settings(
        lake_root=str(work / "lake"),
        landing=work / "landing",
        scratch=work / "scratch",
        accounts=work / "accounts",
        key_file=work / "keys" / "kek.json",
        exports=work / "exports",
        certificates=work / "certificates",
        argon2_memory_kib=8,
        argon2_passes=1,
        argon2_lanes=1,
        feeds=[],
    )


@pytest.fixture
def clock():
    return Clock(NOW)


@pytest.fixture
def platform(settings, clock):
    made = Platform(settings, clock=clock)
    yield made
    for name in ("accounts", "store"):
        if name in vars(made):
            vars(made)[name].close()


@pytest.fixture(scope="module")
def new_home(tmp_path_factory):
    """The folder of a Dagster instance that nothing has used, to be copied: making its databases takes longer."""
    folder = tmp_path_factory.mktemp("dagster_home")
    with dg.DagsterInstance.local_temp(str(folder)):
        return folder


@pytest.fixture
def home(tmp_path, new_home, monkeypatch):
    """A Dagster instance on disk, inside what the proof searches."""
    folder = tmp_path / "dagster_home"
    shutil.copytree(new_home, folder)
    monkeypatch.setenv("DAGSTER_HOME", str(folder))
    return folder


@pytest.fixture
def instance(home):
    with dg.DagsterInstance.local_temp(str(home)) as made:
        yield made


@pytest.fixture
def zoe(platform, empty_store):
    empty_store(platform.settings.accounts)
    Accounts.open(platform.settings, platform.clock, create=True).close()
    user = register(platform.accounts, ZOE)
    register(platform.accounts, YAN)
    flush(platform.accounts.store, platform.lake)
    return user


def config(op, request_id):
    return {"ops": {op: {"config": {"request_id": request_id}}}}


def ticks(sensor, platform, instance):
    context = dg.build_sensor_context(instance=instance, resources={"platform": platform})
    return list(sensor(context))


def outputs(result, step):
    event = next(event for event in result.events_for_node(step) if event.event_type == dg.DagsterEventType.STEP_OUTPUT)
    return {name: value.value for name, value in event.step_output_data.metadata.items()}


def test_without_accounts_nothing_is_made(platform, instance, settings):
    (skipped,) = ticks(erasure_requests, platform, instance)
    (also,) = ticks(export_requests, platform, instance)

    assert isinstance(skipped, dg.SkipReason)
    assert isinstance(also, dg.SkipReason)
    assert not settings.accounts.exists()


def test_a_request_is_erased_by_its_run_and_leaves_nothing_in_dagster(run, platform, instance, zoe, home, settings):
    request_id = request_erasure(platform.accounts, zoe.user_id)
    (asked,) = ticks(erasure_requests, platform, instance)
    assert asked.run_key == request_id
    assert asked.run_config == config("erase_person", request_id)
    assert asked.tags == {}

    result = run("rgpd_erasure", config=asked.run_config)

    assert result.success
    verify(settings.certificates / f"{request_id}.json", public_key(platform.accounts))
    shown = outputs(result, "erase_person")
    assert shown["canaries_found"] > 50
    needles = [Needle("value", value) for value in (*ZOE.values, zoe.user_id)]
    assert scan(needles, [Folder("dagster", home)]).findings == ()
    (skipped,) = ticks(erasure_requests, platform, instance)
    assert isinstance(skipped, dg.SkipReason)


@pytest.mark.soak
def test_a_held_erasure_waits_without_a_failure_and_is_resumed(run, platform, instance, zoe):
    hold = place_hold(platform.accounts, zoe.user_id, ["audit"], "case 7")
    request_id = request_erasure(platform.accounts, zoe.user_id)

    result = run("rgpd_erasure", config=config("erase_person", request_id))

    assert result.success
    assert outputs(result, "erase_person") == {"held": True}
    schedule = dg.build_schedule_context(
        instance=instance, scheduled_execution_time=NOW, resources={"platform": platform}
    )
    assert isinstance(erasures_resumed.evaluate_tick(schedule).skip_message, str)
    release_hold(platform.accounts, hold.hold_id, "closed")
    (resumed,) = erasures_resumed.evaluate_tick(schedule).run_requests
    assert resumed.run_config == config("erase_person", request_id)
    assert run("rgpd_erasure", config=resumed.run_config).success
    assert list_erasures(platform.accounts)[0].state == "done"


def test_a_failed_proof_fails_the_run_and_names_the_place_alone(run, platform, instance, zoe, settings, home):
    settings.landing.mkdir(parents=True)
    trace = settings.landing / "left.txt"
    trace.write_text(json.dumps(ZOE.email))
    request_id = request_erasure(platform.accounts, zoe.user_id)

    result = run("rgpd_erasure", config=config("erase_person", request_id), raise_on_error=False)

    assert not result.success
    failure = next(event for event in result.all_events if event.event_type == dg.DagsterEventType.STEP_FAILURE)
    told = failure.step_failure_data.user_failure_data
    assert "landing: left.txt" in told.description
    assert told.metadata["open_hits"].value == 1
    assert told.metadata["hits"].value.records[0].data["file"] == "left.txt"
    trace.unlink()
    assert scan([Needle("value", value) for value in ZOE.values], [Folder("dagster", home)]).findings == ()
    assert isinstance(ticks(erasure_requests, platform, instance)[0], dg.SkipReason)
    assert isinstance(ticks(erasure_requests, platform, instance)[0], dg.SkipReason)
    incident = platform.lake.table("ops.incidents").scan().collect()
    assert incident["incident_id"].to_list() == [f"erasure-{request_id}-failed"]
    assert f"it can be proven until {NOW + timedelta(days=30):%Y-%m-%d}" in incident["message"][0]
    schedule = dg.build_schedule_context(
        instance=instance, scheduled_execution_time=NOW, resources={"platform": platform}
    )
    (again,) = erasures_resumed.evaluate_tick(schedule).run_requests
    assert again.run_key == f"{request_id}:{NOW:%Y%m%d}"
    assert again.tags["hfthot/provable_until"] == f"{NOW + timedelta(days=30):%Y-%m-%d}"
    assert run("rgpd_erasure", config=again.run_config).success


@pytest.mark.soak
def test_an_unexpected_error_tells_its_class_alone(run, platform, instance, zoe, monkeypatch, home):
    request_id = request_erasure(platform.accounts, zoe.user_id)

    def broken(*_):
        raise ValueError(f"row of {ZOE.email}")

    monkeypatch.setattr("hfthot_platform.services.privacy.erasure.destroy", broken)

    result = run("rgpd_erasure", config=config("erase_person", request_id), raise_on_error=False)

    assert not result.success
    assert scan([Needle("value", ZOE.email)], [Folder("dagster", home)]).findings == ()


def test_an_export_that_nobody_waits_for_is_run(run, platform, instance, zoe, clock, settings, home):
    request_id = request_export(platform.accounts, zoe.user_id)
    assert isinstance(ticks(export_requests, platform, instance)[0], dg.SkipReason)
    clock.forward(minutes=2)
    (asked,) = ticks(export_requests, platform, instance)

    result = run("rgpd_export", config=asked.run_config)

    assert result.success
    assert (settings.exports / request_id / "export.json").exists()
    assert scan([Needle("value", value) for value in ZOE.values], [Folder("dagster", home)]).findings == ()


@pytest.mark.soak
def test_retention_asks_for_what_is_due(run, platform, instance, zoe, clock):
    platform.accounts.delete_user_soft(zoe.user_id)
    clock.forward(days=31)
    platform.accounts.store.accept_clock()  # somebody looked

    result = run("audit_retention")

    assert outputs(result, "remove_expired")["erasures"] == 1
    (asked,) = ticks(erasure_requests, platform, instance)
    assert run("rgpd_erasure", config=asked.run_config).success


def test_retention_under_a_clock_that_leapt_ahead_removes_nothing_and_fails(run, platform, zoe, clock):
    sessions = platform.lake.table("sessions").scan().collect().height
    clock.forward(days=400)

    result = run("audit_retention", raise_on_error=False)

    (failed,) = [event for event in result.all_node_events if event.is_step_failure]
    assert "400 days" in str(failed.step_failure_data.user_failure_data or failed.step_failure_data.error)
    assert not result.success
    assert platform.lake.table("sessions").scan().collect().height == sessions > 0


@pytest.mark.soak
@pytest.mark.parametrize("with_accounts", [True, False], ids=["accounts", "no accounts"])
def test_rejected_user_files_leave_with_the_daily_retention(run, request, settings, clock, with_accounts):
    if with_accounts:
        request.getfixturevalue("zoe")
    rejected = settings.landing / "users" / "rejected"
    rejected.mkdir(parents=True)
    for name, days in (("old", 8), ("new", 6)):
        (rejected / name).write_text(ZOE.email)
        written = (clock() - timedelta(days=days)).timestamp()
        os.utime(rejected / name, (written, written))

    result = run("audit_retention")

    assert outputs(result, "remove_expired")["user_files"] == 1
    assert [file.name for file in rejected.iterdir()] == ["new"]


def test_keys_are_rotated(run, platform, zoe):
    result = run("key_rotation")

    assert outputs(result, "rewrap_keys") == {"subject_keys": 8, "installation_keys": 2, "dropped": 1}
    assert platform.accounts.get_user(zoe.user_id).email == ZOE.email


def test_the_chain_is_checked(settings, platform, instance, zoe):
    job = build_definitions(settings, platform).resolve_job_def("audit_chain")
    quiet = {"loggers": {"console": {"config": {"log_level": "CRITICAL"}}}}

    (sound,) = job.execute_in_process(instance=instance, run_config=quiet).get_asset_check_evaluations()
    assert sound.passed

    import deltalake
    import polars as pl

    table = platform.lake.table("audit_log")
    rows = table.scan().collect().with_columns(outcome=pl.lit("refused"))
    deltalake.write_deltalake(table.uri, rows.rechunk(), mode="overwrite")
    (broken,) = job.execute_in_process(instance=instance, run_config=quiet).get_asset_check_evaluations()
    assert not broken.passed
    assert "entry 1 was altered" in broken.description
