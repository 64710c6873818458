"""The client over a lake on an S3-compatible store, with the accounts on the local disk."""

from __future__ import annotations

from datetime import timedelta

import pytest

from hfthot_platform import LakehouseClient
from hfthot_platform.core.settings import load_settings
from tests.object_store import serving

from .conftest import PASSWORD, TODAY, minutes


@pytest.fixture(scope="module")
def options():
    with serving() as server:
        yield server.options | {"aws_conditional_put": "etag"}


@pytest.mark.soak
def test_everything_works_there_too(options, tmp_path):
    settings = load_settings(
        lake_root="s3://lake/data",
        storage_options=options,
        **{name: tmp_path / name for name in ("accounts", "exports", "certificates", "scratch", "landing")},
        key_file=tmp_path / "kek.json",
    )
    with LakehouseClient.from_settings(settings) as client:
        table = client.installation.lake.table("market.bars_1m")
        start = TODAY - timedelta(days=3)
        table.append(minutes("ALPHA-USDT", start, 2000))
        table.append(minutes("ZZZ-USDT", start, 10))
        table.merge(minutes("ALPHA-USDT", start, 5, close=300.0))

        assert client.market("ALPHA-USDT").ohlcv().tail(700).collect().height == 700
        assert [version["version"] for version in client.list_versions("market/ALPHA-USDT")] == [1, 3]

        ada = client.register("ada", "ada@example.org", PASSWORD)
        version = client.list_versions("users")[-1]["version"]
        assert client.read_version("users", version).collect()["username"].to_list() == ["ada"]
        assert client.delete_user_permanent(ada.user_id).keep_history
        assert client.read_version("users", version).collect()["username"].to_list() == [None]
        assert "AKIAHUSHHUSH" not in repr(client)
