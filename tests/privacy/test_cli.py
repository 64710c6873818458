"""The officer's commands."""

from __future__ import annotations

import json
from datetime import UTC, datetime, timedelta

import pytest
from typer.testing import CliRunner

from hfthot_platform.interfaces.cli import app
from hfthot_platform.services.accounts.accounts import Accounts
from hfthot_platform.services.privacy.erasure import delete_user_permanent
from hfthot_platform.services.privacy.erasure_requests import list_erasures
from hfthot_platform.services.publication.publisher import flush
from hfthot_platform.storage.lakehouse import Lakehouse
from tests.privacy.people import ZOE, register


@pytest.fixture
def work(settings, monkeypatch):
    for name in ("lake_root", "landing", "scratch", "accounts", "key_file", "exports", "certificates"):
        monkeypatch.setenv(f"HFTHOT_{name.upper()}", str(getattr(settings, name)))
    monkeypatch.setenv("HFTHOT_FEEDS", "[]")
    for name in ("memory_kib", "passes", "lanes"):
        monkeypatch.setenv(f"HFTHOT_ARGON2_{name.upper()}", str(getattr(settings, f"argon2_{name}")))
    return settings


@pytest.fixture
def zoe(work):
    with Accounts.open(work, create=True) as accounts:
        user = register(accounts, ZOE)
        flush(accounts.store, Lakehouse.open(work.lake_root))
    return user.user_id


def hfthot(*arguments):
    return CliRunner().invoke(app, ["privacy", *arguments])


def test_an_erasure_from_the_command_line_is_verified_there(zoe, work):
    key = hfthot("public-key").stdout.strip()

    erased = hfthot("erase", zoe, "--yes")

    assert erased.exit_code == 0, erased.output
    path = erased.stdout.strip().splitlines()[-1]
    for arguments in ((path,), (path, "--public-key", key)):
        verified = hfthot("verify", *arguments)
        assert verified.exit_code == 0
        assert "Genuine" in verified.stdout
    assert json.loads(hfthot("verify", path, "--json").stdout)["statement"]["keep_history"] is True
    by_request = hfthot("verify", path.rpartition("/")[2].removesuffix(".json"))
    assert (by_request.exit_code, "Genuine" in by_request.stdout) == (0, True)
    assert hfthot("verify", "0" * 32).exit_code == 1
    assert "done" in hfthot("erase", "--list").stdout
    assert hfthot("erase", zoe, "--yes").exit_code == 1


@pytest.mark.soak
def test_an_altered_certificate_and_another_key_are_refused(zoe, work, tmp_path):
    with Accounts.open(work) as accounts:
        text = delete_user_permanent(accounts, Lakehouse.open(work.lake_root), zoe).text
    altered = tmp_path / "altered.json"
    altered.write_text(text.replace('"keep_history": true', '"keep_history": false'))
    genuine = tmp_path / "genuine.json"
    genuine.write_text(text)

    assert hfthot("verify", str(altered)).exit_code == 1
    assert hfthot("verify", str(tmp_path / "absent.json")).exit_code == 1
    other = "ed25519:" + "A" * 43 + "="
    assert hfthot("verify", str(genuine), "--public-key", other).exit_code == 1


def test_an_export_prints_its_path(zoe):
    exported = hfthot("export", zoe, "--format", "csv")

    assert exported.exit_code == 0
    assert exported.stdout.strip().endswith("export.csv.zip")
    assert hfthot("export", zoe, "--format", "xml").exit_code == 2


def test_holds_are_placed_listed_and_released(zoe):
    placed = hfthot("holds", "--place", zoe, "--categories", "audit, sessions", "--reason", "case 7")
    hold = placed.stdout.strip()

    assert "sessions, audit" in hfthot("holds").stdout
    assert hfthot("holds", "--release", hold, "--reason", "over").exit_code == 0
    assert hold not in hfthot("holds").stdout
    assert hold in hfthot("holds", "--all").stdout
    assert hfthot("holds", "--place", zoe, "--categories", "everything", "--reason", "x").exit_code == 2


def test_retention_rotation_and_chain(zoe):
    assert json.loads(hfthot("retention", "--json").stdout)["audit_rows"] == 0
    assert "6 keys wrapped" in hfthot("rotate-keys").stdout
    assert "Intact" in hfthot("chain").stdout
    assert json.loads(hfthot("chain", "--json").stdout)["problems"] == []


@pytest.mark.soak
@pytest.mark.parametrize("options", [(), ("--json",)], ids=["table", "json"])
def test_retention_refuses_under_a_clock_that_leapt_ahead(work, options):
    long_ago = datetime.now(UTC) - timedelta(days=400)
    with Accounts.open(work, lambda: long_ago, create=True) as accounts:
        register(accounts, ZOE)
        flush(accounts.store, Lakehouse.open(work.lake_root))

    refused = hfthot("retention", *options)

    assert refused.exit_code == 1
    assert "400 days" in refused.stderr
    assert "hfthot accounts clock --right" in refused.stderr
    assert Lakehouse.open(work.lake_root).table("audit_log").scan().collect().height > 0


@pytest.mark.soak
def test_a_failed_erasure_is_looked_at_accepted_and_resumed_from_the_command_line(zoe, work):
    work.landing.mkdir(parents=True)
    (work.landing / "left.txt").write_text(ZOE.email)
    assert hfthot("erase", zoe, "--yes").exit_code == 1
    with Accounts.open(work) as accounts:
        (state,) = list_erasures(accounts)
    assert f"{state.deadline:%Y-%m-%d}" in hfthot("erase", "--list").stdout

    (hit,) = json.loads(hfthot("hits", state.request_id, "--json").stdout)

    assert (hit["place"], hit["file"], hit["kind"], hit["context"]) == ("landing", "left.txt", "email", None)
    assert ZOE.email in hfthot("hits", state.request_id, "--reveal", "--json").stdout
    assert hfthot("accept", state.request_id, hit["hit"], "--reason", f"of {ZOE.email}").exit_code == 2
    assert hfthot("resume", state.request_id).exit_code == 1
    assert hfthot("accept", state.request_id, hit["hit"], "--reason", "kept by order").exit_code == 0
    resumed = hfthot("resume", state.request_id)
    assert resumed.exit_code == 0, resumed.output
    path = resumed.stdout.strip().splitlines()[-1]
    assert "kept by order" in hfthot("verify", path, "--user-id", zoe).stdout
    assert hfthot("verify", path, "--user-id", "0" * 32).exit_code == 1


def test_an_officer_finds_corrects_and_restricts_a_person_without_python(zoe):
    found = json.loads(hfthot("find", ZOE.email, "--json").stdout)
    rectified = hfthot("rectify", zoe, "--email", "zoe.right@mail.example.org", "--last-name", "")
    by_name = json.loads(hfthot("find", "--username", ZOE.username, "--json").stdout)
    restricted = hfthot("restrict", zoe)
    while_restricted = json.loads(hfthot("find", "--username", ZOE.username, "--json").stdout)
    lifted = hfthot("restrict", zoe, "--lift")

    assert (found["user_id"], found["username"], found["active"]) == (zoe, ZOE.username, True)
    assert rectified.stdout.strip() == "changed: email, last_name"
    assert (by_name["email"], by_name["last_name"]) == ("zoe.right@mail.example.org", None)
    assert "restricted" in restricted.stdout
    assert while_restricted["active"] is False
    assert "may sign in" in lifted.stdout


def test_nothing_to_correct_is_said_so(zoe):
    assert hfthot("rectify", zoe).exit_code == 2
    assert hfthot("find", "nobody@example.org").exit_code == 1


def test_open_requests_are_listed_with_the_ids_that_the_jobs_take(zoe):
    export = hfthot("export", zoe, "--request-only").stdout.strip()
    erasure = hfthot("erase", zoe, "--request-only", "--yes").stdout.strip()

    listed = json.loads(hfthot("requests", "--json").stdout)

    assert {(line["kind"], line["request"]) for line in listed} == {("export", export), ("erasure", erasure)}
    assert export in hfthot("requests").stdout
