"""kill -9 at random moments of `ingest_landing`, again and again: nothing is lost, nothing doubled.

The result must be that of a run nobody disturbed: the same rows in every table, the same account of every file,
the same files in `done/` and `rejected/`.
"""

from __future__ import annotations

import gzip
import io
import json
import os
import random
import signal
import subprocess
import sys
import time
import zipfile
from pathlib import Path

import pytest

from hfthot_platform.storage.lakehouse import Lakehouse

LANDER = Path(__file__).with_name("lander.py")
START_MS = 1_704_067_200_000


class Lander:
    """Runs of `ingest_landing` that can be killed."""

    def __init__(self, root: Path) -> None:
        self.lake, self.folder = root / "lake", root / "landing"
        self.folder.mkdir(parents=True)
        self.dropped = 0
        self._process = subprocess.Popen(
            [sys.executable, str(LANDER), str(self.lake), str(self.folder)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        assert self._process.stdout.readline() == "ready\n"

    def run(self, kill_after: float | None = None) -> bool:
        """Run once; return whether the run was killed."""
        pid = self._ask()
        if kill_after is not None:
            time.sleep(kill_after)
            os.kill(pid, signal.SIGKILL)
        status = self._ask()
        assert status in (0, -signal.SIGKILL)
        return status != 0

    def _ask(self) -> int:
        self._process.stdin.write("\n")
        self._process.stdin.flush()
        return int(self._process.stdout.readline())

    def drop(self, file: tuple[str, bytes, dict | None]) -> None:
        name, content, mapping = file
        if mapping is not None:
            (self.folder / f"{name}.mapping.yaml").write_text(json.dumps(mapping))
        part = self.folder / f".{name}"
        part.write_bytes(content)
        self.dropped += 1
        os.utime(part, (1e9 + self.dropped, 1e9 + self.dropped))  # the order of ingestion is fixed
        part.rename(self.folder / name)

    def waiting(self) -> list[str]:
        return [entry.name for entry in self.folder.iterdir() if entry.is_file() and not entry.name.startswith(".")]

    def close(self) -> None:
        with self._process:
            self._process.stdin.close()


@pytest.fixture
def lander(tmp_path):
    opened = []

    def make(name):
        opened.append(Lander(tmp_path / name))
        return opened[-1]

    yield make
    for opened_lander in opened:
        opened_lander.close()


def a_file(n: int, dice: random.Random, csv_of, line_of) -> tuple[str, bytes, dict | None]:
    """Return a file of one of the kinds that a landing folder meets."""
    first = n * 20
    kraken = {"venue": "kraken", "symbol": "BTC-EUR"}
    match dice.randrange(8):
        case 0:  # good, of several batches, with a repetition in a later one
            return f"kraken_BTCEUR_{n}.csv", (csv_of(first, 25) + line_of(first + 2)).encode(), None
        case 1:  # bad rows among good ones, and a mapping beside it
            return f"{n}.csv", (csv_of(first, 15) + line_of(first + 16, price=-1)).encode(), kraken
        case 2:  # trades that other files tell otherwise
            return f"{n}.csv", csv_of(max(0, first - 10), 15, price=101.0).encode(), kraken
        case 3:  # compressed, always of the same name
            return "kraken_BTCEUR.csv.gz", gzip.compress(csv_of(first, 12).encode(), mtime=n), None
        case 4:  # nothing good
            return f"{n}.csv", (csv_of(0, 0) + line_of(first, price=-1)).encode(), kraken
        case 5:  # no market data
            return f"notes_{n}.txt", f"note {n}\n".encode(), None
        case 6:  # an archive for two tables
            lines = "".join(f"{START_MS // 1000 + (first + m) * 60},10,11,9,10,1,5\n" for m in range(9))
            packed = io.BytesIO()
            with zipfile.ZipFile(packed, "w") as archive:
                archive.writestr(zipfile.ZipInfo("XBTEUR_1.csv"), lines)
                archive.writestr(zipfile.ZipInfo("trades.csv"), csv_of(first, 12))
            return f"kraken_{n}.zip", packed.getvalue(), kraken
        case _:  # bars
            lines = "".join(f"{START_MS + (first + m) * 60_000},10,11,9,10,1\n" for m in range(12))
            return f"kraken_BTCEUR-1m_{n}.csv", ("ts,open,high,low,close,volume\n" + lines).encode(), None


def tables(root: Path) -> dict[str, list[tuple]]:
    lake = Lakehouse.open(root)
    return {
        # Which version it was, and its random id, depend on how many attempts there were.
        table.contract.name: sorted(table.scan().drop("version", "commit_id", strict=False).collect().rows(), key=repr)
        for table in lake.tables()
        if table.version() is not None
    }


def contents(folder: Path) -> dict[str, bytes]:
    return {f"{file.parent.name}/{file.name}": file.read_bytes() for file in folder.glob("*/*")}


def kill_again_and_again(lander, kills, seed, csv_of, line_of, accounted):
    dice = random.Random(seed)
    disturbed, calm = lander("disturbed"), lander("calm")
    disturbed.run()  # warm, so that delays hit the work
    begin = time.perf_counter()
    files: list[tuple[str, bytes, dict | None]] = []
    upcoming = a_file(0, dice, csv_of, line_of)
    killed = 0
    while killed < kills:
        # Nobody drops a file over one that still waits.
        while len(disturbed.waiting()) < 3 and upcoming[0] not in disturbed.waiting():
            disturbed.drop(upcoming)
            files.append(upcoming)
            upcoming = a_file(len(files), dice, csv_of, line_of)
        killed += disturbed.run(kill_after=dice.uniform(0.01, 0.25))
    seconds = time.perf_counter() - begin
    while disturbed.waiting():
        disturbed.run()
    for file in files:
        calm.drop(file)
        calm.run()
    print(f"{killed} kills, {len(files)} files, {seconds:.1f} s")
    accounted(Lakehouse.open(disturbed.lake))
    found, expected = tables(disturbed.lake), tables(calm.lake)
    assert found.keys() == expected.keys()
    for name in expected:
        assert found[name] == expected[name], name
    assert contents(disturbed.folder) == contents(calm.folder)
    assert found["market.trades"]


@pytest.mark.soak
def test_a_killed_run_is_completed_by_the_next(lander, csv_of, line_of, accounted):
    kill_again_and_again(lander, 20, 2024, csv_of, line_of, accounted)


@pytest.mark.soak
@pytest.mark.parametrize("seed", range(3))
def test_kills_without_end(lander, csv_of, line_of, accounted, seed):
    kill_again_and_again(lander, int(os.environ.get("HFTHOT_SOAK_KILLS", "150")), seed, csv_of, line_of, accounted)
