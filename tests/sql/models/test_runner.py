"""Running models: what is published, what is kept back, and that a day computed again changes nothing."""

from __future__ import annotations

import json
from datetime import date, timedelta

import polars as pl
import pytest

from hfthot_platform.core.errors import BadRequestError
from hfthot_platform.services.sql.models.runner import judge, run_models, span_of
from hfthot_platform.storage.lakehouse import Stamp
from tests.sql.models.conftest import BARS, DAYS, RETURNS, minutes

SPAN = (date(2024, 3, 1), date(2024, 3, 4))
FILES = {"staging__minutes": BARS, "marts__returns": RETURNS}
TOTALS = """\
/*
description: Volume by symbol.
owner: research
materialized: table
unique_key: [symbol]
columns:
  volume: {tests: [{range: {min: 0}}]}
tests:
  - row_count: {min: 2}
*/
SELECT symbol, sum(volume) AS volume, max(ts) AS last FROM market.bars_1m GROUP BY symbol
"""


def rows(lake, name):
    table = lake.table(name)
    return table.scan().collect().sort(table.contract.primary_key)


def statuses(runs):
    return {run.model.name: run.status for run in runs}


def test_a_run_publishes_the_days_with_the_versions_that_were_read(opened):
    lake, models = opened(**FILES)

    (run,) = run_models(lake, models, ["returns"], days=SPAN, stamp=Stamp(run_id="r1"))

    assert run.status == "published"
    found = rows(lake, "marts.returns").filter(symbol="BTC-USDT")
    assert found["close"].to_list() == [101.0, 103.0, 105.0]
    assert found["change"].to_list() == pytest.approx([None, 103 / 101 - 1, 105 / 103 - 1])
    handle = lake.table("marts.returns")
    entry = handle.versions()[-1]
    assert (entry.run_id, entry.asset, entry.partition) == ("r1", "marts.returns", "2024-03-01..2024-03-03")


def test_the_commit_names_its_inputs(opened):
    lake, models = opened(**FILES)
    run_models(lake, models, ["returns"], days=SPAN)
    entry = json.loads(
        next(
            line
            for line in (lake.storage.local / "marts" / "returns" / "_delta_log" / f"{1:020d}.json")
            .read_text()
            .splitlines()
            if "commitInfo" in line
        )
    )["commitInfo"]
    assert json.loads(entry["hfthot.inputs"]) == {"market.bars_1m": lake.table("market.bars_1m").version()}


def test_the_same_run_again_makes_no_version(opened):
    lake, models = opened(**FILES)
    run_models(lake, models, ["returns"], days=SPAN)
    version = lake.table("marts.returns").version()

    assert statuses(run_models(lake, models, ["returns"], days=SPAN)) == {"marts.returns": "unchanged"}
    assert lake.table("marts.returns").version() == version


def test_a_full_rebuild_equals_the_sum_of_daily_runs_in_any_order(opened):
    lake, models = opened(**FILES)
    for day in (SPAN[0] + timedelta(days=number) for number in (2, 0, 1)):
        run_models(lake, models, ["returns"], days=(day, day + timedelta(days=1)))
    daily = rows(lake, "marts.returns")

    (run,) = run_models(lake, models, ["returns"], full=True)

    assert daily.height == 6
    assert rows(lake, "marts.returns").equals(daily)
    assert run.days == SPAN


def test_late_rows_reach_their_day_and_no_other(opened):
    lake, models = opened(**FILES)
    run_models(lake, models, ["returns"], days=SPAN)
    before = rows(lake, "marts.returns")
    lake.table("market.bars_1m").append(minutes("BTC-USDT", DAYS[1], [1.0, 1.0, 1.0, 120.0])[3:])

    run_models(lake, models, ["returns"], days=(date(2024, 3, 2), date(2024, 3, 3)))

    after = rows(lake, "marts.returns")
    changed = after.filter(pl.any_horizontal(after[name].ne_missing(before[name]) for name in after.columns))
    assert changed.select("symbol", "date", "close").rows() == [("BTC-USDT", date(2024, 3, 2), 120.0)]


def test_a_table_is_replaced_as_a_whole(opened):
    lake, models = opened(marts__totals=TOTALS)
    run_models(lake, models)
    assert rows(lake, "marts.totals").select("symbol", "volume").rows() == [("BTC-USDT", 6.0), ("ETH-USDT", 6.0)]
    assert statuses(run_models(lake, models)) == {"marts.totals": "unchanged"}


def test_a_view_stores_nothing_and_is_current(opened):
    lake, models = opened(**FILES)
    assert statuses(run_models(lake, models, ["minutes"])) == {"staging.minutes": "view"}
    assert not (lake.storage.local / "staging").exists()
    outcomes = {outcome.test.name: outcome.passed for outcome in judge(lake, models["minutes"])}
    assert outcomes == {"not_null_close": True, "range_close": True, "expression": True}


def test_a_failing_gate_publishes_nothing_and_skips_what_reads_the_model(opened):
    lake, models = opened(
        staging__minutes=BARS,
        marts__returns=RETURNS.replace("{range: {min: 1}}", "{range: {min: 3}}"),
        marts__best=TOTALS.replace("market.bars_1m", "marts.returns")
        .replace("sum(volume)", "max(close)")
        .replace("max(ts)", "max(date)"),
    )

    failed, skipped = run_models(lake, models, ["returns+"], days=SPAN)

    assert (failed.status, skipped.status) == ("failed", "skipped")
    assert failed.reason == "bars is at least 3: 6 of 6 rows fail."
    assert skipped.reason == "marts.returns was not published"
    assert lake.table("marts.returns").version() is None
    kept = lake.table("quarantine.returns").scan().collect()
    assert kept.height == 6
    assert kept["reason"].unique().to_list() == ["out_of_bounds"]


@pytest.mark.parametrize(
    ("test", "failing"),
    [
        ("unique: [symbol]", 4),
        ("expression: close < 105", 1),
        ("relationships: {column: symbol, to: market.instruments, field: symbol}", 6),
        ("relationships: {column: symbol, to: market.bars_1m, field: symbol}", 0),
        ("relationships: {column: symbol, to: marts.returns, field: symbol}", 0),
        ("expression: change > -1", 0),
    ],
)
def test_gates_count_the_rows_that_fail(opened, test, failing):
    lake, models = opened(
        staging__minutes=BARS, marts__returns=RETURNS.replace("settings:", f"tests: [{{{test}}}]\nsettings:")
    )

    (run,) = run_models(lake, models, ["returns"], days=SPAN)

    assert run.status == ("failed" if failing else "published")
    assert (
        next(
            outcome.failing
            for outcome in run.outcomes
            if outcome.test.name.startswith(test.split(":")[0]) and outcome.test.line > 10
        )
        == failing
    )


def test_the_number_of_rows_of_a_table_gates_it(opened):
    lake, models = opened(marts__totals=TOTALS.replace("min: 2}", "min: 3}"))
    (run,) = run_models(lake, models)
    assert (run.status, run.reason) == ("failed", "there are at least 3 rows: there are 2 rows.")


def test_freshness_is_judged_after_publication_by_the_lakes_clock(opened):
    fresh = RETURNS.replace("settings:", "tests:\n- freshness: {column: date, within: 5h}\nsettings:")
    lake, models = opened(staging__minutes=BARS, marts__returns=fresh)

    (run,) = run_models(lake, models, ["returns"], days=SPAN)

    assert run.status == "published"
    outcome = next(outcome for outcome in run.outcomes if outcome.test.kind == "freshness")
    # The last day ended at midnight, and it is six o'clock.
    assert not outcome.passed
    assert outcome.description == "The newest row is 6.0 hours old."


def test_rows_outside_the_days_are_refused(opened):
    lake, models = opened(staging__minutes=BARS, marts__returns=RETURNS.replace("QUALIFY date >= $partition_start", ""))
    (run,) = run_models(lake, models, ["returns"], days=(date(2024, 3, 2), date(2024, 3, 3)))
    assert run.status == "failed"
    assert "are outside" in run.reason


def test_a_model_made_by_days_needs_them(opened):
    lake, models = opened(**FILES)
    with pytest.raises(BadRequestError, match="computed by days"):
        run_models(lake, models)
    with pytest.raises(BadRequestError, match="not both"):
        run_models(lake, models, days=SPAN, full=True)


def test_the_span_of_a_model_is_that_of_the_tables_below_its_views(opened):
    lake, models = opened(**FILES)
    assert span_of(lake, models, models["returns"]) == SPAN


def test_a_model_that_reads_a_stored_model_sees_what_was_just_published(opened):
    lake, models = opened(
        **FILES,
        marts__best=TOTALS.replace("market.bars_1m", "marts.returns")
        .replace("sum(volume)", "max(close)")
        .replace("max(ts)", "max(date)"),
    )
    runs = run_models(lake, models, days=SPAN)
    assert statuses(runs) == {"staging.minutes": "view", "marts.returns": "published", "marts.best": "published"}
    assert rows(lake, "marts.best").select("symbol", "volume", "last").rows() == [
        ("BTC-USDT", 105.0, date(2024, 3, 3)),
        ("ETH-USDT", 15.0, date(2024, 3, 3)),
    ]


def test_outcomes_hold_counts_and_never_values(opened):
    lake, models = opened(
        staging__minutes=BARS, marts__returns=RETURNS.replace("{range: {min: 1}}", "{range: {min: 3}}")
    )
    (run,) = run_models(lake, models, ["returns"], days=SPAN)
    said = " ".join(f"{outcome.description} {outcome.failing} {outcome.rows}" for outcome in run.outcomes)
    assert "BTC" not in said
    assert "101" not in said
