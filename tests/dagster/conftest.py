"""A small platform in a temporary folder, with a fixed clock and the simulated exchange as its only feed."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import dagster as dg
import pytest

from hfthot_platform.core.settings import Settings, load_settings
from hfthot_platform.definitions import build_definitions
from resources.platform import Platform

NOW = datetime(2024, 3, 10, 12, tzinfo=UTC)


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    return settings_in(tmp_path)


def settings_in(folder: Path) -> Settings:
    """Return settings with every place in a folder."""
    return load_settings(
        lake_root=str(folder / "lake"),
        landing=folder / "landing",
        scratch=folder / "work" / "scratch",
        landing_settle_seconds=0,
        universe_size=2,
        feeds=[{"kind": "simulated", "symbols": ("ALPHA-USDT", "BRAVO-USDT", "CHARLIE-USDT"), "trades_per_day": 300}],
    )


@pytest.fixture
def platform(settings: Settings) -> Platform:
    return Platform(settings, clock=lambda: NOW)


@pytest.fixture
def instance() -> Iterator[dg.DagsterInstance]:
    with dg.DagsterInstance.ephemeral() as made:
        yield made


Run = Callable[..., dg.ExecuteInProcessResult]


@pytest.fixture
def run(settings: Settings, platform: Platform, instance: dg.DagsterInstance) -> Run:
    return runner(settings, platform, instance)


def runner(settings: Settings, platform: Platform, instance: dg.DagsterInstance) -> Run:
    """Return what runs a job for days from a first to a last one, quietly."""
    definitions = build_definitions(settings, platform)

    def execute(
        job: str,
        first: str | None = None,
        last: str | None = None,
        config: dict[str, Any] | None = None,
        **options: Any,
    ) -> Any:
        tags = {}
        if first is not None:
            tags = {"dagster/asset_partition_range_start": first, "dagster/asset_partition_range_end": last or first}
        quiet = {**(config or {}), "loggers": {"console": {"config": {"log_level": "CRITICAL"}}}}
        return definitions.resolve_job_def(job).execute_in_process(
            instance=instance, tags=tags, run_config=quiet, **options
        )

    return execute
