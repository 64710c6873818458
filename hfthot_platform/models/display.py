"""How results show themselves: in a notebook and on a Rich console, the same text as `print` writes."""

from __future__ import annotations

from html import escape

__all__ = ["as_html", "escaped"]


def as_html(text: str) -> str:
    """Return text as HTML that keeps its lines, for `_repr_html_`."""
    return f"<pre>{escape(text)}</pre>"


def escaped(text: str) -> str:
    """Return text in which Rich finds no markup, for `__rich__`."""
    return text.replace("[", r"\[")
