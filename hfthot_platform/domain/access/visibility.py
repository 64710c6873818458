"""Which tables, columns and depth of history somebody sees.

The rule for one table is `Visibility.columns`.  The whole rule, `Visibility.readable`, also closes whatever is computed
from a closed table.  What does not belong here: reading anything, and user tables' own rows (`authorise` opens those).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from datetime import timedelta
from fnmatch import fnmatchcase
from typing import Final, Self

from hfthot_platform.domain.access.plans import Role, TierName, tier
from hfthot_platform.domain.contracts.accounts import USER_TABLES
from hfthot_platform.domain.contracts.model import Column, TableContract
from hfthot_platform.domain.contracts.views import SqlView, View

__all__ = ["Relations", "Visibility"]

#: Roles that read data, besides administrators.
_READERS: Final[frozenset[Role]] = frozenset({"registered", "trader"})
#: Namespaces that every reader sees; whatever is not listed is for administrators.
_OPEN: Final = ("market", "signals", "portfolio", "staging", "marts")
#: Of these, the layers of SQL models: a table there is seen by whoever sees all that it is computed from.
_MODELS: Final = frozenset({"staging", "marts"})
#: Mean-field-game results, wherever they are.
_MEAN_FIELD_GAME: Final = "*.mfg_*"
_SECRET: Final = ("*_hash", "*_hashes", "*_ciphertext", "*_encrypted", "*_secret", "*_digest")
#: The audit log's own chain is there to be verified.
_CHAIN: Final = frozenset({"hash", "previous_hash", "personal_digest"})
#: Rejected rows of user tables hold whole rows as text, ciphertext and all.
_REJECTED: Final = frozenset(contract.quarantine for contract in USER_TABLES)


@dataclass(frozen=True, eq=False)
class Relations:
    """The tables and views of a lake, and what each is computed from."""

    contracts: Mapping[str, TableContract] = field(repr=False)
    views: Mapping[str, View | SqlView] = field(repr=False)
    #: Returns the names of the tables and views that a computed view reads.
    origins: Callable[[SqlView], tuple[str, ...]] = field(repr=False)


@dataclass(frozen=True)
class Visibility:
    """What somebody sees.

    Columns with personal data, and columns that hold hashes of secrets or ciphertext, are never seen: nothing can
    open them.
    """

    #: Tables and views by name, or all of a namespace as `market.*` (`accounts.*` are the user tables); each with
    #: its columns, or None for all that may be shown at all.
    tables: Mapping[str, frozenset[str] | None] = field(hash=False)
    #: Names and patterns that are not seen, whatever `tables` says.
    denied: frozenset[str] = frozenset()
    #: How far back rows go by the contract's time column, None for all.
    history: timedelta | None = None

    @classmethod
    def of(cls, plan: TierName, role: Role) -> Self:
        """Return what a plan and a role open.

        `guest` and `pending` see nothing.  An administrator sees every table, whatever the plan.

        Raises:
            BadRequestError: there is no such plan.
        """
        bought = tier(plan)
        if role == "admin":
            return cls({"*": None})
        if role not in _READERS:
            return cls({})
        return cls(
            {f"{namespace}.*": None for namespace in _OPEN},
            denied=frozenset() if bought.mean_field_game else frozenset({_MEAN_FIELD_GAME}),
            history=bought.history,
        )

    def columns(self, name: str, declared: tuple[Column, ...], contract: TableContract | None) -> tuple[str, ...]:
        """Return the columns of a table or view that are seen by its own name, none if it is closed.

        Args:
            name: of the table or view.
            declared: its columns.
            contract: of the table, None for a view.
        """
        whole = name if contract is None else f"{contract.namespace}.{contract.table}"
        if any(fnmatchcase(spelling, pattern) for pattern in self.denied for spelling in (name, whole)):
            return ()
        permitted: set[str] = set()
        for pattern, columns in self.tables.items():
            if fnmatchcase(name, pattern) or fnmatchcase(whole, pattern):
                permitted |= {column.name for column in declared} if columns is None else columns
        return tuple(
            column.name for column in declared if column.name in permitted and not _never_shown(column, contract)
        )

    def readable(self, relations: Relations) -> dict[str, tuple[str, ...]]:
        """Return the tables and views that are seen, each with the columns that are."""
        known: dict[str, tuple[str, ...]] = {}
        for name in (*relations.contracts, *relations.views):
            if columns := self._columns_below(name, relations, known, ()):
                known[name] = columns
        return known

    def readable_columns(self, name: str, relations: Relations) -> tuple[str, ...]:
        """Return the columns of one table or view that are seen, none if it is closed or not there."""
        return self._columns_below(name, relations, {}, ())

    def _columns_below(
        self, name: str, relations: Relations, known: Mapping[str, tuple[str, ...]], through: tuple[str, ...]
    ) -> tuple[str, ...]:
        """Return the seen columns of a table or view: none where it tells of one that is closed."""
        if name in known:
            return known[name]
        if name in through:
            return ()
        contract, view = relations.contracts.get(name), relations.views.get(name)
        origins: tuple[str, ...] | None
        if contract is not None:
            columns = self.columns(name, contract.columns, contract)
            if not columns or not _of_model(contract) or name in self.tables:
                return columns
            if self.history is not None and contract.time_column is None:
                # Its rows are computed from all there are, and nothing says which of them this reader may see.
                return ()
            origins = contract.made_from
        elif isinstance(view, View):
            visible = set(self._columns_below(view.of.name, relations, known, (*through, name)))
            return tuple(column for column in self.columns(name, view.declared(), None) if column in visible)
        elif view is not None:
            columns = self.columns(name, view.columns, None)
            origins = relations.origins(view)
        else:
            return ()
        # A model whose origin is not known is closed.
        closed = origins is None or not all(
            self._columns_below(origin, relations, known, (*through, name)) for origin in origins
        )
        return () if closed and "*" not in self.tables else columns


def _of_model(contract: TableContract) -> bool:
    """Return whether a table is an SQL model's, or stands where only those should."""
    return contract.made_from is not None or contract.namespace in _MODELS


def _never_shown(column: Column, contract: TableContract | None) -> bool:
    """Return whether a column is closed to everybody: personal data, hashes of secrets, ciphertext."""
    if column.personal or (contract is not None and contract.name in _REJECTED and column.name in {"row", "detail"}):
        return True
    if contract is not None and contract.name == "audit_log" and column.name in _CHAIN:
        return False
    return any(fnmatchcase(column.name, pattern) for pattern in _SECRET)
