/*
description: >-
  Hours with many failed sign-ins: of one account (5 or more), or of all together (50 or more), which also counts
  attempts at accounts that do not exist and attempts that were refused unseen because too many had failed before; these
  are counted within a minute. Nobody's name or address is in it: `subject_id` is a random pseudonym that only the
  operational store can map to a person. A view, so that whoever is erased is gone from it at once.
owner: team:accounts
materialized: view
unique_key: [hour, scope]
tags: [accounts, security]
settings:
  failures_of_a_subject: 5
  failures_of_all: 50
columns:
  hour: {description: Start of the hour, tests: [not_null]}
  scope: {description: "The account's subject_id, or `all`", tests: [not_null]}
  subject_id: {description: The account; null for all together}
  failures: {description: Failed and refused sign-ins within the hour, tests: [not_null, range: {min: 1}]}
  successes: {description: Successful ones within the hour, tests: [not_null, range: {min: 0}]}
  subjects: {description: Accounts with a failure within the hour, tests: [not_null, range: {min: 0}]}
  without_account:
    description: "Failures that concern no account, or that were refused unseen"
    tests: [not_null, range: {min: 0}]
  first_failure_at: {description: Time of the first failure, tests: [not_null]}
  last_failure_at: {description: Time of the last failure, tests: [not_null]}
  succeeded_after:
    description: >-
      Whether a sign-in to the account succeeded within the hour after the first failure; null for all together
tests:
  - expression: (scope = 'all') = (subject_id IS NULL)
*/
WITH attempts AS (
    SELECT
        date_trunc('hour', ts) AS hour,
        ts,
        subject_id,
        outcome = 'success' AS succeeded,
        -- Repeated refusals are one entry with a count.
        coalesce(TRY_CAST(json_extract_string(TRY_CAST(detail AS JSON), '$.count') AS BIGINT), 1) AS times
    FROM audit_log
    WHERE action = 'session.login'
),
followed AS (
    SELECT
        hour,
        ts,
        subject_id,
        succeeded,
        times,
        -- The next success, if there is one within an hour.
        coalesce(
            bool_or(succeeded) OVER (
                PARTITION BY subject_id
                ORDER BY ts
                RANGE BETWEEN CURRENT ROW AND INTERVAL 1 HOUR FOLLOWING
            ),
            false
        ) AS then_succeeded
    FROM attempts
),
counted AS (
    SELECT
        hour,
        subject_id,
        grouping(subject_id) = 1 AS together,
        CAST(coalesce(sum(times) FILTER (WHERE NOT succeeded), 0) AS BIGINT) AS failures,
        CAST(coalesce(sum(times) FILTER (WHERE succeeded), 0) AS BIGINT) AS successes,
        count(DISTINCT subject_id) FILTER (WHERE NOT succeeded) AS subjects,
        CAST(coalesce(sum(times) FILTER (WHERE NOT succeeded AND subject_id IS NULL), 0) AS BIGINT) AS without_account,
        min(ts) FILTER (WHERE NOT succeeded) AS first_failure_at,
        max(ts) FILTER (WHERE NOT succeeded) AS last_failure_at,
        arg_min(then_succeeded, ts) FILTER (WHERE NOT succeeded) AS succeeded_after
    FROM followed
    GROUP BY GROUPING SETS ((hour, subject_id), (hour))
)
SELECT
    hour,
    CASE WHEN together THEN 'all' ELSE subject_id END AS scope,
    subject_id,
    failures,
    successes,
    subjects,
    without_account,
    first_failure_at,
    last_failure_at,
    CASE WHEN NOT together THEN succeeded_after END AS succeeded_after
FROM counted
WHERE (together AND failures >= $failures_of_all)
    OR (NOT together AND subject_id IS NOT NULL AND failures >= $failures_of_a_subject)
