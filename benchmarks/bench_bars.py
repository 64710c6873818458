"""Trades to 1m bars, beside the bare Polars lazy group-by of the same rows.

    python benchmarks/bench_bars.py [trades in millions]

The bare group-by computes five columns, in no particular order and with sums that differ in their last bits
from run to run; `bars_from_trades` computes the sixteen of the contract, sorted and reproducible.
"""

from __future__ import annotations

import gc
import sys
import time
from collections.abc import Callable

import numpy as np
import polars as pl
from rich.console import Console
from rich.table import Table

from hfthot_platform.domain.market.bars import bars_from_bars, bars_from_trades

SYMBOLS = 10
DAYS = 10
REPEATS = 5


def generate(n: int) -> pl.DataFrame:
    """Return n trades of ten symbols over ten days, in the order in which they are stored."""
    rng = np.random.default_rng(7)
    per_symbol = n // SYMBOLS
    start = 1_704_067_200_000_000
    ts = np.sort(rng.integers(0, DAYS * 86_400_000_000, size=(SYMBOLS, per_symbol)), axis=1) + start
    return pl.DataFrame(
        {
            "venue": pl.repeat("binance", per_symbol * SYMBOLS, eager=True),
            "symbol": np.repeat([f"S{i}-USDT" for i in range(SYMBOLS)], per_symbol),
            "ts": pl.Series(ts.ravel()).cast(pl.Datetime("us", "UTC")),
            "trade_id": np.arange(per_symbol * SYMBOLS),
            "price": 100 * np.exp(0.0001 * rng.standard_normal((SYMBOLS, per_symbol)).cumsum(axis=1)).ravel(),
            "amount": rng.lognormal(size=per_symbol * SYMBOLS),
            "side": np.where(rng.random(per_symbol * SYMBOLS) < 0.5, "buy", "sell"),
            "source": pl.repeat("synthetic", per_symbol * SYMBOLS, eager=True),
            "source_ref": pl.repeat("benchmark", per_symbol * SYMBOLS, eager=True),
        }
    )


def bare(trades: pl.DataFrame) -> pl.DataFrame:
    """Group as anyone would write it."""
    return (
        trades.lazy()
        .group_by("symbol", "venue", pl.col("ts").dt.truncate("1m"))
        .agg(
            open=pl.col("price").first(),
            high=pl.col("price").max(),
            low=pl.col("price").min(),
            close=pl.col("price").last(),
            volume=pl.col("amount").sum(),
        )
        .collect()
    )


def best(run: Callable[[], object], repeats: int = REPEATS) -> float:
    """Return the best of several timings in seconds."""
    times = []
    for _ in range(repeats):
        gc.collect()
        start = time.perf_counter()
        run()
        times.append(time.perf_counter() - start)
    return min(times)


def main() -> None:
    """Print the table."""
    n = int(float(sys.argv[1]) * 1e6) if len(sys.argv) > 1 else 10_000_000
    text = generate(n)
    names = ["venue", "symbol", "side", "source", "source_ref"]
    table = Table(title=f"{n:,} trades, {SYMBOLS} symbols, best of {REPEATS}")
    for title in ("what", "seconds", "M trades/s", "ratio to bare"):
        table.add_column(title, justify="left" if title == "what" else "right")
    for form, trades in (("text keys", text), ("coded keys", text.with_columns(pl.col(names).cast(pl.Categorical)))):
        reference = best(lambda trades=trades: bare(trades))
        rows = [
            (f"bare lazy group-by, {form}", reference),
            (f"bars_from_trades, {form}", best(lambda trades=trades: bars_from_trades(trades))),
        ]
        if form == "text keys":
            shuffled = trades.sample(fraction=1.0, shuffle=True, seed=1)
            rows.append(
                ("bars_from_trades, rows shuffled (once)", best(lambda rows=shuffled: bars_from_trades(rows), 1))
            )
        for what, seconds in rows:
            table.add_row(what, f"{seconds:.3f}", f"{n / seconds / 1e6:.0f}", f"{seconds / reference:.2f}")
    minutes = bars_from_trades(text)
    for interval in ("5m", "1d"):
        seconds = best(lambda interval=interval: bars_from_bars(minutes, interval))
        table.add_row(f"bars_from_bars {interval}, {minutes.height:,} rows", f"{seconds:.3f}", "", "")
    Console().print(table)


if __name__ == "__main__":
    main()
