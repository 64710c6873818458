"""Contracts of `portfolio.*`: target weights with their reasons, and backtests."""

from __future__ import annotations

from hfthot_platform.domain.contracts.model import DATE, FLAG, FLOAT, INT, SMALL, TEXT, TIME, Column, TableContract
from hfthot_platform.domain.contracts.rules import AtLeast, Between, Finite, OneOf
from hfthot_platform.domain.contracts.signals import REGIME_NAMES

__all__ = [
    "ADAPTIVE_WEIGHTS",
    "ALL_SYMBOLS",
    "BACKTESTS",
    "BACKTEST_EQUITY",
    "DECISION_REGIMES",
    "DECISION_STRATEGIES",
    "METHODS",
    "SIZING_METHODS",
    "WEIGHTS",
]

#: Methods of `portfolio.weights`.
METHODS = ("cara", "risk_parity", "sparse")
#: Regimes that a decision knows of.
DECISION_REGIMES = (*REGIME_NAMES, "unidentified", "unknown")
#: What a decision makes of a regime.
DECISION_STRATEGIES = ("momentum", "stat_arb", "risk_off", "neutral", "none")
#: How a decision sizes its views.
SIZING_METHODS = (*METHODS, "none")
#: The symbol of a backtest of all symbols together.
ALL_SYMBOLS = "all"

_VERSION = Column("schema_version", SMALL, "Version of this contract when the row was written", provenance=True)

WEIGHTS = TableContract(
    name="portfolio.weights",
    description="Target weights for a day by method, from closes before that day.",
    columns=(
        Column("month", DATE, "First day of the month of `date`; partition"),
        Column("date", DATE, "Day that the weights are for"),
        Column("method", TEXT, "cara, risk_parity or sparse", few=True),
        Column("venue", TEXT, "Market of the symbol", few=True),
        Column("symbol", TEXT, "Canonical symbol", few=True),
        Column("weight", FLOAT, "Target weight; negative is short"),
        Column("risk_contribution", FLOAT, "Share of the portfolio's variance"),
        Column("expected_return", FLOAT, "Of the portfolio, per day", nullable=True),
        Column("volatility", FLOAT, "Of the portfolio, per day"),
        Column("turnover", FLOAT, "Sum of absolute changes since the previous day with weights"),
        Column("kkt_residual", FLOAT, "Relative violation of the optimality conditions"),
        Column("status", TEXT, "optimal or approximate", few=True),
        Column("observations", INT, "Days of returns that the moments are estimated from"),
        Column("shrinkage", FLOAT, "Weight of the covariance's shrinkage target"),
        Column("data_until", DATE, "Last day whose closes were used, before `date`"),
        _VERSION,
    ),
    primary_key=("date", "method", "symbol", "venue"),
    sort_by=("date", "method", "symbol", "venue"),
    partition_by="month",
    time_column="date",
    rules=(
        OneOf("method", METHODS),
        OneOf("status", ("optimal", "approximate")),
        Finite("weight"),
        Between("weight", -10, 10),
        Finite("volatility"),
        Between("kkt_residual", 0, 1e-4),
        AtLeast("date", ("data_until",)),
    ),
    stats_columns=("month", "date", "symbol"),
    max_rejected_share=0.0,
)

ADAPTIVE_WEIGHTS = TableContract(
    name="portfolio.adaptive_weights",
    description=(
        "Decisions of the adaptive pipeline, one row per day and symbol: regime, strategy, simulated move, costs, "
        "sizing and weight, with the reason in words. A row explains its weight without any other table."
    ),
    columns=(
        Column("month", DATE, "First day of the month of `date`; partition"),
        Column("date", DATE, "Day that the weight is for"),
        Column("venue", TEXT, "Market of the symbol", few=True),
        Column("symbol", TEXT, "Canonical symbol", few=True),
        Column("data_until", TIME, "Open time of the last bar (or day of the last close) used, before `date`"),
        Column("regime_of", TEXT, "Series whose regime is used: the symbol's own, or the market's", few=True),
        Column("regime_ts", TIME, "Open time of the bar whose regime it is; empty without one", nullable=True),
        Column("regime", TEXT, f"{', '.join(DECISION_REGIMES)}", few=True),
        Column("confidence", FLOAT, "Probability of the regime; 0 if unknown"),
        Column("identified", FLAG, "Whether the difference between trending and mean-reverting exceeds noise"),
        Column("strategy", TEXT, f"{', '.join(DECISION_STRATEGIES)}", few=True),
        Column("signal", FLOAT, "Score of the strategy's rule, in standard deviations", nullable=True),
        Column(
            "expected_return",
            FLOAT,
            "Median move of the simulated market over `horizon_bars`; empty without a market",
            unit="fraction",
            nullable=True,
        ),
        Column("expected_deviation", FLOAT, "Its standard deviation", unit="fraction", nullable=True),
        Column("horizon_bars", INT, "Bars over which the move is expected"),
        Column("market_fitted_until", TIME, "Last bar that the simulated market was fitted to", nullable=True),
        Column("cost", FLOAT, "Of opening and closing, including impact", unit="fraction", nullable=True),
        Column("impact", FLOAT, "Move of the price by this order; empty if unknown", unit="fraction", nullable=True),
        Column("method", TEXT, f"Sizing: {', '.join(SIZING_METHODS)}", few=True),
        Column("budget", FLOAT, "Share of the capital that the strategy uses"),
        Column("weight", FLOAT, "Target weight; negative is short, the rest to 1 is cash"),
        Column("previous_weight", FLOAT, "Weight held before the decision, after price moves"),
        Column("reason", TEXT, "How the weight was calculated, step by step"),
        _VERSION,
    ),
    primary_key=("date", "symbol", "venue"),
    sort_by=("date", "symbol", "venue"),
    partition_by="month",
    time_column="date",
    rules=(
        OneOf("regime", DECISION_REGIMES),
        OneOf("strategy", DECISION_STRATEGIES),
        OneOf("method", SIZING_METHODS),
        Between("confidence", 0, 1 + 1e-9),
        *(Finite(name) for name in ("signal", "expected_return", "expected_deviation", "cost", "impact")),
        Between("budget", 0, 1 + 1e-9),
        Between("weight", -1 - 1e-9, 1 + 1e-9),
    ),
    stats_columns=("month", "date", "symbol"),
    max_rejected_share=0.0,
)

_RUN = (
    Column("month", DATE, "First day of the month of `run_on`; partition"),
    Column("run_on", DATE, "Day of the run; it saw no bar of that day or later"),
    Column("strategy", TEXT, "Rule, method of `portfolio.weights`, or adaptive", few=True),
    Column("venue", TEXT, "Market of the symbol", few=True),
    Column("symbol", TEXT, f"Canonical symbol, or `{ALL_SYMBOLS}` for all of them in one account", few=True),
    Column("interval", TEXT, "Length of the bars; `close` for daily closes, for which orders fill at the next close"),
)

BACKTESTS = TableContract(
    name="portfolio.backtests",
    description=(
        "What each strategy would have earned after costs, executed at the next open (at the next close if "
        "only closes are known): one row per run, strategy and symbol. Figures cover the bars after the "
        "first decision."
    ),
    columns=(
        *_RUN,
        Column("parameters", TEXT, "The strategy as JSON"),
        Column("symbols", INT, "Number of symbols in the account"),
        Column("data_from", TIME, "Open time of the first bar"),
        Column("data_until", TIME, "Open time of the last bar, before `run_on`"),
        Column("bars", INT, "Number of bars"),
        Column("bars_per_year", FLOAT, "Bars per year, which annual figures are based on"),
        Column("fee", FLOAT, "Charged each way", unit="fraction of the traded value"),
        Column("slippage", FLOAT, "Charged each way", unit="fraction of the traded value"),
        Column("total_return", FLOAT, "Equity at the end, less 1", unit="fraction"),
        Column("annual_return", FLOAT, "Compounded, per year", unit="fraction", nullable=True),
        Column("volatility", FLOAT, "Per year", unit="fraction", nullable=True),
        Column("sharpe", FLOAT, "Mean over standard deviation of returns, per root of a year", nullable=True),
        Column("sharpe_error", FLOAT, "Its standard error for independent returns", nullable=True),
        Column("max_drawdown", FLOAT, "Lowest equity over its maximum so far, less 1", unit="fraction"),
        Column("trips", INT, "Round trips closed"),
        Column("win_rate", FLOAT, "Share of them with a profit after costs", nullable=True),
        Column("average_hold_bars", FLOAT, "Their mean length", unit="bars", nullable=True),
        Column("average_hold_hours", FLOAT, "Their mean length", unit="hours", nullable=True),
        Column("annual_turnover", FLOAT, "Value traded per year over equity", nullable=True),
        Column("total_cost", FLOAT, "Fees and slippage paid", unit="fraction of the initial equity"),
        Column("ruined", FLAG, "Whether equity fell to zero"),
        Column("by_regime", TEXT, "The same figures per regime, as a JSON list; empty without regimes", nullable=True),
        _VERSION,
    ),
    primary_key=("run_on", "strategy", "symbol", "venue", "interval"),
    sort_by=("run_on", "strategy", "symbol", "venue", "interval"),
    partition_by="month",
    time_column="run_on",
    rules=(
        AtLeast("data_until", ("data_from",)),
        Finite("total_return"),
        Finite("sharpe"),
        Between("max_drawdown", -1e9, 0),
        Between("win_rate", 0, 1),
        Between("bars", 2, 1e12),
    ),
    stats_columns=("month", "run_on", "symbol"),
    max_rejected_share=0.0,
)

BACKTEST_EQUITY = TableContract(
    name="portfolio.backtest_equity",
    description=(
        "Equity curves of the latest backtests, thinned: the last bar of each stretch, with the deepest drawdown "
        "and the turnover within it."
    ),
    columns=(
        *_RUN,
        Column("ts", TIME, "Open time of the last bar of the stretch"),
        Column("equity", FLOAT, "At its close; 1 at the start"),
        Column("drawdown", FLOAT, "Deepest within the stretch", unit="fraction"),
        Column("turnover", FLOAT, "Value traded within the stretch over equity"),
        _VERSION,
    ),
    primary_key=("run_on", "strategy", "symbol", "venue", "interval", "ts"),
    sort_by=("run_on", "strategy", "symbol", "venue", "interval", "ts"),
    partition_by="month",
    time_column="run_on",
    rules=(
        Finite("equity"),
        Between("drawdown", -1e9, 0),
    ),
    stats_columns=("month", "run_on", "symbol"),
    retention_days=400,
    max_rejected_share=0.0,
)
