"""Regimes in the graph: walk-forward over days, idempotent, and honest about series without a result."""

from __future__ import annotations

from datetime import UTC, date, datetime

import polars as pl
import pytest

from hfthot_platform.market.sources.sample import SampleFeed


@pytest.fixture
def history(platform):
    """Real closes of two stocks, and a young series with too few of them."""
    span = datetime(2018, 1, 1, tzinfo=UTC), datetime(2022, 12, 29, tzinfo=UTC)
    rows = pl.concat(batch.rows for batch in SampleFeed().fetch("market.closes", *span))
    young = rows.filter(pl.col("symbol") == "XOM", pl.col("date") >= date(2022, 6, 1)).with_columns(
        symbol=pl.lit("YOUNG")
    )
    platform.lake.table("market.closes").merge(pl.concat([rows.filter(pl.col("symbol").is_in(["JPM", "XOM"])), young]))


def test_regimes_are_found_day_by_day_and_a_second_run_changes_nothing(run, platform, history):
    result = run("regimes", "2022-12-12", "2022-12-16")

    assert result.success
    models = platform.lake.table("signals.regime_models").scan().collect()
    assert models.select("symbol", "fitted_on").sort("symbol").rows() == [
        ("JPM", date(2022, 12, 12)),
        ("XOM", date(2022, 12, 12)),
    ]
    found = platform.lake.table("signals.regimes").scan().collect()
    assert found.height == 10
    assert set(found["model_id"]) == set(models["model_id"])
    versions = [table.version() for table in platform.lake.tables()]
    run("regimes", "2022-12-12", "2022-12-16")
    assert [table.version() for table in platform.lake.tables()] == versions


def test_a_series_without_a_result_is_named_with_the_reason(run, history):
    result = run("regimes", "2022-12-12")

    event = next(
        each for each in result.get_asset_materialization_events() if each.asset_key.path[-1] == "regime_models"
    )
    records = event.materialization.metadata["without_result"].records
    assert [record.data["series"] for record in records] == ["YOUNG@us_equity"]
    assert "600 are needed" in records[0].data["reason"]


def test_changes_are_the_certain_ones_of_the_regimes(run, platform, history):
    run("regimes", "2022-05-02", "2022-12-16")

    regimes = platform.lake.table("signals.regimes").scan().collect()
    changes = platform.lake.table("signals.regime_changes").scan().collect()

    assert changes.height > 0
    joined = changes.join(regimes, on=["symbol", "venue", "interval", "ts", "regime", "confidence"], how="inner")
    assert joined.height == changes.height
    assert changes["confidence"].min() > 0.75
