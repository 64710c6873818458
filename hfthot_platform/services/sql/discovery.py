"""What there is to ask: `hfthot.tables`, `hfthot.columns` and `hfthot.versions` as frames.

Tables and columns come from the contracts alone; versions from the Delta logs of the tables in question, which are
read only when somebody asks.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from typing import TYPE_CHECKING

import polars as pl

from hfthot_platform.core.errors import LakehouseError
from hfthot_platform.domain.contracts import Column, TableContract
from hfthot_platform.domain.contracts.views import View
from hfthot_platform.services.sql.statement import DISCOVERY

if TYPE_CHECKING:
    from hfthot_platform.storage.lakehouse import Lakehouse
    from hfthot_platform.storage.lakehouse.table import Table

__all__ = ["Permitted", "columns", "relations", "tables", "versions"]

#: The tables and views that may be seen, each with the columns that may; None for all.
Permitted = Mapping[str, Collection[str]] | None


def relations(
    lake: Lakehouse, names: Iterable[str] = DISCOVERY, permitted: Permitted = None, *, rows: bool = True
) -> dict[str, pl.DataFrame]:
    """Return the asked ones of the relations by name, such as `hfthot.versions`.

    Args:
        lake: whose tables.
        names: which relations.
        permitted: what the asker may see; other tables and columns leave no trace.
        rows: whether the asker may know how many rows a version has.
    """
    made = {"hfthot.columns": columns, "hfthot.tables": tables, "hfthot.versions": versions}
    found = {name: made[name](lake, permitted) for name in names}
    if not rows and "hfthot.versions" in found:
        found["hfthot.versions"] = found["hfthot.versions"].with_columns(rows=pl.lit(None, pl.Int64))
    return found


def tables(lake: Lakehouse, permitted: Permitted = None) -> pl.DataFrame:
    """Return one row per table and view: what it is, its key, and how its rows are kept."""
    rows = []
    for name in _names(lake, permitted):
        contract = lake.contracts.get(name)
        description = lake.views[name].description if contract is None else contract.description
        rows.append(
            {
                "table_name": name,
                "kind": "view" if contract is None else "table",
                "description": _first_sentence(description),
                "primary_key": None if contract is None else ", ".join(contract.primary_key),
                "partition_by": None if contract is None else contract.partition_by,
                "history_days": None if contract is None else contract.history_days,
            }
        )
    return pl.DataFrame(
        rows,
        schema={
            **dict.fromkeys(("table_name", "kind", "description", "primary_key", "partition_by"), pl.String()),
            "history_days": pl.Int32(),
        },
    )


def columns(lake: Lakehouse, permitted: Permitted = None) -> pl.DataFrame:
    """Return one row per column, in the order of its table."""
    rows = [
        {
            "table_name": name,
            "column_name": column.name,
            "type": column.sql_type,
            "nullable": column.nullable,
            "unit": column.unit or None,
            "description": column.description,
            "personal": column.personal,
        }
        for name in _names(lake, permitted)
        for column in _columns(lake, name)
        if permitted is None or column.name in permitted[name]
    ]
    text = dict.fromkeys(("table_name", "column_name", "type"), pl.String())
    more = {"nullable": pl.Boolean(), "unit": pl.String(), "description": pl.String(), "personal": pl.Boolean()}
    return pl.DataFrame(rows, schema={**text, **more})


def versions(lake: Lakehouse, permitted: Permitted = None) -> pl.DataFrame:
    """Return one row per version of each table, and of each view of one table, oldest first.

    A table whose log cannot be read has one row without a version that says so.
    """
    known: dict[str, list[dict[str, object]]] = {}
    rows = []
    for name in _names(lake, permitted):
        of = name
        if name not in lake.contracts:
            view = lake.views[name]
            if not isinstance(view, View):
                continue
            of = view.of.name
        if of not in known:
            known[of] = _history(lake.table(of))
        rows += [{"table_name": name, **entry} for entry in known[of]]
    return pl.DataFrame(
        rows,
        schema={
            "table_name": pl.String(),
            "version": pl.Int64(),
            "ts": pl.Datetime("us", "UTC"),
            "operation": pl.String(),
            "rows": pl.Int64(),
            "run_id": pl.String(),
            "readable": pl.Boolean(),
        },
    )


def _history(table: Table) -> list[dict[str, object]]:
    try:
        history = table.versions()
        readable = {readable_version.version for readable_version in table.readable_versions()}
    except LakehouseError:
        return [{"operation": "UNREADABLE", "readable": False}]
    return [
        {
            "version": version.version,
            "ts": version.timestamp,
            "operation": version.operation,
            "rows": version.rows,
            "run_id": version.run_id or None,
            "readable": version.version in readable,
        }
        for version in history
    ]


def _first_sentence(text: str) -> str:
    """Return the part of a description that fits into a list."""
    return f"{text.split('. ', maxsplit=1)[0].rstrip('.')}."


def _names(lake: Lakehouse, permitted: Permitted) -> list[str]:
    every = dict.fromkeys((*lake.contracts, *lake.views))
    return sorted(name for name in every if permitted is None or name in permitted)


def _columns(lake: Lakehouse, name: str) -> Iterable[Column]:
    contract: TableContract | None = lake.contracts.get(name)
    return lake.views[name].declared() if contract is None else contract.columns
