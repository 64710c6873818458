"""The contract's rules in Polars, the table checks, and the Great Expectations suite, on the same 1m bars.

    python benchmarks/bench_quality.py [rows in millions]

The rules are what gates a commit; the table checks read the rows back from a lake in a temporary folder; the
suite runs once a week and per asset check.
"""

from __future__ import annotations

import gc
import sys
import tempfile
import time
from collections.abc import Callable
from datetime import UTC, date, datetime, timedelta

import numpy as np
import polars as pl
from rich.console import Console
from rich.table import Table

from hfthot_platform.domain.contracts import contract
from hfthot_platform.services.quality import SAMPLE_ROWS, run_checks, suites, validate
from hfthot_platform.storage.lakehouse import Lakehouse
from hfthot_platform.storage.lakehouse.audit import audit, conform

SYMBOLS = 20
REPEATS = 3
BARS = contract("market.bars_1m")
START = datetime(2024, 1, 1, tzinfo=UTC)


def generate(n: int) -> pl.DataFrame:
    """Return n vendor bars of twenty symbols, without a gap, in the order in which they are stored."""
    rng = np.random.default_rng(7)
    per_symbol = n // SYMBOLS
    close = 100 * np.exp(0.0001 * rng.standard_normal((SYMBOLS, per_symbol)).cumsum(axis=1)).ravel()
    ts = np.tile(np.arange(per_symbol) * 60_000_000 + int(START.timestamp()) * 1_000_000, SYMBOLS)
    frame = pl.DataFrame(
        {
            "venue": pl.repeat("binance", per_symbol * SYMBOLS, eager=True),
            "symbol": np.repeat([f"S{i:02}-USDT" for i in range(SYMBOLS)], per_symbol),
            "ts": pl.Series(ts).cast(pl.Datetime("us", "UTC")),
            "open": close * 0.9999,
            "high": close * 1.001,
            "low": close * 0.999,
            "close": close,
            "volume": rng.lognormal(size=per_symbol * SYMBOLS),
        }
    )
    text = {"origin": "vendor", "source": "vendor_history", "source_ref": "benchmark"}
    frame = frame.with_columns(
        ts_close=pl.col("ts") + pl.duration(minutes=1),
        final=pl.lit(value=True),
        **{name: pl.lit(value) for name, value in text.items()},
    )
    return conform(BARS, frame)


def best(run: Callable[[], object]) -> float:
    """Return the best of several timings in seconds."""
    times = []
    for _ in range(REPEATS):
        gc.collect()
        start = time.perf_counter()
        run()
        times.append(time.perf_counter() - start)
    return min(times)


def main() -> None:
    """Print the table."""
    n = int(float(sys.argv[1]) * 1e6) if len(sys.argv) > 1 else 1_000_000
    frame = generate(n)
    minutes = n // SYMBOLS
    now = START + timedelta(minutes=minutes)
    five = BARS.rules[-1:] + BARS.rules[8:12]
    table = Table(title=f"{n:,} 1m bars of {SYMBOLS} symbols, best of {REPEATS}")
    for title in ("what", "checks", "seconds", "M rows/s"):
        table.add_column(title, justify="left" if title == "what" else "right")

    def row(what: str, checks: int, rows: int, seconds: float) -> None:
        table.add_row(what, str(checks), f"{seconds:.3f}", f"{rows / seconds / 1e6:.1f}")

    for title, rules in (("five rules in Polars", five), ("all rules in Polars", BARS.rules)):
        row(
            title,
            len(rules),
            n,
            best(lambda rules=rules: frame.select(r.violated().sum().alias(r.name) for r in rules)),
        )
    row("audit before a commit (rules, order, key)", len(BARS.rules), n, best(lambda: audit(BARS, frame)))
    with tempfile.TemporaryDirectory() as folder:
        lake = Lakehouse.open(folder)
        lake.table(BARS.name).append(frame)
        whole = best(lambda: run_checks(lake, BARS.name, None, now))
        row("table checks, whole table from disk", len(run_checks(lake, BARS.name, None, now)), n, whole)
        day = best(lambda: run_checks(lake, BARS.name, date(2024, 1, 10), now))
        row("table checks, one day", 9, 1440 * SYMBOLS, day)
    start = time.perf_counter()
    made = suites(BARS)
    table.add_row("import of Great Expectations, suite made", "", f"{time.perf_counter() - start:.3f}", "")
    expectations = sum(len(suite.expectations) for suite in made)
    checked = min(n, SAMPLE_ROWS)
    row("Great Expectations, small frame", expectations, 1000, best(lambda: validate(BARS, frame.head(1000))))
    row("Great Expectations, up to its bound", expectations, checked, best(lambda: validate(BARS, frame)))
    Console().print(table)


if __name__ == "__main__":
    main()
