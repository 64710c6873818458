"""Trusted SQL: one statement on DuckDB over chosen versions of the lake's tables, read-only.

Each statement gets its own in-memory database that holds a view for every table it names and nothing else
(`relations`), over the files of one version that its conditions leave in question (`pruning`).

This guards against accidents, not against untrusted callers: there is no deadline and no process boundary.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor, wait
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, NoReturn, TypeVar

import duckdb
import polars as pl
import pyarrow as pa

from hfthot_platform.core.duckdb import error_details, literal, lock_down, new_database, prepare, sql_error
from hfthot_platform.core.errors import BadRequestError, DamagedTableError, SqlError
from hfthot_platform.core.forks import keep_for_parent, tell_in_child
from hfthot_platform.services.sql.frames import as_frame, narrowed
from hfthot_platform.services.sql.relations import ResolvedRelations, known_names, register, resolve, unknown_table
from hfthot_platform.services.sql.spill import spill_folder
from hfthot_platform.services.sql.statement import Statement, parse, tokens_of

if TYPE_CHECKING:
    from hfthot_platform.storage.lakehouse import Lakehouse

__all__ = [
    "Connect",
    "Databases",
    "Limits",
    "Parameters",
    "SqlResult",
    "SqlStream",
    "opened",
    "opened_resolved",
    "query",
]

#: Values of `$name` parameters, or of `?` parameters in order.
Parameters = Mapping[str, object] | Sequence[object]
#: Gives an in-memory database for one statement, such as `DuckDBResource.get_connection`.
Connect = Callable[[], AbstractContextManager[duckdb.DuckDBPyConnection]]

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
    #: The tables that the statement reads, each with its version (-1: never written); as `name@version` where the
    #: statement reads several versions of one table.
    tables: dict[str, int]
    seconds: float
    #: Size of the data files that had to be considered: an upper bound, as DuckDB reads only some columns and
    #: row groups of them.
    bytes_scanned: int = 0


class SqlStream:
    """The rows of a statement, piece by piece; good once, inside its `opened` block."""

    def __init__(self, calls: _InterruptibleCalls, relation: duckdb.DuckDBPyRelation, context: _ErrorContext) -> None:
        self._calls = calls
        self._relation = relation
        self._context = context
        #: As in `SqlResult`.
        self.tables: dict[str, int] = context.resolved.tables
        #: As in `SqlResult`.
        self.bytes_scanned = context.size
        self.columns: list[str] = list(relation.columns)

    def batches(self) -> Iterator[pl.DataFrame]:
        """Yield the rows in bounded memory; the first piece is there even if it has no rows."""
        with self._context.translated():
            reader = self._calls.run(lambda: self._relation.to_arrow_reader(_BATCH_ROWS))
            yield as_frame(pa.Table.from_batches([], reader.schema))
            while (batch := self._calls.run(lambda: next(reader, None))) is not None:
                yield as_frame(pa.Table.from_batches([batch]))

    def frame(self) -> pl.DataFrame:
        """Return all rows.  Whole numbers from sums come back as Int64 wherever they fit."""
        with self._context.translated():
            return narrowed(as_frame(self._calls.run(self._relation.to_arrow_table)))


def query(
    lake: Lakehouse,
    sql: str,
    *,
    params: Parameters | None = None,
    versions: Mapping[str, int] | None = None,
    as_of: datetime | None = None,
    limits: Limits | None = None,
    connect: Connect | None = None,
) -> SqlResult:
    """Run one SELECT and return all its rows.

    Args:
        lake: the lake; each of its tables is there as `namespace.table`, and so are the views.
        sql: one SELECT, PIVOT, DESCRIBE, SHOW TABLES, SUMMARIZE or EXPLAIN in DuckDB's dialect.  Times are UTC.  A
            table may be followed by `VERSION AS OF 5` or `TIMESTAMP AS OF '2026-01-15 14:00'`; `hfthot.tables`,
            `hfthot.columns` and `hfthot.versions` tell what there is.
        params: values of `$name` or `?` parameters; never put values into the text.
        versions: versions to read, by table; the current one otherwise.
        as_of: reads every table that has no version here or in the statement as it was at this time.
        limits: memory, threads and spill folder.
        connect: gives the database to use instead, see `opened`.

    Raises:
        SqlError: the statement is not one read-only statement, or cannot run; the message says where.
        UnknownTableError: it names no table of the lake; the message suggests the nearest one.
        UnknownColumnError: the same for a column.
        BadRequestError: a version is given for a table that the statement does not name, or a time has no zone.
        VersionUnavailableError: a version is not readable (any more); the message names the readable range.
        DamagedTableError: a data file is missing or unreadable.
    """
    started = time.perf_counter()
    with opened(lake, sql, params=params, versions=versions, as_of=as_of, limits=limits, connect=connect) as stream:
        frame = stream.frame()
    return SqlResult(frame, stream.tables, time.perf_counter() - started, stream.bytes_scanned)


class _InterruptibleCalls:
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
    connect: Connect | None = None,
) -> Iterator[SqlStream]:
    """Prepare one SELECT and hold it open for reading piece by piece; arguments and errors as in `query`.

    Inside the Dagster graph pass `connect=duckdb.get_connection` of the `duckdb` resource (`resources.platform`):
    memory, threads and spilling then come from its configuration, `limits` is not looked at, and each statement still
    has a database of its own, which is locked before the statement runs and thrown away after it.
    """
    statement = parse(sql, known_names(lake))
    values = _bound(params)
    with _session(limits, connect) as connection:
        _require_reading(connection, statement.sql)
        resolved = resolve(lake, statement, versions, as_of)
        with _running(connection, lake, statement, resolved, values) as stream:
            yield stream


@contextmanager
def opened_resolved(
    lake: Lakehouse, statement: Statement, resolved: ResolvedRelations, limits: Limits | None = None
) -> Iterator[SqlStream]:
    """Run a statement of our own whose tables are resolved already, and perhaps narrowed to some of their files."""
    with (
        _session(limits, None) as connection,
        _running(connection, lake, statement, resolved, None) as stream,
    ):
        yield stream


@contextmanager
def _running(
    connection: duckdb.DuckDBPyConnection,
    lake: Lakehouse,
    statement: Statement,
    resolved: ResolvedRelations,
    values: dict[str, object] | list[object] | None,
) -> Iterator[SqlStream]:
    calls = _InterruptibleCalls(connection)
    try:
        context = _ErrorContext(lake, statement.sql, resolved)
        with context.translated(""):
            paths, context.size = register(connection, lake, statement, resolved, _numbered(values))
        # From here on, no other file than these can be opened, and that cannot be undone.
        lock_down(connection, paths)
        with context.translated():
            relation = calls.run(lambda: connection.sql(statement.sql, params=values))
        if relation is None:
            raise SqlError("the statement returns no rows", where="SQL", hint="Write a SELECT.")
        yield SqlStream(calls, relation, context)
    finally:
        calls.close()


# -- before it runs -------------------------------------------------------------------------------------------


def _require_reading(connection: duckdb.DuckDBPyConnection, sql: str) -> None:
    """Refuse all but one statement that only reads; it is parsed and not run."""
    try:
        statements = list(connection.extract_statements(sql))
    except duckdb.Error as error:
        _raise(error, sql, None)
    if not statements:
        raise SqlError("the statement is empty", where="SQL", hint="Write one SELECT.")
    if len(statements) != 1:
        raise SqlError(
            f"there are {len(statements)} statements instead of one", where="SQL", hint="Run them one at a time."
        )
    kinds = duckdb.StatementType
    # MULTI is a PIVOT whose columns have to be looked up first.
    allowed = {kinds.SELECT, kinds.EXPLAIN, kinds.MULTI}
    _, tokens = tokens_of(sql)
    writing = next((token.text for token in tokens if token.kind == "keyword" and token.text.lower() in _WRITING), "")
    if statements[0].type not in allowed or writing:
        raise SqlError(
            f"{(writing or tokens[0].text).upper()} is not allowed: SQL is read-only here",
            where="SQL",
            hint='Write a SELECT; put a column of that name in double quotes, as in "update".',
        )


def _bound(params: Parameters | None) -> dict[str, object] | list[object] | None:
    if not params:
        return None
    values: dict[str, object] | list[object] = dict(params) if isinstance(params, Mapping) else list(params)
    for name, value in values.items() if isinstance(values, dict) else enumerate(values, 1):
        if isinstance(value, datetime) and value.tzinfo is None:
            raise BadRequestError(
                f"the time {value.isoformat()} has no time zone",
                where=f"parameter {name}",
                hint="Write it with an offset, such as +00:00.",
            )
    return values


def _numbered(values: dict[str, object] | list[object] | None) -> dict[str, object]:
    return {str(number): value for number, value in enumerate(values, 1)} if isinstance(values, list) else values or {}


# -- the database of one statement ----------------------------------------------------------------------------

#: Texts come in the form in which Polars holds them.
_SESSION = "SET produce_arrow_string_view = true; SET arrow_output_version = '1.4'"


def _new_database(limits: Limits) -> duckdb.DuckDBPyConnection:
    connection = new_database(threads=limits.threads, memory=limits.memory)
    connection.execute(_SESSION)
    return connection


class Databases:
    """In-memory databases with the same limits for one statement each, the next one opened beforehand.

    Opening a database takes longer than a small query.  Who asks once opens one; from the second time on, the next one
    is opened behind the caller's back.  Pass `get_connection` to `query` or `opened` as `connect`.
    """

    def __init__(self, limits: Limits) -> None:
        self.limits = limits
        self._lock = threading.Lock()
        self._next: Future[duckdb.DuckDBPyConnection] | None = None
        self._thread: ThreadPoolExecutor | None = None
        tell_in_child(self)

    @contextmanager
    def get_connection(self) -> Iterator[duckdb.DuckDBPyConnection]:
        """Open a database of its own; it is thrown away, and what it spilled removed, when the block ends."""
        with _spilling(self.limits, self._take) as connection:
            try:
                yield connection
            finally:
                self._give_back(connection)

    def close(self) -> None:
        """Close the database that is ready; `get_connection` still works, and opens each one when it is asked for."""
        with self._lock:
            ready, self._next = self._next, None
            thread, self._thread = self._thread, None
        if ready is not None:
            ready.result().close()
        if thread is not None:
            thread.shutdown()

    def after_fork_in_child(self) -> None:
        """Leave the database that is ready to the parent, whose threads it has; called by the interpreter."""
        keep_for_parent(self._next, self._thread)
        self._lock, self._next, self._thread = threading.Lock(), None, None

    def _take(self) -> duckdb.DuckDBPyConnection:
        with self._lock:
            ready, self._next = self._next, None
        return _new_database(self.limits) if ready is None else ready.result()

    def _give_back(self, connection: duckdb.DuckDBPyConnection) -> None:
        """Close a database and open the next one, the latter without keeping the caller waiting."""
        with self._lock:
            if self._thread is None:
                self._thread = ThreadPoolExecutor(1, thread_name_prefix="sql-spare")
            elif self._next is None:
                self._next = self._thread.submit(_new_database, self.limits)
        connection.close()


@contextmanager
def _session(limits: Limits | None, connect: Connect | None) -> Iterator[duckdb.DuckDBPyConnection]:
    """Open the database of one statement: one that is given, or a new one."""
    if connect is not None:
        with connect() as connection:
            prepare(connection)
            connection.execute(_SESSION)
            yield connection
        return
    chosen = limits or Limits()
    with _spilling(chosen, lambda: _new_database(chosen)) as connection:
        try:
            yield connection
        finally:
            connection.close()  # before what it spilled is taken away


@contextmanager
def _spilling(limits: Limits, take: Callable[[], duckdb.DuckDBPyConnection]) -> Iterator[duckdb.DuckDBPyConnection]:
    """Give a database a folder of its own to spill to, where the limits have a place for one."""
    with nullcontext() if limits.spill is None else spill_folder(limits.spill) as folder:
        connection = take()
        connection.execute(f"SET temp_directory = {literal('' if folder is None else str(folder))}")
        yield connection


class _ErrorContext:
    """What an error message needs to know of a statement."""

    def __init__(self, lake: Lakehouse, sql: str, resolved: ResolvedRelations) -> None:
        self.lake = lake
        self.sql = sql
        self.resolved = resolved
        self.size = 0

    @contextmanager
    def translated(self, sql: str | None = None) -> Iterator[None]:
        try:
            yield
        except (duckdb.Error, pa.ArrowException, OSError) as error:
            # A statement that fails while its rows are read in pieces fails with Arrow's or the system's error,
            # which has DuckDB's message.
            _raise(error, self.sql if sql is None else sql, self)


# -- errors ---------------------------------------------------------------------------------------------------


def _raise(error: Exception, sql: str, context: _ErrorContext | None) -> NoReturn:
    said = error_details(error)
    if context is not None and said.table is not None:
        raise unknown_table(said.table, sorted(known_names(context.lake)), said.where(sql)) from None
    of_statement = said.out_of_memory or said.column is not None
    if context is not None and not of_statement and context.resolved.sources and said.file is not None:
        raise DamagedTableError(
            f"file at fault: {said.file}; {said.first}",
            where=", ".join(context.resolved.tables),
            hint="Run `hfthot doctor` to find an intact version, and `hfthot restore TABLE VERSION` to go back to it.",
        ) from None
    raise sql_error(error, sql, None if context is None else context.resolved.columns) from None
