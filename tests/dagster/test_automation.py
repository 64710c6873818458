"""Which partitions materialise by themselves, and which do not."""

from __future__ import annotations

import dagster as dg
import pytest

from assets.common import RULES
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
