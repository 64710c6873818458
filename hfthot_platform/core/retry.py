"""Trying again what may succeed later: bounded, with pauses that grow and jitter, and only after errors that say so.

What belongs here: when to try again and when to give up.  What does not: which errors may pass, which is known to
whoever calls; and commits of Delta tables, which have to read and compute again.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, TypeVar

from hfthot_platform.core.errors import BadRequestError

if TYPE_CHECKING:
    from tenacity import RetryCallState

__all__ = ["RetryPolicy", "retry"]

_Result = TypeVar("_Result")


@dataclass(frozen=True)
class RetryPolicy:
    """How often to try, and how long to pause: `first_wait` seconds, doubled each time, and as much again at random.

    No pause is longer than `longest_wait` seconds.  Raises BadRequestError for values that bound nothing.
    """

    attempts: int
    first_wait: float
    longest_wait: float

    def __post_init__(self) -> None:
        if self.attempts < 1 or not 0 <= self.first_wait < float("inf") or not 0 <= self.longest_wait < float("inf"):
            raise BadRequestError(
                f"{self} is not a bounded policy",
                where="retry",
                hint="Give at least one attempt, and waits in seconds.",
            )


def retry(
    call: Callable[[], _Result],
    policy: RetryPolicy,
    *,
    on: type[Exception] | tuple[type[Exception], ...],
    gave_up: Callable[[int, Exception], Exception],
    sleep: Callable[[float], None] = time.sleep,
) -> _Result:
    """Return what `call` returns, trying again after the errors of `on`; any other error is raised at once.

    An error with an attribute `retry_after` (seconds, as HTTP's header of that name) asks for a pause of at least that
    length; if it is longer than the policy's longest one, this gives up at once.

    Args:
        call: what to try.
        policy: the bounds.
        on: the errors that may pass.
        gave_up: makes the error to raise at the end, from the number of attempts and the last error, which is chained.
        sleep: waits for a number of seconds.

    Raises:
        Exception: what `gave_up` returns.
    """
    import tenacity

    pause = tenacity.wait_exponential_jitter(
        multiplier=policy.first_wait, max=policy.longest_wait, jitter=policy.first_wait
    )

    def wait(state: RetryCallState) -> float:
        return max(pause(state), _asked(state))

    def exhausted(state: RetryCallState) -> bool:
        return state.attempt_number >= policy.attempts or _asked(state) > policy.longest_wait

    retrying = tenacity.Retrying(
        stop=exhausted, wait=wait, retry=tenacity.retry_if_exception_type(on), sleep=sleep, reraise=False
    )
    try:
        return retrying(call)
    except tenacity.RetryError as ended:
        last = ended.last_attempt.exception()
        if not isinstance(last, Exception):
            raise
        raise gave_up(ended.last_attempt.attempt_number, last) from last


def _asked(state: RetryCallState) -> float:
    error = state.outcome.exception() if state.outcome else None
    return float(getattr(error, "retry_after", None) or 0.0)
