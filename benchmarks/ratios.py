"""The ratios that are kept: what we cost beside a peer on the same work, in one run, against `baseline.json`.

    python benchmarks/ratios.py             # print them; status 1 if one is above its limit
    python benchmarks/ratios.py --update    # and write what was measured as the new baseline

Both sides of a ratio run in turn and the best of several runs counts, so that a busy machine slows both.  A limit is
what the baseline allows: three halves of what was measured when it was written, and never above the promised one.
The single benchmarks beside this file say more about each.
"""

from __future__ import annotations

import argparse
import gc
import json
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path

import numpy as np
import polars as pl
from rich.console import Console
from rich.table import Column, Table

BASELINE = Path(__file__).with_name("baseline.json")
SLACK = 1.5


@dataclass(frozen=True)
class Ratio:
    """A piece of our work beside another one."""

    name: str
    ours: Callable[[], object]
    peer: Callable[[], object]
    #: What is promised in the documents, whatever the baseline says.
    promised: float
    repeats: int = 7


def measured(ratio: Ratio) -> tuple[float, float]:
    """Return the best seconds of ours and of the peer's, run in turn."""
    works = (ratio.ours, ratio.peer)
    for work in works:
        work()
    taken: tuple[list[float], list[float]] = ([], [])
    for _ in range(ratio.repeats):
        for work, times in zip(works, taken, strict=True):
            gc.collect()
            started = time.perf_counter()
            work()
            times.append(time.perf_counter() - started)
    return min(taken[0]), min(taken[1])


def bars() -> Iterator[Ratio]:
    """One-minute bars from trades."""
    from bench_bars import bare, generate

    from hfthot_platform.domain.market.bars import bars_from_trades

    trades = generate(2_000_000)
    yield Ratio("bars from trades / bare lazy group-by", lambda: bars_from_trades(trades), lambda: bare(trades), 12.0)


def regimes() -> Iterator[Ratio]:
    """Fitting and filtering regimes."""
    from bench_regime import known
    from hmmlearn.hmm import GaussianHMM

    from hfthot_platform.domain.models.regime import fit_regimes

    y, _ = known((0.45, -0.45, 0.0), (1.0, 0.8, 2.5), 0.985).simulate(10_000, seed=0)
    model = fit_regimes(y, observation="ar1", n_bootstrap=20, n_restarts=2)
    peer = GaussianHMM(3, "diag")
    peer.startprob_, peer.transmat_ = model.initial, model.transition
    peer.means_, peer.covars_, peer.n_features = model.mu[:, None], (model.sigma**2)[:, None], 1
    window, column = y[:200].copy(), y[:200, None].copy()

    def filters() -> None:
        for _ in range(500):
            model.filter(window)

    def smooths() -> None:
        for _ in range(500):
            peer.predict_proba(column)

    yield Ratio("filter of 200 bars / hmmlearn predict_proba", filters, smooths, 0.15)
    yield Ratio("Viterbi of 10,000 bars / hmmlearn", lambda: model.decode(y), lambda: peer.predict(y[:, None]), 1.0)


def lake() -> Iterator[Ratio]:
    """Writing and reading tables."""
    from bench_lakehouse import make_trades
    from deltalake import write_deltalake

    from hfthot_platform import Lakehouse
    from hfthot_platform.services.sql import Limits, query

    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        trades = make_trades(1_000_000)
        made = iter(range(1_000))

        def publish() -> None:
            Lakehouse.open(folder / f"lake{next(made)}", new=True).table("market.trades").append(trades)

        def write() -> None:
            dated = trades.with_columns(date=pl.col("ts").dt.date())
            write_deltalake(folder / f"bare{next(made)}", dated, partition_by=["date"])

        yield Ratio("audited append / write_deltalake", publish, write, 4.0, repeats=3)
        stored = Lakehouse.open(folder / "lake", new=True)
        stored.table("market.trades").append(trades)
        uri = str(folder / "lake/market/trades")
        day = datetime(2024, 1, 5, tzinfo=UTC)
        hour = pl.col("ts").is_between(day, day + timedelta(hours=1), closed="left")
        wanted = hour & (pl.col("symbol") == "S07-USDT")
        statement = (
            "SELECT * FROM market.trades WHERE symbol = 'S07-USDT' "
            "AND ts >= TIMESTAMPTZ '2024-01-05 00:00:00+00' AND ts < TIMESTAMPTZ '2024-01-05 01:00:00+00'"
        )
        limits = Limits("2GB", 2, folder / "scratch")
        # Each statement has a database of its own, whose opening alone takes longer than the peer.
        yield Ratio(
            "SQL of one hour and symbol / pl.scan_delta",
            lambda: query(stored, statement, limits=limits),
            lambda: pl.scan_delta(uri).filter(wanted).collect(),
            5.0,
        )
        yield Ratio(
            "scan of one hour and symbol / pl.scan_delta",
            lambda: stored.table("market.trades").scan().filter(wanted).collect(),
            lambda: pl.scan_delta(uri).filter(wanted).collect(),
            1.2,
        )


def portfolios() -> Iterator[Ratio]:
    """Risk parity."""
    import cvxpy as cp

    from hfthot_platform.domain.models.portfolio import risk_parity

    generator = np.random.default_rng(3)
    factors = generator.normal(size=(50, 60))
    covariance = factors @ factors.T / 60 + 0.1 * np.eye(50)
    weights = cp.Variable(50, pos=True)
    problem = cp.Problem(
        cp.Minimize(0.5 * cp.quad_form(weights, cp.psd_wrap(covariance)) - cp.sum(cp.log(weights)) / 50)
    )
    yield Ratio("risk parity of 50 assets / cvxpy", lambda: risk_parity(covariance), problem.solve, 0.2)


def main() -> int:
    """Print the table and return the exit status."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--update", action="store_true", help="write what was measured as the new baseline")
    update = parser.parse_args().update
    kept: dict[str, float] = json.loads(BASELINE.read_text()) if BASELINE.exists() else {}
    table = Table(Column("", no_wrap=True), "ours", "peer", "ratio", "baseline", "limit", "")
    found, over = {}, 0
    for group in (bars, regimes, lake, portfolios):
        for ratio in group():
            ours, peer = measured(ratio)
            value = found[ratio.name] = round(ours / peer, 3)
            before = kept.get(ratio.name)
            limit = ratio.promised if before is None or update else min(ratio.promised, SLACK * before)
            over += value > limit
            shown = "-" if before is None else f"{before:g}"
            verdict = "within" if value <= limit else "OVER"
            table.add_row(
                ratio.name, f"{ours * 1e3:.1f} ms", f"{peer * 1e3:.1f} ms", f"{value:g}", shown, f"{limit:.3g}", verdict
            )
    Console().print(table)
    if update:
        BASELINE.write_text(json.dumps(found, indent=2) + "\n")
    return 1 if over else 0


if __name__ == "__main__":
    sys.exit(main())
