"""Market regimes: which of trending, mean-reverting or volatile a series of returns is in, and how sure that is.

What belongs here: fitting, filtering, smoothing, decoding, labelling and choosing regime models.  What does
not: prices, tables, schedules.  This package is what to import; `fitting` takes the arguments of a fit, `estimation`
climbs the likelihood and chooses, `model` is the fitted model and what it can be asked, `online` its filter bar by bar,
`walking_forward` the regimes as they would have been known, `bar_grid` returns from closes, `loops` the compiled
arithmetic.  `reliability` (stated probabilities against outcomes) and `switching_mean` (Hamilton's model of growth
rates) are imported from their own modules.

**Markov-switching AR(1)** (`ar1`; Hamilton 1989).  The regime s is a Markov chain with transition matrix A, and

    r_t | s_t ~ N(mu_s + phi_s r_(t-1), sigma_s^2),

so trending is phi > 0 and mean-reverting phi < 0, which a Gaussian hidden Markov model cannot see.  It is
fitted by expectation-maximisation (Hamilton 1990) with the exact M-step; the likelihood is that of the returns
given their direct predecessors.  `gaussian` is the same with phi = 0: the baseline.

**Multivariate** (`multivariate`).  The states are found by a Gaussian hidden Markov model with full covariances on
four causal features of each bar: the return, the efficiency ratio, the lag-1 autocorrelation and the log realised
volatility, with exponentially decaying memory (`Memory`).  It is the model of hmmlearn's `GaussianHMM`, the reference
in the tests, fitted here because that is several times faster and because a gap can then move the regime.  The
memories of neighbouring bars overlap, so the likelihood of the features counts each return many times and is far too
sure.  From the states found, a second expectation-maximisation therefore climbs the likelihood of the returns,

    r_t | s_t, past ~ N(c_s + phi_s r_(t-1), (exp(a_s) v_(t-1)^b_s)^2),   v the realised volatility,

in which each counts once; filter, smoother and densities are those of this law.  So its probabilities are
probabilities, and `RegimeModel.predictive_log_density` is log p(r_t | r before t) under either model: what `auto`
compares.

**Gaps.**  NaN means that the bar is missing, and is accepted only with `allow_missing=True`; infinity and returns ten
orders of magnitude beyond the usual ones are mistakes in the prices and count as missing, too.  A missing bar
moves the regime by A and says nothing else; the first return after a gap of k bars is judged by the AR(1) law
over k bars, or by the stationary law where nothing came before.  It is never a return of zero.
"""

from hfthot_platform.domain.models.regime.bar_grid import bar_returns
from hfthot_platform.domain.models.regime.fitting import fit_many, fit_regimes
from hfthot_platform.domain.models.regime.model import (
    LABELS,
    QUIET,
    STRATEGIES,
    Evidence,
    Memory,
    Observation,
    RegimeModel,
    Selection,
)
from hfthot_platform.domain.models.regime.online import FilterState, RegimeFilter, RegimeUpdate
from hfthot_platform.domain.models.regime.walking_forward import Agreement, WalkForward, agreement, walk_forward

__all__ = [
    "LABELS",
    "QUIET",
    "STRATEGIES",
    "Agreement",
    "Evidence",
    "FilterState",
    "Memory",
    "Observation",
    "RegimeFilter",
    "RegimeModel",
    "RegimeUpdate",
    "Selection",
    "WalkForward",
    "agreement",
    "bar_returns",
    "fit_many",
    "fit_regimes",
    "walk_forward",
]
