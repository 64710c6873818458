"""Sail (Spark Connect, on DataFusion) reads the tables as they are; it runs in an environment of its own.

`HFTHOT_SAIL_PYTHON` names the interpreter of an environment with `pysail` and `pyspark[connect]`; how it is made is in
docs/foreign_engines.md.
"""

from __future__ import annotations

import json
import os
import re
import subprocess
from datetime import date, timedelta
from pathlib import Path

import polars as pl
import pytest

from hfthot_platform.storage.lakehouse import Lakehouse, maintain
from tests.conftest import REPOSITORY
from tests.ingest.test_units import random_trades

PYTHON = os.environ.get("HFTHOT_SAIL_PYTHON", "")
DAY = date(2024, 1, 1)

pytestmark = [
    pytest.mark.soak,
    pytest.mark.skipif(
        not PYTHON or not Path(PYTHON).exists(),
        reason="HFTHOT_SAIL_PYTHON does not name the Python of an environment with pysail (docs/foreign_engines.md)",
    ),
]

READING = """
import json, os, sys
import pyarrow.parquet as pq
from pysail.spark import SparkConnectServer
from pyspark.sql import SparkSession
server = SparkConnectServer("127.0.0.1", 0)
server.start(background=True)
spark = SparkSession.builder.remote(f"sc://127.0.0.1:{server.listening_address[1]}").getOrCreate()
spark.conf.set("spark.sql.session.timeZone", "UTC")
for number, (table, condition, columns) in enumerate(json.loads(sys.argv[1])):
    rows = spark.read.format("delta").load(table)
    if condition:
        rows = rows.where(condition)
    if columns:
        rows = rows.selectExpr(*columns)
    pq.write_table(rows.toArrow(), f"{sys.argv[2]}/{number}.parquet")
os._exit(0)
"""


def read_by_sail(folder, *questions):
    folder.mkdir()
    command = [PYTHON, "-c", READING, json.dumps(questions), str(folder)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300, check=False)
    assert done.returncode == 0, done.stderr[-3000:]
    return [pl.read_parquet(folder / f"{number}.parquet") for number in range(len(questions))]


def as_told(rows: pl.DataFrame, table) -> pl.DataFrame:
    """Return rows in the contract's columns and types, in order: Spark has its own names for the same times."""
    contract = table.contract
    times = [
        pl.col(column.name).dt.replace_time_zone(None).dt.replace_time_zone("UTC")
        for column in contract.columns
        if isinstance(column.polars, pl.Datetime)
    ]
    return rows.with_columns(times).select(contract.column_names).cast(contract.polars_schema).sort(contract.sort_by)


@pytest.fixture(scope="module")
def lake(tmp_path_factory):
    """Return a lake written in every way: appended, merged, replaced, quarantined, compacted, of every partitioning."""
    lake = Lakehouse.open(tmp_path_factory.mktemp("foreign") / "lake", new=True)
    table = lake.table("market.trades")
    for day in range(4):
        rows = random_trades(DAY + timedelta(days=day), day, 3_000)
        for part in rows.iter_slices(800):
            table.append(part)
        table.merge(rows.gather_every(50).with_columns(amount=pl.col("amount") * 2))
    maintain(lake, "market.trades", file_bytes=20_000)
    table.replace(DAY, lambda now: now.collect().head(2_500))
    table.append(random_trades(DAY + timedelta(days=4), 9, 3_000).lazy())
    table.merge(random_trades(DAY, 11, 40).with_columns(price=pl.when(pl.int_range(40) < 2).then(-1.0).otherwise(9.5)))
    days = [date(2020 + number % 5, 1 + number % 12, 3) for number in range(60)]
    closes = pl.DataFrame({"date": days}).unique().with_columns(
        venue=pl.lit("us_equity"), symbol=pl.lit("AAPL"), close=pl.int_range(pl.len()) + 0.1,
        adjusted=pl.lit(value=True), source=pl.lit("vendor_history"), source_ref=pl.lit("test:é"),
    )  # fmt: skip
    lake.table("market.closes").merge(closes)
    return lake


def test_sail_reads_the_same_rows_of_every_kind_of_table(lake, tmp_path):
    names = ["market.trades", "quarantine.trades", "market.closes"]
    tables = [lake.table(name) for name in names]

    found = read_by_sail(tmp_path / "rows", *((str(table.folder), "", []) for table in tables))

    for table, rows in zip(tables, found, strict=True):
        mine = table.scan().collect()
        assert mine.height > 0
        assert as_told(rows, table).equals(as_told(mine, table)), table


def test_sail_prunes_and_counts_as_we_do(lake, tmp_path):
    table = lake.table("market.trades")
    sums = ["count(*) AS n", "min(price) AS low", "max(ts) AS last"]
    conditions = {
        "symbol = 'S03-USD'": pl.col("symbol") == "S03-USD",
        "date = DATE '2024-01-02' AND symbol >= 'S05-USD' AND venue = 'kraken'": (
            (pl.col("date") == date(2024, 1, 2)) & (pl.col("symbol") >= "S05-USD") & (pl.col("venue") == "kraken")
        ),
        "symbol = 'NONE'": pl.col("symbol") == "NONE",
    }

    found = read_by_sail(tmp_path / "sums", *((str(table.folder), said, sums) for said in conditions))

    for rows, condition in zip(found, conditions.values(), strict=True):
        mine = table.scan().filter(condition).select(n=pl.len(), low=pl.col("price").min()).collect()
        assert rows.select(pl.col("n").cast(pl.UInt32), "low").equals(mine)


def test_the_recipe_of_the_page_runs_as_it_is_printed(lake):
    page = (REPOSITORY / "docs" / "foreign_engines.md").read_text()
    (recipe,) = re.findall(r"^```python\n(.*?)^```", page, flags=re.DOTALL | re.MULTILINE)
    assert "/data/lake" in recipe
    here = recipe.replace("/data/lake", lake.storage.root).replace("BTC-USDT", "S03-USD")
    command = [PYTHON, "-c", f"{here}\nimport os, sys\nsys.stdout.flush()\nos._exit(0)"]

    done = subprocess.run(command, capture_output=True, text=True, timeout=300, check=False)

    assert done.returncode == 0, done.stderr[-3000:]
    rows = lake.table("market.trades").scan().filter(pl.col("date") == date(2024, 1, 2), pl.col("symbol") == "S03-USD")
    for venue, count in rows.group_by("venue").len().collect().iter_rows():
        assert re.search(rf"{venue} *\| *{count}\b", done.stdout), done.stdout
