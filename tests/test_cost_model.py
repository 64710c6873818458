"""The cost model of docs/scale.md is what its formulas give."""

from __future__ import annotations

import subprocess
import sys

from tests.conftest import REPOSITORY


def printed(*sizes: int) -> str:
    command = [sys.executable, str(REPOSITORY / "benchmarks" / "cost_model.py"), *map(str, sizes)]
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout


def test_the_table_of_the_page_is_that_of_the_formulas():
    assert printed() in (REPOSITORY / "docs" / "scale.md").read_text()


def test_trades_of_twice_the_size_take_twice_the_rows():
    assert "| rows of trades | 100 M | 183 G |" in printed(10_000, 100_000_000, 5)
