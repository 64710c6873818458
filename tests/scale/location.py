"""The platform's own assets and jobs with a clock that stands, and without sensors and schedules.

So runs on two hosts and on one may be compared row for row, and nothing starts runs but the tests.
"""

from __future__ import annotations

from datetime import UTC, datetime

import dagster as dg

from hfthot_platform.core.settings import load_settings
from hfthot_platform.definitions import build_definitions
from resources.platform import Platform

__all__ = ["NOW", "defs"]

NOW = datetime(2023, 1, 2, 12, tzinfo=UTC)


def _definitions() -> dg.Definitions:
    settings = load_settings()
    made = build_definitions(settings, Platform(settings, clock=lambda: NOW))
    return dg.Definitions(
        assets=made.assets,
        asset_checks=made.asset_checks,
        jobs=made.jobs,
        resources=made.resources,
        executor=made.executor,
    )


defs = _definitions()
