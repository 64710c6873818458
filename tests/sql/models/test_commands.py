"""`hfthot sql compile | run | test | docs`, the pages, and what a broken file does to the other commands."""

from __future__ import annotations

import json
import xml.etree.ElementTree as ET
from datetime import UTC, datetime

import pytest
from typer.testing import CliRunner

from hfthot_platform.core.settings import load_settings
from hfthot_platform.interfaces.cli import app
from hfthot_platform.interfaces.doctor import diagnose
from hfthot_platform.services.sql.models import load_models
from hfthot_platform.services.sql.models.docs import lineage_levels, write_docs
from tests.sql.models.conftest import BARS, RETURNS
from tests.sql.models.test_runner import TOTALS


@pytest.fixture
def hfthot(opened, monkeypatch, tmp_path):
    """Run the command line on a lake with three days of bars and three models."""
    lake, models = opened(staging__minutes=BARS, marts__returns=RETURNS, marts__totals=TOTALS)
    monkeypatch.setenv("HFTHOT_LAKE_ROOT", str(lake.storage.local))
    monkeypatch.setenv("HFTHOT_SQL_MODELS", str(models.folder))
    monkeypatch.setenv("HFTHOT_SCRATCH", str(tmp_path / "scratch"))

    def run(*arguments):
        return CliRunner().invoke(app, list(arguments))

    return run


SPAN = ("--from", "2024-03-01", "--to", "2024-03-04")


def test_what_is_no_command_is_a_statement(hfthot):
    assert hfthot("sql", "SELECT 42 AS answer").stdout.split()[:2] == ["answer", "42"]
    assert json.loads(hfthot("sql", "--json", "SELECT 42 AS answer").stdout) == [{"answer": 42}]
    assert json.loads(hfthot("sql", "query", "SELECT 42 AS answer", "--json").stdout) == [{"answer": 42}]


def test_compile_shows_the_sql_what_it_reads_and_its_columns(hfthot):
    (found,) = json.loads(hfthot("sql", "compile", "marts.returns", "--json").stdout)
    assert found["depends_on"] == ["staging.minutes"]
    assert found["parameters"] == ["lookback_days", "partition_end", "partition_start"]
    assert found["columns"][3]["made_of"] == ["staging.minutes.close", "staging.minutes.ts"]
    assert "$partition_start" in found["sql"]

    shown = hfthot("sql", "compile", "returns").stdout
    assert "Reads: staging.minutes" in shown
    assert "QUALIFY date >= $partition_start" in shown


def test_compile_lists_every_mistake(hfthot, write):
    write(staging__broken=BARS.replace("volume\n", "volum\n"))
    result = hfthot("sql", "compile")
    assert result.exit_code == 2
    assert "dbt_like_sql/staging/broken.sql:10: unknown column 'volum'. Did you mean 'volume'?" in result.stderr


def test_run_publishes_and_reports_each_model(hfthot):
    runs = json.loads(hfthot("sql", "run", "+returns", *SPAN, "--json").stdout)
    assert [(run["model"], run["status"], run["rows"]) for run in runs] == [
        ("staging.minutes", "view", None),
        ("marts.returns", "published", 6),
    ]
    assert json.loads(hfthot("sql", "SELECT count(*) AS n FROM marts.returns", "--json").stdout) == [{"n": 6}]
    assert "unchanged" in hfthot("sql", "run", "returns", "--full").stdout


def test_run_fails_with_the_reason(hfthot, write):
    write(marts__totals=TOTALS.replace("min: 2}", "min: 3}"))
    result = hfthot("sql", "run", "totals")
    assert result.exit_code == 1
    assert "there are at least 3 rows: there are 2 rows." in result.stdout


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (("returns",), "the model is computed by days"),
        (("returns", "--to", "2024-03-04"), "--to needs --from"),
        (("returns", "--from", "2024-03-04", "--to", "2024-03-04"), "--to 2024-03-04 is not after"),
        (("retruns", "--full"), "Did you mean 'returns'?"),
    ],
)
def test_run_refuses_with_the_reason(hfthot, arguments, says):
    result = hfthot("sql", "run", *arguments)
    assert result.exit_code == 2
    assert says in result.stderr


def test_test_judges_what_is_published(hfthot):
    assert hfthot("sql", "test", "minutes").exit_code == 0
    # Nobody made the table yet, and it promises two rows.
    result = hfthot("sql", "test", "--json")
    assert result.exit_code == 1
    failed = [outcome for outcome in json.loads(result.stdout) if not outcome["passed"]]
    assert [(outcome["model"], outcome["test"]) for outcome in failed] == [("marts.totals", "row_count")]


def test_docs_writes_a_page_per_model(hfthot, tmp_path):
    assert hfthot("sql", "docs", "--output", str(tmp_path / "site")).exit_code == 0
    names = {page.name for page in (tmp_path / "site").iterdir()}
    models = {"staging.minutes", "marts.returns", "marts.totals"}
    assert names == {f"{name}.{ending}" for name in (*models, "index") for ending in ("html", "md")}


def test_pages_hold_lineage_columns_tests_and_sql_and_link_each_other(write, tmp_path):
    models = load_models(write(staging__minutes=BARS, marts__returns=RETURNS))
    write_docs(models, tmp_path / "site")
    page = (tmp_path / "site" / "marts.returns.html").read_text()

    ET.fromstring(page[page.index("<svg") : page.index("</svg>") + 6])
    assert '<a href="staging.minutes.html">' in page
    assert '<a href="staging.minutes.html#close">staging.minutes.close</a>' in page
    assert "bars is at least 1" in page
    assert "ts &gt;= $partition_start" in page
    markdown = (tmp_path / "site" / "marts.returns.md").read_text()
    assert "n0 --> n1" in markdown
    assert "| `change` | float64 |" in markdown


def test_lineage_stands_from_left_to_right(write):
    models = load_models(write(staging__minutes=BARS, marts__returns=RETURNS, marts__totals=TOTALS))
    assert lineage_levels(models, "marts.returns") == (
        [["market.bars_1m"], ["staging.minutes"], ["marts.returns"]],
        [("market.bars_1m", "staging.minutes"), ("staging.minutes", "marts.returns")],
    )
    levels, _ = lineage_levels(models, "staging.minutes")
    assert levels == [["market.bars_1m"], ["staging.minutes"], ["marts.returns"]]


def test_describe_knows_tables_and_views_of_models(hfthot):
    assert "key" in hfthot("describe", "marts.returns").stdout
    view = json.loads(hfthot("describe", "staging.minutes", "--json").stdout)
    assert [column["name"] for column in view["columns"]][:2] == ["ts", "venue"]


def test_a_broken_file_keeps_nobody_from_tables_and_the_doctor_reports_it(hfthot, write):
    write(staging__broken=BARS.replace("volume\n", "volum\n"))
    assert hfthot("tables").exit_code == 0
    assert hfthot("sql", "FROM market.bars_1m").exit_code == 0

    findings = diagnose(load_settings(), datetime(2024, 3, 4, tzinfo=UTC))

    (found,) = [finding for finding in findings if finding.subject == "sql models"]
    assert found.level == "error"
    assert found.message == "dbt_like_sql/staging/broken.sql:10: unknown column 'volum'"
    assert found.next_step == "Did you mean 'volume'?"


def test_a_folder_of_models_that_is_not_there_is_told_with_its_path(tmp_path, monkeypatch):
    monkeypatch.setenv("HFTHOT_SQL_MODELS", str(tmp_path / "nowhere"))

    done = CliRunner().invoke(app, ["sql", "compile"])

    assert done.exit_code == 2
    assert f"there is no folder '{tmp_path / 'nowhere'}'" in done.stderr
