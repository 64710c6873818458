"""Regimes, forecasts, portfolios and backtests."""

import dagster as dg

from jobs.common import TODAY, YESTERDAY, daily_schedule, tables_with_gates

__all__ = ["JOBS", "SCHEDULES", "portfolios"]

regimes = dg.define_asset_job(
    "regimes",
    selection=tables_with_gates("signals.regime_models", "signals.regimes", "signals.regime_changes"),
    description="Fit the regime models that are due and find each bar's regime and the changes.",
)
forecasts = dg.define_asset_job(
    "forecasts",
    selection=tables_with_gates("signals.mfg_prices", "signals.chiarella_forecasts"),
    description="Forecast price paths at each hour of the day that has no forecast yet.",
)
portfolios = dg.define_asset_job(
    "portfolios",
    selection=tables_with_gates("portfolio.weights", "portfolio.adaptive_weights"),
    description="Compute the day's target weights from what was known before it.",
)
backtest = dg.define_asset_job(
    "backtest",
    selection=tables_with_gates("portfolio.backtests"),
    description="Run the rules and the recorded weights over the closes before the day.",
)

JOBS = [regimes, forecasts, portfolios, backtest]

SCHEDULES = [
    # Models that are due are fitted on the days before; regimes of yesterday's bars are complete by then.
    daily_schedule("regimes_daily", "regimes", "20 2 * * *", day=YESTERDAY),
    daily_schedule("portfolios_daily", "portfolios", "40 2 * * *", day=TODAY),
    daily_schedule("backtest_weekly", "backtest", "0 5 * * 0", day=TODAY),
    # For live feeds.
    daily_schedule("regimes_live", "regimes", "2-59/5 * * * *", day=TODAY, running=False),
    daily_schedule("forecasts_hourly", "forecasts", "10 * * * *", day=TODAY, running=False),
]
