"""The compiled loop of `search`, in a module of its own so that numba is imported where it is used."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from hfthot_platform.core.compiled import compiled

__all__ = ["candidates"]


@compiled
def candidates(
    data: npt.NDArray[np.uint8],
    start: int,
    pairs: npt.NDArray[np.uint8],
    fours: npt.NDArray[np.uint8],
    eights: npt.NDArray[np.uint8],
    out: npt.NDArray[np.int64],
) -> int:
    """Fill `out` with positions, in order, where a pattern may begin; return how many, at most its size."""
    size = data.size
    count = 0
    for i in range(start + 2, size - 1, 3):
        if not pairs[(np.intp(data[i]) << 8) | np.intp(data[i + 1])]:
            continue
        for j in range(i - 2, i + 1):
            if j + 4 > size:
                break
            code = np.uint64(14695981039346656037)
            for k in range(j, j + 4):
                byte = np.uint64(data[k])
                if np.uint64(65) <= byte <= np.uint64(90):
                    byte += np.uint64(32)
                code = (code ^ byte) * np.uint64(1099511628211)
            kind = fours[(code ^ (code >> np.uint64(32))) & np.uint64(262143)]
            if not kind:
                continue
            if kind == 1 and j + 8 <= size:
                for k in range(j + 4, j + 8):
                    byte = np.uint64(data[k])
                    if np.uint64(65) <= byte <= np.uint64(90):
                        byte += np.uint64(32)
                    code = (code ^ byte) * np.uint64(1099511628211)
                if not eights[(code ^ (code >> np.uint64(32))) & np.uint64(262143)]:
                    continue
            out[count] = j
            count += 1
            if count == out.size:
                return count
    return count
