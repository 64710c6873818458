"""Nightly maintenance of every table, and the weekly deep quality run."""

import dagster as dg

from assets import pictures
from assets.quality import CHECKS
from hfthot_platform.core.errors import ClockError, LakehouseError
from hfthot_platform.storage.incidents import Incident, notify, record
from hfthot_platform.storage.lakehouse import MaintenanceReport, Stamp, check_clock, maintain, sweep_scratch
from hfthot_platform.storage.lakehouse.maintenance import MOST_EXPIRED
from jobs.common import whole_schedule
from resources.platform import Platform

__all__ = ["SCHEDULES", "deep_quality", "maintenance"]


@dg.op(
    description="Compact, checkpoint, vacuum and clean the log of every table, each under its writers' lock.",
    pool="maintenance",
)
def maintain_tables(context: dg.OpExecutionContext, platform: dg.ResourceParam[Platform]) -> None:
    """Maintain table after table; one that fails does not keep the others waiting, but fails the run."""
    _require_clock(context, platform)
    failed, withheld = [], []
    for table in platform.lake.tables():
        name = table.contract.name
        try:
            report = maintain(platform.lake, name, stamp=Stamp(run_id=context.run_id, asset="maintenance"))
        except LakehouseError as error:
            failed.append(name)
            context.log.error("%s", error)  # noqa: TRY400 - Dagster shows the message; the trace adds nothing
            continue
        if report.oldest_readable is None:
            continue
        if report.rows_withheld:
            withheld.append(report)
        context.log_event(
            dg.AssetObservation(
                asset_key=dg.AssetKey(name.split(".")),
                metadata={
                    "bytes_before": report.bytes_before,
                    "bytes_after": report.bytes_after,
                    "files_before": report.files_before,
                    "files_after": report.files_after,
                    "files_compacted": report.files_compacted,
                    "files_vacuumed": report.files_vacuumed,
                    "log_entries_removed": report.log_entries_removed,
                    "leftovers_removed": report.leftovers_removed,
                    "rows_expired": report.rows_expired,
                    "rows_withheld": report.rows_withheld,
                    "oldest_readable_version": report.oldest_readable,
                    "seconds": round(report.seconds, 3),
                },
            )
        )
    for report in withheld:
        _raise_incident(context, platform, report)
    swept = sweep_scratch(platform.settings.scratch, platform.clock())
    context.log.info("%d abandoned folders removed from the scratch space", swept)
    context.log.info("%d old pictures removed from the reports", pictures.remove_old(platform))
    if failed:
        raise dg.Failure(f"maintenance failed for {', '.join(failed)}", metadata={"tables": ", ".join(failed)})


def _require_clock(context: dg.OpExecutionContext, platform: Platform) -> None:
    """Fail the run, with an incident, before anything is removed for its age under a clock that leapt ahead."""
    try:
        check_clock(platform.lake)
    except ClockError as error:
        now = platform.clock()
        incident = Incident(
            f"clock-maintenance-{now:%Y-%m-%d}",
            now,
            "error",
            "clock",
            job="maintenance",
            run_id=context.run_id,
            step="maintain_tables",
            message=str(error),
        )
        record(platform.lake, incident)
        notify(platform.settings, incident)
        raise dg.Failure(f"ClockError: {error}", allow_retries=False) from None


def _raise_incident(context: dg.OpExecutionContext, platform: Platform, report: MaintenanceReport) -> None:
    """Tell that rows past their retention stayed: a clock or a contract may be wrong, so somebody has to look."""
    now = platform.clock()
    incident = Incident(
        # Once a day and table, however often the job runs.
        incident_id=f"retention_blocked:{report.table}:{now:%Y-%m-%d}",
        ts=now,
        severity="error",
        kind="retention_blocked",
        job="maintenance",
        run_id=context.run_id,
        message=f"{report.table}: {report.rows_withheld:,} rows are past their retention, more than {MOST_EXPIRED:.0%} "
        f"of the table; they stay until `hfthot maintain {report.table} --yes`.",
    )
    record(platform.lake, incident)
    notify(platform.settings, incident)
    context.log.error("%s", incident.message)


@dg.job(description="Keep every table small and fast.")
def maintenance() -> None:
    """Run the nightly maintenance."""
    maintain_tables()


deep_quality = dg.define_asset_job(
    "deep_quality",
    selection=dg.AssetSelection.checks(*(key for check in CHECKS for key in check.check_keys)),
    description="Every quality check over every table, with Great Expectations' result pages.",
)

SCHEDULES = [
    whole_schedule("maintenance_nightly", "maintenance", "0 3 * * *"),
    whole_schedule("deep_quality_weekly", "deep_quality", "0 4 * * 0"),
]
