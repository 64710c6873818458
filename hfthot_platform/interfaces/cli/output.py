"""Printing: Rich tables on a terminal, plain aligned columns elsewhere, JSON on request; messages on stderr."""

from __future__ import annotations

import json
import math
import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from datetime import UTC, date, datetime, timedelta
from decimal import Decimal
from typing import Any

__all__ = ["as_json", "complain", "counted", "note", "print_json", "print_table", "progress_bar", "size", "text"]


def complain(what: str, hint: str = "") -> None:
    """Print an error as one line, and what to do about it as another, on stderr."""
    from rich.console import Console

    console = Console(stderr=True, highlight=False, soft_wrap=True)
    console.print(f"Error: {what}", style="bold red", markup=False)
    if hint:
        console.print(hint, style="yellow", markup=False)


def note(message: str) -> None:
    """Print a remark on stderr, so that what a command prints on stdout stays clean."""
    sys.stderr.write(message + "\n")


def print_table(
    columns: Sequence[str],
    rows: Iterable[Sequence[object]],
    *,
    right: Iterable[str] = (),
    styles: Callable[[Sequence[str]], str] | None = None,
) -> None:
    """Print rows under column names.

    Args:
        columns: the column names.
        rows: the values; see `text` for how each is shown.
        right: names of the columns to align at the right.
        styles: returns the style of a row on a terminal.
    """
    cells = [[text(value) for value in row] for row in rows]
    numeric = set(right)
    if sys.stdout.isatty():
        from rich import box
        from rich.console import Console
        from rich.table import Table

        table = Table(box=box.SIMPLE_HEAD, header_style="bold")
        for name in columns:
            table.add_column(name, justify="right" if name in numeric else "left", overflow="fold")
        for row in cells:
            table.add_row(*map(_escaped, row), style=styles(row) if styles else None)
        Console().print(table)
        return
    widths = [max(map(len, column)) for column in zip(columns, *cells, strict=True)]
    for row in ([str(name) for name in columns], *cells):
        padded = (
            cell.rjust(width) if name in numeric else cell.ljust(width)
            for name, cell, width in zip(columns, row, widths, strict=True)
        )
        sys.stdout.write("  ".join(padded).rstrip() + "\n")


def _escaped(cell: str) -> str:
    from rich.markup import escape

    return escape(cell)


def print_json(value: object) -> None:
    """Print a value as indented JSON."""
    sys.stdout.write(json.dumps(as_json(value), indent=2, ensure_ascii=False) + "\n")


def as_json(value: Any) -> Any:
    """Return a value in JSON's terms: times as ISO 8601, durations in seconds, NaN and infinities as null."""
    match value:
        case dict():
            return {str(key): as_json(item) for key, item in value.items()}
        case list() | tuple() | set() | frozenset():
            return [as_json(item) for item in value]
        case float():
            return value if math.isfinite(value) else None
        case Decimal():
            return int(value) if value == value.to_integral_value() else float(value)
        case timedelta():
            return value.total_seconds()
        case bytes():
            return value.hex()
        case str() | int() | None:
            return value
        case _:
            return value.isoformat() if hasattr(value, "isoformat") else str(value)


def text(value: object) -> str:
    """Return a value as it is shown in a table."""
    match value:
        case None:
            return "-"
        case bool():
            return "yes" if value else "no"
        case float():
            return f"{value:.10g}"
        case datetime():
            shown = value.astimezone(UTC) if value.tzinfo else value
            return shown.strftime("%Y-%m-%d %H:%M:%S") + (f".{shown.microsecond:06d}" if shown.microsecond else "")
        case date():
            return value.isoformat()
        case list() | tuple():
            return ", ".join(map(text, value))
        case _:
            # One row stays on one line, whatever a text holds.
            return "".join(sign if sign.isprintable() else " " for sign in str(value))


def size(number: int) -> str:
    """Return a number of bytes with a unit."""
    value = float(number)
    for unit in ("B", "kB", "MB", "GB"):
        if value < 1000:
            return f"{value:.0f} {unit}" if unit == "B" else f"{value:.1f} {unit}"
        value /= 1000
    return f"{value:.1f} TB"


def counted(number: int, noun: str) -> str:
    """Return a number of things in words."""
    return f"{number:,} {noun}" if number == 1 else f"{number:,} {noun}s"


@contextmanager
def progress_bar(what: str) -> Iterator[Callable[[int, int | None, str], None]]:
    """Show progress on stderr while the block runs, on a terminal; yields the callback that sources call."""
    if not sys.stderr.isatty():
        yield lambda _done, _total, _unit: None
        return
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, SpinnerColumn, TextColumn, TimeElapsedColumn

    columns = (
        SpinnerColumn(),
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn("{task.fields[unit]}"),
        TimeElapsedColumn(),
    )
    with Progress(*columns, console=Console(stderr=True), transient=True) as progress:
        task = progress.add_task(what, total=None, unit="")

        def report(done: int, total: int | None, unit: str) -> None:
            progress.update(task, completed=done, total=total, unit=unit)

        yield report
