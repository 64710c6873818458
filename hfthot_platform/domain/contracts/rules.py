"""Row rules: what a good row is, declared once per column and evaluated everywhere.

A rule says which rows violate it, as one Polars expression.  The lakehouse evaluates the rules before
each commit; `hfthot_platform.services.quality` translates the same rules into Great Expectations suites.  Rules
that need more than the row and its neighbours (completeness, staleness, agreement between sources) live
in `hfthot_platform.services.quality`, not here.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

import polars as pl

if TYPE_CHECKING:
    from datetime import datetime

__all__ = ["AtLeast", "Between", "Finite", "Matches", "NotNull", "OneOf", "PresentWhen", "Rule", "Spike", "TimeBetween"]


@dataclass(frozen=True)
class Rule(ABC):
    """A condition that every published row meets; a row that does not is quarantined under `reason`."""

    column: str
    reason: ClassVar[str]
    #: Whether the rule looks at neighbouring rows; it is then judged among the rows that meet all other rules,
    #: so that a broken row has no vote on a good one.
    among_rows: ClassVar[bool] = False

    @abstractmethod
    def violated(self) -> pl.Expr:
        """Return a boolean expression, true (never null) on each row that breaks the rule."""

    @property
    @abstractmethod
    def says(self) -> str:
        """Return the rule in words, for documentation and check results."""

    @property
    def name(self) -> str:
        """Return a stable identifier, unique within a contract."""
        return f"{self.reason}:{self.column}"


@dataclass(frozen=True)
class NotNull(Rule):
    """The value is present."""

    reason = "missing_value"

    def violated(self) -> pl.Expr:
        return pl.col(self.column).is_null()

    @property
    def says(self) -> str:
        return f"{self.column} is present"


@dataclass(frozen=True)
class PresentWhen(Rule):
    """The value is present in rows whose column `when` has the value `equals`, and in no others."""

    when: str
    equals: str
    reason = "value_of_kind"

    def violated(self) -> pl.Expr:
        wanted = (pl.col(self.when).cast(pl.String) == self.equals).fill_null(value=False)
        return pl.col(self.column).is_not_null() != wanted

    @property
    def says(self) -> str:
        return f"{self.column} is present where {self.when} is {self.equals}, and only there"


@dataclass(frozen=True)
class Finite(Rule):
    """The value, where present, is neither NaN nor infinite."""

    reason = "not_finite"

    def violated(self) -> pl.Expr:
        return pl.col(self.column).is_finite().not_().fill_null(value=False)

    @property
    def says(self) -> str:
        return f"{self.column} is a finite number"


@dataclass(frozen=True)
class Between(Rule):
    """low <= value <= high (or low < value when `open_low`), where present."""

    low: float
    high: float
    open_low: bool = False
    reason = "out_of_bounds"

    def violated(self) -> pl.Expr:
        value = pl.col(self.column)
        below = value <= self.low if self.open_low else value < self.low
        return (below | (value > self.high)).fill_null(value=False)

    @property
    def says(self) -> str:
        return f"{self.low:g} {'<' if self.open_low else '<='} {self.column} <= {self.high:g}"


@dataclass(frozen=True)
class TimeBetween(Rule):
    """low <= time < high, where present."""

    low: datetime
    high: datetime
    reason = "time_out_of_range"

    def violated(self) -> pl.Expr:
        value = pl.col(self.column)
        return ((value < self.low) | (value >= self.high)).fill_null(value=False)

    @property
    def says(self) -> str:
        return f"{self.column} from {self.low:%Y-%m-%d} to before {self.high:%Y-%m-%d}"


@dataclass(frozen=True)
class AtLeast(Rule):
    """The value is no smaller than each of the other columns (high >= open, close, low)."""

    others: tuple[str, ...]
    reason = "inconsistent_bar"

    def violated(self) -> pl.Expr:
        value = pl.col(self.column)
        return pl.any_horizontal(value < pl.col(other) for other in self.others).fill_null(value=False)

    @property
    def says(self) -> str:
        return f"{self.column} >= {', '.join(self.others)}"


@dataclass(frozen=True)
class OneOf(Rule):
    """The value, where present, is one of a closed list."""

    values: tuple[str, ...]
    reason = "unknown_value"

    def violated(self) -> pl.Expr:
        # Compared value by value: `is_in` on an Enum column rejects lists with words outside the Enum.
        known = pl.any_horizontal(pl.col(self.column).cast(pl.String) == value for value in self.values)
        return known.not_().fill_null(value=False)

    @property
    def says(self) -> str:
        return f"{self.column} is one of {', '.join(self.values)}"


@dataclass(frozen=True)
class Matches(Rule):
    """The text, where present, matches a regular expression from its start to its end."""

    pattern: str
    reason = "malformed_text"

    def violated(self) -> pl.Expr:
        text = pl.col(self.column).cast(pl.String)
        return text.str.contains(f"^(?:{self.pattern})$").not_().fill_null(value=False)

    @property
    def says(self) -> str:
        return f"{self.column} matches {self.pattern}"


@dataclass(frozen=True)
class Spike(Rule):
    """The value is within `factor` of the median of five rows: itself, the two before and the two after.

    Two absurd values side by side are still caught; a level that lasts three rows or more is a move, not a
    spike.  At the ends of a series the rows that exist count, three at least; of four, the middle one nearer to
    the value is the median.  Rows must be sorted by `by` and time, and values positive.
    """

    by: tuple[str, ...]
    factor: float = 10.0
    reason = "absurd_value"
    among_rows = True

    def violated(self) -> pl.Expr:
        value = pl.col(self.column)
        neighbours = []
        for lag in (-2, -1, 1, 2):
            same = pl.all_horizontal(pl.col(key) == pl.col(key).shift(lag) for key in self.by)
            neighbours.append(pl.when(same).then(value.shift(lag)))
        # Counting neighbours far above and far below needs no sort: a value is off its five-row median by
        # `factor` exactly when a majority of the five lies beyond that factor on one side.
        far_above = pl.sum_horizontal((other > value * self.factor).fill_null(value=False) for other in neighbours)
        far_below = pl.sum_horizontal((other * self.factor < value).fill_null(value=False) for other in neighbours)
        known = pl.sum_horizontal(other.is_not_null() for other in neighbours) + 1
        majority = known.cast(pl.Int32) // 2 + 1
        isolated = (far_above.cast(pl.Int32) >= majority) | (far_below.cast(pl.Int32) >= majority)
        return (isolated & (known >= 3)).fill_null(value=False)

    @property
    def says(self) -> str:
        return f"{self.column} is within a factor {self.factor:g} of its neighbours in time"
