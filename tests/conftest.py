"""Fixtures that several test modules share."""

from __future__ import annotations

import gc
import os
import shutil
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import settings

from tests.recordings import Generated, Recorded, Recordings

# What the shell has set must not decide the tests: `make test` itself exports this variable.
os.environ.pop("DAGSTER_HOME", None)
# Without bytecode on the disk, each worker and each program that a test starts compiles every library that it imports
# anew: a quarter of the time of all tests.
os.environ.pop("PYTHONDONTWRITEBYTECODE", None)
sys.dont_write_bytecode = False
if "PYTEST_XDIST_WORKER" in os.environ:
    # There is a worker for each core: further threads only wait for each other (a fifth of the time).
    os.environ.setdefault("POLARS_MAX_THREADS", "1")

# A property test draws the same examples in each run, so that a change is judged by what it changed; `make explore`
# draws new ones.  How long an example takes is the machine's affair.
settings.register_profile("same", deadline=None, derandomize=True)
settings.register_profile("explore", deadline=None, print_blob=True)
settings.load_profile("explore" if os.environ.get("HFTHOT_EXPLORE") else "same")

REPOSITORY = Path(__file__).resolve().parent.parent


#: Folder of real recorded market data.
RECORDED = Path(os.environ.get("HFTHOT_SHARED_DATA", REPOSITORY.parent / "shared" / "data"))


def pytest_report_header() -> str:
    """Say what the tests of recordings run on."""
    return f"recordings: generated{f', and recorded ones in {RECORDED}' if RECORDED.is_dir() else ' only'}"


def pytest_collection_finish() -> None:
    """Keep the collector from walking all tests and libraries again and again: a twentieth of the time."""
    gc.collect()
    gc.freeze()


def pytest_unconfigure() -> None:
    """Let the interpreter clear everything when it ends."""
    gc.unfreeze()


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """Folder of real recorded market data, for values that only it can give; skipped where it is absent."""
    if not RECORDED.is_dir():
        pytest.skip(f"real market data not present: {RECORDED}")
    return RECORDED


@pytest.fixture(scope="session")
def empty_store(tmp_path_factory: pytest.TempPathFactory) -> Callable[[Path], None]:
    """Return what puts an empty store into a folder of accounts: making one takes far longer than copying it."""
    from hfthot_platform.storage.operational.store import Store

    folder = tmp_path_factory.mktemp("empty")
    Store.open(f"sqlite:///{folder}/accounts.db").close()

    def put(accounts: Path) -> None:
        accounts.mkdir(parents=True, mode=0o700, exist_ok=True)
        shutil.copy(folder / "accounts.db", accounts / "accounts.db")

    return put


#: What is stated of generated recordings is stated of real ones by `make soak`, where they are present.
_RECORDINGS = ["generated", *([pytest.param("recorded", marks=pytest.mark.soak)] if RECORDED.is_dir() else [])]


@pytest.fixture(scope="session", params=_RECORDINGS)
def recordings(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Recordings:
    """Recordings in the formats of venues: generated ones always, and real ones where they are present."""
    if request.param == "recorded":
        return Recorded(RECORDED)
    return Generated(tmp_path_factory.mktemp("recordings"))
