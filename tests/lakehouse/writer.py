"""A process that writes to `market.trades` until it is told to stop or is killed; run by the concurrency tests.

    python writer.py LAKE KIND NUMBER SECONDS SIDE_FILE [OPTIONS_JSON]

Each acknowledged batch is one line in SIDE_FILE: kind and trade ids.  Before a batch is written, the line
`? kind first_id` says that it is under way, so that a re-run knows what to finish.
"""

from __future__ import annotations

import json
import os
import random
import sys
import time
from datetime import UTC, datetime, timedelta
from pathlib import Path

import polars as pl

from hfthot_platform.core.errors import CommitConflictError
from hfthot_platform.storage.lakehouse import Lakehouse, Stamp, maintain

DAY = datetime(2024, 1, 1, tzinfo=UTC)
BATCH = 5


def batch(writer: int, number: int) -> pl.DataFrame:
    """Return the trades of one batch: ids that no other batch has, on a day that others write too."""
    first = writer * 1_000_000 + number * BATCH
    ts = DAY + timedelta(days=number % 3, seconds=first % 80_000)
    return pl.DataFrame(
        {
            "venue": "kraken",
            "symbol": [f"S{(first + i) % 7}-USD" for i in range(BATCH)],
            "ts": [ts + timedelta(microseconds=writer * 10 + i) for i in range(BATCH)],
            "trade_id": [first + i for i in range(BATCH)],
            "price": [100.0 + (first + i) % 7 for i in range(BATCH)],
            "amount": 1.0,
            "source": "replay",
            "source_ref": f"writer:{writer}:{number}",
        }
    )


def publish(lake: Lakehouse, kind: str, rows: pl.DataFrame, stamp: Stamp) -> int:
    """Write a batch in one of the three ways; return the version."""
    table = lake.table("market.trades")
    if kind == "append":
        return table.append(rows, stamp=stamp).version
    if kind == "merge":
        return table.merge(rows, stamp=stamp).version
    day = rows["ts"][0].date()
    conformed = table.audit(rows).rows

    def with_ours(now: pl.LazyFrame) -> pl.DataFrame:
        # What is there, and ours: a row of another writer that got lost in between would be missed at the end.
        return pl.concat([now.join(conformed.lazy(), on="trade_id", how="anti"), conformed.lazy()]).collect()

    return table.replace(day, with_ours, stamp=stamp).version


def main() -> None:
    root, kind, number, seconds, side, *options = sys.argv[1:]
    lake = Lakehouse.open(root, json.loads(options[0]) if options else None)
    writer = int(number)
    dice = random.Random(writer)
    deadline = time.monotonic() + float(seconds)
    start = 0
    path = Path(side)
    if path.exists():
        lines = [line.split() for line in path.read_text().splitlines()]
        start = 1 + max((int(line[2]) for line in lines if line[0] == "?"), default=-1)
    with path.open("a") as out:
        print("ready", flush=True)
        while time.monotonic() < deadline:
            chosen = dice.choice(["append", "merge", "replace", "compact"]) if kind == "any" else kind
            if chosen == "compact":
                out.write("begin compact\n")
                out.flush()
                # Files so small that a day becomes several, by ranges of symbols.
                maintain(lake, "market.trades", history_days=0 if dice.random() < 0.3 else None, file_bytes=7_000)
                out.write("end compact\n")
                out.flush()
                continue
            out.write(f"? {chosen} {start}\n")
            out.flush()
            try:
                version = publish(lake, chosen, batch(writer, start), Stamp(run_id=f"writer-{writer}"))
            except CommitConflictError:
                out.write(f"conflict {chosen} {start}\n")
            else:
                out.write(f"ok {chosen} {start} {version}\n")
            out.flush()
            os.fsync(out.fileno())
            start += 1


if __name__ == "__main__":
    main()
