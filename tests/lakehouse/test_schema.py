"""A stored table and its contract agree, evolve by adding columns, or say what needs a migration."""

from __future__ import annotations

import json
from dataclasses import replace

import polars as pl
import pytest
from deltalake import DeltaTable, write_deltalake

from hfthot_platform.core.errors import SchemaMismatchError, UnknownTableError, UnsupportedTableError
from hfthot_platform.domain.contracts import CONTRACTS
from hfthot_platform.domain.contracts.model import FLOAT, INT, TEXT, Column
from hfthot_platform.storage.lakehouse import Table

TRADES = CONTRACTS["market.trades"]
FEE = Column("fee", FLOAT, "Fee paid", unit="quote", nullable=True)


def changed(lake, **changes):
    return Table(lake, replace(TRADES, **changes))


def columns(name, **changes):
    return tuple(replace(column, **changes) if column.name == name else column for column in TRADES.columns)


@pytest.fixture
def written(table, trades):
    table.append(trades())
    return table


def test_a_new_nullable_column_is_added_and_reads_as_null_before(lake, written, trades):
    newer = changed(lake, columns=(*TRADES.columns, FEE), schema_version=2)

    assert newer.scan().collect()["fee"].null_count() == 10
    newer.append(trades(5, 10, fee=pl.lit(0.5)))

    rows = newer.scan().sort("trade_id").collect()
    assert rows["fee"].to_list() == [None] * 10 + [0.5] * 5
    assert rows["schema_version"].to_list() == [1] * 10 + [2] * 5
    assert newer.scan(version=1).collect()["fee"].null_count() == 10


def test_a_column_that_may_be_null_by_a_newer_contract_takes_nulls_from_then_on(lake, written, trades):
    newer = changed(lake, columns=columns("amount", nullable=True), schema_version=2, rules=())

    newer.append(trades(5, 10, amount=pl.lit(None, pl.Float64)))

    assert newer.scan().collect()["amount"].null_count() == 5
    assert newer.scan(version=1).collect()["amount"].null_count() == 0


def test_evolution_is_recorded_once(lake, written, trades):
    newer = changed(lake, columns=(*TRADES.columns, FEE), schema_version=2)
    newer.append(trades(1, 10))
    version = newer.version()

    changed(lake, columns=(*TRADES.columns, FEE), schema_version=2).append(trades(1, 11))

    assert newer.version() == version + 1
    assert DeltaTable(newer.uri).metadata().configuration["hfthot.schema_version"] == "2"


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"columns": (*TRADES.columns, replace(FEE, nullable=False))}, "column 'fee' is new and not nullable"),
        ({"columns": tuple(c for c in TRADES.columns if c.name != "side"), "rules": ()}, "column 'side' is stored but"),
        (
            {"columns": columns("price", dtype=INT), "rules": ()},
            "column 'price' is stored as .*double.*, but the contract",
        ),
        (
            {"columns": columns("side", nullable=False)},
            "column 'side' is stored as nullable, but the contract says not",
        ),
        ({"columns": columns("price", nullable=True)}, "column 'price' is stored as not nullable"),
        ({"partition_by": None}, r"the table is partitioned by \['date'\], but the contract says \[\]"),
        ({"schema_version": 0}, "the table has schema version 1, but this code knows 0"),
    ],
)
def test_any_other_difference_needs_a_migration_and_says_so(lake, written, trades, changes, says):
    other = changed(lake, **changes)

    with pytest.raises(SchemaMismatchError, match=says) as caught:
        other.append(other.contract.empty())

    assert "Only new nullable columns are added automatically" in str(caught.value)
    assert written.version() == 1


def test_reading_through_a_contract_of_another_type_is_refused(lake, written):
    with pytest.raises(SchemaMismatchError, match="'amount' is stored as"):
        changed(lake, columns=columns("amount", dtype=TEXT), rules=()).scan()


def test_a_foreign_table_in_our_place_is_refused(lake, trades):
    write_deltalake(f"{lake.storage.root}/market/trades", pl.DataFrame({"a": [1]}))
    table = lake.table("market.trades")

    with pytest.raises(SchemaMismatchError, match="is partitioned by"):
        table.append(trades())


def test_an_unknown_table_suggests_the_nearest_name(lake):
    with pytest.raises(UnknownTableError, match=r"Did you mean 'market\.bars_1m'\?"):
        lake.table("market.bars1m")
    assert "market.trades" in lake
    assert "market.nothing" not in lake
    assert [table.contract.name for table in lake.tables()] == list(CONTRACTS)


def _upgrade(table, protocol, configuration):
    """Add a commit that declares features, as another engine would."""
    metadata = next(
        json.loads(line)["metaData"]
        for line in (table.folder / "_delta_log" / f"{0:020d}.json").read_text().splitlines()
        if "metaData" in line
    )
    metadata["configuration"] |= configuration
    schema = json.loads(metadata["schemaString"])
    for number, field in enumerate(schema["fields"], start=1):
        field["metadata"] = {"delta.columnMapping.id": number, "delta.columnMapping.physicalName": field["name"]}
    metadata["schemaString"] = json.dumps(schema)
    actions = [{"commitInfo": {"timestamp": 0, "operation": "UPGRADE"}}, {"protocol": protocol}, {"metaData": metadata}]
    path = table.folder / "_delta_log" / f"{table.version() + 1:020d}.json"
    path.write_text("\n".join(json.dumps(action) for action in actions))


@pytest.mark.parametrize(
    ("protocol", "configuration", "says"),
    [
        (
            {
                "minReaderVersion": 3,
                "minWriterVersion": 7,
                "readerFeatures": ["deletionVectors"],
                "writerFeatures": ["deletionVectors"],
            },
            {"delta.enableDeletionVectors": "true"},
            "deletionVectors",
        ),
        (
            {
                "minReaderVersion": 3,
                "minWriterVersion": 7,
                "readerFeatures": ["columnMapping"],
                "writerFeatures": ["columnMapping"],
            },
            {"delta.columnMapping.mode": "name"},
            "columnMapping",
        ),
        ({"minReaderVersion": 2, "minWriterVersion": 5}, {"delta.columnMapping.mode": "name"}, "column mapping"),
    ],
)
def test_a_table_with_features_that_some_readers_misread_is_refused(written, trades, protocol, configuration, says):
    _upgrade(written, protocol, configuration)

    for use in (written.scan, lambda: written.append(trades(1, 50)), lambda: written.merge(trades(1, 50))):
        with pytest.raises(UnsupportedTableError, match=says):
            use()
