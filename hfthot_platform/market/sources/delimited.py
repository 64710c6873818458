"""Text of separated values, in bounded memory, with every line accounted for.

Blocks of bytes are cut at line ends and parsed by Polars with the declared types.  That fast way is taken
only if the counts prove it right: as many rows as lines, as many separators as the layout demands, no
missing required value.  Otherwise the block is parsed line by line (still vectorised) and each line that
does not fit is set aside with its reason and its text.  Rows are the non-blank lines after the header, so

    rows read = rows parsed + rows set aside

always holds, whatever the bytes are.
"""

from __future__ import annotations

import csv
import zipfile
import zlib
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import Final

import polars as pl

from hfthot_platform.errors import RejectedFileError
from hfthot_platform.market.sources.base import (
    REJECTED_SCHEMA,
    ROW_NUMBER,
    Batch,
    FileProbe,
    Progress,
    no_progress,
    rejected_rows,
)

__all__ = ["Layout", "Sieve", "file_blocks", "gather", "read_sieves"]

#: Bytes read and parsed at once: some 10^5 rows.
BLOCK_BYTES: Final = 1 << 24
#: What reading a cut-off or corrupt gzip or zip raises.
_CONTAINER_ERRORS: Final = (EOFError, zlib.error, zipfile.BadZipFile, OSError)
_TRUE: Final = ("true", "t", "1")
_FALSE: Final = ("false", "f", "0")


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
    decimal_comma: bool = False


class Sieve:
    """Rows on their way from a file to a table: those that fail a test are set aside, never dropped.

    `rows` always has the column `ROW_NUMBER`; `raw` returns the source text of the rows of a frame.
    """

    def __init__(self, rows: pl.DataFrame, raw: Callable[[pl.DataFrame], pl.Series]) -> None:
        self.rows = rows
        self._raw = raw
        self._rejected: list[pl.DataFrame] = []

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

    def add_rejected(self, rejected: pl.DataFrame) -> None:
        """Take over rows that were set aside before the sieve."""
        if rejected.height:
            self._rejected.append(rejected)

    @property
    def rejected(self) -> pl.DataFrame:
        """Return what was set aside, in file order."""
        return pl.concat(self._rejected).sort("row_number") if self._rejected else rejected_rows()


def file_blocks(probe: FileProbe, *, size: int = BLOCK_BYTES) -> Iterator[bytes]:
    """Yield the decompressed bytes of a file.

    Raises:
        RejectedFileError: `truncated`, the container ends early or fails its checksum.
    """
    try:
        with probe.open() as stream:
            while block := stream.read(size):
                yield block
    except _CONTAINER_ERRORS as error:
        raise RejectedFileError(
            "truncated",
            f"the file is cut off or corrupt ({error})",
            where=probe.name,
            hint="Copy or download it again.",
        ) from error


def read_sieves(
    blocks: Iterable[bytes],
    layout: Layout,
    *,
    skip_lines: int = 0,
    trust_end: bool = True,
    progress: Progress = no_progress,
) -> Iterator[Sieve]:
    """Parse blocks of text into sieves of `layout.keep` and `ROW_NUMBER`.

    Args:
        blocks: the text in pieces, cut anywhere.
        layout: columns and types.
        skip_lines: lines to skip at the start (banner, header); they are no rows.
        trust_end: whether the end of the text is known to be its true end (a container with a checksum).
            Otherwise a last line without a line feed is set aside as `truncated_row` even if it parses: a
            number cut in the middle still looks like a number.
        progress: called with the number of rows read.
    """
    done = 0
    for text, is_tail in _whole_lines(blocks, skip_lines):
        sieve = _parse(text, layout, first=done + 1, tail=is_tail, trust_end=trust_end)
        read = sieve.rows.height + sieve.rejected.height
        if read:
            done += read
            yield sieve
            progress(done, None, "rows")


def gather(sieves: Iterable[Sieve], table: str, source_ref: str, batch_rows: int) -> Iterator[Batch]:
    """Collect sieves into batches of at most `batch_rows` rows and as many rejected ones."""
    rows: list[pl.DataFrame] = []
    rejected: list[pl.DataFrame] = []
    height = 0
    for sieve in sieves:
        rows.append(sieve.rows)
        rejected.append(sieve.rejected)
        height += sieve.rows.height + rejected[-1].height
        if height >= batch_rows:
            yield from _cut(pl.concat(rows), pl.concat(rejected), table, source_ref, batch_rows)
            rows, rejected, height = [], [], 0
    if height:
        yield from _cut(pl.concat(rows), pl.concat(rejected), table, source_ref, batch_rows)


def _cut(rows: pl.DataFrame, rejected: pl.DataFrame, table: str, source_ref: str, size: int) -> Iterator[Batch]:
    for start in range(0, max(rows.height, rejected.height), size):
        yield Batch(table, rows.slice(start, size), source_ref, rejected.slice(start, size))


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


def _parse(text: bytes, layout: Layout, *, first: int, tail: bool, trust_end: bool) -> Sieve:
    frame = None if tail else _fast(text, layout)
    if frame is None:
        return _slow(text, layout, first=first, tail=tail, trust_end=trust_end)
    numbered = frame.with_columns(pl.int_range(first, first + frame.height, dtype=pl.Int64).alias(ROW_NUMBER))

    def raw(rows: pl.DataFrame) -> pl.Series:
        return _lines(text).gather(rows[ROW_NUMBER] - first)

    return Sieve(numbered, raw)


def _fast(text: bytes, layout: Layout) -> pl.DataFrame | None:
    """Parse all lines at once, or return None if anything about them is doubtful."""
    if b'"' in text:
        return None
    last = next(reversed(layout.columns))
    try:
        frame = (
            pl.scan_csv(
                text,
                has_header=False,
                schema=layout.columns,
                separator=layout.separator,
                quote_char=None,
                decimal_comma=layout.decimal_comma,
            )
            .select(*layout.keep, *([] if last in layout.keep else [last]))
            .collect()
        )
    except (pl.exceptions.PolarsError, OSError):
        # Some value does not parse (the slow way finds out which), or the text begins like a gzip.
        return None
    count = text.count(b"\n")
    # More fields than columns are an error above; fewer leave the last column null, as an empty field does.
    if frame[last].null_count() and text.count(layout.separator.encode()) != count * (len(layout.columns) - 1):
        return None
    missing = frame.select(pl.col(layout.required).null_count()).row(0)
    return frame.select(layout.keep) if frame.height == count and not any(missing) else None


def _lines(text: bytes) -> pl.Series:
    decoded = text.decode("utf-8", errors="replace")
    lines = pl.Series("line", decoded.split("\n"), dtype=pl.String).str.strip_chars_end("\r")
    return lines.filter(lines.str.strip_chars() != "")


def _slow(text: bytes, layout: Layout, *, first: int, tail: bool, trust_end: bool) -> Sieve:
    """Parse line by line: each line that does not fit is set aside with the reason."""
    lines = _lines(text)
    frame = pl.DataFrame({"line": lines}).with_columns(
        pl.int_range(first, first + lines.len(), dtype=pl.Int64).alias(ROW_NUMBER),
        _fields(lines, layout.separator).alias("fields"),
    )

    def raw(rows: pl.DataFrame) -> pl.Series:
        return lines.gather(rows[ROW_NUMBER] - first)

    sieve = Sieve(frame, raw)
    if tail and not trust_end:
        sieve.reject(
            pl.lit(value=True),
            "truncated_row",
            "the file ends within this line; if it is complete, end it with a line feed",
        )
    reason = "truncated_row" if tail else "wrong_field_count"
    width = len(layout.columns)
    found = pl.col("fields").list.len()
    sieve.reject(found != width, reason, pl.format(f"{{}} fields, expected {width}", found))
    text_of = {
        name: pl.col("fields").list.get(index, null_on_oob=True).str.strip_chars().replace("", None)
        for index, name in enumerate(layout.columns)
        if name in layout.keep
    }
    sieve.rows = sieve.rows.select(ROW_NUMBER, **text_of)
    for name in layout.required:
        sieve.reject(pl.col(name).is_null(), "missing_value", f"{name} is empty")
    for name in layout.keep:
        dtype = layout.columns[name]
        if dtype == pl.String:
            continue
        parsed = _value(pl.col(name), dtype, decimal_comma=layout.decimal_comma)
        unreadable = pl.col(name).is_not_null() & parsed.is_null()
        sieve.reject(unreadable, "unparsable_value", pl.format(f"{name} is {{}}", pl.col(name)))
        sieve.rows = sieve.rows.with_columns(parsed.alias(name))
    sieve.rows = sieve.rows.select(*layout.keep, ROW_NUMBER)
    return sieve


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


def _value(text: pl.Expr, dtype: pl.DataType, *, decimal_comma: bool) -> pl.Expr:
    if dtype == pl.Boolean:
        word = text.str.to_lowercase()
        return pl.when(word.is_in(_TRUE)).then(statement=True).when(word.is_in(_FALSE)).then(statement=False)
    if decimal_comma and dtype == pl.Float64:
        text = text.str.replace(",", ".", literal=True)
    return text.cast(dtype, strict=False)
