"""From files to models: parse, put in order, bind each SELECT against empty tables, derive contract and view.

DuckDB itself judges names and types: it binds every statement in an in-memory database that has the lake's
tables, without rows.  What it says is reported at its line of the file, with a suggestion.
"""

from __future__ import annotations

import gc
import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from graphlib import CycleError, TopologicalSorter
from pathlib import Path
from typing import Final, ParamSpec, TypeVar

import duckdb
import pyarrow as pa

from hfthot_platform.core.duckdb import error_details, lock_down, new_database
from hfthot_platform.core.errors import ContractError, nearest
from hfthot_platform.domain.contracts import CONTRACTS, Column, TableContract
from hfthot_platform.domain.contracts.model import DATE, FLAG, FLOAT, INT, SMALL, TEXT, TIME
from hfthot_platform.domain.contracts.ops import quarantine_of
from hfthot_platform.domain.contracts.views import VIEWS, SqlView, View
from hfthot_platform.services.sql.models.checks import ModelTest, declared_tests, rules_of
from hfthot_platform.services.sql.models.header import Mistake, ModelFile, TypeName, read_source
from hfthot_platform.services.sql.models.model import DisabledModel, Models, SqlModel
from hfthot_platform.services.sql.models.statement import ModelStatement, Origin, parse, sql_literal

__all__ = ["LAYERS", "load_models", "model_files", "read_models"]

_P = ParamSpec("_P")
_T = TypeVar("_T")

#: The folders of models: reshaped tables, and what people ask for.
LAYERS: Final = ("staging", "marts")

_PARTITION: Final = ("partition_start", "partition_end")
_IDENTIFIER = re.compile(r"[a-z][a-z0-9_]*")
_DECLARED: Final[dict[TypeName, pa.DataType]] = {
    "text": TEXT,
    "int32": SMALL,
    "int64": INT,
    "float64": FLOAT,
    "boolean": FLAG,
    "date": DATE,
    "timestamp": TIME,
}
#: What the lake stores for a type of DuckDB's.
_STORED: Final[dict[str, pa.DataType]] = {
    **dict.fromkeys(("TINYINT", "SMALLINT", "INTEGER", "UTINYINT", "USMALLINT"), SMALL),
    **dict.fromkeys(("BIGINT", "UINTEGER", "UBIGINT", "HUGEINT", "UHUGEINT"), INT),
    **dict.fromkeys(("DOUBLE", "FLOAT"), FLOAT),
    **dict.fromkeys(("TIMESTAMP", "TIMESTAMP_S", "TIMESTAMP_MS", "TIMESTAMP_NS", "TIMESTAMP WITH TIME ZONE"), TIME),
    "VARCHAR": TEXT,
    "BOOLEAN": FLAG,
    "DATE": DATE,
}
#: Types that a declared one may stand for without loss.
_WIDER: Final = {INT: {SMALL}, FLOAT: {SMALL, INT}}
_GRAIN_TYPES: Final = {"date": DATE, "month": DATE, "year": SMALL}


def load_models(
    folder: Path,
    contracts: Mapping[str, TableContract] = CONTRACTS,
    views: Mapping[str, View | SqlView] = VIEWS,
) -> Models:
    """Load all models of a folder.

    Args:
        folder: holds `<layer>/<name>.sql`.
        contracts: the tables that models may read.
        views: the views that they may read.

    Raises:
        SqlModelsError: a file has a mistake; the message lists all of them, with file, line and suggestion.
    """
    return read_models(folder, contracts, views).require_sound()


def read_models(
    folder: Path,
    contracts: Mapping[str, TableContract] = CONTRACTS,
    views: Mapping[str, View | SqlView] = VIEWS,
) -> Models:
    """Load the models that are sound, and say of the others what is wrong; arguments as for `load_models`."""
    with _without_collection():
        return _read(folder, contracts, views)


def model_files(folder: Path) -> list[Path]:
    """Return the files of models.  Hidden files, which editors and file systems leave, do not count."""
    return [
        path
        for path in sorted(folder.rglob("*.sql"))
        if not any(part.startswith(".") for part in path.relative_to(folder).parts)
    ]


@contextmanager
def _without_collection() -> Iterator[None]:
    """Keep Python's collector from walking the syntax trees again and again: an eighth of the time."""
    enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if enabled:
            gc.enable()


def _read(folder: Path, contracts: Mapping[str, TableContract], views: Mapping[str, View | SqlView]) -> Models:
    files, sources, mistakes = _sources(folder)
    statements: dict[str, ModelStatement] = {}
    sound: dict[str, ModelFile] = {}
    for name, source in sources.items():
        statement, found = _guarded(source, parse, source)
        if statement is not None:
            found += _name_mistakes(source, contracts, views, sources)
            found += _parameter_mistakes(source, statement)
            found += _layout_mistakes(source)
            found += _table_mistakes(source, statement, {*contracts, *views}, sources)
            statements[name] = statement
        mistakes += found
        if not found:
            sound[name] = source
    order, cycles = _in_order(sources, statements)
    mistakes += cycles
    binder = _Binder(contracts, views)
    models: dict[str, SqlModel] = {}
    for name in order:
        reads = [table.name for table in statements[name].tables]
        if name not in sound or any(read in sources and read not in models for read in reads):
            continue
        model, found = _guarded(sound[name], binder.model, sound[name], statements[name])
        mistakes += found
        if model is not None and not found:
            models[name] = model
            binder.add(model)
    for name, model in list(models.items()):
        # Last, because a test may point to a model that is bound after its own.
        found = [*binder.relationship_mistakes(sound[name], model.tests)]
        mistakes += found
        if found or any(origin in sources and origin not in models for origin in model.depends_on):
            del models[name]
    # A model that took the name of a table is not shown in that table's place.
    files = {name: file for name, file in files.items() if name not in {*contracts, *views}}
    disabled = _disabled(files, sources, statements, models, mistakes)
    return Models(folder, models, tuple(sorted(mistakes)), tuple(disabled))


def _disabled(
    files: Mapping[str, str],
    sources: Mapping[str, ModelFile],
    statements: Mapping[str, ModelStatement],
    models: Mapping[str, SqlModel],
    mistakes: Iterable[Mistake],
) -> Iterator[DisabledModel]:
    """Return the models that are not usable, each with what is wrong with it or with what it reads."""
    told: dict[str, list[str]] = {}
    for mistake in sorted(mistakes):
        told.setdefault(mistake.file, []).append(str(mistake))
    for name, file in files.items():
        if name in models:
            continue
        statement = statements.get(name)
        reads = tuple(dict.fromkeys(table.name for table in statement.tables)) if statement else ()
        missing = [read for read in reads if read in files and read not in models]
        reasons = told.get(file) or [f"{file}: it reads {', '.join(missing)}, which is disabled."]
        header = sources[name].header if name in sources else None
        yield DisabledModel(name, file, tuple(reasons), header, reads)


def _sources(folder: Path) -> tuple[dict[str, str], dict[str, ModelFile], list[Mistake]]:
    """Return the files of models by the models' names, what could be read of them, and what is wrong."""
    files: dict[str, str] = {}
    sources: dict[str, ModelFile] = {}
    mistakes: list[Mistake] = []
    for path in model_files(folder):
        file = str(Path(folder.name) / path.relative_to(folder))
        if path.parent.parent != folder or path.parent.name not in LAYERS:
            hint = nearest(path.parent.name, LAYERS) or f"Move it to {' or '.join(f'{layer}/' for layer in LAYERS)}."
            mistakes.append(Mistake(file, 1, "a model's file must be <layer>/<name>.sql", hint))
            continue
        if not _IDENTIFIER.fullmatch(path.stem):
            hint = "Write it in lower-case letters, digits and '_': it is also the name of the table."
            mistakes.append(Mistake(file, 1, f"{path.stem!r} is not a valid name of a model", hint))
            continue
        files[f"{path.parent.name}.{path.stem}"] = file
        source, found = read_source(path, folder)
        mistakes += found
        if source is not None and not found:
            sources[source.full_name] = source
    return files, sources, mistakes


def _guarded(
    source: ModelFile, analyse: Callable[_P, tuple[_T | None, list[Mistake]]], *args: _P.args, **kwargs: _P.kwargs
) -> tuple[_T | None, list[Mistake]]:
    """Analyse a model; what makes the analysis itself fail, such as a thousand brackets, is that model's mistake."""
    try:
        return analyse(*args, **kwargs)
    except Exception as error:  # noqa: BLE001 - one file must not keep the others from loading
        what = f"the statement cannot be analysed ({type(error).__name__})"
        return None, [source.mistake(what, "Simplify it.", line=1)]


# -- what the text and the header tell --------------------------------------------------------------------------


def _name_mistakes(
    source: ModelFile,
    contracts: Mapping[str, TableContract],
    views: Mapping[str, View | SqlView],
    sources: Mapping[str, ModelFile],
) -> Iterator[Mistake]:
    hint = "Rename one of them: the name without its layer also names the table's quarantine."
    for other in sources.values():
        if other.name == source.name and other.file < source.file:
            yield source.mistake(f"two models are named {source.name!r}; the other one is {other.file}", hint)
    taken = {contract.table: contract.name for contract in contracts.values() if contract.namespace != "quarantine"}
    if source.full_name in {*contracts, *views}:
        yield source.mistake(f"{source.full_name} is already a table of the lake", "Rename the model.")
    elif source.header.materialized != "view" and source.name in taken:
        yield source.mistake(f"{source.name!r} is already the name of {taken[source.name]}", hint)


def _parameter_mistakes(source: ModelFile, statement: ModelStatement) -> Iterator[Mistake]:
    settings = source.header.settings
    incremental = source.header.materialized == "incremental"
    for name in settings:
        if name in _PARTITION:
            what = f"the setting {name!r} has the name of a partition bound"
            yield source.mistake(what, "Rename it.", at=("settings", name))
    known = (*settings, *(_PARTITION if incremental else ()))
    for parameter in statement.parameters:
        if parameter.name == "?":
            yield source.mistake(
                "a parameter without a name", "Write $name and declare it in settings.", line=parameter.line
            )
        elif parameter.name in _PARTITION and not incremental:
            what = f"${parameter.name} in a {source.header.materialized}, which has no partitions"
            yield source.mistake(what, "Only incremental models have partitions.", line=parameter.line)
        elif parameter.name not in known:
            hint = nearest(parameter.name, known) or "Declare it under settings, with its default."
            yield source.mistake(f"the parameter ${parameter.name} is not declared", hint, line=parameter.line)
    used = {parameter.name for parameter in statement.parameters}
    for name in settings:
        if name not in used:
            hint = nearest(name, used) or "Use it in the SELECT or remove it."
            yield source.mistake(f"the setting {name!r} is not used", hint, at=("settings", name))
    for name in _PARTITION:
        if incremental and name not in used:
            hint = "Select the rows from $partition_start (inclusive) to $partition_end (exclusive)."
            yield source.mistake(f"an incremental model that does not use ${name}", hint, line=statement.line)


def _layout_mistakes(source: ModelFile) -> Iterator[Mistake]:
    header = source.header
    if header.materialized == "view":
        for entry in ("partitioned_by", "schedule", "automation"):
            if getattr(header, entry) is not None:
                yield source.mistake(
                    f"a view cannot have {entry}, because it stores nothing", "Remove the entry.", at=(entry,)
                )
        return
    if not header.unique_key:
        kind = "an incremental model" if header.materialized == "incremental" else "a table"
        what = f"{kind} without a unique_key"
        yield source.mistake(what, "Name the columns that identify a row.", at=("materialized",))
    if header.materialized == "incremental" and header.partitioned_by is None:
        hint = "Add `partitioned_by: date`, or month or year if there are few rows."
        yield source.mistake("an incremental model without partitioned_by", hint, at=("materialized",))


def _table_mistakes(
    source: ModelFile, statement: ModelStatement, known: set[str], sources: Mapping[str, ModelFile]
) -> Iterator[Mistake]:
    names = {*known, *sources}
    for table in statement.tables:
        if table.name in names:
            continue
        bare = {name.split(".")[-1]: name for name in names if not name.startswith("quarantine.")}
        hint = nearest(table.name, names)
        if table.name in bare:
            hint = f"Write its full name, {bare[table.name]!r}."
        yield source.mistake(f"unknown table {table.name!r}", hint, line=table.line)


def _in_order(
    sources: Mapping[str, ModelFile], statements: Mapping[str, ModelStatement]
) -> tuple[list[str], list[Mistake]]:
    """Return the models after those that they read, and the cycles."""
    graph = {
        name: {table.name for table in statement.tables if table.name in statements}
        for name, statement in statements.items()
    }
    mistakes: list[Mistake] = []
    while True:
        try:
            return list(TopologicalSorter(graph).static_order()), mistakes
        except CycleError as error:
            # Listed so that each one is read by the next.
            around = list(reversed(error.args[1]))[:-1]
            first = around.index(min(around))
            around = [*around[first:], *around[:first]]
            reads = around[1] if len(around) > 1 else around[0]
            line = next(table.line for table in statements[around[0]].tables if table.name == reads)
            path = " reads ".join([*around, around[0]])
            hint = "Remove one of these reads, or move what both need into a third model."
            mistakes.append(sources[around[0]].mistake(f"the models form a cycle: {path}", hint, line=line))
            for name in around:
                graph.pop(name)
            graph = {name: reads & set(graph) for name, reads in graph.items()}


# -- binding ----------------------------------------------------------------------------------------------------


class _Binder:
    """An in-memory database with the lake's tables, empty; a model becomes one of them when it is sound."""

    def __init__(self, contracts: Mapping[str, TableContract], views: Mapping[str, View | SqlView]) -> None:
        self._columns: dict[str, tuple[Column, ...]] = {name: contract.columns for name, contract in contracts.items()}
        self._columns |= {name: view.declared() for name, view in views.items()}
        self._connect()

    def _connect(self) -> None:
        self._made: set[str] = set()
        self._connection = new_database()
        lock_down(self._connection)

    def add(self, model: SqlModel) -> None:
        """Make a model known to those that read it."""
        self._columns[model.name] = model.published_columns

    def columns_of(self, name: str) -> tuple[str, ...]:
        """Return the columns of a table, view or model."""
        return tuple(column.name for column in self._columns.get(name, ()))

    def model(self, source: ModelFile, statement: ModelStatement) -> tuple[SqlModel | None, list[Mistake]]:
        """Bind a statement and derive everything from header and types."""
        self._make(table.name for table in statement.tables)
        # A DATE compares with dates and with times alike, and either way prunes files; so bounds are dates.
        literals = dict.fromkeys(_PARTITION, "DATE '2000-01-01'")
        literals |= {name: sql_literal(value) for name, value in source.header.settings.items()}
        try:
            described = self._connection.execute(f"DESCRIBE {statement.bound(literals)}").fetchall()
        except duckdb.Error as error:
            if isinstance(error, (duckdb.InternalException, duckdb.FatalException)):
                # The engine's own failure leaves a database that answers nothing any more.
                self._connect()
            reads = [column for table in statement.tables for column in self.columns_of(table.name)]
            return None, [_bind_mistake(source, error, reads, statement.line)]
        found = [(str(row[0]), str(row[1])) for row in described]
        mistakes = [*_output_mistakes(source, statement, found)]
        types, clashes = _types(source, found, statement.line)
        mistakes += clashes
        if mistakes:
            return None, mistakes
        origins = statement.origins(self.columns_of, [name for name, _ in found])
        columns = tuple(self._column(source, name, types[name], origins[name]) for name, _ in found)
        return self._assembled(source, statement, found, columns, origins)

    def _assembled(
        self,
        source: ModelFile,
        statement: ModelStatement,
        found: list[tuple[str, str]],
        columns: tuple[Column, ...],
        origins: Mapping[str, Origin],
    ) -> tuple[SqlModel | None, list[Mistake]]:
        header = source.header
        contract = None
        mistakes: list[Mistake] = []
        if header.materialized != "view":
            contract, mistakes = _contract(source, columns, tuple(table.name for table in statement.tables))
        by_name = {column.name: column for column in (contract.columns if contract else columns)}
        tests, wrong = declared_tests(source, by_name)
        mistakes += wrong
        mistakes += self._test_mistakes(source, tests, by_name)
        if mistakes:
            return None, mistakes
        sql = _typed(statement.sql, found, columns)
        view = None
        if header.materialized == "view":
            # A view has no one to bind its parameters: its settings are what the header says.
            literals = {name: sql_literal(value) for name, value in header.settings.items()}
            body = _typed(statement.bound(literals), found, columns)
            view = SqlView(source.full_name, body, columns, header.description)
        model = SqlModel(
            name=source.full_name,
            path=source.path,
            file=source.file,
            header=header,
            sql=sql,
            parameters=frozenset(parameter.name for parameter in statement.parameters),
            columns=columns,
            depends_on=tuple(table.name for table in statement.tables),
            lineage={name: tuple(sorted(origin.columns)) for name, origin in origins.items() if origin.columns},
            tests=tuple(tests),
            contract=contract,
            view=view,
        )
        return model, []

    def _column(self, source: ModelFile, name: str, dtype: pa.DataType, origin: Origin) -> Column:
        """Declare a column; what the header does not say of a plain copy is taken from the original."""
        declared = source.header.columns.get(name)
        originals = [self._original(*pair) for pair in origin.columns]
        copied = next((original for original in originals if original is not None), None) if origin.plain else None
        personal = declared.personal if declared is not None else None
        if personal is None:
            personal = any(original.personal for original in originals if original is not None)
        key = {*source.header.unique_key, source.header.time_column if source.header.partitioned_by else None}
        tested = any(test.not_null for test in declared.tests) if declared else False
        return Column(
            name,
            dtype,
            (declared.description if declared else "") or (copied.description if copied else ""),
            (declared.unit if declared else "") or (copied.unit if copied else ""),
            nullable=source.header.materialized == "view" or (name not in key and not tested),
            personal=personal,
        )

    def _original(self, table: str, name: str) -> Column | None:
        return next((declared for declared in self._columns.get(table, ()) if declared.name == name), None)

    def _make(self, names: Iterable[str]) -> None:
        for name in names:
            if name in self._made:
                continue
            self._made.add(name)
            if "." in name:
                self._connection.execute(f"CREATE SCHEMA IF NOT EXISTS {name.split('.', maxsplit=1)[0]}")
            listed = ", ".join(f'"{column.name}" {column.sql_type}' for column in self._columns[name])
            self._connection.execute(f"CREATE TABLE {name} ({listed})")

    def _test_mistakes(
        self, source: ModelFile, tests: list[ModelTest], columns: Mapping[str, Column]
    ) -> Iterator[Mistake]:
        """Bind the SQL of tests: all at once, and one by one only where something is wrong."""
        listed = ", ".join(f'NULL::{column.sql_type} AS "{column.name}"' for column in columns.values())
        expressions = [test for test in tests if test.kind == "expression"]

        def bind(some: Iterable[ModelTest]) -> duckdb.Error | None:
            conditions = ", ".join(test.broken for test in some)
            try:
                self._connection.execute(f"DESCRIBE SELECT {conditions} FROM (SELECT {listed})")  # noqa: S608
            except duckdb.Error as error:
                return error
            return None

        if not expressions or bind(expressions) is None:
            return
        for test in expressions:
            if (error := bind([test])) is not None:
                mistake = _bind_mistake(source, error, columns, test.line)
                yield replace(mistake, line=test.line, what=f"the test's expression: {mistake.what}")

    def relationship_mistakes(self, source: ModelFile, tests: Iterable[ModelTest]) -> Iterator[Mistake]:
        """Find relationships with tables and columns that are not there."""
        for test in tests:
            if test.kind != "relationships":
                continue
            if test.to not in self._columns:
                hint = nearest(test.to, self._columns) or "Name a table, a view or a model."
                yield source.mistake(f"the relationship names {test.to!r}, which is not a table", hint, line=test.line)
            elif test.field not in self.columns_of(test.to):
                hint = nearest(test.field, self.columns_of(test.to))
                yield source.mistake(f"{test.to} has no column {test.field!r}", hint, line=test.line)


def _output_mistakes(source: ModelFile, statement: ModelStatement, found: list[tuple[str, str]]) -> Iterator[Mistake]:
    names = [name for name, _ in found]
    for name in sorted({repeated for repeated in names if names.count(repeated) > 1}):
        yield source.mistake(f"two columns are named {name!r}", "Rename one of them with AS.", line=statement.line)
    for name in dict.fromkeys(names):
        if not re.fullmatch(r"[A-Za-z_][A-Za-z0-9_]*", name):
            what = f"the column {name!r} has no valid name"
            yield source.mistake(what, "Name it with AS, using letters, digits and '_'.", line=statement.line)
    header = source.header
    derived = {header.partitioned_by} if header.partitioned_by else set()
    for name in header.columns:
        if name not in {*names, *derived}:
            hint = nearest(name, names) or f"It returns {', '.join(names)}."
            yield source.mistake(f"the SELECT does not return the column {name!r}", hint, at=("columns", name))
    for name in header.unique_key:
        if name not in {*names, *derived}:
            hint = nearest(name, names) or f"It returns {', '.join(names)}."
            yield source.mistake(f"the key's column {name!r} is not in the SELECT", hint, at=("unique_key",))


def _types(source: ModelFile, found: list[tuple[str, str]], line: int) -> tuple[dict[str, pa.DataType], list[Mistake]]:
    types: dict[str, pa.DataType] = {}
    mistakes: list[Mistake] = []
    for name, given in found:
        inferred = _stored(given)
        declared = source.header.columns[name].type if name in source.header.columns else None
        if inferred is None:
            hint = "Cast it to text, a number, a date or a time, or unnest it."
            mistakes.append(
                source.mistake(
                    f"the column {name!r} has the type {given}, which tables do not support", hint, line=line
                )
            )
            continue
        wanted = inferred if declared is None else _DECLARED[declared]
        if wanted != inferred and inferred not in _WIDER.get(wanted, ()):
            names = {value: key for key, value in _DECLARED.items()}
            what = f"the column {name!r} is declared as {declared}, but the SELECT returns {names[inferred]} ({given})"
            hint = f"Declare {names[inferred]}, or cast it in the SELECT."
            mistakes.append(source.mistake(what, hint, at=("columns", name, "type")))
            continue
        types[name] = wanted
    return types, mistakes


def _stored(given: str) -> pa.DataType | None:
    if given.startswith("DECIMAL"):
        return FLOAT
    if given.startswith("ENUM"):
        return TEXT
    return _STORED.get(given)


def _typed(sql: str, found: list[tuple[str, str]], columns: tuple[Column, ...]) -> str:
    """Return the statement with every column in the type that is stored."""
    if all(given == column.sql_type for (_, given), column in zip(found, columns, strict=True)):
        return sql.strip()
    listed = ", ".join(
        f'"{name}"' if given == column.sql_type else f'CAST("{name}" AS {column.sql_type}) AS "{name}"'
        for (name, given), column in zip(found, columns, strict=True)
    )
    return f"SELECT {listed} FROM (\n{sql.strip()}\n)"  # noqa: S608 - the statement of the file itself


def _contract(
    source: ModelFile, columns: tuple[Column, ...], made_from: tuple[str, ...]
) -> tuple[TableContract | None, list[Mistake]]:
    header = source.header
    by_name = {column.name: column for column in columns}
    grain, time = header.partitioned_by, header.time_column
    mistakes: list[Mistake] = []
    if grain is not None:
        kind = _GRAIN_TYPES[grain]
        given = by_name.get(grain)
        if time is None and grain == "date" and given is not None and given.dtype == DATE:
            time = grain
        if time is None:
            times = [candidate.name for candidate in columns if candidate.dtype in {DATE, TIME}]
            hint = f"Add `time_column: {times[0]}`." if times else "Select a date or a time."
            mistakes.append(
                source.mistake(
                    f"it is partitioned by {grain}, but the time column is not clear", hint, at=("partitioned_by",)
                )
            )
        elif time not in by_name:
            hint = nearest(time, by_name) or f"It returns {', '.join(by_name)}."
            mistakes.append(
                source.mistake(f"the SELECT does not return the time_column {time!r}", hint, at=("time_column",))
            )
        elif by_name[time].dtype not in {DATE, TIME}:
            what = f"the time_column {time!r} is neither a date nor a time"
            mistakes.append(source.mistake(what, "Cast it in the SELECT.", at=("time_column",)))
        elif given is not None and time != grain:
            what = f"the column {grain!r} is derived from {time!r} for the partitions, but the SELECT also returns it"
            hint = f"Remove or rename it, or write `time_column: {grain}`."
            mistakes.append(source.mistake(what, hint, at=("partitioned_by",)))
        elif given is not None and grain != "date":
            what = f"{grain!r} cannot be both the time_column and the partition"
            mistakes.append(source.mistake(what, "Select a date, and partition by it.", at=("partitioned_by",)))
        elif given is None:
            names = {"date": "UTC day", "month": "First day of the month", "year": "Year"}
            columns = (*columns, Column(grain, kind, f"{names[grain]} of `{time}`; partition"))
    if mistakes:
        return None, mistakes
    columns = tuple(
        replace(column, nullable=False) if column.name == time and grain is not None else column for column in columns
    )
    by_name = {column.name: column for column in columns}
    pruned = (*header.unique_key, *((grain, time) if grain and time else ()))
    try:
        contract = TableContract(
            name=source.full_name,
            description=header.description,
            columns=columns,
            primary_key=header.unique_key,
            sort_by=header.unique_key,
            partition_by=grain,
            time_column=time,
            rules=rules_of(header, by_name),
            stats_columns=tuple(name for name in dict.fromkeys(pruned) if not by_name[name].personal),
            schema_version=header.schema_version,
            made_from=made_from,
            # The tests of a model are promises: one row that breaks one, and nothing is published.
            max_rejected_share=0.0,
        )
        quarantine_of(contract)
    except ContractError as error:
        return None, [source.mistake(error.what, error.hint)]
    return contract, []


# -- what DuckDB says -------------------------------------------------------------------------------------------


def _bind_mistake(source: ModelFile, error: duckdb.Error, columns: Iterable[str], default: int) -> Mistake:
    said = error_details(error)
    line = default if said.line is None else said.line
    lines = [part.strip() for part in said.text.strip().splitlines()]
    if said.ambiguous is not None:
        uses = (said.choices or "").replace("'", "").replace('"', "")
        hint = f"Write {uses}." if uses else "Write the table's name before it, as in t.column."
        return source.mistake(f"ambiguous column {said.ambiguous!r}", hint, line=line)
    if said.column is not None and "GROUP BY" not in said.text:
        names = list(dict.fromkeys(columns))
        hint = nearest(said.column, names) or (f"Columns: {', '.join(names)}." if names else "")
        return source.mistake(f"unknown column {said.column!r}", hint, line=line)
    if said.forbidden or said.text.startswith("IO Error"):
        what = "a model reads tables of the lake, not files"
        return source.mistake(what, "Ingest the file first, then name its table.", line=line)
    if said.function is not None:
        advice = next((part for part in lines if part.startswith("Did you mean")), "")
        return source.mistake(f"unknown function {said.function!r}", advice, line=line)
    first = re.sub(r"^[A-Z]\w+ Error: ", "", lines[0]).removesuffix("!").removesuffix(".")
    advice = next((part for part in lines[1:] if part and not part.startswith(("LINE", "Candidate"))), "")
    return source.mistake(first, advice if advice and "->" not in advice and "^" not in advice else "", line=line)
