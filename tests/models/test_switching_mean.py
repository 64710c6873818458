"""The switching-mean autoregression against Hamilton's estimates of US growth and statsmodels' filter."""

from __future__ import annotations

import math

import numpy as np
import pytest

from hfthot_platform.core.errors import BadRequestError, DataError
from hfthot_platform.domain.models.regime.switching_mean import SwitchingMean, fit_switching_mean

#: Growth of US real GNP, percent a quarter, 1951Q2 to 1984Q4: the series of Hamilton (1989, Econometrica 57), as
#: published with statsmodels' tests of `MarkovAutoregression`.
GROWTH = [
    *(2.59316421, 2.20217133, 0.45827562, 0.9687438, -0.24130757, 0.89647478, 2.05393219, 1.73353648, 0.93871289),
    *(-0.46477833, -0.80983406, -1.39763689, -0.39886093, 1.1918416, 1.45620048, 2.11808228, 1.08957863, 1.32390273),
    *(0.87296367, -0.19773273, 0.45420215, 0.07221876, 1.1030364, 0.82097489, -0.05795795, 0.58447772, -1.56192672),
    *(-2.05041027, 0.53637183, 2.33676839, 2.34014559, 1.2339263, 1.8869648, -0.45920792, 0.84940469, 1.70139849),
    *(-0.28756312, 0.09594627, -0.86080289, 1.03447127, 1.23685944, 1.42004502, 2.22410631, 1.30210173, 1.03517699),
    *(0.9253425, -0.16559951, 1.3444382, 1.37500131, 1.73222184, 0.71605635, 2.21032143, 0.85333031, 1.00238776),
    *(0.42725441, 2.14368343, 1.43789184, 1.57959926, 2.27469826, 1.95962656, 0.25992399, 1.01946914, 0.49016398),
    *(0.5636338, 0.5959546, 1.43082857, 0.56230122, 1.15388393, 1.68722844, 0.77438205, -0.09647045, 1.39600146),
    *(0.13646798, 0.55223715, -0.39944872, -0.61671102, -0.08722561, 1.2101835, -0.90729755, 2.64916158, -0.0080694),
    *(0.51111895, -0.00401437, 2.16821432, 1.92586732, 1.03504717, 1.85897219, 2.32004929, 0.25570789, -0.09855274),
    *(0.89073682, -0.55896485, 0.28350255, -1.31155407, -0.88278776, -1.97454941, 1.01275265, 1.68264723, 1.38271284),
    *(1.86073637, 0.4447377, 0.41449001, 0.99202275, 1.36283576, 1.59970522, 1.98845816, -0.25684232, 0.87786949),
    *(3.1095655, 0.85324478, 1.23337317, 0.00314302, -0.09433369, 0.89883322, -0.19036628, 0.99772376, -2.39120054),
    *(0.06649673, 1.26136017, 1.91637838, -0.3348029, 0.44207108, -1.40664911, -1.52129889, 0.29919869, -0.80197448),
    *(0.15204792, 0.98585027, 2.13034606, 1.34397924, 1.61550522, 2.70930099, 1.24461412, 0.50835466, 0.14802167),
]


@pytest.fixture(scope="module")
def growth() -> SwitchingMean:
    return fit_switching_mean(GROWTH, n_starts=3)


@pytest.fixture(scope="module")
def reference(growth):
    """Return statsmodels' model at our estimates."""
    from statsmodels.tsa.regime_switching.markov_autoregression import MarkovAutoregression

    model = MarkovAutoregression(np.array(GROWTH), k_regimes=2, order=4, switching_ar=False)
    return model.smooth([*growth.transition[:, 0], *growth.mean, growth.sigma**2, *growth.phi])


def test_the_likelihood_of_us_growth_is_hamiltons(growth):
    assert growth.log_likelihood == pytest.approx(-181.26339, abs=1e-5)
    assert growth.converged
    assert growth.n_observations == len(GROWTH) - 4


def test_the_estimates_are_hamiltons(growth):
    # As printed by EViews, and in Hamilton's table I to his digits.
    assert growth.mean == pytest.approx([-0.358811, 1.163516], abs=1e-4)
    assert growth.phi == pytest.approx([0.013486, -0.057521, -0.246983, -0.212923], abs=1e-4)
    assert growth.sigma == pytest.approx(math.exp(-0.262658), abs=1e-4)
    assert np.diag(growth.transition) == pytest.approx([0.754673, 1 - 0.095915], abs=1e-4)
    # Recessions last a year, expansions two and a half.
    assert growth.expected_durations == pytest.approx([4.08, 10.43], abs=0.01)


def test_filter_smoother_and_likelihood_are_those_of_statsmodels(growth, reference):
    assert growth.log_likelihood_of(GROWTH) == pytest.approx(reference.llf, abs=1e-9)
    for ours, theirs in (
        (growth.filter(GROWTH), reference.filtered_marginal_probabilities),
        (growth.smooth(GROWTH), reference.smoothed_marginal_probabilities),
    ):
        assert np.isnan(ours[:4]).all()
        assert ours[4:] == pytest.approx(np.asarray(theirs), abs=1e-9)


def test_recessions_are_where_the_nber_dates_them(growth):
    recession = growth.smooth(GROWTH)[:, 0] > 0.5
    # Quarters after 1951Q2: 1957Q4, 1974Q2 and 1982Q1 lie in recessions, 1965Q1 and 1978Q1 in expansions.
    assert recession[[26, 92, 123]].all()
    assert not recession[[55, 107]].any()


def test_the_filter_does_not_look_ahead(growth):
    assert growth.filter(GROWTH[:80]) == pytest.approx(growth.filter(GROWTH)[:80], nan_ok=True, abs=1e-14)


def test_scale_and_shift_of_the_series_are_those_of_the_result(growth):
    other = fit_switching_mean(np.array(GROWTH) * 40 + 7, n_starts=3)
    assert other.mean == pytest.approx(growth.mean * 40 + 7, rel=1e-3)
    assert other.log_likelihood == pytest.approx(growth.log_likelihood - 131 * math.log(40), abs=1e-4)


def test_order_zero_is_a_gaussian_chain():
    generator = np.random.default_rng(0)
    state = np.repeat([0, 1, 0, 1], 60)
    y = np.array([-1.0, 2.0])[state] + 0.5 * generator.standard_normal(240)
    model = fit_switching_mean(y, order=0, n_starts=2)
    assert model.mean == pytest.approx([-1.0, 2.0], abs=0.15)
    assert (model.smooth(y).argmax(axis=1) == state).mean() > 0.98


@pytest.mark.parametrize(
    "options",
    [
        {"order": -1},
        {"order": 2.5},
        {"order": 9, "n_states": 3},
        {"n_states": 4},
        {"n_starts": 0},
        {"seed": -1},
        {"tolerance": math.nan},
        {"max_iterations": 0},
    ],
)
def test_arguments_out_of_their_domain_are_refused(options):
    with pytest.raises(BadRequestError):
        fit_switching_mean(GROWTH, **options)


@pytest.mark.parametrize(
    "series", [GROWTH[:30], [*GROWTH, math.nan], [*GROWTH, math.inf], ["up"] * 200, np.ones(200), np.ones((99, 2))]
)
def test_data_that_cannot_carry_it_are_refused(series):
    with pytest.raises(DataError):
        fit_switching_mean(series)
