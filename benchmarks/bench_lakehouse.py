"""What the lakehouse costs over its bare parts, as ratios within one run.

    python benchmarks/bench_lakehouse.py [ROWS]

Publishing parses a Parquet file of trades, checks, deduplicates, sorts and commits it; the bare write reads the
same file and writes it with the same partitions and nothing else.  Each measurement that reports memory runs in a
process of its own; times are medians.
"""

from __future__ import annotations

import json
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from datetime import UTC, date, datetime, timedelta
from pathlib import Path

import numpy as np
import polars as pl

ROWS = 10_000_000
DAYS = 20
SYMBOLS = 50
LATE = 100_000
START = datetime(2024, 1, 1, tzinfo=UTC)


def make_trades(rows: int, seed: int = 1, first_id: int = 0) -> pl.DataFrame:
    """Return trades of SYMBOLS symbols over DAYS days, in order of time, ids rising with time."""
    rng = np.random.default_rng(seed)
    span = DAYS * 86_400_000_000
    ts = np.sort(rng.integers(0, span, rows)) + int(START.timestamp() * 1e6)
    names = np.array([f"S{i:02d}-USDT" for i in range(SYMBOLS)])
    return pl.DataFrame(
        {
            "venue": pl.repeat("binance", rows, eager=True),
            "symbol": pl.Series(names[rng.integers(0, SYMBOLS, rows)]),
            "ts": pl.Series(ts).cast(pl.Datetime("us", "UTC")),
            "trade_id": np.arange(first_id, first_id + rows),
            "price": 100.0 + rng.random(rows),
            "amount": rng.random(rows) + 0.001,
            "side": pl.Series(np.array(["buy", "sell"])[rng.integers(0, 2, rows)]),
            "source": pl.repeat("synthetic", rows, eager=True),
            "source_ref": pl.repeat("bench:1", rows, eager=True),
        }
    )


def publish(folder: Path) -> None:
    from hfthot_platform.storage.lakehouse import Lakehouse

    Lakehouse.open(folder / "lake").table("market.trades").append(pl.scan_parquet(folder / "trades.parquet"))


def bare(folder: Path) -> None:
    from deltalake import write_deltalake

    frame = pl.scan_parquet(folder / "trades.parquet").with_columns(date=pl.col("ts").dt.date()).collect()
    write_deltalake(folder / "bare", frame, partition_by=["date"])


STEPS: dict[str, Callable[[Path], None]] = {"publish": publish, "bare": bare}


def child(step: str, folder: Path) -> None:
    import deltalake  # noqa: F401 - imported before the clock starts, as in a running process

    from hfthot_platform.storage.lakehouse import Lakehouse  # noqa: F401

    started = time.perf_counter()
    STEPS[step](folder)
    seconds = time.perf_counter() - started
    # Linux reports kilobytes.
    print(json.dumps([seconds, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024]))


def measured(step: str, folder: Path) -> tuple[float, float]:
    done = subprocess.run(
        [sys.executable, __file__, "--child", step, str(folder)], capture_output=True, text=True, check=True
    )
    seconds, megabytes = json.loads(done.stdout)
    return seconds, megabytes


def timed(work: Callable[[], object], repeats: int) -> float:
    times = []
    for _ in range(repeats):
        started = time.perf_counter()
        work()
        times.append(time.perf_counter() - started)
    return statistics.median(times)


def main() -> None:
    rows = int(sys.argv[1]) if len(sys.argv) > 1 else ROWS
    table: list[tuple[str, str, str, str, str]] = []
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        make_trades(rows).write_parquet(folder / "trades.parquet")
        import shutil

        results: dict[str, list[tuple[float, float]]] = {"publish": [], "bare": []}
        for repeat in range(3):
            for step, figures in results.items():
                if repeat or step == "bare":
                    shutil.rmtree(folder / {"publish": "lake", "bare": "bare"}[step], ignore_errors=True)
                figures.append(measured(step, folder))
        ours, theirs = (statistics.median(run[0] for run in results[step]) for step in ("publish", "bare"))
        peak, bare_peak = (max(run[1] for run in results[step]) for step in ("publish", "bare"))
        table.append((f"publish {rows:,} trades", f"{ours:.2f} s", f"{theirs:.2f} s", f"{ours / theirs:.2f}", "<= 3"))
        table.append(
            ("  peak memory", f"{peak:,.0f} MB", f"{bare_peak:,.0f} MB", f"{peak / bare_peak:.2f}", "<= 2500 MB")
        )

        from deltalake import DeltaTable

        from hfthot_platform.storage.lakehouse import Lakehouse

        trades = Lakehouse.open(folder / "lake").table("market.trades")
        symbols = ["S03-USDT", "S17-USDT", "S42-USDT"]
        first = date(2024, 1, 5)
        wanted = pl.col("symbol").is_in(symbols) & pl.col("date").is_between(first, first + timedelta(days=4))
        ours = timed(lambda: trades.scan().filter(wanted).collect(), 9)
        theirs = timed(lambda: pl.scan_delta(trades.uri).filter(wanted).collect(), 9)
        table.append(
            (
                "read 3 symbols, 5 days",
                f"{ours * 1e3:.0f} ms",
                f"{theirs * 1e3:.0f} ms",
                f"{ours / theirs:.2f}",
                "<= 1.3",
            )
        )

        late = make_trades(LATE, seed=2, first_id=10 * rows)
        started = time.perf_counter()
        commit = trades.merge(late)
        first_merge = time.perf_counter() - started
        assert commit.rows_published == LATE
        again = timed(lambda: trades.merge(late), 1)
        table.append((f"merge {LATE:,} late trades", f"{first_merge:.2f} s", "", "", "<= 2 s"))
        table.append(("  the same again", f"{again:.2f} s", "", "", ""))
        one_day = late.filter(pl.col("ts").dt.date() == first).with_columns(amount=pl.lit(9.0))
        table.append(
            (f"  update {one_day.height:,} of one day", f"{timed(lambda: trades.merge(one_day), 1):.2f} s", "", "", "")
        )

        closes = Lakehouse.open(folder / "small").table("market.closes")
        row = pl.DataFrame({"date": [first]}).with_columns(
            venue=pl.lit("us_equity"),
            symbol=pl.lit("A"),
            close=pl.lit(1.0),
            adjusted=pl.lit(value=True),
            source=pl.lit("synthetic"),
            source_ref=pl.lit("bench:2"),
        )
        started = time.perf_counter()
        for i in range(1000):
            closes.append(row.with_columns(date=pl.lit(first + timedelta(days=i))))
        per_append = (time.perf_counter() - started) / 1000
        bare_open = timed(lambda: DeltaTable(closes.uri), 9)
        version = timed(closes.version, 9)
        scan = timed(lambda: closes.scan().collect_schema(), 9)
        bare_scan = timed(lambda: pl.scan_delta(DeltaTable(closes.uri)).collect_schema(), 9)
        table.append(("append of one row (mean of 1000)", f"{per_append * 1e3:.1f} ms", "", "", ""))
        table.append(
            (
                "open with 1000 commits",
                f"{version * 1e3:.1f} ms",
                f"{bare_open * 1e3:.1f} ms",
                f"{version / bare_open:.2f}",
                "",
            )
        )
        table.append(
            (
                "scan with 1000 commits",
                f"{scan * 1e3:.1f} ms",
                f"{bare_scan * 1e3:.1f} ms",
                f"{scan / bare_scan:.2f}",
                "",
            )
        )
        table.append(
            (
                "version_at with 1000 commits",
                f"{timed(lambda: closes.version_at(datetime.now(UTC)), 3) * 1e3:.1f} ms",
                "",
                "",
                "",
            )
        )

    table.insert(0, ("", "ours", "bare", "ratio", "target"))
    widths = [max(len(row[i]) for row in table) for i in range(5)]
    for label, *figures in table:
        print(
            label.ljust(widths[0]),
            *(figure.rjust(width) for figure, width in zip(figures, widths[1:], strict=True)),
            sep="  ",
        )


if __name__ == "__main__":
    if sys.argv[1:2] == ["--child"]:
        child(sys.argv[2], Path(sys.argv[3]))
    else:
        main()
