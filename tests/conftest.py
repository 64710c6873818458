"""Fixtures that several test modules share."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from hypothesis import settings

# What the shell has set must not decide the tests: `make test` itself exports this variable.
os.environ.pop("DAGSTER_HOME", None)
if "PYTEST_XDIST_WORKER" in os.environ:
    # There is a worker for each core: further threads only wait for each other (a fifth of the time).
    os.environ.setdefault("POLARS_MAX_THREADS", "1")

# A property test draws the same examples in each run, so that a change is judged by what it changed; `make explore`
# draws new ones.  How long an example takes is the machine's affair.
settings.register_profile("same", deadline=None, derandomize=True)
settings.register_profile("explore", deadline=None, print_blob=True)
settings.load_profile("explore" if os.environ.get("HFTHOT_EXPLORE") else "same")

REPOSITORY = Path(__file__).resolve().parent.parent


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """Folder with real recorded market data; tests that need it are skipped where it is absent."""
    path = Path(os.environ.get("HFTHOT_SHARED_DATA", REPOSITORY.parent / "shared" / "data"))
    if not path.is_dir():
        pytest.skip(f"real market data not present: {path}")
    return path
