"""The check that proves the audit log whole."""

import dagster as dg

from assets.common import asset_key
from hfthot_platform.domain.contracts.accounts import AUDIT_LOG
from hfthot_platform.services.privacy.evidence import check_log
from resources.platform import NO_ACCOUNTS, Platform

__all__ = ["CHAIN"]

_MOST_SHOWN = 10


@dg.asset_check(
    asset=asset_key(AUDIT_LOG.name),
    name="chain",
    description="No entry was altered, dropped, inserted or moved, across erasures and retention; exported heads fit.",
)
def CHAIN(  # noqa: N802 - a definition, as everywhere in this package
    context: dg.AssetCheckExecutionContext, platform: dg.ResourceParam[Platform]
) -> dg.AssetCheckResult:
    """Follow the hashes from the anchor to the newest entry of the store."""
    del context
    if not platform.has_accounts:
        return dg.AssetCheckResult(passed=True, description=NO_ACCOUNTS)
    report = check_log(platform.accounts, platform.lake)
    shown = "; ".join(str(problem) for problem in report.problems[:_MOST_SHOWN])
    return dg.AssetCheckResult(
        passed=report.intact,
        severity=dg.AssetCheckSeverity.ERROR,
        description=shown or f"{report.entries + report.pending:,} entries follow from each other.",
        metadata={
            "entries": report.entries,
            "pending": report.pending,
            "redacted": report.redacted,
            "anchor_seq": report.anchor_seq,
            "head_seq": report.head_seq,
            "exported_heads": report.exported_heads,
            "lost": report.lost,
            "problems": len(report.problems),
            "seconds": round(report.seconds, 3),
        },
    )
