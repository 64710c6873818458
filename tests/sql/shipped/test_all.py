"""What holds for every shipped model: documented, tested, sourced, empty where there is nothing, the same twice."""

from __future__ import annotations

import re
from datetime import UTC, date, datetime, timedelta

import numpy as np
import polars as pl
import pytest

from hfthot_platform.app.lake import models_of
from hfthot_platform.core.settings import Settings
from hfthot_platform.services.sql.models.runner import run_models
from tests.sql.shipped.conftest import FOLDER

NAMES = sorted(f"{path.parent.name}.{path.stem}" for path in FOLDER.rglob("*.sql"))
MARTS = [name for name in NAMES if name.startswith("marts.")]
#: Models that state a formula which others have published.
FORMULAS = {
    "marts.daily_ohlcv": "1997",
    "marts.realised_volatility": "Parkinson \\(1980\\).*Klass \\(1980\\).*Zhang \\(2000\\)",
    "marts.liquidity": "Amihud \\(2002\\).*Roll \\(1984\\).*Stoll \\(1997\\)",
    "marts.correlation_matrix": "1895",
    "marts.regime_transitions": "\\(1957\\)",
    "marts.regime_durations": "Hamilton 1989",
    "marts.regime_performance": "Sharpe 1994.*Lo 2002",
    "marts.portfolio_turnover": "Uppal 2009",
    "marts.portfolio_attribution": "Beebower \\(1986\\)",
}


def test_every_file_is_a_sound_model():
    found = models_of(Settings(sql_models=FOLDER))

    assert [str(mistake) for mistake in found.mistakes] == []
    assert sorted(found.by_name) == NAMES


@pytest.mark.parametrize("name", NAMES)
def test_every_column_says_what_it_is(models, name):
    assert [column.name for column in models[name].columns if not column.description] == []


@pytest.mark.parametrize("name", MARTS)
def test_every_mart_tests_its_key_and_its_values(models, name):
    model = models[name]

    assert model.header.unique_key
    assert {"unique", "not_null"} <= {test.kind for test in model.tests}
    assert len(model.tests) > len(model.header.unique_key) + 1


@pytest.mark.parametrize("name", FORMULAS)
def test_every_formula_names_its_source(models, name):
    assert re.search(FORMULAS[name], models[name].description, re.DOTALL)


@pytest.mark.soak
def test_a_lake_without_any_row_gives_marts_without_any_row(shipped):
    lake = shipped({})

    lake.run()

    assert {name: lake.read(name).height for name in MARTS} == dict.fromkeys(MARTS, 0)


@pytest.mark.soak
def test_one_close_gives_one_row_without_statistics(shipped):
    lake = shipped({"market.closes": closes(np.array([100.0]))})

    lake.run()

    assert lake.read("marts.daily_ohlcv").select("close", "is_daily", "simple_return").rows() == [(100.0, False, None)]
    assert lake.read("marts.realised_volatility").select("returns", "close_to_close", "yang_zhang").rows() == [
        (0, None, None)
    ]
    assert lake.read("marts.liquidity").select("amihud", "roll_spread", "traded_spread").rows() == [(None, None, None)]
    assert lake.read("marts.correlation_matrix").height == 0


DAILY = tuple(
    f"marts.{name}"
    for name in ("daily_ohlcv", "realised_volatility", "liquidity", "correlation_matrix", "portfolio_attribution")
)


@pytest.mark.soak
def test_days_computed_one_by_one_are_those_of_a_single_run_to_the_last_bit(messy):
    # Around a Sunday and the days with trades, and where the first windows are not full yet.
    days = [date(2024, 1, 2), date(2024, 1, 20), *(date(2024, 2, 2) + timedelta(days=day) for day in range(3))]

    runs = [run for day in days for run in run_models(messy.lake, messy.models, DAILY, days=(day, day + timedelta(1)))]

    assert all(messy.read(name).height for name in DAILY)
    # The same rows again, bit by bit, make no version.
    assert [(run.model.name, run.days) for run in runs if run.status != "unchanged"] == []


@pytest.mark.soak
def test_a_second_run_changes_nothing(messy):
    messy.run()

    runs = run_models(messy.lake, messy.models, full=True)

    # The scoreboard says when it was made.
    assert [run.model.name for run in runs if run.status == "published"] == ["marts.data_quality_scoreboard"]


@pytest.mark.soak
def test_nothing_is_ever_nan_or_infinite(messy):
    messy.run()

    for name in MARTS:
        frame = messy.read(name)
        floats = [column for column, dtype in frame.schema.items() if dtype.is_float()]
        bad = frame.select((~pl.col(floats).is_finite()).sum() if floats else pl.lit(0)).row(0)
        assert not any(bad), name


def closes(
    prices: np.ndarray, symbol: str = "X", venue: str = "binance", start: date = date(2024, 1, 1)
) -> pl.DataFrame:
    days = [start + timedelta(days=number) for number in range(len(prices))]
    return pl.DataFrame({"venue": venue, "symbol": symbol, "date": days, "close": prices})


@pytest.fixture(scope="module")
def messy(shipped):
    """Four months of four series with holes, constant prices, days without volume; trades, regimes and weights."""
    rng = np.random.default_rng(11)
    n = 121
    days = [date(2024, 1, 1) + timedelta(days=number) for number in range(n)]
    bars, regimes, weights = [], [], []
    for symbol, sigma in (("A", 0.02), ("B", 0.03), ("C", 0.0), ("D", 0.05)):
        close = 100 * np.exp(np.cumsum(rng.normal(0, sigma, n)))
        opened = np.concatenate([[100.0], close[:-1]]) * np.exp(rng.normal(0, sigma / 5, n))
        noise = np.abs(rng.normal(0, sigma, (2, n)))
        bars.append(
            pl.DataFrame(
                {
                    "venue": "us_equity" if symbol == "D" else "binance",
                    "symbol": symbol,
                    "ts": [datetime(day.year, day.month, day.day, tzinfo=UTC) for day in days],
                    "open": opened,
                    "high": np.maximum(opened, close) * np.exp(noise[0]),
                    "low": np.minimum(opened, close) * np.exp(-noise[1]),
                    "close": close,
                    "volume": rng.choice([0.0, 1.0, 7.0], n),
                    "quote_volume": rng.choice([0.0, 1e5, 3e6], n),
                }
            ).filter(pl.Series(rng.random(n) > 0.1))
        )
    for symbol, venue in (("A", "binance"), ("D", "us_equity")):
        labels = rng.choice(["trending", "mean_reverting", "volatile"], n)
        times = [datetime(day.year, day.month, day.day, tzinfo=UTC) for day in days]
        regimes.append(
            pl.DataFrame({"venue": venue, "symbol": symbol, "interval": "1d", "ts": times, "regime": labels})
        )
        weights.append(
            pl.DataFrame(
                {"date": days, "method": "cara", "venue": venue, "symbol": symbol, "weight": rng.normal(0, 0.3, n)}
            )
        )
    count = 3000
    seconds = np.sort(rng.integers(0, 3 * 86_400, count))
    trades = pl.DataFrame(
        {
            "venue": "binance",
            "symbol": "A",
            "ts": [datetime(2024, 2, 1, tzinfo=UTC) + timedelta(seconds=int(second)) for second in seconds],
            "trade_id": np.arange(count),
            "price": 100 * np.exp(np.cumsum(rng.normal(0, 1e-4, count))),
            "side": rng.choice(["buy", "sell"], count),
        }
    )
    every = pl.concat(bars)
    lake = shipped(
        {
            "market.bars": every,
            "market.closes": every.select("venue", "symbol", pl.col("ts").dt.date().alias("date"), "close"),
            "market.trades": trades,
            "signals.regimes": pl.concat(regimes),
            "portfolio.weights": pl.concat(weights),
        }
    )
    lake.run()
    return lake
