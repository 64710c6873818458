/*
description: >-
  What each portfolio trades from one set of target weights to the next, and how concentrated it is. `target_turnover`
  is the sum of absolute changes of the targets, as `portfolio.weights` states it. `traded_turnover` sets the new
  targets against what the old ones have become through the returns since: sum |w(t) - w'(t)| with w' = w G / (1 + sum w
  (G - 1)), G being each symbol's growth from the day of the old weights to the day before the new ones, and cash
  earning nothing (DeMiguel, Garlappi and Uppal 2009, Optimal versus Naive Diversification, Review of Financial Studies
  22, section 1). Both count purchases and sales. What is no longer among the weights is sold; the first portfolio is
  bought from cash.
owner: team:quant
materialized: table
unique_key: [method, date]
partitioned_by: year
time_column: date
automation: follows
tags: [portfolio, daily]
columns:
  method: {description: "cara, risk_parity, sparse or adaptive", tests: [not_null]}
  date: {description: Day that the weights are for, tests: [not_null]}
  previous_date: {description: Day of the weights before; null for the first ones}
  symbols: {description: Symbols with a weight other than zero, tests: [not_null, range: {min: 0}]}
  gross_exposure: {description: Sum of absolute weights, tests: [not_null, range: {min: 0}]}
  net_exposure: {description: Sum of weights; the rest to 1 is cash, tests: [not_null]}
  effective_symbols:
    description: >-
      1 / sum of squared shares of the gross exposure (Herfindahl's index, inverted); null if nothing is held
    tests: [range: {min: 0.999999}]
  target_turnover: {description: Sum of absolute changes of the targets, tests: [not_null, range: {min: 0}]}
  traded_turnover:
    description: The same against the drifted weights; null if a return of what is held is not known
    tests: [range: {min: 0}]
tests:
  - expression: abs(net_exposure) <= gross_exposure + 1e-9
*/
WITH days AS (
    SELECT method, date, lag(date) OVER (PARTITION BY method ORDER BY date) AS previous_date
    FROM staging.portfolio_targets
    GROUP BY method, date
),
held AS (
    SELECT
        days.method,
        days.date,
        before.venue,
        before.symbol,
        before.weight,
        CASE
            WHEN before.weight = 0 THEN 1
            WHEN count(*) = count(returns.log_return) THEN exp(sum(returns.log_return ORDER BY returns.date))
        END AS growth
    FROM days
    JOIN staging.portfolio_targets AS before ON before.method = days.method AND before.date = days.previous_date
    LEFT JOIN marts.daily_ohlcv AS returns
        ON returns.venue = before.venue AND returns.symbol = before.symbol
        AND returns.date >= days.previous_date AND returns.date < days.date
    GROUP BY days.method, days.date, before.venue, before.symbol, before.weight
),
drifted AS (
    SELECT
        method,
        date,
        venue,
        symbol,
        weight,
        weight * growth / (
            1 + sum(weight * (growth - 1) ORDER BY venue, symbol) OVER (
                PARTITION BY method, date ROWS BETWEEN UNBOUNDED PRECEDING AND UNBOUNDED FOLLOWING
            )
        ) AS drifted_weight,
        bool_and(growth IS NOT NULL) OVER (PARTITION BY method, date) AS known
    FROM held
),
changes AS (
    SELECT
        coalesce(targets.method, drifted.method) AS method,
        coalesce(targets.date, drifted.date) AS date,
        coalesce(targets.venue, drifted.venue) AS venue,
        coalesce(targets.symbol, drifted.symbol) AS symbol,
        coalesce(targets.weight, 0) AS weight,
        abs(coalesce(targets.weight, 0) - coalesce(drifted.weight, 0)) AS target_change,
        abs(coalesce(targets.weight, 0) - coalesce(drifted.drifted_weight, 0)) AS traded_change,
        coalesce(drifted.known, true) AS known
    FROM staging.portfolio_targets AS targets
    FULL JOIN drifted
        ON drifted.method = targets.method AND drifted.date = targets.date
        AND drifted.venue = targets.venue AND drifted.symbol = targets.symbol
),
summed AS (
    SELECT
        method,
        date,
        count(*) FILTER (WHERE weight <> 0) AS symbols,
        sum(abs(weight) ORDER BY venue, symbol) AS gross_exposure,
        sum(weight ORDER BY venue, symbol) AS net_exposure,
        sum(weight * weight ORDER BY venue, symbol) AS squares,
        sum(target_change ORDER BY venue, symbol) AS target_turnover,
        CASE WHEN bool_and(known) THEN sum(traded_change ORDER BY venue, symbol) END AS traded_turnover
    FROM changes
    GROUP BY method, date
)
SELECT
    summed.method,
    summed.date,
    days.previous_date,
    summed.symbols,
    summed.gross_exposure,
    summed.net_exposure,
    summed.gross_exposure * summed.gross_exposure / nullif(summed.squares, 0) AS effective_symbols,
    summed.target_turnover,
    summed.traded_turnover
FROM summed
JOIN days ON days.method = summed.method AND days.date = summed.date
