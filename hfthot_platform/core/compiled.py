"""The decorators of compiled loops, typed: numba's own would make every decorated function untyped."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeVar, cast

from numba import njit

__all__ = ["compiled", "compiled_in_place", "inlined"]

_Function = TypeVar("_Function", bound=Callable[..., object])


def compiled(function: _Function) -> _Function:
    """Compile a loop with numba: cached on disk, without the GIL, IEEE results instead of ZeroDivisionError."""
    return _made(function)


def compiled_in_place(function: _Function) -> _Function:
    """Compile a loop like `compiled` that makes no arrays: it works on those that it is given.

    Numba then counts no references.  Where a loop over bars uses parts of its own (`inlined`), each of them with
    several arrays, counting takes ten times as long as the work.
    """
    return _made(function, _nrt=False)


def inlined(function: _Function) -> _Function:
    """Compile a part of loops that makes no arrays: a function of its own to read, no call where a loop uses it."""
    return _made(function, _nrt=False, inline="always")


def _made(function: _Function, **options: object) -> _Function:
    try:
        made = njit(cache=True, nogil=True, error_model="numpy", **options)(function)
    except RuntimeError:
        # Neither the folder of the code nor the home folder can be written: compiled anew by each process.
        made = njit(nogil=True, error_model="numpy", **options)(function)
    return cast("_Function", made)
