"""The version of this code; in the stamp of every commit."""

from typing import Final

__all__ = ["__version__"]

__version__: Final = "0.1.0"
