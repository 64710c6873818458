"""A real PostgreSQL server for tests: one per pytest process, on loopback, gone when the process ends."""

from __future__ import annotations

import atexit
import contextlib
import os
import pwd
import secrets
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from functools import lru_cache
from pathlib import Path

import psycopg
import pytest

from hfthot_platform.storage.operational.schema import metadata
from hfthot_platform.storage.operational.store import Store

_ROOT = Path("/usr/lib/postgresql")


def binaries() -> Path | None:
    """Return the folder of the newest server that Debian installed, or None."""
    found = [path.parent for path in _ROOT.glob("*/bin/postgres")]
    return max(found, key=lambda path: int(path.parent.name.split(".")[0]), default=None)


class Server:
    """A cluster in a temporary folder.  `durable` leaves fsync on; other hosts reach it by `address`."""

    def __init__(self, *, durable: bool = False, address: str = "127.0.0.1") -> None:
        folder = binaries()
        if folder is None:
            pytest.skip(f"PostgreSQL's server is not installed under {_ROOT} (make system)")
        self._bin = folder
        self._home = Path(tempfile.mkdtemp(prefix="postgres-of-tests-"))
        self._identity: dict[str, object] = {}
        if os.geteuid() == 0:
            # The server refuses to run as root; Debian's package made this user.
            user = pwd.getpwnam("postgres")
            os.chown(self._home, user.pw_uid, user.pw_gid)
            self._identity = {"user": user.pw_uid, "group": user.pw_gid, "extra_groups": []}
        self._durable = durable
        self.address = address
        self._shared: str | None = None
        self._process: subprocess.Popen[bytes] | None = None
        self.port = 0
        self._run("initdb", "-D", self.data, "-U", "hfthot", "--auth=trust", "-E", "UTF8", "--locale=C", "--no-sync")
        with (Path(self.data) / "pg_hba.conf").open("a") as rules:
            rules.write("host all all samenet trust\n")
        self.start()

    @property
    def data(self) -> str:
        return str(self._home / "data")

    def _run(self, name: str, *arguments: str) -> None:
        done = subprocess.run(
            [str(self._bin / name), *arguments], cwd=self._home, capture_output=True, check=False, **self._identity
        )
        assert done.returncode == 0, done.stderr.decode()

    def start(self) -> None:
        """Start the server and wait until it answers."""
        if not self.port:
            with socket.socket() as free:
                free.bind((self.address, 0))
                self.port = free.getsockname()[1]
        switch = "on" if self._durable else "off"
        settings = {
            "port": self.port,
            "listen_addresses": self.address,
            "unix_socket_directories": self._home,
            "fsync": switch,
            "full_page_writes": switch,
            "shared_buffers": "32MB",
            "max_connections": "200",
        }
        options = [part for name, value in settings.items() for part in ("-c", f"{name}={value}")]
        with (self._home / "log").open("ab") as log:
            self._process = subprocess.Popen(
                [str(self._bin / "postgres"), "-D", self.data, *options],
                cwd=self._home,
                stdout=log,
                stderr=log,
                **self._identity,
            )
        deadline = time.monotonic() + 30
        while True:
            try:
                self._connect("postgres").close()
            except psycopg.OperationalError:
                assert self._process.poll() is None, (self._home / "log").read_text()
                assert time.monotonic() < deadline, (self._home / "log").read_text()
                time.sleep(0.02)
            else:
                return

    def _connect(self, database: str) -> psycopg.Connection:
        return psycopg.connect(self.url(database).replace("+psycopg", ""), autocommit=True)

    def kill(self) -> None:
        """Take the server down as a power cut would: no shutdown, no checkpoint."""
        if self._process is not None:
            self._run("pg_ctl", "stop", "-D", self.data, "-m", "immediate")
            self._process.wait()
            self._process = None

    def kill_at_once(self) -> None:
        """Kill every process of the server with SIGKILL."""
        assert self._process is not None
        main = self._process.pid
        backends = Path(f"/proc/{main}/task/{main}/children").read_text().split()
        for number in [main, *map(int, backends)]:
            with contextlib.suppress(ProcessLookupError):
                os.kill(number, signal.SIGKILL)
        self._process.wait()
        self._process = None

    def url(self, database: str) -> str:
        return f"postgresql+psycopg://hfthot@{self.address}:{self.port}/{database}"

    def database(self) -> str:
        """Make an empty database and return its URL."""
        name = "t" + secrets.token_hex(6)
        with self._connect("postgres") as connection:
            connection.execute(f"CREATE DATABASE {name}")
        return self.url(name)

    def store(self) -> str:
        """Return the URL of a database with an empty store: always the same one, since making one takes long.

        At most one test of a process uses it at a time.
        """
        if self._shared is None:
            self._shared = self.database()
            Store.open(self._shared).close()
        with self._connect(self._shared.rpartition("/")[2]) as connection:
            for table in reversed(metadata.sorted_tables):
                connection.execute(f"DELETE FROM {table.name}")
            connection.execute("INSERT INTO change_head (id, seq, hash) VALUES (1, 0, repeat('0', 64))")
        return self._shared

    def close(self) -> None:
        self.kill()
        shutil.rmtree(self._home, ignore_errors=True)


@lru_cache(maxsize=1)
def server() -> Server:
    """Return this process's server, starting it on first use; skip the test where it is not installed."""
    started = Server()
    atexit.register(_close, started, os.getpid())
    return started


def _close(started: Server, owner: int) -> None:
    if os.getpid() == owner:
        started.close()


if __name__ == "__main__":  # a server by hand: python -m tests.postgres
    made = Server(durable="--durable" in sys.argv)
    try:
        print(made.database(), flush=True)
        sys.stdin.read()
    finally:
        made.close()
