"""The same with PostgreSQL as operational store: read through SQL, its planner's samples included."""

from __future__ import annotations

import pytest
import sqlalchemy as sa
from sqlalchemy.pool import NullPool

from hfthot_platform.core.errors import ErasedSubjectError, ErasureUnverifiedError
from hfthot_platform.services.accounts.accounts import Accounts
from hfthot_platform.services.privacy.certificate import verify
from hfthot_platform.services.privacy.erasure import public_key, run_erasure
from hfthot_platform.services.privacy.erasure_requests import request_erasure
from hfthot_platform.services.privacy.export import export_user_data
from hfthot_platform.services.privacy.proof.scan import Needle, SqlDatabase, scan
from hfthot_platform.services.privacy.rotation import rotate_keys
from hfthot_platform.services.privacy.searched_places import places_of
from hfthot_platform.services.publication.chain import verify_chain
from hfthot_platform.services.publication.publisher import flush
from tests import postgres
from tests.privacy.people import YAN, ZOE, expire, register

pytestmark = pytest.mark.soak


@pytest.fixture
def accounts(settings, clock):
    url = postgres.server().database()
    from pydantic import SecretStr

    with Accounts.open(settings.model_copy(update={"accounts_url": SecretStr(str(url))}), clock) as opened:
        yield opened


@pytest.fixture
def zoe(accounts, lake):
    user = register(accounts, ZOE)
    register(accounts, YAN)
    flush(accounts.store, lake)
    return user


def database(accounts):
    return SqlDatabase("store", sa.create_engine(accounts.store.url, poolclass=NullPool))


def test_an_erasure_is_proven(accounts, lake, zoe, settings, tmp_path):
    export_user_data(accounts, lake, zoe.user_id)
    # What an unlucky planner has sampled must be gone too.
    with database(accounts).engine.connect() as connection:
        connection.execution_options(isolation_level="AUTOCOMMIT").execute(sa.text("ANALYZE"))
    request_id = request_erasure(accounts, zoe.user_id)

    certificate = run_erasure(accounts, lake, request_id)

    assert verify(settings.certificates / f"{request_id}.json", public_key(accounts)) == certificate
    assert any("PostgreSQL" in limit for limit in certificate.limits)
    assert certificate.verification["places"]["store"]["files"] > 15
    with pytest.raises(ErasedSubjectError):
        accounts.get_user(zoe.user_id)
    needles = [Needle("value", value) for value in (*ZOE.values, zoe.user_id)]
    report = scan(needles, places_of(accounts, lake))
    assert [str(finding) for finding in report.findings] == []
    assert verify_chain(lake, accounts.store).intact


def test_a_value_in_a_table_is_found_and_the_canary_is_dropped(accounts, zoe, tmp_path):
    place = database(accounts)
    with place.engine.begin() as connection:
        connection.execute(sa.text("CREATE TABLE notes (body text)"))
        connection.execute(sa.text("INSERT INTO notes VALUES (:body)"), {"body": f"line\nfrom\t{ZOE.email}\\"})

    report = scan([Needle("email", ZOE.email), Needle("user_id", zoe.user_id)], [place])

    assert {(finding.file, finding.kind) for finding in report.findings} >= {("notes", "email"), ("users", "user_id")}
    with place.engine.connect() as connection:
        tables = connection.execute(sa.text("SELECT tablename FROM pg_tables WHERE schemaname = 'public'")).scalars()
        assert not [table for table in tables if "canary" in table]


def test_a_trace_in_the_database_stops_the_certificate(accounts, lake, zoe):
    with database(accounts).engine.begin() as connection:
        connection.execute(sa.text("CREATE TABLE notes (body text)"))
        connection.execute(sa.text("INSERT INTO notes VALUES (:body)"), {"body": ZOE.email})

    with pytest.raises(ErasureUnverifiedError, match="store: notes"):
        run_erasure(accounts, lake, request_erasure(accounts, zoe.user_id))


def test_retention_and_rotation(accounts, lake, zoe, clock):
    assert rotate_keys(accounts).subject_keys == 8
    clock.forward(days=200)

    report = expire(accounts, lake)

    assert report.audit_rows > 5
    assert report.sessions == 2
    assert verify_chain(lake, accounts.store).intact
    assert accounts.get_user(zoe.user_id).email == ZOE.email
