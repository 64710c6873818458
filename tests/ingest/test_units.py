"""Bars of a day computed unit by unit are the bars computed at once, bit by bit, in one commit a day."""

from __future__ import annotations

from datetime import UTC, date, datetime, timedelta

import numpy as np
import polars as pl
import pytest

from hfthot_platform.core.settings import Settings
from hfthot_platform.core.time import ONE_DAY
from hfthot_platform.services.derive.derivation import derive
from hfthot_platform.services.derive.tables import DENSE_SOURCES, rows_of_unit
from hfthot_platform.storage.lakehouse import Lakehouse, Stamp

DAY = date(2024, 1, 1)
DAYS = (DAY, DAY + 3 * ONE_DAY)
NOW = datetime(2024, 2, 1, tzinfo=UTC)


def random_trades(day: date, seed: int, n: int = 4_000) -> pl.DataFrame:
    """Return trades of 30 symbols at two venues in the order in which they happened, with prices of many digits."""
    random = np.random.default_rng(seed)
    micros = np.sort(random.integers(0, 86_400_000_000, n))
    midnight = datetime.combine(day, datetime.min.time(), UTC)
    return pl.DataFrame(
        {
            "venue": random.choice(["binance", "kraken"], n),
            "symbol": [f"S{number:02d}-USD" for number in random.zipf(1.5, n) % 30],
            "ts": pl.Series(micros).cast(pl.Duration("us")) + midnight,
            "trade_id": np.arange(n) + seed * n,
            "price": 100 * np.exp(random.normal(0, 0.1, n)),
            "amount": random.exponential(1.0, n),
            "side": random.choice(["buy", "sell"], n),
            "source": "replay",
            "source_ref": [f"test:{part}" for part in random.integers(0, 5, n)],
        }
    )


@pytest.fixture(scope="module")
def lakes(tmp_path_factory):
    """Return two lakes with the same trades of three days, as many small commits."""
    made = []
    for number in range(2):
        lake = Lakehouse.open(tmp_path_factory.mktemp(f"units{number}") / "lake", new=True)
        for day in range(3):
            for part in random_trades(DAY + timedelta(days=day), day).iter_slices(1_000):
                lake.table("market.trades").append(part)
        made.append(lake)
    return made


@pytest.fixture
def settings(tmp_path):
    return Settings(scratch=tmp_path / "scratch")


def derived(lake, name, settings, most_rows):
    """Derive a table and return its commits and the pieces that were computed."""
    asked = []

    def compute(unit):
        asked.append(unit)
        return rows_of_unit(lake, name, unit, now=NOW)

    source = DENSE_SOURCES[name]
    with derive(lake, name, DAYS, compute, source=source, settings=settings, most_rows=most_rows) as derivation:
        return derivation.publish(Stamp(run_id="r")), asked


def test_bars_by_units_are_the_bars_at_once_in_one_commit_a_day(lakes, settings):
    whole, divided = lakes
    for name in ("market.bars_1m", "market.bars"):
        _, at_once = derived(whole, name, settings, 10**9)
        commits, by_units = derived(divided, name, settings, 1_500)
        assert [unit.days for unit in at_once] == [DAYS]
        assert len(by_units) > 6
        assert len(commits) == 3
        key = list(whole.table(name).contract.sort_by)
        expected = whole.table(name).scan().collect().sort(key)
        found = divided.table(name).scan().collect().sort(key)
        assert expected.height > 0
        assert found.equals(expected)
        again, _ = derived(divided, name, settings, 1_500)
        assert [commit.changed for commit in again] == [False] * 3


def test_vendors_bars_stand_in_their_unit_and_are_asked_for_once_a_day(lakes, settings):
    _, lake = lakes
    bars = rows_of_unit(lake, "market.bars_1m", _whole_day(lake), now=NOW)
    stated = bars.gather_every(97).with_columns(close=pl.col("high"), origin=pl.lit("vendor"), source_ref=pl.lit("v"))
    asked = []

    def state(days):
        asked.append(days)
        day = pl.lit(datetime.combine(days[0], datetime.min.time(), UTC))
        return lake.table("market.bars_1m").audit(stated.filter(pl.col("ts").dt.date() == day.dt.date())).rows, None

    with derive(
        lake,
        "market.bars_1m",
        (DAY, DAY + ONE_DAY),
        lambda unit: rows_of_unit(lake, "market.bars_1m", unit, now=NOW),
        source="market.trades",
        stated=state,
        settings=settings,
        most_rows=1_500,
    ) as derivation:
        (commit,) = derivation.publish()

    assert asked == [(DAY, DAY + ONE_DAY)]
    rows = lake.table("market.bars_1m").scan().filter(pl.col("date") == DAY).collect()
    assert rows.height == bars.height == commit.rows_published
    assert rows.filter(pl.col("origin") == "vendor").height == stated.height


def _whole_day(lake):
    from hfthot_platform.storage.lakehouse import units_of

    (unit,) = units_of(lake.table("market.trades"), (DAY, DAY + ONE_DAY))
    return unit
