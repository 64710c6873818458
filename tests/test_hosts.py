"""Several hosts: what they must share is refused at start where it is not, and the doctor lists all of it."""

import pytest
from pydantic import SecretStr

from hfthot_platform import Installation
from hfthot_platform.app.hosts import SHARED, not_shared
from hfthot_platform.core.errors import NotSharedError
from hfthot_platform.core.settings import load_settings
from hfthot_platform.interfaces.doctor import diagnose
from tests.privacy.conftest import NOW

#: Settings with which several hosts share everything.
ALL_SHARED = {
    "hosts": 2,
    "lake_root": "s3://bucket/lake",
    "accounts_url": "postgresql+psycopg://127.0.0.1:1/accounts",
    "key_source": "environment",
    "keys": "k1:AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA=",
    "landing": "s3://bucket/landing",
}
LOCAL = {
    "lake_root": {"lake_root": "data/lake", "exports": "s3://b/e", "certificates": "s3://b/c", "reports": "s3://b/r"},
    "accounts_url": {"accounts_url": None},
    "key_source": {"key_source": "file"},
    "exports": {"exports": "data/exports"},
    "certificates": {"certificates": "data/certificates"},
    "landing": {"landing": "data/landing"},
    "reports": {"reports": "data/reports"},
    "feeds": {"feeds": [{"kind": "binance_archive", "symbols": ["BTC-USDT"], "location": "data/archive"}]},
}


def test_each_part_that_hosts_must_share_has_a_case_here():
    assert set(LOCAL) == {part.setting for part in SHARED}


@pytest.mark.parametrize("setting", LOCAL)
def test_a_part_on_the_disk_of_one_of_several_hosts_is_refused_at_start(setting):
    settings = load_settings(**(ALL_SHARED | LOCAL[setting]))

    with pytest.raises(NotSharedError, match=rf"\({setting}\)") as caught:
        Installation.open(settings)

    assert [part.setting for part in not_shared(settings)] == [setting]
    assert caught.value.code == "HOSTS_NOT_SHARED"
    assert caught.value.hint == not_shared(settings)[0].hint


def test_a_keyring_is_of_one_host_as_a_file_is():
    assert [part.setting for part in not_shared(load_settings(**(ALL_SHARED | {"key_source": "keyring"})))] == [
        "key_source"
    ]


def test_several_hosts_that_share_everything_are_not_refused():
    Installation.open(load_settings(**ALL_SHARED)).close()


def test_one_host_needs_to_share_nothing():
    Installation.open(load_settings()).close()


def test_the_refusal_names_everything_at_once_and_no_secret():
    settings = load_settings(hosts=3, accounts_url=None, keys=SecretStr("hush"))

    with pytest.raises(NotSharedError) as caught:
        Installation.open(settings)

    assert all(f"({setting})" in str(caught.value) for setting in LOCAL if setting != "feeds")
    assert "hush" not in str(caught.value)


def test_the_doctor_tells_each_part_with_what_to_do(tmp_path):
    settings = load_settings(hosts=2, lake_root=str(tmp_path / "lake"), scratch=tmp_path / "scratch")

    found = [finding for finding in diagnose(settings, NOW) if finding.subject == "hosts"]

    assert {finding.level for finding in found} == {"error"}
    assert [finding.next_step for finding in found] == [part.hint for part in not_shared(settings)]
    assert len(found) == len(SHARED) - 1
