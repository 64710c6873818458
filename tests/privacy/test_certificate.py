"""A certificate of erasure is signed, checked offline, and worthless once a byte of it is changed."""

from __future__ import annotations

import json
from datetime import UTC, datetime, timedelta

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from hfthot_platform.core.errors import CertificateError
from hfthot_platform.services.privacy import certificate as module
from hfthot_platform.services.privacy.certificate import (
    commitment,
    issue,
    key_id,
    public_key_text,
    read_public_key,
    verify,
)

NOW = datetime(2024, 3, 10, 12, tzinfo=UTC)
KEY = Ed25519PrivateKey.from_private_bytes(bytes(range(32)))
STATEMENT = {
    "request_id": "0123456789abcdef0123456789abcdef",
    "requested_at": NOW,
    "destroyed_at": NOW + timedelta(seconds=1),
    "verified_at": NOW + timedelta(seconds=2),
    "issued_at": NOW + timedelta(seconds=3),
    "keep_history": True,
    "ciphertext_until": NOW + timedelta(days=30),
    "counts": {"keys": 4, "sessions": 2},
    "verification": {"scanned_bytes": 1_000_000, "canaries": 27, "places": ["lake"]},
    "accepted": [{"kind": "first_name", "place": "scratch", "reason": "a word of the language"}],
    "commitment": commitment("0123456789abcdef0123456789abcdef", "f" * 32),
    "limits": ["Backups are not searched."],
    "platform_version": "0.1.0",
}


@pytest.fixture
def certificate():
    return issue(KEY, STATEMENT)


def test_a_certificate_says_what_was_signed(certificate):
    found = verify(certificate.text, KEY.public_key())

    assert found == certificate
    assert found.request_id == STATEMENT["request_id"]
    assert found.ciphertext_until == NOW + timedelta(days=30)
    assert found.counts == {"keys": 4, "sessions": 2}
    assert [acceptance["reason"] for acceptance in found.accepted] == ["a word of the language"]


def test_who_knows_the_user_id_can_tell_whom_it_concerns(certificate):
    assert certificate.concerns("f" * 32)
    assert not certificate.concerns("e" * 32)


def test_certificates_of_the_first_format_stay_genuine(monkeypatch):
    monkeypatch.setattr(module, "FORMAT", module.FIRST_FORMAT)
    first = issue(KEY, {name: value for name, value in STATEMENT.items() if name not in {"accepted", "commitment"}})
    monkeypatch.undo()

    found = verify(first.text, KEY.public_key())

    assert (found.accepted, found.commitment) == ((), None)
    assert not found.concerns("f" * 32)


def test_a_certificate_is_checked_from_its_file(certificate, tmp_path):
    path = certificate.save(tmp_path / "certificate.json")

    assert verify(path, KEY.public_key()).text == certificate.text
    with pytest.raises(CertificateError, match="not a certificate"):
        verify(str(path))


def test_every_altered_byte_is_noticed(certificate):
    raw = certificate.text.encode()

    for at in range(len(raw)):
        for flip in (0x01, 0x20, 0x80):
            altered = raw[:at] + bytes([raw[at] ^ flip]) + raw[at + 1 :]
            with pytest.raises(CertificateError):
                verify(altered.decode("latin-1"), KEY.public_key())


def test_every_missing_or_added_byte_is_noticed(certificate):
    text = certificate.text

    for at in range(1, len(text)):
        with pytest.raises(CertificateError):
            verify(text[:at] + text[at + 1 :], KEY.public_key())
        with pytest.raises(CertificateError):
            verify(text[:at] + " " + text[at:], KEY.public_key())


def test_another_installation_is_not_believed(certificate):
    other = Ed25519PrivateKey.from_private_bytes(bytes(32))

    with pytest.raises(CertificateError, match="signed with the key"):
        verify(issue(other, STATEMENT).text, KEY.public_key())


def test_a_signature_of_other_content_is_refused(certificate):
    other = json.loads(issue(KEY, {**STATEMENT, "keep_history": False}).text)
    document = json.loads(certificate.text)
    document["signature"] = other["signature"]

    with pytest.raises(CertificateError, match="signature"):
        verify(json.dumps(document, indent=2, sort_keys=True) + "\n")


@pytest.mark.parametrize("text", ["", "{}", "[]", "null", '{"statement": 1}', "{" * 5000, "not json", '{"a":1,"a":2}'])
def test_what_is_no_certificate_is_refused(text, tmp_path):
    path = tmp_path / "x.json"
    path.write_text(text)

    with pytest.raises(CertificateError):
        verify(path)


def test_a_missing_file_is_an_error_of_ours(tmp_path):
    with pytest.raises(CertificateError, match="No such file"):
        verify(tmp_path / "absent")


def test_an_incomplete_statement_is_not_signed():
    with pytest.raises(CertificateError):
        issue(KEY, {name: value for name, value in STATEMENT.items() if name != "limits"})


def test_the_public_key_is_one_line():
    text = public_key_text(KEY.public_key())

    assert key_id(read_public_key(text + "\n")) == key_id(KEY.public_key())
    with pytest.raises(CertificateError):
        read_public_key(text[:-2])


def test_the_signature_is_checked_with_any_ed25519_library(certificate):
    """As docs/privacy.md says it is done without the platform."""
    import base64

    document = json.loads(certificate.text)
    signed = json.dumps(document["statement"], separators=(",", ":"), sort_keys=True).encode()

    KEY.public_key().verify(base64.b64decode(document["signature"]), signed)
