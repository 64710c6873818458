"""Quality of published tables, derived from their contracts.

`checks` runs fast table-level checks on the lake itself; `suites` translates a contract into a Great
Expectations suite and leaves a readable result page.  `outcomes` is what a check says; `rows` and `series` hold
the checks' arithmetic.  The gate before each commit is the lakehouse's own audit, not here.  Nothing here knows
who orchestrates; times are passed in.
"""

from hfthot_platform.services.quality.checks import checks_of, run_checks
from hfthot_platform.services.quality.outcomes import Check, CheckOutcome
from hfthot_platform.services.quality.suites import (
    SAMPLE_ROWS,
    ExpectationOutcome,
    SuiteResult,
    suites,
    validate,
    write_report,
)

__all__ = [
    "SAMPLE_ROWS",
    "Check",
    "CheckOutcome",
    "ExpectationOutcome",
    "SuiteResult",
    "checks_of",
    "run_checks",
    "suites",
    "validate",
    "write_report",
]
