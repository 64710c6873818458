"""Untrusted SQL: one disposable process per statement, over what its caller sees and nothing else.

What is defended against: statements that read files, settings, other tables, closed columns or older rows; that
write; that take more time, memory or output than they may; and a worker that was taken over, which still has no
network, no other file, no process and no writing (where the kernel has seccomp and Landlock), and whose words the
server checks.  What is not: what a statement's own time and errors tell of the rows that its caller may read; and
other programs on the machine.  A server needs memory for `workers` times `QueryLimits.memory` and 200 MiB each.

`domain.access` says who may read what, `gateway` is what applications call, `pool` runs the processes and the queue.
What hostile text meets is in `worker` and `checker`, behind the walls of `sandbox`, in processes that `spawner` forks.
"""

from hfthot_platform.services.sql.gateway.gateway import QueryHandle, QueryStream, SqlGateway
from hfthot_platform.services.sql.gateway.limits import QueryLimits
from hfthot_platform.services.sql.gateway.pool import GatewayPool
from hfthot_platform.services.sql.gateway.results import QueryResult

__all__ = ["GatewayPool", "QueryHandle", "QueryLimits", "QueryResult", "QueryStream", "SqlGateway"]
