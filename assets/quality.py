"""Asset checks generated from the contracts: table-level quality, and the Great Expectations suites.

They look at what is published.  The gate before publication is each asset's own blocking check.
"""

from collections.abc import Iterator
from datetime import date, timedelta
from typing import Final

import dagster as dg
import polars as pl

from assets.common import asset_key, table_rows
from hfthot_platform.core.time import ONE_DAY
from hfthot_platform.domain.contracts import CONTRACTS, TableContract
from hfthot_platform.services.quality import CheckOutcome, checks_of, run_checks, validate, write_report
from resources.platform import Platform

__all__ = ["CHECKS", "EXPECTATIONS"]

#: Name of the check that runs the Great Expectations suite.
EXPECTATIONS: Final = "great_expectations"
#: The tables that have an asset; quarantine and records are not checked like data.
_CHECKED: Final = tuple(declared for declared in CONTRACTS.values() if declared.namespace == "market")
#: How far back the deep checks look by default, counted from a table's newest row.
_WINDOW: Final = timedelta(days=400)


def _checked_span(platform: Platform, declared: TableContract) -> tuple[date, date] | None:
    """Return the stretch of a table that is checked: a bounded one, so that a check of years stays quick."""
    if declared.time_column is None:
        return None
    rows = platform.lake.table(declared.name).scan()
    newest = rows.select(pl.col(declared.time_column).max().cast(pl.Date)).collect().item()
    if newest is None:
        return None
    end = newest + ONE_DAY
    return end - _WINDOW, end


def _table_checks(declared: TableContract) -> dg.AssetChecksDefinition:
    specs = [
        dg.AssetCheckSpec(check.name, asset=asset_key(declared.name), description=check.description)
        for check in checks_of(declared)
    ]

    @dg.multi_asset_check(name=f"{declared.name.replace('.', '_')}_quality", specs=specs)
    def quality(
        context: dg.AssetCheckExecutionContext, platform: dg.ResourceParam[Platform]
    ) -> Iterator[dg.AssetCheckResult]:
        del context
        allowed = timedelta(hours=platform.settings.stale_after_hours)
        outcomes = run_checks(
            platform.lake, declared.name, _checked_span(platform, declared), platform.clock(), allowed_delay=allowed
        )
        for outcome in outcomes:
            yield _check_result(declared, outcome)

    return quality


def _check_result(declared: TableContract, outcome: CheckOutcome) -> dg.AssetCheckResult:
    error = outcome.severity == "error"
    return dg.AssetCheckResult(
        asset_key=asset_key(declared.name),
        check_name=outcome.name,
        passed=outcome.passed,
        severity=dg.AssetCheckSeverity.ERROR if error else dg.AssetCheckSeverity.WARN,
        description=outcome.description,
        metadata={
            name: dg.MetadataValue.json(value) if isinstance(value, list | dict) else value
            for name, value in outcome.observed.items()
        },
    )


def _expectations_check(declared: TableContract) -> dg.AssetChecksDefinition:
    spec = dg.AssetCheckSpec(
        EXPECTATIONS,
        asset=asset_key(declared.name),
        description="The Great Expectations suite made from the contract, on the newest rows; writes a result page.  "
        "Evaluated once a week, or on demand; not by a run that materialises its table.",
    )

    @dg.multi_asset_check(name=f"{declared.name.replace('.', '_')}_{EXPECTATIONS}", specs=[spec], can_subset=True)
    def great_expectations(
        context: dg.AssetCheckExecutionContext, platform: dg.ResourceParam[Platform]
    ) -> Iterator[dg.AssetCheckResult]:
        if context.job_def.asset_layer.selected_asset_keys:
            # Dagster adds an asset's checks to each run that materialises it.  What this one would say of the rows, the
            # audit has said before they were committed.
            context.log.info("%s: its last result stands; the next is due with deep_quality", declared.name)
            return
        result = validate(declared, platform.lake.table(declared.name).scan())
        page = write_report(result, platform.reports)
        yield dg.AssetCheckResult(
            asset_key=asset_key(declared.name),
            check_name=EXPECTATIONS,
            passed=result.passed,
            severity=dg.AssetCheckSeverity.ERROR,
            description=result.scope,
            metadata={
                **result.statistics,
                # A browser does not open files from a page of the UI, so what the page says is shown here too.
                "result_page": dg.MetadataValue.url(page) if "://" in page else dg.MetadataValue.path(page),
                "failed": dg.MetadataValue.md("\n".join(f"- {reason}" for reason in result.failed) or "none"),
                "expectations": table_rows(
                    {
                        "expectation": outcome.says,
                        "passed": outcome.passed,
                        "rows that break it": outcome.unexpected or 0,
                        "type": outcome.expectation,
                    }
                    for outcome in result.expectations
                ),
            },
        )

    return great_expectations


#: Every stand-alone check.
CHECKS: Final = [make(declared) for declared in _CHECKED for make in (_table_checks, _expectations_check)]
