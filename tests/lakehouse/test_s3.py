"""The same lake on an S3-compatible store: a real HTTP server on loopback, in a process of its own."""

from __future__ import annotations

import json
import socket
import subprocess
import sys
import time
from collections import Counter
from datetime import UTC, date, datetime
from pathlib import Path

import polars as pl
import pytest
from deltalake import DeltaTable

from hfthot_platform.core.errors import StorageUnavailableError, VersionUnavailableError
from hfthot_platform.storage.lakehouse import Lakehouse, maintain
from hfthot_platform.storage.lakehouse.backends.object import ObjectBackend

WRITER = Path(__file__).parent / "writer.py"
DAY = date(2024, 1, 1)


@pytest.fixture(scope="module")
def endpoint():
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    server = subprocess.Popen(
        [sys.executable, "-m", "moto.server", "-H", "127.0.0.1", "-p", str(port)],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    try:
        deadline = time.monotonic() + 60
        while True:
            try:
                socket.create_connection(("127.0.0.1", port), 1).close()
                break
            except OSError:
                assert server.poll() is None, "the server died"
                assert time.monotonic() < deadline, "the server did not start"
                time.sleep(0.1)
        url = f"http://127.0.0.1:{port}"
        import urllib.request

        urllib.request.urlopen(urllib.request.Request(f"{url}/lake", method="PUT"), timeout=30).close()
        yield url
    finally:
        server.terminate()
        server.wait(30)


@pytest.fixture
def options(endpoint):
    return {
        "AWS_ENDPOINT_URL": endpoint,
        "AWS_ACCESS_KEY_ID": "AKIAHUSHHUSH",
        "AWS_SECRET_ACCESS_KEY": "topsecret",
        "AWS_REGION": "us-east-1",
        "AWS_ALLOW_HTTP": "true",
    }


@pytest.fixture
def lake(options, request):
    return Lakehouse.open(f"s3://lake/{request.node.name}", options, new=True)


def test_writes_reads_versions_and_maintenance_work_as_on_a_disk(lake, trades):
    table = lake.table("market.trades")
    assert table.scan().collect().height == 0

    assert table.append(trades()).version == 1
    assert table.merge(trades(15)).rows_published == 15
    assert not table.merge(trades(15)).changed
    table.append(trades(5, 100).lazy())
    assert table.scan().collect().height == 20
    table.replace(DAY, trades(3))
    bad = trades(4, 200, price=pl.when(pl.col("trade_id") == 200).then(-1.0).otherwise(1.0))
    assert table.merge(bad).rows_quarantined == 1

    assert table.scan(version=3).collect().height == 20
    assert table.scan(as_of=table.versions()[1].timestamp).collect().height == 10
    assert [version.operation for version in table.versions()][:3] == ["CREATE TABLE", "APPEND", "MERGE"]
    assert lake.table("quarantine.trades").scan().collect().height == 1
    report = maintain(lake, "market.trades", history_days=0)
    assert report.files_vacuumed > 0
    assert report.files_after >= 1
    assert table.scan().collect().height == 6
    with pytest.raises(VersionUnavailableError, match="Readable: version"):
        table.scan(version=1)


def test_a_read_between_commits_is_one_look_and_opens_nothing_and_others_are_followed(
    lake, options, trades, monkeypatch
):
    calls = Counter()
    table = lake.table("market.trades")
    table.append(trades())
    for owner, method in (
        (DeltaTable, "__init__"),
        (ObjectBackend, "entry_states"),
        (ObjectBackend, "read_entry"),
        (ObjectBackend, "log_names"),
    ):
        original = getattr(owner, method)

        def counting(*args, _original=original, _name=method, **kwargs):
            calls[_name] += 1
            return _original(*args, **kwargs)

        monkeypatch.setattr(owner, method, counting)

    table.version()
    calls.clear()
    assert table.version() == 1
    assert table.scan().collect().height == 10
    assert dict(calls) == {"entry_states": 2}, "one look each"

    Lakehouse.open(lake.storage.root, options).table("market.trades").append(trades(5, 100))
    calls.clear()
    assert table.scan().collect().height == 15
    assert calls["__init__"] == calls["log_names"] == calls["read_entry"] == 0


@pytest.mark.soak
def test_two_processes_that_collide_lose_and_double_no_row(lake, options, trades, tmp_path):
    table = lake.table("market.trades")
    table.append(trades(1, 999_999_999))
    processes = [
        subprocess.Popen(
            [
                sys.executable,
                str(WRITER),
                lake.storage.root,
                kind,
                str(i),
                "4",
                str(tmp_path / f"{i}.side"),
                json.dumps(options),
            ],
            stdout=subprocess.DEVNULL,
        )
        for i, kind in enumerate(["merge", "replace"])
    ]
    assert [process.wait(120) for process in processes] == [0, 0]

    ids = [999_999_999]
    for path in tmp_path.glob("*.side"):
        for line in path.read_text().splitlines():
            if line.startswith("ok "):
                first = int(path.stem) * 1_000_000 + int(line.split()[2]) * 5
                ids += range(first, first + 5)
    stored = table.scan().collect()["trade_id"].to_list()
    assert len(ids) > 10
    assert max(Counter(stored).values()) == 1
    assert sorted(stored) == sorted(ids)


def test_a_store_without_the_bucket_is_unavailable_and_no_credential_is_quoted(options, trades):
    table = Lakehouse.open("s3://no-such-bucket/lake", options).table("market.trades")

    for use in (table.scan, lambda: table.append(trades()), table.versions):
        with pytest.raises(StorageUnavailableError, match="NoSuchBucket") as caught:
            use()
        assert "HUSH" not in str(caught.value)
        assert "topsecret" not in str(caught.value)


def test_a_store_that_does_not_answer_is_unavailable(options, trades):
    dead = {**options, "AWS_ENDPOINT_URL": "http://127.0.0.1:1", "max_retries": "1", "retry_timeout": "1s"}

    with pytest.raises(StorageUnavailableError, match="did not answer or refused"):
        Lakehouse.open("s3://lake/x", dead).table("market.trades").append(trades())


def test_an_ordered_log_is_applied_exactly_once(lake):
    table = lake.table("audit_log")

    def entries(*subjects, seq, day=1):
        n = len(subjects)
        return pl.DataFrame(
            {
                "seq": range(seq, seq + n),
                "ts": [datetime(2024, 1, day, tzinfo=UTC)] * n,
                "subject_id": [f"{subject:032x}" for subject in subjects],
                "actor_id": ["system"] * n,
                "action": ["user.register"] * n,
                "outcome": ["success"] * n,
                "ip": ["e1." + "i" * 40] * n,
                "personal_digest": ["0" * 64] * n,
                "redacted": [False] * n,
                "previous_hash": ["1" * 64] * n,
                "hash": ["2" * 64] * n,
            },
            schema_overrides={"seq": pl.Int64},
        )

    table.apply(pl.concat([entries(1, 2, seq=1), entries(1, seq=3, day=2)]), app=("log", 3))
    assert not table.apply(entries(1, 2, seq=1), app=("log", 3)).changed

    commit = table.apply(entries(3, seq=4, day=2), redact=[f"{1:032x}"], app=("log", 4))

    assert commit.rows_forgotten == 2
    rows = table.scan().collect().sort("seq")
    assert rows["seq"].to_list() == [1, 2, 3, 4]
    assert rows["ip"].is_null().to_list() == [True, False, True, False]
    assert table.applied("log") == 4
