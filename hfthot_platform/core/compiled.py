"""The one decorator of compiled loops, typed: numba's own would make every decorated function untyped."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeVar, cast

from numba import njit

__all__ = ["compiled"]

_Function = TypeVar("_Function", bound=Callable[..., object])


def compiled(function: _Function) -> _Function:
    """Compile a loop with numba: cached on disk, without the GIL, IEEE results instead of ZeroDivisionError."""
    try:
        made = njit(cache=True, nogil=True, error_model="numpy")(function)
    except RuntimeError:
        # Neither the folder of the code nor the home folder can be written: compiled anew by each process.
        made = njit(nogil=True, error_model="numpy")(function)
    return cast("_Function", made)
