/*
description: >-
  Use and billing per month and tier, without anybody's id. A person counts in the tier that they have now; the use of
  erased people, whose tier is no longer known, is in the tier `unknown`. Amounts are subjects times the monthly price
  of the settings, in its currency; a price of 0 means that none is set, and the amount is empty.
owner: team:accounts
materialized: table
unique_key: [month, tier]
schedule: "10 1 * * *"
tags: [accounts, billing]
settings:
  # Monthly price of a subscription; 0 where none is set.
  price_free: 0.0
  price_hobbyist: 0.0
  price_professional: 0.0
  price_enterprise: 0.0
columns:
  month: {description: First day of the month, tests: [not_null]}
  tier:
    description: "Tier as it is now; `unknown` for erased people"
    tests: [not_null, accepted_values: [free, hobbyist, professional, enterprise, unknown]]
  subjects:
    description: "People of the tier: registered by the end of the month, not deleted before it, and active now"
    tests: [not_null, range: {min: 0}]
  active_subjects: {description: People who used anything in the month, tests: [not_null, range: {min: 0}]}
  requests: {description: Requests, tests: [not_null, range: {min: 0}]}
  sql_queries: {description: SQL queries, tests: [not_null, range: {min: 0}]}
  optimisations: {description: Optimisations, tests: [not_null, range: {min: 0}]}
  provider_calls: {description: Calls of other services with people's own keys, tests: [not_null, range: {min: 0}]}
  quota_share:
    description: >-
      Mean share of the quota that was used when a person used a resource last on a day; null where every quota is
      unlimited or zero
    tests: [range: {min: 0}]
  exhausted:
    description: "Quotas that were used up when last used: days, people and resources"
    tests: [not_null, range: {min: 0}]
  monthly_price: {description: Price of the settings; null if none is set, unit: currency of the settings}
  amount: {description: Subjects times price; null if no price is set, unit: currency of the settings}
*/
WITH used AS (
    SELECT
        CAST(date_trunc('month', usage.date) AS DATE) AS month,
        coalesce(users.tier, 'unknown') AS tier,
        usage.date,
        usage.subject_id,
        usage.resource,
        usage.used_today,
        CASE WHEN usage.quota > 0 THEN usage.used / usage.quota END AS quota_share,
        coalesce(usage.quota > 0 AND usage.remaining = 0, false) AS exhausted
    FROM usage
    LEFT JOIN users ON users.subject_id = usage.subject_id
),
monthly AS (
    SELECT
        month,
        tier,
        count(DISTINCT subject_id) FILTER (WHERE used_today > 0) AS active_subjects,
        CAST(sum(used_today) FILTER (WHERE resource = 'requests') AS BIGINT) AS requests,
        CAST(sum(used_today) FILTER (WHERE resource = 'sql_queries') AS BIGINT) AS sql_queries,
        CAST(sum(used_today) FILTER (WHERE resource = 'optimisations') AS BIGINT) AS optimisations,
        CAST(sum(used_today) FILTER (WHERE starts_with(resource, 'provider:')) AS BIGINT) AS provider_calls,
        avg(quota_share ORDER BY date, subject_id, resource) AS quota_share,
        count(*) FILTER (WHERE exhausted) AS exhausted
    FROM used
    GROUP BY month, tier
),
prices AS (
    SELECT tier, nullif(CAST(price AS DOUBLE), 0) AS price
    FROM (
        VALUES
            ('free', $price_free), ('hobbyist', $price_hobbyist), ('professional', $price_professional),
            ('enterprise', $price_enterprise)
    ) AS listed (tier, price)
),
subscribed AS (
    SELECT months.month, users.tier, count(*) AS subjects
    FROM (SELECT DISTINCT month FROM monthly) AS months
    JOIN users
        ON users.active AND users.created_at < months.month + INTERVAL 1 MONTH
        AND (users.deleted_at IS NULL OR users.deleted_at >= months.month)
    GROUP BY months.month, users.tier
),
known AS (
    SELECT month, tier FROM monthly
    UNION
    SELECT month, tier FROM subscribed
)
SELECT
    known.month,
    known.tier,
    coalesce(subscribed.subjects, 0) AS subjects,
    coalesce(monthly.active_subjects, 0) AS active_subjects,
    coalesce(monthly.requests, 0) AS requests,
    coalesce(monthly.sql_queries, 0) AS sql_queries,
    coalesce(monthly.optimisations, 0) AS optimisations,
    coalesce(monthly.provider_calls, 0) AS provider_calls,
    monthly.quota_share,
    coalesce(monthly.exhausted, 0) AS exhausted,
    prices.price AS monthly_price,
    coalesce(subscribed.subjects, 0) * prices.price AS amount
FROM known
LEFT JOIN monthly ON monthly.month = known.month AND monthly.tier = known.tier
LEFT JOIN subscribed ON subscribed.month = known.month AND subscribed.tier = known.tier
LEFT JOIN prices ON prices.tier = known.tier
