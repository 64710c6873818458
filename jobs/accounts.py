"""Publishing the change log of the accounts, checking the user tables, and taking in files of user events."""

from typing import Any

import dagster as dg

from assets.accounts import CHECKS, TABLES
from hfthot_platform.core.version import __version__
from hfthot_platform.services.ingest.users import ingest_user_landing
from hfthot_platform.storage.lakehouse import Stamp
from jobs.common import tables_with_gates, whole_schedule
from resources.platform import Platform

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
    description="Publish, then check references, personal data in clear and gaps in the audit log.",
)


@dg.op(description="Apply the files of user events that wait, each event once.", pool="user_files")
def ingest_user_files(context: dg.OpExecutionContext, platform: dg.ResourceParam[Platform]) -> None:
    """Take in the files of `<landing>/users`; the sensor on the change log publishes what they changed."""
    stamp = Stamp(run_id=context.run_id, asset="user_files", code_version=__version__)
    outcomes = ingest_user_landing(platform.accounts, platform.lake, stamp=stamp)
    reports = [outcome.report for outcome in outcomes if outcome.report is not None]
    context.add_output_metadata(
        {
            "files": len(outcomes),
            "files_waiting": sum(outcome.status == "waiting" for outcome in outcomes),
            "files_rejected": sum(outcome.status == "rejected" for outcome in outcomes),
            "events_read": sum(report.read for report in reports),
            "events_applied": sum(report.applied for report in reports),
            "events_repeated": sum(report.repeated for report in reports),
            "events_rejected": sum(report.rejected for report in reports),
        }
    )


@dg.job(description="Ingest the files of user events that wait in <landing>/users.")
def user_files() -> None:
    """Apply user events from elsewhere."""
    ingest_user_files()


JOBS: list[Any] = [publish, integrity, user_files]

SCHEDULES = [
    whole_schedule("accounts_integrity_daily", "accounts_integrity", "45 1 * * *"),
]
