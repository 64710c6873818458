"""Dagster's event log: pictures are files beside it, an event is small, and old events leave it."""

from __future__ import annotations

import base64
import os
import re
import sqlite3
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from types import SimpleNamespace

import dagster as dg
import pytest

from assets import pictures
from hfthot_platform.core.errors import BadRequestError
from resources.event_log import purge_events
from resources.platform import Platform
from tests.dagster.conftest import NOW, runner, settings_in

OVER, TODAY = "2024-03-09", "2024-03-10"
LATER = timedelta(hours=1)
MINUTES = dg.AssetKey(["market", "bars_1m"])


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """An instance on SQLite in which a day that is over was ingested and derived."""
    yield from instance_with(tmp_path_factory.mktemp("events"), OVER)


@pytest.fixture(scope="module")
def live(tmp_path_factory):
    """An instance on SQLite in which the present day was ingested and derived, as live runs do."""
    yield from instance_with(tmp_path_factory.mktemp("live"), TODAY)


def instance_with(folder: Path, day: str) -> Iterator[SimpleNamespace]:
    """Make an instance on SQLite in which a day was ingested and derived."""
    settings = settings_in(folder)
    platform = Platform(settings, clock=lambda: NOW)
    (folder / "home").mkdir()
    with dg.DagsterInstance.local_temp(str(folder / "home")) as instance:
        run = runner(settings, platform, instance)
        runs = [run(job, day).run_id for job in ("ingest", "derive")]
        yield SimpleNamespace(instance=instance, platform=platform, runs=runs, history=folder / "home" / "history")


def sizes(made, run_id: str, like: str = "%") -> list[int]:
    """Return the sizes of a run's events of a kind, in bytes as they are stored."""
    with sqlite3.connect(made.history / "runs" / f"{run_id}.db") as log:
        rows = log.execute("SELECT length(event) FROM event_logs WHERE dagster_event_type LIKE ?", (like,))
        return [size for (size,) in rows]


def metadata(made, day: str) -> dict:
    events = made.instance.fetch_materializations(dg.AssetRecordsFilter(MINUTES, asset_partitions=[day]), limit=1)
    return events.records[0].asset_materialization.metadata


def test_no_materialisation_takes_more_than_15_kb_of_the_log(made):
    found = [size for run_id in made.runs for size in sizes(made, run_id, "ASSET_MATERIALIZATION")]

    assert len(found) == 6
    assert max(found) <= 15_000


def test_the_output_of_a_step_does_not_repeat_the_metadata(made):
    assert max(sizes(made, made.runs[1], "STEP_OUTPUT")) < 2_000


def test_a_picture_is_a_file_and_its_small_copy_is_shown_for_a_day_that_is_over(made):
    shown = metadata(made, OVER)["candles"].value

    preview, file = re.fullmatch(r"!\[candles\]\(data:image/png;base64,(.*)\)\n\n`(.*)`", shown).groups()
    whole = Path(file).read_bytes()
    small = base64.b64decode(preview)
    assert whole.startswith(b"\x89PNG")
    assert small.startswith(b"\x89PNG")
    assert len(small) <= pictures.PREVIEW_BYTES < len(whole)


@pytest.mark.soak
def test_of_the_present_day_the_event_names_the_file_only(live):
    shown = metadata(live, TODAY)["candles"].value

    assert shown == f"`{live.platform.reports.link(f'pictures/market.bars_1m/{TODAY}-candles.png')}`"


def test_a_picture_that_browsers_reach_is_shown_itself():
    kept = {}
    reports = SimpleNamespace(put=kept.__setitem__, link=lambda name: f"https://reports.example.org/{name}")
    platform = SimpleNamespace(reports=reports, clock=lambda: NOW)

    shown = pictures.kept(platform, "market.bars", (NOW.date(), NOW.date() + timedelta(days=1)), {"candles": b"png"})

    link = f"https://reports.example.org/pictures/market.bars/{TODAY}-candles.png"
    assert shown == {"candles": f"[![candles]({link})]({link})"}
    assert list(kept.values()) == [b"png"]


def test_old_pictures_are_removed(tmp_path):
    settings = settings_in(tmp_path)
    platform = Platform(settings, clock=lambda: datetime.now(UTC))
    for name in ("pictures/market.bars/old.png", "pictures/market.bars/new.png", "market.bars.html"):
        platform.reports.put(name, b"content")
    old = platform.reports.link("pictures/market.bars/old.png")
    os.utime(old, (0, 0))

    assert pictures.remove_old(platform) == 1

    assert [file.name for file in platform.reports.files()] == ["market.bars.html", "pictures/market.bars/new.png"]


@pytest.mark.soak
def test_what_stays_of_288_live_runs_a_day_is_less_than_15_mb(live):
    kept = [size for run_id in live.runs for size in sizes(live, run_id, "ASSET_%")]
    everything = [size for run_id in live.runs for size in sizes(live, run_id)]

    assert sum(kept) * 288 <= 15_000_000
    # What leaves with the purge: Dagster's own events of each step.
    assert sum(everything) * 288 <= 30_000_000


def test_events_leave_the_log_and_the_state_of_assets_stays(made):
    instance = made.instance
    before = instance.get_materialized_partitions(MINUTES)
    latest = instance.get_latest_materialization_event(MINUTES).run_id
    check = dg.AssetCheckKey(MINUTES, "contract_rules")

    assert purge_events(instance, datetime.now(UTC) - LATER).runs == 0
    purged = purge_events(instance, datetime.now(UTC) + LATER)

    assert purged.runs == 2
    assert not list((made.history / "runs").glob("*-*.db"))
    assert instance.get_materialized_partitions(MINUTES) == before == {OVER}
    assert instance.get_latest_materialization_event(MINUTES).run_id == latest
    summary = instance.event_log_storage.get_asset_check_summary_records([check])[check]
    assert summary.last_check_execution_record.status.value == "SUCCEEDED"
    assert {run.run_id for run in instance.get_runs()} == set(made.runs)
    assert purge_events(instance, datetime.now(UTC) + LATER).events == 0


def test_events_of_a_run_that_has_not_ended_stay(tmp_path):
    @dg.op
    def wait() -> None:
        """Do nothing."""

    @dg.job
    def waiting() -> None:
        wait()

    with dg.DagsterInstance.local_temp(str(tmp_path)) as instance:
        run = instance.create_run_for_job(waiting, status=dg.DagsterRunStatus.STARTED)
        instance.report_engine_event("begun", run)

        assert purge_events(instance, datetime.now(UTC) + LATER).runs == 0
        assert len(instance.all_logs(run.run_id)) == 1


def test_a_log_that_is_kept_in_another_way_is_refused():
    class Elsewhere:
        event_log_storage = object()

    with pytest.raises(BadRequestError, match="the event log is a object"):
        purge_events(Elsewhere(), NOW)


def test_the_job_purges_by_the_setting(run, instance):
    result = run("event_log")

    assert result.success
    outputs = [event for event in result.all_events if event.event_type_value == "STEP_OUTPUT"]
    assert outputs[0].step_output_data.metadata["before"].value == "2024-02-09 12:00 UTC"
