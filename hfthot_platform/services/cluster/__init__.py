"""Where units of work are computed: in threads, in processes of this host, or on a Ray cluster.

A unit of work is a function of a module and plain values: nothing secret travels, and what a unit commits it commits
through `Table` by merge or replace, so that a unit which is done twice is done once.  What does not belong here: what
the units are (`domain.signals`, `app.tasks`).
"""

from hfthot_platform.services.cluster.choice import open_cluster
from hfthot_platform.services.cluster.cluster import Cluster, InProcess, Progress
from hfthot_platform.services.cluster.pool import Pool
from hfthot_platform.services.cluster.ray import RayCluster

__all__ = ["Cluster", "InProcess", "Pool", "Progress", "RayCluster", "open_cluster"]
