"""The shape of the graph: what is there, what depends on what, and under which policies."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from datetime import UTC, datetime
from pathlib import Path

import dagster as dg
import pytest

from assets.common import DAILY
from hfthot_platform.definitions import build_definitions
from hfthot_platform.domain.contracts import CONTRACTS

SNAPSHOT = Path(__file__).with_name("asset_graph.json")
REPOSITORY = Path(__file__).resolve().parents[2]


@pytest.fixture
def definitions(settings):
    return build_definitions(settings)


def described(definitions: dg.Definitions) -> dict[str, object]:
    graph = definitions.resolve_asset_graph()
    assets = {}
    for key in sorted(graph.get_all_asset_keys()):
        node = graph.get(key)
        assets[key.to_user_string()] = {
            "deps": sorted(parent.to_user_string() for parent in node.parent_keys),
            "partitions": type(node.partitions_def).__name__ if node.partitions_def else None,
            "automation": node.automation_condition.get_label() if node.automation_condition else None,
            "pools": sorted(node.pools or ()),
            "checks": sorted(check.name for check in node.check_keys),
        }
    jobs = sorted(job.name for job in definitions.resolve_all_job_defs() if not job.name.startswith("__"))
    repository = definitions.get_repository_def()
    return {
        "assets": assets,
        "jobs": jobs,
        "schedules": {schedule.name: schedule.cron_schedule for schedule in repository.schedule_defs},
        "sensors": sorted(sensor.name for sensor in repository.sensor_defs),
    }


def test_the_graph_is_as_recorded(definitions):
    """A change of the graph is reviewed: set HFTHOT_UPDATE_SNAPSHOT=1 to record it."""
    found = described(definitions)
    if os.environ.get("HFTHOT_UPDATE_SNAPSHOT"):
        SNAPSHOT.write_text(json.dumps(found, indent=2, sort_keys=True) + "\n")

    assert found == json.loads(SNAPSHOT.read_text())


def test_every_market_table_is_an_asset_with_its_schema(definitions):
    graph = definitions.resolve_asset_graph()
    for contract in CONTRACTS.values():
        if contract.namespace != "market":
            continue
        metadata = graph.get(dg.AssetKey(contract.name.split("."))).metadata
        schema = metadata["dagster/column_schema"]
        assert [column.name for column in getattr(schema, "value", schema).columns] == list(contract.column_names)
        assert metadata["dagster/table_name"] == contract.name


def test_column_lineage_names_existing_columns(definitions, platform):
    graph = definitions.resolve_asset_graph()
    columns = {name: set(contract.column_names) for name, contract in platform.lake.contracts.items()}
    columns |= {name: {column.name for column in view.declared()} for name, view in platform.lake.views.items()}
    seen = 0
    for key in graph.get_all_asset_keys():
        lineage = graph.get(key).metadata.get("dagster/column_lineage")
        if lineage is None:
            continue
        for column, sources in getattr(lineage, "value", lineage).deps_by_column.items():
            assert column in columns[".".join(key.path)]
            for source in sources:
                assert source.column_name in columns[".".join(source.asset_key.path)]
                seen += 1
    assert seen > 20


def test_column_lineage_is_shown_where_open_source_dagster_shows_metadata(definitions):
    graph = definitions.resolve_asset_graph()

    shown = graph.get(dg.AssetKey(["market", "bars_1m"])).metadata["column_lineage"]
    assert "| `open` | `market.trades.price` |" in getattr(shown, "value", shown)
    for key in graph.get_all_asset_keys():
        metadata = graph.get(key).metadata
        assert ("dagster/column_lineage" in metadata) == ("column_lineage" in metadata)


def test_every_job_schedule_and_sensor_says_what_it_does(definitions):
    repository = definitions.get_repository_def()
    named = {
        "jobs": [job for job in definitions.resolve_all_job_defs() if not job.name.startswith("__")],
        "schedules": repository.schedule_defs,
        "sensors": repository.sensor_defs,
    }

    silent = [
        f"{kind}: {definition.name}"
        for kind, definitions_of_kind in named.items()
        for definition in definitions_of_kind
        if not definition.description
    ]
    assert silent == []
    assert all(len(definitions_of_kind) > 3 for definitions_of_kind in named.values())


def test_definitions_load_without_the_heavy_libraries():
    """What takes seconds to import is imported where it is used."""
    heavy = ("great_expectations", "hmmlearn", "cvxpy", "matplotlib", "ccxt", "sklearn", "scipy", "numba", "pandas")
    code = f"import sys, hfthot_platform.definitions; print([name for name in {heavy!r} if name in sys.modules])"
    found = subprocess.run([sys.executable, "-c", code], cwd=REPOSITORY, capture_output=True, text=True, check=True)
    assert found.stdout.strip() == "[]"


def test_the_project_file_has_no_section_that_makes_dagster_ignore_the_workspace():
    text = (REPOSITORY / "pyproject.toml").read_text()
    assert "[tool.dagster]" not in text
    assert "[tool.dg]" not in text


@pytest.mark.parametrize("now", [None, datetime(1969, 12, 30, tzinfo=UTC), datetime(2024, 2, 29, 12, tzinfo=UTC)])
def test_the_days_are_those_that_dagster_would_find(now):
    found = dg.DailyPartitionsDefinition(start_date="1970-01-01", timezone="UTC", end_offset=1)
    assert found == DAILY
    assert DAILY.get_partition_keys(now) == found.get_partition_keys(now)
