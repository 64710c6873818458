"""Which form the settings choose."""

from __future__ import annotations

from hfthot_platform.core.settings import Settings
from hfthot_platform.services.cluster.cluster import Cluster, InProcess
from hfthot_platform.services.cluster.pool import Pool
from hfthot_platform.services.cluster.ray import RayCluster

__all__ = ["open_cluster"]


def open_cluster(settings: Settings) -> Cluster:
    """Return the form that the setting `compute` names; workers start with the first items.

    Raises:
        ConfigError: it is `ray`, and that is not installed.
    """
    if settings.compute == "pool":
        return Pool(settings.compute_workers)
    if settings.compute == "ray":
        return RayCluster(settings.compute_workers, settings.ray_address)
    return InProcess(settings.compute_workers)
