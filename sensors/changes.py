"""A change of regime starts the portfolio job for the day after it."""

from datetime import date

import dagster as dg

from assets.common import asset_key
from hfthot_platform.core.time import ONE_DAY

__all__ = ["SENSORS"]


@dg.asset_sensor(
    asset_key=asset_key("signals.regime_changes"),
    job_name="portfolios",
    minimum_interval_seconds=30,
    default_status=dg.DefaultSensorStatus.RUNNING,
    description="Computes the next day's portfolios when a regime changed with a high probability.",
)
def regime_change(context: dg.SensorEvaluationContext, asset_event: dg.EventLogEntry) -> dg.RunRequest | dg.SkipReason:
    """Ask for new weights when a day of `signals.regime_changes` was published with changes in it."""
    del context
    event = asset_event.asset_materialization
    if event is None or event.partition is None:
        return dg.SkipReason("not a day's materialisation")
    rows = event.metadata.get("rows_published")
    changed = event.metadata.get("changed")
    if rows is None or not rows.value or changed is None or not changed.value:
        return dg.SkipReason(f"no new change of regime on {event.partition}")
    # What was known on the day decides on the weights of the next one.
    following = date.fromisoformat(event.partition) + ONE_DAY
    return dg.RunRequest(run_key=f"regime_change:{event.partition}:{asset_event.run_id}", partition_key=f"{following}")


SENSORS = [regime_change]
