"""What is computed regularly: the series whose regimes are found, and the portfolios that are kept.

What goes here: declarations, one entry each; a second portfolio is one more entry.  What stays out: how they are
computed (`regimes`, `portfolios`, `backtests`), and when (the jobs).  Nothing heavy is imported: the definitions read
this while they load.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import timedelta
from typing import Final

__all__ = ["PORTFOLIOS", "REGIME_SERIES", "DeclaredPortfolio", "RegimeSeries", "RegimeSettings"]


@dataclass(frozen=True)
class RegimeSettings:
    """How regime models are fitted.

    Attributes:
        refit_days: calendar days for which a model is used.
        history_bars: bars that a fit sees at most, and that the filter starts from.
        least_bars: bars without which no model is fitted.
        n_restarts: random starts of a series' first fit; later ones start from the model before.
        seed: of the starts.
        workers: threads; the rows do not depend on it.
    """

    refit_days: int = 21
    history_bars: int = 5000
    least_bars: int = 600
    n_restarts: int = 6
    seed: int = 0
    workers: int = 2


@dataclass(frozen=True)
class RegimeSeries:
    """Bars of one interval whose regimes are found, of all symbols that have them.

    Attributes:
        interval: of the bars; `1d` are the closes of `market.closes`.
        settings: of the fits.
        reach: time that the bars reach back from the first day asked for.
    """

    interval: str
    settings: RegimeSettings
    reach: timedelta


#: A month of daily bars moves little; bars of five minutes are refitted every day on the last two weeks.
REGIME_SERIES: Final = (
    RegimeSeries("1d", RegimeSettings(refit_days=21, history_bars=5000), timedelta(days=7300)),
    RegimeSeries(
        "5m", RegimeSettings(refit_days=1, history_bars=4032, least_bars=1000, n_restarts=3), timedelta(days=15)
    ),
)


@dataclass(frozen=True)
class DeclaredPortfolio:
    """A portfolio of all symbols of one venue that have daily closes; its rows are told from others' by the venue.

    Attributes:
        venue: whose symbols it is made of; one portfolio for each venue.
        market_series: symbol whose regime stands for the whole market.
        market_venue: where that symbol is from.
        reach: time that weights and backtests look back on.
        held_within: time within which the weights held before are looked for.
    """

    venue: str
    market_series: str
    market_venue: str
    reach: timedelta = timedelta(days=4 * 366)
    held_within: timedelta = timedelta(days=31)


PORTFOLIOS: Final = (DeclaredPortfolio(venue="us_equity", market_series="SPX", market_venue="us_index"),)
