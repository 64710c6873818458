"""How long it takes to begin: importing the definitions, the command line's first answer, the demonstration.

    python benchmarks/bench_startup.py

Every figure is the wall time of fresh processes.  The import is measured inside its process, without the start
of Python itself; the demonstration writes a lake and a Dagster instance of its own in a temporary folder.
"""

from __future__ import annotations

import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from pathlib import Path

from rich.console import Console
from rich.table import Table

REPOSITORY = Path(__file__).resolve().parent.parent
REPEATS = 5
#: Limits of the project in seconds; None where there is none.
IMPORT_SECONDS = 2.5
DEMO_SECONDS = 90.0

_IMPORT = """
import time
started = time.perf_counter()
import hfthot_platform.definitions
print(time.perf_counter() - started)
"""
_HFTHOT = (sys.executable, "-c", "from hfthot_platform.interfaces.cli import main; main()")


def run(command: Sequence[str], environment: Mapping[str, str]) -> str:
    """Run a command in the repository and return what it printed; a failure ends the benchmark with its output."""
    done = subprocess.run(
        command, cwd=REPOSITORY, env=dict(environment), capture_output=True, text=True, check=False, timeout=900
    )
    if done.returncode:
        sys.exit(f"{' '.join(command)} ended with {done.returncode}\n{done.stdout}\n{done.stderr}")
    return done.stdout


def wall(command: Sequence[str], environment: Mapping[str, str]) -> float:
    """Return the wall time of a command in seconds."""
    started = time.perf_counter()
    run(command, environment)
    return time.perf_counter() - started


def environment_in(folder: Path) -> dict[str, str]:
    """Return the environment with every place of the platform inside a folder."""
    home = folder / "home"
    home.mkdir()
    (folder / "empty.toml").touch()
    shutil.copy(REPOSITORY / "dagster_home" / "dagster.yaml", home)
    inherited = {name: value for name, value in os.environ.items() if not name.startswith(("HFTHOT_", "DAGSTER_"))}
    return inherited | {
        "DAGSTER_HOME": str(home),
        "HFTHOT_CONFIG": str(folder / "empty.toml"),
        "HFTHOT_LAKE_ROOT": str(folder / "lake"),
        "HFTHOT_LANDING": str(folder / "landing"),
        "HFTHOT_SCRATCH": str(folder / "data" / "scratch"),
    }


def main() -> None:
    """Print the table."""
    table = Table(title=f"Start-up, wall time; median of {REPEATS} fresh processes, the demonstration once each")
    for title in ("what", "seconds", "lowest", "limit", ""):
        table.add_column(title, justify="left" if title in {"what", ""} else "right")

    def add(what: str, times: Sequence[float], limit: float | None = None) -> None:
        seconds = statistics.median(times)
        verdict = "" if limit is None else "within" if seconds <= limit else "OVER"
        lowest = f"{min(times):.2f}" if len(times) > 1 else ""
        table.add_row(what, f"{seconds:.2f}", lowest, "" if limit is None else f"{limit:g}", verdict)

    with tempfile.TemporaryDirectory(prefix="hfthot-bench-") as folder:
        environment = environment_in(Path(folder))
        python = [sys.executable, "-c"]
        run([*python, _IMPORT], environment)  # writes the bytecode, as an installed project has it
        bare = [wall([*python, "pass"], environment) for _ in range(REPEATS)]
        imports = [float(run([*python, _IMPORT], environment)) for _ in range(REPEATS)]
        helps = [wall([*_HFTHOT, "--help"], environment) for _ in range(REPEATS)]
        add("python, doing nothing", bare)
        add("import hfthot_platform.definitions", imports, IMPORT_SECONDS)
        add("hfthot --help", helps)
        add("hfthot demo, into an empty lake", [wall([*_HFTHOT, "demo"], environment)], DEMO_SECONDS)
        add("hfthot demo, again into the same lake", [wall([*_HFTHOT, "demo"], environment)], DEMO_SECONDS)
    Console().print(table)


if __name__ == "__main__":
    main()
