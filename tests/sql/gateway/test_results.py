"""What callers get: formats, parameters, versions, caps; in bounded memory, from workers that may lie."""

from __future__ import annotations

import csv
import io
import itertools
import json
import socket
import struct
import time
from datetime import UTC, date, datetime, timedelta, timezone
from decimal import Decimal

import polars as pl
import psutil
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from hfthot_platform.core.errors import (
    BadRequestError,
    HfthotError,
    SqlDeadlineError,
    SqlError,
    SqlMemoryError,
    SqlRefusedError,
    SqlWorkerError,
    UnknownColumnError,
    UnknownTableError,
    VersionUnavailableError,
)
from hfthot_platform.services.sql.gateway import QueryLimits, SqlGateway, protocol
from hfthot_platform.services.sql.gateway.results import error_of, read_batch, read_schema

BARS = "SELECT symbol, ts, close FROM market.bars_1m ORDER BY symbol, ts"


# -- formats ------------------------------------------------------------------------------------------------------


def test_every_format_holds_the_same_rows(lake, gateway):
    frame = lake.table("market.bars_1m").scan().sort("symbol", "ts").select("symbol", "ts", "close").collect()

    assert gateway.query(BARS, format="polars").data.equals(frame)
    assert pl.from_arrow(gateway.query(BARS).data).equals(frame)
    assert pl.read_parquet(gateway.query(BARS, format="parquet").data).equals(frame)
    rows = json.loads(gateway.query(BARS, format="json").data)
    assert [(row["symbol"], datetime.fromisoformat(row["ts"]), row["close"]) for row in rows] == frame.rows()
    table = list(csv.reader(io.StringIO(gateway.query(BARS, format="csv").data)))
    assert table[0] == ["symbol", "ts", "close"]
    assert [(a, datetime.fromisoformat(b), float(c)) for a, b, c in table[1:]] == frame.rows()


def test_the_result_says_what_was_read(gateway):
    began = time.monotonic()
    result = gateway.query(BARS)
    passed = time.monotonic() - began

    assert result.rows == result.data.num_rows == 60
    assert result.schema.names == ["symbol", "ts", "close"]
    assert result.tables == {"market.bars_1m": 3}
    assert 0 < result.bytes_scanned < 10**6
    assert result.seconds > 0
    assert result.queued_seconds >= 0
    assert result.seconds + result.queued_seconds <= passed
    assert (result.truncated, result.reason) == (False, "")


VALUES = {
    "1": "1",
    "1.25": "1.25",
    "'a\"b,c\n'": '"a\\"b,c\\n"',
    "true": "true",
    "NULL": "null",
    "'nan'::DOUBLE": "null",
    "'-inf'::DOUBLE": "null",
    "DATE '2024-01-02'": '"2024-01-02"',
    "TIMESTAMP '2024-01-02 03:04:05.5'": '"2024-01-02T03:04:05.500000Z"',
    "TIMESTAMPTZ '2024-01-02 03:04:05+02'": '"2024-01-02T01:04:05Z"',
    "TIMESTAMP_NS '2024-01-02 03:04:05.123456789'": '"2024-01-02T03:04:05.123456Z"',
    "TIME '03:04:05'": '"03:04:05"',
    "INTERVAL 90 SECOND": '"P0M0DT90S"',
    "9223372036854775808::HUGEINT": "9223372036854775808",
    "sum(1)": "1",
    "'ab'::BLOB": '"YWI="',
    "[1, NULL]": "[1, null]",
    "{'a': 1, 'b': [DATE '2024-01-02']}": '{"a": 1, "b": ["2024-01-02"]}',
    "map {'a': 1}": '[["a", 1]]',
    "'x'::ENUM('x', 'y')": '"x"',
    "'{\"a\": 1}'::JSON": '"{\\"a\\": 1}"',
    "'3f2504e0-4f89-11d3-9a0c-0305e82c3301'::UUID": '"3f2504e0-4f89-11d3-9a0c-0305e82c3301"',
}


@pytest.mark.parametrize("value", VALUES)
def test_json_has_a_form_for_every_type(gateway, value):
    assert gateway.query(f"SELECT {value} AS v", format="json").data == f'[{{"v": {VALUES[value]}}}]'
    assert len(gateway.query(f"SELECT {value} AS v", format="csv").data.splitlines()) >= 2


FAR = ["DATE 'infinity'", "TIMESTAMP '0044-01-01 (BC)'", "DATE '200000-01-01'", "TIMESTAMPTZ 'infinity'"]


@pytest.mark.parametrize("form", ["json", "csv"])
@pytest.mark.parametrize("value", FAR)
def test_times_beyond_the_calendar_are_a_typed_error(gateway, form, value):
    with pytest.raises(SqlError, match="Cast the column to text"):
        gateway.query(f"SELECT {value} AS v", format=form)


def test_an_interval_of_months_has_no_length(gateway):
    with pytest.raises(SqlError, match="no fixed length"):
        gateway.query("SELECT INTERVAL 1 MONTH AS v", format="polars")
    assert gateway.query("SELECT INTERVAL 1 DAY AS v", format="polars").data.item() == timedelta(days=1)


def test_two_columns_of_one_name_survive(gateway):
    assert gateway.query("SELECT 1 AS a, 2 AS a").data.num_columns == 2
    assert gateway.query("SELECT 1 AS a, 2 AS a", format="csv").data == "a,a\n1,2\n"


def test_an_empty_result_has_columns(gateway):
    sql = "SELECT symbol, close FROM market.bars_1m WHERE false"

    assert gateway.query(sql).data.schema.names == ["symbol", "close"]
    assert gateway.query(sql, format="json").data == "[]"
    assert gateway.query(sql, format="csv").data == "symbol,close\n"
    assert gateway.query(sql, format="polars").data.schema == {"symbol": pl.String, "close": pl.Float64}


def test_an_unknown_format_is_an_error(gateway):
    with pytest.raises(BadRequestError, match="parquet"):
        gateway.query("SELECT 1", format="parket")


# -- parameters and time travel -----------------------------------------------------------------------------------


def test_parameters_are_bound_by_name_or_position(gateway):
    sql = "SELECT count(*) AS n FROM market.bars_1m WHERE symbol = "

    assert gateway.query(sql + "$s", {"s": "BTC-USDT"}).data.to_pylist() == [{"n": 30}]
    assert gateway.query(sql + "?", ["BTC-USDT"]).data.to_pylist() == [{"n": 30}]
    assert gateway.query(sql + "$s", {"s": "x' OR '1'='1"}).data.to_pylist() == [{"n": 0}]


def test_every_scalar_type_comes_through(gateway):
    tokyo = timezone(timedelta(hours=9))
    values = [None, True, 7, 2**70, 1.5, "é", b"\0\1", Decimal("1.50"), date(2024, 1, 2), timedelta(days=1)]
    values.append(datetime(2024, 1, 2, 9, tzinfo=tokyo))
    columns = ", ".join(f"? AS c{number}" for number in range(len(values)))

    row = gateway.query(f"SELECT {columns}", values).data.to_pylist()[0]

    assert [row[f"c{number}"] for number in (0, 1, 2, 4, 5, 6)] == [None, True, 7, 1.5, "é", b"\0\1"]
    assert int(row["c3"]) == 2**70
    assert row["c10"] == datetime(2024, 1, 2, tzinfo=UTC)


class _Odd(str):
    """Not exactly text."""

    __slots__ = ()


@pytest.mark.parametrize(
    "value",
    [[1], {"a": 1}, object(), _Odd("x"), datetime(2024, 1, 1), 2**200, Decimal("NaN")],
    ids=["list", "dict", "object", "subclass", "naive", "large", "nan"],
)
def test_other_values_are_refused(gateway, value):
    with pytest.raises(BadRequestError, match="parameter v"):
        gateway.query("SELECT $v", {"v": value})


@pytest.mark.parametrize(
    "params",
    ["x", ["x" * 2**21], [1] * 2_000, 5, float("nan"), True, object(), dict, {1, 2}],
    ids=["text", "huge", "many", "number", "nan", "flag", "object", "class", "set"],
)
def test_unreasonable_parameters_are_refused(gateway, params):
    with pytest.raises(BadRequestError, match="params"):
        gateway.query("SELECT ?", params)


@pytest.mark.parametrize("chosen", ["json", "polars", "parquet"])
def test_columns_of_one_name_are_refused_where_one_of_them_would_be_lost(gateway, chosen):
    with pytest.raises(SqlError, match="two columns of the result are named 'a'"):
        gateway.query("SELECT 1 AS a, 2 AS b, 3 AS a", format=chosen)


def test_columns_of_one_name_are_all_there_in_arrow_and_csv(gateway):
    assert gateway.query("SELECT 1 AS a, 2 AS a", format="csv").data == "a,a\n1,2\n"
    assert gateway.query("SELECT 1 AS a, 2 AS a", format="arrow").data.column_names == ["a", "a"]


@pytest.mark.parametrize("chosen", [None, 5, float("nan"), {}, list, "jsn"])
def test_a_format_that_is_none_is_refused(gateway, chosen):
    with pytest.raises(BadRequestError, match="format"):
        gateway.query("SELECT 1", format=chosen)


def test_versions_join_in_one_statement(gateway):
    result = gateway.query(
        "SELECT count(a.ts) AS first, count(b.ts) AS last FROM market.bars_1m VERSION AS OF 3 b"
        " LEFT JOIN market.ohlcv VERSION AS OF 1 a USING (ts, symbol)"
    )

    assert result.data.to_pylist() == [{"first": 20, "last": 60}]
    assert result.tables == {"market.bars_1m@3": 3, "market.bars_1m@1": 1}


def test_versions_can_be_given_beside_the_statement(lake, gateway):
    sql = "SELECT count(*) AS n FROM market.bars_1m"
    early = lake.table("market.bars_1m").versions()[1].timestamp

    assert gateway.query(sql, versions={"market.bars_1m": 1}).data.to_pylist() == [{"n": 20}]
    assert gateway.query(sql, as_of=early).tables == {
        "market.bars_1m": [
            commit.version for commit in lake.table("market.bars_1m").versions() if commit.timestamp <= early
        ][-1]
    }
    assert gateway.query(
        "SELECT count(*) AS n FROM market.ohlcv", versions={"market.ohlcv": 1}, as_of=early
    ).tables == {"market.bars_1m": 1}
    assert gateway.query(sql, versions={"market.bars_1m": 3}, as_of=early).data.to_pylist() == [{"n": 60}]


def test_a_version_that_never_was_names_the_range(gateway):
    with pytest.raises(VersionUnavailableError, match="Readable: version 0"):
        gateway.query("SELECT 1 FROM market.bars_1m VERSION AS OF 99")


def test_versions_of_closed_tables_are_unknown(gateway):
    with pytest.raises(UnknownTableError):
        gateway.query("SELECT 1", versions={"users": 1})


def test_a_time_without_zone_is_refused(gateway):
    with pytest.raises(BadRequestError, match="zone"):
        gateway.query("SELECT 1", as_of=datetime(2024, 1, 1))


def test_mistakes_are_explained(gateway):
    with pytest.raises(UnknownColumnError, match="Did you mean 'volume'"):
        gateway.query("SELECT volum FROM market.ohlcv")
    with pytest.raises(UnknownTableError, match=r"market\.bars_1m"):
        gateway.query("SELECT * FROM bars_1m")
    with pytest.raises(SqlError, match="line 2"):
        gateway.query("SELECT 1\nGROUP WHERE")


def test_random_numbers_differ_from_query_to_query(gateway):
    values = [gateway.query("SELECT random() AS r, uuid()::VARCHAR AS u").data.to_pylist()[0] for _ in range(4)]

    assert len({value["r"] for value in values}) == len({value["u"] for value in values}) == 4


# -- caps -----------------------------------------------------------------------------------------------------------


def test_rows_beyond_the_cap_are_cut_off_and_it_is_said(gateway):
    result = gateway.query("SELECT range AS a FROM range(1000000)", limits=QueryLimits(rows=1_234))

    assert (result.rows, result.truncated, result.reason) == (1_234, True, "rows")
    assert result.data.column("a").to_pylist() == list(range(1_234))


def test_exactly_as_many_rows_as_the_cap_are_not_cut_off(gateway):
    result = gateway.query("SELECT * FROM range(1234)", limits=QueryLimits(rows=1_234))

    assert (result.rows, result.truncated) == (1_234, False)


def test_bytes_beyond_the_cap_are_cut_off_and_it_is_said(gateway):
    result = gateway.query("SELECT repeat('x', 1000) FROM range(50000)", limits=QueryLimits(bytes=3 * 2**20))

    assert result.truncated
    assert result.reason == "bytes"
    assert 0 < result.data.nbytes <= 3 * 2**20


def test_a_row_that_is_larger_than_a_message_is_cut_off(gateway):
    result = gateway.query("SELECT repeat('x', 20000000) AS a")

    assert (result.rows, result.reason) == (0, "bytes")


@pytest.mark.parametrize(
    "sql",
    [
        'SELECT 1 AS "' + "n" * 50_000 + '" FROM range(100000)',
        "SELECT list_transform(range(1000), lambda x: {'" + "n" * 50_000 + "': x}) AS a FROM range(10)",
    ],
    ids=["column", "struct"],
)
def test_text_that_repeats_long_names_stays_within_the_cap(gateway, sql):
    result = gateway.query(sql, format="json", limits=QueryLimits(bytes=2**22))

    assert result.reason == "bytes"
    assert len(result.data) <= 2**22 + 2
    json.loads(result.data)


def test_memory_is_bounded_by_the_statements_own_limit(gateway):
    sql = "SELECT count(DISTINCT range) FROM range(3000000)"

    assert gateway.query(sql).data.num_rows == 1
    with pytest.raises(SqlMemoryError):
        gateway.query(sql, limits=QueryLimits(memory=16 * 2**20))


@pytest.mark.parametrize("sql", ["", "SELECT " + "1," * 60_000 + "1", "SELECT 'a\0b'", "SELECT '\ud800'"])
def test_text_of_the_wrong_kind_never_reaches_a_worker(gateway, sql):
    with pytest.raises(SqlRefusedError):
        gateway.query(sql)


# -- streams --------------------------------------------------------------------------------------------------------


def stream_rows(gateway: SqlGateway, count: int) -> tuple[int, int, int]:
    """Return rows, sum and growth of this process in bytes."""
    sql = f"SELECT range AS a, range * 0.5::DOUBLE AS b, md5(range::VARCHAR) AS c FROM range({count})"
    process = psutil.Process()
    before = peak = process.memory_info().rss
    rows = total = 0
    with gateway.stream(sql) as stream:
        assert stream.schema.names == ["a", "b", "c"]
        for batch in stream:
            rows += batch.num_rows
            total += pa.compute.sum(batch.column(0)).as_py()
            peak = max(peak, process.memory_info().rss)
    assert not stream.truncated
    return rows, total, peak - before


@pytest.fixture(scope="module")
def wide(lake, pool, gateway) -> SqlGateway:
    limits = QueryLimits(rows=10**8, bytes=2**40, seconds=300, memory=512 * 2**20)
    return SqlGateway(lake, gateway.principal, pool, limits=limits)


def test_a_million_rows_stream_in_bounded_memory(wide):
    stream_rows(wide, 100_000)

    rows, total, growth = stream_rows(wide, 1_000_000)

    assert (rows, total) == (1_000_000, 499_999_500_000)
    assert growth < 64 * 2**20


@pytest.mark.soak
def test_twenty_million_rows_stream_in_bounded_memory(wide):
    rows, _, growth = stream_rows(wide, 20_000_000)

    assert rows == 20_000_000
    assert growth < 96 * 2**20


def test_a_stream_can_be_left_early(wide, pool):
    with wide.stream("SELECT * FROM range(100000000)") as stream:
        first = next(iter(stream))
    assert first.num_rows > 0

    assert wide.query("SELECT 1 AS a").data.to_pylist() == [{"a": 1}]
    assert pool.facts().running == {}


def test_a_stream_is_good_once(wide):
    stream = wide.stream("SELECT 1")
    with pytest.raises(BadRequestError, match="not open"):
        _ = stream.schema
    with stream:
        assert sum(batch.num_rows for batch in stream) == 1
    with pytest.raises(BadRequestError, match="already read"), stream:
        pass


def read_with_pauses(gateway, sql, limits) -> None:
    """Read an answer and pause after each batch for as long as the statement's process lives."""
    with gateway.stream(sql, limits=limits) as stream:
        for _ in stream:
            while lives(stream.process):
                time.sleep(0.02)


def lives(pid: int) -> bool:
    try:
        return psutil.Process(pid).status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


def test_the_deadline_counts_the_readers_pauses(gateway):
    with pytest.raises(SqlDeadlineError):
        read_with_pauses(gateway, "SELECT repeat('x', 100) FROM range(90000)", QueryLimits(seconds=0.5))


def test_the_deadline_counts_the_writing_of_the_form(gateway):
    sql = "SELECT range AS a, range::VARCHAR AS b, [range, range] AS c FROM range(100000)"

    with pytest.raises(SqlDeadlineError):
        gateway.query(sql, format="json", limits=QueryLimits(seconds=0.3))


def test_a_statement_that_fails_while_it_streams_is_a_typed_error(gateway):
    sql = "SELECT CASE WHEN range > 90000 THEN error('stop here') ELSE range END AS a FROM range(100000)"

    with pytest.raises(SqlError, match="stop here"), gateway.stream(sql) as stream:
        for _ in stream:
            pass


# -- workers that lie -----------------------------------------------------------------------------------------------

SCHEMA = pa.schema([("a", pa.int64()), ("b", pa.string())])
BATCH = pa.record_batch([pa.array(range(1000)), pa.array(["x" * 50] * 1000)], schema=SCHEMA)


def message_of(batch: pa.RecordBatch, compression: str | None = None) -> bytes:
    options = pa.ipc.IpcWriteOptions(compression=compression)
    return batch.serialize().to_pybytes() if compression is None else _second_message(batch, options)


def _second_message(batch, options) -> bytes:
    sink = io.BytesIO()
    with pa.ipc.new_stream(sink, batch.schema, options=options) as writer:
        writer.write_batch(batch)
    reader = pa.BufferReader(sink.getvalue())
    pa.ipc.read_message(reader)
    start = reader.tell()
    pa.ipc.read_message(reader)
    return sink.getvalue()[start : reader.tell()]


def test_an_honest_batch_is_read():
    assert read_batch(message_of(BATCH), SCHEMA, 1_000, 10**6).equals(BATCH)


@pytest.mark.parametrize(
    ("message", "rows", "size"),
    [
        (message_of(BATCH), 999, 10**6),
        (message_of(BATCH), 1_000, 1_000),
        (message_of(BATCH, "zstd"), 1_000, 10**6),
        (message_of(BATCH, "lz4"), 1_000, 10**6),
        (message_of(BATCH)[:200], 1_000, 10**6),
        (b"", 1_000, 10**6),
        (b"\xff" * 100, 1_000, 10**6),
        (struct.pack("<iI", -1, 2**31 - 1) + b"\0" * 64, 1_000, 10**6),
        (SCHEMA.serialize().to_pybytes(), 1_000, 10**6),
    ],
    ids=["rows", "bytes", "zstd", "lz4", "cut", "empty", "noise", "length", "schema"],
)
def test_a_batch_that_is_none_is_refused(message, rows, size):
    with pytest.raises(SqlError):
        read_batch(message, SCHEMA, rows, size)


def test_offsets_that_point_elsewhere_are_refused():
    message = bytearray(message_of(BATCH))
    at = message.index(struct.pack("<5i", 0, 50, 100, 150, 200))
    message[at + 4 : at + 8] = struct.pack("<i", 2**30)

    with pytest.raises(SqlError):
        read_batch(message, SCHEMA, 1_000, 10**6)


def test_flipped_bits_never_break_the_parent():
    message = message_of(BATCH.slice(0, 8))
    for position, bit in itertools.product(range(0, len(message), 3), (0x01, 0x80)):
        broken = bytearray(message)
        broken[position] ^= bit
        try:
            batch = read_batch(broken, SCHEMA, 1_000, 10**6)
        except SqlError:
            continue
        batch.to_pylist()


def test_lists_of_nothing_count(gateway):
    nothing = pa.record_batch([pa.array([[None] * 10_000], pa.list_(pa.null()))], ["a"])

    with pytest.raises(SqlWorkerError, match="limits"):
        read_batch(nothing.serialize().to_pybytes(), nothing.schema, 10, 5_000)


@pytest.mark.parametrize(
    "kind",
    [pa.dictionary(pa.int8(), pa.string()), pa.run_end_encoded(pa.int32(), pa.int8()), pa.list_(pa.null(), 2**30)],
    ids=["dictionary", "runs", "fixed"],
)
def test_types_that_expand_are_refused(kind):
    with pytest.raises(SqlError):
        read_schema(pa.schema([("a", kind)]).serialize().to_pybytes())


@pytest.mark.parametrize("note", [b"", b"[]", b'{"kind": 1}', b"\xff", b'{"kind": "SqlError"}'])
def test_a_note_that_is_none_is_one_error(note):
    assert isinstance(error_of(note), SqlWorkerError)


def test_only_errors_of_sql_are_believed():
    note = {"kind": "LockTimeoutError", "what": "a\x1b[2Jb" + "x" * 9_000, "where": "SQL", "hint": ""}

    error = error_of(json.dumps(note).encode())

    assert type(error) is SqlError
    assert "\x1b" not in str(error)
    assert len(str(error)) < 3_000


def test_parquet_of_a_truncated_result_is_whole(gateway):
    result = gateway.query("SELECT range AS a FROM range(100)", format="parquet", limits=QueryLimits(rows=10))

    assert pq.read_table(io.BytesIO(result.data)).num_rows == 10
    assert result.truncated


class Liar:
    """A worker that says what it is told to."""

    def __init__(self, *frames: tuple[bytes, bytes]) -> None:
        self.connection, theirs = socket.socketpair()
        with theirs:
            for kind, body in frames:
                protocol.send(theirs, kind, body)

    def start(self, job) -> None: ...

    def supply(self, supply) -> None: ...

    def close(self) -> None:
        self.connection.close()

    def fault(self) -> SqlWorkerError:
        return SqlWorkerError("it ended by itself", where="SQL")


NO_TABLES = (protocol.REFERENCES, b"[]")
LIES = [b"", b"{", b"\xff\xfe", b"null", b"7", b'"x"', b"[" * 5_000, b"NaN", b'{"a": 1}']


@pytest.mark.parametrize(
    "said",
    [
        *LIES,
        b"[1]",
        b"[null]",
        b'["abcd"]',
        b"[[1, 2, 3, 4]]",
        b'[["market.bars_1m", null, null, null]]',
        b'[["market.bars_1m", "x", "1", null]]',
        b'[["market.bars_1m", "x", true, null]]',
        b'[["market.bars_1m", "x", null, "soon"]]',
        b'[["market.bars_1m", "x", null, 5]]',
        b'[["market.bars_1m", "x", null, "0001-01-01T00:00:00+23:00"]]',
        b'[["market.bars_1m", "x", 1e400, null]]',
    ],
)
def test_names_that_are_none_are_one_error(lake, pool, gateway, monkeypatch, said):
    monkeypatch.setattr(pool, "take", lambda *_: Liar((protocol.REFERENCES, said)))

    with pytest.raises(SqlWorkerError):
        gateway.query("SELECT 1")


@pytest.mark.parametrize("version", [-1, 10**9, 10**30])
def test_a_version_that_is_none_is_one_error(lake, pool, gateway, monkeypatch, version):
    said = f'[["market.bars_1m", "x", {version}, null]]'.encode()
    monkeypatch.setattr(pool, "take", lambda *_: Liar((protocol.REFERENCES, said)))

    with pytest.raises(HfthotError):
        gateway.query("SELECT 1")


@pytest.mark.parametrize("said", LIES)
@pytest.mark.parametrize("kind", [protocol.SCHEMA, protocol.DONE, protocol.BATCH])
def test_an_answer_that_is_none_is_one_error(lake, pool, gateway, monkeypatch, kind, said):
    frames = [NO_TABLES, (protocol.SCHEMA, SCHEMA.serialize().to_pybytes()), (protocol.BATCH, message_of(BATCH))]
    at = {protocol.SCHEMA: 1, protocol.BATCH: 2, protocol.DONE: 3}[kind]
    monkeypatch.setattr(pool, "take", lambda *_: Liar(*frames[:at], (kind, said)))

    if (kind, said) == (protocol.DONE, b'{"a": 1}'):
        assert gateway.query("SELECT 1").bytes_scanned == 0
    else:
        with pytest.raises(SqlWorkerError):
            gateway.query("SELECT 1")


@pytest.mark.parametrize(
    "said", [b'{"scanned": -1}', b'{"scanned": "x"}', b'{"scanned": 1e99}', b'{"truncated": {}}', b'{"scanned": []}']
)
def test_figures_that_are_none_are_left_out(lake, pool, gateway, monkeypatch, said):
    frames = [NO_TABLES, (protocol.SCHEMA, SCHEMA.serialize().to_pybytes()), (protocol.DONE, said)]
    monkeypatch.setattr(pool, "take", lambda *_: Liar(*frames))

    result = gateway.query("SELECT 1")

    assert (result.bytes_scanned, result.truncated, result.rows) == (0, False, 0)
