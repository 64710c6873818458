"""The market assets: what a run publishes, what a second run changes, and what stops it."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, date, datetime, timedelta

import dagster as dg
import polars as pl
import pytest

from hfthot_platform.adapters.ports import Batch
from hfthot_platform.core.settings import Settings
from hfthot_platform.domain.market.bars import bars_from_bars, bars_from_trades
from resources.platform import Platform
from tests.dagster.conftest import NOW, runner, settings_in

DAY = "2024-03-04"
DERIVED = ("market.bars_1m", "market.bars", "market.closes")


@dataclass(frozen=True)
class Day:
    """A platform that has ingested and derived a day, and the results of both runs."""

    platform: Platform
    ingested: dg.ExecuteInProcessResult
    derived: dg.ExecuteInProcessResult


@pytest.fixture(scope="module")
def day(tmp_path_factory: pytest.TempPathFactory) -> Day:
    """Return a day for tests that only look at it."""
    settings = settings_in(tmp_path_factory.mktemp("day"))
    platform = Platform(settings, clock=lambda: NOW)
    with dg.DagsterInstance.ephemeral() as instance:
        run = runner(settings, platform, instance)
        return Day(platform, run("ingest", DAY), run("derive", DAY))


@pytest.fixture
def derived(day: Day, settings: Settings) -> None:
    """Begin with a copy of the lake of that day."""
    shutil.copytree(day.platform.settings.lake_root, settings.lake_root)


def versions(platform: Platform) -> dict[str, int | None]:
    return {table.contract.name: table.version() for table in platform.lake.tables()}


def rows(platform: Platform, table: str) -> pl.DataFrame:
    return platform.lake.table(table).scan().collect()


def metadata_of(result: dg.ExecuteInProcessResult, table: str) -> dict[str, object]:
    key = dg.AssetKey(table.split("."))
    events = [event for event in result.get_asset_materialization_events() if event.asset_key == key]
    return {name: value.value for name, value in events[-1].materialization.metadata.items()}


def test_a_day_goes_from_trades_to_closes(day):
    platform = day.platform
    assert day.ingested.success
    assert day.derived.success

    trades = rows(platform, "market.trades")
    assert trades["date"].unique().to_list() == [date(2024, 3, 4)]
    assert rows(platform, "market.bars_1m").height == bars_from_trades(trades).height
    bars = rows(platform, "market.bars")
    assert set(bars["interval"]) == {"5m", "15m", "30m", "1h", "4h", "1d"}
    assert rows(platform, "market.closes").height == 3
    last = trades.sort("ts", "trade_id").group_by("symbol").agg(pl.col("price").last()).sort("symbol")
    assert rows(platform, "market.closes").sort("symbol")["close"].to_list() == last["price"].to_list()


@pytest.mark.soak
def test_the_universe_uses_days_before_its_own_and_keeps_its_size(run, platform):
    run("ingest", "2024-03-01", DAY)
    run("derive", "2024-03-01", DAY)

    universe = rows(platform, "market.universe")

    assert universe["date"].min() == date(2024, 3, 2), "the first day has no day before it"
    assert universe.group_by("date").len()["len"].unique().to_list() == [2]
    assert universe.filter(pl.col("date") == date(2024, 3, 2))["reason"].unique().to_list() == ["seeded"]


@pytest.mark.soak
def test_a_second_run_makes_no_version(derived, run, platform):
    before = versions(platform)

    again = run("ingest", DAY)
    derived = run("derive", DAY)

    assert versions(platform) == before
    assert metadata_of(again, "market.trades")["changed"] is False
    assert metadata_of(derived, "market.bars")["changed"] is False


def test_late_trades_change_exactly_the_bars_they_touch(derived, run, platform):
    minutes, coarse = rows(platform, "market.bars_1m"), rows(platform, "market.bars")
    trades = platform.lake.table("market.trades")
    chosen = trades.scan().collect().sample(5, seed=3)
    late = chosen.with_columns(
        pl.col("trade_id") + 10**12, amount=pl.col("amount") * 2, source_ref=pl.lit("late")
    ).drop("date", "schema_version")
    trades.merge(late)

    run("derive", DAY)

    def changed(before: pl.DataFrame, after: pl.DataFrame, key: list[str]) -> pl.DataFrame:
        return after.join(before, on=before.columns, how="anti", nulls_equal=True).select(key).sort(key)

    key = ["symbol", "venue", "ts"]
    touched = late.select("symbol", "venue", pl.col("ts").dt.truncate("1m")).unique().sort(key)
    assert changed(minutes, rows(platform, "market.bars_1m"), key).equals(touched)
    for interval in ("5m", "15m", "1h", "1d"):
        part = pl.col("interval") == interval
        expected = late.select("symbol", "venue", pl.col("ts").dt.truncate(interval)).unique().sort(key)
        after = rows(platform, "market.bars").filter(part)
        assert changed(coarse.filter(part), after, key).equals(expected), interval
    assert rows(platform, "market.bars_1m").height == minutes.height


@pytest.mark.soak
def test_a_vendors_bar_stands_above_a_computed_one(derived, run, platform):
    table = platform.lake.table("market.bars_1m")
    stated = (
        table.scan()
        .collect()
        .head(1)
        .with_columns(volume=pl.lit(1.5), origin=pl.lit("vendor"), source_ref=pl.lit("vendor file"))
    )
    table.merge(stated)

    run("derive", DAY)

    after = table.scan().filter(pl.col("origin") == "vendor").collect()
    assert after.height == 1
    assert after["volume"][0] == 1.5
    recomputed = bars_from_bars(rows(platform, "market.bars_1m"), "1h")
    assert rows(platform, "market.bars").filter(pl.col("interval") == "1h")["volume"].sum() == pytest.approx(
        recomputed["volume"].sum()
    )


def test_every_commit_says_who_and_from_what(day):
    own = day.platform.lake.table("market.trades").versions()[-1]
    assert own.run_id == day.ingested.run_id
    assert own.asset == "market/trades"
    assert own.partition == DAY
    assert day.platform.lake.table("market.bars_1m").versions()[-1].run_id == day.derived.run_id


def test_metadata_holds_the_account_and_pictures_but_no_rows(day):
    found = metadata_of(day.derived, "market.bars_1m")

    assert found["delta_version"] == day.platform.lake.table("market.bars_1m").version()
    assert found["rows_published"] == rows(day.platform, "market.bars_1m").height
    assert str(found["candles"]).startswith("![candles](data:image/png;base64,")
    assert str(found["completeness"]).startswith("![completeness](data:image/png;base64,")
    assert len(str(found["candles"])) < 150_000


@pytest.mark.soak
def test_a_backfill_of_400_days_is_one_run(run, platform, instance):
    platform.feeds[0].trades_per_day = 40  # the density does not matter here, the number of days does
    first, last = "2023-01-01", "2024-02-04"

    run("ingest", first, last)
    result = run("derive", first, last)

    assert result.success
    assert instance.get_runs_count() == 2
    days = (date.fromisoformat(last) - date.fromisoformat(first)).days + 1
    assert days == 400
    closes = rows(platform, "market.closes")
    assert closes["date"].n_unique() == days
    assert rows(platform, "market.universe")["date"].n_unique() == days - 1
    assert len(instance.get_materialized_partitions(dg.AssetKey(["market", "bars"]))) == days
    # A picture in every one of 400 events would bloat the event log: only the last one has it.
    events = [e for e in result.get_asset_materialization_events() if e.asset_key == dg.AssetKey(["market", "bars"])]
    assert sum("candles" in event.materialization.metadata for event in events) == 1


class BrokenFeed:
    """A real feed whose source went mad: most prices are not numbers."""

    name = "broken"
    tables = ("market.trades",)

    def fetch(self, table: str, start: datetime, end: datetime, *, progress=None) -> Iterator[Batch]:
        n = 10
        yield Batch(
            table,
            pl.DataFrame(
                {
                    "venue": ["simulated"] * n,
                    "symbol": ["ALPHA-USDT"] * n,
                    "ts": [start + timedelta(seconds=i) for i in range(n)],
                    "trade_id": list(range(n)),
                    "price": [float("nan")] * 8 + [1.0, 1.0],
                    "amount": [1.0] * n,
                    "source": ["synthetic"] * n,
                    "source_ref": ["broken"] * n,
                }
            ).with_columns(pl.col("ts").cast(pl.Datetime("us", "UTC"))),
            "broken",
        )


def test_a_failed_check_publishes_nothing_and_stops_everything_downstream(platform, instance, monkeypatch):
    from assets.market import ASSETS

    monkeypatch.setattr(Platform, "feeds", (BrokenFeed(),))

    result = dg.materialize(
        [asset for asset in ASSETS if asset.key.path[-1] in {"trades", "bars_1m", "bars"}],
        instance=instance,
        partition_key=DAY,
        resources={"platform": platform},
        raise_on_error=False,
        run_config={"loggers": {"console": {"config": {"log_level": "CRITICAL"}}}},
    )

    failed = [check for check in result.get_asset_check_evaluations() if not check.passed]
    assert [check.check_name for check in failed] == ["contract_rules"]
    assert "8 of 10 rows break the contract" in str(failed[0].description)
    assert not result.get_asset_materialization_events()
    assert rows(platform, "market.trades").is_empty()
    assert rows(platform, "market.bars_1m").is_empty()
    # What was wrong is kept for whoever looks into it.
    assert rows(platform, "quarantine.trades")["reason"].to_list() == ["not_finite"] * 8


def test_a_wrong_computation_is_not_tried_again(platform, instance, monkeypatch):
    from assets import market
    from hfthot_platform.services.derive import tables

    def wrong(*_args, **_kwargs):
        raise TypeError("a mistake in the code")

    monkeypatch.setattr(tables, "bars_from_trades", wrong)
    result = dg.materialize(
        [market.bars_1m],
        instance=instance,
        partition_key=DAY,
        resources={"platform": platform},
        raise_on_error=False,
        run_config={"loggers": {"console": {"config": {"log_level": "CRITICAL"}}}},
    )

    assert not result.success
    assert not [event for event in result.all_events if event.event_type_value == "STEP_UP_FOR_RETRY"]
    failure = result.get_step_failure_events()[0].event_specific_data
    assert "a mistake in the code" in str(failure.user_failure_data.description)


@pytest.mark.soak
def test_the_present_day_is_read_from_the_clock(run, platform):
    """Bars of an interval that is still open are not final."""
    platform.clock = lambda: datetime(2024, 3, 4, 10, 30, 30, tzinfo=UTC)
    run("ingest", DAY)
    run("derive", DAY)

    bars = rows(platform, "market.bars_1m")

    assert bars.filter(pl.col("ts_close") <= datetime(2024, 3, 4, 10, 30, 30, tzinfo=UTC))["final"].all()
    assert not bars.filter(pl.col("ts_close") > datetime(2024, 3, 4, 10, 30, 30, tzinfo=UTC))["final"].any()


def test_a_run_without_days_says_that_it_needs_them(run):
    result = run("derive", raise_on_error=False)

    assert not result.success
    failure = result.get_step_failure_events()[0].step_failure_data
    assert "the run has no days" in str(failure.error.cause.message)
