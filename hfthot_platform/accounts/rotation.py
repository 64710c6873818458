"""Rotation of the key-encryption keys: everything wrapped is wrapped anew, nothing encrypted is touched.

1. The ring gets a new current key (unless an interrupted rotation left one that is unfinished).
2. One transaction rewraps the installation's own keys.  What wraps the look-up key is what every process wraps new
   data keys with (`Core.cipher`), so from this commit on no row with an old key can appear.
3. Batches rewrap the subjects' data keys, each in a transaction of its own.
4. When no row needs an old key any more, the ring forgets it.

Killed anywhere, the next call goes on from where it was; registrations and everything else go on meanwhile.
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass
from typing import Any, Final

import sqlalchemy as sa

from hfthot_platform.accounts import schema
from hfthot_platform.accounts.changes import AuditEvent, to_json
from hfthot_platform.accounts.core import SYSTEM, Core
from hfthot_platform.errors import KeySourceError
from hfthot_platform.privacy.vault import Wrapped

__all__ = ["Rotation", "rotate_keys"]

_BATCH: Final = 500


@dataclass(frozen=True, slots=True)
class Rotation:
    """What a rotation did; ids and counts only."""

    current_id: str
    #: Key-encryption keys that nothing needs any more.
    retired: tuple[str, ...]
    #: False where they are in the environment, from which only the operator can take them.
    dropped: bool
    installation_keys: int
    subject_keys: int
    #: Whether it finished what an earlier rotation had begun, without a further key.
    resumed: bool


def rotate_keys(accounts: Core) -> Rotation:
    """Wrap all keys with a new key-encryption key and retire the old ones; one rotation at a time.

    Backups of the store from before need the old keys: keep those of the key source as long as these.

    Raises:
        KeySourceError: the key source cannot be changed; for the environment the message says what to set first.
        LockTimeoutError: another rotation is under way.
    """
    ring = accounts.vault.ring
    with accounts.store.exclusively("rotation"):
        ring.reload()
        in_use = _in_use(accounts)
        resumed = ring.current_id not in in_use or len(ring.ids) > 1
        if accounts.settings.key_source == "environment" and in_use <= {ring.current_id} and len(ring.ids) == 1:
            raise KeySourceError(
                "everything is wrapped with the only key that the environment holds",
                where="HFTHOT_KEYS",
                hint="Put a new id:key pair (32 random bytes in Base64) before it, restart everything, rotate.",
            )
        current = ring.current_id if resumed else ring.add_new()
        own = _rewrap_installation(accounts, current)
        # Found through the index, however many keys there are already under the current one.
        old = _in_use(accounts) - {current}
        subjects = 0
        while old and (done := _rewrap_subjects(accounts, current, old)):
            subjects += done
        if left := _in_use(accounts) - {current}:
            raise KeySourceError(
                f"keys wrapped with {sorted(left)} appeared during the rotation",
                where="subject_keys",
                hint="A process of an older version is running: stop it, then rotate again.",
            )
        retired = tuple(each for each in ring.ids if each != current)
        dropped = accounts.settings.key_source != "environment"
        if dropped:
            ring.drop(retired)
    with accounts.store.transaction() as tx:
        detail = {"current": current, "retired": list(retired), "subject_keys": subjects}
        tx.log([], AuditEvent(action="keys.rotate", actor_id=SYSTEM, detail=to_json(detail)))
    return Rotation(current, retired, dropped, own, subjects, resumed)


_IN_USE: Final = sa.union(sa.select(schema.keys.c.kek_id), sa.select(schema.subject_keys.c.kek_id))


def _in_use(accounts: Core) -> set[str]:
    with accounts.store.reading() as rx:
        return {row[0] for row in rx.execute(_IN_USE).all()}


def _rewrap_installation(accounts: Core, current: str) -> int:
    keys = schema.keys
    with accounts.store.transaction() as tx:
        old = tx.execute(sa.select(keys).where(keys.c.kek_id != current)).all()
        for row in old:
            fresh = accounts.vault.rewrap(Wrapped(row.kek_id, row.wrapped), current)
            values = {"kek_id": fresh.kek_id, "wrapped": fresh.blob}
            tx.execute(sa.update(keys).where(keys.c.name == row.name).values(values))
    return len(old)


def _rewrap_subjects(accounts: Core, current: str, old_ids: Collection[str]) -> int:
    """Rewrap one batch; return how many there were."""
    keys = schema.subject_keys
    with accounts.store.transaction() as tx:
        old = tx.execute(sa.select(keys).where(keys.c.kek_id.in_(old_ids)).limit(_BATCH)).all()
        if not old:
            return 0
        fresh = [
            {
                "whom": row.subject_id,
                "what": row.category,
                "new_kek": current,
                "new_blob": accounts.vault.rewrap(Wrapped(row.kek_id, row.wrapped), current).blob,
            }
            for row in old
        ]
        mine = keys.c.subject_id == sa.bindparam("whom"), keys.c.category == sa.bindparam("what")
        values: dict[str, Any] = {"kek_id": sa.bindparam("new_kek"), "wrapped": sa.bindparam("new_blob")}
        tx.execute(sa.update(keys).where(*mine).values(values), fresh)
    return len(old)
