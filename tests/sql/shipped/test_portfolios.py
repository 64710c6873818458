"""Turnover and attribution, against NumPy and against what the weights' own table says."""

from __future__ import annotations

from datetime import date, timedelta

import numpy as np
import polars as pl
import pytest

from hfthot_platform.domain.signals.portfolios import weight_rows

FIRST = date(2024, 3, 1)
SYMBOLS = ("A", "B", "C")


def weights(rows: list[list[float | None]], *, every: int = 1, method: str = "cara") -> pl.DataFrame:
    """Return weights of A, B, C day by day; None is a symbol without a weight that day."""
    found = [
        {
            "date": FIRST + timedelta(days=number * every),
            "method": method,
            "venue": "binance",
            "symbol": symbol,
            "weight": w,
        }
        for number, row in enumerate(rows)
        for symbol, w in zip(SYMBOLS, row, strict=True)
        if w is not None
    ]
    return pl.DataFrame(found)


def closes(returns: np.ndarray) -> pl.DataFrame:
    """Return closes from the day before the first weights on; returns (days, symbols) are those of the days."""
    prices = 100 * np.cumprod(np.vstack([np.ones(returns.shape[1]), 1 + returns]), axis=0)
    return pl.concat(
        pl.DataFrame(
            {
                "venue": "binance",
                "symbol": symbol,
                "date": [FIRST + timedelta(days=day - 1) for day in range(len(prices))],
                "close": prices[:, column],
            }
        )
        for column, symbol in enumerate(SYMBOLS[: returns.shape[1]])
    )


# -- turnover ---------------------------------------------------------------------------------------------------


def test_turnover_counts_what_is_traded_against_the_drifted_weights(shipped):
    rng = np.random.default_rng(1)
    w, r = rng.normal(0.3, 0.3, (20, 3)), rng.normal(0, 0.05, (20, 3))
    lake = shipped({"portfolio.weights": weights(w.tolist()), "market.closes": closes(r)})

    found = lake.make("marts.portfolio_turnover", "date")

    drifted = w[:-1] * (1 + r[:-1]) / (1 + (w[:-1] * r[:-1]).sum(axis=1, keepdims=True))
    assert found["target_turnover"][1:].to_list() == pytest.approx(np.abs(np.diff(w, axis=0)).sum(axis=1), rel=1e-13)
    assert found["traded_turnover"][1:].to_list() == pytest.approx(np.abs(w[1:] - drifted).sum(axis=1), rel=1e-12)
    assert found["gross_exposure"].to_list() == pytest.approx(np.abs(w).sum(axis=1), rel=1e-14)
    assert found["net_exposure"].to_list() == pytest.approx(w.sum(axis=1), rel=1e-13)
    shares = np.abs(w) / np.abs(w).sum(axis=1, keepdims=True)
    assert found["effective_symbols"].to_list() == pytest.approx(1 / (shares**2).sum(axis=1), rel=1e-13)


def test_a_portfolio_that_is_left_alone_trades_nothing(shipped):
    """Targets that follow the drift change, but nothing is bought or sold."""
    r = np.array([[0.1, -0.05, 0.0], [0.0, 0.0, 0.0]])
    first = np.array([0.5, 0.3, 0.1])
    second = first * (1 + r[0]) / (1 + first @ r[0])
    lake = shipped({"portfolio.weights": weights([first.tolist(), second.tolist()]), "market.closes": closes(r)})

    row = lake.make("marts.portfolio_turnover", "date").row(-1, named=True)

    assert row["traded_turnover"] == pytest.approx(0, abs=1e-12)
    assert row["target_turnover"] > 0.05


def test_the_first_portfolio_is_bought_from_cash(shipped):
    lake = shipped({"portfolio.weights": weights([[0.5, -0.25, 0.25]]), "market.closes": closes(np.zeros((1, 3)))})

    row = lake.make("marts.portfolio_turnover").row(0, named=True)

    assert (row["previous_date"], row["target_turnover"], row["traded_turnover"]) == (None, 1.0, 1.0)


def test_what_has_no_weight_any_more_is_sold(shipped):
    lake = shipped(
        {"portfolio.weights": weights([[0.5, 0.5, None], [0.5, None, 0.5]]), "market.closes": closes(np.zeros((2, 3)))}
    )

    row = lake.make("marts.portfolio_turnover", "date").row(-1, named=True)

    assert (row["symbols"], row["target_turnover"], row["traded_turnover"]) == (2, 1.0, 1.0)


def test_days_between_two_sets_of_weights_compound(shipped):
    r = np.array([[0.1, 0.0, 0.0], [0.1, 0.0, 0.0], [0.5, 0.0, 0.0]])
    lake = shipped({"portfolio.weights": weights([[0.5, 0.5, 0.0]] * 2, every=2), "market.closes": closes(r)})

    row = lake.make("marts.portfolio_turnover", "date").row(-1, named=True)

    # The second weights are for the third day: the first two days' returns have moved the first ones.
    grown = 0.5 * 1.21 / (1 + 0.5 * 0.21)
    assert row["traded_turnover"] == pytest.approx(2 * (grown - 0.5), rel=1e-12)


@pytest.mark.soak
def test_an_unknown_return_of_what_is_held_leaves_the_traded_turnover_open(shipped):
    prices = closes(np.zeros((2, 3))).filter((pl.col("symbol") != "B") | (pl.col("date") != FIRST))
    held, not_held = weights([[0.5, 0.5, 0.0]] * 2), weights([[1.0, 0.0, 0.0]] * 2)

    known = shipped({"portfolio.weights": not_held, "market.closes": prices}).make("marts.portfolio_turnover", "date")
    unknown = shipped({"portfolio.weights": held, "market.closes": prices}).make("marts.portfolio_turnover", "date")

    assert unknown.row(-1, named=True)["target_turnover"] == 0
    assert unknown.row(-1, named=True)["traded_turnover"] is None
    assert known.row(-1, named=True)["traded_turnover"] == 0


def test_the_adaptive_portfolio_is_one_of_the_methods(shipped):
    lake = shipped({"portfolio.weights": weights([[0.2, 0.3, 0.5]]), "market.closes": closes(np.zeros((1, 3)))})
    adaptive = {"date": FIRST, "venue": "binance", "symbol": "A", "weight": 0.4, "previous_weight": 0.0}
    other = {"data_until": FIRST - timedelta(days=1), "regime_of": "A", "regime": "trending", "confidence": 0.9}
    rest = {
        "identified": True,
        "strategy": "momentum",
        "horizon_bars": 1,
        "method": "cara",
        "budget": 0.4,
        "reason": "-",
    }
    lake.add("portfolio.adaptive_weights", pl.DataFrame([adaptive | other | rest]))

    found = lake.make("marts.portfolio_turnover", "method")

    assert found.select("method", "gross_exposure").rows() == [("adaptive", 0.4), ("cara", 1.0)]


def test_target_turnover_is_that_of_the_weights_own_table(real, shipped):
    prices = real.read("market.closes").filter(pl.col("venue") == "us_equity", pl.col("date") < date(2008, 7, 1))
    made = weight_rows(prices, (date(2008, 6, 20), date(2008, 6, 28)), methods=("risk_parity",)).rows
    keys = ("venue", "symbol", "date", "close")
    lake = shipped({"portfolio.weights": made, "market.closes": prices.select(keys)})

    joined = lake.make("marts.portfolio_turnover").join(
        made.group_by("date").agg(pl.col("turnover").first()), on="date", how="full"
    )

    assert joined.height == 6
    assert joined.select((pl.col("turnover") - pl.col("target_turnover")).abs().max()).item() < 1e-12
    # It hardly trades: the targets follow what the prices do.
    assert joined.sort("date")["traded_turnover"][1:].max() < 0.05


# -- attribution ------------------------------------------------------------------------------------------------


def test_contributions_are_weights_times_returns_and_add_up(shipped):
    rng = np.random.default_rng(2)
    w, r = rng.normal(0.3, 0.3, (10, 3)), rng.normal(0, 0.05, (10, 3))
    lake = shipped({"portfolio.weights": weights(w.tolist()), "market.closes": closes(r)})

    found = lake.make("marts.portfolio_attribution", "date", "symbol")

    assert found["contribution"].to_list() == pytest.approx((w * r).ravel(), abs=1e-15)
    assert found["active_contribution"].to_list() == pytest.approx(((w - 1 / 3) * r).ravel(), abs=1e-15)
    sums = found.group_by("date", maintain_order=True).agg(
        pl.col("active_contribution").sum(), pl.col("portfolio_return").first(), pl.col("benchmark_return").first()
    )
    assert sums["portfolio_return"].to_list() == pytest.approx((w * r).sum(axis=1), abs=1e-15)
    assert sums["benchmark_return"].to_list() == pytest.approx(r.mean(axis=1), abs=1e-15)
    active = (sums["portfolio_return"] - sums["benchmark_return"]).to_list()
    assert sums["active_contribution"].to_list() == pytest.approx(active, abs=1e-15)


def test_an_unknown_return_leaves_the_portfolios_return_open_if_it_is_held(shipped):
    prices = closes(np.full((1, 3), 0.01)).filter(pl.col("symbol") != "B")
    both = pl.concat([weights([[0.5, 0.5, 0.0]]), weights([[0.5, 0.0, 0.5]], method="sparse")])

    found = shipped({"portfolio.weights": both, "market.closes": prices}).make("marts.portfolio_attribution")

    by_method = dict(found.group_by("method").agg(pl.col("portfolio_return").first()).rows())
    assert by_method == {"cara": None, "sparse": pytest.approx(0.01)}
    assert found.filter(pl.col("symbol") == "B").select("method", "contribution").sort("method").rows() == [
        ("cara", None),
        ("sparse", 0.0),
    ]
    assert found["benchmark_return"].null_count() == found.height


def test_a_return_over_a_gap_is_no_return_of_the_day(shipped):
    r = np.full((3, 3), 0.01)
    prices = closes(r).filter((pl.col("symbol") != "A") | (pl.col("date") != FIRST + timedelta(days=1)))

    lake = shipped({"portfolio.weights": weights([[1.0, 0.0, 0.0]] * 3), "market.closes": prices})
    found = lake.make("marts.portfolio_attribution", "date").filter(pl.col("symbol") == "A")

    assert found["contribution"].to_list() == [pytest.approx(0.01), None, None]


def test_weights_of_a_day_do_not_earn_the_returns_of_the_next(shipped):
    r = np.array([[0.0, 0.0, 0.0], [0.5, 0.0, 0.0]])

    lake = shipped({"portfolio.weights": weights([[1.0, 0.0, 0.0], [0.0, 1.0, 0.0]]), "market.closes": closes(r)})
    found = lake.make("marts.portfolio_attribution", "date")

    assert set(found["portfolio_return"]) == {0.0}
