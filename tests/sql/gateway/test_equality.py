"""Legal questions get the same answers as from DuckDB without any sandbox."""

from __future__ import annotations

import random
from collections.abc import Iterator

import duckdb
import pyarrow as pa
import pytest

COUNT = 320
NUMBERS = ("open", "high", "low", "close", "volume")
KEYS = ("symbol", "venue", "final", "origin", "date_trunc('hour', ts)", "ts::DATE", "minute(ts) // 3")
AGGREGATES = ("sum", "avg", "min", "max", "count", "stddev_samp", "median", "first", "last", "approx_count_distinct")
TABLES = ("market.bars_1m", "market.ohlcv")


class Questions:
    """A small grammar of what people ask; every statement orders its rows completely."""

    def __init__(self, seed: int) -> None:
        self._random = random.Random(seed)

    def one(self) -> str:
        kinds = (
            self.rows,
            self.groups,
            self.window,
            self.join,
            self.sets,
            self.nested,
            self.scalars,
            self.asof,
            self.pivot,
        )
        return self._random.choice(kinds)()

    def number(self, of: str = "") -> str:
        pick = self._random
        column = of + pick.choice(NUMBERS)
        forms = (
            "{c}",
            "{c} + {n}",
            "{c} * {n} - {d}",
            "round({c} / {n}, 3)",
            "ln({c})",
            "abs({c} - {d})",
            "greatest({c}, {d})",
            "CASE WHEN {c} > {d} THEN {c} ELSE {d} END",
            "coalesce(nullif({c}, {d}), {n})",
            "{c}::INTEGER % 7",
        )
        return pick.choice(forms).format(c=column, d=of + pick.choice(NUMBERS), n=pick.randint(2, 9))

    def condition(self, of: str = "") -> str:
        pick = self._random
        forms = (
            "{o}symbol = 'BTC-USDT'",
            "{o}symbol LIKE '%{l}%'",
            "{o}symbol IN ('ETH-USDT', 'x')",
            "{n} > {v}",
            "{n} BETWEEN {v} AND {v} * 3",
            "{o}ts >= TIMESTAMPTZ '2024-03-0{day} 00:0{minute}:00+00'",
            "{o}ts::DATE <> DATE '2024-03-0{day}'",
            "minute({o}ts) % {day} = 0",
            "regexp_matches({o}symbol, '^[A-{l}]')",
            "NOT ({n} IS NULL)",
        )
        made = [
            pick.choice(forms).format(
                o=of,
                n=self.number(of),
                v=pick.randint(1, 110),
                l=pick.choice("BEST"),
                day=pick.randint(1, 3),
                minute=pick.randint(0, 9),
            )
            for _ in range(pick.randint(1, 3))
        ]
        return f" {pick.choice(('AND', 'OR'))} ".join(f"({select})" for select in made)

    def rows(self) -> str:
        listed = ", ".join(f"{self.number()} AS n{i}" for i in range(self._random.randint(1, 4)))
        return (
            f"SELECT symbol, ts, {listed} FROM {self.table()} WHERE {self.condition()} ORDER BY symbol, ts"
            f" LIMIT {self._random.randint(1, 100)} OFFSET {self._random.randint(0, 3)}"
        )

    def table(self) -> str:
        return self._random.choice(TABLES)

    def groups(self) -> str:
        pick = self._random
        key = pick.sample(KEYS, pick.randint(1, 2))
        listed = ", ".join(
            f"{pick.choice(AGGREGATES)}({self.number()} ORDER BY symbol, ts) AS a{i}" for i in range(pick.randint(1, 3))
        )
        having = f" HAVING count(*) > {pick.randint(0, 20)}" if pick.random() < 0.4 else ""
        select = f"SELECT {', '.join(key)}, {listed} FROM {self.table()}"
        return f"{select} WHERE {self.condition()} GROUP BY ALL{having} ORDER BY ALL"

    def window(self) -> str:
        pick = self._random
        function = pick.choice(
            ("sum({n})", "avg({n})", "lag({n})", "lead({n}, 2)", "row_number()", "rank()", "first_value({n})")
        ).format(n=self.number())
        frame = pick.choice(("", " ROWS BETWEEN 3 PRECEDING AND CURRENT ROW", " RANGE INTERVAL 2 MINUTE PRECEDING"))
        if function.startswith(("row_number", "rank", "lag", "lead")):
            frame = ""
        return (
            f"SELECT symbol, ts, {function} OVER (PARTITION BY symbol ORDER BY ts{frame}) AS w"
            f" FROM {self.table()} WHERE {self.condition()} ORDER BY symbol, ts"
        )

    def join(self) -> str:
        kind = self._random.choice(("JOIN", "LEFT JOIN", "FULL JOIN", "SEMI JOIN", "ANTI JOIN"))
        columns = "a.symbol AS s, a.ts AS t, " + self.number("a.") + " AS n"
        if kind in {"JOIN", "LEFT JOIN"}:
            columns += ", b.close AS c"
        return (
            f"SELECT {columns} FROM {self.table()} a {kind} (SELECT * FROM {self.table()} WHERE {self.condition()}) b"
            f" ON a.symbol = b.symbol AND a.ts = b.ts ORDER BY ALL"
        )

    def asof(self) -> str:
        return (
            f"SELECT a.symbol, a.ts, b.close FROM {self.table()} a ASOF LEFT JOIN"
            f" (SELECT * FROM {self.table()} WHERE {self.condition()}) b"
            " ON a.symbol = b.symbol AND a.ts > b.ts ORDER BY ALL"
        )

    def sets(self) -> str:
        word = self._random.choice(("UNION", "UNION ALL", "INTERSECT", "EXCEPT"))
        side = "SELECT symbol, {n} AS n FROM {t} WHERE {c}"
        one, other = (side.format(n=self.number(), t=self.table(), c=self.condition()) for _ in range(2))
        return f"({one}) {word} ({other}) ORDER BY ALL"

    def nested(self) -> str:
        return (
            f"WITH daily AS (SELECT symbol, ts::DATE AS d, sum(volume) AS v, list({self.number()} ORDER BY ts) AS l"
            f" FROM {self.table()} WHERE {self.condition()} GROUP BY ALL),"
            " ranked AS (SELECT *, rank() OVER (PARTITION BY d ORDER BY v, symbol) AS r FROM daily)"
            " SELECT symbol, d, v, r, len(l), l[1], list_sum(l), {'a': v, 'b': [r]} AS s FROM ranked"
            f" WHERE v > (SELECT avg(v) / {self._random.randint(1, 4)} FROM daily) ORDER BY ALL"
        )

    def scalars(self) -> str:
        pick = self._random
        forms = (
            "upper(symbol)",
            "split_part(symbol, '-', 1)",
            "strftime(ts, '%Y-%m-%d %H')",
            "extract(epoch FROM ts)",
            "time_bucket(INTERVAL 5 MINUTE, ts)",
            "md5(symbol)",
            "levenshtein(symbol, 'BTC')",
            "format('{:.2f}', close)",
            "to_json({'s': symbol, 'c': close})",
            "list_transform([open, close], lambda x: x * 2)",
            "map {symbol: close}",
            "ts + INTERVAL 1 DAY",
            "regexp_replace(symbol, '[AEIOU]', '*', 'g')",
            "volume::DECIMAL(18, 4)",
        )
        listed = ", ".join(f"{form} AS f{i}" for i, form in enumerate(pick.sample(forms, 4)))
        return f"SELECT {listed} FROM {self.table()} WHERE {self.condition()} ORDER BY symbol, ts"

    def pivot(self) -> str:
        return (
            f"SELECT * FROM (PIVOT (SELECT symbol, minute(ts) AS m, {self.number()} AS n FROM {self.table()})"
            " ON symbol IN ('BTC-USDT', 'ETH-USDT') USING sum(n), count(*) AS c GROUP BY m) ORDER BY ALL"
        )


@pytest.fixture(scope="module")
def plain(lake) -> Iterator[duckdb.DuckDBPyConnection]:
    """DuckDB with the same rows and nothing around it."""
    rows = lake.table("market.bars_1m").scan().collect().to_arrow()  # noqa: F841 - DuckDB finds it by its name
    with duckdb.connect(config={"threads": 1}) as connection:
        connection.execute("SET TimeZone = 'UTC'")
        connection.execute("CREATE SCHEMA market")
        connection.execute("CREATE TABLE market.bars_1m AS FROM rows")
        listed = ", ".join(lake.views["market.ohlcv"].columns)
        connection.execute(f"CREATE VIEW market.ohlcv AS SELECT {listed} FROM market.bars_1m")
        yield connection


@pytest.mark.soak
def test_answers_are_those_of_duckdb_without_a_sandbox(gateway, plain):
    questions = Questions(20240301)
    asked = {questions.one() for _ in range(2 * COUNT)}
    statements = sorted(asked)[:COUNT]
    assert len(statements) == COUNT
    with_rows = 0
    for sql in statements:
        expected = plain.sql(sql).to_arrow_table()
        found = gateway.query(sql).data
        with_rows += found.num_rows > 0
        assert same(found, expected), sql

    assert with_rows > COUNT * 0.8


def same(found: pa.Table, expected: pa.Table) -> bool:
    """Whether two tables hold the same rows; sums of floats may differ in the last digits."""
    if found.schema.names != expected.schema.names or found.num_rows != expected.num_rows:
        return False
    if found.schema.types != expected.schema.remove_metadata().types:
        expected = expected.cast(pa.schema(list(found.schema)))
    return all(alike(a, b) for a, b in zip(found.to_pydict().values(), expected.to_pydict().values(), strict=True))


def alike(a: object, b: object) -> bool:
    if isinstance(a, float) and isinstance(b, float):
        return a == pytest.approx(b, rel=1e-12, abs=1e-9, nan_ok=True)
    if isinstance(a, (list, tuple)) and isinstance(b, (list, tuple)):
        return len(a) == len(b) and all(map(alike, a, b))
    if isinstance(a, dict) and isinstance(b, dict):
        return a.keys() == b.keys() and all(alike(a[key], b[key]) for key in a)
    return a == b
