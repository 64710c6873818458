"""The landing folder: what is dropped there is recognised, ingested once, and filed away."""

from __future__ import annotations

import gzip
import hashlib
import io
import json
import os
import subprocess
import sys
import zipfile
from datetime import UTC, datetime, timedelta
from pathlib import Path

import polars as pl
import pytest

from hfthot_platform.core.errors import (
    BadRequestError,
    DamagedTableError,
    LockTimeoutError,
    RejectedFileError,
    SchemaMismatchError,
)
from hfthot_platform.services.ingest import files as files_module
from hfthot_platform.services.ingest import incident_of, ingest_files, ingest_landing, waiting_files
from hfthot_platform.storage.lakehouse import Lakehouse, Stamp
from hfthot_platform.storage.lakehouse.datafiles import DataFiles
from hfthot_platform.storage.lakehouse.locks import writers_lock

HEADER = "timestamp,trade_id,price,amount,side\n"
START_MS = 1_704_067_200_000
NOW = datetime(2024, 6, 1, 12, tzinfo=UTC)


def klines(count: int, *, close: float = 42_005.5, start: int = START_MS) -> str:
    return "".join(
        f"{start + n * 60_000},42000,42010,41990,{close},12.5,{start + n * 60_000 + 59_999},525000,100,6.25,262500,0\n"
        for n in range(count)
    )


def zipped(member: str, text: str) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr(member, text)
    return buffer.getvalue()


def parquet(frame: pl.DataFrame) -> bytes:
    buffer = io.BytesIO()
    frame.write_parquet(buffer)
    return buffer.getvalue()


# --- recognised by content, ingested once, moved -------------------------------------------------------------------


def test_a_good_file_is_published_recorded_and_moved_to_done(landing, csv_of):
    content = csv_of(0, 100)
    landing.drop("kraken_BTCEUR.csv", content)
    outcome = landing.run_one(stamp=Stamp(run_id="run-7"))
    assert (outcome.status, outcome.reason, outcome.adapter) == ("published", None, "csv/header")
    assert (outcome.rows_read, outcome.rows_published) == (100, 100)
    assert outcome.days == {datetime(2024, 1, 1, tzinfo=UTC).date()}
    assert (landing.done / "kraken_BTCEUR.csv").read_text() == content
    assert landing.waiting() == set()
    assert list(landing.rejected.iterdir()) == []
    start = datetime(2024, 1, 1, tzinfo=UTC)
    assert landing.record("kraken_BTCEUR.csv") == {
        "content_hash": hashlib.sha256(content.encode()).hexdigest(),
        "name": "kraken_BTCEUR.csv",
        "bytes": len(content),
        "adapter": "csv/header",
        "status": "published",
        "reason": None,
        "detail": None,
        "target": "market.trades",
        "rows_read": 100,
        "rows_published": 100,
        "rows_duplicate": 0,
        "rows_quarantined": 0,
        "first_ts": start,
        "last_ts": start + timedelta(seconds=99),
        "ingested_at": NOW,
        "run_id": "run-7",
        "schema_version": 3,
        "rows_gaps": 0,
        "rows_updated": 0,
        "rows_withdrawn": 0,
        "rows_restored": 0,
        "mapping_hash": None,
        "source_ref": outcome.source_ref,
        "version": 1,
        "commit_id": landing.lake.table("market.trades").versions()[1].commit_id,
        "days": "2024-01-01",
        "file_hash": None,
    }


def test_every_published_row_names_adapter_and_content(landing, csv_of):
    landing.drop("kraken_BTCEUR.csv", csv_of(0, 3))
    digest = landing.run_one().content_hash
    assert landing.rows()["source_ref"].unique().to_list() == [f"csv:{digest[:16]}"]


@pytest.mark.parametrize("name", ["BTCUSDT-1m-2024-01-01.csv", "holiday.jpg", "noextension", "data.parquet"])
def test_content_decides_whatever_the_name_says(landing, name):
    landing.drop(name, zipped("BTCUSDT-1m-2024-01-01.csv", klines(5)), mapping={"venue": "binance"})
    outcome = landing.run_one()
    assert (outcome.status, outcome.adapter, outcome.table) == (
        "published",
        "binance_archive/spot_klines",
        "market.bars_1m",
    )
    assert outcome.rows_published == 5
    assert (landing.done / f"{name}.mapping.yaml").exists()


def test_a_gzip_without_its_suffix_is_still_a_gzip(landing, csv_of):
    landing.drop("kraken_BTCEUR.csv", gzip.compress(csv_of(0, 10).encode()))
    assert landing.run_one().rows_published == 10


def test_the_same_content_is_ingested_once_whatever_its_name(landing, csv_of):
    landing.drop("kraken_BTCEUR.csv", csv_of(0, 10))
    landing.run()
    landing.drop("kraken_BTCEUR (copy).csv", csv_of(0, 10))
    copy = landing.run_one()
    assert (copy.status, copy.reason, copy.rows_read) == ("repeated", "already_ingested", 0)
    assert "kraken_BTCEUR.csv" in copy.detail
    assert landing.reason("kraken_BTCEUR (copy).csv")["reason"] == "already_ingested"
    assert landing.rows().height == 10
    assert landing.lake.table("ops.ingest_files").scan().collect().height == 1


def test_the_same_file_dropped_again_under_its_name_is_a_repetition(landing, csv_of):
    for _ in range(2):
        landing.drop("kraken_BTCEUR.csv", csv_of(0, 10))
        outcome = landing.run_one()
    assert (outcome.status, outcome.reason) == ("repeated", "already_ingested")
    assert landing.reason("kraken_BTCEUR.csv")["content_hash"] == outcome.content_hash
    assert [file.name for file in landing.done.iterdir()] == ["kraken_BTCEUR.csv"]


def test_repeated_rows_in_another_file_are_duplicates(landing, csv_of):
    landing.drop("kraken_BTCEUR.csv", csv_of(0, 10))
    landing.drop("kraken_BTCEUR_more.csv", csv_of(5, 10), age=50)
    first, second = landing.run()
    assert (first.rows_published, second.rows_published, second.rows_duplicate) == (10, 5, 5)
    assert landing.rows().height == 15


def test_a_file_of_nothing_new_is_done_and_has_no_times(landing, csv_of):
    landing.drop("kraken_BTCEUR.csv", csv_of(0, 10))
    landing.run()
    landing.drop("kraken_BTCEUR_part.csv", csv_of(2, 3))
    outcome = landing.run_one()
    assert (outcome.status, outcome.rows_duplicate, outcome.rows_published) == ("published", 3, 0)
    assert (outcome.first_ts, outcome.days) == (None, frozenset())


# --- what waits ----------------------------------------------------------------------------------------------------


def test_a_file_that_is_still_growing_waits(landing, csv_of):
    path = landing.drop("kraken_BTCEUR.csv", csv_of(0, 5), age=3)
    assert landing.run(settle_seconds=10) == []
    with path.open("a") as stream:
        stream.write(csv_of(5, 5).removeprefix(HEADER))
    landing.age(path, 11)
    assert landing.run_one(settle_seconds=10).rows_published == 10


def test_oldest_first(landing, csv_of):
    for n, age in enumerate((20, 40, 30)):
        landing.drop(f"kraken_BTCEUR_{n}.csv", csv_of(n * 10, 3), age=age)
    found = waiting_files(landing.folder, now=NOW, settle_seconds=10)
    assert [path.name for path in found] == ["kraken_BTCEUR_1.csv", "kraken_BTCEUR_2.csv", "kraken_BTCEUR_0.csv"]


def test_a_time_of_change_in_the_future_does_not_wait_for_ever(tmp_path):
    path = tmp_path / "kraken_BTCEUR.csv"
    path.write_text("x")
    now = datetime.now(UTC) + timedelta(minutes=1)
    far = now + timedelta(days=3650)
    os.utime(path, (far.timestamp(), far.timestamp()))
    assert waiting_files(tmp_path, now=now, settle_seconds=10) == [path]


@pytest.mark.parametrize("name", [".hidden.csv", "a.csv.part", "a.csv.PART", "b.tmp", "c.crdownload", "d.filepart"])
def test_hidden_and_unfinished_files_are_left_alone(landing, csv_of, name):
    landing.drop(name, csv_of(0, 3))
    assert landing.run() == []
    assert (landing.folder / name).exists()


def test_folders_pipes_and_lone_mappings_are_left_alone(landing):
    (landing.folder / "kraken").mkdir()
    os.mkfifo(landing.folder / "pipe")
    (landing.folder / "a.csv.mapping.yaml").write_text("venue: kraken")
    (landing.folder / "a.csv.reason.json").write_text("{}")
    assert landing.run(settle_seconds=-(10**9)) == []


def test_a_landing_folder_that_is_not_there_is_made(tmp_path):
    assert waiting_files(tmp_path / "in", now=NOW, settle_seconds=0) == []
    assert ingest_landing(Lakehouse.open(tmp_path / "lake"), tmp_path / "in", now=NOW) == []
    assert {entry.name for entry in (tmp_path / "in").iterdir() if not entry.name.startswith(".")} == {
        "done",
        "rejected",
    }


def test_a_file_that_changes_while_it_is_read_stays_and_is_completed_later(landing, csv_of):
    path = landing.drop("kraken_BTCEUR.csv", csv_of(0, 10))

    def writer(done, total, unit):
        if path.stat().st_size == len(csv_of(0, 10)):
            with path.open("a") as stream:
                stream.write(csv_of(10, 10).removeprefix(HEADER))

    outcome = landing.run_one(progress=writer)
    assert (outcome.status, outcome.reason) == ("rejected", "changed_while_read")
    assert landing.waiting() == {"kraken_BTCEUR.csv"}
    landing.age(path, 60)
    whole = landing.run_one()
    assert whole.status == "published"
    assert landing.rows().height == 20
    assert (landing.done / "kraken_BTCEUR.csv").exists()


# --- what is refused as a whole ------------------------------------------------------------------------------------


def _cut(content: bytes, share: float = 0.6) -> bytes:
    return content[: int(len(content) * share)]


@pytest.mark.parametrize(
    ("name", "content", "reason"),
    [
        ("a.csv", b"", "empty"),
        ("a.csv", b" \n\n", "empty"),
        ("kraken_BTCEUR.csv", HEADER.encode(), "empty"),
        ("a.zip", zipped("a.csv", ""), "empty"),
        ("kraken_BTCEUR.csv.gz", gzip.compress(b""), "empty"),
        ("BTCUSDT-1m-2024-01.zip", _cut(zipped("BTCUSDT-1m-2024-01.csv", klines(500))), "truncated"),
        ("kraken_BTCEUR.csv.gz", _cut(gzip.compress((HEADER + klines(500)).encode())), "truncated"),
        ("kraken_BTCEUR.parquet", _cut(parquet(pl.DataFrame({"ts": range(1000)}))), "truncated"),
        ("notes.txt", b"buy milk\nsell bread\n", "unrecognised"),
        ("kraken_x.parquet", parquet(pl.DataFrame({"colour": ["red"], "size": [1]})), "wrong_schema"),
        ("kraken_BTCEUR.json", b"[[1,2,3]]", "wrong_schema"),
        ("some_BTCEUR.csv", (HEADER + f"{START_MS},1,1,1,buy\n").encode(), "unknown_venue"),
        ("kraken.csv", (HEADER + f"{START_MS},1,1,1,buy\n").encode(), "unknown_symbol"),
        ("BTCUSDT-1m-2024-01.csv", klines(3).encode(), "ambiguous_market"),
        ("SECRETS.bin", bytes(range(256)) * 10, "unrecognised"),
    ],
    # Compressed content holds the time it was made: as part of a test's name it differs from worker to worker.
    ids=lambda value: value if isinstance(value, str) else "content",
)
def test_a_file_that_cannot_be_ingested_gets_a_typed_reason(landing, name, content, reason):
    landing.drop(name, content)
    outcome = landing.run_one()
    assert (outcome.status, outcome.reason) == ("rejected", reason)
    assert (landing.rejected / name).read_bytes() == content
    said = landing.reason(name)
    assert (said["name"], said["reason"], said["rows_published"]) == (name, reason, 0)
    assert said["content_hash"] == hashlib.sha256(content).hexdigest()
    assert landing.record(name)["reason"] == reason
    assert landing.waiting() == set()


def test_a_declared_mapping_that_does_not_fit_is_a_reason(landing, csv_of):
    landing.drop("a.csv", csv_of(0, 3), mapping={"venue": "Kraken!"})
    assert landing.run_one().reason == "bad_mapping"
    assert (landing.rejected / "a.csv.mapping.yaml").exists()


def test_a_rejected_file_can_be_dropped_again_with_a_mapping(landing, csv_of):
    landing.drop("export.csv", csv_of(0, 3))
    assert landing.run_one().reason == "unknown_venue"
    for name in ("export.csv", "export.csv.reason.json"):
        (landing.rejected / name).rename(landing.folder / name)
    landing.drop("export.csv", csv_of(0, 3), mapping={"venue": "kraken", "symbol": "BTC-EUR"})
    outcome = landing.run_one()
    assert (outcome.status, outcome.rows_published) == ("published", 3)
    assert landing.record("export.csv")["status"] == "published"
    assert {file.name for file in landing.done.iterdir()} == {"export.csv", "export.csv.mapping.yaml"}


# --- good rows are kept, bad ones quarantined ----------------------------------------------------------------------


@pytest.mark.parametrize(
    ("bad", "reason"),
    [
        ({"price": "nan"}, "not_finite"),
        ({"price": "inf"}, "not_finite"),
        ({"price": -5}, "out_of_bounds"),
        ({"price": 0}, "out_of_bounds"),
        ({"price": 1e12}, "out_of_bounds"),
        ({"price": 100_000.0}, "absurd_value"),
        ({"amount": -1}, "out_of_bounds"),
        ({"amount": "nan"}, "not_finite"),
        ({"price": "abc"}, "unparsable_value"),
        ({"price": ""}, "missing_value"),
        ({"ts": START_MS // 1000 - 10**8}, "mixed_time_unit"),
        ({"ts": (START_MS - 10**11) * 1000}, "mixed_time_unit"),
        ({"ts": "yesterday"}, "unparsable_value"),
    ],
)
def test_a_bad_row_is_quarantined_and_the_good_ones_published(landing, csv_of, line_of, bad, reason):
    lines = csv_of(0, 20).splitlines(keepends=True)
    lines.insert(11, line_of(500, **bad))
    landing.drop("kraken_BTCEUR.csv", "".join(lines))
    outcome = landing.run_one()
    assert (outcome.status, outcome.rows_read) == ("published", 21)
    assert (outcome.rows_published, outcome.rows_quarantined) == (20, 1)
    assert landing.quarantined() == {reason: 1}
    row = landing.lake.table("quarantine.trades").scan().collect().row(0, named=True)
    assert row["source_ref"] == f"csv:{outcome.content_hash[:16]}"
    assert (row["row_number"], "500" in row["row"]) == (11, True)


def test_a_text_cut_in_the_middle_of_a_line_loses_that_line_only(landing, csv_of):
    landing.drop("kraken_BTCEUR.csv", csv_of(0, 20)[:-7])
    outcome = landing.run_one()
    assert (outcome.status, outcome.rows_published, outcome.rows_quarantined) == ("published", 19, 1)
    assert landing.quarantined() == {"truncated_row": 1}


def test_repeated_trade_ids_are_duplicates_if_equal_and_conflicts_if_not(landing, csv_of, line_of):
    landing.drop("kraken_BTCEUR.csv", csv_of(0, 10) + line_of(3) + line_of(4, price=101) + line_of(4, price=102))
    outcome = landing.run_one()
    assert (outcome.rows_read, outcome.rows_published) == (13, 10)
    assert (outcome.rows_duplicate, outcome.rows_quarantined) == (1, 2)
    assert landing.quarantined() == {"conflicting_key": 2}
    assert landing.rows().filter(pl.col("trade_id") == 4)["price"].to_list() == [100.0]


def test_a_published_trade_is_never_changed_by_a_later_file(landing, csv_of):
    landing.drop("kraken_BTCEUR.csv", csv_of(0, 10))
    landing.run()
    landing.drop("kraken_BTCEUR_b.csv", csv_of(8, 4, price=101.0))
    outcome = landing.run_one()
    assert (outcome.rows_published, outcome.rows_quarantined) == (2, 2)
    assert landing.quarantined() == {"conflicting_key": 2}
    assert landing.rows().sort("trade_id")["price"].to_list() == [100.0] * 10 + [101.0] * 2


def test_a_vendor_may_correct_its_bar(landing):
    for close, day in ((42_005.5, "2024-01-01"), (42_006.5, "2024-01-02")):
        landing.drop(
            f"BTCUSDT-1m-{day}.zip",
            zipped(f"BTCUSDT-1m-{day}.csv", klines(3, close=close)),
            mapping={"venue": "binance"},
        )
        outcomes = ingest_landing(landing.lake, landing.folder, now=NOW)
    assert (outcomes[0].rows_published, outcomes[0].rows_quarantined) == (3, 0)
    assert landing.rows("market.bars_1m")["close"].to_list() == [42_006.5] * 3


def test_an_unfinished_bar_never_replaces_a_finished_one(landing):
    mapping = {"venue": "binance", "symbol": "BTCUSDT"}
    landing.drop("BTCUSDT-1m-2024-01-01.csv", klines(3), mapping=mapping)
    assert landing.run_one().rows_published == 3
    # The second file says nothing of its making, so its latest bar may have been open still.
    lines = klines(3).splitlines(keepends=True)
    running = lines[2].replace("42005.5", "41999")
    landing.drop("live.csv", lines[1] + running, mapping=mapping)
    outcome = landing.run_one()
    bars = landing.rows("market.bars_1m").sort("ts")
    assert bars["final"].to_list() == [True, True, True]
    assert bars["close"].to_list() == [42_005.5] * 3
    assert (outcome.rows_published, outcome.rows_duplicate) == (0, 2)


def test_a_file_of_bad_rows_only_is_rejected(landing, line_of):
    landing.drop("kraken_BTCEUR.csv", HEADER + "".join(line_of(n, price=-1) for n in range(20)))
    outcome = landing.run_one()
    assert (outcome.status, outcome.reason) == ("rejected", "no_good_rows")
    assert (outcome.rows_read, outcome.rows_quarantined) == (20, 20)
    assert landing.quarantined() == {"out_of_bounds": 20}
    assert landing.reason("kraken_BTCEUR.csv")["rows_quarantined"] == 20


def test_one_bad_row_alone_is_rejected(landing, line_of):
    landing.drop("kraken_BTCEUR.csv", HEADER + line_of(1, price=-1))
    assert landing.run_one().reason == "no_good_rows"


def test_a_file_of_conflicting_trades_only_is_rejected(landing, csv_of):
    landing.drop("kraken_BTCEUR.csv", csv_of(0, 5))
    landing.run()
    landing.drop("kraken_BTCEUR_b.csv", csv_of(0, 5, price=101.0))
    outcome = landing.run_one()
    assert (outcome.reason, outcome.rows_quarantined) == ("no_good_rows", 5)


def test_more_bad_rows_than_the_contract_allows_withhold_the_good_ones_too(landing, csv_of, line_of):
    landing.drop("kraken_BTCEUR.csv", csv_of(0, 8) + line_of(3) + "".join(line_of(50 + n, price=-1) for n in range(12)))
    outcome = landing.run_one()
    assert (outcome.status, outcome.reason) == ("rejected", "too_many_bad_rows")
    assert (outcome.rows_read, outcome.rows_published, outcome.rows_duplicate, outcome.rows_quarantined) == (
        21,
        0,
        1,
        20,
    )
    assert landing.quarantined() == {"out_of_bounds": 12, "withheld": 8}
    assert landing.rows().height == 0
    assert "12 of 21 rows break a rule; at most 50% may" in landing.reason("kraken_BTCEUR.csv")["detail"]


def test_bars_with_as_many_unfinished_and_bad_rows_as_allowed_are_published(landing):
    rows = "".join(
        f"{START_MS},{symbol},10,11,9,{close},1\n"
        for symbol, close in (("BTCEUR", 10), ("ETHEUR", 10), ("XRPEUR", 10), ("LTCEUR", -1), ("ADAEUR", -1))
    )
    landing.drop(
        "a.csv", "ts,symbol,open,high,low,close,volume\n" + rows, mapping={"venue": "kraken", "interval": "1m"}
    )
    outcome = landing.run_one()
    assert (outcome.status, outcome.rows_published, outcome.rows_quarantined) == ("published", 3, 2)


# --- files of several batches --------------------------------------------------------------------------------------


@pytest.fixture
def small_batches(monkeypatch):
    """Make every file one of batches of ten rows."""
    from hfthot_platform.adapters.files import csv as csv_module

    read = csv_module.Csv.read

    def in_tens(self, probe, claim, *, source_ref, batch_rows=10, progress=None):
        return read(self, probe, claim, source_ref=source_ref, batch_rows=10)

    monkeypatch.setattr(csv_module.Csv, "read", in_tens)


@pytest.mark.usefixtures("small_batches")
def test_a_trade_repeated_in_a_later_batch_is_a_duplicate(landing, csv_of, line_of):
    landing.drop("kraken_BTCEUR.csv", csv_of(0, 25) + line_of(2) + line_of(13) + line_of(3, price=101))
    outcome = landing.run_one()
    assert (outcome.rows_read, outcome.rows_published) == (28, 25)
    assert (outcome.rows_duplicate, outcome.rows_quarantined) == (2, 1)


@pytest.mark.usefixtures("small_batches")
def test_a_bar_stated_otherwise_in_a_later_batch_conflicts_as_it_does_within_one(landing):
    bar = "{ts},10,11,9,{close},1\n"
    lines = [bar.format(ts=START_MS + n * 60_000, close=10) for n in range(25)]
    lines += [bar.format(ts=START_MS, close=10.5), bar.format(ts=START_MS + 60_000, close=10)]
    landing.drop("kraken_BTCEUR-1m.csv", "ts,open,high,low,close,volume\n" + "".join(lines))
    outcome = landing.run_one()
    assert (outcome.rows_read, outcome.rows_published) == (27, 25)
    assert (outcome.rows_duplicate, outcome.rows_quarantined) == (1, 1)
    assert landing.quarantined("market.bars_1m") == {"conflicting_key": 1}
    assert landing.rows("market.bars_1m")["close"].unique().to_list() == [10.0]


class Killed(BaseException):
    """Stands for the end of the process between two steps; `test_landing_crash.py` kills for real."""


@pytest.mark.usefixtures("small_batches")
@pytest.mark.parametrize("committed", [False, True])
def test_an_interrupted_file_of_several_batches_is_all_there_or_not_at_all(
    landing, csv_of, line_of, monkeypatch, committed
):
    landing.drop("kraken_BTCEUR.csv", csv_of(0, 25) + line_of(2) + line_of(3, price=101) + line_of(99, price=-1))
    commit = DataFiles.commit

    def dies(self, *arguments, **options):
        if self.contract.name == "market.trades":
            if committed:
                commit(self, *arguments, **options)
            raise Killed
        commit(self, *arguments, **options)

    with monkeypatch.context() as patch:
        patch.setattr(DataFiles, "commit", dies)
        with pytest.raises(Killed):
            ingest_landing(landing.lake, landing.folder, now=NOW)
    assert landing.rows().height == (25 if committed else 0)
    outcome = landing.run_one()
    assert (outcome.rows_read, outcome.rows_published) == (28, 25)
    assert (outcome.rows_duplicate, outcome.rows_quarantined) == (1, 2)
    assert outcome.days == {datetime(2024, 1, 1, tzinfo=UTC).date()}, "who computes from them is told in any case"
    assert outcome.version == 1


@pytest.mark.usefixtures("small_batches")
def test_a_file_of_many_batches_is_one_version_of_its_table_and_one_of_the_quarantine(landing, csv_of, line_of):
    bad = "".join(line_of(200 + n, price=-1) for n in range(30))
    landing.drop("kraken_BTCEUR.csv", csv_of(0, 45) + bad)
    landing.run()
    for name, rows in (("market.trades", 45), ("quarantine.trades", 30)):
        versions = landing.lake.table(name).versions()
        assert [version.operation for version in versions] == ["CREATE TABLE", "PUBLISH"], name
        assert versions[1].rows == rows


@pytest.mark.usefixtures("small_batches")
def test_bad_rows_are_counted_over_the_whole_file_wherever_they_stand(landing, csv_of, line_of):
    bad = "".join(line_of(50 + n, price=-1) for n in range(12))
    landing.drop("kraken_BTCEUR.csv", csv_of(0, 10) + bad + csv_of(20, 10).removeprefix(HEADER))
    outcome = landing.run_one()
    assert (outcome.status, outcome.reason) == ("published", None)
    assert (outcome.rows_read, outcome.rows_published, outcome.rows_quarantined) == (32, 20, 12)


@pytest.mark.usefixtures("small_batches")
def test_a_file_of_mostly_bad_rows_is_refused_whole_although_it_begins_well(landing, csv_of, line_of):
    bad = "".join(line_of(50 + n, price=-1) for n in range(31))
    landing.drop("kraken_BTCEUR.csv", csv_of(0, 20) + bad + csv_of(20, 10).removeprefix(HEADER))
    outcome = landing.run_one()
    assert (outcome.status, outcome.reason) == ("rejected", "too_many_bad_rows")
    assert (outcome.rows_read, outcome.rows_published, outcome.rows_quarantined) == (61, 0, 61)
    assert landing.rows().height == 0
    assert landing.quarantined() == {"out_of_bounds": 31, "withheld": 30}
    kept = landing.lake.table("quarantine.trades").scan().collect()
    assert sorted(kept["row_number"]) == list(range(1, 62)), "every row is known by its place in the file"


@pytest.mark.usefixtures("small_batches")
def test_a_file_that_breaks_off_is_refused_whole(landing, csv_of, monkeypatch):
    from hfthot_platform.adapters.files import csv as csv_module

    read = csv_module.Csv.read

    def breaks_off(self, *arguments, **options):
        batches = read(self, *arguments, **options)
        yield next(batches)
        yield next(batches)
        raise RejectedFileError("truncated", "the file is cut off")

    monkeypatch.setattr(csv_module.Csv, "read", breaks_off)
    landing.drop("kraken_BTCEUR.csv", csv_of(0, 30))
    outcome = landing.run_one()
    assert (outcome.status, outcome.reason) == ("rejected", "truncated")
    assert (outcome.rows_published, outcome.rows_quarantined) == (0, 20)
    assert landing.rows().height == 0
    assert landing.quarantined() == {"withheld": 20}


# --- names, links, mappings ----------------------------------------------------------------------------------------


def test_files_of_the_same_name_are_all_kept(landing, csv_of):
    for n in range(4):
        # All with the same time of change, as copies that keep it have.
        landing.drop("kraken_BTCEUR.csv", csv_of(n * 10, 3), age=60)
        assert landing.run_one().status == "published"
    kept = sorted(landing.done.iterdir())
    assert len(kept) == 4
    assert {file.read_text() for file in kept} == {csv_of(n * 10, 3) for n in range(4)}
    assert all(file.suffix == ".csv" for file in kept)


def test_rejected_files_of_the_same_name_are_all_kept_with_their_reasons(landing):
    for _ in range(3):
        landing.drop("notes.txt", "buy milk\n")
        landing.run()
    kept = [file for file in landing.rejected.iterdir() if file.suffix == ".txt"]
    assert len(kept) == 3
    for file in kept:
        assert json.loads(file.with_name(f"{file.name}.reason.json").read_text())["reason"] == "unrecognised"


def test_mappings_of_the_same_name_are_all_kept(landing, csv_of):
    for n, symbol in enumerate(("BTC-EUR", "ETH-EUR")):
        landing.drop("a.csv", csv_of(n * 10, 3), mapping={"venue": "kraken", "symbol": symbol})
        landing.run()
    files = sorted(file for file in landing.done.iterdir() if file.suffix == ".csv")
    symbols = {json.loads(file.with_name(f"{file.name}.mapping.yaml").read_text())["symbol"] for file in files}
    assert symbols == {"BTC-EUR", "ETH-EUR"}
    assert landing.waiting() == set()


@pytest.mark.parametrize(
    "name",
    [
        "kraken_BTCEUR with blanks.csv",
        "kraken_BTCEUR_日本語_ü.csv",
        "kraken_BTCEUR\nnewline.csv",
        "kraken_BTCEUR'; DROP TABLE trades;--.csv",
        "kraken_BTCEUR%2F..%2F..%2Fetc.csv",
        "..kraken_BTCEUR.csv".removeprefix(".."),
        "kraken_BTCEUR\\..\\windows.csv",
        "-rf kraken_BTCEUR.csv",
        "* kraken_BTCEUR?.csv",
        os.fsdecode(b"kraken_BTCEUR\xff\xfe.csv"),
    ],
)
def test_any_file_name_is_only_a_name(landing, csv_of, name):
    landing.drop(name, csv_of(0, 3), mapping={"venue": "kraken", "symbol": "BTC-EUR"})
    outcome = landing.run_one()
    assert outcome.status == "published"
    assert (landing.done / name).is_file()
    printable = name.encode("utf-8", "replace").decode()
    assert outcome.name == printable
    assert landing.record(printable)["rows_published"] == 3


def test_an_odd_name_in_a_reason_is_readable(landing):
    name = os.fsdecode(b"notes\xff \xe6\x97.txt")
    landing.drop(name, "buy milk\n")
    outcome = landing.run_one()
    assert outcome.reason == "unrecognised"
    assert landing.reason(name)["name"] == outcome.name


def test_a_name_too_long_for_a_reason_beside_it_is_refused_with_one(landing, csv_of):
    name = "kraken_BTCEUR_" + "ü" * 118 + ".csv"
    assert len(name.encode()) == 254
    landing.drop(name, csv_of(0, 3))
    outcome = landing.run_one()
    assert outcome.reason == "name_too_long"
    (reason,) = landing.rejected.glob("*.reason.json")
    assert json.loads(reason.read_text())["name"] == name
    assert (landing.rejected / reason.name.removesuffix(".reason.json")).read_text() == csv_of(0, 3)


@pytest.mark.parametrize("inside", [True, False])
def test_a_symbolic_link_is_not_followed(landing, csv_of, tmp_path, inside):
    target = (landing.folder / ".store.csv") if inside else (tmp_path / "elsewhere.csv")
    target.write_text(csv_of(0, 3))
    link = landing.folder / "kraken_BTCEUR.csv"
    link.symlink_to(target)
    outcome = landing.run_one(settle_seconds=-(10**9))
    assert (outcome.reason, outcome.rows_read) == ("symbolic_link", 0)
    assert target.read_text() == csv_of(0, 3)
    assert (landing.rejected / "kraken_BTCEUR.csv").is_symlink()
    assert landing.reason("kraken_BTCEUR.csv")["reason"] == "symbolic_link"


def test_a_dangling_link_is_filed_away_too(landing):
    (landing.folder / "a.csv").symlink_to("/nowhere/at/all")
    assert landing.run_one(settle_seconds=-(10**9)).reason == "symbolic_link"


def test_a_link_to_a_folder_brings_nothing_in(landing, tmp_path, csv_of):
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "kraken_BTCEUR.csv").write_text(csv_of(0, 3))
    (landing.folder / "other").symlink_to(tmp_path / "other")
    assert landing.run_one(settle_seconds=-(10**9)).reason == "symbolic_link"
    assert landing.rows().height == 0


@pytest.mark.parametrize("name", ["done", "rejected"])
def test_a_file_in_the_place_of_a_folder_is_named(landing, name):
    landing.drop(name, "x")
    with pytest.raises(BadRequestError, match=f"'{name}' is a file"):
        landing.run()


@pytest.mark.skipif(os.geteuid() == 0, reason="root reads everything")
def test_an_unreadable_file_does_not_keep_others_waiting(landing, csv_of):
    landing.drop("a.csv", "x").chmod(0)
    landing.drop("kraken_BTCEUR.csv", csv_of(0, 3))
    assert {outcome.name: outcome.reason for outcome in landing.run()} == {
        "a.csv": "unreadable",
        "kraken_BTCEUR.csv": None,
    }


def _fails_on(amount):
    """Return a `progress` that fails as only a mistake in the code does."""

    def progress(done, total, unit):
        if done == amount and unit == "rows":
            raise ZeroDivisionError("a secret of the file")

    return progress


def test_a_file_on_which_the_code_fails_does_not_keep_others_waiting(landing, csv_of):
    landing.drop("kraken_BTCEUR_1.csv", csv_of(0, 3), age=60)
    landing.drop("kraken_BTCEUR_2.csv", csv_of(10, 4), age=50)
    failed = []

    first, second = landing.run(progress=_fails_on(3), on_unexpected=lambda path, error: failed.append((path, error)))

    assert (first.status, first.reason, second.status) == ("rejected", "unexpected_error", "published")
    assert "ZeroDivisionError at " in first.detail
    assert "secret" not in first.detail, "the text of an error may quote the file"
    assert [(path.name, type(error)) for path, error in failed] == [("kraken_BTCEUR_1.csv", ZeroDivisionError)]
    assert landing.reason("kraken_BTCEUR_1.csv")["reason"] == "unexpected_error"
    landing.drop("kraken_BTCEUR_1.csv", csv_of(0, 3))
    assert landing.run_one().status == "published", "it can be dropped again"


def test_a_panic_of_the_engine_is_one_files_failure(landing, csv_of):
    from polars.exceptions import PanicException

    landing.drop("kraken_BTCEUR_1.csv", csv_of(0, 3), age=60)
    landing.drop("kraken_BTCEUR_2.csv", csv_of(10, 4), age=50)

    def panics(done, total, unit):
        if done == 3:
            raise PanicException

    assert [outcome.reason for outcome in landing.run(progress=panics)] == ["unexpected_error", None]


def test_a_table_that_cannot_be_written_keeps_only_its_own_files_waiting(landing, csv_of):
    entry = Path(landing.lake.table("market.bars_1m").uri) / "_delta_log" / f"{0:020d}.json"
    entry.parent.mkdir(parents=True)
    entry.write_text("garbage")
    landing.drop("kraken_BTCEUR-1m.csv", f"ts,open,high,low,close,volume\n{START_MS},10,11,9,10,1\n", age=60)
    landing.drop("kraken_BTCEUR.csv", csv_of(10, 4), age=50)
    with pytest.raises(DamagedTableError) as caught:
        ingest_landing(landing.lake, landing.folder, now=NOW)
    assert "kraken_BTCEUR-1m.csv" in caught.value.__notes__[0]
    assert landing.waiting() == {"kraken_BTCEUR-1m.csv"}
    assert landing.rows().height == 4


def test_a_lake_that_must_be_migrated_rejects_no_file(landing, csv_of):
    from deltalake import DeltaTable

    landing.drop("kraken_BTCEUR.csv", csv_of(0, 3))
    landing.run()
    stored = DeltaTable(landing.lake.table("market.trades").uri)
    stored.alter.set_table_properties({"hfthot.schema_version": "99"}, raise_if_not_exists=False)
    landing.drop("kraken_BTCEUR_b.csv", csv_of(10, 3))
    with pytest.raises(SchemaMismatchError, match="the table has schema version 99"):
        ingest_landing(Lakehouse.open(landing.lake.storage.root), landing.folder, now=NOW)
    assert landing.waiting() == {"kraken_BTCEUR_b.csv"}


# --- crashes between the steps, and company ------------------------------------------------------------------------


def _dies(monkeypatch, name):
    def die(*args, **kwargs):
        raise Killed

    with monkeypatch.context() as patch:
        patch.setattr(files_module, name, die)
        yield


@pytest.mark.parametrize("step", ["record_outcomes", "file_away"])
@pytest.mark.parametrize("taken", [False, True])
def test_a_run_that_dies_after_publishing_is_completed_into_done(landing, csv_of, monkeypatch, step, taken):
    if taken:
        landing.drop("kraken_BTCEUR.csv", csv_of(100, 5))
        landing.run()
    landing.drop("kraken_BTCEUR.csv", csv_of(0, 5))
    for _ in _dies(monkeypatch, step):
        with pytest.raises(Killed):
            ingest_landing(landing.lake, landing.folder, now=NOW)
    assert landing.waiting() == {"kraken_BTCEUR.csv"}
    outcome = landing.run_one()
    assert outcome.status == ("published" if step == "record_outcomes" else "repeated")
    assert landing.waiting() == set()
    assert len(list(landing.done.iterdir())) == 1 + taken
    assert list(landing.rejected.iterdir()) == []
    assert landing.rows().height == 5 + 5 * taken
    assert landing.lake.table("ops.ingest_files").scan().collect()["rows_published"].to_list() == [5] * (1 + taken)


@pytest.mark.parametrize("good", [True, False])
def test_a_mapping_is_never_separated_from_its_file(landing, csv_of, monkeypatch, good):
    mapping = {"venue": "kraken", "symbol": "BTC-EUR"} if good else {"venue": "kraken", "columns": {"ts": "?"}}
    landing.drop("a.csv", csv_of(0, 5), mapping=mapping)
    folder = landing.done if good else landing.rejected
    replace_file = os.replace

    def die_before(*args):
        raise Killed

    def die_after(*args):
        replace_file(*args)
        raise Killed

    for how in (die_before, die_after):
        with monkeypatch.context() as patch:
            patch.setattr(files_module.os, "replace", how)
            with pytest.raises(Killed):
                ingest_landing(landing.lake, landing.folder, now=NOW)
    assert landing.waiting() == {"a.csv.mapping.yaml"}
    assert landing.run() == []
    assert landing.waiting() == set()
    assert {"a.csv", "a.csv.mapping.yaml"} <= {entry.name for entry in folder.iterdir()}


@pytest.mark.parametrize("own", [None, {"symbol": "BTC-EUR"}])
def test_the_mapping_of_a_folder_travels_with_each_of_its_files(landing, csv_of, own):
    (landing.folder / "mapping.yaml").write_text("venue: kraken\nsymbol: ETH-EUR\nzone: Europe/Berlin\n")
    landing.drop("a.csv", csv_of(0, 5), mapping=own)
    landing.run()
    beside = landing.done / "a.csv.mapping.yaml"
    symbol = "BTC-EUR" if own else "ETH-EUR"
    assert beside.read_text() == f"venue: kraken\nsymbol: {symbol}\nzone: Europe/Berlin\n"
    assert landing.rows()["symbol"].unique().to_list() == [symbol]
    assert landing.waiting() == {"mapping.yaml"}
    (again,) = ingest_files(landing.lake, [landing.done / "a.csv"])
    assert again.status == "repeated", "the same content with the same mapping"


def test_a_mapping_dropped_before_its_file_waits_for_it(landing, csv_of):
    (landing.folder / "a.csv.mapping.yaml").write_text(json.dumps({"venue": "kraken", "symbol": "BTC-EUR"}))
    assert landing.run() == []
    landing.drop("a.csv", csv_of(0, 5))
    assert landing.run_one().rows_published == 5


def test_one_process_at_a_time_works_on_a_folder(landing, csv_of, monkeypatch):
    landing.drop("kraken_BTCEUR.csv", csv_of(0, 5))
    monkeypatch.setattr(
        files_module, "writers_lock", lambda path, exclusive: writers_lock(path, exclusive=exclusive, timeout=0.05)
    )
    with writers_lock(landing.folder / ".landing.lock", exclusive=True), pytest.raises(LockTimeoutError):
        ingest_landing(landing.lake, landing.folder, now=NOW)
    assert landing.run_one().status == "published"


TWO = """
import sys
from datetime import UTC, datetime
from pathlib import Path
from hfthot_platform.services.ingest import ingest_landing
from hfthot_platform.storage.lakehouse import Lakehouse
print("ready", flush=True)
sys.stdin.readline()
outcomes = ingest_landing(Lakehouse.open(sys.argv[1]), Path(sys.argv[2]), now=datetime.now(UTC), settle_seconds=0)
print(sum(outcome.status == "published" for outcome in outcomes), len(outcomes))
"""


@pytest.mark.soak
def test_two_processes_on_one_folder_share_the_files(landing, csv_of, accounted):
    for n in range(12):
        landing.drop(f"kraken_BTCEUR_{n}.csv", csv_of(n * 8, 10))
    arguments = [sys.executable, "-c", TWO, str(landing.lake.storage.root), str(landing.folder)]
    pipe = subprocess.PIPE
    processes = [subprocess.Popen(arguments, stdin=pipe, stdout=pipe, text=True) for _ in range(2)]
    for process in processes:
        assert process.stdout.readline() == "ready\n"
    counts = [process.communicate("go\n", timeout=120)[0].split() for process in processes]
    assert [sum(int(count[i]) for count in counts) for i in (0, 1)] == [12, 12]
    assert all(process.returncode == 0 for process in processes)
    accounted(landing.lake)
    assert landing.rows().height == 12 * 8 + 2
    assert len(list(landing.done.iterdir())) == 12


# --- files where they are ------------------------------------------------------------------------------------------


def test_files_can_be_ingested_where_they_are(landing, csv_of, tmp_path, accounted):
    folder = tmp_path / "archive" / "kraken"
    folder.mkdir(parents=True)
    (folder / "BTCEUR.csv").write_text(csv_of(0, 5))
    (folder / "ETHEUR.csv.gz").write_bytes(gzip.compress(csv_of(0, 6).encode()))
    (folder / "XRPEUR.csv.part").write_text("half")
    (folder / "notes.txt").write_text("hello\n")
    (folder / "notes.txt.reason.json").write_text("{}")
    seen = []
    outcomes = ingest_files(landing.lake, [tmp_path / "archive"], on_outcome=seen.append)
    assert outcomes == seen
    assert {outcome.name: outcome.status for outcome in outcomes} == {
        "BTCEUR.csv": "published",
        "ETHEUR.csv.gz": "published",
        "notes.txt": "rejected",
    }
    assert len(list(folder.iterdir())) == 5
    accounted(landing.lake)
    again = ingest_files(landing.lake, [folder / "BTCEUR.csv"])
    assert again[0].status == "repeated"


def test_a_path_that_is_not_there_is_named(landing, tmp_path):
    with pytest.raises(BadRequestError, match="no such file or folder"):
        ingest_files(landing.lake, [Path(tmp_path / "missing.csv")])


def test_an_incident_names_its_file_once(landing):
    landing.drop("empty.csv", "")
    landing.drop("notes.txt", "hello\n")

    outcomes = landing.run()

    for outcome in outcomes:
        assert incident_of(outcome, NOW, Stamp()).message.count(outcome.name) == 1


def test_a_suggestion_in_a_message_ends_with_its_question_mark(landing, csv_of):
    landing.drop("kraken_BTCEUR.csv", csv_of(0, 10), mapping={"vnue": "kraken"})

    (outcome,) = landing.run()

    assert "Did you mean 'venue'? Correct the mapping" in outcome.detail


def test_a_file_of_bars_whose_run_died_before_it_was_recorded_is_counted_as_if_it_had_not(landing):
    lines = "".join(f"{1_704_067_200_000 + minute * 60_000},10,11,9,10,1\n" for minute in range(12))
    content = "ts,open,high,low,close,volume\n" + lines
    landing.drop("kraken_BTCEUR-1m_0.csv", content)
    whole = landing.run_one()
    # What a kill between the two commits leaves: the rows are public, and nothing is recorded of the file.
    landing.lake.table("ops.ingest_files").replace(None, landing.lake.table("ops.ingest_files").contract.empty())
    landing.drop("kraken_BTCEUR-1m_0.csv", content)

    again = landing.run_one()

    counts = [(one.rows_read, one.rows_published, one.rows_duplicate, one.rows_quarantined) for one in (whole, again)]
    assert counts == [(12, 12, 0, 0)] * 2
    assert landing.lake.table("market.bars_1m").scan().collect()["final"].all()
