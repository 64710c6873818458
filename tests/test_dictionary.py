"""The data dictionary is generated from the contracts and the SQL models."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from hfthot_platform.domain.contracts import CONTRACTS
from hfthot_platform.domain.contracts.views import VIEWS
from hfthot_platform.interfaces.cli.dictionary import whole_dictionary
from hfthot_platform.services.sql.models import load_models

PAGE = Path(__file__).resolve().parent.parent / "docs" / "data_dictionary.md"


def test_the_page_in_the_repository_is_current():
    assert PAGE.read_text(encoding="utf-8") == whole_dictionary(), "run `make dictionary` and commit the result"


def test_every_table_view_column_and_rule_is_on_it():
    page = whole_dictionary()

    for contract in CONTRACTS.values():
        assert contract.name in page
        assert all(f"| `{column}` |" in page for column in contract.column_names)
    assert all(f"## {name}\n" in page for name in VIEWS)
    assert "`high >= open, close, low`" in page


def test_the_models_are_on_it_as_they_are():
    page = whole_dictionary()
    models = load_models(PAGE.parent.parent / "dbt_like_sql")

    assert all(f"## {model.name}\n" in page for model in models)
    for model in models:
        assert all(f"| `{column.name}` |" in page for column in model.columns)


@pytest.mark.soak
def test_the_module_prints_the_page():
    done = subprocess.run(
        [sys.executable, "-m", "hfthot_platform.interfaces.cli.dictionary"], capture_output=True, check=True, text=True
    )

    assert done.stdout == whole_dictionary()
