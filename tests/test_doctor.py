"""The doctor: each thing that can be wrong is found, named, and comes with a next step."""

from __future__ import annotations

import importlib.metadata
import os
import shutil
import stat
import subprocess
import threading
from datetime import UTC, datetime, timedelta
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from hfthot_platform.app.feeds import build_feeds
from hfthot_platform.app.findings import Finding, worst
from hfthot_platform.core.settings import (
    ArchiveFeedSettings,
    CcxtFeedSettings,
    SampleFeedSettings,
    Settings,
    SimulatedFeedSettings,
    dagster_home,
)
from hfthot_platform.domain.contracts import CONTRACTS
from hfthot_platform.interfaces.doctor import diagnose
from hfthot_platform.services.accounts.accounts import Accounts
from hfthot_platform.services.ingest import ingest_feed
from hfthot_platform.storage.incidents import Incident
from hfthot_platform.storage.incidents import record as record_incident
from hfthot_platform.storage.lakehouse import Lakehouse
from hfthot_platform.storage.lakehouse.locks import writers_lock

NOW = datetime(2024, 1, 3, 6, tzinfo=UTC)
HOME = Path(__file__).resolve().parent.parent / "dagster_home"


def settings_for(folder: Path, **changes) -> Settings:
    values = {
        "lake_root": str(folder / "lake"),
        "landing": folder / "landing",
        "scratch": folder / "scratch",
        "feeds": (SimulatedFeedSettings(trades_per_day=50),),
    }
    return Settings(**(values | changes))


@pytest.fixture(scope="module")
def filled(tmp_path_factory) -> Path:
    """A folder with a lake of one day of trades."""
    folder = tmp_path_factory.mktemp("doctor")
    settings = settings_for(folder)
    lake, day = Lakehouse.open(settings.lake_root), NOW.date() - timedelta(days=1)
    for table in ("market.instruments", "market.trades", "market.simulated_regimes"):
        ingest_feed(lake, build_feeds(settings), "simulated", table, (day, NOW.date()), settings=settings)
    Accounts.open(settings, create=True).close()
    return folder


@pytest.fixture
def own(filled, tmp_path) -> Path:
    """A copy of it, to break."""
    return Path(shutil.copytree(filled, tmp_path / "own"))


def about(findings: list[Finding], subject: str) -> Finding:
    """Return the most serious finding about a subject."""
    return min(
        (finding for finding in findings if finding.subject == subject),
        key=lambda finding: ("error", "warn", "ok").index(finding.level),
    )


def look(folder: Path, *, now: datetime = NOW, home: Path | None = HOME, **changes) -> list[Finding]:
    return diagnose(settings_for(folder, **changes), now, dagster_home=home)


def test_a_healthy_platform_needs_nothing(filled):
    findings = look(filled)

    assert [finding for finding in findings if finding.level != "ok" and finding.subject != "packages"] == []
    assert about(findings, "market.trades").message.startswith("version 1 is intact: ")
    assert all(finding.next_step == "" for finding in findings if finding.level == "ok")


def test_every_finding_that_is_not_ok_says_what_to_do(tmp_path):
    findings = look(tmp_path, home=None, notify="carrier pigeon", duckdb_memory="plenty")

    assert {finding.level for finding in findings} == {"ok", "warn", "error"}
    assert all(finding.next_step for finding in findings if finding.level != "ok")


def test_a_lake_that_is_not_there_is_one_error_with_the_place_that_was_looked_at(tmp_path):
    findings = look(tmp_path)

    assert about(findings, "lake") == Finding(
        "error", "lake", f"there is no lake at {tmp_path / 'lake'}", about(findings, "lake").next_step
    )
    assert "HFTHOT_LAKE_ROOT" in about(findings, "lake").next_step
    assert not any(finding.subject.startswith("market.") for finding in findings)
    assert list(tmp_path.iterdir()) == []


def test_accounts_that_nobody_made_and_keys_that_are_lost_are_told(own, tmp_path):
    assert "hfthot init" in about(look(tmp_path / "none"), "accounts").next_step

    (own / "keys" / "kek.json").unlink()
    assert about(look(own), "accounts").level == "error"
    assert "backup" in about(look(own), "accounts").next_step


def test_private_folders_that_others_may_enter_are_told_with_the_command(own):
    for name in ("accounts", "keys", "exports", "certificates"):
        (own / name).mkdir(exist_ok=True)
        (own / name).chmod(0o755)

    told = [finding for finding in look(own) if finding.subject == "private folders"]

    assert [finding.next_step for finding in told] == [
        f"`chmod go= {own / name}`" for name in ("accounts", "certificates", "exports", "keys")
    ]
    for finding in told:
        subprocess.run(finding.next_step.strip("`"), shell=True, check=True)
    assert "private folders" not in {finding.subject for finding in look(own)}


def test_a_folder_of_user_events_that_everybody_may_enter_is_told_and_a_groups_is_not(own):
    users = settings_for(own).landing / "users"
    users.mkdir(parents=True)
    users.chmod(0o755)
    (told,) = [finding for finding in look(own) if finding.subject == "private folders"]
    subprocess.run(told.next_step.strip("`"), shell=True, check=True)
    assert stat.S_IMODE(users.stat().st_mode) == 0o750
    assert "private folders" not in {finding.subject for finding in look(own)}


def test_a_clock_that_leapt_ahead_is_told_and_only_looked_at(own):
    with Accounts.open(settings_for(own)) as accounts:
        accounts.store.accept_clock()
    ahead = datetime.now(UTC) + timedelta(days=400)

    for _ in range(2):
        findings = look(own, now=ahead)
        assert "400 days" in about(findings, "clock").message
        assert "nothing was written" in about(findings, "clock (lake)").message
    assert "hfthot accounts clock --right" in about(look(own, now=ahead), "clock").next_step
    assert "clock" not in {finding.subject for finding in look(own, now=datetime.now(UTC))}


def test_changes_that_were_set_aside_are_told(own, monkeypatch):
    monkeypatch.setattr(
        "hfthot_platform.storage.operational.store.Store.waiting_aside", lambda _store: ["one", "another"]
    )

    finding = about(look(own), "set aside")

    assert finding.message.startswith("2 changes could not be published")
    assert "hfthot accounts set-aside" in finding.next_step


@pytest.mark.parametrize("how", ["a file", "a broken link", "closed"])
def test_a_landing_folder_that_cannot_be_used_is_an_error(own, how):
    landing = own / "landing"
    if how == "a file":
        landing.write_text("not a folder")
    elif how == "a broken link":
        landing.symlink_to(own / "nowhere")
    else:
        landing.mkdir(mode=0o500)
        if os.access(landing, os.W_OK):
            pytest.skip("nothing is closed to this user")

    assert about(look(own), "landing").level == "error"
    assert str(landing) in about(look(own), "landing").message


def test_rows_that_maintenance_does_not_remove_unasked_are_told(own, monkeypatch):
    monkeypatch.setattr(
        "hfthot_platform.storage.lakehouse.overdue_share", lambda _lake, name: (7, float("trades" in name))
    )

    finding = about(look(own), "market.trades")

    assert finding.level == "error"
    assert "retention is blocked: 7 rows (100%)" in finding.message
    assert "hfthot maintain market.trades --yes" in finding.next_step


def test_what_the_orchestrator_tells_of_its_runs_is_told_with_the_rest(own):
    dead = Finding("error", "runs", "run 1 is dead", "Start the daemon.")

    assert dead in diagnose(settings_for(own), NOW, dagster_home=HOME, runs=lambda: [dead])


def test_a_folder_of_sql_models_that_is_not_there_is_an_error(own):
    found = about(look(own, sql_models=own / "nowhere"), "sql models")

    assert (found.level, found.message) == ("error", f"there is no folder {own / 'nowhere'}")


def test_an_empty_lake_points_to_the_demo(tmp_path):
    (tmp_path / "lake" / "other" / "_delta_log").mkdir(parents=True)

    finding = about(look(tmp_path), "tables")

    assert finding.level == "warn"
    assert "hfthot demo" in finding.next_step


def test_a_fed_table_that_nobody_wrote_is_told_with_the_command(tmp_path):
    (tmp_path / "lake" / "other" / "_delta_log").mkdir(parents=True)

    finding = about(look(tmp_path), "market.trades")

    assert finding.level == "warn"
    assert "--feed simulated --table market.trades" in finding.next_step


def test_a_missing_file_is_named_with_the_way_back(own):
    victim = next((own / "lake/market/trades").glob("date=*/*.parquet"))
    victim.unlink()

    finding = about(look(own), "market.trades")

    assert finding.level == "error"
    assert victim.name in finding.message
    assert "restore" in finding.next_step


def test_a_truncated_file_is_named_with_the_way_back(own):
    victim = next((own / "lake/market/trades").glob("date=*/*.parquet"))
    victim.write_bytes(victim.read_bytes()[:200])

    finding = about(look(own), "market.trades")

    assert finding.level == "error"
    assert victim.name in finding.message
    assert "hfthot" in finding.next_step


def test_a_damaged_log_is_an_error_of_that_table_alone(own):
    entry = own / "lake/market/trades/_delta_log/00000000000000000000.json"
    entry.write_text("{ not json")

    findings = look(own)

    assert about(findings, "market.trades").level == "error"
    assert about(findings, "market.instruments").level == "ok"


def test_leftovers_of_dead_writers_are_counted(own):
    day = next((own / "lake/market/trades").glob("date=*"))
    (day / "part-1.parquet#1").write_bytes(b"x")

    finding = about(look(own), "market.trades")

    assert finding.message == "1 leftover file of interrupted writers"
    assert "hfthot maintain market.trades" in finding.next_step


def test_a_held_lock_is_told_and_not_taken(own):
    lock = own / "lake/_locks/market.trades.lock"

    with writers_lock(lock, exclusive=True):
        finding = about(look(own), "market.trades")

    assert finding.level == "warn"
    assert "holds its lock" in finding.message
    assert about(look(own), "market.trades").level == "ok"


@pytest.mark.parametrize(("hours", "level"), [(7, "ok"), (5, "warn")])
def test_a_table_is_stale_when_its_last_event_is_too_old(filled, hours, level):
    # The last trade is of just before midnight, six hours ago.
    assert about(look(filled, stale_after_hours=hours), "market.trades").level == level


def test_a_packaged_sample_is_never_stale(filled):
    findings = look(filled, feeds=(SampleFeedSettings(),), now=NOW + timedelta(days=400))

    assert about(findings, "market.trades").level == "ok"


def test_recent_incidents_are_counted(own):
    lake = Lakehouse.open(own / "lake")
    record_incident(lake, Incident("a", NOW - timedelta(hours=1), "error", "run_failure"))

    finding = about(look(own), "incidents")

    assert finding.message == "1 incident in the last 24 hours"


def test_waiting_and_rejected_files_are_counted(own):
    rejected = own / "landing" / "rejected"
    rejected.mkdir(parents=True)
    (rejected / "a.csv.reason.json").write_text("{}")
    (own / "landing" / "b.csv").write_text("x")
    (own / "landing" / "my venue").mkdir()
    (own / "landing" / "my venue" / "c.csv").write_text("x")
    (own / "landing" / "users").mkdir()
    (own / "landing" / "users" / "events.jsonl").write_text("x")
    past = NOW.timestamp() - 60
    os.utime(own / "landing" / "b.csv", (past, past))

    found = [finding for finding in look(own) if finding.subject == "landing"]

    aside = own / "landing" / "my venue"
    assert [finding.message for finding in found] == [
        f"1 file waiting in {own / 'landing'}",
        f"1 file in {aside}, which is not read",
        "1 file rejected",
    ]
    assert f"`hfthot ingest '{aside}'`" in found[1].next_step


def test_a_scratch_folder_that_is_a_file_is_an_error(own):
    (own / "scratch").write_text("x")

    found = about(look(own), "scratch")

    assert (found.level, found.message) == ("error", f"{own / 'scratch'} is not a folder")
    assert "HFTHOT_SCRATCH" in found.next_step


def test_spill_folders_of_dead_processes_are_told(own):
    spill = own / "scratch" / "sql-abc"
    spill.mkdir(parents=True)
    past = (NOW - timedelta(days=2)).timestamp()
    os.utime(spill, (past, past))

    assert about(look(own), "scratch").level == "warn"


def test_a_lake_root_that_is_a_file_is_an_error(tmp_path):
    (tmp_path / "lake").write_text("x")

    assert about(look(tmp_path), "lake").message.endswith("is not a folder")


def test_a_lake_that_cannot_be_written_is_an_error(tmp_path):
    # Nobody, root included, can make a file there.
    finding = about(look(tmp_path, lake_root="/proc/lake"), "lake")

    assert finding.level == "error"
    assert "/proc is not writable" in finding.message


def test_little_room_is_a_warning_and_none_an_error(filled, monkeypatch):
    usage = shutil.disk_usage(filled)
    for free, level in ((5e9, "warn"), (1e8, "error")):
        monkeypatch.setattr(shutil, "disk_usage", lambda _path, free=free: usage._replace(free=int(free)))
        assert about(look(filled), "disk").level == level


def test_an_object_store_that_does_not_answer_is_an_error(tmp_path):
    options = {
        "endpoint_url": "http://127.0.0.1:9",
        "access_key_id": "AKIA-visible",
        "secret_access_key": "very-secret",
        "allow_http": "true",
        "region": "us-east-1",
        "max_retries": "0",
        "retry_timeout": "1s",
        "timeout": "1s",
    }

    findings = look(tmp_path, lake_root="s3://bucket/lake", storage_options=options)

    assert about(findings, "lake").level == "error"
    assert "very-secret" not in repr(findings)
    assert "AKIA-visible" not in repr(findings)


def test_an_archive_folder_that_is_missing_is_an_error(tmp_path):
    feed = ArchiveFeedSettings(symbols=("BTC-USDT",), location=str(tmp_path / "archive"))

    findings = look(tmp_path, feeds=(feed,))

    assert any(finding.level == "error" and "archive is missing" in finding.message for finding in findings)


def test_no_secret_is_shown(tmp_path):
    feed = CcxtFeedSettings(exchange="kraken", symbols=("BTC/USD",), api_key="hushhush", api_secret="hushhush")
    findings = look(tmp_path, feeds=(feed,), notify="https://hooks.example.com/services/T0/hushhush")

    assert about(findings, "notifier").message == "incidents go to a webhook at hooks.example.com"
    assert "hushhush" not in repr(findings)


@pytest.fixture
def archive():
    """A server that answers every request with one status; yields (address, set the status)."""
    status = [404]

    class Answer(BaseHTTPRequestHandler):
        def do_GET(self):
            self.send_response(status[0])
            self.send_header("Content-Length", "0")
            self.end_headers()

        do_HEAD = do_GET  # noqa: N815 - the name that http.server calls

        def log_message(self, *_arguments):
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Answer) as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.02,))
        thread.start()
        yield f"http://127.0.0.1:{server.server_port}", lambda code: status.__setitem__(0, code)
        server.shutdown()
        thread.join()


@pytest.mark.parametrize(("code", "level"), [(404, "ok"), (403, "error")])
def test_online_asks_a_remote_feed_and_tells_when_it_refuses(tmp_path, archive, code, level):
    address, answer_with = archive
    answer_with(code)
    settings = settings_for(tmp_path, feeds=(ArchiveFeedSettings(symbols=("BTC-USDT",), location=address),))

    online = diagnose(settings, NOW, dagster_home=HOME, online=True)

    assert about(online, "feed binance_archive").level == level


def test_offline_asks_no_remote_feed(tmp_path, archive):
    address, answer_with = archive
    answer_with(403)

    findings = look(tmp_path, feeds=(ArchiveFeedSettings(symbols=("BTC-USDT",), location=address),))

    assert about(findings, "feed binance_archive").level == "ok"


def test_no_feed_at_all_is_a_warning(tmp_path):
    assert about(look(tmp_path, feeds=()), "feeds").level == "warn"


@pytest.mark.parametrize(
    ("content", "level"),
    [
        ("telemetry:\n  enabled: false\n", "ok"),
        ("telemetry:\n  enabled: true\n", "warn"),
        ("", "warn"),
        ("- a list", "warn"),
        ("a: [", "error"),
        (None, "error"),
    ],
)
def test_the_dagster_instance_is_there_and_silent(tmp_path, content, level):
    if content is not None:
        (tmp_path / "dagster.yaml").write_text(content)

    assert about(look(tmp_path, home=tmp_path), "dagster").level == level


def test_a_relative_or_absent_dagster_home_is_told(tmp_path, monkeypatch):
    assert about(look(tmp_path, home=Path("here")), "dagster").level == "error"
    assert about(look(tmp_path, home=None), "dagster").level == "warn"
    monkeypatch.setenv("DAGSTER_HOME", "")
    assert dagster_home() is None
    monkeypatch.setenv("DAGSTER_HOME", str(tmp_path))
    assert dagster_home() == tmp_path


def test_packages_that_differ_from_the_lock_are_named(tmp_path):
    lock = tmp_path / "requirements.lock"
    polars = importlib.metadata.version("polars")
    lock.write_text(
        f"polars=={polars} \\\n    --hash=sha256:00\nrich==0.0.1 ; python_version >= '3' \\\n    --hash=sha256:00\n"
        "typer==0.0.1 ; python_version < '3' \\\n    --hash=sha256:00\nnot-installed==1.0 \\\n    --hash=sha256:00\n"
    )

    finding = about(diagnose(settings_for(tmp_path), NOW, dagster_home=HOME, lock_file=lock), "packages")

    assert finding.level == "warn"
    assert finding.message.endswith("instead of 0.0.1")
    assert "rich" in finding.message
    assert "typer" not in finding.message


def test_the_repositorys_lock_is_read(tmp_path):
    assert about(look(tmp_path), "packages").message.startswith(("installed packages agree", "not the locked versions"))


def test_the_worst_level_decides():
    ok, warn, error = (Finding(level, "x", "y") for level in ("ok", "warn", "error"))

    assert worst([]) == worst([ok]) == "ok"
    assert worst([ok, warn]) == "warn"
    assert worst([warn, error, ok]) == "error"


def test_every_table_of_the_contracts_is_looked_at(own):
    for name in CONTRACTS:
        log = own / "lake" / name.replace(".", "/") / "_delta_log"
        log.mkdir(parents=True, exist_ok=True)
        (log / "00000000000000000000.json").write_text("{ not json")

    broken = {finding.subject for finding in look(own) if finding.level == "error"}

    assert set(CONTRACTS) <= broken
