"""A small database without tables that answers questions about statements before they run; a process has one."""

from __future__ import annotations

import os
import threading
from collections.abc import Mapping, Sequence
from typing import Any

import duckdb
import polars as pl

from hfthot_platform.core.duckdb import new_database, shut_in

__all__ = ["ADVISER", "BOUNDS"]

#: The name under which a question finds the frame that is given with it.
BOUNDS = "bounds_of_files"


class _Adviser:
    """Opened on the first question, and again after a fork; questions take turns."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._opened: duckdb.DuckDBPyConnection | None = None
        self._opened_by = 0

    def ask(
        self, query: str, params: Sequence[object] | Mapping[str, object], bounds: pl.DataFrame | None = None
    ) -> list[tuple[Any, ...]]:
        """Return the rows of a query, which may read `bounds` by the name `BOUNDS`."""
        with self._lock:
            connection = self._connection()
            if bounds is not None:
                connection.register(BOUNDS, bounds.to_arrow())
            try:
                return connection.execute(query, params or None).fetchall()
            finally:
                if bounds is not None:
                    connection.unregister(BOUNDS)

    def statements(self, sql: str) -> list[Any]:
        """Return the statements of a text, parsed and not run."""
        with self._lock:
            return list(self._connection().extract_statements(sql))

    def _connection(self) -> duckdb.DuckDBPyConnection:
        if self._opened is None or self._opened_by != os.getpid():
            self._opened, self._opened_by = new_database(), os.getpid()
            shut_in(self._opened)
        return self._opened


ADVISER = _Adviser()
