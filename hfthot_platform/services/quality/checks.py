"""Table-level checks, derived from the contract: which apply, and what they find on one version of a table.

The lakehouse's audit judged every batch when it came in.  These checks judge the table that all batches made
together: is it complete, unique, sorted, fresh, in agreement with other tables, and does every rule still hold.
"""

from __future__ import annotations

from collections.abc import Callable
from datetime import datetime, timedelta
from typing import Final
from urllib.parse import unquote

from hfthot_platform.core.errors import BadRequestError
from hfthot_platform.core.time import Span, bounds, partition_range
from hfthot_platform.domain.contracts import TableContract
from hfthot_platform.domain.contracts.market import CORPORATE_ACTIONS
from hfthot_platform.domain.contracts.rules import AtLeast, Rule, Spike
from hfthot_platform.services.quality import series
from hfthot_platform.services.quality.outcomes import Check, CheckOutcome, Json
from hfthot_platform.services.quality.rows import RowsSeen, look_at_rows, unsorted_files
from hfthot_platform.storage.lakehouse import Lakehouse
from hfthot_platform.storage.lakehouse.days import within

__all__ = ["ALLOWED_DELAY", "checks_of", "run_checks"]

#: Daily partitions are ingested after their day has ended, so a series may be this far behind.
ALLOWED_DELAY: Final = timedelta(days=2)

_INSTRUMENTS: Final = "market.instruments"
_VALUES: Final = Check("values", "error", "Every row meets the contract's rules on single values.")
_CONSISTENCY: Final = Check("consistency", "error", "Columns of a row do not contradict each other (high >= low, ...).")
_SPIKES: Final = Check("spikes", "warn", "No value is far off its neighbours in time, across batches too.")
_UNIQUE: Final = Check("unique_key", "error", "No two rows have the same primary key.")
_ORDER: Final = Check("file_order", "warn", "Rows within each data file are in the contract's order.")
_COMPLETE: Final = Check("completeness", "warn", "Every interval between a series' first and last row has a row.")
_FRESH: Final = Check("staleness", "warn", "No series is further behind the present than allowed.")
_AGREE: Final = Check("agreement", "warn", "A vendor's bars equal those recomputed from finer data.")
_KNOWN: Final = Check("known_symbols", "warn", f"Every venue and symbol is in {_INSTRUMENTS}.")


def checks_of(declared: TableContract) -> tuple[Check, ...]:
    """Return the checks that apply to a table; `run_checks` returns one outcome for each, in this order."""
    rules, names = declared.rules, declared.column_names
    applies = {
        _VALUES: bool(rules),
        _CONSISTENCY: any(isinstance(rule, AtLeast) for rule in rules),
        _SPIKES: any(isinstance(rule, Spike) for rule in rules),
        _UNIQUE: True,
        _ORDER: True,
        _COMPLETE: series.is_series(declared),
        # Of corporate actions nobody knows when the next one is due.
        _FRESH: declared.time_column is not None
        and {"venue", "symbol"} <= {*names}
        and declared.name != CORPORATE_ACTIONS.name,
        _AGREE: declared.name in series.FINER,
        _KNOWN: declared.name != _INSTRUMENTS and {"venue", "symbol"} <= {*names},
    }
    return tuple(check for check, does in applies.items() if does)


def run_checks(
    lake: Lakehouse,
    table: str,
    span: Span | None,
    now: datetime,
    *,
    allowed_delay: timedelta = ALLOWED_DELAY,
) -> tuple[CheckOutcome, ...]:
    """Run every check that applies to a table, on its current version.

    Args:
        lake: the lake.
        table: name of the table.
        span: a day, or the days from a first to before a second one; None is the whole table.  Tables without
            a time column are checked as a whole, and staleness looks at the newest rows if the span does.
        now: the present time.
        allowed_delay: how far behind the present a series may be.

    Returns:
        One outcome per check of `checks_of`, in that order.

    Raises:
        BadRequestError: `now` has no time zone, or the span is empty.
        UnknownTableError: no contract has this name.
        DamagedTableError: a data file is missing.
    """
    if now.tzinfo is None:
        raise BadRequestError(f"{now} has no time zone", where="now", hint="Pass an aware time, such as UTC.")
    return _Run(lake, table, span, now, allowed_delay).outcomes()


class _Run:
    """One run over one version of a table; other tables are read at their current versions."""

    def __init__(self, lake: Lakehouse, table: str, span: Span | None, now: datetime, delay: timedelta) -> None:
        self.lake = lake
        self.now = now
        self.delay = delay
        self.declared = lake.table(table).contract
        self.span = span if self.declared.time_column else None
        snapshot = lake.table(table).snapshot()
        self.version = None if snapshot is None else snapshot.version
        self.paths = () if snapshot is None else snapshot.paths
        self.rows = lake.table(table).scan(self.version)
        self.inside = self.rows if self.span is None else self.rows.filter(within(self.declared, self.span))

    def outcomes(self) -> tuple[CheckOutcome, ...]:
        seen = look_at_rows(self.declared, self.inside)
        judges: dict[Check, Callable[[], tuple[series.Observed, tuple[str, ...]]]] = {
            _VALUES: lambda: (self._rules(seen, lambda rule: not isinstance(rule, AtLeast | Spike)), ()),
            _CONSISTENCY: lambda: (self._rules(seen, lambda rule: isinstance(rule, AtLeast)), ()),
            _SPIKES: lambda: (self._rules(seen, lambda rule: isinstance(rule, Spike)), ()),
            _UNIQUE: lambda: (self._unique(seen), ()),
            _ORDER: lambda: (self._order(), ()),
            _COMPLETE: lambda: (series.missing_intervals(self.declared, self.rows, self.span), ()),
            _FRESH: lambda: (self._fresh(), (_INSTRUMENTS,)),
            _AGREE: self._agreement,
            _KNOWN: lambda: (
                series.unknown_symbols(self.inside, self.lake.table(_INSTRUMENTS).scan()),
                (_INSTRUMENTS,),
            ),
        }
        out = []
        for check in checks_of(self.declared):
            found, others = judges[check]()
            out.append(
                CheckOutcome(
                    name=check.name,
                    passed=found.passed,
                    severity=check.severity,
                    description=found.says,
                    observed={"version": self.version, **found.figures},
                    tables=(self.declared.name, *others),
                )
            )
        return tuple(out)

    def _rules(self, seen: RowsSeen, belongs: Callable[[Rule], bool]) -> series.Observed:
        rules = [rule for rule in self.declared.rules if belongs(rule)]
        broken = {rule: seen.violations[rule.name] for rule in rules if seen.violations[rule.name]}
        figures: dict[str, Json] = {
            "rows": seen.rows,
            "rules": len(rules),
            "violations": {rule.name: count for rule, count in broken.items()},
        }
        if not broken:
            return series.Observed(True, f"All {seen.rows:,} rows meet {len(rules)} rules.", figures)
        worst = max(broken, key=lambda rule: broken[rule])
        says = f"{len(broken)} of {len(rules)} rules are broken; {broken[worst]:,} rows break {worst.says!r}."
        return series.Observed(False, says, figures)

    def _unique(self, seen: RowsSeen) -> series.Observed:
        key = ", ".join(self.declared.primary_key)
        says = f"{seen.repeated:,} of {seen.rows:,} rows repeat a key ({key})."
        return series.Observed(seen.repeated == 0, says, {"rows": seen.rows, "repeated": seen.repeated})

    def _order(self) -> series.Observed:
        paths = [path for path in self.paths if self._in_span(path)]
        wrong = unsorted_files(self.declared, paths, self.lake.storage.options)
        says = f"{len(wrong)} of {len(paths)} data files are not sorted by {', '.join(self.declared.sort_by)}."
        return series.Observed(not wrong, says, {"files": len(paths), "unsorted": len(wrong)})

    def _in_span(self, path: str) -> bool:
        """Whether a data file's partition touches the span, by its folder's name."""
        by = self.declared.partition_by
        if self.span is None or by is None:
            return True
        folder = next((part for part in path.split("/") if part.startswith(f"{by}=")), None)
        if folder is None:
            return True
        value = unquote(folder.partition("=")[2])
        low, high = partition_range(by, self.span)
        return str(low) <= value <= str(high)

    def _fresh(self) -> series.Observed:
        if self.span is not None:
            _, end = bounds(self.span)
            if end < (self.now - self.delay).date():
                return series.Observed(True, f"The span ended on {end}: its rows are meant to be old.", {})
        instruments = self.lake.table(_INSTRUMENTS).scan()
        return series.stale_series(self.declared, self.rows, instruments, self.now, self.delay)

    def _agreement(self) -> tuple[series.Observed, tuple[str, ...]]:
        finer = series.FINER[self.declared.name]
        rows = self.lake.table(finer).scan()
        return series.disagreement_with_finer(self.declared, self.rows, rows, self.span), (finer,)
