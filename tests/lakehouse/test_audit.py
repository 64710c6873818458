"""The audit accounts for every row and lets through only rows that fit the contract."""

from __future__ import annotations

import json
import math
from datetime import UTC, datetime, timedelta

import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hfthot_platform.core.errors import SchemaMismatchError
from hfthot_platform.domain.contracts import contract
from hfthot_platform.domain.contracts.model import ROW_NUMBER
from hfthot_platform.storage.lakehouse.audit import audit, conform, quarantine_id

TRADES = contract("market.trades")


@pytest.mark.parametrize(
    ("column", "dtype"),
    [
        ("trade_id", pl.Int8),
        ("trade_id", pl.UInt32),
        ("trade_id", pl.UInt64),
        ("trade_id", pl.Int128),
        ("price", pl.Float32),
        ("price", pl.Int64),
        ("price", pl.UInt8),
        ("symbol", pl.Categorical),
        ("symbol", pl.Enum(["BTC-USDT"])),
        ("ts", pl.Datetime("ms", "UTC")),
        ("ts", pl.Datetime("ns", "UTC")),
        ("ts", pl.Datetime("us", "Europe/Berlin")),
        ("side", pl.Null),
    ],
)
def test_a_cast_that_loses_nothing_is_made(trades, column, dtype):
    value = pl.lit(None) if dtype == pl.Null else pl.col(column).cast(dtype)

    out = conform(TRADES, trades(**{column: value}))

    assert dict(out.schema) == TRADES.polars_schema
    if dtype != pl.Null:
        assert out[column].to_list() == trades()[column].to_list()


@pytest.mark.parametrize(
    ("column", "value", "says"),
    [
        ("trade_id", pl.lit(1.0), "expected Int64, found Float64"),
        ("trade_id", pl.lit(2**63, dtype=pl.UInt64), "expected Int64, found UInt64"),
        ("price", pl.lit(2**53 + 1), "expected Float64, found Int64"),
        ("price", pl.lit("1.0"), "expected Float64, found String"),
        ("symbol", pl.lit(1), "expected String, found Int32"),
        ("symbol", pl.lit(None), "expected String, found Null"),
        ("ts", pl.lit(1, dtype=pl.Int64), "found Int64"),
        ("ts", pl.lit("2024-01-01"), "found String"),
        ("ts", pl.lit(1, dtype=pl.Int64).cast(pl.Datetime("ns", "UTC")), "found Datetime(time_unit='ns'"),
        ("ts", pl.lit(datetime(2024, 1, 1)), "has no time zone"),
        (ROW_NUMBER, pl.lit("first"), "expected Int64, found String"),
    ],
)
def test_a_cast_that_could_lose_something_is_refused_with_column_expected_and_found(trades, column, value, says):
    with pytest.raises(SchemaMismatchError) as caught:
        conform(TRADES, trades(**{column: value}))

    assert says in str(caught.value)
    assert repr(column) in str(caught.value)


def test_a_missing_column_is_named(trades):
    with pytest.raises(SchemaMismatchError, match=r"column 'price' is missing; expected Float64"):
        conform(TRADES, trades().drop("price"))


def test_an_unexpected_column_suggests_the_nearest(trades):
    with pytest.raises(SchemaMismatchError, match=r"unexpected column 'prise'. Did you mean 'price'\?"):
        conform(TRADES, trades(prise=pl.lit(1.0)))


def test_nullable_columns_may_be_absent_and_derived_ones_are_filled_in(trades):
    out = conform(TRADES, trades().drop("side"))

    assert out["side"].null_count() == 10
    assert out["date"].to_list() == [datetime(2024, 1, 1).date()] * 10
    assert out["schema_version"].unique().to_list() == [TRADES.schema_version]


def test_a_wrong_partition_value_is_computed_again(trades):
    out = conform(TRADES, trades(date=pl.lit(datetime(1999, 1, 1).date())))

    assert out["date"].unique().to_list() == [datetime(2024, 1, 1).date()]


def test_good_rows_pass_whole_and_sorted(trades):
    shuffled = trades(1000).sample(fraction=1.0, shuffle=True, seed=1)

    audited = audit(TRADES, shuffled)

    assert audited.rows.drop("date", "schema_version", "ts_received").equals(
        trades(1000).select(audited.rows.drop("date", "schema_version", "ts_received").columns)
    )
    assert all(result.passed for result in audited.results)


def test_each_bad_row_carries_the_first_rule_that_it_breaks(trades):
    price = pl.when(pl.col("trade_id") == 3).then(math.nan).when(pl.col("trade_id") == 5).then(-1.0).otherwise(100.0)

    audited = audit(TRADES, trades(price=price).with_row_index(ROW_NUMBER, offset=1))

    assert audited.rejected.select("row_number", "reason", "detail").rows() == [
        (4, "not_finite", "price is a finite number"),
        (6, "out_of_bounds", "0 < price <= 1e+09"),
    ]
    assert [json.loads(row)["price"] for row in audited.rejected["row"]] == ["NaN", "-1.0"]
    assert audited.rejected["source_ref"].unique().to_list() == ["test:1"]


def test_a_null_in_a_required_column_is_a_bad_row_not_a_broken_batch(trades):
    audited = audit(TRADES, trades(source_ref=pl.when(pl.col("trade_id") == 2).then(None).otherwise(pl.lit("x"))))

    assert audited.rejected["reason"].to_list() == ["missing_value"]
    assert audited.rows.height == 9


def test_broken_rows_do_not_make_good_neighbours_look_absurd(trades):
    audited = audit(TRADES, trades(5, price=pl.Series([math.nan, math.nan, 100.0, math.nan, math.nan])))

    assert audited.rows["price"].to_list() == [100.0]
    assert audited.rejected["reason"].unique().to_list() == ["not_finite"]


def test_equal_rows_are_duplicates_and_provenance_does_not_matter(trades):
    audited = audit(TRADES, pl.concat([trades(), trades(3, source_ref="test:2")]))

    assert (audited.rows.height, audited.duplicates, audited.rejected.height) == (10, 3, 0)


def test_other_values_under_the_same_key_are_a_conflict(trades):
    audited = audit(TRADES, pl.concat([trades(), trades(2, amount=7.0)]))

    assert (audited.rows.height, audited.duplicates, audited.rejected.height) == (10, 0, 2)
    assert audited.rejected["reason"].unique().to_list() == ["conflicting_key"]
    assert audited.rows["amount"].unique().to_list() == [1.0]
    assert audited.results[-1].violations == 2


def test_rows_that_the_source_could_not_parse_join_the_rejected(trades):
    unparsed = pl.DataFrame({"row_number": [7], "reason": ["unparsed"], "detail": ["no number"], "row": ["a,b"]})

    audited = audit(TRADES, trades(), unparsed)

    assert audited.read == 11
    assert audited.rejected["reason"].to_list() == ["unparsed"]


def test_personal_values_do_not_reach_the_quarantine():
    from dataclasses import replace

    from hfthot_platform.domain.contracts.model import TEXT, Column

    people = replace(TRADES, columns=(*TRADES.columns, Column("mail", TEXT, "Address", nullable=True, personal=True)))
    frame = pl.DataFrame(schema=people.polars_schema).clear(1).with_columns(mail=pl.lit("a@b.example"))

    audited = audit(people, frame)

    assert "a@b" not in audited.rejected["row"][0]


EPOCH = datetime(2024, 1, 1, tzinfo=UTC)
ROWS = st.lists(
    st.fixed_dictionaries(
        {
            "venue": st.sampled_from(["kraken", "Kraken!", None]),
            "symbol": st.sampled_from(["BTC-USDT", "ETH-USDT", "", None]),
            "ts": st.one_of(st.none(), st.integers(-(10**17), 10**17).map(lambda us: us), st.integers(0, 100)),
            "trade_id": st.one_of(st.none(), st.integers(0, 6)),
            "price": st.one_of(
                st.none(), st.sampled_from([1.0, 2.0, -1.0, 0.0, 1e5, math.nan, math.inf, -math.inf, 1e300])
            ),
            "amount": st.sampled_from([1.0, 2.0, math.nan, -3.0, None]),
            "side": st.sampled_from(["buy", "sell", "both", None]),
            "source": st.sampled_from(["replay", "rumour", None]),
            "source_ref": st.sampled_from(["a", "b", None]),
        }
    ),
    max_size=25,
)


@settings(max_examples=80, deadline=None)
@given(ROWS)
def test_every_row_that_is_read_is_published_duplicate_or_quarantined(rows):
    types = {name: TRADES.polars_schema[name] for name in TRADES.column_names if name != "date"}
    frame = pl.DataFrame(
        rows, schema={name: pl.Int64() if name == "ts" else types[name] for name in rows[0]} if rows else types
    ).with_columns(pl.col("ts").cast(pl.Datetime("us", "UTC")), **{ROW_NUMBER: pl.int_range(1, len(rows) + 1)})

    audited = audit(TRADES, frame)

    good = audited.rows
    assert audited.read == len(rows) == good.height + audited.duplicates + audited.rejected.height
    assert dict(good.schema) == TRADES.polars_schema
    assert not good.select(TRADES.primary_key).is_duplicated().any()
    assert good.equals(good.sort(TRADES.sort_by))
    assert not any(good.select(rule.violated().any()).item() for rule in TRADES.rules if not rule.among_rows)
    assert sum(result.violations > 0 for result in audited.results) == 0 or audited.rejected.height > 0
    assert audited.rejected["row_number"].n_unique() == audited.rejected.height
    # What the audit let through, it lets through again.
    assert audit(TRADES, good).rows.height + audit(TRADES, good).rejected.height == good.height


@pytest.mark.soak
@settings(max_examples=60, deadline=None)
@given(st.permutations(list(range(12))))
def test_the_outcome_does_not_depend_on_the_order_of_clean_rows(order):
    frame = pl.DataFrame(
        {
            "venue": "kraken",
            "symbol": [("BTC-USDT", "ETH-USDT")[i % 2] for i in range(12)],
            "ts": [EPOCH + timedelta(seconds=i // 3) for i in range(12)],
            "trade_id": range(12),
            "price": [100.0 + i for i in range(12)],
            "amount": 1.0,
            "source": "replay",
            "source_ref": "x",
        }
    )

    assert audit(TRADES, frame[order]).rows.equals(audit(TRADES, frame).rows)


def test_the_first_position_is_not_the_same_as_none():
    ids = {quarantine_id("not_null:price", "file:1", number, "{}") for number in (None, 0, 1)}

    assert len(ids) == 3
    assert quarantine_id("not_null:price", "file:1", 0, "{}") in ids
