"""Leaving out files by their statistics: the same rows as without, and few files where few are needed."""

from __future__ import annotations

import itertools
from dataclasses import replace
from datetime import UTC, date, datetime, timedelta

import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hfthot_platform.core.errors import DamagedTableError
from hfthot_platform.domain.contracts import Column, TableContract
from hfthot_platform.domain.contracts.model import DATE, FLOAT, INT, TEXT, TIME
from hfthot_platform.domain.contracts.views import SqlView, View
from hfthot_platform.services.sql import query, relations
from hfthot_platform.storage.lakehouse import Lakehouse

START = datetime(2024, 1, 1, tzinfo=UTC)
DAYS = 12

EVENTS = TableContract(
    name="lab.events",
    description="Rows of many kinds, for filters.",
    columns=(
        Column("date", DATE, "Day of `ts`"),
        Column("ts", TIME, "Time"),
        Column("id", INT, "Rises over time"),
        Column("name", TEXT, "Rises over time", nullable=True),
        Column("value", FLOAT, "Rises over time, and NaN", nullable=True),
    ),
    primary_key=("id",),
    sort_by=("ts", "id"),
    partition_by="date",
    time_column="ts",
    stats_columns=("date", "ts", "id", "name", "value"),
)
OTHERS = replace(EVENTS, name="lab.others")
NAMED = View("lab.named", EVENTS, ("id", "ts", "name"), "Some columns.")
LATE = SqlView("lab.late", "SELECT id, ts FROM lab.events WHERE ts >= '2024-01-10'", EVENTS.columns[2:1:-1], "Late.")


def rows(day: int, offset: int = 0) -> pl.DataFrame:
    """Return five rows of a day, the last one at the very end of a millisecond."""
    first = START + timedelta(days=day)
    times = [first + timedelta(hours=hour) for hour in (0, 6, 12, 18)]
    times.append(first + timedelta(hours=23, minutes=59, seconds=59, microseconds=999_999))
    ids = [10 * day + 2 * number + offset for number in range(5)]
    return pl.DataFrame(
        {
            "date": [first.date()] * 5,
            "ts": pl.Series(times, dtype=pl.Datetime("us", "UTC")),
            "id": ids,
            "name": [f"n{number:03d}" for number in ids[:3]] + [None, f"{'x' * 70}{day:02d}"],
            "value": [float(number) for number in ids[:3]] + [None, float("nan")],
        }
    )


@pytest.fixture(scope="module")
def lake(tmp_path_factory) -> Lakehouse:
    """Two tables of twelve days, a file a day."""
    lake = Lakehouse.open(
        tmp_path_factory.mktemp("lake"),
        contracts={"lab.events": EVENTS, "lab.others": OTHERS},
        views={"lab.named": NAMED, "lab.late": replace(LATE, columns=(EVENTS.columns[2], EVENTS.columns[1]))},
    )
    lake.table("lab.events").append(pl.concat([rows(day) for day in range(DAYS)]))
    lake.table("lab.others").append(pl.concat([rows(day, 1) for day in range(0, DAYS, 1)]))
    return lake


def files(monkeypatch: pytest.MonkeyPatch, lake: Lakehouse, sql: str, **kwargs: object) -> list[int]:
    """Return how many files each table of a statement is read from, checking that the rows do not depend on it."""
    counts: list[int] = []
    real = relations.select_files

    def counted(contract, paths):
        counts.append(len(paths))
        return real(contract, paths)

    with monkeypatch.context() as patch:
        patch.setattr(relations, "select_files", counted)
        pruned = query(lake, sql, **kwargs).frame
    with monkeypatch.context() as patch:
        patch.setattr(relations, "WORTH_PRUNING", 10_000)
        whole = query(lake, sql, **kwargs).frame
    if "ORDER BY" not in sql:  # the order of rows is nobody's promise
        pruned, whole = pruned.sort(pl.all()), whole.sort(pl.all())
    assert whole.equals(pruned, null_equal=True)
    return counts


@pytest.mark.soak
@pytest.mark.parametrize(
    ("condition", "expected"),
    [
        ("date = '2024-01-03'", 1),
        ("ts >= '2024-01-03 06:00' AND ts < '2024-01-04'", 1),
        ("ts BETWEEN '2024-01-03' AND '2024-01-04 23:00'", 2),
        ("ts >= TIMESTAMP '2024-01-11' + INTERVAL 1 DAY", 1),
        ("'2024-01-02' > ts", 1),
        ("ts = '2024-01-05 23:59:59.999999'", 1),
        ("id = 35", 1),
        ("id IN (3, 4, 55)", 2),
        ("id < 10 OR id > 110", 2),
        ("id < 10.5", 2),
        ("NOT id = 3", DAYS),
        ("id + 0 = 35", DAYS),
        ("id = 35 OR value = 3", DAYS),
        ("id < 5 AND value > 1", 1),
        ("date::VARCHAR = '2024-01-03'", DAYS),
        ("value > 1000", DAYS),
        ("id = 35 AND 1 = 1 AND value IS NOT NULL", 1),
        ("events.id = 35", 1),
        ("lab.events.id = 35", 1),
        ("date = '1999-01-01'", 0),
        ("date IS NULL", DAYS),
        ("date > NULL", DAYS),
        ("name < 'n010'", 1),
        ("name > 'n110'", DAYS),
    ],
)
def test_conditions_on_constants_leave_out_files(monkeypatch, lake, condition, expected):
    assert files(monkeypatch, lake, f"SELECT * FROM lab.events WHERE {condition} ORDER BY id") == [expected]


@pytest.mark.parametrize(
    ("condition", "params", "expected"),
    [
        ("ts >= $t", {"t": START + timedelta(days=11)}, 1),
        ("date = $d AND id > 0", {"d": date(2024, 1, 3)}, 1),
        ("id = ? AND value > ?", [35, 1.0], 1),
        ("id = $i", {"i": 35.0}, 1),
        ("name = $n", {"n": "x" * 70 + "03"}, DAYS),
        ("date = $d", {"d": "2024-01-03"}, DAYS),
    ],
)
def test_bound_values_count_like_constants(monkeypatch, lake, condition, params, expected):
    sql = f"SELECT * FROM lab.events WHERE {condition} ORDER BY id"
    assert files(monkeypatch, lake, sql, params=params) == [expected]


@pytest.mark.soak
@pytest.mark.parametrize(
    ("sql", "expected"),
    [
        ("SELECT e.id FROM lab.events e JOIN lab.others o ON e.date = o.date WHERE e.id < 10 AND o.id > 100", [1, 2]),
        ("SELECT e.id FROM lab.events e LEFT JOIN lab.others o ON e.id = o.id WHERE e.id < 9 AND o.id > 9", [1, DAYS]),
        (
            "SELECT o.id FROM lab.events e RIGHT JOIN lab.others o ON e.id = o.id WHERE e.id < 9 AND o.id > 99",
            [DAYS, 2],
        ),
        ("SELECT e.id FROM lab.events e FULL JOIN lab.others o ON e.id = o.id WHERE e.id < 9", [DAYS, DAYS]),
        ("SELECT e.id FROM lab.events e SEMI JOIN lab.others o ON e.date = o.date WHERE e.id < 9", [1, DAYS]),
        ("SELECT e.id FROM lab.events e ASOF JOIN lab.others o ON e.ts >= o.ts WHERE e.id < 9 AND o.id < 9", [1, DAYS]),
        ("SELECT e.id FROM lab.events e POSITIONAL JOIN lab.others o WHERE e.id < 9", [DAYS, DAYS]),
        ("SELECT id FROM lab.events e JOIN lab.others o USING (id) WHERE id < 9", [DAYS, DAYS]),
        ("SELECT count(*) FROM (SELECT * FROM lab.events WHERE id < 9) x", [1]),
        ("SELECT count(*) FROM (SELECT * FROM lab.events) x WHERE id < 9", [DAYS]),
        ("WITH x AS (SELECT * FROM lab.events WHERE id < 9) SELECT count(*) FROM x WHERE id > 3", [1]),
        ("SELECT count(*) FROM lab.events a, lab.events b WHERE a.id < 9 AND b.id > 110", [2]),
        ("SELECT (SELECT max(id) FROM lab.events) - min(id) FROM lab.events WHERE id > 110", [DAYS]),
        ("SELECT count(*) FROM lab.events WHERE id > (SELECT 110)", [DAYS]),
        ("SELECT count(*) FROM lab.events TABLESAMPLE 100% WHERE id < 9", [DAYS]),
        ("SELECT count(*) FROM lab.events x(id, b, c, d, e) WHERE b < '2024-01-02'", [DAYS]),
        ("SELECT -id AS ts, count(*) FROM lab.events WHERE ts < '2024-01-02' GROUP BY 1 ORDER BY 1", [DAYS]),
        ("SELECT count(*) FROM lab.events WHERE id < 9 UNION ALL SELECT count(*) FROM lab.events WHERE id > 110", [2]),
        ("SELECT count(*) FROM lab.events WHERE id < 9 HAVING count(*) > 3", [1]),
        ("SELECT count(*) FROM lab.named WHERE id < 9", [1]),
        ("SELECT count(*) FROM lab.named n JOIN lab.events e USING (id) WHERE n.ts < '2024-01-02' AND e.id > 110", [2]),
        ("SELECT count(*) FROM lab.late", [3]),
        ("SELECT count(*) FROM lab.late WHERE id > 110", [3]),
        ("SELECT count(*) FROM histogram(lab.events, id)", [DAYS]),
        ("PIVOT lab.events ON date USING count(*) GROUP BY name ORDER BY name", [DAYS]),
    ],
)
def test_a_condition_counts_only_where_every_row_of_the_table_must_meet_it(monkeypatch, lake, sql, expected):
    assert files(monkeypatch, lake, sql) == expected


def test_versions_of_one_table_are_pruned_apart(monkeypatch, lake):
    sql = (
        "SELECT count(*) FROM lab.events VERSION AS OF 1 e JOIN lab.events o USING (date) "
        "WHERE e.date = '2024-01-02' AND o.id < 30"
    )
    assert files(monkeypatch, lake, sql) == [1, 3]


def test_only_files_that_are_read_must_be_there(tmp_path):
    lake = Lakehouse.open(tmp_path, contracts={"lab.events": EVENTS}, views={})
    lake.table("lab.events").append(pl.concat([rows(day) for day in range(DAYS)]))
    victim = next((tmp_path / "lab/events").glob("date=2024-01-05/*.parquet"))
    victim.unlink()

    assert query(lake, "SELECT count(*) FROM lab.events WHERE date = '2024-01-04'").frame.item() == 5
    with pytest.raises(DamagedTableError, match=victim.name):
        query(lake, "SELECT count(*) FROM lab.events WHERE date >= '2024-01-04'")


def test_what_was_considered_is_told_in_bytes(lake):
    everything = query(lake, "SELECT count(*) FROM lab.events")
    little = query(lake, "SELECT count(*) FROM lab.events WHERE id = 35")

    assert everything.bytes_scanned == lake.table("lab.events").snapshot().bytes
    assert 0 < little.bytes_scanned < everything.bytes_scanned / 6


# -- random statements ------------------------------------------------------------------------------------------------

_TIMES = st.integers(-1, DAYS * 4 + 4).map(lambda step: START + timedelta(hours=6 * step)) | st.integers(-2, 2).map(
    lambda off: START + timedelta(days=5, microseconds=off)
)
_CONSTANTS = {
    "id": st.integers(-5, 130).map(str) | st.floats(-5, 130).map(lambda x: f"{x:.2f}"),
    "ts": _TIMES.map(lambda t: f"'{t.isoformat(sep=' ')}'")
    | _TIMES.map(lambda t: f"TIMESTAMP '{t.replace(tzinfo=None)}'")
    | _TIMES.map(lambda t: f"DATE '{t.date()}'")
    | _TIMES.map(lambda t: f"TIMESTAMPTZ '{t.isoformat(sep=' ')}' + INTERVAL 5 HOUR"),
    "date": _TIMES.map(lambda t: f"'{t.date()}'")
    | _TIMES.map(lambda t: f"TIMESTAMP '{t.replace(tzinfo=None)}'")
    | _TIMES.map(lambda t: f"DATE '{t.date()}' - 2"),
    "name": st.sampled_from(["'n010'", "'n04'", "'x'", f"'{'x' * 70}05'", f"'{'x' * 64}'", "''", "'é'"]),
    "value": st.sampled_from(["10", "'NaN'::DOUBLE", "55.5", "-1"]),
}


def _leaf(column: str) -> st.SearchStrategy[str]:
    constant = _CONSTANTS[column]
    sign = st.sampled_from(["=", "<", "<=", ">", ">=", "<>"])
    return st.one_of(
        st.tuples(sign, constant).map(lambda x: f"{{q}}{column} {x[0]} {x[1]}"),
        st.tuples(sign, constant).map(lambda x: f"{x[1]} {x[0]} {{q}}{column}"),
        st.tuples(constant, constant).map(lambda x: f"{{q}}{column} BETWEEN {x[0]} AND {x[1]}"),
        st.lists(constant, min_size=1, max_size=3).map(lambda x: f"{{q}}{column} IN ({', '.join(x)})"),
        st.sampled_from([f"{{q}}{column} IS NULL", f"{{q}}{column} IS NOT NULL", "true"]),
    )


_LEAVES = st.one_of([_leaf(column) for column in _CONSTANTS])
_CONDITIONS = st.recursive(
    _LEAVES,
    lambda inner: st.one_of(
        st.tuples(inner, st.sampled_from(["AND", "OR"]), inner).map(lambda x: f"({x[0]} {x[1]} {x[2]})"),
        inner.map(lambda x: f"(NOT {x})"),
    ),
    max_leaves=5,
)
_JOINS = ["JOIN", "LEFT JOIN", "RIGHT JOIN", "FULL JOIN"]


@st.composite
def _statements(draw: st.DrawFn) -> str:
    condition = draw(_CONDITIONS)
    shape = draw(st.integers(0, 3))
    if shape == 0:
        return f"SELECT id FROM lab.events WHERE {condition.format(q='')} ORDER BY 1"
    if shape == 1:
        join, more = draw(st.sampled_from(_JOINS)), draw(_CONDITIONS)
        keys = draw(st.sampled_from(["e.date = o.date", "e.id = o.id - 1", "e.id + 20 = o.id - 1"]))
        return (
            f"SELECT e.id, o.id FROM lab.events e {join} lab.others o ON {keys} "
            f"WHERE {condition.format(q='e.')} AND {more.format(q='o.')} ORDER BY ALL"
        )
    if shape == 2:
        return (
            f"WITH x AS (SELECT id, ts FROM lab.events WHERE {condition.format(q='events.')}) "
            f"SELECT id FROM x WHERE ts > '2024-01-03' UNION ALL SELECT id FROM lab.named "
            f"WHERE {draw(_leaf('id')).format(q='')} ORDER BY ALL"
        )
    return (
        f"SELECT id FROM lab.events a WHERE {condition.format(q='a.')} AND EXISTS "
        f"(SELECT 1 FROM lab.others b WHERE b.date = a.date AND {draw(_CONDITIONS).format(q='b.')}) ORDER BY 1"
    )


def _compare(lake: Lakehouse, statements: list[str]) -> None:
    """Run statements with and without pruning: the same rows, or the same refusal."""
    for sql in statements:
        outcomes = []
        for least in (0, 10_000):
            relations.WORTH_PRUNING = least
            try:
                outcomes.append(query(lake, sql).frame.rows())
            except Exception as error:
                outcomes.append(type(error))
            finally:
                relations.WORTH_PRUNING = 8
        assert outcomes[0] == outcomes[1], sql


@pytest.mark.soak
@settings(max_examples=25, deadline=None)
@given(_statements())
def test_rows_do_not_depend_on_pruning(lake, sql):
    _compare(lake, [sql])


@pytest.mark.soak
@settings(max_examples=800, deadline=None)
@given(_statements())
def test_rows_do_not_depend_on_pruning_for_many_statements(lake, sql):
    _compare(lake, [sql])


def test_random_statements_are_legal_and_pruned_often_enough_to_prove_something(lake, monkeypatch):
    """Guard the test above against becoming vacuous."""
    kept: list[int] = []
    real = relations.kept_files

    def counted(*args):
        kept.append(len(positions := real(*args)))
        return positions

    monkeypatch.setattr(relations, "kept_files", counted)
    for low, high in itertools.product(range(0, 120, 30), range(0, 120, 40)):
        query(lake, f"SELECT id FROM lab.events e WHERE e.id BETWEEN {low} AND {high} OR ts > '2024-01-12 20:00'")
    assert min(kept) < 3 < max(kept) < DAYS
