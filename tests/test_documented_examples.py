"""The examples of the README and of the pages in `docs` run as they are printed, and show what is printed.

The lake has what the demonstration leaves of the tables that they read: the history of the S&P 500 and of 20 US stocks
as it is packaged, two weeks of a made-up exchange.  `docs/client.md`, `docs/models/backtest.md` and `docs/files.md` are
executed elsewhere; `test_documentation.py` knows where.
"""

from __future__ import annotations

import contextlib
import io
import json
import re
import shlex
import shutil
from datetime import UTC, date, datetime, timedelta
from pathlib import Path

import numpy as np
import polars as pl
import pytest
from cryptography.exceptions import InvalidSignature
from typer.testing import CliRunner

from hfthot_platform import Installation, LakehouseClient
from hfthot_platform.adapters.files.mapping import load_mapping
from hfthot_platform.domain.market.bars import bars_from_bars
from hfthot_platform.domain.market.panel import Bars
from hfthot_platform.interfaces.cli.app import app
from hfthot_platform.services.ingest.feeds import ingest_feed
from hfthot_platform.services.sql.models import load_models
from tests.conftest import REPOSITORY

EXCHANGE = ("ALPHA-USDT", "BRAVO-USDT", "CHARLIE-USDT")
FIRST, AFTER = date(2022, 12, 15), date(2022, 12, 29)


def blocks(page: str) -> list[tuple[str, str]]:
    """Return the code blocks of a page: language and text."""
    text = (REPOSITORY / page).read_text()
    return re.findall(r"^```(\w*)\n(.*?)^```", text, flags=re.DOTALL | re.MULTILINE)


def python(page: str) -> list[str]:
    """Return the Python of a page, block by block."""
    return [text for language, text in blocks(page) if language == "python"]


def printed(code: str, page: str, names: dict[str, object]) -> str:
    """Run a block and return what it prints."""
    out = io.StringIO()
    with contextlib.redirect_stdout(out):
        exec(compile(code, page, "exec"), names)
    return out.getvalue()


def hfthot(*words: str) -> str:
    """Run a command and return what it prints."""
    done = CliRunner().invoke(app, list(words))
    assert done.exit_code == 0, done.output
    return done.stdout


def minutes(symbol: str) -> pl.DataFrame:
    start = datetime(FIRST.year, FIRST.month, FIRST.day, tzinfo=UTC)
    frame = pl.DataFrame({"i": range((AFTER - FIRST).days * 1440)})
    close = 100.0 + (pl.col("i") % 7).cast(pl.Float64)
    ts = pl.lit(start).cast(pl.Datetime("us", "UTC")) + pl.duration(minutes=pl.col("i"))
    return frame.select(
        ts=ts,
        ts_close=ts + pl.duration(minutes=1),
        venue=pl.lit("simulated"),
        symbol=pl.lit(symbol),
        **dict.fromkeys(("open", "high", "low", "close", "quote_volume"), close),
        volume=pl.lit(1.0),
        trades=pl.lit(1, pl.Int64),
        buy_volume=pl.lit(0.5),
        final=pl.lit(value=True),
        origin=pl.lit("trades"),
        source=pl.lit("synthetic"),
        source_ref=pl.lit("test:1"),
    )


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    """Return a folder with an installation in `data`, as far as the examples read what the demonstration makes."""
    folder = tmp_path_factory.mktemp("documented")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        LakehouseClient.create("data").close()
        with Installation.open() as installation:
            lake, settings = installation.lake, installation.settings
            for table, first in (("market.closes", date(1990, 1, 1)), ("market.bars", date(1999, 1, 1))):
                ingest_feed(lake, installation.feeds, "sample", table, (first, AFTER), settings=settings)
            ones = pl.concat(minutes(symbol) for symbol in EXCHANGE)
            lake.table("market.bars").append(
                pl.concat(bars_from_bars(ones, interval) for interval in ("5m", "1h", "1d"))
            )
            days = ones.group_by("symbol", pl.col("ts").dt.date().alias("date")).agg(pl.col("close").last())
            lake.table("market.closes").append(
                days.with_columns(
                    venue=pl.lit("simulated"),
                    adjusted=pl.lit(value=False),
                    source=pl.lit("synthetic"),
                    source_ref=pl.lit("market.bars"),
                )
            )
    return folder


@pytest.fixture
def here(folder, monkeypatch) -> Path:
    """Make the folder the working folder, with cheap password hashing."""
    monkeypatch.chdir(folder)
    for name in ("ARGON2_MEMORY_KIB", "ARGON2_PASSES", "ARGON2_LANES"):
        monkeypatch.setenv(f"HFTHOT_{name}", "8" if name.endswith("KIB") else "1")
    return folder


# -- README.md ----------------------------------------------------------------------------------------------------


def test_readme_asks_in_polars_and_shows_the_answer(here):
    code, answer = blocks("README.md")[1], blocks("README.md")[2]

    assert code[0] == "python"
    assert printed(code[1], "README.md", {}) == answer[1]


def test_readme_asks_in_sql_and_shows_the_answer(here):
    ((_, statement), (_, answer)) = blocks("README.md")[3:5]

    assert hfthot("sql", statement) == answer


def test_readme_names_versions_that_the_demonstration_leaves(here):
    hfthot("sql", "SELECT count(*) FROM market.closes VERSION AS OF 1")
    hfthot("history", "market.closes")

    assert "42 added" in hfthot("diff", "market.closes", "1", "2")


@pytest.mark.soak
def test_readme_shows_an_application_from_registration_to_erasure(here):
    names: dict[str, object] = {}

    printed(python("README.md")[1], "README.md", names)

    assert names["bars"].height == 1000
    assert names["client"].verify_certificate(names["certificate"]).request_id
    names["client"].close()


@pytest.mark.soak
def test_readme_shows_a_backtest(here):
    said = printed(python("README.md")[2], "README.md", {})

    assert said.startswith("MeanReversion(lookback=48, entry=2, exit=0) on SPX")
    assert "look-ahead: none found" in said


# -- docs/sql.md --------------------------------------------------------------------------------------------------


def test_sql_page_shows_a_day_of_the_index(here):
    hfthot("sql", "run", "marts.daily_ohlcv", "--from", str(FIRST), "--to", str(AFTER))
    command, _, answer = blocks("docs/sql.md")[0][1].partition("\n")

    assert hfthot(*shlex.split(command.removeprefix("$ hfthot "))) == answer


def test_sql_page_compares_two_versions_in_one_statement(here):
    ((_, statement), (_, answer)) = blocks("docs/sql.md")[1:3]

    assert hfthot("sql", statement) == answer


def test_sql_page_asks_in_python_trusted_and_untrusted(here):
    names: dict[str, object] = {}

    said = [printed(code, "docs/sql.md", names) for code in python("docs/sql.md")]

    assert names["frame"].height == 8313
    assert "AAPL" in said[1]
    assert said[1].endswith("{'market.closes': 2} False\n")
    names["installation"].close()


def test_sql_page_writes_a_model_that_runs_at_once(here, monkeypatch):
    shutil.copytree(REPOSITORY / "dbt_like_sql", here / "dbt_like_sql")
    header = next(text for language, text in blocks("docs/sql.md") if language == "sql" and text.startswith("/*"))
    (here / "dbt_like_sql" / "marts" / "spread.sql").write_text(header)
    hfthot("sql", "run", "marts.daily_ohlcv", "--from", str(FIRST), "--to", str(AFTER))
    commands = next(text for _, text in blocks("docs/sql.md") if text.startswith("hfthot sql compile"))

    said = [hfthot(*shlex.split(line, comments=True)[1:]) for line in commands.splitlines()]

    assert "marts.daily_ohlcv" in said[0]
    assert re.search(r"marts.spread +published +42 ", said[1])
    assert "passed" in said[2]
    assert (here / "site" / "marts.spread.html").is_file()


def test_the_readme_of_sql_models_has_a_model_that_compiles(here, tmp_path):
    (header,) = (text for language, text in blocks("dbt_like_sql/README.md") if language == "sql")
    (tmp_path / "marts").mkdir()
    (tmp_path / "marts" / "daily_returns.sql").write_text(header)

    (model,) = load_models(tmp_path)

    assert model.name == "marts.daily_returns"


# -- docs/operations.md -------------------------------------------------------------------------------------------


def test_operations_page_configures_feeds(monkeypatch, tmp_path):
    (text,) = (text for language, text in blocks("docs/operations.md") if language == "toml")
    (tmp_path / "hfthot.toml").write_text(text)
    monkeypatch.chdir(tmp_path)

    with Installation.open() as installation:
        tables = [feed.tables for feed in installation.feeds]

    assert tables == [("market.bars_1m",), ("market.trades", "market.instruments")]


def test_operations_page_maps_a_file(tmp_path):
    (text,) = (text for language, text in blocks("docs/operations.md") if language == "yaml")
    (tmp_path / "a.csv.mapping.yaml").write_text(text)

    assert load_mapping(tmp_path / "a.csv.mapping.yaml").symbol == "BCH-EUR"


# -- docs/privacy.md ----------------------------------------------------------------------------------------------


def test_privacy_page_checks_a_certificate_without_the_platform(here):
    names: dict[str, object] = {}
    (code,) = python("docs/privacy.md")
    printed(code, "docs/privacy.md", names)
    with LakehouseClient("data") as client:
        user = client.register("leaving", "leaving@example.org", "correct horse battery")
        request = client.delete_user_permanent(user.user_id).request_id
    path = Path("data/certificates") / f"{request}.json"
    public = hfthot("privacy", "public-key").strip()

    names["check"](str(path), public)

    forged = json.loads(path.read_text())
    forged["statement"]["request_id"] = "0" * 32
    path.write_text(json.dumps(forged))
    with pytest.raises(InvalidSignature):
        names["check"](str(path), public)


# -- docs/models --------------------------------------------------------------------------------------------------


def prices(count: int, series: int = 1) -> np.ndarray:
    """Return log prices, (count, series), of a random walk with calm and wild stretches."""
    rng = np.random.default_rng(7)
    wild = np.where(np.arange(count) // 100 % 2, 3.0, 1.0)[:, None]
    return np.cumsum(0.01 * wild * rng.standard_normal((count, series)), axis=0)


def daily(count: int, *symbols: str) -> Bars:
    closes = 100 * np.exp(prices(count, len(symbols)))
    opens = np.vstack([closes[:1], closes[:-1]])
    times = np.datetime64("2020-01-01", "us") + np.arange(count) * np.timedelta64(1, "D")
    return Bars(times, symbols, opens, np.maximum(opens, closes), np.minimum(opens, closes), closes, closes * 0 + 5)


def test_regime_page():
    names: dict[str, object] = {"returns": np.diff(prices(1200)[:, 0])}

    said = printed(python("docs/models/regime.md")[0], "docs/models/regime.md", names)

    assert said
    assert names["live"].update(0.0012).regime in names["model"].names


def test_mean_field_game_page():
    rng = np.random.default_rng(7)
    side = rng.choice([-1.0, 1.0], 2000)
    start = datetime(2024, 1, 1, tzinfo=UTC)
    names: dict[str, object] = {
        "trades": pl.DataFrame(
            {
                "ts": [start + timedelta(seconds=5 * number) for number in range(2000)],
                "price": 100 + np.cumsum(1e-3 * side) + 0.01 * side,
                "amount": rng.lognormal(0, 0.3, 2000),
                "side": np.where(side > 0, "buy", "sell"),
            }
        )
    }

    printed(python("docs/models/mean_field_game.md")[0], "docs/models/mean_field_game.md", names)

    assert names["solution"].converged


def test_chiarella_page():
    rng = np.random.default_rng(7)
    flow = rng.standard_normal(400) * 0.01
    names: dict[str, object] = {
        "log_prices": np.concatenate([[0.0], np.cumsum(0.5 * flow + 0.01 * rng.standard_normal(400))]),
        "order_flow": flow,
    }

    printed(python("docs/models/chiarella.md")[0], "docs/models/chiarella.md", names)

    assert names["found"].params


@pytest.mark.soak
def test_portfolio_page(here):
    with Installation.open() as installation:
        scan = installation.lake.table("market.closes").scan().filter(venue="us_equity")
        closes = scan.filter(pl.col("date").dt.year() == 2022).select("symbol", "date", "close").collect()
    names: dict[str, object] = {"closes": closes, "held": np.full(20, 0.05)}

    printed(python("docs/models/portfolio.md")[0], "docs/models/portfolio.md", names)

    assert names["aligned"].returns.shape[1] == 20


@pytest.mark.soak
def test_strategy_page():
    from hfthot_platform.domain.models.strategy import SymbolRegime

    bars = daily(640, "AAA", "BBB")
    names: dict[str, object] = {
        "bars": bars,
        "regimes": {symbol: SymbolRegime("calm", 0.8, identified=False) for symbol in bars.symbols},
    }

    printed(python("docs/models/strategy.md")[0], "docs/models/strategy.md", names)

    assert names["run"].decisions.height > 0
