"""Great Expectations suites: they say the same as the contract's rules, and say it without personal data.

Importing the library takes seconds, so the tests share few validations.
"""

import re
import socket
from dataclasses import replace
from datetime import UTC, date, datetime, timedelta
from pathlib import Path

import polars as pl
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from hfthot_platform.domain.contracts import CONTRACTS, TableContract
from hfthot_platform.domain.contracts.model import DATE, FLOAT, INT, TEXT, TIME, Column
from hfthot_platform.domain.contracts.rules import AtLeast, Between, Finite, Matches, NotNull, OneOf, Spike, TimeBetween
from hfthot_platform.services.quality import suites, validate, write_report
from hfthot_platform.storage.folders import folder_at

START = datetime(2024, 1, 1, tzinfo=UTC)

#: Every class of rule, nullable columns, and a personal one.
EVERYTHING = TableContract(
    name="test.everything",
    description="One of <each> rule.",
    columns=(
        Column("date", DATE, "day"),
        Column("symbol", TEXT, "symbol", few=True, nullable=True),
        Column("side", TEXT, "side", few=True, nullable=True),
        Column("ts", TIME, "time", nullable=True),
        Column("id", INT, "key"),
        Column("open", FLOAT, "open", nullable=True),
        Column("high", FLOAT, "high", nullable=True),
        Column("low", FLOAT, "low", nullable=True),
        Column("count", INT, "count", nullable=True),
        Column("since", DATE, "day", nullable=True),
        Column("email", TEXT, "personal", nullable=True, personal=True),
    ),
    primary_key=("id",),
    sort_by=("symbol", "ts", "id"),
    partition_by="date",
    time_column="ts",
    rules=(
        NotNull("symbol"),
        Matches("symbol", "[A-Z]+(-[A-Z]+)*"),
        OneOf("side", ("buy", "sell")),
        NotNull("ts"),
        TimeBetween("ts", START, START + timedelta(days=2)),
        NotNull("open"),
        Finite("open"),
        Finite("high"),
        Between("open", 0, 1000, open_low=True),
        Between("count", 1, 5),
        AtLeast("high", ("open",)),
        AtLeast("low", ("high", "open")),
        AtLeast("date", ("since",)),
        Spike("open", by=("symbol",)),
        Matches("email", "[^@]+@[^@]+"),
    ),
)

NUMBERS = st.none() | st.sampled_from([100.0, 101.0, 99.0, 0.0, -5.0, 1000.0, 1000.5, 5000.0, 0.001, float("nan")])


@st.composite
def bad_rows(draw):
    count = draw(st.integers(1, 25))

    def column(strategy):
        return draw(st.lists(strategy, min_size=count, max_size=count))

    frame = pl.DataFrame(
        {
            "date": column(st.dates(date(2024, 1, 1), date(2024, 1, 4))),
            "symbol": column(st.none() | st.sampled_from(["A", "B-C", "B-C", "A", "a", "A\n", "", "-A", "A B"])),
            "side": column(st.none() | st.sampled_from(["buy", "sell", "BUY", ""])),
            "ts": column(
                st.none() | st.integers(-1, 49).map(lambda hours: START + timedelta(hours=hours)) | st.just(START)
            ),
            "id": list(range(count)),
            "open": column(NUMBERS),
            "high": column(NUMBERS),
            "low": column(NUMBERS),
            "count": column(st.none() | st.integers(-1, 7)),
            "since": column(st.none() | st.dates(date(2024, 1, 1), date(2024, 1, 4))),
            "email": column(st.none() | st.sampled_from(["ann@example.org", "secret.person"])),
        },
        schema=EVERYTHING.polars_schema,
    )
    return frame.sort(EVERYTHING.sort_by)


def counted(rule, frame):
    return int(frame.select(rule.violated().sum()).item())


@pytest.mark.soak
@settings(max_examples=5, deadline=None, suppress_health_check=list(HealthCheck))
@given(bad_rows())
def test_the_suite_and_the_rules_flag_the_same_number_of_rows(frame):
    found = validate(EVERYTHING, frame)
    flagged = {(expectation.rule, expectation.columns): expectation.unexpected for expectation in found.expectations}
    expected = {}
    for rule in EVERYTHING.rules:
        if isinstance(rule, AtLeast):
            for other in rule.others:
                expected[rule.name, (rule.column, other)] = counted(replace(rule, others=(other,)), frame)
        elif isinstance(rule, Spike):
            expected[rule.name, (rule.column, *rule.by)] = counted(rule, frame.filter(pl.col("open").is_not_null()))
        else:
            expected[rule.name, (rule.column,)] = counted(rule, frame)
    opens = frame["open"]
    if frame["symbol"].has_nulls() or opens.has_nulls() or not opens.is_finite().all() or opens.min() <= 0:
        # Neighbours of rows that other rules reject; the gate has removed such rows before.
        expected = {key: count for key, count in expected.items() if not key[0].startswith("absurd_value")}
    assert {key: flagged[key] for key in expected} == expected
    assert found.passed == (found.statistics["failed"] == 0)


@settings(max_examples=2, deadline=None, suppress_health_check=list(HealthCheck))
@given(st.lists(st.sampled_from([1.0, 1.01, 0.99, 30.0, 0.02]), min_size=1, max_size=60), st.integers(1, 20))
def test_spikes_are_found_by_the_suite_where_the_rule_finds_them(values, length):
    frame = calm(len(values)).with_columns(
        pl.Series("open", values), symbol=(pl.int_range(pl.len()) // length).cast(pl.String).replace_strict(NAMES)
    )
    frame = frame.sort(EVERYTHING.sort_by)
    spike = next(rule for rule in EVERYTHING.rules if isinstance(rule, Spike))
    found = next(
        expectation for expectation in validate(EVERYTHING, frame).expectations if expectation.rule == spike.name
    )
    assert found.unexpected == counted(spike, frame)


NAMES = {str(i): chr(ord("A") + i // 26) + chr(ord("A") + i % 26) for i in range(100)}


def calm(count):
    """Rows that break nothing."""
    return pl.DataFrame(
        {
            "date": date(2024, 1, 1),
            "symbol": "A",
            "side": "buy",
            "ts": [START + timedelta(minutes=i) for i in range(count)],
            "id": range(count),
            "open": 100.0,
            "high": 101.0,
            "low": 102.0,
            "count": 3,
            "since": date(2024, 1, 1),
            "email": "ann@example.org",
        },
        schema=EVERYTHING.polars_schema,
    )


@pytest.fixture(scope="module")
def bad():
    """The result for rows of which some break rules."""
    frame = calm(100).with_columns(
        side=pl.when(pl.col("id") == 3).then(pl.lit("<b>hold</b>")).otherwise("side"),
        email=pl.when(pl.col("id") == 4).then(pl.lit("secret.person")).otherwise("email"),
        id=pl.col("id").replace(7, 6),
    )
    return validate(EVERYTHING, frame)


def test_good_rows_pass():
    found = validate(EVERYTHING, calm(50))
    assert found.failed == ()
    assert found.passed
    assert found.statistics == {
        "expectations": len(found.expectations),
        "successful": len(found.expectations),
        "failed": 0,
        "rows_checked": 50,
        "rows_total": 50,
    }


def test_failures_are_told_in_words(bad):
    assert bad.failed == (
        "2 rows break 'no two rows have the same id' (such as 6).",
        "1 row breaks 'side is one of buy, sell' (such as <b>hold</b>).",
        "1 row breaks 'email matches [^@]+@[^@]+'.",
    )


def test_values_of_personal_columns_are_nowhere_in_the_result(bad):
    assert "secret.person" not in repr(bad)
    assert "ann@example.org" not in repr(bad)


def test_the_page_is_self_contained_and_escapes_what_comes_from_outside(bad, tmp_path):
    shown = write_report(bad, folder_at(tmp_path / "reports", {}, "reports"))
    page = Path(shown).read_text(encoding="utf-8")
    assert Path(shown).name == "test.everything.html"
    assert "&lt;b&gt;hold&lt;/b&gt;" in page
    assert "One of &lt;each&gt; rule." in page
    assert "3 failed" in page
    assert not re.search(r"<script|<link|<b>hold|src=|href=|url\(|https?:", page)
    assert [entry.name for entry in (tmp_path / "reports").iterdir()] == ["test.everything.html"]


def test_only_the_newest_rows_are_checked_beyond_the_bound():
    frame = calm(40).with_columns(side=pl.when(pl.col("id") < 20).then(pl.lit("old")).otherwise("side"))
    found = validate(EVERYTHING, frame.lazy(), sample_rows=20)
    assert found.passed
    assert found.scope == "The newest (by ts) 20 of 40 rows were checked."
    assert found.scope in found.html


def test_columns_of_another_order_type_or_absent_are_told():
    frame = calm(3).select(pl.exclude("low", "count"), pl.col("count").cast(pl.Int32))
    found = validate(EVERYTHING, frame)
    failed = {expectation.rule: expectation.found for expectation in found.expectations if not expectation.passed}
    assert set(failed) == {"column_order", "column_type:low", "column_type:count"}
    assert failed["column_type:count"].startswith("int32")
    assert failed["column_order"].endswith("email, count")


@pytest.mark.parametrize("name", CONTRACTS)
def test_every_contract_becomes_a_suite_with_all_its_rules_and_columns(name):
    declared = CONTRACTS[name]
    schema, values = suites(declared)
    rules = {expectation.meta["rule"] for expectation in values.expectations}
    assert {rule.name for rule in declared.rules} | {"primary_key"} <= rules
    assert {column.name for column in declared.columns if not column.nullable} == {
        expectation.meta["rule"].split(":")[1]
        for expectation in values.expectations
        if expectation.expectation_type.endswith("not_be_null")
    } & {column.name for column in declared.columns if not column.nullable}
    assert len(schema.expectations) == 1 + len(declared.columns)


def test_no_connection_is_attempted(monkeypatch):
    def refuse(*args, **_kwargs):
        raise AssertionError(f"a connection was attempted: {args}")

    for name in ("connect", "connect_ex", "sendto"):
        monkeypatch.setattr(socket.socket, name, refuse)
    monkeypatch.setattr(socket, "getaddrinfo", refuse)
    monkeypatch.setattr(socket, "create_connection", refuse)
    assert validate(EVERYTHING, calm(5)).passed


def test_a_value_that_belongs_to_another_kind_and_one_that_is_missing_are_found():
    declared = CONTRACTS["market.corporate_actions"]
    kinds = {"kind": ["split", "split", "dividend", "dividend"], "ratio": [2.0, None, None, 2.0], "amount": [1.0] * 4}
    days = [date(2024, 1, day) for day in range(1, 5)]
    rest = {
        "year": 2024, "date": days, "venue": "us_equity", "symbol": "KO", "currency": None, "source": "replay",
        "source_ref": "test:1", "schema_version": 1,
    }  # fmt: skip
    frame = pl.DataFrame({**kinds, **rest}).select(declared.column_names).cast(declared.polars_schema)

    found = [
        expectation.unexpected
        for expectation in validate(declared, frame).expectations
        if expectation.rule == "value_of_kind:ratio"
    ]

    assert found == [1, 1]
