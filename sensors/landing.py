"""Files in the landing folder start an ingest run."""

import hashlib

import dagster as dg

from hfthot_platform.ingest import waiting_files
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
    folder = platform.settings.landing
    now = platform.clock()
    files = waiting_files(folder, now=now, settle_seconds=platform.settings.landing_settle_seconds)
    if not files:
        return dg.SkipReason(f"nothing waits in {folder}")
    # Name, size and time of change: the same files do not start a second run while the first is at work, and a
    # file that comes back changed does.
    facts = "\n".join(f"{path.name} {path.stat().st_size} {path.stat().st_mtime_ns}" for path in files)
    context.log.info("%d files wait", len(files))
    return dg.RunRequest(run_key=hashlib.sha256(facts.encode()).hexdigest())


SENSORS = [landing_folder]
