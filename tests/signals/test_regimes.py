"""Walk-forward regimes: nothing looks ahead, and the rows fit their contracts."""

from __future__ import annotations

from datetime import UTC, date, datetime, timedelta

import numpy as np
import polars as pl
import pytest

from hfthot_platform.adapters.sample import SampleFeed
from hfthot_platform.core.errors import BadRequestError
from hfthot_platform.domain.contracts.signals import REGIME_CHANGES, REGIME_MODELS, REGIMES
from hfthot_platform.domain.models.regime import RegimeModel
from hfthot_platform.domain.signals.declared import RegimeSettings
from hfthot_platform.domain.signals.regimes import change_rows, model_rows, regime_rows
from hfthot_platform.storage.lakehouse.audit import audit

DAYS = (date(2022, 11, 1), date(2022, 12, 24))
SETTINGS = RegimeSettings(refit_days=30, history_bars=1500, n_restarts=2)
NONE = REGIME_MODELS.empty()


@pytest.fixture(scope="module")
def closes() -> pl.DataFrame:
    """Real closes of four stocks."""
    span = datetime(2015, 1, 1, tzinfo=UTC), datetime(2023, 1, 1, tzinfo=UTC)
    rows = pl.concat(batch.rows for batch in SampleFeed().fetch("market.closes", *span))
    return rows.filter(pl.col("symbol").is_in(["AAPL", "JPM", "WMT", "XOM"])).select(
        "venue", "symbol", pl.col("date").cast(pl.Datetime("us", "UTC")).alias("ts"), "close"
    )


@pytest.fixture(scope="module")
def models(closes) -> pl.DataFrame:
    rows, failed = model_rows(closes, NONE, DAYS, interval="1d", settings=SETTINGS)
    assert not failed
    return rows


@pytest.fixture(scope="module")
def regimes(closes, models) -> pl.DataFrame:
    rows, failed = regime_rows(closes, models, DAYS, interval="1d", settings=SETTINGS)
    assert not failed
    return rows


def test_rows_meet_their_contracts(models, regimes):
    for contract, rows in ((REGIME_MODELS, models), (REGIMES, regimes), (REGIME_CHANGES, change_rows(regimes, DAYS))):
        audited = audit(contract, rows)
        assert audited.rejected.is_empty()
        assert audited.rows.height == rows.height


def test_a_model_is_fitted_when_it_is_due_and_before_its_first_day(models):
    due = models.group_by("symbol").agg(pl.col("fitted_on").sort())
    assert due["fitted_on"].to_list() == [[date(2022, 11, 1), date(2022, 12, 1)]] * 4
    assert (models["trained_until"].dt.date() < models["fitted_on"]).all()


def test_a_known_model_is_used_until_it_is_old(closes, models):
    first = models.filter(pl.col("fitted_on") == date(2022, 11, 1))

    again, _ = model_rows(closes, first, (date(2022, 11, 15), date(2022, 12, 2)), interval="1d", settings=SETTINGS)

    assert again["fitted_on"].unique().to_list() == [date(2022, 12, 1)]


def test_every_bar_has_a_regime_with_its_model(closes, regimes, models):
    bars = closes.filter(pl.col("ts").dt.date() >= DAYS[0], pl.col("ts").dt.date() < DAYS[1])
    assert regimes.select("symbol", "ts").equals(bars.select("symbol", "ts").sort("symbol", "ts"))
    assert set(regimes["model_id"]) <= set(models["model_id"])
    total = regimes.select(pl.sum_horizontal("p_trending", "p_mean_reverting", "p_volatile")).to_series()
    assert np.allclose(total.to_numpy(), 1.0, atol=1e-9)


def test_nothing_looks_ahead(closes, models, regimes):
    """Rewriting everything from a day on changes no model and no regime before it."""
    cut = datetime(2022, 12, 1, tzinfo=UTC)
    changed = closes.with_columns(close=pl.when(pl.col("ts") >= cut).then(pl.col("close") * 3).otherwise("close"))

    other, _ = model_rows(changed, NONE, DAYS, interval="1d", settings=SETTINGS)
    filtered, _ = regime_rows(changed, other, DAYS, interval="1d", settings=SETTINGS)

    assert other.filter(pl.col("fitted_on") <= cut.date()).equals(models.filter(pl.col("fitted_on") <= cut.date()))
    assert filtered.filter(pl.col("ts") < cut).equals(regimes.filter(pl.col("ts") < cut))
    assert not filtered.filter(pl.col("ts") >= cut).equals(regimes.filter(pl.col("ts") >= cut))


def test_days_at_once_and_day_by_day_give_the_same_rows(closes, models, regimes):
    parts = []
    day = DAYS[0]
    while day < DAYS[1]:
        rows, _ = regime_rows(closes, models, (day, day + timedelta(days=1)), interval="1d", settings=SETTINGS)
        parts.append(rows)
        day += timedelta(days=1)
    daily = pl.concat(parts).sort("symbol", "venue", "ts")

    assert daily.drop("confidence", "^p_.*$").equals(regimes.drop("confidence", "^p_.*$"))
    for name in ("confidence", "p_trending", "p_mean_reverting", "p_volatile"):
        # The filter's warm-up begins elsewhere: its memory of 1500 bars ago is below rounding.
        assert np.allclose(daily[name].to_numpy(), regimes[name].to_numpy(), atol=1e-6)


def test_the_number_of_threads_changes_nothing(closes, models):
    alone = RegimeSettings(refit_days=30, history_bars=1500, n_restarts=2, workers=1)

    assert model_rows(closes, NONE, DAYS, interval="1d", settings=alone)[0].equals(models)


def test_a_short_series_fails_with_its_name_and_the_others_do_not(closes):
    young = closes.filter((pl.col("symbol") != "XOM") | (pl.col("ts") >= datetime(2022, 6, 1, tzinfo=UTC)))

    rows, failed = model_rows(young, NONE, DAYS, interval="1d", settings=SETTINGS)

    assert set(rows["symbol"]) == {"AAPL", "JPM", "WMT"}
    assert [name for name, _ in failed] == ["XOM@us_equity"]
    assert "600 are needed" in failed[0][1]


def test_names_promise_no_more_than_the_model_can_tell(models, regimes):
    told = dict(models.select("model_id", "identified").rows())
    for row in regimes.iter_rows(named=True):
        assert row["identified"] == told[row["model_id"]]
        if row["identified"]:
            assert row["regime"] in {"trending", "mean_reverting", "volatile"}
            assert row["p_calm"] is row["p_normal"] is None
        else:
            assert row["regime"] in {"calm", "normal", "volatile"}
            assert row["strategy"] == ("risk_off" if row["regime"] == "volatile" else "neutral")
            assert row["p_trending"] == row["p_mean_reverting"] == (row["p_calm"] + row["p_normal"]) / 2
            assert row["confidence"] == max(row["p_calm"], row["p_normal"], row["p_volatile"])
    # Daily returns of stocks do not tell trending from mean-reverting.
    assert not regimes["identified"].any()


def test_calm_is_the_quieter_of_the_two(models):
    for text in models["parameters"]:
        model = RegimeModel.from_json(text)
        volatility = dict(zip(model.names, model.evidence.volatility, strict=True))
        assert volatility["calm"] < volatility["normal"] < volatility["volatile"]


def test_another_model_with_other_names_is_no_change_of_the_market():
    times = [datetime(2024, 1, 1, hour, tzinfo=UTC) for hour in range(5)]
    regimes = pl.DataFrame(
        {
            "venue": ["v"] * 5,
            "symbol": ["S"] * 5,
            "interval": ["1h"] * 5,
            "ts": times,
            "regime": ["trending", "calm", "normal", "volatile", "mean_reverting"],
            "confidence": [0.9] * 5,
            "identified": [True, False, False, True, True],
            "model_id": ["m", "n", "n", "o", "o"],
        }
    ).with_columns(pl.col("ts").cast(pl.Datetime("us", "UTC")))

    found = change_rows(regimes, (date(2024, 1, 1), date(2024, 1, 2)))

    assert found["ts"].to_list() == times[2:]


def test_a_series_that_cannot_be_used_costs_the_others_nothing(closes, models):
    spoiled = closes.with_columns(
        close=pl.when((pl.col("symbol") == "XOM") & (pl.col("ts").dt.ordinal_day() % 90 > 0))
        .then(50.0)
        .when((pl.col("symbol") == "WMT") & (pl.col("ts").dt.ordinal_day() % 50 == 0))
        .then(pl.lit(float("nan")))
        .otherwise("close")
    )
    twice = closes.filter(pl.col("symbol") == "JPM").head(1)

    rows, failed = model_rows(pl.concat([spoiled, twice]), NONE, DAYS, interval="1d", settings=SETTINGS)

    # One stands still, one has closes that are not numbers, one has two closes on one day.
    assert {"AAPL", "WMT"} <= set(rows["symbol"])
    assert "JPM@us_equity" in [name for name, _ in failed]
    assert rows.filter(pl.col("symbol") == "AAPL").equals(models.filter(pl.col("symbol") == "AAPL"))


def test_a_stored_model_that_cannot_be_read_is_told_and_fitted_again(closes, models):
    broken = models.with_columns(
        parameters=pl.when(pl.col("symbol") == "XOM").then(pl.lit("{}")).otherwise("parameters")
    )

    rows, failed = regime_rows(closes, broken, DAYS, interval="1d", settings=SETTINGS)
    assert set(rows["symbol"]) == {"AAPL", "JPM", "WMT"}
    assert {name for name, _ in failed} == {"XOM@us_equity"}

    later = (date(2022, 12, 5), date(2022, 12, 6))
    again, _ = model_rows(closes, broken, later, interval="1d", settings=SETTINGS)
    assert again["symbol"].to_list() == ["XOM"]


def test_a_missing_bar_has_no_regime_and_moves_the_others_only_by_the_transition(closes, models, regimes):
    gone = datetime(2022, 12, 8, tzinfo=UTC)
    with_gap = closes.filter(pl.col("ts") != gone)

    rows, _ = regime_rows(with_gap, models, DAYS, interval="1d", settings=SETTINGS)

    assert rows.filter(pl.col("ts") == gone).is_empty()
    # The return after the gap spans two bars and is missing too; from the next one on rows are back.
    assert rows.filter(pl.col("ts") == gone + timedelta(days=1)).is_empty()
    assert rows.filter(pl.col("ts") == gone + timedelta(days=4)).height == 4
    assert rows.filter(pl.col("ts") < gone).equals(regimes.filter(pl.col("ts") < gone))


def test_a_change_needs_certainty():
    times = [datetime(2024, 1, 1, hour, tzinfo=UTC) for hour in range(6)]
    regimes = pl.DataFrame(
        {
            "venue": ["v"] * 6,
            "symbol": ["S"] * 6,
            "interval": ["1h"] * 6,
            "ts": times,
            "regime": ["trending", "volatile", "volatile", "trending", "trending", "volatile"],
            "confidence": [0.9, 0.7, 0.8, 0.5, 0.76, 0.76],
            "identified": [True] * 6,
            "model_id": ["m"] * 6,
        }
    ).with_columns(pl.col("ts").cast(pl.Datetime("us", "UTC")))

    found = change_rows(regimes, (date(2024, 1, 1), date(2024, 1, 2)))

    assert found["ts"].to_list() == [times[2], times[4], times[5]]
    assert found["previous"].to_list() == ["trending", "volatile", "trending"]


def test_an_unknown_interval_is_refused(closes):
    with pytest.raises(BadRequestError, match="fortnight"):
        model_rows(closes, NONE, DAYS, interval="fortnight")
