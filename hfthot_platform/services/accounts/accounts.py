"""`Accounts`: every operation on users, sessions, keys and quotas.

Each is one transaction with one audit event, of what was done and of what was refused; reads are audited as well.
`Accounts` puts the parts together and offers their operations: people, sessions, keys and quotas, which share who has
an account (`directory`), what can be read of whom (`subject_keys`), the audit, and the counts in memory (`tallies`).
What an erasure destroys here is below, the erasure itself is `privacy`'s.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from dataclasses import replace
from datetime import datetime
from typing import Any, Final, Self, get_args

import sqlalchemy as sa

from hfthot_platform.core.errors import BadRequestError, UnknownUserError
from hfthot_platform.core.settings import Settings
from hfthot_platform.core.time import utc_now
from hfthot_platform.domain.access.authorisation import SYSTEM
from hfthot_platform.domain.contracts.accounts import Category
from hfthot_platform.services.accounts.audit import Audit
from hfthot_platform.services.accounts.credentials import Keys
from hfthot_platform.services.accounts.directory import Directory
from hfthot_platform.services.accounts.journal import Journal
from hfthot_platform.services.accounts.passwords import Passwords
from hfthot_platform.services.accounts.people import People
from hfthot_platform.services.accounts.quotas import Quotas
from hfthot_platform.services.accounts.records import Request, Usage
from hfthot_platform.services.accounts.sessions import Sessions, account_attempts
from hfthot_platform.services.accounts.subject_keys import SubjectKeys
from hfthot_platform.services.accounts.tallies import Tallies
from hfthot_platform.storage.operational import schema
from hfthot_platform.storage.operational.changes import AuditEvent, RowChange, decode, encode, to_json
from hfthot_platform.storage.operational.connection import Transaction
from hfthot_platform.storage.operational.places import record_places
from hfthot_platform.storage.operational.store import Store
from hfthot_platform.storage.vault import KeyRing, Vault

__all__ = ["CATEGORIES", "Accounts"]

#: Everything that is held about a subject.
CATEGORIES: Final[tuple[Category, ...]] = get_args(Category)
#: What each category covers in the lake, and in the store besides the data key.
_LAKE: Final[Mapping[Category, tuple[str, ...]]] = {
    "identity": ("users", "usage"),
    "sessions": ("sessions",),
    "credentials": ("api_keys",),
    "audit": ("audit_log",),
}
_STORE: Final[Mapping[Category, tuple[sa.Table, ...]]] = {
    "identity": (schema.usage, schema.users),
    "sessions": (schema.sessions, schema.known_addresses),
    "credentials": (schema.api_keys, schema.provider_keys),
    "audit": (),
}


class Accounts:
    """The accounts of an installation.  Safe to use from many threads and processes."""

    def __init__(self, settings: Settings, store: Store, vault: Vault) -> None:
        self.settings = settings
        self.store = store
        self.vault = vault
        self.clock = store.clock
        self.passwords = Passwords(settings)
        journal = Journal()
        keys = self.subject_keys = SubjectKeys(store, vault)
        directory = self.directory = Directory(store, keys)
        audit = self.audit = Audit(store, keys, directory, journal)
        self.quotas = Quotas(store, keys, directory, audit)
        tallies = self.tallies = Tallies(store, directory, audit, journal, self.quotas)
        self.sessions = Sessions(settings, store, keys, directory, audit, self.passwords, tallies)
        self.keys = Keys(store, keys, directory, audit, tallies, self.quotas)
        self.people = People(settings, store, keys, directory, audit, self.passwords, self.sessions)

        # The operations, by theme; each is documented where it is written.
        self.register = self.people.register
        self.get_user = self.people.get_user
        self.find_user = self.people.find_user
        self.list_users = self.people.list_users
        self.update_user = self.people.update_user
        self.approve_user = self.people.approve_user
        self.reject_user = self.people.reject_user
        self.deactivate = self.people.deactivate
        self.set_role = self.people.set_role
        self.upgrade_tier = self.people.upgrade_tier
        self.delete_user_soft = self.people.delete_user_soft
        self.restore_user = self.people.restore_user

        self.login = self.sessions.login
        self.verify_token = self.sessions.verify_token
        self.logout = self.sessions.logout
        self.change_password = self.sessions.change_password

        self.generate_hfthot_api_key = self.keys.generate_hfthot_api_key
        self.rotate_api_key = self.keys.rotate_api_key
        self.revoke_api_key = self.keys.revoke_api_key
        self.list_api_keys = self.keys.list_api_keys
        self.verify_api_key = self.keys.verify_api_key
        self.get_api_keys = self.keys.get_api_keys
        self.save_api_keys = self.keys.save_api_keys

        self.update_query_count = self.quotas.update_query_count
        self.count_use = self.quotas.count_use
        self.count_request = self.quotas.count_request
        self.get_query_stats = self.quotas.get_query_stats
        self.provider_id = self.quotas.provider_id

        # What services that act on persons' data build on.
        self.subject_of = directory.subject_of
        self.account = directory.account
        self.account_of = directory.account_of
        self.actor = directory.actor
        self.operation = audit.operation
        self.event = audit.event
        self.record = audit.record
        self.now = audit.now
        self.installation_key = keys.installation_key
        self.current_kek = keys.current_kek
        self.cipher = keys.cipher
        self.ciphers = keys.ciphers
        self.flush = tallies.flush

    @classmethod
    def open(cls, settings: Settings, clock: Callable[[], datetime] = utc_now, *, create: bool | None = None) -> Self:
        """Open the accounts of the settings.

        Args:
            settings: where they are.
            clock: tells the time.
            create: whether store and keys are made where there are none; by default only where the caller of the
                settings named the places itself (`Settings.names_places`).  Keys are never made for a store that is
                there: it could not be read with them.

        Raises:
            StoreMissingError: there is no store, and it is not to be made.
            StoreError: the store cannot be opened.
            KeySourceError: the key-encryption keys cannot be had.
            ConfigError: the settings contradict each other.
        """
        new = settings.names_places if create is None else create
        store = Store.open(settings, clock, create=new)
        try:
            with store.reading() as rx:
                used = bool(rx.execute(sa.select(sa.literal(1)).select_from(schema.keys).limit(1)).all())
            vault = Vault(KeyRing.open(settings, create=new and not used))
            record_places(store, settings)
            return cls(settings, store, vault)
        except BaseException:
            store.close()
            raise

    def usage(self, user_id: str, *, request: Request = Request()) -> Usage:  # noqa: B008 - frozen
        """Return what an account used today and what its tier allows.

        Raises:
            UnknownUserError, ErasedSubjectError, InactiveAccountError, PermissionDeniedError: not for this account.
        """
        # What was counted in memory belongs to it.
        self.tallies.flush()
        return self.quotas.usage(user_id, request=request)

    def close(self) -> None:
        """Write what is counted in memory, and close the store."""
        try:
            self.tallies.flush()
        finally:
            self.store.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self.store!r})"

    def destroy(
        self,
        tx: Transaction,
        subject_id: str,
        categories: Collection[Category] = CATEGORIES,
        *,
        request_id: str | None = None,
        actor_id: str = SYSTEM,
    ) -> dict[str, int]:
        """Destroy a subject's keys and rows of some categories, in the caller's transaction; return rows by table.

        From the commit on nobody can read the subject's envelopes of these categories, wherever copies of them are.
        The entry that is logged makes the publisher forget the live rows in the lake.  With `identity` the account
        itself goes: its user id, look-ups and counters, and what a call with its user id is told is that it is erased.
        Doing it again changes and logs nothing.

        Raises:
            BadRequestError: there is no such category.
            UnknownUserError: there never was such a subject.
        """
        if odd := sorted(set(categories) - set(CATEGORIES)):
            raise BadRequestError(
                f"unknown categories {odd}", where="categories", hint=f"Choose from {', '.join(CATEGORIES)}."
            )
        chosen = [category for category in CATEGORIES if category in set(categories)]
        subject = tx.execute(sa.select(schema.subjects).where(schema.subjects.c.subject_id == subject_id)).first()
        if subject is None:
            raise UnknownUserError(
                "no account has this subject id",
                where="subject_id",
                hint="`subject_of` returns the subject id of an account.",
            )
        gone: dict[str, int] = {}

        def delete(table: sa.Table, *where: Any) -> None:
            gone[table.name] = gone.get(table.name, 0) + tx.execute(sa.delete(table).where(*where)).rowcount

        keys = schema.subject_keys
        delete(keys, keys.c.subject_id == subject_id, keys.c.category.in_(chosen))
        if "identity" in chosen and (account := self.account_of(tx, subject_id)) is not None:
            attempts = schema.login_attempts
            counters = [account_attempts(account["username_lookup"]), account_attempts(account["email_lookup"])]
            delete(attempts, sa.or_(attempts.c.lookup.in_(counters), attempts.c.account.in_(counters)))
            tx.execute(
                sa.insert(schema.erased_users).values(user_lookup=self.subject_keys.look_up("user", account["user_id"]))
            )
        for category in chosen:
            for table in _STORE[category]:
                delete(table, table.c.subject_id == subject_id)
        if "identity" in chosen:
            events = schema.user_events
            mine = events.c.subject_id == subject_id
            gone[events.name] = tx.execute(sa.update(events).where(mine).values(subject_id=None)).rowcount
            ended = schema.subjects.c.subject_id == subject_id, schema.subjects.c.erased_at.is_(None)
            gone["subjects"] = tx.execute(sa.update(schema.subjects).where(*ended).values(erased_at=tx.now)).rowcount
        if waiting := self._forget_aside(tx, subject_id, {table for category in chosen for table in _LAKE[category]}):
            gone["set_aside"] = waiting
        if any(gone.values()):
            rows = [
                RowChange(table, "forget", {"subject_id": subject_id})
                for category in chosen
                for table in _LAKE[category]
            ]
            event = AuditEvent(
                action="subject.destroy",
                subject_id=subject_id,
                actor_id=actor_id,
                resource=request_id,
                detail=to_json({"categories": chosen}),
            )
            tx.log(rows, event)
        return {table: count for table, count in gone.items() if count}

    def _forget_aside(self, tx: Transaction, subject_id: str, tables: set[str]) -> int:
        """Take a subject's rows of some tables out of the entries that wait aside; return how many it changed."""
        waiting = schema.set_aside
        changed = 0
        for row in tx.execute(sa.select(waiting)).all():
            entry = decode(row.seq, row.ts, bytes(row.payload))
            kept = (
                change
                for change in entry.rows
                if change.table not in tables or change.row.get("subject_id") != subject_id
            )
            left = replace(entry, rows=tuple(kept))
            if "audit_log" in tables and entry.audit.subject_id == subject_id:
                left = replace(left, audit=replace(left.audit, ip=None, user_agent=None, personal_detail=None))
            if left == entry:
                continue
            this = waiting.c.seq == row.seq
            if row.audited and not left.rows:
                tx.execute(sa.delete(waiting).where(this))
            else:
                tx.execute(sa.update(waiting).where(this).values(payload=encode(left)))
            changed += 1
        return changed
