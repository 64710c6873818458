"""Files as vendors, spreadsheets and scripts write them: read right, or refused with the way out."""

from __future__ import annotations

import bz2
import gzip
import io
import json
import lzma
import zipfile
from datetime import UTC, datetime, timedelta

import polars as pl
import pyarrow as pa
import pytest

from hfthot_platform.adapters.files.mapping import CsvMapping
from hfthot_platform.adapters.recognise import recognise, recognise_members
from hfthot_platform.core.errors import RejectedFileError

HEADER = "time,open,high,low,close,volume\n"
NINE = datetime(2024, 1, 13, 9, tzinfo=UTC)
EPOCHS = [1_705_136_400 + 3600 * hour for hour in range(3)]
KRAKEN = {"venue": "kraken", "symbol": "BTC-USD"}


def _bar(time: object, number: int = 0) -> str:
    return f"{time},{100 + number},{105 + number},{95 + number},{101 + number},{1 + number}\n"


BARS = HEADER + "".join(_bar(time, number) for number, time in enumerate(EPOCHS))


def _zip(members: dict[str, bytes | str]) -> bytes:
    target = io.BytesIO()
    with zipfile.ZipFile(target, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in members.items():
            archive.writestr(name, content)
    return target.getvalue()


def _zstd(content: bytes) -> bytes:
    target = pa.BufferOutputStream()
    with pa.CompressedOutputStream(target, "zstd") as stream:
        stream.write(content)
    return target.getvalue().to_pybytes()


def _refused(path, **declared) -> RejectedFileError:
    with pytest.raises(RejectedFileError) as caught:
        recognise(path, CsvMapping(**declared) if declared else None)
    assert caught.value.hint
    return caught.value


# --- times --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("first", "second"),
    [
        ("1/13/2024 9:00 AM", "1/13/2024 10:00 AM"),
        ("13/1/2024 9:00", "13/1/2024 10:00"),
        ("13.01.2024 09:00:00.000 GMT+0000", "13.01.2024 10:00:00.000 GMT+0000"),
        ('"Jan 13, 2024 09:00"', '"Jan 13, 2024 10:00"'),
        ("13-Jan-24 09:00:00", "13-Jan-24 10:00:00"),
        ('"Sat, 13 Jan 2024 09:00:00 GMT"', '"Sat, 13 Jan 2024 10:00:00 GMT"'),
        ("2024-01-13 10:00:00+01:00", "2024-01-13 11:00:00+01:00"),
        ("2024-01-13 04:00:00 EST", "2024-01-13 05:00:00 EST"),
        ("2024-01-13D09:00:00.000000000", "2024-01-13D10:00:00.000000000"),
        ("2024-01-13 09", "2024-01-13 10"),
        ("2024-01-13 09-AM", "2024-01-13 10-AM"),
        ("20240113090000", "20240113100000"),
        ("20240113T090000Z", "20240113T100000Z"),
        ("202401130900", "202401131000"),
        ("1705136400.0", "1705140000.0"),
        ("1705136400000000000", "1705140000000000000"),
    ],
)
def test_a_spelling_of_time_is_read_by_itself(tmp_path, read_file, first, second) -> None:
    (tmp_path / "a.csv").write_text(HEADER + _bar(first) + _bar(second, 1))
    got = read_file(tmp_path / "a.csv", **KRAKEN)
    assert got.rows["ts"].to_list() == [NINE, NINE + timedelta(hours=1)]


@pytest.mark.parametrize(
    ("time", "reason"),
    [
        ("01/02/2024 09:00", "ambiguous_date"),
        ("2024-01-13 09:00:00 CST", "unrecognised_time"),
        ("1.70514E+12", "truncated_epoch"),
        ("170513640", "time_too_early"),
        ("45304.375", "serial_dates"),
        ("093000", "unrecognised_time"),
        ("0", "unrecognised_time"),
    ],
)
def test_a_time_that_can_be_misread_is_refused(tmp_path, time, reason) -> None:
    (tmp_path / "a.csv").write_text(HEADER + _bar(time) + _bar(time.replace("9", "8"), 1))
    assert _refused(tmp_path / "a.csv", **KRAKEN, interval="1h").reason == reason


def test_two_forms_of_time_in_one_file(tmp_path, read_file) -> None:
    times = ["2024-01-13 09:00:00", "2024-01-13 10-AM", "2024-01-13T11:00:00+00:00", "13 Jan 2024 12:00", "later"]
    (tmp_path / "a.csv").write_text(HEADER + "".join(_bar(time, n) for n, time in enumerate(times)))
    got = read_file(tmp_path / "a.csv", **KRAKEN)
    assert got.rows["ts"].to_list() == [NINE + timedelta(hours=n) for n in range(4)]
    assert got.reasons == ["unparsable_value"]


def test_the_order_of_rows_tells_the_two_hours_of_a_clock_change_apart(tmp_path, read_file) -> None:
    local = [f"2024-11-03 {clock}" for clock in ("00:30", "01:00", "01:30", "01:00", "01:30", "02:00")]
    expected = [datetime(2024, 11, 3, 4, 30, tzinfo=UTC) + timedelta(minutes=30 * n) for n in range(6)]
    declared = {**KRAKEN, "zone": "America/New_York", "table": "market.trades", "columns": ["ts", "price", "amount"]}
    (tmp_path / "a.csv").write_text("".join(f"{time},1,2\n" for time in local))
    assert read_file(tmp_path / "a.csv", **declared).rows["ts"].to_list() == expected
    (tmp_path / "b.csv").write_text("".join(f"{time},1,2\n" for time in reversed(local)))
    assert read_file(tmp_path / "b.csv", **declared).rows["ts"].to_list() == expected[::-1]


def test_hourly_bars_of_one_local_time_are_two_hours(tmp_path, read_file) -> None:
    hours = ("00", "01", "01", "02", "03")
    (tmp_path / "a.csv").write_text(HEADER + "".join(_bar(f"2024-11-03 {hour}:00", n) for n, hour in enumerate(hours)))
    got = read_file(tmp_path / "a.csv", **KRAKEN, zone="America/New_York")
    assert got.rows["ts"].dt.hour().to_list() == [4, 5, 6, 7, 8]


def test_an_epoch_beside_a_local_date_wins_whatever_their_order(tmp_path, read_file) -> None:
    rows = "".join(f"2024-01-13 0{4 + n}:00:00,{second},1,2,1,2,3\n" for n, second in enumerate(EPOCHS))
    (tmp_path / "a.csv").write_text("date,unix,open,high,low,close,volume\n" + rows)
    assert read_file(tmp_path / "a.csv", **KRAKEN).rows["ts"][0] == NINE


@pytest.mark.parametrize(
    ("day", "clock", "expected"),
    [
        ("20240113", "093005", "09:30:05"),
        ("20240113", "93005", "09:30:05"),
        ("2024.01.13", "09:30", "09:30:00"),
        ("2024-01-13 00:00:00", "9:30:05.250", "09:30:05.25"),
        ("01/13/2024", "9:30 PM", "21:30:00"),
    ],
)
def test_a_day_and_a_time_of_day_are_joined(tmp_path, read_file, day, clock, expected) -> None:
    (tmp_path / "a.csv").write_text(f"date,time,price,volume\n{day},{clock},4750.25,1\n")
    got = read_file(tmp_path / "a.csv", venue="cme", symbol="ES-USD")
    assert got.rows["ts"][0] == datetime.fromisoformat(f"2024-01-13T{expected}+00:00")


def test_times_before_there_was_a_market_or_after_now_are_set_aside(tmp_path) -> None:
    (tmp_path / "BTCUSD.csv").write_text(
        "ts,price,amount\n170513640,1,2\n1705136400,1,2\n4070908800,1,2\n45304,1,2\n1705136401,1,2\n1705136402,1,2\n"
    )
    probe, claim = recognise(tmp_path / "BTCUSD.csv", CsvMapping(venue="kraken"), now=datetime(2024, 6, 1, tzinfo=UTC))
    (batch,) = claim.adapter.read(probe, claim, source_ref="x")
    assert batch.rejected["reason"].to_list() == ["truncated_epoch", "time_ahead", "serial_date"]
    assert batch.rows.height == 3


def test_daily_shares_and_currencies_reach_back_to_before_the_epoch(tmp_path, read_file) -> None:
    days = [datetime(1927, 12, 30) + timedelta(days=n) for n in range(4)]
    (tmp_path / "a.csv").write_text(HEADER + "".join(_bar(f"{day:%Y-%m-%d}") for day in days))
    got = read_file(tmp_path / "a.csv", venue="us_index", symbol="SPX")
    assert (got.rows.height, got.rows["ts"][0].year) == (4, 1927)
    seconds = [round(day.replace(tzinfo=UTC).timestamp()) + 42 * 365 * 86_400 for day in days]
    (tmp_path / "b.csv").write_text(HEADER + "".join(_bar(second) for second in seconds))
    assert read_file(tmp_path / "b.csv", venue="us_index", symbol="SPX").rows["ts"].dt.year().to_list()[0] == 1969


# --- numbers and columns ------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("cells", "value", "declared"),
    [
        (["42,000.50", "42,100.00"], 42_000.5, {}),
        (["42'000.50", "42'100.00"], 42_000.5, {}),
        (["42 000.50", "42 100.00"], 42_000.5, {}),
        (["42\u00a0000.50", "42\u202f100.00"], 42_000.5, {}),
        (["42.000,50", "42.100,00"], 42_000.5, {}),
        (["42000,50", "42100,25"], 42_000.5, {}),
        (["42.000", "42.100"], 42_000.0, {"decimal": ","}),
        (["42.000", "42.100"], 42.0, {}),
        (["42,000", "42,100"], 42_000.0, {"decimal": "."}),
        (["42,000", "42,100"], 42.0, {"decimal": ","}),
        (["$42,000.50", "$42,100.00"], 42_000.5, {}),
        (["1.5K", "2.25M"], 1500.0, {}),
    ],
)
def test_numbers_as_people_write_them(tmp_path, read_file, cells, value, declared) -> None:
    rows = "".join(f"170513640{n};{cell};2\n" for n, cell in enumerate(cells))
    (tmp_path / "a.csv").write_text("ts;price;amount\n" + rows)
    assert read_file(tmp_path / "a.csv", **KRAKEN, **declared).rows["price"][0] == value


def test_a_comma_that_may_be_either_is_refused(tmp_path) -> None:
    (tmp_path / "a.csv").write_text("ts;price;amount\n1705136400;42,000;2\n1705136401;42,100;2\n")
    error = _refused(tmp_path / "a.csv", **KRAKEN)
    assert error.reason == "ambiguous_number"
    assert "decimal" in error.hint


def test_a_dot_that_groups_no_thousands_is_no_number_beside_a_decimal_comma(tmp_path, read_file) -> None:
    (tmp_path / "a.csv").write_text("ts;price;amount\n1705136400;42.00;2\n1705136401;42.000,5;2\n")
    got = read_file(tmp_path / "a.csv", **KRAKEN, decimal=",")
    assert (got.rows["price"].to_list(), got.reasons) == ([42_000.5], ["unparsable_value"])


@pytest.mark.parametrize("separator", [None, ","])
def test_a_decimal_comma_needs_no_separator_unless_it_is_one(tmp_path, separator) -> None:
    declared = {"decimal": ","} | ({"separator": separator} if separator else {})
    if separator is None:
        assert CsvMapping(**declared).decimal == ","
    else:
        with pytest.raises(ValueError, match="same character"):
            CsvMapping(**declared)


@pytest.mark.parametrize(
    "text",
    [
        BARS.replace("\n", "\r"),
        BARS.replace("\n", "\r\n"),
        "\ufeff" + BARS,
        HEADER + "".join(line + ",\n" for line in BARS.splitlines()[1:]),
        HEADER.strip() + ",\n" + "".join(line + ",,\n" for line in BARS.splitlines()[1:]),
        "," + HEADER + "".join(f"{n},{line}\n" for n, line in enumerate(BARS.splitlines()[1:])),
        HEADER + "".join(f'"{n}",{line}\n' for n, line in enumerate(BARS.splitlines()[1:])),
        "# a remark\n\n" + BARS,
        "https://vendor.example\n" + BARS,
        "sep=,\n" + BARS,
        BARS.strip(),
        "open," + HEADER + "".join("," + line + "\n" for line in BARS.splitlines()[1:]),
        "".join(",".join(f'"{cell}"' for cell in line.split(",")) + "\n" for line in BARS.splitlines()),
    ],
)
def test_oddities_of_text_cost_nothing(tmp_path, read_file, text) -> None:
    (tmp_path / "a.csv").write_bytes(text.encode())
    got = read_file(tmp_path / "a.csv", **KRAKEN)
    assert got.rows["open"].to_list()[0] == 100
    assert got.rows["close"].to_list()[:1] == [101]
    assert got.reasons in ([], ["wrong_field_count"] * 2)


@pytest.mark.parametrize("encoding", ["utf-16", "utf-16-le", "utf-16-be"])
def test_sixteen_bit_text(tmp_path, read_file, encoding) -> None:
    (tmp_path / "a.csv").write_bytes(BARS.encode(encoding))
    assert read_file(tmp_path / "a.csv", **KRAKEN).rows.height == 3


def test_any_other_encoding_is_declared(tmp_path, read_file) -> None:
    (tmp_path / "a.csv").write_bytes("Zeit;Kurs;Stück\n1705136400;5;2\n".encode("cp1252"))
    columns = {"ts": "Zeit", "price": "Kurs", "amount": "Stück"}
    got = read_file(tmp_path / "a.csv", **KRAKEN, columns=columns, encoding="cp1252", table="market.trades")
    assert got.rows["amount"].to_list() == [2]


@pytest.mark.parametrize("name", ["", "Unnamed: 0", "index"])
def test_the_index_of_a_frame_is_its_time_where_it_looks_like_one(tmp_path, read_file, name) -> None:
    header = HEADER.replace("time", name)
    (tmp_path / "a.csv").write_text(header + "".join(_bar(f"2024-01-13 {9 + n:02}:00:00") for n in range(3)))
    assert read_file(tmp_path / "a.csv", **KRAKEN).rows["ts"][0] == NINE
    (tmp_path / "b.csv").write_text(header + "".join(_bar(n) for n in range(3)))
    assert _refused(tmp_path / "b.csv", **KRAKEN).reason == "wrong_schema"


def test_a_market_that_is_no_symbol_names_none(tmp_path, read_file) -> None:
    (tmp_path / "a.csv").write_text("ts,market,price,amount\n1705136400,spot,5,2\n")
    assert read_file(tmp_path / "a.csv", **KRAKEN).rows["symbol"].to_list() == ["BTC-USD"]
    (tmp_path / "b.csv").write_text("ts,market,price,amount\n1705136400,ETH-EUR,5,2\n")
    assert read_file(tmp_path / "b.csv", venue="kraken").rows["symbol"].to_list() == ["ETH-EUR"]


def test_a_name_in_capitals_is_a_symbol_and_a_type_of_buy_and_sell_a_side(tmp_path, read_file) -> None:
    (tmp_path / "a.csv").write_text("date,price,volume,Name\n2016-01-04,5,2,AAL\n2016-01-04,6,2,BRK.B\n")
    assert read_file(tmp_path / "a.csv", venue="us_equity").rows["symbol"].to_list() == ["AAL", "BRK.B"]
    (tmp_path / "b.csv").write_text("timestamp,timestampms,price,amount,type\n1705136400,1705136400123,5,2,buy\n")
    (row,) = read_file(tmp_path / "b.csv", **KRAKEN).rows.select("ts", "side").rows()
    assert row == (NINE + timedelta(milliseconds=123), "buy")


def test_two_columns_of_one_name(tmp_path, read_file) -> None:
    (tmp_path / "a.csv").write_text("ts,price,amount,ts\n1705136400,5,2,\n1705136401,6,2,\n")
    assert read_file(tmp_path / "a.csv", **KRAKEN).rows["price"].to_list() == [5, 6]
    columns = {"ts": "ts", "price": "price", "amount": "amount"}
    assert read_file(tmp_path / "a.csv", **KRAKEN, columns=columns, table="market.trades").rows.height == 2


@pytest.mark.parametrize("empty", ["NaN", "", "null", "N/A"])
def test_bars_without_any_price_are_gaps(tmp_path, read_file, empty) -> None:
    nothing = "".join(f"{1_705_136_460 + 60 * n},{empty},{empty},{empty},{empty},{empty}\n" for n in range(30))
    (tmp_path / "a.csv").write_text(HEADER + _bar(1_705_136_400) + nothing + _bar(1_705_140_000, 1))
    got = read_file(tmp_path / "a.csv", **KRAKEN, interval="1m")
    assert (got.rows.height, got.gaps, got.reasons) == (2, 30, [])


def test_bars_without_volume_are_taken_when_said_so(tmp_path, read_file) -> None:
    (tmp_path / "a.csv").write_text("time,open,high,low,close\n" + "".join(f"{second},1,2,1,2\n" for second in EPOCHS))
    error = _refused(tmp_path / "a.csv", venue="fx", symbol="EUR-USD")
    assert (error.reason, "volume: none" in error.hint) == ("wrong_schema", True)
    got = read_file(tmp_path / "a.csv", venue="fx", symbol="EUR-USD", volume="none")
    assert got.rows["volume"].to_list() == [None, None, None]


@pytest.mark.parametrize(
    ("ids", "expected"),
    [(["1000.0", "1001.0"], [1000, 1001]), (["1.0000E+03", "1.0010E+03"], [1000, 1001]), (["7", "a-1"], None)],
)
def test_ids_that_passed_through_a_float_are_themselves(tmp_path, read_file, ids, expected) -> None:
    rows = "".join(f"170513640{n},5,2,{trade_id}\n" for n, trade_id in enumerate(ids))
    (tmp_path / "a.csv").write_text("ts,price,amount,id\n" + rows)
    got = read_file(tmp_path / "a.csv", **KRAKEN).rows["trade_id"].to_list()
    assert got == expected or (expected is None and got[0] == 7)


def test_a_rounded_id_is_set_aside(tmp_path, read_file) -> None:
    (tmp_path / "a.csv").write_text("ts,price,amount,id\n1705136400,5,2,1.20642E+09\n1705136401,5,2,8\n")
    assert read_file(tmp_path / "a.csv", **KRAKEN).reasons == ["unparsable_value"]


@pytest.mark.parametrize(("signed", "sides"), [(None, ["buy", "sell"]), (True, ["buy", "sell"])])
def test_the_sign_of_an_amount_is_the_side(tmp_path, read_file, signed, sides) -> None:
    (tmp_path / "a.csv").write_text("ts,price,amount\n1705136400,5,2\n1705136401,5,-3\n")
    got = read_file(tmp_path / "a.csv", **KRAKEN, signed=signed).rows
    assert (got["amount"].to_list(), got["side"].to_list()) == ([2, 3], sides)


def test_a_forbidden_sign_stays_for_the_audit(tmp_path, read_file) -> None:
    (tmp_path / "a.csv").write_text("ts,price,amount\n1705136400,5,2\n1705136401,5,-3\n")
    assert read_file(tmp_path / "a.csv", **KRAKEN, signed=False).rows["amount"].to_list() == [2, -3]


# --- containers ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "pack"),
    [
        ("a.csv.gz", gzip.compress),
        ("a.csv.bz2", bz2.compress),
        ("a.csv.xz", lzma.compress),
        ("a.csv.zst", _zstd),
        (
            "a.zip",
            lambda text: _zip({"__MACOSX/._a.csv": b"\0\0", ".DS_Store": b"\0", "README.md": b"x", "a.csv": text}),
        ),
        ("a.zip", lambda text: _zip({"inner.zip": _zip({"folder/a.csv.gz": gzip.compress(text)})})),
        ("renamed.dat", _zstd),
    ],
)
def test_a_packed_file_is_unpacked(tmp_path, read_file, name, pack) -> None:
    (tmp_path / name).write_bytes(pack(BARS.strip().encode()))
    assert read_file(tmp_path / name, **KRAKEN).rows.height == 3


@pytest.mark.parametrize("pack", [gzip.compress, bz2.compress, lzma.compress, _zstd])
def test_a_packed_file_cut_off_is_refused(tmp_path, pack) -> None:
    text = HEADER + "".join(_bar(1_705_136_400 + 3600 * n, n * 37 % 101) for n in range(3000))
    (tmp_path / "a.csv").write_bytes(pack(text.encode())[:-40])
    assert _refused(tmp_path / "a.csv", **KRAKEN).reason == "truncated"


def _twice(content: bytes) -> bytes:
    return gzip.compress(gzip.compress(content))


@pytest.mark.parametrize("wrap", [gzip.compress, _twice, lambda content: _zip({"a.csv": content})])
def test_a_bomb_is_refused_before_it_is_unpacked(tmp_path, monkeypatch, wrap) -> None:
    monkeypatch.setattr("hfthot_platform.adapters.files.containers.FREE_BYTES", 1 << 20)
    (tmp_path / "a.csv").write_bytes(wrap(BARS.encode() + b"0" * (8 << 20)))
    assert _refused(tmp_path / "a.csv", **KRAKEN).reason == "decompression_bomb"


@pytest.mark.parametrize(
    ("content", "says"),
    [
        (b"7z\xbc\xaf\x27\x1c" + b"\0" * 30, "7-Zip"),
        (b"Rar!\x1a\x07\x00" + b"\0" * 30, "RAR"),
        (b"SQLite format 3\x00" + b"\0" * 90, "SQLite"),
        (_zip({"[Content_Types].xml": "x", "xl/workbook.xml": "y"}), "workbook"),
        (b"a" * 257 + b"ustar" + b"\0" * 300, "tar"),
    ],
)
def test_a_format_that_is_not_read_is_named(tmp_path, content, says) -> None:
    (tmp_path / "a.csv").write_bytes(content)
    error = _refused(tmp_path / "a.csv", **KRAKEN)
    assert (error.reason, says in error.what) == ("unsupported_container", True)


def test_the_files_of_a_zip_are_taken_one_by_one(tmp_path) -> None:
    hours = "".join(f"{second},100,105,95,101,1.5,7\n" for second in EPOCHS)
    minutes = "".join(f"{1_705_136_400 + 60 * n},100,105,95,101,1.5,7\n" for n in range(4))
    content = _zip({"b/XBTUSD_60.csv": hours, "a/XBTUSD_1.csv": minutes, "c/empty.csv": "", "d/words.csv": "what\n"})
    (tmp_path / "dump.zip").write_bytes(content)
    found = list(recognise_members(tmp_path / "dump.zip", CsvMapping(venue="kraken")))
    assert [member.name for member in found] == ["a/XBTUSD_1.csv", "b/XBTUSD_60.csv", "c/empty.csv", "d/words.csv"]
    assert [member.claim.table for member in found if member.claim] == ["market.bars_1m", "market.bars"]
    assert [member.error.reason for member in found if member.error] == ["empty", "unrecognised"]
    heights = [
        sum(batch.rows.height for batch in member.claim.adapter.read(member.probe, member.claim, source_ref="x"))
        for member in found
        if member.claim
    ]
    assert heights == [4, 3]
    assert _refused(tmp_path / "dump.zip", venue="kraken").reason == "several_members"


def test_parquet_within_a_zip(tmp_path, read_file) -> None:
    target = io.BytesIO()
    pl.DataFrame({"ts": [1_705_136_400], "price": [5.0], "amount": [2.0]}).write_parquet(target)
    (tmp_path / "a.zip").write_bytes(_zip({"BTC_USD-trades.parquet": target.getvalue()}))
    assert read_file(tmp_path / "a.zip", venue="kraken").rows["symbol"].to_list() == ["BTC-USD"]


# --- JSON ---------------------------------------------------------------------------------------------------------

RECORDS = [{"t": second * 1000, "o": 100, "h": 105, "l": 95, "c": 101, "v": 1.5} for second in EPOCHS]
COLUMNS = {key: [record[key] for record in RECORDS] for key in RECORDS[0]}


@pytest.mark.parametrize(
    ("venue", "document"),
    [
        ("kraken", RECORDS),
        ("kraken", {"status": "ok", "data": {"candles": RECORDS}}),
        ("kraken", {"s": "ok", **COLUMNS}),
        ("kraken", {key: {str(n): value for n, value in enumerate(column)} for key, column in COLUMNS.items()}),
        ("kraken", {str(n): record for n, record in enumerate(RECORDS)}),
        (
            "kraken",
            {"columns": list(COLUMNS), "index": [0, 1, 2], "data": [list(record.values()) for record in RECORDS]},
        ),
        ("kraken", {"schema": {}, "data": RECORDS}),
        (
            "kraken",
            {"error": [], "result": {"XXBTZUSD": [[t, "100", "105", "95", "101", "100", "1.5", 7] for t in EPOCHS]}},
        ),
        ("coinbase", [[second, 95, 105, 100, 101, 1.5] for second in EPOCHS]),
        ("bitfinex", [[second * 1000, 100, 101, 105, 95, 1.5] for second in EPOCHS]),
        (
            "bybit",
            {"result": {"list": [[str(second * 1000), "100", "105", "95", "101", "1.5", "150"] for second in EPOCHS]}},
        ),
        ("binance", [[e * 1000, "100", "105", "95", "101", "1.5", 0, "150", 7, "1", "100", "0"] for e in EPOCHS]),
        (
            "kraken",
            {
                f"{datetime.fromtimestamp(second, UTC):%Y-%m-%d %H:%M:%S}": {
                    "1. open": "100",
                    "2. high": "105",
                    "3. low": "95",
                    "4. close": "101",
                    "5. volume": "1.5",
                }
                for second in EPOCHS
            },
        ),
    ],
)
def test_bars_in_json_of_every_shape(tmp_path, read_file, venue, document) -> None:
    (tmp_path / "a.json").write_text(json.dumps(document))
    got = read_file(tmp_path / "a.json", venue=venue, symbol="BTC-USD")
    assert got.rows.select("open", "high", "low", "close", "volume").unique().rows() == [(100, 105, 95, 101, 1.5)]
    assert (got.rows["ts"].to_list()[0], got.rows.height, got.reasons) == (NINE, 3, [])


def test_json_lines_with_and_without_a_last_line_feed(tmp_path, read_file) -> None:
    trades = [{"id": n, "timestamp": 1_705_136_400_000 + n, "price": 5, "amount": 2, "side": "buy"} for n in range(3)]
    text = "\n".join(json.dumps(trade) for trade in trades)
    (tmp_path / "a.jsonl").write_text(text)
    assert read_file(tmp_path / "a.jsonl", **KRAKEN).rows["trade_id"].to_list() == [0, 1, 2]
    (tmp_path / "b.jsonl").write_text(text[:-5])
    got = read_file(tmp_path / "b.jsonl", **KRAKEN)
    assert (got.rows.height, got.reasons) == (2, ["truncated_row"])


def test_declared_positions_of_json_arrays(tmp_path, read_file) -> None:
    (tmp_path / "a.json").write_text(
        json.dumps([["2024-01-13 09:00:00", "x", 5.5, -2], ["2024-01-13 09:00:01", "y", 6, 1]])
    )
    columns = ["ts", None, "price", "amount"]
    got = read_file(tmp_path / "a.json", **KRAKEN, columns=columns, table="market.trades")
    assert got.rows.select("price", "amount", "side").rows() == [(5.5, 2, "sell"), (6, 1, "buy")]
    assert _refused(tmp_path / "a.json", **KRAKEN, columns=columns[1:], table="market.trades").reason == "wrong_schema"


def test_seconds_in_records_are_seconds(tmp_path, read_file) -> None:
    (tmp_path / "a.json").write_text(json.dumps([{"timestamp": 1_705_136_400, "price": 5, "amount": 2}]))
    assert read_file(tmp_path / "a.json", **KRAKEN).rows["ts"].to_list() == [NINE]


def test_two_tables_in_a_document_are_refused(tmp_path) -> None:
    (tmp_path / "a.json").write_text(json.dumps({"BTC": RECORDS, "ETH": RECORDS}))
    assert _refused(tmp_path / "a.json", **KRAKEN).reason == "several_tables"


# --- neither trades nor bars ------------------------------------------------------------------------------------------

TRADE = "timestamp,symbol,side,price,amount"


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("x.csv", TRADE + ",is_snapshot\n1705136400000,BTCUSD,ask,5,2,true\n"),
        ("x.csv", TRADE + ",update_type\n1705136400000,BTCUSD,ask,5,2,set\n"),
        ("x.csv", TRADE + ",action\n1705136400000,BTCUSD,buy,5,2,insert\n"),
        ("x.csv", TRADE + ",filled,status\n1705136400000,BTCUSD,buy,5,2,0,open\n"),
        ("x.csv", "timestamp,symbol,strike,option_type,price,amount\n1705136400000,BTC-1,5,call,5,2\n"),
        (
            "x.csv",
            "timestamp,symbol,bids[0].price,bids[0].amount,asks[0].price,asks[0].amount\n1705136400000,B,1,2,3,4\n",
        ),
        ("markPriceKlines/BTCUSD-1h.csv", BARS),
        ("BTCUSD-1h-mark.csv", BARS),
        ("AAPL_2012-06-21_34200000_57600000_message_5.csv", "34200.01,5,0,1,2238200,-1\n34200.02,1,2,18,2238100,1\n"),
    ],
)
def test_other_tables_are_refused_whatever_is_declared(tmp_path, name, text) -> None:
    (tmp_path / name).parent.mkdir(exist_ok=True)
    (tmp_path / name).write_text(text)
    table = "market.bars" if text is BARS else "market.trades"
    assert _refused(tmp_path / name, **KRAKEN, table=table).reason == "unsupported_content"


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("liquidations.csv", TRADE + "\n1705136400000,BTCUSD,buy,5,2\n"),
        ("liquidations/BTCUSD.csv", TRADE + "\n1705136400000,BTCUSD,buy,5,2\n"),
        ("open_orders.csv", TRADE + "\n1705136400000,BTCUSD,buy,5,2\n"),
        ("x.csv", TRADE + "\n1705136400000,BTCUSD,bid,5,2\n1705136400000,BTCUSD,ask,6,2\n"),
        ("x.csv", TRADE + ",fee\n1705136400000,BTCUSD,buy,5,2,0.1\n"),
        ("x.csv", TRADE + ",bid,ask\n1705136400000,BTCUSD,buy,5,2,4,6\n"),
    ],
)
def test_what_may_be_trades_is_taken_in_once_it_is_declared(tmp_path, read_file, name, text) -> None:
    (tmp_path / name).parent.mkdir(exist_ok=True)
    (tmp_path / name).write_text(text)
    error = _refused(tmp_path / name, venue="kraken")
    assert (error.reason, "table: market.trades" in error.hint) == ("unsupported_content", True)
    assert read_file(tmp_path / name, venue="kraken", table="market.trades").rows["price"][0] == 5


def test_columns_without_values_say_nothing(tmp_path, read_file) -> None:
    (tmp_path / "x.csv").write_text(TRADE + ",order,fee,takerOrMaker\n1705136400000,BTC/USD,buy,5,2,,,\n")
    assert read_file(tmp_path / "x.csv", venue="kraken").rows.height == 1


def test_klines_that_were_never_traded_are_refused_by_their_content(tmp_path) -> None:
    lines = [
        f"{1_705_136_400_000 + 60_000 * n},5,6,4,5,0,{1_705_136_459_999 + 60_000 * n},0,60,0,0,0" for n in range(5)
    ]
    (tmp_path / "BTCUSDT-1m-2024-01-13.csv").write_text("\n".join(lines) + "\n")
    assert _refused(tmp_path / "BTCUSDT-1m-2024-01-13.csv", venue="binance_usdm").reason == "unsupported_content"


# --- lengths of bars, units of amounts, folders -------------------------------------------------------------------


@pytest.mark.parametrize(
    ("minutes", "declared", "fits"),
    [
        ([0, 60, 120, 180], "1h", True),
        ([0, 240, 480, 720], "1h", False),
        ([0, 5, 10, 15], "1m", False),
        ([0, 1, 2, 3], "5m", False),
        ([0, 7, 9, 30, 31, 44], "1m", True),
        ([0, 1440, 4320, 5760], "1d", True),
        ([0, 90], "1h", False),
        ([0], "1h", True),
    ],
)
def test_a_declared_length_is_checked(tmp_path, minutes, declared, fits) -> None:
    (tmp_path / "a.csv").write_text(HEADER + "".join(_bar(1_705_104_000 + 60 * minute) for minute in minutes))
    if fits:
        assert recognise(tmp_path / "a.csv", CsvMapping(**KRAKEN, interval=declared))
    else:
        assert _refused(tmp_path / "a.csv", **KRAKEN, interval=declared).reason == "interval_mismatch"


def test_inverse_contracts_are_converted_or_asked_for(tmp_path, read_file) -> None:
    (tmp_path / "a.csv").write_text("ts,price,amount,side\n1705136400,40000,1000,buy\n")
    trades = {"table": "market.trades", "symbol": "BTC-USD-PERP"}
    assert read_file(tmp_path / "a.csv", venue="deribit", **trades).rows["amount"].to_list() == [0.025]
    error = _refused(tmp_path / "a.csv", venue="somewhere", **trades)
    assert (error.reason, "amount_unit" in error.hint) == ("unknown_amount_unit", True)
    units = {
        "base": {"amount_unit": "base"},
        "quote": {"amount_unit": "quote"},
        "inverse": {"amount_unit": "contracts", "contract_size": 100, "contract_unit": "quote"},
        "linear": {"amount_unit": "contracts", "contract_size": 0.001, "contract_unit": "base"},
    }
    amounts = {
        name: read_file(tmp_path / "a.csv", venue="somewhere", **trades, **unit).rows["amount"][0]
        for name, unit in units.items()
    }
    assert amounts == {"base": 1000, "quote": 0.025, "inverse": 2.5, "linear": 1.0}


def test_volumes_of_inverse_contracts_need_their_unit(tmp_path, read_file) -> None:
    (tmp_path / "a.csv").write_text(HEADER + "".join(_bar(second) for second in EPOCHS))
    assert _refused(tmp_path / "a.csv", venue="bitmex", symbol="BTC-USD-PERP").reason == "unknown_amount_unit"
    got = read_file(tmp_path / "a.csv", venue="bitmex", symbol="BTC-USD-PERP", amount_unit="quote").rows
    assert got["quote_volume"][0] == 1.0
    assert got["volume"][0] == pytest.approx(1 / 100.25)


def test_a_folder_has_one_mapping_and_a_files_own_wins(tmp_path) -> None:
    (tmp_path / "mapping.yaml").write_text("venue: bitstamp\nzone: Europe/Berlin\n")
    (tmp_path / "BTCUSD.csv").write_text("ts,price,amount\n2024-01-13 10:00:00,5,2\n")
    (tmp_path / "ETHUSD.csv").write_text("ts,price,amount\n2024-01-13 10:00:00,5,2\n")
    (tmp_path / "ETHUSD.csv.mapping.yaml").write_text("venue: kraken\n")
    claims = {name: recognise(tmp_path / f"{name}.csv") for name in ("BTCUSD", "ETHUSD")}
    assert [claim.venue for _, claim in claims.values()] == ["bitstamp", "kraken"]
    probe, claim = claims["ETHUSD"]
    (batch,) = claim.adapter.read(probe, claim, source_ref="x")
    assert batch.rows["ts"].to_list() == [NINE]


@pytest.mark.parametrize("digits", [13, 16, 19])
def test_clocks_of_recordings_have_any_unit(tmp_path, read_file, digits) -> None:
    clock = "1704067200123456789"[:digits]
    event = {"e": "trade", "T": 1_704_067_200_000, "s": "BTCUSDT", "t": 7, "p": "5", "q": "2", "m": True, "M": True}
    (tmp_path / "a.txt").write_text(
        f"{clock} " + json.dumps({"stream": "btcusdt@trade", "data": event}, separators=(",", ":"))
    )
    got = read_file(tmp_path / "a.txt").rows["ts_received"][0]
    assert got.microsecond == (123_000 if digits == 13 else 123_456)


# --- lengths in the name ------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "distances", "interval"),
    [
        ("EURUSD60.csv", [60, 60], "1h"),
        ("EURUSD5.csv", [], "5m"),  # one bar alone
        ("EURUSD1.csv", [7, 13, 4, 22, 9], None),  # no most frequent distance: the name decides
        ("EURUSD1440.csv", [1440, 4320], "1d"),
        ("EURUSD43200.csv", [31 * 1440, 29 * 1440, 31 * 1440], "1mo"),
    ],
)
def test_the_minutes_that_metatrader_writes_behind_the_pair_are_the_length(tmp_path, name, distances, interval):
    times = [NINE.replace(day=1, hour=0)]
    for minutes in distances:
        times.append(times[-1] + timedelta(minutes=minutes))
    rows = "".join(f"{time:%Y.%m.%d,%H:%M},1.1,1.2,1.0,1.15,40\n" for time in times)
    path = tmp_path / name
    path.write_text("date,time,open,high,low,close,volume\n" + rows)
    _, claim = recognise(path, CsvMapping(venue="fx"))
    assert claim.symbol == "EUR-USD"
    assert claim.table == ("market.bars" if interval else "market.bars_1m")
    assert claim.details["mapping"].interval == (interval or "1m")


def test_minutes_in_a_name_that_the_times_contradict_refuse_the_file(tmp_path):
    path = tmp_path / "EURUSD60.csv"
    path.write_text(BARS.replace("1705140000", "1705137300"))
    assert _refused(path, venue="fx").reason == "interval_mismatch"


# --- layouts of vendors ---------------------------------------------------------------------------------------------


def _rows(path, **declared) -> pl.DataFrame:
    path.parent.mkdir(exist_ok=True)
    probe, claim = recognise(path, CsvMapping(**declared) if declared else None)
    return pl.concat([batch.rows for batch in claim.adapter.read(probe, claim, source_ref="test")])


def _write(path, text: str):
    path.parent.mkdir(exist_ok=True)
    path.write_text(text)
    return path


def test_coinapi_bars_open_at_the_start_of_their_period(tmp_path):
    path = _write(
        tmp_path / "ohlcv.csv",
        "time_period_start;time_period_end;time_open;time_close;price_open;price_high;price_low;price_close;"
        "volume_traded;trades_count\n"
        "2024-01-13T09:00:00.0000000Z;2024-01-13T10:00:00.0000000Z;2024-01-13T09:00:07.1Z;2024-01-13T09:59:59.9Z;10;12;9;11;5;7\n"
        "2024-01-13T10:00:00.0000000Z;2024-01-13T11:00:00.0000000Z;2024-01-13T10:00:03.1Z;2024-01-13T10:59:59.9Z;11;12;9;10;6;8\n",
    )
    rows = _rows(path, **KRAKEN)
    assert rows.select("ts", "interval", "close", "volume", "trades").row(0) == (NINE, "1h", 11, 5, 7)


def test_kaikos_flag_says_that_the_taker_sold(tmp_path):
    trades = "1,krkn,btcusd,1705136400123,10,1,true\n2,krkn,btcusd,1705136401123,10,1,false\n"
    text = f"id,exchange,symbol,date,price,amount,taker_side_sell\n{trades}"
    assert _rows(_write(tmp_path / "trades.csv", text), **KRAKEN)["side"].to_list() == ["sell", "buy"]


def test_buckets_of_bitmex_bear_the_time_of_their_end_and_count_dollars(tmp_path):
    bucket = {"symbol": "XBTUSD", "open": 40000, "high": 41000, "low": 39000, "close": 40000, "trades": 9}
    bucket |= {"volume": 400_000, "turnover": 10**9, "homeNotional": 10, "foreignNotional": 400_000}
    buckets = [bucket | {"timestamp": f"2024-01-13T{hour}:00:00.000Z"} for hour in (10, 11)]
    rows = _rows(_write(tmp_path / "bitmex" / "bucketed.json", json.dumps(buckets)))
    assert rows.select("ts", "volume", "quote_volume").row(0) == (NINE, 10, 400_000)


def test_bybits_archive_of_contracts_holds_no_spot_trades(tmp_path):
    header = "timestamp,symbol,side,size,price,tickDirection,trdMatchID,grossValue,homeNotional,foreignNotional\n"
    linear = header + "1705136400.1234,BTCUSDT,Buy,0.5,40000,PlusTick,a-1,2e+12,0.5,20000\n"
    rows = _rows(_write(tmp_path / "bybit" / "BTCUSDT2024-01-13.csv", linear))
    assert rows.select("symbol", "amount").row(0) == ("BTC-USDT-PERP", 0.5)
    # Of inverse contracts the home currency is the dollar.
    inverse = header + "1705136400.1234,BTCUSD,Buy,20000,40000,PlusTick,a-1,5e7,20000,0.5\n"
    rows = _rows(_write(tmp_path / "BTCUSD2024-01-13.csv", inverse), venue="bybit_inverse")
    assert rows.select("symbol", "amount").row(0) == ("BTC-USD-PERP", 0.5)
    spot = "id,timestamp,price,volume,side\n1,1705136400123,40000,0.5,buy\n"
    assert _rows(_write(tmp_path / "bybit" / "BTCUSDT_spot.csv", spot))["symbol"].to_list() == ["BTC-USDT"]


def test_bybits_answers_name_the_market_beside_the_pair(tmp_path):
    bars = [[str(1_705_136_400_000 + n * 3_600_000), "10", "12", "9", "11", "5", "55"] for n in (1, 0)]
    answer = {"retCode": 0, "result": {"category": "linear", "symbol": "BTCUSDT", "list": bars}}
    rows = _rows(_write(tmp_path / "bybit" / "kline.json", json.dumps(answer)))
    assert rows["symbol"].unique().to_list() == ["BTC-USDT-PERP"]


def test_prices_in_whole_numbers_of_a_thousand_millionth_are_refused(tmp_path):
    header = "ts_event,rtype,publisher_id,instrument_id,open,high,low,close,volume,symbol\n"
    row = "1705136400000000000,33,2,38,500000000,510000000,490000000,505000000,4930,AAPL\n"
    error = _refused(_write(tmp_path / "ohlcv.csv", header + row), venue="us_equity")
    assert (error.reason, "pretty_px" in str(error)) == ("wrong_schema", True)


def test_two_bars_over_a_weekend_do_not_show_their_length(tmp_path):
    text = "Date,Open,High,Low,Close,Volume\n2024-01-12,10,12,9,11,5\n2024-01-16,11,12,9,10,6\n"
    error = _refused(_write(tmp_path / "KO.csv", text), venue="us_equity", symbol="KO")
    assert (error.reason, "`interval`" in str(error)) == ("unknown_interval", True)
    assert _rows(tmp_path / "KO.csv", venue="us_equity", symbol="KO", interval="1d")["interval"].to_list() == [
        "1d",
        "1d",
    ]


@pytest.mark.parametrize(
    ("tail", "found"),
    [
        ([5, 1_705_139_999_999, 55], (5, 55, None)),  # MEXC: the time of the close between the volumes
        (["11", "5", 7], (5, None, 7)),  # Kraken: the mean price before, the number of trades after
        ([5, 1_705_139_999_999], (5, None, None)),
        ([5, 55], (5, 55, None)),
        ([5, 9_000_000_000_000], (5, 9_000_000_000_000, None)),  # larger than the time, and no time
    ],
)
def test_what_follows_the_prices_of_an_array_shows_in_its_values(tmp_path, tail, found):
    bars = [[(1_705_136_400 + n * 3600) * 1000, 10, 12, 9, 11, *tail] for n in range(2)]
    bars[1] = [value + 3_600_000 if value == 1_705_139_999_999 else value for value in bars[1]]
    rows = _rows(_write(tmp_path / "a.json", json.dumps(bars)), **KRAKEN)
    rows = rows.with_columns(
        pl.lit(None).alias(column) for column in ("quote_volume", "trades") if column not in rows.columns
    )
    assert rows.select("volume", "quote_volume", "trades").row(0) == found


def test_arrays_whose_values_fit_no_known_order_are_refused(tmp_path):
    bars = [[1_705_136_400_000 + n * 3_600_000, 10, 12, 9, 11, 500, 1.5, 7.5] for n in range(2)]
    assert _refused(_write(tmp_path / "a.json", json.dumps(bars)), **KRAKEN).reason == "wrong_schema"


@pytest.mark.parametrize("name", ["is_buy", "isBuyerTaker"])
def test_a_flag_that_the_taker_bought_is_the_side(tmp_path, name):
    text = f"ts,price,amount,{name}\n1705136400,5,1,true\n1705136401,5,1,False\n"
    assert _rows(_write(tmp_path / "a.csv", text), **KRAKEN)["side"].to_list() == ["buy", "sell"]
    flags = pl.DataFrame(
        {"ts": [1705136400, 1705136401], "price": [5.0, 5.0], "amount": [1.0, 1.0], name: [True, False]}
    )
    flags.write_parquet(tmp_path / "a.parquet")
    assert _rows(tmp_path / "a.parquet", **KRAKEN)["side"].to_list() == ["buy", "sell"]


def test_closes_that_are_not_declared_are_refused_with_the_key_that_helps(tmp_path):
    error = _refused(
        _write(tmp_path / "a.csv", "date,close\n2024-01-12,10\n2024-01-16,11\n"), venue="us_equity", symbol="KO"
    )
    assert (error.reason, "`table: market.closes`" in str(error)) == ("wrong_schema", True)
    pl.DataFrame({"date": ["2024-01-12"], "close": [10.0]}).write_parquet(tmp_path / "a.parquet")
    error = _refused(tmp_path / "a.parquet", venue="us_equity", symbol="KO", table="market.closes")
    assert (error.reason, "CSV" in str(error)) == ("unsupported_container", True)


def test_a_part_of_a_split_zip_is_refused_with_the_way_to_join_it(tmp_path):
    (tmp_path / "a.z01").write_bytes(b"PK\x07\x08PK\x03\x04" + bytes(60))
    error = _refused(tmp_path / "a.z01", **KRAKEN)
    assert (error.reason, "Join the parts" in str(error)) == ("unsupported_container", True)


@pytest.mark.parametrize("header", ["Jour;Ouv;Haut;Bas;Clot;Vol", "time,open,high,low,a,b", "1,2,3,4,5,6"])
def test_numbers_in_no_known_form_are_refused_with_the_keys_that_help(tmp_path, header):
    rows = "".join(f"{n},3,1,2,5,9\n" for n in range(3)).replace(",", ";" if ";" in header else ",")
    error = _refused(_write(tmp_path / "a.csv", f"{header}\n{rows}"), **KRAKEN)
    assert error.reason == "wrong_schema"
    assert "`columns`" in str(error)
    assert "a.csv.mapping.yaml" in str(error)
