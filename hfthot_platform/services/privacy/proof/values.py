"""The text and binary values that decoded tables are made of: columns of Arrow, rows of SQLite.

Here belongs getting at values; looking for something in them is the business of `readers`.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final
from urllib.parse import quote

if TYPE_CHECKING:
    import pyarrow as pa

__all__ = ["coded_columns", "sqlite_rows", "text_buffers", "text_columns"]

#: Rows of SQLite that are handed on together.
_ROWS: Final = 500


def coded_columns(metadata: Any, wanted: set[str]) -> list[str]:
    """Return the flat columns that are dictionary-coded throughout."""
    coded = dict.fromkeys(sorted(name for name in wanted if "." not in name), True)
    for group in range(metadata.num_row_groups):
        row_group = metadata.row_group(group)
        for at in range(row_group.num_columns):
            column = row_group.column(at)
            if column.path_in_schema in coded:
                # A chunk whose dictionary grew too large goes on with plain pages, and is large itself.
                small = column.total_uncompressed_size < 8 * max(column.num_values, 1) + 65_536
                coded[column.path_in_schema] &= column.has_dictionary_page and small
    return [name for name, whole in coded.items() if whole]


def text_columns(column: pa.Array) -> Iterator[pa.Array]:
    """Yield the text and binary arrays that a column is made of."""
    import pyarrow as pa

    kind = column.type
    if pa.types.is_dictionary(kind):
        yield from text_columns(column.dictionary)
    elif pa.types.is_struct(kind):
        for at in range(kind.num_fields):
            yield from text_columns(column.field(at))
    elif pa.types.is_map(kind):
        yield from text_columns(column.keys)
        yield from text_columns(column.items)
    elif pa.types.is_list(kind) or pa.types.is_large_list(kind) or pa.types.is_fixed_size_list(kind):
        yield from text_columns(column.values)
    elif isinstance(column, pa.ExtensionArray):
        yield from text_columns(column.storage)
    elif pa.types.is_fixed_size_binary(kind):
        yield column.cast(pa.binary())
    elif (
        pa.types.is_string(kind)
        or pa.types.is_binary(kind)
        or pa.types.is_large_string(kind)
        or pa.types.is_large_binary(kind)
    ):
        yield column
    elif pa.types.is_string_view(kind) or pa.types.is_binary_view(kind):
        yield column.cast(pa.large_binary())


def text_buffers(leaf: pa.Array) -> tuple[Any, pa.Buffer | None]:
    """Return the bounds of the values, and the bytes that they are bounds in."""
    import numpy as np
    import pyarrow as pa

    large = pa.types.is_large_string(leaf.type) or pa.types.is_large_binary(leaf.type)
    _, bounds, data = leaf.buffers()
    if not len(leaf) or bounds is None:
        return np.zeros(1, dtype=np.int64), None
    known = np.frombuffer(bounds, dtype=np.int64 if large else np.int32)
    return known[leaf.offset : leaf.offset + len(leaf) + 1], data


def _opened_database(source: Path | bytes) -> sqlite3.Connection:
    """Open a SQLite database to read, from a path or from its bytes."""
    if isinstance(source, bytes):
        base = sqlite3.connect(":memory:")
        # In memory there is no write-ahead log; bytes 18 and 19 say that the file wants one.
        base.deserialize(source[:18] + b"\x01\x01" + source[20:])
        return base
    path = source
    quoted = quote(str(path.absolute()))
    # Within this process: connections of one library know of each other's locks.
    base = sqlite3.connect(f"file:{quoted}?mode=ro", uri=True, timeout=10)
    try:
        base.execute("SELECT 1 FROM sqlite_master").fetchone()
    except sqlite3.OperationalError as error:
        base.close()
        # A copy of a database in WAL mode, in a folder where no lock file can be made.  One that is merely locked is
        # somebody's: this reads without locks.
        if error.sqlite_errorcode & 0xFF not in {sqlite3.SQLITE_CANTOPEN, sqlite3.SQLITE_READONLY}:
            raise
        base = sqlite3.connect(f"file:{quoted}?immutable=1", uri=True)
    return base


def sqlite_rows(source: Path | bytes) -> Iterator[bytes]:
    """Yield the texts and binary values of a SQLite database's rows, many at a time with zeros between them."""
    with closing(_opened_database(source)) as base:
        base.text_factory = bytes
        named = base.execute("SELECT name FROM sqlite_master WHERE type = 'table' AND sql NOT LIKE 'CREATE VIRTUAL%'")
        for (name,) in named.fetchall():
            table = '"' + name.decode().replace('"', '""') + '"'
            rows = base.execute(f"SELECT * FROM {table}")  # noqa: S608 - a name from the schema
            while some := rows.fetchmany(_ROWS):
                yield b"\0".join(value for row in some for value in row if isinstance(value, bytes))
