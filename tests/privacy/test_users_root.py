"""User tables under a root of their own: an erasure reads them, and what is not market data, and nothing else."""

from __future__ import annotations

import pytest

from hfthot_platform import Installation, LakehouseClient
from hfthot_platform.core.errors import ConfigError, ErasureUnverifiedError
from hfthot_platform.domain.contracts.accounts import USER_TABLES
from hfthot_platform.services.privacy.erasure import run_erasure
from hfthot_platform.services.privacy.erasure_requests import request_erasure
from hfthot_platform.services.publication.chain import verify_chain
from hfthot_platform.services.publication.publisher import flush
from hfthot_platform.storage.folders import folder_at
from hfthot_platform.storage.lakehouse import Lakehouse
from hfthot_platform.storage.lakehouse.storage import Storage
from tests.object_store import serving
from tests.privacy.people import YAN, ZOE, register


@pytest.fixture
def apart(settings, tmp_path):
    return settings.model_copy(update={"users_root": tmp_path / "people"})


@pytest.fixture
def here(apart, clock):
    with Installation.open(apart, clock) as installation:
        installation.install()
        register(installation.accounts, YAN)
        yield installation


@pytest.fixture
def zoe(here):
    return register(here.accounts, ZOE)


def erased(installation, user):
    accounts = installation.accounts
    return run_erasure(accounts, installation.lake, request_erasure(accounts, user.user_id))


def test_the_user_tables_are_there_and_the_others_in_the_lake(here, zoe, apart):
    flush(here.store, here.lake)

    for contract in USER_TABLES:
        assert (apart.users_root / contract.name / "_delta_log").is_dir()
        assert not (apart.lake_folder() / contract.name).exists()
    assert (apart.lake_folder() / "ops" / "incidents" / "_delta_log").is_dir()
    assert {table.contract.name for table in here.lake.written_tables()} >= {"users", "audit_log", "ops.incidents"}
    assert here.lake.table("users").scan().collect().height == 2
    assert verify_chain(here.lake, here.store).intact


def test_untrusted_sql_reads_both_roots(here, zoe):
    flush(here.store, here.lake)
    here.lake.table("ops.ingest_files").create()

    with LakehouseClient.of(here) as client:
        found = client.sql(
            "SELECT (SELECT count(*) FROM users) AS people, (SELECT count(*) FROM ops.ingest_files) AS files"
        )

    assert found.data.rows() == [(2, 0)]


def test_market_tables_are_not_read_and_the_certificate_says_so(here, zoe, apart):
    bars = apart.lake_folder() / "market" / "bars"
    bars.mkdir(parents=True)
    (bars / "part.parquet").write_text(ZOE.email)

    certificate = erased(here, zoe)

    (said,) = [limit for limit in certificate.limits if limit.startswith("Tables of market data were not read")]
    assert "market.bars" in said
    assert "users" not in said


@pytest.mark.soak
@pytest.mark.parametrize("folder", ["quarantine/users", "ops/notes", "models/of_people"])
def test_everything_else_in_the_lake_is(here, zoe, apart, folder):
    place = apart.lake_folder() / folder
    place.mkdir(parents=True)
    (place / "part.txt").write_text(ZOE.email)

    with pytest.raises(ErasureUnverifiedError, match=rf"lake 2: {folder}/part\.txt"):
        erased(here, zoe)


@pytest.mark.soak
def test_on_an_object_store_market_data_is_not_even_listed(settings, clock):
    with serving() as server:
        changes = {
            "lake_root": "s3://lake/market",
            "users_root": "s3://lake/people",
            "storage_options": server.options,
            "exports": "s3://lake/exports",
            "certificates": "s3://lake/certificates",
        }
        given = type(settings)(**{name: value for name, value in settings if name not in changes}, **changes)
        with Installation.open(given, clock) as here:
            here.install()
            zoe = register(here.accounts, ZOE)
            flush(here.store, here.lake)
            lake = folder_at("s3://lake/market", server.options, "lake_root")
            for number in range(20):
                lake.put(f"market/bars/date=2024-01-01/{number}.parquet", ZOE.email.encode())
            server.requests()

            certificate = erased(here, zoe)

            requests = [request.path for request in server.requests()]
            assert not [path for path in requests if "/market/market/bars/" in path]
            assert certificate.verification["places"]["lake"]["files"] > 20
            assert any("market.bars" in limit for limit in certificate.limits)


@pytest.mark.parametrize(
    ("lake", "users"),
    [("/data/lake", "s3://bucket/people"), ("/data/lake", "/data/lake/people"), ("s3://b/x", "s3://b/x")],
)
def test_roots_that_are_not_apart_are_refused(lake, users):
    with pytest.raises(ConfigError, match="users_root"):
        Storage.parse(lake, {}, users)


def test_without_the_setting_everything_is_where_it_was(accounts, lake: Lakehouse, settings):
    register(accounts, ZOE)
    flush(accounts.store, lake)

    assert (settings.lake_folder() / "users" / "_delta_log").is_dir()
