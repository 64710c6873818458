"""Ingest and derive: the daily path from feeds to the universe."""

from typing import Any

import dagster as dg

from assets.common import asset_key
from hfthot_platform.core.version import __version__
from hfthot_platform.services.ingest import withdraw_file
from hfthot_platform.storage.lakehouse import Stamp
from jobs.common import TODAY, YESTERDAY, daily_schedule, tables_with_gates, whole_schedule
from resources.platform import Platform

__all__ = ["JOBS", "SCHEDULES"]


ingest = dg.define_asset_job(
    "ingest",
    selection=tables_with_gates("market.trades", "market.simulated_regimes"),
    description="Fetch a day's trades from the configured feeds; the derived tables follow by themselves.",
)
derive = dg.define_asset_job(
    "derive",
    selection=tables_with_gates("market.bars_1m", "market.bars", "market.closes", "market.universe"),
    description="Compute a day's bars, closes and universe.  A day that is up to date makes no new version.",
)
describe = dg.define_asset_job(
    "describe_instruments",
    selection=tables_with_gates("market.instruments"),
    description="Refresh what is known of the instruments.",
)
landing = dg.define_asset_job(
    "landing",
    selection=dg.AssetSelection.assets(asset_key("ops.ingest_files")),
    description="Ingest the files that wait in the landing folder.",
)


@dg.op(
    description="Remove the rows of an ingested file from its table; the rows that they replaced are restored.",
    config_schema={
        "file": dg.Field(
            str, description="The name under which it was ingested, or eight or more digits of its content's hash."
        )
    },
    pool="landing",
)
def withdraw_rows(context: dg.OpExecutionContext, platform: dg.ResourceParam[Platform]) -> None:
    """Withdraw one file."""
    stamp = Stamp(run_id=context.run_id, code_version=__version__)
    outcome = withdraw_file(platform.lake, context.op_config["file"], stamp=stamp)
    context.add_output_metadata(
        {
            "table": outcome.table or "",
            "rows_withdrawn": outcome.rows_withdrawn,
            "rows_restored": outcome.rows_restored,
            "days": len(outcome.days),
            "remark": outcome.detail or "",
        }
    )


@dg.job(
    name="withdraw",
    description="Undo the ingestion of a file. Its days are derived again by themselves, and it can be ingested again.",
)
def withdraw() -> None:
    """Withdraw one file."""
    withdraw_rows()


JOBS: list[Any] = [ingest, derive, describe, landing, withdraw]

# Half an hour after midnight UTC, so that archives and late trades of the day are in.
SCHEDULES = [
    daily_schedule("ingest_daily", "ingest", "30 0 * * *", day=YESTERDAY),
    # The sensor of automation conditions derives within a minute of each ingest; this catches what it missed.
    daily_schedule("derive_daily", "derive", "0 2 * * *", day=YESTERDAY),
    whole_schedule("describe_instruments_daily", "describe_instruments", "15 0 * * *"),
    # For live feeds: today's trades so far, every five minutes.  Bars and regimes follow by themselves.
    daily_schedule("ingest_live", "ingest", "*/5 * * * *", day=TODAY, running=False),
]
