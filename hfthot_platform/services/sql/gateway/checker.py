"""What an untrusted statement may be: checked on DuckDB's own syntax tree, where everything unknown is refused.

It runs inside the worker, because parsing hostile text is itself an attack on the parser.  The tree is that of the
same parser that runs the statement, so nothing can look different to the two.
"""

from __future__ import annotations

import json
from collections.abc import Collection, Generator
from typing import Any, Final

import duckdb

from hfthot_platform.core.errors import SqlRefusedError, UnknownTableError, nearest
from hfthot_platform.services.sql.gateway.functions import AGGREGATES, FUNCTIONS, TABLE_FUNCTIONS, WINDOW_FUNCTIONS

__all__ = ["check"]

#: More than any question needs; planning costs grow faster than linearly in these.
_MOST_NODES: Final = 20_000
_MOST_RELATIONS: Final = 64
_MOST_PIVOT_VALUES: Final = 1_000

#: Expressions that have nothing to check but what is inside of them.
_PLAIN: Final = frozenset(
    {"BETWEEN", "CASE", "CAST", "COLLATE", "COLUMN_REF", "COMPARISON", "CONJUNCTION", "CONSTANT", "LAMBDA"}
    | {"LAMBDA_REF", "OPERATOR", "PARAMETER", "POSITIONAL_REFERENCE", "SUBQUERY", "TYPE"}
)
_NODES: Final = frozenset({"SELECT_NODE", "SET_OPERATION_NODE", "RECURSIVE_CTE_NODE", "CTE_NODE"})
_TABLES: Final = frozenset(
    {"BASE_TABLE", "EMPTY", "EMPTY_FROM", "EXPRESSION_LIST", "JOIN", "PIVOT", "SHOW_REF", "SUBQUERY", "TABLE_FUNCTION"}
)
_PARTS: Final = frozenset({"ORDER_MODIFIER", "LIMIT_MODIFIER", "LIMIT_PERCENT_MODIFIER", "DISTINCT_MODIFIER"}) | {
    "ASCENDING",
    "DESCENDING",
    "ORDER_DEFAULT",
}
#: Functions that call another one, whose name is their second argument.
_BY_NAME: Final = frozenset({"aggregate", "array_aggr", "array_aggregate", "list_aggr", "list_aggregate"})
_SHOWN: Final = frozenset({"DESCRIBE", "SUMMARY"})
#: What the names of DuckDB's own catalogue views begin with.
_CATALOGUE: Final = ("duckdb_", "information_schema", "pg_", "pragma_", "sqlite_")
#: Parts of a tree that are still to be looked at, each with the names that WITH defines there.
_Walk = Generator[tuple[Any, frozenset[str]], None, frozenset[str]]


def check(connection: duckdb.DuckDBPyConnection, sql: str, relations: Collection[str], known: Collection[str]) -> None:
    """Refuse a statement that is not one SELECT over the given relations with the allowed functions.

    Args:
        connection: a database without any tables; it only parses here.
        sql: the statement, with versions already taken out.
        relations: names that it may read, as dotted lower-case paths of the views that stand for them.
        known: the caller's tables as people write them, for suggestions.

    Raises:
        SqlRefusedError: it does something that is not allowed, or is too large.
        UnknownTableError: it reads something else.
        SqlError: its syntax is wrong.
    """
    _Checker(relations, known).statement(_tree(connection, sql))


def _tree(connection: duckdb.DuckDBPyConnection, sql: str) -> dict[str, Any]:
    statements = connection.extract_statements(sql)  # raises on wrong syntax, with the line
    if len(statements) != 1:
        what = f"there are {len(statements)} statements instead of one" if statements else "the statement is empty"
        raise SqlRefusedError(what, where="SQL", hint="Send one SELECT at a time.")
    if statements[0].type != duckdb.StatementType.SELECT:
        kind = "a PIVOT without IN (...)" if statements[0].type == duckdb.StatementType.MULTI else ""
        raise SqlRefusedError(
            f"{kind or statements[0].type.name.replace('_', ' ')} is not allowed: only SELECT is",
            where="SQL",
            hint="List the values of the column, as in PIVOT t ON a IN (1, 2)." if kind else "Write one SELECT.",
        )
    found = connection.execute("SELECT json_serialize_sql($1)", [sql]).fetchall()
    try:
        tree = json.loads(found[0][0])
    except RecursionError:
        raise SqlRefusedError(
            "the statement is nested too deeply", where="SQL", hint="Simplify the statement, or split it."
        ) from None
    if tree.get("error", True) or len(tree["statements"]) != 1:
        # What DuckDB cannot write down, such as two kinds of parameters in one statement, cannot be checked.
        what = str(tree.get("error_message", "the statement cannot be checked")).splitlines()[0][:300]
        raise SqlRefusedError(what, where="SQL", hint="Write one plain SELECT.")
    return tree["statements"][0]["node"]  # type: ignore[no-any-return]


class _Checker:
    def __init__(self, relations: Collection[str], known: Collection[str]) -> None:
        self._relations = frozenset(relations)
        self._known = known
        self._nodes = 0
        self._tables = 0

    def statement(self, node: dict[str, Any]) -> None:
        """Check a whole tree, without recursion of our own: the tree may be deep."""
        waiting: list[tuple[Any, frozenset[str]]] = [(node, frozenset())]
        while waiting:
            part, ctes = waiting.pop()
            if isinstance(part, list):
                waiting.extend((child, ctes) for child in part)
            elif isinstance(part, dict):
                self._nodes += 1
                if self._nodes > _MOST_NODES:
                    raise SqlRefusedError(
                        f"the statement has more than {_MOST_NODES} parts",
                        where="SQL",
                        hint="Simplify the statement, or split it.",
                    )
                waiting.extend(self._part(part, ctes))

    def _part(self, part: dict[str, Any], ctes: frozenset[str]) -> _Walk:
        if "class" in part:
            self._expression(part)
        elif isinstance(part.get("type"), str):
            kind = part["type"]
            if kind in _TABLES:
                self._table(part, ctes)
            elif kind not in _NODES and kind not in _PARTS:
                raise _refused(kind.removesuffix("_QUERY_NODE").removesuffix("_NODE").replace("_", " "))
        if part.get("at_clause"):
            raise _refused("AT (...)", "Write VERSION AS OF 5 or TIMESTAMP AS OF '2026-01-15 14:00'.")
        if part.get("type") == "RECURSIVE_CTE_NODE":
            ctes |= {_lower(part["cte_name"])}
        if isinstance(part.get("cte_map"), dict):
            ctes = yield from self._ctes(part["cte_map"], ctes)
        yield from ((value, ctes) for key, value in part.items() if key not in {"cte_map", "literal"})
        return ctes

    def _ctes(self, cte_map: dict[str, Any], ctes: frozenset[str]) -> _Walk:
        """Yield the bodies of WITH, each of which sees those before it; return all that are then in sight."""
        for entry in cte_map.get("map", []):
            # Its own name is not in sight: there it would be a table's, of the catalogue's own perhaps.
            yield entry["value"], ctes
            name = _lower(entry["key"])
            if name.startswith(_CATALOGUE):
                raise _refused(f"WITH {name}", "Choose another name: this prefix is reserved by DuckDB.")
            ctes |= {name}
        return ctes

    def _expression(self, part: dict[str, Any]) -> None:
        kind = part["class"]
        if kind == "FUNCTION":
            # A table function stands as an expression too; in the place of a value DuckDB does not know it.
            self._function(part, FUNCTIONS | TABLE_FUNCTIONS)
        elif kind == "WINDOW":
            self._function(part, WINDOW_FUNCTIONS)
        elif kind == "STAR":
            # COLUMNS with a pattern chooses columns; with a lambda it runs code for each.
            expression = part.get("expr")
            if isinstance(expression, dict) and expression.get("class") not in {"CONSTANT", "STAR"}:
                raise _refused("COLUMNS with an expression", "Name the columns, or give one pattern as text.")
        elif kind not in _PLAIN:
            raise _refused(f"an expression of kind {kind}")

    def _function(self, part: dict[str, Any], allowed: frozenset[str]) -> None:
        name = _lower(part["function_name"])
        place = [qualifier for qualifier in (part.get("catalog"), part.get("schema")) if qualifier]
        if name not in allowed or place not in ([], ["main"]):
            written = ".".join([*place, name])[:80]
            hint = nearest(name, allowed) or "Only functions that compute a result from their arguments are allowed."
            raise SqlRefusedError(f"the function {written!r} is not allowed", where="SQL", hint=hint)
        if name in _BY_NAME:
            self._named_function(part, name)

    def _named_function(self, part: dict[str, Any], name: str) -> None:
        """Refuse a function that is called by its name in a text, unless it is an allowed one, spelt out."""
        arguments = part.get("arguments") or []
        # Arguments by name may stand in any order.
        in_order = len(arguments) > 1 and not any(argument.get("name") for argument in arguments)
        chosen = arguments[1].get("expression", {}) if in_order else {}
        literal = chosen.get("literal") if chosen.get("class") == "CONSTANT" else None
        called = literal.get("text") if isinstance(literal, dict) else None
        if not isinstance(called, str) or _lower(called) not in AGGREGATES:
            raise SqlRefusedError(
                f"{name} of {str(called)[:40]!r} is not allowed" if isinstance(called, str) else f"{name} of a value",
                where="SQL",
                hint="Write the name of an aggregate function as text, such as list_aggregate(prices, 'median').",
            )

    def _table(self, part: dict[str, Any], ctes: frozenset[str]) -> None:
        self._tables += 1
        if self._tables > _MOST_RELATIONS:
            raise SqlRefusedError(
                f"the statement reads more than {_MOST_RELATIONS} relations", where="SQL", hint="Split the statement."
            )
        kind = part["type"]
        if kind == "TABLE_FUNCTION":
            function = part["function"]
            if function.get("class") != "FUNCTION":
                raise _refused("this expression in FROM")
            name = _lower(function["function_name"])
            if name not in TABLE_FUNCTIONS or function.get("schema") or function.get("catalog"):
                raise SqlRefusedError(
                    f"the table function {name[:80]!r} is not allowed",
                    where="SQL",
                    hint=f"Allowed in FROM: tables, {', '.join(sorted(TABLE_FUNCTIONS))}.",
                )
        elif kind == "BASE_TABLE":
            self._relation(part, ctes)
        elif kind == "SHOW_REF":
            if part.get("show_type") not in _SHOWN or not part.get("query"):
                raise _refused("SHOW", "SHOW TABLES, DESCRIBE and SUMMARIZE of a table or SELECT are allowed.")
        elif kind == "PIVOT":
            values = sum(len(pivot.get("entries") or []) for pivot in part.get("pivots") or [])
            if values > _MOST_PIVOT_VALUES:
                raise _refused(f"PIVOT with {values} values", f"List at most {_MOST_PIVOT_VALUES} values.")

    def _relation(self, part: dict[str, Any], ctes: frozenset[str]) -> None:
        path = _path(part)
        if path in self._relations:
            return
        if "." not in path and path in ctes:
            return
        known = list(self._known)
        bare = {full_name.rpartition(".")[2]: full_name for full_name in known}
        hint = f"Write its full name, {bare[path]!r}." if path in bare else nearest(path[:100], known)
        raise UnknownTableError(
            f"unknown table {path[:100]!r}", where="SQL", hint=hint or "SHOW TABLES lists what you may read."
        )


def _path(part: dict[str, Any]) -> str:
    """Return the dotted name of a table; a dot inside of quotes makes it one that no relation has."""
    names = [part.get("catalog_name"), part.get("schema_name"), part.get("table_name")]
    qualified = part.get("qualified_name", {}).get("path", [])
    parts = [name for name in names if name]
    if qualified and [*map(_lower, qualified)] != [*map(_lower, parts)]:
        parts = list(qualified)
    return ".".join(_lower(name).replace(".", '"."') for name in parts)


def _lower(name: str) -> str:
    # ASCII letters alone, as DuckDB compares names.
    return name.encode().lower().decode()


def _refused(what: str, hint: str = "Write one plain SELECT.") -> SqlRefusedError:
    return SqlRefusedError(f"{what[:80]} is not allowed", where="SQL", hint=hint)
