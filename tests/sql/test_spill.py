"""Statements larger than memory: they finish, within their limit, and leave nothing behind, not even when killed."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import dagster as dg
import pytest

from hfthot_platform.core.errors import ConfigError, SqlError
from hfthot_platform.core.settings import load_settings
from hfthot_platform.services.sql import Limits, query
from hfthot_platform.services.sql.spill import spill_folder
from hfthot_platform.storage.lakehouse import Lakehouse
from resources.platform import Platform, duckdb_resource

#: Rows of 64 characters to sort, 26 MB for 400,000.
SORT = """SELECT count(*) AS n, max(b) AS b, bool_and(rising) AS rising FROM (
    SELECT b, b >= lag(b, 1, '') OVER (ORDER BY b) AS rising
    FROM (SELECT md5(range::VARCHAR) || md5((range + 1)::VARCHAR) AS b FROM range({rows})))"""
GROUP = "SELECT count(*) FROM (SELECT md5(range::VARCHAR) AS b, count(*) FROM range({rows}) GROUP BY 1)"


@pytest.fixture(scope="module")
def lake(tmp_path_factory) -> Lakehouse:
    return Lakehouse.open(tmp_path_factory.mktemp("lake"))


def test_a_sort_larger_than_memory_finishes_and_leaves_nothing(lake, tmp_path):
    sql, limits = SORT.format(rows=400_000), Limits(memory="30MB", threads=1, spill=tmp_path / "spill")

    with pytest.raises(SqlError, match="HFTHOT_DUCKDB_MEMORY"):
        query(lake, sql, limits=Limits(memory="30MB", threads=1))
    frame = query(lake, sql, limits=limits).frame

    assert frame.select("n", "rising").row(0) == (400_000, True)
    assert list((tmp_path / "spill").iterdir()) == []


@pytest.mark.soak
def test_a_sort_and_a_group_by_of_gigabytes_finish_in_200_megabytes(lake, tmp_path):
    limits = Limits(memory="200MB", threads=2, spill=tmp_path / "spill")

    assert query(lake, SORT.format(rows=12_000_000), limits=limits).frame["rising"].item()
    assert query(lake, GROUP.format(rows=20_000_000), limits=limits).frame.item() == 20_000_000
    assert list((tmp_path / "spill").iterdir()) == []


def test_what_a_killed_process_spilled_is_swept_by_the_next_statement(lake, tmp_path):
    code = (
        "import sys; from hfthot_platform import Lakehouse; from hfthot_platform.services.sql import Limits, query\n"
        "from pathlib import Path\n"
        f"query(Lakehouse.open(sys.argv[1]), {SORT.format(rows=30_000_000)!r},"
        " limits=Limits(memory='30MB', threads=1, spill=Path(sys.argv[2])))"
    )
    spill = tmp_path / "spill"
    process = subprocess.Popen([sys.executable, "-c", code, str(tmp_path / "lake"), str(spill)])
    try:
        deadline = time.monotonic() + 60
        while not any(spill.rglob("*.tmp")):
            assert process.poll() is None
            assert time.monotonic() < deadline
            time.sleep(0.02)
        query(lake, "SELECT 1", limits=Limits(spill=spill))
        assert any(spill.rglob("*.tmp")), "what a living process spilled must stay"
    finally:
        os.kill(process.pid, signal.SIGKILL)
        process.wait()
    assert any(spill.iterdir())

    query(lake, "SELECT 1", limits=Limits(spill=spill))

    assert list(spill.iterdir()) == []


def test_other_files_in_the_folder_are_left_alone(tmp_path):
    (tmp_path / "downloads").mkdir()
    (tmp_path / "sql-notes.txt").write_text("mine")
    (tmp_path / "sql-young").mkdir()

    with spill_folder(tmp_path):
        pass

    assert sorted(entry.name for entry in tmp_path.iterdir()) == ["downloads", "sql-notes.txt", "sql-young"]


def test_a_folder_that_lost_its_lock_is_swept_when_it_is_old(tmp_path):
    (tmp_path / "sql-old").mkdir()
    os.utime(tmp_path / "sql-old", (0, 0))

    with spill_folder(tmp_path) as folder:
        assert [entry.name for entry in tmp_path.iterdir()] == [folder.parent.name]


def test_the_dagster_resource_has_the_settings_limits_and_spills(lake, tmp_path):
    settings = load_settings(duckdb_memory="30MB", duckdb_threads=1, scratch=tmp_path / "scratch")
    seen: dict[str, object] = {}

    @dg.asset
    def answer(duckdb: dg.ResourceParam[object]) -> None:
        connect = duckdb.get_connection
        seen["n"] = query(lake, SORT.format(rows=400_000), connect=connect).frame["n"].item()
        with connect() as connection:
            names = ("memory_limit", "threads", "temp_directory")
            row = connection.execute(f"SELECT {', '.join(f'current_setting({name!r})' for name in names)}").fetchall()
            seen["settings"] = row[0]
        with pytest.raises(SqlError, match="does not exist"):
            query(lake, "SELECT no_such_function(1)", connect=connect)

    result = dg.materialize([answer], resources={"duckdb": duckdb_resource(settings)})

    assert result.success
    assert seen["n"] == 400_000
    assert seen["settings"][:2] == ("28.6 MiB", 1)
    assert Path(seen["settings"][2]).is_relative_to(settings.scratch)
    assert list(settings.scratch.iterdir()) == []
    assert Platform(settings).limits == Limits("30MB", 1, settings.scratch)


def test_a_connection_of_the_resource_is_locked_before_the_statement_runs(lake, tmp_path):
    resource = duckdb_resource(load_settings(scratch=tmp_path / "scratch"))

    with pytest.raises(SqlError, match="disabled"):
        query(lake, "SELECT * FROM read_text('/etc/hostname')", connect=resource.get_connection)


def test_a_scratch_setting_that_names_a_file_is_told(lake, tmp_path):
    (tmp_path / "file").write_text("")

    with pytest.raises(ConfigError, match="setting 'scratch'"):
        query(lake, "SELECT 1", limits=Limits(spill=tmp_path / "file"))
