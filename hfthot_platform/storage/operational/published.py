"""The store's rows as the lake has them: nothing in them that could identify anybody, but encrypted."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

from hfthot_platform.storage.operational.changes import RowChange

__all__ = ["PERSONAL", "issued_row", "provider_row", "sessions_row", "usage_row", "users_row"]

#: The encrypted columns of an account.
PERSONAL: Final = ("username", "email", "first_name", "last_name", "preferences")
_STATE: Final = ("role", "tier", "active", "data_sharing_consent", "created_at", "updated_at", "deleted_at")
_SESSION: Final = ("session_id", "subject_id", "created_at", "ended_at", "end_reason", "ip", "user_agent")
_KEY: Final = ("key_id", "subject_id", "created_at", "revoked_at", "replaced_by")
_USAGE: Final = ("subject_id", "resource", "used", "used_today", "quota", "updated_at")


def users_row(row: Mapping[Any, Any]) -> RowChange:
    """Return an account's row."""
    return RowChange("users", "put", {name: row[name] for name in ("subject_id", *PERSONAL, *_STATE)})


def sessions_row(row: Mapping[Any, Any]) -> RowChange:
    """Return a session's row."""
    # How long it lives is measured by the clock, when it began is not: a clock that was set back makes the two differ.
    ends = max(row["expires_at"], row["created_at"])
    return RowChange("sessions", "put", {name: row[name] for name in _SESSION} | {"expires_at": ends})


def issued_row(row: Mapping[Any, Any]) -> RowChange:
    """Return the row of a key that was issued here."""
    kept = {name: row[name] for name in (*_KEY, "tier", "prefix")}
    return RowChange("api_keys", "put", kept | {"kind": "hfthot", "provider": None, "secret": None})


def provider_row(row: Mapping[Any, Any]) -> RowChange:
    """Return the row of a data provider's key; one that the store has is in force."""
    kept = {"revoked_at": None, "replaced_by": None, **row}
    values = {name: kept[name] for name in (*_KEY, "provider", "secret")}
    return RowChange("api_keys", "put", values | {"kind": "provider", "tier": None, "prefix": None})


def usage_row(row: Mapping[Any, Any]) -> RowChange:
    """Return the row of a counter of uses: what is left, and when its window ends."""
    quota = row["quota"]
    ends = row["window_start"] + row["window_seconds"] * 1_000_000
    left = None if quota is None else max(0, quota - row["used"])
    values = {name: row[name] for name in _USAGE}
    return RowChange("usage", "put", values | {"remaining": left, "resets_at": ends})
