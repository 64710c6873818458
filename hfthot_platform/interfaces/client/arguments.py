"""Arguments of the client's calls, checked before anything is done with them.

A value that is refused is not repeated in the message: it may be a password in the wrong place, or somebody's name.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping
from datetime import UTC, date, datetime
from pathlib import Path
from typing import Any, Final, TypeVar

from hfthot_platform.core.errors import BadRequestError, nearest
from hfthot_platform.services.accounts.providers import PROVIDERS

__all__ = [
    "choice",
    "count",
    "flag",
    "identifier",
    "moment",
    "name_of_provider",
    "name_of_symbol",
    "name_of_venue",
    "optional_text",
    "path_text",
    "provider_secrets",
    "text",
    "versions_by_table",
]

_T = TypeVar("_T", bound=str)

_ID: Final = re.compile(r"[0-9a-f]{32}")
_PROVIDER: Final = re.compile(r"[a-z][a-z0-9_]{0,39}")
_VENUE: Final = re.compile(r"[a-z0-9_]{1,40}")
_SYMBOL: Final = re.compile(r"[A-Z0-9][A-Z0-9._]*(-[A-Z0-9._]+){0,4}")
_MOST_PROVIDERS: Final = 50
#: What is said of a provider's key that comes with a plan of its own.
_PLAN: Final = frozenset({"api_key", "queries_limit", "window_seconds"})


def text(value: object, name: str, *, least: int = 1, most: int = 256) -> str:
    """Return a text of a length within bounds that is valid Unicode without NUL.

    Raises:
        BadRequestError: it is not.
    """
    if not isinstance(value, str):
        raise _wrong(name, f"it is a {type(value).__name__}", "Give a string.")
    if not least <= len(value) <= most:
        raise _wrong(name, f"it has {len(value)} characters", f"Give {least} to {most}.")
    # A lone surrogate cannot be stored, and a NUL ends the text for some readers and not for others.
    if any(sign == "\0" or "\ud800" <= sign <= "\udfff" for sign in value):
        raise _wrong(name, "it contains NUL or a lone surrogate", "Remove these characters.")
    return value


def optional_text(value: object, name: str, *, least: int = 1, most: int = 256) -> str | None:
    """Return None for None, and otherwise as `text`."""
    return None if value is None else text(value, name, least=least, most=most)


def path_text(value: object, name: str = "path") -> str:
    """Return a path, or its text, as text.

    Raises:
        BadRequestError: it is neither.
    """
    if isinstance(value, Path):
        value = str(value)
    elif not isinstance(value, str):
        raise _wrong(name, f"it is a {type(value).__name__}", "Give a path or its text.")
    return text(value, name, most=4000)


def identifier(value: object, name: str = "user_id") -> str:
    """Return an id as the platform makes them: 32 hexadecimal digits.

    Raises:
        BadRequestError: it is not one.
    """
    return _matching(value, name, _ID, "Give 32 lower-case hexadecimal digits, as the platform returns them.")


def name_of_provider(value: object, name: str = "provider") -> str:
    """Return the name of a data provider, such as `finnhub`.

    Raises:
        BadRequestError: it cannot be one.
    """
    return _matching(
        value,
        name,
        _PROVIDER,
        "Write a lower-case letter, then lower-case letters, digits and _, at most 40 characters.",
    )


def name_of_symbol(value: object, name: str = "symbol") -> str:
    """Return a canonical symbol.

    Raises:
        BadRequestError: it cannot be one.
    """
    return _matching(value, name, _SYMBOL, "Write it like BTC-USDT, BTC-USDT-PERP or AAPL.", most=60)


def name_of_venue(value: object, name: str = "venue") -> str | None:
    """Return the name of a venue, such as `binance_usdm`, or None.

    Raises:
        BadRequestError: it cannot be one.
    """
    return (
        None
        if value is None
        else _matching(value, name, _VENUE, "Use lower-case letters, digits and _, at most 40 characters.")
    )


def choice(value: object, among: Collection[_T], name: str) -> _T:
    """Return one of a few names.

    Raises:
        BadRequestError: the value is not one of them; the message suggests the nearest.
    """
    found = text(value, name, most=100)
    for candidate in among:
        if candidate == found:
            return candidate
    raise _wrong(name, "it is not a known value", nearest(found, among) or f"Known: {', '.join(among)}.")


def count(value: object, name: str, *, least: int = 0, most: int = 2**62) -> int:
    """Return a whole number within bounds.

    Raises:
        BadRequestError: it is not.
    """
    if not isinstance(value, int) or isinstance(value, bool):
        raise _wrong(name, f"it is a {type(value).__name__}", "Give a whole number.")
    if not least <= value <= most:
        raise _wrong(name, "it is out of range", f"Give {least} to {most}.")
    return value


def flag(value: object, name: str) -> bool:
    """Return True or False.

    Raises:
        BadRequestError: it is neither.
    """
    if not isinstance(value, bool):
        raise _wrong(name, f"it is a {type(value).__name__}", "Give True or False.")
    return value


def moment(value: object, name: str, *, naive: bool = False, days: bool = False) -> datetime | None:
    """Return a time in UTC, or None for None.

    Args:
        value: a datetime, or an ISO 8601 text, which is in UTC unless it says otherwise.
        name: of the argument.
        naive: whether a datetime without a zone is taken as UTC.
        days: whether a date stands for its midnight UTC, as its text does.

    Raises:
        BadRequestError: it is not a time, or has no time zone.
    """
    if value is None:
        return None
    if isinstance(value, str):
        try:
            value = datetime.fromisoformat(value)
        except ValueError:
            raise _wrong(name, "it is not an ISO 8601 time", "Write it as 2026-01-15T14:00:00Z.") from None
        naive = True
    if days and isinstance(value, date) and not isinstance(value, datetime):
        value = datetime(value.year, value.month, value.day, tzinfo=UTC)
    if naive and isinstance(value, datetime) and value.tzinfo is None:
        value = value.replace(tzinfo=UTC)
    if not isinstance(value, datetime):
        raise _wrong(name, f"it is a {type(value).__name__}", "Give a datetime with a time zone.")
    if value.tzinfo is None:
        raise BadRequestError(
            f"the time {value.isoformat()} has no time zone",
            where=name,
            hint="Use tzinfo=UTC, or an offset such as +00:00.",
        )
    if not 1000 <= value.year <= 9000:
        raise _wrong(
            name, f"the year {value.year} is out of range", "Check the unit of the number that it was made from."
        )
    return value.astimezone(UTC)


def provider_secrets(value: object, name: str = "provider_keys") -> dict[str, Any]:
    """Return keys of data providers by the providers' names; None takes a key away.

    Raises:
        BadRequestError: it is not such a mapping.
    """
    if not isinstance(value, Mapping):
        raise _wrong(name, f"it is a {type(value).__name__}", 'Give a mapping such as {"finnhub": "..."}.')
    if len(value) > _MOST_PROVIDERS:
        raise _wrong(name, f"it has {len(value)} entries", f"Give at most {_MOST_PROVIDERS}.")
    found: dict[str, Any] = {}
    for provider, secret in value.items():
        known = name_of_provider(provider, f"{name}: a provider's name")
        # A name from the list may be repeated, what somebody typed may not.
        where = f"{name}[{known!r}]" if known in PROVIDERS else name
        if isinstance(secret, Mapping):
            if not set(secret) <= _PLAN:
                raise _wrong(where, "it has an unknown field", f"Known: {', '.join(sorted(_PLAN))}.")
            text(secret.get("api_key"), f"{where}['api_key']", most=4096)
        else:
            optional_text(secret, where, most=4096)
        found[known] = secret
    return found


def versions_by_table(value: object, name: str = "versions") -> dict[str, int] | None:
    """Return versions by the names of tables, or None for None.

    Raises:
        BadRequestError: it is not such a mapping.
    """
    if value is None:
        return None
    if not isinstance(value, Mapping):
        raise _wrong(name, f"it is a {type(value).__name__}", 'Give a mapping such as {"market.bars": 5}.')
    return {
        text(table, f"{name}: a table", most=200): count(version, f"{name}: a version")
        for table, version in value.items()
    }


def _matching(value: object, name: str, pattern: re.Pattern[str], hint: str, most: int = 256) -> str:
    found = text(value, name, most=most)
    if not pattern.fullmatch(found):
        raise _wrong(name, "it is malformed", hint)
    return found


def _wrong(name: str, what: str, hint: str) -> BadRequestError:
    return BadRequestError(what, where=f"argument {name!r}", hint=hint)
