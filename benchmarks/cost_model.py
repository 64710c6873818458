"""What a market of a given size costs a day and in some years: rows, bytes, files, requests, events, processor time.

    python benchmarks/cost_model.py [SYMBOLS] [TRADES_A_DAY] [YEARS]

By default 10,000 symbols, 50 million trades a day in all, 5 years: the table of docs/scale.md, which a test compares.
Each line is a formula of the measured constants below.
"""

from __future__ import annotations

import math
import sys

from hfthot_platform.core.intervals import DERIVED, interval
from hfthot_platform.storage.lakehouse.compaction import TARGET_BYTES
from hfthot_platform.storage.lakehouse.units import MOST_ROWS

__all__ = ["cost_table"]

#: Stored bytes of a row, least and most of what was measured on 10 million trades of 50 symbols.
TRADE_BYTES = 27.7, 31.3
BAR_BYTES = 73.0
#: Memory of a row of trades while its bars are computed, in bytes.
WORKING_BYTES = 347.0
#: Processor seconds of bars of a million trades, and of a regime fit of 1,500 bars.
BARS_SECONDS = 0.61, 0.67
FIT_SECONDS = 0.057, 0.079
#: Live runs a day (every five minutes), tables that each commits to, requests of a merge at most.
RUNS, TABLES, MERGE_REQUESTS = 288, 5, 15
#: Event log of Dagster in MB a day of those runs, and what the nightly purge leaves.
EVENTS_MB, EVENTS_KEPT_MB = 25, 13
#: Days for which old versions stay.
HISTORY_DAYS = 30


def _bars(symbols: int, trades: int, minutes: float) -> float:
    """Return the bars of a length that trades at random times fill, each symbol trading alike."""
    bars = 1440 / minutes
    return symbols * bars * (1 - math.exp(-trades / symbols / bars))


def _count(value: float) -> str:
    for unit, size in (("G", 1e9), ("M", 1e6), ("k", 1e3)):
        if value >= size:
            return f"{value / size:.3g} {unit}"
    return f"{value:.0f}"


def _bytes(value: float) -> str:
    return f"{value / 1e12:.2f} TB" if value >= 1e12 else f"{value / 1e9:.2f} GB"


def _span(low: float, high: float) -> str:
    return f"{low:.0f} to {high:.0f}"


def cost_table(symbols: int = 10_000, trades: int = 50_000_000, years: int = 5) -> list[str]:
    """Return the lines of a Markdown table.

    Args:
        symbols: that trade alike.
        trades: of all symbols a day.
        years: of 365.25 days.
    """
    days = years * 365.25
    minutes = _bars(symbols, trades, 1)
    longer = sum(_bars(symbols, trades, interval(name).microseconds / 60e6) for name in DERIVED)
    low, high = (trades * size for size in TRADE_BYTES)
    kinds = {
        "trades": (trades, high),
        "1m bars": (minutes, minutes * BAR_BYTES),
        "longer bars": (longer, longer * BAR_BYTES),
    }
    lines = ["| | a day | in all |", "|---|---|---|"]
    lines += [f"| rows of {name} | {_count(rows)} | {_count(rows * days)} |" for name, (rows, _) in kinds.items()]
    sizes = (f"{_bytes(low * span)} to {_bytes(high * span)}" for span in (1, days))
    lines.append(f"| bytes of trades | {' | '.join(sizes)} |")
    for name, (_, size) in list(kinds.items())[1:]:
        lines.append(f"| bytes of {name} | {_bytes(size)} | {_bytes(size * days)} |")
    files = sum(math.ceil(size / TARGET_BYTES) for _, size in kinds.values())
    lines.append(f"| files of 128 MiB after the nightly compaction | {files} | {_count(files * days)} |")
    commits = RUNS * TABLES
    lines.append(f"| commits of live data, every 5 minutes to {TABLES} tables | {_count(commits)} | |")
    lines.append(f"| versions of a table that stay, {HISTORY_DAYS} days | {_count(RUNS * HISTORY_DAYS)} | |")
    lines.append(f"| requests for those commits, at most | {_count(commits * MERGE_REQUESTS)} | |")
    kept = EVENTS_KEPT_MB * 1e6 * days
    lines.append(f"| Dagster's event log, and after the purge | {EVENTS_MB} MB | {_bytes(kept)} |")
    seconds = [trades / 1e6 * cost for cost in BARS_SECONDS]
    lines.append(
        f"| processor time of 1m bars | {_span(*seconds)} s | {_span(*(cost * days / 3600 for cost in seconds))} h |"
    )
    fits = _span(*(symbols * cost for cost in FIT_SECONDS))
    lines.append(f"| processor time of a refit of all regimes | {fits} s | |")
    units = math.ceil(trades / MOST_ROWS)
    lines.append(
        f"| memory of a day's bars: in one piece, and in {units} units | "
        f"{_bytes(trades * WORKING_BYTES)}, {_bytes(MOST_ROWS * WORKING_BYTES)} | |"
    )
    return lines


if __name__ == "__main__":
    print("\n".join(cost_table(*map(int, sys.argv[1:]))))
