"""Named automation conditions: when an asset materialises by itself."""

from __future__ import annotations

from typing import Final

import dagster as dg

__all__ = ["FOLLOWS_AS_A_WHOLE", "FOLLOWS_CHECKED_INPUTS"]

_condition = (
    # Every partition, not only the latest: late trades must reach the bars of their own day.
    dg.AutomationCondition.eager().without(dg.AutomationCondition.in_latest_time_window())
    # `eager` alone fires although an upstream blocking check failed.
    & dg.AutomationCondition.all_deps_blocking_checks_passed()
)
#: Materialise a partition when one of its inputs was published anew and no blocking check on them failed.
FOLLOWS_CHECKED_INPUTS: Final = _condition.with_label("follows its checked inputs")

#: The same for a table that is made as a whole from daily ones: days that they do not have yet are no reason to wait.
FOLLOWS_AS_A_WHOLE: Final = (
    dg.AutomationCondition.eager().without(~dg.AutomationCondition.any_deps_missing())
    & dg.AutomationCondition.all_deps_blocking_checks_passed()
).with_label("follows its checked inputs as a whole")
