"""API keys issued here, and the keys of data providers that people leave with us.

A key issued here has 256 random bits, and is kept only as its SHA-256 and a prefix for display; a provider's key is
kept encrypted, since it has to be used.  A provider that is not on the list is whatever a person typed, so its name is
kept with the key, in the same envelope; everywhere else it goes by a keyed hash (`Quotas.provider_id`).
"""

from __future__ import annotations

import json
import re
import secrets
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from hashlib import sha256
from typing import Any, Final
from unicodedata import category

import sqlalchemy as sa

from hfthot_platform.core.errors import (
    AuthenticationError,
    BadRequestError,
    InactiveAccountError,
    InvalidTokenError,
    RevokedTokenError,
)
from hfthot_platform.core.time import moment
from hfthot_platform.domain.access.authorisation import Action
from hfthot_platform.domain.access.plans import tier
from hfthot_platform.services.accounts.audit import Audit
from hfthot_platform.services.accounts.directory import AccountRow, Directory
from hfthot_platform.services.accounts.journal import Tally
from hfthot_platform.services.accounts.providers import OWN, PROVIDER_NAME, PROVIDERS
from hfthot_platform.services.accounts.quotas import Counter, Quotas, window_of
from hfthot_platform.services.accounts.records import RANDOM_ID, ApiKey, ApiKeys, ProviderKey, Request, Secret
from hfthot_platform.services.accounts.subject_keys import SubjectKeys
from hfthot_platform.services.accounts.tallies import Tallies
from hfthot_platform.storage.operational import schema
from hfthot_platform.storage.operational.changes import RowChange
from hfthot_platform.storage.operational.connection import Prepared, Transaction
from hfthot_platform.storage.operational.published import issued_row, provider_row, users_row
from hfthot_platform.storage.operational.store import Store

__all__ = ["Keys", "provider_secret"]

_HERE: Final = Request()
_KEY: Final = re.compile(r"hft_(?:free|hob|pro|ent)_[A-Za-z0-9_-]{43}")
#: Valid keys of one account at once.
_MOST_KEYS: Final = 20
#: Providers of one account that are none of the list.
_MOST_OWN: Final = 20
_LONGEST: Final = 4096
_ADD_KEY: Final = Prepared.inserting(schema.api_keys)
_VERIFY: Final = Prepared(
    sa.select(
        schema.api_keys.c.key_id,
        schema.api_keys.c.subject_id,
        schema.api_keys.c.prefix,
        schema.api_keys.c.created_at,
        schema.api_keys.c.revoked_at,
        schema.users.c.user_id,
        schema.users.c.role,
        schema.users.c.tier,
        schema.users.c.active,
        schema.users.c.deleted_at,
    )
    .join(schema.users, schema.users.c.subject_id == schema.api_keys.c.subject_id)
    .where(schema.api_keys.c.key_hash == sa.bindparam("key"))
)


class Keys:
    """The operations on keys: those issued here, and those of data providers."""

    def __init__(
        self, store: Store, keys: SubjectKeys, directory: Directory, audit: Audit, tallies: Tallies, quotas: Quotas
    ) -> None:
        self._store = store
        self._keys = keys
        self._directory = directory
        self._audit = audit
        self._tallies = tallies
        self._quotas = quotas

    # -- keys issued here -----------------------------------------------------------------------------------

    def generate_hfthot_api_key(self, user_id: str, *, request: Request = _HERE) -> ApiKey:
        """Make a further API key for the account's tier; its `key` is returned this once.

        Raises:
            BadRequestError: the account has 20 valid keys already.
            UnknownUserError, ErasedSubjectError, InactiveAccountError, PermissionDeniedError: not for this account.
        """
        with self._audit.operation(Action.API_KEY_GENERATE, request, user_id) as tx:
            actor = self._directory.actor(tx, request, Action.API_KEY_GENERATE, user_id)
            row = self._directory.open_account(tx, user_id)
            if len(self._valid_keys(tx, row["subject_id"])) >= _MOST_KEYS:
                raise BadRequestError(
                    f"the account has {_MOST_KEYS} valid keys", where=f"user {user_id}", hint="Revoke one first."
                )
            made, change = self._make_key(tx, row)
            event = self._audit.event(
                tx, Action.API_KEY_GENERATE, row["subject_id"], actor, request, resource=made.key_id
            )
            tx.log([change], event)
        return made

    def rotate_api_key(self, user_id: str, key_id: str | None = None, *, request: Request = _HERE) -> ApiKey:
        """Replace a valid key (the newest one unless named): the old one is refused from this moment on.

        Raises:
            InvalidTokenError, RevokedTokenError: the account has no such key, or it is not valid any more.
            UnknownUserError, ErasedSubjectError, InactiveAccountError, PermissionDeniedError: not for this account.
        """
        with self._audit.operation(Action.API_KEY_ROTATE, request, user_id) as tx:
            actor = self._directory.actor(tx, request, Action.API_KEY_ROTATE, user_id)
            row = self._directory.open_account(tx, user_id)
            old = self._own_key(tx, row["subject_id"], key_id)
            made, change = self._make_key(tx, row)
            revoked = self._revoke(tx, old, made.key_id)
            detail = {"replaced": old["key_id"]}
            event = self._audit.event(
                tx, Action.API_KEY_ROTATE, row["subject_id"], actor, request, resource=made.key_id, detail=detail
            )
            tx.log([change, revoked], event)
        return made

    def revoke_api_key(self, user_id: str, key_id: str, *, request: Request = _HERE) -> None:
        """Refuse a key from this moment on.

        Raises:
            InvalidTokenError, RevokedTokenError: the account has no such key, or it is not valid any more.
            UnknownUserError, ErasedSubjectError, PermissionDeniedError: not for this account.
        """
        with self._audit.operation(Action.API_KEY_REVOKE, request, user_id) as tx:
            actor = self._directory.actor(tx, request, Action.API_KEY_REVOKE, user_id)
            row = self._directory.account(tx, user_id)
            old = self._own_key(tx, row["subject_id"], key_id)
            revoked = self._revoke(tx, old, None)
            tx.log(
                [revoked],
                self._audit.event(tx, Action.API_KEY_REVOKE, row["subject_id"], actor, request, resource=key_id),
            )

    def list_api_keys(self, user_id: str, *, request: Request = _HERE) -> list[ApiKey]:
        """Return all keys that were issued to an account, the newest first; never the keys themselves.

        Raises:
            UnknownUserError, ErasedSubjectError, PermissionDeniedError: not for this account.
        """
        keys = schema.api_keys
        with self._audit.operation(Action.API_KEY_LIST, request, user_id) as tx:
            actor = self._directory.actor(tx, request, Action.API_KEY_LIST, user_id)
            row = self._directory.account(tx, user_id)
            statement = sa.select(keys).where(keys.c.subject_id == row["subject_id"])
            found = tx.execute(statement.order_by(keys.c.created_at.desc(), keys.c.key_id)).mappings().all()
            tx.log([], self._audit.event(tx, Action.API_KEY_LIST, row["subject_id"], actor, request))
        return [_api_key(issued, row) for issued in found]

    def verify_api_key(self, key: str | Secret, *, request: Request = _HERE, counted: bool = True) -> ApiKey:
        """Return whose key it is and what tier the account has now: one indexed read.

        Each success counts as one of the account's requests; they are counted in memory and written together, unless
        the caller counts them itself by `count_request` (`counted` False).

        Raises:
            InvalidTokenError: it was never issued, or was altered.
            RevokedTokenError: it was revoked or replaced.
            InactiveAccountError: the account is deactivated or deleted.
        """
        # Whoever presents it need not be the person: no address is kept.
        del request
        clear = key.get_secret_value() if isinstance(key, Secret) else str(key)
        found: list[tuple[Any, ...]] = []
        if _KEY.fullmatch(clear):
            with self._store.reading() as rx:
                found = rx.run(_VERIFY, {"key": sha256(clear.encode()).digest()})
        if not found:
            self._audit.rejected(Action.API_KEY_VERIFY, None, None)
            raise InvalidTokenError("it is not an API key of this platform", where="API key", hint="Generate one.")
        key_id, subject_id, prefix, created_at, revoked_at, user_id, role, level, active, deleted_at = found[0]
        error: AuthenticationError
        if revoked_at is not None:
            error = RevokedTokenError(
                f"the key {prefix}... was revoked at {moment(revoked_at).isoformat()}",
                where="API key",
                hint="Use the key that replaced it, or generate one.",
            )
        elif not active or deleted_at is not None:
            error = InactiveAccountError(
                "the account is deactivated or deleted", where=f"API key {prefix}...", hint="Ask an administrator."
            )
        else:
            action = Action.API_KEY_VERIFY if counted or tier(level).requests is None else "api_key.use"
            self._tallies.count(Tally(action, "success", subject_id, subject_id, key_id))
            return ApiKey(key_id, user_id, role, level, prefix, moment(created_at))
        self._audit.rejected(Action.API_KEY_VERIFY, subject_id, key_id)
        raise error

    def _valid_keys(self, tx: Transaction, subject_id: str) -> list[dict[str, Any]]:
        """Return the valid keys, the newest first."""
        keys = schema.api_keys
        statement = sa.select(keys).where(keys.c.subject_id == subject_id, keys.c.revoked_at.is_(None))
        found = tx.execute(statement.order_by(keys.c.created_at.desc(), keys.c.key_id))
        return [dict(row) for row in found.mappings()]

    def _own_key(self, tx: Transaction, subject_id: str, key_id: str | None) -> dict[str, Any]:
        if key_id is None:
            valid = self._valid_keys(tx, subject_id)
            if not valid:
                raise InvalidTokenError("the account has no valid key", where="API key", hint="Generate one.")
            return valid[0]
        keys = schema.api_keys
        found = None
        if RANDOM_ID.fullmatch(str(key_id)):
            statement = sa.select(keys).where(keys.c.subject_id == subject_id, keys.c.key_id == key_id)
            found = tx.execute(statement).mappings().first()
        if found is None:
            raise InvalidTokenError(
                "the account has no key with this id", where="key_id", hint="`list_api_keys` returns the ids."
            )
        if found["revoked_at"] is not None:
            raise RevokedTokenError("the key is already revoked", where=f"key {key_id}", hint="Nothing to do.")
        return dict(found)

    def _make_key(self, tx: Transaction, account: AccountRow) -> tuple[ApiKey, RowChange]:
        level = tier(account["tier"])
        clear = level.key_prefix + secrets.token_urlsafe(32)
        row = {
            "key_hash": sha256(clear.encode()).digest(),
            "key_id": secrets.token_hex(16),
            "subject_id": account["subject_id"],
            "tier": level.name,
            "prefix": clear[: len(level.key_prefix) + 4],
            "created_at": tx.now,
            "revoked_at": None,
            "replaced_by": None,
        }
        tx.run(_ADD_KEY, row)
        return replace(_api_key(row, account), key=Secret(clear)), issued_row(row)

    def _revoke(self, tx: Transaction, row: dict[str, Any], replaced_by: str | None) -> RowChange:
        values = {"revoked_at": tx.now, "replaced_by": replaced_by}
        tx.execute(sa.update(schema.api_keys).where(schema.api_keys.c.key_id == row["key_id"]).values(values))
        return issued_row(row | values)

    # -- keys of data providers -----------------------------------------------------------------------------

    def get_api_keys(self, user_id: str, *, request: Request = _HERE) -> ApiKeys:
        """Return the keys of an account: its providers' in clear with their quotas, of its own the display prefix.

        Raises:
            UnknownUserError, ErasedSubjectError, InactiveAccountError, PermissionDeniedError: not for this account.
        """
        stored = schema.provider_keys
        with self._audit.operation(Action.API_KEYS_READ, request, user_id) as tx:
            actor = self._directory.actor(tx, request, Action.API_KEYS_READ, user_id)
            row = self._directory.living(tx, user_id)
            subject_id = row["subject_id"]
            valid = self._valid_keys(tx, subject_id)
            statement = sa.select(stored.c.provider, stored.c.secret).where(stored.c.subject_id == subject_id)
            found = tx.execute(statement.order_by(stored.c.provider)).all()
            keys: dict[str, ProviderKey] = {}
            if found:
                cipher = self._keys.cipher(tx, subject_id, "credentials")
                for provider, secret in found:
                    counter, _ = self._quotas.provider_counter(tx, subject_id, provider)
                    name, key = provider_secret(provider, cipher.decrypt("api_keys", "secret", secret))
                    keys[name] = {
                        "api_key": key,
                        "queries_done": counter.used,
                        "queries_remaining": counter.remaining,
                        "queries_limit": counter.quota,
                    }
            tx.log([], self._audit.event(tx, Action.API_KEYS_READ, subject_id, actor, request))
        return {
            "hfthot_api_key": valid[0]["prefix"] if valid else None,
            "provider_keys": keys,
            "data_sharing_consent": row["data_sharing_consent"],
        }

    def save_api_keys(
        self,
        user_id: str,
        provider_keys: Mapping[str, str | Mapping[str, Any] | None],
        data_sharing_consent: bool | None = None,  # noqa: FBT001 - the product's signature
        *,
        request: Request = _HERE,
    ) -> ApiKeys:
        """Store keys of data providers, encrypted, and the consent to share data; return what `get_api_keys` does.

        Args:
            user_id: whose keys.
            provider_keys: by provider the key, or `{"api_key": ..., "queries_limit": ...}` for a plan of its own
                (`queries_limit` None is unlimited; `window_seconds` where the window is not the provider's usual one),
                or None to remove it.  Providers that are not named keep their keys.  One that is not on the list may
                have any name of a letter and up to 39 letters, digits and `_`; nobody but the person reads it, and it
                has no limit unless one is given.
            data_sharing_consent: None leaves it as it is.
            request: who asks.

        Raises:
            BadRequestError: a provider's name cannot be one, a key is empty or too long, or the account has 20
                providers outside of the list.
            UnknownUserError, ErasedSubjectError, InactiveAccountError, PermissionDeniedError: not for this account.
        """
        wanted = {provider: _given(provider, value) for provider, value in provider_keys.items()}
        with self._audit.operation(Action.API_KEYS_SAVE, request, user_id) as tx:
            actor = self._directory.actor(tx, request, Action.API_KEYS_SAVE, user_id)
            row = self._directory.open_account(tx, user_id)
            changes: list[RowChange] = []
            for provider, given in sorted(wanted.items()):
                provider_id = self._quotas.provider_id(user_id, provider)
                changes += self._save_provider(tx, row["subject_id"], provider_id, provider, given)
            self._require_few(tx, row["subject_id"])
            if data_sharing_consent is not None and data_sharing_consent != row["data_sharing_consent"]:
                self._directory.change(tx, row, {"data_sharing_consent": bool(data_sharing_consent)})
                changes.append(users_row(row))
            detail = {
                "providers": sorted(self._quotas.provider_id(user_id, provider) for provider in wanted),
                "data_sharing_consent": row["data_sharing_consent"],
            }
            tx.log(
                changes, self._audit.event(tx, Action.API_KEYS_SAVE, row["subject_id"], actor, request, detail=detail)
            )
        return self.get_api_keys(user_id, request=request)

    def _require_few(self, tx: Transaction, subject_id: str) -> None:
        stored = schema.provider_keys.c
        own = sa.select(sa.func.count()).where(stored.subject_id == subject_id, stored.provider.like(f"{OWN}%"))
        if tx.execute(own).scalar_one() > _MOST_OWN:
            raise BadRequestError(
                f"an account has at most {_MOST_OWN} providers that are not on the platform's list",
                where="provider_keys",
                hint="Remove one first: save its name with None.",
            )

    def _save_provider(
        self, tx: Transaction, subject_id: str, provider: str, name: str, given: _GivenKey | None
    ) -> list[RowChange]:
        stored = schema.provider_keys
        this = sa.and_(stored.c.subject_id == subject_id, stored.c.provider == provider)
        old = tx.execute(sa.select(stored).where(this)).mappings().first()
        changes: list[RowChange] = []
        cipher = self._keys.cipher(tx, subject_id, "credentials")
        sealed = None if given is None else _sealed(provider, name, given.key)
        same = old is not None and sealed is not None and cipher.decrypt("api_keys", "secret", old["secret"]) == sealed
        if not same:
            key_id = secrets.token_hex(16) if given else None
            if old is not None:
                tx.execute(sa.delete(stored).where(this))
                # What is no longer used is no longer kept: the row stays, its secret goes.
                ended = dict(old) | {"secret": None, "revoked_at": tx.now, "replaced_by": key_id}
                changes.append(provider_row(ended))
            if sealed is not None:
                row = {
                    "subject_id": subject_id,
                    "provider": provider,
                    "key_id": key_id,
                    "secret": cipher.encrypt("api_keys", "secret", sealed),
                    "created_at": tx.now,
                }
                tx.execute(sa.insert(stored).values(row))
                changes.append(provider_row(row | {"revoked_at": None, "replaced_by": None}))
        if given is not None:
            changes += self._set_quota(tx, subject_id, provider, given)
        elif provider.startswith(OWN):
            # Names may be made up without end; their counters go with the keys.
            usage = schema.usage.c
            mine = sa.and_(usage.subject_id == subject_id, usage.resource == f"provider:{provider}")
            tx.execute(sa.delete(schema.usage).where(mine))
        return changes

    def _set_quota(self, tx: Transaction, subject_id: str, provider: str, given: _GivenKey) -> list[RowChange]:
        resource = f"provider:{provider}"
        if given.limited:
            usual = PROVIDERS.get(provider)
            window = given.quota, given.seconds or (window_of(usual)[1] if usual else 86_400)
            found = self._quotas.stored_counter(tx, subject_id, resource)
            counter = found.at(tx.clock).limited(*window, tx.clock) if found else Counter.new(*window, tx.clock)
            stored = found is not None
        elif provider in PROVIDERS:
            counter, stored = self._quotas.provider_counter(tx, subject_id, provider)
            if stored:
                return []
        else:
            if self._quotas.stored_counter(tx, subject_id, resource):
                return []
            counter, stored = Counter.new(*window_of(None), tx.clock), False
        self._quotas.write(tx, subject_id, resource, counter, stored=stored)
        return [counter.row(subject_id, resource, tx.now)]


@dataclass(frozen=True, slots=True)
class _GivenKey:
    """A provider's key as it was given, with a quota of its own where `limited`."""

    key: str = field(repr=False)
    limited: bool = False
    quota: int | None = None
    seconds: int | None = None


#: `queries_done` and `queries_remaining` are in what `get_api_keys` returns; given back they are ignored.
_ACCEPTED: Final = frozenset({"api_key", "queries_limit", "window_seconds", "queries_done", "queries_remaining"})


def _given(provider: str, value: str | Mapping[str, Any] | None) -> _GivenKey | None:
    if not PROVIDER_NAME.fullmatch(str(provider)):
        raise BadRequestError(
            "the provider's name is malformed",
            where="provider_keys",
            hint="Write a lower-case letter, then lower-case letters, digits and _, at most 40 characters.",
        )
    if value is None:
        return None
    # A name from the list may be repeated, what somebody typed may not.
    where = f"provider_keys[{provider}]" if provider in PROVIDERS else "provider_keys"
    fields: Mapping[str, Any] = value if isinstance(value, Mapping) else {"api_key": value}
    key, quota, seconds = fields.get("api_key"), fields.get("queries_limit"), fields.get("window_seconds")
    if odd := sorted(str(name)[:40] for name in fields.keys() - _ACCEPTED):
        raise BadRequestError(
            f"unknown fields {odd}", where=where, hint="The documentation of save_api_keys lists the fields."
        )
    # The key itself is never quoted.
    if not isinstance(key, str) or not 1 <= len(key) <= _LONGEST or any(category(c) in {"Cc", "Cs"} for c in key):
        raise BadRequestError(f"the key is not text of 1 to {_LONGEST} characters", where=where, hint="Check it.")
    for name, number, least, most in (("queries_limit", quota, 0, 10**12), ("window_seconds", seconds, 1, 31_622_400)):
        whole = isinstance(number, int) and not isinstance(number, bool)
        if number is not None and not (whole and least <= number <= most):
            raise BadRequestError(
                f"{name} is not a whole number of {least} to {most}",
                where=where,
                hint="Correct it.",
            )
    return _GivenKey(key, "queries_limit" in fields, quota, seconds)


def _sealed(provider: str, name: str, key: str) -> str:
    """Return what is encrypted of a provider's key: the key, with the name of a provider that is not on the list."""
    return key if provider in PROVIDERS else json.dumps({"provider": name, "api_key": key}, ensure_ascii=False)


def provider_secret(provider: str, text: str) -> tuple[str, str]:
    """Return the name of a provider as its owner knows it, and the key, from what was encrypted."""
    if not provider.startswith(OWN):
        return provider, text
    known = json.loads(text)
    return str(known["provider"]), str(known["api_key"])


def _api_key(row: Mapping[str, Any] | Any, account: AccountRow) -> ApiKey:
    return ApiKey(
        key_id=row["key_id"],
        user_id=account["user_id"],
        role=account["role"],
        tier=account["tier"],
        prefix=row["prefix"],
        created_at=moment(row["created_at"]),
        revoked_at=None if row["revoked_at"] is None else moment(row["revoked_at"]),
        replaced_by=row["replaced_by"],
    )
