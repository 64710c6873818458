"""What a look at an installation finds."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Literal

__all__ = ["Finding", "Level", "worst"]

Level = Literal["ok", "warn", "error"]


@dataclass(frozen=True)
class Finding:
    """One thing that was looked at."""

    level: Level
    subject: str
    message: str
    #: What to do; empty where nothing needs doing.
    next_step: str = ""


def worst(findings: Iterable[Finding]) -> Level:
    """Return the most serious level among the findings."""
    levels = {finding.level for finding in findings}
    order: tuple[Level, ...] = ("error", "warn")
    return next((level for level in order if level in levels), "ok")
