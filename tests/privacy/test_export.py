"""An export holds everything about the person in clear, nothing about anybody else, and goes away by itself."""

from __future__ import annotations

import csv
import hashlib
import html
import io
import json
import stat
import zipfile

import polars as pl
import pytest

from hfthot_platform.core.errors import BadRequestError, ErasedSubjectError, PermissionDeniedError, PrivacyError
from hfthot_platform.services.accounts.records import Request
from hfthot_platform.services.privacy import export as module
from hfthot_platform.services.privacy.erasure import run_erasure
from hfthot_platform.services.privacy.erasure_requests import request_erasure
from hfthot_platform.services.privacy.export import export_user_data, request_export, run_export
from hfthot_platform.services.privacy.holds import place_hold
from hfthot_platform.services.publication.publisher import flush
from tests.privacy.people import YAN, ZOE, register


@pytest.fixture
def zoe(accounts, lake):
    user = register(accounts, ZOE)
    register(accounts, YAN)
    flush(accounts.store, lake)
    accounts.update_user(user.user_id, email="zoe.new@elsewhere.example.org", request=ZOE.request)
    return user


def test_the_json_document_has_everything_in_clear(accounts, lake, zoe):
    path = export_user_data(accounts, lake, zoe.user_id)

    found = json.loads(path.read_text())
    tables = found["tables"]
    assert tables["profile"][0]["username"] == ZOE.username
    assert tables["profile"][0]["email"] == "zoe.new@elsewhere.example.org"
    assert tables["users_earlier"][0]["email"] == ZOE.email
    assert tables["store_provider_keys"][0]["secret"] == ZOE.provider_key
    assert tables["sessions"][0]["ip"] == ZOE.ip
    assert tables["store_usage"][0]["used"] == 1
    assert {event["user_agent"] for event in tables["audit_log"]} >= {ZOE.user_agent}
    assert tables["audit_log"][0]["action"] == "user.register"
    assert [event["ts"] for event in tables["audit_log"]] == sorted(event["ts"] for event in tables["audit_log"])
    assert "e1." not in path.read_text()


def test_nothing_of_anybody_else_is_in_it(accounts, lake, zoe):
    text = export_user_data(accounts, lake, zoe.user_id).read_text()

    assert not [value for value in YAN.values if value in text]


SIGN_INS = {
    "with address and program": Request(ip="203.0.113.9", user_agent="curl/8"),
    "with an address alone": Request(ip="203.0.113.9"),
    "with a program alone": Request(user_agent="curl/8"),
    "with neither": Request(),
    "with texts that are none": Request(ip="", user_agent=" "),
}


@pytest.mark.soak
@pytest.mark.parametrize("kind", ["json", "csv", "parquet"])
@pytest.mark.parametrize("request_", SIGN_INS.values(), ids=SIGN_INS.keys())
def test_every_way_to_sign_in_can_be_exported(accounts, lake, kind, request_):
    user = accounts.register("plain_paula", "paula@mail.example.org", ZOE.password)
    accounts.login("plain_paula", ZOE.password, request=request_)
    accounts.login("paula@mail.example.org", ZOE.password)

    content = _content(export_user_data(accounts, lake, user.user_id, kind), "store_sessions")

    assert len(content) == 2
    assert {row["ip"] or None for row in content} <= {request_.ip or None, None}


def _content(path, table):
    """Return a table's rows of an export, whatever its format."""
    if path.suffix == ".json":
        return json.loads(path.read_text())["tables"][table]
    with zipfile.ZipFile(path) as archive:
        if path.name.endswith(".csv.zip"):
            return list(csv.DictReader(io.StringIO(archive.read(f"{table}.csv").decode())))
        return pl.read_parquet(archive.read(f"{table}.parquet")).to_dicts()


def test_no_text_of_a_csv_export_is_run_by_a_spreadsheet(accounts, lake):
    formulas = {"first_name": '=HYPERLINK("http://x.example","y")', "last_name": "@SUM(1+1)*cmd"}
    user = accounts.register("plain_paula", "paula@mail.example.org", ZOE.password, **formulas)

    profile = _content(export_user_data(accounts, lake, user.user_id, "csv"), "profile")[0]
    clear = _content(export_user_data(accounts, lake, user.user_id, "json"), "profile")[0]

    assert {name: profile[name] for name in formulas} == {name: f"'{text}" for name, text in formulas.items()}
    assert {name: clear[name] for name in formulas} == formulas
    assert profile["username"] == "plain_paula"


@pytest.mark.parametrize("text", ["=1", "+1", "-1", "@a", "\t=1", " =1", "\u200b=1", "\uff1d1", "\r1", "\xa0-1"])
def test_whatever_begins_like_a_formula_is_neutralised(text):
    assert module.neutralised(pl.DataFrame({"a": [text, "a=1", None]}))["a"].to_list() == [f"'{text}", "a=1", None]


@pytest.mark.parametrize("kind", ["csv", "parquet"])
def test_an_archive_has_a_file_per_table_and_a_manifest_that_fits(accounts, lake, zoe, kind):
    path = export_user_data(accounts, lake, zoe.user_id, kind)

    with zipfile.ZipFile(path) as archive:
        manifest = json.loads(archive.read("manifest.json"))
        names = {file["name"] for file in manifest["files"]}
        assert names | {"manifest.json"} == set(archive.namelist())
        for file in manifest["files"]:
            content = archive.read(file["name"])
            assert hashlib.sha256(content).hexdigest() == file["sha256"]
            if kind == "csv":
                rows = list(csv.DictReader(io.StringIO(content.decode())))
                columns = set(rows[0]) if rows else set(file["columns"])
            else:
                frame = pl.read_parquet(content)
                rows, columns = frame.rows(), set(frame.columns)
            assert len(rows) == file["rows"]
            assert columns == set(file["columns"])
            assert all(file["columns"].values())
        assert ZOE.username in archive.read(f"profile.{kind}").decode("latin-1")


def test_the_manifest_says_what_article_15_asks_for(accounts, lake, zoe):
    path = export_user_data(accounts, lake, zoe.user_id)

    manifest = json.loads((path.parent / "manifest.json").read_text())
    assert manifest["archive"]["sha256"] == hashlib.sha256(path.read_bytes()).hexdigest()
    about = manifest["about"]
    assert about["retention"]["audit_log"] == "90 days"
    assert set(about) >= {"purposes", "categories", "recipients", "retention", "source", "rights"}


def test_files_are_for_the_platform_alone(accounts, lake, zoe, settings):
    path = export_user_data(accounts, lake, zoe.user_id)

    assert path.parent.parent == settings.exports
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert stat.S_IMODE((path.parent / "manifest.json").stat().st_mode) == 0o600
    assert stat.S_IMODE(path.parent.stat().st_mode) == 0o700


@pytest.mark.parametrize("request_id", ["../../../etc", "..", "a/b", "", "A" * 32, "0" * 31])
def test_no_id_leads_out_of_the_folder(accounts, lake, request_id):
    with pytest.raises((BadRequestError, PrivacyError)):
        run_export(accounts, lake, request_id)


@pytest.mark.parametrize("kind", ["xml", "../json", "", "json\0"])
def test_an_unknown_format_is_refused(accounts, kind):
    user = accounts.register(YAN.username, YAN.email, YAN.password)

    with pytest.raises(BadRequestError, match="unknown format"):
        request_export(accounts, user.user_id, kind)


def test_others_may_not_export(accounts, zoe):
    other = accounts.find_user(username=YAN.username)

    with pytest.raises(PermissionDeniedError):
        request_export(accounts, zoe.user_id, request=Request(actor_id=other.user_id))


def test_legal_holds_are_not_told_of(accounts, lake, zoe):
    hold = place_hold(accounts, zoe.user_id, ["audit"], "secret investigation")

    text = export_user_data(accounts, lake, zoe.user_id).read_text()

    assert "legal_holds" not in json.loads(text)["tables"]
    del hold


def test_an_export_is_audited(accounts, lake, zoe):
    path = export_user_data(accounts, lake, zoe.user_id)

    flush(accounts.store, lake)
    rows = lake.table("audit_log").scan().filter(pl.col("resource") == path.parent.name).sort("seq").collect()
    assert rows["action"].to_list() == ["privacy.export", "privacy.export_ready"]


def test_a_failed_export_leaves_nothing_behind(accounts, lake, zoe, settings, monkeypatch):
    monkeypatch.setattr(module, "account_for", lambda *_: (_ for _ in ()).throw(OSError(28, "No space left on device")))

    with pytest.raises(OSError, match="No space"):
        export_user_data(accounts, lake, zoe.user_id)

    assert list(settings.exports.iterdir()) == []


@pytest.mark.soak
def test_an_export_that_an_erasure_overtakes_leaves_nothing_behind(accounts, lake, zoe, settings, monkeypatch):
    request_id = request_export(accounts, zoe.user_id)
    real = module.sync_all

    def overtaken(folder):
        real(folder)
        run_erasure(accounts, lake, request_erasure(accounts, zoe.user_id))
        folder.mkdir(exist_ok=True)

    monkeypatch.setattr(module, "sync_all", overtaken)
    with pytest.raises(ErasedSubjectError):
        run_export(accounts, lake, request_id)

    assert list(settings.exports.iterdir()) == []


def test_a_page_can_be_read_by_people_and_runs_nothing(accounts, lake):
    script = "<script>alert(1)</script>"
    user = accounts.register("plain_paula", "paula@mail.example.org", ZOE.password, first_name=script)
    accounts.login("plain_paula", ZOE.password, request=ZOE.request)

    page = export_user_data(accounts, lake, user.user_id, "html").read_text()

    assert "paula@mail.example.org" in page
    assert ZOE.ip in page
    assert script not in page
    assert html.escape(script) in page
    assert "supervisory authority" in page
    assert page.count("<h2>") == page.count("<table>") + page.count("Nothing is held.")
