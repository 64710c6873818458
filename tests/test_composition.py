"""An installation puts its parts together from its own settings and clock, and shares none of them."""

from __future__ import annotations

import os
import pickle
import signal
import subprocess
import sys
import threading
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path

import polars as pl
import psutil
import pytest

from hfthot_platform import Installation, LakehouseClient
from hfthot_platform.core.errors import (
    HfthotError,
    InvalidTokenError,
    LakeMissingError,
    SqlMemoryError,
    StoreMissingError,
    UnknownTableError,
)
from hfthot_platform.core.settings import Settings, load_settings
from hfthot_platform.domain.access.authorisation import Principal
from hfthot_platform.services.sql import query
from hfthot_platform.services.sql.gateway import SqlGateway
from resources.platform import Platform

PASSWORD = "correct horse battery"
READER = Principal("reader", "registered", "enterprise")
MODEL = """/*
description: A model of one installation alone.
owner: research
materialized: view
*/
SELECT symbol FROM market.closes
"""


def settings_in(folder: Path, **given: object) -> Settings:
    cheap = {"argon2_memory_kib": 8, "argon2_passes": 1, "argon2_lanes": 1}
    places = {"lake_root": str(folder / "lake"), "scratch": folder / "scratch", "landing": folder / "landing"}
    return load_settings(**cheap, **places, **given)


def one_close(symbol: str) -> pl.DataFrame:
    return pl.DataFrame(
        {"venue": ["us_equity"], "symbol": [symbol], "close": [1.0], "adjusted": [False], "source": ["vendor_history"]}
    ).with_columns(date=pl.date(2024, 1, 2), source_ref=pl.lit("here:1"))


@pytest.fixture(scope="module")
def two(tmp_path_factory):
    """Two installations with nothing in common: places, models, limits, clock, feeds."""
    folders = [tmp_path_factory.mktemp(name) for name in ("small", "large")]
    models = folders[1] / "models" / "marts"
    models.mkdir(parents=True)
    (models / "only_here.sql").write_text(MODEL)
    (folders[0] / "models").mkdir()
    small = Installation(
        settings_in(
            folders[0],
            sql_models=folders[0] / "models",
            sql_workers=1,
            sql_memory_mb=128,
            sql_deadline_seconds=30,
            duckdb_memory="200MB",
            duckdb_threads=1,
            feeds=[],
        ),
        lambda: datetime(2024, 1, 2, tzinfo=UTC),
        create=True,
    )
    large = Installation(
        settings_in(
            folders[1],
            sql_models=folders[1] / "models",
            sql_workers=3,
            sql_memory_mb=1024,
            sql_deadline_seconds=60,
            duckdb_memory="400MB",
            duckdb_threads=2,
            feeds=[{"kind": "sample"}],
        ),
        lambda: datetime(2030, 1, 2, tzinfo=UTC),
        create=True,
    )
    with small, large:
        for installation in (small, large):
            installation.install()
            installation.lake.table("market.closes").append(one_close("AAPL"))
        yield small, large


# -- two installations in one process share nothing ---------------------------------------------------------------


def gateway(installation: Installation) -> SqlGateway:
    return SqlGateway(installation.lake, READER, installation.gateway_pool, limits=installation.query_limits)


def kernels_limit(installation: Installation, of: int) -> int:
    """Return what the kernel allows the process of a statement that runs."""
    with gateway(installation).stream("SELECT range FROM range(10)") as stream:
        return int(psutil.Process(stream.process).rlimit(of)[0])


def test_each_runs_as_many_statements_at_once_as_its_own_settings_say(two):
    ready = []
    for installation in two:
        installation.gateway_pool.warm()
        facts = installation.gateway_pool.facts()
        children = {process.pid for process in psutil.Process(facts.spawner).children()}
        assert set(facts.ready) <= children
        ready.append((installation.gateway_pool.workers, len(facts.ready)))

    assert ready == [(1, 1), (3, 3)]


def test_each_has_processes_of_its_own(two):
    spawners, workers = [], []
    for installation in two:
        with gateway(installation).stream("SELECT 1") as stream:
            workers.append(stream.process)
        spawners.append(installation.gateway_pool.facts().spawner)

    assert len({*spawners, *workers, os.getpid()}) == 5


def test_the_kernel_holds_each_statement_to_its_own_installations_memory(two):
    small, large = two

    # What the statement may take, and what Python and Arrow need beside it.
    allowed = [(kernels_limit(installation, psutil.RLIMIT_AS) >> 20) - 192 for installation in two]
    assert 128 <= allowed[0] < 1024 <= allowed[1]
    greedy = "SELECT length(string_agg(repeat('x', 1000), '')) FROM range(250000)"
    with pytest.raises(SqlMemoryError):
        gateway(small).query(greedy)
    assert gateway(large).query(greedy).data.column(0).to_pylist() == [250_000_000]


def test_the_kernel_holds_each_statement_to_its_own_installations_deadline(two):
    # One second more than the deadline, at which the pool itself ends the process.
    assert [kernels_limit(installation, psutil.RLIMIT_CPU) for installation in two] == [31, 61]
    assert [installation.gateway_pool.limits.seconds for installation in two] == [30, 60]


def test_each_has_its_own_lake_models_and_views(two):
    small, large = two
    small.lake.table("market.closes").append(one_close("MSFT"))

    count = "SELECT count(*) AS n FROM market.closes"
    assert [query(installation.lake, count).frame["n"][0] for installation in two] == [2, 1]
    assert query(large.lake, "SELECT symbol FROM marts.only_here").frame["symbol"].to_list() == ["AAPL"]
    with pytest.raises(UnknownTableError):
        query(small.lake, "SELECT symbol FROM marts.only_here")
    assert "marts.only_here" in READER.visibility.readable(large.relations)
    assert "marts.only_here" not in READER.visibility.readable(small.relations)


def test_each_has_its_own_clock(two):
    assert [installation.lake.clock().year for installation in two] == [2024, 2030]
    assert [installation.store.clock().year for installation in two] == [2024, 2030]
    assert [installation.accounts.clock().year for installation in two] == [2024, 2030]


def test_each_has_its_own_accounts_keys_and_tokens(two):
    ours, theirs = (LakehouseClient.of(installation) for installation in two)
    ada = ours.register("ada", "ada@example.org", PASSWORD)
    key = ours.generate_hfthot_api_key(ada.user_id).key
    token = ours.login("ada", PASSWORD).token

    assert theirs.list_users() == []
    with pytest.raises(InvalidTokenError):
        theirs.verify_api_key(key)
    with pytest.raises(InvalidTokenError):
        theirs.verify_token(token)
    rings = [installation.accounts.vault.ring for installation in two]
    assert rings[0].current_id != rings[1].current_id
    assert two[0].store is not two[1].store


def test_each_has_its_own_limits_databases_and_feeds(two):
    def memory(installation: Installation) -> str:
        setting = "SELECT current_setting('memory_limit') AS m, current_setting('threads') AS t"
        connect = installation.databases.get_connection
        seen = {query(installation.lake, setting, connect=connect).frame.row(0) for _ in range(4)}
        assert len(seen) == 1, "a database that is opened beforehand has other limits"
        return str(seen.pop())

    assert memory(two[0]) != memory(two[1])
    assert "190.7 MiB" in memory(two[0])
    assert "381.4 MiB" in memory(two[1])
    assert [len(installation.feeds) for installation in two] == [0, 1]


def test_quotas_in_memory_are_counted_for_each_alone(two):
    caller = Principal("counted", "registered", "hobbyist")
    small, large = two

    assert [small.gateway_pool.count_use(caller.id, 2, 3600) for _ in range(2)] == [0, 0]
    assert small.gateway_pool.count_use(caller.id, 2, 3600) > 0
    assert large.gateway_pool.count_use(caller.id, 2, 3600) == 0


def test_a_client_answers_sql_within_the_settings_of_its_own_installation(two):
    for installation in two:
        client = LakehouseClient.of(installation)
        spawner = installation.gateway_pool.facts().spawner
        assert client.sql("SELECT 1 AS one").data["one"][0] == 1
        assert installation.gateway_pool.facts().spawner == spawner is not None
    with pytest.raises(SqlMemoryError):
        LakehouseClient.of(two[0]).sql("SELECT length(string_agg(repeat('x', 1000), '')) FROM range(250000)")


# -- the life of one ----------------------------------------------------------------------------------------------


def test_closing_ends_its_processes_its_store_and_its_accounts(tmp_path):
    with Installation(settings_in(tmp_path), create=True) as installation:
        accounts, store = installation.accounts, installation.store
        accounts.flush()
        installation.gateway_pool.warm()
        family = psutil.Process(installation.gateway_pool.facts().spawner)
        processes = [family, *family.children(recursive=True)]

    assert psutil.wait_procs(processes, timeout=60)[1] == []
    for part in (accounts.store, store):
        with pytest.raises(HfthotError, match="closed"):
            part.head()


def test_a_client_of_an_installation_leaves_it_open_and_one_with_its_own_closes_it(tmp_path):
    with Installation(settings_in(tmp_path), create=True) as installation:
        with LakehouseClient.of(installation) as client:
            assert client.list_users() == []
            accounts = installation.accounts
        assert installation.accounts is accounts
        assert accounts.store.head() is not None
    with LakehouseClient.from_settings(settings_in(tmp_path)) as client:
        store = client.installation.accounts.store
    with pytest.raises(HfthotError, match="closed"):
        store.head()


def test_one_part_is_made_for_all_threads(tmp_path):
    installation = Installation(settings_in(tmp_path), create=True)
    found: list[object] = []
    start = threading.Barrier(8)

    def ask() -> None:
        start.wait()
        found.append((installation.lake, installation.accounts, installation.gateway_pool))

    threads = [threading.Thread(target=ask) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    with installation:
        assert len(set(found)) == 1


def test_a_forked_child_makes_parts_of_its_own(tmp_path):
    with Installation(settings_in(tmp_path), create=True) as installation:
        pool = installation.gateway_pool
        child = os.fork()
        if child == 0:
            os._exit(0 if installation.gateway_pool is not pool else 1)
        assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
        assert installation.gateway_pool is pool


def status_of_child(work: Callable[[], object]) -> int:
    """Return how a forked child that does something ends: 0, or by which signal; one that hangs is ended."""
    child = os.fork()
    if child == 0:
        signal.alarm(60)
        work()
        os._exit(0)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


def test_a_forked_child_leaves_the_databases_that_the_parent_has_ready(tmp_path):
    with Installation(settings_in(tmp_path), create=True) as installation:
        installation.install()

        def ask() -> object:
            return query(installation.lake, "SELECT 1", connect=installation.databases.get_connection)

        for _ in range(3):
            ask()
        for work in (ask, installation.store.head, installation.close) * 2:
            assert status_of_child(work) == 0
        ask()


def test_a_forked_child_does_not_wait_for_a_part_that_a_thread_of_the_parent_is_making(tmp_path):
    begun, go_on = threading.Event(), threading.Event()

    class Slow(Installation):
        def read_models(self):
            begun.set()
            go_on.wait()
            return super().read_models()

    with Slow(settings_in(tmp_path), create=True) as installation:
        making = threading.Thread(target=lambda: installation.models)
        making.start()
        begun.wait()
        try:
            status = status_of_child(lambda: installation.storage)
        finally:
            go_on.set()
            making.join()

    assert status == 0


def test_looking_at_an_installation_that_is_not_there_makes_nothing(tmp_path):
    with Installation(settings_in(tmp_path)) as installation:
        assert not installation.exists()
        assert not installation.has_accounts
        with pytest.raises(LakeMissingError):
            installation.require()
        with pytest.raises(LakeMissingError):
            installation.lake.table("market.closes").scan()
        for part in ("store", "accounts"):
            with pytest.raises(StoreMissingError):
                getattr(installation, part)
    assert not any(tmp_path.iterdir())


def test_installing_makes_what_is_not_there_and_leaves_the_rest(tmp_path):
    with Installation(settings_in(tmp_path)) as installation:
        installation.install()
        keys = (tmp_path / "keys/kek.json").read_bytes()
        installation.install()
        assert installation.exists()
        assert installation.lake.table("market.closes").version() is None
    assert (tmp_path / "keys/kek.json").read_bytes() == keys


def test_by_default_it_is_the_configured_one(tmp_path, monkeypatch):
    monkeypatch.setenv("HFTHOT_LAKE_ROOT", str(tmp_path / "here"))

    with Installation.open() as installation:
        assert installation.settings.lake_root == str(tmp_path / "here")


def test_the_resource_of_the_assets_is_an_installation_whose_lake_begins_with_its_first_writer(tmp_path):
    with Platform(settings_in(tmp_path)) as platform:
        assert isinstance(platform, Installation)
        assert platform.lake.table("market.closes").scan().collect().height == 0


def test_it_does_not_go_to_another_process(tmp_path):
    with pytest.raises(TypeError, match="open one in the other process"):
        pickle.dumps(Installation(settings_in(tmp_path)))


HEAVY = ("polars", "deltalake", "duckdb", "sqlalchemy", "pyarrow", "sqlglot", "dagster")


def test_making_one_loads_nothing_heavy():
    program = (
        "import sys; from hfthot_platform import Installation; installation = Installation.open(); "
        f"print([name for name in {HEAVY} if name in sys.modules])"
    )

    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)

    assert done.stdout.strip() == "[]"
