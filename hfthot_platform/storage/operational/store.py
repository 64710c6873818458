"""The operational store: transactions, the change log, reading.

Here belongs how something becomes true: an operation runs in `with store.transaction() as tx`, and when that block
is left its rows and its log entry are on the disk together, or neither is.  What the rows mean is the services'.

Threads of one process share commits.  Waiting for the disk takes longer than most operations (160 us against some
30 us), so a thread that finished its part while others queue lets them add theirs to the same transaction, each
under a savepoint; the last one commits, and only then do all of them return.
"""

from __future__ import annotations

import atexit
import contextlib
import os
import sqlite3
import threading
import time
import weakref
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any, Final, Self

import sqlalchemy as sa
from sqlalchemy.engine import URL

from hfthot_platform.core.errors import ClockError, HfthotError, StoreError
from hfthot_platform.core.settings import Settings
from hfthot_platform.core.time import DAY, microseconds, utc_now
from hfthot_platform.storage.operational import schema
from hfthot_platform.storage.operational.changes import Entry, chained, decode, encode
from hfthot_platform.storage.operational.connection import Connection, Head, Prepared, Transaction
from hfthot_platform.storage.operational.databases import (
    Database,
    Sqlite,
    database_of,
    initialised,
    store_error,
    translated,
    upgrade,
)

__all__ = ["LONGEST_REST", "SetAsideEntry", "Store"]

#: Bounds of a shared commit: operations, and seconds since its first one began.
_SHARED: Final = 64
SHARED_SECONDS: Final = 0.01
#: How long a fork waits for other threads' reads to end.
_FORK_SECONDS: Final = 5.0
#: An installation that rests longer, or a clock that leaps further, is asked about before anything expires.
LONGEST_REST: Final = 14 * DAY
#: Every table: an erasure changes or empties rows of most, and old ones lie in pages of theirs.
_PURGED: Final = tuple(table.name for table in schema.metadata.sorted_tables)


@dataclass(frozen=True)
class SetAsideEntry:
    """An entry that a table's contract refused when it was published; its rows wait, those of others went on."""

    entry: Entry
    #: Whose rows wait: later ones of the same subject wait behind them.
    subject_id: str | None
    #: Table and rule, no value.
    reason: str
    #: Whether `audit_log` has the entry.
    audited: bool
    #: Microseconds since 1970 UTC.
    set_aside_at: int

    @property
    def table(self) -> str:
        """Return the table whose contract refused it, or that of the first row that waits behind another."""
        named = self.reason.partition(":")[0]
        return named if " " not in named else next((row.table for row in self.entry.rows), "audit_log")


class _SharedCommit:
    """Operations that share a commit."""

    __slots__ = ("count", "deadline", "done", "entries", "error", "head")

    def __init__(self, head: Head) -> None:
        self.head = head
        self.entries: list[tuple[Entry, str | None]] = []
        self.count = 0
        self.deadline = time.monotonic() + SHARED_SECONDS
        self.done = threading.Event()
        self.error: StoreError | None = None


class Store:
    """The operational store.  Safe to use from many threads and processes, and across a fork."""

    _writer: Connection | None

    def __init__(self, database: Database, clock: Callable[[], datetime] = utc_now, *, create: bool = True) -> None:
        self._database = database
        self.clock = clock
        self._closed = False
        self._reset()
        with translated(database.where):
            writer = self._writer = self._connect()
            try:
                upgrade(database, writer.core, create=create)
            except BaseException:
                self._discard_writer()
                raise
        _OPEN.add(self)

    @classmethod
    def open(
        cls,
        where: Settings | str | URL,
        clock: Callable[[], datetime] = utc_now,
        *,
        create: bool | None = None,
    ) -> Store:
        """Open the store of the settings, or of a URL, and bring its schema up to date.

        Args:
            where: the settings, or the URL of the database itself.
            clock: tells the time.
            create: whether a store is made where there is none; by default only where the caller named the place
                itself (`Settings.names_places`, or a URL).

        Raises:
            StoreMissingError: there is none, and it is not to be made.
            StoreError: it lies inside the lake, cannot be opened, or was written by a newer version.
        """
        if not isinstance(where, Settings):
            return cls(database_of(where), clock, create=create is not False)
        new = where.names_places if create is None else create
        if where.accounts_url is not None:
            return cls(database_of(where.accounts_url.get_secret_value()), clock, create=new)
        lake = where.lake_folder()
        if lake is not None and where.accounts.absolute().resolve().is_relative_to(lake.absolute().resolve()):
            raise StoreError(
                f"the folder {where.accounts} is inside the lake, whose versions and copies keep deleted data",
                where="setting 'accounts'",
                hint="Choose a folder outside lake_root.",
            )
        return cls(Sqlite(where.accounts, create=new), clock, create=new)

    @staticmethod
    def exists(settings: Settings) -> bool:
        """Return whether the settings' store is there, looking only.

        Raises:
            StoreError: the database does not answer.
        """
        if settings.accounts_url is None:
            return (settings.accounts / "accounts.db").exists()
        database = database_of(settings.accounts_url.get_secret_value())
        with translated(database.where):
            return initialised(database)

    def _reset(self) -> None:
        self._mutex = threading.Lock()
        self._counting = threading.Lock()
        self._waiting = 0
        self._owner = 0
        self._batch: _SharedCommit | None = None
        self._writer = None
        self._idle: list[Connection] = []
        #: Readers that are lent out; one list entry each, since appending and removing are atomic.
        self._lent: list[Connection] = []
        self._quiet = False

    # -- writing --------------------------------------------------------------------------------------------

    @contextlib.contextmanager
    def transaction(self) -> Iterator[Transaction]:
        """Hold one transaction for the block: `with store.transaction() as tx`.

        It is durable when the block is left, or undone if an exception leaves it.  Blocks of all threads and
        processes run one at a time: keep slow work (hashing, the network, the lake) out of them.

        Raises:
            StoreError: the database failed, or the block stands inside another one of the same thread.
        """
        transaction = self._enter()
        try:
            yield transaction
        except BaseException as error:
            self._exit(transaction, error)
            _raise_ours(error, self._database.where)
            raise
        self._exit(transaction, None)

    def _enter(self) -> Transaction:
        me = threading.get_ident()
        if self._owner == me:
            raise StoreError(
                "a transaction cannot begin inside another one",
                where=self._database.where,
                hint="End the first transaction before beginning the next.",
            )
        self._queue()
        try:
            now = microseconds(self.clock())
            if self._batch is None:
                self._begin()
            batch, writer = self._batch, self._writer
            assert batch is not None and writer is not None  # noqa: PT018 - one fact
            writer.command("SAVEPOINT operation")
        except BaseException as error:
            if self._batch is not None:
                self._fail(error)
            self._mutex.release()
            if isinstance(error, HfthotError):
                raise
            with translated(self._database.where):
                raise
        batch.count += 1
        self._owner = me
        return Transaction(writer, batch.head, now)

    def _exit(self, transaction: Transaction, error: BaseException | None) -> None:
        batch = self._batch
        assert batch is not None
        self._owner = 0
        try:
            if error is not None:
                transaction.command("ROLLBACK TO SAVEPOINT operation")
            transaction.command("RELEASE SAVEPOINT operation")
        except BaseException as failure:  # noqa: BLE001 - the whole batch fails; reported below
            self._fail(failure)
        else:
            if error is None and transaction.entries:
                batch.entries += transaction.entries
                batch.head = _followed(batch.head, transaction)
        with self._counting:
            others = self._waiting > 0
        if others and batch.error is None and batch.count < _SHARED and time.monotonic() < batch.deadline:
            # Whoever comes next finds the transaction open, and it or one after it commits.
            self._mutex.release()
            if error is None:
                batch.done.wait()
        else:
            try:
                self._commit()
            finally:
                self._mutex.release()
        if error is None and batch.error is not None:
            raise StoreError(batch.error.what, where=batch.error.where, hint=batch.error.hint)

    def _queue(self) -> None:
        """Take the mutex.  While this waits, whoever holds it may leave an open transaction to us."""
        with self._counting:
            self._waiting += 1
        try:
            self._mutex.acquire()
        except BaseException:
            with self._counting:
                self._waiting -= 1
            # Interrupted: nobody may be left to commit what was left to us.
            with self._mutex:
                if self._waiting == 0:
                    self._commit()
            raise
        with self._counting:
            self._waiting -= 1

    def _begin(self) -> None:
        if self._closed:
            raise self._is_closed()
        self._database.wait_turn()
        try:
            rested = self._writer
            writer = self._current_writer()
            try:
                head = self._database.begin(writer)
            except Exception:
                if writer is not rested or not writer.lost:
                    raise
                # The server ended it while it rested: nothing was said on it, so it is said on a new one.
                self._discard_writer()
                writer = self._current_writer()
                head = self._database.begin(writer)
        except BaseException:
            self._discard_writer()
            self._database.end_turn()
            raise
        self._batch = _SharedCommit(head)

    def _is_closed(self) -> StoreError:
        return StoreError(
            "the store is closed, or the process was forked inside one of its blocks",
            where=self._database.where,
            hint="Open it again. Fork only outside transactions and reads, or use spawn.",
        )

    def _connect(self) -> Connection:
        connection = self._database.engine.connect()
        return Connection(connection, self._database.generation())

    def _current_writer(self) -> Connection:
        """Return a connection to the files that there are now; it is this process's turn."""
        writer = self._writer
        if writer is None or writer.generation != self._database.generation():
            # The new one is there before the old one is closed: the last to close would clear up.
            self._writer = self._connect()
            if writer is not None:
                writer.close()
        assert self._writer is not None
        return self._writer

    def _commit(self) -> None:
        """Commit the open transaction, if there is one, and wake those who wait for it."""
        batch, writer = self._batch, self._writer
        if batch is None or writer is None:
            return
        try:
            if batch.entries:
                rows = (
                    {"seq": entry.seq, "ts": entry.ts, "subject_id": subject_id, "payload": encode(entry)}
                    for entry, subject_id in batch.entries
                )
                writer.run_many(_APPEND, rows)
                writer.run(_ADVANCE, _advanced(batch.head))
            writer.command("COMMIT")
        except BaseException as error:  # noqa: BLE001 - reported to everybody who shares the commit
            self._fail(error)
            return
        self._batch = None
        self._database.end_turn()
        batch.done.set()

    def _fail(self, error: BaseException) -> None:
        """Give the open transaction up for everybody in it; the mutex is held."""
        batch = self._batch
        self._batch = None
        self._discard_writer()
        self._database.end_turn()
        if batch is not None:
            batch.error = error if isinstance(error, StoreError) else store_error(error, self._database.where)
            batch.done.set()

    def _discard_writer(self) -> None:
        writer, self._writer = self._writer, None
        if writer is not None:
            with contextlib.suppress(Exception):
                # Closing rolls back as well; this only makes it certain.
                writer.command("ROLLBACK")
            writer.close()

    # -- reading --------------------------------------------------------------------------------------------

    @contextlib.contextmanager
    def reading(self) -> Iterator[Connection]:
        """Lend a connection for reading to the block: `with store.reading() as rx`.

        Each statement sees all that is committed.  Fetch a result before leaving the block.

        Raises:
            StoreError: the database failed.
        """
        reader = self._reader()
        try:
            yield reader
        except BaseException as error:
            self._lent.remove(reader)
            reader.close()
            if not isinstance(error, HfthotError):
                # A server that was restarted broke the idle connections as well.
                idle, self._idle = self._idle, []
                for other in idle:
                    other.close()
            _raise_ours(error, self._database.where)
            raise
        self._lent.remove(reader)
        if self._closed:
            reader.close()
        else:
            self._idle.append(reader)

    def _reader(self) -> Connection:
        try:
            reader = self._idle.pop()
        except IndexError:
            reader = self._new_reader()
        if reader.generation != self._database.generation():
            stale, reader = reader, self._new_reader()
            stale.close()
        self._lent.append(reader)
        return reader

    def _new_reader(self) -> Connection:
        if self._closed:
            raise self._is_closed()
        with translated(self._database.where):
            reader = self._connect()
            for statement in _READ_ONLY[self._database.engine.dialect.name]:
                reader.command(statement)
            return reader

    def server_time(self) -> datetime | None:
        """Return what the clock of the database's server says, None where the store is a file of this host."""
        with self.reading() as rx:
            return self._database.server_time(rx)

    # -- the log --------------------------------------------------------------------------------------------

    def head(self) -> tuple[int, str]:
        """Return `seq` and `hash` of the newest entry; (0, sixty-four zeros) before the first."""
        with self.reading() as rx:
            seq, head = rx.run(_HEAD, {})[0]
        return seq, head

    def clock_head(self) -> Head:
        """Return the log's end with what is known of the time."""
        with self.reading() as rx:
            return Head(*rx.run(_CLOCK, {})[0])

    def require_clock(self) -> None:
        """Check, before anything is removed for its age, that the clock did not leap ahead of all that happened.

        What is compared is the clock and when it was last seen: by an entry, or by this check.  An installation that
        rested for longer than `LONGEST_REST` is asked about as well: from here the two look the same.

        Raises:
            ClockError: it did, now or before an entry that came in since.
        """
        known = self.check_clock()
        if known.seen_at > self.clock_head().seen_at + DAY:
            self._record_clock(known)

    def check_clock(self) -> Head:
        """Return what is known of the time now, looking only.

        Raises:
            ClockError: as for `require_clock`.
        """
        clock = microseconds(self.clock())
        known = _observed(self.clock_head(), clock)
        if known.leapt_from is not None:
            days = (clock - known.leapt_from) / DAY
            raise ClockError(
                f"the clock is {days:,.0f} days ahead of its last recorded time, so nothing was removed",
                where="clock",
                hint="Correct the clock. If it is right and the installation was idle, run `hfthot accounts "
                "clock --right`.",
            )
        return known

    def accept_clock(self) -> None:
        """Take the clock for right: somebody looked at it."""
        head = self.clock_head()
        self._record_clock(head._replace(seen_at=microseconds(self.clock()), leapt_from=None))

    def _record_clock(self, known: Head) -> None:
        head = schema.change_head
        values = {"seen_at": known.seen_at, "leapt_from": known.leapt_from}
        with self.transaction() as tx:
            tx.execute(sa.update(head).where(head.c.id == 1).values(values))

    def entries(self, after_seq: int, limit: int) -> list[Entry]:
        """Return the entries after one, in order, at most `limit`."""
        with self.reading() as rx:
            rows = rx.run(_ENTRIES, {"after": after_seq, "at_most": limit})
        return [decode(seq, ts, bytes(payload)) for seq, ts, payload in rows]

    def waiting_aside(self) -> list[SetAsideEntry]:
        """Return the entries that were set aside, in order."""
        with self.reading() as rx:
            rows = rx.execute(sa.select(schema.set_aside).order_by(schema.set_aside.c.seq)).all()
        return [
            SetAsideEntry(
                decode(row.seq, row.ts, bytes(row.payload)),
                row.subject_id,
                row.reason,
                bool(row.audited),
                row.set_aside_at,
            )
            for row in rows
        ]

    def trim(self, up_to_seq: int) -> int:
        """Remove the entries up to one, once every user table has them; return how many."""
        with self.transaction() as tx:
            return tx.execute(sa.delete(schema.change_log).where(schema.change_log.c.seq <= up_to_seq)).rowcount

    def continue_after(self, last: int, head: tuple[int, str]) -> int:
        """Put the entries that follow `last` behind another entry, and let all further ones follow them.

        Their numbers and hashes are made again; what they say, and when, stays.  Entries up to `last` are dropped: the
        caller has made sure that they are published.  Whoever wrote to the store meanwhile comes after them.

        Args:
            last: the last entry that is published.
            head: `seq` and `hash` of the entry to go on after.

        Returns:
            How many entries were moved.
        """
        self._queue()
        try:
            self._commit()
            self._begin()
            batch, writer = self._batch, self._writer
            assert batch is not None and writer is not None  # noqa: PT018 - one fact
            try:
                rows = writer.run(_ENTRIES, {"after": last, "at_most": 2**62})
                writer.execute(sa.delete(schema.change_log))
                batch.head = batch.head._replace(seq=head[0], hash=head[1])
                for seq, ts, payload in rows:
                    old = decode(seq, ts, bytes(payload))
                    entry = chained(batch.head.seq + 1, ts, old.rows, old.audit, batch.head.hash)
                    batch.entries.append((entry, old.audit.subject_id))
                    batch.head = batch.head._replace(seq=entry.seq, hash=entry.hash)
                if not rows:
                    writer.run(_ADVANCE, _advanced(batch.head))
            except BaseException as error:
                self._fail(error)
                if isinstance(error, HfthotError):
                    raise
                with translated(self._database.where):
                    raise
            self._commit()
            if batch.error is not None:
                raise StoreError(batch.error.what, where=batch.error.where, hint=batch.error.hint)
            return len(rows)
        finally:
            self._mutex.release()

    # -- forgetting and closing -----------------------------------------------------------------------------

    def purge(self) -> None:
        """Remove from the disk what was deleted: journal, freed pages, dead rows.

        Raises:
            StoreError: a reader kept it from being done; nothing counts as purged then.
        """
        with self._exclusive_writer() as writer, translated(self._database.where):
            self._database.purge(writer, _PURGED)

    @contextlib.contextmanager
    def _exclusive_writer(self) -> Iterator[Connection]:
        """Hold this process's other writers off, outside any transaction."""
        self._queue()
        try:
            self._commit()
            with translated(self._database.where):
                writer = self._current_writer()
            yield writer
        finally:
            self._mutex.release()

    @contextlib.contextmanager
    def exclusively(self, name: str, timeout: float = 120.0) -> Iterator[None]:
        """Hold a named lock of this installation for the block; transactions go on meanwhile.

        It ends with the process that holds it, however that ends.

        Raises:
            LockTimeoutError: another holder kept it for longer than `timeout` seconds.
        """
        with contextlib.ExitStack() as held:
            with translated(self._database.where):
                held.enter_context(self._database.exclusively(name, timeout))
            yield

    def files(self) -> list[Path]:
        """Return the files of an SQLite store: database, write-ahead log, shared memory, journal, where they exist.

        Read them in another process: closing one of them in this process takes SQLite's locks on it away.
        """
        return self._database.files()

    @property
    def waiting(self) -> int:
        """How many threads wait for their turn to write."""
        return self._waiting

    @property
    def url(self) -> URL:
        """The database; its password is hidden wherever this is shown."""
        return self._database.engine.url

    def close(self) -> None:
        """Close all connections.  Blocks that are under way end first; those that come later are refused."""
        self._queue()
        try:
            self._commit()
            if self._closed:
                return
            self._closed = True
            # In turn, so that nobody writes while the last one clears the write-ahead log away; and the connection
            # that is closed last is one to the files that there are now.
            self._database.wait_turn()
            try:
                with contextlib.suppress(sa.exc.SQLAlchemyError):
                    self._current_writer()
                while self._idle:
                    self._idle.pop().close()
                self._discard_writer()
            finally:
                self._database.end_turn()
                self._database.close()
        finally:
            self._mutex.release()

    def close_at_exit(self) -> None:
        """Close it, unless a thread that the interpreter has stopped inside a transaction would keep it for ever."""
        if self._mutex.acquire(timeout=1.0):
            self._mutex.release()
            self.close()

    # A forked child inherits SQLite's idea of which locks this process holds, and holds none of them.  So nothing may
    # be under way in the instant of the fork, and the child closes what it inherited before it opens anything.

    def before_fork(self) -> None:
        """Let what is under way end; called by the interpreter."""
        self._quiet = False
        if self._owner == threading.get_ident():
            return
        self._queue()
        self._commit()
        deadline = time.monotonic() + _FORK_SECONDS
        while self._lent and time.monotonic() < deadline:
            time.sleep(0.001)
        self._quiet = not self._lent
        if not self._quiet:
            self._mutex.release()

    def after_fork_in_parent(self) -> None:
        """Go on; called by the interpreter."""
        if self._quiet:
            self._mutex.release()

    def after_fork_in_child(self) -> None:
        """Let go of what is the parent's; called by the interpreter."""
        quiet, writer, idle = self._quiet, self._writer, self._idle
        self._database.release_inherited()
        self._reset()
        if not quiet:
            _FOREIGN.append((writer, idle))
            self._closed = True
            return
        for connection in (*idle, *([writer] if writer else [])):
            self._database.leave(connection)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def __repr__(self) -> str:
        return f"Store({self._database.where!r})"


def _advanced(head: Head) -> dict[str, Any]:
    return {f"new_{name}": value for name, value in head._asdict().items()}


def _followed(head: Head, transaction: Transaction) -> Head:
    """Return the head after a transaction with entries, and after what its clock tells of the time."""
    return _observed(head, transaction.clock)._replace(
        seq=transaction.newest[0], hash=transaction.newest[1], ts=transaction.now
    )


def _observed(head: Head, clock: int) -> Head:
    if head.leapt_from is not None and clock <= head.leapt_from + LONGEST_REST:
        # It was wrong and was put right: what it said in between counts for nothing.
        return head._replace(seen_at=clock, leapt_from=None)
    leapt = head.leapt_from is None and 0 < head.seen_at < clock - LONGEST_REST
    return head._replace(seen_at=max(head.seen_at, clock), leapt_from=head.seen_at if leapt else head.leapt_from)


def _raise_ours(error: BaseException | None, where: str) -> None:
    """Raise our error in place of a database's; others pass."""
    if error is None or isinstance(error, HfthotError):
        return
    foreign = isinstance(error, (sa.exc.SQLAlchemyError, sqlite3.Error))
    if foreign or type(error).__module__.partition(".")[0] == "psycopg":
        raise store_error(error, where) from None


_APPEND: Final = Prepared(
    sa.insert(schema.change_log).values(
        {name: sa.bindparam(name) for name in ("seq", "ts", "subject_id", "payload")}  # as named in `_commit`
    )
)
_ADVANCE: Final = Prepared(
    sa.update(schema.change_head)
    .where(schema.change_head.c.id == sa.literal_column("1"))
    .values({name: sa.bindparam(f"new_{name}") for name in Head._fields})
)
_CLOCK: Final = Prepared(sa.select(*(schema.change_head.c[name] for name in Head._fields)))
_HEAD: Final = Prepared(sa.select(schema.change_head.c.seq, schema.change_head.c.hash))
_ENTRIES: Final = Prepared(
    sa.select(schema.change_log.c.seq, schema.change_log.c.ts, schema.change_log.c.payload)
    .where(schema.change_log.c.seq > sa.bindparam("after"))
    .order_by(schema.change_log.c.seq)
    .limit(sa.bindparam("at_most"))
)
_READ_ONLY: Final[dict[str, tuple[str, ...]]] = {
    "sqlite": ("PRAGMA query_only=ON",),
    "postgresql": ("SET default_transaction_read_only = on",),
}

_OPEN: weakref.WeakSet[Store] = weakref.WeakSet()
_FOREIGN: list[object] = []


@atexit.register
def _close_all() -> None:
    for store in list(_OPEN):
        store.close_at_exit()


def _for_all_stores(what: Callable[[Store], None]) -> Callable[[], None]:
    def run() -> None:
        for store in list(_OPEN):
            what(store)

    return run


os.register_at_fork(
    before=_for_all_stores(Store.before_fork),
    after_in_parent=_for_all_stores(Store.after_fork_in_parent),
    after_in_child=_for_all_stores(Store.after_fork_in_child),
)
