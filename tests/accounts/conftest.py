"""Accounts over SQLite and over a real PostgreSQL server, with cheap Argon2 and a clock that tests move."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from hfthot_platform.core.settings import Settings, load_settings
from hfthot_platform.services.accounts.accounts import Accounts
from hfthot_platform.storage.operational.store import Store
from tests import postgres

NOW = datetime(2024, 3, 10, 12, tzinfo=UTC)
PASSWORD = "correct horse battery"


class Clock:
    """A clock that stands still until it is moved."""

    def __init__(self, now: datetime = NOW) -> None:
        self.now = now

    def __call__(self) -> datetime:
        return self.now

    def forward(self, **delta: float) -> None:
        self.now += timedelta(**delta)


#: Everything is tested on both; the fast tests are those on SQLite.
DATABASES = ["sqlite", pytest.param("postgresql", marks=pytest.mark.soak)]


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def make_settings(tmp_path: Path) -> Callable[..., Settings]:
    """Settings of an installation in a temporary folder."""

    def make(**given) -> Settings:
        work = tmp_path / "work"
        defaults = {
            "lake_root": str(work / "lake"),
            "landing": work / "landing",
            "scratch": work / "scratch",
            "accounts": work / "accounts",
            "key_file": work / "keys" / "kek.json",
            "exports": work / "exports",
            "certificates": work / "certificates",
            "argon2_memory_kib": 8,
            "argon2_passes": 1,
            "argon2_lanes": 1,
            "feeds": [],
        }
        return load_settings(**defaults | given)

    return make


@pytest.fixture(params=DATABASES)
def settings(
    request: pytest.FixtureRequest, make_settings: Callable[..., Settings], empty_store: Callable[[Path], None]
) -> Settings:
    """Settings of an installation whose store is empty."""
    if request.param == "postgresql":
        return make_settings(accounts_url=postgres.server().store())
    made = make_settings()
    empty_store(made.accounts)
    return made


@pytest.fixture(params=DATABASES)
def new_settings(request: pytest.FixtureRequest, make_settings: Callable[..., Settings]) -> Settings:
    """Settings whose database has nothing in it yet."""
    if request.param == "postgresql":
        return make_settings(accounts_url=postgres.server().database())
    return make_settings()


@pytest.fixture
def store(settings: Settings, clock: Clock) -> Iterator[Store]:
    with Store.open(settings, clock) as opened:
        yield opened


@pytest.fixture
def accounts(settings: Settings, clock: Clock) -> Iterator[Accounts]:
    with Accounts.open(settings, clock) as opened:
        yield opened


@pytest.fixture
def alice(accounts: Accounts):
    return accounts.register("Alice", "alice@example.org", PASSWORD, "Alice", "Liddell")


@pytest.fixture
def bob(accounts: Accounts):
    return accounts.register("bob", "bob@example.org", PASSWORD)


@pytest.fixture
def admin(accounts: Accounts):
    made = accounts.register("root", "root@example.org", PASSWORD)
    return accounts.set_role(made.user_id, "admin")


@pytest.fixture
def entries(accounts: Accounts):
    """The audit events since the last call, oldest first."""
    seen = 0

    def new():
        nonlocal seen
        found = accounts.store.entries(seen, 10_000)
        seen = found[-1].seq if found else seen
        return found

    return new
