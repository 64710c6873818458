"""The demonstration: the main job on real data, embedded and offline, in a minute or so.

Real daily history first (decades of the S&P 500 and of 20 US stocks), then two weeks of the simulated exchange
through the same assets, checks and tables, then questions in SQL across versions.  It runs the very jobs that
the schedules run, on the Dagster instance that `make dev` shows.  In the end somebody registers and is erased, which
is proven.
"""

from __future__ import annotations

import secrets
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from datetime import date
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import polars as pl
from rich.console import Console
from rich.markup import escape
from rich.table import Table as RichTable

from hfthot_platform.app.installation import Installation
from hfthot_platform.core.errors import ConfigError
from hfthot_platform.core.settings import (
    SampleFeedSettings,
    Settings,
    SimulatedFeedSettings,
    dagster_home,
    ready_landing,
)
from hfthot_platform.core.time import ONE_DAY

if TYPE_CHECKING:
    import dagster as dg

    from hfthot_platform.storage.lakehouse import Lakehouse

__all__ = ["erase_a_person", "run"]

#: Fixed days, so that everybody sees the same figures: the last trading days of the packaged stock prices.
_FIRST: Final = date(2022, 12, 15)
_LAST: Final = date(2022, 12, 28)
#: Regimes are fitted and followed from here on: each day and series takes a fit of its own.
_WATCHED: Final = date(2022, 12, 26)
_HISTORY: Final = date(1990, 1, 1)
#: Where `make dev` shows what the demonstration left.
_UI: Final = "http://127.0.0.1:3000"

_VOLATILITY = """
SELECT symbol, count(*) AS days,
       round(100 * sqrt(252) * stddev_samp(ln(close / previous)), 1) AS volatility_pct,
       round(100 * (last(close ORDER BY date) / first(close ORDER BY date) - 1), 1) AS return_pct
FROM (SELECT symbol, date, close, lag(close) OVER (PARTITION BY symbol ORDER BY date) AS previous
      FROM market.closes WHERE date >= '2022-01-01' AND venue = 'us_equity')
GROUP BY symbol ORDER BY volatility_pct DESC LIMIT 5
"""
_MINUTES = """
SELECT symbol, count(*) AS minutes, round(sum(volume), 1) AS volume, min(low) AS low, max(high) AS high
FROM market.ohlcv GROUP BY symbol ORDER BY symbol
"""


_REGIMES = """
SELECT symbol, regime, round(confidence, 3) AS confidence, identified, strategy
FROM signals.regimes WHERE interval = '1d' AND ts = (SELECT max(ts) FROM signals.regimes WHERE interval = '1d')
ORDER BY symbol <> 'SPX', confidence DESC, symbol LIMIT 6
"""
_TRUTH = """
SELECT found.symbol, count(*) AS bars_of_5m, arg_max(found.regime, found.ts) AS latest,
       round(100 * avg(((found.regime = 'volatile') = (truth.regime = 'volatile'))::INT), 1) AS volatile_told_pct,
       -- Where trending and mean-reverting are not told apart, no regime bears these names.
       coalesce(round(100 * avg((found.regime = truth.regime)::INT) FILTER (found.identified), 1)::VARCHAR,
                'not told apart') AS all_told_pct
FROM signals.regimes AS found
JOIN market.simulated_regimes AS truth ON truth.symbol = found.symbol AND truth.ts = found.ts + INTERVAL 4 MINUTE
WHERE found.interval = '5m' GROUP BY found.symbol ORDER BY found.symbol
"""
_FORECASTS = """
SELECT symbol, round(arg_min(expected, ts), 4) AS now, round(arg_max(expected, ts), 4) AS expected,
       round(arg_max(lower, ts), 4) AS lower, round(arg_max(upper, ts), 4) AS upper, 'mean field game' AS model
FROM signals.mfg_prices GROUP BY symbol
UNION ALL
SELECT symbol, round(arg_min(expected, ts), 4), round(arg_max(expected, ts), 4),
       round(arg_max(lower, ts), 4), round(arg_max(upper, ts), 4), 'Chiarella: ' || any_value(market)
FROM signals.chiarella_forecasts GROUP BY symbol
ORDER BY symbol, model
"""
_WEIGHTS = """
SELECT method, string_agg(symbol || ' ' || printf('%.1f %%', 100 * weight), ', ' ORDER BY abs(weight) DESC) AS weights
FROM (SELECT *, row_number() OVER (PARTITION BY method ORDER BY abs(weight) DESC) AS place FROM portfolio.weights)
WHERE place <= 5 GROUP BY method ORDER BY method
"""
_REASONS = """
SELECT symbol, regime, strategy, round(100 * weight, 1) AS weight_pct, reason
FROM portfolio.adaptive_weights ORDER BY abs(weight) DESC, symbol LIMIT 3
"""
_MARTS = """
SELECT pair.symbol_a, pair.symbol_b, round(pair.correlation, 2) AS correlation,
       round(100 * a.close_to_close, 1) AS volatility_a_pct, round(100 * b.close_to_close, 1) AS volatility_b_pct
FROM marts.correlation_matrix AS pair
LEFT JOIN marts.realised_volatility AS a
    ON a.venue = pair.venue_a AND a.symbol = pair.symbol_a AND a.date = DATE '2022-12-23'
LEFT JOIN marts.realised_volatility AS b
    ON b.venue = pair.venue_b AND b.symbol = pair.symbol_b AND b.date = DATE '2022-12-23'
WHERE pair.window_end = DATE '2022-12-25' ORDER BY pair.correlation DESC LIMIT 5
"""
#: `VERSION AS OF` takes a number as it stands: no parameter can be a version.
_ACROSS = """
SELECT 'before' AS "when", count(*) AS rows, count(DISTINCT symbol) AS symbols, max(date) AS newest
FROM market.closes VERSION AS OF {before:d}
UNION ALL
SELECT 'after', count(*), count(DISTINCT symbol), max(date) FROM market.closes VERSION AS OF {after:d}
ORDER BY rows
"""
#: A demonstration needs one forecast a day, not twenty-four.
_ONE_FORECAST_A_DAY: Final = {
    "ops": {f"signals__{name}": {"config": {"every_hours": 24}} for name in ("mfg_prices", "chiarella_forecasts")}
}


def run(settings: Settings, console: Console | None = None) -> None:
    """Run the demonstration into the configured lake and print what came of it.

    Raises:
        ConfigError: the lake is on an object store; the demonstration is for a local folder.
    """
    out = console or Console()
    # The demonstration has its own feeds: it must be the same everywhere, and offline.
    settings = settings.model_copy(update={"feeds": (SampleFeedSettings(), SimulatedFeedSettings())})
    if "://" in settings.lake_root and not settings.lake_root.startswith("file://"):
        raise ConfigError(
            f"the lake is at {settings.lake_root}", where="demo", hint="Set HFTHOT_LAKE_ROOT to a local folder."
        )
    with _compiling_ahead(), Installation(settings, create=True) as installation:
        _run(installation, out)


def _run(installation: Installation, out: Console) -> None:
    begun = time.perf_counter()
    settings, lake = installation.settings, installation.lake
    ready_landing(settings)
    with _step(out, "Load the history of the S&P 500 and 20 US stocks (real, packaged)"):
        _load_history(installation)
    instance, job = _dagster(settings)
    with _step(out, f"Ingest the simulated exchange, {_FIRST} to {_LAST}, through the Dagster assets"):
        _execute(job("describe_instruments"), instance, days=None)
        _execute(job("ingest"), instance)
    with _step(out, "Derive bars, closes and the universe"):
        _execute(job("derive"), instance)
    with _step(out, "Find the regimes of the S&P 500 and 20 stocks, with models fitted on earlier days"):
        _execute(job("regimes"), instance, days=(_WATCHED, _LAST))
    with _step(out, "Forecast the simulated exchange: mean field game and Chiarella's market"):
        _execute(job("forecasts"), instance, days=(_LAST, _LAST), config=_ONE_FORECAST_A_DAY)
    with _step(out, "Three portfolios and the adaptive one for the last day, and their backtests"):
        _execute(job("portfolios"), instance, days=(_LAST, _LAST))
        _execute(job("backtest"), instance, days=(_LAST, _LAST))
    with _step(out, "SQL models over 2022: prices, volatility, liquidity, correlations, regimes, portfolios"):
        _load_models(installation)
        _execute(job("sql_models_by_day"), instance)
        _execute(job("sql_models_whole"), instance, days=None)
    with _step(out, "Check everything that was published, including with Great Expectations"):
        failed = _execute(job("deep_quality"), instance, days=None)
    _show_tables(out, lake)
    _show_checks(out, failed)
    _show_sql(out, lake, "Most volatile stocks of 2022", _VOLATILITY)
    _show_sql(out, lake, "1m bars of the simulated exchange", _MINUTES)
    _show_time_travel(out, installation)
    _show_sql(out, lake, "From the marts: the stocks that moved most alike in autumn 2022", _MARTS)
    _show_sql(out, lake, f"Regimes on {_LAST}: the index and the stocks with the highest confidence", _REGIMES)
    _show_sql(out, lake, "Regimes of the simulated exchange: the causal filter compared with the truth", _TRUTH)
    _show_sql(out, lake, "Expected price in five minutes (mean field game) and in an hour (Chiarella)", _FORECASTS)
    _show_sql(out, lake, f"Portfolios for {_LAST}: largest weights by method", _WEIGHTS)
    _show_sql(out, lake, "Why the adaptive portfolio holds what it holds", _REASONS)
    pictures = _draw(lake, settings.scratch.parent / "demo")
    out.print(f"\nPictures in {pictures[0].parent}: {', '.join(path.name for path in pictures)}")
    out.print(f"Result pages of the checks: {settings.scratch.parent / 'reports'}")
    erase_a_person(out, installation)
    out.print(f"[bold green]Done in {time.perf_counter() - begun:.0f} s.[/] `make dev` shows all of it in the browser:")
    out.print(
        f"  every table {_UI}/asset-groups", f"  the SQL marts {_UI}/locations/hfthot/asset-groups/marts", sep="\n"
    )


@contextmanager
def _compiling_ahead() -> Iterator[None]:
    """Compile the models' loops in another process while data are read: on a first run half a minute of work.

    What it has not finished when it is needed is compiled here; whatever becomes of it changes no result.
    """
    helper = subprocess.Popen(
        [sys.executable, "-m", "hfthot_platform.domain.models.compile_ahead"],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    try:
        yield
    finally:
        helper.kill()
        helper.wait()


@contextmanager
def _step(out: Console, what: str) -> Iterator[None]:
    started = time.perf_counter()
    with out.status(f"{what} ..."):
        yield
    out.print(f"[green]✓[/] {what} [dim]({time.perf_counter() - started:.1f} s)[/]")


def _load_history(installation: Installation) -> None:
    """Load decades without an event per day: a first load is not a partition's materialisation."""
    from hfthot_platform.services.ingest import ingest_feed

    days = (_HISTORY, _LAST + ONE_DAY)
    for table in ("market.bars", "market.closes"):
        ingest_feed(installation.lake, installation.feeds, "sample", table, days, settings=installation.settings)


def _load_models(installation: Installation) -> None:
    """Make the daily SQL models of the year up to the simulated days; those follow through Dagster."""
    from hfthot_platform.services.sql.models.runner import run_models

    models = installation.models
    daily = [model.name for model in models if model.materialized == "incremental"]
    run_models(installation.lake, models, daily, days=(_FIRST.replace(month=1, day=1), _FIRST))


def _dagster(settings: Settings) -> tuple[dg.DagsterInstance, Callable[[str], dg.JobDefinition]]:
    import dagster as dg

    from hfthot_platform.definitions import build_definitions
    from resources.runs import end_dead_runs

    instance = dg.DagsterInstance.get() if dagster_home() else dg.DagsterInstance.ephemeral()
    # As long as the runs of a demonstration that was killed count as running, they hold their pools.
    end_dead_runs(instance)
    definitions = build_definitions(settings)
    return instance, definitions.resolve_job_def


def _execute(
    job: dg.JobDefinition,
    instance: dg.DagsterInstance,
    days: tuple[date, date] | None = (_FIRST, _LAST),
    config: Mapping[str, Any] | None = None,
) -> list[str]:
    """Run a job in this process; return the checks that did not pass, worst first.

    Raises:
        DagsterError: a step failed.
    """
    tags = {}
    if days is not None:
        tags = {
            "dagster/asset_partition_range_start": days[0].isoformat(),
            "dagster/asset_partition_range_end": days[1].isoformat(),
        }
    # The run's own log goes to Dagster's storage, where the UI shows it; the console stays readable.
    quiet = {**(config or {}), "loggers": {"console": {"config": {"log_level": "CRITICAL"}}}}
    result = job.execute_in_process(instance=instance, tags=tags, run_config=quiet)
    return [
        f"{evaluation.asset_key.to_user_string()}: {evaluation.check_name}: {evaluation.description or ''}"
        for evaluation in result.get_asset_check_evaluations()
        if not evaluation.passed
    ]


def _show_tables(out: Console, lake: Lakehouse) -> None:
    grid = RichTable(title="Tables", title_justify="left")
    for name, justify in (
        ("table", "left"),
        ("rows", "right"),
        ("MB", "right"),
        ("files", "right"),
        ("version", "right"),
    ):
        grid.add_column(name, justify="left" if justify == "left" else "right")
    for table in lake.tables():
        version = table.version()
        if version is None:
            continue
        size, files = table.bytes_and_files()
        rows = table.scan().select(pl.len()).collect().item()
        grid.add_row(table.contract.name, f"{rows:,}", f"{size / 1e6:.2f}", str(files), str(version))
    out.print(grid)


def _show_checks(out: Console, failed: list[str]) -> None:
    if not failed:
        out.print("Every quality check passed.")
        return
    out.print("Quality checks to look at:")
    for check in failed:
        out.print(f"  [yellow]![/] {escape(check)}")


def _show_sql(out: Console, lake: Lakehouse, title: str, sql: str) -> None:
    from hfthot_platform.services.sql.engine import query

    _print(out, title, query(lake, sql).frame)


def _print(out: Console, title: str, frame: pl.DataFrame) -> None:
    grid = RichTable(title=title, title_justify="left")
    for name, dtype in frame.schema.items():
        grid.add_column(name, justify="right" if dtype.is_numeric() else "left")
    for row in frame.rows():
        grid.add_row(
            *(f"{value:,}" if isinstance(value, int) and not isinstance(value, bool) else str(value) for value in row)
        )
    out.print(grid)


def _show_time_travel(out: Console, installation: Installation) -> None:
    """Ask one question of two versions, as somebody with a key may: in a process that can do nothing else."""
    from hfthot_platform.domain.access.authorisation import Principal
    from hfthot_platform.services.sql.gateway import SqlGateway

    versions = installation.lake.table("market.closes").readable_versions()
    written = [version for version in versions if version.rows]
    if not written:
        return
    sql = _ACROSS.format(before=written[0].version, after=written[-1].version)
    reader = Principal("demo", "registered", "enterprise")
    with SqlGateway(installation.lake, reader, installation.gateway_pool, limits=installation.query_limits) as gateway:
        answer = gateway.query(sql, format="polars")
    title = (
        "One statement over two versions of market.closes, through the gateway for untrusted "
        f"SQL\n[dim]{sql.strip()}[/]"
    )
    _print(out, title, answer.data)


def erase_a_person(out: Console, installation: Installation) -> None:
    """Register somebody, read the row back, erase the person, and print what proves it."""
    from hfthot_platform.interfaces.client import LakehouseClient
    from hfthot_platform.storage.folders import folder_on_this_host

    with (
        LakehouseClient.of(installation) as client,
        _step(out, "Register a person, sign in, erase the person and prove it"),
    ):
        name, password = f"visitor.{secrets.token_hex(4)}", secrets.token_urlsafe(16)
        user = client.register(name, f"{name}@mail.example.org", password, "Vera", f"Visitor-{name[-8:]}")
        if user.active:
            client.login(name, password)
        client.save_api_keys(user.user_id, {"finnhub": secrets.token_hex(16)}, data_sharing_consent=False)
        version = client.list_versions("users")[-1]["version"]
        before = client.read_version("users", version).filter(pl.col("username") == name).collect().row(0, named=True)
        certificate = client.delete_user_permanent(user.user_id)
        subject = pl.col("subject_id") == before["subject_id"]
        after = client.read_version("users", version).filter(subject).collect().row(0, named=True)
        certificates = folder_on_this_host(installation.settings.certificates, "certificates")
        path = certificates / f"{certificate.request_id}.json"
        proof = client.verify_certificate(path=path).verification
    out.print(f"  users version {version} before: {before['username']}, {before['email']}")
    out.print(f"  the same version afterwards: {after['username']}, {after['email']}; the other rows as before")
    out.print(
        f"  searched {sum(proof['searched_values'].values())} values in {proof['scanned_files']} files "
        f"({proof['scanned_bytes'] / 1e6:.0f} MB): nothing left; "
        f"{proof['canaries_found']} of {proof['canaries_planted']} planted test values found"
    )
    out.print(f"  certificate, signature verified: {path}")


def _draw(lake: Lakehouse, folder: Path) -> list[Path]:
    from hfthot_platform.domain import plots
    from hfthot_platform.domain.market.gaps import presence

    folder.mkdir(parents=True, exist_ok=True)
    index = lake.table("market.bars").scan().filter(pl.col("symbol") == "SPX", pl.col("interval") == "1d").collect()
    minutes = lake.table("market.bars_1m").scan().filter(pl.col("date") >= _FIRST).collect()
    symbol = minutes["symbol"].min()
    quarter = minutes.filter(pl.col("date") == _LAST, pl.col("symbol") == symbol)
    pictures = {
        **_signal_pictures(lake),
        "sp500.png": plots.candles(index),
        "minutes.png": plots.candles(quarter),
        "completeness.png": plots.gap_heat_map(presence(minutes, "1m"), title="Completeness of 1m bars"),
    }
    paths = []
    for name, png in pictures.items():
        path = folder / name
        path.write_bytes(png)
        paths.append(path)
    return paths


def _signal_pictures(lake: Lakehouse) -> dict[str, bytes]:
    """Draw what the models say: a regime plot, the two forecasts, the weights, an equity curve."""
    from hfthot_platform.domain import plots

    out = {"regimes.png": _five_years_of_regimes(lake)}
    symbol = lake.table("signals.mfg_prices").scan().select(pl.col("symbol").min()).collect().item()
    for name, model in (("signals.mfg_prices", "mean field game"), ("signals.chiarella_forecasts", "Chiarella")):
        forecast = lake.table(name).scan().filter(pl.col("symbol") == symbol).collect()
        made_at = forecast["made_at"].max()
        past = (
            lake.table("market.bars_1m")
            .scan()
            .filter(pl.col("symbol") == symbol, pl.col("ts_close") <= made_at, pl.col("date") == _LAST)
        )
        history = past.select(pl.col("ts_close").alias("ts"), "close").tail(180).collect()
        band = "95 % band" if model == "mean field game" else "90 % band"
        out[f"{name.split('.')[1]}.png"] = plots.forecast_fan(history, forecast, title=f"{symbol}: {model}", band=band)
    weights = lake.table("portfolio.weights").scan().collect()
    adaptive = lake.table("portfolio.adaptive_weights").scan().collect().with_columns(method=pl.lit("adaptive"))
    columns = ["symbol", "weight", "method"]
    together = pl.concat([weights.select(columns), adaptive.select(columns)])
    out["portfolios.png"] = plots.weights_bars(together, title=f"Portfolios for {_LAST}")
    return out


def _five_years_of_regimes(lake: Lakehouse) -> bytes:
    """Draw the index's regimes as they would have been known, with models fitted on the past every quarter."""
    from hfthot_platform.domain import plots
    from hfthot_platform.domain.contracts.signals import REGIME_MODELS
    from hfthot_platform.domain.signals.declared import RegimeSettings
    from hfthot_platform.domain.signals.regimes import model_rows, regime_rows

    index = lake.table("market.closes").scan().filter(pl.col("symbol") == "SPX").collect()
    closes = index.select("venue", "symbol", pl.col("date").cast(pl.Datetime("us", "UTC")).alias("ts"), "close")
    days = date(2018, 1, 1), _LAST + ONE_DAY
    settings = RegimeSettings(refit_days=91)
    models, _ = model_rows(closes, REGIME_MODELS.empty(), days, interval="1d", settings=settings)
    regimes, _ = regime_rows(closes, models, days, interval="1d", settings=settings)
    shown = closes.filter(pl.col("ts") >= regimes["ts"].min())
    return plots.regime_timeline(shown, regimes, title="S&P 500: regimes as known on each day")
