"""Argon2id: hashing and verifying passwords, in the same time whether or not there is one to compare with.

Nothing here runs inside a transaction: a hash takes tens of milliseconds and 64 MiB on purpose.
"""

from __future__ import annotations

import base64
import os
import threading
from dataclasses import dataclass
from typing import Final

from argon2 import PasswordHasher, Type
from argon2.exceptions import InvalidHashError, VerificationError
from argon2.low_level import ARGON2_VERSION

from hfthot_platform.core.errors import BadRequestError, ConfigError
from hfthot_platform.core.settings import Settings
from hfthot_platform.services.accounts.identities import password_form

__all__ = ["Passwords", "Verdict"]

#: Hashes that run at once: more would only compete for cores, each with its memory.
_AT_ONCE: Final = max(2, os.cpu_count() or 1)


@dataclass(frozen=True, slots=True)
class Verdict:
    """Whether a password is right, and its hash under today's parameters where they have changed."""

    right: bool
    rehashed: str | None = None


class Passwords:
    """Hashes and verifies with the settings' parameters."""

    def __init__(self, settings: Settings) -> None:
        memory, lanes = settings.argon2_memory_kib, settings.argon2_lanes
        if memory < 8 * lanes:
            raise ConfigError(
                f"{memory} KiB is less than 8 KiB for each of {lanes} lanes",
                where="settings 'argon2_memory_kib' and 'argon2_lanes'",
                hint="Increase the memory (the default is 65536) or reduce the number of lanes.",
            )
        self._hasher = PasswordHasher(
            time_cost=settings.argon2_passes, memory_cost=memory, parallelism=lanes, type=Type.ID
        )
        self._room = threading.BoundedSemaphore(_AT_ONCE)
        self._making = threading.Lock()
        self._dummy: str | None = None

    def hash(self, password: str) -> str:
        """Return the hash of a new password.

        Raises:
            BadRequestError: the password is too short, too long, or not valid Unicode.
        """
        text = password_form(password)
        with self._room:
            return self._hasher.hash(text)

    def unknown(self) -> str:
        """Return a well-formed hash that no password has, another one each time.

        A sign-in takes as long with it as with any.  It costs nothing: a hash of random bytes that were thrown away
        is random bytes.
        """
        salt, digest = (
            base64.b64encode(os.urandom(length)).rstrip(b"=").decode()
            for length in (self._hasher.salt_len, self._hasher.hash_len)
        )
        cost = f"m={self._hasher.memory_cost},t={self._hasher.time_cost},p={self._hasher.parallelism}"
        return f"$argon2id$v={ARGON2_VERSION}${cost}${salt}${digest}"

    def verify(self, stored: str | None, password: str) -> Verdict:
        """Say whether a password belongs to a stored hash; without one, spend the same time and say no."""
        # Made before the first comparison of any kind, so that the first unknown name takes no longer than a known one.
        with self._making:
            if self._dummy is None:
                self._dummy = self._hasher.hash("no account has this password")
        try:
            text = password_form(password)
        except BadRequestError:
            # Could never have been set; refused like any wrong one.
            stored, text = None, "refused password"
        with self._room:
            try:
                self._hasher.verify(stored or self._dummy, text)
            except (VerificationError, InvalidHashError):
                return Verdict(right=False)
            if stored is None:
                return Verdict(right=False)
            outdated = self._hasher.check_needs_rehash(stored)
            return Verdict(right=True, rehashed=self._hasher.hash(text) if outdated else None)

    def __repr__(self) -> str:
        return "Passwords()"
