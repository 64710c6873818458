"""A Ray cluster of this process alone, where Ray is installed."""

from __future__ import annotations

import gc
import warnings

import pytest

from hfthot_platform.services.cluster import RayCluster


@pytest.fixture(scope="module")
def ray_cluster():
    pytest.importorskip("ray", reason="make setup-ray")
    with RayCluster(2, "local") as made:
        yield made
    # Ray ends the processes of its nodes without waiting for them.
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ResourceWarning)
        del made
        gc.collect()
