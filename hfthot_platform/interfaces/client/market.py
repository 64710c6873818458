"""Market data of one symbol: lazy queries that read the newest partitions first."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from datetime import date, datetime
from typing import TYPE_CHECKING, Any, Final

import polars as pl

from hfthot_platform.core.errors import AmbiguousVenueError, BadRequestError, UnknownSymbolError, nearest_symbol
from hfthot_platform.core.intervals import interval as interval_of
from hfthot_platform.domain.contracts.periods import between, partition_bounds
from hfthot_platform.domain.market.bars import bars_at
from hfthot_platform.interfaces.client.arguments import count, moment
from hfthot_platform.storage.lakehouse.commits import may_hold_text

if TYPE_CHECKING:
    from hfthot_platform.domain.contracts import TableContract
    from hfthot_platform.storage.lakehouse import Lakehouse
    from hfthot_platform.storage.lakehouse.snapshot import Snapshot

__all__ = ["SYMBOL_TABLES", "Market", "MarketQuery", "known_symbols"]

#: What is done to rows, one by one.
_Step = Callable[[pl.LazyFrame], pl.LazyFrame]
_VENUES: Final = pl.col("venue").cast(pl.String).unique()
#: Each step back in time reads this many times as many partitions as the one before.
_GROWTH: Final = 4
#: Where a symbol may be known from, and those whose symbols are quickly listed.
_TABLES: Final = ("market.bars_1m", "market.bars", "market.closes", "market.trades")
#: Tables that are small enough to be read for their symbols.
SYMBOL_TABLES: Final = ("market.bars", "market.closes")
#: What comes after a row's time.
_LEAD: Final = ("open", "high", "low", "close", "price", "amount", "side", "volume")


def known_symbols(lake: Lakehouse) -> set[str]:
    """Return the symbols of the tables that are small enough to be read for their symbols."""
    known: set[str] = set()
    for name in SYMBOL_TABLES:
        symbols = lake.table(name).scan().select(pl.col("symbol").cast(pl.String).unique())
        known.update(symbols.collect().to_series())
    return known


@dataclass(frozen=True)
class Market:
    """What the lake has of one symbol.  Made by `LakehouseClient.market`.

    Example:
        >>> bars = client.market("BTC-USDT").ohlcv(interval="5m").tail(1000).collect()
    """

    lake: Lakehouse
    symbol: str
    venue: str | None
    #: Is told the table of each query that runs; returns the first time that the caller may see, None for all.
    opened: Callable[[str], datetime | None]

    def ohlcv(
        self,
        interval: str = "1m",
        start: date | datetime | str | None = None,
        end: date | datetime | str | None = None,
        *,
        version: int | None = None,
        as_of: datetime | str | None = None,
    ) -> MarketQuery:
        """Return the bars.  An interval without trades has none.

        Bars of a length that the lake does not have of the symbol are computed from its finer bars.

        Args:
            interval: a whole number of minutes, hours, days, weeks or months: 1m, 5m, 4h, 1d, 1w, 1mo, ...
            start: first time, inclusive: an aware time, a day (from midnight UTC), or either as ISO 8601 text.
            end: last time, exclusive; the same.
            version: version of the table, the current one by default.
            as_of: instead of `version`: the table as it was at a time.

        Raises:
            BadRequestError: an unknown interval, a time without a zone, or an empty span.
        """
        name = interval_of(str(interval)).name
        if name == "1m":
            return self._query("market.bars_1m", start, end, version, as_of)
        return replace(self._query("market.bars", start, end, version, as_of), _interval=name)

    def trades(
        self,
        start: date | datetime | str | None = None,
        end: date | datetime | str | None = None,
        *,
        version: int | None = None,
        as_of: datetime | str | None = None,
    ) -> MarketQuery:
        """Return the trades of `market.trades`; arguments as for `ohlcv`."""
        return self._query("market.trades", start, end, version, as_of)

    def closes(
        self,
        start: date | datetime | str | None = None,
        end: date | datetime | str | None = None,
        *,
        version: int | None = None,
        as_of: datetime | str | None = None,
    ) -> MarketQuery:
        """Return the daily closes of `market.closes`; arguments as for `ohlcv`, days from midnight UTC."""
        return self._query("market.closes", start, end, version, as_of)

    def _query(
        self,
        name: str,
        start: date | datetime | str | None,
        end: date | datetime | str | None,
        version: int | None,
        as_of: datetime | str | None,
        *conditions: pl.Expr,
    ) -> MarketQuery:
        first, last = moment(start, "start", days=True), moment(end, "end", days=True)
        if first is not None and last is not None and last <= first:
            raise BadRequestError(
                f"the span {first} to {last} is empty",
                where="end",
                hint="Give an end after the start: the end is exclusive.",
            )
        if version is not None:
            count(version, "version", least=0)
        conditions = (pl.col("symbol") == self.symbol, *conditions)
        if self.venue is not None:
            conditions = (*conditions, pl.col("venue") == self.venue)
        return MarketQuery(self, name, first, last, version, moment(as_of, "as_of"), conditions)


@dataclass(frozen=True)
class _QueryScope:
    """What of a table a query looks at."""

    contract: TableContract
    #: None for a table that nobody wrote yet.
    snapshot: Snapshot | None
    #: Positions of the files that may have rows of the query, by the value of their partition.
    files: dict[Any, list[int]]
    #: From the rows of files to those of the query.
    chosen: _Step
    #: Rows that are computed from others, of all files.
    computed: pl.LazyFrame | None = None

    @property
    def is_partitioned(self) -> bool:
        return self.computed is None and self.contract.partition_by is not None

    def rows(self, partitions: Sequence[Any] | None = None) -> pl.LazyFrame:
        """Return the rows of some partitions, or all.

        Raises:
            DamagedTableError: a file of theirs is missing.
        """
        if self.computed is not None:
            return self.computed
        positions = [at for value in (self.files if partitions is None else partitions) for at in self.files[value]]
        if self.snapshot is None or not positions:
            return self.chosen(self.contract.empty().lazy())
        self.snapshot.require(positions)
        return self.chosen(self.snapshot.scan(positions))


def _files_by_partition(
    snapshot: Snapshot, symbol: str, start: datetime | None, end: datetime | None
) -> dict[Any, list[int]]:
    """Return the positions of the files that may have rows of a symbol in a span, by the value of their partition."""
    by = snapshot.contract.partition_by
    first, last = partition_bounds(snapshot.contract, start, end)
    none = [None] * len(snapshot.names)
    columns = (snapshot.values(name) or none for name in (f"partition.{by}", "min.symbol", "max.symbol"))
    found: dict[Any, list[int]] = {}
    for at, (value, least, most) in enumerate(zip(*columns, strict=True)):
        outside = by is not None and ((first is not None and value < first) or (last is not None and value > last))
        if not outside and may_hold_text(symbol, least, most):
            found.setdefault(value, []).append(at)
    return found


@dataclass(frozen=True)
class MarketQuery:
    """Rows of one symbol at one venue, oldest first; nothing is read before `collect` or `lazy`.

    `tail` and `head` read partition by partition from their end and stop when they have enough.  For anything that
    is not here, `lazy()` is a plain `polars.LazyFrame`.
    """

    _market: Market
    _table: str
    _start: datetime | None
    _end: datetime | None
    _version: int | None
    _as_of: datetime | None
    _conditions: tuple[pl.Expr, ...]
    #: Of the bars, or None for rows of any other kind.
    _interval: str | None = None
    #: What is done to each row; then the limit; then what is done to the rows that it left.
    _steps: tuple[_Step, ...] = ()
    _limit: int | None = None
    _newest: bool = False
    _after: tuple[_Step, ...] = ()

    def filter(self, *predicates: pl.Expr) -> MarketQuery:
        """Keep the rows for which all predicates hold, each looking at its own row only."""
        return self._then(lambda rows: rows.filter(*predicates))

    def select(self, *columns: str | pl.Expr) -> MarketQuery:
        """Keep or compute columns, row by row."""
        return self._then(lambda rows: rows.select(*columns))

    def head(self, n: int = 5) -> MarketQuery:
        """Keep the oldest `n` rows."""
        n = count(n, "n")
        if self._limit is not None:
            return self._then(lambda rows: rows.head(n))
        return replace(self, _limit=n)

    def tail(self, n: int = 5) -> MarketQuery:
        """Keep the newest `n` rows."""
        n = count(n, "n")
        if self._limit is not None:
            return self._then(lambda rows: rows.tail(n))
        return replace(self, _limit=n, _newest=True)

    def collect(self) -> pl.DataFrame:
        """Read the rows, oldest first.

        Raises:
            UnknownSymbolError: no market table has the symbol; the message has its spelling, or what there is.
            AmbiguousVenueError: the rows are from several venues and none was chosen; the message names them.
            VersionUnavailableError: the version or time asked for is not readable (any more).
            DamagedTableError: a data file is missing.
        """
        venues: set[str] = set()
        blocks: list[pl.DataFrame] = []
        have = 0
        for rows in self._blocks(self._selection()):
            # The venues are looked at in the same pass over the files, before any filter of the caller's.
            found, block = pl.collect_all([rows.select(_VENUES), self._stepped(rows)])
            venues.update(found.to_series())
            self._require_one(venues)
            blocks.append(block)
            have += block.height
            if self._limit is not None and have >= self._limit:
                break
        if not venues:
            self._require_known()
        whole = pl.concat(reversed(blocks) if self._newest else blocks)
        if self._limit is not None:
            whole = whole.tail(self._limit) if self._newest else whole.head(self._limit)
        return _through(whole.lazy(), self._after).collect()

    def lazy(self) -> pl.LazyFrame:
        """Return the rows as a plain lazy frame, oldest first.  Which venues there are is looked up at once.

        Raises:
            AmbiguousVenueError: as `collect`.
        """
        if self._limit is not None:
            return self.collect().lazy()
        rows = self._selection().rows()
        venues = set(rows.select(_VENUES).collect().to_series())
        if not venues:
            self._require_known()
        self._require_one(venues)
        return self._stepped(rows)

    # -- internals --------------------------------------------------------------------------------------------

    @property
    def _contract(self) -> TableContract:
        return self._market.lake.table(self._table).contract

    def _then(self, step: _Step) -> MarketQuery:
        if self._limit is None:
            return replace(self, _steps=(*self._steps, step))
        return replace(self, _after=(*self._after, step))

    def _stepped(self, rows: pl.LazyFrame) -> pl.LazyFrame:
        # Of one symbol at one venue, so nothing else of the key is needed to put rows in order.
        time = self._contract.time_column or ""
        order = [time, *(name for name in ("trade_id",) if name in self._contract.primary_key)]
        return _through(rows.sort(order), self._steps)

    def _selection(self) -> _QueryScope:
        """Resolve the version once, and choose of it the files that may have rows of the query."""
        start, earliest = self._start, self._market.opened(self._table)
        if earliest is not None:
            start = earliest if start is None else max(start, earliest)
        table = self._market.lake.table(self._table)
        contract = table.contract
        conditions = [*self._conditions, between(contract, start, self._end)]
        in_order = _in_reading_order(contract)
        snapshot = table.opened(self._version, self._as_of)
        files = {} if snapshot is None else _files_by_partition(snapshot, self._market.symbol, start, self._end)
        every = _QueryScope(contract, snapshot, files, lambda rows: rows.filter(*conditions))
        if self._interval is None:
            return replace(every, chosen=lambda rows: rows.filter(*conditions).select(in_order))
        interval = pl.col("interval").cast(pl.String) == self._interval
        stored = replace(every, chosen=lambda rows: rows.filter(*conditions, interval).select(in_order))
        if stored.rows().select(pl.len()).head(1).collect(engine="streaming").item():
            return stored
        computed = bars_at(self._interval, every.rows())
        has = set(computed.collect_schema().names())
        return replace(every, computed=computed.select(name for name in in_order if name in has))

    def _blocks(self, selection: _QueryScope) -> Iterator[pl.LazyFrame]:
        """Yield all rows at once, or with a limit some partitions at a time from the end that it is at."""
        partitions = sorted(selection.files, reverse=self._newest) if selection.is_partitioned else []
        if self._limit is None or not partitions:
            yield selection.rows()
            return
        position, size = 0, 1
        while position < len(partitions):
            yield selection.rows(partitions[position : position + size])
            position, size = position + size, size * _GROWTH

    def _require_known(self) -> None:
        """Tell a symbol that nobody ever loaded from one without rows in this span."""
        lake, symbol = self._market.lake, self._market.symbol
        for name in _TABLES:
            rows = lake.table(name).scan().filter(pl.col("symbol") == symbol)
            if rows.select("symbol").head(1).collect().height:
                return
        known = known_symbols(lake)
        raise UnknownSymbolError(
            f"no market table has the symbol {symbol!r}", where="market", hint=nearest_symbol(symbol, known)
        )

    def _require_one(self, venues: set[str]) -> None:
        if len(venues) > 1:
            names = tuple(sorted(venues))
            raise AmbiguousVenueError(
                f"{self._market.symbol} is available from several venues: {', '.join(names)}",
                venues=names,
                where=self._table,
                hint=f"Choose one: market({self._market.symbol!r}, venue={names[0]!r}).",
            )


def _in_reading_order(contract: TableContract) -> list[str]:
    """Return the columns as people read them: time and prices first, then the rest, at last where it came from."""
    lead = [name for name in (contract.time_column, *_LEAD) if name in contract.column_names and name]
    last = [column.name for column in contract.columns if column.provenance]
    last += [contract.partition_by] if contract.partition_by and contract.partition_by != contract.time_column else []
    last = [name for name in dict.fromkeys(last) if name not in lead]
    rest = [name for name in contract.column_names if name not in {*lead, *last}]
    return [*lead, *rest, *last]


def _through(rows: pl.LazyFrame, steps: tuple[_Step, ...]) -> pl.LazyFrame:
    for step in steps:
        rows = step(rows)
    return rows
