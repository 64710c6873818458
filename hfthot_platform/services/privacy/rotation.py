"""Rotating the key-encryption key: every wrapped key is wrapped again, the lake is not touched."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

import sqlalchemy as sa

from hfthot_platform.core.errors import KeySourceError
from hfthot_platform.services.accounts.accounts import Accounts
from hfthot_platform.storage.operational import schema
from hfthot_platform.storage.operational.changes import AuditEvent, to_json
from hfthot_platform.storage.operational.connection import Connection, Transaction
from hfthot_platform.storage.vault import WrappedKey

__all__ = ["RotationReport", "rotate_keys"]

BATCH: Final = 2_000


@dataclass(frozen=True)
class RotationReport:
    """What a rotation did."""

    kek_id: str
    #: Keys wrapped anew: of subjects, and of the installation.
    subject_keys: int
    installation_keys: int
    #: Key-encryption keys that nothing is wrapped with any more and that were forgotten.
    dropped: tuple[str, ...]


def rotate_keys(accounts: Accounts, *, drop: bool = True) -> RotationReport:
    """Wrap every key with a new key-encryption key; a rotation that was interrupted is finished first.

    Where the keys come from the environment, the operator has put the new one before the others, and takes the old
    ones out afterwards.

    Args:
        accounts: the accounts.
        drop: whether the old key-encryption keys are forgotten at the end.  A backup of the operational store from
            before can then not be used any more, which is also what ends the life of persons erased since.

    Raises:
        KeySourceError: there is no new key, or the source cannot be written.
        LockTimeoutError: another rotation worked for too long.
    """
    with accounts.store.exclusively("rotation", 600.0):
        ring = accounts.vault.ring
        ring.reload()
        with accounts.store.reading() as rx:
            in_use = _in_use(rx)
        if ring.current_id in in_use and len(in_use) == 1:
            if accounts.settings.key_source == "environment":
                raise KeySourceError(
                    "there is no new key",
                    where="HFTHOT_KEYS",
                    hint="Put a new id:key pair before the others, restart every process, then rotate again.",
                )
            ring.add_new()
        new = ring.current_id
        with accounts.store.transaction() as tx:
            # The look-up key tells every process what to wrap new keys with: from this commit on nothing new is
            # wrapped with an old key.
            installation = rewrap_installation(accounts, tx, new)
        with accounts.store.reading() as rx:
            # Found through the index: a search for "not the new one" would pass over all that is done already.
            outdated = sorted(_in_use(rx) - {new})
        subjects = 0
        while True:
            with accounts.store.transaction() as tx:
                done = rewrap_subjects(accounts, tx, new, outdated)
                if not done:
                    event = AuditEvent(action="keys.rotate", resource=new, detail=to_json({"subject_keys": subjects}))
                    tx.log([], event)
                    break
                subjects += done
        # The old wrapping is on freed pages and in the journal.
        accounts.store.purge()
        with accounts.store.reading() as rx:
            old = tuple(sorted(set(ring.ids) - _in_use(rx) - {new}))
        if drop and accounts.settings.key_source != "environment":
            ring.drop(old)
        return RotationReport(new, subjects, installation, old if drop else ())


def _in_use(connection: Connection) -> set[str]:
    found: set[str] = set()
    for table in (schema.keys, schema.subject_keys):
        rows = connection.execute(sa.select(table.c.kek_id).distinct())
        found |= set(rows.scalars())
    return found


def rewrap_installation(accounts: Accounts, tx: Transaction, new: str) -> int:
    keys = schema.keys
    rows = tx.execute(sa.select(keys.c.name, keys.c.kek_id, keys.c.wrapped).where(keys.c.kek_id != new)).all()
    for name, kek_id, wrapped in rows:
        again = accounts.vault.rewrap(WrappedKey(kek_id, bytes(wrapped)), new)
        tx.execute(sa.update(keys).where(keys.c.name == name).values(kek_id=new, wrapped=again.blob))
    return len(rows)


def rewrap_subjects(accounts: Accounts, tx: Transaction, new: str, outdated: list[str]) -> int:
    """Wrap one batch again; return how many."""
    keys = schema.subject_keys
    rows = tx.execute(sa.select(keys).where(keys.c.kek_id.in_(outdated)).limit(BATCH)).all()
    if not rows:
        return 0
    changed = [
        {
            "by_subject": row.subject_id,
            "by_category": row.category,
            "again": accounts.vault.rewrap(WrappedKey(row.kek_id, bytes(row.wrapped)), new).blob,
        }
        for row in rows
    ]
    statement = (
        sa.update(keys)
        .where(keys.c.subject_id == sa.bindparam("by_subject"), keys.c.category == sa.bindparam("by_category"))
        .values(kek_id=new, wrapped=sa.bindparam("again"))
    )
    tx.execute(statement, changed)
    return len(rows)
