"""How long SQL models take to load: 200 models of different sizes, from files to contracts.

    python benchmarks/bench_sql_models.py

"small" are 100 views of five lines and 100 incremental models of ten that read them; "shipped" are the models in
`dbt_like_sql`, copied under other names until there are 200.  Every figure is the wall time of a fresh process: the
imports, the first load (what a process that loads definitions pays), and a load in a warm process.
"""

from __future__ import annotations

import itertools
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path

from rich.console import Console
from rich.table import Table

REPOSITORY = Path(__file__).resolve().parent.parent
SHIPPED = REPOSITORY / "dbt_like_sql"
MODELS = 200
REPEATS = 5
#: Limit of the project in seconds for the first load of 200 models.
LIMIT = 2.0

_VIEW = """\
/*
description: Final one-minute bars.
owner: research
materialized: view
columns: {close: {tests: [not_null, {range: {min: 0}}]}}
*/
SELECT ts, venue, symbol, open, high, low, close, volume
FROM market.bars_1m
WHERE final
"""
_MART = """\
/*
description: Daily closes and returns.
owner: research
materialized: incremental
unique_key: [venue, symbol, date]
partitioned_by: date
columns: {close: {description: Last close, tests: [not_null]}, bars: {tests: [{range: {min: 1}}]}}
*/
WITH days AS (
  SELECT venue, symbol, CAST(ts AS DATE) AS date, arg_max(close, ts) AS close, count(*) AS bars
  FROM staging.bars_NUMBER
  WHERE ts >= $partition_start - INTERVAL 7 DAY AND ts < $partition_end
  GROUP BY ALL
)
SELECT venue, symbol, date, close, bars, ln(close / lag(close) OVER (PARTITION BY venue, symbol ORDER BY date)) AS r
FROM days
QUALIFY date >= $partition_start
"""
_LOAD = """
import sys, time
from pathlib import Path
started = time.perf_counter()
from hfthot_platform.services.sql.models import load_models
imported = time.perf_counter()
count = len(load_models(Path(sys.argv[1])))
loaded = time.perf_counter()
load_models(Path(sys.argv[1]))
print(count, imported - started, loaded - imported, time.perf_counter() - loaded)
"""


def small(folder: Path) -> None:
    """Write views, and models that read them."""
    for layer in ("staging", "marts"):
        (folder / layer).mkdir(parents=True)
    for number in range(MODELS // 2):
        (folder / "staging" / f"bars_{number}.sql").write_text(_VIEW)
        (folder / "marts" / f"returns_{number}.sql").write_text(_MART.replace("NUMBER", str(number)))


def shipped(folder: Path) -> None:
    """Write the shipped models, and copies of them that read the originals."""
    files = sorted(SHIPPED.rglob("*.sql"))
    for number, file in zip(range(MODELS), itertools.cycle(files), strict=False):
        copy = number // len(files)
        target = folder / file.parent.name / f"{file.stem}{f'_{copy}' if copy else ''}.sql"
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_text(file.read_text())


def measure(folder: Path) -> tuple[int, list[tuple[float, float, float]]]:
    """Return the number of models, and the times of fresh processes."""
    times: list[tuple[float, float, float]] = []
    count = 0
    for _ in range(REPEATS):
        command = [sys.executable, "-c", _LOAD, str(folder)]
        done = subprocess.run(command, cwd=REPOSITORY, capture_output=True, text=True, check=False, timeout=120)
        if done.returncode:
            sys.exit(done.stderr)
        words = done.stdout.split()
        count = int(words[0])
        times.append((float(words[1]), float(words[2]), float(words[3])))
    return count, times


def main() -> None:
    """Print the table."""
    table = Table(title=f"Loading SQL models, seconds; median of {REPEATS} fresh processes")
    for title in ("models", "number", "bytes", "imports", "first load", "lowest", "again", "limit", ""):
        table.add_column(title, justify="left" if title in {"models", ""} else "right")
    with tempfile.TemporaryDirectory(prefix="hfthot-bench-") as scratch:
        for what, write in (("small", small), ("shipped", shipped)):
            folder = Path(scratch) / what
            write(folder)
            count, times = measure(folder)
            imports, first, again = (statistics.median(column) for column in zip(*times, strict=True))
            size = sum(file.stat().st_size for file in folder.rglob("*.sql"))
            table.add_row(
                what,
                f"{count}",
                f"{size:,}",
                f"{imports:.2f}",
                f"{first:.2f}",
                f"{min(time[1] for time in times):.2f}",
                f"{again:.2f}",
                f"{LIMIT:g}",
                "within" if first <= LIMIT else "OVER",
            )
    Console().print(table)


if __name__ == "__main__":
    main()
