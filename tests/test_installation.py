"""A place without an installation is an error that names it, and only what says so makes accounts and keys."""

from __future__ import annotations

from pathlib import Path

import polars as pl
import pytest
from typer.testing import CliRunner

from hfthot_platform import Lakehouse, LakehouseClient
from hfthot_platform.core.errors import KeySourceError, LakeMissingError, StoreMissingError
from hfthot_platform.core.settings import load_settings
from hfthot_platform.interfaces.cli import app
from hfthot_platform.research import load_dataset
from hfthot_platform.services.accounts.accounts import Accounts
from hfthot_platform.storage.operational.store import Store
from hfthot_platform.storage.vault import KeyRing

CHEAP = {"argon2_memory_kib": 8, "argon2_passes": 1, "argon2_lanes": 1}


@pytest.fixture
def elsewhere(tmp_path, monkeypatch) -> Path:
    """A working folder with nothing in it."""
    folder = tmp_path / "elsewhere"
    folder.mkdir()
    monkeypatch.chdir(folder)
    for name in ("LAKE_ROOT", "ACCOUNTS", "KEY_FILE", "LANDING", "SCRATCH"):
        monkeypatch.delenv(f"HFTHOT_{name}", raising=False)
    return folder


def hfthot(*arguments: str):
    return CliRunner().invoke(app, list(arguments))


def one_close() -> pl.DataFrame:
    return pl.DataFrame(
        {"venue": ["us_equity"], "symbol": ["AAPL"], "close": [1.0], "adjusted": [False], "source": ["vendor_history"]}
    ).with_columns(date=pl.date(2024, 1, 2), source_ref=pl.lit("here:1"))


@pytest.mark.parametrize(
    "command",
    [
        ("sql", "SELECT count(*) FROM market.trades"),
        ("tables",),
        ("history", "market.trades"),
        ("describe", "market.trades"),
        ("check", "market.trades"),
        ("diff", "market.trades", "0", "1"),
        ("restore", "market.trades", "0"),
        ("maintain",),
        ("sql", "run"),
        ("ingest", "closes.csv"),
        ("ingest", "--landing"),
        ("ingest", "--feed", "sample", "--table", "market.closes", "--from", "2022-12-01"),
        ("ingest-users", "events.jsonl"),
        ("derive", "market.closes", "2022-12-01", "2022-12-02"),
    ],
    ids=" ".join,
)
def test_a_command_in_the_wrong_folder_names_the_absolute_path_that_it_looked_at(elsewhere, command):
    done = hfthot(*command)

    assert done.exit_code == 2
    assert f"there is no lake at {elsewhere / 'data/lake'}" in done.stderr
    assert "HFTHOT_LAKE_ROOT" in done.stderr
    assert not any(elsewhere.iterdir())


@pytest.mark.parametrize("command", [("privacy", "public-key"), ("privacy", "retention")], ids=" ".join)
def test_a_command_about_people_makes_neither_keys_nor_a_store_in_passing(elsewhere, command):
    done = hfthot(*command)

    assert done.exit_code == 2
    assert str(elsewhere / "data") in done.stderr
    assert not any(elsewhere.iterdir())


def test_reading_in_python_tells_a_missing_lake_from_an_empty_table(elsewhere):
    lake = Lakehouse.open("data/lake")
    readings = (
        lambda: lake.table("market.closes").scan(),
        lambda: lake.table("market.closes").version(),
        lambda: lake.table("market.closes").versions(),
        lambda: load_dataset("SPX", interval="1d"),
        lambda: LakehouseClient("data"),
        lambda: LakehouseClient.from_settings(load_settings()),
    )

    for reading in readings:
        with pytest.raises(LakeMissingError, match=str(elsewhere / "data" / "lake")):
            reading()
    assert not any(elsewhere.iterdir())


def test_writing_makes_the_lake_and_what_nobody_wrote_reads_as_empty_then(elsewhere):
    lake = Lakehouse.open("data/lake")

    lake.table("market.closes").append(one_close())

    assert lake.table("market.closes").scan().collect().height == 1
    assert lake.table("market.trades").scan().collect().height == 0
    assert Lakehouse.open("data/lake").table("market.trades").version() is None
    assert sorted(entry.name for entry in (elsewhere / "data").iterdir()) == ["lake"]


def test_a_lake_without_accounts_serves_its_market_data_and_makes_no_accounts(elsewhere):
    Lakehouse.open("data/lake").table("market.closes").append(one_close())

    with LakehouseClient("data") as client:
        assert client.market("AAPL").closes().collect().height == 1
        with pytest.raises(StoreMissingError, match="hfthot init"):
            client.list_users()
    with pytest.raises(StoreMissingError, match=str(elsewhere)):
        LakehouseClient("data", api_key="hft_free_" + "x" * 40)
    assert sorted(entry.name for entry in (elsewhere / "data").iterdir()) == ["lake"]


def test_init_makes_lake_accounts_keys_and_landing_and_leaves_them_alone_the_next_time(elsewhere):
    assert hfthot("init").exit_code == 0
    keys = (elsewhere / "data/keys/kek.json").read_bytes()

    again = hfthot("init")

    assert again.exit_code == 0
    assert str(elsewhere / "data/accounts") in again.stdout
    assert (elsewhere / "data/keys/kek.json").read_bytes() == keys
    assert (elsewhere / "data/landing").is_dir()
    assert hfthot("sql", "SELECT count(*) FROM market.trades").exit_code == 0
    with LakehouseClient("data") as client:
        assert client.list_users() == []


@pytest.mark.parametrize("make", [LakehouseClient.create, lambda folder: LakehouseClient(folder, create=True)])
def test_a_client_makes_an_installation_where_it_is_told_to(elsewhere, make):
    with make("data") as client:
        assert client.list_users() == []

    with LakehouseClient("data") as client:
        assert client.list_users() == []


def test_a_folder_that_is_named_absolutely_is_made_with_its_first_account_and_by_nothing_else(tmp_path, monkeypatch):
    for name, value in CHEAP.items():
        monkeypatch.setenv(f"HFTHOT_{name.upper()}", str(value))
    with LakehouseClient(tmp_path / "here") as client:
        with pytest.raises(StoreMissingError):
            client.list_users()
        with pytest.raises(LakeMissingError):
            client.market("AAPL").closes().collect()
        assert not any(tmp_path.iterdir())

        ada = client.register("ada", "ada@example.org", "correct horse battery")

    with LakehouseClient(tmp_path / "here") as again:
        assert again.get_user(ada.user_id).username == "ada"


def test_settings_that_name_absolute_places_are_word_enough(tmp_path):
    settings = load_settings(lake_root=str(tmp_path / "lake"), accounts=tmp_path / "accounts", **CHEAP)

    with LakehouseClient.from_settings(settings) as client:
        assert client.list_users() == []


@pytest.mark.parametrize(
    "given",
    [{}, {"lake_root": "{0}/lake"}, {"accounts": "{0}/accounts"}, {"lake_root": "lake", "accounts": "accounts"}],
    ids=str,
)
def test_settings_from_a_file_the_environment_or_a_working_folder_are_not(elsewhere, monkeypatch, given):
    monkeypatch.setenv("HFTHOT_ACCOUNTS", str(elsewhere / "accounts"))
    monkeypatch.setenv("HFTHOT_LAKE_ROOT", str(elsewhere / "lake"))
    settings = load_settings(**{name: value.format(elsewhere) for name, value in given.items()})

    with pytest.raises(LakeMissingError):
        LakehouseClient.from_settings(settings)
    with pytest.raises(StoreMissingError):
        Accounts.open(settings)
    with pytest.raises(StoreMissingError):
        Store.open(settings)
    with pytest.raises(KeySourceError, match="no key-encryption keys"):
        KeyRing.open(settings)
    assert not any(elsewhere.iterdir())


def test_keys_that_are_lost_are_never_replaced_by_new_ones(elsewhere):
    LakehouseClient.create("data").close()
    (elsewhere / "data/keys/kek.json").unlink()

    with pytest.raises(KeySourceError, match="backup"):
        LakehouseClient.create("data")
    assert hfthot("init").exit_code == 1
    assert not (elsewhere / "data/keys/kek.json").exists()


@pytest.mark.parametrize("command", [("init",), ("ingest", "--landing"), ("demo",)], ids=" ".join)
def test_a_landing_folder_that_is_a_file_is_told_before_anything_is_made(elsewhere, command):
    (elsewhere / "data").mkdir()
    (elsewhere / "data/landing").write_text("a file")

    done = hfthot(*command)

    assert done.exit_code == 2
    assert f"the landing folder {elsewhere / 'data/landing'} is not a folder" in done.stderr
    assert [entry.name for entry in (elsewhere / "data").iterdir()] == ["landing"]
