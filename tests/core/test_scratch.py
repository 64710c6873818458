"""Folders that live as long as the process that made them."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

from hfthot_platform.core.scratch import own_folder

PROGRAM = """
import sys
from pathlib import Path
from hfthot_platform.core.scratch import own_folder
with own_folder(Path(sys.argv[1]), "work-") as folder:
    print(folder, flush=True)
    sys.stdin.read()
"""


def test_a_folder_is_there_for_the_block_and_gone_after_it(tmp_path):
    with own_folder(tmp_path, "work-") as folder:
        (folder / "file").write_text("rows")
        assert folder.parent == tmp_path
    assert list(tmp_path.iterdir()) == []


def test_the_folder_of_a_killed_process_goes_with_the_next_and_that_of_a_living_one_stays(tmp_path):
    with subprocess.Popen(
        [sys.executable, "-c", PROGRAM, tmp_path], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as process:
        theirs = process.stdout.readline().strip()
        with own_folder(tmp_path, "work-"):
            assert Path(theirs).is_dir()
        process.send_signal(signal.SIGKILL)
        process.wait()

    with own_folder(tmp_path, "work-"):
        assert not Path(theirs).exists()


def test_folders_of_another_kind_and_those_that_are_being_made_stay(tmp_path):
    (tmp_path / "other-1").mkdir()
    (tmp_path / "work-young").mkdir()
    (tmp_path / "work-old").mkdir()
    os.utime(tmp_path / "work-old", (time.time() - 600,) * 2)

    with own_folder(tmp_path, "work-"):
        pass

    assert {path.name for path in tmp_path.iterdir()} == {"other-1", "work-young"}
