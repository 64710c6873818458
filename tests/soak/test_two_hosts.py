"""Two application hosts on one PostgreSQL and one object store, with nothing else in common.

Each host is a process with an `Installation` of its own: its own scratch, the same URLs and keys, `hosts = 2`.  They
register at once while the server ends their connections, publish at once, and count on one quota.
"""

from __future__ import annotations

import base64
import contextlib
import json
import subprocess
import sys
import threading
from pathlib import Path

import psycopg
import pytest

from hfthot_platform import Installation
from hfthot_platform.core.errors import KeySourceError
from hfthot_platform.core.settings import load_settings
from hfthot_platform.services.publication.chain import verify_chain
from hfthot_platform.services.publication.publisher import Publisher
from tests import object_store, postgres
from tests.accounts import crowd

pytestmark = pytest.mark.soak

REPOSITORY = Path(__file__).resolve().parents[2]
#: What a host does.  It reports what was acknowledged, and the class of every error that came.
HOST = """
import json, sys
from collections import Counter
from hfthot_platform import Installation
from hfthot_platform.core.errors import *
from hfthot_platform.core.settings import load_settings
from hfthot_platform.services.publication.publisher import Publisher
from tests.accounts.crowd import PASSWORD

asked = json.load(sys.stdin)
errors = Counter()
done = []

def register(accounts, names):
    for name in names:
        unsure = False
        for _ in range(50):
            try:
                accounts.register(name, f"{name}@example.org", PASSWORD)
            except StoreError as error:
                errors[type(error).__name__] += 1
                unsure = True  # the connection may have been lost after the commit
            except DuplicateAccountError:
                assert unsure, f"{name} was refused, and nobody registered it before"
                done.append(name)
                break
            else:
                done.append(name)
                break

def publish(installation, upto):
    publisher = Publisher(installation.store, installation.lake)
    while publisher.reached() < upto:
        try:
            published = publisher.publish(limit=7)
            done.extend(range(published.first_seq, published.last_seq + 1))
        except (StoreError, CommitConflictError, LockTimeoutError) as error:
            errors[type(error).__name__] += 1

def count(accounts, user_id, times):
    for _ in range(times):
        try:
            accounts.update_query_count(user_id, "kraken")
            done.append(1)
        except QuotaExceededError as error:
            errors[type(error).__name__] += 1

with Installation.open(load_settings(**asked["settings"])) as host:
    accounts = host.accounts
    print("ready", flush=True)
    if asked["task"] == "register":
        register(accounts, asked["names"])
    elif asked["task"] == "publish":
        publish(host, asked["upto"])
    else:
        count(accounts, asked["user_id"], asked["times"])
    print(json.dumps({"done": done, "errors": dict(errors)}), flush=True)
"""


def key(number):
    return f"k{number}:{base64.b64encode(bytes([number]) * 32).decode()}"


@pytest.fixture(scope="module")
def store_server():
    with object_store.serving() as server:
        yield server


@pytest.fixture
def given(request, tmp_path, store_server):
    """What every host is told; each has a scratch folder of its own."""
    below = f"s3://lake/{request.node.name[:50]}"

    def settings(host, **other):
        shared = {
            "hosts": 2,
            "lake_root": f"{below}/lake",
            "landing": f"{below}/landing",
            "storage_options": store_server.options,
            "accounts_url": url,
            "key_source": "environment",
            "keys": key(1),
            "scratch": str(tmp_path / host),
            "argon2_memory_kib": 8,
            "argon2_passes": 1,
            "argon2_lanes": 1,
            "feeds": [],
        }
        return shared | other

    url = str(postgres.server().database())
    return settings


@pytest.fixture
def installation(given):
    with Installation.open(load_settings(**given("here"))) as here:
        here.install()
        yield here


def start(given, host, task, **asked):
    process = subprocess.Popen(
        [sys.executable, "-c", HOST], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, cwd=REPOSITORY
    )
    process.stdin.write(json.dumps({"settings": given(host), "task": task, **asked}))
    process.stdin.close()
    return process


def reports(processes, meanwhile=contextlib.nullcontext):
    """Let processes that are ready work to their end, and return what they report."""
    for process in processes:
        assert process.stdout.readline() == "ready\n"
    with meanwhile():
        found = [json.loads(process.stdout.readline()) for process in processes]
    for process in processes:
        assert process.wait(60) == 0
        process.stdout.close()
    return found


@contextlib.contextmanager
def connections_that_are_lost(url):
    """End every connection of the platform to a database, again and again, while the block runs."""
    stop = threading.Event()
    ended = []

    def end_them():
        with psycopg.connect(url.replace("+psycopg", ""), autocommit=True) as connection:
            while not stop.wait(0.15):
                rows = connection.execute(
                    "SELECT pg_terminate_backend(pid) FROM pg_stat_activity "
                    "WHERE datname = current_database() AND pid <> pg_backend_pid() AND application_name = 'hfthot'"
                ).fetchall()
                ended.extend(rows)

    thread = threading.Thread(target=end_them)
    thread.start()
    try:
        yield ended
    finally:
        stop.set()
        thread.join()


def test_nothing_acknowledged_is_lost_while_the_server_ends_connections(installation, given):
    names = {host: [f"{host}{number}" for number in range(300)] for host in ("left", "right")}
    url = given("here")["accounts_url"]
    ended = []

    @contextlib.contextmanager
    def losing():
        with connections_that_are_lost(url) as lost:
            yield
        ended.extend(lost)

    found = reports([start(given, host, "register", names=names[host]) for host in names], losing)

    assert len(ended) > 20, "connections were ended"
    assert {error for report in found for error in report["errors"]} == {"StoreError"}
    assert [sorted(report["done"]) for report in found] == [sorted(mine) for mine in names.values()]
    with Installation.open(load_settings(**given("afterwards"))) as afterwards:
        accounts = afterwards.accounts
        users, after = [], None
        while page := accounts.list_users(limit=1000, after=after):
            users += page
            after = page[-1].user_id
        assert sorted(user.username for user in users) == sorted(name for mine in names.values() for name in mine)
        crowd.check_log(accounts)


def test_two_publishers_publish_each_entry_once_whatever_connection_is_lost(installation, given):
    for number in range(60):
        installation.accounts.register(f"user{number}", f"user{number}@example.org", crowd.PASSWORD)
    head = installation.store.head()[0]
    url = given("here")["accounts_url"]

    @contextlib.contextmanager
    def losing():
        with connections_that_are_lost(url):
            yield

    found = reports([start(given, host, "publish", upto=head) for host in ("left", "right")], losing)

    published = [seq for report in found for seq in report["done"]]
    assert len(published) == len(set(published)), "no entry was published twice"
    assert {error for report in found for error in report["errors"]} <= {
        "StoreError",
        "CommitConflictError",
        "LockTimeoutError",
    }
    with Installation.open(load_settings(**given("afterwards"))) as afterwards:
        lake = afterwards.lake
        assert Publisher(afterwards.store, lake).behind() == 0
        assert verify_chain(lake, afterwards.store).intact
        log = lake.table("audit_log").scan().collect()
        assert sorted(log["seq"].to_list()) == list(range(1, head + 1))
        assert lake.table("users").scan().collect().height == 60


def test_one_quota_is_counted_over_both(installation, given):
    user = installation.accounts.register("alice", "alice@example.org", crowd.PASSWORD)
    own = {"api_key": "k", "queries_limit": 150, "window_seconds": 31_622_400}
    installation.accounts.save_api_keys(user.user_id, {"kraken": own})

    found = reports([start(given, host, "count", user_id=user.user_id, times=100) for host in ("left", "right")])

    assert sum(len(report["done"]) for report in found) == 150
    assert sum(report["errors"]["QuotaExceededError"] for report in found if report["errors"]) == 50


def test_a_host_with_another_key_is_refused_and_harms_nothing(installation, given):
    installation.accounts.register("alice", "alice@example.org", crowd.PASSWORD)

    with Installation.open(load_settings(**given("other", keys=key(2)))) as other, pytest.raises(KeySourceError):
        _ = other.accounts

    assert installation.accounts.find_user(username="alice").email == "alice@example.org"


def test_a_key_file_is_not_made_for_accounts_that_have_keys(installation, given, tmp_path):
    path = tmp_path / "keys" / "kek.json"
    settings = load_settings(**given("other", hosts=1, key_source="file", key_file=path, keys=None))

    with Installation.open(settings, create=True) as other, pytest.raises(KeySourceError):
        _ = other.accounts

    assert not path.exists()
