"""The statement of a model file, parsed once: what it names, what it may not do, where its columns come from."""

from __future__ import annotations

import re
from bisect import bisect_left
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Final

import duckdb
from sqlglot import exp
from sqlglot.dialects import DuckDB
from sqlglot.errors import SqlglotError
from sqlglot.optimizer.scope import Scope, build_scope
from sqlglot.tokens import Token, TokenType  # type: ignore[attr-defined]

from hfthot_platform.core.duckdb import literal
from hfthot_platform.services.sql.models.header import Mistake, ModelFile

__all__ = ["VOLATILE", "ModelStatement", "Origin", "Parameter", "TableName", "parse", "sql_literal"]

#: Functions whose answer is not determined by the tables: `duckdb_functions()` calls them volatile or consistent
#: within one query only (a test compares), but for those that fail on purpose.
VOLATILE: Final = frozenset(
    {
        *("current_connection_id", "current_database", "current_date", "current_localtime", "current_localtimestamp"),
        *("current_query", "current_query_id", "current_schema", "current_schemas", "current_setting", "current_time"),
        *("current_timestamp", "current_transaction_id", "currval", "gen_random_uuid", "get_current_time"),
        *("get_current_timestamp", "getvariable", "in_search_path", "localtime", "localtimestamp", "nextval", "now"),
        *("random", "setseed", "setval", "sleep_ms", "stats", "today", "transaction_timestamp", "txid_current"),
        *("uuid", "uuidv4", "uuidv7", "vector_type", "write_log"),
    }
)
#: Of these, the ones that SQL writes without parentheses.
_KEYWORDS: Final = frozenset({"current_date", "current_time", "current_timestamp", "localtime", "localtimestamp"})
_WRITES: Final = (exp.Insert, exp.Update, exp.Delete, exp.Merge, exp.Create, exp.Drop, exp.Alter, exp.Copy, exp.Command)
#: What is looked for in the syntax tree.
_NOTABLE: Final = (*_WRITES, exp.Star, exp.Columns, exp.TableSample)
_DUCKDB: Final = DuckDB()


@dataclass(frozen=True)
class TableName:
    """A table or model that a statement names."""

    name: str
    line: int


@dataclass(frozen=True)
class Parameter:
    """A `$name` in the text, at `text[start:end]`."""

    name: str
    line: int
    start: int
    end: int


@dataclass(frozen=True)
class Origin:
    """What a column is made of."""

    #: (table, column) pairs of tables and models.
    columns: frozenset[tuple[str, str]] = frozenset()
    #: Whether it is one column of one table, unchanged.
    plain: bool = False


@dataclass(frozen=True)
class ModelStatement:
    """A parsed SELECT."""

    #: The text that was parsed, without its semicolon.
    sql: str
    tree: exp.Query
    tables: tuple[TableName, ...]
    parameters: tuple[Parameter, ...]
    #: Line of the SELECT.
    line: int
    _scope: Scope | None = field(repr=False)

    def bound(self, values: Mapping[str, str]) -> str:
        """Return the text with SQL literals in the place of parameters (`sql_literal` makes them)."""
        out: list[str] = []
        at = 0
        for parameter in self.parameters:
            if parameter.name in values:
                out += [self.sql[at : parameter.start], values[parameter.name]]
                at = parameter.end
        return "".join([*out, self.sql[at:]])

    def origins(self, columns_of: Callable[[str], Sequence[str]], names: Sequence[str]) -> dict[str, Origin]:
        """Return what each output column is made of.

        Filters and join conditions do not count: lineage says where values come from.

        Args:
            columns_of: the columns of a table or model.
            names: the output columns, as the database names them.
        """
        if self._scope is None:
            return dict.fromkeys(names, Origin())
        found = _Lineage(columns_of).outputs(self._scope)
        if len(found) == len(names):
            return dict(zip(names, (origin for _, origin in found), strict=True))
        by_name = {name.lower(): origin for name, origin in found}
        return {name: by_name.get(name.lower(), Origin()) for name in names}


def sql_literal(value: object) -> str:
    """Return a text, number or truth value as an SQL literal."""
    match value:
        case bool():
            return "TRUE" if value else "FALSE"
        case int() | float():
            return repr(value)
        case _:
            return literal(str(value))


def parse(source: ModelFile) -> tuple[ModelStatement | None, list[Mistake]]:
    """Parse the statement of a model file and find what can be told from its text alone."""
    try:
        tokens = _DUCKDB.tokenize(source.sql)
        ends = [token for token in tokens if token.token_type == TokenType.SEMICOLON]
        trees = _DUCKDB.parser().parse(tokens, source.sql)
    except SqlglotError as error:
        return None, [_unparsed(source, error)]
    statements = [tree for tree in trees if tree is not None and not isinstance(tree, exp.Semicolon)]
    if not statements:
        line = len(source.sql.rstrip(" \t").removesuffix("\n").splitlines()) or 1
        return None, [source.mistake("no statement follows the header", "Write one SELECT.", line=line)]
    lines = _Lines(source.sql)
    line = lines.at(tokens[0].start)
    if len(statements) > 1:
        second = next((lines.at(token.start) for token in tokens if ends and token.start > ends[0].start), line)
        what = f"there are {len(statements)} statements instead of one"
        return None, [source.mistake(what, "Put each model into its own file.", line=second)]
    tree = statements[0]
    notable = [node for node in tree.walk() if isinstance(node, _NOTABLE)]
    writing = tree if not isinstance(tree, exp.Query) else next((n for n in notable if isinstance(n, _WRITES)), None)
    if not isinstance(tree, exp.Query) or writing is not None:
        word = (
            next((token.text.upper() for token in tokens), "?") if writing is tree else type(writing).__name__.upper()
        )
        where = line if writing is None or writing is tree else lines.of(writing)
        return None, [source.mistake(f"{word} is not a SELECT", "A model must be a SELECT.", line=where)]
    sql = source.sql[: ends[0].start] if ends else source.sql
    scope = build_scope(tree)
    parameters = tuple(_parameters(tokens, lines))
    statement = ModelStatement(sql, tree, tuple(_tables(scope, lines)), parameters, line, scope)
    return statement, [*_forbidden(source, tokens, notable, lines)]


class _Lines:
    """Finds lines by offsets: sqlglot's own line numbers go astray after a `$`."""

    def __init__(self, text: str) -> None:
        self._breaks = [at for at, sign in enumerate(text) if sign == "\n"]
        self._first = len(text) - len(text.lstrip())

    def at(self, offset: int) -> int:
        """Return the line of an offset."""
        return bisect_left(self._breaks, offset) + 1

    def of(self, node: exp.Expr) -> int:
        """Return the line of the first word of a node, or that of the statement where it has no place."""
        starts = [int(part.meta["start"]) for part in node.walk() if "start" in part.meta]
        return self.at(max(min(starts, default=0), self._first))


def _unparsed(source: ModelFile, error: SqlglotError) -> Mistake:
    """Return DuckDB's word on a statement that sqlglot cannot parse, with its line."""
    hint = "Write one SELECT in DuckDB's dialect."
    try:
        duckdb.extract_statements(source.sql)
    except duckdb.Error as refused:
        line = re.search(r"^LINE (\d+):", str(refused), re.MULTILINE)
        what = str(refused).splitlines()[0].removeprefix("Parser Error: ")
        return source.mistake(f"the statement cannot be parsed: {what}", hint, line=int(line.group(1)) if line else 1)
    details = getattr(error, "errors", None) or [{}]
    what = f"the statement cannot be analysed near {details[0].get('highlight', '')!r}"
    return source.mistake(what, "Rewrite that part.", line=int(details[0].get("line") or 1))


def _tables(scope: Scope | None, lines: _Lines) -> Iterator[TableName]:
    """Yield each table once, at its first mention; CTEs and table functions are not tables."""
    nodes: list[exp.Table] = []
    if scope is not None:
        for inner in scope.traverse():
            nodes += [source for source in inner.sources.values() if isinstance(source, exp.Table)]
    seen: set[str] = set()
    for node in sorted(nodes, key=lines.of):
        if not isinstance(node.this, exp.Identifier):
            continue
        name = _full_name(node)
        if name not in seen:
            seen.add(name)
            yield TableName(name, lines.of(node))


def _full_name(node: exp.Table) -> str:
    return ".".join(part.name for part in node.parts).lower()


def _parameters(tokens: Sequence[Token], lines: _Lines) -> Iterator[Parameter]:
    for token, after in zip(tokens, [*tokens[1:], None], strict=True):
        if token.token_type == TokenType.PLACEHOLDER:
            yield Parameter("?", lines.at(token.start), token.start, token.end + 1)
        elif token.token_type == TokenType.PARAMETER and after is not None and after.start == token.end + 1:
            yield Parameter(after.text, lines.at(token.start), token.start, after.end + 1)


def _forbidden(
    source: ModelFile, tokens: Sequence[Token], notable: Sequence[exp.Expr], lines: _Lines
) -> Iterator[Mistake]:
    if source.layer == "marts":
        for star in notable:
            if isinstance(star, exp.Star | exp.Columns) and not isinstance(star.parent, exp.Count):
                hint = "List the columns: a mart must not change when a table that it reads does."
                yield source.mistake("SELECT * in a mart", hint, line=lines.of(star))
    if source.header.materialized == "incremental":
        hint = "A day computed again must give the same rows; take times from the tables or from $partition_end."
        for token, after in zip(tokens, [*tokens[1:], None], strict=True):
            word = token.text.lower()
            called = after is not None and after.token_type == TokenType.L_PAREN
            quoted = token.token_type in {TokenType.STRING, TokenType.IDENTIFIER}
            if word in VOLATILE and not quoted and (called or word in _KEYWORDS):
                what = f"{word}{'()' if called else ''} is not deterministic, and the model is incremental"
                yield source.mistake(what, hint, line=lines.at(token.start))
        for sample in notable:
            if isinstance(sample, exp.TableSample):
                what = "a sample is not deterministic, and the model is incremental"
                yield source.mistake(what, hint, line=lines.of(sample.parent or sample))


class _Lineage:
    """Follows columns from the outputs of a query down to tables, through CTEs, subqueries and set operations."""

    def __init__(self, columns_of: Callable[[str], Sequence[str]]) -> None:
        self._columns_of = columns_of
        self._known: dict[int, list[tuple[str, Origin]]] = {}
        self._found: dict[int, dict[str, list[tuple[str, Origin]]]] = {}

    def outputs(self, scope: Scope) -> list[tuple[str, Origin]]:
        """Return name and origin of each column that a query gives."""
        if id(scope) not in self._known:
            self._known[id(scope)] = []  # what a recursive CTE knows of itself while it is looked at
            self._known[id(scope)] = self._compute(scope)
        return self._known[id(scope)]

    def _compute(self, scope: Scope) -> list[tuple[str, Origin]]:
        query = scope.expression
        if isinstance(query, exp.SetOperation) and scope.set_operation_scopes:
            return self._united(query, [self.outputs(part) for part in scope.set_operation_scopes])
        if not isinstance(query, exp.Select):
            return []
        found: list[tuple[str, Origin]] = []
        before: dict[str, Origin] = {}
        for projection in query.expressions:
            inner = projection.unalias()
            if isinstance(inner, exp.Star) or (isinstance(inner, exp.Column) and isinstance(inner.this, exp.Star)):
                found += self._star(scope, inner)
            else:
                name, origin = projection.output_name, self._made_of(scope, inner, before)
                found.append((name, origin))
                before[name.lower()] = origin
        return found

    @staticmethod
    def _united(query: exp.SetOperation, parts: list[list[tuple[str, Origin]]]) -> list[tuple[str, Origin]]:
        first, *others = parts
        if isinstance(query, exp.Except):
            return first
        out = list(first)
        for other in others:
            by_name = dict(other)
            for position, (name, origin) in enumerate(out):
                if query.args.get("by_name"):
                    more = by_name.get(name, Origin())
                else:
                    more = other[position][1] if position < len(other) else Origin()
                out[position] = name, Origin(origin.columns | more.columns, origin == more)
            if query.args.get("by_name"):
                out += [(name, origin) for name, origin in other if name not in dict(out)]
        return out

    def _made_of(self, scope: Scope, node: exp.Expr, before: Mapping[str, Origin]) -> Origin:
        if isinstance(node, exp.Column):
            return self._resolved(scope, node, before)
        columns: set[tuple[str, str]] = set()
        inner = {id(subquery_scope.expression): subquery_scope for subquery_scope in scope.subquery_scopes}
        for part in node.walk(prune=lambda part: isinstance(part, exp.Query | exp.Subquery)):
            if isinstance(part, exp.Column):
                columns |= self._resolved(scope, part, before).columns
            elif isinstance(part, exp.Query):
                subscope = inner.get(id(part.unnest() if isinstance(part, exp.Subquery) else part))
                for _, origin in self.outputs(subscope) if subscope else ():
                    columns |= origin.columns
        return Origin(frozenset(columns))

    def _resolved(self, scope: Scope, column: exp.Column, before: Mapping[str, Origin]) -> Origin:
        name, table = column.name, column.table
        at: Scope | None = scope
        while at is not None:
            for alias, source in self._sources(at).items():
                if table and alias.lower() != table.lower():
                    continue
                for known, origin in source:
                    if known.lower() == name.lower() or known == "*":
                        return origin
            # An alias of the same SELECT, written further left.
            if not table and at is scope and (origin_before := before.get(name.lower())) is not None:
                return origin_before
            at = at.parent
        return Origin()

    def _sources(self, scope: Scope) -> dict[str, list[tuple[str, Origin]]]:
        """Return the columns of each source by its alias; "*" stands for any column of a source like UNNEST."""
        if id(scope) in self._found:
            return self._found[id(scope)]
        out: dict[str, list[tuple[str, Origin]]] = {}
        for alias, (node, source) in scope.selected_sources.items():
            if isinstance(source, exp.Table):
                name = _full_name(source)
                columns = self._columns_of(name)
                given = [(column, Origin(frozenset({(name, column)}), plain=True)) for column in columns]
            elif isinstance(source.expression, exp.Query):
                given = self.outputs(source)
                if names := source.outer_columns:
                    given = [(new, origin) for new, (_, origin) in zip(names, given, strict=False)]
            else:
                inside = frozenset(
                    pair
                    for column in source.expression.find_all(exp.Column)
                    if scope.selected_sources.get(column.table, (None, None))[1] is not source
                    for pair in self._beside(scope, source, column).columns
                )
                given = [("*", Origin(inside))]
            if node.args.get("pivots"):
                whole = frozenset(pair for _, origin in given for pair in origin.columns)
                given = [*given, ("*", Origin(whole))]
            out[alias] = given
        if all(self._known.get(id(source), True) for _, source in scope.selected_sources.values()):
            self._found[id(scope)] = out  # but not while a recursive CTE is still looked at
        return out

    def _beside(self, scope: Scope, lateral: Scope, column: exp.Column) -> Origin:
        """Resolve a column that a lateral source takes from the sources beside it."""
        for alias, (_, source) in scope.selected_sources.items():
            if source is lateral or (column.table and alias.lower() != column.table.lower()):
                continue
            if isinstance(source, exp.Table):
                name = _full_name(source)
                if column.name.lower() in {known.lower() for known in self._columns_of(name)}:
                    return Origin(frozenset({(name, column.name)}))
            elif isinstance(source.expression, exp.Query):
                for known, origin in self.outputs(source):
                    if known.lower() == column.name.lower():
                        return origin
        return Origin()

    def _star(self, scope: Scope, star: exp.Expr) -> list[tuple[str, Origin]]:
        only = star.table if isinstance(star, exp.Column) else ""
        inner = star.this if isinstance(star, exp.Column) else star
        left_out = {excluded.name.lower() for excluded in inner.args.get("except_") or ()}
        replaced = {replacement.alias.lower(): replacement.this for replacement in inner.args.get("replace") or ()}
        renamed = {renaming.this.name.lower(): renaming.alias for renaming in inner.args.get("rename") or ()}
        joins = scope.expression.args.get("joins") or ()
        shared = {name.name.lower() for join in joins for name in join.args.get("using") or ()}
        out: list[tuple[str, Origin]] = []
        seen: set[str] = set()
        for alias, columns in self._sources(scope).items():
            if only and alias.lower() != only.lower():
                continue
            for name, origin in columns:
                key = name.lower()
                if key in left_out or (key in shared and key in seen):
                    continue
                seen.add(key)
                made = self._made_of(scope, replaced[key], {}) if key in replaced else origin
                out.append((renamed.get(key, name), made))
        return out
