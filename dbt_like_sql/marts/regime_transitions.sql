/*
description: >-
  How often each series went from one regime to another within one bar: counts, and the maximum-likelihood transition
  probabilities n(ij) / n(i) of a Markov chain with their standard errors sqrt(p (1 - p) / n(i)), after Anderson and
  Goodman (1957), Statistical Inference about Markov Chains, Annals of Mathematical Statistics 28. Steps over holes in
  the data do not count. All nine pairs of regimes are there for every series.
owner: team:quant
materialized: table
unique_key: [venue, symbol, interval, from_regime, to_regime]
automation: follows
tags: [regimes]
columns:
  venue: {description: Market of the series, tests: [not_null]}
  symbol: {description: Canonical symbol, tests: [not_null]}
  interval: {description: Length of the bars, tests: [not_null]}
  from_regime:
    description: Regime after a bar
    tests: [not_null, accepted_values: [trending, mean_reverting, volatile]]
  to_regime:
    description: Regime after the next bar
    tests: [not_null, accepted_values: [trending, mean_reverting, volatile]]
  transitions: {description: How often, tests: [not_null, range: {min: 0}]}
  departures: {description: Steps from `from_regime` to any regime, tests: [not_null, range: {min: 0}]}
  probability:
    description: Share of the departures; null if there are none
    tests: [range: {min: 0, max: 1}]
  standard_error: {description: Of the probability; null without departures, tests: [range: {min: 0, max: 0.5}]}
*/
WITH labels AS (
    SELECT label FROM (VALUES ('trending'), ('mean_reverting'), ('volatile')) AS known (label)
),
counted AS (
    SELECT venue, symbol, interval, previous_regime, regime, count(*) AS transitions
    FROM staging.regime_steps
    WHERE one_step
    GROUP BY venue, symbol, interval, previous_regime, regime
),
series AS (
    SELECT DISTINCT venue, symbol, interval FROM staging.regime_steps
),
grid AS (
    SELECT
        series.venue,
        series.symbol,
        series.interval,
        origins.label AS from_regime,
        targets.label AS to_regime,
        coalesce(counted.transitions, 0) AS transitions
    FROM series
    CROSS JOIN labels AS origins
    CROSS JOIN labels AS targets
    LEFT JOIN counted
        ON counted.venue = series.venue AND counted.symbol = series.symbol AND counted.interval = series.interval
        AND counted.previous_regime = origins.label AND counted.regime = targets.label
),
rated AS (
    SELECT
        venue,
        symbol,
        interval,
        from_regime,
        to_regime,
        transitions,
        CAST(sum(transitions) OVER (PARTITION BY venue, symbol, interval, from_regime) AS BIGINT) AS departures,
        transitions / nullif(departures, 0) AS probability
    FROM grid
)
SELECT
    venue,
    symbol,
    interval,
    from_regime,
    to_regime,
    transitions,
    departures,
    probability,
    sqrt(probability * (1 - probability) / departures) AS standard_error
FROM rated
