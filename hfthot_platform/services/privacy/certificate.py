"""Certificates of erasure: what was done and checked, signed, without personal data.

A certificate is a JSON document with an Ed25519 signature over its canonical form (keys sorted, no white space,
ASCII).  Whoever has the installation's public key can check it with any Ed25519 library, years later and without
the platform.  Here belongs what a certificate is; what goes into it is decided by `erasure`.
"""

from __future__ import annotations

import base64
import binascii
import hmac
import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from hashlib import sha256
from pathlib import Path
from typing import Any, Final

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey

from hfthot_platform.core.errors import CertificateError

__all__ = [
    "FORMAT",
    "ErasureCertificate",
    "commitment",
    "issue",
    "key_id",
    "public_key_text",
    "read_public_key",
    "verify",
]

FORMAT: Final = "hfthot erasure certificate 2"
#: Certificates of earlier versions stay genuine.
FIRST_FORMAT: Final = "hfthot erasure certificate 1"
_KEY_PREFIX: Final = "ed25519:"
_RANDOM_ID: Final = re.compile(r"[0-9a-f]{32}")
_LARGEST: Final = 1 << 20
_FIELDS: Final = frozenset({"statement", "key_id", "public_key", "signature"})
_FIRST_STATEMENT: Final = frozenset(
    {
        "format",
        "request_id",
        "requested_at",
        "destroyed_at",
        "verified_at",
        "issued_at",
        "keep_history",
        "ciphertext_until",
        "counts",
        "verification",
        "limits",
        "platform_version",
    }
)
_STATEMENT: Final = _FIRST_STATEMENT | {"accepted", "commitment"}


@dataclass(frozen=True)
class ErasureCertificate:
    """A signed statement that a person's data was erased and that this was checked.

    It names the request, never the person: the request's id is random.  Whoever knows the erased account's user id
    can check that it is meant (`concerns`); nobody can tell the user id from it.
    """

    request_id: str
    requested_at: datetime
    #: When the keys were destroyed: from here on nothing of the person could be read, anywhere.
    destroyed_at: datetime
    #: When the search for remains ended.
    verified_at: datetime
    issued_at: datetime
    keep_history: bool
    #: When the last ciphertext (unreadable since `destroyed_at`) leaves the disk; None if it already has.
    ciphertext_until: datetime | None
    #: What was removed, per step and table.
    counts: Mapping[str, int]
    #: What was searched, how much, and with which self-test.
    verification: Mapping[str, Any]
    #: What the certificate does not cover, in sentences.
    limits: tuple[str, ...]
    #: What the search found and the officer judged to be none of the person's: place, form and reason.
    accepted: tuple[Mapping[str, Any], ...]
    #: SHA-256 of the request's id and the user id; None in certificates of the first format.
    commitment: str | None
    key_id: str
    #: The whole document, as stored and handed out.
    text: str

    def __str__(self) -> str:
        return self.text

    def concerns(self, user_id: str) -> bool:
        """Whether it is about the account that had this user id; False too where the certificate does not say."""
        return self.commitment is not None and hmac.compare_digest(
            self.commitment, commitment(self.request_id, user_id)
        )

    def save(self, path: Path) -> Path:
        """Write the document to a file."""
        path.write_text(self.text, encoding="ascii")
        return path


def commitment(request_id: str, user_id: str) -> str:
    """Return what a certificate says of whom it concerns: `sha256("hfthot erasure REQUEST USER")` in hexadecimal."""
    return sha256(f"hfthot erasure {request_id} {user_id}".encode()).hexdigest()


def issue(key: Ed25519PrivateKey, statement: Mapping[str, Any]) -> ErasureCertificate:
    """Sign a statement and return the certificate.

    Args:
        key: the installation's signing key.
        statement: the fields of `ErasureCertificate` from `request_id` to `commitment` (times as `datetime`), and
            `platform_version`.

    Raises:
        CertificateError: the statement is not complete.
    """
    body = {"format": FORMAT, **{name: _plain(value) for name, value in statement.items()}}
    public = key.public_key()
    document = {
        "statement": body,
        "key_id": key_id(public),
        "public_key": public_key_text(public),
        "signature": _spelled(key.sign(_signed(body))),
    }
    return _read(json.dumps(document, indent=2, sort_keys=True, ensure_ascii=True) + "\n")


def verify(certificate: Path | str, public_key: Ed25519PublicKey | None = None) -> ErasureCertificate:
    """Check a certificate and return it.

    Args:
        certificate: the document's text, or a `Path` to its file.  A text never names a file, so that text from
            elsewhere cannot have one read.
        public_key: the installation's public key.  Without it only this is shown: the document was not altered
            since whoever holds the key that it names signed it.

    Raises:
        CertificateError: it was altered, is not a certificate, or was signed by another installation.
    """
    found = _read(_text_of(certificate))
    named = read_public_key(str(json.loads(found.text)["public_key"]))
    if public_key is not None and public_key.public_bytes_raw() != named.public_bytes_raw():
        raise CertificateError(
            f"it was signed with the key {found.key_id}, but the key to check with is {key_id(public_key)}",
            where="certificate",
            hint="Check it with the public key of the installation that issued it.",
        )
    return found


def key_id(key: Ed25519PublicKey) -> str:
    """Return the name of a key: the beginning of the SHA-256 of its bytes."""
    return sha256(key.public_bytes_raw()).hexdigest()[:16]


def public_key_text(key: Ed25519PublicKey) -> str:
    """Return a public key as one line of text."""
    return _KEY_PREFIX + _spelled(key.public_bytes_raw())


def read_public_key(text: str) -> Ed25519PublicKey:
    """Return the public key of such a line.

    Raises:
        CertificateError: it is not a public key.
    """
    stripped = text.strip()
    raw = _raw(stripped.removeprefix(_KEY_PREFIX), 32)
    if raw is None or not stripped.startswith(_KEY_PREFIX):
        raise CertificateError(
            "it is not a public key", where="public key", hint="Give one line: `ed25519:` and 44 characters of Base64."
        )
    return Ed25519PublicKey.from_public_bytes(raw)


def _text_of(certificate: Path | str) -> str:
    if isinstance(certificate, str):
        return certificate
    try:
        with certificate.open("rb") as file:
            return file.read(_LARGEST).decode("ascii")
    except UnicodeDecodeError:
        raise _altered("it is not ASCII") from None
    except (OSError, ValueError) as error:
        said = getattr(error, "strerror", None) or type(error).__name__
        raise CertificateError(
            f"it cannot be read ({said})", where="certificate", hint="Give the path of the certificate's file."
        ) from None


def _read(text: str) -> ErasureCertificate:
    """Check form and signature.

    The text must be exactly what `issue` writes for its content: a byte that is changed anywhere, also where JSON
    would not mind, is noticed.
    """
    try:
        document = json.loads(text, object_pairs_hook=_unique)
        body = document["statement"]
        named = read_public_key(document["public_key"])
        signature = _raw(document["signature"], 64)
        fields = set(document)
    except CertificateError:
        raise
    except (ValueError, KeyError, TypeError, RecursionError):
        raise _altered("it is not a certificate's JSON") from None
    known = {FORMAT: _STATEMENT, FIRST_FORMAT: _FIRST_STATEMENT}
    form = str(body.get("format")) if isinstance(body, dict) else ""
    if fields != _FIELDS or form not in known or set(body) != known[form]:
        raise _altered("it does not have a certificate's fields")
    if signature is None or document["key_id"] != key_id(named) or document["public_key"] != public_key_text(named):
        raise _altered("its key or its signature is malformed")
    if text != json.dumps(document, indent=2, sort_keys=True, ensure_ascii=True) + "\n":
        raise _altered("it is not in the format of a certificate")
    try:
        named.verify(signature, _signed(body))
    except InvalidSignature:
        raise _altered("its signature does not match its content") from None
    try:
        until = body["ciphertext_until"]
        if not _RANDOM_ID.fullmatch(body["request_id"]):
            raise _altered("its request id is malformed")
        return ErasureCertificate(
            request_id=body["request_id"],
            requested_at=_time(body["requested_at"]),
            destroyed_at=_time(body["destroyed_at"]),
            verified_at=_time(body["verified_at"]),
            issued_at=_time(body["issued_at"]),
            keep_history=bool(body["keep_history"]),
            ciphertext_until=None if until is None else _time(until),
            counts=dict(body["counts"]),
            verification=dict(body["verification"]),
            limits=tuple(body["limits"]),
            accepted=tuple(dict(judgement) for judgement in body.get("accepted", ())),
            commitment=body.get("commitment"),
            key_id=document["key_id"],
            text=text,
        )
    except (ValueError, TypeError):
        raise _altered("a field has an unexpected form") from None


def _altered(what: str) -> CertificateError:
    return CertificateError(what, where="certificate", hint="It was altered, or is not a certificate of this platform.")


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) != len(pairs):
        raise ValueError("a key occurs twice")
    return found


def _signed(body: Mapping[str, Any]) -> bytes:
    return json.dumps(body, separators=(",", ":"), sort_keys=True, ensure_ascii=True, allow_nan=False).encode("ascii")


def _spelled(raw: bytes) -> str:
    return base64.b64encode(raw).decode("ascii")


def _raw(text: object, size: int) -> bytes | None:
    """Return what a Base64 text spells if it is of this size and spelled as we do."""
    if not isinstance(text, str):
        return None
    try:
        raw = base64.b64decode(text, validate=True)
    except (binascii.Error, ValueError):
        return None
    return raw if len(raw) == size and _spelled(raw) == text else None


def _plain(value: Any) -> Any:
    """Return a value as JSON has it."""
    if isinstance(value, datetime):
        return value.astimezone(UTC).isoformat(timespec="microseconds")
    if isinstance(value, Mapping):
        return {str(name): _plain(entry) for name, entry in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(entry) for entry in value]
    return value


def _time(text: str) -> datetime:
    found = datetime.fromisoformat(text)
    if found.tzinfo is None:
        raise ValueError("no zone")
    return found
