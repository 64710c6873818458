"""Untrusted SQL over a lake: the gateway that an application calls.

A statement is looked at by nobody but the disposable process that runs it; this side resolves names to files by
what its caller sees, keeps the time, and believes nothing that comes back.
"""

from __future__ import annotations

import json
import math
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import Future
from datetime import UTC, date, datetime, timedelta
from datetime import time as time_of_day
from decimal import Decimal
from types import TracebackType
from typing import TYPE_CHECKING, Any, Final, Self

import pyarrow as pa

from hfthot_platform.core.errors import (
    BadRequestError,
    PermissionDeniedError,
    QuotaExceededError,
    SqlRefusedError,
    SqlWorkerError,
)
from hfthot_platform.domain.access.authorisation import Action, Principal, authorise
from hfthot_platform.services.sql.gateway import protocol
from hfthot_platform.services.sql.gateway.catalog import Catalog
from hfthot_platform.services.sql.gateway.limits import QueryLimits
from hfthot_platform.services.sql.gateway.pool import GatewayPool, Ticket, WorkerProcess
from hfthot_platform.services.sql.gateway.results import (
    Format,
    QueryResult,
    encoded,
    error_of,
    format_of,
    read_batch,
    read_schema,
)
from hfthot_platform.services.sql.gateway.worker import Job, weight

if TYPE_CHECKING:
    from hfthot_platform.domain.access.visibility import Relations
    from hfthot_platform.storage.lakehouse import Lakehouse

__all__ = ["Params", "QueryHandle", "QueryStream", "SqlGateway"]

#: Values of `$name` parameters, or of `?` parameters in order.
Params = Mapping[str, object] | Sequence[object]

#: Longest statement, in bytes, and all parameters together.
_LONGEST_TEXT: Final = 100_000
_LARGEST_PARAMS: Final = 2**20
_MOST_REFERENCES: Final = 256


class SqlGateway:
    """Answers one caller's SQL; cheap to make, safe to use from several threads.

    Example:
        >>> principal = Principal(user_id, "registered", "professional")
        >>> gateway = SqlGateway(lake, principal, pool)
        >>> gateway.query("SELECT symbol, avg(close) FROM market.ohlcv GROUP BY ALL", format="polars").data

    Args:
        lake: the lake.
        principal: who asks: what it sees it can read, and its plan says how often.
        pool: the processes to run in.
        limits: of each statement, where they are narrower than the pool's.
        relations: the lake's tables and views, where they are at hand (`relations_of`): computed views are parsed once.
        quota: called once for each statement when it starts to read, so that one that is refused, or finds no place,
            costs nothing; raises `QuotaExceededError` where none is left.  By default the statements of the
            principal's plan are counted in the pool, in memory.
    """

    def __init__(
        self,
        lake: Lakehouse,
        principal: Principal,
        pool: GatewayPool,
        *,
        limits: QueryLimits | None = None,
        relations: Relations | None = None,
        quota: Callable[[], None] | None = None,
    ) -> None:
        self._lake = lake
        self.principal = principal
        self._pool = pool
        self.limits = limits or QueryLimits()
        self._relations = relations
        self._quota = quota
        self._catalog: Catalog | None = None
        self._handles: set[Ticket] = set()
        self._lock = threading.Lock()
        self._closed = False

    def __repr__(self) -> str:
        return f"SqlGateway({self.principal.id!r})"

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Cancel this caller's statements; the pool goes on."""
        with self._lock:
            self._closed = True
            tickets = list(self._handles)
        for ticket in tickets:
            ticket.end("cancelled")

    def query(
        self,
        sql: str,
        params: Params | None = None,
        *,
        format: Format = "arrow",  # noqa: A002 - the product's own word
        limits: QueryLimits | None = None,
        versions: Mapping[str, int] | None = None,
        as_of: datetime | None = None,
    ) -> QueryResult:
        """Run one SELECT and return its rows, or as many as the limits allow.

        Args:
            sql: one SELECT in DuckDB's dialect; SHOW TABLES, DESCRIBE and SUMMARIZE too.  Times are UTC.
            params: scalar values of `$name` or `?` parameters; never put values into the text.
            format: of the rows in `data`: an Arrow table, a Polars frame, a JSON array of objects, CSV text with a
                header, or a Parquet file's bytes.
            limits: narrower than the gateway's.
            versions: versions to read, by table; what the statement itself says wins.
            as_of: reads every other table as it was at this time.

        Raises:
            PermissionDeniedError, TierForbiddenError: the caller has no SQL, or its plan has none.
            SqlRefusedError: the statement does what it may not.
            UnknownTableError, UnknownColumnError: there is none of that name for this caller.
            SqlDeadlineError, SqlMemoryError: it needs more than it may use.
            QuotaExceededError, SqlBusyError: no statement is left in the plan, no place in the queue.
            SqlCancelledError: `close` was called.
            SqlError: it is wrong in itself; the message says where.
            VersionUnavailableError: a version is not readable (any more); the message names the readable range.
            BadRequestError: an argument is out of its domain.
        """
        return self._collect(self._opened(sql, params, limits, versions, as_of), format_of(format))

    def submit(
        self,
        sql: str,
        params: Params | None = None,
        *,
        format: Format = "arrow",  # noqa: A002
        limits: QueryLimits | None = None,
        versions: Mapping[str, int] | None = None,
        as_of: datetime | None = None,
    ) -> QueryHandle:
        """Start one SELECT and return at once; arguments as in `query`, whose errors come with the result."""
        form = format_of(format)
        stream = self._opened(sql, params, limits, versions, as_of)
        return QueryHandle(stream, lambda: self._collect(stream, form))

    def stream(
        self,
        sql: str,
        params: Params | None = None,
        *,
        limits: QueryLimits | None = None,
        versions: Mapping[str, int] | None = None,
        as_of: datetime | None = None,
    ) -> QueryStream:
        """Return the rows of one SELECT as Arrow batches, in bounded memory; arguments and errors as in `query`.

        Use it in a `with` block: the place in the pool is taken until the block ends.
        """
        return self._opened(sql, params, limits, versions, as_of)

    def _collect(self, stream: QueryStream, form: Format) -> QueryResult:
        with stream:
            table = pa.Table.from_batches(stream, stream.schema)
            data, rows = encoded(table, form, stream.limits.bytes, stream.go_on)
            stream.seconds = time.monotonic() - stream._started  # noqa: SLF001 - the form is part of the answer
        cut = "bytes" if rows < table.num_rows else stream.reason
        return QueryResult(
            data=data,
            schema=table.schema,
            rows=rows,
            tables=stream.tables,
            seconds=stream.seconds,
            queued_seconds=stream.queued_seconds,
            bytes_scanned=stream.bytes_scanned,
            truncated=bool(cut),
            reason=cut,
        )

    def _opened(
        self,
        sql: str,
        params: Params | None,
        limits: QueryLimits | None,
        versions: Mapping[str, int] | None,
        as_of: datetime | None,
    ) -> QueryStream:
        authorise(self.principal, Action.SQL_QUERY)
        if as_of is not None and as_of.tzinfo is None:
            raise BadRequestError(
                f"the time {as_of.isoformat()} has no time zone",
                where="as_of",
                hint="Write it with an offset, such as +00:00.",
            )
        allowed = self.limits.within(self._pool.limits)
        allowed = allowed if limits is None else limits.within(allowed)
        with self._lock:
            if self._closed:
                raise SqlWorkerError("this gateway is closed", where="SQL")
            if self._catalog is None:
                self._catalog = Catalog(self._lake, self.principal, self._relations)
            catalog = self._catalog
        if not catalog.permitted:
            raise PermissionDeniedError(
                "the caller may not read any table of this lake",
                where=Action.SQL_QUERY.value,
                hint="Ask an administrator.",
            )
        job = Job(
            sql=_text(sql),
            params=_values(params),
            known=catalog.known,
            as_of=None if as_of is None else as_of.astimezone(UTC),
            rows=allowed.rows,
            bytes=allowed.bytes,
            memory=allowed.memory,
            seconds=allowed.seconds,
            tree=catalog.fetches,
        )
        stream = QueryStream(self._pool, catalog, job, allowed, self.principal.id, versions or {}, self._count)
        with self._lock:
            self._handles.add(stream._ticket)  # noqa: SLF001 - made here
        stream._forget = self._forget  # noqa: SLF001
        return stream

    def _forget(self, ticket: Ticket) -> None:
        with self._lock:
            self._handles.discard(ticket)

    def _count(self) -> None:
        allowed = self.principal.sql_queries
        if self._quota is not None:
            self._quota()
        elif allowed is not None:
            wait = self._pool.count_use(self.principal.id, allowed.count, allowed.per.total_seconds())
            if wait > 0:
                raise QuotaExceededError(
                    f"the plan's {allowed.count} SQL statements per {allowed.per} are used up",
                    retry_after=wait,
                    where=Action.SQL_QUERY.value,
                    hint=f"Wait {wait:.0f} seconds, or choose a larger plan.",
                )


class QueryStream:
    """The rows of a statement, batch by batch; good once, inside a `with` block."""

    def __init__(
        self,
        pool: GatewayPool,
        catalog: Catalog,
        job: Job,
        limits: QueryLimits,
        caller: str,
        versions: Mapping[str, int],
        count: Callable[[], None],
    ) -> None:
        self._count = count
        #: Bytes to tell of where the truth would tell of rows that the caller may not see.
        self._told: int | None = None
        self.limits = limits
        #: The tables that are read, each with its version (-1: never written).
        self.tables: dict[str, int] = {}
        #: What was returned so far, and, once the rows are through, what cut them short: "", "rows" or "bytes".
        self.rows = 0
        self.reason = ""
        self.bytes_scanned = 0
        self.seconds = 0.0
        self.queued_seconds = 0.0
        self._pool = pool
        self._catalog = catalog
        self._job = job
        self._versions = versions
        self._ticket = Ticket(caller)
        self._forget: Callable[[Ticket], None] = lambda _: None
        self._worker: WorkerProcess | None = None
        self._schema: pa.Schema | None = None
        self._started = 0.0
        self._size = 0
        self._state = "new"
        self._once = threading.Lock()

    @property
    def schema(self) -> pa.Schema:
        """Return the columns; known inside the `with` block."""
        if self._schema is None:
            raise BadRequestError("the stream is not open", where="QueryStream", hint="Use it in a with block.")
        return self._schema

    @property
    def process(self) -> int | None:
        """Return the id of the process that runs the statement, None while it waits for one."""
        return None if self._worker is None else self._worker.pid

    @property
    def truncated(self) -> bool:
        """Whether rows are missing at the end; known once they are through."""
        return bool(self.reason)

    def cancel(self) -> None:
        """Stop the statement, from any thread."""
        self._ticket.end("cancelled")

    def go_on(self) -> None:
        """Raise what has ended the statement, or its deadline: for work on its rows after the last one came.

        Raises:
            SqlCancelledError: its caller did.
            SqlDeadlineError: its time is over.
        """
        if time.monotonic() - self._started > self.limits.seconds:
            self._ticket.end("deadline")
        self._ticket.check()

    def __enter__(self) -> Self:
        if self._state != "new":
            raise BadRequestError("the stream was already read", where="QueryStream", hint="Run the statement again.")
        self._state = "open"
        try:
            asked = time.monotonic()
            self._ticket.check()
            self._pool.admit(self._ticket, self.limits.queue_seconds)
            self._started = time.monotonic()
            self.queued_seconds = self._started - asked
            self._worker = self._pool.take(self._ticket, self.limits.seconds)
            self._converse(self._worker)
        except BaseException:
            self.close()
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """End the statement's process and give its place back."""
        with self._once:
            if self._state == "closed":
                return
            self._state = "closed"
        if self._worker is not None:
            self._worker.close()
        self._pool.leave(self._ticket)
        self._forget(self._ticket)

    def __iter__(self) -> Iterator[pa.RecordBatch]:
        """Yield the rows; after the last batch `rows`, `reason` and `bytes_scanned` are final."""
        while self._state == "open":
            kind, body = self._receive(protocol.BATCH + protocol.DONE)
            if kind == protocol.DONE:
                self._finish(body)
                return
            batch = read_batch(body, self.schema, self.limits.rows - self.rows, self.limits.bytes - self._size)
            self.rows += batch.num_rows
            self._size += max(len(body), weight(batch))
            yield batch

    def _converse(self, worker: WorkerProcess) -> None:
        try:
            worker.start(self._job)
            _, body = self._receive(protocol.REFERENCES)
            named = _named(body)
            tree = None
            if self._job.tree:
                _, body = self._receive(protocol.TREE)
                tree = _parsed(body)
            supply, self.tables = self._catalog.supply(
                named, self._versions, self._job.as_of, tree=tree, params=self._job.params, count=self._count
            )
            self._told = supply.told
            worker.supply(supply)
            _, body = self._receive(protocol.SCHEMA)
            self._schema = read_schema(body)
        except protocol.ClosedError:
            raise self._broken() from None

    def _receive(self, kinds: bytes) -> tuple[bytes, bytearray]:
        assert self._worker is not None
        try:
            kind, body = protocol.receive(self._worker.connection, protocol.MAX_FRAME, kinds + protocol.ERROR)
        except protocol.ClosedError:
            raise self._broken() from None
        if kind == protocol.ERROR:
            self._ticket.check()
            raise error_of(body)
        return kind, body

    def _broken(self) -> Exception:
        """Return why a worker ended before it was through."""
        assert self._worker is not None
        self._worker.close()
        self._ticket.check()
        return self._worker.fault()

    def _finish(self, body: bytearray) -> None:
        said = _parsed(body)
        if not isinstance(said, dict):
            raise _nonsense()
        reason = said.get("truncated")
        self.reason = reason if isinstance(reason, str) and reason in {"rows", "bytes"} else ""
        scanned = said.get("scanned")
        if self._told is not None or not isinstance(scanned, int) or not 0 <= scanned < 2**62:
            scanned = self._told or 0
        self.bytes_scanned = int(scanned)
        self.seconds = time.monotonic() - self._started
        self.close()


def _nonsense() -> SqlWorkerError:
    return SqlWorkerError("the process that ran the statement sent a malformed message", where="SQL")


def _parsed(body: bytearray) -> Any:
    """Return what a worker says in JSON, which may be anything.

    Raises:
        SqlWorkerError: it is not JSON.
    """
    try:
        return json.loads(bytes(body))
    except (ValueError, RecursionError):
        raise _nonsense() from None


def _named(body: bytearray) -> list[list[Any]]:
    """Return the names that a worker says its statement has: `[name, view, version, time]` each.

    Raises:
        SqlRefusedError: they are too many.
        SqlWorkerError: they are not names.
    """
    named = _parsed(body)
    if not isinstance(named, list):
        raise _nonsense()
    if len(named) > _MOST_REFERENCES:
        raise SqlRefusedError("the statement names too many tables", where="SQL", hint="Split the statement.")
    for entry in named:
        if not isinstance(entry, list) or len(entry) != 4:
            raise _nonsense()
        name, view, version, moment = entry
        whole = version is None or (isinstance(version, int) and not isinstance(version, bool))
        if not isinstance(name, str) or not isinstance(view, str) or not whole:
            raise _nonsense()
        if moment is not None:
            try:
                datetime.fromisoformat(moment).astimezone(UTC)
            except (TypeError, ValueError, OverflowError):
                raise _nonsense() from None
    return named


class QueryHandle:
    """A statement under way."""

    def __init__(self, stream: QueryStream, work: Callable[[], QueryResult]) -> None:
        self._stream = stream
        self._future: Future[QueryResult] = Future()
        self._work = work
        self._thread = threading.Thread(target=self._run, name="sql-gateway-query", daemon=True)
        self._thread.start()

    def _run(self) -> None:
        try:
            self._future.set_result(self._work())
        except BaseException as error:  # noqa: BLE001 - it is raised where the result is asked for
            self._future.set_exception(error)

    @property
    def process(self) -> int | None:
        """Return the id of the process that runs the statement, None while it waits for one."""
        return self._stream.process

    def done(self) -> bool:
        """Whether there is a result or an error."""
        return self._future.done()

    def cancel(self) -> None:
        """Stop the statement; `result` then raises `SqlCancelledError`, unless it was through already."""
        self._stream.cancel()

    def result(self, timeout: float | None = None) -> QueryResult:
        """Wait for the result, at most so many seconds.

        Raises:
            TimeoutError: it is not there yet.
            SqlCancelledError: it was cancelled.
            SqlError: as in `SqlGateway.query`.
        """
        return self._future.result(timeout)


# -- what a caller sends ------------------------------------------------------------------------------------------


def _text(sql: object) -> str:
    """Return the statement if it is text of a bearable size; nothing here looks at what it says."""
    if not isinstance(sql, str):
        raise BadRequestError(
            f"the statement has the type {type(sql).__name__}", where="sql", hint="Give the statement as text."
        )
    try:
        size = len(sql.encode())
    except UnicodeEncodeError as error:
        raise SqlRefusedError(f"the text is not Unicode at position {error.start}", where="SQL") from None
    if size > _LONGEST_TEXT:
        raise SqlRefusedError(
            f"the statement has {size} bytes",
            where="SQL",
            hint=f"At most {_LONGEST_TEXT} bytes are allowed; pass long values as parameters.",
        )
    if "\0" in sql:
        raise SqlRefusedError("the statement contains a NUL character", where="SQL")
    if not sql.strip():
        raise SqlRefusedError("the statement is empty", where="SQL", hint="Write one SELECT.")
    return sql


def _values(params: Params | None) -> dict[str, object] | list[object] | None:
    if params is None:
        return None
    given: object = params
    if not isinstance(given, Mapping | Sequence) or isinstance(given, str | bytes | bytearray):
        raise BadRequestError(
            "the parameters are neither a mapping nor a list", where="params", hint="Write [value], or {'name': value}."
        )
    values: dict[str, object] | list[object] = dict(params) if isinstance(params, Mapping) else list(params)
    total = 0
    for name, value in list(values.items() if isinstance(values, dict) else enumerate(values)):
        if not isinstance(name, (str, int)):
            raise BadRequestError("a parameter's name is not text", where="params")
        total += len(str(name)) + _size(value, f"parameter {str(name)[:40]}")
        if isinstance(value, datetime):
            values[name] = value.astimezone(UTC)  # type: ignore[index]
    if total > _LARGEST_PARAMS or len(values) > 1_000:
        raise BadRequestError(
            f"there are {len(values)} parameters with {total} bytes",
            where="params",
            hint=f"At most 1000 parameters with {_LARGEST_PARAMS} bytes are allowed.",
        )
    return values


def _size(value: object, where: str) -> int:
    """Return the size of a scalar value.

    Raises:
        BadRequestError: it is not a scalar, or is a time without a zone.
    """
    # Exactly these types: a subclass could be anything once it is unpickled.
    if isinstance(value, datetime) and value.tzinfo is None:
        raise BadRequestError(
            f"the time {value.isoformat()} has no time zone",
            where=where,
            hint="Write it with an offset, such as +00:00.",
        )
    if type(value) is int and not -(2**127) <= value < 2**127:
        raise BadRequestError("the whole number has more than 128 bits", where=where)
    if type(value) is Decimal and not math.isfinite(value):
        raise BadRequestError("the decimal is not a finite number", where=where)
    if type(value) is str:
        return len(value.encode("utf-8", "replace"))
    if type(value) is bytes:
        return len(value)
    if value is None or type(value) in _SCALARS:
        return 16
    raise BadRequestError(
        f"the value has the type {type(value).__name__}",
        where=where,
        hint="Use numbers, text, bytes, booleans and times only.",
    )


_SCALARS: Final[tuple[type[Any], ...]] = (bool, int, float, Decimal, date, datetime, time_of_day, timedelta)
