"""What a lake on an object store costs: requests per operation, and untrusted SQL over a day of many trades.

    python benchmarks/bench_object_store.py             # 5 million trades
    python benchmarks/bench_object_store.py 500000

The store is an S3-compatible server on loopback in a process of its own, which counts its requests; its speed says
nothing of a real one, so times are given as ratios to the same statement over a local lake in the same run.  Needs the
development packages.
"""

from __future__ import annotations

import shutil
import sys
import tempfile
import time
from collections.abc import Callable
from datetime import UTC, date, datetime, timedelta
from pathlib import Path

import numpy as np
import polars as pl
from rich.console import Console
from rich.table import Table

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from hfthot_platform.domain.access.authorisation import Principal
from hfthot_platform.services.sql.gateway import GatewayPool, QueryLimits, SqlGateway
from hfthot_platform.storage.lakehouse import Lakehouse, maintain
from hfthot_platform.storage.lakehouse.file_cache import FileCache
from tests.object_store import ObjectStoreServer, serving

DAY = date(2024, 1, 1)
SYMBOLS = 20
STATEMENT = """
SELECT symbol, date_trunc('minute', ts) AS minute, sum(amount) AS volume, min(price) AS low, max(price) AS high
FROM market.trades WHERE date = DATE '2024-01-01' AND symbol < 'S05' GROUP BY ALL ORDER BY ALL
"""


def trades(day: date, n: int, first: int = 0) -> pl.DataFrame:
    """Return the trades of a day, of all symbols in turn."""
    start = int(datetime.combine(day, datetime.min.time(), UTC).timestamp() * 1_000_000)
    rng = np.random.default_rng(first)
    numbers = np.arange(n)
    frame = pl.DataFrame(
        {
            "symbol": numbers % SYMBOLS,
            "ts": start + numbers * (86_400_000_000 // n),
            "trade_id": first + numbers,
            "price": 100 + rng.normal(0, 1, n).round(2),
            "amount": rng.exponential(1, n).round(3),
        }
    )
    return frame.with_columns(
        symbol=pl.format("S{}-USD", pl.col("symbol").cast(pl.String).str.zfill(2)),
        ts=pl.from_epoch("ts", time_unit="us").dt.replace_time_zone("UTC"),
        venue=pl.lit("kraken"),
        side=pl.lit("buy"),
        source=pl.lit("synthetic"),
        source_ref=pl.lit("bench:1"),
    )


def requests(store: ObjectStoreServer, console: Console) -> None:
    """Print the requests of each operation after 45 commits."""
    lake = Lakehouse.open("s3://lake/requests", store.options, new=True)
    table = lake.table("market.trades")
    for commit in range(45):
        table.append(trades(DAY + timedelta(days=commit % 20), 40, 1000 * commit))
    late = trades(DAY, 20, 1_000_000)
    at = table.versions()[30].timestamp
    operations: list[tuple[str, Callable[[], object]]] = [
        ("version", table.version),
        ("scan one symbol of one day", lambda: _one(table.scan()).collect()),
        ("merge 20 rows into one day", lambda: table.merge(late)),
        ("the same again", lambda: table.merge(late)),
        ("replace one day", lambda: table.replace(DAY, late)),
        ("versions", table.versions),
        ("scan as of a time", lambda: _one(table.scan(as_of=at)).collect()),
        ("maintain 20 partitions", lambda: maintain(lake, "market.trades", history_days=0)),
    ]
    shown = Table("operation", "requests", title="Requests 45 commits after the table was made")
    table.version()
    store.count()
    for name, operation in operations:
        operation()
        shown.add_row(name, str(store.count().total()))
    console.print(shown)


def _one(frame: pl.LazyFrame) -> pl.LazyFrame:
    return frame.filter(pl.col("date") == DAY, pl.col("symbol") == "S00-USD")


def gateway(store: ObjectStoreServer, rows: int, console: Console) -> None:
    """Print how long a statement over a day takes, on a disk and on the object store."""
    folder = Path(tempfile.mkdtemp(prefix="bench-object-store-"))
    principal = Principal("bench", "registered", "enterprise")
    limits = QueryLimits(rows=10_000_000, bytes=2**30, seconds=600.0, queue_seconds=60.0, memory=2**31)
    try:
        local = Lakehouse.open(folder / "lake", new=True)
        remote = Lakehouse.open("s3://lake/gateway", store.options, new=True)
        remote.file_cache = FileCache(folder / "files", 2**33)
        day = trades(DAY, rows)
        for lake in (local, remote):
            lake.table("market.trades").append(day)
            lake.table("market.trades").append(trades(DAY + timedelta(days=1), rows // 10, rows))
        with GatewayPool(workers=1, limits=limits) as pool:
            on_disk = SqlGateway(local, principal, pool, limits=limits, quota=lambda: None)
            on_store = SqlGateway(remote, principal, pool, limits=limits, quota=lambda: None)
            expected = on_disk.query(STATEMENT, format="polars").data
            first = _seconds(lambda: on_store.query(STATEMENT))
            found = on_store.query(STATEMENT, format="polars").data
            if not found.equals(expected):
                raise SystemExit("the two lakes answer differently")
            pairs = [
                (_seconds(lambda: on_disk.query(STATEMENT)), _seconds(lambda: on_store.query(STATEMENT)))
                for _ in range(5)
            ]
        disk, again = min(pair[0] for pair in pairs), min(pair[1] for pair in pairs)
        shown = Table("", "seconds", "ratio", title=f"Untrusted SQL over a day of {rows:,} trades")
        shown.add_row("local lake", f"{disk:.2f}", "1.0")
        shown.add_row("object store, first call", f"{first:.2f}", f"{first / disk:.1f}")
        shown.add_row("object store, then", f"{again:.2f}", f"{again / disk:.1f}")
        console.print(shown)
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _seconds(call: Callable[[], object]) -> float:
    started = time.perf_counter()
    call()
    return time.perf_counter() - started


def main() -> None:
    """Print both."""
    console = Console()
    rows = int(sys.argv[1]) if len(sys.argv) > 1 else 5_000_000
    with serving() as store:
        requests(store, console)
        gateway(store, rows, console)


if __name__ == "__main__":
    main()
