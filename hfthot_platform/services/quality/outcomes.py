"""What a check is and what it says: plain values, ready for JSON, for a log line or for an orchestrator."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, TypeAlias

__all__ = ["Check", "CheckOutcome", "Json", "Severity"]

Json: TypeAlias = "bool | int | float | str | list[Json] | dict[str, Json] | None"
#: `error`: the rows are wrong.  `warn`: the rows may be right, but somebody should look.
Severity = Literal["error", "warn"]


@dataclass(frozen=True)
class Check:
    """A check that applies to a table, whatever its rows."""

    name: str
    severity: Severity
    #: What holds when it passes.
    description: str


@dataclass(frozen=True)
class CheckOutcome:
    """The result of one check on one version of a table."""

    name: str
    passed: bool
    severity: Severity
    #: What was found, as a sentence.
    description: str
    #: Figures behind the sentence: counts, times (ISO 8601), names of venues and symbols; never values of
    #: personal columns.
    observed: dict[str, Json]
    #: The tables that were read, the checked one first.
    tables: tuple[str, ...]
