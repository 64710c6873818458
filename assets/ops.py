"""The platform's own work: the landing folder."""

from collections.abc import Iterator

import dagster as dg

from assets.common import RULES, asset_key, published, rules_in_words, static_metadata, table_rows
from hfthot_platform.contracts import contract
from hfthot_platform.incidents import notify, record
from hfthot_platform.ingest import FileOutcome, incident_of, ingest_landing
from resources.platform import Platform

__all__ = ["ASSETS", "announce"]


@dg.asset(
    key=asset_key("ops.ingest_files"),
    group_name="ops",
    description=contract("ops.ingest_files").description,
    kinds={"deltalake"},
    pool="landing",
    check_specs=[
        dg.AssetCheckSpec(
            "counts_add_up",
            asset=asset_key("ops.ingest_files"),
            description="Rows read = published + duplicate + quarantined + gaps, for every file.",
        ),
        dg.AssetCheckSpec(
            "files_accepted",
            asset=asset_key("ops.ingest_files"),
            description="No file was rejected; a rejected one lies in `rejected/` with its reason.",
        ),
    ],
    metadata=static_metadata(contract("ops.ingest_files")),
)
def ingest_files(
    context: dg.AssetExecutionContext, platform: dg.ResourceParam[Platform]
) -> Iterator[dg.AssetCheckResult | dg.MaterializeResult[None]]:
    """Ingest the landing folder, tell the graph which days of which tables have new rows, and report rejections."""
    stamp = platform.stamp(context)

    def report(outcome: FileOutcome) -> None:
        announce(context.instance, outcome, run_id=context.run.run_id)
        if outcome.status == "rejected":
            incident = incident_of(outcome, platform.clock(), stamp, job=context.job_name)
            record(platform.lake, incident)
            notify(platform.settings, incident)

    outcomes = ingest_landing(
        platform.lake,
        platform.settings.landing,
        now=platform.clock(),
        settle_seconds=platform.settings.landing_settle_seconds,
        scratch=platform.settings.scratch,
        stamp=stamp,
        on_outcome=report,
    )
    yield from _checks(outcomes)
    result = published(context, platform.lake.table("ops.ingest_files"), [])
    facts: list[dict[str, str | int]] = [
        {
            "file": each.name,
            "status": each.status,
            "reason": each.reason or "",
            "adapter": each.adapter or "",
            "read": each.rows_read,
            "published": each.rows_published,
            "duplicate": each.rows_duplicate,
            "quarantined": each.rows_quarantined,
            "gaps": each.rows_gaps,
        }
        for each in outcomes
    ]
    yield result._replace(metadata={**(result.metadata or {}), "files": table_rows(facts), "count": len(facts)})


def announce(instance: dg.DagsterInstance, outcome: FileOutcome, *, run_id: str) -> None:
    """Tell the graph that days of a table have other rows, and that these passed the table's rules.

    What is computed from the table follows an announced day only where the check that gates publication passed.
    """
    if outcome.table is None or not outcome.days:
        return
    key = asset_key(outcome.table)
    about = {"origin": "file", "file": outcome.name, "delta_version": outcome.version, "run": run_id}
    for day in sorted(outcome.days):
        event = dg.AssetMaterialization(key, partition=day.isoformat(), metadata=about)
        instance.report_runless_asset_event(event)
    check = dg.AssetCheckEvaluation(
        asset_key=key,
        check_name=RULES,
        passed=True,
        severity=dg.AssetCheckSeverity.ERROR,
        description=rules_in_words(outcome.rows_read, outcome.rows_quarantined, publishable=True),
        metadata={"origin": dg.MetadataValue.text("file"), "file": dg.MetadataValue.text(outcome.name)},
        blocking=True,
    )
    # After the days: a check counts for the newest materialisation only if it came later.
    instance.report_runless_asset_event(check)


def _checks(outcomes: list[FileOutcome]) -> Iterator[dg.AssetCheckResult]:
    wrong = [each.name for each in outcomes if not each.adds_up]
    yield dg.AssetCheckResult(
        check_name="counts_add_up",
        asset_key=asset_key("ops.ingest_files"),
        passed=not wrong,
        metadata={"files": len(outcomes), "files_whose_counts_differ": len(wrong)},
    )
    rejected = [each for each in outcomes if each.status == "rejected"]
    rows = [{"file": each.name, "reason": each.reason or "", "detail": each.detail or ""} for each in rejected]
    yield dg.AssetCheckResult(
        check_name="files_accepted",
        asset_key=asset_key("ops.ingest_files"),
        passed=not rejected,
        description=f"{len(rejected)} of {len(outcomes)} files were rejected." if rejected else None,
        metadata={"files": len(outcomes), "rejected": table_rows(rows)},
    )


#: All assets of the platform's own work.
ASSETS = [ingest_files]
