"""The data dictionary: contracts and views as one Markdown page.

`make dictionary` writes docs/data_dictionary.md with the tables and views of the SQL models as well;
`hfthot_platform.cli.dictionary` puts them together.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

import pyarrow as pa

from hfthot_platform.contracts import CONTRACTS, Column, TableContract
from hfthot_platform.contracts.model import DATE, FLAG, FLOAT, INT, SMALL, TEXT, TIME
from hfthot_platform.contracts.rules import NotNull
from hfthot_platform.contracts.views import VIEWS, SqlView, View

__all__ = ["TYPE_NAMES", "dictionary", "keeping"]

#: Types as a reader of SQL or Polars knows them.
TYPE_NAMES: dict[pa.DataType, str] = {
    TIME: "timestamp (µs, UTC)",
    DATE: "date",
    TEXT: "text",
    FLOAT: "float64",
    INT: "int64",
    SMALL: "int32",
    FLAG: "boolean",
}

_HEAD = """\
# Data dictionary

Generated from the contracts in `hfthot_platform/contracts` and the SQL models in `dbt_like_sql` by `make dictionary`;
do not edit.

Every table is a versioned Delta table at `<lake>/<namespace>/<table>`. Python reads it with
`lake.table("namespace.table").scan()`, SQL by its name. Times are UTC. A row that breaks a rule is kept out and
put into the table's quarantine with the reason. A column that may be empty says so; every other always has a value.
"""


def dictionary(contracts: Mapping[str, TableContract] = CONTRACTS, views: Mapping[str, View | SqlView] = VIEWS) -> str:
    """Return the page of some tables and views, those of the platform itself by default."""
    data = [each for each in contracts.values() if each.namespace != "quarantine"]
    quarantine = [each for each in contracts.values() if each.namespace == "quarantine"]
    rows = [(_link(each.name), _cell(each.description)) for each in data]
    rows += [(_link(each.name), _cell(each.description)) for each in views.values()]
    if quarantine:
        rows.append((_link("quarantine.*", "quarantine"), "Rows kept out, each with the reason."))
    sections = [_HEAD, _table(("table", "what it holds"), rows)]
    sections += [_contract(each) for each in data]
    sections += [_view(each) for each in views.values()]
    if quarantine:
        sections.append(_quarantine(quarantine))
    return "\n".join(sections)


def keeping(contract: TableContract) -> str:
    """Return in words how rows and versions are laid out and how long they are kept."""
    parts = [
        f"partitioned by `{contract.partition_by}`" if contract.partition_by else "not partitioned",
        f"files sorted by {_names(contract.sort_by)}",
    ]
    if contract.stats_columns:
        parts.append(f"file statistics for {_names(contract.stats_columns)}")
    rows = "for ever" if contract.retention_days is None else f"for {contract.retention_days} days"
    parts += [f"rows kept {rows}", f"old versions readable for {contract.history_days} days"]
    parts.append(f"schema version {contract.schema_version}")
    return "; ".join(parts)


def _contract(contract: TableContract) -> str:
    # A column that may not be empty has its rule in the column table already.
    rules = [rule.says for rule in contract.rules if not isinstance(rule, NotNull)]
    lines = [
        f"## {contract.name}\n",
        f"{contract.description}\n",
        _columns(contract.columns),
        f"- Key: {_names(contract.primary_key)}",
        f"- Layout: {keeping(contract)}",
    ]
    if rules:
        lines.append(
            f"- A batch is published only if at most {contract.max_rejected_share:.0%} of its rows break a rule "
            "(beside the empty values):"
        )
        lines += [f"  - `{says}`" for says in rules]
    return "\n".join(lines) + "\n"


def _view(view: View | SqlView) -> str:
    kind = f"An SQL view of {_link(view.of.name)}." if isinstance(view, View) else "An SQL view."
    return "\n".join([f"## {view.name}\n", f"{view.description} {kind}\n", _columns(view.declared())])


def _quarantine(contracts: Sequence[TableContract]) -> str:
    first = contracts[0]
    names = ", ".join(f"`{each.name}`" for each in contracts)
    lines = [
        "## quarantine\n",
        f"Rows kept out of a table, each with the reason; all of these have the same columns: {names}.\n",
        _columns(first.columns),
        f"- Key: {_names(first.primary_key)}",
        f"- Layout: {keeping(first)}",
    ]
    return "\n".join(lines) + "\n"


def _columns(columns: Iterable[Column]) -> str:
    rows = []
    for column in columns:
        notes = [_cell(column.description)]
        notes += ["may be empty"] * column.nullable
        notes += ["**personal data**"] * column.personal
        rows.append((f"`{column.name}`", TYPE_NAMES[column.dtype], _cell(column.unit), "; ".join(notes)))
    return _table(("column", "type", "unit", "meaning"), rows)


def _table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    lines = [head, ["---"] * len(head), *rows]
    return "".join(f"| {' | '.join(cells)} |\n" for cells in lines)


def _link(text: str, anchor: str | None = None) -> str:
    return f"[{text}](#{(anchor or text).replace('.', '')})"


def _names(names: Iterable[str]) -> str:
    return ", ".join(f"`{name}`" for name in names)


def _cell(text: str) -> str:
    """Return text that stays within its table cell and shows `*` and `<` as they are."""
    if "`" not in text:
        for sign in "\\*<":
            text = text.replace(sign, f"\\{sign}")
    return text.replace("|", "\\|")
