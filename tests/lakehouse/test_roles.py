"""Storage asks a column for its role, so a table of any names gets what the platform's own tables get."""

from __future__ import annotations

import polars as pl
import pytest

from hfthot_platform.core.errors import BadRequestError
from hfthot_platform.domain.contracts.model import FLAG, FLOAT, INT, TEXT, Column, TableContract
from hfthot_platform.storage.lakehouse import Lakehouse
from hfthot_platform.storage.lakehouse.publication import WithdrawnRows

LEVELS = TableContract(
    name="market.levels",
    description="A table of other names.",
    columns=(
        Column("level", INT, "Level"),
        Column("size", FLOAT, "Size"),
        Column("settled", FLAG, "Whether it may not change any more", role="finality"),
        Column("tape", TEXT, "Recording that it is from", provenance=True, role="provenance"),
        #: Of a name that elsewhere has a role, and of none here.
        Column("final", FLAG, "Whether it was the last level"),
    ),
    primary_key=("level",),
    sort_by=("level",),
)


@pytest.fixture
def levels(tmp_path):
    return Lakehouse.open(tmp_path / "lake", contracts={LEVELS.name: LEVELS}, new=True).table(LEVELS.name)


def rows(*sizes, settled=True, tape="tape:1", final=False):
    return pl.DataFrame({"level": range(len(sizes)), "size": [float(size) for size in sizes]}).with_columns(
        settled=pl.lit(settled), tape=pl.lit(tape), final=pl.lit(final)
    )


def sizes(table):
    return table.scan().sort("level").collect()["size"].to_list()


def test_a_row_that_is_not_final_by_its_role_fills_a_gap_and_takes_nobodys_place(levels):
    levels.merge(rows(1, 2))

    levels.merge(rows(9, 9, 9, settled=False, tape="tape:2", final=True))

    assert sizes(levels) == [1.0, 2.0, 9.0]


def test_a_column_that_is_only_called_final_means_nothing(levels):
    levels.merge(rows(1, 2, final=True))

    levels.merge(rows(5, 6, final=False, tape="tape:2"))

    assert sizes(levels) == [5.0, 6.0]


def test_rows_of_a_source_are_taken_out_by_the_column_of_provenance(levels):
    levels.merge(rows(1, 2))
    levels.merge(pl.concat([rows(1, 2), rows(0, 0, 3, 4, tape="tape:2")[2:]]))

    commit = levels.publish(lambda: iter(()), in_place_of=WithdrawnRows("tape:2"))

    assert commit.rows_withdrawn == 2
    assert sizes(levels) == [1.0, 2.0]


def test_of_a_table_without_provenance_no_source_can_be_taken_out(tmp_path):
    plain = TableContract(
        name="market.plain",
        description="Of unknown origin.",
        columns=(Column("key", INT, "Key"),),
        primary_key=("key",),
        sort_by=("key",),
    )
    table = Lakehouse.open(tmp_path / "lake", contracts={plain.name: plain}, new=True).table(plain.name)
    table.append(pl.DataFrame({"key": [1]}))

    with pytest.raises(BadRequestError, match="does not record the source of its rows"):
        table.publish(lambda: iter(()), in_place_of=WithdrawnRows("any"))


@pytest.mark.parametrize("way", [{"forget": ["a"]}, {"redact": ["a"]}])
def test_of_a_table_without_subjects_nobody_can_be_forgotten(levels, way):
    with pytest.raises(BadRequestError, match="cannot be forgotten or redacted by subject"):
        levels.apply(None, app=("log", 1), **way)
