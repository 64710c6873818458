"""Text of separated values, in bounded memory, with every line accounted for.

Blocks of bytes are cut at line ends and parsed by Polars with the declared types.  That fast way is taken
only if the counts prove it right: as many rows as lines, as many separators as the layout demands, no
missing required value.  Otherwise the cells are taken as text, at once or, where the counts do not fit, line by
line, and their values are read with all the spellings of numbers that people use; each line that does not fit is
set aside with its reason and its text.  Rows are the non-blank lines after the header, so

    rows read = rows parsed + rows set aside + rows that say that nothing was traded

always holds, whatever the bytes are.
"""

from __future__ import annotations

import csv
import re
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import Final, Literal

import polars as pl

from hfthot_platform.adapters.files.adapter import FileProbe, truncated
from hfthot_platform.adapters.files.containers import CONTAINER_ERRORS, to_plain
from hfthot_platform.adapters.ports import Batch, Progress, no_progress, rejected_rows
from hfthot_platform.domain.contracts.model import REJECTED_SCHEMA, ROW_NUMBER

__all__ = ["NO_VALUE", "Layout", "Sieve", "file_blocks", "gather", "is_table_of_numbers", "read_sieves", "read_values"]

#: Bytes read and parsed at once: some 10^5 rows.
BLOCK_BYTES: Final = 1 << 24
_TRUE: Final = ("true", "t", "1", "1.0")
_FALSE: Final = ("false", "f", "0", "0.0")
#: Words for the absence of a value, in lower case.
NO_VALUE: Final = ("", "nan", "na", "n/a", "null", "none", "nil", "-", "--", "<na>")
_PLAIN_NUMBER: Final = re.compile(r"\s*[-+]?\d[\d.]*([eE][-+]?\d+)?\s*")
_DAY: Final = re.compile(r"\d{4}[-./]\d{1,2}[-./]\d|\d{1,2}[-./]\d{1,2}[-./]\d{2}")
_PRICES: Final = ("open", "high", "low", "close")
#: What groups digits besides a declared character: blanks of all widths and apostrophes.
_GROUPS: Final = " \u00a0\u202f\u2009'\u2019_"


@dataclass(frozen=True)
class Layout:
    """The columns of a text file in file order, as they are parsed.

    `required` columns must have a value in each row; an empty field elsewhere is null.  Columns that
    nobody needs are typed String and left out of `keep`.
    """

    columns: dict[str, pl.DataType]
    required: tuple[str, ...]
    keep: tuple[str, ...]
    separator: str = ","
    decimal: str = "."
    #: A character that groups digits, besides blanks and apostrophes; `.` beside a decimal comma.
    thousands: str | None = None
    #: Lines that begin so are remarks.
    comment: str | None = None

    @property
    def is_plain(self) -> bool:
        """Return whether numbers are written as programs write them."""
        return self.decimal == "." and self.thousands is None


class Sieve:
    """Rows on their way from a file to a table: those that fail a test are set aside, never dropped.

    `rows` always has the column `ROW_NUMBER`; `raw` returns the source text of the rows of a frame.
    """

    def __init__(self, rows: pl.DataFrame, raw: Callable[[pl.DataFrame], pl.Series]) -> None:
        self.rows = rows
        self._raw = raw
        self._rejected: list[pl.DataFrame] = []
        #: How many rows said that nothing was traded.
        self.gaps = 0

    def reject(self, bad: pl.Expr, reason: str, detail: str | pl.Expr) -> None:
        """Set aside the rows where `bad` is true (null counts as false)."""
        flagged = self.rows.select(bad.fill_null(value=False).alias("bad")).to_series()
        if not flagged.any():
            return
        failing = self.rows.filter(flagged)
        self.rows = self.rows.filter(~flagged)
        words = pl.lit(detail) if isinstance(detail, str) else detail
        self._rejected.append(
            failing.select(
                pl.col(ROW_NUMBER).alias("row_number"),
                pl.lit(reason).alias("reason"),
                words.alias("detail"),
                self._raw(failing).alias("row"),
            ).cast(REJECTED_SCHEMA)  # type: ignore[arg-type]
        )

    def skip(self, empty: pl.Expr) -> None:
        """Count the rows where `empty` is true (null counts as false) as gaps, and drop them."""
        flagged = self.rows.select(empty.fill_null(value=False).alias("empty")).to_series()
        if flagged.any():
            self.gaps += int(flagged.sum())
            self.rows = self.rows.filter(~flagged)

    @property
    def read(self) -> int:
        """Return how many source rows the sieve accounts for."""
        return self.rows.height + sum(frame.height for frame in self._rejected) + self.gaps

    def add_rejected(self, rejected: pl.DataFrame) -> None:
        """Take over rows that were set aside before the sieve."""
        if rejected.height:
            self._rejected.append(rejected)

    @property
    def rejected(self) -> pl.DataFrame:
        """Return what was set aside, in file order."""
        return pl.concat(self._rejected).sort("row_number") if self._rejected else rejected_rows()


def file_blocks(probe: FileProbe, *, size: int = BLOCK_BYTES) -> Iterator[bytes]:
    """Yield the decompressed text of a file as UTF-8 with line feeds, in pieces.

    Raises:
        RejectedFileError: `truncated`, the container ends early or fails its checksum; `decompression_bomb`.
    """
    try:
        with probe.open() as stream:
            yield from to_plain(iter(lambda: stream.read(size), b""), probe.encoding, probe.line_end)
    except CONTAINER_ERRORS as error:
        raise truncated(probe.name, error) from error


def is_table_of_numbers(probe: FileProbe) -> bool:
    """Return whether half of a text's first lines are rows of two or more fields with numbers in them.

    That is, a number beside a day, or two numbers among three fields.
    """
    lines = [line for line in probe.lines[:100] if line.strip()] if probe.is_text else []
    fields = (re.split(r"[,;\t|]", line) for line in lines)
    rows = sum(_has_numbers(row) for row in fields)
    return bool(rows) and rows >= 0.5 * len(lines)


def _has_numbers(row: list[str]) -> bool:
    numbers = sum(bool(_PLAIN_NUMBER.fullmatch(cell)) for cell in row)
    return (len(row) >= 3 and numbers >= 2) or (len(row) == 2 and numbers == 1 and bool(_DAY.match(row[0].strip())))


def read_sieves(
    blocks: Iterable[bytes],
    layout: Layout,
    *,
    skip_lines: int = 0,
    end: Literal["sound", "judged", "cut"] = "sound",
    progress: Progress = no_progress,
) -> Iterator[Sieve]:
    """Parse blocks of text into sieves of `layout.keep` and `ROW_NUMBER`.

    Args:
        blocks: the text in pieces, cut anywhere.
        layout: columns and types.
        skip_lines: lines to skip at the start (banner, header); they are not rows.
        end: what a last line without a line feed is. `sound`: complete (the container has a checksum, or its user
            says so). `judged`: set aside as `truncated_row` where a field is missing, or where its last field is
            shorter than in every line above: a number cut in the middle still looks like a number. `cut`: always
            set aside.
        progress: called with the number of rows read.
    """
    done = 0
    before = b""
    for text, is_tail in _whole_lines(blocks, skip_lines):
        lines = _without_remarks(text, layout.comment)
        doubt = None
        if is_tail and end == "cut":
            doubt = "the file ends within this row"
        elif is_tail and end == "judged":
            doubt = _looks_cut(lines, before, layout)
        sieve = _parse(lines, layout, first=done + 1, tail=is_tail, doubt=doubt)
        before = lines[-_LINES_BEFORE:]
        if sieve.read:
            done += sieve.read
            yield sieve
            progress(done, None, "rows")


#: Bytes above an unfinished last line that it is compared with.
_LINES_BEFORE: Final = 65_536


def _without_remarks(text: bytes, comment: str | None) -> bytes:
    if comment is None or comment.encode() not in text:
        return text
    return re.sub(rb"(?m)^[ \t]*" + re.escape(comment.encode()) + rb"[^\n]*(\n|\Z)", b"", text)


def _looks_cut(line: bytes, before: bytes, layout: Layout) -> str | None:
    """Return why a last line without a line feed seems cut off, or None."""
    separator = layout.separator.encode()
    above = [line.strip().rsplit(separator, 1)[-1] for line in before.split(b"\n")[1:] if line.strip()]
    last = line.strip().rsplit(separator, 1)[-1]
    way_out = "if it is complete, end it with a line feed or declare `complete: true`"
    if len(above) < 3:
        return None
    lengths = {len(value) for value in above}
    decimals = {len(value.partition(b".")[2]) for value in above}
    if len(lengths) == 1 and len(last) < min(lengths):
        return f"the file ends within this line: its last field is shorter than in all lines above; {way_out}"
    if len(decimals) == 1 and len(last.partition(b".")[2]) < min(decimals):
        return f"the file ends within this line: its last number has fewer decimals than all above; {way_out}"
    return None


def gather(sieves: Iterable[Sieve], table: str, source_ref: str, batch_rows: int) -> Iterator[Batch]:
    """Collect sieves into batches of at most `batch_rows` rows and as many rejected ones."""
    rows: list[pl.DataFrame] = []
    rejected: list[pl.DataFrame] = []
    height = gaps = 0
    for sieve in sieves:
        rows.append(sieve.rows)
        rejected.append(sieve.rejected)
        height += sieve.rows.height + rejected[-1].height
        gaps += sieve.gaps
        if height >= batch_rows:
            yield from _cut(pl.concat(rows), pl.concat(rejected), gaps, table, source_ref, batch_rows)
            rows, rejected, height, gaps = [], [], 0, 0
    if rows and (height or gaps):
        yield from _cut(pl.concat(rows), pl.concat(rejected), gaps, table, source_ref, batch_rows)


def _cut(
    rows: pl.DataFrame, rejected: pl.DataFrame, gaps: int, table: str, source_ref: str, size: int
) -> Iterator[Batch]:
    for start in range(0, max(rows.height, rejected.height, 1), size):
        part = Batch(table, rows.slice(start, size), source_ref, rejected.slice(start, size), 0 if start else gaps)
        if part.rows_read:
            yield part


def _whole_lines(blocks: Iterable[bytes], skip_lines: int) -> Iterator[tuple[bytes, bool]]:
    """Yield (text, False) for text that ends with a line feed, and (text, True) for an unfinished last line."""
    rest = b""
    started = False
    for block in blocks:
        text = rest + block
        if not started:
            text = text.removeprefix(b"\xef\xbb\xbf")
        started = True
        while skip_lines and b"\n" in text:
            text = text.partition(b"\n")[2]
            skip_lines -= 1
        end = text.rfind(b"\n") + 1
        if skip_lines or not end:
            rest = text
            continue
        yield text[:end], False
        rest = text[end:]
    if rest.strip() and not skip_lines:
        yield rest, True


def _parse(text: bytes, layout: Layout, *, first: int, tail: bool, doubt: str | None) -> Sieve:
    frame = _fast(text, layout) if layout.is_plain and not tail else None
    if frame is None:
        return _slow(text, layout, first=first, tail=tail, doubt=doubt)
    numbered = frame.with_columns(pl.int_range(first, first + frame.height, dtype=pl.Int64).alias(ROW_NUMBER))

    def raw(rows: pl.DataFrame) -> pl.Series:
        return _lines(text).gather(rows[ROW_NUMBER] - first)

    return Sieve(numbered, raw)


def _fast(text: bytes, layout: Layout) -> pl.DataFrame | None:
    """Parse all lines at once, or return None if anything about them is doubtful."""
    frame = _scanned(text, layout, layout.columns)
    if frame is None:
        return None
    missing = frame.select(pl.col(layout.required).null_count()).row(0)
    return None if any(missing) else frame.select(layout.keep)


def _scanned(text: bytes, layout: Layout, schema: dict[str, pl.DataType]) -> pl.DataFrame | None:
    """Return the columns to keep, one row per line, or None if that cannot be proved."""
    quoted = b'"' in text
    last = next(reversed(schema))
    try:
        frame = (
            pl.scan_csv(
                text,
                has_header=False,
                schema=schema,
                separator=layout.separator,
                quote_char='"' if quoted else None,
            )
            .select(*layout.keep, *([] if last in layout.keep else [last]))
            .collect()
        )
    except (pl.exceptions.PolarsError, OSError):
        # Some value does not parse (the slow way finds out which), or the text begins like a gzip.
        return None
    count = text.count(b"\n")
    if frame.height != count:
        return None
    if quoted:
        # Separators within quotes prove nothing, nor does a quote that is none: no line may leave a doubt.
        return None if frame[last].null_count() or text.count(b'"') % 2 or b'""' in text else frame
    # More fields than columns are an error above; fewer leave the last column null, as an empty field does.
    if frame[last].null_count() and text.count(layout.separator.encode()) != count * (len(schema) - 1):
        return None
    return frame


def _lines(text: bytes) -> pl.Series:
    decoded = text.decode("utf-8", errors="replace")
    lines = pl.Series("line", decoded.split("\n"), dtype=pl.String).str.strip_chars_end("\r")
    return lines.filter(lines.str.strip_chars() != "")


def _slow(text: bytes, layout: Layout, *, first: int, tail: bool, doubt: str | None) -> Sieve:
    """Take the cells as text: each line that does not fit is set aside with the reason."""
    lines = _lines(text)

    def raw(rows: pl.DataFrame) -> pl.Series:
        return lines.gather(rows[ROW_NUMBER] - first)

    number = pl.int_range(first, first + lines.len(), dtype=pl.Int64, eager=True).alias(ROW_NUMBER)
    cells = None if tail else _scanned(text, layout, dict.fromkeys(layout.columns, pl.String()))
    if cells is not None and cells.height == lines.len():
        sieve = Sieve(cells.select(number, *(_cell(pl.col(name), name) for name in layout.keep)), raw)
    else:
        sieve = Sieve(
            pl.DataFrame({"line": lines, ROW_NUMBER: number, "fields": _fields(lines, layout.separator)}), raw
        )
        if doubt is not None:
            sieve.reject(pl.lit(value=True), "truncated_row", doubt)
        width = len(layout.columns)
        # Empty fields beyond the last column are separators that end a line.
        beyond = pl.col("fields").list.slice(width).list.eval(pl.element().str.strip_chars() != "").list.any()
        found = pl.col("fields").list.len()
        fits = (found == width) | ((found > width) & ~beyond)
        sieve.reject(
            ~fits, "truncated_row" if tail else "wrong_field_count", pl.format(f"{{}} fields, expected {width}", found)
        )
        text_of = [
            _cell(pl.col("fields").list.get(index, null_on_oob=True), name)
            for index, name in enumerate(layout.columns)
            if name in layout.keep
        ]
        sieve.rows = sieve.rows.select(ROW_NUMBER, *text_of)
    read_values(sieve, layout)
    return sieve


def _cell(text: pl.Expr, name: str) -> pl.Expr:
    return text.str.strip_chars().replace("", None).alias(name)


def read_values(sieve: Sieve, layout: Layout) -> None:
    """Turn the cells of a sieve, all text, into the layout's types; what does not fit is set aside.

    A bar without any price says that nothing was traded: it is counted as a gap.
    """
    numbers = [name for name in layout.keep if layout.columns[name] == pl.Float64]
    if numbers:
        sieve.rows = sieve.rows.with_columns(
            pl.when(~pl.col(name).str.to_lowercase().is_in(NO_VALUE)).then(pl.col(name)).alias(name) for name in numbers
        )
    if all(name in layout.keep for name in _PRICES):
        sieve.skip(pl.all_horizontal(pl.col(name).is_null() for name in _PRICES))
    for name in layout.required:
        sieve.reject(pl.col(name).is_null(), "missing_value", f"{name} is empty")
    for name in layout.keep:
        dtype = layout.columns[name]
        if dtype == pl.String:
            continue
        parsed = _value(pl.col(name), dtype, layout)
        unreadable = pl.col(name).is_not_null() & parsed.is_null()
        sieve.reject(unreadable, "unparsable_value", pl.format(f"{name} is {{}}", pl.col(name)))
        sieve.rows = sieve.rows.with_columns(parsed.alias(name))
    sieve.rows = sieve.rows.select(*layout.keep, ROW_NUMBER)


def _fields(lines: pl.Series, separator: str) -> pl.Series:
    quoted = lines.str.contains('"', literal=True)
    if not quoted.any():
        return lines.str.split(separator)
    # Quoted text is for the csv module; multi-line values are beyond any market-data file seen.
    values = next_row = None
    out = []
    for line, needs_csv in zip(lines, quoted, strict=True):
        if needs_csv:
            next_row = csv.reader([line], delimiter=separator)
            try:
                values = next(next_row)
            except (csv.Error, StopIteration):
                values = [line]
        else:
            values = line.split(separator)
        out.append(values)
    return pl.Series("fields", out, dtype=pl.List(pl.String))


def _value(text: pl.Expr, dtype: pl.DataType, layout: Layout) -> pl.Expr:
    if dtype == pl.Boolean:
        word = text.str.to_lowercase()
        return pl.when(word.is_in(_TRUE)).then(statement=True).when(word.is_in(_FALSE)).then(statement=False)
    if dtype != pl.Float64:
        return text.cast(dtype, strict=False)
    return _number(text, layout)


def _number(text: pl.Expr, layout: Layout) -> pl.Expr:
    """Read a number as people write it: digits in groups of three, a decimal comma, K, M or B, a currency's sign."""
    decimal = re.escape(layout.decimal)
    between = re.escape(layout.thousands or (".," if layout.decimal == "," else ",").replace(layout.decimal, ""))
    group = f"[{between}{_GROUPS}]"
    bare = text.str.replace_all(r"^[$€£¥₿]\s*|\s*[$€£¥₿]$", "")
    shape = rf"^[-+]?(\d+|\d{{1,3}}(?:{group}\d{{3}})+)?(?:{decimal}\d*)?(?:[eE][-+]?\d+)?[KMBkmb]?$"
    plain = bare.str.replace_all(group, "").str.replace(layout.decimal, ".", literal=True)
    factor = (
        pl.when(plain.str.contains("[Kk]$"))
        .then(1e3)
        .when(plain.str.contains("[Mm]$"))
        .then(1e6)
        .when(plain.str.contains("[Bb]$"))
        .then(1e9)
        .otherwise(1.0)
    )
    value = plain.str.strip_chars_end("KMBkmb").cast(pl.Float64, strict=False) * factor
    spelled = pl.when(bare.str.contains(shape)).then(value)
    return spelled if not layout.is_plain else text.cast(pl.Float64, strict=False).fill_null(spelled)
