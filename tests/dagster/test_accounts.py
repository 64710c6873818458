"""The user tables in the graph: published by a sensor, checked every day, and nothing personal anywhere."""

from __future__ import annotations

import json
from datetime import UTC, datetime

import dagster as dg
import polars as pl
import pytest

from assets.accounts import TABLES
from assets.common import RULES
from hfthot_platform.core.settings import load_settings
from hfthot_platform.definitions import build_definitions
from hfthot_platform.services.accounts.accounts import Accounts
from hfthot_platform.services.accounts.records import Request
from hfthot_platform.services.privacy.proof.scan import Folder, Needle, scan
from hfthot_platform.services.publication.publisher import Publisher
from hfthot_platform.storage.operational.changes import AuditEvent
from resources.platform import Platform
from sensors.accounts import SENSORS as ACCOUNT_SENSORS
from sensors.accounts import accounts_changes, user_events
from sensors.privacy import SENSORS as PRIVACY_SENSORS
from tests.accounts import ledger
from tests.dagster.conftest import NOW

PERSON = {
    "username": "ada.lovelace.canary",
    "email": "ada.canary@analytical.example",
    "first_name": "Adacanary",
    "last_name": "Lovelacecanary",
    "password": "a canary of a password",
}
PROVIDER_KEY = "finnhub-canary-7d3f1c"
ADDRESS = Request(ip="203.0.113.77", user_agent="CanaryBrowser/9.1")


@pytest.fixture
def settings(tmp_path):
    work = tmp_path / "work"
    return load_settings(
        lake_root=str(work / "lake"),
        landing=work / "landing",
        landing_settle_seconds=0,
        scratch=work / "scratch",
        accounts=work / "accounts",
        key_file=work / "keys" / "kek.json",
        argon2_memory_kib=8,
        argon2_passes=1,
        argon2_lanes=1,
        feeds=[],
    )


@pytest.fixture(autouse=True)
def installation(settings):
    """Runs and sensors make no accounts: somebody has to have made them."""
    Accounts.open(settings).close()


@pytest.fixture
def platform(settings):
    made = Platform(settings, clock=lambda: NOW)
    yield made
    for name in ("accounts", "store"):
        if name in vars(made):
            vars(made)[name].close()


@pytest.fixture
def clocked(settings):
    """A platform with the real time: files are as old as the file system says."""
    made = Platform(settings, clock=lambda: datetime.now(UTC))
    yield made
    for name in ("accounts", "store"):
        if name in vars(made):
            vars(made)[name].close()


@pytest.fixture
def sensor(platform, instance):
    def evaluate(cursor=None):
        context = dg.build_sensor_context(
            instance=instance, cursor=cursor, resources={"platform": platform}, sensor_name="accounts_changes"
        )
        return accounts_changes(context)

    return evaluate


def register(platform):
    user = platform.accounts.register(**PERSON, request=ADDRESS)
    session = platform.accounts.login(PERSON["username"], PERSON["password"], request=ADDRESS)
    platform.accounts.save_api_keys(user.user_id, {"finnhub": PROVIDER_KEY})
    key = platform.accounts.generate_hfthot_api_key(user.user_id)
    platform.accounts.update_query_count(user.user_id, "finnhub", 3)
    return user, session.token.get_secret_value(), key.key.get_secret_value()


# -- publishing -------------------------------------------------------------------------------------------------


def test_a_run_publishes_all_user_tables(platform, run):
    register(platform)

    result = run("accounts_publish")

    made = {event.asset_key.to_user_string(): event for event in result.get_asset_materialization_events()}
    assert set(made) == set(TABLES)
    assert all(check.passed for check in result.get_asset_check_evaluations())
    assert {platform.lake.table(name).scan().select(pl.len()).collect().item() for name in TABLES} >= {1}
    metadata = made["users"].materialization.metadata
    assert metadata["rows"].value == 1
    assert metadata["delta_version"].value == platform.lake.table("users").version()


def test_commits_name_the_run(platform, run):
    register(platform)
    result = run("accounts_publish")
    assert {version.run_id for version in platform.lake.table("users").versions() if version.rows} == {result.run_id}


@pytest.mark.soak
def test_a_second_run_makes_no_versions(platform, run):
    register(platform)
    run("accounts_publish")
    before = {name: platform.lake.table(name).version() for name in TABLES}
    assert run("accounts_publish").success
    assert {name: platform.lake.table(name).version() for name in TABLES} == before


@pytest.fixture
def unchecked(monkeypatch):
    """Let the store take rows that it refuses, as an older version did."""
    monkeypatch.setattr("hfthot_platform.storage.operational.connection.require_rows", lambda rows: None)


def test_a_bad_entry_fails_the_check_of_its_table_and_the_others_are_published(platform, run, unchecked):
    register(platform)
    broken = ledger.user(1)
    broken.row["email"] = PERSON["email"]
    ledger.log(platform.store, [([broken], AuditEvent(action="user.register"))])

    result = run("accounts_publish")

    (check,) = [check for check in result.get_asset_check_evaluations() if not check.passed]
    assert (check.asset_key.to_user_string(), check.check_name) == ("users", RULES)
    assert "breaks the rule malformed_text" in check.description
    assert PERSON["email"] not in check.description
    assert platform.lake.table("users").scan().collect().height == 1
    assert platform.lake.table("ops.incidents").scan().collect()["kind"].to_list() == ["set_aside"]


# -- the sensor -------------------------------------------------------------------------------------------------


def test_entries_in_the_log_start_a_publication_once(platform, sensor, run):
    register(platform)
    head = platform.store.head()[0]

    result = sensor()

    assert [request.run_key for request in result.run_requests] == [f"accounts:{head}:20240310T12"]
    assert result.cursor == str(head)
    run("accounts_publish")
    assert "every entry" in sensor().skip_message


def test_the_sensor_waits_for_a_publication_that_is_under_way(platform, sensor, instance):
    register(platform)
    instance.create_run_for_job(
        build_definitions(platform.settings, platform).resolve_job_def("accounts_publish"),
        status=dg.DagsterRunStatus.STARTED,
    )
    assert "under way" in sensor().skip_message


# -- integrity --------------------------------------------------------------------------------------------------


def failed(result):
    return {
        f"{check.asset_key.to_user_string()}: {check.check_name}"
        for check in result.get_asset_check_evaluations()
        if not check.passed
    }


def test_the_daily_run_publishes_and_checks(platform, run):
    register(platform)

    result = run("accounts_integrity")

    names = {check.check_name for check in result.get_asset_check_evaluations()}
    assert failed(result) == set()
    assert names == {
        RULES,
        "unique_key",
        "known_subjects",
        "quota_not_negative",
        "sequence_without_gaps",
        "redacted_rows_empty",
        "no_plaintext",
    }


def test_the_daily_run_finds_what_got_past_the_publisher(platform, run):
    register(platform)
    Publisher(platform.store, platform.lake).publish()
    run("accounts_integrity")
    stranger = (
        platform.lake.table("sessions")
        .scan()
        .collect()
        .with_columns(session_id=pl.lit("f" * 32), subject_id=pl.lit("e" * 32))
    )
    platform.lake.table("sessions").append(stranger.drop("date"))
    entries = platform.lake.table("audit_log").scan().collect().head(1)
    clear = entries.with_columns(seq=pl.lit(1000, dtype=pl.Int64), detail=pl.lit('{"by":"ada@analytical.example"}'))
    platform.lake.table("audit_log").append(clear.drop("date"))

    result = run("accounts_integrity", raise_on_error=False)

    assert failed(result) == {
        "sessions: known_subjects",
        "audit_log: sequence_without_gaps",
        "audit_log: no_plaintext",
    }
    (found,) = [
        check
        for check in result.get_asset_check_evaluations()
        if "no_plaintext" in check.check_name and not check.passed
    ]
    assert "analytical" not in str(found)
    (row,) = found.metadata["findings"].records
    assert (row.data["column"], row.data["like"], row.data["count"]) == ("detail", "e-mail address", 1)


# -- nothing personal -------------------------------------------------------------------------------------------


def test_nothing_personal_gets_into_the_lake_or_into_dagster(platform, tmp_path, unchecked):
    """Everything that Dagster stores and every file of the lake, in every encoding, decoded where it is packed."""
    home = tmp_path / "dagster_home"
    home.mkdir()
    user, token, key = register(platform)
    definitions = build_definitions(platform.settings, platform)
    with dg.DagsterInstance.local_temp(str(home)) as instance:
        assert definitions.resolve_job_def("accounts_integrity").execute_in_process(instance=instance).success
        broken = ledger.user(1)
        broken.row["role"] = PERSON["email"]
        ledger.log(platform.store, [([broken], AuditEvent(action="user.register"))])
        job = definitions.resolve_job_def("accounts_publish")
        assert job.execute_in_process(instance=instance).success
        assert len(platform.store.waiting_aside()) == 1

    needles = [Needle(name, value) for name, value in PERSON.items()]
    needles += [Needle("user id", user.user_id), Needle("token", token), Needle("API key", key)]
    needles += [
        Needle("provider key", PROVIDER_KEY),
        Needle("address", ADDRESS.ip),
        Needle("program", ADDRESS.user_agent),
    ]
    places = [Folder("lake", platform.lake.storage.local), Folder("dagster", home)]
    report = scan(needles, places)

    assert report.clean, [str(finding) for finding in report.findings]
    assert report.files > 20
    store = scan(needles, [Folder("store", platform.settings.accounts)])
    assert {finding.kind for finding in store.findings} <= {"user id", "email"}, (
        "only the log's bad entry and the user id"
    )


# -- user events from elsewhere ---------------------------------------------------------------------------------


def drop(settings, *events):
    folder = settings.landing / "users"
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"{PERSON['email']}.jsonl"
    path.write_text("".join(json.dumps(event) + "\n" for event in events))
    return path


@pytest.mark.soak
def test_a_file_of_user_events_starts_a_run_that_applies_it(settings, clocked, instance, tmp_path):
    common = {"at": "2024-03-09T12:00:00Z", "username": PERSON["username"], "email": PERSON["email"]}
    path = drop(
        settings,
        {"event_id": "a", "type": "registration", "first_name": PERSON["first_name"], **common},
        {"event_id": "b", "type": "login", "ip": ADDRESS.ip, **common},
        {"event_id": "c", "type": PERSON["email"], **common},
    )
    home = tmp_path / "dagster_home"
    home.mkdir()
    with dg.DagsterInstance.local_temp(str(home)) as kept:
        context = dg.build_sensor_context(instance=kept, resources={"platform": clocked}, sensor_name="user_events")
        request = user_events(context)
        definitions = build_definitions(settings, clocked)
        for job in ("user_files", "accounts_integrity"):
            assert definitions.resolve_job_def(job).execute_in_process(instance=kept).success

    assert request.run_key.startswith("user_files:")
    assert not path.exists()
    assert clocked.lake.table("sessions").scan().collect().height == 1
    assert clocked.lake.table("quarantine.users").scan().collect()["reason"].to_list() == ["unknown_type"]
    needles = [Needle(name, value) for name, value in PERSON.items()] + [Needle("address", ADDRESS.ip)]
    places = [Folder("lake", clocked.lake.storage.local), Folder("dagster", home)]
    report = scan(needles, places)
    assert report.clean, [str(finding) for finding in report.findings]


def test_without_files_of_user_events_nothing_starts(clocked, instance):
    context = dg.build_sensor_context(instance=instance, resources={"platform": clocked}, sensor_name="user_events")
    assert isinstance(user_events(context), dg.SkipReason)


# -- without accounts -------------------------------------------------------------------------------------------


class TestWithoutAccounts:
    """Nobody made accounts: everything about them is skipped and says why, and nothing makes them."""

    @pytest.fixture(autouse=True)
    def installation(self):
        """Make none."""

    @pytest.fixture(autouse=True)
    def made_none(self, settings):
        yield
        assert not settings.accounts.exists()
        assert not settings.key_file.exists()

    @pytest.mark.parametrize("name", [sensor.name for sensor in (*ACCOUNT_SENSORS, *PRIVACY_SENSORS)])
    def test_the_sensors_skip(self, name, platform, instance):
        chosen = next(sensor for sensor in (*ACCOUNT_SENSORS, *PRIVACY_SENSORS) if sensor.name == name)
        context = dg.build_sensor_context(instance=instance, resources={"platform": platform}, sensor_name=name)

        answer = chosen(context)
        (skipped,) = [answer] if isinstance(answer, dg.SkipReason) else list(answer)

        assert "no accounts yet" in skipped.skip_message
        assert "hfthot init" in skipped.skip_message

    @pytest.mark.parametrize("job", ["accounts_publish", "accounts_integrity", "audit_retention", "audit_chain"])
    def test_the_jobs_pass_without_doing_anything(self, job, run):
        result = run(job)

        assert result.success
        assert result.get_asset_materialization_events() == []
        assert all(check.passed for check in result.get_asset_check_evaluations())
