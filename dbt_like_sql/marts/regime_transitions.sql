/*
description: >-
  How often each series went from one regime to another within one bar: counts, and the maximum-likelihood transition
  probabilities n(ij) / n(i) of a Markov chain with their standard errors sqrt(p (1 - p) / n(i)), after Anderson and
  Goodman (1957), Statistical Inference about Markov Chains, Annals of Mathematical Statistics 28. Steps over holes in
  the data do not count. Every pair of a series' regimes is there: nine, of trending, mean-reverting and volatile, or of
  calm, normal and volatile where trending and mean-reverting are not told apart.
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
    tests: [not_null, accepted_values: [trending, mean_reverting, volatile, calm, normal]]
  to_regime:
    description: Regime after the next bar
    tests: [not_null, accepted_values: [trending, mean_reverting, volatile, calm, normal]]
  transitions: {description: How often, tests: [not_null, range: {min: 0}]}
  departures: {description: Steps from `from_regime` to any regime, tests: [not_null, range: {min: 0}]}
  probability:
    description: Share of the departures; null if there are none
    tests: [range: {min: 0, max: 1}]
  standard_error: {description: Of the probability; null without departures, tests: [range: {min: 0, max: 0.5}]}
*/
WITH labels AS (
    SELECT label, told
    FROM (
        VALUES ('trending', true), ('mean_reverting', true), ('volatile', true),
            ('calm', false), ('normal', false), ('volatile', false)
    ) AS known (label, told)
),
counted AS (
    SELECT venue, symbol, interval, previous_regime, regime, count(*) AS transitions
    FROM staging.regime_steps
    -- From the names of one model to those of another nothing changed in the market.
    WHERE
        one_step
        AND NOT (regime IN ('calm', 'normal') AND previous_regime IN ('trending', 'mean_reverting'))
        AND NOT (previous_regime IN ('calm', 'normal') AND regime IN ('trending', 'mean_reverting'))
    GROUP BY venue, symbol, interval, previous_regime, regime
),
series AS (
    SELECT DISTINCT venue, symbol, interval, regime NOT IN ('calm', 'normal') AS told
    FROM staging.regime_steps
    -- Volatile is a name of either kind; alone it counts as told.
    WHERE regime <> 'volatile'
    UNION
    SELECT venue, symbol, interval, true AS told
    FROM staging.regime_steps
    GROUP BY venue, symbol, interval
    HAVING bool_and(regime = 'volatile')
),
pairs AS (
    SELECT DISTINCT
        series.venue,
        series.symbol,
        series.interval,
        origins.label AS from_regime,
        targets.label AS to_regime
    FROM series
    JOIN labels AS origins ON origins.told = series.told
    JOIN labels AS targets ON targets.told = series.told
),
grid AS (
    SELECT
        pairs.venue,
        pairs.symbol,
        pairs.interval,
        pairs.from_regime,
        pairs.to_regime,
        coalesce(counted.transitions, 0) AS transitions
    FROM pairs
    LEFT JOIN counted
        ON counted.venue = pairs.venue AND counted.symbol = pairs.symbol AND counted.interval = pairs.interval
        AND counted.previous_regime = pairs.from_regime AND counted.regime = pairs.to_regime
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
