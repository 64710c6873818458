"""How results show themselves: in a notebook and on a Rich console, the same text as `print` writes."""

from __future__ import annotations

from abc import ABC, abstractmethod
from html import escape

__all__ = ["Displayed", "as_html"]


def as_html(text: str) -> str:
    """Return text as HTML that keeps its lines, for `_repr_html_`."""
    return f"<pre>{escape(text)}</pre>"


class Displayed(ABC):
    """A result that a console, a notebook and Rich show as its `str`; a dataclass needs `repr=False` for that."""

    @abstractmethod
    def __str__(self) -> str:
        """Return a few lines that say what was found, and whether to believe it."""

    def __repr__(self) -> str:
        return str(self)

    def _repr_html_(self) -> str:
        return as_html(str(self))

    def __rich__(self) -> str:
        # Rich must find no markup in it.
        return str(self).replace("[", r"\[")
