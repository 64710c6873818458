"""User events from elsewhere: files that a web application exported, applied to the accounts once per event.

A file is JSON lines (one object per line, UTF-8) or Parquet (the same fields as columns).  Further fields are
ignored and kept nowhere.

| field | in | meaning |
|---|---|---|
| `event_id` | all | printable text of 1 to 200 characters: one that was applied is never applied again |
| `type` | all | `registration`, `login`, `subscription_change` or `api_call` |
| `at` | all | when it happened: ISO 8601 with a zone, or a Parquet timestamp with one |
| `username`, `email` | all | whom it concerns; a registration has both, the others at least one |
| `first_name`, `last_name` | registration | optional |
| `tier` | registration, subscription_change | `free` (default of a registration), `hobbyist`, ... |
| `ip`, `user_agent` | registration, login | optional; encrypted as in a sign-in here |
| `resource`, `count` | api_call | `requests` (default), ..., `provider:<name>`; 1 (default) to a million |

An event and its effects are one transaction and one entry of the change log, so that a crash leaves both or neither,
and a file can be taken in again at any time.  Events may come in any order: one whose account is not known yet waits
(the file is looked at again), the newest `subscription_change` by its own time decides on the tier, and API calls of a
window that is over are in the audit log alone.

An imported account has no password that anybody knows: the person asks for a new one.  A sign-in that happened
elsewhere is recorded, and gives no token here.

What cannot be applied goes to `quarantine.users`: the reason, the position, the file's hash, type and time of the
event, and nothing else of it.
"""

from __future__ import annotations

import hashlib
import json
import secrets
from collections import Counter as Tallies
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, Final, Literal

import polars as pl
import sqlalchemy as sa

from hfthot_platform.core.errors import BadRequestError, DuplicateAccountError, RejectedFileError
from hfthot_platform.core.time import DAY, microseconds, moment
from hfthot_platform.domain.access.plans import tier
from hfthot_platform.domain.contracts.model import REJECTED_SCHEMA
from hfthot_platform.services.accounts.accounts import Accounts
from hfthot_platform.services.accounts.core import AccountRow, inserting
from hfthot_platform.services.accounts.identities import (
    email_form,
    email_look_up,
    name_form,
    network_text,
    new_username,
    username_form,
    username_look_up,
    username_skeleton,
)
from hfthot_platform.services.accounts.providers import PROVIDERS
from hfthot_platform.services.accounts.quotas import Counter, window_of
from hfthot_platform.services.accounts.records import Request
from hfthot_platform.storage.lakehouse import Lakehouse, Stamp
from hfthot_platform.storage.operational import schema
from hfthot_platform.storage.operational.changes import RowChange
from hfthot_platform.storage.operational.published import users_row
from hfthot_platform.storage.operational.store import Prepared, Transaction

__all__ = ["EventsReport", "ingest_user_events"]

Kind = Literal["registration", "login", "subscription_change", "api_call"]

_KINDS: Final[tuple[Kind, ...]] = ("registration", "login", "subscription_change", "api_call")
_FIELDS: Final = ("event_id", "type", "at", "username", "email", "first_name", "last_name", "tier", "ip")
_ALL_FIELDS: Final = (*_FIELDS, "user_agent", "resource", "count")
_RESOURCES: Final = ("requests", "sql_queries", "optimisations")
_LONGEST_LINE: Final = 64 * 1024
_LONGEST_ID: Final = 200
_MOST_CALLS: Final = 1_000_000
#: Events that share a transaction, and so a wait for the disk.
_TOGETHER: Final = 200
#: Clocks differ; further ahead an event's time is wrong.
_AHEAD: Final = timedelta(minutes=10)
_EARLIEST: Final = datetime(2000, 1, 1, tzinfo=UTC)

_REASONS: Final = {
    "not_json": "the line is not a JSON object",
    "too_long": f"the line has more than {_LONGEST_LINE} bytes",
    "malformed_event_id": "event_id is not printable text of 1 to 200 characters",
    "unknown_type": f"type is none of {', '.join(_KINDS)}",
    "malformed_time": "at is not a time with a zone",
    "time_out_of_range": "at lies in the future, or before the year 2000",
    "no_account_named": "neither username nor email is given",
    "malformed_username": "username is missing or malformed",
    "malformed_email": "email is missing or malformed",
    "malformed_first_name": "first_name is malformed",
    "malformed_last_name": "last_name is malformed",
    "unknown_tier": "tier is none of the tiers",
    "malformed_ip": "ip or user_agent is not text",
    "unknown_resource": "resource is not one that is counted",
    "malformed_count": f"count is not a whole number from 1 to {_MOST_CALLS}",
    "duplicate_account": "the username or the e-mail address belongs to another account",
    "deleted_account": "the account is deleted",
    "unknown_account": "no account has this username or e-mail address",
}

_SEEN: Final = Prepared(
    sa.select(schema.user_events.c.ts).where(schema.user_events.c.event_hash == sa.bindparam("event"))
)
_ADD_EVENT: Final = inserting(schema.user_events)
_BY: Final = {
    name: Prepared(sa.select(schema.users.c.subject_id).where(column == sa.bindparam("look_up")))
    for name, column in (("username", schema.users.c.username_lookup), ("email", schema.users.c.email_lookup))
}
_COUNTER: Final = Prepared(
    sa.select(
        *(schema.usage.c[name] for name in ("window_start", "window_seconds", "used", "day", "used_today", "quota"))
    ).where(schema.usage.c.subject_id == sa.bindparam("whom"), schema.usage.c.resource == sa.bindparam("what"))
)


@dataclass(frozen=True)
class EventsReport:
    """What became of a file's events: `read = applied + repeated + rejected + waiting`."""

    #: SHA-256 of the file's bytes.
    content_hash: str
    format: Literal["json_lines", "parquet"]
    bytes: int
    read: int = 0
    applied: int = 0
    #: Events whose id was applied before.
    repeated: int = 0
    rejected: int = 0
    #: Events of accounts that are not known yet.
    waiting: int = 0
    #: Rejected events per reason.
    reasons: Mapping[str, int] = field(default_factory=dict)
    first_at: datetime | None = None
    last_at: datetime | None = None


@dataclass(frozen=True, repr=False)
class _Event:
    """An event that is well-formed in itself."""

    number: int
    hash: bytes
    kind: Kind
    at: int
    look_ups: Mapping[str, bytes]
    names: Mapping[str, str | None]
    tier: str | None
    request: Request
    resource: str
    count: int


class _Refused(Exception):  # noqa: N818 - a signal between two functions of this module
    def __init__(self, reason: str) -> None:
        self.reason = reason


def ingest_user_events(
    path: Path, accounts: Accounts, lake: Lakehouse, *, wait: bool = False, stamp: Stamp | None = None
) -> EventsReport:
    """Apply a file of user events, each exactly once, whatever was applied before.

    Args:
        path: a file of JSON lines or Parquet.
        accounts: what the events are applied to.
        lake: takes the account of what was rejected.
        wait: whether events of unknown accounts are left for another time instead of being rejected.
        stamp: who and why.

    Raises:
        RejectedFileError: the file is empty, or neither of the two formats (`empty`, `unrecognised`, `unreadable`).
        StoreError, LakehouseError: the store or the lake failed; taking the file in again goes on where it ended.
    """
    with path.open("rb") as file:
        digest = hashlib.file_digest(file, "sha256").hexdigest()
        file.seek(0)
        head = file.read(_LONGEST_LINE)
    if not head.strip():
        raise RejectedFileError("empty", "the file holds no events", where=f"file {digest[:16]}")
    is_parquet = head.startswith(b"PAR1")
    if not is_parquet and not head.removeprefix(b"\xef\xbb\xbf").lstrip().startswith(b"{"):
        raise RejectedFileError(
            "unrecognised",
            "it is neither JSON lines nor Parquet",
            where=f"file {digest[:16]}",
            hint="Export one JSON object per line, or Parquet.",
        )
    importer = _Importer(accounts.settings, accounts.store, accounts.vault)
    rows = _parquet_rows if is_parquet else _json_rows
    work = _Work(importer, lake, digest, stamp or Stamp())
    work.run(rows(path, digest))
    if work.waiting and work.registered:
        # Some of them waited for an account that came later in the file.
        work.run(rows(path, digest), again=True)
    if work.waiting and not wait:
        work.give_up(rows(path, digest))
    return EventsReport(
        content_hash=digest,
        format="parquet" if is_parquet else "json_lines",
        bytes=path.stat().st_size,
        read=work.read,
        applied=work.applied,
        repeated=work.read - work.applied - work.waiting - sum(work.reasons.values()),
        rejected=sum(work.reasons.values()),
        waiting=work.waiting,
        reasons=dict(work.reasons),
        first_at=None if work.first is None else moment(work.first),
        last_at=None if work.last is None else moment(work.last),
    )


class _Work:
    """One file under way: its counts, and its batches."""

    def __init__(self, importer: _Importer, lake: Lakehouse, digest: str, stamp: Stamp) -> None:
        self._importer = importer
        self._lake = lake
        self._reference = f"user_events:{digest[:16]}"
        self._stamp = stamp
        self.read = self.applied = self.waiting = self.registered = 0
        self.reasons: Tallies[str] = Tallies()
        self.first: int | None = None
        self.last: int | None = None

    def run(self, rows: Iterable[tuple[int, Mapping[str, Any] | str]], *, again: bool = False) -> None:
        """Apply the events of a file; `again` counts only what waited before and does not any more."""
        latest = microseconds(self._importer.clock() + _AHEAD)
        waiting = 0
        for batch in _batches(rows):
            events: list[_Event] = []
            rejected: list[tuple[int, str, Mapping[str, Any]]] = []
            for number, fields in batch:
                try:
                    events.append(self._importer.parsed(number, fields, latest))
                except _Refused as refused:
                    rejected.append((number, refused.reason, fields if isinstance(fields, Mapping) else {}))
            outcomes = self._importer.apply(events) if events else []
            for event, outcome in zip(events, outcomes, strict=True):
                if outcome in _REASONS:
                    rejected.append((event.number, outcome, {"type": event.kind, "at": moment(event.at)}))
                waiting += outcome == "waiting"
                if outcome == "applied":
                    self.applied += 1
                    self.registered += event.kind == "registration"
                    self.first = event.at if self.first is None else min(self.first, event.at)
                    self.last = event.at if self.last is None else max(self.last, event.at)
            if not again:
                self.read += len(batch)
                self.reasons.update(reason for _, reason, _ in rejected)
                self._quarantine(rejected)
        self.waiting = waiting

    def give_up(self, rows: Iterable[tuple[int, Mapping[str, Any] | str]]) -> None:
        """Reject what still waits."""
        latest = microseconds(self._importer.clock() + _AHEAD)
        for batch in _batches(rows):
            late = [
                (number, "unknown_account", fields)
                for number, fields in batch
                if isinstance(fields, Mapping) and self._importer.waits(number, fields, latest)
            ]
            self.reasons.update(reason for _, reason, _ in late)
            self.waiting -= len(late)
            self._quarantine(late)

    def _quarantine(self, rejected: list[tuple[int, str, Mapping[str, Any]]]) -> None:
        if not rejected:
            return
        table = self._lake.table("users")
        frame = pl.DataFrame(
            [(number, reason, _REASONS[reason], _harmless(fields)) for number, reason, fields in rejected],
            schema=REJECTED_SCHEMA,
            orient="row",
        ).with_columns(pl.lit(self._reference).alias("source_ref"))
        table.quarantine(table.audit(table.contract.empty().drop("schema_version"), frame), stamp=self._stamp)


def _harmless(fields: Mapping[str, Any]) -> str:
    """Return what may be kept of a rejected event: its type and its time, if they are such."""
    at = _time(fields.get("at"))
    kind = fields.get("type")
    kept = {"type": kind if kind in _KINDS else None, "at": None if at is None else at.isoformat()}
    return json.dumps(kept)


def _batches(
    rows: Iterable[tuple[int, Mapping[str, Any] | str]],
) -> Iterator[list[tuple[int, Mapping[str, Any] | str]]]:
    batch = []
    for row in rows:
        batch.append(row)
        if len(batch) == _TOGETHER:
            yield batch
            batch = []
    if batch:
        yield batch


def _json_rows(path: Path, digest: str) -> Iterator[tuple[int, Mapping[str, Any] | str]]:
    """Yield the number of each line with its object, or the reason why there is none."""
    del digest
    with path.open("rb") as file:
        number = 0
        while line := file.readline(_LONGEST_LINE):
            number += 1
            if len(line) == _LONGEST_LINE and not line.endswith(b"\n"):
                while (rest := file.readline(_LONGEST_LINE)) and not rest.endswith(b"\n"):
                    pass
                yield number, "too_long"
                continue
            if not line.strip():
                continue
            try:
                found = json.loads(line.decode("utf-8-sig"))
            except (ValueError, RecursionError):
                found = None
            yield number, found if isinstance(found, dict) else "not_json"


def _parquet_rows(path: Path, digest: str) -> Iterator[tuple[int, Mapping[str, Any] | str]]:
    import pyarrow as pa
    import pyarrow.parquet as pq

    number = 0
    try:
        with pq.ParquetFile(path) as file:
            columns = [name for name in file.schema_arrow.names if name in _ALL_FIELDS]
            for batch in file.iter_batches(batch_size=_TOGETHER, columns=columns):
                for row in batch.to_pylist():
                    number += 1
                    yield number, row
    except (pa.ArrowException, OSError) as error:
        # The library's message can quote values.
        raise RejectedFileError(
            "unreadable", f"the Parquet file is damaged ({type(error).__name__})", where=f"file {digest[:16]}"
        ) from None


def _time(value: object) -> datetime | None:
    """Return a time with a zone, or None if it is none."""
    if isinstance(value, str) and len(value) <= 40:
        try:
            value = datetime.fromisoformat(value)
        except ValueError:
            return None
    return value.astimezone(UTC) if isinstance(value, datetime) and value.tzinfo is not None else None


class _Importer(Accounts):
    """The accounts, as events from elsewhere change them."""

    def parsed(self, number: int, fields: Mapping[str, Any] | str, latest: int) -> _Event:
        """Return the event of a row.

        Raises:
            _Refused: it is malformed.
        """
        if isinstance(fields, str):
            raise _Refused(fields)
        event_id = fields.get("event_id")
        if not isinstance(event_id, str) or not 1 <= len(event_id) <= _LONGEST_ID or not event_id.isprintable():
            raise _Refused("malformed_event_id")
        kind = next((each for each in _KINDS if each == fields.get("type")), None)
        if kind is None:
            raise _Refused("unknown_type")
        at = _time(fields.get("at"))
        if at is None:
            raise _Refused("malformed_time")
        if at < _EARLIEST or microseconds(at) > latest:
            raise _Refused("time_out_of_range")
        names, look_ups = self._whom(fields, kind)
        network = {name: fields.get(name) for name in ("ip", "user_agent")}
        if not all(each is None or isinstance(each, str) for each in network.values()):
            raise _Refused("malformed_ip")
        resource, count = fields.get("resource"), fields.get("count")
        resource = "requests" if resource is None else resource
        counted = isinstance(resource, str) and (
            resource in _RESOURCES or (resource.startswith("provider:") and resource[9:] in PROVIDERS)
        )
        if not counted:
            raise _Refused("unknown_resource")
        count = 1 if count is None else count
        if isinstance(count, bool) or not isinstance(count, int) or not 1 <= count <= _MOST_CALLS:
            raise _Refused("malformed_count")
        return _Event(
            number=number,
            hash=self.look_up("event", event_id),
            kind=kind,
            at=microseconds(at),
            look_ups=look_ups,
            names=names,
            tier=_tier_of(fields, kind),
            request=Request(ip=network_text(network["ip"]), user_agent=network_text(network["user_agent"])),
            resource=resource,
            count=count,
        )

    def _whom(self, fields: Mapping[str, Any], kind: Kind) -> tuple[dict[str, str | None], dict[str, bytes]]:
        needed = ("username", "email") if kind == "registration" else ()
        names: dict[str, str | None] = {}
        look_ups: dict[str, bytes] = {}
        for name, form, folded in (
            ("username", username_form, username_look_up),
            ("email", email_form, email_look_up),
        ):
            value = fields.get(name)
            if value is None and name not in needed:
                continue
            try:
                names[name] = form(value)  # type: ignore[arg-type]  # refuses what is no text
                look_ups[name] = self.look_up(name, folded(value))  # type: ignore[arg-type]
            except BadRequestError:
                raise _Refused(f"malformed_{name}") from None
        if not look_ups:
            raise _Refused("no_account_named")
        if kind == "registration":
            try:
                names["username"] = new_username(names["username"] or "")
            except BadRequestError:
                raise _Refused("malformed_username") from None
            look_ups["skeleton"] = self.look_up("looks like", username_skeleton(str(names["username"])))
            for name in ("first_name", "last_name"):
                try:
                    names[name] = name_form(fields.get(name), name)
                except BadRequestError:
                    raise _Refused(f"malformed_{name}") from None
        return names, look_ups

    def waits(self, number: int, fields: Mapping[str, Any], latest: int) -> bool:
        """Whether an event was not applied and could not be, because there is no such account."""
        try:
            event = self.parsed(number, fields, latest)
        except _Refused:
            return False
        with self.store.reading() as rx:
            known = any(
                rx.run(_BY[name], {"look_up": look_up}) for name, look_up in event.look_ups.items() if name in _BY
            )
            return event.kind != "registration" and not known and not rx.run(_SEEN, {"event": event.hash})

    def apply(self, events: list[_Event]) -> list[str]:
        """Apply events in one transaction; return `applied`, `repeated`, `waiting` or a reason for each."""
        if any(event.kind == "registration" for event in events):
            self._fill_skeletons()
        with self.store.transaction() as tx:
            return [self._applied(tx, event) for event in events]

    def _applied(self, tx: Transaction, event: _Event) -> str:
        if tx.run(_SEEN, {"event": event.hash}):
            return "repeated"
        if event.kind == "registration":
            subject_id = self._register(tx, event)
            if subject_id is None:
                return "duplicate_account"
        else:
            row = self._named_account(tx, event)
            if row is None:
                return "waiting"
            if row["deleted_at"] is not None:
                return "deleted_account"
            subject_id = str(row["subject_id"])
            match event.kind:
                case "login":
                    self._signed_in(tx, event, subject_id)
                case "subscription_change":
                    self._subscribed(tx, event, row)
                case "api_call":
                    self._called(tx, event, row)
        tx.run(_ADD_EVENT, {"event_hash": event.hash, "ts": event.at, "subject_id": subject_id})
        return "applied"

    def _named_account(self, tx: Transaction, event: _Event) -> AccountRow | None:
        """Return the account that all given names belong to."""
        found = {
            rows[0][0] if (rows := tx.run(_BY[name], {"look_up": look_up})) else None
            for name, look_up in event.look_ups.items()
        }
        subject_id = found.pop()
        return None if found or subject_id is None else self.account_of(tx, subject_id)

    def _noted(self, event: _Event, **facts: Any) -> dict[str, Any]:
        return {"origin": "event", "at": moment(event.at).isoformat(), **facts}

    def _register(self, tx: Transaction, event: _Event) -> str | None:
        try:
            self._free(tx, event.look_ups)
        except DuplicateAccountError:
            return None
        row, _ = self._add_account(
            tx,
            event.names,
            event.look_ups,
            self._passwords.unknown(),
            tier(event.tier or "free").name,
            _past(tx, event),
        )
        subject_id = str(row["subject_id"])
        audit = self.event(tx, "user.register", subject_id, subject_id, event.request, detail=self._noted(event))
        tx.log([users_row(row)], audit)
        return subject_id

    def _signed_in(self, tx: Transaction, event: _Event, subject_id: str) -> None:
        session_id = secrets.token_hex(16)
        texts = {"ip": event.request.ip, "user_agent": event.request.user_agent}
        sealed: dict[str, str | None] = dict.fromkeys(texts)
        if any(texts.values()):
            cipher = self.cipher(tx, subject_id, "sessions")
            sealed = {name: text and cipher.encrypt("sessions", name, text) for name, text in texts.items()}
        at = _past(tx, event)
        row = {
            "session_id": session_id,
            "subject_id": subject_id,
            "created_at": at,
            "expires_at": self._after(at, hours=self.settings.session_hours),
            "ended_at": None,
            "end_reason": None,
            **sealed,
        }
        audit = self.event(
            tx,
            "session.login",
            subject_id,
            subject_id,
            event.request,
            resource=session_id,
            detail=self._noted(event),
        )
        tx.log([RowChange("sessions", "put", row)], audit)

    def _subscribed(self, tx: Transaction, event: _Event, row: AccountRow) -> None:
        """Change the tier, unless a later change was applied already."""
        subject_id = str(row["subject_id"])
        # One more row of this table remembers the time of the newest change of a subject.
        newest = self.look_up("newest subscription change", subject_id)
        known = tx.run(_SEEN, {"event": newest})
        detail = self._noted(event, **{"from": row["tier"], "to": event.tier})
        if known and known[0][0] > event.at:
            audit = self.event(
                tx, "user.upgrade_tier", subject_id, subject_id, Request(), detail=detail | {"superseded": True}
            )
            tx.log([], audit)
            return
        if known:
            events = schema.user_events
            tx.execute(sa.update(events).where(events.c.event_hash == newest).values(ts=event.at))
        else:
            tx.run(_ADD_EVENT, {"event_hash": newest, "ts": event.at, "subject_id": subject_id})
        wanted = {"tier": tier(event.tier or "").name}
        self._change(tx, row, "user.upgrade_tier", subject_id, Request(), wanted, detail=detail)

    def _called(self, tx: Transaction, event: _Event, row: AccountRow) -> None:
        """Count uses that happened: nothing is refused, and the windows that are over stay as they were."""
        subject_id, resource, at = str(row["subject_id"]), event.resource, _past(tx, event)
        found = tx.run(_COUNTER, {"whom": subject_id, "what": resource})
        if resource in _RESOURCES:
            window = window_of(getattr(tier(row["tier"]), resource))
        else:
            window = window_of(PROVIDERS[resource.removeprefix("provider:")])
        counter = Counter(*found[0]).at(at) if found else Counter.new(*window, at)
        if resource in _RESOURCES:
            counter = counter.limited(*window, at)
        inside = counter.window_start <= at < counter.resets_at
        same_day = at // DAY == counter.day
        changes = []
        if inside or same_day:
            counter = counter.plus(event.count * inside, event.count * same_day)
            self._write(tx, subject_id, resource, counter, stored=bool(found))
            # The row of the lake belongs to the counter's day.
            changes = [counter.row(subject_id, resource, max(at, counter.day * DAY))]
        detail = self._noted(event, increment=event.count, counted=bool(changes))
        audit = self.event(tx, "usage.count", subject_id, subject_id, Request(), resource=resource, detail=detail)
        tx.log(changes, audit)


def _past(tx: Transaction, event: _Event) -> int:
    """Return when an event happened, by our clock: another clock may be some minutes ahead, ours decides."""
    return min(event.at, tx.now)


def _tier_of(fields: Mapping[str, Any], kind: Kind) -> str | None:
    value = fields.get("tier")
    if kind not in {"registration", "subscription_change"} or (value is None and kind == "registration"):
        return None
    try:
        return tier(str(value)).name
    except BadRequestError:
        raise _Refused("unknown_tier") from None
