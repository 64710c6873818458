"""Applying an ordered log of changes: exactly once, only the touched files, nothing of the rows in the log."""

from __future__ import annotations

import json
import threading
from datetime import UTC, datetime, timedelta

import polars as pl
import pytest

from hfthot_platform.core.errors import AuditFailedError, BadRequestError, CommitConflictError, SchemaMismatchError
from hfthot_platform.storage.lakehouse import maintain, rewrite

NOON = datetime(2024, 1, 1, 12, tzinfo=UTC)
LOG = "test.log"
CLEAR = "ada@example.org"


def subject(number):
    """Return the id of a subject; ids rise with their number."""
    return f"{number:032x}"


def users(numbers, seq=1, **columns):
    n = len(numbers)
    return pl.DataFrame(
        {
            "subject_id": [subject(number) for number in numbers],
            "username": ["e1." + "u" * 40] * n,
            "email": ["e1." + "m" * 40] * n,
            "role": ["registered"] * n,
            "tier": ["free"] * n,
            "active": [True] * n,
            "data_sharing_consent": [False] * n,
            "created_at": [NOON] * n,
            "updated_at": [NOON] * n,
            "seq": range(seq, seq + n),
        },
        schema_overrides={"seq": pl.Int64},
    ).with_columns(**{name: pl.lit(value) for name, value in columns.items()})


def entries(subjects, seq=1, at=NOON):
    n = len(subjects)
    return pl.DataFrame(
        {
            "seq": range(seq, seq + n),
            "ts": [at] * n,
            "subject_id": [None if number is None else subject(number) for number in subjects],
            "actor_id": ["system"] * n,
            "action": ["user.register"] * n,
            "outcome": ["success"] * n,
            "ip": ["e1." + "i" * 40] * n,
            "personal_detail": ["e1." + "d" * 40] * n,
            "personal_digest": ["0" * 64] * n,
            "redacted": [False] * n,
            "previous_hash": ["1" * 64] * n,
            "hash": ["2" * 64] * n,
        },
        schema_overrides={"seq": pl.Int64, "subject_id": pl.String},
    )


@pytest.fixture
def table(lake):
    return lake.table("users")


@pytest.fixture
def audit_log(lake):
    return lake.table("audit_log")


@pytest.fixture
def small_files(monkeypatch):
    """Files of ten rows, all of which count as large."""
    monkeypatch.setattr(rewrite, "FILE_ROWS", 10)
    monkeypatch.setattr(rewrite, "SMALL_ROWS", 0)


def log_text(table):
    return "".join(path.read_text() for path in sorted((table.folder / "_delta_log").glob("*.json")))


def numbers(table):
    return [int(subject_id, 16) for subject_id in table.scan().collect().sort("subject_id")["subject_id"]]


# -- what it does -----------------------------------------------------------------------------------------------


def test_new_rows_are_added_and_rows_of_a_known_key_replaced(table):
    table.apply(users([1, 2, 3]), app=(LOG, 3))

    commit = table.apply(users([3, 4], seq=4, tier="professional"), app=(LOG, 5))

    assert (commit.rows_published, commit.rows_updated) == (2, 1)
    stored = table.scan().collect().sort("subject_id")
    assert stored["tier"].to_list() == ["free", "free", "professional", "professional"]
    assert stored["seq"].to_list() == [1, 2, 4, 5]


def test_a_stretch_that_was_applied_is_not_applied_again(table):
    first = table.apply(users([1, 2]), app=(LOG, 2))

    again = table.apply(users([1, 2], tier="enterprise"), app=(LOG, 2))

    assert first.changed
    assert not again.changed
    assert table.version() == first.version
    assert table.applied(LOG) == 2
    assert table.scan().collect()["tier"].to_list() == ["free", "free"]


def test_how_far_a_log_was_applied_survives_a_checkpoint_and_maintenance(lake, table):
    table.apply(users([1, 2]), app=(LOG, 2))
    table.apply(users([3], seq=3), app=(LOG, 3))

    maintain(lake, "users", history_days=0)

    assert table.applied(LOG) == 3
    assert not table.apply(users([9]), app=(LOG, 3)).changed


def test_another_log_has_a_count_of_its_own(table):
    table.apply(users([1]), app=(LOG, 7))
    assert table.applied("other") == 0
    assert table.apply(users([2], seq=2), app=("other", 1)).changed


def test_a_table_nobody_wrote_has_no_entry(table):
    assert table.applied(LOG) == 0


def test_the_rows_of_forgotten_subjects_are_deleted_and_all_others_stay(table):
    table.apply(users(range(20)), app=(LOG, 20))

    commit = table.apply(None, forget=[subject(3), subject(11), subject(99)], app=(LOG, 21))

    assert commit.rows_forgotten == 2
    assert numbers(table) == [number for number in range(20) if number not in {3, 11}]


def test_a_row_that_comes_with_its_subjects_deletion_is_a_later_one_and_stays(table):
    table.apply(users([1, 2]), app=(LOG, 2))
    table.apply(users([2], seq=3, tier="hobbyist"), forget=[subject(1), subject(2)], app=(LOG, 3))
    assert table.scan().collect().select("subject_id", "tier").rows() == [(subject(2), "hobbyist")]


def test_a_redacted_subject_loses_the_personal_columns_and_nothing_else(audit_log):
    audit_log.apply(entries([1, 2, None, 1]), app=(LOG, 4))
    before = audit_log.scan().collect()

    commit = audit_log.apply(entries([1], seq=5), redact=[subject(1)], app=(LOG, 5))

    assert commit.rows_forgotten == 2
    after = audit_log.scan().collect().sort("seq")
    assert after["redacted"].to_list() == [True, False, False, True, False]
    assert after["ip"].is_null().to_list() == [True, False, False, True, False]
    assert after["personal_detail"].is_null().to_list() == [True, False, False, True, False]
    plain = [column.name for column in audit_log.contract.columns if not column.personal and column.name != "redacted"]
    assert after.head(4).select(plain).equals(before.select(plain))


def test_deleting_what_is_not_there_makes_no_version(table):
    version = table.apply(users([1]), app=(LOG, 1)).version
    assert not table.apply(None, forget=[subject(5)], app=(LOG, 2)).changed
    assert table.version() == version


def test_rows_of_several_days_go_to_their_partitions(audit_log):
    later = entries([3, 4], seq=3, at=NOON + timedelta(days=2))
    audit_log.apply(pl.concat([entries([1, 2]), later]), app=(LOG, 4))

    days = audit_log.scan().group_by("date").agg(pl.col("seq")).collect().sort("date")

    assert days["seq"].to_list() == [[1, 2], [3, 4]]
    assert sorted(path.name for path in audit_log.folder.glob("date=*")) == ["date=2024-01-01", "date=2024-01-03"]
    assert audit_log.problems(deep=True) == []


def test_old_versions_stay_readable(table):
    first = table.apply(users([1, 2]), app=(LOG, 2)).version
    table.apply(users([3], seq=3), forget=[subject(1)], app=(LOG, 3))
    assert table.scan(version=first).collect().height == 2
    assert [version.operation for version in table.versions()] == ["CREATE TABLE", "APPLY", "APPLY"]


# -- files ------------------------------------------------------------------------------------------------------


def test_only_the_file_of_a_forgotten_subject_is_written_again(table, small_files):
    table.apply(users(range(100)), app=(LOG, 100))
    before = set(table.snapshot().paths)

    commit = table.apply(None, forget=[subject(42)], app=(LOG, 101))

    after = set(table.snapshot().paths)
    assert len(before) == 10
    assert commit.files_added == 1
    assert len(before & after) == 9


def test_a_new_row_within_a_rewritten_files_span_goes_into_that_file(table, small_files):
    table.apply(users(range(0, 200, 2)), app=(LOG, 100))
    commit = table.apply(users([42, 43, 999], seq=101), app=(LOG, 103))
    spans = [
        (int(file["min.subject_id"], 16), int(file["max.subject_id"], 16)) for file in table.files().entries.to_pylist()
    ]
    # The file of eleven rows is two by now, and the row beyond all files has one of its own.
    assert commit.files_added == 3
    assert all(a[1] < b[0] for a, b in zip(sorted(spans), sorted(spans)[1:], strict=False)), "no two files overlap"


def test_many_small_files_become_one(table):
    for number in range(40):
        table.apply(users([number], seq=number + 1), app=(LOG, number + 1))
    assert len(table.snapshot().paths) <= 13
    assert numbers(table) == list(range(40))


def test_statistics_are_of_the_contracts_columns_alone(table):
    table.apply(users([1, 2]), app=(LOG, 2))
    (entry,) = [json.loads(line)["add"] for line in log_text(table).splitlines() if '"add"' in line]
    stats = json.loads(entry["stats"])
    assert set(stats["minValues"]) == set(stats["maxValues"]) == {"subject_id", "seq"}
    assert stats["numRecords"] == 2


def test_nothing_that_was_looked_for_gets_into_the_tables_log(table, small_files):
    table.apply(users(range(100)), app=(LOG, 100))
    table.apply(users([45], seq=101), forget=[subject(42)], app=(LOG, 102))
    assert subject(42) not in log_text(table)
    assert subject(45) not in log_text(table)
    assert "predicate" not in log_text(table)
    assert "e1.u" not in log_text(table)


def test_files_written_by_other_writes_are_understood(lake, table):
    table.append(users(range(30)))
    maintain(lake, "users")
    table.merge(users([7], seq=50, tier="enterprise"))

    table.apply(users([8], seq=51, tier="enterprise"), forget=[subject(9)], app=(LOG, 51))

    stored = table.scan().filter(pl.col("tier") == "enterprise").collect()
    assert sorted(int(subject_id, 16) for subject_id in stored["subject_id"]) == [7, 8]
    assert table.scan().collect().height == 29
    maintain(lake, "users", history_days=0)
    assert table.scan().collect().height == 29


# -- what it refuses --------------------------------------------------------------------------------------------


def test_clear_text_in_a_personal_column_stops_everything_and_is_not_told(table, lake):
    rows = pl.concat([users([1], seq=11), users([2], seq=12, email=CLEAR)])
    with pytest.raises(AuditFailedError, match="entry 12 breaks the rule malformed_text") as caught:
        table.apply(rows, app=(LOG, 12))
    assert CLEAR not in str(caught.value)
    assert table.applied(LOG) == 0
    assert table.scan().collect().is_empty()


def test_a_refused_row_leaves_nothing_behind_on_disk(table, lake):
    with pytest.raises(AuditFailedError):
        table.apply(users([2], seq=12, role=CLEAR), app=(LOG, 12))
    found = [path for path in lake.storage.local.rglob("*") if path.is_file() and CLEAR.encode() in path.read_bytes()]
    assert found == []
    assert lake.table("quarantine.users").version() is None


def test_rows_can_be_judged_before_anything_is_written(table):
    audited = table.audit_all(users([1, 2]))
    assert table.version() is None
    assert table.apply(audited, app=(LOG, 2)).rows_published == 2


def test_rows_of_another_shape_are_refused(table):
    with pytest.raises(SchemaMismatchError, match="unexpected column 'password'"):
        table.apply(users([1], password="x"), app=(LOG, 1))


def test_a_table_without_subjects_cannot_forget_and_one_that_forgets_cannot_redact(lake, table):
    with pytest.raises(BadRequestError):
        lake.table("market.trades").apply(None, forget=[subject(1)], app=(LOG, 1))
    with pytest.raises(BadRequestError):
        table.apply(None, redact=[subject(1)], app=(LOG, 1))


# -- at once ----------------------------------------------------------------------------------------------------


def test_a_log_that_another_publisher_took_further_is_refused(table):
    table.apply(users([1]), app=(LOG, 1))
    with pytest.raises(CommitConflictError, match="up to 1, not 0"):
        table.apply(users([1, 2]), app=(LOG, 2), since=0)
    assert table.apply(users([2], seq=2), app=(LOG, 2), since=1).changed


def test_a_commit_in_between_runs_the_whole_change_again(table, monkeypatch):
    table.apply(users(range(5)), app=(LOG, 5))
    genuine = rewrite.Rewrite.commit
    first = True

    def interrupted(self, *arguments):
        nonlocal first
        if first:
            first = False
            table.merge(users([77], seq=90))
        genuine(self, *arguments)

    monkeypatch.setattr(rewrite.Rewrite, "commit", interrupted)

    commit = table.apply(users([3], seq=6, tier="hobbyist"), forget=[subject(4)], app=(LOG, 7))

    assert commit.attempts == 2
    assert numbers(table) == [0, 1, 2, 3, 77]
    named = {*table.snapshot().paths}
    left = {str(path) for path in table.folder.glob("part-*.parquet")}
    for version in range(table.version()):
        named |= {*(table.snapshot(version=version) or table.snapshot()).paths}
    assert left == named, "the files of the attempt that lost are gone"


def test_threads_that_apply_the_same_log_apply_each_stretch_once(table):
    errors = []

    def publish():
        try:
            for last in range(1, 9):
                table.apply(users([last], seq=last), app=(LOG, last))
        except Exception as error:
            errors.append(error)

    threads = [threading.Thread(target=publish) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()

    assert errors == []
    assert numbers(table) == list(range(1, 9))
    assert sum(version.operation == "APPLY" for version in table.versions()) == 8
