"""The store judges a row as the contract's rules judge it in the lake: row by row here, by the column there."""

from __future__ import annotations

from collections import Counter
from random import Random

import polars as pl
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from hfthot_platform.domain.contracts.accounts import USER_TABLES
from hfthot_platform.domain.contracts.model import FLAG, INT, TEXT, TIME
from hfthot_platform.domain.contracts.rules import AtLeast, Between, Matches, OneOf
from hfthot_platform.storage.operational import rows as module

END = 253_402_300_799_999_999
TABLES = {contract.name: contract for contract in USER_TABLES}


def _texts(rules):
    """Return texts that the rules take, and near misses of them."""
    fitting = st.text(st.characters(exclude_categories=["Cs"]), max_size=8)
    for rule in rules:
        if isinstance(rule, Matches):
            fitting = st.from_regex(rule.pattern, fullmatch=True)
        elif isinstance(rule, OneOf):
            fitting = st.sampled_from(rule.values)
    odd = st.sampled_from(["\n", " ", "\0", "\u0660", "\u2028", "x", "\ufeff"])
    near = [
        st.builds("{}{}".format, fitting, odd),
        st.builds("{}{}".format, odd, fitting),
        fitting.map(lambda text: text[1:]),
        fitting.map(str.upper),
    ]
    return fitting, st.one_of(near)


def _numbers(rules):
    """Return numbers that the rules take, and others about their bounds."""
    bounds = [(round(rule.low), round(rule.high)) for rule in rules if isinstance(rule, Between)]
    low, high = bounds[0] if bounds else (-(2**62), 2**62)
    return st.integers(low, high), st.sampled_from([low - 1, low, high, high + 1])


@st.composite
def _rows(draw, name):
    """Draw rows of a table as the store gets them: each value of its type, most of them good ones."""
    contract, checks = TABLES[name], module.row_checks()[name]
    pools = {}
    for column in contract.columns:
        if column.name in checks.names:
            own = [rule for rule in contract.rules if rule.column == column.name]
            times = st.integers(0, END), st.sampled_from([0, END])
            kinds = {TEXT: _texts, INT: _numbers, FLAG: lambda _: (st.booleans(),) * 2, TIME: lambda _, t=times: t}
            good, odd = kinds[column.dtype](own)
            none = [None] if column.nullable else []
            pools[column.name] = [draw(good), draw(good), *none], [draw(odd), draw(odd), None]
    dice = Random(draw(st.integers(0, 2**32)))
    return [
        {column: dice.choice(pool[dice.random() < 0.5 / len(pools)]) for column, pool in pools.items()}
        for _ in range(80)
    ]


def _in_the_lake(contract, names, rows):
    """Return which rows the contract takes, by its own expressions over whole columns."""
    kept = [column for column in contract.columns if column.name in names]
    frame = pl.DataFrame(
        {column.name: [row[column.name] for row in rows] for column in kept},
        schema={column.name: pl.Int64() if column.dtype == TIME else column.polars for column in kept},
    ).with_columns(pl.col(column.name).cast(column.polars) for column in kept if column.dtype == TIME)
    broken = [pl.col(column.name).is_null() for column in kept if not column.nullable]
    for rule in contract.rules:
        needed = {rule.column, *(rule.others if isinstance(rule, AtLeast) else ())}
        if needed <= names:
            broken.append(rule.violated())
    return frame.select(good=pl.any_horizontal(broken).not_())["good"].to_list()


@pytest.mark.soak
@pytest.mark.parametrize("name", sorted(TABLES))
def test_the_store_takes_exactly_the_rows_that_the_lake_takes(name):
    checks, seen = module.row_checks()[name], Counter()

    @settings(max_examples=5, deadline=None, suppress_health_check=list(HealthCheck))
    @given(_rows(name))
    def judged(rows):
        here = [checks.broken(row) for row in rows]
        seen.update(here)
        assert [fault is None for fault in here] == _in_the_lake(TABLES[name], checks.names, rows)

    judged()
    assert seen[None] > 20, "good rows were among them"
    assert len(seen) > 4, "and rows with several faults"
