"""The one decorator of compiled loops, typed: numba's own would make every decorated function untyped."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeVar, cast

from numba import njit

__all__ = ["compiled"]

_Function = TypeVar("_Function", bound=Callable[..., object])


def compiled(function: _Function) -> _Function:
    """Compile a loop with numba: cached on disk, without the GIL, IEEE results instead of ZeroDivisionError."""
    return cast("_Function", njit(cache=True, nogil=True, error_model="numpy")(function))
