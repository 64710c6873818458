"""Weight rows: what each day may see, what its row explains, and what becomes of days that have no weights."""

from __future__ import annotations

from datetime import UTC, date, datetime, time, timedelta

import numpy as np
import polars as pl
import pytest
from polars.testing import assert_frame_equal

from hfthot_platform.adapters.sample import SampleFeed
from hfthot_platform.core.errors import BadRequestError
from hfthot_platform.domain.contracts.model import TableContract
from hfthot_platform.domain.contracts.portfolio import ADAPTIVE_WEIGHTS, METHODS, WEIGHTS
from hfthot_platform.domain.market.panel import Bars
from hfthot_platform.domain.models.backtest import Costs, held_weights
from hfthot_platform.domain.models.portfolio import align_returns, cara, estimate_moments
from hfthot_platform.domain.models.strategy import AdaptiveRules
from hfthot_platform.domain.signals.portfolios import Weights, adaptive_rows, weight_rows
from hfthot_platform.storage.lakehouse.audit import audit

WEEK = (date(2022, 5, 2), date(2022, 5, 7))
RULES = AdaptiveRules(window=100, warm_up=200)
THREE = ["AAPL", "KO", "XOM"]


@pytest.fixture(scope="module")
def closes() -> pl.DataFrame:
    """Real adjusted closes of 20 stocks, 2018 to 2022."""
    span = datetime(2018, 1, 1, tzinfo=UTC), datetime(2023, 1, 1, tzinfo=UTC)
    rows = pl.concat([batch.rows for batch in SampleFeed().fetch("market.closes", *span)])
    return rows.filter(pl.col("venue") == "us_equity").with_columns(pl.col("venue", "symbol").cast(pl.String))


def with_another_future(closes: pl.DataFrame, day: date) -> pl.DataFrame:
    """Return closes with other values on a day and later, and a symbol that begins there."""
    later = pl.col("date") >= day
    new = closes.filter(later, pl.col("symbol") == "AAPL").with_columns(symbol=pl.lit("NEW"))
    return pl.concat([closes.with_columns(close=pl.when(later).then(pl.col("close") * 3).otherwise("close")), new])


def assert_publishable(contract: TableContract, rows: pl.DataFrame) -> None:
    audited = audit(contract, rows)
    assert audited.rejected.is_empty()
    assert audited.rows.height == rows.height > 0


# three portfolios


@pytest.fixture(scope="module")
def week(closes: pl.DataFrame) -> Weights:
    return weight_rows(closes, WEEK)


def test_every_trading_day_has_every_method_and_symbol(week: Weights) -> None:
    assert week.failed == ()
    assert_publishable(WEIGHTS, week.rows)
    counted = week.rows.group_by("date", "method").len()
    assert counted.height == 5 * len(METHODS)
    assert counted["len"].unique().to_list() == [20]


def test_budgets_hold(week: Weights) -> None:
    total = week.rows.group_by("method").agg(
        net=pl.col("weight").sum() / 5, gross=pl.col("weight").abs().sum() / 5, least=pl.col("weight").min()
    )
    figures = {row["method"]: row for row in total.to_dicts()}
    for method in ("cara", "risk_parity"):
        assert figures[method]["net"] == pytest.approx(1)
        assert figures[method]["least"] >= 0
    assert figures["sparse"]["gross"] == pytest.approx(1)


def test_risk_parity_contributes_equally_and_contributions_sum_to_one(week: Weights) -> None:
    shares = week.rows.filter(pl.col("method") == "risk_parity")["risk_contribution"].to_numpy()
    assert shares == pytest.approx(np.full(100, 1 / 20), abs=1e-9)
    sums = week.rows.group_by("date", "method").agg(pl.col("risk_contribution").sum())["risk_contribution"]
    assert sums.to_numpy() == pytest.approx(np.ones(15))


def test_a_day_is_the_model_on_the_504_returns_before_it(closes: pl.DataFrame, week: Weights) -> None:
    day = date(2022, 5, 4)
    before = closes.filter(pl.col("date") < day)
    window = before.filter(pl.col("date") >= before["date"].unique().sort()[-505])
    moments = estimate_moments(align_returns(window).returns)
    expected = cara(moments.mean, moments.covariance, 2.0)
    rows = week.rows.filter(pl.col("date") == day, pl.col("method") == "cara").sort("symbol")
    assert rows["weight"].to_numpy() == pytest.approx(expected.weights, abs=1e-9)
    assert rows["observations"].unique().to_list() == [504]
    assert rows["data_until"].unique().to_list() == [date(2022, 5, 3)]
    assert rows["shrinkage"][0] == pytest.approx(moments.covariance_shrinkage)


def test_weights_do_not_depend_on_the_day_itself_or_later(closes: pl.DataFrame) -> None:
    day = date(2022, 5, 4)
    seen = weight_rows(closes, (day, date(2022, 5, 5)))
    other = weight_rows(with_another_future(closes, day), (day, date(2022, 5, 5)))
    assert_frame_equal(seen.rows, other.rows, check_exact=True)
    assert seen.failed == other.failed


def test_a_day_computed_alone_equals_the_day_of_a_backfill(closes: pl.DataFrame, week: Weights) -> None:
    day = date(2022, 5, 5)
    alone = weight_rows(closes, (day, date(2022, 5, 6)), previous=week.rows).rows
    assert_frame_equal(alone, week.rows.filter(pl.col("date") == day), check_exact=True)


def test_turnover_is_the_change_against_the_day_before_symbols_sold_included(closes: pl.DataFrame) -> None:
    held = pl.DataFrame(
        {
            "date": [date(2022, 4, 29)] * 2,
            "method": ["risk_parity"] * 2,
            "symbol": ["AAPL", "OLD"],
            "weight": [0.4, 0.6],
        }
    )
    found = weight_rows(closes, (WEEK[0], date(2022, 5, 3)), previous=held, methods=("risk_parity",)).rows
    weights = dict(found.select("symbol", "weight").rows())
    assert found["turnover"][0] == pytest.approx(1 - weights["AAPL"] + abs(weights["AAPL"] - 0.4) + 0.6)


def test_young_and_delisted_symbols_are_left_out_and_told(closes: pl.DataFrame) -> None:
    young = (pl.col("symbol") == "KO") & (pl.col("date") < date(2022, 1, 3))
    gone = (pl.col("symbol") == "GE") & (pl.col("date") > date(2022, 4, 28))
    rows, failed = weight_rows(closes.filter(~young & ~gone), WEEK, methods=("risk_parity",))
    assert rows.group_by("date").len()["len"].unique().to_list() == [18]
    reasons = dict(failed)
    assert list(reasons) == ["GE@us_equity", "KO@us_equity"]
    assert reasons["GE@us_equity"] == "5 days, 2022-05-02 to 2022-05-06: no close on 2022-05-05"
    assert "present on" in reasons["KO@us_equity"]


def test_days_without_enough_history_are_told_once(closes: pl.DataFrame) -> None:
    rows, failed = weight_rows(closes.filter(pl.col("date") >= date(2022, 3, 1)), WEEK)
    assert rows.is_empty()
    assert len(failed) == 1
    assert failed[0][0] == "all"
    assert "5 days, 2022-05-02 to 2022-05-06" in failed[0][1]
    assert "46 common returns" in failed[0][1]


def test_closes_that_ended_long_ago_carry_no_weights(closes: pl.DataFrame) -> None:
    rows, failed = weight_rows(closes.filter(pl.col("date") < date(2022, 4, 1)), WEEK)
    assert rows.is_empty()
    assert "no close within 10 days before" in failed[0][1]
    empty = weight_rows(closes.clear(), WEEK)
    assert (empty.rows.height, empty.failed) == (0, (("all", "no closes before 2022-05-07"),))


def test_what_cannot_be_one_portfolio_is_refused(closes: pl.DataFrame) -> None:
    aapl = closes.filter(pl.col("symbol") == "AAPL")
    crypto = aapl.with_columns(venue=pl.lit("binance"), symbol=pl.lit("BTC-USDT"))
    with pytest.raises(BadRequestError, match="trade on different days"):
        weight_rows(pl.concat([closes, crypto]), WEEK)
    with pytest.raises(BadRequestError, match="AAPL is on us_equity, us_other"):
        weight_rows(pl.concat([closes, aapl.with_columns(venue=pl.lit("us_other"))]), WEEK)
    with pytest.raises(BadRequestError, match="Did you mean 'sparse'"):
        weight_rows(closes, WEEK, methods=("spars",))


# the adaptive pipeline


def regimes(*segments: tuple[date, str], symbol: str = "SPX", venue: str = "us_index") -> pl.DataFrame:
    """Return daily regimes that each last from a day to the next one's."""
    days = [date(2021, 1, 1) + timedelta(days=k) for k in range(700)]
    names = [next((name for since, name in reversed(segments) if since <= day), "trending") for day in days]
    return pl.DataFrame(
        {
            "venue": [venue] * 700,
            "symbol": [symbol] * 700,
            "interval": ["1d"] * 700,
            "ts": pl.Series(days).cast(pl.Datetime("us", "UTC")),
            "regime": names,
            "confidence": [0.9] * 700,
            "identified": [True] * 700,
        }
    )


@pytest.fixture(scope="module")
def three(closes: pl.DataFrame) -> pl.DataFrame:
    return closes.filter(pl.col("symbol").is_in(THREE), pl.col("date") >= date(2021, 6, 1))


TRENDING = regimes((date(2021, 1, 1), "trending"), (date(2022, 5, 4), "volatile"))
#: Nobody can tell what is trending: weights without a bet on it.
UNTOLD = TRENDING.with_columns(identified=pl.lit(value=False))


@pytest.fixture(scope="module")
def decided(three: pl.DataFrame) -> Weights:
    return adaptive_rows(three, UNTOLD, WEEK, market_series="SPX", rules=RULES)


def test_every_trading_day_and_symbol_has_a_decision_with_its_reason(decided: Weights) -> None:
    assert decided.failed == ()
    assert_publishable(ADAPTIVE_WEIGHTS, decided.rows)
    assert decided.rows.height == 5 * len(THREE)
    assert decided.rows["reason"].str.len_chars().min() > 20
    assert decided.rows["horizon_bars"].unique().to_list() == [5]


def test_the_regime_is_the_one_known_when_the_day_began(decided: Weights) -> None:
    days = decided.rows.group_by("date", maintain_order=True).first()
    # The volatile day's bar closes at its end, so the day after is the first to know.
    assert days["regime"].to_list() == [*["unidentified"] * 3, "volatile", "volatile"]
    assert days["regime_ts"].dt.date().to_list() == [date(2022, 5, 1 + k) for k in range(5)]
    assert days["regime_of"].unique().to_list() == ["SPX@us_index"]
    assert days["data_until"].dt.date().to_list() == [date(2022, 4, 29), *(date(2022, 5, d) for d in (2, 3, 4, 5))]


def test_a_volatile_regime_sells_everything(decided: Weights) -> None:
    rows = decided.rows
    before, out = (rows.filter(pl.col("date") == date(2022, 5, day)) for day in (4, 5))
    assert before["method"].unique().to_list() == ["risk_parity"]
    # Scaled down to a volatility of 10 % a year.
    assert 0.3 < before["weight"].sum() < 0.9
    assert before["reason"].str.contains("scaled to 10%").all()
    assert out["strategy"].unique().to_list() == ["risk_off"]
    assert out["weight"].abs().sum() == 0
    assert out["previous_weight"].sum() == pytest.approx(before["weight"].sum(), abs=0.05)


@pytest.mark.soak
@pytest.mark.parametrize("opens", [False, True], ids=["closes only", "bars with opens"])
def test_previous_weights_are_what_an_account_holds_by_then(three: pl.DataFrame, opens: bool) -> None:
    market = three
    if opens:
        start = pl.col("date").cast(pl.Datetime("us", "UTC"))
        prices = {"high": pl.col("close") * 1.02, "low": pl.col("close") * 0.98, "volume": pl.lit(1.0)}
        market = three.with_columns(
            ts=start, ts_close=start + pl.duration(days=1), open=pl.col("close") * 1.01, **prices
        ).drop("date")
    days = date(2022, 4, 18), date(2022, 5, 4)
    rows = adaptive_rows(market, UNTOLD, days, market_series="SPX", rules=RULES).rows
    bars = (Bars.from_frame if opens else Bars.from_closes)(market)
    orders = np.full(bars.close.shape, np.nan)
    for (day,), decision in rows.group_by("date", maintain_order=True):
        last = int(np.searchsorted(bars.times, int(datetime.combine(day, time(), UTC).timestamp() * 1e6))) - 1
        held = dict(decision.select("symbol", "previous_weight").rows())
        expected = held_weights(bars.head(last + 1), orders[: last + 1], Costs(0.0, 0.0))
        assert [held[name] for name in bars.symbols] == pytest.approx(expected.tolist(), abs=1e-12)
        for name, weight, before in decision.select("symbol", "weight", "previous_weight").rows():
            if weight != before:
                orders[last, bars.symbols.index(name)] = weight
    # Most weights are left alone within their band and drift.
    assert (rows["weight"] == rows["previous_weight"]).mean() > 0.5


def test_the_market_was_fitted_before_the_quarter(decided: Weights) -> None:
    assert decided.rows["market_fitted_until"].dt.date().unique().to_list() == [date(2022, 3, 31)]


@pytest.mark.soak
def test_decisions_do_not_depend_on_later_rows_nor_on_threads(three: pl.DataFrame, decided: Weights) -> None:
    last = date(2022, 5, 6)
    later = pl.col("ts") >= datetime(2022, 5, 6, tzinfo=UTC)
    changed = UNTOLD.with_columns(regime=pl.when(later).then(pl.lit("mean_reverting")).otherwise("regime"))
    other = adaptive_rows(with_another_future(three, last), changed, WEEK, market_series="SPX", rules=RULES, workers=3)
    assert_frame_equal(decided.rows, other.rows, check_exact=True)
    assert other.failed == ()


@pytest.mark.soak
def test_a_decision_made_alone_equals_that_of_a_backfill(three: pl.DataFrame, decided: Weights) -> None:
    day = date(2022, 5, 4)
    alone = adaptive_rows(
        three, UNTOLD, (day, date(2022, 5, 5)), previous=decided.rows, market_series="SPX", rules=RULES
    ).rows
    assert_frame_equal(alone, decided.rows.filter(pl.col("date") == day), check_exact=True)


@pytest.mark.soak
def test_a_symbols_own_regime_comes_before_the_markets(three: pl.DataFrame) -> None:
    own = regimes((date(2021, 1, 1), "volatile"), symbol="KO", venue="us_equity")
    rows = adaptive_rows(
        three, pl.concat([TRENDING, own]), (WEEK[0], date(2022, 5, 3)), market_series="SPX", rules=RULES
    ).rows
    strategies = dict(rows.select("symbol", "strategy").rows())
    assert strategies.pop("KO") == "risk_off"
    assert set(strategies.values()) == {"momentum"}


@pytest.mark.soak
def test_without_a_recent_regime_there_is_no_weight(three: pl.DataFrame) -> None:
    old = TRENDING.filter(pl.col("ts") < datetime(2022, 4, 1, tzinfo=UTC))
    rows = adaptive_rows(three, old, (WEEK[0], date(2022, 5, 3)), market_series="SPX", rules=RULES).rows
    assert rows["regime"].unique().to_list() == ["unknown"]
    assert rows["weight"].abs().sum() == 0
    assert rows["regime_ts"].null_count() == rows.height


@pytest.mark.soak
def test_bars_with_takers_volume_give_the_impact_of_the_order(three: pl.DataFrame) -> None:
    rng = np.random.default_rng(0)
    flow = 1e6 * np.tanh(50 * three.select(pl.col("close").pct_change().over("symbol").fill_null(0.0)).to_numpy()[:, 0])
    ts = pl.col("date").cast(pl.Datetime("us", "UTC"))
    bars = three.select("venue", "symbol", "close", ts=ts, interval=pl.lit("1d"), ts_close=ts + timedelta(days=1))
    bars = bars.with_columns(
        **{name: pl.col("close") for name in ("open", "high", "low")},
        volume=pl.lit(2e6),
        buy_volume=pl.Series((2e6 + flow + 1e4 * rng.standard_normal(flow.size)) / 2),
    )
    day = (WEEK[0], date(2022, 5, 3))
    rows = adaptive_rows(bars, UNTOLD, day, market_series="SPX", rules=RULES, capital=1e6).rows
    assert_publishable(ADAPTIVE_WEIGHTS, rows)
    traded = rows.filter(pl.col("weight") != 0)
    assert traded.height > 0
    assert (traded["impact"] * traded["weight"] > 0).all()
    assert traded["reason"].str.contains("of the daily volume").all()


def test_too_short_a_history_is_told(three: pl.DataFrame) -> None:
    short = three.filter(pl.col("date") >= date(2022, 3, 1))
    rows, failed = adaptive_rows(short, TRENDING, WEEK, market_series="SPX", rules=RULES)
    assert rows.is_empty()
    assert failed[0][0] == "all"
    assert "Give 101 or more" in failed[0][1]


def test_a_held_symbol_that_stopped_trading_is_told(three: pl.DataFrame, decided: Weights) -> None:
    stopped = three.filter((pl.col("symbol") != "KO") | (pl.col("date") < date(2022, 4, 1)))
    held = decided.rows.head(1).with_columns(symbol=pl.lit("KO"), weight=pl.lit(0.2), date=pl.lit(date(2022, 4, 29)))
    rows, failed = adaptive_rows(
        stopped, TRENDING, (WEEK[0], date(2022, 5, 3)), previous=held, market_series="SPX", rules=RULES
    )
    assert "KO" not in rows["symbol"]
    assert failed == (("KO", "2022-05-02: no price within 10 days: its weight is dropped"),)


def test_an_unknown_market_series_is_refused(three: pl.DataFrame) -> None:
    with pytest.raises(BadRequestError, match="Did you mean 'SPX'"):
        adaptive_rows(three, TRENDING, WEEK, market_series="SPY", rules=RULES)
