"""Pictures of tables: pure functions from a frame to the bytes of a PNG.

What goes here: how data look.  What stays out: reading tables and deciding which part of them is shown.

Pictures have an opaque light ground, so they read equally well on a light and on a dark page.  They stay below
`MAX_BYTES`; a `preview` fits into the metadata of a materialisation as a data URI.  Matplotlib is imported on
the first call and used through its objects only, without global state: safe in threads.  A frame without rows
gives a picture that says so.
"""

from __future__ import annotations

import base64
import io
import itertools
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Final, NamedTuple

import numpy as np
import polars as pl

from hfthot_platform.core.errors import BadRequestError
from hfthot_platform.core.intervals import interval as interval_of
from hfthot_platform.core.time import DAY, HOUR, MINUTE

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure
    from matplotlib.image import AxesImage
    from numpy.typing import NDArray

__all__ = [
    "MAX_BYTES",
    "candles",
    "density_map",
    "equity",
    "forecast_fan",
    "gap_heat_map",
    "lines",
    "markdown_image",
    "preview",
    "regime_timeline",
    "rows_per_day",
    "universe_timeline",
    "weights_bars",
]

#: Largest picture.
MAX_BYTES: Final = 110_000

_GROUND = "#ffffff"
_INK = "#1c2433"
_MUTED = "#667085"
_GRID = "#e6e9ef"
_UP = "#149d82"
_DOWN = "#d64550"
_BLANK = "#eef0f4"
#: Distinct also in grey and for colour-blind readers (Okabe and Ito, darkened for a white ground).
_SERIES: Final = ("#2563b0", "#d9780f", "#149d82", "#b0449a", "#8a6d1f", "#57a0d8", "#c2413a", "#5b6475")


class _Grade(NamedTuple):
    at_least: float
    name: str
    colour: str


#: How complete a cell of the heat map is.
_GRADES: Final = (
    _Grade(0.0, "none", "#5c1022"),
    _Grade(1e-12, "under 50 %", "#a8243b"),
    _Grade(0.5, "50 to 90 %", "#e0653f"),
    _Grade(0.9, "90 to 99 %", "#f2ad5c"),
    _Grade(0.99, "99 to 99.9 %", "#f7dc8f"),
    _Grade(0.999, "over 99.9 %", "#d3e8b8"),
    _Grade(1 - 1e-12, "complete", "#74c4a8"),
)

#: Regimes, in the order in which they are stacked, with what they are called and their colours.
_REGIMES: Final = (
    ("trending", "trending", "#149d82"),
    ("mean_reverting", "mean-reverting", "#57a0d8"),
    ("calm", "calm", "#dfe3ea"),
    ("normal", "normal", "#b6bcc8"),
    ("volatile", "volatile", "#d64550"),
)

_MOST_CANDLES: Final = 270
_MOST_STRETCHES: Final = 600
_MOST_SYMBOLS: Final = 24
_MOST_POINTS: Final = 1_500
_MOST_ROWS: Final = 40
_MOST_GROUPS: Final = 7
# The intervals to which candles are merged.
_MERGED: Final = tuple(
    map(
        interval_of,
        [
            "1m",
            "2m",
            "3m",
            "5m",
            "10m",
            "15m",
            "30m",
            "1h",
            "2h",
            "3h",
            "4h",
            "6h",
            "8h",
            "12h",
            "1d",
            "1w",
            "2w",
            "4w",
            "13w",
            "52w",
        ],
    )
)


def candles(bars: pl.DataFrame, *, title: str | None = None) -> bytes:
    """Draw bars as candles with their volume.

    More than 270 bars are merged into longer ones; the picture says into which.

    Args:
        bars: rows of `market.bars_1m` or of one interval of `market.bars`, of one venue and symbol: ts, open,
            high, low, close, volume.
        title: replaces venue and symbol.

    Raises:
        BadRequestError: bars of several symbols, venues or intervals.
    """
    for name in ("venue", "symbol", "interval"):
        if name in bars.columns and bars[name].n_unique() > 1:
            raise BadRequestError(
                f"{bars[name].n_unique()} values of {name}", where="candles", hint="Filter the bars to one of them."
            )
    first = bars.head(1).to_dicts()[0] if bars.height else {}
    symbol = str(first.get("symbol", ""))
    title = title or " · ".join(str(first[name]) for name in ("symbol", "venue") if name in first) or "Bars"
    if bars.is_empty():
        return _no_data(title)
    merged, length, name = merged_candles(bars.sort("ts"))
    base, _, quote = symbol.partition("-")
    quote = quote.split("-")[0]

    figure, (price, volume) = _figure(2, ratios=(2.8, 1))
    x = _numbers(merged["ts"])
    width = 0.72 * length / DAY
    centre = x + length / DAY / 2
    values = {
        column: merged[column].cast(pl.Float64).to_numpy() for column in ("open", "high", "low", "close", "volume")
    }
    colours = [_UP if up else _DOWN for up in values["close"] >= values["open"]]
    price.vlines(centre, values["low"], values["high"], colors=colours, linewidth=0.9)
    body = np.abs(values["close"] - values["open"])
    # A candle without a body is drawn as a hairline rather than as nothing.
    hair = 0.0015 * max(float(values["high"].max() - values["low"].min()), 1e-12)
    floor = np.minimum(values["open"], values["close"])
    _boxes(price, centre - width / 2, width, floor, np.maximum(body, hair), colours)
    _boxes(volume, centre - width / 2, width, np.zeros(len(centre)), values["volume"], colours, alpha=0.55)
    last = float(values["close"][-1])
    price.axhline(last, color=_MUTED, linewidth=0.7, linestyle=(0, (4, 3)))
    price.annotate(
        f"{last:,.6g}",
        (1.0, last),
        xycoords=("axes fraction", "data"),
        xytext=(5, 0),
        textcoords="offset points",
        va="center",
        fontsize=8.5,
        color=_INK,
    )
    change = last / float(values["open"][0]) - 1
    _titles(price, title, f"{name} candles · {_span(bars['ts'])} · {change:+.2%}")
    price.set_ylabel(f"Price ({quote})" if quote else "Price")
    volume.set_ylabel(f"Volume ({base})" if base and quote else "Volume")
    volume.set_ylim(bottom=0)
    _compact(volume.yaxis)
    # A few candles do not fill the width, they keep a usual shape.
    pad = max(0.6, (24 - len(centre)) / 2) * length / DAY
    for axes in (price, volume):
        _time_axis(axes, float(centre[0]) - pad, float(centre[-1]) + pad)
    price.tick_params(labelbottom=False)
    price.xaxis.get_offset_text().set_visible(False)
    return _png(figure)


def gap_heat_map(presence: pl.DataFrame, *, title: str = "Completeness") -> bytes:
    """Draw which share of the expected rows is there, one line per symbol and one cell per day (or hour).

    Args:
        presence: as returned by `market.gaps.presence`.  Beyond 40 series, those with the most missing are drawn.
        title: heading.
    """
    if presence.is_empty():
        return _no_data(title)
    step = _step(presence["ts"])
    several = presence["venue"].n_unique() > 1
    label = pl.format("{} ({})", "symbol", "venue") if several else pl.col("symbol").cast(pl.String)
    data = presence.with_columns(label=label, cell=(pl.col("ts") - pl.col("ts").min()).dt.total_microseconds() // step)
    worst = (
        data.group_by("label")
        .agg(pl.col("share").mean())
        .sort("share", "label")
        .head(_MOST_ROWS)
        .sort("label")
        .with_row_index("line")
    )
    shown = data.join(worst.select("label", "line"), on="label")
    matrix = np.full((worst.height, int(data["cell"].to_numpy().max()) + 1), np.nan)
    matrix[shown["line"].to_numpy(), shown["cell"].to_numpy()] = shown["share"].to_numpy()

    figure, (axes,) = _figure(1, height=min(max(1.7 + 0.24 * worst.height, 2.6), 8.0))
    start = float(_numbers(data["ts"]).min())
    end = start + matrix.shape[1] * step / DAY
    # Classes rather than a ramp: a day that lacks one minute must not look complete.
    grade = np.digitize(matrix, [grade.at_least for grade in _GRADES[1:]]).astype(np.float64)
    grade[np.isnan(matrix)] = np.nan
    colours = [grade.colour for grade in _GRADES]
    _cells(axes, grade, worst["label"].to_list(), (start, end), colours, (0, len(_GRADES) - 1), daily=step > 3.6e9)
    _key(
        figure,
        [(grade.name, grade.colour) for grade in _GRADES],
        blank="nothing expected" if np.isnan(matrix).any() else "",
    )
    expected, present = (int(presence[name].to_numpy().sum()) for name in ("expected", "present"))
    missing = expected - present
    facts = [
        f"{missing:,} of {expected:,} intervals missing ({missing / expected:.3%})" if missing else "nothing missing",
        "one cell per hour" if step < DAY else "one cell per day",
        _span(presence["ts"]),
    ]
    series = data["label"].n_unique()
    if series > worst.height:
        facts.append(f"the worst {worst.height} of {series:,} series")
    _titles(axes, title, " · ".join(facts))
    return _png(figure)


def rows_per_day(counts: pl.DataFrame, *, by: str | None = None, title: str = "Rows per day") -> bytes:
    """Draw how many rows each day has, stacked by a column where one is given.

    Args:
        counts: date, rows, and the column `by`.  Values beyond the seven largest are drawn as one.
        by: for example symbol, venue or source.
        title: heading.
    """
    counts = counts.filter(pl.col("rows") > 0)
    if counts.is_empty():
        return _no_data(title)
    if by is None:
        groups, data = ["rows"], counts.with_columns(group=pl.lit("rows"))
    else:
        largest = (
            counts.group_by(pl.col(by).cast(pl.String))
            .agg(pl.col("rows").sum())
            .sort("rows", by, descending=[True, False])
        )
        groups = largest[by].head(_MOST_GROUPS).sort().to_list()
        named = pl.col(by).cast(pl.String)
        data = counts.with_columns(group=pl.when(named.is_in(groups)).then(named).otherwise(pl.lit("other")))
        groups += ["other"] if largest.height > _MOST_GROUPS else []
    data = data.group_by("date", "group").agg(pl.col("rows").sum())
    days = data.select(pl.col("date").unique().sort()).to_series()
    span = (days[-1] - days[0]).days + 1
    # Beyond a few hundred days a column per day is thinner than a pixel: weeks or months instead.
    every, unit = ("1d", "day") if span <= 370 else ("1w", "week") if span <= 2_600 else ("1mo", "month")
    data = data.group_by(pl.col("date").dt.truncate(every), "group").agg(pl.col("rows").sum())
    columns = data.select(pl.col("date").unique().sort()).to_series()
    x = _numbers(columns.cast(pl.Datetime("us", "UTC")))
    width = {"day": 1, "week": 7, "month": 28}[unit]

    figure, (axes,) = _figure(1, height=3.6)
    bottom = np.zeros(len(columns))
    for number, group in enumerate(groups):
        part = columns.to_frame().join(data.filter(pl.col("group") == group), on="date", how="left")
        height = part["rows"].fill_null(0).cast(pl.Float64).to_numpy()
        colour = _SERIES[number] if group != "other" else "#b6bcc8"
        _boxes(axes, x + 0.07 * width, 0.86 * width, bottom, height, [colour] * len(x), label=group)
        bottom += height
    if by is not None:
        _legend(axes)
    _time_axis(axes, float(x[0]) - 0.3 * width, float(x[-1]) + 1.3 * width, daily=True)
    axes.set_ylabel(f"Rows per {unit}")
    axes.set_ylim(0, float(bottom.max()) * 1.08)
    _compact(axes.yaxis)
    total = int(counts["rows"].sum())
    _titles(axes, title, f"{_many(total, 'row')} on {_many(len(days), 'day')} of {span:,} · {_span(days)}")
    return _png(figure)


def lines(
    frame: pl.DataFrame,
    x: str,
    ys: Sequence[str],
    *,
    title: str,
    ylabel: str = "",
    note: str = "",
    log: bool = False,
) -> bytes:
    """Draw columns as lines over a time, date or number; nulls and NaN interrupt a line.

    Long series are thinned to the extremes of each stretch, so no spike is lost.

    Args:
        frame: any order.
        x: time, date or number column.
        ys: columns to draw, at most eight.
        title: heading.
        ylabel: what is drawn, with its unit.
        note: second line of the heading.
        log: logarithmic vertical axis.

    Raises:
        BadRequestError: more than eight columns.
    """
    if len(ys) > len(_SERIES):
        raise BadRequestError(f"{len(ys)} lines", where="lines", hint=f"Draw at most {len(_SERIES)}.")
    if frame.is_empty() or not ys:
        return _no_data(title)
    frame = frame.sort(x)
    figure, (axes,) = _figure(1, height=3.9)
    _draw_lines(axes, frame, x, ys)
    if log:
        axes.set_yscale("log")
    if len(ys) > 1:
        _legend(axes)
    axes.set_ylabel(ylabel)
    _titles(axes, title, note)
    return _png(figure)


def equity(frame: pl.DataFrame, *, x: str = "ts", y: str = "equity", title: str = "Equity") -> bytes:
    """Draw an equity curve and, below it, the drawdown from its running maximum.

    Args:
        frame: times and equity (any unit, positive).
        x: time or date column.
        y: equity column.
        title: heading.
    """
    frame = frame.filter(pl.col(y).is_finite()).sort(x)
    if frame.is_empty():
        return _no_data(title)
    frame = frame.select(x, pl.col(y).cast(pl.Float64)).with_columns(drawdown=pl.col(y) / pl.col(y).cum_max() - 1)
    figure, (upper, lower) = _figure(2, ratios=(2.6, 1))
    _draw_lines(upper, frame, x, [y])
    _draw_lines(lower, frame, x, ["drawdown"], colours=(_DOWN,), fill=True)
    upper.tick_params(labelbottom=False)
    upper.set_xlim(lower.get_xlim())
    upper.set_ylabel("Equity")
    lower.set_ylabel("Drawdown")
    lower.yaxis.set_major_formatter(
        lambda value, _: f"{value:.0%}" if abs(value) >= 0.01 or value == 0 else f"{value:.2%}"
    )
    total = frame[y][-1] / frame[y][0] - 1
    _titles(upper, title, f"{total:+.1%} in total · largest drawdown {frame['drawdown'].to_numpy().min():.1%}")
    return _png(figure)


def universe_timeline(universe: pl.DataFrame, *, title: str = "Universe") -> bytes:
    """Draw who was a member when, one line per symbol, darker for a better rank.

    Args:
        universe: rows of `market.universe`: date, rank, venue, symbol, member_since.  Beyond 40
            symbols, those with the most days are drawn.
        title: heading.
    """
    if universe.is_empty():
        return _no_data(title)
    from matplotlib.ticker import MaxNLocator

    several = universe["venue"].n_unique() > 1
    label = pl.format("{} ({})", "symbol", "venue") if several else pl.col("symbol").cast(pl.String)
    data = universe.with_columns(label=label, cell=(pl.col("date") - pl.col("date").min()).dt.total_days())
    members = data.group_by("label").agg(days=pl.len(), first=pl.col("date").min(), rank=pl.col("rank").mean())
    shown = (
        members.sort(["days", "label"], descending=[True, False])
        .head(_MOST_ROWS)
        .sort("first", "rank", "label")
        .with_row_index("line")
    )
    cells = data.join(shown.select("label", "line"), on="label")
    size = int(data["rank"].to_numpy().max())
    matrix = np.full((shown.height, int(data["cell"].to_numpy().max()) + 1), np.nan)
    matrix[cells["line"].to_numpy(), cells["cell"].to_numpy()] = cells["rank"].to_numpy()

    figure, (axes,) = _figure(1, height=min(max(1.7 + 0.24 * shown.height, 2.6), 8.0))
    start = float(_numbers(data["date"].cast(pl.Datetime("us", "UTC"))).min())
    end = start + matrix.shape[1]
    colours = ["#17437a", "#5b93cc", "#c3dcf1"]
    image = _cells(axes, matrix, shown["label"].to_list(), (start, end), colours, (1, max(size, 2)), daily=True)
    bar = figure.colorbar(image, ax=axes, fraction=0.025, pad=0.012, aspect=30)
    bar.outline.set_visible(False)
    bar.ax.tick_params(labelsize=8, colors=_MUTED, length=0)
    bar.ax.invert_yaxis()
    bar.ax.yaxis.set_major_locator(MaxNLocator(6, integer=True))
    bar.set_label("Rank", fontsize=8.5, color=_MUTED)
    days = data["date"].n_unique()
    entered = pl.col("date") == pl.col("member_since")
    changes = data.filter(entered, pl.col("date") > pl.col("date").min()).height
    facts = [
        f"{_many(members.height, 'symbol')} in {_many(size, 'place')}",
        _many(days, "day"),
        f"{changes} changes",
        _span(data["date"]),
    ]
    if members.height > shown.height:
        facts.append(f"the {shown.height} with the most days")
    _titles(axes, title, " · ".join(facts))
    return _png(figure)


def forecast_fan(
    history: pl.DataFrame,
    forecast: pl.DataFrame,
    *,
    title: str,
    band: str = "95 % band",
    note: str = "",
    ylabel: str = "Price",
) -> bytes:
    """Draw a price up to a forecast, and from there the expected path within its band.

    Args:
        history: ts and price, or ts and close (at the time when each is known), in any order.
        forecast: ts, expected, lower, upper of one forecast, the first point where it was made: rows of
            `signals.mfg_prices` or `signals.chiarella_forecasts`.
        title: heading.
        band: what lies between lower and upper.
        note: second line of the heading, after the expected move.
        ylabel: what is drawn, with its unit.

    Raises:
        BadRequestError: rows of several forecasts.
    """
    for name in ("venue", "symbol", "made_at"):
        if name in forecast.columns and forecast[name].n_unique() > 1:
            raise BadRequestError(
                f"{forecast[name].n_unique()} values of {name}", where="forecast_fan", hint="Filter to one forecast."
            )
    if forecast.is_empty():
        return _no_data(title)
    forecast = forecast.sort("ts")
    price = "price" if "price" in history.columns else "close"
    past = history.filter(pl.col("ts") <= forecast["ts"][0]).sort("ts")
    figure, (axes,) = _figure(1, height=3.9)
    at = _numbers(forecast["ts"])
    expected, lower, upper = (forecast[name].to_numpy() for name in ("expected", "lower", "upper"))
    axes.fill_between(at, lower, upper, color=_SERIES[1], alpha=0.18, linewidth=0, label=band)
    axes.plot(at, expected, color=_SERIES[1], linewidth=1.8, label="expected")
    start = float(at[0])
    if past.height:
        _draw_lines(axes, past.select("ts", observed=pl.col(price).cast(pl.Float64)), "ts", ["observed"])
        start = float(_numbers(past["ts"]).min())
    axes.axvline(float(at[0]), color=_MUTED, linewidth=0.8, linestyle=(0, (4, 3)))
    # Labels at the end of the fan; those that would overlap are left out.
    room = 0.045 * (max(axes.get_ylim()) - min(axes.get_ylim()))
    written: list[float] = []
    for value in (float(expected[-1]), float(upper[-1]), float(lower[-1])):
        if all(abs(value - other) > room for other in written):
            written.append(value)
            axes.annotate(
                f"{value:,.6g}", (float(at[-1]), value), xytext=(5, 0), textcoords="offset points",
                va="center", fontsize=8.5, color=_INK, annotation_clip=False,
            )  # fmt: skip
    span = float(at[-1]) - start
    _time_axis(axes, start - 0.01 * span, float(at[-1]) + 0.01 * span or start + 0.5)
    axes.set_ylabel(ylabel)
    _legend(axes)
    minutes = (forecast["ts"][-1] - forecast["ts"][0]).total_seconds() / 60
    move = expected[-1] / expected[0] - 1
    facts = [
        f"{1e4 * move:+.2f} bp expected in {minutes:g} minutes",
        f"made {forecast['ts'][0]:%Y-%m-%d %H:%M} UTC",
        note,
    ]
    _titles(axes, title, " · ".join(fact for fact in facts if fact))
    return _png(figure)


def density_map(
    times: NDArray[np.float64],
    inventories: NDArray[np.float64],
    density: NDArray[np.float64],
    *,
    title: str,
    mean: NDArray[np.float64] | None = None,
    note: str = "",
    xlabel: str = "Minutes from now",
    ylabel: str = "Inventory of an agent",
) -> bytes:
    """Draw a density over time as a heat map, each time scaled by the same colours; inventories without mass are cut.

    Args:
        times: (T,), uniform.
        inventories: (Q,), uniform.
        density: (T, Q), 0 and more.
        title: heading.
        mean: (T,), drawn as a line.
        note: second line of the heading.
        xlabel: unit of time.
        ylabel: unit of inventory.

    Raises:
        BadRequestError: shapes that do not belong together.
    """
    if density.shape != (times.size, inventories.size) or (mean is not None and mean.shape != times.shape):
        raise BadRequestError(
            f"density of shape {density.shape}", where="density_map", hint=f"({times.size}, {inventories.size})."
        )
    if times.size < 2 or inventories.size < 2:
        return _no_data(title)
    from matplotlib.colors import LinearSegmentedColormap, PowerNorm

    there = np.flatnonzero(density.max(axis=0) > 2e-3 * density.max())
    low, high = (int(there[0]), int(there[-1])) if there.size else (0, inventories.size - 1)
    low, high = max(0, low - 1), min(inventories.size - 1, high + 1)
    shown = density[:, low : high + 1].T
    step = float(inventories[1] - inventories[0])
    figure, (axes,) = _figure(1, height=3.9)
    colours = LinearSegmentedColormap.from_list("density", [_GROUND, "#c3dcf1", "#5b93cc", "#17437a", "#0d1b33"])
    # The square root keeps the thin mass of early times visible beside the peak at the end.
    image = axes.imshow(
        shown, aspect="auto", origin="lower", interpolation="nearest", cmap=colours,
        norm=PowerNorm(0.5, vmin=0.0, vmax=float(shown.max()) or 1.0),
        extent=(float(times[0]), float(times[-1]), inventories[low] - step / 2, inventories[high] + step / 2),
    )  # fmt: skip
    axes.grid(visible=False)
    if mean is not None:
        axes.plot(times, mean, color=_SERIES[1], linewidth=1.6, label="mean")
        _legend(axes)
        axes.set_xlim(float(times[0]), float(times[-1]))
    bar = figure.colorbar(image, ax=axes, fraction=0.025, pad=0.012, aspect=30)
    bar.outline.set_visible(False)
    bar.ax.tick_params(labelsize=8, colors=_MUTED, length=0)
    bar.set_label("Density", fontsize=8.5, color=_MUTED)
    axes.set_xlabel(xlabel, fontsize=8.5, color=_MUTED)
    axes.set_ylabel(ylabel)
    _titles(axes, title, note)
    return _png(figure)


def weights_bars(weights: pl.DataFrame, *, by: str = "method", title: str = "Weights", note: str = "") -> bytes:
    """Draw the weights of one day as bars side by side, one colour per method, symbols by their largest weight.

    Args:
        weights: symbol, weight and the column `by`, a symbol at most once for each of its values.
        by: method, or another column of at most eight values.
        title: heading.
        note: second line of the heading.

    Raises:
        BadRequestError: more than eight methods, or a symbol twice in one.
    """
    if weights.is_empty():
        return _no_data(title)
    rows = weights.select(pl.col("symbol", by).cast(pl.String), pl.col("weight").cast(pl.Float64))
    groups = rows[by].unique().sort().to_list()
    if len(groups) > len(_SERIES) or rows.select("symbol", by).is_duplicated().any():
        raise BadRequestError(
            f"{len(groups)} values of {by}, {rows.height} rows",
            where="weights_bars",
            hint=f"At most {len(_SERIES)}, each symbol once: filter to one day.",
        )
    order = rows.group_by("symbol").agg(pl.col("weight").abs().max()).sort("weight", "symbol", descending=[True, False])
    symbols = order["symbol"].head(_MOST_SYMBOLS)
    figure, (axes,) = _figure(1, height=3.9)
    x = np.arange(len(symbols), dtype=np.float64)
    width = 0.82 / len(groups)
    for number, group in enumerate(groups):
        part = symbols.to_frame().join(rows.filter(pl.col(by) == group), on="symbol", how="left", maintain_order="left")
        height = part["weight"].fill_null(0.0).to_numpy()
        left = x - 0.41 + number * width
        colours = [_SERIES[number]] * len(x)
        _boxes(
            axes, left + 0.04 * width, 0.92 * width, np.zeros(len(x)), height, colours, label=group.replace("_", " ")
        )
    axes.axhline(0, color="#b6bcc8", linewidth=0.8)
    axes.set_xlim(-0.6, len(x) - 0.4)
    axes.set_xticks(x, symbols.to_list(), rotation=0 if len(x) <= 10 else 45, ha="center" if len(x) <= 10 else "right")
    axes.grid(visible=False, axis="x")
    axes.spines["bottom"].set_visible(False)
    axes.yaxis.set_major_formatter(
        lambda value, _: f"{value:.0%}" if abs(value) >= 0.01 or value == 0 else f"{value:.1%}"
    )
    axes.set_ylabel("Weight")
    _legend(axes)
    total = rows.group_by(by).agg(pl.col("weight").abs().sum()).sort(by)
    facts = [f"{group.replace('_', ' ')} {size:.0%} invested" for group, size in total.rows()]
    if len(symbols) < order.height:
        facts.append(f"the largest {len(symbols)} of {order.height} symbols")
    _titles(axes, title, note or " · ".join(facts))
    return _png(figure)


def regime_timeline(closes: pl.DataFrame, regimes: pl.DataFrame, *, title: str, log: bool = True) -> bytes:
    """Draw a price on the colours of its regimes and, below it, their probabilities.

    Where trending and mean-reverting are not told apart, quiet stretches are calm or normal, in grey: nobody should bet
    on a distinction that is not there.  Long series are drawn in stretches of several bars, with their mean
    probabilities.

    Args:
        closes: ts and close of one series, in any order.
        regimes: ts, p_trending, p_mean_reverting, p_volatile, identified, and p_calm and p_normal if there, of the
            same series: rows of `signals.regimes`.
        title: heading.
        log: logarithmic price.
    """
    known = regimes.drop_nulls(["ts"]).sort("ts")
    if known.is_empty():
        return _no_data(title)
    price = closes.filter(pl.col("ts").is_between(known["ts"][0], known["ts"][-1])).sort("ts")
    probability = known.select(_shown_probabilities(known)).to_numpy()
    at = _numbers(known["ts"])
    usual = float(np.median(np.diff(at))) if at.size > 1 else 1.0
    bars_per_stretch = -(-at.size // _MOST_STRETCHES)
    first = np.arange(0, at.size, bars_per_stretch)
    size = np.diff(np.append(first, at.size))[:, None]
    probability = np.add.reduceat(probability, first) / size
    left = at[first]
    # A stretch lasts to the next one, but not over a gap that is long for these bars.
    right = np.minimum(np.append(left[1:], at[-1] + usual), at[np.append(first[1:], at.size) - 1] + 5 * usual)
    state = probability.argmax(axis=1)

    figure, (upper, lower) = _figure(2, ratios=(2.4, 1))
    for k, (_, _, colour) in enumerate(_REGIMES):
        _shade(upper, left, right, state == k, colour)
    if price.height:
        _draw_lines(upper, price.select("ts", close=pl.col("close").cast(pl.Float64)), "ts", ["close"], colours=(_INK,))
    upper.grid(visible=False, axis="x")
    if log and price.height:
        from matplotlib.ticker import NullFormatter

        upper.set_yscale("log")
        ratio = float(
            price["close"].cast(pl.Float64).to_numpy().max() / price["close"].cast(pl.Float64).to_numpy().min()
        )
        _plain_log(upper, ratio)
        upper.yaxis.set_minor_formatter(NullFormatter())
    edges = np.stack([left, right], axis=1).ravel()
    stacked = np.repeat(np.cumsum(probability, axis=1), 2, axis=0)
    floor = np.zeros(edges.size)
    for k, (_, _, colour) in enumerate(_REGIMES):
        lower.fill_between(edges, floor, stacked[:, k], color=colour, alpha=0.75, linewidth=0)
        floor = stacked[:, k]
    lower.set_ylim(0, 1)
    lower.set_yticks([0, 0.5, 1], ["0", "50 %", "100 %"])
    lower.grid(visible=False)
    lower.set_ylabel("Probability")
    upper.set_ylabel("Price, log scale" if log else "Price")
    start, end = float(left[0]), float(right[-1])
    _time_axis(lower, start, end)
    upper.tick_params(labelbottom=False)
    upper.set_xlim(start, end)
    keys = [
        (f"{called} ({share:.0%})", colour)
        for k, ((_, called, colour), share) in enumerate(zip(_REGIMES, _shares(state, size), strict=True))
        if probability[:, k].any()
    ]
    _key(figure, keys, blank="")
    facts = [_many(known.height, "bar"), _span(known["ts"])]
    if bars_per_stretch > 1:
        facts.append(f"mean probabilities of {bars_per_stretch} bars")
    changes = int(np.count_nonzero(np.diff(known.select(_shown_probabilities(known)).to_numpy().argmax(axis=1))))
    _titles(upper, title, " · ".join([*facts, _many(changes, "change")]))
    return _png(figure)


def _shown_probabilities(regimes: pl.DataFrame) -> list[pl.Expr]:
    """Return the probabilities that a model can tell, in the order of the colours; the others are 0."""
    told = pl.col("identified").fill_null(value=False)
    quiet = pl.col("p_trending") + pl.col("p_mean_reverting")
    columns = {
        "trending": pl.when(told).then("p_trending").otherwise(0.0),
        "mean_reverting": pl.when(told).then("p_mean_reverting").otherwise(0.0),
        "volatile": pl.col("p_volatile"),
    }
    if "p_calm" in regimes.columns:
        columns["calm"] = pl.when(told).then(0.0).otherwise(pl.col("p_calm").fill_null(0.0))
        columns["normal"] = (
            pl.when(told).then(0.0).otherwise(pl.col("p_normal").fill_null(quiet - pl.col("p_calm").fill_null(0.0)))
        )
    else:
        columns["calm"], columns["normal"] = pl.lit(0.0), pl.when(told).then(0.0).otherwise(quiet)
    return [columns[name].cast(pl.Float64).alias(name) for name, _, _ in _REGIMES]


def preview(png: bytes, most_bytes: int) -> bytes:
    """Return a small copy of a picture: in few colours, as wide as fits into so many bytes (120 pixels at least)."""
    from PIL import Image

    whole = Image.open(io.BytesIO(png)).convert("RGB")
    for width in (420, 360, 300, 240, 180, 120):
        small = whole.resize((width, max(1, whole.height * width // whole.width)), Image.Resampling.LANCZOS)
        out = io.BytesIO()
        small.quantize(16).save(out, "PNG", optimize=True)
        if out.tell() <= most_bytes:
            break
    return out.getvalue()


def markdown_image(png: bytes, alt: str = "plot") -> str:
    """Return Markdown that shows a picture without any file: an image with a data URI."""
    return f"![{alt}](data:image/png;base64,{base64.b64encode(png).decode()})"


def _figure(panels: int, *, height: float = 4.9, ratios: tuple[float, ...] = (1,)) -> tuple[Figure, list[Axes]]:
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(10, height), facecolor=_GROUND, layout="constrained")
    FigureCanvasAgg(figure)
    figure.get_layout_engine().set(w_pad=0.12, h_pad=0.1, hspace=0.02)  # type: ignore[call-arg, union-attr]
    all_axes = list(figure.subplots(panels, 1, squeeze=False, height_ratios=ratios)[:, 0])
    for axes in all_axes:
        axes.set_facecolor(_GROUND)
        axes.set_axisbelow(True)
        axes.grid(color=_GRID, linewidth=0.8)
        for side in ("top", "right", "left"):
            axes.spines[side].set_visible(False)
        axes.spines["bottom"].set_color("#b6bcc8")
        axes.tick_params(which="both", labelsize=8.5, colors=_MUTED, length=0, pad=5)
        axes.yaxis.label.set(fontsize=8.5, color=_MUTED)
    return figure, all_axes


def _boxes(
    axes: Axes,
    left: NDArray[np.float64],
    width: float,
    bottom: NDArray[np.float64],
    height: NDArray[np.float64],
    colours: Sequence[str],
    *,
    alpha: float = 1.0,
    label: str = "",
) -> None:
    """Draw rectangles as one collection: ten times faster than one artist each."""
    from matplotlib.collections import PolyCollection

    right, top = left + width, bottom + height
    corners = np.stack(
        [np.stack([left, left, right, right], axis=1), np.stack([bottom, top, top, bottom], axis=1)], axis=2
    )
    axes.add_collection(PolyCollection(list(corners), facecolors=colours, linewidths=0, alpha=alpha, label=label))
    axes.autoscale_view()


def _cells(
    axes: Axes,
    matrix: NDArray[np.float64],
    labels: list[str],
    span: tuple[float, float],
    colours: list[str],
    limits: tuple[float, float],
    *,
    daily: bool,
) -> AxesImage:
    """Draw a matrix of (lines, cells in time); NaN is left blank."""
    from matplotlib.colors import LinearSegmentedColormap

    scale = LinearSegmentedColormap.from_list("scale", colours, N=1024).with_extremes(bad=_BLANK)
    image = axes.imshow(
        matrix, aspect="auto", interpolation="nearest", cmap=scale, vmin=limits[0], vmax=limits[1],
        extent=(*span, len(labels) - 0.5, -0.5),
    )  # fmt: skip
    axes.set_yticks(range(len(labels)), labels)
    axes.set_yticks(np.arange(len(labels) - 1) + 0.5, minor=True)
    axes.grid(visible=False)
    axes.grid(which="minor", axis="y", color=_GROUND, linewidth=2)
    axes.spines["bottom"].set_visible(False)
    _time_axis(axes, *span, daily=daily)
    return image


def _key(figure: Figure, entries: list[tuple[str, str]], *, blank: str) -> None:
    """Explain colours below the picture."""
    from matplotlib.patches import Patch

    entries = [*entries, *([(blank, _BLANK)] if blank else [])]
    legend = figure.legend(
        handles=[Patch(facecolor=colour, label=name) for name, colour in entries],
        loc="outside lower center", ncols=len(entries), frameon=False, fontsize=8.5,
        handlelength=1.1, handleheight=1.0, columnspacing=1.4, handletextpad=0.5,
    )  # fmt: skip
    for text in legend.get_texts():
        text.set_color(_INK)


def _titles(axes: Axes, title: str, note: str) -> None:
    axes.set_title(title, loc="left", fontsize=13, fontweight="bold", color=_INK, pad=26 if note else 10)
    if note:
        axes.annotate(
            note, (0, 1), xycoords="axes fraction", xytext=(0, 9), textcoords="offset points",
            fontsize=9, color=_MUTED, va="bottom",
        )  # fmt: skip


def _legend(axes: Axes) -> None:
    legend = axes.legend(
        loc="lower right", bbox_to_anchor=(1.0, 1.0), ncols=8, frameon=False, fontsize=8.5,
        handlelength=1.1, columnspacing=1.2, handletextpad=0.5, borderaxespad=0.2,
    )  # fmt: skip
    for text in legend.get_texts():
        text.set_color(_INK)


def _time_axis(axes: Axes, start: float, end: float, *, daily: bool = False) -> None:
    from matplotlib.dates import AutoDateLocator, ConciseDateFormatter

    # Days are not divided into hours where there is one cell per day.
    fewest = 1 if daily and end - start < 6 else 4
    locator = AutoDateLocator(minticks=fewest, maxticks=10)  # type: ignore[no-untyped-call]
    axes.xaxis.set_major_locator(locator)
    # The offset is the date of the last tick: of one day's picture that is the next day's midnight.
    concise = ConciseDateFormatter(locator, show_offset=end - start > 2)  # type: ignore[no-untyped-call]
    axes.xaxis.set_major_formatter(concise)
    axes.xaxis.get_offset_text().set(fontsize=8.5, color=_MUTED)
    axes.set_xlim(start, end)


def _shade(
    axes: Axes, left: NDArray[np.float64], right: NDArray[np.float64], where: NDArray[np.bool_], colour: str
) -> None:
    """Colour the ground over stretches of time, neighbouring ones as one."""
    if not where.any():
        return
    spans: list[list[float]] = []
    for start, end in zip(left[where].tolist(), right[where].tolist(), strict=True):
        if spans and start - spans[-1][1] < 1e-9:
            spans[-1][1] = end
        else:
            spans.append([start, end])
    axes.broken_barh(
        [(start, end - start) for start, end in spans], (0, 1), transform=axes.get_xaxis_transform(),
        facecolors=colour, alpha=0.3, linewidth=0, zorder=0,
    )  # fmt: skip


def _shares(state: NDArray[np.intp], size: NDArray[np.intp]) -> list[float]:
    """Return the share of bars in each regime."""
    counted = np.bincount(state, weights=size[:, 0], minlength=len(_REGIMES))
    return [float(share) for share in counted / counted.sum()]


def _plain_log(axes: Axes, ratio: float) -> None:
    """Write prices, not powers of ten, on a logarithmic axis of a range that may be far below a decade."""
    from matplotlib.ticker import LogLocator, MaxNLocator

    wide = ratio > 8
    axes.yaxis.set_major_locator(LogLocator(subs=(1.0, 2.0, 5.0)) if wide else MaxNLocator(7, steps=[1, 2, 2.5, 5, 10]))
    axes.yaxis.set_major_formatter(lambda value, _: f"{value:,.6g}")


def _compact(axis: Any) -> None:
    """Write 12000 as 12 k, a billion as 1 B."""

    def short(value: float, _: object) -> str:
        for size, unit in ((1e12, " T"), (1e9, " B"), (1e6, " M"), (1e3, " k")):
            if abs(value) >= size:
                return f"{value / size:g}{unit}"
        return f"{value:g}"

    axis.set_major_formatter(short)


def _many(n: int, noun: str) -> str:
    return f"{n:,} {noun}" if n == 1 else f"{n:,} {noun}s"


def _numbers(times: pl.Series) -> NDArray[np.float64]:
    """Return times as Matplotlib's days since 1970 (UTC)."""
    return times.cast(pl.Datetime("us", "UTC")).to_physical().to_numpy() / DAY


def _span(times: pl.Series) -> str:
    days = times.cast(pl.Date).sort()
    return str(days[0]) if days[0] == days[-1] else f"{days[0]} to {days[-1]}"


def _step(times: pl.Series) -> int:
    """Return the length of a cell in microseconds: a day if all start at midnight, otherwise an hour."""
    ticks = times.unique().sort().to_physical().to_numpy()
    return HOUR if (ticks % DAY).any() else DAY


def merged_candles(bars: pl.DataFrame) -> tuple[pl.DataFrame, int, str]:
    """Return at most about 270 candles, with their length in microseconds and its name."""
    ticks = bars["ts"].to_physical().to_numpy()
    if "ts_close" in bars.columns:
        own = int((bars["ts_close"].to_physical().to_numpy() - ticks).min())
    else:
        own = int(np.diff(ticks).min()) if len(ticks) > 1 else MINUTE
    span = int(ticks[-1] - ticks[0]) + own
    # Counted as bars, not as time: a year of trading days is not merged for the sake of its weekends.
    wanted = own if len(ticks) <= _MOST_CANDLES else max(own + 1, -(-span // _MOST_CANDLES))
    whole = next((found for found in _MERGED if found.microseconds >= wanted), _MERGED[-1])
    return (
        bars.with_columns(ts=whole.open_time(pl.col("ts")))
        .group_by("ts", maintain_order=True)
        .agg(
            pl.col("open").first(),
            pl.col("high").max(),
            pl.col("low").min(),
            pl.col("close").last(),
            pl.col("volume").sum(),
        ),
        whole.microseconds,
        whole.name,
    )


def _draw_lines(
    axes: Axes, frame: pl.DataFrame, x: str, ys: Sequence[str], *, colours: Sequence[str] = _SERIES, fill: bool = False
) -> None:
    temporal = frame.schema[x].is_temporal()
    at = _numbers(frame[x]) if temporal else frame[x].cast(pl.Float64).to_numpy()
    for name, colour in zip(ys, colours, strict=False):
        values = frame[name].cast(pl.Float64).fill_null(float("nan")).to_numpy()
        kept = extremes(values)
        # A lone point has no line, so it gets a dot.
        marker = "o" if len(kept) == 1 else None
        axes.plot(at[kept], values[kept], color=colour, linewidth=1.4, label=name, marker=marker, markersize=4)
        if fill:
            axes.fill_between(at[kept], values[kept], 0, color=colour, alpha=0.18, linewidth=0)
    low, high = float(at[0]), float(at[-1])
    pad = 0.01 * (high - low) or 0.5
    if temporal:
        _time_axis(axes, low - pad, high + pad)
    else:
        axes.set_xlabel(x, fontsize=8.5, color=_MUTED)
        axes.set_xlim(low - pad, high + pad)


def extremes(values: NDArray[np.float64]) -> NDArray[np.intp]:
    """Return the positions to draw: all of a short series, first and extremes per stretch of a long one."""
    n = len(values)
    if n <= _MOST_POINTS:
        return np.arange(n)
    edges = np.linspace(0, n, _MOST_POINTS // 2 + 1).astype(np.intp)
    kept = {0, n - 1}
    for low, high in itertools.pairwise(edges.tolist()):
        part = values[low:high]
        if np.isnan(part).all():
            kept.add(low)
        else:
            kept |= {low + int(np.nanargmin(part)), low + int(np.nanargmax(part))}
    return np.array(sorted(kept), dtype=np.intp)


def _no_data(title: str) -> bytes:
    figure, (axes,) = _figure(1, height=2.2)
    axes.set_axis_off()
    axes.set_title(title, loc="left", fontsize=13, fontweight="bold", color=_INK)
    axes.text(0.5, 0.5, "No rows", ha="center", va="center", fontsize=12, color=_MUTED, transform=axes.transAxes)
    return _png(figure)


def _png(figure: Figure) -> bytes:
    """Render, at a lower resolution if the picture would be too large for metadata."""
    png = b""
    canvas: Any = figure.canvas
    # 960 pixels at first: what Dagster's dialog shows without cutting on a screen 1280 pixels wide.
    for dpi in (96, 80, 60, 45):
        buffer = io.BytesIO()
        figure.dpi = dpi
        # The same bytes as those of `savefig`, which draws everything once more to find the layout first.
        canvas.print_png(buffer, metadata={"Software": None})
        png = buffer.getvalue()
        if len(png) <= MAX_BYTES:
            break
    return png
