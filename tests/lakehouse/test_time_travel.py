"""Any retained version reads back exactly, by number or by time; anything else is refused with the range."""

from __future__ import annotations

import json
import os
import shutil
from datetime import UTC, datetime, timedelta

import pytest

from hfthot_platform.core.errors import BadRequestError, DamagedTableError, VersionUnavailableError
from hfthot_platform.storage.lakehouse import Lakehouse, maintain


def heights(table):
    return [table.scan(version=version.version).collect().height for version in table.readable_versions()]


def set_commit_times(table, times):
    """Rewrite the time that each commit says of itself."""
    for path, moment in zip(sorted((table.folder / "_delta_log").glob("*.json")), times, strict=True):
        actions = [json.loads(line) for line in path.read_text().splitlines()]
        for action in actions:
            if "commitInfo" in action:
                action["commitInfo"]["timestamp"] = int(moment.timestamp() * 1000)
        path.write_text("\n".join(json.dumps(action) for action in actions) + "\n")


@pytest.fixture
def three(table, trades):
    """Return a table with versions 0 to 3 of 0, 10, 20 and 30 rows, a day apart from 2024-05-01 on."""
    for i in range(3):
        table.append(trades(10, 10 * i))
    set_commit_times(table, [datetime(2024, 5, 1 + i, tzinfo=UTC) for i in range(4)])
    return table


def test_every_version_reads_back(three):
    assert heights(three) == [0, 10, 20, 30]


@pytest.mark.parametrize(
    ("as_of", "rows"),
    [
        (datetime(2024, 5, 1, tzinfo=UTC), 0),
        (datetime(2024, 5, 2, tzinfo=UTC), 10),
        (datetime(2024, 5, 2, 23, 59, tzinfo=UTC), 10),
        (datetime(2024, 5, 3, 0, 0, 1, tzinfo=UTC), 20),
        (datetime(2030, 1, 1, tzinfo=UTC), 30),
    ],
)
def test_a_time_gives_the_version_that_was_current(three, as_of, rows):
    assert three.scan(as_of=as_of).collect().height == rows


def test_a_time_in_another_zone_is_the_same_moment(three):
    from zoneinfo import ZoneInfo

    assert three.version_at(datetime(2024, 5, 2, 2, 0, tzinfo=ZoneInfo("Europe/Berlin"))) == 1
    assert three.version_at(datetime(2024, 5, 2, 1, 59, tzinfo=ZoneInfo("Europe/Berlin"))) == 0


def test_a_time_before_the_first_version_is_refused_with_the_readable_range(three):
    with pytest.raises(VersionUnavailableError) as caught:
        three.scan(as_of=datetime(2024, 4, 30, tzinfo=UTC))

    assert "the time 2024-04-30T00:00:00+00:00 is not readable" in str(caught.value)
    assert "version 0 (2024-05-01T00:00:00+00:00) to 3 (2024-05-04T00:00:00+00:00)" in str(caught.value)


@pytest.mark.parametrize("version", [-1, 4, 10**9, 2**63 - 1, 2**70])
def test_a_version_that_does_not_exist_is_refused_with_the_readable_range(three, version):
    with pytest.raises(
        VersionUnavailableError, match=rf"version {version} is not readable. Readable: version 0 .* to 3"
    ):
        three.scan(version=version)


def test_a_version_of_a_table_that_nobody_wrote_is_refused(table):
    with pytest.raises(VersionUnavailableError, match="has no version yet"):
        table.scan(version=0)
    with pytest.raises(VersionUnavailableError, match="has no version yet"):
        table.scan(as_of=datetime(2024, 1, 1, tzinfo=UTC))


def test_a_time_without_a_zone_is_refused(three):
    with pytest.raises(BadRequestError, match="has no time zone"):
        three.scan(as_of=datetime(2024, 5, 2))


def test_version_and_time_together_are_refused(three):
    with pytest.raises(BadRequestError, match="version or as_of, not both"):
        three.scan(version=1, as_of=datetime(2024, 5, 2, tzinfo=UTC))


def test_a_copied_table_answers_by_its_commits_not_by_its_file_times(three, lake, tmp_path):
    shutil.copytree(lake.storage.root, tmp_path / "copy", copy_function=shutil.copyfile)
    for path in (tmp_path / "copy").rglob("*"):
        os.utime(path, (2e9, 2e9))
    copy = Lakehouse.open(tmp_path / "copy").table("market.trades")

    assert copy.scan(as_of=datetime(2024, 5, 2, 12, tzinfo=UTC)).collect().height == 10
    assert [version.timestamp for version in copy.versions()] == [version.timestamp for version in three.versions()]
    with pytest.raises(VersionUnavailableError):
        copy.scan(as_of=datetime(2024, 4, 1, tzinfo=UTC))


def test_the_copy_is_a_table_of_its_own(three, lake, tmp_path, trades):
    shutil.copytree(lake.storage.root, tmp_path / "copy")
    copy = Lakehouse.open(tmp_path / "copy").table("market.trades")

    copy.append(trades(10, 100))

    assert (copy.scan().collect().height, three.scan().collect().height) == (40, 30)


def test_a_clock_that_ran_backwards_does_not_reorder_versions(three):
    day = [datetime(2024, 5, 1 + i, tzinfo=UTC) for i in range(4)]
    set_commit_times(three, [day[0], day[3], day[1], day[2]])

    times = [version.timestamp for version in three.versions()]

    assert times == [day[0], day[3], day[3], day[3]]
    assert three.version_at(day[2]) == 0
    assert three.version_at(day[3]) == 3


def test_old_versions_keep_their_rows_through_replace_and_compaction(lake, three, trades):
    three.replace(None, trades(3))
    lake.clock_checked = lake.clock()  # the commits' times are made up
    maintain(lake, "market.trades")

    assert heights(three)[:5] == [0, 10, 20, 30, 3]


def test_after_a_vacuum_the_readable_range_starts_at_the_oldest_intact_version(lake, table, trades):
    table.append(trades())
    table.replace(None, trades(5))
    table.replace(None, trades(3))

    report = maintain(lake, "market.trades", history_days=0)

    readable = table.readable_versions()
    assert report.files_vacuumed == 2
    assert report.oldest_readable == readable[0].version == 3
    assert [table.scan(version=version.version).collect().height for version in readable] == [3] * len(readable)
    for version in (1, 2):
        with pytest.raises(VersionUnavailableError, match=rf"version {version} is not readable. Readable: version 3 "):
            table.scan(version=version)
    with pytest.raises(VersionUnavailableError, match="Readable: version 3 "):
        table.scan(as_of=readable[0].timestamp - timedelta(seconds=1))


@pytest.mark.soak
def test_after_a_log_clean_up_the_readable_range_starts_at_a_version_that_loads(lake, table, trades):
    for i in range(60):
        table.append(trades(2, 2 * i))
    long_ago = datetime.now(UTC).timestamp() - 90 * 86_400
    for path in (table.folder / "_delta_log").glob("*"):
        os.utime(path, (long_ago, long_ago))

    report = maintain(lake, "market.trades")

    assert report.log_entries_removed > 0
    readable = table.readable_versions()
    assert readable[0].version == report.oldest_readable
    assert heights(table)[-1] == 120
    for version in readable:
        assert table.scan(version=version.version).collect().height == min(2 * version.version, 120)
    with pytest.raises(VersionUnavailableError, match=f"Readable: version {readable[0].version} "):
        table.scan(version=0)


def test_restore_makes_an_old_version_current_and_keeps_what_was_between(three, trades):
    three.replace(None, trades(1))

    commit = three.restore(2)

    assert (commit.version, three.scan().collect().height) == (5, 20)
    assert heights(three) == [0, 10, 20, 30, 1, 20]


def test_restore_of_the_current_version_changes_nothing(three):
    commit = three.restore(3)

    assert not commit.changed
    assert three.version() == 3


def test_restore_of_an_unreadable_version_is_refused(three, table, lake):
    with pytest.raises(VersionUnavailableError, match="version 9 is not readable"):
        three.restore(9)
    with pytest.raises(VersionUnavailableError, match="has no version yet"):
        lake.table("market.closes").restore(0)


def test_a_snapshot_names_files_rows_and_span_of_a_version(three):
    snapshot = three.snapshot(version=2)

    assert (snapshot.version, snapshot.rows, len(snapshot.paths)) == (2, 20, 2)
    assert snapshot.committed_at == datetime(2024, 5, 3, tzinfo=UTC)
    assert (snapshot.first_event, snapshot.last_event) == (
        datetime(2024, 1, 1, tzinfo=UTC),
        datetime(2024, 1, 1, 0, 0, 9, tzinfo=UTC),
    )


def test_a_version_whose_file_is_gone_is_damaged_not_unknown(three, trades):
    three.replace(None, trades(1))
    for path in list(three.folder.rglob("*.parquet"))[:]:
        if str(path) not in three.snapshot().paths:
            path.unlink()

    with pytest.raises(DamagedTableError, match="is missing"):
        three.scan(version=2)
    assert three.scan().collect().height == 1
