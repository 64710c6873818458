"""Which partitions materialise by themselves, and which do not."""

from __future__ import annotations

import sys

import dagster as dg
import pytest

from assets.common import RULES
from assets.quality import EXPECTATIONS
from hfthot_platform.definitions import build_definitions

DAY = "2024-03-04"
TRADES = dg.AssetKey(["market", "trades"])
MINUTES = dg.AssetKey(["market", "bars_1m"])


@pytest.fixture
def definitions(settings, platform):
    return build_definitions(settings, platform)


def evaluate(definitions, instance, cursor=None):
    return dg.evaluate_automation_conditions(defs=definitions, instance=instance, cursor=cursor)


def publish(instance, *, passed: bool) -> None:
    """What a run of `market/trades` leaves in the event log."""
    check = dg.AssetCheckEvaluation(asset_key=TRADES, check_name=RULES, passed=passed, metadata={})
    instance.report_runless_asset_event(check)
    instance.report_runless_asset_event(dg.AssetMaterialization(TRADES, partition=DAY))


def test_new_trades_of_an_old_day_make_the_bars_of_that_day_follow(definitions, instance):
    cursor = evaluate(definitions, instance).cursor
    publish(instance, passed=True)

    result = evaluate(definitions, instance, cursor)

    assert result.get_requested_partitions(MINUTES) == {DAY}


def test_bars_do_not_follow_when_the_check_of_the_trades_failed(definitions, instance):
    cursor = evaluate(definitions, instance).cursor
    publish(instance, passed=False)

    result = evaluate(definitions, instance, cursor)

    assert not result.get_requested_partitions(MINUTES)


def test_nothing_is_requested_without_an_event(definitions, instance):
    cursor = evaluate(definitions, instance).cursor

    assert evaluate(definitions, instance, cursor).total_requested == 0


def execute(definitions, instance, day=None, **selection):
    """Run what `Materialize` or an automation runs: assets with all of their checks, or a check alone."""
    job = definitions.resolve_implicit_global_asset_job_def().get_subset(**selection)
    quiet = {"loggers": {"console": {"config": {"log_level": "CRITICAL"}}}}
    return job.execute_in_process(instance=instance, partition_key=day, run_config=quiet, raise_on_error=False)


def test_a_run_that_publishes_neither_imports_great_expectations_nor_reads_the_rows_for_it(
    definitions, instance, monkeypatch
):
    # From here on an import of it fails.
    monkeypatch.setitem(sys.modules, "great_expectations", None)
    read = []
    monkeypatch.setattr("assets.quality.validate", lambda *rows: read.append(rows))

    result = execute(definitions, instance, DAY, asset_selection={TRADES})

    assert result.success
    checks = {evaluation.check_name for evaluation in result.get_asset_check_evaluations()}
    assert {RULES, "unique_key"} <= checks
    assert EXPECTATIONS not in checks
    assert read == []


def test_great_expectations_is_evaluated_when_it_is_asked_for(definitions, instance, monkeypatch):
    read = []

    def refused(*rows, **options):
        read.append(rows)
        raise RuntimeError("the suite of Great Expectations")

    monkeypatch.setattr("assets.quality.validate", refused)

    result = execute(
        definitions, instance, asset_selection=set(), asset_check_selection={dg.AssetCheckKey(TRADES, EXPECTATIONS)}
    )

    (failed,) = result.get_step_failure_events()
    assert len(read) == 1
    assert "the suite of Great Expectations" in str(failed.event_specific_data.error)
