"""What a read costs after few and after many commits: openings of the log, stats of its entries, and time.

    python benchmarks/bench_reads.py            # 5 and 500 commits
    python benchmarks/bench_reads.py 5 100

Each commit puts the newest day's bars in the place of the ones before, as a feed does.  Openings are constructions of
`DeltaTable`; a look at the log's tip is two stats, of the newest entry that is known and of the one after it.  Times
are the best of many reads in one process, the two tables in turn, so that a busy machine slows both; "after a commit"
reads what another process has just committed.  The peer is `pl.scan_delta` on a table that is open already, so it sees
no news at all.  Ends with status 1 if a read that must not depend on the number of commits does.
"""

from __future__ import annotations

import sys
import tempfile
import time
from collections.abc import Callable
from contextlib import ExitStack
from datetime import UTC, datetime, timedelta
from pathlib import Path

import polars as pl
from deltalake import DeltaTable
from rich.console import Console
from rich.table import Table

from hfthot_platform import Lakehouse, LakehouseClient
from hfthot_platform.storage.lakehouse.backends import EntryState
from hfthot_platform.storage.lakehouse.backends.local import LocalBackend

TABLE = "market.bars_1m"
SYMBOL = "BTC-USDT"
START = datetime(2024, 1, 1, tzinfo=UTC)
DAYS = 5
REPEATS = 41
LIMIT = 1.3
COUNTS = {"opened": 0, "stats": 0}


def bars(day: int, price: float) -> pl.DataFrame:
    """Return the one-minute bars of a day."""
    first = pl.lit(START + timedelta(days=day)).cast(pl.Datetime("us", "UTC"))
    return pl.DataFrame({"i": range(1440)}).select(
        ts=first + pl.duration(minutes=pl.col("i")),
        ts_close=first + pl.duration(minutes=pl.col("i") + 1),
        venue=pl.lit("binance"),
        symbol=pl.lit(SYMBOL),
        open=pl.lit(price),
        high=pl.lit(price),
        low=pl.lit(price),
        close=pl.lit(price),
        volume=pl.lit(1.0),
        final=pl.lit(value=True),
        origin=pl.lit("vendor"),
        source=pl.lit("synthetic"),
        source_ref=pl.lit("bench:1"),
    )


def counting() -> None:
    """Count openings of the log and stats of its entries from now on."""
    opened, states, after = DeltaTable.__init__, LocalBackend.entry_states, LocalBackend.entries_after

    def opening(*args: object, **kwargs: object) -> None:
        COUNTS["opened"] += 1
        opened(*args, **kwargs)

    def looking(backend: LocalBackend, *versions: int) -> list[EntryState | None]:
        COUNTS["stats"] += len(versions)
        return states(backend, *versions)

    DeltaTable.__init__ = opening

    def following(self: LocalBackend, version: int, most: int) -> list[EntryState]:
        found = after(self, version, most)
        COUNTS["stats"] += len(found) + 1
        return found

    stamp = LocalBackend.quiet_stamp

    def asking(self: LocalBackend) -> tuple[int, ...] | None:
        COUNTS["stats"] += 1
        return stamp(self)

    LocalBackend.entry_states, LocalBackend.entries_after, LocalBackend.quiet_stamp = looking, following, asking


def made(folder: Path, commits: int) -> Lakehouse:
    """Return a lake whose table has so many versions after its creation."""
    lake = Lakehouse.open(folder / "lake", new=True)
    table = lake.table(TABLE)
    for number in range(commits):
        day = min(number, DAYS - 1)
        table.replace((START + timedelta(days=day)).date(), bars(day, 100.0 + number))
    return lake


def measured(works: list[Callable[[], object]], before: list[Callable[[], object]]) -> list[tuple[float, int, int]]:
    """Return the best seconds, and the most openings and stats of one call, of works that run in turn."""
    taken: list[list[tuple[float, int, int]]] = [[] for _ in works]
    for _ in range(REPEATS):
        for work, prepare, figures in zip(works, before, taken, strict=True):
            prepare()
            COUNTS.update(opened=0, stats=0)
            started = time.perf_counter()
            work()
            figures.append((time.perf_counter() - started, COUNTS["opened"], COUNTS["stats"]))
    return [
        (min(seconds for seconds, _, _ in rows), max(row[1] for row in rows), max(row[2] for row in rows))
        for rows in (figures[2:] for figures in taken)
    ]


def main() -> None:
    few, many = (int(text) for text in sys.argv[1:3]) if len(sys.argv) > 2 else (5, 500)
    titles = ("read", *(f"{title}, {n:,}" for n in (few, many) for title in ("opens", "stats", "ms")), "ratio")
    grid = Table(*titles)
    worst = 0.0
    with tempfile.TemporaryDirectory(prefix="bench-reads-") as name, ExitStack() as open_clients:
        sides = []
        for commits in (few, many):
            folder = Path(name) / str(commits)
            writer = made(folder, commits)
            client = open_clients.enter_context(LakehouseClient(folder))
            middle = writer.table(TABLE).versions()[commits // 2].timestamp
            sides.append((commits, writer.table(TABLE), client, middle, DeltaTable(writer.table(TABLE).uri)))
        time.sleep(3.0)  # a log that has just changed is looked at more closely
        counting()

        def row(what: str, read: Callable[..., object], *, news: bool = False, kept: bool = True) -> None:
            nonlocal worst
            last = DAYS - 1
            commit = (
                [
                    lambda w=w: w.replace((START + timedelta(days=last)).date(), bars(last, 1.0 + time.time() % 1e6))
                    for _, w, *_ in sides
                ]
                if news
                else [lambda: None for _ in sides]
            )
            found = measured([lambda side=side: read(*side) for side in sides], commit)
            ratio = found[1][0] / found[0][0]
            worst = max(worst, ratio) if kept else worst
            cells = [
                f"{value:,}" if number else f"{value * 1e3:.2f}"
                for one in found
                for number, value in ((1, one[1]), (1, one[2]), (0, one[0]))
            ]
            grid.add_row(what, *cells, f"{ratio:.2f}")

        own = [Lakehouse.open(side[1].uri.rsplit("/market", 1)[0]).table(TABLE) for side in sides]
        mine = {side[0]: table for side, table in zip(sides, own, strict=True)}
        row(
            "client.market(...).ohlcv().tail(1).collect()",
            lambda _n, _w, c, *_: c.market(SYMBOL).ohlcv().tail(1).collect(),
        )
        row("client.read_version(newest)", lambda n, _w, c, *_: c.read_version(TABLE, n).tail(1).collect())
        row("version()", lambda n, *_: mine[n].version())
        row("scan()", lambda n, *_: mine[n].scan())
        row("scan().tail(1).collect()", lambda n, *_: mine[n].scan().tail(1).collect())
        # A time is found by halving: some microseconds more with each doubling of the history.
        row("scan(as_of=middle)", lambda n, _w, _c, at, _d: mine[n].scan(as_of=at), kept=False)
        row(
            "pl.scan_delta(open table).tail(1).collect()",
            lambda _n, _w, _c, _a, d: pl.scan_delta(d).tail(1).collect(),
            kept=False,
        )
        row("after a commit: scan().tail(1).collect()", lambda n, *_: mine[n].scan().tail(1).collect(), news=True)
        row(
            "first scan() of a process",
            lambda _n, w, *_: Lakehouse.open(w.uri.rsplit("/market", 1)[0]).table(TABLE).scan(),
            kept=False,
        )
    Console(file=sys.stdout, width=160).print(grid)
    print(f"worst ratio {worst:.2f}; at most {LIMIT} is promised")
    sys.exit(worst > LIMIT)


if __name__ == "__main__":
    main()
