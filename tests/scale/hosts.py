"""What runs on the two hosts: PostgreSQL, the object store, Ray's head and Dagster's daemon on the first, work on both.

What belongs here: starting each part, killing it, and asking Dagster what became of a run.  What does not: what is run.
"""

from __future__ import annotations

import base64
import contextlib
import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
import uuid
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final, Self

import yaml

from tests import postgres
from tests.conftest import REPOSITORY
from tests.object_store import ObjectStoreServer

__all__ = ["ADDRESSES", "VARIABLE", "Hosts", "processes_of", "wait_until"]

#: Of the first and the second host.
ADDRESSES: Final = ("10.77.0.1", "10.77.0.2")
#: Names the namespaces to the tests.
VARIABLE: Final = "HFTHOT_TEST_HOSTS"
_BIN: Final = Path(sys.executable).parent
_DASHBOARD: Final = f"http://{ADDRESSES[0]}:8265"
#: Runs are placed where this is: on the second host.
_RUNS: Final = "runs"


def processes_of(namespace: str) -> list[int]:
    """Return the numbers of the processes of a host."""
    found = subprocess.run(["ip", "netns", "pids", namespace], check=False, capture_output=True, text=True)
    return [int(number) for number in found.stdout.split()]


def wait_until(true: Callable[[], Any], seconds: float, what: str) -> Any:
    """Return what `true` says as soon as it is something; fail after some seconds."""
    deadline = time.monotonic() + seconds
    while not (found := true()):
        assert time.monotonic() < deadline, f"{what}: not within {seconds:.0f} s"
        time.sleep(0.2)
    return found


class Hosts:
    """The cluster of a test module; a context manager.

    Args:
        second: namespace of the second host; the tests themselves are in that of the first.
        store: reachable from both.
        settings: of the platform, as environment variables, for every process of both.
        processors: of the first and the second host, for Ray.
    """

    def __init__(
        self, second: str, store: ObjectStoreServer, settings: dict[str, str], *, processors: tuple[int, int] = (1, 2)
    ) -> None:
        self._processors = processors
        self.second = second
        self.store = store
        # Sockets lie below: their paths may have 107 characters.
        self._folder = Path(tempfile.mkdtemp(prefix="c-"))
        self.home = self._folder / "dagster"
        self.home.mkdir()
        self.postgres = postgres.Server(durable=True, address=ADDRESSES[0])
        database = self.postgres.database().rpartition("/")[2]
        self.environment = {
            **{name: value for name, value in os.environ.items() if not name.startswith(("HFTHOT_", "PYTEST"))},
            **settings,
            **store.options,
            "HFTHOT_HOSTS": "2",
            "HFTHOT_ORCHESTRATION": "ray",
            "HFTHOT_LANDING": "s3://lake/landing",
            "HFTHOT_ACCOUNTS_URL": self.postgres.database(),
            "HFTHOT_KEY_SOURCE": "environment",
            "HFTHOT_KEYS": f"k1:{base64.b64encode(bytes(32)).decode()}",
            "PATH": f"{_BIN}:{os.environ['PATH']}",
            "PYTHONPATH": str(REPOSITORY),
            "DAGSTER_HOME": str(self.home),
            "DAGSTER_POSTGRES_HOST": ADDRESSES[0],
            "DAGSTER_POSTGRES_PORT": str(self.postgres.port),
            "DAGSTER_POSTGRES_USER": "hfthot",
            "DAGSTER_POSTGRES_PASSWORD": "unused",
            "DAGSTER_POSTGRES_DB": database,
            "DAGSTER_LOGS_BUCKET": "lake",
            "DAGSTER_RAY_ADDRESS": _DASHBOARD,
            "AWS_DEFAULT_REGION": "us-east-1",
            "RAY_AUTH_MODE": "token",
            "RAY_AUTH_TOKEN": "0" * 64,
            "RAY_USAGE_STATS_ENABLED": "0",
            "RAY_raylet_start_wait_time_s": "120",
            "PYTHONWARNINGS": "ignore",
        }
        self._write_instance()
        self._daemon: subprocess.Popen[bytes] | None = None
        self._started: list[subprocess.Popen[bytes]] = []

    def _write_instance(self) -> None:
        from resources.instance import instance_config

        config = instance_config("ray")
        config["run_launcher"]["config"]["ray"]["resources"] = {_RUNS: 1}
        (self.home / "dagster.yaml").write_text(yaml.safe_dump(config))
        location = {"module_name": "tests.scale.location", "attribute": "defs", "working_directory": str(REPOSITORY)}
        self._workspace = self.home / "workspace.yaml"
        self._workspace.write_text(yaml.safe_dump({"load_from": [{"python_module": location}]}))

    def __enter__(self) -> Self:
        try:
            self._start_head()
            self.start_second()
            self.start_daemon()
        except BaseException:
            self.close()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """End everything on both hosts."""
        self.kill_second()
        for process in self._started:
            self._kill(process)
        self.postgres.close()
        shutil.rmtree(self._folder, ignore_errors=True)

    # -- parts -----------------------------------------------------------------------------------------------------

    def _start(self, name: str, *command: str) -> subprocess.Popen[bytes]:
        with (self._folder / f"{name}.log").open("ab") as log:
            process = subprocess.Popen(
                command, env=self.environment, cwd=REPOSITORY, stdout=log, stderr=log, start_new_session=True
            )
        self._started.append(process)
        return process

    def log(self, name: str) -> str:
        """Return the end of what a part printed."""
        return (self._folder / f"{name}.log").read_text(errors="replace")[-4000:]

    @staticmethod
    def _kill(process: subprocess.Popen[bytes]) -> None:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()

    def _start_head(self) -> None:
        host, processors = ADDRESSES[0], self._processors[0]
        self._start(
            "head",
            *(str(_BIN / "ray"), "start", "--head", "--block", f"--node-ip-address={host}", "--port=6379"),
            *(
                f"--dashboard-host={host}",
                "--dashboard-port=8265",
                f"--num-cpus={processors}",
                "--object-store-memory=200000000",
            ),
            f"--temp-dir={self._folder}/ray",
        )
        wait_until(lambda: self._nodes() == 1, 180, "Ray's head answers")

    def start_second(self) -> None:
        """Start the second host: a node of Ray that takes runs."""
        before, processors = self._nodes(), self._processors[1]
        self._start(
            "second",
            *("ip", "netns", "exec", self.second, str(_BIN / "ray"), "start", "--block"),
            *(
                f"--address={ADDRESSES[0]}:6379",
                f"--node-ip-address={ADDRESSES[1]}",
                f"--num-cpus={processors}",
            ),
            *("--object-store-memory=200000000", f'--resources={{"{_RUNS}": 1}}'),
        )
        wait_until(lambda: self._nodes() > before or self.second_is_alive(), 180, "the second host's node of Ray")

    def kill_second(self) -> int:
        """Kill every process of the second host; return how many there were."""
        killed = 0
        for _ in range(20):
            numbers = processes_of(self.second)
            if not numbers:
                break
            for number in numbers:
                with contextlib.suppress(ProcessLookupError):
                    os.kill(number, signal.SIGKILL)
                    killed += 1
            time.sleep(0.05)
        return killed

    def start_daemon(self) -> None:
        """Start Dagster's daemon, which launches runs that wait and resumes those whose host died."""
        self._daemon = self._start("daemon", str(_BIN / "dagster-daemon"), "run", "-w", str(self._workspace))

    def kill_daemon(self) -> None:
        """Kill it with what it started."""
        assert self._daemon is not None
        self._kill(self._daemon)

    def run_processes(self, run_id: str) -> list[int]:
        """Return the processes of a run on the second host."""
        found = []
        for number in processes_of(self.second):
            with contextlib.suppress(OSError):
                command = Path(f"/proc/{number}/cmdline").read_bytes()
                if run_id.encode() in command and b"execute_run" in command:
                    found.append(number)
        return found

    # -- Ray and Dagster -------------------------------------------------------------------------------------------

    def _alive(self) -> list[str]:
        """Return the addresses of Ray's living nodes."""
        import urllib.error
        import urllib.request

        token = self.environment["RAY_AUTH_TOKEN"]
        request = urllib.request.Request(
            f"{_DASHBOARD}/api/v0/nodes?detail=0", headers={"Authorization": f"Bearer {token}"}
        )
        try:
            with urllib.request.urlopen(request, timeout=10) as answer:
                rows = json.load(answer)["data"]["result"]["result"]
        except (urllib.error.URLError, OSError, KeyError):
            return []
        return [row["node_ip"] for row in rows if row["state"] == "ALIVE"]

    def _nodes(self) -> int:
        return len(self._alive())

    def second_is_alive(self) -> bool:
        """Return whether Ray counts the second host's node among the living: for some seconds after it died, too."""
        return ADDRESSES[1] in self._alive()

    def launch(self, job: str, days: tuple[str, str] | None, config: dict[str, Any] | None = None) -> str:
        """Put a run into Dagster's queue, for the daemon to launch; return its id."""
        run_id = str(uuid.uuid4())
        tags = {}
        if days is not None:
            tags = {"dagster/asset_partition_range_start": days[0], "dagster/asset_partition_range_end": days[1]}
        command = [str(_BIN / "dagster"), "job", "launch", "-w", str(self._workspace), "-j", job, "--run-id", run_id]
        command += ["--tags", json.dumps(tags), "--config-json", json.dumps(config or {})]
        done = subprocess.run(
            command, env=self.environment, cwd=REPOSITORY, check=False, capture_output=True, text=True, timeout=300
        )
        assert done.returncode == 0, done.stderr[-4000:]
        return run_id

    def status(self, run_id: str) -> str:
        """Return the status of a run, as Dagster's storage has it."""
        import psycopg

        url = self.postgres.url(self.environment["DAGSTER_POSTGRES_DB"]).replace("+psycopg", "")
        with psycopg.connect(url) as connection:
            row = connection.execute("SELECT status FROM runs WHERE run_id = %s", [run_id]).fetchone()
        return str(row[0]) if row else ""

    def wait(self, run_id: str, seconds: float = 600) -> str:
        """Wait for the end of a run; return its status."""
        ended = {"SUCCESS", "FAILURE", "CANCELED"}
        return str(wait_until(lambda: (self.status(run_id) in ended) and self.status(run_id), seconds, "the run's end"))
