"""Which data files a statement cannot need, by their statistics in the Delta log.

DuckDB's own tree of the statement tells, for each place where a table stands, which conditions of that query's
WHERE every row from there must meet.  Conditions that compare a column with a constant are put to the files' bounds,
by DuckDB itself and in the column's own type: a file stays unless the answer is a plain no.  What is not understood
(functions of columns, OR with such, the side of an outer join that may be missing, samples, positional joins, table
functions that name tables) keeps every file.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import date, datetime

import duckdb
import polars as pl
import pyarrow as pa

from hfthot_platform.domain.contracts import TableContract
from hfthot_platform.domain.contracts.model import DATE, INT, SMALL, TEXT, TIME
from hfthot_platform.services.sql.statement import Node
from hfthot_platform.storage.lakehouse.commits import LONGEST_BOUND, Files

__all__ = ["Filters", "filters_of", "kept_files"]

#: The part of a table's name that a statement uses: schema and name, or the name alone.
Path = tuple[str, ...]
#: Conditions for the rows of one table: one for each place where it stands; None where all rows may be needed.
Filters = list[Node] | None

#: Table functions that read no table.
_HARMLESS = {"generate_series", "generate_subscripts", "range", "repeat", "repeat_row", "unnest"}
_MIRRORED = {
    "COMPARE_EQUAL": "COMPARE_EQUAL",
    "COMPARE_LESSTHAN": "COMPARE_GREATERTHAN",
    "COMPARE_GREATERTHAN": "COMPARE_LESSTHAN",
    "COMPARE_LESSTHANOREQUALTO": "COMPARE_GREATERTHANOREQUALTO",
    "COMPARE_GREATERTHANOREQUALTO": "COMPARE_LESSTHANOREQUALTO",
}
_LONG_LIST = 1000
#: The name under which a question finds the bounds of files.
_BOUNDS = "bounds_of_files"


@dataclass(frozen=True)
class _FromItem:
    """Something in a FROM clause."""

    #: The name by which its columns may be qualified, if it has one.
    alias: str
    #: What the statement calls it, and its columns; None for what is not one of our tables.
    path: Path | None
    columns: frozenset[str] | None
    #: Whether a row that does not meet the WHERE clause can be left out before the join.
    free: bool


def filters_of(tree: Node, columns: Mapping[Path, frozenset[str]]) -> dict[Path, Filters]:
    """Return, for each relation that the statement reads, what its rows must meet.

    Args:
        tree: of the statement.
        columns: the columns of each relation, by its name as the statement writes it, in lower case.
    """
    try:
        return _filters_of(tree, columns)
    except RecursionError:
        return dict.fromkeys(columns)


def _filters_of(tree: Node, columns: Mapping[Path, frozenset[str]]) -> dict[Path, Filters]:
    found: dict[Path, Filters] = {}
    seen: set[int] = set()
    hidden: set[str] = set()
    for node in _nodes(tree):
        if node.get("type") == "TABLE_FUNCTION" and _lower(_function(node.get("function"))) not in _HARMLESS:
            return dict.fromkeys(columns)
        if node.get("type") == "SELECT_NODE":
            for path, condition in _of_select(node, columns, seen):
                _add(found, path, condition)
            hidden |= {_lower(str(entry.get("key"))) for entry in node.get("cte_map", {}).get("map", ())}
    for node in _nodes(tree):
        if node.get("type") == "BASE_TABLE" and id(node) not in seen:
            _add(found, _path(node), None)
        if "cte_map" in node:
            hidden |= {_lower(str(entry.get("key"))) for entry in node["cte_map"].get("map", ())}
    return {path: None if path[-1] in hidden and len(path) == 1 else filters for path, filters in found.items()}


def kept_files(
    connection: duckdb.DuckDBPyConnection,
    files: Files,
    contract: TableContract,
    filters: Filters,
    params: Mapping[str, object],
) -> Sequence[int]:
    """Return the positions of the files that can hold a row that meets one of the filters.

    Args:
        connection: the statement's own database, in the zone in which it will run.
        files: the files of a version.
        contract: of the table.
        filters: from `filters_of`.
        params: values of the statement's parameters, by name or by number from "1".
    """
    every = range(len(files.paths))
    if not filters:
        return every
    bounds = _BoundsOfFiles(files, contract, params)
    try:
        terms = [bounds.term(condition) for condition in filters]
        wanted = [term for term in terms if term is not None]
        if len(wanted) < len(terms):
            return every
        # A file without bounds answers NULL, and stays.
        query = f"SELECT position FROM {_BOUNDS} WHERE ({' OR '.join(wanted)}) IS DISTINCT FROM false"  # noqa: S608
        used = {f"p_{name}": params[name] for name in re.findall(r"\$p_(\w+)", query) if name in params}
        connection.register(_BOUNDS, bounds.table().to_arrow())
        try:
            return sorted(position for (position,) in connection.execute(query, used or None).fetchall())
        finally:
            connection.unregister(_BOUNDS)
    except (duckdb.Error, RecursionError):
        # The statement itself will say what is wrong with its constants.
        return every


# -- which conditions the rows of a table must meet ---------------------------------------------------------------


def _nodes(tree: object) -> Iterator[Node]:
    """Yield all objects of a tree, without recursion: statements can be deep."""
    stack = [tree]
    while stack:
        value = stack.pop()
        if isinstance(value, dict):
            yield value
            stack.extend(value.values())
        elif isinstance(value, list):
            stack.extend(value)


def _add(found: dict[Path, Filters], path: Path, condition: Node | None) -> None:
    before = found.setdefault(path, [])
    if condition is None:
        found[path] = None
    elif before is not None:
        before.append(condition)


def _of_select(
    select: Node, columns: Mapping[Path, frozenset[str]], seen: set[int]
) -> Iterator[tuple[Path, Node | None]]:
    """Yield the tables of one FROM clause, each with the part of the WHERE clause that concerns it alone."""
    relations = list(_relations(select.get("from_table"), columns, seen, free="sample" not in select))
    where = select.get("where_clause")
    aliased = {
        _lower(str(selected["alias"]))
        for selected in select.get("select_list", ())
        if selected.get("alias")
        and _lower(str(selected.get("column_names", [""])[-1])) != _lower(str(selected["alias"]))
    }
    for relation in relations:
        if relation.path is None:
            continue
        condition = None
        if where is not None and relation.free and relation.columns is not None:
            condition = _resolved(where, relation, relations, aliased)
        yield relation.path, condition


def _relations(
    node: Node | None, columns: Mapping[Path, frozenset[str]], seen: set[int], *, free: bool
) -> Iterator[_FromItem]:
    if node is None:
        return
    stack = [(node, free)]
    while stack:
        node, free = stack.pop()
        kind = node.get("type")
        if kind == "JOIN":
            left, right = _free_sides(str(node.get("ref_type")), str(node.get("join_type")))
            stack += [(node["left"], free and left), (node["right"], free and right)]
        elif kind == "BASE_TABLE":
            seen.add(id(node))
            path = _path(node)
            plain = "sample" not in node and "column_name_alias" not in node
            alias = _lower(str(node.get("alias") or path[-1]))
            yield _FromItem(alias, path, columns.get(path) if plain else None, free and plain)
        elif kind != "EMPTY":
            yield _FromItem(_lower(str(node.get("alias", ""))), None, None, free=False)


def _free_sides(reference: str, join: str) -> tuple[bool, bool]:
    """Return of which sides of a join a row can be left out that fails the WHERE clause in its own columns."""
    if reference in {"REGULAR", "CROSS", "NATURAL"}:
        return {
            "INNER": (True, True),
            "LEFT": (True, False),
            "RIGHT": (False, True),
            "SEMI": (True, False),
            "ANTI": (True, False),
        }.get(join, (False, False))
    if reference == "ASOF":
        # Another row of the right side would take the place of one that was left out.
        return join in {"INNER", "LEFT"}, False
    return False, False


def _resolved(condition: Node, relation: _FromItem, among: Sequence[_FromItem], aliased: set[str]) -> Node | None:
    """Return the part of a condition that compares the relation's columns with something, None if there is none.

    A comparison becomes `{"type": "_LEAF", "column": ..., "compare": ..., "values": [...]}`, column first.
    """
    kind = condition.get("type")
    if kind in {"CONJUNCTION_AND", "CONJUNCTION_OR"}:
        parts = [_resolved(child, relation, among, aliased) for child in condition["children"]]
        useful = [part for part in parts if part is not None]
        if not useful or (kind == "CONJUNCTION_OR" and len(useful) < len(parts)):
            return None
        return _joined(str(kind), useful)
    if kind in _MIRRORED:
        left, right = condition["left"], condition["right"]
        if name := _column(left, relation, among, aliased):
            return {"type": "_LEAF", "column": name, "compare": kind, "values": [right]}
        if name := _column(right, relation, among, aliased):
            return {"type": "_LEAF", "column": name, "compare": _MIRRORED[kind], "values": [left]}
        return None
    if kind == "COMPARE_BETWEEN":
        name = _column(condition["input"], relation, among, aliased)
        low, high = condition["lower"], condition["upper"]
        return {"type": "_LEAF", "column": name, "compare": kind, "values": [low, high]} if name else None
    if kind == "COMPARE_IN":
        first, *values = condition["children"]
        name = _column(first, relation, among, aliased)
        if name and len(values) <= _LONG_LIST:
            return {"type": "_LEAF", "column": name, "compare": kind, "values": values}
    return None


def _column(node: Node, relation: _FromItem, among: Sequence[_FromItem], aliased: set[str]) -> str | None:
    """Return the column of the relation that a node names, or None if it is not certain that it names one."""
    if node.get("type") != "COLUMN_REF":
        return None
    *qualifier, name = [_lower(str(part)) for part in node["column_names"]]
    if relation.columns is None or name not in relation.columns:
        return None
    if not qualifier:
        if name in aliased or any(other is not relation and name in (other.columns or {name}) for other in among):
            return None
        return name
    if len(qualifier) == 1:
        same = [other for other in among if other.alias == qualifier[0]]
    else:
        same = [other for other in among if other.path == tuple(qualifier) and other.alias == qualifier[-1]]
    return name if same == [relation] else None


def _function(node: Node | None) -> str:
    return str((node or {}).get("function_name", ""))


def _path(node: Node) -> Path:
    return tuple(_lower(str(part)) for part in node.get("qualified_name", {}).get("path", ()))


def _lower(text: str) -> str:
    return "".join(sign.lower() if sign.isascii() else sign for sign in text)


# -- the same conditions for the bounds of files --------------------------------------------------------------------


def _joined(kind: str, children: list[Node]) -> Node:
    return children[0] if len(children) == 1 else {"type": kind, "children": children}


@dataclass(frozen=True)
class _Constant:
    """A constant as SQL, and of which kind it is: `time`, `whole`, `real`, `text`, `word` (a literal) or `span`."""

    sql: str
    kind: str


#: Kinds of constants with which a comparison keeps the order of a column's values, by the column's type.  A text
#: literal takes the column's type; any other text would make the column a text.  Floating-point columns have none:
#: their bounds leave out NaN, which DuckDB takes for the greatest number.
_COMPARABLE: dict[pa.DataType, set[str]] = {
    TIME: {"time", "word"},
    DATE: {"time", "word"},
    INT: {"whole", "real"},
    SMALL: {"whole", "real"},
    TEXT: {"text", "word"},
}
_CASTS = {
    "DATE": "time",
    "TIMESTAMP": "time",
    "DATETIME": "time",
    "TIMESTAMPTZ": "time",
    "TIMESTAMP WITH TIME ZONE": "time",
    "INTEGER": "whole",
    "BIGINT": "whole",
    "DOUBLE": "real",
    "INTERVAL": "span",
}
_SPANS = {"to_days", "to_hours", "to_microseconds", "to_milliseconds", "to_minutes", "to_months", "to_seconds"}
_SPANS |= {"to_weeks", "to_years"}
_SIGNS = {
    "COMPARE_LESSTHAN": "<",
    "COMPARE_GREATERTHAN": ">",
    "COMPARE_LESSTHANOREQUALTO": "<=",
    "COMPARE_GREATERTHANOREQUALTO": ">=",
}


class _BoundsOfFiles:
    """The least and greatest values of columns, by file, and the questions that are put to them."""

    def __init__(self, files: Files, contract: TableContract, params: Mapping[str, object]) -> None:
        self._entries = files.entries
        self._contract = contract
        self._params = params
        self._columns: dict[str, pl.Series] = {}

    def term(self, condition: Node) -> str | None:
        """Return as SQL what the bounds of a file must meet if it holds rows that meet a condition; None: any may."""
        if condition["type"] != "_LEAF":
            parts = [self.term(child) for child in condition["children"]]
            useful = [part for part in parts if part is not None]
            either = condition["type"] == "CONJUNCTION_OR"
            if not useful or (either and len(useful) < len(parts)):
                return None
            return f"({(' OR ' if either else ' AND ').join(useful)})"
        name, compare = condition["column"], condition["compare"]
        values = [self._constant(operand) for operand in condition["values"]]
        allowed = _COMPARABLE.get(self._contract.column(name).dtype, set())
        if any(value is None or value.kind not in allowed for value in values) or not self._has(name):
            return None
        constants = [value for value in values if value is not None]
        if len({constant.kind for constant in constants}) > 1:
            return None  # all of them are brought to one type first
        low, high = f'"min.{name}"', f'"max.{name}"'
        if compare == "COMPARE_BETWEEN":
            return f"({high} >= {constants[0].sql} AND {low} <= {constants[1].sql})"
        if compare in {"COMPARE_EQUAL", "COMPARE_IN"}:
            return (
                f"({' OR '.join(f'({low} <= {constant.sql} AND {high} >= {constant.sql})' for constant in constants)})"
            )
        sign = _SIGNS[compare]
        return f"({low if '<' in sign else high} {sign} {constants[0].sql})"

    def _has(self, name: str) -> bool:
        if f"min.{name}" in self._columns:
            return True
        kind = self._contract.column(name)
        if (low := self._entry(f"partition.{name}", kind.polars)) is not None:
            high = low
        else:
            low, found = self._entry(f"min.{name}", kind.polars), self._entry(f"max.{name}", kind.polars)
            if low is None or found is None:
                return False
            high = found
            if kind.dtype == TIME:
                high = high.dt.offset_by("999us")  # the log cuts times to milliseconds
            if kind.dtype == TEXT:
                low, high = (bound.set(bound.str.len_bytes() >= LONGEST_BOUND, None) for bound in (low, high))
        self._columns |= {f"min.{name}": low, f"max.{name}": high}
        return True

    def _entry(self, name: str, dtype: pl.DataType) -> pl.Series | None:
        if name not in self._entries.column_names:
            return None
        series = pl.from_arrow(self._entries.column(name))
        return series.cast(dtype) if isinstance(series, pl.Series) else None

    def table(self) -> pl.DataFrame:
        """Return the bounds that are asked for."""
        return pl.DataFrame(self._columns).with_row_index("position")

    def _constant(self, node: Node) -> _Constant | None:
        """Return a constant as SQL, or None for what is none or may be another one when the statement runs."""
        kind = node.get("type")
        if kind == "VALUE_CONSTANT":
            return _literal(node.get("literal", {}))
        if kind == "VALUE_PARAMETER":
            name = str(node.get("identifier"))
            of = _kind_of(self._params.get(name))
            if of is None or not re.fullmatch(r"\w+", name, re.ASCII):
                return None
            return _Constant(f"$p_{name}", of)
        if kind == "OPERATOR_CAST" and not node.get("try_cast"):
            name = str(node.get("type_expr", {}).get("type_name", "")).upper()
            child = self._constant(node["child"])
            if child is None or name not in _CASTS or "children" in node["type_expr"]:
                return None
            return _Constant(f"CAST({child.sql} AS {name})", _CASTS[name])
        if kind == "FUNCTION" and set(node) <= _PLAIN_FUNCTION:
            arguments = [self._constant(argument["expression"]) for argument in node.get("arguments", ())]
            return _called(
                _function(node), [argument for argument in arguments if argument is not None], len(arguments)
            )
        return None


_PLAIN_FUNCTION = {"class", "type", "alias", "query_location", "query_location_length", "function_name", "arguments"}
_PLAIN_FUNCTION |= {"order_bys", "is_operator", "qualified_name"}


def _literal(literal: Node) -> _Constant | None:
    text = str(literal.get("text"))
    match literal.get("kind"):
        case "STRING":
            return _Constant("'" + text.replace("'", "''") + "'", "word")
        case "INTEGER" if re.fullmatch(r"-?[0-9]{1,18}", text):
            return _Constant(text, "whole")
        case "INTEGER" | "DECIMAL" | "FLOAT" | "NUMERIC" if re.fullmatch(r"-?[0-9]{0,18}\.?[0-9]{1,18}", text):
            return _Constant(text, "real")
    return None


def _kind_of(value: object) -> str | None:
    match value:
        case bool():
            return None
        case datetime():
            return "time" if value.tzinfo else None
        case date():
            return "time"
        case str():
            return "text"
        case int():
            return "whole"
        case float() if math.isfinite(value):
            return "real"
    return None


def _called(name: str, arguments: list[_Constant], count: int) -> _Constant | None:
    if len(arguments) < count:
        return None
    kinds = [argument.kind for argument in arguments]
    if name in {"+", "-"} and count == 2:
        result = {
            ("time", "span"): "time",
            ("time", "whole"): "time",
            ("whole", "whole"): "whole",
            ("real", "real"): "real",
            ("real", "whole"): "real",
            ("whole", "real"): "real",
        }.get((kinds[0], kinds[1]))
        return _Constant(f"({arguments[0].sql} {name} {arguments[1].sql})", result) if result else None
    if name == "-" and kinds in (["whole"], ["real"]):
        return _Constant(f"(- {arguments[0].sql})", kinds[0])
    if name == "trunc" and kinds == ["real"]:
        return _Constant(f"trunc({arguments[0].sql})", "real")
    if name in _SPANS and kinds in (["whole"], ["real"]):
        return _Constant(f"{name}({arguments[0].sql})", "span")
    return None
