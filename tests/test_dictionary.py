"""The data dictionary is generated from the contracts."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

from hfthot_platform.contracts import CONTRACTS
from hfthot_platform.contracts.dictionary import dictionary
from hfthot_platform.contracts.views import VIEWS

PAGE = Path(__file__).resolve().parent.parent / "docs" / "data_dictionary.md"


def test_the_page_in_the_repository_is_current():
    assert PAGE.read_text(encoding="utf-8") == dictionary(), "run `make dictionary` and commit the result"


def test_every_table_view_column_and_rule_is_on_it():
    page = dictionary()

    for contract in CONTRACTS.values():
        assert contract.name in page
        assert all(f"| `{column}` |" in page for column in contract.column_names)
    assert all(f"## {name}\n" in page for name in VIEWS)
    assert "`high >= open, close, low`" in page


def test_the_module_prints_the_page():
    done = subprocess.run(
        [sys.executable, "-m", "hfthot_platform.contracts.dictionary"], capture_output=True, check=True, text=True
    )

    assert done.stdout == dictionary()
