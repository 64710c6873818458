"""Is it useful?  The adaptive strategy, each rule and holding, walking forward, after costs, with standard errors.

    python benchmarks/bench_walk_forward.py [index] [etfs] [stocks] [crypto]

Every parameter is the library's default and none was chosen on these data: the rules' lookbacks, entries and exits,
the regimes' confidence, the volatility target of 10 % a year.  Only the refits are yearly (250 bars) instead of
half-yearly, to save time.  All are judged on the same bars, those after the adaptive strategy's warm-up of 500.

Standard errors, also of the differences to holding, are those of a stationary block bootstrap (Politis and Romano 1994,
mean block of 20 bars, 2,000 draws, the same blocks for all strategies).

`index` (S&P 500, 2005 to 2022), `etfs` (five US factor ETFs, 2014 to 2022) and `stocks` (twenty US stocks, 2014 to
2022) come with skfolio; `crypto` (six coins, daily) needs HFTHOT_SHARED_DATA.
"""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import polars as pl

from hfthot_platform.core.arrays import FloatArray
from hfthot_platform.domain.market.panel import Bars
from hfthot_platform.domain.models.backtest import BacktestResult, Costs, backtest, on_change
from hfthot_platform.domain.models.strategy import AdaptiveRules, MeanReversion, TrendFollowing, adaptive

BLOCK, DRAWS = 20, 2_000
#: Of liquid US equities at a broker, and of a spot exchange.
EQUITY_COSTS, CRYPTO_COSTS = Costs(fee=0.0002, slippage=0.0003), Costs(fee=0.001, slippage=0.0005)
RULES = AdaptiveRules(refit_every=250)
COINS = ("BTCUSDT", "ETHUSDT", "BNBUSDT", "XRPUSDT", "ADAUSDT", "LTCUSDT")


def closes(frame: pl.DataFrame, since: str) -> Bars:
    """Return bars from a wide frame of closes with a column Date."""
    long = frame.unpivot(index="Date", variable_name="symbol", value_name="close").rename({"Date": "date"})
    return Bars.from_closes(long.drop_nulls("close").filter(pl.col("date") >= pl.lit(since).str.to_date()))


def packaged(name: str, since: str) -> Bars:
    """Return a data set that skfolio ships."""
    from skfolio import datasets

    frame = pl.from_pandas(getattr(datasets, name)().reset_index().rename(columns={"index": "Date"}))
    return closes(frame.with_columns(pl.col("Date").cast(pl.Date)), since)


def coins() -> Bars | None:
    """Return six coins that were traded throughout, if the data are there."""
    folder = os.environ.get("HFTHOT_SHARED_DATA")
    if not folder:
        return None
    rows = pl.read_parquet(Path(folder) / "ohlcv/binance_spot_1d_2018_2023/spot_1d.parquet")
    rows = rows.filter(pl.col("symbol").is_in(COINS)).rename({"open_time": "ts", "taker_buy_base": "buy_volume"})
    # The last day may not have been over when it was recorded.
    rows = rows.filter(pl.col("ts") < pl.col("ts").max(), pl.col("ts").dt.year() >= 2019)
    return Bars.from_frame(
        rows.select("symbol", "ts", "open", "high", "low", "close", "volume", "buy_volume").with_columns(
            pl.col("ts").cast(pl.Datetime("us", "UTC"))
        )
    )


def equal(bars: Bars, start: int) -> FloatArray:
    """Buy equal weights once, at the bar from which all are judged."""
    out = np.full(bars.close.shape, np.nan)
    out[start] = 1.0 / len(bars.symbols)
    return out


def targeted(bars: Bars, start: int) -> FloatArray:
    """Hold equal weights scaled to the same volatility target by the same estimate: no regimes, no views."""
    moves = np.nan_to_num(np.diff(np.log(bars.close), axis=0)).mean(axis=1)
    weight = 0.5 ** (np.arange(RULES.window - 1, -1, -1) / RULES.volatility_half_life)
    out = np.full(bars.close.shape, np.nan)
    held = np.nan
    for t in range(start, len(bars), RULES.every):
        variance = float(weight @ moves[t - RULES.window : t] ** 2) / float(weight.sum())
        wanted = min(1.0, (RULES.volatility_target or np.inf) / np.sqrt(variance * bars.bars_per_year))
        if not abs(wanted - held) < RULES.min_trade * max(wanted, held):
            held = wanted
            out[t] = wanted / len(bars.symbols)
    return out


def strategies(bars: Bars, costs: Costs, start: int) -> Iterator[tuple[str, BacktestResult]]:
    """Yield each strategy's name and account."""
    run = adaptive(bars, costs=costs, rules=RULES)
    mix = run.decisions.group_by("strategy").len().sort("len", descending=True)
    total = run.decisions.height
    print("  decisions: " + ", ".join(f"{name} {count / total:.0%}" for name, count in mix.iter_rows()), flush=True)
    named: list[tuple[str, Callable[[Bars], FloatArray], int]] = [
        ("adaptive", lambda _: run.targets, 0),
        ("TrendFollowing()", TrendFollowing(), 8),
        ("MeanReversion()", MeanReversion(), 8),
        ("holding", lambda b: on_change(equal(b, start)), 0),
        ("holding at 10 % volatility", lambda b: targeted(b, start), 0),
    ]
    for name, strategy, cuts in named:
        yield name, backtest(strategy, bars, costs, causality_cuts=cuts)


def resampled(size: int, generator: np.random.Generator) -> Iterator[np.ndarray]:
    """Yield the bars of each draw of a stationary bootstrap."""
    for _ in range(DRAWS):
        fresh = generator.random(size) < 1.0 / BLOCK
        fresh[0] = True
        first = generator.integers(size, size=size)
        start = np.maximum.accumulate(np.where(fresh, np.arange(size), 0))
        yield (first[start] + np.arange(size) - start) % size


def sharpe(returns: FloatArray, per_year: float) -> FloatArray:
    """Return the annualised Sharpe ratios of the rows, (N,)."""
    return np.asarray(returns.mean(axis=-1) / returns.std(axis=-1, ddof=1) * np.sqrt(per_year))


def study(title: str, bars: Bars, costs: Costs) -> None:
    started, start = time.perf_counter(), RULES.warm_up
    first, last = (np.datetime64(int(bars.times[k]), "us").astype("datetime64[D]") for k in (start, -1))
    print(f"\n{title}: {len(bars.symbols)} series, {first} to {last}, {costs.fee + costs.slippage:.2%} each way")
    found = dict(strategies(bars, costs, start))
    per_year = bars.bars_per_year
    returns = np.stack([np.diff(result.equity[start:]) / result.equity[start:-1] for result in found.values()])
    ratio = sharpe(returns, per_year)
    generator = np.random.default_rng(0)
    draws = np.stack([sharpe(returns[:, index], per_year) for index in resampled(returns.shape[1], generator)])
    held = list(found).index("holding")
    print(
        f"  {'':28}{'return':>9}{'volatility':>12}{'Sharpe':>9}{'s.e.':>7}{'less holding':>14}{'s.e.':>7}"
        f"{'drawdown':>10}{'turnover':>10}{'costs a year':>14}"
    )
    for k, (name, result) in enumerate(found.items()):
        years = returns.shape[1] / per_year
        # Ruin ends at or below nothing.
        curve = np.maximum(np.cumprod(1 + returns[k]), 0.0)
        drawdown = (curve / np.maximum(np.maximum.accumulate(curve), 1.0) - 1).min()
        paid = (result.paid[start + 1 :] / result.equity[start:-1]).sum() / years
        less = draws[:, k] - draws[:, held]
        print(
            f"  {name:28}{curve[-1] ** (1 / years) - 1:9.1%}{returns[k].std(ddof=1) * np.sqrt(per_year):12.1%}"
            f"{ratio[k]:9.2f}{draws[:, k].std(ddof=1):7.2f}{ratio[k] - ratio[held]:14.2f}{less.std(ddof=1):7.2f}"
            f"{drawdown:10.1%}{result.turnover[start + 1 :].sum() / years:10.1f}{paid:14.2%}"
        )
    print(f"  ({time.perf_counter() - started:.0f} s)", flush=True)


def main(wanted: set[str]) -> None:
    cases: dict[str, tuple[str, Callable[[], Bars | None], Costs]] = {
        "index": ("S&P 500", lambda: packaged("load_sp500_index", "2005-01-01"), EQUITY_COSTS),
        "etfs": ("Factor ETFs", lambda: packaged("load_factors_dataset", "2014-01-01"), EQUITY_COSTS),
        "crypto": ("Crypto", coins, CRYPTO_COSTS),
        "stocks": ("US stocks", lambda: packaged("load_sp500_dataset", "2014-01-01"), EQUITY_COSTS),
    }
    for name, (title, load, costs) in cases.items():
        if wanted and name not in wanted:
            continue
        bars = load()
        if bars is None:
            print(f"\n{title}: set HFTHOT_SHARED_DATA to its folder")
            continue
        study(title, bars, costs)


if __name__ == "__main__":
    main(set(sys.argv[1:]))
