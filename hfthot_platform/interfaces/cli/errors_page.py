"""Print the catalogue of errors, `docs/errors.md`: `make dictionary`."""

from __future__ import annotations

import inspect
import sys
from collections.abc import Iterator

from hfthot_platform.core.errors import HfthotError
from hfthot_platform.core.status import STATUSES

__all__ = ["errors_page"]

_HEAD = """\
# Errors

Every error says what was wrong, where, and what to do next. For programs it has a `code`, which never changes and is
never used for something else; `error.to_dict()` returns `code`, `message`, `where` and `hint`. All classes are in
`hfthot_platform.core.errors`; whoever catches a class catches those below it too, and `HfthotError` is above all.

Commands exit with the status of their error: 2 where the command as it was typed cannot succeed, 1 otherwise. HTTP and
gRPC statuses are those that servers of the platform answer with. An error that is not in this list is a mistake in the
platform, and is answered as `INTERNAL_ERROR`.

This page is made by `make dictionary` from `core/errors.py` and `core/status.py`.

| code | exit | HTTP | gRPC |
|---|---|---|---|
"""


def errors_page() -> str:
    """Return the page."""
    kinds = list(_with_subclasses(HfthotError))
    rows = "".join(
        f"| [`{kind.code}`](#{kind.code.lower()}) | {status.exit} | {status.http} | `{status.grpc}` |\n"
        for kind in kinds
        for status in (STATUSES[kind.code],)
    )
    return _HEAD + rows + "".join(map(_entry, kinds))


def _entry(kind: type[HfthotError]) -> str:
    above = [base.__name__ for base in kind.__bases__ if issubclass(base, HfthotError)]
    below = f", a kind of `{above[0]}`" if above else ""
    meaning = " ".join((inspect.getdoc(kind) or "").split())
    return f"\n## {kind.code}\n\n`{kind.__name__}`{below}. {meaning}\n\n**What to do:** {kind.remedy}\n"


def _with_subclasses(kind: type[HfthotError]) -> Iterator[type[HfthotError]]:
    """Yield a class of this library and those below it, each followed by its own."""
    if kind.__module__ == HfthotError.__module__:
        yield kind
    for below in sorted(kind.__subclasses__(), key=lambda one: one.code):
        yield from _with_subclasses(below)


if __name__ == "__main__":
    sys.stdout.write(errors_page())
