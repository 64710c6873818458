"""What the client does beyond handing calls on: reads of the user tables, who may see what, audit, life."""

from __future__ import annotations

import json
import pickle
from datetime import UTC, date, datetime, timedelta
from pathlib import Path

import polars as pl
import pytest

from hfthot_platform import Installation, LakehouseClient
from hfthot_platform.core.errors import (
    BadRequestError,
    CertificateError,
    ErasedSubjectError,
    HfthotError,
    InactiveAccountError,
    InvalidTokenError,
    PermissionDeniedError,
    QuotaExceededError,
    RevokedTokenError,
    TierForbiddenError,
    VersionUnavailableError,
)
from hfthot_platform.core.settings import load_settings
from hfthot_platform.services.accounts.records import Secret
from hfthot_platform.services.publication.chain import verify_chain

from .conftest import PASSWORD, TODAY, minutes


def newest(client: LakehouseClient, table: str) -> int:
    return client.list_versions(table)[-1]["version"]


def rows(client: LakehouseClient, table: str, version: int | None = None) -> pl.DataFrame:
    return client.read_version(table, newest(client, table) if version is None else version).collect()


class TestUserTables:
    def test_a_caller_reads_its_own_writes(self, client, register):
        user = register("ada")
        assert rows(client, "users")["username"].to_list() == ["ada"]

        client.update_user(user.user_id, email="ada@new.example.org")

        assert rows(client, "users")["email"].to_list() == ["ada@new.example.org"]

    def test_an_old_version_shows_what_was_then(self, client, register):
        user = register("ada")
        before = newest(client, "users")
        at = client.list_versions("users")[-1]["ts"]
        client.update_user(user.user_id, username="countess", first_name=None)
        client.flush()

        assert rows(client, "users", before)["username"].to_list() == ["ada"]
        assert client.read_at_timestamp("users", at).collect()["first_name"].to_list() == ["First"]
        assert rows(client, "users").select("username", "first_name").row(0) == ("countess", None)

    def test_every_personal_column_is_decrypted(self, client, register):
        user = register("ada")
        client.update_user(user.user_id, preferences={"theme": "dark"})
        client.save_api_keys(user.user_id, {"finnhub": "theirs"})
        client.for_request(ip="192.0.2.7", user_agent="curl/8").login("ada", PASSWORD)

        assert json.loads(rows(client, "users")["preferences"][0]) == {"theme": "dark"}
        assert rows(client, "api_keys")["secret"].to_list() == ["theirs"]
        assert rows(client, "sessions").select("ip", "user_agent").row(0) == ("192.0.2.7", "curl/8")
        signed = rows(client, "audit_log").filter(pl.col("action") == "session.login")
        assert signed.select("ip", "user_agent").row(0) == ("192.0.2.7", "curl/8")

    @pytest.mark.soak
    def test_of_an_erased_person_the_fields_are_null_in_old_versions_too(self, client, register):
        ada, bob = register("ada"), register("bob")
        before = newest(client, "users")

        client.delete_user_permanent(ada.user_id)

        assert rows(client, "users", before)["username"].sort().to_list() == [None, "bob"]
        assert rows(client, "users", before)["email"].sort().to_list() == [None, "bob@example.org"]
        assert rows(client, "users")["username"].to_list() == ["bob"]
        assert client.get_user(bob.user_id).username == "bob"
        with pytest.raises(ErasedSubjectError):
            client.get_user(ada.user_id)
        with pytest.raises(ErasedSubjectError):
            client.get_audit_log(ada.user_id)

    def test_an_account_sees_its_own_rows_alone(self, client, signed_in):
        hers, his = signed_in("ada"), signed_in("bob")
        client.login("bob", PASSWORD)

        assert rows(hers, "users")["username"].to_list() == ["ada"]
        assert rows(hers, "sessions").is_empty()
        assert rows(his, "sessions").height == 1
        assert rows(his, "audit_log")["subject_id"].n_unique() == 1
        assert rows(client, "audit_log")["subject_id"].n_unique() > 1

    def test_an_administrator_sees_all_rows(self, signed_in, register):
        register("ada")
        boss = signed_in("boss", role="admin")

        assert rows(boss, "users")["username"].sort().to_list() == ["ada", "boss"]

    def test_a_version_out_of_range_names_the_range(self, client, register):
        register("ada")
        client.flush()

        with pytest.raises(VersionUnavailableError, match="Readable: version 0"):
            client.read_version("users", 99)
        with pytest.raises(VersionUnavailableError, match="Readable: version 0"):
            client.read_at_timestamp("users", datetime(2001, 1, 1, tzinfo=UTC))

    def test_every_listed_version_can_be_read(self, client, register):
        user = register("ada")
        for name in ("b", "c"):
            client.flush()
            client.update_user(user.user_id, username=f"ada {name}")

        found = [
            client.read_version("users", version["version"]).collect()["username"].to_list()
            for version in client.list_versions("users")
        ]

        assert found == [[], ["ada"], ["ada b"], ["ada c"]]

    def test_many_chunks_are_decrypted_as_one(self, client, register, monkeypatch):
        monkeypatch.setattr("hfthot_platform.app.personal.CHUNK", 2)
        for name in "abcde":
            register(f"user.{name}")

        assert rows(client, "users")["username"].sort().to_list() == [f"user.{name}" for name in "abcde"]


class TestAuditLog:
    def test_it_is_filtered_by_account_time_and_action(self, client, register):
        ada, bob = register("ada"), register("bob")
        client.login("ada", PASSWORD)
        client.update_user(bob.user_id, last_name="Builder")

        assert client.get_audit_log(ada.user_id)["action"].to_list() == ["user.register", "session.login"]
        assert client.get_audit_log(ada.user_id, action_type="session")["action"].to_list() == ["session.login"]
        assert client.get_audit_log(ada.user_id, action_type="session.login").height == 1
        assert client.get_audit_log(ada.user_id, action_type="sess").is_empty()
        assert client.get_audit_log(action_type="user.update").height == 1
        today = datetime.now(UTC).date()
        assert client.get_audit_log(ada.user_id, today, today, "user").height == 1
        assert client.get_audit_log(ada.user_id, today + timedelta(days=1)).is_empty()
        assert client.get_audit_log(ada.user_id, end_date=today - timedelta(days=1)).is_empty()
        assert client.get_audit_log(ada.user_id, end_date=datetime.now(UTC) - timedelta(hours=1)).is_empty()

    def test_reads_are_audited_with_who_and_what(self, client, signed_in):
        hers = signed_in("ada")
        version = newest(hers, "users")
        hers.read_version("users", version)
        hers.market("ALPHA-USDT").closes().collect()
        hers.get_audit_log(hers.user_id)
        client.get_user(hers.user_id)

        log = client.get_audit_log(hers.user_id).select("action", "resource", "actor_id", "outcome").rows()
        mine = log[0][2] if log[0][2] != "system" else client.get_audit_log(hers.user_id)["subject_id"][0]
        assert ("table.read", f"users version {version}", mine, "success") in log
        assert ("table.versions", "users", mine, "success") in log
        assert ("table.read", "market.closes", mine, "success") in log
        assert ("audit.read", None, mine, "success") in log
        assert ("user.read", None, "system", "success") in log

    def test_what_is_refused_is_audited(self, client, signed_in):
        hers, other = signed_in("ada"), signed_in("bob")
        with pytest.raises(PermissionDeniedError):
            hers.read_version("quarantine.users", 0)
        with pytest.raises(PermissionDeniedError):
            hers.get_audit_log(other.user_id)
        with pytest.raises(TierForbiddenError):
            hers.sql("SELECT 1")
        with pytest.raises(PermissionDeniedError):
            hers.register("eve", "eve@example.org", PASSWORD)

        log = client.get_audit_log(hers.user_id).filter(pl.col("outcome") == "refused")

        assert log["action"].to_list() == ["table.read", "audit.read", "sql.query", "user.register"]

    @pytest.mark.soak
    def test_the_chain_holds_after_all_of_it(self, client, signed_in):
        hers = signed_in("ada")
        rows(hers, "users")
        client.delete_user_permanent(hers.user_id)
        client.flush()

        report = verify_chain(client.installation.lake, client.installation.accounts.store)

        assert not report.problems
        assert report.redacted > 0


class TestApiKey:
    def test_a_forged_or_revoked_key_opens_nothing(self, client, folder, register):
        user = register("ada")
        key = client.generate_hfthot_api_key(user.user_id)
        with pytest.raises(InvalidTokenError):
            LakehouseClient(folder, api_key=key.key.get_secret_value()[:-1] + "x")
        hers = LakehouseClient(folder, api_key=key.key)
        client.revoke_api_key(user.user_id, key.key_id)

        with pytest.raises(RevokedTokenError):
            hers.get_user(user.user_id)
        with pytest.raises(RevokedTokenError):
            hers.market("ALPHA-USDT").closes().collect()
        hers.close()

    def test_another_role_or_tier_holds_at_once(self, client, signed_in):
        hers = signed_in("ada")
        with pytest.raises(PermissionDeniedError):
            hers.list_users()

        client.set_role(hers.user_id, "admin")
        assert hers.list_users()
        client.deactivate_user(hers.user_id)

        with pytest.raises(InactiveAccountError):
            hers.list_users()

    def test_market_data_reach_back_as_far_as_the_tier(self, client, signed_in):
        old = TODAY - timedelta(days=40)
        client.installation.lake.table("market.bars_1m").append(minutes(start=old, count=10))
        free, paid = signed_in("ada"), signed_in("bob", tier="hobbyist")
        older = {"start": old - timedelta(days=1), "end": old + timedelta(days=1)}
        version = newest(client, "market.bars_1m")

        assert free.market("ALPHA-USDT").ohlcv(**older).collect().is_empty()
        assert free.market("ALPHA-USDT").ohlcv().lazy().collect().height == 2880
        assert free.read_version("market.bars_1m", version).collect().height == 2880
        for unlimited in (paid, client):
            assert unlimited.market("ALPHA-USDT").ohlcv(**older).collect().height == 10
            assert unlimited.read_version("market.bars_1m", version).collect().height == 2890

    @pytest.mark.parametrize("name", ["marts.usage_by_tier", "marts.audit_activity"])
    def test_models_over_closed_tables_are_closed(self, client, signed_in, name):
        assert name in client.sql("SHOW TABLES").data["table_name"].to_list()
        with pytest.raises(PermissionDeniedError):
            signed_in("ada", tier="enterprise").read_version(name, 0)

    def test_models_over_open_tables_are_open(self, signed_in):
        assert signed_in("ada").list_versions("marts.daily_ohlcv") == []

    def test_a_model_that_sums_up_all_history_is_for_plans_with_all_of_it(self, signed_in):
        with pytest.raises(TierForbiddenError):
            signed_in("ada", tier="professional").list_versions("marts.regime_durations")
        assert signed_in("eve", tier="enterprise").list_versions("marts.regime_durations") == []

    def test_mean_field_games_need_a_larger_tier(self, client, signed_in):
        with pytest.raises(TierForbiddenError):
            signed_in("ada").read_at_timestamp("signals.mfg_prices", datetime.now(UTC))
        with pytest.raises(TierForbiddenError):
            signed_in("bob", tier="hobbyist").list_versions("signals.mfg_prices")
        assert signed_in("eve", tier="professional").list_versions("signals.mfg_prices") == []

    def test_a_guest_reads_no_market_data(self, signed_in):
        guest = signed_in("ada", role="guest")

        for call in (
            lambda: guest.market("ALPHA-USDT").closes().collect(),
            lambda: guest.market("ALPHA-USDT").closes().lazy(),
            lambda: guest.list_versions("market/ALPHA-USDT"),
            lambda: guest.read_version("market.closes", 1),
        ):
            with pytest.raises(PermissionDeniedError):
                call()
        assert rows(guest, "users")["username"].to_list() == ["ada"]

    def test_its_calls_count_as_requests(self, client, signed_in):
        hers = signed_in("ada")
        before = hers.usage(hers.user_id).requests_today
        for _ in range(3):
            hers.market("ALPHA-USDT").closes().collect()

        assert hers.usage(hers.user_id).requests_today == before + 4


class TestSql:
    def test_statements_count_against_the_tier_durably(self, client, signed_in, folder):
        hers = signed_in("ada", tier="hobbyist")
        assert hers.sql("SELECT count(*) AS n FROM market.closes").data["n"][0] == 2
        assert client.usage(hers.user_id).sql_queries_today == 1
        client.installation.accounts.count_use(hers.user_id, "sql_queries", 9)

        with pytest.raises(QuotaExceededError) as caught:
            hers.sql("SELECT 1")

        assert caught.value.resets_at > datetime.now(UTC)

    def test_trusted_code_asks_of_all_tables_and_reads_its_own_writes(self, client, register):
        register("ada")
        found = client.sql("SELECT role, count(*) AS n FROM users GROUP BY role", format="json")

        assert json.loads(found.data) == [{"role": "registered", "n": 1}]

    def test_what_failed_is_audited_without_its_text(self, client, signed_in):
        hers = signed_in("ada", tier="hobbyist")
        for text in ("SELECT nothing_of_the_kind FROM market.bars", "SELECT * FROM users", "DELETE FROM market.bars"):
            with pytest.raises(HfthotError):
                hers.sql(text)

        log = client.get_audit_log(hers.user_id, action_type="sql").select("outcome", "detail", "resource").rows()

        assert [outcome for outcome, _, _ in log] == ["failure"] * 3
        assert all("SELECT" not in str(row) and "Error" in row[1] for row in log)


class TestExport:
    @pytest.mark.parametrize("form", ["json", "csv", "parquet"])
    def test_a_person_takes_its_data_along(self, signed_in, folder, form):
        hers = signed_in("ada")

        path = hers.export_user_data(hers.user_id, form).path

        assert path.is_relative_to(folder / "exports")
        assert path.stat().st_mode & 0o077 == 0

    def test_a_person_erases_itself(self, client, signed_in):
        hers = signed_in("ada")

        certificate = hers.delete_user_permanent(hers.user_id)

        assert certificate.keep_history
        with pytest.raises(InvalidTokenError):
            hers.get_user(hers.user_id)
        with pytest.raises(ErasedSubjectError):
            client.get_user(hers.user_id)

    @pytest.mark.soak
    def test_without_history_the_old_versions_are_gone(self, client, register):
        user, other = register("ada"), register("bob")
        old = newest(client, "users")

        certificate = client.delete_user_permanent(user.user_id, keep_history=False)

        assert certificate.ciphertext_until is None
        with pytest.raises(VersionUnavailableError):
            client.read_version("users", old)
        assert client.get_user(other.user_id).username == "bob"

    def test_another_ones_data_are_out_of_reach(self, signed_in):
        hers, other = signed_in("ada"), signed_in("bob")
        for call in (hers.export_user_data, hers.delete_user_soft, hers.delete_user_permanent, hers.get_api_keys):
            with pytest.raises(PermissionDeniedError):
                call(other.user_id)
        assert other.get_user(other.user_id).deleted_at is None


def test_a_client_for_a_request_shares_everything_but_where_it_comes_from(client, register):
    register("ada")
    here = client.for_request(ip="2001:db8::1", user_agent="Mozilla/5.0 (X11)")
    here.login("ada", PASSWORD)

    assert rows(client, "sessions")["ip"].to_list() == ["2001:db8::1"]
    assert here.installation is client.installation


def test_nothing_secret_shows_in_a_client_and_it_is_not_pickled(client, folder, register):
    key = client.generate_hfthot_api_key(register("ada").user_id).key
    hers = LakehouseClient(folder, api_key=key)

    assert key.get_secret_value() not in repr(hers) + str(vars(hers)) + repr(vars(hers.installation))
    with pytest.raises(TypeError):
        pickle.dumps(hers)
    hers.close()


def test_a_closed_client_opens_again_when_used(folder):
    client = LakehouseClient(folder, create=True)
    user = client.register("ada", "ada@example.org", PASSWORD)
    client.close()

    assert client.get_user(user.user_id).username == "ada"
    client.close()


def test_the_settings_decide_where_everything_is(tmp_path):
    settings = load_settings(
        lake_root=str(tmp_path / "somewhere"),
        accounts=tmp_path / "people",
        key_file=tmp_path / "kek.json",
        exports=tmp_path / "out",
        certificates=tmp_path / "proofs",
        scratch=tmp_path / "tmp" / "scratch",
    )
    now = datetime(2024, 3, 10, 12, tzinfo=UTC)
    with LakehouseClient.from_settings(settings, clock=lambda: now) as client:
        user = client.register("ada", "ada@example.org", PASSWORD)
        client.flush()

        assert user.created_at == now
        assert {path.name for path in tmp_path.iterdir()} >= {"somewhere", "people", "kek.json"}


def test_the_demonstration_ends_with_an_erasure_and_its_proof(folder, capsys):
    from rich.console import Console

    from hfthot_platform.interfaces.demo import erase_a_person

    with Installation(load_settings(lake_root=str(folder / "lake")), create=True) as installation:
        erase_a_person(Console(width=200), installation)

    said = capsys.readouterr().out
    assert "before: visitor." in said
    assert "afterwards: None, None" in said
    assert "nothing left" in said
    certificate = next((folder / "certificates").glob("*.json"))
    with LakehouseClient(folder, create=True) as client:
        assert client.verify_certificate(path=certificate).keep_history
        assert client.list_users() == []


@pytest.mark.parametrize("given", [{}, {"certificate": "{}", "path": "x"}, {"certificate": Path("x")}])
def test_a_certificate_is_given_as_text_or_as_a_path(client, given):
    with pytest.raises(BadRequestError):
        client.verify_certificate(**given)


@pytest.mark.soak
def test_a_text_never_has_a_file_read(client, register, tmp_path):
    path = client.delete_user_permanent(register("ada").user_id).save(tmp_path / "certificate.json")

    assert client.verify_certificate(path=path) == client.verify_certificate(path=str(path))
    with pytest.raises(CertificateError, match="not a certificate"):
        client.verify_certificate(str(path))


@pytest.mark.soak
def test_a_certificate_of_another_installation_is_refused(client, register, tmp_path):
    certificate = client.delete_user_permanent(register("ada").user_id)

    assert client.verify_certificate(certificate) == client.verify_certificate(certificate.text)
    with pytest.raises(CertificateError):
        client.verify_certificate(certificate.text.replace('"keep_history": true', '"keep_history": false'))
    with LakehouseClient(tmp_path / "other", create=True) as other, pytest.raises(CertificateError):
        other.verify_certificate(certificate)


def test_threads_share_a_client(client, register):
    from concurrent.futures import ThreadPoolExecutor

    user = register("ada")
    with ThreadPoolExecutor(8) as pool:
        list(pool.map(lambda _: client.update_query_count(user.user_id, "finnhub", 1), range(40)))

    assert client.get_query_stats(user.user_id, "finnhub").queries_today == 40


@pytest.mark.parametrize("when", [date(2024, 1, 1), "soon", None, 5])
def test_a_time_without_a_zone_is_refused(client, when):
    with pytest.raises(BadRequestError):
        client.read_at_timestamp("users", when)


@pytest.mark.parametrize("folder", [None, 5, float("nan"), b"data", [], LakehouseClient, "", "~nobody-of-this-name/x"])
def test_a_folder_that_is_no_path_is_refused(folder):
    with pytest.raises(BadRequestError, match="base_path"):
        LakehouseClient(folder)


def test_a_secret_may_be_given_as_text_or_as_secret(client, register):
    user = register("ada")
    token = client.login("ada", PASSWORD).token

    assert client.verify_token(token).user_id == client.verify_token(token.get_secret_value()).user_id == user.user_id
    assert isinstance(token, Secret)


def test_importing_the_package_loads_nothing_heavy():
    import subprocess
    import sys

    code = """
import sys
import hfthot_platform
assert "LakehouseClient" in hfthot_platform.__all__
assert not {"polars", "pyarrow", "sqlalchemy", "cryptography"} & set(sys.modules)
from hfthot_platform import Installation, LakehouseClient
assert not {"duckdb", "dagster", "alembic", "argon2", "numba", "matplotlib"} & set(sys.modules)
"""
    subprocess.run([sys.executable, "-c", code], check=True, timeout=60)
