"""Versioned, audited tables on Delta Lake.

`lake` and `table` are the way in.  Reading: `read` says which version, `snapshot` what it consists of, `log` is the
only reader of `_delta_log`.  Writing: `audit` is the gate, `write` makes the commit (`streamed`, `publication` and
`rewrite` say what goes into its files, `datafiles` writes them), `commits` is what a version says of itself, `days` the
spans that are replaced, `units` what is smaller than a day.  `backends` are the places where files can be;
`maintenance` (with `compaction`) keeps tables small and fast, once `clock` trusts the time.  Nothing here knows where
rows come from or who orchestrates.
"""

from hfthot_platform.storage.lakehouse.audit import Audited, RuleResult
from hfthot_platform.storage.lakehouse.clock import accept_clock, check_clock
from hfthot_platform.storage.lakehouse.commits import Commit, Stamp, VersionInfo
from hfthot_platform.storage.lakehouse.lake import Lakehouse
from hfthot_platform.storage.lakehouse.maintenance import MaintenanceReport, maintain, overdue_share
from hfthot_platform.storage.lakehouse.staging import Staging, sweep_scratch
from hfthot_platform.storage.lakehouse.table import Table
from hfthot_platform.storage.lakehouse.units import Unit, units_of

__all__ = [
    "Audited",
    "Commit",
    "Lakehouse",
    "MaintenanceReport",
    "RuleResult",
    "Staging",
    "Stamp",
    "Table",
    "Unit",
    "VersionInfo",
    "accept_clock",
    "check_clock",
    "maintain",
    "overdue_share",
    "sweep_scratch",
    "units_of",
]
