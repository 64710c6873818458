"""Keys and envelopes: key-encryption keys, the data keys they wrap, and encrypted text.

Here belongs cryptography alone.  Which subject has which wrapped key is the operational store's business: it hands
a wrapped key in, and where it has none any more (an erased subject) nothing here can read the subject's envelopes,
in any process and from that moment on, because no data key is kept: unwrapping one takes 1.5 microseconds.

    key-encryption key (file, environment, keyring)  --wraps-->  data key of (subject, category)  --encrypts-->  text

All encryption is AES-256-GCM with a random 96-bit nonce (NIST SP 800-38D).  One data key encrypts the texts of one
person in one category, far below the 2^32 random nonces that a key may see.
"""

from __future__ import annotations

import base64
import binascii
import contextlib
import json
import os
import secrets
import stat
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, NoReturn, Protocol

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from hfthot_platform.core.errors import DecryptionError, KeySourceError
from hfthot_platform.core.files import sync_folder, write_whole
from hfthot_platform.core.locks import file_lock
from hfthot_platform.core.settings import Settings

__all__ = ["KeyRing", "SubjectCipher", "Vault", "WrappedKey"]

_KEY_BYTES: Final = 32
_NONCE_BYTES: Final = 12
_PREFIX: Final = "e1."
_ID_ALPHABET: Final = frozenset("abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789_-")


class _Unpicklable:
    """Holds secrets: neither shown nor serialised by accident."""

    def __reduce_ex__(self, protocol: Any) -> NoReturn:
        raise TypeError(
            f"{type(self).__name__} holds secrets and cannot be pickled; open it again in the other process"
        )


@dataclass(frozen=True, slots=True)
class WrappedKey:
    """A key that is encrypted under the key-encryption key `kek_id`; safe to store, useless without that key."""

    kek_id: str
    blob: bytes


# ---------------------------------------------------------------------------------------------------------------
# Key-encryption keys
# ---------------------------------------------------------------------------------------------------------------


class _Source(Protocol):
    """Where key-encryption keys are kept: `[(id, key)]`, the newest first."""

    def read(self) -> list[tuple[str, bytes]]: ...

    def change(self, edit: Callable[[list[tuple[str, bytes]]], list[tuple[str, bytes]]]) -> list[tuple[str, bytes]]: ...


class KeyRing(_Unpicklable):
    """The key-encryption keys by id; the newest is current.

    Another process may add a key at any time: an id that is not known is looked for in the source again.
    """

    def __init__(self, source: _Source) -> None:
        self._source = source
        self._keys: dict[str, AESGCM] = {}
        self._order: tuple[str, ...] = ()
        self._load(source.read())

    @classmethod
    def open(cls, settings: Settings, *, create: bool | None = None) -> KeyRing:
        """Open the installation's keys.

        Args:
            settings: where they are.
            create: whether a missing file or keyring entry is made with one fresh key; by default only where the
                caller of the settings named the places itself (`Settings.names_places`).

        Raises:
            KeySourceError: the keys are missing, malformed, readable by others, or inside the lake.
        """
        new = settings.names_places if create is None else create
        if settings.key_source == "environment":
            text = settings.keys.get_secret_value() if settings.keys else ""
            return cls(_Environment(text))
        if settings.key_source == "keyring":
            return cls(_SystemKeyring(str(settings.accounts.absolute()), new=new))
        lake = settings.lake_folder()
        if lake is not None and settings.key_file.absolute().resolve().is_relative_to(lake.resolve()):
            raise KeySourceError(
                f"the key file {settings.key_file} is inside the lake, so any copy of the lake could be decrypted",
                where="setting 'key_file'",
                hint="Choose a file outside lake_root.",
            )
        return cls(_KeyFile(settings.key_file, new=new))

    @property
    def current_id(self) -> str:
        """Id of the newest key: what new keys are wrapped with."""
        return self._order[0]

    @property
    def ids(self) -> tuple[str, ...]:
        """All ids, the newest first."""
        return self._order

    def reload(self) -> None:
        """Read the source again: another process may have added or dropped keys."""
        self._load(self._source.read())

    def add_new(self) -> str:
        """Add a fresh key, which becomes current, durably; return its id.

        Raises:
            KeySourceError: the source cannot be written; for the environment the message says what to set.
        """
        fresh = _fresh()
        self._load(self._source.change(lambda pairs: [fresh, *pairs]))
        return fresh[0]

    def drop(self, ids: Iterable[str]) -> None:
        """Forget keys that nothing is wrapped with any more, durably.

        Raises:
            KeySourceError: the current key is among them, or the source cannot be written.
        """
        gone = set(ids)
        if not gone:
            return

        def edit(pairs: list[tuple[str, bytes]]) -> list[tuple[str, bytes]]:
            if pairs[0][0] in gone:
                raise KeySourceError(
                    f"key {pairs[0][0]!r} is the current one", where="key ring", hint="Drop only older keys."
                )
            return [pair for pair in pairs if pair[0] not in gone]

        self._load(self._source.change(edit))

    def cipher(self, kek_id: str) -> AESGCM:
        """Return the AEAD of a key.

        Raises:
            KeySourceError: the ring has no such key.
        """
        found = self._keys.get(kek_id)
        if found is None:
            self.reload()
            found = self._keys.get(kek_id)
        if found is None:
            raise KeySourceError(
                f"key-encryption key {kek_id!r} is not in the key source",
                where="key ring",
                hint="Restore the key file (or HFTHOT_KEYS, or the keyring entry) that this store was written with.",
            )
        return found

    def _load(self, pairs: list[tuple[str, bytes]]) -> None:
        # The dictionary is replaced as a whole: other threads see the old ring or the new one.
        self._keys = {kek_id: AESGCM(key) for kek_id, key in pairs}
        self._order = tuple(kek_id for kek_id, _ in pairs)

    def __repr__(self) -> str:
        return f"KeyRing(ids={list(self._order)})"


def _fresh() -> tuple[str, bytes]:
    return "k" + secrets.token_hex(8), secrets.token_bytes(_KEY_BYTES)


def _checked(pairs: list[tuple[str, bytes]], where: str) -> list[tuple[str, bytes]]:
    ids = [kek_id for kek_id, _ in pairs]
    sound = all(0 < len(kek_id) <= 40 and set(kek_id) <= _ID_ALPHABET for kek_id in ids)
    if not pairs or len(set(ids)) < len(ids) or not sound or any(len(key) != _KEY_BYTES for _, key in pairs):
        raise KeySourceError(
            "the keys are malformed",
            where=where,
            hint="Give each key its own id (letters, digits, - and _) and 32 bytes in Base64, newest key first.",
        )
    return pairs


def _decoded(text: str, where: str) -> bytes:
    with contextlib.suppress(binascii.Error, ValueError):
        return base64.b64decode(text, validate=True)
    # Raised outside the handler, so that no traceback shows what was being decoded.
    raise KeySourceError("a key is not valid Base64", where=where, hint="Write 32 random bytes in standard Base64.")


def _to_json(pairs: list[tuple[str, bytes]]) -> str:
    return json.dumps({"keys": [{"id": kek_id, "key": base64.b64encode(key).decode()} for kek_id, key in pairs]})


def _from_json(text: str, where: str) -> list[tuple[str, bytes]]:
    entries: list[tuple[str, str]] | None = None
    with contextlib.suppress(ValueError, KeyError, TypeError):
        entries = [(str(entry["id"]), str(entry["key"])) for entry in json.loads(text)["keys"]]
    if entries is None:
        raise KeySourceError("the keys have an unexpected format", where=where, hint="Restore it from a backup.")
    return _checked([(kek_id, _decoded(key, where)) for kek_id, key in entries], where)


def _no_keys(where: str) -> KeySourceError:
    return KeySourceError(
        "there are no key-encryption keys",
        where=where,
        hint="Restore them from a backup, or correct the settings; `hfthot init` creates keys for a new installation.",
    )


class _KeyFile(_Unpicklable):
    """A JSON file with mode 0600 that belongs to the user of the process."""

    def __init__(self, path: Path, *, new: bool) -> None:
        self._new = new
        self._path = path.absolute()
        self._where = f"key file {self._path}"

    def read(self) -> list[tuple[str, bytes]]:
        try:
            return self._stored()
        except FileNotFoundError:
            if self._new:
                return self._create()
        raise _no_keys(self._where)

    def change(self, edit: Callable[[list[tuple[str, bytes]]], list[tuple[str, bytes]]]) -> list[tuple[str, bytes]]:
        with self._locked():
            pairs = edit(self._stored())
            with self._translated():
                # A key that was dropped must not stay in what a killed process left.
                write_whole(self._path, _to_json(pairs), private=True, alone=True)
            return pairs

    def _create(self) -> list[tuple[str, bytes]]:
        with self._translated():
            self._path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
            made = self._path.with_name(f".{self._path.name}.{secrets.token_hex(8)}")
            write_whole(made, _to_json([_fresh()]), private=True)
            try:
                # Of several processes that make it at once one wins; the link fails where the file already is.
                with contextlib.suppress(FileExistsError):
                    os.link(made, self._path)
            finally:
                made.unlink()
            sync_folder(self._path.parent)
        return self._stored()

    def _stored(self) -> list[tuple[str, bytes]]:
        with self._translated():
            handle = os.open(self._path, os.O_RDONLY | os.O_CLOEXEC)
            with os.fdopen(handle, encoding="utf-8", errors="replace") as file:
                about = os.fstat(file.fileno())
                text = file.read()
        if about.st_uid != os.geteuid():
            raise KeySourceError(
                "it belongs to another user",
                where=self._where,
                hint=f"Change its owner (chown) to the user of this process (uid {os.geteuid()}).",
            )
        if stat.S_IMODE(about.st_mode) & 0o077:
            raise KeySourceError(
                f"other users can read it (mode {stat.S_IMODE(about.st_mode):04o})",
                where=self._where,
                hint=f"Run `chmod 600 {self._path}`. If someone else may have read it, rotate the keys.",
            )
        return _from_json(text, self._where)

    @contextlib.contextmanager
    def _locked(self) -> Iterator[None]:
        with contextlib.ExitStack() as held:
            with self._translated():
                held.enter_context(file_lock(self._path.with_suffix(".lock"), where=self._where))
            yield

    @contextlib.contextmanager
    def _translated(self) -> Iterator[None]:
        try:
            yield
        except FileNotFoundError:
            raise
        except OSError as error:
            raise KeySourceError(
                f"it cannot be read or written ({error.strerror})",
                where=self._where,
                hint="Check the path, its permissions and the free disk space.",
            ) from None


class _Environment(_Unpicklable):
    """`id:base64` pairs from HFTHOT_KEYS, comma-separated, the newest first; only the operator changes them."""

    def __init__(self, text: str) -> None:
        where = "HFTHOT_KEYS"
        if not text.strip():
            raise KeySourceError(
                "the variable has no key-encryption key",
                where=where,
                hint="Set it to id:key, where key is 32 random bytes in Base64.",
            )
        pairs = []
        for part in text.split(","):
            kek_id, colon, key = part.strip().partition(":")
            pairs.append((kek_id, _decoded(key if colon else "", where)))
        self._pairs = _checked(pairs, where)

    def read(self) -> list[tuple[str, bytes]]:
        return self._pairs

    def change(self, edit: Callable[[list[tuple[str, bytes]]], list[tuple[str, bytes]]]) -> list[tuple[str, bytes]]:
        del edit
        raise KeySourceError(
            "only the operator can change keys in the environment",
            where="HFTHOT_KEYS",
            hint="Put a new id:key pair (32 random bytes in Base64) before the others, restart every process, "
            "and rotate. Then remove the old pairs.",
        )


class _SystemKeyring(_Unpicklable):
    """One entry of the operating system's keyring, per installation."""

    _SERVICE: Final = "hfthot_platform"

    def __init__(self, name: str, *, new: bool) -> None:
        self._name = name
        self._new = new
        self._where = "system keyring"

    def read(self) -> list[tuple[str, bytes]]:
        text = self._get()
        if text is None:
            if not self._new:
                raise _no_keys(self._where)
            self._set([_fresh()])
            text = self._get()
        if text is None:
            raise KeySourceError("it does not store entries", where=self._where, hint="Use key_source = 'file'.")
        return _from_json(text, self._where)

    def change(self, edit: Callable[[list[tuple[str, bytes]]], list[tuple[str, bytes]]]) -> list[tuple[str, bytes]]:
        pairs = edit(self.read())
        self._set(pairs)
        return pairs

    def _get(self) -> str | None:
        import keyring
        from keyring.errors import KeyringError

        try:
            return keyring.get_password(self._SERVICE, self._name)
        except KeyringError as error:
            raise self._failed(error) from None

    def _set(self, pairs: list[tuple[str, bytes]]) -> None:
        import keyring
        from keyring.errors import KeyringError

        try:
            keyring.set_password(self._SERVICE, self._name, _to_json(pairs))
        except KeyringError as error:
            raise self._failed(error) from None

    def _failed(self, error: Exception) -> KeySourceError:
        return KeySourceError(
            f"it cannot be used ({type(error).__name__})",
            where=self._where,
            hint="Unlock it or install a backend, or set key_source to 'file' or 'environment'.",
        )


# ---------------------------------------------------------------------------------------------------------------
# Wrapped keys and envelopes
# ---------------------------------------------------------------------------------------------------------------


def _spelled(sealed: bytes) -> str:
    return _PREFIX + base64.urlsafe_b64encode(sealed).rstrip(b"=").decode()


class SubjectCipher(_Unpicklable):
    """Encrypts and decrypts the texts of one subject in one category.

    An envelope is bound to its table, column and subject: moved anywhere else it does not decrypt.
    """

    __slots__ = ("_aead", "subject_id")

    def __init__(self, subject_id: str, aead: AESGCM) -> None:
        self.subject_id = subject_id
        self._aead = aead

    def encrypt(self, table: str, column: str, text: str) -> str:
        """Return the envelope of a text."""
        nonce = os.urandom(_NONCE_BYTES)
        return _spelled(nonce + self._aead.encrypt(nonce, text.encode(), self._bound(table, column)))

    def decrypt(self, table: str, column: str, token: str) -> str:
        """Return the text of an envelope.

        Raises:
            DecryptionError: it was altered, or belongs to another table, column, subject or key.
        """
        if token.startswith(_PREFIX):
            body = token[len(_PREFIX) :]
            with contextlib.suppress(binascii.Error, ValueError, InvalidTag):
                sealed = base64.b64decode(body + "=" * (-len(body) % 4), altchars=b"-_", validate=True)
                # Base64 has several spellings of the same bytes; only the one that we write is accepted.
                if _spelled(sealed) == token:
                    nonce, secret = sealed[:_NONCE_BYTES], sealed[_NONCE_BYTES:]
                    return self._aead.decrypt(nonce, secret, self._bound(table, column)).decode()
        raise DecryptionError(
            "an encrypted value cannot be decrypted",
            where=f"{table}.{column} of subject {self.subject_id}",
            hint="It was altered or belongs elsewhere. Compare it with an earlier version of the table.",
        )

    def decrypt_many(self, table: str, column: str, tokens: Iterable[str | None]) -> list[str | None]:
        """Return the texts of envelopes, None for None.

        Raises:
            DecryptionError: as `decrypt`.
        """
        return [None if token is None else self.decrypt(table, column, token) for token in tokens]

    def _bound(self, table: str, column: str) -> bytes:
        return f"{table}|{column}|{self.subject_id}".encode()

    def __repr__(self) -> str:
        return f"SubjectCipher({self.subject_id})"


class Vault(_Unpicklable):
    """Makes, wraps and unwraps keys.  Keeps none but the key-encryption keys of its ring."""

    def __init__(self, ring: KeyRing) -> None:
        self.ring = ring

    def new_key(self, kek_id: str | None = None) -> WrappedKey:
        """Return a fresh random key, wrapped by the given key-encryption key, or by the current one.

        Raises:
            KeySourceError: the ring has no such key.
        """
        return self.wrap(secrets.token_bytes(_KEY_BYTES), kek_id)

    def wrap(self, key: bytes, kek_id: str | None = None) -> WrappedKey:
        """Return a key, wrapped by the given key-encryption key, or by the current one."""
        kek_id = kek_id or self.ring.current_id
        nonce = os.urandom(_NONCE_BYTES)
        return WrappedKey(kek_id, nonce + self.ring.cipher(kek_id).encrypt(nonce, key, _wrapping(kek_id)))

    def unwrap(self, wrapped: WrappedKey) -> bytes:
        """Return the key itself, for the installation's own keys (`lookup`, `signing`).

        Raises:
            KeySourceError: the ring lacks its key-encryption key.
            DecryptionError: it was altered.
        """
        cipher = self.ring.cipher(wrapped.kek_id)
        with contextlib.suppress(InvalidTag, ValueError):
            nonce, blob = wrapped.blob[:_NONCE_BYTES], wrapped.blob[_NONCE_BYTES:]
            return cipher.decrypt(nonce, blob, _wrapping(wrapped.kek_id))
        raise DecryptionError(
            "a wrapped key cannot be unwrapped",
            where=f"key-encryption key {wrapped.kek_id!r}",
            hint="The store was altered, or the key source belongs to another installation. Restore the "
            "matching key source.",
        )

    def rewrap(self, wrapped: WrappedKey, kek_id: str | None = None) -> WrappedKey:
        """Return the same key wrapped by another key-encryption key (the current one); envelopes stay valid.

        Raises:
            KeySourceError: the ring lacks one of the two.
            DecryptionError: it was altered.
        """
        return self.wrap(self.unwrap(wrapped), kek_id)

    def cipher(self, subject_id: str, wrapped: WrappedKey) -> SubjectCipher:
        """Return the cipher of a subject's data key.

        Raises:
            KeySourceError: the ring lacks its key-encryption key.
            DecryptionError: it was altered.
        """
        return SubjectCipher(subject_id, AESGCM(self.unwrap(wrapped)))

    def __repr__(self) -> str:
        return f"Vault({self.ring!r})"


def _wrapping(kek_id: str) -> bytes:
    return f"hfthot wrapped key 1|{kek_id}".encode()
