"""A data folder with two days of one symbol, cheap password hashing, and clients on it."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import polars as pl
import pytest

from hfthot_platform.domain.market.bars import bars_from_bars
from hfthot_platform.interfaces.client import LakehouseClient
from hfthot_platform.storage.lakehouse import Lakehouse

#: Recent, so that the free tier's thirty days reach it.
TODAY = datetime.now(UTC).replace(hour=0, minute=0, second=0, microsecond=0)
PASSWORD = "correct horse battery"


def minutes(
    symbol: str = "ALPHA-USDT",
    start: datetime = TODAY - timedelta(days=3),
    count: int = 2880,
    close: float = 100.0,
    venue: str = "simulated",
) -> pl.DataFrame:
    """Return one-minute bars with a price that moves a little."""
    frame = pl.DataFrame({"i": range(count)}).with_columns(
        ts=pl.lit(start).cast(pl.Datetime("us", "UTC")) + pl.duration(minutes=pl.col("i")),
        close=close + (pl.col("i") % 7).cast(pl.Float64),
    )
    return frame.select(
        "ts",
        ts_close=pl.col("ts") + pl.duration(minutes=1),
        venue=pl.lit(venue),
        symbol=pl.lit(symbol),
        open="close",
        high="close",
        low="close",
        close="close",
        volume=pl.lit(1.0),
        quote_volume=pl.col("close"),
        trades=pl.lit(1, pl.Int64),
        buy_volume=pl.lit(0.5),
        final=pl.lit(value=True),
        origin=pl.lit("vendor"),
        source=pl.lit("synthetic"),
        source_ref=pl.lit("test:1"),
    )


def closes(symbol: str, days: list[datetime], venue: str = "simulated") -> pl.DataFrame:
    """Return a daily close of 1 for each day."""
    return pl.DataFrame({"date": [day.date() for day in days]}, schema={"date": pl.Date}).with_columns(
        venue=pl.lit(venue),
        symbol=pl.lit(symbol),
        close=pl.lit(1.0),
        adjusted=pl.lit(value=False),
        source=pl.lit("synthetic"),
        source_ref=pl.lit("test:2"),
    )


@pytest.fixture(scope="session")
def filled(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a lake with two days of ALPHA-USDT in every market table; copy it before writing."""
    root = tmp_path_factory.mktemp("filled") / "lake"
    lake = Lakehouse.open(root)
    base = minutes()
    lake.table("market.bars_1m").append(base)
    lake.table("market.bars").append(pl.concat([bars_from_bars(base, interval) for interval in ("5m", "1h")]))
    lake.table("market.closes").append(closes("ALPHA-USDT", [TODAY - timedelta(days=2), TODAY - timedelta(days=3)]))
    trades = base.head(100).select(
        "ts",
        "venue",
        "symbol",
        price="close",
        amount="volume",
        side=pl.lit("buy"),
        trade_id=pl.int_range(pl.len()),
        source="source",
        source_ref="source_ref",
    )
    lake.table("market.trades").append(trades)
    return root


@pytest.fixture
def folder(tmp_path: Path, filled: Path) -> Path:
    """Return a data folder with that lake."""
    shutil.copytree(filled, tmp_path / "data" / "lake")
    return tmp_path / "data"


@pytest.fixture(autouse=True)
def cheap(monkeypatch: pytest.MonkeyPatch, tmp_path_factory: pytest.TempPathFactory) -> None:
    """Make passwords cheap to hash; that the real parameters are dear is tested with the accounts.

    The proof of an erasure searches the temporary folder too: here one of the test's own.
    """
    monkeypatch.setenv("HFTHOT_ARGON2_MEMORY_KIB", "8")
    monkeypatch.setenv("HFTHOT_ARGON2_PASSES", "1")
    monkeypatch.setenv("HFTHOT_ARGON2_LANES", "1")
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path_factory.mktemp("temporary")))


@pytest.fixture
def client(folder: Path, empty_store: Callable[[Path], None]) -> Iterator[LakehouseClient]:
    """Return a client of trusted code."""
    empty_store(folder / "accounts")
    with LakehouseClient(folder, create=True) as made:
        yield made


@pytest.fixture
def register(client: LakehouseClient) -> Callable[..., Any]:
    """Return a maker of accounts: `register("ada", tier="free", role="registered")`."""

    def make(name: str = "ada", tier: str = "free", role: str = "registered") -> Any:
        user = client.register(name, f"{name}@example.org", PASSWORD, "First", "Last", tier)
        return user if role == user.role else client.set_role(user.user_id, role)

    return make


@pytest.fixture
def signed_in(client: LakehouseClient, folder: Path, register: Callable[..., Any]) -> Iterator[Callable[..., Any]]:
    """Return a maker of clients with the API key of a new account: `signed_in("ada", tier=..., role=...)`."""
    made: list[LakehouseClient] = []

    def make(name: str = "ada", tier: str = "free", role: str = "registered") -> LakehouseClient:
        user = register(name, tier, role)
        key = client.generate_hfthot_api_key(user.user_id)
        made.append(LakehouseClient(folder, api_key=key.key))
        made[-1].user_id = user.user_id
        return made[-1]

    yield make
    for client in made:
        client.close()
