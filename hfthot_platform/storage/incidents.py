"""Incidents: failed runs become rows of `ops.incidents` and a message to whoever is to look."""

from __future__ import annotations

import json
import logging
import re
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Final

import polars as pl

from hfthot_platform.core.settings import Settings
from hfthot_platform.storage.lakehouse import Commit, Lakehouse, Stamp

__all__ = ["Incident", "notify", "record", "redacted"]

_LOG = logging.getLogger("hfthot.incidents")
_TIMEOUT_SECONDS: Final = 5.0
# Anything that looks like a credential, an address or a long token is taken out before a message is kept.
_SECRETS: Final = (
    (
        re.compile(r"(?i)\b(password|passwd|secret|token|api[_-]?key|authorization|access[_-]?key)\b\s*[=:]\s*\S+"),
        r"\1=***",
    ),
    (re.compile(r"\b([a-z][a-z0-9+.-]*)://[^/\s:@]+:[^/\s@]+@"), r"\1://***@"),
    (re.compile(r"[\w.+-]+@[\w-]+\.[\w.-]+"), "***@***"),
    (re.compile(r"\b(?=[A-Za-z0-9+/_-]*\d)(?=[A-Za-z0-9+/_-]*[A-Za-z])[A-Za-z0-9+_-]{40,}\b"), "***"),
)
#: Far beyond any message of ours: a bound, so that a foreign one cannot fill the table.
_LONGEST: Final = 20_000


@dataclass(frozen=True)
class Incident:
    """Something that somebody should look at.  The message is redacted before it is kept."""

    incident_id: str
    ts: datetime
    severity: str
    kind: str
    job: str | None = None
    run_id: str | None = None
    step: str | None = None
    error_class: str | None = None
    message: str | None = None

    def row(self) -> dict[str, object]:
        """Return the incident as a row of `ops.incidents`, without partition column and version."""
        values: dict[str, object] = dict(vars(self))
        values["message"] = redacted(self.message) if self.message else None
        return values


def redacted(message: str) -> str:
    """Return a message, whole, without what may be a secret or personal."""
    text = message.strip()
    left = len(text) - _LONGEST
    text = text[:_LONGEST]
    for pattern, replacement in _SECRETS:
        text = pattern.sub(replacement, text)
    return f"{text} ... ({left:,} characters more are in the run's log)" if left > 0 else text


def record(lake: Lakehouse, incident: Incident) -> Commit:
    """Write an incident once, however often it is reported."""
    table = lake.table("ops.incidents")
    row = incident.row()
    schema = {name: table.contract.polars_schema[name] for name in row}
    stamp = Stamp(run_id=incident.run_id or "manual", asset="ops/incidents")
    return table.merge(pl.DataFrame([row], schema=schema), on_change="keep", stamp=stamp)


def notify(settings: Settings, incident: Incident) -> bool:
    """Tell whoever `notify` in the settings names: the log by default, or a webhook that takes JSON.

    Returns:
        Whether it was delivered.  A webhook that does not answer is logged, never raised: an incident must not
        cause another.
    """
    facts: Mapping[str, object] = {**incident.row(), "ts": incident.ts.isoformat()}
    target = settings.notify.get_secret_value()
    if target == "log":
        _LOG.error("incident %s", json.dumps(facts))
        return True
    import httpx

    try:
        return httpx.post(target, json=dict(facts), timeout=_TIMEOUT_SECONDS).is_success
    except (httpx.HTTPError, httpx.InvalidURL) as error:
        # The URL may hold a token, so only the class of the error is said.
        _LOG.error("the notifier failed (%s); incident %s", type(error).__name__, json.dumps(facts))
        return False
