"""Versions and times inside SQL: several of one table in one statement, through views, and what is out of range."""

from __future__ import annotations

import itertools
import json
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from zoneinfo import ZoneInfo

import polars as pl
import pytest

from hfthot_platform.core.errors import (
    BadRequestError,
    SqlError,
    UnknownColumnError,
    UnknownTableError,
    UnsupportedTableError,
    VersionUnavailableError,
)
from hfthot_platform.domain.contracts import CONTRACTS, Column
from hfthot_platform.domain.contracts.model import FLOAT, TEXT
from hfthot_platform.domain.contracts.views import VIEWS, SqlView
from hfthot_platform.services.sql import query
from hfthot_platform.storage.lakehouse import Lakehouse

FIRST = datetime(2024, 3, 1, tzinfo=UTC)


def closes(day: int, level: float) -> pl.DataFrame:
    return pl.DataFrame(
        {
            "venue": ["test"] * 2,
            "symbol": ["AAA", "BBB"],
            "date": [(FIRST + timedelta(days=day)).date()] * 2,
            "close": [level, 2 * level],
            "adjusted": [False] * 2,
            "source": ["synthetic"] * 2,
            "source_ref": ["test"] * 2,
        }
    )


VIEW = SqlView(
    name="marts.levels",
    sql="SELECT symbol, avg(close) AS level FROM market.closes GROUP BY symbol; -- by symbol",
    columns=(Column("symbol", TEXT, "Symbol"), Column("level", FLOAT, "Mean close")),
    description="Mean close by symbol.",
)
DOUBLED = SqlView(
    name="marts.doubled",
    sql="SELECT symbol, 2 * level AS level FROM marts.levels",
    columns=VIEW.columns,
    description="Twice as much.",
)
CIRCLE = (
    SqlView("marts.a", "SELECT symbol, level FROM marts.b", VIEW.columns, "A"),
    SqlView("marts.b", "SELECT symbol, level FROM marts.a", VIEW.columns, "B"),
)
BROKEN = SqlView("marts.broken", "SELECT symbol, lvl AS level FROM marts.levels", VIEW.columns, "Broken.")


@pytest.fixture(scope="module")
def lake(tmp_path_factory) -> Lakehouse:
    """Closes of a day in each of the versions 1 to 3; the day of version 1 is replaced by version 4."""
    ticks = itertools.count()
    lake = Lakehouse.open(
        tmp_path_factory.mktemp("lake"),
        clock=lambda: FIRST + timedelta(hours=next(ticks)),
        views={**VIEWS, **{view.name: view for view in (VIEW, DOUBLED, *CIRCLE, BROKEN)}},
    )
    table = lake.table("market.closes")
    for day in range(3):
        table.append(closes(day, 100.0 + day))
    table.replace(FIRST.date(), closes(0, 500.0))
    return lake


@pytest.fixture(scope="module")
def stamps(lake) -> dict[int, datetime]:
    return {version.version: version.timestamp for version in lake.table("market.closes").versions()}


def test_two_versions_of_one_table_are_joined_in_one_statement(lake):
    result = query(
        lake,
        """SELECT a.symbol, a.close AS was, b.close AS became
           FROM market.closes VERSION AS OF 1 AS a JOIN market.closes VERSION AS OF 4 b USING (symbol, date)
           ORDER BY 1""",
    )

    assert result.frame.rows() == [("AAA", 100.0, 500.0), ("BBB", 200.0, 1000.0)]
    assert result.tables == {"market.closes@1": 1, "market.closes@4": 4}


def test_a_version_stands_beside_the_current_one(lake):
    result = query(
        lake, "SELECT (SELECT count(*) FROM market.closes VERSION AS OF 2), (SELECT count(*) FROM market.closes)"
    )

    assert result.frame.row(0) == (4, 6)
    assert result.tables == {"market.closes@2": 2, "market.closes@4": 4}


def test_the_result_names_the_one_version_that_was_read(lake):
    assert query(lake, "SELECT count(*) FROM market.closes VERSION AS OF 2").tables == {"market.closes": 2}


def test_a_time_reads_what_was_current_then(lake, stamps):
    text = stamps[2].strftime("%Y-%m-%d %H:%M:%S.%f")
    offset = stamps[2].astimezone(ZoneInfo("Asia/Tokyo")).isoformat()

    for time in (text, offset):
        result = query(lake, f"SELECT count(*) FROM market.closes TIMESTAMP AS OF '{time}'")
        expected = max(version for version, stamp in stamps.items() if stamp <= stamps[2])
        assert result.tables == {"market.closes": expected}
        assert result.frame.item() == 2 * min(expected, 3)


@pytest.mark.parametrize("column", ["close", "closes.close", "market.closes.close", "Market.Closes.CLOSE"])
def test_columns_are_qualified_as_without_a_version(lake, column):
    frame = query(lake, f"SELECT {column} FROM market.closes VERSION AS OF 1 WHERE {column} > 150").frame

    assert frame.rows() == [(200.0,)]


def test_a_version_goes_through_a_view_of_a_table(lake):
    assert query(lake, "DESCRIBE market.ohlcv").frame.height == len(VIEWS["market.ohlcv"].columns)
    with pytest.raises(VersionUnavailableError, match=r"market\.bars_1m.*no version yet"):
        query(lake, "FROM market.ohlcv VERSION AS OF 3")


def test_the_versions_of_the_call_count_for_tables_without_one_in_the_text(lake):
    sql = "SELECT (SELECT count(*) FROM market.closes), (SELECT count(*) FROM market.closes VERSION AS OF 1)"

    assert query(lake, sql, versions={"market.closes": 3}).frame.row(0) == (6, 2)
    with pytest.raises(BadRequestError, match="does not name"):
        query(lake, "FROM market.closes VERSION AS OF 1", versions={"market.closes": 3})


def test_the_time_of_the_call_counts_for_tables_without_one_in_the_text(lake, stamps):
    sql = "SELECT count(*) FROM market.closes a, market.closes VERSION AS OF 1 b"

    assert query(lake, sql, as_of=stamps[0]).tables["market.closes@1"] == 1


@pytest.mark.parametrize("asked", ["VERSION AS OF 99", "VERSION AS OF 5"])
def test_a_version_out_of_range_names_the_range(lake, asked):
    with pytest.raises(VersionUnavailableError, match=r"market\.closes: version \d+.* Readable: version 0 .* to 4 "):
        query(lake, f"FROM market.closes {asked}")


def test_a_time_before_the_first_version_names_the_range(lake):
    with pytest.raises(VersionUnavailableError, match=r"2001-01-01.* Readable: version 0 .* to 4 "):
        query(lake, "FROM market.closes TIMESTAMP AS OF '2001-01-01'")


def test_a_computed_view_is_expanded_to_any_depth(lake):
    result = query(lake, "SELECT * FROM marts.doubled ORDER BY symbol")

    now = lake.table("market.closes").scan().group_by("symbol").agg((pl.col("close").mean() * 2).alias("level"))
    assert result.frame.equals(now.sort("symbol").collect())
    assert result.tables == {"market.closes": 4}


def test_a_computed_view_at_a_time_reads_its_tables_at_that_time(lake, stamps):
    text = stamps[1].isoformat()
    version = max(version for version, stamp in stamps.items() if stamp <= stamps[1])

    then = query(lake, f"SELECT level FROM marts.doubled TIMESTAMP AS OF '{text}' ORDER BY symbol")

    direct = query(
        lake, f"SELECT 2 * avg(close) AS level FROM market.closes VERSION AS OF {version} GROUP BY symbol ORDER BY 1"
    )
    assert then.frame.equals(direct.frame)
    assert then.tables == {"market.closes": version}


def test_a_computed_view_then_and_now_in_one_statement(lake, stamps):
    text = stamps[1].isoformat()
    frame = query(
        lake,
        f"""SELECT symbol, n.level > o.level AS rose
            FROM marts.levels n JOIN marts.levels TIMESTAMP AS OF '{text}' o USING (symbol) ORDER BY 1""",
    ).frame

    assert frame.rows() == [("AAA", True), ("BBB", True)]


def test_a_version_of_the_call_reaches_the_tables_of_a_computed_view(lake):
    assert (
        query(lake, "SELECT level FROM marts.levels WHERE symbol = 'AAA'", versions={"market.closes": 1}).frame.item()
        == 100
    )


@pytest.mark.parametrize(
    ("call", "error"),
    [
        (lambda lake: query(lake, "FROM marts.levels VERSION AS OF 1"), SqlError),
        (lambda lake: query(lake, "FROM marts.levels", versions={"marts.levels": 1}), BadRequestError),
    ],
    ids=["in the text", "in the call"],
)
def test_a_computed_view_has_no_version_of_its_own(lake, call, error):
    with pytest.raises(error, match="of its own"):
        call(lake)


def test_a_view_that_computes_itself_is_told(lake):
    with pytest.raises(SqlError, match=r"marts\.a reads marts\.b reads marts\.a"):
        query(lake, "FROM marts.a")


def test_a_view_that_does_not_bind_is_named(lake):
    with pytest.raises(SqlError, match=r"marts\.broken: the view cannot be computed"):
        query(lake, "FROM marts.broken")


def test_names_come_from_the_lake_and_not_from_the_platform(tmp_path):
    contract = replace(CONTRACTS["market.closes"], name="lab.closes")
    lake = Lakehouse.open(tmp_path, contracts={"lab.closes": contract}, views={}, new=True)

    assert query(lake, "FROM lab.closes").frame.height == 0
    with pytest.raises(UnknownTableError, match=r"lab\.closes"):
        query(lake, "FROM market.closes")
    with pytest.raises(UnknownColumnError, match="'close'"):
        query(lake, "SELECT clos FROM lab.closes")


def test_a_table_without_a_namespace_is_read_by_its_name(tmp_path):
    contract = replace(CONTRACTS["market.closes"], name="closes")
    lake = Lakehouse.open(tmp_path, contracts={"closes": contract}, views={})
    lake.table("closes").append(closes(0, 100.0))
    lake.table("closes").append(closes(1, 100.0))

    sql = "SELECT (SELECT count(*) FROM closes), (SELECT count(closes.symbol) FROM closes VERSION AS OF 1)"
    assert query(lake, sql).frame.row(0) == (4, 2)
    hidden = query(lake, "WITH closes AS (SELECT 1 AS n) FROM closes")
    assert (hidden.frame.rows(), hidden.tables) == ([(1,)], {})


@pytest.mark.parametrize(
    ("protocol", "configuration"),
    [
        ({"readerFeatures": ["deletionVectors"], "writerFeatures": ["deletionVectors"]}, {}),
        (
            {"readerFeatures": ["columnMapping"], "writerFeatures": ["columnMapping"]},
            {"delta.columnMapping.mode": "name"},
        ),
    ],
    ids=["deletion vectors", "column mapping"],
)
def test_tables_that_would_be_misread_are_refused(tmp_path, protocol, configuration):
    lake = Lakehouse.open(tmp_path)
    table = lake.table("market.closes")
    table.append(closes(0, 100.0))
    assert query(lake, "SELECT count(*) FROM market.closes").frame.item() == 2
    log = tmp_path / "market" / "closes" / "_delta_log"
    metadata = next(
        action["metaData"]
        for line in (log / f"{0:020d}.json").read_text().splitlines()
        if "metaData" in (action := json.loads(line))
    )
    metadata["configuration"] |= configuration
    actions = [
        {"protocol": {"minReaderVersion": 3, "minWriterVersion": 7, **protocol}},
        {"metaData": metadata},
        {"commitInfo": {"timestamp": 1_800_000_000_000, "operation": "SET TBLPROPERTIES"}},
    ]
    newest = log / f"{table.version() + 1:020d}.json"
    newest.write_text("\n".join(map(json.dumps, actions)) + "\n")

    with pytest.raises(UnsupportedTableError):
        query(lake, "SELECT count(*) FROM market.closes")


def test_a_commit_is_seen_at_once_by_a_lake_that_has_read_before(tmp_path):
    reader, writer = Lakehouse.open(tmp_path), Lakehouse.open(tmp_path)
    for day in range(3):
        writer.table("market.closes").append(closes(day, 100.0))
        assert query(reader, "SELECT count(*) FROM market.closes").frame.item() == 2 * (day + 1)
        assert query(reader, "SELECT count(*) FROM market.closes VERSION AS OF 1").frame.item() == 2
    writer.table("market.closes").restore(1)
    assert query(reader, "SELECT count(*) FROM market.closes").frame.item() == 2
