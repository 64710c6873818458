"""Keys and envelopes."""

from __future__ import annotations

import base64
import os
import pickle
import re
import threading

import keyring
import pytest
from hypothesis import given
from hypothesis import strategies as st
from keyring.backend import KeyringBackend

from hfthot_platform.core.errors import DecryptionError, KeySourceError
from hfthot_platform.domain.contracts.accounts import ENVELOPE
from hfthot_platform.storage.vault import KeyRing, Vault, WrappedKey

SUBJECT, OTHER = "a" * 32, "b" * 32


def pair(kek_id: str) -> str:
    return f"{kek_id}:{base64.b64encode(os.urandom(32)).decode()}"


@pytest.fixture
def ring(make_settings):
    return KeyRing.open(make_settings())


@pytest.fixture
def vault(ring):
    return Vault(ring)


@pytest.fixture
def cipher(vault):
    return vault.cipher(SUBJECT, vault.new_key())


@given(text=st.text(st.characters(exclude_categories=["Cs"])))
def test_what_is_encrypted_is_decrypted(text):
    vault = Vault(KeyRing(_Fixed()))
    cipher = vault.cipher(SUBJECT, vault.new_key())

    token = cipher.encrypt("users", "email", text)

    assert re.fullmatch(ENVELOPE, token)
    assert cipher.decrypt("users", "email", token) == text


class _Fixed:
    def read(self):
        return [("k1", b"\1" * 32)]


def test_the_same_text_never_looks_the_same(cipher):
    assert len({cipher.encrypt("users", "email", "a@b.org") for _ in range(100)}) == 100


@pytest.mark.parametrize(
    "place", [("users", "username", SUBJECT), ("sessions", "email", SUBJECT), ("users", "email", OTHER)]
)
def test_an_envelope_moved_to_another_column_table_or_subject_is_rejected(vault, place):
    key = vault.new_key()
    token = vault.cipher(SUBJECT, key).encrypt("users", "email", "a@b.org")
    table, column, subject = place

    with pytest.raises(DecryptionError):
        vault.cipher(subject, key).decrypt(table, column, token)


def test_an_envelope_with_any_character_changed_is_rejected(cipher):
    token = cipher.encrypt("users", "email", "alice@example.org")
    for position, before in enumerate(token):
        after = "A" if before != "A" else "B"
        with pytest.raises(DecryptionError):
            cipher.decrypt("users", "email", token[:position] + after + token[position + 1 :])


@pytest.mark.parametrize(
    "token", ["", "e1.", "e1.AAAA", "e2." + "A" * 40, "alice@example.org", "e1." + "é" * 40, "e1.=" * 20]
)
def test_what_is_no_envelope_is_rejected(cipher, token):
    with pytest.raises(DecryptionError):
        cipher.decrypt("users", "email", token)


def test_batches_keep_missing_values(cipher):
    tokens = [cipher.encrypt("users", "email", "a"), None, cipher.encrypt("users", "email", "b")]
    assert cipher.decrypt_many("users", "email", tokens) == ["a", None, "b"]


def test_rewrapping_keeps_envelopes_readable_and_needs_only_the_new_key(ring, vault):
    before = vault.new_key()
    token = vault.cipher(SUBJECT, before).encrypt("users", "email", "a@b.org")
    old = ring.current_id
    ring.add_new()

    after = vault.rewrap(before)
    ring.drop([old])

    assert after.kek_id == ring.current_id != old
    assert vault.cipher(SUBJECT, after).decrypt("users", "email", token) == "a@b.org"
    with pytest.raises(KeySourceError, match="not in the key source"):
        vault.cipher(SUBJECT, before)


def test_a_wrapped_key_that_was_altered_is_rejected(vault):
    wrapped = vault.new_key()
    broken = WrappedKey(wrapped.kek_id, wrapped.blob[:-1] + bytes([wrapped.blob[-1] ^ 1]))
    with pytest.raises(DecryptionError):
        vault.cipher(SUBJECT, broken)


# -- where key-encryption keys come from --------------------------------------------------------------------


def test_the_key_file_is_made_for_its_owner_alone_and_found_again(make_settings):
    settings = make_settings()
    first = KeyRing.open(settings)

    assert settings.key_file.stat().st_mode & 0o777 == 0o600
    assert settings.key_file.parent.stat().st_mode & 0o777 == 0o700
    assert KeyRing.open(settings).ids == first.ids
    assert [path.name for path in settings.key_file.parent.iterdir()] == ["kek.json"]


def test_many_that_open_at_once_make_one_key_file(make_settings):
    settings = make_settings()
    rings = []
    threads = [threading.Thread(target=lambda: rings.append(KeyRing.open(settings))) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len({ring.ids for ring in rings}) == 1


@pytest.mark.parametrize("mode", [0o640, 0o604, 0o660], ids=oct)
def test_a_key_file_that_others_may_read_is_refused(make_settings, mode):
    settings = make_settings()
    KeyRing.open(settings)
    settings.key_file.chmod(mode)
    with pytest.raises(KeySourceError, match=r"other users can read it .*chmod 600"):
        KeyRing.open(settings)


def test_a_key_file_of_another_user_is_refused(make_settings):
    if os.geteuid() != 0:
        pytest.skip("only root can give a file away")
    settings = make_settings()
    KeyRing.open(settings)
    os.chown(settings.key_file, 12345, 12345)
    with pytest.raises(KeySourceError, match="belongs to another user"):
        KeyRing.open(settings)


def test_a_key_file_inside_the_lake_is_refused(make_settings, tmp_path):
    settings = make_settings(lake_root=str(tmp_path), key_file=tmp_path / "keys" / "kek.json")
    with pytest.raises(KeySourceError, match="inside the lake"):
        KeyRing.open(settings)


@pytest.mark.parametrize(
    "text", ["", "{}", '{"keys": []}', '{"keys": [{"id": "k", "key": "c2hvcnQ="}]}', '{"keys": 7}']
)
def test_a_malformed_key_file_is_refused_without_quoting_it(make_settings, text):
    settings = make_settings()
    KeyRing.open(settings)
    settings.key_file.write_text(text)
    with pytest.raises(KeySourceError) as caught:
        KeyRing.open(settings)
    assert "c2hvcnQ" not in str(caught.value)


def test_keys_from_the_environment_are_ordered_and_changed_by_the_operator_alone(make_settings):
    ring = KeyRing.open(make_settings(key_source="environment", keys=f"{pair('new')}, {pair('old')}"))
    assert ring.ids == ("new", "old")
    with pytest.raises(KeySourceError, match=r"HFTHOT_KEYS: only the operator"):
        ring.add_new()


@pytest.mark.parametrize("keys", [None, "", "k1", "k1:secretsecret", "k1:c2hvcnQ=", ":AAAA"])
def test_malformed_keys_in_the_environment_are_refused_without_quoting_them(make_settings, keys):
    with pytest.raises(KeySourceError) as caught:
        KeyRing.open(make_settings(key_source="environment", keys=keys))
    assert "secretsecret" not in str(caught.value)
    assert "c2hvcnQ" not in str(caught.value)


class MemoryKeyring(KeyringBackend):
    """A real backend of the keyring library that keeps entries in memory."""

    priority = 1

    def __init__(self):
        super().__init__()
        self.entries = {}

    def get_password(self, service, username):
        return self.entries.get((service, username))

    def set_password(self, service, username, password):
        self.entries[service, username] = password

    def delete_password(self, service, username):
        del self.entries[service, username]


def test_the_system_keyring_keeps_the_keys(make_settings):
    before = keyring.get_keyring()
    keyring.set_keyring(MemoryKeyring())
    try:
        settings = make_settings(key_source="keyring")
        first = KeyRing.open(settings)
        fresh = first.add_new()
        assert KeyRing.open(settings).ids == first.ids
        assert first.current_id == fresh
        assert not settings.key_file.exists()
    finally:
        keyring.set_keyring(before)


def test_a_machine_without_a_keyring_is_told_what_to_do(make_settings):
    from keyring.backends.fail import Keyring

    before = keyring.get_keyring()
    keyring.set_keyring(Keyring())
    try:
        with pytest.raises(KeySourceError, match="key_source"):
            KeyRing.open(make_settings(key_source="keyring"))
    finally:
        keyring.set_keyring(before)


def test_a_ring_notices_keys_that_another_process_added(make_settings):
    settings = make_settings()
    here, there = KeyRing.open(settings), KeyRing.open(settings)
    fresh = there.add_new()
    wrapped = Vault(there).new_key()
    assert wrapped.kek_id == fresh
    assert Vault(here).cipher(SUBJECT, wrapped)


def test_the_current_key_cannot_be_dropped(ring):
    with pytest.raises(KeySourceError, match="current"):
        ring.drop([ring.current_id])


def test_rings_vaults_and_ciphers_neither_show_nor_pickle_their_keys(make_settings):
    settings = make_settings()
    ring = KeyRing.open(settings)
    vault = Vault(ring)
    cipher = vault.cipher(SUBJECT, vault.new_key())
    secret = settings.key_file.read_text().split('"key": "')[1].split('"')[0]
    for holder in (ring, vault, cipher):
        assert secret not in repr(holder)
        assert secret not in str(vars(holder) if hasattr(holder, "__dict__") else "")
        with pytest.raises(TypeError, match="cannot be pickled"):
            pickle.dumps(holder)
