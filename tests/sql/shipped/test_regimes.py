"""Regimes: transitions, durations and performance, against loops over the bars."""

from __future__ import annotations

from collections import Counter
from datetime import UTC, date, datetime, timedelta
from itertools import groupby, pairwise

import numpy as np
import polars as pl
import pytest

START = datetime(2024, 3, 1, tzinfo=UTC)
LABELS = ("trending", "mean_reverting", "volatile")
SHORT = {"T": "trending", "M": "mean_reverting", "V": "volatile", "C": "calm", "N": "normal"}


def regimes(
    labels: str, *, interval: str = "5m", step: timedelta = timedelta(minutes=5), **values: object
) -> pl.DataFrame:
    """Return one series; a space is a bar that is not there."""
    rows = [
        {"venue": "binance", "symbol": "X", "interval": interval, "ts": START + number * step, "regime": SHORT[label]}
        for number, label in enumerate(labels)
        if label != " "
    ]
    return pl.DataFrame(rows).with_columns(pl.lit(value).alias(name) for name, value in values.items())


def chain(n: int, seed: int) -> str:
    """Return a Markov chain that mostly stays."""
    rng = np.random.default_rng(seed)
    out = [0]
    for _ in range(n - 1):
        out.append(int(rng.choice(3, p=np.where(np.arange(3) == out[-1], 0.8, 0.1))))
    return "".join("TMV"[state] for state in out)


def bars(prices: np.ndarray, *, interval: str = "5m", step: timedelta = timedelta(minutes=5)) -> pl.DataFrame:
    ts = [START + number * step for number in range(len(prices))]
    values = dict.fromkeys(("open", "high", "low", "close"), prices)
    return pl.DataFrame({"venue": "binance", "symbol": "X", "interval": interval, "ts": ts, **values})


def test_series_whose_quiet_regimes_are_not_told_apart_have_the_pairs_of_their_own_names(shipped):
    found = shipped({"signals.regimes": regimes("CCNVC", identified=False)}).make("marts.regime_transitions")

    assert set(found["from_regime"]) == set(found["to_regime"]) == {"calm", "normal", "volatile"}
    assert found.height == 9
    assert found["transitions"].sum() == 4


def test_from_one_models_names_to_anothers_is_no_transition(shipped):
    found = shipped({"signals.regimes": regimes("TMCN")}).make("marts.regime_transitions")

    counted = found.filter(pl.col("transitions") > 0).select("from_regime", "to_regime").sort("from_regime").rows()
    assert counted == [("calm", "normal"), ("trending", "mean_reverting")]


# -- transitions ------------------------------------------------------------------------------------------------


def test_transitions_are_counted_and_their_shares_are_probabilities(shipped):
    labels = chain(3000, seed=1)

    found = shipped({"signals.regimes": regimes(labels)}).make("marts.regime_transitions")

    counts = Counter(pairwise(labels))
    leaving = Counter(labels[:-1])
    assert found.height == 9
    for row in found.rows(named=True):
        a, b = row["from_regime"][0].upper(), row["to_regime"][0].upper()
        p = counts[a, b] / leaving[a]
        assert (row["transitions"], row["departures"]) == (counts[a, b], leaving[a])
        assert row["probability"] == pytest.approx(p, rel=1e-15)
        assert row["standard_error"] == pytest.approx(np.sqrt(p * (1 - p) / leaving[a]), rel=1e-14)
    # The chain's own probabilities are within four standard errors.
    assert found.select(
        (
            (
                pl.col("probability") - pl.when(pl.col("from_regime") == pl.col("to_regime")).then(0.8).otherwise(0.1)
            ).abs()
            < 4 * pl.col("standard_error")
        ).all()
    ).item()


def test_probabilities_sum_to_one(shipped):
    found = shipped({"signals.regimes": regimes(chain(500, seed=2))}).make("marts.regime_transitions")

    sums = found.group_by("from_regime").agg(pl.col("probability").sum())
    assert sums["probability"].to_list() == pytest.approx([1, 1, 1], abs=1e-15)


def test_a_regime_that_was_never_left_has_counts_and_no_probabilities(shipped):
    found = shipped({"signals.regimes": regimes("TTM")}).make("marts.regime_transitions", "from_regime", "to_regime")

    volatile = found.filter(pl.col("from_regime") == "volatile")
    assert volatile["transitions"].to_list() == [0, 0, 0]
    assert volatile["probability"].to_list() == [None, None, None]
    trending = found.filter(pl.col("from_regime") == "trending")
    assert trending.select("to_regime", "transitions", "probability").rows() == [
        ("mean_reverting", 1, 0.5),
        ("trending", 1, 0.5),
        ("volatile", 0, 0.0),
    ]


def test_steps_over_holes_do_not_count(shipped):
    found = shipped({"signals.regimes": regimes("TTT VVV")}).make("marts.regime_transitions")

    counted = found.filter(pl.col("transitions") > 0).sort("from_regime")
    assert counted.select("from_regime", "to_regime", "transitions").rows() == [
        ("trending", "trending", 2),
        ("volatile", "volatile", 2),
    ]


def test_a_weekend_is_a_step_of_a_us_stock_and_a_hole_of_a_coin(shipped):
    days = {"interval": "1d", "step": timedelta(days=1)}
    # Friday, Monday, Tuesday.
    stock = regimes("T  MM", **days).with_columns(venue=pl.lit("us_equity"), symbol=pl.lit("STOCK"))

    found = shipped({"signals.regimes": pl.concat([stock, regimes("T  MM", **days)])}).make("marts.regime_transitions")

    totals = dict(found.group_by("symbol").agg(pl.col("transitions").sum()).rows())
    assert totals == {"STOCK": 2, "X": 1}


def test_series_and_intervals_are_kept_apart(shipped):
    hours = regimes("VTV", interval="1h", step=timedelta(hours=1))
    other = regimes("MTM", venue="kraken")

    found = shipped({"signals.regimes": pl.concat([regimes("TMT"), hours, other])}).make("marts.regime_transitions")

    assert found.height == 27
    assert set(found.group_by("venue", "interval").agg(pl.col("transitions").sum())["transitions"]) == {2}


# -- durations --------------------------------------------------------------------------------------------------


def test_durations_are_those_of_runs_of_equal_labels(shipped):
    labels = chain(3000, seed=3)

    found = shipped({"signals.regimes": regimes(labels)}).make("marts.regime_durations")

    runs = [(label, len(list(run))) for label, run in groupby(labels)]
    for row in found.rows(named=True):
        label = row["regime"][0].upper()
        every = [length for name, length in runs if name == label]
        complete = [length for name, length in runs[1:-1] if name == label]
        stays = sum(a == b == label for a, b in pairwise(labels))
        leaves = sum(a == label != b for a, b in pairwise(labels))
        assert (row["spells"], row["complete_spells"], row["bars"]) == (len(every), len(complete), sum(every))
        assert row["share_of_bars"] == pytest.approx(sum(every) / 3000, rel=1e-15)
        assert row["mean_bars"] == pytest.approx(np.mean(complete), rel=1e-14)
        assert (row["median_bars"], row["longest_bars"]) == (np.median(complete), max(every))
        assert row["mean_hours"] == pytest.approx(np.mean(complete) * 5 / 60, rel=1e-12)
        assert row["expected_bars"] == pytest.approx(1 / (1 - stays / (stays + leaves)), rel=1e-12)
        # A chain that stays with probability 0.8 does so for 5 bars.
        assert row["expected_bars"] == pytest.approx(5, rel=0.15)


def test_the_expected_duration_agrees_with_the_transition_matrix(shipped):
    lake = shipped({"signals.regimes": regimes(chain(800, seed=4)[:700] + "   " + chain(90, seed=5))})

    durations = lake.make("marts.regime_durations", "regime")
    stays = lake.make("marts.regime_transitions", "from_regime").filter(pl.col("from_regime") == pl.col("to_regime"))

    expected = (1 / (1 - stays["probability"])).to_list()
    assert durations["expected_bars"].to_list() == pytest.approx(expected, rel=1e-12)


def test_spells_at_the_ends_and_at_holes_are_not_complete(shipped):
    found = shipped({"signals.regimes": regimes("TTMMMT TTVVT")}).make("marts.regime_durations", "regime")

    columns = ("regime", "spells", "complete_spells", "bars", "mean_bars", "longest_bars")
    assert found.select(columns).rows() == [
        ("mean_reverting", 1, 1, 3, 3.0, 3),
        ("trending", 4, 0, 6, None, 2),
        ("volatile", 1, 1, 2, 2.0, 2),
    ]


def test_one_bar_is_one_spell_of_unknown_length(shipped):
    found = shipped({"signals.regimes": regimes("V")}).make("marts.regime_durations")

    columns = ("regime", "spells", "bars", "mean_bars", "mean_hours", "expected_bars")
    assert found.select(columns).rows() == [("volatile", 1, 1, None, None, None)]


# -- performance ------------------------------------------------------------------------------------------------


def test_performance_is_that_of_returns_after_the_regime(shipped):
    labels = chain(2000, seed=6)
    rng = np.random.default_rng(7)
    prices = 100 * np.exp(np.cumsum(rng.normal(0.0001, 0.001, 2000)))
    lake = shipped({"signals.regimes": regimes(labels), "market.bars": bars(prices)})

    found = lake.make("marts.regime_performance")

    per_year = 365 * 288
    known = np.array(list(labels[:-1]))
    returns = prices[1:] / prices[:-1] - 1
    assert found.height == 3
    for row in found.rows(named=True):
        mine = returns[known == row["regime"][0].upper()]
        ratio = mine.mean() / mine.std(ddof=1)
        assert row["bars"] == len(mine)
        assert row["mean_return"] == pytest.approx(mine.mean(), rel=1e-11)
        assert row["annual_return"] == pytest.approx(mine.mean() * per_year, rel=1e-11)
        assert row["volatility"] == pytest.approx(mine.std(ddof=1) * np.sqrt(per_year), rel=1e-11)
        assert row["sharpe"] == pytest.approx(ratio * np.sqrt(per_year), rel=1e-10)
        assert row["sharpe_error"] == pytest.approx(np.sqrt((1 + ratio**2 / 2) / len(mine) * per_year), rel=1e-11)
        assert row["hit_rate"] == pytest.approx((mine > 0).mean(), rel=1e-15)
        assert (row["best_return"], row["worst_return"]) == pytest.approx((mine.max(), mine.min()), rel=1e-12)


def test_the_regime_of_a_bar_is_not_used_for_its_own_return(shipped):
    """Regimes that know the sign of their own bar would earn on every bar; the bar before knows nothing."""
    rng = np.random.default_rng(8)
    moves = rng.choice([-0.01, 0.01], 2000)
    prices = 100 * np.exp(np.cumsum(moves))
    labels = "".join("T" if move > 0 else "V" for move in moves)

    found = shipped({"signals.regimes": regimes(labels), "market.bars": bars(prices)}).make("marts.regime_performance")

    # A coin: within four standard errors of a half.
    assert found["hit_rate"].to_list() == pytest.approx([0.5, 0.5], abs=4 * 0.5 / np.sqrt(900))


def test_the_last_regime_changes_nothing(shipped):
    prices = 100 * np.exp(np.cumsum(np.random.default_rng(9).normal(0, 0.01, 100)))
    labels = chain(100, seed=9)
    tables = {"market.bars": bars(prices)}

    first = shipped({**tables, "signals.regimes": regimes(labels[:-1] + "T")}).make(
        "marts.regime_performance", "regime"
    )
    second = shipped({**tables, "signals.regimes": regimes(labels[:-1] + "V")}).make(
        "marts.regime_performance", "regime"
    )

    assert first.equals(second)


def test_daily_regimes_meet_the_returns_of_closes(shipped):
    days = [date(2024, 3, 1), date(2024, 3, 4), date(2024, 3, 5), date(2024, 3, 6)]
    closes = pl.DataFrame({"venue": "us_equity", "symbol": "X", "date": days, "close": [100.0, 110.0, 99.0, 99.0]})
    labels = regimes("T  TVV", interval="1d", step=timedelta(days=1), venue="us_equity")

    found = shipped({"signals.regimes": labels, "market.closes": closes}).make("marts.regime_performance", "regime")

    columns = ("regime", "bars", "mean_return", "annual_return", "volatility", "sharpe", "hit_rate")
    assert found.select(columns).rows() == [
        ("trending", 2, pytest.approx(0), pytest.approx(0, abs=1e-12), None, None, 0.5),
        ("volatile", 1, 0.0, 0.0, None, None, 0.0),
    ]


def test_returns_after_holes_do_not_count(shipped):
    prices = bars(np.array([100.0, 101.0, 102.0, 103.0, 104.0])).filter(pl.col("ts") != START + timedelta(minutes=10))

    found = shipped({"signals.regimes": regimes("TT TT"), "market.bars": prices}).make("marts.regime_performance")

    assert found["bars"].to_list() == [2]


def test_prices_that_do_not_move_have_no_sharpe_ratio(shipped):
    lake = shipped({"signals.regimes": regimes("T" * 50), "market.bars": bars(np.full(50, 7.0))})

    row = lake.make("marts.regime_performance").row(0, named=True)

    assert (row["bars"], row["volatility"], row["sharpe"], row["sharpe_error"]) == (49, 0.0, None, None)


def test_what_is_not_identified_is_counted(shipped):
    labels = regimes("TTTTT").with_columns(identified=pl.Series([True, False, False, False, True]))

    found = shipped({"signals.regimes": labels, "market.bars": bars(np.arange(1.0, 6.0))}).make(
        "marts.regime_performance"
    )

    assert found["identified_share"].to_list() == [0.25]


@pytest.mark.parametrize(("interval", "per_year"), [("1h", 8760), ("1d", 365)])
def test_figures_are_scaled_by_the_bars_of_a_year(shipped, interval, per_year):
    step = timedelta(hours=1) if interval == "1h" else timedelta(days=1)
    prices = 100 * 1.01 ** np.arange(30)
    table = bars(prices, interval=interval, step=step)
    lake = shipped({"signals.regimes": regimes("T" * 30, interval=interval, step=step), "market.bars": table})
    lake.add(
        "market.closes", table.select("venue", "symbol", pl.col("ts").dt.date().alias("date"), "close").unique("date")
    )

    row = lake.make("marts.regime_performance").row(0, named=True)

    assert row["annual_return"] == pytest.approx(0.01 * per_year, rel=1e-9)
