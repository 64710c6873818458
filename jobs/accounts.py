"""Publishing the change log of the accounts, and checking the user tables."""

import dagster as dg

from assets.accounts import CHECKS, TABLES
from jobs.common import tables_with_gates

__all__ = ["JOBS", "SCHEDULES"]

publish = dg.define_asset_job(
    "accounts_publish",
    selection=tables_with_gates(*TABLES),
    description="Publish what the accounts' change log holds to the user tables.",
)
integrity = dg.define_asset_job(
    "accounts_integrity",
    selection=tables_with_gates(*TABLES)
    | dg.AssetSelection.checks(*(key for check in CHECKS for key in check.check_keys)),
    description="Publish, then check: who refers to whom, nothing personal in clear, no gap in the audit.",
)

JOBS = [publish, integrity]

SCHEDULES = [
    dg.ScheduleDefinition(
        name="accounts_integrity_daily",
        job=integrity,
        cron_schedule="45 1 * * *",
        execution_timezone="UTC",
        default_status=dg.DefaultScheduleStatus.RUNNING,
    ),
]
