"""A damaged table is reported with the file at fault and the way back, and the way back works."""

from __future__ import annotations

import os
from datetime import date, timedelta

import pytest

from hfthot_platform.core.errors import DamagedTableError
from hfthot_platform.storage.lakehouse import Lakehouse, maintain

DAY = date(2024, 1, 1)


@pytest.fixture
def days(table, trades):
    """Return a table with one file and ten rows per version, versions 1 to 4."""
    for i in range(4):
        table.append(trades(10, 10 * i, DAY + timedelta(days=i)))
    return table


def data_file(table, day):
    return next((table.folder / f"date={day}").glob("*.parquet"))


def log_entry(table, version):
    return table.folder / "_delta_log" / f"{version:020d}.json"


def flip(path, at):
    data = bytearray(path.read_bytes())
    data[at : at + 8] = b"\xff" * 8
    path.write_bytes(data)


def opened_anew(table):
    """Return the table as whoever opens the lake now finds it."""
    return Lakehouse.open(table.folder.parents[1]).table(table.contract.name)


def uses(table, trades):
    """Yield each way to use the day of version 2."""
    day = DAY + timedelta(days=1)
    yield lambda: table.scan().collect()
    yield lambda: table.merge(trades(12, 10, day))
    yield lambda: table.replace(day, trades(1, 10, day))
    yield table.snapshot


@pytest.mark.parametrize(
    ("harm", "says"),
    [
        (lambda path: path.unlink(), "is missing"),
        (lambda path: os.truncate(path, 500), "has 500 bytes, but the log says"),
        (lambda path: os.truncate(path, 0), "has 0 bytes, but the log says"),
    ],
)
def test_a_harmed_data_file_is_named_by_every_use_and_restore_leads_back(days, trades, harm, says):
    path = data_file(days, "2024-01-02")
    harm(path)

    for use in uses(days, trades):
        with pytest.raises(DamagedTableError) as caught:
            use()
        assert f"file at fault: date=2024-01-02/{path.name} {says}" in str(caught.value)
        assert "run `hfthot restore market.trades 1` to go back to the newest intact version" in str(caught.value)
    assert any(path.name in problem for problem in days.problems())

    days.restore(1)

    assert days.problems() == []
    assert days.scan().collect().height == 10


def test_data_that_rots_in_place_is_found_when_it_is_rewritten_and_by_a_deep_look(days, trades):
    path = data_file(days, "2024-01-02")
    flip(path, 4)

    with pytest.raises(DamagedTableError, match=rf"{path.name} is not readable Parquet"):
        days.merge(trades(12, 10, DAY + timedelta(days=1)))

    assert any(path.name in problem for problem in days.problems(deep=True))


def test_a_footer_that_rots_is_found_without_reading_the_data(days):
    path = data_file(days, "2024-01-02")
    flip(path, path.stat().st_size - 12)

    assert days.problems() == [f"file date=2024-01-02/{path.name} is not readable Parquet"]


def test_a_file_copied_back_heals_the_table(days):
    path = data_file(days, "2024-01-02")
    saved = path.read_bytes()
    path.unlink()
    assert days.problems() != []

    path.write_bytes(saved)

    assert days.problems() == []
    assert days.scan().collect().height == 40


def test_restore_to_a_damaged_version_is_refused(days):
    data_file(days, "2024-01-02").unlink()

    with pytest.raises(DamagedTableError, match="is missing"):
        days.restore(3)


@pytest.mark.parametrize(
    ("version", "harm", "says"),
    [
        (2, lambda path: path.write_text('{"add": garb'), "is not readable JSON"),
        (4, lambda path: os.truncate(path, 50), "is not readable JSON"),
        (2, lambda path: path.write_bytes(b"\x00" * 100), "is not readable JSON"),
        (4, lambda path: os.truncate(path, 0), "contains no commit"),
        (2, lambda path: path.unlink(), "is missing"),
    ],
)
def test_a_harmed_log_entry_is_named_by_every_use_and_restore_leads_back(days, trades, lake, version, harm, says):
    harm(log_entry(days, version))
    found = opened_anew(days)

    for use in (*uses(found, trades), found.versions, lambda: maintain(lake, "market.trades")):
        with pytest.raises(DamagedTableError) as caught:
            use()
        assert f"file at fault: _delta_log/{version:020d}.json {says}" in str(caught.value)
        assert f"run `hfthot restore market.trades {version - 1}` to go back" in str(caught.value)
    assert len(found.problems()) == 1

    commit = found.restore(version - 1)

    assert commit.changed
    assert days.problems() == []
    assert days.scan().collect().height == 10 * (version - 1)
    days.append(trades(10, 100))
    assert days.scan().collect().height == 10 * version
    aside = [path.name for path in (lake.storage.local / "_damaged" / "market.trades").rglob("*.json")]
    assert len(aside) == 4 - version + (says != "is missing")


def test_who_has_the_newest_version_in_memory_reads_on_although_an_older_log_entry_is_harmed(days, trades):
    assert days.scan().collect().height == 40
    log_entry(days, 2).write_text("garbage")

    assert days.scan().collect().height == 40
    with pytest.raises(DamagedTableError, match="is not readable JSON"):
        days.append(trades(1, 100))


def test_restore_past_the_harmed_log_entry_is_refused(days):
    log_entry(days, 2).write_text("garbage")

    with pytest.raises(DamagedTableError, match=r"restore market\.trades 1"):
        days.restore(3)


def test_without_the_first_log_entry_nothing_but_a_backup_helps(days):
    log_entry(days, 0).unlink()

    with pytest.raises(DamagedTableError, match=rf"{0:020d}.json is missing. No older version can be read without it"):
        opened_anew(days).scan()


def test_a_table_that_lost_its_whole_log_does_not_read_as_empty(days):
    for path in (days.folder / "_delta_log").iterdir():
        path.unlink()

    with pytest.raises(DamagedTableError, match="_delta_log is missing or empty"):
        days.scan()
    with pytest.raises(DamagedTableError, match="_delta_log is missing or empty"):
        days.version()


def test_an_unreadable_checkpoint_is_named_and_restore_leads_back(days, lake):
    maintain(lake, "market.trades")
    checkpoint = next((days.folder / "_delta_log").glob("*.checkpoint.parquet"))
    checkpoint.write_bytes(b"PAR1 nothing here PAR1")

    with pytest.raises(DamagedTableError, match=rf"{checkpoint.name} is not readable Parquet"):
        opened_anew(days).scan()
    days.restore(4)

    assert days.problems() == []
    assert days.scan().collect().height == 40


def test_an_entry_older_than_the_checkpoint_is_not_needed_by_the_current_version(days, lake):
    maintain(lake, "market.trades")
    log_entry(days, 2).unlink()

    assert days.scan().collect().height == 40


def test_no_error_quotes_rows(days, trades):
    day = DAY + timedelta(days=1)
    flip(data_file(days, "2024-01-02"), 4)

    with pytest.raises(DamagedTableError) as caught:
        days.merge(trades(12, 10, day, source_ref="SECRET-VALUE"))

    chain, error = "", caught.value
    while error is not None:
        chain += str(error)
        error = error.__cause__ or (None if error.__suppress_context__ else error.__context__)
    assert "SECRET-VALUE" not in chain
    assert "Preview" not in chain
