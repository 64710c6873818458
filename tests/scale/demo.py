"""The jobs of the demonstration on a reduced input, and what they leave.

python -m tests.scale.demo history     load the daily history into the lake of the settings
python -m tests.scale.demo run         that, and then every job, in this process
"""

from __future__ import annotations

import sys
from datetime import date
from typing import Any, Final

__all__ = ["FEEDS", "JOBS"]

FEEDS: Final[list[dict[str, Any]]] = [
    {"kind": "sample"},
    {"kind": "simulated", "symbols": ["ALPHA-USDT", "BRAVO-USDT"], "trades_per_day": 3000},
]
_HISTORY: Final = date(2016, 1, 1), date(2022, 12, 29)
_DAYS: Final = ("2022-12-27", "2022-12-28")
_LAST: Final = ("2022-12-28", "2022-12-28")
_ONE_FORECAST: Final = {
    "ops": {f"signals__{name}": {"config": {"every_hours": 24}} for name in ("mfg_prices", "chiarella_forecasts")}
}
#: Job, its days and its configuration, in order: those of `make demo`.
JOBS: Final[list[tuple[str, tuple[str, str] | None, dict[str, Any]]]] = [
    ("describe_instruments", None, {}),
    ("ingest", _DAYS, {}),
    ("derive", _DAYS, {}),
    ("regimes", _LAST, {}),
    ("forecasts", _LAST, _ONE_FORECAST),
    ("portfolios", _LAST, {}),
    ("backtest", _LAST, {}),
    ("sql_models_by_day", _DAYS, {}),
    ("sql_models_whole", None, {}),
]


def main() -> None:
    """Load the history, and run the jobs where that is asked."""
    import dagster as dg

    from hfthot_platform.core.settings import load_settings
    from hfthot_platform.services.ingest import ingest_feed
    from resources.platform import Platform
    from tests.scale.location import NOW, defs

    settings = load_settings()
    with Platform(settings, clock=lambda: NOW) as platform:
        for table in ("market.bars", "market.closes"):
            ingest_feed(platform.lake, platform.feeds, "sample", table, _HISTORY, settings=settings)
    if sys.argv[1:] != ["run"]:
        return
    with dg.DagsterInstance.ephemeral() as instance:
        for name, days, config in JOBS:
            tags = {}
            if days is not None:
                tags = {
                    "dagster/asset_partition_range_start": days[0],
                    "dagster/asset_partition_range_end": days[1],
                }
            defs.resolve_job_def(name).execute_in_process(instance=instance, tags=tags, run_config=config)


if __name__ == "__main__":
    main()
