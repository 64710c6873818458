"""What the names in a statement stand for: tables at versions, views of them, and their DuckDB views.

`resolve` turns the references of a statement into the tables that have to be read and the views over them;
`register` makes them in a database.  On a local lake a table's view reads the files of its version directly, those
alone that the statement can need; on an object store, where DuckDB would want an extension from the network, it is
a Polars scan, which takes the same filters.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from itertools import groupby
from typing import TYPE_CHECKING

import duckdb
import pyarrow.parquet as pq

from hfthot_platform.core.duckdb import error_details, literal, quoted
from hfthot_platform.core.errors import BadRequestError, SqlError, UnknownTableError, nearest
from hfthot_platform.domain.access.visibility import Relations
from hfthot_platform.domain.contracts import TableContract
from hfthot_platform.domain.contracts.views import SqlView, View
from hfthot_platform.services.sql.discovery import relations
from hfthot_platform.services.sql.pruning import Filters, filters_of, kept_files
from hfthot_platform.services.sql.statement import (
    DISCOVERY,
    Node,
    Reference,
    Statement,
    parse,
    tree_of,
    view_of,
    without_end,
)

if TYPE_CHECKING:
    from hfthot_platform.storage.lakehouse import Lakehouse
    from hfthot_platform.storage.lakehouse.commits import Files

__all__ = ["DerivedView", "ResolvedRelations", "TableAtVersion", "known_names", "register", "relations_of", "resolve"]
__all__ += ["needed_filters", "select_files"]

#: With fewer files than this, finding out which ones are not needed costs more than opening them.
WORTH_PRUNING = 8


@dataclass(frozen=True, eq=False)
class TableAtVersion:
    """One table at one version."""

    reference: Reference
    contract: TableContract
    #: None if nobody wrote the table yet.
    files: Files | None

    @property
    def version(self) -> int:
        """Return the version, -1 for a table that nobody wrote yet."""
        return -1 if self.files is None else self.files.version


@dataclass(frozen=True)
class DerivedView:
    """A view over sources and other views, of which those that it needs come before it."""

    reference: Reference
    #: One SELECT that names the DuckDB views of others.
    sql: str
    columns: tuple[str, ...]
    #: The source of which it is a plain selection of columns, None for one that computes.
    of: Reference | None = None


@dataclass(frozen=True)
class ResolvedRelations:
    """All that a statement reads."""

    sources: tuple[TableAtVersion, ...]
    views: tuple[DerivedView, ...]
    discovery: tuple[str, ...]

    @property
    def tables(self) -> dict[str, int]:
        """Return the versions that are read, by table; as `name@version` where there are several of one table."""
        names = [source.contract.name for source in self.sources]
        return {
            source.contract.name
            if names.count(source.contract.name) == 1
            else f"{source.contract.name}@{source.version}": (source.version)
            for source in self.sources
        }

    @property
    def columns(self) -> list[str]:
        """Return the names of all columns that the statement can name."""
        names = [name for source in self.sources for name in source.contract.column_names]
        return list(dict.fromkeys([*names, *(name for view in self.views for name in view.columns)]))


def known_names(lake: Lakehouse) -> frozenset[str]:
    """Return all names that a statement over this lake can use."""
    return frozenset((*lake.contracts, *lake.views, *DISCOVERY))


def relations_of(lake: Lakehouse) -> Relations:
    """Return the tables and views of a lake for the rule of who sees them.

    Each computed view is parsed once: keep it as long as the lake.
    """
    known = known_names(lake)
    origins: dict[str, tuple[str, ...]] = {}

    def origins_of(view: SqlView) -> tuple[str, ...]:
        if view.name not in origins:
            origins[view.name] = tuple(reference.name for reference in parse(view.sql, known).references)
        return origins[view.name]

    return Relations(lake.contracts, lake.views, origins_of)


def resolve(
    lake: Lakehouse,
    statement: Statement,
    versions: Mapping[str, int] | None = None,
    as_of: datetime | None = None,
) -> ResolvedRelations:
    """Find the versions and files of all that a statement names, through views to any depth.

    Args:
        lake: where the tables are.
        statement: as parsed.
        versions: versions of tables, or of views of one table, that the statement names without one.
        as_of: the time for those that are not in `versions` either.

    Raises:
        BadRequestError: a version is given for what the statement does not name.
        VersionUnavailableError: a version is not readable (any more); the message names the readable range.
        SqlError: a view computes itself, or a version is asked of a view that has none.
    """
    found = _Found(lake)
    for reference in statement.references:
        found.add(reference, ())
    chosen = _chosen(lake, found, statement, versions or {})
    sources = []
    for reference in found.tables.values():
        table = lake.table(reference.name)
        version, time = reference.version, reference.as_of
        if version is None and time is None:
            version = chosen.get(reference.name)
            time = as_of if version is None else None
        sources.append(TableAtVersion(reference, table.contract, table.files(version, time)))
    return ResolvedRelations(tuple(sources), tuple(found.views.values()), tuple(sorted(found.discovery)))


@dataclass
class _Found:
    """References to follow, each once, by the name of its DuckDB view."""

    lake: Lakehouse
    tables: dict[str, Reference] = field(default_factory=dict)
    views: dict[str, DerivedView] = field(default_factory=dict)
    discovery: set[str] = field(default_factory=set)

    def add(self, reference: Reference, through: tuple[str, ...]) -> None:
        name, lake = reference.name, self.lake
        if reference.view in self.tables or reference.view in self.views:
            return
        if name in DISCOVERY:
            self.discovery.add(name)
        elif name in lake.contracts:
            self.tables[reference.view] = reference
        elif isinstance(view := lake.views[name], View):
            of = view.of.name
            inner = Reference(of, view_of(of, reference.version, reference.as_of), reference.version, reference.as_of)
            self.add(inner, through)
            sql = f"SELECT {listed(view.columns)} FROM {inner.view}"  # noqa: S608 - names of our own
            self.views[reference.view] = DerivedView(reference, sql, view.columns, inner)
        else:
            if name in through:
                circle = " reads ".join((*through[through.index(name) :], name))
                raise SqlError(f"the view reads itself: {circle}", where=name, hint="Break the cycle.")
            if reference.version is not None:
                raise SqlError(
                    f"{name} is a computed view and has no versions of its own",
                    where="SQL",
                    hint=f"Write {name} TIMESTAMP AS OF '...', or give the tables that it reads their versions.",
                )
            body = parse(view.sql, known_names(lake), as_of=reference.as_of)
            for inner_reference in body.references:
                self.add(inner_reference, (*through, name))
            names = tuple(column.name for column in view.columns)
            # On a line of its own, the bracket is safe from a comment at the end.
            sql = f"SELECT {listed(names) if names else '*'} FROM (\n{without_end(body.sql)}\n)"  # noqa: S608
            self.views[reference.view] = DerivedView(reference, sql, names)


def _chosen(lake: Lakehouse, found: _Found, statement: Statement, versions: Mapping[str, int]) -> dict[str, int]:
    """Return the asked versions by table."""
    open_tables = {
        reference.name for reference in found.tables.values() if reference.version is None and reference.as_of is None
    }
    named = list(dict.fromkeys(reference.name for reference in statement.references))
    chosen: dict[str, int] = {}
    for name, version in versions.items():
        view = lake.views.get(name)
        if view is not None and not isinstance(view, View):
            raise BadRequestError(
                f"version {version} was requested of a computed view, which has no versions of its own",
                where=name,
                hint="Give the versions of the tables that it reads.",
            )
        table = lake.table(name).contract.name if view is None else view.of.name
        if table not in open_tables:
            raise BadRequestError(
                f"version {version} was requested of a table that the statement does not name",
                where=name,
                hint=f"The statement names {', '.join(named) or 'no table'}.",
            )
        if chosen.setdefault(table, version) != version:
            raise BadRequestError(
                f"versions {chosen[table]} and {version} were requested of the same table under one name",
                where=table,
                hint=f"Write them into the statement: FROM {table} VERSION AS OF {version}.",
            )
    return chosen


# -- in a database ------------------------------------------------------------------------------------------------


def register(
    connection: duckdb.DuckDBPyConnection,
    lake: Lakehouse,
    statement: Statement,
    resolved: ResolvedRelations,
    params: Mapping[str, object],
) -> tuple[list[str], int]:
    """Make a view for each table and view that a statement reads.

    Returns:
        The files that may be read, and their size in bytes together (of the whole tables on an object store).

    Raises:
        DamagedTableError: a file that may be read is missing or has another size than the log says.
    """
    references = [*(source.reference for source in resolved.sources), *(view.reference for view in resolved.views)]
    schemas = {reference.schema for reference in references}
    schemas |= {"hfthot"} if resolved.discovery else set()
    for schema in sorted(schema_name for schema_name in schemas if schema_name is not None):
        connection.execute(f"CREATE SCHEMA IF NOT EXISTS {quoted(schema)}")
    by_path = lake.storage.opens_by_path
    needed = needed_filters(connection, tree_of(connection, statement.sql), resolved) if by_path else {}
    paths: list[str] = []
    size = 0
    for number, source in enumerate(resolved.sources):
        files, contract = source.files, source.contract
        if files is None or not files.paths:
            body = no_rows(contract)
        elif by_path:
            kept = kept_files(connection, files, contract, needed.get(source.reference.view), params)
            lake.table(contract.name).require(files, kept)
            chosen = [files.paths[position] for position in kept]
            sizes = files.entries.column("size_bytes")
            size += sum(sizes[position].as_py() for position in kept) if len(kept) < len(sizes) else files.bytes
            body = select_files(contract, chosen)
            paths += chosen
        else:
            scan = f"_scan_{number}"
            connection.register(scan, lake.table(contract.name).scan(files.version))
            size += files.bytes
            body = f"SELECT {listed(contract.column_names)} FROM {scan}"  # noqa: S608 - a name of our own
        connection.execute(f"CREATE VIEW {source.reference.view} AS {body}")
    if resolved.discovery:
        for name, frame in relations(lake, resolved.discovery).items():
            scan = f"_{name.replace('.', '_')}"
            connection.register(scan, frame)
            connection.execute(f"CREATE VIEW {view_of(name)} AS SELECT * FROM {scan}")  # noqa: S608 - names of our own
    for view in resolved.views:
        try:
            connection.execute(f"CREATE VIEW {view.reference.view} AS {view.sql}")
        except duckdb.Error as error:
            raise SqlError(
                f"the view cannot be computed: {error_details(error).first}",
                where=view.reference.name,
                hint="Correct its SELECT.",
            ) from None
    return paths, size


def needed_filters(
    connection: duckdb.DuckDBPyConnection, tree: Node | None, resolved: ResolvedRelations
) -> dict[str, Filters]:
    """Return what the rows of each source must meet, by the name of its DuckDB view.

    Args:
        connection: a database that takes the views' own text apart.
        tree: the statement's, from `tree_of`; nothing in it is run, so that it need not be trusted.
        resolved: what the statement reads.
    """
    if tree is None or all(
        source.files is None or len(source.files.paths) < WORTH_PRUNING for source in resolved.sources
    ):
        return {}
    columns: dict[tuple[str, ...], frozenset[str]] = {}
    stands_for: dict[tuple[str, ...], str] = {}
    for source in resolved.sources:
        path = _path(source.reference)
        columns[path], stands_for[path] = frozenset(source.contract.column_names), source.reference.view
    for view in resolved.views:
        path = _path(view.reference)
        columns[path] = frozenset(view.columns)
        stands_for[path] = view.reference.view if view.of is None else view.of.view
    found: dict[str, Filters] = {}
    # A selection of columns is no place where a table stands, but another name for it.
    views = [tree_of(connection, derived.sql) for derived in resolved.views if derived.of is None]
    for part in (tree, *views):
        if part is None:
            return {}
        for path, filters in filters_of(part, columns).items():
            name = stands_for.get(path, "")
            before = found.get(name, [])
            found[name] = None if filters is None or before is None else [*before, *filters]
    return found


def _path(reference: Reference) -> tuple[str, ...]:
    name = reference.name.rpartition(".")[2]
    return (name,) if reference.schema is None else (reference.schema.lower(), name)


def select_files(contract: TableContract, paths: Sequence[str]) -> str:
    """Return the SELECT that reads data files; those from before a column was added give NULL for it."""
    if not paths:
        return no_rows(contract)
    groups: list[tuple[frozenset[str], list[str]]] = [(frozenset(contract.column_names), list(paths))]
    if contract.schema_version > 1:
        has = {path: frozenset(pq.read_schema(path).names) | {contract.partition_by or ""} for path in paths}
        ordered = sorted(paths, key=lambda path: sorted(has[path]))
        groups = [(columns, list(group)) for columns, group in groupby(ordered, key=has.__getitem__)]
    hive = "false"
    if contract.partition_by:
        kind = contract.column(contract.partition_by).sql_type
        hive = f"true, hive_types = {{{literal(contract.partition_by)}: {kind}}}"
    selects = []
    for present, group in groups:
        columns = ", ".join(
            quoted(column.name) if column.name in present else f"NULL::{column.sql_type} AS {quoted(column.name)}"
            for column in contract.columns
        )
        files = ", ".join(map(literal, group))
        selects.append(f"SELECT {columns} FROM read_parquet([{files}], hive_partitioning = {hive})")  # noqa: S608
    return " UNION ALL ".join(selects)


def no_rows(contract: TableContract) -> str:
    """Return the SELECT that has a table's columns and no rows."""
    columns = ", ".join(f"NULL::{column.sql_type} AS {quoted(column.name)}" for column in contract.columns)
    return f"SELECT {columns} WHERE false"


def listed(names: Iterable[str]) -> str:
    """Return quoted names, with commas."""
    return ", ".join(map(quoted, names))


def unknown_table(name: str, known: Collection[str], where: str) -> UnknownTableError:
    """Return the error for a name that is not known, with the nearest one that is."""
    bare: dict[str, str] = {}
    for full_name in known:
        bare.setdefault(full_name.rpartition(".")[2], full_name)
    low = name.lower()[:100]
    if low not in known and low in bare and bare[low] != low:
        hint = f"Write its full name, {bare[low]!r}."
    else:
        hint = nearest(low, known) or f"Known tables: {', '.join(known)}."
    return UnknownTableError(f"unknown table {name[:100]!r}", where=where, hint=hint)
