"""Make two hosts of this machine, run the tests of this folder on the first, and leave nothing behind.

    python -m tests.scale [ARGUMENTS OF PYTEST, such as tests/scale/test_kills.py]

Needs root for the network namespaces, PostgreSQL's server (make system) and the extra `ray` (make setup-ray).  Whatever
becomes of the tests, every process of the two namespaces is ended; namespaces and temporary files are deleted.
"""

from __future__ import annotations

import contextlib
import importlib.util
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

from tests import postgres
from tests.conftest import REPOSITORY
from tests.scale.hosts import ADDRESSES, VARIABLE, processes_of


def missing() -> Iterator[str]:
    """Tell what is needed and not here."""
    if os.geteuid() != 0:
        yield "network namespaces need root"
    if postgres.binaries() is None:
        yield "PostgreSQL's server is not installed (make system)"
    for package in ("ray", "dagster_ray", "dagster_postgres"):
        if importlib.util.find_spec(package) is None:
            yield f"the package {package} is not installed (make setup-ray)"


def ip(*words: str) -> None:
    """Run `ip`, of Debian's iproute2."""
    subprocess.run(["ip", *words], check=True)


@contextlib.contextmanager
def two_hosts() -> Iterator[tuple[str, str]]:
    """Make two namespaces with a cable between them; yield their names."""
    names = tuple(f"hfthot{os.getpid()}{letter}" for letter in "ab")
    ends = tuple(f"hft{os.getpid()}{letter}" for letter in "ab")
    try:
        for name in names:
            ip("netns", "add", name)
        ip("link", "add", ends[0], "netns", names[0], "type", "veth", "peer", "name", ends[1], "netns", names[1])
        for name, end, address in zip(names, ends, ADDRESSES, strict=True):
            ip("-n", name, "addr", "add", f"{address}/24", "dev", end)
            ip("-n", name, "link", "set", "lo", "up")
            ip("-n", name, "link", "set", end, "up")
        yield names[0], names[1]
    finally:
        for name in names:
            _end(name)
            subprocess.run(["ip", "netns", "del", name], check=False, capture_output=True)


def _end(name: str) -> None:
    """Kill every process of a namespace: some start others while they are looked for."""
    for _ in range(50):
        numbers = processes_of(name)
        if not numbers:
            return
        for number in numbers:
            with contextlib.suppress(ProcessLookupError):
                os.kill(number, signal.SIGKILL)
        time.sleep(0.1)


def main() -> int:
    """Return the exit code of pytest, or 2 where something is missing."""
    lacking = list(missing())
    if lacking:
        print("make scale cannot run here:", *lacking, sep="\n  ", file=sys.stderr)
        return 2
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    # Below it is what the tests leave when they are killed; PostgreSQL's user passes through.
    with tempfile.TemporaryDirectory(prefix="s-", ignore_cleanup_errors=True) as folder, two_hosts() as (first, second):
        Path(folder).chmod(0o711)
        tests = [sys.executable, "-m", "pytest", "-m", "scale", *(sys.argv[1:] or ["tests/scale"])]
        environment = os.environ | {VARIABLE: f"{first} {second}", "TMPDIR": folder}
        command = ["ip", "netns", "exec", first, *tests]
        return subprocess.run(command, check=False, cwd=REPOSITORY, env=environment).returncode


if __name__ == "__main__":
    sys.exit(main())
