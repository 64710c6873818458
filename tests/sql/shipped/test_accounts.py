"""Usage, audit activity and sign-in anomalies: from real operations on accounts, and by hand."""

from __future__ import annotations

from collections import Counter
from datetime import UTC, date, datetime, timedelta
from pathlib import Path

import polars as pl
import pytest

from hfthot_platform.core.errors import AuthenticationError, TooManyAttemptsError
from hfthot_platform.core.settings import Settings
from hfthot_platform.services.accounts.accounts import Accounts
from hfthot_platform.services.publication.publisher import Publisher
from hfthot_platform.services.sql.models.runner import run_models

NOW = datetime(2024, 3, 10, 12, tzinfo=UTC)
SUBJECTS = [f"{number:032x}" for number in range(1, 8)]


def users(*tiers: str, **values: object) -> pl.DataFrame:
    rows = {"subject_id": SUBJECTS[: len(tiers)], "tier": list(tiers), "seq": list(range(1, len(tiers) + 1))}
    common = {"role": "registered", "active": True, "data_sharing_consent": False, "created_at": NOW, "updated_at": NOW}
    frame = pl.DataFrame(rows).with_columns(pl.lit(value).alias(name) for name, value in {**common, **values}.items())
    return frame.with_columns(created_at=pl.col("created_at").cast(pl.Datetime("us", "UTC")))


def usage(*rows: tuple[int, str, str, int, int | None]) -> pl.DataFrame:
    """Return usage of (subject, day, resource, uses, quota), of which the window is the day."""
    found = []
    for number, (subject, day, resource, uses, quota) in enumerate(rows, 1):
        at = datetime.fromisoformat(day).replace(tzinfo=UTC) + timedelta(hours=1)
        left = None if quota is None else max(0, quota - uses)
        found.append((SUBJECTS[subject], at, resource, uses, uses, quota, left, number))
    names = ("subject_id", "updated_at", "resource", "used", "used_today", "quota", "remaining", "seq")
    return pl.DataFrame(found, schema=names, orient="row")


def audit(*rows: tuple[int | None, datetime, str, str], detail: str | None = None) -> pl.DataFrame:
    """Return audit entries of (subject, time, action, outcome)."""
    found = [
        {"subject_id": None if who is None else SUBJECTS[who], "ts": ts, "action": action, "outcome": outcome}
        | {"seq": seq, "actor_id": "system", "personal_digest": "0" * 64, "previous_hash": "0" * 64, "hash": "0" * 64}
        for seq, (who, ts, action, outcome) in enumerate(rows, 1)
    ]
    schema = {"subject_id": pl.String}
    return pl.DataFrame(found, schema_overrides=schema).with_columns(redacted=False, detail=pl.lit(detail, pl.String))


# -- from real operations ---------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def operated(shipped, tmp_path_factory):
    """Three people sign in, fail to, use things; one has left."""
    work: Path = tmp_path_factory.mktemp("accounts")
    clock = [NOW]
    settings = Settings(
        lake_root=str(work / "lake"),
        accounts=work / "accounts",
        key_file=work / "keys" / "kek.json",
        argon2_memory_kib=8,
        argon2_passes=1,
        argon2_lanes=1,
        feeds=(),
    )
    accounts = Accounts.open(settings, lambda: clock[0])
    lake = shipped({})
    try:
        people = {
            name: accounts.register(name, f"{name}@example.org", "correct horse battery", tier=tier)
            for name, tier in (("hopper", "free"), ("turing", "professional"), ("lovelace", "professional"))
        }
        for _ in range(5):
            with pytest.raises(AuthenticationError):
                accounts.login("hopper", "wrong horse battery")
        for _ in range(60):
            with pytest.raises(TooManyAttemptsError):
                accounts.login("hopper", "wrong horse battery")
        accounts.login("turing", "correct horse battery")
        accounts.count_use(people["hopper"].user_id, "requests", 60)
        accounts.count_use(people["turing"].user_id, "requests", 500)
        accounts.count_use(people["turing"].user_id, "sql_queries", 25)
        clock[0] += timedelta(minutes=20)
        accounts.login("hopper", "correct horse battery")
        accounts.flush()
        Publisher(accounts.store, lake.lake).publish()
    finally:
        accounts.close()
    lake.run()
    return lake


@pytest.mark.soak
def test_use_is_counted_by_tier(operated):
    found = operated.read("marts.usage_by_tier", "tier")

    columns = ("month", "tier", "subjects", "active_subjects", "requests", "sql_queries", "optimisations", "exhausted")
    assert found.select(columns).rows() == [
        (date(2024, 3, 1), "free", 1, 1, 60, 0, 0, 1),
        (date(2024, 3, 1), "professional", 2, 1, 500, 25, 0, 0),
    ]
    # 60 of 60; 500 of 2000 and 25 of 100.
    assert found["quota_share"].to_list() == [1.0, 0.25]


def test_audit_activity_counts_every_entry_and_what_it_stands_for(operated):
    found = operated.read("marts.audit_activity", "action", "outcome")

    log = operated.read("audit_log")
    expected = Counter(log.select("action", "outcome").rows())
    assert {(row["action"], row["outcome"]): row["entries"] for row in found.rows(named=True)} == expected
    refused = found.filter(pl.col("action") == "session.login", pl.col("outcome") == "refused").row(0, named=True)
    assert (refused["entries"], refused["events"], refused["subjects"]) == (1, 60, 0)
    failed = found.filter(pl.col("action") == "session.login", pl.col("outcome") == "failure").row(0, named=True)
    assert (failed["entries"], failed["events"], failed["subjects"], failed["by_system"]) == (5, 5, 1, 5)


def test_many_failures_of_one_account_and_of_all_are_found(operated):
    found = operated.read("marts.sign_in_anomalies", "scope")

    hopper = operated.read("audit_log").filter(pl.col("outcome") == "failure")["subject_id"][0]
    rows = {row["scope"]: row for row in found.rows(named=True)}
    assert set(rows) == {"all", hopper}
    assert (rows[hopper]["failures"], rows[hopper]["successes"], rows[hopper]["succeeded_after"]) == (5, 1, True)
    assert (rows["all"]["failures"], rows["all"]["successes"], rows["all"]["without_account"]) == (65, 2, 60)
    assert {row["hour"] for row in rows.values()} == {NOW}


def test_no_mart_of_accounts_but_the_anomalies_has_an_id_and_none_has_personal_data(operated, models):
    ids = set(operated.read("users")["subject_id"])

    for name in ("marts.usage_by_tier", "marts.audit_activity", "marts.sign_in_anomalies"):
        columns = operated.read(name).iter_columns()
        found = {value for column in columns for value in column.cast(pl.String).drop_nulls()}
        assert bool(found & ids) == (name == "marts.sign_in_anomalies")
        assert not any(word in value for value in found for word in ("hopper", "turing", "lovelace", "@", "e1."))
        assert not any(column.personal for column in models[name].columns)
    # Whoever is erased is gone from a view at once.
    assert models["marts.sign_in_anomalies"].materialized == "view"


# -- by hand ----------------------------------------------------------------------------------------------------


def test_people_pay_the_price_of_their_tier_once_it_is_set(shipped, tmp_path, models):
    from dataclasses import replace

    lake = shipped(
        {"users": users("free", "hobbyist", "hobbyist"), "usage": usage((0, "2024-03-10", "requests", 5, None))}
    )
    model = models["marts.usage_by_tier"]
    priced = replace(
        model, header=model.header.model_copy(update={"settings": {**model.header.settings, "price_hobbyist": 9.5}})
    )

    lake.run("marts.usage_by_tier")
    unpriced = lake.read("marts.usage_by_tier", "tier")
    run_models(lake.lake, replace(models, by_name={**models.by_name, model.name: priced}), [model.name])
    found = lake.read("marts.usage_by_tier", "tier")

    assert unpriced.select("monthly_price", "amount").null_count().row(0) == (2, 2)
    columns = ("tier", "subjects", "active_subjects", "monthly_price", "amount")
    assert found.select(columns).rows() == [("free", 1, 1, None, None), ("hobbyist", 2, 0, 9.5, 19.0)]


def test_months_resources_and_quotas_are_kept_apart(shipped):
    rows = usage(
        (0, "2024-02-29", "requests", 10, 100),
        (0, "2024-03-01", "requests", 20, 100),
        (0, "2024-03-01", "optimisations", 5, 5),
        (0, "2024-03-01", "provider:finnhub", 7, None),
        (0, "2024-03-02", "provider:kraken", 8, 16),
        (0, "2024-03-02", "sql_queries", 0, 0),
        (1, "2024-03-02", "requests", 30, 100),
    )

    found = shipped({"users": users("free", "free", created_at=NOW - timedelta(days=30)), "usage": rows}).make(
        "marts.usage_by_tier", "month"
    )

    columns = ("month", "subjects", "active_subjects", "requests", "sql_queries", "optimisations", "provider_calls")
    assert found.select(columns).rows() == [
        (date(2024, 2, 1), 2, 1, 10, 0, 0, 0),
        (date(2024, 3, 1), 2, 2, 50, 0, 5, 15),
    ]
    # Of 20/100, 5/5, 8/16 and 30/100; what is unlimited or not included has no share.
    assert found["quota_share"].to_list() == pytest.approx([0.1, 0.5])
    assert found["exhausted"].to_list() == [0, 1]


def test_the_use_of_erased_people_is_kept_without_them(shipped):
    rows = usage((0, "2024-03-01", "requests", 10, 100), (5, "2024-03-01", "requests", 90, 100))

    found = shipped({"users": users("free"), "usage": rows}).make("marts.usage_by_tier", "tier")

    columns = ("tier", "subjects", "active_subjects", "requests", "amount")
    assert found.select(columns).rows() == [("free", 1, 1, 10, None), ("unknown", 0, 1, 90, None)]


def test_people_who_are_deleted_inactive_or_not_yet_there_are_not_billed(shipped):
    people = users("free", "free", "free", "free").with_columns(
        created_at=pl.Series([NOW, NOW, NOW, NOW + timedelta(days=40)]),
        updated_at=pl.Series([NOW + timedelta(days=41)] * 4),
        active=pl.Series([True, False, True, True]),
        deleted_at=pl.Series([None, None, NOW - timedelta(days=20), None], dtype=pl.Datetime("us", "UTC")),
    )

    lake = shipped({"users": people, "usage": usage((0, "2024-03-10", "requests", 1, None))})

    assert lake.make("marts.usage_by_tier")["subjects"].to_list() == [1]


def test_four_failures_are_no_anomaly_and_five_are(shipped):
    tries = [(0, NOW + timedelta(minutes=minute), "session.login", "failure") for minute in range(4)]
    tries += [(1, NOW + timedelta(minutes=minute), "session.login", "failure") for minute in range(5)]
    tries += [(2, NOW + timedelta(minutes=minute), "session.verify", "failure") for minute in range(9)]

    found = shipped({"audit_log": audit(*tries)}).read("marts.sign_in_anomalies")

    assert found.select("scope", "failures", "succeeded_after").rows() == [(SUBJECTS[1], 5, False)]


def test_hours_are_judged_one_by_one(shipped):
    tries = [(0, NOW + timedelta(minutes=57 + minute), "session.login", "failure") for minute in range(6)]

    assert shipped({"audit_log": audit(*tries)}).read("marts.sign_in_anomalies").height == 0


def test_a_success_within_the_hour_after_the_first_failure_is_told(shipped):
    tries = [(0, NOW + timedelta(minutes=50 + minute), "session.login", "failure") for minute in range(5)]
    soon = (0, NOW + timedelta(minutes=105), "session.login", "success")
    late = (0, NOW + timedelta(minutes=111), "session.login", "success")
    other = (1, NOW + timedelta(minutes=56), "session.login", "success")

    def told(*more: tuple[int, datetime, str, str]) -> list[bool]:
        return shipped({"audit_log": audit(*tries, *more)}).read("marts.sign_in_anomalies")["succeeded_after"].to_list()

    assert (told(soon), told(late), told(other)) == ([True], [False], [False])


def test_attempts_at_accounts_that_do_not_exist_count_for_all_together(shipped):
    tries = [(None, NOW + timedelta(seconds=second), "session.login", "failure") for second in range(50)]

    found = shipped({"audit_log": audit(*tries)}).read("marts.sign_in_anomalies")

    assert found.select("scope", "subject_id", "failures", "subjects", "without_account").rows() == [
        ("all", None, 50, 0, 50)
    ]


def test_details_that_have_no_count_stand_for_one(shipped):
    tries = [(0, NOW, "user.update", "success"), (0, NOW, "user.update", "success")]

    for detail in (None, "{}", '{"count": "many"}', "no json"):
        row = shipped({"audit_log": audit(*tries, detail=detail)}).make("marts.audit_activity").row(0, named=True)
        assert (row["entries"], row["events"]) == (2, 2)


def test_days_of_activity_are_apart_and_stay_when_the_log_is_cut(shipped):
    tries = [(person, NOW + timedelta(days=day), "user.update", "success") for day in range(2) for person in range(3)]
    lake = shipped({"audit_log": audit(*tries)})
    lake.run("marts.audit_activity")
    log = lake.lake.table("audit_log")
    log.replace((NOW.date(), NOW.date() + timedelta(days=1)), log.contract.empty())

    days = NOW.date() + timedelta(days=1), NOW.date() + timedelta(days=2)
    lake.run("marts.audit_activity", days=days)

    found = lake.read("marts.audit_activity", "date")
    assert found.select("date", "entries", "subjects").rows() == [(date(2024, 3, 10), 3, 3), (date(2024, 3, 11), 3, 3)]
