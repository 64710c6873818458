/*
description: >-
  Pearson correlation of the daily log returns of each pair of symbols over 13 weeks (91 days) that end on a Sunday, in
  long form: each pair once, in alphabetical order. Only returns over the very same span are paired, from the same day
  before to the same day: so Friday to Monday of a stock is not set against Sunday to Monday of a coin. Pairs with
  fewer than 40 common returns, or of which one never moves, have no row. Definition: Pearson (1895), Note on Regression
  and Inheritance in the Case of Two Parents, Proceedings of the Royal Society 58.
owner: team:quant
materialized: incremental
unique_key: [window_end, venue_a, symbol_a, venue_b, symbol_b]
partitioned_by: year
time_column: window_end
automation: follows
tags: [market, risk, weekly]
settings:
  window_days: 91
  least_observations: 40
columns:
  window_end: {description: "Last day of the window, a Sunday", tests: [not_null]}
  venue_a: {description: Market of the first symbol, tests: [not_null]}
  symbol_a: {description: First symbol, tests: [not_null]}
  venue_b: {description: Market of the second symbol, tests: [not_null]}
  symbol_b: {description: Second symbol, tests: [not_null]}
  correlation: {description: Correlation of the common returns, tests: [not_null, range: {min: -1, max: 1}]}
  observations: {description: Common returns within the window, tests: [not_null, range: {min: 2}]}
tests:
  - expression: dayofweek(window_end) = 0
  - expression: (venue_a, symbol_a) < (venue_b, symbol_b)
*/
WITH ends AS (
    SELECT CAST(unnest(generate_series(
        -- The first Sunday of the span: weeks begin on Mondays.
        date_trunc('week', $partition_start) + INTERVAL 6 DAYS, $partition_end - INTERVAL 1 DAY, INTERVAL 7 DAYS
    )) AS DATE) AS window_end
),
returns AS (
    SELECT ends.window_end, days.venue, days.symbol, days.date, days.previous_date, days.log_return
    FROM marts.daily_ohlcv AS days
    JOIN ends ON days.date > ends.window_end - $window_days AND days.date <= ends.window_end
    WHERE days.is_daily AND days.date > $partition_start - $window_days AND days.date < $partition_end
),
pairs AS (
    SELECT
        a.window_end,
        a.venue AS venue_a,
        a.symbol AS symbol_a,
        b.venue AS venue_b,
        b.symbol AS symbol_b,
        count(*) AS observations,
        corr(a.log_return, b.log_return ORDER BY a.date) AS correlation,
        -- What is less than the rounding of a return is no move.
        least(stddev_samp(a.log_return), stddev_samp(b.log_return)) > 1e-12 AS both_move
    FROM returns AS a
    JOIN returns AS b
        ON b.window_end = a.window_end AND b.date = a.date AND b.previous_date = a.previous_date
        AND (a.venue < b.venue OR (a.venue = b.venue AND a.symbol < b.symbol))
    GROUP BY a.window_end, a.venue, a.symbol, b.venue, b.symbol
)
SELECT
    window_end,
    venue_a,
    symbol_a,
    venue_b,
    symbol_b,
    -- Rounding can bring it beyond 1 by a hair.
    greatest(-1, least(1, correlation)) AS correlation,
    observations
FROM pairs
WHERE observations >= $least_observations AND both_move
