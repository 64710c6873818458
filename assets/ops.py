"""The platform's own work: the landing folder."""

from collections.abc import Iterator
from typing import Final

import dagster as dg

from assets.common import DAILY, RULES, asset_key, published, static_metadata, table_rows
from hfthot_platform.core.time import ONE_DAY
from hfthot_platform.domain.contracts import contract
from hfthot_platform.services.ingest import FileOutcome, incident_of, ingest_waiting
from hfthot_platform.services.ingest.records import FileRecord
from hfthot_platform.storage.incidents import notify, record
from resources.platform import Platform

__all__ = ["ASSETS", "announcements"]


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
            description="No file was rejected; a rejected file is in `rejected/` with its reason.",
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
        if by_hand := _to_derive_by_hand(outcome):
            context.log.warning(by_hand)
        for event in announcements(outcome, table=outcome.table, run_id=context.run.run_id):
            # At once, so that a run that dies before its end has told of what it published.
            context.instance.report_runless_asset_event(event)
        if outcome.status == "rejected":
            incident = incident_of(outcome, platform.clock(), stamp, job=context.job_name)
            record(platform.lake, incident)
            notify(platform.settings, incident)

    outcomes = ingest_waiting(platform.lake, platform.settings, now=platform.clock(), stamp=stamp, on_outcome=report)
    yield from _checks_of_outcomes(outcomes)
    result = published(context, platform.lake.table("ops.ingest_files"), [])
    facts: list[dict[str, str | int]] = [
        {
            "file": outcome.name,
            "status": outcome.status,
            "reason": outcome.reason or "",
            "adapter": outcome.adapter or "",
            "read": outcome.rows_read,
            "published": outcome.rows_published,
            "duplicate": outcome.rows_duplicate,
            "quarantined": outcome.rows_quarantined,
            "gaps": outcome.rows_gaps,
            "to do": _to_derive_by_hand(outcome),
        }
        for outcome in outcomes
    ]
    yield result._replace(metadata={**(result.metadata or {}), "files": table_rows(facts), "count": len(facts)})


def announcements(
    file: FileOutcome | FileRecord, *, table: str | None, run_id: str
) -> list[dg.AssetMaterialization | dg.AssetCheckEvaluation]:
    """Return the events that tell the graph which days of a table have other rows, and that they passed its rules.

    What is computed from the table follows an announced day only where the check that gates publication passed.
    """
    days = [day.isoformat() for day in sorted(file.days) if DAILY.has_partition_key(day.isoformat())]
    if table is None or not days:
        return []
    key = asset_key(table)
    about = {"origin": "file", "file": file.name, "run": run_id}
    check = dg.AssetCheckEvaluation(
        asset_key=key,
        check_name=RULES,
        passed=True,
        severity=dg.AssetCheckSeverity.ERROR,
        description="Every published row of a file met the contract.",
        metadata={name: dg.MetadataValue.text(value) for name, value in about.items()},
        blocking=True,
    )
    # The check after the days: it counts for the newest materialisation only if it came later.
    return [*(dg.AssetMaterialization(key, partition=day, metadata=about) for day in days), check]


#: Which tables are computed from a table, in the order in which they are.
_COMPUTED: Final = {
    "market.trades": ("market.bars_1m", "market.bars", "market.closes"),
    "market.bars_1m": ("market.bars", "market.closes"),
    "market.bars": ("market.closes",),
}


def _to_derive_by_hand(file: FileOutcome) -> str:
    """Return the commands for a file's days before the first partition, of which the graph is told nothing; or ''."""
    first = DAILY.start.date()
    older = sorted(day for day in file.days if day < first)
    tables = _COMPUTED.get(file.table or "", ())
    if not older or not tables:
        return ""
    span = f"{older[0]} {older[-1] + ONE_DAY}"
    commands = "; ".join(f"`hfthot derive {table} {span}`" for table in tables)
    return f"{file.name}: {len(older):,} days before {first} are not partitions. Run {commands}."


def _checks_of_outcomes(outcomes: list[FileOutcome]) -> Iterator[dg.AssetCheckResult]:
    wrong = [outcome.name for outcome in outcomes if not outcome.adds_up]
    yield dg.AssetCheckResult(
        check_name="counts_add_up",
        asset_key=asset_key("ops.ingest_files"),
        passed=not wrong,
        metadata={"files": len(outcomes), "files_whose_counts_differ": len(wrong)},
    )
    rejected = [outcome for outcome in outcomes if outcome.status == "rejected"]
    rows = [
        {"file": outcome.name, "reason": outcome.reason or "", "detail": outcome.detail or ""} for outcome in rejected
    ]
    yield dg.AssetCheckResult(
        check_name="files_accepted",
        asset_key=asset_key("ops.ingest_files"),
        passed=not rejected,
        description=f"{len(rejected)} of {len(outcomes)} files were rejected." if rejected else None,
        metadata={"files": len(outcomes), "rejected": table_rows(rows)},
    )


#: All assets of the platform's own work.
ASSETS = [ingest_files]
