"""Log-returns of single bars from closes on a regular grid of times.

What belongs here: which bars are missing.  What does not: regimes, tables, schedules.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

import numpy as np

from hfthot_platform.core.arguments import whole
from hfthot_platform.core.arrays import FloatArray, FloatLike, IntArray
from hfthot_platform.core.errors import DataError

__all__ = ["bar_returns"]

#: Points of the longest grid of bars: half a century of seconds.
_LONGEST_GRID: Final = 1_600_000_000


def bar_returns(times: Sequence[int] | IntArray, closes: FloatLike, step: int) -> tuple[IntArray, FloatArray]:
    """Put closes on a regular grid and return the log-returns of single bars.

    A bar is missing if no close is on its grid point.  The return of a bar whose predecessor is missing spans
    several bars and is therefore missing too.

    Args:
        times: of the bars, (N,), increasing integers (for example microseconds). closes: prices, (N,).
        step: distance of the grid points, in the same unit.

    Returns:
        Grid times (T,), T the number of grid points from the second close's first possible place to the last,
        and log-returns (T,), NaN where missing.

    Raises:
        DataError: fewer than two closes, times not increasing or off the grid, or a close that is not positive.
    """
    where = "bar_returns"
    whole(step, "step", where, least=1)
    try:
        given = np.asarray(times)
        if given.dtype.kind not in "iu":
            raise TypeError(f"times of type {given.dtype}")
        at, price = given.astype(np.int64), np.asarray(closes, dtype=np.float64)
    except (TypeError, ValueError, OverflowError) as error:
        raise DataError(f"not numbers ({error})", where=where, hint="Integer times and prices.") from error
    if at.ndim != 1 or at.shape != price.shape or at.size < 2:
        raise DataError(f"shapes {at.shape} and {price.shape}, expected (N,) twice, N >= 2", where=where)
    place, rest = np.divmod(at - at[0], step)
    if rest.any() or (np.diff(place) <= 0).any():
        bad = int(at[np.flatnonzero(rest)[0]] if rest.any() else at[1:][np.diff(place) <= 0][0])
        raise DataError(f"time {bad} is off the grid or out of order", where=where, hint=f"step={step}.")
    if place[-1] > _LONGEST_GRID:
        raise DataError(f"a grid of {int(place[-1]):,} points", where=where, hint=f"step={step} is too short for it.")
    if not ((price > 0) & np.isfinite(price)).all():
        raise DataError("a close is not a positive number", where=where, hint="Drop the bar.")
    grid = np.full(int(place[-1]) + 1, np.nan)
    grid[place] = np.log(price)
    return at[0] + step * np.arange(1, grid.size, dtype=np.int64), np.diff(grid)
