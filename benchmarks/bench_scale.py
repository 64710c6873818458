"""Bars and regime fits on one host and on two, beside the local loop, Polars and joblib on one machine, in one run.

    python benchmarks/bench_scale.py [TRADES] [FITS]

By default 50 million trades and 500 fits; targets: two hosts >= 1.7 x one, processor time of tasks <= 1.1 x the loop's.
The hosts are network namespaces with one processor each for Ray (see `make scale`, which says what is needed); both
read the trades from one folder, and commit nothing.  Ratios are of this run.
"""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from datetime import UTC, datetime, timedelta
from functools import partial
from pathlib import Path
from typing import Any

REPOSITORY = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(REPOSITORY))

DAYS, SYMBOLS = 20, 50
FIRST = datetime(2024, 1, 1, tzinfo=UTC)
BARS_OF_FIT = 1_500


def write(root: str, trades: int) -> None:
    """Write the trades, each day its part."""
    import numpy as np
    import polars as pl

    from hfthot_platform.storage.lakehouse import Lakehouse

    table = Lakehouse.open(root, new=True).table("market.trades")
    names = pl.Series([f"S{number:03d}-USD" for number in range(SYMBOLS)])
    count = trades // DAYS
    for day in range(DAYS):
        random = np.random.default_rng(day)
        times = pl.Series(np.sort(random.integers(0, 86_400_000_000, count)))
        table.append(
            pl.DataFrame(
                {
                    "venue": pl.repeat("binance", count, eager=True),
                    "symbol": names.gather(random.integers(0, SYMBOLS, count)),
                    "ts": times.cast(pl.Duration("us")) + (FIRST + timedelta(days=day)),
                    "trade_id": np.arange(count) + day * count,
                    "price": 100 * np.exp(random.normal(0, 0.01, count)),
                    "amount": random.exponential(1.0, count),
                    "side": pl.repeat("buy", count, eager=True),
                    "source": pl.repeat("replay", count, eager=True),
                    "source_ref": pl.repeat(f"bench:{day}", count, eager=True),
                }
            )
        )


def bars_of_day(root: str, day: int) -> tuple[Any, float]:
    """Return the number of bars and their volume, and the processor time."""
    import polars as pl

    from hfthot_platform.domain.market.bars import bars_from_trades
    from hfthot_platform.storage.lakehouse import Lakehouse

    started = time.process_time()
    on = (FIRST + timedelta(days=day)).date()
    bars = bars_from_trades(Lakehouse.open(root).table("market.trades").scan().filter(pl.col("date") == on))
    return (bars.height, bars["volume"].sum()), time.process_time() - started


def fit(seed: int) -> tuple[Any, float]:
    """Return the names and means of a model, and the processor time."""
    import numpy as np

    from hfthot_platform.domain.models.regime import fit_regimes

    started = time.process_time()
    returns = 0.01 * np.random.default_rng(seed).standard_t(4, BARS_OF_FIT)
    model = fit_regimes(returns, observation="ar1", n_bootstrap=100)
    return (model.labels, model.mu.tolist()), time.process_time() - started


def timed(run: Callable[[], Sequence[tuple[Any, float]]]) -> tuple[float, float, list[Any]]:
    """Return seconds, processor seconds of the tasks, and the results."""
    started = time.perf_counter()
    found = run()
    return time.perf_counter() - started, sum(cpu for _, cpu in found), [result for result, _ in found]


def compare(name: str, work: Callable[[Any], tuple[Any, float]], items: Sequence[Any], hosts: Any) -> None:
    """Print one kind of work in all forms."""
    import joblib

    from hfthot_platform.services.cluster import RayCluster
    from tests.scale.hosts import ADDRESSES, wait_until

    def warm() -> None:
        # Workers start and load the libraries once per node: that is not the work.
        list(cluster.map(work, list(items[:4]) * 4))

    forms: dict[str, tuple[float, float, list[Any]]] = {}
    work(items[0])
    forms["loop"] = timed(lambda: [work(item) for item in items])
    with joblib.Parallel(n_jobs=2) as parallel:
        parallel(joblib.delayed(work)(item) for item in items[:4])
        forms["joblib, 2 processes"] = timed(lambda: parallel(joblib.delayed(work)(item) for item in items))
    with RayCluster(2, f"{ADDRESSES[0]}:6379") as cluster:
        for form in ("one host", "two hosts"):
            hosts.kill_second()
            wait_until(lambda: not hosts.second_is_alive(), 120, "Ray misses the second host")
            if form == "two hosts":
                hosts.start_second()
            warm()
            forms[form] = timed(lambda: list(cluster.map(work, items)))
    loop = forms["loop"]
    print(f"\n{name}")
    for form, (seconds, cpu, results) in forms.items():
        same = "the same results" if results == loop[2] else "OTHER RESULTS"
        print(f"  {form:20} {seconds:8.1f} s  tasks {cpu:8.1f} s ({cpu / loop[1]:.2f} x the loop)  {same}")
    print(f"  two hosts are {forms['one host'][0] / forms['two hosts'][0]:.2f} x one", flush=True)


def polars(root: str) -> None:
    """Print the time of a group by minute of all days on one machine, with all threads."""
    import polars as pl

    from hfthot_platform.storage.lakehouse import Lakehouse

    started = time.perf_counter()
    price, amount = pl.col("price"), pl.col("amount")
    minutes = (
        Lakehouse.open(root)
        .table("market.trades")
        .scan()
        .group_by("venue", "symbol", pl.col("ts").dt.truncate("1m"))
        .agg(price.max().alias("high"), price.min().alias("low"), amount.sum(), pl.len())
        .collect()
    )
    seconds = time.perf_counter() - started
    print(f"Polars, group by minute (4 columns, no units): {minutes.height} bars in {seconds:.1f} s")


def inside(second: str, trades: int, fits: int) -> None:
    """Run everything on the first host."""
    from tests.object_store import serving
    from tests.scale.hosts import ADDRESSES, Hosts

    with tempfile.TemporaryDirectory() as folder:
        root = str(Path(folder) / "lake")
        write(root, trades)
        own = {"POLARS_MAX_THREADS": "1", "OMP_NUM_THREADS": "1", "HFTHOT_SCRATCH": folder}
        with serving(address=ADDRESSES[0]) as store, Hosts(second, store, own, processors=(1, 1)) as hosts:
            hosts.kill_daemon()
            os.environ.update(hosts.environment)
            compare(f"bars of {trades:,} trades", partial(bars_of_day, root), list(range(DAYS)), hosts)
            compare(f"{fits} regime fits", fit, list(range(fits)), hosts)
        command = [sys.executable, __file__, "--polars", root]
        subprocess.run(command, check=True, env=os.environ | {"POLARS_MAX_THREADS": str(os.cpu_count())})


def main() -> None:
    """Make the hosts, and run this file on the first."""
    from tests.scale.__main__ import missing, two_hosts

    lacking = list(missing())
    if lacking:
        print("not run:", *lacking, sep="\n  ")
        return
    trades, fits = (*map(int, sys.argv[1:]), *(50_000_000, 500)[len(sys.argv) - 1 :])
    with two_hosts() as (first, second), tempfile.TemporaryDirectory(prefix="s-", ignore_cleanup_errors=True) as folder:
        Path(folder).chmod(0o711)
        again = [sys.executable, __file__, "--inside", second, str(trades), str(fits)]
        # One thread in the loop too: a task has one processor.
        own = {"TMPDIR": folder, "POLARS_MAX_THREADS": "1", "OMP_NUM_THREADS": "1"}
        subprocess.run(["ip", "netns", "exec", first, *again], check=True, env=os.environ | own)


if __name__ == "__main__":
    if sys.argv[1:2] == ["--inside"]:
        inside(sys.argv[2], int(sys.argv[3]), int(sys.argv[4]))
    elif sys.argv[1:2] == ["--polars"]:
        polars(sys.argv[2])
    else:
        main()
