"""The places that an installation uses, kept in its store.

Each process knows its own settings, and another one may have others: a landing folder on another disk, Dagster's
folder, which only Dagster's processes are told.  Whoever opens the accounts writes down what it uses, so that an
erasure's proof searches all of it, and says what it did not.
"""

from __future__ import annotations

import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Final
from urllib.parse import urlsplit

import sqlalchemy as sa

from hfthot_platform.core.settings import Location, Settings
from hfthot_platform.core.time import DAY, microseconds
from hfthot_platform.storage.operational import schema
from hfthot_platform.storage.operational.connection import Transaction
from hfthot_platform.storage.operational.store import Store

__all__ = ["UsedPlace", "forget_places", "places_of_settings", "record_places", "used_places", "without_credentials"]

#: A place that is not there and that nobody used for so long is forgotten.
_FORGOTTEN_DAYS: Final = 400


@dataclass(frozen=True, order=True)
class UsedPlace:
    """A folder, file or object store that a process of the installation uses."""

    kind: str
    #: An absolute path, or a URL without credentials.
    location: str

    @property
    def path(self) -> Path | None:
        """Return where it is on this machine, or None for an object store."""
        return None if "://" in self.location else Path(self.location)


def places_of_settings(settings: Settings) -> list[UsedPlace]:
    """Return the places of the settings of this process, whether they exist or not."""
    lake = settings.lake_folder()
    found: list[tuple[str, Location]] = [("lake", settings.lake_root if lake is None else lake)]
    if settings.users_root is not None:
        found.append(("lake", settings.users_root))
    if settings.accounts_url is None:
        found.append(("store", settings.accounts))
    if settings.key_source == "file":
        found.append(("keys", settings.key_file))
    found += [
        ("exports", settings.exports),
        ("certificates", settings.certificates),
        ("landing", settings.landing),
        ("scratch", settings.scratch),
        ("reports", settings.scratch.parent / "reports" if settings.reports is None else settings.reports),
    ]
    if (home := settings.dagster_folder()) is not None:
        found.append(("dagster", home))
    found.append(("temporary", Path(tempfile.gettempdir())))
    return [
        UsedPlace(kind, without_credentials(place) if isinstance(place, str) else str(place.expanduser().absolute()))
        for kind, place in found
    ]


def record_places(store: Store, settings: Settings) -> None:
    """Write down the places of the settings that exist; once a day for each, whatever the number of processes."""
    wanted = [place for place in places_of_settings(settings) if place.path is None or place.path.exists()]
    table = schema.places
    with store.reading() as rx:
        known = {UsedPlace(*row[:2]): row[2] for row in rx.execute(_select_places()).all()}
    now = microseconds(store.clock())
    if all(known.get(place, 0) > now - DAY for place in wanted):
        return
    with store.transaction() as tx:
        known = {UsedPlace(*row[:2]): row[2] for row in tx.execute(_select_places()).all()}
        for place in wanted:
            mine = table.c.kind == place.kind, table.c.location == place.location
            if place in known:
                tx.execute(sa.update(table).where(*mine).values(last_used=tx.now))
            else:
                row = {"kind": place.kind, "location": place.location, "first_used": tx.now, "last_used": tx.now}
                tx.execute(sa.insert(table).values(row))


def used_places(store: Store) -> list[UsedPlace]:
    """Return every place that a process of the installation wrote down."""
    with store.reading() as rx:
        return sorted(UsedPlace(*row[:2]) for row in rx.execute(_select_places()).all())


def forget_places(tx: Transaction) -> int:
    """Forget places that are not there and were not used for more than a year; return how many."""
    gone = 0
    table = schema.places
    for kind, location, last_used in tx.execute(_select_places()).all():
        path = UsedPlace(kind, location).path
        if last_used < tx.now - _FORGOTTEN_DAYS * DAY and path is not None and not path.exists():
            gone += tx.execute(sa.delete(table).where(table.c.kind == kind, table.c.location == location)).rowcount
    return gone


def _select_places() -> sa.Select[tuple[str, str, int]]:
    table = schema.places
    return sa.select(table.c.kind, table.c.location, table.c.last_used)


def without_credentials(url: str) -> str:
    """Return a URL as it may be written down."""
    parts = urlsplit(url)
    return parts._replace(netloc=parts.netloc.rpartition("@")[2], query="", fragment="").geturl()
