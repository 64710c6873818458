/*
description: >-
  Every row that was kept out of a table of market data, signals or portfolios: from where and why, without the row
  itself. Quarantines of the user tables are left out.
owner: team:platform
materialized: view
tags: [quality]
columns:
  table_name: {description: Table that the row was kept out of}
  adapter: {description: "Adapter that the row came through; `computed` where the platform made it"}
  reason: {description: Machine-readable reason}
  detail: {description: The rule in words}
  quarantined_at: {description: When}
*/
WITH every AS (
    SELECT 'market.instruments' AS table_name, source_ref, reason, detail, quarantined_at FROM quarantine.instruments
    UNION ALL
    SELECT 'market.trades', source_ref, reason, detail, quarantined_at FROM quarantine.trades
    UNION ALL
    SELECT 'market.bars_1m', source_ref, reason, detail, quarantined_at FROM quarantine.bars_1m
    UNION ALL
    SELECT 'market.bars', source_ref, reason, detail, quarantined_at FROM quarantine.bars
    UNION ALL
    SELECT 'market.closes', source_ref, reason, detail, quarantined_at FROM quarantine.closes
    UNION ALL
    SELECT 'market.corporate_actions', source_ref, reason, detail, quarantined_at FROM quarantine.corporate_actions
    UNION ALL
    SELECT 'market.universe', source_ref, reason, detail, quarantined_at FROM quarantine.universe
    UNION ALL
    SELECT 'signals.regime_models', source_ref, reason, detail, quarantined_at FROM quarantine.regime_models
    UNION ALL
    SELECT 'signals.regimes', source_ref, reason, detail, quarantined_at FROM quarantine.regimes
    UNION ALL
    SELECT 'signals.regime_changes', source_ref, reason, detail, quarantined_at FROM quarantine.regime_changes
    UNION ALL
    SELECT 'signals.mfg_prices', source_ref, reason, detail, quarantined_at FROM quarantine.mfg_prices
    UNION ALL
    SELECT 'signals.chiarella_forecasts', source_ref, reason, detail, quarantined_at
    FROM quarantine.chiarella_forecasts
    UNION ALL
    SELECT 'portfolio.weights', source_ref, reason, detail, quarantined_at FROM quarantine.weights
    UNION ALL
    SELECT 'portfolio.adaptive_weights', source_ref, reason, detail, quarantined_at FROM quarantine.adaptive_weights
    UNION ALL
    SELECT 'portfolio.backtests', source_ref, reason, detail, quarantined_at FROM quarantine.backtests
    UNION ALL
    SELECT 'portfolio.backtest_equity', source_ref, reason, detail, quarantined_at FROM quarantine.backtest_equity
)
SELECT
    table_name,
    -- Closes that were taken from daily bars refer to these.
    coalesce(nullif(nullif(regexp_extract(source_ref, '^[^:@ ]+'), ''), 'market.bars'), 'computed') AS adapter,
    reason,
    detail,
    quarantined_at
FROM every
