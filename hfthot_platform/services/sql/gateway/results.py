"""What comes back from a worker, taken for hostile until it is checked; and the forms in which callers want it."""

from __future__ import annotations

import base64
import csv
import io
import json
import math
import struct
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, date, datetime, time, timedelta
from decimal import Decimal
from typing import Any, Final, Literal, get_args

import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq

from hfthot_platform.core import errors
from hfthot_platform.core.errors import BadRequestError, HfthotError, SqlError, SqlWorkerError, nearest
from hfthot_platform.services.sql.frames import as_frame, narrowed, require_own_names
from hfthot_platform.services.sql.gateway.worker import weight

__all__ = ["Format", "QueryResult", "encoded", "error_of", "format_of", "read_batch", "read_schema"]

Format = Literal["arrow", "polars", "json", "csv", "parquet"]

_MOST_COLUMNS: Final = 10_000
_LIST_KINDS: Final = (pa.types.is_list, pa.types.is_large_list, pa.types.is_fixed_size_list)
_PLAIN_KINDS: Final = (
    *(pa.types.is_boolean, pa.types.is_integer, pa.types.is_floating, pa.types.is_decimal, pa.types.is_null),
    *(pa.types.is_string, pa.types.is_large_string, pa.types.is_binary, pa.types.is_large_binary),
    *(pa.types.is_fixed_size_binary, pa.types.is_date, pa.types.is_time, pa.types.is_timestamp),
    *(pa.types.is_duration, pa.types.is_interval),
)


@dataclass(frozen=True)
class QueryResult:
    """The answer to a statement, complete or cut short."""

    #: In the form that was asked for: an Arrow table, a Polars frame, text (json, csv) or bytes (parquet).
    data: Any
    schema: pa.Schema
    rows: int
    #: The tables that were read, each with its version (-1: never written); as `name@version` where several of one.
    tables: Mapping[str, int]
    #: From leaving the queue to the last row.
    seconds: float
    #: Seconds in the queue.
    queued_seconds: float
    #: Bytes that were read from data files.
    bytes_scanned: int
    #: Whether rows are missing at the end, and which limit cut them off.
    truncated: bool
    reason: str = ""


def format_of(name: object) -> Format:
    """Return a format by its name.

    Raises:
        BadRequestError: there is no such format.
    """
    for known_format in get_args(Format):
        if known_format == name:
            return known_format  # type: ignore[no-any-return]
    known = get_args(Format)
    if not isinstance(name, str):
        raise BadRequestError(f"it is a {type(name).__name__}", where="format", hint=f"Formats: {', '.join(known)}.")
    raise BadRequestError(
        f"unknown format {name[:40]!r}", where="format", hint=nearest(name, known) or f"Formats: {', '.join(known)}."
    )


# -- what a worker says -----------------------------------------------------------------------------------------


def error_of(note: bytes | bytearray) -> HfthotError:
    """Return the error that a worker reports; of what it says, only text within bounds is believed."""
    try:
        said = json.loads(bytes(note))
        kind = getattr(errors, str(said["kind"]), None)
        what, where, hint = (_printable(said[part]) for part in ("what", "where", "hint"))
    except (ValueError, KeyError, TypeError):
        return SqlWorkerError("the process that ran the statement sent a malformed message", where="SQL")
    if not (isinstance(kind, type) and issubclass(kind, (SqlError, errors.UnknownTableError))):
        kind = SqlError
    return kind(what, where=where, hint=hint)


def _printable(text: object) -> str:
    return "".join(sign if sign.isprintable() else " " for sign in str(text)[:2000])


def read_schema(message: bytes | bytearray) -> pa.Schema:
    """Return the schema that a worker sends.

    Raises:
        SqlError: a column has a type that cannot be returned.
        SqlWorkerError: it is not one.
    """
    if b"ARROW:extension" in message:
        raise SqlWorkerError("the process that ran the statement sent a malformed message", where="SQL")
    try:
        schema = pa.ipc.read_schema(pa.py_buffer(message))
    except (pa.ArrowException, OSError, ValueError):
        raise SqlWorkerError("the process that ran the statement sent a malformed message", where="SQL") from None
    if len(schema) > _MOST_COLUMNS:
        raise SqlError(f"the result has {len(schema)} columns", where="SQL", hint=f"Select at most {_MOST_COLUMNS}.")
    for column in schema:
        if not _returnable(column.type):
            raise SqlError(
                f"the column {_printable(column.name)[:80]!r} has a type that cannot be returned",
                where="SQL",
                hint="Cast it to text.",
            )
    return schema.remove_metadata()


def _returnable(kind: pa.DataType, depth: int = 0) -> bool:
    if depth > 32:
        return False
    if any(test(kind) for test in _LIST_KINDS):
        return not pa.types.is_null(kind.value_type) and _returnable(kind.value_type, depth + 1)
    if pa.types.is_struct(kind):
        return all(_returnable(kind.field(index).type, depth + 1) for index in range(kind.num_fields))
    if pa.types.is_map(kind):
        return _returnable(kind.key_type, depth + 1) and _returnable(kind.item_type, depth + 1)
    return not isinstance(kind, pa.BaseExtensionType) and any(test(kind) for test in _PLAIN_KINDS)


def read_batch(message: bytes | bytearray, schema: pa.Schema, rows: int, size: int) -> pa.RecordBatch:
    """Return the rows that a worker sends, checked to the last offset.

    Args:
        message: an Arrow message, of which buffers of the batch are views.
        schema: what its columns must be.
        rows: that may still come.
        size: bytes that may still come, as `weight` counts them.

    Raises:
        SqlWorkerError: it is not one, is compressed (and could be of any size), or has more than may come.
    """
    try:
        if _compressed(message):
            raise SqlWorkerError("the process that ran the statement sent a malformed message", where="SQL")
        batch = pa.ipc.read_record_batch(pa.py_buffer(message), schema)
        try:
            batch.validate(full=True)
        except pa.ArrowInvalid:
            raise SqlError(
                "a value cannot be represented in Arrow, such as a number of more than 38 digits",
                where="SQL",
                hint="Cast the column to text.",
            ) from None
        if batch.num_rows > rows or weight(batch) > size:
            raise SqlWorkerError("the process that ran the statement exceeded its limits", where="SQL")
    except (pa.ArrowException, OSError, ValueError, struct.error, IndexError):
        raise SqlWorkerError("the process that ran the statement sent a malformed message", where="SQL") from None
    return batch


def _compressed(message: bytes | bytearray) -> bool:
    """Whether an Arrow message has compressed buffers: read from its FlatBuffers head, Message and RecordBatch."""
    start = 8 if message[:4] == b"\xff\xff\xff\xff" else 4
    root = start + struct.unpack_from("<I", message, start)[0]
    header = _field(message, root, 2)
    if header is None:
        raise ValueError("no header")
    batch = header + struct.unpack_from("<I", message, header)[0]
    return _field(message, batch, 3) is not None


def _field(message: bytes | bytearray, table: int, number: int) -> int | None:
    """Return where a field of a FlatBuffers table is, None if the table does not have it."""
    vtable = table - struct.unpack_from("<i", message, table)[0]
    size = struct.unpack_from("<H", message, vtable)[0]
    entry = 4 + 2 * number
    if entry + 2 > size:
        return None
    offset = struct.unpack_from("<H", message, vtable + entry)[0]
    return table + offset if offset else None


# -- what a caller gets -------------------------------------------------------------------------------------------


def encoded(table: pa.Table, form: Format, most: int, go_on: Callable[[], None] = lambda: None) -> tuple[Any, int]:
    """Return a table in a format, and how many of its rows are in it: JSON and CSV may not exceed `most` bytes.

    Args:
        table: the rows.
        form: the format.
        most: bytes of text.
        go_on: called now and then; what it raises ends the work.

    Raises:
        SqlError: a column has no form in that format, such as an interval of months, or two columns have one name
            and the format is neither Arrow nor CSV.
    """
    if form == "arrow":
        return table, table.num_rows
    try:
        if form == "json":
            require_own_names(table)
            return _text(table, most, go_on, opening="[", between=",", closing="]", line=_json_lines)
        if form == "csv":
            return _text(table, most, go_on, opening=_csv_line(table.column_names), line=_csv_lines)
        frame = narrowed(as_frame(table))
    except (
        pa.ArrowException,
        pl.exceptions.PolarsError,
        pl.exceptions.PanicException,
        OverflowError,
        ValueError,
    ) as error:
        raise SqlError(
            f"a value cannot be represented in {form} ({type(error).__name__})",
            where="SQL",
            hint="Cast the column to text.",
        ) from None
    if form == "polars":
        return frame, frame.height
    sink = io.BytesIO()
    pq.write_table(frame.to_arrow(), sink, compression="zstd")
    return sink.getvalue(), frame.height


#: Text that is made at once, in bytes.
_CHUNK: Final = 4 * 2**20


def _text(
    table: pa.Table,
    most: int,
    go_on: Callable[[], None],
    *,
    opening: str,
    line: Callable[[pa.Table], Iterator[str]],
    between: str = "",
    closing: str = "",
) -> tuple[str, int]:
    parts, rows, size = [opening], 0, len(opening)
    for piece in _slices(_microseconds(table), most):
        go_on()
        for part in line(piece):
            size += len(part.encode()) + len(between)
            if size > most:
                return "".join([*parts, closing]), rows
            parts += [between, part] if rows else [part]
            rows += 1
    return "".join([*parts, closing]), rows


def _slices(table: pa.Table, most: int) -> Iterator[pa.Table]:
    """Yield a table in pieces whose text is of a moderate size; what a name repeated in each row adds is counted."""
    for batch in table.to_batches(max_chunksize=4_096):
        waiting = [batch]
        while waiting:
            piece = waiting.pop()
            size = sum(
                _text_size(column) + len(name) * len(column)
                for name, column in zip(piece.schema.names, piece.columns, strict=True)
            )
            if size <= _CHUNK:
                yield pa.Table.from_batches([piece])
            elif piece.num_rows > 1:
                half = piece.num_rows // 2
                waiting += [piece.slice(half), piece.slice(0, half)]
            elif size <= most:
                yield pa.Table.from_batches([piece])
            else:
                return  # one row is larger than all that may be returned


def _text_size(array: pa.Array) -> int:
    """Return about how many characters the values of an array take as text."""
    kind = array.type
    if pa.types.is_struct(kind):
        names = sum(len(kind.field(index).name) + 4 for index in range(kind.num_fields))
        return len(array) * names + sum(_text_size(array.field(index)) for index in range(kind.num_fields))
    if any(test(kind) for test in _LIST_KINDS):
        return 2 * len(array) + _text_size(array.flatten())
    if pa.types.is_map(kind):
        return weight(pa.RecordBatch.from_arrays([array], ["map"])) * 8
    if any(test(kind) for test in (pa.types.is_string, pa.types.is_large_string, pa.types.is_binary)):
        return int(array.nbytes) * 2 + 2 * len(array)
    return 24 * len(array)


def _microseconds(table: pa.Table) -> pa.Table:
    """Return a table without nanoseconds, which Python's times do not have."""
    schema = pa.schema([pa.field(column.name, _coarser(column.type)) for column in table.schema])
    return table if schema.types == table.schema.types else table.cast(schema, safe=False)


def _coarser(kind: pa.DataType) -> pa.DataType:
    if pa.types.is_timestamp(kind):
        return pa.timestamp("us", kind.tz)
    if pa.types.is_time64(kind):
        return pa.time64("us")
    if pa.types.is_duration(kind):
        return pa.duration("us")
    if pa.types.is_list(kind):
        return pa.list_(_coarser(kind.value_type))
    if pa.types.is_struct(kind):
        return pa.struct([pa.field(member.name, _coarser(member.type)) for member in kind])
    if pa.types.is_map(kind):
        return pa.map_(_coarser(kind.key_type), _coarser(kind.item_type))
    return kind


def _json_lines(table: pa.Table) -> Iterator[str]:
    names = table.column_names
    columns = [column.to_pylist() for column in table.columns]
    for row in zip(*columns, strict=True):
        yield json.dumps(dict(zip(names, map(_plain, row), strict=True)), ensure_ascii=False, allow_nan=False)


def _csv_lines(table: pa.Table) -> Iterator[str]:
    for row in zip(*(column.to_pylist() for column in table.columns), strict=True):
        yield _csv_line([_cell(value) for value in row])


def _csv_line(values: Sequence[object]) -> str:
    sink = io.StringIO()
    csv.writer(sink, lineterminator="\n").writerow(values)
    return sink.getvalue()


def _cell(value: object) -> object:
    plain = _plain(value)
    if isinstance(plain, bool):
        return "true" if plain else "false"
    return json.dumps(plain, ensure_ascii=False) if isinstance(plain, (dict, list)) else plain


def _plain(value: Any) -> Any:
    """Return a value as JSON has it: times in UTC as ISO 8601, no NaN or infinity (null), bytes as base64."""
    if value is None or isinstance(value, (bool, int, str)):
        return value
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, Decimal):
        return int(value) if value == value.to_integral_value() and -value.as_tuple().exponent <= 0 else float(value)  # type: ignore[operator]
    if isinstance(value, datetime):
        moment = value.replace(tzinfo=UTC) if value.tzinfo is None else value.astimezone(UTC)
        return moment.isoformat().replace("+00:00", "Z")
    if isinstance(value, (date, time)):
        return value.isoformat()
    if isinstance(value, timedelta):
        return value.total_seconds()
    if isinstance(value, bytes):
        return base64.b64encode(value).decode()
    if isinstance(value, dict):
        return {name: _plain(item) for name, item in value.items()}
    if isinstance(value, pa.MonthDayNano):
        return f"P{value.months}M{value.days}DT{value.nanoseconds / 1e9:.9g}S"
    if isinstance(value, (list, tuple)):
        return [_plain(item) for item in value]
    raise ValueError(type(value).__name__)
