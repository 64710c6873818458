"""A lake with something to hide, and a pool of workers."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from dataclasses import replace
from datetime import UTC, datetime, timedelta

import polars as pl
import pytest

from hfthot_platform.domain.access.authorisation import Principal
from hfthot_platform.domain.access.visibility import Visibility
from hfthot_platform.domain.contracts import CONTRACTS, Column, TableContract
from hfthot_platform.domain.contracts.model import FLOAT, INT, TEXT, TIME
from hfthot_platform.services.sql.gateway import GatewayPool, QueryLimits, SqlGateway
from hfthot_platform.storage.lakehouse import Lakehouse
from tests.sql.test_engine import bars

#: Strings that nobody without the right may ever see: in a path, in rows, in a table's name, in the environment.
PATH_CANARY = "kanarienpfad7f3a"
ROW_CANARY = "kanarienzeile91c2"
OLD_CANARY = "kanarienalt55d0"
TABLE_CANARY = "kanarientabelle"
ENVIRONMENT_CANARY = "kanarienumgebung3e8b"
CANARIES = (PATH_CANARY, ROW_CANARY, OLD_CANARY, TABLE_CANARY, ENVIRONMENT_CANARY)

NOW = datetime(2024, 4, 1, tzinfo=UTC)
START = datetime(2024, 3, 1, tzinfo=UTC)

KANARIEN = TableContract(
    name="market.kanarien",
    description="Rows of which some columns are closed to everybody, and some rows old.",
    columns=(
        Column("id", INT, "Key"),
        Column("ts", TIME, "When"),
        Column("label", TEXT, "What"),
        Column("never_hash", TEXT, "A hash of a secret"),
        Column("secret_ciphertext", TEXT, "A ciphertext"),
        Column("mail", TEXT, "Personal", personal=True),
    ),
    primary_key=("id",),
    sort_by=("id",),
    time_column="ts",
)
SECRET = TableContract(
    name=f"secretns.{TABLE_CANARY}",
    description="A table in a namespace that no tier has.",
    columns=(Column("id", INT, "Key"), Column("x", FLOAT, "Value")),
    primary_key=("id",),
    sort_by=("id",),
)
MODEL = TableContract(
    name="marts.kanarien_summary",
    description="A model over a table that only admins read.",
    columns=(Column("id", INT, "Key"),),
    primary_key=("id",),
    sort_by=("id",),
    made_from=(SECRET.name, "market.bars_1m"),
)
OPEN_MODEL = TableContract(
    name="marts.daily",
    description="A model over tables that everybody reads.",
    columns=(Column("id", INT, "Key"), Column("ts", TIME, "When")),
    primary_key=("id",),
    sort_by=("id",),
    time_column="ts",
    made_from=("market.bars_1m",),
)
TIMELESS_MODEL = TableContract(
    name="marts.totals",
    description="A model over tables that everybody reads, computed from all their history.",
    columns=(Column("id", INT, "Key"),),
    primary_key=("id",),
    sort_by=("id",),
    made_from=("market.bars_1m",),
)
EXTRA = {contract.name: contract for contract in (KANARIEN, SECRET, MODEL, OPEN_MODEL, TIMELESS_MODEL)}


def kanarien() -> pl.DataFrame:
    """Return rows on both sides of every depth of history, mixed within one file."""
    count = 4_000
    return pl.DataFrame({"id": range(count)}).select(
        pl.col("id").cast(pl.Int64),
        # Even rows are from 2019, odd ones from the last days.
        pl.when(pl.col("id") % 2 == 0)
        .then(pl.lit(datetime(2019, 1, 1, tzinfo=UTC)))
        .otherwise(pl.lit(NOW - timedelta(days=2)))
        .cast(pl.Datetime("us", "UTC"))
        .alias("ts"),
        pl.when(pl.col("id") % 2 == 0).then(pl.lit(OLD_CANARY)).otherwise(pl.lit("123")).alias("label"),
        *(pl.lit(ROW_CANARY).alias(name) for name in ("never_hash", "secret_ciphertext", "mail")),
    )


@pytest.fixture(scope="session")
def lake(tmp_path_factory) -> Lakehouse:
    """Three days of bars in three versions, and tables with canaries."""
    ticks = itertools.count()
    lake = Lakehouse.open(
        tmp_path_factory.mktemp(PATH_CANARY),
        clock=lambda: NOW + timedelta(seconds=next(ticks)),
        contracts={**CONTRACTS, **EXTRA},
    )
    for day in range(3):
        lake.table("market.bars_1m").append(bars(START + timedelta(days=day), level=100.0 + day))
    lake.table("market.kanarien").append(kanarien())
    lake.table(SECRET.name).append(pl.DataFrame({"id": [1], "x": [1.0]}))
    for model in (MODEL, TIMELESS_MODEL):
        lake.table(model.name).append(pl.DataFrame({"id": [1]}))
    lake.table(OPEN_MODEL.name).append(pl.DataFrame({"id": [1], "ts": [NOW]}))
    return lake


@pytest.fixture(scope="session")
def pool() -> Iterator[GatewayPool]:
    """Two places, workers ready."""
    with GatewayPool(workers=2) as pool:
        pool.warm()
        yield pool


@pytest.fixture(scope="session")
def limits() -> QueryLimits:
    """Limits that are reached soon."""
    return QueryLimits(rows=100_000, bytes=32 * 2**20, seconds=10.0, queue_seconds=60.0, memory=256 * 2**20)


@pytest.fixture(scope="session")
def gateway(lake, pool, limits) -> SqlGateway:
    """What a paying caller has: all history, no mean-field-game results."""
    sees = replace(Visibility.of("enterprise", "registered"), denied=frozenset({"*.mfg_*"}))
    return SqlGateway(lake, Principal("caller", "registered", "enterprise", sees=sees), pool, limits=limits)
