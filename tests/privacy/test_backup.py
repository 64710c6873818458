"""Rehearsal of the restore in `deploy/README.md`: the store by its dump, the lake by a copy, both put up elsewhere."""

from __future__ import annotations

import os
import shutil
import subprocess

import obstore
import pytest
from obstore.store import S3Store
from pydantic import SecretStr

from hfthot_platform.core.errors import ErasedSubjectError
from hfthot_platform.services.accounts.accounts import Accounts
from hfthot_platform.services.privacy.erasure import run_erasure
from hfthot_platform.services.privacy.erasure_requests import request_erasure
from hfthot_platform.services.privacy.restore import restore
from hfthot_platform.services.publication.chain import verify_chain
from hfthot_platform.services.publication.publisher import flush
from hfthot_platform.storage.lakehouse import Lakehouse
from tests import postgres
from tests.conftest import REPOSITORY
from tests.object_store import BUCKET, serving
from tests.privacy.people import YAN, ZOE, register

pytestmark = [
    pytest.mark.soak,
    pytest.mark.skipif(shutil.which("pg_dump") is None, reason="pg_dump is not installed (make system)"),
]


@pytest.fixture(scope="module")
def server():
    with serving() as started:
        yield started


def store_backup(action, file, url):
    environment = os.environ | {"HFTHOT_ACCOUNTS_URL": url}
    script = REPOSITORY / "deploy" / "store-backup"
    return subprocess.run([script, action, file], env=environment, capture_output=True, text=True, check=False)


def bucket(server):
    return S3Store(
        BUCKET,
        endpoint=server.url,
        access_key_id=server.options["AWS_ACCESS_KEY_ID"],
        secret_access_key=server.options["AWS_SECRET_ACCESS_KEY"],
        region="us-east-1",
        client_options={"allow_http": True},
    )


def copy_below(server, source, target):
    store = bucket(server)
    names = [entry["path"] for batch in obstore.list(store, source + "/") for entry in batch]
    for name in sorted(names, key=lambda name: "/_delta_log/" in name):  # data files before the logs that name them
        obstore.copy(store, name, target + name.removeprefix(source))
    return len(names)


def test_a_restored_installation_has_rows_chain_and_the_erasures_made_since(settings, clock, server, tmp_path):
    def installed(url, root):
        places = {name: f"s3://{BUCKET}/shared/{name}" for name in ("exports", "certificates", "reports")}
        changed = {"accounts_url": SecretStr(url), "lake_root": f"s3://{BUCKET}/{root}", **places}
        options = {"storage_options": {name: SecretStr(value) for name, value in server.options.items()}}
        return settings.model_copy(update=changed | options)

    url, dump = postgres.server().database(), tmp_path / "store.dump"
    before = installed(url, "before")
    lake = Lakehouse.open(before.lake_root, server.options, clock=clock, new=True)
    with Accounts.open(before, clock) as accounts:
        zoe, yan = register(accounts, ZOE), register(accounts, YAN)
        flush(accounts.store, lake)
        published = verify_chain(lake, accounts.store).entries
        saved = store_backup("save", dump, url)
        assert saved.returncode == 0, saved.stderr
        assert dump.stat().st_mode & 0o077 == 0
        assert ZOE.email.encode() not in dump.read_bytes()
        assert copy_below(server, "before", "after") > 5
        run_erasure(accounts, lake, request_erasure(accounts, zoe.user_id))

    kept = tmp_path / "kept" / "kek.json"
    kept.parent.mkdir(mode=0o700)
    shutil.copy2(settings.key_file, kept)
    settings.key_file.unlink()  # nothing is left of the first host's keys but the copy
    other = postgres.server().database()
    done = store_backup("restore", dump, other)
    assert done.returncode == 0, done.stderr
    after = installed(other, "after").model_copy(update={"key_file": kept})
    copy = Lakehouse.open(after.lake_root, server.options, clock=clock)
    with Accounts.open(after, clock) as accounts:
        assert accounts.get_user(zoe.user_id).email == ZOE.email  # the backup is from before her erasure
        result = restore(accounts, copy, accept_loss=True)

        assert list(result.erased.values()) == ["done"]
        assert result.log.entries > published
        assert verify_chain(copy, accounts.store).intact
        assert accounts.get_user(yan.user_id).email == YAN.email
        with pytest.raises(ErasedSubjectError):
            accounts.get_user(zoe.user_id)


def test_a_dump_that_is_cut_off_leaves_the_database_as_it_was(settings, clock, tmp_path):
    url, dump = postgres.server().database(), tmp_path / "store.dump"
    with Accounts.open(settings.model_copy(update={"accounts_url": SecretStr(url)}), clock) as accounts:
        user = register(accounts, YAN)
    assert store_backup("save", dump, url).returncode == 0
    dump.write_bytes(dump.read_bytes()[: dump.stat().st_size // 2])

    assert store_backup("restore", dump, url).returncode != 0

    with Accounts.open(settings.model_copy(update={"accounts_url": SecretStr(url)}), clock) as accounts:
        assert accounts.get_user(user.user_id).email == YAN.email
