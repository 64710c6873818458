"""Times as vendors write them, read as UTC microseconds.

Numbers are epoch times whose unit shows in their magnitude; a file may change its unit, as Binance's archive did,
so each run of rows is taken in its own.  Text is tried in all usual forms at the first rows; a row in another form
is read where that form allows one reading only, so 11-PM beside 23:00:00 is fine, and 01/02 is never guessed at.
Of local times that a clock change repeats, the order of rows tells the first from the second.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from itertools import product
from typing import Final

import polars as pl

from hfthot_platform.adapters.files.delimited import Sieve
from hfthot_platform.core.errors import RejectedFileError

__all__ = ["EPOCH_UNITS", "TIME", "UNIT_US", "Times", "join_day_and_clock", "to_time", "unit_of"]

TIME: Final = pl.Datetime("us", "UTC")
#: Microseconds per unit; nanoseconds divide instead.
UNIT_US: Final = {"s": 1_000_000, "ms": 1000, "us": 1}
EPOCH_UNITS: Final = (*UNIT_US, "ns")
_UNIT_BOUNDS: Final = (("s", 10**11), ("ms", 10**14), ("us", 10**17))
#: From here to 2100 a number of ten digits or more can be one unit only.
_PLAIN_FROM_S: Final = 1_230_768_000  # 2009
_PLAIN_TO_S: Final = 4_102_444_800
_EXCEL: Final = "excel"
#: Days of a spreadsheet's calendar (from 1899-12-30): 1954 to 2119.
_SERIAL_DAYS: Final = (20_000, 80_000)
_EXCEL_EPOCH_DAYS: Final = 25_569
_SAMPLE: Final = 1000

_DAYS: Final = {
    "year": ("%Y-%m-%d", "%Y/%m/%d", "%Y.%m.%d", "%Y%m%d"),
    "name": ("%d %b %Y", "%d-%b-%Y", "%d-%b-%y", "%d/%b/%Y", "%b %d %Y", "%d %B %Y", "%B %d %Y"),
    "day": ("%d.%m.%Y", "%d/%m/%Y", "%d-%m-%Y", "%d/%m/%y", "%d.%m.%y"),
    "month": ("%m/%d/%Y", "%m-%d-%Y", "%m/%d/%y"),
}
_CLOCKS: Final = (
    *(" %H:%M:%S%.f", " %H:%M", "", " %I:%M:%S %p", " %I:%M %p", " %I-%p", " %I %p", " %H"),
    *(" %H%M%S", " %H%M%S%3f", " %H%M%S %3f", " %H%M", " %H:%M:%S:%3f"),
)
_OFFSET: Final = "%#z"


@dataclass(frozen=True)
class _TimeFormat:
    """One way to write a time, and which part of the date comes first."""

    text: str
    order: str

    @property
    def is_safe(self) -> bool:
        """Return whether a text in this form has no other reading."""
        return self.order in ("year", "name") or "." in self.text[:6]


_FORMS: Final = tuple(
    _TimeFormat(day + clock + offset, order)
    for order, days in _DAYS.items()
    for day, clock, offset in product(days, _CLOCKS, ("", _OFFSET))
    if clock or not offset
) + tuple(_TimeFormat(text, "year") for text in ("%Y%m%d%H%M%S", "%Y%m%d%H%M", "%Y%m%d%H%M%S%3f"))
_COMPACT: Final = r"^(19|20)\d{2}(0[1-9]|1[0-2])(0[1-9]|[12]\d|3[01])(([01]\d|2[0-3])[0-5]\d([0-5]\d(\d{3})?)?)?$"
_ROUNDED: Final = r"^\d\.\d{1,8}[eE]\+?\d+$"
_HAS_OFFSET: Final = re.compile("%[:#]?z")
_HAS_HOUR: Final = re.compile("%[HIkl]")
_HAS_MINUTE: Final = re.compile("%[MTRXcr+s]")
_SUBSECOND: Final = re.compile(r"%[.0-9]*f")
#: Zones in the text, as offsets; letters that mean several zones (CST, IST, BST) are not read.
_ZONES: Final = {
    **dict.fromkeys(("Z", "UTC", "GMT", "UCT"), "+00:00"),
    "EST": "-05:00",
    "EDT": "-04:00",
    "CDT": "-05:00",
    "MST": "-07:00",
    "MDT": "-06:00",
    "PST": "-08:00",
    "PDT": "-07:00",
    "CET": "+01:00",
    "CEST": "+02:00",
    "EET": "+02:00",
    "EEST": "+03:00",
    "JST": "+09:00",
    "KST": "+09:00",
    "HKT": "+08:00",
    "SGT": "+08:00",
    "AEST": "+10:00",
    "AEDT": "+11:00",
}
_ODD_SPELLING: Final = re.compile(r"[TDtd]\d|[A-Za-z]$|,|  |[ap]\.?m|GMT|UTC|^[A-Z][a-z]{2}|\d[AP]M", re.IGNORECASE)


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


def _unit(value: float) -> str:
    return next((unit for unit, bound in _UNIT_BOUNDS if abs(value) < bound), "ns")


def to_time(value: pl.Expr, unit: str) -> pl.Expr:
    """Return epoch numbers of a unit (integers, or floats of seconds) as UTC microseconds."""
    us = value.cast(pl.Int64) // 1000 if unit == "ns" else (value * UNIT_US[unit])
    return us.round().cast(pl.Int64).cast(TIME)


def join_day_and_clock(rows: pl.DataFrame, day: str | None, *, short: bool | None) -> tuple[pl.DataFrame, bool | None]:
    """Join the columns `date` and `time` to the text column `ts`.

    Args:
        rows: with `date`, `time`, or both.
        day: the day of all rows where there is no `date`.
        short: whether a clock of digits has no seconds (930); None before the first rows.

    Returns:
        The rows with `ts` in place of the two, and `short` as settled.
    """
    date = pl.lit(day) if "date" not in rows.columns else _as_text(rows, "date")
    date = date.str.replace(r"[ T]0?0:00(:00(\.0+)?)?$", "")
    if "time" not in rows.columns:
        return rows.with_columns(date.alias("ts")).drop("date"), short
    clock = _as_text(rows, "time")
    digits = clock.str.contains(r"^\d{1,6}$")
    if short is None:
        longest = rows.select(clock.filter(digits).str.len_chars().max()).item()
        short = None if longest is None else longest <= 4
    padded = clock.str.zfill(4) + "00" if short else clock.str.zfill(6)
    clock = (
        pl.when(digits).then(padded).when(clock.str.contains(r"^\d{7,9}$")).then(clock.str.zfill(9)).otherwise(clock)
    )
    joined = rows.with_columns((date + " " + clock).alias("ts"))
    return joined.drop([name for name in ("date", "time") if name in joined.columns]), short


def _as_text(rows: pl.DataFrame, name: str) -> pl.Expr:
    dtype = rows.schema[name]
    value = pl.col(name)
    if dtype.is_float():
        value = value.cast(pl.Int64)
    if isinstance(dtype, pl.Datetime):
        return value.dt.strftime("%Y-%m-%d %H:%M:%S")
    return value.cast(pl.String).str.strip_chars().str.replace(r"^(\d+)\.0+$", "$1")


class Times:
    """Reads one file's time column; settles on unit or form at the first rows, and holds the rest to it.

    Args:
        spec: `auto`, s, ms, us, ns, excel, or a strftime format.
        zone: of local times.
        where: the file, for messages.
        bars: whether two rows of one symbol cannot share a time.
    """

    def __init__(self, spec: str = "auto", zone: str | None = None, *, where: str = "", bars: bool = False) -> None:
        self._spec = spec
        self._zone = zone or "UTC"
        self._where = where
        self._bars = bars
        #: The settled unit (s, ms, us, ns), `excel`, or strftime format; None before the first rows.
        self.form: str | None = None if spec == "auto" else spec
        self._order = ""
        self._odd = False
        self._whole_numbers = True
        self._counts_days = False
        self._step = 1_000_000

    @property
    def is_epoch(self) -> bool:
        """Return whether the file's times are epoch numbers."""
        return self.form in EPOCH_UNITS

    @property
    def resolution_us(self) -> int:
        """Return the time step in microseconds, as far as the form of the rows read last shows it."""
        if self.form in UNIT_US:
            return min(UNIT_US[self.form], self._step) if self._whole_numbers else 1
        if self.form is None or self.form in ("ns", _EXCEL) or _SUBSECOND.search(self.form):
            return 1
        return 1_000_000

    def read(self, sieve: Sieve, column: str = "ts") -> None:
        """Turn `column` of the sieve's rows into UTC microseconds.

        Rows are set aside as `mixed_time_unit`, `unparsable_value`, `serial_date` or `ambiguous_local_time`.

        Raises:
            RejectedFileError: `unrecognised_time`, `ambiguous_date` or `serial_dates`, by the first rows.
        """
        values = sieve.rows[column]
        if isinstance(values.dtype, (pl.Datetime, pl.Date)):
            self._to_utc(sieve, column, pl.lit(None, pl.String))
            return
        if values.len() == 0:
            sieve.rows = sieve.rows.with_columns(pl.lit(None, TIME).alias(column))
            return
        if self.form is None:
            self.form = self._settle(values)
        if self.form in EPOCH_UNITS:
            self._numbers(sieve, column)
        elif self.form == _EXCEL:
            self._serials(sieve, column)
        else:
            self._text(sieve, column)

    def _settle(self, values: pl.Series) -> str:
        known = values.drop_nulls().head(50 * _SAMPLE)
        numbers = _numeric(known)
        if numbers.null_count() * 2 < known.len():
            self._whole_numbers = numbers.dtype == pl.Int64
            found = numbers.drop_nulls()
            units = found.to_frame("v").select(unit_of(pl.col("v"))).to_series()
            unit = str(units.value_counts(sort=True).row(0)[0])
            compact = _looks_like_days(known)
            if known.dtype == pl.String and known.str.contains(_ROUNDED).all():
                raise RejectedFileError(
                    "truncated_epoch",
                    f"{known[0]!r} has lost its last digits in a spreadsheet",
                    where=self._where,
                    hint="Export the times as whole numbers, or as text.",
                )
            if unit != "s" and not compact:
                return unit
            if not compact:
                self._check_seconds(found)
                return unit
        text = known.head(_SAMPLE).cast(pl.String)
        if text.len() == 0:
            raise self._unknown("the time column is empty")
        self._odd = any(_ODD_SPELLING.search(value) for value in text.head(50))
        text = _usual(text) if self._odd else text
        # Where no form reads most of the rows, several may stand side by side, each with one reading.
        best = _best_form(text) or _best_form(text, [form for form in _FORMS if form.is_safe], share=0.15)
        if best is None:
            raise self._unknown(f"no known unit or format of time fits {known.cast(pl.String)[0]!r}")
        if not best.is_safe:
            best = self._day_or_month(text, best)
        self._order = best.order
        return best.text

    def _check_seconds(self, found: pl.Series) -> None:
        """Refuse small numbers that are not seconds since 1970, unless they count whole days (old daily series)."""
        small = found.abs() < 10**8
        if small.sum() <= 0.5 * found.len():
            self._counts_days = bool(small.any()) and _in_whole_days(found)
            return
        if _in_whole_days(found):
            self._counts_days = True
            return
        if found.is_between(*_SERIAL_DAYS).sum() > 0.5 * found.len():
            raise RejectedFileError(
                "serial_dates",
                f"{found[0]:g} looks like a spreadsheet's serial date",
                where=self._where,
                hint="Declare `time: excel` in the mapping if it is one, or export the dates as text.",
            )
        raise self._unknown(f"{found[0]:g} is not a time since 1970 in any unit")

    def _day_or_month(self, text: pl.Series, best: _TimeFormat) -> _TimeFormat:
        """Tell 3/4 the third of April from the fourth of March by the other rows, or refuse to guess."""
        swapped_text = re.sub(r"^%([dm])(.)%([dm])", r"%\3\2%\1", best.text)
        swapped = _TimeFormat(swapped_text, "month" if best.order == "day" else "day")
        first, second = _parse(text, best.text), _parse(text, swapped.text)
        if second.count() < first.count() or (first == second).all():
            return best
        sorted_as = [
            bool((d := value.drop_nulls().diff().drop_nulls().dt.total_microseconds()).ge(0).all() or d.le(0).all())
            for value in (first, second)
        ]
        if sorted_as[0] != sorted_as[1]:
            return best if sorted_as[0] else swapped
        raise RejectedFileError(
            "ambiguous_date",
            f"{text[0]!r} may start with the day or with the month",
            where=self._where,
            hint=f'Declare `time: "{best.text}"` or `time: "{swapped.text}"` in the mapping.',
        )

    def _unknown(self, what: str) -> RejectedFileError:
        return RejectedFileError(
            "unrecognised_time",
            what,
            where=self._where,
            hint="Declare `time` in the mapping: s, ms, us, ns, excel or a strftime format; a time of day in a column "
            "of its own needs `columns: {ts: [day, clock], ...}`, or `date` for the whole file.",
        )

    def _numbers(self, sieve: Sieve, column: str) -> None:
        assert self.form is not None
        raw = sieve.rows[column]
        sieve.rows = sieve.rows.with_columns(_numeric(raw).alias(column))
        if raw.dtype == pl.String:
            text = pl.lit(raw)
            sieve.reject(pl.col(column).is_null() & text.is_not_null(), "unparsable_value", f"{column} is not a number")
        value = pl.col(column)
        if sieve.rows.schema[column].is_float():
            sieve.reject(~value.is_finite(), "unparsable_value", f"{column} is not a finite number")
        if sieve.rows[column].null_count():
            sieve.reject(value.is_null(), "missing_value", f"{column} is empty")
        if self._spec != "auto":
            beyond = value.abs() > (9.2e18 / UNIT_US.get(self.form, 1))  # beyond the range of the type
            sieve.reject(beyond, "mixed_time_unit", pl.format(f"{column} is {{}}, not in {self.form}", value))
            sieve.rows = sieve.rows.with_columns(to_time(value, self.form))
            return
        if self.form == "s" and not self._counts_days:
            serial = value.is_between(*_SERIAL_DAYS)
            sieve.reject(serial, "serial_date", pl.format(f"{column} is {{}}, a spreadsheet's day", value))
        low, high = sieve.rows.select(value.abs().min().alias("low"), value.abs().max().alias("high")).row(0)
        self._step = UNIT_US.get(self.form, 1)
        if low is None or _unit(low) == _unit(high) == self.form:
            sieve.rows = sieve.rows.with_columns(to_time(value, self.form))
            return
        self._runs(sieve, column)

    def _runs(self, sieve: Sieve, column: str) -> None:
        """Read each run of rows in its own unit; a lone row of another one must fit in among its neighbours."""
        assert self.form is not None
        value = pl.col(column)
        sieve.rows = sieve.rows.with_columns(unit_of(value).alias("_unit"))
        scale = value.cast(pl.Float64) / pl.col("_unit").replace_strict(
            {"s": 1.0, "ms": 1e3, "us": 1e6, "ns": 1e9}, return_dtype=pl.Float64
        )
        unit = pl.col("_unit")
        lone = (unit != unit.shift(1)).fill_null(value=True) & (unit != unit.shift(-1)).fill_null(value=True)
        neighbours = pl.min_horizontal((scale - scale.shift(1)).abs(), (scale - scale.shift(-1)).abs())
        plain = scale.is_between(_PLAIN_FROM_S, _PLAIN_TO_S)
        fits = (unit == self.form) | (plain & (~lone | (neighbours <= 86_400 * 7)))
        detail = pl.format(f"{column} is {{}}, not in {self.form} like the rows around it", value)
        sieve.reject(~fits, "mixed_time_unit", detail)
        self._step = min(
            [UNIT_US.get(kind, 1) for kind in sieve.rows["_unit"].unique().drop_nulls()], default=self._step
        )
        in_unit = pl.coalesce(
            pl.when(unit == kind).then(to_time(pl.when(unit == kind).then(value), kind)) for kind in EPOCH_UNITS
        )
        sieve.rows = sieve.rows.with_columns(in_unit.alias(column)).drop("_unit")

    def _serials(self, sieve: Sieve, column: str) -> None:
        raw = sieve.rows[column]
        days = raw.cast(pl.Float64, strict=False)
        ms = ((days - _EXCEL_EPOCH_DAYS) * 86_400_000).round()
        sieve.rows = sieve.rows.with_columns(ms.alias(column), raw.cast(pl.String).alias("_raw"))
        fine = pl.col(column).is_finite() & (pl.col(column).abs() < 8e15)
        detail = pl.format(f"{column} is {{}}, which is not a serial date", pl.col("_raw"))
        sieve.reject(pl.col("_raw").is_not_null() & ~fine.fill_null(value=False), "unparsable_value", detail)
        sieve.reject(pl.col(column).is_null(), "missing_value", f"{column} is empty")
        local = (pl.col(column).cast(pl.Int64) * 1000).cast(pl.Datetime("us"))
        sieve.rows = sieve.rows.with_columns(local.alias(column))
        self._to_utc(sieve, column, pl.col("_raw"))
        sieve.rows = sieve.rows.drop("_raw")

    def _text(self, sieve: Sieve, column: str) -> None:
        assert self.form is not None
        raw = sieve.rows[column].cast(pl.String)
        text = _usual(raw) if self._odd else raw
        parsed = _parse(text, self.form)
        offset: pl.Series | None = None
        if self._spec == "auto" and parsed.null_count() > raw.null_count():
            parsed, offset = self._other_forms(raw, parsed)
        sieve.rows = sieve.rows.with_columns(parsed.alias(column), raw.alias("_raw"))
        if offset is not None:
            sieve.rows = sieve.rows.with_columns(offset.alias("_in_utc"))
        sieve.reject(
            pl.col(column).is_null() & pl.col("_raw").is_not_null(),
            "unparsable_value",
            pl.format(f"{column} is {{}}, not of the form {self.form}", pl.col("_raw")),
        )
        sieve.reject(pl.col(column).is_null(), "missing_value", f"{column} is empty")
        self._to_utc(sieve, column, pl.col("_raw"))
        sieve.rows = sieve.rows.drop("_raw", *(["_in_utc"] if offset is not None else []))

    def _other_forms(self, raw: pl.Series, parsed: pl.Series) -> tuple[pl.Series, pl.Series | None]:
        """Read what the settled form does not, in forms with one reading, or with the settled order of day and month.

        Returns the times, and which of them are in UTC already where others are local.
        """
        assert self.form is not None
        open_rows = parsed.is_null() & raw.is_not_null()
        text = _usual(raw.filter(open_rows))
        places = open_rows.arg_true()
        settled_aware = _HAS_OFFSET.search(self.form) is not None
        aware = pl.repeat(settled_aware, parsed.len(), dtype=pl.Boolean, eager=True)
        naive = parsed.dt.replace_time_zone(None) if settled_aware else parsed
        for _ in range(4):
            sample = text.head(_SAMPLE)
            candidates = [form for form in _FORMS if form.is_safe or form.order == self._order]
            form = _best_form(sample.slice(0, 1), candidates)
            if form is None:
                break
            found = _parse(text, form.text)
            ready = found.is_not_null()
            hit = places.filter(ready)
            naive = naive.scatter(hit, found.filter(ready).dt.replace_time_zone(None))
            aware = aware.scatter(hit, pl.repeat(_HAS_OFFSET.search(form.text) is not None, hit.len(), eager=True))
            text, places = text.filter(~ready), places.filter(~ready)
            if text.len() == 0:
                break
        if aware.all():
            return naive.dt.replace_time_zone("UTC"), None
        return naive, aware if aware.any() else None

    def _to_utc(self, sieve: Sieve, column: str, raw: pl.Expr) -> None:
        """Turn local times into UTC; what the clock change leaves open or skips is set aside."""
        dtype = sieve.rows.schema[column]
        if isinstance(dtype, pl.Datetime) and dtype.time_zone is not None:
            in_utc = pl.col(column).dt.convert_time_zone("UTC").dt.cast_time_unit("us")
            sieve.rows = sieve.rows.with_columns(in_utc)
            return
        local = pl.col(column).cast(pl.Datetime("us"))
        if self._zone == "UTC":
            sieve.rows = sieve.rows.with_columns(local.dt.replace_time_zone("UTC"))
            return
        sieve.rows = sieve.rows.with_columns(_in_zone(sieve.rows, column, self._zone, bars=self._bars))
        sieve.reject(
            pl.col(column).is_null(),
            "ambiguous_local_time",
            pl.format(f"{{}} happens twice or never in {self._zone} (clock change)", raw.fill_null("the time")),
        )


def _in_zone(rows: pl.DataFrame, column: str, zone: str, *, bars: bool) -> pl.Series:
    """Return local times as UTC; null where the zone skips one, or repeats it and the order does not tell which."""
    local = rows[column].cast(pl.Datetime("us"))
    early = local.dt.replace_time_zone(zone, ambiguous="earliest", non_existent="null").dt.convert_time_zone("UTC")
    late = local.dt.replace_time_zone(zone, ambiguous="latest", non_existent="null").dt.convert_time_zone("UTC")
    result = early
    twice = (early != late).fill_null(value=False)
    if twice.any():
        steps = local.diff().dt.total_microseconds()
        backwards = int((steps < 0).sum()) > int((steps > 0).sum())
        keys = ["day", *(["symbol"] if "symbol" in rows.columns else [])]
        frame = pl.DataFrame({"local": local, "early": early, "late": late}).with_columns(
            pl.int_range(pl.len()).alias("place"), pl.col("local").dt.date().alias("day")
        )
        if "symbol" in rows.columns:
            frame = frame.with_columns(rows["symbol"])
        frame = frame.filter(twice)
        frame = frame.reverse() if backwards else frame
        before = pl.col("local").shift(1).over(keys)
        again = (pl.col("local") <= before) if bars else (pl.col("local") < before)
        frame = frame.with_columns(again.fill_null(value=False).alias("again")).with_columns(
            pl.col("again").cum_sum().over(keys).alias("pass"), pl.col("again").sum().over(keys).alias("passes")
        )
        chosen = frame.select(
            "place",
            pl.when(pl.col("passes") == 1)
            .then(pl.when(pl.col("pass") == 0).then("early").otherwise("late"))
            .alias("utc"),
        ).sort("place")
        result = result.scatter(chosen["place"], chosen["utc"])
    if "_in_utc" in rows.columns:
        result = (
            pl.DataFrame({"utc": local.dt.replace_time_zone("UTC"), "zoned": result, "is": rows["_in_utc"]})
            .select(pl.when("is").then("utc").otherwise("zoned"))
            .to_series()
        )
    return result.alias(column)


def _best_form(
    text: pl.Series, forms: tuple[_TimeFormat, ...] | list[_TimeFormat] = _FORMS, *, share: float = 0.5
) -> _TimeFormat | None:
    """Return the first form that reads most of the texts, and more than this share of them."""
    first = text.head(5)
    able = [form for form in forms if _parse(first, form.text).count()]
    counted = [(_parse(text, form.text).count(), -number) for number, form in enumerate(able)]
    if not counted:
        return None
    count, number = max(counted)
    return able[-number] if count > share * text.len() else None


def _parse(text: pl.Series, form: str) -> pl.Series:
    if _HAS_HOUR.search(form) and not _HAS_MINUTE.search(form):
        text, form = text + "|00", form + "|%M"  # the parser wants a minute beside an hour
    aware = "UTC" if _HAS_OFFSET.search(form) else None
    parsed = text.str.to_datetime(form, time_unit="us", time_zone=aware, strict=False)
    # "24" is no year of four digits.
    year = parsed.dt.year()
    return parsed.set((year < 1000).fill_null(value=False), None) if (year < 1000).any() else parsed


def _usual(text: pl.Series) -> pl.Series:
    """Write odd spellings of times in the usual way: one blank, AM and PM apart, zones as offsets."""
    plain = (
        text.str.strip_chars()
        .str.replace(r"^(\d{4}-?\d{2}-?\d{2})[TtDd](\d)", "${1} ${2}")
        .str.replace(r"^(?i)(mon|tues?|wed|wednes|thu|thurs?|fri|sat|satur|sun)(day)?,? +", "")
        .str.replace(r"^([A-Za-z]{3,9})\.? (\d{1,2}),? ", "${1} ${2} ")
        .str.replace(r"(\d:\d{2}),(\d)", "${1}.${2}")
        .str.replace(r",", " ")
        .str.replace(r"(?i)\s*\b([ap])\.?m\.?\b", " ${1}M")
        .str.replace(r"(?i)([0-9])([ap])m\b", "${1} ${2}M")
        .str.replace(r"(?i)(-) *([ap]M)$", "-${2}")
        .str.replace(r"(?i)(GMT|UTC) ?([-+]\d)", "${2}")
        .str.replace(r" +([-+]\d{2}:?\d{2})$", "${1}")
        .str.replace_all(r" +", " ")
    )
    word = plain.str.extract(r"\d ?([A-Z]{1,4})$")
    offset = word.replace_strict(_ZONES, default=None, return_dtype=pl.String)
    return (
        pl.DataFrame({"t": plain, "o": offset})
        .select(
            pl.when(pl.col("o").is_null())
            .then("t")
            .otherwise(pl.col("t").str.replace(r" ?[A-Z]{1,4}$", "") + pl.col("o"))
        )
        .to_series()
        .alias(text.name)
    )


def _looks_like_days(values: pl.Series) -> bool:
    """Return whether numbers are rather dates such as 20240131, perhaps with the time of day (20240131093000)."""
    return bool(values.cast(pl.String).str.contains(_COMPACT).all())


def _in_whole_days(seconds: pl.Series) -> bool:
    steps = seconds.diff().drop_nulls()
    return steps.len() > 1 and bool((steps % 86_400 == 0).all() and (steps != 0).any())


def _numeric(values: pl.Series) -> pl.Series:
    """Return integers where all values are, else floats; null where a text is not a number."""
    if values.dtype.is_integer():
        return values.cast(pl.Int64)
    if values.dtype.is_float():
        # Whole numbers, as pandas makes of integers beside a missing value.
        return values.cast(pl.Int64) if values.drop_nulls().eq(values.drop_nulls().round()).all() else values
    whole = values.cast(pl.Int64, strict=False)
    if whole.null_count() == values.null_count():
        return whole
    floats = values.cast(pl.Float64, strict=False)
    if whole.null_count() == floats.null_count():
        # Integers beside junk stay exact integers; a float of nanoseconds would lose digits.
        return whole
    if values.str.contains(r"^-?\d+(\.0*)?$").sum() == floats.count():
        return values.str.replace(r"\.0*$", "").cast(pl.Int64, strict=False)
    return floats
