"""Settings come from arguments, the environment and one TOML file, in this order, and keep secrets to themselves."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from pydantic import ValidationError

from hfthot_platform.errors import ConfigError
from hfthot_platform.settings import (
    ArchiveFeedSettings,
    CcxtFeedSettings,
    SampleFeedSettings,
    SimulatedFeedSettings,
    load_settings,
)


@pytest.fixture(autouse=True)
def elsewhere(monkeypatch, tmp_path):
    import os

    for name in [name for name in os.environ if name.startswith("HFTHOT_")]:
        monkeypatch.delenv(name)
    monkeypatch.chdir(tmp_path)


def test_the_defaults_work_offline_from_a_fresh_clone():
    settings = load_settings()

    assert settings.lake_root == "data/lake"
    assert settings.feeds == (SampleFeedSettings(), SimulatedFeedSettings())
    assert settings.plain_storage_options() == {}


def test_the_environment_wins_over_the_file_and_arguments_over_both(monkeypatch, tmp_path):
    (tmp_path / "hfthot.toml").write_text('lake_root = "from-file"\nuniverse_size = 5\nstale_after_hours = 12\n')
    monkeypatch.setenv("HFTHOT_LAKE_ROOT", "from-environment")
    monkeypatch.setenv("HFTHOT_UNIVERSE_SIZE", "6")

    settings = load_settings(universe_size=7)

    assert (settings.stale_after_hours, settings.lake_root, settings.universe_size) == (12, "from-environment", 7)


def test_another_file_can_be_named(monkeypatch, tmp_path):
    (tmp_path / "other.toml").write_text('lake_root = "s3://bucket/lake"\n')
    monkeypatch.setenv("HFTHOT_CONFIG", str(tmp_path / "other.toml"))

    assert load_settings().lake_root == "s3://bucket/lake"


def test_feeds_are_told_apart_by_kind(tmp_path):
    (tmp_path / "hfthot.toml").write_text(
        '[[feeds]]\nkind = "binance_archive"\nsymbols = ["BTCUSDT"]\n'
        '[[feeds]]\nkind = "ccxt"\nexchange = "kraken"\nsymbols = ["BTC/USD"]\napi_secret = "hush"\n'
    )

    archive, ccxt = load_settings().feeds

    assert isinstance(archive, ArchiveFeedSettings)
    assert archive.symbols == ("BTCUSDT",)
    assert isinstance(ccxt, CcxtFeedSettings)
    assert ccxt.api_secret.get_secret_value() == "hush"


def test_secrets_show_neither_in_a_repr_nor_in_a_dump(monkeypatch):
    monkeypatch.setenv("HFTHOT_STORAGE_OPTIONS", json.dumps({"AWS_SECRET_ACCESS_KEY": "hush"}))
    monkeypatch.setenv("HFTHOT_NOTIFY", "https://hooks.example/hush")

    settings = load_settings()

    assert settings.plain_storage_options() == {"AWS_SECRET_ACCESS_KEY": "hush"}
    assert "hush" not in repr(settings) + str(settings) + settings.model_dump_json()


def test_settings_do_not_change():
    with pytest.raises(ValidationError, match="frozen"):
        load_settings().lake_root = "elsewhere"


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("HFTHOT_UNIVERSE_SIZE", "hush"),
        ("HFTHOT_UNIVERSE_SIZE", "0"),
        ("HFTHOT_LANDING_SETTLE_SECONDS", "-1"),
        ("HFTHOT_DUCKDB_THREADS", "0"),
        ("HFTHOT_FEEDS", '[{"kind": "sample", "colour": "hush"}]'),
    ],
)
def test_a_malformed_setting_is_named_and_its_value_is_not_quoted(monkeypatch, name, value):
    monkeypatch.setenv(name, value)

    with pytest.raises(ConfigError) as caught:
        load_settings()

    assert name.removeprefix("HFTHOT_").lower() in str(caught.value)
    assert "Correct HFTHOT_... in the environment or hfthot.toml." in str(caught.value)
    assert "hush" not in str(caught.value)


def test_a_setting_that_does_not_exist_is_refused(tmp_path):
    (tmp_path / "hfthot.toml").write_text('lake_rot = "x"\n')

    with pytest.raises(ConfigError, match="lake_rot"):
        load_settings()


def test_a_file_that_is_no_toml_is_refused(tmp_path):
    (tmp_path / "hfthot.toml").write_text("this is = = not toml")

    with pytest.raises(ConfigError, match="Check its TOML syntax"):
        load_settings()


def test_options_that_are_no_json_are_refused_without_quoting_them(monkeypatch):
    monkeypatch.setenv("HFTHOT_STORAGE_OPTIONS", "{AWS_SECRET_ACCESS_KEY: hush}")

    with pytest.raises(ConfigError) as caught:
        load_settings()

    assert "hush" not in str(caught.value)


def test_a_list_that_is_not_json_is_named_by_its_variable(monkeypatch):
    monkeypatch.setenv("HFTHOT_FEEDS", "hush")

    with pytest.raises(ConfigError, match="HFTHOT_FEEDS: the value is not valid JSON") as caught:
        load_settings()

    assert "hush" not in str(caught.value)


def test_persons_data_lie_beside_the_lake_unless_they_are_named():
    beside = load_settings(lake_root="/mnt/one/lake")
    assert (beside.accounts, beside.key_file) == (Path("/mnt/one/accounts"), Path("/mnt/one/keys/kek.json"))
    assert (beside.exports, beside.certificates) == (Path("/mnt/one/exports"), Path("/mnt/one/certificates"))

    named = load_settings(lake_root="/mnt/one/lake", accounts="/srv/accounts")
    assert (named.accounts, named.exports) == (Path("/srv/accounts"), Path("/mnt/one/exports"))

    assert load_settings(lake_root="s3://bucket/lake").accounts == Path("data/accounts")
    assert load_settings().accounts == Path("data/accounts")
