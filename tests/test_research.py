"""The researcher's three lines: data from the lake, a strategy, a backtest."""

from __future__ import annotations

import importlib
import math
import re
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, date, datetime, timedelta
from pathlib import Path

import numpy as np
import polars as pl
import pytest

from hfthot_platform import research
from hfthot_platform.core.errors import (
    AmbiguousVenueError,
    BadRequestError,
    DataError,
    LookAheadError,
    nearest,
    nearest_symbol,
)
from hfthot_platform.research import MeanReversion, TrendFollowing, backtest, equity_plot, load_dataset
from hfthot_platform.storage.lakehouse import Lakehouse

START = datetime(2024, 1, 1, tzinfo=UTC)


def hours(symbol: str, n: int, *, venue: str = "binance", seed: int = 0) -> pl.DataFrame:
    rng = np.random.default_rng(seed)
    closes = 100 * np.exp(np.cumsum(0.01 * rng.standard_normal(n)))
    opens = np.concatenate([[100.0], closes[:-1]])
    ts = [START + timedelta(hours=i) for i in range(n)]
    return pl.DataFrame(
        {
            "month": [t.date().replace(day=1) for t in ts],
            "venue": venue,
            "symbol": symbol,
            "interval": "1h",
            "ts": ts,
            "ts_close": [t + timedelta(hours=1) for t in ts],
            "open": opens,
            "high": np.maximum(opens, closes),
            "low": np.minimum(opens, closes),
            "close": closes,
            "volume": 5.0,
            "final": True,
            "origin": "vendor",
            "source": "replay",
            "source_ref": "test:1",
        },
        schema_overrides={"ts": pl.Datetime("us", "UTC"), "ts_close": pl.Datetime("us", "UTC")},
    )


def closes(symbol: str, n: int) -> pl.DataFrame:
    days = [START.date() + timedelta(days=i) for i in range(n)]
    return pl.DataFrame(
        {
            "year": [d.year for d in days],
            "date": days,
            "venue": "us_equity",
            "symbol": symbol,
            "close": 50.0 + np.arange(n),
            "adjusted": True,
            "source": "vendor_history",
            "source_ref": "test:1",
        },
        schema_overrides={"year": pl.Int16},
    )


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    folder = tmp_path_factory.mktemp("research") / "lake"
    lake = Lakehouse.open(folder)
    lake.table("market.bars").append(
        pl.concat(
            [
                hours("BTC-USDT", 700),
                hours("ETH-USDT", 300, seed=1),
                hours("SOL-USDT", 20, seed=2),
                hours("SOL-USDT", 20, venue="kraken", seed=3),
            ]
        )
    )
    lake.table("market.closes").append(closes("AAPL", 30))
    return folder


@pytest.fixture
def lake(root, tmp_path, monkeypatch) -> Lakehouse:
    """Configure the lake as a user would; nothing is loaded yet."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HFTHOT_LAKE_ROOT", str(root))
    research.last_loaded.__dict__.clear()
    return Lakehouse.open(root)


def test_three_lines(lake):
    load_dataset("BTC-USDT")
    strategy = MeanReversion()
    result = backtest(strategy)

    assert result.symbols == ("BTC-USDT",)
    assert len(result.times) == 700
    assert result.bars_per_year == pytest.approx(8766)
    assert result.by_regime["bars"].sum() == 699 - result.start
    assert "Sharpe" in str(result)


def test_explicit_data_and_costs_come_before_what_was_loaded_last(lake):
    bitcoin = load_dataset("BTC-USDT")
    load_dataset("ETH-USDT")

    dear = backtest(TrendFollowing(20), bitcoin, research.Costs(0.01, 0.0))
    cheap = backtest(TrendFollowing(20), bitcoin, research.Costs(0.0, 0.0))

    assert dear.symbols == ("BTC-USDT",)
    assert dear.total_return < cheap.total_return


def test_a_backtest_without_data_says_what_to_do(lake):
    with pytest.raises(BadRequestError, match=r"load_dataset\(\"SPX\", interval=\"1d\"\) first"):
        backtest(MeanReversion())


def test_another_thread_does_not_see_what_this_one_loaded(lake):
    load_dataset("BTC-USDT")

    with ThreadPoolExecutor(1) as pool, pytest.raises(BadRequestError, match="no data"):
        pool.submit(backtest, MeanReversion()).result()


def test_look_ahead_is_refused_here_too(lake):
    load_dataset("BTC-USDT")

    with pytest.raises(LookAheadError):
        backtest(lambda bars: np.sign(np.diff(bars.close[:, 0], append=1.0)))


def test_several_symbols_become_one_panel(lake):
    bars = load_dataset("ETH-USDT", "BTC-USDT")

    assert bars.symbols == ("BTC-USDT", "ETH-USDT")
    assert np.isnan(bars.close[300:, 1]).all()


def test_a_span_is_cut_out(lake):
    bars = load_dataset("BTC-USDT", start=START + timedelta(hours=10), end=START + timedelta(hours=20))

    assert len(bars) == 10
    assert bars.times[0] == int((START + timedelta(hours=10)).timestamp() * 1e6)


def test_an_unknown_symbol_names_the_right_spelling_and_the_next_step(lake):
    with pytest.raises(DataError, match=r"no 1h bars of btcusdt\. Did you mean 'BTC-USDT'\?.*ingest"):
        load_dataset("btcusdt")


def test_a_coarser_interval_is_computed_and_a_finer_one_is_not(lake):
    days = load_dataset("BTC-USDT", interval="1d")
    hours = load_dataset("BTC-USDT", interval="1h")
    assert len(days) == len(hours) // 24
    np.testing.assert_array_equal(np.ravel(days.high)[0], np.ravel(hours.high)[:24].max())
    with pytest.raises(DataError, match=r"no 5m bars of BTC-USDT\. The lake has: .*interval=\"1h\""):
        load_dataset("BTC-USDT", interval="5m")


def test_a_span_without_bars_says_so(lake):
    with pytest.raises(DataError, match="in the requested span"):
        load_dataset("BTC-USDT", start=START + timedelta(days=900))


def test_an_empty_lake_says_so(tmp_path):
    with pytest.raises(DataError, match="Nothing has been written yet"):
        load_dataset("BTC-USDT", lake=Lakehouse.open(tmp_path / "nothing", new=True))


def test_a_symbol_of_several_venues_asks_which(lake):
    with pytest.raises(AmbiguousVenueError, match="binance, kraken") as caught:
        load_dataset("SOL-USDT")
    assert caught.value.venues == ("binance", "kraken")

    assert len(load_dataset("SOL-USDT", venue="kraken")) == 20


def test_stocks_with_closes_only(lake):
    with pytest.raises(DataError, match="closes=True"):
        load_dataset("AAPL", interval="1d")

    bars = load_dataset("AAPL", closes=True)
    result = backtest(lambda b: research.on_change(np.ones(len(b))), bars, research.Costs(0, 0))

    # Decided on the first close, bought at the second.
    assert result.total_return == pytest.approx(79 / 51 - 1)


@pytest.mark.parametrize(
    "arguments",
    [{"symbols": ()}, {"symbols": ("A",), "interval": "often"}, {"symbols": ("A",), "start": datetime(2024, 1, 1)}],
)
def test_bad_arguments_are_refused(lake, arguments):
    with pytest.raises(BadRequestError):
        load_dataset(*arguments.pop("symbols"), **arguments)


def test_the_equity_is_drawn(lake):
    load_dataset("ETH-USDT")

    assert equity_plot(backtest(TrendFollowing(20))).startswith(b"\x89PNG")


def test_short_data_have_no_regimes(lake):
    load_dataset("ETH-USDT")

    result = backtest(TrendFollowing(20))

    assert result.by_regime.height == 0
    assert not math.isnan(result.sharpe)


# -- the first minutes ------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("asked", "meant"), [("btc-usdt", "BTC-USDT"), ("BTCUSDT", "BTC-USDT"), ("btc/usdt", "BTC-USDT"), ("aapl", "AAPL")]
)
def test_another_spelling_of_a_symbol_is_recognised(asked, meant):
    assert nearest_symbol(asked, ["AAPL", "BTC-USDT", "SPX"]) == f"Did you mean {meant!r}?"


@pytest.mark.parametrize("asked", ["SPY", "SPXL", "BTC-USDC", "GBTC"])
def test_another_instrument_is_never_suggested(asked):
    said = nearest_symbol(asked, ["SPX", "BTC-USDT"])

    assert "Did you mean" not in said
    assert said == "Known: BTC-USDT, SPX."


def test_an_unknown_symbol_is_answered_with_what_there_is(lake):
    with pytest.raises(DataError, match="Did you mean 'BTC-USDT'"):
        load_dataset("btc-usdt")
    with pytest.raises(DataError, match="Known: "):
        load_dataset("BTC-USDC")


@pytest.mark.parametrize(
    ("start", "end"),
    [
        ("2024-01-02", "2024-01-03"),
        (date(2024, 1, 2), date(2024, 1, 3)),
        ("2024-01-02T00:00Z", "2024-01-03T00:00:00+00:00"),
        ("2024-01-02T01:00+01:00", datetime(2024, 1, 3, tzinfo=UTC)),
    ],
)
def test_bounds_are_days_or_times_as_objects_or_as_text(lake, start, end):
    found = load_dataset("BTC-USDT", start=start, end=end)

    assert len(found) == 24
    assert found.to_frame()["ts"].min() == datetime(2024, 1, 2, tzinfo=UTC)


@pytest.mark.parametrize("start", ["yesterday", "2024-13-01", "2024-01-02T00:00", datetime(2024, 1, 2), 20240102, ""])
def test_what_is_no_time_or_has_no_zone_is_refused(lake, start):
    with pytest.raises(BadRequestError, match="start"):
        load_dataset("BTC-USDT", start=start)


def test_an_empty_span_and_a_symbol_that_is_no_text_are_refused(lake):
    with pytest.raises(BadRequestError, match="empty"):
        load_dataset("BTC-USDT", start="2024-01-02", end="2024-01-02")
    with pytest.raises(BadRequestError, match="not a symbol"):
        load_dataset(7)


@pytest.mark.parametrize("strategy", [MeanReversion, TrendFollowing])
def test_a_class_instead_of_its_instance_is_refused_with_the_right_words(lake, strategy):
    load_dataset("BTC-USDT")

    with pytest.raises(BadRequestError, match=rf"Write {strategy.__name__}\(\)"):
        backtest(strategy)


def test_results_show_themselves_and_become_frames(lake):
    from rich.console import Console

    bars = load_dataset("BTC-USDT")
    result = backtest(MeanReversion(), regimes=None)

    assert repr(result) == str(result)
    assert result._repr_html_().startswith("<pre>")
    assert "<pre>Bars(BTC-USDT" in bars._repr_html_()
    assert result.to_frame().columns[0] == "ts"
    assert bars.to_frame().columns == ["ts", "open", "high", "low", "close", "volume", "symbol"]
    assert bars.to_frame().height == len(bars)
    with Console(width=200, record=True, quiet=True) as console:
        console.print(result)
        console.print(bars)


@pytest.mark.parametrize(
    "named",
    [{"venue": 5}, {"lake": "data/lake"}, {"start": "0001-01-01T00:00+14:00"}, {"end": "9999-12-31T23:00-10:00"}],
    ids=str,
)
def test_a_venue_a_lake_or_a_bound_that_is_none_is_refused(named):
    with pytest.raises(BadRequestError):
        load_dataset("SPX", **named)


@pytest.mark.parametrize("given", [None, 5, "result"])
def test_only_a_result_is_drawn(given):
    with pytest.raises(BadRequestError, match="equity_plot"):
        equity_plot(given)


def test_a_word_that_is_no_way_to_regimes_is_refused_instead_of_ignored():
    with pytest.raises(BadRequestError, match="walk_forward"):
        backtest(TrendFollowing(), pl.DataFrame(), regimes="walkforward")


def test_a_name_itself_is_never_suggested_for_it():
    assert nearest("symbol", ["symbol", "symbols"]) == "Did you mean 'symbols'?"
    assert nearest("symbol", ["symbol"]) == ""


# -- the models as modules --------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["regime", "mean_field_game", "chiarella", "portfolio", "strategy"])
def test_models_are_offered_as_modules(name):
    assert getattr(research, name) is importlib.import_module(f"hfthot_platform.domain.models.{name}")
    assert name in research.__all__


def test_a_function_of_a_model_is_reached_through_its_module():
    fitted = research.regime.fit_regimes(0.01 * np.random.default_rng(0).standard_normal(700), n_restarts=1)

    assert type(fitted) is research.regime.RegimeModel


def test_a_model_that_is_not_there_is_an_attribute_error():
    with pytest.raises(AttributeError, match="astrology"):
        research.astrology  # noqa: B018 - the access is what is tested


@pytest.mark.soak
def test_modules_of_models_are_loaded_on_first_use():
    code = (
        "import sys; from hfthot_platform import research;"
        "before = 'hfthot_platform.domain.models.mean_field_game' in sys.modules; research.mean_field_game.solve;"
        "print(before, 'hfthot_platform.domain.models.mean_field_game' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)

    assert done.stdout.split() == ["False", "True"]


def test_backtest_is_called_and_has_the_names_of_its_module():
    module = importlib.import_module("hfthot_platform.domain.models.backtest")
    steps = np.random.default_rng(0).standard_normal((300, 1))
    close = np.exp(np.cumsum(0.01 * steps, axis=0))
    bars = research.Bars(3_600_000_000 * np.arange(300), ("A",), *[close] * 4, np.ones_like(close))

    called = backtest(TrendFollowing(20), bars, backtest.Costs(0.001, 0.0), regimes=None)
    library = backtest.backtest(TrendFollowing(20), bars, backtest.Costs(0.001, 0.0))

    assert isinstance(called, backtest.BacktestResult)
    assert called.metrics() == library.metrics()
    assert {name for name in module.__all__ if getattr(backtest, name) is not getattr(module, name)} == set()
    backtest.assert_causal(TrendFollowing(20), bars)


def test_an_event_driven_strategy_runs_on_what_was_loaded_last(lake):
    class Buyer(research.EventStrategy):
        def on_bar(self, bar, context):
            if not context.weight(bar.symbol) and context.waiting(bar.symbol) is None:
                context.target(bar.symbol, 1.0)

    bars = load_dataset("ETH-USDT")

    result = backtest(Buyer(), costs=research.Costs(0, 0), regimes=None)

    assert result.causality == "constant"
    assert result.total_return == pytest.approx(bars.close[-1, 0] / bars.open[1, 0] - 1)


@pytest.mark.soak
def test_the_code_of_the_page_on_backtests_runs_from_top_to_bottom(lake):
    page = Path(__file__).resolve().parents[1] / "docs" / "models" / "backtest.md"
    blocks = re.findall(r"```python\n(.*?)```", page.read_text(), re.DOTALL)
    names: dict[str, object] = {}

    for block in blocks:
        exec(compile(block, str(page), "exec"), names)

    assert len(blocks) == 3
    assert names["stopped"].causality == "by_construction"
    assert names["stopped"].trips.height > 0
    assert Path("equity.png").stat().st_size > 1000
