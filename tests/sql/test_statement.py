"""Names and versions in a statement: found where tables stand, and nowhere else."""

from __future__ import annotations

from datetime import UTC, datetime

import duckdb
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hfthot_platform.core.errors import SqlError, UnknownTableError
from hfthot_platform.services.sql.statement import DISCOVERY, parse, tokens_of, view_of

KNOWN = {"market.ohlcv", "market.bars_1m", "users", "usage", *DISCOVERY}


def names(sql: str) -> list[str]:
    return [reference.name for reference in parse(sql, KNOWN).references]


@pytest.mark.parametrize(
    ("sql", "expected"),
    [
        ("SELECT * FROM market.ohlcv", ["market.ohlcv"]),
        ("FROM users", ["users"]),
        ('from "Market"."OHLCV"', ["market.ohlcv"]),
        ("FROM users u, usage", ["users", "usage"]),
        ("FROM users JOIN usage ON users.id = usage.id, market.ohlcv", ["users", "usage", "market.ohlcv"]),
        ("FROM (users JOIN usage USING (id))", ["users", "usage"]),
        ("FROM ((users))", ["users"]),
        ("FROM u: users", ["users"]),
        ("SELECT (SELECT max(id) FROM users) FROM range(3)", ["users"]),
        ("SELECT 1 WHERE 1 IN (FROM users)", ["users"]),
        ("FROM range(3), LATERAL (SELECT * FROM usage)", ["usage"]),
        ("SELECT 1 UNION ALL BY NAME FROM users", ["users"]),
        ("DESCRIBE users", ["users"]),
        ("DESCRIBE SELECT id FROM users", ["users"]),
        ("SUMMARIZE users", ["users"]),
        ("TABLE users", ["users"]),
        ("EXPLAIN (FORMAT JSON) FROM users", ["users"]),
        ("PIVOT users ON usage USING count(*)", ["users"]),
        ("FROM (PIVOT users ON day)", ["users"]),
        ("FROM histogram(market.bars_1m, close)", ["market.bars_1m"]),
        ("SELECT count(*) FROM users WHERE id = $id AND day < ?", ["users"]),
    ],
)
def test_tables_are_found_wherever_they_can_stand(sql, expected):
    assert names(sql) == expected


@pytest.mark.parametrize(
    "sql",
    [
        "SELECT 'FROM users', $$ FROM users $$, E'\\'FROM users' -- FROM users",
        "SELECT 1 /* FROM users /* FROM users */ FROM users */",
        "SELECT users, market.ohlcv.close FROM t",
        'SELECT 1 AS "FROM users"',
        'FROM "market.ohlcv"',
        "FROM users(1)",
        "FROM elsewhere.users",
        "SELECT extract(day FROM users) FROM t",
        "SELECT a IS DISTINCT FROM users FROM t",
        "SELECT 1 FROM t ORDER BY users, usage",
        "FROM (VALUES (1)) t(users)",
        "SELECT list[users], {'a': users} FROM t",
        "WITH users AS (SELECT 1) FROM users",
        "WITH RECURSIVE users(n) AS (SELECT 1 UNION ALL SELECT n + 1 FROM users) FROM users",
        "FROM \u212aarket.ohlcv",
        "FROM u\u017fers",
    ],
)
def test_text_comments_columns_and_common_table_expressions_are_no_tables(sql):
    assert names(sql) == []


def test_a_common_table_expression_hides_a_table_only_in_its_own_query():
    assert names("SELECT * FROM (WITH users AS (SELECT 1) FROM users) JOIN users ON true") == ["users"]
    assert names("WITH a AS (FROM users), users AS (SELECT 1) FROM a, users") == ["users"]


def test_versions_and_times_become_views_of_their_own():
    parsed = parse(
        "SELECT * FROM market.ohlcv VERSION AS OF 5 AS a JOIN market.ohlcv TIMESTAMP AS OF '2026-01-15 14:00' b "
        "USING (ts) JOIN users VERSION AS OF 3 ON true JOIN market.ohlcv ON true",
        KNOWN,
    )

    time = datetime(2026, 1, 15, 14, tzinfo=UTC)
    assert [(reference.name, reference.version, reference.as_of) for reference in parsed.references] == [
        ("market.ohlcv", 5, None),
        ("market.ohlcv", None, time),
        ("users", 3, None),
        ("market.ohlcv", None, None),
    ]
    assert [reference.schema for reference in parsed.references] == [
        "market@5",
        "market@2026-01-15T14:00:00+00:00",
        "@3",
        "market",
    ]
    assert parsed.sql == (
        'SELECT * FROM "market@5"."ohlcv" AS a JOIN "market@2026-01-15T14:00:00+00:00"."ohlcv" b '
        'USING (ts) JOIN "@3"."users" ON true JOIN market.ohlcv ON true'
    )


@pytest.mark.parametrize(
    "text", ["'2026-01-15T14:00Z'", "'2026-01-15 15:00+01:00'", "' 2026-01-15 14:00:00.000 '", "'2026-01-15T14:00'"]
)
def test_a_time_is_utc_unless_it_has_an_offset(text):
    (reference,) = parse(f"FROM users TIMESTAMP AS OF {text}", KNOWN).references

    assert reference.as_of == datetime(2026, 1, 15, 14, tzinfo=UTC)
    assert reference.view == '"@2026-01-15T14:00:00+00:00"."users"'


def test_columns_of_a_table_at_one_version_may_be_qualified_with_its_full_name():
    sql = parse("SELECT market.ohlcv.close FROM market.ohlcv VERSION AS OF 5 WHERE Market.ohlcv.high > 1", KNOWN).sql

    assert sql == 'SELECT "market@5".ohlcv.close FROM "market@5"."ohlcv" WHERE "market@5".ohlcv.high > 1'


def test_a_full_name_means_the_current_version_where_that_is_there_too():
    sql = parse("SELECT market.ohlcv.close FROM market.ohlcv, market.ohlcv VERSION AS OF 5 b", KNOWN).sql

    assert sql == 'SELECT market.ohlcv.close FROM market.ohlcv, "market@5"."ohlcv" b'


def test_comments_and_lines_between_the_words_are_no_obstacle_and_later_lines_keep_their_numbers():
    parsed = parse("FROM users /* a */ VERSION -- b\n AS\n OF\n 5\nWHERE x", KNOWN)

    assert parsed.sql.splitlines()[4] == "WHERE x"
    assert parsed.references[0].version == 5


def test_every_table_reads_as_of_a_given_time_but_those_with_a_version():
    time = datetime(2026, 1, 1, tzinfo=UTC)
    parsed = parse("FROM users, usage VERSION AS OF 2, hfthot.tables", KNOWN, as_of=time)

    assert [(reference.name, reference.as_of) for reference in parsed.references] == [
        ("users", time),
        ("usage", None),
        ("hfthot.tables", None),
    ]
    assert parsed.sql == f'FROM {view_of("users", None, time)}, "@2"."usage", hfthot.tables'


def test_unicode_spaces_are_spaces_as_for_duckdb():
    parsed = parse("FROM\u00a0users\u3000VERSION\u2003AS OF 5 WHERE x = '\u00a0'", KNOWN)

    assert parsed.sql == 'FROM "@5"."users" WHERE x = \'\u00a0\''


@pytest.mark.parametrize("space", ["\u00a0", "\u2000", "\u2009", "\u200b", "\u202f", "\u205f", "\u2060", "\u3000"])
def test_what_is_taken_for_a_space_is_one_for_duckdb_too(space):
    assert duckdb.sql(f"SELECT{space}1").fetchall() == [(1,)]


@pytest.mark.parametrize("value", ["x", "", "'5'", "-1", "5.5", "1e3", "$v", "99999999999999999999"])
def test_a_malformed_version_says_how_to_write_it(value):
    with pytest.raises(SqlError, match=r"not a version\. Write users VERSION AS OF 5"):
        parse(f"FROM users VERSION AS OF {value}", KNOWN)


@pytest.mark.parametrize(
    "value", ["'x'", "5", "", "'2026-13-01'", "$t", "E'2026-01-01'", "'0001-01-01T00:00+05:00'", "'"]
)
def test_a_malformed_time_says_how_to_write_it_and_where(value):
    with pytest.raises(SqlError, match=r"line 2: .* is not a time\. Write users TIMESTAMP"):
        parse(f"SELECT *\nFROM users TIMESTAMP AS OF {value}", KNOWN)


def test_a_version_of_an_unknown_table_suggests_the_nearest():
    with pytest.raises(UnknownTableError, match=r"market\.ohlcv"):
        parse("FROM market.ohlc VERSION AS OF 5", KNOWN)


def test_discovery_has_no_versions():
    with pytest.raises(SqlError, match="has no versions"):
        parse("FROM hfthot.tables VERSION AS OF 5", KNOWN)


@pytest.mark.parametrize("sql", ["SHOW TABLES", "show all tables;", "SHOW TABLES FROM market"])
def test_show_tables_reads_the_relation_of_tables(sql):
    parsed = parse(sql, KNOWN)

    assert [reference.name for reference in parsed.references] == ["hfthot.tables"]
    assert "starts_with" in parsed.sql or "market" not in sql


def test_text_that_is_not_unicode_is_a_typed_error():
    with pytest.raises(SqlError, match="not Unicode"):
        parse("SELECT '\ud800'", KNOWN)


_PIECES = st.sampled_from(
    [
        *("SELECT", "FROM", "JOIN", "WITH", "AS", "OF", "VERSION", "TIMESTAMP", "users", "market", ".", "ohlcv", "ON"),
        *(
            "(",
            ")",
            "[",
            "]",
            ",",
            ":",
            ";",
            "'2026-01-01'",
            "5",
            "'",
            '"',
            "/*",
            "*/",
            "--",
            "\n",
            "$$",
            "\u00a0",
            "ü",
        ),
        *("DESCRIBE", "PIVOT", "SHOW", "TABLES", "UNION", "\x00", "*", "{", "}", "LATERAL", "RECURSIVE"),
    ]
)


@settings(max_examples=300, deadline=None)
@given(st.lists(_PIECES, max_size=30), st.sampled_from(["", " "]))
def test_any_text_is_parsed_or_refused_with_a_typed_error_and_found_names_are_known(pieces, glue):
    sql = glue.join(pieces)
    try:
        parsed = parse(sql, KNOWN)
    except (SqlError, UnknownTableError):
        return
    assert all(reference.name in KNOWN for reference in parsed.references)
    if (
        all(reference.version is None and reference.as_of is None for reference in parsed.references)
        and "SHOW" not in sql
    ):
        assert parsed.sql == tokens_of(sql)[0].decode()


def test_a_long_hostile_text_takes_linear_time():
    parsed = parse("SELECT " + "(" * 20_000 + "FROM users" + ", users" * 20_000, KNOWN)

    assert len(parsed.references) == 1
