"""What can go wrong below a table: a full disk, a folder that cannot be written, messages that must not be quoted."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest
from deltalake.exceptions import CommitFailedError, DeltaError, TableNotFoundError

from hfthot_platform.core.errors import (
    BadRequestError,
    ConfigError,
    DamagedTableError,
    LakehouseError,
    StorageFullError,
    StorageReadOnlyError,
    StorageUnavailableError,
    UnsupportedTableError,
)
from hfthot_platform.domain.contracts import contract
from hfthot_platform.storage.lakehouse import Lakehouse, maintain
from hfthot_platform.storage.lakehouse.storage import Storage, translated

TRADES = contract("market.trades")

#: Runs steps on a lake in a process of its own, with its file sizes limited or as another user.
CHILD = """
import json, os, resource, signal, sys
import numpy as np, polars as pl
from hfthot_platform.storage.lakehouse import Lakehouse, maintain
from hfthot_platform.core.errors import HfthotError
root, restriction, *steps = sys.argv[1:]
lake = Lakehouse.open(root)
table = lake.table("market.trades")
now = table.scan().collect()
def more(n, first):
    one = now.drop("date", "schema_version").head(1)
    noise = np.random.default_rng(1).random(n)
    return pl.concat([one] * n).with_columns(
        trade_id=pl.int_range(first, first + n), price=pl.Series(100 + noise), amount=pl.Series(1 + noise)
    )
work = {
    "append": lambda: table.append(more(20_000, 1000)),
    "lazy": lambda: table.append(more(20_000, 1000).lazy()),
    "merge": lambda: table.merge(more(20_000, 1000)),
    "replace": lambda: table.replace(None, more(20_000, 1000)),
    "small": lambda: table.append(more(3, 500_000)),
    "maintain": lambda: maintain(lake, "market.trades", history_days=0),
    "new": lambda: lake.table("market.closes").append(lake.table("market.closes").contract.empty()),
    "restore": lambda: table.restore(0),
    "read": lambda: table.scan().collect(),
}
work["read"]()
more(1, 0)
if restriction == "limit":
    signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, 100_000))
elif restriction == "nobody":
    os.setresgid(65534, 65534, 65534)
    os.setresuid(65534, 65534, 65534)
for step in steps:
    try:
        work[step]()
    except HfthotError as error:
        print(json.dumps([step, type(error).__name__, str(error)]))
    else:
        print(json.dumps([step, "ok", table.scan().collect().height]))
"""


def run(lake, restriction, *steps):
    done = subprocess.run(
        [sys.executable, "-c", CHILD, lake.storage.root, restriction, *steps],
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
        env={**os.environ, "RUST_BACKTRACE": "0"},
    )
    assert done.returncode == 0, done.stderr
    return {step: (kind, said) for step, kind, said in map(json.loads, done.stdout.splitlines())}


def test_a_full_disk_is_a_typed_error_and_the_previous_version_stands(lake, table, trades):
    table.append(trades())

    said = run(lake, "limit", "append", "lazy", "merge", "replace", "read", "small")

    for step in ("append", "lazy", "merge", "replace"):
        assert said[step][0] == "StorageFullError", said[step]
        assert "the device is full; nothing was published and the previous version is unchanged" in said[step][1]
    assert said["read"] == ("ok", 10)
    assert said["small"] == ("ok", 13)
    assert table.scan().collect().height == 13
    assert table.problems(deep=True) == []


@pytest.mark.soak
@pytest.mark.skipif(os.geteuid() != 0, reason="needs root to mount a small file system")
def test_a_file_system_without_room_is_a_typed_error_and_the_previous_version_stands(tmp_path, trades):
    place = tmp_path / "small"
    place.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=250k", "tmpfs", str(place)]
    if subprocess.run(mount, check=False, capture_output=True).returncode:
        pytest.skip("mounting is not permitted here")
    try:
        lake = Lakehouse.open(place / "lake")
        table = lake.table("market.trades")
        table.append(trades())

        said = run(lake, "none", "append", "merge", "replace", "read")
        assert {kind for step, (kind, _) in said.items() if step != "read"} == {"StorageFullError"}
        assert said["read"] == ("ok", 10)

        subprocess.run(["mount", "-o", "remount,ro", str(place)], check=True)
        said = run(lake, "none", "append", "merge", "replace", "new", "maintain", "restore", "read")
        assert {kind for step, (kind, _) in said.items() if step != "read"} == {"StorageReadOnlyError"}
        assert said["read"] == ("ok", 10)
    finally:
        subprocess.run(["umount", str(place)], check=True)


@pytest.mark.skipif(os.geteuid() != 0, reason="needs root to become somebody else")
def test_a_folder_of_somebody_else_can_be_read_but_not_written(trades):
    # Not below pytest's own folder, whose mode every pytest session sets back.
    with tempfile.TemporaryDirectory() as name:
        lake = Lakehouse.open(Path(name) / "lake")
        table = lake.table("market.trades")
        table.append(trades())
        for path in (Path(name), *Path(name).rglob("*")):
            path.chmod(path.stat().st_mode | (0o055 if path.is_dir() else 0o044))

        said = run(lake, "nobody", "read", "append", "merge", "replace", "new", "maintain", "restore")

        assert said.pop("read") == ("ok", 10)
        assert {kind for kind, _ in said.values()} == {"StorageReadOnlyError"}
        assert "Check the owner, mode and mount of the lake's folder" in said["append"][1]
        assert table.version() == 1


@pytest.mark.parametrize(
    ("error", "expected"),
    [
        (
            DeltaError("Generic LocalFileSystem error: Unable to copy: No space left on device (os error 28)"),
            StorageFullError,
        ),
        (CommitFailedError("Generic error: Disk quota exceeded (os error 122)"), StorageFullError),
        (OSError(28, "No space left on device"), StorageFullError),
        (DeltaError("Unable to open file x.parquet#1: Read-only file system (os error 30)"), StorageReadOnlyError),
        (OSError("Unable to access metadata: Permission denied (os error 13)"), StorageReadOnlyError),
        (
            OSError("Generic S3 error: Error performing GET http://x/y: HTTP error: error sending request"),
            StorageUnavailableError,
        ),
        (DeltaError("Kernel error: Json error: Encountered unexpected 'g' whilst parsing value"), DamagedTableError),
        (DeltaError("Kernel error: Expected contiguous commit files, but found gap"), DamagedTableError),
        (OSError("Object at location a/part-1.parquet not found: No such file"), DamagedTableError),
        (DeltaError("Parquet error: External: snappy: corrupt input"), DamagedTableError),
        (DeltaError("Kernel error: Schema error: Column mapping is enabled but"), UnsupportedTableError),
        (DeltaError("Generic DeltaTable error: Invalid data found"), LakehouseError),
        (ValueError("whatever"), LakehouseError),
    ],
)
def test_messages_of_the_delta_library_become_typed_errors(error, expected):
    with pytest.raises(LakehouseError) as caught, translated("market.trades"):
        raise error

    assert type(caught.value) is expected
    assert caught.value.__suppress_context__
    assert str(caught.value).startswith("market.trades: ")


def test_conflicts_absent_tables_and_our_own_errors_pass_through():
    for error in (CommitFailedError("a concurrent transaction"), TableNotFoundError("x"), BadRequestError("y")):
        with pytest.raises(type(error)) as caught, translated("market.trades"):
            raise error
        assert caught.value is error


def test_neither_rows_nor_credentials_are_quoted():
    preview = (
        "Generic DeltaTable error: External error: Invalid data found: 3 rows failed.\nPreview: |alice@example.org|"
    )
    denied = "Generic S3 error: 403 <Code>InvalidAccessKeyId</Code><AWSAccessKeyId>AKIASECRET</AWSAccessKeyId>"

    for text in (preview, denied):
        with pytest.raises(LakehouseError) as caught, translated("market.trades"):
            raise DeltaError(text)
        assert "alice" not in str(caught.value)
        assert "AKIA" not in str(caught.value)
    assert "(InvalidAccessKeyId)" in str(caught.value)


@pytest.mark.parametrize("form", ["{path}", "file://{path}"])
def test_a_root_is_a_folder_or_a_file_url(tmp_path, form):
    storage = Storage.parse(form.format(path=tmp_path / "a"))

    assert storage.local == tmp_path / "a"
    assert storage.uri(TRADES) == f"{tmp_path}/a/market/trades"


def test_a_file_url_with_escapes_is_the_folder_that_it_names(tmp_path):
    assert Storage.parse(f"file://{tmp_path}/my%20lake").local == tmp_path / "my lake"


@pytest.mark.parametrize("name", ["a%20b", "a#b", "a?b", "a*b", "a[b]", "a=b", "a\nb", "a\tb"])
def test_a_folder_that_some_reader_would_misread_is_refused(tmp_path, name):
    with pytest.raises(ConfigError, match="Choose a folder whose name has none of"):
        Lakehouse.open(tmp_path / name)


@pytest.mark.parametrize("name", ["my lake", "é", "a+b&c", "it's (1)", "a:b"])
def test_a_lake_in_a_folder_with_odd_characters_works(tmp_path, trades, name):
    lake = Lakehouse.open(tmp_path / name)
    table = lake.table("market.trades")

    table.append(trades())
    table.merge(trades(12))
    maintain(lake, "market.trades", history_days=0)

    assert table.scan().collect().height == 12
    assert table.problems(deep=True) == []
    assert all(Path(path).exists() for path in table.snapshot().paths)
    assert sorted(path.name for path in tmp_path.iterdir()) == [name]


def test_an_object_store_url_keeps_its_options_out_of_sight():
    storage = Storage.parse("s3://bucket/lake/", {"AWS_SECRET_ACCESS_KEY": "hush"})

    assert (storage.root, storage.local, storage.lock_file(TRADES)) == ("s3://bucket/lake", None, None)
    assert "hush" not in repr(storage) + repr(Lakehouse(storage)) + repr(Lakehouse(storage).table("market.trades"))


def test_a_url_without_a_bucket_is_refused():
    with pytest.raises(ConfigError, match="does not name a bucket"):
        Storage.parse("s3:///lake")


@pytest.mark.parametrize("url", ["ftp://host/lake", "https://host/lake", "ss3://bucket/lake"])
def test_a_url_of_no_object_store_is_refused(url):
    with pytest.raises(ConfigError, match="are not supported"):
        Storage.parse(url)


def test_a_lake_below_a_file_is_refused_with_the_file(tmp_path):
    (tmp_path / "file").write_text("x")

    with pytest.raises(ConfigError, match="file' is a file"):
        Lakehouse.open(tmp_path / "file" / "deeper" / "lake").create()


def test_a_child_that_was_forked_after_tables_were_opened_is_told_so(lake, trades):
    table = lake.table("market.trades")
    table.append(trades())
    said, answer = os.pipe()

    child = os.fork()
    if child == 0:
        try:
            Lakehouse.open(lake.storage.root).table("market.trades").version()
        except StorageUnavailableError as error:
            os.write(answer, str(error).encode())
        os._exit(0)
    os.close(answer)
    os.waitpid(child, 0)

    with os.fdopen(said) as told:
        assert "the process was forked after tables were opened" in told.read()
