"""Trusted SQL: one statement on DuckDB over chosen versions of the lake's tables, read-only.

Each statement gets its own in-memory database that holds a view for every table it names and nothing else
(`relations`), over the files of one version that its conditions leave in question (`pruning`).

This guards against accidents, not against strangers: there is no deadline and no process boundary.
"""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor, wait
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass, replace
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, NoReturn, TypeVar

import duckdb
import polars as pl
import pyarrow as pa

from hfthot_platform.core.duckdb import complaint_of, literal, new_database, prepare, shut_in, sql_error
from hfthot_platform.core.errors import BadRequestError, DamagedTableError, SqlError
from hfthot_platform.services.sql.frames import as_frame, narrowed
from hfthot_platform.services.sql.relations import Plan, known_names, register, resolve, unknown_table
from hfthot_platform.services.sql.spill import spill_folder
from hfthot_platform.services.sql.sql_parser import ADVISER
from hfthot_platform.services.sql.statement import Statement, parse, tokens_of

if TYPE_CHECKING:
    from hfthot_platform.storage.lakehouse import Lakehouse

__all__ = ["Connect", "Limits", "Parameters", "SqlResult", "SqlStream", "opened", "opened_plan", "query"]

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

    def __init__(self, worker: _Worker, relation: duckdb.DuckDBPyRelation, context: _Context) -> None:
        self._worker = worker
        self._relation = relation
        self._context = context
        #: As in `SqlResult`.
        self.tables: dict[str, int] = context.plan.tables
        #: As in `SqlResult`.
        self.bytes_scanned = context.size
        self.columns: list[str] = list(relation.columns)

    def batches(self) -> Iterator[pl.DataFrame]:
        """Yield the rows in bounded memory; the first piece is there even if it has no rows."""
        with self._context.translated():
            reader = self._worker.run(lambda: self._relation.to_arrow_reader(_BATCH_ROWS))
            yield as_frame(pa.Table.from_batches([], reader.schema))
            while (batch := self._worker.run(lambda: next(reader, None))) is not None:
                yield as_frame(pa.Table.from_batches([batch]))

    def frame(self) -> pl.DataFrame:
        """Return all rows.  Whole numbers from sums come back as Int64 wherever they fit."""
        with self._context.translated():
            return narrowed(as_frame(self._worker.run(self._relation.to_arrow_table)))


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
    connect: Connect | None = None,
) -> Iterator[SqlStream]:
    """Prepare one SELECT and hold it open for reading piece by piece; arguments and errors as in `query`.

    Inside the Dagster graph pass `connect=duckdb.get_connection` of the `duckdb` resource (`resources.platform`):
    memory, threads and spilling then come from its configuration, `limits` is not looked at, and each statement still
    has a database of its own, which is locked before the statement runs and thrown away after it.
    """
    statement = parse(sql, known_names(lake))
    _require_reading(statement.sql)
    values = _bound(params)
    plan = resolve(lake, statement, versions, as_of)
    with opened_plan(lake, statement, plan, values, limits, connect) as stream:
        yield stream


@contextmanager
def opened_plan(
    lake: Lakehouse,
    statement: Statement,
    plan: Plan,
    values: dict[str, object] | list[object] | None = None,
    limits: Limits | None = None,
    connect: Connect | None = None,
) -> Iterator[SqlStream]:
    """Run a statement of our own whose tables are resolved already, and perhaps narrowed to some of their files."""
    with _database(limits or Limits()) if connect is None else connect() as connection:
        if connect is not None:
            prepare(connection)
            connection.execute(_SESSION)
        worker = _Worker(connection)
        try:
            context = _Context(lake, statement.sql, plan)
            with context.translated(""):
                paths, context.size = register(connection, lake, statement, plan, _numbered(values))
            # From here on, no other file than these can be opened, and that cannot be undone.
            shut_in(connection, paths)
            with context.translated():
                relation = worker.run(lambda: connection.sql(statement.sql, params=values))
            if relation is None:
                raise SqlError("the statement returns no rows", where="SQL", hint="Write a SELECT.")
            yield SqlStream(worker, relation, context)
        finally:
            worker.close()


# -- before it runs -------------------------------------------------------------------------------------------


def _require_reading(sql: str) -> None:
    """Refuse all but one statement that only reads."""
    try:
        statements = ADVISER.statements(sql)
    except duckdb.Error as error:
        _raise(error, sql, None)
    if len(statements) != 1:
        raise SqlError(f"{len(statements)} statements instead of one", where="SQL", hint="Run them one at a time.")
    kinds = duckdb.StatementType
    # MULTI is a PIVOT whose columns have to be looked up first.
    allowed = {kinds.SELECT, kinds.EXPLAIN, kinds.MULTI}
    _, tokens = tokens_of(sql)
    writing = next((token.text for token in tokens if token.kind == "keyword" and token.text.lower() in _WRITING), "")
    if statements[0].type not in allowed or writing:
        raise SqlError(
            f"{(writing or tokens[0].text).upper()} is not allowed: SQL only reads",
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
                f"the time {value.isoformat()} has no zone", where=f"parameter {name}", hint="Write it with +00:00."
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


class _Spare:
    """A database that is opened beforehand, because opening one takes longer than a small query.

    A process that asks once opens one; from the second time on, the next one is opened behind its back.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._next: tuple[Limits, Future[duckdb.DuckDBPyConnection]] | None = None
        self._pool: ThreadPoolExecutor | None = None
        self._process = 0

    def take(self, limits: Limits) -> duckdb.DuckDBPyConnection:
        limits = replace(limits, spill=None)
        with self._lock:
            ready, self._next = self._next, None
            if self._process != os.getpid():
                # The first time, or the first time after a fork: what the parent opened is the parent's.
                ready, self._pool, self._process = None, None, os.getpid()
        if ready is not None and ready[0] == limits:
            return ready[1].result()
        if ready is not None:
            ready[1].add_done_callback(lambda opened: opened.result().close())
        return _new_database(limits)

    def give_back(self, connection: duckdb.DuckDBPyConnection, limits: Limits) -> None:
        """Close a database and open the next one, both without keeping the caller waiting."""
        limits = replace(limits, spill=None)
        with self._lock:
            pool = self._pool
            if pool is None:
                pool = self._pool = ThreadPoolExecutor(1, thread_name_prefix="sql-spare")
            elif self._next is None:
                self._next = limits, pool.submit(_new_database, limits)
            pool.submit(connection.close)


_SPARE = _Spare()


@contextmanager
def _database(limits: Limits) -> Iterator[duckdb.DuckDBPyConnection]:
    with nullcontext() if limits.spill is None else spill_folder(limits.spill) as folder:
        connection = _SPARE.take(limits)
        try:
            connection.execute(f"SET temp_directory = {literal('' if folder is None else str(folder))}")
            yield connection
        finally:
            if folder is not None and folder.exists():
                connection.close()  # before what it spilled is taken away
            _SPARE.give_back(connection, limits)


class _Context:
    """What an error message needs to know of a statement."""

    def __init__(self, lake: Lakehouse, sql: str, plan: Plan) -> None:
        self.lake = lake
        self.sql = sql
        self.plan = plan
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


def _raise(error: Exception, sql: str, context: _Context | None) -> NoReturn:
    said = complaint_of(error)
    if context is not None and said.table is not None:
        raise unknown_table(said.table, sorted(known_names(context.lake)), said.where(sql)) from None
    of_statement = said.out_of_memory or said.column is not None
    if context is not None and not of_statement and context.plan.sources and said.file is not None:
        raise DamagedTableError(
            f"file at fault: {said.file}; {said.first}",
            where=", ".join(context.plan.tables),
            hint="`hfthot doctor` lists what is intact; `hfthot restore TABLE VERSION` goes back to it.",
        ) from None
    raise sql_error(error, sql, None if context is None else context.plan.columns) from None
