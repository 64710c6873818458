"""What a user does with `make dev`: start it, materialise through it, drop a file, look at the pages.

One server serves the whole module.  All work is asked for at once, before the first test, so that the sensors'
intervals are waited for together; each test then looks at one outcome.
"""

from __future__ import annotations

import gzip
import json
import os
import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, date, datetime
from pathlib import Path
from typing import TYPE_CHECKING

import polars as pl
import pytest

from tests.end_to_end.conftest import START_SECONDS, WORK_SECONDS, DagsterDev

if TYPE_CHECKING:
    from playwright.sync_api import Page

# The server with its daemon and code location wants both cores for minutes.
pytestmark = pytest.mark.soak

DAY = date(2024, 3, 4)
#: Ten minutes of another day, as a user would export them.
CANDLES_START = datetime(2024, 3, 7, 10, tzinfo=UTC)
#: Trades that are dropped, of a day for which nothing runs.
DROPPED = datetime(2024, 3, 9, 8, tzinfo=UTC)
CANDLES = "timestamp,open,high,low,close,volume\n" + "\n".join(
    f"{CANDLES_START.timestamp() * 1000 + 60_000 * i:.0f},{100 + i},{102 + i},{99 + i},{101 + i},5" for i in range(10)
)
ASSETS = {
    "market/bars", "market/bars_1m", "market/closes", "market/instruments", "market/simulated_regimes",
    "market/trades", "market/universe", "ops/ingest_files",
}  # fmt: skip


@dataclass(frozen=True)
class Work:
    """What was asked for."""

    ingest: str
    damaged: str


@pytest.fixture(scope="module")
def work(dagster_dev: DagsterDev) -> Work:
    """Ask for a day's trades, drop a file, and ask for a table that cannot be written."""
    _damage(dagster_dev, "instruments")
    _drop(dagster_dev)
    ingest = dagster_dev.launch("ingest", **{"dagster/partition": DAY.isoformat()})
    return Work(ingest=ingest, damaged=dagster_dev.launch("describe_instruments"))


@pytest.fixture(scope="module")
def bars(dagster_dev: DagsterDev, work: Work) -> pl.DataFrame:
    """The day's 1m bars, which the automation sensor derives from the ingested trades."""
    assert dagster_dev.finished(work.ingest) == "SUCCESS"
    dagster_dev.wait_for("1m bars", lambda: _bars_of(dagster_dev, DAY).height)
    return _bars_of(dagster_dev, DAY)


def _bars_of(dev: DagsterDev, day: date) -> pl.DataFrame:
    return dev.lake.table("market.bars_1m").scan().filter(pl.col("date") == day).collect()


def _incidents_of(dev: DagsterDev, run_id: str) -> pl.DataFrame:
    return dev.lake.table("ops.incidents").scan().filter(pl.col("run_id") == run_id).collect()


def _failed_check(dev: DagsterDev) -> str | None:
    """Return the name of the check on `ops.ingest_files` that failed last."""
    found = dev.query(
        """{ assetNodeOrError(assetKey: {path: ["ops", "ingest_files"]}) { ... on AssetNode { assetChecksOrError {
        ... on AssetChecks { checks { name executionForLatestMaterialization { status } } } } } } }"""
    )
    checks = found["assetNodeOrError"]["assetChecksOrError"]["checks"]
    last = {check["name"]: check["executionForLatestMaterialization"] for check in checks}
    return next((name for name, execution in last.items() if execution and execution["status"] == "FAILED"), None)


def _damage(dev: DagsterDev, name: str) -> None:
    entry = dev.root / "lake" / "market" / name / "_delta_log" / f"{0:020d}.json"
    entry.parent.mkdir(parents=True)
    entry.write_text('{"commitInfo": garb')


def _drop(dev: DagsterDev) -> None:
    mapping = {"venue": "somewhere", "symbol": "BRAVO-USDT", "interval": "1m"}
    (dev.landing / "candles.csv.gz.mapping.yaml").write_text(json.dumps(mapping))
    part = dev.landing / "candles.csv.gz.part"
    part.write_bytes(gzip.compress(CANDLES.encode()))
    part.rename(dev.landing / "candles.csv.gz")
    # Trades of another day, and a file that no adapter knows.
    start = int(DROPPED.timestamp() * 1000)
    lines = "".join(f"{start + 10_000 * n},{n},{100 + n % 5},0.5,buy\n" for n in range(30))
    (dev.landing / "kraken_BTCEUR.csv").write_text("timestamp,trade_id,price,amount,side\n" + lines)
    (dev.landing / "notes.txt").write_text("buy milk\n")


def test_the_workspace_loads_with_every_asset_and_everything_that_runs_by_itself_is_on(dagster_dev):
    found = dagster_dev.query("""{ assetNodes { assetKey { path } } repositoriesOrError { ... on RepositoryConnection {
      nodes { sensors { name sensorState { status } } schedules { name scheduleState { status } } } } } }""")

    (repository,) = found["repositoriesOrError"]["nodes"]
    sensors = {sensor["name"]: sensor["sensorState"]["status"] for sensor in repository["sensors"]}
    schedules = {schedule["name"]: schedule["scheduleState"]["status"] for schedule in repository["schedules"]}
    assert {"/".join(node["assetKey"]["path"]) for node in found["assetNodes"]} >= ASSETS
    names = ["automation", "landing_folder", "regime_change", "run_failure", "withdrawn_files"]
    names += ["accounts_changes", "user_events", "erasure_requests", "export_requests", "sql_model_files"]
    assert sensors == dict.fromkeys(names, "RUNNING")
    assert schedules.keys() >= {"ingest_daily", "derive_daily", "maintenance_nightly", "deep_quality_weekly"}
    # What needs a live feed, and the rotation of keys, wait until somebody switches them on.
    waiting = {"ingest_live", "regimes_live", "forecasts_hourly", "key_rotation_monthly"}
    assert {name for name, status in schedules.items() if status == "STOPPED"} == waiting


def test_every_daemon_is_healthy(dagster_dev):
    def healthy() -> bool:
        found = dagster_dev.query("{ instance { daemonHealth { allDaemonStatuses { required healthy } } } }")
        return all(daemon["healthy"] for daemon in found["instance"]["daemonHealth"]["allDaemonStatuses"])

    assert dagster_dev.wait_for("the daemons", healthy, START_SECONDS)


def test_a_launched_run_publishes_the_trades_of_its_day(dagster_dev, work):
    assert dagster_dev.finished(work.ingest) == "SUCCESS"

    table = dagster_dev.lake.table("market.trades")
    rows = table.scan().collect()
    rows = rows.filter(pl.col("symbol") == "ALPHA-USDT")
    assert rows["date"].unique().to_list() == [DAY]
    assert 200 < rows.height < 400
    assert (work.ingest, str(DAY)) in [
        (version.run_id, version.partition) for version in table.versions() if version.rows
    ]


def test_the_automation_sensor_derives_the_bars_of_the_ingested_trades(dagster_dev, bars):
    trades = dagster_dev.lake.table("market.trades").scan().filter(pl.col("date") == DAY).collect()

    assert bars["trades"].sum() == trades.height
    assert bars["volume"].sum() == pytest.approx(trades["amount"].sum())
    assert bars["high"].max() == trades["price"].max()
    versions = dagster_dev.lake.table("market.bars_1m").versions()
    (run,) = dagster_dev.runs(runIds=[version.run_id for version in versions if version.partition == str(DAY)])
    assert {"key": "dagster/from_automation_condition", "value": "true"} in run["tags"]


def test_a_dropped_file_is_picked_up_and_published(dagster_dev, work):
    done = dagster_dev.landing / "done" / "candles.csv.gz"

    dagster_dev.wait_for("the file to be ingested", done.exists)

    rows = _bars_of(dagster_dev, CANDLES_START.date()).sort("ts")
    assert rows["symbol"].unique().to_list() == ["BRAVO-USDT"]
    assert rows["close"].to_list() == [101.0 + i for i in range(10)]
    assert rows["ts"][0] == CANDLES_START
    records = dagster_dev.lake.table("ops.ingest_files").scan().filter(pl.col("name") == done.name)
    record = records.collect().row(0, named=True)
    assert record["name"] == "candles.csv.gz"
    assert (record["status"], record["rows_read"], record["rows_published"]) == ("published", 10, 10)
    (run,) = dagster_dev.runs(runIds=[record["run_id"]])
    assert {"key": "dagster/sensor_name", "value": "landing_folder"} in run["tags"]


def test_what_is_computed_from_dropped_trades_follows_by_itself(dagster_dev, work):
    """No run of `market.trades` for that day: the file alone announces it, with the check that it passed."""
    done = dagster_dev.landing / "done" / "kraken_BTCEUR.csv"
    dagster_dev.wait_for("the trades to be ingested", done.exists)

    dagster_dev.wait_for("their 1m bars", lambda: _bars_of(dagster_dev, DROPPED.date()).height)

    bars = _bars_of(dagster_dev, DROPPED.date())
    assert bars["symbol"].unique().to_list() == ["BTC-EUR"]
    assert (bars["trades"].sum(), bars.height) == (30, 5)


def test_a_rejected_file_is_an_incident_and_fails_a_check(dagster_dev, work):
    reason = dagster_dev.landing / "rejected" / "notes.txt.reason.json"
    dagster_dev.wait_for("the file to be rejected", reason.exists)

    def incidents() -> pl.DataFrame:
        rows = dagster_dev.lake.table("ops.incidents").scan().filter(pl.col("kind") == "file_rejected")
        return rows.collect()

    dagster_dev.wait_for("the incident", lambda: incidents().height)

    (row,) = incidents().rows(named=True)
    assert (row["error_class"], row["job"]) == ("unrecognised", "landing")
    assert "milk" not in f"{row}", "what is not market data is not quoted"
    found = dagster_dev.wait_for("the check", lambda: _failed_check(dagster_dev))
    assert found == "files_accepted"


def test_a_failed_run_becomes_an_incident_that_says_what_to_do(dagster_dev, work):
    assert dagster_dev.finished(work.damaged) == "FAILURE"

    dagster_dev.wait_for("the incident", lambda: _incidents_of(dagster_dev, work.damaged).height)

    (row,) = _incidents_of(dagster_dev, work.damaged).rows(named=True)
    assert (row["kind"], row["job"], row["step"]) == ("run_failure", "describe_instruments", "market__instruments")
    assert row["error_class"] == "DamagedTableError"
    assert "_delta_log/00000000000000000000.json" in row["message"]
    assert work.damaged in dagster_dev.log


@pytest.fixture(scope="module")
def page(dagster_dev: DagsterDev, bars: pl.DataFrame, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Page]:
    """A page of Debian's Chromium; what the pages complained of must be nothing."""
    chromium = shutil.which("chromium")
    if chromium is None:
        pytest.skip("Chromium is not installed: make system")
    from playwright.sync_api import sync_playwright

    arguments = [
        "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run",
        "--disable-background-networking", "--disable-component-update", "--disable-sync",
    ]  # fmt: skip
    complaints: list[str] = []
    with sync_playwright() as playwright:
        context = playwright.chromium.launch_persistent_context(
            tmp_path_factory.mktemp("chromium"),
            executable_path=chromium,
            headless=True,
            args=arguments,
            viewport={"width": 1440, "height": 900},
            color_scheme="light",
        )
        context.set_default_timeout(WORK_SECONDS * 1000)
        page = context.pages[0]
        page.on("console", lambda said: complaints.append(said.text) if said.type == "error" else None)
        page.on("pageerror", lambda error: complaints.append(str(error)))
        yield page
        context.close()
    assert complaints == []


@pytest.fixture(scope="module")
def screenshots(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where the pictures of the pages go: HFTHOT_SCREENSHOTS, for whoever wants to look."""
    kept = os.environ.get("HFTHOT_SCREENSHOTS")
    folder = Path(kept) if kept else tmp_path_factory.mktemp("screenshots")
    folder.mkdir(parents=True, exist_ok=True)
    return folder


@pytest.mark.browser
def test_the_asset_graph_shows_the_tables(dagster_dev, page, screenshots):
    page.goto(f"{dagster_dev.url}/asset-groups?expanded=global%40global%3Amarket,global%40global%3Aops")

    page.get_by_text("Global asset lineage").first.wait_for()
    for name in ("trades", "bars_1m", "bars", "closes", "universe"):
        page.get_by_text(name, exact=True).first.wait_for()
    page.screenshot(path=screenshots / "asset_graph.png")


@pytest.mark.browser
@pytest.mark.parametrize("plot", ["candles", "completeness"])
def test_the_asset_page_shows_its_plots(dagster_dev, page, screenshots, plot):
    page.goto(f"{dagster_dev.url}/assets/market/bars_1m?view=events&partition={DAY}")

    page.locator("tr", has_text=plot).get_by_text("[Show Markdown]").click()
    image = page.locator(f"img[alt='{plot}']")
    image.wait_for()
    # The small copy; the path of the whole picture is below it.
    assert image.evaluate("each => each.decode().then(() => each.naturalWidth)") >= 120
    page.get_by_text(f"{DAY}-{plot}.png").wait_for()
    page.wait_for_timeout(500)  # the picture fades in
    page.screenshot(path=screenshots / f"asset_page_{plot}.png")


@pytest.mark.browser
def test_the_asset_page_describes_the_table_and_its_columns(dagster_dev, page, screenshots):
    page.goto(f"{dagster_dev.url}/assets/market/bars_1m?view=overview")

    page.get_by_text("One-minute bars, left-closed and right-open").first.wait_for()
    page.get_by_text("Open time, inclusive [UTC, microseconds]").first.wait_for()
    page.get_by_text("follows its checked inputs").first.wait_for()
    page.screenshot(path=screenshots / "asset_overview.png")


@pytest.mark.browser
def test_the_checks_page_says_what_was_checked_and_found(dagster_dev, page, screenshots):
    page.goto(f"{dagster_dev.url}/assets/market/bars_1m?view=checks&checkDetail=contract_rules")

    page.get_by_text("Every row meets the contract").first.wait_for()
    page.get_by_text("rows meet the contract.").first.wait_for()
    page.get_by_text("great_expectations").first.wait_for()
    page.screenshot(path=screenshots / "checks.png")
