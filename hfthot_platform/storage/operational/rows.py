"""The contracts of the user tables, enforced where a row comes into being: in the store's transaction.

A row that breaks a rule is refused there, and nothing of its operation is entered, so that a single one never keeps
the publisher from everybody else's rows.  The rules are the contracts' own; here they are judged row by row in Python
(a few microseconds), in the lake by the column.  A test compares the two on random rows.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from functools import cache
from operator import itemgetter
from typing import TYPE_CHECKING, Any, Final

from hfthot_platform.core.errors import ContractError, RowRefusedError
from hfthot_platform.storage.operational.changes import AuditEvent, RowChange

if TYPE_CHECKING:
    from hfthot_platform.domain.contracts import TableContract
    from hfthot_platform.domain.contracts.model import Column
    from hfthot_platform.domain.contracts.rules import Rule

__all__ = ["require_event", "require_rows"]

#: Whether a row is good in one respect.
_Judge = Callable[[Mapping[str, Any]], bool]

_LARGEST: Final = 2**63 - 1
_END_OF_TIME: Final = 253_402_300_800_000_000  # the year 10000, where datetimes end
#: What an entry's own columns are, which are not known before it is chained.
_AUDIT: Final = "audit_log"
_OF_CHAIN: Final = frozenset({"date", "seq", "ts", "personal_digest", "redacted", "previous_hash", "hash"})


class _Checks:
    """The columns and rules of one table, as far as a row that is written can break them."""

    def __init__(self, contract: TableContract, derived: frozenset[str]) -> None:
        from hfthot_platform.domain.contracts.rules import AtLeast, NotNull

        kept = [column for column in contract.columns if column.name not in derived | {"schema_version"}]
        self.names = frozenset(column.name for column in kept)
        self._judges: list[tuple[str, _Judge]] = [(f"type:{column.name}", _type_check(column)) for column in kept]
        for rule in contract.rules:
            needed = {rule.column, *(rule.others if isinstance(rule, AtLeast) else ())}
            # That a value is there is part of its type.
            if needed <= self.names and not isinstance(rule, NotNull):
                self._judges.append((rule.name, _rule_check(rule, contract)))

    def broken(self, row: Mapping[str, Any]) -> str | None:
        """Return the first rule that a row breaks, or None."""
        if row.keys() != self.names:
            return "columns"
        return next((name for name, holds in self._judges if not holds(row)), None)


def _type_check(column: Column) -> _Judge:
    from hfthot_platform.domain.contracts.model import FLAG, INT, TEXT, TIME

    kinds = {TEXT: _is_text, FLAG: _is_flag, TIME: _is_time, INT: _is_whole}
    fits: Callable[[Any], bool] | None = kinds.get(column.dtype)
    if fits is None:
        raise ContractError(f"the user tables have no columns of type {column.dtype}", where=column.name)
    value, nullable, judge = itemgetter(column.name), column.nullable, fits
    return lambda row: nullable if value(row) is None else judge(value(row))


def _is_text(value: Any) -> bool:
    # A lone surrogate is no text for anybody but Python.
    return isinstance(value, str) and (value.isascii() or not any("\ud800" <= sign <= "\udfff" for sign in value))


def _is_flag(value: Any) -> bool:
    return isinstance(value, bool)


def _is_whole(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and -_LARGEST <= value <= _LARGEST


def _is_time(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and 0 <= value < _END_OF_TIME


def _rule_check(rule: Rule, contract: TableContract) -> _Judge:
    """Return a rule as a function of a row whose types are right; what is absent breaks none."""
    from hfthot_platform.domain.contracts.rules import AtLeast, Between, Matches, OneOf

    value = itemgetter(rule.column)
    match rule:
        case Matches():
            matches = re.compile(rule.pattern).fullmatch
            return lambda row: value(row) is None or matches(value(row)) is not None
        case OneOf():
            known = frozenset(rule.values)
            return lambda row: value(row) is None or value(row) in known
        case Between(open_low=False):
            low, high = rule.low, rule.high
            return lambda row: value(row) is None or low <= value(row) <= high
        case AtLeast():
            others = rule.others
            return lambda row: (
                value(row) is None or all(row[other] is None or row[other] <= value(row) for other in others)
            )
        case _:
            raise ContractError(f"the store cannot evaluate the rule {rule.name}", where=contract.name)


@cache
def row_checks() -> dict[str, _Checks]:
    """Return the checks by table; a store that only reads needs no contracts, which take a moment to load."""
    from hfthot_platform.domain.contracts.accounts import USER_TABLES

    derived = {_AUDIT: _OF_CHAIN}
    return {
        contract.name: _Checks(contract, derived.get(contract.name, frozenset({"date", "seq"})))
        for contract in USER_TABLES
    }


def require_rows(changes: Sequence[RowChange]) -> None:
    """Check that every change is one that its table's contract takes.

    Raises:
        RowRefusedError: one is not; the message names table and rule, never a value.
    """
    for change in changes:
        checks = row_checks().get(change.table)
        if checks is None:
            raise _refused(str(change.table)[:40], "table")
        if change.op == "put":
            broken = "table" if change.table == _AUDIT else checks.broken(change.row)
        else:
            whole = change.row.keys() == {"subject_id"}
            broken = None if whole and isinstance(change.row["subject_id"], str) else "forget"
        if broken is not None:
            raise _refused(change.table, broken)


def require_event(audit: AuditEvent) -> None:
    """Check that an audit event is one that the contract of `audit_log` takes.

    Raises:
        RowRefusedError: it is not; the message names the rule, never a value.
    """
    checks = row_checks()[_AUDIT]
    broken = checks.broken({name: getattr(audit, name) for name in checks.names})
    if broken is not None:
        raise _refused(_AUDIT, broken)


def _refused(table: str, rule: str) -> RowRefusedError:
    return RowRefusedError(
        f"a row breaks the rule {rule}",
        where=table,
        hint="Nothing was written. Correct the value that the table's contract does not allow.",
    )
