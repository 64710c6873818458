"""What one untrusted statement may use and return."""

from __future__ import annotations

from dataclasses import dataclass, fields

from hfthot_platform.core.errors import BadRequestError

__all__ = ["QueryLimits"]


@dataclass(frozen=True)
class QueryLimits:
    """What one statement may use and return.  Of several limits the smallest holds."""

    #: Rows and bytes of the result; more are cut off, and the result says so.
    rows: int = 1_000_000
    bytes: int = 256 * 2**20
    #: From when the statement leaves the queue until its last row is delivered, pauses of the reader included.
    seconds: float = 30.0
    #: Seconds that it may wait in the queue before that.
    queue_seconds: float = 30.0
    #: Memory of the process that runs it.
    memory: int = 2**30

    def __post_init__(self) -> None:
        """Check that every limit allows something."""
        for limit in fields(self):
            if not getattr(self, limit.name) > 0:
                raise BadRequestError(
                    f"the limit is {getattr(self, limit.name)!r}",
                    where=f"limits.{limit.name}",
                    hint="Give a value greater than 0.",
                )

    def within(self, other: QueryLimits) -> QueryLimits:
        """Return the smaller of each limit."""
        return QueryLimits(
            **{limit.name: min(getattr(self, limit.name), getattr(other, limit.name)) for limit in fields(self)}
        )
