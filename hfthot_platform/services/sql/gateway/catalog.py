"""From a principal and a lake to what a worker is given: names, and the files and rows behind them.

A worker is only ever handed the data files of the tables that its statement names, and of these none that lies
wholly before the caller's history.  Rows of the few files that the limit cuts through are filtered below a LIMIT
that nothing of the statement is moved beneath, so that neither its result nor its errors tell of older rows.
"""

from __future__ import annotations

import io
from collections.abc import Callable, Iterable, Mapping, Sequence
from datetime import UTC, date, datetime, timedelta
from typing import TYPE_CHECKING, Any, Final

import duckdb
import polars as pl
import pyarrow as pa

from hfthot_platform.core.duckdb import new_restricted_database
from hfthot_platform.core.errors import SqlRefusedError, StorageFullError, UnknownTableError, nearest
from hfthot_platform.core.time import ONE_DAY, Grain, midnight, partition_days
from hfthot_platform.domain.contracts import TableContract
from hfthot_platform.domain.contracts.model import DATE
from hfthot_platform.domain.contracts.views import View
from hfthot_platform.services.sql.discovery import relations as discovery_of
from hfthot_platform.services.sql.gateway.worker import SuppliedView, Supply
from hfthot_platform.services.sql.pruning import kept_files
from hfthot_platform.services.sql.relations import (
    DerivedView,
    ResolvedRelations,
    TableAtVersion,
    listed,
    needed_filters,
    no_rows,
    relations_of,
    resolve,
    select_files,
)
from hfthot_platform.services.sql.statement import DISCOVERY, Reference, Statement, view_of

if TYPE_CHECKING:
    from hfthot_platform.domain.access.authorisation import Principal
    from hfthot_platform.domain.access.visibility import Relations
    from hfthot_platform.storage.lakehouse import Lakehouse
    from hfthot_platform.storage.lakehouse.commits import Files

__all__ = ["Catalog"]

#: More rows than any table has: a LIMIT that only keeps filters from moving past it.
_ALL_ROWS: Final = 2**62
#: What taking apart a tree that is not one of DuckDB's can end in.
_MALFORMED: Final = (
    duckdb.Error,
    ArithmeticError,
    AttributeError,
    LookupError,
    RecursionError,
    TypeError,
    ValueError,
)


class Catalog:
    """What one caller may name in a lake.

    Args:
        lake: the lake.
        principal: who asks.
        relations: the lake's tables and views, where they are at hand.
    """

    def __init__(self, lake: Lakehouse, principal: Principal, relations: Relations | None = None) -> None:
        self._lake = lake
        self._visibility = principal.visibility
        #: Readable columns by table and view.
        self.permitted = self._visibility.readable(relations or relations_of(lake))
        #: Whether files have to be fetched for a worker, which has no network.
        self.fetches = not lake.storage.opens_by_path
        #: All names that a statement may use.
        self.known: tuple[str, ...] = (*self.permitted, *DISCOVERY)

    def require(self, names: Iterable[str]) -> None:
        """Check that names are the caller's to read.

        Raises:
            UnknownTableError: one is not; the message is the same whether it exists or not.
        """
        for name in names:
            if name not in self.known:
                hint = nearest(name[:100], self.permitted) or "SHOW TABLES lists what you may read."
                raise UnknownTableError(f"unknown table {name[:100]!r}", where="SQL", hint=hint)

    def supply(
        self,
        named: Sequence[Any],
        versions: Mapping[str, int],
        as_of: datetime | None,
        *,
        tree: object = None,
        params: object = None,
        count: Callable[[], None] = lambda: None,
    ) -> tuple[Supply, dict[str, int]]:
        """Return what a worker is given for the names that its statement has, and the versions that it reads.

        Args:
            named: `[name, view, version, time]` for each, as the worker says; it may lie, and gets no more by it.
            versions: versions of those that have none, by table.
            as_of: the time for those that have no version even so.
            tree: the statement's tree as the worker has it: files of an object store that it cannot need are not
                fetched.  It may lie too, and misses rows by it.
            params: values of the statement's parameters.
            count: counts the statement, or refuses it; called before any file is fetched.

        Raises:
            UnknownTableError: a name is not the caller's to read.
            SqlRefusedError: the files that it needs are more than this host may keep of the object store.
            VersionUnavailableError: a version is not readable (any more); the message names the readable range.
        """
        references = tuple(self._reference(*said) for said in named)
        schemas = {reference.view: reference.schema for reference in references}
        self.require(versions)
        if as_of is not None:
            # The time that the statement was read with must not stand in the way of a version that was asked for.
            asked = {self._table_of(name) for name in versions}
            references = tuple(
                Reference(reference.name, reference.view)
                if reference.as_of == as_of and self._table_of(reference.name) in asked
                else reference
                for reference in references
            )
        found = resolve(self._lake, Statement("", references), versions, as_of)
        self.require(source.contract.name for source in found.sources)
        count()
        supplied: list[SuppliedView] = []
        paths: list[str] = []
        if found.discovery:
            # How many rows a version has tells of those before the caller's history.
            whole = self._visibility.history is None
            for name, frame in discovery_of(self._lake, found.discovery, permitted=self.permitted, rows=whole).items():
                supplied.append(SuppliedView("hfthot", view_of(name), "", _stream_of(frame)))
        told: int | None = None
        kept = self._kept_files(tree, found, params) if self.fetches else {}
        for source in found.sources:
            view = source.reference.view
            schema = schemas.get(view, source.reference.schema)
            body, opened, is_cut = self._body(source, kept.get(view))
            supplied.append(SuppliedView(schema, view, body))
            paths += opened
            if is_cut:
                told = 0
        for derived in found.views:
            reference = derived.reference
            schema = schemas.get(reference.view, reference.schema)
            supplied.append(SuppliedView(schema, reference.view, self._select(derived)))
        columns = tuple(
            dict.fromkeys(name for reference in references for name in self.permitted.get(reference.name, ()))
        )
        if told is not None:
            told = sum(_size(source, self._since(source.contract)) for source in found.sources)
        return Supply(tuple(supplied), tuple(dict.fromkeys(paths)), columns, told), found.tables

    def _reference(self, name: object, view: object, version: object, as_of: object) -> Reference:
        if not isinstance(name, str) or not isinstance(view, str):
            raise SqlRefusedError("the statement names something that is not a table", where="SQL")
        self.require([name])
        number = version if isinstance(version, int) else None
        moment = datetime.fromisoformat(as_of).astimezone(UTC) if isinstance(as_of, str) else None
        return Reference(name, view_of(name, number, moment), number, moment)

    def _table_of(self, name: str) -> str:
        view = self._lake.views.get(name)
        return view.of.name if isinstance(view, View) else name

    def _select(self, view: DerivedView) -> str:
        """Return the SELECT of the columns of a view that the caller may read."""
        name = view.reference.name
        sql = view.sql
        if view.of is not None:
            sql = f"SELECT {listed(self.permitted[name])} FROM {view.of.view}"  # noqa: S608 - quoted names of our own
        elif columns := self.permitted[name]:
            sql = f"SELECT {listed(columns)} FROM (\n{sql}\n)"  # noqa: S608 - the same
        return sql

    def _kept_files(self, tree: object, found: ResolvedRelations, params: object) -> dict[str, frozenset[int]]:
        """Return the positions of the files that the statement can need, by view; none of a view that needs all."""
        if not isinstance(tree, dict):
            return {}
        values = params if isinstance(params, dict) else {}
        if isinstance(params, list | tuple):
            values = {str(number): value for number, value in enumerate(params, 1)}
        with new_restricted_database() as connection:
            try:
                needed = needed_filters(connection, tree, found)
                return {
                    source.reference.view: frozenset(
                        kept_files(connection, source.files, source.contract, filters, values)
                    )
                    for source in found.sources
                    if source.files is not None and (filters := needed.get(source.reference.view))
                }
            except _MALFORMED:
                # No tree that DuckDB made, so all files are fetched.
                return {}

    def _since(self, contract: TableContract) -> datetime | None:
        if self._visibility.history is None or contract.time_column is None:
            return None
        return self._lake.clock().astimezone(UTC) - self._visibility.history

    def _body(self, source: TableAtVersion, kept: frozenset[int] | None) -> tuple[str, list[str], bool]:
        """Return the SELECT of the rows and columns of a table that the caller may read, and the files in it.

        Only files at the positions in `kept` are read, where it is given.  Files all of whose rows are the caller's to
        read come first, then those with other rows as well; the last of what is returned says whether there are such.
        """
        contract, files = source.contract, source.files
        columns = listed(self.permitted[contract.name])
        if files is None or not files.paths:
            return f"SELECT {columns} FROM ({no_rows(contract)})", [], False  # noqa: S608 - quoted names of our own
        since = self._since(contract)
        inside, cut = _split(contract, files, since)
        if kept is not None:
            # Not of those with rows that the caller may not see: whether one is left out would tell of them.
            inside = [position for position in inside if position in kept]
        opened = self._paths(source, [*inside, *cut])
        parts = [select_files(contract, opened[: len(inside)])] if inside or not cut else []
        if cut:
            parts.append(
                f"SELECT * FROM ({select_files(contract, opened[len(inside) :])}) "  # noqa: S608 - the same
                f'WHERE "{contract.time_column}" >= {_literal(contract, since)} LIMIT {_ALL_ROWS}'
            )
        union = " UNION ALL ".join(f"SELECT {columns} FROM ({part})" for part in parts)  # noqa: S608 - the same
        return union, opened, bool(cut)

    def _paths(self, source: TableAtVersion, positions: Sequence[int]) -> list[str]:
        """Return where a worker finds files of a table, which are fetched where it could not reach them."""
        files = source.files
        assert files is not None
        if not self.fetches:
            return [files.paths[position] for position in positions]
        try:
            return self._lake.fetched(source.contract.name, files, positions)
        except StorageFullError as error:
            raise SqlRefusedError(error.what, where="SQL", hint=error.hint) from None


def _size(source: TableAtVersion, since: datetime | None) -> int:
    """Return the bytes of the files of a table all of whose rows the caller may see."""
    if source.files is None or not source.files.paths:
        return 0
    inside, _ = _split(source.contract, source.files, since)
    sizes = source.files.entries.column("size_bytes").to_pylist()
    return sum(sizes[position] for position in inside)


def _split(contract: TableContract, files: Files, since: datetime | None) -> tuple[list[int], list[int]]:
    """Return the positions of files all of whose rows are at or after a time, and of those with rows on both sides."""
    if since is None:
        return list(range(len(files.paths))), []
    first = since.date() if contract.column(str(contract.time_column)).dtype == DATE else since
    inside, cut = [], []
    for position, (low, high) in enumerate(_spans(contract, files)):
        if low is not None and _instant(low) >= _instant(first):
            inside.append(position)
        elif high is None or _last(high) >= _instant(first):
            cut.append(position)
    return inside, cut


def _spans(contract: TableContract, files: Files) -> list[tuple[date | None, date | None]]:
    """Return bounds of each file's times: by its partition, which is exact, or by its statistics, rounded outwards."""
    entries, grain = files.entries, contract.partition_by
    count = len(files.paths)
    if grain is not None and f"partition.{grain}" in entries.column_names:
        values = entries.column(f"partition.{grain}").to_pylist()
        return [_of_partition(grain, value) for value in values]
    bounds = []
    for kind, slack in (("min", -timedelta(milliseconds=1)), ("max", timedelta(milliseconds=1))):
        name = f"{kind}.{contract.time_column}"
        values = entries.column(name).to_pylist() if name in entries.column_names else [None] * count
        bounds.append([bound + slack if isinstance(bound, datetime) else bound for bound in values])
    return list(zip(*bounds, strict=True))


def _of_partition(grain: Grain, value: Any) -> tuple[date | None, date | None]:
    if value is None:
        return None, None
    try:
        first, end = partition_days(grain, value)
    except OverflowError:
        return None, None  # the last partition of the calendar: its rows are judged one by one
    return first, end - ONE_DAY


def _instant(value: date) -> datetime:
    """Return the first instant of a day, or a time in UTC."""
    if isinstance(value, datetime):
        return value.astimezone(UTC) if value.tzinfo else value.replace(tzinfo=UTC)
    return midnight(value)


def _last(value: date) -> datetime:
    """Return the last instant of a day, or a time in UTC."""
    return _instant(value) if isinstance(value, datetime) else _instant(value) + timedelta(days=1, microseconds=-1)


def _literal(contract: TableContract, since: datetime | None) -> str:
    assert since is not None
    if contract.column(str(contract.time_column)).dtype == DATE:
        return f"DATE '{since.date().isoformat()}'"
    return f"TIMESTAMPTZ '{since.isoformat(sep=' ')}'"


def _stream_of(frame: pl.DataFrame) -> bytes:
    table = frame.to_arrow(compat_level=pl.CompatLevel.oldest())
    sink = io.BytesIO()
    with pa.ipc.new_stream(sink, table.schema) as writer:
        writer.write_table(table)
    return sink.getvalue()
