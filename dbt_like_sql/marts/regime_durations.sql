/*
description: >-
  How long each series stays in each regime. A spell is a run of bars with the same regime and no hole in the data; it
  is complete if it begins and ends with a change of regime. Means and medians are of complete spells, which favours
  short ones in a short history; `expected_bars`, 1 / (1 - p) with the probability p of staying (Hamilton 1989, A New
  Approach to the Economic Analysis of Nonstationary Time Series and the Business Cycle, Econometrica 57), counts every
  step.
owner: team:quant
materialized: table
unique_key: [venue, symbol, interval, regime]
automation: follows
tags: [regimes]
columns:
  venue: {description: Market of the series, tests: [not_null]}
  symbol: {description: Canonical symbol, tests: [not_null]}
  interval: {description: Length of the bars, tests: [not_null]}
  regime: {description: The regime, tests: [not_null, accepted_values: [trending, mean_reverting, volatile, calm, normal]]}
  spells: {description: Spells, tests: [not_null, range: {min: 1}]}
  complete_spells: {description: Of these the complete ones, tests: [not_null, range: {min: 0}]}
  bars: {description: Bars in the regime, tests: [not_null, range: {min: 1}]}
  share_of_bars: {description: Share of the series' bars, tests: [not_null, range: {min: 0, max: 1}]}
  mean_bars: {description: Mean length of complete spells; null without one, unit: bars, tests: [range: {min: 1}]}
  median_bars: {description: Median length of complete spells; null without one, unit: bars, tests: [range: {min: 1}]}
  longest_bars: {description: Longest spell, unit: bars, tests: [not_null, range: {min: 1}]}
  mean_hours:
    description: Mean time from a complete spell's first bar to the next spell's; null without one
    unit: h
    tests: [range: {min: 0}]
  expected_bars:
    description: Expected length, from the share of steps that stay; null where none leaves
    unit: bars
    tests: [range: {min: 1}]
tests:
  - expression: complete_spells <= spells AND spells <= bars
*/
WITH marked AS (
    SELECT
        venue,
        symbol,
        interval,
        ts,
        regime,
        one_step AND previous_regime = regime AS stays,
        one_step AND previous_regime <> regime AS changes,
        -- Whether the next bar ends the spell by a change, and when it opens.
        lead(ts) OVER bar AS next_ts,
        lead(one_step AND previous_regime <> regime, 1, false) OVER bar AS left_by_change
    FROM staging.regime_steps
    WINDOW bar AS (PARTITION BY venue, symbol, interval ORDER BY ts)
),
numbered AS (
    SELECT
        venue, symbol, interval, ts, regime, stays, changes, next_ts, left_by_change,
        count(*) FILTER (WHERE NOT stays) OVER (PARTITION BY venue, symbol, interval ORDER BY ts) AS spell
    FROM marked
),
spells AS (
    SELECT
        venue,
        symbol,
        interval,
        regime,
        spell,
        count(*) AS bars,
        count(*) FILTER (WHERE stays) AS stayed,
        count(*) FILTER (WHERE left_by_change) AS departed,
        bool_or(changes) AND bool_or(left_by_change) AS complete,
        (epoch_us(arg_max(next_ts, ts)) - epoch_us(min(ts))) / 3.6e9 AS hours
    FROM numbered
    GROUP BY venue, symbol, interval, regime, spell
)
SELECT
    venue,
    symbol,
    interval,
    regime,
    count(*) AS spells,
    count(*) FILTER (WHERE complete) AS complete_spells,
    CAST(sum(bars) AS BIGINT) AS bars,
    sum(bars) / sum(sum(bars)) OVER (PARTITION BY venue, symbol, interval) AS share_of_bars,
    avg(bars) FILTER (WHERE complete) AS mean_bars,
    median(bars) FILTER (WHERE complete) AS median_bars,
    max(bars) AS longest_bars,
    avg(hours ORDER BY spell) FILTER (WHERE complete) AS mean_hours,
    (sum(stayed) + sum(departed)) / nullif(sum(departed), 0) AS expected_bars
FROM spells
GROUP BY venue, symbol, interval, regime
