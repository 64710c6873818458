"""User events from elsewhere: each applied once, in any order, whatever crashes; of bad ones nothing is kept."""

from __future__ import annotations

import json
import subprocess
import sys
from datetime import datetime, timedelta

import polars as pl
import pytest

from hfthot_platform.core.errors import InvalidCredentialsError, RejectedFileError
from hfthot_platform.services.ingest.user_events import ingest_user_events
from hfthot_platform.services.publication.publisher import flush
from hfthot_platform.storage.lakehouse import Lakehouse
from tests.accounts.conftest import NOW, PASSWORD

ON_SQLITE = pytest.mark.parametrize("settings", ["sqlite"], indirect=True)
YESTERDAY = NOW - timedelta(days=1)
ADA = {"username": "ada", "email": "ada@analytical.example"}


@pytest.fixture
def lake(settings, clock):
    return Lakehouse.open(settings.lake_root, clock=clock)


@pytest.fixture
def write(tmp_path):
    """Write events as JSON lines; text is a line as it is."""

    def make(*events, name="events.jsonl"):
        path = tmp_path / name
        path.write_text("\n".join(event if isinstance(event, str) else json.dumps(event) for event in events) + "\n")
        return path

    return make


@pytest.fixture
def ingest(accounts, lake, write):
    def run(*events, **options):
        return ingest_user_events(write(*events), accounts, lake, **options)

    return run


def event(number, kind, at=YESTERDAY, **fields):
    return {"event_id": f"event-{number}", "type": kind, "at": at.isoformat(), **(ADA | fields)}


def registration(number=1, **fields):
    return event(number, "registration", **({"first_name": "Ada", "tier": "hobbyist"} | fields))


def published(accounts, lake, table):
    flush(accounts.store, lake)
    return lake.table(table).scan().collect()


# -- what they do -----------------------------------------------------------------------------------------------


def test_a_registration_makes_an_account_that_nobody_can_sign_in_to_yet(accounts, ingest):
    report = ingest(registration())

    user = accounts.find_user(username="ADA")
    assert (report.read, report.applied) == (1, 1)
    assert (user.email, user.first_name, user.tier) == (ADA["email"], "Ada", "hobbyist")
    assert user.created_at == YESTERDAY
    with pytest.raises(InvalidCredentialsError):
        accounts.login("ada", PASSWORD)


def test_a_login_is_a_session_of_its_time_in_the_lake(accounts, lake, ingest):
    ingest(registration(), event(2, "login", ip="203.0.113.5", user_agent="Browser/1"))

    (session,) = published(accounts, lake, "sessions").rows(named=True)

    subject = accounts.subject_of(accounts.find_user(username="ada").user_id)
    cipher = accounts.ciphers([subject], "sessions")[subject]
    assert session["created_at"] == YESTERDAY
    assert session["date"] == YESTERDAY.date()
    assert cipher.decrypt("sessions", "ip", session["ip"]) == "203.0.113.5"


def test_the_newest_subscription_change_counts_in_whatever_order_they_come(accounts, ingest):
    ingest(
        registration(),
        event(2, "subscription_change", YESTERDAY + timedelta(hours=2), tier="enterprise"),
        event(3, "subscription_change", YESTERDAY + timedelta(hours=1), tier="professional"),
    )
    assert accounts.find_user(username="ada").tier == "enterprise"
    ingest(event(4, "subscription_change", YESTERDAY + timedelta(hours=3), tier="free"))
    assert accounts.find_user(username="ada").tier == "free"


def test_api_calls_are_counted_on_their_day(accounts, lake, ingest):
    ingest(registration(), event(2, "api_call", count=5), event(3, "api_call", count=2))

    (row,) = published(accounts, lake, "usage").rows(named=True)

    assert (row["resource"], row["used_today"], row["date"]) == ("requests", 7, YESTERDAY.date())


def test_api_calls_of_a_day_that_is_over_leave_todays_quota_alone(accounts, lake, ingest):
    ingest(registration(tier="enterprise"))
    user = accounts.find_user(username="ada")
    accounts.count_use(user.user_id, "requests", 3)

    report = ingest(event(2, "api_call", count=1000))

    assert report.applied == 1
    assert accounts.usage(user.user_id).requests_today == 3
    details = published(accounts, lake, "audit_log").filter(pl.col("action") == "usage.count")["detail"]
    assert json.loads(details[-1])["increment"] == 1000
    assert json.loads(details[-1])["counted"] is False


def test_parquet_is_read_like_json_lines(accounts, lake, tmp_path):
    rows = [registration(), event(2, "api_call", count=3)]
    frame = pl.DataFrame([{**row, "at": datetime.fromisoformat(row["at"])} for row in rows], infer_schema_length=None)
    frame.write_parquet(tmp_path / "events.parquet")

    report = ingest_user_events(tmp_path / "events.parquet", accounts, lake)

    assert (report.format, report.applied) == ("parquet", 2)
    assert accounts.find_user(username="ada").created_at == YESTERDAY


# -- once, in any order -----------------------------------------------------------------------------------------


def test_an_event_is_applied_once_within_a_file_across_files_and_again(accounts, lake, ingest, write):
    call = event(2, "api_call", count=4)
    first = ingest(registration(), call, call)
    again = ingest(registration(), call, call)
    other = ingest_user_events(write(call, name="other.jsonl"), accounts, lake)

    assert [(report.applied, report.repeated) for report in (first, again, other)] == [(2, 1), (0, 3), (0, 1)]
    assert published(accounts, lake, "usage")["used_today"].to_list() == [4]


@ON_SQLITE
def test_an_event_before_its_registration_in_the_file_is_applied(accounts, ingest):
    report = ingest(event(2, "subscription_change", tier="professional"), registration())
    assert (report.applied, report.waiting, report.rejected) == (2, 0, 0)
    assert accounts.find_user(username="ada").tier == "professional"


@ON_SQLITE
def test_an_event_of_an_unknown_account_waits_where_that_is_wanted(accounts, ingest):
    early = event(2, "subscription_change", tier="professional")
    assert ingest(early, wait=True).waiting == 1
    ingest(registration())
    assert ingest(early, wait=True).applied == 1
    assert accounts.find_user(username="ada").tier == "professional"


@ON_SQLITE
def test_otherwise_it_is_rejected_and_still_applied_by_a_later_run(lake, ingest):
    early = event(2, "api_call")
    report = ingest(early)
    assert (report.rejected, dict(report.reasons)) == (1, {"unknown_account": 1})
    assert lake.table("quarantine.users").scan().collect()["reason"].to_list() == ["unknown_account"]
    ingest(registration())
    assert ingest(early).applied == 1


@ON_SQLITE
def test_a_file_taken_in_again_does_not_bring_an_erased_person_back(accounts, ingest):
    ingest(registration())
    subject = accounts.subject_of(accounts.find_user(username="ada").user_id)
    with accounts.store.transaction() as tx:
        accounts.destroy(tx, subject)

    report = ingest(registration(), event(2, "login"))

    assert (report.applied, report.repeated, report.rejected) == (0, 1, 1)
    assert accounts.list_users() == []


# -- bad rows ---------------------------------------------------------------------------------------------------

BAD = {
    "no-json": ('{"event_id": "x", "email": "ada@analytical.example"', "not_json"),
    "no-object": ("[1]", "not_json"),
    "too-long": (json.dumps(event(2, "login", user_agent="x" * 70_000)), "too_long"),
    "no-id": ({**event(2, "login"), "event_id": ""}, "malformed_event_id"),
    "odd-type": (event(2, "ada@analytical.example"), "unknown_type"),
    "no-zone": ({**event(2, "login"), "at": "2024-03-09T12:00:00"}, "malformed_time"),
    "future": (event(2, "login", NOW + timedelta(days=1)), "time_out_of_range"),
    "nobody": ({"event_id": "event-2", "type": "login", "at": YESTERDAY.isoformat()}, "no_account_named"),
    "no-address": (registration(2, email="ada at analytical"), "malformed_email"),
    "name-is-a-number": (registration(2, first_name=7), "malformed_first_name"),
    "odd-tier": (event(2, "subscription_change", tier="ada@analytical.example"), "unknown_tier"),
    "odd-address": (event(2, "login", ip=["203.0.113.5"]), "malformed_ip"),
    "odd-resource": (event(2, "api_call", resource="ada@analytical.example"), "unknown_resource"),
    "negative": (event(2, "api_call", count=-1), "malformed_count"),
    "taken": (registration(2, username="lovelace"), "duplicate_account"),
}


@ON_SQLITE
def test_bad_rows_are_quarantined_without_anything_personal_and_the_rest_is_applied(accounts, lake, ingest):
    report = ingest(registration(), *(row for row, _ in BAD.values()))

    kept = lake.table("quarantine.users").scan().collect().sort("row_number")
    assert (report.read, report.applied, report.rejected) == (len(BAD) + 1, 1, len(BAD))
    assert kept["reason"].to_list() == [reason for _, reason in BAD.values()]
    assert kept["row_number"].to_list() == list(range(2, len(BAD) + 2))
    assert kept["source_ref"].unique().to_list() == [f"user_events:{report.content_hash[:16]}"]
    assert {key for row in kept["row"] for key in json.loads(row)} == {"type", "at"}
    flush(accounts.store, lake)
    # Words that no digest and no random identifier of a file can spell.
    for word in (b"analytical", b"203.0.113", b"event-2", b"lovelace"):
        assert not [path for path in lake.storage.local.rglob("*") if path.is_file() and word in path.read_bytes()]
    assert "analytical" not in kept.write_csv()


@ON_SQLITE
def test_bad_rows_are_quarantined_once_however_often_the_file_comes(lake, ingest):
    for _ in range(2):
        ingest(registration(), *(row for row, _ in BAD.values()))
    assert lake.table("quarantine.users").scan().collect().height == len(BAD)


@ON_SQLITE
@pytest.mark.parametrize(
    ("content", "reason"),
    [(b" \n", "empty"), (b"username,email\nada,ada@analytical.example\n", "unrecognised"), (b"PAR1 no", "unreadable")],
    ids=["empty", "csv", "damaged-parquet"],
)
def test_a_file_of_another_kind_is_refused_as_a_whole(accounts, lake, tmp_path, content, reason):
    path = tmp_path / "ada@analytical.example.jsonl"
    path.write_bytes(content)
    with pytest.raises(RejectedFileError) as caught:
        ingest_user_events(path, accounts, lake)
    assert caught.value.reason == reason
    assert "analytical" not in str(caught.value)


# -- crashes ----------------------------------------------------------------------------------------------------

CRASHING = """
import os, signal, sys
from pathlib import Path
from hfthot_platform.services.ingest import user_events as events
from hfthot_platform.services.accounts.accounts import Accounts
from hfthot_platform.storage.operational.connection import Transaction
from hfthot_platform.storage.lakehouse import Lakehouse
from hfthot_platform.core.settings import load_settings
path, kill_at, given = sys.argv[1], int(sys.argv[2]), sys.argv[3]
settings = load_settings(**__import__("json").loads(given))
genuine, count = Transaction.run, 0
def run(self, *args):
    global count
    count += 1
    if count == kill_at:
        os.kill(os.getpid(), signal.SIGKILL)
    return genuine(self, *args)
Transaction.run = run
events.TOGETHER = 3
events.ingest_user_events(Path(path), Accounts.open(settings), Lakehouse.open(settings.lake_root))
"""


@pytest.mark.soak
@ON_SQLITE
def test_a_file_that_was_under_way_when_the_process_died_is_finished_by_the_next(accounts, lake, settings, write):
    people = [registration(n, username=f"user{n}", email=f"user{n}@analytical.example") for n in range(10)]
    calls = [event(100 + n, "api_call", count=n + 1, username=f"user{n % 10}") for n in range(20)]
    for call in calls:
        del call["email"]
    path = write(*people, *calls)
    given = {name: str(getattr(settings, name)) for name in ("lake_root", "accounts", "key_file")}
    given |= {"argon2_memory_kib": 8, "argon2_passes": 1, "argon2_lanes": 1, "feeds": []}
    for kill_at in (23, 60):
        process = subprocess.run(
            [sys.executable, "-c", CRASHING, str(path), str(kill_at), json.dumps(given)], check=False
        )
        assert process.returncode == -9

    report = ingest_user_events(path, accounts, lake)

    assert report.applied + report.repeated == 30
    assert 0 < report.repeated < 30
    usage = published(accounts, lake, "usage")
    assert usage["used_today"].sum() == sum(range(1, 21))
    assert published(accounts, lake, "users").height == 10
