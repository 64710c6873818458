"""What there is to ask: tables, columns and versions as relations, as far as the asker may see."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import polars as pl
import pytest

from hfthot_platform.domain.contracts import CONTRACTS
from hfthot_platform.domain.contracts.views import VIEWS
from hfthot_platform.services.sql import query
from hfthot_platform.services.sql.discovery import relations
from hfthot_platform.storage.lakehouse import Lakehouse, Stamp

START = datetime(2024, 3, 1, tzinfo=UTC)


@pytest.fixture(scope="module")
def lake(tmp_path_factory) -> Lakehouse:
    lake = Lakehouse.open(tmp_path_factory.mktemp("lake"))
    for day in range(2):
        lake.table("market.closes").append(
            pl.DataFrame(
                {
                    "venue": ["test"],
                    "symbol": ["AAA"],
                    "date": [(START + timedelta(days=day)).date()],
                    "close": [1.0],
                    "adjusted": [False],
                    "source": ["synthetic"],
                    "source_ref": ["test"],
                }
            ),
            stamp=Stamp(run_id=f"run-{day}"),
        )
    return lake


def test_show_tables_lists_every_table_and_view_of_the_lake(lake):
    frame = query(lake, "SHOW TABLES").frame

    assert frame["table_name"].to_list() == sorted([*lake.contracts, *lake.views])
    assert frame.filter(pl.col("table_name") == "market.ohlcv")["kind"].item() == "view"
    assert query(lake, "SHOW TABLES FROM quarantine").frame["table_name"].str.starts_with("quarantine.").all()


def test_columns_are_described_as_the_contract_has_them(lake):
    frame = query(lake, "SELECT * FROM hfthot.columns WHERE table_name = 'market.closes'").frame

    contract = CONTRACTS["market.closes"]
    assert frame["column_name"].to_list() == list(contract.column_names)
    assert frame.filter(pl.col("column_name") == "close").select("type", "unit", "nullable", "personal").row(0) == (
        "DOUBLE",
        contract.column("close").unit or None,
        False,
        False,
    )


def test_every_contract_and_view_has_its_columns_and_personal_ones_are_marked(lake):
    frame = query(lake, "FROM hfthot.columns").frame

    declared = sum(len(contract.columns) for contract in lake.contracts.values())
    assert frame.height == declared + sum(len(view.declared()) for view in lake.views.values())
    personal = {
        (contract.name, column.name)
        for contract in lake.contracts.values()
        for column in contract.columns
        if column.personal
    }
    assert set(frame.filter("personal").select("table_name", "column_name").rows()) == personal


def test_versions_tell_the_history_of_what_was_written(lake):
    frame = query(lake, "SELECT * FROM hfthot.versions WHERE table_name = 'market.closes' ORDER BY version").frame

    history = lake.table("market.closes").versions()
    assert frame["version"].to_list() == [version.version for version in history]
    assert frame["ts"].to_list() == [version.timestamp for version in history]
    assert frame["run_id"].to_list()[1:] == ["run-0", "run-1"]
    assert frame["rows"].to_list()[1:] == [1, 1]
    assert frame["readable"].all()


def test_a_view_of_a_table_has_the_versions_of_its_table(tmp_path):
    lake = Lakehouse.open(tmp_path)
    lake.table("market.bars_1m").replace(None, lake.table("market.bars_1m").contract.empty())
    frame = query(lake, "SELECT table_name, version FROM hfthot.versions ORDER BY ALL").frame

    ohlcv = frame.filter(pl.col("table_name") == "market.ohlcv")["version"].to_list()
    assert ohlcv == frame.filter(pl.col("table_name") == "market.bars_1m")["version"].to_list()


def test_discovery_can_be_joined_with_the_tables_themselves(lake):
    result = query(
        lake,
        """SELECT max(v.version) AS newest, (SELECT count(*) FROM market.closes) AS n
           FROM hfthot.versions v JOIN hfthot.tables t USING (table_name) WHERE t.table_name = 'market.closes'""",
    )

    assert result.frame.row(0) == (lake.table("market.closes").version(), 2)
    assert list(result.tables) == ["market.closes"]


def test_what_is_not_permitted_leaves_no_trace(lake):
    seen = relations(lake, permitted={"market.closes": ("symbol", "close"), "market.ohlcv": ("close",)})

    assert seen["hfthot.tables"]["table_name"].to_list() == ["market.closes", "market.ohlcv"]
    assert seen["hfthot.columns"].select("table_name", "column_name").rows() == [
        ("market.closes", "symbol"),
        ("market.closes", "close"),
        ("market.ohlcv", "close"),
    ]
    assert set(seen["hfthot.versions"]["table_name"]) == {"market.closes"}


def test_logs_are_read_only_when_versions_are_asked_for(lake, monkeypatch):
    def never(_table):
        raise AssertionError("a log was read")

    monkeypatch.setattr("hfthot_platform.storage.lakehouse.table.Table.versions", never)

    assert query(lake, "SELECT count(*) FROM hfthot.columns, hfthot.tables").frame.item() > 0


def test_a_table_whose_log_is_damaged_says_so_and_hides_no_other(tmp_path):
    lake = Lakehouse.open(tmp_path)
    for name in ("market.closes", "market.trades"):
        lake.table(name).replace(None, lake.table(name).contract.empty())
    for entry in (tmp_path / "market/trades/_delta_log").glob("*.json"):
        entry.write_text("{")

    frame = query(lake, "SELECT table_name, operation, readable, version FROM hfthot.versions").frame

    assert ("market.trades", "UNREADABLE", False, None) in frame.rows()
    assert "market.closes" in frame["table_name"].to_list()


def test_views_of_the_platform_are_described():
    assert all(view.description for view in VIEWS.values())


@pytest.mark.parametrize("sql", ["DESCRIBE market.closes", "DESCRIBE SELECT * FROM market.closes VERSION AS OF 1"])
def test_describe_tells_columns_and_types(lake, sql):
    frame = query(lake, sql).frame

    assert frame["column_name"].to_list() == list(CONTRACTS["market.closes"].column_names)
    assert frame.filter(pl.col("column_name") == "date")["column_type"].item() == "DATE"
