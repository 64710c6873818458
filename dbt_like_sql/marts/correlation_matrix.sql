/*
description: >-
  Pearson correlation of the daily log returns of each pair of symbols over 13 weeks (91 days) that end on a Sunday, in
  long form: each pair once, in alphabetical order. Only returns over the very same span are paired, from the same day
  before to the same day: so Friday to Monday of a stock is not set against Sunday to Monday of a coin. Pairs with fewer
  than 40 common returns, without one in the last week, or of which one never moves, have no row. Definition: Pearson
  (1895), Note on Regression and Inheritance in the Case of Two Parents, Proceedings of the Royal Society 58.
owner: team:quant
materialized: incremental
unique_key: [window_end, venue_a, symbol_a, venue_b, symbol_b]
partitioned_by: year
time_column: window_end
automation: follows
tags: [market, risk, weekly]
settings:
  weeks: 13
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
WITH weekly AS (
    -- Weeks run from Monday to Sunday. Each return of a pair is looked at once, and a window adds up its weeks: a
    -- thirteenth of the work. Sums in the order of days and weeks give the same bits again.
    SELECT
        CAST(date_trunc('week', a.date) AS DATE) + 6 AS week_end,
        a.venue AS venue_a,
        a.symbol AS symbol_a,
        b.venue AS venue_b,
        b.symbol AS symbol_b,
        count(*) AS n,
        sum(a.log_return ORDER BY a.date) AS x,
        sum(b.log_return ORDER BY a.date) AS y,
        sum(a.log_return * a.log_return ORDER BY a.date) AS xx,
        sum(b.log_return * b.log_return ORDER BY a.date) AS yy,
        sum(a.log_return * b.log_return ORDER BY a.date) AS xy
    FROM marts.daily_ohlcv AS a
    JOIN marts.daily_ohlcv AS b
        ON b.date = a.date AND b.previous_date = a.previous_date
        AND (a.venue < b.venue OR (a.venue = b.venue AND a.symbol < b.symbol))
    WHERE a.is_daily AND b.is_daily
        AND a.date >= $partition_start - 7 * $weeks AND a.date < $partition_end
        AND b.date >= $partition_start - 7 * $weeks AND b.date < $partition_end
    GROUP BY week_end, a.venue, a.symbol, b.venue, b.symbol
),
windows AS (
    SELECT
        week_end,
        venue_a,
        symbol_a,
        venue_b,
        symbol_b,
        CAST(sum(n) OVER recent AS BIGINT) AS n,
        list_sum(list(x) OVER recent) AS x,
        list_sum(list(y) OVER recent) AS y,
        list_sum(list(xx) OVER recent) AS xx,
        list_sum(list(yy) OVER recent) AS yy,
        list_sum(list(xy) OVER recent) AS xy
    FROM weekly
    WINDOW recent AS (
        PARTITION BY venue_a, symbol_a, venue_b, symbol_b
        ORDER BY week_end
        RANGE BETWEEN to_days(7 * ($weeks - 1)) PRECEDING AND CURRENT ROW
    )
),
moments AS (
    SELECT
        week_end,
        venue_a,
        symbol_a,
        venue_b,
        symbol_b,
        n,
        xx - x * x / n AS var_a,
        yy - y * y / n AS var_b,
        xy - x * y / n AS cov,
        -- What is left of a sum of squares by rounding is no move.
        xx - x * x / n > 1e-12 * xx AND yy - y * y / n > 1e-12 * yy AS both_move
    FROM windows
)
SELECT
    week_end AS window_end,
    venue_a,
    symbol_a,
    venue_b,
    symbol_b,
    -- Rounding can bring it beyond 1 by a hair.
    greatest(-1, least(1, cov / sqrt(var_a * var_b))) AS correlation,
    n AS observations
FROM moments
WHERE both_move AND n >= $least_observations AND week_end >= $partition_start AND week_end < $partition_end
