"""The proof scan finds a value wherever and however it is written, says where but never what, and proves itself."""

from __future__ import annotations

import base64
import bz2
import gzip
import io
import itertools
import json
import lzma
import os
import quopri
import random
import socket
import sqlite3
import subprocess
import sys
import tarfile
import unicodedata
import zipfile
import zlib
from pathlib import Path
from typing import Any
from urllib.parse import quote, quote_plus

import numpy as np
import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from pyarrow import orc

from hfthot_platform.core.errors import ErasureUnverifiedError
from hfthot_platform.services.privacy.proof.canary import Canary
from hfthot_platform.services.privacy.proof.readers import PlaceReader
from hfthot_platform.services.privacy.proof.scan import Folder, Needle, ScanLimits, scan
from hfthot_platform.services.privacy.proof.search import Searcher
from hfthot_platform.services.privacy.proof.sqlite_reader import SQLITE, FileOpener

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
    "quoted-printable": quopri.encodestring(EMAIL.encode(), quotetabs=True),
    "every character for urls": "".join(f"%{byte:02X}" for byte in EMAIL.encode()).encode(),
    "every character for mail": "".join(f"={byte:02X}" for byte in EMAIL.encode()).encode(),
    "every character for html": "".join(f"&#{ord(character)};" for character in EMAIL).encode(),
    "every character for html, base 16": "".join(f"&#x{ord(character):X};" for character in EMAIL).encode(),
    "every character for json": "".join(f"\\u{ord(character):04x}" for character in EMAIL).encode(),
    "base64 of lower case": base64.b64encode(EMAIL.lower().encode()),
}


@pytest.fixture
def place(tmp_path: Path) -> Folder:
    folder = tmp_path / "place"
    folder.mkdir()
    return Folder("lake", folder)


def looked(place: Folder, *needles: Needle, **options: Any):
    return scan(needles or (NEEDLE,), [place], **options)


@pytest.mark.soak
@pytest.mark.parametrize("around", ["%0A", "=0A", "&#10;", "\\u000a", "&quot;"])
def test_an_escape_beside_a_value_is_no_part_of_it(place, around):
    (place.root / "some.log").write_bytes(around.encode() + EMAIL.encode() + around.encode())
    assert len(looked(place).findings) == 1


def test_a_packed_file_that_does_not_say_so_is_unpacked_or_named(place):
    text = "\n".join(f"{number:x}{number**9:x}" for number in range(3000)) + EMAIL
    archive = io.BytesIO()
    with zipfile.ZipFile(archive, "w", zipfile.ZIP_DEFLATED) as out:
        out.writestr("a", text)
    (place.root / "with a program").write_bytes(b"#!/bin/sh\nexit\n" + archive.getvalue())
    packed = zlib.compress(text.encode() + random.Random(1).randbytes(4000))
    (place.root / "bare").write_bytes(packed[2:-4])
    (place.root / "behind a line").write_bytes(b"dump:\n" + gzip.compress(packed))
    (place.root / "picture").write_bytes(b"\x89PNG" + random.Random(1).randbytes(4000))
    (place.root / "plain").write_text(text.replace(EMAIL, ""))
    report = looked(place)
    assert {finding.file for finding in report.findings} == {"with a program"}
    told = {
        "bare (unknown; it looks compressed or encrypted)",
        "behind a line (unknown; it looks compressed or encrypted)",
    }
    assert set(report.places[0].undecoded) == told


@pytest.mark.parametrize("form", ENCODED)
def test_a_value_is_found_in_every_encoding(place, form):
    (place.root / "some.log").write_bytes(b"before " + ENCODED[form] + b" after")

    (finding, *_) = looked(place).findings

    assert (finding.place, finding.file, finding.kind, finding.inside) == ("lake", "some.log", "email", "bytes")


@pytest.mark.soak
@pytest.mark.parametrize("form", ENCODED)
def test_a_value_that_is_there_often_is_found_each_time(form):
    line = b"before \n" + ENCODED[form] + b"\n after "
    searcher = Searcher([NEEDLE])
    once = [(hit.offset, hit.end, hit.encoding) for hit in searcher.search(line)]
    assert once
    found = [(hit.offset, hit.end, hit.encoding) for hit in searcher.search(line * 1_200)]
    assert found == [
        (number * len(line) + offset, number * len(line) + end, encoding)
        for number in range(1_200)
        for offset, end, encoding in once
    ]


@pytest.mark.parametrize("written", [b"A&amp;B &amp;amp; C", b"A&amp;B &amp;amp;amp; C", b"A&amp;amp;B &amp; C"])
def test_a_value_that_is_also_an_escape_is_found_however_it_is_read(place, written):
    """An escape in the text may be a character of the value, or several of them."""
    (place.root / "some.log").write_bytes(written)
    value = written.decode().replace("&amp;", "&")
    assert {finding.kind for finding in looked(place, Needle("given", value), Needle("read", written)).findings} == {
        "given",
        "read",
    }


def test_the_offset_leads_to_the_value(place):
    (place.root / "some.log").write_bytes(b"." * 12_345_678 + EMAIL.encode())

    (finding,) = looked(place).findings

    assert finding.offset == 12_345_678


@pytest.mark.soak
@pytest.mark.parametrize("shift", [-4096, -40, -27, -13, -1, 0, 1, 4096, 8191, 8192])
def test_a_value_across_the_border_of_two_blocks_is_found_once(place, shift):
    at = ScanLimits().block + shift
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

    assert {finding.inside for finding in looked(place).findings} - {"bytes"}


@pytest.mark.parametrize("compression", ["none", "snappy", "gzip", "zstd", "lz4", "brotli"])
@pytest.mark.parametrize("dictionary", [True, False], ids=["dictionary", "plain"])
def test_a_value_inside_parquet_pages_is_found(place, compression, dictionary):
    content = packed_parquet(EMAIL, compression=compression, use_dictionary=dictionary, write_statistics=False)
    (place.root / "part.parquet").write_bytes(content)

    assert "parquet" in {finding.inside for finding in looked(place).findings}


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

    assert {finding.inside for finding in looked(place).findings} >= {"parquet"}


def addresses(at: int = 2222) -> list[str]:
    """Return many addresses that do not compress away, with one of ours among them."""
    dice = random.Random(7)
    made = ["".join(dice.choices("abcdefghijklmnopqrstuvwxyz", k=12)) + "@crowd.example.net" for _ in range(3000)]
    made[at] = EMAIL
    return made


def lines(at: int = 2222) -> bytes:
    return "\n".join(addresses(at)).encode()


def written(write) -> bytes:
    out = io.BytesIO()
    write(out)
    return out.getvalue()


def packed_tar(data, name="inner"):
    def write(out):
        with tarfile.open(fileobj=out, mode="w") as archive:
            member = tarfile.TarInfo(name)
            member.size = len(data)
            archive.addfile(member, io.BytesIO(data))

    return written(write)


def packed_lz4(data):
    out = pa.BufferOutputStream()
    with pa.CompressedOutputStream(out, "lz4") as stream:
        stream.write(data)
    return out.getvalue().to_pybytes()


def packed_database(tmp_path):
    path = tmp_path / "packed.db"
    base = sqlite3.connect(path)
    base.execute("PRAGMA journal_mode = WAL")
    base.execute("CREATE TABLE events (body TEXT)")
    base.executemany(
        "INSERT INTO events VALUES (?)", [("x" * length + EMAIL + "y" * 5000,) for length in range(3500, 4600, 5)]
    )
    base.commit()
    base.close()
    return gzip.compress(path.read_bytes())


def frame():
    return pl.DataFrame({"mail": addresses()})


CONTAINERS = {
    "feather, lz4": lambda _: written(lambda out: frame().write_ipc(out, compression="lz4")),
    "feather, zstd": lambda _: written(lambda out: frame().write_ipc(out, compression="zstd")),
    "feather, categories": lambda _: written(
        lambda out: frame().cast(pl.Categorical).write_ipc(out, compression="zstd")
    ),
    "arrow stream": lambda _: written(lambda out: frame().write_ipc_stream(out, compression="zstd")),
    "orc": lambda _: written(lambda out: orc.write_table(frame().to_arrow(), out, compression="zlib")),
    "bzip2": lambda _: bz2.compress(lines()),
    "lzma": lambda _: lzma.compress(lines(), format=lzma.FORMAT_ALONE),
    "zlib": lambda _: zlib.compress(lines()),
    "lz4": lambda _: packed_lz4(lines()),
    "gzip, two members": lambda _: gzip.compress(b"first") + gzip.compress(lines()),
    "gzip in gzip in gzip": lambda _: gzip.compress(gzip.compress(gzip.compress(lines()))),
    "tar in zip": lambda _: packed_zip(packed_tar(gzip.compress(lines()))),
    "zip in tar in gzip": lambda _: gzip.compress(packed_tar(packed_zip(lines()))),
    "feather in tar": lambda _: packed_tar(CONTAINERS["feather, lz4"](_)),
    "database in gzip": packed_database,
}


def test_a_value_inside_any_container_is_found(place, tmp_path):
    for kind, make in CONTAINERS.items():
        content = make(tmp_path)
        assert EMAIL.encode() not in content
        (place.root / kind).write_bytes(content)

    report = looked(place)

    assert {finding.file for finding in report.findings} == set(CONTAINERS)
    assert report.places[0].opaque == ()


def cut(data, share=0.95):
    return data[: int(len(data) * share)]


def altered(data, at):
    changed = bytearray(data)
    changed[at] ^= 0x55
    return bytes(changed)


def without_directory(data):
    return data.replace(b"PK\x01\x02", b"PK\x09\x09")


def arrow_without_its_end():
    out = io.BytesIO()
    table = pa.table({"mail": addresses()})
    with pa.ipc.new_file(out, table.schema, options=pa.ipc.IpcWriteOptions(compression="zstd")) as file:
        file.write_table(table)
    return out.getvalue()[:-30]


LAST = 2999
DAMAGED = {
    "gzip, cut off": lambda: cut(gzip.compress(lines())),
    "gzip, wrong checksum": lambda: altered(gzip.compress(lines()), -8),
    "gzip, wrong checksum behind the value": lambda: altered(gzip.compress(lines(LAST)), -8),
    "bzip2, wrong checksum behind the value": lambda: altered(bz2.compress(lines(LAST)), -3),
    "xz, wrong index behind the value": lambda: altered(lzma.compress(lines(LAST)), -30),
    "zstd, cut off": lambda: packed_zstd(lines() + os.urandom(500_000))[:-300_000],
    "zip, cut off": lambda: packed_zip(lines())[:-60],
    "zip, without its directory": lambda: without_directory(packed_zip(lines())),
    "zip, wrong checksum": lambda: altered(packed_zip(lines(LAST)), packed_zip(lines(LAST)).rindex(b"PK\x01\x02") + 16),
    "gzip in a zip that is cut off": lambda: packed_zip(gzip.compress(lines()))[:-60],
    "arrow, without its end": arrow_without_its_end,
}


def test_what_decodes_before_a_damage_is_searched_and_the_damage_told(place):
    for kind, make in DAMAGED.items():
        content = make()
        assert EMAIL.encode() not in content
        (place.root / kind).write_bytes(content)

    report = looked(place)

    assert {finding.file for finding in report.findings} == set(DAMAGED)
    assert set(report.places[0].opaque) == set(DAMAGED)


def test_a_format_that_is_not_decoded_is_told(place):
    begins = {
        "7z": b"7z\xbc\xaf\x27\x1c",
        "rar": b"Rar!\x1a\x07\x01\x00",
        "avro": b"Obj\x01",
        "hdf5": b"\x89HDF\r\n\x1a\n",
        "pdf": b"%PDF-1.7",
        "openssl": b"Salted__",
    }
    for kind, head in begins.items():
        (place.root / kind).write_bytes(head + os.urandom(100))
        (place.root / f"{kind}.gz").write_bytes(gzip.compress(head + bytes(100)))

    report = looked(place)

    told = {f"{kind}{end} ({kind})" for kind in begins for end in ("", ".gz")}
    assert set(report.places[0].undecoded) == told


def test_an_archive_that_unpacks_without_end_is_given_up_and_told(place):
    (place.root / "bomb.gz").write_bytes(gzip.compress(gzip.compress(bytes(200_000_000), 1), 1))

    assert looked(place, limits=ScanLimits(unpacked=100_000_000)).places[0].opaque == ("bomb.gz",)


def test_many_findings_of_one_value_hide_no_other_one(place):
    (place.root / "a.log").write_text("Marlin " * 1000)
    (place.root / "b.log").write_text(EMAIL)

    report = looked(place, Needle("first_name", "Marlin", whole_word=True), NEEDLE, limits=ScanLimits(alike=5))

    assert {finding.kind for finding in report.findings} == {"first_name", "email"}
    assert len(report.findings) == 6
    assert sorted(report.counts.values()) == [1, 1000]
    assert not report.truncated


def test_a_value_in_parquet_statistics_is_found(place):
    content = packed_parquet(EMAIL, compression="zstd", write_statistics=True)
    (place.root / "part.parquet").write_bytes(content)

    assert "bytes" in {finding.inside for finding in looked(place).findings}


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

    rows = {finding.inside for finding in looked(place).findings}

    assert "sqlite" in rows


def test_a_value_in_a_write_ahead_log_is_found(place):
    base = sqlite3.connect(place.root / "events.db")
    base.execute("PRAGMA journal_mode = WAL")
    base.execute("CREATE TABLE events (body TEXT)")
    base.execute("INSERT INTO events VALUES (?)", (EMAIL,))
    base.commit()

    found = {finding.file for finding in looked(place).findings}

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

    assert [finding.offset for finding in report.findings] == [12_345_678 + len(SQLITE)]
    assert report.places[0].opaque == ("cut.db",)


def test_an_archive_that_is_named_like_a_databases_log_is_opened(place):
    (place.root / "odd.db-wal").write_bytes(packed_zip(b" ".join([EMAIL.encode()] * 50)))

    assert {finding.inside for finding in looked(place).findings} >= {"zip:1"}


def test_without_the_process_that_reads_databases_a_scan_does_not_count(place, monkeypatch):
    monkeypatch.setattr(sys, "executable", "/absent/python")
    (place.root / "some.log").write_text(EMAIL)

    with pytest.raises(ErasureUnverifiedError, match="planted test values"):
        looked(place)


def test_a_file_that_is_absent_is_so_for_the_process_outside_too(place):
    with FileOpener() as opener, pytest.raises(FileNotFoundError, match="absent"):
        opener.open(place.root / "absent")


def test_a_value_in_the_name_of_a_file_or_folder_is_found_and_withheld(place):
    (place.root / f"export of {EMAIL.lower()}").mkdir()
    (place.root / f"export of {EMAIL.lower()}" / "a.json").write_text(EMAIL)

    report = looked(place)

    assert {finding.inside for finding in report.findings} == {"name", "bytes"}
    assert all("example.org" not in str(finding) for finding in report.findings)


def test_links_are_followed_and_their_targets_names_looked_at(place, tmp_path):
    outside = tmp_path / "disk" / "users"
    outside.mkdir(parents=True)
    (outside / "waiting.jsonl").write_text(EMAIL)
    (tmp_path / "file.txt").write_text(EMAIL)
    (place.root / "users").symlink_to(outside)
    (place.root / "file").symlink_to(tmp_path / "file.txt")
    (place.root / "other").symlink_to(tmp_path / EMAIL)

    report = looked(place)

    found = {(finding.file.rpartition("/")[2], finding.inside) for finding in report.findings}
    assert found == {("waiting.jsonl", "bytes"), ("file", "bytes"), ("(withheld)", "name")}
    assert report.places[0].skipped == ("other (a broken link)",)


def test_links_in_a_circle_or_to_everything_end(place):
    (place.root / "below").mkdir()
    (place.root / "below" / "some.log").write_text(EMAIL)
    (place.root / "below" / "again").symlink_to(place.root / "below")
    (place.root / "up").symlink_to(place.root.parent)
    (place.root / "all").symlink_to("/")
    (place.root / "kernel").symlink_to("/proc/self")
    (place.root / "self").symlink_to(place.root / "self")

    report = looked(place)

    assert [finding.file for finding in report.findings] == ["below/some.log"]
    assert report.places[0].skipped == (
        "all (a link to a parent folder)",
        "kernel (a link into the kernel's files)",
        "self (a circular link)",
        "up (a link to a parent folder)",
    )


def test_a_place_that_is_a_link_is_searched_and_one_to_nowhere_is_told(tmp_path):
    (tmp_path / "real").mkdir()
    (tmp_path / "real" / "some.log").write_text(EMAIL)
    (tmp_path / "linked").symlink_to(tmp_path / "real")
    (tmp_path / "broken").symlink_to(tmp_path / "absent")

    report = scan([NEEDLE], [Folder("linked", tmp_path / "linked"), Folder("broken", tmp_path / "broken")])

    assert [(finding.place, finding.file) for finding in report.findings] == [("linked", "some.log")]
    assert [searched.skipped for searched in report.places] == [(), (". (a broken link)",)]


def test_a_pipe_a_socket_and_a_device_are_told_and_not_waited_for(place):
    os.mkfifo(place.root / "pipe")
    with socket.socket(socket.AF_UNIX) as listening:
        listening.bind(os.path.relpath(place.root / "socket"))
        (place.root / "null").symlink_to("/dev/null")
        report = looked(place)

    assert [entry.split(" (")[0] for entry in report.places[0].skipped] == ["null", "pipe", "socket"]


def test_a_file_with_a_hole_takes_as_long_as_what_it_holds(place):
    with (place.root / "sparse.img").open("wb") as out:
        out.truncate(1 << 42)
        out.seek(1 << 41)
        out.write(EMAIL.encode())

    report = looked(place)

    assert [finding.offset for finding in report.findings] == [1 << 41]
    assert report.places[0].bytes < 1 << 20


def test_a_file_that_vanishes_meanwhile_holds_nothing(place, monkeypatch):
    (place.root / "some.log").write_text(EMAIL)
    (place.root / "gone.log").write_text("x")
    real = Folder.walk

    def vanishing(self, noted):
        found = list(real(self, noted))
        (place.root / "gone.log").unlink()
        return iter(found)

    monkeypatch.setattr(Folder, "walk", vanishing)

    report = looked(place)

    assert [finding.file for finding in report.findings] == ["some.log"]
    assert report.unreadable == ()


def refusing(monkeypatch, refused: Path):
    """Let a folder be unreadable, whoever runs the tests."""
    real = os.listdir

    def listdir(path="."):
        if Path(path) == refused:
            raise PermissionError(13, "Permission denied", str(path))
        return real(path)

    monkeypatch.setattr(os, "listdir", listdir)


def test_a_folder_that_cannot_be_read_is_told_and_the_rest_is_searched(place, monkeypatch):
    for name in ("locked", "open"):
        (place.root / name).mkdir()
        (place.root / name / "some.log").write_text(EMAIL)
    refusing(monkeypatch, place.root / "locked")

    report = looked(place)

    assert report.unreadable == ("lake: locked (Permission denied)",)
    assert [finding.file for finding in report.findings] == ["open/some.log"]


def test_other_users_folders_in_a_shared_place_are_listed_and_no_obstacle(tmp_path, monkeypatch):
    (tmp_path / "staging-other").mkdir()
    refusing(monkeypatch, tmp_path / "staging-other")

    report = scan([NEEDLE], [Folder("temporary", tmp_path, only=("staging-*",), shared=True)])

    assert report.clean
    assert report.places[0].skipped == ("staging-other (Permission denied)",)


def test_a_place_that_cannot_be_written_is_searched_without_a_test_of_its_own(place, tmp_path, monkeypatch):
    (place.root / "some.log").write_text(EMAIL)
    (tmp_path / "other").mkdir()
    real = Folder.plant

    def plant(self, canary):
        if self.name == "lake":
            raise OSError(30, "Read-only file system")
        return real(self, canary)

    monkeypatch.setattr(Folder, "plant", plant)

    report = scan([NEEDLE], [place, Folder("other", tmp_path / "other")])

    assert [searched.tested for searched in report.places] == [False, True]
    assert report.findings
    with pytest.raises(ErasureUnverifiedError, match="could not be written anywhere"):
        scan([NEEDLE], [place])


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

    assert {finding.file for finding in looked(place, Needle("first_name", "anna", whole_word=True)).findings} == {
        "some.log"
    }


def test_what_is_too_short_to_be_looked_for_is_said_and_not_counted(place):
    short = [Needle("first_name", name, whole_word=True) for name in ("Al", "Eva", "李", "Ия")]

    report = looked(place, *short, NEEDLE)

    assert report.left_out == (("first_name", "too short to distinguish from chance"),)
    assert report.needles == {"email": 1}


def test_names_of_any_script_are_found_as_words_in_any_form(place):
    names = ["小龙", "李小龙", "Лев", "Анна", "أحمد", "Ängström", "Šárka", "Áéíó", "Nguyễn"]
    for number, name in enumerate(names):
        for form in ("NFC", "NFD"):
            text = unicodedata.normalize(form, name)
            for how, written in {"utf-8": text, "json": json.dumps(text), "upper": text.upper()}.items():
                (place.root / f"{number} {form} {how}.log").write_text(f"said {written}, then left")

    report = looked(place, *(Needle("first_name", name, whole_word=True) for name in names))

    found = {(finding.file, finding.needle.value) for finding in report.findings}
    wanted = {
        (f"{number} {form} {how}.log", name)
        for number, name in enumerate(names)
        for form in ("NFC", "NFD")
        for how in ("utf-8", "json", "upper")
    }
    assert found >= wanted


@pytest.mark.parametrize(
    ("name", "text", "found"),
    [
        ("Лев", "Левый берег", False),
        ("Анна", "Сусанна", False),
        ("Ängström", "Ängströms", False),
        ("小龙", "我是小龙吗", True),
        ("Bo Li", "turbo lisbon", False),
        ("Bo Li", "by Bo Li.", True),
        ("BoLi", "by BOLI.", True),
    ],
)
def test_letters_beside_a_name_make_another_word_where_blanks_part_words(place, name, text, found):
    (place.root / "some.log").write_text(text)

    assert bool(looked(place, Needle("first_name", name, whole_word=True)).findings) == found


def test_a_value_across_the_lines_of_a_code_is_found(place):
    ends = {"lf": "\n", "crlf": "\r\n", "json": "\\n"}
    wanted = set()
    for code, width, end, shift in itertools.product(("base64", "hex"), (60, 64, 76), ends, range(8)):
        raw = b"~" * (30 + shift) + EMAIL.encode() + b"~~"
        coded = (base64.b64encode(raw) if code == "base64" else raw.hex().encode()).decode()
        lines = [coded[at : at + width] for at in range(0, len(coded), width)]
        name = f"{code} {width} {end} {shift}.eml"
        (place.root / name).write_bytes(ends[end].join(lines).encode())
        wanted.add((name, code))

    assert {(finding.file, finding.encoding) for finding in looked(place).findings} == wanted


def test_bytes_are_found_raw_and_coded(place):
    token = bytes(range(200, 232))
    (place.root / "a").write_bytes(b"--" + token)
    (place.root / "b").write_text(token.hex())
    (place.root / "c").write_bytes(base64.b64encode(b"1" + token))

    assert {finding.file for finding in looked(place, Needle("token", token)).findings} == {"a", "b", "c"}


def test_a_file_that_cannot_be_decoded_is_named_and_read_as_bytes(place):
    (place.root / "cut.parquet").write_bytes(packed_parquet(EMAIL, write_statistics=True)[:-20])
    (place.root / "cut.gz").write_bytes(gzip.compress(os.urandom(1000))[:500])

    report = looked(place)

    assert report.places[0].opaque == ("cut.gz", "cut.parquet")
    assert report.findings


@pytest.mark.parametrize("shift", [-40, -len(EMAIL.encode()), -1, 0, 1, 40])
def test_a_value_across_the_border_of_two_sections_is_found_once(place, shift):
    section = 1 << 16
    content = bytearray(b"\xff" * (5 * section + 100))
    at = [number * section + shift for number in (1, 2, 5)]
    for offset in at:
        content[offset : offset + len(EMAIL.encode())] = EMAIL.encode()
    (place.root / "large.bin").write_bytes(content)

    report = scan([NEEDLE], [place], limits=ScanLimits(section=section))

    assert [finding.offset for finding in report.findings] == at
    assert report.places[0].bytes == len(content)


def test_the_rows_of_a_large_database_are_looked_at_too(place):
    with sqlite3.connect(place.root / "large.db") as base:
        base.execute("CREATE TABLE notes (text TEXT)")
        filler = "".join(chr(0x4E00 + number % 20_000) for number in range(60_000))
        base.execute("INSERT INTO notes VALUES (?)", (filler[:30_000] + f" {EMAIL} " + filler,))
    base.close()

    report = scan([NEEDLE], [place], limits=ScanLimits(section=1 << 16))

    assert {finding.file for finding in report.findings} == {"large.db"}


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
    canary = Canary("0123456789abcdef01234567")
    place.plant(canary)
    canary.release()
    assert len(list(place.root.iterdir())) == 1

    report = looked(place)

    assert report.clean
    assert not list(place.root.iterdir())


def test_a_scan_that_misses_its_canary_does_not_count(place, monkeypatch):
    monkeypatch.setattr(PlaceReader, "parquet", lambda *_: None)

    with pytest.raises(ErasureUnverifiedError, match="planted test values"):
        looked(place)

    assert not list(place.root.iterdir())


def test_of_a_folder_shared_with_others_only_the_named_part_is_read(tmp_path):
    (tmp_path / "staging-1").mkdir()
    (tmp_path / "staging-1" / "a").write_text(EMAIL)
    (tmp_path / "foreign").write_text(EMAIL)

    report = scan([NEEDLE], [Folder("temporary", tmp_path, only=("staging-*",))])

    assert {finding.file for finding in report.findings} == {"staging-1/a"}


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
    canary = Canary("0123456789abcdef01234567")
    planted = place.plant(canary)

    assert looked(place).clean

    assert len(list(next(place.root.iterdir()).iterdir())) == len({file for file, _, _ in planted})
    canary.release()
