"""From files to models: what a sound file becomes, and what is said of every mistake."""

from __future__ import annotations

import datetime as dt
from pathlib import Path

import dagster as dg
import duckdb
import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from hfthot_platform.core.errors import SqlModelsError, UnknownTableError
from hfthot_platform.domain.contracts.model import DATE, FLOAT, INT, SMALL, TEXT, TIME, Column, TableContract
from hfthot_platform.domain.contracts.rules import Between, NotNull, OneOf
from hfthot_platform.services.sql.models import load_models, read_models
from hfthot_platform.services.sql.models.header import Header
from hfthot_platform.services.sql.models.statement import VOLATILE
from tests.sql.models.conftest import BARS, RETURNS


def model(sql: str, header: str = "", *, kind: str = "view") -> str:
    """Return a file with a header of few lines; the statement begins on line 6 and one per line of `header`."""
    return f"/*\ndescription: A test.\nowner: research\nmaterialized: {kind}\n{header}*/\n{sql}\n"


def mistakes(folder: Path) -> list[str]:
    return [str(mistake) for mistake in read_models(folder).mistakes]


# -- sound files ------------------------------------------------------------------------------------------------


def test_a_view_becomes_an_sql_view_with_typed_columns(write):
    view = load_models(write(staging__minutes=BARS))["staging.minutes"].view

    assert view.name == "staging.minutes"
    assert view.sql.startswith("SELECT ts, venue")
    assert [column.name for column in view.columns][:3] == ["ts", "venue", "symbol"]
    assert view.columns[0].dtype == TIME


def test_an_incremental_model_becomes_a_contract_with_key_partition_and_rules(write):
    models = load_models(write(staging__minutes=BARS, marts__returns=RETURNS))
    contract = models["marts.returns"].contract

    assert contract.primary_key == ("venue", "symbol", "date")
    assert (contract.partition_by, contract.time_column) == ("date", "date")
    assert contract.max_rejected_share == 0
    assert {column.name: column.nullable for column in contract.columns} == {
        "venue": False,
        "symbol": False,
        "date": False,
        "close": False,
        "bars": True,
        "change": True,
    }
    assert Between("bars", 1, float("inf")) in contract.rules
    assert NotNull("close") in contract.rules
    assert set(models.contracts) == {"marts.returns", "quarantine.returns"}
    assert set(models.views) == {"staging.minutes"}


def test_models_come_after_those_that_they_read(write):
    models = load_models(write(marts__returns=RETURNS, staging__minutes=BARS))
    assert [model.name for model in models] == ["staging.minutes", "marts.returns"]
    assert models["marts.returns"].depends_on == ("staging.minutes",)


def test_a_model_is_found_by_its_short_name_and_with_its_neighbours(write):
    models = load_models(write(marts__returns=RETURNS, staging__minutes=BARS))
    assert models["returns"].name == "marts.returns"
    assert [model.name for model in models.select(["+returns"])] == ["staging.minutes", "marts.returns"]
    assert [model.name for model in models.select(["minutes+"])] == ["staging.minutes", "marts.returns"]
    assert [model.name for model in models.select(["returns"])] == ["marts.returns"]
    with pytest.raises(UnknownTableError, match=r"Did you mean .marts\.returns.\?"):
        models.select(["marts.retruns"])


def test_a_copied_column_takes_description_and_unit_from_the_original(write):
    columns = {column.name: column for column in load_models(write(staging__minutes=BARS))["minutes"].columns}
    assert columns["high"].description == "Highest price"
    assert columns["high"].unit == "quote per base"


@pytest.mark.parametrize(
    ("expression", "dtype"),
    [
        ("CAST(1 AS TINYINT)", SMALL),
        ("sum(trades)", INT),
        ("CAST(close AS DECIMAL(18, 3))", FLOAT),
        ("CAST(close AS FLOAT)", FLOAT),
        ("CAST(ts AS TIMESTAMP)", TIME),
        ("CAST(ts AS DATE)", DATE),
        ("CAST(symbol AS ENUM ('a', 'b'))", TEXT),
    ],
)
def test_types_of_the_statement_become_types_that_are_stored(write, expression, dtype):
    sql = f"SELECT {expression} AS x FROM market.bars_1m GROUP BY ALL"
    made = load_models(write(staging__a=model(sql)))["a"]
    assert made.columns[0].dtype == dtype


def test_a_declared_wider_type_holds(write):
    made = load_models(write(staging__a=model("SELECT 1 AS x", "columns: {x: {type: float64}}\n")))["a"]
    assert made.columns[0].dtype == FLOAT
    assert duckdb.sql(made.sql).types == ["DOUBLE"]


def test_settings_of_a_view_are_part_of_its_sql_as_literals(write):
    sql = "SELECT symbol, $least AS least, $it_s AS word FROM market.closes WHERE close > $least"
    header = "settings: {least: 2.5, it_s: it's}\n"
    view = load_models(write(staging__a=model(sql, header)))["a"].view
    assert (
        view.sql.splitlines()[-2] == "SELECT symbol, 2.5 AS least, 'it''s' AS word FROM market.closes WHERE close > 2.5"
    )


def test_parameters_of_a_stored_model_stay_parameters(write):
    made = load_models(write(staging__minutes=BARS, marts__returns=RETURNS))["returns"]
    assert "$partition_start" in made.sql
    days = dt.date(2024, 1, 1), dt.date(2024, 1, 2)
    assert made.values(days) == {"partition_start": days[0], "partition_end": days[1], "lookback_days": 7}


@pytest.mark.parametrize("grain", ["date", "month", "year"])
def test_a_partition_column_is_derived_from_the_time_column(write, grain):
    header = f"unique_key: [symbol, ts]\npartitioned_by: {grain}\ntime_column: ts\n"
    sql = "SELECT symbol, ts FROM market.trades WHERE ts >= $partition_start AND ts < $partition_end"
    contract = load_models(write(staging__a=model(sql, header, kind="incremental")))["a"].contract
    assert contract.partition_by == grain
    assert contract.column(grain).dtype == (SMALL if grain == "year" else DATE)


def test_accepted_values_become_a_rule(write):
    header = "unique_key: [symbol]\ncolumns: {symbol: {tests: [{accepted_values: [A, B]}]}}\n"
    contract = load_models(write(staging__a=model("SELECT 'A' AS symbol", header, kind="table")))["a"].contract
    assert OneOf("symbol", ("A", "B")) in contract.rules


# -- lineage ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("sql", "column", "expected"),
    [
        ("SELECT close AS x FROM market.closes", "x", {"market.closes.close"}),
        (
            "SELECT c.close * i.tick_size AS x FROM market.closes c JOIN market.instruments i USING (venue, symbol)",
            "x",
            {"market.closes.close", "market.instruments.tick_size"},
        ),
        (
            (
                "WITH a AS (SELECT symbol, close AS y FROM market.closes), b AS (SELECT *, y + 1 AS z FROM a) "
                "SELECT z AS x FROM b"
            ),
            "x",
            {"market.closes.close"},
        ),
        ("SELECT close AS a, a * 2 AS x FROM market.closes", "x", {"market.closes.close"}),
        (
            "SELECT close AS x FROM market.closes UNION ALL SELECT open FROM market.bars",
            "x",
            {"market.closes.close", "market.bars.open"},
        ),
        (
            "SELECT close AS x, symbol FROM market.closes UNION ALL BY NAME SELECT symbol, open AS x FROM market.bars",
            "x",
            {"market.closes.close", "market.bars.open"},
        ),
        ("SELECT (SELECT max(high) FROM market.bars) AS x FROM market.closes", "x", {"market.bars.high"}),
        ("SELECT x FROM (SELECT avg(close) AS x FROM market.closes GROUP BY symbol)", "x", {"market.closes.close"}),
        ("SELECT * EXCLUDE (close) RENAME (symbol AS x) FROM market.closes", "x", {"market.closes.symbol"}),
        ("SELECT * REPLACE (close + 1 AS close) FROM market.closes", "close", {"market.closes.close"}),
        ("SELECT t.* FROM market.closes t", "close", {"market.closes.close"}),
        ("FROM market.closes", "close", {"market.closes.close"}),
        ("SELECT u.x FROM market.closes c, unnest([c.close]) AS u(x)", "x", {"market.closes.close"}),
        ("SELECT a.x FROM (SELECT symbol, close FROM market.closes) AS a(s, x)", "x", {"market.closes.close"}),
        ("SELECT close AS x FROM market.ohlcv", "x", {"market.ohlcv.close"}),
        (
            (
                "WITH RECURSIVE r AS (SELECT close AS x, 1 AS n FROM market.closes "
                "UNION ALL SELECT x, n + 1 FROM r WHERE n < 3) SELECT x FROM r"
            ),
            "x",
            {"market.closes.close"},
        ),
        ("SELECT count(*) AS x FROM market.closes", "x", set()),
        (
            "SELECT (SELECT max(b.high) FROM market.bars b WHERE b.symbol = o.symbol) AS x FROM market.closes o",
            "x",
            {"market.bars.high"},
        ),
    ],
)
def test_lineage_follows_columns_down_to_tables(write, sql, column, expected):
    made = load_models(write(staging__a=model(sql)))["a"]
    assert {".".join(source) for source in made.lineage.get(column, ())} == expected


def test_a_column_made_of_personal_data_is_personal_unless_the_header_says_otherwise(write):
    people = TableContract(
        name="people",
        description="",
        columns=(Column("id", TEXT, ""), Column("email", TEXT, "", personal=True)),
        primary_key=("id",),
        sort_by=("id",),
    )
    sql = "SELECT upper(email) AS mail, count(DISTINCT email) AS addresses FROM people GROUP BY ALL"
    header = "columns: {addresses: {personal: false}}\n"
    made = load_models(write(staging__a=model(sql, header)), {"people": people}, {})["a"]
    assert {column.name: column.personal for column in made.columns} == {"mail": True, "addresses": False}


# -- mistakes ---------------------------------------------------------------------------------------------------

INCREMENTAL = "unique_key: [symbol, ts]\npartitioned_by: date\ntime_column: ts\n"
SPAN = "WHERE ts >= $partition_start AND ts < $partition_end"


@pytest.mark.parametrize(
    ("sql", "expected"),
    [
        ("SELECT symbol\nFROM market.barz", "7: unknown table 'market.barz'. Did you mean 'market.bars'?"),
        ("SELECT symbol FROM closes", "6: unknown table 'closes'. Write its full name, 'market.closes'."),
        ("SELECT symbol,\n clos\nFROM market.closes", "7: unknown column 'clos'. Did you mean 'close'?"),
        ("SELECT c.clos FROM market.closes c", "6: unknown column 'clos'. Did you mean 'close'?"),
        (
            "SELECT symbol FROM market.closes a,\n market.bars b",
            "6: ambiguous column 'symbol'. Write a.symbol or b.symbol.",
        ),
        (
            "SELECT 1 AS a;\nSELECT 2 AS b",
            "7: there are 2 statements instead of one. Put each model into its own file.",
        ),
        ("DELETE FROM market.closes", "6: DELETE is not a SELECT. A model must be a SELECT."),
        ("CREATE TABLE x AS SELECT 1", "6: CREATE is not a SELECT. A model must be a SELECT."),
        ("COPY market.closes TO 'x.csv'", "6: COPY is not a SELECT. A model must be a SELECT."),
        (
            "WITH a AS (\nDELETE FROM market.closes RETURNING *) SELECT * FROM a",
            "7: DELETE is not a SELECT. A model must be a SELECT.",
        ),
        ("SELECT $venu AS x", "6: the parameter $venu is not declared. Declare it under settings, with its default."),
        ("SELECT ? AS x", "6: a parameter without a name. Write $name and declare it in settings."),
        (
            "SELECT $partition_start AS x",
            "6: $partition_start in a view, which has no partitions. Only incremental models have partitions.",
        ),
        (
            "SELECT close + symbol AS x FROM market.closes",
            (
                "6: No function matches the given name and argument types '+(DOUBLE, VARCHAR)'. "
                "You might need to add explicit type casts."
            ),
        ),
        ("SELECT flor(close) AS x FROM market.closes", "6: unknown function 'flor'. Did you mean \"floor\"?"),
        (
            "SELECT close, count(*) AS n FROM market.closes",
            (
                '6: column "close" must appear in the GROUP BY clause or must be part of an aggregate function. '
                'Either add it to the GROUP BY list, or use ANY_VALUE("close") if the exact value of "close" is not '
                "important."
            ),
        ),
        (
            "SELECT * FROM read_csv('/etc/passwd')",
            "6: a model reads tables of the lake, not files. Ingest the file first, then name its table.",
        ),
        ("SELECT * FROM '/etc/passwd.csv'", "6: unknown table '/etc/passwd.csv'."),
        (
            "SELECT close + 1 FROM market.closes",
            "6: the column '(\"close\" + 1)' has no valid name. Name it with AS, using letters, digits and '_'.",
        ),
        (
            "SELECT a.symbol, b.symbol FROM market.closes a, market.bars b",
            "6: two columns are named 'symbol'. Rename one of them with AS.",
        ),
        (
            "SELECT [close] AS x FROM market.closes",
            (
                "6: the column 'x' has the type DOUBLE[], which tables do not support. "
                "Cast it to text, a number, a date or a time, or unnest it."
            ),
        ),
        ("", "5: no statement follows the header. Write one SELECT."),
        (
            "SELECT (1 AS x",
            '6: the statement cannot be parsed: syntax error at or near "AS". Write one SELECT in DuckDB\'s dialect.',
        ),
    ],
)
def test_a_mistake_in_the_statement_is_told_with_line_and_suggestion(write, sql, expected):
    assert mistakes(write(staging__a=model(sql))) == [f"dbt_like_sql/staging/a.sql:{expected}"]


@pytest.mark.parametrize(
    ("header", "expected"),
    [
        ("materialised: view\n", "5: unknown entry 'materialised'. Did you mean 'materialized'?"),
        ("columns: {x: {typ: text}}\n", "5: unknown entry 'columns.x.typ'. Did you mean 'type'?"),
        (
            "columns:\n  x:\n    type: strin\n",
            ("7: columns.x.type cannot be 'strin'. Known: text, int32, int64, float64, boolean, date, timestamp."),
        ),
        ("columns:\n  x:\n    type: float\n", "7: columns.x.type cannot be 'float'. Did you mean 'float64'?"),
        (
            "columns:\n  x:\n    tests:\n    - not_nul\n",
            "8: unknown entry 'columns.x.tests.not_nul'. Did you mean 'not_null'?",
        ),
        (
            "columns:\n  x:\n    tests:\n    - range: {mni: 1}\n",
            ("8: unknown entry 'columns.x.tests.range.mni'. Did you mean 'min'?"),
        ),
        (
            "columns:\n  x:\n    tests:\n    - range: {min: 2, max: 1}\n",
            "8: columns.x.tests.range: the range from 2 to 1 is empty.",
        ),
        (
            "tests:\n- freshness: {column: x, within: tomorrow}\n",
            "6: tests.freshness.within: 'tomorrow' is not a duration; write 90m, 36h or 2d.",
        ),
        ("tests:\n- row_count: {min: -1}\n", "6: tests.row_count.min: input should be greater than or equal to 0."),
        ("tags: [two words]\n", "5: tags: the tag 'two words' is not one word of letters, digits, '_', '-' and '.'."),
        (
            "schedule: daily\n",
            ("5: schedule: 'daily' is not a cron string of five fields; '30 2 * * *' is every day at 02:30 UTC."),
        ),
        (
            "schedule: 99 99 * * *\n",
            ("5: schedule: '99 99 * * *' is not a cron string of five fields; '30 2 * * *' is every day at 02:30 UTC."),
        ),
        ("columns: {}\ncolumns: {}\n", "6: 'columns' occurs twice."),
        ("columns:\n  y: {description: no such}\n", "6: the SELECT does not return the column 'y'. It returns x."),
        (
            "columns:\n  x:\n    type: text\n",
            (
                "7: the column 'x' is declared as text, but the SELECT returns int32 (INTEGER). "
                "Declare int32, or cast it in the SELECT."
            ),
        ),
        (
            "columns:\n  x:\n    tests: [{accepted_values: [a]}]\n",
            "7: the accepted value 'a' is not of 'x''s type; put texts in quotes.",
        ),
        (
            "columns:\n  x:\n    tests: [{relationships: {to: market.clozes, field: close}}]\n",
            "7: the relationship names 'market.clozes', which is not a table. Did you mean 'market.closes'?",
        ),
        (
            "columns:\n  x:\n    tests: [{relationships: {to: market.closes, field: clse}}]\n",
            "7: market.closes has no column 'clse'. Did you mean 'close'?",
        ),
        ("tests:\n- expression: z > 0\n", "6: the test's expression: unknown column 'z'. Columns: x."),
        ("tests:\n- unique: [z]\n", "6: the test names 'z', which is not a column. Columns: x."),
        ("tests:\n- freshness: {column: x, within: 1h}\n", "6: freshness needs a time or a date, and 'x' is neither."),
        ("settings:\n  y: 1\n", "6: the setting 'y' is not used. Use it in the SELECT or remove it."),
        (
            "partitioned_by: date\n",
            "5: a view cannot have partitioned_by, because it stores nothing. Remove the entry.",
        ),
        ("schedule: 0 2 * * *\nautomation: none\n", "2: give a schedule or an automation, not both."),
        (
            "tags: [a\n",
            (
                "6: the header is not valid YAML: did not find expected ',' or ']'. Quote values that contain "
                "': ' or ' #'."
            ),
        ),
    ],
)
def test_a_mistake_in_the_header_is_told_with_line_and_suggestion(write, header, expected):
    found = mistakes(write(staging__a=model("SELECT 1 AS x", header)))
    assert found == [f"dbt_like_sql/staging/a.sql:{expected}"]


@pytest.mark.parametrize(
    ("header", "sql", "expected"),
    [
        (
            INCREMENTAL.replace("unique_key: [symbol, ts]\n", ""),
            f"SELECT symbol, ts FROM market.trades {SPAN}",
            "4: an incremental model without a unique_key. Name the columns that identify a row.",
        ),
        (
            "unique_key: [symbol, ts]\n",
            f"SELECT symbol, ts FROM market.trades {SPAN}",
            (
                "4: an incremental model without partitioned_by. Add `partitioned_by: date`, or month or year "
                "if there are few rows."
            ),
        ),
        (
            "unique_key: [symbol, ts]\npartitioned_by: date\n",
            f"SELECT symbol, ts FROM market.trades {SPAN}",
            "6: it is partitioned by date, but the time column is not clear. Add `time_column: ts`.",
        ),
        (
            INCREMENTAL.replace("time_column: ts", "time_column: t"),
            f"SELECT symbol, ts FROM market.trades {SPAN}",
            "7: the SELECT does not return the time_column 't'. Did you mean 'ts'?",
        ),
        (
            INCREMENTAL.replace("time_column: ts", "time_column: symbol"),
            f"SELECT symbol, ts FROM market.trades {SPAN}",
            "7: the time_column 'symbol' is neither a date nor a time. Cast it in the SELECT.",
        ),
        (
            INCREMENTAL,
            f"SELECT symbol, ts, 'x' AS date FROM market.trades {SPAN}",
            (
                "6: the column 'date' is derived from 'ts' for the partitions, but the SELECT also returns it. "
                "Remove or rename it, or write `time_column: date`."
            ),
        ),
        (
            INCREMENTAL.replace("[symbol, ts]", "[symbl, ts]"),
            f"SELECT symbol, ts FROM market.trades {SPAN}",
            "5: the key's column 'symbl' is not in the SELECT. Did you mean 'symbol'?",
        ),
        (
            INCREMENTAL,
            "SELECT symbol, ts FROM market.trades WHERE ts < $partition_end",
            (
                "8: an incremental model that does not use $partition_start. "
                "Select the rows from $partition_start (inclusive) to $partition_end (exclusive)."
            ),
        ),
        (
            INCREMENTAL,
            f"SELECT symbol, ts,\nnow() AS at FROM market.trades {SPAN}",
            (
                "10: now() is not deterministic, and the model is incremental. "
                "A day computed again must give the same rows; take times from the tables or from $partition_end."
            ),
        ),
        (
            INCREMENTAL,
            f"SELECT symbol, ts, current_date AS at FROM market.trades {SPAN}",
            (
                "9: current_date is not deterministic, and the model is incremental. "
                "A day computed again must give the same rows; take times from the tables or from $partition_end."
            ),
        ),
        (
            INCREMENTAL,
            f"SELECT symbol, ts FROM market.trades {SPAN} USING SAMPLE 10",
            (
                "9: a sample is not deterministic, and the model is incremental. "
                "A day computed again must give the same rows; take times from the tables or from $partition_end."
            ),
        ),
    ],
)
def test_a_mistake_of_an_incremental_model_is_told(write, header, sql, expected):
    found = mistakes(write(staging__a=model(sql, header, kind="incremental")))
    line, _, text = expected.partition(":")
    assert [mistake.split(":", 2)[2] for mistake in found] == [text]
    assert found[0].startswith("dbt_like_sql/staging/a.sql:")
    assert abs(int(found[0].split(":")[1]) - int(line)) <= 1


@pytest.mark.parametrize(
    "sql",
    [
        "SELECT * FROM market.closes",
        "FROM market.closes",
        "SELECT c.* FROM market.closes c",
        "SELECT COLUMNS('c.*') FROM market.closes",
    ],
)
def test_a_mart_lists_its_columns(write, sql):
    assert mistakes(write(marts__a=model(sql))) == [
        (
            "dbt_like_sql/marts/a.sql:6: SELECT * in a mart. "
            "List the columns: a mart must not change when a table that it reads does."
        )
    ]


def test_a_mart_may_count_all_rows(write):
    assert mistakes(write(marts__a=model("SELECT count(*) AS n FROM market.closes"))) == []


def test_words_of_functions_that_are_not_deterministic_may_be_names_of_columns(write):
    header = "unique_key: [symbol, ts]\npartitioned_by: date\ntime_column: ts\n"
    sql = f"SELECT symbol, ts, price AS random, 'now()' AS now FROM market.trades {SPAN}"
    assert mistakes(write(staging__a=model(sql, header, kind="incremental"))) == []


def test_the_functions_that_are_not_deterministic_are_those_of_duckdb():
    found = duckdb.sql(
        "SELECT DISTINCT function_name FROM duckdb_functions() WHERE stability != 'CONSISTENT'"
    ).fetchall()
    # `error` fails on purpose, which is deterministic.
    assert {name for (name,) in found} - {"error"} <= VOLATILE


def test_a_cycle_is_told_with_its_path(write):
    folder = write(
        staging__a=model("SELECT x FROM staging.c"),
        staging__b=model("SELECT x\nFROM staging.a"),
        staging__c=model("SELECT x FROM staging.b"),
        staging__d=model("SELECT x FROM staging.d"),
    )
    hint = "Remove one of these reads, or move what both need into a third model."
    assert mistakes(folder) == [
        (
            "dbt_like_sql/staging/a.sql:6: the models form a cycle: staging.a reads staging.c reads staging.b reads "
            f"staging.a. {hint}"
        ),
        f"dbt_like_sql/staging/d.sql:6: the models form a cycle: staging.d reads staging.d. {hint}",
    ]


def test_two_models_of_one_name_are_told(write):
    folder = write(marts__a=model("SELECT 1 AS x"), staging__a=model("SELECT 1 AS x"))
    assert mistakes(folder) == [
        (
            "dbt_like_sql/staging/a.sql:2: two models are named 'a'; the other one is dbt_like_sql/marts/a.sql. "
            "Rename one of them: the name without its layer also names the table's quarantine."
        )
    ]


def test_a_stored_model_does_not_share_the_quarantine_of_a_table(write):
    folder = write(marts__bars=model("SELECT 1 AS x", "unique_key: [x]\n", kind="table"))
    assert mistakes(folder)[0].startswith("dbt_like_sql/marts/bars.sql:2: 'bars' is already the name of market.bars.")


def test_a_file_without_a_header_or_in_an_unknown_layer_is_told(write):
    assert mistakes(write(staging__a="SELECT 1", mart__b=model("SELECT 1 AS x"))) == [
        "dbt_like_sql/mart/b.sql:1: a model's file must be <layer>/<name>.sql. Did you mean 'marts'?",
        "dbt_like_sql/staging/a.sql:1: the file does not begin with a header. Begin with /* description: ... */.",
    ]


def test_all_mistakes_are_told_at_once_and_the_sound_models_stay_usable(write):
    folder = write(
        staging__minutes=BARS,
        staging__a=model("SELECT clos FROM market.closes"),
        staging__b=model("SELECT symbol FROM market.barz"),
        staging__reads_a=model("SELECT clos FROM staging.a"),
    )
    models = read_models(folder)
    assert [model.name for model in models] == ["staging.minutes"]
    with pytest.raises(SqlModelsError) as caught:
        load_models(folder)
    assert "2 mistakes" in str(caught.value)
    assert "staging/a.sql:6: unknown column 'clos'" in str(caught.value)
    assert "staging/b.sql:6: unknown table 'market.barz'" in str(caught.value)


def test_whatever_a_file_is_only_its_own_model_and_those_that_read_it_are_disabled(write):
    folder = write(
        staging__minutes=BARS,
        marts__returns=RETURNS,
        staging__empty="",
        staging__deep=model(f"SELECT {'(' * 5000}1{')' * 5000} AS x"),
        staging__nul=model("SELECT 1 AS x \0"),
        staging__head="/* description: [unclosed */ SELECT 1",
        staging__loop=model("SELECT x FROM marts.loop"),
        marts__loop=model("SELECT x FROM staging.loop"),
        marts__reads_loop=model("SELECT x FROM marts.loop"),
        staging__own=model("SELECT x FROM staging.own"),
    )
    (folder / "staging" / "latin.sql").write_bytes(model("SELECT 'é' AS x").encode("latin-1"))
    (folder / "staging" / "folder.sql").mkdir()
    (folder / "staging" / "gone.sql").symlink_to(folder / "nowhere")
    (folder / "staging" / ".#minutes.sql").symlink_to("somebody@host.1:2")

    models = read_models(folder)

    assert sorted(model.name for model in models) == ["marts.returns", "staging.minutes"]
    assert sorted(model.name for model in models.disabled) == [
        *("marts.loop", "marts.reads_loop", "staging.deep", "staging.empty", "staging.folder", "staging.gone"),
        *("staging.head", "staging.latin", "staging.loop", "staging.nul", "staging.own"),
    ]
    assert all(model.reasons for model in models.disabled)
    assert models["marts.returns"].name == "marts.returns"
    with pytest.raises(SqlModelsError, match="is not UTF-8 text"):
        models["staging.latin"]
    cycle = models.faults["dbt_like_sql/marts/loop.sql"]
    assert cycle.endswith("Disabled with it: marts.reads_loop, staging.loop.")


def test_what_is_wrong_is_told_by_file_with_all_that_is_lost(write):
    folder = write(
        staging__a=model("SELECT clos FROM market.closes"),
        staging__b=model("SELECT clos FROM staging.a"),
        marts__c=model("SELECT clos FROM staging.b"),
    )
    assert read_models(folder).faults == {
        "dbt_like_sql/staging/a.sql": (
            "dbt_like_sql/staging/a.sql:6: unknown column 'clos'. Did you mean 'close'? "
            "Disabled with it: marts.c, staging.b."
        )
    }


def test_a_folder_without_models_is_no_mistake(tmp_path):
    assert len(load_models(tmp_path / "none")) == 0


_FIELDS = st.sampled_from(
    [
        "*",
        "*/2",
        "5",
        "0",
        "59",
        "60",
        "1-5",
        "5-1",
        "1-40/3",
        "*/61",
        "31",
        "30",
        "2",
        "feb",
        "mon",
        "sat-sun",
        "08",
        "2,",
    ]
)


@given(st.lists(_FIELDS, min_size=4, max_size=6))
def test_every_cron_string_that_a_header_may_have_is_one_for_the_orchestrator(fields):
    text = " ".join(fields)
    try:
        Header(description="x", owner="research", materialized="table", schedule=text)
    except ValidationError:
        return

    dg.ScheduleDefinition(name="any", job_name="any", cron_schedule=text)


@pytest.mark.parametrize("text", ["30 2 * * *", "*/5 8-18 * * mon-fri", "0 0 1,15 jan-jun/2 *", "00 05 29 2 *"])
def test_usual_cron_strings_are_taken(text):
    assert Header(description="x", owner="research", materialized="table", schedule=text).schedule == text


@pytest.mark.parametrize("text", ["0 24 * * *", "0 0 31 4 *", "0 0 30 2 1", "*/0 * * * *", "@daily", "", "0 0 * 13 *"])
def test_a_time_that_never_comes_is_no_schedule(text):
    with pytest.raises(ValidationError, match="not a cron string"):
        Header(description="x", owner="research", materialized="table", schedule=text)
