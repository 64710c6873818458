"""SQL of strangers: one disposable process per statement, over what a policy permits and nothing else.

`policy` says who may read what, `gateway` is what applications call, `pool` runs the processes and the queue.
What hostile text meets is in `worker` and `checker`, behind the walls of `cage`, in processes that `zygote` forks.
"""

from hfthot_platform.sql.gateway.gateway import QueryHandle, QueryStream, SqlGateway
from hfthot_platform.sql.gateway.policy import Policy, QueryLimits
from hfthot_platform.sql.gateway.pool import GatewayPool
from hfthot_platform.sql.gateway.results import QueryResult

__all__ = ["GatewayPool", "Policy", "QueryHandle", "QueryLimits", "QueryResult", "QueryStream", "SqlGateway"]
