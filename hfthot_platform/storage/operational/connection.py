"""Connections to the operational store: for reading, and for an operation with its log entry.

Here belongs running statements.  When connections are opened, shared and committed is `store`'s business.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NamedTuple

import sqlalchemy as sa
from sqlalchemy.engine import CursorResult
from sqlalchemy.sql import Executable

from hfthot_platform.storage.operational.changes import AuditEvent, Entry, RowChange, chained
from hfthot_platform.storage.operational.rows import require_event, require_rows

__all__ = ["Connection", "Head", "Prepared", "Transaction"]


class Head(NamedTuple):
    """The end of the change log, and what is known of the time; times in microseconds."""

    seq: int
    hash: str
    #: Time of the newest entry.
    ts: int
    #: When the clock was last seen.
    seen_at: int
    #: Where it leapt ahead, and nobody has said yet that it is right.
    leapt_from: int | None


class Prepared:
    """A statement for hot paths: compiled once per database, run on the driver itself (2 us instead of 20).

    Values are bound by name and go to the driver as they are; rows come back as plain tuples.
    """

    def __init__(self, statement: Executable) -> None:
        self._statement = statement
        self._compiled: dict[str, tuple[str, dict[str, Any], tuple[str, ...] | None]] = {}

    @classmethod
    def inserting(cls, table: sa.Table) -> Prepared:
        """Return the statement that inserts a whole row, with a value for each column by its name."""
        return cls(sa.insert(table).values({name: sa.bindparam(name) for name in table.c.keys()}))  # noqa: SIM118

    def on(self, dialect: sa.Dialect) -> tuple[str, dict[str, Any], tuple[str, ...] | None]:
        """Return the text, the literals' values, and the order of parameters where they go by position."""
        found = self._compiled.get(dialect.name)
        if found is None:
            compiled: Any = self._statement.compile(dialect=dialect)  # type: ignore[attr-defined]
            order = tuple(compiled.positiontup) if compiled.positional else None
            found = self._compiled[dialect.name] = str(compiled), dict(compiled.params), order
        return found


class Connection:
    """A connection to the store, for statements of SQLAlchemy and for prepared ones."""

    __slots__ = ("_dialect", "_driver", "core", "generation")

    def __init__(self, core: sa.Connection, generation: object) -> None:
        #: SQLAlchemy's connection.
        self.core = core
        #: What changes when the files under it are replaced (`Database.generation`).
        self.generation = generation
        self._dialect = core.dialect
        self._driver: Any = core.connection.driver_connection

    def execute(self, statement: Executable, parameters: Any = None) -> CursorResult[*tuple[Any, ...]]:
        """Run a statement of SQLAlchemy Core; parameters are a mapping, or a list of them for many rows."""
        return self.core.execute(statement, parameters)

    def run(self, prepared: Prepared, values: Mapping[str, Any]) -> list[tuple[Any, ...]]:
        """Run a prepared statement and return its rows."""
        text, literals, order = prepared.on(self._dialect)
        merged = {**literals, **values} if literals.keys() != values.keys() else values
        bound: Any = merged if order is None else [merged[name] for name in order]
        cursor = self._driver.execute(text, bound)
        return cursor.fetchall() if cursor.description is not None else []

    def run_many(self, prepared: Prepared, rows: Iterable[Mapping[str, Any]]) -> None:
        """Run a prepared statement without literals once for each row of values."""
        text, _, order = prepared.on(self._dialect)
        bound: Any = [row if order is None else [row[name] for name in order] for row in rows]
        self._driver.cursor().executemany(text, bound)

    def command(self, text: str) -> Any:
        """Run a text as it is on the driver, and return its cursor: transactions, pragmas, the log's head."""
        return self._driver.execute(text)

    @property
    def lost(self) -> bool:
        """Whether the server, or the way to it, ended the connection, as far as was noticed."""
        return bool(getattr(self._driver, "broken", False))

    def close(self) -> None:
        """Close it."""
        with contextlib.suppress(Exception):
            if self.lost:
                # There is nobody to say goodbye to; trying fills the log with tracebacks.
                self.core.invalidate()
            # The connection is going away; whatever it still has to say concerns nobody.
            self.core.close()


class Transaction(Connection):
    """One operation: its statements and its log entry.  Made by `Store.transaction`."""

    __slots__ = ("clock", "entries", "newest", "now")

    def __init__(self, connection: Connection, head: Head, clock: int) -> None:
        super().__init__(connection.core, connection.generation)
        #: Number and hash of the log's newest entry, this operation's included.
        self.newest = head.seq, head.hash
        #: The operation's entries, each with whom it concerns.
        self.entries: list[tuple[Entry, str | None]] = []
        #: The operation's time in microseconds, for all that is recorded: never earlier than the newest entry's, even
        #: where the clock was set back.
        self.now = max(clock, head.ts)
        #: What the clock says, for what is measured: windows, waits, how long a session lives.
        self.clock = clock

    def log(self, rows: Sequence[RowChange], audit: AuditEvent) -> int:
        """Append the operation's entry to the change log and return its `seq`.

        Raises:
            RowRefusedError: a contract does not take one of the rows, or the event; the block is to be left with it.
        """
        require_rows(rows)
        require_event(audit)
        seq, previous = self.newest
        entry = chained(seq + 1, self.now, rows, audit, previous)
        self.newest = entry.seq, entry.hash
        self.entries.append((entry, audit.subject_id))
        return entry.seq
