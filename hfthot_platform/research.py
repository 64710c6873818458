"""One import for a researcher: data from the lake, strategies, backtests, pictures.

    from hfthot_platform.research import MeanReversion, TrendFollowing, backtest, load_dataset

    load_dataset("BTC-USDT")
    strategy = MeanReversion()
    print(backtest(strategy))

What goes here: bringing the lake, the models and the pictures together for one person at a prompt.  What stays out:
models, contracts, orchestration.  `backtest(strategy)` runs on the data that this thread loaded last; code that is to
be read again later passes them: `backtest(strategy, data, costs)`.

The models are here as modules, loaded on first use: `regime`, `mean_field_game`, `chiarella`, `portfolio`, `strategy`.
`backtest` is both: it is called, and it has the names of the module `hfthot_platform.domain.models.backtest`.
"""

from __future__ import annotations

import threading
from collections.abc import Iterable, Sequence
from datetime import UTC, date, datetime
from importlib import import_module
from typing import TYPE_CHECKING, Final, Literal, TypeAlias

import polars as pl

from hfthot_platform.app.installation import Installation
from hfthot_platform.core.errors import AmbiguousVenueError, BadRequestError, DataError, nearest_symbol
from hfthot_platform.core.intervals import canonical_name
from hfthot_platform.core.time import midnight
from hfthot_platform.domain import plots
from hfthot_platform.domain.market.bars import bars_at
from hfthot_platform.domain.market.events import Bar, Book, MarketEvent, Trade, trades_from
from hfthot_platform.domain.market.panel import Bars
from hfthot_platform.domain.models import backtest as _engine
from hfthot_platform.domain.models.backtest import (
    BacktestResult,
    Costs,
    Strategy,
    Vectorised,
    assert_causal,
    held_weights,
    on_change,
)
from hfthot_platform.domain.models.strategy import Adaptive, AdaptiveRules, MeanReversion, TrendFollowing, regime_labels
from hfthot_platform.domain.trading.port import Context, EventStrategy, Fill
from hfthot_platform.storage.lakehouse import Lakehouse

if TYPE_CHECKING:
    from hfthot_platform.domain.models import chiarella, mean_field_game, portfolio, regime, strategy

__all__ = [
    "Adaptive",
    "AdaptiveRules",
    "BacktestResult",
    "Bar",
    "Bars",
    "Book",
    "Context",
    "Costs",
    "EventStrategy",
    "Fill",
    "MeanReversion",
    "Strategy",
    "Trade",
    "TrendFollowing",
    "Vectorised",
    "assert_causal",
    "backtest",
    "chiarella",
    "equity_plot",
    "held_weights",
    "load_dataset",
    "mean_field_game",
    "on_change",
    "portfolio",
    "regime",
    "regime_labels",
    "strategy",
    "trades_from",
]

#: Models that are offered as modules.
_MODULES: Final = frozenset({"chiarella", "mean_field_game", "portfolio", "regime", "strategy"})

_WHERE: Final = "research"
#: Bars from which on regimes can be fitted; see `regime_labels`.
_LEAST_FOR_REGIMES: Final = 600
#: Length of a day as text, in the longest of its forms (2024-01-31, 2024-W05-3).
_LONGEST_DAY: Final = 10
#: The first year that a bound may have: the very first ones have no time in every zone.
_EARLIEST: Final = 1000
last_loaded = threading.local()


def __getattr__(name: str) -> object:
    """Load a model's module on first use."""
    if name in _MODULES:
        return import_module(f"hfthot_platform.domain.models.{name}")
    message = f"module {__name__!r} has no attribute {name!r}"
    raise AttributeError(message)


def load_dataset(
    *symbols: str,
    interval: str = "1h",
    venue: str | None = None,
    start: date | datetime | str | None = None,
    end: date | datetime | str | None = None,
    closes: bool = False,
    lake: Lakehouse | None = None,
) -> Bars:
    """Load the bars of one or several symbols from the lake.

    Only what is there is returned: nothing is fetched or filled.  Bars of an interval that the lake does not have of a
    symbol are computed from its finer bars.

    Args:
        symbols: canonical, such as `BTC-USDT`.
        interval: of the bars, such as 5m, 4h, 1d or 1w; hours by default.
        venue: where a symbol is traded, needed if the lake has it from several.
        start: first time, inclusive: an aware time, a day (from midnight UTC), or either as ISO 8601 text.
        end: last time, exclusive; the same.
        closes: read the daily closes of `market.closes` instead of bars; orders are then executed at the next close.
        lake: the configured one by default.

    Raises:
        BadRequestError: no symbol, an unknown interval, or a time without a zone.
        AmbiguousVenueError: a symbol is there from several venues and none was chosen; `venues` names them.
        DataError: the lake has no such bars; the message says what it has.
    """
    name = canonical_name(interval)
    if not symbols or name is None:
        raise BadRequestError(
            f"symbols {symbols}, interval {interval!r}",
            where=f"{_WHERE}.load_dataset",
            hint="Name a symbol or more; intervals are 1m, 5m, 1h, 4h, 1d, 1w and the like.",
        )
    interval = name
    named: Sequence[object] = symbols
    if wrong := [symbol for symbol in named if not isinstance(symbol, str)]:
        raise BadRequestError(f"{wrong[0]!r} is not a symbol", where=f"{_WHERE}.load_dataset", hint="Symbols are text.")
    if venue is not None:
        _require(venue, str, "venue", 'Name it, as "kraken".')
    if lake is not None:
        _require(lake, Lakehouse, "lake", "Pass Lakehouse.open(path), or leave it out for the configured one.")
    first, last = _moment(start, "start"), _moment(end, "end")
    if first is not None and last is not None and last <= first:
        raise BadRequestError(f"the span {start} to {end} is empty", where="end", hint="The end is exclusive.")
    if lake is None:
        lake = Installation.open().lake
    table = "market.closes" if closes else ("market.bars_1m" if interval == "1m" else "market.bars")
    rows = _rows_of(lake, table, interval, symbols)
    time_column = "date" if closes else "ts"
    for bound, above in ((first, True), (last, False)):
        if bound is not None:
            at = pl.col(time_column).cast(pl.Datetime("us", "UTC"))
            limit = pl.lit(bound).dt.convert_time_zone("UTC")
            rows = rows.filter(at >= limit if above else at < limit)
    if venue is not None:
        rows = rows.filter(pl.col("venue") == venue)
    frame = rows.collect()
    found = frame.group_by("symbol").agg(pl.col("venue").unique().sort())
    venues = dict(zip(found["symbol"].to_list(), found["venue"].to_list(), strict=True))
    for symbol in symbols:
        if symbol not in venues:
            raise _no_data(lake, symbol, interval, table, venue, bounded=start is not None or end is not None)
        if len(venues[symbol]) > 1:
            raise AmbiguousVenueError(
                f"{symbol} is traded on {', '.join(venues[symbol])}",
                venues=tuple(venues[symbol]),
                where=table,
                hint=f"Choose one: load_dataset({symbol!r}, venue={venues[symbol][0]!r}).",
            )
    bars = Bars.from_closes(frame) if closes else Bars.from_frame(frame)
    last_loaded.bars = bars
    return bars


def _require(value: object, kind: type, what: str, hint: str) -> None:
    if not isinstance(value, kind):
        raise BadRequestError(f"{value!r} is not a {what}", where=f"{_WHERE}.load_dataset", hint=hint)


def _moment(given: date | datetime | str | None, name: str) -> datetime | None:
    """Return a bound as a time with a zone: a day stands for its midnight UTC."""
    value = given
    if isinstance(value, str):
        text = value.strip()
        try:
            value = date.fromisoformat(text) if len(text) <= _LONGEST_DAY else datetime.fromisoformat(text)
        except ValueError:
            raise BadRequestError(
                f"{given!r} is not a time",
                where=name,
                hint="Write a day such as 2024-01-31, or 2024-01-31T12:00+00:00.",
            ) from None
    if value is None:
        return None
    if not isinstance(value, date):
        raise BadRequestError(f"{given!r} is not a time", where=name, hint="Pass a time, a day, or either as ISO text.")
    if value.year < _EARLIEST:
        raise BadRequestError(f"the year {value.year} is out of range", where=name, hint="Check how it was made.")
    if not isinstance(value, datetime):
        return midnight(value)
    if value.tzinfo is None:
        raise BadRequestError(f"{given} has no time zone", where=name, hint="Add one, such as +00:00 for UTC.")
    try:
        return value.astimezone(UTC)
    except OverflowError:
        raise BadRequestError(f"{given} is out of range", where=name, hint="Check how it was made.") from None


def _rows_of(lake: Lakehouse, table: str, interval: str, symbols: Sequence[str]) -> pl.LazyFrame:
    """Return the rows of the symbols; bars of an interval that the lake lacks are computed from finer ones."""

    def of(name: str) -> pl.LazyFrame:
        rows = lake.table(name).scan().with_columns(pl.col("symbol", "venue").cast(pl.String))
        return rows.filter(pl.col("symbol").is_in(list(symbols)))

    return bars_at(interval, of(table), of("market.bars_1m")) if table == "market.bars" else of(table)


def _no_data(lake: Lakehouse, symbol: str, interval: str, table: str, venue: str | None, *, bounded: bool) -> DataError:
    """Say what the lake has instead, and what to do."""
    what = f"no {'closes' if table == 'market.closes' else interval + ' bars'} of {symbol}"
    what += f" on {venue}" if venue else ""
    what += " in the requested span" if bounded else ""
    offers = []
    for name, keyword in (("market.bars", ""), ("market.bars_1m", 'interval="1m"'), ("market.closes", "closes=True")):
        rows = lake.table(name).scan().with_columns(pl.col("symbol", "venue").cast(pl.String))
        rows = rows.filter(pl.col("symbol") == symbol)
        columns = ["venue", "interval"] if name == "market.bars" else ["venue"]
        for row in rows.select(columns).unique().sort(columns).collect().iter_rows():
            arguments = f'interval="{row[1]}"' if len(row) > 1 else keyword
            offers.append(f'load_dataset("{symbol}", {arguments}, venue="{row[0]}")')
    if offers:
        hint = f"The lake has: {'; '.join(offers)}."
    else:
        names = lake.table(table).scan().select(pl.col("symbol").cast(pl.String).unique()).collect()["symbol"]
        others = names.to_list()
        hint = (
            nearest_symbol(symbol, others)
            + " To load more, configure a feed or put files into the landing folder, and run the ingest job."
        )
    return DataError(what, where=f"{table} in {lake.storage.root}", hint=hint)


class BacktestTool:
    """Backtests: call it as `backtest(strategy)`; its attributes are the public names of `domain.models.backtest`.

    `backtest(...)` runs on what this thread loaded last if no data are given; `backtest.backtest` is the library's own
    function, which always wants the data.
    """

    BacktestResult: TypeAlias = _engine.BacktestResult
    Causality: TypeAlias = _engine.Causality
    Costs: TypeAlias = _engine.Costs
    Strategy: TypeAlias = _engine.Strategy
    Vectorised: TypeAlias = _engine.Vectorised
    assert_causal = staticmethod(_engine.assert_causal)
    backtest = staticmethod(_engine.backtest)
    held_weights = staticmethod(_engine.held_weights)
    on_change = staticmethod(_engine.on_change)

    def __call__(
        self,
        strategy: Strategy | EventStrategy,
        data: Bars | pl.DataFrame | None = None,
        costs: Costs | None = None,
        *,
        regimes: Sequence[str] | Literal["walk_forward"] | None = "walk_forward",
        causality_cuts: int = 8,
        events: Iterable[MarketEvent] | None = None,
    ) -> BacktestResult:
        """Run a strategy over bars; see `hfthot_platform.domain.models.backtest.backtest`.

        Args:
            strategy: `MeanReversion()`, `TrendFollowing()`, any function from bars to target weights, or an
                `EventStrategy`.
            data: bars; what this thread loaded last by default.
            costs: 0.1 % fee and 0.05 % slippage each way by default.
            regimes: of the result's table: names per bar, None for no table, or fitted walking forward to the data
                (with 600 bars and more; a few seconds).
            causality_cuts: as there.
            events: as there.

        Raises:
            BadRequestError: no data were given and none were loaded, or the strategy is a class.
            LookAheadError: the strategy looks ahead.
            DataError: as there.
        """
        if isinstance(strategy, type):
            name = strategy.__name__
            raise BadRequestError(
                f"{name} is a class", where=f"{_WHERE}.backtest", hint=f"Write {name}(), an instance of it."
            )
        if data is None:
            data = getattr(last_loaded, "bars", None)
            if data is None:
                raise BadRequestError(
                    "no data",
                    where=f"{_WHERE}.backtest",
                    hint='Call load_dataset("SPX", interval="1d") first, or pass the data.',
                )
        if isinstance(regimes, str) and regimes != "walk_forward":
            raise BadRequestError(
                f"regimes = {regimes!r}",
                where=f"{_WHERE}.backtest",
                hint="Give one name for each bar, 'walk_forward', or None.",
            )
        bars = data if isinstance(data, Bars) else Bars.from_frame(data)
        labels = None if regimes is None or isinstance(regimes, str) else regimes
        if regimes == "walk_forward" and len(bars) >= _LEAST_FOR_REGIMES:
            labels = regime_labels(bars)
        return _engine.backtest(
            strategy, bars, costs or Costs(), regimes=labels, causality_cuts=causality_cuts, events=events
        )


backtest: Final = BacktestTool()


def equity_plot(result: BacktestResult) -> bytes:
    """Draw equity and drawdown of a backtest as a PNG.

    Raises:
        BadRequestError: it is not a result of a backtest.
    """
    given: object = result
    if not isinstance(given, BacktestResult):
        what = f"it is a {type(given).__name__}"
        raise BadRequestError(what, where=f"{_WHERE}.equity_plot", hint="Pass what backtest(...) returned.")
    title = f"{result.strategy}, {', '.join(result.symbols[:3])}{', ...' if len(result.symbols) > 3 else ''}"
    return plots.equity(result.frame(), title=title)
