/*
description: >-
  What each series earned in each regime: returns of bars by the regime after the bar before, which was known when the
  bar began; the bar's own regime would look ahead. Simple close-to-close returns, without costs. Sharpe ratio with a
  riskless rate of zero (Sharpe 1994, The Sharpe Ratio, Journal of Portfolio Management 21) and its standard error for
  independent returns, sqrt((1 + s^2 / 2) / n) with s per bar (Lo 2002, The Statistics of Sharpe Ratios, Financial
  Analysts Journal 58). Bars after a hole in the data do not count.
owner: team:quant
materialized: table
unique_key: [venue, symbol, interval, regime]
automation: follows
tags: [regimes, risk]
settings:
  # Bars without which there is no volatility and no Sharpe ratio.
  least_bars: 20
columns:
  venue: {description: Market of the series, tests: [not_null]}
  symbol: {description: Canonical symbol, tests: [not_null]}
  interval: {description: Length of the bars, tests: [not_null]}
  regime:
    description: Regime after the bar before
    tests: [not_null, accepted_values: [trending, mean_reverting, volatile, calm, normal]]
  bars: {description: Returns, tests: [not_null, range: {min: 1}]}
  identified_share:
    description: Share of them where trending and mean-reverting are told apart
    tests: [not_null, range: {min: 0, max: 1}]
  mean_return: {description: Mean return of a bar, unit: fraction, tests: [not_null]}
  annual_return: {description: Mean return times bars per year, unit: fraction per year, tests: [not_null]}
  volatility:
    description: Sample standard deviation per root of a year; null with fewer than 20 bars
    unit: fraction
    tests: [range: {min: 0}]
  sharpe: {description: Annual return over volatility; null with fewer than 20 bars or without any move}
  sharpe_error: {description: Its standard error, tests: [range: {min: 0}]}
  hit_rate: {description: Share of returns above zero, tests: [not_null, range: {min: 0, max: 1}]}
  best_return: {description: Highest return of a bar, unit: fraction, tests: [not_null]}
  worst_return: {description: Lowest return of a bar, unit: fraction, tests: [not_null, range: {min: -1}]}
*/
WITH known AS (
    SELECT
        returns.venue,
        returns.symbol,
        returns.interval,
        returns.ts,
        regimes.regime,
        regimes.identified,
        returns.simple_return,
        CASE
            WHEN starts_with(returns.venue, 'us_') THEN intervals.per_year_us
            ELSE intervals.per_year_continuous
        END AS per_year
    FROM staging.bar_returns AS returns
    JOIN signals.regimes AS regimes
        ON regimes.venue = returns.venue AND regimes.symbol = returns.symbol
        AND regimes.interval = returns.interval AND regimes.ts = returns.previous_ts
    JOIN staging.intervals AS intervals ON intervals.interval = returns.interval
    WHERE returns.one_step
),
summed AS (
    SELECT
        venue,
        symbol,
        interval,
        regime,
        any_value(per_year) AS per_year,
        count(*) AS bars,
        count(*) FILTER (WHERE identified) / count(*) AS identified_share,
        avg(simple_return ORDER BY ts) AS mean_return,
        -- What is less than the rounding of a return is no move.
        CASE WHEN count(*) >= $least_bars THEN stddev_samp(simple_return ORDER BY ts) END AS deviation,
        mean_return / CASE WHEN deviation > 1e-12 THEN deviation END AS ratio,
        count(*) FILTER (WHERE simple_return > 0) / count(*) AS hit_rate,
        max(simple_return) AS best_return,
        min(simple_return) AS worst_return
    FROM known
    GROUP BY venue, symbol, interval, regime
)
SELECT
    venue,
    symbol,
    interval,
    regime,
    bars,
    identified_share,
    mean_return,
    mean_return * per_year AS annual_return,
    deviation * sqrt(per_year) AS volatility,
    ratio * sqrt(per_year) AS sharpe,
    sqrt((1 + ratio * ratio / 2) / bars * per_year) AS sharpe_error,
    hit_rate,
    best_return,
    worst_return
FROM summed
