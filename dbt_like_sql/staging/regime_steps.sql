/*
description: >-
  The regime after each bar next to the one after the bar before it. A step over a hole in the data does not count as a step: what
  happened within the hole is not known.
owner: team:quant
materialized: view
unique_key: [venue, symbol, interval, ts]
tags: [regimes]
settings:
  # No US exchange stayed shut longer since 1972 (10 to 17 September 2001).
  longest_closure_days: 7
columns:
  venue: {description: Market of the series}
  symbol: {description: Canonical symbol}
  interval: {description: Length of the bars}
  ts: {description: Open time of the bar; the regime is known when it closes}
  regime: {description: Regime after the bar}
  identified: {description: Whether trending and mean-reverting are told apart}
  previous_ts: {description: Open time of the bar before; null on the first bar}
  previous_regime: {description: Regime after the bar before; null on the first bar}
  one_step: {description: "Whether the bar before is the one due before: no interval is missing"}
*/
WITH stepped AS (
    SELECT
        venue,
        symbol,
        interval,
        ts,
        regime,
        identified,
        lag(ts) OVER before AS previous_ts,
        lag(regime) OVER before AS previous_regime
    FROM signals.regimes
    WINDOW before AS (PARTITION BY venue, symbol, interval ORDER BY ts)
)
SELECT
    stepped.venue,
    stepped.symbol,
    stepped.interval,
    stepped.ts,
    stepped.regime,
    stepped.identified,
    stepped.previous_ts,
    stepped.previous_regime,
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
