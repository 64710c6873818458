"""A store and a lake in temporary folders, with a clock that tests move."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from hfthot_platform.core.settings import Settings, load_settings
from hfthot_platform.services.accounts.accounts import Accounts
from hfthot_platform.storage.lakehouse import Lakehouse
from hfthot_platform.storage.operational.store import Store

NOW = datetime(2024, 3, 10, 12, tzinfo=UTC)


class Clock:
    """A clock that stands still until it is moved."""

    def __init__(self, now: datetime = NOW) -> None:
        self.now = now

    def __call__(self) -> datetime:
        return self.now

    def forward(self, **delta: float) -> None:
        self.now += timedelta(**delta)


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    return settings_in(tmp_path / "work")


def settings_in(work: Path) -> Settings:
    """Return settings with every place in a folder."""
    return load_settings(
        lake_root=str(work / "lake"),
        landing=work / "landing",
        scratch=work / "scratch",
        accounts=work / "accounts",
        key_file=work / "keys" / "kek.json",
        exports=work / "exports",
        certificates=work / "certificates",
        argon2_memory_kib=8,
        argon2_passes=1,
        argon2_lanes=1,
        feeds=[],
    )


@pytest.fixture
def lake(settings: Settings, clock: Clock) -> Lakehouse:
    return Lakehouse.open(settings.lake_root, clock=clock, new=True)


@pytest.fixture
def store(accounts: Accounts) -> Store:
    return accounts.store


@pytest.fixture
def accounts(settings: Settings, clock: Clock, empty_store: Callable[[Path], None]) -> Iterator[Accounts]:
    empty_store(settings.accounts)
    with Accounts.open(settings, clock) as opened:
        yield opened
