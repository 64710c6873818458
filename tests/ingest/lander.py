"""Ingests a landing folder in a child process that can be killed.

    python lander.py LAKE LANDING      a line on stdin begins a run and prints its process id;
                                       the next one waits for its end and prints its exit code

The child is forked from a warm parent: a fresh interpreter would spend its life importing.  The parent has not
run Polars or Delta before the fork, so the child starts with clean thread pools.
"""

from __future__ import annotations

import os
import sys
import traceback
from datetime import UTC, datetime
from pathlib import Path

from hfthot_platform.adapters.files import csv
from hfthot_platform.services.ingest import ingest_landing
from hfthot_platform.storage.lakehouse import Lakehouse

NOW = datetime(2024, 6, 1, 12, tzinfo=UTC)


def ingest(lake: str, folder: str) -> None:
    # Ten rows a batch: files of several batches are killed between them too.
    read = csv.Csv.read

    def in_tens(self, probe, claim, *, source_ref, batch_rows=10, progress=None):
        return read(self, probe, claim, source_ref=source_ref, batch_rows=10)

    csv.Csv.read = in_tens
    ingest_landing(Lakehouse.open(lake, clock=lambda: NOW), Path(folder), now=NOW, settle_seconds=0)


def main() -> None:
    import hfthot_platform.adapters.recognise  # noqa: F401 - warm

    lake, folder = sys.argv[1:]
    print("ready", flush=True)
    for _ in sys.stdin:
        pid = os.fork()
        if pid == 0:
            status = 0
            try:
                ingest(lake, folder)
            except BaseException:
                traceback.print_exc()
                status = 1
            os._exit(status)
        print(pid, flush=True)
        sys.stdin.readline()  # until then its id is its own, even if it has ended
        _, status = os.waitpid(pid, 0)
        print(os.waitstatus_to_exitcode(status), flush=True)


if __name__ == "__main__":
    main()
