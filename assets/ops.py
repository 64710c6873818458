"""The platform's own work: the landing folder."""

from collections.abc import Iterator

import dagster as dg

from assets.common import asset_key, published, static_metadata, table_rows
from hfthot_platform.contracts import contract
from hfthot_platform.ingest import FileOutcome, ingest_landing
from resources.platform import Platform

__all__ = ["ASSETS"]


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
            description="Rows read = published + duplicate + quarantined, for every file.",
        )
    ],
    metadata=static_metadata(contract("ops.ingest_files")),
)
def ingest_files(
    context: dg.AssetExecutionContext, platform: dg.ResourceParam[Platform]
) -> Iterator[dg.AssetMaterialization | dg.AssetCheckResult | dg.MaterializeResult[None]]:
    """Ingest the landing folder, and tell the graph which days of which tables have new rows."""
    outcomes = ingest_landing(
        platform.lake,
        platform.settings.landing,
        now=platform.clock(),
        settle_seconds=platform.settings.landing_settle_seconds,
        stamp=platform.stamp(context),
    )
    for table, days in _days_by_table(outcomes).items():
        for day in sorted(days):
            # The rows are published by now; the event makes everything downstream of that day follow.
            context.log_event(
                dg.AssetMaterialization(asset_key(table), partition=day, metadata={"origin": "landing folder"})
            )
    yield _account(outcomes)
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
        }
        for each in outcomes
    ]
    yield result._replace(metadata={**(result.metadata or {}), "files": table_rows(facts), "count": len(facts)})


def _days_by_table(outcomes: list[FileOutcome]) -> dict[str, set[str]]:
    days: dict[str, set[str]] = {}
    for each in outcomes:
        if each.table:
            days.setdefault(each.table, set()).update(day.isoformat() for day in each.days)
    return days


def _account(outcomes: list[FileOutcome]) -> dg.AssetCheckResult:
    wrong = [
        each.name
        for each in outcomes
        if each.rows_read != each.rows_published + each.rows_duplicate + each.rows_quarantined
    ]
    return dg.AssetCheckResult(
        check_name="counts_add_up",
        asset_key=asset_key("ops.ingest_files"),
        passed=not wrong,
        metadata={"files": len(outcomes), "files_whose_counts_differ": len(wrong)},
    )


#: All assets of the platform's own work.
ASSETS = [ingest_files]
