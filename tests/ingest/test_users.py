"""Files of user events: recorded by content, never by name, and deleted once they were taken in."""

from __future__ import annotations

import json
import os
from datetime import UTC, datetime, timedelta
from pathlib import Path

import polars as pl
import pytest
from typer.testing import CliRunner

from hfthot_platform.core.errors import ClockError
from hfthot_platform.core.settings import load_settings
from hfthot_platform.interfaces.cli import app as cli
from hfthot_platform.services.accounts.accounts import Accounts
from hfthot_platform.services.ingest.users import ingest_user_files, ingest_user_landing, sweep_user_files
from hfthot_platform.storage.lakehouse import Lakehouse, accept_clock

NAME = "ada@analytical.example.jsonl"


class Clock:
    def __init__(self):
        self.ahead = timedelta()

    def __call__(self):
        return datetime.now(UTC) + self.ahead


@pytest.fixture
def clock():
    return Clock()


@pytest.fixture
def make(tmp_path, clock):
    """Open an installation with the given settings: accounts and lake."""
    opened = []

    def installation(**given):
        settings = load_settings(
            lake_root=str(tmp_path / "lake"),
            landing=tmp_path / "landing",
            landing_settle_seconds=0,
            accounts=tmp_path / "accounts",
            key_file=tmp_path / "keys" / "kek.json",
            scratch=tmp_path / "scratch",
            argon2_memory_kib=8,
            argon2_passes=1,
            argon2_lanes=1,
            feeds=[],
            **given,
        )
        accounts = Accounts.open(settings, clock)
        opened.append(accounts)
        return accounts, Lakehouse.open(settings.lake_root, clock=clock)

    yield installation
    for store in opened:
        store.close()


@pytest.fixture
def installation(make):
    return make()


@pytest.fixture
def drop(tmp_path):
    def write(*events, name=NAME):
        folder = tmp_path / "landing" / "users"
        folder.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text("".join(json.dumps(event) + "\n" for event in events))
        return folder / name

    return write


def event(number, kind="registration", **fields):
    person = {"username": "ada", "email": "ada@analytical.example"}
    return {"event_id": f"e-{number}", "type": kind, "at": "2024-03-01T00:00:00Z", **person, **fields}


def recorded(lake):
    return lake.table("ops.ingest_files").scan().collect().to_dicts()


def test_a_file_is_deleted_once_it_was_taken_in_and_recorded_without_its_name(installation, drop, tmp_path):
    accounts, lake = installation
    path = drop(event(1), event(2, "api_call"), event(3, "odd"))

    (outcome,) = ingest_user_landing(accounts, lake)

    (record,) = recorded(lake)
    assert not path.exists()
    assert record["name"] == outcome.name == f"user_events-{record['content_hash'][:16]}"
    assert (record["status"], record["adapter"], record["target"]) == ("published", "user_events:json_lines", "users")
    counts = [record[f"rows_{count}"] for count in ("read", "published", "duplicate", "quarantined")]
    assert counts == [3, 2, 0, 1]
    everything = b"".join(file.read_bytes() for file in (tmp_path / "lake").rglob("*") if file.is_file())
    assert b"analytical" not in everything


def test_a_file_that_comes_again_changes_nothing_and_keeps_its_account(installation, drop):
    accounts, lake = installation
    for _ in range(2):
        drop(event(1), event(2, "api_call"))
        ingest_user_landing(accounts, lake)
    (record,) = recorded(lake)
    assert (record["rows_read"], record["rows_published"], record["rows_duplicate"]) == (2, 2, 0)


def test_under_a_clock_a_year_ahead_no_file_is_rejected_or_deleted(installation, drop, clock, tmp_path):
    accounts, lake = installation
    drop(event(1))
    ingest_user_landing(accounts, lake)
    path = drop(event(2, "api_call", username="nobody", email="no@body.example"))
    kept = tmp_path / "landing" / "users" / "rejected" / "user_events-0"
    kept.parent.mkdir()
    kept.write_text("{")
    clock.ahead = timedelta(days=365)

    assert [outcome.status for outcome in ingest_user_landing(accounts, lake)] == ["waiting"]
    with pytest.raises(ClockError):
        sweep_user_files(accounts.settings, lake, accounts, clock())
    assert path.exists()
    assert kept.exists()

    accept_clock(lake)
    accounts.store.accept_clock()
    assert sweep_user_files(accounts.settings, lake, accounts, clock()) == 1
    assert [outcome.status for outcome in ingest_user_landing(accounts, lake)] == ["published"]


def test_a_setting_keeps_files_for_some_days_under_another_name(make, drop, clock, tmp_path):
    accounts, lake = make(user_file_days=3)
    drop(event(1))
    (outcome,) = ingest_user_landing(accounts, lake)
    done = tmp_path / "landing" / "users" / "done"
    assert [path.name for path in done.iterdir()] == [outcome.name]

    clock.ahead = timedelta(days=3, minutes=1)
    ingest_user_landing(accounts, lake)

    assert list(done.iterdir()) == []


def test_a_file_waits_for_a_registration_and_its_events_are_rejected_when_it_waited_too_long(installation, drop, clock):
    accounts, lake = installation
    path = drop(event(2, "api_call"), event(3, "api_call", username="nobody", email="no@body.example"))
    assert ingest_user_landing(accounts, lake)[0].status == "waiting"
    assert path.exists()
    assert recorded(lake) == []
    drop(event(1), name="later.jsonl")
    assert {outcome.status for outcome in ingest_user_landing(accounts, lake)} == {"waiting", "published"}

    clock.ahead = timedelta(hours=25)
    (outcome,) = ingest_user_landing(accounts, lake)

    assert not path.exists()
    # The first of them could be applied when the registration had come.
    assert (outcome.report.repeated + outcome.report.applied, dict(outcome.report.reasons)) == (
        1,
        {"unknown_account": 1},
    )


def test_a_file_of_another_kind_is_set_aside_for_a_week(installation, drop, clock, tmp_path):
    accounts, lake = installation
    path = drop()
    path.write_text("username,email\nada,ada@analytical.example\n")

    (outcome,) = ingest_user_landing(accounts, lake)

    rejected = tmp_path / "landing" / "users" / "rejected"
    assert (outcome.status, outcome.reason) == ("rejected", "unrecognised")
    assert [file.name for file in rejected.iterdir()] == [outcome.name]
    assert recorded(lake)[0]["status"] == "rejected"
    clock.ahead = timedelta(days=7, minutes=1)
    ingest_user_landing(accounts, lake)
    assert list(rejected.iterdir()) == []


def test_a_link_is_not_followed(installation, drop, tmp_path):
    accounts, lake = installation
    target = drop(event(1), name="real.jsonl")
    hidden = target.rename(tmp_path / "elsewhere.jsonl")
    (target.parent / "link.jsonl").symlink_to(hidden)
    (outcome,) = ingest_user_landing(accounts, lake)
    assert (outcome.status, outcome.reason) == ("rejected", "symbolic_link")
    assert hidden.exists()


@pytest.mark.skipif(os.geteuid() == 0, reason="root may read everything")
def test_a_file_without_permission_is_rejected_without_its_name(installation, drop):
    accounts, lake = installation
    drop(event(1)).chmod(0)
    (outcome,) = ingest_user_landing(accounts, lake)
    assert outcome.reason == "unreadable"


def test_files_that_are_named_stay_where_they_are(installation, drop):
    accounts, lake = installation
    path = drop(event(1))
    (outcome,) = ingest_user_files([path], accounts, lake)
    assert outcome.report.applied == 1
    assert path.exists()


def test_the_command_line_takes_files_in_and_says_nothing_of_anybody(make, drop, monkeypatch, tmp_path):
    accounts, lake = make()
    path = drop(event(1), event(2, "odd"))
    settings = accounts.settings
    for name in ("lake_root", "landing", "accounts", "key_file", "scratch"):
        monkeypatch.setenv(f"HFTHOT_{name.upper()}", str(getattr(settings, name)))
    monkeypatch.setenv("HFTHOT_ARGON2_MEMORY_KIB", "8")
    monkeypatch.setenv("HFTHOT_ARGON2_LANES", "1")
    monkeypatch.chdir(tmp_path)

    result = CliRunner().invoke(cli, ["ingest-users", str(path)])

    assert result.exit_code == 1, result.output
    assert "unknown_type (1)" in result.output
    assert "analytical" not in result.output
    assert lake.table("quarantine.users").scan().select(pl.len()).collect().item() == 1
    assert Path(path).exists()


def test_a_folder_of_rejected_files_that_others_may_enter_is_closed_to_them(installation, drop, tmp_path):
    accounts, lake = installation
    rejected = tmp_path / "landing" / "users" / "rejected"
    rejected.mkdir(parents=True)
    rejected.chmod(0o755)
    drop("no event")
    assert ingest_user_landing(accounts, lake)[0].status == "rejected"
    assert rejected.stat().st_mode & 0o777 == 0o700
