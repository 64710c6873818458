"""Said against right: the curve, its error, and the error that chance alone would show."""

from __future__ import annotations

import numpy as np
import pytest

from hfthot_platform.core.errors import BadRequestError, DataError
from hfthot_platform.domain.models.regime.reliability import reliability


def forecaster(seed: int, n: int = 2000, run: int = 1) -> tuple[np.ndarray, np.ndarray]:
    """Return a perfect forecaster's probabilities and outcomes; `run` forecasts in a row share one outcome."""
    rng = np.random.default_rng(seed)
    said = np.repeat(rng.uniform(0.2, 0.9, n // run), run)
    return said, np.repeat(rng.random(n // run) < said[::run], run)


def test_the_curve_is_what_one_counts_by_hand():
    found = reliability([0.1, 0.1, 0.9, 0.9], [0, 1, 1, 1], bins=2, block=1)
    assert found.edges.tolist() == [0.0, 0.5, 1.0]
    assert found.share.tolist() == [0.5, 0.5]
    assert found.said == pytest.approx([0.1, 0.9])
    assert found.right == pytest.approx([0.5, 1.0])
    assert found.error == pytest.approx(0.5 * 0.4 + 0.5 * 0.1)


def test_an_empty_bin_is_unknown():
    found = reliability([0.1, 0.9], [0, 1], bins=3, block=1)
    assert np.isnan(found.right[1])
    assert found.to_frame()["right"].to_list() == [0.0, None, 1.0]
    assert "0.33" not in str(found).splitlines()[-1]


def test_a_confidence_begins_at_one_over_the_number_of_states():
    assert reliability([0.4, 1.0], [0, 1], least=1 / 3, block=1).edges[0] == pytest.approx(1 / 3)


@pytest.mark.parametrize("run", [1, 20])
def test_a_perfect_forecaster_is_within_chance(run):
    found = [reliability(*forecaster(seed, run=run), block=20, draws=100) for seed in range(60)]
    assert np.mean([curve.error <= curve.chance_95 for curve in found]) >= 0.85
    assert np.mean([curve.error for curve in found]) == pytest.approx(
        np.mean([curve.chance for curve in found]), rel=0.2
    )


def test_outcomes_in_runs_leave_more_to_chance():
    alone, together = (reliability(*forecaster(0, run=run), block=20) for run in (1, 20))
    assert together.chance > 2 * alone.chance


def test_one_who_says_too_much_is_beyond_chance():
    said, right = forecaster(1)
    found = reliability(np.clip(said + 0.1, 0, 1), right)
    assert found.error == pytest.approx(0.1, abs=0.03)
    assert found.error > found.chance_95
    assert "MORE THAN CHANCE" in repr(found)
    assert "within chance" in repr(reliability(said, right))


def test_the_same_seed_gives_the_same_chance():
    assert reliability(*forecaster(2)).chance_95 == reliability(*forecaster(2)).chance_95


@pytest.mark.parametrize(
    ("said", "right", "message"),
    [
        ([0.5, 1.5], [0, 1], "said is from 0.5 to 1.5"),
        ([0.5, 0.5], [0, -1], "right is from -1 to 0"),
        ([0.5, 0.5], [0], "right of shape"),
        ([], [], "said is empty"),
        ([0.5, np.nan], [0, 1], "said"),
    ],
)
def test_what_is_no_probability_is_refused(said, right, message):
    with pytest.raises(DataError, match=message):
        reliability(said, right)


def test_options_out_of_range_are_refused():
    with pytest.raises(BadRequestError, match="bins"):
        reliability([0.5], [1], bins=0)
