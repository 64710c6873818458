"""Files in the landing folder start an ingest run, and files that are withdrawn the computation of their days."""

import hashlib

import dagster as dg
import polars as pl

from assets.common import DAILY
from assets.ops import announcements
from hfthot_platform.services.ingest import places_not_read, waiting
from hfthot_platform.services.ingest.records import FileRecord, known
from resources.platform import Platform

__all__ = ["SENSORS"]


@dg.sensor(
    job_name="landing",
    minimum_interval_seconds=15,
    default_status=dg.DefaultSensorStatus.RUNNING,
    description="Ingests the files that wait in the landing folder, once they have settled.",
)
def landing_folder(
    context: dg.SensorEvaluationContext, platform: dg.ResourceParam[Platform]
) -> dg.RunRequest | dg.SkipReason:
    """Ask for one run per set of waiting files."""
    files = waiting(platform.settings, platform.clock())
    if not files:
        left = ", ".join(place.rpartition("/")[2] for place in places_not_read(platform.settings))
        note = f"; folders in it are not read: {left} (`hfthot ingest FOLDER` reads them)" if left else ""
        return dg.SkipReason(f"no file is waiting in {platform.settings.landing}{note}")
    # Name, size and etag: the same files do not start a second run while the first is at work, and a file that comes
    # back changed does.
    facts = "\n".join(f"{file.name} {file.size} {file.etag}" for file in files)
    context.log.info("%d files are waiting", len(files))
    return dg.RunRequest(run_key=hashlib.sha256(facts.encode()).hexdigest())


@dg.sensor(
    job_name="derive",
    minimum_interval_seconds=30,
    default_status=dg.DefaultSensorStatus.RUNNING,
    description="Derives again the days of files that were withdrawn or read again.",
)
def withdrawn_files(
    context: dg.SensorEvaluationContext, platform: dg.ResourceParam[Platform]
) -> dg.SensorResult | dg.SkipReason:
    """Announce the days of files that were withdrawn or read again, by whatever way, and derive these days again."""
    if not platform.lake.exists():
        return dg.SkipReason("there is no lake yet")
    market = pl.col("target").str.starts_with("market.")
    files = [
        file
        for file in known(platform.lake, market, pl.col("rows_withdrawn") > 0)
        if _cursor_of(file) > (context.cursor or "")
    ]
    if not files:
        return dg.SkipReason("no file was withdrawn")
    return dg.SensorResult(
        run_requests=[request for file in files for request in _derivation_runs(file)],
        asset_events=[event for file in files for event in announcements(file, table=file.target, run_id=file.run_id)],
        cursor=_cursor_of(files[-1]),
    )


def _cursor_of(file: FileRecord) -> str:
    """Return what orders records by their time."""
    return f"{file.ingested_at.isoformat(timespec='microseconds')} {file.content_hash}"


def _derivation_runs(file: FileRecord) -> list[dg.RunRequest]:
    days = [day.isoformat() for day in sorted(file.days) if DAILY.has_partition_key(day.isoformat())]
    if not days:
        return []
    tags = {"dagster/asset_partition_range_start": days[0], "dagster/asset_partition_range_end": days[-1]}
    return [dg.RunRequest(run_key=f"withdrawn:{_cursor_of(file)}", tags=tags)]


SENSORS = [landing_folder, withdrawn_files]
