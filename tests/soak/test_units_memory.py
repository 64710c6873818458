"""A day that memory does not hold: bars of it take no more than a bound that the day at once exceeds."""

from __future__ import annotations

import pytest

from benchmarks.bench_units import run

ROWS = 6_000_000
#: Of memory; the libraries alone take a quarter of it.
BOUND_GB = 1.1


@pytest.mark.soak
def test_bars_and_compaction_of_a_day_stay_within_a_bound_that_the_day_at_once_exceeds(tmp_path):
    root = str(tmp_path / "lake")
    run("write", root, ROWS, 1_000)
    taken = {
        "bars_1m": run("bars_1m", root, 1_000_000),
        "compact": run("compact", root),
        "bars_1m at once": run("bars_1m at once", root),
    }

    assert taken["bars_1m at once"]["gigabytes"] > BOUND_GB, taken
    assert taken["bars_1m"]["gigabytes"] < BOUND_GB, taken
    assert taken["compact"]["gigabytes"] < 2 * BOUND_GB, taken
    assert "without overlap" in str(taken["compact"]["said"])
