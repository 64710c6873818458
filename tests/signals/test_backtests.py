"""Backtest rows: figures per strategy and symbol, recorded weights as orders, regimes, curves."""

from __future__ import annotations

import json
from datetime import UTC, date, datetime, timedelta

import numpy as np
import polars as pl
import pytest
from polars.testing import assert_frame_equal

from hfthot_platform.adapters.sample import SampleFeed
from hfthot_platform.core.arrays import FloatArray
from hfthot_platform.core.errors import BadRequestError
from hfthot_platform.domain.contracts.model import TableContract
from hfthot_platform.domain.contracts.portfolio import BACKTEST_EQUITY, BACKTESTS
from hfthot_platform.domain.market.panel import Bars
from hfthot_platform.domain.models.backtest import Costs, backtest
from hfthot_platform.domain.models.strategy import MeanReversion, TrendFollowing
from hfthot_platform.domain.signals.backtests import Backtests, backtest_rows
from hfthot_platform.storage.lakehouse.audit import audit

RUN_ON = date(2022, 12, 1)
FREE = Costs(0.0, 0.0)
FOUR = ["AAPL", "JPM", "KO", "XOM"]


@pytest.fixture(scope="module")
def closes() -> pl.DataFrame:
    """Real adjusted closes of four stocks, 2015 to 2022."""
    span = datetime(2015, 1, 1, tzinfo=UTC), datetime(2023, 1, 1, tzinfo=UTC)
    rows = pl.concat([batch.rows for batch in SampleFeed().fetch("market.closes", *span)])
    return rows.filter(pl.col("symbol").is_in(FOUR)).with_columns(pl.col("venue", "symbol").cast(pl.String))


def regimes(name: str = "SPX", *, identified: bool = True) -> pl.DataFrame:
    """Return daily regimes, ten days of each in turn."""
    days = [date(2015, 1, 1) + timedelta(days=k) for k in range(2900)]
    return pl.DataFrame(
        {
            "venue": ["us_index"] * 2900,
            "symbol": [name] * 2900,
            "interval": ["1d"] * 2900,
            "ts": pl.Series(days).cast(pl.Datetime("us", "UTC")),
            "regime": [("trending", "mean_reverting", "volatile")[k // 10 % 3] for k in range(2900)],
            "identified": [identified] * 2900,
        }
    )


def recorded(*days: tuple[date, dict[str, float]]) -> pl.DataFrame:
    rows = [(day, "cara", "us_equity", symbol, weight) for day, part in days for symbol, weight in part.items()]
    return pl.DataFrame(rows, schema=["date", "method", "venue", "symbol", "weight"], orient="row")


def assert_publishable(contract: TableContract, rows: pl.DataFrame) -> None:
    audited = audit(contract, rows)
    assert audited.rejected.is_empty()
    assert audited.rows.height == rows.height > 0


@pytest.fixture(scope="module")
def run(closes: pl.DataFrame) -> Backtests:
    return backtest_rows(closes, run_on=RUN_ON, regimes=regimes(), market_series="SPX")


def test_each_rule_runs_on_each_symbol_and_on_all_together(run: Backtests) -> None:
    assert run.failed == ()
    assert_publishable(BACKTESTS, run.rows)
    assert_publishable(BACKTEST_EQUITY, run.equity)
    pairs = set(run.rows.select("strategy", "symbol").rows())
    assert pairs == {(rule, name) for rule in ("TrendFollowing", "MeanReversion") for name in (*FOUR, "all")}
    assert run.rows.filter(pl.col("symbol") == "all")["symbols"].to_list() == [4, 4]


def test_figures_are_those_of_the_engine(closes: pl.DataFrame, run: Backtests) -> None:
    bars = Bars.from_closes(closes.filter(pl.col("symbol") == "KO", pl.col("date") < RUN_ON))
    result = backtest(TrendFollowing(), bars)
    row = run.rows.row(by_predicate=(pl.col("strategy") == "TrendFollowing") & (pl.col("symbol") == "KO"), named=True)
    for name, value in result.metrics().items():
        assert row[name] == value
    assert row["trips"] == result.trips["exited"].count()
    assert row["average_hold_hours"] == pytest.approx(result.average_hold.total_seconds() / 3600)
    assert (row["data_until"].date(), row["bars"]) == (date(2022, 11, 30), len(bars))
    told = json.loads(row["parameters"])
    assert (told["lookback"], told["entry"], told["kind"]) == (100, 1.0, "rule")


def test_figures_per_regime_cover_every_bar_after_the_first_decision(run: Backtests) -> None:
    row = run.rows.row(by_predicate=(pl.col("strategy") == "TrendFollowing") & (pl.col("symbol") == "all"), named=True)
    parts = json.loads(row["by_regime"])
    assert {part["regime"] for part in parts} == {"trending", "mean_reverting", "volatile"}
    assert sum(part["share"] for part in parts) == pytest.approx(1)
    assert np.prod([1 + part["total_return"] for part in parts]) == pytest.approx(1 + row["total_return"])


def test_a_regime_counts_from_the_close_of_its_bar(closes: pl.DataFrame) -> None:
    # One volatile Wednesday: known at its close, so it is the return to Thursday's close that counts to it.
    wednesday = datetime(2022, 6, 15, tzinfo=UTC)
    day = pl.when(pl.col("ts") == wednesday).then(pl.lit("volatile")).otherwise(pl.lit("trending"))
    held = recorded((date(2022, 6, 13), {"KO": 1.0}))
    found = backtest_rows(
        closes,
        run_on=RUN_ON,
        regimes=regimes().with_columns(regime=day),
        rules=(),
        weights=held,
        market_series="SPX",
        costs=FREE,
    )
    parts = {part["regime"]: part for part in json.loads(found.rows["by_regime"][0])}
    price = dict(closes.filter(pl.col("symbol") == "KO").select("date", "close").rows())
    assert parts["volatile"]["bars"] == 1
    assert parts["volatile"]["total_return"] == pytest.approx(price[date(2022, 6, 16)] / price[date(2022, 6, 15)] - 1)


def test_quiet_bars_that_are_not_told_apart_are_counted_as_such(closes: pl.DataFrame) -> None:
    found = backtest_rows(
        closes, run_on=RUN_ON, regimes=regimes(identified=False), rules=(TrendFollowing(),), market_series="SPX"
    )
    assert {part["regime"] for part in json.loads(found.rows["by_regime"][0])} == {"unidentified", "volatile"}


def test_an_account_without_regimes_has_no_table_of_them(closes: pl.DataFrame) -> None:
    found = backtest_rows(closes, run_on=RUN_ON, regimes=regimes("OTHER"), rules=(TrendFollowing(),))
    assert found.rows["by_regime"].null_count() == found.rows.height


def test_recorded_weights_fill_at_the_first_price_of_their_day(closes: pl.DataFrame) -> None:
    first, second = date(2022, 6, 14), date(2022, 6, 21)
    weights = recorded((first, {"KO": 1.0}), (second, {"XOM": 1.0}))
    found = backtest_rows(closes, run_on=RUN_ON, rules=(), weights=weights, costs=FREE)
    price = {name: dict(closes.filter(pl.col("symbol") == name).select("date", "close").rows()) for name in FOUR}
    last = date(2022, 11, 30)
    expected = price["KO"][second] / price["KO"][first] * price["XOM"][last] / price["XOM"][second]
    row = found.rows.row(0, named=True)
    assert (row["strategy"], row["symbol"], row["symbols"]) == ("cara", "all", 2)
    assert row["total_return"] == pytest.approx(expected - 1)
    assert row["data_from"].date() == date(2022, 6, 13)


def test_recorded_weights_of_bars_fill_at_the_open(closes: pl.DataFrame) -> None:
    ts = pl.col("date").cast(pl.Datetime("us", "UTC"))
    bars = closes.select("venue", "symbol", "close", ts=ts, ts_close=ts + timedelta(days=1), interval=pl.lit("1d"))
    bars = bars.with_columns(open=pl.col("close") * 0.99, volume=pl.lit(1.0)).with_columns(
        high="close", low="open", final=pl.lit(value=True)
    )
    day = date(2022, 11, 29)
    adaptive = recorded((day, {"KO": 0.5})).drop("method")
    found = backtest_rows(bars, run_on=RUN_ON, rules=(), adaptive=adaptive, costs=FREE)
    row = found.rows.row(0, named=True)
    price = dict(closes.filter(pl.col("symbol") == "KO").select("date", "close").rows())
    assert (row["strategy"], row["interval"]) == ("adaptive", "1d")
    assert row["total_return"] == pytest.approx(0.5 * (price[date(2022, 11, 30)] / (0.99 * price[day]) - 1))


def test_a_run_does_not_depend_on_its_day_or_later(closes: pl.DataFrame) -> None:
    run_on = date(2020, 1, 2)
    later = pl.col("date") >= run_on
    new = closes.filter(later, pl.col("symbol") == "KO").with_columns(symbol=pl.lit("NEW"))
    changed = closes.with_columns(close=pl.when(later).then(pl.col("close") * 3).otherwise("close"))
    weights = recorded((date(2019, 12, 2), {"KO": 1.0}))
    more = recorded((date(2019, 12, 2), {"KO": 1.0}), (run_on, {"KO": -1.0}))
    seen = backtest_rows(closes, run_on=run_on, weights=weights, workers=1)
    other = backtest_rows(pl.concat([changed, new]), run_on=run_on, weights=more, workers=3)
    assert_frame_equal(seen.rows, other.rows, check_exact=True)
    assert_frame_equal(seen.equity, other.equity, check_exact=True)


def test_a_strategy_that_looks_ahead_is_told_and_the_others_run(closes: pl.DataFrame) -> None:
    def prophet(bars: Bars) -> FloatArray:
        ahead = np.zeros_like(bars.close)
        ahead[:-1] = np.sign(np.diff(bars.close, axis=0))
        return ahead

    found = backtest_rows(closes, run_on=RUN_ON, rules=(MeanReversion(), prophet))
    assert found.rows["strategy"].unique().to_list() == ["MeanReversion"]
    assert [name for name, _ in found.failed] == [f"prophet {name}@us_equity" for name in (*FOUR, "all")]
    assert "Row t may use bars up to t" in found.failed[0][1]


def test_a_curve_is_thinned_without_losing_its_end_or_its_deepest_point(closes: pl.DataFrame, run: Backtests) -> None:
    bars = Bars.from_closes(closes.filter(pl.col("symbol") == "XOM", pl.col("date") < RUN_ON))
    result = backtest(MeanReversion(), bars)
    curve = run.equity.filter(pl.col("strategy") == "MeanReversion", pl.col("symbol") == "XOM")
    assert 400 <= curve.height <= 500
    assert curve["ts"].is_sorted()
    assert curve["ts"][-1].date() == date(2022, 11, 30)
    assert curve["equity"][-1] == result.equity[-1]
    assert curve["drawdown"].min() == result.max_drawdown
    assert curve["turnover"].sum() == pytest.approx(result.turnover.sum())


def test_symbols_with_too_few_bars_and_missing_records_are_told(closes: pl.DataFrame) -> None:
    lone = closes.head(1).with_columns(symbol=pl.lit("LONE"), date=pl.lit(date(2022, 11, 30)))
    found = backtest_rows(
        pl.concat([closes, lone]), run_on=RUN_ON, rules=(TrendFollowing(),), weights=recorded((RUN_ON, {"KO": 1.0}))
    )
    reasons = dict(found.failed)
    assert "one bar" in reasons["TrendFollowing LONE@us_equity"]
    assert "no recorded weights before the run" in reasons["cara"]
    nothing = backtest_rows(closes, run_on=date(2010, 1, 1))
    assert (nothing.rows.height, nothing.failed) == (0, (("all", "no bars before 2010-01-01"),))


def test_what_cannot_be_run_is_refused(closes: pl.DataFrame) -> None:
    with pytest.raises(BadRequestError, match="Give each rule once"):
        backtest_rows(closes, run_on=RUN_ON, rules=(TrendFollowing(), TrendFollowing(lookback=50)))
    with pytest.raises(BadRequestError, match="no column 'close'"):
        backtest_rows(closes.drop("close"), run_on=RUN_ON)
    with pytest.raises(BadRequestError, match="bars of several intervals"):
        backtest_rows(closes.with_columns(interval=pl.Series(["1h", "1d"] * (closes.height // 2))), run_on=RUN_ON)
