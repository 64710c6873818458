/*
description: >-
  Where each portfolio's return of a day came from: weight times simple return per symbol, with the weights that were
  set before the day, held from the close before to the close of the day, without costs. Against equal weights of the
  same symbols, the active contribution (w - 1/N) r is the allocation effect of Brinson, Hood and Beebower (1986),
  Determinants of Portfolio Performance, Financial Analysts Journal 42, with each symbol a segment of its own (there is
  nothing to select within one); its sum is the portfolio's return less the equally weighted one. A return over a gap is
  no return of the day: the symbol's contribution is then unknown, and so is the portfolio's return if it is held.
owner: team:quant
materialized: incremental
unique_key: [date, method, venue, symbol]
partitioned_by: year
time_column: date
automation: follows
tags: [portfolio, daily]
columns:
  date: {description: The day, tests: [not_null]}
  method: {description: "cara, risk_parity, sparse or adaptive", tests: [not_null]}
  venue: {description: Market of the symbol, tests: [not_null]}
  symbol: {description: Canonical symbol, tests: [not_null]}
  weight: {description: Weight at the close before; negative is short, tests: [not_null]}
  benchmark_weight:
    description: 1 / number of symbols with a target that day
    tests: [not_null, range: {min: 0, max: 1}]
  simple_return: {description: Return of the day; null if it is not known or over a gap, unit: fraction}
  contribution: {description: Weight times return; zero without a weight, unit: fraction}
  active_contribution: {description: (weight - benchmark_weight) times return, unit: fraction}
  portfolio_return: {description: Sum of the contributions; null if one is not known, unit: fraction}
  benchmark_return: {description: Mean return of the symbols; null if one is not known, unit: fraction}
tests:
  - expression: abs(contribution) <= abs(weight) * abs(coalesce(simple_return, 0)) + 1e-12
*/
WITH positions AS (
    SELECT
        targets.date,
        targets.method,
        targets.venue,
        targets.symbol,
        targets.weight,
        1 / count(*) OVER portfolio AS benchmark_weight,
        returns.simple_return,
        CASE WHEN targets.weight = 0 THEN 0 ELSE targets.weight * returns.simple_return END AS contribution
    FROM staging.portfolio_targets AS targets
    LEFT JOIN marts.daily_ohlcv AS returns
        ON returns.venue = targets.venue AND returns.symbol = targets.symbol AND returns.date = targets.date
        AND returns.is_daily
    WHERE targets.date >= $partition_start AND targets.date < $partition_end
    WINDOW portfolio AS (PARTITION BY targets.date, targets.method)
),
totals AS (
    SELECT
        date,
        method,
        CASE WHEN count(*) = count(contribution) THEN sum(contribution ORDER BY venue, symbol) END AS portfolio_return,
        CASE WHEN count(*) = count(simple_return) THEN avg(simple_return ORDER BY venue, symbol) END AS benchmark_return
    FROM positions
    GROUP BY date, method
)
SELECT
    positions.date,
    positions.method,
    positions.venue,
    positions.symbol,
    positions.weight,
    positions.benchmark_weight,
    positions.simple_return,
    positions.contribution,
    (positions.weight - positions.benchmark_weight) * positions.simple_return AS active_contribution,
    totals.portfolio_return,
    totals.benchmark_return
FROM positions
JOIN totals ON totals.date = positions.date AND totals.method = positions.method
