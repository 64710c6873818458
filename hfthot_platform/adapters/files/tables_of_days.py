"""What tables of days have in common, closes and corporate actions: a whole text with a header, columns of text."""

from __future__ import annotations

import io
import re
from collections.abc import Iterator, Mapping
from typing import Final, NamedTuple

import polars as pl

from hfthot_platform.adapters.files.adapter import FileProbe
from hfthot_platform.adapters.files.delimited import file_blocks
from hfthot_platform.adapters.files.times import Times
from hfthot_platform.adapters.ports import Progress, no_progress
from hfthot_platform.core.errors import BadRequestError, RejectedFileError
from hfthot_platform.domain.contracts.model import ROW_NUMBER
from hfthot_platform.domain.market.symbols import find_in_name, from_vendor

__all__ = [
    "TextHead",
    "normal_name",
    "opening",
    "pieces",
    "text_table",
    "usual_columns",
    "venue_and_symbol",
]

_MOST_BYTES: Final = 1 << 30


class TextHead(NamedTuple):
    """How a text begins: its header, and how many lines with content its first bytes have."""

    header: list[str]
    separator: str
    lines: int


def opening(probe: FileProbe, table: str) -> TextHead | None:
    """Return how a text begins; None if it is not a table, is empty, or is declared to be of another table."""
    mapping = probe.declared
    if not probe.is_text or mapping.table not in (None, table):
        return None
    lines = [line for line in probe.lines[mapping.skip_lines :] if line.strip()]
    if not lines:
        return None
    separator = mapping.separator or max(",;\t|", key=lines[0].count)
    return TextHead([cell.strip().strip('"') for cell in lines[0].split(separator)], separator, len(lines))


def usual_columns(header: list[str], usual: Mapping[str, tuple[str, ...]]) -> dict[str, str]:
    """Return the header's name of each target that is there under one of its usual names, the best first."""
    names = {normal_name(name): name for name in reversed(header)}
    return {
        target: names[found]
        for target, words in usual.items()
        if (found := next((word for word in words if word in names), None)) is not None
    }


def venue_and_symbol(probe: FileProbe, *, with_symbol: bool) -> tuple[str, str | None]:
    """Return the declared venue, and the symbol of a file without a column of symbols.

    Raises:
        RejectedFileError: `unknown_venue` or `unknown_symbol`.
    """
    mapping = probe.declared
    if mapping.venue is None:
        raise RejectedFileError(
            "unknown_venue",
            "nothing says which venue it is from",
            where=probe.name,
            hint="Declare `venue` in the mapping, such as us_equity.",
        )
    if with_symbol:
        return mapping.venue, None
    name = mapping.symbol or find_in_name(probe.inner_name, mapping.venue)
    return mapping.venue, _symbol_of_file(name, mapping.venue, probe.name)


def pieces(rows: pl.DataFrame, probe: FileProbe, batch_rows: int) -> Iterator[tuple[pl.DataFrame, Times]]:
    """Yield rows piece by piece, with the reader of their times, which remembers the forms it has met."""
    mapping = probe.declared
    times = Times(mapping.time, mapping.zone or "UTC", where=probe.name, bars=True)
    for start in range(0, rows.height, batch_rows):
        yield rows.slice(start, batch_rows), times


def text_table(probe: FileProbe, separator: str, progress: Progress = no_progress) -> pl.DataFrame:
    """Return a whole text file with a header as columns of text, and `ROW_NUMBER`.

    Raises:
        RejectedFileError: `too_large` or `wrong_schema`.
    """
    text = b"".join(file_blocks(probe))
    if len(text) > _MOST_BYTES:
        raise RejectedFileError("too_large", "the file is larger than 1 GB", where=probe.name, hint="Split the file.")
    progress(len(text), len(text), "bytes")
    try:
        table = pl.read_csv(
            io.BytesIO(text),
            separator=separator,
            infer_schema=False,
            skip_rows=probe.declared.skip_lines,
            truncate_ragged_lines=False,
            null_values=["", "null", "NA", "NaN", "nan", "N/A", "None"],
        )
    except pl.exceptions.PolarsError as error:
        raise RejectedFileError(
            "wrong_schema",
            f"the file is not a table ({error})"[:200],
            where=probe.name,
            hint="All rows must have the same number of fields.",
        ) from error
    return table.rename({name: name.strip() for name in table.columns}).with_row_index(ROW_NUMBER, offset=1)


def normal_name(name: str) -> str:
    """Return a header's name in lower case with underscores."""
    return re.sub(r"[\s-]+", "_", name.strip().lower())


def _symbol_of_file(name: str | None, venue: str, where: str) -> str:
    """Return the canonical symbol of a file without a column of symbols.

    Raises:
        RejectedFileError: `unknown_symbol`.
    """
    if name is None:
        raise RejectedFileError(
            "unknown_symbol", "neither a column nor the name gives it", where=where, hint="Declare `symbol`."
        )
    try:
        return from_vendor(name, venue=venue)
    except BadRequestError as error:
        raise RejectedFileError("unknown_symbol", error.what, where=where, hint=error.hint) from error
