"""What differs between SQLite and PostgreSQL: connecting, the writers' turn, the schema's upgrade, purging.

Nothing above this module asks which of the two it is.  On both, writers take turns: SQLite has one writer anyway,
and on PostgreSQL each writing transaction begins by locking the one row of `change_head`.  What an operation read
is therefore still true when it writes, the log's order is the order of commits, and both behave alike.
"""

from __future__ import annotations

import contextlib
import os
import sqlite3
import threading
import time
from collections.abc import Iterator
from datetime import UTC, datetime
from hashlib import sha256
from pathlib import Path
from typing import Any, Final, Protocol

import sqlalchemy as sa
from sqlalchemy.engine import URL, Engine, make_url
from sqlalchemy.pool import NullPool

from hfthot_platform.core.errors import LockTimeoutError, StoreError, StoreMissingError
from hfthot_platform.core.files import create_private, open_private, tighten
from hfthot_platform.core.locks import acquire_in_turn, file_lock, release_lock, take
from hfthot_platform.storage.operational.connection import Connection, Head

__all__ = ["Database", "Postgres", "Sqlite", "translated", "upgrade"]

#: The newest migration.  Where the store has it, Alembic is not even imported.
REVISION: Final = "0006"
MIGRATIONS: Final = Path(__file__).parent / "migrations"
LOCK_SECONDS: Final = 60
_ADVISORY: Final = 0x68667468_6F740001  # any number that nobody else takes


@contextlib.contextmanager
def translated(where: str) -> Iterator[None]:
    """Turn a database's errors into typed ones.  Its own texts can quote rows, so only what is known not to is kept."""
    try:
        yield
    except (sa.exc.SQLAlchemyError, sqlite3.Error) as error:
        raise store_error(error, where) from None
    except Exception as error:
        if type(error).__module__.partition(".")[0] != "psycopg":
            raise
        raise store_error(error, where) from None


def store_error(error: BaseException, where: str) -> StoreError:
    """Return our error for one of the database's."""
    cause = getattr(error, "orig", None) or error
    said = type(cause).__name__
    if isinstance(cause, sqlite3.OperationalError):
        said = str(cause)  # "disk I/O error", "database or disk is full": SQLite never quotes values there
    elif state := getattr(cause, "sqlstate", None):
        said = f"{said}, SQLSTATE {state}"
    return StoreError(
        f"the database failed ({said})",
        where=where,
        hint="Acknowledged changes are unaffected. Check the disk or the server, then repeat the call.",
    )


class Database(Protocol):
    """One of the two databases."""

    engine: Engine
    #: Shown in messages; never holds credentials.
    where: str

    def wait_turn(self) -> None:
        """Wait for this process's turn to write."""

    def generation(self) -> object:
        """Return what changes when the files under open connections are replaced."""

    def begin(self, connection: Connection) -> Head:
        """Begin a transaction and return the log's head."""

    def end_turn(self) -> None:
        """Let other writers come in; the transaction is over."""

    def server_time(self, connection: Connection) -> datetime | None:
        """Return what the server's clock says, None where there is no server."""

    def upgrading(self, connection: sa.Connection) -> contextlib.AbstractContextManager[None]:
        """Hold every other process off while the schema is brought up to date, in one transaction."""

    def purge(self, connection: Connection, tables: tuple[str, ...]) -> None:
        """Remove from the disk what was deleted before."""

    def files(self) -> list[Path]:
        """Return the files of a local database."""

    def exclusively(self, name: str, seconds: float) -> contextlib.AbstractContextManager[None]:
        """Hold a named lock of the installation, apart from the writers' turns."""

    def release_inherited(self) -> None:
        """Let go, in a forked child, of locks that belong to the parent."""

    def leave(self, connection: Connection) -> None:
        """Let go, in a forked child, of a connection that belongs to the parent."""

    def close(self) -> None:
        """Release files."""


_SELECT_HEAD: Final = "SELECT seq, hash, ts, seen_at, leapt_from FROM change_head WHERE id = 1"


class Sqlite:
    """A file in a folder of its own.

    `synchronous=FULL` with the write-ahead log: a commit returns when it is on the disk.  `secure_delete` overwrites
    what is deleted.  Writers queue at a `flock` instead of SQLite's busy handler, which sleeps and is unfair: whoever
    waits longest holds the gate, and so is next.
    """

    def __init__(self, folder: Path, *, create: bool = True) -> None:
        self._path = folder.absolute() / "accounts.db"
        self.where = str(self._path)
        if not create and not self._path.exists():
            raise no_store(self.where)
        try:
            self._path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
            with _MAKING:
                _make_private(self._path)
        except OSError as error:
            raise StoreError(
                f"the store cannot be created or opened ({error.strerror})",
                where=self.where,
                hint="Check the setting 'accounts', the folder's permissions and the free disk space.",
            ) from None
        self._wal, self._shm = (f"{self._path}{suffix}" for suffix in ("-wal", "-shm"))
        self._locks: tuple[int, int] | None = None
        self.engine = sa.create_engine(
            URL.create("sqlite", database=str(self._path)),
            poolclass=NullPool,
            isolation_level="AUTOCOMMIT",
            hide_parameters=True,
            connect_args={"check_same_thread": False, "timeout": LOCK_SECONDS},
        )
        sa.event.listen(self.engine, "connect", _prepare_sqlite)

    def wait_turn(self) -> None:
        acquire_in_turn(*self._opened())

    def generation(self) -> object:
        # SQLite's own locks are a process's, per file: if anything in this process opens and closes one of the files,
        # a backup for instance, they are gone, and another process that closes the store clears the write-ahead log
        # away under our connections.  Their next use notices it here.
        try:
            # At each read, and a Path would take thrice as long.
            return os.stat(self._wal).st_ino, os.stat(self._shm).st_ino  # noqa: PTH116
        except FileNotFoundError:
            return None

    def begin(self, connection: Connection) -> Head:
        connection.command("BEGIN IMMEDIATE")
        return Head(*connection.command(_SELECT_HEAD).fetchone())

    def server_time(self, connection: Connection) -> datetime | None:  # noqa: ARG002 - it is a file of this host
        return None

    def end_turn(self) -> None:
        if self._locks is not None:
            release_lock(self._locks[1])

    @contextlib.contextmanager
    def upgrading(self, connection: sa.Connection) -> Iterator[None]:
        _, lock = self._opened()
        take(lock)
        try:
            connection.exec_driver_sql("BEGIN IMMEDIATE")
            try:
                yield
            except BaseException:
                connection.exec_driver_sql("ROLLBACK")
                raise
            connection.exec_driver_sql("COMMIT")
        finally:
            self.end_turn()

    def purge(self, connection: Connection, tables: tuple[str, ...]) -> None:
        del tables  # one file holds them all
        _, lock = self._opened()
        take(lock)
        try:
            self._truncate(connection)
            self._rewrite(connection)
            self._truncate(connection)
        finally:
            self.end_turn()

    def _rewrite(self, connection: Connection) -> None:
        """Rewrite the whole database.

        `secure_delete` overwrites what is deleted, but not the copies that earlier splits of pages left in their slack.
        """
        folder = str(self._path.parent).replace("'", "''")
        # The copy in between has the same secrets, so it is made in the same folder, without a name.
        connection.command(f"PRAGMA temp_store_directory = '{folder}'")
        connection.command("PRAGMA temp_store = FILE")
        try:
            connection.command("VACUUM")
        finally:
            connection.command("PRAGMA temp_store = MEMORY")
            connection.command("PRAGMA temp_store_directory = ''")

    def _truncate(self, connection: Connection) -> None:
        """Bring the write-ahead log into the database and cut it to nothing."""
        deadline = time.monotonic() + LOCK_SECONDS
        while True:
            # Without an error it can still have done nothing: a reader of an older state stops it.
            busy, _, _ = connection.command("PRAGMA wal_checkpoint(TRUNCATE)").fetchone()
            if not busy:
                return
            if time.monotonic() > deadline:
                raise StoreError(
                    "a reader prevented the truncation of the write-ahead log",
                    where=self.where,
                    hint="Stop long-running readers of the store, then repeat. Until then nothing counts as purged.",
                )
            time.sleep(0.02)

    def files(self) -> list[Path]:
        names = (self._path.name + suffix for suffix in ("", "-wal", "-shm", "-journal"))
        return [path for path in map(self._path.with_name, names) if path.exists()]

    @contextlib.contextmanager
    def exclusively(self, name: str, seconds: float) -> Iterator[None]:
        where = f"{name} of {self.where}"
        with file_lock(self._path.with_name(f"{name}.lock"), timeout=seconds, where=where):
            yield

    def release_inherited(self) -> None:
        # Closing a copy of the handle leaves the parent's lock alone; keeping it would hold the lock for the parent.
        self.close()

    def leave(self, connection: Connection) -> None:
        # It is idle, so closing it changes no file: the parent's lock keeps the child from clearing up after it.
        connection.close()

    def close(self) -> None:
        if self._locks is not None:
            for handle in self._locks:
                os.close(handle)
            self._locks = None

    def _opened(self) -> tuple[int, int]:
        if self._locks is None:
            gate, lock = (open_private(self._path.with_suffix(end)) for end in (".gate", ".lock"))
            self._locks = gate, lock
        return self._locks


def no_store(where: str) -> StoreMissingError:
    """Return the error for a place without accounts."""
    return StoreMissingError(
        f"there are no accounts at {where}",
        where="operational store",
        hint="Change to the folder that contains `data`, or correct HFTHOT_LAKE_ROOT or HFTHOT_ACCOUNTS. "
        "`hfthot init` (or LakehouseClient.create) creates a new store with new keys.",
    )


#: Held while a database file is made: closing it must not take a connection's locks away.
_MAKING: Final = threading.Lock()
#: Held while a schema is made: Alembic's `op` and `context` are of the whole process, so two migrations at the same
#: time would write into each other's database.
_MIGRATING: Final = threading.Lock()
for _lock in (_MAKING, _MIGRATING):
    # No thread is in the middle of it when the process forks, so that it is free in the child.
    os.register_at_fork(before=_lock.acquire, after_in_parent=_lock.release, after_in_child=_lock.release)


def _make_private(path: Path) -> None:
    """Make the file with our mode before SQLite does; its journal files get the same.  An existing one stays closed."""
    try:
        os.close(create_private(path))
    except FileExistsError:
        for file in path.parent.glob(f"{path.name}*"):
            with contextlib.suppress(FileNotFoundError):
                # SQLite takes its journals away when it closes.
                tighten(file)


def _still_held(name: str, seconds: float, where: str) -> LockTimeoutError:
    return LockTimeoutError(
        f"another process held the lock {name!r} for {seconds:g} s",
        where=where,
        hint="Wait for the process that holds it to end, then run the same step again.",
    )


def _prepare_sqlite(connection: Any, _record: object) -> None:
    connection.execute("PRAGMA journal_mode=WAL")
    connection.execute("PRAGMA synchronous=FULL")
    connection.execute("PRAGMA secure_delete=ON")
    connection.execute("PRAGMA foreign_keys=ON")
    # Sorts and temporary tables stay in memory: nothing of the store comes into a temporary folder.
    connection.execute("PRAGMA temp_store=MEMORY")
    connection.execute("PRAGMA cache_size=-16384")
    # Opens the write-ahead log now, so that `generation` is known from the start.
    connection.execute("SELECT 1 FROM sqlite_master LIMIT 1").fetchall()


class Postgres:
    """A PostgreSQL database, by URL."""

    def __init__(self, url: URL) -> None:
        if url.get_backend_name() != "postgresql" or url.get_driver_name() not in {"psycopg", "psycopg2"}:
            raise StoreError(
                f"a database of kind {url.drivername!r} cannot be the operational store",
                where="setting 'accounts_url'",
                hint="Write postgresql+psycopg://user:password@host/database, or omit the setting to use SQLite.",
            )
        url = url.set(drivername="postgresql+psycopg")
        self.where = f"PostgreSQL database {url.database!r} at {url.host or 'the local socket'}"
        self.engine = sa.create_engine(
            url, poolclass=NullPool, isolation_level="AUTOCOMMIT", hide_parameters=True, connect_args=_PG_ARGS
        )
        sa.event.listen(self.engine, "connect", _prepare_postgres)
        self._foreign: list[object] = []

    def wait_turn(self) -> None:
        """Do nothing: the lock on the head's row is the turn."""

    def generation(self) -> object:
        return None

    def begin(self, connection: Connection) -> Head:
        connection.command("BEGIN")
        return Head(*connection.command(f"{_SELECT_HEAD} FOR UPDATE").fetchone())

    def end_turn(self) -> None:
        """Do nothing: the end of the transaction released the row."""

    def server_time(self, connection: Connection) -> datetime | None:
        found: datetime = connection.command("SELECT clock_timestamp()").fetchone()[0]
        return found.astimezone(UTC)

    @contextlib.contextmanager
    def upgrading(self, connection: sa.Connection) -> Iterator[None]:
        connection.exec_driver_sql("BEGIN")
        try:
            connection.exec_driver_sql(f"SELECT pg_advisory_xact_lock({_ADVISORY})")
            yield
        except BaseException:
            connection.exec_driver_sql("ROLLBACK")
            raise
        connection.exec_driver_sql("COMMIT")

    def purge(self, connection: Connection, tables: tuple[str, ...]) -> None:
        # FULL rewrites the tables, so that the old pages are gone and not merely reusable.
        for table in tables:
            connection.command(f"VACUUM (FULL) {table}")

    @contextlib.contextmanager
    def exclusively(self, name: str, seconds: float) -> Iterator[None]:
        number = int.from_bytes(sha256(f"hfthot {name}".encode()).digest()[:8], "big", signed=True)
        # A connection of its own, whose end releases the lock however it ends.
        with self.engine.connect() as connection:
            connection.exec_driver_sql(f"SET lock_timeout = '{round(seconds * 1000)}ms'")
            try:
                connection.exec_driver_sql(f"SELECT pg_advisory_lock({number})")
            except sa.exc.OperationalError as error:
                if getattr(error.orig, "sqlstate", None) == "55P03":
                    raise _still_held(name, seconds, self.where) from None
                raise
            try:
                yield
            finally:
                if getattr(connection.connection.driver_connection, "broken", False):
                    # The server ended it, and the lock with it; there is nobody to say goodbye to.
                    connection.invalidate()

    def files(self) -> list[Path]:
        return []

    def release_inherited(self) -> None:
        """Do nothing: a lock is a connection's."""

    def leave(self, connection: Connection) -> None:
        # Kept, not closed: closing would say goodbye to the server in the parent's name.
        self._foreign.append(connection)

    def close(self) -> None:
        """Do nothing: connections are the store's."""


_PG_ARGS: Final = {"connect_timeout": 10, "application_name": "hfthot"}


def _prepare_postgres(connection: Any, _record: object) -> None:
    # A server may be configured to acknowledge before the log is on disk; we never want that.
    connection.execute("SET synchronous_commit = on")
    connection.execute(f"SET lock_timeout = '{LOCK_SECONDS}s'")
    connection.execute("SET default_transaction_isolation = 'read committed'")
    if not connection.autocommit:
        connection.commit()


def database_of(url: str | URL) -> Database:
    """Return the database of a URL (`sqlite:///folder/accounts.db` names the folder's store)."""
    parsed = make_url(url)
    if parsed.get_backend_name() == "sqlite":
        path = Path(parsed.database or "")
        return Sqlite(path.parent if path.name == "accounts.db" else path)
    return Postgres(parsed)


def initialised(database: Database) -> bool:
    """Return whether the database holds accounts, looking only."""
    with database.engine.connect() as connection:
        return _revision(connection) is not None


def upgrade(database: Database, connection: sa.Connection, *, create: bool = True) -> None:
    """Bring the schema to this version's, making it where there is none.

    Raises:
        StoreMissingError: there is none, and it is not to be made.
        StoreError: a newer version of this package wrote the schema.
    """
    present = _revision(connection)
    if present == REVISION:
        return
    if present is None and not create:
        raise no_store(database.where)
    with database.upgrading(connection):
        # Another process may have done it while we waited.
        found = _revision(connection)
        if found != REVISION:
            with _MIGRATING:
                _migrate(connection, found, database.where)


def _revision(connection: sa.Connection) -> str | None:
    if not sa.inspect(connection).has_table("alembic_version"):
        return None
    return connection.exec_driver_sql("SELECT version_num FROM alembic_version").scalar()


def _migrate(connection: sa.Connection, found: str | None, where: str) -> None:
    from alembic import command
    from alembic.config import Config
    from alembic.script import ScriptDirectory

    config = Config()
    config.set_main_option("script_location", str(MIGRATIONS).replace("%", "%%"))
    config.set_main_option("path_separator", "os")
    config.attributes["connection"] = connection
    known = {script.revision for script in ScriptDirectory.from_config(config).walk_revisions()}
    if found is not None and found not in known:
        raise StoreError(
            f"its schema has revision {found!r}, which this version does not know",
            where=where,
            hint="A newer hfthot-platform wrote it. Upgrade this one, or restore an earlier backup.",
        )
    command.upgrade(config, "head")
