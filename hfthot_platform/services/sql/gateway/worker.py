"""One statement, in a process of its own that ends with it.

A worker knows nothing but what it is sent: the statement, the names that its caller may read, and then the files of
those that the statement names.  Nothing of the lake, the settings or the environment is in its memory.
"""

from __future__ import annotations

import json
import os
import pickle
import socket
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from datetime import UTC, date, datetime, time, timedelta
from decimal import Decimal
from pathlib import Path
from typing import Any, Final

import duckdb
import pyarrow as pa
import pyarrow.compute

from hfthot_platform.core.duckdb import lock_down, out_of_memory, quoted, redacted_error
from hfthot_platform.core.errors import (
    HfthotError,
    SqlError,
    SqlRefusedError,
)
from hfthot_platform.services.sql.gateway import protocol, sandbox
from hfthot_platform.services.sql.gateway.checker import check
from hfthot_platform.services.sql.statement import Reference, parse, tree_of

__all__ = ["Job", "SuppliedView", "Supply", "serve", "touch", "warm", "weight"]

#: Rows of one vector batch; DuckDB's row group.
_BATCH_ROWS: Final = 122_880
#: What a message of rows should have at most; halves of a larger one are sent.
_MESSAGE: Final = 4 * 2**20
#: Address space that DuckDB does not count: its plans, the results on their way out, Python.
_OVERHEAD: Final = 192 * 2**20


@dataclass(frozen=True)
class Job:
    """A statement to run."""

    sql: str
    params: Any
    #: Names that the caller may read, as people write them.
    known: tuple[str, ...]
    as_of: datetime | None
    rows: int
    bytes: int
    #: What DuckDB may take, and seconds of processor time.
    memory: int
    seconds: float
    #: Whether the parent wants the statement's tree, to leave out files that it cannot need.
    tree: bool = False


@dataclass(frozen=True)
class SuppliedView:
    """A view to create; `body` is a SELECT of the gateway's own, or `rows` an Arrow stream of all rows."""

    schema: str | None
    view: str
    body: str
    rows: bytes | None = None


@dataclass(frozen=True)
class Supply:
    """What the statement may read, in the order in which the views build on each other."""

    views: tuple[SuppliedView, ...]
    #: Data files, and nothing else, that can be opened.
    paths: tuple[str, ...]
    #: Columns of the views, for suggestions.
    columns: tuple[str, ...] = field(default=())
    #: Set where a file has rows that the caller may not see: bytes to tell of instead of those that are really read,
    #: which depend on the values of all rows of a file.
    told: int | None = None


def warm(connection: duckdb.DuckDBPyConnection) -> None:
    """Use once what loads modules on first use: in a worker none of their files can be opened any more."""
    values: list[object] = [None, True, 1, 2**70, 1.5, "x", b"x", Decimal("1.5"), timedelta(1), time(1)]
    values += [date(2024, 1, 1), datetime(2024, 1, 1, tzinfo=UTC)]
    marks = ", ".join("?" * len(values))
    types = "[1], {'a': 1}, map {'a': 1}, 'x'::ENUM('x'), INTERVAL 1 DAY, uuid(), '{}'::JSON, 1::HUGEINT, '1'::BIT"
    reader = connection.sql(f"SELECT {marks}, {types}", params=values).to_arrow_reader(10)
    schema = pa.schema([pa.field(str(number), _plain(column)) for number, column in enumerate(reader.schema)])
    for batch in reader:
        for piece in _pieces(_decoded(batch, schema)):
            piece.serialize()
        batch.column(2).cast(pa.float64())
    check(connection, "SELECT 1", (), ())
    for wrong in ("SELECT 'a'::INT", "SELECT a", "SELEC"):
        try:
            connection.sql(wrong).fetchall()
        except duckdb.Error as error:
            str(redacted_error(error, wrong, ("b",)))


def touch(connection: duckdb.DuckDBPyConnection) -> None:
    """Make a forked database this process's own, before a statement waits for it.

    Forked random generators would all draw the same numbers; and the first touch of each page after a fork costs
    a fault, which adds up to milliseconds.
    """
    seed = int.from_bytes(os.urandom(4), "big") / 2**32
    check(connection, "SELECT 1", (), ())
    connection.sql("SELECT setseed($1) AS s, count(*) AS n GROUP BY ALL", params=[seed]).to_arrow_reader(10).read_all()


def serve(parent: socket.socket, connection: duckdb.DuckDBPyConnection) -> None:
    """Wait for a statement, run it, send what comes of it."""
    with Path("/proc/self/io").open("rb", buffering=0) as counters:
        sandbox.drop_privileges()
        try:
            _, body = protocol.receive(parent, 2**31, protocol.JOB)
            job: Job = pickle.loads(body)  # noqa: S301 - the parent's own words
            try:
                _run(parent, connection, job, counters)
            except HfthotError as error:
                _fail(parent, error)
            except MemoryError:
                _fail(parent, out_of_memory())
        except protocol.ClosedError:
            return  # the parent lost interest


def _run(parent: socket.socket, connection: duckdb.DuckDBPyConnection, job: Job, counters: Any) -> None:
    sandbox.confine(job.memory + _OVERHEAD, job.seconds)
    connection.execute(f"SET memory_limit = '{job.memory}B'")
    statement = parse(job.sql, job.known, as_of=job.as_of)
    columns: Sequence[str] = ()
    try:
        check(connection, statement.sql, [_path_of(reference) for reference in statement.references], job.known)
        references = [
            (
                reference.name,
                reference.view,
                reference.version,
                reference.as_of.isoformat() if reference.as_of else None,
            )
            for reference in statement.references
        ]
        protocol.send(parent, protocol.REFERENCES, json.dumps(references).encode())
        if job.tree:
            protocol.send(parent, protocol.TREE, _tree(connection, statement.sql))
        _, body = protocol.receive(parent, 2**31, protocol.SUPPLY)
        supply: Supply = pickle.loads(body)  # noqa: S301 - the parent's own words
        columns = supply.columns
        sandbox.confine_files(supply.paths)
        try:
            _prepare(connection, supply)
        except (duckdb.Error, OSError):
            raise SqlError(
                "a table or view that the statement names cannot be read",
                where="SQL",
                hint="Query other tables. The platform's log has the details.",
            ) from None
        before = _read_bytes(counters)
        relation = connection.sql(statement.sql, params=job.params or None)
        if relation is None:
            raise SqlRefusedError("the statement returns no rows", where="SQL", hint="Write one SELECT.")
        if any("UHUGEINT" in str(kind) for kind in relation.types):
            # Arrow's numbers end at 38 digits, and DuckDB lets larger ones wrap around.
            raise SqlError("UHUGEINT cannot be returned", where="SQL", hint="Cast the column to text or DOUBLE.")
        reader = relation.to_arrow_reader(_BATCH_ROWS)
        done = _stream(parent, reader, job)
        protocol.send(parent, protocol.DONE, json.dumps({**done, "scanned": _read_bytes(counters) - before}).encode())
    except HfthotError:
        raise
    except protocol.ClosedError:
        raise
    except RecursionError:
        raise SqlRefusedError(
            "the statement is nested too deeply", where="SQL", hint="Simplify the statement, or split it."
        ) from None
    except Exception as error:  # noqa: BLE001 - whatever it is, an untrusted caller sees the redacted error only
        raise redacted_error(error, statement.sql, columns) from None


def _tree(connection: duckdb.DuckDBPyConnection, sql: str) -> bytes:
    """Return the statement's tree as JSON; null for what has none, and for one that is too large to look at."""
    text = json.dumps(tree_of(connection, sql)).encode()
    return text if len(text) <= protocol.MAX_TREE else b"null"


def _path_of(reference: Reference) -> str:
    table = reference.name.rpartition(".")[2]
    schema = reference.schema
    return table if schema is None else f"{_dots_quoted(schema)}.{table}".lower()


def _dots_quoted(name: str) -> str:
    return name.replace(".", '"."')


def _prepare(connection: duckdb.DuckDBPyConnection, supply: Supply) -> None:
    """Create the views; afterwards nothing but their files can be opened and no setting can be changed."""
    for schema in dict.fromkeys(view.schema for view in supply.views if view.schema is not None):
        connection.execute(f"CREATE SCHEMA {quoted(schema)}")
    for number, view in enumerate(supply.views):
        if view.rows is not None:
            name = f"rows_{number}"
            connection.register(name, pa.ipc.open_stream(view.rows).read_all())
            # Copied, so that the Arrow object behind it is out of reach.
            connection.execute(f"CREATE TABLE {view.view} AS FROM {name}")
            connection.unregister(name)
        else:
            connection.execute(f"CREATE VIEW {view.view} AS {view.body}")
    if supply.told is not None:
        # Whether DuckDB leaves a file out by its statistics would tell of rows that the caller may not see, if only
        # by the time that it takes.
        connection.execute("SET disabled_optimizers = 'statistics_propagation'")
    lock_down(connection, supply.paths)


def _read_bytes(counters: Any) -> int:
    counters.seek(0)
    return int(counters.read().split()[1])


# -- rows on their way out --------------------------------------------------------------------------------------


def weight(batch: pa.RecordBatch) -> int:
    """Return the bytes of a batch, counting every value at least once: lists of nothing take no bytes in Arrow."""
    return int(batch.nbytes) + sum(_values(column) for column in batch.columns)


def _values(array: pa.Array) -> int:
    kind = array.type
    if pa.types.is_struct(kind) or pa.types.is_union(kind):
        return len(array) + sum(_values(array.field(index)) for index in range(kind.num_fields))
    if pa.types.is_list(kind) or pa.types.is_large_list(kind) or pa.types.is_fixed_size_list(kind):
        return len(array) + _values(array.flatten())
    if pa.types.is_map(kind):
        start, end = array.offsets[0].as_py() or 0, array.offsets[len(array)].as_py() or 0
        return len(array) + sum(_values(part.slice(start, end - start)) for part in (array.keys, array.items))
    return len(array)


def _stream(parent: socket.socket, reader: pa.RecordBatchReader, job: Job) -> dict[str, Any]:
    """Send schema and rows up to the caps; return how much that was and what cut it short."""
    schema = pa.schema([pa.field(column.name, _plain(column), column.nullable) for column in reader.schema])
    protocol.send(parent, protocol.SCHEMA, schema.serialize())
    rows = size = 0
    for whole in reader:
        if not whole.num_rows:
            continue
        batch = _decoded(whole, schema)
        for piece in _pieces(batch):
            kept = piece.slice(0, job.rows - rows)
            if kept.num_rows:
                message = kept.serialize()
                size += max(message.size, weight(kept))
                if message.size > protocol.MAX_FRAME or size > job.bytes:
                    return {"rows": rows, "truncated": "bytes"}
                protocol.send(parent, protocol.BATCH, memoryview(message))
                rows += kept.num_rows
                del message
            if kept.num_rows < piece.num_rows:
                return {"rows": rows, "truncated": "rows"}
    return {"rows": rows, "truncated": ""}


def _plain(column: pa.Field) -> pa.DataType:
    """Return a column's type without codes or extensions."""
    kind = column.type
    if isinstance(kind, pa.BaseExtensionType):
        kind = kind.storage_type
    return kind.value_type if pa.types.is_dictionary(kind) else kind


def _decoded(batch: pa.RecordBatch, schema: pa.Schema) -> pa.RecordBatch:
    columns = []
    for column, wanted in zip(batch.columns, schema.types, strict=True):
        values = column.storage if isinstance(column, pa.ExtensionArray) else column
        columns.append(values.dictionary_decode() if pa.types.is_dictionary(values.type) else values)
        if columns[-1].type != wanted:
            columns[-1] = columns[-1].cast(wanted)
    return pa.RecordBatch.from_arrays(columns, schema=schema)


def _pieces(batch: pa.RecordBatch) -> Iterator[pa.RecordBatch]:
    """Yield a batch in pieces that make messages of a moderate size, where rows can be told apart."""
    if batch.num_rows > 1 and weight(batch) > _MESSAGE:
        half = batch.num_rows // 2
        yield from _pieces(batch.slice(0, half))
        yield from _pieces(batch.slice(half))
    else:
        yield batch


# -- errors -------------------------------------------------------------------------------------------------------


def _fail(parent: socket.socket, error: HfthotError) -> None:
    kind = next(name for name in (base.__name__ for base in type(error).__mro__) if name)
    note = {"kind": kind, "what": error.what, "where": error.where, "hint": error.hint}
    protocol.send(parent, protocol.ERROR, json.dumps({key: value[:2000] for key, value in note.items()}).encode())
