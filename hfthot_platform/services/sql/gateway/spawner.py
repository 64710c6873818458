"""The process that workers are forked from: one thread, DuckDB and Arrow loaded, nothing else of the platform.

It is started by exec, so it has none of its parent's memory, threads or descriptors, and forks a worker in a few
milliseconds with a database that is ready.  It is told by its parent through one socket; when that closes, it ends,
and the kernel ends its workers.
"""

from __future__ import annotations

import gc
import json
import os
import socket
import traceback
from pathlib import Path
from typing import Final, NoReturn

import duckdb

from hfthot_platform.core.duckdb import new_restricted_database
from hfthot_platform.services.sql.gateway import sandbox, worker

__all__ = ["BOOT", "ENVIRONMENT", "main"]

#: Started with `python -I -c BOOT <descriptor> <folder of hfthot_platform>`.  The packages above this module are
#: stand-ins: their real `__init__` would load the whole platform.
BOOT: Final = """
import sys, types
name, folder = "hfthot_platform", sys.argv[2]
for part in ("", "services", "sql", "gateway"):
    name, folder = (f"{name}.{part}", f"{folder}/{part}") if part else (name, folder)
    package = sys.modules[name] = types.ModuleType(name)
    package.__path__ = [folder]
from hfthot_platform.services.sql.gateway.spawner import main
main(int(sys.argv[1]))
"""
#: All of its environment: no library in it may start a thread.
ENVIRONMENT: Final = {
    "ARROW_DEFAULT_MEMORY_POOL": "system",
    "JE_ARROW_MALLOC_CONF": "background_thread:false",
    "MALLOC_ARENA_MAX": "1",
    "OMP_NUM_THREADS": "1",
    "OPENBLAS_NUM_THREADS": "1",
    "TZ": "UTC",
    "LC_ALL": "C.UTF-8",
}


def main(descriptor: int) -> None:
    """Fork a worker, or wait for one, at each word from the parent, until it closes the socket."""
    control = socket.socket(fileno=descriptor)
    os.environ.clear()
    os.chdir("/")
    os.umask(0o777)
    connection = new_restricted_database()
    worker.warm(connection)
    gc.collect()
    gc.freeze()
    try:
        _obey(control, connection)
    except ConnectionError:
        # The parent died between a word and its answer.
        os._exit(0)


def _obey(control: socket.socket, connection: duckdb.DuckDBPyConnection) -> NoReturn:
    threads = len(list(Path("/proc/self/task").iterdir()))
    control.send(json.dumps({"threads": threads, "sandbox": sandbox.report()}).encode())
    while True:
        message, descriptors, _, _ = socket.recv_fds(control, 1024, 1)
        if not message:
            os._exit(0)
        word = json.loads(message)
        if word["do"] == "fork":
            pid = os.fork()
            if pid == 0:
                _worker(control, descriptors[0], connection)
            for descriptor in descriptors:
                os.close(descriptor)
            control.send(json.dumps({"pid": pid}).encode())
        else:
            try:
                _, status = os.waitpid(word["pid"], 0)
            except ChildProcessError:
                status = 0
            control.send(json.dumps({"status": status}).encode())


def _worker(control: socket.socket, descriptor: int, connection: duckdb.DuckDBPyConnection) -> NoReturn:
    try:
        control.close()
        os.setsid()
        worker.touch(connection)
        nothing = os.open(os.devnull, os.O_RDWR)
        for stream in (0, 1, 2):
            os.dup2(nothing, stream)
        # Nothing but the three and the socket: whatever else a library holds open is closed.
        os.dup2(descriptor, 3)
        os.closerange(4, os.sysconf("SC_OPEN_MAX"))
        with Path("/proc/self/oom_score_adj").open("w") as file:
            file.write("1000")
        worker.serve(socket.socket(fileno=3), connection)
    except BaseException:  # noqa: BLE001 - a fault of our own, before the statement: the server's log shall have it
        traceback.print_exc()
    finally:
        os._exit(0)
