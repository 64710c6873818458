"""Generated statements against the SQL gateway, for HFTHOT_FUZZ_SECONDS (30 by default; `make fuzz`: 600).

Three sources: soups of the language's words, mutated and spliced attacks and questions, and statements whose syntax
trees sqlglot put together anew.  Whatever comes, the server stays up, within its memory, in time, and silent.
"""

from __future__ import annotations

import os
import random
import threading
import time
from collections import Counter

import psutil
import pytest
import sqlglot
from sqlglot import exp
from sqlglot.errors import SqlglotError

from hfthot_platform.core.errors import (
    SqlError,
    SqlMemoryError,
    SqlWorkerError,
    UnknownTableError,
    VersionUnavailableError,
)
from hfthot_platform.domain.access.authorisation import Principal
from hfthot_platform.services.sql.gateway import GatewayPool, QueryLimits, SqlGateway
from tests.sql.gateway.attacks import BOMBS, HARMLESS, REFUSED
from tests.sql.gateway.conftest import CANARIES, OLD_CANARY
from tests.sql.gateway.conftest import lake as lake  # noqa: PLC0414 - the fixture
from tests.sql.gateway.test_equality import Questions

pytestmark = pytest.mark.soak

SECONDS = float(os.environ.get("HFTHOT_FUZZ_SECONDS", "30"))
SEED = int(os.environ.get("HFTHOT_FUZZ_SEED", "0")) or random.SystemRandom().randrange(1, 2**31)
DEADLINE = 1.0

_KEYWORDS = """
    SELECT FROM WHERE GROUP BY ALL HAVING ORDER LIMIT OFFSET WITH RECURSIVE AS MATERIALIZED UNION EXCEPT INTERSECT JOIN
    LEFT FULL ASOF POSITIONAL CROSS LATERAL SEMI ANTI ON USING VALUES PIVOT UNPIVOT IN BETWEEN LIKE NOT NULL IS CASE
    WHEN THEN ELSE END CAST TRY_CAST OVER PARTITION ROWS RANGE PRECEDING FOLLOWING FILTER DISTINCT QUALIFY WINDOW
    TABLESAMPLE VERSION TIMESTAMP OF DESCRIBE SUMMARIZE SHOW TABLES EXPLAIN COPY ATTACH SET INSERT INTO DELETE UPDATE
    CREATE MACRO DROP PRAGMA CALL LOAD INSTALL EXECUTE PREPARE COLUMNS EXCLUDE REPLACE UNNEST INTERVAL ARRAY STRUCT MAP
"""
_NAMES = """
    market . bars_1m ohlcv kanarien users sessions api_keys ops incidents secretns kanarientabelle hfthot versions
    information_schema duckdb_settings close ts symbol mail never_hash read_csv read_text read_parquet glob query
    current_setting getenv range generate_series repeat lpad levenshtein list_transform lambda x: json_extract
    regexp_matches string_agg list sum count median error random now hash md5
"""
_SIGNS = """
    * , ( ) [ ] { } : :: + - / % || -> ->> = <> < >= ; ' " $$ -- /* */ ? $a @ ~ # ! 'x' 0 1 -1 1e308 '/etc/passwd'
    9223372036854775807 170141183460469231731687303715884105728
"""
_ODD = ["\u00a0", "\u200b", "\u202e", "é", "𝕊", "\x1b", "\n", "E'\\x00'", "U&'\\0000'"]
WORDS = [*_KEYWORDS.split(), *_NAMES.split(), *_SIGNS.split(), *_ODD]
EXTREMES = [
    "0",
    "-1",
    "NULL",
    "'nan'::DOUBLE",
    "2147483648",
    "9223372036854775807",
    "1e308",
    "''",
    "repeat('x', 1000000)",
]
EXTREMES += ["[]", "{'a': NULL}", "DATE 'infinity'", "INTERVAL 1000000 YEAR", "range(100000)", "(SELECT 1)", "'\\x00'"]


class Fuzz:
    """Statements without end."""

    def __init__(self, seed: int) -> None:
        self._random = random.Random(seed)
        self._questions = Questions(seed)
        self._seeds = [
            statement for group in (*REFUSED.values(), *BOMBS.values()) for statement in group if len(statement) < 2_000
        ]
        self._seeds += HARMLESS

    def one(self) -> str:
        # Most of what is put together anew is still a statement; soups and splices rarely are.
        kinds = (self.soup, self.mutated, self.mutated, self.spliced, *[self.regrown] * 6)
        kind = self._random.choice(kinds)
        return kind()[:20_000]

    def seed(self) -> str:
        return self._questions.one() if self._random.random() < 0.5 else self._random.choice(self._seeds)

    def soup(self) -> str:
        pick = self._random
        return pick.choice(("SELECT ", "", "WITH ", "FROM ")) + " ".join(pick.choices(WORDS, k=pick.randint(1, 40)))

    def mutated(self) -> str:
        pick = self._random
        parts = self.seed().split(" ")
        for _ in range(pick.choice((1, 1, 1, 2, 5))):
            at = pick.randrange(len(parts))
            action = pick.randrange(6)
            if action == 0 and len(parts) > 1:
                del parts[at]
            elif action == 1:
                parts.insert(at, pick.choice(WORDS))
            elif action == 2:
                parts[at] = pick.choice(WORDS + EXTREMES)
            elif action == 3:
                other = pick.randrange(len(parts))
                parts[at], parts[other] = parts[other], parts[at]
            elif action == 4:
                parts[at:at] = parts[at : at + pick.randint(1, 6)] * pick.randint(1, 20)
            elif parts[at]:
                where = pick.randrange(len(parts[at]))
                parts[at] = parts[at][:where] + chr(pick.randrange(1, 0x2FFF)) + parts[at][where + 1 :]
        return " ".join(parts)

    def spliced(self) -> str:
        one, other = self.seed(), self.seed()
        form = self._random.choice(
            (
                "SELECT * FROM ({a}) x, ({b}) y",
                "{a} UNION ALL {b}",
                "WITH x AS ({a}) {b}",
                "SELECT ({a}), ({b})",
                "SELECT * FROM ({a}) WHERE EXISTS ({b})",
                "{a}; {b}",
                "SELECT count(*) FROM ({a})",
                "WITH RECURSIVE x AS ({a} UNION ALL {b}) FROM x",
                "SELECT list_transform([1], lambda v: ({a}))",
            )
        )
        return form.format(a=one, b=other)

    def regrown(self) -> str:
        pick = self._random
        try:
            tree, donor = (sqlglot.parse_one(self.seed(), dialect="duckdb") for _ in range(2))
            for _ in range(pick.choice((1, 1, 2, 4))):
                kind = pick.choice((exp.Condition, exp.Condition, exp.Binary, exp.Func, exp.Table, exp.Query))
                places = [node for node in tree.find_all(kind) if node.parent is not None]
                given = [node.copy() for node in donor.find_all(kind)]
                given += [exp.maybe_parse(pick.choice(EXTREMES), dialect="duckdb")] if kind is exp.Condition else []
                if places and given:
                    pick.choice(places).replace(pick.choice(given))
            return tree.sql(dialect="duckdb")
        except (SqlglotError, ValueError, TypeError, AttributeError, RecursionError, IndexError, KeyError):
            return self.soup()  # what sqlglot cannot read or write


def hobbyist(name: object) -> Principal:
    return Principal(str(name), "registered", "hobbyist")


def test_whatever_is_sent_the_server_stays_up(lake):
    limits = QueryLimits(rows=10_000, bytes=2**23, seconds=DEADLINE, queue_seconds=60, memory=128 * 2**20)
    outcomes: Counter[str] = Counter()
    failures: list[str] = []
    process = psutil.Process()
    stop = time.monotonic() + SECONDS
    peak = 0

    def run(number: int, pool: GatewayPool) -> None:
        nonlocal peak
        fuzz = Fuzz(SEED + number)
        gateway = SqlGateway(lake, hobbyist(number), pool, limits=limits, quota=lambda: None)
        forms = random.Random(SEED + number)
        while time.monotonic() < stop and len(failures) < 10:
            sql = fuzz.one()
            form = forms.choice(("arrow", "json", "csv"))
            params = forms.choice((*[None] * 18, {"a": 1}, [1, "x"]))
            started = time.monotonic()
            try:
                result = gateway.query(sql, params, format=form)
                told = result.data.slice(0, 50).to_string(preview_cols=50) if form == "arrow" else result.data[:5_000]
                outcomes["answered"] += 1
            except (SqlError, UnknownTableError, VersionUnavailableError) as error:
                told = str(error)
                outcomes[type(error).__name__] += 1
            except BaseException as error:  # nothing else may ever come out
                failures.append(f"{type(error).__name__}: {error}: {sql!r}")
                continue
            seconds = time.monotonic() - started
            if leaks := [canary for canary in CANARIES if canary in told and canary not in sql]:
                failures.append(f"tells {leaks}: {sql!r}: {told[:500]!r}")
            if seconds > DEADLINE + 1 + 60:
                failures.append(f"{seconds:.1f} s: {sql!r}")
            peak = max(peak, process.memory_info().rss)

    assert OLD_CANARY in CANARIES
    with GatewayPool(workers=2) as pool:
        pool.warm()
        before = process.memory_info().rss
        threads = [threading.Thread(target=run, args=(number, pool)) for number in range(2)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        gateway = SqlGateway(lake, hobbyist("after"), pool, limits=limits, quota=lambda: None)
        alive = gateway.query("SELECT 42 AS a").data.to_pylist()

    print(f"seed {SEED}, {sum(outcomes.values())} statements: {dict(outcomes.most_common())}")
    print(f"this process grew by {(peak - before) / 2**20:.0f} MiB at most")
    assert failures == []
    assert alive == [{"a": 42}]
    assert peak - before < 300 * 2**20
    assert sum(outcomes.values()) > SECONDS
    assert outcomes["answered"] > 0
    assert outcomes[SqlWorkerError.__name__] <= outcomes[SqlMemoryError.__name__] + 5
