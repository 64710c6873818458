"""The samples of the product's documents that use the client, call by call, on an installation of their own.

Only the folder, the accounts and the keys are other ones.  Each test is named after the place of its sample.
"""

from __future__ import annotations

import copy
import json
import os
import pickle
import zipfile
from datetime import UTC, datetime, timedelta

import polars as pl
import pytest

from hfthot_platform import LakehouseClient
from hfthot_platform.core.errors import BadRequestError, VersionUnavailableError
from hfthot_platform.core.settings import load_settings
from hfthot_platform.interfaces.client.results import AuditLog, Rows

PASSWORD = "correct horse battery"


@pytest.fixture(scope="module")
def settings(tmp_path_factory):
    base = tmp_path_factory.mktemp("documented")
    return load_settings(
        lake_root=str(base / "lake"),
        accounts=base / "accounts",
        landing=base / "landing",
        scratch=base / "scratch",
        argon2_memory_kib=8,
        argon2_passes=1,
        argon2_lanes=1,
        feeds=[],
    )


@pytest.fixture(scope="module")
def client(settings):
    with LakehouseClient.from_settings(settings) as opened:
        yield opened


@pytest.fixture(scope="module")
def user_id(client):
    user = client.register("somebody", "somebody@example.org", PASSWORD, tier="professional")
    client.save_api_keys(user.user_id, {"finnhub": {"api_key": "c8q2i", "queries_limit": 3600}})
    for number in range(9):
        client.update_user(user.user_id, last_name=f"Name{number}")
        client.generate_hfthot_api_key(user.user_id)
        client.flush()
    return user.user_id


@pytest.fixture(scope="module")
def bars(client, user_id):
    start = datetime.now(UTC).replace(hour=0, minute=0, second=0, microsecond=0) - timedelta(days=2)
    frame = pl.DataFrame({"i": range(1500)}).select(
        ts=pl.lit(start).cast(pl.Datetime("us", "UTC")) + pl.duration(minutes=5 * pl.col("i") - 5000),
        close=100.0 + (pl.col("i") % 7).cast(pl.Float64),
    )
    client.installation.lake.table("market.bars").append(
        frame.select(
            "ts",
            ts_close=pl.col("ts") + pl.duration(minutes=5),
            venue=pl.lit("binance"),
            symbol=pl.lit("BTC-USDT"),
            interval=pl.lit("5m"),
            open="close",
            high="close",
            low="close",
            close="close",
            volume=pl.lit(1.0),
            quote_volume=pl.col("close"),
            trades=pl.lit(1, pl.Int64),
            buy_volume=pl.lit(0.5),
            final=pl.lit(value=True),
            origin=pl.lit("vendor"),
            source=pl.lit("synthetic"),
            source_ref=pl.lit("test:1"),
        )
    )
    return frame.height


def test_api_reference_python_client(client, settings, user_id, bars):
    key = client.generate_hfthot_api_key(user_id)

    client = LakehouseClient.from_settings(settings, api_key=f"{key}")
    df = client.market("BTC-USDT").ohlcv(interval="5m").tail(1000).collect()
    keys = client.get_api_keys(user_id=user_id)

    assert df.head().height == 5
    assert df.height == 1000
    assert keys["provider_keys"]["finnhub"]["queries_remaining"] == 3600
    client.close()


def test_api_reference_time_travel_queries(client, user_id, bars):
    df_v5 = client.read_version("users", version=5)
    versions = client.list_versions("market/BTC-USDT")
    with pytest.raises(VersionUnavailableError):
        client.read_at_timestamp("api_keys", datetime(2026, 1, 15, 14, 0, 0))
    now = client.read_at_timestamp("api_keys", datetime.now(UTC).replace(tzinfo=None))

    assert len(df_v5) == 1
    assert set(versions[0]) >= {"version", "ts", "operation"}
    assert len(now) > 0


def test_documentation_update_quotas(client, user_id):
    success = client.update_query_count(user_id=user_id, provider="finnhub", increment=1)
    stats = client.get_query_stats(user_id, "finnhub")

    assert success
    assert f"Queries remaining: {stats['queries_remaining']}/{stats['queries_limit']}" == "Queries remaining: 3599/3600"


def test_documentation_save_new_api_keys(client, user_id):
    client.save_api_keys(
        user_id=user_id,
        provider_keys={
            "finnhub": {"api_key": "c8q2i...", "queries_limit": 3600},
            "alpha_vantage": {"api_key": "DEMO", "queries_limit": 500},
        },
        data_sharing_consent=True,
    )
    hfthot_key = client.generate_hfthot_api_key(user_id)

    assert f"Your HFThoT API key: {hfthot_key}" == f"Your HFThoT API key: {hfthot_key.key.get_secret_value()}"
    assert client.verify_api_key(f"{hfthot_key}").user_id == user_id


def test_documentation_read_a_version_by_number(client, user_id):
    users_v5 = client.read_version("users", version=5)
    api_keys_v10 = client.read_version("api_keys", version=10)

    assert f"Total users at version 5: {len(users_v5)}" == "Total users at version 5: 1"
    assert len(api_keys_v10) == api_keys_v10.collect().height


def test_documentation_read_a_version_by_timestamp(client, user_id):
    timestamp = datetime.now(UTC).replace(tzinfo=None)

    assert len(client.read_at_timestamp("users", timestamp)) == 1
    assert len(client.read_at_timestamp("users", timestamp.isoformat())) == 1


def test_documentation_export_all_data(client, user_id, tmp_path):
    user_data = client.export_user_data(user_id=user_id)
    with (tmp_path / "user_data.json").open("w") as f:
        json.dump(user_data, f, indent=2)

    dumped = json.loads((tmp_path / "user_data.json").read_text())
    assert dumped["user"]["username"] == "somebody"
    assert {"sessions", "api_keys", "audit_log"} <= set(dumped)
    assert dumped["audit_log"][0]["action"] == "user.register"


def test_documentation_delete_data(client):
    user = client.register("leaving", "leaving@example.org", PASSWORD)

    client.delete_user_soft(user_id=user.user_id)
    client.delete_user_permanent(user_id=user.user_id)

    assert all(other.user_id != user.user_id for other in client.list_users(deleted=None))


def test_documentation_portability(client, user_id):
    export_data = client.export_user_data(user_id=user_id, format="csv")

    with zipfile.ZipFile(export_data) as archive:
        assert "profile.csv" in archive.namelist()
    assert {file["name"] for file in export_data["manifest"]["files"]} >= {"profile.csv", "users.csv"}


def test_documentation_history_of_a_user(client, user_id):
    today = datetime.now(UTC).date()
    logs = client.get_audit_log(
        user_id=user_id, start_date=f"{today - timedelta(days=1)}", end_date=f"{today + timedelta(days=1)}"
    )

    first = next(iter(logs))
    assert first["action"] == "user.register"
    assert first["timestamp"].endswith("Z")
    assert len(logs) == len(list(logs))
    assert len(client.get_audit_log(user_id=user_id, start_date="2001-01-01", end_date="2001-02-01")) == 0


def test_documentation_filter_by_action(client):
    user = client.register("forgetful", "forgetful@example.org", PASSWORD)
    for password in ("wrong password 1", "wrong password 2", PASSWORD):
        try:
            client.login("forgetful", password)
        except Exception:
            assert password != PASSWORD
    login_logs = client.get_audit_log(user_id=user.user_id, action_type="login")

    failed_logins = [log for log in login_logs if log.get("success") == False]  # noqa: E712 - as documented

    assert len(failed_logins) == 2
    assert len(login_logs) == 3


@pytest.mark.parametrize(
    ("word", "action"),
    [
        ("register", "user.register"),
        ("update_api_keys", "api_keys.save"),
        ("query_api", "usage.count"),
        ("export_data", "privacy.export"),
    ],
)
def test_documentation_logged_events(client, user_id, word, action):
    client.update_query_count(user_id, "finnhub")
    client.export_user_data(user_id)

    assert action in {log["action"] for log in client.get_audit_log(user_id, action_type=word)}


# -- what the results are besides ---------------------------------------------------------------------------------


def test_a_generated_key_shows_where_it_is_printed_and_nowhere_else(client, user_id):
    made = client.generate_hfthot_api_key(user_id)
    secret = made.key.get_secret_value()

    assert str(made) == secret
    assert secret not in repr(made)
    assert secret not in repr([made])
    assert all(secret not in str(key) for key in client.list_api_keys(user_id))


def test_a_frame_of_rows_stays_one_through_what_is_done_with_it(client, user_id):
    rows = client.read_version("users", version=5)

    assert isinstance(rows, pl.LazyFrame)
    assert isinstance(rows.filter(pl.col("last_name") == "nobody"), Rows)
    assert len(rows.filter(pl.col("last_name") == "nobody")) == 0
    assert pl.concat([rows, rows]).collect().height == 2 * len(rows)


def test_an_audit_log_is_a_frame_too(client, user_id):
    logs = client.get_audit_log(user_id)

    assert isinstance(logs, pl.DataFrame)
    assert logs.filter(pl.col("action") == "user.register").height == 1
    assert pl.concat([logs, logs]).height == 2 * logs.height
    assert AuditLog.of(logs.clear()).to_dicts() == list(AuditLog.of(logs.clear())) == []


def test_an_export_is_a_path_too(client, user_id):
    exported = client.export_user_data(user_id)

    assert os.fspath(exported) == str(exported.path)
    assert exported.name == "export.json"
    assert json.loads(exported.read_bytes())["manifest"] == exported["manifest"]
    assert exported.get("nothing") is None
    assert len(dict(exported)) == len(exported) == len(list(exported))
    assert copy.copy(exported)["user"] == pickle.loads(pickle.dumps(exported))["user"] == exported["user"]


def test_records_are_read_by_name(client, user_id):
    stats = client.get_query_stats(user_id, "finnhub")

    assert dict(stats)["provider"] == stats.get("provider") == "finnhub"
    assert stats.get("nothing", 7) == 7
    with pytest.raises(KeyError, match="nothing"):
        stats["nothing"]
    assert client.usage(user_id)["requests_today"] == client.usage(user_id).requests_today


@pytest.mark.parametrize("when", ["yesterday", "2024-13-01", "", "2024-01-01T00:00:00Zzz", "x" * 10_000])
def test_a_text_that_is_no_time_is_refused(client, user_id, when):
    with pytest.raises(BadRequestError):
        client.read_at_timestamp("users", when)
    with pytest.raises(BadRequestError):
        client.get_audit_log(user_id, start_date=when)
