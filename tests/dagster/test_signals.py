"""Regimes, forecasts and portfolios in the graph: from the past only, idempotent, honest about what has no result."""

from __future__ import annotations

from datetime import UTC, date, datetime

import dagster as dg
import polars as pl
import pytest

from hfthot_platform.adapters.sample import SampleFeed
from hfthot_platform.definitions import build_definitions
from hfthot_platform.domain.signals.declared import PORTFOLIOS, DeclaredPortfolio
from sensors.changes import regime_change


@pytest.fixture
def history(platform):
    """Real closes of two stocks, and a young series with too few of them."""
    span = datetime(2018, 1, 1, tzinfo=UTC), datetime(2022, 12, 29, tzinfo=UTC)
    rows = pl.concat(batch.rows for batch in SampleFeed().fetch("market.closes", *span))
    young = rows.filter(pl.col("symbol") == "XOM", pl.col("date") >= date(2022, 6, 1)).with_columns(
        symbol=pl.lit("YOUNG")
    )
    platform.lake.table("market.closes").merge(pl.concat([rows.filter(pl.col("symbol").is_in(["JPM", "XOM"])), young]))


@pytest.mark.soak
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


@pytest.mark.soak
def test_a_series_without_a_result_is_named_with_the_reason(run, history):
    result = run("regimes", "2022-12-12")

    event = next(
        event for event in result.get_asset_materialization_events() if event.asset_key.path[-1] == "regime_models"
    )
    records = event.materialization.metadata["without_result"].records
    assert [record.data["series"] for record in records] == ["YOUNG@us_equity"]
    assert "600 are needed" in records[0].data["reason"]


@pytest.mark.soak
def test_changes_are_the_certain_ones_of_the_regimes(run, platform, history):
    run("regimes", "2022-05-02", "2022-07-15")

    regimes = platform.lake.table("signals.regimes").scan().collect()
    changes = platform.lake.table("signals.regime_changes").scan().collect()

    assert changes.height > 0
    joined = changes.join(regimes, on=["symbol", "venue", "interval", "ts", "regime", "confidence"], how="inner")
    assert joined.height == changes.height
    assert changes["confidence"].min() > 0.75


@pytest.mark.soak
def test_forecasts_are_made_for_full_hours_and_only_once(run, platform):
    platform.feeds[0].trades_per_day = 20_000
    run("ingest", "2024-03-04")
    run("derive", "2024-03-04")
    hours = {
        "ops": {f"signals__{name}": {"config": {"every_hours": 12}} for name in ("mfg_prices", "chiarella_forecasts")}
    }

    result = run("forecasts", "2024-03-04", config=hours)

    assert result.success
    noon, midnight = datetime(2024, 3, 4, 12, tzinfo=UTC), datetime(2024, 3, 5, tzinfo=UTC)
    for name in ("signals.mfg_prices", "signals.chiarella_forecasts"):
        rows = platform.lake.table(name).scan().collect()
        assert set(rows["made_at"]) == {noon, midnight}
        assert rows["symbol"].n_unique() == 3
        assert rows["converged"].all()
    versions = [table.version() for table in platform.lake.tables()]
    run("forecasts", "2024-03-04", config=hours)
    assert [table.version() for table in platform.lake.tables()] == versions


@pytest.mark.soak
def test_forecasts_of_today_stop_at_the_present_hour(run, platform):
    platform.feeds[0].trades_per_day = 20_000
    platform.clock = lambda: datetime(2024, 3, 4, 6, 30, tzinfo=UTC)
    run("ingest", "2024-03-04")

    run("forecasts", "2024-03-04", config={"ops": {"signals__mfg_prices": {"config": {"every_hours": 3}}}})

    rows = platform.lake.table("signals.mfg_prices").scan().collect()
    assert set(rows["made_at"]) == {datetime(2024, 3, 4, hour, tzinfo=UTC) for hour in (3, 6)}


def test_weights_and_backtests_come_from_the_closes_before_the_day(run, platform, history):
    run("regimes", "2022-12-12", "2022-12-16")

    run("portfolios", "2022-12-15", "2022-12-16")
    run("backtest", "2022-12-19")

    weights = platform.lake.table("portfolio.weights").scan().collect()
    assert set(weights["method"]) == {"cara", "risk_parity", "sparse"}
    assert (weights["data_until"] < weights["date"]).all()
    total = weights.filter(pl.col("method") == "risk_parity").group_by("date").agg(pl.col("weight").sum())
    assert total["weight"].to_list() == pytest.approx([1.0, 1.0])
    decided = platform.lake.table("portfolio.adaptive_weights").scan().collect()
    assert decided.select("date", "symbol").unique().height == decided.height == 6
    assert decided["reason"].str.len_chars().min() > 20
    runs = platform.lake.table("portfolio.backtests").scan().collect()
    assert {"adaptive", "risk_parity"} <= set(runs["strategy"])
    assert (runs["data_until"] < datetime(2022, 12, 19, tzinfo=UTC)).all()
    assert platform.lake.table("portfolio.backtest_equity").scan().collect().height > 10


@pytest.mark.soak
def test_a_second_portfolio_is_one_more_declaration(run, platform, history, monkeypatch):
    stocks = platform.lake.table("market.closes").scan().filter(pl.col("symbol").is_in(["JPM", "XOM"])).collect()
    platform.lake.table("market.closes").merge(
        stocks.with_columns(venue=pl.lit("lse"), symbol=pl.col("symbol") + "L").drop("year", "schema_version")
    )
    second = DeclaredPortfolio(venue="lse", market_series="FTSE", market_venue="uk_index")
    monkeypatch.setattr("assets.portfolio.PORTFOLIOS", (*PORTFOLIOS, second))

    run("portfolios", "2022-12-15")
    run("backtest", "2022-12-19")

    weights = platform.lake.table("portfolio.weights").scan().collect()
    totals = (
        weights.filter(pl.col("method") == "risk_parity").group_by("venue").agg(pl.col("weight").sum()).sort("venue")
    )
    assert totals["venue"].to_list() == ["lse", "us_equity"]
    assert totals["weight"].to_list() == pytest.approx([1.0, 1.0])
    runs = platform.lake.table("portfolio.backtests").scan().collect()
    assert set(runs.filter(pl.col("strategy") == "risk_parity")["venue"]) == {"lse", "us_equity"}


@pytest.mark.parametrize(
    ("metadata", "asked"),
    [
        ({"rows_published": 2, "changed": True}, "2022-12-17"),
        ({"rows_published": 2, "changed": False}, None),
        ({"rows_published": 0, "changed": True}, None),
        ({}, None),
    ],
)
def test_a_new_change_of_regime_asks_for_the_next_days_portfolios(instance, platform, metadata, asked):
    key = dg.AssetKey(["signals", "regime_changes"])
    instance.report_runless_asset_event(dg.AssetMaterialization(key, partition="2022-12-16", metadata=metadata))

    data = regime_change.evaluate_tick(
        dg.build_sensor_context(
            instance=instance, repository_def=build_definitions(platform.settings).get_repository_def()
        )
    )

    assert [request.partition_key for request in data.run_requests or ()] == ([asked] if asked else [])
