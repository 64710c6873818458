"""What leaves the client: errors without the secrets that were on their way.

A traceback holds the local variables of every frame that it passed, and tools that show them (rich, pytest, error
collectors) would show passwords, tokens and addresses.  At the client's boundary those of our own frames are cleared;
files, lines and messages stay.
"""

from __future__ import annotations

import functools
import inspect
import sys
import traceback
from collections.abc import Callable
from typing import Any, TypeVar

__all__ = ["sealed"]

_C = TypeVar("_C", bound=type)


def sealed(client: _C) -> _C:
    """Clear the frames of every error that leaves a public method of a class."""
    for name, member in list(vars(client).items()):
        if name.startswith("_") and name != "__init__":
            continue
        if inspect.isfunction(member):
            setattr(client, name, _sealed(member))
        elif isinstance(member, classmethod):
            setattr(client, name, classmethod(_sealed(member.__func__)))
    return client


def _sealed(method: Callable[..., Any]) -> Callable[..., Any]:
    @functools.wraps(method)
    def call(*arguments: Any, **named: Any) -> Any:
        handled = sys.exception()  # what the caller was dealing with is the caller's
        try:
            return method(*arguments, **named)
        except BaseException as error:
            _clear(error, handled)
            raise
        finally:
            # This frame is in the traceback too, and is still running.
            del arguments, named

    return call


def _clear(error: BaseException, handled: BaseException | None) -> None:
    waiting: list[BaseException | None] = [error]
    seen = [handled]
    while waiting:
        found = waiting.pop()
        if found is None or any(found is known for known in seen):
            continue
        seen.append(found)
        traceback.clear_frames(found.__traceback__)
        waiting += [found.__cause__, found.__context__]
