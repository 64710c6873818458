/*
description: >-
  Lengths of bars and how many of them a year has. Venues named `us_...` trade 252 days of 6.5 hours a year, all others
  around the clock.
owner: team:quant
materialized: view
unique_key: [interval]
tags: [market]
columns:
  interval: {description: "Length of the bar, as tables name it", tests: [not_null, unique]}
  seconds: {description: Length, unit: s, tests: [not_null]}
  per_year_continuous: {description: Bars per year of a venue that never closes, unit: 1/year, tests: [not_null]}
  per_year_us: {description: Bars per year of a US venue's regular sessions, unit: 1/year, tests: [not_null]}
*/
SELECT
    interval,
    seconds,
    365.0 * 86400 / seconds AS per_year_continuous,
    CASE WHEN interval = '1d' THEN 252.0 ELSE 252.0 * 6.5 * 3600 / seconds END AS per_year_us
FROM (VALUES ('1m', 60), ('5m', 300), ('15m', 900), ('1h', 3600), ('1d', 86400)) AS lengths (interval, seconds)
