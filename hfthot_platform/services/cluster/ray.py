"""A Ray cluster: tasks on its nodes, repeated by Ray where a node or worker is lost."""

from __future__ import annotations

import importlib.util
import logging
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from typing import Any, TypeVar

from hfthot_platform.core.errors import ConfigError, WorkerLostError
from hfthot_platform.services.cluster.cluster import TRIES, Cluster, in_batches, work_on

__all__ = ["RayCluster"]

_Item = TypeVar("_Item")
_Result = TypeVar("_Result")


class RayCluster(Cluster):
    """Tasks of one processor each on a Ray cluster, whose nodes have this package and its settings.

    Args:
        workers: tasks that are on their way at once.
        address: of the cluster; `auto` is the one that this process runs on, `local` one of this process alone.

    Raises:
        ConfigError: the package `ray` is not installed.
    """

    def __init__(self, workers: int, address: str) -> None:
        super().__init__(workers)
        self._address = address
        self._connected = False
        if importlib.util.find_spec("ray") is None:
            raise ConfigError(
                "the setting is `ray`, but the package ray is not installed",
                where="setting compute",
                hint="`make setup-ray`, or HFTHOT_COMPUTE=in_process.",
            )

    def close(self) -> None:
        if self._connected:
            import ray

            ray.shutdown()
            self._connected = False

    def _map(self, work: Callable[[_Item], _Result], items: Sequence[_Item]) -> Iterator[list[_Result]]:
        import ray

        self._connect()
        # Whatever a task raises is its answer; only a lost worker is a reason to do it again.
        remote: Any = ray.remote(num_cpus=1, max_retries=TRIES - 1, retry_exceptions=False)(work_on)
        on_their_way: deque[Any] = deque()
        try:
            for batch in in_batches(items, self.workers):
                if len(on_their_way) >= 2 * self.workers:
                    yield _result(on_their_way.popleft())
                on_their_way.append(remote.remote(work, batch))
            while on_their_way:
                yield _result(on_their_way.popleft())
        finally:
            for left in on_their_way:
                ray.cancel(left, force=True)

    def _connect(self) -> None:
        import ray

        if ray.is_initialized():
            return
        try:
            ray.init(address=self._address, log_to_driver=False, include_dashboard=False, logging_level=logging.ERROR)
        except (ConnectionError, ValueError, RuntimeError) as error:
            raise ConfigError(
                f"the Ray cluster {self._address!r} does not answer ({type(error).__name__})",
                where="setting ray_address",
                hint="Start it, correct HFTHOT_RAY_ADDRESS, or set RAY_AUTH_TOKEN where it asks for a token.",
            ) from None
        self._connected = True


def _result(reference: Any) -> Any:
    import ray
    from ray.exceptions import RayTaskError, WorkerCrashedError

    try:
        return ray.get(reference)
    except RayTaskError as error:
        # Without Ray's account of where it happened: the error says so itself.
        raise error.cause from None
    except (WorkerCrashedError, ray.exceptions.NodeDiedError, ray.exceptions.OutOfMemoryError) as error:
        raise WorkerLostError(
            f"{TRIES} Ray workers died over the same items ({type(error).__name__})",
            where="compute",
            hint="Look at the memory of the nodes on Ray's dashboard.",
        ) from None
