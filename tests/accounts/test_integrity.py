"""Checks of the user tables: what holds passes, what does not is told as counts, files and columns."""

from __future__ import annotations

import itertools
import json

import polars as pl
import pytest

from hfthot_platform.domain.contracts.accounts import USER_TABLES
from hfthot_platform.services.publication.publisher import Publisher
from hfthot_platform.services.quality.accounts import ScanState, account_checks_of, run_account_checks
from hfthot_platform.storage.lakehouse import Lakehouse, maintain
from hfthot_platform.storage.operational.changes import AuditEvent
from hfthot_platform.storage.operational.store import Store
from tests.accounts import ledger


@pytest.fixture
def lake(tmp_path):
    """A lake with some published operations."""
    lake = Lakehouse.open(tmp_path / "lake")
    with Store.open(f"sqlite:///{tmp_path}/accounts") as store:
        everybody = [([ledger.user(n)], AuditEvent(action="user.register")) for n in range(8)]
        later = (operation for operation in ledger.operations(3) if operation[1].action != "user.erase")
        ledger.log(store, [*everybody, *itertools.islice(later, 40)])
        Publisher(store, lake).publish()
    return lake


def outcome(lake, table, name, scanned=None):
    return next(outcome for outcome in run_account_checks(lake, table, scanned) if outcome.name == name)


def add(lake, table, **columns):
    """Append a copy of a table's first row with other values, past the publisher."""
    row = lake.table(table).scan().collect().head(1)
    row = row.with_columns(**{name: pl.lit(value, dtype=row.schema[name]) for name, value in columns.items()})
    lake.table(table).append(row.drop("date", strict=False))


@pytest.mark.parametrize("table", [contract.name for contract in USER_TABLES])
def test_what_was_published_passes_every_check(lake, table):
    outcomes = list(run_account_checks(lake, table))
    declared = lake.table(table).contract
    assert [outcome.name for outcome in outcomes] == [check.name for check in account_checks_of(declared)]
    assert [outcome.description for outcome in outcomes if not outcome.passed] == []


def test_an_empty_lake_passes_every_check(tmp_path):
    lake = Lakehouse.open(tmp_path / "nothing", new=True)
    assert all(outcome.passed for table in USER_TABLES for outcome in run_account_checks(lake, table.name))


@pytest.mark.parametrize("table", ["sessions", "api_keys", "usage"])
def test_rows_of_somebody_who_is_no_user_are_counted(lake, table):
    add(lake, table, subject_id="f" * 32, **({"session_id": "e" * 32} if table == "sessions" else {}))
    found = outcome(lake, table, "known_subjects")
    assert not found.passed
    assert found.observed == {"version": lake.table(table).version(), "rows": 1, "subjects": 1}
    assert "ffff" not in found.description


def test_a_gap_in_the_audit_log_is_found(lake):
    last = lake.table("audit_log").scan().select(pl.col("seq").max()).collect().item()
    add(lake, "audit_log", seq=last + 3)
    found = outcome(lake, "audit_log", "sequence_without_gaps")
    assert (found.passed, found.observed["missing"]) == (False, 2)


def test_an_entry_that_is_there_twice_is_found(lake):
    add(lake, "audit_log")
    assert not outcome(lake, "audit_log", "unique_key").passed


def test_a_redacted_row_that_still_holds_something_is_found(lake):
    add(lake, "audit_log", seq=10_000, redacted=True, ip=ledger.SEALED)
    assert not outcome(lake, "audit_log", "redacted_rows_empty").passed


# -- clear text -------------------------------------------------------------------------------------------------

CLEAR = {
    "e-mail address": ["ada@example.org", "for ada%40mail.example.org", "A.Da+x@EXAMPLE.CO.UK"],
    "IPv4 address": ["from 203.0.113.7", "203.0.113.255:443"],
    "IPv6 address": ["2001:db8:85a3:8d3:1319:8a2e:370:7348", "2001:db8::1"],
    "telephone number": ["+33 6 12 34 56 78", "+14155550123", "06 12 34 56 78", "415-555-0123", "(415) 555-0123"],
    "web token": ["eyJhbGciOiJIUzI1NiJ9.eyJzdWIiOiIxMjM0In0.c2ln"],
    "key or token": ["hft_pro_AbCdEfGhIjKlMnOp", "ghp_abcdefghijklmnopqrstuvwx", "AKIAABCDEFGHIJKLMNOP"],
    "password hash": ["$argon2id$v=19$m=65536,t=3,p=4$c2FsdA$aGFzaA"],
}
HARMLESS = [
    "e1." + "A" * 60,
    "0123456789abcdef0123456789abcdef",
    '{"count":7,"first":"2024-03-09T12:00:00.123456+00:00","last":"2024-03-09T12:00:01+00:00"}',
    '{"from":"free","to":"professional","at":"2024-03-09T12:00:00+00:00"}',
    '{"increment":1234567890123}',
    "provider:finnhub",
    "hft_pro_AbCd",
    "2024-03-09",
]


@pytest.mark.soak
@pytest.mark.parametrize("pattern", sorted(CLEAR))
def test_clear_text_is_found_and_not_told(lake, pattern):
    for number, text in enumerate(CLEAR[pattern]):
        add(lake, "audit_log", seq=10_000 + number, detail=f'{{"by":"{text}"}}')
    found = outcome(lake, "audit_log", "no_plaintext")
    mine = [finding for finding in found.observed["findings"] if finding["like"] == pattern]
    assert not found.passed
    assert {(finding["table"], finding["column"]) for finding in mine} == {("audit_log", "detail")}
    assert sum(finding["count"] for finding in mine) == len(CLEAR[pattern])
    assert not any(text in json.dumps(found.observed) + found.description for text in CLEAR[pattern])


def test_what_the_tables_hold_anyway_is_harmless(lake):
    for number, text in enumerate(HARMLESS):
        add(lake, "audit_log", seq=10_000 + number, detail=text)
    assert outcome(lake, "audit_log", "no_plaintext").passed


def test_the_quarantine_of_a_table_is_looked_through_as_well(lake):
    rejected = pl.DataFrame(
        {"row_number": [1], "reason": ["odd"], "detail": ["x"], "row": ['{"email":"ada@example.org"}']}
    )
    table = lake.table("users")
    table.quarantine(table.audit(table.contract.empty(), rejected))
    (finding,) = outcome(lake, "users", "no_plaintext").observed["findings"]
    assert (finding["table"], finding["column"]) == ("quarantine.users", "row")


def test_only_files_that_are_new_since_the_last_look_are_looked_through(lake):
    first = outcome(lake, "audit_log", "no_plaintext")
    assert first.observed["files"] > 0
    assert outcome(lake, "audit_log", "no_plaintext", first.observed["scanned"]).observed["files"] == 0
    add(lake, "audit_log", seq=10_000, detail="ada@example.org")
    again = outcome(lake, "audit_log", "no_plaintext", first.observed["scanned"])
    assert (again.passed, again.observed["files"]) == (False, 1)


def test_where_the_last_look_is_no_longer_in_the_log_everything_is_looked_through(lake):
    seen = outcome(lake, "sessions", "no_plaintext").observed["scanned"]
    for number in range(3):
        add(lake, "sessions", session_id=f"{number:032x}")
    maintain(lake, "sessions", history_days=0)
    assert outcome(lake, "sessions", "no_plaintext", seen).observed["files"] > 0


def test_what_was_looked_through_is_remembered(tmp_path):
    state = ScanState(tmp_path / "folder" / "scan.json")
    assert state.load() == {}
    state.save({"users": 3})
    state.save({"sessions": 4})
    assert ScanState(tmp_path / "folder" / "scan.json").load() == {"users": 3, "sessions": 4}
    (tmp_path / "folder" / "scan.json").write_text("{")
    assert state.load() == {}
