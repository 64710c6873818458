"""Checks of what a caller hands to a numerical function: a number, a count, a name, an array.

What goes here: the checks that several need, each with the one typed error of its kind.  What stays out: what
one function knows about its own data.
"""

from __future__ import annotations

import math
import numbers
from collections.abc import Collection, Iterable, Sequence
from typing import Any

import numpy as np

from hfthot_platform.core.arrays import FloatArray
from hfthot_platform.core.errors import BadRequestError, DataError, nearest

__all__ = ["array", "choice", "number", "require_type", "symbol_names", "whole"]


def number(
    value: Any,
    name: str,
    where: str,
    *,
    least: float = -math.inf,
    most: float = math.inf,
    above: float = -math.inf,
    below: float = math.inf,
) -> float:
    """Return a finite number in [least, most] and (above, below).

    Raises:
        BadRequestError: it is not a number, not finite, or out of range; the message names it.
    """
    good = isinstance(value, numbers.Real | np.number) and not isinstance(value, bool | np.bool_ | np.complexfloating)
    if good:
        try:
            real = float(value)
        except OverflowError:  # an integer beyond the doubles
            real = math.inf
        if math.isfinite(real) and least <= real <= most and above < real < below:
            return real
    wanted = ["a finite number"]
    wanted += [f">= {least:g}"] * math.isfinite(least) + [f"> {above:g}"] * math.isfinite(above)
    wanted += [f"<= {most:g}"] * math.isfinite(most) + [f"< {below:g}"] * math.isfinite(below)
    raise BadRequestError(f"{name} = {_shown(value)}", where=where, hint=f"Give {' '.join(wanted)}.")


def whole(value: Any, name: str, where: str, *, least: int, most: int = 2**62) -> int:
    """Return an integer in [least, most].

    Raises:
        BadRequestError: it is not an integer, or out of range; the message names it.
    """
    good = isinstance(value, numbers.Integral | np.integer) and not isinstance(value, bool | np.bool_)
    if good and least <= int(value) <= most:
        return int(value)
    upto = f" and at most {most}" if most < 2**62 else ""
    raise BadRequestError(f"{name} = {_shown(value)}", where=where, hint=f"Give a whole number, {least} or more{upto}.")


def choice(value: Any, name: str, where: str, options: Collection[str]) -> str:
    """Return one of several words.

    Raises:
        BadRequestError: the value is not one of them; the message suggests the nearest.
    """
    if isinstance(value, str) and value in options:
        return value
    hint = f"Use {', '.join(options)}."
    if isinstance(value, str) and (near := nearest(value, options)):
        hint = f"{near} {hint}"
    raise BadRequestError(f"{name} = {_shown(value)}", where=where, hint=hint)


def require_type(value: object, kind: Any, name: str, where: str) -> None:
    """Refuse an argument of another type than the one wanted, a class or a union of classes.

    Raises:
        BadRequestError: it is of another type; the message names both.
    """
    if not isinstance(value, kind):
        wanted = getattr(kind, "__name__", str(kind))
        raise BadRequestError(f"{name} of type {type(value).__name__}", where=where, hint=f"Give a {wanted}.")


def array(values: Any, name: str, where: str, *, shape: tuple[int | None, ...] | None = None) -> FloatArray:
    """Return a finite array of doubles of a shape, any by default; in a shape None stands for any length.

    Raises:
        DataError: no numbers, another shape, NaN or infinity; the message names it.
    """
    wanted = "numbers"
    if shape is not None:
        wanted = f"({', '.join('any' if size is None else str(size) for size in shape)}{',' * (len(shape) == 1)})"
    try:
        with np.errstate(all="ignore"):
            found = np.asarray(values)
            if found.dtype.kind == "c":
                raise TypeError("complex numbers")
            found = found.astype(np.float64, copy=False)
            total = float(found.sum())
    except (TypeError, ValueError, OverflowError) as error:
        raise DataError(f"{name} is not an array of numbers ({error})", where=where, hint=f"Give {wanted}.") from error
    if shape is not None and (
        found.ndim != len(shape)
        or any(size not in (None, given) for size, given in zip(shape, found.shape, strict=True))
    ):
        raise DataError(f"{name} of shape {found.shape}", where=where, hint=f"Give {wanted}.")
    # A finite sum proves it at a fraction of the cost.
    if not (math.isfinite(total) or np.isfinite(found).all()):
        bad = tuple(np.argwhere(~np.isfinite(found))[0].tolist())
        place = ", ".join(map(str, bad))
        raise DataError(f"{name}[{place}] is {found[bad]}", where=where, hint="Give finite numbers.")
    return found


def symbol_names(symbols: Iterable[Any] | None, n: int | None, where: str) -> tuple[str, ...] | None:
    """Return the names of n assets, or None for None.

    Raises:
        BadRequestError: another number of names, one that is not text or is empty, or one that occurs twice.
    """
    if symbols is None:
        return None
    listed: Sequence[Any] = (symbols,) if isinstance(symbols, str | bytes) else _listed(symbols, where)
    for name in listed:
        if not isinstance(name, str) or not name:
            raise BadRequestError(f"symbol {_shown(name)}", where=where, hint="Give names, such as 'BTC-USDT'.")
    if n is not None and len(listed) != n:
        raise BadRequestError(f"{len(listed)} symbols", where=where, hint=f"Give {n}, one for each asset, in order.")
    if len(set(listed)) < len(listed):
        twice = next(name for k, name in enumerate(listed) if name in listed[:k])
        raise BadRequestError(f"symbol {twice!r} occurs twice", where=where, hint="Give each symbol once.")
    return tuple(listed)


def _listed(symbols: Any, where: str) -> list[Any]:
    try:
        return list(symbols)
    except TypeError as error:
        raise BadRequestError(f"symbols = {_shown(symbols)}", where=where, hint="Give a list of names.") from error


def _shown(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 60 else f"{text[:57]}..."
