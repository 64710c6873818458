/*
description: >-
  Target weights of every portfolio in one shape; the adaptive pipeline's are the method `adaptive`.
owner: team:quant
materialized: view
unique_key: [date, method, venue, symbol]
tags: [portfolio]
columns:
  date: {description: Day that the weights are for; they were set from data before it}
  method: {description: "cara, risk_parity, sparse or adaptive"}
  venue: {description: Market of the symbol}
  symbol: {description: Canonical symbol}
  weight: {description: Target weight; negative is short}
*/
SELECT date, method, venue, symbol, weight
FROM portfolio.weights
UNION ALL
SELECT date, 'adaptive' AS method, venue, symbol, weight
FROM portfolio.adaptive_weights
