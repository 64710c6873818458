"""The tests of a model: what the header promises of the rows, as SQL that counts the rows that break it.

One and the same statement judges the rows of a run before they are published (over a frame) and the published
table or view (over the lake).  An outcome has counts, never values: columns may be personal data.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, replace
from datetime import date, datetime, timedelta
from typing import Literal

import duckdb
import polars as pl

from hfthot_platform.core.duckdb import error_details, lock_down, new_database
from hfthot_platform.core.errors import SqlError, nearest
from hfthot_platform.core.time import ONE_DAY, midnight
from hfthot_platform.domain.contracts.model import DATE, FLOAT, INT, SMALL, TEXT, TIME, Column
from hfthot_platform.domain.contracts.rules import Between, OneOf, Rule
from hfthot_platform.services.sql.engine import Limits
from hfthot_platform.services.sql.frames import as_frame
from hfthot_platform.services.sql.models.header import (
    ColumnTest,
    Header,
    Mistake,
    ModelFile,
    ModelTestHeader,
    Relationship,
)
from hfthot_platform.services.sql.models.statement import sql_literal
from hfthot_platform.services.sql.relations import listed
from hfthot_platform.services.sql.spill import spill_folder

__all__ = ["ModelTest", "TestOutcome", "declared_tests", "evaluate", "over_rows", "rules_of"]

Kind = Literal[
    "not_null", "unique", "accepted_values", "relationships", "range", "expression", "row_count", "freshness"
]
_NUMBERS = frozenset({INT, SMALL, FLOAT})


@dataclass(frozen=True)
class ModelTest:
    """One promise of the header."""

    #: Unique within the model, of letters, digits and underscores.
    name: str
    kind: Kind
    #: The promise in words.
    says: str
    columns: tuple[str, ...]
    #: Line of the file.
    line: int
    #: Whether it is judged on the rows of a run, before they are published.
    gate: bool
    #: SQL condition that is true on each row that breaks the promise; for tests of single rows.
    broken: str = ""
    to: str = ""
    field: str = ""
    least: int = 0
    most: int | None = None
    within: timedelta | None = None


@dataclass(frozen=True)
class TestOutcome:
    """What a test found."""

    __test__ = False  # not a test of pytest's

    test: ModelTest
    passed: bool
    #: Rows that break the promise; for the number of rows and the freshness, 0 or 1.
    failing: int
    #: Rows that were looked at.
    rows: int
    description: str


def declared_tests(source: ModelFile, columns: Mapping[str, Column]) -> tuple[list[ModelTest], list[Mistake]]:
    """Return the tests of a header, and what is wrong with them.

    The key is tested like any `unique`.  Tests of columns that are not there are left out: the loader complains
    of the columns.
    """
    tests: list[ModelTest] = []
    mistakes: list[Mistake] = []
    header = source.header

    def column(name: str, *at: str | int) -> bool:
        if name in columns:
            return True
        mistakes.append(
            source.mistake(f"the test names {name!r}, which is not a column", _columns_hint(name, columns), at=at)
        )
        return False

    if header.unique_key and all(name in columns for name in header.unique_key):
        tests.append(_unique(header.unique_key, source.line_of("unique_key"), gate=True))
    for name, declared in header.columns.items():
        if name not in columns:
            continue
        for position, declared_test in enumerate(declared.tests):
            at = ("columns", name, "tests", position)
            made = _of_column(columns[name], declared_test, source.line_of(*at))
            if isinstance(made, str):
                mistakes.append(source.mistake(made, at=at))
            else:
                tests.append(made)
    for position, test in enumerate(header.tests):
        there = [column(name, "tests", position) for name in _named(test)]
        if all(there):
            line = source.line_of("tests", position)
            made = _of_model(test, line, columns, whole=header.materialized == "table")
            if isinstance(made, str):
                mistakes.append(source.mistake(made, line=line))
            else:
                tests.append(made)
    return _with_names(tests), mistakes


def _columns_hint(name: str, columns: Mapping[str, Column]) -> str:
    return nearest(name, columns) or f"Columns: {', '.join(columns)}."


def _named(test: ModelTestHeader) -> Iterator[str]:
    yield from test.unique or ()
    if test.freshness:
        yield test.freshness.column
    if test.relationships and test.relationships.column:
        yield test.relationships.column


def _unique(names: Sequence[str], line: int, *, gate: bool) -> ModelTest:
    says = f"no two rows have the same {', '.join(names)}"
    return ModelTest(f"unique_{'_'.join(names)}", "unique", says, tuple(names), line, gate)


def _of_column(column: Column, test: ColumnTest, line: int) -> ModelTest | str:
    name, quoted = column.name, f'"{column.name}"'
    match test.kind:
        case "not_null":
            return ModelTest(
                f"not_null_{name}", "not_null", f"{name} is present", (name,), line, True, f"{quoted} IS NULL"
            )
        case "unique":
            return _unique((name,), line, gate=True)
        case "accepted_values":
            values = test.accepted_values or ()
            if problem := _unlike(column, values):
                return problem
            literals = ", ".join(map(sql_literal, values))
            says = f"{name} is one of {', '.join(map(str, values))}"
            broken = f"{quoted} NOT IN ({literals})"
            return ModelTest(f"accepted_values_{name}", "accepted_values", says, (name,), line, True, broken)
        case "relationships" if test.relationships is not None:
            if test.relationships.column not in {None, name}:
                return f"the relationship under {name!r} names another column, {test.relationships.column!r}"
            return _relationship(name, test.relationships, line)
        case "range" if test.range is not None:
            if column.dtype not in _NUMBERS:
                return f"{name!r} is not a number, so it has no range; write `expression: ...`"
            low, high = test.range.min, test.range.max
            conditions = [f"{quoted} < {low!r}"] if low is not None else []
            conditions += [f"{quoted} > {high!r}"] if high is not None else []
            bounds = [f"at least {low:g}"] if low is not None else []
            bounds += [f"at most {high:g}"] if high is not None else []
            says = f"{name} is {' and '.join(bounds)}"
            return ModelTest(f"range_{name}", "range", says, (name,), line, True, " OR ".join(conditions))
        case _:
            return _expression(test.expression or "", line, f"expression_{name}", (name,))


def _unlike(column: Column, values: Sequence[object]) -> str:
    """Return what is wrong with accepted values of another type than the column's."""
    kinds = {TEXT: str, INT: int, SMALL: int, FLOAT: (int, float)}
    expected = kinds.get(column.dtype)
    if expected is None:
        return (
            "" if all(isinstance(value, bool) for value in values) else f"write `expression: ...` for {column.name!r}"
        )
    for value in values:
        if isinstance(value, bool) or not isinstance(value, expected):  # type: ignore[arg-type]
            return f"the accepted value {value!r} is not of {column.name!r}'s type; put texts in quotes"
    return ""


def _relationship(name: str, test: Relationship, line: int) -> ModelTest:
    says = f"every {name} is a {test.field} of {test.to}"
    return ModelTest(
        f"relationships_{name}", "relationships", says, (name,), line, True, to=test.to.lower(), field=test.field
    )


def _expression(text: str, line: int, name: str, columns: tuple[str, ...]) -> ModelTest:
    # As in a CHECK of SQL, a row of which the condition is unknown does not break it.
    return ModelTest(name, "expression", text.strip(), columns, line, True, f"NOT (\n{text}\n)")


def _of_model(test: ModelTestHeader, line: int, columns: Mapping[str, Column], *, whole: bool) -> ModelTest | str:
    match test.kind:
        case "unique":
            return _unique(test.unique or (), line, gate=True)
        case "row_count" if test.row_count is not None:
            low, high = test.row_count.min, test.row_count.max
            says = f"there are at least {low:,} rows" if high is None else f"there are {low:,} to {high:,} rows"
            # A part of an incremental table says nothing of its number of rows.
            return ModelTest("row_count", "row_count", says, (), line, whole, least=low, most=high)
        case "freshness" if test.freshness is not None:
            name = test.freshness.column
            if columns[name].dtype not in {TIME, DATE}:
                return f"freshness needs a time or a date, and {name!r} is neither"
            says = f"the newest {name} is at most {test.freshness.within} old"
            return ModelTest("freshness", "freshness", says, (name,), line, False, within=test.freshness.within)
        case "relationships" if test.relationships is not None:
            if test.relationships.column is None:
                return "a relationship outside a column needs `column`"
            return _relationship(test.relationships.column, test.relationships, line)
        case _:
            return _expression(test.expression or "", line, "expression", ())


def _with_names(tests: list[ModelTest]) -> list[ModelTest]:
    """Number the tests of one name; drop repeated ones."""
    out: dict[str, ModelTest] = {}
    seen: set[tuple[str, str, str, str]] = set()
    for test in tests:
        same = test.name, test.says, test.to, test.field
        if same in seen:
            continue
        seen.add(same)
        name, number = test.name, 2
        while name in out:
            name, number = f"{test.name}_{number}", number + 1
        out[name] = test if name == test.name else replace(test, name=name)
    return list(out.values())


def rules_of(header: Header, columns: Mapping[str, Column]) -> tuple[Rule, ...]:
    """Return those tests that the contract itself can state, as rules that keep single rows out."""
    rules: list[Rule] = []
    for name, declared in header.columns.items():
        for test in declared.tests if name in columns else ():
            if test.range is not None and columns[name].dtype in _NUMBERS:
                low = float("-inf") if test.range.min is None else test.range.min
                high = float("inf") if test.range.max is None else test.range.max
                rules.append(Between(name, low, high))
            elif test.accepted_values is not None and columns[name].dtype == TEXT:
                rules.append(OneOf(name, tuple(map(str, test.accepted_values))))
    return tuple(dict.fromkeys(rules))


def evaluate(
    model: str, tests: Sequence[ModelTest], ask: Callable[[str], pl.DataFrame], now: datetime
) -> tuple[TestOutcome, ...]:
    """Judge tests on the rows that `ask` sees under the model's name.

    Args:
        model: full name of the model.
        tests: the tests to judge.
        ask: answers a SELECT.
        now: the present time, for freshness.
    """
    by_row = [test for test in tests if test.broken]
    counts = [f"count(*) FILTER (WHERE {test.broken}) AS t{number}" for number, test in enumerate(by_row)]
    first = ask(f"SELECT count(*) AS n{''.join(', ' + counted for counted in counts)} FROM {model}")  # noqa: S608 - names of files
    rows = int(first["n"][0])
    failing = {test.name: int(first[f"t{number}"][0]) for number, test in enumerate(by_row)}
    out = []
    for test in tests:
        match test.kind:
            case "unique":
                count = int(ask(_repeated(model, test.columns))["n"][0])
                out.append(_rows_outcome(test, count, rows))
            case "relationships":
                out.append(_rows_outcome(test, int(ask(_orphans(model, test))["n"][0]), rows))
            case "row_count":
                passed = test.least <= rows and (test.most is None or rows <= test.most)
                out.append(TestOutcome(test, passed, int(not passed), rows, f"There are {rows:,} rows."))
            case "freshness":
                newest = ask(f'SELECT max("{test.columns[0]}") AS newest FROM {model}')["newest"][0]  # noqa: S608
                out.append(_freshness(test, newest, rows, now))
            case _:
                out.append(_rows_outcome(test, failing[test.name], rows))
    return tuple(out)


def _repeated(model: str, names: Sequence[str]) -> str:
    present = " AND ".join(f'"{name}" IS NOT NULL' for name in names)
    return (
        f"SELECT coalesce(sum(n - 1), 0)::BIGINT AS n FROM (SELECT count(*) AS n FROM {model} "  # noqa: S608
        f"WHERE {present} GROUP BY {listed(names)} HAVING count(*) > 1)"
    )


def _orphans(model: str, test: ModelTest) -> str:
    return (
        f"SELECT count(*) AS n FROM {model} AS ours ANTI JOIN {test.to} AS theirs "  # noqa: S608
        f'ON ours."{test.columns[0]}" = theirs."{test.field}" WHERE ours."{test.columns[0]}" IS NOT NULL'
    )


def _rows_outcome(test: ModelTest, failing: int, rows: int) -> TestOutcome:
    found = f"All {rows:,} rows pass." if not failing else f"{failing:,} of {rows:,} rows fail."
    return TestOutcome(test, failing == 0, failing, rows, found)


def _freshness(test: ModelTest, newest: datetime | date | None, rows: int, now: datetime) -> TestOutcome:
    if newest is None or test.within is None:
        return TestOutcome(test, False, 1, rows, "There are no rows, so the test fails.")
    if not isinstance(newest, datetime):
        # A day's row speaks for the whole day.
        newest = midnight(newest + ONE_DAY)
    age = max(now - newest, timedelta())
    passed = age <= test.within
    hours = age.total_seconds() / 3600
    return TestOutcome(test, passed, int(not passed), rows, f"The newest row is {hours:,.1f} hours old.")


@contextmanager
def over_rows(
    model: str, rows: pl.DataFrame, parents: Mapping[str, pl.DataFrame], limits: Limits
) -> Iterator[Callable[[str], pl.DataFrame]]:
    """Give a function that answers SELECTs over a frame under the model's name, and over its parents' columns.

    Args:
        model: full name of the model.
        rows: its rows.
        parents: frames by the names of the tables that relationships point to.
        limits: memory, threads and spill folder.
    """
    with nullcontext() if limits.spill is None else spill_folder(limits.spill) as folder:
        connection = new_database(
            threads=limits.threads, memory=limits.memory, spill=None if folder is None else str(folder)
        )

        def ask(sql: str) -> pl.DataFrame:
            try:
                return as_frame(connection.sql(sql).to_arrow_table())
            except duckdb.Error as error:
                hint = "Correct the test in the model's header."
                raise SqlError(error_details(error).first, where=f"tests of {model}", hint=hint) from None

        try:
            for number, (name, frame) in enumerate({**parents, model: rows}.items()):
                connection.register(f"rows_{number}", frame.to_arrow())
                if "." in name:
                    connection.execute(f"CREATE SCHEMA IF NOT EXISTS {name.split('.', maxsplit=1)[0]}")
                connection.execute(f"CREATE VIEW {name} AS FROM rows_{number}")
            lock_down(connection)
            yield ask
        finally:
            connection.close()
