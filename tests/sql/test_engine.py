"""Trusted SQL over the lake: what it reads, what it refuses, what it says when something is wrong."""

from __future__ import annotations

import itertools
import re
from dataclasses import replace
from datetime import UTC, date, datetime, timedelta, timezone
from pathlib import Path

import polars as pl
import pytest

from hfthot_platform.core.errors import (
    BadRequestError,
    DamagedTableError,
    SqlError,
    UnknownColumnError,
    UnknownTableError,
    VersionUnavailableError,
)
from hfthot_platform.domain.contracts import CONTRACTS, Column
from hfthot_platform.domain.contracts.model import FLOAT
from hfthot_platform.services.sql import Limits, opened, query
from hfthot_platform.storage.lakehouse import Lakehouse
from hfthot_platform.storage.lakehouse.storage import Storage

START = datetime(2024, 3, 1, tzinfo=UTC)
SYMBOLS = ("BTC-USDT", "ETH-USDT")


def bars(day: datetime, minutes: int = 10, level: float = 100.0) -> pl.DataFrame:
    """Return valid 1m bars of two symbols from the start of a day."""
    rows = [(symbol, day + timedelta(minutes=minute)) for symbol in SYMBOLS for minute in range(minutes)]
    time = pl.Datetime("us", "UTC")
    return pl.DataFrame(rows, schema={"symbol": pl.String, "ts": time}, orient="row").select(
        pl.lit("binance").alias("venue"),
        "symbol",
        "ts",
        (pl.col("ts") + pl.duration(minutes=1)).alias("ts_close"),
        *(
            pl.lit(value).alias(name)
            for name, value in (("open", level), ("high", level * 1.01), ("low", level * 0.99))
        ),
        pl.lit(level).alias("close"),
        pl.lit(2.0).alias("volume"),
        pl.lit(7, pl.Int64).alias("trades"),
        pl.lit(value=True).alias("final"),
        pl.lit("vendor").alias("origin"),
        pl.lit("synthetic").alias("source"),
        pl.lit("test").alias("source_ref"),
    )


@pytest.fixture(scope="module")
def lake(tmp_path_factory) -> Lakehouse:
    """Three days of bars, appended as three versions."""
    ticks = itertools.count()
    lake = Lakehouse.open(
        tmp_path_factory.mktemp("lake"), clock=lambda: datetime(2024, 4, 1, tzinfo=UTC) + timedelta(hours=next(ticks))
    )
    table = lake.table("market.bars_1m")
    for day in range(3):
        table.append(bars(START + timedelta(days=day), level=100.0 + day))
    return lake


def test_answers_equal_those_of_polars(lake):
    result = query(lake, "SELECT symbol, sum(volume) AS v, max(high) AS h FROM market.bars_1m GROUP BY ALL ORDER BY 1")

    scan = lake.table("market.bars_1m").scan()
    expected = (
        scan.group_by("symbol").agg(pl.col("volume").sum().alias("v"), pl.col("high").max().alias("h")).sort("symbol")
    )
    assert result.frame.equals(expected.collect())


def test_a_table_keeps_the_column_order_and_types_of_its_contract(lake):
    frame = query(lake, "FROM market.bars_1m").frame

    assert frame.schema == pl.Schema(lake.table("market.bars_1m").contract.polars_schema)
    assert frame.sort("symbol", "ts").equals(lake.table("market.bars_1m").scan().sort("symbol", "ts").collect())


def test_the_ohlcv_view_presents_the_one_minute_bars(lake):
    result = query(lake, "SELECT * FROM market.ohlcv WHERE symbol = 'BTC-USDT' ORDER BY ts LIMIT 1")

    assert result.frame.columns[:7] == ["ts", "symbol", "open", "high", "low", "close", "volume"]
    assert set(result.frame.columns[7:]) == {"venue", "source", "source_ref", "origin", "schema_version", "final"}
    assert result.frame.row(0)[:2] == (START, "BTC-USDT")
    assert result.tables == {"market.bars_1m": lake.table("market.bars_1m").version()}


def test_a_filter_on_the_partition_opens_no_other_file(lake):
    plan = query(lake, "EXPLAIN ANALYZE SELECT count(*) FROM market.bars_1m WHERE date = '2024-03-02'").frame

    assert "Total Files Read: 1" in plan["explain_value"][0] or "Scanning Files: 1/3" in plan["explain_value"][0]


def test_names_are_found_in_any_case_and_quoting_but_not_in_text_or_comments(lake):
    sql = "SELECT count(*) AS n, 'market.trades' AS t FROM Market.\"BARS_1M\" -- and market.closes"

    result = query(lake, sql)

    assert result.frame.row(0) == (60, "market.trades")
    assert list(result.tables) == ["market.bars_1m"]


@pytest.mark.parametrize(
    "sql",
    [
        "PIVOT market.bars_1m ON symbol USING count(*) GROUP BY date",
        "WITH daily AS (SELECT date, symbol FROM market.bars_1m) SELECT DISTINCT date FROM daily",
        "SELECT a.date FROM market.bars_1m a JOIN market.bars_1m b USING (symbol, ts, date) GROUP BY 1",
    ],
)
def test_statements_of_every_reading_kind_run(lake, sql):
    assert query(lake, sql).frame.height == 3


def test_describe_and_summarize_run(lake):
    described = query(lake, "DESCRIBE market.bars_1m").frame
    assert described["column_name"].to_list() == list(lake.table("market.bars_1m").contract.column_names)
    assert query(lake, "SUMMARIZE SELECT close FROM market.bars_1m").frame.height == 1


def test_a_table_nobody_wrote_has_columns_and_no_rows(lake):
    result = query(lake, "SELECT * FROM market.closes")

    assert result.frame.equals(lake.table("market.closes").contract.empty())
    assert result.tables == {"market.closes": -1}


def test_a_version_is_read_as_it_was(lake):
    first = lake.table("market.bars_1m").readable_versions()[1].version

    result = query(lake, "SELECT count(*) AS n FROM market.bars_1m", versions={"market.bars_1m": first})

    assert result.frame.item() == 20
    assert result.tables == {"market.bars_1m": first}


def test_a_version_can_be_asked_through_a_view(lake):
    first = lake.table("market.bars_1m").readable_versions()[1].version

    assert query(lake, "SELECT count(*) FROM market.ohlcv", versions={"market.ohlcv": first}).frame.item() == 20


def test_a_time_is_resolved_by_the_commits_own_times(lake):
    history = lake.table("market.bars_1m").versions()

    result = query(lake, "SELECT count(*) FROM market.bars_1m", as_of=history[2].timestamp)

    expected = [commit for commit in history if commit.timestamp <= history[2].timestamp][-1]
    assert result.tables == {"market.bars_1m": expected.version}


def test_a_version_that_never_was_names_the_readable_range(lake):
    with pytest.raises(VersionUnavailableError, match="Readable: version 0"):
        query(lake, "SELECT 1 FROM market.bars_1m", versions={"market.bars_1m": 99})


def test_a_version_of_a_table_that_is_not_named_is_refused(lake):
    with pytest.raises(BadRequestError, match=r"market\.trades.*does not name"):
        query(lake, "SELECT 1 FROM market.bars_1m", versions={"market.trades": 1})


def test_two_versions_of_one_table_are_refused(lake):
    with pytest.raises(BadRequestError, match="versions 1 and 2 were requested of the same table"):
        query(
            lake,
            "SELECT 1 FROM market.bars_1m, market.ohlcv",
            versions={"market.bars_1m": 1, "market.ohlcv": 2},
        )


def test_parameters_are_bound_not_pasted(lake):
    named = query(lake, "SELECT count(*) FROM market.bars_1m WHERE symbol = $s", params={"s": "x' OR '1'='1"})
    placed = query(lake, "SELECT count(*) FROM market.bars_1m WHERE symbol = ? AND ts < ?", params=("BTC-USDT", START))

    assert named.frame.item() == 0
    assert placed.frame.item() == 0


def test_a_time_parameter_means_the_same_instant_in_any_zone(lake):
    tokyo = (START + timedelta(minutes=5)).astimezone(timezone(timedelta(hours=9)))

    result = query(lake, "SELECT count(*) FROM market.bars_1m WHERE ts < $t", params={"t": tokyo})

    assert result.frame.item() == 10


def test_a_time_parameter_without_a_zone_is_refused(lake):
    with pytest.raises(BadRequestError, match="has no time zone"):
        query(lake, "SELECT 1 FROM market.bars_1m WHERE ts < $t", params={"t": datetime(2024, 3, 1)})


def test_times_come_back_as_utc_microseconds(lake):
    frame = query(lake, "SELECT ts, date_trunc('day', ts) AS day, TIMESTAMP '2024-03-01' AS t FROM market.ohlcv").frame

    assert set(frame.dtypes) == {pl.Datetime("us", "UTC")}
    assert frame["day"].min() == START


def test_intervals_come_back_as_durations(lake):
    frame = query(lake, "SELECT max(ts) - min(ts) AS d, NULL::INTERVAL AS n FROM market.bars_1m").frame

    assert frame.row(0) == (timedelta(days=2, minutes=9), None)


def test_an_interval_of_months_has_no_length(lake):
    with pytest.raises(SqlError, match="no fixed length"):
        query(lake, "SELECT INTERVAL 1 MONTH")


def test_sums_of_whole_numbers_are_whole_numbers_while_they_fit(lake):
    frame = query(lake, "SELECT sum(trades) AS s, 9223372036854775808::HUGEINT AS big FROM market.bars_1m").frame

    assert frame["s"].dtype == pl.Int64
    assert int(frame["big"][0]) == 2**63


@pytest.mark.parametrize(
    ("name", "hint"),
    [("market.trade", "'market.trades'"), ("bars_1m", "'market.bars_1m'"), ("markt.closes", "'market.closes'")],
)
def test_an_unknown_table_suggests_the_nearest(lake, name, hint):
    with pytest.raises(UnknownTableError, match=hint):
        query(lake, f"SELECT * FROM {name}")


@pytest.mark.parametrize("column", ["volum", "b.volum"])
def test_an_unknown_column_suggests_the_nearest(lake, column):
    with pytest.raises(UnknownColumnError, match="Did you mean 'volume'"):
        query(lake, f"SELECT {column} FROM market.bars_1m b")


def test_an_error_names_its_line(lake):
    with pytest.raises(SqlError, match="SQL, line 3: "):
        query(lake, "SELECT 1\nFROM market.bars_1m\nGROUP WHERE")


@pytest.mark.parametrize(
    "sql",
    [
        "",
        "-- nothing",
        "SELECT 1; SELECT 2",
        "SELEC 1",
        "SELECT no_such_function(1)",
        "SELECT 'a'::INTEGER",
        "SELECT $missing",
        "SELECT symbol, count(*) FROM market.bars_1m",
    ],
)
def test_a_statement_that_cannot_run_is_a_typed_error(lake, sql):
    with pytest.raises(SqlError):
        query(lake, sql)


@pytest.mark.parametrize(
    "sql",
    [
        "DELETE FROM market.bars_1m",
        "INSERT INTO market.bars_1m SELECT * FROM market.bars_1m",
        "CREATE TABLE x (a INTEGER)",
        "DROP VIEW market.bars_1m",
        "ATTACH '{file}'",
        "COPY (SELECT 1) TO '{file}'",
        "EXPLAIN ANALYZE COPY (SELECT 1) TO '{file}'",
        "WITH x AS (COPY (SELECT 1) TO '{file}') SELECT * FROM x",
        "WITH x AS (COPY (SELECT 1 AS a) TO '{file}') PIVOT x ON a USING count(*)",
        "SET threads = 64",
        "PRAGMA version",
        "INSTALL httpfs",
        "SELECT * FROM read_csv('/etc/hostname')",
        "SELECT * FROM read_text('/etc/hostname')",
        "SELECT * FROM '/etc/hostname'",
        "SELECT * FROM glob('/*')",
    ],
)
def test_nothing_is_written_and_no_other_file_is_read(lake, sql):
    before = {path: path.read_bytes() for path in Path(lake.table("market.bars_1m").uri).rglob("*") if path.is_file()}
    active = next(path for path in before if path.suffix == ".parquet")

    with pytest.raises((SqlError, UnknownTableError)):
        # Even a file that the statement may read must not be written.
        query(lake, sql.format(file=active))
    with pytest.raises((SqlError, UnknownTableError)):
        query(lake, "WITH n AS (SELECT 1 FROM market.bars_1m) " + sql.format(file=active))

    after = {path: path.read_bytes() for path in Path(lake.table("market.bars_1m").uri).rglob("*") if path.is_file()}
    assert after == before


def test_a_column_whose_name_is_a_writing_word_can_be_quoted(lake):
    assert query(lake, 'SELECT 1 AS "update"').frame.columns == ["update"]


def test_rows_stream_in_pieces_that_add_up(lake):
    with opened(lake, "SELECT * FROM market.bars_1m ORDER BY symbol, ts") as stream:
        pieces = list(stream.batches())

    assert pieces[0].height == 0
    assert pl.concat(pieces).equals(query(lake, "SELECT * FROM market.bars_1m ORDER BY symbol, ts").frame)


@pytest.mark.parametrize(
    ("sql", "hint"),
    [
        ("", "Write one SELECT."),
        ("-- nothing", "Write one SELECT."),
        ("SELECT 1; SELECT 2", "Run them one at a time."),
        ("SELEC 1", "Correct the syntax"),
        ("SELECT date_trunc(1, 2, 3)", r"Candidate functions: date_trunc\("),
    ],
)
def test_a_statement_that_cannot_run_says_what_to_do(lake, sql, hint):
    with pytest.raises(SqlError) as caught:
        query(lake, sql)

    assert re.search(hint, caught.value.hint)


def test_a_statement_that_fails_while_it_streams_is_a_typed_error(lake):
    sql = "SELECT CASE WHEN range > 500000 THEN error('stop') ELSE range END FROM range(600000)"

    with pytest.raises(SqlError, match="stop"), opened(lake, sql) as stream:
        sum(batch.height for batch in stream.batches())


def test_more_than_memory_spills_to_the_declared_folder_and_leaves_nothing(lake, tmp_path):
    sql = "SELECT count(*) FROM (SELECT range AS a, md5(range::VARCHAR) AS b FROM range(600000) ORDER BY b)"

    result = query(lake, sql, limits=Limits(memory="25MB", threads=1, spill=tmp_path / "spill"))

    assert result.frame.item() == 600_000
    assert list((tmp_path / "spill").iterdir()) == []


def test_more_than_memory_without_a_folder_says_what_to_do(lake):
    sql = "SELECT list(range ORDER BY hash(range)) FROM range(3000000)"

    with pytest.raises(SqlError, match="HFTHOT_DUCKDB_MEMORY"):
        query(lake, sql, limits=Limits(memory="15MB", threads=1))


def test_a_malformed_memory_limit_is_a_typed_error(lake):
    with pytest.raises(SqlError, match="HFTHOT_DUCKDB_MEMORY"):
        query(lake, "SELECT 1", limits=Limits(memory="plenty"))


def test_a_missing_file_is_named(tmp_path):
    lake = Lakehouse.open(tmp_path / "lake")
    lake.table("market.bars_1m").append(bars(START))
    victim = next((tmp_path / "lake/market/bars_1m").glob("date=*/*.parquet"))
    victim.unlink()

    with pytest.raises(DamagedTableError, match=victim.name):
        query(lake, "SELECT count(*) FROM market.bars_1m")


def test_a_truncated_file_is_named(tmp_path):
    lake = Lakehouse.open(tmp_path / "lake")
    lake.table("market.bars_1m").append(bars(START))
    victim = next((tmp_path / "lake/market/bars_1m").glob("date=*/*.parquet"))
    victim.write_bytes(victim.read_bytes()[:500])

    with pytest.raises(DamagedTableError, match=victim.name):
        query(lake, "SELECT count(*) FROM market.bars_1m")


def test_files_from_before_a_column_was_added_give_null_for_it(tmp_path, monkeypatch):
    Lakehouse.open(tmp_path / "lake").table("market.bars_1m").append(bars(START))
    old = CONTRACTS["market.bars_1m"]
    column = Column("vwap", FLOAT, "Mean price", nullable=True)
    monkeypatch.setitem(
        CONTRACTS, old.name, replace(old, columns=(*old.columns, column), schema_version=old.schema_version + 1)
    )
    lake = Lakehouse.open(tmp_path / "lake")
    later = bars(START + timedelta(days=1)).with_columns(pl.lit(100.5).alias("vwap"))
    lake.table("market.bars_1m").append(later)

    result = query(lake, "SELECT date, count(*) AS n, max(vwap) AS v FROM market.bars_1m GROUP BY 1 ORDER BY 1")

    assert result.frame.rows() == [(date(2024, 3, 1), 20, None), (date(2024, 3, 2), 20, 100.5)]


@pytest.mark.parametrize("name", ["a{b,c}", "it's", "ä ö"])
def test_a_lake_in_a_folder_of_any_name_is_read(tmp_path, name):
    lake = Lakehouse.open(tmp_path / name)
    lake.table("market.bars_1m").append(bars(START))

    assert query(lake, "SELECT count(*) FROM market.bars_1m WHERE symbol = 'BTC-USDT'").frame.item() == 10


def test_the_road_of_object_stores_gives_the_same_rows(lake, monkeypatch):
    statements = (
        "SELECT * FROM market.bars_1m ORDER BY symbol, ts",
        """SELECT date, symbol, sum(volume) AS v
           FROM market.ohlcv JOIN market.bars_1m USING (ts, symbol, venue, volume)
           WHERE date = '2024-03-02' AND ts >= '2024-03-02 00:05' GROUP BY ALL ORDER BY ALL""",
    )
    directly = [query(lake, sql).frame for sql in statements]
    # Everything but the place is real: a table that is not on the local disk is read through Polars.
    monkeypatch.setattr(Storage, "local", property(lambda _self: None))

    assert all(query(lake, sql).frame.equals(frame) for sql, frame in zip(statements, directly, strict=True))


def test_two_columns_of_one_name_are_refused_with_the_name(lake):
    with pytest.raises(SqlError, match="two columns of the result are named 'a'"):
        query(lake, "SELECT 1 AS a, 2 AS a")
