"""What trusted SQL costs over its bare parts, as ratios within one run.

    python benchmarks/bench_sql.py [ROWS] [DAYS] [--lake FOLDER]

A table of trades with a file a day is asked the same questions through `services.sql.query` and, for filters,
through `pl.scan_delta(...).filter(...).collect()`, for the group-by through DuckDB over the same Parquet files.  Both
answers are compared first.  Warm: in one process, in turns, medians.  Cold: each time in a process of its own, with the
data files dropped from the page cache; the imports are not counted.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import duckdb
import numpy as np
import polars as pl

ROWS = 20_000_000
DAYS = 400
SYMBOLS = 50
WARM, COLD = 9, 3
START = datetime(2023, 1, 1, tzinfo=UTC)
LIMIT = 1.5
TABLE = "market.trades"
_GROUPED = "SELECT symbol, count(*) AS n, avg(price) AS price, sum(amount) AS amount FROM {} GROUP BY symbol ORDER BY 1"


def make(folder: Path, rows: int, days: int) -> None:
    """Publish trades, the same number on each day."""
    from hfthot_platform.storage.lakehouse import Lakehouse

    names = np.array([f"S{number:02d}-USDT" for number in range(SYMBOLS)])
    count = rows // days

    def day(number: int) -> pl.DataFrame:
        rng = np.random.default_rng(number)
        first = int((START + timedelta(days=number)).timestamp() * 1e6)
        return pl.DataFrame(
            {
                "venue": pl.repeat("binance", count, eager=True),
                "symbol": names[rng.integers(0, SYMBOLS, count)],
                "ts": pl.Series(np.sort(rng.integers(0, 86_400_000_000, count)) + first).cast(pl.Datetime("us", "UTC")),
                "trade_id": np.arange(number * count, (number + 1) * count),
                "price": 100.0 + rng.random(count).round(4),
                "amount": rng.random(count).round(5) + 0.001,
                "side": np.array(["buy", "sell"])[rng.integers(0, 2, count)],
                "source": pl.repeat("synthetic", count, eager=True),
                "source_ref": pl.repeat("bench:1", count, eager=True),
            }
        )

    raw = folder / "raw"
    raw.mkdir()
    for first in range(0, days, 20):
        batch = pl.concat([day(number) for number in range(first, min(first + 20, days))])
        batch.write_parquet(raw / f"{first:05d}.parquet")
    Lakehouse.open(folder / "lake").table(TABLE).append(pl.scan_parquet(raw / "*.parquet"))
    for path in raw.iterdir():
        path.unlink()


def questions(days: int) -> dict[str, tuple[str, Callable[[pl.LazyFrame], pl.LazyFrame] | None]]:
    """Return each question as SQL, and for Polars; None: DuckDB answers it over the bare files."""
    middle = START + timedelta(days=days // 2, hours=3)
    hour, week = middle + timedelta(hours=1), middle + timedelta(days=7)
    ts, symbol = pl.col("ts"), pl.col("symbol") == "S07-USDT"
    where = f"ts >= '{middle:%Y-%m-%d %H:%M}' AND ts < "
    return {
        "one hour": (
            f"FROM {TABLE} WHERE {where}'{hour:%Y-%m-%d %H:%M}'",
            lambda frame: frame.filter((ts >= middle) & (ts < hour)),
        ),
        "one day": (
            f"FROM {TABLE} WHERE date = '{middle:%Y-%m-%d}'",
            lambda frame: frame.filter(pl.col("date") == middle.date()),
        ),
        "a week of one symbol": (
            f"FROM {TABLE} WHERE {where}'{week:%Y-%m-%d %H:%M}' AND symbol = 'S07-USDT'",
            lambda frame: frame.filter((ts >= middle) & (ts < week) & symbol),
        ),
        "one symbol, two columns": (
            f"SELECT ts, price FROM {TABLE} WHERE symbol = 'S07-USDT'",
            lambda frame: frame.filter(symbol).select("ts", "price"),
        ),
        "one symbol, all columns": (f"FROM {TABLE} WHERE symbol = 'S07-USDT'", lambda frame: frame.filter(symbol)),
        "group by symbol, all rows": (_GROUPED.format(TABLE), None),
    }


def answer(folder: Path, days: int, name: str, *, bare: bool) -> Callable[[], pl.DataFrame]:
    """Return what answers a question, through the platform or through its bare parts."""
    from hfthot_platform.services.sql import query
    from hfthot_platform.storage.lakehouse import Lakehouse

    sql, polars = questions(days)[name]
    table = folder / "lake" / "market" / "trades"
    if not bare:
        lake = Lakehouse.open(folder / "lake")
        return lambda: query(lake, sql).frame
    if polars is not None:
        return lambda: polars(pl.scan_delta(str(table))).collect()

    def group() -> Any:
        with duckdb.connect(config={"threads": 2}) as connection:
            files = f"read_parquet('{table}/*/*.parquet', hive_partitioning = true)"
            return pl.from_arrow(connection.sql(_GROUPED.format(files)).to_arrow_table())

    return group


def timed(work: Callable[[], pl.DataFrame]) -> float:
    started = time.perf_counter()
    work()
    return time.perf_counter() - started


def same(one: pl.DataFrame, other: pl.DataFrame) -> bool:
    keys = [name for name in ("symbol", "ts", "trade_id", "price") if name in one.columns]
    one, other = (frame.select(sorted(frame.columns)).sort(keys) for frame in (one, other))
    floats = {name: pl.Float64() for name, dtype in one.schema.items() if dtype == pl.Float64()}
    rest = [name for name in one.columns if name not in floats]
    close = all(np.allclose(one[name], other[name], rtol=1e-9) for name in floats)
    return close and one.select(rest).equals(other.select(rest).cast(dict(one.select(rest).schema)))


def cold(folder: Path, days: int, name: str, *, bare: bool) -> float:
    for path in (folder / "lake").rglob("*.parquet"):
        handle = os.open(path, os.O_RDONLY)
        os.posix_fadvise(handle, 0, 0, os.POSIX_FADV_DONTNEED)
        os.close(handle)
    arguments = [sys.executable, __file__, "--lake", str(folder), "--ask", name, *(["--bare"] if bare else [])]
    done = subprocess.run([*arguments, "0", str(days)], capture_output=True, text=True, check=True)
    return float(done.stdout)


def measure(folder: Path, days: int) -> bool:
    within = True
    for name in questions(days):
        ours, theirs = (answer(folder, days, name, bare=bare) for bare in (False, True))
        assert same(ours(), theirs()), f"the answers to {name!r} differ"
        warm: dict[bool, list[float]] = {False: [], True: []}
        for _ in range(WARM):
            warm[False].append(timed(ours))
            warm[True].append(timed(theirs))
        chilled: dict[bool, list[float]] = {False: [], True: []}
        for _ in range(COLD):
            for bare in (False, True):
                chilled[bare].append(cold(folder, days, name, bare=bare))
        result: dict[str, Any] = {"question": name, "against": "DuckDB" if "group" in name else "scan_delta"}
        for kind, times in (("warm", warm), ("cold", chilled)):
            sql, bare_time = (statistics.median(times[bare]) for bare in (False, True))
            result |= {
                f"{kind}_sql_ms": round(sql * 1e3, 1),
                f"{kind}_bare_ms": round(bare_time * 1e3, 1),
                f"{kind}_ratio": round(sql / bare_time, 2),
            }
        within &= result["warm_ratio"] <= LIMIT
        print(json.dumps(result), flush=True)
    return within


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("rows", type=int, nargs="?", default=ROWS)
    parser.add_argument("days", type=int, nargs="?", default=DAYS)
    parser.add_argument("--lake", type=Path, help="keep the data in this folder, and use what is there")
    parser.add_argument("--ask", help=argparse.SUPPRESS)
    parser.add_argument("--bare", action="store_true", help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.ask:
        print(timed(answer(given.lake, given.days, given.ask, bare=given.bare)))
        return
    with tempfile.TemporaryDirectory() as scratch:
        folder = given.lake or Path(scratch)
        folder.mkdir(parents=True, exist_ok=True)
        if not (folder / "lake").exists():
            make(folder, given.rows, given.days)
        print(json.dumps({"rows": given.rows, "days": given.days, "limit": LIMIT}))
        sys.exit(0 if measure(folder, given.days) else 1)


if __name__ == "__main__":
    main()
