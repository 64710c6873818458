"""The asset graph from files alone: dependencies, checks, lineage, partitions, automation, runs."""

from __future__ import annotations

import dataclasses
from datetime import UTC, datetime

import dagster as dg
import pytest

from assets.common import RULES, asset_key
from hfthot_platform.core.settings import load_settings
from hfthot_platform.definitions import build_definitions
from resources.platform import Platform
from sensors.sql_models import sql_model_files
from tests.sql.models.conftest import BARS, NOW, RETURNS, fill
from tests.sql.models.test_runner import TOTALS

RETURNS_KEY = asset_key("marts.returns")
MINUTES_KEY = asset_key("staging.minutes")
TOTALS_KEY = asset_key("marts.totals")


@pytest.fixture
def platform(tmp_path, write):
    folder = write(
        staging__minutes=BARS,
        marts__returns=RETURNS.replace("settings:", "tests:\n- freshness: {column: date, within: 36h}\nsettings:"),
        marts__totals=TOTALS,
        marts__nightly=TOTALS.replace("\ntests:", "\nschedule: 15 4 * * *\ntests:"),
    )
    settings = load_settings(
        lake_root=str(tmp_path / "lake"), scratch=tmp_path / "scratch", sql_models=folder, feeds=[]
    )
    made = Platform(settings, clock=lambda: NOW)
    fill(made.lake)
    return made


@pytest.fixture
def definitions(platform):
    return build_definitions(platform.settings, platform)


@pytest.fixture
def instance():
    with dg.DagsterInstance.ephemeral() as made:
        yield made


def materialize(definitions, instance, *keys, partition=None):
    graph = definitions.resolve_asset_graph()
    assets = [graph.assets_def_for_key(key) for key in keys]
    return dg.materialize(
        assets,
        instance=instance,
        partition_key=partition,
        run_config={"loggers": {"console": {"config": {"log_level": "CRITICAL"}}}},
        raise_on_error=False,
    )


def test_a_stored_model_is_an_asset_with_dependencies_owner_tags_and_partitions(definitions):
    node = definitions.resolve_asset_graph().get(RETURNS_KEY)

    # The table below the view too: a view has no news of its own.
    assert node.parent_keys == {MINUTES_KEY, asset_key("market.bars_1m")}
    assert isinstance(node.partitions_def, dg.DailyPartitionsDefinition)
    assert node.group_name == "marts"
    assert node.owners == ["team:research"]
    assert node.tags["returns"] == ""
    assert node.description == "Daily close and return of every symbol."
    assert {"duckdb", "sql"} <= set(node.kinds)
    assert node.pools == {"marts_returns"}


def test_a_view_is_an_asset_that_is_never_materialised(definitions):
    node = definitions.resolve_asset_graph().get(MINUTES_KEY)
    assert not node.is_materializable
    assert node.parent_keys == {asset_key("market.bars_1m")}
    assert {key.name for key in node.check_keys} == {"not_null_close", "range_close", "expression"}


def test_tests_are_checks_and_those_of_rows_gate_publication(definitions):
    graph = definitions.resolve_asset_graph()
    specs = {key.name: graph.get_check_spec(key).blocking for key in graph.get(RETURNS_KEY).check_keys}
    assert specs == {
        "contract_rules": True,
        "unique_venue_symbol_date": True,
        "not_null_close": True,
        "range_close": True,
        "range_bars": True,
        "freshness": False,
    }


def test_columns_and_their_lineage_are_shown(definitions):
    metadata = definitions.resolve_asset_graph().get(RETURNS_KEY).metadata
    schema = metadata["dagster/column_schema"]
    assert [column.name for column in getattr(schema, "value", schema).columns] == [
        *("venue", "symbol", "date", "close", "bars", "change")
    ]
    lineage = metadata["dagster/column_lineage"]
    assert dg.TableColumnDep(MINUTES_KEY, "close") in getattr(lineage, "value", lineage).deps_by_column["change"]


def test_a_run_of_a_day_publishes_it_with_its_checks(definitions, platform, instance):
    result = materialize(definitions, instance, RETURNS_KEY, partition="2024-03-02")

    assert result.success
    checks = {check.check_name: check.passed for check in result.get_asset_check_evaluations()}
    assert set(checks) == {
        *("contract_rules", "unique_venue_symbol_date", "not_null_close", "range_close", "range_bars", "freshness")
    }
    assert [name for name, passed in checks.items() if not passed] == []
    rows = platform.lake.table("marts.returns").scan().collect()
    assert rows.select("symbol", "close").rows() == [("BTC-USDT", 103.0), ("ETH-USDT", 13.0)]
    (event,) = result.get_asset_materialization_events()
    assert event.materialization.metadata["delta_version"].value == platform.lake.table("marts.returns").version()


def test_rows_that_fail_a_gate_are_not_published(platform, instance):
    broken = platform.models.folder / "marts" / "returns.sql"
    broken.write_text(broken.read_text().replace("{range: {min: 1}}", "{range: {min: 3}}"))
    fresh = Platform(platform.settings, clock=lambda: NOW)
    definitions = build_definitions(fresh.settings, fresh)

    result = materialize(definitions, instance, RETURNS_KEY, partition="2024-03-02")

    evaluations = {check.check_name: check for check in result.get_asset_check_evaluations()}
    assert not evaluations["range_bars"].passed
    assert evaluations["range_bars"].metadata["failing"].value == 2
    assert not evaluations["contract_rules"].passed
    assert result.get_asset_materialization_events() == []
    assert fresh.lake.table("marts.returns").version() is None
    assert fresh.lake.table("quarantine.returns").scan().collect().height == 2


def test_the_tests_of_a_view_run_as_checks(definitions, instance):
    job = definitions.resolve_job_def("sql_view_tests")
    quiet = {"loggers": {"console": {"config": {"log_level": "CRITICAL"}}}}
    result = job.execute_in_process(instance=instance, run_config=quiet)
    assert {check.check_name: check.passed for check in result.get_asset_check_evaluations()} == {
        "not_null_close": True,
        "range_close": True,
        "expression": True,
    }


def test_models_follow_their_inputs_day_by_day_or_as_a_whole(definitions, instance):
    """A model that reads a view follows the table below it; one with a schedule follows nothing."""
    at = datetime(2024, 3, 4, 6, tzinfo=UTC)
    first = dg.evaluate_automation_conditions(definitions, instance, evaluation_time=at)
    assert first.get_num_requested(TOTALS_KEY) == 0
    bars = asset_key("market.bars_1m")
    instance.report_runless_asset_event(
        dg.AssetCheckEvaluation(asset_key=bars, check_name=RULES, passed=True, metadata={})
    )
    instance.report_runless_asset_event(dg.AssetMaterialization(bars, partition="2024-03-02"))

    after = dg.evaluate_automation_conditions(definitions, instance, cursor=first.cursor, evaluation_time=at)

    assert after.get_requested_partitions(RETURNS_KEY) == {"2024-03-02"}
    assert after.get_num_requested(TOTALS_KEY) == 1
    assert after.get_num_requested(asset_key("marts.nightly")) == 0


def test_a_header_with_a_schedule_makes_one(definitions):
    schedules = {schedule.name: schedule for schedule in definitions.get_repository_def().schedule_defs}
    assert schedules["marts_nightly_schedule"].cron_schedule == "15 4 * * *"
    assert "marts_totals_schedule" not in schedules


@pytest.fixture
def broken(platform):
    """The platform after a typo in the file of a view that `returns` reads."""
    (platform.models.folder / "staging" / "minutes.sql").write_text(BARS.replace("market.bars_1m", "market.bars_1n"))
    return Platform(platform.settings, clock=lambda: NOW)


def test_a_broken_file_disables_its_model_and_those_that_read_it_and_nothing_else(broken, instance):
    definitions = build_definitions(broken.settings, broken)
    graph = definitions.resolve_asset_graph()

    assert graph.get(MINUTES_KEY).description == (
        "**Disabled.**\n\n"
        "- dbt_like_sql/staging/minutes.sql:11: unknown table 'market.bars_1n'. Did you mean 'market.bars_1m'?"
    )
    assert graph.get(RETURNS_KEY).description == (
        "**Disabled.**\n\n- dbt_like_sql/marts/returns.sql: it reads staging.minutes, which is disabled."
    )
    assert isinstance(graph.get(RETURNS_KEY).partitions_def, dg.DailyPartitionsDefinition)
    assert graph.get(RETURNS_KEY).parent_keys == {MINUTES_KEY}
    assert graph.get(TOTALS_KEY).is_materializable
    jobs = {job.name for job in definitions.resolve_all_job_defs()}
    assert {"ingest", "marts_nightly", "sql_models_whole"} <= jobs
    assert broken.lake.table("market.bars_1m").scan().collect().height == 12
    assert "marts.returns" not in broken.lake
    dg.Definitions.validate_loadable(definitions)


def test_models_that_read_each_other_or_themselves_are_disabled_and_everything_else_loads(platform):
    for name, read in (("one", "two"), ("two", "one"), ("three", "three")):
        text = TOTALS.replace("market.bars_1m", f"marts.{read}")
        (platform.models.folder / "marts" / f"{name}.sql").write_text(text)
    after = Platform(platform.settings, clock=lambda: NOW)

    definitions = build_definitions(after.settings, after)

    dg.Definitions.validate_loadable(definitions)
    graph = definitions.resolve_asset_graph()
    assert all("**Disabled.**" in graph.get(asset_key(f"marts.{name}")).description for name in ("one", "two", "three"))
    assert graph.get(TOTALS_KEY).is_materializable


def test_a_run_of_a_disabled_model_fails_with_the_mistake(broken, instance):
    result = materialize(build_definitions(broken.settings, broken), instance, MINUTES_KEY)

    assert not result.success
    (check,) = result.get_asset_check_evaluations()
    assert (check.check_name, check.passed) == ("model_is_sound", False)
    (failure,) = result.get_step_failure_events()
    assert "staging/minutes.sql:11: unknown table" in failure.step_failure_data.error.cause.message


def test_a_mistake_fails_a_check_and_is_one_incident_until_it_is_corrected(platform, broken, instance):
    def tick(cursor):
        context = dg.build_sensor_context(instance=instance, cursor=cursor)
        result = sql_model_files(context, platform=broken)
        return result.skip_reason.skip_message, result.cursor

    def check(key):
        record = instance.event_log_storage.get_asset_check_execution_history(
            dg.AssetCheckKey(key, "model_is_sound"), limit=1
        )[0]
        return record.event.asset_check_evaluation

    said, cursor = tick(None)
    again, cursor = tick(cursor)

    assert said == again
    assert said.startswith("2 SQL models are disabled. dbt_like_sql/staging/minutes.sql:11: unknown table")
    assert not check(RETURNS_KEY).passed
    assert "reads staging.minutes" in check(RETURNS_KEY).description
    (incident,) = broken.lake.table("ops.incidents").scan().collect().to_dicts()
    assert (incident["kind"], incident["severity"]) == ("sql_model_disabled", "error")
    assert incident["message"].startswith("dbt_like_sql/staging/minutes.sql:11: unknown table 'market.bars_1n'.")
    assert incident["message"].endswith("Disabled with it: marts.returns.")

    (platform.models.folder / "staging" / "minutes.sql").write_text(BARS)
    said, cursor = tick(cursor)
    assert said == "all 4 SQL models are sound"
    assert check(RETURNS_KEY).passed
    assert broken.lake.table("ops.incidents").scan().collect().height == 1


def test_the_lake_of_the_settings_knows_models_from_any_working_folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    settings = load_settings(lake_root=str(tmp_path / "lake"))
    from hfthot_platform.app.lake import models_folder

    assert models_folder(settings).is_dir()
    assert models_folder(settings.model_copy(update={"sql_models": tmp_path})) == tmp_path
    assert dataclasses.is_dataclass(Platform(settings).models)
