"""What a username, an e-mail address, a name, preferences and a password may be, and their one normal form.

Pure functions.  Errors never quote what was given: it is personal or secret.
"""

from __future__ import annotations

import ipaddress
import json
import re
import unicodedata
from collections.abc import Mapping
from typing import Any, Final

from hfthot_platform.core.errors import BadRequestError
from hfthot_platform.services.accounts.lookalikes import require_visible, skeleton
from hfthot_platform.storage.operational.changes import to_json

__all__ = ["address_group", "email_form", "email_look_up", "name_form", "network_text", "password_form"]
__all__ += ["new_username", "preferences_form", "username_form", "username_look_up", "username_skeleton"]

_USERNAME: Final = 64
_EMAIL: Final = 254  # RFC 5321, 4.5.3.1.3
_LOCAL_PART: Final = 64
_NAME: Final = 100
_PREFERENCES: Final = 16_384
_PASSWORD: Final = (8, 1024)
_NETWORK_TEXT: Final = 512
_LABEL: Final = re.compile(r"(?!-)[a-z0-9-]{1,63}(?<!-)")
#: Control, format, surrogate, private, unassigned characters; line and paragraph separators.
_REFUSED: Final = frozenset({"Cc", "Cf", "Cs", "Co", "Cn", "Zl", "Zp"})


def _text(value: str, field: str, longest: int) -> str:
    """Return the NFKC form without surrounding blanks; refuse what is empty, long or invisible."""
    if not _is_text(value):
        raise BadRequestError("it is not text", where=field, hint="Give a string.")
    if len(value) > 4 * longest:  # before normalising: some characters become eighteen
        raise BadRequestError(f"it is longer than {longest} characters", where=field, hint="Shorten it.")
    text = unicodedata.normalize("NFKC", value).strip()
    if not 1 <= len(text) <= longest:
        raise BadRequestError(f"it has {len(text)} characters", where=field, hint=f"Give 1 to {longest} characters.")
    if any(unicodedata.category(sign) in _REFUSED for sign in text):
        raise BadRequestError("it contains control or invisible characters", where=field, hint="Remove them.")
    return text


def _is_text(value: object) -> bool:
    return isinstance(value, str)


def _folded(text: str) -> str:
    """Return the form in which two spellings are the same (Unicode 3.13, compatibility caseless match)."""
    return unicodedata.normalize("NFKC", unicodedata.normalize("NFKC", text).casefold())


def username_form(username: str) -> str:
    """Return a username as it is kept: NFKC, at most 64 characters, without `@`.

    Raises:
        BadRequestError: it is not one.
    """
    text = _text(username, "username", _USERNAME)
    if "@" in text:
        raise BadRequestError("it contains an @", where="username", hint="Give an e-mail address in the field `email`.")
    return text


def new_username(username: str) -> str:
    """Return a username that somebody chooses now, as it is kept.

    Accounts from before may have names that are refused here; they are still found by them.

    Raises:
        BadRequestError: it is not a name, has invisible characters, or mixes scripts whose letters look alike.
    """
    text = username_form(username)
    require_visible(text, "username")
    return text


def username_skeleton(username: str) -> str:
    """Return what two usernames that look the same share."""
    return skeleton(username_look_up(username))


def username_look_up(username: str) -> str:
    """Return what two usernames that count as one share."""
    return _folded(username_form(username))


def email_form(email: str) -> str:
    """Return an e-mail address as it is kept, the domain in lower case.

    Raises:
        BadRequestError: it is not `local@domain.tld`.
    """
    text = _text(email, "email", _EMAIL)
    local, at, domain = text.rpartition("@")
    if not at or not 1 <= len(local) <= _LOCAL_PART or "@" in local or re.search(r"\s", text):
        raise BadRequestError("it is not an e-mail address", where="email", hint="Write name@example.org.")
    if local[0] == "." or local[-1] == "." or ".." in local or re.search(r'[<>()\[\]\\,;:"]', local):
        raise BadRequestError("its part before the @ is malformed", where="email", hint="Write name@example.org.")
    _ascii_domain(domain)
    return f"{local}@{domain.casefold()}"


def email_look_up(email: str) -> str:
    """Return what two addresses that count as one share: caseless, the domain as the DNS has it."""
    local, _, domain = email_form(email).rpartition("@")
    return f"{_folded(local)}@{_ascii_domain(domain)}"


def _ascii_domain(domain: str) -> str:
    try:
        labels = domain.casefold().encode("idna").decode().split(".")
    except UnicodeError:
        labels = []
    if len(labels) < 2 or not all(_LABEL.fullmatch(label) for label in labels) or labels[-1].isdigit():
        # Outside the handler, so that no traceback shows the address.
        raise BadRequestError("its domain is not valid", where="email", hint="Write name@example.org.")
    return ".".join(labels)


def name_form(name: str | None, field: str) -> str | None:
    """Return a first or last name as it is kept; None for None and for empty text.

    Raises:
        BadRequestError: it is longer than 100 characters or has invisible ones.
    """
    if name is None or name == "":
        return None
    return _text(name, field, _NAME)


def preferences_form(preferences: Mapping[str, Any] | None) -> str | None:
    """Return preferences as JSON; None if there are none.

    Raises:
        BadRequestError: the value is not a JSON object of at most 16 KiB.
    """
    if not preferences:
        return None
    text: str | None = None
    try:
        text = to_json(dict(preferences))
        # A lone surrogate, which no file could hold, does not get through here.
        json.dumps(json.loads(text), ensure_ascii=False).encode()
    except (TypeError, ValueError, RecursionError):
        text = None
    if text is None or len(text) > _PREFERENCES or not all(isinstance(key, str) for key in preferences):
        raise BadRequestError(
            "the value is not a JSON object of at most 16 KiB",
            where="preferences",
            hint="Use JSON values only, such as text, numbers and lists.",
        )
    return text


def password_form(password: str) -> str:
    """Return a password as it is hashed: NFKC (NIST SP 800-63B, 5.1.1.2), so that every keyboard gives the same.

    Raises:
        BadRequestError: it has fewer than 8 or more than 1024 characters, or is not valid Unicode.
    """
    shortest, longest = _PASSWORD
    if not _is_text(password) or not shortest <= len(password) <= longest:
        raise BadRequestError("its length is not allowed", where="password", hint="Use 8 to 1024 characters.")
    if any(unicodedata.category(sign) == "Cs" for sign in password):
        raise BadRequestError("it is not valid Unicode", where="password", hint="Type it again.")
    return unicodedata.normalize("NFKC", password)


def network_text(text: str | None) -> str | None:
    """Return an address or a program's name as it is kept: cut, without invisible characters; None if nothing."""
    if not text:
        return None
    visible = "".join(sign for sign in text[:_NETWORK_TEXT] if unicodedata.category(sign) not in _REFUSED)
    return visible.strip() or None


def address_group(ip: str) -> str:
    """Return what sign-ins are limited by: the IPv4 address, the /64 of an IPv6 address (one customer has them all)."""
    try:
        address = ipaddress.ip_address(ip.strip())
    except ValueError:
        return ip.strip()
    if isinstance(address, ipaddress.IPv6Address):
        if address.ipv4_mapped is not None:
            return str(address.ipv4_mapped)
        return str(ipaddress.ip_network((address, 64), strict=False))
    return str(address)
