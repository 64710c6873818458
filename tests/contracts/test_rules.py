"""Each rule flags exactly the rows that break it, and never answers null."""

from __future__ import annotations

import math
from datetime import UTC, datetime

import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hfthot_platform.domain.contracts.rules import (
    AtLeast,
    Between,
    Finite,
    Matches,
    NotNull,
    OneOf,
    PresentWhen,
    Spike,
    TimeBetween,
)

LOW, HIGH = datetime(2024, 1, 1, tzinfo=UTC), datetime(2025, 1, 1, tzinfo=UTC)


def flags(rule, **columns):
    out = pl.DataFrame(columns).select(rule.violated().alias("v"))["v"]
    assert out.dtype == pl.Boolean
    assert out.null_count() == 0
    return out.to_list()


def test_not_null():
    assert flags(NotNull("x"), x=[1, None]) == [False, True]


def test_finite():
    assert flags(Finite("x"), x=[1.0, math.nan, math.inf, -math.inf, None]) == [False, True, True, True, False]


def test_between_is_closed():
    assert flags(Between("x", 0, 1), x=[-0.1, 0.0, 1.0, 1.1, None]) == [True, False, False, True, False]


def test_between_can_exclude_its_lower_end():
    assert flags(Between("x", 0, 1, open_low=True), x=[0.0, 1e-300, 1.0]) == [True, False, False]


def test_nan_is_between_nothing():
    assert flags(Between("x", 0, 1), x=[math.nan, math.inf]) == [True, True]


def test_time_between_is_half_open():
    assert flags(TimeBetween("t", LOW, HIGH), t=[LOW, HIGH, None]) == [False, True, False]


def test_at_least():
    rule = AtLeast("high", ("open", "close"))

    assert flags(rule, high=[2.0, 1.0, 2.0, None], open=[1.0, 2.0, 2.0, 1.0], close=[1.0, 1.0, 3.0, 1.0]) == [
        False,
        True,
        True,
        False,
    ]


@pytest.mark.parametrize("dtype", [pl.String, pl.Categorical, pl.Enum(["buy", "bid"])])
def test_one_of_a_closed_list_whatever_the_text_type(dtype):
    assert flags(OneOf("s", ("buy", "sell")), s=pl.Series(["buy", "bid", None], dtype=dtype)) == [False, True, False]


def test_matches_the_whole_text():
    assert flags(Matches("s", "[a-z]+"), s=["abc", "abc1", "1abc", "", None]) == [False, True, True, True, False]


def test_a_line_break_does_not_end_the_text():
    assert flags(Matches("s", "[a-z]+"), s=["abc\nDROP", "abc\n"]) == [True, True]


def test_an_isolated_absurd_price_is_a_spike():
    assert flags(Spike("p", by=("k",)), k=["a"] * 5, p=[10.0, 10.0, 10_000.0, 10.0, 10.0]) == [
        False,
        False,
        True,
        False,
        False,
    ]


def test_two_absurd_prices_side_by_side_are_spikes():
    assert flags(Spike("p", by=("k",)), k=["a"] * 6, p=[10.0, 10.0, 0.1, 0.1, 10.0, 10.0]) == [
        False,
        False,
        True,
        True,
        False,
        False,
    ]


def test_a_new_level_is_a_move():
    assert not any(flags(Spike("p", by=("k",)), k=["a"] * 8, p=[1.0] * 4 + [100.0] * 4))


def test_a_series_of_two_rows_has_no_spike():
    assert not any(flags(Spike("p", by=("k",)), k=["a", "a"], p=[1.0, 1000.0]))


def plain_spikes(keys, values, factor):
    """Judge as the rule's description says, row by row, with a sort for the median."""
    out = []
    for i, value in enumerate(values):
        window = [
            values[j]
            for j in range(max(i - 2, 0), min(i + 3, len(values)))
            if keys[j] == keys[i] and (j == i or values[j] is not None)
        ]
        if value is None or len(window) < 3:
            out.append(False)
            continue
        window.sort()
        middle = window[(len(window) - 1) // 2 : len(window) // 2 + 1]
        median = min(middle, key=lambda m: abs(math.log(m / value)))
        out.append(value * factor < median or median * factor < value)
    return out


@settings(max_examples=300, deadline=None)
@given(
    st.lists(
        st.tuples(
            st.sampled_from("ab"), st.one_of(st.none(), st.sampled_from([1.0, 2.0, 9.0, 11.0, 30.0, 150.0, 4000.0]))
        ),
        max_size=30,
    )
)
def test_spikes_are_what_a_plain_five_row_median_says(rows):
    rows = sorted(rows, key=lambda row: row[0])
    keys, values = [row[0] for row in rows], [row[1] for row in rows]

    found = flags(Spike("p", by=("k",)), k=pl.Series(keys, dtype=pl.String), p=pl.Series(values, dtype=pl.Float64))

    assert found == plain_spikes(keys, values, 10.0)


def test_a_value_for_one_kind_is_missing_where_it_belongs_and_wrong_where_it_does_not():
    rule = PresentWhen("ratio", "kind", "split")
    frame = pl.DataFrame({"kind": ["split", "split", "dividend", "dividend"], "ratio": [2.0, None, None, 2.0]})

    assert frame.select(rule.violated()).to_series().to_list() == [False, True, False, True]
