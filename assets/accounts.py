"""The user tables as assets: the change log of the accounts, published; and the checks of what is published.

Metadata, checks and logs hold versions, counts, sizes and times; never a value, never an identifier.
"""

from collections.abc import Iterator, Mapping
from datetime import timedelta
from typing import Any, Final

import dagster as dg

from assets.common import RULES, asset_key, published, rule_check, static_metadata, table_rows
from hfthot_platform.core.version import __version__
from hfthot_platform.domain.contracts.accounts import USER_TABLES
from hfthot_platform.services.publication.publisher import Published, Publisher
from hfthot_platform.services.quality import CheckOutcome
from hfthot_platform.services.quality.accounts import ScanState, account_checks_of, run_account_checks
from hfthot_platform.storage.lakehouse import Stamp
from resources.platform import NO_ACCOUNTS, Platform

__all__ = ["ASSETS", "CHECKS", "POOL", "TABLES"]

#: Names of the user tables, which are also their asset keys.
TABLES: Final = tuple(contract.name for contract in USER_TABLES)
#: Publications take turns.
POOL: Final = "accounts"
#: The log is published within a minute of a change, and once a day whether or not there was one.
_FRESH: Final = timedelta(hours=26)


@dg.multi_asset(
    name="user_tables",
    specs=[
        dg.AssetSpec(
            asset_key(contract.name),
            group_name="accounts",
            description=contract.description,
            kinds={"deltalake", "polars"},
            metadata=static_metadata(contract),
            # Without accounts there is nothing to publish.
            skippable=True,
            freshness_policy=dg.FreshnessPolicy.time_window(fail_window=_FRESH, warn_window=_FRESH * 2 / 3),
        )
        for contract in USER_TABLES
    ],
    check_specs=[rule_check(contract) for contract in USER_TABLES],
    pool=POOL,
    retry_policy=dg.RetryPolicy(max_retries=3, delay=5, backoff=dg.Backoff.EXPONENTIAL, jitter=dg.Jitter.FULL),
)
def user_tables(
    context: dg.AssetExecutionContext, platform: dg.ResourceParam[Platform]
) -> Iterator[dg.AssetCheckResult | dg.MaterializeResult[None]]:
    """Publish what the change log holds, in order; an entry that breaks a contract is set aside, the others go on."""
    if not platform.has_accounts:
        context.log.info(NO_ACCOUNTS)
        yield from (_rules_result(name, passed=True, description=NO_ACCOUNTS) for name in TABLES)
        return
    publisher = Publisher(platform.store, platform.lake)
    done = publisher.publish(stamp=Stamp(run_id=context.run.run_id, code_version=__version__))
    waiting = platform.store.waiting_aside()
    for name in TABLES:
        aside = [entry for entry in waiting if entry.table == name]
        if aside:
            first = aside[0]
            # The reason names table and rule, and no value.
            says = f"{len(aside):,} entries are set aside; the first is entry {first.entry.seq}: {first.reason}."
        else:
            says = f"{done.entries:,} entries meet the contract."
        yield _rules_result(name, passed=not aside, description=says)
    for name in TABLES:
        yield _materialized(context, platform, name, done)


def _rules_result(table: str, *, passed: bool, description: str) -> dg.AssetCheckResult:
    return dg.AssetCheckResult(
        check_name=RULES,
        asset_key=asset_key(table),
        passed=passed,
        # What waits does not keep the rest from going on.
        severity=dg.AssetCheckSeverity.WARN,
        description=description,
    )


def _materialized(
    context: dg.AssetExecutionContext, platform: Platform, name: str, done: Published
) -> dg.MaterializeResult[None]:
    commits = [commit for commit in done.commits if commit.table == name]
    result = published(context, platform.lake.table(name), commits)
    counts = {"entries": done.entries, "rows_forgotten": sum(commit.rows_forgotten for commit in commits)}
    return result._replace(metadata={**(result.metadata or {}), **counts})


def _table_checks(name: str) -> dg.AssetChecksDefinition:
    declared = next(contract for contract in USER_TABLES if contract.name == name)
    specs = [
        dg.AssetCheckSpec(check.name, asset=asset_key(name), description=check.description)
        for check in account_checks_of(declared)
    ]

    @dg.multi_asset_check(name=f"{name}_integrity", specs=specs, pool=POOL)
    def integrity(
        context: dg.AssetCheckExecutionContext, platform: dg.ResourceParam[Platform]
    ) -> Iterator[dg.AssetCheckResult]:
        del context
        if not platform.has_accounts:
            for check in account_checks_of(declared):
                yield _check_result(name, CheckOutcome(check.name, True, check.severity, NO_ACCOUNTS, {}, (name,)))
            return
        state = ScanState(platform.settings.accounts / "plaintext_scan.json")
        # While a publisher is between two tables, they do not agree.
        with Publisher(platform.store, platform.lake).alone():
            outcomes = list(run_account_checks(platform.lake, name, state.load()))
        for outcome in outcomes:
            scanned = outcome.observed.get("scanned")
            if outcome.passed and isinstance(scanned, dict):
                state.save({table: version for table, version in scanned.items() if isinstance(version, int)})
            yield _check_result(name, outcome)

    return integrity


def _check_result(name: str, outcome: CheckOutcome) -> dg.AssetCheckResult:
    return dg.AssetCheckResult(
        asset_key=asset_key(name),
        check_name=outcome.name,
        passed=outcome.passed,
        severity=dg.AssetCheckSeverity.ERROR,
        description=outcome.description,
        metadata=_check_metadata(outcome.observed),
    )


def _check_metadata(observed: Mapping[str, Any]) -> dict[str, Any]:
    shown = {}
    for key, value in observed.items():
        if key == "findings":
            shown[key] = table_rows(value)
        else:
            shown[key] = dg.MetadataValue.json(value) if isinstance(value, dict | list) else value
    return shown


#: All assets of the accounts, and their stand-alone checks.
ASSETS: Final = [user_tables]
CHECKS: Final = [_table_checks(name) for name in TABLES]
