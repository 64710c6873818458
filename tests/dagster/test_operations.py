"""Landing folder, sensors, incidents, maintenance and the deep checks, as Dagster runs them."""

from __future__ import annotations

import gzip
import json
import os
import threading
from datetime import UTC, date, datetime, timedelta
from http.server import BaseHTTPRequestHandler, HTTPServer

import dagster as dg
import polars as pl
import pytest
from dagster._core.events import EngineEventData
from dagster_shared.error import SerializableErrorInfo

from hfthot_platform.definitions import build_definitions
from hfthot_platform.services.derive.tables import derive_table
from hfthot_platform.storage.incidents import Incident, notify, record, redacted
from resources.platform import Platform
from sensors.failures import run_failure
from sensors.landing import landing_folder, withdrawn_files
from tests.dagster.conftest import NOW

DAY = "2024-03-04"
CANDLES = "timestamp,open,high,low,close,volume\n" + "\n".join(
    f"{1709546400000 + 60_000 * i},{100 + i},{102 + i},{99 + i},{101 + i},5" for i in range(10)
)


def drop(settings, name: str, content: str, mapping: dict[str, str] | None = None) -> None:
    settings.landing.mkdir(parents=True, exist_ok=True)
    (settings.landing / name).write_bytes(gzip.compress(content.encode(), mtime=0))
    mapping = mapping or {"venue": "somewhere", "symbol": "ALPHA-USDT", "interval": "1m"}
    (settings.landing / f"{name}.mapping.yaml").write_text(json.dumps(mapping))
    settled = NOW.timestamp() - 60
    os.utime(settings.landing / name, (settled, settled))


def test_dropped_files_are_published_and_their_days_announced(run, settings, platform, instance):
    drop(settings, "candles.csv.gz", CANDLES)

    result = run("landing")

    assert platform.lake.table("market.bars_1m").scan().collect().height == 10
    assert instance.get_materialized_partitions(dg.AssetKey(["market", "bars_1m"])) == {DAY}
    checks = {check.check_name: check.passed for check in result.get_asset_check_evaluations()}
    assert checks == {"counts_add_up": True, "files_accepted": True}
    assert (settings.landing / "done" / "candles.csv.gz").exists()
    assert (settings.landing / "done" / "candles.csv.gz.mapping.yaml").exists()


@pytest.mark.soak
def test_what_is_computed_from_a_table_follows_the_days_of_a_dropped_file(run, settings, platform, instance):
    definitions = build_definitions(settings, platform)
    cursor = dg.evaluate_automation_conditions(defs=definitions, instance=instance).cursor
    drop(settings, "candles.csv.gz", CANDLES)

    run("landing")

    found = dg.evaluate_automation_conditions(defs=definitions, instance=instance, cursor=cursor)
    assert found.get_requested_partitions(dg.AssetKey(["market", "bars"])) == {DAY}


@pytest.mark.soak
def test_old_days_are_announced_and_derived_and_what_no_partition_has_is_told(
    run, settings, platform, instance, caplog
):
    days = ["1969-12-30", "1969-12-31", "1970-01-01", "2008-03-05"]
    bars = "date,open,high,low,close,volume\n" + "".join(f"{day},10,12,9,11,5\n" for day in days)
    closes = dg.AssetKey(["market", "closes"])
    definitions = build_definitions(settings, platform)
    cursor = dg.evaluate_automation_conditions(defs=definitions, instance=instance).cursor
    mapping = {"venue": "us_equity", "symbol": "KO", "interval": "1d", "as_of": "2009-01-01T00:00:00Z"}
    drop(settings, "old.csv.gz", bars, mapping)

    landed = run("landing")

    assert instance.get_materialized_partitions(dg.AssetKey(["market", "bars"])) == set(days[2:])
    found = dg.evaluate_automation_conditions(defs=definitions, instance=instance, cursor=cursor)
    assert found.get_requested_partitions(closes) == set(days[2:])
    command = "`hfthot derive market.closes 1969-12-30 1970-01-01`"
    told = f"old.csv.gz: 2 days before 1970-01-01 are not partitions. Run {command}."
    assert told in [message.user_message for message in instance.all_logs(landed.run_id)]
    run("derive", days[3])
    assert platform.lake.table("market.closes").scan().collect()["date"].cast(pl.String).to_list() == days[3:]
    derive_table(platform.lake, "market.closes", (date(1969, 12, 30), date(1970, 1, 1)), settings=settings)
    assert sorted(platform.lake.table("market.closes").scan().collect()["date"].cast(pl.String)) == [*days[:2], days[3]]


def test_a_file_of_closes_of_old_days_is_announced(run, settings, platform, instance):
    drop(settings, "closes.csv.gz", "Date,KO,PEP\n1985-01-02,1.5,2.5\n2007-06-01,3.5,4.5\n", {"venue": "us_equity"})

    run("landing")

    assert instance.get_materialized_partitions(dg.AssetKey(["market", "closes"])) == {"1985-01-02", "2007-06-01"}
    assert platform.lake.table("market.closes").scan().collect().height == 4


def test_a_rejected_file_fails_a_check_and_is_an_incident_once(run, settings, platform, caplog):
    for _ in range(2):
        drop(settings, "candles.csv.gz", CANDLES.replace(",5", ",-5"))
        result = run("landing")
    drop(settings, "good.csv.gz", CANDLES)
    good = run("landing")

    assert result.success, "the run did what it is for; the file is at fault"
    checks = {check.check_name: check for check in result.get_asset_check_evaluations()}
    assert not checks["files_accepted"].passed
    assert checks["files_accepted"].description == "1 of 1 files were rejected."
    (incident,) = platform.lake.table("ops.incidents").scan().collect().rows(named=True)
    assert (incident["kind"], incident["error_class"], incident["job"]) == ("file_rejected", "no_good_rows", "landing")
    assert incident["message"] == "candles.csv.gz: all 10 rows were quarantined"
    assert "candles.csv.gz: all 10 rows" in caplog.text
    assert all(check.passed for check in good.get_asset_check_evaluations())


@pytest.mark.soak
def test_the_days_of_a_withdrawn_file_are_announced_and_derived_once(run, settings, platform, instance):
    drop(settings, "candles.csv.gz", CANDLES)
    run("landing")
    run("derive", DAY)
    assert platform.lake.table("market.bars").scan().collect().height

    withdrawn = run("withdraw", config={"ops": {"withdraw_rows": {"config": {"file": "candles.csv.gz"}}}})

    assert withdrawn.success
    assert platform.lake.table("market.bars_1m").scan().collect().height == 0
    context = dg.build_sensor_context(instance=instance, resources={"platform": platform})
    found = withdrawn_files(context)
    assert isinstance(found, dg.SensorResult)
    (request,) = found.run_requests
    assert request.tags["dagster/asset_partition_range_start"] == DAY
    assert [type(event) for event in found.asset_events] == [dg.AssetMaterialization, dg.AssetCheckEvaluation]
    again = dg.build_sensor_context(instance=instance, cursor=found.cursor, resources={"platform": platform})
    assert isinstance(withdrawn_files(again), dg.SkipReason)
    run("derive", DAY)
    assert platform.lake.table("market.bars").scan().collect().height == 0, "what was computed from them went too"


def test_the_sensor_asks_for_one_run_per_set_of_files(settings, platform):
    drop(settings, "candles.csv.gz", CANDLES)
    context = dg.build_sensor_context(resources={"platform": platform})

    first = landing_folder(context)
    second = landing_folder(context)

    assert isinstance(first, dg.RunRequest)
    assert isinstance(second, dg.RunRequest)
    assert first.run_key == second.run_key
    drop(settings, "more.csv.gz", CANDLES)
    third = landing_folder(context)
    assert isinstance(third, dg.RunRequest)
    assert third.run_key != first.run_key


def test_the_sensor_skips_an_empty_landing_folder(platform):
    found = landing_folder(dg.build_sensor_context(resources={"platform": platform}))

    assert isinstance(found, dg.SkipReason)


def test_a_failed_run_becomes_an_incident_once(platform, instance, caplog):
    @dg.op
    def breaks() -> None:
        raise ValueError("no luck with token=abc123secret at https://user:pw@host/x")

    @dg.job
    def doomed() -> None:
        breaks()

    result = doomed.execute_in_process(
        instance=instance,
        raise_on_error=False,
        run_config={"loggers": {"console": {"config": {"log_level": "CRITICAL"}}}},
    )
    failure = result.get_run_failure_event()
    context = dg.build_run_status_sensor_context(
        "run_failure", failure, instance, result.dagster_run, resources={"platform": platform}
    ).for_run_failure()

    run_failure(context)
    run_failure(context)

    rows = platform.lake.table("ops.incidents").scan().collect()
    assert rows.height == 1
    assert rows["job"][0] == "doomed"
    assert rows["step"][0] == "breaks"
    assert rows["error_class"][0] == "ValueError"
    assert "secret" not in rows["message"][0]
    assert "pw@" not in rows["message"][0]
    assert "incident" in caplog.text
    assert "abc123secret" not in caplog.text


def failed_before_its_first_step(instance, platform, asked: frozenset[dg.AssetKey]):
    """Return the incident of a run whose process could not load what it was to run."""
    run = instance.create_run_for_job(build_definitions(platform.settings, platform).resolve_job_def("ingest"))
    run = run._replace(asset_selection=asked) if asked else run
    error = SerializableErrorInfo("DagsterInvalidSubsetError: no such check\nand more", [], "DagsterInvalidSubsetError")
    instance.report_engine_event("An exception was thrown", run, EngineEventData(error=error))
    failure = instance.report_run_failed(run)
    context = dg.build_run_status_sensor_context(
        "run_failure", failure, instance, run, resources={"platform": platform}
    ).for_run_failure()
    run_failure(context)
    return platform.lake.table("ops.incidents").scan().collect().row(0, named=True)


def test_the_incident_of_a_run_that_did_not_start_says_what_kept_it(platform, instance):
    incident = failed_before_its_first_step(instance, platform, frozenset())

    assert (incident["error_class"], incident["message"]) == ("DagsterInvalidSubsetError", "no such check")


def test_the_incident_of_a_run_whose_model_was_broken_meanwhile_says_the_mistake(settings, instance, tmp_path):
    (tmp_path / "models" / "marts").mkdir(parents=True)
    (tmp_path / "models" / "marts" / "draft.sql").write_text("SELECT 1")
    platform = Platform(settings.model_copy(update={"sql_models": tmp_path / "models"}), clock=lambda: NOW)

    incident = failed_before_its_first_step(instance, platform, frozenset({dg.AssetKey(["marts", "draft"])}))

    assert incident["message"].startswith("marts.draft is disabled. models/marts/draft.sql:1: the file does not begin")


@pytest.mark.parametrize(
    ("message", "gone"),
    [
        ("login failed for alice@example.org", "alice"),
        ("GET https://user:hunter2@host/path", "hunter2"),
        ("api_key=K3Y and password: hunter2", "hunter2"),
        ("Authorization: Bearer", "Bearer"),
        ("key eyJhbGciOiJIUzI1NiIsInR5cCI6IkpXVCJ9eyJzdWIiOiIx", "eyJhbGci"),
    ],
)
def test_messages_are_redacted(message, gone):
    assert gone not in redacted(message)


@pytest.mark.soak
def test_a_message_is_kept_whole_and_bounded_far_beyond_ours():
    long = "word " * 2000

    assert redacted(f"first\n{long}") == f"first\n{long}".strip()
    assert redacted("first\npassword=hush") == "first\npassword=***"
    assert redacted("x" * 50_000) == "x" * 20_000 + " ... (30,000 characters more are in the run's log)"


class Hook(BaseHTTPRequestHandler):
    status = 200
    received: list[dict[str, object]] = []  # noqa: RUF012 - one list for all requests is the point

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers["Content-Length"]))
        type(self).received.append(json.loads(body))
        self.send_response(type(self).status)
        self.end_headers()

    def log_message(self, *_args: object) -> None:
        """Stay quiet."""


@pytest.fixture
def hook():
    Hook.received.clear()
    server = HTTPServer(("127.0.0.1", 0), Hook)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    yield f"http://127.0.0.1:{server.server_port}/hook"
    server.shutdown()
    server.server_close()
    thread.join()


INCIDENT = Incident("one", NOW, "error", "run_failure", job="ingest", message="it broke")


def test_a_webhook_receives_the_incident(settings, hook):
    from pydantic import SecretStr

    told = notify(settings.model_copy(update={"notify": SecretStr(hook)}), INCIDENT)

    assert told
    assert Hook.received[0]["incident_id"] == "one"
    assert Hook.received[0]["ts"] == NOW.isoformat()


def test_a_dead_webhook_is_logged_without_its_address_and_never_raises(settings, caplog):
    from pydantic import SecretStr

    dead = "http://127.0.0.1:9/secret-path"

    assert not notify(settings.model_copy(update={"notify": SecretStr(dead)}), INCIDENT)
    assert "secret-path" not in caplog.text
    assert "it broke" in caplog.text


def test_an_incident_is_recorded_once(platform):
    assert record(platform.lake, INCIDENT).changed
    assert not record(platform.lake, INCIDENT).changed


def test_maintenance_reports_every_table_and_leaves_the_rows(run, platform):
    run("ingest", DAY)
    before = platform.lake.table("market.trades").scan().collect()

    result = run("maintenance")

    observed = {
        event.event_specific_data.asset_observation.asset_key.to_user_string()
        for event in result.all_events
        if event.event_type_value == "ASSET_OBSERVATION"
    }
    assert {"market/trades", "market/simulated_regimes"} <= observed
    after = platform.lake.table("market.trades").scan().collect()
    assert after.sort("symbol", "ts", "trade_id").equals(before.sort("symbol", "ts", "trade_id"))


def test_maintenance_of_a_damaged_table_fails_the_run_but_not_the_others(run, platform):
    run("ingest", DAY)
    log = platform.lake.storage.local_table(platform.lake.table("market.trades").contract) / "_delta_log"
    for entry in log.glob("*.json"):
        entry.write_text("{broken")

    result = run("maintenance", raise_on_error=False)

    assert not result.success
    failure = result.get_step_failure_events()[0].event_specific_data.user_failure_data
    assert "market.trades" in failure.description
    assert platform.lake.table("market.simulated_regimes").scan().collect().height


def test_rows_past_their_retention_that_are_most_of_a_table_stay_and_raise_one_incident_a_day(run, platform):
    clock = platform.lake.clock
    platform.lake.clock = lambda: NOW - timedelta(days=400)
    bad = {"venue": "kraken", "symbol": "ALPHA-USDT", "trade_id": 1, "price": -1.0, "amount": 1.0, "side": "buy"}
    rows = pl.DataFrame([bad | {"ts": NOW - timedelta(days=401), "source": "replay", "source_ref": "test"}])
    good = [rows.with_columns(price=1.0, trade_id=pl.lit(number, pl.Int64)) for number in range(2, 40)]
    platform.lake.table("market.trades").merge(pl.concat([rows, *good]))
    platform.lake.clock = clock

    for _ in range(2):
        assert run("maintenance").success

    quarantined = platform.lake.table("quarantine.trades").scan().collect()
    assert quarantined.height == 1
    (incident,) = platform.lake.table("ops.incidents").scan().collect().to_dicts()
    assert (incident["kind"], incident["severity"], incident["job"]) == ("retention_blocked", "error", "maintenance")
    assert "`hfthot maintain quarantine.trades --yes`" in incident["message"]


def test_maintenance_under_a_clock_that_leapt_ahead_removes_nothing_and_fails(run, platform):
    table = platform.lake.table("market.closes")
    for close in (1.0, 2.0):
        row = {"date": date(2024, 3, 1), "venue": "us_equity", "symbol": "AAPL", "close": close, "adjusted": False}
        table.merge(pl.DataFrame([row | {"source": "vendor_history", "source_ref": "test"}]))
    versions = len(table.readable_versions())
    for part in (platform, platform.lake):
        part.clock = lambda: datetime.now(UTC) + timedelta(days=365)

    result = run("maintenance", raise_on_error=False)

    (failed,) = result.get_step_failure_events()
    assert "nothing was removed" in failed.event_specific_data.user_failure_data.description
    assert len(table.readable_versions()) == versions
    assert platform.lake.table("ops.incidents").scan().collect()["kind"].to_list() == ["clock"]


@pytest.mark.soak
def test_the_deep_checks_cover_every_market_table_and_leave_pages(run, platform):
    run("describe_instruments")
    run("ingest", DAY)
    run("derive", DAY)

    result = run("deep_quality")

    outcomes = {
        (check.asset_key.to_user_string(), check.check_name): check for check in result.get_asset_check_evaluations()
    }
    tables = {name for name, _ in outcomes}
    assert {"market/trades", "market/bars_1m", "market/bars", "market/closes", "market/universe"} <= tables
    assert outcomes["market/trades", "great_expectations"].passed
    assert outcomes["market/bars", "unique_key"].passed
    gaps = outcomes["market/bars_1m", "completeness"]
    minutes = platform.lake.table("market.bars_1m").scan().select(pl.len()).collect().item()
    assert minutes < 3 * 1440
    assert not gaps.passed, "at 300 trades a day most minutes have no trade, and that is reported"
    assert platform.reports.has("market.trades.html")
