"""What all table assets share: partitions, check specs, metadata, and the policies, applied in one place."""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from datetime import date, datetime, timedelta
from typing import Any, Final

import dagster as dg
import polars as pl

from assets import pictures
from assets.conditions import FOLLOWS_CHECKED_INPUTS
from hfthot_platform.core.errors import CommitConflictError, LockTimeoutError, SourceUnavailableError
from hfthot_platform.domain.contracts import Column, TableContract, contract
from hfthot_platform.storage.lakehouse import Audited, Commit, Staging, Table
from resources.platform import Platform

__all__ = [
    "DAILY",
    "RULES",
    "YESTERDAY",
    "asset_key",
    "columns_metadata",
    "publish_days",
    "published",
    "rule_check",
    "rule_results",
    "static_metadata",
    "table_asset",
    "table_rows",
]


class DailyPartitionsDefinition(dg.DailyPartitionsDefinition):
    """Daily partitions whose keys are counted: Dagster asks for all of them in every run, by cron 0.2 s each time."""

    def get_partition_keys(
        self, current_time: datetime | None = None, dynamic_partitions_store: Any = None
    ) -> Sequence[str]:
        """Return the keys of all days, oldest first."""
        with dg.partition_loading_context(current_time, dynamic_partitions_store):
            last = self.get_last_partition_key()
        if last is None:
            return []
        first = self.start.date()
        return [(first + timedelta(days=k)).isoformat() for k in range((date.fromisoformat(last) - first).days + 1)]


#: One partitioning for all daily tables, so that partitions map one to one.  From 1970 on it has 20,800 days (2026);
#: the UI slows down from about 25,000.  Older days are derived by `hfthot derive`.
#: The present day is a partition too: forecasts and regimes of today are made while it lasts.
DAILY: Final = DailyPartitionsDefinition(start_date="1970-01-01", timezone="UTC", end_offset=1)
#: For an asset that reads what it made the day before.
YESTERDAY: Final = dg.TimeWindowPartitionMapping(
    start_offset=-1, end_offset=-1, allow_nonexistent_upstream_partitions=True
)
#: Name of the blocking check on a contract's rules.
RULES: Final = "contract_rules"

_RETRY: Final = dg.RetryPolicy(max_retries=3, delay=2, backoff=dg.Backoff.EXPONENTIAL, jitter=dg.Jitter.FULL)


def asset_key(table: str) -> dg.AssetKey:
    """Return the asset key of a table: `market.trades` is `market/trades`."""
    return dg.AssetKey(table.split("."))


def table_asset(
    table: str,
    *,
    deps: Sequence[str | dg.AssetDep] = (),
    lineage: Mapping[str, Sequence[tuple[str, str]]] | None = None,
    retries: bool = False,
    fresh_within: timedelta | None = None,
    partitioned: bool = True,
    follows: bool = True,
    declared: TableContract | None = None,
    automation: dg.AutomationCondition[dg.AssetKey] = FOLLOWS_CHECKED_INPUTS,
    checks: Sequence[dg.AssetCheckSpec] = (),
    owners: Sequence[str] = (),
    tags: Mapping[str, str] | None = None,
    kinds: Iterable[str] = ("deltalake", "polars"),
) -> Callable[[Callable[..., Any]], dg.AssetsDefinition]:
    """Declare the asset that fills a table, with everything that follows from the table's contract.

    Args:
        table: the table's name.
        deps: tables (or ready dependencies) that it is computed from; with any, it follows them by itself.
        lineage: input columns (table, column) per column.
        retries: whether it reads a source that may fail for a while.
        fresh_within: how old the newest materialisation may be.
        partitioned: by day, with a whole backfill in one run; otherwise the table is made as a whole.
        follows: materialise when an input was published again; otherwise only on schedule.
        declared: its contract, where it is not one of the platform's own.
        automation: the condition by which it follows its inputs.
        checks: further checks that its body yields, beside the one on the contract's rules.
        owners: teams (`team:research`) or e-mail addresses.
        tags: tags of the asset.
        kinds: what it is made with, as the UI shows it.
    """
    declared = declared or contract(table)
    decorate = dg.asset(
        key=asset_key(table),
        group_name=declared.namespace,
        description=declared.description,
        deps=[asset_key(dep) if isinstance(dep, str) else dep for dep in deps],
        partitions_def=DAILY if partitioned else None,
        backfill_policy=dg.BackfillPolicy.single_run() if partitioned else None,
        automation_condition=automation if deps and follows else None,
        retry_policy=_RETRY if retries else None,
        freshness_policy=(
            dg.FreshnessPolicy.time_window(fail_window=fresh_within, warn_window=fresh_within * 2 / 3)
            if fresh_within
            else None
        ),
        # Tables are merged into or replaced in part: their writers take turns.
        pool=table.replace(".", "_"),
        kinds=set(kinds),
        owners=list(owners),
        tags=dict(tags or {}),
        check_specs=[rule_check(declared), *checks],
        output_required=False,
        metadata=static_metadata(declared, lineage),
    )
    return lambda body: decorate(_retried_only_if_transient(body) if retries else body)


def _retried_only_if_transient(body: Callable[..., Iterator[Any]]) -> Callable[..., Iterator[Any]]:
    """Let the retry policy see only what may pass: trying a wrong computation again wastes the source's time."""

    @functools.wraps(body)
    def guarded(*args: Any, **kwargs: Any) -> Iterator[Any]:
        try:
            yield from body(*args, **kwargs)
        except (SourceUnavailableError, CommitConflictError, LockTimeoutError):
            raise
        except Exception as error:
            raise dg.Failure(f"{type(error).__name__}: {error}", allow_retries=False) from error

    return guarded


def rule_check(declared: TableContract) -> dg.AssetCheckSpec:
    """Return the spec of the check that gates publication."""
    share = f"{declared.max_rejected_share:.0%}"
    return dg.AssetCheckSpec(
        RULES,
        asset=asset_key(declared.name),
        blocking=True,
        description=f"Every row meets the contract; nothing is published when more than {share} do not.",
    )


def static_metadata(
    declared: TableContract, lineage: Mapping[str, Sequence[tuple[str, str]]] | None = None
) -> dict[str, Any]:
    """Return what the UI shows of a table before it is ever materialised: name, columns, key, column lineage."""
    return columns_metadata(declared.name, declared.columns, lineage, key=declared.primary_key) | {
        "schema_version": declared.schema_version,
        "primary_key": ", ".join(declared.primary_key),
    }


def columns_metadata(
    name: str,
    columns: Iterable[Column],
    lineage: Mapping[str, Sequence[tuple[str, str]]] | None = None,
    *,
    key: Sequence[str] = (),
) -> dict[str, Any]:
    """Return what the UI shows of a table's or view's columns: types, meanings, and where they come from."""
    schema = [
        dg.TableColumn(
            column.name,
            str(column.dtype),
            f"{column.description}{f' [{column.unit}]' if column.unit else ''}",
            constraints=dg.TableColumnConstraints(nullable=column.nullable),
            tags={"primary_key": ""} if column.name in key else None,
        )
        for column in columns
    ]
    metadata: dict[str, Any] = {
        "dagster/table_name": name,
        "dagster/column_schema": dg.TableSchema(columns=schema),
    }
    if lineage:
        metadata["dagster/column_lineage"] = dg.TableColumnLineage(
            {
                column: [dg.TableColumnDep(asset_key(table), source) for table, source in sources]
                for column, sources in lineage.items()
            }
        )
        # The graph of columns needs Dagster's paid plan; this shows on the asset's page without it.
        metadata["column_lineage"] = dg.MetadataValue.md(
            "\n".join(
                ["| column | comes from |", "|---|---|"]
                + [
                    f"| `{column}` | {', '.join(f'`{table}.{source}`' for table, source in sources)} |"
                    for column, sources in lineage.items()
                    if sources
                ]
            )
        )
    return metadata


def rule_results(audited: Audited | Staging) -> Iterator[dg.AssetCheckResult]:
    """Yield the outcome of the gate: which rule rejected how many rows, and whether the rest may go out."""
    rejected = audited.rejected if isinstance(audited, Staging) else audited.rejected.height
    declared = audited.table.contract if isinstance(audited, Staging) else audited.contract
    broken = [result for result in audited.results if not result.passed]
    yield dg.AssetCheckResult(
        check_name=RULES,
        asset_key=asset_key(declared.name),
        passed=audited.publishable,
        severity=dg.AssetCheckSeverity.ERROR,
        description=_in_words(audited.read, rejected, publishable=audited.publishable),
        metadata={
            "rows_read": audited.read,
            "rows_rejected": rejected,
            "allowed_share": declared.max_rejected_share,
            "rules_checked": len(audited.results),
        }
        # The others are in the contract: they need not be told again in each event.
        | (
            {"broken_rules": table_rows({"rule": rule.says, "violations": rule.violations} for rule in broken)}
            if broken
            else {}
        ),
    )


def _in_words(read: int, rejected: int, *, publishable: bool) -> str:
    if not rejected:
        return f"All {read:,} rows meet the contract."
    if publishable:
        return f"{rejected:,} of {read:,} rows were quarantined; the rest is published."
    return f"{rejected:,} of {read:,} rows break the contract: nothing was published."


def published(
    context: dg.AssetExecutionContext,
    table: Table,
    commits: Sequence[Commit],
    pictures: Mapping[str, str] | None = None,
    *,
    failed: Sequence[tuple[str, str]] = (),
) -> dg.MaterializeResult[None]:
    """Return the result of a publication: its account, the table's size, and pictures.

    A run over many partitions makes one event for each of them, every one with the result's metadata.  What is
    large or true of the whole run only goes to the event of the last partition, and never to the step's output, which
    Dagster stores beside it.  `failed` are series without a result, with the reason.
    """
    size, files = table.bytes_and_files()
    rows = sum(commit.rows_published for commit in commits)
    key = asset_key(table.contract.name)
    version = commits[-1].version if commits else table.version()
    everywhere: dict[str, Any] = {
        "delta_version": version,
        "changed": any(commit.changed for commit in commits),
        "dagster/uri": table.uri if "://" in table.uri else f"file://{table.uri}",
    }
    account: dict[str, Any] = {
        "rows_published": rows,
        "rows_updated": sum(commit.rows_updated for commit in commits),
        "rows_duplicate": sum(commit.rows_duplicate for commit in commits),
        "rows_quarantined": sum(commit.rows_quarantined for commit in commits),
        "bytes_written": sum(commit.bytes_added for commit in commits),
        "seconds": round(sum(commit.seconds for commit in commits), 3),
        "table_bytes": size,
        "table_files": files,
    }
    account |= {name: dg.MetadataValue.md(text) for name, text in (pictures or {}).items()}
    if failed:
        account["without_result"] = table_rows({"series": name, "reason": reason} for name, reason in failed)
    partitioned = context.has_partition_key or context.has_partition_key_range
    partitions = context.partition_keys if partitioned else []
    if len(partitions) > 1:
        context.add_asset_metadata(account, asset_key=key, partition_key=partitions[-1])
        return dg.MaterializeResult(asset_key=key, metadata=everywhere)
    counted = {"dagster/partition_row_count" if partitions else "rows": rows}
    context.add_asset_metadata(everywhere | counted | account, asset_key=key)
    return dg.MaterializeResult(asset_key=key)


def publish_days(
    context: dg.AssetExecutionContext,
    platform: Platform,
    name: str,
    days: tuple[date, date],
    rows: pl.DataFrame,
    failed: Sequence[tuple[str, str]],
    inputs: tuple[str, ...],
    pictures_of: Callable[[Table, tuple[date, date]], Mapping[str, bytes]] | None = None,
) -> Iterator[dg.AssetCheckResult | dg.MaterializeResult[None]]:
    """Audit computed rows, yield the gate, replace the days, and say which series have no result and why."""
    table = platform.lake.table(name)
    audited = table.audit(rows)
    yield from rule_results(audited)
    if not audited.publishable:
        table.quarantine(audited, stamp=platform.stamp(context))
        return
    commit = table.replace(days, audited, stamp=platform.stamp(context, *inputs))
    found = pictures_of(table, days) if pictures_of else pictures.of_signals(platform.lake, name, days)
    shown = pictures.kept(platform, name, days, found)
    yield published(context, table, [commit], shown, failed=failed)


def table_rows(rows: Iterable[Mapping[str, str | int]]) -> dg.MetadataValue[Any]:
    """Return rows of simple values as a table in the UI."""
    records = [dg.TableRecord(dict(row)) for row in rows]
    return dg.MetadataValue.table(records) if records else dg.MetadataValue.text("none")
