"""Peak memory and time of a day of many trades: compaction and bars, each step in a process of its own.

    python benchmarks/bench_units.py [ROWS] [SYMBOLS] [--whole]

By default 50 million trades of 10,000 symbols; the limit is 4 GB of memory a step.  `--whole` also computes the bars of
the day at once, as a comparison; at 50 million that takes more memory than most machines have.  The trades come in 24
commits of all symbols, as a live day does.
"""

from __future__ import annotations

import itertools
import json
import resource
import subprocess
import sys
import tempfile
import time
from datetime import UTC, date, datetime
from pathlib import Path

DAY = date(2024, 1, 1)
COMMITS = 24
LIMIT_GB = 4.0


def write(root: str, rows: int, symbols: int) -> str:
    """Write the trades of a day."""
    import numpy as np
    import polars as pl

    from hfthot_platform.storage.lakehouse import Lakehouse

    table = Lakehouse.open(root, new=True).table("market.trades")
    names = pl.Series([f"S{number:05d}-USD" for number in range(symbols)])
    midnight = datetime.combine(DAY, datetime.min.time(), UTC)
    hour = 86_400_000_000 // COMMITS
    per_commit = rows // COMMITS
    for commit in range(COMMITS):
        random = np.random.default_rng(commit)
        times = pl.Series(np.sort(random.integers(commit * hour, (commit + 1) * hour, per_commit)))
        frame = pl.DataFrame(
            {
                "venue": pl.repeat("binance", per_commit, eager=True),
                "symbol": names.gather(random.integers(0, symbols, per_commit)),
                "ts": times.cast(pl.Duration("us")) + midnight,
                "trade_id": np.arange(per_commit) + commit * per_commit,
                "price": 100 * np.exp(random.normal(0, 0.01, per_commit)),
                "amount": random.exponential(1.0, per_commit),
                "side": pl.repeat("buy", per_commit, eager=True),
                "source": pl.repeat("replay", per_commit, eager=True),
                "source_ref": pl.repeat(f"bench:{commit}", per_commit, eager=True),
            }
        )
        table.append(frame)
    size, files = table.bytes_and_files()
    return f"{files} files, {size / 1e6:.0f} MB"


def compact(root: str) -> str:
    """Compact it."""
    from hfthot_platform.storage.lakehouse import Lakehouse, maintain

    lake = Lakehouse.open(root)
    report = maintain(lake, "market.trades", history_days=0)
    files = lake.table("market.trades").files()
    spans = sorted(
        zip(files.entries.column("min.symbol").to_pylist(), files.entries.column("max.symbol").to_pylist(), strict=True)
    )
    apart = all(high < low for (_, high), (low, _) in itertools.pairwise(spans))
    return f"{report.files_compacted} files became {len(spans)}, {'without' if apart else 'WITH'} overlap"


def bars(root: str, table: str, most_rows: int = 4_000_000) -> str:
    """Derive a table, unit by unit where the day has more rows."""
    from hfthot_platform.core.settings import Settings
    from hfthot_platform.core.time import ONE_DAY
    from hfthot_platform.services.derive.tables import derive_table
    from hfthot_platform.storage.lakehouse import Lakehouse

    with tempfile.TemporaryDirectory(dir=Path(root).parent) as scratch:
        settings = Settings(lake_root=root, scratch=Path(scratch))
        (commit,) = derive_table(
            Lakehouse.open(root), table, (DAY, DAY + ONE_DAY), settings=settings, most_rows=most_rows
        )
    return f"{commit.rows_published} rows in {commit.files_added} files"


STEPS = {
    "write": write,
    "bars_1m before compaction": lambda root: bars(root, "market.bars_1m"),
    "compact": compact,
    "bars_1m": lambda root, *most: bars(root, "market.bars_1m", *most),
    "bars": lambda root: bars(root, "market.bars"),
    "bars_1m at once": lambda root: bars(root, "market.bars_1m", 10**9),
}


def run(step: str, root: str, *arguments: int) -> dict[str, float | str]:
    """Run a step in a process of its own; return what it said, its time and its peak memory."""
    command = [sys.executable, __file__, "--step", step, root, *map(str, arguments)]
    done = subprocess.run(command, check=True, capture_output=True, text=True)
    found: dict[str, float | str] = json.loads(done.stdout.splitlines()[-1])
    return found


def main() -> None:
    """Run all steps and print a table."""
    numbers = [int(word) for word in sys.argv[1:] if word.isdigit()]
    rows = numbers[0] if numbers else 50_000_000
    symbols = numbers[1] if len(numbers) > 1 else 10_000
    steps = [name for name in STEPS if name != "bars_1m at once" or "--whole" in sys.argv]
    with tempfile.TemporaryDirectory(prefix="hfthot-bench-") as folder:
        for step in steps:
            found = run(step, str(Path(folder) / "lake"), *((rows, symbols) if step == "write" else ()))
            within = (
                ""
                if step in {"write", "bars_1m at once"} or float(found["gigabytes"]) <= LIMIT_GB
                else "  OVER THE LIMIT"
            )
            print(
                f"{step:26} {found['seconds']:8.1f} s {found['gigabytes']:6.2f} GB  {found['said']}{within}", flush=True
            )


if __name__ == "__main__":
    if sys.argv[1:2] == ["--step"]:
        started = time.perf_counter()
        said = STEPS[sys.argv[2]](sys.argv[3], *map(int, sys.argv[4:]))
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
        print(json.dumps({"said": said, "seconds": time.perf_counter() - started, "gigabytes": peak / 1e9}))
    else:
        main()
