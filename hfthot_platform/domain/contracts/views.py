"""SQL views: other names and narrower selections of tables, for readers; they hold no rows of their own."""

from __future__ import annotations

from dataclasses import dataclass

from hfthot_platform.core.errors import ContractError
from hfthot_platform.domain.contracts.market import BARS_1M
from hfthot_platform.domain.contracts.model import Column, TableContract

__all__ = ["VIEWS", "SqlView", "View"]


@dataclass(frozen=True)
class View:
    """Some columns of one table under another name, in the order given."""

    name: str
    of: TableContract
    columns: tuple[str, ...]
    description: str

    def __post_init__(self) -> None:
        """Check that the table has the columns."""
        if unknown := sorted(set(self.columns) - set(self.of.column_names)):
            raise ContractError(
                f"column {unknown[0]!r} is not in {self.of.name}", where=f"view {self.name}", hint="Correct the view."
            )

    def declared(self) -> tuple[Column, ...]:
        """Return the declarations of the view's columns."""
        return tuple(self.of.column(name) for name in self.columns)


@dataclass(frozen=True)
class SqlView:
    """A SELECT under a name, as SQL models declare it; always as current as the tables that it reads."""

    name: str
    #: One SELECT in DuckDB's dialect that names tables and views of the lake.
    sql: str
    columns: tuple[Column, ...]
    description: str

    def declared(self) -> tuple[Column, ...]:
        """Return the declarations of the view's columns."""
        return self.columns


#: All views by name.
VIEWS: dict[str, View] = {
    view.name: view
    for view in (
        View(
            name="market.ohlcv",
            of=BARS_1M,
            columns=(
                *("ts", "symbol", "open", "high", "low", "close", "volume"),
                *("venue", "source", "source_ref", "origin", "schema_version", "final"),
            ),
            description="The one-minute bars in the format that most tools expect, with the source of each bar.",
        ),
    )
}
