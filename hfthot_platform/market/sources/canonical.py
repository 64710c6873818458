"""From a vendor's parsed columns to canonical rows: times, symbols, sides, ids, bar ends.

The input has target names already (`ts`, `price`, `open`, ... see `mapping.CsvMapping`), as text or as
native types.  What cannot be translated is set aside by the sieve; what is merely wrong (a negative price,
NaN) passes: the contract's audit judges it.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from dataclasses import replace
from datetime import datetime
from typing import Final

import polars as pl

from hfthot_platform.contracts.market import BARS, BARS_1M, INTERVALS, TRADES
from hfthot_platform.errors import BadRequestError, RejectedFileError
from hfthot_platform.market.sources.base import ROW_NUMBER, Batch
from hfthot_platform.market.sources.delimited import Sieve
from hfthot_platform.market.sources.mapping import CsvMapping
from hfthot_platform.market.symbols import from_vendor
from hfthot_platform.market.trade_ids import synthetic_trade_id, venue_trade_id

__all__ = [
    "INTERVAL_US",
    "REQUIRED",
    "TIME",
    "UNIT_US",
    "Canonical",
    "Times",
    "bar_interval",
    "interval_in_name",
    "last_bar_open",
    "to_time",
    "unit_of",
]

TIME: Final = pl.Datetime("us", "UTC")
INTERVAL_US: Final[dict[str, int]] = {"1m": 60_000_000, **INTERVALS}
#: Columns that every row of a table needs from its source.
REQUIRED: Final[dict[str, tuple[str, ...]]] = {
    TRADES.name: ("ts", "price", "amount"),
    BARS_1M.name: ("ts", "open", "high", "low", "close", "volume"),
    BARS.name: ("ts", "open", "high", "low", "close", "volume"),
}
_CONTRACTS: Final = {each.name: each for each in (TRADES, BARS_1M, BARS)}
#: Microseconds per unit; nanoseconds divide instead.
UNIT_US: Final = {"s": 1_000_000, "ms": 1000, "us": 1}
#: Text formats that `auto` tries; the first one that reads most of the first rows wins.
_FORMATS: Final = (
    *("%Y-%m-%d %H:%M:%S%.f%#z", "%Y-%m-%dT%H:%M:%S%.f%#z", "%Y-%m-%d %H:%M%#z"),
    *("%Y-%m-%d %H:%M:%S%.f", "%Y-%m-%dT%H:%M:%S%.f", "%Y-%m-%d %H:%M", "%Y-%m-%dT%H:%M", "%Y-%m-%d"),
    *("%Y-%m-%d %I-%p", "%Y-%m-%d %I:%M %p", "%Y/%m/%d %H:%M:%S", "%Y%m%d %H:%M", "%Y%m%d"),
)
_HAS_OFFSET: Final = re.compile("%[:#]?z")
_HAS_HOUR: Final = re.compile("%[HIkl]")
_HAS_MINUTE: Final = re.compile("%[MTRXcr+s]")
_SUBSECOND: Final = re.compile(r"%[.0-9]*f")
_SIDES: Final = {"buy": "buy", "b": "buy", "bid": "buy", "sell": "sell", "s": "sell", "ask": "sell"}
_INTERVAL_TOKEN: Final = re.compile(r"(?:^|[-_. ])(\d+[mhdwM])(?=$|[-_. ])")


def unit_of(value: pl.Expr) -> pl.Expr:
    """Return the unit of epoch times judged by magnitude: s, ms, us or ns (1973 to 5138)."""
    size = value.abs()
    return (
        pl.when(size < 10**11)
        .then(pl.lit("s"))
        .when(size < 10**14)
        .then(pl.lit("ms"))
        .when(size < 10**17)
        .then(pl.lit("us"))
        .when(size.is_not_null())
        .then(pl.lit("ns"))
    )


def to_time(value: pl.Expr, unit: str) -> pl.Expr:
    """Return epoch numbers of a unit (integers, or floats of seconds) as UTC microseconds."""
    us = value.cast(pl.Int64) // 1000 if unit == "ns" else (value * UNIT_US[unit])
    return us.round().cast(pl.Int64).cast(TIME)


class Times:
    """Reads one file's time column; settles on unit or format at the first rows, and holds the rest to it."""

    def __init__(self, spec: str = "auto", zone: str = "UTC", *, where: str = "") -> None:
        self._spec = spec
        self._zone = zone
        self._where = where
        #: The settled unit (s, ms, us, ns) or strftime format; None before the first rows.
        self.form: str | None = None if spec == "auto" else spec
        self._whole_numbers = True

    @property
    def resolution_us(self) -> int:
        """Return the file's time step in microseconds, as far as its form shows it."""
        if self.form in UNIT_US:
            return UNIT_US[self.form] if self._whole_numbers else 1
        if self.form is None or self.form == "ns" or _SUBSECOND.search(self.form):
            return 1
        return 1_000_000

    def read(self, sieve: Sieve, column: str = "ts") -> None:
        """Turn `column` of the sieve's rows into UTC microseconds.

        Rows are set aside as `mixed_time_unit`, `unparsable_value` or `ambiguous_local_time`.

        Raises:
            RejectedFileError: `unrecognised_time`, no known unit or format fits the first rows.
        """
        values = sieve.rows[column]
        if isinstance(values.dtype, (pl.Datetime, pl.Date)):
            sieve.rows = sieve.rows.with_columns(_utc(pl.col(column), values.dtype, self._zone))
            self._hold(sieve, column, pl.lit(None, pl.String))
            return
        if values.len() == 0:
            sieve.rows = sieve.rows.with_columns(pl.lit(None, TIME).alias(column))
            return
        if self.form is None:
            self.form = self._settle(values)
        if self.form in (*UNIT_US, "ns"):
            self._numbers(sieve, column)
        else:
            self._text(sieve, column)

    def _settle(self, values: pl.Series) -> str:
        known = values.drop_nulls()
        numbers = _numeric(known)
        if numbers.null_count() * 2 < known.len():
            self._whole_numbers = numbers.dtype == pl.Int64
            units = numbers.drop_nulls().to_frame("v").select(unit_of(pl.col("v"))).to_series()
            compact = units.len() > 0 and units.mode()[0] == "s" and _looks_like_days(known)
            if not compact:
                return str(units.value_counts(sort=True).row(0)[0])
        text = known.head(1000).cast(pl.String)
        best = max(_FORMATS, key=lambda form: _parse_text(text, form).count())
        if _parse_text(text, best).count() * 2 <= text.len():
            raise RejectedFileError(
                "unrecognised_time",
                f"no known unit or format of time fits {text[0]!r}" if text.len() else "the time column is empty",
                where=self._where,
                hint="Declare `time` in the mapping: s, ms, us, ns or a strftime format.",
            )
        return best

    def _numbers(self, sieve: Sieve, column: str) -> None:
        assert self.form is not None
        raw = sieve.rows[column]
        sieve.rows = sieve.rows.with_columns(_numeric(raw).alias(column))
        if raw.dtype == pl.String:
            text = pl.lit(raw)
            sieve_bad = pl.col(column).is_null() & text.is_not_null()
            sieve.reject(sieve_bad, "unparsable_value", f"{column} is not a number")
        value = pl.col(column)
        if self._spec == "auto":
            other = unit_of(value) != self.form
        else:
            other = value.abs() > (9.2e18 / UNIT_US.get(self.form, 1))  # beyond the range of the type
        sieve.reject(other, "mixed_time_unit", pl.format(f"{column} is {{}}, not in {self.form}", value))
        sieve.reject(~value.is_finite(), "unparsable_value", f"{column} is not a finite number")
        sieve.reject(value.is_null(), "missing_value", f"{column} is empty")
        sieve.rows = sieve.rows.with_columns(to_time(value, self.form))

    def _text(self, sieve: Sieve, column: str) -> None:
        assert self.form is not None
        raw = sieve.rows[column].cast(pl.String)
        parsed = _parse_text(raw, self.form)
        sieve.rows = sieve.rows.with_columns(parsed.alias(column), raw.alias("_raw"))
        sieve.reject(
            pl.col(column).is_null() & pl.col("_raw").is_not_null(),
            "unparsable_value",
            pl.format(f"{column} is {{}}, not of the form {self.form}", pl.col("_raw")),
        )
        sieve.reject(pl.col(column).is_null(), "missing_value", f"{column} is empty")
        sieve.rows = sieve.rows.with_columns(_utc(pl.col(column), sieve.rows.schema[column], self._zone))
        self._hold(sieve, column, pl.col("_raw"))
        sieve.rows = sieve.rows.drop("_raw")

    def _hold(self, sieve: Sieve, column: str, raw: pl.Expr) -> None:
        sieve.reject(
            pl.col(column).is_null(),
            "ambiguous_local_time",
            pl.format(f"{{}} happens twice or never in {self._zone} (clock change)", raw.fill_null("the time")),
        )


def _looks_like_days(values: pl.Series) -> bool:
    """Return whether numbers are rather dates such as 20240131."""
    return bool(values.cast(pl.String).str.contains(r"^(19|20)\d{6}$").all())


def _numeric(values: pl.Series) -> pl.Series:
    """Return integers where all values are, else floats; null where a text is no number."""
    if values.dtype.is_integer():
        return values.cast(pl.Int64)
    if values.dtype.is_float():
        # Whole numbers, as pandas makes of integers beside a missing value.
        return values.cast(pl.Int64) if values.drop_nulls().eq(values.drop_nulls().round()).all() else values
    whole = values.cast(pl.Int64, strict=False)
    if whole.null_count() == values.null_count():
        return whole
    floats = values.cast(pl.Float64, strict=False)
    # Integers beside junk stay exact integers; a float of nanoseconds would lose digits.
    return whole if whole.null_count() == floats.null_count() else floats


def _parse_text(text: pl.Series, form: str) -> pl.Series:
    if _HAS_HOUR.search(form) and not _HAS_MINUTE.search(form):
        text, form = text + "|00", form + "|%M"  # the parser wants a minute beside an hour
    aware = "UTC" if _HAS_OFFSET.search(form) else None
    return text.str.to_datetime(form, time_unit="us", time_zone=aware, strict=False)


def _utc(value: pl.Expr, dtype: pl.DataType, zone: str) -> pl.Expr:
    """Return times as UTC; local times that are ambiguous or do not exist become null."""
    if isinstance(dtype, pl.Datetime) and dtype.time_zone is not None:
        return value.dt.convert_time_zone("UTC").dt.cast_time_unit("us")
    local = value.cast(pl.Datetime("us"))
    return local.dt.replace_time_zone(zone, ambiguous="null", non_existent="null").dt.convert_time_zone("UTC")


def interval_in_name(name: str) -> str | None:
    """Return the bar length that a file name spells (`BTC_USDT-5m`), if any."""
    found = _INTERVAL_TOKEN.findall(name)
    return found[0] if found else None


def bar_interval(times: pl.DataFrame, name: str, *, where: str) -> str:
    """Return the length of the bars: what the name says if the times agree, else what the times show.

    Args:
        times: first rows, with `ts` (UTC) and, if the file has several, `symbol`.
        name: file name, which may spell the interval.
        where: file name for messages.

    Raises:
        RejectedFileError: `unsupported_interval`, `unknown_interval` or `interval_mismatch`.
    """
    keys = ["symbol"] if "symbol" in times.columns else []
    gaps = times.sort([*keys, "ts"]).select(
        (pl.col("ts").diff().over(keys) if keys else pl.col("ts").diff()).dt.total_microseconds().alias("gap")
    )["gap"]
    gaps = gaps.filter(gaps > 0)
    named = interval_in_name(name)
    if named is not None and named not in INTERVAL_US:
        raise _unsupported(named, where)
    if gaps.len() == 0:
        if named is None:
            raise RejectedFileError(
                "unknown_interval",
                "one bar alone does not show its length",
                where=where,
                hint="Declare `interval` in the mapping.",
            )
        return named
    candidates = [named] if named else sorted(INTERVAL_US, key=lambda each: -INTERVAL_US[each])
    for each in candidates:
        step = INTERVAL_US[each]
        on_grid = (gaps % step == 0).sum() >= 0.9 * gaps.len()
        if on_grid and (named or (gaps == step).any()):
            return each
    shortest = f"{int(gaps.min() or 0) / 1e6:g} s"  # type: ignore[arg-type]
    if named:
        raise RejectedFileError(
            "interval_mismatch",
            f"the name says {named}, but bars are {shortest} apart",
            where=where,
            hint="Correct the name, or declare `interval` in the mapping.",
        )
    raise _unsupported(shortest, where)


def _unsupported(interval: str, where: str) -> RejectedFileError:
    return RejectedFileError(
        "unsupported_interval",
        f"bars of {interval}",
        where=where,
        hint=f"Supported: {', '.join(INTERVAL_US)}; others derive from 1m bars.",
    )


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
    differs = pl.any_horizontal(pl.col(each).ne_missing(pl.col(each).shift(1)) for each in columns)
    begins = (differs | (place == 0)).alias("_begins")
    return (
        in_order.with_columns(begins)
        .with_columns((place - pl.when("_begins").then(place).forward_fill()).alias("k"))
        .sort("_arrival")
        .drop("_arrival", "_begins")
    )


class Canonical:
    """Turns sieves of target columns into canonical rows of one table; holds what must last across blocks."""

    def __init__(self, mapping: CsvMapping, table: str, *, source_ref: str, where: str) -> None:
        self._mapping = mapping
        self._table = table
        self._source_ref = source_ref
        self._where = where
        self._arrivals = _Arrivals()
        self.times = Times(mapping.time, mapping.zone, where=where)
        self._times_received = Times(mapping.time, mapping.zone, where=where)

    def apply(self, sieve: Sieve) -> Sieve:
        """Translate the rows of the sieve in place, and return it."""
        self.times.read(sieve)
        if "ts_received" in sieve.rows.columns:
            self._times_received.read(sieve, "ts_received")
        self._name(sieve)
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

    def _name(self, sieve: Sieve) -> None:
        perpetual, venue = self._mapping.is_perpetual, self._mapping.venue or ""
        if "symbol" not in sieve.rows.columns:
            assert self._mapping.symbol is not None
            symbol = from_vendor(self._mapping.symbol, perpetual=perpetual, venue=venue)
            sieve.rows = sieve.rows.with_columns(pl.lit(symbol).alias("symbol"))
            return
        names, refused = {}, {}
        for name in sieve.rows["symbol"].cast(pl.String).unique().drop_nulls():
            try:
                names[name] = from_vendor(name, perpetual=perpetual, venue=venue)
            except BadRequestError as error:
                refused[name] = f"{error.what}. {error.hint}"
        known = pl.col("symbol").cast(pl.String).replace_strict(names, default=None, return_dtype=pl.String)
        why = pl.col("symbol").cast(pl.String).replace_strict(refused, default=None, return_dtype=pl.String)
        detail = pl.format("symbol {}", why.fill_null("is empty"))
        sieve.reject(known.is_null(), "unknown_symbol", detail)
        sieve.rows = sieve.rows.with_columns(known.alias("symbol"))

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
            # An unknown word passes as it is: the contract's audit names it.
            sieve.rows = sieve.rows.with_columns(word.replace(words).alias("side"))
        if "trade_id" in columns:
            raw = sieve.rows["trade_id"]
            text = (_numeric(raw) if raw.dtype.is_float() else raw).cast(pl.String).str.strip_chars()
            sieve.rows = sieve.rows.with_columns(
                text.replace(["", "None", "nan"], [None, None, None]).alias("trade_id")
            )
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
            lost, "out_of_order", "a trade without an id, long before the trades above it; sort the file by time"
        )
        sieve.rows = sieve.rows.with_columns(trade_id.alias("trade_id"))

    def _bars(self, sieve: Sieve) -> None:
        if "interval" in sieve.rows.columns:
            known = pl.col("interval").cast(pl.String)
            detail = pl.format("interval {}", known.fill_null("empty"))
            sieve.reject(~known.is_in(list(INTERVALS)).fill_null(value=False), "unsupported_interval", detail)
            length = known.replace_strict(INTERVALS, default=None, return_dtype=pl.Int64)
        else:
            assert self._mapping.interval is not None
            length = pl.lit(INTERVAL_US[self._mapping.interval])
            if self._table == BARS.name:
                sieve.rows = sieve.rows.with_columns(pl.lit(self._mapping.interval).alias("interval"))
        as_of: datetime | None = self._mapping.as_of
        sieve.rows = sieve.rows.with_columns(
            (pl.col("ts") + length.cast(pl.Duration("us"))).alias("ts_close"), pl.lit("vendor").alias("origin")
        ).with_columns((pl.col("ts_close") <= as_of if as_of else pl.lit(value=True)).alias("final"))


def last_bar_open(batches: Iterable[Batch]) -> Iterator[Batch]:
    """Mark the latest bar of each symbol as not final.

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
    return replace(batch, rows=rows)
