"""Pictures: PNG bytes that fit into metadata, for any amount of rows."""

from __future__ import annotations

import base64
import struct
import subprocess
import sys
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, date, datetime, timedelta

import numpy as np
import polars as pl
import pytest

from hfthot_platform.core.errors import BadRequestError
from hfthot_platform.domain import plots
from hfthot_platform.domain.market.gaps import presence

START = datetime(2024, 3, 1, tzinfo=UTC)
MINUTE = timedelta(minutes=1)


def bars(n: int, step: timedelta = MINUTE) -> pl.DataFrame:
    rng = np.random.default_rng(1)
    close = 100 * np.exp(0.001 * rng.standard_normal(n).cumsum())
    opened = np.concatenate([[100.0], close[:-1]])[:n]
    return pl.DataFrame(
        {
            "venue": pl.repeat("binance", n, eager=True),
            "symbol": pl.repeat("BTC-USDT", n, eager=True),
            "ts": pl.Series([START + number * step for number in range(n)], dtype=pl.Datetime("us", "UTC")),
            "open": opened,
            "high": np.maximum(opened, close) * 1.0005,
            "low": np.minimum(opened, close) * 0.9995,
            "close": close,
            "volume": rng.lognormal(size=n),
        }
    )


def days(n: int) -> pl.Series:
    return pl.Series([date(2024, 1, 1) + timedelta(days=number) for number in range(n)], dtype=pl.Date)


def counts(n: int, symbols: int = 3) -> pl.DataFrame:
    return pl.DataFrame({"date": days(n), "rows": 100 + np.arange(n)}).join(
        pl.DataFrame({"symbol": [f"S{number}" for number in range(symbols)]}), how="cross"
    )


def universe(n: int, size: int = 5) -> pl.DataFrame:
    return pl.DataFrame(
        [
            (day, rank, "binance", f"S{(rank + number // 7) % (2 * size)}-USDT", date(2024, 1, 1))
            for number, day in enumerate(days(n))
            for rank in range(1, size + 1)
        ],
        schema={
            "date": pl.Date,
            "rank": pl.Int32,
            **dict.fromkeys(("venue", "symbol"), pl.String),
            "member_since": pl.Date,
        },
        orient="row",
    )


def curve(n: int) -> pl.DataFrame:
    return bars(n).select("ts", equity="close", other="open")


def fan(n: int) -> pl.DataFrame:
    width = 0.1 * np.sqrt(np.arange(n))
    ts = pl.Series([START + number * MINUTE for number in range(n)], dtype=pl.Datetime("us", "UTC"))
    return pl.DataFrame({"ts": ts, "expected": np.full(n, 100.0), "lower": 100 - width, "upper": 100 + width})


def history(n: int) -> pl.DataFrame:
    return bars(n).select("close", ts=pl.col("ts") - n * MINUTE)


def density(n: int) -> bytes:
    times, inventories = np.linspace(0, 5, max(n, 1)), np.linspace(-3, 3, 61)
    values = np.exp(-(inventories**2) * (1 + times[:, None]))
    return plots.density_map(times, inventories, values, mean=np.zeros(times.size), title="Density")


def weights(n: int) -> pl.DataFrame:
    symbols = pl.DataFrame({"symbol": [f"S{number}" for number in range(n)], "weight": np.linspace(-0.2, 1, n)})
    return symbols.join(pl.DataFrame({"method": ["cara", "risk_parity", "sparse"]}), how="cross")


def regimes(n: int, *, identified: bool = True) -> pl.DataFrame:
    chance = np.random.default_rng(2).dirichlet([0.5, 0.5, 0.5], n)
    named = {f"p_{name}": chance[:, k] for k, name in enumerate(("trending", "mean_reverting", "volatile"))}
    return bars(n).select("ts", identified=pl.lit(identified)).with_columns(**named)


PICTURES: dict[str, Callable[[int], bytes]] = {
    "candles": lambda n: plots.candles(bars(n)),
    "gap heat map": lambda n: plots.gap_heat_map(presence(bars(n), "1m")),
    "gap heat map by hour": lambda n: plots.gap_heat_map(presence(bars(n), "1m", by="hour")),
    "rows per day": lambda n: plots.rows_per_day(counts(min(n, 3_000)).drop("symbol")),
    "stacked rows per day": lambda n: plots.rows_per_day(counts(min(n, 400), symbols=12), by="symbol"),
    "lines": lambda n: plots.lines(curve(n), "ts", ["equity", "other"], title="Two lines", ylabel="USDT", log=True),
    "equity": lambda n: plots.equity(curve(n)),
    "fan": lambda n: plots.forecast_fan(history(n), fan(min(n, 400)), title="Fan"),
    "density": lambda n: density(min(n, 401)),
    "weights": lambda n: plots.weights_bars(weights(min(n, 500))),
    "regimes": lambda n: plots.regime_timeline(bars(n), regimes(n), title="Regimes"),
    "universe": lambda n: plots.universe_timeline(universe(min(n, 1_000))),
}


def size_of(png: bytes) -> tuple[int, int]:
    assert png.startswith(b"\x89PNG\r\n\x1a\n")
    assert png.endswith(b"IEND\xaeB`\x82")
    width, height = struct.unpack(">II", png[16:24])
    return width, height


@pytest.mark.parametrize("name", PICTURES)
@pytest.mark.parametrize("rows", [0, *(pytest.param(rows, marks=pytest.mark.soak) for rows in (1, 2, 100_000))])
def test_any_number_of_rows_gives_a_picture_that_fits_into_metadata(name: str, rows: int) -> None:
    png = PICTURES[name](rows)
    width, height = size_of(png)
    assert width >= 700
    assert height >= 200
    assert len(png) <= plots.MAX_BYTES
    assert len(plots.markdown_image(png)) < 150_000


@pytest.mark.soak
@pytest.mark.parametrize(
    ("n", "step", "expected", "name"),
    [
        (200, MINUTE, 200, "1m"),
        (1_440, MINUTE, 144, "10m"),
        (100_000, MINUTE, 209, "8h"),
        (1_000, timedelta(days=1), 144, "1w"),
    ],
)
def test_many_bars_are_merged_into_longer_candles(n: int, step: timedelta, expected: int, name: str) -> None:
    merged, length, called = plots.merged_candles(bars(n, step))
    assert (merged.height, called) == (expected, name)
    assert merged["volume"].sum() == pytest.approx(bars(n, step)["volume"].sum())
    assert merged["high"].max() == bars(n, step)["high"].max()
    assert merged["open"][0] == bars(n, step)["open"][0]
    assert merged["close"][-1] == bars(n, step)["close"][-1]
    assert (merged["ts"].to_physical().diff().drop_nulls() == length).all()


def test_a_year_of_trading_days_is_not_merged_for_its_weekends() -> None:
    weekdays = bars(365, timedelta(days=1)).filter(pl.col("ts").dt.weekday() < 6)
    assert plots.merged_candles(weekdays)[2] == "1d"


def test_weeks_start_on_monday() -> None:
    merged, _, name = plots.merged_candles(bars(1_000, timedelta(days=1)))
    assert name == "1w"
    assert set(merged["ts"].dt.weekday()) == {1}


def test_thinning_keeps_every_spike() -> None:
    values = np.zeros(100_000)
    values[[12_345, 77_777]] = [9.0, -9.0]
    kept = plots.extremes(values)
    assert len(kept) <= 1_502
    assert {12_345, 77_777, 0, 99_999} <= set(kept.tolist())


def test_a_series_of_nothing_but_nan_is_drawn_empty() -> None:
    frame = curve(5_000).with_columns(equity=pl.lit(float("nan")))
    size_of(plots.lines(frame, "ts", ["equity"], title="Nothing"))
    size_of(plots.equity(frame))


def test_candles_of_several_symbols_are_refused() -> None:
    mixed = pl.concat([bars(2), bars(2).with_columns(symbol=pl.lit("ETH-USDT"))])
    with pytest.raises(BadRequestError, match="2 values of symbol"):
        plots.candles(mixed)


def test_too_many_lines_are_refused() -> None:
    with pytest.raises(BadRequestError, match="at most 8"):
        plots.lines(curve(3), "ts", ["equity"] * 9, title="Nine")


def test_several_forecasts_in_one_fan_are_refused() -> None:
    two = pl.concat([fan(3).with_columns(symbol=pl.lit(symbol)) for symbol in ("BTC-USDT", "ETH-USDT")])
    with pytest.raises(BadRequestError, match="2 values of symbol"):
        plots.forecast_fan(history(3), two, title="Two")


def test_a_fan_shows_no_price_from_after_it_was_made() -> None:
    later = bars(50).select("close", ts=pl.col("ts") + MINUTE)
    past = history(50)
    assert plots.forecast_fan(pl.concat([past, later]), fan(5), title="x") == plots.forecast_fan(
        past, fan(5), title="x"
    )


def test_a_density_of_another_shape_is_refused() -> None:
    with pytest.raises(BadRequestError, match="shape"):
        plots.density_map(np.arange(3.0), np.arange(4.0), np.ones((4, 3)), title="x")


def test_weights_of_two_days_at_once_are_refused() -> None:
    with pytest.raises(BadRequestError, match="filter to one day"):
        plots.weights_bars(pl.concat([weights(3), weights(3)]))


def test_regimes_that_are_not_told_apart_look_different() -> None:
    told, untold = (
        plots.regime_timeline(bars(200), regimes(200, identified=identified), title="x") for identified in (True, False)
    )
    assert told != untold


def test_a_flat_price_and_a_volume_of_zero_are_drawn() -> None:
    flat = bars(10).with_columns(
        *(pl.lit(5.0).alias(name) for name in ("open", "high", "low", "close")), volume=pl.lit(0.0)
    )
    size_of(plots.candles(flat))


@pytest.mark.soak
def test_the_same_rows_give_the_same_bytes_also_in_threads() -> None:
    frame = bars(300)
    with ThreadPoolExecutor(4) as pool:
        pictures = set(pool.map(lambda _: plots.candles(frame), range(4)))
    assert pictures == {plots.candles(frame)}


def test_markdown_holds_the_picture_itself() -> None:
    png = plots.candles(bars(3))
    text = plots.markdown_image(png, "candles of BTC")
    head, _, data = text.partition("base64,")
    assert head == "![candles of BTC](data:image/png;"
    assert base64.b64decode(data.removesuffix(")")) == png


def test_matplotlib_is_imported_on_use_and_never_its_global_state() -> None:
    code = (
        "import sys, polars as pl\n"
        "from hfthot_platform.domain import plots\n"
        "assert 'matplotlib' not in sys.modules\n"
        "plots.lines(pl.DataFrame({'x': [1, 2], 'y': [1.0, 2.0]}), 'x', ['y'], title='t')\n"
        "assert 'matplotlib' in sys.modules\n"
        "assert 'matplotlib.pyplot' not in sys.modules\n"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
