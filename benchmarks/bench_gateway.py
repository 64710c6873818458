"""What the SQL gateway's isolation costs over DuckDB in the same process, and how much it carries.

    python benchmarks/bench_gateway.py [SECONDS]

Overhead: the same small question over the same Parquet files, by turns, medians.  Load: four callers ask small
questions for SECONDS (30).  Streams: 1 M and 20 M rows of three columns, read batch by batch, with the growth of
this process; the peer is DuckDB's own Arrow reader in this process.
"""

from __future__ import annotations

import statistics
import sys
import tempfile
import threading
import time
from datetime import UTC, datetime, timedelta
from pathlib import Path

import duckdb
import numpy as np
import polars as pl
import psutil

from hfthot_platform.domain.access.authorisation import Principal
from hfthot_platform.services.sql.gateway import GatewayPool, QueryLimits, SqlGateway
from hfthot_platform.storage.lakehouse import Lakehouse

START = datetime(2024, 1, 1, tzinfo=UTC)
QUESTION = (
    "SELECT symbol, count(*) AS n, avg(close) AS c FROM market.bars_1m WHERE symbol < 'S05' GROUP BY ALL ORDER BY 1"
)
LIMITS = QueryLimits(rows=10**8, bytes=2**40, seconds=600, queue_seconds=600, memory=2**30)


def bars(days: int, symbols: int) -> pl.DataFrame:
    minutes = pl.datetime_range(START, START + timedelta(days=days), "5m", closed="left", eager=True, time_unit="us")
    frame = pl.DataFrame({"symbol": [f"S{i:02d}" for i in range(symbols)]}).join(
        pl.DataFrame({"ts": minutes}), how="cross"
    )
    price = 100.0 + np.random.default_rng(1).random(frame.height)
    return frame.select(
        pl.lit("binance").alias("venue"),
        "symbol",
        "ts",
        (pl.col("ts") + pl.duration(minutes=1)).alias("ts_close"),
        *(
            pl.Series(name, price * factor)
            for name, factor in (("open", 1), ("high", 1.01), ("low", 0.99), ("close", 1))
        ),
        pl.lit(2.0).alias("volume"),
        pl.lit(7, pl.Int64).alias("trades"),
        pl.lit(value=True).alias("final"),
        pl.lit("vendor").alias("origin"),
        pl.lit("synthetic").alias("source"),
        pl.lit("bench").alias("source_ref"),
    )


def overhead(lake: Lakehouse, gateway: SqlGateway) -> None:
    files = lake.table("market.bars_1m").files()
    assert files is not None
    connection = duckdb.connect(config={"threads": 1})
    connection.execute("CREATE SCHEMA market")
    listed = ", ".join(f"'{path}'" for path in files.paths)
    connection.execute(f"CREATE VIEW market.bars_1m AS FROM read_parquet([{listed}], hive_partitioning = true)")
    rows = gateway.query(QUESTION).data
    assert rows.equals(connection.sql(QUESTION).to_arrow_table().cast(rows.schema))
    for question in ("SELECT 1", QUESTION):
        inside, outside = [], []
        for _ in range(60):
            started = time.perf_counter()
            gateway.query(question)
            outside.append(time.perf_counter() - started)
            started = time.perf_counter()
            connection.sql(question).to_arrow_table()
            inside.append(time.perf_counter() - started)
            time.sleep(0.03)  # a warm gateway has its next worker ready
        cost = statistics.median(outside) - statistics.median(inside)
        print(
            f"{question[:24]:26s} gateway {statistics.median(outside) * 1e3:6.1f} ms"
            f"   DuckDB in process {statistics.median(inside) * 1e3:6.1f} ms"
            f"   overhead {cost * 1e3:6.1f} ms   (limit 60 ms)"
        )


def load(lake: Lakehouse, pool: GatewayPool, seconds: float) -> None:
    took: list[float] = []
    stop = time.monotonic() + seconds

    def ask(caller: str) -> None:
        gateway = SqlGateway(lake, Principal(caller, "registered", "enterprise"), pool, limits=LIMITS)
        while time.monotonic() < stop:
            started = time.perf_counter()
            gateway.query(QUESTION)
            took.append(time.perf_counter() - started)

    threads = [threading.Thread(target=ask, args=(str(number),)) for number in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    took.sort()
    print(
        f"4 callers, {seconds:.0f} s: {len(took) / seconds:.1f} questions/s   (limit 20)"
        f"   median {took[len(took) // 2] * 1e3:.0f} ms   99th percentile {took[int(len(took) * 0.99)] * 1e3:.0f} ms"
    )


def streams(gateway: SqlGateway) -> None:
    process = psutil.Process()
    for rows in (1_000_000, 20_000_000):
        sql = f"SELECT range AS a, range * 0.5::DOUBLE AS b, (range % 1000)::VARCHAR AS c FROM range({rows})"
        started = time.perf_counter()
        connection = duckdb.connect(config={"threads": 1})
        assert sum(batch.num_rows for batch in connection.sql(sql).to_arrow_reader(122_880)) == rows
        bare = time.perf_counter() - started
        before = peak = process.memory_info().rss
        started = time.perf_counter()
        count = size = 0
        with gateway.stream(sql) as stream:
            for batch in stream:
                count += batch.num_rows
                size += batch.nbytes
                peak = max(peak, process.memory_info().rss)
        seconds = time.perf_counter() - started
        assert count == rows
        print(
            f"stream of {rows / 1e6:.0f} M rows, {size / 2**20:.0f} MiB: {seconds:.2f} s,"
            f" {rows / seconds / 1e6:.1f} M rows/s,"
            f" this process grew by {(peak - before) / 2**20:.0f} MiB   DuckDB in process {bare:.2f} s"
        )


def main() -> None:
    seconds = float(sys.argv[1]) if len(sys.argv) > 1 else 30.0
    with tempfile.TemporaryDirectory() as folder, GatewayPool(workers=2) as pool:
        lake = Lakehouse.open(Path(folder) / "lake")
        lake.table("market.bars_1m").append(bars(10, 20))
        gateway = SqlGateway(lake, Principal("bench", "registered", "enterprise"), pool, limits=LIMITS)
        started = time.perf_counter()
        gateway.query("SELECT 1")
        print(f"first statement of a cold gateway: {time.perf_counter() - started:.2f} s; {pool.facts()['sandbox']}")
        overhead(lake, gateway)
        load(lake, pool, seconds)
        streams(gateway)


if __name__ == "__main__":
    main()
