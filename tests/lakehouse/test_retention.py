"""Rows leave by when they were written; what they are about, however long ago it was, never makes them leave."""

from __future__ import annotations

from datetime import UTC, date, datetime, timedelta

import polars as pl
import pytest

from hfthot_platform.core.errors import ContractError, LakeMissingError
from hfthot_platform.domain.contracts import CONTRACTS, Column, TableContract
from hfthot_platform.domain.contracts.rules import Between, OneOf
from hfthot_platform.storage.lakehouse import Lakehouse, maintain, overdue_share
from hfthot_platform.storage.lakehouse.maintenance import MOST_EXPIRED

LONG_AGO = datetime(1995, 3, 1, tzinfo=UTC)
KEPT_FOR_A_WHILE = {name: contract for name, contract in CONTRACTS.items() if contract.retention_days is not None}


def rows_about(declared: TableContract, about: datetime, written: datetime, count: int = 3) -> pl.DataFrame:
    """Return rows that meet a contract, about one time and written at another."""
    values: dict[str, list[object]] = {}
    for column in declared.columns:
        values[column.name] = [_value(declared, column, about, written, number) for number in range(count)]
    return pl.DataFrame(values, schema={name: declared.polars_schema[name] for name in values})


def _value(declared: TableContract, column: Column, about: datetime, written: datetime, number: int) -> object:
    time = written if column.name in {declared.written_column, "quarantined_at"} else about
    for rule in declared.rules:
        if rule.column == column.name and isinstance(rule, OneOf):
            return rule.values[0]
        if rule.column == column.name and isinstance(rule, Between):
            return min(max(rule.low, 0), rule.high)
    kind = declared.polars_schema[column.name]
    if kind == pl.Date:
        grain = column.name if column.name in {"month", "year"} else "day"
        return time.date().replace(day=1) if grain == "month" else time.date()
    if isinstance(kind, pl.Datetime):
        return time + timedelta(microseconds=number)
    if kind.is_integer():
        return time.year if column.name == "year" else number
    if kind.is_float():
        return float(number)
    return False if kind == pl.Boolean else f"{number:032x}"


def looked_at(lake: Lakehouse) -> Lakehouse:
    """Return a lake whose clock somebody looked at a moment ago: whether it is right is not the matter here."""
    lake.clock_checked = lake.clock()
    return lake


def written(lake: Lakehouse, name: str, rows: pl.DataFrame) -> None:
    """Commit rows in two pieces, past the audit, which is not the matter here."""
    table = lake.table(name)
    table.create()
    for part in (rows.head(1), rows.slice(1)):
        part.write_delta(table.uri, mode="append")


@pytest.mark.soak
@pytest.mark.parametrize("name", sorted(CONTRACTS))
def test_rows_about_long_ago_that_are_written_now_survive_maintenance(tmp_path, name):
    lake = Lakehouse.open(tmp_path / "lake")
    written(lake, name, rows_about(lake.table(name).contract, LONG_AGO, datetime.now(UTC)))

    report = maintain(lake, name)

    assert (report.rows_expired, report.rows_withheld) == (0, 0)
    assert lake.table(name).scan().collect().height == 3


@pytest.mark.soak
@pytest.mark.parametrize("name", sorted(KEPT_FOR_A_WHILE))
def test_rows_leave_once_they_were_written_longer_ago_than_the_retention(tmp_path, name):
    now = datetime.now(UTC)
    lake = Lakehouse.open(tmp_path / "lake", clock=lambda: now)
    declared = lake.table(name).contract
    written(lake, name, rows_about(declared, LONG_AGO, now))

    now += timedelta(days=declared.retention_days - 1)
    assert maintain(looked_at(lake), name, most_expired=1.0).rows_expired == 0
    now += timedelta(days=3)
    assert maintain(looked_at(lake), name, most_expired=1.0).rows_expired == 3
    assert lake.table(name).scan().collect().height == 0


class TestALargeShare:
    """A wrong clock or contract must not empty a table in passing."""

    @pytest.fixture
    def lake(self, tmp_path) -> Lakehouse:
        lake = Lakehouse.open(tmp_path / "lake", clock=lambda: datetime.now(UTC) + timedelta(days=500))
        written(lake, "ops.incidents", rows_about(lake.table("ops.incidents").contract, LONG_AGO, LONG_AGO))
        return looked_at(lake)

    def test_stays_and_is_counted(self, lake):
        report = maintain(lake, "ops.incidents")

        assert (report.rows_expired, report.rows_withheld) == (0, 3)
        assert lake.table("ops.incidents").scan().collect().height == 3
        assert report.files_compacted == 2
        assert overdue_share(lake, "ops.incidents") == (3, 1.0)

    def test_leaves_when_it_is_said_so(self, lake):
        report = maintain(lake, "ops.incidents", most_expired=1.0)

        assert (report.rows_expired, report.rows_withheld) == (3, 0)
        assert lake.table("ops.incidents").versions()[-1].operation != "OPTIMIZE"

    def test_a_small_share_leaves_without_a_word(self, tmp_path):
        now = datetime(2024, 1, 1, tzinfo=UTC)
        lake = Lakehouse.open(tmp_path / "small", clock=lambda: now)
        declared = lake.table("quarantine.trades").contract
        old, young = (rows_about(declared, LONG_AGO, now - timedelta(days=days), 10) for days in (400, 3))
        written(lake, "quarantine.trades", pl.concat([old.head(2), young]))

        report = maintain(lake, "quarantine.trades")

        assert MOST_EXPIRED > 2 / 12
        assert (report.rows_expired, report.rows_withheld) == (2, 0)


def test_a_dry_run_says_what_would_happen_and_changes_nothing(tmp_path):
    lake = Lakehouse.open(tmp_path / "lake", clock=lambda: datetime.now(UTC) + timedelta(days=500))
    written(lake, "ops.incidents", rows_about(lake.table("ops.incidents").contract, LONG_AGO, LONG_AGO))
    table = lake.table("ops.incidents")
    leftover = table.folder / "part-dead.parquet#1"
    leftover.write_bytes(b"half")
    before = table.version(), sorted(table.folder.rglob("*"))

    careful = maintain(lake, "ops.incidents", dry_run=True)
    daring = maintain(lake, "ops.incidents", dry_run=True, most_expired=1.0)

    assert (careful.rows_expired, careful.rows_withheld) == (0, 3)
    assert (daring.rows_expired, daring.rows_withheld) == (3, 0)
    assert (careful.files_compacted, careful.leftovers_removed) == (2, 1)
    assert (table.version(), sorted(table.folder.rglob("*"))) == before


def test_however_many_partitions_are_compacted_it_is_one_commit(tmp_path):
    lake = Lakehouse.open(tmp_path / "lake")
    table = lake.table("market.closes")
    for half in range(2):
        for year in range(2000, 2012):
            table.append(
                pl.DataFrame(
                    {"date": [date(year, 1 + half, 3)] * 3, "venue": "us_equity", "symbol": ["C", "A", "B"]}
                ).with_columns(close=1.0, adjusted=False, source=pl.lit("vendor_history"), source_ref=pl.lit("x"))
            )
    rows = table.scan().sort("symbol", "date").collect()
    version = table.version()

    report = maintain(lake, "market.closes")

    assert report.files_compacted == 24
    assert table.version() == version + 1
    assert table.versions()[-1].operation == "OPTIMIZE"
    assert table.bytes_and_files()[1] == 12
    assert table.scan().sort("symbol", "date").collect().equals(rows)
    for path in table.snapshot().paths:
        stored = pl.read_parquet(path)
        assert stored.equals(stored.sort("symbol", "venue", "date"))


def test_a_partition_too_large_to_sort_is_written_as_it_stands_in_the_same_commit(tmp_path, monkeypatch):
    monkeypatch.setattr("hfthot_platform.storage.lakehouse.maintenance.SORTABLE_BYTES", 1)
    lake = Lakehouse.open(tmp_path / "lake")
    written(lake, "ops.incidents", rows_about(lake.table("ops.incidents").contract, LONG_AGO, LONG_AGO, 50))
    version = lake.table("ops.incidents").version()

    assert maintain(lake, "ops.incidents").files_compacted == 2
    assert lake.table("ops.incidents").version() == version + 1
    assert lake.table("ops.incidents").scan().collect()["incident_id"].n_unique() == 50


def test_maintenance_of_a_lake_that_is_not_there_is_an_error(tmp_path):
    with pytest.raises(LakeMissingError, match=str(tmp_path / "nowhere")):
        maintain(Lakehouse.open(tmp_path / "nowhere"), "market.trades")
    assert not any(tmp_path.iterdir())


@pytest.mark.parametrize("written_column", [None, "note", "nowhere"])
def test_a_contract_with_retention_says_how_old_rows_are_found(written_column):
    from hfthot_platform.domain.contracts.model import DATE, TEXT

    with pytest.raises(ContractError, match="written_column"):
        TableContract(
            name="research.notes",
            description="Notes.",
            columns=(Column("note", TEXT, "Text"), Column("day", DATE, "Day that it is about")),
            primary_key=("note",),
            sort_by=("note",),
            time_column="day",
            retention_days=30,
            written_column=written_column,
        )
