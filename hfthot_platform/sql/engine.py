"""Trusted SQL: one statement on DuckDB over chosen versions of the lake's tables, read-only.

Each statement gets its own in-memory database that holds a view for every table it names and nothing else.
On a local lake a view reads the active Parquet files of one version directly: partition values prune whole
files before they are opened and row-group statistics prune inside.  On an object store, where DuckDB
would need an extension from the network, the view is a Polars scan, which takes the same filters.

This guards against accidents, not against strangers: there is no deadline and no process boundary.
"""

from __future__ import annotations

import re
import shutil
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor, wait
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import datetime
from itertools import groupby
from pathlib import Path
from typing import TYPE_CHECKING, NoReturn, TypeVar

import duckdb
import numpy as np
import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq

from hfthot_platform.contracts import CONTRACTS, TableContract
from hfthot_platform.contracts.model import DATE, FLAG, FLOAT, INT, SMALL, TEXT, TIME
from hfthot_platform.contracts.views import VIEWS
from hfthot_platform.errors import (
    BadRequestError,
    DamagedTableError,
    SqlError,
    UnknownColumnError,
    UnknownTableError,
    nearest,
)

if TYPE_CHECKING:
    from hfthot_platform.lakehouse import Lakehouse
    from hfthot_platform.lakehouse.commits import Snapshot

__all__ = ["Limits", "Parameters", "SqlResult", "SqlStream", "opened", "query"]

#: Values of `$name` parameters, or of `?` parameters in order.
Parameters = Mapping[str, object] | Sequence[object]

_TYPES: dict[pa.DataType, str] = {
    TIME: "TIMESTAMP WITH TIME ZONE",
    DATE: "DATE",
    TEXT: "VARCHAR",
    FLOAT: "DOUBLE",
    INT: "BIGINT",
    SMALL: "INTEGER",
    FLAG: "BOOLEAN",
}
#: Statements that write can hide in a WITH clause of a SELECT.
_WRITING = {"alter", "attach", "copy", "create", "delete", "drop", "export", "import", "insert", "install", "load"}
_WRITING |= {"merge", "set", "truncate", "update", "vacuum"}
_T = TypeVar("_T")
_BATCH_ROWS = 122_880  # DuckDB's row group


@dataclass(frozen=True)
class Limits:
    """What a statement may use; beyond `memory` it spills to `spill`, or fails where that is None."""

    memory: str = "4GB"
    threads: int = 2
    spill: Path | None = None


@dataclass(frozen=True)
class SqlResult:
    """All rows of a statement."""

    frame: pl.DataFrame
    #: The tables that the statement names, each with the version that was read (-1: never written).
    tables: dict[str, int]
    seconds: float


class SqlStream:
    """The rows of a statement, piece by piece; good once, inside its `opened` block."""

    def __init__(self, worker: _Worker, relation: duckdb.DuckDBPyRelation, tables: dict[str, int], sql: str) -> None:
        self._worker = worker
        self._relation = relation
        self._sql = sql
        self.tables = tables
        self.columns: list[str] = list(relation.columns)

    def batches(self) -> Iterator[pl.DataFrame]:
        """Yield the rows in bounded memory; the first piece is there even if it has no rows."""
        with _translated(self._sql, self.tables):
            reader = self._worker.run(lambda: self._relation.to_arrow_reader(_BATCH_ROWS))
            yield _utc(_as_polars(pa.Table.from_batches([], reader.schema)))
            while (batch := self._worker.run(lambda: next(reader, None))) is not None:
                yield _utc(_as_polars(pa.Table.from_batches([batch])))

    def frame(self) -> pl.DataFrame:
        """Return all rows.  Whole numbers from sums come back as Int64 wherever they fit."""
        with _translated(self._sql, self.tables):
            frame = _utc(_as_polars(self._worker.run(self._relation.to_arrow_table)))
        whole = [name for name, dtype in frame.schema.items() if dtype == pl.Decimal(38, 0)]
        for name in whole:
            narrow = frame[name].cast(pl.Int64, strict=False)
            if narrow.null_count() == frame[name].null_count():
                frame = frame.with_columns(narrow)
        return frame


def query(
    lake: Lakehouse,
    sql: str,
    *,
    params: Parameters | None = None,
    versions: Mapping[str, int] | None = None,
    as_of: datetime | None = None,
    limits: Limits | None = None,
) -> SqlResult:
    """Run one SELECT and return all its rows.

    Args:
        lake: the lake; each of its tables is there as `namespace.table`, and so are the views.
        sql: one SELECT, PIVOT, DESCRIBE, SUMMARIZE or EXPLAIN in DuckDB's dialect.  Times are UTC.
        params: values of `$name` or `?` parameters; never put values into the text.
        versions: versions to read, by table; the current one otherwise.
        as_of: reads every table not in `versions` as it was at this time.
        limits: memory, threads and spill folder.

    Raises:
        SqlError: the statement is not one read-only statement, or cannot run; the message says where.
        UnknownTableError: it names no table of the lake; the message suggests the nearest one.
        UnknownColumnError: the same for a column.
        BadRequestError: a version is given for a table that the statement does not name, or a time has no zone.
        VersionUnavailableError: a version is not readable (any more).
        DamagedTableError: a data file is missing or unreadable.
    """
    started = time.perf_counter()
    with opened(lake, sql, params=params, versions=versions, as_of=as_of, limits=limits) as stream:
        frame = stream.frame()
    return SqlResult(frame, stream.tables, time.perf_counter() - started)


class _Worker:
    """Runs DuckDB's long calls beside the calling thread, because they do not notice Ctrl-C by themselves."""

    def __init__(self, connection: duckdb.DuckDBPyConnection) -> None:
        self._connection = connection
        self._pool = ThreadPoolExecutor(1, thread_name_prefix="sql")

    def run(self, work: Callable[[], _T]) -> _T:
        future = self._pool.submit(work)
        try:
            # In short waits: a signal that another thread receives does not wake this one.
            while not future.done():
                wait([future], timeout=0.2)
            return future.result()
        except KeyboardInterrupt:
            self._connection.interrupt()
            raise

    def close(self) -> None:
        self._pool.shutdown()


@contextmanager
def opened(
    lake: Lakehouse,
    sql: str,
    *,
    params: Parameters | None = None,
    versions: Mapping[str, int] | None = None,
    as_of: datetime | None = None,
    limits: Limits | None = None,
) -> Iterator[SqlStream]:
    """Prepare one SELECT and hold it open for reading piece by piece; arguments and errors as in `query`."""
    limits = limits or Limits()
    named = _names_in(sql)
    chosen = _chosen_versions(lake, named, versions or {})
    spill = None
    if limits.spill is not None:
        limits.spill.mkdir(parents=True, exist_ok=True)
        spill = tempfile.mkdtemp(prefix="sql-", dir=limits.spill)
    connection = _connect(limits, spill)
    worker = _Worker(connection)
    try:
        tables = _register(connection, lake, named, chosen, as_of)
        with _translated(sql, tables):
            values = _bound(params)
            relation = worker.run(lambda: connection.sql(sql, params=values))
        if relation is None:
            raise SqlError("the statement returns no rows", where="SQL", hint="Write a SELECT.")
        yield SqlStream(worker, relation, tables, sql)
    finally:
        worker.close()
        connection.close()
        if spill is not None:
            shutil.rmtree(spill, ignore_errors=True)


# -- reading the statement ----------------------------------------------------------------------------------


def _names_in(sql: str) -> list[str]:
    """Return the tables and views that a statement names; it must be one statement that only reads.

    Looks at the tokens alone, because the parser's own list of table names fails on parameters and PIVOT.
    """
    with _translated(sql, {}):
        statements = duckdb.extract_statements(sql)
        tokens = duckdb.tokenize(sql)
    if len(statements) != 1:
        raise SqlError(f"{len(statements)} statements instead of one", where="SQL", hint="Run them one at a time.")
    kinds = duckdb.StatementType
    # MULTI is a PIVOT whose columns have to be looked up first.
    allowed = {kinds.SELECT, kinds.EXPLAIN, kinds.MULTI}
    text = sql.encode()
    ends = [start for start, _ in tokens[1:]] + [len(text)]
    words = [(text[start:end].decode().strip(), kind) for (start, kind), end in zip(tokens, ends, strict=True)]
    writing = next((word for word, kind in words if kind == duckdb.token_type.keyword and word.lower() in _WRITING), "")
    if statements[0].type not in allowed or writing:
        raise SqlError(
            f"{(writing or words[0][0]).upper()} is not allowed: SQL only reads",
            where="SQL",
            hint='Write a SELECT; put a column of that name in double quotes, as in "update".',
        )
    plain = [word.strip('"').lower() for word, kind in words if kind != duckdb.token_type.comment]
    pairs = {f"{a}.{b}" for a, dot, b in zip(plain, plain[1:], plain[2:], strict=False) if dot == "."}
    return sorted(pairs & {*CONTRACTS, *VIEWS})


def _chosen_versions(lake: Lakehouse, named: list[str], versions: Mapping[str, int]) -> dict[str, int]:
    """Return the asked versions by table, each table of the statement at most once."""
    chosen: dict[str, int] = {}
    for name, version in versions.items():
        table = VIEWS[name].of.name if name in VIEWS else lake.table(name).contract.name
        if name not in named and table not in {_table_of(each) for each in named}:
            raise BadRequestError(
                f"version {version} is asked of a table that the statement does not name",
                where=name,
                hint=f"The statement names {', '.join(named) or 'no table'}.",
            )
        if chosen.setdefault(table, version) != version:
            raise BadRequestError(
                f"versions {chosen[table]} and {version} of one table in one statement",
                where=table,
                hint="Run two statements and compare their results.",
            )
    return chosen


def _table_of(name: str) -> str:
    return VIEWS[name].of.name if name in VIEWS else name


def _bound(params: Parameters | None) -> dict[str, object] | list[object] | None:
    if not params:
        return None
    values: dict[str, object] | list[object] = dict(params) if isinstance(params, Mapping) else list(params)
    for name, value in values.items() if isinstance(values, dict) else enumerate(values, 1):
        if isinstance(value, datetime) and value.tzinfo is None:
            raise BadRequestError(
                f"the time {value.isoformat()} has no zone", where=f"parameter {name}", hint="Write it with +00:00."
            )
    return values


# -- the database of one statement ----------------------------------------------------------------------------


def _connect(limits: Limits, spill: str | None) -> duckdb.DuckDBPyConnection:
    options: dict[str, str | bool | int | float | list[str]] = {
        "threads": limits.threads,
        "memory_limit": limits.memory,
        "temp_directory": spill or "",
        "autoinstall_known_extensions": False,
        "autoload_known_extensions": False,
    }
    try:
        connection = duckdb.connect(config=options)
    except duckdb.Error as error:
        raise SqlError(
            _first_line(error), where="SQL limits", hint="Write HFTHOT_DUCKDB_MEMORY like 4GB or 500MB."
        ) from None
    connection.execute("SET TimeZone = 'UTC'")
    connection.execute("SET enable_progress_bar = false")
    return connection


def _register(
    connection: duckdb.DuckDBPyConnection,
    lake: Lakehouse,
    named: list[str],
    versions: Mapping[str, int],
    as_of: datetime | None,
) -> dict[str, int]:
    """Make a view for each named table; afterwards no file but theirs can be opened.  Return the versions."""
    for namespace in sorted({name.split(".")[0] for name in (*CONTRACTS, *VIEWS)}):
        connection.execute(f"CREATE SCHEMA {_quoted(namespace)}")
    read: dict[str, int] = {}
    opened_paths: list[str] = []
    for name in sorted({_table_of(each) for each in named}):
        table = lake.table(name)
        version = versions.get(name)
        snapshot = table.snapshot(version, as_of if version is None else None)
        read[name] = -1 if snapshot is None else snapshot.version
        if snapshot is None or not snapshot.paths:
            body = _no_rows(table.contract)
        elif lake.storage.local is not None:
            body = _files(table.contract, snapshot)
            opened_paths += snapshot.paths
        else:
            scan = f"scan_{len(read)}"
            connection.register(scan, table.scan(snapshot.version))
            body = f"SELECT {_listed(table.contract.column_names)} FROM {scan}"  # noqa: S608 - a name of our own
        with _translated("", read):
            connection.execute(f"CREATE VIEW {_qualified(name)} AS {body}")
    for view in (VIEWS[name] for name in named if name in VIEWS):
        columns = _listed(view.columns)
        connection.execute(
            f"CREATE VIEW {_qualified(view.name)} AS SELECT {columns} FROM {_qualified(view.of.name)}"  # noqa: S608
        )
    connection.execute(f"SET allowed_paths = [{', '.join(map(_text, opened_paths))}]")
    connection.execute("SET enable_external_access = false")
    connection.execute("SET lock_configuration = true")
    return read


def _files(contract: TableContract, snapshot: Snapshot) -> str:
    """Return the SELECT that reads the files; those from before a column was added give NULL for it."""
    paths = list(snapshot.paths)
    groups: list[tuple[frozenset[str], list[str]]] = [(frozenset(contract.column_names), paths)]
    if contract.schema_version > 1:
        has = {path: frozenset(pq.read_schema(path).names) | {contract.partition_by or ""} for path in paths}
        paths.sort(key=lambda path: sorted(has[path]))
        groups = [(columns, list(group)) for columns, group in groupby(paths, key=has.__getitem__)]
    hive = ""
    if contract.partition_by:
        kind = _TYPES[contract.column(contract.partition_by).dtype]
        hive = f", hive_partitioning = true, hive_types = {{{_text(contract.partition_by)}: {kind}}}"
    selects = []
    for present, group in groups:
        columns = ", ".join(
            _quoted(column.name)
            if column.name in present
            else f"NULL::{_TYPES[column.dtype]} AS {_quoted(column.name)}"
            for column in contract.columns
        )
        listed = ", ".join(map(_text, group))
        selects.append(f"SELECT {columns} FROM read_parquet([{listed}]{hive})")  # noqa: S608 - quoted by us
    return " UNION ALL ".join(selects)


def _no_rows(contract: TableContract) -> str:
    columns = ", ".join(f"NULL::{_TYPES[column.dtype]} AS {_quoted(column.name)}" for column in contract.columns)
    return f"SELECT {columns} WHERE false"


def _quoted(name: str) -> str:
    return '"' + name.replace('"', '""') + '"'


def _qualified(name: str) -> str:
    return ".".join(_quoted(part) for part in name.split("."))


def _listed(names: Sequence[str]) -> str:
    return ", ".join(map(_quoted, names))


def _text(value: str) -> str:
    return "'" + value.replace("'", "''") + "'"


# -- what comes back ------------------------------------------------------------------------------------------


def _as_polars(table: pa.Table) -> pl.DataFrame:
    """Return an Arrow table as Polars; intervals, which Polars does not know, become durations."""
    for position, field in enumerate(table.schema):
        if field.type == pa.month_day_nano_interval():
            table = table.set_column(position, field.name, _durations(table.column(position)))
    frame = pl.from_arrow(table)
    if not isinstance(frame, pl.DataFrame):
        raise TypeError(type(frame))
    return frame


def _durations(column: pa.ChunkedArray) -> pa.ChunkedArray:
    parts = np.dtype([("months", "<i4"), ("days", "<i4"), ("nanoseconds", "<i8")])
    chunks = []
    for chunk in column.chunks:
        values = np.frombuffer(chunk.buffers()[1], dtype=parts)[chunk.offset : chunk.offset + len(chunk)]
        present = chunk.is_valid().to_numpy(zero_copy_only=False)
        if values["months"][present].any():
            raise SqlError(
                "an interval of months has no fixed length", where="SQL", hint="Cast it to text, or count in days."
            )
        microseconds = values["days"].astype(np.int64) * 86_400_000_000 + values["nanoseconds"] // 1000
        chunks.append(pa.array(microseconds, pa.duration("us"), mask=~present))
    return pa.chunked_array(chunks, pa.duration("us"))


def _utc(frame: pl.DataFrame) -> pl.DataFrame:
    """Label times as UTC: DuckDB's session runs in UTC, so times without a zone are UTC as well."""
    return frame.with_columns(
        pl.col(name).dt.replace_time_zone("UTC")
        if dtype.time_zone is None
        else pl.col(name).dt.convert_time_zone("UTC")
        for name, dtype in frame.schema.items()
        if isinstance(dtype, pl.Datetime)
    )


# -- errors ---------------------------------------------------------------------------------------------------

_LINE = re.compile(r"^LINE (\d+):", re.MULTILINE)
_NO_TABLE = re.compile(r'Table with name "?([^\s"!]+)"? does not exist')
_NO_COLUMN = re.compile(r'(?:Referenced column|does not have a column named|Column(?: with name)?) "([^"]+)"')
_NO_FILE = re.compile(r"[^\s'\"]+\.parquet")


@contextmanager
def _translated(sql: str, tables: Mapping[str, int]) -> Iterator[None]:
    try:
        yield
    except (duckdb.Error, pa.ArrowException, OSError) as error:
        # A statement that fails while its rows are read in pieces fails with Arrow's or the system's error, which
        # has DuckDB's message.
        _raise(error, sql, tables)


def _raise(error: Exception, sql: str, tables: Mapping[str, int]) -> NoReturn:
    text = str(error)
    line = _LINE.search(text)
    where = f"SQL, line {line.group(1)}" if line and "\n" in sql.strip() else "SQL"
    if found := _NO_TABLE.search(text):
        raise _unknown_table(found.group(1), where) from None
    if text.startswith("Binder Error") and (found := _NO_COLUMN.search(text)):
        columns = [column for name in tables for column in CONTRACTS[name].column_names]
        hint = nearest(found.group(1), columns) or f"Columns there: {', '.join(dict.fromkeys(columns))}."
        raise UnknownColumnError(f"unknown column {found.group(1)!r}", where=where, hint=hint) from None
    if "Out of Memory Error" in text:
        raise SqlError(
            _first_line(error),
            where=where,
            hint="Select less, raise HFTHOT_DUCKDB_MEMORY, or give HFTHOT_SCRATCH more room to spill to.",
        ) from None
    if tables and (path := _NO_FILE.search(text)):
        raise DamagedTableError(
            f"file at fault: {path.group(0)}; {_first_line(error)}",
            where=", ".join(tables),
            hint="`hfthot doctor` lists what is intact; `hfthot restore TABLE VERSION` goes back to it.",
        ) from None
    raise SqlError(_first_line(error), where=where, hint=_second_line(text)) from None


def _unknown_table(name: str, where: str) -> UnknownTableError:
    known = [*CONTRACTS, *VIEWS]
    bare = {each.split(".")[1]: each for each in reversed(known)}
    hint = f"Write its full name, {bare[name.lower()]!r}." if name.lower() in bare else nearest(name.lower(), known)
    return UnknownTableError(f"unknown table {name!r}", where=where, hint=hint or f"Known tables: {', '.join(known)}.")


def _first_line(error: Exception) -> str:
    return str(error).strip().splitlines()[0].removesuffix("!").removesuffix(".")[:500]


def _second_line(text: str) -> str:
    """Return DuckDB's advice, which comes between its message and the quoted line."""
    advice = [line for line in text.strip().splitlines()[1:] if line.strip()]
    return advice[0] if advice and not _LINE.match(advice[0]) else ""
