"""What changed between two versions: exact counts, the rows themselves, and nothing personal."""

from __future__ import annotations

import json
from dataclasses import replace
from datetime import UTC, date, datetime, timedelta

import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from typer.testing import CliRunner

from hfthot_platform.core.errors import UnknownColumnError, UnknownTableError, VersionUnavailableError
from hfthot_platform.domain.contracts import Column, TableContract
from hfthot_platform.domain.contracts.model import DATE, FLOAT, INT, TEXT, TIME
from hfthot_platform.interfaces.cli.app import app
from hfthot_platform.services.sql import Limits
from hfthot_platform.services.sql.diff import diff
from hfthot_platform.storage.lakehouse import Lakehouse
from hfthot_platform.storage.lakehouse.storage import Storage

START = datetime(2024, 1, 1, tzinfo=UTC)
PEOPLE = TableContract(
    name="lab.people",
    description="Rows with a personal column.",
    columns=(
        Column("date", DATE, "Day of `ts`"),
        Column("ts", TIME, "Time"),
        Column("id", INT, "Key"),
        Column("mail", TEXT, "Mail address", personal=True, nullable=True),
        Column("score", FLOAT, "Score", nullable=True),
        Column("level", INT, "Level", nullable=True),
    ),
    primary_key=("id", "ts"),
    sort_by=("ts", "id"),
    partition_by="date",
    time_column="ts",
    stats_columns=("date", "ts", "id"),
)


def rows(*given: tuple[int, int, str | None, float | None, int | None]) -> pl.DataFrame:
    """Return rows of day, id, mail, score and level."""
    return pl.DataFrame(
        [
            ((START + timedelta(days=day)).date(), START + timedelta(days=day), key, mail, score, level)
            for day, key, mail, score, level in given
        ],
        schema=PEOPLE.polars_schema,
        orient="row",
    )


def people(path) -> Lakehouse:
    return Lakehouse.open(path, contracts={"lab.people": PEOPLE}, views={})


@pytest.fixture(scope="module")
def lake(tmp_path_factory) -> Lakehouse:
    """Version 1: three days; version 2: one row changed, one gone and one new, all on the second day."""
    lake = people(tmp_path_factory.mktemp("lake"))
    table = lake.table("lab.people")
    table.append(
        rows(
            (0, 1, "a@x.org", 1.0, 1),
            (1, 2, "b@x.org", float("nan"), None),
            (1, 3, "c@x.org", 3.0, 3),
            (1, 4, "d@x.org", 4.0, 4),
            (2, 5, None, 5.0, 5),
        )
    )
    table.replace(
        date(2024, 1, 2),
        rows((1, 2, "b@x.org", float("nan"), None), (1, 3, "new@x.org", 3.5, 3), (1, 6, "e@x.org", 6.0, None)),
    )
    return lake


def test_rows_and_columns_are_counted(lake):
    found = diff(lake, "lab.people", 1, 2)

    assert (found.added, found.removed, found.changed) == (1, 1, 1)
    assert found.columns == {"mail": 1, "score": 1}
    assert found.key == ("id", "ts")


def test_rows_come_by_kind_and_personal_values_never(lake):
    found = diff(lake, "lab.people", 1, 2)

    assert found.rows("added").select("id", "score", "level").rows() == [(6, 6.0, None)]
    assert found.rows("removed")["id"].to_list() == [4]
    assert found.rows("changed").drop("ts").rows(named=True) == [{"id": 3, "score_before": 3.0, "score_after": 3.5}]
    assert not any("mail" in name for kind in ("added", "removed", "changed") for name in found.rows(kind).columns)


def test_backwards_it_is_the_mirror_image(lake):
    forwards, backwards = diff(lake, "lab.people", 1, 2), diff(lake, "lab.people", 2, 1)

    assert (backwards.added, backwards.removed, backwards.changed) == (
        forwards.removed,
        forwards.added,
        forwards.changed,
    )
    assert backwards.rows("added").equals(forwards.rows("removed"))


def test_files_that_both_versions_have_are_not_read(lake):
    found = diff(lake, "lab.people", 1, 2)

    assert (found.files_read, found.files_shared) == (2, 2)


def test_a_missing_file_that_both_versions_have_does_not_matter(tmp_path):
    lake = people(tmp_path)
    table = lake.table("lab.people")
    table.append(rows((0, 1, None, 1.0, 1)))
    table.append(rows((1, 2, None, 1.0, 1)))
    next((tmp_path / "lab/people").glob("date=2024-01-01/*.parquet")).unlink()

    assert diff(lake, "lab.people", 1, 2).added == 1


def test_a_version_equals_itself_and_a_compacted_copy_of_itself(lake, tmp_path):
    same = diff(lake, "lab.people", 2, 2)
    assert (same.added, same.removed, same.changed, same.files_read, same.columns) == (0, 0, 0, 0, {})
    assert same.rows("changed").height == 0

    other = people(tmp_path)
    for key in (1, 2, 3):
        other.table("lab.people").append(rows((0, key, None, float("nan"), key)))
    other.table("lab.people").replace(None, lambda frame: frame.collect().with_columns(level=pl.col("level") + 0))
    moved = diff(other, "lab.people", 1, other.table("lab.people").version())
    assert (moved.added, moved.removed, moved.changed) == (2, 0, 0)


def test_against_the_empty_first_version_everything_is_new(lake):
    found = diff(lake, "lab.people", 0, 1)

    assert (found.added, found.removed, found.changed) == (5, 0, 0)
    assert found.rows("added", 2)["id"].to_list() == [1, 2]
    assert sum(batch.height for batch in found.batches("added")) == 5


def test_another_key_pairs_rows_differently(lake):
    found = diff(lake, "lab.people", 1, 2, key=["level"])

    # Levels 3 and NULL are in both; 4 is gone; the new row without a level is the second one without.
    assert (found.added, found.removed, found.changed) == (1, 1, 1)


def test_a_personal_key_is_not_shown_either(lake):
    found = diff(lake, "lab.people", 1, 2, key=["mail"])

    assert "mail" not in found.rows("added").columns
    assert (found.added, found.removed, found.changed) == (2, 2, 0)


def test_rows_that_share_a_key_are_paired_once(tmp_path):
    lake = people(tmp_path)
    table = lake.table("lab.people")
    table.append(rows((0, 1, None, 1.0, 1)))
    table.append(rows((0, 1, None, 2.0, 2)))
    table.append(rows((0, 1, None, 3.0, 3)))

    assert diff(lake, "lab.people", 0, 3).added == 3
    table.replace(None, rows((0, 1, None, 1.0, 1)))
    found = diff(lake, "lab.people", 3, 4)
    assert (found.added, found.removed, found.changed) == (0, 2, 0)


def test_what_cannot_be_compared_is_told(lake):
    with pytest.raises(VersionUnavailableError, match=r"Readable: version 0 .* to 2 "):
        diff(lake, "lab.people", 1, 9)
    with pytest.raises(UnknownTableError, match=r"lab\.people"):
        diff(lake, "lab.peopl", 1, 2)
    with pytest.raises(UnknownColumnError, match="'score'"):
        diff(lake, "lab.people", 1, 2, key=["scor"])
    with pytest.raises(UnknownTableError, match=r"versions of market\.bars_1m"):
        diff(Lakehouse.open(lake.storage.root), "market.ohlcv", 1, 2)


def test_the_road_of_object_stores_finds_the_same(lake, monkeypatch):
    directly = diff(lake, "lab.people", 1, 2)
    monkeypatch.setattr(Storage, "local", property(lambda _self: None))
    remote = diff(lake, "lab.people", 1, 2)

    assert (remote.added, remote.removed, remote.changed, remote.columns) == (1, 1, 1, directly.columns)
    assert remote.files_shared == 0


_ROW = st.tuples(
    st.integers(0, 2),
    st.integers(0, 5),
    st.sampled_from([None, "a", "b"]),
    st.sampled_from([None, 1.0, float("nan")]),
    st.sampled_from([None, 1, 2]),
)


@pytest.mark.soak
@settings(max_examples=15, deadline=None)
@given(
    st.lists(_ROW, max_size=12, unique_by=lambda row: row[:2]),
    st.lists(_ROW, max_size=12, unique_by=lambda row: row[:2]),
)
def test_the_counts_are_those_of_a_comparison_in_python(tmp_path_factory, old, new):
    lake = people(tmp_path_factory.mktemp("random"))
    table = lake.table("lab.people")
    table.replace(None, rows(*old))
    before = table.version()
    table.replace(None, rows(*new))
    found = diff(lake, "lab.people", before, table.version())

    was, now = ({row[:2]: repr(row) for row in version} for version in (old, new))
    assert found.added == len(now.keys() - was.keys())
    assert found.removed == len(was.keys() - now.keys())
    assert found.changed == sum(was[key] != now[key] for key in was.keys() & now.keys())


def test_a_large_difference_stays_within_its_memory(tmp_path):
    lake = people(tmp_path / "lake")
    table = lake.table("lab.people")
    many = pl.DataFrame({"id": pl.int_range(400_000, eager=True)}).select(
        pl.lit(START.date()).alias("date"),
        pl.lit(START).dt.cast_time_unit("us").alias("ts"),
        "id",
        pl.col("id").cast(pl.String).alias("mail"),
        pl.col("id").cast(pl.Float64).alias("score"),
        pl.lit(1, pl.Int64).alias("level"),
    )
    table.append(many)
    table.replace(None, many.with_columns(score=pl.col("score") * 2))

    found = diff(lake, "lab.people", 1, 2, limits=Limits(memory="60MB", threads=1, spill=tmp_path / "spill"))

    assert (found.changed, found.columns) == (399_999, {"score": 399_999})
    assert list((tmp_path / "spill").iterdir()) == []


# -- the command ------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def closes(tmp_path_factory) -> str:
    root = tmp_path_factory.mktemp("cli")
    table = Lakehouse.open(root).table("market.closes")
    for close in (100.0, 101.5):
        table.replace(
            None,
            pl.DataFrame(
                {
                    "venue": ["test"] * 2,
                    "symbol": ["AAA", "BBB" if close == 100.0 else "CCC"],
                    "date": [START.date()] * 2,
                    "close": [close] * 2,
                    "adjusted": [False] * 2,
                    "source": ["synthetic"] * 2,
                    "source_ref": ["test"] * 2,
                }
            ),
        )
    return str(root)


def test_the_command_prints_counts_and_rows(closes):
    result = CliRunner().invoke(app, ["--lake", closes, "diff", "market.closes", "1", "2"])

    assert result.exit_code == 0, result.output
    assert "1 added, 1 removed, 1 changed" in result.output
    changed = next(line for line in result.output.splitlines() if "AAA" in line)
    assert "close: 100 → 101.5" in changed
    assert "CCC" in result.output
    assert "BBB" in result.output


def test_the_command_prints_json(closes):
    result = CliRunner().invoke(app, ["--lake", closes, "diff", "market.closes", "1", "2", "--json", "--rows", "1"])

    found = json.loads(result.stdout)
    assert {name: found[name] for name in ("added", "removed", "changed")} == {"added": 1, "removed": 1, "changed": 1}
    assert found["columns"] == {"close": 1}
    assert found["rows"]["added"][0]["symbol"] == "CCC"


def test_the_command_says_when_nothing_is_different(closes):
    result = CliRunner().invoke(app, ["--lake", closes, "diff", "market.closes", "2", "2"])

    assert result.exit_code == 0
    assert "no difference" in result.output


def test_the_command_names_the_range_of_versions(closes):
    result = CliRunner().invoke(app, ["--lake", closes, "diff", "market.closes", "1", "9"])

    assert result.exit_code == 1
    assert "Readable: version 0" in result.output + result.stderr


def test_contracts_of_another_version_are_compared_by_the_columns_of_today(lake):
    wider = replace(PEOPLE, columns=(*PEOPLE.columns, Column("more", FLOAT, "New", nullable=True)), schema_version=2)
    newer = Lakehouse.open(lake.storage.root, contracts={"lab.people": wider}, views={})

    assert diff(newer, "lab.people", 1, 2).columns == {"mail": 1, "score": 1}
