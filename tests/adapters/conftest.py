"""Reading a file the way the landing folder does."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import polars as pl
import pytest

from hfthot_platform.adapters.files.adapter import Recognised
from hfthot_platform.adapters.files.mapping import CsvMapping
from hfthot_platform.adapters.recognise import recognise
from hfthot_platform.domain.contracts.market import BARS, BARS_1M, TRADES
from hfthot_platform.domain.contracts.model import ROW_NUMBER

_CONTRACTS = {contract.name: contract for contract in (TRADES, BARS_1M, BARS)}


@dataclass
class FileRead:
    claim: Recognised
    rows: pl.DataFrame
    rejected: pl.DataFrame
    batches: int
    gaps: int

    @property
    def reasons(self) -> list[str]:
        return self.rejected["reason"].to_list()


def _read(path: Path, batch_rows: int = 1_000_000, **declared: Any) -> FileRead:
    probe, claim = recognise(path, CsvMapping(**declared) if declared else None)
    batches = list(claim.adapter.read(probe, claim, source_ref="test:1", batch_rows=batch_rows))
    rows = pl.concat([batch.rows for batch in batches])
    rejected = pl.concat([batch.rejected for batch in batches])
    contract = _CONTRACTS[claim.table]
    for batch in batches:
        assert batch.table == claim.table
        assert batch.rows.height <= batch_rows
    for name, dtype in rows.schema.items():
        assert name == ROW_NUMBER or dtype == contract.polars_schema[name], name
    needed = {
        column.name
        for column in contract.columns
        if not column.nullable and column.name not in (contract.partition_by, "schema_version")
    }
    assert needed <= set(rows.columns)
    gaps = sum(batch.gaps for batch in batches)
    numbers = [*rows[ROW_NUMBER], *rejected["row_number"]]
    assert len(set(numbers)) == len(numbers), "no source row is accounted for twice"
    assert gaps or sorted(numbers) == list(range(1, len(numbers) + 1)), "each source row is accounted for"
    return FileRead(claim, rows, rejected, len(batches), gaps)


@pytest.fixture
def read_file() -> Callable[..., FileRead]:
    """Recognise and read a file, and check what every adapter promises."""
    return _read
