/*
description: >-
  Return of each final bar against the bar before it, for every series of bars. Daily ones are taken from
  `market.closes` (adjusted where the source adjusts them), as `signals.regimes` does; all others from `market.bars`.
owner: team:quant
materialized: view
unique_key: [venue, symbol, interval, ts]
tags: [market]
settings:
  # No US exchange stayed shut longer since 1972 (10 to 17 September 2001).
  longest_closure_days: 7
columns:
  venue: {description: Market of the series}
  symbol: {description: Canonical symbol}
  interval: {description: Length of the bars}
  ts: {description: Open time of the bar; midnight for daily closes}
  previous_ts: {description: Open time of the bar before; null on the first bar}
  simple_return: {description: close / previous close - 1; null on the first bar, unit: fraction}
  log_return: {description: ln(close / previous close); null on the first bar, unit: fraction}
  one_step: {description: "Whether the bar before is the one due before: no interval, and no trading day, is missing"}
*/
WITH series AS (
    SELECT venue, symbol, '1d' AS interval, CAST(date AS TIMESTAMPTZ) AS ts, close
    FROM market.closes
    UNION ALL
    SELECT venue, symbol, interval, ts, close
    FROM market.bars
    WHERE interval <> '1d' AND final
),
stepped AS (
    SELECT
        venue,
        symbol,
        interval,
        ts,
        close,
        lag(ts) OVER before AS previous_ts,
        lag(close) OVER before AS previous_close
    FROM series
    WINDOW before AS (PARTITION BY venue, symbol, interval ORDER BY ts)
)
SELECT
    stepped.venue,
    stepped.symbol,
    stepped.interval,
    stepped.ts,
    stepped.previous_ts,
    stepped.close / stepped.previous_close - 1 AS simple_return,
    ln(stepped.close / stepped.previous_close) AS log_return,
    coalesce(
        stepped.ts - stepped.previous_ts = to_seconds(intervals.seconds)
        OR (
            stepped.interval = '1d'
            AND starts_with(stepped.venue, 'us_')
            AND stepped.ts - stepped.previous_ts <= to_days($longest_closure_days)
        ),
        false
    ) AS one_step
FROM stepped
JOIN staging.intervals AS intervals ON intervals.interval = stepped.interval
