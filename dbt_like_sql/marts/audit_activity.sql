/*
description: >-
  What happened to accounts on each day: entries of the audit log by action and outcome, without anybody's id. What can
  happen thousands of times a second (verified keys and tokens, repeated refusals) is one entry with a count; `events`
  adds these up. Rows stay when the log's own entries have been removed after their retention; do not compute such days
  again.
owner: team:accounts
materialized: incremental
unique_key: [date, action, outcome]
partitioned_by: year
time_column: date
automation: follows
tags: [accounts, audit, daily]
columns:
  date: {description: UTC day, tests: [not_null]}
  action: {description: "What was done: user.register, session.login, ...", tests: [not_null]}
  outcome: {description: How it ended, tests: [not_null, accepted_values: [success, failure, refused]]}
  entries: {description: Entries of the log, tests: [not_null, range: {min: 1}]}
  events: {description: "What the entries stand for: their counts, or 1 each", tests: [not_null, range: {min: 1}]}
  subjects: {description: People concerned, tests: [not_null, range: {min: 0}]}
  without_account: {description: Entries that concern no account, tests: [not_null, range: {min: 0}]}
  by_system: {description: Entries whose actor is the system, tests: [not_null, range: {min: 0}]}
  first_at: {description: Time of the first entry, tests: [not_null]}
  last_at: {description: Time of the last entry, tests: [not_null]}
tests:
  - expression: subjects + without_account <= entries AND by_system <= entries AND first_at <= last_at
  - expression: events >= entries
*/
SELECT
    date,
    action,
    outcome,
    count(*) AS entries,
    CAST(sum(
        coalesce(TRY_CAST(json_extract_string(TRY_CAST(detail AS JSON), '$.count') AS BIGINT), 1)
    ) AS BIGINT) AS events,
    count(DISTINCT subject_id) AS subjects,
    count(*) FILTER (WHERE subject_id IS NULL) AS without_account,
    count(*) FILTER (WHERE actor_id = 'system') AS by_system,
    min(ts) AS first_at,
    max(ts) AS last_at
FROM audit_log
WHERE date >= $partition_start AND date < $partition_end
GROUP BY date, action, outcome
