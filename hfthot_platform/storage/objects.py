"""An object store by its own API: whole objects by name, and an object that is only made if it is not there yet.

What belongs here: opening a store by the URL and the options that the Delta library takes too, and the meaning of its
errors.  What does not: what the objects are (`lakehouse.backends`, `leases`).
"""

from __future__ import annotations

import re
import uuid
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from datetime import timedelta
from typing import TYPE_CHECKING, Any, Final, cast

from hfthot_platform.core.errors import ConfigError

if TYPE_CHECKING:
    from obstore.store import ObjectStore

__all__ = ["create_object", "creates_only_once", "open_store", "read_object", "store_errors"]

#: Options of the connection, which are not options of one kind of store.
_OF_THE_CLIENT: Final = frozenset(
    {
        "allow_http",
        "allow_invalid_certificates",
        "connect_timeout",
        "default_content_type",
        "http1_only",
        "http2_only",
        "pool_idle_timeout",
        "pool_max_idle_per_host",
        "proxy_url",
        "randomize_addresses",
        "timeout",
        "user_agent",
    }
)
_DURATION: Final = re.compile(r"(\d+(?:\.\d+)?)\s*(ms|s|m|h|)")
#: Options that only the Delta library knows.
_OF_DELTA: Final = frozenset(
    {
        "allow_unsafe_rename",
        "copy_if_not_exists",
        "dynamo_lock_table_name",
        "s3_allow_unsafe_rename",
        "s3_locking_provider",
    }
)


def open_store(url: str, options: Mapping[str, str]) -> ObjectStore:
    """Return the objects below a URL; no request is made.

    Args:
        url: such as `s3://bucket/path`.
        options: endpoint, region and credentials by the names that the Delta library takes; never logged.

    Raises:
        ConfigError: an option is not known or malformed; no value of one is told.
    """
    from obstore.exceptions import BaseError
    from obstore.store import from_url

    config: dict[str, str] = {}
    client: dict[str, str] = {}
    retries: dict[str, Any] = {}
    for name, value in options.items():
        key = name.lower()
        plain = key.removeprefix("aws_").removeprefix("azure_").removeprefix("google_")
        if plain in _OF_THE_CLIENT:
            client[plain] = value
        elif plain == "max_retries":
            retries[plain] = _whole_number(plain, value)
        elif plain == "retry_timeout":
            retries[plain] = timedelta(seconds=_seconds(value))
        elif plain not in _OF_DELTA:
            config[key] = value
    try:
        opened: ObjectStore = cast("Any", from_url)(
            url, config=config or None, client_options=client or None, retry_config=retries or None
        )
    except (BaseError, ValueError) as error:
        # The library itself checks the options of each kind of store.
        what = _first_part(error)
        for value in options.values():
            what = what.replace(value, "...") if len(value) > 1 else what
        raise ConfigError(
            f"the object store cannot be opened: {what}",
            where="storage_options",
            hint="Correct the option, or the URL of the lake.",
        ) from None
    return opened


def _whole_number(name: str, text: str) -> int:
    if not text.strip().isdecimal():
        raise ConfigError(
            f"the option {name!r} is not a whole number", where="storage_options", hint="Write a number, such as 5."
        )
    return int(text)


def _seconds(text: str) -> float:
    """Return a duration as the Delta library writes it, such as `500ms`, `10s` or `3m`."""
    found = _DURATION.fullmatch(text.strip())
    if found is None:
        raise ConfigError(
            f"the duration {text!r} is not a number and a unit",
            where="storage_options",
            hint="Write 500ms, 10s or 3m.",
        )
    return float(found[1]) * {"ms": 0.001, "s": 1.0, "": 1.0, "m": 60.0, "h": 3600.0}[found[2]]


@contextmanager
def store_errors() -> Iterator[None]:
    """Raise what the library reports as the errors of files: `FileNotFoundError`, or `OSError` with its message."""
    from obstore.exceptions import BaseError

    try:
        yield
    except BaseError as error:
        raise OSError(_first_part(error)) from None


def _first_part(error: Exception) -> str:
    """Return what an error says, without the page with the request that may follow."""
    return str(error).partition("\n\nDebug source:")[0]


def create_object(store: ObjectStore, name: str, content: bytes) -> bool:
    """Make an object if there is none of its name; return whether this call made it.

    Raises:
        OSError: the store did not answer, or refused.
    """
    import obstore
    from obstore.exceptions import AlreadyExistsError

    with store_errors():
        try:
            obstore.put(store, name, content, mode="create")
        except AlreadyExistsError:
            return False
    return True


def read_object(store: ObjectStore, name: str) -> bytes | None:
    """Return an object's content, None if there is none.

    Raises:
        OSError: the store did not answer, or refused.
    """
    import obstore

    try:
        with store_errors():
            return bytes(obstore.get(store, name).bytes())
    except FileNotFoundError:
        return None


def creates_only_once(store: ObjectStore, folder: str) -> bool:
    """Return whether the store refuses to create an object that is there, by trying it on one of its own.

    Delta's commits rest on it: a store that overwrites loses one of two commits that meet, and says nothing.

    Args:
        store: the objects.
        folder: where the object of the trial is made, and removed.

    Raises:
        OSError: the store did not answer, or refused.
    """
    import obstore

    name = f"{folder}/{uuid.uuid4().hex}"
    try:
        return create_object(store, name, b"1") and not create_object(store, name, b"2")
    finally:
        with store_errors():
            obstore.delete(store, name)
