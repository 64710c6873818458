/*
description: >-
  State of each table by the adapter that filled it: how many rows, how old, which days are missing, what was kept out
  and why, which files were rejected, what failed lately. An adapter of which nothing was published has a row too. User
  tables are left out.
owner: team:platform
materialized: table
unique_key: [table_name, adapter]
schedule: "45 5 * * *"
tags: [quality]
settings:
  # Incidents older than this do not count.
  recent_days: 30
columns:
  table_name:
    description: "The table; `unknown` for files that were rejected before their table was known"
    tests: [not_null]
  adapter:
    description: "Adapter that the rows came through; `computed` where the platform made them"
    tests: [not_null]
  row_count: {description: Rows in the table, tests: [not_null, range: {min: 0}]}
  series: {description: "Series of the rows: venue, symbol and interval", tests: [not_null, range: {min: 0}]}
  first_day: {description: First day with a row}
  last_day: {description: Last day with a row}
  last_time: {description: Time of the newest row}
  staleness_hours: {description: From then until the figures were made, unit: h, tests: [range: {min: -1}]}
  missing_days:
    description: >-
      Days between the first and the last row of a series without any row, summed over series. US venues were open when
      any of them has a close or a daily bar, others are every day. Null where rows are not due every day.
    unit: d
    tests: [range: {min: 0}]
  quarantined_rows: {description: Rows kept out, tests: [not_null, range: {min: 0}]}
  quarantined_share: {description: Share of rows kept out; null without any row, tests: [range: {min: 0, max: 1}]}
  top_reason: {description: Most frequent reason; null if nothing was kept out}
  reasons: {description: "All reasons with their counts, most frequent first"}
  files_published: {description: Files taken in, tests: [not_null, range: {min: 0}]}
  files_rejected: {description: Files rejected as a whole, tests: [not_null, range: {min: 0}]}
  duplicate_rows: {description: Rows of files that were there already, tests: [not_null, range: {min: 0}]}
  recent_incidents: {description: Incidents of the table's step in the last 30 days, tests: [not_null, range: {min: 0}]}
  measured_at: {description: When the figures were made, tests: [not_null]}
tests:
  - freshness: {column: measured_at, within: 36h}
*/
WITH by_reference AS (
    -- Rows are due every day of these ...
    SELECT
        'market.trades' AS table_name, source_ref, venue, symbol, '' AS interval, date AS day,
        count(*) AS row_count, max(ts) AS last_time, true AS due_daily
    FROM market.trades
    GROUP BY source_ref, venue, symbol, date
    UNION ALL
    SELECT 'market.bars_1m', source_ref, venue, symbol, '1m', date, count(*), max(ts), true
    FROM market.bars_1m
    GROUP BY source_ref, venue, symbol, date
    UNION ALL
    SELECT 'market.bars', source_ref, venue, symbol, interval, CAST(ts AS DATE), count(*), max(ts), true
    FROM market.bars
    GROUP BY source_ref, venue, symbol, interval, CAST(ts AS DATE)
    UNION ALL
    SELECT 'market.closes', source_ref, venue, symbol, '', date, count(*), CAST(max(date) AS TIMESTAMPTZ), true
    FROM market.closes
    GROUP BY source_ref, venue, symbol, date
    UNION ALL
    SELECT 'signals.regimes', NULL, venue, symbol, interval, CAST(ts AS DATE), count(*), max(ts), true
    FROM signals.regimes
    GROUP BY venue, symbol, interval, CAST(ts AS DATE)
    -- ... and not of those.
    UNION ALL
    SELECT 'market.instruments', source_ref, venue, symbol, '', NULL, count(*), NULL, false
    FROM market.instruments
    GROUP BY source_ref, venue, symbol
    UNION ALL
    SELECT 'market.universe', NULL, venue, symbol, '', date, count(*), CAST(max(date) AS TIMESTAMPTZ), false
    FROM market.universe
    GROUP BY venue, symbol, date
    UNION ALL
    SELECT
        'signals.regime_models', NULL, venue, symbol, interval, fitted_on, count(*),
        CAST(max(fitted_on) AS TIMESTAMPTZ), false
    FROM signals.regime_models
    GROUP BY venue, symbol, interval, fitted_on
    UNION ALL
    SELECT 'signals.regime_changes', NULL, venue, symbol, interval, CAST(ts AS DATE), count(*), max(ts), false
    FROM signals.regime_changes
    GROUP BY venue, symbol, interval, CAST(ts AS DATE)
    UNION ALL
    SELECT 'signals.mfg_prices', NULL, venue, symbol, '', date, count(*), max(made_at), false
    FROM signals.mfg_prices
    GROUP BY venue, symbol, date
    UNION ALL
    SELECT 'signals.chiarella_forecasts', NULL, venue, symbol, '', date, count(*), max(made_at), false
    FROM signals.chiarella_forecasts
    GROUP BY venue, symbol, date
    UNION ALL
    SELECT 'portfolio.weights', NULL, venue, symbol, method, date, count(*), CAST(max(date) AS TIMESTAMPTZ), false
    FROM portfolio.weights
    GROUP BY venue, symbol, method, date
    UNION ALL
    SELECT 'portfolio.adaptive_weights', NULL, venue, symbol, '', date, count(*), CAST(max(date) AS TIMESTAMPTZ), false
    FROM portfolio.adaptive_weights
    GROUP BY venue, symbol, date
    UNION ALL
    SELECT
        'portfolio.backtests', NULL, venue, symbol, interval, run_on, count(*), CAST(max(run_on) AS TIMESTAMPTZ), false
    FROM portfolio.backtests
    GROUP BY venue, symbol, interval, run_on
),
daily AS (
    SELECT
        table_name,
        -- Closes that were taken from daily bars refer to these.
        coalesce(nullif(nullif(regexp_extract(source_ref, '^[^:@ ]+'), ''), 'market.bars'), 'computed') AS adapter,
        venue,
        symbol,
        interval,
        day,
        CAST(sum(row_count) AS BIGINT) AS row_count,
        max(last_time) AS last_time,
        bool_and(due_daily) AS due_daily
    FROM by_reference
    GROUP BY ALL
),
us_sessions AS (
    SELECT day, row_number() OVER (ORDER BY day) AS number
    FROM daily
    WHERE starts_with(venue, 'us_') AND table_name IN ('market.bars', 'market.closes')
    GROUP BY day
),
series AS (
    SELECT
        daily.table_name,
        daily.adapter,
        daily.venue,
        daily.symbol,
        daily.interval,
        CAST(sum(daily.row_count) AS BIGINT) AS row_count,
        min(daily.day) AS first_day,
        max(daily.day) AS last_day,
        max(daily.last_time) AS last_time,
        CASE
            WHEN bool_and(daily.due_daily) AND starts_with(daily.venue, 'us_')
                THEN max(us_sessions.number) - min(us_sessions.number) + 1 - count(us_sessions.number)
            WHEN bool_and(daily.due_daily) THEN max(daily.day) - min(daily.day) + 1 - count(*)
        END AS missing_days
    FROM daily
    LEFT JOIN us_sessions ON us_sessions.day = daily.day
    GROUP BY daily.table_name, daily.adapter, daily.venue, daily.symbol, daily.interval
),
stored AS (
    SELECT
        table_name,
        adapter,
        CAST(sum(row_count) AS BIGINT) AS row_count,
        count(*) AS series,
        min(first_day) AS first_day,
        max(last_day) AS last_day,
        max(last_time) AS last_time,
        CAST(sum(missing_days) AS BIGINT) AS missing_days
    FROM series
    GROUP BY table_name, adapter
),
by_reason AS (
    SELECT table_name, adapter, reason, count(*) AS quarantined_rows
    FROM staging.quarantined_rows
    GROUP BY table_name, adapter, reason
),
rejected AS (
    SELECT
        table_name,
        adapter,
        CAST(sum(quarantined_rows) AS BIGINT) AS quarantined_rows,
        arg_max(reason, (quarantined_rows, reason)) AS top_reason,
        string_agg(reason || ': ' || quarantined_rows, ', ' ORDER BY quarantined_rows DESC, reason DESC) AS reasons
    FROM by_reason
    GROUP BY table_name, adapter
),
files AS (
    SELECT
        coalesce(target, 'unknown') AS table_name,
        coalesce(nullif(regexp_extract(adapter, '^[^:@ ]+'), ''), 'unknown') AS adapter,
        count(*) FILTER (WHERE status = 'published') AS files_published,
        count(*) FILTER (WHERE status = 'rejected') AS files_rejected,
        CAST(sum(rows_duplicate) AS BIGINT) AS duplicate_rows
    FROM ops.ingest_files
    GROUP BY ALL
),
failures AS (
    -- A step is named after its table: market__trades.
    SELECT replace(step, '__', '.') AS table_name, count(*) AS recent_incidents
    FROM ops.incidents
    WHERE ts >= now() - to_days($recent_days)
    GROUP BY ALL
),
known AS (
    SELECT table_name, adapter FROM stored
    UNION
    SELECT table_name, adapter FROM rejected
    UNION
    SELECT table_name, adapter FROM files
)
SELECT
    known.table_name,
    known.adapter,
    coalesce(stored.row_count, 0) AS row_count,
    coalesce(stored.series, 0) AS series,
    stored.first_day,
    stored.last_day,
    stored.last_time,
    (epoch_us(now()) - epoch_us(stored.last_time)) / 3.6e9 AS staleness_hours,
    stored.missing_days,
    coalesce(rejected.quarantined_rows, 0) AS quarantined_rows,
    coalesce(rejected.quarantined_rows, 0)
        / nullif(coalesce(rejected.quarantined_rows, 0) + coalesce(stored.row_count, 0), 0) AS quarantined_share,
    rejected.top_reason,
    rejected.reasons,
    coalesce(files.files_published, 0) AS files_published,
    coalesce(files.files_rejected, 0) AS files_rejected,
    coalesce(files.duplicate_rows, 0) AS duplicate_rows,
    coalesce(failures.recent_incidents, 0) AS recent_incidents,
    now() AS measured_at
FROM known
LEFT JOIN stored ON stored.table_name = known.table_name AND stored.adapter = known.adapter
LEFT JOIN rejected ON rejected.table_name = known.table_name AND rejected.adapter = known.adapter
LEFT JOIN files ON files.table_name = known.table_name AND files.adapter = known.adapter
LEFT JOIN failures ON failures.table_name = known.table_name
