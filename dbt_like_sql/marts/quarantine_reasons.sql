/*
description: >-
  Rows kept out of each table, by the adapter that they came through and by the reason.
owner: team:platform
materialized: table
unique_key: [table_name, adapter, reason]
schedule: "40 5 * * *"
tags: [quality]
columns:
  table_name: {description: Table that the rows were kept out of, tests: [not_null]}
  adapter: {description: "Adapter that they came through; `computed` where the platform made them", tests: [not_null]}
  reason: {description: Machine-readable reason, tests: [not_null]}
  detail: {description: The rule in words; the latest one if it changed}
  quarantined_rows: {description: Rows, tests: [not_null, range: {min: 1}]}
  first_at: {description: When the first one was kept out, tests: [not_null]}
  last_at: {description: When the last one was kept out, tests: [not_null]}
*/
SELECT
    table_name,
    adapter,
    reason,
    arg_max(detail, (quarantined_at, detail)) AS detail,
    count(*) AS quarantined_rows,
    min(quarantined_at) AS first_at,
    max(quarantined_at) AS last_at
FROM staging.quarantined_rows
GROUP BY table_name, adapter, reason
