"""What a person is entitled to see (GDPR, articles 15 and 20): everything held about them, in one file.

Rows come from every user table of the lake, those of the newest version and earlier states of them that are still
retained, and from the operational store; personal columns are decrypted.  Rows go through memory in batches.

A file lies in the folder that the setting `exports` names, of this host or on the object store, and its row says where:
whoever deletes it, on whatever host, knows whether it was there.

Not in it, on purpose: the password (only a hash that the password cannot be told from exists), hashes of tokens and
keys, and legal holds, which may have to be kept from the person (article 23); the officer answers for those.
"""

from __future__ import annotations

import csv
import hashlib
import io
import json
import re
import secrets
import shutil
import tempfile
import zipfile
from collections.abc import Callable, Container, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from html import escape
from pathlib import Path
from typing import IO, Any, BinaryIO, Final, Literal, cast, get_args

import polars as pl
import sqlalchemy as sa

from hfthot_platform.core.errors import (
    BadRequestError,
    ErasedSubjectError,
    PrivacyError,
    StorageUnavailableError,
    nearest,
)
from hfthot_platform.core.files import made_folder, sync_file, sync_folder
from hfthot_platform.core.time import DAY, moment
from hfthot_platform.core.version import __version__
from hfthot_platform.domain.access.authorisation import Action
from hfthot_platform.domain.contracts import TableContract
from hfthot_platform.domain.contracts.accounts import CATEGORY, USER_TABLES
from hfthot_platform.services.accounts.accounts import Accounts
from hfthot_platform.services.accounts.records import Request
from hfthot_platform.services.accounts.sessions import account_attempts
from hfthot_platform.services.privacy.files_of_subject import read_file, retained
from hfthot_platform.services.publication.publisher import flush
from hfthot_platform.storage.folders import LocalFolder, StoredFolder, exports_folder, folder_at
from hfthot_platform.storage.lakehouse import Lakehouse
from hfthot_platform.storage.operational import schema
from hfthot_platform.storage.operational.connection import Connection
from hfthot_platform.storage.operational.places import used_places
from hfthot_platform.storage.operational.published import PERSONAL

__all__ = [
    "FORMATS",
    "DeletedExports",
    "ExportFormat",
    "delete_exports",
    "export_locations",
    "export_user_data",
    "list_exports",
    "neutralised",
    "pending_exports",
    "read_export",
    "request_export",
    "run_export",
]

ExportFormat = Literal["json", "csv", "parquet", "html"]
FORMATS: Final[tuple[ExportFormat, ...]] = get_args(ExportFormat)

_BATCH: Final = 50_000
_RANDOM_ID: Final = re.compile(r"[0-9a-f]{32}")
_NAMES: Final[dict[str, str]] = {
    "json": "export.json",
    "csv": "export.csv.zip",
    "parquet": "export.parquet.zip",
    "html": "export.html",
}
#: How a cell begins that a spreadsheet would run, with blanks and their like in front or not.
_FORMULA: Final = r"^[\s\p{Z}\p{Cf}]*[=+\-@＝＋－＠]|^[\t\r\n]"
#: Columns that say nothing about the person.
_INTERNAL: Final = {"schema_version", "seq", "previous_hash", "hash", "personal_digest"}


@dataclass(frozen=True)
class _Section:
    """Rows of one kind."""

    name: str
    description: str
    #: Column name to description.
    columns: Mapping[str, str]
    schema: Mapping[str, pl.DataType]
    batches: Callable[[], Iterator[pl.DataFrame]]


def export_user_data(
    accounts: Accounts,
    lake: Lakehouse,
    user_id: str,
    format: str = "json",  # noqa: A002 - the name that callers know
    *,
    request: Request = Request(),  # noqa: B008 - frozen
) -> Path | str:
    """Write everything held about a person into one file and return its path, or its URL on an object store.

    The file lies in a folder of its own below the setting `exports`, readable by the platform's user alone, and is
    deleted after `export_retention_days`.

    Args:
        accounts: the accounts.
        lake: the lake.
        user_id: whose data.
        format: `json` (one document), `csv` or `parquet` (a zip archive with a file per table), or `html` (a page for
            people to read and print).
        request: who asks, from where.

    Raises:
        BadRequestError: unknown format.
        UnknownUserError, ErasedSubjectError: there is no such account any more.
        PermissionDeniedError: the caller is neither the person nor an administrator.
    """
    return run_export(accounts, lake, request_export(accounts, user_id, format, request=request))


def request_export(
    accounts: Accounts,
    user_id: str,
    format: str = "json",  # noqa: A002
    *,
    request: Request = Request(),  # noqa: B008 - frozen
) -> str:
    """Ask for an export and return the request's random id, which is all that `run_export` needs.

    Raises:
        BadRequestError: unknown format.
        UnknownUserError, ErasedSubjectError: there is no such account any more.
        PermissionDeniedError: the caller is neither the person nor an administrator.
    """
    if format not in FORMATS:
        raise BadRequestError(
            f"unknown format {str(format)[:20]!r}",
            where="format",
            hint=nearest(str(format), FORMATS) or f"Formats: {', '.join(FORMATS)}.",
        )
    request_id = secrets.token_hex(16)
    with accounts.operation(Action.PRIVACY_EXPORT, request, user_id) as tx:
        subject_id = accounts.account(tx, user_id)["subject_id"]
        actor = accounts.actor(tx, request, Action.PRIVACY_EXPORT, user_id)
        tx.execute(
            sa.insert(schema.exports).values(
                request_id=request_id,
                subject_id=subject_id,
                format=format,
                state="requested",
                requested_at=tx.now,
                expires_at=None,
                location=None,
            )
        )
        event = accounts.event(
            tx, Action.PRIVACY_EXPORT, subject_id, actor, request, resource=request_id, detail={"format": format}
        )
        tx.log([], event)
    return request_id


def run_export(accounts: Accounts, lake: Lakehouse, request_id: str) -> Path | str:
    """Carry an export out and return the file's path or URL; one that is ready is not made again.

    Raises:
        PrivacyError: there is no such request, or its file was deleted, or lies on another host.
        ErasedSubjectError: the person was erased meanwhile; nothing is left of the export.
        StorageUnavailableError: the object store did not answer.
    """
    row = _request(accounts, request_id)
    if row["state"] == "deleted":
        raise PrivacyError("this export was deleted", where=request_id, hint="Ask for a new one.")
    name = _NAMES[row["format"]]
    exports = exports_folder(accounts.settings)
    if row["state"] == "ready":
        made = _made_at(accounts, row["location"])
        if made.has(f"{_checked(request_id)}/{name}"):
            return _place_of(made, request_id, name)
        if made.location != exports.location:
            raise PrivacyError(
                f"this export was made in {made.location}, where it is not to be found from this host",
                where=request_id,
                hint="Fetch it on the host that made it, or ask for a new one.",
            )
    # Known before there is anything to find.
    _set_location(accounts, request_id, exports.location)
    subject_id = row["subject_id"]
    try:
        flush(accounts.store, lake)
        manifest = _write(accounts, lake, subject_id, row, exports)
    except BaseException:
        with suppress(StorageUnavailableError, OSError):
            _delete_files(exports, request_id)
        raise
    with accounts.store.transaction() as tx:
        until = tx.now + accounts.settings.export_retention_days * DAY
        ready = tx.execute(
            sa.update(schema.exports)
            .where(schema.exports.c.request_id == request_id)
            .values(state="ready", expires_at=until)
        ).rowcount
        alive = accounts.account_of(tx, subject_id) is not None
        if ready and alive:
            counts = {"files": len(manifest["files"]), "rows": sum(file["rows"] for file in manifest["files"])}
            event = accounts.event(
                tx,
                "privacy.export_ready",
                subject_id,
                "system",
                Request(),
                resource=request_id,
                detail={"format": row["format"], **counts},
            )
            tx.log([], event)
    if not (ready and alive):
        # Erased while this ran: the erasure deleted what was there then, and this is what came after it.
        _delete_files(exports, request_id)
        raise ErasedSubjectError(
            "the account was erased while its data was exported",
            where=request_id,
            hint="The export was deleted too.",
        )
    return _place_of(exports, request_id, name)


def read_export(accounts: Accounts, request_id: str, name: str) -> bytes:
    """Return a file of an export that is ready: the export itself, or its `manifest.json`.

    Raises:
        PrivacyError: there is no such request, or no such file.
        StorageUnavailableError: the object store did not answer.
    """
    row = _request(accounts, request_id)
    content = _made_at(accounts, row["location"]).read(f"{_checked(request_id)}/{name}")
    if content is None:
        raise PrivacyError("this export has no such file", where=request_id, hint="Ask for a new export.")
    return content


@dataclass(frozen=True)
class ExportState:
    """Where a request of an export stands."""

    request_id: str
    format: str
    #: `requested`, `ready` or `deleted`.
    state: str
    requested_at: datetime
    #: When its file is deleted.
    expires_at: datetime | None


def list_exports(accounts: Accounts) -> list[ExportState]:
    """Return every request of an export, the newest first."""
    with accounts.store.reading() as rx:
        rows = rx.execute(sa.select(schema.exports).order_by(schema.exports.c.requested_at.desc())).all()
    return [
        ExportState(
            row.request_id,
            row.format,
            row.state,
            moment(row.requested_at),
            None if row.expires_at is None else moment(row.expires_at),
        )
        for row in rows
    ]


def pending_exports(accounts: Accounts, *, older_than: timedelta) -> list[str]:
    """Return the ids of requests that nobody carried out yet, asked for longer ago than this."""
    exports = schema.exports.c
    before = accounts.now() - older_than // timedelta(microseconds=1)
    chosen = sa.select(exports.request_id).where(exports.state == "requested", exports.requested_at <= before)
    with accounts.store.reading() as rx:
        return list(rx.execute(chosen).scalars())


@dataclass(frozen=True)
class DeletedExports:
    """What became of the files of exports."""

    #: Exports of which there was something.
    deleted: int
    #: Ids of exports that were made and are not where they should be, as seen from this host.
    missing: tuple[str, ...]


def export_locations(connection: Connection, *chosen: sa.ColumnElement[bool]) -> dict[str, str | None]:
    """Return where the files of exports are: None where nothing was made yet, or an older version did not say it."""
    exports = schema.exports.c
    made = sa.case((exports.state == "ready", sa.func.coalesce(exports.location, "")), else_=exports.location)
    return {row[0]: row[1] for row in connection.execute(sa.select(exports.request_id, made).where(*chosen)).all()}


def delete_exports(accounts: Accounts, locations: Mapping[str, str | None], *, made: Container[str]) -> DeletedExports:
    """Delete the files of exports, finished or not.

    Args:
        accounts: the accounts.
        locations: where each was to be made (`export_locations`), by the request's id.
        made: the ids of those that were finished: a file of theirs that is not found is missing.

    Raises:
        StorageUnavailableError: an object store did not answer; some may have been deleted.
    """
    deleted = 0
    missing = []
    for request_id, location in locations.items():
        # An older version did not say where.
        folders = [_made_at(accounts, location)] if location else _former_folders(accounts)
        gone = sum(_delete_files(folder, request_id) for folder in folders)
        deleted += gone > 0
        # An object store shows all hosts the same; a disk shows what one of them made.
        if not gone and request_id in made and any(isinstance(folder, LocalFolder) for folder in folders):
            missing.append(request_id)
    return DeletedExports(deleted, tuple(missing))


def _delete_files(exports: StoredFolder, request_id: str) -> int:
    """Delete what there is of an export; return how many files that was."""
    if isinstance(exports, LocalFolder):
        folder = exports.path / _checked(request_id)
        gone = 0
        for made in (folder, folder.with_name(f".{request_id}")):
            if made.is_dir():
                gone += 1
                shutil.rmtree(made)
        if gone:
            sync_folder(exports.path)
        return gone
    names = [file.name for file in exports.files(_checked(request_id))]
    exports.remove(names)
    return len(names)


def _made_at(accounts: Accounts, location: str | None) -> StoredFolder:
    """Return the folder in which an export was made."""
    exports = exports_folder(accounts.settings)
    if location is None or location in {"", exports.location}:
        return exports
    return folder_at(location, accounts.settings.plain_storage_options(), "exports", private=True)


def _former_folders(accounts: Accounts) -> list[StoredFolder]:
    """Return every folder in which processes of this installation said that they put exports."""
    places = [place.location for place in used_places(accounts.store) if place.kind == "exports"]
    own = exports_folder(accounts.settings).location
    return [_made_at(accounts, location) for location in dict.fromkeys((own, *places))]


def _set_location(accounts: Accounts, request_id: str, location: str) -> None:
    with accounts.store.transaction() as tx:
        mine = schema.exports.c.request_id == request_id
        if not tx.execute(sa.update(schema.exports).where(mine).values(location=location)).rowcount:
            raise ErasedSubjectError(
                "the account was erased before its data was exported", where=request_id, hint="Its data is gone."
            )


def _request(accounts: Accounts, request_id: str) -> Mapping[str, Any]:
    with accounts.store.reading() as rx:
        chosen = sa.select(schema.exports).where(schema.exports.c.request_id == request_id)
        row = rx.execute(chosen).mappings().first()
    if row is None:
        raise PrivacyError(
            "no export has this id",
            where="request_id",
            hint="Ask for an export with `export_user_data` or `hfthot privacy export USER_ID`.",
        )
    return dict(row)


def _checked(request_id: str) -> str:
    """Return an export's id: such a name is made by us alone, so that it cannot lead anywhere else."""
    if not _RANDOM_ID.fullmatch(request_id):
        raise BadRequestError("the id of a request is 32 hexadecimal digits", where="request_id")
    return request_id


def _place_of(exports: StoredFolder, request_id: str, name: str) -> Path | str:
    place = f"{request_id}/{name}"
    return exports.path / place if isinstance(exports, LocalFolder) else exports.link(place)


# -- what is held ---------------------------------------------------------------------------------------------


def _sections(accounts: Accounts, lake: Lakehouse, subject_id: str) -> Iterator[_Section]:
    yield _profile(accounts, subject_id)
    for table, description in _STORED.items():
        yield _stored(accounts, table, subject_id, description)
    yield _attempts(accounts, subject_id)
    for contract in USER_TABLES:
        yield _current(accounts, lake, contract, subject_id)
        if contract.name != "audit_log":  # its rows never change but by erasure
            yield _earlier(accounts, lake, contract, subject_id)


def _profile(accounts: Accounts, subject_id: str) -> _Section:
    columns = {
        "user_id": "Id of the account",
        "username": "Name to sign in with",
        "email": "E-mail address",
        "first_name": "First name",
        "last_name": "Last name",
        "preferences": "Preferences as JSON",
        "role": "Role",
        "tier": "Subscription",
        "active": "Whether the account may sign in",
        "data_sharing_consent": "Whether you agreed to share data",
        "created_at": "When you registered",
        "updated_at": "When anything here last changed",
        "deleted_at": "When the account was deleted (it can still be restored)",
        "erase_after": "When it will be erased automatically",
    }
    types: dict[str, pl.DataType] = dict.fromkeys(columns, pl.String())
    types |= dict.fromkeys(("active", "data_sharing_consent"), pl.Boolean())
    types |= dict.fromkeys(("created_at", "updated_at", "deleted_at", "erase_after"), _TIME)

    def batches() -> Iterator[pl.DataFrame]:
        with accounts.store.reading() as rx:
            row = accounts.account_of(rx, subject_id)
        if row is None:
            raise ErasedSubjectError("the account was erased", where="export", hint="Its data no longer exists.")
        cipher = accounts.ciphers([subject_id], "identity")[subject_id]
        profile: dict[str, Any] = {**row}
        for name in PERSONAL:
            profile[name] = profile[name] and cipher.decrypt("users", name, profile[name])
        yield _frame([profile], types)

    return _Section("profile", "The account as it is now (operational store)", columns, types, batches)


#: Tables of the operational store: what they are, and their columns that say something about the person.
_STORED: Final[dict[sa.Table, tuple[str, dict[str, str]]]] = {
    schema.sessions: (
        "Sign-ins as they are now (operational store); tokens are stored only as hashes",
        {
            "session_id": "Random id",
            "created_at": "When it began",
            "expires_at": "When it expires",
            "ended_at": "When it was ended",
            "end_reason": "Why",
            "ip": "IP address that it was opened from",
            "user_agent": "Program (user agent) that it was opened with",
        },
    ),
    schema.api_keys: (
        "Keys issued to you (operational store); the keys themselves are stored only as hashes",
        {
            "key_id": "Random id",
            "tier": "Plan that it was issued for",
            "prefix": "First characters",
            "created_at": "When it was issued",
            "revoked_at": "When it stopped being valid",
            "replaced_by": "The key that replaced it",
        },
    ),
    schema.provider_keys: (
        "Keys of other services that you stored (operational store)",
        {
            "provider": "The service; own_ and a hash for a service that is not on the platform's list",
            "key_id": "Random id",
            "secret": "The key, with the service's name if it is not on the platform's list",
            "created_at": "When you stored it",
        },
    ),
    schema.usage: (
        "Counters of the current quota windows (operational store)",
        {
            "resource": "What was used",
            "window_start": "When the window began",
            "window_seconds": "How long it is",
            "used": "Uses in the window",
            "used_today": "Uses on the last day of use",
            "quota": "Uses that the window allows",
            "updated_at": "When it was last used",
        },
    ),
    schema.exports: (
        "Exports that were requested",
        {
            "request_id": "Random id",
            "format": "Format",
            "state": "State",
            "requested_at": "When",
            "expires_at": "When its file is deleted",
        },
    ),
    schema.user_events: ("Events that were received from other applications", {"ts": "When it happened"}),
}
#: Encrypted columns of the operational store, by table: the lake's table that they are encrypted for, its category.
_SEALED: Final[dict[str, tuple[str, tuple[str, ...]]]] = {
    "sessions": ("sessions", ("ip", "user_agent")),
    "provider_keys": ("api_keys", ("secret",)),
}


def _stored(accounts: Accounts, table: sa.Table, subject_id: str, about: tuple[str, dict[str, str]]) -> _Section:
    description, columns = about
    types: dict[str, pl.DataType] = {}
    for name in columns:
        kind = table.c[name].type
        is_time = name.endswith(("_at", "_start")) or name == "ts"
        types[name] = _TIME if is_time else pl.Int64() if isinstance(kind, sa.Integer) else pl.String()

    def batches() -> Iterator[pl.DataFrame]:
        sealed_for, sealed = _SEALED.get(table.name, ("", ()))
        chosen = sa.select(*(table.c[name] for name in columns)).where(table.c.subject_id == subject_id)
        with accounts.store.reading() as rx:
            result = rx.execute(chosen.order_by(*(table.c[name] for name in columns)))
            rows = [dict(row) for row in result.mappings()]
        if any(row[name] is not None for row in rows for name in sealed):
            # A data key is made with the first value that needs it: without one there is nothing to decrypt.
            cipher = accounts.ciphers([subject_id], CATEGORY[sealed_for])[subject_id]
            for row in rows:
                row |= {
                    name: None if row[name] is None else cipher.decrypt(sealed_for, name, row[name]) for name in sealed
                }
        for start in range(0, len(rows), _BATCH):
            yield _frame(rows[start : start + _BATCH], types)

    return _Section(f"store_{table.name}", description, columns, types, batches)


def _attempts(accounts: Accounts, subject_id: str) -> _Section:
    table = schema.login_attempts
    columns = {
        "failures": "Failed sign-ins in the window",
        "window_start": "When the window began",
        "blocked_until": "When sign-ins are allowed again",
    }
    types: dict[str, pl.DataType] = {"failures": pl.Int64(), "window_start": _TIME, "blocked_until": _TIME}

    def batches() -> Iterator[pl.DataFrame]:
        with accounts.store.reading() as rx:
            row = accounts.account_of(rx, subject_id)
            if row is None:
                return
            counters = [account_attempts(bytes(row[name])) for name in ("username_lookup", "email_lookup")]
            chosen = sa.select(*(table.c[name] for name in columns)).where(table.c.lookup.in_(counters))
            yield _frame([dict(row) for row in rx.execute(chosen).mappings()], types)

    return _Section("store_login_attempts", "Failed sign-ins with your name or address", columns, types, batches)


def _exported(contract: TableContract) -> tuple[dict[str, str], dict[str, pl.DataType]]:
    kept = [column for column in contract.columns if column.name not in _INTERNAL]
    return {column.name: column.description for column in kept}, {column.name: column.polars for column in kept}


def _current(accounts: Accounts, lake: Lakehouse, contract: TableContract, subject_id: str) -> _Section:
    columns, types = _exported(contract)
    mine = pl.col("subject_id") == subject_id
    if "actor_id" in columns:
        # What the person did to others too; whatever is personal in it is the others'.
        mine |= pl.col("actor_id") == subject_id

    def batches() -> Iterator[pl.DataFrame]:
        rows = lake.table(contract.name).scan().filter(mine)
        # In the order of the log.  Files are pruned by their statistics of `seq`.
        order = rows.select(pl.col("seq").unique().sort()).collect().to_series()
        for start in range(0, order.len(), _BATCH):
            first, last = order[start], order[min(start + _BATCH, order.len()) - 1]
            part = rows.filter(pl.col("seq").is_between(first, last)).sort("seq").select(*columns).collect()
            yield _decrypted(accounts, contract, subject_id, part)

    return _Section(contract.name, contract.description, columns, types, batches)


def _earlier(accounts: Accounts, lake: Lakehouse, contract: TableContract, subject_id: str) -> _Section:
    """Return earlier states of rows that retained versions still hold."""
    columns, types = _exported(contract)
    by = ["seq", *contract.primary_key]

    def batches() -> Iterator[pl.DataFrame]:
        found = retained(lake, contract)
        if found is None:
            return
        mine = pl.col("subject_id") == subject_id
        seen = lake.table(contract.name).scan().filter(mine).select(by).collect()
        wanted = list(dict.fromkeys([*by, *columns]))
        for file in found.files:
            if file.name in found.current or not file.may_hold(subject_id):
                continue
            rows = read_file(lake, contract, file, wanted).filter(mine)
            new = rows.join(seen, on=by, how="anti", nulls_equal=True).unique(by, maintain_order=True)
            if new.height:
                seen = pl.concat([seen, new.select(by)])
                yield _decrypted(accounts, contract, subject_id, new.sort("seq").select(*columns))

    return _Section(
        f"{contract.name}_earlier",
        f"Earlier states of rows of {contract.name} that old versions still hold",
        columns,
        types,
        batches,
    )


def _decrypted(accounts: Accounts, contract: TableContract, subject_id: str, rows: pl.DataFrame) -> pl.DataFrame:
    personal = [column.name for column in contract.columns if column.personal]
    if not personal or not rows.height:
        return rows
    cipher = accounts.ciphers([subject_id], CATEGORY[contract.name]).get(subject_id)
    if cipher is None:
        return rows.with_columns(pl.lit(None, dtype=pl.String).alias(name) for name in personal)
    own = rows.with_columns(
        pl.when(pl.col("subject_id") == subject_id).then(pl.col(name)).alias(name) for name in personal
    )
    return own.with_columns(
        pl.Series(name, cipher.decrypt_many(contract.name, name, own[name]), dtype=pl.String) for name in personal
    )


_TIME: Final = pl.Datetime("us", "UTC")


def _frame(rows: Sequence[Mapping[str, Any]], types: Mapping[str, pl.DataType]) -> pl.DataFrame:
    def value(row: Mapping[str, Any], name: str) -> Any:
        found = row[name]
        return moment(found) if types[name] == _TIME and found is not None else found

    return pl.DataFrame([{name: value(row, name) for name in types} for row in rows], schema=dict(types))


# -- files ----------------------------------------------------------------------------------------------------


def _write(
    accounts: Accounts, lake: Lakehouse, subject_id: str, row: Mapping[str, Any], exports: StoredFolder
) -> dict[str, Any]:
    """Write an export's two files, whole or not at all; return its manifest."""
    request_id, name = _checked(row["request_id"]), _NAMES[row["format"]]
    if isinstance(exports, LocalFolder):
        folder, unfinished = exports.path / request_id, exports.path / f".{request_id}"
        shutil.rmtree(unfinished, ignore_errors=True)
        # The mode is that of the last folder made alone.
        made_folder(exports.path, "exports", private=True)
        unfinished.mkdir(mode=0o700)
        with (unfinished / name).open("x+b") as out:
            (unfinished / name).chmod(0o600)
            manifest, whole = _written(accounts, lake, subject_id, row, out)
        beside = unfinished / "manifest.json"
        beside.touch(mode=0o600)
        beside.write_bytes(whole)
        sync_all(unfinished)
        shutil.rmtree(folder, ignore_errors=True)
        unfinished.rename(folder)
        sync_folder(exports.path)
        return manifest
    scratch = made_folder(accounts.settings.scratch, "scratch")
    # It has no name, so that a process that is killed leaves nothing of it.
    with tempfile.TemporaryFile(dir=scratch) as out:
        manifest, whole = _written(accounts, lake, subject_id, row, cast("IO[bytes]", out))
        out.seek(0)
        exports.put(f"{request_id}/{name}", cast("BinaryIO", out))
    exports.put(f"{request_id}/manifest.json", whole)
    return manifest


def _written(
    accounts: Accounts, lake: Lakehouse, subject_id: str, row: Mapping[str, Any], out: IO[bytes]
) -> tuple[dict[str, Any], bytes]:
    """Write the export to an open file; return its manifest, and that of the finished file as JSON."""
    kind = row["format"]
    manifest: dict[str, Any] = {
        "request_id": row["request_id"],
        "made_at": accounts.clock().astimezone(UTC).isoformat(),
        "platform_version": __version__,
        "about": _about(accounts),
        "files": [],
    }
    if kind == "csv":
        manifest["csv"] = "Texts that a spreadsheet would run as a formula have an apostrophe (') put before them."
    sections = _sections(accounts, lake, subject_id)
    if kind == "json":
        _write_json(out, sections, manifest)
    elif kind == "html":
        _write_html(out, sections, manifest)
    else:
        _write_archive(out, sections, manifest, kind)
    out.flush()
    size = out.tell()
    out.seek(0)
    digest = hashlib.file_digest(cast("Any", out), "sha256").hexdigest()
    whole = {**manifest, "archive": {"name": _NAMES[kind], "bytes": size, "sha256": digest}}
    return manifest, json.dumps(whole, indent=2, ensure_ascii=False).encode()


class _Hashing(io.RawIOBase):
    """Passes bytes on, counts and hashes them."""

    def __init__(self, out: IO[bytes]) -> None:
        self._out = out
        self.digest = hashlib.sha256()
        self.size = 0

    def writable(self) -> bool:
        return True

    def write(self, data: Any) -> int:
        raw = bytes(data)
        self._out.write(raw)
        self.digest.update(raw)
        self.size += len(raw)
        return len(raw)

    def tell(self) -> int:
        return self.size


def _write_json(out: IO[bytes], sections: Iterator[_Section], manifest: dict[str, Any]) -> None:
    """Write `{"tables": {name: [rows]}, "manifest": {...}}`; each table's hash is over its `[...]`."""
    out.write(b'{"tables": {')
    for number, section in enumerate(sections):
        out.write(b",\n" if number else b"\n")
        out.write(json.dumps(section.name).encode() + b": ")
        sink = _Hashing(out)
        rows = 0
        sink.write(b"[")
        for batch in section.batches():
            if batch.height:
                sink.write(b",\n" if rows else b"\n")
                lines = _as_text_times(batch).write_ndjson().strip()
                sink.write(lines.replace("\n", ",\n").encode())
                rows += batch.height
        sink.write(b"]")
        account_for(manifest, section, section.name, rows, sink)
    out.write(b'},\n"manifest": ')
    out.write(json.dumps(manifest, indent=2, ensure_ascii=False).encode())
    out.write(b"}\n")


_PAGE: Final = """<!DOCTYPE html>
<html lang="en"><head><meta charset="utf-8"><title>Your data</title>
<meta http-equiv="Content-Security-Policy" content="default-src 'none'; style-src 'unsafe-inline'">
<style>
body { font: 15px/1.5 system-ui, sans-serif; margin: 2rem auto; max-width: 70rem; padding: 0 1rem; color: #222 }
h2 { margin-top: 2.5rem; border-bottom: 1px solid #ccc } p.note { color: #555 }
div.wide { overflow-x: auto } table { border-collapse: collapse; font-size: 13px }
th, td { border: 1px solid #ddd; padding: .25rem .5rem; text-align: left; vertical-align: top }
th { background: #f4f4f4 } td { white-space: pre-wrap; overflow-wrap: anywhere }
</style></head><body>
<h1>Your data</h1>
"""


def _write_html(out: IO[bytes], sections: Iterator[_Section], manifest: dict[str, Any]) -> None:
    """Write one page that a person can read and print: a table per section, and what article 15 asks to be told."""
    out.write(_PAGE.encode())
    out.write(
        f"<p class=note>Made on {escape(manifest['made_at'][:10])}, request {manifest['request_id']}.</p>".encode()
    )
    for section in sections:
        sink = _Hashing(out)
        rows = 0
        sink.write(f"\n<h2>{escape(section.description)}</h2>\n".encode())
        for batch in section.batches():
            if not batch.height:
                continue
            if not rows:
                heads = "".join(
                    f"<th title='{escape(name)}'>{escape(said)}</th>" for name, said in section.columns.items()
                )
                sink.write(f"<div class=wide><table><tr>{heads}</tr>\n".encode())
            for row in _as_text_times(batch).iter_rows():
                cells = "".join(f"<td>{'' if cell is None else escape(str(cell))}</td>" for cell in row)
                sink.write(f"<tr>{cells}</tr>\n".encode())
            rows += batch.height
        sink.write(b"</table></div>\n" if rows else b"<p class=note>Nothing is held.</p>\n")
        account_for(manifest, section, section.name, rows, sink)
    out.write(b"\n<h2>What else you are to be told</h2>\n<table>\n")
    for name, said in manifest["about"].items():
        lines = [f"{name}: {value}" for name, value in said.items()] if isinstance(said, dict) else said
        text = lines if isinstance(lines, str) else "\n".join(lines)
        out.write(f"<tr><th>{escape(name.replace('_', ' '))}</th><td>{escape(text)}</td></tr>\n".encode())
    out.write(b"</table></body></html>\n")


def _write_archive(out: IO[bytes], sections: Iterator[_Section], manifest: dict[str, Any], kind: str) -> None:
    with zipfile.ZipFile(out, "w", zipfile.ZIP_DEFLATED if kind == "csv" else zipfile.ZIP_STORED) as archive:
        for section in sections:
            name = f"{section.name}.{kind}"
            with archive.open(name, "w", force_zip64=True) as member:
                sink = _Hashing(member)
                rows = _write_csv(sink, section) if kind == "csv" else _write_parquet(sink, section)
            account_for(manifest, section, name, rows, sink)
        archive.writestr("manifest.json", json.dumps(manifest, indent=2, ensure_ascii=False))


def _write_csv(sink: _Hashing, section: _Section) -> int:
    head = io.StringIO()
    csv.writer(head, lineterminator="\n").writerow(section.columns)
    sink.write(head.getvalue().encode())
    rows = 0
    for batch in section.batches():
        sink.write(neutralised(_as_text_times(batch)).write_csv(include_header=False).encode())
        rows += batch.height
    return rows


def neutralised(batch: pl.DataFrame) -> pl.DataFrame:
    """Return texts so that no spreadsheet takes one for a formula: an apostrophe stands before what begins like one.

    What a person once typed (a name such as `=HYPERLINK(...)`) is opened by somebody else, often in a spreadsheet.
    """
    names = [name for name, kind in batch.schema.items() if kind == pl.String]
    return batch.with_columns(
        pl.when(pl.col(name).str.contains(_FORMULA)).then("'" + pl.col(name)).otherwise(pl.col(name)).alias(name)
        for name in names
    )


def _write_parquet(sink: _Hashing, section: _Section) -> int:
    import pyarrow as pa
    import pyarrow.parquet as pq

    empty = pl.DataFrame(schema=dict(section.schema)).to_arrow()
    fields = [field.with_metadata({"comment": section.columns[field.name]}) for field in empty.schema]
    rows = 0
    with pq.ParquetWriter(pa.PythonFile(sink, "w"), pa.schema(fields), compression="zstd") as writer:
        for batch in section.batches():
            typed = batch.select(pl.col(name).cast(kind) for name, kind in section.schema.items())
            writer.write_table(typed.to_arrow().cast(pa.schema(fields)))
            rows += batch.height
    return rows


def _as_text_times(batch: pl.DataFrame) -> pl.DataFrame:
    """Return times as ISO 8601 with their zone."""
    return batch.with_columns(
        pl.col(name).dt.strftime("%Y-%m-%dT%H:%M:%S%.6f+00:00") for name, kind in batch.schema.items() if kind == _TIME
    )


def account_for(manifest: dict[str, Any], section: _Section, name: str, rows: int, sink: _Hashing) -> None:
    manifest["files"].append(
        {
            "name": name,
            "description": section.description,
            "rows": rows,
            "bytes": sink.size,
            "sha256": sink.digest.hexdigest(),
            "columns": dict(section.columns),
        }
    )


def _about(accounts: Accounts) -> dict[str, Any]:
    """Return what article 15 (1) asks to be told besides the data."""
    settings = accounts.settings
    return {
        "purposes": [
            "Running the account: sign-in, keys, quotas, support.",
            "Security and accountability: the audit log.",
        ],
        "categories": ["identity", "sessions", "credentials", "usage", "audit"],
        "recipients": ["Nobody outside the platform, except that a data provider sees your key for that provider."],
        "retention": {
            "account": f"until deletion; {settings.soft_delete_days} days later it is permanently erased",
            "sessions": f"{settings.session_retention_days} days after they end",
            "audit_log": f"{settings.audit_retention_days} days",
            "this export": f"{settings.export_retention_days} days",
        },
        "source": "You, the applications that you used, and their use itself.",
        "rights": ["rectification", "erasure", "restriction", "objection", "complaint to a supervisory authority"],
        "automated_decisions": "None.",
    }


def sync_all(folder: Path) -> None:
    """Return when a folder's files and entries are on the disk."""
    for path in folder.iterdir():
        sync_file(path)
    sync_folder(folder)
