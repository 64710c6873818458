"""Where an erasure's proof searches: everything that the installation's processes ever said they use.

A place that is known and cannot be searched is told, in sentences for the certificate.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any, Final

import sqlalchemy as sa
from sqlalchemy.pool import NullPool

from hfthot_platform.services.accounts.accounts import Accounts
from hfthot_platform.services.privacy.proof.scan import Folder, ObjectStore, Place, SqlDatabase
from hfthot_platform.storage.lakehouse import Lakehouse
from hfthot_platform.storage.objects import open_store, store_errors
from hfthot_platform.storage.operational.places import UsedPlace, places_of_settings, used_places, without_credentials

__all__ = ["places_of", "searched_places"]

#: What the platform's own folders in the system's temporary folder are called.
_TEMPORARY: Final = ("staging-*", "hfthot-*", "sql-*")
#: Keys of Dagster's configuration that name a folder, and parts of it that are not on this disk.
_FOLDERS: Final = ("base_dir", "local_artifact_storage")
_ELSEWHERE: Final = ("postgres", "mysql", "S3ComputeLogManager", "GCSComputeLogManager", "AzureBlobComputeLogManager")


def places_of(accounts: Accounts, lake: Lakehouse) -> tuple[Place, ...]:
    """Return everything that the platform writes: where the proof searches."""
    return searched_places(accounts, lake)[0]


def searched_places(accounts: Accounts, lake: Lakehouse) -> tuple[tuple[Place, ...], list[str]]:
    """Return where the proof searches, and what is to be said of places where it does not.

    The places are those of this process's settings, and those that other processes of the installation recorded.
    """
    found: list[Place] = []
    limits: list[str] = []
    numbers: dict[str, int] = {}

    def name(kind: str) -> str:
        numbers[kind] = numbers.get(kind, 0) + 1
        return kind if numbers[kind] == 1 else f"{kind} {numbers[kind]}"

    own = places_of_settings(accounts.settings)
    recorded = used_places(accounts.store)
    everywhere = list(dict.fromkeys((*own, *recorded)))
    urls = [place.location for place in everywhere if place.path is None]
    # The user tables first: where they have a root of their own, it is what counts.
    roots = [lake.storage.users, lake.storage] if lake.storage.users_root is not None else [lake.storage]
    unread = _market_tables(lake) if len(roots) > 1 else {}
    for storage in roots:
        left = list(unread.values()) if storage is lake.storage else []
        if storage.local is not None:
            found.append(Folder(name("lake"), storage.local, leave=tuple(storage.local / folder for folder in left)))
        else:
            objects = _objects(name("lake"), without_credentials(storage.root), storage.options, urls)
            found.append(replace(objects, leave=(*objects.leave, *left)))
    if unread:
        limits.append(
            "Tables of market data were not read, since their contracts have no column about a person: "
            f"{', '.join(unread)}."
        )
    if files := accounts.store.files():
        found.append(Folder(name("store"), files[0].parent))
    else:
        engine = sa.create_engine(accounts.store.url, poolclass=NullPool, hide_parameters=True)
        found.append(SqlDatabase(name("store"), engine))
    have = {("lake", without_credentials(storage.root)) for storage in roots}
    have.add(("store", str(files[0].parent) if files else ""))
    for place in everywhere:
        if (place.kind, place.location) in have:
            continue
        path = place.path
        if path is None:
            objects = _objects(place.kind, place.location, accounts.settings.plain_storage_options(), urls)
            if place in own or _answers(objects):
                found.append(replace(objects, name=name(place.kind)))
            else:
                limits.append(f"An object store that was used as {place.kind} did not answer, and was not searched.")
        elif path.exists() or path.is_symlink():
            found.append(_folder(name(place.kind), place.kind, path))
        elif place.kind == "dagster" and place not in recorded:
            limits.append("The configured Dagster folder does not exist, and was not searched.")
        elif place in recorded:
            limits.append(f"A folder that was used as {place.kind} does not exist on this host, and was not searched.")
    # One that was never made is searched too: it may come while the proof runs.
    searched = {place.name for place in found}
    found += [_folder(place.kind, place.kind, place.path) for place in own if place.kind not in searched and place.path]
    homes = [home for home in dict.fromkeys((*own, *recorded)) if home.kind == "dagster"]
    if not homes:
        limits.append("No Dagster folder is configured: runs, events and logs were not searched.")
    for home in homes:
        more, elsewhere = _of_dagster(home)
        found += [Folder(name("dagster"), folder) for folder in more]
        limits += elsewhere
    return tuple(found), list(dict.fromkeys(limits))


def _market_tables(lake: Lakehouse) -> dict[str, str]:
    """Return the tables that cannot be about a person, each with its folder below the lake's root."""
    return {contract.name: "/".join(contract.parts) for contract in lake.contracts.values() if contract.concerns_nobody}


def _folder(name: str, kind: str, path: Path) -> Folder:
    if kind == "temporary":
        return Folder(name, path, only=_TEMPORARY, shared=True)
    if kind == "keys":
        # The key file may lie in a folder of others.
        return Folder(name, path.parent, only=(f"{path.name}*",), shared=True)
    return Folder(name, path)


def _of_dagster(home: UsedPlace) -> tuple[list[Path], list[str]]:
    """Return the folders outside Dagster's own that its configuration names, and what is said of other storage."""
    import yaml

    assert home.path is not None
    file = home.path / "dagster.yaml"
    try:
        text = file.read_text(encoding="utf-8")
        configured = yaml.safe_load(text)
    except FileNotFoundError:
        return [], []
    except (OSError, UnicodeDecodeError, yaml.YAMLError):
        return [], ["Dagster's configuration cannot be read: storage elsewhere that it names was not searched."]
    folders = []
    limits = []
    for named in _named_folders(configured):
        path = Path(named).expanduser()
        if path.is_absolute() and not path.is_relative_to(home.path):
            folders.append(path)
    if any(mark in text for mark in _ELSEWHERE):
        limits.append("Dagster keeps runs, events or logs outside its folder (dagster.yaml): these were not searched.")
    return folders, limits


def _named_folders(configured: Any) -> Iterator[str]:
    if isinstance(configured, dict):
        for key, value in configured.items():
            if key in _FOLDERS and isinstance(value, str):
                yield value
            else:
                yield from _named_folders(value)
    elif isinstance(configured, list):
        for value in configured:
            yield from _named_folders(value)


def _objects(name: str, location: str, options: Mapping[str, str], urls: list[str]) -> ObjectStore:
    """Return what is below a URL as a place, without what is a place of its own there."""
    below = tuple(url[len(location) + 1 :] for url in urls if url.startswith(f"{location}/"))
    return ObjectStore(name, open_store(location, options), below)


def _answers(place: ObjectStore) -> bool:
    """Whether an object store can be listed with the options of the settings."""
    import obstore

    try:
        with store_errors():
            obstore.list_with_delimiter(place.store)
    except OSError:
        return False
    return True
