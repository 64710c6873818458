"""What changed in a table between two versions: rows by their key, values by column.

Data files that both versions have are not read at all: versions differ in their files.  The others are compared in one
join on DuckDB, within its memory limit and with its spill folder, however much changed (on an object store, where
Polars reads the tables, all files are).  Personal columns are compared like all others; their values are never shown.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Literal

import polars as pl

from hfthot_platform.core.duckdb import quoted
from hfthot_platform.core.errors import UnknownColumnError, UnknownTableError, nearest
from hfthot_platform.domain.contracts import TableContract
from hfthot_platform.domain.contracts.views import View
from hfthot_platform.services.sql.engine import Limits, SqlStream, opened_resolved
from hfthot_platform.services.sql.relations import TableAtVersion, listed, resolve
from hfthot_platform.services.sql.statement import Statement, parse

if TYPE_CHECKING:
    from hfthot_platform.storage.lakehouse import Lakehouse

__all__ = ["Diff", "Kind", "diff"]

Kind = Literal["added", "removed", "changed"]

_IN = "hfthot_in"
_NTH = "hfthot_nth"


@dataclass(frozen=True)
class Diff:
    """What is different in version `after` of a table, seen from version `before`."""

    table: str
    before: int
    after: int
    key: tuple[str, ...]
    #: Rows whose key only `after` has, only `before` has, and both have with other values.
    added: int
    removed: int
    changed: int
    #: How many of the changed rows have another value in a column; columns without a change are left out.
    columns: dict[str, int]
    #: Data files that were compared, of both versions together, and those that both have.
    files_read: int
    files_shared: int
    _comparison: _Comparison

    def rows(self, kind: Kind, limit: int | None = None) -> pl.DataFrame:
        """Return the rows of one kind in the order of their key, at most `limit`.

        Added and removed rows come as they are.  Changed ones have their key and, for each column with a change
        anywhere, `<column>_before` and `<column>_after`.  Personal columns are left out.
        """
        with self._comparison.opened(self._select(kind, limit)) as stream:
            return stream.frame()

    def batches(self, kind: Kind) -> Iterator[pl.DataFrame]:
        """Yield the same rows piece by piece, in bounded memory; the first piece may have no rows."""
        with self._comparison.opened(self._select(kind, None)) as stream:
            yield from stream.batches()

    def _select(self, kind: Kind, limit: int | None) -> str:
        contract = self._comparison.contract
        shown = [column.name for column in contract.columns if not column.personal]
        key = [name for name in self.key if name in shown]
        side = "b" if kind == "added" else "a"
        if kind == "changed":
            pairs = [
                f"{which}.{quoted(name)} AS {quoted(f'{name}_{word}')}"
                for name in self.columns
                if name in shown
                for which, word in (("a", "before"), ("b", "after"))
            ]
            columns = ", ".join([*(f"a.{quoted(name)}" for name in key), *pairs]) or "1 AS changed"
        else:
            columns = ", ".join(f"{side}.{quoted(name)}" for name in shown)
        order = ", ".join(f"{side}.{quoted(name)}" for name in self.key)
        end = "" if limit is None else f" LIMIT {int(limit)}"
        return f"SELECT {columns} FROM {{joined}} WHERE {_WHERE[kind]} ORDER BY {order}{end}"  # noqa: S608 - names from the contract


_WHERE: dict[Kind, str] = {
    "added": f"a.{_IN} IS NULL",
    "removed": f"b.{_IN} IS NULL",
    "changed": f"a.{_IN} AND b.{_IN} AND {{differs}}",
}


def diff(
    lake: Lakehouse,
    table: str,
    before: int,
    after: int,
    *,
    key: Sequence[str] | None = None,
    limits: Limits | None = None,
) -> Diff:
    """Compare two versions of a table.

    Args:
        lake: where the table is.
        table: its name.
        before: the version to start from.
        after: the version to compare with it; it may be the older one.
        key: columns that make two rows the same row; the primary key otherwise.  Rows that share a key are paired in
            the order of their values.
        limits: memory, threads and spill folder.

    Raises:
        UnknownTableError: no table has this name.
        UnknownColumnError: the table has no such key column.
        VersionUnavailableError: a version is not readable (any more); the message names the readable range.
        DamagedTableError: a file that differs is missing or unreadable.
    """
    if isinstance(view := lake.views.get(table), View) and table not in lake.contracts:
        raise UnknownTableError(f"{table} is a view", where="diff", hint=f"Compare versions of {view.of.name}.")
    contract = lake.table(table).contract
    chosen = tuple(key or contract.primary_key)
    for name in chosen:
        if name not in contract.column_names:
            hint = nearest(name, contract.column_names) or f"Columns: {', '.join(contract.column_names)}."
            raise UnknownColumnError(f"unknown key column {name!r}", where=table, hint=hint)
    comparison = _Comparison(lake, contract, chosen, before, after, limits or Limits())
    compared = [name for name in contract.column_names if name not in chosen]
    counts = comparison.counts(compared)
    if comparison.has_repeated_keys(counts):
        comparison.numbered = True
        counts = comparison.counts(compared)
    return Diff(
        table=table,
        before=before,
        after=after,
        key=chosen,
        added=counts["added"],
        removed=counts["removed"],
        changed=counts["changed"],
        columns={name: counts[f"column_{n}"] for n, name in enumerate(compared) if counts[f"column_{n}"]},
        files_read=comparison.files_read,
        files_shared=comparison.files_shared,
        _comparison=comparison,
    )


class _Comparison:
    """The two versions side by side, without the files that they share."""

    def __init__(
        self, lake: Lakehouse, contract: TableContract, key: tuple[str, ...], before: int, after: int, limits: Limits
    ) -> None:
        self.contract = contract
        #: Whether rows that share a key are told apart by their position among them.
        self.numbered = False
        self._lake = lake
        self._key = key
        self._versions = (before, after)
        self._limits = limits
        found = resolve(lake, self._statement("SELECT 1 FROM {joined}"))
        paths = [frozenset() if table.files is None else frozenset(table.files.paths) for table in found.sources]
        shared = frozenset.intersection(*paths) if lake.storage.opens_by_path else frozenset()
        self._resolved = replace(found, sources=tuple(_without(table, shared) for table in found.sources))
        self.files_shared = len(shared)
        self.files_read = sum(len(path - shared) for path in paths)

    def counts(self, compared: Sequence[str]) -> dict[str, int]:
        """Return the numbers of rows, and for each column of how many changed rows it has another value."""
        both = f"a.{_IN} AND b.{_IN}"
        wanted: dict[str, str] = {"left": f"a.{_IN}", "right": f"b.{_IN}"}
        wanted |= {str(kind): condition for kind, condition in _WHERE.items()}
        wanted |= {f"column_{n}": f"{both} AND {_differs([name])}" for n, name in enumerate(compared)}
        terms = ", ".join(f"count(*) FILTER ({condition}) AS {name}" for name, condition in wanted.items())
        with self.opened(f"SELECT {terms} FROM {{joined}}") as stream:  # noqa: S608 - names from the contract
            return {name: int(count) for name, count in stream.frame().row(0, named=True).items()}

    def has_repeated_keys(self, counts: dict[str, int]) -> bool:
        """Whether the join counted rows several times, which it does only where a key is there several times."""
        rows = []
        for source in self._resolved.sources:
            records = [] if source.files is None else source.files.entries.column("num_records").to_pylist()
            rows.append(None if None in records else sum(records))
        found = (counts["left"], counts["right"])
        return any(known not in {None, joined} for known, joined in zip(rows, found, strict=False))

    @contextmanager
    def opened(self, sql: str) -> Iterator[SqlStream]:
        """Run a SELECT FROM {joined}."""
        with opened_resolved(self._lake, self._statement(sql), self._resolved, limits=self._limits) as stream:
            yield stream

    def _statement(self, sql: str) -> Statement:
        contract, (before, after) = self.contract, self._versions
        name = ".".join(map(quoted, contract.parts))
        values = [column_name for column_name in contract.column_names if column_name not in self._key]
        nth = ""
        if self.numbered:
            order = f" ORDER BY {listed(values)}" if values else ""
            nth = f", row_number() OVER (PARTITION BY {listed(self._key)}{order}) AS {_NTH}"
        on = [f"a.{quoted(column)} {_equals(contract, column)} b.{quoted(column)}" for column in self._key]
        on += [f"a.{_NTH} = b.{_NTH}"] if self.numbered else []
        select = f"SELECT *, true AS {_IN}{nth} FROM {name} VERSION AS OF"  # noqa: S608 - names from the contract
        sides = [f"({select} {int(side)})" for side in (before, after)]
        joined = f"{sides[0]} a FULL JOIN {sides[1]} b ON {' AND '.join(on)}"
        text = sql.replace("{joined}", joined).replace("{differs}", _differs(values))
        return parse(text, {contract.name})


def _without(source: TableAtVersion, shared: frozenset[str]) -> TableAtVersion:
    files = source.files
    if files is None or not shared:
        return source
    own = [position for position, path in enumerate(files.paths) if path not in shared]
    return replace(source, files=files.only(own))


def _differs(columns: Sequence[str]) -> str:
    return (
        f"({' OR '.join(f'a.{quoted(column)} IS DISTINCT FROM b.{quoted(column)}' for column in columns) or 'false'})"
    )


def _equals(contract: TableContract, name: str) -> str:
    return "IS NOT DISTINCT FROM" if contract.column(name).nullable else "="
