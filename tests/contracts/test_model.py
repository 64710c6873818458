"""A contract that contradicts itself cannot be made; everything else derives from one that does not."""

from __future__ import annotations

from dataclasses import replace

import polars as pl
import pytest

from hfthot_platform.core.errors import ContractError, UnknownTableError
from hfthot_platform.domain.contracts import CONTRACTS, contract
from hfthot_platform.domain.contracts.model import DATE, FLAG, FLOAT, INT, SMALL, TEXT, TIME, Column, TableContract
from hfthot_platform.domain.contracts.rules import Between, Finite, NotNull

GOOD = TableContract(
    name="test.table",
    description="A table.",
    columns=(
        Column("date", DATE, "Day"),
        Column("ts", TIME, "Time", unit="UTC"),
        Column("key", INT, "Key"),
        Column("value", FLOAT, "Value", unit="USD", nullable=True),
        Column("mail", TEXT, "Address", nullable=True, personal=True),
        Column("source_ref", TEXT, "From", nullable=True, provenance=True),
    ),
    primary_key=("key",),
    sort_by=("key",),
    partition_by="date",
    time_column="ts",
)


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"name": "market."}, "namespace.table"),
        ({"columns": (*GOOD.columns, Column("key", INT, "Again"))}, "declared twice"),
        ({"primary_key": ("kee",)}, "column 'kee' is used but not declared"),
        ({"primary_key": ("value",)}, "key column 'value' must not be nullable"),
        ({"primary_key": ()}, "needs a primary key"),
        ({"sort_by": ("nothing",)}, "column 'nothing' is used but not declared"),
        ({"rules": (Finite("nothing"),)}, "column 'nothing' is used but not declared"),
        ({"rules": (Between("value", 0, 1), Between("value", 0, 2))}, "'out_of_bounds:value' is declared twice"),
        ({"stats_columns": ("mail",)}, "personal column must not have file statistics"),
        ({"time_column": None}, "'time_column' is used but not declared"),
        ({"partition_by": "key"}, "partitioned by date, month, year"),
        ({"max_rejected_share": 1.5}, "not between 0 and 1"),
        (
            {"columns": (*GOOD.columns, *(Column(name, TEXT, "Whom", role="subject") for name in ("who", "whom")))},
            "two columns have the role 'subject'",
        ),
        ({"columns": (*GOOD.columns, Column("closed", INT, "Closed", role="finality"))}, "'closed' has the role"),
    ],
)
def test_an_inconsistent_contract_is_refused_and_says_why(change, says):
    with pytest.raises(ContractError) as caught:
        replace(GOOD, **change)

    assert says in str(caught.value)
    assert str(caught.value).startswith("contract ")


def test_a_column_has_its_role_whatever_it_is_called():
    roles = replace(
        GOOD, columns=(*GOOD.columns, Column("closed", FLAG, "Closed", role="finality"), Column("final", FLAG, "Last"))
    )

    assert roles.finality == "closed"
    assert (roles.sequence, roles.subject, roles.redaction, roles.provenance) == (None, None, None, None)


@pytest.mark.parametrize("percent", range(101))
def test_exactly_the_share_that_may_be_rejected_is_tolerated_and_not_one_row_more(percent):
    contract = replace(GOOD, max_rejected_share=percent / 100)

    assert contract.tolerates(percent, 100)
    assert contract.tolerates(0, 0)
    assert percent == 100 or not contract.tolerates(percent + 1, 100)


def test_every_declared_contract_is_found_under_its_name():
    assert all(contract(name).name == name for name in CONTRACTS)
    assert {
        "market.instruments",
        "market.trades",
        "market.bars_1m",
        "market.bars",
        "market.closes",
        "market.universe",
        "quarantine.trades",
        "ops.ingest_files",
    } <= set(CONTRACTS)


def test_every_data_table_has_a_quarantine():
    for declared in CONTRACTS.values():
        if declared.namespace == "market":
            assert declared.quarantine in CONTRACTS


def test_an_unknown_table_suggests_the_nearest_name():
    with pytest.raises(UnknownTableError, match=r"unknown table 'market.trade'. Did you mean 'market.trades'\?"):
        contract("market.trade")


def test_an_unknown_table_like_no_other_lists_the_known_ones():
    with pytest.raises(UnknownTableError, match=r"Known tables: market\.instruments, "):
        contract("zzzzzz")


@pytest.mark.parametrize("name", list(CONTRACTS))
def test_arrow_and_polars_schema_agree_and_carry_units(name):
    declared = contract(name)

    from_arrow = pl.DataFrame(declared.arrow_schema.empty_table()).schema

    assert dict(from_arrow) == declared.polars_schema == dict(declared.empty().schema)
    for column in declared.columns:
        metadata = declared.arrow_schema.field(column.name).metadata
        assert metadata[b"comment"].decode() == column.description
        assert metadata[b"unit"].decode() == column.unit


@pytest.mark.parametrize("name", list(CONTRACTS))
def test_every_required_column_is_a_rule_except_the_derived_partition(name):
    declared = contract(name)
    derived = declared.partition_by if declared.partition_expr() is not None else None

    required = {rule.column for rule in declared.rules if isinstance(rule, NotNull)}

    assert required == {column.name for column in declared.columns if not column.nullable} - {derived}


@pytest.mark.parametrize("name", list(CONTRACTS))
def test_rule_names_identify_rules(name):
    names = [rule.name for rule in contract(name).rules]

    assert len(set(names)) == len(names)
    assert all(rule.says for rule in contract(name).rules)


def test_value_columns_are_neither_key_nor_partition_nor_provenance():
    assert GOOD.value_columns == ("ts", "value", "mail")


@pytest.mark.parametrize(("grain", "dtype", "expected"), [("month", DATE, "2024-02-01"), ("year", SMALL, "2024")])
def test_partition_values_derive_from_the_time_in_utc(grain, dtype, expected):
    columns = (Column(grain, dtype, "Partition"), *GOOD.columns[1:])
    declared = replace(GOOD, columns=columns, partition_by=grain)
    frame = pl.DataFrame({"ts": ["2024-02-29T23:59:59.999999Z"]}).select(pl.col("ts").str.to_datetime(time_zone="UTC"))

    value = frame.select(declared.partition_expr()).to_series()

    assert value.dtype == declared.column(grain).polars
    assert str(value[0]) == expected


#: What the texts of market data are; none of them is anything that a person wrote, or is called.
MARKET_TEXTS = {
    *("symbol", "base", "quote", "currency", "venue", "market", "kind", "source", "source_ref"),
    *("side", "interval", "status", "origin", "observation", "reason", "warnings"),
    *("regime", "regime_of", "previous", "by_regime", "model_id", "method", "strategy", "parameters"),
}


def test_tables_of_market_data_have_no_place_for_a_person():
    market = [contract for contract in CONTRACTS.values() if contract.namespace in {"market", "signals", "portfolio"}]

    assert all(contract.concerns_nobody for contract in market)
    texts = {column.name for contract in market for column in contract.columns if column.dtype == TEXT}
    assert texts == MARKET_TEXTS, "an erasure does not read these tables: is the new column never about a person?"


def test_no_other_table_is_taken_for_market_data():
    others = [
        contract for contract in CONTRACTS.values() if contract.namespace not in {"market", "signals", "portfolio"}
    ]

    assert not any(contract.concerns_nobody for contract in others)


@pytest.mark.parametrize("change", [{"personal": True}, {"role": "subject"}])
def test_a_market_table_with_a_column_about_a_person_is_none_that_concerns_nobody(change):
    contract = CONTRACTS["market.trades"]
    column = Column("owner", TEXT, "Who", nullable=True, **change)

    assert not replace(contract, columns=(*contract.columns, column)).concerns_nobody
