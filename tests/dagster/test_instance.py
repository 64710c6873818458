"""The Dagster instance past one host: configurations that Dagster takes, and the traps that the doctor names."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from datetime import UTC, datetime, timedelta
from pathlib import Path

import dagster as dg
import pytest
import yaml
from dagster._core.instance.ref import InstanceRef

from hfthot_platform.app.findings import Finding
from resources.event_log import purge_events
from resources.instance import diagnose_instance, instance_config, instance_yaml
from tests.conftest import REPOSITORY

VARIABLES = {
    "DAGSTER_POSTGRES_HOST": "127.0.0.1",
    "DAGSTER_POSTGRES_PORT": "5432",
    "DAGSTER_POSTGRES_USER": "dagster",
    "DAGSTER_POSTGRES_PASSWORD": "hush",
    "DAGSTER_POSTGRES_DB": "dagster",
    "DAGSTER_LOGS_BUCKET": "logs",
    "DAGSTER_RAY_ADDRESS": "http://head:8265",
    "DAGSTER_K8S_IMAGE": "registry/hfthot:1",
    "DAGSTER_K8S_NAMESPACE": "lab",
    "DAGSTER_K8S_SERVICE_ACCOUNT": "runs",
    "DAGSTER_K8S_INSTANCE_CONFIG_MAP": "instance",
    "DAGSTER_K8S_ENV_CONFIG_MAP": "env",
    "DAGSTER_K8S_ENV_SECRET": "secrets",
    "DAGSTER_HOME": "/dagster",
    "AWS_DEFAULT_REGION": "us-east-1",
}
RAY = VARIABLES | {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": "t", "PATH": str(Path(sys.executable).parent)}


def told(config, orchestration, environment=RAY, **options) -> list[Finding]:
    """Return what is found, but for extras that this environment does not have."""
    found = diagnose_instance(config, orchestration, environment, file=Path("/dagster/dagster.yaml"), **options)
    return [finding for finding in found if "is not installed" not in finding.message]


def test_on_one_host_the_configuration_is_the_repositorys_own():
    own = yaml.safe_load((REPOSITORY / "dagster_home" / "dagster.yaml").read_text())

    assert yaml.safe_load(instance_yaml("one_host")) == own


@pytest.mark.parametrize("orchestration", ["postgres", "ray", "kubernetes"])
def test_past_one_host_the_storage_is_on_postgresql_by_a_driver_that_works(orchestration):
    config = yaml.safe_load(instance_yaml(orchestration))

    assert config["storage"]["postgres"]["postgres_db"]["scheme"] == "postgresql+psycopg2"
    assert config["compute_logs"]["class"] == "S3ComputeLogManager"
    assert config["telemetry"] == {"enabled": False}


@pytest.mark.parametrize("orchestration", ["one_host", "postgres", "ray", "kubernetes"])
def test_a_made_configuration_has_nothing_to_find(orchestration):
    assert told(instance_config(orchestration), orchestration) == []


@pytest.mark.soak
@pytest.mark.parametrize(
    ("orchestration", "launcher"),
    [("postgres", "Launcher"), ("ray", "RayRunLauncher"), ("kubernetes", "K8sRunLauncher")],
)
def test_dagster_takes_each_configuration(tmp_path, monkeypatch, orchestration, launcher):
    for extra in ("dagster_postgres", "dagster_ray", "dagster_k8s", "dagster_aws"):
        pytest.importorskip(extra, reason="make setup-postgres setup-ray setup-k8s")
    import kubernetes.config

    monkeypatch.setattr(kubernetes.config, "load_incluster_config", lambda: None)
    for name, value in VARIABLES.items():
        monkeypatch.setenv(name, value)
    (tmp_path / "dagster.yaml").write_text(instance_yaml(orchestration))

    taken = InstanceRef.from_dir(str(tmp_path))

    assert type(taken.run_launcher).__name__ == launcher
    assert type(taken.run_coordinator).__name__ == "QueuedRunCoordinator"
    assert type(taken.compute_log_manager).__name__ == "S3ComputeLogManager"
    assert "Postgres" in str(taken.storage_data)


def without(config: dict, *path: str) -> dict:
    """Return a configuration without a part of it."""
    at = config
    for name in path[:-1]:
        at = at[name]
    del at[path[-1]]
    return config


def changed(config: dict, value: object, *path: str) -> dict:
    """Return a configuration with another value in one place."""
    at = config
    for name in path[:-1]:
        at = at.setdefault(name, {})
    at[path[-1]] = value
    return config


DATABASE = ("storage", "postgres", "postgres_db")

TRAPS = {
    "the driver of PostgreSQL": (
        lambda: without(instance_config("ray"), *DATABASE, "scheme"),
        {},
        "every run fails at its first event",
    ),
    "the driver in a URL": (
        lambda: changed(instance_config("ray"), "postgresql://d:hush@h/d", "storage", "postgres", "postgres_url"),
        {},
        "every run fails at its first event",
    ),
    "the driver in the older form": (
        lambda: changed(
            without(instance_config("ray"), "storage"),
            {"module": "dagster_postgres.event_log", "class": "PostgresEventLogStorage", "config": {"postgres_db": {}}},
            "event_log_storage",
        ),
        {},
        "every run fails at its first event",
    ),
    "a quote": (lambda: changed(instance_config("ray"), "it's", *DATABASE, "db_name"), {}, "has a single quote"),
    "an empty string": (lambda: changed(instance_config("ray"), "", *DATABASE, "password"), {}, "is empty"),
    "a password": (lambda: changed(instance_config("ray"), "hush", *DATABASE, "password"), {}, "on the command line"),
    "no dagster on the PATH": (lambda: instance_config("ray"), {"PATH": "/nowhere"}, "not on the PATH"),
    "no token": (lambda: instance_config("ray"), {"RAY_AUTH_MODE": ""}, "authentication is off"),
    "a token that is nowhere": (
        lambda: instance_config("ray"),
        {"RAY_AUTH_TOKEN": "", "HOME": "/nowhere"},
        "there is no token",
    ),
    "a variable that is not set": (lambda: instance_config("ray"), {"DAGSTER_RAY_ADDRESS": ""}, "DAGSTER_RAY_ADDRESS"),
    "secrets on the dashboard": (
        lambda: changed(instance_config("ray"), ["HFTHOT_KEYS"], "run_launcher", "config", "ray", "env_vars"),
        {},
        "HFTHOT_KEYS, which Ray's dashboard",
    ),
    "files of one host": (lambda: without(instance_config("kubernetes"), "storage"), {}, "in files of this one"),
    "logs of one host": (lambda: without(instance_config("kubernetes"), "compute_logs"), {}, "kept in files of each"),
    "no resumption": (
        lambda: without(instance_config("ray"), "run_monitoring", "max_resume_run_attempts"),
        {},
        "is not resumed",
    ),
}


@pytest.mark.parametrize("trap", TRAPS)
def test_each_trap_is_named_with_what_to_do_and_without_a_secret(trap):
    config, environment, words = TRAPS[trap]
    made = config()
    orchestration = "ray" if made["run_launcher"]["class"] == "RayRunLauncher" else "kubernetes"

    found = told(made, orchestration, RAY | environment)

    assert [finding for finding in found if words in finding.message]
    assert all(finding.next_step for finding in found)
    assert "hush" not in str(found)


def test_code_that_is_named_by_a_relative_file_is_told(tmp_path):
    workspace = tmp_path / "workspace.yaml"
    workspace.write_text("load_from:\n  - python_file: definitions.py\n")

    found = told(instance_config("ray"), "ray", workspace=workspace)

    assert ["definitions.py" in finding.message for finding in found] == [True]


def test_another_launcher_than_the_settings_say_is_told():
    found = told(instance_config("one_host"), "ray")

    assert "`orchestration` is ray" in found[0].message
    assert "hfthot dagster-config ray" in found[0].next_step


def test_an_extra_that_is_not_installed_is_told_with_its_target(monkeypatch):
    monkeypatch.setattr("importlib.util.find_spec", lambda _name: None)

    found = list(diagnose_instance(instance_config("ray"), "ray", RAY, file=Path("/d")))

    assert {finding.next_step for finding in found} == {"`make setup-postgres`", "`make setup-ray`"}


@pytest.fixture(scope="module")
def postgres_home(tmp_path_factory):
    """The folder of an instance whose storage is on PostgreSQL, and the variables that it reads."""
    for extra in ("dagster_postgres", "dagster_aws"):
        pytest.importorskip(extra, reason="make setup-postgres")
    from sqlalchemy.engine import make_url

    from tests.postgres import server

    url = make_url(server().database())
    home = tmp_path_factory.mktemp("home")
    config = instance_config("postgres")
    # Logs of runs are on an object store, which this test does without.
    del config["compute_logs"]
    (home / "dagster.yaml").write_text(yaml.safe_dump(config))
    return home, VARIABLES | {
        "DAGSTER_HOME": str(home),
        "DAGSTER_POSTGRES_HOST": str(url.host),
        "DAGSTER_POSTGRES_PORT": str(url.port),
        "DAGSTER_POSTGRES_USER": str(url.username),
        "DAGSTER_POSTGRES_DB": str(url.database),
    }


#: What another process, on another host say, finds of the run.
LOOK = """
import dagster as dg, json
with dg.DagsterInstance.get() as instance:
    event = instance.get_latest_materialization_event(dg.AssetKey(["market", "instruments"]))
    print(json.dumps([type(instance.event_log_storage).__name__, event.run_id, len(instance.get_runs())]))
"""


@pytest.mark.soak
def test_old_events_leave_postgresql_and_the_state_of_assets_stays(postgres_home, monkeypatch):
    home, variables = postgres_home
    for name, value in variables.items():
        monkeypatch.setenv(name, value)

    @dg.asset
    def thing() -> None:
        """Do nothing."""

    with dg.DagsterInstance.from_config(str(home)) as instance:
        run_id = dg.materialize([thing], instance=instance).run_id

        purged = purge_events(instance, datetime.now(UTC) + timedelta(hours=1))

        assert purged.events > 5
        assert purged.runs == 0
        assert instance.get_latest_materialization_event(thing.key).run_id == run_id
        kinds = {entry.dagster_event.event_type_value for entry in instance.all_logs(run_id)}
        assert kinds == {"ASSET_MATERIALIZATION", "ASSET_MATERIALIZATION_PLANNED"}
        instance.delete_run(run_id)


@pytest.mark.soak
def test_a_job_runs_with_dagsters_storage_on_postgresql(postgres_home, tmp_path):
    _, variables = postgres_home
    environment = (
        os.environ
        | variables
        | {
            "HFTHOT_LAKE_ROOT": str(tmp_path / "lake"),
            "HFTHOT_LANDING": str(tmp_path / "landing"),
            "HFTHOT_SCRATCH": str(tmp_path / "scratch"),
        }
    )
    job = [sys.executable, "-m", "dagster", "job", "execute", "-m", "hfthot_platform.definitions"]

    done = subprocess.run(
        [*job, "-j", "describe_instruments"],
        cwd=REPOSITORY,
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )

    assert done.returncode == 0, done.stderr
    told_back = subprocess.run(
        [
            *(sys.executable, "-c", LOOK),
        ],
        env=environment,
        capture_output=True,
        text=True,
        check=True,
    )
    storage, run_id, runs = json.loads(told_back.stdout)
    assert storage == "PostgresEventLogStorage"
    assert run_id
    assert runs == 1
