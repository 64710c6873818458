"""From a vendor's parsed columns to canonical rows: times, symbols, sides, ids, bar ends.

The input has target names already (`ts`, `price`, `open`, ... see `mapping.CsvMapping`), as text or as
native types.  What cannot be translated is set aside by the sieve; what is merely wrong (a negative price,
NaN) passes: the contract's audit judges it.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Iterator
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Final

import polars as pl

from hfthot_platform.adapters.files.adapter import FileProbe, Recognised
from hfthot_platform.adapters.files.delimited import NO_VALUE, Sieve, gather
from hfthot_platform.adapters.files.mapping import CsvMapping
from hfthot_platform.adapters.files.times import TIME, Times, join_day_and_clock
from hfthot_platform.adapters.ports import Batch
from hfthot_platform.core.errors import BadRequestError, RejectedFileError
from hfthot_platform.core.intervals import canonical_name, close_times, of_distances, open_times
from hfthot_platform.core.intervals import interval as interval_of
from hfthot_platform.core.time import DAY
from hfthot_platform.domain.contracts.market import BARS, BARS_1M, TRADES
from hfthot_platform.domain.contracts.model import ROW_NUMBER
from hfthot_platform.domain.market import symbol_facts as facts
from hfthot_platform.domain.market.symbols import contract_of, from_vendor
from hfthot_platform.domain.market.trade_ids import synthetic_trade_id, venue_trade_id

__all__ = [
    "CRYPTO_ASSETS",
    "CRYPTO_BEGINS",
    "CRYPTO_VENUES",
    "REQUIRED",
    "Canonical",
    "bar_interval",
    "canonical_batches",
    "canonical_symbols",
    "interval_in_name",
    "is_crypto",
    "last_bar_open",
    "needs_unit",
]

#: Columns that every row of a table needs from its source.
REQUIRED: Final[dict[str, tuple[str, ...]]] = {
    TRADES.name: ("ts", "price", "amount"),
    BARS_1M.name: ("ts", "open", "high", "low", "close", "volume"),
    BARS.name: ("ts", "open", "high", "low", "close", "volume"),
}
_CONTRACTS: Final = {table.name: table for table in (TRADES, BARS_1M, BARS)}
_SIDES: Final = {
    **dict.fromkeys(("buy", "b", "bid", "buyer", "long", "taker_buy"), "buy"),
    **dict.fromkeys(("sell", "s", "a", "ask", "seller", "short", "taker_sell"), "sell"),
}
_PRICES: Final = ("open", "high", "low", "close")
#: Bitcoin's first block is of 2009-01-03: no market for crypto is older.
CRYPTO_BEGINS: Final = datetime(2009, 1, 1, tzinfo=UTC)
#: Epoch numbers of trades and of bars within a day come from electronic markets; older ones are cut off.
_EPOCHS_BEGIN: Final = datetime(1980, 1, 1, tzinfo=UTC)
#: The years that a time of Python's has; numbers beyond are no times.
_CALENDAR: Final = (datetime(1, 1, 1, tzinfo=UTC), datetime(9999, 12, 31, tzinfo=UTC))
#: How far the clock of a venue may be ahead of ours.
_AHEAD: Final = timedelta(minutes=5)
#: Venues of crypto only.
CRYPTO_VENUES: Final = frozenset(facts.FAMILIES)
#: Assets that are crypto whatever the venue.
CRYPTO_ASSETS: Final = facts.KNOWN_BASES | (frozenset(facts.DOLLARS) - {"USD"})
_CONTRACT: Final = re.compile(r"-(PERP|\d{6})$")
_INTERVAL_TOKEN: Final = re.compile(r"(?:^|[-_. ])(\d+(?:[mhdwM]|mo|[-_ ]?min))(?=$|[-_. ])")
#: Lengths that vendors offer; of two bars alone, another distance is rather a weekend.
_USUAL: Final = frozenset(
    ("1m", "2m", "3m", "5m", "10m", "15m", "30m", "1h", "2h", "3h", "4h", "6h", "8h", "12h", "1d", "1w", "1mo")
)
#: From here on a float no longer tells whole numbers apart.
_EXACT_FLOAT: Final = 2.0**53


def interval_in_name(name: str) -> str | None:
    """Return the bar length that a file name spells (`BTC_USDT-5m`), if any."""
    found = _INTERVAL_TOKEN.findall(name)
    return (canonical_name(found[0]) or found[0]) if found else None


def bar_interval(
    times: pl.DataFrame, name: str, *, declared: str | None = None, minutes: str | None = None, where: str
) -> str:
    """Return the length of the bars: what is declared or named if the times agree, else what the times show.

    Args:
        times: first rows, with `ts` (UTC) and, if the file has several, `symbol`.
        name: file name, which may spell the interval.
        declared: what the mapping says.
        minutes: what a number at the end of the name says, which is the length where nothing else is spelled.
        where: file name for messages.

    Raises:
        RejectedFileError: `unsupported_interval`, `unknown_interval` or `interval_mismatch`.
    """
    keys = ["symbol"] if "symbol" in times.columns else []
    gaps = times.sort([*keys, "ts"]).select(
        (pl.col("ts").diff().over(keys) if keys else pl.col("ts").diff()).dt.total_microseconds().alias("gap")
    )["gap"]
    gaps = gaps.filter(gaps > 0)
    named = declared or interval_in_name(name) or (minutes and canonical_name(minutes))
    if named is not None and canonical_name(named) is None:
        raise _unsupported(named, where)
    if gaps.len() == 0:
        if named is None:
            raise RejectedFileError(
                "unknown_interval",
                "a single bar does not show its length",
                where=where,
                hint="Declare `interval` in the mapping.",
            )
        return named
    if named is not None:
        # Of a pair that is seldom traded, two distances may be equal by chance; eight are not.
        few = 8 if minutes and not declared else 2
        _check_grid(gaps, named, where, said="the mapping" if declared else "the name", few=few)
        return named
    if shown := of_distances(gaps):
        if gaps.len() == 1 and shown.name not in _USUAL:
            raise RejectedFileError(
                "unknown_interval",
                f"two bars that are {shown.name} apart may be shorter, with a gap between them",
                where=where,
                hint="Declare `interval` in the mapping.",
            )
        return shown.name
    raise _unsupported(f"{int(gaps.min() or 0) / 1e6:g} s", where)  # type: ignore[arg-type]


def _check_grid(gaps: pl.Series, interval: str, where: str, *, said: str, few: int) -> None:
    """Refuse bars that lie on another grid than that of their length.

    Most distances are whole multiples of the length.  If all of them are whole multiples of a longer one, the bars
    are longer: `few` equal distances or eight of any kind are evidence, fewer are chance.
    """
    step = interval_of(interval).microseconds
    common = math.gcd(*gaps.to_list())
    shortest = f"{int(gaps.min()) / 1e6:g} s"  # type: ignore[arg-type]
    if interval_of(interval).months:
        shown = of_distances(gaps)
        if shown is not None and shown.months and interval_of(interval).months % shown.months == 0:
            return
    on_grid = (gaps % step == 0).sum() >= 0.75 * gaps.len()
    longer = common > step and ((gaps.len() >= few and gaps.n_unique() == 1) or gaps.len() >= 8)
    if on_grid and not longer:
        return
    raise RejectedFileError(
        "interval_mismatch",
        f"{said} says {interval}, but bars are {shortest} apart",
        where=where,
        hint="Correct the name, or `interval` in the mapping; without either, the times decide.",
    )


def _unsupported(interval: str, where: str) -> RejectedFileError:
    return RejectedFileError(
        "unsupported_interval",
        f"the bars are {interval} long",
        where=where,
        hint="Use a whole number of minutes, hours, days, weeks or months.",
    )


def is_crypto(symbol: str, venue: str) -> bool:
    """Return whether a symbol can have been traded since 2009 only."""
    base, _, quote = symbol.partition("-")
    return venue in CRYPTO_VENUES or bool({base, quote.partition("-")[0]} & CRYPTO_ASSETS)


def needs_unit(symbol: str, mapping: CsvMapping, table: str) -> str | None:
    """Return why amounts of a symbol cannot be read without `amount_unit`, or None.

    The contracts count amounts in the base asset.  Some venues count contracts or quote currency instead.
    """
    venue = mapping.venue or ""
    if mapping.amount_unit is not None or not _CONTRACT.search(symbol):
        return None
    contract = contract_of(venue, symbol)
    if contract.inverse is None:
        return f"amounts of {symbol} on {venue} may count contracts, quote currency or the asset"
    if table != TRADES.name and contract.amount_unit not in ("base", None):
        return f"volumes of {symbol} on {venue} may count contracts, quote currency or the asset"
    if contract.amount_unit == "contract" and contract.contract_size is None:
        return f"amounts of {symbol} on {venue} count contracts of unknown size"
    return None


class _Arrivals:
    """Counts trades of the same symbol and time in file order, across blocks, in bounded memory.

    The counts of the previous block are kept, so times may be out of order by as much as a block.  A row
    that goes back further has no known rank (null).
    """

    def __init__(self) -> None:
        self._recent = pl.DataFrame(schema={"symbol": pl.String, "ts": TIME, "n": pl.Int64})
        self._spans = pl.DataFrame(schema={"symbol": pl.String, "low": TIME, "high": TIME})

    def rank(self, rows: pl.DataFrame) -> pl.Series:
        """Return each row's rank from 0; null where the row is too far out of order."""
        keys = ["symbol", "ts"]
        ranked = (
            _ranked(rows.select(keys))
            .join(self._recent, on=keys, how="left", maintain_order="left")
            .join(self._spans, on="symbol", how="left", maintain_order="left")
            .with_columns(
                pl.when(pl.col("n").is_null() & pl.col("ts").is_between("low", "high"))
                .then(None)
                .otherwise(pl.col("k") + pl.col("n").fill_null(0))
                .alias("rank")
            )
        )
        counts = ranked.filter(pl.col("rank").is_not_null()).group_by(keys).agg(pl.col("rank").max() + 1)
        counts = counts.rename({"rank": "n"})
        passed = self._recent.join(counts, on=keys, how="anti")
        self._spans = (
            pl.concat([self._spans, passed.select("symbol", pl.col("ts").alias("low"), pl.col("ts").alias("high"))])
            .group_by("symbol")
            .agg(pl.col("low").min(), pl.col("high").max())
        )
        self._recent = counts
        return ranked["rank"]


def _ranked(keys: pl.DataFrame) -> pl.DataFrame:
    """Return `keys` (symbol, ts) with `k`, each row's position from 0 among its equals, in arrival order.

    Sorting makes equals neighbours: ten times as fast as a window over a million groups.
    """
    place = pl.int_range(pl.len(), dtype=pl.Int64)
    columns = keys.columns
    in_order = keys.with_columns(place.alias("_arrival")).sort(columns, maintain_order=True)
    differs = pl.any_horizontal(pl.col(column).ne_missing(pl.col(column).shift(1)) for column in columns)
    begins = (differs | (place == 0)).alias("_begins")
    return (
        in_order.with_columns(begins)
        .with_columns((place - pl.when("_begins").then(place).forward_fill()).alias("k"))
        .sort("_arrival")
        .drop("_arrival", "_begins")
    )


class Canonical:
    """Turns sieves of target columns into canonical rows of one table; holds what must last across blocks.

    Args:
        mapping: complete, as `csv.complete` returns it.
        table: the target.
        source_ref: provenance of the rows.
        where: the file, for messages.
        now: nothing can have been traded after it; None where the time of reading is not known.
    """

    def __init__(
        self, mapping: CsvMapping, table: str, *, source_ref: str, where: str, now: datetime | None = None
    ) -> None:
        self._mapping = mapping
        self._table = table
        self._source_ref = source_ref
        self._where = where
        self._arrivals = _Arrivals()
        self._now = now
        self._short_clock: bool | None = None
        self._signed = mapping.signed
        self.times = Times(mapping.time, mapping.zone, where=where, bars=table != TRADES.name)
        self._times_received = Times("auto", mapping.zone, where=where)

    def apply(self, sieve: Sieve) -> Sieve:
        """Translate the rows of the sieve in place, and return it."""
        if self._table != TRADES.name:
            # A bar without any price says that nothing was traded.
            sieve.skip(pl.all_horizontal(pl.col(name).is_nan() | pl.col(name).is_null() for name in _PRICES))
        if {"date", "time"} & set(sieve.rows.columns):
            day = self._mapping.date.isoformat() if self._mapping.date else None
            sieve.rows, self._short_clock = join_day_and_clock(sieve.rows, day, short=self._short_clock)
        self.times.read(sieve)
        if "ts_received" in sieve.rows.columns:
            self._receive(sieve)
        self._name(sieve)
        self._check_times(sieve)
        if self._table == TRADES.name:
            self._trades(sieve)
        else:
            self._bars(sieve)
        sieve.rows = sieve.rows.with_columns(
            pl.lit(self._mapping.venue).alias("venue"),
            pl.lit(self._mapping.source).alias("source"),
            pl.lit(self._source_ref).alias("source_ref"),
        )
        contract = _CONTRACTS[self._table]
        present = [
            pl.col(name).cast(dtype, strict=False)
            for name, dtype in contract.polars_schema.items()
            if name in sieve.rows.columns and name not in (contract.partition_by, "schema_version")
        ]
        sieve.rows = sieve.rows.select(*present, ROW_NUMBER)
        return sieve

    def _receive(self, sieve: Sieve) -> None:
        """Read the local clock of a recording; a row without a readable one keeps its trade."""
        part = Sieve(sieve.rows.select("ts_received", ROW_NUMBER), lambda rows: pl.repeat("", rows.height, eager=True))
        try:
            self._times_received.read(part, "ts_received")
        except RejectedFileError:
            sieve.rows = sieve.rows.drop("ts_received")
            return
        readable = part.rows.filter(pl.col("ts_received").is_between(*_CALENDAR))
        sieve.rows = sieve.rows.drop("ts_received").join(readable, on=ROW_NUMBER, how="left", maintain_order="left")

    def _check_times(self, sieve: Sieve) -> None:
        """Set aside times at which nothing can have been traded."""
        far = pl.format("ts is {} microseconds from 1970", pl.col("ts").to_physical())
        sieve.reject(~pl.col("ts").is_between(*_CALENDAR), "time_out_of_range", far)
        rows = sieve.rows
        if rows.height == 0:
            return
        low, high = rows.select(pl.col("ts").min().alias("low"), pl.col("ts").max().alias("high")).row(0)
        detail = pl.col("ts").dt.strftime("ts is %Y-%m-%d %H:%M:%S")
        if self._now is not None and high is not None and high > self._now + _AHEAD:
            late = pl.format(f"{{}}, after the time of reading ({self._now:%Y-%m-%d %H:%M})", detail)
            sieve.reject(pl.col("ts") > self._now + _AHEAD, "time_ahead", late)
        if low is None or low >= CRYPTO_BEGINS:
            return
        venue = self._mapping.venue or ""
        crypto = {name: is_crypto(name, venue) for name in rows["symbol"].unique()}
        early = pl.col("symbol").replace_strict(crypto, return_dtype=pl.Boolean) & (pl.col("ts") < CRYPTO_BEGINS)
        reason = "truncated_epoch" if self.times.is_epoch else "time_too_early"
        sieve.reject(early, reason, pl.format("{}, before there was a market for crypto", detail))
        declared = self._mapping.interval
        within_a_day = self._table != BARS.name or declared is None or interval_of(declared).microseconds < DAY
        if self.times.is_epoch and within_a_day:
            early = pl.col("ts") < _EPOCHS_BEGIN
            sieve.reject(early, "truncated_epoch", pl.format("{}: digits of the epoch are missing", detail))

    def _name(self, sieve: Sieve) -> None:
        perpetual, venue = self._mapping.is_perpetual, self._mapping.venue or ""
        if "symbol" not in sieve.rows.columns:
            assert self._mapping.symbol is not None
            symbol = from_vendor(self._mapping.symbol, perpetual=perpetual, venue=venue)
            sieve.rows = sieve.rows.with_columns(pl.lit(symbol).alias("symbol"))
            return
        canonical_symbols(sieve, venue, perpetual=perpetual)

    def _trades(self, sieve: Sieve) -> None:
        columns = sieve.rows.columns
        if "maker_buys" in columns:
            flag = pl.col("maker_buys")
            sieve.rows = sieve.rows.with_columns(
                pl.when(flag).then(pl.lit("sell")).when(~flag).then(pl.lit("buy")).alias("side")
            )
        elif "side" in columns:
            words = {**_SIDES, **{word.lower(): side for word, side in self._mapping.sides.items()}}
            word = pl.col("side").cast(pl.String).str.to_lowercase()
            word = word.replace(list(NO_VALUE), [None] * len(NO_VALUE))
            # An unknown word passes as it is: the contract's audit names it.
            sieve.rows = sieve.rows.with_columns(word.replace(words).alias("side"))
        self._sign(sieve)
        self._in_base(sieve)
        columns = sieve.rows.columns
        if "trade_id" in columns:
            self._read_ids(sieve)
            missing = sieve.rows["trade_id"].is_null()
            if not missing.any():
                sieve.rows = sieve.rows.with_columns(venue_trade_id(pl.col("trade_id")))
                return
        # Ranks count all trades of a time, with and without an id: that order does not depend on the ids.
        rank = self._arrivals.rank(sieve.rows)
        sieve.rows = sieve.rows.with_columns(rank.alias("_rank"))
        synthetic = synthetic_trade_id(pl.col("ts"), pl.col("_rank"), resolution_us=self.times.resolution_us)
        if "trade_id" in columns:
            has_id = pl.col("trade_id").is_not_null()
            trade_id = pl.when(has_id).then(venue_trade_id(pl.col("trade_id"))).otherwise(synthetic)
            lost = ~has_id & pl.col("_rank").is_null()
        else:
            trade_id, lost = synthetic, pl.col("_rank").is_null()
        sieve.reject(
            lost, "out_of_order", "the trade has no id and is long before the trades above it; sort the file by time"
        )
        sieve.rows = sieve.rows.with_columns(trade_id.alias("trade_id"))

    def _read_ids(self, sieve: Sieve) -> None:
        """Turn ids into text; whole numbers that passed through a float are themselves again."""
        raw = sieve.rows["trade_id"]
        value = pl.col("trade_id")
        if raw.dtype.is_integer():
            sieve.rows = sieve.rows.with_columns(value.cast(pl.String))
            return
        if raw.dtype.is_float():
            lost = value.abs() >= _EXACT_FLOAT
            sieve.reject(lost, "unparsable_value", "trade_id was stored as a float and lost digits")
            whole = pl.when(value == value.round()).then(value.cast(pl.Int64, strict=False).cast(pl.String))
            known = pl.when(value.is_finite()).then(value.cast(pl.String))
            sieve.rows = sieve.rows.with_columns(pl.coalesce(whole, known).alias("trade_id"))
            return
        sieve.rows = sieve.rows.with_columns(value.cast(pl.String).str.strip_chars())
        if sieve.rows["trade_id"].str.contains(r"[.eE+]").any():
            sieve.rows = sieve.rows.with_columns(value.str.replace(r"^(\d+)\.0*$", "${1}"))
            # 1.234567E+09 has all its digits only if there are as many as the exponent says.
            power = value.str.contains(r"^\d(\.\d+)?[eE]\+?\d{1,2}$")
            digits = value.str.extract(r"^\d\.?(\d*)").str.len_chars()
            exact = digits >= value.str.extract(r"[eE]\+?(\d{1,2})$").cast(pl.UInt32, strict=False)
            sieve.reject(power & ~exact, "unparsable_value", "trade_id is rounded: its last digits are lost")
            number = value.cast(pl.Float64, strict=False).cast(pl.Int64, strict=False).cast(pl.String)
            sieve.rows = sieve.rows.with_columns(pl.when(power).then(number).otherwise(value).alias("trade_id"))
        none = value.str.to_lowercase().is_in(NO_VALUE)
        sieve.rows = sieve.rows.with_columns(pl.when(~none).then(value).alias("trade_id"))

    def _sign(self, sieve: Sieve) -> None:
        """Take the sign of the amount as the taker's side, where that is how the file tells it."""
        amount = pl.col("amount")
        if self._signed is None and sieve.rows.height:
            has_side = {"side", "maker_buys"} & set(sieve.rows.columns)
            self._signed = not has_side and bool((sieve.rows["amount"] < 0).any())
        if "side" in sieve.rows.columns:
            agrees = (amount < 0) & (pl.col("side") == "sell")
            if self._signed is not False:
                sieve.rows = sieve.rows.with_columns(pl.when(agrees).then(-amount).otherwise(amount).alias("amount"))
        elif self._signed:
            side = pl.when(amount < 0).then(pl.lit("sell")).when(amount > 0).then(pl.lit("buy"))
            sieve.rows = sieve.rows.with_columns(side.alias("side"), amount.abs().alias("amount"))

    def _in_base(self, sieve: Sieve) -> None:
        """Convert amounts that count contracts or quote currency."""
        rows = sieve.rows
        if rows.height == 0:
            return
        names = rows["symbol"].unique().drop_nulls()
        unclear = {name: why for name in names if (why := needs_unit(name, self._mapping, self._table)) is not None}
        if unclear:
            unknown = pl.col("symbol").replace_strict(unclear, default=None, return_dtype=pl.String)
            hint = "declare `amount_unit` (base, quote, or contracts with contract_size and contract_unit)"
            sieve.reject(unknown.is_not_null(), "unknown_amount_unit", pl.format(f"{{}}; {hint}", unknown))
        price = pl.mean_horizontal(_PRICES) if self._table != TRADES.name else pl.col("price")
        factors = {name: self._units(name) for name in names if name not in unclear}
        if all(factor == (1.0, "base") for factor in factors.values()):
            return
        size = pl.col("symbol").replace_strict(
            {symbol: size for symbol, (size, _) in factors.items()}, return_dtype=pl.Float64
        )
        in_quote = pl.col("symbol").is_in([symbol for symbol, (_, unit) in factors.items() if unit == "quote"])
        converted = []
        for name in ("amount", "volume", "buy_volume"):
            if name in rows.columns:
                value = pl.col(name) * size
                converted.append(pl.when(in_quote).then(value / price).otherwise(value).alias(name))
        if self._table != TRADES.name and "quote_volume" not in rows.columns:
            converted.append(pl.when(in_quote).then(pl.col("volume") * size).alias("quote_volume"))
        sieve.rows = sieve.rows.with_columns(converted)

    def _units(self, symbol: str) -> tuple[float, str]:
        """Return what one unit of the amount is worth, and in what (base or quote)."""
        mapping = self._mapping
        if mapping.amount_unit == "contracts":
            return mapping.contract_size or 1.0, mapping.contract_unit or "base"
        if mapping.amount_unit is not None:
            return 1.0, mapping.amount_unit
        if not _CONTRACT.search(symbol):
            return 1.0, "base"
        contract = contract_of(mapping.venue or "", symbol)
        if contract.amount_unit == "contract":
            return contract.contract_size or 1.0, "quote" if contract.inverse else "base"
        return 1.0, contract.amount_unit or "base"

    def _bars(self, sieve: Sieve) -> None:
        if "volume" not in sieve.rows.columns:
            sieve.rows = sieve.rows.with_columns(pl.lit(None, pl.Float64).alias("volume"))
        self._in_base(sieve)
        if "interval" in sieve.rows.columns:
            spelled = sieve.rows["interval"].cast(pl.String)
            names = {word: canonical_name(word) for word in spelled.unique().drop_nulls()}
            named = pl.col("interval").cast(pl.String).replace_strict(names, default=None, return_dtype=pl.String)
            detail = pl.format("interval {}", pl.col("interval").cast(pl.String).fill_null("empty"))
            sieve.reject(named.is_null() | (named == "1m"), "unsupported_interval", detail)
            sieve.rows = sieve.rows.with_columns(named.alias("interval"))
            known = sieve.rows["interval"].unique().to_list()
        else:
            assert self._mapping.interval is not None
            known = [self._mapping.interval]
            if self._table == BARS.name:
                sieve.rows = sieve.rows.with_columns(pl.lit(self._mapping.interval).alias("interval"))
        name = pl.col("interval") if "interval" in sieve.rows.columns else pl.lit(known[0])
        if self._mapping.stamp == "close":
            sieve.rows = sieve.rows.with_columns(open_times(pl.col("ts"), name, known).alias("ts"))
        as_of: datetime | None = self._mapping.as_of
        sieve.rows = sieve.rows.with_columns(
            close_times(pl.col("ts"), name, known).alias("ts_close"), pl.lit("vendor").alias("origin")
        ).with_columns((pl.col("ts_close") <= as_of if as_of else pl.lit(value=True)).alias("final"))


def canonical_symbols(sieve: Sieve, venue: str, *, perpetual: bool = False) -> None:
    """Write the symbols of a venue's rows canonically; set aside the rows of unknown ones."""
    names, refused = {}, {}
    given = pl.col("symbol").cast(pl.String)
    for name in sieve.rows.select(given.unique()).to_series().drop_nulls():
        try:
            names[name] = from_vendor(name, perpetual=perpetual, venue=venue)
        except BadRequestError as error:
            refused[name] = f"{error.what}. {error.hint}"
    known = given.replace_strict(names, default=None, return_dtype=pl.String)
    why = given.replace_strict(refused, default=None, return_dtype=pl.String)
    sieve.reject(known.is_null(), "unknown_symbol", pl.format("symbol {}", why.fill_null("is empty")))
    sieve.rows = sieve.rows.with_columns(known.alias("symbol"))


def canonical_batches(
    sieves: Iterable[Sieve], mapping: CsvMapping, probe: FileProbe, claim: Recognised, source_ref: str, batch_rows: int
) -> Iterator[Batch]:
    """Yield the canonical rows of a file's sieves; of bars, those whose end the file does not prove are not final."""
    canonical = Canonical(mapping, claim.table, source_ref=source_ref, where=probe.name, now=probe.now)
    batches = gather((canonical.apply(sieve) for sieve in sieves), claim.table, source_ref, batch_rows)
    yield from last_bar_open(batches) if claim.table != TRADES.name and mapping.as_of is None else batches


def last_bar_open(batches: Iterable[Batch]) -> Iterator[Batch]:
    """Mark the latest bar of each symbol as not final, and the batches as `unproven`.

    A file that does not say when it was made cannot prove that its latest bar was closed: vendors append
    the running bar.  One batch is held back to know whether a later one follows.
    """
    held: Batch | None = None
    highest = pl.DataFrame()
    keys = ["symbol"]
    for batch in batches:
        if "interval" in batch.rows.columns:
            keys = ["symbol", "interval"]
        latest = batch.rows.group_by(keys).agg(pl.col("ts").max().alias("_latest"))
        highest = pl.concat([highest, latest], how="diagonal").group_by(keys).agg(pl.col("_latest").max())
        if held is not None:
            yield _without(held, highest, keys)
        held = batch
    if held is not None:
        yield _without(held, highest, keys)


def _without(batch: Batch, highest: pl.DataFrame, keys: list[str]) -> Batch:
    rows = (
        batch.rows.join(highest, on=keys, how="left", maintain_order="left")
        .with_columns(pl.col("final") & (pl.col("ts") != pl.col("_latest")).fill_null(value=True))
        .drop("_latest")
    )
    return replace(batch, rows=rows, unproven=True)
