"""Settings come from arguments, the environment and one TOML file, in this order, and keep secrets to themselves."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import get_args

import pytest
from pydantic import ValidationError

from hfthot_platform.core.errors import ConfigError
from hfthot_platform.core.settings import (
    ArchiveFeedSettings,
    CcxtFeedSettings,
    FeedSettings,
    SampleFeedSettings,
    Settings,
    SimulatedFeedSettings,
    effective,
    load_settings,
)
from hfthot_platform.interfaces.cli.settings_page import settings_page
from tests.conftest import REPOSITORY


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


@pytest.mark.parametrize("named", ["absent.toml", "folder", ""])
def test_a_named_file_that_is_not_there_is_refused_instead_of_taking_the_defaults(monkeypatch, tmp_path, named):
    (tmp_path / "folder").mkdir()
    monkeypatch.setenv("HFTHOT_CONFIG", named)

    with pytest.raises(ConfigError, match="HFTHOT_CONFIG in the environment: the settings file"):
        load_settings()


def test_a_folder_in_the_place_of_the_file_is_refused(tmp_path):
    (tmp_path / "hfthot.toml").mkdir()

    with pytest.raises(ConfigError, match="is not a file"):
        load_settings()


@pytest.mark.parametrize("name", ["lake_root", "landing", "accounts", "exports", "key_file"])
@pytest.mark.parametrize(("value", "says"), [("", "is empty"), ("~nobody-of-this-name/x", "home folder")])
def test_a_place_that_means_nothing_is_refused(monkeypatch, name, value, says):
    monkeypatch.setenv(f"HFTHOT_{name.upper()}", value)

    with pytest.raises(ConfigError, match=says) as caught:
        load_settings()

    assert "Value error" not in str(caught.value)  # words of the library that checks them


def test_what_a_broken_setting_advises_works_while_it_is_broken(monkeypatch):
    monkeypatch.setenv("HFTHOT_DUCKDB_THREADS", "0")

    with pytest.raises(ConfigError) as caught:
        load_settings()

    assert "hfthot settings" not in str(caught.value)  # it reads the settings itself
    assert "docs/settings.md" in str(caught.value)
    assert (REPOSITORY / "docs/settings.md").is_file()


def test_a_tilde_in_any_place_is_the_home_folder(monkeypatch):
    monkeypatch.setenv("HOME", "/home/ada")
    monkeypatch.setenv("HFTHOT_LANDING", "~/drop")

    settings = load_settings(lake_root="~/data/lake")

    assert (str(settings.landing), str(settings.accounts)) == ("/home/ada/drop", "/home/ada/data/accounts")


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
    assert f"{name} in the environment" in str(caught.value)
    assert "hush" not in str(caught.value)


def test_a_setting_that_does_not_exist_is_refused(tmp_path):
    (tmp_path / "hfthot.toml").write_text('lake_rot = "x"\n')

    with pytest.raises(ConfigError, match="lake_rot"):
        load_settings()


def test_a_file_that_is_no_toml_is_refused(tmp_path):
    (tmp_path / "hfthot.toml").write_text("this is = = not toml")

    with pytest.raises(ConfigError, match="Correct its syntax"):
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


def test_persons_data_lie_next_to_the_lake_unless_they_are_named():
    beside = load_settings(lake_root="/mnt/one/lake")
    assert (beside.accounts, beside.key_file) == (Path("/mnt/one/accounts"), Path("/mnt/one/keys/kek.json"))
    assert (beside.exports, beside.certificates) == (Path("/mnt/one/exports"), Path("/mnt/one/certificates"))

    named = load_settings(lake_root="/mnt/one/lake", accounts="/srv/accounts")
    assert (named.accounts, named.exports) == (Path("/srv/accounts"), Path("/mnt/one/exports"))

    assert load_settings(lake_root="s3://bucket/lake").accounts == Path("data/accounts")
    assert load_settings().accounts == Path("data/accounts")


@pytest.mark.parametrize(
    ("text", "line", "says"),
    [
        ('universe_size = 3\nlake_rot = "hush"\n', 2, "Did you mean 'lake_root'?"),
        ("# a remark\n\nuniverse_size = -3\n", 3, "universe_size"),
        ('[[feeds]]\nkind = "sample"\n\n[[feeds]]\nkind = "simulated"\nseed = "hush"\n', 6, "seed"),
        ('[[feeds]]\nkind = "ccxt"\nexchange = "kraken"\nsymbls = ["hush"]\n', 4, "symbls"),
        ("universe_size = 3\nthis is = = not toml\n", 2, "TOML"),
    ],
)
def test_a_mistake_in_the_file_is_told_with_file_and_line(tmp_path, text, line, says):
    (tmp_path / "hfthot.toml").write_text(text)

    with pytest.raises(ConfigError) as caught:
        load_settings()

    assert caught.value.where == f"{tmp_path / 'hfthot.toml'}:{line}"
    assert says in str(caught.value)
    assert "hush" not in str(caught.value)


@pytest.mark.parametrize(
    ("variable", "hint"),
    [("HFTHOT_LAKEROOT", "HFTHOT_LAKE_ROOT"), ("HFTHOT_LANDINGS", "HFTHOT_LANDING"), ("hfthot_note", "HFTHOT_NOTIFY")],
)
def test_a_variable_that_is_no_setting_is_refused_with_a_suggestion(monkeypatch, variable, hint):
    monkeypatch.setenv(variable, "hush")

    with pytest.raises(ConfigError) as caught:
        load_settings()

    assert variable in str(caught.value)
    assert f"Did you mean '{hint}'?" in str(caught.value)
    assert "hush" not in str(caught.value)


def test_variables_are_known_in_any_case_and_in_parts(monkeypatch):
    monkeypatch.setenv("hfthot_universe_size", "4")
    monkeypatch.setenv("HFTHOT_STORAGE_OPTIONS__AWS_REGION", "eu-west-1")

    assert load_settings().universe_size == 4
    assert load_settings().plain_storage_options()


def test_every_setting_in_force_is_told_with_its_source_and_without_secrets(monkeypatch, tmp_path):
    (tmp_path / "hfthot.toml").write_text('# mine\nuniverse_size = 4\n[storage_options]\nAWS_SECRET = "hush"\n')
    monkeypatch.setenv("HFTHOT_NOTIFY", "https://hooks.example/hush")
    monkeypatch.setenv("HFTHOT_FEEDS", '[{"kind": "ccxt", "exchange": "kraken", "symbols": [], "api_key": "hush"}]')

    found = {setting.name: setting for setting in effective(load_settings(lake_root=str(tmp_path / "lake")))}

    assert set(found) == set(Settings.model_fields)
    assert (found["universe_size"].value, found["universe_size"].source) == ("4", "hfthot.toml:2")
    assert (found["notify"].value, found["notify"].source) == ("**********", "HFTHOT_NOTIFY")
    assert (found["lake_root"].value, found["lake_root"].source) == (str(tmp_path / "lake"), "argument")
    assert (found["accounts"].value, found["accounts"].source) == (str(tmp_path / "accounts"), "next to the lake")
    assert found["duckdb_threads"].source == "default"
    assert found["landing"].value == str(tmp_path / "data" / "landing")
    assert "hush" not in str(found)


class TestTheExample:
    """The file that people copy."""

    @pytest.fixture
    def written(self) -> str:
        return (REPOSITORY / "hfthot.example.toml").read_text()

    def test_as_it_stands_it_changes_nothing(self, tmp_path, written):
        (tmp_path / "hfthot.toml").write_text(written)

        assert all(setting.source in {"default", "next to the lake"} for setting in effective(load_settings()))

    def test_it_has_every_setting_with_its_default_and_every_kind_of_feed_whole(self, tmp_path, written):
        (tmp_path / "hfthot.toml").write_text(re.sub(r"(?m)^# (?=\[|\w+ = )", "", written))

        settings = load_settings()

        in_file = {setting.name for setting in effective(settings) if setting.source.startswith("hfthot.toml:")}
        assert in_file == set(Settings.model_fields)
        examples = {
            "storage_options",
            "feeds",
            "accounts_url",
            "keys",
            "dagster_home",
            "reports",
            "reports_url",
            "users_root",
        }
        for name, field in Settings.model_fields.items():
            assert name in examples or getattr(settings, name) == field.default, name
        for feed in settings.feeds:
            assert set(type(feed).model_fields) == feed.model_fields_set, feed.kind
        assert {type(feed) for feed in settings.feeds} == set(get_args(get_args(FeedSettings)[0]))

    def test_the_file_of_this_machine_is_not_for_version_control(self):
        assert "/hfthot.toml" in (REPOSITORY / ".gitignore").read_text().splitlines()


class TestThePage:
    """`docs/settings.md`, made from the settings class."""

    def test_in_the_repository_it_is_current(self):
        assert (REPOSITORY / "docs" / "settings.md").read_text() == settings_page(), "run `make dictionary`"

    def test_it_has_every_setting_and_every_kind_of_feed_with_its_meaning(self):
        rows = [line.strip("|").split("|") for line in settings_page().splitlines() if line.startswith("| `")]

        named = [row[0].strip(" `") for row in rows]
        kinds = get_args(get_args(FeedSettings)[0])
        feeds = [name for kind in kinds for name in kind.model_fields if name != "kind"]
        assert named == [*Settings.model_fields, *feeds]
        assert all(len(row) == 4 and len(row[3].strip()) > 10 for row in rows)
