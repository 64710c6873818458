"""Pictures of a materialisation: what a person would look at first.

What goes here: which rows are shown for which table, and where the pictures are kept.  What stays out: how they are
drawn (`plots`), and any table that holds personal data.
"""

from __future__ import annotations

from collections.abc import Mapping
from datetime import date, datetime, timedelta
from typing import Final

import polars as pl

from hfthot_platform.core.intervals import DERIVED
from hfthot_platform.core.time import ONE_DAY, Days
from hfthot_platform.domain import plots
from hfthot_platform.domain.market.gaps import presence
from hfthot_platform.storage.lakehouse import Lakehouse, Table
from hfthot_platform.storage.lakehouse.days import within
from resources.platform import Platform

__all__ = [
    "FOLDER",
    "kept",
    "of_bars",
    "of_closes",
    "of_forecasts",
    "of_minutes",
    "of_signals",
    "of_trades",
    "of_universe",
    "remove_old",
]

#: Folder of the pictures, below the reports.
FOLDER: Final = "pictures"
#: All small copies of one event together; as base64 they are a third longer.
PREVIEW_BYTES: Final = 8_000
_LINES: Final = 8
#: The widest stretch that a picture covers; a longer run shows its end.
_DAYS: Final = 120


def of_trades(table: Table, days: Days) -> Mapping[str, bytes]:
    """Trades per day and symbol."""
    counts = _recent_rows(table, days).group_by(pl.col("date"), pl.col("symbol")).agg(pl.len().alias("rows")).collect()
    return {"trades_per_day": plots.rows_per_day(counts, by="symbol", title="Trades per day")}


def of_minutes(table: Table, days: Days) -> Mapping[str, bytes]:
    """Candles of the day's busiest symbol, and what is missing."""
    rows = _recent_rows(table, days).collect()
    if rows.is_empty():
        return {}
    hourly = rows["date"].n_unique() <= 3
    gaps = presence(rows, "1m", by="hour" if hourly else "day")
    return {
        "candles": plots.candles(_most_traded(rows.filter(pl.col("date") == rows["date"].max()))),
        "completeness": plots.gap_heat_map(gaps, title="Completeness of 1m bars"),
    }


def of_bars(table: Table, days: Days) -> Mapping[str, bytes]:
    """Candles of the busiest symbol in the interval that suits the span."""
    length = (days[1] - days[0]).days
    interval = "15m" if length <= 3 else "1h" if length <= 10 else "1d"
    rows = _recent_rows(table, days).collect()
    for choice in (interval, *reversed(DERIVED)):
        chosen = rows.filter(pl.col("interval") == choice)
        if chosen.height > 1:
            return {"candles": plots.candles(_most_traded(chosen))}
    return {}


def of_closes(table: Table, days: Days) -> Mapping[str, bytes]:
    """Closes over the year before the last day, each set to 100 at its start."""
    year = days[1] - timedelta(days=365), days[1]
    rows = table.scan().filter(within(table.contract, year)).sort("date").collect()
    if rows.is_empty():
        return {}
    # An index first, then whatever has the most days.
    symbols = (
        rows.group_by("symbol", "venue")
        .len()
        .sort(pl.col("venue").str.ends_with("_index"), "len", "symbol", descending=[True, True, False])
    )
    chosen = rows.filter(pl.col("symbol").is_in(symbols["symbol"].head(_LINES).to_list()))
    wide = chosen.with_columns(pl.col("close") / pl.col("close").first().over("venue", "symbol") * 100).pivot(
        "symbol", index="date", values="close", aggregate_function="first"
    )
    names = [name for name in wide.columns if name != "date"]
    return {"closes": plots.lines(wide, "date", names, title="Closes", ylabel="first day = 100")}


def of_universe(table: Table, days: Days) -> Mapping[str, bytes]:
    """Who was a member when."""
    quarter = days[1] - timedelta(days=90), days[1]
    rows = table.scan().filter(within(table.contract, quarter)).collect()
    return {"members": plots.universe_timeline(rows)} if rows.height else {}


def of_forecasts(table: Table, market: Table, days: Days) -> Mapping[str, bytes]:
    """The newest forecast of the first symbol, with the prices before it."""
    rows = table.scan().filter(within(table.contract, (days[0], days[1] + ONE_DAY))).collect()
    if rows.is_empty():
        return {}
    newest = rows.sort("made_at", "symbol", descending=[True, False]).select("made_at", "symbol", "venue")
    made_at, symbol, venue = newest.row(0)
    forecast = rows.filter(pl.col("made_at") == made_at, pl.col("symbol") == symbol, pl.col("venue") == venue)
    window = made_at - timedelta(hours=2)
    span = window.date(), made_at.date() + ONE_DAY
    past = market.scan().filter(
        within(market.contract, span),
        pl.col("symbol") == symbol,
        pl.col("venue") == venue,
        pl.col("ts").is_between(window, made_at, closed="left"),
    )
    price = "price" if "price" in market.contract.column_names else "close"
    history = past.select("ts", pl.col(price).alias("price")).collect()
    band = "95 % band" if table.contract.name == "signals.mfg_prices" else "90 % band"
    shown = {"forecast": plots.forecast_fan(history, forecast, title=f"{symbol} · {venue}", band=band)}
    return shown | _inventory_density(past.collect(), made_at) if table.contract.name == "signals.mfg_prices" else shown


def _inventory_density(trades: pl.DataFrame, made_at: datetime) -> dict[str, bytes]:
    """The equilibrium behind a mean-field-game forecast: where the agents' inventories go."""
    from hfthot_platform.domain.signals.forecasts import mfg_forecast

    found = mfg_forecast(trades, made_at=made_at).solution
    return {
        "density": plots.density_map(
            found.times,
            found.inventories,
            found.density,
            title=f"{trades['symbol'][0]}: density of inventories",
            mean=found.mean_inventory,
        )
    }


def of_signals(lake: Lakehouse, name: str, days: Days) -> Mapping[str, bytes]:
    """Regimes of the series that most people look at, or the last day's weights."""
    table = lake.table(name)
    if name == "signals.regimes":
        return _regimes_of_the_year(lake, days)
    if name in {"portfolio.weights", "portfolio.adaptive_weights"}:
        rows = table.scan().filter(within(table.contract, days)).collect()
        if rows.is_empty():
            return {}
        last = rows.filter(pl.col("date") == rows["date"].max())
        by = "method" if name == "portfolio.weights" else "strategy"
        return {"weights": plots.weights_bars(last, by=by, title=f"Weights for {last['date'][0]}")}
    return {}


def _regimes_of_the_year(lake: Lakehouse, days: Days) -> Mapping[str, bytes]:
    regimes, closes = lake.table("signals.regimes"), lake.table("market.closes")
    year = days[1] - timedelta(days=365), days[1]
    rows = regimes.scan().filter(within(regimes.contract, year), pl.col("interval") == "1d").collect()
    if rows.is_empty():
        return {}
    order = pl.col("venue").str.ends_with("_index")
    venue, symbol = rows.sort(order, "symbol", descending=[True, False]).select("venue", "symbol").row(0)
    own = rows.filter(pl.col("symbol") == symbol, pl.col("venue") == venue)
    past = closes.scan().filter(within(closes.contract, year), pl.col("symbol") == symbol, pl.col("venue") == venue)
    price = past.select(pl.col("date").cast(pl.Datetime("us", "UTC")).alias("ts"), "close").collect()
    price = price.filter(pl.col("ts") >= own["ts"].min())
    return {"regimes": plots.regime_timeline(price, own, title=f"{symbol} · {venue}")}


def _recent_rows(table: Table, days: Days) -> pl.LazyFrame:
    first: date = max(days[0], days[1] - timedelta(days=_DAYS))
    return table.scan().filter(within(table.contract, (first, days[1])))


def _most_traded(bars: pl.DataFrame) -> pl.DataFrame:
    """Return the rows of the symbol with the highest traded value."""
    value = pl.coalesce("quote_volume", pl.col("volume") * pl.col("close"))
    best = bars.group_by("symbol", "venue").agg(value.sum().alias("value")).sort("value", "symbol").row(-1)
    return bars.filter(pl.col("symbol") == best[0], pl.col("venue") == best[1]).sort("ts")


# -- where they are kept ------------------------------------------------------------------------------------------


def kept(platform: Platform, name: str, days: Days, found: Mapping[str, bytes]) -> dict[str, str]:
    """Keep pictures among the reports, and return what the UI shows of each: Markdown for the event's metadata.

    Pictures in events would be nine tenths of Dagster's log.  A later run for the same last day replaces the file.
    Where browsers reach the reports (`reports_url`), the UI shows the file itself.  Elsewhere it shows a small copy
    within the event, for days that are over: live runs publish the present one every few minutes.
    """
    shown = {}
    over = days[1] <= platform.clock().date()
    for picture, png in found.items():
        file = f"{FOLDER}/{name}/{days[1] - ONE_DAY}-{picture}.png"
        platform.reports.put(file, png)
        link, alt = platform.reports.link(file), picture.replace("_", " ")
        if link.startswith(("http://", "https://")):
            shown[picture] = f"[![{alt}]({link})]({link})"
        else:
            copy = plots.markdown_image(plots.preview(png, PREVIEW_BYTES // len(found)), alt) if over else ""
            shown[picture] = f"{copy}\n\n`{link}`".strip()
    return shown


def remove_old(platform: Platform) -> int:
    """Remove pictures that nobody made again within `picture_days`; return how many."""
    limit = platform.clock() - timedelta(days=platform.settings.picture_days)
    old = [file.name for file in platform.reports.files(FOLDER) if file.modified < limit]
    platform.reports.remove(old)
    return len(old)
