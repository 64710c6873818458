"""Backtests of vectorised strategies, beside the shortest NumPy that ignores cash, units and round trips.

    python benchmarks/bench_backtest.py [bars in millions]

Each time includes the strategy, the check that it does not look ahead (eight runs on the first bars), the account,
round trips and figures; the target is 2 M bars/s.  The bare NumPy multiplies yesterday's position with returns.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Callable

import numpy as np
from rich.console import Console
from rich.table import Table

from hfthot_platform.core.arrays import FloatArray
from hfthot_platform.domain.market.panel import Bars
from hfthot_platform.domain.models.backtest import Costs, backtest
from hfthot_platform.domain.models.strategy import MeanReversion, TrendFollowing

REPEATS = 5
MINUTE = 60_000_000


def generate(size: int, symbols: int) -> Bars:
    """Return random walks."""
    rng = np.random.default_rng(7)
    closes = 100 * np.exp(np.cumsum(0.001 * rng.standard_normal((size, symbols)), axis=0))
    opens = np.vstack([closes[:1], closes[:-1]])
    high, low = np.maximum(opens, closes), np.minimum(opens, closes)
    names = tuple(f"S{i}" for i in range(symbols))
    return Bars(MINUTE * np.arange(size), names, opens, high, low, closes, np.ones_like(closes))


def momentum(bars: Bars) -> FloatArray:
    """Take the sign of the last hour's move, as anyone would write it; an order on every bar."""
    x = np.log(bars.close)
    out = np.full_like(x, np.nan)
    out[60:] = np.sign(x[60:] - x[:-60]) / x.shape[1]
    return out


def bare(bars: Bars) -> float:
    """Return the end of the equity curve of `momentum` without an account."""
    position = np.nan_to_num(momentum(bars))
    returns = np.diff(bars.close, axis=0) / bars.close[:-1]
    traded = np.abs(np.diff(position, axis=0))[:-1]
    earned = (position[:-1] * returns).sum(axis=1)
    earned[1:] -= 0.0015 * traded.sum(axis=1)
    return float(np.cumprod(1 + earned)[-1])


def best(run: Callable[[], object]) -> float:
    """Return the best of several timings in seconds."""
    times = []
    for _ in range(REPEATS):
        start = time.perf_counter()
        run()
        times.append(time.perf_counter() - start)
    return min(times)


def main() -> None:
    """Print the table."""
    size = int(float(sys.argv[1]) * 1e6) if len(sys.argv) > 1 else 2_000_000
    table = Table(title=f"Backtests, best of {REPEATS}; target 2 M bars/s")
    for name in ("what", "bars", "seconds", "M bars/s"):
        table.add_column(name, justify="left" if name == "what" else "right")
    for symbols in (1, 20):
        bars = generate(size // symbols, symbols)
        rows: list[tuple[str, Callable[[], object]]] = [
            ("TrendFollowing()", lambda bars=bars: backtest(TrendFollowing(), bars)),
            ("MeanReversion()", lambda bars=bars: backtest(MeanReversion(), bars)),
            ("a NumPy function, orders on every bar", lambda bars=bars: backtest(momentum, bars, Costs(1e-6, 0.0))),
            (
                "the same, causality not checked",
                lambda bars=bars: backtest(momentum, bars, Costs(1e-6, 0.0), causality_cuts=0),
            ),
            ("bare NumPy, no account", lambda bars=bars: bare(bars)),
        ]
        for what, run in rows:
            run()  # compiles
            seconds = best(run)
            done = len(bars) * symbols
            name = f"{what}, {symbols} symbol{'s' if symbols > 1 else ''}"
            table.add_row(name, f"{done:,}", f"{seconds:.3f}", f"{done / seconds / 1e6:.1f}")
    Console().print(table)


if __name__ == "__main__":
    main()
