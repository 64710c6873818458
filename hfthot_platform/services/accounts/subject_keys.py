"""The installation's keys and the persons' ciphers: who can be found by what, and what of whom can be read.

Here belongs which wrapped key is whose.  What wrapping and encrypting are is `storage.vault`'s.
"""

from __future__ import annotations

import hmac
from collections.abc import Iterable
from typing import Final

import sqlalchemy as sa

from hfthot_platform.core.errors import ErasedSubjectError
from hfthot_platform.domain.contracts.accounts import Category
from hfthot_platform.services.accounts.records import RANDOM_ID
from hfthot_platform.storage.operational import schema
from hfthot_platform.storage.operational.connection import Connection, Prepared, Transaction
from hfthot_platform.storage.operational.store import Store
from hfthot_platform.storage.vault import SubjectCipher, Vault, WrappedKey

__all__ = ["SubjectKeys", "erased_error"]

_CHUNK: Final = 500

_SUBJECT_KEY: Final = Prepared(
    sa.select(schema.subject_keys.c.kek_id, schema.subject_keys.c.wrapped).where(
        schema.subject_keys.c.subject_id == sa.bindparam("subject"),
        schema.subject_keys.c.category == sa.bindparam("kind"),
    )
)
_SUBJECT: Final = Prepared(
    sa.select(schema.subjects.c.erased_at).where(schema.subjects.c.subject_id == sa.bindparam("by"))
)
_ADD_SUBJECT_KEY: Final = Prepared.inserting(schema.subject_keys)
_INSTALLATION_KEY: Final = Prepared(
    sa.select(schema.keys.c.kek_id, schema.keys.c.wrapped).where(schema.keys.c.name == sa.bindparam("by"))
)
_ADD_INSTALLATION_KEY: Final = Prepared.inserting(schema.keys)


class SubjectKeys:
    """Keyed hashes and ciphers, by the wrapped keys of the store and the vault that unwraps them."""

    def __init__(self, store: Store, vault: Vault) -> None:
        self._store = store
        self._vault = vault
        self._lookup_key = self.installation_key("lookup")
        # With the store, so that every backup has it: what is signed later must fit a store that was put back.
        self.installation_key("signing")

    def installation_key(self, name: str) -> bytes:
        """Return one of the installation's own keys of 32 bytes (`lookup`, `signing`), made on first use."""
        with self._store.reading() as rx:
            found = rx.run(_INSTALLATION_KEY, {"by": name})
        if not found:
            with self._store.transaction() as tx:
                found = tx.run(_INSTALLATION_KEY, {"by": name})
                if not found:
                    made = self._vault.new_key(self.current_kek(tx))
                    row = {"name": name, "kek_id": made.kek_id, "wrapped": made.blob, "created_at": tx.now}
                    tx.run(_ADD_INSTALLATION_KEY, row)
                    return self._vault.unwrap(made)
        return self._vault.unwrap(WrappedKey(found[0][0], bytes(found[0][1])))

    def current_kek(self, connection: Connection) -> str:
        """Return what new keys are wrapped with: whatever wraps the look-up key.

        The store says it, not this process's key ring: once a rotation has moved the look-up key, no process can
        wrap with the old key-encryption key any more.
        """
        found = connection.run(_INSTALLATION_KEY, {"by": "lookup"})
        return str(found[0][0]) if found else self._vault.ring.current_id

    def look_up(self, kind: str, text: str) -> bytes:
        """Return the keyed hash that a username, an address or the like is found by."""
        # A lone surrogate cannot be encoded; it stands for nothing that anybody registered.
        return hmac.digest(self._lookup_key, f"{kind}\0{text}".encode(errors="replace"), "sha256")

    def cipher(self, tx: Transaction, subject_id: str, category: Category) -> SubjectCipher:
        """Return a subject's cipher, making its data key in this transaction if it has none yet.

        Raises:
            ErasedSubjectError: the subject was erased.
        """
        found = tx.run(_SUBJECT_KEY, {"subject": subject_id, "kind": category})
        if found:
            return self._vault.cipher(subject_id, WrappedKey(found[0][0], bytes(found[0][1])))
        subject = tx.run(_SUBJECT, {"by": subject_id})
        if not subject or subject[0][0] is not None:
            raise erased_error()
        made = self._vault.new_key(self.current_kek(tx))
        row = {"subject_id": subject_id, "category": category, "kek_id": made.kek_id, "wrapped": made.blob}
        tx.run(_ADD_SUBJECT_KEY, row)
        return self._vault.cipher(subject_id, made)

    def ciphers(self, subject_ids: Iterable[str], category: Category) -> dict[str, SubjectCipher]:
        """Return the ciphers of subjects for one category; those without a key (erased, or never used) are left out.

        The wrapped keys are read at each call, so that what was erased a moment ago cannot be read.
        """
        wanted = sorted({subject_id for subject_id in subject_ids if RANDOM_ID.fullmatch(subject_id)})
        keys = schema.subject_keys.c
        found: dict[str, SubjectCipher] = {}
        with self._store.reading() as rx:
            for start in range(0, len(wanted), _CHUNK):
                statement = sa.select(keys.subject_id, keys.kek_id, keys.wrapped).where(
                    keys.category == category, keys.subject_id.in_(wanted[start : start + _CHUNK])
                )
                for subject_id, kek_id, wrapped in rx.execute(statement).all():
                    found[subject_id] = self._vault.cipher(subject_id, WrappedKey(kek_id, wrapped))
        return found


def erased_error() -> ErasedSubjectError:
    """Return the error for an account that was erased."""
    return ErasedSubjectError("the account was erased", where="user_id", hint="Its data no longer exists.")
