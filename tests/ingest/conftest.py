"""A landing folder beside a lake, both temporary, and the account that must always hold."""

from __future__ import annotations

import json
import os
from datetime import UTC, datetime, timedelta
from pathlib import Path

import polars as pl
import pytest

from hfthot_platform.domain.contracts import CONTRACTS
from hfthot_platform.services.ingest import FileOutcome, ingest_landing
from hfthot_platform.storage.lakehouse import Lakehouse

NOW = datetime(2024, 6, 1, 12, tzinfo=UTC)
START = datetime(2024, 1, 1, tzinfo=UTC)
HEADER = "timestamp,trade_id,price,amount,side\n"


def trade_line(number: int, price: float | str = 100.0, amount: float | str = 0.5, ts: int | str | None = None) -> str:
    """Return a line for `HEADER`: one trade a second from 2024-01-01 on."""
    ms = int(START.timestamp() * 1000) + number * 1000
    return f"{ms if ts is None else ts},{number},{price},{amount},buy\n"


def trades_csv(first: int, count: int, price: float = 100.0) -> str:
    return HEADER + "".join(trade_line(number, price) for number in range(first, first + count))


def assert_accounted(lake: Lakehouse) -> None:
    """Every file's counts add up, and so do all files' with what the tables hold."""
    files = lake.table("ops.ingest_files").scan().collect()
    assert (
        files["rows_read"] == files["rows_published"] + files["rows_duplicate"] + files["rows_quarantined"]
    ).all(), files.rows(named=True)
    market = [name for name in CONTRACTS if name.startswith("market.")]
    for name in market:
        mine = files.filter(pl.col("target") == name)
        stored = lake.table(name).scan().select(pl.len()).collect().item()
        assert mine["rows_published"].sum() == stored, name
        if (kept_out := CONTRACTS[name].quarantine) in CONTRACTS:
            stored = lake.table(kept_out).scan().select(pl.len()).collect().item()
            assert mine["rows_quarantined"].sum() == stored, kept_out


class Landing:
    def __init__(self, root: Path) -> None:
        self.folder = root / "landing"
        self.folder.mkdir()
        self.lake = Lakehouse.open(root / "lake", clock=lambda: NOW)
        self.done = self.folder / "done"
        self.rejected = self.folder / "rejected"

    def drop(self, name: str, content: str | bytes, *, mapping: dict | None = None, age: float = 60.0) -> Path:
        """Put a file there that was last written `age` seconds before `NOW`."""
        path = self.folder / name
        path.write_bytes(content.encode() if isinstance(content, str) else content)
        if mapping is not None:
            (self.folder / f"{name}.mapping.yaml").write_text(json.dumps(mapping))
        self.age(path, age)
        return path

    def age(self, path: Path, seconds: float) -> None:
        when = (NOW - timedelta(seconds=seconds)).timestamp()
        os.utime(path, (when, when))

    def run(self, **kwargs) -> list[FileOutcome]:
        outcomes = ingest_landing(self.lake, self.folder, now=NOW, **kwargs)
        assert_accounted(self.lake)
        return outcomes

    def run_one(self, **kwargs) -> FileOutcome:
        (outcome,) = self.run(**kwargs)
        return outcome

    def reason(self, name: str) -> dict:
        return json.loads((self.rejected / f"{name}.reason.json").read_text())

    def record(self, name: str) -> dict:
        rows = self.lake.table("ops.ingest_files").scan().filter(pl.col("name") == name).collect()
        return rows.row(0, named=True)

    def rows(self, table: str = "market.trades") -> pl.DataFrame:
        return self.lake.table(table).scan().collect()

    def quarantined(self, table: str = "market.trades") -> dict[str, int]:
        frame = self.lake.table(f"quarantine.{table.partition('.')[2]}").scan().collect()
        return dict(frame["reason"].value_counts().sort("reason").iter_rows())

    def waiting(self) -> set[str]:
        return {entry.name for entry in self.folder.iterdir() if entry.is_file() and not entry.name.startswith(".")}


@pytest.fixture
def landing(tmp_path: Path) -> Landing:
    return Landing(tmp_path)


@pytest.fixture(scope="session")
def accounted():
    return assert_accounted


@pytest.fixture(scope="session")
def csv_of():
    """Return `trades_csv(first, count, price)`: a file of trades."""
    return trades_csv


@pytest.fixture(scope="session")
def line_of():
    """Return `trade_line(number, price, amount, ts)`."""
    return trade_line
