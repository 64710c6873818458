"""The two hosts, where there are two."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from tests.object_store import serving
from tests.scale.hosts import ADDRESSES, VARIABLE, Hosts


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Skip what needs two hosts where there is one."""
    if VARIABLE not in os.environ:
        for item in items:
            if "tests/scale" in item.nodeid:
                item.add_marker(pytest.mark.skip(reason="needs two hosts (make scale)"))


def settings_of(lake: str, scratch: Path, feeds: list[dict[str, Any]], **other: Any) -> dict[str, str]:
    """Return settings of the platform as environment variables."""
    told = {"lake_root": lake, "scratch": str(scratch), "feeds": feeds, "universe_size": 2, **other}
    return {
        f"HFTHOT_{name.upper()}": value if isinstance(value, str) else json.dumps(value) for name, value in told.items()
    }


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Any]:
    """Return what starts the two hosts with settings of the platform."""

    @contextmanager
    def started(feeds: list[dict[str, Any]], **other: Any) -> Iterator[Hosts]:
        with serving(address=ADDRESSES[0]) as store:
            settings = settings_of(
                "s3://lake/data", tmp_path_factory.mktemp("scratch"), feeds, storage_options=store.options, **other
            )
            with Hosts(os.environ[VARIABLE].split()[1], store, settings) as hosts:
                yield hosts

    return started
