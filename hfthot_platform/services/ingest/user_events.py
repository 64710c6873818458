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
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any, Final, Literal

import polars as pl
import sqlalchemy as sa

from hfthot_platform.core.errors import DuplicateAccountError, RejectedFileError
from hfthot_platform.core.time import DAY, HOUR, microseconds, moment
from hfthot_platform.domain.access.authorisation import Action
from hfthot_platform.domain.access.plans import tier
from hfthot_platform.domain.contracts.model import REJECTED_SCHEMA
from hfthot_platform.services.accounts.accounts import Accounts
from hfthot_platform.services.accounts.directory import AccountRow
from hfthot_platform.services.accounts.identities import email_look_up, network_text, username_look_up
from hfthot_platform.services.accounts.people import AccountNames
from hfthot_platform.services.accounts.providers import PROVIDERS
from hfthot_platform.services.accounts.quotas import TIERED, Counter, window_of
from hfthot_platform.services.accounts.records import Request
from hfthot_platform.services.ingest.user_event_models import (
    FIELDS,
    KINDS,
    LONGEST_LINE,
    REASONS,
    ApiCall,
    EventRefusedError,
    Kind,
    Login,
    Registration,
    SubscriptionChange,
    UserEvent,
    aware_time,
    user_event,
)
from hfthot_platform.storage.lakehouse import Lakehouse, Stamp
from hfthot_platform.storage.operational import schema
from hfthot_platform.storage.operational.changes import RowChange
from hfthot_platform.storage.operational.connection import Prepared, Transaction
from hfthot_platform.storage.operational.published import users_row

__all__ = ["EventsReport", "ingest_user_events"]

#: Events that share a transaction, and so a wait for the disk.
TOGETHER: Final = 200
#: Clocks differ; further ahead an event's time is wrong.
_AHEAD: Final = timedelta(minutes=10)

_SEEN: Final = Prepared(
    sa.select(schema.user_events.c.ts).where(schema.user_events.c.event_hash == sa.bindparam("event"))
)
_ADD_EVENT: Final = Prepared.inserting(schema.user_events)
_BY: Final = {
    name: Prepared(sa.select(schema.users.c.subject_id).where(column == sa.bindparam("look_up")))
    for name, column in (("username", schema.users.c.username_lookup), ("email", schema.users.c.email_lookup))
}


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
class _IdentifiedEvent:
    """A well-formed event with what it and its account are found by."""

    number: int
    hash: bytes
    event: UserEvent
    look_ups: Mapping[str, bytes]

    @property
    def kind(self) -> Kind:
        return self.event.type

    @property
    def at(self) -> int:
        return microseconds(self.event.at)

    @property
    def request(self) -> Request:
        """Where it came from, as far as the event tells."""
        return Request(ip=network_text(self.event.ip), user_agent=network_text(self.event.user_agent))


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
        head = file.read(LONGEST_LINE)
    if not head.strip():
        raise RejectedFileError("empty", "the file contains no events", where=f"file {digest[:16]}")
    is_parquet = head.startswith(b"PAR1")
    if not is_parquet and not head.removeprefix(b"\xef\xbb\xbf").lstrip().startswith(b"{"):
        raise RejectedFileError(
            "unrecognised",
            "it is neither JSON lines nor Parquet",
            where=f"file {digest[:16]}",
            hint="Export one JSON object per line, or Parquet.",
        )
    importer = _Importer(accounts)
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
        latest = self._importer.latest()
        waiting = 0
        for batch in _batches(rows):
            events: list[_IdentifiedEvent] = []
            rejected: list[tuple[int, str, Mapping[str, Any]]] = []
            for number, fields in batch:
                try:
                    events.append(self._importer.known(number, fields, latest))
                except EventRefusedError as refused:
                    rejected.append((number, refused.reason, fields if isinstance(fields, Mapping) else {}))
            outcomes = self._importer.apply(events) if events else []
            for event, outcome in zip(events, outcomes, strict=True):
                if outcome in REASONS:
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
        latest = self._importer.latest()
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
            [(number, reason, REASONS[reason], _impersonal_fields(fields)) for number, reason, fields in rejected],
            schema=REJECTED_SCHEMA,
            orient="row",
        ).with_columns(pl.lit(self._reference).alias("source_ref"))
        table.quarantine(table.audit(table.contract.empty().drop("schema_version"), frame), stamp=self._stamp)


def _impersonal_fields(fields: Mapping[str, Any]) -> str:
    """Return what may be kept of a rejected event: its type and its time, if they are such."""
    at = aware_time(fields.get("at"))
    kind = fields.get("type")
    kept = {"type": kind if kind in KINDS else None, "at": None if at is None else at.isoformat()}
    return json.dumps(kept)


def _batches(
    rows: Iterable[tuple[int, Mapping[str, Any] | str]],
) -> Iterator[list[tuple[int, Mapping[str, Any] | str]]]:
    batch = []
    for row in rows:
        batch.append(row)
        if len(batch) == TOGETHER:
            yield batch
            batch = []
    if batch:
        yield batch


def _json_rows(path: Path, digest: str) -> Iterator[tuple[int, Mapping[str, Any] | str]]:
    """Yield the number of each line with its object, or the reason why there is none."""
    del digest
    with path.open("rb") as file:
        number = 0
        while line := file.readline(LONGEST_LINE):
            number += 1
            if len(line) == LONGEST_LINE and not line.endswith(b"\n"):
                while (rest := file.readline(LONGEST_LINE)) and not rest.endswith(b"\n"):
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
            columns = [name for name in file.schema_arrow.names if name in FIELDS]
            for batch in file.iter_batches(batch_size=TOGETHER, columns=columns):
                for row in batch.to_pylist():
                    number += 1
                    yield number, row
    except (pa.ArrowException, OSError) as error:
        # The library's message can quote values.
        raise RejectedFileError(
            "unreadable", f"the Parquet file is damaged ({type(error).__name__})", where=f"file {digest[:16]}"
        ) from None


class _Importer:
    """Changes accounts as events from elsewhere say."""

    def __init__(self, accounts: Accounts) -> None:
        self._accounts = accounts
        self._store = accounts.store
        self._keys = accounts.subject_keys
        self._audit = accounts.audit

    def latest(self) -> int:
        """Return the latest time that an event may have now."""
        return microseconds(self._accounts.clock() + _AHEAD)

    def known(self, number: int, fields: Mapping[str, Any] | str, latest: int) -> _IdentifiedEvent:
        """Return the event of a row.

        Raises:
            EventRefusedError: it is malformed.
        """
        event = user_event(fields, latest)
        look_ups: dict[str, bytes] = {}
        if event.username is not None:
            look_ups["username"] = self._keys.look_up("username", username_look_up(event.username))
        if event.email is not None:
            look_ups["email"] = self._keys.look_up("email", email_look_up(event.email))
        if isinstance(event, Registration):
            look_ups["skeleton"] = self._accounts.people.skeleton_look_up(event.username)
        return _IdentifiedEvent(number, self._keys.look_up("event", event.event_id), event, look_ups)

    def waits(self, number: int, fields: Mapping[str, Any], latest: int) -> bool:
        """Whether an event was not applied and could not be, because there is no such account."""
        try:
            known = self.known(number, fields, latest)
        except EventRefusedError:
            return False
        with self._store.reading() as rx:
            named = any(
                rx.run(_BY[name], {"look_up": look_up}) for name, look_up in known.look_ups.items() if name in _BY
            )
            return known.kind != "registration" and not named and not rx.run(_SEEN, {"event": known.hash})

    def apply(self, events: list[_IdentifiedEvent]) -> list[str]:
        """Apply events in one transaction; return `applied`, `repeated`, `waiting` or a reason for each."""
        if any(known.kind == "registration" for known in events):
            self._accounts.people.fill_skeletons()
        with self._store.transaction() as tx:
            return [self._apply(tx, known) for known in events]

    def _apply(self, tx: Transaction, known: _IdentifiedEvent) -> str:
        if tx.run(_SEEN, {"event": known.hash}):
            return "repeated"
        if isinstance(known.event, Registration):
            subject_id = self._register(tx, known, known.event)
            if subject_id is None:
                return "duplicate_account"
        else:
            row = self._named_account(tx, known)
            if row is None:
                return "waiting"
            if row["deleted_at"] is not None:
                return "deleted_account"
            subject_id = row["subject_id"]
            match known.event:
                case Login():
                    self._sign_in(tx, known, subject_id)
                case SubscriptionChange():
                    self._subscribe(tx, known, known.event, row)
                case ApiCall():
                    self._count_calls(tx, known, known.event, row)
        tx.run(_ADD_EVENT, {"event_hash": known.hash, "ts": known.at, "subject_id": subject_id})
        return "applied"

    def _named_account(self, tx: Transaction, known: _IdentifiedEvent) -> AccountRow | None:
        """Return the account that all given names belong to."""
        found = {
            rows[0][0] if (rows := tx.run(_BY[name], {"look_up": look_up})) else None
            for name, look_up in known.look_ups.items()
        }
        subject_id = found.pop()
        return None if found or subject_id is None else self._accounts.account_of(tx, subject_id)

    def _register(self, tx: Transaction, known: _IdentifiedEvent, event: Registration) -> str | None:
        """Add an account, and return its subject; None where the name or the address is taken."""
        people = self._accounts.people
        try:
            people.require_free(tx, known.look_ups)
        except DuplicateAccountError:
            return None
        names = AccountNames(event.username, event.email, event.first_name, event.last_name)
        row, _ = people.add_account(
            tx, names, known.look_ups, self._accounts.passwords.unknown(), event.tier, _happened_at(tx, known)
        )
        subject_id = row["subject_id"]
        audit = self._audit.event(
            tx, Action.USER_REGISTER, subject_id, subject_id, known.request, detail=_audit_facts(known)
        )
        tx.log([users_row(row)], audit)
        return subject_id

    def _sign_in(self, tx: Transaction, known: _IdentifiedEvent, subject_id: str) -> None:
        """Record a sign-in that happened elsewhere: it gives no token here."""
        session_id = secrets.token_hex(16)
        texts = {"ip": known.request.ip, "user_agent": known.request.user_agent}
        sealed: dict[str, str | None] = dict.fromkeys(texts)
        if any(texts.values()):
            cipher = self._keys.cipher(tx, subject_id, "sessions")
            sealed = {name: text and cipher.encrypt("sessions", name, text) for name, text in texts.items()}
        at = _happened_at(tx, known)
        row = {
            "session_id": session_id,
            "subject_id": subject_id,
            "created_at": at,
            "expires_at": at + round(self._accounts.settings.session_hours * HOUR),
            "ended_at": None,
            "end_reason": None,
            **sealed,
        }
        audit = self._audit.event(
            tx,
            Action.SESSION_LOGIN,
            subject_id,
            subject_id,
            known.request,
            resource=session_id,
            detail=_audit_facts(known),
        )
        tx.log([RowChange("sessions", "put", row)], audit)

    def _subscribe(self, tx: Transaction, known: _IdentifiedEvent, event: SubscriptionChange, row: AccountRow) -> None:
        """Change the tier, unless a later change was applied already."""
        subject_id = row["subject_id"]
        # One more row of this table remembers the time of the newest change of a subject.
        newest = self._keys.look_up("newest subscription change", subject_id)
        changed = tx.run(_SEEN, {"event": newest})
        detail = _audit_facts(known, **{"from": row["tier"], "to": event.tier})
        if changed and changed[0][0] > known.at:
            superseded = detail | {"superseded": True}
            audit = self._audit.event(
                tx, Action.USER_UPGRADE_TIER, subject_id, subject_id, Request(), detail=superseded
            )
            tx.log([], audit)
            return
        if changed:
            events = schema.user_events
            tx.execute(sa.update(events).where(events.c.event_hash == newest).values(ts=known.at))
        else:
            tx.run(_ADD_EVENT, {"event_hash": newest, "ts": known.at, "subject_id": subject_id})
        self._accounts.people.change(
            tx, row, Action.USER_UPGRADE_TIER, subject_id, Request(), {"tier": event.tier}, detail=detail
        )

    def _count_calls(self, tx: Transaction, known: _IdentifiedEvent, event: ApiCall, row: AccountRow) -> None:
        """Count uses that happened: nothing is refused, and the windows that are over stay as they were."""
        subject_id, resource, at = row["subject_id"], event.resource, _happened_at(tx, known)
        quotas = self._accounts.quotas
        if resource in TIERED:
            window = window_of(getattr(tier(row["tier"]), resource))
        else:
            window = window_of(PROVIDERS[resource.removeprefix("provider:")])
        stored = quotas.stored_counter(tx, subject_id, resource)
        counter = stored.at(at) if stored else Counter.new(*window, at)
        if resource in TIERED:
            counter = counter.limited(*window, at)
        inside = counter.window_start <= at < counter.resets_at
        same_day = at // DAY == counter.day
        changes = []
        if inside or same_day:
            counter = counter.plus(event.count * inside, event.count * same_day)
            quotas.write(tx, subject_id, resource, counter, stored=stored is not None)
            # The row of the lake belongs to the counter's day.
            changes = [counter.row(subject_id, resource, max(at, counter.day * DAY))]
        detail = _audit_facts(known, increment=event.count, counted=bool(changes))
        audit = self._audit.event(
            tx, Action.USAGE_COUNT, subject_id, subject_id, Request(), resource=resource, detail=detail
        )
        tx.log(changes, audit)


def _happened_at(tx: Transaction, known: _IdentifiedEvent) -> int:
    """Return when an event happened, by this machine's clock, which decides where the two differ by minutes."""
    return min(known.at, tx.now)


def _audit_facts(known: _IdentifiedEvent, **facts: Any) -> dict[str, Any]:
    """Return what the audit log says of an event besides what it did."""
    return {"origin": "event", "at": moment(known.at).isoformat(), **facts}
