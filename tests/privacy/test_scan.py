"""The proof scan finds a value wherever and however it is written, says where but never what, and proves itself."""

from __future__ import annotations

import base64
import gzip
import io
import json
import lzma
import os
import sqlite3
import subprocess
import sys
import zipfile
from pathlib import Path
from urllib.parse import quote, quote_plus

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from hfthot_platform.errors import ErasureUnverifiedError
from hfthot_platform.privacy import scan as module
from hfthot_platform.privacy._outside import SQLITE, Outside
from hfthot_platform.privacy.scan import Folder, Needle, scan

EMAIL = "Zoé.Müller+test@example.org"
NEEDLE = Needle("email", EMAIL)

ENCODED = {
    "utf-8": EMAIL.encode(),
    "upper case": EMAIL.upper().encode(),
    "lower case": EMAIL.lower().encode(),
    "latin-1": EMAIL.encode("latin-1"),
    "decomposed": __import__("unicodedata").normalize("NFD", EMAIL).encode(),
    "url": quote(EMAIL, safe="").encode(),
    "url, lower case": quote(EMAIL, safe="").lower().encode(),
    "url within url": quote(quote(EMAIL, safe=""), safe="").encode(),
    "form": quote_plus(EMAIL).encode(),
    "json": json.dumps(EMAIL).encode(),
    "json within json": json.dumps(json.dumps(EMAIL)).encode(),
    "html": b"Zo&eacute;.M&#252;ller&#x2b;test@example.org",
    "utf-16-le": EMAIL.encode("utf-16-le"),
    "utf-16-be": EMAIL.encode("utf-16-be"),
    "hex": EMAIL.encode().hex().encode(),
    "hex, upper case": EMAIL.encode().hex().upper().encode(),
    "base64": base64.b64encode(EMAIL.encode()),
    "base64, second alignment": base64.b64encode(b"~" + EMAIL.encode() + b"~~~"),
    "base64, third alignment": base64.b64encode(b"~~" + EMAIL.encode() + b"~"),
    "base64 for urls": base64.urlsafe_b64encode(b"??>" + EMAIL.encode()),
    "base64 of lower case": base64.b64encode(EMAIL.lower().encode()),
}


@pytest.fixture
def place(tmp_path: Path) -> Folder:
    folder = tmp_path / "place"
    folder.mkdir()
    return Folder("lake", folder)


def looked(place: Folder, *needles: Needle):
    return scan(needles or (NEEDLE,), [place])


@pytest.mark.parametrize("form", ENCODED)
def test_a_value_is_found_in_every_encoding(place, form):
    (place.root / "some.log").write_bytes(b"before " + ENCODED[form] + b" after")

    (finding, *_) = looked(place).findings

    assert (finding.place, finding.file, finding.kind, finding.inside) == ("lake", "some.log", "email", "bytes")


def test_the_offset_leads_to_the_value(place):
    (place.root / "some.log").write_bytes(b"." * 12_345_678 + EMAIL.encode())

    (finding,) = looked(place).findings

    assert finding.offset == 12_345_678


@pytest.mark.parametrize("shift", [-4096, -40, -27, -13, -1, 0, 1, 4096, 8191, 8192])
def test_a_value_across_the_border_of_two_blocks_is_found_once(place, shift):
    at = module._BLOCK + shift
    (place.root / "some.log").write_bytes(b"." * at + EMAIL.encode() + b"." * 20_000_000)

    (finding,) = looked(place).findings

    assert finding.offset == at


def packed_gzip(data):
    return gzip.compress(data)


def packed_zip(data):
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("a.txt", b"nothing")
        archive.writestr("b.txt", data)
    return out.getvalue()


def packed_zip_in_gzip(data):
    return gzip.compress(packed_zip(data))


def packed_parquet(data, **options):
    out = io.BytesIO()
    pq.write_table(pa.table({"x": pa.array([data] * 2 + [b"other"] * 50)}), out, **options)
    return out.getvalue()


def packed_parquet_in_zip(data):
    return packed_zip(packed_parquet(data, compression="zstd", write_statistics=False))


def packed_zstd(data):
    out = pa.BufferOutputStream()
    with pa.CompressedOutputStream(out, "zstd") as stream:
        stream.write(data)
    return out.getvalue().to_pybytes()


@pytest.mark.parametrize(
    "pack", [packed_gzip, packed_zip, packed_zip_in_gzip, packed_parquet_in_zip, packed_zstd, lzma.compress]
)
@pytest.mark.parametrize("form", ["utf-8", "utf-16-le", "json", "base64, second alignment"])
def test_a_value_inside_an_archive_is_found(place, pack, form):
    (place.root / "archive.bin").write_bytes(pack(b"before " + ENCODED[form] + b" after"))

    assert {each.inside for each in looked(place).findings} - {"bytes"}


@pytest.mark.parametrize("compression", ["none", "snappy", "gzip", "zstd", "lz4", "brotli"])
@pytest.mark.parametrize("dictionary", [True, False], ids=["dictionary", "plain"])
def test_a_value_inside_parquet_pages_is_found(place, compression, dictionary):
    content = packed_parquet(EMAIL, compression=compression, use_dictionary=dictionary, write_statistics=False)
    (place.root / "part.parquet").write_bytes(content)

    assert "parquet" in {each.inside for each in looked(place).findings}


@pytest.mark.parametrize(
    "column",
    [
        pa.array([{"a": [EMAIL]}]),
        pa.array([[{"a": EMAIL}], []]),
        pa.array([[("k", EMAIL)]], pa.map_(pa.string(), pa.string())),
        pa.array([EMAIL], pa.large_string()),
        pa.array([EMAIL.encode()], pa.binary()),
        pa.array([EMAIL.encode()], pa.binary(len(EMAIL.encode()))),
        pa.array([EMAIL]).dictionary_encode(),
    ],
    ids=["struct", "list", "map", "large", "binary", "fixed", "dictionary"],
)
def test_a_value_inside_a_nested_parquet_column_is_found(place, column):
    pq.write_table(pa.table({"x": column}), place.root / "part.parquet", compression="zstd", write_statistics=False)

    assert {each.inside for each in looked(place).findings} >= {"parquet"}


def test_a_value_in_parquet_statistics_is_found(place):
    content = packed_parquet(EMAIL, compression="zstd", write_statistics=True)
    (place.root / "part.parquet").write_bytes(content)

    assert "bytes" in {each.inside for each in looked(place).findings}


def test_a_name_beside_other_values_of_a_parquet_column_is_a_word(place):
    pq.write_table(pa.table({"x": ["left", "Zoltan", "right"]}), place.root / "part.parquet", compression="zstd")

    assert looked(place, Needle("first_name", "zoltan", whole_word=True)).findings


def test_a_value_in_a_sqlite_row_across_pages_is_found(place):
    base = sqlite3.connect(place.root / "events.db")
    base.execute("CREATE TABLE events (body TEXT)")
    base.executemany(
        "INSERT INTO events VALUES (?)", [("x" * length + EMAIL + "y" * 5000,) for length in range(3500, 4600, 5)]
    )
    base.commit()
    base.close()

    rows = {each.inside for each in looked(place).findings}

    assert "sqlite" in rows


def test_a_value_in_a_write_ahead_log_is_found(place):
    base = sqlite3.connect(place.root / "events.db")
    base.execute("PRAGMA journal_mode = WAL")
    base.execute("CREATE TABLE events (body TEXT)")
    base.execute("INSERT INTO events VALUES (?)", (EMAIL,))
    base.commit()

    found = {each.file for each in looked(place).findings}

    base.close()
    assert "events.db-wal" in found


def test_a_scan_leaves_the_locks_of_this_process_alone(place):
    """Who closes a file lets go of its process's locks; the next to close the database would clear its log away."""
    path = place.root / "events.db"
    base = sqlite3.connect(path)
    base.execute("PRAGMA journal_mode = WAL")
    base.execute("CREATE TABLE events (body TEXT)")
    log = path.with_name("events.db-wal")
    before = log.stat().st_ino

    report = looked(place)
    another = (
        "import sqlite3, sys; base = sqlite3.connect(sys.argv[1]); base.execute('SELECT * FROM events'); base.close()"
    )
    subprocess.run([sys.executable, "-c", another, str(path)], check=True)

    assert report.places[0].files == 3
    assert log.stat().st_ino == before
    base.close()


def test_a_value_in_a_damaged_database_is_found_in_its_bytes(place):
    (place.root / "cut.db").write_bytes(SQLITE + b"." * 12_345_678 + EMAIL.encode())

    report = looked(place)

    assert [each.offset for each in report.findings] == [12_345_678 + len(SQLITE)]
    assert report.places[0].opaque == ("cut.db",)


def test_an_archive_that_is_named_like_a_databases_log_is_opened(place):
    (place.root / "odd.db-wal").write_bytes(packed_zip(b" ".join([EMAIL.encode()] * 50)))

    assert {each.inside for each in looked(place).findings} >= {"zip:1"}


def test_without_the_process_that_reads_databases_a_scan_does_not_count(place, monkeypatch):
    monkeypatch.setattr(sys, "executable", "/absent/python")
    (place.root / "some.log").write_text(EMAIL)

    with pytest.raises(ErasureUnverifiedError, match="planted to test it"):
        looked(place)


def test_a_file_that_is_absent_is_so_for_the_process_outside_too(place):
    with Outside() as outside, pytest.raises(FileNotFoundError, match="absent"):
        outside.open(place.root / "absent")


def test_a_value_in_the_name_of_a_file_or_folder_is_found_and_withheld(place):
    (place.root / f"export of {EMAIL.lower()}").mkdir()
    (place.root / f"export of {EMAIL.lower()}" / "a.json").write_text(EMAIL)

    report = looked(place)

    assert {each.inside for each in report.findings} == {"name", "bytes"}
    assert all("example.org" not in str(each) for each in report.findings)


def test_the_target_of_a_link_is_looked_at_and_not_followed(place, tmp_path):
    outside = tmp_path / "outside.txt"
    outside.write_text(EMAIL)
    (place.root / "safe").symlink_to(outside)
    assert not looked(place).findings

    (place.root / "other").symlink_to(tmp_path / EMAIL)
    assert {each.inside for each in looked(place).findings} == {"name"}


def test_neither_report_nor_needle_shows_the_value(place):
    (place.root / "some.log").write_text(EMAIL)

    report = looked(place)

    assert report.findings
    assert "example.org" not in repr(report)
    assert "example.org" not in repr(NEEDLE)


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("Marlin", True),
        ("hello MARLIN!", True),
        ('{"n":"x\\nmarlin"}', True),
        ("?n=%20marlin&", True),
        ("marlin_smith", True),
        ("marlins", False),
        ("xmarlin", False),
    ],
)
def test_a_name_counts_as_a_word_only(place, text, found):
    (place.root / "some.log").write_text(text)

    assert bool(looked(place, Needle("first_name", "Marlin", whole_word=True)).findings) == found


@pytest.mark.parametrize(
    ("text", "found"),
    [("from 10.20.30.4.", True), ("10.20.30.40", False), ("110.20.30.4", False), ("10.20.30.4.5", False)],
)
def test_an_address_is_no_part_of_another_address(place, text, found):
    (place.root / "some.log").write_text(text)

    assert bool(looked(place, Needle("ip", "10.20.30.4", whole_word=True)).findings) == found


def test_a_short_name_is_not_found_in_binary_noise(place):
    noise = np.random.default_rng(7).integers(0, 256, 4_000_000, dtype=np.uint8)
    noise[1_000_000:1_000_004] = np.frombuffer(b"Anna", dtype=np.uint8)
    noise[[999_999, 1_000_004]] = 0
    (place.root / "noise.bin").write_bytes(noise.tobytes())
    (place.root / "some.log").write_text("said Anna to the others")

    assert {each.file for each in looked(place, Needle("first_name", "anna", whole_word=True)).findings} == {"some.log"}


def test_what_is_too_short_to_be_looked_for_is_said(place):
    report = looked(place, Needle("first_name", "Al", whole_word=True), NEEDLE)

    assert report.left_out == (("first_name", "shorter than four characters"),)
    assert report.needles == {"email": 1, "first_name": 1}


def test_bytes_are_found_raw_and_coded(place):
    token = bytes(range(200, 232))
    (place.root / "a").write_bytes(b"--" + token)
    (place.root / "b").write_text(token.hex())
    (place.root / "c").write_bytes(base64.b64encode(b"1" + token))

    assert {each.file for each in looked(place, Needle("token", token)).findings} == {"a", "b", "c"}


def test_a_file_that_cannot_be_decoded_is_named_and_read_as_bytes(place):
    (place.root / "cut.parquet").write_bytes(packed_parquet(EMAIL, write_statistics=True)[:-20])
    (place.root / "cut.gz").write_bytes(gzip.compress(os.urandom(1000))[:500])

    report = looked(place)

    assert report.places[0].opaque == ("cut.gz", "cut.parquet")
    assert report.findings


@pytest.mark.parametrize("shift", [-40, -len(EMAIL.encode()), -1, 0, 1, 40])
def test_a_value_across_the_border_of_two_sections_is_found_once(place, monkeypatch, shift):
    section = 1 << 16
    monkeypatch.setattr(module, "_SECTION", section)
    content = bytearray(b"\xff" * (5 * section + 100))
    at = [number * section + shift for number in (1, 2, 5)]
    for offset in at:
        content[offset : offset + len(EMAIL.encode())] = EMAIL.encode()
    (place.root / "large.bin").write_bytes(content)

    report = scan([NEEDLE], [place])

    assert [each.offset for each in report.findings] == at
    assert report.places[0].bytes == len(content)


def test_the_rows_of_a_large_database_are_looked_at_too(place, monkeypatch):
    monkeypatch.setattr(module, "_SECTION", 1 << 16)
    with sqlite3.connect(place.root / "large.db") as base:
        base.execute("CREATE TABLE notes (text TEXT)")
        filler = "".join(chr(0x4E00 + number % 20_000) for number in range(60_000))
        base.execute("INSERT INTO notes VALUES (?)", (filler[:30_000] + f" {EMAIL} " + filler,))
    base.close()

    assert {each.file for each in scan([NEEDLE], [place]).findings} == {"large.db"}


def test_a_clean_place_is_clean_and_counted(place):
    (place.root / "some.log").write_text("nothing")

    report = looked(place)

    assert report.clean
    assert report.canaries > 20
    assert (report.files, report.bytes, report.bytes_decoded) == (1, 7, 0)


def test_nothing_of_the_canary_remains(place):
    (place.root / "some.log").write_text("nothing")

    looked(place)

    assert [path.name for path in place.root.iterdir()] == ["some.log"]


def test_canaries_of_a_killed_scan_are_removed_by_the_next(place):
    canary = module._Canary("0123456789abcdef01234567")
    place.plant(canary)
    canary.release()
    assert len(list(place.root.iterdir())) == 1

    report = looked(place)

    assert report.clean
    assert not list(place.root.iterdir())


def test_a_scan_that_misses_its_canary_does_not_count(place, monkeypatch):
    monkeypatch.setattr(module._Reader, "parquet", lambda *_: None)

    with pytest.raises(ErasureUnverifiedError, match="planted to test it"):
        looked(place)

    assert not list(place.root.iterdir())


def test_of_a_folder_shared_with_others_only_the_named_part_is_read(tmp_path):
    (tmp_path / "staging-1").mkdir()
    (tmp_path / "staging-1" / "a").write_text(EMAIL)
    (tmp_path / "foreign").write_text(EMAIL)

    report = scan([NEEDLE], [Folder("temporary", tmp_path, only=("staging-*",))])

    assert {each.file for each in report.findings} == {"staging-1/a"}


def test_a_folder_that_does_not_exist_is_empty(tmp_path):
    report = scan([NEEDLE], [Folder("exports", tmp_path / "absent")])

    assert report.clean
    assert report.files == 0


def test_the_largest_file_takes_bounded_memory(place):
    import tracemalloc

    with (place.root / "large.log").open("wb") as out:
        for _ in range(100):
            out.write(b"line of a log file\n" * 55_000)
    looked(place)  # everything imported and compiled

    tracemalloc.start()
    looked(place)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()

    assert peak < 64_000_000


def test_the_canary_of_a_scan_that_lives_is_left_alone(place):
    canary = module._Canary("0123456789abcdef01234567")
    planted = place.plant(canary)

    assert looked(place).clean

    assert len(list(next(place.root.iterdir()).iterdir())) == len({file for file, _, _ in planted})
    canary.release()
