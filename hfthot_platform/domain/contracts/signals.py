"""Contracts of `signals.*`: what the models say about each series, bar by bar or run by run."""

from __future__ import annotations

from hfthot_platform.domain.contracts.model import DATE, FLAG, FLOAT, INT, SMALL, TEXT, TIME, Column, TableContract
from hfthot_platform.domain.contracts.rules import AtLeast, Between, Finite, OneOf

__all__ = [
    "CHIARELLA_FORECASTS",
    "MFG_PRICES",
    "QUIET_LABELS",
    "REGIMES",
    "REGIME_CHANGES",
    "REGIME_LABELS",
    "REGIME_MODELS",
    "REGIME_NAMES",
]

#: Names of the regimes, in the order of the probability columns.
REGIME_LABELS = ("trending", "mean_reverting", "volatile")
#: What the two quieter regimes are called if trending and mean-reverting are not told apart.
QUIET_LABELS = ("calm", "normal")
#: All names of regimes.
REGIME_NAMES = (*REGIME_LABELS, *QUIET_LABELS)
_STRATEGIES = ("momentum", "stat_arb", "risk_off", "neutral")

_VENUE = Column("venue", TEXT, "Market of the series", few=True)
_SYMBOL = Column("symbol", TEXT, "Canonical symbol", few=True)
_INTERVAL = Column("interval", TEXT, "Length of the bars of the series", few=True)
_VERSION = Column("schema_version", SMALL, "Version of this contract when the row was written", provenance=True)

REGIME_MODELS = TableContract(
    name="signals.regime_models",
    description=(
        "Fitted regime models. The parameters used on a day were fitted on bars before that day; "
        "a model is used from `fitted_on` until the next one."
    ),
    columns=(
        Column("year", SMALL, "Year of `fitted_on`; partition"),
        Column("fitted_on", DATE, "First day on which the model is used; it saw no bar of that day or later"),
        _VENUE,
        _SYMBOL,
        _INTERVAL,
        Column("model_id", TEXT, "Fingerprint of everything that decides the model's output"),
        Column(
            "observation", TEXT, "ar1 (Markov-switching AR(1)) or multivariate (states found on features)", few=True
        ),
        Column("parameters", TEXT, "The exact model as JSON"),
        Column("trained_from", TIME, "First bar of the training data"),
        Column("trained_until", TIME, "Last bar of the training data"),
        Column("n_observations", INT, "Number of returns in the likelihood"),
        Column("log_likelihood", FLOAT, "Of the training data", unit="nats"),
        Column("bic", FLOAT, "Bayesian information criterion; comparable within one observation model"),
        Column("iterations", INT, "Of the best start"),
        Column("converged", FLAG, "Whether the tolerance was reached"),
        Column(
            "score_ar1",
            FLOAT,
            "Out-of-sample log density per return, if the observation model was chosen",
            nullable=True,
        ),
        Column("score_multivariate", FLOAT, "The same for the other observation model", nullable=True),
        Column("identified", FLAG, "Whether the difference between trending and mean-reverting exceeds noise"),
        Column("reason", TEXT, "Why not", nullable=True),
        _VERSION,
    ),
    primary_key=("symbol", "venue", "interval", "fitted_on"),
    sort_by=("symbol", "venue", "interval", "fitted_on"),
    partition_by="year",
    time_column="fitted_on",
    rules=(
        OneOf("observation", ("ar1", "multivariate")),
        Finite("log_likelihood"),
        Between("n_observations", 1, 1e12),
    ),
    stats_columns=("year", "fitted_on", "symbol"),
    max_rejected_share=0.0,
)

REGIMES = TableContract(
    name="signals.regimes",
    description="The regime after each bar, from the causal filter with a model fitted before the bar's day.",
    columns=(
        Column("month", DATE, "First day of the month of `ts`; partition"),
        _VENUE,
        _SYMBOL,
        _INTERVAL,
        Column("ts", TIME, "Open time of the bar; the regime is known when the bar closes"),
        Column(
            "regime",
            TEXT,
            "Most probable regime: trending, mean_reverting or volatile; calm, normal or volatile where trending and "
            "mean-reverting are not told apart",
            few=True,
        ),
        Column("confidence", FLOAT, "Its probability"),
        Column(
            "p_trending",
            FLOAT,
            "Probability of trending; half of that of the quiet regimes if the two are not told apart",
        ),
        Column(
            "p_mean_reverting", FLOAT, "Probability of mean_reverting; the other half if the two are not told apart"
        ),
        Column("p_volatile", FLOAT, "Probability of volatile"),
        Column("strategy", TEXT, "Suitable strategy: momentum, stat_arb, risk_off or neutral", few=True),
        Column("identified", FLAG, "False if trending and mean-reverting are not told apart; do not trade on it"),
        Column("model_id", TEXT, "Model in `signals.regime_models`", few=True),
        Column(
            "p_calm", FLOAT, "Probability of calm; empty if trending and mean-reverting are told apart", nullable=True
        ),
        Column(
            "p_normal",
            FLOAT,
            "Probability of normal; empty if trending and mean-reverting are told apart",
            nullable=True,
        ),
        _VERSION,
    ),
    schema_version=2,
    primary_key=("symbol", "venue", "interval", "ts"),
    sort_by=("symbol", "venue", "interval", "ts"),
    partition_by="month",
    time_column="ts",
    rules=(
        OneOf("regime", REGIME_NAMES),
        OneOf("strategy", _STRATEGIES),
        *(rule for label in REGIME_NAMES for rule in (Finite(f"p_{label}"), Between(f"p_{label}", 0, 1 + 1e-9))),
        # The most probable of three has at least a third.
        Between("confidence", 1 / 3 - 1e-9, 1 + 1e-9),
    ),
    stats_columns=("month", "symbol", "interval", "ts"),
    max_rejected_share=0.0,
)

REGIME_CHANGES = TableContract(
    name="signals.regime_changes",
    description="Bars after which a regime other than the last certain one has a probability above 0.75.",
    columns=(
        Column("month", DATE, "First day of the month of `ts`; partition"),
        _VENUE,
        _SYMBOL,
        _INTERVAL,
        Column("ts", TIME, "Open time of the bar"),
        Column("previous", TEXT, "Previous certain regime", few=True),
        Column("regime", TEXT, "New regime", few=True),
        Column("confidence", FLOAT, "Its probability, above 0.75"),
        Column("identified", FLAG, "As in `signals.regimes`"),
        Column("model_id", TEXT, "Model in `signals.regime_models`", few=True),
        _VERSION,
    ),
    primary_key=("symbol", "venue", "interval", "ts"),
    sort_by=("symbol", "venue", "interval", "ts"),
    partition_by="month",
    time_column="ts",
    rules=(
        OneOf("previous", REGIME_NAMES),
        OneOf("regime", REGIME_NAMES),
        Between("confidence", 0.75, 1 + 1e-9, open_low=True),
    ),
    stats_columns=("month", "symbol", "interval", "ts"),
    max_rejected_share=0.0,
)

MFG_PRICES = TableContract(
    name="signals.mfg_prices",
    description="Expected price paths of the trade-crowding mean field game, from the order flow up to `made_at`.",
    columns=(
        Column("date", DATE, "Day of `made_at`; partition"),
        _VENUE,
        _SYMBOL,
        Column("made_at", TIME, "Time up to which data was used; the path starts here"),
        Column("data_until", TIME, "Time of the last trade or close of the last bar that was used"),
        Column("ts", TIME, "Point of the path"),
        Column("expected", FLOAT, "Expected price", unit="quote per base"),
        Column("lower", FLOAT, "Lower end of the 95 % band", unit="quote per base"),
        Column("upper", FLOAT, "Upper end of the 95 % band", unit="quote per base"),
        Column("mean_inventory", FLOAT, "Mean inventory of an agent", unit="base"),
        Column("kyle_lambda", FLOAT, "Measured slope of price on signed volume", unit="quote per base"),
        Column("kyle_t", FLOAT, "Its t-statistic"),
        Column("parameters", TEXT, "The game and the calibration as JSON"),
        Column("iterations", INT, "Iterations of the fixed point on the grid that checks the path"),
        Column("residual", FLOAT, "Its last residual, relative"),
        Column("hjb_residual", FLOAT, "Of the Hamilton-Jacobi-Bellman equation, relative"),
        Column("fokker_planck_residual", FLOAT, "Of the Fokker-Planck equation, relative"),
        Column("mass_error", FLOAT, "Largest |mass - 1| over time, before any normalisation"),
        Column("converged", FLAG, "Whether the grid's mean inventory is accurate to 1e-3; the path itself is exact"),
        _VERSION,
    ),
    primary_key=("symbol", "venue", "made_at", "ts"),
    sort_by=("symbol", "venue", "made_at", "ts"),
    partition_by="date",
    time_column="made_at",
    rules=(
        AtLeast("ts", ("made_at",)),
        AtLeast("made_at", ("data_until",)),
        *(Finite(name) for name in ("expected", "lower", "upper", "mean_inventory", "residual")),
        AtLeast("upper", ("expected",)),
        AtLeast("expected", ("lower",)),
        Between("mass_error", 0, 1e-12),
    ),
    stats_columns=("date", "symbol", "made_at", "ts"),
    max_rejected_share=0.0,
)

CHIARELLA_FORECASTS = TableContract(
    name="signals.chiarella_forecasts",
    description="Simulated price fans of fundamentalists, chartists and noise traders, fitted to bars up to `made_at`.",
    columns=(
        Column("date", DATE, "Day of `made_at`; partition"),
        _VENUE,
        _SYMBOL,
        Column("made_at", TIME, "Time up to which data was used; the fan starts here"),
        Column("data_until", TIME, "Close of the last bar that was used"),
        Column("ts", TIME, "Point of the fan"),
        Column("expected", FLOAT, "Mean simulated price", unit="quote per base"),
        Column("lower", FLOAT, "5 % quantile", unit="quote per base"),
        Column("upper", FLOAT, "95 % quantile", unit="quote per base"),
        Column("market", TEXT, "stable, oscillating or explosive", few=True),
        Column("bubble_prone", FLAG, "Whether a deviation from the fundamental value grows before it dies"),
        Column("half_life", FLOAT, "Of a deviation; null if it never halves", unit="minutes", nullable=True),
        Column(
            "order_impact",
            FLOAT,
            "Peak move caused by buying 1 % of a day's volume; null if takers' volume is unknown",
            unit="fraction",
            nullable=True,
        ),
        Column(
            "order_impact_error",
            FLOAT,
            "Its standard error, of the fitted lambda and of the simulation",
            unit="fraction",
            nullable=True,
        ),
        Column("parameters", TEXT, "The fitted market as JSON"),
        Column("warnings", TEXT, "What the data cannot identify", nullable=True),
        Column("converged", FLAG, "Whether the fit met its tolerance"),
        _VERSION,
    ),
    primary_key=("symbol", "venue", "made_at", "ts"),
    sort_by=("symbol", "venue", "made_at", "ts"),
    partition_by="date",
    time_column="made_at",
    rules=(
        AtLeast("ts", ("made_at",)),
        AtLeast("made_at", ("data_until",)),
        *(Finite(name) for name in ("expected", "lower", "upper", "order_impact")),
        AtLeast("upper", ("lower",)),
        OneOf("market", ("stable", "oscillating", "explosive")),
    ),
    stats_columns=("date", "symbol", "made_at", "ts"),
    max_rejected_share=0.0,
)
